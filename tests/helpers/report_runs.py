"""Synthetic runs with results, in the files that training and evaluation write."""

import dataclasses
import pathlib

import numpy as np

from cola_msa.config.presets import get_preset
from cola_msa.config.published import PAPER, Yardstick
from cola_msa.config.schema import (
    MULTILABEL,
    SOURCES,
    FrontendConfig,
    config_hash,
    to_dict,
)
from cola_msa.config.strategies import STRATEGIES
from cola_msa.evaluation import results
from cola_msa.evaluation.probes.kept_heads import Heads, Member
from cola_msa.evaluation.tasks import OTHER_TASKS, TASKS
from cola_msa.frameworks.choose import get_framework
from cola_msa.records.schema import SCHEMA_VERSION, manifest_hash, write_manifest
from cola_msa.runs import directory
from cola_msa.runs.directory import DONE_NAME
from cola_msa.runs.info import EncoderInfo
from cola_msa.values.arrays import write_json

TAGS = ("fast", "drums", "guitar", "rare", "harp")
CLASSES = ("rock", "jazz", "folk")
SHARES = {"vocals": 0.4, "drums": 0.45, "bass": 0.25, "other": 0.9}


def write_data(data_dir: pathlib.Path, separator: str = "umxhq") -> pathlib.Path:
    """A prepared folder's manifest; no records, which a report never reads."""
    data_dir.mkdir(parents=True, exist_ok=True)
    frontend = FrontendConfig()
    write_manifest(
        data_dir,
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": "mtat",
            "task_type": "multilabel",
            "frontend": to_dict(frontend),
            "frontend_hash": config_hash(frontend),
            "separator": {"name": separator},
            "sources": list(SOURCES),
            "class_names": list(TAGS),
            "splits": {
                "train": {
                    "shards": [],
                    "num_clips": 40,
                    "num_segments": 280,
                    "hours": 0.3,
                    "active_share": SHARES,
                }
            },
        },
    )
    return data_dir


def write_run(
    root: pathlib.Path,
    strategy: str,
    data_dir: pathlib.Path,
    *,
    seed: int = 0,
    name: str | None = None,
    kept: tuple[int, ...] = (0, 2, 4),
    is_done: bool = True,
    **train,
) -> pathlib.Path:
    """A run of the framework's preset `smoke` without any weights."""
    presets = get_framework(STRATEGIES[strategy].framework).presets
    config = STRATEGIES[strategy].apply(get_preset(presets["smoke"]))
    fields = dataclasses.replace(config.train, seed=seed, **train)
    config = dataclasses.replace(config, train=fields)
    run_dir = root / (name or (strategy + (f"-seed{seed}" if seed else "")))
    data = {
        "data_dir": str(data_dir),
        "manifest_hash": manifest_hash(data_dir),
        "dataset": "mtat",
        "sources": list(SOURCES),
        "log_mel_mean": 2.0,
        "log_mel_std": 1.0,
    }
    (run_dir / "kept").mkdir(parents=True)
    write_json(run_dir / "config.json", directory.describe_run(config, data, 1))
    for step in kept:
        (run_dir / "kept" / f"step-{step:08d}.npz").touch()
    if is_done:
        updates = max(kept) * config.train.updates_per_step
        write_json(
            run_dir / DONE_NAME,
            {
                "outcome": "finished",
                "step": max(kept),
                "updates": updates,
                "pairs": updates * config.train.batch_size,
                "training_seconds": 90.0,
            },
        )
    return run_dir


def draw_scores(
    task: str, quality: float, seed: int = 0, num_clips: int = 60, num_heads: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that follow them the more the higher the quality."""
    labels_rng, rng = np.random.default_rng(7), np.random.default_rng([11, seed])
    if (TASKS | OTHER_TASKS)[task].task_type == MULTILABEL:
        labels = (labels_rng.random((num_clips, len(TAGS))) < 0.4).astype(np.int64)
        labels[:, 3] = 0  # a tag without positives does not count
        signal = labels
    else:
        labels = labels_rng.integers(0, len(CLASSES), num_clips)
        signal = np.eye(len(CLASSES))[labels]
    noise = rng.random((num_heads, *signal.shape))
    return labels, (quality * signal + noise).astype(np.float32)


def write_result(
    run_dir: pathlib.Path,
    task: str,
    *,
    step: int = 4,
    quality: float = 0.5,
    seed: int = 0,
    folder: str | None = None,
    num_clips: int = 60,
    encoder: dict | None = None,
    yardstick: Yardstick = PAPER,
    **fields,
) -> pathlib.Path:
    """An evaluation of synthetic scores, scored and written by the project itself."""
    spec = (TASKS | OTHER_TASKS)[task]
    labels, scores = draw_scores(task, quality, seed, num_clips)
    is_tags = spec.task_type == MULTILABEL
    names = TAGS if is_tags else CLASSES
    one_hot = labels if is_tags else np.eye(len(names))[labels]
    info = EncoderInfo("trained", run_dir.name, "smoke", "multi", step)
    info = dataclasses.replace(info, updates=5 * step, pairs=20 * step)
    counts = dict.fromkeys(("train", "validation"), {"clips": 40, "windows": 1000})
    content = {
        "task": task,
        "title": spec.title,
        "encoder": {**dataclasses.asdict(info), "key": f"key{step}", **(encoder or {})},
        "data": {
            "dataset": spec.dataset,
            "data_dir": f"prepared/{spec.dataset}",
            "manifest_hash": "0" * 16,
            "num_classes": len(names),
            "num_counted": results.num_counted(spec, labels),
        },
        "train_clips": "filtered",
        "splits": {**counts, "test": {"clips": num_clips, "windows": 1500}},
        "absent_splits": [],
        "paper_clips": dict(
            zip(("train", "validation", "test"), spec.paper_clips or (), strict=False)
        ),
        "paper_scale": dataclasses.asdict(yardstick),
        "head": {"standardize": False},
        "seeds": list(range(len(scores))),
        "bootstrap": {"resamples": 100, "over": "test clips"},
        "scores": results.score_rows(spec, labels, scores, 100, yardstick),
        "per_class": results.class_rows(spec, names, one_hot, labels, scores),
        **fields,
    }
    path = run_dir / "eval" / (folder or task)
    clip_ids = np.array([f"clip{number:03d}" for number in range(num_clips)])
    heads = Heads(
        members=(Member(((np.eye(len(names)), np.zeros(len(names))),)),),
        class_names=names,
        task={"name": task, "title": spec.title, "task_type": spec.task_type},
        encoder_key=content["encoder"]["key"],
        frontend=FrontendConfig(),
        thresholds=np.full(len(names), 0.5) if is_tags else None,
    )
    results.write_results(path, spec, content, clip_ids, labels, scores, heads)
    return path


def group_of(collection, strategy: str):
    """The only group of a strategy."""
    (group,) = collection.groups_of(strategy)
    return group
