"""Reading the zip archives of checkpoints strictly: as torch and `zipfile` read them, or not at all."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import archive
from ckptman.formats.archive import PICKLE, open_archive, show_path, verify_crcs
from ckptman.formats.refusals import REFUSALS
from ckptman.text.errors import RefusedError
from tests.helpers import hostile
from tests.helpers.hostile import End, Entry, build_zip
from tests.helpers.odd_archives import contents
from tests.helpers.timed import in_time

PICKLE_ENTRY = Entry("top/data.pkl", hostile.weights_pickle())
STORAGE_ENTRY = Entry("top/data/0", bytes(8))
GOOD = build_zip([PICKLE_ENTRY, STORAGE_ENTRY])


def as_zipfile_reads_it(content: bytes) -> dict[str, bytes]:
    """The same by the standard library, for a file whose entries are in one folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def refused(path: Path) -> RefusedError | None:
    """The refusal of a file by everything that reads archives, if there is one."""
    try:
        contents(path)
    except RefusedError as error:
        return error
    return None


def code_of(path: Path) -> str | None:
    """Its code, after a check that it says everything."""
    error = refused(path)
    if error is None:
        return None
    assert error.fix == REFUSALS[error.code].fix
    assert error.message.startswith(f"{show_path(path)}: ")
    assert error.message.count(show_path(path)) == 1
    assert len(error.message) < 400 + len(str(path))
    return error.code


