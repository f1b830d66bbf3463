"""Which W&B runs lost their checkpoints to a later run that wrote files of the same names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptman.convention import Convention
from ckptman.errors import RefusedError
from ckptman.naming import naming_of
from ckptman.sources import wandb_home
from ckptman.wandb_runs import WandbRun


@dataclass(frozen=True)
class Owner:
    """Who wrote a checkpoint, as far as it is known."""

    run_id: str | None
    seed: int | None

    def may_be(self, run_id: str, seed: object) -> bool:
        """Whether the run with this id and seed could have written the file."""
        return self.run_id == run_id if self.run_id is not None else self.seed in (None, seed)


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


def find_lost_files(
    runs: Iterable[WandbRun],
    owners: Mapping[Path, Owner],
    present: Collection[str],
    convention: Convention,
) -> list[LostFiles]:
    """Compare what each run must have saved with what lies beside its W&B folder.

    Args:
        runs: W&B runs; their configuration and last iteration tell which files each of them saved.
        owners: Every checkpoint file known, and who wrote it.
        present: Ids of runs with at least one checkpoint.

    Returns:
        A record for each run that saved nothing, or lost something, by run id.
    """
    by_home: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in owners:
        for home in path.parents:
            by_home[home][path.name].append(path)
    found = []
    for run in runs:
        names = _saved_names(run, convention)
        nearby: dict[str, list[Path]] = defaultdict(list)
        for home in {wandb_home(folder, convention) for folder in run.folders}:
            for name, paths in by_home.get(home, {}).items():
                nearby[name].extend(paths)
        seed = run.config.get(convention.seed_key)
        held = {name: [owners[path] for path in nearby[name]] for name in names if name in nearby}
        others = {
            name: owners_of_name
            for name, owners_of_name in held.items()
            if not any(owner.may_be(run.run_id, seed) for owner in owners_of_name)
        }
        missing = tuple(name for name in names if name not in nearby)
        survives = run.run_id in present
        if others or missing or not survives:
            by = {o.run_id for owners_of_name in others.values() for o in owners_of_name if o.run_id is not None}
            found.append(
                LostFiles(
                    run=run,
                    overwritten=tuple(others),
                    missing=missing,
                    overwritten_by=tuple(sorted(by)),
                    survives=survives,
                )
            )
    return sorted(found, key=lambda item: item.run.run_id)


def _saved_names(run: WandbRun, convention: Convention) -> list[str]:
    """Names of the files that a run has saved, judged by its recipe and its last logged iteration."""
    naming = naming_of(convention)
    names = []
    for prefix in convention.prefixes:
        step = prefix.expected_step(run.config)
        if step is None or (run.last_iter is None and not run.finished):
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
