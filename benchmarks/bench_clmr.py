"""CLMR's augmentations beside two libraries', and whether a network waits for them.

    python benchmarks/bench_clmr.py [--repetitions=7] [--quick]

Batches of 96 windows of 59,049 samples at 22,050 Hz, the two views of 48 pairs. All
chains have the published chances and ranges; the libraries' run in two threads. They
are compared where they are installed: `pip install audiomentations pedalboard`. The
update is of SampleCNN and NT-Xent, ours beside the same written plainly in Keras; its
batches, of 12 pairs because of their memory, come by `tf.data`, as in training.
"""

import concurrent.futures
import importlib.util
import itertools
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import common
import keras
import numpy as np
import tensorflow as tf
from absl import flags

from cola_msa.config import presets
from cola_msa.frameworks import choose
from cola_msa.frameworks.clmr import augment, echoes, filters, levels, pitch
from cola_msa.model import optimizers
from cola_msa.system import console

RATE, SAMPLES = 22050, 59049
OURS = "cola_msa"
_TEMPERATURE = 0.5
_CHANNELS = (128, 128, 256, 256, 256, 256, 256, 256, 512)


def music(num_windows: int, samples: int = SAMPLES) -> np.ndarray:
    """Chords under decaying envelopes with noise, float32 [windows, samples]."""
    generator = np.random.default_rng(0)
    time_s = np.arange(samples) / RATE
    windows = np.zeros((num_windows, samples))
    for window in windows:
        for midi in generator.integers(36, 84, 4):
            frequency = 440 * 2 ** ((midi - 69) / 12)
            for harmonic in range(1, 7):
                phase = 2 * np.pi * (harmonic * frequency * time_s + generator.random())
                window += np.sin(phase) / harmonic
        window *= np.exp(-3 * (time_s * generator.uniform(1, 4) % 1))
        window += generator.normal(0, 0.05, samples)
        window *= 0.7 / np.abs(window).max()
    return windows.astype(np.float32)


def library_chain(pitch_by: str) -> Callable[[np.ndarray], np.ndarray]:
    """The chain of one window by audiomentations and pedalboard.

    Args:
        pitch_by: `audiomentations` or `pedalboard`, whose pitch shift is used.
    """
    import audiomentations as am
    import pedalboard as pb

    chances = augment.PROBABILITIES
    noise_db = [-20 * np.log10(ratio) for ratio in levels.NOISE_RATIO]
    filter_of = (
        am.HighPassFilter(*filters.HIGH_PASS_HZ, p=1.0),
        am.LowPassFilter(*filters.LOW_PASS_HZ, p=1.0),
    )
    first = am.Compose(
        [
            am.PolarityInversion(p=chances["polarity"]),
            am.AddGaussianSNR(min(noise_db), max(noise_db), p=chances["noise"]),
            am.Gain(*levels.GAIN_DB, p=chances["gain"]),
            am.OneOf(list(filter_of), p=chances["filter"]),
        ]
    )
    low, high = (cents / 100 for cents in pitch.PITCH_CENTS)
    shift = am.PitchShift(low, high, p=1.0)

    def chain(window: np.ndarray) -> np.ndarray:
        window = first(window, sample_rate=RATE)
        if random.random() < chances["delay"]:
            seconds = random.choice(echoes.DELAY_MS) / 1000
            # (x + d / 2) / 2 as what its mix of x and d gives, scaled.
            window = 0.75 * pb.Delay(seconds, 0.0, 1 / 3)(window, RATE)
        if random.random() < chances["pitch"]:
            if pitch_by == "pedalboard":
                semitones = random.uniform(low, high)
                window = pb.PitchShift(semitones)(window, RATE)
            else:
                window = shift(window, sample_rate=RATE)
        if random.random() < chances["reverb"]:
            room = pb.Reverb(
                room_size=random.random(), damping=random.random(), dry_level=0.5
            )
            window = room(window, RATE)
        return window

    return chain


def our_chain(
    windows: np.ndarray, chances: Mapping[str, float] = augment.PROBABILITIES
) -> Callable[[], Any]:
    """Augments the windows, at every call by other draws."""
    batch = tf.constant(windows)
    spec = tf.TensorSpec([2], tf.int64)
    # Traced once and for itself, or TensorFlow warns of one function traced often.
    chain = tf.function(augment.build_chain(RATE, chances))
    chain = chain.get_concrete_function(batch, spec)
    numbers = itertools.count()
    return lambda: chain(batch, tf.constant([0, next(numbers)], tf.int64)).numpy()


def their_chain(windows: np.ndarray, pitch_by: str) -> Callable[[], Any]:
    """The same by the libraries, which let go of Python's lock, in two threads."""
    chain = library_chain(pitch_by)
    pool = concurrent.futures.ThreadPoolExecutor(2)
    return lambda: np.stack(list(pool.map(chain, windows)))


def pipeline(windows: np.ndarray) -> tf.data.Dataset:
    """Augmented batches without an end, as training maps them."""
    batch = tf.constant(windows)
    chain = augment.build_chain(RATE)

    def change(number: tf.Tensor) -> tf.Tensor:
        return chain(batch, tf.stack([tf.constant(0, tf.int64), number]))

    return tf.data.Dataset.counter().map(change, num_parallel_calls=2).prefetch(2)


