"""The model for mteb: what it makes of batches, and mteb's own tasks where it is."""

import math
import sys
import types

import numpy as np
import pytest
import soundfile

import cola_msa.mteb
from cola_msa.hub.embedder import Embedder
from cola_msa.system.errors import UserError
from tests.cola_msa.audio.test_clip_windows import make_sound


class Decoder:
    """As torchcodec's AudioDecoder, as far as it is used.

    Samples are [channels, n] and begin after 0, as those of an MP3 do; where there are
    none there is an error. What was decoded is counted.
    """

    ORIGIN = 0.025

    def __init__(self, samples, rate_hz, file_hz=None):
        self.samples, self.rate_hz = samples, rate_hz
        self.metadata = types.SimpleNamespace(
            path="folder/song.ogg", sample_rate=file_hz or rate_hz
        )
        self.longest = 0

    def get_samples_played_in_range(self, start=0.0, stop=None):
        def row(seconds):
            return max(0, math.floor((seconds - self.ORIGIN) * self.rate_hz + 0.5))

        part = self.samples
        if stop is not None:
            part = part[:, row(start) : row(stop)]
        if stop and not part.size:
            raise RuntimeError("No audio frames\nwere decoded.")
        self.longest = max(self.longest, part.shape[1])
        return types.SimpleNamespace(
            data=types.SimpleNamespace(numpy=lambda: part),
            pts_seconds=max(start, self.ORIGIN),
            sample_rate=self.rate_hz,
        )

    def get_all_samples(self):
        return self.get_samples_played_in_range()


@pytest.fixture(scope="module")
def embedder(finished_run):
    return Embedder.from_pretrained(finished_run, batch_size=4)


def encode(embedder, *batches, **kwargs):
    model = cola_msa.mteb.MtebEncoder(embedder)
    kwargs = {"hf_split": "test", "hf_subset": "default", "batch_size": 2, **kwargs}
    task = types.SimpleNamespace(name="Styles")
    return model.encode(list(batches), task_metadata=task, **kwargs)


def clip(samples, rate_hz=16000):
    return {"array": samples, "sampling_rate": rate_hz}


def test_clips_of_any_kind_are_embedded_as_by_the_embedder(embedder):
    stereo = np.stack([make_sound(90_000, 1), make_sound(90_000, 2)])
    given = [
        (make_sound(16_000), 16000),
        (stereo, 44100),
        (make_sound(3), 16000),  # below one window
        (make_sound(200_000, 3).astype(np.float64), 22050),
        (make_sound(100_000, 4)[np.newaxis], 8000),
        (make_sound(40_000, 5), 48000.0),
        (np.zeros(20_000, np.float32), 16000),
    ]
    clips = [clip(*each) for each in given]
    # Lists and decoders are what data sets may hold instead.
    clips[0]["array"] = clips[0]["array"].tolist()
    clips[1] = Decoder(*given[1])
    found = encode(embedder, {"audio": clips[:3]}, {"audio": []}, {"audio": clips[3:]})
    expected = np.stack([embedder(*each) for each in given])
    assert found.dtype == np.float32
    assert found.shape == (7, embedder.clip_dim)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected[0], expected[1], rtol=1e-2)


def test_a_decoder_gives_channels_first_however_short_the_clip(embedder):
    found = encode(embedder, {"audio": [Decoder(np.full((2, 1), 0.5, "f4"), 16000)]})
    np.testing.assert_allclose(
        found[0], embedder(np.full(1, 0.5, "f4"), 16000), atol=1e-6
    )


@pytest.mark.parametrize("seconds", [1.0, 1.5, 4.0, 5.025, 100.0])
def test_a_decoder_gives_the_same_in_parts(embedder, monkeypatch, seconds):
    stereo = np.stack([make_sound(80_000, 1), make_sound(80_000, 2)])
    monkeypatch.setattr(cola_msa.mteb, "_DECODED_SECONDS", seconds)
    decoder = Decoder(stereo, 16000)
    found = encode(embedder, {"audio": [decoder]})
    np.testing.assert_array_equal(found[0], embedder(stereo, 16000))
    assert decoder.longest <= min(80_000, seconds * 16000 + 2)


def test_a_decoder_that_resamples_is_taken_whole(embedder, monkeypatch):
    monkeypatch.setattr(cola_msa.mteb, "_DECODED_SECONDS", 1.0)
    decoder = Decoder(make_sound(80_000)[np.newaxis], 16000, file_hz=44100)
    found = encode(embedder, {"audio": [decoder]})
    np.testing.assert_array_equal(found[0], embedder(make_sound(80_000), 16000))
    assert decoder.longest == 80_000


def test_no_batch_gives_no_rows(embedder):
    assert encode(embedder).shape == (0, embedder.clip_dim)


