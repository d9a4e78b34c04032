"""Exit codes of every command: 2 for wrong usage, 1 for what is amiss, 0 for help.

Commands run in this process, as `python -m` runs them, up to where they end.
"""

import contextlib
import pathlib
import re
import runpy
import signal
import subprocess
import sys

import pytest
from absl import app, flags

from cola_msa.config.schema import FrontendConfig, waveform_frontend
from tests.helpers.commands import ROOT

# The first has no flags, the second those that Beam starts its worker with.
_NO_DOORS = ("cola_msa/__main__", "cola_msa/remote/beam_worker")


def find_doors() -> list[str]:
    """Every module, and every script of benchmarks, that can be run."""
    found = []
    for package in ("cola_msa", "data_prep", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            own = path.relative_to(ROOT).with_suffix("")
            if own.as_posix() in _NO_DOORS:
                continue
            if 'if __name__ == "__main__":' in path.read_text():
                name = ".".join(own.parts).removesuffix(".__main__")
                found.append(f"{own}.py" if package == "benchmarks" else name)
    return found


DOORS = find_doors()
# What TensorFlow itself says, once a process: that there is no GPU.
_TENSORFLOWS = re.compile(r"^[IWE]\d{4} .*\n", re.MULTILINE)


class Ended:
    """How a command ended, and the flags that it has."""

    def __init__(self, code, out, err, defined):
        self.code, self.out, self.err, self.flags = code, out, err, defined

    @property
    def error(self) -> str:
        """The one line of an error."""
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Runs a door with arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    app.define_help_flags()
    before = set(flags.FLAGS)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def call(door: str, *arguments: str) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [door, *arguments])
        defined = {}
        try:
            with pytest.raises(SystemExit) as ended:
                if door.endswith(".py"):
                    runpy.run_path(str(ROOT / door), run_name="__main__")
                else:
                    runpy.run_module(door, run_name="__main__", alter_sys=True)
        finally:
            for name in set(flags.FLAGS) - before:
                defined[name] = flags.FLAGS[name]
                with contextlib.suppress(AttributeError):
                    delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = capfd.readouterr()
        err = _TENSORFLOWS.sub("", err)
        return Ended(ended.value.code, out, err, defined)

    return call


def test_doors_are_found():
    assert {"cola_msa.train", "data_prep.mtat", "data_prep.demo"} < set(DOORS)
    assert "benchmarks/bench_step.py" in DOORS and len(DOORS) > 35


@pytest.mark.parametrize("door", DOORS)
def test_help_is_no_error(run, door):
    for arguments in (
        ["--help"],
        ["--helpshort"],
        ["--helpfull"],
        ["--nope", "--help"],
        ["word", "--help"],
    ):
        ended = run(door, *arguments)
        assert (ended.code, ended.err) == (0, ""), arguments
        assert "flags:" in ended.out
        assert ended.flags
        for name in ended.flags:
            assert f"--{name}:" in ended.out or f"--[no]{name}:" in ended.out


@pytest.mark.parametrize("door", DOORS)
def test_unknown_flags_and_words_are_wrong_usage(run, door):
    ended = run(door, "--nope=1")
    assert ended.code == 2 and "flag 'nope'" in ended.error
    needed = {
        name: getattr(flag.parser, "enum_values", ["x"])[0]
        for name, flag in ended.flags.items()
        if any("other than None" in str(v.message) for v in flag.validators)
    }
    words = ["one", "two", "three", "four"]
    if needed:
        ended = run(door, *words)
        assert ended.code == 2
        assert all(f"--{name} is needed" in ended.error for name in needed)
    ended = run(door, *words, *(f"--{name}={value}" for name, value in needed.items()))
    assert ended.code == 2 and "unknown argument '" in ended.error