# --- what torch writes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.pt", "a b.c.pt", "é\N{FIRE}.pt", "[red]x.pt", "line\nbreak.pt", "x" * 200 + ".pt"]
)
def test_files_of_torch(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save(hostile.good_dict(), path)
    assert contents(path) == as_zipfile_reads_it(path.read_bytes())


VALUES = {
    "small": {"a": torch.zeros(1)},
    "no-tensors": {"a": 1},
    "empty-tensor": {"a": torch.zeros(0), "b": torch.zeros(3)},
    "many": {str(i): torch.full((i,), 1.0) for i in range(300)},
    "large": {"a": torch.arange(1_000_000.0)},
}


@pytest.mark.parametrize("value", VALUES)
def test_buffers_of_torch(write: Callable[[bytes], Path], value: str) -> None:
    content = hostile.saved(VALUES[value])
    found = contents(write(content))
    assert found == as_zipfile_reads_it(content)
    assert len([name for name in found if name.startswith("data/")]) == str(VALUES[value]).count("tensor(")


@pytest.mark.parametrize("comment", [b"hello", bytes(4000), bytes(0xFFFF), b"PK\5\5"])
def test_a_comment_of_the_archive_changes_nothing(write: Callable[[bytes], Path], comment: bytes) -> None:
    plain = hostile.saved(hostile.good_dict())
    content = plain[:-2] + struct.pack("<H", len(comment)) + comment
    assert contents(write(content)) == as_zipfile_reads_it(content) == contents(write(plain))


@pytest.mark.parametrize("after", [b"\n", b"a signature", bytes(4096), bytes(0xFFFF), b"PK\5\5"])
@pytest.mark.parametrize("comment", [0, 7, 5000])
def test_what_nothing_reads_after_the_end_changes_nothing(
    write: Callable[[bytes], Path], after: bytes, comment: int
) -> None:
    """Nor does a comment that is cut off."""
    plain = hostile.saved({"model": torch.ones(1 << 15)})
    content = plain[:-2] + struct.pack("<H", comment) + after
    assert torch.load(write(content), weights_only=True)["model"].sum() == 1 << 15
    assert contents(write(content)) == contents(write(plain))
    for size in (len(plain) - 1, len(plain) - 30):  # the control: it is cut
        assert code_of(write(content[:size])) == "cut"


def test_a_comment_that_holds_another_end_is_refused(write: Callable[[bytes], Path]) -> None:
    comment = b"PK\5\6" + bytes(18)
    content = hostile.saved(hostile.good_dict())[:-2] + struct.pack("<H", len(comment)) + comment
    assert code_of(write(content)) == "broken-archive"


@pytest.fixture
def without_checksums() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.usefixtures("without_checksums")
def test_files_without_checksums_are_read(write: Callable[[bytes], Path]) -> None:
    path = write(hostile.good())
    with open_archive(path) as archive:
        assert archive.read(PICKLE, 1 << 20)
        assert {entry.crc for entry in archive.entries.values()} == {0}
    assert code_of(path) is None


# --- what is refused, and the same unbroken ---------------------------------------------------------------------------

UNBROKEN = {
    "plain": GOOD,
    "one-more-entry": build_zip([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/evil", b"content")]),
    "entry-in-a-folder": build_zip([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/a/b..c/.d", b"content")]),
    "entry-in-unicode": build_zip([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/é", b"content")]),
    "storage-first": build_zip([STORAGE_ENTRY, PICKLE_ENTRY]),
    "two-storages": build_zip([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/data/1", bytes(8))]),
    "empty-entry": build_zip([PICKLE_ENTRY, STORAGE_ENTRY, Entry("top/x", b"")]),
    "sizes-in-its-own-header": build_zip([Entry("top/data.pkl", PICKLE_ENTRY.data, flags=0x0800), STORAGE_ENTRY]),
    "no-descriptor": build_zip([Entry("top/data.pkl", PICKLE_ENTRY.data, flags=0, descriptor=False), STORAGE_ENTRY]),
    "aligned": build_zip([PICKLE_ENTRY, Entry("top/data/0", bytes(8), padding=48)]),
    "without-zip64": build_zip([PICKLE_ENTRY, STORAGE_ENTRY], End(zip64=False)),
    "short-record-refers-to-zip64": build_zip(
        [PICKLE_ENTRY, STORAGE_ENTRY], End(count=0xFFFF, size=0xFFFFFFFF, start=0xFFFFFFFF)
    ),
    "little-endian": build_zip([PICKLE_ENTRY, Entry("top/byteorder", b"little"), STORAGE_ENTRY]),
    "pickle-of-the-largest-size": hostile.archive(b"a" * (1 << 20)),
}


@pytest.mark.parametrize("name", UNBROKEN)
def test_the_same_archives_unbroken_are_read(write: Callable[[bytes], Path], name: str) -> None:
    assert contents(write(UNBROKEN[name])) == as_zipfile_reads_it(UNBROKEN[name])


# The others are archives as they should be, whose pickles do not fit them: the tests of `checkpoint` have them.
HOSTILE = {
    name: case
    for name, case in {**hostile.hostile_archives(), **hostile.other_files()}.items()
    if case[1] not in ("bad-tensor",) and name != "pickle-of-2-MB"
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(write: Callable[[bytes], Path], name: str) -> None:
    content, code = HOSTILE[name]
    assert code_of(write(content)) == code


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("two-storages", "it has two entries named 'data/0'"),
        ("name-above", r"its entry '\.\./evil' does not lie in the folder"),
        ("name-above-inside", r"its entry 'top/\.\./\.\./evil' has a name that leaves its folder"),
        ("deflated-pickle", r"its entry 'data\.pkl' is compressed"),
        ("encrypted", r"its entry 'data\.pkl' is encrypted"),
        ("entry-over-another", "its entry 'data/1' does not follow the one before it"),
        ("crc-of-a-storage", "the content of its entry 'data/0' does not fit the checksum"),
        ("bytes-between", r"bytes after its entry 'data\.pkl' that belong to no entry"),
        ("zeros-for-a-descriptor", r"only zeros after its entry 'data\.pkl'"),
        ("big-endian", "not in little-endian byte order, but b'big'"),
        ("no-pickle", r"has no data\.pkl"),
        ("torch-script", "a TorchScript program"),
        ("cut-in-the-middle", "is cut short"),
        ("only-zeros", "begins with zero bytes"),
        ("text", "but a text file"),
        ("git-lfs-pointer", "a Git LFS pointer"),
        ("plain-pickle", r"a plain pickle, which torch\.save did not write"),
        ("safetensors", "a safetensors file"),
        ("random-bytes", r"something that torch\.save did not write"),
    ],
)
def test_the_reason_is_told(write: Callable[[bytes], Path], name: str, told: str) -> None:
    path = write(HOSTILE[name][0])
    with pytest.raises(RefusedError, match=told):
        contents(path)


def test_a_checksum_of_the_pickle_is_checked_whenever_it_is_read(write: Callable[[bytes], Path]) -> None:
    for content, readable in ((GOOD, True), (HOSTILE["crc-of-the-pickle"][0], False)):
        with open_archive(write(content)) as archive:
            if readable:
                assert archive.read(PICKLE, 1 << 20) == PICKLE_ENTRY.data
            else:
                with pytest.raises(RefusedError, match="checksum"):
                    archive.read(PICKLE, 1 << 20)


def test_an_entry_is_read_up_to_a_limit(write: Callable[[bytes], Path]) -> None:
    with open_archive(write(GOOD)) as archive:
        assert archive.read("data/0", 8) == bytes(8)
        with pytest.raises(RefusedError, match=r"its data/0 has 8 bytes, more than 7"):
            archive.read("data/0", 7)
        with pytest.raises(RefusedError, match="has no data/1"):
            archive.read("data/1", 7)


@pytest.mark.parametrize("name", ["top/" + "x" * 60_000, "../" + "x" * 60_000, "top/\x1b[2J" + "\n" * 60_000 + "/.."])
def test_messages_are_short_and_printable(write: Callable[[bytes], Path], name: str) -> None:
    two = [Entry(name, b"x")] * 2
    error = refused(write(build_zip([PICKLE_ENTRY, STORAGE_ENTRY, *two])))
    assert error is not None
    assert error.code == "unsafe-archive"
    assert error.message.isprintable()


# --- cut and changed files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [GOOD, hostile.good()], ids=["small", "of-torch"])
def test_cut_at_every_length(write: Callable[[bytes], Path], content: bytes) -> None:
    path = write(content)
    assert code_of(path) is None
    for length in range(len(content) - 1, -1, -1):
        os.truncate(path, length)
        assert code_of(path) == ("cut" if length else "empty"), length


@pytest.mark.parametrize("content", [GOOD, hostile.good()], ids=["small", "of-torch"])
def test_filled_with_zeros_from_every_length(write: Callable[[bytes], Path], content: bytes) -> None:
    """What a crash can leave: the length was written, the rest of the content was not."""
    path = write(content)
    for length in range(len(content) - 22, 3, -13):
        path.write_bytes(content[:length] + bytes(len(content) - length))
        assert code_of(path) == "cut", length


@pytest.fixture
def any_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `zipfile` ignore the version that an archive says it needs, as torch does."""
    monkeypatch.setattr(zipfile, "MAX_EXTRACT_VERSION", 0xFFFF)


def check_against_zipfile(path: Path, content: bytes) -> str | None:
    """Check that a changed file is refused, or read as `zipfile` reads it."""
    path.write_bytes(content)
    code = in_time(lambda: code_of(path))
    if code is None:
        assert contents(path) == as_zipfile_reads_it(content)
    return code


@pytest.mark.usefixtures("any_version")
def test_every_byte_changed(write: Callable[[bytes], Path]) -> None:
    path = write(GOOD)
    original = contents(path)
    accepted = 0
    for at in range(len(GOOD)):
        for change in (0x01, 0xFF):
            content = GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :]
            if check_against_zipfile(path, content) is None:
                accepted += 1
                assert [*contents(path).values()] == [*original.values()]  # only dates and the like may differ
    assert 0 < accepted < len(GOOD)


def check_mutations(path: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    originals = [GOOD, hostile.good(), UNBROKEN["aligned"], UNBROKEN["without-zip64"]]
    codes = set()
    for number in range(count):
        content = bytearray(originals[number % len(originals)])
        for _ in range(draw.choice((1, 1, 2, 4))):
            at, length = draw.randrange(len(content)), draw.choice((1, 2, 4, 8))
            kind = draw.randrange(5)
            if kind == 0:
                content[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del content[at : at + length]
            elif kind == 2:
                content[at:at] = draw.randbytes(length)
            elif kind == 3:
                content[at : at + length] = draw.choice((b"\0", b"\xff")) * length
            else:
                source = draw.randrange(len(content))
                content[at : at + 46] = content[source : source + 46]
        codes.add(check_against_zipfile(path, bytes(content)))
    assert codes >= {None, "cut", "bad-crc", "broken-archive", "unsafe-archive"}


@pytest.mark.usefixtures("any_version")
def test_mutations(write: Callable[[bytes], Path]) -> None:
    check_mutations(write(b""), 1_000, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("any_version")
def test_20_000_mutations(write: Callable[[bytes], Path]) -> None:
    check_mutations(write(b""), 20_000, 2)


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read piece by piece, as files are of which the end alone is read when they are opened."""
    monkeypatch.setattr(archive, "_SMALL", 0)
    monkeypatch.setattr(archive, "_TAIL", 100)


@pytest.mark.usefixtures("as_if_large")
def test_a_file_that_gets_shorter_while_it_is_read(write: Callable[[bytes], Path]) -> None:
    path = write(GOOD)
    for length in (len(GOOD) // 2, 40, 10, 0):
        path.write_bytes(GOOD)
        with open_archive(path) as archive:
            assert archive.read(PICKLE, 1000) == PICKLE_ENTRY.data  # the control
            archive.verify_crcs()
            os.truncate(path, length)
            for read in (archive.verify_crcs, lambda: archive.read("data/0", 1000)):
                with pytest.raises(RefusedError, match="became shorter while it was read") as error:
                    read()
                assert error.value.code == "cut"


@pytest.mark.usefixtures("as_if_large")
def test_a_file_that_changes_while_it_is_read(write: Callable[[bytes], Path]) -> None:
    path = write(GOOD)
    with open_archive(path) as archive:
        path.write_bytes(GOOD.replace(b"iters_done", b"iters_gone"))
        with pytest.raises(RefusedError) as error:
            archive.read(PICKLE, 1 << 20)
    assert error.value.code == "bad-crc"


def test_a_small_file_is_read_at_once(write: Callable[[bytes], Path]) -> None:
    path = write(GOOD)
    with open_archive(path) as archive:
        path.write_bytes(GOOD.replace(b"iters_done", b"iters_gone"))
        assert archive.read(PICKLE, 1 << 20) == PICKLE_ENTRY.data
    with open_archive(path) as archive, pytest.raises(RefusedError):  # the control
        archive.read(PICKLE, 1 << 20)


def test_a_file_that_is_replaced_while_it_is_read(write: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = write(GOOD)
    with open_archive(path) as archive:
        (tmp_path / "other").write_bytes(b"another file")
        (tmp_path / "other").replace(path)
        assert archive.read(PICKLE, 1 << 20) == PICKLE_ENTRY.data
        archive.verify_crcs()


# --- what is no file --------------------------------------------------------------------------------------------------


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may not be long
        server.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (Path.mkdir, "not-a-file"),
        (os.mkfifo, "not-a-file"),
        (make_socket, "not-a-file"),
        (lambda path: path.symlink_to("/dev/zero"), "not-a-file"),
        (lambda path: path.symlink_to("/dev/tty"), "not-a-file"),
        (make_loop, "unreadable"),
        (lambda path: path.symlink_to("nowhere"), "unreadable"),
        (lambda path: None, "unreadable"),
        (lambda path: path.write_bytes(GOOD), None),
    ],
    ids=["folder", "pipe", "socket", "device", "terminal", "loop", "dangling", "missing", "control"],
)
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], Any], code: str | None) -> None:
    path = tmp_path / "file.pt"
    make(path)
    assert code_of(path) == code
    linked = tmp_path / "link.pt"
    linked.symlink_to(path)
    assert code_of(linked) == code


def test_a_name_with_a_null_character(tmp_path: Path) -> None:
    assert code_of(tmp_path / "a\0b.pt") == "unreadable"


def test_the_writer_of_a_pipe_is_left_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    opened = threading.Event()

    def write_to_pipe() -> None:
        with pipe.open("wb"):
            opened.set()

    writer = threading.Thread(target=write_to_pipe)
    writer.start()
    time.sleep(0.1)  # so that it waits for a reader
    assert code_of(pipe) == "not-a-file"
    assert not opened.wait(0.1)
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # the control: to open it lets the writer go on
    assert opened.wait(10)
    writer.join()
    os.close(descriptor)


def test_permission_denied(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)

    def refuse(*args: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RefusedError, match="cannot be opened: Permission denied") as error:
        verify_crcs(path)
    assert error.value.code == "unreadable"


def test_a_disk_that_fails(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    for function in ("pread", "preadv"):
        verify_crcs(path)
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(RefusedError, match="cannot be read: Input/output error") as error:
                verify_crcs(path)
        assert error.value.code == "unreadable"


def test_descriptors(write: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = write(GOOD)
    before = set(Path("/dev/fd").iterdir())
    assert code_of(path) is None
    path.write_bytes(b"text")
    assert code_of(path) == "not-a-checkpoint"
    assert set(Path("/dev/fd").iterdir()) == before  # closed in either case

    path.write_bytes(GOOD)
    with path.open("rb") as file:
        file.seek(7)
        verify_crcs(tmp_path / "another name", fd=file.fileno())
        assert file.tell() == 7
        path.write_bytes(b"text")
        with pytest.raises(RefusedError, match="another name: not a checkpoint"):
            verify_crcs(tmp_path / "another name", fd=file.fileno())
    reading, writing = os.pipe()
    with pytest.raises(RefusedError, match="not a regular file"):
        verify_crcs(path, fd=reading)
    os.close(reading)
    os.close(writing)


def test_paths_in_messages() -> None:
    assert show_path("/a/é b.pt") == "/a/é b.pt"
    assert show_path("a\nb") == "'a\\nb'"
    assert show_path("a\x1b[2J") == "'a\\x1b[2J'"
    assert show_path("\udcff") == "'\\udcff'"


# --- large archives ---------------------------------------------------------------------------------------------------


def large_file(path: Path, *, zip64_extra: bool = True) -> None:
    """An archive of 5 GB (a hole in the file, which takes no room) with its pickle behind them."""
    size, data = 5 << 30, PICKLE_ENTRY.data
    entries = [(b"top/data/0", size, 0, 0), (b"top/data.pkl", len(data), zlib.crc32(data), 30 + 10 + size)]
    directory = b""
    for name, length, crc, offset in entries:
        large = [value for value in (length, length, offset) if value >= 0xFFFFFFFF]
        extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if zip64_extra else b""
        short = min(length, 0xFFFFFFFF)
        directory += struct.pack(
            "<4sHHHHIIIIHHHHHII", b"PK\1\2", 0, 0, 8, 0, 0, crc, short, short, len(name), len(extra), 0, 0, 0, 0,
            min(offset, 0xFFFFFFFF),
        )  # fmt: skip
        directory += name + extra
    with path.open("wb") as file:
        for name, _, _, offset in entries:
            file.seek(offset)
            file.write(struct.pack("<4sHHHIIIIHH", b"PK\3\4", 0, 8, 0, 0, 0, 0, 0, len(name), 0) + name)
        file.write(data)
        start = file.tell()
        file.write(directory)
        end = start + len(directory)
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, 2, 2, len(directory), start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, len(directory), 0xFFFFFFFF, 0))


def test_more_than_4_gb(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    large_file(path)
    with zipfile.ZipFile(path) as reference:
        sizes = {info.filename: info.file_size for info in reference.infolist()}
        assert reference.read("top/data.pkl") == PICKLE_ENTRY.data
    with open_archive(path) as archive:
        assert {f"top/{name}": entry.size for name, entry in archive.entries.items()} == sizes
        assert archive.read(PICKLE, 1 << 20) == PICKLE_ENTRY.data
    large_file(path, zip64_extra=False)
    with pytest.raises(RefusedError, match="lacks the size of a large entry"), open_archive(path):
        pass


def test_a_file_that_is_all_hole(tmp_path: Path) -> None:
    path = tmp_path / "hole.pt"
    path.touch()
    os.truncate(path, 1 << 40)
    assert code_of(path) == "cut"


def test_60_000_entries_take_little_time(write: Callable[[bytes], Path]) -> None:
    path = write(build_zip([PICKLE_ENTRY, *(Entry(f"top/data/{i}", b"") for i in range(60_000))]))
    start = time.thread_time()
    with open_archive(path) as archive:
        assert len(archive.entries) == 60_001
    assert time.thread_time() - start < 3
    path = write(build_zip([PICKLE_ENTRY, *(Entry(f"top/data/{i}", b"") for i in range(70_000))]))
    with pytest.raises(RefusedError, match=r"has 70,001 entries"), open_archive(path):
        pass


@pytest.fixture
def no_directory_is_known() -> Iterator[None]:
    archive._KNOWN.clear()
    yield
    archive._KNOWN.clear()


@pytest.mark.usefixtures("no_directory_is_known")
def test_a_directory_that_differs_in_checksums_alone_is_known_by_one_before(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_zip([PICKLE_ENTRY, Entry("top/data/0", b"\1" * 8)])
    expected = contents(write(other))
    archive._KNOWN.clear()
    contents(write(GOOD))
    monkeypatch.setattr(archive, "_read_directory", None)  # which is not called again
    assert contents(write(other)) == expected == as_zipfile_reads_it(other)


def test_whatever_else_is_changed_in_a_directory_is_read_anew(write: Callable[[bytes], Path]) -> None:
    begin = GOOD.index(b"PK\1\2")
    outcomes: list[list[str]] = [[], []]
    for known, outcome in enumerate(outcomes):
        for at in range(begin, len(GOOD)):
            archive._KNOWN.clear()
            if known:
                refused(write(GOOD))
            outcome.append(str(refused(write(GOOD[:at] + bytes([GOOD[at] ^ 1]) + GOOD[at + 1 :]))))
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0])) > 5
