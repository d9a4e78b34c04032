"""Batches of 128 `mixed` pairs: drawn and read, against a per-example pipeline.

    python benchmarks/bench_pairs.py [--data_dir=...] [--quick]

Baseline, run here: TFRecordDataset, parse every record, crop both windows, a shuffle
buffer, batch. Without --data_dir, shards of noise are written first. Shards are warm:
every one was read before.
"""

import pathlib
import tempfile
import time

import common
import synthetic
import tensorflow as tf
from absl import flags

from cola_msa.config.schema import TrainConfig
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.prepared import PreparedData
from cola_msa.system import console
from cola_msa.values.numbers import define_float
from cola_msa.values.paths import define_path

_SHUFFLE = 1000  # segments of 4 s; five arrays of 50 kB each


def per_example(data: PreparedData, batch_size: int, frames: int) -> tf.data.Dataset:
    """The ordinary pipeline over whole records."""
    paths = [str(data.data_dir / str(name)) for name in data.index("train").shards]
    mels = data.frontend.num_mels
    features = {
        "mixture": tf.io.FixedLenFeature([], tf.string),
        "is_active": tf.io.FixedLenFeature([len(data.sources)], tf.int64),
    } | {f"stem/{s}": tf.io.FixedLenFeature([], tf.string, "") for s in data.sources}

    def crop(mel: tf.Tensor) -> tf.Tensor:
        window = tf.image.random_crop(mel[..., tf.newaxis], (frames, mels, 1))
        return tf.cast(window, tf.float32)

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        source = tf.random.uniform([], 0, len(data.sources), tf.int32)
        stems = tf.stack([example[f"stem/{s}"] for s in data.sources])
        is_active = example["is_active"][source] > 0
        mixture = tf.reshape(
            tf.io.decode_raw(example["mixture"], tf.float16), (-1, mels)
        )
        stem = tf.cond(
            is_active,
            lambda: tf.reshape(tf.io.decode_raw(stems[source], tf.float16), (-1, mels)),
            lambda: tf.zeros_like(mixture),
        )
        return {
            "anchor": crop(mixture),
            "positive": crop(stem),
            "is_active": is_active,
            "source": source,
        }

    return (
        tf.data.TFRecordDataset(paths)
        .map(parse, num_parallel_calls=2)
        .repeat()
        .shuffle(_SHUFFLE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )


def measure_waiting(dataset: tf.data.Dataset, seconds: float, updates: int) -> float:
    """Share of time that a consumer waits which keeps every core busy in between."""
    matrix = tf.random.normal((1024, 1024))
    batches = iter(dataset)
    next(batches)
    waited, begin = 0.0, time.monotonic()
    for _ in range(updates):
        asked = time.monotonic()
        next(batches)
        waited += time.monotonic() - asked
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tf.linalg.matmul(matrix, matrix).numpy()
    return waited / (time.monotonic() - begin)


def main(options: flags.FlagValues) -> None:
    """Prints the tables."""
    clips, batches, repetitions = (20, 2, 2) if options.quick else (150, 60, 7)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir or synthetic.write_prepared(
            pathlib.Path(folder) / "data", {"train": clips}
        )
        data = PreparedData(data_dir)
        for name in data.index("train").shards:
            (data.data_dir / str(name)).read_bytes()
        batch_size = 16 if options.quick else options.batch_size
        config = TrainConfig(batch_size=batch_size, batches="mixed")
        sampler = PairSampler(data, config)
        ours = iter(sampler.dataset())
        plain = iter(per_example(data, batch_size, sampler.window_frames))

        def take(batches_of, count):
            def run():
                for _ in range(count):
                    next(batches_of)

            return run

        # The baseline is slower: fewer batches, the same pairs/s. Its shuffle buffer
        # is filled by the untimed first call.
        slower = max(4, batches // 3)
        found = common.paired_medians(
            {"cola_msa": take(ours, batches), "per example": take(plain, slower)},
            repetitions,
        )
        own, shared = common.resident_bytes()
        rows = [
            (
                name,
                count * batch_size / found[name]["cpu"],
                count * batch_size / found[name]["wall"],
                found[name]["cpu"] / count,
            )
            for name, count in (("cola_msa", batches), ("per example", slower))
        ]
        print(
            f"`mixed` batches of {batch_size} pairs from "
            f"{len(data.index('train').segment):,} segments, warm shards\n"
        )
        header = ("pipeline", "pairs/CPU-s", "pairs/s", "CPU-s a batch")
        print(common.table(header, rows))
        print(f"\nratio: {rows[0][1] / rows[1][1]:.1f} times the pairs a CPU-second")
        print(
            f"memory of the process: {own / 1e9:.2f} GB, of it TensorFlow and the "
            f"baseline's shuffle buffer; pages shared with files: {shared / 1e9:.2f} GB"
        )
        update, num = (0.05, 3) if options.quick else (options.update_seconds, 15)
        waiting = measure_waiting(sampler.dataset(), update, num)
        print(
            f"waiting: {100 * waiting:.2f} % of the time of updates that keep every "
            f"core busy for {update:g} s"
        )


def define_flags() -> None:
    """Defines the benchmark's flags."""
    define_path("data_dir", None, "Prepared data with stems; default noise.")
    flags.DEFINE_integer("batch_size", 128, "Pairs a batch.", lower_bound=1)
    define_float("update_seconds", 1.0, "Length of an update, to wait in.", 0.0)
    flags.DEFINE_bool("quick", False, "A few clips: whether the script runs.")


if __name__ == "__main__":
    console.start(main, define_flags)
