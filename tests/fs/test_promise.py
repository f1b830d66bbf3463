"""The promise of `ckptman.fs`, and its proof: each call to the system fails, is interrupted, or is the last."""

from __future__ import annotations

import ast
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.fs import Batch, Mode, faults, files, folders, make_folders, write_atomically
from tests.helpers.failing_calls import (
    ACTS,
    CASES,
    CHUNK,
    CONTENT,
    FAULTS,
    OTHER,
    SYSTEM,
    Act,
    World,
    fail_each_call,
    machine,
    new_world,
    order_of,
    placing_one,
    placing_over,
    source_text,
    system_calls,
)
from tests.helpers.placing import place_file
from tests.helpers.promises import caught, tried

PROMISE = "A file placed, moved or written: at no call a half file at a final name, nothing replaced, nothing lost"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_promise_holds_whichever_call_fails(kind: str, name: str, fault: str, fast_folder: Path) -> None:
    with tried(PROMISE) as trial, machine(kind):
        trial.cases = fail_each_call(ACTS[name], FAULTS[fault], fast_folder)
        assert trial.cases >= 10


def test_the_promise_holds_wherever_the_process_ends(fast_folder: Path) -> None:
    code = "import pathlib, sys, tests.helpers.failing_calls as t; t.crash_all_cases(pathlib.Path(sys.argv[1]))"
    process = subprocess.run(
        [sys.executable, "-c", code, fast_folder],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    counts = [int(line.split()[0]) for line in process.stdout.splitlines()]
    with tried(PROMISE, sum(counts)):
        pass
    assert len(counts) == len(CASES)
    assert min(counts) >= 4


def copy_in_place(source: Path, destination: Path, mode: Mode, **_: object) -> None:
    """Write under the final name."""
    with faults.writing(destination):
        descriptor = SYSTEM.os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for start in range(0, len(CONTENT), CHUNK):
                SYSTEM.os.write(descriptor, source.read_bytes()[start : start + CHUNK])
        finally:
            os.close(descriptor)


def copy_and_rename(
    source: Path, destination: Path, mode: Mode, on_bytes: Callable[[int], None] = files.ignore
) -> None:
    """Rename over whatever is there, and never mind the disk."""
    temporary = destination.with_name(folders.temporary_name())
    try:
        copy_in_place(source, temporary, mode)
        on_bytes(0)
        SYSTEM.os.rename(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)


def copy_without_cleanup(source: Path, destination: Path, mode: Mode, **_: object) -> None:
    temporary = destination.with_name(folders.temporary_name())
    copy_in_place(source, temporary, mode)
    SYSTEM.os.link(temporary, destination)
    SYSTEM.os.unlink(temporary)


def copy_after_removing(source: Path, destination: Path, mode: Mode, **_: object) -> None:
    content = source.read_bytes()
    SYSTEM.os.unlink(source)
    destination.write_bytes(content)


@pytest.mark.parametrize(
    ("act", "fault", "found"),
    [
        (placing_one(Mode.COPY, copy_in_place), "disk full", "a.pt holds"),
        (placing_one(Mode.COPY, copy_in_place), "interrupt", "a.pt holds"),
        (placing_over(Mode.COPY, copy_and_rename), "disk full", "a.pt holds"),
        (placing_one(Mode.COPY, copy_without_cleanup), "interrupt", "temporary file was left"),
        (placing_one(Mode.MOVE, copy_after_removing), "interrupt right after", "a.pt holds None"),
    ],
)
def test_the_sweep_finds_what_breaks_the_promise(act: Act, fault: str, found: str, fast_folder: Path) -> None:
    with caught(PROMISE), pytest.raises(AssertionError, match=found):
        fail_each_call(act, FAULTS[fault], fast_folder)


def test_each_call_to_the_system_can_be_made_to_fail() -> None:
    names = system_calls()
    assert {"open", "preadv", "write", "fsync", "link", "rename", "symlink", "unlink", "mkdir"} <= set(names[os])
    assert set(names[fcntl]) == {"flock", "ioctl"}
    methods = {name for name in vars(Path) if not name.startswith("_")} - set(dir(str)) - {
        "name", "parent", "parts", "relative_to", "is_relative_to", "open", "stat",
    }  # fmt: skip
    used = {
        node.func.attr
        for node in ast.walk(ast.parse(source_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "files"))
    }
    assert used & methods == set(), "a method of Path would pass the injector by"


@pytest.mark.parametrize("mode", [Mode.COPY, Mode.SYMLINK])
def test_bytes_are_on_the_disk_before_they_have_a_name(mode: Mode, tmp_path: Path) -> None:
    world = new_world(tmp_path)
    source, destination = world.source(), world.destination()
    naming = {"fsync", "link", "symlink", "unlink"}
    steps = order_of(lambda: place_file(source, destination, mode), of=naming)
    if mode is Mode.COPY:
        assert steps[:4] == ["fsync", "link", "fsync", "unlink"]  # the bytes, the name, the folder, the temporary name
        assert order_of(lambda: copy_and_rename(source, destination, mode), of=naming) == []  # a control
    else:
        assert steps[:2] == ["symlink", "fsync"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_document_is_on_the_disk_before_it_has_its_name(replace: bool, world: World) -> None:
    path = world.tree / "run.json"
    if replace:
        path.write_bytes(OTHER)
    steps = order_of(lambda: write_atomically(path, CONTENT, replace=replace), of={"write", "fsync", "link", "rename"})
    assert steps == ["write", "fsync", "rename" if replace else "link", "fsync"]


def test_a_batch_waits_for_all_bytes_before_it_gives_a_name(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    plan = [(world.source(name), world.destination(name), Mode.COPY) for name in "abcde"]

    def act() -> None:
        with Batch() as batch:
            for each in plan:
                batch.stage(*each)
            batch.publish()

    steps = order_of(act, of={"fsync", "link", "unlink"})
    assert steps[:16] == ["fsync"] * 5 + ["link"] * 5 + ["fsync"] + ["unlink"] * 5  # one folder, so one fsync for it
    world.check(done=True)


def test_a_new_folder_is_durable_in_its_parent(tmp_path: Path) -> None:
    steps = order_of(lambda: make_folders(tmp_path / "a/b/c", tmp_path), of={"mkdir", "fsync"})
    assert steps == ["mkdir", "fsync"] * 3
    assert order_of(lambda: make_folders(tmp_path / "a/b/c", tmp_path), of={"mkdir", "fsync"}) == []


@pytest.mark.parametrize("moment", ["kill", "no kill"])
def test_a_killed_copy_leaves_a_temporary_file_and_no_more(moment: str, tmp_path: Path) -> None:
    world = new_world(tmp_path)
    source, destination = world.source(), world.destination()
    signal_number = int(signal.SIGKILL) if moment == "kill" else 0
    code = (
        "import os, sys; from pathlib import Path; from tests.helpers.placing import place_file;"
        "place_file(Path(sys.argv[1]), Path(sys.argv[2]), 'copy',"
        f" on_bytes=lambda _: os.kill(os.getpid(), {signal_number}))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, source, destination], cwd=Path(__file__).parents[2], check=False
    )
    assert process.returncode == -signal_number
    world.check(done=moment == "no kill", partials=True)
    assert len(folders.remove_partials(world.tree)) == (1 if moment == "kill" else 0)
    if moment == "kill":
        place_file(source, destination, Mode.COPY)
    world.check(done=True)
