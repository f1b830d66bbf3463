"""One archive, one content: what is read in an archive is what torch's own zip reader finds in it, or it is refused."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import archive as archives
from ckptman.formats.archive import PICKLE, open_archive
from ckptman.text.errors import RefusedError
from tests.helpers import hostile
from tests.helpers.hostile import Entry, build_zip
from tests.helpers.odd_archives import ALL_32, field, odd_archive
from tests.helpers.promises import ONE_READER, caught, tried
from tests.helpers.slices import SLICE, SLICES

PICKLE_ENTRY = Entry("top/data.pkl", hostile.weights_pickle())
STORAGE_ENTRY = Entry("top/data/0", bytes(range(8)))
VERSION = Entry("top/version", b"3\n")
GOOD = build_zip([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/byteorder", b"little"), VERSION])
HOSTILE = hostile.hostile_archives()


def read_here(path: Path, *, whole: bool) -> dict[str, bytes] | None:
    """All entries as they are read here; None if the archive is refused."""
    try:
        with open_archive(path) as archive:
            archive.read(PICKLE, 1 << 20)
            if whole:
                archive.verify_crcs()
            return {name: archive.part(name, 0, entry.size) for name, entry in archive.entries.items()}
    except RefusedError:
        return None


def read_by_torch(content: bytes) -> dict[str, bytes] | None:
    """All entries as torch reads them; None if it cannot."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        return {name: reader.get_record(name) for name in reader.get_all_records()}
    except (RuntimeError, UnicodeDecodeError):
        return None


# --- what misled torch ------------------------------------------------------------------------------------------------

