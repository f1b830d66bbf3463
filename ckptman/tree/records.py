"""The organized tree on disk: its run folders, and `run.json`, the truth about each run."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.fs import FileState, write_atomically
from ckptman.rules import Convention
from ckptman.text import RefusedError, UsageError, json_text

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
OVERWRITTEN_FILE = "overwritten.json"
"""Beside a task's run folders: the runs of the task whose checkpoints no longer exist."""

_MOST_BYTES = 16 << 20  # far above any run.json; a larger one is not ours


class NewerRecordError(ValueError):
    """A record of a schema version above `SCHEMA_VERSION`."""


@dataclass(frozen=True)
class SourceFile:
    """Where a file came from, and its state there, by which an unchanged source is known without reading it."""

    path: str
    """Relative to `root`, with `/` between its parts."""
    size: int
    mtime_ns: int
    inode: int
    root: str | None = None
    """The source root, absolute; None for the one that the run names."""

    def is_in_state(self, state: FileState) -> bool:
        """Whether the file is as it was, by all that can be told without reading it."""
        return (self.size, self.mtime_ns, self.inode) == (state.size, state.mtime_ns, state.inode)


@dataclass(frozen=True)
class CheckpointEntry:
    """One checkpoint file of a run."""

    file: str
    kind: str
    """The name's prefix: `Checkpoint` or `Final`."""
    step: int
    size: int
    sha256: str
    source: SourceFile
    duplicates: tuple[SourceFile, ...] = ()
    """Other source files with the same bytes."""


@dataclass(frozen=True)
class RunSource:
    """Where a run came from."""

    root: str
    """The folder that was ingested, absolute."""
    group: str | None
    """The group and the task id that the source folders said."""
    task: int | None
    wandb: tuple[str, ...] = ()
    """The run's W&B folders, relative to `root`."""


