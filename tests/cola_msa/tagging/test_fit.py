"""Heads of a user's own: what they learn, what they are said to be worth."""

import csv
import json

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cola_msa.collection.table.read import EmbeddingFileError, load_embeddings
from cola_msa.evaluation.probes.kept_heads import read_heads
from cola_msa.system.errors import FileError, UserError
from cola_msa.tagging import fit as fit_lib
from cola_msa.tagging import spectra
from cola_msa.tagging.fit import FitError, fit
from cola_msa.tagging.folds import make_folds
from cola_msa.tagging.labels import ClipLabels, LabelError
from cola_msa.tagging.regression import cross_validate, fit_path, turn
from cola_msa.tagging.report import describe
from tests.cola_msa.tagging.conftest import METADATA

CLASSES = ("folk", "jazz", "rock")


def song_table(num_albums=12, songs=4, dim=16, signal=1.5, album=0.0, seed=0):
    """Paths, embeddings and classes; a class's direction and an album's are added."""
    rng = np.random.default_rng(seed)
    count = num_albums * songs
    album_of = np.repeat(np.arange(num_albums), songs)
    of = rng.permutation(np.arange(num_albums) % len(CLASSES))[album_of]
    rows = rng.normal(size=(count, dim))
    rows += signal * rng.normal(size=(len(CLASSES), dim))[of]
    rows += album * rng.normal(size=(num_albums, dim))[album_of]
    paths = [f"music/album {album_of[k]}/{k}.wav" for k in range(count)]
    return paths, rows.astype(np.float32), [CLASSES[k] for k in of]


@pytest.fixture
def songs(make_table, make_labels):
    paths, rows, names = song_table()
    return (
        make_table(paths, rows),
        make_labels("path,genre", zip(paths, names, strict=True)),
        paths,
        rows,
        names,
    )


def test_a_head_is_kept_that_answers_as_scikit_learn_does(songs, tmp_path):
    table, labels, _, rows, names = songs
    results = fit(table, labels, tmp_path / "genres", num_resamples=50)
    heads = read_heads(tmp_path / "genres" / "heads.npz")
    assert heads.class_names == CLASSES and not heads.is_tags
    assert heads.task == {
        "name": "genres",
        "title": "genres",
        "task_type": "multiclass",
    }
    assert heads.encoder_key == METADATA["model_hash"]
    assert heads.details["probe"] == "logistic"
    assert heads.details["clips_of"] == [16, 16, 16]
    scaled = StandardScaler().fit_transform(rows.astype(np.float16).astype(float))
    model = LogisticRegression(C=results["strength"]["c"], tol=1e-6, max_iter=1000)
    expected = model.fit(scaled, names).predict_proba(scaled)
    np.testing.assert_allclose(heads.score_windows(rows), expected, atol=2e-3)


def test_fewer_clips_than_features_give_the_same_function():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 100)).astype(np.float32)
    labels = rng.integers(0, 3, 20)
    turned, basis = turn(rows)
    assert turned.shape == (20, 20)
    (fitted,) = fit_path(turned, labels, 3, [0.1])
    model = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(rows, labels)
    others = rng.normal(size=(5, 100)).astype(np.float32)
    found = type(fitted)(basis @ fitted.kernel, fitted.bias)
    expected = model.predict_proba(others)
    np.testing.assert_allclose(found.probabilities(others, False), expected, atol=1e-3)


def test_scores_stand_beside_chance_and_what_else_is_handed_in(songs, tmp_path):
    table, labels, paths, rows, _ = songs
    noise = np.random.default_rng(9).normal(size=(len(rows), 5))
    noise[:2] = np.nan  # no audio there

    def baseline(asked):
        assert list(asked) == paths
        return noise

    results = fit(table, labels, tmp_path / "h", baseline=baseline)
    accuracy = results["scores"]["accuracy"]
    assert accuracy["value"] > 0.9
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["chance"] == pytest.approx(1 / 3)
    assert results["baseline"]["clips"] == len(rows) - 2
    assert results["baseline"]["scores"]["accuracy"]["value"] < 0.6
    assert results["baseline"]["difference"]["accuracy"]["low"] > 0
    text = "\n".join(describe(results))
    assert (
        "both of 46 clips alone)" in text and "4 folds, 12 folders, none in two" in text
    )
    stored = json.loads((tmp_path / "h" / "results.json").read_text())
    assert stored["scores"] == results["scores"]


