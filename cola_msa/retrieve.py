"""Which stem belongs to this mixture? python -m cola_msa.retrieve --run_dir=...

Ranks each validation mixture's own stem among 64 stems of the same kind from as many
songs as there are, for the trained network and for the one it started from, and gives
the paired interval of their difference. Writes <run_dir>/eval/retrieval/results.json.
"""

import pathlib
from typing import Any

import numpy as np
from absl import app, flags, logging

from cola_msa.evaluation.baseline import untrained_model
from cola_msa.evaluation.retrieval import (
    Retrieval,
    paired_interval,
    project_draws,
    rank_projections,
    retrieval_draws,
    retrieve,
)
from cola_msa.model.contrastive import ContrastiveModel, project_function
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.prepared import PreparedData
from cola_msa.runs import kept
from cola_msa.system.console import run_command

NUM_CANDIDATES = 64
NUM_ROUNDS = 8


def retrieval_of(model: ContrastiveModel, sampler: PairSampler) -> Retrieval:
    """Retrieval of one model on fixed rounds of the sampler's split.

    Args:
        model: Network and similarity.
        sampler: Over the split to draw from.
    """
    draws = retrieval_draws(sampler, NUM_CANDIDATES, NUM_ROUNDS)
    return retrieve(sampler, draws, project_function(model), model.similarity)


def compare_with_untrained(
    run_dir: str | pathlib.Path,
    data: PreparedData,
    step: int | str | None = None,
    split: str = "validation",
) -> dict[str, Any]:
    """Retrieval of a run's network and of the network that it started from.

    Args:
        run_dir: The run.
        data: Prepared data with stems.
        step: A kept step, `best`, or None for the last.
        split: Where the songs come from.

    Returns:
        `trained` (its own kernel), `untrained` (its own initial kernel) and
        `untrained_trained_kernel` (initial network, trained kernel): scores with
        chance; `difference`: trained minus the better of the other two, for `top1`
        and `mrr`, each with the 95 % interval over songs, and the ratio.
    """
    config = kept.load_config(run_dir)
    sampler = PairSampler(data, config.train, split)
    trained_model = kept.load_model(run_dir, step, "pairs")
    untrained_network = untrained_model(run_dir, data, "pairs")
    draws = retrieval_draws(sampler, NUM_CANDIDATES, NUM_ROUNDS)
    projected = {
        name: project_draws(sampler, draws, project_function(model))
        for name, model in (
            ("trained", trained_model),
            ("untrained", untrained_network),
        )
    }
    found = {
        name: rank_projections(sampler, draws, projected[network], kernel.similarity)
        for name, network, kernel in (
            ("trained", "trained", trained_model),
            ("untrained", "untrained", untrained_network),
            ("untrained_trained_kernel", "untrained", trained_model),
        )
    }
    results: dict[str, Any] = {name: r.scores() for name, r in found.items()}
    per_source = {}
    for number in np.unique(found["trained"].source):
        name = "mixture" if number < 0 else data.sources[number]
        per_source[name] = {
            model: float(r.top1[r.source == number].mean())
            for model, r in found.items()
        }
    results["top1_per_source"] = per_source
    results["difference"] = {}
    for measure in ("top1", "mrr"):
        other = max(
            ("untrained", "untrained_trained_kernel"),
            key=lambda name: results[name][measure],
        )
        values = {
            name: r.top1 if measure == "top1" else r.reciprocal
            for name, r in found.items()
        }
        low, high = paired_interval(
            values["trained"], values[other], found["trained"].songs
        )
        results["difference"][measure] = {
            "against": other,
            "difference": results["trained"][measure] - results[other][measure],
            "interval": [low, high],
            "ratio": results["trained"][measure] / max(results[other][measure], 1e-12),
        }
    results["split"] = split
    results["num_candidates"] = NUM_CANDIDATES
    return results


def render(results: dict[str, Any]) -> str:
    """The comparison as a text table."""
    trained = results["trained"]
    lines = [
        f"retrieval on {trained['num_songs']} {results['split']} songs, "
        f"{trained['num_queries']} queries, up to {results['num_candidates']} "
        "candidates",
        f"{'network':32s} {'top-1':>7s} {'MRR':>7s}",
    ]
    for name, label in (
        ("trained", "trained"),
        ("untrained", "untrained, initial kernel"),
        ("untrained_trained_kernel", "untrained, trained kernel"),
    ):
        row = results[name]
        lines.append(f"{label:32s} {row['top1']:7.3f} {row['mrr']:7.3f}")
    lines.append(
        f"{'chance':32s} {trained['chance_top1']:7.3f} {trained['chance_mrr']:7.3f}"
    )
    for measure, row in results["difference"].items():
        low, high = row["interval"]
        lines.append(
            f"{measure}: trained minus {row['against'].replace('_', ', ')} = "
            f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"{row['ratio']:.1f} times"
        )
    return "\n".join(lines)


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Training run; default the newest in runs/.")
    flags.DEFINE_string(
        "data_dir", None, "Prepared data with stems; default the run's own."
    )
    flags.DEFINE_string("checkpoint_step", None, "A kept step, or best; default last.")
    flags.DEFINE_string("split", "validation", "Split that the songs come from.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    run_dir = kept.choose_run(flags.FLAGS.run_dir)
    data_dir = flags.FLAGS.data_dir
    if data_dir is None:
        data_dir = kept.own_data_dir(run_dir)
        logging.info("no --data_dir: the run's own, %s", data_dir)
    data = PreparedData(data_dir, kept.load_config(run_dir).frontend)
    step = kept.parse_step(flags.FLAGS.checkpoint_step)
    results = compare_with_untrained(run_dir, data, step, flags.FLAGS.split)
    name = "retrieval" if step is None else f"retrieval-{step}"
    output_dir = pathlib.Path(run_dir) / "eval" / name
    kept.write_json(output_dir / "results.json", results)
    print(render(results))
    print(f"  files: {output_dir}/results.json")


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main))
