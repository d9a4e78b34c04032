"""Checkpoints and scalars to go on from: whole, damaged, pruned."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config.schema import ModelConfig
from cola_msa.model.contrastive import ContrastiveModel
from cola_msa.model.optimizers import build_optimizer
from cola_msa.runs import kept, network, resume
from cola_msa.runs.scalars import read_metrics
from cola_msa.system.errors import RunError
from cola_msa.values import arrays as arrays_lib
from tests.conftest import tiny_config


def build_model(num_updates: int = 0) -> ContrastiveModel:
    config = ModelConfig(backbone="tiny", projection_dim=8)
    model = ContrastiveModel(config, seed=3)
    model.compile(optimizer=build_optimizer(tiny_config().train))
    model.optimizer.build(model.trainable_variables)
    for number in range(num_updates):
        drawn = np.random.default_rng(number)
        windows = drawn.normal(size=(2, 4, 98, 64, 1)).astype(np.float32)
        batch = {"anchor": windows[0], "positive": windows[1], "is_active": [True] * 4}
        model.train_step({name: tf.constant(v) for name, v in batch.items()})
    return model


def values_of(model) -> dict[str, np.ndarray]:
    return {
        network.array_name(part, number, variable): np.array(variable)
        for part, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
        )
        for number, variable in enumerate(variables)
    }


@pytest.fixture(scope="module")
def trained_model():
    return build_model(num_updates=2)


@pytest.fixture
def three_checkpoints(trained_model, tmp_path):
    for update in (10, 20, 30):
        resume.save_training(tmp_path, trained_model, {"update": update}, update, 3)
    return tmp_path


def test_a_checkpoint_holds_every_variable(trained_model, three_checkpoints):
    model = build_model()
    expected = values_of(trained_model)
    found = values_of(model)
    seeds = [name for name in expected if "seed_generator" in name]
    assert seeds
    assert any("velocity" in name for name in expected)
    assert not np.array_equal(found[seeds[0]], expected[seeds[0]])
    assert resume.restore_training(three_checkpoints, model) == {"update": 30}
    found = values_of(model)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-2000])


def empty(path):
    path.write_bytes(b"")


def fill_with_zeros(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def zero_a_page(path):
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(bytes(content))


def rewrite(path, change):
    arrays = arrays_lib.read_arrays(path)
    state = json.loads(str(arrays.pop("state")))
    change(arrays, state)
    arrays_lib.write_arrays(path, arrays, state)


def drop_an_array(path):
    def change(arrays, state):
        del arrays[next(name for name in arrays if name.startswith("optimizer/"))]

    rewrite(path, change)


def drop_a_replica(path):
    rewrite(path, lambda arrays, state: state["arrays"].append("replica-1/model/0006"))


def drop_the_state(path):
    np.savez(path, **{"model/0000/kernel": np.zeros(3)})


def change_a_shape(path):
    def change(arrays, state):
        name = next(name for name in arrays if name.startswith("model/0003"))
        arrays[name] = arrays[name][..., :1]

    rewrite(path, change)


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        empty,
        fill_with_zeros,
        zero_a_page,
        drop_an_array,
        drop_a_replica,
        drop_the_state,
        change_a_shape,
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    trained_model, three_checkpoints, caplog, damage
):
    folder = three_checkpoints / "checkpoints"
    damage(folder / "update-00000030.npz")
    model = build_model()
    assert resume.restore_training(three_checkpoints, model) == {"update": 20}
    found = values_of(model)
    for name, value in values_of(trained_model).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert "trying the one before" in caplog.text
    # The damaged one no longer counts, so that good ones are not removed for it.
    resume.save_training(three_checkpoints, model, {"update": 25}, 25, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "update-00000020.npz",
        "update-00000025.npz",
        "update-00000030.npz.damaged",
    ]


def test_damaged_checkpoints_alone_stop_the_command(three_checkpoints):
    paths = sorted((three_checkpoints / "checkpoints").iterdir())
    for path in paths:
        cut_off(path)
    model = build_model()
    before = values_of(model)
    with pytest.raises(RunError, match=r"none of its 3 .*Put one back .*--run_dir"):
        resume.restore_training(three_checkpoints, model)
    assert sorted((three_checkpoints / "checkpoints").iterdir()) == paths
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_no_checkpoint_is_a_new_run(tmp_path):
    assert resume.restore_training(tmp_path, build_model()) is None


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_is_noticed_or_harmless(tmp_path, seed):
    drawn = np.random.default_rng(seed)
    arrays = {
        "a/0": drawn.normal(size=(5, 7)),
        "b/1": np.arange(300),
        "c": np.zeros(()),
    }
    path = tmp_path / "file.npz"
    arrays_lib.write_arrays(path, arrays, {"update": 3})
    content = bytearray(path.read_bytes())
    start = int(drawn.integers(len(content)))
    length = int(drawn.integers(1, 64))
    if seed % 3 == 0:
        content = content[:start]
    elif seed % 3 == 1:
        content[start : start + length] = bytes(length)
    else:
        content[start : start + length] = drawn.bytes(length)
    path.write_bytes(bytes(content))
    try:
        found = arrays_lib.read_arrays(path)
    except RunError as error:
        assert str(path) in str(error)
        return
    for name, value in arrays.items():
        if name in found:  # a name may be hit; `restore_training` then misses it
            np.testing.assert_array_equal(found[name], value)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file.npz"
    arrays_lib.write_arrays(path, {"a": np.ones(3)}, {})

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match="file.npz: cannot be written .No space left"):
        arrays_lib.write_arrays(path, {"a": np.zeros(3)}, {})
    np.testing.assert_array_equal(arrays_lib.read_arrays(path)["a"], np.ones(3))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("max_to_keep", [1, 2, 5])
def test_the_oldest_checkpoints_go(trained_model, tmp_path, max_to_keep):
    for update in range(0, 40, 10):
        resume.save_training(tmp_path, trained_model, {}, update, max_to_keep)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    expected = [f"update-{update:08d}.npz" for update in range(0, 40, 10)]
    assert names == expected[-max_to_keep:]


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    left_over = tmp_path / "kept" / "step-00000003.npz.tmp"
    left_over.write_bytes(b"half")
    with resume.exclusive(tmp_path):
        assert left_over.exists(), "nothing says that this is a run"
    (tmp_path / "config.json").write_text('{"config": {}, "data": {}}')
    with resume.exclusive(tmp_path):
        assert not left_over.exists()
        with pytest.raises(RunError, match="another process trains there"):
            with resume.exclusive(tmp_path):
                pass
    with resume.exclusive(tmp_path):
        pass


def read_events(run_dir: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
    found = []
    for path in (run_dir / "logs").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            values = {value.tag: value.simple_value for value in event.summary.value}
            if values:
                found.append((event.step, values))
    return sorted(found, key=lambda pair: pair[0])


def test_rows_and_events_after_the_checkpoint_go(finished_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    rows = read_metrics(run_dir)
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({**rows[2], "loss": 9.0}) + '\n{"step": 5, "lo')
    (events,) = (run_dir / "logs").iterdir()
    events.write_bytes(events.read_bytes()[:-7])
    resume.drop_scalars_after(run_dir, 2)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows[:2]
    assert [step for step, _ in read_events(run_dir)] == [1, 2]


def test_a_checkpoint_that_does_not_fit_is_named(finished_run, tmp_path):
    run = pathlib.Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = kept.kept_path(run)
    arrays = arrays_lib.read_arrays(path)
    name = next(n for n in sorted(arrays) if "kernel" in n)
    np.savez(path, **{**arrays, name: arrays[name][None]})
    with pytest.raises(RunError, match=f"{path.name}: {name}: shape"):
        kept.load_model(run)
