"""JSON and YAML files beside checkpoints, read as plain data within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptman.raw.wandb_log import load_json, open_regular
from ckptman.rules import terms
from ckptman.text import RefusedError, strict_yaml

MAX_BYTES = 16_000_000
"""Largest JSON document that is read; the state of a long training, with all that it logged, has some hundred KB."""


def read(path: Path, form: terms.Form) -> Any:
    """What a JSON or a YAML file holds.

    Raises:
        RefusedError: `unreadable`, `not-a-file`, or `damaged`, telling what is wrong with it.
    """
    limit = strict_yaml.MAX_BYTES if form is terms.Form.YAML else MAX_BYTES
    try:
        with open_regular(path) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"it has more than {limit:,} bytes")
        if form is terms.Form.YAML:
            return strict_yaml.load_yaml(data, path.name, error=RefusedError, dumped=True)
        if data.count(b"{") + data.count(b"[") > len(data) // 8 + 1000:  # an empty list takes 30 times its text
            raise ValueError("it has more lists and objects than one for eight bytes")
        return load_json(data.removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]
        raise RefusedError(
            f"{path} cannot be used: {reason}", code="damaged", fix="Correct it, or move it away."
        ) from None


def first_line(path: Path) -> str:
    """The first line of a table.

    Raises:
        RefusedError: as `read`.
    """
    with open_regular(path) as stream:
        return stream.readline(1_000_000).decode("utf-8-sig", "replace").rstrip("\r\n")


def at(value: Any, path: str) -> Any:
    """What stands at a path; None where nothing does. A key may have dots in it itself."""
    if path == ".":
        return value
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    head, _, rest = path.partition(".")
    return at(value.get(head), rest) if rest else None
