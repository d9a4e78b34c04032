import json

from tests.helpers.commands import run_module


def test_the_command_judges_every_kept_step(finished_run):
    result = run_module("cola_msa.curves", f"--run_dir={finished_run}")
    assert result.returncode == 0, result.stderr
    figure, values = result.stdout.split()[-2:]
    assert open(figure, "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    found = json.loads(open(values).read())
    assert set(found["retrieval"]) == {"0", "2", "4"}
    assert 0 <= found["retrieval"]["4"]["top1"] <= 1
