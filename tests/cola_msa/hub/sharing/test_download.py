"""Pretrained folders by URL and by name: cached, hashed, refused where they differ."""

import base64
import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import tarfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_msa
from cola_msa.config.schema import Config, from_dict
from cola_msa.hub import loading, pretrained
from cola_msa.hub.sharing import download
from cola_msa.runs import kept
from cola_msa.system import archives as archives_lib
from cola_msa.system import folders
from cola_msa.system.errors import RunError
from tests.helpers.commands import Command


@pytest.fixture(scope="module")
def archives(folder, tmp_path_factory):
    """The same folder as .tar.gz (within a folder) and as .zip (its files alone)."""
    root = tmp_path_factory.mktemp("archives")
    with tarfile.open(root / "tiny.tar.gz", "w:gz") as tar:
        tar.add(folder, "tiny")
    with zipfile.ZipFile(root / "tiny.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(folders.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(download.REGISTRY_VARIABLE, raising=False)
    return tmp_path / "cache"


class Handler(http.server.SimpleHTTPRequestHandler):
    requests = 0
    logins: list = []

    def do_GET(self):
        type(self).requests += 1
        end = time.monotonic() + 60  # where the test fails
        type(self).logins.append(self.headers.get("Authorization"))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", urllib.parse.unquote(self.path[4:]))
            self.end_headers()
            return
        if self.path.startswith("/slow/"):
            self.send_response(200)
            self.end_headers()
            while time.monotonic() < end:
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                time.sleep(0.05)
            return
        if self.path.startswith("/drip/"):
            # Each byte comes within every timeout, and the headers never end.
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                while time.monotonic() < end:
                    self.wfile.write(b"a")
                    time.sleep(0.05)
            return
        if self.path.startswith("/cut/"):
            content = b"x" * 1000
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(content)
            return
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(archives):
    Handler.requests = 0
    Handler.logins.clear()
    handler = functools.partial(Handler, directory=str(archives))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_registry(path, url, sha256):
    path.write_text(json.dumps({"models": {"tiny": {"url": url, "sha256": sha256}}}))
    return path


def nothing_cached(cache):
    return not cache.exists() or {p.name for p in cache.iterdir()} <= {".locks"}


@pytest.mark.parametrize("name", ["tiny.tar.gz", "tiny.zip"])
def test_a_url_is_fetched_once(server, archives, finished_run, name):
    url = f"{server}/{name}#sha256={sha256_of(archives / name)}"
    model = cola_msa.from_pretrained(url)
    assert model.kind == "pretrained"
    assert model.key == kept.encoder_key(finished_run)
    mel = np.random.default_rng(0).normal(-3, 2, (2, 98, 64, 1)).astype(np.float32)
    expected = kept.load_model(finished_run).encoder(mel, training=False).numpy()
    difference = np.linalg.norm(model.embed(mel) - expected)
    assert difference < 1e-5 * np.linalg.norm(expected)
    assert Handler.requests == 1
    assert loading.resolve(url) == model.path
    assert Handler.requests == 1


def test_a_file_url_needs_no_server(archives, cache):
    path = loading.resolve((archives / "tiny.zip").as_uri())
    assert path.parent == cache and pretrained.is_pretrained(path)
    assert {p.name for p in cache.iterdir()} == {".locks", path.name}


def test_a_name_of_a_users_registry(server, archives, tmp_path, monkeypatch):
    sha256 = sha256_of(archives / "tiny.zip")
    registry = write_registry(tmp_path / "r.json", f"{server}/tiny.zip", sha256)
    path = loading.resolve("tiny", registry)
    assert pretrained.is_pretrained(path)
    monkeypatch.setenv(download.REGISTRY_VARIABLE, str(registry))
    assert loading.resolve("tiny") == path
    assert Handler.requests == 1


def test_the_packages_registry_invents_nothing():
    models = download.read_registry()
    assert all(entry["url"].startswith("https://") for entry in models.values())
    with pytest.raises(RunError, match=r"does not exist; name .*by its name \("):
        cola_msa.open_model("no-such-encoder")


@pytest.mark.parametrize("name", ["tiny.zip", "tiny.tar.gz"])
def test_a_wrong_hash_leaves_nothing(server, cache, name):
    with pytest.raises(RunError, match="is not the expected file: SHA-256"):
        loading.resolve(f"{server}/{name}#sha256={'0' * 64}")
    assert nothing_cached(cache)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.zip", "could not be fetched .*Without a network: download it"),
        ("cut/tiny.zip", "(cut off after 1000 of 5000|could not be fetched)"),
    ],
)
def test_what_cannot_be_fetched(server, cache, path, message):
    with pytest.raises(RunError, match=message):
        loading.resolve(f"{server}/{path}")
    assert nothing_cached(cache)


