"""Matching: scores against loops, own stems, and the command on a tiny network."""

import dataclasses
import json
import pathlib
import types
import warnings

import numpy as np
import pytest
import soundfile

from cola_msa.collection import matching
from cola_msa.collection.matching import MatchError, Projected
from cola_msa.config.schema import FrontendConfig
from cola_msa.hub.loading import open_model
from tests.helpers import trees
from tests.helpers.commands import run_module
from tests.helpers.long_noise import LongNoise, Peak

KERNEL = np.random.default_rng(9).normal(size=(4, 4))


class LinearMatcher:
    """Scores a^T W p, as the network's similarity."""

    def score(self, mixtures, stems):
        return (mixtures @ KERNEL @ stems.T).astype(np.float32)


MODEL = types.SimpleNamespace(
    matcher=LinearMatcher(), frontend=FrontendConfig(), path=pathlib.Path("model")
)


def projected(count: int, seed: int, active=None) -> Projected:
    values = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    is_active = np.ones(count, bool) if active is None else np.array(active, bool)
    return Projected(pathlib.Path(f"{seed}.wav"), values, is_active)


@pytest.mark.parametrize(("num_mixture", "num_stem"), [(9, 9), (9, 6), (5, 8)])
def test_scores_equal_a_loop(num_mixture, num_stem):
    active = [n % 3 != 1 for n in range(num_stem)]
    song, stem = projected(num_mixture, 1), projected(num_stem, 2, active)
    found = matching.score_pair(MODEL, song, stem)
    count = min(num_mixture, num_stem)
    expected = np.full(num_mixture, np.nan)
    for i in range(count):
        if active[i]:
            near = [
                song.projections[i] @ KERNEL @ stem.projections[j]
                for j in range(count)
                if abs(i - j) <= 3 and active[j]  # a segment holds four windows
            ]
            expected[i] = np.mean(near)
    np.testing.assert_allclose(found.windows, expected, rtol=1e-5)
    assert found.clip == pytest.approx(np.nanmean(expected), rel=1e-5)


def test_a_silent_stem_has_no_score():
    stem = projected(6, 2, [False] * 4 + [True] * 2)
    with pytest.raises(MatchError, match="silent as long as"):
        matching.score_pair(MODEL, projected(4, 1), stem)


@pytest.mark.parametrize(
    ("mixtures", "stems", "expected"),
    [
        (["s/a.wav", "s/b.wav"], ["t/b.wav", "t/a.wav"], [[0, 1], [1, 0]]),
        (
            ["x/mixture.wav", "y/mixture.wav"],
            ["x/bass.wav", "y/bass.wav", "y/drums.wav"],
            [[1, 0, 0], [0, 1, 1]],
        ),
        (["s/a.wav"], ["s/b.wav"], [[0]]),
    ],
)
def test_own_stems_are_known_by_folder_or_name(mixtures, stems, expected):
    paths = [[pathlib.Path(p) for p in group] for group in (mixtures, stems)]
    assert matching.own_stems(*paths).astype(int).tolist() == expected


