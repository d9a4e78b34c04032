"""A target's training in parts: statistics, loss, schedule, network, scores."""

import dataclasses

import numpy as np
import pytest

from cola_msa.audio import decode
from data_prep import train_separator
from data_prep.separator import network as network_lib
from data_prep.separator import report, training
from data_prep.separator import tracks as tracks_lib
from data_prep.separator.chunks import StemReader
from data_prep.separator.network import TrainingError
from tests.data_prep.conftest import parse_tiny
from tests.helpers import trees


@pytest.fixture(scope="module")
def parts(openunmix, stems_dir):
    """Configuration, tracks and reader of the tiny training."""
    config, _ = train_separator.parse_config(parse_tiny(stems_dir, "out"))
    tracks, _ = tracks_lib.list_tracks(stems_dir, config)
    return config, tracks, StemReader(stems_dir, (), 0)


def _trainer(parts, output_dir, **fields) -> training.TargetTrainer:
    config, tracks, reader = parts
    config = dataclasses.replace(config, **fields)
    run = training.Run(output_dir, epochs=1000, show_progress=False)
    num_bins = config.fft_size // 2 + 1
    return training.TargetTrainer(
        "vocals",
        tracks,
        reader,
        config,
        run,
        lambda: (np.zeros(num_bins), np.ones(num_bins)),
    )


def _magnitudes(waveform: np.ndarray) -> np.ndarray:
    """[n] -> [bins, frames], one frame at a time."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    starts = range(0, len(waveform) - 511, 256)
    frames = [np.abs(np.fft.rfft(window * waveform[k : k + 512])) for k in starts]
    return np.stack(frames, axis=1)


def test_input_statistics_against_a_loop(parts, stems_dir):
    config, tracks, reader = parts
    train_tracks = [track for track in tracks if track.split == "train"]
    mean, deviation = network_lib.input_statistics(reader, train_tracks, config)
    frames = []
    for track in train_tracks:
        samples = decode.decode(stems_dir / track.mixture).samples.astype(np.float64)
        frames.append(sum(_magnitudes(channel) for channel in samples) / 2)
    frames = np.concatenate(frames, axis=1)
    np.testing.assert_allclose(mean, frames.mean(axis=1), rtol=1e-4, atol=1e-6)
    expected = np.maximum(frames.std(axis=1), 1e-4 * frames.std(axis=1).max())
    np.testing.assert_allclose(deviation, expected, rtol=1e-3)


def test_silent_mixtures_are_refused(openunmix, tmp_path, parts):
    config, _, _ = parts
    trees.write_wav(tmp_path / "a.wav", np.zeros(44100, np.float32), 44100)
    track = tracks_lib.Track("a", "train", "a.wav", (), 1.0)
    reader = StemReader(tmp_path, (), 0)
    with pytest.raises(TrainingError, match="are silent"):
        network_lib.input_statistics(reader, [track], config)


def test_the_loss_against_a_loop(parts, tmp_path):
    import torch

    trainer = _trainer(parts, tmp_path)
    trainer._network = torch.nn.Identity()
    random = np.random.default_rng(0)
    mixture, stem = random.normal(size=(2, 3, 2, 3000)).astype(np.float32)
    found = trainer._loss(torch.from_numpy(mixture), torch.from_numpy(stem)).item()
    errors = [
        _magnitudes(mixture[k, c]) - _magnitudes(stem[k, c])
        for k in range(3)
        for c in range(2)
    ]
    assert found == pytest.approx(np.mean(np.square(errors)), rel=1e-5)


def test_validation_is_the_mean_over_whole_tracks(parts, tmp_path, stems_dir):
    import torch

    trainer = _trainer(parts, tmp_path)
    trainer._network = torch.nn.Identity()
    [track] = [track for track in parts[1] if track.split == "validation"]
    read = [
        decode.decode(stems_dir / track.name / f"{role}.wav").samples
        for role in ("mixture", "vocals")
    ]
    errors = [
        _magnitudes(first) - _magnitudes(second)
        for first, second in zip(*read, strict=True)
    ]
    assert trainer.validate() == pytest.approx(np.mean(np.square(errors)), rel=1e-4)


def test_the_schedule_and_the_stop(parts, tmp_path, monkeypatch):
    """A loss that stays: the rate falls, then training stops."""
    trainer = _trainer(parts, tmp_path, patience=5, lr_decay_patience=2)
    assert trainer._optimizer.defaults["weight_decay"] == 1e-5
    rates = []

    def train_epoch(epoch: int) -> float:
        rates.append(trainer._optimizer.param_groups[0]["lr"])
        return 1.0

    monkeypatch.setattr(trainer, "_train_epoch", train_epoch)
    monkeypatch.setattr(trainer, "validate", lambda: 1.0)
    history = trainer.run()
    # The first epoch is the best; five follow.
    assert history.has_stopped
    assert (history.epochs, history.best_epoch) == (6, 1)
    np.testing.assert_allclose(rates, [0.01] * 4 + [0.003] * 2)
    again = _trainer(parts, tmp_path, patience=5, lr_decay_patience=2)
    assert again.run() == history


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(parts, tmp_path, monkeypatch, loss):
    trainer = _trainer(parts, tmp_path)
    monkeypatch.setattr(trainer, "_train_epoch", lambda epoch: loss)
    with pytest.raises(TrainingError, match="vocals: the loss of epoch 1 is"):
        trainer.run()
    assert not list(tmp_path.iterdir())


def test_the_network_is_openunmixs(parts, openunmix):
    config, _, _ = parts
    network = network_lib.make_network(None, None, config)
    assert type(network) is openunmix.model.OpenUnmix
    assert network.lstm.bidirectional
    assert network.nb_output_bins == 257
    # 16 kHz lie between the bins 185 (15935 Hz) and 186 (16021 Hz).
    assert network.nb_bins == 186


def test_si_sdr_against_its_definition():
    random = np.random.default_rng(0)
    stem = random.normal(size=1000)
    estimate = 0.3 * stem + random.normal(size=1000)
    scaled = (estimate @ stem) / (stem @ stem) * stem
    distortion = estimate - scaled
    expected = 10 * np.log10((scaled @ scaled) / (distortion @ distortion))
    assert report.si_sdr(estimate, stem) == pytest.approx(expected)
    assert report.si_sdr(-7 * estimate, stem) == pytest.approx(expected)
    assert report.si_sdr(stem, stem) == pytest.approx(60)
    assert report.si_sdr(np.zeros(1000), stem) == pytest.approx(-60)
