"""What every framework keeps to; a third one is tested once `choose` knows it."""

import ast
import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import cola_msa
from cola_msa.config.presets import PRESETS, get_preset
from cola_msa.config.schema import (
    FRONTEND_KINDS,
    Config,
    ConfigError,
    from_dict,
    to_dict,
)
from cola_msa.config.strategies import STRATEGIES
from cola_msa.frameworks.choose import FRAMEWORKS, framework_of, get_framework
from cola_msa.model.statistics import BatchStatistics, StatisticsEstimator
from cola_msa.runs import network
from cola_msa.training.trainer import Trainer
from cola_msa.training.updates import Updater
from cola_msa.values.fields import check_choices

DATA = {"log_mel_mean": -2.0, "log_mel_std": 1.5}
SCALARS = {
    "loss",
    "loss_above_chance",
    "accuracy",
    "active_accuracy",
    "active_share",
    "deviation",
}


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


@pytest.fixture
def config(framework):
    """Of a tiny network, which draws nothing at random."""
    found = get_preset(framework.presets["smoke"])
    model = dataclasses.replace(found.model, drop_connect_rate=0.0)
    return dataclasses.replace(found, model=model)


def make_batch(config, size=6, seed=0):
    """Noise, every pair's windows a little alike."""
    random = np.random.default_rng(seed)
    frontend = config.frontend
    shape = (size, frontend.window_frames, frontend.num_mels, 1)
    anchor = random.normal(0, 0.3, shape)
    batch = {"anchor": anchor, "positive": anchor + random.normal(0, 0.1, shape)}
    tensors = {name: tf.constant(v, tf.float32) for name, v in batch.items()}
    return tensors | {
        "is_active": tf.ones([size], tf.bool),
        "source": tf.fill([size], -1),
    }


def build(config, seed=1, is_frozen=False):
    """With plain SGD; frozen means that moving statistics normalize."""
    model = network.build_network(config, DATA, seed)
    if is_frozen:
        for layer in model.batch_norm_layers():
            layer.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    return model


def arrays(model):
    return {
        network.array_name("model", n, v): np.array(v)
        for n, v in enumerate(model.variables)
    }


# What it says of itself ---------------------------------------------------------------


def test_it_is_found_by_its_name(framework):
    assert get_framework(framework.name) is framework
    assert framework.title and framework.frontend_kind in FRONTEND_KINDS
    for backbone in framework.backbones:
        model = dataclasses.replace(Config().model, backbone=backbone)
        check_choices(model, ConfigError)  # the flag and config.json take it


def test_its_presets_are_its_own_and_can_be_meant(framework):
    assert set(framework.presets) == {"data", "demo", "smoke"}
    own = {name for name, p in PRESETS.items() if p.framework == framework.name}
    assert set(framework.presets.values()) <= own
    for name in own:
        assert framework_of(PRESETS[name]) is framework
        framework.check(PRESETS[name])


def test_its_strategies_go_with_its_presets(framework):
    own = [s for s in STRATEGIES.values() if s.framework == framework.name]
    for strategy in own:
        for name in framework.presets.values():
            framework.check(strategy.apply(get_preset(name)))


def test_config_json_brings_it_back(framework, config):
    written = to_dict(config)
    assert from_dict(Config, written) == config
    # Configurations of earlier versions, which named none, are written as they were.
    assert ("framework" in written) == (framework.name != Config.framework)


def test_an_unknown_one_is_refused_with_the_list():
    with pytest.raises(ConfigError, match="there are cola, clmr"):
        get_framework("byol")


def test_windows_of_another_kind_are_refused(framework, config):
    others = [p for p in PRESETS.values() if p.frontend.kind != config.frontend.kind]
    assert others
    with pytest.raises(ConfigError, match=f"--framework={framework.name} learns from"):
        framework.check(dataclasses.replace(config, frontend=others[0].frontend))


def test_a_network_of_another_is_refused(framework, config):
    others = {b for f in FRAMEWORKS.values() for b in f.backbones}
    for backbone in others - set(framework.backbones):
        model = dataclasses.replace(config.model, backbone=backbone)
        with pytest.raises(ConfigError, match=f"--backbone={backbone} does not go"):
            framework.check(dataclasses.replace(config, model=model))


def test_an_augmentation_that_there_is_not_is_refused(framework, config):
    train = dataclasses.replace(config.train, augment="blur")
    with pytest.raises(cola_msa.UserError, match="--augment=blur"):
        framework.check(dataclasses.replace(config, train=train))


# Fields of either configuration that mean the same whatever the method.
OF_EVERY_FRAMEWORK = {
    *("backbone", "projection_dim", "fused_batch_norm", "sync_batch_norm"),
    *("clip_embedding", "temperature", "augment", "pair_span", "batch_size"),
    *("global_negatives", "accumulate", "micro_batch", "steps", "updates_per_step"),
    *("learning_rate", "warmup_updates", "halve_at_step", "rate_decay"),
    *("average_decay", "validate_every_steps", "patience_steps", "seed"),
    *("statistics_batches", "statistics_inputs", "checkpoint_every_steps"),
    *("max_to_keep", "keep_steps", "init_from", "distribution", "deterministic"),
    *("jit_compile", "mixed_precision"),
}


