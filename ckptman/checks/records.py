"""Checks of `run.json`: against itself, and against the files of its folder."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.checks.places import apart, copied_runs
from ckptman.fs import files as fs_files
from ckptman.rules import Convention, comparing, placement
from ckptman.text import RefusedError, wording
from ckptman.tree import Finding, Inventory, contents, finding, history, records

_MOST_LISTED = 4
"""Differences that one message names."""
_SHA256 = re.compile("[0-9a-f]{64}")
_KINDS = {"folder": "a folder", "symlink": "a symbolic link", "other": "a pipe, a socket or a device"}
_INGEST_AGAIN = (
    "Ingest the source again: its logs are then read again. If no log of the run that run.json names is there, move "
    "run.json out of the tree and ingest the source: it is written anew."
)
_OF_TWO_RUNS = (
    "Two runs list these bytes, and one of them is likely to be wrong: look at both (ckptman show), and move the run's "
    "folder that is wrong out of the tree."
)
_WANDB_AGAIN = (
    "Bring it back, or ingest the run's source again with --with-wandb, which does. If it is nowhere, move run.json "
    "out of the tree and ingest the source: its list is written anew."
)
_EXCHANGED = "Let ckptman move each to its own place: ckptman validate --fix"
_LIST_AGAIN = "Move it out of the tree, and ingest the source again, which writes this list anew."


def check_records(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Check every run.json, and the files of each run folder against it."""
    there = {entry.path: entry.kind for entry in inventory.scan.entries}
    files: dict[PurePosixPath, list[contents.CheckpointFile]] = defaultdict(list)
    for file in inventory.files:
        files[file.folder].append(file)
    for path, reason in inventory.scan.unreadable:
        if path.name in (records.OVERWRITTEN_FILE, records.REFUSED_FILE):
            yield finding("bad-record", path, reason.replace(f"{inventory.scan.root / path} ", "it "), _LIST_AGAIN)
        else:
            yield finding("unreadable", path, reason)
    found_at = {home: path for path, home in inventory.astray.items()}
    wrong = dict(_wrong_records(inventory, files, convention))
    extra = (run for run in inventory.runs if run.origin is contents.Origin.EXTRA)
    strangers = {file.path: run.place.folder for run in extra if run.place is not None for file in run.files}
    yield from _check_digests(inventory)
    for folder in inventory.scan.runs:
        if folder.record is not None and _is_record_changed(inventory.scan.root, folder):
            yield finding("record-changed", folder.path / records.RUN_FILE, records.CHANGED)
        elif folder.path in wrong:
            fix = "Move run.json out of the tree, and ingest the run's source again, which writes it anew."
            yield finding("config-disagrees", folder.path / records.RUN_FILE, _listed(wrong[folder.path]), fix)
        elif (original := inventory.record_copies.get(folder.path)) is not None:
            message = f"it is a copy of the one of {original}, where the files are that it lists"
            yield finding("duplicate", folder.path / records.RUN_FILE, message, "Move it out of the tree.")
        elif folder.record is not None:
            yield from _check_entries(folder, folder.record)
            yield from _check_files_are_there(folder, folder.record, there, found_at)
            yield from _check_beside(folder, folder.record)
            yield from _check_history(inventory.scan.root, folder, folder.record)
            for file in files[folder.path]:
                if file.path not in inventory.astray and file.path not in inventory.copies:  # told of as that
                    others = strangers.get(file.path), inventory.exchanged.get(file.path)
                    yield from _check_file(file, folder.record, *others, convention)
        elif folder.problem is not None:
            code, message = "bad-record", f"it cannot be used: {folder.problem}"
            if not os.access(inventory.scan.root / folder.path / records.RUN_FILE, os.R_OK):
                code, message = "unreadable", folder.problem  # nothing is known against it
            yield finding(code, folder.path / records.RUN_FILE, message)
        elif (kind := there.get(folder.path / records.RUN_FILE)) is not None:
            yield finding(
                "bad-record", folder.path / records.RUN_FILE, f"it cannot be used: it is {_KINDS[kind]}, no file"
            )
    for run in inventory.runs:
        if run.folder not in wrong:
            yield from _check_place(run)
    yield from _check_duplicates(inventory)