def test_without_a_network(cache):
    with pytest.raises(RunError, match="could not be fetched .*name its folder"):
        loading.resolve("http://127.0.0.1:1/tiny.zip")
    assert nothing_cached(cache)


def tar_with(path, member, content=b"x"):
    with tarfile.open(path, "w") as tar:
        if isinstance(member, str):
            member = tarfile.TarInfo(member)
            member.size = len(content)
        tar.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def tar_link(path):
    member = tarfile.TarInfo("config.json")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return tar_with(path, member)


def zip_with(path, name):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"x")
    return path


def zip_link(path):
    item = zipfile.ZipInfo("config.json")
    item.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(item, "/etc/passwd")
    return path


def cut_archive(path, archives):
    content = (archives / "tiny.tar.gz").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, _: tar_with(p, "../out.txt"), "a path that leads elsewhere"),
        (lambda p, _: tar_with(p, "/out.txt"), "a path that leads elsewhere"),
        (lambda p, _: zip_with(p, "a/../../out.txt"), "a path that leads elsewhere"),
        (lambda p, _: tar_link(p), "holds a link or device, .config.json"),
        (lambda p, _: zip_link(p), "holds a link or device, .config.json"),
        (lambda p, _: zip_with(p, "notes.txt"), "holds no pretrained folder"),
        (cut_archive, "no archive .* or damaged"),
    ],
)
def test_archives_that_are_refused(tmp_path, archives, cache, make, message):
    archive = make(tmp_path / "archive", archives)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunError, match=message):
        loading.resolve(archive.as_uri())
    assert nothing_cached(cache)
    after = sorted(path.name for path in tmp_path.iterdir())
    assert [name for name in after if name != "cache"] == before


@pytest.mark.parametrize("name", [pretrained.WEIGHTS_NAME, pretrained.STATISTICS_NAME])
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_mended_archive_takes_the_damaged_ones_place(
    folder, tmp_path, cache, name, is_missing
):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    if is_missing:
        (damaged / name).unlink()
    else:
        (damaged / name).write_bytes(b"x" * 100)
    archive = tmp_path / "a.tar"
    for source in (damaged, folder):
        with tarfile.open(archive, "w") as tar:
            tar.add(source, "a")
        if source == damaged:
            with pytest.raises(RunError, match=f"a.tar: {name}"):
                loading.resolve(archive.as_uri())
            assert nothing_cached(cache)
    found = loading.resolve(archive.as_uri())
    assert sha256_of(found / name) == sha256_of(folder / name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100000,
        '{"models": {"a": {"url": "x"}}}',
        '{"models": {"a": {"url": "x", "sha256": "%s"}}}' % ("../" * 21 + "x"),
    ],
)
def test_a_damaged_registry(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RunError, match=r"r.json: damaged .*registry of .* is JSON"):
        download.read_registry(tmp_path / "r.json")


def test_other_folders_are_not_pretrained(finished_run):
    with pytest.raises(RunError, match=r"is a run, no pretrained.*open_model"):
        cola_msa.from_pretrained(finished_run)


def test_a_graph_beside_a_pretrained_folder_is_never_run(folder, tmp_path, cache):
    """A SavedModel may read and write files: nothing of it leaves the archive."""
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(folder, "tiny")
        for name in ("saved_model.pb", "metadata.json", "encoder.onnx"):
            member = tarfile.TarInfo(f"tiny/{name}")
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    model = cola_msa.open_model((tmp_path / "x.tar.gz").as_uri())
    assert model.kind == "pretrained"
    assert {p.name for p in model.path.iterdir()} == set(pretrained.LIMITS)
    # Nor where an earlier version left one in the cache, or a folder came otherwise.
    (model.path / "saved_model.pb").write_bytes(b"graph")
    (model.path / "metadata.json").write_text("{}")
    assert cola_msa.open_model((tmp_path / "x.tar.gz").as_uri()).kind == "pretrained"
    assert loading.find_kind(model.path) == "pretrained"


