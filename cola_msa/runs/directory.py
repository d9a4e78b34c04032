"""runs/NAME: what config.json says, who may write there, and which run is meant."""

import contextlib
import itertools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from cola_msa.config.checks import check_config, check_moments
from cola_msa.config.schema import Config, differing_fields, from_dict, to_dict
from cola_msa.frameworks.choose import framework_of
from cola_msa.records.joined import PairData, open_data
from cola_msa.system import files, folders, versions
from cola_msa.system.errors import RunError, UsageError, UserError
from cola_msa.values import arrays
from cola_msa.values.reading import read_json


def resumable_run(
    root: str | os.PathLike, config: Config, data: PairData
) -> pathlib.Path | None:
    """The newest unfinished run under `root` with this configuration and data."""
    found = []
    for path in pathlib.Path(root).glob("*/config.json"):
        try:
            run = load_run(path.parent)
            is_same = from_dict(Config, run["config"]) == config
        except UserError:  # damaged, or another version's: not ours to go on with
            continue
        is_same &= run["data"]["manifest_hash"] == data.manifest_hash
        if is_same and not (path.parent / DONE_NAME).exists():
            found.append(path)
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def describe_run(config: Config, data: dict[str, Any], replicas: int) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "config": to_dict(config),
        "data": data,
        "num_replicas": replicas,
        "versions": versions.package_versions(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "git_commit": versions.git_commit(),
    }


def new_run_dir(root: str | os.PathLike, name: str) -> pathlib.Path:
    """Makes a folder that no other run has: `<name>-<time>`, or with a number."""
    root = pathlib.Path(root)
    files.make_folder(root)
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("not reached")


def check_run_dir(run_dir: str | os.PathLike) -> None:
    """Refuses a folder in which a run's names are somebody else's files.

    Raises:
        FileError: If it is a file, or holds such names and no config.json.
    """
    folders.check_names(
        run_dir,
        RUN_NAMES,
        lambda folder: (folder / "config.json").exists(),
        "a run: it has no config.json",
    )


def claim_run_dir(run_dir: str | os.PathLike, description: dict[str, Any]) -> None:
    """Writes config.json, or checks that the one there describes the same run.

    Only inside of `resume.exclusive`: else two processes may both write it.

    Args:
        run_dir: The run.
        description: From `describe_run`.

    Raises:
        RunError: If the folder holds a run with another configuration, other data or
            another number of devices; the message names what differs; or if it cannot
            be written. Other versions
            of packages, and another number of threads, are warned of.
        FileError: As `check_run_dir`.
    """
    run_dir = pathlib.Path(run_dir)
    check_run_dir(run_dir)
    if not (run_dir / "config.json").exists():
        arrays.write_json(run_dir / "config.json", description)
        return
    found = load_run(run_dir)
    config = from_dict(Config, description["config"])
    fields = differing_fields(from_dict(Config, found["config"]), config)
    fields += _differing_data(found["data"], description["data"])
    if found["num_replicas"] != description["num_replicas"]:
        fields.append(
            f"devices: {found['num_replicas']} != {description['num_replicas']}"
        )
    if fields:
        raise RunError(
            f"{run_dir} holds a run with another configuration: {'; '.join(fields)}. "
            "Name another --run_dir, or use its configuration"
        )
    changes = [
        f"{name} {found['versions'].get(name)} then, {version} now"
        for name, version in description["versions"].items()
        if found.get("versions", {}).get(name) != version
    ]
    threads = found.get("threads"), description["threads"]
    if config.train.deterministic and threads[0] != threads[1]:
        changes.append(f"--threads={threads[0]} then, {threads[1]} now")
    if changes:
        logging.warning(
            "%s was started with %s: weights may differ in the last bits from those "
            "of a run that was not stopped",
            run_dir,
            "; ".join(changes),
        )


