"""The 30 instructions that torch writes for a tensor, recognized at once: most of a checkpoint's pickle is these.

    GET _rebuild_tensor_v2, MARK, MARK, GET "storage", GET type, key, PUT, GET device, elements, TUPLE, PUT, BINPERSID,
    offset, shape, PUT, strides, PUT, requires_grad, GET OrderedDict, (), REDUCE, PUT, TUPLE, PUT, REDUCE, PUT

Whatever is written in another way is left to the instructions one by one, and so is what is wrong. This is about time
alone: with it or without it the same is read, and the same refused for the same reason.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final, NamedTuple

_NUMBER: Final = rb"(?:K.|M..|J....)"
_GET: Final = rb"(?:h.|j....)"
_SIZES: Final = rb"(?:(NUMBER\x85|NUMBER{2}\x86|NUMBER{3}\x87|\(NUMBER{4,8}t)PUT|\))"
_TENSOR: Final = (
    rb"\((GETGET)X([\x01-\x09])\0\0\0([0-9]{1,9})PUT(GET)(NUMBER)tPUTQ(NUMBER)"
    + 2 * _SIZES
    + rb"([\x88\x89])(GET)\)RPUTtPUTRPUT"
)


def _pattern(put: bytes) -> re.Pattern[bytes]:
    whole = _TENSOR.replace(b"PUT", put).replace(b"GET", _GET).replace(b"NUMBER", _NUMBER)
    return re.compile(whole, re.DOTALL)


SHORT: Final = _pattern(rb"q(.)")
"""A tensor from its second MARK on, which puts things into places of the memo with numbers of one byte."""
LONG: Final = _pattern(rb"r(....)")
"""The same with places of four bytes. Both have the groups: GETs of "storage" and its type, length of the key, key,
place, GET of the device, elements, place, offset, shape, place, strides, place, requires_grad, GET of OrderedDict,
place, place, place."""
LAST_SHORT: Final = 249
"""So many places, and 7 more, have numbers of one byte."""

_NUMBERS: Final = re.compile(rb"K(.)|M(..)|J(....)", re.DOTALL)


class Geometry(NamedTuple):
    """Which elements of a storage a tensor has."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    elements: int
    """Of the storage."""
    work: int
    """Bytes of memory that all of the instructions count for."""


def are_next(puts: bytes, known: int) -> bool:
    """Whether these numbers are those of the next places in a memo that has so many."""
    if known < LAST_SHORT:
        return _BYTES.startswith(puts, known)
    return _block(known // _BLOCK).startswith(puts, (known % _BLOCK) * 4)


@lru_cache(maxsize=64)
def _block(index: int) -> bytes:
    return struct.pack(f"<{_BLOCK + 7}I", *range(index * _BLOCK, index * _BLOCK + _BLOCK + 7))


_BLOCK: Final = 1024
_BYTES: Final = bytes(range(256))


@lru_cache(maxsize=1024)
def geometry(offset: bytes, shape: bytes, stride: bytes, numel: bytes) -> Geometry | None:
    """What the instructions say that push an offset, sizes, strides, and the number of elements of the storage.

    None for a tensor that reaches outside it, or that cannot be.
    """
    (first,), sizes, steps, (elements,) = _numbers(offset), _numbers(shape), _numbers(stride), _numbers(numel)
    if len(sizes) != len(steps) or min((first, elements, *sizes, *steps)) < 0:
        return None
    if (
        0 not in sizes
        and first + 1 + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) > elements
    ):
        return None
    # Four marks and tuples, two calls, and the tuples of sizes and strides.
    work = 2 * (32 + 48) + 200 + 296 + 2 * (0, 64, 72, 80)[min(len(sizes), 3)]
    return Geometry(first, sizes, steps, elements, work)


def _numbers(instructions: bytes) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(word or half or byte, "little", signed=bool(word))
        for byte, half, word in _NUMBERS.findall(instructions)
    )


def places(instructions: bytes) -> list[int]:
    """The places of the memo that GET instructions name, one after the other."""
    return [int.from_bytes(short or long, "little") for short, long in _GETS.findall(instructions)]


_GETS: Final = re.compile(rb"h(.)|j(....)", re.DOTALL)
