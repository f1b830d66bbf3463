"""The container of a checkpoint: a zip archive as `torch.save` writes it, read strictly.

`zipfile` reads whatever it can make sense of. Here an archive has to be exactly what torch makes of a file: entries one
after the other from the first byte on, uncompressed, with plain names in one folder, a directory that agrees with them,
and nothing else but a comment, and entries of the folders themselves, as `zip -r` makes them. So there is one way to
read it, and it is the way torch reads it. (It reads compressed entries too, but not with `mmap=True`, which takes the
compressed bytes for the tensor's: two ways to read one file.)

    entry   = local header (30 bytes), name, extra field (padding, so that the data is aligned), data,
              data descriptor (CRC-32 and sizes again)
    archive = entries, directory (46 bytes, name and extra field for each entry),
              zip64 end record (56 bytes), its locator (20 bytes), end record (22 bytes)
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple, NoReturn

from ckptman.formats.refusals import refusal
from ckptman.fs import files
from ckptman.text import RefusedError

PICKLE: Final = "data.pkl"
"""The entry with everything but the tensors' elements."""

MAX_ENTRIES: Final = 1 << 16
MAX_DIRECTORY: Final = 1 << 24
"""Bytes of the archive's directory."""
MAX_NAME: Final = 511
"""Bytes of an entry's name: torch cuts longer ones off."""

_CHUNK: Final = 1 << 20
_TAIL: Final = 1 << 13
"""Bytes read from the end at once: room for the directory of about 100 entries."""
_SMALL: Final = 1 << 15
"""Bytes of a file all of which are read at once: three calls cost more than they would leave out."""

# Sizes and offsets that do not fit in 32 bits are written as all ones, and in a zip64 record besides.
_NO_32, _NO_16 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED, _DESCRIPTOR_FLAG, _UTF8_FLAG = 0x0001, 0x0008, 0x0800
_OTHER_FLAGS: Final = 0xFFFF & ~(_DESCRIPTOR_FLAG | _UTF8_FLAG)

# signature, flags, method, CRC, compressed size, size, lengths of name and extra field
_LOCAL = Struct("<4s2xHH4xIIIHH")
# the same, then length of the comment, disk, attributes of the file, offset of the local header
_CENTRAL = Struct("<4s4xHH4xIIIHHHH2xII")
_CRC: Final = 16
"""Where in such an entry the checksum stands."""
# signature, two disk numbers, two numbers of entries, size and offset of the directory, length of the comment
_END = Struct("<4sHHHHIIH")
# signature, size of the rest of the record, two disk numbers, two numbers of entries, size and offset of the directory
_END_64 = Struct("<4sQ4xIIQQQQ")
# signature, disk, offset of the zip64 end record, number of disks
_LOCATOR = Struct("<4sIQI")
_DESCRIPTOR = Struct("<4sIII")
_DESCRIPTOR_64 = Struct("<4sIQQ")

_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_END_64_SIGNATURE, _LOCATOR_SIGNATURE, _DESCRIPTOR_SIGNATURE = b"PK\6\6", b"PK\6\7", b"PK\7\x08"

_REGULAR: Final = stat.S_IFREG >> 12
_FOLDER: Final = stat.S_IFDIR >> 12
_NO_FILE: Final = 0x18
"""MS-DOS attributes of what is a folder or a volume's label. torch reads nothing from a folder, whatever it holds."""

_FOUND_BY_TORCH: Final = frozenset({
    PICKLE, "byteorder", "version", "constants.pkl", "data", "code", ".data/version", ".data/serialization_id",
    ".format_version", ".storage_alignment",
})  # fmt: skip
"""Entries, and folders, that torch looks for without regard to case."""

_TORCH_SCRIPT: Final = "a TorchScript program, not a checkpoint"

