"""What --input may name."""

import csv
import os
import pathlib
import tempfile

import hypothesis
import pytest
from hypothesis import strategies

from cola_msa.collection.inputs import InputError, find_inputs, list_inputs
from cola_msa.collection.table.write import failures_path, write_failures
from cola_msa.values.names import escape


@pytest.fixture
def music(tmp_path):
    for name in ("b/2.mp3", "b/1.FLAC", "a.wav", "b/.hidden.wav", ".trash/3.ogg"):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "music" / "cover.jpg").touch()
    return tmp_path / "music"


def test_a_folder_is_searched_at_any_depth(music):
    found = [os.path.relpath(path, music) for path in find_inputs(music)]
    assert found == ["a.wav", "b/1.FLAC", "b/2.mp3"]


def test_a_file_is_itself(music):
    assert find_inputs(str(music / "a.wav")) == [str(music / "a.wav")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "a.wav\n\n# remark\nb/2.mp3\na.wav\nmissing.wav\n"),
        ("list.m3u", "#EXTM3U\r\n#EXTINF:3,Song\r\na.wav\r\nb/2.mp3\r\nmissing.wav"),
        ("list.m3u8", "\ufeffa.wav\nb/2.mp3\nmissing.wav\n"),
        ("list.csv", 'title,Path\n"one, two",a.wav\nx,b/2.mp3\ny,missing.wav\n'),
        ("plain.csv", "a.wav,1\nb/2.mp3,2\nmissing.wav,3\n"),
    ],
)
def test_lists_name_files_beside_them(music, name, content):
    (music / name).write_text(content, encoding="utf-8")
    expected = [str(music / entry) for entry in ("a.wav", "b/2.mp3", "missing.wav")]
    assert find_inputs(music / name) == expected


def test_lists_name_files_elsewhere(music, tmp_path, monkeypatch):
    monkeypatch.chdir(music)
    path = tmp_path / "lists" / "list.txt"
    path.parent.mkdir()
    path.write_text(f"b/2.mp3\n{music / 'a.wav'}\nfile://{music}/b/x%20y.wav\n")
    expected = ["b/2.mp3", str(music / "a.wav"), f"{music}/b/x y.wav"]
    assert find_inputs(path) == expected


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\xfa"])
def test_lists_that_name_nothing_are_refused(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="list.txt"):
        find_inputs(path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no audio file"):
        find_inputs(tmp_path)


# Lists as programs and people write them --------------------------------------------


def named(folder, name: str, content: bytes) -> list[str]:
    path = folder / name
    path.write_bytes(content)
    return [os.path.relpath(found, folder) for found in find_inputs(path)]


def test_a_pls_names_files(music):
    content = b"[playlist]\r\nNumberOfEntries=2\r\nFile1=b\\2.mp3\r\nTitle1=x.wav\r\n"
    content += b"file2=file://localhost" + os.fsencode(music) + b"/a.wav\r\n"
    found = named(music, "list.PLS", content)
    assert [os.path.normpath(path) for path in found] == ["b/2.mp3", "a.wav"]


@pytest.mark.parametrize("name", ["list.txt", "list.m3u", "list.m3u8"])
def test_a_name_may_begin_with_a_hash(music, name):
    (music / "#9 Dream.wav").touch()
    content = b"#EXTM3U\n#EXTINF:3,x\n# remark\n#9 Dream.wav\na.wav\n"
    assert named(music, name, content) == ["#9 Dream.wav", "a.wav"]


def test_what_a_hash_leaves_out_is_counted(music):
    (music / "list.txt").write_text("#gone.wav\n# remark\na.wav\n")
    inputs = list_inputs(music / "list.txt")
    assert inputs.paths == [str(music / "a.wav")]
    assert len(inputs.remarks) == 1 and "1 lines with #" in inputs.remarks[0]
    # A playlist's remarks are directives; this is a file that is not there.
    assert named(music, "list.m3u", b"#gone.wav\n#PLAYLIST:x.wav\n") == ["#gone.wav"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (b"b\\2.mp3", "b/2.mp3"),
        (b".\\b\\2.mp3", "./b/2.mp3"),
        (b"b/my%20song%231.wav", "b/my song#1.wav"),
        (b"b\\my%20song%231.wav", "b/my song#1.wav"),
        (b"file://localhost{root}/b/my%20song%231.wav", "b/my song#1.wav"),
        (b"file://{root}/b/my%20song%231.wav", "b/my song#1.wav"),
        (b"FILE://{root}/b/my song#1.wav", "b/my song#1.wav"),
        (b"file:{root}/b/caf%C3%A9.wav", "b/café.wav"),
        (b"b/caf\xe9.wav", "b/café.wav"),
        ("b/café.wav".encode(), "b/café.wav"),
        ("b/cafe\u0301.wav".encode(), "b/café.wav"),
        (b"100%25.wav", "100%25.wav"),
        (b"50%.wav", "50%.wav"),
        (b"back\\slash.wav", "back\\slash.wav"),
        (b"space.wav ", "space.wav "),
    ],
)
@pytest.mark.parametrize("name", ["list.txt", "list.m3u", "list.m3u8", "list.csv"])
def test_names_are_found_however_they_are_written(music, entry, expected, name):
    names = ["b/my song#1.wav", "b/café.wav", "100%25.wav", "50%.wav", "space.wav "]
    for other in (*names, "back\\slash.wav"):
        (music / other).touch()
    entry = entry.replace(b"{root}", os.fsencode(music))
    content = b"\xef\xbb\xbf" + entry + b"\r\n"
    found = named(music, name, content)
    assert [os.path.normpath(path) for path in found] == [os.path.normpath(expected)]


