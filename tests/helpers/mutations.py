"""Pickles that are almost what they were."""

from __future__ import annotations

import pickletools
import random

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
