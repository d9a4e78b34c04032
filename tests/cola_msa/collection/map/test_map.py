"""The map's data: layouts, groups, labels, links, neighbours."""

import csv
import pathlib
import re
import tempfile
import urllib.parse

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from cola_msa.collection import labels as labels_lib
from cola_msa.collection.map import data as data_lib
from cola_msa.collection.map import layout as layout_lib
from cola_msa.collection.map import write as write_lib
from cola_msa.collection.map.layout import MapError
from cola_msa.collection.search import build as build_lib
from cola_msa.collection.search import index as index_lib
from cola_msa.collection.search import query as query_lib
from cola_msa.collection.table.checks import EmbeddingFileError
from cola_msa.system.errors import UsageError
from tests.helpers import embedding_tables
from tests.helpers.map_pages import read_page


@pytest.mark.parametrize("projection", ["pca", "tsne"])
@pytest.mark.parametrize("num_rows", [1, 2, 4, 40])
def test_layouts_fill_the_square_and_repeat(projection, num_rows):
    values = np.random.default_rng(0).normal(size=(num_rows, 12))
    layout = layout_lib.project(values, projection, seed=1)
    assert layout.shape == (num_rows, 2) and np.isfinite(layout).all()
    assert layout.min() >= 0 and layout.max() <= 1
    if num_rows > 1:
        assert np.ptp(layout, axis=0).max() == pytest.approx(1)
    np.testing.assert_array_equal(
        layout, layout_lib.project(values, projection, seed=1)
    )


def test_pca_equals_singular_vectors():
    values = np.random.default_rng(0).normal(size=(30, 6))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    wanted = left[:, :2] * singular[:2]
    found = layout_lib.project(values, "pca")
    scale = np.ptp(wanted, axis=0).max()
    for axis in (0, 1):
        spread = found[:, axis] - found[:, axis].mean()
        line = wanted[:, axis] / scale
        close = [np.abs(spread - s * (line - line.mean())).max() for s in (1, -1)]
        assert min(close) < 1e-9


def test_tsne_keeps_groups_together():
    random = np.random.default_rng(0)
    group = np.arange(60) % 3
    values = 4 * random.normal(size=(3, 20))[group] + random.normal(size=(60, 20))
    layout = layout_lib.project(values, "tsne")
    distance = np.linalg.norm(layout[:, None] - layout[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "count", "chosen"),
    [("auto", 3, "pca"), ("auto", 100, "tsne"), ("auto", 200_000, "tsne")],
)
def test_auto_chooses_by_size(name, count, chosen):
    assert layout_lib.choose_projection(name, count) == chosen


def test_umap_where_installed_or_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MapError, match=r"pip install 'cola_msa\[umap\]'"):
        layout_lib.choose_projection("umap", 100)


def test_clusters_are_the_groups_and_the_largest_is_first():
    group = np.array([0] * 5 + [1] * 9 + [2] * 7)
    values = np.eye(3)[group] + 0.01 * np.random.default_rng(0).normal(size=(21, 3))
    found = layout_lib.find_clusters(values, 3)
    assert found.tolist() == [2] * 5 + [0] * 9 + [1] * 7
    assert set(layout_lib.find_clusters(np.ones((4, 3)), 3)) == {0}


