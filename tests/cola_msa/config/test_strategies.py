import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.config import strategies
from cola_msa.config.presets import PRESETS, get_preset
from cola_msa.config.published import PUBLISHED
from cola_msa.config.schema import ModelConfig, TrainConfig
from cola_msa.pairs import draws as draws_lib
from cola_msa.pairs import sampler as sampler_lib


def batches_of(prepared, name, num_updates=1, **fields):
    config = dataclasses.replace(
        get_preset(name).train, **{"batch_size": 8, "seed": 3, **fields}
    )
    sampler = sampler_lib.PairSampler(prepared, config)
    dataset = sampler.dataset(0, num_updates)
    return sampler, [
        {k: v.numpy() for k, v in batch.items()} for batch in iter(dataset)
    ]


def positions(windows):
    """(clip, absolute frame) of the fake clips' windows, see conftest.fake_clip."""
    values = windows[:, 0, 0, 0]
    number = np.floor(values + 1e-3)
    return windows[:, 0, -1, 0].round(), number, (values - number) * 1000


def test_every_row_of_the_papers_tables_has_a_strategy():
    rows = {row for s in strategies.STRATEGIES.values() for row in s.rows}
    published = {(table, row) for table, found in PUBLISHED.items() for row in found}
    assert published == rows


@pytest.mark.parametrize(
    "name", [n for n, s in strategies.STRATEGIES.items() if s.framework == "cola"]
)
def test_presets_differ_in_their_pairs_alone_and_keep_the_papers_method(name):
    strategy, preset = strategies.get_strategy(name), PRESETS[name]
    paper, msa = PRESETS["paper"], PRESETS["msa"]
    assert preset.model == msa.model and preset.frontend == msa.frontend
    for field in ("similarity", "silence", "temperature", "backbone", "pooling"):
        assert getattr(preset.model, field) == getattr(paper.model, field)
    for field in ("embedding", "input_clip", "band_channel"):
        assert getattr(preset.model, field) == getattr(ModelConfig(), field)
    train = dataclasses.replace(
        msa.train,
        source=strategy.source,
        batches=strategy.batches,
        augment=strategy.augment,
    )
    assert preset.train == train and preset.strategy == name


@pytest.mark.parametrize(
    "name", [n for n in strategies.STRATEGIES if n != "msa_degraded"]
)
def test_a_configuration_is_recognised(name):
    strategy = strategies.get_strategy(name)
    found = strategies.strategy_of(
        PRESETS[name].train,
        "random" if strategy.stems == "random" else "umxhq",
        PRESETS[name].framework,
    )
    assert found is strategy
    others = {"clmr": "cola", "cola": "clmr"}
    other = others[strategy.framework]
    assert strategies.strategy_of(PRESETS[name].train, "umxhq", other) is None


def test_a_strategy_of_another_framework_is_refused():
    strategy = strategies.get_strategy("clmr")
    with pytest.raises(strategies.StrategyError, match="preset demo of cola"):
        strategy.apply(get_preset("demo"))
    assert strategy.apply(get_preset("clmr_demo")).strategy == "clmr"


def test_other_configurations_are_no_strategy():
    assert strategies.strategy_of(TrainConfig(source="bass,other")) is None
    assert strategies.strategy_of(TrainConfig(augment="cutout")) is None


@pytest.mark.parametrize("name", ["msa_vocals", "msa_drums", "msa_bass", "msa_other"])
def test_source_targeted_models_see_one_source(prepared, name):
    sampler, found = batches_of(prepared, name, 6)
    number = prepared.sources.index(name.removeprefix("msa_"))
    for batch in found:
        assert set(batch["source"]) == {number}
        active = batch["is_active"]
        # The fake stem of source k is the mixture + 10 (k + 1).
        clip, _, _ = positions(batch["anchor"])
        stem_clip = batch["positive"][active, 0, -1, 0] - 10 * (number + 1)
        np.testing.assert_allclose(stem_clip, clip[active], atol=0.02)


def test_cola_takes_both_windows_from_one_segment_of_the_mixture(prepared):
    _, found = batches_of(prepared, "cola", 4)
    for batch in found:
        assert batch["is_active"].all() and set(batch["source"]) == {draws_lib.COLA}
        anchor, positive = positions(batch["anchor"]), positions(batch["positive"])
        np.testing.assert_array_equal(anchor[0], positive[0])
        np.testing.assert_array_equal(anchor[1], positive[1])
        assert (anchor[2] != positive[2]).any()


