"""Files of embeddings that others wrote are taken by content; bad ones are one line."""

import json
import pathlib
import resource
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from cola_msa.collection.map import write as write_lib
from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search.index import SearchError, load_index
from cola_msa.collection.table.checks import FREE_BYTES, EmbeddingFileError
from cola_msa.collection.table.earlier import Earlier
from cola_msa.collection.table.read import load_embeddings
from cola_msa.collection.table.write import OutputError, Table, write_table
from tests.helpers import embedding_tables

SUFFIXES = (".parquet", ".npz", ".h5")


def sample(num_clips: int = 12, dim: int = 16) -> dict:
    """Values that float16 holds, too, so that every width gives the same."""
    columns = embedding_tables.sample_columns(num_clips, dim)
    columns["embedding"] = columns["embedding"].astype(np.float16).astype(np.float32)
    return columns


def arrow(columns: dict, **types) -> pyarrow.Table:
    """A table of plain types, or of those given by column."""
    types = {"embedding": pyarrow.list_(pyarrow.float32()), **types}
    arrays = {}
    for name, values in columns.items():
        kind = types.get(name)
        if name == "embedding":
            widths = {"halffloat": "f2", "float": "f4", "double": "f8"}
            values = [np.asarray(v, widths[str(kind.value_type)]) for v in values]
        if pyarrow.types.is_dictionary(kind or pyarrow.null()):
            arrays[name] = pyarrow.array(values, kind.value_type).cast(kind)
        else:
            arrays[name] = pyarrow.array(values, kind)
    return pyarrow.table(arrays)


def refusal(path: pathlib.Path) -> str:
    with pytest.raises(EmbeddingFileError) as caught:
        load_embeddings(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


def assert_same(path: pathlib.Path, columns: dict) -> None:
    found = load_embeddings(path)
    assert list(found.paths) == list(columns["path"])
    assert list(found.sha256) == list(columns["sha256"])
    assert all(type(name) is str for name in (*found.paths, *found.sha256))
    for name, values in (("start", found.starts), ("seconds", found.seconds)):
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, np.asarray(columns[name], float))
    assert found.embeddings.dtype == np.float32
    np.testing.assert_array_equal(found.embeddings, columns["embedding"])


# Parquet ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
@pytest.mark.parametrize("groups", [None, 5])
def test_lists_of_every_kind_are_embeddings(tmp_path, width, kind, groups):
    columns = sample()
    value = getattr(pyarrow, f"float{width}")()
    kinds = {
        "list": pyarrow.list_(value),
        "large_list": pyarrow.large_list(value),
        "fixed": pyarrow.list_(value, 16),
    }
    table = arrow(columns, embedding=kinds[kind])
    parquet.write_table(table, tmp_path / "e.parquet", row_group_size=groups)
    assert_same(tmp_path / "e.parquet", columns)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.large_string(),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.uint8(), pyarrow.large_string()),
    ],
)
@pytest.mark.parametrize("number", [pyarrow.float32(), pyarrow.int64(), "decimal"])
def test_texts_and_numbers_of_every_kind(tmp_path, kind, number):
    columns = sample()
    columns["path"][3] = "music/café\u2028.ogg"
    columns["path"][5] = columns["path"][4]  # an average, and a dictionary's use
    columns["sha256"][5] = columns["sha256"][4]
    columns["embedding"][5] = columns["embedding"][4]
    number = pyarrow.decimal128(4, 1) if number == "decimal" else number
    given = dict(columns)
    if kind in (pyarrow.binary(), pyarrow.large_binary()):
        given |= {n: [v.encode() for v in columns[n]] for n in ("path", "sha256")}
    table = arrow(given, path=kind, sha256=kind).to_pydict()
    table = pyarrow.table(
        {
            "path": arrow(given, path=kind)["path"],
            "sha256": arrow(given, sha256=kind)["sha256"],
            "start": pyarrow.array(columns["start"]).cast(number),
            "seconds": pyarrow.array(columns["seconds"]).cast(number),
            "embedding": pyarrow.array(table["embedding"]),
        }
    )
    parquet.write_table(table, tmp_path / "e.parquet", row_group_size=5)
    kept = [row for row in range(12) if row != 5]
    assert_same(
        tmp_path / "e.parquet",
        {n: [v[row] for row in kept] for n, v in columns.items()},
    )


