"""What lies beside checkpoints, in files that the convention names: configurations, seeds, metrics, steps, histories.

A file tells of the checkpoints that find it: each finds the nearest of its sort, in its own folder or above. One that
could be of several runs is evidence for none, and said to be so.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ckptman.raw import documents, histories
from ckptman.raw.overwritten import Owner
from ckptman.raw.scanning import SourceCheckpoint
from ckptman.raw.wandb_index import WandbIndex
from ckptman.raw.wandb_runs import flat_summary
from ckptman.rules import Convention, comparing, naming, placement, terms
from ckptman.text import RefusedError, interpolation, strict_yaml, wording
from ckptman.tree import history, records

MAX_VALUES, MAX_TEXT, MAX_BITS = 100_000, 1 << 20, 1 << 13
"""Most values and characters of a configuration, and bits of a whole number in it."""
_MOST_FILES = 1000
"""Files of one sort, such as event files, that one checkpoint finds."""
_MOST_DIFFERENCES = 4
_MOST_LISTED = 256
"""Folders of which it is kept what is in them: checkpoints come folder by folder."""
_GIVEN = ("config", "step", "metrics", "history")
_SAME = 1e-6
"""Relative difference up to which two numbers are one metric, written twice."""


class Problem(NamedTuple):
    """Why a file beside checkpoints is not used, or what it says otherwise than another source."""

    source: str
    """The file, relative to the source."""
    message: str


@dataclass(frozen=True)
class Reading:
    """What one file says."""

    path: Path
    rule: terms.BesideRule
    config: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    curve: history.History | None = None


@dataclass(frozen=True)
class Evidence:
    """What lies beside one checkpoint and can only be of its run, by all that is known before it is read."""

    readings: tuple[Reading, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that counts most."""
        return next((reading.config for reading in self.readings if reading.config), {})

    @property
    def values(self) -> Mapping[str, Any]:
        """Configuration keys that stand elsewhere."""
        return {key: value for reading in reversed(self.readings) for key, value in reading.values.items()}

    @property
    def step(self) -> int | None:
        """The iterations done."""
        return next((reading.step for reading in self.readings if reading.step is not None), None)

    def without_steps(self) -> Evidence:
        """The same, where the step is known already."""
        return Evidence(tuple(replace(reading, step=None) for reading in self.readings))

    def agreeing_with(self, config: Mapping[str, Any], ignored: Collection[str]) -> Evidence:
        """What says nothing else than a configuration."""
        differing = self.differing_from(config, ignored)
        return Evidence(tuple(reading for reading in self.readings if reading.path not in differing))

    def differing_from(self, config: Mapping[str, Any], ignored: Collection[str]) -> dict[Path, tuple[str, ...]]:
        """The files whose configuration says otherwise, and how."""
        found: dict[Path, tuple[str, ...]] = {}
        held = _flat(config, ignored) if self.readings else {}
        for reading in self.readings:
            said = _flat({**reading.config, **reading.values}, ignored)
            if keys := comparing.differing_keys(said, held, ()):
                shown = [f"{key} is {_shown(said[key])}, and {_shown(held[key])} in force" for key in keys]
                found[reading.path] = tuple(shown[:_MOST_DIFFERENCES])
        return found


class RunEvidence(NamedTuple):
    """What lies beside the checkpoints of one run."""

    metrics: Mapping[str, Any]
    """Those of the checkpoint of the highest step that has any."""
    curves: tuple[Path, ...]
    """The files that hold its learning curve, those that count more last."""
    notes: tuple[records.BesideFile, ...]
    """What each of the files gave, and gave before."""


