"""A probe of FMA-small's size, from records to scores, extrapolated from a part.

    python benchmarks/bench_probe.py [--quick]

Embeds clips of 30 s (noise in the records' form), evaluates again from the cache, and
trains the task's head on embeddings of a tenth of FMA-small. Baseline, run here: the
loop that embeds every window anew in each epoch, as the authors' code trains its heads.
"""

import pathlib
import tempfile
import time

import common
import numpy as np
import synthetic
from absl import flags

from cola_msa.config.schema import ModelConfig
from cola_msa.evaluation.probes.features import (
    EmbeddedSplit,
    embed_function,
    embed_split,
)
from cola_msa.evaluation.probes.heads import ProbeConfig
from cola_msa.evaluation.probes.linear import CachedWindows, score_clips, train_head
from cola_msa.evaluation.tasks import TASKS
from cola_msa.model.encoder import build_encoder
from cola_msa.records.prepared import PreparedData
from cola_msa.system import console

_CLIPS = 8000  # FMA-small
_TRAIN_SHARE = 0.8
_WINDOWS = 30  # windows of a clip of 30 s: 2,998 frames // 98


def made_embeddings(path: pathlib.Path, clips: int, dim: int, seed: int):
    """Embeddings with classes that a head can learn in part, as one split."""
    random = np.random.default_rng(seed)
    labels = np.eye(8, dtype=np.float32)[random.integers(0, 8, clips)]
    centres = np.random.default_rng(0).normal(0, 0.3, (8, dim))
    means = np.repeat(labels @ centres, _WINDOWS, axis=0)
    (means + random.normal(0, 3, means.shape)).astype("<f2").tofile(path)
    return EmbeddedSplit(
        files=(path,),
        file_windows=(clips * _WINDOWS,),
        dim=dim,
        clip_ids=np.array([str(number) for number in range(clips)]),
        clip_splits=np.arange(clips + 1, dtype=np.int64) * _WINDOWS,
        labels=labels,
    )


def main(options: flags.FlagValues) -> None:
    """Prints the tables."""
    clips, head_clips = (3, 20) if options.quick else (options.clips, _CLIPS // 10)
    backbone = "tiny" if options.quick else "efficientnetb0"
    encoder = build_encoder(ModelConfig(backbone=backbone))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        # 7 segments and a part: 28 windows; costs are reckoned by the window.
        data = PreparedData(
            synthetic.write_prepared(root / "data", {"train": clips}, 7, False)
        )
        measured = []
        for name in ("first evaluation", "second evaluation"):
            cpu, wall = common.cpu_seconds(), time.monotonic()
            split = embed_split(
                encoder, data, "train", root / "cache", "0" * 16, show_progress=False
            )
            split.read(0, split.num_windows)
            used = (common.cpu_seconds() - cpu, time.monotonic() - wall)
            whole = _CLIPS * _WINDOWS / split.num_windows
            measured.append((name, *used, used[0] * whole, used[1] * whole / 60))
        print(f"Embedding {split.num_windows:,} windows of {clips} clips, {backbone}\n")
        header = ("", "CPU-s", "wall s", "8,000 clips, CPU-s", "8,000 clips, wall min")
        print(common.table(header, measured))

        config = ProbeConfig.of_task(TASKS["fma"])
        train = made_embeddings(
            root / "train.f16", int(head_clips * _TRAIN_SHARE), split.dim, 1
        )
        validation = made_embeddings(
            root / "validation.f16", head_clips // 10, split.dim, 2
        )
        cpu, wall = common.cpu_seconds(), time.monotonic()
        head = train_head(CachedWindows(train), validation, config, show_progress=False)
        score_clips(head, validation)
        cpu, wall = common.cpu_seconds() - cpu, time.monotonic() - wall
        epochs = len(head.validation_loss)
        # The baseline's epoch: every training window through the network again.
        embed = embed_function(encoder, 98, 64)
        windows = np.zeros((128, 98, 64), np.float16)
        embed(windows)
        anew = common.paired_medians({"embed": lambda: embed(windows)}, 3)["embed"]
        train_windows = int(_CLIPS * _TRAIN_SHARE) * _WINDOWS
        again = anew["cpu"] / 128 * train_windows * epochs
        scale = _CLIPS / head_clips
        rows = [
            ("ours: cached embeddings", epochs, cpu, wall, cpu * scale, wall * scale),
            ("every window anew, an epoch (reckoned)", epochs, "", "", again, ""),
        ]
        print(f"\nHead of `fma` on {head_clips} clips of {_WINDOWS} windows\n")
        header = ("way", "epochs", "CPU-s", "wall s", "8,000 clips, CPU-s", "wall s")
        print(common.table(header, rows))


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("clips", 60, "Clips to embed.", lower_bound=1)
    flags.DEFINE_bool("quick", False, "A tiny network: whether the script runs.")


if __name__ == "__main__":
    console.start(main, define_flags)
