"""One update of 128 pairs: our layers against Keras's own, in one process.

    python benchmarks/bench_step.py [--eager] [--profile] [--quick]

Both models have the same weights and optimizer and see the same pairs. Baselines:
`ContrastiveModel(kernels="keras")` without fused batch normalization, as a graph, and
with --eager also op by op, as the authors' published loop runs. --profile adds where
one update's time goes, by type of operation.
"""

import collections
import glob
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common
import tensorflow as tf
from absl import flags

from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.optimizers import build_optimizer
from cola_msa.system import console

OURS, KERAS, EAGER = "cola_msa", "Keras's own layers", "Keras's own layers, eager loop"
_MIN_SHARE = 0.01  # of the total, below which an operation counts as `others`


def build(is_ours: bool, backbone: str) -> ContrastiveModel:
    """A model with an optimizer."""
    model = ContrastiveModel(
        ModelConfig(backbone=backbone, fused_batch_norm=is_ours),
        kernels="cpu" if is_ours else "keras",
    )
    model.compile(optimizer=build_optimizer(TrainConfig()))
    model.optimizer.build(model.trainable_variables)
    return model


def graph_update(model: ContrastiveModel, batch: Any) -> tuple[Callable[[], Any], Any]:
    """(one update as a graph, CPU and wall seconds of building it and of its first)."""
    step = tf.function(model.train_step, autograph=False)
    cpu, wall = common.cpu_seconds(), time.monotonic()
    concrete = step.get_concrete_function(batch)
    built = (common.cpu_seconds() - cpu, time.monotonic() - wall)

    def update() -> float:
        return float(concrete(batch)["loss"])

    update()
    first = (common.cpu_seconds() - cpu, time.monotonic() - wall)
    return update, (built, first)


def profile(update: Callable[[], Any]) -> collections.Counter:
    """Milliseconds of one update by type of operation, all threads together."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        update()
        tf.profiler.experimental.stop()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        space = xplane_pb2.XSpace()
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
    found: collections.Counter = collections.Counter()
    for plane in space.planes:
        for line in plane.lines if "CPU" in plane.name else ():
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                # Kernels are `node:Type`; calls of functions contain the kernels.
                _, colon, kind = name.rpartition(":")
                if kind in ("Process", "Run", "Start"):  # they contain kernels
                    continue
                if kind.startswith("__inference"):
                    continue
                if kind == "ExecuteAsyncOnStream":  # of `CpuExecutable::`
                    kind = "compiled swish gradient"
                elif not colon or not kind.isidentifier():
                    continue
                kind = kind.replace("_MklNative", "").replace("_Mkl", "")
                found[kind] += event.duration_ps / 1e9
    return found


def main(options: flags.FlagValues) -> None:
    """Prints the tables."""
    pairs = 8 if options.quick else 128
    backbone = "tiny" if options.quick else "efficientnetb0"
    batch = common.random_pairs(pairs)
    updates, building = {}, []
    for name, is_ours in ((OURS, True), (KERAS, False)):
        model = build(is_ours, backbone)
        updates[name], ((cpu, wall), (first_cpu, first_wall)) = graph_update(
            model, batch
        )
        building.append((name, cpu, wall, first_cpu, first_wall))
    if options.eager:
        eager = build(False, backbone)
        updates[EAGER] = lambda: float(eager.train_step(batch)["loss"])
    found = common.paired_medians(updates, 2 if options.quick else options.repetitions)
    print(f"One update of {pairs} pairs ({2 * pairs} windows of 98 x 64), {backbone}\n")
    print(
        common.table(
            ("update", "CPU-s", "wall s", "pairs/CPU-s", "CPU-s, ours over this"),
            [
                (name, row["cpu"], row["wall"], pairs / row["cpu"], 1 / row["ratio"])
                for name, row in found.items()
            ],
        )
    )
    print()
    header = ("graph", "building CPU-s", "wall s", "with first update CPU-s", "wall s")
    print(common.table(header, building))
    if options.profile:
        shares = {name: profile(update) for name, update in updates.items()}
        total = max(sum(counter.values()) for counter in shares.values())
        kinds = sorted(
            {
                k
                for c in shares.values()
                for k, v in c.items()
                if v > _MIN_SHARE * total
            },
            key=lambda kind: -max(counter[kind] for counter in shares.values()),
        )
        rows = [(kind, *(c[kind] for c in shares.values())) for kind in kinds]
        others = (
            sum(v for k, v in c.items() if k not in kinds) for c in shares.values()
        )
        rows.append(("others", *others))
        rows.append(("sum", *(float(sum(c.values())) for c in shares.values())))
        print()
        print(common.table(("operation, ms", *shares), rows))


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_bool("quick", False, "A tiny network: whether the script runs.")
    flags.DEFINE_bool("eager", False, "Time the eager loop as well.")
    flags.DEFINE_bool("profile", False, "Add where the time goes.")
    flags.DEFINE_integer("repetitions", 5, "Rounds.", lower_bound=1)


if __name__ == "__main__":
    console.start(main, define_flags)