def test_a_name_of_other_bytes_is_itself(music):
    raw = os.path.join(os.fsencode(music), b"caf\xe9.wav")
    open(raw, "wb").close()
    (music / "café.wav").touch()
    (music / "list.m3u").write_bytes(b"caf\xe9.wav\n")
    assert [os.fsencode(path) for path in find_inputs(music / "list.m3u")] == [raw]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "title;path\nx;a.wav\ny;b/2.mp3\n"),
        ("list.csv", "title\tfile\nx\ta.wav\ny\tb/2.mp3\n"),
        ("list.csv", '"a\nb",path\nx\u2028y,a.wav\nz,b/2.mp3\n'),
        ("list.csv", 'path,title\na.wav,"12"" mix"\nb/2.mp3,"of\ntwo lines"\n'),
        ("list.m3u", "a.wav\rb/2.mp3\r"),
    ],
)
def test_lists_of_other_programs(music, name, content):
    for encoding in ("utf-8", "utf-16"):
        (music / name).write_text(content, encoding=encoding, newline="")
        assert find_inputs(music / name) == [
            str(music / n) for n in ("a.wav", "b/2.mp3")
        ]


def test_rows_without_a_file_are_counted(music):
    (music / "list.csv").write_text("title,path\nx,a.wav\ny,\nz\n")
    assert list_inputs(music / "list.csv").remarks == (
        "left out: 2 rows of the list that name no file (lines 3, 4)",
    )