class Beside:
    """The files beside the checkpoints of a source; each is read once."""

    def __init__(
        self, root: Path, checkpoints: Sequence[SourceCheckpoint], wandb: WandbIndex, convention: Convention
    ) -> None:
        self._root = root
        self._checkpoints = checkpoints
        self._wandb = wandb
        self._convention = convention
        self._naming = naming.naming_of(convention)
        self._any = re.compile("|".join(rule.beginning for rule in convention.beside), re.DOTALL)
        """What may be called so."""
        self._names: dict[Path, frozenset[str]] = {}
        """By folder, of those that were looked into last."""
        self._called_so: dict[tuple[Path, str], list[str]] = {}
        self._of_folder: tuple[Path, list[Path], dict[terms.BesideRule, list[Path]]] | None = None
        """The folder of the last checkpoint, those that are looked into for it, and what is found for all in it."""
        self._read: dict[tuple[Path, str], Reading | None] = {}
        self.problems: list[Problem] = []
        self._found = {file.path: rules for file in checkpoints if (rules := tuple(self._find(file)))}
        """Of the checkpoints that find any."""
        self._let_go()
        self._finders: dict[Path, list[SourceCheckpoint]] = defaultdict(list)
        named = set()
        for file in checkpoints if self._found else ():
            for rule, path in self._found.get(file.path, ()):
                self._finders[path].append(file)
                if rule.is_named or (file.is_folder and path.is_relative_to(file.path)):
                    named.add(path)
        self._several: set[Path] = set()
        """Files that could be of several runs."""
        for path, found in sorted(self._finders.items()):
            if why := self._why_several(path, found, is_named=path in named):
                self.leave(path, why)

    @property
    def finds_any(self) -> bool:
        """Whether anything lies beside any checkpoint."""
        return bool(self._found)

    def leave(self, path: Path, why: str) -> None:
        """Use a file for no run."""
        self._several.add(path)
        self.tell(path, f"it could be of several runs, and is used for none: {why}")

    def tell(self, path: Path, message: str) -> None:
        """Take note of a problem, once."""
        problem = Problem(self.relative(path), message.removeprefix(f"{path}: ").removeprefix(f"{path} "))
        if problem not in self.problems:
            self.problems.append(problem)

    def relative(self, path: Path) -> str:
        """A path relative to the source, if it lies there."""
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)

    def of(self, checkpoint: Path, *, tables: bool = False) -> Evidence:
        """What lies beside a checkpoint of the source, the files that count most first; `tables`: also what holds only
        a history."""
        wanted = (
            (path, rule)
            for rule, path in self._found.get(checkpoint, ())
            if path not in self._several and (tables or not rule.form.is_table)
        )
        readings = [reading for path, rule in wanted if (reading := self._reading(path, rule)) is not None]
        # A step is that of one checkpoint.
        return Evidence(tuple(r if len(self._finders[r.path]) == 1 else replace(r, step=None) for r in readings))

    def of_run(
        self, record: records.RunRecord, owners: Callable[[], Mapping[Path, Owner]], logged: Mapping[str, Any]
    ) -> RunEvidence:
        """What lies beside the checkpoints of a run, once it is known who wrote each checkpoint.

        Args:
            owners: Who wrote the checkpoints.
            logged: The metrics that W&B has of the run.
        """
        if not (self._found or record.source.beside):
            return RunEvidence({}, (), ())
        by_step = sorted(record.source_paths, key=lambda item: -(item[2].step or 0))
        paths = [Path(path) for path in dict.fromkeys(path for path, _, _ in by_step)]
        here = [path for path in paths if path in self._found]
        # What a file said otherwise counts as long as it is there.
        known = record.source.beside
        is_here = bool(here) or (bool(known) and not self._paths.isdisjoint(paths))
        notes = {note.path: replace(note, differs=() if is_here else note.differs) for note in known}
        metrics: dict[str, Any] = {}
        curves: dict[Path, int] = {}
        checked: dict[Path, bool] = {}
        for checkpoint in here:
            evidence, found = self.of(checkpoint, tables=True), dict[str, Any]()
            differing = evidence.differing_from(record.config, self._convention.ignored_keys)
            for order, reading in enumerate(evidence.readings):
                path, gave = reading.path, set[str]()
                if path not in checked:
                    checked[path] = self._is_of_others(record, path, owners())
                if checked[path]:
                    self.leave(path, "checkpoints of several runs lie there")
                    continue
                differs = differing.get(path, ())
                if not differs:
                    if reading.curve is not None and reading.curve.columns:
                        curves.setdefault(path, order)
                        gave.add("history")
                    if not metrics and reading.metrics:
                        found = {**reading.metrics, **found}
                        gave.add("metrics")
                        differs = _differing_metrics(reading.metrics, logged)
                if differs:
                    self.tell(path, f"it says otherwise than what counts more: {'; '.join(differs)}")
                name = self._named_in(record, path)
                note = notes.get(name) or records.BesideFile(path=name)
                kept = tuple(what for what in _GIVEN if what in gave or what in note.gave)
                notes[name] = replace(note, gave=kept, differs=differs)
            metrics = metrics or found
        later_first = sorted(curves, key=lambda path: curves[path])
        told = tuple(note for _, note in sorted(notes.items()) if note.gave or note.keys or note.differs)
        return RunEvidence(metrics, tuple(reversed(later_first)), told)

    @cached_property
    def _paths(self) -> frozenset[Path]:
        """All checkpoints of the source."""
        return frozenset(file.path for file in self._checkpoints)

    def _is_of_others(self, record: records.RunRecord, path: Path, owners: Mapping[Path, Owner]) -> bool:
        """Whether a checkpoint of another run finds a file, too."""
        known = [owner for file in self._finders[path] if (owner := owners.get(file.path)) is not None]
        return any(
            owner.run_id != record.run_id
            if None not in (owner.run_id, record.run_id)
            else not comparing.same_configuration(owner.config, record.config, self._convention.ignored_keys)
            for owner in known
        )

    def _named_in(self, record: records.RunRecord, path: Path) -> str:
        return self.relative(path) if record.source.root == str(self._root) else str(path)

    # --- finding ------------------------------------------------------------------------------------------------------

    def _find(self, file: SourceCheckpoint) -> Iterator[tuple[terms.BesideRule, Path]]:
        stem = file.file.removesuffix(self._convention.checkpoint.suffix)
        home = file.path if file.is_folder else file.folder
        if self._of_folder is None or self._of_folder[0] != home:
            folders = self._folders(home, file.folder)
            if len(self._names) > _MOST_LISTED:
                self._let_go()
            if not any(self._any.fullmatch(name) for folder in folders for name in self._listed(folder)):
                folders = []
            rules = self._convention.beside if folders else ()
            shared = {rule: self._nearest(rule, folders, "") for rule in rules if not rule.is_named}
            self._of_folder = home, folders, shared
        _, folders, shared = self._of_folder
        if not folders:
            return
        for rule in self._convention.beside:
            found = self._nearest(rule, folders, stem) if rule.is_named else shared[rule]
            yield from ((rule, path) for path in found)

    def _let_go(self) -> None:
        self._names, self._called_so, self._of_folder = {}, {}, None

    def _nearest(self, rule: terms.BesideRule, folders: Sequence[Path], stem: str) -> list[Path]:
        """The files of a sort in the nearest folder that has any; what was begun later, by its name, counts more."""
        parts = rule.parts(stem)
        found = (list(islice(self._matching(folder, parts), _MOST_FILES)) for folder in folders[: rule.up + 1])
        return next((paths[::-1] for paths in found if paths), [])

    def _folders(self, home: Path, above: Path) -> list[Path]:
        """The folders in which something can lie that tells of a checkpoint, the nearest first.

        Args:
            home: The checkpoint's folder, or the checkpoint if it is one.
            above: The folder that it lies in.
        """
        end = placement.task_folder_of(above, self._convention)
        folders = [home]
        while folders[-1] not in (end, self._root) and folders[-1] != folders[-1].parent:
            folders.append(folders[-1].parent)
        return folders

    def _matching(self, folder: Path, parts: Sequence[str | re.Pattern[str]]) -> Iterator[Path]:
        first, *rest = parts
        for name in self._called(folder, first):
            yield from self._matching(folder / name, rest) if rest else (folder / name,)

    def _called(self, folder: Path, part: str | re.Pattern[str]) -> Sequence[str]:
        """What is called so in a folder, in natural order."""
        if isinstance(part, str):
            return (part,) if part in self._listed(folder) else ()
        if (folder, part.pattern) not in self._called_so:
            found = (name for name in self._listed(folder) if part.fullmatch(name))
            self._called_so[folder, part.pattern] = sorted(found, key=wording.natural_key)
        return self._called_so[folder, part.pattern]

    def _listed(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))  # noqa: PTH208 (names are all that is asked for)
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    def _why_several(self, path: Path, finders: Sequence[SourceCheckpoint], *, is_named: bool) -> str:
        """Why a file could be of several runs, by names and by what W&B recorded around it; empty if it cannot.

        Args:
            is_named: It lies in a checkpoint, or is named for one.
        """
        name, count = Counter(file.name for file in finders).most_common(1)[0]
        if count > 1:
            return f"{count} folders below it have a checkpoint {name}"
        if len(seeds := {file.seed for file in finders} - {None}) > 1:
            return f"there are folders of {len(seeds)} seeds below it"
        said: dict[str, Any] = {}
        for file in finders:
            with suppress(RefusedError):
                for key, value in self._naming.parse(file.name).values.items():
                    if not comparing.same_value(said.setdefault(key, value), value):
                        return f"the checkpoints there differ in {key}, by their names"
        home = placement.task_folder_of(path.parent, self._convention) or path.parent
        runs = () if is_named else {run.run_id for run in self._wandb.below(home)}
        return f"W&B has {len(runs)} runs there" if len(runs) > 1 else ""

    # --- reading ------------------------------------------------------------------------------------------------------

    def _reading(self, path: Path, rule: terms.BesideRule) -> Reading | None:
        key = path, rule.pattern
        if key not in self._read:
            try:
                self._read[key] = read(path, rule, self._convention)
            except RefusedError as error:
                self.tell(path, error.message)
                self._read[key] = None
        return self._read[key]


