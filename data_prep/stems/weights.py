"""Open-Unmix's package and its folders of weights.

torch and openunmix are an extra: they are imported inside functions.
"""

import pathlib
import platform
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

from cola_msa.config.schema import SOURCES
from cola_msa.system.errors import UserError
from cola_msa.values.reading import read_json

SETTINGS_NAME = "separator.json"
# torch.hub's names end with the beginning of the file's SHA-256.
_WEIGHTS_NAME = re.compile(r"(.+?)(?:[-_][0-9a-f]{8,64})?\.pth")


class SeparatorError(UserError):
    """A separator that cannot be loaded; the message says what to do."""


def import_openunmix() -> Any:
    """The module openunmix, with its submodules model, transforms and utils.

    Raises:
        SeparatorError: If the extra is missing; the message names the pip command.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise SeparatorError(
            f"a separator needs an extra ({error}): pip install 'cola_msa[separation]'"
        ) from error
    try:
        import openunmix
    except ImportError as error:
        raise SeparatorError(
            f"a separator needs an extra ({error}): pip install 'cola_msa[separation]'"
        ) from error
    except OSError:
        # torchaudio's wheel is linked against CUDA's libtorch and does not load beside
        # torch for the CPU. Open-Unmix needs none of its native code.
        for name in [n for n in sys.modules if n.split(".")[0] in _HALF_IMPORTED]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _torchaudio_extension_stub()
        import openunmix
    import openunmix.model
    import openunmix.transforms

    return openunmix


_HALF_IMPORTED = ("torchaudio", "openunmix")


def _torchaudio_extension_stub() -> types.ModuleType:
    stub: Any = types.ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._IS_ALIGN_AVAILABLE = False
    stub._check_cuda_version = lambda: None
    stub.fail_if_no_align = lambda function: function
    return stub


def start_torch(num_threads: int, device: str = "cpu") -> Any:
    """Sets torch up in this process.

    Args:
        num_threads: torch's threads; parallel work is by processes.
        device: torch's name of the device that will be used.

    Returns:
        The module openunmix.

    Raises:
        SeparatorError: If the extra is missing, or there is no such device.
    """
    openunmix = import_openunmix()
    import torch

    torch.set_num_threads(num_threads)
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        # A wrong name, a missing GPU and a build without CUDA raise different ones.
        reason = next(iter(str(error).splitlines()), "")
        raise SeparatorError(f"--device={device} cannot be used: {reason}") from error
    return openunmix


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself, by torch's word."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name, None) for name in names]
    # Another torch, or another kind of processor, about which it says nothing.
    known = [check for check in checks if check is not None]
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return not known or not is_x86 or any(check() for check in known)


def folder_targets(folder: pathlib.Path) -> list[str]:
    """The targets of a folder, sorted by name, without importing torch.

    Raises:
        SeparatorError: If a file is missing; the message names it.
    """
    targets = _listed_targets(folder)
    for target in targets:
        if not (folder / f"{target}.json").is_file():
            raise SeparatorError(f"{folder / target}.json is missing")
        _weights_path(folder, target)
    return targets


def _listed_targets(folder: pathlib.Path) -> list[str]:
    """The targets that a folder should hold, sorted by name."""
    listed = _read_json(folder / SETTINGS_NAME).get("targets")
    if listed is not None:
        # They name files in the folder.
        if not (
            isinstance(listed, list)
            and listed
            and all(
                isinstance(name, str) and re.fullmatch(r"[\w-]+", name)
                for name in listed
            )
        ):
            raise SeparatorError(f'{folder / SETTINGS_NAME}: "targets" names no target')
        return sorted(set(listed))
    # Only separator.json of train_separator lists them: else whatever there is.
    names = {path.stem for path in folder.glob("*.json") if path.name != SETTINGS_NAME}
    weights = map(_WEIGHTS_NAME.fullmatch, (path.name for path in folder.glob("*.pth")))
    names |= {match[1] for match in weights if match}
    if not names:
        raise SeparatorError(f"{folder} holds no <target>.json and no <target>.pth")
    lacking = [source for source in SOURCES if source not in names]
    if lacking and names < set(SOURCES):
        raise SeparatorError(
            f"{folder / lacking[0]}.json is missing: the folder holds "
            f"{', '.join(sorted(names))} alone; if it should, list them as "
            f'"targets": [...] in its {SETTINGS_NAME}'
        )
    return sorted(names)


def _weights_path(folder: pathlib.Path, target: str) -> pathlib.Path:
    for path in sorted(folder.glob("*.pth")):
        match = _WEIGHTS_NAME.fullmatch(path.name)
        if path.name == f"{target}.pth" or (match and match[1] == target):
            return path
    raise SeparatorError(f"{folder / target}.pth is missing")


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path, SeparatorError, "name another --separator")


def load_folder(folder: pathlib.Path, targets: Sequence[str], niter: int) -> Any:
    """Loads openunmix.model.Separator from its own folder format.

    Open-Unmix's loader neither restricts what a pickle may run nor checks that all
    keys are there.

    Args:
        folder: Holds separator.json and each target's description and weights.
        targets: Targets in order.
        niter: Iterations of the Wiener filter.

    Returns:
        The separator.

    Raises:
        SeparatorError: If a file is missing or damaged; the message names it.
    """
    from openunmix import model

    settings_path = folder / SETTINGS_NAME
    settings = _read_json(settings_path)
    networks = {target: _load_target(folder, target) for target in targets}
    try:
        return model.Separator(
            target_models=networks,
            niter=niter,
            sample_rate=settings["sample_rate"],
            n_fft=settings["nfft"],
            n_hop=settings["nhop"],
            nb_channels=settings["nb_channels"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(settings_path, error) from error


def _load_target(folder: pathlib.Path, target: str) -> Any:
    import torch
    from openunmix import model

    description = folder / f"{target}.json"
    weights = _weights_path(folder, target)
    arguments: Any = _read_json(description).get("args")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        max_bin = state["input_mean"].shape[0]
    except Exception as error:
        # torch.load raises pickle, zip, key and runtime errors alike.
        raise _unreadable(weights, error) from error
    try:
        network = model.OpenUnmix(
            nb_bins=arguments["nfft"] // 2 + 1,
            nb_channels=arguments["nb_channels"],
            hidden_size=arguments["hidden_size"],
            max_bin=max_bin,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(description, error) from error
    try:
        missing = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise _unreadable(weights, error) from error
    if missing:
        raise SeparatorError(f"{weights} lacks {', '.join(missing)}")
    return network


def _unreadable(path: pathlib.Path, error: Exception) -> SeparatorError:
    # The first line alone: torch's errors list every key.
    reason = next(iter(str(error).splitlines()), "")
    return SeparatorError(
        f"{path} is not what Open-Unmix writes: {type(error).__name__}: {reason}"
    )
