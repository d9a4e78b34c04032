"""Kills, races, full and read-only disks through whole commands: old or new, never
neither, foreign files untouched, and the same command goes on and leaves nothing over.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from cola_msa import checkpoints, storage
from cola_msa.export import listed_files
from tests.cola_msa import embedding_tables, report_runs
from tests.cola_msa.forked import KILLED, Forks
from tests.cola_msa.test_resume import assert_equal_runs
from tests.conftest import write_prepared

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
module.check_file = module.check_export = lambda *_: 0.0
module.check_pretrained = lambda *_: 0.0
"""
# The authors' layout is EfficientNetB0's; a tiny network takes its place.
TINY_RELEASE = """
import numpy as np
from tests.conftest import tiny_config
module.released_config = lambda source: tiny_config()
module.find_prefix = str
module.released_variables = lambda model: model.variables
module.read_released = lambda _, variables: [(v, np.array(v)) for v in variables]
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
        checkpoints.load_model(work / "out")


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
    names = {"per_tag.png", "clip_scores.npz", "per_class.csv"}
    found = settled(work / "out")
    if "results.json" in found:
        results = json.loads(found["results.json"])
        assert found.keys() - {"results.json"} == names
        with np.load(work / "out" / "clip_scores.npz") as arrays:
            assert len(arrays["scores"]) == len(results["seeds"])


def run_can_be_read(work, old, new) -> None:
    """Training never has a whole output but at its end; what stands is whole."""
    for path in work.rglob("*.npz"):
        storage.read_arrays(path)
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
        after=results_are_of_one_set,
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
    "report": 3,
    "embed": 5,
    "export pretrained": 2,
    "import_weights": 2,
    "export": 6,
    "train": 12,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    forks = Forks(root)
    data = write_prepared(root / "data", {"train": 8, "validation": 6, "test": 4})
    code, log = forks.run(
        "cola_msa.train", f"--data_dir={data}", f"--run_dir={root / 'model'}", *TRAIN
    )
    assert code == 0, log
    (root / "music").mkdir()
    for seed, name in enumerate("abc"):
        noise = np.random.default_rng(seed).normal(0, 0.1, 24000)
        soundfile.write(root / "music" / f"{name}.wav", noise, 16000)
    (root / "tables").mkdir()
    columns = embedding_tables.sample_columns(num_clips=150, dim=64)
    embedding_tables.write(root / "tables" / "e.npz", columns)
    mtat = report_runs.write_data(root / "prepared" / "mtat")
    for name in ("msa", "cola"):
        run_dir = report_runs.write_run(root / "runs", name, mtat)
        report_runs.write_result(run_dir, "mtat", quality=0.3)
    yield World(
        forks, data, root / "model", root / "music", root / "tables", root / "runs"
    )
    forks.close()


@pytest.fixture(scope="module")
def states(world, tmp_path_factory):
    """A folder with a case's old output and foreign files, and contents old and new."""
    made = {}

    def make(name: str):
        if name not in made:
            case = CASES[name]
            template = tmp_path_factory.mktemp("states") / "old"
            template.mkdir()
            # Names like those of temporary files; and what lies beside.
            for foreign in ("out.tmp", "out.html.tmp", "thesis.tex", "out.npz.bak"):
                (template / foreign).write_bytes(b"mine")
            if case.has_old:
                arguments = case.arguments(world, template, False)
                code, log = world.forks.run(*arguments, setup=case.setup)
                assert code == 0, log
            # Under one path, which maps and reports name.
            work = template.with_name("work")
            shutil.copytree(template, work)
            arguments = case.arguments(world, work, True)
            code, log = world.forks.run(*arguments, setup=case.setup)
            assert code == 0, log
            new = content(work)
            assert not any(map(is_temporary, new))
            made[name] = template, content(template), new
            assert made[name][1] != new
            shutil.rmtree(work)
        return made[name]

    return make