def test_order_index_further_columns_and_lost_metadata_are_no_matter(tmp_path):
    columns = sample()
    table = arrow(columns)
    table = table.append_column("__index_level_0__", pyarrow.array(range(12)))
    table = table.append_column("path.x", pyarrow.array([[1, 2]] * 12))
    parquet.write_table(table.select(table.column_names[::-1]), tmp_path / "e.parquet")
    assert_same(tmp_path / "e.parquet", columns)
    assert load_embeddings(tmp_path / "e.parquet").model_hash is None


def test_tensors_and_windows_are_read(tmp_path):
    columns = sample()
    flat = pyarrow.array(columns["embedding"].ravel())
    storage = pyarrow.FixedSizeListArray.from_arrays(flat, 16)
    kind = pyarrow.fixed_shape_tensor(pyarrow.float32(), [16])
    tensor = pyarrow.ExtensionArray.from_storage(kind, storage)
    table = arrow(columns).drop_columns("embedding").append_column("embedding", tensor)
    parquet.write_table(table, tmp_path / "e.parquet")
    assert_same(tmp_path / "e.parquet", columns)


def with_pandas(source: pathlib.Path, target: pathlib.Path) -> None:
    frame = pytest.importorskip("pandas").read_parquet(source)
    frame[frame.seconds > 1].to_parquet(target)


def with_polars(source: pathlib.Path, target: pathlib.Path) -> None:
    pytest.importorskip("polars").read_parquet(source).write_parquet(target)


