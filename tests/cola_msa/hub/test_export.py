import json
import shutil

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from cola_msa.collection.embed import embed_files
from cola_msa.hub import export as export_lib
from cola_msa.hub import loading, pretrained
from cola_msa.hub.embedder import Embedder
from cola_msa.hub.formats import checks
from cola_msa.hub.opened import ExportError
from cola_msa.runs import kept
from cola_msa.system.errors import FileError, RunError
from tests.helpers.commands import run_module

RATE = 16000


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    metadata = export_lib.export_encoder(finished_run, folder)
    return folder, metadata


@pytest.fixture(scope="module")
def embed(exported):
    return tf.saved_model.load(str(exported[0])).signatures["embed_waveform"]


@pytest.fixture(scope="module")
def opened(finished_run):
    return loading.open_model(finished_run)


@pytest.fixture(scope="module")
def encoder(opened):
    return opened.encoder


def noise(seconds, seed=0):
    samples = int(seconds * RATE)
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(samples)).astype(np.float32)


def run(embed, waveforms):
    longest = max(map(len, waveforms))
    batch = np.stack([np.pad(w, (0, longest - len(w))) for w in waveforms])
    lengths = tf.constant([len(w) for w in waveforms], tf.int32)
    found = embed(waveform=tf.constant(batch), lengths=lengths)
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("seconds", [0.3, 0.99, 1.0, 3.92, 29.0, 60.0])
def test_any_length_gives_the_probes_windows(embed, opened, seconds):
    waveform = noise(seconds)
    expected = checks.reference_windows(waveform, opened)
    found = run(embed, [waveform])
    frames = 1 + (len(waveform) - 400) // 160
    assert found["windows"].shape == (1, max(1, frames // 98), 64)
    difference = np.linalg.norm(found["windows"][0] - expected)
    assert difference < 1e-4 * np.linalg.norm(expected)
    np.testing.assert_allclose(found["clip"][0], expected.mean(0), rtol=1e-3, atol=1e-4)


def test_a_batch_gives_what_each_clip_gives_alone(embed):
    waveforms = [noise(0.3, 1), noise(7.0, 2), noise(2.2, 3)]
    found = run(embed, waveforms)
    np.testing.assert_array_equal(found["num_windows"], [1, 7, 2])
    for row, waveform in enumerate(waveforms):
        alone = run(embed, [waveform])
        count = alone["windows"].shape[1]
        np.testing.assert_allclose(
            found["windows"][row, :count], alone["windows"][0], atol=1e-4, rtol=1e-3
        )
        assert (found["windows"][row, count:] == 0).all()
        np.testing.assert_allclose(found["clip"][row], alone["clip"][0], atol=1e-4)


def test_windows_are_those_of_the_preparation(embed, encoder, tmp_path):
    """From a file through preparation's own steps to the encoder: the same windows."""
    from cola_msa.audio.frontend import log_mel, normalize_level, split_windows

    waveform = noise(5.0)
    mel = log_mel(normalize_level(waveform)).numpy().astype(np.float16)
    windows = split_windows(tf.constant(mel, tf.float32))
    expected = encoder(windows, training=False).numpy()
    found = run(embed, [waveform])["windows"][0]
    # Records are float16, which errs by up to 0.004 in the log-mel.
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_silence_and_nothing_give_finite_embeddings(embed, seconds):
    waveform = np.zeros(max(1, int(seconds * RATE)), np.float32)
    found = run(embed, [waveform, np.zeros(20000, np.float32)])
    assert np.isfinite(found["windows"]).all()


def test_log_mel_signature(exported, encoder):
    embed = tf.saved_model.load(str(exported[0])).signatures["embed_log_mel"]
    mel = np.random.default_rng(0).normal(-3, 2, (3, 98, 64, 1)).astype(np.float32)
    found = embed(log_mel=tf.constant(mel))["embedding"].numpy()
    np.testing.assert_allclose(found, encoder(mel, training=False), rtol=1e-4)


def log_mels(frames, seed):
    random = np.random.default_rng(seed)
    return random.normal(-3, 2, (4, frames, 64, 1)).astype(np.float32)


@pytest.mark.parametrize("frames", [98, 200])
def test_match_scores_as_the_pretext_task_does(exported, finished_run, frames):
    signatures = tf.saved_model.load(str(exported[0])).signatures
    model = kept.load_model(finished_run, statistics="pairs")
    mixtures, stems = log_mels(frames, 1), log_mels(frames, 2)[:3]
    anchors = model(mixtures, training=False).numpy()
    candidates = model(stems, training=False).numpy()
    expected = anchors @ np.array(model.similarity.kernel) @ candidates.T
    found = signatures["match"](
        mixture_windows=tf.constant(mixtures), stem_windows=tf.constant(stems)
    )
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-4, atol=1e-5)
    projected = signatures["project"](log_mel=tf.constant(mixtures))["projection"]
    np.testing.assert_allclose(projected, anchors, rtol=1e-4, atol=1e-5)


def test_an_opened_export_matches_as_its_run_does(exported, opened):
    matcher = loading.open_model(exported[0]).matcher
    mixtures, stems = log_mels(98, 1), log_mels(98, 2)
    found = matcher.score(matcher.project(mixtures), matcher.project(stems))
    own = opened.matcher
    expected = own.score(own.project(mixtures), own.project(stems))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_signatures_are_described_in_words_of_log_mels(exported):
    match = exported[1]["signatures"]["match"]
    assert match["inputs"] == {
        "mixture_windows": "float32 [A, frames, num_mels, 1], log-mel",
        "stem_windows": "float32 [P, frames, num_mels, 1], log-mel",
    }
    assert "where a stem belongs to a mixture; the" in match["outputs"]["scores"]


def test_more_windows_than_pass_at_once_are_matched(exported):
    match = tf.saved_model.load(str(exported[0])).signatures["match"]
    mixtures = np.concatenate([log_mels(40, seed) for seed in range(66)])
    stems = log_mels(40, 99)
    found = match(
        mixture_windows=tf.constant(mixtures), stem_windows=tf.constant(stems)
    )["scores"].numpy()
    assert found.shape == (264, 4)
    for row in (0, 255, 256, 263):
        alone = match(
            mixture_windows=tf.constant(mixtures[row : row + 1]),
            stem_windows=tf.constant(stems),
        )["scores"]
        np.testing.assert_allclose(found[row], alone[0], rtol=1e-4, atol=1e-5)


def test_a_pretrained_folder_exports_the_same(finished_run, exported, tmp_path):
    pretrained.save_pretrained(finished_run, tmp_path / "pretrained")
    metadata = export_lib.export_encoder(tmp_path / "pretrained", tmp_path / "model")
    same = ("encoder_key", "step", "config", "frontend", "signatures")
    assert {k: metadata[k] for k in same} == {k: exported[1][k] for k in same}
    with pytest.raises(RunError, match="is an export already"):
        export_lib.export_encoder(tmp_path / "model", tmp_path / "again")


def test_metadata_says_what_a_user_must_know(exported, finished_run):
    folder, metadata = exported
    stored = json.loads((folder / "metadata.json").read_text())
    assert stored == json.loads(json.dumps(metadata))
    assert (stored["sample_rate_hz"], stored["level"]) == (RATE, "rms")
    assert stored["step"] == 4 and stored["embedding_dim"] == 64
    assert stored["encoder_key"] == kept.encoder_key(finished_run)
    assert stored["relative_difference"] < 1e-4


def test_a_wrong_export_is_not_called_done(finished_run, tmp_path, monkeypatch):
    def other(waveform, model):
        return 1.01 * original(waveform, model)

    original = checks.reference_windows
    monkeypatch.setattr(checks, "reference_windows", other)
    with pytest.raises(ExportError, match="differs from the encoder"):
        export_lib.export_encoder(finished_run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_encoder_that_multiplies_rounding_is_given_room(opened):
    windows = noise(2.5)[: 2 * 98 * 64].reshape(2, 98, 64, 1)
    assert checks.tolerance_of(windows, opened) == pytest.approx(1e-4)

    class Amplifier:
        factor = 100.0

        def embed(self, mel):
            # Like exp of large values: `factor` times the relative change.
            return np.sign(mel) * np.abs(mel.astype(np.float64)) ** self.factor

    amplifier = Amplifier()
    tolerance = checks.tolerance_of(windows + 1, amplifier)
    assert tolerance == pytest.approx(10 * 100 * 2.0**-23, rel=0.5)
    amplifier.factor = 1e5
    assert checks.tolerance_of(1 + windows / 1e6, amplifier) == 0.01


def test_the_command_exports_and_reports(finished_run, tmp_path):
    result = run_module(
        "cola_msa.export",
        f"--run_dir={finished_run}",
        f"--output_dir={tmp_path / 'model'}",
        "--checkpoint_step=2",
    )
    assert result.returncode == 0, result.stderr
    assert "exported step 2" in result.stdout
    assert (tmp_path / "model" / "saved_model.pb").exists()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_files_python_and_the_saved_model_give_the_same(
    exported, embed, finished_run, tmp_path, rate
):
    """One clip by `cola_msa.embed`'s function, by Embedder and by TensorFlow alone."""
    time = np.arange(rate * 7) / rate
    tones = [0.3 * np.sin(2 * np.pi * hz * time * (1 + time)) for hz in (90, 330)]
    stereo = np.stack(tones).astype(np.float32)
    path = tmp_path / "song.wav"
    soundfile.write(path, stereo.T, rate, subtype="FLOAT")
    mono = soxr.resample(stereo.mean(0), rate, 16000)
    expected = embed(
        waveform=tf.constant(mono[None]), lengths=tf.constant([len(mono)])
    )["windows"][0].numpy()
    found = {}
    for model_dir in (finished_run, exported[0]):
        model = loading.open_model(model_dir)
        output = tmp_path / f"{model.kind}.npz"
        embed_files([str(path)], output, model, per="window", is_quiet=True)
        with np.load(output) as rows:
            found[f"{model.kind}, files"] = rows["embedding"]
        found[f"{model.kind}, Python"] = Embedder(model).windows(stereo, rate)[1]
    assert len(found) == 4
    for name, windows in found.items():
        difference = np.linalg.norm(windows - expected) / np.linalg.norm(expected)
        assert difference < 1e-4, name


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a model is opened: refusals come before any work."""

    def fail(*_, **__):
        pytest.fail("work began")

    monkeypatch.setattr(export_lib, "open_model", fail)
    monkeypatch.setattr(kept, "load_model", fail)


@pytest.mark.parametrize("file_format", export_lib.FORMATS)
@pytest.mark.parametrize("name", ["models", "models/", "link", "."])
def test_a_folder_that_is_not_ours_stays_as_it_is(
    finished_run, tmp_path, monkeypatch, no_work, file_format, name
):
    root = tmp_path / "models"
    (root / "papers").mkdir(parents=True)
    (root / "papers" / "thesis.tex").write_text("years of work")
    (root / "metadata.json").write_text('{"mine": 1}')
    (tmp_path / "models.tmp").mkdir()
    (tmp_path / "models.tmp" / "notes").write_text("mine too")
    (tmp_path / "link").symlink_to("models")
    before = tree(tmp_path)
    monkeypatch.chdir(root if name == "." else tmp_path)
    with pytest.raises(FileError, match="nothing there is replaced"):
        export_lib.export_encoder(finished_run, name, file_format=file_format)
    assert tree(tmp_path) == before


def test_a_run_is_never_replaced_by_its_export(finished_run, no_work):
    before = tree(finished_run)
    with pytest.raises(FileError, match="nothing there is replaced"):
        export_lib.export_encoder(finished_run, finished_run)
    with pytest.raises(FileError, match="nothing there is replaced"):
        export_lib.export_encoder(finished_run, finished_run.parent)
    assert tree(finished_run) == before


def test_an_export_with_something_added_is_not_replaced(
    exported, finished_run, tmp_path, no_work
):
    shutil.copytree(exported[0], tmp_path / "model")
    (tmp_path / "model" / "assets" / "mine.txt").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(FileError, match="assets/mine.txt"):
        export_lib.export_encoder(finished_run, tmp_path / "model")
    assert tree(tmp_path) == before


def test_an_earlier_export_is_replaced_and_a_users_tmp_stays(
    exported, finished_run, tmp_path, monkeypatch
):
    target = tmp_path / "model"
    shutil.copytree(exported[0], target)
    (tmp_path / "model.tmp").write_text("mine")
    old = tree(target)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "TOLERANCE", 0.0)
        patch.setattr(checks, "tolerance_of", lambda mel, model: 0.0)
        with pytest.raises(ExportError, match="differs"):
            export_lib.export_encoder(finished_run, target)
    assert tree(target) == old, "an export that fails leaves the old one"
    pretrained.save_pretrained(finished_run, tmp_path / "pretrained")
    export_lib.export_encoder(finished_run, target)
    assert loading.open_model(target).key == loading.open_model(exported[0]).key
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model",
        "model.tmp",
        "pretrained",
    ]


def test_a_file_of_an_export_that_was_changed_is_not_removed(
    exported, finished_run, tmp_path, no_work
):
    shutil.copytree(exported[0], tmp_path / "model")
    (tmp_path / "model" / "fingerprint.pb").write_text("mine now")
    before = tree(tmp_path)
    with pytest.raises(FileError, match="fingerprint.pb"):
        export_lib.export_encoder(finished_run, tmp_path / "model")
    assert tree(tmp_path) == before


def test_a_pretrained_folder_that_fails_its_check_leaves_nothing(
    finished_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(checks, "relative_difference", lambda found, expected: 1.0)
    with pytest.raises(ExportError, match="differs"):
        export_lib.export_encoder(
            finished_run, tmp_path / "pretrained", file_format="pretrained"
        )
    assert list(tmp_path.iterdir()) == []
