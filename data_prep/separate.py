"""Separates a dataset's clips once, for every later preparation.

    python -m data_prep.separate --dataset=mtat --dataset_dir=raw/mtat \
        --separator=umxhq --stems_cache=stems

Then `python -m data_prep.mtat ... --separator=umxhq --stems_cache=stems` decodes the
stems instead of separating; its shards are the same byte for byte. Exit codes as of
the dataset commands.
"""

import importlib
import json
import os
import pathlib
import sys
from typing import Any

from absl import app, flags

from cola_msa import audio
from cola_msa.config import FrontendConfig
from cola_msa.record_index import sync_folder
from data_prep.clips import Clip, Dataset, DatasetError, Failure, IndexOptions, text

# Those that have --separator.
_DATASETS = ("mtat", "folder")
_BATCH_CLIPS = 8

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("dataset", None, _DATASETS, "The dataset module.", **add)
    flags.DEFINE_string("dataset_dir", None, "The dataset's root.", **add)
    flags.DEFINE_string("stems_cache", None, "Where stems are kept.", **add)
    flags.DEFINE_string(
        "separator",
        None,
        "umxhq, umxl, random (untrained Open-Unmix), or a folder of weights.",
        **add,
    )
    flags.DEFINE_integer("niter", 1, "Wiener iterations.", lower_bound=0, **add)
    flags.DEFINE_enum(
        "separator_dtype",
        "float32",
        ["float32", "bfloat16"],
        "Type of the separator's products.",
        **add,
    )
    flags.DEFINE_list(
        "stem_splits", ["train", "validation"], "Splits whose clips get stems.", **add
    )
    flags.DEFINE_integer(
        "num_workers", 1, "Processes; 0 for one a core.", lower_bound=0, **add
    )
    flags.DEFINE_integer("seed", 0, "Seed of splits and random masks.", **add)
    flags.DEFINE_float(
        "max_failures",
        0.01,
        "Share of clips that may fail before the command ends with an error.",
        lower_bound=0.0,
        upper_bound=1.0,
        **add,
    )
    required = ["dataset", "dataset_dir", "stems_cache", "separator"]
    flags.mark_flags_as_required(required, flag_values=values)


def _wanted(dataset: Dataset, values: Any) -> list[Clip]:
    """The clips of the splits that get stems, each path once."""
    splits = tuple(values.stem_splits)
    options = IndexOptions(seed=values.seed, stem_splits=splits)
    found = dataset.index(pathlib.Path(values.dataset_dir), options)
    clips = {clip.path: clip for clip in found.clips if clip.split in splits}
    if not clips:
        raise DatasetError(f"--stem_splits={','.join(splits)}: no clip is in these")
    return list(clips.values())


def separate_clips(job: Any, clips: Any, separator: Any, on_clip: Any) -> None:
    """Unit of work: makes the stems of some clips that the cache lacks.

    Failures go to a file of their own, so that they survive a killed run.

    Args:
        job: runner.Job; its output_dir is the cache.
        clips: Clips.
        separator: A separator with a cache.
        on_clip: Called after every clip with whether it failed, and its seconds.
    """
    frontend = job.config.frontend
    for clip in clips:
        path = job.dataset_dir / clip.path
        try:
            seconds = 0.0
            if not separator.cache.has(path):
                mixture, stems = separator.separate_file(
                    path, clip.expected_seconds, frontend
                )
                seconds = mixture.num_samples / frontend.sample_rate_hz
                for waveform in (mixture, *stems.values()):
                    waveform.close()
        except audio.AudioError as error:
            if not job.dataset_dir.is_dir():
                raise FileNotFoundError(f"{job.dataset_dir} has vanished") from error
            failure = Failure(clip.clip_id, text(clip.path), clip.split, str(error))
            with open(_failures_path(job), "a", encoding="utf-8") as file:
                file.write(json.dumps(failure.__dict__) + "\n")
            on_clip(True, 0.0)
            continue
        on_clip(False, seconds)


def _failures_path(job: Any) -> pathlib.Path:
    return job.output_dir / f"failures-{job.config.dataset}.jsonl"


def execute(values: Any) -> int:
    """Separates what the parsed flags ask for; returns the exit code."""
    from data_prep import cli, manifest, runner, separation, shards, stems_cache
    from data_prep.progress import Progress

    def complain(message: str, code: int) -> int:
        print(f"data_prep.separate: {message}", file=sys.stderr)
        return code

    try:
        if not os.path.isdir(values.dataset_dir):
            raise DatasetError(f"--dataset_dir={values.dataset_dir} is not a folder")
        dataset = importlib.import_module(f"data_prep.{values.dataset}").DATASET
        name = values.separator
        sources = separation.separator_sources(name, pathlib.Path(name))
        if name not in separation.NAMES:
            name = cli.relative(name, values.dataset_dir)
        clips = _wanted(dataset, values)
        config = shards.PrepConfig(
            dataset=dataset.name,
            frontend=FrontendConfig(),
            sources=sources,
            stems="separator",
            separator=name,
            niter=values.niter,
            separator_dtype=values.separator_dtype,
            options=IndexOptions(seed=values.seed),
        )
        cache = pathlib.Path(values.stems_cache)
        cache.mkdir(parents=True, exist_ok=True)
        job = runner.Job(config, "", pathlib.Path(values.dataset_dir), cache, cache)
        units = [
            tuple(clips[k : k + _BATCH_CLIPS])
            for k in range(0, len(clips), _BATCH_CLIPS)
        ]
        with runner.lock(cache), Progress(len(clips)) as progress:
            stems_cache.StemCache(cache, {}).remove_unfinished()
            _failures_path(job).write_text("")
            num_workers = values.num_workers or len(os.sched_getaffinity(0))
            runner.run_items(job, units, separate_clips, num_workers, progress)
            sync_folder(cache)
        failures = [
            json.loads(line) for line in _failures_path(job).read_text().splitlines()
        ]
    except (DatasetError, separation.SeparatorError) as error:
        return complain(str(error), 2)
    except (runner.PreparationError, manifest.ResumeError) as error:
        return complain(str(error), 1)
    except OSError as error:
        return complain(f"{error}; finished stems are kept", 1)
    except KeyboardInterrupt:
        return complain("interrupted; run the same command again to go on", 130)
    print(f"{len(clips) - len(failures)} of {len(clips)} clips have stems in {cache}")
    for failure in failures[:5]:
        print(f"failed: {failure['path']}: {failure['reason']}")
    if len(failures) > values.max_failures * len(clips):
        return complain(
            f"{len(failures)} of {len(clips)} clips failed, more than "
            f"--max_failures={values.max_failures}; {_failures_path(job)} names each "
            "with its reason",
            1,
        )
    return 0


def _main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print(f"data_prep.separate: unknown argument {arguments[1]!r}", file=sys.stderr)
        return 2
    return execute(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Workers unpickle the function by the module's own name.
    from data_prep import separate

    app.run(separate._main)
