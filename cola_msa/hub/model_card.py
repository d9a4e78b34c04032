"""The model card: what a pretrained encoder is, was trained on, and scored."""

import contextlib
import functools
import json
import os
import pathlib
from typing import Any

from cola_msa.config.schema import (
    LOG_MEL,
    WAVEFORM,
    Config,
    TrainConfig,
    from_dict,
)
from cola_msa.evaluation.tasks import SCORE_TITLES
from cola_msa.frameworks.choose import get_framework
from cola_msa.hub.sharing import front_matter
from cola_msa.system.errors import FileError
from cola_msa.values.markdown import plain
from cola_msa.values.reading import read_json

_SHOWN_CLASSES = 6
_USE = """\
```python
from cola_msa import load_encoder, log_mel, normalize_level, split_windows

encoder = load_encoder({folder})  # [n, 98, 64, 1] -> [n, {dim}]
mel = log_mel(normalize_level(waveform, level="{level}"))  # 16 kHz, mono
embeddings = encoder(split_windows(mel), training=False)
```
"""
_USE_WAVEFORM = """\
```python
import cola_msa

embed = cola_msa.Embedder.from_pretrained({folder})
embedding = embed(waveform, sample_rate)  # of any rate; windows give {dim}
```
"""


def read_scores(run_dir: str | os.PathLike, step: int | None) -> list[dict[str, Any]]:
    """Scores of a run's frozen encoder at a step, as its results.json files say.

    Args:
        run_dir: The run.
        step: The encoder's step.

    Returns:
        One row a task, protocol, probe and score; empty where none was measured.
    """
    rows = []
    for path in sorted(pathlib.Path(run_dir).glob("eval/*/results.json")):
        # Another command's results, or a file that is being written.
        with contextlib.suppress(FileError):
            rows += read_json(path, check=functools.partial(_score_rows, step))
    return rows


