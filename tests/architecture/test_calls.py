"""With twice as many files, no verb makes more than twice the calls to the system, or reads more than twice as much."""

from __future__ import annotations

import gc
import io
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import ckptman
from ckptman.checks import passing
from ckptman.cli.starting import start
from ckptman.documents import stale
from ckptman.fs import cache, placing
from ckptman.queries.listing import Summary, json_lines, list_runs
from ckptman.rules.convention_file import built_in
from ckptman.tree import contents, counting
from ckptman.tree.statistics import count_tree
from tests.helpers.bytes_read import bytes_read
from tests.helpers.grown import grow_source, grow_tree
from tests.helpers.many_runs import METRICS
from tests.helpers.raw import config
from tests.helpers.recorded import add_run

SIZES = (12, 24)
"""Runs, of two files each."""
CALLS = (
    "open", "close", "read", "pread", "preadv", "write", "stat", "lstat", "fstat", "scandir", "listdir", "mkdir",
    "link", "unlink", "rename", "fsync", "utime", "readlink", "symlink",
)  # fmt: skip
"""Functions of `os`; each is one call to the system, or a few."""


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    found: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            found[name] += 1
            return real(*arguments, **more)

        return call

    replaced = {name: counted(name, getattr(os, name)) for name in CALLS}
    opened = counted("open", io.open)
    with (
        mock.patch.dict(vars(os), replaced),
        mock.patch.object(io, "open", opened),
        mock.patch("builtins.open", opened),
    ):
        yield found


def costs(work: Callable[[], object]) -> Counter[str]:
    """How often each call is made, and how many bytes are read."""
    with bytes_read() as read, counted_calls() as calls:
        work()
    calls["bytes"] = sum(count for name, count in read.items() if not name.endswith((".py", ".pyc", ".so")))
    return calls


def growing(work: Callable[[int], object]) -> list[str]:
    """What takes more than twice as much for twice as many files."""
    work_of = {size: costs(lambda size=size: work(size)) for size in SIZES}  # type: ignore[misc]
    few, many = (work_of[size] for size in SIZES)
    # What is done once, whatever the number, counts in both.
    return [f"{name}: {few[name]} and {many[name]}" for name in many if many[name] > 2.1 * few[name] + 2]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    made = tmp_path_factory.mktemp("trees")
    return {size: grow_tree(made / str(size), size) for size in SIZES}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    made = tmp_path_factory.mktemp("sources")
    return {size: grow_source(made / str(size), size) for size in SIZES}


@pytest.fixture(autouse=True)
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "reflink", lambda source, copy: False)


VERBS: dict[str, Callable[[Path], object]] = {
    "validate": ckptman.validate,
    "validate --deep": lambda root: ckptman.validate(root, deep=True),
    "ls": ckptman.list_checkpoints,
    "ls --json": lambda root: list(json_lines(root, built_in(), Summary(root))),
    "results": ckptman.results,
    "report --check": lambda root: ckptman.report(root, check=True),
    "status": lambda root: ckptman.status(None, root),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_verb_makes_as_many_calls_for_each_file(verb: Callable[[Path], object], trees: dict[int, Path]) -> None:
    assert growing(lambda size: verb(trees[size])) == []


@pytest.mark.parametrize("mode", ["copy", "hardlink"])
def test_an_ingest_makes_as_many_calls_for_each_file(mode: str, sources: dict[int, Path], tmp_path: Path) -> None:
    for _ in range(2):  # the second time, there is nothing new
        assert growing(lambda size: ckptman.ingest(sources[size], tmp_path / str(size), mode=mode)) == []


@pytest.mark.parametrize(("mode", "first"), [("copy", 42), ("hardlink", 39)])
def test_an_ingest_makes_few_calls_for_each_file(
    mode: str, first: int, sources: dict[int, Path], tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in sources[SIZES[1]].rglob("*.pt")) / (2 * SIZES[1])
    few, many, again, more = (
        costs(lambda runs=runs: ckptman.ingest(sources[runs], tmp_path / str(runs), mode=mode))  # type: ignore[misc]
        for runs in (*SIZES, *SIZES)
    )
    files = 2 * (SIZES[1] - SIZES[0])

    def of_each(few: Counter[str], many: Counter[str]) -> Counter[str]:
        # `readlink` is how `bytes_read` tells what is read.
        return Counter({name: (many[name] - few[name]) / files for name in many if name != "readlink"})

    for cost, most in ((of_each(few, many), first), (of_each(again, more), 11)):
        read = cost.pop("bytes")
        assert sum(cost.values()) <= most, cost
        # Of two files: themselves and their folder, run.json, the name of that, and the half of a task's folder.
        assert cost["fsync"] <= 2.75
    # Each byte once, and again where it is copied; headers of some 10 kB, and the last ingest's run.json.
    assert read < 5_000
    assert of_each(few, many)["bytes"] < (2 if mode == "copy" else 1) * size + 11_000


def test_a_plan_makes_as_many_calls_for_each_file(sources: dict[int, Path], tmp_path: Path) -> None:
    assert growing(lambda size: ckptman.ingest(sources[size], tmp_path / str(size), dry_run=True)) == []


def test_a_known_answer_looks_at_each_entry_once_and_opens_none(
    trees: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_NS", -(10**15))
    root = trees[SIZES[0]]
    folders = [path for path in (root, *root.rglob("*")) if path.is_dir()]
    start(["validate", "--root", str(root)])
    first = capsys.readouterr().out
    opened: list[str] = []
    monkeypatch.setattr(os, "open", lambda path, *_, **__: opened.append(str(path)))
    with counted_calls() as calls:
        start(["validate", "--root", str(root)])
    package = [
        path for path in Path(ckptman.__file__).parent.rglob("*") if path.is_dir() and "__pycache__" not in path.parts
    ]
    assert capsys.readouterr().out == first
    assert calls["scandir"] == len(folders) + len(package) + 1
    assert [path for path in opened if path.startswith(str(root))] == []


def held_for_each_run(verb: Callable[[Path], object], trees: dict[int, Path]) -> float:
    """Bytes of memory that are needed at once, for each further run."""
    peaks = []
    for size in SIZES:
        verb(trees[size])  # what is remembered of rules and names is there by then
        gc.collect()  # else it comes when it likes, and what waits for it counts
        tracemalloc.start()
        verb(trees[size])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0])


