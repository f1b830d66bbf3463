"""Checks of runs: in the right folder, with a configuration that makes sense, whole, and there only once."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath

from ckptman.checks.places import apart, strayed_lists
from ckptman.rules import Convention, Place, comparing, naming, placement
from ckptman.text import RefusedError, wording
from ckptman.tree import Finding, Inventory, contents, finding, numbering, records, roots, standing

_MEND = "ckptman validate --fix"
"""What does it without replacing anything."""
_MOST_STEPS = 4
"""Missing checkpoints of a run that one message names."""


def check_runs(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Check every run, and the place of every list of runs without checkpoints."""
    yield from check_each_run(inventory, convention)
    for path, home, target in strayed_lists(inventory, convention):
        message = f"by their configurations, the runs without checkpoints that it lists belong in {home}"
        fix = f"Let ckptman move it there: {_MEND}"
        if target is None:
            fix = "Move it out of the tree, and ingest the source again, which writes the list there anew."
        elif target.parent != home:
            fix = f"The list there tells of all of them. Let ckptman put this one away: {_MEND}"
        yield finding("misplaced", path, message, fix)
    runs = [run for run in inventory.runs if not _is_told(run, inventory)]
    yield from _check_tests(inventory.passed.tests + tests_of(runs, convention), convention)
    yield from _check_repeated((run for run in runs if run.origin is not contents.Origin.EXTRA), convention)