def test_ranks_are_among_stems_of_one_kind():
    scores = np.array([[3.0, 1.0, 9.0], [2.0, 2.0, np.nan]])
    is_own = np.array([[True, False, True], [False, True, False]])
    found = matching.rank_own(scores, is_own, ["vocals", "vocals", "bass"])
    # Vocals: first of two; bass: first of one; vocals: a tie for first, rank 1.5.
    assert found["num_queries"] == 3
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 + 1 / 1.5) / 3)
    assert found["chance_top1"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    centred = matching.centred(np.array([[3.0, 1.0], [1.0, 3.0]]))
    np.testing.assert_allclose(centred, [[1, -1], [-1, 1]])


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return trees.write_stems(tmp_path_factory.mktemp("songs"), ("a", "b"), seconds=5.0)


@pytest.fixture(scope="module")
def model(finished_run):
    return open_model(finished_run)


def test_windows_are_projected_as_the_pretext_task_does(model, songs):
    found = matching.project_file(model, songs / "a" / "vocals.wav")
    assert found.projections.shape == (5, 32) and found.is_active.any()
    own = matching.score_pair(model, found, found)
    near = [
        model.matcher.score(found.projections[i : i + 1], found.projections[j : j + 1])
        for i in np.flatnonzero(found.is_active)[:1]
        for j in np.flatnonzero(found.is_active)
        if abs(i - j) <= 3
    ]
    first = own.windows[np.flatnonzero(found.is_active)[0]]
    assert first == pytest.approx(np.mean(near), rel=1e-4)


def test_several_mixtures_give_the_matrix(model, songs):
    (songs / "b" / "broken.wav").write_bytes(b"no audio")
    result = matching.match(model, str(songs), str(songs))
    assert [pathlib.Path(p).name for p in result["mixtures"]] == ["mixture.wav"] * 2
    assert len(result["stems"]) == 8
    assert np.array(result["scores"], float).shape == (2, 8)
    assert result["own"]["num_queries"] == 8
    assert result["own"]["chance_top1"] == 0.5
    assert list(result["failures"]) == [str(songs / "b" / "broken.wav")]
    assert "own stems, scores: top-1" in matching.render(result, 3)


def test_the_command_writes_a_table_and_a_picture(songs, finished_run, tmp_path):
    found = run_module(
        "cola_msa.match",
        f"--model={finished_run}",
        f"--mixture={songs / 'a' / 'mixture.wav'}",
        f"--stems={songs}",
        "--stem_names=vocals,bass",
        "--output_dir=out",
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    result = json.loads((tmp_path / "out" / "match.json").read_text())
    assert len(result["stems"]) == 4 and len(result["windows"][0][0]) == 5
    assert (tmp_path / "out" / "match.png").read_bytes()[:4] == b"\x89PNG"
    best = result["stems"][int(np.argmax(result["scores"][0]))]
    ranked = [line for line in found.stdout.splitlines() if line.startswith("   1")]
    assert best in ranked[0]


@pytest.mark.parametrize(
    ("mixture", "stems", "message"),
    [
        ("none.wav", ".", "--mixture=none.wav does not exist"),
        ("", ".", "flag --mixture=: names nothing"),
    ],
)
def test_wrong_commands_are_one_line(tmp_path, mixture, stems, message):
    found = run_module(
        "cola_msa.match",
        "--model=nowhere",
        f"--mixture={mixture}",
        f"--stems={stems}",
        cwd=tmp_path,
    )
    assert found.returncode == (1 if mixture else 2)
    assert message in found.stderr and "Traceback" not in found.stderr


def test_a_folder_without_audio_is_named(model, tmp_path):
    with pytest.raises(MatchError, match="no audio file"):
        matching.match(model, str(tmp_path), str(tmp_path))


def test_blocks_of_windows_give_the_scores_of_the_whole(monkeypatch):
    active = [n % 5 != 2 for n in range(23)]
    song, stem = projected(25, 1), projected(23, 2, active)
    whole = matching.score_pair(MODEL, song, stem)
    monkeypatch.setattr(matching, "_BLOCK", 4)
    parts = matching.score_pair(MODEL, song, stem)
    np.testing.assert_allclose(parts.windows, whole.windows, rtol=1e-6)
    assert parts.clip == pytest.approx(whole.clip, rel=1e-6)


def test_loudness_of_blocks_is_that_of_the_whole():
    sound = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    whole = np.abs(sound[:90_000]).reshape(9, 10_000).mean(axis=1)
    for size in (3_333, 25_000, 100_000):
        loudness = matching._Loudness(10_000)
        for first in range(0, len(sound), size):
            loudness.add(sound[first : first + size])
        np.testing.assert_array_equal(loudness.means(9), whole)


def test_memory_does_not_grow_with_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr("cola_msa.audio.decode.AudioReader", LongNoise)

    class Matcher(LinearMatcher):
        def project(self, windows):
            assert len(windows) <= 64
            return windows[:, :4, 0, 0].copy()

    model = types.SimpleNamespace(matcher=Matcher(), frontend=FrontendConfig())
    with Peak() as peak:
        found = matching.project_file(model, tmp_path / "long.wav")
    assert found.projections.shape == (1220, 4) and found.is_active.all()
    assert peak.bytes < 35e6 < LongNoise.num_bytes / 2


def test_memory_of_scores_does_not_grow_with_their_square():
    song, stem = projected(4000, 1), projected(4000, 2)
    with Peak() as peak:
        found = matching.score_pair(MODEL, song, stem)
    assert np.isfinite(found.windows).all()
    assert peak.bytes < 60e6 < 4000 * 4000 * 4  # the matrix in single precision


def write_sound(path: pathlib.Path, sound: np.ndarray) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound.astype(np.float32), 16000, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def quiet_songs(tmp_path_factory):
    """A mixture of 6 s, and stems that are silent: by zeros, dither, and in part."""
    root = tmp_path_factory.mktemp("quiet")
    random = np.random.default_rng(1)
    tone = 0.3 * np.sin(2 * np.pi * 330 * np.arange(96_000) / 16000)
    write_sound(root / "song.wav", tone + 0.01 * random.normal(size=96_000))
    dither = np.round(random.triangular(-1, 0, 1, 96_000)) / 32768
    half = np.where(np.arange(96_000) < 48_000, tone, 0.0)
    for name, sound in (
        ("tone", tone),
        ("tone_quiet", 0.01 * tone),
        ("zeros", 0 * tone),
        ("dither", dither),
        ("faint", 1e-7 * random.normal(size=96_000)),
        ("half", half),
    ):
        write_sound(root / "stems" / f"{name}.wav", sound)
    return root


def test_silent_stems_are_named_and_not_ranked(model, quiet_songs):
    root = quiet_songs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = matching.match(model, str(root / "song.wav"), str(root / "stems"))
    scores = {
        pathlib.Path(path).stem: score
        for path, score in zip(result["stems"], result["scores"][0], strict=True)
    }
    silent = {"zeros", "dither", "faint"}
    assert {name for name, score in scores.items() if score is None} == silent
    assert {pathlib.Path(path).stem for path in result["silent"]} == silent
    # The level rule takes loudness away: a quiet stem is a stem.
    assert scores["tone_quiet"] == pytest.approx(scores["tone"], rel=1e-3)
    lines = matching.render(result, 10).splitlines()
    ranked = [line.split() for line in lines[2:8]]
    assert [row[0] for row in ranked] == ["1", "2", "3", "-", "-", "-"]
    assert {pathlib.Path(row[2]).stem for row in ranked[3:]} == silent
    assert sum(line.startswith("silent, not ranked: ") for line in lines) == 3


def test_of_a_model_of_mixtures_alone_a_line_says_so(model, quiet_songs, caplog):
    assert model.hears_stems
    config = {**model.details["config"]}
    config["train"] = {**config["train"], "source": "none"}
    other = dataclasses.replace(model, details={**model.details, "config": config})
    asked = str(quiet_songs / "song.wav"), str(quiet_songs / "stems")
    with caplog.at_level("WARNING"):
        expected = matching.match(model, *asked)
        assert "mixtures alone" not in caplog.text
        found = matching.match(other, *asked)
    assert "learned from mixtures alone" in caplog.text
    np.testing.assert_array_equal(found["scores"], expected["scores"])
    # One that does not say what it learned from is taken at its word.
    unknown = dataclasses.replace(model, details={"config": {}})
    assert unknown.hears_stems


def test_a_stem_is_scored_where_it_sounds(model, quiet_songs):
    song = matching.project_file(model, quiet_songs / "song.wav")
    half = matching.project_file(model, quiet_songs / "stems" / "half.wav")
    assert half.is_active.tolist() == [True] * 4 + [False] * 2
    found = matching.score_pair(model, song, half)
    assert np.isnan(found.windows[4:]).all()
    assert found.clip == pytest.approx(found.windows[:4].mean())


def test_a_mixture_without_sound_is_a_failure(model, quiet_songs, tmp_path):
    silent = write_sound(tmp_path / "a" / "silent.wav", np.zeros(32_000))
    with pytest.raises(MatchError, match="silent.wav: a mixture without any sound"):
        matching.match(model, str(silent), str(quiet_songs / "stems"))
    with pytest.raises(MatchError, match="every stem is silent"):
        matching.match(model, str(quiet_songs / "song.wav"), str(silent))
    (tmp_path / "a" / "song.wav").symlink_to(quiet_songs / "song.wav")
    result = matching.match(model, str(tmp_path / "a"), str(quiet_songs / "stems"))
    assert result["failures"] == {str(silent): "a mixture without any sound"}


def test_a_column_without_scores_stays_without():
    scores = np.array([[3.0, np.nan], [1.0, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = matching.centred(scores)
    np.testing.assert_array_equal(found, [[1.0, np.nan], [-1.0, np.nan]])
