"""Makes a run of the authors' released weights.

    python -m cola_msa.import_weights --checkpoint=models/multi-source/checkpoint-10 ...

The run directory holds encoder, projection head and similarity with the authors' own
settings, so that eval, export, embed and fine-tuning work with it as with any run.
"""

import os
import pathlib
import re
from typing import Any

from absl import app, flags

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import SOURCES, Config
from cola_msa.config.strategies import STRATEGIES
from cola_msa.hub.released import find_prefix, read_released, released_variables
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.statistics import BatchStatistics
from cola_msa.runs import directory, kept
from cola_msa.runs.arrays import RunError
from cola_msa.system import folders
from cola_msa.system.console import run_command
from cola_msa.system.files import temporary_folder

# The authors' script saves once in so many of its steps (64 updates of 128 pairs).
_STEPS_PER_SAVE = 1000


def released_config(source: str = "multi") -> Config:
    """The authors' settings: L2 level, no input normalization, T = 1, a 512 kernel.

    Args:
        source: `multi`, or the one source that the model was trained with.

    Raises:
        RunError: If there is no such source.
    """
    name = "msa" if source == "multi" else f"msa_{source}"
    if source != "multi" and source not in SOURCES:
        raise RunError(f"--source={source}: must be one of multi, {', '.join(SOURCES)}")
    return STRATEGIES[name].apply(get_preset("authors"))


def import_weights(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    source: str = "multi",
    step: int | None = None,
    dataset: str = "mtat",
) -> dict[str, Any]:
    """Writes a run directory from a checkpoint in the authors' layout.

    Args:
        checkpoint: Its prefix, its index file, or its folder.
        output_dir: The run directory; it must not exist, or be empty.
        source: `multi`, or the one source that the model was trained with.
        step: The authors' step that it was saved at; None takes the number in its
            name in thousands, which is how their script counts.
        dataset: What it was trained on.

    Returns:
        `tensors` assigned, `step`, `run_dir` and `encoder_key`.

    Raises:
        RunError: If any of the 317 tensors is missing, left over or of another shape;
            nothing is written then.
        FileError: If `output_dir` holds anything.
    """
    output_dir = pathlib.Path(output_dir)
    folders.check_replaceable(output_dir, _never_ours, "an empty folder")
    config = released_config(source)
    prefix = find_prefix(checkpoint)
    step = _step_of(prefix) if step is None else step
    if step < 1:
        raise RunError(f"--step={step}: must be 1 or more; 0 is an untrained network")
    model = ContrastiveModel(config.model, config.frontend, seed=config.train.seed)
    values = read_released(prefix, released_variables(model))
    for variable, value in values:
        variable.assign(value)
    kept.model_normalization(model).finalize_state()
    data = {
        "data_dir": "",
        "manifest_hash": None,
        "dataset": dataset,
        "sources": list(SOURCES) if source == "multi" else [source],
        "separator": None,
        "log_mel_mean": 0.0,
        "log_mel_std": 1.0,
    }
    # The authors' moving statistics stand for both kinds of input.
    statistics = BatchStatistics.of(model)
    updates = step * config.train.updates_per_step
    done = {
        "outcome": "imported",
        "step": step,
        "updates": updates,
        "pairs": updates * config.train.pairs_per_update(1),
        "training_seconds": 0.0,
    }
    origin = f"the checkpoint {pathlib.Path(prefix).name}, in the authors' layout"
    with temporary_folder(output_dir) as temporary:
        kept.save_kept(
            temporary, model, {"anchors": statistics, "pairs": statistics}, step
        )
        kept.write_json(temporary / kept.DONE_NAME, done)
        kept.write_json(
            temporary / "config.json",
            {**directory.describe_run(config, data, 1), "source": origin},
        )
        folders.replace_folder(temporary, output_dir, _never_ours, "an empty folder")
    return {
        "tensors": len(values),
        "step": step,
        "run_dir": str(output_dir),
        "encoder_key": kept.encoder_key(output_dir),
    }


def _never_ours(folder: pathlib.Path) -> None:
    """A run is never replaced: training may have gone on in it."""


def _step_of(prefix: str) -> int:
    number = re.search(r"-(\d+)$", prefix)
    if number is None or int(number[1]) < 1:
        raise RunError(
            f"--checkpoint={prefix}: its name has no number to take the step from; "
            "give it by --step"
        )
    return int(number[1]) * _STEPS_PER_SAVE


def _define_flags() -> None:
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Prefix of a TensorFlow checkpoint in the authors' layout, or its folder.",
        required=True,
    )
    flags.DEFINE_string("output_dir", None, "The run directory.", required=True)
    flags.DEFINE_string(
        "source", "multi", f"What it was trained with: multi, {', '.join(SOURCES)}."
    )
    flags.DEFINE_integer(
        "step",
        None,
        "Its step; default: the number in its name, in thousands.",
        lower_bound=1,
    )
    flags.DEFINE_string("dataset", "mtat", "What it was trained on.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    options = flags.FLAGS
    found = import_weights(
        options.checkpoint,
        options.output_dir,
        options.source,
        options.step,
        options.dataset,
    )
    print(
        f"assigned {found['tensors']} of {found['tensors']} tensors; the run "
        f"{found['run_dir']} has step {found['step']}, key {found['encoder_key']}"
    )


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