def check_each_run(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """As `check_runs`, without what is told of many runs together."""
    yield from _check_recorded(inventory)
    runs = [run for run in inventory.runs if not _is_told(run, inventory)]
    yield from _check_places(runs, inventory, convention)
    for run in runs:
        yield from _check_config(run, convention)
        yield from _check_attribution(run)
    whole = [run for run in runs if run.origin is not contents.Origin.EXTRA]
    unfinished = _unfinished(inventory)
    same = defaultdict(list)
    for run in whole:
        if run.run_id is not None:
            same[run.run_id].append(run)
    split = _split(same.values())
    furthest: dict[tuple[object, ...], tuple[bool, bool]] = {}
    for run in whole:
        if (key := repeatable(run, convention)) is not None:
            furthest[key] = max(furthest.get(key, (False, False)), _reached(run))
    for run in whole:
        if (home := split.get(run.folder)) not in (None, run.folder):
            yield finding("split-run", run.folder, f"{_described(run)} lies here and in {home}")
        most = furthest.get(repeatable(run, convention) or (), (False, False))
        is_repeated = _reached(run) < most and (most[1] or run.record is not None)  # which is told
        if run.folder not in unfinished and home is None and not is_repeated:
            others = [part for part in same.get(run.run_id or "", ()) if part is not run]
            yield from _check_whole(run, others, inventory, convention)


def _reached(run: contents.Run) -> tuple[bool, bool]:
    """Whether a run got to its end, and whether all is here that it saved on the way there.

    Of files that no run.json tells of, some may be a part of a run whose others lie elsewhere.
    """
    is_complete = run.standing.extent is standing.Extent.COMPLETE
    return is_complete or (run.standing.has_final and run.record is not None), is_complete


def _is_told(run: contents.Run, inventory: Inventory) -> bool:
    """Whether all there is to say of a run is told of its files, one by one, or is that no run.json tells of them."""
    if run.origin is contents.Origin.LOOSE and inventory.has_records:
        return True
    if run.origin is contents.Origin.RECORDED and run.folder in inventory.record_copies:
        return True  # that its run.json is a copy
    if run.is_in_place_of_another:
        return True  # file by file
    return bool(run.files) and all(file.path in inventory.told for file in run.files)


def _unfinished(inventory: Inventory) -> set[PurePosixPath]:
    """Run folders of a tree that ckptman made in which there is no run.json, so that there are more files to come; or
    one that cannot be used, so that it is not known which there are."""
    recorded = {path for path, _ in inventory.scan.records}
    runs = inventory.scan.runs if inventory.has_records else (run for run in inventory.scan.runs if run.problem)
    return {run.path for run in runs} - recorded


# --- numbering --------------------------------------------------------------------------------------------------------


def check_numbering(inventory: Inventory, given: Convention, fitting: Convention) -> Iterator[Finding]:
    """Tell where the tree is sorted by another numbering than the one in force."""
    if fitting.numbering != given.numbering:
        wrong, left = (numbering.misplaced(inventory.placed_by(rules).runs) for rules in (given, fitting))
        moved = wrong - left
        yield finding(numbering.OTHER_NUMBERING, ".", *numbering.other_numbering(len(moved), given, fitting))


# --- the root ---------------------------------------------------------------------------------------------------------


def check_root(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Tell where the root is not one: within a tree, above one, or what training leaves."""
    wrong = roots.wrong_root(inventory, convention)
    if wrong is not None:
        if wrong.trees:
            fix = f"Check that: ckptman validate --root {wording.shell_word(wrong.trees[0])}"
        else:
            fix = f"Sort it into a new tree: ckptman ingest {wording.shell_word(inventory.scan.root)} --root NEW"
        yield finding("wrong-root", ".", wrong.message, fix)


# --- run.json ---------------------------------------------------------------------------------------------------------


def _check_recorded(inventory: Inventory) -> Iterator[Finding]:
    """Folders with checkpoints of which no run.json tells, each once."""
    scan = inventory.scan
    recorded = {path for path, _ in scan.records}
    counts = Counter(
        file.folder for file in inventory.files if file.folder not in recorded and file.path not in inventory.told
    )
    if not counts:
        return
    folders = {run.path: run for run in scan.runs}
    no_files = {entry.path for entry in scan.entries if entry.path.name == records.RUN_FILE and entry.kind != "file"}
    for folder, count in counts.items():
        run = folders.get(folder)
        if run is not None and (run.problem is not None or folder / records.RUN_FILE in no_files):
            continue  # its run.json is told of as a bad one
        message = f"{wording.count_text(count, 'checkpoint')} without a run.json"
        if run is not None and inventory.has_records:
            yield finding(
                "no-record",
                folder,
                f"{message}: the run was not placed to its end",
                "If an ingest is at work, wait for it; if not, ingest the same source again, which completes the run. "
                "If it has not these files, move the checkpoints of this folder, and nothing else, out of the tree; "
                "then ingest them from there.",
            )
        else:
            yield finding("no-record", folder, message, _sort_it(inventory))


def _sort_it(inventory: Inventory) -> str:
    """How to sort what ckptman has not sorted: into the tree, or, where there is none yet, all of it into a new one."""
    if inventory.has_records:
        return (
            "Move the checkpoints of this folder, and nothing else, out of the tree, and ingest them from there: what "
            "the tree does not have comes to its place."
        )
    return f"Sort it into a new tree: ckptman ingest {wording.shell_word(inventory.scan.root)} --root NEW"


# --- places -----------------------------------------------------------------------------------------------------------


def _check_places(runs: list[contents.Run], inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Runs in wrong folders; those that were moved with one folder are told of together."""
    misplaced: dict[tuple[PurePosixPath, PurePosixPath, contents.Origin], list[contents.Run]] = defaultdict(list)
    of_others = {run.folder for run in inventory.runs if run.origin is contents.Origin.EXTRA}
    for run in runs:
        if run.origin is contents.Origin.RECORDED and not run.files and run.folder in of_others:
            continue  # the run.json is in a wrong place, or all its files are: both are told of
        if run.place_problem is not None:
            code = "off-grid" if run.place_problem.code == "off-grid" else "no-place"
            yield finding(code, run.folder, run.place_problem.message)
        elif run.place is not None and not run.is_in_place:
            pair = run.folder, run.place.folder
            if run.origin is contents.Origin.RECORDED:
                pair = apart(run.folder.parent, run.place.folder)
            misplaced[*pair, run.origin].append(run)
        elif run.place is not None:
            yield from _check_run_folder(run, run.place, inventory, convention)
    for (home, target, _), moved in misplaced.items():
        place = moved[0].place
        assert place is not None  # it is misplaced
        if moved[0].folder == place.folder:  # its files lie in the task folder, run.json among them
            where: object = place.run_folder(convention)
        elif len(moved) == 1 or place.folder == target:
            where = place.folder
        else:
            where = f"{target}, in folders of the same names"
        yield finding(
            "misplaced",
            moved[0].folder if len(moved) == 1 else home,
            f"by its configuration, {_which_files(moved)} belongs in {where}",
            _put_right(moved, where, inventory),
        )


def _put_right(runs: list[contents.Run], target: object, inventory: Inventory) -> str:
    """What to do about runs that belong in another task folder."""
    if runs[0].origin is contents.Origin.RECORDED:
        folders = "the run" if len(runs) == 1 else "the runs"
        return f"Let ckptman move {folders} into {target}, beside what is there: {_MEND}"
    return _sort_it(inventory)


def _check_run_folder(
    run: contents.Run, place: Place, inventory: Inventory, convention: Convention
) -> Iterator[Finding]:
    """The name of a run's folder: by its seed, with or without something that tells apart a second run."""
    if run.origin is contents.Origin.LOOSE and (
        run.folder.parent != place.folder or not convention.folders.is_run(run.folder.name)
    ):
        return  # files directly in a task folder, or deeper than any run
    if not place.is_at(run.folder, convention):
        expected = place.run_folder(convention)
        message = f"by its configuration, {_which_files([run])} belongs in {expected}"
        yield finding("wrong-run-folder", run.folder, message, _right_folder(expected, inventory))


def _right_folder(expected: PurePosixPath, inventory: Inventory) -> str:
    """What to do about a run in another run's folder."""
    if os.path.lexists(inventory.scan.root / expected):
        return f"The name {expected.name} is taken: let ckptman find one that is free: {_MEND}"
    return f"Let ckptman rename the folder to {expected.name}: {_MEND}"


def _which_files(runs: list[contents.Run]) -> str:
    names = [file.path.name for run in runs for file in run.files]
    if not names:
        return "the run"
    return names[0] if len(names) == 1 else f"each of {wording.count_text(len(names), 'checkpoint')} here"


# --- configurations ---------------------------------------------------------------------------------------------------


def _check_config(run: contents.Run, convention: Convention) -> Iterator[Finding]:
    if run.place is not None and run.place.seed is None:
        seed = run.config.get(convention.seed_key)
        what = f"no {convention.seed_key}" if seed is None else f"an unusable {convention.seed_key}: {seed!r}"
        message = f"the configuration of {_which_files([run])} has {what}"
        yield finding("unknown-seed", run.folder, message)
    for keys, bounds in zip((convention.trained_keys, convention.tested_keys), _ranges(run, convention), strict=True):
        if keys is not None and bounds is not None and bounds[0] > bounds[1]:
            message = f"{keys[0]} is {bounds[0]}, above {keys[1]}, which is {bounds[1]}"
            yield finding("bad-range", run.folder, message)


_Tests = Counter[tuple[object, ...]]
"""Runs by group, longest trained length (None where the tested ones are clear of it), shortest and longest tested."""


def tests_of(runs: Iterable[contents.Run], convention: Convention) -> _Tests:
    """The runs that were tested on lengths they were trained on, or on others than their grid's."""
    found: _Tests = Counter()
    for run in runs:
        trained, tested = _ranges(run, convention)
        if trained is None or tested is None or tested[0] > tested[1] or run.place is None:
            continue
        if tested[0] <= trained[1]:
            found[run.place.folder.parent, trained[1], *tested] += 1
        elif (
            convention.metric.fixed not in (None, tested)
            and placement.group_pattern(run.place.group, convention) is not None
            and run.files
            and run.measured is None  # else on those of the convention, by an evaluation
        ):
            found[run.place.folder.parent, None, *tested] += 1
    return found


def _check_tests(tests: _Tests, convention: Convention) -> Iterator[Finding]:
    """Groups of such runs, each once."""
    for (group, longest, low, high), count in tests.items():
        runs = wording.count_text(count, "run")
        if longest is not None:
            message = f"{runs} trained on lengths up to {longest}, and tested on {low} to {high}"
            yield finding("test-overlaps-train", group, message)
        else:
            first, last = convention.metric.fixed or (low, high)
            message = f"{runs} tested on lengths {low} to {high}, where those of the convention are {first} to {last}"
            yield finding("other-test-lengths", group, message)


_Range = tuple[int, int] | None


def _ranges(run: contents.Run, convention: Convention) -> tuple[_Range, _Range]:
    """The lengths that a run was trained on, and those that it was tested on."""
    trained, tested = convention.trained_keys, convention.tested_keys
    return run.once(("ranges", trained, tested), lambda: (_range(run, trained), _range(run, tested)))


def _range(run: contents.Run, keys: tuple[str, str] | None) -> _Range:
    if keys is None:
        return None
    low, high = (comparing.whole(run.config.get(key)) for key in keys)
    return None if low is None or high is None else (low, high)


def _check_attribution(run: contents.Run) -> Iterator[Finding]:
    if run.record is not None and run.record.run_id is None and run.record.attribution.candidates:
        note = run.record.attribution
        yield finding("ambiguous-run", run.folder, f"{note.evidence}: {', '.join(note.candidates)}")


# --- whole, and only once ---------------------------------------------------------------------------------------------


def _check_whole(
    run: contents.Run, others: Iterable[contents.Run], inventory: Inventory, convention: Convention
) -> Iterator[Finding]:
    """Whether the checkpoints are there that the recipe saves, in the run's folder or in its `others`. What run.json
    lists is missed elsewhere."""
    found = [
        kept
        for part in (run, *others)
        for kept in (
            *((file.name.kind or file.kind or "", file.step) for file in part.files if file.name is not None),
            *((entry.kind, entry.step) for entry in (part.record.checkpoints if part.record is not None else ())),
        )
    ]
    stands = run.compared(found) if run.convention is convention else standing.compare(run.config, found, convention)
    if not stands.kinds:
        return
    if not stands.has_final:
        only = f"{_described(run)} has only: {', '.join(sorted(stands.kinds))}"
        refused = _refused_finals(run, inventory, convention)
        fix = refused[0].advice if refused else None
        yield finding("missing-final", run.folder, "; ".join((only, *map(str, refused))), fix)
    for missing in stands.missing:
        listed = list(islice(missing.steps(), _MOST_STEPS))
        more = missing.count - len(listed)
        which = ", ".join(map(str, listed)) + (f" and {more:,} more" if more else "")
        if missing.here:
            message = f"{_described(run)} lacks the {missing.kind} after {which} iterations, which its recipe saves"
        else:
            message = f"{_described(run)} has no {missing.kind}, which its recipe saves after {which} iterations"
        yield finding("missing-checkpoint", run.folder, message)


def _split(runs: Iterable[Sequence[contents.Run]]) -> Mapping[PurePosixPath, PurePosixPath]:
    """Of runs that lie in several folders, with files of different names, each folder and the one to be the home."""
    found = {}
    for parts in runs:
        names = [name for run in parts for name in _file_names(run)]
        if len(parts) > 1 and len(names) == len(set(names)) and len({run.folder.parent for run in parts}) == 1:
            home = min((run.folder for run in parts), key=lambda folder: (len(folder.name), folder))
            found.update({run.folder: home for run in parts})
    return found


def _refused_finals(run: contents.Run, inventory: Inventory, convention: Convention) -> list[records.RefusedFile]:
    """The files that ingest did not take, and that may be the run's end."""
    place, found = run.place, []
    if place is None:
        return []
    for file in inventory.scan.refused:
        if file.what is not None:  # a folder, in which it may be
            found += [file] if file.may_be_of(run.run_id, place.group, place.task, place.seed) else []
            continue
        with suppress(RefusedError):  # a name of no convention
            name = naming.naming_of(convention).parse(file.file)
            if (
                name.is_final
                and file.may_be_of(run.run_id, place.group, place.task, place.seed)
                and not naming.naming_of(convention).disagreements(name, run.config)
            ):
                found.append(file)
    return found


def repeatable(run: contents.Run, convention: Convention) -> tuple[object, ...] | None:
    """What runs of one configuration and seed share; None for one that repeats none."""
    place = run.place
    if place is None or place.seed is None or not run.files:
        return None
    known = placement.group_pattern(place.group, convention) is not None
    config = "" if known else comparing.fingerprint(run.config, convention.ignored_keys)
    return place.folder, place.notes, place.seed, config


def _check_repeated(whole: Iterable[contents.Run], convention: Convention) -> Iterator[Finding]:
    """Runs of one configuration and seed. In a group with a grid, its axes alone make the configuration."""
    same: dict[tuple[object, ...], list[contents.Run]] = defaultdict(list)
    for run in whole:
        if (key := repeatable(run, convention)) is not None:
            same[key].append(run)
    for runs in same.values():
        runs.sort(key=_reached, reverse=True)
        first = runs[0]
        for run in runs[1:]:
            if run.run_id is not None and run.run_id == first.run_id:
                continue  # a copy of its folder, in which something was changed
            if None in (run.record, first.record) and _file_names(run).isdisjoint(_file_names(first)):
                continue  # parts of one run, in two folders
            keys = comparing.differing_keys(first.config, run.config, convention.ignored_keys)
            differ = f"; their configurations differ in {', '.join(keys)}" if keys else ""
            if _reached(run) < _reached(first):
                differ += f"; it has only: {', '.join(sorted(run.standing.kinds))}"
            yield finding(
                "repeated-run",
                run.folder,
                f"{_described(run)} repeats {_described(first)} in {first.folder}{differ}",
            )


def _file_names(run: contents.Run) -> set[str]:
    return {file.path.name for file in run.files}


def _described(run: contents.Run) -> str:
    seed = f" with seed {run.place.seed}" if run.place is not None and run.place.seed is not None else ""
    return f"run {run.run_id}" if run.run_id is not None else f"the run{seed}"