def _is_record_changed(root: Path, folder: records.RunFolder) -> bool:
    if folder.is_as_written is not None:
        return not folder.is_as_written
    return _is_changed(root / folder.path / records.RUN_FILE)


def _is_changed(file: Path) -> bool:
    try:
        return not records.is_as_written(file)
    except OSError:
        return False  # which is another matter


def _check_digests(inventory: Inventory) -> Iterator[Finding]:
    """The lists of a tree that were changed since ckptman wrote them."""
    unusable = {path for path, _ in inventory.scan.unreadable}
    for entry in inventory.scan.entries:
        is_list = entry.path.name in (records.OVERWRITTEN_FILE, records.REFUSED_FILE) and entry.kind == "file"
        is_list = is_list and entry.path not in unusable and not inventory.scan.is_kept(entry.path)
        if is_list and _is_changed(inventory.scan.root / entry.path):
            yield finding("record-changed", entry.path, records.CHANGED)


def _wrong_records(
    inventory: Inventory, files: Mapping[PurePosixPath, list[contents.CheckpointFile]], convention: Convention
) -> Iterator[tuple[PurePosixPath, list[str]]]:
    """Folders whose run.json is that of another run, or was edited; and how it differs from what is in the files.

    All files have to say so, and either they belong in the folder and the record does not, or both do and the bytes are
    still those that it lists.
    """
    for folder, record in inventory.scan.records:
        here = [file for file in files[folder] if file.info is not None and file.info.config is not None]
        inside = [file for file in here if file.entry is not None] or here
        configs = [file.info.config for file in inside if file.info is not None and file.info.config is not None]
        if record.config_source != contents.FROM_CHECKPOINT or not configs:
            continue
        ignored = convention.ignored_keys | record.added_keys
        differences = [_config_differences(record.config, config, ignored) for config in configs]
        if not all(differences) or any(each != differences[0] for each in differences):
            continue
        said = record.source.group, record.source.task
        by_record, by_files = (_belongs(config, said, folder, convention) for config in (record.config, configs[0]))
        untouched = all(file.entry is not None and file.path not in inventory.replaced for file in inside)
        if by_files > by_record or (by_files == by_record and untouched):
            yield folder, differences[0]


def _belongs(
    config: Mapping[str, Any], said: tuple[str | None, int | None], folder: PurePosixPath, convention: Convention
) -> bool:
    """Whether a run of a configuration belongs in a folder."""
    group = config.get(convention.group_key)
    try:
        place = placement.place_of(
            config, convention, source_group=group if isinstance(group, str) and group else said[0], source_task=said[1]
        )
    except RefusedError:
        return False
    return place.is_at(folder, convention)


def _check_entries(folder: records.RunFolder, record: records.RunRecord) -> Iterator[Finding]:
    """What no run.json says that ckptman wrote."""
    names = Counter(entry.file for entry in record.checkpoints)
    said = [f"it lists {name} {count} times" for name, count in names.items() if count > 1]
    said += [
        f"the sha256 of {entry.file} is {entry.sha256!r}, which is no SHA-256"
        for entry in record.checkpoints
        if _SHA256.fullmatch(entry.sha256) is None
    ]
    said += [f"its W&B folder {kept!r} does not lie in the run's folder" for kept in record.wandb if _leaves(kept)]
    if said:
        yield finding("record-disagrees", folder.path / records.RUN_FILE, _listed(said))


