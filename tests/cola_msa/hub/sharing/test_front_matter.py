"""The front matter of model cards, as Hugging Face's own library reads it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_msa.hub import pretrained
from cola_msa.hub.loading import STARTER_DIR
from cola_msa.hub.sharing import front_matter
from tests.cola_msa.hub.test_model_card import HOSTILE, card, score

library = pytest.importorskip(
    "huggingface_hub", reason="the extra hub is not installed"
)
yaml = pytest.importorskip("yaml")

SCORES = [
    score(task="mtat", title="music tagging, MagnaTagATune", value=0.85441),
    score(
        task="mtat",
        title="music tagging, MagnaTagATune",
        score="pr_auc",
        value=0.25,
        label_fraction=0.1,
    ),
    score(task="mtat_unfiltered", title="all test clips", value=0.75),
    score(task="fma", title="genre, FMA-small", score="accuracy", value=0.5),
    score(task="mine", title="# my: task", score="accuracy", value=0.125),
    score(task="fma", score="accuracy", value=float("nan")),
]


def block(text):
    return re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)[1]


def rendered(**fields):
    return front_matter.render(
        {"name": "mine", "licence": "MIT", "scores": [], **fields}
    )


def test_a_card_is_one_of_hugging_faces():
    text = card(licence="CC BY-NC 4.0", name="msa", scores=SCORES)
    read = library.ModelCard(text)
    data = read.data
    assert data.library_name == "cola_msa" and data.license == "cc-by-nc-4.0"
    assert data.pipeline_tag == "feature-extraction" and "music" in data.tags
    assert data.metrics == ["accuracy", "pr_auc", "roc_auc"]
    assert data.model_name == "msa"
    found = {
        (r.dataset_type, r.dataset_name, r.dataset_split, r.metric_type, r.metric_value)
        for r in data.eval_results
    }
    assert found == {
        ("mtat", "MagnaTagATune", "test", "roc_auc", 0.8544),
        ("mtat", "MagnaTagATune", "test", "pr_auc", 0.25),
        ("mtat", "MagnaTagATune", "test", "roc_auc", 0.75),
        ("fma", "FMA-small", "test", "accuracy", 0.5),
        ("mine", "# my: task", "test", "accuracy", 0.125),
    }
    assert {r.task_type for r in data.eval_results} == {"audio-classification"}
    name = next(r.metric_name for r in data.eval_results if r.metric_type == "pr_auc")
    assert name == "PR-AUC of linear heads, protocol cached, 0.1 of the labels"
    assert read.text.lstrip().startswith("# msa\n")


def test_it_says_what_the_library_would_write():
    """The library's own results, written by it, read as ours do."""
    data = library.ModelCard(card(name="msa", scores=SCORES)).data
    written = library.ModelCardData(
        library_name="cola_msa",
        license="cc0-1.0",
        pipeline_tag="feature-extraction",
        tags=list(front_matter.TAGS),
        metrics=["accuracy", "pr_auc", "roc_auc"],
        model_name="msa",
        eval_results=data.eval_results,
    )
    assert yaml.safe_load(written.to_yaml()) == yaml.safe_load(
        block(card(name="msa", scores=SCORES))
    )
    one = library.metadata_eval_result(
        model_pretty_name="msa",
        task_pretty_name="genre, FMA-small",
        task_id="audio-classification",
        metrics_pretty_name="WA of linear heads, protocol cached",
        metrics_id="accuracy",
        metrics_value=0.5,
        dataset_pretty_name="FMA-small",
        dataset_id="fma",
        dataset_split="test",
    )
    ours = yaml.safe_load(block(card(name="msa", scores=SCORES[3:4])))
    (metric,) = one["model-index"][0]["results"][0]["metrics"]
    assert metric.pop("verified") is False  # which is what no word says
    assert ours["model-index"] == one["model-index"]


def test_without_scores_there_is_no_index():
    data = library.ModelCard(card(licence="not stated")).data
    assert data.eval_results is None and data.license is None and data.metrics is None


def test_a_folder_is_a_repository(finished_run, tmp_path):
    pretrained.save_pretrained(finished_run, tmp_path / "x", licence="Apache 2.0")
    read = library.ModelCard.load(tmp_path / "x" / "README.md")
    assert read.data.license == "apache-2.0" and read.data.library_name == "cola_msa"


def test_the_starters_card_is_one_too():
    data = library.ModelCard.load(STARTER_DIR / "README.md").data
    assert data.license == "apache-2.0" and data.library_name == "cola_msa"
    assert data.pipeline_tag == front_matter.PIPELINE
    assert data.tags == list(front_matter.TAGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CC-BY-4.0", "cc-by-4.0"),
        ("cc by 4.0", "cc-by-4.0"),
        ("CC0-1.0", "cc0-1.0"),
        ("Apache-2.0", "apache-2.0"),
        ("Apache License 2.0", "apache-2.0"),
        ("apache 2.0", "apache-2.0"),
        ("MIT License", "mit"),
        ("MIT", "mit"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("GPLv3", None),
        ("GPL v3.0", "gpl-3.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("OpenRAIL++", "openrail++"),
        ("other", "other"),
        ("unknown", "unknown"),
    ],
)
def test_licences_have_the_hubs_names(text, expected):
    found = front_matter.licence_fields(text)
    if expected:
        assert found == {"license": expected}
    else:
        assert found["license"] == "other"


@pytest.mark.parametrize("text", ["not stated", "", "  ", "Not stated"])
def test_no_licence_is_none(text):
    assert front_matter.licence_fields(text) == {}


@pytest.mark.parametrize("text", ["非商用", "--"])
def test_a_licence_in_another_script_is_another_licence(text):
    found = front_matter.licence_fields(text)
    assert found == {"license": "other", "license_name": "custom"}


def test_own_licences_are_named():
    found = front_matter.licence_fields("My Lab's Licence: ask me (v2)")
    assert found["license"] == "other"
    assert re.fullmatch("[a-z0-9.-]+", found["license_name"])


@given(name=st.text(), licence=st.text(), title=st.text(), task=st.text())
def test_any_text_is_read_back(name, licence, title, task):
    row = score(task=task, title=title, probe=name)
    found = yaml.safe_load(block(rendered(name=name, licence=licence, scores=[row])))

    def shown(text):
        printable = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(printable.split())

    (index,) = found["model-index"]
    assert index["name"] == shown(name)
    assert index["results"][0]["task"]["name"] == shown(title)
    assert found.get("license") in {None, *front_matter.LICENCES}
    assert set(found) <= {
        "library_name",
        "license",
        "license_name",
        "pipeline_tag",
        "tags",
        "metrics",
        "model-index",
    }


@pytest.mark.parametrize("text", [*HOSTILE, "---", "yes", "null", "1.5", "é", "{a: b}"])
def test_hostile_texts_stay_texts(text):
    found = yaml.safe_load(block(rendered(name=text, scores=[score(task=text)])))
    assert isinstance(found["model-index"][0]["name"], str)
