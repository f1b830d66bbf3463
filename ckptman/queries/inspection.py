"""What one checkpoint is: what its file says, where it belongs, what its tree knows of it, and what does not fit.

    show("Final_….pt").config["n_layers"]

Any checkpoint file can be shown, in a tree or out of one. Nothing in it is executed, and no tensor is loaded.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ckptman.checks import check_files, check_records, check_runs
from ckptman.formats import CheckpointInfo, architecture, containers, refusals
from ckptman.rules import Convention, Place, convention_file, naming, placement
from ckptman.text import RefusedError, given_path, json_text
from ckptman.tree import Finding, Inventory, contents, finding, history, metrics, records

_MOST_LISTED = 8
"""Missing files that are named."""
_ABOUT_OTHER_FILES = frozenset({"missing-final", "missing-checkpoint"})


@dataclass(frozen=True)
class Location:
    """Where a file lies."""

    root: Path | None
    """The tree it is in; None outside of any."""
    folder: PurePosixPath
    """The file's folder: relative to the root, or absolute where there is none."""


class Loads(NamedTuple):
    """What Python can load of a checkpoint."""

    what: str
    """`model`: `ckptman.load`, and so `ckptman eval`; `weights`: `ckptman.load_weights` alone; `nothing`."""
    reason: str | None
    """Why not more, or on what condition."""
    fix: str | None


@dataclass(frozen=True)
class ShownCheckpoint:
    """One checkpoint file, and all that can be told without loading its tensors."""

    path: Path
    """As it was given."""
    info: CheckpointInfo
    """What the file holds."""
    name: naming.CheckpointName | None
    """What its name says; None where it does not follow the convention."""
    config: Mapping[str, Any]
    """The configuration that counts."""
    config_source: str
    """Where that is from: `checkpoint`, `run.json` or `name`; empty where there is none."""
    location: Location
    place: Place | None
    """Where it belongs; None where the configuration does not say."""
    belongs_at: PurePosixPath | None
    """Its run folder, relative to a tree's root."""
    record: records.RunRecord | None
    """Its run's record, in a tree."""
    entry: records.CheckpointEntry | None
    """The checkpoint in that record."""
    generalization: metrics.Measured | None
    """That of its run."""
    loads: Loads
    """Whether Python can load it."""
    problems: tuple[Finding, ...]
    """What `validate` finds about this file; paths are relative to the tree, or absolute outside of any."""

    def to_json(self) -> dict[str, Any]:
        """The checkpoint as one JSON document."""
        info = self.info
        document = {
            "schema_version": records.SCHEMA_VERSION,
            "path": str(self.path),
            "container": info.container,
            "form": info.form,
            "weights_key": info.weights_key,
            "size": info.size,
            "iters_done": info.iters_done,
            "config": info.config,
            "config_key": info.config_key,
            "config_source": self.config_source or None,
            "config_class": info.config_class,
            "model_config": info.model_config,
            "tensors": [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in info.tensors],
            "compiled": info.compiled,
            "parameters": info.parameters,
            "dtypes": list(dict.fromkeys(tensor.dtype for tensor in info.tensors)),
            "nbytes": info.nbytes,
            "optimizer": None if info.optimizer is None else dataclasses.asdict(info.optimizer),
            "other_keys": list(info.other_keys),
            "unused_configs": list(info.unused_configs),
            "unnamed_fields": list(info.unnamed_fields),
            "odd_fields": list(info.odd_fields),
            "not_tensors": list(info.not_tensors),
            "foreign": [item._asdict() | {"places": list(item.places)} for item in info.foreign],
            "loads": self.loads._asdict(),
            "files": [{"name": member.name, "size": member.size} for member in info.members],
            "missing": list(info.missing),
            "name": None if self.name is None else {"parsed": name_json(self.name)},
            "belongs_at": None if self.belongs_at is None else str(self.belongs_at),
            "root": None if self.location.root is None else str(self.location.root),
            "run": None if self.record is None else self._run_json(self.record),
            "problems": [problem.to_json() for problem in self.problems],
        }
        return {key: json_text.jsonable(value) for key, value in document.items()}

    def _run_json(self, record: records.RunRecord) -> dict[str, Any]:
        measured_value = self.generalization
        return {
            "run_id": record.run_id,
            "seed": record.seed,
            "group": record.group,
            "task": record.task,
            "config_source": record.config_source,
            "source": {"root": record.source.root, "path": self.entry.source.path if self.entry else None},
            "sha256": self.entry.sha256 if self.entry else None,
            "attribution": {
                "code": record.attribution.code,
                "evidence": record.attribution.evidence,
                "candidates": list(record.attribution.candidates),
            },
            "gen_em": None if measured_value is None else measured_value.value,
            "gen_em_source": None if measured_value is None else measured_value.source,
        }


