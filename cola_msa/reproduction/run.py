"""Runs a plan's missing steps, each a command in a process of its own."""

import time

from cola_msa.reproduction import plan
from cola_msa.reproduction.plan import ReproduceError, Request, Step
from cola_msa.system.console import tell
from cola_msa.system.locks import exclusive_folder
from cola_msa.system.processes import run_child
from cola_msa.system.signals import stop_on_signals
from cola_msa.values.arrays import write_json
from cola_msa.values.reading import read_json

_RECORD_NAME = "reproduction.json"


def dry_run(request: Request) -> str:
    """All commands, one a line, those that prepare missing data first."""
    lines = [
        command.text
        for _, commands in plan.missing_data(request)
        for command in commands
    ]
    lines += [step.command.text for step in plan.build(request)]
    lines.append(plan.report_command(request).text)
    return "\n".join(dict.fromkeys(lines))


def run_plan(request: Request) -> None:
    """Runs what is missing, then the report.

    Raises:
        ReproduceError: If data is missing or a step failed.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after the running step has stopped.
    """
    plan.check_data(request)
    steps = plan.build(request)
    report = plan.report_command(request)
    steps.append(Step("the report", report, is_done=lambda: False))
    started = time.monotonic()
    if request.output_dir.exists() and not request.output_dir.is_dir():
        raise ReproduceError(f"{request.output_dir} is a file: name a new folder")
    request.output_dir.mkdir(parents=True, exist_ok=True)
    with exclusive_folder(request.output_dir) as lock, stop_on_signals():
        _claim(request)
        for number, step in enumerate(steps, 1):
            _run_step(step, f"step {number} of {len(steps)}", started, lock)
    tell(
        "",
        f"all {len(steps)} steps done, {_clock(started)} in this run",
        str(request.output_dir / "report" / "report.html"),
    )


def _run_step(step: Step, place: str, started: float, lock: int) -> None:
    tell("", f"[{place}, {_clock(started)}] {step.title}")
    if not step.is_due():
        tell("  (not needed: the run ended before that step)")
        return
    if step.is_done():
        tell("  (done before)")
        return
    tell(f"$ {step.command.text}")
    code = run_child(step.command.argv, lock)
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise ReproduceError(
            f"{place}, {step.title}: the command {how}; its message stands above. Once "
            "that is mended the same command goes on from there"
        )
    # A step that leaves nothing would be run for ever.
    if step.title != "the report" and not step.is_done():
        raise ReproduceError(
            f"{place}, {step.title}: the command ended without an error, but its "
            f"results are not there: {step.command.text}"
        )


def _clock(started: float) -> str:
    seconds = round(time.monotonic() - started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _claim(request: Request) -> None:
    """Keeps one output folder to one scale.

    Raises:
        ReproduceError: If the folder was begun at another scale.
    """
    path = request.output_dir / _RECORD_NAME
    if path.exists():
        found = read_json(
            path, ReproduceError, "name another --output_dir, or delete it"
        ).get("scale")
        if found != request.scale.name:
            raise ReproduceError(
                f"{request.output_dir} holds a reproduction at --scale={found}; name "
                "another --output_dir"
            )
        return
    write_json(path, {"scale": request.scale.name})
