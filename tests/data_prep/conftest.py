"""What the tests of separators share."""

import json
import os
import pathlib

import pytest
from absl import flags

from cola_msa.config.schema import SOURCES
from data_prep import train_separator
from data_prep.stems import weights
from tests.helpers import trees

TINY_SEPARATOR = (
    "--hidden_size=16",
    "--nfft=512",
    "--nhop=256",
    "--seq_seconds=0.5",
    "--samples_per_track=16",
    "--batch_size=4",
    "--learning_rate=0.01",
)


def parse_tiny(dataset_dir, output_dir, *more: str) -> flags.FlagValues:
    """Flags of train_separator for a network that learns in seconds."""
    values = flags.FlagValues()
    train_separator.define_flags(values)
    paths = [f"--dataset_dir={dataset_dir}", f"--output_dir={output_dir}"]
    values(["command", *paths, *TINY_SEPARATOR, *more])
    return values


@pytest.fixture(scope="session")
def stems_dir(tmp_path_factory) -> pathlib.Path:
    names = tuple(f"song{k}" for k in range(8))
    return trees.write_stems(tmp_path_factory.mktemp("stems"), names)


@pytest.fixture(scope="session")
def openunmix():
    """The package; without the extra tests are skipped, but in CI they fail."""
    try:
        return weights.start_torch(num_threads=1)
    except weights.SeparatorError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def weights_dir(openunmix, tmp_path_factory) -> pathlib.Path:
    """A tiny Open-Unmix of four targets, in its own folder format."""
    import torch
    from openunmix import model

    path = tmp_path_factory.mktemp("weights")
    settings = {"sample_rate": 44100.0, "nfft": 1024, "nhop": 512, "nb_channels": 2}
    (path / "separator.json").write_text(json.dumps(settings))
    arguments = {"nfft": 1024, "nb_channels": 2, "hidden_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for source in SOURCES:
            target = model.OpenUnmix(513, 2, hidden_size=8, max_bin=300)
            torch.save(target.state_dict(), path / f"{source}.pth")
            (path / f"{source}.json").write_text(json.dumps({"args": arguments}))
    return path
