"""Retrieval on validation songs: which of 64 stems belongs to this mixture."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from cola_msa.audio.frontend import window_log_mels
from cola_msa.model.contrastive import PairModel, project_function
from cola_msa.pairs.draws import COLA, Draw
from cola_msa.pairs.eligible import find_rows
from cola_msa.pairs.sampler import PairSampler


def rank_scores(ranks: np.ndarray, num_candidates: np.ndarray) -> dict[str, float]:
    """Scores of queries' ranks, from 1, and chance's with as many candidates.

    Args:
        ranks: float [Q], Q at least 1.
        num_candidates: int [Q].
    """
    harmonic = [np.mean(1.0 / np.arange(1, n + 1)) for n in num_candidates]
    return {
        "top1": float(np.mean(ranks <= 1.0)),
        "mrr": float(np.mean(1.0 / ranks)),
        "chance_top1": float(np.mean(1.0 / num_candidates)),
        "chance_mrr": float(np.mean(harmonic)),
        "num_queries": len(ranks),
    }


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Ranks of the right candidate. N queries.

    Attributes:
        ranks: int64 [N], 1 is best; ties count half.
        songs: int64 [N], each query's song, for intervals over songs.
        source: int32 [N].
        num_candidates: int64 [N], how many candidates each query chose from.
    """

    ranks: np.ndarray
    songs: np.ndarray
    source: np.ndarray
    num_candidates: np.ndarray

    @property
    def top1(self) -> np.ndarray:
        """float64 [N], 1 where the right candidate ranks first."""
        return (self.ranks <= 1.0).astype(np.float64)

    @property
    def reciprocal(self) -> np.ndarray:
        """float64 [N], reciprocal ranks."""
        return 1.0 / self.ranks

    def scores(self) -> dict[str, float]:
        """Mean top-1, mean reciprocal rank, and what chance gives for both."""
        return {
            **rank_scores(self.ranks, self.num_candidates),
            "num_songs": len(np.unique(self.songs)),
        }


def retrieval_draws(
    sampler: PairSampler, num_candidates: int = 64, num_rounds: int = 4, seed: int = 0
) -> list[Draw]:
    """Draws rounds of active pairs from as many songs as there are.

    Args:
        sampler: Over the validation split.
        num_candidates: Pairs a round; fewer where fewer segments are eligible.
        num_rounds: Rounds a source.
        seed: Seed; equal seeds give equal rounds.

    Returns:
        Draws; within a round no segment comes twice, and songs take turns.
    """
    index = sampler.index
    song_of_clip = index.songs()
    usable, active, _ = find_rows(
        index, sampler.window_frames, [(source,) for source in sampler.sources]
    )
    draws = []
    for source, found in zip(
        sampler.sources or (COLA,), active or [usable], strict=True
    ):
        rows = found.all()
        for number in range(num_rounds):
            random = np.random.default_rng([seed, source + 1, number])
            order = random.permutation(rows)
            songs = song_of_clip[index.clip[order]]
            # A segment's turn: how many of its song's came before it.
            turn = np.zeros(len(order), np.int64)
            by_song = np.argsort(songs, kind="stable")
            sizes = np.unique(songs, return_counts=True)[1]
            turn[by_song] = np.arange(len(order)) - np.repeat(
                np.cumsum(sizes) - sizes, sizes
            )
            chosen = order[np.argsort(turn, kind="stable")][:num_candidates]
            if len(chosen) < 2:
                continue
            starts = index.num_frames[chosen] - sampler.window_frames + 1
            draws.append(
                Draw(
                    mode="active",
                    rows=chosen,
                    source=np.full(len(chosen), source, np.int32),
                    anchor_start=random.integers(0, starts),
                    positive_start=random.integers(0, starts),
                )
            )
    return draws


