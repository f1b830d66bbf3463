"""`migrate`: bring a tree that was sorted by another convention to what the present one says.

The plan is worked out from each `run.json`; then it is a list of renames, which is all that is done: no byte of a file
changes, none is copied or deleted. It is all or nothing: where one run has no place, or a place is taken, no run moves.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ckptman.fs import FileState, files, folders, locks, make_folders, moving, write_atomically
from ckptman.ingestion import journals
from ckptman.ingestion.journals import Journal, MigratedRun, Moved, Step
from ckptman.rules import Convention, Place, comparing, convention_file, naming, placement
from ckptman.text import RefusedError, given_path, json_text, wording
from ckptman.tree import contents, records

Progress = Callable[[int, int], None]
"""Called with the renames that are done, and those in all."""
_Way = tuple[PurePosixPath, PurePosixPath]
"""From where to where, relative to the root."""


@dataclass(frozen=True)
class Problem:
    """Why the tree cannot be migrated."""

    path: str
    """Relative to the root."""
    code: str
    message: str
    fix: str


@dataclass(frozen=True)
class MigrateResult:
    """What a migration did, or would do."""

    root: Path
    dry_run: bool
    undo: bool
    resumed: bool
    """Whether it was one that had been interrupted."""
    runs: tuple[MigratedRun, ...]
    staying: int
    """Runs that are as they should be already."""
    left: tuple[str, ...]
    """Files and folders that no run.json tells of, and that stay where they are, relative to the root."""
    problems: tuple[Problem, ...] = ()
    """Why nothing was done."""
    map: str | None = None
    """The journal, relative to the root."""

    @property
    def moves(self) -> tuple[Moved, ...]:
        """The run folders that get another place."""
        return tuple(Moved(old=run.old, new=run.new) for run in self.runs if run.old != run.new)

    @property
    def renamed(self) -> tuple[Moved, ...]:
        """The checkpoints that get another name."""
        named = (moved for run in self.runs for moved in run.files)
        return tuple(item for item in named if PurePosixPath(item.old).name != PurePosixPath(item.new).name)

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman migrate --json` prints."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "root": str(self.root),
            "dry_run": self.dry_run,
            "undo": self.undo,
            "resumed": self.resumed,
            "moves": [json_text.document_of(item) for item in self.moves],
            "files": [json_text.document_of(item) for run in self.runs for item in run.files],
            "staying": self.staying,
            "left": list(self.left),
            "problems": [json_text.document_of(item) for item in self.problems],
            "map": self.map,
        }


def migrate(
    root: str | Path = "checkpoints",
    *,
    convention: Convention | None = None,
    undo: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> MigrateResult:
    """Move a tree to what the present convention says; or go on with what was interrupted; or take the last one back.

    Args:
        root: The tree.
        convention: The rules that it shall follow; by default those of the `ckptman.yaml` in it or above it.
        undo: Take the last migration back, an interrupted one too.
        dry_run: Work it out, and do nothing.
        progress: Called with the renames that are done, and those in all.

    Raises:
        UsageError: (`no-tree`) there is none.
        RefusedError: (`nothing-to-undo`); (`changed`) what is to be moved, or moved back, was changed meanwhile.
        MachineError: the tree cannot be written, or another ckptman is writing to it.
    """
    tree = given_path(root, "the path of the tree").absolute()
    rules = convention_file.rules_for(convention, tree)
    if dry_run:
        return _migrated(tree, rules, undo=undo, dry_run=True, progress=progress)
    records.scan_tree(tree, rules)  # which says where there is no tree
    with locks.lock_tree(tree):
        return _migrated(tree, rules, undo=undo, dry_run=False, progress=progress)


def _migrated(root: Path, rules: Convention, *, undo: bool, dry_run: bool, progress: Progress | None) -> MigrateResult:
    known = journals.journals(root)
    last = known[-1] if known else None
    if undo:
        if last is None:
            fix = f"What one would do is shown by: ckptman migrate {wording.shell_word(root)} --dry-run"
            raise RefusedError(f"no migration of {root} is known", code="nothing-to-undo", fix=fix)
        return _undone(root, *last, dry_run=dry_run, progress=progress)
    if last is not None and last[1].state != journals.DONE:
        folder, journal = last
        if journal.state == journals.UNDOING:
            raise RefusedError(
                f"an undo of a migration of {root} was interrupted",
                code="unfinished-migration",
                fix="Let it go on: ckptman migrate --undo",
            )
        if not dry_run:
            _carry_out(root, folder, journal, progress)
        return _result(root, folder, journal, dry_run=dry_run, resumed=True)
    plan = _Plan(root, rules, [journal for _, journal in known])
    if plan.problems or not (plan.changes or plan.lists):
        return plan.result(dry_run=dry_run)
    if dry_run:
        return plan.result(dry_run=True)
    folder = PurePosixPath(records.MIGRATIONS, f"{int(last[0].name) + 1 if last else 1:04d}")
    journal = plan.prepare(folder)
    _carry_out(root, folder, journal, progress)
    return replace(plan.result(dry_run=False), map=str(folder / records.JOURNAL), runs=journal.runs)


def _result(root: Path, folder: PurePosixPath, journal: Journal, **how: bool) -> MigrateResult:
    return MigrateResult(
        root=root,
        dry_run=how.get("dry_run", False),
        undo=how.get("undo", False),
        resumed=how.get("resumed", False),
        runs=journal.runs,
        staying=0,
        left=(),
        map=None if how.get("undo") else str(folder / records.JOURNAL),
    )


# --- the plan ---------------------------------------------------------------------------------------------------------


class _Change(NamedTuple):
    """A run as it is, and as it shall be."""

    run: contents.Run
    old: records.RunRecord
    folder: PurePosixPath
    record: records.RunRecord
    names: Mapping[str, str]
    """Of each checkpoint, its name and its new one."""
    kept: PurePosixPath | None
    """A run.json of an earlier migration that says just what the new one shall say, relative to the root."""


class _Earlier(NamedTuple):
    """What a run was before some migration."""

    folder: PurePosixPath
    kept: PurePosixPath
    """Its run.json of then, relative to the root."""
    record: records.RunRecord


class _Plan:
    """What it takes to bring a tree to the present convention."""

    def __init__(self, root: Path, convention: Convention, known: Sequence[Journal]) -> None:
        self.root = root
        self.convention = convention
        self.naming = naming.naming_of(convention)
        self.scan = records.scan_tree(root, convention)
        inventory = contents.inventory_of(self.scan, convention, contents.Depth.NAMES)
        self.problems: list[Problem] = []
        recorded = [run for run in inventory.runs if run.origin is contents.Origin.RECORDED]
        self.runs = {run.folder: run for run in recorded if run.record is not None}
        for path, reason in self.scan.unreadable:
            if not self.scan.is_kept(path):
                message = f"it cannot be read, and there may be runs in it: {reason}"
                fix = "See to it that you may read it and that its disk is well, then migrate again."
                self._refuse(path, RefusedError(message, code="unreadable", fix=fix))
        for folder in self.scan.runs:
            if folder.problem is not None:
                self._refuse(
                    folder.path / records.RUN_FILE,
                    RefusedError(folder.problem, code="bad-record", fix="Repair it: ckptman validate says more."),
                )
        self.places = {folder: place for folder, run in self.runs.items() if (place := self._place(run)) is not None}
        self.earlier: dict[PurePosixPath, list[_Earlier]] = defaultdict(list)
        """By folder now, what the run was before, the last first."""
        self.before = self._best_state(known) if not self.problems else {}
        """Folder now → folder then, where the tree was sorted by the present convention before."""
        self.changes = tuple(self._changes()) if not self.problems else ()
        self.lists = tuple(self._lists()) if not self.problems else ()
        self.way = self._folder_steps() if not self.problems else []

    def result(self, *, dry_run: bool) -> MigrateResult:
        """What it comes to."""
        stay = {*self.runs} - {change.run.folder for change in self.changes}
        going = {change.run.folder for change in self.changes}
        loose = (
            entry.path
            for entry in self.scan.entries
            if entry.kind != "folder" and len(entry.path.parts) > 1 and going.isdisjoint(entry.path.parents)
        )
        within = {*self.runs}
        left = (path for path in loose if within.isdisjoint(path.parents) and path.name != records.OVERWRITTEN_FILE)
        moved = bool(self.changes) and not self.problems
        return MigrateResult(
            root=self.root,
            dry_run=dry_run,
            undo=False,
            resumed=False,
            runs=tuple(self._migrated(change, "", None) for change in self.changes) if not self.problems else (),
            staying=len(stay),
            left=tuple(str(path) for path in left if not contents.is_not_ours(path)) if moved else (),
            problems=tuple(sorted(self.problems, key=lambda item: item.path)),
        )

    def _refuse(self, path: PurePosixPath, error: RefusedError) -> None:
        self.problems.append(Problem(str(path), error.code, error.message, error.fix))

    def _place(self, run: contents.Run) -> Place | None:
        if run.place is None:
            assert run.place_problem is not None  # one of the two is there
            self._refuse(run.folder, run.place_problem)
        elif FileState.of(self.root / run.folder).device != FileState.of(self.root, follow_symlinks=True).device:
            self._refuse(
                run.folder,
                RefusedError(
                    "it lies on another file system than the tree, so that it cannot be renamed into its place",
                    code="other-file-system",
                    fix="Bring the tree onto one file system.",
                ),
            )
        return run.place

    # --- what each run shall be

    def _changes(self) -> Iterator[_Change]:
        """The runs that are not as they should be."""
        taken: dict[PurePosixPath, PurePosixPath] = {}
        order = sorted(self.places, key=lambda folder: (len(folder.name.split("-")), folder))
        targets = {folder: self._remembered(folder) or self._staying(folder) for folder in order}
        taken = {target: folder for folder, target in targets.items() if target is not None}
        telling = self._telling()
        for folder in order:
            target = targets[folder]
            if target is None or taken[target] != folder:
                target = self._free(folder, taken, telling)
                taken[target] = folder
            if (change := self._change(folder, target)) is not None:
                yield change

    def _remembered(self, folder: PurePosixPath) -> PurePosixPath | None:
        """Where an earlier migration took the run from, if that is its place by the present convention."""
        before = self.before.get(folder)
        return before if before is not None and self.places[folder].is_at(before, self.convention) else None

    def _staying(self, folder: PurePosixPath) -> PurePosixPath | None:
        return folder if self.places[folder].is_at(folder, self.convention) else None

    def _telling(self) -> Mapping[PurePosixPath, set[str]]:
        """By folder, the keys in which the configurations of the runs of its task and seed differ."""
        ignored = self.convention.ignored_keys
        by_place: dict[tuple[PurePosixPath, int | None], list[PurePosixPath]] = defaultdict(list)
        for folder, place in self.places.items():
            by_place[place.folder, place.seed].append(folder)
        found: dict[PurePosixPath, set[str]] = {}
        for first, *others in by_place.values():
            keys = {
                key
                for other in others
                for key in comparing.differing_keys(self.runs[first].config, self.runs[other].config, ignored)
            }
            found |= dict.fromkeys((first, *others), keys)
        return found

    def _free(
        self,
        folder: PurePosixPath,
        taken: Mapping[PurePosixPath, PurePosixPath],
        telling: Mapping[PurePosixPath, set[str]],
    ) -> PurePosixPath:
        """The run's folder, by the name that `ingest` would give it."""
        run, place = self.runs[folder], self.places[folder]
        record = run.record
        assert record is not None  # it is one of those with a record
        content = (
            record.checkpoints[0].sha256 if record.checkpoints else hashlib.sha256(str(folder).encode()).hexdigest()
        )
        by_keys = self.naming.telling(telling[folder], run.config)
        notes = [note for note in by_keys if note not in place.notes]
        ways = ((), (record.run_id or content[:8],), (content[:8],), (content,))
        names = (place.run_folder(self.convention, *notes, *more) for more in ways)
        return next((name for name in names if name not in taken), place.run_folder(self.convention, *notes, content))

    def _change(self, folder: PurePosixPath, target: PurePosixPath) -> _Change | None:
        run, place = self.runs[folder], self.places[folder]
        old = run.record
        assert old is not None  # it is one of those with a record
        try:
            named = [self._named(entry, old, self.earlier[folder]) for entry in old.checkpoints]
            names = {entry.file: new.file for entry, new in zip(old.checkpoints, named, strict=True)}
            if len({*names.values()}) < len(names):
                twice, _ = Counter(names.values()).most_common(1)[0]
                raise RefusedError(
                    f"two of its checkpoints would be called {twice}",
                    code="taken",
                    fix="Let the convention tell them apart, or move one of them out of the tree.",
                )
        except RefusedError as error:
            self._refuse(folder, error)
            return None
        record = replace(
            old,
            group=place.group,
            family=place.family,
            task=place.task,
            seed=place.seed,
            checkpoints=tuple(named),
            evaluations=tuple({**item, "file": names.get(str(item.get("file")), item.get("file"))} if "file" in item
                              else item for item in old.evaluations),
        )  # fmt: skip
        if (target, record) == (folder, old):
            return None
        same = (item.kept for item in self.earlier[folder] if item.record == record != old)
        return _Change(run, old, target, record, names, next(same, None))

    def _named(
        self, entry: records.CheckpointEntry, record: records.RunRecord, earlier: Iterable[_Earlier]
    ) -> records.CheckpointEntry:
        """A checkpoint as the convention calls it: as it is, as an earlier migration found it, or anew."""
        same = (other.file for item in earlier for other in item.record.checkpoints if other.sha256 == entry.sha256)
        kind = self.convention.prefix(entry.kind) or self.convention.kind_at(entry.step, record.config)
        kept_kind = entry.kind if kind is None else kind.name
        for name in (entry.file, *same):
            with suppress(RefusedError):
                parsed = self.naming.parse(name)
                if parsed.step in (None, entry.step) and not self.naming.disagreements(parsed, record.config):
                    return replace(entry, file=name, kind=parsed.kind or kept_kind)
        if self.convention.keep_names:
            return replace(entry, kind=kept_kind)
        if kind is None or entry.step is None:
            raise RefusedError(
                f"{entry.file} is named by no rule of the convention, and its kind or step is not known",
                code="no-name",
                fix="Let the convention keep such names (name.keep), or describe them.",
            )
        return replace(entry, file=self.naming.name_for(record.config, kind, entry.step), kind=kind.name)

    # --- what earlier migrations know

    def _best_state(self, known: Sequence[Journal]) -> Mapping[PurePosixPath, PurePosixPath]:
        """Where the runs were when the tree was sorted by the present convention; empty if it is so now, or never was.

        It was so before a migration if every run had its place then. Of several states the one with the most names
        without anything added counts, since a name with notes may be another convention's.
        """
        now = {folder: folder for folder in self.places}
        best: Mapping[PurePosixPath, PurePosixPath] = {}
        most = self._exact(now)
        for journal in reversed(known):
            entries = {PurePosixPath(run.new): run for run in journal.runs}
            for folder, then in now.items():
                if (entry := entries.get(then)) is not None:
                    now[folder] = PurePosixPath(entry.old)
                    if entry.kept is not None and (record := self._record_at(PurePosixPath(entry.kept))) is not None:
                        self.earlier[folder].append(_Earlier(now[folder], PurePosixPath(entry.kept), record))
            count = self._exact(now)
            if count is not None and (most is None or count > most):
                best, most = dict(now), count
        return best

    def _exact(self, there: Mapping[PurePosixPath, PurePosixPath]) -> int | None:
        """How many runs have a name without anything added; None if one of them had not its place."""
        count = 0
        for folder, then in there.items():
            place = self.places[folder]
            if not place.is_at(then, self.convention):
                return None
            count += then == place.run_folder(self.convention)
        return count

    def _record_at(self, path: PurePosixPath) -> records.RunRecord | None:
        """A run.json that an earlier migration kept; None where a later one brought it back."""
        with suppress(RefusedError):
            return records.read_record((self.root / path).parent, path.name)
        return None

    # --- lists of runs without files

    def _lists(self) -> Iterator[tuple[str, PurePosixPath | None, bytes]]:
        """The lists that change: the old one, or empty; the new one's place; and its content."""
        new: dict[PurePosixPath, tuple[dict[str, records.OverwrittenRun], ...]] = defaultdict(lambda: ({}, {}))
        old: dict[PurePosixPath, bytes] = {}
        listed = [entry.path for entry in self.scan.entries if entry.path.name == records.OVERWRITTEN_FILE]
        for path in (path for path in listed if not self.scan.is_kept(path)):
            try:
                held = records.read_overwritten(self.root / path.parent)
                for kind, runs in enumerate((held.runs, held.without_files)):
                    for run in runs:
                        task = run.task if run.source_task is None else run.source_task
                        place = placement.place_of(
                            run.config, self.convention, source_group=run.group, source_task=task
                        )
                        new[place.folder][kind][run.run_id] = replace(run, group=place.group, task=place.task)
            except RefusedError as error:
                self._refuse(path, error)
                return
            old[path] = records.signed(replace(held, more={}))
        for folder, kinds in new.items():
            path = folder / records.OVERWRITTEN_FILE
            found, others = (tuple(runs[name] for name in sorted(runs)) for runs in kinds)
            data = records.signed(records.OverwrittenList(runs=found, without_files=others))
            if old.pop(path, None) != data:
                yield str(path) if path in listed else "", path, data
        for path in old:
            yield str(path), None, b""
        yield from self._refused_list()

    def _refused_list(self) -> Iterator[tuple[str, PurePosixPath | None, bytes]]:
        """The list of refused files, with the groups and tasks of the present convention, where these are known."""
        path = PurePosixPath(records.REFUSED_FILE)
        try:
            listed = records.read_refused(self.root)
        except RefusedError as error:
            self._refuse(path, error)
            return
        found = []
        for item in listed:
            with suppress(RefusedError):
                place = placement.place_of(item.config, self.convention, source_group=item.group, source_task=item.task)
                item = replace(item, group=place.group, task=place.task)
            found.append(item)
        if tuple(found) != listed:
            yield str(path), path, records.signed(records.RefusedList(files=tuple(found)))

    # --- the steps

    def _folder_steps(self) -> list[tuple[PurePosixPath, PurePosixPath]]:
        """Where each run folder goes, with nothing in its way but what goes before."""
        ways = [(change.run.folder, change.folder) for change in self.changes if change.run.folder != change.folder]
        going = {old for old, _ in ways}
        soft = {above for old in going for above in old.parents} | {PurePosixPath(item) for item, _, _ in self.lists}
        static = {
            entry.path: entry.kind
            for entry in self.scan.entries
            if entry.path not in soft and entry.path not in going and going.isdisjoint(entry.path.parents)
        }
        above_static = {above for path in static for above in path.parents}
        counts = Counter(new for _, new in ways)
        for old, new in ways:
            if counts[new] > 1:
                self._refuse(
                    old,
                    RefusedError(
                        f"{counts[new]} runs belong into {new}, and nothing tells them apart",
                        code="taken",
                        fix="See which of them are copies: ckptman validate --deep; and move these out of the tree.",
                    ),
                )
            files_above = [above for above in new.parents if static.get(above, "folder") != "folder"]
            if new in static or new in above_static or files_above:
                there = files_above[0] if files_above else new
                self._refuse(
                    old,
                    RefusedError(
                        f"it belongs into {new}, and something else is there: {there}",
                        code="taken",
                        fix="Look at it with: ckptman validate; and move it out of the tree.",
                    ),
                )
        return ways

    def prepare(self, folder: PurePosixPath) -> Journal:
        """Write what the migration needs, its journal last. From then on it can go on, or back."""
        home = self.root / folder
        for name in ("new", "kept"):
            make_folders(home / name, self.root)
        things = itertools.count()
        steps: list[Step] = []

        def single(old: PurePosixPath | str, new: PurePosixPath | str, at: PurePosixPath | str | None = None) -> None:
            """A step of its own; `at`: where the thing is until then."""
            inode = FileState.of(self.root / (old if at is None else at)).inode
            steps.append(Step(thing=next(things), inode=inode, old=str(old), new=str(new)))

        lists = []
        for index, (old, new, data) in enumerate(self.lists):
            if old:
                single(old, folder / "kept" / f"list{index}.json")
            lists.append((index, new, data, old))
        steps += self._chained(self.way, folder / "aside", things)
        runs = [
            self._steps_of(change, folder, index, single, steps, things) for index, change in enumerate(self.changes)
        ]
        for index, new, data, _ in lists:
            if new is not None:
                path = folder / "new" / f"list{index}.json"
                write_atomically(self.root / path, data, replace=True, root=self.root)
                single(path, new)
        moved = (
            Moved(old=str(folder / "kept" / f"list{index}.json") if old else "", new=str(new or ""))
            for index, new, _, old in lists
        )
        journal = Journal(
            state=journals.BEGUN,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            runs=tuple(runs),
            lists=tuple(moved),
            steps=tuple(steps),
        )
        journals.write_journal(self.root, folder, journal)
        return journal

    def _chained(
        self,
        ways: Iterable[_Way],
        aside: PurePosixPath,
        things: Iterator[int],
        at: PurePosixPath | None = None,
    ) -> Iterator[Step]:
        """Renames in an order in which each finds its place free; what is in another's way goes aside first.

        Args:
            at: The folder in which the things are until then.
        """
        pending = [(next(things), old, new) for old, new in ways]
        inodes = {
            thing: FileState.of(self.root / (old if at is None else at / old.name)).inode for thing, old, _ in pending
        }
        count = itertools.count()
        while pending:
            olds = {old for _, old, _ in pending}
            above = Counter(parent for old in olds for parent in old.parents)
            ready = []
            for thing, old, new in pending:
                if new not in olds and not above[new] and olds.isdisjoint(new.parents):
                    ready.append((thing, old, new))
            if not ready:
                thing, old, new = next(item for item in pending if item[1].parent != aside)
                step_aside = aside / str(next(count))
                yield Step(thing=thing, inode=inodes[thing], old=str(old), new=str(step_aside))
                pending[pending.index((thing, old, new))] = thing, step_aside, new
            for thing, old, new in ready:
                yield Step(thing=thing, inode=inodes[thing], old=str(old), new=str(new))
                pending.remove((thing, old, new))

    def _steps_of(
        self,
        change: _Change,
        folder: PurePosixPath,
        index: int,
        single: Callable[..., None],
        steps: list[Step],
        things: Iterator[int],
    ) -> MigratedRun:
        """The steps in a run's folder, once that is where it belongs: its files, then its record."""
        before, after = change.run.folder, change.folder
        here = {name for name in change.names if (self.root / before / name).exists()}
        ways = [(after / old, after / new) for old, new in change.names.items() if old != new and old in here]
        steps += self._chained(ways, folder / "aside" / f"files{index}", things, at=before)
        kept = None
        if change.record != change.old:
            if not records.is_as_written(self.root / before / records.RUN_FILE):
                raise RefusedError(
                    f"{before / records.RUN_FILE} {records.CHANGED}", code="record-changed", fix=records.CHANGED_FIX
                )
            kept = folder / "kept" / f"{index}.json"
            single(after / records.RUN_FILE, kept, before / records.RUN_FILE)
            if change.kept is None:
                new = folder / "new" / str(index) / records.RUN_FILE
                make_folders((self.root / new).parent, self.root)
                records.write_record((self.root / new).parent, change.record, root=self.root)
            else:
                new = change.kept
            sha256 = files.hash_file(self.root / new)[0]
            single(new, after / records.RUN_FILE)
        else:
            sha256 = files.hash_file(self.root / before / records.RUN_FILE)[0]
        return self._migrated(change, sha256, kept)

    def _migrated(self, change: _Change, sha256: str, kept: PurePosixPath | None) -> MigratedRun:
        before, after = change.run.folder, change.folder
        return MigratedRun(
            old=str(before),
            new=str(after),
            files=tuple(Moved(old=str(before / old), new=str(after / new)) for old, new in change.names.items()),
            record_sha256=sha256,
            kept=None if kept is None else str(kept),
        )


