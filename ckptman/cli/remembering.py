"""Answers to questions that were asked before about a tree in which nothing has changed since: printed again.

What a command that only reads a tree answers hangs on its arguments, its rules, its terminal and the tree. Where all of
them are the same, the tree by the state of every file (`fs.cache.folder_state`), so is the answer. No file of the tree
is opened then.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, TextIO

import typer

from ckptman.cli import repeating
from ckptman.cli.app import ASKED, Asked
from ckptman.cli.options import given_facets
from ckptman.fs import cache, files
from ckptman.rules import Convention, convention_file, placement

_ELSEWHERE = (placement.REFUSED_FILE,)
"""What in a tree tells of files outside of it."""


class _Answer:
    """What a command writes, compressed as it comes, so that little is held of an answer that is too long to keep."""

    def __init__(self) -> None:
        self._squeeze = zlib.compressobj(1)
        self._bytes = bytearray()
        self._kind, self._texts, self._size = repeating.OUT, [""], 0
        self._is_whole = True

    def add(self, text: str, kind: int) -> None:
        """Take note of some text."""
        if kind != self._kind or self._size > repeating.AT_ONCE:
            self._end_part()
        self._kind = kind
        if self._is_whole:
            self._texts.append(text)
            self._size += len(text)

    def _end_part(self) -> None:
        try:
            text = "".join(self._texts).encode()
        except UnicodeEncodeError:  # a name that is no text
            self.give_up()
        self._texts, self._size = [], 0
        if self._is_whole:
            self._bytes += self._squeeze.compress(repeating.PART.pack(self._kind, len(text)) + text)
        if len(self._bytes) > cache.LARGEST:
            self.give_up()

    def give_up(self) -> None:
        """Keep nothing: something is written that is no text, or it is too much."""
        self._is_whole = False
        self._bytes.clear()

    def value(self, status: int) -> bytes | None:
        """All of it, and the exit status, to be kept; None where not all of it is here."""
        self._end_part()
        if not self._is_whole:
            return None
        last = self._squeeze.compress(repeating.PART.pack(repeating.STATUS, status)) + self._squeeze.flush()
        return bytes(self._bytes + last)


class _Before(NamedTuple):
    """What a command found that changes the tree."""

    files: Mapping[str, str]
    """Of the tree: path → state."""
    source: cache.FolderState
    """Without what links change."""
    newest_ns: int


class _Recorder:
    """A stream that also takes note of what is written to it."""

    def __init__(self, stream: TextIO, answer: _Answer, kind: int, *, is_silent: bool = False) -> None:
        self.stream, self._answer, self._kind, self._is_silent = stream, answer, kind, is_silent

    def write(self, text: str) -> int:
        """Write, and take note."""
        self._answer.add(text, self._kind)
        return len(text) if self._is_silent else self.stream.write(text)

    @property
    def buffer(self) -> BinaryIO:
        """The stream of bytes below; what is written to it is not taken note of, so that nothing is kept."""
        self._answer.give_up()
        return self.stream.buffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Remembered:
    """Prints the answer to the question of a command again, and ends the command; or takes note of the new answer.

    An answer is kept if the command ends by `typer.Exit`, and `may_be_kept` is still set.
    """

    def __init__(
        self,
        context: typer.Context,
        root: Path,
        convention: Convention,
        *,
        source: Path | None = None,
        absent: Sequence[str] = (),
    ) -> None:
        """What the command has done before hangs on its words, on rules, and on these alone.

        Args:
            context: Of the command.
            root: The tree.
            convention: The rules for it.
            source: Another folder that the answer hangs on.
            absent: What is not in the current folder, or the command would have been about it.
        """
        self.may_be_kept = True
        self._root = root
        self._source = source
        self._linked = convention.checkpoint.suffix
        self._answer = _Answer()
        self._key = ""
        self._state: cache.FolderState | None = None
        self._before: _Before | None = None
        self._began = 0
        if cache.folder() is None:
            return
        with suppress(OSError):  # rules that are gone by now, say: nothing is remembered
            self._asked: Asked = context.meta[ASKED]
            self._says_all = _says_all(context)
            self._circumstances = repeating.circumstances()
            self._rules_changed = 0 if convention.source is None else repeating.changed(convention.source)
            self._key = _key(context, root, convention, self._circumstances)
            self._meaning = repeating.Meaning(
                question=self._key,
                root=str(root),
                source=None if source is None else str(source),
                without=_ELSEWHERE,
                name=convention_file.FILE_NAME,
                rules=[str(file or "") for file in (self._asked.rules, convention.source)],
                absent=absent,
            )
            self._state = self._meaning.look()

    def _look_before(self) -> _Before | None:
        if self._source is None or not self._key:
            return None
        files: dict[str, str] = {}
        tree = cache.folder_state(
            self._root, without=_ELSEWHERE, on_file=lambda path, told, _: files.update({path: told})
        )
        source = cache.folder_state(self._source, linked=self._linked)
        if source is None or (tree is None and os.path.lexists(self._root)):
            return None
        newest = max(source.newest_ns, 0 if tree is None else tree.newest_ns)
        return _Before(files, source, newest)

    def expect(self, show: Callable[[], None], placed: Mapping[str, int], written: Mapping[str, str]) -> None:
        """Keep what the same question is answered next, after the command has changed the tree; `show` prints that.

        Nothing is kept if anything else has changed since the command began, or may change without its times telling.

        Args:
            show: Prints the answer.
            placed: What was put into the tree and tells by its size alone: path → bytes.
            written: What else was: path → SHA-256.
        """
        if self._before is None or self._before.newest_ns > self._began - cache.SETTLED_NS:
            return
        with suppress(OSError):
            now = cache.moment(self._root)  # before the last look: what changes after it has another time
            state = self._as_left(self._before, now, placed, written)
            if state is None:
                return
            answer = _Answer()
            out = _Recorder(sys.stdout, answer, repeating.OUT, is_silent=True)
            err = _Recorder(sys.stderr, answer, repeating.ERR, is_silent=True)
            with redirect_stdout(out), redirect_stderr(err):
                show()
            self._keep(answer.value(0), state, since_ns=now + cache.SETTLED_NS)

    def _as_left(
        self, before: _Before, now: int, placed: Mapping[str, int], written: Mapping[str, str]
    ) -> cache.FolderState | None:
        """The state of the tree and the source, if nothing but what the command did differs from what was before."""
        assert self._source is not None
        same, ours, others = True, 0, 0

        def look(path: str, told: str, size: int) -> None:
            nonlocal same, ours, others
            if path in placed:
                ours += 1
                same = same and placed[path] == size
            elif path not in written:
                others += 1
                same = same and before.files.get(path) == told

        tree = cache.folder_state(self._root, without=_ELSEWHERE, on_file=look)
        source = cache.folder_state(self._source)
        lasting = cache.folder_state(self._source, linked=self._linked)
        if tree is None or source is None or lasting is None or lasting.digest != before.source.digest:
            return None
        is_one_clock = self._root.stat().st_dev == self._source.stat().st_dev
        is_past = tree.newest_ns < now and source.newest_ns < (now if is_one_clock else before.newest_ns + 1)
        were = sum(1 for path in before.files if path not in placed and path not in written)
        is_ours = (
            same
            and (ours, others) == (len(placed), were)
            and all(
                hashlib.sha256(files.read_bytes(self._root / path)).hexdigest() == sha256
                for path, sha256 in written.items()
            )
        )
        return repeating.both(tree, source) if is_past and is_ours else None

    def _keep(self, value: bytes | None, state: cache.FolderState, *, since_ns: int) -> None:
        """Keep an answer, unless rules, terminal or program may have become others since the beginning."""
        are_same = (
            self._rules_changed <= self._asked.began_ns - cache.SETTLED_NS
            and repeating.circumstances() == self._circumstances
        )
        if value is not None and are_same:
            cache.keep(self._key, state, value, since_ns=since_ns)
            self._keep_meaning()

    def _keep_meaning(self) -> None:
        if self._says_all:
            asked = self._asked
            repeating.keep_meaning(asked.words, self._circumstances, asked.began_ns, self._meaning)

    def __enter__(self) -> Remembered:
        if self._state is not None and (value := cache.recall(self._key, self._state)) is not None:
            self._keep_meaning()
            raise typer.Exit(repeating.repeat(value))
        self._before = self._look_before()
        self._began = time.time_ns()
        if self._state is None:
            return self
        self._streams = sys.stdout, sys.stderr
        sys.stdout = _Recorder(sys.stdout, self._answer, repeating.OUT)
        sys.stderr = _Recorder(sys.stderr, self._answer, repeating.ERR)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if self._state is not None:
            sys.stdout, sys.stderr = self._streams
            if isinstance(error, typer.Exit) and self.may_be_kept:
                value = self._answer.value(error.exit_code)
                state = self._meaning.look(of_folders=True)
                if state is not None and state.digest == self._state.digest:
                    self._keep(value, state, since_ns=self._began)
        return False


def _says_all(context: typer.Context) -> bool:
    """Whether the words say what `repeating` looks at: a tree that is named, and no other rules than the nearest."""
    return context.obj is None and any(context.params.get(name) is not None for name in ("root", "directory"))


def _key(context: typer.Context, root: Path, convention: Convention, circumstances: object) -> str:
    above = context.parent.params if context.parent is not None else {}
    rules = files.read_bytes(convention.source) if convention.source is not None else b""
    return repeating.key_of(
        context.command_path, context.params, given_facets(context), above, os.path.realpath(root), rules,
        convention.numbering, circumstances,
    )  # fmt: skip