_LEGACY_MAGIC: Final = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The number 0x1950a86a20f9469cfc6c as a pickle, after the two bytes that name the protocol."""


class Entry(NamedTuple):
    """One entry of the archive."""

    header: int
    """Where its local header begins."""
    size: int
    """Bytes of its data."""
    crc: int
    """CRC-32 of its data, by the directory."""


@dataclass(slots=True, eq=False)
class Layout:
    """A directory that was found to be right, whatever the checksums in it are: nothing of it hangs on them."""

    mask: int
    """All bits but those of the checksums."""
    rest: int
    checksums: Struct
    folder: bytes
    entries: Mapping[str, tuple[int, int, int]]
    """The number, the start and the size of each, by name."""
    is_torchs: bool = False
    """Whether the names of its entries were found to be those of a checkpoint."""
    held: object = None
    """The storages that were last found to be in archives of this directory."""


@dataclass(slots=True, eq=False)
class Archive:
    """An open archive whose directory has been read and checked."""

    fd: int
    size: int
    """Bytes of the file."""
    layout: Layout
    """What it has alike with other archives."""
    crcs: tuple[int, ...]
    """CRC-32 of the data of each entry, by the directory."""
    directory: int
    """Where the directory begins, and the entries end."""
    tail: bytes
    """The end of the file; all of a small one."""
    _entries: dict[str, Entry] | None = None

    @property
    def is_held(self) -> bool:
        """Whether all of the file was read at once."""
        return len(self.tail) == self.size

    @property
    def folder(self) -> bytes:
        """The folder all entries lie in, with its slash."""
        return self.layout.folder

    @property
    def entries(self) -> Mapping[str, Entry]:
        """By name inside the folder, in the order of the file."""
        if self._entries is None:
            self._entries = {
                name: _new_tuple(Entry, (start, size, crc))
                for (name, (_, start, size)), crc in zip(self.layout.entries.items(), self.crcs, strict=True)
            }
        return self._entries

    def entry(self, name: str) -> Entry | None:
        """One of the entries."""
        if (found := self.layout.entries.get(name)) is None:
            return None
        at, start, size = found
        return _new_tuple(Entry, (start, size, self.crcs[at]))

    def read(self, name: str, limit: int) -> bytes:
        """The data of an entry, after a check that its own header agrees with the directory, and its checksum.

        Raises:
            RefusedError: if there is none, if it has more than `limit` bytes, if the headers disagree, or if the data
                does not fit its checksum (`bad-crc`; a checksum of 0 counts as none, for torch can be told to write 0).
        """
        entry = self.entry(name)
        if entry is None:
            raise refusal("not-a-checkpoint", f"a zip archive, but not one that torch wrote: it has no {name}")
        if entry.size > limit:
            raise refusal("pickle-bomb", f"its {name} has {entry.size:,} bytes, more than {limit:,}")
        # One read mostly does: the padding is seldom more than 64 bytes.
        block = self._at(entry.header, _LOCAL.size + len(self.folder) + len(name) + 256 + entry.size)
        start = self.header_size(name, entry, block)
        if start + entry.size > len(block):
            block, start = self._at(entry.header + start, entry.size), 0
        data = block[start : start + entry.size]
        if len(data) < entry.size:
            raise refusal("cut", "it became shorter while it was read")
        if entry.crc and zlib.crc32(data) != entry.crc:
            raise _bad_crc(name)
        return data

    def checksums(self) -> str | None:
        """A digest of the names, sizes and checksums of all entries: the same for archives of the same bytes.

        None where an entry has no checksum.
        """
        if any(entry.size and not entry.crc for entry in self.entries.values()):
            return None
        return f"checksums:{hashlib.sha256(repr((self.folder, list(self.entries.items()))).encode()).hexdigest()}"

    def verify_crcs(self) -> None:
        """Read every entry and check it against its CRC-32, and that no byte of the file lies outside all records.

        Memory is bounded by a buffer of 1 MiB.

        Raises:
            RefusedError: `bad-crc` with the name of the first entry that fails, or as `open_archive`.
        """
        checksums = Checksums(self)
        buffer = memoryview(bytearray(_CHUNK))
        while not checksums.is_done:
            try:
                got = os.preadv(self.fd, [buffer], checksums.done)
            except OSError as error:
                raise _cannot_be_read(error) from None
            if not got:
                raise refusal("cut", "it became shorter while it was read")
            checksums.take(buffer[:got])
        if (problem := checksums.problem()) is not None:
            raise problem

    def data_start(self, name: str) -> int:
        """Where in the file the data of an entry begins, after a check that its header agrees with the directory.

        Raises:
            RefusedError: if it does not.
        """
        entry = self.entries[name]
        header = self._at(entry.header, _LOCAL.size + len(self.folder) + len(name.encode()))
        return entry.header + self.header_size(name, entry, header)

    def part(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of an entry that is known to be there and to have them.

        Raises:
            RefusedError: as `data_start`, and `cut` where the file has become shorter.
        """
        return self._exactly(self.data_start(name) + start, size)

    def header_size(self, name: str, entry: Entry, block: bytes) -> int:
        """Bytes from an entry's local header, with which `block` begins, to its data; as `data_start`."""
        full_name = self.folder + name.encode()
        if len(block) < _LOCAL.size + len(full_name):
            raise refusal("cut", "it became shorter while it was read")
        signature, flags, method, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(block)
        if signature != _LOCAL_SIGNATURE or block[_LOCAL.size : _LOCAL.size + name_length] != full_name:
            raise refusal("broken-archive", f"its entry {_shown(name)} is not where the directory says")
        if method or flags & _OTHER_FLAGS:
            raise refusal("unsafe-archive", f"its entry {_shown(name)} is compressed or encrypted")
        later = (0, _NO_32) if flags & _DESCRIPTOR_FLAG else (_NO_32,)  # given only after the data, or in zip64 form
        stated = ((crc, entry.crc), (packed, entry.size), (size, entry.size))
        if any(value != expected and value not in later for value, expected in stated):
            raise refusal(
                "broken-archive", f"its entry {_shown(name)} and the directory give different sizes or checksums"
            )
        return _LOCAL.size + int(name_length) + int(extra_length)

    def _at(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`; fewer only at the end of the file."""
        first = start - self.size + len(self.tail)
        return _read_at(self.fd, start, size) if first < 0 else self.tail[first : first + size]

    def _exactly(self, start: int, size: int) -> bytes:
        data = _read_at(self.fd, start, size)
        if len(data) < size:
            raise refusal("cut", "it became shorter while it was read")
        return data


class Checksums:
    """Each entry of an archive against its checksum and its own header, from the bytes of the file as somebody reads
    them, piece by piece."""

    def __init__(self, archive: Archive) -> None:
        self.done = 0
        """Bytes of the file that were taken."""
        starts = [entry.header for entry in archive.entries.values()]
        self._archive = archive
        self._entries = deque(zip(archive.entries.items(), [*starts[1:], archive.directory], strict=True))
        """What is still to come, each with where it has to end."""
        self._data = -1
        """Where the data of the first of them begins; negative until its header is read."""
        self._crc = 0
        self._kept = b""
        """The part of a header or a descriptor that was taken with an earlier piece."""
        self._failed: str | None = None
        self._misplaced: RefusedError | None = None

    @property
    def is_done(self) -> bool:
        """Whether no further bytes change what is known."""
        return not self._entries or self._failed is not None or self._misplaced is not None

    def take(self, chunk: memoryview) -> None:
        """Take the next bytes of the file."""
        begin, self.done = self.done, self.done + len(chunk)
        try:
            while self._entries and self._misplaced is None and self._take(chunk, begin):
                self._entries.popleft()
                self._data, self._crc = -1, 0
        except RefusedError as error:
            self._misplaced = error

    def _take(self, chunk: memoryview, begin: int) -> bool:
        """Take what there is of the first entry; whether that is all of it."""
        (name, entry), end = self._entries[0]
        if self._data < 0:
            size = _LOCAL.size + len(self._archive.folder) + len(name.encode())
            header = self._piece(chunk, begin, entry.header, size)
            if header is None:
                return False
            self._data = entry.header + self._archive.header_size(name, entry, header)
        data, after = self._data, self._data + entry.size
        _check_gap(name, end - after)
        first, last = max(data, begin), min(after, self.done)
        if first < last and self._failed is None:
            self._crc = zlib.crc32(chunk[first - begin : last - begin], self._crc)
        if self.done < after:
            return False
        if end > after:
            descriptor = self._piece(chunk, begin, after, end - after)
            if descriptor is None:
                return False
            _check_descriptor(name, entry, descriptor)
        if self._crc != entry.crc and entry.crc and self._failed is None:
            self._failed = name
        return True

    def _piece(self, chunk: memoryview, begin: int, start: int, size: int) -> bytes | None:
        """So many bytes of the file from `start`; None until the last of them is taken."""
        if not self._kept and begin <= start and start + size <= self.done:  # mostly
            return bytes(chunk[start - begin : start + size - begin])
        self._kept += chunk[max(0, start + len(self._kept) - begin) : max(0, start + size - begin)]
        if len(self._kept) < size:
            return None
        piece, self._kept = self._kept, b""
        return piece

    def problem(self) -> RefusedError | None:
        """What was found, once all bytes are taken: `bad-crc`, or bytes that belong to no entry, or nothing."""
        if self._misplaced is not None:
            return self._misplaced
        if self._failed is not None:
            return _bad_crc(self._failed)
        return refusal("cut", "it became shorter while it was read") if self._entries else None


def _check_gap(name: str, size: int) -> None:
    """Between the data of an entry and the next entry is room for its data descriptor, or none."""
    if size < 0:
        raise refusal("unsafe-archive", f"its entry {_shown(name)} overlaps the next one")
    if size not in (0, _DESCRIPTOR.size, _DESCRIPTOR_64.size):
        raise _bytes_between(name)


def _check_descriptor(name: str, entry: Entry, found: bytes) -> None:
    form = _DESCRIPTOR if len(found) == _DESCRIPTOR.size else _DESCRIPTOR_64
    if not any(found):
        raise refusal(
            "broken-archive", f"there are only zeros after its entry {_shown(name)}, as where nothing is written"
        )
    if form.unpack(found) != (_DESCRIPTOR_SIGNATURE, entry.crc, entry.size, entry.size):
        raise _bytes_between(name)


def _bytes_between(name: str) -> RefusedError:
    return refusal("unsafe-archive", f"there are bytes after its entry {_shown(name)} that belong to no entry")


@contextmanager
def open_archive(path: str | os.PathLike[str], *, fd: int | None = None) -> Iterator[Archive]:
    """Open a checkpoint's archive and read its directory.

    Args:
        path: The file. Refusals raised inside the `with` block are told of it by name.
        fd: An open descriptor of the file, to read from instead of opening `path`; it stays open, where it was.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS` if it is not a torch archive, not whole, or not safe to read.
    """
    opened: int | None = None
    try:
        if fd is None:
            opened = fd = _open(path)
        yield _read_archive(fd)
    except RefusedError as error:
        raise RefusedError(f"{show_path(path)}: {error.message}", code=error.code, fix=error.fix) from None
    finally:
        if opened is not None:
            os.close(opened)


def verify_crcs(path: str | os.PathLike[str], *, fd: int | None = None) -> None:
    """Read a whole checkpoint and check each entry of its archive against its CRC-32.

    Args:
        path: The file.
        fd: An open descriptor of it, as for `open_archive`.

    Raises:
        RefusedError: as `open_archive` and `Archive.verify_crcs`.
    """
    with open_archive(path, fd=fd) as archive:
        archive.verify_crcs()


def show_path(path: str | os.PathLike[str]) -> str:
    """A path in a message: as it is, or quoted where it holds line breaks, escape codes or bytes that are not text."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


# --- the file ---------------------------------------------------------------------------------------------------------


def _open(path: str | os.PathLike[str]) -> int:
    try:
        # Looked at before it is opened: that alone lets the writer of a named pipe go on, and has effects on devices.
        _check_regular(os.stat(path))  # noqa: PTH116 (a Path takes three times as long)
        # Without waiting, should a pipe have taken its place since.
        return files.open_foreign(path)
    except OSError as error:
        reason = error.strerror
    except ValueError as error:  # a path with a null character
        reason = str(error)
    raise refusal("unreadable", f"cannot be opened: {reason}")


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise refusal("not-a-file", "not a regular file")


def _cannot_be_read(error: OSError) -> RefusedError:
    return refusal("unreadable", f"cannot be read: {error.strerror}")


def _read_at(fd: int, start: int, size: int) -> bytes:
    """Up to `size` bytes from `start`; fewer only at the end of the file."""
    try:
        data = os.pread(fd, size, start)
        while 0 < len(data) < size and (more := os.pread(fd, size - len(data), start + len(data))):
            data += more
    except OSError as error:
        raise _cannot_be_read(error) from None
    return data


def _read_archive(fd: int) -> Archive:
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise _cannot_be_read(error) from None
    _check_regular(status)
    size = status.st_size
    if not size:
        raise refusal("empty", "the file is empty")
    tail_start = 0 if size <= _SMALL else max(0, size - _TAIL)
    tail = _read_at(fd, tail_start, size - tail_start)
    if tail_start and tail.rfind(_END_SIGNATURE) < 0:  # there may be a long comment behind it
        tail_start = max(0, size - _TAIL - _NO_16)
        tail = _read_at(fd, tail_start, size - tail_start)
    end = _find_end(fd, size, tail)
    if end.start >= tail_start:
        directory = tail[end.start - tail_start : end.start - tail_start + end.size]
    else:
        directory = _read_at(fd, end.start, end.size)
    if len(directory) < end.size:
        raise refusal("cut", "it became shorter while it was read")
    try:
        layout, crcs = _layout_of(directory, end)
    except RefusedError as error:
        names = _names_in(directory, end)
        if error.code != "unsafe-archive" or any(name.endswith(f"/{PICKLE}") for name in names):
            raise
        raise _other_zip(names) from None
    archive = Archive(fd, size, layout, crcs, end.start, tail)
    _check_kind(archive)
    return archive


def _check_kind(archive: Archive) -> None:
    names = archive.layout.entries
    if not archive.layout.is_torchs:
        if PICKLE not in names:
            raise _other_zip([f"{archive.folder.decode(errors='replace')}{name}" for name in names])
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            raise refusal("foreign", _TORCH_SCRIPT)
        archive.layout.is_torchs = True
    if next(iter(names)) != PICKLE:
        archive.data_start(next(iter(names)))  # by its first bytes, torch takes a file for another format
    # Archives from before torch 2.0 have no such entry; they were written on little-endian machines.
    if "byteorder" in names and (order := archive.read("byteorder", 16)) != b"little":
        raise refusal("foreign", f"its numbers are not in little-endian byte order, but {order!r}")


# --- the end of the archive -------------------------------------------------------------------------------------------


class _End(NamedTuple):
    """What the end records say of the directory."""

    entries: int
    start: int
    size: int


def _find_end(fd: int, size: int, tail: bytes) -> _End:
    at = tail.rfind(_END_SIGNATURE)  # the last one, as torch and others look for it
    if at < 0 or not _is_end(size, tail, at):
        _refuse_without_end(fd, size, tail)
    _, disk, first_disk, entries_here, entries, length, start, _ = _END.unpack_from(tail, at)
    size, tail = size - len(tail) + at + _END.size, tail[: at + _END.size]
    after = size - _END.size
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator[:4] == _LOCATOR_SIGNATURE:
        after -= _LOCATOR.size + _END_64.size
        long = _read_end_64(fd, tail, locator, after)
        # Each field of the short record is either the same as in the long one, or says that it does not fit.
        counts_agree = {entries_here, entries} <= {_NO_16, long.entries}
        if not counts_agree or length not in (_NO_32, long.size) or start not in (_NO_32, long.start):
            raise refusal("broken-archive", "the two end records of the archive disagree")
        end = long
    else:
        end = _End(entries, start, length)
        if entries_here != entries:
            raise refusal("broken-archive", "the archive's end record contradicts itself")
    if disk or first_disk:
        raise refusal("unsafe-archive", "the archive has several parts")
    if end.start + end.size != after:
        raise _misplaced(fd, after - end.start - end.size, "directory is not where its end record says")
    if end.entries > MAX_ENTRIES or end.size > MAX_DIRECTORY:
        raise refusal("pickle-bomb", f"the archive has {end.entries:,} entries with a directory of {end.size:,} bytes")
    return end


def _read_end_64(fd: int, tail: bytes, locator: bytes, start: int) -> _End:
    _, disk, offset, disks = _LOCATOR.unpack(locator)
    record = tail[-_END.size - _LOCATOR.size - _END_64.size : -_END.size - _LOCATOR.size]
    if disk or disks != 1 or offset != start or len(record) < _END_64.size:
        raise _misplaced(fd, start - offset, "zip64 end record is not where its locator says")
    signature, rest, disk, first_disk, entries_here, entries, length, directory = _END_64.unpack(record)
    if signature != _END_64_SIGNATURE or rest != _END_64.size - 12 or disk or first_disk or entries_here != entries:
        raise refusal("broken-archive", "the archive's zip64 end record contradicts itself")
    return _End(entries, directory, length)


def _misplaced(fd: int, by: int, what: str) -> RefusedError:
    """What is wrong with an archive, a record of which lies so many bytes behind where another one says."""
    if by > 0 and _read_at(fd, by, len(_LOCAL_SIGNATURE)) == _LOCAL_SIGNATURE:  # it begins there
        return refusal(
            "broken-archive",
            f"there are {by:,} bytes before the archive, which `tail -c +{by + 1} FILE > COPY` leaves out",
        )
    return refusal("broken-archive", f"the archive's {what}")


def _refuse_without_end(fd: int, size: int, tail: bytes) -> NoReturn:
    """Say what a file is that does not end as an archive."""
    head = tail if size <= len(tail) else _read_at(fd, 0, 512)
    if head.startswith(_LOCAL_SIGNATURE) or _LOCAL_SIGNATURE.startswith(head):
        raise refusal("cut", f"it begins as a checkpoint and is cut short, after {size:,} bytes, or its end is damaged")
    if not head.strip(b"\0"):
        raise refusal("cut", "it begins with zero bytes, as where the content never reached the disk")
    if head[:1] == b"\x80" and head[2:].startswith(_LEGACY_MAGIC):
        raise refusal("legacy-format", "it is in torch's old format, which is not a zip archive")
    what = what_else(head) or "something that torch.save did not write"
    raise refusal("not-a-checkpoint", f"not a checkpoint, but {what}")


def _is_end(size: int, tail: bytes, at: int) -> bool:
    """Whether the end record of an archive stands there: a whole one, with its comment behind it, or else by what it
    says of the directory. Bytes behind that, such as zeros or a signature, nothing reads: torch passes over them, too.
    """
    if at + _END.size > len(tail):
        return False
    length, start, comment = _END.unpack_from(tail, at)[5:8]
    if at + _END.size + comment == len(tail):
        return True
    where = size - len(tail) + at
    return start == _NO_32 or start + length in (where, where - _LOCATOR.size - _END_64.size)


TAR: Final = "a tar archive: unpack it first"


def what_else(head: bytes) -> str | None:
    """What a file is, by its first bytes, that is no checkpoint; None where they do not tell."""
    for start, what in _BEGINNINGS.items():
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return TAR
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        return "a plain pickle, which torch.save did not write"
    if head[8:9] == b"{" and head[3:8] == bytes(5):
        return "a safetensors file"
    text = head.decode("ascii", errors="replace")
    if all(letter.isprintable() or letter.isspace() for letter in text.replace("�", "\0")):
        first = text.lstrip()[:16].lower()
        return next((what for begin, what in _TEXTS.items() if first.startswith(begin)), "a text file")
    return None


_BEGINNINGS: Final = {
    b"version https://git-lfs": "a Git LFS pointer: the file itself was never fetched (`git lfs pull` does)",
    b"/annex/objects/": "a git-annex pointer: the file itself was never fetched (`git annex get` does)",
    b"\x1f\x8b": "a file that gzip compressed: decompress it first",
    b"BZh": "a file that bzip2 compressed: decompress it first",
    b"\xfd7zXZ\0": "a file that xz compressed: decompress it first",
    b"\x28\xb5\x2f\xfd": "a file that zstd compressed: decompress it first",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras saves weights, which is not read",
    b"GGUF": "a GGUF file of llama.cpp, which is not read",
    b"\x93NUMPY": "an array that numpy saved",
}
_TEXTS: Final = {
    "<!doctype html": "a web page, such as a server's error message, that was saved in place of the file",
    "<html": "a web page, such as a server's error message, that was saved in place of the file",
    "<?xml": "an XML document, such as a server's error message, that was saved in place of the file",
    "{": "a JSON document",
    "[": "a JSON document",
}


def _other_zip(names: list[str]) -> RefusedError:
    """What a zip archive is that is none of torch's."""
    inner = [name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))]
    if names and all(name.endswith(".npy") for name in names):
        what = "numpy's .npz"
    elif "model.weights.h5" in names:
        what = "a model of Keras, which is not read"
    elif any(name.endswith("/archive_format") for name in names):
        what = "a program that torch.export saved"
    elif inner:
        what = f"it holds {_shown(inner[0])}: unpack it first"
    else:
        what = f"it has no {PICKLE}"
    return refusal("not-a-checkpoint", f"a zip archive, but not one that torch.save wrote: {what}")