def read(path: Path, rule: terms.BesideRule, convention: Convention) -> Reading:
    """Read a file by what the convention says of its sort.

    Raises:
        RefusedError: telling what is wrong with it.
    """
    if rule.form.is_table:
        table = histories.read_beside(path, rule)
        return Reading(path, rule, metrics=_last(table), curve=table)
    document = documents.read(path, rule.form)
    config = dict[str, Any]()
    for found in (documents.at(document, place) for place in rule.config):
        config = {**_mapping_of(found), **config}
    values = {key: found for key, place in rule.values.items() if (found := documents.at(document, place)) is not None}
    curve = histories.of_document(document, path, rule) if rule.history else None
    metrics: dict[str, Any] = {} if rule.metrics or curve is None else dict(_last(curve))
    for found in (documents.at(document, place) for place in rule.metrics):
        metrics = {**(flat_summary(found) if isinstance(found, dict) else {}), **metrics}
    step = comparing.whole(documents.at(document, rule.step)) if rule.step else None
    for plain in (config, values, metrics):
        _check_bounds(path, plain)
    usable_step = step if step is not None and 0 <= step < 1 << 53 else None
    return Reading(path, rule, config, values, metrics, usable_step, curve)


def _mapping_of(value: Any) -> dict[str, Any]:
    """A configuration: a mapping; or a list of Hydra's overrides, such as `model.layers=2`."""
    if isinstance(value, dict):
        return interpolation.interpolated({str(key): item for key, item in value.items()})
    found: dict[str, Any] = {}
    for item in value if isinstance(value, list) else ():
        key, sign, text = item.lstrip("+").partition("=") if isinstance(item, str) else ("", "", "")
        *above, last = key.split(".")
        if not sign or not all((*above, last)) or len(above) > strict_yaml.MAX_DEPTH:
            continue
        level = found
        for name in above:
            if not isinstance(level.get(name), dict):
                level[name] = {}
            level = level[name]
        with suppress(RefusedError):
            level[last] = strict_yaml.load_yaml(text, key, error=RefusedError)
    return found