@pytest.mark.parametrize("name", ["cola", "msa", "ablation3"])
def test_clip_span_takes_the_positive_from_the_whole_clip(prepared, name):
    sampler, _ = batches_of(prepared, name, pair_span="clip")
    index = prepared.index("train")
    draws = [sampler.draw(n) for n in range(60)]
    for draw in draws:
        np.testing.assert_array_equal(
            index.clip[draw.rows], index.clip[draw.positive_rows]
        )
        assert not index.is_tail[draw.positive_rows].any()
        if draw.mode in ("active", "active_any"):
            assert index.is_active[draw.positive_rows, draw.source].all()
    rows = np.concatenate([draw.rows for draw in draws])
    others = np.concatenate([draw.positive_rows for draw in draws])
    if name == "cola":  # four segments a clip, drawn uniformly
        share = (rows == others).mean()
        assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(rows))
    assert (rows != others).any()


def test_a_pair_of_clip_span_is_read_from_its_segments(prepared):
    sampler, _ = batches_of(prepared, "cola", pair_span="clip")
    draw = sampler.draw(0)
    batch = sampler.read(draw)
    index = prepared.index("train")
    numbers = index.segment[draw.positive_rows]
    _, found, start = positions(batch["positive"].astype(np.float32))
    np.testing.assert_array_equal(found, numbers)
    np.testing.assert_allclose(start, draw.positive_start, atol=3)


def test_ablation_3_has_several_sources_in_one_batch(prepared):
    _, found = batches_of(prepared, "ablation3", 4)
    for batch in found:
        assert batch["is_active"].all()
    assert any(len(set(batch["source"])) > 1 for batch in found)


def test_mws_changes_both_windows_independently(prepared):
    _, plain = batches_of(prepared, "cola", 3)
    _, found = batches_of(prepared, "cola_mws", 3)
    for before, after in zip(plain, found, strict=True):
        for name in ("anchor", "positive"):
            is_changed = np.abs(before[name] - after[name]).max(axis=(1, 2, 3)) > 0
            # All four left out: 0.5 x 0.5 x 0.6 x 0.6 = 0.09.
            assert is_changed.mean() > 0.5
        masked = [(after[n] == 0).mean(axis=(1, 2, 3)) for n in ("anchor", "positive")]
        assert (masked[0] != masked[1]).any()


def test_mws_is_a_pure_function_of_the_update(prepared):
    sampler, _ = batches_of(prepared, "cola_mws")
    whole = list(sampler.dataset(0, 4, num_replicas=2))
    late = list(sampler.dataset(2, 2, num_replicas=2))
    for first, second in zip(whole[4:], late, strict=True):
        np.testing.assert_array_equal(first["anchor"], second["anchor"])
    assert np.abs(whole[0]["anchor"] - whole[1]["anchor"]).max() > 0


def test_silent_positives_and_validation_are_not_augmented(prepared):
    config = TrainConfig(batch_size=8, batches="uniform", augment="mws", seed=1)
    sampler = sampler_lib.PairSampler(prepared, config, silent_value=-3.0)
    silent = [
        batch["positive"].numpy()[~batch["is_active"].numpy()]
        for batch in sampler.dataset(0, 6)
    ]
    silent = np.concatenate(silent)
    assert len(silent) and (silent == -3.0).all()
    validation = sampler_lib.PairSampler(prepared, config, "validation")
    batch = {"anchor": tf.ones([2, 98, 64, 1])}
    assert validation.augment(batch, tf.constant(0), tf.constant(0)) is batch


@pytest.mark.parametrize(
    ("name", "separator", "message"),
    [
        ("cola_random_mask", "umxhq", "--separator=random"),
        ("msa", "random", "--separator=umxhq"),
        ("msa", None, "prepare it with --stems_dir or --separator"),
    ],
)
def test_data_with_other_stems_is_refused(name, separator, message):
    manifest = {
        "sources": ["vocals"] if separator else [],
        "separator": {"name": separator} if separator else None,
    }
    with pytest.raises(strategies.StrategyError, match=message):
        strategies.get_strategy(name).check_data(manifest)


def test_cola_takes_any_data():
    strategies.get_strategy("cola").check_data({"sources": [], "separator": None})


def test_an_unknown_strategy_is_refused_with_the_list():
    with pytest.raises(strategies.StrategyError, match="ablation1"):
        strategies.get_strategy("simclr")
