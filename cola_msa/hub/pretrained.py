"""Pretrained folders: an encoder as it is handed on, without the run it came from.

config.json        configuration, front end, step, what it was trained on, scores, and
                   the SHA-256 of every other file
model.weights.h5   the PairModel's variables by number and name, with batch-norm
                   statistics of mixtures; floats as float32, or as float16
statistics.h5      re-estimated batch-norm statistics: of `anchors` (mixtures) and of
                   `pairs` (mixtures and stems, what the pretext task sees)
README.md          the model card
heads/*.npz        classifiers on its embeddings, which config.json lists; none, or more

No file is a pickle or a graph: opening a folder from somebody else runs none of its
code. Of config.json every value that decides the size of something is bounded, and of
the HDF5 files names, shapes, types and storage are compared with what the configuration
makes before a value is read.
"""

import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np

from cola_msa.config import checks
from cola_msa.config.schema import STATISTICS, Config, from_dict, to_dict
from cola_msa.evaluation.probes import held_heads
from cola_msa.evaluation.probes.held_heads import HEADS_FOLDER, MAX_BYTES
from cola_msa.evaluation.probes.kept_heads import Heads
from cola_msa.frameworks.choose import framework_of
from cola_msa.hub.model_card import read_scores, render_card
from cola_msa.model import plain
from cola_msa.model.contrastive import PairModel
from cola_msa.model.statistics import BatchStatistics, embedding_shapes
from cola_msa.runs import directory, network
from cola_msa.runs import kept as kept_lib
from cola_msa.runs.info import encoder_info
from cola_msa.system import folders
from cola_msa.system.errors import FileError, RunError, UserError
from cola_msa.system.files import file_sha256, plain_hdf5_errors, temporary_folder
from cola_msa.values import arrays as arrays_lib
from cola_msa.values.arrays import write_json
from cola_msa.values.reading import read_json

FORMAT = "cola_msa pretrained encoder"
FORMAT_VERSION = 2  # 2: weights may be stored in half precision
WEIGHTS_NAME = "model.weights.h5"
STATISTICS_NAME = "statistics.h5"
CARD_NAME = "README.md"
WEIGHT_TYPES = ("float32", "float16")
_MOMENTS = ("input_scaling", "normalization", kept_lib.EMBEDDING_NAME)
_FILES = (WEIGHTS_NAME, STATISTICS_NAME)
# The only files that are taken from an archive or an address, and their most bytes.
LIMITS = {
    "config.json": 4 << 20,
    WEIGHTS_NAME: 256 << 20,
    STATISTICS_NAME: 16 << 20,
    CARD_NAME: 4 << 20,
}
ARCHIVE_LIMITS = {**LIMITS, f"{HEADS_FOLDER}/*.npz": MAX_BYTES}
_MAX_DEPTH = 16  # names below each other
_MAX_LAYERS = 1000
_MAX_CHANNELS = 1 << 16

_FEWER_HEADS = ": name one task's by --head, or leave them out by --head=none"


def is_pretrained(path: str | os.PathLike) -> bool:
    """Whether a folder's config.json says that it is a pretrained folder."""
    try:
        content = read_json(
            pathlib.Path(path) / "config.json", max_bytes=LIMITS["config.json"]
        )
    except FileError:
        return False
    return content.get("format") == FORMAT


