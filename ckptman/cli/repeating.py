"""The same words as before, about a tree in which nothing has changed: the answer is found and printed without Typer.

`remembering` keeps an answer under its question, which it knows once the words are understood and the rules are read.
Here is what tells that they would be understood in the same way, so that neither is done, and nothing imported for it.
Where anything is in doubt, there is no answer here, and the command is called as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import ckptman
from ckptman.fs import cache, files

_ENVIRONMENT = (
    "CKPTMAN_", "LC_", "LANG", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_", "PYTHON",
)  # fmt: skip
"""Beginnings of the variables that an answer may hang on."""
_COMPLETION = "_CKPTMAN_COMPLETE"
"""Variable by which a shell asks what may stand next."""

PART = struct.Struct("<BI")
"""Before each part of an answer: what it is, and how many bytes it has."""
OUT, ERR, STATUS = range(3)
AT_ONCE = 1 << 16
"""Characters of a part, and compressed bytes that are read at once."""

_ALWAYS = cache.FolderState("", 0)
_BEGAN_NS = time.time_ns()
"""When the first modules of this program had been read."""


class Meaning(NamedTuple):
    """What words mean, which are a question about a tree."""

    question: str
    """The key of the answer."""
    root: str
    source: str | None
    without: Sequence[str]
    """Names in the root by which its state is unknown."""
    name: str
    """Of files with rules."""
    rules: Sequence[str]
    """The nearest to the current folder, and to the root; empty where there is none."""
    absent: Sequence[str]
    """What may not be there, or the words mean something else."""

    def look(self, *, of_folders: bool = False) -> cache.FolderState | None:
        """The state of the tree, and of the source; None where it cannot be known. `of_folders`: as `folder_state`."""
        tree = cache.folder_state(Path(self.root), without=self.without, of_folders=of_folders)
        if tree is None or self.source is None:
            return tree
        source = cache.folder_state(Path(self.source), of_folders=of_folders)
        return source and both(tree, source)

    def ground(self) -> cache.FolderState | None:
        """What the words have this meaning by: rules, and where links lead to; None where they have another.

        Raises:
            OSError: it cannot be looked at.
        """
        found = [_nearest(Path(start), self.name) for start in ("", self.root)]
        if [path for path, *_ in found] != list(self.rules) or any(map(os.path.lexists, self.absent)):
            return None
        places = [os.path.realpath(place) for place in (self.root, self.source) if place is not None]
        return cache.FolderState(key_of(found, places), max(changed for *_, changed in found))


def _nearest(start: Path, name: str) -> tuple[str, bytes, int]:
    """The nearest file of a name in a folder or above it, its bytes, and when it changed."""
    start = start.absolute()
    for folder in (start, *start.parents):
        if os.path.lexists(file := folder / name):
            data = files.read_bytes(file)
            return str(file), data, changed(file)
    return "", b"", 0


def changed(file: Path) -> int:
    """When a file changed last, or the link to it."""
    return max(file.stat().st_ctime_ns, file.lstat().st_ctime_ns)


def both(tree: cache.FolderState, source: cache.FolderState) -> cache.FolderState:
    """The state of both."""
    return cache.FolderState(f"{tree.digest} {source.digest}", max(tree.newest_ns, source.newest_ns))


def circumstances() -> tuple[object, ...]:
    """What an answer may hang on beside words, rules and the tree: program, user, folder, and where it is written."""
    streams = [(stream.isatty(), stream.encoding) for stream in (sys.stdout, sys.stderr)]
    environment = sorted((name, value) for name, value in os.environ.items() if name.startswith(_ENVIRONMENT))
    can_draw = find_spec("matplotlib") is not None
    sizes = [_size(stream) for stream in range(3)]  # rich folds stderr by the terminal of stdin too
    reader = os.geteuid(), os.getegid(), sorted(os.getgroups())  # not everybody may read the same files
    return str(Path.cwd()), streams, sizes, environment, can_draw, reader, _program()


def _size(stream: int) -> tuple[int, int] | None:
    with suppress(OSError):
        return os.get_terminal_size(stream)
    return None


def _program() -> str:
    """What tells this program from any other version of it, one in which somebody is changing something too."""
    state = cache.folder_state(Path(ckptman.__file__).parent, leave_out=("__pycache__",))
    is_what_runs = state is not None and state.newest_ns <= _BEGAN_NS - cache.SETTLED_NS
    return f"{ckptman.__version__} {sys.version} {state.digest if state and is_what_runs else time.time_ns()}"


def key_of(*question: object) -> str:
    """A key for a question."""
    return hashlib.sha256(repr(question).encode("utf-8", "backslashreplace")).hexdigest()


def keep_meaning(words: Sequence[str], circumstances: object, began_ns: int, meaning: Meaning) -> None:
    """Keep what words mean in these circumstances, which were understood from `began_ns` on."""
    with suppress(OSError):
        if (ground := meaning.ground()) is not None:
            key, state = _key_of_words(words, circumstances), cache.FolderState("", ground.newest_ns)
            cache.keep(key, state, json.dumps([meaning, ground.digest]).encode(), since_ns=began_ns)


def known_answer(words: Sequence[str]) -> bytes | None:
    """The answer to words that were asked before, where nothing that it hangs on has changed; else None."""
    if cache.folder() is None or _COMPLETION in os.environ:
        return None
    with suppress(OSError, TypeError, ValueError):
        value = cache.recall(_key_of_words(words, circumstances()), _ALWAYS)
        if value is not None:
            known, digest = json.loads(value)
            meaning = Meaning(*known)
            ground = meaning.ground()
            if ground is not None and ground.digest == digest and (state := meaning.look()) is not None:
                return cache.recall(meaning.question, state)
    return None


def _key_of_words(words: Sequence[str], circumstances: object) -> str:
    return key_of("words", list(words), circumstances)


def repeat(answer: bytes) -> int:
    """Print an answer, of which little is held at once; its exit status."""
    for kind, size, text in _parts(answer):
        if kind == STATUS:
            return size
        if kind == ERR:
            sys.stdout.flush()  # both may be one file
        (sys.stderr if kind == ERR else sys.stdout).write(text)
    raise ValueError("an answer without an end")


def _parts(answer: bytes) -> Iterator[tuple[int, int, str]]:
    unpacked, left = zlib.decompressobj(), b""
    for at in range(0, len(answer), AT_ONCE):
        left += unpacked.decompress(answer[at : at + AT_ONCE])
        start = 0
        while len(left) >= start + PART.size:
            kind, size = PART.unpack_from(left, start)
            length = 0 if kind == STATUS else size
            if len(left) < start + PART.size + length:
                break
            start += PART.size
            yield kind, size, left[start : start + length].decode()
            start += length
        left = left[start:]
