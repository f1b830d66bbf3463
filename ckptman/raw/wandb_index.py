"""The W&B runs of a source, and which of them wrote a checkpoint.

W&B's folders lie beside the checkpoints as a rule, but not always: jobs that share a process, or a `WANDB_DIR`, leave
all of them in one place. So the runs recorded nearest to a file are asked first, and those farther away only where no
nearer one can have written it. Of identical bytes in several places, the place with the best evidence speaks for all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ckptman.raw.attribution import AMBIGUOUS, NONE, Attribution, attribute
from ckptman.raw.overwritten import Owner
from ckptman.raw.scanning import SAVE_FOLDER, wandb_home
from ckptman.raw.wandb_runs import WandbRun
from ckptman.rules import Convention, comparing
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
        self._by_folder = {folder: run for run in runs for folder in run.folders}
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

    def _holding(self, file: Path) -> Iterator[list[WandbRun]]:
        """The run in whose own W&B folder a file lies."""
        return ([self._by_folder[folder]] for folder in file.parents if folder in self._by_folder)

    def around(self, file: Path) -> Iterator[list[WandbRun]]:
        """The runs that are recorded anywhere below each folder around a file, from the nearest that has any outwards;
        each list has more runs than the one before."""
        count = 0
        for folder in file.parents:
            runs = self._under.get(folder, [])
            if len(runs) > count:
                yield runs
                count = len(runs)

    def attribute(self, claims: Sequence[Claim], owners: Mapping[Path, Owner]) -> list[Attribution]:
        """Find the run that wrote each checkpoint; the same one for copies of the same bytes.

        A run that is recorded elsewhere, not beside the file, counts only if it was told to save into the same folder
        in the same group, and has not left another file of that name.

        Args:
            claims: The checkpoints.
            owners: Checkpoints whose run is known.
        """
        copies: dict[str, list[Claim]] = defaultdict(list)
        for claim in claims:
            copies[claim.sha256].append(claim)
        crowd = Counter((claim.path.parent, _said_by(claim)) for claim in claims)
        near = {sha: self._best([(c, self._near(c)) for c in held], crowd) for sha, held in copies.items()}
        near = self._one_file_a_name(near)
        holders: dict[tuple[str, str], set[str]] = defaultdict(set)
        for path, owner in owners.items():
            if owner.run_id is not None:
                holders[path.name, owner.run_id].add(owner.sha256)
        for claim, found in near.values():
            if found.run_id is not None:
                holders[claim.path.name, found.run_id].add(claim.sha256)
        wide = {
            sha: self._best([(c, self._far(c, holders)) for c in copies[sha]], crowd)
            for sha, (_, found) in near.items()
            if found.code == NONE
        }
        settled = {**near, **_without_contradictions(wide)}
        return [
            replace(settled[claim.sha256][1], is_copy=settled[claim.sha256][0].path != claim.path) for claim in claims
        ]

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

    def _near(self, claim: Claim, without: Collection[str] = ()) -> Attribution:
        """Ask the runs that are recorded beside a file, nearest first; the id that a file holds decides at once."""
        ignored = self._convention.ignored_keys
        found = self._ask(claim, [], ignored) if claim.run_id is None else self._ask(claim, self.runs, ignored)
        for runs in chain(self._holding(claim.path), self.beside(claim.path)):
            if found.code != NONE:
                break
            found = self._ask(claim, [run for run in runs if run.run_id not in without], ignored)
        return found

    def _far(self, claim: Claim, holders: Mapping[tuple[str, str], set[str]]) -> Attribution:
        """Ask the runs that are recorded farther and farther away, until one of them fits."""
        ignored = self._convention.ignored_keys - {SAVE_FOLDER, self._convention.group_key}
        found = self._ask(claim, [], ignored)
        for runs in self.around(claim.path):
            free = [run for run in runs if not holders.get((claim.path.name, run.run_id), set()) - {claim.sha256}]
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

    def _best(
        self, copies: Sequence[tuple[Claim, Attribution]], crowd: Mapping[tuple[Path, str], int]
    ) -> tuple[Claim, Attribution]:
        """The copy that tells the run: saved while it ran, in its own folder for checkpoints, the earliest of these.

        Copies that tell different runs equally well leave it open.
        """

        def weight(copy: tuple[Claim, Attribution]) -> tuple[object, ...]:
            claim, found = copy
            fits = found.run_id is not None and found.in_span is True
            own = self._is_saved(claim.path)
            return not fits, found.run_id is None, not found.candidates, not own, claim.saved_at if fits else 0.0

        def place(copy: tuple[Claim, Attribution]) -> tuple[object, ...]:
            claim = copy[0]
            return -crowd[claim.path.parent, _said_by(claim)], claim.saved_at, claim.path

        best = min(map(weight, copies))
        equal = sorted((copy for copy in copies if weight(copy) == best), key=place)
        claim, found = equal[0]
        if len(runs := {other.run_id for _, other in equal}) > 1:
            candidates = tuple(sorted({name for _, other in equal for name in other.candidates}))
            evidence = f"copies of it lie where each of {len(runs)} runs would have saved it"
            return claim, Attribution(None, AMBIGUOUS, evidence, candidates)
        return claim, found

    def _is_saved(self, path: Path) -> bool:
        """Whether a file lies below a folder into which training saves."""
        return self._convention.raw.saved_models in path.parent.parts

    def _one_file_a_name(self, near: Mapping[str, tuple[Claim, Attribution]]) -> dict[str, tuple[Claim, Attribution]]:
        """A run's own file is the one where training saves: another of that name, kept elsewhere, is another run's."""
        saved = {
            (claim.path.name, found.run_id)
            for claim, found in near.values()
            if found.run_id is not None and self._is_saved(claim.path)
        }
        settled = dict(near)
        for sha, (claim, found) in near.items():
            if (claim.path.name, found.run_id) in saved and claim.run_id is None and not self._is_saved(claim.path):
                others = self._near(claim, without={str(found.run_id)})
                settled[sha] = claim, others if others.code != NONE else found
        return settled


def _said_by(claim: Claim) -> str:
    """The configuration of a file, to count those that lie together."""
    return comparing.fingerprint(claim.config, ())


def _without_contradictions(
    wide: Mapping[str, tuple[Claim, Attribution]],
) -> dict[str, tuple[Claim, Attribution]]:
    """Leave open what one run, recorded elsewhere, cannot have done: write several files of one name."""
    count = Counter((claim.path.name, found.run_id) for claim, found in wide.values())
    settled = {}
    for sha, (claim, found) in wide.items():
        if found.run_id is not None and count[claim.path.name, found.run_id] > 1:
            evidence = f"several files of this name could be of run {found.run_id}, which is recorded elsewhere"
            found = replace(found, run_id=None, code=AMBIGUOUS, evidence=evidence, in_span=None)
        settled[sha] = claim, found
    return settled
