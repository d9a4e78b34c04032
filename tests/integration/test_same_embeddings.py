"""One clip's embeddings are the same by every way that there is to them.

Files by the command, waveforms in Python, the SavedModel with TensorFlow alone, ONNX
and TFLite with the front end in NumPy, and each export's folder in the place of a run;
on files of every format, with passages in which bands lie near the log-mel's floor:
there, rounding of the front end would show.
"""

import functools

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from cola_msa.audio import decode, frontend, frontend_numpy, resample
from cola_msa.audio.clip_windows import ClipWindows
from cola_msa.config import schema
from cola_msa.hub import export as export_lib
from cola_msa.hub import released
from cola_msa.hub.embedder import Embedder
from tests.conftest import SHARED
from tests.helpers.commands import run_module
from tests.helpers.released_layout import (
    make_tensors,
    make_variables,
    write_checkpoint,
)

RATE = 16000
TOLERANCES = {"tflite": 1e-3}  # of the others: 1e-4
FILES = {
    "tones.wav": (16000, "wav"),
    "quiet.flac": (44100, "flac"),
    "low.mp3": (44100, "mp3"),
    "low_rate.mp3": (22050, "mp3"),
    "swell.ogg": (48000, "ogg"),
}
SHARED_FILES = [
    "mtat/*/*.mp3",
    "fma/fma_small/*/*.mp3",
    "multitrack/*/mixture.ogg",
    "multitrack/*/bass.ogg",
    "nsynth/nsynth-test/audio/*.wav",
]


def make_song(rate: int, seed: int) -> np.ndarray:
    """float64 [n, 2], 5 s: deep tones, a quiet passage, digital silence, a bang."""
    random = np.random.default_rng(seed)
    time = np.arange(5 * rate) / rate
    tones = sum(np.sin(2 * np.pi * hz * (1 + seed / 9) * time) for hz in (55, 110, 137))
    song = 0.2 * tones * (1 + np.sin(2 * time))
    song[int(1.5 * rate) : int(2.2 * rate)] *= 1e-4
    song[int(2.2 * rate) : int(3.1 * rate)] = 0
    bang = int(3.5 * rate)
    song[bang : bang + 400] += 0.3 * random.standard_normal(400)
    return np.stack([song, 0.5 * song], axis=1)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for seed, (name, (rate, _)) in enumerate(FILES.items()):
        soundfile.write(folder / name, make_song(rate, seed), rate)
    return folder


def efficientnet_run(folder):
    """EfficientNetB0 with random weights and batch-norm statistics of their own."""
    tensors = make_tensors(make_variables())
    checkpoint = write_checkpoint(folder, tensors)
    released.import_weights(checkpoint, folder / "run")
    return folder / "run"


@pytest.fixture(
    scope="module",
    params=["tiny", pytest.param("efficientnetb0", marks=pytest.mark.slow)],
)
def folders(request, finished_run, tmp_path_factory):
    """The run and its exports."""
    pytest.importorskip("tf2onnx", reason="needs the extra formats")
    folder = tmp_path_factory.mktemp("ways")
    run_dir = finished_run
    if request.param != "tiny":
        run_dir = efficientnet_run(folder)
    found = {"run": run_dir}
    for name in ("saved_model", "onnx", "tflite"):
        found[name] = folder / name
        export_lib.export_encoder(run_dir, found[name], file_format=name)
    return found


def waveform_of(path) -> np.ndarray:
    return resample.to_mono(decode.decode(path), RATE)


@functools.cache
def load_saved_model(folder):
    return tf.saved_model.load(str(folder))


def by_saved_model(folder, path):
    embed = load_saved_model(folder).signatures["embed_waveform"]
    waveform = waveform_of(path)[np.newaxis]
    lengths = tf.constant([waveform.shape[1]])
    return embed(waveform=tf.constant(waveform), lengths=lengths)["windows"][0].numpy()


def by_onnx(folder, path):
    import onnxruntime

    config = frontend_numpy.read_frontend(folder)
    windows = frontend_numpy.clip_windows(waveform_of(path), config)
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    return session.run(["embedding"], {"log_mel": windows})[0]


