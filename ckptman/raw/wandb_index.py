"""The W&B runs of a source, and which of them wrote a checkpoint.

W&B's folders lie beside the checkpoints as a rule, but not always: jobs that share a process, or a `WANDB_DIR`, leave
all of them in one place. So the runs recorded nearest to a file are asked first, and those farther away only where no
nearer one can have written it. Of identical bytes in several places, the place with the best evidence speaks for all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from ckptman.raw.attribution import AMBIGUOUS, END_TOLERANCE_SECONDS, NONE, Attribution, attribute, doubted
from ckptman.raw.scanning import SAVE_FOLDER, wandb_home
from ckptman.raw.wandb_runs import WandbRun
from ckptman.rules import Convention, comparing
from ckptman.rules import naming as naming_rules

_Runs = comparing.ByConfiguration[WandbRun]

_LEAST_APART = 0.25
"""Of the time that a run takes, how much lies between its checkpoints at least; copies follow each other at once."""

Holders = Mapping[tuple[str, str], Collection[str]]
"""Name of a checkpoint, and the id of the run that wrote it → `Claim.content` of the files of that name."""


class Claim(Protocol):
    """A checkpoint whose run is sought."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration."""

    @property
    def saved_at(self) -> float:
        """Modification time, in seconds since 1970."""

    @property
    def content(self) -> str:
        """The same for files of the same bytes."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def run_id(self) -> str | None:
        """The run id that the checkpoint itself holds."""

    @property
    def opaque(self) -> Collection[str]:
        """Keys of the configuration of which W&B may have made what the file does not tell."""

    @property
    def is_end(self) -> bool:
        """Whether it is of the end of its run, by the recipe."""


@dataclass(frozen=True)
class RecordedClaim:
    """A checkpoint of a tree, as a `Claim`."""

    path: Path
    config: Mapping[str, Any]
    saved_at: float
    content: str
    name: str
    run_id: str | None = None
    opaque: Collection[str] = ()
    is_end: bool = False


class WandbIndex:
    """W&B runs by id, and by how near to a file their folders lie."""

    def __init__(self, runs: Sequence[WandbRun], convention: Convention) -> None:
        self.runs = tuple(runs)
        self.by_id = {run.run_id: run for run in runs}
        self._by_folder = {folder: run for run in runs for folder in run.folders}
        self._values: dict[str, set[Hashable]] = {}
        """By key, once it was asked for: what any run has there."""
        self._convention = convention
        self._at: dict[Path, _Runs] = defaultdict(_Runs)
        self._under: dict[Path, _Runs] = defaultdict(_Runs)
        for run in runs:
            homes = {wandb_home(folder, convention) for folder in run.folders}
            for home in homes:
                self._at[home].add(run.config, run)
            for folder in {parent for home in homes for parent in (home, *home.parents)}:
                self._under[folder].add(run.config, run)

    def beside(self, file: Path) -> Iterator[_Runs]:
        """The runs that are recorded in each folder around a file, from the nearest that has any outwards."""
        return (self._at[folder] for folder in self._above(file) if folder in self._at)

    def _holding(self, file: Path) -> Iterator[_Runs]:
        """The run in whose own W&B folder a file lies."""
        found = (self._by_folder[folder] for folder in self._above(file) if folder in self._by_folder)
        return (_Runs([(run.config, run)]) for run in found)

    def _above(self, file: Path) -> Sequence[Path]:
        """The folders above a file, if any run can lie there."""
        return file.parents if self.runs else ()

    def below(self, folder: Path) -> Iterable[WandbRun]:
        """The runs that are recorded anywhere below a folder."""
        return self._under.get(folder, ())

    def around(self, file: Path) -> Iterator[_Runs]:
        """The runs that are recorded anywhere below each folder around a file, from the nearest that has any outwards;
        each list has more runs than the one before."""
        count = 0
        for folder in self._above(file):
            runs = self._under.get(folder)
            if runs is not None and len(runs) > count:
                yield runs
                count = len(runs)

    def attribute(
        self, claims: Sequence[Claim], held: Holders, timely: Mapping[Path, Collection[str]] = MappingProxyType({})
    ) -> list[Attribution]:
        """Find the run that wrote each checkpoint; the same one for copies of the same bytes.

        A run that is recorded elsewhere, not beside the file, counts only if it was told to save into the same folder
        in the same group, and has not left another file of that name.

        Args:
            claims: The checkpoints.
            held: Checkpoints whose run is known.
            timely: By folder, the runs of the files in it that are known to have been saved while their runs ran.
        """
        if not self.runs:
            return self._without_runs(claims)
        copies: dict[str, list[Claim]] = defaultdict(list)
        for claim in claims:
            copies[claim.content].append(claim)
        crowd = _crowd(claims, copies)
        near = {sha: self._best([(c, self._near(c)) for c in held], crowd) for sha, held in copies.items()}
        near = self._one_file_a_name(near)
        decided: dict[tuple[str, str], set[str]] = defaultdict(set)
        for claim, found in near.values():
            if found.run_id is not None:
                decided[claim.name, found.run_id].add(claim.content)
        wide = {
            sha: self._best([(c, self._far(c, held, decided)) for c in copies[sha]], crowd)
            for sha, (_, found) in near.items()
            if found.code == NONE
        }
        settled = {**near, **_without_contradictions(wide)}
        settled = self._without_strangers(settled, timely)
        return [
            replace(settled[claim.content][1], is_copy=settled[claim.content][0].path != claim.path) for claim in claims
        ]

    def _without_runs(self, claims: Sequence[Claim]) -> list[Attribution]:
        """What checkpoints say themselves, where no run is recorded; little of which is held."""
        sums = sorted(hash(claim.content) for claim in claims)  # of all contents at once more would be held
        doubled = {one for one, other in pairwise(sums) if one == other}
        del sums
        copies: dict[str, list[Claim]] = defaultdict(list)
        for claim in claims if doubled else ():
            if hash(claim.content) in doubled:
                copies[claim.content].append(claim)
        crowd = _crowd(claims, copies)
        best = {sha: self._best([(c, self._ask(c, [], ())) for c in held], crowd) for sha, held in copies.items()}
        known: dict[Attribution, Attribution] = {}
        found = []
        for claim in claims:
            told = best.get(claim.content)
            one = self._ask(claim, [], ()) if told is None else replace(told[1], is_copy=told[0].path != claim.path)
            found.append(known.setdefault(one, one))
        return found

    def _without_strangers(
        self, settled: Mapping[str, tuple[Claim, Attribution]], timely: Mapping[Path, Collection[str]]
    ) -> dict[str, tuple[Claim, Attribution]]:
        """Leave open what was saved while the only run that fits did not run, where times are not those of a copy:
        where files of other runs, no fewer, were saved while these ran, or the files of this one as far apart as a run
        saves them.

        Args:
            timely: As in `attribute`.
        """
        told = [(claim.path.parent, found.run_id, found) for claim, found in settled.values()]
        kept = {(folder, run_id) for folder, run_id, found in told if found.in_span}
        kept |= {(folder, run_id) for folder in {folder for folder, *_ in told} for run_id in timely.get(folder, ())}
        times: dict[tuple[Path, str | None], list[float]] = defaultdict(list)
        for claim, found in settled.values():
            if doubted(found) is not found:
                times[claim.path.parent, found.run_id].append(claim.saved_at)
        runs_of = Counter(folder for folder, _ in kept)
        runs_of.subtract(folder for folder, _ in times.keys() - kept)
        timed = {folder for folder, _ in kept if runs_of[folder] >= 0}
        apart = {key for key, saved in times.items() if self._is_apart(key[1], saved)}
        return {
            sha: (claim, doubted(found) if at.parent in timed or (at.parent, found.run_id) in apart else found)
            for sha, (claim, found) in settled.items()
            for at in (claim.path,)
        }

    def _is_apart(self, run_id: str | None, saved: Sequence[float]) -> bool:
        """Whether files were saved as far apart as a run like this one saves its checkpoints."""
        run = self.by_id.get(run_id or "")
        if run is None or run.started is None or run.ended is None:
            return False
        length = run.ended - run.started
        return 0 < _LEAST_APART * length <= max(saved) - min(saved) <= length + END_TOLERANCE_SECONDS

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
                for run in runs.agreeing(name.values)
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
        own = self.by_id.get(claim.run_id or "")
        found = self._ask(claim, [] if own is None else [own], ignored)
        for runs in chain(self._holding(claim.path), self.beside(claim.path)):
            if found.code != NONE:
                break
            likely = self._likely(claim, runs, ignored)
            free = [run for run in likely if run.run_id not in without]
            found = self._ask(claim, free, ignored, others=len(runs) - len(likely))
        return found

    def _far(self, claim: Claim, *holders: Holders) -> Attribution:
        """Ask the runs that are recorded farther and farther away, until one of them fits."""
        ignored = self._convention.ignored_keys - {SAVE_FOLDER, self._convention.group_key}
        found = self._ask(claim, [], ignored)
        for runs in self.around(claim.path):
            likely = self._likely(claim, runs, ignored)
            keys = ((claim.name, run.run_id) for run in likely)
            free = [
                run
                for run, key in zip(likely, keys, strict=True)
                if all({*held.get(key, ())} <= {claim.content} for held in holders)
            ]
            found = self._ask(claim, free, ignored, others=len(runs) - len(likely))
            if found.code != NONE:
                return replace(found, evidence=f"{found.evidence}; its W&B folder does not lie beside the file")
        return found

    def _likely(self, claim: Claim, runs: _Runs, ignored: Collection[str]) -> list[WandbRun]:
        """Those of the runs whose configuration says nothing else than the claim's; where there is none, what it can
        have said in other words counts as said."""
        sought = {key: value for key, value in claim.config.items() if key not in ignored}
        found = list(runs.agreeing(sought))
        if found or not claim.opaque:
            return found
        opaque = self._opaque(claim)
        rest = {key: value for key, value in sought.items() if key not in opaque}
        return [run for run in runs.agreeing(rest) if not comparing.differing_keys(sought, run.config, ignored, opaque)]

    def _opaque(self, claim: Claim) -> list[str]:
        """The keys of a claim that W&B may spell in other words: it does not where a run has the file's own."""
        for key in claim.opaque:
            if key not in self._values:
                self._values[key] = {comparing.key_of(run.config[key]) for run in self.runs if key in run.config}
        return [key for key in claim.opaque if comparing.key_of(claim.config.get(key)) not in self._values[key]]

    def _ask(self, claim: Claim, runs: Sequence[WandbRun], ignored: Collection[str], *, others: int = 0) -> Attribution:
        return attribute(
            claim.config,
            claim.saved_at,
            runs,
            ignored_keys=ignored,
            seed_key=self._convention.seed_key,
            run_id=claim.run_id,
            others=others,
            opaque=self._opaque(claim),
            is_end=claim.is_end,
        )

    def _best(
        self, copies: Sequence[tuple[Claim, Attribution]], crowd: Mapping[tuple[Path, str], int]
    ) -> tuple[Claim, Attribution]:
        """The copy that tells the run: saved while it ran, in its own folder for checkpoints, the earliest of these.

        Copies that tell different runs equally well leave it open.
        """

        if len(copies) == 1:
            return copies[0]
        naming = naming_rules.naming_of(self._convention)

        def weight(copy: tuple[Claim, Attribution]) -> tuple[object, ...]:
            claim, found = copy
            fits = found.run_id is not None and found.in_span is True
            own = self._is_saved(claim.path)
            return not fits, found.run_id is None, not found.candidates, not own, claim.saved_at if fits else 0.0

        def place(copy: tuple[Claim, Attribution]) -> tuple[object, ...]:
            claim = copy[0]
            is_named = naming.knows(claim.name)  # a copy may have another
            return -crowd[claim.path.parent, _said_by(claim)], claim.saved_at, not is_named, claim.path

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
            (claim.name, found.run_id)
            for claim, found in near.values()
            if found.run_id is not None and self._is_saved(claim.path)
        }
        settled = dict(near)
        for sha, (claim, found) in near.items():
            if (claim.name, found.run_id) in saved and claim.run_id is None and not self._is_saved(claim.path):
                others = self._near(claim, without={str(found.run_id)})
                settled[sha] = claim, others if others.code != NONE else found
        return settled


def _crowd(claims: Iterable[Claim], copies: Mapping[str, Sequence[Claim]]) -> Mapping[tuple[Path, str], int]:
    """How many files of each configuration lie in the folders that copies lie in."""
    folders = {claim.path.parent for held in copies.values() if len(held) > 1 for claim in held}
    near = (claim for claim in claims if folders and claim.path.parent in folders)
    return Counter((claim.path.parent, _said_by(claim)) for claim in near)


def _said_by(claim: Claim) -> str:
    """The configuration of a file, to count those that lie together."""
    return comparing.fingerprint(claim.config, ())


def _without_contradictions(
    wide: Mapping[str, tuple[Claim, Attribution]],
) -> dict[str, tuple[Claim, Attribution]]:
    """Leave open what one run, recorded elsewhere, cannot have done: write several files of one name."""
    count = Counter((claim.name, found.run_id) for claim, found in wide.values())
    settled = {}
    for sha, (claim, found) in wide.items():
        if found.run_id is not None and count[claim.name, found.run_id] > 1:
            evidence = f"several files of this name could be of run {found.run_id}, which is recorded elsewhere"
            found = replace(found, run_id=None, code=AMBIGUOUS, evidence=evidence, in_span=None)
        settled[sha] = claim, found
    return settled
