"""What a map of many tracks costs: building the page, opening it, moving it.

    python benchmarks/bench_map.py [--tracks=20000,100000] [--dim=1280]
        [--screenshots=FOLDER] [--quick]

Tracks are made up: clusters within clusters, a folder an album. The page is opened in
headless Chromium (software drawing); frame times are what `requestAnimationFrame`
counts from one frame to the next while the map is moved, zoomed, and hovered over, for
some seconds each, and the CPU time of the page's thread a frame. `loaded` is from the
page's address to its first whole picture, `kept` the share of a track's ten nearest
that is among the 50 nearest on the map.
"""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import common
import numpy as np
from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import UserError
from cola_msa.values.paths import define_path

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--mute-audio",
    "--hide-scrollbars",
)
_SIZE = (1280, 800)
# Each is called once a frame, with the frame's number.
_MOVES = {
    "pan": "colaMap.moveBy(14 * Math.sin(n / 25), 9 * Math.cos(n / 25))",
    "zoom": """{
        const deltaY = n % 60 < 30 ? -40 : 40;
        marks.dispatchEvent(new WheelEvent('wheel',
          { deltaY, clientX: 600, clientY: 400, cancelable: true }));
      }""",
    "hover": """marks.dispatchEvent(new PointerEvent('pointermove', {
        clientX: 640 + 300 * Math.sin(n / 17), clientY: 420 + 250 * Math.cos(n / 23) }))
      """,
}
_RUN = """
    const [seconds, done] = arguments, times = [];
    const marks = document.getElementById('marks');
    let n = 0, first = 0;
    const step = now => {
      times.push(now);
      first = first || now;
      if (now - first > 1000 * seconds) return done(times);
      %s;
      n += 1;
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
"""


def make_embeddings(path: pathlib.Path, num_tracks: int, dim: int) -> pathlib.Path:
    """Writes embeddings of clusters within clusters, a folder an album of ten."""
    random = np.random.default_rng(0)
    spread = (1.0 + np.arange(dim)) ** -0.4
    styles = 1.5 * random.normal(size=(12, dim))
    artists = styles[np.arange(400) % 12] + 0.8 * random.normal(size=(400, dim))
    artist = np.sort(random.integers(0, len(artists), num_tracks))
    values = np.zeros((num_tracks, dim), np.float32)
    for first in range(0, num_tracks, 10_000):
        part = artist[first : first + 10_000]
        noise = random.normal(size=(len(part), dim))
        values[first : first + 10_000] = (artists[part] + noise) * spread
    names = [
        f"music/style {artist[n] % 12}/artist {artist[n]:03d}/{n:06d} a song.mp3"
        for n in range(num_tracks)
    ]
    np.savez(
        path,
        path=np.array(names),
        sha256=np.array([f"{n:064x}" for n in range(num_tracks)]),
        start=np.zeros(num_tracks),
        seconds=np.full(num_tracks, 30.0),
        embedding=values,
        metadata=np.array("{}"),
    )
    return path


def build_page(embeddings: pathlib.Path, page: pathlib.Path) -> tuple[float, ...]:
    """Runs the command; its CPU seconds, seconds, and most memory in MB."""
    start = time.monotonic()
    command = [sys.executable, "-m", "cola_msa.map", f"--embeddings={embeddings}"]
    process = subprocess.Popen([*command, f"--output={page}"])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"cola_msa.map ended with {process.returncode}")
    wall = time.monotonic() - start
    return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024


def share_kept(page: pathlib.Path, most: int = 50, num_tracks: int = 2000) -> float:
    """Of tracks' nearest in the list, the share among the `most` nearest on the map."""
    from scipy.spatial import KDTree

    text = page.read_text(encoding="utf-8")
    start = text.index(">", text.index('id="data"')) + 1
    data = json.loads(text[start : text.index("</script", start)])

    def unpack(name: str) -> np.ndarray:
        kind = np.dtype("<" + data[name]["type"])
        return np.frombuffer(base64.b64decode(data[name]["base64"]), kind)

    places = np.stack([unpack("x"), unpack("y")], axis=1).astype(np.float64)
    near = unpack("neighbours").reshape(len(places), -1)
    random = np.random.default_rng(0)
    tracks = random.choice(len(places), min(num_tracks, len(places)), replace=False)
    _, found = KDTree(places).query(places[tracks], min(most + 1, len(places)))
    both = [np.isin(near[n], row).mean() for n, row in zip(tracks, found, strict=True)]
    return float(np.mean(both))


