"""What migrations of a tree did, or are doing: their journals, which are maps from old to new paths.

A migration is a list of renames, written down before the first of them is done. Each is of one thing, known by its
inode wherever it lies by now, so that what was interrupted at any moment can go on, or back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.fs import files as fs_files
from ckptman.fs import write_atomically
from ckptman.text import RefusedError, json_text
from ckptman.tree import records

BEGUN, DONE, UNDOING = "begun", records.MIGRATION_DONE, "undoing"
"""`Journal.state`: forwards, there, or backwards. Of what was taken back no journal is left."""

_MOST_BYTES = 256 << 20


def _check_path(path: str) -> None:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} is no path in the tree")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One rename."""

    thing: int
    """What is renamed: steps of the same number are of one thing, one after the other."""
    inode: int
    old: str
    """Relative to the root."""
    new: str

    def __post_init__(self) -> None:
        _check_path(self.old)
        _check_path(self.new)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A path of before, and what it is now; both relative to the root."""

    old: str
    new: str

    def __post_init__(self) -> None:
        _check_path(self.old)
        _check_path(self.new)


@dataclass(frozen=True, kw_only=True)
class MigratedRun:
    """A run that has another folder, other file names, or another record."""

    old: str
    """Its folder, relative to the root."""
    new: str
    files: tuple[Moved, ...]
    """Its checkpoints."""
    record_sha256: str
    """Of its new run.json."""
    kept: str | None
    """Where its old run.json is kept; None where that is the new one."""

    def __post_init__(self) -> None:
        for path in (self.old, self.new, self.kept or ""):
            _check_path(path)


@dataclass(frozen=True, kw_only=True)
class Journal:
    """What `journal.json` of one migration holds."""

    schema_version: int = records.SCHEMA_VERSION
    state: str
    date: str
    """When it was begun, in UTC."""
    runs: tuple[MigratedRun, ...]
    lists: tuple[Moved, ...] = ()
    """Lists of overwritten or refused runs that were written anew: where the old one is kept, and the new one's place;
    `old` is empty where there was none, `new` where there is none."""
    steps: tuple[Step, ...]
    more: Mapping[str, Any] = field(default_factory=dict)


def journals(root: Path) -> list[tuple[PurePosixPath, Journal]]:
    """The migrations of a tree, in their order: (folder relative to the root, journal).

    Raises:
        RefusedError: (`bad-journal`) if one cannot be read.
    """
    found = []
    for folder in records.migrations(root):
        try:
            document = json_text.load_json(fs_files.read_bytes(root / folder / records.JOURNAL, _MOST_BYTES))
            found.append((folder, json_text.record_of(Journal, document)))
        except (OSError, ValueError, RecursionError) as error:
            raise RefusedError(
                f"{folder / records.JOURNAL} cannot be used: {error}",
                code="bad-journal",
                fix="Bring it back from a backup: it tells where the files of the tree were.",
            ) from error
    return found


def write_journal(root: Path, folder: PurePosixPath, journal: Journal) -> None:
    """Write a journal atomically."""
    data = json_text.dump_json(json_text.document_of(journal))
    write_atomically(root / folder / records.JOURNAL, data, replace=True, root=root)
