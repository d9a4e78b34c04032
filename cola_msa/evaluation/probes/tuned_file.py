"""Fine-tuned models in Keras's own file: written whole, opened only within bounds.

A `.keras` file is a zip of a configuration and of HDF5. Sizes, names and storage are
checked before anything of that size is read, and Keras is given what was checked.
"""

import os
import pathlib
import shutil
import tempfile
import zipfile

import h5py
import keras

from cola_msa.system.archives import read_archive
from cola_msa.system.errors import RunError
from cola_msa.system.files import temporary_folder, written_path

_WEIGHTS = "model.weights.h5"
# What Keras writes, and the most bytes of each.
_LIMITS = {"metadata.json": 1 << 16, "config.json": 4 << 20, _WEIGHTS: 256 << 20}
_MAX_FILE_BYTES = 256 << 20
_MAX_ITEMS = 20_000  # groups and arrays


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a model for `read_model`, whole or not at all.

    Raises:
        FileError: If it cannot be written.
    """
    path = pathlib.Path(path)
    # Keras wants its own suffix, which no temporary file of ours has.
    with written_path(path) as temporary, temporary_folder(path) as folder:
        model.save(folder / path.name)
        shutil.copyfile(folder / path.name, temporary)


def is_model(path: str | os.PathLike) -> bool:
    """Whether a file holds what Keras writes, by the names in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(_LIMITS) <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_model(path: str | os.PathLike) -> keras.Model:
    """Reads what `save_model` wrote.

    Raises:
        RunError: If there is no such file, it is damaged, or larger than a model is,
            packed or unpacked.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise RunError(f"{path}: there is no such file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise RunError(f"{path}: has more than {_MAX_FILE_BYTES:,} bytes")
    with tempfile.TemporaryDirectory(prefix="cola_msa-keras-") as work:
        found = read_archive(path, pathlib.Path(work) / "unpacked", _LIMITS, str(path))
        names = {file.name for folder in found for file in folder.iterdir()}
        if len(found) != 1 or names != set(_LIMITS):
            raise RunError(f"{path}: holds not just {', '.join(_LIMITS)}")
        plain = pathlib.Path(work) / "model.keras"
        with zipfile.ZipFile(plain, "w") as archive:
            for name in _LIMITS:
                archive.write(found[0] / name, name)
        # Keras has no error of its own for files that are damaged.
        try:
            _check_weights(found[0] / _WEIGHTS)
            return keras.saving.load_model(plain, compile=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"{path}: damaged, or no model of ours ({reason})"
            ) from error


def _check_weights(path: pathlib.Path) -> None:
    """Raises ValueError where an array does not lie in the file as it is."""
    num_items = 0
    with h5py.File(path, "r") as file:
        waiting: list[h5py.Group] = [file]
        while waiting:
            group = waiting.pop()
            for name in group:
                num_items += 1
                if num_items > _MAX_ITEMS:
                    raise ValueError(f"more than {_MAX_ITEMS:,} arrays")
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{name} is a link")
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                    continue
                _check_array(item)


def _check_array(item: h5py.Dataset) -> None:
    is_plain = not (item.external or item.is_virtual or item.chunks is not None)
    if not is_plain or item.dtype.kind not in "fiub" or item.shape is None:
        raise ValueError(f"{item.name}: its values do not lie in the file as they are")
    size = item.size * item.dtype.itemsize
    if size and item.id.get_storage_size() != size:
        raise ValueError(f"{item.name} is not as long as it says")
