"""`validate --fix`: what is wrong, known and safe to put right, as a plan; then the plan, carried out.

Files and folders are renamed, moved to the trash folder of the tree, or, where a folder is empty, removed. No byte is
deleted, nothing is replaced, and each step is checked again just before it is done.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.checks import places
from ckptman.checks.validation import ValidationResult
from ckptman.formats import folder_bytes
from ckptman.fs import files, moving
from ckptman.rules import Convention
from ckptman.text import CkptmanError, RefusedError
from ckptman.tree import Inventory, contents, records

_PLACE = ("group", "task", "seed")


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    action: str
    """`move` or `trash` (which is a move too), or `remove`, of an empty folder."""
    code: str
    """The finding that it puts right."""
    path: str
    """Relative to the root."""
    target: str | None = None
    """Where it goes, relative to the root."""
    sha256: str | None = None
    """What the file must hold for the step to be done."""
    same_as: str | None = None
    """The file that must hold the same bytes."""
    problem: str | None = None
    """Why it was not done."""

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON object."""
        names = ("action", "code", "path", "target", "problem")
        return {name: getattr(self, name) for name in names}


def plan_mending(result: ValidationResult) -> tuple[Step, ...]:
    """What `validate` found and can put right, in the order in which it is done.

    Copies that no run.json lists are known by their bytes, so only a `deep` validation finds them.
    Left alone is everything that needs a decision, or bytes that are not in the tree.
    """
    if any(item.code == "wrong-root" for item in result.findings):
        return ()
    inventory, convention = result.inventory, result.convention
    codes = {item.code for item in result.findings}
    steps: list[Step] = []
    if "missing-file" in codes:
        steps += _strayed(inventory)
    if others := {item.path: item.code for item in result.findings if item.code in ("wrong-hash", "wrong-size")}:
        steps += _exchanged(inventory, others)
    lists = list(_lists(inventory, convention)) if "misplaced" in codes else []
    filled = {folder for step in (*steps, *lists) if step.target for folder in PurePosixPath(step.target).parents}
    empty = {PurePosixPath(item.path) for item in result.findings if item.code == "empty-folder"} - filled
    moves = _moves(inventory, convention, empty, steps, codes)
    # What lies in a folder goes before the folder does.
    if "duplicate" in codes:
        steps += _copies(inventory, {PurePosixPath(step.path) for step in (*steps, *moves)})
    steps += lists
    away = {PurePosixPath(step.path) for step in steps}
    if "system-file" in codes:
        steps += _left_by_systems(inventory, away)
    alone = (folder for folder in sorted(empty) if away.isdisjoint(folder.parents))
    steps += [Step("remove", "empty-folder", str(folder)) for folder in alone]
    steps += moves
    return tuple(steps)


def mend(root: Path, steps: Sequence[Step]) -> tuple[Step, ...]:
    """Carry out a plan. A step that can no longer be done is left, with its reason, and the others go on."""
    return tuple(_done(root, step) for step in steps)


def _done(root: Path, step: Step) -> Step:
    path = PurePosixPath(step.path)
    try:
        if step.sha256 is not None and _hash(root / path) != step.sha256:
            raise RefusedError("its bytes are not those that run.json says", code="changed", fix="")
        if step.same_as is not None and _hash(root / path) != _hash(root / step.same_as):
            raise RefusedError(f"its bytes are not those of {step.same_as}", code="changed", fix="")
        if step.target is None:
            moving.remove_empty_folder(root, path)
            moving.remove_emptied(root, path)
        else:
            return _moved(root, step, path, PurePosixPath(step.target))
    except CkptmanError as error:
        return replace(step, problem=error.message)
    return step


def _hash(path: Path) -> str:
    return folder_bytes.hash_any(path) if path.is_dir() else files.hash_file(path, follow_symlinks=True)[0]


def _moved(root: Path, step: Step, path: PurePosixPath, target: PurePosixPath) -> Step:
    if step.action == "trash":  # which keeps what an earlier mending put there
        target = moving.free_name(root, target)
    moving.move_within(root, path, target)
    moving.remove_emptied(root, path)
    return replace(step, target=str(target))


