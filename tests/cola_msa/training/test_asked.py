"""What the flags of training ask for, now and in earlier versions."""

import dataclasses

import pytest
from absl import flags

from cola_msa import train
from cola_msa.config.presets import FORMER_PRESETS, PRESETS
from cola_msa.runs import directory
from cola_msa.system.errors import UserError
from cola_msa.training import asked
from cola_msa.training.trainer import Trainer


def parse(*arguments):
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train", *arguments])
    return values


TINY = (
    "--preset=smoke",
    "--steps=2",
    "--updates_per_step=2",
    "--batch_size=8",
    "--data_dir=anywhere",
)


@pytest.mark.parametrize("number", range(len(FORMER_PRESETS)))
def test_a_run_of_a_former_preset_goes_on_as_it_was(
    prepared, tmp_path, monkeypatch, number
):
    configs = asked.asked_configs(parse(*TINY))
    assert len(configs) == 1 + len(FORMER_PRESETS)
    assert configs[0].model == dataclasses.replace(PRESETS["smoke"].model)
    former = configs[1 + number]
    assert former.model == FORMER_PRESETS[number]["smoke"].model
    run_dir = tmp_path / "runs" / "one"
    trainer = Trainer(former, prepared, run_dir)
    assert directory.load_config(run_dir) == former
    assert asked.begun_config(configs, run_dir) == former
    assert asked.begun_config(configs, tmp_path / "new") == configs[0]
    assert asked.begun_config(configs, None) == configs[0]
    monkeypatch.chdir(tmp_path)
    found = asked.unfinished_run(configs, "", prepared)
    assert found[0] == former and found[1].resolve() == run_dir
    assert trainer.run() == "finished"
    assert asked.unfinished_run(configs, "", prepared) == (configs[0], None)


def test_a_run_of_other_flags_is_none_of_a_former_preset(prepared, tmp_path):
    begun = asked.asked_configs(parse(*TINY, "--learning_rate=2e-3"))
    run_dir = tmp_path / "run"
    Trainer(begun[1], prepared, run_dir)
    configs = asked.asked_configs(parse(*TINY))
    assert asked.begun_config(configs, run_dir) == configs[0]


def test_presets_of_the_paper_have_no_former_values():
    for name in ("paper", "authors", "msa", "cola"):
        assert len(asked.asked_configs(parse(f"--preset={name}", "--data_dir=x"))) == 1


@pytest.mark.parametrize("flag", ["--input_clip=-1", "--strategy=none_such"])
def test_what_cannot_be_meant_is_refused(flag):
    with pytest.raises(flags.Error):
        asked.asked_configs(parse(flag, "--data_dir=x"))


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        (("--data_dir=x",), "default"),
        ((), "demo"),
        (("--framework=cola", "--data_dir=x"), "default"),
        (("--framework=clmr", "--data_dir=x"), "clmr"),
        (("--framework=clmr",), "clmr_demo"),
        (("--preset=clmr_smoke",), "clmr_smoke"),
        (("--framework=clmr", "--preset=clmr_demo", "--data_dir=x"), "clmr_demo"),
        (("--strategy=clmr", "--data_dir=x"), "clmr"),
        (("--strategy=cola",), "demo"),
    ],
)
def test_a_framework_brings_its_presets(arguments, preset):
    (config, *_) = asked.asked_configs(parse(*arguments))
    assert config.preset == preset
    assert config.framework == PRESETS[preset].framework
    assert config.frontend == PRESETS[preset].frontend


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--framework=clmr", "--preset=demo"), "contradicts --preset=demo"),
        (("--framework=cola", "--preset=clmr"), "say --preset=default"),
        (("--framework=clmr", "--strategy=msa"), "--strategy=msa is of the framework"),
        (("--preset=demo", "--strategy=clmr"), "--strategy=clmr is of the framework"),
        (("--framework=clmr", "--similarity=bilinear"), "--similarity=bilinear"),
        (("--framework=clmr", "--input_clip=3"), "input_clip=3.*enter the network as"),
        (("--framework=clmr", "--band_channel"), "--band_channel=True.*have no bands"),
        (("--framework=clmr", "--silence=mean"), "--silence=mean.*no stem is heard"),
        (("--framework=clmr", "--drop_connect_rate=0.1"), "has no stochastic depth"),
        (("--framework=clmr", "--input_normalization=bands"), "enter the network as"),
        (("--framework=clmr", "--kernel_rate=0.1"), "which has no kernel"),
        (("--framework=clmr", "--batches=active"), "--batches=active.*no stem is"),
        (("--framework=clmr", "--source=kazoo"), "--source=kazoo.*no stem is heard"),
        (("--framework=clmr", "--pooling=mean"), "--pooling=mean"),
        (("--framework=clmr", "--source=multi"), "two crops of one mixture"),
        (("--framework=clmr", "--augment=mws"), "changes waveforms"),
        (("--framework=clmr", "--backbone=efficientnetb0"), "samplecnn, tiny"),
        (("--augment=clmr",), "--augment=clmr"),
        (("--backbone=samplecnn",), "--backbone=samplecnn"),
    ],
)
def test_what_is_of_another_framework_is_refused_by_its_flag(arguments, message):
    with pytest.raises(UserError, match=message):
        asked.asked_configs(parse(*arguments))


@pytest.mark.parametrize(
    "flag",
    [
        "--batch_size=96",
        "--temperature=0.1",
        "--pair_span=segment",
        "--augment=none",
        "--global_negatives",
        "--micro_batch=8",
        "--sync_batch_norm",
        "--clip_embedding=moments",
    ],
)
def test_what_is_of_every_framework_can_be_changed(flag):
    (config, *_) = asked.asked_configs(parse("--framework=clmr", flag))
    assert config != PRESETS["clmr_demo"]