# --- the directory ----------------------------------------------------------------------------------------------------


# A NamedTuple's own constructor is a Python function, and takes twice as long.
_new_tuple = tuple.__new__


_KNOWN: Final[OrderedDict[tuple[_End, int], Layout]] = OrderedDict()
_MOST_KNOWN: Final = 256
_LARGEST_KNOWN: Final = 1 << 15
"""Bytes of a directory that is remembered."""


def _layout_of(directory: bytes, end: _End) -> tuple[Layout, tuple[int, ...]]:
    """What a directory says, and the checksums in it; of one that differs from one before in these alone, at once."""
    known = _KNOWN.get((end, len(directory)))
    if known is not None and int.from_bytes(directory, "little") & known.mask == known.rest:
        return known, known.checksums.unpack(directory)
    folder, entries = _read_directory(directory, end)
    form, mask, at, done = "<", bytearray(b"\xff" * len(directory)), 0, 0
    for _ in entries:
        name_length, extra_length = _CENTRAL.unpack_from(directory, at)[6:8]
        form += f"{at + _CRC - done}xI"
        done = at + _CRC + 4
        mask[at + _CRC : done] = bytes(4)
        at += _CENTRAL.size + name_length + extra_length
    bits = int.from_bytes(mask, "little")
    layout = Layout(
        bits,
        int.from_bytes(directory, "little") & bits,
        Struct(f"{form}{len(directory) - done}x"),
        folder,
        {name: (at, entry.header, entry.size) for at, (name, entry) in enumerate(entries.items())},
    )
    if len(directory) <= _LARGEST_KNOWN:
        _KNOWN[end, len(directory)] = layout
        if len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.popitem(last=False)
    return layout, layout.checksums.unpack(directory)