def _score_rows(step: int | None, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of results; [] where they are not of the step's frozen encoder."""
    encoder = results.get("encoder", {})
    found = results.get("mode"), encoder.get("encoder"), encoder.get("step")
    if found != ("frozen", "trained", step):
        return []
    return [
        {
            "task": str(results["task"]),
            "title": str(results["title"]),
            "protocol": str(results["protocol"]),
            "probe": str(results["probe"]),
            "label_fraction": float(results["label_fraction"]),
            "score": name,
            **{part: float(score[part]) for part in ("value", "low", "high", "chance")},
            "test_clips": int(results["splits"]["test"]["clips"]),
            "heads": len(results["seeds"]),
        }
        for name, score in results["scores"].items()
    ]


def _score_lines(scores: list[dict[str, Any]]) -> list[str]:
    if not scores:
        return ["None was measured: `python -m cola_msa.eval` does it.", ""]
    lines = [
        "Of classifiers on the frozen encoder; intervals of 95 %, by bootstrap over "
        "the test clips.",
        "",
        "| task | score | value | interval | chance | test clips | protocol, probe |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in scores:
        how = f"{plain(row['protocol'])}, {plain(row['probe'])}"
        if row["label_fraction"] != 1.0:
            how += f", {row['label_fraction']:g} of the labels"
        lines.append(
            f"| {plain(row['title'])} "
            f"| {plain(SCORE_TITLES.get(row['score'], row['score']))} "
            f"| {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} "
            f"| {row['chance']:.3f} | {row['test_clips']} | {how} |"
        )
    return [*lines, ""]


def _head_lines(content: dict[str, Any]) -> list[str]:
    heads = content.get("heads", [])
    if not heads:
        return []
    lines = [
        "## Heads",
        "",
        "Classifiers on the embeddings, which `python -m cola_msa.tag --model=FOLDER "
        "--task=TASK` and `cola_msa.Tagger` apply; scores on the test clips, with "
        "intervals of 95 %.",
        "",
        "| task | labels | scores | clips | protocol, probe | file |",
        "|---|---|---|---|---|---|",
    ]
    for row in heads:
        names = [plain(name) for name in row["class_names"]]
        labels = f"{len(names)}: {', '.join(names[:_SHOWN_CLASSES])}"
        labels += ", ..." if len(names) > _SHOWN_CLASSES else ""
        scores = []
        for name, value in row["scores"].items():
            text = f"{plain(SCORE_TITLES.get(name, name))} {value:.3f}"
            if name in row["intervals"]:
                text += " ({:.3f} to {:.3f})".format(*row["intervals"][name])
            if name in row["chance"]:
                text += f", chance {row['chance'][name]:.3f}"
            scores.append(text)
        clips = ", ".join(
            f"{count:g} {plain(part)}" for part, count in row["clips"].items()
        )
        how = f"{plain(row['protocol'])}, {plain(row['probe'])}"
        if row["level"] == "clip":
            how += ", of whole clips"
        if row["label_fraction"] != 1.0:
            how += f", {row['label_fraction']:g} of the labels"
        lines.append(
            f"| {plain(row['task'])} | {labels} | {'; '.join(scores) or 'none'} "
            f"| {clips or 'not stated'} | {how} | {plain(row['file'])} |"
        )
    others = {row["trained_on"] for row in heads} - {content["encoder_key"]}
    if others:
        how = "come"
        if content.get("weights", "float32") != "float32":
            how = "were rounded to be stored: of these they say nearly the same"
        keys = ", ".join(plain(key) for key in sorted(others))
        lines += [
            "",
            f"They were trained, and scored, on the embeddings of the weights {keys}, "
            f"from which these {how}.",
        ]
    return [*lines, ""]


def render_card(content: dict[str, Any]) -> str:
    """The model card of a pretrained folder as Markdown below its front matter.

    Args:
        content: Its config.json, see `pretrained`.
    """
    config, data = content["config"], content["data"]
    train, model = config["train"], config["model"]
    is_waveform = config["frontend"].get("kind", LOG_MEL) == WAVEFORM
    held = "waveform" if is_waveform else "log-mel"
    framework = get_framework(config.get("framework", Config.framework))
    separator = data.get("separator")
    if isinstance(separator, dict):
        separator = separator.get("name")
    hears_stems = framework.hears_stems(from_dict(TrainConfig, train).source)
    facts = {
        "network": f"{model['backbone']}, embeddings of {content['embedding_dim']}",
        "input": f"{held} windows [{config['frontend']['window_frames']}, "
        f"{config['frontend']['num_mels']}, 1] of "
        f"{config['frontend']['sample_rate_hz']} Hz mono, "
        f"level rule {config['frontend']['level']}",
        "preset": config["preset"],
        "trained on": data.get("dataset") or "not stated",
        "sources": ", ".join(map(str, data.get("sources") or ())) or "none",
        "stems by": (separator or "not stated") if hears_stems else "",
        "pairs": framework.describe_pairs(from_dict(TrainConfig, train)),
        "similarity": f"{model['similarity']}, T = {model['temperature']:g}",
        "steps": f"{content['step']} ({content['updates']} updates, "
        f"{content['pairs']} pairs)",
        "weights from": content.get("source") or "a run of this package",
        "licence of the weights": content["licence"],
        "key of the weights": content["encoder_key"],
    }
    use = (_USE_WAVEFORM if is_waveform else _USE).format(
        # As a Python text; a backtick could end the code.
        folder=json.dumps(content["name"]).replace("`", "\\u0060"),
        dim=content["embedding_dim"],
        level=config["frontend"]["level"],
    )
    lines = [
        f"# {plain(content['name'])}",
        "",
        f"An encoder of music, pretrained without labels by "
        f"{framework.method} with `cola_msa`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {plain(value)} |" for name, value in facts.items() if value),
        "",
        "## Scores",
        "",
        *_score_lines(content["scores"]),
        *_head_lines(content),
        "## Use",
        "",
        use,
        "`config.json` holds the whole configuration and the SHA-256 of every file.",
    ]
    return front_matter.render(content) + "\n".join(lines) + "\n"