def with_duckdb(source: pathlib.Path, target: pathlib.Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    duckdb.sql(f"COPY (FROM '{source}' WHERE seconds > 1) TO '{target}'")


@pytest.mark.parametrize("write", [with_pandas, with_polars, with_duckdb])
def test_what_other_programs_write_is_read(tmp_path, write):
    embedding_tables.write(tmp_path / "e.parquet", sample())
    write(tmp_path / "e.parquet", tmp_path / "other.parquet")
    assert_same(tmp_path / "other.parquet", sample())


def test_search_and_map_take_a_foreign_table(tmp_path):
    columns = sample()
    parquet.write_table(arrow(columns), tmp_path / "e.parquet")
    said = build_lib.build(
        str(tmp_path / "e.parquet"), str(tmp_path / "i.npz"), "cosine"
    )
    assert "12 clips, 16 values" in said and "model not recorded" in said
    data = write_lib.write_map(tmp_path / "e.parquet", tmp_path / "m.html")
    assert list(data.paths) == columns["path"]


EMPTY = pyarrow.array([[], []], pyarrow.list_(pyarrow.float32()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": [[1.0, 2.0], [1.0]]}, "column embedding: row 2 has 1 values"),
        ({"embedding": [[1.0, 2.0], None]}, "column embedding: row 2 is null"),
        ({"embedding": [[1.0, 2.0], [1.0, None]]}, "embedding: row 2 holds a null"),
        ({"embedding": EMPTY}, "column embedding: it has no values"),
        ({"embedding": [[1.0, 2.0], [np.nan, 1]]}, "embedding: the value of b is not"),
        ({"embedding": [[1.0, 2.0], [1e300, 1]]}, "embedding: the value of b is not"),
        ({"embedding": [["a"], ["b"]]}, "embedding is list.*string.*not lists of num"),
        ({"embedding": [[True], [True]]}, "embedding is list.*bool.*, not lists of"),
        ({"embedding": [[[1.0]], [[1.0]]]}, "embedding is list.*list.*not lists of"),
        ({"embedding": [1.0, 2.0]}, "embedding is double, not lists of numbers"),
        ({"path": [1, 2]}, "column path is int64, not text"),
        ({"path": [None, None]}, "column path is null, not text"),
        ({"path": ["a", None]}, "column path: 1 nulls"),
        ({"path": [b"a", b"\xff"]}, "column path, row 2: not UTF-8"),
        ({"path": ["a", "b" * 70_000]}, "column path, row 2: 70,000 characters"),
        ({"sha256": ["a", None]}, "column sha256: 1 nulls"),
        ({"start": [0.0, None]}, "column start: 1 nulls"),
        ({"start": ["0", "1"]}, "column start is string, not numbers"),
        ({"start": [True, True]}, "column start is bool, not numbers"),
        ({"seconds": [1.0, np.nan]}, "column seconds: the value of b is not finite"),
    ],
)
@pytest.mark.parametrize("group_size", [None, 1])
def test_bad_parquet_is_named_by_column(tmp_path, change, message, group_size):
    good = {
        "path": ["a", "b"],
        "sha256": ["1", "2"],
        "start": [0.0, 0.0],
        "seconds": [1.0, 1.0],
        "embedding": [[1.0, 2.0], [3.0, 4.0]],
    }
    table = pyarrow.table({n: pyarrow.array(v) for n, v in {**good, **change}.items()})
    parquet.write_table(table, tmp_path / "e.parquet", row_group_size=group_size)
    with pytest.raises(EmbeddingFileError, match=message):
        load_embeddings(tmp_path / "e.parquet")
    refusal(tmp_path / "e.parquet")


def test_parquet_without_rows_or_with_a_column_twice_is_refused(tmp_path):
    table = arrow(sample())
    parquet.write_table(table.slice(0, 0), tmp_path / "e.parquet")
    assert "holds no embedding" in refusal(tmp_path / "e.parquet")
    twice = table.append_column("path", table["path"])
    parquet.write_table(twice, tmp_path / "e.parquet")
    assert "column path is there twice" in refusal(tmp_path / "e.parquet")


ENCODINGS = ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", None]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_texts_of_every_encoding_are_read(tmp_path, encoding):
    options = {"use_dictionary": ["path"]}
    if encoding:  # as DuckDB writes it
        options = {"use_dictionary": False, "column_encoding": {"path": encoding}}
    path = tmp_path / "e.parquet"
    parquet.write_table(arrow(sample()), path, row_group_size=5, **options)
    assert_same(path, sample())


# What fills memory -------------------------------------------------------------------


@pytest.fixture
def little_memory():
    """Fails what would take 600 MB more than now: an allocation, before it is used."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = used * resource.getpagesize() + (600 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def put_array(path: pathlib.Path, name: str, array: np.ndarray) -> None:
    """Puts another array into a .npz."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    del members[f"{name}.npy"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)


def test_a_parquet_that_unpacks_to_gigabytes_is_refused(tmp_path, little_memory):
    rows = 4_000_000
    zeros = pyarrow.array(np.zeros(rows * 2, np.float32))
    table = pyarrow.table(
        {
            "path": pyarrow.array(np.zeros(rows, np.int8)).cast(pyarrow.string()),
            "sha256": pyarrow.array(np.zeros(rows, np.int8)).cast(pyarrow.string()),
            "start": np.zeros(rows),
            "seconds": np.zeros(rows),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(zeros, 2),
        }
    )
    parquet.write_table(table, tmp_path / "e.parquet", compression="zstd")
    assert (tmp_path / "e.parquet").stat().st_size < 4 << 20
    assert "unpack to" in refusal(tmp_path / "e.parquet")


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", None])
def test_a_long_path_of_many_rows_is_in_memory_once(tmp_path, encoding, little_memory):
    rows, long = 20_000, "x" * 60_000  # 1.2 GB
    random = np.random.default_rng(0)
    table = {
        "path": pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int8), [long]),
        "sha256": pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int8), ["a"]),
        "start": pyarrow.array(np.arange(rows, dtype=float)),
        "seconds": pyarrow.array(np.ones(rows)),
        "embedding": pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(random.normal(size=rows * 20).astype(np.float32)), 20
        ),
    }
    path = tmp_path / "e.parquet"
    schema = pyarrow.table({n: v[:0] for n, v in table.items()}).schema
    options = {}
    if encoding:
        schema = schema.set(0, pyarrow.field("path", pyarrow.string()))
        names = ["sha256", "start", "seconds"]
        options = {"use_dictionary": names, "column_encoding": {"path": encoding}}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for first in range(0, rows, 1000):
            part = {n: v[first : first + 1000] for n, v in table.items()}
            writer.write_table(pyarrow.table(part).cast(schema), row_group_size=rows)
    found = load_embeddings(path, per_clip=False)
    assert len(found.paths) == rows and set(found.paths) == {long}


