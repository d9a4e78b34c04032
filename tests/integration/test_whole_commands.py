"""Kills, races, full and read-only disks through whole commands: old or new, never
neither, foreign files untouched, and the same command goes on and leaves nothing over.
"""

import itertools
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from cola_msa.runs import directory
from tests.cola_msa.runs.test_resume import assert_equal_runs
from tests.conftest import write_prepared
from tests.helpers import embedding_tables, report_runs
from tests.helpers.forked import KILLED, Forks
from tests.helpers.whole_commands import (
    CASES,
    QUICK,
    TRAIN,
    World,
    content,
    is_temporary,
    one_error,
    run_can_be_read,
    settled,
)


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


def points_of(name, world, states) -> list[int]:
    """A command's points at which it can be killed: one of each row of equal disks.

    From one call's end to the beginning of the next often nothing is written: a kill
    leaves the same at both, and the same command goes on from it.
    """
    case = CASES[name]
    template, _, _ = states(name)
    work = template.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    path = template.with_name("states.json")
    arguments = case.arguments(world, work, True)
    code, log = world.forks.run(*arguments, setup=case.setup, states=path, below=work)
    assert code == 0, log
    found = json.loads(path.read_text())
    assert len(found) >= case.kills
    return [n for n, state in enumerate(found) if found[n - 1 : n] != [state]]


def kill_at(points, name, world, states) -> int:
    """Kills a command at each of some points; says at which it ended before."""
    case = CASES[name]
    template, old, new = states(name)
    work = template.with_name("work")
    arguments = case.arguments(world, work, True)
    for number in points:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        code, log = world.forks.run(
            *arguments, setup=case.setup, die_at=number, below=work
        )
        if code == 0:
            return number
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
    return number + 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "export" else [])
        for name in QUICK
    ],
)
def test_a_kill_somewhere_leaves_old_or_new(name, world, states):
    every = QUICK[name]
    ended_at = kill_at(itertools.count(every // 2, every), name, world, states)
    assert ended_at >= CASES[name].kills


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_kill_anywhere_leaves_old_or_new(name, world, states):
    points = points_of(name, world, states)
    assert kill_at(points, name, world, states) == points[-1] + 1


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


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 4])
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
    assert directory.load_config(run_dir).train.seed == winner
    alone = tmp_path / "alone"
    commands[winner - 1] = [
        a.replace(str(run_dir), str(alone)) for a in commands[winner - 1]
    ]
    code, log = world.forks.run(*commands[winner - 1])
    assert code == 0, log
    assert_equal_runs(run_dir, alone)


# Disks that are full, or read-only ----------------------------------------------------


@pytest.mark.parametrize(
    "problem", ["ENOSPC", pytest.param("EROFS", marks=pytest.mark.slow)]
)
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


QUICK_ON_DISK = ("search build", "map", "report", "embed")
DISK_CASES = [
    pytest.param(name, marks=[] if name in QUICK_ON_DISK else pytest.mark.slow)
    for name in CASES
    if name not in ("eval", "embed of other files")
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