@contextlib.contextmanager
def open_browser(profile: pathlib.Path) -> Iterator:
    """A headless Chromium of a fixed size."""
    try:
        from selenium import webdriver
    except ModuleNotFoundError as error:
        raise UserError("no selenium: pip install 'cola_msa[dev]'") from error
    browser, driver_path = map(shutil.which, ("chromium", "chromedriver"))
    if not browser or not driver_path:
        raise UserError(
            "no chromium and chromedriver: apt-get install chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=driver_path)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_script_timeout(120)
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": _SIZE[0],
                "height": _SIZE[1],
                "deviceScaleFactor": 1,
                "mobile": False,
            },
        )
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        yield driver
    finally:
        driver.quit()


def _busy_seconds(driver) -> float:
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def measure_page(driver, page: pathlib.Path, seconds: float) -> dict:
    """Opens a page and moves it.

    Returns:
        `loaded` in seconds; for each of _MOVES, in milliseconds, the median, the 95th
        percentile and the longest from frame to frame, and the CPU time of the page's
        thread a frame.
    """
    driver.get("about:blank")
    start = time.monotonic()
    driver.get(page.as_uri())
    driver.execute_async_script(
        "const done = arguments[0];"
        "const wait = () =>"
        "  colaMap.timings.draws ? done() : requestAnimationFrame(wait);"
        "requestAnimationFrame(() => requestAnimationFrame(wait))"
    )
    found: dict = {"loaded": time.monotonic() - start}
    for name, move in _MOVES.items():
        busy = _busy_seconds(driver)
        times = driver.execute_async_script(_RUN % move, seconds)
        busy = _busy_seconds(driver) - busy
        between = np.diff(times)
        found[name] = (
            float(np.median(between)),
            float(np.percentile(between, 95)),
            float(between.max()),
            1000 * busy / len(between),
        )
        driver.execute_script("document.getElementById('reset').click()")
        time.sleep(1)
    return found


def take_screenshots(driver, folder: pathlib.Path, name: str) -> None:
    """Pictures of the open page, in light and dark, of all and of a part."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        scheme = {"name": "prefers-color-scheme", "value": theme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        time.sleep(1)
        driver.save_screenshot(str(folder / f"{name}-{theme}.png"))


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_list("tracks", "20000,100000", "Numbers of tracks.")
    flags.DEFINE_integer("dim", 1280, "Values of an embedding.", lower_bound=8)
    define_path("screenshots", None, "A folder for pictures of the pages; none.")
    flags.DEFINE_bool("quick", False, "Few tracks, few frames.")


def main(options: flags.FlagValues) -> None:
    """Builds, opens, moves, and prints two tables."""
    counts = [300] if options.quick else [int(count) for count in options.tracks]
    dim = 16 if options.quick else options.dim
    seconds = 0.5 if options.quick else 6.0
    built, moved = [], []
    with tempfile.TemporaryDirectory(prefix="cola_msa-map-", dir=".") as folder:
        root = pathlib.Path(folder).resolve()
        with open_browser(root / "profile") as driver:
            for count in counts:
                embeddings = make_embeddings(root / "e.npz", count, dim)
                page = root / f"map{count}.html"
                cpu, wall, peak = build_page(embeddings, page)
                found = measure_page(driver, page, seconds)
                built.append(
                    (
                        f"{count:,}",
                        f"{cpu:.0f}",
                        f"{wall:.0f}",
                        f"{peak:,.0f}",
                        f"{page.stat().st_size / 1e6:.1f}",
                        f"{found['loaded']:.1f}",
                        f"{100 * share_kept(page):.0f} %",
                    )
                )
                for name in _MOVES:
                    moved.append(
                        (f"{count:,}", name, *(f"{v:.1f}" for v in found[name]))
                    )
                if options.screenshots:
                    take_screenshots(
                        driver, pathlib.Path(options.screenshots), f"{count}"
                    )
                page.unlink()
                embeddings.unlink()
    header = ("tracks", "build CPU-s", "s", "peak MB", "page MB", "loaded s", "kept")
    print(common.table(header, built))
    print()
    header = ("tracks", "while", "ms a frame", "95 %", "longest", "CPU-ms a frame")
    print(common.table(header, moved))
    print(f"\n{common.machine()}; {common.load()}")


if __name__ == "__main__":
    console.start(main, define_flags)