def test_an_export_in_an_archive_is_not_opened(tmp_path, cache):
    archive = zip_with(tmp_path / "x.zip", "saved_model.pb")
    with pytest.raises(RunError, match="holds no pretrained folder"):
        cola_msa.open_model(archive.as_uri())
    assert nothing_cached(cache)


def test_a_url_may_have_a_space(server, archives):
    shutil.copy(archives / "tiny.zip", archives / "a b.zip")
    assert cola_msa.open_model(f"{server}/a b.zip").kind == "pretrained"
    with pytest.raises(RunError, match="could not be fetched"):
        cola_msa.open_model("http://127.0.0.1:1/a b\n.zip")


@pytest.mark.parametrize(
    "place",
    [
        "ftp://127.0.0.1:1/tiny.zip",
        "FTP://127.0.0.1:1/tiny.zip",
        "file:///etc/passwd",
        "data:text/plain,x",
        "http://user:s3cret@127.0.0.1:1/tiny.zip",
    ],
)
def test_a_server_sends_on_to_http_alone(server, cache, place):
    with pytest.raises(RunError, match=r"could not be fetched \(.*(not fol|not all)"):
        loading.resolve(f"{server}/to/{urllib.parse.quote(place, safe='')}")
    assert Handler.requests == 1 and nothing_cached(cache)


def test_a_server_may_send_on(server):
    place = urllib.parse.quote(f"{server}/tiny.zip", safe="")
    assert pretrained.is_pretrained(loading.resolve(f"{server}/to/{place}"))
    assert Handler.requests == 2


@pytest.mark.parametrize("place", ["http://host/a", "ftp://host/a", "file:///a"])
def test_https_stays_https(place):
    request = urllib.request.Request("https://host/a")
    redirects = download._Redirects()
    with pytest.raises(ValueError, match="from https:// to .*, which is not followed"):
        redirects.redirect_request(request, None, 302, "", {}, place)
    found = redirects.redirect_request(request, None, 302, "", {}, "https://host/b")
    assert found.full_url == "https://host/b"


def test_a_login_goes_to_its_own_host_alone(server):
    with_login = server.replace("://", "://user:s3cr%40et@")
    assert pretrained.is_pretrained(loading.resolve(f"{with_login}/tiny.zip"))
    place = urllib.parse.quote(f"{server}/tiny.zip", safe="")
    loading.resolve(f"{with_login}/to/{place}")
    expected = "Basic " + base64.b64encode(b"user:s3cr@et").decode()
    assert Handler.logins == [expected, expected, None]


@pytest.mark.parametrize(
    "address",
    [
        "http://user:s3cret@127.0.0.1:1/a.zip",
        "http://user:s3c/ret@127.0.0.1:1/a.zip",
        "http://user:s3c@ret@127.0.0.1:1/a.zip",
        "http://s3cret@127.0.0.1:1/a.zip",
        "http://user:s3cret@127.0.0.1:1/a.zip#sha256=x",
        "ftp://user:s3cret@127.0.0.1:1/a.zip",
        "s3://user:s3cret@127.0.0.1/a.zip",
    ],
)
def test_no_message_has_the_password(cache, capsys, address):
    with pytest.raises(RunError) as caught:
        cola_msa.open_model(address)
    told = str(caught.value) + "".join(capsys.readouterr())
    assert "***@" in told
    assert "s3c" not in told and "ret@" not in told


