"""Opens whatever holds an encoder: a run, a pretrained folder or an export.

model = open_model("runs/NAME")
model.embed(windows)                # float32 [n, 98, 64, 1] -> [n, dim]
model.matcher.project(windows)      # -> [n, 512]
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cola_msa.config.checks import check_frontend
from cola_msa.config.schema import Config, ModelConfig, from_dict
from cola_msa.frameworks.choose import framework_of
from cola_msa.hub import pretrained
from cola_msa.hub.formats import portable
from cola_msa.hub.opened import Network, OpenedModel
from cola_msa.hub.sharing import buckets, download, hugging_face
from cola_msa.model.contrastive import PairModel
from cola_msa.model.matcher import Matcher, projection_network
from cola_msa.model.plain import embedding_dim, plain_encoder
from cola_msa.model.statistics import BatchStatistics
from cola_msa.remote import addresses
from cola_msa.runs import directory
from cola_msa.runs import kept as kept_lib
from cola_msa.system.errors import RunError, hide_logins
from cola_msa.values import arrays as arrays_lib
from cola_msa.values.reading import read_json

# The weights that come with the package, and what they are called.
STARTER = "starter"
STARTER_DIR = pathlib.Path(__file__).parent / STARTER
_MAX_DIM = 1 << 16


def resolve(
    source: str | os.PathLike, registry: str | os.PathLike | None = None
) -> pathlib.Path:
    """The folder of a model that is named by a folder, a URL or a registry's name.

    Args:
        source: A folder, the URL of an archive of a pretrained folder, an address of
            Hugging Face (`hf://user/name@revision`) or of a bucket (`gs://bucket/run`
            and whatever else fsspec knows), or a name.
        registry: A registry file; None means COLA_MSA_REGISTRY, else the package's.

    Raises:
        RunError: If a download fails or is not what the registry says.
    """
    text = os.fspath(source)
    local = addresses.local_path(text)
    if os.path.isfile(os.path.join(local, "config.json")):  # no archive
        text = local
    if download.is_url(text):
        return download.fetch(text)
    if hugging_face.is_address(text):
        return hugging_face.fetch(text)
    path = pathlib.Path(text)
    if path.exists():
        return path
    if text in _own_names():
        return STARTER_DIR
    if text in download.read_registry(registry):
        return download.fetch(text, registry)
    if buckets.is_address(text):
        return buckets.fetch(text)
    return path


def default_models() -> list[tuple[str, str]]:
    """Models of a command that names none, the first first, each with what it is.

    The newest run below `runs/` that has kept more than its untrained network, and the
    weights in the package.
    """
    newest = directory.newest_run(is_wanted=lambda run: any(kept_lib.kept_steps(run)))
    found = [] if newest is None else [(str(newest), f"the newest run, {newest}")]
    found += [(n, f"{n}, the weights that come with cola_msa") for n in _own_names()]
    return found


def default_model_of(key: str | None) -> str | None:
    """Of the models of a command that names none the one with this encoder's key."""
    for name, description in default_models():
        with contextlib.suppress(RunError):  # a run that has kept nothing yet
            if open_model(name).key == key:
                logging.info("no --model: %s", description)
                return name
    return None


def _own_names() -> list[str]:
    """Names of the weights that this copy of the package holds."""
    return [STARTER] if STARTER_DIR.is_dir() else []


def default_model() -> tuple[str, str]:
    """The model of a command that names none, and a line that says which it is.

    Raises:
        RunError: If there is none.
    """
    for name, description in default_models():
        return name, f"no --model: {description}"
    raise RunError(
        "there is no run under runs/: train one by python -m cola_msa.train, or name "
        "a run, an export or a pretrained folder by --model"
    )


