"""Checks of runs: in the right folder, with a configuration that makes sense, whole, and there only once."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from ckptman.attribution import differing_keys
from ckptman.convention import Convention
from ckptman.findings import Finding, finding
from ckptman.inventory import CheckedRun, Inventory, Standing, fingerprint
from ckptman.placement import Place, group_pattern
from ckptman.wording import count_text

_TEST_RANGE = ("test_min_k", "test_max_k")
"""Configuration keys of the tested lengths."""


def check_runs(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Check every run."""
    yield from _check_recorded(inventory)
    yield from _check_places(inventory, convention)
    for run in inventory.runs:
        yield from _check_config(run, convention)
        yield from _check_attribution(run)
        if run.standing is not Standing.EXTRA:
            yield from _check_whole(run, convention)
    yield from _check_tests(inventory, convention)
    yield from _check_repeated(inventory, convention)


# --- numbering --------------------------------------------------------------------------------------------------------


def numbering_of_tree(inventory: Inventory, convention: Convention) -> Convention:
    """The rules that the tree is sorted by: those given, or with another numbering where that one fits it.

    Another numbering fits if by it some runs are in their place that otherwise are not, and none the other way round.
    """
    misplaced = _misplaced(inventory)
    for name in dict.fromkeys(name for grid in convention.grids.values() for name in grid.numberings):
        if misplaced and all(name in grid.numberings for grid in convention.grids.values()):
            other = replace(convention, numbering=name)
            if _misplaced(inventory.placed_by(other)) < misplaced:
                return other
    return convention


def check_numbering(inventory: Inventory, given: Convention, fitting: Convention) -> Iterator[Finding]:
    """Tell where the tree is sorted by another numbering than the one in force."""
    if fitting.numbering != given.numbering:
        moved = _misplaced(inventory.placed_by(given)) - _misplaced(inventory.placed_by(fitting))
        yield finding(
            "other-numbering",
            ".",
            f"{count_text(len(moved), 'run')} would be misplaced by the {given.numbering!r} numbering, which is in "
            f"force; by the {fitting.numbering!r} numbering they are in their places",
            f"Pass --numbering {fitting.numbering}, or write `numbering: {fitting.numbering}` into the tree's "
            "ckptman.yaml.",
        )


def _misplaced(inventory: Inventory) -> set[tuple[PurePosixPath, str]]:
    """The runs that lie outside of their task folder."""
    return {
        (run.folder, fingerprint(run.config, ()))
        for run in inventory.runs
        if run.place is not None and not _is_in_task_folder(run, run.place)
    }


def _is_in_task_folder(run: CheckedRun, place: Place) -> bool:
    if run.standing is Standing.LOOSE:
        return place.folder == run.folder or place.folder in run.folder.parents
    return place.folder == run.folder.parent


# --- run.json ---------------------------------------------------------------------------------------------------------


def _check_recorded(inventory: Inventory) -> Iterator[Finding]:
    """Folders with checkpoints of which no run.json tells, each once."""
    scan = inventory.scan
    folders = {run.path: run for run in scan.runs}
    recorded = {path for path, _ in scan.records}
    counts = Counter(file.path.parent for file in inventory.files if file.path.parent not in recorded)
    for folder, count in counts.items():
        run = folders.get(folder)
        if run is not None and run.problem is not None:
            continue  # its run.json is told of as a bad one
        message = f"{count_text(count, 'checkpoint')} without a run.json"
        if run is not None and recorded:
            yield finding(
                "no-record",
                folder,
                f"{message}: the run was not placed to its end",
                "If an ingest is at work, wait for it; if not, ingest the same source again, which completes the run.",
            )
        else:
            yield finding("no-record", folder, message, _sort_it(inventory, folder))


def _sort_it(inventory: Inventory, folder: PurePosixPath) -> str:
    """How to sort a folder; the whole tree where ckptman has sorted nothing of it."""
    root = inventory.scan.root
    source = root / folder if any(True for _ in inventory.scan.records) else root
    return f"Sort it into a new tree: ckptman ingest {shlex.quote(str(source))} --root NEW"


# --- places -----------------------------------------------------------------------------------------------------------


