"""Checks prepared data before training: python -m data_prep.verify --data_dir=...

Reads every record, index and sidecar, and compares them with one another and with the
manifest; of waveforms within the folder, too. Changes nothing. Exit codes: 0 all is
well, 1 something is wrong (each line says in which file, what, and what to do).
"""

import os
import pathlib
from typing import Any

from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import FileError
from cola_msa.values.paths import define_path


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    define_path("data_dir", None, "Prepared data to check.", required=True, **add)
    flags.DEFINE_integer(
        "num_workers", 1, "Processes; 0 for one a core.", lower_bound=0, **add
    )


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    # Here, not above: TensorFlow takes seconds, and --help need not wait for it.
    from cola_msa.records import kinds
    from data_prep.checks import prepared
    from data_prep.remote import copy

    copy.check_local("data_dir", options.data_dir)
    wrong = []
    for data_dir in kinds.prepared_folders(pathlib.Path(options.data_dir)):
        try:
            content, findings = prepared.verify(
                data_dir, options.num_workers or len(os.sched_getaffinity(0))
            )
        except OSError as error:
            raise FileError(str(error)) from error
        for finding in findings:
            path = data_dir / finding.file
            console.tell(f"{path}: {finding.problem} -> {finding.advice}")
        _print_summary(content)
        if findings:
            num_files = len({finding.file for finding in findings})
            wrong.append(f"{len(findings)} findings in {num_files} files of {data_dir}")
        else:
            console.tell(f"{data_dir}: all is well")
    if wrong:
        raise prepared.VerificationError("; ".join(wrong))


def _print_summary(content: dict[str, Any]) -> None:
    for split, stated in content["splits"].items():
        shares = ", ".join(
            f"{source} {share:.0%}"
            for source, share in stated["active_share"].items()
            if share is not None
        )
        console.tell(
            f"{split}: {len(stated['shards'])} shards, {stated['num_clips']} clips, "
            f"{stated['num_segments']} segments, {stated['hours']:.2f} h"
            + (f"; active: {shares}" if shares else "")
        )
    console.tell(
        f"{content['num_clips_planned']} clips planned, {len(content['failures'])} "
        "failed"
    )


if __name__ == "__main__":
    console.start(main, define_flags, keeps_memory=False)
