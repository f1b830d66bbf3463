"""The `.wandb` transaction log of a W&B run, read in process, whole or cut short.

A log is a 7-byte header and then blocks of 32,768 bytes (the header is part of the first) with chunks in them: CRC-32,
length and kind in 7 bytes, then the payload. A record is one chunk, or a first, some middle and a last one, and is a
protobuf message `Record` of W&B's `wandb_internal.proto`.

The few fields needed are decoded here, by their numbers in that file, and not with wandb's own classes: importing wandb
takes 0.4 s and more, makes folders in the temporary directory and brings in 700 modules, while its decoder saves no
time (the 27,000 values of a log of 2.4 MB take 40 ms either way).

Nothing in a log is trusted: sizes are capped, what is damaged is skipped and counted, and memory stays bounded however
long the log is.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ckptman.fs import files
from ckptman.raw import protobuf
from ckptman.text import RefusedError
from ckptman.tree import history

MAX_RECORD_BYTES = 16_000_000
"""Largest record that is put together from its chunks; a history record has about 15,000 bytes."""
MAX_VALUES_BYTES = 8_000_000
"""Most bytes kept for the config, and for the summary; beyond it, values are left out and counted."""
MAX_DEPTH = 50
"""Deepest accepted nesting of a value or of a key."""

_LOG_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK_BYTES = 32_768
_CHUNK_HEADER = struct.Struct("<IHB")
_DAMAGED, _FULL, _FIRST, _MIDDLE, _LAST, _CUT = range(6)

# Field numbers of wandb_internal.proto. The messages for config, summary and history items share theirs.
_RECORD_HISTORY, _RECORD_SUMMARY, _RECORD_CONFIG, _RECORD_RUN, _RECORD_EXIT = 2, 3, 5, 17, 18
_RUN_ID, _RUN_PROJECT, _RUN_CONFIG, _RUN_SUMMARY, _RUN_GROUP, _RUN_START = 1, 3, 4, 5, 6, 17
_UPDATE, _REMOVE = 1, 2
_ITEM_KEY, _ITEM_NESTED_KEY, _ITEM_VALUE_JSON = 1, 2, 16
_HISTORY_STEP = 2
_EXIT_CODE = 1
_TIME_SECONDS, _TIME_NANOS = 1, 2

_YEAR_10000 = 253_402_300_800.0


@dataclass(frozen=True)
class WandbLog:
    """What one `.wandb` file says about its run."""

    path: Path
    run_id: str | None
    group: str | None
    project: str | None
    config: dict[str, Any]
    """The run's config; W&B's own key `_wandb` is left out."""
    summary: dict[str, Any]
    """The summary, nested where it was logged nested; without summary records, the last value of each metric."""
    started: float | None
    """Start of the run, in seconds since 1970 (UTC)."""
    ended: float | None
    """Time of the last metrics that can be read, in seconds since 1970 (UTC); a killed run went on for longer."""
    exited: bool
    """Whether the run reported its end; False for one that was killed, or that goes on."""
    exit_code: int | None
    """0 for a run that ended well; None where `exited` is False."""
    problems: tuple[str, ...]
    """What could not be read, in sentences; empty for a whole log."""
    has_history: bool = False
    """Whether anything was logged; `read_history` gives it."""
    last: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What was logged last, nested where it was logged nested."""


def read_log(path: Path, *, metrics: bool = True, follow_symlinks: bool = False) -> WandbLog:
    """Read a `.wandb` file.

    Args:
        path: The file. It may be empty, cut anywhere or damaged: what can be read is, and `problems` says what cannot.
        metrics: Also read the summary, which is most of the work; without, `summary` is empty.
        follow_symlinks: Whether `path` may be a symbolic link.

    Raises:
        RefusedError: `unreadable` or `not-a-file`, when there is no file to read.
    """
    with open_regular(path, follow_symlinks=follow_symlinks) as stream:
        frames, content = _Frames(stream), _Content(metrics=metrics)
        try:
            for record in frames:
                content.add(record)
        except OSError as failure:
            raise _unreadable(path, failure) from failure
    return content.result(path, frames)


def read_history(path: Path, *, follow_symlinks: bool = False) -> history.History:
    """The learning curve in a `.wandb` file: every number that was logged; what is damaged is skipped.

    Raises:
        RefusedError: `unreadable` or `not-a-file`; `too-long`, for more than `history.MOST_VALUES` numbers.
    """
    rows: dict[int, dict[str, history.Number]] = {}
    count = 0
    with open_regular(path, follow_symlinks=follow_symlinks) as stream:
        try:
            for record in _Frames(stream):
                for step, row in _logged(record):
                    rows.setdefault(step, {}).update(row)
                    if (count := count + len(row)) > history.MOST_VALUES:
                        raise too_long(path)
        except OSError as failure:
            raise _unreadable(path, failure) from failure
    return history.of_rows(rows)