def test_an_npz_that_unpacks_to_gigabytes_is_refused(tmp_path, little_memory):
    path = embedding_tables.write(tmp_path / "e.npz", sample())
    put_array(path, "embedding", np.zeros((12, FREE_BYTES // 40), np.float32))
    assert "unpack to" in refusal(path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("embedding", (10**12, 16), "embedding.npy is not as long as it says"),
        ("embedding", (12, -16), "embedding.npy is not as long as it says"),
        ("path", (10**12,), "path.npy is not as long as it says"),
    ],
)
def test_an_npz_of_a_shape_that_is_not_there_is_refused(
    tmp_path, little_memory, name, shape, message
):
    path = embedding_tables.write(tmp_path / "e.npz", sample())
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    kind = "<f4" if name == "embedding" else "<U0"
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            with archive.open(member, "w") as file:
                if member == f"{name}.npy":
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(b"" if kind == "<U0" else bytes(100))
                else:
                    file.write(content)
    if kind == "<U0":  # it needs no bytes: the rows tell
        message = "column path has 1,000,000,000,000 rows"
    assert message in refusal(path)


def h5_with(path: pathlib.Path, name: str, make) -> pathlib.Path:
    """A good .h5, but for one column, which `make` makes."""
    embedding_tables.write(path, sample())
    with h5py.File(path, "a") as file:
        values = file[name][()]
        del file[name]
        make(file, name, values)
    return path


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("num_others", [0, 20])  # many lie in a heap of their own
@pytest.mark.parametrize("is_fixed", [False, True])
def test_metadata_of_h5_lies_anywhere(tmp_path, libver, num_others, is_fixed):
    path, columns = tmp_path / "e.h5", sample()
    text = json.dumps({"model_hash": embedding_tables.MODEL_HASH})
    with h5py.File(path, "w", libver=libver, track_order=True) as file:
        for number in range(num_others):
            file.attrs[f"other{number}"] = "metadata"
        file.attrs["metadata"] = np.bytes_(text) if is_fixed else text
        for name, value in columns.items():
            is_text = name in ("path", "sha256")
            file[name] = np.array(value, h5py.string_dtype()) if is_text else value
    assert load_embeddings(path).model_hash == embedding_tables.MODEL_HASH


@pytest.mark.parametrize("num_others", [0, 20])
@pytest.mark.parametrize("length", [1 << 23, 3_100_000_000])
def test_metadata_of_h5_that_states_gigabytes_is_not_read(
    tmp_path, num_others, length, monkeypatch
):
    path, stated = tmp_path / "e.h5", struct.pack("<I", 1234)
    columns = sample()
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            is_text = name in ("path", "sha256")
            file[name] = np.array(value, h5py.string_dtype()) if is_text else value
        for number in range(num_others):
            file.attrs[f"other{number}"] = "metadata"
        file.attrs["metadata"] = "{}".ljust(1234)
    content = path.read_bytes()
    assert content.count(stated, content.index(b"metadata\0")) >= 1
    name, rest = content[: (place := content.index(b"metadata\0"))], content[place:]
    path.write_bytes(name + rest.replace(stated, struct.pack("<I", length), 1))
    monkeypatch.setattr(h5py.AttributeManager, "get", None)  # is not asked
    assert "metadata: not one short text" in refusal(path)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["{}"] * 1000, h5py.string_dtype()),
        np.array(["{}"], h5py.string_dtype()),
        np.bytes_(b"{}".ljust(1 << 23)),
        np.float64(3),
        h5py.Empty("S10"),
        np.array([b"{}"]),
    ],
)
def test_metadata_of_h5_that_is_not_one_short_text_is_not_read(
    tmp_path, value, monkeypatch
):
    path = tmp_path / "e.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name, column in sample().items():
            is_text = name in ("path", "sha256")
            file[name] = np.array(column, h5py.string_dtype()) if is_text else column
        file.attrs["metadata"] = value
    monkeypatch.setattr(h5py.AttributeManager, "get", None)  # is not asked
    assert "metadata: not one short text" in refusal(path)


