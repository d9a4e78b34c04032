import dataclasses
import json

import pytest

from cola_msa import config as config_lib
from cola_msa.presets import PRESETS, get_preset


@pytest.mark.parametrize("name", list(PRESETS))
def test_json_round_trip_keeps_every_field(name):
    preset = get_preset(name)
    text = json.dumps(config_lib.to_dict(preset))
    assert config_lib.from_dict(config_lib.Config, json.loads(text)) == preset


def test_hash_depends_on_every_field():
    hashes = {config_lib.config_hash(config_lib.FrontendConfig())}
    for field in dataclasses.fields(config_lib.FrontendConfig):
        value = "l2" if field.name == "level" else field.default + 1
        changed = config_lib.FrontendConfig(**{field.name: value})
        hashes.add(config_lib.config_hash(changed))
    assert len(hashes) == 1 + len(dataclasses.fields(config_lib.FrontendConfig))


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