# --- carrying it out --------------------------------------------------------------------------------------------------


def _carry_out(root: Path, folder: PurePosixPath, journal: Journal, progress: Progress | None) -> None:
    """Do the steps that are not done yet."""
    done = _done_steps(root, journal)
    for index, step in enumerate(journal.steps):
        if index not in done:
            moving.move_within(root, PurePosixPath(step.old), PurePosixPath(step.new))
            moving.remove_emptied(root, PurePosixPath(step.old))
        if progress is not None:
            progress(index + 1, len(journal.steps))
    journals.write_journal(root, folder, replace(journal, state=journals.DONE))


def _undone(
    root: Path, folder: PurePosixPath, journal: Journal, *, dry_run: bool, progress: Progress | None
) -> MigrateResult:
    """Take a migration back: its steps, from the last to the first."""
    if journal.state == journals.DONE:
        _check_unchanged(root, journal)
        _check_free(root, journal)
    result = replace(
        _result(root, folder, journal, dry_run=dry_run, undo=True, resumed=journal.state != journals.DONE),
        runs=tuple(
            replace(run, old=run.new, new=run.old, files=tuple(Moved(old=f.new, new=f.old) for f in run.files))
            for run in journal.runs
        ),
    )
    if dry_run:
        return result
    journals.write_journal(root, folder, replace(journal, state=journals.UNDOING))
    done = _done_steps(root, journal)
    for count, (index, step) in enumerate(reversed([*enumerate(journal.steps)]), 1):
        if index in done:
            moving.move_within(root, PurePosixPath(step.new), PurePosixPath(step.old))
            moving.remove_emptied(root, PurePosixPath(step.new))
        if progress is not None:
            progress(count, len(journal.steps))
    _forget(root, folder)
    return result