def test_labels_find_tracks_by_path_end_and_stem(tmp_path):
    paths = ["m/a/1.ogg", "m/a/2.ogg", "m/b/2.ogg", "m/b/3.ogg"]
    (tmp_path / "labels.csv").write_text(
        "path,Genre,Empty,name\nm/a/1.ogg,Rock,,First song\na/2.ogg,Folk,,\n"
        "3,Folk,,\n2,Jazz,,\nelsewhere.ogg,Jazz,,\n"
    )
    found = labels_lib.read_labels(tmp_path / "labels.csv", paths)
    (genre,) = found.schemes  # a column without a label is none
    assert genre.name == "Genre"
    assert genre.groups == ("Folk", "Rock", "no label")
    assert [genre.groups[g] for g in genre.of] == ["Rock", "Folk", "no label", "Folk"]
    assert found.names == ("First song", "", "", "")
    assert found.remarks == (
        "rows that found a track: 3 of 5; tracks with a row: 3 of 4",
        "rows for no track: 1 ('elsewhere.ogg'; line 6)",
        "rows for more than one track: 1 ('2'; line 5)",
        "tracks without a row: 1 ('m/b/2.ogg')",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_labels_of_another_machine_find_tracks_by_their_longest_end(
    tmp_path, encoding, delimiter
):
    paths = ["m/a/1.ogg", "m/b/1.ogg", "m/a/2.ogg", "other/caf\u00e9.ogg", "m/c/9.ogg"]
    rows = [
        (r"C:\Music\a\1.ogg", "Rock"),
        (r"d:/Music/b/1.ogg", "Folk"),
        ("\\\\server\\share\\m\\a\\2.ogg", "Jazz"),
        ("/Users/me/Music/cafe\u0301.ogg", "Pop"),
        (r"C:\Music\x\1.ogg", "none: two tracks are called 1.ogg"),
        (r"C:\Music\x\9.ogg", "none: two rows are called 9.ogg"),
        (r"C:\Music\y\9.ogg", "none: two rows are called 9.ogg"),
        (r"C:\Music\x\2.ogg", "none: another row has more of its path"),
        (r"x\9.ogg", "none: not absolute"),
    ]
    lines = [f"sep={delimiter}", delimiter.join(["path", "genre"])]
    lines += [delimiter.join([path, f'"{genre}"']) for path, genre in rows]
    table = tmp_path / "labels.csv"
    table.write_bytes("\r\n".join(lines).encode(encoding))
    found = labels_lib.read_labels(table, paths)
    (genre,) = found.schemes
    expected = ["Rock", "Folk", "Jazz", "Pop", "no label"]
    assert [genre.groups[g] for g in genre.of] == expected
    assert found.remarks[0].startswith("rows that found a track: 4 of 9")
    assert any("more than one track: 1 (" in line for line in found.remarks)
    assert any(
        "that other rows name, too, by its file's name: 3 (" in line
        and line.endswith("lines 8, 9, 10)")
        for line in found.remarks
    )


COMPOSED, DECOMPOSED = "caf\u00e9.ogg", "cafe\u0301.ogg"


@pytest.mark.parametrize(
    ("paths", "name", "track"),
    [
        (["m/" + DECOMPOSED, "m/b.ogg"], "m/" + COMPOSED, 0),
        (["m/" + COMPOSED, "m/b.ogg"], DECOMPOSED, 0),
        (["m/" + COMPOSED, "m/b.ogg"], "cafe\u0301", 0),
        # As it is written goes before what is equal.
        (["m/" + COMPOSED, "m/" + DECOMPOSED], DECOMPOSED, 1),
        (["m/" + COMPOSED, "m/" + DECOMPOSED], "m/" + COMPOSED, 0),
        # Both are equal to it, and it is neither.
        (
            ["m\u00e9/" + COMPOSED, "m\u00e9/" + DECOMPOSED],
            "me\u0301/" + COMPOSED,
            None,
        ),
        (["a/" + COMPOSED, "b/" + DECOMPOSED], "cafe\u0301", 1),
        (["a//x.ogg", "a/x.ogg"], "a/x.ogg", None),
    ],
)
def test_labels_find_composed_and_decomposed_names(tmp_path, paths, name, track):
    (tmp_path / "l.csv").write_text(f"path,genre\n{name},Rock\n", encoding="utf-8")
    if track is None:
        with pytest.raises(MapError, match="none of its 1 rows names a track"):
            labels_lib.read_labels(tmp_path / "l.csv", paths)
        return
    (genre,) = labels_lib.read_labels(tmp_path / "l.csv", paths).schemes
    assert genre.groups[genre.of[track]] == "Rock"
    assert [genre.groups[number] for number in genre.of].count("Rock") == 1


NAMES = strategies.text(
    strategies.one_of(
        strategies.sampled_from("ae\u00e9\u0301./ "),
        strategies.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=8,
)


@hypothesis.given(strategies.lists(NAMES, min_size=1, max_size=5))
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_row_with_a_track_s_own_path_is_for_that_track(names):
    # Paths that differ in slashes alone are one path.
    paths = list(dict.fromkeys(pathlib.PurePath(name).as_posix() for name in names))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "l.csv")
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = [
                ["path", "n"],
                *([name, f"label {n}"] for n, name in enumerate(paths)),
            ]
            csv.writer(file, delimiter=";").writerows(rows)
        found = labels_lib.read_labels(path, paths)
    (scheme,) = found.schemes
    assert [scheme.groups[g] for g in scheme.of] == [
        f"label {n}" for n in range(len(paths))
    ]
    assert len(found.remarks) == 1


def test_labels_are_read_as_csv_and_rows_may_be_short_or_repeat(tmp_path):
    paths = [f"m/{n}.ogg" for n in range(5)]
    (tmp_path / "l.csv").write_text(
        'path;genre;name\n0;"Drum; Bass";"12"" mix"\n1;Rock\u2028;"two\n\nlines"\n'
        "2\n1;Folk\n",
        encoding="utf-16",
    )
    found = labels_lib.read_labels(tmp_path / "l.csv", paths)
    (genre,) = found.schemes
    assert [genre.groups[g] for g in genre.of[:3]] == ["Drum; Bass", "Folk", "no label"]
    assert found.names == ('12" mix', "", "", "", "")  # the later row counts, whole
    assert found.remarks[1:] == (
        "tracks without a row: 2 ('m/3.ogg', 'm/4.ogg')",
        "rows that count instead of an earlier one for the same track: 1 (line 7)",
        "rows that are shorter than the header: 2; what they lack is empty "
        "(lines 6, 7)",
    )


def test_tables_of_tag_colour_by_label_and_probability(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text(
        "path,tags,rock,rock; slow,piano\n"
        "a.ogg,rock; slow; piano,0.1,0.9,0.6\n"
        "b.ogg,,0.2,0.3,0.1\n"
        "c.ogg,piano; rock,0.51,1e-9,0.777\n"
    )
    found = labels_lib.read_labels(path, ["c.ogg", "b.ogg", "a.ogg", "d.ogg"])
    first, *each = found.schemes
    assert first.name == "tags"
    assert [first.groups[g] for g in first.of] == [
        "piano",
        labels_lib.NO_LABEL,
        "rock; slow",
        labels_lib.NO_LABEL,
    ]
    assert first.percent == (78, 30, 90, 0)
    assert [scheme.name for scheme in each] == ["rock", "rock; slow", "piano"]
    assert each[2].percent == (78, 10, 60, 0)
    assert [each[2].groups[g] == "piano" for g in each[2].of] == [1, 0, 1, 0]
    assert all(scheme.is_label for scheme in each)


def test_columns_before_those_of_tag_stay(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text(
        "path,name,year,tags,start (label),rock\na.ogg,A,1990,start; rock,0.9,0.7\n"
    )
    found = labels_lib.read_labels(path, ["a.ogg"])
    assert found.names == ("A",)
    names = [scheme.name for scheme in found.schemes]
    assert names == ["tags", "start (label)", "rock", "year"]
    assert found.schemes[0].groups == ("start (label)",)
    assert [scheme.of for scheme in found.schemes[1:3]] == [(0,), (0,)]


@pytest.mark.parametrize(
    "header, row",
    [
        ("path,tags", "a.ogg,rock"),
        ("path,name,tags,year", "a.ogg,A,,1990"),
        ("path,tags,year", "a.ogg,rock,1990"),
        ("path,tags,rock", "a.ogg,rock; jazz,0.9"),
        ("path,tags,rock", "a.ogg,rock,high"),
    ],
)
def test_own_columns_called_tags_are_labels_as_others(tmp_path, header, row):
    path = tmp_path / "labels.csv"
    path.write_text(f"{header}\n{row}\n")
    found = labels_lib.read_labels(path, ["a.ogg"]).schemes
    filled = zip(header.split(",")[1:], row.split(",")[1:], strict=True)
    wanted = [name for name, cell in filled if cell and name != "name"]
    assert [scheme.name for scheme in found] == wanted
    assert all(scheme.percent is None for scheme in found)


def test_tags_of_windows_are_refused(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("path,start,seconds,tags,rock\na.ogg,0,1,rock,0.9\n")
    with pytest.raises(MapError, match="a row a window"):
        labels_lib.read_labels(path, ["a.ogg"])


def test_the_command_says_how_many_labels_found_a_track(page, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        write_lib.logging, "info", lambda form, *a: lines.append(form % a)
    )
    labels = tmp_path / "l.csv"
    labels.write_text("path,genre\ntrack 3,Rock\nnowhere,Folk\n")
    write_lib.write_map(page.parent / "e.npz", tmp_path / "m.html", labels=labels)
    assert f"--labels={labels}: rows for no track: 1 ('nowhere'; line 3)" in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("song;genre\na;b\n", "a column `path`"),
        ("path,genre\nx.ogg,Rock\n", "none of its 1 rows names a track"),
        ("", "labels.csv: it is empty"),
        ("path,a,b,a\nm/a/1.ogg,x,y,z\n", "columns 2 and 4 are both called 'a'"),
        ("path,a\nm/a/1.ogg,Rock, Pop\n", "line 2: not as many cells"),
        ('path,a\nm/a/1.ogg,"Rock\n', "line 2: a quote is opened there and never"),
    ],
)
def test_labels_that_fit_nothing_are_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(MapError, match=message):
        labels_lib.read_labels(tmp_path / "labels.csv", ["m/a/1.ogg"])


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("music/a b/1#2?.ogg", "../music/a%20b/1%232%3F.ogg"),
        ("maps/in.ogg", "./in.ogg"),
        ("maps/a:b.ogg", "./a%3Ab.ogg"),
        ("s3://bucket/a.ogg", ""),
    ],
)
def test_links_are_relative_to_the_page(tmp_path, path, link):
    page = tmp_path / "maps" / "map.html"
    assert data_lib.link_to(path, page, tmp_path) == link
    if link:
        reached = (page.parent / urllib.parse.unquote(link)).resolve()
        assert reached == (tmp_path / path).resolve()


