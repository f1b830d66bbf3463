"""Checks of `run.json`: against itself, and against the files of its folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any

from ckptman.attribution import same_value
from ckptman.convention import Convention
from ckptman.findings import Finding, finding
from ckptman.inventory import FROM_CHECKPOINT, CheckedFile, CheckedRun, Inventory
from ckptman.tree import OVERWRITTEN_FILE, RUN_FILE, RunFolder, RunRecord

_MOST_LISTED = 4
"""Differences that one message names."""


def check_records(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Check every run.json, and the files of each run folder against it."""
    there = {entry.path for entry in inventory.scan.entries}
    files: dict[PurePosixPath, list[CheckedFile]] = defaultdict(list)
    for file in inventory.files:
        files[file.path.parent].append(file)
    for path, reason in inventory.scan.unreadable:
        code = "bad-record" if path.name == OVERWRITTEN_FILE else "unreadable"
        yield finding(code, path, reason)
    for folder in inventory.scan.runs:
        if folder.record is not None:
            yield from _check_files_are_there(folder, folder.record, there)
            for file in files[folder.path]:
                yield from _check_file(file, folder.record, convention)
        elif folder.problem is not None:
            yield finding("bad-record", folder.path / RUN_FILE, f"it cannot be used: {folder.problem}")
    for run in inventory.runs:
        yield from _check_place(run)
    yield from _check_duplicates(inventory)


def _check_files_are_there(folder: RunFolder, record: RunRecord, there: Collection[PurePosixPath]) -> Iterator[Finding]:
    for entry in record.checkpoints:
        if entry.file not in folder.files:
            yield finding("missing-file", folder.path / entry.file, "run.json lists this checkpoint; it is not there")
    for kept in record.wandb:
        if folder.path / kept not in there:
            yield finding("missing-file", folder.path / kept, "run.json lists this W&B folder; it is not there")


def _check_file(file: CheckedFile, record: RunRecord, convention: Convention) -> Iterator[Finding]:
    entry = file.entry
    if entry is None:
        yield finding("unrecorded-file", file.path, "run.json does not list this checkpoint")
        return
    if file.size != entry.size:
        yield finding("wrong-size", file.path, f"it has {file.size:,} bytes, and {entry.size:,} by run.json")
    elif file.sha256 is not None and file.sha256 != entry.sha256:
        message = f"its SHA-256 is {file.sha256}, and {entry.sha256} by run.json"
        yield finding("wrong-hash", file.path, message)
    if file.name is not None and (entry.kind, entry.step) != (file.name.prefix.name, file.name.step):
        message = f"run.json calls it a {entry.kind} at step {entry.step}, which is not what its name says"
        yield finding("record-disagrees", file.path, message)
    if record.config_source == FROM_CHECKPOINT and file.info is not None and file.info.config is not None:
        differences = _config_differences(record.config, file.info.config, convention.ignored_keys)
        if differences:
            yield finding("config-disagrees", file.path, "; ".join(differences))


def _config_differences(recorded: Any, inside: Any, ignored: Collection[str]) -> list[str]:
    """How the configuration in run.json differs from the one inside the file."""
    differences = []
    for key in sorted((recorded.keys() | inside.keys()) - set(ignored)):
        if key not in inside:
            differences.append(f"{key} is in run.json only")
        elif key not in recorded:
            differences.append(f"{key} is in the file only")
        elif not same_value(recorded[key], inside[key]):
            differences.append(f"{key} is {recorded[key]!r} in run.json and {inside[key]!r} in the file")
    more = len(differences) - _MOST_LISTED
    return differences[:_MOST_LISTED] + ([f"and {more} more"] if more > 0 else [])


def _check_place(run: CheckedRun) -> Iterator[Finding]:
    """What run.json says of its place, against the configuration."""
    record, place = run.record, run.place
    if record is None or place is None:
        return
    pairs = {
        "group": (record.group, place.group),
        "layernorm": (record.layernorm, place.layernorm),
        "regime": (record.regime, place.regime),
        "task": (record.task, place.task),
        "seed": (record.seed, place.seed),
    }
    said = [f"its {key} is {is_!r}, and {of!r} by the configuration" for key, (is_, of) in pairs.items() if is_ != of]
    if said:
        yield finding("record-disagrees", run.folder / RUN_FILE, "; ".join(said))


def _check_duplicates(inventory: Inventory) -> Iterator[Finding]:
    places: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in inventory.files:
        recorded = file.entry.sha256 if file.entry is not None and file.entry.size == file.size else None
        sha256 = file.sha256 or recorded
        if sha256 is not None:
            places[sha256].append(file.path)
    for paths in places.values():
        for path in paths[1:]:
            yield finding("duplicate", path, f"it has the same bytes as {paths[0]}")
