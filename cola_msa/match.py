"""Which stem belongs to this song? python -m cola_msa.match --model=... .

    python -m cola_msa.match --model=runs/NAME --mixture=song.wav --stems=stems
    python -m cola_msa.match --model=runs/NAME --mixture=songs --stems=songs

One mixture gives a ranking of all stems, several give the matrix and, where a stem lies
in its mixture's folder or has its name, how often the own stem comes first.
"""

import pathlib

from absl import flags

from cola_msa.collection.matching import (
    CHART_NAME,
    RESULT_NAME,
    MatchError,
    _holds_match,
    draw,
    match,
    render,
)
from cola_msa.evaluation.charts import try_to_draw
from cola_msa.hub.loading import open_model
from cola_msa.runs.directory import parse_step
from cola_msa.system import console, folders
from cola_msa.values import arrays
from cola_msa.values.paths import define_path


def define_flags() -> None:
    """Defines the command's flags; not at import, so that others can import this."""
    define_path(
        "model",
        None,
        "Run, pretrained folder, or export. A SavedModel can read and write files: "
        "name only one that you trust.",
        required=True,
    )
    flags.DEFINE_string(
        "checkpoint_step", None, "Of a run: a kept step (0: untrained), or best."
    )
    define_path("mixture", None, "A song, or a folder of songs.", required=True)
    define_path(
        "stems", None, "A stem, or a folder of stems, at any depth.", required=True
    )
    flags.DEFINE_list(
        "mixture_names",
        ["mixture"],
        "Names (without suffix) of mixtures in a folder, where files have such.",
    )
    flags.DEFINE_list(
        "stem_names", [], "Names (without suffix) of stems to compare; default: all."
    )
    flags.DEFINE_integer(
        "num_results", 10, "Stems to print for each mixture.", lower_bound=0
    )
    define_path("output_dir", "match", "Where match.json and match.png go.")


def main(options: flags.FlagValues) -> None:
    """Runs the command.

    Raises:
        MatchError: If nothing can be compared.
        RunError: If there is no such model.
    """
    step = parse_step(options.checkpoint_step)
    for name in ("mixture", "stems"):
        if not pathlib.Path(str(options[name].value)).exists():
            raise MatchError(f"--{name}={options[name].value} does not exist")
    output_dir = pathlib.Path(options.output_dir)
    folders.check_names(
        output_dir, (RESULT_NAME, CHART_NAME), _holds_match, "a folder of match"
    )
    model = open_model(options.model, step)
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
    console.tell(
        f"files: {output_dir}/{RESULT_NAME}{f', {CHART_NAME}' if is_drawn else ''}"
    )


if __name__ == "__main__":
    console.start(main, define_flags)