def too_long(path: Path) -> RefusedError:
    """The refusal of a learning curve that would take too much room."""
    return RefusedError(
        f"{path} has more than {history.MOST_VALUES:,} logged numbers: its learning curve is not kept",
        code="too-long",
        fix="Keep the W&B folder: ckptman ingest --with-wandb",
    )


def number_of(text: bytes) -> history.Number | None:
    """A JSON text as a number; None for one that is something else."""
    try:
        return int(text) if text.lstrip(b"-").isdigit() and len(text) < 19 else float(text)
    except ValueError:
        return None


def _logged(record: bytes) -> Iterator[tuple[int, dict[str, history.Number]]]:
    """Step and numbers of a history record; nothing for any other."""
    try:
        for message in (value for number, value in protobuf.fields(record) if number == _RECORD_HISTORY):
            if not isinstance(message, bytes):
                continue
            step: history.Number | None = None
            row = {}
            for number, content in protobuf.fields(message):
                if number == _UPDATE and isinstance(content, bytes):
                    path, text = _item(content)
                    if (value := number_of(text)) is not None:
                        row[".".join(key.decode(errors="replace") for key in path)] = value
                elif number == _HISTORY_STEP and isinstance(content, bytes):
                    numbers = ((field, n) for field, n in protobuf.fields(content) if isinstance(n, int))
                    step = next((protobuf.signed(n) for field, n in numbers if field == 1), 0)
            step = row.pop(history.STEP, step)
            if isinstance(step, int):
                yield step, row
    except protobuf.BadMessageError:
        return


def open_regular(path: Path, *, follow_symlinks: bool = False) -> BinaryIO:
    """Open a regular file for reading; never waits for a FIFO, never opens a device.

    Raises:
        RefusedError: `unreadable` when it cannot be opened, `not-a-file` for anything but a regular file.
    """
    try:
        descriptor = files.open_foreign(path, follow_symlinks=follow_symlinks)
    except OSError as failure:
        if failure.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link; a socket
            raise _not_a_file(path) from None
        raise _unreadable(path, failure) from failure
    except ValueError as failure:  # a NUL in the path
        raise RefusedError(f"{path!r}: {failure}", code="unreadable", fix="Check the path.") from None
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError as failure:
        files.close(descriptor)
        raise _unreadable(path, failure) from failure
    if not is_file:
        files.close(descriptor)
        raise _not_a_file(path)
    return os.fdopen(descriptor, "rb")


def load_json(data: bytes) -> Any:
    """Parse JSON from a foreign file; NaN and Infinity are accepted, as W&B writes them.

    Raises:
        ValueError: for what is not JSON, is nested deeper than `MAX_DEPTH`, or has text that is not Unicode.
    """
    try:
        value = json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
    _check_plain(value, MAX_DEPTH)
    return value


def plausible_time(value: object) -> float | None:
    """`value` as seconds since 1970, or None when it is not a time between 1970 and the year 9999."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _YEAR_10000:
        return None
    return float(value)


def _check_plain(value: object, depth: int) -> None:
    if depth < 0:
        raise ValueError("nested too deep")
    if isinstance(value, str):
        value.encode()  # a lone surrogate, from an escape, is a UnicodeEncodeError: it could never be written again
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check_plain(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth - 1)


class _Frames:
    """The records of a log, with a count of the bytes that belong to none."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._size = 0
        self.empty = False
        self.bad_header = False
        self.skipped = 0
        self.oversized = 0
        self.cut = 0

    def __iter__(self) -> Iterator[bytes]:
        block = self._stream.read(_BLOCK_BYTES)
        self.empty = not block
        self.bad_header = not block.startswith(_LOG_HEADER)
        offset = len(_LOG_HEADER)
        while block:
            for kind, payload in _chunks(block, offset):
                if kind == _CUT:
                    self.cut += len(payload)
                elif (record := self._joined(kind, payload)) is not None:
                    yield record
            block, offset = self._stream.read(_BLOCK_BYTES), 0
        self.cut += self._size  # a record whose last chunk never came

    def _joined(self, kind: int, payload: bytes) -> bytes | None:
        """The record that this chunk completes, if any."""
        if kind in (_FULL, _FIRST, _DAMAGED):
            self._drop()
        if kind == _FULL:
            return payload
        if kind == _DAMAGED or (kind in (_MIDDLE, _LAST) and not self._parts):
            self.skipped += len(payload)
            return None
        self._size += len(payload)
        self._parts.append(payload if self._size <= MAX_RECORD_BYTES else b"")
        if kind != _LAST:
            return None
        if self._size > MAX_RECORD_BYTES:
            self.oversized += 1
            self._parts, self._size = [], 0
            return None
        record = b"".join(self._parts)
        self._parts, self._size = [], 0
        return record

    def _drop(self) -> None:
        """Give up a record whose next chunk is missing."""
        self.skipped += self._size
        self._parts, self._size = [], 0


