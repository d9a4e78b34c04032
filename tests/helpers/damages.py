"""Prepared data that is not what was made: one way each, by name."""

import json
import os
import shutil

from cola_msa.records import index as index_lib
from cola_msa.records import schema
from cola_msa.system import files

SHARD = "train-00000-of-00002.tfrecord"
VALIDATION = "validation-00000-of-00002.tfrecord"


def seal(folder):
    """Gives a folder of `write_prepared` the checksums that a preparation writes."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, split in manifest["splits"].items():
        split["index_sha256"] = files.file_sha256(folder / f"index-{name}.npz")
        split["shard_sha256"] = [
            files.file_sha256(folder / shard) for shard in split["shards"]
        ]
    schema.write_manifest(folder, manifest)
    return folder


def zero_half(path):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


def change_index(folder, change):
    path = folder / "index-train.npz"
    index = index_lib.Index.load(path)
    change(index)
    index.save(path)


def change_manifest(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put_in_place(path, kind):
    """Puts something at a file's place that is no file."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)


def swap_stems(index):
    """Of the first two sources, wherever both are active."""
    both = index.is_active[:, 0] & index.is_active[:, 1]
    assert both.any()
    index.stem_offset[both, :2] = index.stem_offset[both, 1::-1]


def _set(**values):
    return lambda index: vars(index).update(
        {name: make(getattr(index, name)) for name, make in values.items()}
    )


# Changes of the training index.
INDEX_CHANGES = {
    "moved": _set(mixture_offset=lambda v: v + 2),
    "negative": _set(mixture_offset=lambda v: v - 10**6),
    "stems swapped": swap_stems,
    "floats": _set(mixture_offset=lambda v: v.astype("f8")),
    "texts for numbers": _set(num_frames=lambda v: v.astype("U")),
    "numbers for texts": _set(clip_ids=lambda v: v.astype("S").view("u1")),
    "short": _set(segment=lambda v: v[:-1]),
    "empty": _set(**{n: lambda v: v[:0] for n in ("shard", "mixture_offset", "clip")}),
    "flat": _set(stem_offset=lambda v: v.ravel()),
    "no shape": _set(shard_bytes=lambda v: v.sum()),
    "labels": _set(label_values=lambda v: v + 100),
    "label ends": _set(label_splits=lambda v: v[::-1]),
    "too many frames": _set(num_frames=lambda v: v + 1000),
    "no such shard": _set(shard=lambda v: v + 7),
    "no such clip": _set(clip=lambda v: v + 1),
    "one clip": _set(clip_ids=lambda v: v[[0] * len(v)]),
    "silence": _set(is_active=lambda v: ~v),
    "huge": _set(mixture_offset=lambda v: v + (1 << 62)),
}
# Changes of the manifest.
MANIFEST_CHANGES = {
    "sources reordered": lambda m: m["sources"].reverse(),
    "shard dropped": lambda m: m["splits"]["train"]["shards"].pop(),
    "passwd": lambda m: m["splits"]["train"].update(shards=["../../etc/passwd"]),
    "absolute": lambda m: m["splits"]["train"].update(shards=["/etc/passwd"]),
    "mean": lambda m: m.update(log_mel_mean=100),
    "nan": lambda m: m.update(log_mel_mean=float("nan")),
    "infinite": lambda m: m.update(log_mel_std=float("inf")),
    "std": lambda m: m.update(log_mel_std=0),
    "no sources": lambda m: m.pop("sources"),
    "classes": lambda m: m.update(class_names=[1, 2, 3]),
    "a class twice": lambda m: m.update(class_names=["a", "a", "b"]),
    "count": lambda m: m["splits"]["train"].update(num_clips=1007),
    "negative count": lambda m: m["splits"]["train"].update(num_clips=-1),
    "count as text": lambda m: m["splits"]["train"].update(num_clips="16"),
    "huge num_mels": lambda m: m["frontend"].update(num_mels=10**12),
    "num_mels as text": lambda m: m["frontend"].update(num_mels="64"),
    "unknown field": lambda m: m["frontend"].update(hops=1),
    "frontend": lambda m: m.update(frontend=[1]),
    "no splits": lambda m: m.update(splits={}),
    "splits": lambda m: m.update(splits=[{}]),
    "a split": lambda m: m["splits"].update(train=None),
    "split's name": lambda m: m["splits"].update({"../train": m["splits"]["train"]}),
    "shards": lambda m: m["splits"]["train"].update(shards={"a": 1}),
    "a shard twice": lambda m: m["splits"]["train"]["shards"].append(SHARD),
    "version": lambda m: m.update(schema_version="1"),
    "separator": lambda m: m.update(separator={"name": ["umxhq"]}),
    "dataset": lambda m: m.update(dataset={"mtat": 1}),
    "task_type": lambda m: m.update(task_type=[]),
}
DAMAGES = {
    "zeroed": (lambda d: zero_half(d / SHARD), SHARD),
    "shard cut": (lambda d: os.truncate(d / SHARD, 1000), SHARD),
    "shard empty": (lambda d: os.truncate(d / SHARD, 0), SHARD),
    "shard gone": (lambda d: (d / SHARD).unlink(), SHARD),
    **{
        f"shard is a {kind}": (lambda d, k=kind: put_in_place(d / SHARD, k), SHARD)
        for kind in ("folder", "pipe", "loop")
    },
    "other index": (
        lambda d: shutil.copy(d / "index-validation.npz", d / "index-train.npz"),
        "index-train.npz",
    ),
    "cut index": (
        lambda d: (d / "index-train.npz").write_bytes(b"PK\x03\x04"),
        "index-train.npz",
    ),
    "empty index": (
        lambda d: (d / "index-train.npz").write_bytes(b""),
        "index-train.npz",
    ),
    **{
        f"index is a {kind}": (
            lambda d, k=kind: put_in_place(d / "index-train.npz", k),
            "index-train.npz",
        )
        for kind in ("folder", "pipe", "loop")
    },
    **{
        f"index: {name}": (lambda d, c=change: change_index(d, c), "index-train.npz")
        for name, change in INDEX_CHANGES.items()
    },
    "not JSON": (lambda d: (d / "manifest.json").write_text("{"), "manifest.json"),
    "no text": (
        lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        "manifest.json",
    ),
    **{
        f"JSON {text}": (
            lambda d, t=text: (d / "manifest.json").write_text(t),
            "manifest.json",
        )
        for text in ("[]", "null", "1", '"x"', "{}", "1e999", "9" * 5000)
    },
    "deep": (
        lambda d: (d / "manifest.json").write_text("[" * 10**5),
        "manifest.json",
    ),
    **{
        f"manifest is a {kind}": (
            lambda d, k=kind: put_in_place(d / "manifest.json", k),
            "manifest.json",
        )
        for kind in ("folder", "pipe", "loop")
    },
    **{
        name: (lambda d, c=change: change_manifest(d, c), "manifest.json")
        for name, change in MANIFEST_CHANGES.items()
    },
}
# What retrieval and curves do not read unless told to.
OF_TRAINING_SHARDS = frozenset(name for name, (_, f) in DAMAGES.items() if f == SHARD)
