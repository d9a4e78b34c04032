"""Texts that users choose make neither HTML nor Markdown of a model card's own."""

import dataclasses
import html.parser
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import Config, to_dict, waveform_frontend
from cola_msa.hub import model_card
from cola_msa.reproduction.report.page import (
    Bullets,
    Cell,
    Heading,
    Table,
    Text,
    render_markdown,
)
from cola_msa.values.markdown import plain

HOSTILE = (
    "<script>alert(1)</script>",
    "a\n---\ntitle: x\n---\n# Heading",
    "`code` ``` ```\n```\nafter",
    "[a link](https://example.org) ![a picture](https://example.org/x.png)",
    "a | b | c",
    "*bold* _it_ ~~gone~~ \\| &lt;b&gt;",
    '"); import os; ("',
    "\u202egpj.exe \x1b[2J\u2028line",
    "[ref]: https://example.org",
)


def card(**fields):
    content = {
        "name": "mine",
        "licence": "CC0-1.0",
        "config": to_dict(Config()),
        "data": {"dataset": "mtat", "sources": ["vocals"], "separator": None},
        "step": 4,
        "updates": 256,
        "pairs": 32768,
        "embedding_dim": 1280,
        "encoder_key": "0123456789abcdef",
        "scores": [],
        **fields,
    }
    return model_card.render_card(content)


def score(**fields):
    return {
        "task": "mine",
        "title": "a task",
        "score": "roc_auc",
        "protocol": "cached",
        "probe": "linear",
        "label_fraction": 1.0,
        "test_clips": 3,
        **dict.fromkeys(("value", "low", "high", "chance"), 0.5),
        **fields,
    }


def head(**fields):
    return {
        "file": "heads/a.npz",
        "task": "mtat",
        "class_names": ["rock", "slow"],
        "scores": {"roc_auc": 0.5},
        "intervals": {"roc_auc": [0.4, 0.6]},
        "chance": {"roc_auc": 0.5},
        "clips": {"train": 3, "test": 2},
        "protocol": "cached",
        "probe": "linear",
        "level": "window",
        "label_fraction": 1.0,
        "trained_on": "0123456789abcdef",
        **fields,
    }


