"""What `python -m MODULE` does, in forks of one process that has imported TensorFlow.

TensorFlow's start and end cost every process 5 CPU seconds. A fork has the start behind
it, scikit-learn's and Matplotlib's too, and no operation has run there. It forgets our
own modules, goes to the user's folder, runs the module as `__main__` with its threads
and exit functions, and leaves out nothing but the interpreter's end. It is a process of
its own, to be signalled, killed and waited for. What it has not is another seed of
Python's hashes. Tests of what a process imports, of its memory and its hashes start a
fresh one.
"""

import atexit
import functools
import importlib
import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).parents[2]
_PRELOADED = (
    "cola_msa.training.trainer",
    "matplotlib.pyplot",
    "pyarrow.parquet",
    "scipy.signal",
    "sklearn.linear_model",
    "soundfile",
)
_OWN = ("cola_msa", "data_prep")


class _Server:
    """The process that forks. It ends with this one, and removes what was printed."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="commands")
        self.count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.commands", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": _python_path()},
            text=True,
        )
        atexit.register(self._process.communicate)

    def ask(self, **request):
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


_server = functools.cache(_Server)


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


class Command:
    """A command that runs, with `subprocess.Popen`'s methods."""

    def __init__(
        self,
        module: str,
        *arguments: object,
        cwd: pathlib.Path = ROOT,
        log: pathlib.Path | None = None,
    ):
        """Starts it.

        Args:
            module: What follows `python -m`.
            arguments: The command's own.
            cwd: The user's folder.
            log: A file to which all that it prints is added.
        """
        server = _server()
        server.count += 1
        prefix = pathlib.Path(server.folder) / str(server.count)
        self.args = [module, *map(str, arguments)]
        self.returncode: int | None = None
        self._outputs = [
            log or prefix.with_suffix(suffix) for suffix in (".out", ".err")
        ]
        # Whoever looks into one before the command has come that far finds it empty.
        for path in self._outputs:
            path.touch()
        self.pid = server.ask(
            command=self.args,
            cwd=os.path.abspath(cwd),
            outputs=self._outputs,
            environment={**os.environ, "PYTHONPATH": _python_path()},
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _server().ask(wait=self.pid, options=os.WNOHANG)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if timeout is None and self.returncode is None:
            self.returncode = _server().ask(wait=self.pid, options=0)
        end = time.monotonic() + (timeout or 0.0)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; what it printed on both streams."""
        self.wait(timeout)
        out, err = (path.read_text(errors="replace") for path in self._outputs)
        return out, err


def run_module(
    module: str, *arguments: object, cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess:
    """Runs `python -m module` as from a folder of the user's."""
    command = Command(module, *arguments, cwd=cwd)
    out, err = command.communicate()
    assert command.returncode is not None
    return subprocess.CompletedProcess(command.args, command.returncode, out, err)


def run_script(
    code: str, *arguments: object, cwd: pathlib.Path
) -> subprocess.CompletedProcess:
    """Runs Python, by way of a file in a folder, and expects it to end well."""
    (cwd / "script.py").write_text(code)
    found = run_module("script", *arguments, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return found


def run_fresh(
    module: str, *arguments: object, cwd: pathlib.Path = ROOT, **environment: str
) -> subprocess.CompletedProcess:
    """Runs `python -m module` in a process that begins with nothing."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": _python_path(), **environment},
    )


# The other side -----------------------------------------------------------------------


def _serve() -> dict | None:
    """Answers until its input ends (None); in each child, what that is to run."""
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], request["options"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request
        print(json.dumps(answer), flush=True)
    return None


def _run(command: list[str], cwd: str, outputs: list[str], environment: dict) -> int:
    """Runs a module to the code that its process ends with."""
    # A background shell job hands down an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    for name in [name for name in sys.modules if name.split(".")[0] in _OWN]:
        del sys.modules[name]
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):  # as the interpreter ends by it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _end(code: int) -> None:
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for _name in _PRELOADED:
        importlib.import_module(_name)
    if (_request := _serve()) is not None:
        _end(_run(**_request))
    shutil.rmtree(sys.argv[1])
