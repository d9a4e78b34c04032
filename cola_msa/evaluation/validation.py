"""The pretext task's validation, which leaves the training's state as it is."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cola_msa.evaluation import retrieval
from cola_msa.model import replicas
from cola_msa.model.contrastive import PairModel, project_function
from cola_msa.model.statistics import BatchStatistics, StatisticsEstimator
from cola_msa.pairs.sampler import PairSampler

# Updates whose pairs serve batch-norm statistics; no training update reaches them.
_STATISTICS_UPDATE = 2**40
_FIRST_PAIRS = 1024  # of statistics before the first update


class Validator:
    """Re-estimates batch-norm statistics, and scores the validation split."""

    def __init__(
        self,
        model: PairModel,
        training: PairSampler,
        validation: PairSampler | None,
        statistics_batches: int,
    ):
        """Traces nothing yet.

        Args:
            model: The model that is trained.
            training: Gives the pairs of batch-norm statistics.
            validation: Gives the pairs to score; None where nothing is validated.
            statistics_batches: Batches that the statistics are averaged over.
        """
        self.model = model
        self._training = training
        self._validation = validation
        self._statistics_batches = statistics_batches
        self.forget_graphs()

    def forget_graphs(self) -> None:
        """Makes all graphs anew: traced ones hold the input normalization."""
        model = self.model
        self._estimator = StatisticsEstimator(model)
        self._project = project_function(model)
        frames, mels = model.frontend.window_frames, model.frontend.num_mels
        windows = tf.TensorSpec([None, frames, mels, 1], tf.float32)
        is_active = tf.TensorSpec([None], tf.bool)
        # One graph for all batch sizes, so that it does not matter which came first.
        self._test = tf.function(
            model.test_step,
            input_signature=[
                {"anchor": windows, "positive": windows, "is_active": is_active}
            ],
        )

    def estimate_statistics(
        self,
        before_batch: Callable[[], None] = lambda: None,
        is_first: bool = False,
    ) -> dict[str, BatchStatistics]:
        """Batch-norm statistics of the weights as they are, from training pairs.

        Args:
            before_batch: Called before every batch; what it raises comes through.
            is_first: Whether they are those before the first update, which users wait
                for: from a thousand pairs at most.

        Returns:
            Those of `anchors`, for an encoder that sees mixtures, and of `pairs`, for
            the pretext task, which sees stems too.
        """
        num_batches = self._statistics_batches
        if is_first:
            enough = -(-_FIRST_PAIRS // self._training.batch_size)
            num_batches = min(num_batches, enough)

        def batches(has_positives: bool) -> Iterator[tf.Tensor]:
            for number in range(num_batches):
                before_batch()
                pair = self._training.batch(_STATISTICS_UPDATE + number)
                windows = pair["anchor"]
                if has_positives:
                    windows = np.concatenate([windows, pair["positive"]])
                yield tf.constant(windows, tf.float32)

        found = {
            "anchors": self._estimator.estimate(batches(False)),
            "pairs": self._estimator.estimate(batches(True)),
        }
        if self.model.level_embedding is not None:
            for inputs, statistics in found.items():
                with self._statistics_of(statistics):
                    moments = self._estimator.embedding_moments(
                        batches(inputs == "pairs")
                    )
                found[inputs] = dataclasses.replace(statistics, embedding=moments)
        return found

    def validate(
        self,
        statistics: BatchStatistics,
        before_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Scores the validation split in inference mode.

        Args:
            statistics: Batch-norm statistics to use; every replica's own come back
                after, bit for bit.
            before_batch: Called before every batch; what it raises comes through.

        Returns:
            Means over the fixed validation batches of what `test_step` returns, and
            retrieval's `top1` and `mrr`.
        """
        assert self._validation is not None
        with self._statistics_of(statistics):
            found = self._score(self._validation, before_batch)
            scores = self._retrieve(self._validation)
            if scores:
                found |= {"top1": scores["top1"], "mrr": scores["mrr"]}
        return found

    def references(self, statistics: BatchStatistics) -> dict[str, float]:
        """What the retrieval of `validate` is to be compared with.

        Args:
            statistics: Of the network as it is, which is to be the untrained one.

        Returns:
            Top-1 of chance, of the untrained network, and without learning (see
            `retrieval.spectral_profiles`); empty where the split has too few songs.
        """
        assert self._validation is not None
        draws = retrieval.retrieval_draws(self._validation, num_rounds=1)
        if not draws:
            return {}
        with self._statistics_of(statistics):
            untrained = self._retrieve(self._validation)
        without = retrieval.retrieve_without_learning(self._validation, draws)
        return {
            "chance_top1": untrained["chance_top1"],
            "untrained_top1": untrained["top1"],
            "no_learning_top1": without.scores()["top1"],
        }

    @contextlib.contextmanager
    def _statistics_of(self, statistics: BatchStatistics) -> Iterator[None]:
        """Within, inference uses these; after, every replica's own, bit for bit."""
        own = [
            (variable, replicas.replica_values(variable))
            for layer in self.model.batch_norm_layers()
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        if (level := self.model.level_embedding) is not None:
            own += [(v, replicas.replica_values(v)) for v in level.variables]
        statistics.assign_to(self.model)
        try:
            yield
        finally:
            for variable, values in own:
                replicas.assign_replicas(variable, values)

    def _retrieve(self, validation: PairSampler) -> dict[str, float]:
        draws = retrieval.retrieval_draws(validation, num_rounds=1)
        if not draws:
            return {}
        similarity = self.model.similarity
        found = retrieval.retrieve(validation, draws, self._project, similarity)
        return found.scores()

    def _score(
        self, validation: PairSampler, before_batch: Callable[[], None]
    ) -> dict[str, float]:
        rows, sizes = [], []
        for draw in validation.validation_draws():
            before_batch()
            batch = validation.read(draw)
            tensors = {
                "anchor": tf.constant(batch["anchor"], tf.float32),
                "positive": tf.constant(batch["positive"], tf.float32),
                "is_active": tf.constant(batch["is_active"]),
            }
            rows.append({k: float(v) for k, v in self._test(tensors).items()})
            sizes.append(len(draw.rows))
        return {
            name: float(np.average([row[name] for row in rows], weights=sizes))
            for name in rows[0]
        }
