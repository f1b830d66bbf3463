"""Zip archives whose records say things in every way that the format has, and some that it has not."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

from ckptman.formats.archive import open_archive
from tests.helpers import hostile

ALL_32 = 0xFFFFFFFF
NAMES = (b"top/data.pkl", b"top/byteorder", b"top/data/0", b"top/version")
ATTRIBUTES = (0x10, 8, 0x20, 1, 0x80, 0o40755 << 16, 0o120777 << 16, 0o100644 << 16, 0x18)


def contents(path: Path) -> dict[str, bytes]:
    """All entries by name, after a check of everything."""
    with open_archive(path) as archive:
        archive.verify_crcs()
        return {name: archive.read(name, 1 << 30) for name in archive.entries}


def field(kind: int, data: bytes, length: int | None = None) -> bytes:
    """One extra field, that may lie about its length."""
    return struct.pack("<HH", kind, len(data) if length is None else length) + data


def odd_archive(draw: random.Random) -> bytes:
    """An archive with one odd entry: zip64 fields that agree or do not, data descriptors of either kind or none, flags,
    attributes, a name that stands twice; bytes before the first entry, comments, and end records that disagree."""
    entries = list(zip(NAMES, (hostile.weights_pickle(), b"little", bytes(range(8)), b"3\n"), strict=True))
    if draw.random() < 0.2:
        at = draw.randrange(4)
        entries.insert(at, (entries[at][0], bytes(len(entries[at][1]))))
    prefix = draw.choice([b""] * 6 + [b"x", b"PK\3\4" + bytes(30), bytes(64)])
    body, directory, odd = bytearray(prefix), bytearray(), draw.randrange(len(entries))
    for index, (name, data) in enumerate(entries):
        offset = len(body) - (len(prefix) if draw.random() < 0.3 else 0)
        local, central = _entry(name, data, offset, draw, is_odd=index == odd)
        body += local
        directory += central
    return bytes(body + directory) + _end(len(entries), len(directory), len(body), draw)


def _entry(name: bytes, data: bytes, offset: int, draw: random.Random, *, is_odd: bool) -> tuple[bytes, bytes]:
    crc, true = zlib.crc32(data), [len(data), len(data), offset]
    stated, extra, local_extra, local = list(true), b"", b"", [0, 0, 0]
    flags, attributes, descriptor = 0x0808, 0, struct.pack("<4sIII", b"PK\7\x08", crc, len(data), len(data))
    if is_odd:
        is_long = [draw.randrange(2) for _ in true]
        lies = [
            value if draw.random() < 0.7 else draw.choice((0, value + 1, value ^ 8, 1 << 33, ALL_32)) for value in true
        ]
        values = [lie for lie, long in zip(lies, is_long, strict=True) if long or draw.random() < 0.15]
        packed = b"".join(struct.pack("<Q", value) for value in values)
        long_field = field(1, packed, None if draw.random() < 0.8 else draw.randrange(40))
        stated = [ALL_32 if long else value for value, long in zip(true, is_long, strict=True)]
        whole = field(1, struct.pack("<QQQ", *true))
        extra = draw.choice((long_field, long_field, field(0x5455, b"\3aaaa") + long_field, long_field + whole,
                             field(1, b"") + long_field, field(1, struct.pack("<QQQ", *lies)) + long_field, b"\1\0",
                             field(0x9999, bytes(3)) + long_field, long_field + b"\0"))  # fmt: skip
        kind = draw.randrange(10)
        if kind == 0:
            local_extra = draw.choice((extra, field(1, struct.pack("<QQ", *true[:2])), bytes(7), field(2, bytes(50))))
        elif kind == 1:
            flags, descriptor = 0, b""
            local = draw.choice(([crc, *true[:2]], [crc, ALL_32, ALL_32], [0, *true[:2]], [0, 0, 0]))
        elif kind == 2:
            descriptor = b""
        elif kind == 3:
            descriptor = struct.pack("<4sIQQ", b"PK\7\x08", crc, *true[:2])
        elif kind == 4:
            descriptor = descriptor[4:]
        elif kind == 5:
            attributes = draw.choice(ATTRIBUTES)
        elif kind == 6:
            flags |= draw.choice((1, 0x20, 0x40, 0x2000))
    size, packed_size, at = stated
    return (
        struct.pack("<4sHHHIIIIHH", b"PK\3\4", 0, flags, 0, 0, *local, len(name), len(local_extra))
        + name + local_extra + data + descriptor,
        struct.pack("<4sHHHHIIIIHHHHHII", b"PK\1\2", 0, 0, flags, 0, 0, crc, packed_size, size, len(name), len(extra),
                    0, 0, 0, attributes, at) + name + extra,
    )  # fmt: skip


def _end(count: int, size: int, start: int, draw: random.Random) -> bytes:
    long = b""
    if draw.random() < 0.6:
        stated = [count, count, size, start]
        if draw.random() < 0.3:
            at = draw.randrange(4)
            stated[at] = draw.choice((stated[at] + 1, stated[at] - 1, 0, 1 << 40))
        where, disks = draw.choice([start + size] * 8 + [0, start + size + 1]), draw.choice([1] * 8 + [0, 2])
        long = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, *stated)
        long += struct.pack("<4sIQI", b"PK\6\7", 0, where, disks)
    short = [count, count, size, start]
    if draw.random() < 0.4:
        at = draw.randrange(4)
        short[at] = draw.choice((0xFFFF if at < 2 else ALL_32, short[at] + 1, max(0, short[at] - 1), 0))
    comment = draw.choice([b""] * 6 + [b"hello", b"PK\5\6" + bytes(18), b"PK\5\6", long[-22:]])
    return long + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, *short, len(comment)) + comment
