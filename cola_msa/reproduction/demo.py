"""The whole job on the built-in music, as a chain of the commands that users type."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import logging

from cola_msa.evaluation.tasks import SCORE_TITLES
from cola_msa.hub import pretrained
from cola_msa.hub.loading import STARTER, STARTER_DIR
from cola_msa.reproduction import music
from cola_msa.reproduction.report.commands import Command
from cola_msa.runs import kept
from cola_msa.system.console import tell
from cola_msa.system.errors import FileError, UserError
from cola_msa.values.markdown import aligned
from cola_msa.values.reading import read_json

TABLE_NAME = "table.txt"
_SCORES = {"mtat": ("roc_auc", "pr_auc"), "nsynth": ("accuracy",), "fma": ("accuracy",)}


# What the probes judge.
ENCODERS = ("trained", "untrained", "spectra")
# Heads, all on standardized features: by their name in the table, what the folder of
# their results ends with, and eval's flag.
_HEADS = {
    "ridge": ("ridge", "--probe=ridge"),
    "paper": ("standardized", "--standardize"),
}


class DemoError(UserError):
    """A command of the demo failed."""


def run_demo(
    output_dir: pathlib.Path,
    preset: str = "demo",
    seed: int = 0,
    scale: float = 1.0,
) -> str:
    """Runs everything that is missing.

    Args:
        output_dir: Music, records, the run, its results and the export go here.
        preset: What to train.
        seed: Seed of the run.
        scale: Share of the default number of songs, tracks and notes.

    Returns:
        The final table.

    Raises:
        DemoError: If one of the commands failed.
    """
    started = time.monotonic()
    run_dir = output_dir / "run"
    export_dir = output_dir / "export"
    data = {
        task: music.ensure(task, output_dir / "data", scale) for task in music.TASKS
    }
    _side_by_side(
        _Command(
            "cola_msa.train",
            (
                "--source=multi",
                f"--preset={preset}",
                f"--seed={seed}",
                f"--data_dir={data['mtat']}",
                f"--run_dir={run_dir}",
            ),
        )
    )
    judged = [(run_dir, encoder) for encoder in ENCODERS]
    starter_dir = _starter_dir(output_dir)
    if starter_dir is not None:
        judged.append((starter_dir, ENCODERS[0]))
        _side_by_side(
            _Command(
                "cola_msa.import_weights",
                (f"--pretrained={STARTER}", f"--output_dir={starter_dir}"),
                done=starter_dir / "config.json",
            )
        )
    for task, (part, flag) in itertools.product(music.TASKS, _HEADS.values()):
        _side_by_side(
            *(
                _Command(
                    "cola_msa.eval",
                    (
                        f"--task={task}",
                        f"--encoder={encoder}",
                        flag,
                        f"--run_dir={folder}",
                        f"--data_dir={data[task]}",
                    ),
                    done=_results_path(folder, _judgement(task, encoder, part)),
                )
                for folder, encoder in judged
            )
        )
    metadata = export_dir / "metadata.json"
    key = kept.encoder_key(run_dir)
    is_exported = metadata.exists() and _key_of(metadata) == key
    _side_by_side(
        *(
            _Command(
                "cola_msa.retrieve",
                (f"--run_dir={folder}", f"--data_dir={data['mtat']}"),
                done=_results_path(folder, "retrieval"),
            )
            for folder in dict.fromkeys(folder for folder, _ in judged)
        ),
        _Command(
            "cola_msa.export",
            (f"--run_dir={run_dir}", f"--output_dir={export_dir}"),
            done=metadata if is_exported else None,
        ),
    )
    reloaded = _reload(export_dir, output_dir / "data" / "music" / "mtat")
    seconds = time.monotonic() - started
    return final_table(run_dir, export_dir, reloaded, seconds, starter_dir)


def _starter_dir(output_dir: pathlib.Path) -> pathlib.Path | None:
    """Where the package's own weights become a run; None where it holds none.

    Other weights come into another folder.
    """
    if not STARTER_DIR.is_dir():
        return None
    key = pretrained.read_config(STARTER_DIR)["encoder_key"]
    return output_dir / f"{STARTER}-{key}"


@dataclasses.dataclass(frozen=True)
class _Command(Command):
    """A command, and a file that tells, where it exists, that it ran before."""

    done: pathlib.Path | None = None


def _side_by_side(*commands: _Command) -> None:
    """Runs commands side by side: each starts up on one core.

    The first one's output, with its progress bar, is seen as it comes; that of the
    others when they have ended.

    Raises:
        DemoError: If one failed, when all have ended.
    """
    started: list[tuple[_Command, subprocess.Popen, Any]] = []
    failed = None
    with contextlib.ExitStack() as stack:
        for command in commands:
            if command.done is not None and command.done.exists():
                tell("", f"$ {command.text}", f"  (done before: {command.done})")
                continue
            output = error = None
            if started:
                output = stack.enter_context(tempfile.TemporaryFile())
                error = subprocess.STDOUT
            else:
                tell("", f"$ {command.text}")
            process = subprocess.Popen(command.argv, stdout=output, stderr=error)
            stack.callback(_end, process)
            started.append((command, process, output))
        for command, process, output in started:
            code = process.wait()
            if output is not None:
                output.seek(0)
                text = output.read().decode(errors="replace")
                # Of a progress bar what it showed last.
                lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
                tell("", f"$ {command.text}")
                print("\n".join(lines), flush=True)
            failed = failed or (command if code else None)
    if failed:
        raise DemoError(
            f"`{failed.text}` failed; its message stands above. Started again, the "
            "demo goes on from there"
        )


def _end(process: subprocess.Popen) -> None:
    """Ends a process that still runs, as after Ctrl-C."""
    if process.poll() is None:
        process.terminate()
    process.wait()


# A process in which cola_msa cannot be imported: TensorFlow, soundfile and the folder.
_RELOAD_SCRIPT = """
import json, sys
sys.modules["cola_msa"] = None
import numpy as np
import soundfile
import tensorflow as tf
folder, path = sys.argv[1:]
waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
assert rate == json.load(open(folder + "/metadata.json"))["sample_rate_hz"]
waveform = waveform.mean(axis=1)[np.newaxis]
embed = tf.saved_model.load(folder).signatures["embed_waveform"]
found = embed(waveform=tf.constant(waveform),
              lengths=tf.constant([waveform.shape[1]], tf.int32))
