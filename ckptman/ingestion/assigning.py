"""`assign`: a person says which run wrote checkpoints of the tree, where no file says it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.formats import read_checkpoint
from ckptman.fs import locks, moving
from ckptman.raw import attribution, scanning, wandb_runs
from ckptman.rules import Convention, comparing, convention_file, placement
from ckptman.text import RefusedError, UsageError, given_path
from ckptman.tree import records, roots

_BEFORE = "; known before: "
PROOF = frozenset({attribution.STORED, attribution.KEY_SET, attribution.TIME_SPAN})
"""What a person's word does not outweigh. An only match is one among the records that were there."""


@dataclass(frozen=True)
class AssignResult:
    """What was said of checkpoints, and where they lie now."""

    root: Path
    run_id: str
    seed: int | None
    by: str
    at: str
    folder: PurePosixPath
    """The run folder, relative to the root."""
    files: tuple[str, ...]
    moves: tuple[tuple[PurePosixPath, PurePosixPath], ...]
    """What gets another path, each relative to the root: the checkpoints, and the rest of a folder that they leave."""
    has_wandb: bool
    """Whether a W&B record of the run was found, which agrees."""
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman assign --json` prints."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "root": str(self.root),
            "dry_run": self.dry_run,
            "run_id": self.run_id,
            "seed": self.seed,
            "by": self.by,
            "at": self.at,
            "folder": str(self.folder),
            "files": list(self.files),
            "moves": [{"path": str(old), "target": str(new)} for old, new in self.moves],
            "has_wandb": self.has_wandb,
        }


@dataclass(frozen=True)
class _Known:
    """What is recorded of the run that a person names."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    wandb: tuple[str, ...] | None = None
    """Its W&B folders, relative to the source root of the checkpoints; None where they were not seen."""


def assign(
    path: str | os.PathLike[str],
    run_id: str,
    *,
    seed: int | None = None,
    root: str | os.PathLike[str] | None = None,
    convention: Convention | None = None,
    dry_run: bool = False,
) -> AssignResult:
    """Say which W&B run wrote the checkpoints of a run folder, or one of them, and with which seed.

    Its run.json keeps who said it, and when. Files go where the run is, or where its seed belongs; nothing is replaced.

    Args:
        path: A run folder of a tree, or a checkpoint in one.
        run_id: W&B's id of the run.
        seed: For a configuration that has none.
        root: The tree; by default the one that `path` lies in.
        convention: The rules; by default those of the nearest ckptman.yaml above `path`, or the built-in ones.
        dry_run: Work it out, and write nothing.

    Raises:
        UsageError: (`no-such-path`, `not-a-run`, `no-tree`, `bad-run-id`, `bad-seed`) if nothing of the kind is there.
        RefusedError: (`contradicted`) if what is known of the files or of the run says otherwise; (`taken`) if a file
            of that run has the same name and other bytes; (`bad-record`) if run.json cannot be used.
    """
    target = given_path(path).absolute()
    if not target.exists():
        raise UsageError(f"{path} is not there", code="no-such-path", fix="Name a run folder, or a checkpoint in one.")
    rules = convention_file.rules_for(convention, target.parent)
    if seed is not None and (type(seed) is not int or seed < 0):
        raise UsageError(f"{seed!r} is no seed", code="bad-seed", fix="Give a whole number of at least 0.")
    if not wandb_runs.is_run_id(run_id):
        raise UsageError(f"{run_id!r} is no W&B run id", code="bad-run-id", fix="W&B shows it in the run's address.")
    tree = _tree_of(target, rules) if root is None else given_path(root, "the path of the tree").absolute()
    with locks.lock_tree(tree):
        records.require_no_migration(tree)
        plan = _Plan(tree, target, run_id, seed, rules)
        plan.check()
        result = plan.result(dry_run=dry_run)
        if not dry_run:
            plan.apply()
    return result


class _Plan:
    """An assignment, worked out when this is made."""

    def __init__(self, root: Path, target: Path, run_id: str, seed: int | None, convention: Convention) -> None:
        self.root, self.run_id, self.convention = root, run_id, convention
        folder = target if target.is_dir() else target.parent
        self.scan = records.scan_tree(root, convention)
        self.old = PurePosixPath(folder.relative_to(root)) if folder.is_relative_to(root) else PurePosixPath(folder)
        self.record = records.read_record(folder) if (folder / records.RUN_FILE).exists() else _no_run(target)
        self.entries = tuple(e for e in self.record.checkpoints if target == folder or e.file == target.name)
        if not self.entries:
            _no_run(target)
        self.seed = self.record.seed if seed is None else seed
        self.said_seed = seed is not None and self.record.config.get(convention.seed_key) is None
        self.known = self._known()
        # One file of several, in the folder of that very run: they stay together.
        self.stays = not self.is_whole and (self.record.run_id, self.record.seed) == (run_id, self.seed)
        elsewhere = ((at, r) for at, r in self.scan.records if r.run_id == run_id and at != self.old)
        self.home = (self.old, self.record) if self.stays else next(elsewhere, None)
        self.by, self.at = _person(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.new = self._folder()

    @property
    def is_whole(self) -> bool:
        """Whether all of the folder's checkpoints are meant."""
        return len(self.entries) == len(self.record.checkpoints)

    @property
    def is_all_moved(self) -> bool:
        """Whether the folder is renamed, with all that is in it."""
        return self.is_whole and self.home is None

    @property
    def _config(self) -> Mapping[str, Any]:
        said = {self.convention.seed_key: self.seed} if self.said_seed else {}
        return {**self.record.config, **said}

    # --- what is known --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse what is known to be otherwise."""
        record, key = self.record, self.convention.seed_key
        if self.seed != record.seed and not self.said_seed:
            raise self._contradicted(f"the configuration has {key} {record.config.get(key)!r}, not {self.seed}")
        for entry in self.entries:
            try:
                held = read_checkpoint(self.root / self.old / entry.file, self.convention.checkpoint).run_id
            except RefusedError:
                continue  # a damaged file says nothing
            if held not in (None, self.run_id):
                raise self._contradicted(f"{entry.file} holds the id of the run that wrote it: {held}")
        if record.run_id not in (None, self.run_id) and record.attribution.code in PROOF:
            raise self._contradicted(f"run {record.run_id} wrote it: {record.attribution.evidence}")
        config = self._config
        ignored = self.convention.ignored_keys
        for known in self.known:
            if different := comparing.differing_keys(config, known.config, ignored):
                pairs = (f"{name} {known.config[name]!r}, not {config[name]!r}" for name in different[:5])
                raise self._contradicted(f"run {self.run_id} was configured with {', '.join(pairs)}")
        if self.home is not None:
            self._check_home(*self.home)

    def _check_home(self, folder: PurePosixPath, record: records.RunRecord) -> None:
        if (record.group, record.family, record.task, record.seed) != (
            self.record.group, self.record.family, self.record.task, self.seed,
        ):  # fmt: skip
            raise self._contradicted(f"run {self.run_id} is in {folder}: another task or seed")
        held = {entry.file: entry.sha256 for entry in record.checkpoints}
        for entry in self.entries:
            if held.get(entry.file, entry.sha256) != entry.sha256:
                raise RefusedError(
                    f"{folder} holds {entry.file} of run {self.run_id} already, with other bytes",
                    code="taken",
                    fix="One run writes one file of a name: look at both, and assign that one first which is wrong.",
                )

    def _contradicted(self, reason: str) -> RefusedError:
        return RefusedError(
            f"{self.old} cannot be of run {self.run_id}"
            + (f" with seed {self.seed}" if self.said_seed or self.seed != self.record.seed else "")
            + f": {reason}",
            code="contradicted",
            fix="Nothing was changed. What run.json knows so far: ckptman show FILE",
        )

    def _known(self) -> list[_Known]:
        """All records of the run: in the tree, of overwritten runs, and at the source, where that is still there."""
        others = (record for at, record in self.scan.records if at != self.old)
        found = [_Known(record.config, record.metrics) for record in others if record.run_id == self.run_id]
        for runs in (*self.scan.overwritten.values(), *self.scan.without_files.values()):
            found += [_Known(run.config, run.metrics) for run in runs if run.run_id == self.run_id]
        at_source = [run for folder in self._task_folders() for run in self._wandb(folder)]
        for run in wandb_runs.merge_requeued(at_source):
            below = [folder for folder in run.folders if folder.is_relative_to(self.record.source.root)]
            folders = tuple(str(folder.relative_to(self.record.source.root)) for folder in below)
            found.append(_Known(run.config, run.summary, folders))
        return found

    def _task_folders(self) -> set[Path]:
        """The task folders of the source from which the checkpoints came, as far as they are still there."""
        paths = (Path(e.source.root or self.record.source.root, e.source.path) for e in self.entries)
        return {
            folder
            for path in paths
            if (folder := placement.task_folder_of(path.parent, self.convention)) is not None and folder.is_dir()
        }

    def _wandb(self, folder: Path) -> Iterator[wandb_runs.WandbRun]:
        for path in scanning.scan_source(folder, self.convention, leave_out=self.root).wandb_folders:
            if wandb_runs.folder_run_id(path.name) == self.run_id:
                try:
                    yield wandb_runs.read_run_folder(path)
                except RefusedError:
                    continue  # it says nothing

    # --- what comes of it -----------------------------------------------------------------------------------------

    def _folder(self) -> PurePosixPath:
        """The run's folder: the one that it has, else this one if its name is right, else a free one."""
        if self.home is not None:
            return self.home[0]
        was = (self.record.run_id, *(entry.sha256[:8] for entry in self.record.checkpoints))
        first, *notes = self.old.name.split("-")
        kept = [note for note in notes if note not in was]
        base = self.convention.folders.run(self.seed) if self.seed != self.record.seed else first
        if self.is_whole and (base, kept) == (first, notes):
            return self.old
        taken = {entry.path for entry in self.scan.entries} - ({self.old} if self.is_whole else set())
        names = ("-".join((base, *kept)), "-".join((base, *kept, self.run_id)))
        free = (self.old.with_name(name) for name in names)
        return next((folder for folder in free if folder not in taken), self.old.with_name(names[1]))

    def result(self, *, dry_run: bool) -> AssignResult:
        """What it comes to."""
        return AssignResult(
            root=self.root,
            run_id=self.run_id,
            seed=self.seed,
            by=self.by,
            at=self.at,
            folder=self.new,
            files=tuple(entry.file for entry in self.entries),
            moves=tuple(self._moves()),
            has_wandb=any(known.wandb is not None or known.config for known in self.known),
            dry_run=dry_run,
        )

    def _moves(self) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
        if self.new == self.old:
            return
        if self.is_all_moved:
            yield self.old, self.new
            return
        held = {entry.file for entry in self.home[1].checkpoints} if self.home is not None else set()
        for entry in self.entries:
            if entry.file not in held:  # the same bytes are there: the copy is put away with the rest
                yield self.old / entry.file, self.new / entry.file
        if self.is_whole:
            yield self.old, moving.free_name(self.root, PurePosixPath(records.TRASH, self.old))
        else:
            for entry in self.entries:
                if entry.file in held:
                    path = self.old / entry.file
                    yield path, moving.free_name(self.root, PurePosixPath(records.TRASH, path))

    def apply(self) -> None:
        """Move the files, then write each run.json."""
        self._keep_former()
        for old, new in self._moves():
            moving.move_within(self.root, old, new)
            moving.remove_emptied(self.root, old)
        records.write_record(self.root / self.new, self._assigned(), root=self.root)
        if not self.is_whole and not self.stays:
            files = {entry.file for entry in self.entries}
            rest = tuple(entry for entry in self.record.checkpoints if entry not in self.entries)
            measured = tuple(item for item in self.record.evaluations if item.get("file") not in files)
            left = replace(self.record, checkpoints=rest, evaluations=measured)
            records.write_record(self.root / self.old, left, root=self.root)

    def _keep_former(self) -> None:
        """List the run that the checkpoints are no longer of, with what it logged, which may stand nowhere else: what a
        person said may be wrong, and is put right by saying the right run."""
        former, folder = self.record, self.old.parent
        listed = self.scan.lists.get(folder, records.OverwrittenList())
        others: set[str | None] = {run.run_id for run in (*listed.runs, *listed.without_files)}
        others |= {record.run_id for at, record in self.scan.records if at != self.old}
        if not (self.is_whole and former.run_id and former.metrics) or former.run_id in {self.run_id, *others}:
            return
        run = records.OverwrittenRun(
            run_id=former.run_id,
            group=former.group,
            task=former.task,
            seed=former.seed,
            config=former.config,
            metrics=former.metrics,
            source=records.LostSource(root=former.source.root, wandb=former.source.wandb),
        )
        runs = tuple(sorted((*listed.without_files, run), key=lambda item: item.run_id))
        records.write_overwritten(self.root / folder, replace(listed, without_files=runs), root=self.root)

    def _assigned(self) -> records.RunRecord:
        """The run's record with the checkpoints in it, and who said so."""
        files = {entry.file for entry in self.entries}
        measured = tuple(item for item in self.record.evaluations if item.get("file") in files)
        if self.home is not None:
            record = self.home[1]
            evidence = f"{record.attribution.evidence}; {self.by} said that {' and '.join(sorted(files))} is of it"
            note = replace(record.attribution, evidence=evidence, assigned_by=self.by, assigned_at=self.at)
            held = {entry.file for entry in record.checkpoints}
            added = [self._as_of(entry, record) for entry in self.entries if entry.file not in held]
            ordered = tuple(sorted((*record.checkpoints, *added), key=lambda entry: (entry.step, entry.file)))
            evaluations = record.evaluations if self.stays else (*record.evaluations, *measured)
            return replace(record, checkpoints=ordered, evaluations=evaluations, attribution=note)
        before = self.record.attribution.evidence.rpartition(_BEFORE)[2]  # without what a person said before
        note = replace(
            self.record.attribution,
            code=records.ASSIGNED,
            evidence=f"{self.by} said so{_BEFORE}{before}",
            assigned_by=self.by,
            assigned_at=self.at,
        )
        metrics = next((known.metrics for known in self.known if known.metrics), {})
        folders = next((known.wandb for known in self.known if known.wandb), ())
        same = self.record.run_id == self.run_id
        return replace(
            self.record,
            run_id=self.run_id,
            seed=self.seed,
            config=self._config,
            config_source=records.ASSIGNED if self.said_seed else self.record.config_source,
            metrics=metrics or (self.record.metrics if same else {}),
            evaluations=measured,
            source=replace(self.record.source, wandb=folders or (self.record.source.wandb if same else ())),
            wandb=self.record.wandb if self.is_whole else (),
            checkpoints=self.entries,
            attribution=note,
        )

    def _as_of(self, entry: records.CheckpointEntry, record: records.RunRecord) -> records.CheckpointEntry:
        """An entry in another record, which may name another source root."""
        mine, other = self.record.source.root, record.source.root

        def moved(source: records.SourceFile) -> records.SourceFile:
            root = source.root or mine
            return replace(source, root=None if root == other else root)

        return replace(entry, source=moved(entry.source), duplicates=tuple(map(moved, entry.duplicates)))


def _no_run(target: Path) -> Any:
    raise UsageError(
        f"{target} is neither a run folder of a tree, with its run.json, nor a checkpoint that one lists",
        code="not-a-run",
        fix="Bring it into a tree first: ckptman ingest",
    )


def _tree_of(path: Path, convention: Convention) -> Path:
    tree = roots.find_tree(path.parent, convention)
    if tree is None:
        raise UsageError(
            f"{path} lies in no tree", code="no-tree", fix="Name a run folder of one, or a checkpoint in it."
        )
    return tree


def _person() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
