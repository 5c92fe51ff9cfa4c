"""A browser of this machine, driven by Playwright; tests that need one are skipped without it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium here (apt install chromium)"
)


@contextmanager
def opened(address: str) -> Iterator:
    """Open an address in a headless browser; what it asks of elsewhere, and its errors, fail."""
    from playwright.sync_api import sync_playwright

    asked, errors = [], []
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as in containers.
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(120_000)
        page.on("request", lambda one: asked.append(one.url))
        page.on("pageerror", lambda one: errors.append(str(one)))
        page.goto(address)
        yield page
        browser.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere, elsewhere
    assert not errors, errors
