"""Runs as far as they are counted: a few hundred bytes each, and what many of them have alike once.

Most run folders hold what their `run.json` says and nothing else, in the place that the configuration gives them. What
documents tell of such a run is read, and the rest let go (`count_runs`); everything else in a tree is held as it is.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from ckptman.rules import Convention, terms
from ckptman.text import wording
from ckptman.tree import contents, metrics, records
from ckptman.tree.standing import Standing, compare

_T = TypeVar("_T")


class SharedConfig(Mapping[str, Any]):
    """A configuration of which only what differs from seed to seed is its own."""

    __slots__ = ("_own", "_shared")

    def __init__(self, shared: Mapping[str, Any], own: tuple[Any, ...]) -> None:
        """`shared` has each key in its order; for those that it has an `_Own` of, `own` has the value."""
        self._shared, self._own = shared, own

    def __getitem__(self, key: str) -> Any:
        value = self._shared[key]
        return self._own[value.at] if type(value) is _Own else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._shared)

    def __len__(self) -> int:
        return len(self._shared)


class _Own(NamedTuple):
    at: int


class Sharing:
    """Holds once what many runs have alike."""

    def __init__(self, convention: Convention) -> None:
        self.convention = convention
        self._own = convention.ignored_keys | {convention.seed_key}
        self._owns = tuple(map(_Own, range(len(self._own))))
        self._values: dict[tuple[type, Any], Any] = {}
        self._configs: dict[bytes, dict[str, Any]] = {}
        self._alike: dict[bytes, Alike] = {}

    def config(self, config: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
        """The two parts of a `SharedConfig`."""
        own = tuple(self.one(value) for key, value in config.items() if key in self._own)
        owns = iter(self._owns)
        shared = {self.one(key): next(owns) if key in self._own else self.one(value) for key, value in config.items()}
        return self._configs.setdefault(_digest(shared), shared), own

    def one(self, value: _T) -> _T:
        """The one object for a plain value."""
        kind = type(value)
        return self._values.setdefault((kind, value), value) if kind in _PLAIN else value

    def counted(self, run: ToldRun, whole: contents.Run | None = None) -> CountedRun:
        """A run."""
        shared, own = self.config(run.config)
        key = _digest((id(shared), run.alike))
        if key not in self._alike:
            self._alike[key] = Alike(shared, self.convention, *run.alike)
        measured = None if run.measured is None else metrics.Measured(*map(self.one, run.measured))
        sizes = self._values.setdefault((tuple, run.sizes), run.sizes)
        run = run._replace(name=self.one(run.name), seed=self.one(run.seed), sizes=sizes)
        return CountedRun(run, self._alike[key], own, measured, whole)


_PLAIN = frozenset({int, str})
"""Not floats: of these 0.0 and -0.0 are equal."""


def _digest(value: object) -> bytes:
    """What values share that are the same to the last type."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).digest()


class ToldRun(NamedTuple):
    """What is counted of a run: plain values, for another process may tell it."""

    name: str
    """Of its folder."""
    run_id: str | None
    seed: int | None
    config: dict[str, Any]
    sizes: tuple[int, ...]
    """Of its files."""
    measured: tuple[Any, ...] | None
    logged: float | None
    alike: tuple[Any, ...]
    """The fields of `Alike` from the third on."""


@dataclass(frozen=True)
class Alike:
    """What runs of one task folder have alike."""

    shared: Mapping[str, Any]
    """The configuration, as `SharedConfig` has it."""
    convention: Convention
    home: str
    """The folder that theirs lie in."""
    group: str
    family: terms.Family | None
    cell: contents.CellKey | None
    is_recorded: bool
    """Whether there is a `run.json`."""
    source_root: str
    config_source: str
    metric_names: tuple[str, ...]
    has_history: bool
    has_wandb: bool
    """Whether W&B folders are kept with it."""
    shapes: tuple[tuple[str, str | None, int | None, bool, bool], ...]
    """Of each file its name, kind and step, and whether it is a folder, and of the size that run.json lists."""

    @cached_property
    def folder(self) -> PurePosixPath:
        """As a path."""
        return PurePosixPath(self.home)


class CountedFile(NamedTuple):
    """A checkpoint."""

    folder: PurePosixPath
    name: str
    kind: str | None
    step: int | None
    is_folder: bool
    """Whether it is one with several files in it."""
    is_of_listed_size: bool
    """As `CheckpointFile.is_of_listed_size`."""
    size: int

    @property
    def path(self) -> PurePosixPath:
        """Relative to the root."""
        return self.folder / self.name


