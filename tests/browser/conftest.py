"""A real headless browser for tests with the marker `browser`; `make test-browser` installs it."""

import os
import shutil
from collections.abc import Iterator

import pytest
from viewing import Viewer

FLAGS = (
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str:
    """The browser's program: that of CHROMIUM, or the first of the usual names."""
    candidates = (os.environ.get("CHROMIUM", ""), *NAMES)
    found = [path for path in map(shutil.which, candidates) if path]
    if not found:
        pytest.fail(
            "no browser was found; install Chromium, as `make test-browser` does on Debian, or set "
            "CHROMIUM to its program"
        )
    return found[0]


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium without a window, with a fresh profile."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail("playwright is not installed; `make test-browser` installs it")
    with sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=find_browser(), headless=True, args=list(FLAGS)
        )
        yield running
        running.close()


@pytest.fixture
def viewer(browser) -> Iterator[Viewer]:
    """Opens pages in that browser, and closes them after the test."""
    opened = Viewer(browser)
    yield opened
    opened.close()
