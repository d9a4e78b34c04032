"""Writes all trees of the built-in music."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from cola_msa.system.errors import FileError, UserError
from cola_msa.system.files import file_sha256, remove_abandoned
from cola_msa.system.folders import check_names
from cola_msa.system.locks import Lock
from cola_msa.system.processes import worker_pool
from cola_msa.values.reading import read_json
from data_prep.demo import jobs
from data_prep.demo.config import FORMAT_VERSION, DemoConfig
from data_prep.demo.synthesis.soundfont import check_soundfont
from data_prep.demo.trees import fma, mtat, nsynth

RECORD_NAME = "demo.json"
WORK_NAME, LOCK_NAME = ".work", ".lock"
_OPTIONS_NAME = "options.json"
_ADVICE = "move it away, or choose another output folder"
_NAMES = ("mtat", "nsynth", "fma", "mtat_stems", "README.txt")
_README = """\
Built-in music: composed and synthesised by data_prep.demo, not recorded.

mtat/        MagnaTagATune's layout: 16 kHz mono mp3 in folders 0 to f, two tables
mtat_stems/  the four stems of every clip of mtat/, 24-bit FLAC; they sum to it
nsynth/      NSynth's layout: 4 s notes, 16 kHz wav, examples.json
fma/         FMA's layout: stereo and mono mp3, fma_metadata/tracks.csv
demo.json    seed, options, version and counts
"""

_TREES: tuple[tuple[str, Callable, Callable, Callable], ...] = (
    ("mtat", mtat.list_jobs, mtat.write_song, mtat.write_metadata),
    ("nsynth", nsynth.list_jobs, nsynth.write_instrument, nsynth.write_metadata),
    ("fma", fma.list_jobs, fma.write_track, fma.write_metadata),
)


def _read_options(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    return read_json(path, advice=_ADVICE, check=lambda record: dict(record["options"]))


def _make_options(config: DemoConfig) -> dict[str, Any]:
    options = {"format_version": FORMAT_VERSION, **dataclasses.asdict(config)}
    # What is as it always was does not part music from that of earlier versions.
    for name in ("trees", "soundfont", "sampled_share"):
        if options[name] == getattr(DemoConfig(), name):
            del options[name]
    # Tuples become lists, as they will be when read back.
    return json.loads(json.dumps(options))


def write_demo(
    output_dir: str | os.PathLike[str],
    config: DemoConfig | None = None,
    num_workers: int | None = None,
    soundfont: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Writes the built-in music, or reuses what is there.

    The result depends on the configuration alone, not on the number of workers. A
    run that was stopped is continued; a finished tree of the same configuration is
    recognised by its record, which is written last.

    Args:
        output_dir: gets the folders mtat, mtat_stems, nsynth and fma.
        config: the music's options; None for the defaults.
        num_workers: processes; None for one a core.
        soundfont: a General MIDI sound font whose samples play songs and notes, with
            instruments drawn by role and style; None for synthesised ones.

    Returns:
        The record: options, and counts of each tree.

    Raises:
        FileError: If the folder holds music made with other options, a damaged record
            of it, or something else under the names of the trees; a ValueError.
        UserError: If a worker process died, or the sound font cannot be played.
    """
    config = config or DemoConfig()
    font = os.path.abspath(soundfont) if soundfont else None
    if font:
        check_soundfont(font)
        config = dataclasses.replace(config, soundfont=file_sha256(font))
    root = pathlib.Path(output_dir)
    record_path = root / RECORD_NAME
    work_dir = root / WORK_NAME
    options = _make_options(config)
    started_path = work_dir / _OPTIONS_NAME
    check_names(
        root,
        _NAMES,
        lambda _: record_path.exists() or started_path.exists(),
        "built-in music",
    )
    # A second process waits, and finds it made.
    with Lock(root / LOCK_NAME, "", waits=True):
        for path in (record_path, started_path):
            found = _read_options(path)
            if found is not None and found != options:
                raise FileError(
                    f"{root} holds built-in music made with other options or another "
                    f"version ({path}); remove it or choose another output folder"
                )
        if record_path.exists():
            # A run stopped between the record and the clean-up.
            _remove_work(work_dir)
            return read_json(
                record_path,
                advice=_ADVICE,
                check=lambda found: {**found, "counts": dict(found["counts"])},
            )

        if started_path.exists():
            remove_abandoned(root)
        jobs.write_text(started_path, json.dumps({"options": options}))
        num_workers = num_workers or os.cpu_count() or 1
        died = UserError(
            "a worker process died, perhaps for lack of memory; what is finished is "
            "kept: run the same command again, with fewer --num_workers"
        )
        counts = {}
        with contextlib.ExitStack() as stack:
            submit = None
            if num_workers > 1:
                submit = stack.enter_context(worker_pool(num_workers, died))
            for tree, list_jobs, write_job, write_metadata in _TREES:
                if tree not in config.trees:
                    continue
                write_it: Callable = write_job
                if font:
                    write_it = functools.partial(write_job, font=font)
                rows = jobs.run_jobs(
                    write_it, list_jobs(config), root, work_dir, config, submit, tree
                )
                counts[tree] = write_metadata(root, config, rows)
        record = {"options": options, "counts": counts}
        jobs.write_text(root / "README.txt", _README)
        jobs.write_text(record_path, json.dumps(record, indent=1) + "\n")
        _remove_work(work_dir)
        return record


def _remove_work(work_dir: pathlib.Path) -> None:
    """Removes the rows of all jobs; anything else in the folder stays."""
    folders = [work_dir / name for name in _NAMES]
    for folder in folders:
        for path in folder.glob("[0-9]" * 6 + ".json"):
            path.unlink()
    (work_dir / _OPTIONS_NAME).unlink(missing_ok=True)
    for folder in (*folders, work_dir):
        with contextlib.suppress(OSError):  # it is gone, or holds something else
            folder.rmdir()
