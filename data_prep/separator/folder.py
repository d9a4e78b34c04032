"""A folder of Open-Unmix weights in the making: what it belongs to, what is left."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_msa.config.schema import differing_fields, from_dict, to_dict
from cola_msa.system import folders
from cola_msa.system.files import write_json
from cola_msa.system.locks import Lock
from cola_msa.values.reading import read_json
from data_prep.separator.chunks import NUM_CHANNELS, StemReader
from data_prep.separator.network import TrainingError, input_statistics
from data_prep.separator.tracks import RATE_HZ, SeparatorConfig, Track
from data_prep.separator.training import History, Run, TargetTrainer
from data_prep.stems import weights

_STATE_NAME = "training.json"
# What a training writes, beside the weights.
_NAMES = ("separator.json", "report.json", "report.txt", "*.chkpnt")


def open_folder(
    output_dir: pathlib.Path,
    config: SeparatorConfig,
    tracks: Sequence[Track],
    targets: Sequence[str],
) -> None:
    """Notes what is trained here, in `separator.json` and the folder's state.

    Args:
        output_dir: The folder; made where it does not exist.
        config: SeparatorConfig.
        tracks: All tracks.
        targets: Sources to be trained; others that the folder has stay its targets.

    Raises:
        TrainingError: If the folder holds another training.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with Lock(output_dir / ".lock", "", waits=True):
        _check_state(output_dir, config, tracks)
        path = output_dir / "separator.json"
        known = _targets(path) if path.exists() else ()
        content = {
            "nfft": config.fft_size,
            "nhop": config.hop_samples,
            "sample_rate": float(RATE_HZ),
            "nb_channels": NUM_CHANNELS,
            # Not Open-Unmix's: without it a folder cannot tell that one is missing.
            "targets": [s for s in config.options.sources if s in {*known, *targets}],
        }
        write_json(path, content)


def _check_state(
    output_dir: pathlib.Path, config: SeparatorConfig, tracks: Sequence[Track]
) -> None:
    path = output_dir / _STATE_NAME
    names = {
        split: [track.name for track in tracks if track.split == split]
        for split in ("train", "validation", "test")
    }
    if not path.exists():
        if any(output_dir.glob("*.pth")):
            raise TrainingError(
                f"{output_dir} holds weights of unknown origin; use another "
                "--output_dir"
            )
        folders.check_names(output_dir, _NAMES, lambda _: False, "a separator's folder")
        write_json(path, {"config": to_dict(config), "tracks": names})
        return
    advice = "use another --output_dir, or delete this one"
    before, found = read_json(path, TrainingError, advice, check=_parse_state)
    if fields := differing_fields(before, config):
        raise TrainingError(
            f"{output_dir} was trained with another configuration (before != now): "
            f"{'; '.join(fields)}; {advice}"
        )
    if found != names:
        raise TrainingError(
            f"{output_dir} was trained on other tracks than --dataset_dir now holds; "
            f"{advice}"
        )


def _parse_state(state: dict[str, Any]) -> tuple[SeparatorConfig, dict[str, Any]]:
    """Configuration and tracks of a training."""
    return from_dict(SeparatorConfig, state["config"]), dict(state["tracks"])


def _targets(path: pathlib.Path) -> tuple[str, ...]:
    """The targets that a separator.json names."""

    def check(content: dict[str, Any]) -> tuple[str, ...]:
        targets = content["targets"]
        # They name files in the folder.
        if not all(re.fullmatch(r"[\w-]+", target) for target in targets):
            raise ValueError("targets are not all names")
        return tuple(targets)

    return read_json(path, TrainingError, "put it back from a copy", check=check)


def folder_targets(output_dir: pathlib.Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The targets of a folder, and those of them that have no weights yet."""
    targets = _targets(output_dir / "separator.json")
    return targets, tuple(
        target for target in targets if not (output_dir / f"{target}.pth").exists()
    )


def train_targets(
    targets: Sequence[str],
    dataset_dir: pathlib.Path,
    tracks: Sequence[Track],
    config: SeparatorConfig,
    run: Run,
) -> dict[str, History]:
    """Trains one network a target, or what is left of it, one after the other.

    Args:
        targets: Sources to be separated.
        dataset_dir: The dataset's root.
        tracks: All tracks.
        config: SeparatorConfig.
        run: Run.

    Returns:
        History of each target.

    Raises:
        TrainingError: If the folder holds another training, a checkpoint cannot be
            read, or a loss is not finite.
        SeparatorError: If the extra is missing.
        AudioError: If a file cannot be read.
    """
    weights.import_openunmix()
    import torch

    open_folder(run.output_dir, config, tracks, targets)
    train = [track for track in tracks if track.split == "train"]
    reader = StemReader(dataset_dir, train, config.cache_gb)
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def statistics() -> tuple[np.ndarray, np.ndarray]:
        if not found:
            run.log(f"input statistics of {len(train)} training mixtures")
            found.append(input_statistics(reader, train, config))
        return found[0]

    histories = {}
    for target in targets:
        lock = run.output_dir / f".{target}.lock"
        busy = f"another process trains {target} in {run.output_dir}"
        with Lock(lock, busy, TrainingError), torch.random.fork_rng(devices=[]):
            trainer = TargetTrainer(target, tracks, reader, config, run, statistics)
            if trainer.history.epochs:
                run.log(f"{target}: {trainer.history.epochs} epochs are done")
            histories[target] = trainer.run()
    return histories