def test_both_learn_from_the_clips_that_have_both_alone(songs, tmp_path):
    """With the embeddings themselves to compare with there is no difference."""
    table, labels, paths, _, _ = songs
    stored = load_embeddings(table)
    embeddings = stored.embeddings.astype(np.float16).astype(np.float32)
    assert list(stored.paths) == paths
    some = np.where(np.arange(len(paths))[:, np.newaxis] % 4, np.nan, embeddings)
    results = fit(table, labels, tmp_path / "h", baseline=lambda asked: some)
    compared = results["baseline"]
    assert compared["clips"] == len(paths) // 4
    own, other = (compared[k]["accuracy"]["value"] for k in ("embeddings", "scores"))
    assert own == pytest.approx(other, abs=0.1)
    assert abs(compared["difference"]["accuracy"]["value"]) < 0.1


def test_without_audio_the_comparison_is_said_to_be_missing(songs, tmp_path):
    table, labels, *_ = songs
    results = fit(table, labels, tmp_path / "h", num_resamples=10)
    assert results["baseline"] is None
    assert "not measured" in "\n".join(describe(results))
    nothing = fit(
        table,
        labels,
        tmp_path / "h",
        num_resamples=10,
        baseline=lambda asked: np.full((len(asked), 3), np.nan),
    )
    assert nothing["baseline"] == {"clips": 0, "scores": {}}
    assert "no audio" in "\n".join(describe(nothing))


def test_albums_that_are_recognisable_give_no_score(make_table, make_labels, tmp_path):
    """Labels are random by album: who sees the album knows them, nobody else."""
    paths, rows, names = song_table(60, 4, dim=64, signal=0.0, album=5.0)
    table = make_table(paths, rows)
    labels = make_labels("path,label", zip(paths, names, strict=True))
    results = fit(table, labels, tmp_path / "h")
    assert results["groups"] == {"by": "folder", "count": 60}
    assert results["scores"]["accuracy"]["value"] < 0.48
    assert results["scores"]["accuracy"]["low"] < 1 / 3
    flat = [path.replace("music/album ", "music/") for path in paths]
    flat = [f"music/{k}.wav" for k in range(len(flat))]
    leaking = fit(
        make_table(flat, rows, name="f.npz"),
        make_labels("path,label", zip(flat, names, strict=True), "f.csv"),
        tmp_path / "f",
    )
    assert leaking["groups"]["by"] == "content"
    assert leaking["scores"]["accuracy"]["value"] > 0.95  # what a leak looks like
    assert any("folders cannot be held out" in line for line in leaking["warnings"])


def test_answers_that_know_nothing_are_not_worse_than_chance():
    """What is often in a fold is seldom without it: that must not decide."""
    values = np.repeat([0, 1, 2], [12, 12, 13])
    labels = ClipLabels(CLASSES, values)
    folds = make_folds(labels, [f"{k}.wav" for k in range(37)], by_content=True)
    nothing = np.zeros((37, 3), np.float32)
    found = cross_validate(nothing, values, 3, 3, folds)
    assert (found.probabilities.argmax(axis=1) == 2).all()


@pytest.mark.parametrize("is_tags", [False, True])
def test_no_group_is_in_two_folds(is_tags):
    rng = np.random.default_rng(1)
    paths = [f"a/{k}/{n}.wav" for k in range(23) for n in range(1 + k % 4)]
    values = rng.integers(0, 3, len(paths))
    if is_tags:
        values = rng.choice([0, 1, np.nan], (len(paths), 3)).astype(np.float32)
    folds = make_folds(ClipLabels(CLASSES, values), paths)
    assert folds.count == 5 and folds.by == "folder" and folds.is_scored.all()
    folders = np.array([path.rpartition("/")[0] for path in paths])
    for folder in set(folders):
        assert len(set(folds.of[folders == folder])) == 1
    assert np.bincount(folds.of).min() > 0.5 * len(paths) / 5