def wrong_values(flag: flags.Flag) -> list[str]:
    """What a flag must not take, by its type and bounds."""
    kind, parser = flag.flag_type(), flag.parser
    if isinstance(parser, flags.EnumParser):
        return ["nonsense", ""]
    if kind not in ("int", "float"):
        is_path = type(parser).__name__ == "_PathParser"
        return ["maybe"] if kind == "bool" else [""] if is_path else []
    wrong = ["abc", "", "nan", "inf", "-inf", "1e999"]
    step = 1 if kind == "int" else 1e-3
    assert parser.lower_bound is not None, f"--{flag.name} takes negative numbers"
    wrong.append(f"{parser.lower_bound - step}")
    if parser.upper_bound is not None:
        wrong.append(f"{parser.upper_bound + step}")
    return [*wrong, "1.5"] if kind == "int" else wrong


@pytest.mark.parametrize("door", DOORS)
def test_values_that_are_none_are_wrong_usage(run, door):
    defined = run(door, "--helpshort").flags
    tried, found = 0, {}
    for name, flag in defined.items():
        for value in wrong_values(flag):
            ended = run(door, f"--{name}={value}")
            tried += 1
            if ended.code != 2 or name not in ended.error:
                found[f"--{name}={value}"] = ended.code, ended.err
    assert tried and not found


