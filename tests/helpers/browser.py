"""A real Chromium without a screen, and what a page in it said and asked for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str:
    """Why no browser can be started here; empty where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the Python package playwright is not installed"
    return "" if _program() else f"none of {', '.join(PROGRAMS)} is installed"


def _program() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser, for as long as the block lasts; the tests are skipped where there is none."""
    if reason := missing():
        pytest.skip(f"the explorer is not tested in a browser: {reason}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_program(), args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Heard:
    """What a page did besides showing itself."""

    errors: list[str] = field(default_factory=list)
    """Errors and warnings of its console, uncaught exceptions, and dialogues that it opened."""
    requests: list[str] = field(default_factory=list)
    """What it asked for, itself apart."""


def opened(browser: Any, file: Path, heard: Heard, *, width: int = 1400, dark: bool = False) -> Any:
    """A page with a file opened from the disk, once it has drawn itself. Close its context when done."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.set_default_timeout(10_000)

    def on_dialog(dialog: Any) -> None:
        heard.errors.append(f"dialogue: {dialog.message}")
        dialog.dismiss()

    def on_console(said: Any) -> None:
        if said.type in ("error", "warning"):
            heard.errors.append(said.text)

    def on_request(asked: Any) -> None:
        if asked.url != file.as_uri():
            heard.requests.append(asked.url)

    page.on("dialog", on_dialog)
    page.on("console", on_console)
    page.on("request", on_request)
    page.on("pageerror", lambda error: heard.errors.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page