def test_a_cached_download_that_rots_is_named(server, archives):
    secret = server.replace("://", "://user:s3cret@")
    url = f"{secret}/tiny.zip#sha256={sha256_of(archives / 'tiny.zip')}"
    path = loading.resolve(url)
    content = bytearray((path / pretrained.WEIGHTS_NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (path / pretrained.WEIGHTS_NAME).write_bytes(content)
    for open_it in (cola_msa.open_model, cola_msa.from_pretrained, loading.resolve):
        with pytest.raises(RunError) as caught:
            open_it(url)
        told = str(caught.value)
        assert f"remove the folder {path}, and the same command" in told
        assert "damaged" in told and "s3cret" not in told and "\n" not in told
    shutil.rmtree(path)
    assert cola_msa.open_model(url).kind == "pretrained"


def test_downloads_have_limits(server, cache, monkeypatch):
    monkeypatch.setattr(download, "MAX_DOWNLOAD_BYTES", 20)
    for path in ("tiny.zip", "slow/tiny.zip"):
        with pytest.raises(RunError, match="more than 20 bytes"):
            loading.resolve(f"{server}/{path}")
    monkeypatch.setattr(download, "MAX_DOWNLOAD_BYTES", 1000)
    monkeypatch.setattr(download, "MAX_DOWNLOAD_SECONDS", 0.3)
    with pytest.raises(RunError, match="which is the limit"):
        loading.resolve(f"{server}/slow/tiny.zip")
    assert nothing_cached(cache)


def test_headers_that_never_end_are_not_waited_for(server, cache, monkeypatch):
    monkeypatch.setattr(download, "MAX_DOWNLOAD_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(RunError, match="which is the limit"):
        loading.resolve(f"{server}/drip/tiny.zip")
    assert time.monotonic() - begin < 30
    assert nothing_cached(cache)


def test_a_pipe_is_not_waited_for(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, pathlib.Path("/dev/zero")):
        with pytest.raises(RunError, match="is no file"):
            loading.resolve(path.as_uri())
    assert nothing_cached(cache)


@pytest.mark.parametrize("fragment", ["sha256=x/../../victim", "sha256=" + "g" * 64])
def test_a_hash_is_no_path(folder, tmp_path, cache, fragment):
    shutil.copytree(folder, tmp_path / "victim")
    url = "http://127.0.0.1:1/x.zip"
    label = hashlib.sha256(url.encode()).hexdigest()[:16]
    (cache / f"{label}-x").mkdir(parents=True)
    with pytest.raises(RunError, match="64 hexadecimal digits"):
        download.fetch(f"{url}#{fragment}")


def test_an_address_that_is_none_is_one_line(cache):
    for url in ("http://[bad/x.zip", "http://a:b:c/x.zip", "http://127.0.0.1:1/a\nb"):
        with pytest.raises(RunError, match="could not be fetched") as found:
            cola_msa.open_model(url)
        assert "\n" not in str(found.value)


def twice(path):
    with zipfile.ZipFile(path, "w") as file:
        for name in ("config.json", "./config.json"):
            file.writestr(name, b"{}")


def twice_in_tar(path):
    path.write_bytes(header(0, "config.json") + header(0, "./config.json"))


@pytest.mark.parametrize("make", [twice, twice_in_tar])
def test_a_name_is_there_once(tmp_path, cache, make):
    make(tmp_path / "x")
    with pytest.raises(RunError, match=r"holds './config.json' twice"):
        loading.resolve((tmp_path / "x").as_uri())
    assert nothing_cached(cache)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", {"projection_dim": 16384}),
        ("model", {"drop_connect_rate": -5.0}),
        ("model", {"drop_connect_rate": 1.0}),
        ("frontend", {"window_frames": 16384, "num_mels": 1024}),
        ("frontend", {"window_frames": 1000, "hop_samples": 65536}),
        ("frontend", {"window_frames": 1000, "fft_size": 65536}),
        (None, {"name": "\x1b[2J"}),
    ],
)
def test_what_would_take_gigabytes_is_refused(folder, tmp_path, part, values):
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    content = json.loads(file.read_text())
    (content["config"][part] if part else content).update(values)
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="config.json: damaged"):
        cola_msa.open_model(tmp_path / "model")


def header(size, name="tiny/notes"):
    """A tar member's header; a negative size is written as GNU does, in base 256."""
    member = tarfile.TarInfo(name)
    member.size = max(size, 0)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        block[124:136] = size.to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def many_members(path):
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20000):
            file.writestr(f"{number}", b"")