def save_pretrained(
    run_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    step: int | str | None = None,
    *,
    name: str | None = None,
    licence: str = "not stated",
    weights: str = "float32",
    heads: Mapping[str, Heads] | None = None,
    check: Callable[[pathlib.Path], Any] = lambda folder: None,
) -> dict[str, Any]:
    """Writes a pretrained folder of a run's encoder, head and similarity.

    Args:
        run_dir: The run.
        output_dir: The folder: absent or empty.
        step: A kept step, `best`, or None for the last.
        name: The model's name; default the folder's.
        licence: Licence of the weights, for the model card.
        weights: How they are stored: `float32`, or `float16` in half the space; the
            folder's encoder is then the one of the rounded weights.
        heads: Heads to hand on by file name; None is all of the run's evaluations of
            this encoder.
        check: Called with the finished folder before it takes its name.

    Returns:
        The content of config.json.

    Raises:
        RunError: If the run has no such checkpoint.
        FileError: If `output_dir` holds anything; nothing there is touched then.
        UserError: If the heads are more than a folder may hold.
    """
    run_dir, output_dir = pathlib.Path(run_dir), pathlib.Path(output_dir)
    folders.check_replaceable(output_dir, _never_replaced, "an empty folder")
    model = kept_lib.load_model(run_dir, step)
    kept = kept_lib.kept_path(run_dir, step)
    arrays = arrays_lib.read_arrays(kept)
    run, config = directory.load_run(run_dir), directory.load_config(run_dir)
    info = encoder_info(run_dir, step, "trained")
    run_key = kept_lib.encoder_key(run_dir, step)
    if heads is None:
        heads = held_heads.heads_to_hand_on(run_dir, run_key)
    with temporary_folder(output_dir) as temporary:
        with plain_hdf5_errors():
            _write_weights(temporary / WEIGHTS_NAME, model, weights)
            wanted = {config.train.statistics_inputs, "pairs"}
            if weights == "float32":  # else what nobody uses takes no space
                # A run of an imported folder has those that the folder had.
                names = [n.split("/") for n in arrays if n.startswith("statistics/")]
                wanted |= {name[1] for name in names}
            statistics = temporary / STATISTICS_NAME
            held = tuple(name for name in STATISTICS if name in wanted)
            _write_statistics(statistics, kept, arrays, model, held)
        key = _key(run_key, weights)
        written = held_heads.write_heads(temporary, heads, key, _FEWER_HEADS)
        content = {
            "format": FORMAT,
            # As early as it can be, for those who have an earlier version.
            "format_version": 1 if weights == "float32" else FORMAT_VERSION,
            "weights": weights,
            "name": name or output_dir.resolve().name,
            "licence": licence,
            "config": to_dict(config),
            # Where the data lay is nobody else's business.
            "data": {k: v for k, v in run["data"].items() if k != "data_dir"},
            "step": info.step,
            "updates": info.updates,
            "pairs": info.pairs,
            "num_replicas": run.get("num_replicas", 1),
            "embedding_dim": int(model.embedder().output_shape[-1]),
            "statistics": config.train.statistics_inputs,
            "encoder_key": key,
            "scores": read_scores(run_dir, info.step),
            "versions": run.get("versions", {}),
            "git_commit": run.get("git_commit"),
            "source": run.get("source"),
            "files": {name: file_sha256(temporary / name) for name in _FILES},
        }
        if written:
            content["heads"] = held_heads.list_entries(temporary, written)
        (temporary / CARD_NAME).write_text(render_card(content), encoding="utf-8")
        write_json(temporary / "config.json", content)
        check(temporary)
        folders.replace_folder(
            temporary, output_dir, _never_replaced, "an empty folder"
        )
    return content


def _key(key: str, weights: str) -> str:
    """The encoder's key; of rounded weights it is another."""
    if weights == "float32":
        return key
    return hashlib.sha256(f"{key} {weights}".encode()).hexdigest()[:16]


def make_run(
    source: str | os.PathLike, output_dir: str | os.PathLike
) -> dict[str, Any]:
    """Writes a run directory from a pretrained folder.

    It computes what the folder does, under a key of its own; the folder's heads go
    with it.

    Args:
        source: The folder.
        output_dir: The run directory; it must not exist, or be empty.

    Returns:
        `tensors` assigned, `step`, `run_dir`, `encoder_key` and `heads`, file names.

    Raises:
        RunError: If the folder is damaged; nothing is written then.
        FileError: If `output_dir` holds anything.
    """
    source, output_dir = pathlib.Path(source), pathlib.Path(output_dir)
    folders.check_replaceable(output_dir, _never_replaced, "an empty folder")
    content, model = read_config(source), load_model(source)
    check_heads(source)
    heads = held_heads.heads_to_hand_on(source, content["encoder_key"])
    with _opened(source / STATISTICS_NAME) as file:  # load_model has read of it
        held = [name for name in STATISTICS if name in file]
    found = {name: read_statistics(source, name, model) for name in held}
    done = {
        "outcome": "imported",
        "training_seconds": 0.0,
        **{name: content.get(name, 0) for name in ("step", "updates", "pairs")},
    }
    run = {
        "config": content["config"],
        "data": {**content["data"], "data_dir": ""},
        "num_replicas": content.get("num_replicas", 1),
        "versions": content.get("versions", {}),
        "git_commit": content.get("git_commit"),
        "source": f"the pretrained folder {content['name']}",
    }
    with temporary_folder(output_dir) as temporary:
        kept_lib.save_kept(temporary, model, found, content["step"])
        write_json(temporary / directory.DONE_NAME, done)
        write_json(temporary / "config.json", run)
        held_heads.write_heads(temporary, heads, kept_lib.encoder_key(temporary))
        folders.replace_folder(
            temporary, output_dir, _never_replaced, "an empty folder"
        )
    return {
        "tensors": len(model.variables),
        "step": content["step"],
        "run_dir": str(output_dir),
        "encoder_key": kept_lib.encoder_key(output_dir),
        "heads": list(heads),
    }


