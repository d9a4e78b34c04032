"""Whether a run directory may be gone on with."""

import concurrent.futures

import numpy as np
import pytest

from cola_msa.runs import directory
from cola_msa.system.errors import RunError
from cola_msa.values import arrays
from tests.conftest import tiny_config


def describe(**fields):
    data = {"data_dir": "folder", "manifest_hash": "abc"}
    return directory.describe_run(tiny_config(deterministic=True, **fields), data, 1)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"versions": {"numpy": "1.0"}}, f"numpy 1.0 then, {np.__version__} now"),
        ({"threads": 7}, "--threads=7 then, {threads} now"),
    ],
)
def test_other_versions_and_threads_are_warned_of(tmp_path, caplog, part, message):
    arrays.write_json(tmp_path / "config.json", {**describe(), **part})
    directory.claim_run_dir(tmp_path, describe())
    # Tests of preparation, in the same process before, may have set one thread.
    assert message.format(threads=describe()["threads"]) in caplog.text
    caplog.clear()
    arrays.write_json(tmp_path / "config.json", describe())
    directory.claim_run_dir(tmp_path, describe())
    assert not caplog.text


def change_data(run):
    run["data"]["manifest_hash"] = "def"


def change_devices(run):
    run["num_replicas"] = 2


def change_two_fields(run):
    run["config"]["train"].update(seed=4, batch_size=16)


def add_a_field(run):
    run["config"]["model"]["width"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_data, "data: folder has changed or is another"),
        (change_devices, "devices: 2 != 1"),
        (change_two_fields, "train.batch_size: 16 != 8; train.seed: 4 != 0"),
        (add_a_field, "ModelConfig has no field width: .* another version"),
    ],
)
def test_what_differs_is_named_and_nothing_starts(tmp_path, change, message):
    run = describe()
    change(run)
    arrays.write_json(tmp_path / "config.json", run)
    with pytest.raises(RunError, match=f"{message}.*another --run_dir"):
        directory.claim_run_dir(tmp_path, describe())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": 3}'])
def test_a_damaged_configuration_is_one_clear_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match="config.json: damaged"):
        directory.claim_run_dir(tmp_path, directory.describe_run(tiny_config(), {}, 1))


def test_runs_of_one_second_have_names_of_their_own(tmp_path):
    (tmp_path / "runs").mkdir()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(directory.new_run_dir, [tmp_path / "runs"] * 24, ["x"] * 24)
        )
    assert len(set(made)) == 24
    assert sorted(made) == sorted((tmp_path / "runs").iterdir())