def show(path: str | os.PathLike[str], *, convention: Convention | None = None) -> ShownCheckpoint:
    """Read one checkpoint, and compare what its name, its content, its place and its run's record say.

    Args:
        path: The file, or a folder that is a checkpoint; its name need not follow the convention.
        convention: The rules; by default those of the nearest ckptman.yaml above the file, or the built-in ones.

    Raises:
        RefusedError: if it is no checkpoint that can be read safely, with a code of `refusals.REFUSALS`.
    """
    path = given_path(path)
    rules = convention_file.rules_for(convention, path.parent)
    info = containers.read(path, rules.checkpoint)
    location = _locate(path, rules)
    folder = _read_folder(path, info, location)
    listed = () if folder.record is None else folder.record.checkpoints
    file = contents.with_name(
        contents.CheckpointFile(
            path=location.folder / path.name,
            size=info.size,
            entry=next((entry for entry in listed if entry.file == path.name), None),
            info=info,
        ),
        rules,
    )
    inventory = contents.inventory_of_one(location.root or path.parent, folder, file, rules)
    run = next((run for run in inventory.runs if run.files), None)
    return ShownCheckpoint(
        path=path,
        info=info,
        name=file.name,
        config={} if run is None else run.config,
        config_source="" if run is None else _config_source(run, file),
        location=location,
        place=None if run is None else run.place,
        belongs_at=None if run is None or run.place is None else run.place.run_folder(rules),
        record=folder.record,
        entry=file.entry,
        generalization=None if folder.record is None else metrics.measured(folder.record, rules),
        loads=_loads(path, info, rules),
        problems=tuple(_problems(inventory, file, run, location, rules)),
    )


def _loads(path: Path, info: CheckpointInfo, rules: Convention) -> Loads:
    if info.missing:
        missing = refusals.REFUSALS["incomplete-folder"]
        return Loads("nothing", f"not there, or not whole: {', '.join(info.missing[:_MOST_LISTED])}", missing.fix)
    try:
        architecture.model_config(info, path, rules)
    except RefusedError as error:
        return Loads("weights", error.message, error.fix)
    masks = architecture.masks_of(info.tensors)
    return Loads("model", f"if the values of {masks[0].name} hide what comes later" if masks else None, None)


def name_json(name: naming.CheckpointName) -> dict[str, Any]:
    """What a file name says, as a JSON object."""
    return {
        "kind": name.kind,
        "final": name.is_final,
        "step": name.step,
        "config": dict(name.values),
        "scheme": None if name.scheme is None else name.scheme.name,
    }


def _locate(path: Path, convention: Convention) -> Location:
    """Whether a file lies in a tree, told by the two family folders that a tree has below its root."""
    folder = path.parent.resolve()
    root = placement.root_above(folder, convention)
    return Location(root=root, folder=PurePosixPath(folder if root is None else folder.relative_to(root)))


# --- a tree of one file -----------------------------------------------------------------------------------------------


def _read_folder(path: Path, info: CheckpointInfo, location: Location) -> records.RunFolder:
    """The file's folder as a run folder with nothing else in it; without a record where there is none."""
    folder = path.absolute().parent
    record, problem = None, None
    if (folder / records.RUN_FILE).exists():
        try:
            record = records.read_record(folder)
        except RefusedError as error:
            told = error.message.removeprefix(f"{folder / records.RUN_FILE} cannot be used: ")
            problem = told if location.root is not None else None  # elsewhere it may be another program's
    files = {path.name: info.size}
    if record is not None and record.history is not None:
        with suppress(OSError):
            files[history.HISTORY_FILE] = (folder / history.HISTORY_FILE).stat().st_size
    return records.RunFolder(path=location.folder, record=record, problem=problem, files=files)


def _config_source(run: contents.Run, file: contents.CheckpointFile) -> str:
    if file.info is not None and run.config is file.info.config:
        return "checkpoint"
    return "name" if file.name is not None and run.config is file.name.values else records.RUN_FILE


def _problems(
    inventory: Inventory, file: contents.CheckpointFile, run: contents.Run | None, location: Location, rules: Convention
) -> Iterator[Finding]:
    """What `validate` finds about the file; whether other files of its run are missing is not asked here."""
    if location.root is None and file.info is not None and file.info.container != containers.TORCH_ARCHIVE:
        yield from (item for item in check_files(inventory, rules) if item.code == "bad-checkpoint")
        return  # the convention is about names of archives, and others come from programs that do not know it
    yield from check_files(inventory, rules)
    if location.root is not None:
        yield from check_records(inventory, rules)
        yield from (item for item in check_runs(inventory, rules) if item.code not in _ABOUT_OTHER_FILES)
    elif run is not None and run.place_problem is not None:
        yield finding("no-place", file.path, run.place_problem.message, run.place_problem.fix)