def _read_directory(directory: bytes, end: _End) -> tuple[bytes, dict[str, Entry]]:
    """The folder that all entries lie in, and the entries by their name in it."""
    entries: dict[str, Entry] = {}
    others: list[str] = []
    folder = data_folder = b""
    at = used = 0
    directory += bytes(_CENTRAL.size)  # so that an entry that is cut off is read, and found to be none
    unpack, fixed = _CENTRAL.unpack_from, _CENTRAL.size
    for _ in range(end.entries):
        if at > end.size:
            raise refusal("broken-archive", "the archive's directory ends too early")
        (
            signature, flags, method, crc, packed, size, name_length, extra_length, comment_length, disk,
            attributes, header,
        ) = unpack(directory, at)  # fmt: skip
        if signature != _CENTRAL_SIGNATURE:
            raise refusal("broken-archive", "the archive's directory is damaged")
        name_start = at + fixed
        at = name_start + name_length
        full_name = directory[name_start:at]
        if size == _NO_32 or header == _NO_32 or packed == _NO_32:
            size, packed, header = _read_zip64(directory[at : at + extra_length], size, packed, header)
        at += extra_length
        if not entries:
            folder = _top_folder(full_name)
            data_folder = folder + b"data/"
        of_storage = full_name.startswith(data_folder) and full_name[len(data_folder) :].isdigit()
        is_folder = not of_storage and not size and full_name[-1:] == b"/"
        if is_folder:  # as zip -r writes of each folder
            _check_name(folder, full_name[:-1] if len(full_name) > len(folder) else full_name + b"x")
        elif not of_storage or name_length > MAX_NAME:  # most are
            _check_name(folder, full_name)
        name = full_name[len(folder) :].decode()
        if not of_storage:
            others.append(name)
        if is_folder and attributes >> 28 in (0, _FOLDER):
            attributes = 0
        if attributes and (attributes & _NO_FILE or attributes >> 28 not in (0, _REGULAR)):
            raise refusal("unsafe-archive", f"its entry {_shown(name)} has the attributes of what is no plain file")
        if method or size != packed or flags & _OTHER_FLAGS or comment_length or disk:
            if full_name.startswith(folder + b"code/"):
                raise refusal("foreign", _TORCH_SCRIPT)
            what = "compressed" if method or size != packed else "encrypted" if flags & _ENCRYPTED else "not plain"
            raise refusal("unsafe-archive", f"its entry {_shown(name)} is {what}")
        if name in entries:
            raise refusal("unsafe-archive", f"it has two entries named {_shown(name)}")
        if header < used or (header and not used):
            raise refusal("unsafe-archive", f"its entry {_shown(name)} does not follow the one before it")
        used = header + _LOCAL.size + name_length + size
        entries[name] = _new_tuple(Entry, (header, size, crc))
    if at != end.size:
        raise refusal("broken-archive", "the archive's directory and the number of its entries disagree")
    if used > end.start:
        raise refusal("broken-archive", "the entries of the archive reach into its directory")
    _check_alike(others, entries)
    return folder, entries


