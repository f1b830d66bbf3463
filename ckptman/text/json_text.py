"""JSON as ckptman writes it, for people and programs alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dump_json(document: Any) -> bytes:
    """A JSON document as ckptman writes it: readable, ASCII (whatever a file name holds), ending in a newline."""
    return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def jsonable(value: Any) -> Any:
    """`value` with numbers that JSON lacks as text: "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value
