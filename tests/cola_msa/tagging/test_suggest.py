"""Clips worth a label: unsure ones, of different kinds, and a list to fill in."""

import csv
import dataclasses

import numpy as np
import pytest

from cola_msa.collection.search.neighbours import unit_rows
from cola_msa.evaluation.probes.kept_heads import read_heads, save_heads
from cola_msa.system.errors import FileError
from cola_msa.tagging.fit import fit
from cola_msa.tagging.labels import LabelError
from cola_msa.tagging.suggest import (
    SuggestError,
    Suggestion,
    Suggestions,
    describe,
    suggest,
    write_suggestions,
)


@pytest.fixture
def halves(make_table, make_labels, tmp_path):
    """200 clips of which the first feature's sign is the class; 20 have labels."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 6)).astype(np.float32)
    paths = [f"m/{k // 5}/{k}.wav" for k in range(200)]
    names = np.where(rows[:, 0] > 0, "up", "down")
    table = make_table(paths, rows)
    labels = make_labels("path,way", [(paths[k], names[k]) for k in range(20)])
    fit(table, labels, tmp_path / "h", num_resamples=10)
    return table, labels, tmp_path / "h", paths, rows, names


def test_the_unsure_come_first_and_are_not_labelled_yet(halves):
    table, labels, head, paths, rows, _ = halves
    found = suggest(table, labels, head, 5)
    probabilities = read_heads(head / "heads.npz").score_windows(rows)
    margins = np.abs(probabilities[:, 0] - probabilities[:, 1])
    by_margin = [paths[k] for k in np.argsort(margins) if k >= 20]
    assert found.rows[0].path == by_margin[0]
    assert {row.path for row in found.rows} <= set(by_margin[:15])
    assert [row.margin for row in found.rows] == sorted(r.margin for r in found.rows)
    number = paths.index(found.rows[0].path)
    assert found.rows[0].margin == pytest.approx(margins[number], abs=1e-6)
    best = ("down", "up")[probabilities[number].argmax()]
    assert found.rows[0].belief.startswith(f"{best} {probabilities[number].max():.2f}")
    assert found.columns == ("label",)


def test_equal_clips_are_suggested_once(halves, make_table):
    _, labels, head, paths, rows, _ = halves
    margin = np.abs(np.diff(read_heads(head / "heads.npz").score_windows(rows))[:, 0])
    margin[:20] = 9
    unsure = int(margin.argmin())
    near = rows[unsure] + np.random.default_rng(1).normal(size=(12, 6)) * 1e-3
    more = [f"copy/{k}.wav" for k in range(12)]
    table = make_table([*paths, *more], np.concatenate([rows, near]), name="more.npz")
    found = suggest(table, labels, head, 6)
    is_copy = [
        r.path.startswith("copy/") or r.path == paths[unsure] for r in found.rows
    ]
    assert sum(is_copy) == 1
    assert any("too like one chosen before" in line for line in found.remarks)
    # Where nothing else is left they come after all.
    everything = suggest(table, labels, head, 500)
    assert len({row.path for row in everything.rows}) == 192
    assert any("192, and all are here" in line for line in everything.remarks)
    assert any("after all" in line for line in everything.remarks)


def test_contents_are_suggested_once(halves, make_table):
    _, labels, head, paths, rows, _ = halves
    table = make_table(
        [*paths, "again/0.wav", "again/99.wav"],
        np.concatenate([rows, rows[[0, 99]]]),
        contents=[*paths, paths[0], paths[99]],
        name="more.npz",
    )
    found = [row.path for row in suggest(table, labels, head, 500).rows]
    assert len(found) == 180 and not any(path.startswith("again") for path in found)


def test_without_a_head_clips_cover_the_collection(make_table):
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(5, 16))
    of = np.repeat(np.arange(5), [60, 20, 10, 6, 4])
    rows = centres[of] + 0.3 * rng.normal(size=(100, 16))
    paths = [f"{k}.wav" for k in range(100)]
    found = suggest(make_table(paths, rows), num=5)
    chosen = [paths.index(row.path) for row in found.rows]
    assert sorted(of[chosen]) == [0, 1, 2, 3, 4] and of[chosen[0]] == 0
    # Typical ones, not those at an edge.
    centred = unit_rows((rows - rows.mean(0)) / rows.std(0))
    for row in chosen:
        members = centred[of == of[row]]
        assert centred[row] @ members.mean(0) >= np.median(members @ members.mean(0))
    assert found.rows[0].margin is None and "margin" not in describe(found)[0]
    assert len(suggest(make_table(paths, rows), num=1000).rows) == 100
    same = make_table(paths, np.ones((100, 16)))
    assert len({row.path for row in suggest(same, num=7).rows}) == 7


def test_tags_near_their_thresholds(make_table, make_labels, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 4)).astype(np.float32)
    paths = [f"m/{k}/a.wav" for k in range(100)]
    cells = (rows[:50, :2] > 0).astype(int)
    labels = make_labels("path,drums,voice", [(paths[k], *cells[k]) for k in range(50)])
    table = make_table(paths, rows)
    fit(table, labels, tmp_path / "h", num_resamples=10)
    found = suggest(table, labels, tmp_path / "h", 3)
    heads = read_heads(tmp_path / "h" / "heads.npz")
    distance = np.abs(heads.score_windows(rows) - heads.thresholds)
    assert found.rows[0].path == paths[50 + distance[50:].min(axis=1).argmin()]
    assert "applies from" in found.rows[0].belief
    assert found.columns == ("drums", "voice")
    write_suggestions(tmp_path / "todo.csv", found)
    assert (tmp_path / "todo.csv").read_text().splitlines()[0] == "path,drums,voice"


def test_the_loop_raises_the_score(make_table, make_labels, tmp_path):
    """Suggest, fill in, fit again: as a user does, with several files of labels."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(4, 12))
    of = rng.integers(0, 4, 240)
    rows = centres[of] + 0.9 * rng.normal(size=(240, 12))
    paths = [f"m/{k}/song, {k}.wav" for k in range(240)]
    table = make_table(paths, rows)
    files, head, scores = [], None, []
    for turn in range(4):
        found = suggest(table, files or None, head, 12)
        todo = tmp_path / f"todo {turn}.csv"
        write_suggestions(todo, found)
        with open(todo, newline="") as file:
            lines = list(csv.reader(file))
        assert lines[0] == ["path", "label"] and all(
            line[1] == "" for line in lines[1:]
        )
        for line in lines[1:]:
            line[1] = f"kind {of[paths.index(line[0])]}"
        with open(todo, "w", newline="") as file:
            csv.writer(file).writerows(lines)
        with pytest.raises(FileError, match="not filled in"):
            write_suggestions(todo, found)
        files.append(todo)
        head = tmp_path / "h"
        results = fit(table, files, head, num_resamples=10)
        assert results["clips"]["labelled"] == 12 * (turn + 1)
        heads = read_heads(head / "heads.npz")
        best = heads.score_windows(rows).argmax(axis=1)
        names = np.array(heads.class_names)[best]
        scores.append(
            np.mean([n == f"kind {k}" for n, k in zip(names, of, strict=True)])
        )
    assert scores[-1] > scores[0] and scores[-1] > 0.8