@pytest.mark.parametrize("per_class", [1, 2, 3, 5])
def test_few_clips_a_class_work_and_are_said_to_be_few(
    make_table, make_labels, tmp_path, per_class
):
    paths, rows, names = song_table(3 * per_class, 1)
    labels = make_labels("path,label", zip(paths, names, strict=True))
    results = fit(make_table(paths, rows), labels, tmp_path / "h")
    heads = read_heads(tmp_path / "h" / "heads.npz")
    assert heads.choose(heads.score_windows(rows)).sum() == len(rows)
    warnings = "\n".join(results["warnings"])
    assert ("too few clips (below 5)" in warnings) == (per_class < 5)
    if per_class < 5:
        assert f"folk ({per_class}), jazz ({per_class})" in warnings
    has_predictions = (tmp_path / "h" / "predictions.csv").exists()
    if per_class == 1:
        assert results["scores"] == {} and not has_predictions
        assert "no score can be given" in warnings
    else:
        assert has_predictions and f"have at most {per_class} clips" in warnings
    assert ("was not chosen" in warnings) == (per_class < 3)


def test_a_class_in_one_album_is_not_scored_and_named(
    make_table, make_labels, tmp_path
):
    paths, rows, names = song_table()
    names = [
        "polka" if "album 3/" in p else n for p, n in zip(paths, names, strict=True)
    ]
    labels = make_labels("path,label", zip(paths, names, strict=True))
    results = fit(make_table(paths, rows), labels, tmp_path / "h", num_resamples=50)
    assert results["clips"] == {"labelled": 48, "of": 48, "scored": 44}
    assert [row["is_scored"] for row in results["per_class"]] == [1, 1, 0, 1]
    assert any("alone: polka" in line for line in results["warnings"])


def test_folders_are_classes(make_table, tmp_path):
    _, rows, names = song_table()
    paths = [f"music/{name}/{k}.wav" for k, name in enumerate(names)]
    table = make_table(paths, rows)
    results = fit(table, None, tmp_path / "h", labels_from_folders=True)
    assert results["class_names"] == list(CLASSES)
    assert results["groups"]["by"] == "content"
    assert results["scores"]["accuracy"]["value"] > 0.9
    assert any("folders cannot be held out" in line for line in results["warnings"])
    with pytest.raises(LabelError, match="one of both"):
        fit(table, None, tmp_path / "h")


def test_tags_with_unknown_cells(make_table, make_labels, tmp_path):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(120, 8)).astype(np.float32)
    paths = [f"m/{k // 4}/{k}.wav" for k in range(len(rows))]
    truth = (rows[:, :2] > 0.3).astype(int)
    cells = [[str(v) for v in line] for line in truth]
    for k in range(40):
        cells[k][1] = ""
    for line in cells:
        line.append("0")
    labels = make_labels(
        "path,drums,voice,kazoo", [[p, *c] for p, c in zip(paths, cells, strict=True)]
    )
    results = fit(make_table(paths, rows), labels, tmp_path / "h", num_resamples=50)
    assert results["class_names"] == ["drums", "voice"]
    assert any("kazoo" in line for line in results["remarks"])
    drums, voice = results["per_class"]
    assert voice["clips"] + voice["clips_without"] == 80
    assert drums["roc_auc"]["value"] > 0.95 and voice["pr_auc"]["value"] > 0.9
    assert results["scores"]["pr_auc"]["chance"] < 0.6
    heads = read_heads(tmp_path / "h" / "heads.npz")
    assert heads.is_tags and len(heads.thresholds) == 2
    chosen = heads.choose(heads.score_windows(rows))
    assert (chosen[:, 0] == truth[:, 0]).mean() > 0.85
    # The unknown ones are found from what was learnt of the others.
    assert (chosen[:40, 1] == truth[:40, 1]).mean() > 0.8
    with open(tmp_path / "h" / "predictions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 200 and set(lines[0]) == {
        "path",
        "tag",
        "label",
        "predicted",
        "probability",
    }


