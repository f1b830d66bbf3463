"""The W&B runs of a source, and which of them wrote a checkpoint.

W&B's folders lie beside the checkpoints as a rule, but not always: jobs that share a process, or a `WANDB_DIR`, leave
all of them in one place. So the runs recorded nearest to a file are asked first, and those farther away only where no
nearer one can have written it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ckptman.raw.attribution import AMBIGUOUS, NONE, Attribution, attribute
from ckptman.raw.scanning import SAVE_FOLDER, wandb_home
from ckptman.raw.wandb_runs import WandbRun
from ckptman.rules import Convention
from ckptman.rules import naming as naming_rules


@dataclass(frozen=True)
class Claim:
    """A checkpoint whose run is sought."""

    path: Path
    config: Mapping[str, Any]
    saved_at: float
    """Modification time, in seconds since 1970."""
    sha256: str
    run_id: str | None = None
    """The run id that the checkpoint itself holds."""


class WandbIndex:
    """W&B runs by id, and by how near to a file their folders lie."""

    def __init__(self, runs: Sequence[WandbRun], convention: Convention) -> None:
        self.runs = tuple(runs)
        self.by_id = {run.run_id: run for run in runs}
        self._convention = convention
        self._at: dict[Path, list[WandbRun]] = defaultdict(list)
        self._under: dict[Path, list[WandbRun]] = defaultdict(list)
        for run in runs:
            homes = {wandb_home(folder, convention) for folder in run.folders}
            for home in homes:
                self._at[home].append(run)
            for folder in {parent for home in homes for parent in (home, *home.parents)}:
                self._under[folder].append(run)

    def beside(self, file: Path) -> Iterator[list[WandbRun]]:
        """The runs that are recorded in each folder around a file, from the nearest that has any outwards."""
        return (self._at[folder] for folder in file.parents if folder in self._at)

    def around(self, file: Path) -> Iterator[list[WandbRun]]:
        """The runs that are recorded anywhere below each folder around a file, from the nearest that has any outwards;
        each list has more runs than the one before."""
        count = 0
        for folder in file.parents:
            runs = self._under.get(folder, [])
            if len(runs) > count:
                yield runs
                count = len(runs)

    def attribute(self, claims: Sequence[Claim], owned: Mapping[Path, str | None]) -> list[Attribution]:
        """Find the run that wrote each checkpoint.

        A run that is recorded elsewhere, not beside the file, counts only if it was told to save into the same folder
        in the same group, and has not left another file of that name.

        Args:
            claims: The checkpoints.
            owned: Checkpoints whose run is known, and its id.
        """
        near = [self._near(claim) for claim in claims]
        holders: dict[tuple[str, str], set[Path]] = defaultdict(set)
        decided = [(claim.path, found.run_id) for claim, found in zip(claims, near, strict=True)]
        for path, run_id in (*owned.items(), *decided):
            if run_id is not None:
                holders[path.name, run_id].add(path)
        wide = [
            self._far(claim, holders) if found.code == NONE else found
            for claim, found in zip(claims, near, strict=True)
        ]
        return self._without_contradictions(claims, near, wide)

    def config_by_name(
        self, file: Path, name: naming_rules.CheckpointName, *, group: str | None, seed: int | None, saved_at: float
    ) -> tuple[Mapping[str, Any], str] | None:
        """The configuration of the one run that can have written a file that holds none, and where that is from.

        Args:
            name: What the file's name says.
            group: The group that the folders around the file say, if any.
            seed: The seed that they say.
            saved_at: Modification time of the file, in seconds since 1970.
        """
        naming, rules = naming_rules.naming_of(self._convention), self._convention
        for level, runs in enumerate(chain(self.beside(file), self.around(file))):
            fitting = [
                run
                for run in runs
                if run.config
                and not naming.disagreements(name, run.config)
                and seed in (None, run.config.get(rules.seed_key))
                and (level == 0 or group in (None, run.config.get(rules.group_key), run.group))
            ]
            for found in (fitting, [run for run in fitting if run.covers(saved_at)]):
                if len(found) == 1:
                    return found[0].config, found[0].config_source
            if fitting:
                return None  # several of the nearest can: one farther away is no better
        return None

    def _near(self, claim: Claim) -> Attribution:
        """Ask the runs that are recorded beside a file, nearest first; the id that a file holds decides at once."""
        ignored = self._convention.ignored_keys
        found = self._ask(claim, [], ignored) if claim.run_id is None else self._ask(claim, self.runs, ignored)
        for runs in self.beside(claim.path):
            if found.code != NONE:
                break
            found = self._ask(claim, runs, ignored)
        return found

    def _far(self, claim: Claim, holders: Mapping[tuple[str, str], set[Path]]) -> Attribution:
        """Ask the runs that are recorded farther and farther away, until one of them fits."""
        ignored = self._convention.ignored_keys - {SAVE_FOLDER, self._convention.group_key}
        found = self._ask(claim, [], ignored)
        for runs in self.around(claim.path):
            free = [run for run in runs if not holders.get((claim.path.name, run.run_id), set()) - {claim.path}]
            found = self._ask(claim, free, ignored)
            if found.code != NONE:
                return replace(found, evidence=f"{found.evidence}; its W&B folder does not lie beside the file")
        return found

    def _ask(self, claim: Claim, runs: Iterable[WandbRun], ignored: Collection[str]) -> Attribution:
        return attribute(
            claim.config,
            claim.saved_at,
            runs,
            ignored_keys=ignored,
            seed_key=self._convention.seed_key,
            run_id=claim.run_id,
        )

    def _without_contradictions(
        self, claims: Sequence[Claim], near: Sequence[Attribution], wide: Sequence[Attribution]
    ) -> list[Attribution]:
        """Leave open what one run, recorded elsewhere, cannot have done: write several files of one name."""
        contents: dict[tuple[str, str], set[str]] = defaultdict(set)
        for claim, first, found in zip(claims, near, wide, strict=True):
            if first is not found and found.run_id is not None:
                contents[claim.path.name, found.run_id].add(claim.sha256)
        settled = []
        for claim, first, found in zip(claims, near, wide, strict=True):
            several = found.run_id is not None and len(contents[claim.path.name, found.run_id]) > 1
            if several and first is not found:
                evidence = f"several files of this name could be of run {found.run_id}, which is recorded elsewhere"
                found = replace(found, run_id=None, code=AMBIGUOUS, evidence=evidence, in_span=None)
            settled.append(found)
        return settled
