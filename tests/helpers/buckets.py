"""A memory file system that stands for a bucket, and what its tests share."""

import json
import pathlib

from cola_msa.remote import addresses

# Every clip is a shard of its own.
FOLDER_FLAGS = ("--split_by=clip", "--validation_share=0", "--clips_per_shard=1")


def put(bucket, folder: pathlib.Path, name: str) -> str:
    """Copies a folder into the bucket; its address."""
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.put_file(str(path), f"/{name}/{path.relative_to(folder)}")
    return f"memory://{name}"


def get(bucket, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Copies what lies in the bucket to a folder."""
    for path in bucket.find(f"/{name}"):
        target = folder / path.removeprefix(f"/{name}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        bucket.get_file(path, str(target))
    return folder


def scratch_left(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    return list((tmp_path / "scratch").glob(f"{addresses.SCRATCH_PREFIX}*"))


def one_line(error: str) -> str:
    (line,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert "Traceback" not in error
    return line


def failures_at(bucket, name: str) -> dict[str, str]:
    content = json.loads(bucket.cat_file(f"/{name}/manifest.json"))
    return {failure["path"]: failure["reason"] for failure in content["failures"]}