def _check_unchanged(root: Path, journal: Journal) -> None:
    """See to it that nothing would be lost: what was written into a run since then would be.

    Raises:
        RefusedError: (`changed`) if something was.
    """
    for run in journal.runs:
        path = root / run.new / records.RUN_FILE
        if not path.exists() or files.hash_file(path)[0] != run.record_sha256:
            raise RefusedError(
                f"{run.new} was changed after it was migrated, so that it is not taken back",
                code="changed",
                fix="Let the convention say what it said before, and migrate: what was added is then kept.",
            )


def _check_free(root: Path, journal: Journal) -> None:
    """See to it that each run can go back to where it was.

    Raises:
        RefusedError: (`taken`) if something has come there.
    """
    new = {PurePosixPath(run.new) for run in journal.runs}
    going = new | {above for path in new for above in path.parents}
    for run in journal.runs:
        if PurePosixPath(run.old) not in going and (root / run.old).exists():
            raise RefusedError(
                f"{run.new} is not taken back to {run.old}: something else is there now",
                code="taken",
                fix="Move that away, and do it again.",
            )


def _done_steps(root: Path, journal: Journal) -> set[int]:
    """The steps that are done: of each thing those before the path at which it is found.

    A tree that was copied has other inodes: of one whose migration was done, the last paths count.
    """
    chains: dict[int, list[int]] = defaultdict(list)
    for index, step in enumerate(journal.steps):
        chains[step.thing].append(index)
    done: set[int] = set()
    for indices in chains.values():
        steps = [journal.steps[index] for index in indices]
        paths = [steps[0].old, *(step.new for step in steps)]
        found = [at for at, path in enumerate(paths) if _inode_at(root / path) == steps[0].inode]
        if not found and journal.state == journals.DONE and _inode_at(root / paths[-1]) is not None:
            found = [len(steps)]
        done.update(indices[: found[-1]] if found else ())
    return done


def _inode_at(path: Path) -> int | None:
    try:
        return FileState.of(path).inode
    except RefusedError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise  # what cannot be looked at is not absent


def _forget(root: Path, folder: PurePosixPath) -> None:
    """Remove what the migration had written for itself, its journal last."""
    folders.remove_partials(root / folder, root)
    above = folders.open_folder(root / folder, root)
    try:
        folders.discard_tree(above, "new")
    finally:
        files.close(above)
    for name in ("kept", "aside"):
        if (root / folder / name).is_dir():
            moving.remove_empty_folder(root, folder / name)
    files.remove(root / folder / records.JOURNAL)
    moving.remove_empty_folder(root, folder)
    moving.remove_emptied(root, folder)
