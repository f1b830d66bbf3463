"""Whether reading a file does anything but read: import, compile, run, send, write, remove."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import addaudithook
from typing import Any, Final

DOING: Final = frozenset({
    "import", "exec", "compile", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork",
    "os.posix_spawn", "os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod",
    "socket.connect", "socket.getaddrinfo", "ctypes.dlopen",
})  # fmt: skip

_seen: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        is_nameless = isinstance(path, str) and os.path.isdir(path)  # noqa: PTH112 - a temporary file without a name
        if is_nameless or not (isinstance(flags, int) and flags & os.O_ACCMODE):
            return
    elif event not in DOING:
        return
    _seen.append(event)


addaudithook(_watch)


@contextmanager
def little_memory(most: int = 200_000_000) -> Iterator[None]:
    """See to it that the process never holds so many bytes more than before, where the system tells."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _peak()
    yield
    assert _peak() - before < most


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


@contextmanager
def nothing_done() -> Iterator[list[str]]:
    """What is done inside the `with` block besides reading, as Python's audit events tell."""
    global _seen  # an audit hook cannot be taken away
    found: list[str] = []
    _seen = found
    try:
        yield found
    finally:
        _seen = None
