"""Every command of README and docs/ is executed here, or it says why not and is parsed.

The commands run as they stand, one after another, in a folder that holds what they
name: small datasets in their published layouts, prepared data, runs, songs. Only what
`SMALLER` says is changed or added, so that they end in seconds. All commands, executed
or not, are parsed by their own flags; so are those of the pages that record what was
run, or say what `make` runs.
"""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection

import pytest

from tests.cola_msa.evaluation.probes.test_features import write_data
from tests.conftest import tiny_config, write_prepared, write_waveforms
from tests.helpers import trees
from tests.helpers.commands import run_module
from tests.test_documents import DOCUMENTS

ROOT = pathlib.Path(__file__).parents[2]
SMOKE = ["--preset=smoke", "--run_dir=runs/trained"]
# Ways to name what needs the network, hours or a dataset by something small.
RANDOM = {"--separator=umxhq": "--separator=random", "--num_workers=0": ""}
# By the command's beginning: what is replaced, and what is added.
SMALLER: dict[str, tuple[dict[str, str], list[str]]] = {
    "cola_msa.train --source=multi --data_dir": ({}, SMOKE),
    "cola_msa.train --framework=clmr --data_dir": (
        {},
        ["--preset=clmr_smoke", "--run_dir=runs/clmr"],
    ),
    "cola_msa.train --preset=smoke": (
        {"--data_dir=prepared/music": "--data_dir=prepared/mtat"},
        [],
    ),
    "cola_msa.train --preset=cola_mws": (
        {},
        ["--backbone=tiny", "--batch_size=4", "--steps=1", "--updates_per_step=2"],
    ),
    "cola_msa.eval --task=examples/my_task.py": (
        {"--task=examples/my_task.py": f"--task={ROOT / 'examples' / 'my_task.py'}"},
        [],
    ),
    "cola_msa.curves": (
        {"--tasks=mtat=prepared/mtat,fma=prepared/fma": "--tasks=fma=prepared/fma"},
        [],
    ),
    "data_prep.nsynth": (
        {"--output_dir=prepared/nsynth": "--output_dir=made/nsynth"},
        [],
    ),
    "data_prep.fma": ({"--output_dir=prepared/fma": "--output_dir=made/fma"}, []),
    "data_prep.labelled_folder": (
        {"--output_dir=prepared/moods": "--output_dir=made/moods"},
        [],
    ),
    "data_prep.mtat --dataset_dir=raw/mtat --output_dir=prepared/mtat --records": (
        {"--output_dir=prepared/mtat": "--output_dir=made/waves"},
        [],
    ),
    "data_prep.mtat --dataset_dir=raw/mtat --output_dir=prepared/mtat --stems_dir": (
        {"--output_dir=prepared/mtat": "--output_dir=made/mtat"},
        [],
    ),
    "data_prep.verify": ({"--data_dir=prepared/mtat": "--data_dir=made/mtat"}, []),
    "data_prep.inspect": ({"--data_dir=prepared/mtat": "--data_dir=made/mtat"}, []),
    "data_prep.folder": (RANDOM, []),
}
# What was run to measure something, and what `make` runs: parsed, not executed.
RECORDS = ("docs/measurements.md", "BUILD.md", "CONTRIBUTING.md")
# Not executed here, with the reason; each is parsed. Whole commands first:
ALONE = {
    "cola_msa.train --source=multi": "`make demo` runs it: the built-in music",
    "cola_msa.eval --task=fma": "`make demo` runs it: the built-in music",
    "cola_msa.train --framework=clmr": "minutes of music; test_training is smaller",
    "data_prep.mtat": "named alone in the text, without its flags",
}
NOT_HERE = {
    "cola_msa.train --preset=demo": "600 updates of EfficientNetB0: `make demo`'s",
    "cola_msa.train --preset=default": "several machines; test_workers runs two",
    "data_prep.demo --output_dir=sampled": "a sound font; test_soundfont writes one",
    "data_prep.demo --output_dir=music": "minutes of music; test_demo makes less",
    "cola_msa.reproduce": "trains every strategy; test_reproduce_whole runs it",
    "data_prep.mtat --dataset_dir=gs://": "a bucket; test_remote has one in memory",
    "data_prep.copy --data_dir=gs://": "a bucket; test_remote has one in memory",
    "data_prep.mtat --dataset_dir=raw/mtat --output_dir=prepared/mtat "
    "--separator=umxhq": "downloads weights; test_runner separates with random ones",
    "data_prep.mtat --dataset_dir=raw/mtat --output_dir=prepared/mtat_degraded": (
        "needs a trained separator; test_train_separator makes and uses one"
    ),
    "data_prep.separate": "downloads weights; test_separate has random ones",
    "data_prep.train_separator": "trains for hours; test_train_separator is small",
    "cola_msa.search serve": "runs until it is stopped; test_serve starts it",
    "cola_msa.import_weights": "weights of others; test_imported_run and test_starter "
    "have their own",
    "cola_msa.embed --model=gs://": "a bucket; test_shards has one in memory",
    "cola_msa.train --source=multi --preset=default --data_dir": (
        "several folders; test_several_folders trains on its own"
    ),
    "data_prep.folder --dataset_dir=raw/part": "as --dataset_dir=raw/music, in parts",
    "cola_msa.embed --model=hf://": "the network; test_hugging_face has its own hub",
    "cola_msa.eval --task=fma --run_dir=runs/my-encoder": "a run made of such weights",
}


