"""Which tracks a map shows, and their embeddings, read in blocks."""

import numpy as np
import pytest

from cola_msa.collection import labels as labels_lib
from cola_msa.collection.map import write
from cola_msa.collection.map.layout import MapError
from cola_msa.collection.map.tracks import read_tracks
from cola_msa.collection.table import clips
from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.collection.table.read import load_embeddings
from cola_msa.system.errors import UsageError
from tests.helpers import embedding_tables
from tests.helpers.map_pages import read_page


def windows(num_clips, per_clip, order, dim=6):
    """Columns of windows; clips one after the other, or all mixed."""
    columns = embedding_tables.sample_columns(num_clips, dim)
    rows = np.repeat(np.arange(num_clips), per_clip)
    random = np.random.default_rng(1)
    if order == "mixed":
        random.shuffle(rows)
    return {
        "path": [columns["path"][n] for n in rows],
        "sha256": [columns["sha256"][n] for n in rows],
        "start": np.arange(len(rows), dtype=float),
        "seconds": np.ones(len(rows)),
        "embedding": random.normal(size=(len(rows), dim)).astype(np.float32),
    }


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".h5"])
@pytest.mark.parametrize("order", ["sorted", "mixed"])
@pytest.mark.parametrize("clip_embedding", ["mean", "moments"])
@pytest.mark.parametrize("per_clip", [1, 7])
def test_tracks_are_the_clips_of_the_table(
    tmp_path, monkeypatch, suffix, order, clip_embedding, per_clip
):
    monkeypatch.setattr(clips, "_BLOCK_BYTES", 8 * 6 * 4)  # four rows
    path = tmp_path / f"e{suffix}"
    metadata = {"per": "window", "clip_embedding": clip_embedding}
    embedding_tables.write(path, windows(9, per_clip, order), metadata)
    wanted = load_embeddings(path)
    found = read_tracks(path)
    assert found.paths == found.all_paths == wanted.paths and not found.is_sample
    np.testing.assert_array_equal(found.embeddings, wanted.embeddings)
    some = read_tracks(path, sample=4, seed=2)
    assert some.is_sample and some.all_paths == wanted.paths
    assert len(some.paths) == 4 and (np.diff(some.numbers) > 0).all()
    assert some.paths == tuple(wanted.paths[n] for n in some.numbers)
    np.testing.assert_array_equal(some.embeddings, wanted.embeddings[some.numbers])


def test_a_sample_is_the_seed_s(tmp_path):
    path = embedding_tables.write(
        tmp_path / "e.npz", embedding_tables.sample_columns(200)
    )
    numbers = {seed: read_tracks(path, 50, seed).numbers.tolist() for seed in (0, 1)}
    assert numbers[0] == read_tracks(path, 50, 0).numbers.tolist() != numbers[1]
    assert read_tracks(path, sample=200).numbers.tolist() == list(range(200))
    assert not read_tracks(path, sample=1000).is_sample


def test_too_many_tracks_are_refused_with_a_way_out(tmp_path):
    path = embedding_tables.write(
        tmp_path / "e.npz", embedding_tables.sample_columns(30)
    )
    with pytest.raises(MapError) as refused:
        write.write_map(path, tmp_path / "m.html", most=20)
    message = str(refused.value)
    assert message == (
        f"{path}: 30 tracks, and a map shows at most 20: show a sample of them by "
        "--sample=20"
    )
    assert not (tmp_path / "m.html").exists()
    options = {"most": 20, "sample": 20, "projection": "pca"}
    write.write_map(path, tmp_path / "m.html", **options)
    page = (tmp_path / "m.html").read_text()
    assert "20 of 30 tracks, drawn at random, PCA of 16 dimensions" in page
    for sample in (0, 21):
        with pytest.raises(MapError, match="1 to 20 tracks"):
            read_tracks(path, sample=sample, most=20)


@pytest.mark.parametrize("sample", [None, 5])
def test_what_the_table_refuses_is_refused(tmp_path, sample):
    columns = embedding_tables.sample_columns(12)
    columns["embedding"][:, 3] = np.nan
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(EmbeddingFileError, match="is not finite"):
        read_tracks(path, sample)
    columns = embedding_tables.sample_columns(12)
    columns["path"][3] = columns["path"][4]
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    with pytest.raises(EmbeddingFileError, match="different sha256"):
        read_tracks(path, sample)
    none = {name: value[:0] for name, value in columns.items()}
    path = embedding_tables.write(tmp_path / "e.npz", none)
    with pytest.raises(EmbeddingFileError, match="holds no embedding"):
        read_tracks(path, sample)


def test_labels_of_a_sample_are_those_of_its_tracks(tmp_path):
    columns = embedding_tables.sample_columns(40)
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    rows = [
        f"{p},song {n},{'jazz' if n % 3 else 'rock'},{'one' if n == 39 else ''}"
        for n, p in enumerate(columns["path"])
    ]
    table = tmp_path / "l.csv"
    table.write_text("path,name,genre,rare\n" + "\n".join(rows) + "\n")
    numbers = read_tracks(path, 10, 0).numbers
    assert 39 not in numbers
    data = write.write_map(
        path, tmp_path / "m.html", sample=10, labels=table, projection="pca"
    )
    assert data.names == tuple(f"song {n}" for n in numbers)
    genre, folder, *_ = data.schemes
    assert (genre.name, folder.name) == ("genre", "Folder")  # none has a rare one
    wanted = ["jazz" if n % 3 else "rock" for n in numbers]
    assert [genre.groups[group] for group in genre.of] == wanted
    assert list(genre.groups) == sorted(set(wanted), key=lambda g: -wanted.count(g))


def test_labels_of_tag_are_taken_with_their_probabilities(tmp_path):
    table = tmp_path / "tags.csv"
    table.write_text("path,tags,rock\na.ogg,rock,0.9\nb.ogg,,0.2\nc.ogg,rock,0.6\n")
    found = labels_lib.read_labels(table, ["a.ogg", "b.ogg", "c.ogg"])
    taken = labels_lib.take_labels(found, np.array([1, 2]))
    likeliest, rock = taken.schemes
    assert [likeliest.groups[g] for g in likeliest.of] == ["no label", "rock"]
    assert likeliest.percent == rock.percent == (20, 60)
    assert rock.is_label and rock.of == (1, 0)


def test_a_page_with_a_server_has_no_neighbours_and_may_ask_it_alone(tmp_path):
    path = embedding_tables.write(
        tmp_path / "e.npz", embedding_tables.sample_columns(12)
    )
    options = {"server": "http://127.0.0.1:8765", "projection": "pca"}
    write.write_map(path, tmp_path / "m.html", **options)
    page = (tmp_path / "m.html").read_text()
    assert "connect-src http://127.0.0.1:8765;" in page
    data = read_page(tmp_path / "m.html")
    assert data["server"] == "http://127.0.0.1:8765" and data["neighbours"] is None
    assert data["num_neighbours"] == 10


@pytest.mark.parametrize(
    "server",
    [
        "",
        "8765",
        "http://a:0",
        "http://a:65536",
        "127.0.0.1:8765",
        "http://a b",
        "http://a;b",
        "http://a/b",
        "ftp://a",
    ]
    + ["http://[::1]:1", "http://u:p@host", 'http://"', "http://a\n"],
)
def test_what_is_no_address_of_a_server_is_refused(tmp_path, server):
    with pytest.raises(UsageError, match="--server"):
        write.write_map(tmp_path / "e.npz", tmp_path / "m.html", server=server)