print(json.dumps({"windows": found["windows"].shape.as_list(),
                  "clip": found["clip"].shape.as_list(),
                  "norm": float(tf.norm(found["clip"])),
                  "is_finite": bool(np.isfinite(found["windows"]).all())}))
"""


def _reload(export_dir: pathlib.Path, music_dir: pathlib.Path) -> str:
    """Embeds one clip with the SavedModel, in a process without cola_msa."""
    path = min(music_dir.glob("?/*.mp3"))
    tell("", f"$ python: tf.saved_model.load({str(export_dir)!r}) on {path}")
    result = subprocess.run(
        [sys.executable, "-I", "-c", _RELOAD_SCRIPT, str(export_dir), str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise DemoError(f"the export does not load:\n{result.stderr}")
    found = json.loads(result.stdout.splitlines()[-1])
    if not found["is_finite"] or not found["norm"] > 0:
        raise DemoError(f"the export gives no usable embedding of {path}: {found}")
    return (
        f"{path.name}: windows {found['windows']}, clip {found['clip']}, "
        f"norm {found['norm']:.2f}"
    )


def final_table(
    run_dir: pathlib.Path,
    export_dir: pathlib.Path,
    reloaded: str,
    seconds: float,
    starter_dir: pathlib.Path | None = None,
) -> str:
    """Everything that the demo measured, beside untrained, no learning and chance.

    Args:
        run_dir: The run, with its results.
        export_dir: The SavedModel.
        reloaded: What the reloaded export gave.
        seconds: Wall time of this invocation.
        starter_dir: The package's own weights as a run, with their results; None where
            it holds none.

    Returns:
        The table and the paths, as text.
    """
    done = kept.read_done(run_dir)
    folders = [] if starter_dir is None else [starter_dir]
    titles = [STARTER for _ in folders]
    rows = [("", "trained", "95 % interval", "untrained", "spectra", *titles, "chance")]
    retrieval = _results(run_dir, "retrieval")
    others = [_results(folder, "retrieval")["trained"] for folder in folders]
    without = retrieval.get("no_learning", {})  # an older version's lack it
    for measure, label in (("top1", "top-1"), ("mrr", "MRR")):
        difference = retrieval["difference"][measure]
        low, high = difference["interval"]
        rows.append(
            (
                f"retrieval, {label}",
                f"{retrieval['trained'][measure]:.3f}",
                f"difference {low:+.3f} to {high:+.3f}",
                f"{retrieval[difference['against']][measure]:.3f}",
                f"{without[measure]:.3f}" if without else "",
                *(f"{found[measure]:.3f}" for found in others),
                f"{retrieval['trained'][f'chance_{measure}']:.3f}",
            )
        )
    judged = [(run_dir, encoder) for encoder in ENCODERS]
    judged += [(folder, ENCODERS[0]) for folder in folders]
    for (head, (part, _)), task in itertools.product(_HEADS.items(), _SCORES):
        found = [
            _results(folder, _judgement(task, encoder, part))["scores"]
            for folder, encoder in judged
        ]
        for score in _SCORES[task]:
            row = found[0][score]
            trained, *rest = (f"{scores[score]['value']:.3f}" for scores in found)
            rows.append(
                (
                    f"{task}, {SCORE_TITLES[score]}, {head}",
                    trained,
                    f"{row['low']:.3f} to {row['high']:.3f}",
                    *rest,
                    f"{row['chance']:.3f}",
                )
            )
    return "\n".join(
        [
            f"Built-in music, {done['updates']} updates, {done['pairs']:,} pairs "
            f"({done['training_seconds'] / 60:.1f} min of training); the paper's run "
            "has 81,920,000 pairs of real music.",
            f"Retrieval: {retrieval['trained']['num_queries']:,} queries from "
            f"{retrieval['trained']['num_songs']} validation songs, up to "
            f"{retrieval['num_candidates']} candidates"
            + (
                "; untrained is the better of its initial kernel and the trained one's"
                if "untrained_trained_kernel" in retrieval
                else ""
            )
            + ". Spectra: no learning, the cosine of "
            "windows' spectra, or the same heads on statistics of log-mels.",
            "Heads, on standardized features: a ridge regression (closed form, penalty "
            "by validation), and the paper's (gradient descent, no penalty).",
            *(
                [
                    "Starter: the weights that come with the package, learned on other "
                    "songs of the same composer."
                ]
                if folders
                else []
            ),
            "",
            *aligned(rows),
            "",
            f"run        {run_dir}",
            f"results    {run_dir / 'eval'} (tables, charts, results.json)",
            f"SavedModel {export_dir}",
            f"           reloaded: {reloaded}",
            f"time       {seconds / 60:.1f} min for what was not there yet",
        ]
    )


def _key_of(metadata: pathlib.Path) -> str | None:
    """Which encoder an export is; None where its metadata is damaged."""
    try:
        return read_json(metadata).get("encoder_key")
    except FileError as error:
        logging.warning("%s", error)
        return None


def _judgement(task: str, encoder: str, part: str) -> str:
    """Name of the folder of its results."""
    return f"{task}-{part}" if encoder == "trained" else f"{task}-{encoder}-{part}"


def _results_path(run_dir: pathlib.Path, name: str) -> pathlib.Path:
    return run_dir / "eval" / name / "results.json"


def _results(run_dir: pathlib.Path, name: str) -> dict[str, Any]:
    return read_json(
        _results_path(run_dir, name), DemoError, "delete it and run the demo again"
    )
