"""The plan of the house: who may import whom. docs/architecture.md draws it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# A folder imports the folders above its own line, never one below; `|` = side by side.
FLOORS = {
    "cola_msa": "system values config|remote audio|records pairs|model frameworks runs "
    "evaluation hub training|collection tagging reproduction",
    "data_prep": "datasets remote|stems pipeline checks|separator demo",
}
# Of cola_msa, by data_prep.
SHARED = {"audio", "config", "records", "remote", "system", "values"}
ENTRIES, DOOR_LINES = 12, 150
# Print no name of a file, and start before the console's imports.
OWN_PRINTS = ("cola_msa/__main__.py",)
RANK = {
    f"{package}.{name}": floor
    for package, text in FLOORS.items()
    for floor, names in enumerate(text.split())
    for name in names.split("|")
}
FILES = [p for package in FLOORS for p in sorted((ROOT / package).rglob("*.py"))]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def room(module):
    """`cola_msa.audio` of cola_msa.audio.decode; `cola_msa.` of a door."""
    parts = module.split(".")
    return f"{parts[0]}.{parts[1]}" if ".".join(parts[:2]) in RANK else f"{parts[0]}."


def imports(path):
    """Every project module that a file names: at the top, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in FLOORS}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_down(path):
    own = room(name_of(path)[:-3].replace("/", "."))
    for name in imports(path):
        other = room(name)
        is_module = (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
        if name.count(".") == 1 and is_module:
            raise AssertionError(f"{name}: nothing imports a door")
        if own.startswith("data_prep") and other.startswith("cola_msa"):
            assert other.split(".")[1] in SHARED, f"{name}: not shared"
        elif own != other and not own.endswith("."):  # a door may take any room
            assert not other.endswith("."), f"{name}: nothing imports a door"
            assert RANK[other] < RANK[own], f"{own} may not import {other}"


def test_no_circles():
    names = {
        name_of(p)[:-3].replace("/", ".").removesuffix(".__init__"): p for p in FILES
    }
    graph = {
        n: {i if i in names else i.rpartition(".")[0] for i in imports(p)} & set(names)
        for n, p in names.items()
    }
    done, trail = set(), []

    def visit(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for other in sorted(graph[name] - {name}):
            visit(other)
        trail.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize("package", FLOORS)
def test_files_on_top_are_doors(package):
    for path in (ROOT / package).glob("*.py"):
        if path.name in ("__init__.py", "__main__.py", "hear.py", "mteb.py"):
            continue
        text = path.read_text()
        assert '__name__ == "__main__"' in text, (
            f"{path.name}: a library file goes into a folder"
        )
        assert text.count("\n") <= DOOR_LINES, f"{path.name}: flags only"


def test_folders_stay_small():
    for package in FLOORS:
        for folder in {p.parent for p in FILES if p.is_relative_to(ROOT / package)}:
            if folder != ROOT / package:
                held = [
                    p
                    for p in folder.iterdir()
                    if p.name not in ("__init__.py", "__pycache__")
                ]
                assert len(held) <= ENTRIES, f"{name_of(folder)}: {len(held)} entries"


def test_init_files_are_contracts():
    for path in FILES:
        if path.name == "__init__.py" and path.parent.parent != ROOT:
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree) and len(tree.body) == 1, name_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_are_printed_by_the_console(path):
    """A name of a file may hold line breaks: `console.tell` makes one line of each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
            and name_of(path) not in OWN_PRINTS
        ):
            assert not any(isinstance(a, ast.JoinedStr) for a in node.args), (
                f"line {node.lineno}: print lines by console.tell"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_there_is_one_progress_bar(path):
    if name_of(path) != "cola_msa/system/console.py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None)] + [n.name for n in node.names]
                assert "tqdm" not in names, f"line {node.lineno}: use console's bar"
