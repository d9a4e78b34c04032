"""Addresses taken apart and put together, and files of them as local ones."""

import os

import pytest

from cola_msa.remote import addresses


@pytest.mark.parametrize(
    ("folder", "name", "url"),
    [
        ("gs://bucket/a", "b.wav", "gs://bucket/a/b.wav"),
        ("gs://bucket", "b.wav", "gs://bucket/b.wav"),
        ("memory://", "b.wav", "memory:///b.wav"),
        ("s3://user:pass@host/x", "ü [1].wav", "s3://user:pass@host/x/ü [1].wav"),
        ("simplecache::gs://bucket/a", "b.wav", "simplecache::gs://bucket/a/b.wav"),
        ("zip://a::gs://bucket/x.zip", "b.wav", "zip://a/b.wav::gs://bucket/x.zip"),
    ],
)
def test_split_and_join(folder, name, url):
    assert addresses.join(folder, name) == url
    if "cache::" not in url:
        assert addresses.split(url) == (folder, name)
    else:  # the file system that is asked is the same
        assert "::".join(addresses.split(url)).startswith("simplecache::gs://bucket/a")


def test_a_bucket_has_no_name():
    assert addresses.split("gs://bucket") == ("gs://bucket", "")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("local:///a", "/a"),
        ("a/b", "a/b"),
        ("gs://a/b", "gs://a/b"),
    ],
)
def test_local_paths(given, path):
    assert addresses.local_path(given) == path


@pytest.mark.parametrize("name", ["a.stem.mp4", f"{'x' * 300}.flac", "%20 #?.wav"])
def test_a_fetched_file_keeps_its_suffix_and_goes(bucket, name, tmp_path):
    bucket.pipe_file(f"/bucket/{name}", b"content")
    with addresses.fetched(f"memory://bucket/{name}") as path:
        assert path.read_bytes() == b"content"
        assert path.name.endswith(name[-9:]) and len(os.fsencode(path.name)) < 256
    assert not path.exists() and not list((tmp_path / "scratch").iterdir())


def test_parts_of_files_and_new_names(bucket):
    bucket.pipe_file("/bucket/a.bin", bytes(range(100)))
    folder = addresses.open_folder("memory://bucket")
    assert folder.size("a.bin") == 100
    assert folder.read("a.bin", 10, 13) == bytes([10, 11, 12])
    with pytest.raises(addresses.RemoteError, match="10 of 20 bytes arrived"):
        folder.read("a.bin", 90, 110)
    folder.move("a.bin", "b.bin")
    assert folder.kind("a.bin") is None and folder.kind("b.bin") == "file"
    assert folder.kind() == "directory"
    with pytest.raises(addresses.RemoteError) as caught:
        folder.size("a.bin")
    assert caught.value.is_missing


def test_what_lies_below_and_what_matches(bucket):
    for name in ("a/1.wav", "a/b/2.wav", "3.wav", "ab/4.txt"):
        bucket.pipe_file(f"/bucket/{name}", b"x")
    folder = addresses.open_folder("memory://bucket")
    assert folder.files_below() == (["3.wav", "a/1.wav", "a/b/2.wav", "ab/4.txt"], {})
    assert folder.glob("a*") == {"a": True, "ab": True}
    assert folder.glob("**/*.wav") == {
        "3.wav": False,
        "a/1.wav": False,
        "a/b/2.wav": False,
    }
