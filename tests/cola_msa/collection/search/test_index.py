"""The search command: index, queries by path and content, other encoders refused."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile

from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search import index as index_lib
from cola_msa.collection.search import query as query_lib
from cola_msa.collection.search.index import SearchError, build_index, load_index
from cola_msa.collection.search.neighbours import NeighbourError
from cola_msa.config.schema import FrontendConfig
from cola_msa.system import files
from cola_msa.system.errors import RunError
from tests.helpers import embedding_tables
from tests.helpers.commands import run_module
from tests.helpers.long_noise import LongNoise, Peak


@pytest.fixture
def index(tmp_path):
    columns = embedding_tables.sample_columns()
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    build_lib.build(str(path), str(tmp_path / "index.npz"), "cosine")
    return load_index(tmp_path / "index.npz")


def test_an_index_is_read_back_whole(index):
    columns = embedding_tables.sample_columns()
    assert list(index.table.paths) == columns["path"]
    assert list(index.table.sha256) == columns["sha256"]
    np.testing.assert_array_equal(index.table.embeddings, columns["embedding"])
    assert index.table.model_hash == embedding_tables.MODEL_HASH
    assert index.metric == "cosine"


def test_more_like_a_file_of_the_index(index):
    (answer,) = query_lib.query(index, ["music/album0/track 4.ogg"], 5, "sklearn")
    assert answer["in_index"]
    paths = [found["path"] for found in answer["results"]]
    assert len(paths) == 5 and "music/album0/track 4.ogg" not in paths
    # Clips of one folder were made alike.
    assert all(path.startswith("music/album0/") for path in paths)
    scores = [found["score"] for found in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    values = index.table.embeddings.astype(np.float64)
    own, best = values[4], values[index.table.paths.index(paths[0])]
    cosine = own @ best / np.linalg.norm(own) / np.linalg.norm(best)
    assert scores[0] == pytest.approx(cosine)


def test_files_are_found_however_their_names_are_composed(index):
    composed, decomposed = "m/caf\u00e9.ogg", "m/cafe\u0301.ogg"
    paths = (decomposed, *index.table.paths[1:])
    table = dataclasses.replace(index.table, paths=paths)
    assert index_lib.find_row(table, composed) == 0
    paths = (decomposed, composed, *index.table.paths[2:])
    table = dataclasses.replace(index.table, paths=paths)
    assert index_lib.find_row(table, composed) == 1
    both = tuple(f"{path}\u00e9" for path in paths)  # neither is as it was asked for
    table = dataclasses.replace(index.table, paths=both)
    assert index_lib.find_row(table, f"{composed}e\u0301") is None


def test_files_are_found_by_place_and_by_content(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = index.table
    assert index_lib.find_row(table, str(tmp_path / table.paths[3])) == 3
    assert index_lib.find_row(table, f"./music/../{table.paths[3]}") == 3
    moved = tmp_path / "moved.ogg"
    moved.write_bytes(b"sound")
    assert index_lib.find_row(table, str(moved)) is None
    digest = files.file_sha256(moved)
    hashes = (*table.sha256[:5], digest, *table.sha256[6:])
    object.__setattr__(table, "sha256", hashes)
    assert index_lib.find_row(table, str(moved)) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"nothing"), "damaged"),
        (lambda p: np.savez(p, path=np.zeros(2)), "not an index"),
        (lambda p: None, "there is no such index"),
    ],
)
def test_other_files_are_no_index(tmp_path, make, message):
    path = tmp_path / "index.npz"
    make(path)
    with pytest.raises(ValueError, match=message):
        load_index(path)


_QUERY = """
import pathlib, resource, sys
from sklearn import neighbors
from cola_msa.collection.search import index, query

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