def _check_files_are_there(
    folder: records.RunFolder,
    record: records.RunRecord,
    there: Collection[PurePosixPath],
    found_at: Mapping[PurePosixPath, PurePosixPath],
) -> Iterator[Finding]:
    for entry in record.checkpoints:
        if entry.file not in folder.files:
            path = folder.path / entry.file
            message = "run.json lists this checkpoint; it is not there"
            if (now := found_at.get(path)) is not None:
                seems = now.name if now.parent == path.parent else now
                yield finding(
                    "missing-file", path, f"{message}, but {seems} seems to be it", contents.way_back(now, path)
                )
            else:
                yield finding("missing-file", path, message)
    for kept in record.wandb:
        if not _leaves(kept) and folder.path / kept not in there:
            message = "run.json lists this W&B folder; it is not there"
            yield finding("missing-file", folder.path / kept, message, _WANDB_AGAIN)


def _check_beside(folder: records.RunFolder, record: records.RunRecord) -> Iterator[Finding]:
    for file in record.source.beside:
        if file.differs:
            yield finding(
                "sources-disagree", folder.path / records.RUN_FILE, f"{file.path}: {_listed(list(file.differs))}"
            )


def _check_history(root: Path, folder: records.RunFolder, record: records.RunRecord) -> Iterator[Finding]:
    """The learning curve, which is small enough to be read whole."""
    entry = record.history
    there = history.HISTORY_FILE in folder.files
    if entry is None and not there:
        return
    path = folder.path / history.HISTORY_FILE
    if entry is None:
        yield finding("bad-history", path, "run.json does not list this learning curve")
    elif not there:
        yield finding("bad-history", path, "run.json lists this learning curve; it is not there", _INGEST_AGAIN)
    else:
        try:
            found = fs_files.hash_file(root / path)[0]
        except RefusedError as error:
            yield finding("unreadable", path, error.message)
        else:
            if found != entry.sha256:
                yield finding("bad-history", path, f"its SHA-256 is {found}, and {entry.sha256} by run.json")


def _leaves(kept: str) -> bool:
    """Whether a path that run.json gives leads out of the run's folder."""
    path = PurePosixPath(kept)
    return path.is_absolute() or ".." in path.parts or not path.parts


def _check_file(
    file: contents.CheckpointFile,
    record: records.RunRecord,
    elsewhere: PurePosixPath | None,
    home: PurePosixPath | None,
    convention: Convention,
) -> Iterator[Finding]:
    """Check a file against its entry.

    Args:
        elsewhere: The folder of the run that it is of, if it is no file of this one.
        home: The place of its bytes, where it lies in that of another file.
    """
    entry = file.entry
    if file.refusal is not None or file.damage is not None:
        return  # which says more
    if entry is None:
        message = "run.json does not list this checkpoint"
        if elsewhere is not None:
            message += f"; it is of another run, by its configuration one of {elsewhere}"
        yield finding("unrecorded-file", file.path, message)
        return
    parts = _part_differences(file, entry)
    code = "wrong-hash" if file.size == entry.size else "wrong-size"
    if home is not None:
        named = home.name if home.parent == file.folder else home
        message = f"its bytes are those that run.json lists for {named}, where other ones lie"
        yield finding(code, file.path, message, _EXCHANGED)
    elif parts:
        yield finding(code, file.path, _listed(parts))
    elif file.size != entry.size:
        yield finding(code, file.path, f"it has {file.size:,} bytes, and {entry.size:,} by run.json")
    elif file.sha256 is not None and file.sha256 != entry.sha256:
        message = f"its SHA-256 is {file.sha256}, and {entry.sha256} by run.json"
        yield finding(code, file.path, message)
    if file.size != entry.size or file.sha256 not in (None, entry.sha256):
        return  # what else it says is another file's
    said = (None, None) if file.name is None else (file.name.kind, file.name.step)
    if any(one not in (None, other) for one, other in zip(said, (entry.kind, entry.step), strict=True)):
        message = f"run.json calls it a {entry.kind} at step {entry.step}, which is not what its name says"
        yield finding("record-disagrees", file.path, message)
    if record.config_source == contents.FROM_CHECKPOINT and file.info is not None and file.info.config is not None:
        lacking = {convention.seed_key} - file.info.config.keys()  # the name or a folder at the source said it
        ignored = convention.ignored_keys | record.added_keys | lacking
        differences = _config_differences(record.config, file.info.config, ignored)
        if differences:
            fix = (
                "ckptman validate --deep says whether it lies in another file's place. If not, move the file out of "
                "the tree, and ingest the run's source again, which brings the right one. If it is the same one, "
                "run.json is wrong: move that out of the tree too, and ingest the source."
            )
            yield finding("config-disagrees", file.path, _listed(differences), fix)


