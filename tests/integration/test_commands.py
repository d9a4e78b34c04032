"""What users run, in processes of its own: the demo, and commands used wrongly."""

import itertools
import pathlib
import re
import subprocess

import pytest

from cola_msa.runs import kept
from tests.helpers.commands import run_fresh, run_module


def snapshot(folder: pathlib.Path) -> dict[str, int]:
    """Modification times of all files below a folder; locks are opened anew."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
def test_the_demo_from_nothing_and_again(tmp_path):
    arguments = ("--preset=smoke", "--scale=0.02", "--output_dir=out")
    first = run_fresh("cola_msa.demo", *arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    out = tmp_path / "out"
    table = (out / "table.txt").read_text()
    assert first.stdout.rstrip().endswith(table.rstrip())
    lines = table.splitlines()
    header = next(line for line in lines if line.split()[:1] == ["trained"])
    titles = ["trained", "95 % interval", "untrained", "spectra", "starter", "chance"]
    assert re.split(r" {2,}", header.strip()) == titles
    probes = ("mtat, ROC-AUC", "mtat, PR-AUC", "nsynth, WA", "fma, WA")
    for name in (
        "retrieval, top-1",
        "retrieval, MRR",
        *(f"{probe}, {head}" for head in ("ridge", "paper") for probe in probes),
    ):
        row = next(line for line in lines if line.startswith(name))
        scores = [
            float(value) for value in row.removeprefix(name).split() if _is(value)
        ]
        # Trained, two ends, untrained, spectra, starter, chance.
        assert len(scores) == 7
        assert all(-1 <= score <= 1 for score in scores)
    assert (out / "export" / "saved_model.pb").is_file()
    assert (out / "export" / "metadata.json").is_file()
    for task in ("mtat", "nsynth", "fma"):
        assert (out / "data" / "prepared" / task / "manifest.json").is_file()
        for encoder, head in itertools.product(
            ("", "-untrained", "-spectra"), ("ridge", "standardized")
        ):
            folder = out / "run" / "eval" / f"{task}{encoder}-{head}"
            assert (folder / "results.json").is_file()
    assert kept.kept_steps(out / "run")[0] == 0

    before = snapshot(out)
    again = run_fresh("cola_msa.demo", *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    table_again = (out / "table.txt").read_text().splitlines()
    assert [line for line in table_again if not line.startswith("time ")] == [
        line for line in lines if not line.startswith("time ")
    ]
    # Nothing was made anew but the table and what is appended to the run's logs.
    changed = {
        path
        for path, modified in snapshot(out).items()
        if before.get(path) != modified and not path.startswith("run/logs/")
    }
    assert changed <= {"table.txt"}


def _is(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("cola_msa.eval", ["--task=jazz"], "--task must be one of mtat,"),
        ("cola_msa.eval", ["--task=fma"], "there is no run under runs/"),
        ("cola_msa.export", ["--output_dir=out"], "there is no run under runs/"),
        (
            "cola_msa.export",
            ["--output_dir=out", "--run_dir=nowhere"],
            "nowhere does not exist; name a run",
        ),
        ("cola_msa.retrieve", ["--run_dir=nowhere"], "--run_dir must name a training"),
        ("cola_msa.curves", ["--run_dir=nowhere"], "--run_dir must name a training"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, module, arguments, message):
    _check_error(run_module(module, *arguments, cwd=tmp_path), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("cola_msa.eval", ["--task=fma"], "--task=fma reads 'fma'"),
        ("cola_msa.eval", ["--task=mtat", "--checkpoint_step=7"], "step 7"),
        ("cola_msa.retrieve", ["--split=holdout"], "no split 'holdout'"),
    ],
)
def test_a_command_that_does_not_fit_the_run_is_one_line(
    finished_run, prepared_dir, tmp_path, module, arguments, message
):
    found = run_module(
        module,
        f"--run_dir={finished_run}",
        f"--data_dir={prepared_dir}",
        *arguments,
        cwd=tmp_path,
    )
    _check_error(found, message)


def _check_error(found: subprocess.CompletedProcess, message: str) -> None:
    assert found.returncode not in (0, 130), found.stdout
    errors = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, found.stderr[-3000:]
    assert message in errors[0]
    assert "Traceback" not in found.stderr


def test_the_export_command_says_what_it_checked(finished_run, tmp_path):
    found = run_module(
        "cola_msa.export",
        f"--run_dir={finished_run}",
        "--output_dir=encoder",
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert "reloaded in a fresh process: relative difference" in found.stdout
    assert (tmp_path / "encoder" / "saved_model.pb").is_file()
    assert (tmp_path / "encoder" / "metadata.json").is_file()