def test_a_list_that_nobody_filled_in_is_replaced(tmp_path):
    path = tmp_path / "todo.csv"
    for name in ("a, b.wav", 'c".wav'):
        write_suggestions(path, Suggestions((Suggestion(name),), ("label",), ()))
        with open(path, newline="") as file:
            assert list(csv.reader(file)) == [["path", "label"], [name, ""]]
    path.write_text("title,text\n1,\n")
    with pytest.raises(FileError, match="nothing is written over it"):
        write_suggestions(path, Suggestions((), ("label",), ()))


def test_what_cannot_be_suggested_is_refused(halves, make_labels, tmp_path):
    table, labels, head, paths, _, _ = halves
    with pytest.raises(SuggestError, match="--num=0"):
        suggest(table, labels, head, 0)
    every = make_labels("path,way", [(path, "up") for path in paths], "every.csv")
    with pytest.raises(SuggestError, match="has a label already"):
        suggest(table, every, head)
    heads = read_heads(head / "heads.npz")
    save_heads(tmp_path / "other.npz", dataclasses.replace(heads, encoder_key="b" * 16))
    with pytest.raises(SuggestError, match="other.npz: takes embeddings"):
        suggest(table, labels, tmp_path / "other.npz")
    tuned = dataclasses.replace(heads, details={"tuned": ["tuned_0.keras"]})
    save_heads(tmp_path / "tuned.npz", tuned)
    with pytest.raises(SuggestError, match="tuned.npz: belongs to an encoder"):
        suggest(table, labels, tmp_path / "tuned.npz")
    with pytest.raises(LabelError):
        suggest(table, tmp_path / "nothing.csv", head)