def commands_of(documents: Collection[str]) -> list[str]:
    """All `python -m ...` of our own in pages, in their order, on one line each."""
    own = r"python -m (?:cola_msa|data_prep)\."
    found = []
    for document in documents:
        text = re.sub(r" *\\\n\s*", " ", (ROOT / document).read_text())
        found += re.findall(rf"^    ({own}.+)$|`({own}[^`]+)`", text, re.MULTILINE)
    return list(dict.fromkeys((block or line).split(" #")[0] for block, line in found))


def entry_of(command: str, table: Collection[str]) -> str:
    """The longest entry of a table that a command begins with; "" for none."""
    rest = command.removeprefix("python -m ")
    fitting = [key for key in table if rest.startswith(key)]
    return max(fitting, key=len, default="")


def reason_not_to_run(command: str) -> str | None:
    """Why a command is not executed here; None where it is."""
    rest = command.removeprefix("python -m ")
    return ALONE.get(rest) or NOT_HERE.get(entry_of(command, NOT_HERE))


COMMANDS = commands_of(DOCUMENTS)
GUIDED = commands_of([page for page in DOCUMENTS if page not in RECORDS])
EXECUTED = [command for command in GUIDED if reason_not_to_run(command) is None]

# Parses each command in a child of its own, by the flags that it defines itself.
_PARSE = """
import importlib, json, os, runpy, sys
from absl import app
for name in ("cola_msa.training.trainer", "sklearn.linear_model", "matplotlib.pyplot"):
    importlib.import_module(name)
for name in [n for n in sys.modules if n.split(".")[0] == "cola_msa"]:
    del sys.modules[name]

def parse(main, flags_parser):
    try:
        rest = flags_parser(sys.argv)[1:]
        print(json.dumps([number, "", rest]), flush=True)
    except ValueError as error:
        print(json.dumps([number, str(error), []]), flush=True)
    os._exit(0)

app.run = parse
for number, (module, *arguments) in enumerate(json.loads(sys.argv[1])):
    sys.stdout.flush()
    if os.fork() == 0:
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__")
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def parsed():
    """Of each command the error of its flags, and what is left over."""
    split = [shlex.split(command)[2:] for command in COMMANDS]
    found = subprocess.run(
        [sys.executable, "-c", _PARSE, json.dumps(split)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in found.stderr, found.stderr[-3000:]
    lines = [json.loads(line) for line in found.stdout.splitlines() if line[:1] == "["]
    return {COMMANDS[number]: (error, rest) for number, error, rest in lines}


def test_the_pages_have_commands():
    assert len(COMMANDS) > 30
    assert len(EXECUTED) > 30
    for key in (*SMALLER, *ALONE, *NOT_HERE):
        assert any(c.startswith(f"python -m {key}") for c in GUIDED), key


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted_by_its_flags(command, parsed):
    if command.endswith("--helpfull"):
        pytest.skip("help ends the parser; it is executed")
    error, rest = parsed[command]
    if len(command.split()) == 3:  # named alone, without the flags that it needs
        assert not error or "is needed" in error
    else:
        assert not error
    subcommands = {
        "cola_msa.search": {"build", "query", "add", "serve"},
        "cola_msa.tag": {"fit", "suggest"},
    }
    module = command.split()[2]
    if "--compare" in command:
        assert rest == ["runs/OTHER"]
    else:
        assert set(rest) <= subcommands.get(module, set())


OUTPUTS = ("--output", "--output_dir")

# Executed -----------------------------------------------------------------------------


def clips_of(split: str, count: int) -> list[tuple[str, tuple[int, ...], int]]:
    return [(f"{split}{n}", (n % 3,), 200) for n in range(count)]


def write_raw(raw: pathlib.Path) -> None:
    """Datasets in their published layouts, where the pages have them."""
    trees.write_mtat(raw / "mtat")
    trees.write_nsynth(raw / "nsynth")
    trees.write_fma(raw / "fma")
    trees.write_multitrack(raw / "sessions")
    trees.write_folder(raw / "music")
    trees.write_labelled_folder(raw / "moods")
    for name, pattern in (("gtzan", "*.txt"), ("jamendo", "*.tsv")):
        getattr(trees, f"write_{name}")(raw / name)
        (raw / f"{name}_split").mkdir()
        for path in (raw / name).glob(pattern):
            path.rename(raw / f"{name}_split" / path.name)
    for k in range(3):
        for n, name in enumerate(("gtr_bounce", "backing", "master")):
            sound = trees.chirp(5, seed=10 * k + n)
            trees.write_wav(raw / "band" / str(k) / f"{name}.wav", sound)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder in which the pages' commands find what they name."""
    from cola_msa.records.prepared import PreparedData
    from cola_msa.training.trainer import Trainer

    pytest.importorskip("pyarrow", reason="needs the extra embed")
    folder = tmp_path_factory.mktemp("readme")
    write_raw(folder / "raw")
    counts = {"train": 16, "validation": 6, "test": 4}
    extra = {f"{name}_extra": 2 for name in counts}
    write_prepared(folder / "prepared" / "mtat", counts | extra)
    write_waveforms(folder / "prepared" / "mtat" / "waveform", counts)
    for name, dataset in (
        ("fma", "fma"),
        ("nsynth", "nsynth"),
        ("moods", "labelled_folder"),
    ):
        clips = {split: clips_of(split, n) for split, n in counts.items()}
        write_data(folder / "prepared" / name, clips, dataset)
    data = PreparedData(folder / "prepared" / "mtat")
    for name in ("OTHER", "NAME"):
        config = tiny_config(seed=len(name))
        assert Trainer(config, data, folder / "runs" / name).run() == "finished"
    for path in sorted((folder / "raw" / "mtat").rglob("*.mp3")):
        relative = path.relative_to(folder / "raw" / "mtat").with_suffix("")
        for n, source in enumerate(("vocals", "drums", "bass", "other")):
            stem = folder / "stems" / relative / f"{source}.wav"
            trees.write_wav(stem, trees.chirp(5, seed=n))
    names = ("one", "two")
    trees.write_stems(folder / "songs", names, seconds=3.0, rate_hz=16000)
    shutil.copy(folder / "songs" / "one" / "mixture.wav", folder / "song.wav")
    (folder / "music").mkdir()
    for k, name in enumerate(("song.mp3", "a.mp3", "b.mp3", "c.mp3")):
        trees.write_mp3(folder / "music" / name, trees.chirp(3, 44100, seed=k), 44100)
    trees.write_mp3(folder / "new.mp3", trees.chirp(3, 44100, seed=9), 44100)
    (folder / "labels.csv").write_text("path,genre\nsong,rock\na,folk\nb,rock\n")
    (folder / "new_music").mkdir()
    trees.write_mp3(folder / "new_music" / "new.mp3", trees.chirp(3, 44100), 44100)
    return folder


