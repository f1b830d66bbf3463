"""Answers to questions that were asked before about a tree in which nothing has changed since: printed again.

What a command that only reads a tree answers hangs on its arguments, its rules, its terminal and the tree. Where all of
them are the same, the tree by the state of every file (`fs.cache.folder_state`), so is the answer. No file of the tree
is opened then.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import msgspec
import typer

import ckptman
from ckptman.cli.options import given_facets
from ckptman.fs import cache, files
from ckptman.rules import Convention, placement

_ENVIRONMENT = ("CKPTMAN_", "LC_", "LANG", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHON")
"""Beginnings of the variables that an answer may hang on."""
_ELSEWHERE = frozenset({placement.REFUSED_FILE})
"""What in a tree tells of files outside of it."""


class _Answer(msgspec.Struct):
    parts: list[tuple[bool, str]]
    """Texts in their order: whether it went to stderr, and what."""
    status: int


class _Recorder:
    """A stream that also takes note of what is written to it."""

    def __init__(self, stream: TextIO, parts: list[tuple[bool, str]], *, stderr: bool) -> None:
        self.stream, self._parts, self._stderr = stream, parts, stderr

    def write(self, text: str) -> int:
        """Write, and take note."""
        self._parts.append((self._stderr, text))
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Remembered:
    """Prints the answer to the question of a command again, and ends the command; or takes note of the new answer.

    An answer is kept if the command ends by `typer.Exit`, and `may_be_kept` is still set.
    """

    def __init__(
        self, context: typer.Context, root: Path, convention: Convention, *more: object, source: Path | None = None
    ) -> None:
        """`source`: another folder that the answer hangs on; `more`: whatever else."""
        self.may_be_kept = True
        self._root = root
        self._source = source
        self._parts: list[tuple[bool, str]] = []
        self._key = ""
        self._state: cache.FolderState | None = None
        if cache.folder() is not None:
            self._key = _key(context, root, convention, more)
            self._state = self._look()

    def _look(self) -> cache.FolderState | None:
        tree = cache.folder_state(self._root, without=_ELSEWHERE)
        if tree is None or self._source is None:
            return tree
        source = cache.folder_state(self._source)
        return source and cache.FolderState(f"{tree.digest} {source.digest}", max(tree.newest_ns, source.newest_ns))

    def __enter__(self) -> Remembered:
        if self._state is None:
            return self
        if (value := cache.recall(self._key, self._state)) is not None:
            _repeat(value)
        self._began = time.time_ns()
        self._streams = sys.stdout, sys.stderr
        sys.stdout = _Recorder(sys.stdout, self._parts, stderr=False)
        sys.stderr = _Recorder(sys.stderr, self._parts, stderr=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if self._state is not None:
            sys.stdout, sys.stderr = self._streams
            if isinstance(error, typer.Exit) and self.may_be_kept and self._look() == self._state:
                with suppress(UnicodeEncodeError):  # a name that is no text
                    value = msgspec.json.encode(_Answer(self._parts, error.exit_code))
                    cache.keep(self._key, self._state, value, since_ns=self._began)
        return False


def _repeat(value: bytes) -> None:
    try:
        answer = msgspec.json.decode(value, type=_Answer)
    except ValueError:  # somebody else's
        return
    for stderr, text in answer.parts:
        (sys.stderr if stderr else sys.stdout).write(text)
    raise typer.Exit(answer.status)


def _key(context: typer.Context, root: Path, convention: Convention, more: tuple[object, ...]) -> str:
    above = context.parent.params if context.parent is not None else {}
    streams = [(stream.isatty(), stream.encoding) for stream in (sys.stdout, sys.stderr)]
    environment = sorted((name, value) for name, value in os.environ.items() if name.startswith(_ENVIRONMENT))
    rules = files.read_bytes(convention.source) if convention.source is not None else b""
    where = str(Path.cwd()), os.path.realpath(root)
    question = (
        context.command_path, context.params, given_facets(context), above, where, rules, convention.numbering, streams,
        shutil.get_terminal_size(), environment, _program(), *more,
    )  # fmt: skip
    return hashlib.sha256(repr(question).encode("utf-8", "backslashreplace")).hexdigest()


def _program() -> str:
    """What tells this program from any other version of it, one in which somebody is changing something too."""
    state = cache.folder_state(Path(ckptman.__file__).parent, leave_out=("__pycache__",))
    return f"{ckptman.__version__} {sys.version} {state.digest if state is not None else time.time_ns()}"
