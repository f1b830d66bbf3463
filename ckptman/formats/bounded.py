"""Small files, and the beginnings of large ones, read within bounds: the headers and JSON files of containers."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from ckptman.formats import archive
from ckptman.formats.refusals import refusal
from ckptman.text import RefusedError

MAX_NESTING: Final = 32
"""Levels of lists and objects in a JSON document."""
_BYTES_A_CONTAINER: Final = 8
"""A document has at most one list or object for this many bytes: an empty one takes 30 times its text."""
_FREE_CONTAINERS: Final = 1000


class Member(NamedTuple):
    """One file of a checkpoint that is a folder."""

    name: str
    """Relative to the folder."""
    size: int


class Bytes(NamedTuple):
    """An open regular file."""

    fd: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            RefusedError: `cut` if the file ends before.
        """
        data = archive._read_at(self.fd, start, size)
        if len(data) < size:
            raise refusal("cut", f"it ends after {self.size:,} bytes, {start + size:,} of which were to be read")
        return data


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[Bytes]:
    """Open a regular file to read parts of it. Refusals inside the `with` block are told of it by name."""
    with refusals_name(path):
        fd = archive._open(path)
        try:
            yield Bytes(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)


@contextmanager
def refusals_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Refusals inside the `with` block are told of this file or folder by name, or of the file in it that they name."""
    try:
        yield
    except RefusedError as error:
        name = archive.show_path(path)
        if error.message.startswith(name):
            raise
        raise RefusedError(f"{name}: {error.message}", code=error.code, fix=error.fix) from None


def map_bytes(fd: int, size: int) -> memoryview:
    """The bytes of an open file, none of which is read before somebody looks at it; writing stays in memory."""
    return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY))


def read_json(path: str | os.PathLike[str], limit: int) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        RefusedError: `bad-header` if it is something else, has a key twice, or more than `limit` bytes.
    """
    with open_bytes(path) as file:
        if file.size > limit:
            raise refusal("bad-header", f"it has {file.size:,} bytes, more than the limit of {limit:,}")
        return parse_json(file.read(0, file.size))


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object, in memory bounded by its text. Numbers that JSON does not have are their names, as in W&B's files.

    Raises:
        RefusedError: `bad-header` if it is something else, or has a key twice.
    """
    if data.count(b"{") + data.count(b"[") > len(data) // _BYTES_A_CONTAINER + _FREE_CONTAINERS:
        raise refusal("bad-header", "the JSON in it has more lists and objects than one for eight bytes")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=str, parse_float=_number)
        if b"\\u" in data:  # half of a character is a text that nothing can write
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise refusal("bad-header", f"the JSON in it cannot be read: {reason}") from None
    if not isinstance(value, dict):
        raise refusal("bad-header", "the JSON in it is not an object")
    _check_depth(value)
    return value


def _number(text: str) -> float | str:
    """A number, or its name where it has none, as `NaN` has in JSON that Python writes."""
    number = float(text)
    return number if math.isfinite(number) else "-Infinity" if number < 0 else "Infinity"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise refusal("bad-header", f"the JSON in it has the key {twice[:80]!r} twice")
    return found


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise refusal("bad-header", f"the JSON in it nests more than {MAX_NESTING} levels deep")