PREPARE = "--dataset_dir=nowhere --output_dir=out"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("cola_msa.curves --tasks=mtat", "--tasks"),
        ("cola_msa.curves --tasks=jazz=folder", "jazz"),
        ("cola_msa.embed --input=x --output=y.txt", "--output=y.txt"),
        ("cola_msa.embed --input=x --output=y.npz --checkpoint_step=x", "_step"),
        ("cola_msa.embed --input=x --output=y.npz --runner=beam", "--runner"),
        ("cola_msa.embed --input=x --output=y --beam_args=--x=1", "--beam_args"),
        ("cola_msa.embed --input=x --output=gs://b/y.parquet", "without a suffix"),
        ("cola_msa.embed --input=x --output=gs://b", "is a bucket"),
        ("cola_msa.eval", "--task"),
        ("cola_msa.eval --task=jazz", "jazz"),
        ("cola_msa.eval --task=fma --finetune --encoder=untrained", "--finetune"),
        ("cola_msa.eval --task=fma --finetune_rate=0.1", "--finetune_rate"),
        ("cola_msa.eval --task=fma --finetune --probe=ridge", "--probe=ridge"),
        ("cola_msa.eval --task=fma --finetune --standardize", "--standardize"),
        ("cola_msa.eval --task=fma --label_fraction=nan", "--label_fraction"),
        ("cola_msa.eval --task=fma --label_fraction=", "--label_fraction"),
        ("cola_msa.eval --task=fma --train_clips=all", "--train_clips"),
        ("cola_msa.eval --task=gtzan", "--data_dir"),
        ("cola_msa.eval --task=fma --checkpoint_step=²", "--checkpoint_step"),
        ("cola_msa.export --output_dir=x --checkpoint_step=1.5", "--checkpoint_step"),
        ("cola_msa.map --embeddings=x --output=page.txt", "--output=page.txt"),
        ("cola_msa.tag --input=x --output=y --plot=p --per=window", "--plot"),
        ("cola_msa.match --model=x --mixture=y --stems=z --checkpoint_step=a", "_step"),
        ("cola_msa.report --compare a", "--compare"),
        ("cola_msa.report a", "'a'"),
        ("cola_msa.report --tables=9", "--tables"),
        ("cola_msa.report --compare=", "--compare"),
        ("cola_msa.export --output_dir=x --format=onnx --licence=MIT", "--licence"),
        ("cola_msa.reproduce", "--table"),
        ("cola_msa.reproduce --table=9 --scale=smoke", "--table"),
        ("cola_msa.reproduce --table=1", "--scale"),
        ("cola_msa.reproduce --table=1 --scale=smoke --run_seeds=²", "--run_seeds"),
        ("cola_msa.reproduce --table=1 --scale=smoke --run_seeds=", "--run_seeds"),
        ("cola_msa.reproduce --table=1 --scale=smoke --mtat_dir=x", "--mtat_dir"),
        ("cola_msa.reproduce --table=1 --scale=smoke --tasks=jazz", "jazz"),
        ("cola_msa.retrieve --checkpoint_step=x", "--checkpoint_step"),
        ("cola_msa.retrieve --split=", "--split"),
        ("cola_msa.search", "build"),
        ("cola_msa.search build --embeddings=x --output=y.npz --json", "--json"),
        ("cola_msa.search build --embeddings=x --output=y.npz --file=a", "--file"),
        ("cola_msa.search query --index=x --file=a --output=o.json", "--output"),
        ("cola_msa.search query --index=x --file=a --metric=cosine", "--metric"),
        ("cola_msa.search sideways", "sideways"),
        ("cola_msa.search build --embeddings=x", "--output"),
        ("cola_msa.search build --embeddings=x --output=y.h5", "--output=y.h5"),
        ("cola_msa.search build --embeddings=x --output=y --index=a", "--index=a"),
        ("cola_msa.search build --embeddings=x --output=y --host=a", "--host"),
        ("cola_msa.search add --index=x", "--embeddings"),
        ("cola_msa.search add --index=x --embeddings=y --output=z", "--output"),
        ("cola_msa.search serve", "--index"),
        ("cola_msa.search serve --index=x --host=", "--host"),
        ("cola_msa.search serve --index=x --port=70000", "--port"),
        ("cola_msa.search serve --index=x --num_results=3", "--num_results"),
        ("cola_msa.search query --index=x", "--file"),
        ("cola_msa.search query --index=x --file=", "--file"),
        ("cola_msa.train --batch_size=1", "--batch_size"),
        ("cola_msa.train --distribution=multi_worker", "--run_dir"),
        ("cola_msa.train --strategy=msa_vocals --source=none", "--source=none"),
        ("cola_msa.train --strategy=cola_mws --augment=none", "--augment=none"),
        ("cola_msa.train --strategy=ablation1 --batches=any", "--batches"),
        ("data_prep.copy --data_dir=folder --output_dir=out", "--data_dir=folder"),
        ("data_prep.copy --data_dir=gs://a --output_dir=gs://b", "--output_dir=gs://b"),
        (f"data_prep.folder {PREPARE} --separator=random --stems_dir=x", "--separator"),
        (f"data_prep.folder {PREPARE} --stems_cache=x", "--stems_cache"),
        (f"data_prep.folder {PREPARE} --stems_dir=gs://x", "gs://x"),
        (f"data_prep.folder {PREPARE} --separator=gs://x", "--separator=gs://x"),
        (f"data_prep.folder {PREPARE} --beam_args=--x", "--beam_args"),
        (
            f"data_prep.folder {PREPARE} --separator=random --stems_cache=nowhere/x",
            "--stems_cache",
        ),
        (
            f"data_prep.folder {PREPARE} --validation_share=0.6 --test_share=0.4",
            "--test_share",
        ),
        (
            "data_prep.folder --dataset_dir=nonsense://x --output_dir=out",
            "Protocol not known",
        ),
        (f"data_prep.folder {PREPARE} --stem_splits=bogus", "bogus"),
        (f"data_prep.multitrack {PREPARE} --stem_names=vocals", "--stem_names"),
        (f"data_prep.multitrack {PREPARE} --stem_names=flute=a", "flute"),
        (f"data_prep.multitrack {PREPARE} --stem_names=bass=drums", "--stem_names"),
        (f"data_prep.multitrack {PREPARE} --sources=a,a", "--sources"),
        ("data_prep.inspect --data_dir=gs://x --output=x.png", "--data_dir=gs://x"),
        (
            "data_prep.separate --dataset=mtat --dataset_dir=x --stems_cache=c "
            "--separator=random --split_dir=y",
            "--split_dir",
        ),
        (f"data_prep.train_separator {PREPARE} --hidden_size=7", "--hidden_size"),
        (f"data_prep.train_separator {PREPARE} --targets=flute", "--targets"),
        (f"data_prep.train_separator {PREPARE} --nhop=9 --nfft=8", "--nfft"),
        ("data_prep.validate --dataset=mtat --dataset_dir=gs://x", "--dataset_dir"),
        (
            "data_prep.validate --dataset=mtat --dataset_dir=x --split_dir=y",
            "--split_dir",
        ),
        ("data_prep.verify --data_dir=gs://x", "--data_dir=gs://x"),
        ("data_prep.demo --output_dir=x --scale=1e9", "scale"),
        ("benchmarks/bench_prep.py --workers=a", "--workers"),
        ("benchmarks/bench_prep.py --workers=0", "--workers"),
        ("benchmarks/bench_scale.py --only=pairs", "--only"),
        (
            "benchmarks/study_learning.py --data_dir=x --output_dir=y --variants=z",
            "--variants",
        ),
    ],
)
def test_a_wrong_command_line_is_2_whatever_the_disk_holds(run, command, named):
    ended = run(*command.split(" "))
    assert ended.code == 2 and named in ended.error
    assert not list(pathlib.Path.cwd().iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "cola_msa.curves --run_dir=nowhere",
        "cola_msa.curves",
        "cola_msa.embed --input=nowhere --output=y.npz",
        "cola_msa.eval --task=fma --run_dir=nowhere --data_dir=nowhere",
        "cola_msa.eval --task=fma --run_dir=nowhere",
        "cola_msa.eval --task=nowhere.py",
        "cola_msa.export --run_dir=nowhere --output_dir=out",
        "cola_msa.import_weights --checkpoint=nowhere --output_dir=out",
        "cola_msa.map --embeddings=nowhere.npz",
        "cola_msa.match --model=nowhere --mixture=nowhere --stems=nowhere",
        "cola_msa.report --runs=nowhere",
        "cola_msa.report --compare nowhere elsewhere",
        "cola_msa.retrieve --run_dir=nowhere",
        "cola_msa.search build --embeddings=nowhere.npz --output=index.npz",
        "cola_msa.search query --index=nowhere.npz --file=a",
        *(
            f"data_prep.{path.stem} {PREPARE}"
            for path in (ROOT / "data_prep").glob("*.py")
            if "cli.run(DATASET)" in path.read_text()
        ),
        f"data_prep.folder {PREPARE} --separator=nowhere",
        f"data_prep.folder {PREPARE} --stems_dir=nowhere",
        f"data_prep.train_separator {PREPARE}",
        "data_prep.copy --data_dir=memory://nowhere/x --output_dir=out",
        "data_prep.inspect --data_dir=nowhere --output=x.png",
        "data_prep.separate --dataset=mtat --dataset_dir=nowhere --stems_cache=c "
        "--separator=random",
        "data_prep.validate --dataset=mtat --dataset_dir=nowhere",
        "data_prep.verify --data_dir=nowhere",
    ],
)
def test_what_is_not_on_the_disk_is_1(run, command):
    ended = run(*command.split(" "))
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert (ended.code, len(lines)) == (1, 1), ended.err
    assert "Traceback" not in ended.err
    assert not list(pathlib.Path.cwd().iterdir())


def process(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_processes_end_so_too():
    ended = process("data_prep.folder", "--num_workers=-1")
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == (
        "error: flag --num_workers=-1: -1 is not a non-negative integer; see --help\n"
    )
    ended = process("data_prep.folder", "--nope", "--help")
    assert ended.returncode == 0 and ended.stderr == ""
    assert "--dataset_dir" in ended.stdout
    ended = process("cola_msa", "map", "--seed=nan")
    error = _TENSORFLOWS.sub("", ended.stderr).splitlines()[-1]
    assert ended.returncode == 2 and ended.stdout == ""
    assert error.startswith("error: flag --seed=nan: ")


@pytest.mark.parametrize("door", ["cola_msa.embed", "cola_msa.tag"])
def test_the_help_has_the_hop_of_either_kind_of_window(run, door):
    told = run(door, "--help").out
    (hop,) = re.findall(r"--hop_seconds:([^-]*)", told)
    for frontend in (FrontendConfig(), waveform_frontend()):
        assert f"{frontend.seconds(frontend.window_frames):.2f}" in hop