def _names_in(directory: bytes, end: _End) -> list[str]:
    """The names in a directory that is not as torch writes it, as far as they can be read."""
    names, at = [], 0
    for _ in range(end.entries):
        if at + _CENTRAL.size > len(directory):
            break
        name_length, extra_length, comment_length = _CENTRAL.unpack_from(directory, at)[6:9]
        start = at + _CENTRAL.size
        names.append(directory[start : start + name_length].decode(errors="replace"))
        at = start + name_length + extra_length + comment_length
    return names


def _check_alike(names: list[str], entries: Mapping[str, Entry]) -> None:
    """Check that no two entries are one to another reader: torch finds them without regard to case.

    Args:
        names: Those that are no names of storages, which are nothing but digits.
        entries: All of them.
    """
    known: dict[str, str] = {}
    for name in names:
        alike = _folded(name)
        other = known.setdefault(alike, name) if alike == name or alike not in entries else alike
        if other != name:
            raise refusal(
                "unsafe-archive", f"its entries {_shown(other)} and {_shown(name)} are one entry to other readers"
            )
        if alike != name and (alike in _FOUND_BY_TORCH or alike.partition("/")[0] in _FOUND_BY_TORCH):
            raise refusal(
                "unsafe-archive", f"its entry {_shown(name)} is {_shown(alike)} to torch, and not by its name"
            )


