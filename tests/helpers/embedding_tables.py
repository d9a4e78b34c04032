"""Files of embeddings for tests, in every format, without a model."""

import json
import pathlib

import h5py
import numpy as np

MODEL_HASH = "0123456789abcdef"


def sample_columns(num_clips: int = 12, dim: int = 16, seed: int = 0) -> dict:
    """Columns of clips in two folders; those of one folder are alike."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(2, dim))
    folder = np.arange(num_clips) % 2
    values = centres[folder] + 0.3 * random.normal(size=(num_clips, dim))
    return {
        "path": [f"music/album{folder[n]}/track {n}.ogg" for n in range(num_clips)],
        "sha256": [f"{n:064x}" for n in range(num_clips)],
        "start": np.zeros(num_clips),
        "seconds": np.full(num_clips, 30.0),
        "embedding": values.astype(np.float32),
    }


def write(path: pathlib.Path, columns: dict, metadata: dict | None = None):
    """Writes columns as the file's suffix says."""
    text = json.dumps(metadata or {"model_hash": MODEL_HASH})
    if path.suffix == ".npz":
        arrays = {name: np.array(value) for name, value in columns.items()}
        np.savez(path, metadata=np.array(text), **arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["metadata"] = text
            for name, value in columns.items():
                is_text = name in ("path", "sha256")
                file[name] = np.array(value, h5py.string_dtype()) if is_text else value
    else:
        import pyarrow
        from pyarrow import parquet

        values = np.asarray(columns["embedding"])
        text_type = pyarrow.string()  # also where there is no row
        arrays = {
            name: pyarrow.array(values, text_type if isinstance(values, list) else None)
            for name, values in columns.items()
            if name != "embedding"
        }
        arrays["embedding"] = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(values.ravel()), values.shape[1]
        )
        table = pyarrow.table(arrays).replace_schema_metadata({"metadata": text})
        parquet.write_table(table, path, row_group_size=5)
    return path