def encrypted(path):
    zip_with(path, "config.json")
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(header(-512)), "has -512 bytes"),
        (lambda p: p.write_bytes(header(-512, "config.json")), "has -512 bytes"),
        (lambda p: p.write_bytes(header(6 << 30)), "bytes beside a pretrained"),
        (lambda p: p.write_bytes(header(6 << 30, "config.json")), "too much for an"),
        (lambda p: p.write_bytes(header(0) * 2000), "more than 1,000 members"),
        (many_members, "holds 20,000 members"),
        (encrypted, "is encrypted"),
        (lambda p: p.write_bytes(b""), "no archive"),
        (lambda p: p.write_bytes(b"\x1f\x8b" + b"\0" * 100), "no archive"),
    ],
)
def test_bombs_are_refused_at_once(tmp_path, cache, make, message):
    make(tmp_path / "x")
    begin = time.process_time()
    with pytest.raises(RunError, match=message):
        loading.resolve((tmp_path / "x").as_uri())
    assert time.process_time() - begin < 5
    assert nothing_cached(cache)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0), value=st.integers(0, 255), cut=st.integers(0))
def test_any_damage_of_an_archive_is_one_message(archives, position, value, cut):
    for name in ("tiny.tar.gz", "tiny.zip"):
        content = bytearray((archives / name).read_bytes())
        content[position % len(content)] = value
        damaged = archives / "damaged"
        damaged.write_bytes(content[: len(content) - cut % 3000])
        shutil.rmtree(archives / "out", ignore_errors=True)
        try:
            found = archives_lib.read_archive(
                damaged, archives / "out", pretrained.ARCHIVE_LIMITS, "x"
            )
        except RunError as error:
            assert str(error).startswith("x: ")
        else:
            assert all(path.is_relative_to(archives / "out") for path in found)


FETCH = """
import sys
from cola_msa.hub import loading
print(loading.resolve(sys.argv[1]))
"""


def test_processes_that_fetch_one_url_at_once(server, archives, cache, tmp_path):
    (tmp_path / "script.py").write_text(FETCH)
    url = f"{server}/tiny.zip"
    processes = [Command("script", url, cwd=tmp_path) for _ in range(4)]
    found = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    (path,) = found
    assert cola_msa.open_model(path).kind == "pretrained"
    assert Handler.requests == 1


def unpacked(archive, root, members, limits):
    """Names below each folder that an archive of these members gives."""
    with tarfile.open(archive, "w") as tar:
        for name, size in members.items():
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    found = archives_lib.read_archive(archive, root, limits, "a.tar")
    return [
        sorted(p.relative_to(place).as_posix() for p in place.rglob("*.*"))
        for place in found
    ]


def test_files_of_a_folder_within_are_known_by_a_pattern(tmp_path):
    limits = {"config.json": 10, "heads/*.npz": 10}
    names = (
        "a.npz",
        "a-b_2.0.npz",
        ".npz",
        "*.npz",
        "b.txt",
        "ü.npz",
        "-.npz",
        "a b.npz",
    )
    members = {f"top/heads/{name}": 1 for name in names}
    members |= {"top/config.json": 1, "top/x/heads/c.npz": 1, "top/heads/d/e.npz": 1}
    members |= {"heads/f.npz": 1, "top/" + "y" * 97 + ".npz": 1, "top/other/g.npz": 1}
    members["top/heads/" + "y" * 97 + ".npz"] = 1
    found = unpacked(tmp_path / "a.tar", tmp_path / "out", members, limits)
    assert found == [
        ["config.json", "heads/a-b_2.0.npz", "heads/a.npz"],
        ["heads/f.npz"],
    ]
    # A folder may itself be called heads.
    members = {"heads/config.json": 1, "heads/heads/a.npz": 1}
    found = unpacked(tmp_path / "a.tar", tmp_path / "out2", members, limits)
    assert found == [["config.json", "heads/a.npz"]]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"heads/a.npz": 11}, "has 11 bytes, .*at most 10 together"),
        ({"heads/a.npz": 6, "heads/b.npz": 6}, "b.npz' has 6 bytes, .*10 together"),
        ({"heads/a.npz": 1, "./heads/a.npz": 1}, "twice"),
        ({"heads/../heads/a.npz": 1}, "leads elsewhere"),
    ],
)
def test_a_folder_within_has_limits_together(tmp_path, members, message):
    with pytest.raises(RunError, match=message):
        unpacked(tmp_path / "a.tar", tmp_path / "out", members, {"heads/*.npz": 10})
    fitting = {"x/heads/a.npz": 10, "y/heads/a.npz": 10}
    assert (
        len(unpacked(tmp_path / "b", tmp_path / "z", fitting, {"heads/*.npz": 10})) == 2
    )