def test_predictions_begin_with_the_surest_mistake(songs, tmp_path):
    table, labels, paths, rows, names = songs
    wrong = list(names)
    wrong[7] = next(name for name in CLASSES if name != names[7])
    text = "path,genre\n" + "\n".join(map(",".join, zip(paths, wrong, strict=True)))
    labels.write_text(text)
    fit(table, labels, tmp_path / "h", num_resamples=10)
    with open(tmp_path / "h" / "predictions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(paths)
    is_right = [line["label"] == line["predicted"] for line in lines]
    assert is_right == sorted(is_right)
    assert (lines[0]["path"], lines[0]["predicted"]) == (paths[7], names[7])


def test_windows_count_as_clips_and_contents_once(make_table, make_labels, tmp_path):
    paths, rows, names = song_table()
    twice = [*paths, *paths, "music/copy/0.wav"]
    values = np.concatenate([rows + 1, rows - 1, rows[:1] * 0])
    table = make_table(twice, values, contents=[*paths, *paths, paths[0]])
    wrong = next(name for name in CLASSES if name != names[0])
    labels = make_labels(
        "path,label", [*zip(paths, names, strict=True), ("music/copy/0.wav", wrong)]
    )
    results = fit(table, labels, tmp_path / "h", num_resamples=10)
    assert results["clips"]["labelled"] == 48
    (line,) = [r for r in results["remarks"] if "contradicting" in r]
    assert "music/copy/0.wav" in line and paths[0] in line
    assert any("same bytes as another: 1" in r for r in results["remarks"])
    counts = {row["name"]: row["clips"] for row in results["per_class"]}
    assert counts[wrong] == 17 and counts[names[0]] == 15  # the later counts


def test_what_cannot_be_fitted_is_refused(make_table, make_labels, tmp_path):
    paths, rows, names = song_table()
    labels = make_labels("path,label", zip(paths, names, strict=True))
    for metadata, what in (({}, "model_hash"), ({"model_hash": "x"}, "frontend")):
        table = make_table(paths, rows, metadata=metadata)
        with pytest.raises(FitError, match=what):
            fit(table, labels, tmp_path / "h")
    table = make_table(paths, rows * 1e5)
    with pytest.raises(FitError, match="65,504"):
        fit(table, labels, tmp_path / "h")
    table = make_table(paths, rows)
    one = make_labels("path,label", [(path, "rock") for path in paths], "one.csv")
    with pytest.raises(LabelError, match="two classes"):
        fit(table, one, tmp_path / "h")
    same = make_labels("path,a,b", [(path, 1, 0) for path in paths], "same.csv")
    with pytest.raises(LabelError, match="both a clip with 1 and one with 0"):
        fit(table, same, tmp_path / "h")
    with pytest.raises(EmbeddingFileError):
        fit(tmp_path / "none.npz", labels, tmp_path / "h")
    assert not (tmp_path / "h").exists()


def test_an_output_is_replaced_only_where_it_is_a_head(songs, tmp_path, monkeypatch):
    table, labels, *_ = songs
    output = tmp_path / "h"
    fit(table, labels, output, num_resamples=10)
    before = (output / "heads.npz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(fit_lib, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(table, labels, output, num_resamples=10)
    assert (output / "heads.npz").read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("*")) == ["e.npz", "h", "labels.csv"]
    fit(table, labels, output, num_resamples=10)
    (output / "thesis.tex").write_text("mine")
    with pytest.raises(FileError, match="thesis.tex"):
        fit(table, labels, output, num_resamples=10)
    (output / "thesis.tex").unlink()
    (output / "heads.npz").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="heads.npz"):
        fit(table, labels, output, num_resamples=10)


def test_log_mel_statistics_of_many_files_are_of_a_sample(tmp_path):
    random = np.random.default_rng(0)
    paths = [str(tmp_path / f"{n}.wav") for n in range(6)]
    for path in paths[:5]:  # the last is gone
        soundfile.write(path, 0.1 * random.standard_normal(32000), 16000)
    rows = spectra.spectra_of(paths)
    assert np.isfinite(rows[:5]).all() and np.isnan(rows[5]).all()
    for path, row in zip(paths[:5], rows, strict=False):
        np.testing.assert_array_equal(row, spectra.clip_spectra(path))
    some = spectra.spectra_of(paths[:5], most=3)
    has = np.isfinite(some).all(axis=1)
    assert has.sum() == 3
    np.testing.assert_array_equal(some[has], rows[:5][has])
    np.testing.assert_array_equal(some, spectra.spectra_of(paths[:5], most=3))