def external(file, name, values):
    other = pathlib.Path(file.filename).with_suffix(".raw")
    other.write_bytes(values.tobytes())
    where = [(str(other), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(name, values.shape, values.dtype, external=where)


def virtual(file, name, values):
    other = pathlib.Path(file.filename).with_suffix(".other.h5")
    with h5py.File(other, "w") as target:
        target[name] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(str(other), name, values.shape)
    file.create_virtual_dataset(name, layout)


def linked(file, name, values):
    other = pathlib.Path(file.filename).with_suffix(".other.h5")
    with h5py.File(other, "w") as target:
        target[name] = values
    file[name] = h5py.ExternalLink(str(other), name)


def soft(file, name, values):
    file["elsewhere"] = values
    file[name] = h5py.SoftLink("/elsewhere")


def huge(file, name, values):
    file.create_dataset(name, (10**9, 16), "f4", chunks=(1000, 16))


def huge_chunk(file, name, values):
    shape, chunks = values.shape, (12, 1 << 24)
    item = file.create_dataset(
        name, shape, "f4", chunks=chunks, maxshape=(12, None), compression=1
    )
    assert item.id.get_storage_size() == 0


def bomb(file, name, values):
    item = file.create_dataset(name, (12, 16), "f4", chunks=(12, 16), compression=9)
    packer = zlib.compressobj(1)
    first, later = (
        packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
        for _ in range(2)
    )
    item.id.write_direct_chunk((0, 0), first + 63 * later + packer.flush())


def twice_packed(file, name, values):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((12, 16))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((12, 16))
    kind = h5py.h5t.IEEE_F32LE
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=properties)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external, "the values of column embedding do not lie in the file"),
        (virtual, "the values of column embedding do not lie in the file"),
        (linked, "column embedding is a link"),
        (soft, "column embedding is a link"),
        (huge, "column path has 12 rows, and column embedding has 1,000,000,000"),
        (huge_chunk, "unpack to 805"),
        (bomb, "a chunk is larger than it says"),
        (twice_packed, "stored by filters 1, 1, which are not read"),
        (lambda f, n, v: f.create_group(n), "column embedding is a group, not numb"),
        (lambda f, n, v: f.create_dataset(n, data=h5py.Empty("f4")), "shape ()"),
        (lambda f, n, v: f.create_dataset(n, data=v[:, 0]), "the shape (12,)"),
        (lambda f, n, v: f.create_dataset(n, data=v[:11]), "path has 12 rows"),
        (lambda f, n, v: f.create_dataset(n, data=v > 0), "embedding is bool"),
        (lambda f, n, v: f.create_dataset(n, data=v[:, :0]), "has no values"),
        (
            lambda f, n, v: f.create_dataset(n, (12,), h5py.vlen_dtype("f4")),
            "column embedding is object, not numbers",
        ),
        (
            lambda f, n, v: f.create_dataset(n, data=np.full_like(v, np.inf)),
            "column embedding: the value of music/album0/track 0.ogg is not finite",
        ),
    ],
)
def test_bad_hdf5_is_refused(tmp_path, little_memory, make, message):
    path = h5_with(tmp_path / "e.h5", "embedding", make)
    assert path.stat().st_size < 8 << 20
    assert message in refusal(path)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True},
        {"chunks": True, "fletcher32": True},
        {"maxshape": (None, 16)},
    ],
)
@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_packed_hdf5_is_read(tmp_path, options, dtype):
    columns = sample(300)
    columns["embedding"] = np.round(columns["embedding"])  # it packs well

    def make(file, name, values):
        values = columns["embedding"].astype(dtype)
        file.create_dataset(name, data=values, **options)

    path = embedding_tables.write(tmp_path / "e.h5", columns)
    with h5py.File(path, "a") as file:
        del file["embedding"]
        make(file, "embedding", None)
    assert_same(path, columns)


