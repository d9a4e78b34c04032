"""The wheel, the extras, the house rules, and what the documents promise."""

import ast
import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import numpy as np
import pytest
import soundfile

from tests.helpers.commands import ROOT
from tests.test_documents import DOCUMENTS

PACKAGES = ("cola_msa", "data_prep")
EXTRAS = (
    "torch",
    "torchaudio",
    "openunmix",
    "tensorflow_io",
    "keras_cv",
    "pyarrow",
    "faiss",
    "umap",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "apache_beam",
    "google_crc32c",
    "dask",
    "distributed",
)
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
# Flags of other programs that the documents name.
FOREIGN_FLAGS = {"--help", "--helpfull", "--index-url", "--check", "--no-deps"}
# Apache Beam's, within --beam_args.
FOREIGN_FLAGS |= {"--project", "--region", "--temp_location", "--sdk_container_image"}
FOREIGN_FLAGS |= {"--flink_master", "--environment_type", "--job_endpoint"}
FOREIGN_FLAGS |= {"--direct_num_workers", "--direct_running_mode"}
FOREIGN_FLAGS |= {"--dask_client_address", "--dask_partition_size"}
# Dask's own.
FOREIGN_FLAGS |= {"--nthreads"}
# Of curl.
FOREIGN_FLAGS |= {"--data-binary"}


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


# The wheel ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> pathlib.Path:
    """A wheel of a copy of the checkout, built without the network."""
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        reason = "a wheel needs setuptools 77: pip install --upgrade setuptools"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    copy = tmp_path_factory.mktemp("copy")
    for name in (*PACKAGES, "tests", "docs", "benchmarks"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(copy)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--no-deps", f"--target={target}", str(wheel)]
    subprocess.run(command, capture_output=True, check=True)
    return target


def run_installed(installed, cwd, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python where only the installed packages can be found."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {name for name in names if ".dist-info/" not in name}
    expected = {name_of(path) for path in SOURCES}
    expected |= {f"{name}/py.typed" for name in PACKAGES}
    expected.add("cola_msa/hub/sharing/registry.json")
    for folder in ("collection/map/page", "hub/starter"):
        expected |= {name_of(path) for path in (ROOT / "cola_msa" / folder).iterdir()}
    assert modules == expected
    assert "cola_msa/hub/starter/model.weights.h5" in modules
    assert "data_prep/demo/__main__.py" in modules
    assert any(name.endswith("LICENSE") for name in names)


def test_the_wheel_says_what_it_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    text = archive.read(name).decode()
    assert "License-Expression: Apache-2.0" in text or "License: Apache-2.0" in text
    provided = set(re.findall(r"^Provides-Extra: (\S+)", text, re.MULTILINE))
    extras = {"separation", "augment", "embed", "search", "formats", "hub", "umap"}
    extras |= {"soundfont", "beam", "dask", "dev", "all"}
    assert provided == extras
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, re.MULTILINE)
    assert not {name.replace("-", "_") for name in needed} & set(EXTRAS)


def test_the_installed_packages_import_outside_the_checkout(installed, tmp_path):
    script = (
        "import importlib.metadata, cola_msa, data_prep\n"
        "from cola_msa import load_encoder, log_mel\n"
        "print(cola_msa.__file__, data_prep.__file__, cola_msa.__version__,"
        " importlib.metadata.version('cola_msa'))\n"
    )
    found = run_installed(installed, tmp_path, "-c", script)
    assert found.returncode == 0, found.stderr
    *files, version, distributed = found.stdout.split()
    assert all(file.startswith(str(installed)) for file in files)
    assert version == distributed


def test_the_installed_commands_prepare_audio_outside_the_checkout(installed, tmp_path):
    random = np.random.default_rng(0)
    for number in range(3):
        path = tmp_path / "music" / f"album{number}" / "song.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * random.standard_normal(16000 * 5), 16000)
    arguments = ("--dataset_dir=music", "--output_dir=out")
    found = run_installed(installed, tmp_path, "-m", "data_prep.folder", *arguments)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "out" / "manifest.json").is_file()
    helped = run_installed(installed, tmp_path, "-m", "cola_msa.train", "--help")
    assert f"{installed}/cola_msa/train.py" in helped.stdout
    assert "--source" in helped.stdout and "Traceback" not in helped.stderr


# Extras ------------------------------------------------------------------------------


