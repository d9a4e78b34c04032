"""The commands themselves refuse prepared data that is not what was made.

Each damage is tried with each command, all in one process: what they print is one line
that names the file, and they end with code 1.
"""

import json
import shutil
import subprocess
import sys

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cola_msa.records import schema
from cola_msa.runs import kept
from cola_msa.system import console
from data_prep import inspect, verify
from data_prep.datasets import multitrack
from data_prep.datasets.base import IndexOptions
from data_prep.pipeline import plan as plan_lib
from data_prep.pipeline import runner
from tests.cola_msa.records.test_damaged_data import VALUES, places
from tests.conftest import write_prepared
from tests.helpers import trees
from tests.helpers.damages import (
    DAMAGES,
    OF_TRAINING_SHARDS,
    VALIDATION,
    seal,
    zero_half,
)

CASES = {
    **DAMAGES,
    "validation zeroed": (lambda d: zero_half(d / VALIDATION), VALIDATION),
}
COMMANDS = ("train", "eval", "retrieve", "curves")
_RUN = """
import contextlib, importlib, io, json, sys, traceback
from absl import flags
from cola_msa.system import console

def run(main, arguments):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS(arguments)
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            return console.run(main, flags.FLAGS), text.getvalue()
        except BaseException:
            return "traceback", traceback.format_exc()

found = []
for command, cases in json.load(sys.stdin):
    for name, defined in list(flags.FLAGS.flags_by_module_dict().items()):
        if name.startswith("cola_msa."):
            for flag in list(defined):
                delattr(flags.FLAGS, flag.name)
    module = importlib.import_module(f"cola_msa.{command}")
    module.define_flags()
    found.append([run(module.main, [command, *case]) for case in cases])
print("RESULT" + json.dumps(found))
"""


def is_read(command, name):
    """Curves draw on validation songs, and read no shard of the training split."""
    if command == "curves":
        return name not in OF_TRAINING_SHARDS
    return command != "retrieve" or name != "validation zeroed"


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Codes and texts by command and damage; `good` is undamaged data."""
    root = tmp_path_factory.mktemp("commands")
    splits = {"train": 16, "validation": 4, "test": 4, "train_extra": 2}
    good = seal(write_prepared(root / "good", splits, 1))
    folders = {name: root / str(number) for number, name in enumerate(CASES)}
    for name, (damage, _) in CASES.items():
        damage(shutil.copytree(good, folders[name]))
    folders["good"] = good
    run_dir = root / "run"
    short = "--batch_size=2 --accumulate=4 --steps=1 --updates_per_step=2"
    options = {
        "train": (*short.split(), "--preset=demo", "--backbone=tiny"),
        "eval": ("--task=mtat", "--probe=ridge"),
        "retrieve": ("--split=train",),
        "curves": (),
    }
    # The good one first: it makes the run that the others use.
    plan = []
    for command in COMMANDS:
        names = ["good", *(name for name in CASES if is_read(command, name))]
        flags_of = [
            [f"--data_dir={folders[name]}", f"--run_dir={run_dir}", *options[command]]
            for name in names
        ]
        plan.append((command, names, flags_of))
    result = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps([(command, cases) for command, _, cases in plan]),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    found = json.loads(result.stdout.split("RESULT")[1])
    return run_dir, {
        command: dict(zip(names, results, strict=True))
        for (command, names, _), results in zip(plan, found, strict=True)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_good_data_is_used(ended, command):
    code, text = ended[1][command]["good"]
    assert code == 0, text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", CASES)
def test_damage_is_one_line(ended, command, name):
    if not is_read(command, name):
        pytest.skip("the command does not read this")
    code, text = ended[1][command][name]
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert code == 1, text
    assert len(lines) == 1 and CASES[name][1] in lines[0], text
    assert "Traceback" not in text


def test_accumulated_batches_are_counted_in_the_result(ended):
    run_dir, _ = ended
    done = kept.read_done(run_dir)
    result = json.loads((run_dir / "eval" / "mtat-ridge" / "results.json").read_text())
    assert done["updates"] == 2 and done["pairs"] == 2 * 4 * 2
    assert result["encoder"]["pairs"] == done["pairs"]
    assert result["encoder"]["updates"] == done["updates"]


# verify and inspect ------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Data that a preparation made, with sidecars: its shards have usual names."""
    root = tmp_path_factory.mktemp("raw")
    trees.write_stems(root, [f"song{n}" for n in range(10)], 5.0, 16000)
    sources = ("vocals", "drums", "bass", "other")
    options = IndexOptions(sources=sources, validation_share=0.3)
    config = plan_lib.PrepConfig(
        dataset="multitrack",
        sources=sources,
        stems="folder",
        options=options,
        clips_per_shard=4,
    )
    output = tmp_path_factory.mktemp("whole") / "data"
    runner.prepare(multitrack.DATASET, config, root, output, show_progress=False)
    assert (output / "train-00000-of-00002.tfrecord").exists()
    return output


def execute(module, *arguments):
    values = flags.FlagValues()
    module.define_flags(values)
    values([module.__name__, *arguments])
    return console.run(module.main, values)


@pytest.mark.parametrize("name", [None, *(n for n in DAMAGES if "label" not in n)])
def test_verify_and_inspect_refuse_it_too(whole, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv("COLA_MSA_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(whole, tmp_path / "data")
    if name:
        DAMAGES[name][0](folder)
    is_there = (folder / "manifest.json").exists()  # of a loop nothing is
    code = execute(verify, f"--data_dir={folder}")
    found = capsys.readouterr()
    if name is None:
        assert code == 0
    elif "version" in name or name == "JSON {}" or not is_there:
        assert code == 1  # no prepared data of this version
    else:
        assert code == 1 and DAMAGES[name][1] in found.out + found.err
    code = execute(inspect, f"--data_dir={folder}", f"--output={tmp_path / 'x.png'}")
    error = capsys.readouterr().err
    if name is None:
        assert code == 0
        return
    assert code == 1
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and DAMAGES[name][1] in lines[0]
    assert not (tmp_path / "x.png").exists()


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(draw=st.data(), is_sealed=st.booleans(), file=st.sampled_from(["m", "s"]))
def test_verify_and_inspect_take_any_change(whole, tmp_path, draw, is_sealed, file):
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    name = "manifest.json" if file == "m" else "train-00000-of-00002.json"
    content = json.loads((folder / name).read_text())
    *parents, last = draw.draw(st.sampled_from([s for s in places(content) if s]))
    part = content
    for key in parents:
        part = part[key]
    part[last] = draw.draw(VALUES)
    if file == "m" and is_sealed:  # whoever changes it may seal it too
        schema.write_manifest(folder, content)
    else:
        (folder / name).write_text(json.dumps(content))
    assert execute(verify, f"--data_dir={folder}") in (0, 1)
    picture = f"--output={tmp_path / 'x.png'}"
    assert execute(inspect, f"--data_dir={folder}", picture) in (0, 1)


def test_verify_names_a_seal_that_does_not_fit(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "data")
    content = json.loads((folder / "manifest.json").read_text())
    content["citation"] = "another"
    (folder / "manifest.json").write_text(json.dumps(content))
    assert execute(verify, f"--data_dir={folder}") == 1
    assert "manifest.json: its content is not what was written (content_sha256)" in (
        capsys.readouterr().out
    )
