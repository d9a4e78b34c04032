"""Commands that write, and how to tell what they left: for test_whole_commands."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable

import numpy as np

from cola_msa.hub.export import listed_files
from cola_msa.runs import kept
from cola_msa.values import arrays as arrays_lib
from tests.cola_msa.runs.test_resume import assert_equal_runs
from tests.helpers.forked import Forks

TRAIN = (
    "--preset=smoke",
    "--steps=2",
    "--deterministic",
    "--threads=1",
    "--batch_size=4",
    "--updates_per_step=2",
    "--warmup_updates=1",
    "--halve_at_step=1",
    "--checkpoint_every_steps=1",
    "--validate_every_steps=1",
    "--statistics_batches=2",
    "--keep_steps=1",
)
# What an export's fresh processes check is not what is tried here.
UNCHECKED = """
from cola_msa.hub import export
export.check_file = export.check_export = lambda *_: 0.0
export.check_pretrained = lambda *_: 0.0
"""
# The authors' layout is EfficientNetB0's; a tiny network takes its place.
TINY_RELEASE = """
import numpy as np
from cola_msa.hub import released
from tests.conftest import tiny_config
released.released_config = lambda source: tiny_config()
released.find_prefix = str
released.released_variables = lambda model: model.variables
released.read_released = lambda _, variables: [(v, np.array(v)) for v in variables]
"""


def content(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Every file's bytes; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def is_temporary(name: str) -> bool:
    return bool(re.search(r"\.[0-9a-f]{16}\.tmp(/|$)|\.work(/|$)|unfinished$", name))


def settled(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Without what a killed process may leave under a temporary name."""
    return {k: v for k, v in content(folder).items() if not is_temporary(k)}


