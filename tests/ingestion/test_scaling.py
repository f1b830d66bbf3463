"""No verb walks all files or runs for each file or run: with twice as many, no line runs more than twice as often."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ckptman
from ckptman.ingestion.planning import IngestOptions, make_plan
from ckptman.ingestion.run_folders import RunFolders
from ckptman.rules import convention_file
from ckptman.rules.selection import Selection
from tests.helpers.grown import grow_source
from tests.helpers.raw import START, config, write_run

PACKAGE = str(Path(ckptman.__file__).parent)
PER_FILE = ("formats", "fs", "text")
"""Packages that see one file, or one text, at a time."""

SIZES = (6, 12, 24)
"""Runs, of two files each."""

Lines = Counter[tuple[str, int]]


@contextmanager
def counted_lines() -> Iterator[Lines]:
    """How often each line of the package runs; loops within a line count too."""
    counts: Lines = Counter()
    before = sys.gettrace()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            counts[frame.f_code.co_filename, frame.f_lineno] += 1
        return local

    def top(frame: FrameType, _event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        inside = file.startswith(PACKAGE) and Path(file).relative_to(PACKAGE).parts[0] not in PER_FILE
        return local if inside else None

    sys.settrace(top)
    try:
        yield counts
    finally:
        sys.settrace(before)


def growing(work: Callable[[int], object], sizes: tuple[int, ...] = SIZES) -> list[str]:
    """The lines that run more and more often for each file, the more files there are."""
    counts = []
    for size in sizes:
        convention_file._loaded.cache_clear()  # rules remember what is worked out for a configuration
        with counted_lines() as lines:
            work(size)
        counts.append(lines)
    worse = []
    for place, last in counts[-1].items():
        seen = [lines[place] for lines in counts]
        more = [later - earlier for earlier, later in pairwise(seen)]  # doubles where each file takes the same
        if last > 4 * sizes[-1] and more[-1] > 2.6 * max(more[0], 1):
            worse.append(f"{Path(place[0]).relative_to(PACKAGE)}:{place[1]} {seen}")
    return worse


def beside(folder: Path, count: int) -> Path:
    """Runs of one configuration in as many groups, and the same file names in each."""
    for index in range(count):
        write_run(folder / f"other_{index}" / "task_0001", config(wandb_group=f"other_{index}"), run_id=f"run{index}")
    return folder


def together(folder: Path, count: int) -> Path:
    """Runs that differ in their seed; all W&B folders lie in one place."""
    for index in range(count):
        of = config(seed=index, wandb_group=f"other_{index}")
        write_run(
            folder / f"other_{index}" / "task_0001",
            of,
            run_id=f"run{index}",
            started=START + 1000 * index,
            wandb_home=folder,
        )
    return folder


@pytest.fixture(scope="module", params=[beside, together])
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    make, folder = request.param, tmp_path_factory.mktemp(request.param.__name__)
    return {count: make(folder / str(count) / "grid_outputs", count) for count in SIZES}


@pytest.fixture(scope="module")
def trees(sources: dict[int, Path]) -> dict[int, Path]:
    """The tree of each source."""
    for source in sources.values():
        ckptman.ingest(source, source.parent / "checkpoints")
    return {count: source.parent / "checkpoints" for count, source in sources.items()}


def dry_run(source: Path, root: Path) -> None:
    make_plan(source, root, convention_file.built_in(), IngestOptions())


def test_the_plan_of_an_ingest_takes_as_long_for_each_file(sources: dict[int, Path], tmp_path: Path) -> None:
    assert growing(lambda count: dry_run(sources[count], tmp_path / "none")) == []


def test_the_plan_of_a_second_ingest_takes_as_long_for_each_file(
    sources: dict[int, Path], trees: dict[int, Path]
) -> None:
    dry_run(sources[SIZES[0]], trees[SIZES[0]])  # what is remembered of metrics and names is there by then
    assert growing(lambda count: dry_run(sources[count], trees[count])) == []


def test_the_plan_of_a_second_ingest_of_runs_that_wandb_does_not_know_takes_as_long_for_each_file(
    tmp_path: Path,
) -> None:
    for count in SIZES:
        ckptman.ingest(grow_source(tmp_path / f"source-{count}", count), tmp_path / f"{count}")
    assert growing(lambda count: dry_run(tmp_path / f"source-{count}", tmp_path / f"{count}")) == []


def test_the_plan_of_a_copy_takes_as_long_for_each_file(trees: dict[int, Path], tmp_path: Path) -> None:
    """A tree is the source, and its runs are in no other tree."""
    assert growing(lambda count: dry_run(trees[count], tmp_path / "none")) == []


@pytest.mark.parametrize(
    "verb",
    [
        lambda root: ckptman.validate(root),
        lambda root: ckptman.list_checkpoints(root),
        lambda root: ckptman.report(root),
        lambda root: ckptman.status(None, root),
    ],
    ids=["validate", "ls", "report", "status"],
)
def test_a_verb_takes_as_long_for_each_file(verb: Callable[[Path], object], trees: dict[int, Path]) -> None:
    assert growing(lambda count: verb(trees[count])) == []


def test_the_status_of_raw_outputs_takes_as_long_for_each_file(sources: dict[int, Path]) -> None:
    grid = Selection(k=(4,))  # what a grid of any size costs is no matter of files
    assert growing(lambda count: ckptman.status(sources[count], selection=grid)) == []


def test_a_walk_through_all_run_folders_for_each_file_is_found(
    sources: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = RunFolders._slots_of
    steps = "def walk(self, file):\n  [slot for slot in self._slots if slot is file]\n  return look_up(self, file)"
    names: dict[str, Any] = {"look_up": look_up}
    exec(compile(steps, f"{PACKAGE}/ingestion/walk.py", "exec"), names)
    monkeypatch.setattr(RunFolders, "_slots_of", names["walk"])
    [found] = growing(lambda count: dry_run(sources[count], tmp_path / "none"))
    assert found.startswith("ingestion/walk.py:2")