def find_kind(path: str | os.PathLike) -> str:
    """What a folder is: `run`, `pretrained` or `export`.

    Raises:
        RunError: If it is none of them; the message says what is there instead.
    """
    path = pathlib.Path(path)
    wanted = "a run, a pretrained folder or an export"
    if not path.exists():
        names = {*download.read_registry()} | (
            {STARTER} if STARTER_DIR.is_dir() else set()
        )
        known = ", ".join(sorted(names)) or "none yet"
        raise RunError(
            f"{path} does not exist; name {wanted}, a URL, or a pretrained encoder by "
            f"its name ({known})"
        )
    if not path.is_dir():
        raise RunError(f"{path} is a file; name {wanted}, which are folders")
    # First: whatever lies beside it, of a pretrained folder no graph is run.
    if pretrained.is_pretrained(path):
        return "pretrained"
    exported = portable.find_file(path)
    if (path / "saved_model.pb").exists() or exported:
        if not (path / "metadata.json").exists():
            what = exported.name if exported else "a SavedModel"
            raise RunError(
                f"{path}: {what} without metadata.json, which "
                "python -m cola_msa.export writes beside it"
            )
        return "export"
    if (path / "config.json").exists():
        directory.load_run(path)
        return "run"
    newest = directory.newest_run(path)
    hint = f"; {newest} is a run" if newest else ""
    raise RunError(
        f"{path}: neither a run, an export nor a pretrained folder: it holds neither "
        f"config.json nor saved_model.pb, encoder.onnx or encoder.tflite{hint}"
    )


def open_model(
    path: str | os.PathLike,
    checkpoint_step: int | str | None = None,
    registry: str | os.PathLike | None = None,
) -> OpenedModel:
    """Opens a run, a pretrained folder or an export for inference.

    What comes from an address or a registry is opened as a pretrained folder, or of a
    bucket as a run, which run no code of their maker, or not at all. A local SavedModel
    is a TensorFlow graph,
    which can read and write files: open one only from somebody whom you would let run
    a program.

    Args:
        path: The folder, or its address in a bucket; or of a pretrained folder a URL,
            `hf://user/name@revision` or a registry's name. Each is fetched into the
            cache once.
        checkpoint_step: For a run: a kept step, `best`, or None for the last.
        registry: A registry file; None means COLA_MSA_REGISTRY, else the package's.

    Returns:
        OpenedModel.

    Raises:
        RunError: If the folder is none of these or is damaged, its encoder's weights
            are not finite, or a step was named for anything but a run.
    """
    found = resolve(path, registry)
    kind = find_kind(found)
    kinds = ("pretrained", "run") if buckets.is_address(str(path)) else ("pretrained",)
    is_local = found == pathlib.Path(addresses.local_path(str(path)))
    if kind not in kinds and not is_local:
        wanted = " and no ".join(kinds)
        raise RunError(
            f"{hide_logins(str(path))}: is no {wanted} folder, so it is not opened"
        )
    path = found
    if kind != "run" and checkpoint_step is not None:
        raise RunError(
            f"{path}: a checkpoint step can be chosen of a run alone, and this is "
            f"{'an' if kind == 'export' else 'a'} {kind}"
        )
    if kind == "run":
        return _open_run(path, checkpoint_step)
    if kind == "pretrained":
        return _open_pretrained(path)
    return _open_export(path)


def from_pretrained(
    source: str | os.PathLike, registry: str | os.PathLike | None = None
) -> OpenedModel:
    """Opens a pretrained folder by its path, its address or its name.

    Args:
        source: A folder, the URL of an archive of one (optionally with
            `#sha256=<64 digits>`), an address of Hugging Face
            (`hf://user/name@revision`, see `hub.sharing.hugging_face`), or a name of
            the registry.
        registry: A registry file; None means COLA_MSA_REGISTRY, else the package's.

    Returns:
        OpenedModel.

    Raises:
        RunError: If it is no pretrained folder, or cannot be fetched.
    """
    return _open_pretrained(find_pretrained(source, registry))


def find_pretrained(
    source: str | os.PathLike, registry: str | os.PathLike | None = None
) -> pathlib.Path:
    """The pretrained folder that a path, a URL or a name names; as `from_pretrained`.

    Raises:
        RunError: If it is no pretrained folder, or cannot be fetched.
    """
    path = resolve(source, registry)
    kind = find_kind(path)
    if kind != "pretrained":
        raise RunError(
            f"{path}: is {'an' if kind == 'export' else 'a'} {kind}, no pretrained "
            "folder; cola_msa.open_model opens each of them"
        )
    return path


