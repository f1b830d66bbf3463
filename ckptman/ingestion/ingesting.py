"""`ingest`: bring the checkpoints of a raw source into the tree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ckptman.fs import Mode, files, folders, locks, make_folders
from ckptman.ingestion import applying
from ckptman.ingestion.applying import Space, Work
from ckptman.ingestion.planning import IngestOptions, Plan, PlannedFolders, Removal, make_plan
from ckptman.ingestion.run_folders import Rows
from ckptman.raw import outputs, scanning
from ckptman.rules import Convention, convention_file, naming
from ckptman.text import RefusedError, UsageError, given_path, json_text, wording
from ckptman.tree import contents, history, records, roots


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did (or, for a dry run, would do) and what it found."""

    plan: Plan
    mode: Mode
    dry_run: bool
    placed: Sequence[records.CheckpointRow]
    refused: tuple[scanning.Refusal, ...]
    deferred: tuple[scanning.Refusal, ...]
    space: Space
    """As of before anything was written."""
    wandb_placed: tuple[str, ...] = ()
    """W&B files that were kept beside their checkpoints, relative to the root."""
    removed: tuple[Removal, ...] = ()
    """Source files that a move took away without placing them, since the tree had their bytes already."""
    histories: tuple[str, ...] = ()
    """Learning curves that were written, relative to the root; of a dry run, those that would be read."""
    warnings: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)
    """What else was written, relative to the root, with its SHA-256: records, lists and learning curves."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of what was placed: path, relative to the root → bytes."""
        return self.placed.sizes if isinstance(self.placed, Rows) else {row.path: row.size for row in self.placed}

    @property
    def again(self) -> IngestResult | None:
        """What the same ingest finds next, if nothing changes: nothing to do. None where it might find anything else.

        It might where this one met something that the next one looks at anew, or learns more of.
        """
        plan = self.plan
        open_ends = (
            self.refused, self.deferred, self.removed, self.wandb_placed, plan.duplicates, plan.completed,
            plan.resolved, plan.ambiguous, plan.wandb_problems, plan.beside_problems, plan.unused_configs,
            plan.contradicted, plan.leftovers, plan.partly_overwritten,
        )  # fmt: skip
        lost = plan.overwritten or plan.without_files
        is_plain = self.mode in (Mode.COPY, Mode.HARDLINK) and not any(file.parts for file in plan.runs.to_place)
        if self.dry_run or not (self.placed and is_plain) or any(open_ends) or (lost and not plan.runs.are_all_known):
            return None
        unchanged: Sequence[records.CheckpointRow] = self.placed
        if plan.unchanged:
            unchanged = tuple(sorted((*plan.unchanged, *self.placed), key=lambda row: row.path))
        return replace(
            self,
            plan=replace(plan, runs=PlannedFolders(), placed=(), unchanged=unchanged),
            placed=(),
            space=replace(self.space, needed=0),
            histories=(),
            warnings=(),
            written={},
        )

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman ingest --json` prints."""
        plan = self.plan
        return {
            "schema_version": records.SCHEMA_VERSION,
            "source": str(plan.source),
            "root": str(plan.root),
            "mode": self.mode.value,
            "dry_run": self.dry_run,
            "space": {"needed": self.space.needed, "free": self.space.free},
            "placed": [row.to_json() for row in self.placed],
            "unchanged": [row.to_json() for row in plan.unchanged],
            "duplicates": [{"source": item.source, "same_as": item.same_as} for item in plan.duplicates],
            "refused": [_refusal_json(item) for item in self.refused],
            "deferred": [_refusal_json(item) for item in self.deferred],
            "renumbered": [
                {"source": item.source, "task": item.task, "source_task": item.source_task} for item in plan.renumbered
            ],
            "regrouped": [
                {"source": item.source, "group": item.group, "source_group": item.source_group}
                for item in plan.regrouped
            ],
            "completed": [str(folder) for folder in plan.completed],
            "removed": [{"source": item.source, "same_as": item.same_as} for item in self.removed],
            "overwritten_runs": [json_text.document_of(run) for run in plan.overwritten],
            "partly_overwritten_runs": [json_text.document_of(run) for run in plan.partly_overwritten],
            "runs_without_files": [
                {
                    "run_id": item.run.run_id,
                    "last_iter": item.run.last_iter,
                    "missing": list(item.missing),
                    "refused": list(item.refused),
                    "config": json_text.jsonable(item.run.config),
                }
                for item in plan.without_files
            ],
            "wandb_problems": [{"source": item.source, "message": item.message} for item in plan.wandb_problems],
            "beside_problems": [{"source": item.source, "message": item.message} for item in plan.beside_problems],
            "passed_over": list(plan.passed_over),
            "resolved": [str(folder) for folder in plan.resolved],
            "system_files": list(plan.system_files),
            "archives": list(plan.archives),
            "unused_configs": [{"source": item.source, "keys": list(item.keys)} for item in plan.unused_configs],
            "ambiguous": [row.path for row in plan.ambiguous],
            "wandb_placed": list(self.wandb_placed),
            "histories": list(self.histories),
            "warnings": list(self.warnings),
        }


def ingest(
    source: str | Path,
    root: str | Path = "checkpoints",
    *,
    convention: Convention | None = None,
    mode: Mode | str = Mode.COPY,
    trust: naming.Trust | str = naming.Trust.NEITHER,
    settle: float = outputs.SETTLE_SECONDS,
    checksum: bool = False,
    follow_symlinks: bool = False,
    with_wandb: bool = False,
    dry_run: bool = False,
    progress: contents.Progress | None = None,
) -> IngestResult:
    """Sort the checkpoints below `source` into the tree `root`.

    Each file goes where the configuration inside it says. Nothing is overwritten, the source is not changed (except
    by `move`, which removes a source file once it is safely in the tree), and doing it again places only what is new.

    Args:
        source: A root of groups, one group, one task folder, one run, one file, or another tree.
        root: The tree; it is made if it does not exist.
        convention: The rules; by default those of the nearest ckptman.yaml in or above the tree, or the built-in ones.
        mode: How files get to their place: copy, hardlink, symlink or move. A move also takes away the source files
            whose bytes are in the tree already, after it has read both.
        trust: Which decides where a file's name and its configuration disagree; by default such a file is refused.
        settle: Seconds for which a cut file may still be being written, and is deferred instead of refused.
        checksum: Read files again whose size, modification time and inode are those of the last ingest, and the
            tree's files.
        follow_symlinks: Follow symbolic links below `source`.
        with_wandb: Keep each run's W&B folder beside its checkpoints.
        dry_run: Work everything out, and write nothing.
        progress: Called with a stage, the bytes done, and the bytes in all. The stages are `reading` (what each new
            file holds), `placing` (copying or linking it under a temporary name), `syncing` (waiting until the disk
            has it, then giving it its name) and `recording` (writing its run's record); the last three take turns.

    Raises:
        UsageError: the source does not exist, or lies inside the tree; a path is empty; the root is no folder; the
            tree is sorted by another numbering; or there is no such `mode` or `trust`.
        MachineError: the tree cannot be written, or another ingest is writing to it; or the disk has no room for the
            files (`disk-full`), which is known before the first one is written. Otherwise what was placed
            before stays, and the next ingest goes on from there.
    """
    source = given_path(source, "the path of the source").absolute()
    root = given_path(root, "the path of the root").absolute()
    rules = convention_file.rules_for(convention, root)
    mode, trust = _chosen(Mode, mode, "mode"), _chosen(naming.Trust, trust, "trust")
    options = IngestOptions(mode, trust, settle, checksum, follow_symlinks)
    with files.calls_of("the ingest ended early"):
        return _ingest(source, root, rules, options, with_wandb=with_wandb, dry_run=dry_run, progress=progress)


def _ingest(
    source: Path,
    root: Path,
    rules: Convention,
    options: IngestOptions,
    *,
    with_wandb: bool,
    dry_run: bool,
    progress: contents.Progress | None,
) -> IngestResult:
    folders.check_root(root, "Name a folder for the tree with --root.")
    _check_apart(source, root, rules)
    if dry_run:
        made = make_plan(source, root, rules, options, progress=progress)
        changed = dict(_changed(made, with_wandb=with_wandb))
        refused = [
            *made.refused,
            *(applying.refusal_of(made, made.root / file, error) for file, error in changed.items()),
        ]
        left = {str(file.parent) for file in changed if file.name == records.RUN_FILE}
        failed = [row.path for row in made.placed if row.path.rpartition("/")[0] in left] if left else ()
        return IngestResult(
            plan=made,
            mode=options.mode,
            dry_run=True,
            placed=_placed(made, failed),
            refused=tuple(sorted(refused, key=_of_refusal)) if changed else made.refused,
            deferred=made.deferred,
            space=applying.space_of(made, options.mode, rules.folders.saved_wandb if with_wandb else None),
            removed=tuple(each for each in made.removals if each.same_as.rpartition("/")[0] not in left),
            histories=tuple(str(folder / history.HISTORY_FILE) for folder in made.runs.with_curves),
            warnings=_warnings(options.mode, made),
        )
    scanning.check_source(source)  # before anything is made for it
    make_folders(root, root)
    with locks.lock_tree(root):
        work = Work(make_plan(source, root, rules, options, progress=progress), rules, options, progress)
        work.run(with_wandb=with_wandb)
    return _done(work)


def _done(work: Work) -> IngestResult:
    """What was done."""
    plan = work.plan
    return IngestResult(
        plan=plan,
        mode=work.mode,
        dry_run=False,
        placed=_placed(plan, work.failed),
        refused=tuple(sorted((*plan.refused, *work.refused), key=_of_refusal)),
        deferred=tuple(sorted((*plan.deferred, *work.deferred), key=_of_refusal)),
        space=work.space,
        wandb_placed=tuple(sorted(work.wandb_placed)),
        removed=tuple(work.removed),
        histories=tuple(sorted(work.histories)),
        warnings=_warnings(work.mode, plan),
        written=work.written,
    )


def _changed(plan: Plan, *, with_wandb: bool) -> Iterator[tuple[PurePosixPath, RefusedError]]:
    """The records that a plan would write anew and that are not as ckptman wrote them: each is left as it is."""
    found = [folder / records.RUN_FILE for folder in plan.runs.recorded(with_wandb=with_wandb)]
    found += [folder / records.OVERWRITTEN_FILE for folder in plan.overwritten_lists]
    if plan.not_taken is not None:
        found.append(PurePosixPath(records.REFUSED_FILE))
    for file in found:
        try:
            records.require_as_written(plan.root / file)
        except RefusedError as error:
            yield file, error


def _of_refusal(item: scanning.Refusal) -> tuple[str, str]:
    """What refusals are sorted by."""
    return item.source, item.code


def _placed(plan: Plan, failed: Collection[str]) -> Sequence[records.CheckpointRow]:
    """What a plan has placed, but for the paths that failed."""
    return tuple(row for row in plan.placed if row.path not in failed) if failed else plan.placed


_Choice = TypeVar("_Choice", bound=StrEnum)


def _chosen(choices: type[_Choice], value: str, what: str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choices)
        raise UsageError(
            f"{what} is {value!r}, which is none", code=f"bad-{what}", fix=f"There are: {known}."
        ) from None


def _check_apart(source: Path, root: Path, rules: Convention) -> None:
    real_source, real_root = source.resolve(), root.resolve()
    if real_source == real_root or real_source.is_relative_to(real_root):
        raise UsageError(
            f"the source {source} is the tree {root} itself, or lies inside it",
            code="source-inside-root",
            fix="Name another tree with --root, or another source.",
        )
    around = roots.tree_around(real_root.parent, rules)
    if around is not None and not roots.is_tree_root(real_root, rules):
        raise UsageError(
            f"the root {root} lies inside the tree {around}",
            code="root-inside-tree",
            fix=f"Name that tree with --root {wording.shell_word(str(around))}, or a folder outside of it.",
        )


def _warnings(mode: Mode, plan: Plan) -> tuple[str, ...]:
    links: dict[Mode, str] = {
        Mode.HARDLINK: "hard links: a later write to a source file changes the tree's file too",
        Mode.SYMLINK: "symbolic links: the tree's files are gone when the source is removed",
    }
    said = (links[mode],) if plan.placed and mode in links else ()
    return (*said, *plan.contradicted)


def _refusal_json(item: scanning.Refusal) -> dict[str, str]:
    return {"source": item.source, "code": item.code, "message": item.message, "fix": item.fix}
