"""A checkpoint that is a folder, read whole: every byte of its files, their SHA-256, and their own checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ckptman.formats import archive, distributed, model_folder
from ckptman.formats.checkpoint import CheckpointInfo
from ckptman.formats.refusals import refusal
from ckptman.fs import FileState, files
from ckptman.rules import terms

ARCHIVES = (".bin", ".pt", ".pth")


class HashedFile(NamedTuple):
    """A file of a folder, read."""

    name: str
    """Relative to the folder."""
    state: FileState
    sha256: str


@dataclass(frozen=True, slots=True)
class HashedFolder:
    """A folder, read."""

    sha256: str
    """Of the lines `<SHA-256>  <name>` of its files, by name, as `sha256sum` writes them."""
    state: FileState
    """Its own device and inode; the size of all files, and the times of the newest."""
    files: tuple[HashedFile, ...]


def state_of(folder: Path) -> FileState:
    """The state of a folder, by those of its files.

    Raises:
        RefusedError: as `model_folder.members`.
    """
    return _state(folder, (FileState.of(folder / member.name) for member in model_folder.members(folder)))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, as far as they can be looked at."""
    found = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(at, name)).st_size  # noqa: PTH118  (of very many files)
            except OSError:
                continue
    return found


def hash_folder(folder: Path, *, on_bytes: Callable[[int], None] = files.ignore) -> HashedFolder:
    """Read every byte of a folder's files.

    Raises:
        RefusedError: as `model_folder.members` and `fs.files.hash_file`.
    """
    found = []
    for member in model_folder.members(folder):
        sha256, state = files.hash_file(folder / member.name, on_bytes=on_bytes)
        found.append(HashedFile(member.name, state, sha256))
    return HashedFolder(digest_of((item.name, item.sha256) for item in found), _state(folder, (i.state for i in found)),
                        tuple(found))  # fmt: skip


def hash_any(path: Path, *, on_bytes: Callable[[int], None] = files.ignore) -> str:
    """The SHA-256 of a checkpoint of a tree, a folder or a file."""
    if path.is_dir():
        return hash_folder(path, on_bytes=on_bytes).sha256
    return files.hash_file(path, on_bytes=on_bytes, follow_symlinks=True)[0]


def digest_of(hashes: Iterable[tuple[str, str]]) -> str:
    """The SHA-256 of a folder, by the names of its files and their SHA-256."""
    lines = (f"{sha256}  {name}\n".encode("utf-8", "surrogateescape") for name, sha256 in sorted(hashes))
    return hashlib.sha256(b"".join(lines)).hexdigest()


def verify(folder: Path, info: CheckpointInfo, rules: terms.CheckpointRules) -> None:
    """Check that no file is missing, and what has checksums of its own: archives, and the chunks of tensors.

    Raises:
        RefusedError: `incomplete-folder`, `bad-crc`, or as the files are refused that cannot be read.
    """
    if info.missing:
        names = ", ".join(info.missing[:8]) + (", …" if len(info.missing) > 8 else "")
        raise refusal("incomplete-folder", f"not there, or not whole, of its files: {names}")
    if distributed.is_distributed(member.name for member in info.members):
        distributed.map_folder(folder, rules, info.members, verify=True)
    for file in dict.fromkeys(tensor.file for tensor in info.tensors):
        if file.endswith(ARCHIVES):
            archive.verify_crcs(folder / file)


def _state(folder: Path, states: Iterable[FileState]) -> FileState:
    own, found = FileState.of(folder, follow_symlinks=True), list(states)
    return FileState(
        own.device,
        own.inode,
        sum(state.size for state in found),
        max((state.mtime_ns for state in found), default=own.mtime_ns),
        max((state.ctime_ns for state in found), default=own.ctime_ns),
    )