def one_error(log: str) -> str:
    errors = [x for x in log.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in log, log
    return errors[0]


def each_file_is_old_or_new(work, old, new) -> None:
    found = settled(work)
    for name, value in old.items():
        assert found.get(name) in (value, new.get(name)), name
    for name in set(found) - set(old):
        assert found[name] == new[name], name


def all_is_old_or_new(work, old, new) -> None:
    assert settled(work) in (old, new)


def export_is_old_or_new(work, old, new) -> None:
    """Its bytes differ from time to time: its own checksums say whether it is whole."""
    found = settled(work / "out")
    if found != {k[4:]: v for k, v in old.items() if k.startswith("out/")}:
        listed = set(listed_files(work / "out") or ())
        assert listed == {name for name, value in found.items() if value is not None}
        assert json.loads(found["metadata.json"])["step"] == 2
    assert settled(work).keys() >= {k for k in old if not k.startswith("out")}


def pretrained_is_absent_or_whole(work, old, new) -> None:
    found = settled(work)
    if found != old:
        assert found.keys() == new.keys()
        config = json.loads(found["out/config.json"])
        assert config["files"].keys() < {k[4:] for k in found}


def run_is_absent_or_whole(work, old, new) -> None:
    found = settled(work)
    if found != old:
        assert found == new
        kept.load_model(work / "out")


def embeddings_are_kept(work, old, new) -> None:
    """The old ones have a second name before the new ones take theirs."""
    found = settled(work)
    ours, theirs = old["out.parquet"], new["out.parquet"]
    assert found["out.parquet"] in (ours, theirs)
    if found["out.parquet"] == theirs:
        assert found["out.parquet.previous"] == ours
    assert found.keys() <= new.keys()


def results_are_of_one_set(work, old, new) -> None:
    """Between its removal and the last rename there is no results.json: all or none."""
    found = settled(work / "out")
    if "results.json" in found:
        results = json.loads(found["results.json"])
        assert found.keys() >= {"clip_scores.npz", "per_class.csv"}
        assert results["chart"] is None or results["chart"] in found
        with np.load(work / "out" / "clip_scores.npz") as arrays:
            assert len(arrays["scores"]) == len(results["seeds"])


def results_are_new(work, old, new) -> None:
    results_are_of_one_set(work, old, new)
    assert content(work).keys() == new.keys()
    results = json.loads((work / "out" / "results.json").read_bytes())
    assert len(results["seeds"]) == 2 and results["chart"] == "per_tag.png"


def run_can_be_read(work, old, new) -> None:
    """Training never has a whole output but at its end; what stands is whole."""
    for path in work.rglob("*.npz"):
        arrays_lib.read_arrays(path)
    for path in work.rglob("*.json"):
        json.loads(path.read_text())


def new_is_whole(work, old, new) -> None:
    assert settled(work) == new


def run_is_new(work, old, new) -> None:
    expected = work.parent / "expected"
    if not expected.exists():
        for name, value in new.items():
            path = expected / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if value is not None:
                path.write_bytes(value)
    assert_equal_runs(work / "out", expected / "out")


@dataclasses.dataclass(frozen=True)
class Case:
    """A command, what it makes anew of what, and how to tell.

    Attributes:
        module: The command.
        flags: Given the world and whether the old or the new output is meant.
        setup: Python that runs before it.
        has_old: Whether there is an old output that it replaces.
        meanwhile: Holds after a kill.
        after: Holds once the same command has ended; default: all bytes are the new's.
        refuses_whole: Whether it refuses what it has finished.
        kills: At how many points it can be killed at least.
    """

    module: str
    flags: Callable[["World", bool], list[str]]
    setup: str = ""
    has_old: bool = True
    meanwhile: Callable = all_is_old_or_new
    after: Callable = new_is_whole
    refuses_whole: bool = False
    kills: int = 3

    def arguments(self, world: "World", work: pathlib.Path, is_new: bool) -> list[str]:
        given = [self.module, *self.flags(world, is_new)]
        return [a.replace("OUT", str(work / "out")) for a in given]


@dataclasses.dataclass(frozen=True)
class World:
    """Inputs of all commands."""

    forks: Forks
    data: pathlib.Path
    model: pathlib.Path
    music: pathlib.Path
    tables: pathlib.Path
    runs: pathlib.Path


CASES = {
    "search build": Case(
        "cola_msa.search",
        lambda w, is_new: [
            "build",
            f"--embeddings={w.tables / 'e.npz'}",
            f"--metric={'euclidean' if is_new else 'cosine'}",
            "--output=OUT.npz",
        ],
    ),
    "map": Case(
        "cola_msa.map",
        lambda w, is_new: [
            f"--embeddings={w.tables / 'e.npz'}",
            "--projection=pca",
            f"--title={'new' if is_new else 'old'}",
            "--output=OUT.html",
        ],
    ),
    "report": Case(
        "cola_msa.report",
        lambda w, is_new: [
            f"--runs={w.runs / 'msa'}" + (f",{w.runs / 'cola'}" if is_new else ""),
            "--tables=1",
            "--figures=2",
            "--output_dir=OUT",
        ],
        meanwhile=each_file_is_old_or_new,
        kills=5,
    ),
    "embed": Case(
        "cola_msa.embed",
        lambda w, is_new: [
            f"--model={w.model}",
            f"--input={w.music if is_new else w.music / 'a.wav'}",
            "--num_workers=1",
            "--output=OUT.parquet",
        ],
        meanwhile=each_file_is_old_or_new,
        kills=10,
    ),
    "embed of other files": Case(
        "cola_msa.embed",
        lambda w, is_new: [
            f"--model={w.model}",
            f"--input={w.music / ('b.wav' if is_new else 'a.wav')}",
            "--num_workers=1",
            "--output=OUT.parquet",
        ],
        meanwhile=embeddings_are_kept,
        kills=12,
    ),
    "export": Case(
        "cola_msa.export",
        lambda w, is_new: [
            f"--run_dir={w.model}",
            f"--checkpoint_step={2 if is_new else 0}",
            "--format=tflite",
            "--output_dir=OUT",
        ],
        UNCHECKED,
        meanwhile=export_is_old_or_new,
        after=export_is_old_or_new,
        kills=8,
    ),
    "export saved_model": Case(
        "cola_msa.export",
        lambda w, is_new: [
            f"--run_dir={w.model}",
            f"--checkpoint_step={2 if is_new else 0}",
            "--output_dir=OUT",
        ],
        UNCHECKED,
        meanwhile=export_is_old_or_new,
        after=export_is_old_or_new,
        kills=8,
    ),
    "export pretrained": Case(
        "cola_msa.export",
        lambda w, is_new: [
            f"--run_dir={w.model}",
            "--format=pretrained",
            "--output_dir=OUT",
        ],
        UNCHECKED,
        has_old=False,
        meanwhile=pretrained_is_absent_or_whole,
        after=pretrained_is_absent_or_whole,
        refuses_whole=True,
    ),
    "import_weights": Case(
        "cola_msa.import_weights",
        lambda w, is_new: ["--checkpoint=x-3", "--output_dir=OUT"],
        TINY_RELEASE,
        has_old=False,
        meanwhile=run_is_absent_or_whole,
        refuses_whole=True,
    ),
    "eval": Case(
        "cola_msa.eval",
        lambda w, is_new: [
            "--task=mtat",
            f"--run_dir={w.model}",
            f"--data_dir={w.data}",
            "--probe=ridge",
            f"--seeds={2 if is_new else 1}",
            "--output_dir=OUT",
        ],
        meanwhile=results_are_of_one_set,
        after=results_are_new,
        kills=10,
    ),
    "train": Case(
        "cola_msa.train",
        lambda w, is_new: [f"--data_dir={w.data}", "--run_dir=OUT", *TRAIN],
        has_old=False,
        meanwhile=run_can_be_read,
        after=run_is_new,
        kills=15,
    ),
}
# Every nth point of these in the quick tests; every point of all in the slow ones.
QUICK = {
    "search build": 1,
    "map": 1,
    "report": 4,
    "embed": 8,
    "export pretrained": 4,
    "import_weights": 4,
    "export": 10,
    "train": 30,
}
