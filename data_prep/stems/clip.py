"""A clip's mixture and stems as waveforms."""

import os
import pathlib
from collections.abc import Sequence

from cola_msa.audio import errors, files
from cola_msa.config.schema import FrontendConfig
from data_prep.datasets.base import Clip
from data_prep.stems import waveforms
from data_prep.stems.separator import Separator
from data_prep.stems.waveforms import Waveform, _read_mono

_MAX_LENGTH_DIFFERENCE_SECONDS = 0.1


def load_clip(
    clip: Clip,
    sources: Sequence[str],
    frontend: FrontendConfig,
    dataset_dir: pathlib.Path,
    stems_dir: str | None = None,
    separator: "Separator | None" = None,
) -> tuple[Waveform, dict[str, Waveform]]:
    """Reads a clip's mixture and its stems.

    Args:
        clip: The clip.
        sources: Sources in order; () for the mixture alone.
        frontend: Its rate is used.
        dataset_dir: The dataset's root.
        stems_dir: Folder of stems relative to it: stems lie in
            `<stems_dir>/<clip's path without suffix>/<source>.<any audio suffix>`.
        separator: Makes the stems, where they do not lie on disk.

    Returns:
        The mixture, mono at the front end's rate, and the same of each source that
        there is, as long as the mixture.

    Raises:
        AudioError: For the mixture, or for a stem (its message names the stem).
    """
    rate_hz = frontend.sample_rate_hz
    if clip.is_sum:
        stems = _read_stems(clip.stem_paths, None, rate_hz, dataset_dir)
        mixture = waveforms.total(stems)
        if sources:
            return mixture, stems
        for stem in stems.values():
            stem.close()
        return mixture, {}
    path = dataset_dir / clip.path
    is_wanting = bool(clip.wants_stems and sources)
    if is_wanting and separator is not None:
        return separator.separate_file(path, clip.expected_seconds, frontend)
    mixture = _read_mono(path, rate_hz, clip.expected_seconds)
    if not is_wanting:
        return mixture, {}
    paths = clip.stem_paths
    if stems_dir is not None:
        folder = pathlib.Path(stems_dir) / os.path.splitext(clip.path)[0]
        try:
            paths = tuple(
                (source, found.relative_to(dataset_dir).as_posix())
                for source in sources
                if (found := files.find_audio(dataset_dir / folder, source))
            )
        except PermissionError as error:
            raise errors.StemError(
                f"its folder of stems cannot be read: {error.strerror}"
            ) from error
        if not paths:
            raise errors.StemError(
                f"no stem {', '.join(sources)} in <stems_dir>/"
                f"{os.path.splitext(clip.path)[0]}"
            )
    return mixture, _read_stems(paths, mixture.num_samples, rate_hz, dataset_dir)


def _read_stems(
    paths: Sequence[tuple[str, str]],
    num_samples: int | None,
    rate_hz: int,
    dataset_dir: pathlib.Path,
) -> dict[str, Waveform]:
    stems = {}
    for source, path in paths:
        try:
            stems[source] = _read_mono(dataset_dir / path, rate_hz)
        except errors.AudioError as error:
            raise type(error)(f"stem {source}: {error}") from error
    if num_samples is None:
        num_samples = max(stem.num_samples for stem in stems.values())
    for source, stem in stems.items():
        difference = (stem.num_samples - num_samples) / rate_hz
        if abs(difference) > _MAX_LENGTH_DIFFERENCE_SECONDS:
            raise errors.StemError(
                f"stem {source} is {abs(difference):.2f} s "
                f"{'longer' if difference > 0 else 'shorter'} than the mixture"
            )
        stem.fit(num_samples)
    return stems