def one_error(log: str) -> str:
    errors = [x for x in log.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in log, log
    return errors[0]


def kill_everywhere(name, world, states, every: int = 1, first: int = 0) -> None:
    case = CASES[name]
    template, old, new = states(name)
    work = template.with_name("work")
    arguments = case.arguments(world, work, True)
    for number in itertools.count(first, every):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        code, log = world.forks.run(
            *arguments, setup=case.setup, die_at=number, below=work
        )
        if code == 0:
            break
        assert code == KILLED, log
        case.meanwhile(work, old, new)
        is_whole = settled(work).keys() == new.keys()
        code, log = world.forks.run(*arguments, setup=case.setup)
        if case.refuses_whole and is_whole:
            assert "nothing there is replaced" in one_error(log)
        else:
            assert code == 0, log
        case.after(work, old, new)
        assert {k: v for k, v in content(work).items() if v == b"mine"} == {
            k: v for k, v in old.items() if v == b"mine"
        }
        assert not any(map(is_temporary, content(work))) or (
            case.refuses_whole and is_whole
        )
    assert number >= case.kills


@pytest.mark.parametrize("name", QUICK)
def test_a_kill_somewhere_leaves_old_or_new(name, world, states):
    kill_everywhere(name, world, states, every=QUICK[name], first=QUICK[name] // 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_kill_anywhere_leaves_old_or_new(name, world, states):
    kill_everywhere(name, world, states)


# What is somebody else's --------------------------------------------------------------


FOREIGN = {
    "search build": [{"out.npz": b"thesis"}],
    "map": [{"out.html": b"<html><title>thesis</title></html>"}],
    "report": [
        {"out": b"a file"},
        {"out/report.md": b"# Thesis"},
        {"out/report.html": b"<html>", "out/x": b"mine"},
    ],
    "embed": [
        {"out.parquet": b"thesis"},
        {"out.parquet.failures.csv": b"name,mark\nAda,1\n"},
    ],
    "export": [{"out": b"a file"}, {"out/thesis.tex": b"mine"}],
    "export pretrained": [{"out/README.md": b"mine"}],
    "import_weights": [{"out/config.json": b"{}"}],
    "train": [
        {"out": b"a file"},
        {"out/kept/photo.npz": b"mine"},
        {"out/metrics.jsonl": b"mine"},
        {"out/logs/events.out.tfevents.1": b"of another program"},
    ],
}
OTHERS = {
    "match": (
        "cola_msa.match",
        ["--model=MODEL", "--mixture=MUSIC", "--stems=MUSIC", "--output_dir=OUT"],
        [{"out/match.json": b"{}"}, {"out/match.png": b"mine"}, {"out": b"a file"}],
    ),
    "eval": (
        "cola_msa.eval",
        ["--task=mtat", "--run_dir=MODEL", "--data_dir=DATA", "--output_dir=OUT"],
        [{"out/results.json": b'{"mine": 1}'}, {"out/per_class.csv": b"a,b"}],
    ),
    "demo": (
        "cola_msa.demo",
        ["--output_dir=OUT"],
        [{"out/table.txt": b"mine"}, {"out": b"a file"}],
    ),
}


@pytest.mark.parametrize(
    ("name", "victims"),
    [
        pytest.param(name, victims, id=f"{name}-{'-'.join(victims)}")
        for name, found in (FOREIGN | {k: v[2] for k, v in OTHERS.items()}).items()
        for victims in found
    ],
)
def test_what_is_somebody_elses_is_refused_and_stays(name, victims, world, tmp_path):
    work = tmp_path / "work"
    for victim, value in victims.items():
        (work / victim).parent.mkdir(parents=True, exist_ok=True)
        (work / victim).write_bytes(value)
    before = content(work)
    setup = ""
    if name in CASES:
        arguments = CASES[name].arguments(world, work, True)
        setup = CASES[name].setup
    else:
        module, given, _ = OTHERS[name]
        places = {"OUT": work / "out", "MODEL": world.model, "MUSIC": world.music}
        places["DATA"] = world.data
        for place, path in places.items():
            given = [a.replace(place, str(path)) for a in given]
        arguments = [module, *given]
    code, log = world.forks.run(*arguments, setup=setup)
    assert code in (1, 2), log
    assert "work/out" in one_error(log)
    assert content(work) == before


def test_embeddings_are_not_replaced_by_their_own_index(world, tmp_path):
    table = shutil.copy(world.tables / "e.npz", tmp_path / "songs.npz")
    before = content(tmp_path)
    code, log = world.forks.run(
        "cola_msa.search", "build", f"--embeddings={table}", f"--output={table}"
    )
    assert code == 1
    assert "is not an index of search build: nothing is written over it" in log
    assert content(tmp_path) == before


def test_a_log_in_the_new_run_directory_is_no_obstacle(world, tmp_path):
    """`train --run_dir=x > x/log.txt` is common; and what is not ours stays."""
    names = ("log.txt", "config.json.tmp", "logs/slurm.out", "a.0123456789abcdef.tmp")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    code, log = world.forks.run(
        "cola_msa.train", f"--data_dir={world.data}", f"--run_dir={tmp_path}", *TRAIN
    )
    assert code == 0, log
    assert all((tmp_path / name).read_bytes() == b"mine" for name in names)


# Several at once ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "name",
    [
        "search build",
        "map",
        "report",
        "embed",
        "export pretrained",
        "import_weights",
        pytest.param("train", marks=pytest.mark.slow),
        pytest.param("export", marks=pytest.mark.slow),
        pytest.param("export saved_model", marks=pytest.mark.slow),
    ],
)
def test_several_at_once_do_not_destroy_each_other(name, count, world, states):
    case = CASES[name]
    template, old, new = states(name)
    work = template.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    arguments = case.arguments(world, work, True)
    found = world.forks.run_together([arguments] * count, setup=case.setup)
    assert 0 in [code for code, _ in found], found
    for code, log in found:
        assert code == 0 or one_error(log)
    case.after(work, old, new)
    assert not any(map(is_temporary, content(work)))


def test_trainings_at_once_with_different_configurations(world, tmp_path):
    """The run's configuration is that of the process that trained it."""
    run_dir = tmp_path / "run"
    commands = [
        (
            "cola_msa.train",
            f"--data_dir={world.data}",
            f"--run_dir={run_dir}",
            *TRAIN,
            f"--seed={seed}",
        )
        for seed in (1, 2)
    ]
    found = world.forks.run_together(commands)
    assert sorted(code for code, _ in found) == [0, 1], found
    (winner,) = [
        seed for seed, (code, _) in zip((1, 2), found, strict=True) if not code
    ]
    (told,) = [one_error(log) for code, log in found if code]
    assert "another process trains there" in told or "another configuration" in told
    assert checkpoints.load_config(run_dir).train.seed == winner
    alone = tmp_path / "alone"
    commands[winner - 1] = [
        a.replace(str(run_dir), str(alone)) for a in commands[winner - 1]
    ]
    code, log = world.forks.run(*commands[winner - 1])
    assert code == 0, log
    assert_equal_runs(run_dir, alone)


# Disks that are full, or read-only ----------------------------------------------------


@pytest.mark.parametrize("problem", ["ENOSPC", "EROFS"])
@pytest.mark.parametrize("name", [n for n in QUICK if n != "export"])
def test_a_disk_that_takes_nothing_is_one_line(name, problem, world, states):
    case = CASES[name]
    template, old, new = states(name)
    work = template.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    arguments = case.arguments(world, work, True)
    code, log = world.forks.run(*arguments, setup=case.setup, fail=problem, below=work)
    assert code == 1
    assert os.strerror(28 if problem == "ENOSPC" else 30) in one_error(log)
    case.meanwhile(work, old, new)
    code, log = world.forks.run(*arguments, setup=case.setup)
    assert code == 0, log
    case.after(work, old, new)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 3 MB."""
    path = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    try:
        made = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
        # A few pages are left: for the first of what is written.
        file.truncate(max(0, file.tell() - 3 * 4096))
    return ballast


DISK_CASES = [
    "search build",
    "map",
    "report",
    "embed",
    "export pretrained",
    "import_weights",
    "train",
    pytest.param("export", marks=pytest.mark.slow),
    pytest.param("export saved_model", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("problem", ["full", "read-only"])
@pytest.mark.parametrize("name", DISK_CASES)
def test_a_small_disk(name, problem, small_disk, world, states):
    case = CASES[name]
    template, old, new = states(name)
    work = small_disk / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    old = content(work)
    arguments = case.arguments(world, work, True)

    def remount(how: str) -> None:
        command = ["mount", "-o", f"remount,{how}", str(small_disk)]
        subprocess.run(command, check=True)

    if problem == "full":
        ballast = fill(small_disk)
    else:
        remount("ro")
    try:
        code, log = world.forks.run(*arguments, setup=case.setup)
        assert code == 1, log
        one_error(log)
        if name == "train":
            run_can_be_read(work, old, new)
        elif name == "report":
            found = settled(work)
            assert found.keys() >= old.keys()
        else:
            assert {k: v for k, v in settled(work).items() if k in old} == old
    finally:
        if problem == "full":
            ballast.unlink()
        else:
            remount("rw")
    code, log = world.forks.run(*arguments, setup=case.setup)
    assert code == 0, log
    assert settled(work).keys() == content(work).keys()
    if name not in ("map", "train"):  # a map's page names files relative to it
        assert settled(work).keys() == new.keys()
