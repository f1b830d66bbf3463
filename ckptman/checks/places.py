"""Where things lie, as findings tell of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from ckptman.rules import Convention
from ckptman.tree import Inventory, records


def apart(one: PurePosixPath, other: PurePosixPath) -> tuple[PurePosixPath, PurePosixPath]:
    """Two folders without the last parts that they share, so that all that was moved or copied at once is told of once.

    One part of the first is left in any case.
    """
    if one == other:
        return one, other
    ours, theirs = list(one.parts), list(other.parts)
    while len(ours) > 1 and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return PurePosixPath(*ours), PurePosixPath(*theirs)


def copied_runs(inventory: Inventory) -> set[PurePosixPath]:
    """Run folders whose checkpoints are copies of another's, one and all, and whose run.json knows of no other run than
    that one's."""
    folders: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in inventory.files:
        if file.entry is not None:
            folders[file.path.parent].append(file.path)
    own = {folder for file in inventory.files if file.path not in inventory.copies for folder in file.path.parents}
    copied = folders.keys() - own
    records_of = {folder.path: folder.record for folder in inventory.scan.runs}
    found = set()
    for folder in copied:
        original = inventory.copies[folders[folder][0]].parent
        one, two = records_of.get(folder), records_of.get(original)
        if original not in copied and one is not None and two is not None and one.run_id in (None, two.run_id):
            found.add(folder)
    return found


def strayed_lists(
    inventory: Inventory, convention: Convention
) -> Iterator[tuple[PurePosixPath, PurePosixPath, PurePosixPath | None]]:
    """Lists of runs without checkpoints in other folders than their tasks': each, its task's folder, and where it can
    go: there, or into the trash where the list there says all that it says; None where that one says something else.
    """
    scan = inventory.scan
    files = (entry.path for entry in scan.entries if entry.path.name == records.OVERWRITTEN_FILE)
    there = {path: scan.lists.get(path.parent) for path in files}
    for folder, home in inventory.strayed_lists(convention).items():
        path, target = folder / records.OVERWRITTEN_FILE, home / records.OVERWRITTEN_FILE
        if target not in there:
            there[target] = scan.lists[folder]
            yield path, home, target
        else:
            kept = there[target]
            says_all = kept is not None and scan.lists[folder].says_no_more(kept)
            yield path, home, trash(path) if says_all else None


def trash(path: PurePosixPath) -> PurePosixPath:
    """Where `validate --fix` puts what it takes out of the tree."""
    return PurePosixPath(records.TRASH, path)