def test_a_field_is_of_every_framework_or_refused_with_its_reason(framework, config):
    """Whoever adds a field says here whether each framework has it."""
    fields = vars(config.model) | vars(config.train)
    assert set(fields) >= OF_EVERY_FRAMEWORK | set(framework.unused)
    assert not OF_EVERY_FRAMEWORK & set(framework.unused)
    others = set(fields) - OF_EVERY_FRAMEWORK - set(framework.unused)
    assert others in (set(), set(fields) - OF_EVERY_FRAMEWORK)
    for name, only in framework.unused.items():
        framework.check_fields({name: only.value})
        assert fields[name] == only.value, "its presets have the only value"
        with pytest.raises(ConfigError) as refused:
            framework.check_fields({name: "another"})
        assert str(refused.value) == (
            f"--{name}=another does not go with --framework={framework.name}: "
            f"{only.why}; leave it out"
        )


def test_what_means_nothing_to_it_is_refused_from_python_too(
    framework, config, tmp_path
):
    others = [p for p in PRESETS.values() if p.frontend.kind != config.frontend.kind]
    train = dataclasses.replace(config.train, augment="blur")
    refused = [
        dataclasses.replace(config, train=train),
        dataclasses.replace(config, frontend=others[0].frontend),
    ]
    if "similarity" in framework.unused:
        model = dataclasses.replace(config.model, similarity="bilinear")
        refused.append(dataclasses.replace(config, model=model))
    for wrong in refused:
        with pytest.raises(cola_msa.UserError) as by_check:
            framework.check(wrong)
        with pytest.raises(type(by_check.value)) as by_trainer:
            Trainer(wrong, None, tmp_path / "run")
        assert str(by_trainer.value) == str(by_check.value)
        assert not (tmp_path / "run").exists()


def test_its_pairs_are_described_in_its_own_words(framework, config):
    words = framework.describe_pairs(config.train)
    assert "none" not in words.split(",")[0]
    span = {"segment": "clip", "clip": "segment"}[config.train.pair_span]
    other = dataclasses.replace(config.train, source="none", pair_span=span)
    assert framework.describe_pairs(other) != words and span in str(
        framework.describe_pairs(other)
    )
    assert framework.run_name(other) == framework.name


# Its network --------------------------------------------------------------------------


def test_a_seed_gives_the_same_weights_under_the_same_names(config):
    first, second, other = (arrays(build(config, seed)) for seed in (1, 1, 2))
    assert list(first) == list(second)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], name)
    assert any((first[n] != other[n]).any() for n in first if n.endswith("kernel"))


def test_its_layers_are_there_for_whoever_uses_it(config):
    model = build(config)
    batch = make_batch(config)
    embedding = model.embedder()(batch["anchor"], training=False)
    assert embedding.shape == (6, model.embedder().output_shape[-1])
    assert np.isfinite(embedding).all()
    projection = model(batch["anchor"], training=False)
    assert projection.shape == (6, config.model.projection_dim)
    scores = model.similarity(projection, projection[:4])
    assert scores.shape == (6, 4)


