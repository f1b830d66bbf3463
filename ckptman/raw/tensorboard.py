"""TensorBoard's event files: the scalars that a run logged, whole or cut short.

A file is a row of records: the length in 8 bytes, its checksum, the data, its checksum (CRC-32C, masked). The data is a
protobuf message `Event` of TensorFlow's event.proto, with step, wall time and a summary: values with a tag, and a
number or a tensor. What is no scalar, such as images, histograms and graphs, is passed over, without being read where
it is large. Decoded here, by field numbers: tensorboard's own reader comes with 60 MB of packages.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

from ckptman.raw import protobuf
from ckptman.raw.wandb_log import open_regular, too_long
from ckptman.text import RefusedError
from ckptman.tree import history

MAX_RECORD_BYTES = 1 << 16
"""Largest record that is looked into; one with a scalar has about 60 bytes."""

_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_NEWEST_CRC = 0xA282EAD8  # what the mask adds

# Field numbers of event.proto, summary.proto and tensor.proto; numbers of types.proto.
_EVENT_STEP, _EVENT_SUMMARY = 2, 5
_SUMMARY_VALUE = 1
_VALUE_TAG, _VALUE_SIMPLE, _VALUE_TENSOR = 1, 2, 8
_TENSOR_DTYPE, _TENSOR_CONTENT = 1, 4
_SPELLINGS = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 19: "e", 22: "I", 23: "Q"}
"""Type of a tensor → how `struct` spells one of its elements."""
_WHOLE = frozenset("iBhbqIQ")
_PACKED = {5: "f", 6: "d"}
"""Fields that hold elements as they are; those of whole numbers are varints."""
_VARINTS = frozenset({7, 10, 16, 17})


def read_scalars(path: Path) -> history.History:
    """The learning curve in an event file; of one that was cut, or is damaged, up to there.

    Raises:
        RefusedError: `unreadable`, `not-a-file`; `damaged` where nothing of it is an event file; `too-long`, for more
            than `history.MOST_VALUES` numbers.
    """
    rows: dict[int, dict[str, history.Number]] = {}
    count = 0
    try:
        with open_regular(path) as stream:
            for scalars in _records(stream):
                for step, tag, value in scalars:
                    rows.setdefault(step, {})[tag] = value
                    if (count := count + 1) > history.MOST_VALUES:
                        raise too_long(path)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise RefusedError(f"{path} cannot be read: {reason}", code="unreadable", fix="Check its disk.") from failure
    except _NoEventsError:
        raise RefusedError(
            f"{path} is no event file of TensorBoard", code="damaged", fix="Move it away, or bring the right one."
        ) from None
    return history.of_rows(rows)


class _NoEventsError(Exception):
    """The first record is none."""


def _records(stream: BinaryIO) -> Iterator[list[tuple[int, str, history.Number]]]:
    """The scalars of each record, up to where the file is cut or damaged."""
    left, is_first = os.fstat(stream.fileno()).st_size, True
    while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
        length, checksum = _LENGTH.unpack(head)
        left -= _LENGTH.size + length + _CHECKSUM.size
        if _masked(head[:8]) != checksum:
            if is_first:
                raise _NoEventsError
            return  # where the next record begins, nothing tells
        if left < 0:
            return
        if length > MAX_RECORD_BYTES:
            stream.seek(length + _CHECKSUM.size, os.SEEK_CUR)
        else:
            data, end = stream.read(length), stream.read(_CHECKSUM.size)
            if len(end) < _CHECKSUM.size:
                return
            scalars = list(_scalars(data))
            if scalars and _masked(data) == _CHECKSUM.unpack(end)[0]:  # which takes most of the time
                yield scalars
        is_first = False
    if is_first and head:
        raise _NoEventsError


def _scalars(record: bytes) -> Iterator[tuple[int, str, history.Number]]:
    """Step, tag and value of each scalar of an event."""
    try:
        step, summaries = 0, []
        for number, content in protobuf.fields(record):
            if number == _EVENT_STEP and isinstance(content, int):
                step = protobuf.signed(content)
            elif number == _EVENT_SUMMARY and isinstance(content, bytes):
                summaries.append(content)
        for summary in summaries:
            for number, content in protobuf.fields(summary):
                if number == _SUMMARY_VALUE and isinstance(content, bytes):
                    tag, value = _value(content)
                    if value is not None:
                        yield step, tag, value
    except protobuf.BadMessageError:
        return


def _value(message: bytes) -> tuple[str, history.Number | None]:
    tag, value = "", None
    for number, content in protobuf.fields(message):
        if not isinstance(content, bytes):
            continue
        if number == _VALUE_TAG:
            tag = content.decode(errors="replace")
        elif number == _VALUE_SIMPLE and len(content) == 4:
            value = _shortest(content)
        elif number == _VALUE_TENSOR:
            value = _element(content)
    return tag, value if isinstance(value, float) or abs(value or 0) < 1 << 53 else None


def _element(tensor: bytes) -> history.Number | None:
    """The one element of a tensor; None for a tensor of several, or of no numbers."""
    spelling = None
    found: list[tuple[str | None, bytes]] = []
    whole: list[int] = []
    for number, content in protobuf.fields(tensor):
        if number == _TENSOR_DTYPE and isinstance(content, int):
            spelling = _SPELLINGS.get(content)
        elif number in (*_PACKED, _TENSOR_CONTENT) and isinstance(content, bytes) and content:
            found.append((_PACKED.get(number), content))
        elif number in _VARINTS and isinstance(content, int):
            whole.append(content)
        elif number in _VARINTS and isinstance(content, bytes) and content:
            value, end = protobuf.varint(content, 0)
            if end < len(content):
                return None
            whole.append(value)
    if spelling is None or len(found) + len(whole) != 1:
        return None
    if whole:
        return protobuf.signed(whole[0]) if spelling in _WHOLE else None
    kind, data = found[0][0] or spelling, found[0][1]
    if struct.calcsize(f"<{kind}") != len(data):
        return None
    element: history.Number = _shortest(data) if kind == "f" else struct.unpack(f"<{kind}", data)[0]
    return element


def _shortest(content: bytes) -> float:
    """A float of 32 bits as the shortest number that is stored so: 0.1, not 0.10000000149011612."""
    (value,) = struct.unpack("<f", content)
    if not math.isfinite(value):
        return float(value)
    texts = (f"{value:.{digits}g}" for digits in (6, 7, 8, 9))
    return next(float(text) for text in texts if struct.pack("<f", float(text)) == content)


def _masked(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C (Castagnoli), turned by 15 bits, plus a constant."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _NEWEST_CRC) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
