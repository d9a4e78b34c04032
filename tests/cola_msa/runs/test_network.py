"""The run's network: built in one place, weights put into it in one place."""

import dataclasses
import pathlib
import re

import numpy as np

import cola_msa
from cola_msa.model.statistics import BatchStatistics
from cola_msa.runs import directory, kept, network
from tests.conftest import tiny_config

DATA = {"log_mel_mean": -4.0, "log_mel_std": 2.5}


def test_no_other_module_builds_or_finalizes_it():
    root = pathlib.Path(cola_msa.__file__).parent
    texts = {
        path.relative_to(root).as_posix(): path.read_text()
        for path in root.rglob("*.py")
    }

    def naming(pattern):
        return {name for name, text in texts.items() if re.search(pattern, text)}

    assert naming(r"(?<!class )\bContrastiveModel\(") == {"frameworks/cola.py"}
    assert naming(r"_of\(config\)\.build_network\(") == {"runs/network.py"}
    assert naming(r"\.settle\(") == {"runs/network.py"}
    # The encoder's own graph is made, and copied without batch normalization, there.
    assert naming(r"\.finalize_state\(") == {
        "model/contrastive.py",
        "model/encoder.py",
        "model/folding.py",
    }


def test_fresh_weights_are_those_of_the_seed_and_the_data(finished_run):
    first = kept.load_model(finished_run, 0)  # what training began with
    fresh, other = (network.fresh_network(finished_run, seed) for seed in (None, 99))
    differs = False
    for a, b, c in zip(first.weights, fresh.weights, other.weights, strict=True):
        if "moving" not in a.path and "seed" not in a.path:
            np.testing.assert_array_equal(np.array(a), np.array(b), a.path)
        differs |= "kernel" in a.path and (np.array(b) != np.array(c)).any()
    assert differs
    assert directory.load_config(finished_run).train.seed != 99


def test_weights_that_are_put_in_are_used():
    config = tiny_config()
    source = network.build_network(config, DATA, seed=1)
    other = dataclasses.replace(config, preset="smoke")
    target = network.build_network(other, {**DATA, "log_mel_mean": 0.0}, seed=2)
    names = [network.array_name("model", n, v) for n, v in enumerate(source.variables)]
    arrays = dict(zip(names, map(np.array, source.variables), strict=True))
    values = network.fitting_values("model", target.variables, arrays)
    assert network.put_weights(target, values) is target
    windows = np.random.default_rng(0).normal(-4, 2, (3, 98, 64, 1)).astype("float32")
    # The input normalization came along, too.
    expected = np.array(source(windows, training=False))
    np.testing.assert_array_equal(target(windows, training=False), expected)
    statistics = BatchStatistics.of(source)
    moved = BatchStatistics(
        tuple(mean + 1 for mean in statistics.means), statistics.variances
    )
    network.put_weights(target, values, moved)
    found = BatchStatistics.of(target)
    np.testing.assert_array_equal(found.means[0], moved.means[0])
    assert (np.array(target(windows, training=False)) != expected).any()