@pytest.mark.parametrize(
    "options",
    [
        {"maxshape": (None,)},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "chunks": (5,)},
        {"shuffle": True},
    ],
)
@pytest.mark.parametrize("length", [None, "a text of 65,537 bytes"])
def test_packed_texts_are_read_where_they_are_paths(tmp_path, options, length):
    columns = sample(300)
    if length:
        columns["path"][200] = "x" * 65_537

    def make(file, name, values):
        file.create_dataset(name, data=values, dtype=h5py.string_dtype(), **options)

    path = embedding_tables.write(tmp_path / "e.h5", columns)
    with h5py.File(path, "a") as file:
        for name in ("path", "sha256"):
            del file[name]
            make(file, name, columns[name])
    if length:
        assert length in refusal(path)
    else:
        assert_same(path, columns)


def test_a_text_whose_length_is_gigabytes_is_refused(tmp_path, little_memory):
    path = embedding_tables.write(tmp_path / "e.h5", sample())
    with h5py.File(path) as file:
        offset = file["path"].id.get_offset() + 16 * 7
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    assert "column path: a text of 3,221,225,472 bytes" in refusal(path)


def test_a_damaged_heap_of_texts_is_refused(tmp_path):
    """The library would search it forever."""
    path = embedding_tables.write(tmp_path / "e.h5", sample())
    content = bytearray(path.read_bytes())
    position = content.index(b"GCOL") + 16
    while content[position]:  # up to the free space behind the last text
        size = int.from_bytes(content[position + 8 : position + 16], "little")
        position += 16 + size + -size % 8
    content[position + 8 : position + 16] = bytes(8)
    path.write_bytes(content)
    assert "a heap of texts is damaged" in refusal(path)


def test_hdf5_texts_packed_by_lzf_are_refused(tmp_path):
    def make(file, name, values):
        file.create_dataset(name, data=values, compression="lzf")

    path = h5_with(tmp_path / "e.h5", "path", make)
    assert "stored by filters 32000, which are not read" in refusal(path)


@pytest.mark.parametrize("kind", ["S64", h5py.string_dtype(length=64)])
def test_hdf5_texts_of_fixed_size_are_read(tmp_path, kind):
    path = embedding_tables.write(tmp_path / "e.h5", sample())
    with h5py.File(path, "a") as file:
        for name in ("path", "sha256"):
            values = file[name].asstr()[()]
            del file[name]
            file[name] = values.astype("S64").astype(kind)
    assert_same(path, sample())


# Damage, and files of another kind --------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_files_are_refused_or_whole(tmp_path, suffix):
    path = embedding_tables.write(tmp_path / f"e{suffix}", sample())
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:size])
        assert ": not readable as" in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_that_differ_never_end_in_a_traceback(tmp_path, suffix):
    path = embedding_tables.write(tmp_path / f"e{suffix}", sample())
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(len(content), size=3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert np.isfinite(load_embeddings(path).embeddings).all()
        except EmbeddingFileError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_a_npy_called_npz_is_named(tmp_path):
    with open(tmp_path / "e.npz", "wb") as file:
        np.save(file, np.zeros(3))
    assert "it is one array, a .npy" in refusal(tmp_path / "e.npz")


def test_an_encrypted_npz_is_named(tmp_path):
    path = embedding_tables.write(tmp_path / "e.npz", sample())
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(mark, place + 1)
    path.write_bytes(content)
    assert "is encrypted" in refusal(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("path", np.array(["a"] * 12, object), "holds Python objects"),
        ("path", np.arange(12), "column path is int64, not texts"),
        ("path", np.array(["a\ud800"] * 12), "column path, row 1: not UTF-8"),
        ("path", np.array([b"\xff"] * 12), "column path, row 1: not UTF-8"),
        ("path", np.full(12, 0x7FFFFFFF, np.uint32).view("U1"), "column path: no text"),
        ("sha256", np.array(["a"] * 11), "column sha256 has 11 rows, and column emb"),
        ("start", np.array(["0"] * 12), "column start is <U1, not numbers"),
        ("start", np.zeros(12, complex), "column start is complex128, not numbers"),
        ("start", np.zeros((12, 1)), "column start has the shape (12, 1)"),
        ("start", np.full(12, np.nan), "column start: the value of music/"),
        ("embedding", np.zeros((12, 0)), "column embedding has no values"),
        ("embedding", np.zeros((0, 16)), "has 12 rows, and column embedding has 0"),
        ("embedding", np.float64(1), "column embedding has the shape ()"),
        (
            "embedding",
            np.zeros(12, [("a", "f4")]),
            "column embedding is [('a', '<f4')]",
        ),
        ("metadata", np.array("{"), "metadata: no JSON"),
        ("metadata", np.array("[" * 100_000), "metadata: no JSON"),
        ("metadata", np.array("[]"), "metadata: no JSON object"),
        ("metadata", np.array(3), "metadata: not one short text"),
        ("metadata", np.array(["{}"]), "metadata: not one short text"),
        ("metadata", np.array('{"model_hash": 3}'), "model_hash is no text"),
        ("metadata", np.array('{"hop_seconds": NaN}'), "hop_seconds is no duration"),
    ],
)
def test_bad_npz_is_named_by_column(tmp_path, name, array, message):
    path = embedding_tables.write(tmp_path / "e.npz", sample())
    with np.load(path) as arrays:
        content = dict(arrays) | {name: array}
    np.savez(path, **content)
    assert message in refusal(path)