def _never_replaced(folder: pathlib.Path) -> None:
    """A folder to hand on may hold its owner's work: a model card that was edited."""


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a pretrained folder's config.json.

    Raises:
        RunError: If it is no pretrained folder, is damaged, or of a later version.
    """
    path = pathlib.Path(path) / "config.json"
    content = read_json(
        path, RunError, "get it again", max_bytes=LIMITS["config.json"], check=_checked
    )
    if content["format_version"] > FORMAT_VERSION:
        raise RunError(
            f"{path}: format version {content['format_version']}, and this cola_msa "
            f"reads up to {FORMAT_VERSION}; upgrade it"
        )
    return content


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError, KeyError or TypeError where config.json cannot be meant."""
    if content["format"] != FORMAT:
        raise ValueError("no pretrained folder: its format is another")
    version = content["format_version"]
    if type(version) is not int:
        raise ValueError(f"format_version {version!r:.40}")
    if version > FORMAT_VERSION:
        return content
    for part in ("config", "data", "files"):
        if not isinstance(content[part], dict):
            raise TypeError(f"{part} is no object")
    framework_of(checks.check_config(content["config"]))
    for name in ("name", "statistics", "encoder_key"):
        if not isinstance(content[name], str):
            raise TypeError(f"{name} is no text")
    # It is printed, and must not move a terminal's cursor.
    if len(content["name"]) > 255 or re.search(
        r"[\x00-\x1f\x7f-\x9f]", content["name"]
    ):
        raise ValueError(f"name {content['name']!r:.40}")
    if content.get("weights", "float32") not in WEIGHT_TYPES:
        raise ValueError(f"weights {content['weights']!r:.40}")
    if content["statistics"] not in STATISTICS:
        raise ValueError(f"statistics {content['statistics']!r:.40}")
    if type(content["step"]) is not int:
        raise TypeError("step is no whole number")
    if not 0 <= content["step"] < 1 << 63:
        raise ValueError(f"step {content['step']!r:.40}")
    for name in ("updates", "pairs", "num_replicas"):
        count = content.get(name, 1)
        if type(count) is not int or not 0 <= count < 1 << 62:
            raise ValueError(f"{name} {count!r:.40}")
    if not isinstance(content.get("versions", {}), dict):
        raise TypeError("versions is no object")
    sources = content["data"].get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
        raise TypeError(f"data: sources is {sources!r:.40}")
    checks.check_moments(content["data"])
    for name in _FILES:
        if not isinstance(content["files"][name], str):
            raise TypeError(f"files: {name}")
    if unknown := sorted(set(content["files"]) - set(LIMITS)):
        raise ValueError(f"files: {unknown[:3]!r:.100}")
    held_heads.check_entries(content.get("heads", []))
    return content


def listed_hashes(content: dict[str, Any]) -> dict[str, str]:
    """The SHA-256 of all files that a config.json lists, by their names."""
    heads = {one["file"]: one["sha256"] for one in content.get("heads", [])}
    return {**content["files"], **heads}


def own_files(path: pathlib.Path) -> list[str]:
    """Names of all files that a pretrained folder may have and this one has."""
    heads = (file.relative_to(path) for file in path.glob(f"{HEADS_FOLDER}/*.npz"))
    return [*LIMITS, *(file.as_posix() for file in heads)]


def check_heads(path: str | os.PathLike, task: str | None = None) -> None:
    """Compares the heads that a pretrained folder lists with their SHA-256.

    Args:
        path: The folder.
        task: Whose; None for all.

    Raises:
        RunError: If a file is missing, too large or is another; the message names it.
    """
    path = pathlib.Path(path)
    for one in read_config(path).get("heads", []):
        if task in (None, one["task"]):
            held_heads.check_size(path / one["file"])
            check_files(path, {one["file"]: one["sha256"]})


def load_model(path: str | os.PathLike, statistics: str | None = None) -> PairModel:
    """Rebuilds the model of a pretrained folder.

    Args:
        path: The folder.
        statistics: `anchors` (for mixtures) or `pairs` (for mixtures and stems); None
            is what its configuration names for its encoder.

    Returns:
        PairModel, ready for inference.

    Raises:
        RunError: If the folder is damaged, or does not fit its configuration.
    """
    path = pathlib.Path(path)
    content = read_config(path)
    check_files(path, content["files"])
    model = network.build_network(from_dict(Config, content["config"]), content["data"])
    try:
        stored = content.get("weights", "float32")
        values = _read_weights(path / WEIGHTS_NAME, model, stored)
    except (RunError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{path / WEIGHTS_NAME}: does not fit its config.json ({error})"
        ) from error
    found = read_statistics(path, statistics or content["statistics"], model)
    return network.put_weights(model, values, found)