def _chunks(block: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """The chunks of a block, as kind and payload; the last may be `_DAMAGED` or `_CUT`, with the block's rest."""
    wrong = _CUT if len(block) < _BLOCK_BYTES else _DAMAGED  # for what should go on where the block ends
    while len(block) - offset >= _CHUNK_HEADER.size:
        checksum, length, kind = _CHUNK_HEADER.unpack_from(block, offset)
        end = offset + _CHUNK_HEADER.size + length
        # The checksum is over the kind, which is the last byte of the chunk's header, and the payload after it.
        if not _FULL <= kind <= _LAST or end > len(block) or zlib.crc32(block[offset + 6 : end]) != checksum:
            yield (wrong if _FULL <= kind <= _LAST and end > len(block) else _DAMAGED), block[offset:]
            return
        yield kind, block[offset + _CHUNK_HEADER.size : end]
        offset = end
    if any(block[offset:]):  # a block ends with zeros where there is no room for another chunk
        yield wrong, block[offset:]


class _Content:
    """Gathers what the records say."""

    def __init__(self, *, metrics: bool) -> None:
        self._texts: dict[int, str] = {}
        self._config = _Values()
        self._summary = _Values()
        self._history = _Values()
        self._last_history = b""
        self._started: float | None = None
        self._exit_code: int | None = None
        self._undecodable = 0
        self._handlers: dict[int, Callable[[bytes], None]] = {
            _RECORD_RUN: self._add_run,
            _RECORD_CONFIG: self._config.update,
            _RECORD_HISTORY: self._add_history if metrics else self._keep_history,
            _RECORD_EXIT: self._add_exit,
        }
        if metrics:
            self._handlers[_RECORD_SUMMARY] = self._summary.update

    def add(self, record: bytes) -> None:
        """Take in one record."""
        try:
            for number, value in protobuf.fields(record):
                if isinstance(value, bytes) and (handler := self._handlers.get(number)):
                    handler(value)
        except protobuf.BadMessageError:
            self._undecodable += 1

    def result(self, path: Path, frames: _Frames) -> WandbLog:
        """What was gathered, with the last values parsed."""
        problems = _framing_problems(frames)
        if self._undecodable:
            problems.append(f"{self._undecodable:,} records could not be decoded")
        source = self._summary if self._summary.has_metrics else self._history
        config, summary = self._config.build("config", problems), source.build("summary", problems)
        if not self._texts.get(_RUN_ID) and not problems:
            problems.append("the log ends before the record that names the run")
        last = self._last_values()
        times = (plausible_time(values.get("_timestamp")) for values in (summary, last))
        return WandbLog(
            path=path,
            run_id=self._texts.get(_RUN_ID),
            group=self._texts.get(_RUN_GROUP),
            project=self._texts.get(_RUN_PROJECT),
            config={key: value for key, value in config.items() if key != "_wandb"},
            summary={key: value for key, value in summary.items() if key != "_wandb"},
            started=self._started,
            ended=max((time for time in times if time is not None), default=None),
            exited=self._exit_code is not None,
            exit_code=self._exit_code,
            problems=tuple(problems),
            has_history=bool(self._last_history),
            last=last,
        )

    def _add_run(self, message: bytes) -> None:
        for number, value in protobuf.fields(message):
            if not isinstance(value, bytes):
                continue
            if number in (_RUN_ID, _RUN_GROUP, _RUN_PROJECT) and value:
                self._texts[number] = value.decode(errors="replace")
            elif number == _RUN_CONFIG:
                self._config.update(value)
            elif number == _RUN_SUMMARY and _RECORD_SUMMARY in self._handlers:
                self._summary.update(value)
            elif number == _RUN_START and self._started is None:  # the record is written again when the run changes
                self._started = _time(value)

    def _add_history(self, message: bytes) -> None:
        # Clients write a summary with each history record; only a log without any needs the history's values.
        if not self._summary.has_metrics:
            self._history.update(message, removals=False)
        self._last_history = message

    def _keep_history(self, message: bytes) -> None:
        self._last_history = message

    def _add_exit(self, message: bytes) -> None:
        code = next((value for number, value in protobuf.fields(message) if number == _EXIT_CODE), 0)
        self._exit_code = protobuf.signed(code) if isinstance(code, int) else 0

    def _last_values(self) -> dict[str, Any]:
        """The values of the last history record."""
        values = _Values()
        try:
            values.update(self._last_history, removals=False)
        except protobuf.BadMessageError:
            return {}
        return values.build("history", [])


def _framing_problems(frames: _Frames) -> list[str]:
    if frames.empty:
        return ["the log is empty"]
    problems = []
    if frames.bad_header:
        problems.append("the log does not begin as a W&B log does")
    if frames.skipped:
        problems.append(f"{frames.skipped:,} damaged bytes were skipped")
    if frames.oversized:
        problems.append(f"{frames.oversized:,} records of more than {MAX_RECORD_BYTES:,} bytes were skipped")
    if frames.cut:
        problems.append(f"the log ends in the middle of a record, as when a run is killed ({frames.cut:,} bytes)")
    return problems


class _Values:
    """The last value of each key.

    Values stay JSON text until `build`: a metric is written hundreds of times, and only the last counts.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[bytes, ...], bytes] = {}
        self._size = 0
        self._dropped = 0
        self.has_metrics = False
        """Whether any key is not one of W&B's own, which begin with an underscore."""

    def update(self, message: bytes, *, removals: bool = True) -> None:
        """Take in a config, summary or history message; a history has no removals (its field 2 is the step)."""
        wanted = (_UPDATE, _REMOVE) if removals else (_UPDATE,)
        # Decoded in full before anything is set, so that a bad message leaves no trace.
        items = [(n, _item(item)) for n, item in protobuf.fields(message) if n in wanted and isinstance(item, bytes)]
        for number, (path, value) in items:
            self._set(path, value if number == _UPDATE else b"")

    def build(self, what: str, problems: list[str]) -> dict[str, Any]:
        """The values as nested dictionaries; appends to `problems` what cannot be used."""
        tree: dict[str, Any] = {}
        bad = []
        for path, value in self._values.items():
            keys = [key.decode(errors="replace") for key in path]
            try:
                _put(tree, keys, load_json(value) if value else _REMOVED)
            except ValueError:
                bad.append(".".join(keys)[:80])
        if bad:
            problems.append(f"{len(bad):,} values of the {what} are not readable: {', '.join(map(repr, bad[:3]))}")
        if self._dropped:
            problems.append(f"{self._dropped:,} values of the {what} were left out: it is too large or nested too deep")
        return tree

    def _set(self, path: tuple[bytes, ...], value: bytes) -> None:
        # Popped, so that the dictionary is in the order of writing: a later value of `a` replaces that of `a.b`.
        previous = self._values.pop(path, None)
        self._size += _path_cost(path) if previous is None else -len(previous)
        self._size += len(value)
        if self._size > MAX_VALUES_BYTES or len(path) > MAX_DEPTH:
            self._size -= _path_cost(path) + len(value)
            self._dropped += 1
        else:
            self._values[path] = value
            self.has_metrics = self.has_metrics or not path[0].startswith(b"_")


def _path_cost(path: tuple[bytes, ...]) -> int:
    """About the bytes that a key takes in memory."""
    return sum(map(len, path)) + 100 * len(path)


_REMOVED = object()


def _put(tree: dict[str, Any], keys: list[str], value: object) -> None:
    """Set, or remove, the value at a nested key."""
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            if value is _REMOVED:
                return
            tree[key] = {}
        tree = tree[key]
    if value is _REMOVED:
        tree.pop(keys[-1], None)
    else:
        tree[keys[-1]] = value


def _item(message: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The key, as a path, and the JSON text of a config, summary or history item."""
    path: tuple[bytes, ...] = ()
    value = b""
    for number, content in protobuf.fields(message):
        if isinstance(content, int):
            continue
        if number == _ITEM_VALUE_JSON:
            value = content
        elif number == _ITEM_NESTED_KEY or (number == _ITEM_KEY and content):
            path += (content,)
    if not path:
        raise protobuf.BadMessageError("an item without a key")
    return path, value


def _time(message: bytes) -> float | None:
    """A protobuf timestamp in seconds since 1970."""
    parts = {number: protobuf.signed(value) for number, value in protobuf.fields(message) if isinstance(value, int)}
    return plausible_time(parts.get(_TIME_SECONDS, 0) + parts.get(_TIME_NANOS, 0) / 1e9)


def _not_a_file(path: Path) -> RefusedError:
    return RefusedError(f"{path} is not a regular file", code="not-a-file", fix="Replace it by the file itself.")


def _unreadable(path: Path, failure: OSError) -> RefusedError:
    reason = failure.strerror or str(failure)
    return RefusedError(
        f"{path} cannot be read: {reason}", code="unreadable", fix="Check that it exists and may be read."
    )
