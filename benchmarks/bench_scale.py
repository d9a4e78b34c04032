"""How time and memory grow with clips, batch size and devices.

    python benchmarks/bench_scale.py [--clips=25] [--quick]

Every row is a process of its own. Devices are logical CPUs of this machine: they share
its cores, so time shows what a replica adds, not a speed-up.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import common
import synthetic
from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import UsageError

_BATCHES = 40


def measure_pairs(data_dir: str, batch_size: int) -> dict[str, float]:
    """Opening the data, and batches of pairs."""
    from cola_msa.config.schema import TrainConfig
    from cola_msa.pairs.sampler import PairSampler
    from cola_msa.records.prepared import PreparedData

    before = common.resident_bytes()[0]
    cpu = common.cpu_seconds()
    data = PreparedData(data_dir)
    sampler = PairSampler(data, TrainConfig(batch_size=batch_size))
    opened = common.cpu_seconds() - cpu
    sampler.batch(0)
    cpu = common.cpu_seconds()
    for update in range(1, 1 + _BATCHES):
        sampler.batch(update)
    return {
        "segments": float(len(data.index("train").segment)),
        "open_ms": 1e3 * opened,
        "batch_ms": 1e3 * (common.cpu_seconds() - cpu) / _BATCHES,
        "memory_mb": (common.resident_bytes()[0] - before) / 1e6,
    }


def measure_update(backbone: str, batch_size: int, devices: int) -> dict[str, float]:
    """CPU seconds and peak memory of one update on logical CPUs."""
    import resource

    import tensorflow as tf

    from cola_msa.config.schema import ModelConfig, TrainConfig
    from cola_msa.model.contrastive import ContrastiveModel
    from cola_msa.model.optimizers import build_optimizer

    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpus[0], [tf.config.LogicalDeviceConfiguration()] * devices
    )
    strategy: tf.distribute.Strategy = tf.distribute.get_strategy()
    if devices > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(devices)])
    with strategy.scope():
        model = ContrastiveModel(ModelConfig(backbone=backbone))
        model.compile(optimizer=build_optimizer(TrainConfig()))
        model.optimizer.build(model.trainable_variables)
    batch = common.random_pairs(batch_size)

    @tf.function(autograph=False)
    def update():
        return strategy.run(lambda: model.train_step(batch)["loss"])

    found = common.paired_medians({"update": update}, 2)["update"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu": found["cpu"], "peak_mb": peak / 1024}


def in_process(kind: str, *arguments: object) -> dict[str, float]:
    """Runs one measurement in a process of its own."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, f"--only={kind}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]) | {
        "process_s": time.monotonic() - begin
    }


def main(options: flags.FlagValues, *words: str) -> None:
    """Prints the tables."""
    kinds = {"pairs": (measure_pairs, 2), "update": (measure_update, 3)}
    measure, num_words = kinds.get(options.only, (None, 0))
    if len(words) != num_words or not all(map(str.isdecimal, words[1:])):
        raise UsageError(
            "only --only takes words: FOLDER BATCH, or BACKBONE BATCH DEVICES"
        )
    if measure:
        print(json.dumps(measure(words[0], *map(int, words[1:]))))
        return
    backbone = "tiny" if options.quick else "efficientnetb0"
    clips = 20 if options.quick else options.clips
    factors = (1, 2) if options.quick else (1, 2, 4, 8)
    batch = 8 if options.quick else 128
    rows = []
    for factor in factors:
        with tempfile.TemporaryDirectory() as folder:
            data_dir = pathlib.Path(folder) / "data"
            synthetic.write_prepared(data_dir, {"train": clips * factor})
            size = sum(f.stat().st_size for f in data_dir.glob("*.tfrecord"))
            found = in_process("pairs", data_dir, batch)
            rows.append(
                (
                    f"{factor}x",
                    int(found["segments"]),
                    size / 1e6,
                    found["open_ms"],
                    found["batch_ms"],
                    found["memory_mb"],
                )
            )
    print(f"Clips, batches of {batch} pairs\n")
    header = ("clips", "segments", "records MB", "opening CPU-ms", "batch CPU-ms")
    print(common.table((*header, "memory added, MB"), rows))
    cases = [(batch // 4, 1), (batch // 2, 1), (batch, 1), (batch // 2, 2)]
    if not options.quick:
        cases.append((batch // 4, 4))
    rows = []
    for size, devices in cases:
        found = in_process("update", backbone, size, devices)
        pairs = size * devices
        rows.append(
            (devices, size, pairs, found["cpu"], found["cpu"] / pairs, found["peak_mb"])
        )
    print(f"\nOne update, {backbone}\n")
    header = ("devices", "pairs a device", "pairs", "CPU-s", "CPU-s a pair", "peak MB")
    print(common.table(header, rows))


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("clips", 25, "Clips of the first row.", lower_bound=20)
    flags.DEFINE_enum("only", None, ["pairs", "update"], "One measurement.")
    flags.DEFINE_bool("quick", False, "A tiny network: whether the script runs.")


if __name__ == "__main__":
    console.start(main, define_flags, most_arguments=3)
