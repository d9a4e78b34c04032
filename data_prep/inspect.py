"""Draws prepared data: python -m data_prep.inspect --data_dir=... --output=PNG.

With --clip=ID mixture and stems of one clip as log-mels, with the segments marked in
which each source is active, and its waveform above them where the folder has records of
waveforms too; without it the share of active segments a source, as in the paper's
figure 2. Manifest, indices and shards are compared with their checksums first.
"""

import pathlib
from typing import Any

from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import FileError
from cola_msa.values.paths import define_path


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    add: dict[str, Any] = {"flag_values": values}
    define_path("data_dir", None, "Prepared data.", required=True, **add)
    define_path("output", None, "The PNG file to write.", required=True, **add)
    flags.DEFINE_string(
        "clip", None, "Draw this clip; without it, the set's active shares.", **add
    )


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    # Here, not above: TensorFlow takes seconds, and --help need not wait for it.
    from cola_msa.records import kinds
    from cola_msa.records.prepared import PreparedData
    from cola_msa.records.schema import MANIFEST_NAME, DataError
    from data_prep.checks import pictures
    from data_prep.remote import copy

    copy.check_local("data_dir", options.data_dir)
    data_dir, *others = kinds.prepared_folders(pathlib.Path(options.data_dir))
    pictures.check_output(options.output)
    if not (data_dir / MANIFEST_NAME).exists():
        raise DataError(
            f"{data_dir / MANIFEST_NAME} does not exist: --data_dir must name a "
            "prepared folder whose preparation has ended"
        )
    try:
        data, *more = (PreparedData(folder) for folder in (data_dir, *others))
        for one in (data, *more):
            for split in one.splits:
                one.index(split)
        if options.clip:
            found, wrong = [], []
            for one in (data, *more):
                try:
                    found.append((pictures.read_clip(one, options.clip), one))
                except pictures.PictureError as error:
                    wrong.append(error)
            if not found:
                raise wrong[0]
            for reason in wrong:
                console.tell(f"drawn without it: {reason}")
            (clip, data), *rest = found
            beside = (rest[0][0], rest[0][1].frontend) if rest else None
            pictures.draw_clip(options.output, clip, data.manifest, beside)
        else:
            pictures.draw_shares(options.output, data.manifest)
            for one in more:
                console.tell(f"{one.data_dir}: waveforms, mixtures only; see --clip")
    except OSError as error:
        raise FileError(f"{error}; run data_prep.verify") from error
    console.tell(options.output)


if __name__ == "__main__":
    console.start(main, define_flags, keeps_memory=False)
