"""How many bytes of each checkpoint an action reads, by whatever call."""

from __future__ import annotations

import io
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

CALLS: dict[str, Callable[[tuple[Any, ...], Any], tuple[int, int]]] = {
    "read": lambda arguments, result: (arguments[0], len(result)),
    "pread": lambda arguments, result: (arguments[0], len(result)),
    "preadv": lambda arguments, result: (arguments[0], result),
    "readv": lambda arguments, result: (arguments[0], result),
    "sendfile": lambda arguments, result: (arguments[1], result),
    "copy_file_range": lambda arguments, result: (arguments[0], result),
}
"""Calls of `os` that read: from their arguments and their result, the descriptor and the bytes."""


@contextmanager
def bytes_read() -> Iterator[Counter[str]]:
    """Count the bytes by the names of the files. What is opened as a stream, or mapped, counts as read whole."""
    found: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            result = real(*arguments, **more)
            descriptor, count = CALLS[name](arguments, result)
            found[_name(descriptor)] += count
            return result

        return call

    def opened(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            stream = real(file, mode, *arguments, **more)
            if mode in ("r", "rb") and isinstance(file, str | os.PathLike):
                found[Path(file).name] += os.fstat(stream.fileno()).st_size
            return stream

        return call

    class Mapped(mmap.mmap):
        def __init__(self, descriptor: int, length: int, *arguments: Any, **more: Any) -> None:
            found[_name(descriptor)] += length

    with (
        mock.patch.dict(vars(os), {name: counted(name) for name in CALLS}),
        mock.patch.object(io, "open", opened(io.open)),
        mock.patch("builtins.open", opened(open)),
        mock.patch.object(mmap, "mmap", Mapped),
    ):
        yield found


def passes(action: Callable[[], object], files: Sequence[Path]) -> list[str]:
    """How often an action reads each file: `not`, its `header`, or a number of times, whole."""
    sizes = {file.name: file.stat().st_size for file in files}
    with bytes_read() as found:
        action()
    return [_times(found[name] / size) for name, size in sizes.items()]


def _name(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def _times(share: float) -> str:
    if not share:
        return "not"
    return "header" if share < 0.1 else f"{share:.1f}"