def _check_places(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Runs in wrong folders; those of one folder that belong to one other folder are told of together."""
    misplaced: dict[tuple[PurePosixPath, PurePosixPath], list[CheckedRun]] = defaultdict(list)
    for run in inventory.runs:
        if run.place_problem is not None:
            code = "off-grid" if run.place_problem.code == "off-grid" else "no-place"
            yield finding(code, run.folder, run.place_problem.message, run.place_problem.fix)
        elif run.place is not None and not _is_in_task_folder(run, run.place):
            misplaced[run.folder, run.place.folder].append(run)
        elif run.place is not None:
            yield from _check_run_folder(run, run.place, convention)
    for (folder, target), runs in misplaced.items():
        whole = runs[0].standing is Standing.RECORDED
        yield finding(
            "misplaced",
            folder,
            f"by its configuration, {_which_files(runs)} belongs in {target}",
            f"Move the run's folder to {target}" if whole else _sort_it(inventory, folder),
        )


def _check_run_folder(run: CheckedRun, place: Place, convention: Convention) -> Iterator[Finding]:
    """The name of a run's folder: by its seed, with or without something that tells apart a second run."""
    if run.standing is Standing.LOOSE and (
        run.folder.parent != place.folder or not convention.folders.is_run(run.folder.name)
    ):
        return  # files directly in a task folder, or deeper than any run
    expected = place.run_folder(convention).name
    if run.folder.name != expected and not run.folder.name.startswith(f"{expected}-"):
        message = f"by its configuration, {_which_files([run])} belongs in {place.folder / expected}"
        yield finding("wrong-run-folder", run.folder, message)


def _which_files(runs: list[CheckedRun]) -> str:
    names = [file.path.name for run in runs for file in run.files]
    return names[0] if len(names) == 1 else f"each of {count_text(len(names), 'checkpoint')} here"


# --- configurations ---------------------------------------------------------------------------------------------------


def _check_config(run: CheckedRun, convention: Convention) -> Iterator[Finding]:
    if run.place is not None and run.place.seed is None:
        message = f"the configuration of {_which_files([run])} has no {convention.seed_key}"
        yield finding("unknown-seed", run.folder, message)
    for keys in (convention.families.fixed_when_equal, _TEST_RANGE):
        bounds = _range(run, keys)
        if bounds is not None and bounds[0] > bounds[1]:
            message = f"{keys[0]} is {bounds[0]}, above {keys[1]}, which is {bounds[1]}"
            yield finding("bad-range", run.folder, message)


def _check_tests(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Groups whose runs were tested on lengths they were trained on, each once."""
    overlaps: Counter[tuple[PurePosixPath, int, int, int]] = Counter()
    for run in inventory.runs:
        trained, tested = _range(run, convention.families.fixed_when_equal), _range(run, _TEST_RANGE)
        if trained is not None and tested is not None and run.place is not None and tested[0] <= trained[1]:
            overlaps[run.place.folder.parent, trained[1], *tested] += 1
    for (group, longest, low, high), count in sorted(overlaps.items()):
        yield finding(
            "test-overlaps-train",
            group,
            f"{count_text(count, 'run')} trained on lengths up to {longest}, and tested on {low} to {high}",
        )


def _range(run: CheckedRun, keys: tuple[str, str]) -> tuple[int, int] | None:
    low, high = (run.config.get(key) for key in keys)
    return (low, high) if type(low) is int and type(high) is int else None


def _check_attribution(run: CheckedRun) -> Iterator[Finding]:
    if run.record is not None and run.record.run_id is None and len(run.record.attribution.candidates) > 1:
        note = run.record.attribution
        yield finding("ambiguous-run", run.folder, f"{note.evidence}: {', '.join(note.candidates)}")


# --- whole, and only once ---------------------------------------------------------------------------------------------


def _check_whole(run: CheckedRun, convention: Convention) -> Iterator[Finding]:
    """Whether the checkpoints are there that the recipe saves. What run.json lists is missed elsewhere."""
    kinds = {file.name.prefix.name for file in run.files if file.name is not None}
    kinds |= {entry.kind for entry in run.record.checkpoints} if run.record is not None else set()
    if not kinds:
        return
    finals = [prefix for prefix in convention.prefixes if prefix.final]
    ends = [end for prefix in finals if (end := prefix.expected_step(run.config)) is not None]
    if finals and kinds.isdisjoint(prefix.name for prefix in finals):
        yield finding("missing-final", run.folder, f"{_described(run)} has only: {', '.join(sorted(kinds))}")
    for prefix in convention.prefixes:
        step = prefix.expected_step(run.config)
        if not prefix.final and prefix.name not in kinds and step is not None and ends and step <= max(ends):
            message = f"{_described(run)} has no {prefix.name}, which its recipe saves after {step} iterations"
            yield finding("missing-checkpoint", run.folder, message)


def _check_repeated(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Runs of one configuration and seed. In a group with a grid, its axes alone make the configuration."""
    same: dict[tuple[object, ...], list[CheckedRun]] = defaultdict(list)
    for run in inventory.runs:
        place = run.place
        if place is not None and place.seed is not None and run.files and run.standing is not Standing.EXTRA:
            known = group_pattern(place.group, convention) is not None
            config = "" if known else fingerprint(run.config, convention.ignored_keys)
            same[place.folder, place.notes, place.seed, config].append(run)
    for runs in same.values():
        first = runs[0]
        for run in runs[1:]:
            if run.run_id is not None and run.run_id == first.run_id:
                continue  # a copy of its folder, which is told of as a duplicate
            keys = differing_keys(first.config, run.config, convention.ignored_keys)
            differ = f"; their configurations differ in {', '.join(keys)}" if keys else ""
            yield finding(
                "repeated-run",
                run.folder,
                f"{_described(run)} repeats {_described(first)} in {first.folder}{differ}",
            )


def _described(run: CheckedRun) -> str:
    seed = f" with seed {run.place.seed}" if run.place is not None and run.place.seed is not None else ""
    return f"run {run.run_id}" if run.run_id is not None else f"the run{seed}"