def _strayed(inventory: Inventory) -> Iterator[Step]:
    """Files that were renamed or moved, back to where their run.json misses them."""
    listed = {
        folder.path / entry.file: entry.sha256
        for folder in inventory.scan.runs
        if folder.record is not None
        for entry in folder.record.checkpoints
    }
    homes: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path, home in inventory.astray.items():
        homes[home].append(path)
    for home, paths in homes.items():
        if len(paths) == 1:  # of several, nobody knows which
            yield Step("move", "missing-file", str(paths[0]), str(home), sha256=listed[home])


def _exchanged(inventory: Inventory, told: Mapping[str, str]) -> Iterator[Step]:
    """Files in each other's places, each to its own; the first goes beside its own place until that is free.

    Wherever this is interrupted, a file that is missed by then is found by its bytes, or by a name that begins with
    its own, and goes there the next time.

    Args:
        told: The codes of the findings of other bytes, by path. Where a run.json is the wrong one, there is none.
    """
    sums = {file.path: str(file.sha256) for file in inventory.files}
    left = dict(inventory.exchanged)
    while left:
        first = min(left)
        home, way = left.pop(first), [first]
        while home != first:
            way.append(home)
            home = left.pop(home)
        if any(str(path) not in told for path in way):
            continue
        aside = way[1].with_name(f"{way[1].name}.{sums[first][:16]}")
        moves = [(first, aside), *zip(way[:0:-1], [first, *way[:1:-1]], strict=True), (aside, way[1])]
        for path, target in moves:
            was = first if path == aside else path
            yield Step("move", told[str(was)], str(path), str(target), sha256=sums[was])


def _lists(inventory: Inventory, convention: Convention) -> Iterator[Step]:
    """Lists of runs without checkpoints, to their tasks' folders; one that says nothing more, out of the way."""
    for path, _, target in places.strayed_lists(inventory, convention):
        if target is not None:
            yield Step("trash" if target == places.trash(path) else "move", "misplaced", str(path), str(target))


def _left_by_systems(inventory: Inventory, away: Collection[PurePosixPath]) -> Iterator[Step]:
    """What operating systems left, a folder with all there is in it; what lies in folders that go away goes along."""
    for entry in inventory.scan.entries:
        is_alone = not any(folder in away for folder in entry.path.parents)
        if is_alone and contents.is_system_name(entry.path.name) and not contents.is_not_ours(entry.path.parent):
            yield Step("trash", "system-file", str(entry.path), str(places.trash(entry.path)))


def _moves(
    inventory: Inventory,
    convention: Convention,
    empty: Collection[PurePosixPath],
    before: Sequence[Step],
    codes: Collection[str],
) -> list[Step]:
    """Whole run folders, to where their configurations say; two in each other's places change them.

    Args:
        inventory: The tree.
        convention: Its rules.
        empty: Folders that are removed before.
        before: What is done with files before.
        codes: Those of the findings to put right. Of a run whose files all come back before, it is not told where it
            belongs as long as they are missed.
    """
    leaving = {PurePosixPath(step.path) for step in before}
    filled = {PurePosixPath(step.target).parent for step in before if step.target}
    extra = (run for run in inventory.runs if run.origin is contents.Origin.EXTRA)
    crowded = {run.folder for run in extra if not all(file.path in leaving for file in run.files)}
    counts = Counter(run.folder for run in inventory.runs)
    alone = {folder for folder, count in counts.items() if count == 1}
    taken = _Taken(inventory.scan.root, empty)
    wrong: dict[PurePosixPath, tuple[PurePosixPath, contents.Run]] = {}
    steps: list[Step] = []
    for run in inventory.runs:
        if run.folder in crowded or not _may_move(run, alone, convention):
            continue
        if run.folder in inventory.record_copies:
            continue
        if run.files and all(file.path in inventory.told for file in run.files):
            continue  # a copy of a run, for one, which goes nowhere but into the trash
        target = _target(run, convention)
        if target is None or (_code(run.folder, target) not in codes and (run.files or run.folder not in filled)):
            continue
        if target.is_relative_to(run.folder):  # its files lie in a folder above
            steps += _files_of(run, target, taken)
        else:
            wrong[run.folder] = (target, run)
    while wrong:
        free = [folder for folder, (target, _) in wrong.items() if target not in taken]
        if free:
            folder = free[0]
            target, run = wrong.pop(folder)
        else:  # each waits for another, or for something that stays: the first goes by a name of its own
            folder, (target, run) = next(iter(wrong.items()))
            waits, aside = target in wrong, _aside(run, target)
            del wrong[folder]
            if aside in taken or aside == folder:
                continue
            if waits:
                wrong[aside] = (target, run)
            target = aside
        steps.append(Step("move", _code(folder, target), str(folder), str(target)))
        taken.moves[folder], taken.moves[target] = False, True
    return steps


