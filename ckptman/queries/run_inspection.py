"""What one run of a tree is: its record, its files, its metrics by length, its evaluations.

show_run("len_gen_k8/task_0006/seed_1337", "checkpoints").record.run_id
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.rules import Convention, convention_file, placement
from ckptman.text import UsageError, json_text, wording
from ckptman.tree import contents, metrics, records

_MOST_NAMED = 8
"""Runs that a message names."""


@dataclass(frozen=True)
class ShownRun:
    """One run of a tree."""

    root: Path
    folder: PurePosixPath
    """Relative to the root."""
    record: records.RunRecord
    here: frozenset[str]
    """Names of those of its checkpoints that are there."""
    by_k: Mapping[int, float]
    """The metric of generalization that training logged last, by length, where it is a number."""
    generalization: metrics.Measured | None

    def to_json(self) -> dict[str, Any]:
        """The run as one JSON document."""
        found = self.generalization
        document = {
            "schema_version": records.SCHEMA_VERSION,
            "root": str(self.root),
            "path": str(self.folder),
            "record": json_text.document_of(self.record),
            "here": sorted(self.here),
            "by_k": {str(k): value for k, value in self.by_k.items()},
            "gen_em": None if found is None else found.value,
            "gen_em_source": None if found is None else found.source,
        }
        return {key: json_text.jsonable(value) for key, value in document.items()}


def show_run(name: str, root: str | os.PathLike[str], *, convention: Convention | None = None) -> ShownRun:
    """Find one run of a tree, and what is known of it.

    Args:
        name: Its folder, as a path or as the end of one (`len_gen_k8/task_0006/seed_1337`, `len_gen_k8/6/1337`), or its
            run id.
        root: The tree.
        convention: The rules; by default those of the nearest ckptman.yaml, or the built-in ones.

    Raises:
        UsageError: there is no tree (`no-tree`); no run (`no-run`), or more than one (`several-runs`), is meant.
        RefusedError: (`bad-record`) its run.json cannot be used.
    """
    rules = convention_file.rules_for(convention, root)
    scan = records.scan_tree(Path(root), rules)
    found = [run for run in scan.runs if _is_meant(run, name, scan, rules)] or [
        run for run in scan.runs if _is_of_seed(run, name, rules)
    ]
    if len(found) != 1:
        raise _not_one(name, found, scan, rules)
    [run] = found
    if run.record is None:
        raise records.bad_record(scan.root / run.path / records.RUN_FILE, run.problem or "it is missing",
                                 is_newer=run.is_newer)  # fmt: skip
    return ShownRun(
        root=scan.root,
        folder=run.path,
        record=run.record,
        here=frozenset(
            file.path.name
            for file in contents.unread_files(scan, rules)
            if file.entry is not None and file.folder == run.path
        ),
        by_k=dict(_by_k(run.record, rules)),
        generalization=metrics.measured(run.record, rules),
    )


def _is_meant(run: records.RunFolder, name: str, scan: records.TreeScan, convention: Convention) -> bool:
    if run.record is not None and name == run.record.run_id:
        return True
    path = Path(name)
    if path.is_dir() and path.resolve() == (scan.root / run.path).resolve():
        return True
    return run.path.name in _ends_of(run.path, name, convention)


def _is_of_seed(run: records.RunFolder, name: str, convention: Convention) -> bool:
    """Whether a run is one of several of the seed that is meant, whose folders say more: `seed_1337-mlp0`."""
    return any(run.path.name.startswith(f"{end}-") for end in _ends_of(run.path, name, convention))


def _ends_of(folder: PurePosixPath, name: str, convention: Convention) -> set[str]:
    """The run folders that a name means, as far as this one lies where the name says; none if it does not."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or len(parts) > len(folder.parts):
        return set()
    *above, task, _ = folder.parts
    said = [*parts[:-2], *([convention.folders.task(int(parts[-2]))] if parts[-2].isdecimal() else [parts[-2]])]
    if [*above, task][-len(said) :] != said:
        return set()
    return {parts[-1], convention.folders.run(int(parts[-1])) if parts[-1].isdecimal() else parts[-1]}


def _not_one(name: str, found: list[records.RunFolder], scan: records.TreeScan, convention: Convention) -> UsageError:
    if found:
        paths = ", ".join(str(run.path) for run in found[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")
        return UsageError(
            f"{name!r} may be each of {wording.count_text(len(found), 'run')}: {paths}",
            code="several-runs",
            fix="Name one of these folders, or its run id.",
        )
    for folder, run in _lost(name, scan, convention):
        is_lost = run in scan.overwritten.get(folder, ())
        by = f"{' and '.join(run.overwritten_by) or 'another run'} wrote over them" if is_lost else "none is known"
        return UsageError(
            f"run {run.run_id} ({folder}, {convention.folders.run(run.seed)}) has no checkpoints here: {by}",
            code="no-run",
            fix=f"What W&B recorded of it is in {scan.root / folder / records.OVERWRITTEN_FILE}.",
        )
    return UsageError(
        f"{name!r} is no file, and no run of the tree {scan.root} by its id, folder or group/task/seed",
        code="no-run",
        fix=f"See what there is with: ckptman ls {wording.shell_word(scan.root)}",
    )


def _lost(
    name: str, scan: records.TreeScan, convention: Convention
) -> Iterator[tuple[PurePosixPath, records.OverwrittenRun]]:
    """The runs without checkpoints that a name means, each with its task's folder."""
    for folder, runs in (*scan.overwritten.items(), *scan.without_files.items()):
        for run in runs:
            own = folder / convention.folders.run(run.seed)
            if name == run.run_id or own.name in _ends_of(own, name, convention):
                yield folder, run


def _by_k(record: records.RunRecord, convention: Convention) -> Iterator[tuple[int, float]]:
    """Of every length that the run was tested on, trained ones too."""
    before, _, after = convention.metric.pattern.partition("{k}")
    for key, value in record.metrics.items():
        middle = key.removeprefix(before).removesuffix(after)
        is_of_length = key == f"{before}{middle}{after}" and middle.isdecimal() and len(middle) < 9
        if is_of_length and isinstance(value, int | float) and not isinstance(value, bool):
            yield int(middle), float(value)


def is_run_folder(path: Path, convention: Convention) -> bool:
    """Whether a path is the folder of a run, in a tree or copied out of one."""
    return (path / records.RUN_FILE).is_file() or (
        path.is_dir() and placement.root_above(path.resolve(), convention) is not None
        and convention.folders.is_run(path.name)
    )  # fmt: skip