def plain_weights(path: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """As `runs.kept.plain_weights`, of a pretrained folder.

    Raises:
        RunError: If the folder is damaged.
    """
    path = pathlib.Path(path)
    content = read_config(path)
    check_files(path, content["files"])
    config: Config = from_dict(Config, content["config"])
    variables = framework_of(config).plain_variables(config)
    layers = plain.batch_norm_names(variables)
    weights, found = {}, {}
    try:
        with _opened(path / WEIGHTS_NAME) as file:
            if len(file) != 1 or not _is_plain(file, "model"):
                return None
            group = file["model"]
            if not variables or len(group) != len(variables):
                return None
            for number, variable in enumerate(variables):
                kind = np.dtype(variable.kind)
                stored = _stored_type(
                    variable.name, kind, content.get("weights", "float32")
                )
                value = _read(group, f"{number:04d}", variable.shape, stored)
                weights[variable.name] = value.astype(kind)
        with _opened(path / STATISTICS_NAME) as file:
            if not _is_plain(file, content["statistics"]):
                return None
            group = file[content["statistics"]]
            if not all(_is_plain(group, name) for name in group):
                return None
            kind = np.dtype(np.float32)
            for number, layer in enumerate(layers):
                for part in ("mean", "variance"):
                    value = _read(group[f"{number:04d}"], part, None, kind)
                    found[f"{layer}/moving_{part}"] = value
            for name in weights:
                if name.startswith(f"{kept_lib.EMBEDDING_NAME}/"):
                    shape = weights[name].shape
                    found[name] = _read(group, name, shape, kind)
    except (RunError, OSError, KeyError, TypeError, AttributeError, RuntimeError):
        return None  # `load_model` says what is wrong
    return kept_lib.replace_statistics(weights, found)


def _stored_type(name: str, kind: np.dtype, weights: str) -> np.dtype:
    """What a variable is stored as; moments of the data may be of any size."""
    is_moment = name.split("/")[0] in _MOMENTS
    return kind if is_moment or kind != np.float32 else np.dtype(weights)


def _write_weights(path: pathlib.Path, model: PairModel, weights: str) -> None:
    """Writes every variable under its name in checkpoints.

    Not Keras's `save_weights`: its names follow the classes of layers, and those
    differ between CPU and GPU.
    """
    # The later layout of groups takes a tenth of the space, and is of the later format.
    layout = {} if weights == "float32" else {"libver": "latest"}
    with h5py.File(path, "w", **layout) as file:
        for number, variable in enumerate(model.variables):
            name = network.array_name("model", number, variable)
            value = np.array(variable)
            kind = _stored_type(network.plain_path(variable), value.dtype, weights)
            stored = value.astype(kind)
            if not np.isfinite(stored).all() and np.isfinite(value).all():
                raise UserError(
                    f"{name} holds values up to {np.abs(value).max():.3g}, more than "
                    f"{weights} can: store the weights as float32"
                )
            file[name] = stored


def _write_statistics(
    path: pathlib.Path,
    kept: pathlib.Path,
    arrays: dict[str, np.ndarray],
    model: PairModel,
    wanted: tuple[str, ...],
) -> None:
    with h5py.File(path, "w") as file:
        for inputs in wanted:
            found = kept_lib.read_statistics(kept, arrays, inputs, model)
            for number in range(len(found.means)):
                group = file.create_group(f"{inputs}/{number:04d}")
                group["mean"] = found.means[number]
                group["variance"] = found.variances[number]
            for name, value in found.embedding.items():
                file[f"{inputs}/{kept_lib.EMBEDDING_NAME}/{name}"] = value


def _read_weights(
    path: pathlib.Path, model: PairModel, weights: str
) -> list[tuple[Any, np.ndarray]]:
    with _opened(path) as file:
        group = file.get("model", getclass=False) if _is_plain(file, "model") else None
        if not isinstance(group, h5py.Group) or len(file) != 1:
            raise RunError("it holds something else than one group 'model'")
        if len(group) != len(model.variables):
            raise RunError(
                f"it holds {len(group)} variables of the model, which has "
                f"{len(model.variables)}: it belongs to another configuration"
            )
        arrays = {}
        for number, variable in enumerate(model.variables):
            name = f"{number:04d}"
            wanted = np.dtype(variable.dtype)
            stored = _stored_type(network.plain_path(variable), wanted, weights)
            value = _read(group, name, variable.shape, stored)
            arrays[f"model/{name}"] = value.astype(wanted)
    return network.fitting_values("model", model.variables, arrays)


def _opened(path: pathlib.Path) -> h5py.File:
    if path.stat().st_size > LIMITS[path.name]:
        raise RunError(f"{path}: has more than {LIMITS[path.name]:,} bytes")
    return h5py.File(path, "r")


def _is_plain(group: h5py.Group, name: str) -> bool:
    """Whether a member lies in the file itself: no soft and no external link."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _read(
    group: h5py.Group, name: str, shape: tuple[int | None, ...] | None, dtype: np.dtype
) -> np.ndarray:
    """The only array under a name, which may have further names below it.

    Args:
        group: Where the name stands.
        name: What the array's name begins with.
        shape: What it must have; None for one dimension of any length up to 2^16.
        dtype: What it must have.

    Returns:
        The array; read only once names, shape, type and storage are what is written.

    Raises:
        RunError: If anything is not.
    """
    path = name
    for _ in range(_MAX_DEPTH):
        if not _is_plain(group, name):
            raise RunError(f"{path}: missing, or a link")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            break
        names = list(itertools.islice(item, 2)) if isinstance(item, h5py.Group) else []
        if len(names) != 1:
            raise RunError(f"{path}: not one array")
        group, name = item, names[0]
        path += f"/{name}"
    else:
        raise RunError(f"{path}: too many names below each other")
    if shape is None:
        is_fit = item.shape is not None and len(item.shape) == 1
        is_fit = is_fit and item.shape[0] <= _MAX_CHANNELS
    else:
        is_fit = item.shape == tuple(shape)
    if not is_fit:
        raise RunError(f"{path}: shape {item.shape}, not {shape or 'a vector'}")
    if item.dtype != dtype:
        raise RunError(f"{path}: type {item.dtype}, not {dtype}")
    size = item.size * dtype.itemsize
    is_own = not item.external and not item.is_virtual and item.chunks is None
    if not is_own or (size and item.id.get_storage_size() != size):
        raise RunError(f"{path}: its values do not lie in the file as they are")
    return item[()]


def read_statistics(
    path: str | os.PathLike, inputs: str, model: PairModel
) -> BatchStatistics:
    """Batch-norm statistics of a pretrained folder: of `anchors` or of `pairs`.

    Args:
        path: The folder.
        inputs: Which.
        model: Whose encoder they are for.

    Raises:
        RunError: If it has none, they are another network's, or not stored as they
            were written.
    """
    path = pathlib.Path(path) / STATISTICS_NAME
    kind = np.dtype(np.float32)
    try:
        with _opened(path) as file:
            if not _is_plain(file, inputs) or len(file[inputs]) > _MAX_LAYERS:
                raise RunError("missing, a link, or of too many layers")
            group = file[inputs]
            means, variances, embedding = [], [], {}
            shapes = embedding_shapes(model)
            for name in sorted(group):
                if name == kept_lib.EMBEDDING_NAME and shapes:
                    if not _is_plain(group, name) or set(group[name]) != set(shapes):
                        raise RunError(f"{inputs}/{name}: not its three arrays")
                    embedding = {
                        part: _read(group[name], part, shape, kind)
                        for part, shape in shapes.items()
                    }
                    continue
                if not _is_plain(group, name) or len(group[name]) != 2:
                    raise RunError(f"{inputs}/{name}: not a mean and a variance")
                means.append(_read(group[name], "mean", None, kind))
                variances.append(_read(group[name], "variance", None, kind))
            found = BatchStatistics(tuple(means), tuple(variances), embedding)
        if not found.fits(model):
            raise RunError("they are another network's")
        return found
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RunError(f"{path}: no batch-norm statistics {inputs}") from error
    except RunError as error:
        raise RunError(
            f"{path}: no batch-norm statistics {inputs} ({error}); get the folder again"
        ) from error


def check_files(path: pathlib.Path, hashes: dict[str, str]) -> None:
    """Compares files with the SHA-256 that config.json or metadata.json names.

    Raises:
        RunError: If a file is missing or is another; the message names it.
    """
    for name, expected in hashes.items():
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing; get the folder again")
        if file_sha256(path / name) != expected:
            raise RunError(
                f"{path / name}: damaged or not the original (its SHA-256 is not the "
                "recorded one); get the folder again"
            )