def _folded(name: str) -> str:
    """What is left of a name's differences for a reader that does not see case, forms of letters, and what Windows cuts
    off the end."""
    if name.isascii() and name.islower() and "." not in name and " " not in name:
        return name
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "/".join(part.rstrip(". ") for part in text.split("/"))


def _read_zip64(extra: bytes, *values: int) -> list[int]:
    """Size, compressed size and offset of an entry, those that do not fit in 32 bits taken from its extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = extra[at] | extra[at + 1] << 8, extra[at + 2] | extra[at + 3] << 8
        if at + 4 + length > len(extra):
            break
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            longer = iter([int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) - 7, 8)])
            found = [next(longer, -1) if value == _NO_32 else value for value in values]
            if -1 not in found:
                return found
            break  # as for torch, the first one counts
        at += 4 + length
    raise refusal("broken-archive", "the archive's directory lacks the size of a large entry")


def _top_folder(full_name: bytes) -> bytes:
    folder, slash, _ = full_name.partition(b"/")
    if not slash or folder in (b"", b".", b"..") or b"\\" in folder or b"\0" in folder:
        raise refusal("unsafe-archive", f"its entry {_shown(full_name)} does not lie in a folder of the archive")
    return folder + slash


def _check_name(folder: bytes, full_name: bytes) -> None:
    """Check that a name is text and stays inside the folder."""
    inside = full_name[len(folder) :]
    if not full_name.startswith(folder):
        raise refusal("unsafe-archive", f"its entry {_shown(full_name)} does not lie in the folder of the others")
    if len(full_name) > MAX_NAME:
        raise refusal("unsafe-archive", f"its entry {_shown(full_name)} has a name of more than {MAX_NAME} bytes")
    parts = inside.split(b"/")
    if b"" in parts or b"." in parts or b".." in parts or b"\\" in inside or b"\0" in inside:
        raise refusal("unsafe-archive", f"its entry {_shown(full_name)} has a name that leaves its folder")
    try:
        full_name.decode()
    except UnicodeDecodeError:
        raise refusal("unsafe-archive", f"the name of its entry {_shown(full_name)} is not UTF-8") from None


def _shown(name: str | bytes) -> str:
    """The name of an entry in a message."""
    start = name[:80]
    text = start if isinstance(start, str) else start.decode(errors="backslashreplace")
    return repr(text) + ("…" if len(name) > 80 else "")


def _bad_crc(name: str) -> RefusedError:
    return refusal("bad-crc", f"the content of its entry {_shown(name)} does not fit the checksum")
