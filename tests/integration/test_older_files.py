"""What the code before the rooms wrote opens, with the numbers that it had.

`tests/data/before_rooms/README.md` says which commit wrote the files, and how. Data are
compared bit for bit.
"""

import hashlib
import json
import pathlib
import shutil
import tarfile

import numpy as np
import pytest

from cola_msa.collection.search.index import load_index
from cola_msa.collection.table.read import load_embeddings
from cola_msa.evaluation.probes.finetune import load_tuned
from cola_msa.hub import pretrained
from cola_msa.hub.loading import from_pretrained, open_model
from cola_msa.pairs.sampler import PairSampler
from cola_msa.records.prepared import PreparedData
from cola_msa.records.reader import WindowReader
from cola_msa.records.windows import plan_windows
from cola_msa.reproduction.report.results import read_result
from cola_msa.runs import directory, kept, network
from cola_msa.values.arrays import read_arrays
from data_prep.checks import prepared as checks
from data_prep.stems import separator as separator_lib
from tests.data_prep.conftest import openunmix  # noqa: F401
from tests.data_prep.datasets.test_datasets import execute
from tests.helpers.forked import Forks

DATA = pathlib.Path(__file__).parents[1] / "data" / "before_rooms"
# The address that the download in the cache came from; nothing is there any more.
# Where it lay when it was opened and cached: the cache knows it by this address.
_CACHED = pathlib.PurePosixPath("/", "tmp", "before_rooms", "handed_on.tar.gz")
ADDRESS = _CACHED.as_uri()
SONGS = [f"songs/song {k}.flac" for k in range(3)]
EXPORTS = ("saved_model", "onnx", "tflite")
TRAIN = (
    "--data_dir=prepared",
    "--preset=smoke",
    "--source=multi",
    "--batch_size=2",
    "--steps=4",
    "--updates_per_step=2",
    "--warmup_updates=2",
    "--deterministic",
    "--threads=1",
    "--validate_every_steps=2",
    "--statistics_batches=2",
    "--checkpoint_every_steps=1",
    "--max_to_keep=1",
    "--keep_steps=2",
)


