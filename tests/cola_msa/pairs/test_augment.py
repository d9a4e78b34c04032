"""Augmentations: draws and their application, against loops and the reference."""

import importlib.util
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from cola_msa.audio.frontend import log_mel
from cola_msa.pairs import augment
from tests.conftest import SHARED
from tests.helpers.commands import run_script

CUT = pathlib.Path(__file__).parents[2] / "data" / "mws_cut.npz"
FRAMES, MELS = 98, 64


def seed(update, number=0):
    return tf.constant([number, update], tf.int64)


def slow_mws(window, keep_frames, keep_mels, shift, knee):
    """Masks, then shifts, then warps one window [98, 64], value by value."""
    masked = np.zeros_like(window, dtype=np.float64)
    for frame in range(FRAMES):
        for mel in range(MELS):
            if keep_frames[frame] and keep_mels[mel]:
                masked[frame, mel] = window[frame, mel]
    shifted = np.zeros_like(masked)
    for mel in range(MELS):
        if mel + shift < MELS:
            shifted[:, mel] = masked[:, mel + shift]
    if knee < 0:
        return shifted
    positions = [*np.linspace(0, knee, 49), *np.linspace(knee + 1, 97, 49)]
    warped = np.zeros_like(shifted)
    for frame, position in enumerate(positions):
        below = int(np.floor(position))
        above = min(below + 1, FRAMES - 1)
        share = position - below
        warped[frame] = (1 - share) * shifted[below] + share * shifted[above]
    return warped


def moved(window, shift, knee):
    """Shifts and warps one window without masks."""
    shifted = np.pad(window, ((0, 0), (0, shift)))[:, shift:].astype(np.float64)
    if knee < 0:
        return shifted
    positions = np.concatenate(
        [np.linspace(0, knee, 49), np.linspace(knee + 1, 97, 49)]
    )
    frames = np.arange(FRAMES)
    return np.stack([np.interp(positions, frames, band) for band in shifted.T], axis=1)


def recover(window, result):
    """Parameters that turn window into result, found by trying them."""
    shift, knee = max(
        ((shift, knee) for shift in range(10) for knee in (-1, *range(38, 58))),
        key=lambda p: (np.abs(moved(window, *p) - result) < 1e-4).sum(),
    )
    is_same = np.abs(moved(window, shift, knee) - result) < 1e-4
    # Bands that agree nowhere are masked, and frames that do not agree elsewhere; a
    # warp spreads a mask to the frames that interpolate from it.
    keep_mels = np.ones(MELS, bool)
    keep_mels[shift:] = is_same.any(axis=0)[: MELS - shift]
    open_bands = np.flatnonzero(keep_mels[shift:])
    options = [is_same[:, open_bands].all(axis=1)]
    if knee >= 0 and not options[0].all():
        frames = np.arange(FRAMES)
        options = [
            (frames < start) | (frames >= start + width)
            for start in range(FRAMES)
            for width in range(1, 19)
        ]
    for keep_frames in options:
        masked = window * keep_frames[:, np.newaxis] * keep_mels
        if np.abs(moved(masked, shift, knee) - result).max() < 1e-4:
            return keep_frames, keep_mels, shift, knee
    raise AssertionError("no parameters give this result")


def check_reference(path, number):
    with np.load(path) as reference:
        window = reference[f"mws_in_{number}"][..., 0]
        result = reference[f"mws_out_{number}"][..., 0]
        coins = reference[f"mws_coins_{number}"]
    keep_frames, keep_mels, shift, knee = recover(window, result)
    # What the reference says was drawn is what was found.
    assert (~keep_frames).any() == (coins[0] >= 0.5)
    assert (~keep_mels[shift:]).any() == (coins[1] >= 0.5)
    assert (shift > 0) == (coins[2] < 0.4)
    assert (knee >= 0) == (coins[3] < 0.4)
    found = augment.apply_mws(
        tf.constant(window[np.newaxis, ..., np.newaxis]),
        {
            "keep_frames": tf.constant(keep_frames[np.newaxis]),
            "keep_mels": tf.constant(keep_mels[np.newaxis]),
            "shift": tf.constant([shift]),
            "knee": tf.constant([knee]),
        },
    )
    np.testing.assert_allclose(found[0, ..., 0], result, atol=1e-4)


@pytest.mark.parametrize("number", [1, 3, 6])
def test_equals_the_reference_cut(number):
    check_reference(CUT, number)


@pytest.mark.parametrize("number", range(12))
def test_equals_the_reference(number):
    path = SHARED / "reference" / "mws.npz"
    if not path.exists():
        pytest.skip("no ../shared/reference beside the checkout")
    check_reference(path, number)


