"""Debian's Chromium, driven by Playwright; the tests are skipped where one of them is missing.

Every page is loaded from a file with the network switched off, and any attempt to reach it fails the test.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders_browser import WIDE, Open, Shown

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser with a fresh profile."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Open]:
    """Return what opens a page in a window of a size; any trouble with it fails the test at its end."""
    contexts, pages = [], []

    def show(path: Path, size: tuple[int, int] = WIDE, scheme: str = "light") -> Shown:
        viewport = {"width": size[0], "height": size[1]}
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, offline=True, reduced_motion="reduce")
        contexts.append(context)
        shown = Shown(context.new_page())
        pages.append(shown)
        shown.page.on("console", lambda message: shown.trouble.append(f"console: {message.text}"))
        shown.page.on("pageerror", lambda error: shown.trouble.append(f"error: {error}"))
        shown.page.on("dialog", lambda dialog: shown.trouble.append(f"dialog: {dialog.message}"))
        context.on("request", lambda request: _file_only(request.url, path, shown))
        shown.page.goto(path.as_uri())
        shown.page.wait_for_selector("body[data-drawn]", timeout=60_000)
        return shown

    yield show
    trouble = [each for shown in pages for each in shown.trouble]
    for context in contexts:
        context.close()
    assert trouble == []


def _file_only(url: str, path: Path, shown: Shown) -> None:
    if url != path.as_uri() and not url.startswith(("data:", "blob:")):
        shown.trouble.append(f"request: {url}")