def _code(folder: PurePosixPath, target: PurePosixPath) -> str:
    """The finding of a run folder that belongs elsewhere."""
    return "wrong-run-folder" if folder.parent == target.parent else "misplaced"


@dataclass
class _Taken:
    """The paths at which something is, once the moves so far are done."""

    root: Path
    empty: Collection[PurePosixPath]
    """Folders that are removed before."""
    moves: dict[PurePosixPath, bool] = field(default_factory=dict)

    def __contains__(self, path: PurePosixPath) -> bool:
        if path in self.moves:
            return self.moves[path]
        return os.path.lexists(self.root / path) and not any(each in self.empty for each in (path, *path.parents))


def _may_move(run: contents.Run, alone: Collection[PurePosixPath], convention: Convention) -> bool:
    """Whether all of a run's files are read, and run.json, or the only configuration in the folder, says its place."""
    record, place = run.record, run.place
    if place is None or any(file.info is None for file in run.files):
        return False
    if record is not None:
        family = all(record.family.get(name) == value for name, value in place.family.items())
        return family and all(getattr(record, name) == getattr(place, name) for name in _PLACE)
    return (
        bool(run.files)
        and run.folder in alone
        and run.folder.parent == place.folder
        and convention.folders.is_run(run.folder.name)
    )


def _target(run: contents.Run, convention: Convention) -> PurePosixPath | None:
    """The folder that the run should have, by its own name where that is right; None where it has a right one."""
    if run.place is None or run.place.is_at(run.folder, convention):
        return None
    named = run.place.folder / run.folder.name
    return named if run.place.is_at(named, convention) else run.place.run_folder(convention)


def _files_of(run: contents.Run, target: PurePosixPath, taken: _Taken) -> Iterator[Step]:
    """The files of a run that lie in a folder above its own, each by itself, run.json last."""
    if target in taken:
        return
    names = [file.path.name for file in run.files if file.entry is not None]
    for name in [*names, records.RUN_FILE]:
        yield Step("move", "misplaced", str(run.folder / name), str(target / name))


def _aside(run: contents.Run, target: PurePosixPath) -> PurePosixPath:
    """The name of a second run of the seed, as `ingest` gives it."""
    record = run.record
    told = [record.run_id] if record is not None else []
    told += [file.sha256 or str(file.size) for file in run.files]
    told += [entry.sha256 for entry in (record.checkpoints if record is not None else ())]
    apart = next(filter(None, told), "again")
    return target.with_name(f"{target.name}-{apart[:16]}")


def _copies(inventory: Inventory, moved: set[PurePosixPath]) -> Iterator[Step]:
    """Copies that no run.json lists, and whole run folders that are copies of another."""
    recorded = {file.path for file in inventory.files if file.entry is not None}
    root = inventory.scan.root
    folders = places.copied_runs(inventory) - moved
    for folder in sorted(folder for folder in folders if folders.isdisjoint(folder.parents)):
        yield Step("trash", "duplicate", str(folder), str(places.trash(folder)))
    for copy, source in sorted(inventory.copies.items()):
        if copy in recorded or copy in moved or not folders.isdisjoint(copy.parents):
            continue
        if _leads_to(root / source, root / copy):  # which is no copy, but what the link stands for
            yield Step("trash", "duplicate", str(source), str(places.trash(source)), same_as=str(copy))
            yield Step("move", "duplicate", str(copy), str(source))
        else:
            yield Step("trash", "duplicate", str(copy), str(places.trash(copy)), same_as=str(source))


def _leads_to(link: Path, file: Path) -> bool:
    return link.is_symlink() and not file.is_symlink() and link.resolve() == file.resolve()
