"""A sampler's mini-batches as a tf.data pipeline."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from cola_msa.pairs.windows import STEM_KEYS

if TYPE_CHECKING:
    from cola_msa.pairs.sampler import PairSampler


def pair_dataset(
    sampler: "PairSampler",
    first_update: int,
    num_updates: int | None,
    num_replicas: int,
    num_micro_batches: int,
    first_replica: int,
) -> tf.data.Dataset:
    """Mini-batches in the order of `PairSampler.dataset`, which has the arguments."""
    num_elements = num_replicas * num_micro_batches
    start = first_update * num_elements
    stop = np.iinfo(np.int64).max
    if num_updates is not None:
        stop = start + num_updates * num_elements

    def place(number: Any) -> tuple[Any, Any, Any]:
        """Update, replica and micro-batch of an element."""
        rest, replica = number // num_replicas, number % num_replicas
        return (
            rest // num_micro_batches,
            first_replica + replica,
            rest % num_micro_batches,
        )

    with_stems = sampler.is_remixed
    types = [tf.float16, tf.float16, tf.bool, tf.int32]
    types += [tf.float16, tf.bool] if with_stems else []

    def load(number: np.ndarray) -> tuple[np.ndarray, ...]:
        place_of_batch = place(int(number))
        return tuple(sampler.batch(*place_of_batch, with_stems=with_stems).values())

    def parse(number: tf.Tensor) -> dict[str, tf.Tensor]:
        anchor, positive, is_active, source, *stems = tf.numpy_function(
            load, [number], types
        )
        shape = [sampler.batch_size, sampler.window_frames, sampler.num_mels, 1]
        batch = {
            "anchor": tf.cast(tf.ensure_shape(anchor, shape), tf.float32),
            "positive": tf.cast(tf.ensure_shape(positive, shape), tf.float32),
            "is_active": tf.ensure_shape(is_active, shape[:1]),
            "source": tf.ensure_shape(source, shape[:1]),
        }
        if with_stems:
            shape = [sampler.batch_size, len(sampler.data.sources), *shape[1:3]]
            values = tf.cast(tf.ensure_shape(stems[0], shape), tf.float32)
            is_active = tf.ensure_shape(stems[1], shape[:2])
            batch |= dict(zip(STEM_KEYS, (values, is_active), strict=True))
        return sampler.augment(batch, *place(number))

    options = tf.data.Options()
    # Elements are whole mini-batches already, in the order of the replicas.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return (
        tf.data.Dataset.range(start, stop)
        .map(parse, num_parallel_calls=2, deterministic=True)
        .prefetch(2 * num_elements)
        .with_options(options)
    )
