"""One optimizer update on any distribution: whole, accumulated, or in parts.

`accumulate=k` is k mini-batches an update, each contrasted alone; the update takes the
mean of their gradients. `micro_batch=m` is one mini-batch that goes through the network
in parts of m pairs and is contrasted whole (cached gradients): first all projections
without a tape, then the loss and its gradient by the projections, then each part again
with a tape, through which that gradient flows. Memory for activations is that of m
pairs; the price is a second forward pass. Both passes draw the same masks of stochastic
depth, and moving statistics move once. What differs from one whole pass is batch
normalization, which sees the parts one by one.

Source: GradCache (Gao et al. 2021) for the two passes.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.model.contrastive import Batch, PairModel
from cola_msa.system.errors import UserError

Gradients = list[tf.Tensor]


class UpdateError(UserError):
    """An update that cannot be made so."""


def num_parts(train: TrainConfig) -> int:
    """How many parts a mini-batch goes through the network in.

    Raises:
        UpdateError: If `micro_batch` does not divide the batch size.
    """
    if not train.micro_batch:
        return 1
    if train.batch_size % train.micro_batch:
        raise UpdateError(
            f"--micro_batch={train.micro_batch} must divide "
            f"--batch_size={train.batch_size}"
        )
    return train.batch_size // train.micro_batch


class Updater:
    """Makes updates; calls of one distribution's workers must be in step."""

    def __init__(
        self,
        model: PairModel,
        strategy: tf.distribute.Strategy,
        train: TrainConfig,
        sources: tuple[str, ...] = (),
        jit_compile: bool = False,
    ):
        """Traces nothing yet.

        Args:
            model: Compiled in the strategy's scope.
            strategy: TensorFlow's distribution.
            train: accumulate, micro_batch and batches are used.
            sources: The data's sources, for scalars of each.
            jit_compile: Whether XLA compiles what is computed within a replica.

        Raises:
            UpdateError: If micro_batch does not divide the batch size.
        """
        self._model = model
        self._strategy = strategy
        self._accumulate = train.accumulate
        self._micro_batch = train.micro_batch
        self._num_parts = num_parts(train)
        self._sources = sources if train.batches != "active_any" else ()
        self._names: list[str] = []
        self._pair_gradients = model.pair_gradients
        if jit_compile:
            self._pair_gradients = tf.function(model.pair_gradients, jit_compile=True)
        self._whole = tf.function(self._whole_update)
        self._add = tf.function(self._add_gradients)
        self._seeds = tf.function(self._read_seeds)
        self._project = tf.function(self._project_part)
        self._contrast = tf.function(self._contrast_parts)
        self._backward = tf.function(self._backward_part)
        self._apply = tf.function(self._apply_mean)

    def __call__(self, batches: Any) -> dict[str, tf.Tensor]:
        """Makes one update.

        Args:
            batches: A mini-batch a replica; with accumulate > 1 a list of them.

        Returns:
            Means over replicas (and mini-batches) of `train_step`'s scalars, and with
            sources `count/<source>` and `loss/<source>`.
        """
        if self._accumulate == 1 and self._num_parts == 1:
            return self._unpack(self._whole(batches))
        if self._accumulate == 1:
            batches = [batches]
        sums: Any = None
        rows = []
        for batch in batches:
            if self._num_parts == 1:
                sums, row = self._add(batch, sums)
            else:
                sums, row = self._cached(batch, sums)
            rows.append(row)
        self._apply(sums)
        return self._unpack(tf.reduce_mean(tf.stack(rows), axis=0))

    def _unpack(self, row: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(self._names, tf.unstack(row), strict=True))

    def _row(self, data: Batch, scalars: Batch) -> tf.Tensor:
        """A replica's scalars as one vector: one reduction instead of a dozen."""
        scalars = dict(scalars)
        for number, name in enumerate(self._sources):
            chosen = tf.cast(tf.equal(data["source"][0], number), tf.float32)
            scalars[f"count/{name}"] = chosen
            scalars[f"loss/{name}"] = chosen * scalars["loss"]
        self._names = list(scalars)
        return tf.stack([tf.cast(value, tf.float32) for value in scalars.values()])

    def _mean(self, per_replica: Any) -> tf.Tensor:
        return self._strategy.reduce("MEAN", per_replica, axis=None)

    def _whole_update(self, batch: Any) -> tf.Tensor:
        def replica_update(data: Batch) -> tf.Tensor:
            if self._pair_gradients == self._model.pair_gradients:
                return self._row(data, self._model.train_step(data))
            gradients, scalars = self._pair_gradients(data)
            self._model.apply_gradients(gradients)
            return self._row(data, scalars)

        return self._mean(self._strategy.run(replica_update, args=(batch,)))

    def _add_gradients(self, batch: Any, sums: Any) -> tuple[Any, tf.Tensor]:
        """Adds a mini-batch's gradients to those of the ones before it."""

        def replica_add(data: Batch, sums: Any) -> tuple[Gradients, tf.Tensor]:
            gradients, scalars = self._pair_gradients(data)
            return _added(sums, gradients), self._row(data, scalars)

        sums, row = self._strategy.run(replica_add, args=(batch, sums))
        return sums, self._mean(row)

    def _apply_mean(self, sums: Any) -> None:
        def replica_apply(sums: Gradients) -> None:
            self._model.apply_gradients([s / self._accumulate for s in sums])

        self._strategy.run(replica_apply, args=(sums,))

    # Cached gradients ----------------------------------------------------------------

    def _cached(self, batch: Any, sums: Any) -> tuple[Any, tf.Tensor]:
        parts = [tf.constant(number) for number in range(self._num_parts)]
        seeds = self._seeds()
        projections = []
        for part in parts:
            found, seeds = self._project(batch, part, seeds)
            projections.append(found)
        cached, sums, row = self._contrast(batch, projections, sums)
        for part in parts:
            sums = self._backward(batch, part, cached, sums)
        return sums, row

    def _cut(self, data: Batch, part: tf.Tensor) -> Batch:
        first = part * self._micro_batch
        return {name: v[first : first + self._micro_batch] for name, v in data.items()}

    def _read_seeds(self) -> Any:
        return self._strategy.run(
            lambda: [tf.identity(s.value) for s in self._model.seed_states()]
        )

    def _project_part(self, batch: Any, part: tf.Tensor, seeds: Any) -> Any:
        """Projections of a part; the state of the model stays as it is."""

        def replica_project(data: Batch, part: tf.Tensor, seeds: list) -> Any:
            states = self._model.seed_states()
            scope = keras.StatelessScope(list(zip(states, seeds, strict=True)))
            with scope:
                found = self._model.project_pairs(self._cut(data, part), training=True)
                following = [tf.identity(state.value) for state in states]
            return found, following

        return self._strategy.run(replica_project, args=(batch, part, seeds))

    def _contrast_parts(self, batch: Any, projections: Any, sums: Any) -> Any:
        """Gradients of the whole batch's loss by its projections.

        Returns:
            Gradients by anchors' and positives' projections; the gradients' sums with
            those of the similarity's own weights; the scalars.
        """

        def replica_contrast(data: Batch, parts: Sequence, sums: Any) -> Any:
            model = self._model
            anchor = tf.concat([anchor for anchor, _ in parts], axis=0)
            positive = tf.concat([positive for _, positive in parts], axis=0)
            with tf.GradientTape() as tape:
                tape.watch([anchor, positive])
                scores = model.score_projections(
                    anchor, positive, data["is_active"], training=True
                )
                scaled_loss = model.scale_loss(scores["loss"])
            by_projection, own = tape.gradient(
                scaled_loss,
                ((anchor, positive), [v.value for v in model.trainable_variables]),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            row = self._row(data, model.summarize(data, scores))
            return by_projection, _added(sums, own), row

        cached, sums, row = self._strategy.run(
            replica_contrast, args=(batch, projections, sums)
        )
        return cached, sums, self._mean(row)

    def _backward_part(
        self, batch: Any, part: tf.Tensor, cached: Any, sums: Any
    ) -> Any:
        """Adds the gradients that flow back through a part's projections."""

        def replica_backward(
            data: Batch, part: tf.Tensor, cached: Sequence, sums: Gradients
        ) -> Gradients:
            model = self._model
            first = part * self._micro_batch
            with tf.GradientTape() as tape:
                projections = model.project_pairs(self._cut(data, part), training=True)
            gradients = tape.gradient(
                projections,
                [v.value for v in model.trainable_variables],
                output_gradients=[g[first : first + self._micro_batch] for g in cached],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return _added(sums, gradients)

        return self._strategy.run(replica_backward, args=(batch, part, cached, sums))


def _added(sums: Gradients | None, gradients: Gradients) -> Gradients:
    if sums is None:
        return gradients
    return [s + g for s, g in zip(sums, gradients, strict=True)]