MISLEADING = {
    "pickle": ([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/DATA.PKL", b"other"), VERSION], "data.pkl", b"other"),
    "storage": ([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/DATA/0", b"12345678"), VERSION], "data/0", b"12345678"),
    "byte order": ([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/BYTEORDER", b"big"), VERSION], "byteorder", b"big"),
}


@pytest.mark.parametrize("name", MISLEADING)
def test_torch_finds_entries_without_regard_to_case(tmp_path: Path, name: str) -> None:
    entries, asked, found = MISLEADING[name]
    path = tmp_path / "file.pt"
    seen = set()
    for order in (entries, [*reversed(entries[:-1]), VERSION]):  # which of two it finds, their order decides
        content = build_zip(order)
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        seen.add(reader.get_record(asked))
        path.write_bytes(content)
        with pytest.raises(RefusedError) as error:
            read_or_raise(path)
        assert error.value.code == "unsafe-archive"
    assert found in seen
    path.write_bytes(build_zip([entry for entry in entries if entry.data != found]))
    assert read_here(path, whole=True) is not None


def read_or_raise(path: Path) -> None:
    with open_archive(path) as archive:
        archive.verify_crcs()


def test_torch_reads_nothing_from_an_entry_that_is_a_folder() -> None:
    content = build_zip([PICKLE_ENTRY, Entry("top/data/0", bytes(range(8)), attributes=0x10), VERSION])
    found = read_by_torch(content)
    assert found is None or found["data/0"] != bytes(range(8))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pickle-in-capitals-beside", "'data.pkl' and 'DATA.PKL' are one entry to other readers"),
        ("storage-in-capitals", "'Data/0' is 'data/0' to torch, and not by its name"),
        ("byte-order-in-capitals", "'BYTEORDER' is 'byteorder' to torch"),
        ("name-with-a-dot-at-its-end", r"'data\.pkl' and 'data\.pkl\.' are one entry"),
        ("storage-that-is-a-folder", "'data/0' has the attributes of what is no plain file"),
        ("name-that-torch-cuts", "has a name of more than 511 bytes"),
    ],
)
def test_the_reason_is_told(tmp_path: Path, name: str, told: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(HOSTILE[name][0])
    with pytest.raises(RefusedError, match=told):
        read_or_raise(path)


def test_attributes_and_names_that_other_programs_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    entries = [Entry("top/Extra/INFO.json", b"{}", attributes=0o100644 << 16), Entry("top/note", b"", attributes=0x20)]
    path.write_bytes(build_zip([PICKLE_ENTRY, STORAGE_ENTRY, *entries, VERSION]))
    assert read_here(path, whole=True) == read_by_torch(path.read_bytes())
    torch.save({"w": torch.ones(3)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("file/notes/by a tool.txt", "hello")
    assert read_here(path, whole=True) == read_by_torch(path.read_bytes())


FOLDERS = [
    Entry("top/", b"", attributes=0o40755 << 16 | 0x10), PICKLE_ENTRY, Entry("top/data/", b"", attributes=0x10),
    STORAGE_ENTRY, Entry("top/empty/", b""), VERSION,
]  # fmt: skip


def test_entries_of_folders_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    """`zip -r` makes them of an archive that was unpacked."""
    path = tmp_path / "file.pt"
    path.write_bytes(build_zip(FOLDERS))
    found = read_here(path, whole=True)
    assert found is not None
    assert list(found) == ["", "data.pkl", "data/", "data/0", "empty/", "version"]
    assert found == read_by_torch(path.read_bytes())
    odd = (b"content", 0x10), (b"", 0o120777 << 16), (b"", 0o60777 << 16)
    for entry in (
        *(Entry("top/extra/", data, attributes=attributes) for data, attributes in odd),
        Entry("top/extra//", b""), Entry("top/../", b""), Entry("/", b""), Entry("other/", b""),
        Entry("top/Data/", b""), Entry("top/extra", b"", attributes=0x10),
    ):  # fmt: skip
        path.write_bytes(build_zip([*FOLDERS, entry]))
        assert read_here(path, whole=True) is None, entry
    path.write_bytes(build_zip([*FOLDERS, Entry("top/extra/", b"", attributes=0x10)]))
    assert read_here(path, whole=True) is not None


# --- mutations --------------------------------------------------------------------------------------------------------

RECORDS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08")
BYTES = b"\0\1\x0f\x10\x20./\\\xff"


def places(content: bytes, *signatures: bytes) -> list[int]:
    """Where the records of an archive begin."""
    return [at for at in range(len(content)) if content[at : at + 4] in signatures]


def mutated(original: bytes, draw: random.Random) -> bytes:
    """An archive with a few changes, most of them in its records."""
    content = bytearray(original)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        starts = places(bytes(content), *RECORDS)
        at = (
            draw.choice(starts) + draw.randrange(60) if starts and draw.random() < 0.8 else draw.randrange(len(content))
        )
        at = min(at, len(content) - 4)
        kind = draw.randrange(6)
        if kind == 0:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[at] = draw.choice(BYTES)
        elif kind == 2:
            content[at : at + 4] = struct.pack(
                "<I", draw.choice((0, draw.randrange(100), 0xFFFFFFFF, draw.getrandbits(32)))
            )
        elif kind == 3:
            content[at] ^= 0x20  # the case of a letter
        elif entries := places(bytes(content), RECORDS[0]):
            source, target = draw.choice(entries), draw.choice(entries)
            if kind == 4:
                content[target : target + 46] = content[source : source + 46]
            else:  # the name of another entry, or its beginning
                content[target + 46 : target + 56] = content[source + 46 : source + 56].swapcase()
    return bytes(content)


def mutations(count: int, draw: random.Random) -> Iterator[bytes]:
    originals = [
        GOOD, build_zip(FOLDERS), hostile.good(), hostile.saved({"w": torch.arange(100.0), "b": torch.ones(2)}),
    ]  # fmt: skip
    return (mutated(originals[number % len(originals)], draw) for number in range(count))


def compare(path: Path, contents: Iterable[bytes], seed: int) -> None:
    """Check that each of many archives is refused, or has the same entries with the same bytes for torch."""
    read = refused = 0
    for number, content in enumerate(contents):
        path.write_bytes(content)
        whole = number % 4 > 0  # the header alone, as `show` reads it, does not read the checksums of the weights
        here = read_here(path, whole=whole)
        if here is None:
            refused += 1
            continue
        read += 1
        there = read_by_torch(content)
        if there is not None or whole:
            assert there is not None, (seed, number)
            assert list(there.items()) == list(here.items()), (seed, number)
    assert min(read, refused) > (read + refused) // 30


def test_mutations_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    compare(tmp_path / "file.pt", mutations(4_000, random.Random(1)), 1)


def test_odd_archives_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    draw = random.Random(SLICES)
    with tried(ONE_READER, 2_000 * SLICES):
        compare(tmp_path / "file.pt", (odd_archive(draw) for _ in range(2_000 * SLICES)), SLICES)


def odd_field(values: str, length: int, *more: int) -> bytes:
    """An archive with this zip64 field in the directory for the sizes of `version`, which are left to it."""
    extra = b"".join(field(1, bytes(each)) for each in more) + field(1, bytes.fromhex(values), length)
    old = struct.pack("<IIHH", 2, 2, 11, 0)
    at = GOOD.rindex(b"PK\1\2")
    content = GOOD[:at] + GOOD[at:].replace(old, struct.pack("<IIHH", ALL_32, ALL_32, 11, len(extra)))
    content = content.replace(b"top/version" + b"PK\6\6", b"top/version" + extra + b"PK\6\6")
    end = content.index(b"PK\6\6")
    start = content.index(b"PK\1\2")
    whole = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, 4, 4, end - start, start)
    whole += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    return content[:end] + whole + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 4, 4, end - start, start, 0)


SIZES = "0200000000000000" * 2


@pytest.mark.parametrize(
    ("content", "is_read"),
    [(odd_field(SIZES, 16), True), (odd_field(SIZES, 17), False), (odd_field(SIZES, 16, 0), False)],
    ids=["as it should be", "longer than the directory says", "after an empty one"],
)
def test_a_zip64_field_counts_as_it_does_for_torch(tmp_path: Path, content: bytes, is_read: bool) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    assert (read_by_torch(content) is not None) == is_read
    assert (read_here(path, whole=True) is not None) == is_read


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 2 + SLICES))
def test_a_slice_of_mutations_is_read_as_torch_reads_it(tmp_path: Path, seed: int) -> None:
    with tried(ONE_READER, SLICE):
        compare(tmp_path / "file.pt", mutations(SLICE, random.Random(seed)), seed)


def misleading() -> Iterator[bytes]:
    for entries, _, _ in MISLEADING.values():
        yield from (build_zip(entries), build_zip([*reversed(entries[:-1]), VERSION]))


@pytest.mark.parametrize(
    ("name", "value", "contents"),
    [("_check_alike", lambda *_: None, misleading()), ("_NO_FILE", 0, mutations(10_000, random.Random(1)))],
    ids=["names that fold", "attributes of folders"],
)
def test_an_archive_that_misleads_torch_would_be_found(
    tmp_path: Path, name: str, value: Any, contents: Iterable[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, name, value)
    with caught(ONE_READER), pytest.raises(AssertionError, match=r"^\(1, \d+\)"):
        compare(tmp_path / "file.pt", contents, 1)