before = peak()
table = index.load_index(pathlib.Path(sys.argv[1]))
(answer,) = query.query(table, ["track 7"], 5, sys.argv[2])
assert "tensorflow" not in sys.modules
print(peak() - before, answer["results"][0]["path"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux")
@pytest.mark.parametrize("backend", ["sklearn", "faiss"])
def test_a_query_holds_a_part_of_the_index(tmp_path, backend):
    """Loading it whole takes five times its size: the values, in float64, as units."""
    if backend == "faiss" and importlib.util.find_spec("faiss") is None:
        pytest.skip("no FAISS: pip install 'cola_msa[search]'")
    num_rows, dim = 40_000, 512
    values = np.random.default_rng(0).standard_normal((num_rows, dim), np.float32)
    values[31_000] = values[7] + 0.01
    columns = {
        "path": [f"track {row}" for row in range(num_rows)],
        "sha256": ["0" * 64] * num_rows,
        "start": np.zeros(num_rows),
        "seconds": np.ones(num_rows),
        "embedding": values,
    }
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    build_lib.build(str(path), str(tmp_path / "index.npz"), "cosine")
    found = subprocess.run(
        [sys.executable, "-c", _QUERY, tmp_path / "index.npz", backend],
        capture_output=True,
        text=True,
        check=True,
    )
    megabytes, best = found.stdout.split(maxsplit=1)
    assert best.strip() == "track 31000"
    assert int(megabytes) < 2 * values.nbytes >> 20


def test_what_cannot_be_searched_is_said_before_anything_is_built(
    index, tmp_path, monkeypatch
):
    """Neither a model nor an index of neighbours: both take long."""
    monkeypatch.setattr(query_lib, "open_embedder", None)
    monkeypatch.setattr(query_lib.neighbours, "Neighbours", None)
    known, text = index.table.paths[0], tmp_path / "no.wav"
    text.write_text("no sound")
    with pytest.raises(SearchError, match=r"no\.wav: "):
        query_lib.query(index, [known, str(text)], 3, model="runs/any")
    with pytest.raises(SearchError, match="neither in the index nor a file"):
        query_lib.query(index, [known, "nowhere.wav"], 3, model="runs/any")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NeighbourError, match="needs FAISS"):
        query_lib.query(index, [known, "nowhere.wav"], 3, "faiss")


@pytest.mark.parametrize("name", ["embedding", "path"])
def test_an_index_whose_bytes_changed_is_refused(index, tmp_path, name):
    path = tmp_path / "index.npz"
    content = bytearray(path.read_bytes())
    place = content.find(f"{name}.npy".encode()) + 200
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(SearchError, match=f"CRC-32 for file '{name}.npy'.*again"):
        load_index(path)


def test_a_new_file_needs_the_model(index, tmp_path):
    path = tmp_path / "new.wav"
    soundfile.write(path, np.zeros(16000), 16000)
    with pytest.raises(SearchError, match="--model"):
        query_lib.query(index, [str(path)], 3)
    with pytest.raises(SearchError, match="neither in the index nor a file"):
        query_lib.query(index, ["nowhere.wav"], 3)


@pytest.fixture(scope="module")
def embedded(finished_run, tmp_path_factory):
    """Three files, embedded by the command's own function; and a fourth."""
    root = tmp_path_factory.mktemp("music")
    random = np.random.default_rng(0)
    for n in range(4):
        tone = np.sin(2 * np.pi * 200 * 2**n * np.arange(48000) / 16000)
        noisy = 0.3 * tone + 0.02 * random.normal(size=48000)
        soundfile.write(root / f"{n}.wav", noisy, 16000)
    from cola_msa.audio import decode
    from cola_msa.hub.embedder import Embedder
    from cola_msa.hub.loading import open_model

    model = open_model(finished_run)
    embedder = Embedder(model)
    rows = []
    for n in range(3):
        clip = decode.decode(root / f"{n}.wav")
        rows.append(embedder(clip.samples, clip.rate_hz))
    columns = {
        "path": [str(root / f"{n}.wav") for n in range(3)],
        "sha256": [files.file_sha256(root / f"{n}.wav") for n in range(3)],
        "start": np.zeros(3),
        "seconds": np.full(3, 3.0),
        "embedding": np.stack(rows),
    }
    metadata = {"model_hash": model.key}
    return root, embedding_tables.write(root / "e.h5", columns, metadata)


def test_a_new_file_is_embedded_as_the_collection_was(embedded, finished_run):
    root, path = embedded
    index = build_index(path, "cosine")
    copy = pathlib.Path(root / "copy.wav")
    samples, rate = soundfile.read(root / "1.wav", dtype="float32")
    soundfile.write(copy, samples, rate, subtype="FLOAT")  # the same sound, other bytes
    (answer,) = query_lib.query(index, [str(copy)], 3, model=str(finished_run))
    assert not answer["in_index"]
    assert answer["results"][0]["path"].endswith("1.wav")
    assert answer["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_another_encoder_is_refused(embedded, finished_run):
    root, path = embedded
    index = build_index(path, "cosine")
    index.table.metadata["model_hash"] = "f" * 16
    with pytest.raises(SearchError, match="not the encoder that made the index"):
        query_lib.query(index, [str(root / "3.wav")], 3, model=str(finished_run))
    del index.table.metadata["model_hash"]
    with pytest.raises(SearchError, match="does not say which encoder"):
        query_lib.query(index, [str(root / "3.wav")], 3, model=str(finished_run))


def test_the_command(tmp_path):
    columns = embedding_tables.sample_columns()
    embedding_tables.write(tmp_path / "e.parquet", columns)
    run = "cola_msa.search"
    arguments = ("--embeddings=e.parquet", "--output=index.npz")
    built = run_module(run, "build", *arguments, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "12 clips, 16 values each" in built.stdout
    file = "--file=music/album1/track 5.ogg"
    asked = run_module(run, "query", "--index=index.npz", file, "--json", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    (answer,) = json.loads(asked.stdout)
    assert len(answer["results"]) == 10
    table = run_module(
        run, "query", "--index=index.npz", file, "--num_results=2", cwd=tmp_path
    )
    assert "more like music/album1/track 5.ogg:" in table.stdout
    assert f"{answer['results'][0]['score']:.4f}" in table.stdout
    assert answer["results"][2]["path"] not in table.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "say python -m cola_msa.search build, query, add or serve"),
        (["build"], 2, "build needs --embeddings"),
        (["query"], 2, "query needs --index"),
        (["query", "--index=none.npz", "--file=a.wav"], 1, "there is no such index"),
    ],
)
def test_wrong_commands_are_one_line(tmp_path, arguments, code, message):
    found = run_module("cola_msa.search", *arguments, cwd=tmp_path)
    assert found.returncode == code
    assert message in found.stderr and "Traceback" not in found.stderr


class Forbidden:
    def __init__(self, *_, **__):
        raise AssertionError("built before the files were looked up")


def test_files_are_looked_up_before_anything_is_built(index, tmp_path, monkeypatch):
    monkeypatch.setattr("cola_msa.collection.search.neighbours.Neighbours", Forbidden)
    known = index.table.paths[0]
    with pytest.raises(SearchError, match="nowhere.wav is neither"):
        query_lib.query(index, [known, "nowhere.wav"], 3, model="no/such/model")
    with pytest.raises(SearchError, match="neither in the index nor a file"):
        query_lib.query(index, [str(tmp_path)], 3)
    file = tmp_path / "new.wav"
    soundfile.write(file, np.zeros(16000), 16000)
    with pytest.raises(SearchError, match="--model"):
        query_lib.query(index, [known, str(file)], 3)
    with pytest.raises(RunError, match="does not exist"):
        query_lib.query(index, [known, str(file)], 3, model="no/such/model")


@pytest.mark.parametrize("hop_seconds", [None, 0.25])
def test_a_new_file_gets_what_embed_would_give(
    embedded, finished_run, tmp_path, hop_seconds
):
    from cola_msa.collection.embed import embed_files
    from cola_msa.hub.loading import open_model

    root, _ = embedded
    paths = [str(root / f"{n}.wav") for n in range(4)]
    embed_files(
        paths,
        tmp_path / "e.npz",
        open_model(finished_run),
        hop_seconds=hop_seconds,
        num_workers=1,
        is_quiet=True,
    )
    index = build_index(tmp_path / "e.npz", "cosine")
    embed = query_lib.open_embedder(index, str(finished_run))
    for path, row in zip(paths, index.table.embeddings, strict=True):
        np.testing.assert_allclose(embed(path), row, rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_a_new_file(index, monkeypatch):
    """Windows overlap so much that their embeddings alone would be 60 MB."""
    monkeypatch.setattr("cola_msa.audio.decode.AudioReader", LongNoise)
    model = types.SimpleNamespace(
        frontend=FrontendConfig(),
        dim=1000,
        clip_embedding="mean",
        key=embedding_tables.MODEL_HASH,
        embed=lambda windows: np.full((len(windows), 1000), 0.5, np.float32),
    )
    monkeypatch.setattr("cola_msa.hub.loading.open_model", lambda path: model)
    index.table.metadata["hop_seconds"] = 0.04
    embed = query_lib.open_embedder(index, "model")
    with Peak() as peak:
        found = embed("long.wav")
    np.testing.assert_array_equal(found, np.full(1000, 0.5, np.float32))
    assert peak.bytes < 35e6 < LongNoise.num_bytes / 2


@pytest.mark.parametrize("hop_seconds", ["often", -1, float("nan"), [], 1e300])
def test_a_hop_that_is_none_is_named(index, monkeypatch, hop_seconds):
    key = embedding_tables.MODEL_HASH
    model = types.SimpleNamespace(
        frontend=FrontendConfig(), dim=4, key=key, clip_embedding="mean"
    )
    monkeypatch.setattr("cola_msa.hub.loading.open_model", lambda path: model)
    index.table.metadata["hop_seconds"] = hop_seconds
    with pytest.raises(SearchError, match="the index says that windows are"):
        query_lib.open_embedder(index, "model")


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_embeddings_in_place_of_an_index_are_called_so(tmp_path, suffix):
    path = tmp_path / f"songs.{suffix}"
    embedding_tables.write(path, embedding_tables.sample_columns())
    with pytest.raises(SearchError, match="holds embeddings, and no index yet"):
        load_index(path)