def load_encoder(
    path: str | os.PathLike,
    step: int | str | None = None,
    statistics: str | None = None,
) -> keras.Model:
    """Loads the encoder of a run or of a pretrained folder for inference.

    Args:
        path: A run directory, or a pretrained folder, its address or its name.
        step: For a run: a kept step, `best`, or None for the last; 0 is the untrained
            network.
        statistics: Batch-norm statistics: `anchors` (for mixtures) or `pairs` (for
            mixtures and stems); None is what the run's configuration names.

    Returns:
        keras.Model, float32 [batch, frames, 64, 1] -> [batch, dim]; call it with
        training=False.

    Raises:
        RunError: If there is no such run, folder or step.
    """
    path = resolve(path)
    kind = find_kind(path)
    if kind == "run":
        return kept_lib.load_model(path, step, statistics).embedder()
    if kind == "export":
        raise RunError(
            f"{path}: an export is no Keras model; use cola_msa.open_model, or "
            "tf.saved_model.load"
        )
    if step is not None:
        raise RunError(f"{path}: a pretrained folder has one step, without a number")
    return pretrained.load_model(path, statistics).embedder()


def _details(content: dict[str, Any], step: Any) -> dict[str, Any]:
    """What stands beside weights, wherever they are kept."""
    return {
        "config": content["config"],
        # Where the data lay is nobody else's business.
        "data": {k: v for k, v in content["data"].items() if k != "data_dir"},
        "step": step,
        "git_commit": content.get("git_commit"),
    }


def _function_of(
    config: ModelConfig, weights: dict[str, np.ndarray] | None
) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """The encoder as a plain function; None where Keras must build, or refuse, it."""
    if weights is None:
        return None
    floats = (value for value in weights.values() if value.dtype.kind == "f")
    if not all(np.isfinite(value).all() for value in floats):
        return None
    return plain_encoder(config, weights)


def _network_of(
    path: pathlib.Path,
    model: PairModel,
    read_pairs: Callable[[PairModel], BatchStatistics],
) -> Network:
    encoder = model.embedder()
    weights = encoder.weights
    bad = [w.path for w in weights if not np.isfinite(np.asarray(w)).all()]
    if bad:
        raise RunError(
            f"{path}: the encoder's weights are not finite ({len(bad)} of "
            f"{len(weights)} arrays, first {bad[0]}), so that it can embed nothing: "
            "use another checkpoint, or another model"
        )
    matcher = Matcher(
        lambda: projection_network(model, read_pairs(model)),
        model.similarity,
        model.frontend.num_mels,
    )
    return Network(encoder, matcher, model.projector, model.similarity)


def _opened(
    config: Config,
    weights: dict[str, np.ndarray] | None,
    make_network: Callable[[], Network],
    **fields: Any,
) -> OpenedModel:
    function = _function_of(config.model, weights)
    if function is not None:
        dim = embedding_dim(config.model, config.frontend.num_mels)
    else:
        network = make_network()  # now, so that what is damaged is refused now
        assert isinstance(network.encoder, keras.Model)
        dim = int(network.encoder.output_shape[-1])
        make_network = functools.partial(_given, network)
    return OpenedModel(
        dim=dim,
        frontend=config.frontend,
        make_network=make_network,
        function=function,
        clip_embedding=config.model.clip_embedding,
        **fields,
    )


def _given(network: Network) -> Network:
    return network


def _open_run(path: pathlib.Path, step: int | str | None) -> OpenedModel:
    weights = kept_lib.plain_weights(path, step)
    config = directory.load_config(path)
    kept = kept_lib.kept_path(path, step)

    def read_pairs(model: PairModel) -> BatchStatistics:
        arrays = arrays_lib.read_arrays(kept)
        return kept_lib.read_statistics(kept, arrays, "pairs", model)

    return _opened(
        config,
        weights,
        lambda: _network_of(path, kept_lib.load_model(path, step), read_pairs),
        kind="run",
        path=path,
        key=kept_lib.encoder_key(path, step),
        description=f"run {path.resolve().name}, preset {config.preset}, "
        f"{framework_of(config).describe_pairs(config.train)}, {kept.stem}",
        details=_details(directory.load_run(path), kept_lib.kept_step(kept)),
    )