def plain_update(num_samples: int) -> Callable[[tf.Tensor], float]:
    """An update of SampleCNN by NT-Xent of 2 N windows, Keras's own layers."""
    layers = keras.layers
    inputs = keras.Input((num_samples, 1))
    hidden = layers.Conv1D(128, 3, strides=3)(inputs)
    hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    for channels in _CHANNELS:
        if hidden.shape[1] < 3:
            break  # --quick
        hidden = layers.Conv1D(channels, 3, padding="same")(hidden)
        hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
        hidden = layers.MaxPooling1D(3)(hidden)
    hidden = layers.Conv1D(512, 3, padding="same")(hidden)
    hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    hidden = layers.GlobalAveragePooling1D()(hidden)
    hidden = layers.Dense(512, activation="relu", use_bias=False)(hidden)
    model = keras.Model(inputs, layers.Dense(64, use_bias=False)(hidden))
    optimizer = keras.optimizers.Adam(3e-4)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(windows: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            projection = model(windows[..., tf.newaxis], training=True)
            projection = tf.math.l2_normalize(projection, axis=1)
            count = tf.shape(projection)[0]
            logits = tf.matmul(projection, projection, transpose_b=True) / _TEMPERATURE
            logits = tf.linalg.set_diag(logits, tf.fill([count], logits.dtype.min))
            label = (tf.range(count) + count // 2) % count
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
            )
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda windows: float(step(windows))


def our_update(num_samples: int, num_pairs: int) -> Callable[[tf.Tensor], float]:
    """An update as `train --framework=clmr` makes it."""
    config = presets.PRESETS["clmr" if num_samples >= SAMPLES else "clmr_smoke"]
    model = choose.framework_of(config).build_network(config, {}, 0)
    model.compile(optimizer=optimizers.build_optimizer(config.train))
    model.optimizer.build(model.trainable_variables)
    pairs = {"is_active": tf.ones([num_pairs], tf.bool)}
    frame = config.frontend.num_mels

    @tf.function
    def step(windows: tf.Tensor) -> tf.Tensor:
        frames = tf.reshape(windows, [2, num_pairs, num_samples // frame, frame, 1])
        return model.train_step({"anchor": frames[0], "positive": frames[1], **pairs})

    return lambda windows: float(step(windows)["loss"])


def measure_waiting(
    dataset: tf.data.Dataset, update: Callable[[tf.Tensor], Any], num_updates: int
) -> float:
    """Share of the time that updates wait for their batches."""
    batches = iter(dataset)
    update(next(batches))
    waited, begin = 0.0, time.monotonic()
    for _ in range(num_updates):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        update(batch)
    return waited / (time.monotonic() - begin)


def main(options: flags.FlagValues) -> None:
    """Prints the tables."""
    quick = options.quick
    num_windows, samples = (8, 6561) if quick else (2 * options.batch_size, SAMPLES)
    repetitions = 2 if quick else options.repetitions
    windows = music(num_windows, samples)
    ways = {OURS: our_chain(windows)}
    missing = [
        name
        for name in ("audiomentations", "pedalboard")
        if importlib.util.find_spec(name) is None
    ]
    if not missing:
        ways["audiomentations; delay, reverb: pedalboard"] = their_chain(
            windows, "audiomentations"
        )
        ways["the same; pitch, too: pedalboard"] = their_chain(windows, "pedalboard")
    found = common.paired_medians(ways, repetitions)
    rows = [
        (
            name,
            times["cpu"],
            times["wall"],
            num_windows / 2 / times["cpu"],
            times["ratio"],
        )
        for name, times in found.items()
    ]
    print(f"Batches of {num_windows} augmented windows, load {common.load()}\n")
    header = ("chain", "CPU-s a batch", "s a batch", "pairs/CPU-s", "of ours")
    print(common.table(header, rows))
    if missing:
        print(f"\nnot compared: {' and '.join(missing)} cannot be imported")

    effects = {}
    for name, probability in augment.PROBABILITIES.items():
        chances = dict.fromkeys(augment.PROBABILITIES, 0.0) | {name: probability}
        effects[name] = our_chain(windows, chances)
    found = common.paired_medians(effects, repetitions)
    header = ("effect, as often as published", "CPU-s a batch")
    effect_rows = [(name, times["cpu"]) for name, times in found.items()]
    print(f"\n{common.table(header, effect_rows)}")

    # Fewer windows: an update keeps some 90 MB of activations a window.
    views = windows[: 4 if quick else 2 * options.update_pairs]
    update, plain = our_update(samples, len(views) // 2), plain_update(samples)
    batch = tf.constant(views)
    ways = {
        OURS: lambda: update(batch),
        "plain Keras": lambda: plain(batch),
        "augmentations": our_chain(views),
    }
    timed = common.paired_medians(ways, 1 if quick else 3)
    update_rows = [
        (name, times["cpu"], times["wall"], times["ratio"])
        for name, times in timed.items()
    ]
    header = (f"update of {len(views) // 2} pairs", "CPU-s", "s", "of ours")
    print(f"\n{common.table(header, update_rows)}")
    num_updates = 2 if quick else options.updates
    waiting = measure_waiting(pipeline(views), update, num_updates)
    print(f"\nThe network waits for its batches {100 * waiting:.2f} % of the time")


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("batch_size", 48, "Pairs a batch.", lower_bound=1)
    flags.DEFINE_integer("repetitions", 7, "Rounds of the chains.", lower_bound=1)
    flags.DEFINE_integer("update_pairs", 12, "Pairs an update.", lower_bound=1)
    flags.DEFINE_integer("updates", 10, "Updates to wait in.", lower_bound=1)
    flags.DEFINE_bool("quick", False, "A few windows: whether the script runs.")


if __name__ == "__main__":
    console.start(main, define_flags)
