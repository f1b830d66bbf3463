"""Paths as a call is given them."""

from __future__ import annotations

import os
from pathlib import Path

from ckptman.text.errors import UsageError


def given_path(
    path: str | os.PathLike[str], what: str = "the path", fix: str = "Name a file or a folder; the current folder is: ."
) -> Path:
    """A path that a call is about.

    Args:
        path: As it was given.
        what: What to call it in errors.
        fix: What to do instead.

    Raises:
        UsageError: (`empty-path`) for an empty one, as of a variable that is not set, which pathlib takes for the
            current folder; (`bad-path`) for one with a zero byte, which no system call takes.
    """
    text = os.fspath(path)
    if text == "":
        raise UsageError(f"{what} is empty", code="empty-path", fix=fix)
    if isinstance(text, str) and "\0" in text:
        raise UsageError(f"{what} holds a zero byte: {text!r}", code="bad-path", fix=fix)
    return Path(path)