def project_draws(
    sampler: PairSampler, draws: list[Draw], project: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Projections of every draw's anchors and positives.

    Args:
        sampler: Reads the draws.
        draws: From `retrieval_draws`.
        project: float32 [N, frames, num_mels, 1] -> projections [N, D].

    Returns:
        For each draw of B pairs two float32 [B, D].
    """
    found = []
    for draw in draws:
        batch = sampler.read(draw)
        windows = np.concatenate([batch["anchor"], batch["positive"]])
        projections = np.asarray(project(tf.constant(windows, tf.float32)))
        anchor, positive = np.split(projections, 2)
        found.append((anchor, positive))
    return found


def rank_projections(
    sampler: PairSampler,
    draws: list[Draw],
    projections: list[tuple[np.ndarray, np.ndarray]],
    similarity: Any,
) -> Retrieval:
    """Ranks each mixture's own stem among its round's stems.

    Args:
        sampler: What the draws are of.
        draws: From `retrieval_draws`.
        projections: From `project_draws`.
        similarity: (anchors [B, D], candidates [C, D]) -> [B, C].

    Returns:
        Retrieval over all rounds' queries.

    Raises:
        ValueError: If there are no draws.
    """
    if not draws:
        raise ValueError("the split has too few active segments for retrieval")
    song_of_clip = sampler.index.songs()
    ranks, songs, source, counts = [], [], [], []
    for draw, (anchor, positive) in zip(draws, projections, strict=True):
        scores = np.asarray(
            similarity(tf.constant(anchor), tf.constant(positive)), np.float64
        )
        own = np.diag(scores)[:, np.newaxis]
        better = (scores > own).sum(1)
        equal = (scores == own).sum(1) - 1
        ranks.append(1.0 + better + 0.5 * equal)
        songs.append(song_of_clip[sampler.index.clip[draw.rows]])
        source.append(draw.source)
        counts.append(np.full(len(draw.rows), len(draw.rows)))
    return Retrieval(*map(np.concatenate, (ranks, songs, source, counts)))


def retrieve(
    sampler: PairSampler,
    draws: list[Draw],
    project: Any,
    similarity: Any,
) -> Retrieval:
    """`project_draws` and `rank_projections` in one.

    Args:
        sampler: Reads the draws.
        draws: From `retrieval_draws`.
        project: float32 [N, frames, num_mels, 1] -> projections [N, D].
        similarity: (anchors [B, D], candidates [C, D]) -> [B, C].

    Returns:
        Retrieval over all rounds' queries.

    Raises:
        ValueError: If there are no draws.
    """
    projections = project_draws(sampler, draws, project)
    return rank_projections(sampler, draws, projections, similarity)


def spectral_profiles(windows: np.ndarray) -> np.ndarray:
    """What anybody sees in a window without learning: its spectrum's fine shape.

    The mean log-mel over the frames, each band less half of its two neighbours; bands
    at the edges have one neighbour and are left out. Compared by the cosine, this is
    the baseline that a trained network has to beat.

    Args:
        windows: float32 [N, frames, num_mels, 1].

    Returns:
        float32 [N, num_mels - 2], of unit length; zeros for a window without shape.
    """
    mean = np.asarray(windows, np.float64)[..., 0].mean(axis=1)
    shape = mean[:, 1:-1] - (mean[:, :-2] + mean[:, 2:]) / 2
    length = np.linalg.norm(shape, axis=1, keepdims=True)
    # Log-mels are float16: what is smaller than their rounding is no shape.
    is_flat = length < 1e-6
    return np.where(is_flat, 0.0, shape / np.where(is_flat, 1.0, length)).astype(
        np.float32
    )


def _product(anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    return tf.matmul(anchors, candidates, transpose_b=True)


def retrieve_without_learning(sampler: PairSampler, draws: list[Draw]) -> Retrieval:
    """Retrieval by the cosine of `spectral_profiles`, of waveforms' log-mels too.

    Args:
        sampler: Reads the draws.
        draws: From `retrieval_draws`.

    Raises:
        ValueError: If there are no draws.
    """
    frontend = sampler.data.frontend

    def profiles(windows: tf.Tensor) -> np.ndarray:
        return spectral_profiles(window_log_mels(windows, frontend))

    return retrieve(sampler, draws, profiles, _product)


def paired_interval(
    first: np.ndarray,
    second: np.ndarray,
    songs: np.ndarray,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of mean(first) - mean(second), resampling whole songs.

    Args:
        first: float64 [N], one measure a query.
        second: float64 [N], the same queries under another model.
        songs: int64 [N].
        num_resamples: Bootstrap resamples.
        seed: Seed.

    Returns:
        Lower and upper end.
    """
    names, inverse = np.unique(songs, return_inverse=True)
    sums = np.bincount(inverse, weights=first - second)
    sizes = np.bincount(inverse)
    random = np.random.default_rng(seed)
    picked = random.integers(0, len(names), (num_resamples, len(names)))
    means = sums[picked].sum(1) / sizes[picked].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


NUM_CANDIDATES = 64
NUM_ROUNDS = 8


def retrieval_of(model: PairModel, sampler: PairSampler) -> Retrieval:
    """Retrieval of one model on fixed rounds of the sampler's split.

    Args:
        model: Network and similarity.
        sampler: Over the split to draw from.
    """
    draws = retrieval_draws(sampler, NUM_CANDIDATES, NUM_ROUNDS)
    return retrieve(sampler, draws, project_function(model), model.similarity)
