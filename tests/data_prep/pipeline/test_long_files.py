"""Chunks that are cross-faded, waveforms in pieces, and stems that are kept."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import soundfile
from absl import flags

from cola_msa.audio import decode
from cola_msa.config import schema
from cola_msa.config.schema import FrontendConfig
from cola_msa.system import console
from data_prep import separate
from data_prep.datasets import folder, mtat
from data_prep.datasets.base import Clip, IndexOptions
from data_prep.pipeline import plan, processes, runner, segments
from data_prep.pipeline.progress import Progress
from data_prep.stems import separator as separator_lib
from data_prep.stems.stream import ChunkedSeparation, Chunking
from data_prep.stems.waveforms import Waveform
from tests.data_prep.pipeline.test_runner import digests
from tests.helpers import trees


@pytest.mark.parametrize("num_samples", [1, 999, 1000, 1001, 1150, 5432])
@pytest.mark.parametrize("block", [70, 3000])
def test_chunks_join_to_the_whole(num_samples, block):
    """A separator that does nothing: seams must not show."""
    mixture = np.random.default_rng(0).normal(0, 1, (2, num_samples))
    mixture = mixture.astype(np.float32)
    lengths = []

    def separate_chunk(samples: np.ndarray) -> np.ndarray:
        lengths.append(samples.shape[1])
        return np.stack([samples[0], 2 * samples[1], -samples[0]])

    chunking = Chunking(chunk_windows=10, overlap_windows=2, fade_seconds=0.1)
    stream = ChunkedSeparation(separate_chunk, 2, 500, 100, chunking)
    parts = []
    for start in range(0, num_samples, block):
        parts += stream.push(mixture[:, start : start + block])
    found = np.concatenate(parts + stream.finish(), axis=1)
    expected = np.stack([mixture[0], 2 * mixture[1], -mixture[0]])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert max(lengths) <= 1000
    assert (len(lengths) == 1) == (num_samples <= 1000)


def test_a_chunked_clip_is_near_the_whole(openunmix, weights_dir):
    samples = np.stack([trees.chirp(12, 44100, seed=k) for k in (0, 1)])
    decoded = decode.Audio(samples, 44100)
    found = {}
    for chunk_windows in (8, 2):  # of 3.5 s
        chunking = Chunking(chunk_windows, 1, 0.5)
        separator = separator_lib.Separator(
            "weights", weights_dir, 1, 0, chunking=chunking
        )
        found[chunk_windows] = separator.separate(decoded, 16000)
    for source, whole in found[8].items():
        chunked = found[2][source]
        assert chunked.shape == whole.shape
        error = np.square(chunked - whole).sum() / np.square(whole).sum()
        assert 10 * np.log10(error + 1e-12) < -30


@pytest.mark.parametrize(
    ("peak", "exponent"), [(0.0, 0), (0.5, 0), (1.0, 1), (3.7, 2), (100.0, 7)]
)
def test_quantized_stems_never_clip(peak, exponent):
    samples = np.linspace(-peak, peak, 1001, dtype=np.float32)
    waveform = Waveform(samples).quantize()
    step = 2.0 ** (waveform.exponent - 23)
    assert np.abs(waveform.read() - samples).max() <= step / 2
    assert np.abs(waveform.integers(0, 1001)).max() < 2**23
    assert waveform.exponent == exponent


def test_a_waveform_in_a_file_is_one_in_memory(monkeypatch):
    samples = trees.chirp(20)
    whole = Waveform(samples)
    monkeypatch.setattr("data_prep.stems.waveforms._MEMORY_BYTES", 1000)
    spooled = Waveform()
    for start in range(0, len(samples), 777):
        spooled.append(samples[start : start + 777])
    assert spooled._file._rolled and not whole._file._rolled
    np.testing.assert_array_equal(spooled.read(), samples)
    np.testing.assert_array_equal(spooled.read(1000, 5000), samples[1000:5000])
    assert spooled.sum_of_squares() == whole.sum_of_squares()
    padded = spooled.fit(len(samples) + 5).read()[-5:]
    np.testing.assert_array_equal(padded, np.zeros(5))


def test_groups_of_segments_give_what_one_group_gives(monkeypatch):
    clip = Clip("id", "path", "train", "song")
    config = plan.PrepConfig(sources=("bass",))
    found = []
    for size in (64, 2):
        monkeypatch.setattr(segments, "_GROUP_SEGMENTS", size)
        waves = Waveform(trees.chirp(21)), {"bass": Waveform(trees.chirp(21, seed=1))}
        found.append(list(segments.clip_segments(clip, *waves, config)))
    assert len(found[0]) == len(found[1]) == 6
    for one, other in zip(*found, strict=True):
        assert (one.segment, one.is_active) == (other.segment, other.is_active)
        np.testing.assert_allclose(one.mixture, other.mixture, atol=4e-3)
        np.testing.assert_allclose(one.stems["bass"], other.stems["bass"], atol=4e-3)


def _prepare(root, output, weights_dir, stems_cache=None):
    config = plan.PrepConfig(
        dataset="mtat",
        frontend=FrontendConfig(),
        sources=("vocals", "drums", "bass", "other"),
        stems="separator",
        separator=str(weights_dir),
        options=IndexOptions(),
    )
    return runner.prepare(
        mtat.DATASET, config, root, output, 1, False, stems_cache=stems_cache
    )


def _separate(root, cache, weights_dir, *more: str) -> int:
    values = flags.FlagValues()
    separate.define_flags(values)
    paths = [f"--dataset_dir={root}", f"--stems_cache={cache}"]
    values(["x", "--dataset=mtat", f"--separator={weights_dir}", *paths, *more])
    return console.run(separate.main, values)


def test_the_cache_gives_the_shards_of_direct_preparation(
    openunmix, weights_dir, tmp_path, monkeypatch, capsys
):
    root = trees.write_mtat(tmp_path / "raw")
    _prepare(root, tmp_path / "direct", weights_dir)
    cache = tmp_path / "cache"
    assert _separate(root, cache, weights_dir) == 0
    names = sorted(path.name for path in cache.rglob("*.flac"))
    assert set(names) == {f"{s}.flac" for s in ("vocals", "drums", "bass", "other")}
    stored = decode.decode(next(cache.rglob("bass.flac")))
    assert stored.rate_hz == 16000 and len(stored.samples) == 1

    def forbid(*_: object) -> None:
        raise AssertionError("nothing is to be separated")

    monkeypatch.setattr(separator_lib.Separator, "_separate_chunk", forbid)
    assert _separate(root, cache, weights_dir) == 0
    content = _prepare(root, tmp_path / "cached", weights_dir, cache)
    assert content["failures"] == []
    expected, found = digests(tmp_path / "direct"), digests(tmp_path / "cached")
    assert found == expected
    # Other weights, iterations or chunks are other stems.
    separator = separator_lib.Separator("weights", weights_dir, 0, 0)
    separator.use_cache(cache, 16000)
    clip = mtat.index(root, IndexOptions()).clips[0]
    assert not separator.cache.has(root / clip.path)


def test_failures_of_separation_are_counted(openunmix, weights_dir, tmp_path, capsys):
    root = trees.write_mtat(tmp_path / "raw")
    path = next((root / "c").glob("*.mp3"))
    path.write_bytes(path.read_bytes()[:3000])
    flag = "--stem_splits=validation"
    assert _separate(root, tmp_path / "cache", weights_dir, flag) == 1
    assert "1 of 1 clips failed" in capsys.readouterr().err
    text = (tmp_path / "cache" / "failures-mtat.jsonl").read_text()
    assert path.name in text and "truncated" in text
    assert not list(pathlib.Path(tmp_path / "cache").rglob("*.flac"))


def test_chunking_is_part_of_the_configuration():
    config = plan.PrepConfig()
    other = dataclasses.replace(config, chunking=Chunking(chunk_windows=4))
    assert schema.config_hash(config) != schema.config_hash(other)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_bar_moves_within_a_long_file(
    openunmix, weights_dir, tmp_path, monkeypatch, capsys, num_workers
):
    lengths = (30, 18, 21)  # seconds; chunks of two windows of 3.5 s that share one
    (tmp_path / "raw").mkdir()
    for k, seconds in enumerate(lengths):
        samples = trees.chirp(seconds, 44100, seed=k)
        soundfile.write(tmp_path / "raw" / f"{k}.wav", samples, 44100)
    shown = []
    advance = Progress.advance

    def record(self, num_done: int, num_failures: int, seconds: float) -> None:
        shown.append((num_done, seconds))
        advance(self, num_done, num_failures, seconds)

    monkeypatch.setattr(Progress, "advance", record)
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.01)
    config = plan.PrepConfig(
        dataset="folder",
        sources=("vocals", "drums", "bass", "other"),
        stems="separator",
        separator=str(weights_dir),
        chunking=Chunking(2, 1, 0.5),
        clips_per_shard=1,
    )
    content = runner.prepare(
        folder.DATASET, config, tmp_path / "raw", tmp_path / "out", num_workers
    )
    assert content["failures"] == []
    assert shown[-1][0] == 3
    assert shown[-1][1] == pytest.approx(sum(lengths), abs=0.1)
    totals = [seconds for _, seconds in shown]
    assert totals == sorted(totals)  # no second counts twice
    # Before any clip is done, some of it is shown, and the bar is drawn again.
    before = {seconds for num_done, seconds in shown if not num_done}
    assert len(before - {0.0}) >= 3
    text = capsys.readouterr().err
    assert len(re.findall(r" 0/3 [^\r]*h of audio", text)) >= 3


def test_a_failed_clip_leaves_no_seconds():
    total = [0, 0, 0.0]

    def add(num_clips: int, has_failed: bool, seconds: float) -> None:
        total[0] += num_clips
        total[1] += has_failed
        total[2] += seconds

    tally = processes._Tally(add)
    for seconds in (3.5, 7.0):
        tally.on_seconds(seconds)
    assert total == [0, 0, 7.0]
    tally.on_clip(True, 0.0)
    assert total == [1, 1, 0.0]
    tally.on_clip(False, 12.0)
    assert total == [2, 1, 12.0]
