"""Whole commands in forks of one process: half a second each, not TensorFlow's five.

The process imports TensorFlow and runs no operation before it forks: what runs threads
of its own begins in the child. A child can be made to die before or after its nth
rename, link or removal below a folder, to say how that looked at each of these points,
or to find a full or read-only disk there.
"""

import errno
import hashlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
import traceback

ROOT = pathlib.Path(__file__).parents[2]
KILLED = 9
# What the children's imports would cost each of them.
_PRELOADED = (
    "cola_msa.embed",
    "cola_msa.export",
    "cola_msa.import_weights",
    "cola_msa.map",
    "cola_msa.report",
    "cola_msa.search",
    "cola_msa.training.trainer",
    "cola_msa.config.presets",
    "cola_msa.collection.table.read",
    "pyarrow.parquet",
    "sklearn.cluster",
    "sklearn.decomposition",
    "tests.conftest",
)
_CALLS = ("rename", "replace", "link", "unlink", "remove", "rmdir")


class Forks:
    """The parent's side: starts the process, asks it for commands."""

    def __init__(self, folder: pathlib.Path):
        environment = {**os.environ, "COLA_MSA_CACHE": str(folder / "cache")}
        environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(self, *arguments: str, **options) -> tuple[int, str]:
        """Exit code, and all that it printed."""
        return self.run_together([arguments], **options)[0]

    def run_together(self, commands, **options) -> list[tuple[int, str]]:
        """Several commands at once.

        Args:
            commands: Module and arguments of each.
            options: `die_at`, number of the point at which the child ends; `states`,
                a file for a digest of the folder at every point; `below`, the folder
                whose files count; `fail`, name of an errno that syncing
                and renaming there raises; `setup`, Python that runs before the command
                with its module as `module`.
        """
        logs = []
        for _ in commands:
            self._count += 1
            logs.append(str(self._folder / f"{self._count}.log"))
        request = {"commands": commands, "logs": logs, **options}
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        found = []
        for code, log in zip(codes, logs, strict=True):
            found.append((code, pathlib.Path(log).read_text(errors="replace")))
            os.unlink(log)
        return found


def _points(below: str, point) -> None:
    """Calls `point` before and after every call that names something in a folder."""
    import shutil

    from cola_msa.system import folders

    def is_below(path, dir_fd) -> bool:
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return os.path.abspath(os.fspath(path)).startswith(below)

    def watched(real):
        def call(path, *arguments, **options):
            counts = isinstance(path, (str, os.PathLike)) and is_below(
                path, options.get("dir_fd")
            )
            if counts:
                point()
            found = real(path, *arguments, **options)
            if counts:
                point()
            return found

        return call

    for name in _CALLS:
        setattr(os, name, watched(getattr(os, name)))
    folders._rename = watched(folders._rename)  # renameat2
    shutil.rmtree = watched(shutil.rmtree)


def _state(below: str) -> str:
    """A digest of all that a process which ends now leaves there, links included."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(below):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            content = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
            digest.update(f"{path} {os.stat(path).st_ino} {content}\n".encode())
        digest.update(f"{folder}\n".encode())
    return digest.hexdigest()


def _fail(below: str, name: str) -> None:
    """What a disk that is full, or read-only, raises where content meets it."""
    number = getattr(errno, name)
    real = os.fsync

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(below):
            raise OSError(number, os.strerror(number))
        return real(descriptor)

    os.fsync = fsync


def _run(arguments, log: str, request: dict) -> int:
    from absl import flags, logging

    from cola_msa.system import console

    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    module = importlib.import_module(arguments[0])
    module.define_flags()
    exec(request.get("setup", ""), {"module": module})
    flags.FLAGS.set_gnu_getopt()
    rest = flags.FLAGS([str(argument) for argument in arguments])
    below = os.path.abspath(request.get("below", "/nowhere"))
    if "die_at" in request:
        left = [request["die_at"]]

        def point() -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(KILLED)

        _points(below, point)
    states: list[str] = []
    if "states" in request:
        _points(below, lambda: states.append(_state(below)))
    if "fail" in request:
        _fail(below, request["fail"])
    code = console.run(module.main, flags.FLAGS, *rest[1:])
    if "states" in request:
        pathlib.Path(request["states"]).write_text(json.dumps(states))
    return code


def _fork(arguments, log: str, request: dict) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        code = _run(arguments, log, request)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        children = [
            _fork(arguments, log, request)
            for arguments, log in zip(request["commands"], request["logs"], strict=True)
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _serve()
