import dataclasses
import json

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from cola_msa.config import checks
from cola_msa.config import schema as config_lib
from cola_msa.config.presets import PRESETS, get_preset
from cola_msa.system.errors import UserError
from cola_msa.values.field_flags import define_fields, flag_fields

OLD_HASH = "d61cf709aaa0a6cb"


@pytest.mark.parametrize("name", list(PRESETS))
def test_json_round_trip_keeps_every_field(name):
    preset = get_preset(name)
    text = json.dumps(config_lib.to_dict(preset))
    assert config_lib.from_dict(config_lib.Config, json.loads(text)) == preset


def test_hash_depends_on_every_field():
    hashes = {config_lib.config_hash(config_lib.FrontendConfig())}
    texts = {"level": {"level": "l2"}, "kind": {"kind": "waveform", "level": "none"}}
    sizes = {"window_samples": 200, "hop_samples": 200, "num_mels": 200}
    for field in dataclasses.fields(config_lib.FrontendConfig):
        values = texts.get(field.name) or {field.name: field.default + 1}
        if field.name == "kind":
            values |= sizes
        changed = config_lib.FrontendConfig(**values)
        hashes.add(config_lib.config_hash(changed))
    hashes.add(config_lib.config_hash(config_lib.FrontendConfig(**sizes)))
    assert len(hashes) == 2 + len(dataclasses.fields(config_lib.FrontendConfig))


def test_log_mel_front_ends_are_written_and_hashed_as_before_there_were_others():
    # Hashes and names as preparation wrote them into manifests before.
    assert config_lib.config_hash(config_lib.FrontendConfig()) == OLD_HASH
    config = get_preset("default")
    assert "kind" not in config_lib.to_dict(config.frontend)
    assert "kind" not in config_lib.to_dict(config)["frontend"]
    assert (
        config_lib.from_dict(
            config_lib.Config, config_lib.to_dict(config)
        ).frontend.kind
        == "log_mel"
    )


def test_a_waveforms_front_end_travels_and_is_told_from_log_mels():
    found = config_lib.waveform_frontend()
    assert found.window_frames * found.hop_samples == 59049
    assert found.num_frames(59049) == 243
    assert found.window_seconds == pytest.approx(59049 / 22050)
    written = json.loads(json.dumps(config_lib.to_dict(found)))
    assert written["kind"] == "waveform"
    assert checks.check_frontend(written) == found
    config = dataclasses.replace(get_preset("default"), frontend=found)
    assert checks.check_config(config_lib.to_dict(config)) == config
    (kind,) = [
        line
        for line in config_lib.differing_fields(get_preset("default"), config)
        if "kind" in line
    ]
    assert kind == "frontend.kind: log_mel != waveform"


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "waveform"},
        {"level": "none"},
        {"kind": "waveform", "level": "none", "hop_samples": 100},
        {"kind": "cepstrum"},
    ],
)
def test_a_front_end_of_half_a_kind_is_refused(values):
    with pytest.raises(config_lib.ConfigError):
        checks.check_frontend(values)


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="no field colour"):
        config_lib.from_dict(config_lib.TrainConfig, {"colour": 1})


def test_differing_fields_names_part_and_values():
    a = get_preset("paper")
    b = dataclasses.replace(a, train=dataclasses.replace(a.train, seed=3))
    assert config_lib.differing_fields(a, b) == ["train.seed: 0 != 3"]


def test_paper_preset_holds_the_papers_numbers():
    train, model = get_preset("paper").train, get_preset("paper").model
    assert (train.steps, train.updates_per_step, train.batch_size) == (10000, 64, 128)
    assert train.steps * train.updates_per_step * train.batch_size == 81_920_000
    assert (train.learning_rate, train.halve_at_step) == (1e-3, 5000)
    assert (model.temperature, model.projection_dim) == (0.2, 512)


