"""Checks prepared data before training: python -m data_prep.verify --data_dir=...

Reads every record, index and sidecar, and compares them with one another and with the
manifest. Changes nothing. Exit codes: 0 all is well, 1 something is wrong (each line
says in which file, what, and what to do), 2 wrong usage or no prepared data, 130
interrupted.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

_WRONG, _USAGE, _INTERRUPTED = 1, 2, 130

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("data_dir", None, "Prepared data to check.", **add)
    flags.DEFINE_integer(
        "num_workers", 1, "Processes; 0 for one a core.", lower_bound=0, **add
    )
    flags.mark_flags_as_required(["data_dir"], flag_values=values)


def execute(values: Any) -> int:
    """Checks what the parsed flags name; returns the exit code."""
    # Here, not above: TensorFlow takes seconds, and --help need not wait for it.
    from data_prep.checks import prepared
    from data_prep.remote import addresses

    if addresses.is_address(values.data_dir):
        message = addresses.why_local("data_dir", values.data_dir)
        print(f"data_prep.verify: {message}", file=sys.stderr)
        return _USAGE
    data_dir = pathlib.Path(values.data_dir)
    try:
        content, findings = prepared.verify(
            data_dir, values.num_workers or len(os.sched_getaffinity(0))
        )
    except prepared.VerificationError as error:
        print(f"data_prep.verify: {error}", file=sys.stderr)
        is_damaged = isinstance(error, prepared.DamagedManifestError)
        return _WRONG if is_damaged else _USAGE
    except KeyboardInterrupt:
        print("data_prep.verify: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:
        print(f"data_prep.verify: {error}", file=sys.stderr)
        return _WRONG
    for finding in findings:
        print(f"{finding.file}: {finding.problem} -> {finding.advice}")
    _print_summary(content)
    if findings:
        num_files = len({finding.file for finding in findings})
        print(
            f"data_prep.verify: {len(findings)} findings in {num_files} files of "
            f"{data_dir}",
            file=sys.stderr,
        )
        return _WRONG
    print(f"{data_dir}: all is well")
    return 0


def _print_summary(content: dict[str, Any]) -> None:
    for split, stated in content["splits"].items():
        shares = ", ".join(
            f"{source} {share:.0%}"
            for source, share in stated["active_share"].items()
            if share is not None
        )
        print(
            f"{split}: {len(stated['shards'])} shards, {stated['num_clips']} clips, "
            f"{stated['num_segments']} segments, {stated['hours']:.2f} h"
            + (f"; active: {shares}" if shares else "")
        )
    print(
        f"{content['num_clips_planned']} clips planned, {len(content['failures'])} "
        "failed"
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    if len(arguments) > 1:
        print(f"data_prep.verify: unknown argument {arguments[1]!r}", file=sys.stderr)
        return _USAGE
    return execute(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