def _part_differences(file: contents.CheckpointFile, entry: records.CheckpointEntry) -> list[str]:
    """How the files of a folder differ from those that run.json lists."""
    if file.info is None or not file.info.members:
        return []
    sizes, listed = dict(file.info.members), {part.name: part for part in entry.parts}
    differences = [f"its file {name} is not there" for name in sorted(listed.keys() - sizes)]
    differences += [f"its file {name} is not in run.json" for name in sorted(sizes.keys() - listed)]
    for name in sorted(listed.keys() & sizes.keys()):
        part, sha256 = listed[name], file.parts.get(name)
        if sizes[name] != part.size:
            differences.append(f"its file {name} has {sizes[name]:,} bytes, and {part.size:,} by run.json")
        elif sha256 not in (None, part.sha256):
            differences.append(f"the SHA-256 of its file {name} is {sha256}, and {part.sha256} by run.json")
    return differences


def _config_differences(recorded: Any, inside: Any, ignored: Collection[str]) -> list[str]:
    """How the configuration in run.json differs from the one inside the file."""
    differences: list[str] = []
    if comparing.plainly_equal(recorded, inside):
        return differences
    for key in sorted((recorded.keys() | inside.keys()) - set(ignored)):
        if key not in inside:
            differences.append(f"{key} is in run.json only")
        elif key not in recorded:
            differences.append(f"{key} is in the file only")
        elif not comparing.same_value(recorded[key], inside[key]):
            differences.append(f"{key} is {recorded[key]!r} in run.json and {inside[key]!r} in the file")
    return differences


def _listed(differences: list[str]) -> str:
    more = len(differences) - _MOST_LISTED
    return "; ".join(differences[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _check_place(run: contents.Run) -> Iterator[Finding]:
    """What run.json says of its place, against the configuration."""
    record, place = run.record, run.place
    if record is None or place is None:
        return
    pairs = {
        "group": (record.group, place.group),
        **{name: (record.family.get(name), value) for name, value in place.family.items()},
        "task": (record.task, place.task),
        "seed": (record.seed, place.seed),
    }
    said = [f"its {key} is {is_!r}, and {of!r} by the configuration" for key, (is_, of) in pairs.items() if is_ != of]
    if said:
        yield finding("record-disagrees", run.folder / records.RUN_FILE, "; ".join(said))


def _check_duplicates(inventory: Inventory) -> Iterator[Finding]:
    """Copies of files; those of one folder that are copies of another's files are told of together."""
    if not inventory.copies:
        return
    folders: dict[tuple[PurePosixPath, PurePosixPath], list[PurePosixPath]] = defaultdict(list)
    for copy, original in inventory.copies.items():
        folders[apart(copy.parent, original.parent)].append(copy)
    recorded = {file.path for file in inventory.files if file.entry is not None}
    copied = copied_runs(inventory)
    for (folder, other), paths in folders.items():
        is_listed = any(path in recorded and path.parent not in copied for path in paths)
        fix = _OF_TWO_RUNS if is_listed else None
        if len(paths) == 1:
            yield finding("duplicate", paths[0], f"it has the same bytes as {inventory.copies[paths[0]]}", fix)
        else:
            count = wording.count_text(len(paths), "checkpoint")
            where = other if other.parts else "the tree itself"
            yield finding("duplicate", folder, f"each of {count} here has the same bytes as one in {where}", fix)
