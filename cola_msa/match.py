"""Which stem belongs to this song? python -m cola_msa.match --model=... .

    python -m cola_msa.match --model=runs/NAME --mixture=song.wav --stems=stems
    python -m cola_msa.match --model=runs/NAME --mixture=songs --stems=songs

One mixture gives a ranking of all stems, several give the matrix and, where a stem lies
in its mixture's folder or has its name, how often the own stem comes first.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import app, flags, logging

from cola_msa.audio.decode import AudioError
from cola_msa.collection import match_chart, matching
from cola_msa.collection.matching import MatchError, Projected
from cola_msa.evaluation.charts import try_to_draw
from cola_msa.hub.loading import OpenedModel, open_model
from cola_msa.runs import arrays
from cola_msa.runs.kept import parse_step
from cola_msa.system import folders
from cola_msa.system.console import run_command
from cola_msa.system.errors import FileError
from cola_msa.values.reading import read_json

RESULT_NAME, CHART_NAME = "match.json", "match.png"


def project_all(
    model: OpenedModel, paths: Sequence[pathlib.Path], failures: dict[str, str]
) -> Iterator[Projected]:
    """Projects files one by one; what cannot be read is left out and gets a reason.

    Args:
        model: With a matcher.
        paths: Files.
        failures: Reasons by path; added to.

    Yields:
        Each file's windows.
    """
    for path in tqdm.tqdm(paths, desc="project", unit="file"):
        try:
            yield matching.project_file(model, path)
        except AudioError as error:
            failures[str(path)] = str(error)


def match(
    model: OpenedModel,
    mixture: str,
    stems: str,
    mixture_names: Sequence[str] = ("mixture",),
    stem_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores every stem against every mixture.

    Args:
        model: With a matcher.
        mixture: A file, or a folder: its files named like one of `mixture_names`, or
            all where there are none.
        stems: A file or a folder.
        mixture_names: File names without suffix; such files are no stems.
        stem_names: File names without suffix to take as stems; all by default.

    Returns:
        `mixtures`, `stems` (paths), `scores` [mixtures, stems], `windows` [mixtures,
        stems, W], `is_own`, `own` (ranks of own stems; and `own_centred`, of scores
        less each stem's mean), `silent` (stems without any sound, which have no
        score), `failures` (with mixtures without any sound).

    Raises:
        MatchError: If nothing is left to compare.
    """
    try:
        mixture_paths = matching.find_files(mixture, mixture_names)
    except MatchError:
        mixture_paths = matching.find_files(mixture)
    taken = {path.resolve() for path in mixture_paths}
    stem_paths = [
        path
        for path in matching.find_files(stems, stem_names)
        if path.resolve() not in taken and path.stem not in mixture_names
    ]
    failures: dict[str, str] = {}
    songs = []
    for song in project_all(model, mixture_paths, failures):
        if song.is_silent:
            failures[str(song.path)] = "a mixture without any sound"
        else:
            songs.append(song)
    if not songs:
        raise _nothing_left("mixture", failures)
    # One stem at a time: only the mixtures' projections are held.
    parts, silent = [], []
    columns: list[np.ndarray] = []
    windows: list[list[list[float | None]]] = [[] for _ in songs]
    for part in project_all(model, stem_paths, failures):
        parts.append(part.path)
        if part.is_silent:
            silent.append(str(part.path))
        columns.append(np.full(len(songs), np.nan))
        for row, song in enumerate(songs):
            values = np.full(len(song.projections), np.nan)
            if not part.is_silent:
                try:
                    found = matching.score_pair(model, song, part)
                    columns[-1][row], values = found.clip, found.windows
                except MatchError as error:
                    logging.warning("%s", error)
            windows[row].append(
                [None if np.isnan(v) else round(float(v), 6) for v in values]
            )
    if not parts:
        raise _nothing_left("stem", failures)
    scores = np.stack(columns, axis=1)
    if not np.isfinite(scores).any():
        raise MatchError("every stem is silent as long as the mixtures last")
    is_own = matching.own_stems([s.path for s in songs], parts)
    kinds = [path.stem for path in parts]
    if len(set(kinds)) == len(kinds):  # each stem has a name of its own
        kinds = [""] * len(kinds)
    frontend = model.frontend
    seconds = frontend.window_frames * frontend.hop_samples / frontend.sample_rate_hz
    result: dict[str, Any] = {
        "model": model.description,
        "model_hash": model.key,
        "window_seconds": seconds,
        "mixtures": [str(s.path) for s in songs],
        "stems": [str(path) for path in parts],
        "scores": [[None if np.isnan(v) else float(v) for v in row] for row in scores],
        "windows": windows,
        "is_own": is_own.tolist(),
        "own": matching.rank_own(scores, is_own, kinds),
        "silent": silent,
        "failures": failures,
    }
    if len(songs) > 1:
        result["own_centred"] = matching.rank_own(
            matching.centred(scores), is_own, kinds
        )
    return result


def _nothing_left(what: str, failures: dict[str, str]) -> MatchError:
    reasons = "; ".join(f"{path}: {why}" for path, why in failures.items())
    return MatchError(f"no {what} is left to compare ({reasons or 'no file'})")


