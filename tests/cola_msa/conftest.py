"""Fixtures of the report's tests."""

import pytest

from cola_msa.config.strategies import STRATEGIES
from cola_msa.evaluation.tasks import TASKS
from cola_msa.reproduction.report import content, figure_data, runs
from tests.helpers.report_runs import (
    write_data,
    write_result,
    write_run,
)


@pytest.fixture(scope="session")
def report_tree(tmp_path_factory):
    """Runs of most strategies; ablations 2 and 3 and degraded stems are missing."""
    root = tmp_path_factory.mktemp("report")
    clean = write_data(root / "prepared" / "mtat")
    random = write_data(root / "prepared" / "mtat_random", "random")
    for number, name in enumerate(STRATEGIES):
        if name in ("ablation2", "ablation3", "msa_degraded"):
            continue
        data = random if name == "cola_random_mask" else clean
        run_dir = write_run(root / "runs", name, data)
        tasks = ["mtat"] if name == "msa_bass" else list(TASKS)
        for task in tasks:
            write_result(run_dir, task, quality=0.2 + 0.05 * number, seed=number)
        if name in figure_data.STEPS_OF:
            for step in (0, 2):
                write_result(
                    run_dir,
                    "mtat",
                    step=step,
                    quality=0.1 * step,
                    folder=f"mtat-{step}",
                )
    run_dir = write_run(root / "runs", "msa", clean, seed=1)
    for task in TASKS:
        write_result(run_dir, task, quality=0.3, seed=30)
    write_result(
        root / "runs" / "msa",
        "fma",
        folder="fma-untrained",
        encoder={"encoder": "untrained", "step": 0},
    )
    write_result(
        root / "runs" / "msa",
        "mtat",
        quality=0.9,
        folder="mtat-paper",
        protocol="paper",
    )
    return root


@pytest.fixture(scope="session")
def report_collection(report_tree):
    return runs.collect(runs.find_runs([str(report_tree / "runs")]))


@pytest.fixture(scope="session")
def report_blocks(report_collection):
    return content.build_blocks(report_collection)[0]
