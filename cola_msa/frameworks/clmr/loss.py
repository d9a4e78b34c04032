"""NT-Xent: each crop is to find the other of its clip among all of the batch."""

from typing import NamedTuple

import tensorflow as tf

from cola_msa.model.losses import gather_candidates

# Finite, so that a masked column has probability 0 and a gradient of 0, never NaN.
_MASKED = -1e9


class Scores(NamedTuple):
    """What NT-Xent says of B pairs.

    Attributes:
        row_loss: float32 [B], the mean of a pair's two directions.
        is_correct: float32 [B], the share of the two directions in which the other
            crop is nearer than any other.
        columns: float32 scalar, crops that each one chooses from.
    """

    row_loss: tf.Tensor
    is_correct: tf.Tensor
    columns: tf.Tensor


def nt_xent(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    temperature: float,
    over_replicas: bool = False,
) -> Scores:
    """Cross-entropy of the cosines of 2N projections, each against all others.

    Args:
        anchor: float32 [B, D], projections of one crop of each clip.
        positive: float32 [B, D], of the other.
        temperature: Divides the cosines.
        over_replicas: Choose among the crops of all replicas, in a replica context;
            rows are this replica's.

    Returns:
        Scores; their mean loss is NT-Xent.

    Source: Chen et al. 2020 (SimCLR), equation 1.
    """
    anchors, positives = (
        tf.math.l2_normalize(tf.cast(z, tf.float32), axis=-1)
        for z in (anchor, positive)
    )
    size, first_row = tf.shape(anchors)[0], tf.constant(0)
    own = tf.concat([anchors, positives], axis=0)
    if over_replicas:
        both = tf.concat([anchors, positives], axis=1)
        both, _, first_row = gather_candidates(both, tf.ones([size], tf.bool))
        anchors, positives = tf.split(both, 2, axis=1)
    num_pairs = tf.shape(anchors)[0]
    candidates = tf.concat([anchors, positives], axis=0)
    logits = tf.matmul(own, candidates, transpose_b=True) / temperature
    pairs = first_row + tf.range(size)
    itself = tf.concat([pairs, num_pairs + pairs], axis=0)
    labels = tf.concat([num_pairs + pairs, pairs], axis=0)
    is_itself = tf.equal(tf.range(2 * num_pairs), itself[:, tf.newaxis])
    logits = tf.where(is_itself, _MASKED, logits)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    found = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
    return Scores(
        tf.reduce_mean(tf.reshape(losses, [2, -1]), axis=0),
        tf.reduce_mean(tf.reshape(tf.cast(found, tf.float32), [2, -1]), axis=0),
        tf.cast(2 * num_pairs - 1, tf.float32),
    )
