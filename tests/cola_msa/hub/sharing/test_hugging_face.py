"""Pretrained folders from Hugging Face, by a local server in its place."""

import hashlib
import importlib
import io
import json
import logging
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

import cola_msa
from cola_msa.hub import loading, pretrained
from cola_msa.hub.sharing import hugging_face
from cola_msa.runs import kept
from cola_msa.system import folders
from cola_msa.system.errors import RunError
from tests.helpers.commands import run_module
from tests.helpers.hub_server import serve

library = pytest.importorskip(
    "huggingface_hub", reason="the extra hub is not installed"
)
constants = importlib.import_module("huggingface_hub.constants")
REPOSITORY = "user/tiny"
ADDRESS = f"hf://{REPOSITORY}"


@pytest.fixture(scope="module")
def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(folders.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "hf"


def point_to(monkeypatch, url, hub_cache):
    """The library reads its environment when it is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(hub_cache / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub(tmp_path, monkeypatch, cache):
    with serve() as found:
        point_to(monkeypatch, found.url, tmp_path / "hub")
        yield found


@pytest.fixture
def offline(monkeypatch):
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(address, message):
    """What opening says, in one line."""
    with pytest.raises(RunError, match=message) as caught:
        loading.resolve(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nothing_kept(cache):
    return not list(cache.rglob("config.json"))


def test_a_branch_is_fetched_and_its_commit_is_told(
    hub, files, cache, finished_run, caplog
):
    commit = hub.commit(REPOSITORY, files)
    with caplog.at_level(logging.INFO, logger="absl"):
        model = cola_msa.from_pretrained(ADDRESS)
    assert model.key == kept.encoder_key(finished_run)
    assert model.path == cache / "user" / "tiny" / commit
    assert model.description.endswith(f", hf://user/tiny@{commit}")
    assert f"hf://user/tiny@main is commit {commit}" in caplog.text
    mel = np.random.default_rng(0).normal(-3, 2, (2, 98, 64, 1)).astype(np.float32)
    expected = kept.load_model(finished_run).encoder(mel, training=False).numpy()
    difference = np.linalg.norm(model.embed(mel) - expected)
    assert difference < 1e-5 * np.linalg.norm(expected)
    assert sorted(hub.fetched()) == sorted(files)
    # Again: the hub is asked for the commit, and nothing is fetched.
    assert cola_msa.open_model(f"{ADDRESS}@main").path == model.path
    assert len(hub.fetched()) == len(files)


def test_links_of_the_hubs_cache_become_files_of_their_own(hub, files, cache):
    hub.commit(REPOSITORY, files)
    path = loading.resolve(ADDRESS)
    (link,) = pathlib.Path(constants.HF_HUB_CACHE).rglob(pretrained.WEIGHTS_NAME)
    assert link.is_symlink()
    assert not any(file.is_symlink() for file in path.iterdir())
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert cola_msa.open_model(path).kind == "pretrained"


def test_nothing_but_known_files_is_fetched(hub, files, cache):
    extra = dict.fromkeys(("modeling.py", "evil.pkl", "saved_model.pb"), b"boom")
    hub.commit(REPOSITORY, {**files, **extra})
    path = loading.resolve(ADDRESS)
    assert {file.name for file in path.iterdir()} == set(files)
    assert not set(hub.fetched()) & set(extra)


def with_heads(files, **heads):
    """The same folder with files of heads, which config.json lists but for `other`."""
    content = json.loads(files["config.json"])
    content["heads"] = [
        {"file": f"heads/{n}.npz", "sha256": hashlib.sha256(c).hexdigest(), "task": n}
        for n, c in heads.items()
        if n != "other"
    ]
    named = {f"heads/{name}.npz": content for name, content in heads.items()}
    return {**files, **named, "config.json": json.dumps(content).encode()}


def test_heads_that_the_folder_lists_are_fetched(hub, files):
    listed = with_heads(files, mtat=b"abc", fma=b"de", other=b"not listed")
    hub.commit(REPOSITORY, listed)
    path = loading.resolve(ADDRESS)
    assert (path / "heads/mtat.npz").read_bytes() == b"abc"
    assert {p.name for p in (path / "heads").iterdir()} == {"mtat.npz", "fma.npz"}
    assert "heads/other.npz" not in hub.fetched()


@pytest.mark.parametrize("size", [8, 5])
def test_heads_are_bounded_together(hub, files, cache, monkeypatch, size):
    monkeypatch.setattr(hugging_face, "MAX_BYTES", 7)
    hub.commit(REPOSITORY, with_heads(files, mtat=b"a" * size, fma=b"b" * size))
    refused(ADDRESS, "heads.* has more than 7 bytes, too much for an encoder")
    assert nothing_kept(cache)


def test_heads_that_do_not_fit_are_not_kept(hub, files, cache):
    listed = with_heads(files, mtat=b"abc")
    hub.commit(REPOSITORY, {**listed, "heads/mtat.npz": b"xyz"})
    refused(ADDRESS, "heads/mtat.npz: damaged or not the original")
    assert nothing_kept(cache)


def test_a_card_may_be_missing(hub, files):
    hub.commit(REPOSITORY, {n: c for n, c in files.items() if n != "README.md"})
    assert cola_msa.open_model(ADDRESS).kind == "pretrained"


def test_a_revision_that_moves_is_followed_and_a_commit_is_not(
    hub, files, folder, tmp_path
):
    first = hub.commit(REPOSITORY, files)
    assert loading.resolve(ADDRESS).name == first
    changed = dict(files, **{"README.md": b"another card"})
    second = hub.commit(REPOSITORY, changed)
    assert loading.resolve(ADDRESS).name == second
    assert (loading.resolve(ADDRESS) / "README.md").read_bytes() == b"another card"
    hub.requests.clear()
    path = loading.resolve(f"{ADDRESS}@{first}")
    assert path.name == first and (path / "README.md").read_bytes() != b"another card"
    assert hub.requests == []  # a commit that is there needs no hub


@pytest.mark.parametrize("branch", ["v1.0", "refs/pr/1", "feature--x_y+z"])
def test_branches_and_tags_have_such_names(hub, files, branch):
    commit = hub.commit(REPOSITORY, files, branch)
    assert loading.resolve(f"HF://user/tiny@{branch}").name == commit


def test_offline_opens_what_a_branch_was_last(hub, files, offline):
    commit = hub.commit(REPOSITORY, files)
    loading.resolve(ADDRESS)
    offline()
    hub.requests.clear()
    assert loading.resolve(ADDRESS).name == commit
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["main", "0" * 40])
def test_offline_what_is_not_cached_is_refused(hub, files, offline, cache, revision):
    offline()
    refused(f"{ADDRESS}@{revision}", "HF_HUB_OFFLINE forbids .*does not have it")
    assert hub.requests == [] and nothing_kept(cache)


@pytest.mark.parametrize("by", ["main", "commit"])
def test_what_the_hubs_own_commands_fetched_is_opened_offline(
    hub, files, offline, cache, by
):
    commit = hub.commit(REPOSITORY, files)
    for name in files:
        library.hf_hub_download(REPOSITORY, name)
    offline()
    path = loading.resolve(f"{ADDRESS}@{commit if by == 'commit' else by}")
    assert path.name == commit and {p.name for p in path.iterdir()} == set(files)


def test_offline_a_part_of_a_folder_is_refused(hub, files, offline, cache):
    hub.commit(REPOSITORY, files)
    library.hf_hub_download(REPOSITORY, "config.json")
    offline()
    refused(ADDRESS, "model.weights.h5 is not in the hub's cache")
    assert nothing_kept(cache)


def test_a_pinned_commit_makes_the_branch_known_offline(hub, files, offline):
    commit = hub.commit(REPOSITORY, files)
    loading.resolve(f"{ADDRESS}@{commit}")
    loading.resolve(ADDRESS)
    offline()
    assert loading.resolve(ADDRESS).name == commit


@pytest.mark.parametrize("kind", ["no network", "out of order"])
def test_without_the_hub_what_was_fetched_last_is_opened_and_told(
    hub, files, monkeypatch, tmp_path, caplog, kind
):
    commit = hub.commit(REPOSITORY, files)
    loading.resolve(ADDRESS)
    if kind == "no network":
        point_to(monkeypatch, "http://127.0.0.1:1", tmp_path / "hub")
    else:
        hub.status = 503
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert loading.resolve(ADDRESS).name == commit
    assert "what was fetched last is opened" in caplog.text and commit in caplog.text
    refused("hf://user/other", "could not be fetched .*does not have it.*its folder")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://user/other", "there is no such repository of models, or it is private"),
        (f"{ADDRESS}@v2", "has no branch, tag or commit"),
        (f"{ADDRESS}@{'0' * 40}", "has no branch, tag or commit"),
    ],
)
def test_what_is_not_there(hub, files, cache, address, message):
    hub.commit(REPOSITORY, files)
    refused(address, message)
    assert nothing_kept(cache)


@pytest.mark.parametrize(
    ("status", "message"), [(403, "the hub refuses .*403"), (429, "refuses .*429")]
)
def test_what_the_hub_refuses(hub, files, status, message):
    hub.status = status
    refused(ADDRESS, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": None}, "holds no pretrained folder: it has no config.json"),
        ({"config.json": b'{"model_type": "bert"}'}, "holds no pretrained folder"),
        ({"config.json": b"[" * 99999}, "holds no pretrained folder"),
        ({pretrained.WEIGHTS_NAME: None}, "it has no model.weights.h5"),
        ({pretrained.STATISTICS_NAME: b"x"}, "statistics.h5: damaged or not"),
    ],
)
def test_what_is_no_whole_pretrained_folder(hub, files, cache, change, message):
    changed = {n: c for n, c in {**files, **change}.items() if c is not None}
    hub.commit(REPOSITORY, changed)
    told = refused(ADDRESS, message)
    assert told.startswith("hf://user/tiny@main: ") and str(cache) not in told
    assert nothing_kept(cache)
    if "config.json" in change:  # what is no such folder is not fetched further
        assert pretrained.WEIGHTS_NAME not in hub.fetched()


def test_a_config_that_names_other_files_fetches_none(hub, files, cache):
    content = json.loads(files["config.json"])
    content["files"]["../../evil.pkl"] = "0" * 64
    evil = {**files, "config.json": json.dumps(content).encode(), "evil.pkl": b"x"}
    hub.commit(REPOSITORY, evil)
    refused(ADDRESS, "config.json: damaged .*evil.pkl")
    assert hub.fetched() == ["config.json"] and nothing_kept(cache)


@pytest.mark.parametrize("name", ["config.json", "README.md", pretrained.WEIGHTS_NAME])
def test_a_hash_that_does_not_fit(hub, files, cache, name):
    commit = hub.commit(REPOSITORY, files)
    content = bytearray(files[name])
    content[len(content) // 2] ^= 1
    hub.sent[name] = bytes(content)
    # Of the card, too, of which config.json says nothing.
    refused(ADDRESS, f"{name} is not the file that the hub names: its hash is not")
    assert nothing_kept(cache)
    # What is damaged lies in the library's cache; it is fetched again from there.
    hub.sent.clear()
    assert (loading.resolve(ADDRESS) / name).read_bytes() == files[name]
    assert loading.resolve(ADDRESS).name == commit


@pytest.mark.parametrize("by", ["size", "content", "endless"])
@pytest.mark.parametrize("name", ["config.json", pretrained.WEIGHTS_NAME])
def test_a_file_that_is_too_large(hub, files, cache, monkeypatch, name, by):
    hub.commit(REPOSITORY, files)
    if by == "size":
        hub.sizes[name] = pretrained.LIMITS[name] + 1
    elif by == "content":
        hub.sent[name] = files[name] + b"x" * 1000
        monkeypatch.setitem(pretrained.LIMITS, name, len(files[name]) + 10)
    else:
        hub.endless.add(name)
        monkeypatch.setitem(pretrained.LIMITS, name, 1 << 24)
    refused(ADDRESS, f"{name} has more than .* bytes, too much for an encoder")
    assert nothing_kept(cache)


def test_the_limit_of_time_holds(hub, files, cache, monkeypatch):
    hub.commit(REPOSITORY, files)
    hub.endless.add(pretrained.WEIGHTS_NAME)
    monkeypatch.setitem(pretrained.LIMITS, pretrained.WEIGHTS_NAME, 1 << 60)
    monkeypatch.setattr(hugging_face, "MAX_DOWNLOAD_SECONDS", 1)
    refused(ADDRESS, "not fetched within 1 s, which is the limit")
    assert nothing_kept(cache)


@pytest.mark.parametrize("named", ["../../../evil", "0" * 39, "1" * 40])
def test_a_server_that_names_another_commit(hub, files, cache, named):
    commit = hub.commit(REPOSITORY, files)
    hub.named_commit = named
    refused(f"{ADDRESS}@{commit}", "names no commit|answers with another commit")
    assert nothing_kept(cache)


@pytest.mark.parametrize("is_commit", [True, False])
def test_the_hash_of_config_json_holds_for_all(hub, files, cache, is_commit):
    commit = hub.commit(REPOSITORY, files)
    address = f"{ADDRESS}@{commit}" if is_commit else ADDRESS
    sha256 = hashlib.sha256(files["config.json"]).hexdigest()
    wrong = f"{address}#sha256={'0' * 64}"
    refused(wrong, "config.json is not the expected file: SHA-256")
    assert hub.fetched() == ["config.json"] and nothing_kept(cache)
    assert loading.resolve(f"{address}#sha256={sha256.upper()}").name == commit
    refused(wrong, "config.json is not the expected file: SHA-256")


def test_what_rots_in_the_cache_is_named(hub, files):
    commit = hub.commit(REPOSITORY, files)
    path = loading.resolve(ADDRESS)
    (path / pretrained.WEIGHTS_NAME).write_bytes(b"x")
    for address in (ADDRESS, f"{ADDRESS}@{commit}"):
        refused(address, f"remove the folder {path}, and the same command")
    shutil.rmtree(path)
    assert cola_msa.open_model(ADDRESS).path == path


def test_a_login_of_the_endpoint_is_not_shown(hub, files, monkeypatch, tmp_path, capfd):
    hub.commit(REPOSITORY, files)
    secret = hub.url.replace("://", "://user:s3cret@")
    point_to(monkeypatch, secret, tmp_path / "hub")
    loading.resolve(ADDRESS)
    assert all(login.startswith("Basic ") for _, _, login in hub.requests[:1])
    point_to(monkeypatch, "http://user:s3cret@127.0.0.1:1", tmp_path / "hub")
    told = refused("hf://user/other", "could not be fetched")
    assert "s3cret" not in told + "".join(capfd.readouterr())


def test_what_the_library_logs_has_no_login():
    handler = logging.StreamHandler(io.StringIO())
    log = logging.getLogger("huggingface_hub")
    log.addHandler(handler)
    client = logging.getLogger("httpx2")
    before = client.level
    client.setLevel(logging.INFO)
    try:
        with hugging_face._hidden_logins():
            warn = logging.getLogger("huggingface_hub.file_download").warning
            warn("Error while downloading from %s", "http://user:s3cret@host/a")
            assert not client.isEnabledFor(logging.INFO)
        assert client.level == logging.INFO
    finally:
        client.setLevel(before)
        log.removeHandler(handler)
    told = handler.stream.getvalue()
    assert told == "Error while downloading from http://***@host/a\n"


def test_the_token_goes_to_the_hub_and_is_never_shown(hub, files, monkeypatch, capfd):
    hub.commit(REPOSITORY, files)
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    loading.resolve(ADDRESS)
    told = {(path.split("/")[1], login) for _, path, login in hub.requests}
    assert told >= {("user", "Bearer hf_s3cret"), ("store", None)}
    assert not {("user", None), ("store", "Bearer hf_s3cret")} & told
    monkeypatch.setenv("HF_TOKEN", "hf_s3crét")
    told = refused("hf://user/other", "could not be fetched")
    assert "s3cr" not in told + "".join(capfd.readouterr())
    error = ValueError("Illegal header value b'Bearer hf_s3cret\\n'")
    told = str(hugging_face._unreachable(hugging_face._parse(ADDRESS), "x", error))
    assert "Bearer ***" in told and "s3cret" not in told


def test_commands_fetch_by_the_environment(hub, files, tmp_path, monkeypatch):
    """Endpoint, caches, offline mode, as the library reads them at its import."""
    commit = hub.commit(REPOSITORY, files)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    noise = np.random.default_rng(0).normal(0, 0.1, 32000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)

    def embed(address):
        command = ("cola_msa.embed", f"--model={address}", "--input=noise.wav")
        return run_module(*command, "--output=noise.npz", cwd=tmp_path)

    found = embed(ADDRESS)
    assert found.returncode == 0, found.stderr
    assert f"hf://user/tiny@{commit}" in found.stdout
    assert f"hf://user/tiny@main is commit {commit}" in found.stderr
    assert "HTTP" not in found.stderr
    assert (tmp_path / "home/hub/models--user--tiny/refs/main").read_text() == commit
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    found = embed("hf://user/other")
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("error: ")]
    assert found.returncode == 1 and "HF_HUB_OFFLINE forbids" in line
    assert hub.requests == []


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("export", "--run_dir"),
        ("import_weights", "--pretrained"),
        ("match", "--model"),
    ],
)
def test_doors_take_addresses(hub, files, tmp_path, monkeypatch, command, flag):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    arguments = ["--output_dir=out"]
    if command == "match":
        soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
        arguments = ["--mixture=a.wav", "--stems=a.wav"]
    found = run_module(
        f"cola_msa.{command}", f"{flag}={ADDRESS}@v1", *arguments, cwd=tmp_path
    )
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("error: ")]
    assert found.returncode == 1
    assert line.startswith("error: hf://user/tiny@v1: there is no such repository")


@pytest.mark.parametrize("version", ["0.36.2", "1.1.7", "1.0.0rc1"])
def test_an_older_library_is_named(hub, monkeypatch, version):
    monkeypatch.setattr(library, "__version__", version)
    refused(ADDRESS, f"need a later huggingface_hub than {version}: pip install")


def test_hashes_are_gits(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")  # by `git hash-object`
    expected = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
    assert hugging_face._hash_of(tmp_path / "x", 40) == expected