def test_other_arrays_and_kinds_of_npz_are_no_matter(tmp_path):
    columns = sample()
    arrays = {n: np.array(v) for n, v in columns.items()}
    arrays["path"] = arrays["path"].astype("S40")
    arrays["embedding"] = np.asfortranarray(arrays["embedding"].astype(">f8"))
    arrays["start"] = arrays["start"].astype(np.int16)
    extra = np.array([{}], object)
    np.savez_compressed(tmp_path / "e.npz", **arrays, extra=extra)
    assert_same(tmp_path / "e.npz", columns)


# Files that embed and search go on with ---------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_earlier_output_of_another_program_goes_on_or_is_named(tmp_path, suffix):
    settings = {"model_hash": embedding_tables.MODEL_HASH, "embedding_dim": 16}
    columns = sample()
    path = embedding_tables.write(tmp_path / f"e{suffix}", columns, settings)
    if suffix == ".parquet":  # with its metadata, but as another list
        table = arrow(columns, embedding=pyarrow.large_list(pyarrow.float64()))
        metadata = {"metadata": json.dumps(settings)}
        parquet.write_table(table.replace_schema_metadata(metadata), path)
    earlier = Earlier(path, settings)
    assert list(earlier.paths) == columns["path"]
    np.testing.assert_array_equal(earlier.read(3, 5), columns["embedding"][3:8])
    earlier.close()
    settings["embedding_dim"] = 17
    embedding_tables.write(path, columns, settings)
    with pytest.raises(OutputError, match="its embeddings have 16 values.*--output"):
        Earlier(path, settings)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_earlier_output_without_rows_goes_on(tmp_path, suffix):
    settings = {"model_hash": "x", "embedding_dim": 16}
    path = tmp_path / f"e{suffix}"
    write_table(path, Table([], 16, settings))
    earlier = Earlier(path, settings)
    assert (earlier.paths, earlier.finished) == ({}, {})
    earlier.close()
    assert "holds no embedding" in refusal(path)


def test_an_earlier_output_without_metadata_is_named(tmp_path):
    parquet.write_table(arrow(sample()), tmp_path / "e.parquet")
    with pytest.raises(OutputError, match="does not say which encoder made it"):
        Earlier(tmp_path / "e.parquet", {"model_hash": "x"})


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("path", np.arange(12), "column path is int64"),
        ("embedding", np.zeros((11, 16), np.float32), "column embedding has 11"),
        ("embedding", np.full((12, 16), np.nan, np.float32), "embedding: the value"),
        ("start", np.zeros(3), "column start has 3 rows"),
        ("state", np.array("{}"), "format"),
        ("state", np.array("[" * 100_000), "not an index"),
    ],
)
def test_an_index_that_is_none_is_one_line(tmp_path, name, array, message):
    path = embedding_tables.write(tmp_path / "e.npz", sample())
    build_lib.build(str(path), str(tmp_path / "i.npz"), "cosine")
    with np.load(tmp_path / "i.npz") as arrays:
        content = dict(arrays) | {name: array}
    np.savez(tmp_path / "i.npz", **content)
    with pytest.raises(SearchError, match=f"not an index.*{message}|{message}.*"):
        load_index(tmp_path / "i.npz")