def render(result: dict[str, Any], num_results: int) -> str:
    """A result as text: rankings, and how often own stems come first."""
    lines = []
    for row, mixture in enumerate(result["mixtures"]):
        scores = np.array(result["scores"][row], float)
        lines += [f"{mixture}:", f"{'':>4}  {'score':>10}"]
        # What is not a number is sorted to the end.
        order = np.argsort(-scores, kind="stable")
        for rank, number in enumerate(order[:num_results], 1):
            own = "  (its own)" if result["is_own"][row][number] else ""
            path = result["stems"][number]
            score = f"{rank:>4}  {scores[number]:>10.4f}"
            if not np.isfinite(scores[number]):
                score = f"{'-':>4}  {'silent':>10}"
            lines.append(f"{score}  {path}{own}")
    for name, title in (("own", "scores"), ("own_centred", "less each stem's mean")):
        found = result.get(name, {})
        if found.get("num_queries"):
            lines.append(
                f"own stems, {title}: top-1 {found['top1']:.3f} (chance "
                f"{found['chance_top1']:.3f}), MRR {found['mrr']:.3f} (chance "
                f"{found['chance_mrr']:.3f}), {found['num_queries']} queries"
            )
    lines += [f"silent, not ranked: {path}" for path in result["silent"]]
    lines += [f"failed: {path}: {why}" for path, why in result["failures"].items()]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
    """Draws a ranking (one mixture) or the matrix (several)."""
    scores = np.array(result["scores"], float)
    mixtures, stems = result["mixtures"], result["stems"]
    if len(mixtures) == 1:
        order = [
            n
            for n in np.argsort(-scores[0], kind="stable")
            if np.isfinite(scores[0][n])
        ]
        windows = np.array(result["windows"][0], float)
        match_chart.draw_ranking(
            path,
            [_short(stems[n]) for n in order],
            scores[0][order],
            windows[order],
            result["window_seconds"],
            f"stems for {_short(mixtures[0])}",
        )
        return
    own = result["own"]
    title = f"{len(mixtures)} mixtures, {len(stems)} stems"
    if own["num_queries"]:
        title += (
            f"; own stem first: {own['top1']:.2f} (chance {own['chance_top1']:.2f})"
        )
    match_chart.draw_matrix(
        path,
        [_short(p) for p in mixtures],
        [_short(p) for p in stems],
        scores,
        np.array(result["is_own"], bool),
        title,
    )


def _short(path: str) -> str:
    """The last folder and the file's name."""
    parts = pathlib.PurePath(path).with_suffix("").parts
    return "/".join(parts[-2:])


def _holds_match(folder: pathlib.Path) -> bool:
    try:
        found = read_json(folder / RESULT_NAME)
    except FileError:
        return False
    return {"model_hash", "mixtures", "stems", "scores"} <= found.keys()


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    flags.DEFINE_string(
        "model",
        None,
        "Run, pretrained folder, or export. A SavedModel can read and write files: "
        "name only one that you trust.",
    )
    flags.DEFINE_string(
        "checkpoint_step", None, "Of a run: a kept step (0: untrained), or best."
    )
    flags.DEFINE_string("mixture", None, "A song, or a folder of songs.")
    flags.DEFINE_string("stems", None, "A stem, or a folder of stems, at any depth.")
    flags.DEFINE_list(
        "mixture_names",
        ["mixture"],
        "Names (without suffix) of mixtures in a folder, where files have such.",
    )
    flags.DEFINE_list(
        "stem_names", [], "Names (without suffix) of stems to compare; default: all."
    )
    flags.DEFINE_integer("num_results", 10, "Stems to print for each mixture.")
    flags.DEFINE_string("output_dir", "match", "Where match.json and match.png go.")


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        MatchError: If a flag is missing, or nothing can be compared.
        RunError: If there is no such model.
    """
    options = flags.FLAGS
    if len(argv) > 1:
        raise MatchError(f"unknown argument {argv[1]}; flags begin with --")
    for name in ("model", "mixture", "stems"):
        if not options[name].value:
            raise MatchError(f"--{name} is needed; see --help")
    for name in ("mixture", "stems"):
        if not pathlib.Path(str(options[name].value)).exists():
            raise MatchError(f"--{name}={options[name].value} does not exist")
    output_dir = pathlib.Path(options.output_dir)
    folders.check_names(
        output_dir, (RESULT_NAME, CHART_NAME), _holds_match, "a folder of match"
    )
    model = open_model(options.model, parse_step(options.checkpoint_step))
    result = match(
        model,
        options.mixture,
        options.stems,
        options.mixture_names,
        options.stem_names,
    )
    # The result first: it says whose the chart is.
    arrays.write_json(output_dir / RESULT_NAME, result)
    print(render(result, options.num_results))
    chart = output_dir / CHART_NAME
    is_drawn = try_to_draw(chart, lambda: draw(result, chart))
    print(f"files: {output_dir}/{RESULT_NAME}{f', {CHART_NAME}' if is_drawn else ''}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main))