def smaller(command: str) -> list[str]:
    """A command's module and arguments, made small by what SMALLER says."""
    replaced, added = SMALLER.get(entry_of(command, SMALLER), ({}, []))
    words = [replaced.get(word, word) for word in shlex.split(command)[2:]]
    return [*filter(None, words), *added]


def make_inputs(arguments: list[str], place: pathlib.Path) -> None:
    """Runs the commands that write what these arguments read, where it is not there.

    On the pages they come before; here they may be another process's, or left out.
    """
    made = {}
    for command in EXECUTED:
        module, *words = smaller(command)
        for word in words:
            flag, _, path = word.partition("=")
            if flag in OUTPUTS:
                made.setdefault(path, [module, *words])
    for word in arguments:
        flag, _, path = word.partition("=")
        if flag not in OUTPUTS and path in made and not (place / path).exists():
            module, *words = made[path]
            make_inputs(words, place)
            assert run_module(module, *words, cwd=place).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", EXECUTED)
def test_a_command_runs(command, place):
    if "--separator" in command:
        # Not importorskip: a plain import fails beside the CPU's build of torch.
        is_missing = importlib.util.find_spec("openunmix") is None
        if is_missing and not os.environ.get("CI"):  # in CI the command fails
            pytest.skip("needs the extra separation")
    if "--format=onnx" in command:
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    judged = ("NAME", "OTHER") if "--compare" in command else ()
    if "cola_msa.tag --model" in command or "cola_msa.export" in command:
        judged = ("NAME",)  # its heads are read, whichever command comes first
    if judged:
        for name in judged:
            task = "mtat" if "--head=mtat" in command else "fma"
            judge = [f"--task={task}", f"--run_dir=runs/{name}"]
            judge.append(f"--data_dir=prepared/{task}")
            assert run_module("cola_msa.eval", *judge, cwd=place).returncode == 0
    module, *arguments = smaller(command)
    make_inputs(arguments, place)
    ran = run_module(module, *arguments, cwd=place)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for argument in arguments:
        flag, _, path = argument.partition("=")
        if flag in OUTPUTS:
            assert (place / path).exists()
            assert os.path.getsize(place / path) > 0
