"""Records of two kinds in one prepared folder: log-mels, and waveforms within it.

    prepared/mtat            manifest.json, indices, shards: log-mels
    prepared/mtat/waveform   the same of waveforms

`--records` of the preparations makes either or both; whoever names the outer folder
gets the kind that its model's front end asks for.
"""

import pathlib

from cola_msa.config.schema import FRONTEND_KINDS, LOG_MEL, WAVEFORM, FrontendConfig
from cola_msa.records.schema import MANIFEST_NAME, DataError

_FOLDERS = {LOG_MEL: "", WAVEFORM: "waveform"}


def kind_folder(data_dir: str, kind: str) -> str:
    """Where a preparation puts records of a kind, below its folder or address."""
    name = _FOLDERS[kind]
    return f"{data_dir.rstrip('/')}/{name}" if name else data_dir


def folder_of(data_dir: pathlib.Path, frontend: FrontendConfig | None) -> pathlib.Path:
    """The folder whose records a front end reads: `data_dir`, or one within it.

    Args:
        data_dir: A prepared folder, or the one around it.
        frontend: The front end; None takes `data_dir` as it is.
    """
    inner = data_dir / _FOLDERS[LOG_MEL if frontend is None else frontend.kind]
    return inner if (inner / MANIFEST_NAME).exists() else data_dir


def prepared_folders(data_dir: pathlib.Path) -> list[pathlib.Path]:
    """All prepared folders that a folder holds, itself first; it alone without any."""
    found = [data_dir / _FOLDERS[kind] for kind in FRONTEND_KINDS]
    return [f for f in found if (f / MANIFEST_NAME).exists()] or [data_dir]


def check_kind(
    path: pathlib.Path, found: FrontendConfig | None, frontend: FrontendConfig
) -> None:
    """Refuses records of another kind than the model's; a kind may be missing.

    Args:
        path: The manifest.
        found: The records' front end; None where there is no manifest.
        frontend: The model's.

    Raises:
        DataError: If so; the message says how to prepare the other kind.
    """
    if found is not None and found.kind == frontend.kind:
        return
    inner = path.parent / _FOLDERS[WAVEFORM] / MANIFEST_NAME
    if found is None and not frontend.is_waveform and not inner.exists():
        return  # told as ever where the manifest is read
    held = "does not exist" if found is None else f"is of {_NAMES[found.kind]}"
    advice = "give the preparation's command again with"
    if frontend.is_waveform:
        place = kind_folder(str(path.parent), WAVEFORM)
        advice += f" --records=waveform, which puts them into {place}"
    else:
        advice += " --records=log_mel"
        if found is not None:
            advice += ", or name the folder around it"
    raise DataError(
        f"{path} {held}, but this model's encoder hears {_NAMES[frontend.kind]}: "
        f"{advice}"
    )


_NAMES = {LOG_MEL: "log-mels", WAVEFORM: "waveforms"}
