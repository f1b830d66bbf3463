"""A checkpoint read in full, each byte once: header, checksums and SHA-256 in one pass; or by its header alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptman.formats import containers, folder_bytes
from ckptman.formats.archive import Checksums, open_archive, show_path
from ckptman.formats.bounded import refusals_name
from ckptman.formats.checkpoint import CheckpointInfo, outline, read_archive
from ckptman.formats.checkpoint import Held as Held
from ckptman.formats.refusals import refusal
from ckptman.fs import FileState, files
from ckptman.text import RefusedError

if TYPE_CHECKING:
    from ckptman.rules import terms


@dataclass(frozen=True)
class WholeCheckpoint:
    """A checkpoint of which every byte was read."""

    info: CheckpointInfo
    sha256: str
    state: FileState
    """What it was from the first byte to the last."""
    damage: RefusedError | None
    """Why its bytes are not those that were written, if they are not: `bad-crc`, or bytes that belong to nothing.

    Of a folder, also that files of it are missing."""
    parts: tuple[folder_bytes.HashedFile, ...] = ()
    """The files of a folder."""


def read_whole(
    path: Path,
    rules: terms.CheckpointRules,
    *,
    follow_symlinks: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    sound: str | None = None,
) -> WholeCheckpoint:
    """Read a checkpoint: what it says of itself, whether it is whole, and its SHA-256.

    Args:
        path: The file, or the folder.
        rules: Those of its form.
        follow_symlinks: Whether it may be a link.
        on_bytes: Called with the number of bytes that were read.
        sound: The SHA-256 of bytes that were found whole before. Where the bytes have it still, their own checksums
            say nothing more, and are not worked out; where not, the file is read once more, for these.

    Raises:
        RefusedError: as `read_checkpoint`, before its tensors are read, and as `fs.files.hash_file`.
    """
    if path.is_dir():
        return _read_folder(path, rules, on_bytes or files.ignore, sound)
    with files.opened(path, follow_symlinks=follow_symlinks) as source:
        checksums = damage = None
        chunks = source.chunks()
        if containers.is_safetensors(path, fd=source.fd):  # which has no checksums
            info = _of_safetensors(path, rules)
        else:
            with open_archive(path, fd=source.fd) as archive:
                info = read_archive(archive, rules)
                checksums = Checksums(archive)
                if archive.is_held:
                    chunks = iter((memoryview(archive.tail),))
        take = checksums.take if checksums is not None and sound is None else None
        sha256 = files.digest_of(chunks, on_bytes or files.ignore, take)
        if sha256 == sound:
            checksums = None
        elif checksums is not None and take is None:
            files.digest_of(source.chunks(), files.ignore, checksums.take)
        source.check_unchanged()
    if checksums is not None and (problem := checksums.problem()) is not None:
        damage = RefusedError(f"{show_path(path)}: {problem.message}", code=problem.code, fix=problem.fix)
    return WholeCheckpoint(info, sha256, source.state, damage)


def _of_safetensors(path: Path, rules: terms.CheckpointRules) -> CheckpointInfo:
    info = containers.read(path, rules)
    if not info.tensors:
        with refusals_name(path):
            raise refusal("not-a-checkpoint", "a safetensors file without a tensor")
    return info


def _read_folder(
    folder: Path, rules: terms.CheckpointRules, on_bytes: Callable[[int], None], sound: str | None
) -> WholeCheckpoint:
    info, damage = containers.read(folder, rules), None
    found = folder_bytes.hash_folder(folder, on_bytes=on_bytes)
    try:
        if found.sha256 != sound:
            folder_bytes.verify(folder, info, rules)
    except RefusedError as error:
        message = error.message.removeprefix(f"{show_path(folder)}: ")
        damage = RefusedError(f"{show_path(folder)}: {message}", code=error.code, fix=error.fix)
    return WholeCheckpoint(info, found.sha256, found.state, damage, found.files)


@dataclass(frozen=True)
class Header:
    """A checkpoint of which the header was read."""

    info: CheckpointInfo
    content: str
    """The same for archives of the same bytes, by the checksums in them; what has none is like itself alone."""
    state: FileState


def read_header(path: Path, rules: terms.CheckpointRules, *, follow_symlinks: bool = False) -> Header:
    """Read a checkpoint's header.

    Raises:
        RefusedError: as `read_whole`.
    """
    content = None
    if path.is_dir() or containers.is_safetensors(path):
        info = containers.read(path, rules) if path.is_dir() else _of_safetensors(path, rules)
        state = folder_bytes.state_of(path) if path.is_dir() else FileState.of(path, follow_symlinks=follow_symlinks)
    else:
        with files.opened(path, follow_symlinks=follow_symlinks) as source, open_archive(path, fd=source.fd) as archive:
            info, content, state = read_archive(archive, rules), archive.checksums(), source.state
            source.check_unchanged()
    return Header(info, content or f"file:{state.device}:{state.inode}:{state.size}:{state.mtime_ns}", state)


def outline_of(path: Path, rules: terms.CheckpointRules) -> dict[str, Held]:
    """What the keys of the dictionary in a file are of; empty for a folder, and for what is no torch archive.

    Raises:
        RefusedError: as `read_whole`.
    """
    if path.is_dir() or containers.is_safetensors(path):
        return {}
    with files.opened(path) as source, open_archive(path, fd=source.fd) as archive:
        return outline(archive, rules)
