"""CLMR's training: it learns, and a run that was stopped ends as one that was not."""

import dataclasses
import signal

import numpy as np
import pytest

from cola_msa.config.presets import get_preset
from cola_msa.evaluation.baseline import compare_with_untrained
from cola_msa.frameworks.choose import framework_of
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records import schema
from cola_msa.records.joined import open_data
from cola_msa.records.schema import DataError
from cola_msa.runs.scalars import read_metrics
from cola_msa.training.trainer import Trainer
from tests.cola_msa.runs.test_resume import (
    assert_equal_runs,
    forked,
    stop_three_times,
    train_arguments,
)
from tests.conftest import write_waveforms
from tests.helpers.commands import run_module

SMOKE = get_preset("clmr_smoke")


def tones(clip, _):
    """Two segments of a clip of its own: three partials and their own pulse."""
    random = np.random.default_rng([5, clip])
    time = np.arange(2 * 972 * 243) / 22050
    sound = np.zeros(len(time))
    for hz in np.exp(random.uniform(np.log(80), np.log(6000), 3)):
        sound += np.sin(2 * np.pi * (hz * time + random.random()))
    sound *= 1 + np.sin(2 * np.pi * random.uniform(1, 8) * time)
    sound += random.normal(0, 0.05, len(time))
    waves = np.rint(sound * 4000).astype(np.int16).reshape(2, 972, 243)
    return [
        schema.Segment(
            clip_id=f"clip{clip:03d}",
            group=f"song{clip}",
            segment=number,
            is_tail=False,
            labels=(clip % 3,),
            mixture=part,
            stems={},
            is_active=(),
            has_stem=(),
        )
        for number, part in enumerate(waves)
    ]


@pytest.fixture(scope="module")
def waves_dir(tmp_path_factory):
    """A folder that holds waveforms within it, as preparations write them."""
    root = tmp_path_factory.mktemp("waves") / "data"
    splits = {"train": 48, "validation": 20}
    write_waveforms(root / "waveform", splits, make_clip=tones)
    return root


def test_it_learns_which_crops_belong_together(waves_dir, tmp_path):
    train = dataclasses.replace(
        SMOKE.train,
        batch_size=8,
        steps=5,
        updates_per_step=20,
        learning_rate=3e-3,
        augment="none",
        validate_every_steps=5,
    )
    config = dataclasses.replace(SMOKE, train=train)
    data = open_data(waves_dir, config.frontend)
    assert Trainer(config, data, tmp_path / "run").run() == "finished"
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 5 and rows[-1]["loss_above_chance"] < -0.5
    assert rows[-1]["validation/loss_above_chance"] < -0.3
    found = compare_with_untrained(tmp_path / "run", data)
    assert found["trained"]["num_songs"] == 20
    chance = found["trained"]["chance_top1"]
    assert found["trained"]["top1"] > 4 * chance


def test_both_windows_of_a_pair_are_augmented_each_by_itself(waves_dir):
    data = open_data(waves_dir, SMOKE.frontend)
    build = framework_of(SMOKE).build_augmentation
    train = dataclasses.replace(SMOKE.train, batch_size=16)
    sampler = PairSampler(data, train, build_augmentation=build)
    (batch,), (again,) = (list(sampler.dataset(3, 1)) for _ in range(2))
    plain = sampler.batch(3)
    changed = {}
    for name in ("anchor", "positive"):
        np.testing.assert_array_equal(batch[name], again[name])
        changed[name] = np.abs(batch[name] - plain[name]).max(axis=(1, 2, 3)) > 1e-3
        # All effects are left out once in 500 windows.
        assert changed[name].mean() > 0.8
    same = dataclasses.replace(train, pair_span="segment")
    draw = PairSampler(data, same, build_augmentation=build).draw(3)
    assert draw.positive_rows is None
    validation = PairSampler(data, train, "validation", build_augmentation=build)
    assert validation.augment(plain, 0, 0) is plain


def test_records_of_log_mels_alone_are_refused_with_the_command(prepared_dir):
    ran = run_module("cola_msa.train", "--framework=clmr", f"--data_dir={prepared_dir}")
    assert ran.returncode == 1
    assert "--records=waveform" in ran.stderr
    with pytest.raises(DataError, match="--records=waveform"):
        open_data(prepared_dir, SMOKE.frontend)


TINY = (
    "--preset=clmr_smoke",
    "--steps=4",
    "--updates_per_step=5",
    "--deterministic",
    "--threads=1",
    "--checkpoint_every_steps=1",
    "--validate_every_steps=2",
    "--statistics_batches=2",
    "--keep_steps=2",
)
CASES = {
    "one device": ("--cpu_devices=1",),
    "two devices": ("--cpu_devices=2",),
    "two devices, joint negatives": ("--cpu_devices=2", "--global_negatives"),
    "in parts": ("--accumulate=2", "--micro_batch=2"),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case == "two devices" else [pytest.mark.slow])
        for case in CASES
    ],
)
def test_killed_it_ends_with_equal_weights(waves_dir, tmp_path, case):
    arguments = (*TINY, *CASES[case])
    expected, found = tmp_path / "uninterrupted", tmp_path / "run"
    result = run_module(*train_arguments(waves_dir, expected, *arguments))
    assert result.returncode == 0, result.stderr
    start = forked(*train_arguments(waves_dir, found, *arguments))
    stop_three_times(start, found, signal.SIGKILL, len(case), [(10, 0.1)])
    assert_equal_runs(found, expected)
