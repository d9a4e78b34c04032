"""Draws prepared data: python -m data_prep.inspect --data_dir=... --output=PNG.

With --clip=ID mixture and stems of one clip as log-mels, with the segments marked in
which each source is active; without it the share of active segments a source, as in the
paper's figure 2. Manifest, indices and shards are compared with their checksums first.
Exit codes: 0 done, 1 no such clip, no stems or damaged data, 2 wrong usage or no
prepared data.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

_FAILED, _USAGE = 1, 2

flags.disclaim_key_flags()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("data_dir", None, "Prepared data.", **add)
    flags.DEFINE_string("output", None, "The PNG file to write.", **add)
    flags.DEFINE_string(
        "clip", None, "Draw this clip; without it, the set's active shares.", **add
    )
    flags.mark_flags_as_required(["data_dir", "output"], flag_values=values)


def execute(values: Any) -> int:
    """Draws what the parsed flags name; returns the exit code."""
    # Here, not above: TensorFlow takes seconds, and --help need not wait for it.
    from cola_msa.records.prepared import PreparedData
    from cola_msa.records.schema import MANIFEST_NAME, DataError
    from cola_msa.system.errors import FileError
    from data_prep.checks import pictures
    from data_prep.remote import addresses

    if addresses.is_address(values.data_dir):
        return _complain(addresses.why_local("data_dir", values.data_dir), _USAGE)
    data_dir = pathlib.Path(values.data_dir)
    try:
        pictures.check_output(values.output)
        if not (data_dir / MANIFEST_NAME).exists():
            return _complain(
                f"{data_dir / MANIFEST_NAME} does not exist: --data_dir must name a "
                "prepared folder whose preparation has ended",
                _USAGE,
            )
        data = PreparedData(data_dir)
        for split in data.splits:
            data.index(split)
        if values.clip:
            clip = pictures.read_clip(data, values.clip)
            pictures.draw_clip(values.output, clip, data.manifest)
        else:
            pictures.draw_shares(values.output, data.manifest)
    except (DataError, pictures.PictureError) as error:
        return _complain(str(error), _FAILED)
    except FileError as error:
        return _complain(str(error), _FAILED)
    except OSError as error:
        return _complain(f"{error}; run data_prep.verify", _FAILED)
    print(values.output)
    return 0


def _complain(message: str, code: int) -> int:
    print(f"data_prep.inspect: {message}", file=sys.stderr)
    return code


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    if len(arguments) > 1:
        return _complain(f"unknown argument {arguments[1]!r}", _USAGE)
    return execute(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