def assert_computed(found, expected, tolerance: float = 1e-5):
    """Relative to the largest value.

    Processors add the products of a convolution in different orders (with AVX2 other
    than with AVX-512), so that last bits differ between machines; on one machine old
    and new code were found equal bit for bit.
    """
    assert found.shape == expected.shape
    limit = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def sha256(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> pathlib.Path:
    """All of them, unpacked; tests that write take a copy."""
    folder = tmp_path_factory.mktemp("before_rooms")
    with tarfile.open(DATA / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def stated() -> dict:
    return json.loads((DATA / "expected.json").read_text())


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(DATA / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def work(files, tmp_path, monkeypatch):
    """Copies parts of the files into the current folder."""
    monkeypatch.chdir(tmp_path)

    def copy(*names: str) -> pathlib.Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(files / name, tmp_path / name)
        return tmp_path

    return copy


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    found = Forks(tmp_path_factory.mktemp("forks"))
    yield found
    found.close()


def run(forks, folder: pathlib.Path, *arguments: str) -> str:
    """Runs a command in a folder; what it printed."""
    code, log = forks.run(*arguments, setup=f"import os; os.chdir({str(folder)!r})")
    assert code == 0, log
    return log


# Prepared folders ---------------------------------------------------------------------


def pair_batches(files) -> list[dict[str, np.ndarray]]:
    config = directory.load_config(files / "runs/finished")
    data = PreparedData(files / "prepared", config.frontend)
    sampler = PairSampler(data, config.train, "train", -11.5)
    return [sampler.batch(update) for update in range(8)]


def test_a_prepared_folder(files, stated):
    folder = files / "prepared"
    assert checks.verify(folder, num_workers=1)[1] == []
    data = PreparedData(folder)
    assert list(data.log_mel_moments) == stated["log_mel_moments"]
    for split, digest in stated["windows"].items():
        plan = plan_windows(data, [split])
        reader = WindowReader(plan.paths, 98, 64)
        assert sha256(reader.read(plan.shard, plan.byte_offset)) == digest, split
        reader.close()
    names = ("anchor", "positive", "is_active", "source")
    batches = pair_batches(files)
    assert (
        sha256(*(batch[name] for batch in batches for name in names))
        == (stated["pairs"])
    )


# What holds an encoder ----------------------------------------------------------------


@pytest.fixture(scope="module")
def windows(files) -> tuple[np.ndarray, np.ndarray]:
    """Of mixtures and of stems, float32 [4, 98, 64, 1]."""
    batches = pair_batches(files)[:2]
    return tuple(
        np.concatenate([batch[name] for batch in batches]).astype(np.float32)
        for name in ("anchor", "positive")
    )


@pytest.mark.parametrize(
    "name", ["runs/finished", "runs/stopped", "pretrained", *EXPORTS]
)
def test_what_holds_an_encoder(name, files, stated, expected, windows):
    model = open_model(files / name)
    name = name.replace("/", "_")
    assert model.key == stated["keys"][name]
    assert_computed(model.embed(windows[0]), expected[f"{name}_embedding"])
    if f"{name}_scores" in expected:
        scores = model.matcher.score(*map(model.matcher.project, windows))
        assert_computed(scores, expected[f"{name}_scores"])
    else:
        assert model.matcher is None


@pytest.mark.parametrize("step", [0, "best"])
def test_kept_steps_of_a_run(step, files, expected, windows):
    model = open_model(files / "runs/finished", step)
    found = model.embed(windows[0])
    assert_computed(found, expected[f"runs_finished_{step}_embedding"])


def test_weights_of_a_run_and_a_pretrained_folder(files):
    """They are those of the file, bit for bit, but for batch-norm statistics."""
    arrays = read_arrays(files / "runs/finished/kept/step-00000004.npz")
    models = (
        kept.load_model(files / "runs/finished"),
        pretrained.load_model(files / "pretrained"),
    )
    for model in models:
        statistics = [
            variable
            for layer in model.batch_norm_layers()
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        restored = {id(variable) for variable in statistics}
        for number, variable in enumerate(model.variables):
            if id(variable) not in restored:
                name = network.array_name("model", number, variable)
                np.testing.assert_array_equal(np.array(variable), arrays[name], name)
        found = [arrays[name] for name in sorted(arrays) if "/anchors/" in name]
        assert sha256(*statistics) == sha256(*found)


def test_a_download_in_the_cache(files, monkeypatch, stated):
    monkeypatch.setenv("COLA_MSA_CACHE", str(files / "cache"))
    found = from_pretrained(ADDRESS)
    assert found.path.parent == files / "cache"
    assert found.key == stated["keys"]["pretrained"]


def test_a_tuned_encoder(files, expected, windows):
    folder = files / "runs/finished/eval/folder-finetuned"
    encoder, head = load_tuned(folder / "tuned-seed-0.keras")
    logits = head(encoder(windows[0], training=False), training=False)
    assert_computed(np.array(logits), expected["tuned_logits"])


# Runs ---------------------------------------------------------------------------------


def test_an_unfinished_run_ends_with_the_weights_of_one_that_was_never_stopped(
    forks, work, files
):
    folder = work("prepared", "runs/stopped")
    log = run(forks, folder, "cola_msa.train", "--run_dir=runs/stopped", *TRAIN)
    assert "going on at update 4 of 8" in log
    for path in sorted((files / "runs/finished/kept").iterdir()):
        found = read_arrays(folder / "runs/stopped/kept" / path.name)
        whole = read_arrays(path)
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            if value.dtype.kind == "f":  # rounding grows over four more updates
                assert_computed(found[name], value, tolerance=1e-4)
            else:
                assert found[name].tolist() == value.tolist(), name


def test_results_of_a_run_and_its_embedding_cache(forks, work):
    """Judged again the run has the same scores, of embeddings that it kept."""
    folder = work("prepared", "runs/finished")
    old = folder / "runs/finished/eval/folder"
    assert read_result(old).load_scores().scores.shape == (2, 4, 2)
    before = json.loads((old / "results.json").read_text())
    scores = dict(np.load(old / "clip_scores.npz"))
    cached = sorted((folder / "runs/finished/embeddings").iterdir())
    contents = [(path.read_bytes(), path.stat().st_mtime_ns) for path in cached]
    arguments = ("--task=folder", "--run_dir=runs/finished", "--data_dir=prepared")
    run(forks, folder, "cola_msa.eval", *arguments, "--seeds=2")
    assert contents == [(p.read_bytes(), p.stat().st_mtime_ns) for p in cached]
    found = dict(np.load(old / "clip_scores.npz"))
    assert found.keys() == scores.keys()
    for name, value in scores.items():
        if value.dtype.kind == "f":
            assert_computed(found[name], value)
        else:
            assert found[name].tolist() == value.tolist(), name
    after = json.loads((old / "results.json").read_text())
    assert after.keys() == before.keys()
    for name in before.keys() - {"heads"}:  # heads: also how many seconds each took
        found, expected = after[name], before[name]
        if isinstance(expected, dict):  # later versions say more
            found = {key: found[key] for key in expected}
        assert found == expected, name


# Collections --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".h5"])
def test_files_of_embeddings(suffix, files):
    for name, num_rows in (("clips", 3), ("windows", 10)):
        found = load_embeddings(files / f"embeddings/{name}{suffix}", per_clip=False)
        with np.load(files / f"embeddings/{name}.npz") as raw:
            assert found.embeddings.shape == (num_rows, 64)
            np.testing.assert_array_equal(found.embeddings, raw["embedding"])
            np.testing.assert_array_equal(found.starts, raw["start"])
            np.testing.assert_array_equal(found.seconds, raw["seconds"])
            assert list(found.paths) == raw["path"].tolist()
            assert list(found.sha256) == raw["sha256"].tolist()
            assert found.metadata == json.loads(str(raw["metadata"]))


def test_embedding_again_keeps_every_row(forks, work):
    folder = work("runs/finished", "songs", "embeddings")
    path = folder / "embeddings/clips.npz"
    before = path.read_bytes()
    arguments = ("--model=runs/finished", "--input=songs")
    log = run(forks, folder, "cola_msa.embed", *arguments, f"--output={path}")
    assert "skipped 3 files whose content was embedded before" in log
    assert path.read_bytes() == before


def test_an_interrupted_embed_goes_on(forks, work, files):
    folder = work("runs/finished", "songs", "embeddings")
    path = folder / "embeddings/stopped.npz"
    arguments = ("--model=runs/finished", "--input=songs", f"--output={path}")
    log = run(forks, folder, "cola_msa.embed", *arguments)
    assert "skipped 2 files whose content was embedded before" in log
    assert not path.with_name("stopped.npz.work").exists()
    found = load_embeddings(path)
    finished = np.fromfile(files / "embeddings/stopped.npz.work/rows.f32", "<f4")
    assert sha256(found.embeddings[:2]) == sha256(finished)
    whole = load_embeddings(files / "embeddings/clips.npz")
    assert found.paths == whole.paths
    assert_computed(found.embeddings, whole.embeddings)


def test_a_search_index(forks, work, files):
    index = load_index(files / "index.npz")
    clips = load_embeddings(files / "embeddings/clips.npz")
    np.testing.assert_array_equal(index.table.embeddings, clips.embeddings)
    assert index.table.paths == clips.paths and index.metric == "cosine"
    folder = work("songs")
    arguments = (f"--index={files / 'index.npz'}", f"--file={SONGS[0]}", "--json")
    log = run(forks, folder, "cola_msa.search", "query", *arguments)
    (answer,) = json.loads(log[log.index("[\n") :])
    assert [row["path"] for row in answer["results"]] == [SONGS[1], SONGS[2]]
    scores = np.array([row["score"] for row in answer["results"]])
    assert_computed(scores, np.array([0.9168306420931313, 0.8348413047517468]))


# Stems that were separated ------------------------------------------------------------


def test_a_cache_of_stems(openunmix, work, monkeypatch, capsys):  # noqa: F811
    """It is found by the file, the weights and the settings; nothing is separated."""
    folder = work("one", "weights", "stems_cache")

    def start(*_):
        pytest.fail("separated again")

    monkeypatch.setattr(separator_lib.Separator, "start", start)
    flags = ("--split_by=clip", "--validation_share=0", "--clips_per_shard=1")
    cache = "--stems_cache=stems_cache"
    stems = (f"--separator={folder / 'weights'}", cache)
    assert execute("folder", folder / "one", folder / "out", *stems, *flags) == 0
    data = PreparedData(folder / "out")
    assert data.manifest["failures"] == []
    assert data.index("train").has_stem.all()
