"""Every command of README.md is run by `make demo` or by a test, with its flags."""

import functools
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Flags that no test gives a command: they need probes over many kept encoders, or the
# real datasets.
NOT_GIVEN = {
    "cola_msa.curves": {"tasks"},
    "cola_msa.reproduce": {
        "mtat_random_dir",
        "mtat_degraded_dir",
        "nsynth_dir",
        "fma_dir",
    },
}


def readme_commands() -> list[str]:
    """All `python -m ...` of README.md in its order, on one line each."""
    text = re.sub(r" *\\\n\s*", " ", (ROOT / "README.md").read_text())
    found = re.findall(r"^    (python -m .+)$|`(python -m [^`]+)`", text, re.MULTILINE)
    return list(dict.fromkeys((block or line).split(" #")[0] for block, line in found))


@functools.cache
def sources_that_run(module: str) -> str:
    """Text of the demo and of the tests that start a module's command."""
    package, short = module.split(".")[:2]
    files = [ROOT / "cola_msa" / "demo.py", ROOT / "cola_msa" / "demo_data.py"]
    files += [p for p in (ROOT / "tests").rglob("*.py") if p != pathlib.Path(__file__)]
    # By its name, by f"data_prep.{name}", or by its main function.
    starts = re.compile(
        rf'"{re.escape(module)}"|f"{package}\.{{|import (\w+, )*{short}\b'
    )
    if package == "data_prep":  # all datasets' commands share one function
        starts = re.compile(rf"{starts.pattern}|\bexecute\(")
    texts = [path.read_text() for path in files]
    return "\n".join(text for text in texts if starts.search(text))


def test_the_readme_has_commands():
    assert len(readme_commands()) > 30


@pytest.mark.parametrize("command", readme_commands())
def test_the_demo_or_a_test_runs_a_command_of_the_readme(command):
    _, _, module, *arguments = shlex.split(command)
    text = sources_that_run(module)
    assert text, f"nothing runs {module}"
    flags = {a.split("=")[0].lstrip("-") for a in arguments if a.startswith("--")}
    flags -= {"helpfull"} | NOT_GIVEN.get(module, set())
    assert [flag for flag in flags if not re.search(rf"\b{flag}\b", text)] == []