def _flat(config: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """A configuration by the paths of its values: sections are compared key by key, since one may have only a part."""
    flat: dict[str, Any] = {}
    pending = [(str(key), value) for key, value in config.items() if key not in ignored]
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping) and value:
            pending += [(f"{key}.{name}", inner) for name, inner in value.items()]
        else:
            flat[key] = value
    return flat


def _last(curve: history.History) -> dict[str, Any]:
    """The last value of each metric."""
    return {name: points[-1][1] for name in curve.columns if (points := curve.curve(name))}


def _check_bounds(path: Path, value: Any) -> None:
    """See to it that values can stand in a run.json, and be read again."""
    pending, values, characters = [value], 0, 0
    while pending:
        inner = pending.pop()
        items = [*inner.values(), *inner] if isinstance(inner, dict) else inner if isinstance(inner, list) else [inner]
        values += len(items)
        characters += sum(len(item) for item in items if isinstance(item, str))
        if any(isinstance(item, int) and item.bit_length() > MAX_BITS for item in items):
            raise _too_large(path, "a whole number of thousands of digits")
        if values > MAX_VALUES or characters > MAX_TEXT:
            raise _too_large(path, f"more than {MAX_VALUES:,} values or {MAX_TEXT:,} characters")
        pending += [item for item in items if isinstance(item, dict | list)]


def _too_large(path: Path, what: str) -> RefusedError:
    return RefusedError(f"{path} holds {what}", code="damaged", fix="Correct it, or move it away.")


def _differing_metrics(metrics: Mapping[str, Any], logged: Mapping[str, Any]) -> tuple[str, ...]:
    """In which metrics a file and W&B differ, and how."""
    keys = [key for key in sorted(metrics.keys() & logged.keys()) if not _is_same(metrics[key], logged[key])]
    shown = (f"{key} is {_shown(metrics[key])}, and {_shown(logged[key])} by W&B" for key in keys)
    return tuple(islice(shown, _MOST_DIFFERENCES))


def _is_same(one: Any, other: Any) -> bool:
    if comparing.same_value(one, other):
        return True
    return all(map(histories.is_number, (one, other))) and math.isclose(one, other, rel_tol=_SAME)


def _shown(value: object) -> str:
    text = json.dumps(comparing.canonical(value), default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"