class CountedRun:
    """A run, as far as it is counted."""

    __slots__ = ("_own", "alike", "logged", "measured", "name", "run_id", "seed", "sizes", "whole")

    def __init__(
        self,
        told: ToldRun,
        alike: Alike,
        own: tuple[Any, ...],
        measured: metrics.Measured | None,
        whole: contents.Run | None,
    ) -> None:
        self.alike = alike
        self.run_id = told.run_id
        """The W&B run, if it is known."""
        self.seed = told.seed
        self.measured = measured
        """Its generalization, where run.json tells."""
        is_same = measured is not None and measured.value == told.logged
        self.logged = measured.value if measured is not None and is_same else told.logged
        """What training logged last of the metric that generalization is measured by."""
        self.whole = whole
        """All of it, where that is held."""
        self.sizes = told.sizes
        """Bytes of its files."""
        self.name = told.name
        """Of its folder."""
        self._own = own

    @property
    def folder(self) -> PurePosixPath:
        """Relative to the root."""
        return self.alike.folder / self.name

    @property
    def group(self) -> str:
        """As `Run.group`."""
        return self.alike.group

    @property
    def family(self) -> terms.Family | None:
        """As `Run.family`."""
        return self.alike.family

    @property
    def cell(self) -> contents.CellKey | None:
        """As `Run.cell`."""
        return self.alike.cell

    @property
    def fills(self) -> bool:
        """As `Run.fills`."""
        return self.whole is None or self.whole.fills

    @property
    def is_recorded(self) -> bool:
        """Whether there is a `run.json`."""
        return self.alike.is_recorded

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration in force."""
        return SharedConfig(self.alike.shared, self._own)

    @property
    def files(self) -> tuple[CountedFile, ...]:
        """Those that are there."""
        folder = self.folder
        return tuple(
            CountedFile(folder, *shape, size) for shape, size in zip(self.alike.shapes, self.sizes, strict=True)
        )

    @property
    def standing(self) -> Standing:
        """Which of its checkpoints are here."""
        sound = ((kind, step) for _, kind, step, _, is_sound in self.alike.shapes if is_sound)
        spoilt = (kind for _, kind, _, _, is_sound in self.alike.shapes if not is_sound)
        return compare(self.config, sound, self.alike.convention, spoilt)


def told(run: contents.Run) -> ToldRun:
    """What is counted of a run."""
    record, measured = run.record, run.measured
    shapes = tuple(
        (
            file.path.name,
            file.kind,
            file.step,
            file.entry is not None and bool(file.entry.parts),
            file.is_of_listed_size,
        )
        for file in run.files
    )
    return ToldRun(
        name=run.folder.name,
        run_id=run.run_id,
        seed=run.seed,
        config=dict(run.config),
        sizes=tuple(file.size for file in run.files),
        measured=None if measured is None else (measured.value, measured.source, measured.samples, measured.lists,
                                                measured.is_share),
        logged=None if record is None else metrics.from_metrics(record.metrics, record.config, run.convention),
        alike=(
            str(run.folder.parent), run.group, run.family, run.cell, record is not None,
            "" if record is None else record.source.root,
            "" if record is None else record.config_source,
            () if record is None else tuple(record.metrics),
            record is not None and record.history is not None,
            record is not None and bool(record.wandb),
            shapes,
        ),
    )  # fmt: skip


def count_runs(root: Path, convention: Convention) -> tuple[records.TreeScan, list[CountedRun]]:
    """Read a tree: the scan of what is to be held, and the runs that need not be, in natural path order.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """

    def tell(folder: records.ScannedFolder) -> tuple[Any, ...] | None:
        run = _plain_run(folder, convention)
        return None if run is None else tuple(told(run))

    sharing = Sharing(convention)
    counted: dict[PurePosixPath, list[CountedRun]] = defaultdict(list)
    held: list[records.ScannedFolder] = []
    above: list[records.ScannedFolder] = []

    def leave(folder: records.ScannedFolder) -> None:
        """Hold a folder, all below which was read, without the runs in it that are counted."""
        names = {run.name for run in counted.get(folder.path, ())}
        held.append(replace(folder, entries=tuple(entry for entry in folder.entries if entry.path.name not in names)))

    for item in records.share_folders(root, convention, tell, natural=True):
        if isinstance(item, records.ScannedFolder):
            if item.is_kept:
                continue
            while above and above[-1].path != item.path.parent:
                leave(above.pop())
            if (plain := tell(item)) is None:
                above.append(item)
                continue
            item = plain
        run = sharing.counted(ToldRun(*item))
        counted[run.alike.folder].append(run)
    for folder in above:
        leave(folder)
    scan = records.scan_of(root, held, convention)
    runs = [
        run
        for home in sorted(counted, key=wording.path_key)  # all of one depth
        for run in sorted(counted[home], key=lambda run: wording.natural_key(run.name))
    ]
    return replace(scan, passed=frozenset(run.run_id for run in runs) if scan.lists else frozenset()), runs


def _plain_run(folder: records.ScannedFolder, convention: Convention) -> contents.Run | None:
    """The run of a folder that holds what its run.json says and nothing else, in the place where it belongs."""
    run = None if folder.is_kept else contents.run_of(folder, convention)
    if (
        run is None
        or run.record is None
        or len(run.files) != len(run.record.checkpoints)
        or any(entry.kind != "file" and entry.path != folder.kept_wandb for entry in folder.entries)
        or records.OVERWRITTEN_FILE in (entry.path.name for entry in folder.entries)
        or run.family is None
        or not run.group
        or not run.is_in_place
    ):
        return None
    return run