def _differing_data(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What is not the same of a run's data and of what a command names."""
    if found["manifest_hash"] == asked["manifest_hash"]:
        return []
    folders, weights = [], []
    for data in (found, asked):
        parts = data.get("folders") or [data]
        folders.append([part["manifest_hash"] for part in parts])
        given = [part.get("weight") for part in parts]
        weights.append(
            "by segments" if None in given else ",".join(f"{w:.4g}" for w in given)
        )
    if folders[0] == folders[1]:
        return [f"data_weights: {weights[0]} != {weights[1]} (of a sum of 1)"]
    if sorted(folders[0]) == sorted(folders[1]):
        return [f"data: {found['data_dir']} in another order"]
    return [f"data: {found['data_dir']} has changed or is another"]


DONE_NAME = "done.json"


def load_run(run_dir: str | os.PathLike) -> dict[str, Any]:
    """Reads a run's config.json.

    Raises:
        RunError: If there is none, or it is damaged.
    """
    path = pathlib.Path(run_dir) / "config.json"
    if not path.exists():
        raise RunError(
            f"{path} does not exist: --run_dir must name a training run "
            "(python -m cola_msa.train writes one)"
        )
    return read_json(
        path,
        RunError,
        "name another --run_dir, or put the file back from a copy",
        check=_checked_run,
    )


def load_config(run_dir: str | os.PathLike) -> Config:
    """The Config that a run was trained with."""
    return from_dict(Config, load_run(run_dir)["config"])


def own_data_dir(run_dir: str | os.PathLike) -> str:
    """The prepared data that a run was trained on.

    Raises:
        RunError: If it has none: its weights were imported.
    """
    data_dir = load_run(run_dir)["data"].get("data_dir")
    if not data_dir:
        raise RunError(
            f"{run_dir} holds imported weights and has no data of its own: name some "
            "by --data_dir"
        )
    return data_dir


def open_pairs(run_dir: str | os.PathLike, data_dir: str | None = None) -> PairData:
    """Opens prepared data to draw pairs of a run's kind from.

    Args:
        run_dir: The run.
        data_dir: What `--data_dir` names; None for what the run was trained on.

    Raises:
        RunError: If the run has no data of its own, or that is not where it was.
        UsageError, DataError: As `open_data`.
    """
    run = load_run(run_dir)
    frontend = from_dict(Config, run["config"]).frontend
    if data_dir is not None:
        return open_data(data_dir, frontend)
    own = own_data_dir(run_dir)
    logging.info("no --data_dir: the run's own, %s", own)
    try:
        data = open_data(own, frontend)
    except UserError as error:
        raise RunError(
            f"{error}. {run_dir} was trained on that; --data_dir says where it is now"
        ) from error
    before = [part["manifest_hash"] for part in run["data"].get("folders") or ()]
    if [part.manifest_hash for part in data.parts] != (
        before or [run["data"]["manifest_hash"]]
    ):
        logging.warning("%s is not what it was when %s was trained", own, run_dir)
    return data


def newest_run(
    root: str | os.PathLike = "runs",
    is_wanted: Callable[[pathlib.Path], bool] = lambda run_dir: True,
) -> pathlib.Path | None:
    """The run under `root` that was started last; None where there is none."""
    runs = [p for p in pathlib.Path(root).glob("*/config.json") if is_wanted(p.parent)]
    return max(runs, key=lambda path: path.stat().st_mtime).parent if runs else None


def choose_run(given: str | None) -> pathlib.Path:
    """The run that a command was given, or the newest one.

    Raises:
        RunError: If there is none.
    """
    run_dir = pathlib.Path(given) if given else newest_run()
    if run_dir is None:
        raise RunError(
            "there is no run under runs/: train one by python -m cola_msa.train, or "
            "name one by --run_dir"
        )
    if not given:
        logging.info("no --run_dir: the newest run, %s", run_dir)
    return run_dir


def parse_step(given: str | None) -> int | str | None:
    """Turns `--checkpoint_step` into a kept step.

    Raises:
        UsageError: If it is neither a number nor one of NAMED_STEPS.
    """
    if given is None or given in NAMED_STEPS:
        return given
    if not (given.isdecimal() and len(given) < 10):
        raise UsageError(
            f"--checkpoint_step must be a number, best or init, not {given!r}"
        )
    return int(given)


NAMED_STEPS = ("best", "init")  # kept/<name>.npz


# What training writes, beside config.json.
RUN_NAMES = ("checkpoints", "kept", "metrics.jsonl", "logs/events.*", DONE_NAME)


def _checked_run(run: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError, KeyError or TypeError where config.json cannot be meant."""
    framework_of(check_config(run["config"]))
    data = run["data"]
    if not isinstance(data, dict):
        raise TypeError("data is no object")
    for name in ("data_dir", "manifest_hash", "dataset"):
        if not isinstance(data.get(name), str | None):
            raise TypeError(f"data: {name} is no text")
    if "\0" in (data.get("data_dir") or ""):
        raise ValueError("data: data_dir is no path")
    for folder in data.get("folders") or ():
        weight = folder.get("weight")
        if not isinstance(folder["manifest_hash"], str):
            raise TypeError("data: folders: manifest_hash is no text")
        if weight is not None and not 0 < weight <= 1:
            raise ValueError(f"data: folders: weight is {weight!r:.40}")
    separator = data.get("separator")
    if isinstance(separator, dict):
        separator = separator.get("name")
    if not isinstance(separator, str | None):
        raise TypeError("data: separator has no name")
    if not all(isinstance(source, str) for source in data.get("sources") or ()):
        raise TypeError("data: sources are not all names")
    if data.get("log_mel_mean") is not None or data.get("log_mel_std") is not None:
        check_moments(data)
    if not 1 <= run.get("num_replicas", 1) < 1 << 20:
        raise ValueError(f"num_replicas is {run['num_replicas']!r:.40}")
    for name in ("versions", "init"):
        if not isinstance(run.get(name, {}), dict):
            raise TypeError(f"{name} is no object")
    if not isinstance(run.get("init", {}).get("path"), str | None):
        raise TypeError("init: path is no text")
    whole = {**dict.fromkeys(("data_dir", "manifest_hash", "dataset")), **data}
    return {"num_replicas": 1, "versions": {}, **run, "data": whole}
