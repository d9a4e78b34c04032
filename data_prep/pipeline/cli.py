"""The command line that all dataset modules share."""

import dataclasses
import functools
import os
import pathlib
from typing import Any

from absl import flags

from cola_msa.config.schema import (
    FRONTEND_KINDS,
    LOG_MEL,
    SOURCES,
    WAVEFORM,
    FrontendConfig,
    waveform_frontend,
)
from cola_msa.remote import addresses
from cola_msa.remote.engines import Engine
from cola_msa.system import console
from cola_msa.system.errors import FileError, UsageError, hide_logins, of_flags
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path
from data_prep.datasets import multitrack
from data_prep.datasets.base import (
    Dataset,
    DatasetError,
    IndexOptions,
    check_shares,
    check_stem_splits,
)
from data_prep.pipeline.separate import check_stems_cache
from data_prep.remote import places

# Flags count as those of the command that is run, so that its --help shows them.
flags.disclaim_key_flags()


def define_flags(dataset: Dataset, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of one command.

    Args:
        dataset: The dataset module; it says which flags there are.
        values: Where to define them.
    """
    add: dict[str, Any] = {"flag_values": values}
    define_path("dataset_dir", None, f"Root: {dataset.layout}", required=True, **add)
    define_path(
        "output_dir", None, "Where the prepared data goes.", required=True, **add
    )
    flags.DEFINE_list(
        "records",
        [LOG_MEL],
        f"What records hold: {LOG_MEL}, in the folder itself, or {WAVEFORM} (22,050 "
        f"Hz, 16 bits, mixtures alone), in {WAVEFORM} within it; both as a,b.",
        **add,
    )
    flags.DEFINE_enum(
        "level", "rms", ["rms", "l2"], "Level rule; l2 is the authors'.", **add
    )
    flags.DEFINE_integer(
        "clips_per_shard",
        0,
        "Most clips in a shard; 0: about eight shards a split, of 8 to "
        f"{dataset.max_clips_per_shard} clips.",
        lower_bound=0,
        **add,
    )
    define_common_flags(add)
    flags.DEFINE_enum(
        "runner", "local", ["local", "beam"], "What builds the shards.", **add
    )
    flags.DEFINE_string(
        "beam_args",
        "",
        "Apache Beam's own flags in one string, e.g. '--runner=FlinkRunner ...'; "
        "without --runner among them it works on this machine, in --num_workers "
        "processes.",
        **add,
    )
    define_seed(0, "Seed of order, own splits, random masks.", **add)
    if dataset.stems == "optional":
        define_path(
            "stems_dir",
            None,
            "Folder of stems: <stems_dir>/<clip's path without suffix>/<source>.*",
            **add,
        )
        define_separator_flags(add)
        define_path(
            "stems_cache",
            None,
            "Folder where separated stems are kept and found.",
            **add,
        )
    _define_option_flags(dataset, add)


def define_common_flags(add: dict[str, Any]) -> None:
    """Defines the flags of all commands that work on every clip; `add` says where."""
    text = "Processes; 0 for one a core."
    flags.DEFINE_integer("num_workers", 1, text, lower_bound=0, **add)
    text = "Share of clips that may fail before the command ends with an error."
    define_float("max_failures", 0.01, text, 0.0, 1.0, **add)


def define_separator_flags(add: dict[str, Any], required: bool = False) -> None:
    """Defines the flags of commands that may, or must, separate."""
    text = "umxhq, umxl, random (untrained Open-Unmix), or a folder of weights."
    define_path("separator", None, text, required=required, **add)
    text = "Wiener iterations of the separator."
    flags.DEFINE_integer("niter", 1, text, lower_bound=0, **add)
    text = "Type of the separator's products."
    flags.DEFINE_enum(
        "separator_dtype", "float32", ["float32", "bfloat16"], text, **add
    )


def _define_option_flags(dataset: Dataset, add: dict[str, Any]) -> None:
    if "sources" in dataset.options:
        flags.DEFINE_list("sources", list(SOURCES), "Sources, in order.", **add)
    if "stem_names" in dataset.options:
        flags.DEFINE_list(
            "stem_names",
            [],
            "source=file pairs, where the file (without suffix) is not named like the "
            "source; mixture=file too.",
            **add,
        )
    if "stem_splits" in dataset.options:
        flags.DEFINE_list(
            "stem_splits", ["train", "validation"], "Splits that get stems.", **add
        )
    if "split_by" in dataset.options:
        flags.DEFINE_enum(
            "split_by", "folder", ["folder", "clip"], "What is never divided.", **add
        )
    if "validation_share" in dataset.options:
        text = "Share of groups for validation."
        define_float("validation_share", 0.15, text, 0.0, 1.0, **add)
        text = "Share of groups for testing."
        define_float("test_share", dataset.test_share, text, 0.0, 1.0, **add)
    if "split_dir" in dataset.options:
        define_path(
            "split_dir",
            None,
            "Folder of the published split files; default: <dataset_dir>.",
            **add,
        )


def parse_options(dataset: Dataset, values: Any) -> IndexOptions:
    """Turns flags into IndexOptions.

    Args:
        dataset: The dataset module.
        values: Parsed flags.

    Returns:
        IndexOptions; what the dataset does not use keeps its default.

    Raises:
        UsageError: If a flag's value makes no sense.
    """
    given: dict[str, Any] = {"seed": values.seed}
    for name in dataset.options:
        value = getattr(values, name)
        given[name] = tuple(value) if isinstance(value, list) else value
    if "stem_names" in given:
        pairs = [tuple(pair.split("=", 1)) for pair in given["stem_names"]]
        if any(len(pair) != 2 or not all(pair) for pair in pairs):
            raise UsageError("--stem_names must be source=file,source=file")
        if len({source for source, _ in pairs}) != len(pairs):
            raise UsageError("--stem_names: name each source once")
        given["stem_names"] = tuple(sorted(pairs))
    sources = given.get("sources", ())
    if "sources" in given and (not all(sources) or len(set(sources)) != len(sources)):
        raise UsageError(f"--sources={','.join(sources)} must be distinct names")
    if "mixture" in sources:
        raise UsageError("--sources: mixture is not a source")
    if given.get("split_dir"):
        given["split_dir"] = places.relative(given["split_dir"], values.dataset_dir)
    if getattr(values, "stems_dir", None):
        given["stems_dir"] = places.relative(values.stems_dir, values.dataset_dir)
    check_stem_splits(given.get("stem_splits", ()))
    with of_flags():
        options = IndexOptions(**given)
    check_shares(options.validation_share, options.test_share)
    if "stem_names" in given:
        multitrack.stem_files(options)
    return options


def parse_config(dataset: Dataset, values: Any) -> Any:
    """Turns flags into the one PrepConfig.

    Args:
        dataset: The dataset module.
        values: Parsed flags.

    Returns:
        shards.PrepConfig.

    Raises:
        UsageError: If flags contradict each other.
        DatasetError: If `--stems_dir` is no folder.
        SeparatorError: If `--separator` is neither a name nor a folder of weights.
    """
    # Here, not above: these import TensorFlow, and --help need not wait for it.
    from data_prep.pipeline import plan
    from data_prep.stems import separator as separator_lib

    options = parse_options(dataset, values)
    stems_dir = getattr(values, "stems_dir", None)
    separator = getattr(values, "separator", None)
    if stems_dir and separator:
        raise UsageError("give --stems_dir or --separator, not both")
    if stems_dir and addresses.is_address(values.dataset_dir):
        if not addresses.is_address(stems_dir):
            raise UsageError(
                f"--stems_dir={stems_dir} is a folder, but "
                f"--dataset_dir={hide_logins(values.dataset_dir)} an address: copy it "
                "there"
            )
    if stems_dir and not _is_folder(stems_dir):
        raise DatasetError(f"--stems_dir={hide_logins(stems_dir)} is not a folder")
    if separator and addresses.is_address(separator):
        raise UsageError(
            f"--separator={separator}: a folder of weights must lie on a local disk, "
            "the same on every machine that works: copy it there"
        )
    sources: tuple[str, ...] = ()
    stems = "none"
    if dataset.stems == "folder":
        sources, stems = options.sources, "folder"
    elif stems_dir:
        sources, stems = SOURCES, "stems_dir"
    elif separator:
        sources = separator_lib.separator_sources(separator, pathlib.Path(separator))
        stems = "separator"
        if separator not in separator_lib.NAMES:
            separator = places.relative(separator, values.dataset_dir)
    return plan.PrepConfig(
        dataset=dataset.name,
        frontend=FrontendConfig(level=values.level),
        sources=sources,
        stems=stems,
        stems_dir=options.stems_dir,
        separator=separator,
        niter=getattr(values, "niter", 1),
        separator_dtype=getattr(values, "separator_dtype", "float32"),
        clips_per_shard=values.clips_per_shard,
        max_clips_per_shard=dataset.max_clips_per_shard,
        options=options,
    )


def parse_records(dataset: Dataset, values: Any) -> list[tuple[str, Any]]:
    """What is to be prepared, one after the other.

    Args:
        dataset: The dataset module.
        values: Parsed flags.

    Returns:
        Folder or address, and shards.PrepConfig, of every kind of records.

    Raises:
        UsageError: If `--records` names none, an unknown one, or one twice; else as
            `parse_config`.
    """
    from cola_msa.records.kinds import kind_folder

    names = _parse_kinds(values)
    config = parse_config(dataset, values)
    options = config.options
    if (options.stems_dir or "").startswith(".."):  # stems beside the clips hide none
        options = dataclasses.replace(options, stems_dir=None)
    # Stems are log-mels' alone; the clips, their order and their shards are the same.
    waveform = dataclasses.replace(
        config,
        options=options,
        frontend=waveform_frontend(),
        sources=(),
        stems="none",
        stems_dir=None,
        separator=None,
        niter=1,
        separator_dtype="float32",
    )
    configs = {LOG_MEL: config, WAVEFORM: waveform}
    return [(kind_folder(values.output_dir, n), configs[n]) for n in sorted(names)]


def _parse_kinds(values: Any) -> list[str]:
    """The kinds of `--records`, checked, with flags that none of them would heed."""
    names: list[str] = values.records
    if not names or len(set(names)) < len(names) or not {*names} <= {*FRONTEND_KINDS}:
        raise UsageError(
            f"--records={','.join(names)} must be {' or '.join(FRONTEND_KINDS)}, or "
            "both with a comma between them"
        )
    if LOG_MEL not in names:
        _refuse_log_mel_flags(values)
    return names


# What says something of log-mels or of stems, and nothing of a mixture's samples.
_LOG_MEL_FLAGS = (
    "level",
    "separator",
    "niter",
    "separator_dtype",
    "stems_cache",
    "stem_splits",
)


def _refuse_log_mel_flags(values: flags.FlagValues) -> None:
    """Refuses flags that waveforms alone would not heed, by UsageError."""
    given = [n for n in _LOG_MEL_FLAGS if n in values and values[n].present]
    stems_dir = getattr(values, "stems_dir", None)
    # Stems among the clips are told from mixtures by it.
    if stems_dir and _lies_outside(stems_dir, values.dataset_dir):
        given.append("stems_dir")
    if given:
        listed = ", ".join(f"--{name}" for name in given)
        raise UsageError(
            f"{listed} {'is' if len(given) == 1 else 'are'} for log-mels and their "
            f"stems, and --records={WAVEFORM} holds the samples of mixtures alone: "
            f"leave {'it' if len(given) == 1 else 'them'} out, or add {LOG_MEL} to "
            "--records"
        )


def _lies_outside(folder: str, dataset_dir: str) -> bool:
    return places.relative(folder, dataset_dir).startswith("..")


def _is_folder(path: str) -> bool:
    if addresses.is_address(path):
        return addresses.open_folder(path).is_there()
    return os.path.isdir(path)


def stems_cache_of(values: Any) -> pathlib.Path | None:
    """The folder that `--stems_cache` names, or None.

    Raises:
        UsageError: If there is no separator whose stems it could hold.
    """
    if not getattr(values, "stems_cache", None):
        return None
    if not values.separator:
        raise UsageError("--stems_cache keeps what a --separator makes: name one")
    if addresses.is_address(values.stems_cache):
        raise UsageError(
            f"--stems_cache={values.stems_cache}: stems are kept in a folder, not at "
            "an address; name a local one"
        )
    return pathlib.Path(values.stems_cache)


def run(dataset: Dataset) -> None:
    """Runs one dataset's command; ends the process."""
    console.start(
        functools.partial(main, dataset),
        functools.partial(define_flags, dataset),
        keeps_memory=False,
    )


def main(dataset: Dataset, options: flags.FlagValues) -> None:
    """Prepares what the parsed flags ask for."""
    from data_prep.pipeline import jobs, runner

    failed = []
    _parse_kinds(options)  # before what would speak of the flags that it refuses
    try:
        engine, stems_cache = _engine(options), stems_cache_of(options)
        if stems_cache is not None:
            check_stems_cache(dataset, options.dataset_dir, options.stems_cache)
        for output_dir, config in parse_records(dataset, options):
            if config.frontend.is_waveform:
                console.tell(f"waveforms, mixtures only: {hide_logins(output_dir)}")
            elif dataset.stems == "optional" and not config.sources:
                console.tell("no --stems_dir and no --separator: mixtures only")
            content = _prepare(
                dataset, config, options, output_dir, engine, stems_cache
            )
            _print_summary(content)
            if runner.failed_share(content) > options.max_failures:
                failed.append((output_dir, content))
    except (FileError, OSError) as error:
        raise FileError(f"{error}; finished shards are kept") from error
    if failed:
        counts = " and ".join(
            f"{len(content['failures'])} of {content['num_clips_planned']} clips"
            for _, content in failed
        )
        named = " and ".join(
            os.path.join(hide_logins(output_dir), "manifest.json")
            for output_dir, _ in failed
        )
        raise jobs.PreparationError(
            f"{counts} failed, more than --max_failures={options.max_failures}; all "
            f"else is prepared, and {named} name{'s' * (len(failed) == 1)} each with "
            "its reason"
        )


def _prepare(
    dataset: Dataset,
    config: Any,
    options: Any,
    output_dir: str,
    engine: Any,
    stems_cache: pathlib.Path | None,
) -> dict[str, Any]:
    """Prepares records of one kind; returns their manifest."""
    from data_prep.pipeline import runner

    with places.open_places(
        options.dataset_dir,
        output_dir,
        dataset.metadata,
        getattr(options, "split_dir", None),
    ) as opened:
        return runner.prepare(
            dataset,
            config,
            opened.dataset_dir,
            opened.output_dir,
            options.num_workers or len(os.sched_getaffinity(0)),
            stems_cache=stems_cache if config.separator else None,
            engine=engine,
            places=opened,
        )


def _engine(values: Any) -> Any:
    """What builds the shards; None for this machine's processes."""
    from data_prep.pipeline import beam

    if values.runner == "local":
        if values.beam_args:
            raise UsageError("--beam_args is for --runner=beam")
        return None
    Engine(values.beam_args)  # wrong flags are told before anything is done
    return functools.partial(beam.run, beam_args=values.beam_args)


def _print_summary(content: dict[str, Any]) -> None:
    for split, summary in content["splits"].items():
        shares = ", ".join(
            f"{source} {share:.0%}"
            for source, share in summary["active_share"].items()
            if share is not None
        )
        console.tell(
            f"{split}: {summary['num_clips']} clips, {summary['num_segments']} segments"
            f" and {summary['num_tails']} tails, {summary['num_windows']} windows, "
            f"{summary['hours']:.2f} h" + (f"; active: {shares}" if shares else "")
        )
    _print_separator(content["separator"])
    for failure in content["failures"][:5]:
        console.tell(f"failed: {failure['path']}: {failure['reason']}")
    if len(content["failures"]) > 5:
        console.tell(f"failed: {len(content['failures']) - 5} more, see manifest.json")


def _print_separator(separator: dict[str, Any] | None) -> None:
    """Masks that are nearly constant give stems that are the mixture: say so."""
    if not separator or not separator.get("stem_correlation"):
        return
    correlations = ", ".join(
        f"{source} {'none' if value is None else f'{value:.3f}'}"
        for source, value in separator["stem_correlation"].items()
    )
    seed = f" (seed {separator['seed']})" if separator["name"] == "random" else ""
    console.tell(
        f"separator {separator['name']}{seed}: correlation of its stems with the "
        f"mixture: {correlations}"
    )