def test_folders_are_named_below_what_is_common():
    paths = ["m/x/a/1.ogg", "m/x/a/2.ogg", "m/x/b/c/1.ogg"]
    assert data_lib.folder_names(paths) == ["a", "a", "b/c"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("map")
    columns = embedding_tables.sample_columns(20)
    columns["path"][7] = "music/album1/</script><b>&amp; @JS@.ogg"
    path = embedding_tables.write(root / "e.npz", columns)
    write_lib.write_map(path, root / "map.html", title="Mine <&>")
    return root / "map.html"


def test_neighbours_of_the_page_are_those_of_search(page, tmp_path):
    data = read_page(page)
    build_lib.build(str(page.parent / "e.npz"), str(tmp_path / "i.npz"), "cosine")
    index = index_lib.load_index(tmp_path / "i.npz")
    answers = query_lib.query(index, data["paths"], 10)
    for number, answer in enumerate(answers):
        paths = [data["paths"][row] for row in data["neighbours"][number]]
        assert paths == [found["path"] for found in answer["results"]]
        scores = [found["score"] for found in answer["results"]]
        np.testing.assert_allclose(data["scores"][number], scores, atol=5.1e-5)


def test_the_page_is_whole_and_names_cannot_break_it(page):
    text = page.read_text()
    data = read_page(page)
    assert data["paths"][7] == "music/album1/</script><b>&amp; @JS@.ogg"
    assert "<title>Mine &lt;&amp;&gt;</title>" in text
    assert text.count("</script>") == 2
    assert not re.search(r"@(TITLE|SUBTITLE|CSS|DATA)@", text)
    # No address but SVG's name, and nothing that would be fetched.
    assert not re.findall(r"https?://", text)
    assert [s["name"] for s in data["schemes"]] == ["Folder", "Cluster"]
    assert [len(s["of"]) for s in data["schemes"]] == [20, 20]


@pytest.mark.parametrize(
    ("embeddings", "output", "error", "message"),
    [
        ("none.npz", "map.html", EmbeddingFileError, "there is no such file"),
        ("e.npz", "map.png", UsageError, "a map is an .html file"),
    ],
)
def test_wrong_files_are_refused(page, embeddings, output, error, message):
    with pytest.raises(error, match=message):
        write_lib.write_map(page.parent / embeddings, page.parent / output)


def test_one_track_makes_a_map(tmp_path):
    columns = embedding_tables.sample_columns(1)
    path = embedding_tables.write(tmp_path / "e.h5", columns)
    data = write_lib.write_map(path, tmp_path / "map.html")
    assert data.neighbours.shape == (1, 0) and len(data.names) == 1


@pytest.mark.parametrize("projection", ["auto", "tsne", "pca"])
@pytest.mark.parametrize("kind", ["equal", "zero", "four different", "near", "huge"])
def test_rows_without_neighbourhoods_make_a_map(tmp_path, projection, kind):
    """t-SNE of equal rows ended the process: it divides by their deviation, 0."""
    random = np.random.default_rng(0)
    row = random.normal(size=(1, 16))
    values = {
        "equal": np.tile(row, (6, 1)),
        "zero": np.zeros((6, 16)),
        "four different": np.repeat(random.normal(size=(4, 16)), 3, axis=0),
        "near": row + 1e-7 * random.normal(size=(6, 16)),
        "huge": 1e30 * random.normal(size=(8, 16)),
    }[kind]
    columns = embedding_tables.sample_columns(len(values))
    columns["embedding"] = values.astype(np.float32)
    path = embedding_tables.write(tmp_path / "e.npz", columns)
    data = write_lib.write_map(path, tmp_path / "m.html", projection=projection)
    assert len(data.x) == len(data.y) == len(values)
    assert data.neighbours.shape[1] == min(10, len(values) - 1)
    title = "t-SNE" if kind in ("huge",) and projection != "pca" else "PCA"
    if kind != "near":  # float32 decides how many of these differ
        assert f"{title} of 16 dimensions" in (tmp_path / "m.html").read_text()


@pytest.mark.parametrize(
    ("rows", "count"), [([[1, 0], [2, 0], [0, 1]], 2), ([[0, 0], [0, 0]], 1)]
)
def test_directions_are_counted(rows, count):
    assert layout_lib.count_different(np.array(rows, float)) == count


@pytest.mark.parametrize("header", ["Path", "PATH", "file", "Filename"])
def test_the_column_of_paths_is_found_as_in_a_list(tmp_path, header):
    table = tmp_path / "labels.csv"
    table.write_text(f"genre,{header}\nrock,a.wav\njazz,b.wav\n")
    labels = labels_lib.read_labels(table, ["music/a.wav", "music/b.wav"])
    (scheme,) = labels.schemes
    assert scheme.name == "genre"
    assert [scheme.groups[group] for group in scheme.of] == ["rock", "jazz"]


def test_a_column_called_path_goes_before_others(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,Path,path\nx,y,a.wav\n")
    labels = labels_lib.read_labels(table, ["music/a.wav"])
    assert [scheme.name for scheme in labels.schemes] == ["file", "Path"]


def test_a_column_without_a_name_is_left_out_and_named(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(",path,genre\n0,a.wav,rock\n1,b.wav,jazz\n")  # as pandas writes
    labels = labels_lib.read_labels(table, ["a.wav", "b.wav"])
    assert [scheme.name for scheme in labels.schemes] == ["genre"]
    assert "left out: column 1, which has no name" in labels.remarks


@pytest.mark.parametrize(
    ("given", "track"),
    [("music\\b.wav", 1), ("  b.wav ", 1), (" music\\b.wav ", 1), ("odd\\a.wav", 2)],
)
def test_labels_find_tracks_despite_blanks_and_backslashes(tmp_path, given, track):
    table = tmp_path / "labels.csv"
    table.write_text(f"path,genre\n{given},rock\n")
    paths = ["music/a.wav", "music/b.wav", "odd\\a.wav"]
    (scheme,) = labels_lib.read_labels(table, paths).schemes
    assert scheme.groups[scheme.of[track]] == "rock"