@dataclass(frozen=True)
class AttributionNote:
    """How it is known which W&B run wrote the checkpoints."""

    code: str
    evidence: str
    candidates: tuple[str, ...] = ()
    """Run ids, where more than one could be meant."""


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` holds."""

    run_id: str | None
    group: str
    layernorm: bool
    regime: str
    task: int
    seed: int | None
    config: Mapping[str, Any]
    config_source: str
    """`checkpoint`, `W&B files`, `.wandb log` or `name`."""
    metrics: Mapping[str, Any]
    source: RunSource
    attribution: AttributionNote
    checkpoints: tuple[CheckpointEntry, ...]
    evaluations: tuple[Mapping[str, Any], ...] = ()
    wandb: tuple[str, ...] = ()
    """W&B folders that are kept beside the checkpoints, relative to the run folder."""

    def to_json(self) -> dict[str, Any]:
        """The document, without values that JSON cannot hold (NaN becomes the text "NaN")."""
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "group": self.group,
            "family": {"layernorm": self.layernorm, "regime": self.regime},
            "task": self.task,
            "seed": self.seed,
            "config_source": self.config_source,
            "config": dict(self.config),
            "metrics": dict(self.metrics),
            "evaluations": [dict(evaluation) for evaluation in self.evaluations],
            "source": {
                "root": self.source.root,
                "group": self.source.group,
                "task": self.source.task,
                "wandb": list(self.source.wandb),
            },
            "attribution": {
                "code": self.attribution.code,
                "evidence": self.attribution.evidence,
                "candidates": list(self.attribution.candidates),
            },
            "checkpoints": [
                {
                    "file": entry.file,
                    "kind": entry.kind,
                    "step": entry.step,
                    "size": entry.size,
                    "sha256": entry.sha256,
                    "source": _source_json(entry.source),
                    "duplicates": [_source_json(source) for source in entry.duplicates],
                }
                for entry in self.checkpoints
            ],
            "wandb": list(self.wandb),
        }
        return {key: json_text.jsonable(value) for key, value in document.items()}

    @classmethod
    def from_json(cls, document: Any) -> RunRecord:
        """Build a record from a parsed `run.json`.

        Raises:
            NewerRecordError: if a newer ckptman wrote it.
            ValueError: telling which part is missing or of the wrong type.
        """
        top = _Part(document, RUN_FILE)
        _check_version(top)
        family, source = _Part(top.get("family", dict), "family"), _Part(top.get("source", dict), "source")
        attribution = _Part(top.get("attribution", dict), "attribution")
        return cls(
            run_id=top.maybe("run_id", str),
            group=top.get("group", str),
            layernorm=family.get("layernorm", bool),
            regime=family.get("regime", str),
            task=top.get("task", int),
            seed=top.maybe("seed", int),
            config=top.get("config", dict),
            config_source=top.get("config_source", str),
            metrics=top.get("metrics", dict),
            source=RunSource(
                root=source.get("root", str),
                group=source.maybe("group", str),
                task=source.maybe("task", int),
                wandb=source.texts("wandb"),
            ),
            attribution=AttributionNote(
                code=attribution.get("code", str),
                evidence=attribution.get("evidence", str),
                candidates=attribution.texts("candidates"),
            ),
            checkpoints=tuple(_entry(item, index) for index, item in enumerate(top.get("checkpoints", list))),
            evaluations=tuple(top.maybe("evaluations", list) or ()),
            wandb=top.texts("wandb"),
        )

    @property
    def source_paths(self) -> Iterator[tuple[str, SourceFile, CheckpointEntry]]:
        """Every source file of the run: (absolute path, its state when it was placed, the checkpoint it is)."""
        for entry in self.checkpoints:
            for source in (entry.source, *entry.duplicates):
                yield os.path.join(source.root or self.source.root, source.path), source, entry  # noqa: PTH118


@dataclass(frozen=True)
class OverwrittenRun:
    """A run whose checkpoints no longer exist, since another run wrote files of the same names."""

    run_id: str
    group: str
    task: int
    seed: int | None
    source_task: int | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: tuple[str, ...]
    """Names of the files that were lost."""
    overwritten_by: tuple[str, ...]
    """Ids of the runs whose files have those names now, as far as they are known."""
    source_root: str
    wandb: tuple[str, ...]
    """Its W&B folders, relative to `source_root`."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        return {
            "run_id": self.run_id, "group": self.group, "task": self.task, "seed": self.seed,
            "source_task": self.source_task, "config": json_text.jsonable(self.config),
            "metrics": json_text.jsonable(self.metrics),
            "files": list(self.files), "overwritten_by": list(self.overwritten_by),
            "source": {"root": self.source_root, "wandb": list(self.wandb)},
        }  # fmt: skip

    @classmethod
    def from_json(cls, item: Any) -> OverwrittenRun:
        """Build a record from parsed JSON; ValueError where a part is missing or of the wrong type."""
        part = _Part(item, "overwritten run")
        source = _Part(part.get("source", dict), "source")
        return cls(
            run_id=part.get("run_id", str),
            group=part.get("group", str),
            task=part.get("task", int),
            seed=part.maybe("seed", int),
            source_task=part.maybe("source_task", int),
            config=part.get("config", dict),
            metrics=part.get("metrics", dict),
            files=part.texts("files"),
            overwritten_by=part.texts("overwritten_by"),
            source_root=source.get("root", str),
            wandb=source.texts("wandb"),
        )


@dataclass(frozen=True)
class RunFolder:
    """A folder of the tree that holds a run, or should."""

    path: PurePosixPath
    """Relative to the root."""
    record: RunRecord | None
    """None where `run.json` is missing or cannot be read."""
    problem: str | None
    """Why there is no record, where `run.json` exists."""
    files: Mapping[str, int]
    """The regular files directly in the folder and their sizes in bytes."""
    is_newer: bool = False
    """Whether `run.json` cannot be used since a newer ckptman wrote it."""


@dataclass(frozen=True)
class Entry:
    """Anything found in the tree: its path relative to the root, and its type."""

    path: PurePosixPath
    kind: str
    """`file`, `folder`, `symlink` or `other`."""
    size: int = 0


@dataclass(frozen=True)
class TreeScan:
    """Everything in a tree, in path order."""

    root: Path
    runs: tuple[RunFolder, ...]
    overwritten: Mapping[PurePosixPath, tuple[OverwrittenRun, ...]]
    """By task folder; runs that are in the tree after all are left out."""
    entries: tuple[Entry, ...]
    unreadable: tuple[tuple[PurePosixPath, str], ...] = field(default=())
    """Folders and files that could not be read, and why."""

    @property
    def records(self) -> Iterator[tuple[PurePosixPath, RunRecord]]:
        """The finished runs: (run folder, record)."""
        return ((run.path, run.record) for run in self.runs if run.record is not None)


def scan_tree(root: Path, convention: Convention, *, missing_ok: bool = False) -> TreeScan:
    """Read a tree: every entry, every `run.json`, no checkpoint.

    Symbolic links are listed, never followed, except that a checkpoint placed as a link counts with its target's size.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    if not root.is_dir():
        if missing_ok and not root.exists():
            return TreeScan(root=root, runs=(), overwritten={}, entries=())
        what = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(
            f"there is no tree at {root}: it {what}",
            code="no-tree",
            fix="Name the tree with --root, or make one with: ckptman ingest SRC --root DIR",
        )
    entries: list[Entry] = []
    unreadable: list[tuple[PurePosixPath, str]] = []
    runs: list[RunFolder] = []
    overwritten: dict[PurePosixPath, tuple[OverwrittenRun, ...]] = {}
    pending = [PurePosixPath()]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder) as listing:
                found = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            unreadable.append((folder, error.strerror or str(error)))
            continue
        files: dict[str, int] = {}
        for item in found:
            path = folder / item.name
            try:
                kind, size = _kind_of(item)
            except OSError as error:  # in a folder that may be listed, but not entered
                unreadable.append((path, error.strerror or str(error)))
                continue
            entries.append(Entry(path=path, kind=kind, size=size))
            if kind == "folder":
                pending.append(path)
            elif kind == "file" or (kind == "symlink" and item.name.endswith(convention.checkpoint.suffix)):
                files[item.name] = size
        if RUN_FILE in files or _is_run_place(folder, convention):
            record, failure = _read_record(root / folder / RUN_FILE) if RUN_FILE in files else (None, None)
            runs.append(
                RunFolder(
                    path=folder,
                    record=record,
                    problem=None if failure is None else _reason(failure),
                    files=files,
                    is_newer=isinstance(failure, NewerRecordError),
                )
            )
        if OVERWRITTEN_FILE in files:
            try:
                overwritten[folder] = read_overwritten(root / folder)
            except RefusedError as error:
                unreadable.append((folder / OVERWRITTEN_FILE, error.message))
    present = {run.record.run_id for run in runs if run.record is not None}
    return TreeScan(
        root=root,
        runs=tuple(sorted(runs, key=lambda run: run.path)),
        overwritten={
            folder: kept
            for folder, lost in sorted(overwritten.items())
            if (kept := tuple(run for run in lost if run.run_id not in present))
        },
        entries=tuple(sorted(entries, key=lambda entry: entry.path)),
        unreadable=tuple(sorted(unreadable)),
    )


def write_record(folder: Path, record: RunRecord) -> bool:
    """Write a run's `run.json` atomically; False where it already says exactly this."""
    return write_atomically(folder / RUN_FILE, json_text.dump_json(record.to_json()), replace=True)


def write_overwritten(folder: Path, runs: tuple[OverwrittenRun, ...]) -> bool:
    """Write a task folder's list of overwritten runs atomically; False where it already says exactly this."""
    document = {"schema_version": SCHEMA_VERSION, "runs": [run.to_json() for run in runs]}
    return write_atomically(folder / OVERWRITTEN_FILE, json_text.dump_json(document), replace=True)


def read_record(folder: Path) -> RunRecord:
    """Read a run folder's `run.json`.

    Raises:
        RefusedError: (`bad-record`) if it is missing, unreadable or not a run record.
    """
    record, error = _read_record(folder / RUN_FILE)
    if record is None:
        reason = "is missing" if error is None else _reason(error)
        raise bad_record(folder / RUN_FILE, reason, is_newer=isinstance(error, NewerRecordError))
    return record


def read_overwritten(folder: Path) -> tuple[OverwrittenRun, ...]:
    """Read a task folder's list of overwritten runs.

    Raises:
        RefusedError: (`bad-record`) if it is unreadable or not such a list.
    """
    file = folder / OVERWRITTEN_FILE
    try:
        document = _Part(_load_json(file), OVERWRITTEN_FILE)
        _check_version(document)
        return tuple(OverwrittenRun.from_json(item) for item in document.get("runs", list))
    except (OSError, ValueError) as error:
        raise bad_record(file, _reason(error), is_newer=isinstance(error, NewerRecordError)) from error


def bad_record(file: Path | PurePosixPath, problem: str, *, is_newer: bool) -> RefusedError:
    """The error to raise for a `run.json` or `overwritten.json` that is there and cannot be used."""
    return RefusedError(
        f"{file} cannot be used: {problem}",
        code="bad-record",
        fix="Update ckptman."
        if is_newer
        else "Repair it; or move it away and ingest the source again: what is missing is written anew.",
    )


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint as the commands list it: what it is, its place in the tree and where it came from."""

    source: str
    """Relative to the source root."""
    path: str
    """Relative to the tree's root."""
    sha256: str
    size: int
    """Bytes."""
    run_id: str | None
    group: str
    layernorm: bool
    regime: str
    task: int
    source_task: int | None
    seed: int | None
    step: int
    kind: str

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)


def row_of(folder: PurePosixPath, record: RunRecord, entry: CheckpointEntry) -> CheckpointRow:
    """The row of one checkpoint of the run in `folder` (relative to the root)."""
    return CheckpointRow(
        source=entry.source.path,
        path=str(folder / entry.file),
        sha256=entry.sha256,
        size=entry.size,
        run_id=record.run_id,
        group=record.group,
        layernorm=record.layernorm,
        regime=record.regime,
        task=record.task,
        source_task=record.source.task,
        seed=record.seed,
        step=entry.step,
        kind=entry.kind,
    )


# --- reading ----------------------------------------------------------------------------------------------------------


class _Part:
    """A JSON object whose members are checked as they are taken."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        self.value, self.where = value, where

    def get(self, key: str, kind: type) -> Any:
        value = self.maybe(key, kind)
        if value is None:
            raise ValueError(f"{self.where} has no {key!r}")
        return value

    def maybe(self, key: str, kind: type) -> Any:
        value = self.value.get(key)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise ValueError(f"{self.where}: {key!r} is not of type {kind.__name__}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.maybe(key, list) or []
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"{self.where}: {key!r} holds something other than text")
        return tuple(values)


def _entry(item: Any, index: int) -> CheckpointEntry:
    part = _Part(item, f"checkpoints[{index}]")
    file = part.get("file", str)
    if "/" in file or file in (".", ".."):
        raise ValueError(f"checkpoints[{index}]: {file!r} is not a file name")
    return CheckpointEntry(
        file=file,
        kind=part.get("kind", str),
        step=part.get("step", int),
        size=part.get("size", int),
        sha256=part.get("sha256", str),
        source=_source(part.get("source", dict)),
        duplicates=tuple(_source(source) for source in part.maybe("duplicates", list) or ()),
    )


def _source(item: Any) -> SourceFile:
    part = _Part(item, "source")
    return SourceFile(
        path=part.get("path", str),
        size=part.get("size", int),
        mtime_ns=part.get("mtime_ns", int),
        inode=part.get("inode", int),
        root=part.maybe("root", str),
    )


def _source_json(source: SourceFile) -> dict[str, Any]:
    document: dict[str, Any] = {"root": source.root} if source.root else {}
    return document | {
        "path": source.path,
        "size": source.size,
        "mtime_ns": source.mtime_ns,
        "inode": source.inode,
    }


def _read_record(file: Path) -> tuple[RunRecord | None, OSError | ValueError | None]:
    try:
        return RunRecord.from_json(_load_json(file)), None
    except (OSError, ValueError) as error:
        return None, error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _check_version(document: _Part) -> None:
    version = document.get("schema_version", int)
    if version > SCHEMA_VERSION:
        raise NewerRecordError(
            f"it was written by a newer ckptman (schema_version {version}; this one reads {SCHEMA_VERSION})"
        )
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {version} is not one this ckptman reads (it reads {SCHEMA_VERSION})")


def _load_json(file: Path) -> Any:
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError("it is too large to be a record")
    try:
        return json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is no JSON") from None


def _kind_of(item: os.DirEntry[str]) -> tuple[str, int]:
    if item.is_symlink():
        try:
            return "symlink", item.stat().st_size
        except OSError:
            return "symlink", 0  # leads nowhere
    state = item.stat(follow_symlinks=False)
    if stat.S_ISDIR(state.st_mode):
        return "folder", 0
    return ("file", state.st_size) if stat.S_ISREG(state.st_mode) else ("other", 0)


def _is_run_place(folder: PurePosixPath, convention: Convention) -> bool:
    """Whether a folder stands where a run's does: below a task folder, with a run's name."""
    parts = folder.parts
    return (
        len(parts) == 5 and convention.folders.parse_task(parts[3]) is not None and convention.folders.is_run(parts[4])
    )