def rehashed(folder, name):
    """Makes config.json agree with a changed file, as a hostile maker would."""
    content = json.loads((folder / "config.json").read_text())
    content["files"][name] = sha256_of(folder / name)
    (folder / "config.json").write_text(json.dumps(content))


def first_array(file):
    names = []
    file.visititems(
        lambda n, item: names.append(n) if isinstance(item, h5py.Dataset) else None
    )
    return max(names, key=lambda name: file[name].size)


def compressed(file, name, tmp_path):
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "f4", compression="gzip", chunks=shape)


def larger(file, name, tmp_path):
    del file[name]
    file.create_dataset(name, (9 << 28,), "f4", compression="gzip", chunks=(1 << 20,))


def external(file, name, tmp_path):
    shape, size = file[name].shape, file[name].nbytes
    (tmp_path / "secret").write_bytes(b"\1" * size)
    del file[name]
    file.create_dataset(
        name, shape, "f4", external=[(str(tmp_path / "secret"), 0, size)]
    )


def virtual(file, name, tmp_path):
    shape = file[name].shape
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other.create_dataset("x", shape, "f4")
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "x", shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def linked(file, name, tmp_path):
    shape = file[name].shape
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other.create_dataset("x", shape, "f4")
    del file[name]
    file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")


def doubles(file, name, tmp_path):
    values = file[name][()].astype("f8")
    del file[name]
    file[name] = values


@pytest.mark.parametrize("name", [pretrained.WEIGHTS_NAME, pretrained.STATISTICS_NAME])
@pytest.mark.parametrize(
    "change", [compressed, larger, external, virtual, linked, doubles]
)
def test_hdf5_files_hold_what_was_written_and_nothing_else(
    folder, tmp_path, name, change
):
    shutil.copytree(folder, tmp_path / "model")
    with h5py.File(tmp_path / "model" / name, "a") as file:
        change(file, first_array(file), tmp_path)
    rehashed(tmp_path / "model", name)
    with pytest.raises(RunError, match=name):
        model = cola_msa.open_model(tmp_path / "model")
        model.matcher.project(np.zeros((1, 98, 64, 1), np.float32))


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_of(item, (*path, key))


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1 << 31, 1 << 40, 10**30, 1e308]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=HOSTILE)
def test_any_value_of_a_configuration_is_taken_or_refused(folder, data, value):
    content = json.loads((folder / "config.json").read_text())
    *parents, key = data.draw(st.sampled_from([p for p in paths_of(content) if p]))
    part = content
    for name in parents:
        part = part[name]
    part[key] = value
    hostile = folder.parent / "hostile"
    hostile.mkdir(exist_ok=True)
    (hostile / "config.json").write_text(json.dumps(content))
    try:
        found = pretrained.read_config(hostile)
    except RunError as error:
        assert "config.json" in str(error) and "\n" not in str(error)
    else:
        frontend = from_dict(Config, found["config"]).frontend
        assert frontend.num_mels <= 1024 and frontend.window_frames <= 1 << 14


@pytest.mark.parametrize(
    "text",
    ["[" * 100000, "{}", "[1]", "\xff", '{"format": NaN}', " " * (5 << 20), "null"],
)
def test_no_configuration_is_a_traceback(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match="config.json: damaged"):
        pretrained.read_config(tmp_path)
    with pytest.raises(RunError):
        loading.open_model(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("", "step", -1),
        ("", "step", 10**30),
        ("data", "sources", 5),
        ("data", "sources", ["vocals", 5]),
    ],
)
def test_values_that_other_commands_read_are_checked(
    folder, tmp_path, part, key, value
):
    content = json.loads((folder / "config.json").read_text())
    (content[part] if part else content)[key] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"config.json: damaged .*{key}"):
        pretrained.read_config(tmp_path)


def test_a_pretrained_folder_is_no_run_without_checkpoints(folder):
    with pytest.raises(RunError, match="a pretrained folder, where this needs a run"):
        kept.kept_path(folder)
