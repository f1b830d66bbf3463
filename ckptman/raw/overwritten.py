"""Which W&B runs lost their checkpoints to a later run that wrote files of the same names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from ckptman.raw.scanning import SAVE_FOLDER, wandb_home
from ckptman.raw.wandb_runs import WandbRun
from ckptman.rules import Convention, comparing, placement, recipe
from ckptman.rules import naming as naming_rules
from ckptman.text import RefusedError
from ckptman.tree import records


@dataclass(frozen=True, slots=True)
class Owner:
    """Who wrote a checkpoint, as far as it is known."""

    run_id: str | None
    seed: int | None
    config: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    """As `wandb_index.Claim` has it."""
    is_refused: bool = False
    """Whether the file could not be read, so that it is in no tree."""
    candidates: tuple[str, ...] = ()
    """Ids of the runs of which one wrote it, where it is not known which."""

    @classmethod
    def recorded(cls, record: records.RunRecord, entry: records.CheckpointEntry) -> Owner:
        """As a tree has it."""
        candidates = () if record.run_id is not None else record.attribution.candidates
        return cls(record.run_id, record.seed, record.config, entry.sha256, candidates=candidates)

    def may_be(self, run_id: str, seed: int | None) -> bool:
        """Whether the run with this id could have written the file; its seed is None where the record tells none."""
        if self.run_id is None and not self.candidates:
            return _may_be_one(self.seed, seed)
        return run_id in (self.run_id, *self.candidates)


@dataclass(frozen=True)
class LostFiles:
    """A W&B run some of whose checkpoints are not there."""

    run: WandbRun
    overwritten: tuple[str, ...]
    """Names under which another run's file lies now."""
    missing: tuple[str, ...]
    """Names under which nothing lies, though the run got far enough to save them."""
    overwritten_by: tuple[str, ...]
    survives: bool
    """Whether any checkpoint of the run is there."""
    folder: Path
    """Where the run saved, or where its W&B folder lies."""
    refused: tuple[str, ...] = ()
    """Names under which a file of the run lies that could not be read."""
    unsure: tuple[str, ...] = ()
    """Names under which a file lies that the run may have written."""


def find_lost_files(
    runs: Iterable[WandbRun],
    owners: Mapping[Path, Owner],
    present: Collection[str],
    convention: Convention,
) -> list[LostFiles]:
    """Compare what each run must have saved with what lies where it saved.

    That is the task folder around its W&B folder or, where that holds no file of the name (processes that share a
    `WANDB_DIR` leave all W&B folders in one place), the folder that the run's configuration names.

    Args:
        runs: W&B runs; their configuration and last iteration tell which files each of them saved.
        owners: Every checkpoint file known, and who wrote it.
        present: Ids of runs with at least one checkpoint.

    Returns:
        A record for each run that saved nothing, or lost something, by run id.
    """
    found: list[LostFiles] = []
    if not (runs := list(runs)):
        return found
    files = _Files(owners, convention)
    ended = {run.run_id: run.ended for run in runs}
    for run in runs:
        names = saved_names(run, convention)
        seed = placement.seed_of(run.config.get(convention.seed_key))
        saved = {name: files.where_saved(run, name) for name in names}
        # What an earlier run wrote was not written over this one's.
        saved = {name: [at for at in paths if not _is_before(ended, owners[at], run)] for name, paths in saved.items()}
        where = {name: paths for name, paths in saved.items() if paths}
        others = {
            name: paths
            for name, paths in where.items()
            if not any(owners[path].may_be(run.run_id, seed) for path in paths)
        }
        missing = tuple(name for name in names if name not in where)
        survives = run.run_id in present
        if others or missing or not survives:
            by = {owner.run_id for paths in others.values() for owner in map(owners.__getitem__, paths)}
            folders = [paths[0].parent for paths in (others or where).values()]
            found.append(
                LostFiles(
                    run=run,
                    overwritten=tuple(others),
                    missing=missing,
                    overwritten_by=tuple(sorted(run_id for run_id in by if run_id is not None)),
                    survives=survives,
                    folder=folders[0] if folders else wandb_home(run.folders[0], convention),
                    refused=tuple(name for name, paths in where.items() if all(owners[p].is_refused for p in paths)),
                    unsure=tuple(
                        name
                        for name in names
                        if name in where.keys() - others.keys() and all(owners[p].run_id is None for p in where[name])
                    ),
                )
            )
    return sorted(found, key=lambda item: item.run.run_id)


def _may_be_one(seed: int | None, other: int | None) -> bool:
    """Whether two seeds may be one; None is one that is not told."""
    return None in (seed, other) or seed == other


def _is_before(ended: Mapping[str, float | None], owner: Owner, run: WandbRun) -> bool:
    """Whether the run that wrote a file had ended when another began."""
    end = ended.get(owner.run_id or "")
    return end is not None and run.started is not None and end < run.started