def test_it_reloads_as_keras_model(config, tmp_path):
    model, batch = build(config), make_batch(config)
    model.train_step(batch)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is type(model) and again.config == config.model
    found, expected = (m(batch["anchor"], training=False) for m in (again, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_update_lowers_the_loss_of_its_batch(config):
    model, batch = build(config), make_batch(config)
    scalars = model.train_step(batch)
    assert set(scalars) == SCALARS == set(model.test_step(batch))
    assert all(np.isfinite(float(value)) for value in scalars.values())
    for _ in range(3):
        model.train_step(batch)
    after = model.score_pairs(batch, training=True)
    assert float(after["loss"]) < float(scalars["loss"])
    assert {tuple(after[n].shape) for n in ("row_loss", "is_correct")} == {(6,)}
    mean = float(tf.reduce_mean(after["row_loss"]))
    assert float(after["loss"]) == pytest.approx(mean, rel=1e-5)
    assert float(after["deviation"]) > 0


def test_a_pair_is_told_by_its_windows_and_chance_is_the_columns(config):
    model, batch = build(config), make_batch(config)
    same = {**batch, "anchor": batch["anchor"][:1], "positive": batch["anchor"][:1]}
    for name in ("anchor", "positive"):
        same[name] = tf.repeat(same[name], 6, axis=0)
    scores = model.score_pairs(same)
    chance = np.log(float(scores["columns"]))
    assert float(scores["loss"]) == pytest.approx(chance, rel=1e-4)
    assert float(model.summarize(same, scores)["loss_above_chance"]) == pytest.approx(
        0, abs=1e-3
    )


def test_cached_gradients_are_the_whole_batchs(config):
    """Without batch statistics nothing else differs."""
    batch = make_batch(config)
    model, whole = (build(config, is_frozen=True) for _ in range(2))
    start = arrays(model)
    train = dataclasses.replace(config.train, batch_size=6, micro_batch=2)
    found = Updater(model, tf.distribute.get_strategy(), train)(batch)
    expected = whole.train_step(batch)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4), name
    moved, wanted = (
        np.concatenate([(v - start[n]).ravel() for n, v in arrays(m).items()])
        for m in (model, whole)
    )
    assert np.linalg.norm(wanted) > 1e-4
    assert np.linalg.norm(moved - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_its_statistics_are_estimated_anew(config):
    model, batch = build(config), make_batch(config)
    windows = batch["anchor"]
    statistics = StatisticsEstimator(model).estimate([windows])
    embedding = BatchStatistics.of(model).embedding
    statistics = dataclasses.replace(statistics, embedding=embedding)
    assert statistics.fits(model) and len(statistics.means) > 0
    statistics.assign_to(model)
    found, expected = (
        np.asarray(model.projector(model.encoder(windows, training=mode)))
        for mode in (False, True)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_weights_that_are_put_in_are_used(config):
    source, target = build(config, 1), build(config, 2)
    for _ in range(2):
        source.train_step(make_batch(config))
    values = network.fitting_values("model", target.variables, arrays(source))
    network.put_weights(target, values)
    windows = make_batch(config)["anchor"]
    np.testing.assert_array_equal(
        target(windows, training=False), source(windows, training=False)
    )


# Its augmentation ---------------------------------------------------------------------


def augmentations():
    """Of each framework what its presets name."""
    for name, preset in PRESETS.items():
        if preset.train.augment != "none":
            yield pytest.param(preset, id=name)


@pytest.mark.parametrize("preset", augmentations())
def test_an_augmentation_is_a_function_of_windows_and_seed(preset):
    framework = framework_of(preset)
    augment = framework.build_augmentation(preset.train, preset.frontend)
    windows = make_batch(preset, 5)["anchor"]
    seeds = [tf.constant([1, n], tf.int64) for n in (2, 2, 3)]
    first, same, other = (augment(windows, seed) for seed in seeds)
    assert first.shape == windows.shape and first.dtype == tf.float32
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0 and np.abs(first - windows).max() > 0
    assert np.isfinite(first).all()
    dataset = tf.data.Dataset.from_tensors((windows, seeds[0])).map(augment)
    (mapped,), (again,) = dataset, dataset
    assert mapped.shape == windows.shape
    np.testing.assert_array_equal(mapped, again)
    np.testing.assert_allclose(mapped, first, atol=1e-3)  # graphs round otherwise


def test_without_an_augmentation_there_is_none(framework, config):
    train = dataclasses.replace(config.train, augment="none")
    assert framework.build_augmentation(train, config.frontend) is None


# Nobody else asks which one it is -----------------------------------------------------

ROOT = pathlib.Path(cola_msa.__file__).parent.parent
SOURCES = [
    path
    for package in ("cola_msa", "data_prep")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != ROOT / "cola_msa" / "frameworks" / "choose.py"
]


def constants(node):
    """Texts of a comparison's side, those of tuples, sets and lists too."""
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}


def is_of_a_framework(node):
    """`x.framework`, `framework`, `x.framework.name` and the like."""
    while isinstance(node, ast.Attribute) and node.attr == "name":
        node = node.value
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return "framework" in name.lower()


def asks_which(tree):
    """Lines that compare a framework with a name, or any value with a name of one.

    `cola` is a mode of drawing, too: of it the comparisons with a framework count.
    """
    names = set(FRAMEWORKS)
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            patterns = [case.pattern for case in node.cases]
            sides = [node.subject, *patterns]
        elif isinstance(node, ast.Call):
            # isinstance(framework, Clmr) asks the same.
            is_check = getattr(node.func, "id", "") == "isinstance"
            if is_check and is_of_a_framework(node.args[0]):
                lines.add(node.lineno)
            continue
        else:
            continue
        found = set().union(*map(constants, sides)) & names
        if found - {Config.framework} or found and any(map(is_of_a_framework, sides)):
            lines.add(node.lineno)
    return lines


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_no_other_module_asks_which_framework_it_is(path):
    assert not asks_which(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "line",
    [
        'if config.framework == "cola": pass',
        'if "clmr" == name: pass',
        'if framework.name in ("cola", "other"): pass',
        "if isinstance(framework, Clmr): pass",
        'match config.framework:\n    case "cola": pass',
    ],
)
def test_a_question_which_one_it_is_would_be_found(line):
    assert asks_which(ast.parse(line))
    assert not asks_which(ast.parse('if draw.mode == "cola": pass'))
