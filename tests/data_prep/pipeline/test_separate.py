"""Stems as a stage of their own, for every dataset whose stems a user may want."""

import json

import pytest
from absl import flags

from cola_msa.system import console
from data_prep import separate
from data_prep.stems import separator
from tests.data_prep.datasets.test_datasets import (
    NAMES,
    dataset_of,
    execute,
    write_tree,
)
from tests.data_prep.pipeline.test_runner import digests
from tests.helpers import trees
from tests.helpers.buckets import one_line, put


def run(dataset: str, root, cache, weights_dir, *more: str) -> int:
    values = flags.FlagValues()
    separate.define_flags(values)
    given = [f"--dataset={dataset}", f"--dataset_dir={root}", f"--stems_cache={cache}"]
    values(["x", *given, f"--separator={weights_dir}", "--niter=0", *more])
    return console.run(separate.main, values)


def test_it_knows_the_datasets_that_take_a_separator():
    optional = {name for name in NAMES if dataset_of(name).stems == "optional"}
    assert set(separate.DATASETS) == optional


@pytest.mark.parametrize("name", sorted(set(separate.DATASETS) - {"mtat", "folder"}))
def test_what_it_makes_serves_the_dataset(
    openunmix, weights_dir, tmp_path, monkeypatch, name
):
    root = write_tree(name, tmp_path / "raw")
    more = (f"--separator={weights_dir}", "--niter=0")
    assert execute(name, root, tmp_path / "direct", *more) == 0
    manifest = json.loads((tmp_path / "direct" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["active_share"]["vocals"] is not None
    assert manifest["splits"]["test"]["active_share"]["vocals"] is None
    cache = tmp_path / "cache"
    assert run(name, root, cache, weights_dir) == 0

    def forbid(*_: object) -> None:
        raise AssertionError("nothing is to be separated")

    monkeypatch.setattr(separator.Separator, "_separate_chunk", forbid)
    more = (*more, f"--stems_cache={cache}")
    assert execute(name, root, tmp_path / "cached", *more) == 0
    assert digests(tmp_path / "cached") == digests(tmp_path / "direct")


def test_split_files_elsewhere(openunmix, weights_dir, tmp_path, capsys):
    root = trees.write_gtzan(tmp_path / "raw")
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in root.glob("*.txt"):
        path.rename(lists / path.name)
    cache = tmp_path / "cache"
    assert run("gtzan", root, cache, weights_dir) == 1
    more = (f"--split_dir={lists}", "--stem_splits=validation")
    assert run("gtzan", root, cache, weights_dir, *more) == 0
    assert "2 of 2 clips have stems" in capsys.readouterr().out
    assert run("mtat", root, cache, weights_dir, *more) == 2
    assert "mtat has no split files" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("content", ["my notes\n", '{"mine": 1}\n'])
def test_a_users_file_with_the_failures_name_stays(
    openunmix, weights_dir, tmp_path, capsys, content
):
    root, cache = trees.write_folder(tmp_path / "raw"), tmp_path / "cache"
    cache.mkdir()
    path = cache / "failures-folder.jsonl"
    path.write_text(content)
    assert run("folder", root, cache, weights_dir) in (1, 2)
    assert "nothing is written over it" in one_line(capsys.readouterr().err)
    assert path.read_text() == content and list(cache.iterdir()) == [path]
    path.write_text('{"clip_id": "a", "path": "a.wav", "spl')  # of a killed process
    assert run("folder", root, cache, weights_dir) == 0


@pytest.mark.parametrize("what", ["gone", "unmounted"])
def test_a_lost_disk_fails_no_clip(
    openunmix, weights_dir, tmp_path, monkeypatch, capsys, what
):
    root, cache = trees.write_folder(tmp_path / "raw"), tmp_path / "cache"
    real = separator.Separator.separate_file
    away = tmp_path / "away"

    def vanish(self, *arguments):
        if list(cache.rglob("stems.json")) and not away.exists():
            root.rename(away)
            if what == "unmounted":
                root.mkdir()
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(separator.Separator, "separate_file", vanish)
        assert run("folder", root, cache, weights_dir) == 1
    error = one_line(capsys.readouterr().err)
    told = "is empty now" if what == "unmounted" else "has vanished"
    assert f"{root} {told}" in error and "finished stems are kept" in error
    assert (cache / "failures-folder.jsonl").read_text() == ""
    if what == "unmounted":
        root.rmdir()
    away.rename(root)
    assert run("folder", root, cache, weights_dir) == 0
    assert len(list(cache.rglob("stems.json"))) == 4


def test_a_dataset_at_an_address(openunmix, weights_dir, bucket, tmp_path, capsys):
    root = trees.write_folder(tmp_path / "raw")
    data = put(bucket, root, "raw")
    assert run("folder", root, tmp_path / "local", weights_dir) == 0
    assert run("folder", data, tmp_path / "cache", weights_dir) == 0
    local, cache = (
        {n: c for n, c in trees.files_of(tmp_path / name).items() if ".lock" not in n}
        for name in ("local", "cache")
    )
    assert cache == local
    assert run("folder", data, "memory://cache", weights_dir) == 2
    assert "name a local one" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["folder", "labelled_folder"])
@pytest.mark.parametrize("place", ["raw", "raw/stems", "link/stems"])
def test_a_cache_among_the_clips_is_refused(
    openunmix, weights_dir, tmp_path, capsys, name, place
):
    root = write_tree(name, tmp_path / "raw")
    (tmp_path / "link").symlink_to("raw")
    before = sorted(root.rglob("*"))
    cache = tmp_path / place
    assert run(name, root, cache, weights_dir) == 2
    assert "name a folder elsewhere" in one_line(capsys.readouterr().err)
    more = (f"--separator={weights_dir}", f"--stems_cache={cache}")
    assert execute(name, root, tmp_path / "out", *more) == 2
    assert "name a folder elsewhere" in one_line(capsys.readouterr().err)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("flag", ["dataset_dir", "stems_cache"])
def test_an_empty_name_is_not_the_current_folder(weights_dir, flag):
    with pytest.raises(flags.IllegalFlagValueError, match="names nothing"):
        run("folder", "raw", "cache", weights_dir, f"--{flag}=")


def test_stems_within_a_labelled_folder_are_no_class(tmp_path):
    root = trees.write_labelled_folder(tmp_path / "raw")
    for path in sorted(root.rglob("*.wav")):
        name = path.relative_to(root).as_posix().removesuffix(".wav")
        trees.write_wav(root / "stems" / name / "bass.wav", trees.chirp(4))
    more = (f"--stems_dir={root / 'stems'}",)
    assert execute("labelled_folder", root, tmp_path / "out", *more) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["class_names"] == ["calm", "loud"]
    assert manifest["splits"]["train"]["active_share"]["bass"] == 1.0