def owner_of_refused(
    path: Path, saved_at: float | None, near: Iterable[Iterable[WandbRun]], convention: Convention
) -> Owner:
    """Who wrote a file that could not be read: the one run that saved a file of its name; of several, the one that did
    at its time.

    Args:
        path: With the name that it would have as a checkpoint.
        saved_at: Modification time of the file, in seconds since 1970.
        near: The runs that are recorded in each folder around it, from the nearest outwards.
    """
    seed = placement.named_by_folders(path, convention)[2]
    for runs in near:
        writers = [
            run
            for run in runs
            if path.name in saved_names(run, convention)
            and _may_be_one(seed, placement.seed_of(run.config.get(convention.seed_key)))
        ]
        for found in (writers, [run for run in writers if saved_at is not None and run.covers(saved_at)]):
            if len(found) == 1:
                return Owner(found[0].run_id, None, found[0].config, is_refused=True)
        if writers:
            break
    return Owner(None, seed, is_refused=True)


class _Files:
    """Checkpoint files by name, and which of them lie where a run saved."""

    def __init__(self, owners: Mapping[Path, Owner], convention: Convention) -> None:
        self._owners = owners
        self._convention = convention
        self._beside: dict[tuple[str, Path, Path | None], list[Path]] = defaultdict(list)
        """By name, by each folder above the file, and by its task folder."""
        self._alike: dict[str, comparing.ByConfiguration[Path]] = defaultdict(comparing.ByConfiguration)
        """By name."""
        for path, owner in sorted(owners.items()):
            task_folder = placement.task_folder_of(path, convention)
            name = placement.name_at_source(path, convention)
            for folder in path.parents:
                self._beside[name, folder, task_folder].append(path)
            self._alike[name].add(self._traits(owner.config), path)

    def where_saved(self, run: WandbRun, name: str) -> list[Path]:
        """The files of this name that lie where the run saved its own."""
        homes = {wandb_home(folder, self._convention) for folder in run.folders}
        where = ((name, home, placement.task_folder_of(home, self._convention)) for home in homes)
        near = {path for place in where for path in self._beside.get(place, ())}
        if beside := [path for path in sorted(near) if self._may_share_folder(run, path)]:
            return beside
        known = self._alike.get(name)
        found = () if known is None else known.agreeing(self._traits(run.config))
        alike = [path for path in sorted(found) if self._may_share_folder(run, path)]
        if named := [path for path in alike if self._is_in_named_folder(run, path)]:
            nearest = max(_shared_parts(path, home) for path in named for home in homes)
            return [path for path in named if any(_shared_parts(path, home) == nearest for home in homes)]
        return [path for path in alike if any(self._is_below(path, home) for home in homes)]

    def _may_share_folder(self, run: WandbRun, path: Path) -> bool:
        """Whether nothing says that the run saved elsewhere than where this file lies."""
        rules, config = self._convention, self._owners[path].config
        folders = {_named_folder(each, rules) for each in (run.config, config)} - {()}
        groups = {group for each in (run.config, config) if isinstance(group := each.get(rules.group_key), str)}
        seeds = placement.named_by_folders(path, rules)[2], placement.seed_of(run.config.get(rules.seed_key))
        return len(folders) < 2 and len(groups) < 2 and _may_be_one(*seeds)

    def _is_below(self, path: Path, home: Path) -> bool:
        """Whether a file lies below a folder where W&B recorded the runs of several tasks."""
        return path.is_relative_to(home) and placement.task_folder_of(home, self._convention) is None

    def _is_in_named_folder(self, run: WandbRun, path: Path) -> bool:
        """Whether a file lies in the task folder that the run's configuration names."""
        tail, parts = _named_folder(run.config, self._convention), path.parent.parts
        return bool(tail) and any(parts[at : at + len(tail)] == tail for at in range(len(parts) - len(tail) + 1))

    def _traits(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a run's files have in common: the configuration but for the seed, the group, and the folder it names."""
        rules = self._convention
        traits = {key: value for key, value in config.items() if key not in rules.ignored_keys | {rules.seed_key}}
        if isinstance(group := config.get(rules.group_key), str):
            traits[rules.group_key] = group
        if folder := _named_folder(config, rules):
            traits["named folder"] = folder
        return traits


def _named_folder(config: Mapping[str, Any], convention: Convention) -> tuple[str, ...]:
    """The last parts of the folder that a run was told to save into, from its group on; none where it names no task.

    What stands before is the machine's own: the outputs may have been copied from elsewhere.
    """
    said = config.get(SAVE_FOLDER)
    path = PurePath(os.path.normpath(said)) if isinstance(said, str) else PurePath()
    task_folder = placement.task_folder_of(path, convention)
    return () if task_folder is None else path.parts[max(len(task_folder.parts) - 2, 0) :]


def _shared_parts(one: Path, other: Path) -> int:
    """How many folders from the root on two paths share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.parts, other.parts, strict=False)))


def saved_names(run: WandbRun, convention: Convention) -> list[str]:
    """Names of the files that a run has saved, judged by its recipe and its last logged iteration."""
    naming = naming_rules.naming_of(convention)
    names = []
    planned = recipe.saved_by(run.config, convention)
    for prefix in convention.prefixes:
        step, steps = prefix.expected_step(run.config), planned[prefix.name]
        if step is None or (steps is not None and step not in steps) or (run.last_iter is None and not run.finished):
            continue
        # The last log may lie one interval before the save.
        interval = run.config.get("log_interval")
        slack = interval if isinstance(interval, int) else 0
        if run.last_iter is not None and run.last_iter + slack < step:
            continue
        try:
            names.append(naming.name_for(run.config, prefix, step))
        except RefusedError:
            continue  # a configuration that no name can state saved no file of this convention
    return names
