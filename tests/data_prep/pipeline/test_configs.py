"""Configurations of preparation: what cannot be meant is refused when it is made."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_msa.config.schema import ConfigError, FrontendConfig, from_dict, to_dict
from data_prep.datasets.base import IndexOptions
from data_prep.demo.config import DemoConfig
from data_prep.pipeline.plan import PrepConfig
from data_prep.separator.report import EvaluationConfig
from data_prep.separator.tracks import SeparatorConfig
from data_prep.stems.stream import Chunking
from tests.cola_msa.config.test_schema import JSON

ALL = (
    PrepConfig,
    IndexOptions,
    Chunking,
    DemoConfig,
    SeparatorConfig,
    EvaluationConfig,
)
NAN = float("nan")


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (PrepConfig, {"silence_threshold": NAN}),
        (PrepConfig, {"silence_threshold": -0.1}),
        (PrepConfig, {"niter": -1}),
        (PrepConfig, {"clips_per_shard": -1}),
        (PrepConfig, {"max_clips_per_shard": 0}),
        (PrepConfig, {"sources": "vocals"}),
        (PrepConfig, {"frontend": {"num_mels": 64}}),
        (IndexOptions, {"seed": -1}),
        (IndexOptions, {"test_share": NAN}),
        (IndexOptions, {"validation_share": 1.5}),
        (Chunking, {"chunk_windows": 0}),
        (Chunking, {"fade_seconds": -1.0}),
        (DemoConfig, {"clip_seconds": float("inf")}),
        (DemoConfig, {"num_songs": (1, 2)}),
        (DemoConfig, {"num_songs": (1, 2, -3)}),
        (DemoConfig, {"untagged_share": 2.0}),
        (SeparatorConfig, {"learning_rate": -1.0}),
        (SeparatorConfig, {"weight_decay": float("inf")}),
        (SeparatorConfig, {"batch_size": 0}),
        (EvaluationConfig, {"seconds": 0}),
    ],
)
def test_what_cannot_be_meant_is_refused(cls, fields):
    (name,) = fields
    with pytest.raises(ConfigError, match=f"{cls.__name__}: {name} is "):
        cls(**fields)


@pytest.mark.parametrize("scale", [0, -1, NAN, float("inf"), 1e9])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ConfigError, match="scale must be positive and finite"):
        DemoConfig().scaled(scale)


def test_configurations_come_back_from_json():
    options = IndexOptions(stem_names=(("vocals", "voice"), ("mixture", "mix")))
    config = PrepConfig(frontend=FrontendConfig(level="l2"), options=options)
    assert from_dict(PrepConfig, to_dict(config)) == config


@given(st.sampled_from(ALL), st.data())
def test_any_json_is_a_configuration_or_a_users_error(cls, data):
    names = [field.name for field in dataclasses.fields(cls)]
    values = data.draw(st.dictionaries(st.sampled_from(names), JSON, max_size=2))
    try:
        found = from_dict(cls, values)
    except ConfigError:
        return
    assert from_dict(cls, to_dict(found)) == found