def structure(text):
    """What Markdown makes of lines below the front matter, without their text."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    outside = re.sub(r"\\.", "", text)
    lines = [
        "rule" if re.fullmatch(r"[-=]{3,}", line) else re.match(r"#*|```", line)[0]
        for line in outside.splitlines()
    ]
    return lines, outside.count("|"), outside.count("`"), outside.count("](")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "place", ["licence", "name", "dataset", "separator", "source", "title", "probe"]
)
def test_no_text_changes_the_cards_structure(place, text):
    if place in ("dataset", "separator"):
        good, found = (card(data={place: t}) for t in ("mine", text))
    elif place in ("title", "probe"):
        good, found = (card(scores=[score(**{place: t})]) for t in ("mine", text))
    else:
        good, found = (card(**{place: t}) for t in ("mine", text))
    # Code is no Markdown: there the name is a Python string.
    code = re.search(r"```python\n(.*?)```", found, re.S)[1]
    compile(code, "card", "exec")
    assert structure(found.replace(code, "")) == structure(
        good.replace(re.search(r"```python\n(.*?)```", good, re.S)[1], "")
    )
    assert "<" not in found.replace(code, "").replace("<br>", "")
    assert found.isascii() or all(c.isprintable() or c == "\n" for c in found)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_heads_changes_it_either(text):
    fields = {
        "task": text,
        "class_names": [text, text],
        "scores": {text: 0.5},
        "clips": {text: 3},
        "probe": text,
    }
    usual = {name: head()[name] for name in fields}
    usual["class_names"], usual["clips"] = ["a", "b"], {"test": 3}
    found, good = (card(heads=[head(**f)]) for f in (fields, usual))
    assert structure(found) == structure(good)
    assert "<" not in found


def test_heads_are_listed_with_their_scores():
    text = card(heads=[head(), head(task="fma", level="clip", label_fraction=0.1)])
    row = "| mtat | 2: rock, slow | ROC-AUC 0.500 (0.400 to 0.600), chance 0.500 "
    assert row + "| 3 train, 2 test | cached, linear | heads/a.npz |" in text
    assert "cached, linear, of whole clips, 0.1 of the labels" in text
    assert "rounded" not in text and "## Heads" not in card()
    names = [str(number) for number in range(200)]
    assert "| 200: 0, 1, 2, 3, 4, 5, ... |" in card(heads=[head(class_names=names)])


def test_a_card_says_what_the_encoder_hears():
    config = Config(frontend=waveform_frontend())
    for written, held, absent in (
        (Config(), "log-mel windows [98, 64, 1] of 16000 Hz", "Embedder"),
        (config, "waveform windows [243, 243, 1] of 22050 Hz", "normalize_level"),
    ):
        text = card(config=to_dict(written)).replace("\\", "")
        assert held in text and absent not in text


@pytest.mark.parametrize("framework, heard", [("cola", True), ("clmr", False)])
def test_who_separated_is_said_where_stems_are_heard(framework, heard):
    config = to_dict(dataclasses.replace(Config(), framework=framework))
    assert ("| stems by | not stated |" in card(config=config)) == heard
    assert "stems by" not in card(config=to_dict(get_preset("cola")))


def test_usual_texts_stay_as_they_are():
    text = card(licence="CC BY-NC 4.0", name="msa-umxhq")
    assert "# msa-umxhq\n" in text and "| CC BY-NC 4.0 |" in text
    assert 'load_encoder("msa-umxhq")' in text


@given(st.text())
def test_plain_text_is_one_line_that_reads_back(text):
    found = plain(text, starts_line=True)
    assert len(found.splitlines()) <= 1 and found.isprintable()
    assert "<" not in found
    # Unescaped marks are what would make structure.
    assert not re.search(r"[`*_\[\]|~]", re.sub(r"\\.", "", found))
    parser = html.parser.HTMLParser(convert_charrefs=True)
    seen = []
    parser.handle_data = seen.append
    parser.handle_starttag = lambda *_: pytest.fail("a tag")
    parser.feed(found)
    parser.close()
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", "".join(seen))
    expected = "".join(c if c.isprintable() else " " for c in text)
    assert shown == " ".join(expected.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_in_markdown_holds_them_too(text):
    def blocks(t):
        table = Table(t, (t, t), ((Cell(t, t), Cell(t)),))
        return [Heading(t), Text(t), Bullets((t, t)), table]

    good, found = (render_markdown(t, blocks(t)) for t in ("mine", text))
    assert structure(found) == structure(good)


def test_damaged_results_are_no_scores(tmp_path):
    good = {
        "mode": "frozen",
        "encoder": {"encoder": "trained", "step": 4},
        "task": "mtat",
        "title": "t",
        "protocol": "cached",
        "probe": "linear",
        "label_fraction": 1.0,
        "splits": {"test": {"clips": 3}},
        "seeds": [0],
        "scores": {
            "roc_auc": dict.fromkeys(("value", "low", "high", "chance"), 0.5),
        },
    }
    texts = {
        "good": json.dumps(good),
        "list": "[]",
        "cut": json.dumps(good)[:50],
        "deep": "[" * 100_000,
        "text": json.dumps({**good, "scores": {"roc_auc": {"value": "high"}}}),
        "encoder": json.dumps({**good, "encoder": []}),
    }
    for name, text in texts.items():
        (tmp_path / "eval" / name).mkdir(parents=True)
        (tmp_path / "eval" / name / "results.json").write_text(text)
    (row,) = model_card.read_scores(tmp_path, 4)
    assert row["value"] == 0.5 and row["test_clips"] == 3