def test_authors_preset_differs_as_documented():
    authors = get_preset("authors")
    assert authors.frontend.level == "l2"
    assert authors.model.temperature == 1.0
    assert authors.train.halve_at_step == 0
    assert (authors.model.kernel_init, authors.model.kernel_scale) == ("normal", 0.05)
    assert authors.model.input_normalization == "none"


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="there are paper, authors"):
        get_preset("best")


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (config_lib.TrainConfig, {"learning_rate": -1.0}),
        (config_lib.TrainConfig, {"learning_rate": float("nan")}),
        (config_lib.TrainConfig, {"learning_rate": float("inf")}),
        (config_lib.TrainConfig, {"batch_size": 0}),
        (config_lib.TrainConfig, {"steps": 0}),
        (config_lib.TrainConfig, {"average_decay": 1.0}),
        (config_lib.TrainConfig, {"keep_steps": (-1,)}),
        (config_lib.TrainConfig, {"seed": 2**32}),
        (config_lib.ModelConfig, {"temperature": -1.0}),
        (config_lib.ModelConfig, {"temperature": 0}),
        (config_lib.ModelConfig, {"projection_dim": 10**9}),
        (config_lib.ModelConfig, {"drop_connect_rate": 1.0}),
        (config_lib.FrontendConfig, {"num_mels": 0}),
        (config_lib.FrontendConfig, {"log_floor": 0.0}),
        (config_lib.FrontendConfig, {"low_hz": 7800.0}),
        (config_lib.FrontendConfig, {"high_hz": 8001.0}),
        (config_lib.FrontendConfig, {"window_samples": 1025}),
        (config_lib.FrontendConfig, {"window_frames": 393}),
        (config_lib.FrontendConfig, {"log_ceiling": 1e-6}),
        (config_lib.Config, {"train": None}),
        (config_lib.Config, {"preset": 3}),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_made(cls, fields):
    (name,) = fields
    with pytest.raises(config_lib.ConfigError, match=f"{cls.__name__}: "):
        cls(**fields)
    with pytest.raises(config_lib.ConfigError):
        dataclasses.replace(cls(), **{name: fields[name]})


def test_flags_and_fields_have_the_same_bounds():
    """Through the flags' own parsers, whatever the flags are made from."""
    values = flags.FlagValues()
    checked = 0
    for cls in (config_lib.TrainConfig, config_lib.ModelConfig):
        define_fields(cls, values)
        for field in flag_fields(cls):
            if field.name == "keep_steps":
                continue
            parser = values[field.name].parser
            for bound, step in (("lower_bound", -1), ("upper_bound", 1)):
                limit = getattr(parser, bound, None)
                if limit is None:
                    continue
                cls(**{field.name: limit})
                beyond = limit + step * max(1, abs(limit))
                with pytest.raises(config_lib.ConfigError):
                    cls(**{field.name: beyond})
                checked += 1
    assert checked > 25


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


def configurations():
    """A preset's JSON, with one value at any place replaced by any JSON."""
    whole = config_lib.to_dict(get_preset("short"))
    places = [(name,) for name in whole] + [
        (part, name)
        for part, values in whole.items()
        if isinstance(values, dict)
        for name in values
    ]

    def build(place, value):
        changed = json.loads(json.dumps(whole))
        inside = changed
        for name in place[:-1]:
            inside = inside[name]
        inside[place[-1]] = value
        return changed

    return st.builds(build, st.sampled_from(places), JSON)


@given(
    st.one_of(
        configurations(),
        JSON,
        st.dictionaries(
            st.sampled_from(["train", "model", "frontend", "preset", "strategy"]), JSON
        ),
    )
)
def test_any_json_is_a_configuration_or_a_users_error(values):
    try:
        found = config_lib.from_dict(config_lib.Config, values)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        text = json.dumps(config_lib.to_dict(found), allow_nan=False)
        again = config_lib.from_dict(config_lib.Config, json.loads(text))
        assert config_lib.config_hash(again) == config_lib.config_hash(found)