def by_tflite(folder, path):
    config = frontend_numpy.read_frontend(folder)
    windows = frontend_numpy.clip_windows(waveform_of(path), config)
    interpreter = tf.lite.Interpreter(str(folder / "encoder.tflite"))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, windows.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, windows)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@functools.cache
def open_embedder(folder):
    return Embedder.from_pretrained(folder)


def by_python(folder, path):
    sound = decode.decode(path)
    return open_embedder(folder).windows(sound.samples, sound.rate_hz)[1]


def by_command(folder, paths, tmp_path):
    """Embeddings of each path by one command."""
    listed = tmp_path / "songs.txt"
    listed.write_text("".join(f"{path}\n" for path in paths))
    arguments = [f"--model={folder}", f"--input={listed}", "--output=rows.npz"]
    ran = run_module("cola_msa.embed", *arguments, "--per=window", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    with np.load(tmp_path / "rows.npz") as rows:
        return {p: rows["embedding"][rows["path"] == str(p)] for p in paths}


def check_all_ways(folders, paths, tmp_path):
    """Every window of every path, against the command's on the run."""
    expected = by_command(folders["run"], paths, tmp_path)
    ways = {"Python": lambda path: by_python(folders["run"], path)}
    direct = {"saved_model": by_saved_model, "onnx": by_onnx, "tflite": by_tflite}
    for name, function in direct.items():
        ways[name] = lambda path, f=function, n=name: f(folders[n], path)
        ways[f"{name}, opened"] = lambda path, n=name: by_python(folders[n], path)
    worst = {}
    for way, function in ways.items():
        differences = []
        for path in paths:
            found, wanted = function(path), expected[path]
            assert found.shape == wanted.shape and len(wanted) > 0
            norms = np.linalg.norm(wanted, axis=1)
            differences.append((np.linalg.norm(found - wanted, axis=1) / norms).max())
        worst[way] = max(differences)
    print({way: float(f"{value:.2g}") for way, value in worst.items()})
    for way, value in worst.items():
        assert value < TOLERANCES.get(way.split(",")[0], 1e-4), (way, value)


def test_every_way_gives_the_same_on_every_format(folders, songs, tmp_path):
    check_all_ways(folders, [songs / name for name in FILES], tmp_path)


def test_every_way_gives_the_same_on_real_music(folders, tmp_path):
    paths = [
        path
        for glob in SHARED_FILES
        for path in sorted((SHARED / "music").glob(glob))[:2]
    ]
    if not paths:
        pytest.skip("no ../shared/music beside the checkout")
    check_all_ways(folders, paths, tmp_path)


# The front end -----------------------------------------------------------------------


def largest_difference(waveform):
    """NumPy's log-mel against TensorFlow's, in double and in single precision."""
    config = schema.FrontendConfig()
    found = frontend_numpy.clip_windows(waveform, config)
    leveled = frontend.normalize_level(waveform, config.level)
    return tuple(
        abs(found - frontend.split_windows(mel, config).numpy()).max()
        for mel in (
            frontend.exact_log_mel(waveform, config),
            frontend.log_mel(leveled, config),
        )
    )


@pytest.mark.parametrize("name", list(FILES))
def test_the_front_ends_agree_on_files(songs, name):
    exact, single = largest_difference(waveform_of(songs / name))
    assert exact < 1e-5 and single < 0.01


@pytest.mark.parametrize("glob", SHARED_FILES)
def test_the_front_ends_agree_on_real_music(glob):
    paths = sorted((SHARED / "music").glob(glob))[::12]
    if not paths:
        pytest.skip("no ../shared/music beside the checkout")
    for path in paths:
        exact, single = largest_difference(waveform_of(path))
        assert exact < 1e-5 and single < 0.01, path


@pytest.mark.parametrize("gain", [2.0**-12, 0.5, 32.0])  # exact in binary
def test_gain_and_blocks_do_not_show(gain):
    """Single precision would differ by 1e-3 and more in bands near the floor."""
    song = make_song(RATE, 1).mean(1).astype(np.float32)
    expected = frontend.exact_log_mel(song).numpy()
    scaled = np.float32(gain) * song
    with ClipWindows(schema.FrontendConfig()) as clip:
        for first in range(0, len(song), 7_777):
            clip.add(scaled[first : first + 7_777])
        clip.finish()
        found = np.concatenate(list(clip.windows()))[..., 0].reshape(-1, 64)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)