def test_no_module_imports_an_extra(tmp_path):
    script = (
        "import importlib, pkgutil, sys\n"
        # Not None in sys.modules: SciPy looks there for torch.
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {EXTRAS}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "for package in ('cola_msa', 'data_prep'):\n"
        "    found = pkgutil.walk_packages([sys.argv[1] + '/' + package],"
        " package + '.')\n"
        "    for module in found:\n"
        "        if not module.name.endswith('.__main__'):\n"
        "            importlib.import_module(module.name)\n"
        "    if package == 'cola_msa':\n"
        "        assert not any(n.split('.')[0] == 'data_prep' for n in sys.modules)\n"
        "print(sum(n.split('.')[0] in ('cola_msa', 'data_prep')"
        " for n in sys.modules))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == 0, found.stderr
    num_mains = sum(path.name == "__main__.py" for path in SOURCES)
    assert int(found.stdout) == len(SOURCES) - num_mains


def imported_names(path: pathlib.Path) -> set[str]:
    """Full names of all that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_packages_keep_apart(path):
    """Learning imports no preparation and no torch."""
    names = imported_names(path)
    if path.is_relative_to(ROOT / "cola_msa"):
        banned = {"data_prep", "torch", "torchaudio", "openunmix"}
        assert not {name.split(".")[0] for name in names} & banned


def test_a_missing_extra_is_one_line_that_names_the_command(tmp_path):
    path = tmp_path / "music" / "song.wav"
    path.parent.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000 * 5)
    soundfile.write(path, noise, 16000)
    script = (
        "import runpy, sys\n"
        "sys.modules['openunmix'] = None\n"
        "sys.argv = ['folder', '--dataset_dir=music', '--output_dir=out',"
        " '--separator=random']\n"
        "runpy.run_module('data_prep.folder', run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert found.returncode not in (0, None)
    errors = [line for line in found.stderr.splitlines() if line[:7] == "error: "]
    assert len(errors) == 1, found.stderr
    assert "pip install 'cola_msa[separation]'" in errors[0]
    assert "Traceback" not in found.stderr


# House rules -------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_flags_live_in_command_modules(path):
    is_command = "__main__" in path.name or '__name__ == "__main__"' in path.read_text()
    # All dataset modules' flags, and what reads or makes flags for several commands.
    is_command |= name_of(path) in (
        "data_prep/pipeline/cli.py",
        "cola_msa/collection/file_flags.py",
        "cola_msa/system/console.py",
        "cola_msa/tagging/run.py",
        "cola_msa/training/asked.py",
        "cola_msa/values/field_flags.py",
        "cola_msa/values/numbers.py",
        "cola_msa/values/paths.py",
    )
    has_flags = any(name.startswith("absl.flags") for name in imported_names(path))
    assert is_command or not has_flags


def tracked_files() -> list[pathlib.Path]:
    """Text files of the project, as far as they lie in its own folders."""
    found = [path for path in ROOT.iterdir() if path.suffix in (".py", ".md", ".toml")]
    found += [ROOT / "Makefile", ROOT / ".ci" / "run"]
    for name in (*PACKAGES, "tests", "docs", "benchmarks", "examples"):
        found += (ROOT / name).rglob("*.py")
        found += (ROOT / name).rglob("*.md")
    return sorted(path for path in found if path.is_file())


def test_no_file_names_a_machine():
    pattern = re.compile(r"(?<![\w.<>*-])/(work|tmp|root|home|opt|mnt)/")
    found = {
        name_of(path): match[0]
        for path in tracked_files()
        if (match := pattern.search(path.read_text()))
    }
    assert not found


# Documents ---------------------------------------------------------------------------


# Imports what is slow once, then shows each command's help in a child of its own: a
# process for each would import TensorFlow thirty times.
_SHOW_HELP = """
import contextlib, importlib, io, json, os, runpy, sys
for name in ("cola_msa.training.trainer", "sklearn.linear_model", "matplotlib.pyplot"):
    importlib.import_module(name)
for name in [n for n in sys.modules if n.split(".")[0] == "cola_msa"]:
    del sys.modules[name]
for module in sys.argv[1:]:
    sys.stdout.flush()
    if os.fork() == 0:
        sys.argv = [module, "--helpfull"]
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            runpy.run_module(module, run_name="__main__")
        print(json.dumps([module, text.getvalue()]), flush=True)
        os._exit(0)
    os.wait()
"""


@functools.cache
def helps(modules: tuple[str, ...]) -> dict[str, str]:
    """What `--helpfull` of each command prints."""
    found = subprocess.run(
        [sys.executable, "-c", _SHOW_HELP, *modules],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in found.stderr, found.stderr
    return dict(json.loads(line) for line in found.stdout.splitlines())


def help_of(module: str) -> str:
    documented = tuple(OWN_MODULES)
    return helps(documented if module in documented else (module,))[module]


def flags_of(module: str) -> set[str]:
    """Flags of a command, of its own modules and absl's alike."""
    names = re.findall(r"^ +--(?:\[no\])?(\w+):", help_of(module), re.MULTILINE)
    assert names, f"{module} shows no flags"
    return {f"--{name}" for name in names}


def commands_of(document: str) -> list[tuple[str, tuple[str, ...]]]:
    """All `python -m module --flag ...` of a document: module and flags."""
    path = ROOT / document
    text = re.sub(r"\\\n\s*", " ", path.read_text()) if path.exists() else ""
    found = re.findall(r"python -m ([\w.]+)([^`\n]*)", text)
    return [
        (module.rstrip("."), tuple(re.findall(r"(?<!\S)--\w+", rest)))
        for module, rest in found
    ]


MODULES = sorted({m for document in DOCUMENTS for m, _ in commands_of(document)})
OWN_MODULES = [m for m in MODULES if m.split(".")[0] in PACKAGES]


@pytest.mark.parametrize("module", MODULES)
def test_documents_name_modules_that_exist(module):
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("module", OWN_MODULES)
def test_documents_give_a_command_its_own_flags(module):
    given = {
        flag
        for document in DOCUMENTS
        for name, flags in commands_of(document)
        if name == module
        for flag in flags
    }
    assert given - {"--help", "--helpfull"} <= flags_of(module)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_flags_that_exist(document):
    named = set(
        re.findall(r"(?<![\w-])--[a-z]\w+(?:-\w+)*", (ROOT / document).read_text())
    )
    known = set().union(*(flags_of(module) for module in OWN_MODULES))
    for path in (ROOT / "benchmarks").glob("*.py"):
        found = re.findall(r'(?i)DEFINE_\w+\(\s*"(\w+)"', path.read_text())
        known |= {f"--{flag}" for flag in found}
    assert named <= known | FOREIGN_FLAGS


def test_make_targets_of_the_documents_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.MULTILINE))
        assert named <= targets
