"""Pretrained folders by URL and by name: cached, hashed, refused where they differ."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile

import numpy as np
import pytest

import cola_msa
from cola_msa import checkpoints, download, loading, pretrained
from cola_msa.storage import RunError


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "tiny"
    pretrained.save_pretrained(finished_run, path)
    return path


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
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(download.REGISTRY_VARIABLE, raising=False)
    return tmp_path / "cache"


class Handler(http.server.SimpleHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
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
    return not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["tiny.tar.gz", "tiny.zip"])
def test_a_url_is_fetched_once(server, archives, finished_run, name):
    url = f"{server}/{name}#sha256={sha256_of(archives / name)}"
    model = cola_msa.from_pretrained(url)
    assert model.kind == "pretrained"
    assert model.key == checkpoints.encoder_key(finished_run)
    mel = np.random.default_rng(0).normal(-3, 2, (2, 98, 64, 1)).astype(np.float32)
    expected = checkpoints.load_encoder(finished_run)(mel, training=False).numpy()
    difference = np.linalg.norm(model.embed(mel) - expected)
    assert difference < 1e-5 * np.linalg.norm(expected)
    assert Handler.requests == 1
    assert loading.resolve(url) == model.path
    assert Handler.requests == 1


def test_a_file_url_needs_no_server(archives, cache):
    path = loading.resolve((archives / "tiny.zip").as_uri())
    assert path.parent == cache and pretrained.is_pretrained(path)
    assert [p.name for p in cache.iterdir()] == [path.name]


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
    with pytest.raises(RunError, match=r"does not exist; name .*of the registry"):
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
        (lambda p, _: tar_link(p), "holds a link or device, config.json"),
        (lambda p, _: zip_link(p), "holds a link, config.json"),
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


@pytest.mark.parametrize("text", ["", "[]", '{"models": {"a": {"url": "x"}}}'])
def test_a_damaged_registry(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RunError, match=r"r.json: no registry.*it must be JSON"):
        download.read_registry(tmp_path / "r.json")


def test_other_folders_are_not_pretrained(finished_run):
    with pytest.raises(RunError, match=r"is a run, no pretrained.*open_model"):
        cola_msa.from_pretrained(finished_run)
