"""The YAML on top of a model card, by which Hugging Face lists and filters models.

Of the form of https://github.com/huggingface/hub-docs/blob/main/modelcard.md, written
without a YAML library: keys are ours, and texts of users are quoted as JSON quotes
them, which YAML reads.
"""

import json
import math
import re
from typing import Any

from cola_msa.evaluation.tasks import OTHER_TASKS, SCORE_TITLES, TASKS

LIBRARY = "cola_msa"
# The hub's names of what the encoder gives, and of the tasks that it is scored by.
PIPELINE, TASK = "feature-extraction", "audio-classification"
TAGS = ("audio", "music", "embeddings", "contrastive-learning", "self-supervised")
DATASETS = {
    "mtat": "MagnaTagATune",
    "nsynth": "NSynth",
    "fma": "FMA-small",
    "gtzan": "GTZAN",
    "jamendo": "MTG-Jamendo",
}
# https://huggingface.co/docs/hub/repositories-licenses; the hub refuses others.
LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m
    bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0
    gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by
    odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown
    other
    """.split()
)
_PLAIN = re.compile("[a-z][a-z0-9_-]*[a-z0-9]")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}  # in YAML no texts


def render(content: dict[str, Any]) -> str:
    """The front matter of a pretrained folder's card, with its `---` lines.

    Args:
        content: The folder's config.json, see `pretrained`.
    """
    fields: dict[str, Any] = {
        "library_name": LIBRARY,
        **licence_fields(content["licence"]),
        "pipeline_tag": PIPELINE,
        "tags": list(TAGS),
    }
    results = _results(content["scores"])
    if results:
        found = {metric["type"] for part in results for metric in part["metrics"]}
        fields["metrics"] = sorted(found)
        fields["model-index"] = [{"name": content["name"], "results": results}]
    return "\n".join(["---", *_lines(fields), "---", ""])


def licence_fields(licence: str) -> dict[str, str]:
    """`license` by its identifier at Hugging Face, from what its owner wrote.

    A licence that has none there is `other`, with a name; one that is not stated is
    left out.
    """
    name = re.sub(r"[^a-z0-9.+]+", "-", licence.lower()).strip("-.")
    if licence.strip().lower() in ("", "not stated"):
        return {}
    short = re.sub(r"-(only|or-later)$|-licen[cs]e$", "", name)
    short = re.sub(
        r"^(the-)?(apache|mpl|gpl|lgpl|agpl)-(licen[cs]e-)?v?", r"\2-", short
    )
    for identifier in (name, short):
        if identifier in LICENCES:
            return {"license": identifier}
    return {"license": "other", "license_name": name[:64].strip("-.") or "custom"}


def _results(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry a task, with all of its scores."""
    found: dict[str, dict[str, Any]] = {}
    for row in scores:
        if not math.isfinite(row["value"]):
            continue  # no number of JSON, which the hub makes of it
        task = row["task"]
        if task not in found:
            spec = {**TASKS, **OTHER_TASKS}.get(task)
            dataset = spec.dataset if spec else task
            data = {"type": dataset, "name": DATASETS.get(dataset, row["title"])}
            if task != dataset:
                data["config"] = task
            found[task] = {
                "task": {"type": TASK, "name": row["title"]},
                "dataset": {**data, "split": "test"},
                "metrics": [],
            }
        title = SCORE_TITLES.get(row["score"], row["score"])
        how = f"{title} of {row['probe']} heads, protocol {row['protocol']}"
        if row["label_fraction"] != 1.0:
            how += f", {row['label_fraction']:g} of the labels"
        metric = {"type": row["score"], "value": round(row["value"], 4), "name": how}
        found[task]["metrics"].append(metric)
    return list(found.values())


def _lines(value: Any) -> list[str]:
    """A value as lines of YAML, in blocks."""
    if isinstance(value, dict):
        lines = []
        for key, part in value.items():
            if isinstance(part, dict | list):
                indent = "  " if isinstance(part, dict) else ""
                lines += [f"{key}:", *(indent + line for line in _lines(part))]
            else:
                lines.append(f"{key}: {_scalar(part)}")
        return lines
    lines = []
    for part in value:
        first, *rest = _lines(part) if isinstance(part, dict) else [_scalar(part)]
        lines += [f"- {first}", *(f"  {line}" for line in rest)]
    return lines


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value not in _WORDS:
        return value
    # One line of what YAML takes as it is; JSON's escapes are YAML's.
    printable = "".join(c if c.isprintable() else " " for c in value)
    quoted = json.dumps(" ".join(printable.split()), ensure_ascii=False)
    # Where a card is shown by what knows no front matter, it makes no HTML either.
    return quoted.replace("<", "\\u003c")