def _open_pretrained(path: pathlib.Path) -> OpenedModel:
    content = pretrained.read_config(path)
    origin = hugging_face.describe(path)

    def read_pairs(model: PairModel) -> BatchStatistics:
        return pretrained.read_statistics(path, "pairs", model)

    return _opened(
        from_dict(Config, content["config"]),
        pretrained.plain_weights(path),
        lambda: _network_of(path, pretrained.load_model(path), read_pairs),
        kind="pretrained",
        path=path,
        key=content["encoder_key"],
        description=f"pretrained {content['name']}, step {content['step']}"
        + (f", {origin}" if origin else ""),
        details=_details(content, content["step"]),
    )


class _Signature:
    """A SavedModel's signature as a function of one tensor."""

    def __init__(self, loaded: Any, name: str, argument: str, output: str):
        self._loaded = loaded  # holds the variables
        self._function = loaded.signatures[name]
        self._argument, self._output = argument, output
        self.shape = self._function.structured_outputs[output].shape

    def __call__(self, windows: tf.Tensor) -> tf.Tensor:
        windows = tf.convert_to_tensor(windows, tf.float32)
        return self._function(**{self._argument: windows})[self._output]


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError, KeyError or TypeError where metadata.json cannot be meant."""
    check_frontend(metadata["frontend"])
    if not isinstance(metadata["encoder_key"], str):
        raise TypeError("encoder_key is no text")
    dim = metadata["embedding_dim"]
    if type(dim) is not int or not 1 <= dim <= _MAX_DIM:
        raise ValueError(f"embedding_dim is {dim!r:.40}")
    if metadata.get("clip_embedding", "mean") not in ("mean", "moments"):
        raise ValueError(f"clip_embedding is {metadata['clip_embedding']!r:.40}")
    if type(metadata["step"]) is not int:
        raise TypeError("step is no whole number")
    for part in ("config", "data"):
        if not isinstance(metadata[part], dict):
            raise TypeError(f"{part} is no object")
    return metadata


def _open_export(path: pathlib.Path) -> OpenedModel:
    metadata = read_json(
        path / "metadata.json", RunError, "export again", check=_checked_metadata
    )
    frontend = check_frontend(metadata["frontend"])
    key, dim = metadata["encoder_key"], metadata["embedding_dim"]
    encoder: Callable[..., tf.Tensor]
    matcher = None
    file = portable.find_file(path)
    if file is not None:
        encoder = portable.FileEncoder(file, dim)
        encoder.check(file, frontend.window_frames, frontend.num_mels)
    else:
        logging.warning(
            "%s is a SavedModel: its TensorFlow graph can read and write files; open "
            "only those that you trust",
            path,
        )
        # Of a damaged one TensorFlow raises its own, protobuf's or Python's errors.
        try:
            loaded = tf.saved_model.load(str(path))
            signature = _Signature(loaded, "embed_log_mel", "log_mel", "embedding")
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"{path}: damaged SavedModel ({reason}); export again"
            ) from error
        if not signature.shape.is_compatible_with([None, dim]):
            raise RunError(
                f"{path}: gives {signature.shape} for windows, not (None, {dim}); "
                "export again"
            )
        shape = (1, frontend.window_frames, frontend.num_mels, 1)
        portable.check_finite(path, signature(np.zeros(shape, np.float32)).numpy())
        encoder = signature
        matcher = _export_matcher(loaded, frontend.num_mels)
    return OpenedModel(
        kind="export",
        path=path,
        dim=dim,
        frontend=frontend,
        key=key,
        description=f"export {path.resolve().name}, step {metadata['step']}",
        details=_details(metadata, metadata["step"]),
        make_network=functools.partial(_given, Network(encoder, matcher)),
        clip_embedding=metadata.get("clip_embedding", "mean"),
    )


def _export_matcher(loaded: Any, num_mels: int) -> Matcher | None:
    if not {"project", "score"} <= set(loaded.signatures):
        return None
    score = loaded.signatures["score"]
    return Matcher(
        lambda: _Signature(loaded, "project", "log_mel", "projection"),
        lambda mixtures, stems: score(mixtures=mixtures, stems=stems)["scores"],
        num_mels,
    )
