import json
import shutil

from tests.helpers.commands import run_module


def test_the_command_judges_every_kept_step(finished_run):
    result = run_module("cola_msa.curves", f"--run_dir={finished_run}")
    assert result.returncode == 0, result.stderr
    figure, values = result.stdout.split()[-2:]
    assert open(figure, "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    found = json.loads(open(values).read())
    assert set(found["retrieval"]) == {"0", "2", "4"}
    assert 0 <= found["retrieval"]["4"]["top1"] <= 1


def test_files_of_the_users_are_not_written_over(finished_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    for name in ("curves.png", "curves.json"):
        for old in run_dir.glob("curves.*"):
            old.unlink()
        (run_dir / name).write_text("MINE")
        ended = run_module("cola_msa.curves", f"--run_dir={run_dir}")
        assert ended.returncode == 1 and name in ended.stderr
        assert (run_dir / name).read_text() == "MINE"