GOOD = clip(make_sound(16_000))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (clip(np.zeros(0, np.float32)), "has no sample"),
        (clip([]), "has no sample"),
        (clip(np.full(9, np.nan)), "infinite or not a number"),
        (clip(np.ones(9, np.int16)), "not floating point"),
        (clip([[0.1, 0.2], [0.3]]), "inhomogeneous"),
        (clip(make_sound(900), None), "it has no 'sampling_rate'"),
        (clip(make_sound(900), 0), "must be above 0"),
        (clip(make_sound(900), np.inf), "must be above 0"),
        ({"array": make_sound(900)}, "it has no 'sampling_rate'"),
        ({"sampling_rate": 16000}, "it has no 'array'"),
        (None, "NoneType"),
        (Decoder(np.zeros((1, 0)), 16000), "No audio frames were decoded"),
    ],
)
def test_a_clip_that_cannot_be_embedded_is_named(embedder, bad, reason):
    with pytest.raises(UserError, match=reason) as error:
        encode(embedder, {"audio": [GOOD]}, {"audio": [bad, GOOD]})
    said = str(error.value)
    assert said.startswith("Styles, split test: clip 1") and "\n" not in said
    assert ("folder/song.ogg" in said) == isinstance(bad, Decoder)


def test_tasks_without_audio_and_other_types_are_refused(embedder):
    with pytest.raises(UserError, match="Styles, split test: has id, text, and this"):
        encode(embedder, {"text": ["a"], "id": ["b"]})
    with pytest.raises(UserError, match="precision is 'int8'"):
        encode(embedder, {"audio": [GOOD]}, precision="int8")
    encode(embedder, {"audio": [GOOD]}, precision="float32")


def test_progress_is_shown_only_where_it_is_wanted(embedder, capsys):
    encode(embedder, {"audio": [GOOD]}, show_progress_bar=False)
    assert not capsys.readouterr().err
    encode(embedder, {"audio": [GOOD]})
    assert "embedding" in capsys.readouterr().err


def test_without_mteb_the_error_says_what_to_do(finished_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UserError, match="mteb is not installed.*docs/embedding.md"):
        cola_msa.mteb.load_model(str(finished_run))


@pytest.fixture(scope="module")
def mteb():
    return pytest.importorskip("mteb", reason="mteb has an environment of its own")


def test_mtebs_own_mock_tasks_run(mteb, finished_run):
    model = cola_msa.mteb.load_model(str(finished_run))
    results = mteb.mock_run(model)
    ran = {name: status for name, status in results.items() if status is not None}
    assert len(ran) > 5 and all(hasattr(status, "scores") for status in ran.values())
    assert "MockAudioClassification" in ran


def test_mteb_is_told_what_the_encoder_is(mteb, finished_run):
    model = cola_msa.mteb.load_model(str(finished_run))
    meta = model.mteb_model_meta
    assert meta.name == f"cola_msa/{finished_run.name}"
    assert meta.revision == model.embedder.model.key
    assert meta.embed_dim == model.embedder.clip_dim and meta.modalities == ["audio"]
    assert meta.n_parameters > 0 and meta.license is None
    starter = cola_msa.mteb.load_model("starter").mteb_model_meta
    assert (starter.name, starter.license) == ("cola_msa/starter", "apache-2.0")
    assert starter.revision != meta.revision


def test_a_data_set_of_files_gives_the_embeddings_of_the_files(
    mteb, embedder, tmp_path, monkeypatch
):
    from datasets import Audio, Dataset
    from mteb._create_dataloaders import create_dataloader
    from mteb.mocks.mock_tasks import MockAudioClassification

    paths, expected = [], []
    sound = np.stack([make_sound(100_000, 1), make_sound(100_000, 2)])
    for name, rate_hz in (("a.wav", 16000), ("b.flac", 22050), ("c.mp3", 44100)):
        paths.append(str(tmp_path / name))
        soundfile.write(paths[-1], sound.T, rate_hz)
        whole = Audio().decode_example({"path": paths[-1], "bytes": None})
        samples = whole.get_all_samples().data.numpy()
        assert abs(samples.shape[1] - 100_000) < 2000
        expected.append(embedder(samples, rate_hz))
    monkeypatch.setattr(cola_msa.mteb, "_DECODED_SECONDS", 0.7)
    task = MockAudioClassification()
    data = Dataset.from_dict({"audio": paths, "label": [0, 1, 0]})
    for audio, tolerance in ((Audio(), 1e-5), (Audio(sampling_rate=16000), 0.05)):
        loader = create_dataloader(
            data.cast_column("audio", audio),
            task_metadata=task.metadata,
            batch_size=2,
        )
        found = cola_msa.mteb.MtebEncoder(embedder).encode(
            loader, task_metadata=task.metadata, hf_split="test", hf_subset="default"
        )
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=tolerance * scale)