IN_TURN: dict[str, Callable[[Path], object]] = {
    "ls --json": lambda root: sum(map(len, json_lines(root, built_in(), Summary(root)))),
    "status": lambda root: ckptman.status(None, root),
    "validate": lambda root: ckptman.validate(root, convention=built_in()),  # by which pickles are known already
    "results": lambda root: ckptman.results(root, convention=built_in()),  # its rows have each run's value
}
DOCUMENTS: dict[str, Callable[[Path], object]] = {
    "report --check": lambda root: ckptman.report(root, convention=built_in(), check=True),
    "stale documents": lambda root: stale(root, built_in()),
}


@pytest.mark.parametrize("verb", IN_TURN.values(), ids=IN_TURN)
def test_a_verb_that_takes_runs_in_turn_holds_none(verb: Callable[[Path], object], trees: dict[int, Path]) -> None:
    # The answer itself has each run of the grid, with its configuration: some 2 kB.
    assert held_for_each_run(verb, trees) < 4_000


def kept_of_each_run(verb: Callable[[Path], object], folder: Path) -> float:
    """Bytes that an answer keeps of each further seed of a configuration."""
    kept = []
    for seeds in SIZES:
        root = folder / str(seeds)
        for seed in range(seeds):
            add_run(root, config(seed=seed), run_id=f"run{seed}", metrics=dict.fromkeys(METRICS, 0.5))
        verb(root)
        gc.collect()
        tracemalloc.start()
        found = verb(root)
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del found
    return (kept[1] - kept[0]) / (SIZES[1] - SIZES[0])


KEPT: dict[str, Callable[[Path], object]] = {
    "results": lambda root: list_runs(root, built_in(), lambda key: key == "loss")[0],
    "report": lambda root: count_tree(root, built_in()),
}


@pytest.mark.parametrize("verb", KEPT.values(), ids=KEPT)
def test_what_is_kept_of_a_run_lets_a_hundred_thousand_files_pass(
    verb: Callable[[Path], object], tmp_path: Path
) -> None:
    assert kept_of_each_run(verb, tmp_path) < 2_000


def test_all_that_is_known_of_a_run_is_far_more(tmp_path: Path) -> None:
    assert kept_of_each_run(lambda root: count_tree(root, built_in(), whole=True), tmp_path) > 8_000


@pytest.mark.parametrize("verb", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_hold_what_they_say(
    verb: Callable[[Path], object], trees: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In so small a tree every third run is a new configuration, which takes lines of each document.
    assert held_for_each_run(verb, trees) < 12_000
    monkeypatch.setattr(counting, "_plain_run", lambda *_: None)
    assert held_for_each_run(verb, trees) > 15_000


def test_the_plan_of_an_ingest_holds_little_more_of_a_run_than_what_was_read(sources: dict[int, Path]) -> None:
    def planned(source: Path) -> ckptman.IngestResult:
        return ckptman.ingest(source, source.parent / "none", convention=built_in(), dry_run=True)

    # Of two files: where they are, their states, their sums, and what tells of their configuration.
    # Every third run is of a new configuration here, which takes most of it.
    assert held_for_each_run(planned, sources) < 4_000
    # The control: records, placements and paths.
    assert held_for_each_run(lambda source: list(planned(source).plan.runs), sources) > 7_000


def test_an_ingest_with_nothing_new_holds_little_of_a_run(sources: dict[int, Path], tmp_path: Path) -> None:
    def again(source: Path) -> ckptman.IngestResult:
        return ckptman.ingest(source, tmp_path / source.name, convention=built_in())

    for source in sources.values():
        assert again(source).placed
    assert not again(source).placed
    # Of two files: where they are, their states and sums; and what the seeds of a task have in common, of every third.
    assert held_for_each_run(again, sources) < 2_800
    # The control: their records.
    assert held_for_each_run(lambda source: list(again(source).plan.runs), sources) > 7_000


def test_what_holds_all_runs_is_found(trees: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert held_for_each_run(ckptman.list_checkpoints, trees) > 6_000
    monkeypatch.setattr(passing, "take_inventory", contents.take_inventory)
    assert held_for_each_run(IN_TURN["validate"], trees) > 6_000


def test_a_walk_through_all_files_for_each_is_found(trees: dict[int, Path]) -> None:
    def walk(size: int) -> None:
        files = list(trees[size].rglob("*.pt"))
        for _ in files:
            for file in files:
                os.stat(file)  # noqa: PTH116

    [found] = growing(walk)
    assert found.startswith("stat: ")


def test_a_second_reading_of_all_for_each_is_found(trees: dict[int, Path]) -> None:
    def read(size: int) -> None:
        files = list(trees[size].rglob("run.json"))
        for _ in files:
            for file in files:
                file.read_bytes()

    assert any(found.startswith("bytes: ") for found in growing(read))
