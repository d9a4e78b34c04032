"""A whole reproduction on a few clips, killed in the middle."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.cola_msa.system.test_processes import wait_for
from tests.helpers.commands import ROOT, run_fresh


@pytest.mark.slow
def test_a_killed_reproduction_goes_on_to_the_report(tmp_path):
    arguments = ["--table=2", "--figure=2", "--tasks=mtat", "--scale=smoke"]
    arguments += ["--head_seeds=2", "--output_dir=out"]
    command = [sys.executable, "-m", "cola_msa.reproduce", *arguments]
    out = tmp_path / "out"
    log = open(tmp_path / "log", "w")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    first = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": path},
    )
    # In the middle of the second training: some of its updates are done.
    metrics = out / "runs" / "ablation1" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, 600)
    first.kill()
    first.wait()
    log.close()
    judged = out / "runs" / "msa" / "eval" / "mtat" / "results.json"
    before = judged.stat().st_mtime_ns

    found = run_fresh("cola_msa.reproduce", *arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    assert "all 12 steps done" in found.stdout
    assert judged.stat().st_mtime_ns == before
    for name in ("msa", "ablation1", "ablation2", "ablation3"):
        done = json.loads((out / "runs" / name / "done.json").read_text())
        assert (done["outcome"], done["updates"]) == ("finished", 20)
    text = (out / "report" / "report.md").read_text()
    assert "0.000098 % of the paper's" in text
    assert (out / "report" / "figure2.png").stat().st_size > 5000
    assert "no run" not in text

    again = run_fresh("cola_msa.reproduce", *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("$ python") == 1  # the report alone


@pytest.mark.slow
def test_table_1_has_clmr_trained_below_what_the_paper_quotes(tmp_path):
    arguments = ["--table=1", "--tasks=fma", "--scale=smoke", "--head_seeds=1"]
    found = run_fresh(
        "cola_msa.reproduce", *arguments, "--output_dir=out", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr[-3000:]
    done = json.loads((tmp_path / "out" / "runs" / "clmr" / "done.json").read_text())
    assert (done["outcome"], done["updates"]) == ("finished", 20)
    text = (tmp_path / "out" / "report" / "report.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line[:7] == "| CLMR "]
    quoted, trained = rows
    assert quoted[1].startswith("quoted by the paper") and "0.484" in quoted[-1]
    assert trained[1].startswith("here: 80 pairs") and "clmr" in trained[1]
    assert re.match(r"[01]\.\d{3}<br>", trained[-1])
    assert "0.000053 % of CLMR's published" in trained[1]
