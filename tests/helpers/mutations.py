"""Pickles and JSON documents that are almost what they were."""

from __future__ import annotations

import pickletools
import random
from collections.abc import Sequence
from typing import Any, Final

OPCODES = bytes({ord(info.code) for info in pickletools.opcodes}) + bytes([0, 1, 2, 127, 128, 255])


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to four byte flips, replacements, insertions, deletions, moves or cuts."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at, length = draw.randrange(len(out) or 1), draw.choice((1, 1, 2, 4, 20))
        kind = draw.randrange(7)
        if kind == 0 and out:
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and out:
            out[at] = draw.choice(OPCODES)
        elif kind == 2:
            out[at:at] = bytes(draw.choice(OPCODES) for _ in range(length))
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            start = draw.randrange(len(data))
            out[at : at + length] = data[start : start + draw.choice((1, 5, 30, 300))]
        elif kind == 5:
            start = draw.randrange(len(data))
            out[at:at] = data[start : start + draw.choice((1, 5, 30, 300))]
        elif draw.random() < 0.1:
            del out[at:]
    return bytes(out)


NUMBERS: Final = (-1, 0, 1, 7, 2**31, 2**63, 2**64, 1e300)
ODD: Final[list[Any]] = [*NUMBERS, None, True, "", "F32", "U8", [], [0], [-1], [2**62, 4], {}, {"a": 1}]


def changed(value: Any, draw: random.Random, odd: Sequence[Any] = ODD) -> Any:
    """A JSON document with one of its values replaced, lost, doubled, or put elsewhere."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        kind = draw.randrange(6)
        if kind == 0:
            return {name: item for name, item in value.items() if name != key}
        if kind == 1:
            return {**value, draw.choice(("__metadata__", "x", f"{key}x")): value[key]}
        if kind == 2:
            return {**value, key: value[draw.choice(list(value))]}
        return {**value, key: changed(value[key], draw, odd)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], changed(value[at], draw, odd), *value[at + draw.choice((0, 1, 1, 1)) :]]
    if type(value) is int and draw.random() < 0.6:
        return value + draw.choice((-8, -4, -1, 1, 4, 8))
    return draw.choice(odd)
