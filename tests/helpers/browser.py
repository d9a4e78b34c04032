"""A headless Chromium for tests of pages, opened from the disk."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import NoReturn

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--hide-scrollbars",
)


def _unavailable(reason: str) -> NoReturn:
    """Skips the test, or fails it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find_browser() -> tuple[str, str]:
    """Paths of Chromium and its driver; the test is skipped, or fails in CI."""
    pairs = (("chromium", "chromedriver"), ("google-chrome", "chromedriver"))
    for browser, driver in pairs:
        if (found := shutil.which(browser)) and (drives := shutil.which(driver)):
            return found, drives
    _unavailable(
        "no chromium and chromedriver: apt-get install chromium chromium-driver"
    )


@contextlib.contextmanager
def open_browser(
    profile: pathlib.Path,
    size: tuple[int, int] = (1280, 800),
    dark: bool = False,
    phone: bool = False,
) -> Iterator:
    """A driver with a fresh profile that logs its console and every request."""
    browser, driver = find_browser()
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        _unavailable("no selenium: pip install 'cola_msa[dev]'")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},900"):
        options.add_argument(flag)
    if dark:
        options.add_argument("--force-dark-mode")
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = webdriver.ChromeService(executable_path=driver)
    found = webdriver.Chrome(options=options, service=service)
    try:
        found.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": size[0],
                "height": size[1],
                "deviceScaleFactor": 2 if phone else 1,
                "mobile": phone,
            },
        )
        if phone:
            found.execute_cdp_cmd(
                "Emulation.setTouchEmulationEnabled", {"enabled": True}
            )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        found.get("about:blank")
        for name in ("browser", "performance"):
            found.get_log(name)  # what the browser's own start page did
        yield found
    finally:
        found.quit()


def console_errors(driver) -> list[str]:
    """What the console said since the last call, warnings and errors."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]


def requested_urls(driver) -> list[str]:
    """Addresses that pages asked for since the last call, but for data in the page."""
    messages = (
        json.loads(e["message"])["message"] for e in driver.get_log("performance")
    )
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and not message["params"]["request"]["url"].startswith("data:")
    ]
