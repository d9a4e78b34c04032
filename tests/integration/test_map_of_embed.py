"""From files to the page: what `embed` wrote, on the map in headless Chromium."""

import json

import numpy as np
import pytest
import soundfile

from tests.cola_msa.collection.map.test_map_page import at, click, free_of, wait_for
from tests.helpers import browser
from tests.helpers.commands import run_module

NUM_SONGS = 9


def write_songs(folder):
    """Three albums of three songs each, with a sound of its own an album."""
    random = np.random.default_rng(0)
    for number in range(NUM_SONGS):
        album = number // 3
        time = np.arange(16000 * 3) / 16000
        tone = np.sin(2 * np.pi * (150 * 2**album + 3 * number) * time)
        sound = 0.2 * tone + 0.02 * (album + 1) * random.standard_normal(len(time))
        path = folder / f"album {album}" / f"song{number}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, 16000)


@pytest.fixture(scope="module")
def place(finished_run, tmp_path_factory):
    """A folder with songs, embedded and mapped by the commands."""
    browser.find_browser()
    folder = tmp_path_factory.mktemp("collection")
    write_songs(folder / "music")
    for module, *arguments in (
        [
            "cola_msa.embed",
            f"--model={finished_run}",
            "--input=music",
            "--output=embeddings.npz",
        ],
        ["cola_msa.map", "--embeddings=embeddings.npz", "--output=map.html"],
        [
            "cola_msa.search",
            "build",
            "--embeddings=embeddings.npz",
            "--output=index.npz",
        ],
    ):
        ran = run_module(module, *arguments, cwd=folder)
        assert ran.returncode == 0, ran.stderr[-2000:]
    return folder


def search(place, path: str) -> list[tuple[str, str]]:
    """Paths and scores of the nearest songs by `search query`."""
    arguments = ["--index=index.npz", f"--file={path}", "--json"]
    ran = run_module("cola_msa.search", "query", *arguments, cwd=place)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (answer,) = json.loads(ran.stdout)
    return [(found["path"], f"{found['score']:.4f}") for found in answer["results"]]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_lists_what_search_finds(place, tmp_path, dark):
    with browser.open_browser(tmp_path / "profile", dark=dark) as driver:
        driver.get((place / "map.html").as_uri())
        assert driver.execute_script("return colaMap.numTracks") == NUM_SONGS
        track = free_of(driver, NUM_SONGS)
        click(driver, *at(driver, track))
        wait_for(driver, f"colaMap.state().selected === {track}")
        shown = [
            (
                button.get_attribute("title"),
                button.find_element("class name", "score").text,
            )
            for button in driver.find_elements("css selector", "#near button")
        ]
        with np.load(place / "embeddings.npz") as arrays:
            path = str(arrays["path"][track])
        assert len(shown) == NUM_SONGS - 1
        assert shown == search(place, path)
        wait_for(driver, "document.getElementById('audio').currentTime > 0")
        driver.save_screenshot(str(tmp_path / "map.png"))
        assert browser.console_errors(driver) == []
