"""Tables as columns, each in the smallest form of JSON, as many of them as a page has room for."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PLACES = 5
"""Digits of a measured value that are kept."""

EXACT = 9
"""Digits that are kept of what is averaged and shown beside the same from elsewhere: the last one shown agrees."""


def compact(document: Any) -> str:
    """A document as ASCII JSON without a space; whatever a name holds, bytes that are no text too."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def column(values: Sequence[Any]) -> dict[str, Any]:
    """The values of a column: `all` where they are one, `pool` and `at` where they repeat, else `each`."""
    pool: dict[Any, int] = {}
    for value in values:
        pool.setdefault((type(value), value), len(pool))
        if len(pool) > 1 + len(values) // 3:
            return {"each": list(values)}
    if len(pool) == 1:
        return {"all": values[0]}
    if len(pool) > 256 and all(kind in (int, float, type(None)) for kind, _ in pool):
        return {"each": list(values)}
    return {"pool": [value for _, value in pool], "at": [pool[type(value), value] for value in values]}


def table(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A table by its columns."""
    return {name: column(values) for name, values in columns.items()}


def brief(value: object, places: int = _PLACES) -> float | int | str | None:
    """A measured value as it is shown; None for what is no number."""
    if type(value) is not float:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value if is_number or value in ("NaN", "Infinity", "-Infinity") else None  # type: ignore[return-value]
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    short = round(value, places) if abs(value) >= 0.01 else float(f"{value:.{places - 1}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


class Room:
    """How much a page may still take: parts are put in by weight, the first that do not fit are left out."""

    def __init__(self, size: int) -> None:
        self.left = size

    def takes(self, part: Any) -> bool:
        """Whether a part fits; if so, its room is taken."""
        size = len(zlib.compress(compact(part).encode(), 1))
        if size > self.left:
            return False
        self.left -= size
        return True


def fitting(columns: Iterable[tuple[str, dict[str, Any]]], room: Room) -> tuple[dict[str, Any], list[str]]:
    """The columns that fit, and the names of those that do not."""
    kept: dict[str, Any] = {}
    left_out = []
    for name, content in columns:
        if room.takes(content):
            kept[name] = content
        else:
            left_out.append(name)
    return kept, left_out
