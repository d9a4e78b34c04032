"""Pictures of prepared data: one clip's log-mels or waveform; active shares."""

import dataclasses
import difflib
import errno
import os
import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cola_msa.config.schema import FrontendConfig, from_dict
from cola_msa.records.prepared import PreparedData
from cola_msa.system.errors import FileError, UserError
from cola_msa.system.files import write_file
from cola_msa.system.folders import check_file
from cola_msa.values.chart_text import plain, wrapped

_DOTS_PER_INCH = 120
_MAX_INCHES = 100.0
_MARK = "cola_msa data_prep.inspect"  # in every picture's header
_HEAD_BYTES = 1024
_COLOURS = {
    "vocals": "#8172b3",
    "drums": "#c44e52",
    "bass": "#4878a8",
    "other": "#55a868",
}
_OTHER_COLOUR, _SILENT = "#777777", "#e4e4e4"
_HATCHES = ("", "//", "..", "xx", "\\\\", "++")
_HZ_TICKS = (100, 300, 1000, 3000, 7000)
_NUM_SUGGESTIONS = 5


class PictureError(UserError):
    """Nothing to draw; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class ClipMels:
    """What the records hold of one clip.

    Attributes:
        clip_id: The clip.
        group: Its song, artist or folder.
        split: Its split.
        labels: Names of its classes.
        starts: int [S], first frame of each segment.
        num_frames: int [S], frames of each segment.
        mixture: float32 [frames, num_mels]; of a waveform its samples.
        stems: The same of every source that has a stem; NaN where it is silent.
        is_active: bool [S] by source, likewise.
    """

    clip_id: str
    group: str
    split: str
    labels: tuple[str, ...]
    starts: np.ndarray
    num_frames: np.ndarray
    mixture: np.ndarray
    stems: dict[str, np.ndarray]
    is_active: dict[str, np.ndarray]


def read_clip(data: PreparedData, clip_id: str) -> ClipMels:
    """Reads one clip's log-mels through the index.

    Args:
        data: The prepared folder.
        clip_id: The clip.

    Returns:
        ClipMels.

    Raises:
        PictureError: If there is no such clip.
        DataError: If the data is not what was made.
    """
    all_ids: list[str] = []
    for split in data.splits:
        index = data.index(split)
        found = np.flatnonzero(index.clip_ids == clip_id)
        if len(found):
            return _read_rows(data, split, int(found[0]))
        all_ids += index.clip_ids.tolist()
    for failure in data.manifest.get("failures", ()):
        if failure.get("clip_id") == clip_id:
            raise PictureError(
                f"clip {clip_id} could not be prepared: {failure.get('reason')}"
            )
    raise PictureError(
        f"--clip={clip_id}: no such clip in {data.data_dir}; "
        f"close to it: {', '.join(_closest(clip_id, all_ids))}"
    )


def _closest(clip_id: str, all_ids: list[str]) -> list[str]:
    """Ids that contain it, then ids that look like it; any, where there are none."""
    inside = [other for other in all_ids if clip_id.lower() in other.lower()]
    similar = difflib.get_close_matches(clip_id, all_ids, _NUM_SUGGESTIONS, 0.3)
    return (list(dict.fromkeys([*inside, *similar])) or all_ids)[:_NUM_SUGGESTIONS]


def _read_rows(data: PreparedData, split: str, clip: int) -> ClipMels:
    index, num_mels = data.index(split), data.frontend.num_mels
    rows = [int(row) for row in np.flatnonzero(index.clip == clip)]

    def read(row: int, offset: int) -> np.ndarray:
        shard, count = int(index.shard[row]), int(index.num_frames[row])
        return data.read(split, shard, offset, count).astype(np.float32)

    stems, is_active = {}, {}
    for k, source in enumerate(data.sources):
        if index.has_stem[rows, k].any():
            stems[source] = np.concatenate(
                [
                    read(row, int(index.stem_offset[row, k]))
                    if index.is_active[row, k]
                    else np.full((index.num_frames[row], num_mels), np.nan, np.float32)
                    for row in rows
                ]
            )
            is_active[source] = index.is_active[rows, k]
    num_frames = index.num_frames[rows]
    return ClipMels(
        clip_id=str(index.clip_ids[clip]),
        group=str(index.groups[clip]),
        split=split,
        labels=tuple(data.class_names[label] for label in index.labels(clip)),
        starts=np.cumsum(num_frames) - num_frames,
        num_frames=num_frames,
        mixture=np.concatenate(
            [read(row, int(index.mixture_offset[row])) for row in rows]
        ),
        stems=stems,
        is_active=is_active,
    )


def draw_clip(
    path: str | os.PathLike,
    clip: ClipMels,
    manifest: dict[str, Any],
    waveform: tuple[ClipMels, FrontendConfig] | None = None,
) -> None:
    """Draws mixture and stems above one another, with active segments marked.

    Args:
        path: The PNG file.
        clip: What `read_clip` gave.
        manifest: The manifest of its folder.
        waveform: The same clip of records of waveforms, drawn above its log-mels,
            and their front end; None where there are none.
    """
    frontend = from_dict(FrontendConfig, manifest["frontend"])
    hop_seconds = frontend.seconds(1)
    if frontend.is_waveform:
        _draw_waveform(path, clip, manifest, hop_seconds)
        return
    names = ["mixture", *clip.stems]
    count = len(names) + (waveform is not None)
    figure = Figure(
        figsize=(11, min(1.7 + 1.55 * count, _MAX_INCHES)), layout="constrained"
    )
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    if waveform is not None:
        sound, its_frontend = waveform
        _fill_waveform(panels[0], sound, its_frontend.seconds(1))
        panels = panels[1:]
    low = float(np.percentile(clip.mixture, 2))
    high = max(low + 1, float(clip.mixture.max()))
    end = len(clip.mixture) * hop_seconds
    image = None
    for panel, name in zip(panels, names, strict=True):
        mel = clip.mixture if name == "mixture" else clip.stems[name]
        panel.set_facecolor(_SILENT)
        image = panel.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            extent=(0, end, -0.5, frontend.num_mels - 0.5),
            vmin=low,
            vmax=high,
            cmap="magma",
            interpolation="nearest",
        )
        _label_hz(panel, frontend)
        panel.set_ylabel(plain(name, 24), fontsize=10)
        for start in clip.starts[1:]:
            panel.axvline(start * hop_seconds, color="white", linewidth=0.8, alpha=0.8)
        if name != "mixture":
            _mark_active(panel, clip, name, hop_seconds, frontend.num_mels)
    panels[-1].set_xlabel("time, seconds (vertical lines: segments)")
    panels[-1].set_xlim(0, end)
    figure.colorbar(image, ax=list(panels), label="natural-log mel magnitude", pad=0.01)
    if clip.stems:
        handles = [
            Patch(facecolor=_colour(source), label=f"{plain(source, 24)} is active")
            for source in clip.stems
        ]
        handles.append(Patch(facecolor=_SILENT, label="silent: nothing is stored"))
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            fontsize=8,
            frameon=False,
        )
    figure.suptitle(_clip_title(clip, manifest), fontsize=11)
    _save(figure, path)


def _draw_waveform(
    path: str | os.PathLike,
    clip: ClipMels,
    manifest: dict[str, Any],
    hop_seconds: float,
) -> None:
    """Draws a clip of a folder of waveforms."""
    figure = Figure(figsize=(11, 3.25), layout="constrained")
    panel: Axes = figure.add_subplot()
    _fill_waveform(panel, clip, hop_seconds)
    panel.set_xlim(0, len(clip.mixture) * hop_seconds)
    panel.set_xlabel("time, seconds (vertical lines: segments)")
    figure.suptitle(_clip_title(clip, manifest), fontsize=11)
    _save(figure, path)


def _fill_waveform(panel: Axes, clip: ClipMels, hop_seconds: float) -> None:
    """The least and the largest sample of every frame."""
    seconds = (np.arange(len(clip.mixture)) + 0.5) * hop_seconds
    panel.fill_between(
        seconds,
        clip.mixture.min(axis=1),
        clip.mixture.max(axis=1),
        step="mid",
        color=_OTHER_COLOUR,
        linewidth=0.5,
    )
    for start in clip.starts[1:]:
        panel.axvline(start * hop_seconds, color="black", linewidth=0.8, alpha=0.8)
    panel.set_ylim(-1, 1)
    panel.set_ylabel("sample, of full scale")


def _clip_title(clip: ClipMels, manifest: dict[str, Any]) -> str:
    lines = [
        f"{manifest.get('dataset')}, clip {clip.clip_id} ({clip.split}), {clip.group}"
    ]
    if clip.labels:
        lines.append(f"labels: {', '.join(clip.labels)}")
    if manifest.get("separator"):
        lines.append(f"stems: {_stems_title(manifest)}")
    return "\n".join(wrapped(line, 120, 4) for line in lines)


def _label_hz(panel: Axes, frontend: FrontendConfig) -> None:
    """Puts frequencies at the bands whose centre they are nearest to."""

    def to_mel(hz: float) -> float:
        return float(1127 * np.log1p(hz / 700))

    low, high = to_mel(frontend.low_hz), to_mel(frontend.high_hz)
    places = [
        (to_mel(hz) - low) / (high - low) * (frontend.num_mels + 1) - 1
        for hz in _HZ_TICKS
    ]
    panel.set_yticks(places, [f"{hz} Hz" for hz in _HZ_TICKS], fontsize=7)


def _mark_active(
    panel: Axes, clip: ClipMels, source: str, hop_seconds: float, num_mels: int
) -> None:
    """A bar above the log-mel, over every active segment."""
    spans = [
        (start * hop_seconds, count * hop_seconds)
        for start, count, active in zip(
            clip.starts, clip.num_frames, clip.is_active[source], strict=True
        )
        if active
    ]
    height = num_mels / 12
    panel.broken_barh(
        spans, (num_mels - 0.5, height), facecolors=_colour(source), edgecolor="white"
    )
    panel.set_ylim(-0.5, num_mels - 0.5 + height)
    if not spans:
        panel.text(
            0.5, 0.5, "silent throughout", ha="center", transform=panel.transAxes
        )


def draw_shares(path: str | os.PathLike, manifest: dict[str, Any]) -> None:
    """Draws the share of segments in which each source is active, by split.

    Args:
        path: The PNG file.
        manifest: The manifest.

    Raises:
        PictureError: If the data has no stems.

    Source: the paper's figure 2, which shows the training split alone.
    """
    splits = {
        split: stated
        for split, stated in manifest["splits"].items()
        if any(share is not None for share in stated.get("active_share", {}).values())
    }
    if not splits and from_dict(FrontendConfig, manifest["frontend"]).is_waveform:
        raise PictureError(
            "records of waveforms hold mixtures alone, and so no shares of active "
            "sources; name a clip with --clip=ID, or prepare log-mels with stems"
        )
    if not splits:
        raise PictureError(
            "this data has no stems, so that no source is active in it; name a clip "
            "with --clip=ID, or prepare with --separator or --stems_dir"
        )
    sources = manifest["sources"]
    inches = min(max(6.5, 1.6 * len(sources)), _MAX_INCHES)
    figure = Figure(figsize=(inches, 4.2), layout="constrained")
    axes: Axes = figure.add_subplot()
    width = 0.8 / len(splits)
    for number, (split, stated) in enumerate(splits.items()):
        shares = [stated["active_share"][source] for source in sources]
        values = np.array([np.nan if s is None else 100 * s for s in shares])
        bars = axes.bar(
            np.arange(len(sources)) + (number - (len(splits) - 1) / 2) * width,
            values,
            0.92 * width,
            color=[_colour(source) for source in sources],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
            label=f"{plain(split)}, {stated.get('num_segments', 0):,} segments",
        )
        labels = ["no stem" if np.isnan(v) else f"{v:.0f}" for v in values]
        axes.bar_label(bars, labels, padding=2, fontsize=9)
    axes.set_xticks(range(len(sources)), [plain(name, 24) for name in sources])
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("segments with the source active, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="outside lower center", ncols=len(splits), fontsize=9, frameon=False
    )
    threshold = manifest.get("silence_threshold") or 0.0
    title = (
        f"{manifest.get('dataset')}: share of active segments a source\n"
        f"stems: {_stems_title(manifest)}; silent below a mean absolute value "
        f"of {threshold:g}"
    )
    figure.suptitle(wrapped(title, 12 * int(inches)), fontsize=11)
    _save(figure, path)


def _stems_title(manifest: dict[str, Any]) -> str:
    separator = manifest.get("separator")
    name = separator.get("name") if isinstance(separator, dict) else separator
    return "from disk" if name in ("stems_dir", None) else str(name)


def _colour(source: str) -> str:
    return _COLOURS.get(source, _OTHER_COLOUR)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    FigureCanvasAgg(figure)
    mark = {"Software": _MARK}
    write_file(
        path,
        lambda file: figure.savefig(
            file, format="png", dpi=_DOTS_PER_INCH, metadata=mark
        ),
    )


def check_output(path: str | os.PathLike) -> None:
    """Refuses to write over anything but an earlier picture.

    Raises:
        FileError: If something else is there, or its folder is not.
    """
    if not pathlib.Path(path).parent.is_dir():
        raise FileError(f"{path}: {os.strerror(errno.ENOENT)}")

    def is_picture(file: pathlib.Path) -> bool:
        with open(file, "rb") as opened:
            return _MARK.encode() in opened.read(_HEAD_BYTES)

    check_file(path, is_picture, "a picture of data_prep.inspect")
