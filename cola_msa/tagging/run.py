"""What the actions of `cola_msa.tag` do, with their flags parsed."""

import pathlib

from absl import flags

from cola_msa.collection.embed import describe_summary
from cola_msa.collection.file_flags import check_failures, engine_of, job_of
from cola_msa.collection.inputs import list_inputs
from cola_msa.collection.shards.build import opened
from cola_msa.collection.shards.output import Output, is_dataset
from cola_msa.collection.shards.run import (
    Engine,
    absolute,
    describe_dataset,
    make_dataset,
)
from cola_msa.evaluation.probes.held_heads import open_heads
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.hub.embedder import hop_to_frames
from cola_msa.hub.loading import default_model, default_model_of
from cola_msa.runs import directory
from cola_msa.system.console import tell
from cola_msa.system.errors import UsageError, of_flags
from cola_msa.tagging import fit, report, suggest
from cola_msa.tagging.files import (
    Labelled,
    check_tags_output,
    describe_labels,
    draw_labels,
    scores_path,
    tag_embeddings,
    tag_files,
    write_labels,
)
from cola_msa.tagging.shards import (
    TagEmbeddingsJob,
    TagJob,
    embedding_shards,
    heads_of,
)
from cola_msa.tagging.spectra import spectra_of
from cola_msa.tagging.tagger import open_tagging_model


def run_fit(options: flags.FlagValues) -> None:
    """A head of labels of one's own."""
    _need(options, "embeddings")
    if bool(options.labels) == options.labels_from_folders:
        raise UsageError("fit needs either --labels=FILE.csv or --labels_from_folders")
    found = fit.fit(
        options.embeddings,
        options.labels or None,
        options.output,
        labels_from_folders=options.labels_from_folders,
        column=options.column,
        baseline=spectra_of if options.baseline else None,
    )
    tell(*report.describe(found))


def run_suggest(options: flags.FlagValues) -> None:
    """Clips whose labels would help most."""
    _need(options, "embeddings")
    found = suggest.suggest(
        options.embeddings,
        options.labels or None,
        options.head,
        options.num,
        column=options.column,
    )
    suggest.write_suggestions(options.output, found)
    tell(*suggest.describe(found), f"{options.output}: to be filled in")


def _need(options: flags.FlagValues, name: str) -> None:
    if not options[name].value:
        raise UsageError(f"--{name} is needed")


def run_tag(options: flags.FlagValues) -> None:
    """Labels of files, or of a table of embeddings."""
    if (options.input is None) == (options.embeddings is None):
        raise UsageError("name either --input (audio) or --embeddings (a table)")
    is_folder = is_dataset(options.output)
    engine = engine_of(options, is_folder)
    if is_folder:
        _tag_shards(options, engine)
        return
    output = pathlib.Path(options.output)
    check_tags_output(output)
    if options.plot is not None and options.per != "window":
        raise UsageError("--plot draws labels over time: it needs --per=window")
    if options.plot is not None and pathlib.Path(options.plot).is_file():
        raise UsageError(f"--plot={options.plot} is a file: name a folder")
    if options.embeddings is not None:
        found = tag_embeddings(options.embeddings, _heads(options), options.per)
        write_labels(output, found, options.top)
        _finish(options, found, output)
        return
    inputs = list_inputs(options.input)
    step = directory.parse_step(options.checkpoint_step)
    model = open_tagging_model(_model(options), options.task, options.head, step)
    with of_flags():
        hop_to_frames(options.hop_seconds, model.frontend)
    tell(*inputs.remarks, f"{len(inputs.paths)} files; {model.description}")
    summary, labelled = tag_files(
        inputs.paths,
        output,
        model,
        options.per,
        top=options.top,
        hop_seconds=options.hop_seconds,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        failures=inputs.failures,
    )
    tell(*describe_summary(summary, scores_path(output, options.per), model.dim))
    if labelled is not None:
        _finish(options, labelled, output)
    check_failures(summary, options.max_failures, output)


def _tag_shards(options: flags.FlagValues, engine: Engine | None) -> None:
    """Labels as a folder of shards."""
    if options.plot is not None:
        raise UsageError("--plot draws the labels of a file: name one by --output")
    Output(options.output).check()
    step = directory.parse_step(options.checkpoint_step)
    has_heads = options.embeddings is not None and options.head is not None
    name = None if has_heads else _model(options)
    fields = {
        "model": absolute(name) if name else "",
        "checkpoint_step": step,
        "task": options.task,
        "head": absolute(options.head) if options.head else None,
        "top": options.top,
    }
    size = options.files_per_shard
    if options.embeddings is not None:
        if options.files_per_shard:
            raise UsageError("--files_per_shard is of --input: shards stay as they are")
        job: TagJob = job_of(options, TagEmbeddingsJob, **fields)
        inputs, size = embedding_shards(options.embeddings, options.per), 1
    else:
        job = job_of(options, TagJob, **fields)
        inputs = list_inputs(options.input)
        model = opened(job)
        with of_flags():
            hop_to_frames(options.hop_seconds, model.frontend)
        tell(f"{len(inputs.paths)} files; {model.description}")
    tell(*inputs.remarks)
    made = make_dataset(job, inputs, size, options.retry_failures, engine=engine)
    tell(*describe_dataset(made, job.output))
    check_failures(made, options.max_failures, options.output)


def _finish(options: flags.FlagValues, found: Labelled, output: pathlib.Path) -> None:
    """Says what was found, and draws it where that is asked for."""
    tell(*describe_labels(found), f"{output}: {found.num_rows} rows")
    if options.plot is not None:
        drawn, failed = draw_labels(options.plot, found)
        tell(*(f"not drawn: {path}: {reason}" for path, reason in failed.items()))
        tell(f"{options.plot}: {drawn} pictures")


def _model(options: flags.FlagValues) -> str | None:
    if options.model is not None:
        return options.model
    if options.head is not None:
        heads = open_heads(options.head)[1]
        if heads.are_tuned:
            return None
        if (name := default_model_of(heads.encoder_key)) is not None:
            return name
    path, remark = default_model()
    tell(remark)
    return path


def _heads(options: flags.FlagValues) -> Heads:
    """The heads alone."""
    step = directory.parse_step(options.checkpoint_step)
    name = _model(options) if options.head is None else None
    return heads_of(name, options.task, options.head, step)