def test_rows_that_do_not_fit_a_list_are_named(music):
    (music / "b, c.wav").touch()
    (music / "list.csv").write_text('path,title\n"b, c.wav",x\nb, c.wav,x\na.wav,y,\n')
    inputs = list_inputs(music / "list.csv")
    assert [os.path.basename(p) for p in inputs.paths] == ["b, c.wav", "b", "a.wav"]
    assert inputs.remarks == (
        "1 rows of the list have more cells than its header (line 3); a name with the "
        "delimiter in it needs quotes",
    )
    (music / "list.csv").write_text("path\nb, c.wav\na.wav\n")
    inputs = list_inputs(music / "list.csv")
    assert [os.path.basename(p) for p in inputs.paths] == ["b, c.wav", "a.wav"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,Path\na.wav,b.wav\n", "several columns are called 'path'"),
        (b'path,title\na.wav,"x\nb.wav,y\n', "line 2: a quote is opened there"),
        (b'path,title\n"12" mix.wav",y\n', "line 2: text follows a closing quote"),
        (b"path\0\na.wav\n", "line 1: a zero byte"),
        (b"\xff\xfea", "no.*UTF-16 text"),
    ],
)
def test_lists_that_are_no_tables_are_refused(music, content, message):
    (music / "list.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"--input=.*list.csv.*{message}"):
        find_inputs(music / "list.csv")


def test_missing_entries_are_named_and_end_nothing(music):
    content = b"gone\\x.wav\nhttp://radio/x.mp3\nfile://server/share/x.wav\na.wav\n\0\n"
    found = named(music, "list.m3u", content)
    assert len(found) == 5 and "a.wav" in found


ENTRIES = strategies.text(
    strategies.characters(exclude_characters="/\0\n\r", exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip() and name not in (".", ".."))


@hypothesis.given(strategies.lists(ENTRIES, min_size=1, max_size=4, unique=True))
@hypothesis.settings(max_examples=60, deadline=None)
def test_every_file_that_a_list_names_is_found(names):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "music")
        root.mkdir()
        for name in names:
            (root / f"{name}.wav").touch()
        expected = [str(root / f"{name}.wav") for name in names]
        for list_name in ("list.txt", "list.m3u", "list.csv"):
            path = root / list_name
            if list_name.endswith("csv"):
                with open(path, "w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerows([["path"], *([f"{name}.wav"] for name in names)])
            else:
                lines = "".join(f"{name}.wav\n" for name in names)
                path.write_text(lines, encoding="utf-8", newline="")
            assert find_inputs(path) == expected


@hypothesis.given(strategies.binary(max_size=60))
@hypothesis.settings(max_examples=100, deadline=None)
def test_a_list_of_any_bytes_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("list.txt", "list.m3u", "list.csv"):
            path = pathlib.Path(folder, name)
            path.write_bytes(content)
            try:
                assert all(find_inputs(path))
            except InputError as error:
                assert name in str(error)


NAMES = strategies.lists(
    strategies.one_of(
        strategies.binary(min_size=1, max_size=9),
        strategies.sampled_from(
            [b"#9 Dream", b" x ", b"file:x", b"a\rb", b"%20", b"\\udce9", b"\xe9", b'"']
        ),
    ).map(lambda raw: raw.translate(None, b"\0\n/")),
    min_size=1,
    max_size=4,
    unique=True,
)


@hypothesis.given(NAMES)
@hypothesis.example([b"\xe9", b"\\udce9", b"\\\\udce9"])
@hypothesis.example([b"\xff\xfe"])
@hypothesis.example([b"\xef\xbb\xbfa", b"a"])
@hypothesis.example([b"a\rb", b"a", b"b"])
@hypothesis.settings(max_examples=100, deadline=None)
def test_names_of_any_bytes_come_back_as_they_were(names):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "music")
        root.mkdir()
        raw = [os.path.join(os.fsencode(root), name + b".wav") for name in names]
        for path in raw:
            open(path, "wb").close()
        lines = b"".join(name + b".wav\n" for name in names)
        for list_name in ("list.txt", "list.m3u", "list.m3u8"):
            (root / list_name).write_bytes(lines)
            found = [os.fsencode(path) for path in find_inputs(root / list_name)]
            assert found == raw
        # What an earlier run could not embed, as it wrote it.
        output = pathlib.Path(folder, "rows.npz")
        reasons = {escape(os.fsdecode(path)): "why\r" for path in raw}
        write_failures(failures_path(output), reasons)
        found = [os.fsencode(path) for path in find_inputs(failures_path(output))]
        assert found == raw


def test_files_that_failed_are_an_input_even_if_gone(tmp_path):
    output = tmp_path / "rows.npz"
    paths = [" gone.wav", "caf\udce9.wav", "/x/two\nlines.wav"]
    write_failures(failures_path(output), {escape(path): "why" for path in paths})
    assert find_inputs(failures_path(output)) == paths


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_a_name_are_no_part_of_it(music, quote):
    content = f"{quote}a.wav{quote}\n{quote}gone.wav{quote}\n".encode()
    assert named(music, "list.txt", content) == ["a.wav", f"{quote}gone.wav{quote}"]
    (music / f"{quote}a.wav{quote}").touch()  # unless a file has them
    assert named(music, "list.txt", content)[0] == f"{quote}a.wav{quote}"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf_16_without_its_mark_is_refused(music, encoding):
    (music / "list.m3u").write_bytes("#EXTM3U\r\na.wav\r\n".encode(encoding))
    with pytest.raises(InputError, match="UTF-16 without its mark; save"):
        list_inputs(music / "list.m3u")


# Patterns and addresses ---------------------------------------------------------------


@pytest.fixture
def collection(bucket, tmp_path):
    """The same tree in a folder and in a bucket."""
    names = ("a/1.wav", "a/b/2.mp3", "a/[3].flac", "c/4.wav", "c/notes.pdf")
    for name in (*names, "c/.hidden.wav", ".x/5.wav"):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        bucket.pipe_file(f"/bucket/music/{name}", b"x")
    return "memory://bucket/music", tmp_path / "music"


def names_below(root, inputs):
    assert all(path.startswith(f"{root}/") for path in inputs.paths)
    return [path.removeprefix(f"{root}/") for path in inputs.paths]


@pytest.mark.parametrize(
    ("ending", "names"),
    [
        ("", ["a/1.wav", "a/[3].flac", "a/b/2.mp3", "c/4.wav"]),
        ("/", ["a/1.wav", "a/[3].flac", "a/b/2.mp3", "c/4.wav"]),
        ("/a", ["a/1.wav", "a/[3].flac", "a/b/2.mp3"]),
        ("/*/*.wav", ["a/1.wav", "c/4.wav"]),
        ("/**/*.wav", ["a/1.wav", "c/4.wav"]),
        ("/[ac]", ["a/1.wav", "a/[3].flac", "a/b/2.mp3", "c/4.wav"]),
        ("/c/*", ["c/4.wav"]),
        ("/a/[3].flac", ["a/[3].flac"]),
    ],
)
def test_folders_and_patterns_here_and_at_an_address(collection, ending, names):
    for root in collection:
        assert names_below(root, list_inputs(f"{root}{ending}")) == names


def test_the_beginning_of_names_at_an_address(collection):
    url, _ = collection
    found = list_inputs(f"{url}/a/")
    assert found.paths == list_inputs("memory://bucket/mus").paths[:3]
    assert found.root == f"{url}/a"
    assert list_inputs(f"{url}/c/4").paths == [f"{url}/c/4.wav"]


def test_what_is_left_out_is_told(collection):
    for root in collection:
        remarks = "\n".join(list_inputs(f"{root}/c").remarks)
        assert "1 .pdf" in remarks and "1 hidden" in remarks


@pytest.mark.parametrize("ending", ["/x", "/*.ogg", "/c/notes.pdf*"])
def test_what_matches_nothing_is_refused(collection, ending):
    for root in collection:
        with pytest.raises(InputError, match="--input="):
            list_inputs(f"{root}{ending}")


def test_an_empty_or_missing_bucket_is_refused_without_its_login(bucket):
    with pytest.raises(InputError) as caught:
        list_inputs("memory://user:secret@bucket/music")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".m3u"])
def test_a_list_at_an_address(collection, bucket, tmp_path, monkeypatch, suffix):
    """Its entries count from its own folder, whatever lies in the current one."""
    url, folder = collection
    monkeypatch.chdir(folder)
    lines = ["a/1.wav", "./c/4.wav", "s3://other/x.wav", "/local/y.wav"]
    lines = ["path", *lines] if suffix == ".csv" else lines
    bucket.pipe_file(f"/bucket/music/list{suffix}", "\n".join(lines).encode())
    found = list_inputs(f"{url}/list{suffix}")
    assert found.paths == [
        f"{url}/a/1.wav",
        f"{url}/c/4.wav",
        "s3://other/x.wav",
        "/local/y.wav",
    ]
    assert found.root is None


def test_addresses_in_a_local_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("gs://bucket/a.wav\nfile:///b.wav\n")
    assert list_inputs(path).paths == ["gs://bucket/a.wav", "/b.wav"]


def test_a_folder_of_this_machine_by_its_address(collection):
    _, folder = collection
    assert list_inputs(f"file://{folder}") == list_inputs(folder)
