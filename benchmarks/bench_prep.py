"""CPU seconds of preparation, by stage and worker, for a minute of audio.

    python benchmarks/bench_prep.py [--seconds=30] [--workers=1,2] [--quick]

The clip is synthetic: stereo MP3 at 44.1 kHz. Separation is by an untrained Open-Unmix
of umxhq's size. The baselines run on the same clip, for one worker: whole-file NumPy
code from decoding to log-mel, and Open-Unmix's own separator.
"""

import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import soundfile
import soxr
from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import UsageError
from cola_msa.values.field_flags import whole_numbers
from cola_msa.values.numbers import define_float

_PLAIN = ("decode", "resample", "level and log-mel", "write")
_DEFAULT = "separate, niter 1, float32"


def _write_clip(path: pathlib.Path, seconds: float) -> None:
    random = np.random.default_rng(0)
    time_axis = np.arange(round(seconds * 44100)) / 44100
    tone = np.sin(2 * np.pi * 220 * time_axis)[:, np.newaxis]
    samples = 0.2 * tone + 0.1 * random.standard_normal((len(time_axis), 2))
    soundfile.write(path, samples, 44100, format="MP3")


def _cpu(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median CPU seconds of this process, after one run that does not count."""
    result = function()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        found.append(time.process_time() - start)
    return float(np.median(found)), result


def _once(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _naive(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Whole file, channels resampled before the mean, NumPy frame by frame, float64."""
    samples, rate_hz = soundfile.read(path)
    mono = soxr.resample(samples, rate_hz, 16000).mean(axis=1)
    mono /= np.sqrt(np.mean(mono**2) * 16000 * 30)
    edges = 700 * np.expm1(
        np.linspace(*1127 * np.log1p([60 / 700, 7800 / 700]), 66) / 1127
    )
    bins = np.arange(513) * 16000 / 1024
    matrix = np.stack([np.interp(bins, edges[k : k + 3], [0, 1, 0]) for k in range(64)])
    hann = np.hanning(401)[:400]
    frames = [
        matrix @ np.abs(np.fft.rfft(mono[start : start + 400] * hann, 1024))
        for start in range(0, len(mono) - 399, 160)
    ]
    np.save(folder / "naive.npy", np.log(np.clip(frames, 1e-5, 1e8)))


def _measure(
    seconds: float, repeats: int, has_baselines: bool, barrier: Any, results: Any
) -> None:
    """One worker: every stage's CPU seconds."""
    from cola_msa.system.processes import limit_threads
    from data_prep.stems import weights

    limit_threads()
    openunmix = weights.start_torch(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "clip.mp3"
        _write_clip(path, seconds)
        barrier.wait()
        start = time.monotonic()
        samples = _measure_plain(path, repeats, found)
        _measure_separation(openunmix, samples, found)
        wall = time.monotonic() - start
        if has_baselines:
            folder = path.parent
            key = "baseline: whole-file NumPy"
            found[key], _ = _cpu(lambda: _naive(path, folder), min(repeats, 3))
            _measure_openunmix(openunmix, samples, found)
    results.put((found, wall))


def _measure_plain(
    path: pathlib.Path, repeats: int, found: dict[str, float]
) -> np.ndarray:
    """All but separation; gives the clip, float32 [1, channels, n]."""
    from cola_msa.audio import decode as decode_lib
    from cola_msa.audio import resample
    from cola_msa.config.schema import config_hash
    from cola_msa.records import index
    from data_prep.datasets.base import Clip
    from data_prep.pipeline import plan, segments
    from data_prep.stems import clip as clip_lib

    config = plan.PrepConfig()
    clip = Clip("clip", path.name, "train", "clip")

    def decode() -> list[np.ndarray]:
        with decode_lib.AudioReader(path) as reader:
            return list(reader.blocks())

    found["decode"], blocks = _cpu(decode, repeats)
    rate_hz = config.frontend.sample_rate_hz
    found["resample"], _ = _cpu(
        lambda: list(resample.mono_blocks(blocks, 44100, rate_hz)), repeats
    )
    mixture, _ = clip_lib.load_clip(clip, (), config.frontend, path.parent)
    found["level and log-mel"], records = _cpu(
        lambda: list(segments.clip_segments(clip, mixture, {}, config)), repeats
    )
    shard = path.with_name("train-00000-of-00001.tfrecord")
    frontend_hash = config_hash(config.frontend)
    found["write"], _ = _cpu(
        lambda: index.write_shard(shard, records, (), frontend_hash), repeats
    )
    return np.concatenate(blocks, axis=1)[np.newaxis]


def _umxhq(openunmix: Any, niter: int) -> Any:
    import torch

    torch.manual_seed(0)
    sources = ["vocals", "drums", "bass", "other"]
    model = openunmix.umxhq(targets=sources, niter=niter, pretrained=False)
    model.freeze()
    return model


def _measure_separation(
    openunmix: Any, samples: np.ndarray, found: dict[str, float]
) -> None:
    from data_prep.stems import filter as filter_lib

    for niter in (0, 1):
        for dtype in ("float32", "bfloat16"):
            model = _umxhq(openunmix, niter)
            separate = filter_lib.MonoSeparator(model, dtype)
            separate(samples[:, :, :44100])
            key = f"separate, niter {niter}, {dtype}"
            found[key] = _once(lambda separate=separate: separate(samples))


def _measure_openunmix(
    openunmix: Any, samples: np.ndarray, found: dict[str, float]
) -> None:
    import torch

    for niter in (0, 1):
        model = _umxhq(openunmix, niter)
        with torch.inference_mode():
            model(torch.from_numpy(samples[:, :, :44100]))
            found[f"baseline: Open-Unmix, niter {niter}"] = _once(
                lambda model=model: model(torch.from_numpy(samples))
            )


def _run(num_workers: int, options: flags.FlagValues) -> dict[str, float]:
    """Prints one table; gives the stages' mean CPU seconds, and `wall`."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_workers), context.Queue()
    seconds = 2.0 if options.quick else options.seconds
    repeats = 1 if options.quick else options.repeats
    arguments = (seconds, repeats, num_workers == 1, barrier, results)
    processes = [
        context.Process(target=_measure, args=arguments) for _ in range(num_workers)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    wall = max(wall for _, wall in found)
    means = {
        stage: float(np.mean([stages[stage] for stages, _ in found]))
        for stage in found[0][0]
    }
    plain = sum(means[stage] for stage in _PLAIN)
    whole = plain + means[_DEFAULT]
    rows = [
        [
            stage,
            cpu * 60 / seconds,
            seconds / cpu,
            f"{cpu / whole:.1%}" if stage in (*_PLAIN, _DEFAULT) else "",
        ]
        for stage, cpu in means.items()
    ]
    header = ("stage", "CPU-s a minute of audio", "times real time", "share")
    print(f"\n{num_workers} worker(s), {wall:.1f} s. Load: {common.load()}.\n")
    print(common.table(header, rows))
    print(f"\nAll but separation: {plain:.4f} CPU-s for {seconds:g} s.", flush=True)
    return {"wall": wall, "cpu": sum(v for k, v in means.items() if "base" not in k)}


def define_flags() -> None:
    """Defines the benchmark's flags."""
    define_float("seconds", 30.0, "Length of the clip.", lower_bound=0.1)
    flags.DEFINE_list("workers", ["1", "2"], "Numbers of processes at a time.")
    text = "The median of so many runs counts."
    flags.DEFINE_integer("repeats", 9, text, lower_bound=1)
    flags.DEFINE_bool("quick", False, "Two seconds, one run: whether the script works.")


def main(options: flags.FlagValues) -> None:
    """Prints a table for each number of workers."""
    workers = whole_numbers("workers", options.workers)
    if not all(workers):
        raise UsageError("--workers must be 1 or more each")
    print("## Preparation, by stage")
    found = {number: _run(number, options) for number in workers}
    for number, totals in found.items():
        if number > 1 and 1 in found:
            cpu, wall = (number * found[1][k] / totals[k] for k in ("cpu", "wall"))
            print(
                f"\n{number} workers against one: {wall:.2f} times the audio in a "
                f"second; {cpu:.2f} times if each had a core to itself."
            )


if __name__ == "__main__":
    console.start(main, define_flags)