@pytest.mark.parametrize("in_graph", [False, True])
def test_batch_equals_the_loop(in_graph):
    windows = tf.constant(
        np.random.default_rng(0).normal(size=(12, FRAMES, MELS, 1)).astype(np.float32)
    )
    parameters = augment.draw_mws(seed(3), 12)
    apply = tf.function(augment.apply_mws) if in_graph else augment.apply_mws
    found = apply(windows, parameters).numpy()
    values = {name: value.numpy() for name, value in parameters.items()}
    assert (values["knee"] >= 0).any() and (values["shift"] > 0).any()
    for row in range(12):
        expected = slow_mws(
            windows[row, ..., 0].numpy(), **{n: v[row] for n, v in values.items()}
        )
        np.testing.assert_allclose(found[row, ..., 0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def many():
    """10,000 draws."""
    found = augment.draw_mws(seed(0), 10000)
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize(
    ("is_drawn", "probability"),
    [
        (lambda p: ~p["keep_frames"].all(1), 0.5),
        (lambda p: ~p["keep_mels"].all(1), 0.5),
        (lambda p: p["shift"] > 0, 0.4),
        (lambda p: p["knee"] >= 0, 0.4),
    ],
    ids=["time masks", "frequency masks", "shift", "warp"],
)
def test_probabilities(many, is_drawn, probability):
    share = is_drawn(many).mean()
    assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / 1e4)


def test_the_four_are_independent(many):
    drawn = np.stack(
        [
            ~many["keep_frames"].all(1),
            ~many["keep_mels"].all(1),
            many["shift"] > 0,
            many["knee"] >= 0,
        ]
    )
    correlation = np.corrcoef(drawn)[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 0.05


def test_ranges(many):
    assert set(many["shift"]) == set(range(10))
    assert set(many["knee"]) == {-1, *range(38, 58)}
    masked_mels = (~many["keep_mels"]).sum(1)
    assert masked_mels.max() <= 44 and masked_mels.max() > 22
    masked_frames = (~many["keep_frames"]).sum(1)
    assert masked_frames.max() <= 81 and masked_frames.max() > 36
    # Masks start at 0..86 and are up to 9 wide: the last frames stay free.
    assert many["keep_frames"][:, 95:].all() and not many["keep_frames"][:, 94].all()
    assert not many["keep_frames"][:, 0].all() and not many["keep_mels"][:, 63].all()


def test_equal_seeds_equal_windows_and_others_differ():
    windows = tf.random.stateless_normal([4, FRAMES, MELS, 1], [1, 2])
    run = augment.build_augmentation("mws")
    first, again, other = (run(windows, seed(n)).numpy() for n in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    # Windows of one batch have draws of their own.
    same = tf.repeat(windows[:1], 4, axis=0)
    result = run(same, seed(5)).numpy()
    assert np.abs(result - result[:1]).max() > 0


@pytest.mark.parametrize(
    ("name", "package"), [("specaugment", "tensorflow_io"), ("cutout", "keras_cv")]
)
def test_extras_mask_some_values_and_keep_the_rest(name, package):
    if importlib.util.find_spec(package) is None and not os.environ.get("CI"):
        pytest.skip(f"{package} is not installed: pip install '.[augment]'")
    run = tf.function(augment.build_augmentation(name))
    windows = 1.0 + tf.random.stateless_uniform([32, FRAMES, MELS, 1], [1, 2])
    found, again, other = (run(windows, seed(n)).numpy() for n in (5, 5, 6))
    np.testing.assert_array_equal(found, again)
    assert np.abs(found - other).max() > 0
    is_masked = found == 0.0
    np.testing.assert_array_equal(found[~is_masked], windows.numpy()[~is_masked])
    shares = is_masked.mean(axis=(1, 2, 3))
    assert 0.005 < shares.mean() < 0.4 and len(np.unique(shares)) > 10
    for row in is_masked[..., 0]:
        if name == "specaugment":  # whole bands and whole frames
            expected = row.all(0)[np.newaxis, :] | row.all(1)[:, np.newaxis]
        else:  # one rectangle
            expected = row.any(0)[np.newaxis, :] & row.any(1)[:, np.newaxis]
        np.testing.assert_array_equal(row, expected)


def test_extras_are_made_after_deterministic_operations_were_asked_for(tmp_path):
    """As an evaluation does it, whose process may train afterwards."""
    if importlib.util.find_spec("keras_cv") is None:
        pytest.skip("keras_cv is not installed: pip install '.[augment]'")
    run_script(
        "import tensorflow as tf\n"
        "tf.config.experimental.enable_op_determinism()\n"
        "from cola_msa.pairs.augment import build_augmentation\n"
        "windows = tf.ones([2, 98, 64, 1])\n"
        "found = build_augmentation('cutout')(windows, tf.constant([1, 2]))\n"
        "assert (found.numpy() == 0.0).any()\n",
        cwd=tmp_path,
    )


FLOOR = np.log(1e-5)


@pytest.mark.parametrize("in_graph", [False, True])
def test_gain_is_that_of_the_waveform(in_graph):
    """Equal to the log-mel of a louder or softer waveform, digital silence included."""
    waveform = np.random.default_rng(0).normal(0, 1e-3, (5, 16080)).astype(np.float32)
    waveform[:, 8000:] = 0.0
    gains = np.array([-60.0, -10.0, 0.0, 3.0, 10.0], np.float32)
    factors = 10 ** (gains[:, np.newaxis] / 20)
    before, after = (
        log_mel(w)[..., np.newaxis] for w in (waveform, waveform * factors)
    )
    apply = tf.function(augment.apply_gain) if in_graph else augment.apply_gain
    found = apply(tf.constant(before), tf.constant(gains)).numpy()
    # Bands at the floor are cut off for good: a gain does not bring them back.
    is_heard = before.numpy() > FLOOR + 0.01
    np.testing.assert_allclose(found[is_heard], after.numpy()[is_heard], atol=1e-3)
    np.testing.assert_array_equal(found[~is_heard], before.numpy()[~is_heard])
    assert (~is_heard).any() and found.min() >= FLOOR - 1e-6


def test_gains_are_uniform_and_differ_by_window():
    found = augment.draw_gain(seed(0), 10000).numpy()
    assert -10.0 <= found.min() < -9.9 and 9.9 < found.max() <= 10.0
    counts = np.histogram(found, 10, (-10, 10))[0]
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(900)
    np.testing.assert_array_equal(found, augment.draw_gain(seed(0), 10000))
    assert len(np.unique(found)) > 9000


@pytest.mark.parametrize("bands", [-6, -1, 0, 2, 6])
def test_transpose_equals_the_loop(bands):
    windows = np.random.default_rng(0).normal(size=(3, 98, 64, 1)).astype(np.float32)
    found = augment.apply_transpose(tf.constant(windows), tf.constant(bands)).numpy()
    for mel in range(64):
        source = min(max(mel - bands, 0), 63)
        np.testing.assert_array_equal(found[:, :, mel], windows[:, :, source])


def test_transposes_are_uniform_over_mini_batches():
    found = [int(augment.draw_transpose(seed(n))) for n in range(1300)]
    values, counts = np.unique(found, return_counts=True)
    assert list(values) == list(range(-6, 7))
    assert np.abs(counts - 100).max() < 4 * np.sqrt(100)


def test_transpose_moves_a_whole_mini_batch_alike():
    window = tf.random.stateless_normal([1, FRAMES, MELS, 1], [1, 2])
    run = augment.build_augmentation("transpose")
    found = [run(tf.repeat(window, 4, axis=0), seed(n)).numpy() for n in range(6)]
    assert all((batch == batch[:1]).all() for batch in found)
    assert len({batch.tobytes() for batch in found}) > 1


@pytest.mark.parametrize("in_graph", [False, True])
def test_augmentations_are_applied_in_the_order_of_their_names(in_graph):
    windows = tf.random.stateless_normal([4, FRAMES, MELS, 1], [1, 2])
    run = augment.build_augmentation("gain+transpose")
    found = (tf.function(run) if in_graph else run)(windows, seed(5)).numpy()
    gained = augment.build_augmentation("gain")(windows, seed(5))
    second = tf.random.fold_in(seed(5), 1001)
    expected = augment.apply_transpose(gained, augment.draw_transpose(second))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["gain+blur", "gain+gain", "none+gain", "gain+", ""])
def test_combinations_that_make_no_sense_are_refused(name):
    with pytest.raises(augment.AugmentError, match="each once"):
        augment.build_augmentation(name)


def test_a_missing_extra_names_the_pip_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(augment.AugmentError, match=r"pip install '\.\[augment\]'"):
        augment.build_augmentation("cutout")


def test_unknown_and_too_small_are_refused():
    with pytest.raises(augment.AugmentError, match="--augment=blur"):
        augment.build_augmentation("blur")
    with pytest.raises(augment.AugmentError, match="too small"):
        augment.draw_mws(seed(0), 2, num_frames=12)
