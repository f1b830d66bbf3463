"""The promise of `ckptman.fs`, and its proof: each call to the system fails, is interrupted, or is the last."""

from __future__ import annotations

import ast
import ctypes
import errno
import fcntl
import hashlib
import inspect
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ckptman.fs import transfer
from ckptman.fs.transfer import (
    Batch,
    FileState,
    Mode,
    Placement,
    TakenError,
    hash_file,
    is_partial,
    lock_tree,
    make_folders,
    place_file,
    remove_partials,
    remove_source,
    write_atomically,
)
from ckptman.text.errors import CkptmanError, MachineError, RefusedError, UsageError

CHUNK = 32 << 10
CONTENT = bytes(range(256)) * 400  # 100 KB: four chunks of 32 KiB
READING = frozenset({"stat", "fstat", "preadv", "listdir", "close"})
OTHER = b"somebody else's bytes"
NOBODY = 65534
SYSTEM: Any = transfer
"""The module with the names that tests replace in it: `os`, `fcntl`, and two of its own."""


# Standing between the module and the system ---------------------------------------------------------------------------


class Stand:
    """A module, some functions of which are replaced for the module under test alone."""

    def __init__(self, module: ModuleType, replaced: dict[str, Callable[..., Any]]) -> None:
        self._module = module
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._module, name)


def replace_os(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    monkeypatch.setattr(transfer, "os", Stand(os, functions))


def failing(error: int) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.fixture(autouse=True)
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are the same on every file system; what reflinks do is tested where they are asked for."""
    monkeypatch.setattr(transfer, "fcntl", Stand(fcntl, {"ioctl": failing(errno.EOPNOTSUPP)}))


@cache
def system_calls() -> dict[ModuleType, list[str]]:
    """The functions of `os` and `fcntl` that transfer.py uses, as its source says."""
    found: dict[ModuleType, set[str]] = {os: set(), fcntl: set()}
    modules = {"os": os, "fcntl": fcntl}
    for node in ast.walk(ast.parse(inspect.getsource(transfer))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if callable(getattr(module, node.attr)) and node.attr not in {"strerror", "fsencode", "stat_result"}:
                found[module].add(node.attr)
    return {module: sorted(names) for module, names in found.items()}


@dataclass
class Injector:
    """Lets every call through, but for the `nth`: that one meets the fault before or after it has done its work."""

    nth: int
    fault: Callable[[], None]
    after: bool = False
    lasting: bool = False
    """Whether each later call meets the fault too, as when a disk is gone."""
    ignored: frozenset[str] = frozenset()
    """Calls that are let through and not counted."""
    calls: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name in self.ignored:
            return function

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                self.calls.append(name)
                number = len(self.calls)
                fails = number == self.nth or (self.lasting and number > self.nth > 0)
                if fails:
                    self.failed.append(name)
            if fails and not self.after:
                self.fault()
            try:
                return function(*args, **kwargs)
            finally:
                if fails:
                    self.fault()

        return call

    @contextmanager
    def at_work(self) -> Iterator[None]:
        before = SYSTEM.os, SYSTEM.fcntl, SYSTEM._rename_noreplace, SYSTEM._CHUNK
        names = system_calls()
        # What stands there already (a simulated file system) is wrapped, not replaced.
        SYSTEM.os = Stand(os, {name: self.wrap(name, getattr(before[0], name)) for name in names[os]})
        SYSTEM.fcntl = Stand(fcntl, {name: self.wrap(name, getattr(before[1], name)) for name in names[fcntl]})
        SYSTEM._rename_noreplace = self.wrap("renameat2", before[2])
        SYSTEM._CHUNK = CHUNK
        try:
            yield
        finally:
            SYSTEM.os, SYSTEM.fcntl, SYSTEM._rename_noreplace, SYSTEM._CHUNK = before


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync takes no time, if there is one: the sweeps call it thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def raising(error: int) -> Callable[[], None]:
    def fault() -> None:
        raise OSError(error, os.strerror(error))

    return fault


def interrupting() -> None:
    raise KeyboardInterrupt


# What may be found afterwards -----------------------------------------------------------------------------------------


@dataclass
class World:
    """A folder of sources and a folder of destinations, and what each file may hold at any moment."""

    sources: Path
    tree: Path
    allowed: dict[Path, list[bytes | None]] = field(default_factory=dict)
    """What each path may hold whatever happened; None: nothing there."""
    final: dict[Path, bytes | None] = field(default_factory=dict)
    """What each path holds when all is done."""

    def source(self, name: str = "a.pt", content: bytes = CONTENT) -> Path:
        path = self.sources / name
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        self.allowed[path] = [content]
        self.final[path] = content
        return path

    def destination(self, name: str = "a.pt", content: bytes = CONTENT) -> Path:
        path = self.tree / name
        self.allowed[path] = [None, content]
        self.final[path] = content
        return path

    def bystander(self, name: str = "b.pt", content: bytes = OTHER) -> Path:
        path = self.tree / name
        path.write_bytes(content)
        self.allowed[path] = [content]
        self.final[path] = content
        return path

    def check(self, *, done: bool, partials: bool = False) -> None:
        held = {path: path.read_bytes() if os.path.lexists(path) else None for path in self.allowed}
        for path, content in held.items():
            assert content in self.allowed[path], f"{path.name} holds {None if content is None else len(content)} bytes"
            assert not done or content == self.final[path], f"{path.name} is not as it should be in the end"
        assert CONTENT in held.values(), "the bytes are lost"
        strangers = {path for path in self.tree.iterdir() if path not in self.allowed}
        assert all(is_partial(path.name) for path in strangers), strangers
        assert partials or not strangers, "a temporary file was left behind"


Act = Callable[[World], Callable[[], None]]
"""Furnishes a world, and returns what is to be done in it. Done again after a fault, it does what is missing."""

Place = Callable[..., object]


def placing(mode: Mode, place: Place = place_file) -> Act:
    def furnish(world: World) -> Callable[[], None]:
        source, destination = world.source(), world.destination()
        world.bystander()
        return lambda: None if is_there(destination) else void(place(source, destination, mode))

    return furnish


def placing_over(mode: Mode, place: Place = place_file) -> Act:
    """Somebody else's file appears under the final name while this one is being read."""

    def furnish(world: World) -> Callable[[], None]:
        source, destination = world.source(), world.destination(content=OTHER)

        def appear(_: int) -> None:
            destination.write_bytes(OTHER)

        def act() -> None:
            with suppress(TakenError):
                place(source, destination, mode, on_bytes=appear)

        return act

    return furnish


def moving(world: World) -> Callable[[], None]:
    source, destination = world.source(), world.destination()
    world.allowed[source] = [CONTENT, None]
    world.final[source] = None

    def act() -> None:
        if not source.exists():
            return
        if is_there(destination):  # as after a crash: whether it is what was to be placed, the bytes tell
            sha256, state = hash_file(source)
            assert hash_file(destination)[0] == sha256
            placement = Placement(sha256, state.size, state, "copied")
        else:
            placement = place_file(source, destination, Mode.MOVE)
        remove_source(source, placement, destination)

    return act


def batching(world: World) -> Callable[[], None]:
    plan = [(world.source(name), world.destination(name), mode) for name, mode in zip("cdef", Mode, strict=True)]
    taken = world.source("b.pt"), world.bystander("b.pt")

    def act() -> None:
        with Batch() as batch:
            for source, destination, mode in plan:
                if not is_there(destination):
                    batch.stage(source, destination, mode)
            with suppress(TakenError):
                batch.stage(*taken, Mode.COPY)
            for outcome in batch.publish():
                if isinstance(outcome, RefusedError):
                    raise outcome

    return act


def writing(world: World) -> Callable[[], None]:
    path = world.destination("run.json")
    world.source()  # not used: the bytes that must not be lost
    world.bystander()
    return lambda: void(write_atomically(path, CONTENT, replace=False))


def rewriting(world: World) -> Callable[[], None]:
    path = world.bystander("README.md")
    world.allowed[path].append(CONTENT)
    world.final[path] = CONTENT
    world.source()
    return lambda: void(write_atomically(path, CONTENT, replace=True))


def is_there(path: Path) -> bool:
    return os.path.lexists(path)


def void(_: object) -> None:
    """Drop a result."""


ACTS: dict[str, Act] = {
    **{mode.value: placing(mode) for mode in Mode},
    **{f"{mode.value} when taken": placing_over(mode) for mode in Mode},
    "move and remove the source": moving,
    "batch": batching,
    "write": writing,
    "rewrite": rewriting,
}


def no_hard_links(*args: object, **kwargs: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def clone(copy: int, request: int, source: int) -> int:
    assert request == 0x40049409
    os.pwrite(copy, os.pread(source, 1 << 30, 0), 0)
    return 0


def other_file_system(source: Any, destination: Any, **kwargs: Any) -> None:
    if "src_dir_fd" not in kwargs:  # from the source; within the destination folder, links work
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    os.link(source, destination, **kwargs)


@contextmanager
def machine(kind: str) -> Iterator[None]:
    """A kind of file system, simulated where it takes another one than this."""
    before = SYSTEM.os, SYSTEM.fcntl
    match kind:
        case "no hard links":
            SYSTEM.os = Stand(os, {"link": no_hard_links})
        case "reflinks":
            SYSTEM.fcntl = Stand(fcntl, {"ioctl": clone})
        case "plain":
            SYSTEM.fcntl = Stand(fcntl, {"ioctl": failing(errno.EOPNOTSUPP)})
        case "two file systems":
            SYSTEM.os = Stand(os, {"link": other_file_system})
    try:
        yield
    finally:
        SYSTEM.os, SYSTEM.fcntl = before


CASES = [
    *[("plain", name) for name in ACTS],
    *[("no hard links", name) for name in ("copy", "copy when taken", "move", "move and remove the source", "write")],
    *[("reflinks", name) for name in ("copy", "copy when taken", "batch")],
    *[("two file systems", name) for name in ("move", "move when taken", "move and remove the source")],
]
FAULTS = {
    "disk full": Injector(0, raising(errno.ENOSPC)),
    "error reported late": Injector(0, raising(errno.EIO), after=True),
    "disk gone": Injector(0, raising(errno.EIO), lasting=True),
    "interrupt": Injector(0, interrupting),
    "interrupt right after": Injector(0, interrupting, after=True),
}


def new_world(folder: Path) -> World:
    world = World(folder / "sources", folder / "tree")
    world.sources.mkdir(parents=True)
    world.tree.mkdir()
    return world


def fail_each_call(act: Act, fault: Injector, folder: Path) -> int:
    """Let each call of a deed fail in turn, and check the world after each; returns how many there are."""
    for nth in range(1, 1000):
        world = new_world(folder / str(nth))
        deed = act(world)
        injector = Injector(nth, fault.fault, fault.after, fault.lasting)
        error: BaseException | None = None
        with injector.at_work():
            try:
                deed()
            except (Exception, KeyboardInterrupt) as caught:
                error = caught
        try:
            world.check(done=error is None, partials="unlink" in injector.failed)
            assert error is None or isinstance(error, CkptmanError | KeyboardInterrupt), f"{error!r} came through"
            assert not isinstance(error, CkptmanError) or (error.message.isprintable() and error.fix)
        except AssertionError as violation:
            violation.add_note(f"call {nth} of {injector.calls}")
            raise
        if not injector.failed:
            assert error is None, f"without a fault: {error!r}"
            return nth - 1
        do_again(world, deed)
        shutil.rmtree(folder / str(nth))
    raise AssertionError("there is no end to the calls")


def do_again(world: World, deed: Callable[[], None]) -> None:
    """What the next run does."""
    remove_partials(world.tree)
    deed()
    world.check(done=True)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_promise_holds_whichever_call_fails(kind: str, name: str, fault: str, fast_folder: Path) -> None:
    with machine(kind):
        assert fail_each_call(ACTS[name], FAULTS[fault], fast_folder) >= 10


def crash_each_call(kind: str, name: str, folder: Path) -> int:
    """Let the process end, without any clean-up, before each call that can change the disk; then do it again.

    (The end before a call that only reads, or after a call, is the end before the next one.) It forks, so it must be
    called where there are no threads.
    """
    for nth in range(1, 1000):
        world = new_world(folder / str(nth))
        with machine(kind):
            deed = ACTS[name](world)
            child = os.fork()
            if child == 0:
                try:
                    with Injector(nth, lambda: os._exit(66), ignored=READING).at_work():
                        deed()
                    os._exit(0)
                finally:
                    os._exit(1)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, 66), f"the process ended with {status} at call {nth}"
            world.check(done=status == 0, partials=status != 0)
            if status == 0:
                return nth - 1
            do_again(world, deed)
        shutil.rmtree(folder / str(nth))
    raise AssertionError("there is no end to the calls")


def crash_all_cases(folder: Path) -> None:
    system_calls()  # once, and not in each child
    for kind, name in CASES:
        try:
            calls = crash_each_call(kind, name, folder / kind / name)
        except AssertionError as violation:
            violation.add_note(f"{kind}, {name}")
            raise
        print(f"{calls} {kind}, {name}")


def test_the_promise_holds_wherever_the_process_ends(fast_folder: Path) -> None:
    code = "import pathlib, sys, tests.fs.test_transfer as t; t.crash_all_cases(pathlib.Path(sys.argv[1]))"
    process = subprocess.run(
        [sys.executable, "-c", code, fast_folder],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    counts = [int(line.split()[0]) for line in process.stdout.splitlines()]
    assert len(counts) == len(CASES)
    assert min(counts) >= 5


# Controls: what the sweep has to find in copies that do not keep the promise -----------------------------------------


def copy_in_place(source: Path, destination: Path, mode: Mode, **_: object) -> None:
    """Write under the final name."""
    with transfer._writing(destination):
        descriptor = SYSTEM.os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for start in range(0, len(CONTENT), CHUNK):
                SYSTEM.os.write(descriptor, source.read_bytes()[start : start + CHUNK])
        finally:
            os.close(descriptor)


def copy_and_rename(
    source: Path, destination: Path, mode: Mode, on_bytes: Callable[[int], None] = transfer._ignore
) -> None:
    """Rename over whatever is there, and never mind the disk."""
    temporary = destination.with_name(transfer._temporary_name())
    try:
        copy_in_place(source, temporary, mode)
        on_bytes(0)
        SYSTEM.os.rename(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)


def copy_without_cleanup(source: Path, destination: Path, mode: Mode, **_: object) -> None:
    temporary = destination.with_name(transfer._temporary_name())
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
        (placing(Mode.COPY, copy_in_place), "disk full", "a.pt holds"),
        (placing(Mode.COPY, copy_in_place), "interrupt", "a.pt holds"),
        (placing_over(Mode.COPY, copy_and_rename), "disk full", "a.pt holds"),
        (placing(Mode.COPY, copy_without_cleanup), "interrupt", "temporary file was left"),
        (placing(Mode.MOVE, copy_after_removing), "interrupt right after", "a.pt holds None"),
    ],
)
def test_the_sweep_finds_what_breaks_the_promise(act: Act, fault: str, found: str, fast_folder: Path) -> None:
    with pytest.raises(AssertionError, match=found):
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
        for node in ast.walk(ast.parse(inspect.getsource(transfer)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "os")
    }
    assert used & methods == set(), "a method of Path would pass the injector by"


# The order of things, which is what a power cut tests -----------------------------------------------------------------


def order_of(deed: Callable[[], object], *, of: set[str]) -> list[str]:
    injector = Injector(0, interrupting)
    with injector.at_work():
        deed()
    return [name for name in injector.calls if name in of]


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
        "import os, sys; from pathlib import Path; from ckptman.fs.transfer import place_file;"
        "place_file(Path(sys.argv[1]), Path(sys.argv[2]), 'copy',"
        f" on_bytes=lambda _: os.kill(os.getpid(), {signal_number}))"
    )
    process = subprocess.run([sys.executable, "-c", code, source, destination], check=False)
    assert process.returncode == -signal_number
    world.check(done=moment == "no kill", partials=True)
    assert len(remove_partials(world.tree)) == (1 if moment == "kill" else 0)
    if moment == "kill":
        place_file(source, destination, Mode.COPY)
    world.check(done=True)


# The ordinary ways ----------------------------------------------------------------------------------------------------

HOW = {Mode.COPY: "copied", Mode.HARDLINK: "hard link", Mode.SYMLINK: "symbolic link", Mode.MOVE: "hard link"}
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return new_world(tmp_path)


@pytest.mark.parametrize("mode", Mode)
def test_a_file_is_placed(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    world.bystander()
    pieces: list[int] = []
    placement = place_file(source, destination, mode, on_bytes=pieces.append)
    assert placement == Placement(SHA256, len(CONTENT), FileState.of(source), HOW[mode])  # type: ignore[arg-type]
    assert sum(pieces) == len(CONTENT)
    assert destination.is_symlink() == (mode is Mode.SYMLINK)
    assert source.samefile(destination) == (mode is not Mode.COPY)
    assert destination.stat().st_mtime_ns == 10**18
    world.check(done=True)


def test_a_copy_has_the_permissions_of_any_new_file(world: World) -> None:
    source, destination = world.source(), world.destination()
    source.chmod(0o4751)
    before = os.umask(0o007)
    try:
        place_file(source, destination, Mode.COPY)
    finally:
        os.umask(before)
    assert destination.stat().st_mode & 0o7777 == 0o660


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("mode", [Mode.COPY, Mode.HARDLINK])
def test_sizes_around_the_buffer(size: int, mode: Mode, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_CHUNK", CHUNK)
    content = os.urandom(size)
    source, destination = world.source(content=content), world.destination(content=content)
    world.source("unused.pt")
    assert place_file(source, destination, mode).sha256 == hashlib.sha256(content).hexdigest()
    world.check(done=True)


def test_short_reads_and_writes_are_completed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_os(
        monkeypatch,
        write=lambda descriptor, data: os.write(descriptor, data[:1000]),
        preadv=lambda descriptor, buffers, at: os.preadv(descriptor, [buffers[0][:777]], at),
    )
    assert place_file(world.source(), world.destination(), Mode.COPY).sha256 == SHA256
    world.check(done=True)


def test_a_reflink_is_hashed_from_the_clone(world: World) -> None:
    source, destination = world.source(), world.destination()
    with machine("reflinks"):
        assert place_file(source, destination, Mode.COPY) == Placement(
            SHA256, len(CONTENT), FileState.of(source), "reflinked"
        )
    world.check(done=True)


def test_a_copy_on_this_very_file_system(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "fcntl", fcntl)
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.COPY)
    assert placement.how in ("copied", "reflinked")
    world.check(done=True)
    again = place_file(source, world.destination("b.pt"), Mode.COPY, expected=placement.source, sha256_known=SHA256)
    assert again == placement
    world.check(done=True)
    rewrite(source)
    assert destination.read_bytes() == CONTENT


def test_a_clone_that_is_not_whole_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "fcntl", Stand(fcntl, {"ioctl": lambda copy, request, source: os.write(copy, b"x")}))
    with pytest.raises(MachineError, match="came out with 1 of 102400 bytes"):
        place_file(world.source(), world.destination(), Mode.COPY)
    world.check(done=False)


def test_a_clone_that_fails_half_way_is_copied_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(copy: int, request: int, source: int) -> int:
        os.pwrite(copy, b"x" * (2 * len(CONTENT)), 0)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(transfer, "fcntl", Stand(fcntl, {"ioctl": ioctl}))
    assert place_file(world.source(), world.destination(), Mode.COPY).how == "copied"
    world.check(done=True)


@pytest.mark.parametrize("mode", Mode)
def test_nothing_is_overwritten(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.bystander("a.pt")
    with pytest.raises(TakenError) as caught:
        place_file(source, destination, mode)
    assert (caught.value.code, caught.value.exit_status) == ("taken", 1)
    world.check(done=True)


def test_a_dangling_link_is_not_written_through(world: World) -> None:
    source, destination = world.source(), world.tree / "a.pt"
    destination.symlink_to(world.tree / "elsewhere")
    with pytest.raises(TakenError):
        place_file(source, destination, Mode.COPY)
    assert sorted(path.name for path in world.tree.iterdir()) == ["a.pt"]


def test_without_hard_links_a_rename_that_never_overwrites_does_it(world: World) -> None:
    source, destination = world.source(), world.destination()
    with machine("no hard links"):
        place_file(source, destination, Mode.COPY)
        world.check(done=True)
        assert order_of(lambda: write_atomically(world.destination("run.json"), CONTENT, replace=False),
                        of={"link", "rename", "renameat2"}) == ["link", "renameat2"]  # fmt: skip
        with pytest.raises(MachineError, match="hard link") as caught:
            place_file(source, world.tree / "c.pt", Mode.HARDLINK)
    assert (caught.value.code, caught.value.fix) == ("no-hard-links", "Use --mode copy.")


def test_without_any_safe_way_nothing_is_placed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_rename_noreplace", failing(errno.EINVAL))
    with machine("no hard links"), pytest.raises(MachineError) as caught:
        place_file(world.source(), world.destination(), Mode.COPY)
    assert caught.value.code == "cannot-place-safely"
    world.check(done=False)
    assert not (world.tree / "a.pt").exists()


def test_an_old_c_library_has_no_renameat2(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
    with machine("no hard links"), pytest.raises(MachineError) as caught:
        place_file(world.source(), world.destination(), Mode.COPY)
    assert caught.value.code == "cannot-place-safely"


def test_a_link_that_was_made_but_reported_as_failed_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        os.link(*args, **kwargs)
        raise FileExistsError(errno.EEXIST, "an answer lost by the network, and the request repeated")

    replace_os(monkeypatch, link=link)
    place_file(world.source(), world.destination(), Mode.COPY)
    world.check(done=True)


# Across file systems --------------------------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Sources and tree on two file systems: really so where there are two, else by link(2) saying so."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        world = World(Path(folder), tmp_path / "tree")
        world.tree.mkdir()
        if world.sources.stat().st_dev == tmp_path.stat().st_dev:
            replace_os(monkeypatch, link=other_file_system)
        yield world


def test_a_hard_link_cannot_span_file_systems(apart: World) -> None:
    with pytest.raises(MachineError) as caught:
        place_file(apart.source(), apart.destination(), Mode.HARDLINK)
    assert (caught.value.code, caught.value.fix) == ("other-file-system", "Use --mode copy.")
    apart.check(done=False)


@pytest.mark.parametrize("mode", [Mode.COPY, Mode.SYMLINK])
def test_copies_and_symbolic_links_span_file_systems(mode: Mode, apart: World) -> None:
    assert place_file(apart.source(), apart.destination(), mode).sha256 == SHA256
    apart.check(done=True)


def test_a_move_spans_file_systems(apart: World) -> None:
    source, destination = apart.source(), apart.destination()
    placement = place_file(source, destination, Mode.MOVE)
    assert placement.how == "copied"
    apart.check(done=True)
    remove_source(source, placement, destination)
    assert not source.exists()
    assert destination.read_bytes() == CONTENT


def test_a_hard_link_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        if "src_dir_fd" not in kwargs:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        os.link(*args, **kwargs)

    replace_os(monkeypatch, link=link)
    source = world.source()
    with pytest.raises(RefusedError) as caught:
        place_file(source, world.tree / "b.pt", Mode.HARDLINK)
    assert caught.value.code == "too-many-links"
    assert place_file(source, world.destination(), Mode.MOVE).how == "copied"
    world.check(done=True)


# Sources that change, and what is no source ---------------------------------------------------------------------------


def nothing(path: Path) -> None:
    """The control: a source that stays."""


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 10)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"same size, other bytes")


def rewrite_secretly(path: Path) -> None:
    before = path.stat()
    time.sleep(0.02)  # a tick of the kernel's clock
    rewrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(path: Path) -> None:
    twin = path.with_name("twin.pt")
    twin.write_bytes(path.read_bytes())
    os.utime(twin, ns=(10**18, 10**18))
    twin.replace(path)


def exchange_for_link(path: Path) -> None:
    twin = path.with_name("twin.pt")
    path.rename(twin)
    path.symlink_to(twin)


CHANGES = [nothing, grow, cut, rewrite, rewrite_secretly, exchange, exchange_for_link]


def once(change: Callable[[Path], None], path: Path) -> Callable[[int], None]:
    todo = [change]
    return lambda _: todo.pop()(path) if todo else None


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", [*Mode, "hash", "reflink"])
def test_a_source_that_changes_meanwhile_is_refused(
    way: str, change: Callable[[Path], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CHUNK", CHUNK)
    source, destination = world.source(), world.destination()
    on_bytes = once(change, source)

    def act() -> object:
        if way == "hash":
            return hash_file(source, on_bytes=on_bytes)
        with machine("reflinks" if way == "reflink" else "plain"):
            return place_file(source, destination, Mode(way) if way in list(Mode) else Mode.COPY, on_bytes=on_bytes)

    if change is nothing:
        act()
        return
    with pytest.raises(RefusedError) as caught:
        act()
    assert caught.value.code == "changed-while-read"
    assert list(world.tree.iterdir()) == []


def test_a_file_that_grows_for_ever_is_given_up_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_CHUNK", CHUNK)
    source = world.source()
    reports: list[int] = []

    def grow_for_ever(count: int) -> None:
        reports.append(count)
        assert len(reports) < 10
        with source.open("ab") as file:
            file.write(bytes(2 * CHUNK))

    with pytest.raises(RefusedError, match="changed"):
        place_file(source, world.destination(), Mode.COPY, on_bytes=grow_for_ever)


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.MOVE])
@pytest.mark.parametrize("change", [nothing, rewrite, exchange])
def test_what_is_linked_is_the_file_that_was_opened(
    mode: Mode, change: Callable[[Path], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = world.source(), world.destination()

    def link(*args: Any, **kwargs: Any) -> None:
        if args[0] == source:
            change(source)
        os.link(*args, **kwargs)

    replace_os(monkeypatch, link=link)
    if change is nothing:
        place_file(source, destination, mode)
        return
    reports: list[int] = []
    with pytest.raises(RefusedError, match="changed"):
        place_file(source, destination, mode, on_bytes=reports.append)
    assert reports == []  # found before anything was read in vain
    assert list(world.tree.iterdir()) == []


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.SYMLINK, Mode.MOVE])
@pytest.mark.parametrize("change", [nothing, grow, rewrite, exchange])
def test_a_link_is_checked_again_when_it_is_published(mode: Mode, change: Callable[[Path], None], world: World) -> None:
    source, destination = world.source(), world.destination()
    with Batch() as batch:
        batch.stage(source, destination, mode)
        change(source)
        [outcome] = batch.publish()
    if change is nothing:
        assert isinstance(outcome, Placement)
        return
    assert isinstance(outcome, RefusedError)
    assert outcome.code == "changed-while-read"
    assert list(world.tree.iterdir()) == []


def test_a_copy_is_not_touched_by_what_becomes_of_the_source(world: World) -> None:
    source, destination = world.source(), world.destination()
    with Batch() as batch:
        batch.stage(source, destination, Mode.COPY)
        source.unlink()
        [outcome] = batch.publish()
    assert isinstance(outcome, Placement)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("mode", Mode)
def test_the_source_must_be_what_was_planned(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    planned = FileState.of(source)
    rewrite(source)
    with pytest.raises(RefusedError, match="changed"):
        place_file(source, destination, mode, expected=planned)
    assert list(world.tree.iterdir()) == []
    os.utime(source)
    source.write_bytes(CONTENT)
    place_file(source, destination, mode, expected=FileState.of(source))
    world.check(done=True)


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.MOVE])
def test_two_names_of_one_file_can_both_be_linked(mode: Mode, world: World) -> None:
    first, second = world.source("a.pt"), world.sources / "b.pt"
    second.hardlink_to(first)
    plan = {path: FileState.of(path) for path in (first, second)}
    with Batch() as batch:
        for source, expected in plan.items():
            batch.stage(source, world.destination(source.name), mode, expected=expected)
        outcomes = batch.publish()
    placements = [outcome for outcome in outcomes if isinstance(outcome, Placement)]
    assert [placement.source for placement in placements] == [FileState.of(first), FileState.of(second)]
    for source, placement in zip(plan, placements, strict=True):  # the first removal changes the other's ctime
        remove_source(source, placement, world.tree / source.name)
    assert list(world.sources.iterdir()) == []
    assert all((world.tree / name).read_bytes() == CONTENT for name in ("a.pt", "b.pt"))


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.SYMLINK, Mode.MOVE])
def test_a_known_hash_spares_the_reading(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    sha256, state = hash_file(source)
    reading = {"preadv"}
    assert (
        order_of(lambda: place_file(source, destination, mode, expected=state, sha256_known=sha256), of=reading) == []
    )
    destination.unlink()
    source.touch()  # no longer in the state in which it was hashed
    again = order_of(lambda: place_file(source, destination, mode, sha256_known=sha256), of=reading)
    assert again == ["preadv"] * 5


@pytest.mark.parametrize("mode", Mode)
def test_bytes_that_do_not_have_the_known_hash_are_refused(mode: Mode, world: World) -> None:
    with pytest.raises(RefusedError, match="changed"):
        place_file(world.source(), world.destination(), mode, sha256_known="0" * 64)
    assert list(world.tree.iterdir()) == []


@contextmanager
def in_time(seconds: int = 5) -> Iterator[None]:
    """Fail rather than wait for ever."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, as_working_folder(path.parent):
        listener.bind(path.name)


def make_link(path: Path) -> None:
    path.with_name("real.pt").write_bytes(CONTENT)
    path.symlink_to("real.pt")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


@contextmanager
def as_working_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


NOT_SOURCES: list[tuple[Callable[[Path], None], str, str]] = [
    (make_pipe, "not-a-file", "a named pipe"),
    (make_socket, "not-a-file", "a socket"),
    (Path.mkdir, "not-a-file", "a folder"),
    (make_link, "symbolic-link", "a symbolic link"),
    (make_loop, "symbolic-link", "a symbolic link"),
    (nothing, "unreadable", "no such file"),
]


@pytest.mark.parametrize(("make", "code", "words"), NOT_SOURCES)
@pytest.mark.parametrize("way", [*Mode, "hash"])
def test_what_is_not_a_regular_file_is_refused(
    way: str, make: Callable[[Path], None], code: str, words: str, world: World
) -> None:
    source = world.sources / "a.pt"
    make(source)
    with in_time(), pytest.raises(RefusedError, match=words) as caught:  # noqa: PT012
        if way == "hash":
            hash_file(source)
        else:
            place_file(source, world.tree / "a.pt", Mode(way))
    assert caught.value.code == code
    assert list(world.tree.iterdir()) == []


def test_a_device_is_refused(world: World) -> None:
    with in_time(), pytest.raises(RefusedError, match="a device"):
        hash_file(Path("/dev/zero"))


@pytest.mark.parametrize(("make", "code"), [(make_pipe, "not-a-file"), (make_link, "unreadable")])
def test_a_file_that_becomes_something_else_before_it_is_opened(
    make: Callable[[Path], None], code: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = world.source()

    def open_late(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == source:
            source.unlink()
            make(source)
        return os.open(path, flags, *args, **kwargs)

    replace_os(monkeypatch, open=open_late)
    with in_time(), pytest.raises(RefusedError) as caught:
        hash_file(source)
    assert caught.value.code == code


@pytest.mark.parametrize("mode", Mode)
def test_links_are_followed_when_asked(mode: Mode, world: World) -> None:
    source, real = world.sources / "a.pt", world.sources / "real.pt"
    make_link(source)
    destination = world.destination()
    placement = place_file(source, destination, mode, follow_symlinks=True)
    assert placement.sha256 == SHA256
    assert destination.read_bytes() == CONTENT
    assert destination.is_symlink() == (mode is Mode.SYMLINK)
    if mode is Mode.SYMLINK:
        assert destination.readlink() == real  # absolute, and past links that may lead elsewhere tomorrow
    if mode is Mode.MOVE:
        assert placement.how == "copied"  # the tree shares no bytes with what stays outside
        remove_source(source, placement, destination, follow_symlinks=True)
        assert not is_there(source)
        assert real.read_bytes() == CONTENT
    else:
        assert source.is_symlink()


def test_a_loop_that_is_followed_is_refused(world: World) -> None:
    make_loop(world.sources / "a.pt")
    with pytest.raises(RefusedError, match="symbolic links"):
        hash_file(world.sources / "a.pt", follow_symlinks=True)


# Names ----------------------------------------------------------------------------------------------------------------

NAMES = [
    b"two\nlines.pt",
    b"\x1b[31mred\x1b[0m.pt",
    b"[red]markup[bold].pt",
    b"not utf-8 \xff\xfe.pt",
    "Lernkurve-äöü-模型-🤖.pt".encode(),
    b"-rf",
    b" ",
    b"'quotes' \"and\" \\.pt",
    b"n" * 255,
    "ü".encode() * 127,
]


@pytest.mark.parametrize("raw", NAMES)
@pytest.mark.parametrize("mode", Mode)
def test_any_name_is_placed(raw: bytes, mode: Mode, world: World) -> None:
    name = os.fsdecode(raw)
    source, destination = world.source(name), world.destination(name)
    place_file(source, destination, mode)
    world.check(done=True)
    assert [os.fsencode(path.name) for path in world.tree.iterdir()] == [raw]
    with pytest.raises(TakenError) as caught:
        place_file(source, destination, mode)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("mode", Mode)
def test_a_name_too_long_is_refused(mode: Mode, world: World) -> None:
    with pytest.raises(RefusedError) as caught:
        place_file(world.source(), world.tree / ("n" * 256), mode)
    assert caught.value.code == "name-too-long"
    assert list(world.tree.iterdir()) == []


def test_names_of_temporary_files() -> None:
    name = transfer._temporary_name()
    assert is_partial(name)
    assert len(name) <= 33
    assert name != transfer._temporary_name()
    for other in ("a.pt", ".ckptman-notes.partial", name + ".pt", "x" + name, name.upper(), name + "\n"):
        assert not is_partial(other)


def test_only_temporary_files_are_removed(world: World) -> None:
    partial = transfer._temporary_name()
    (world.tree / partial).write_bytes(b"half")
    folder, link = world.tree / transfer._temporary_name(), world.tree / transfer._temporary_name()
    folder.mkdir()
    link.symlink_to(world.bystander())
    below = world.tree / "below"
    below.mkdir()
    (below / transfer._temporary_name()).touch()
    assert remove_partials(world.tree) == [partial]
    assert sorted(world.tree.iterdir()) == sorted([folder, link, below, world.tree / "b.pt"])
    assert len(list(below.iterdir())) == 1
    assert remove_partials(world.tree / "no such folder") == []


# Faults of the machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EDQUOT, "quota-exceeded"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission-denied"),
        (errno.EIO, "io-error"),
        (errno.ESTALE, "io-error"),
        (errno.EMFILE, "too-many-open-files"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_what_is_wrong_with_the_destination_is_said(
    call: str, error: int, code: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = world.source(), world.destination()
    with monkeypatch.context() as broken:
        replace_os(broken, **{call: failing(error)})
        with pytest.raises(MachineError) as caught:
            place_file(source, destination, Mode.COPY)
    assert caught.value.code == code
    assert str(destination) in caught.value.message
    assert caught.value.fix
    world.check(done=False)
    assert list(world.tree.iterdir()) == []
    place_file(source, destination, Mode.COPY)


@pytest.mark.parametrize("call", ["open", "fstat", "preadv"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_unreadable_source_is_refused(call: str, error: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world.source()

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and args[0] != source:
            return os.open(*args, **kwargs)
        return failing(error)()

    replace_os(monkeypatch, **{call: fail})
    with pytest.raises(RefusedError) as caught:
        place_file(source, world.destination(), Mode.COPY)
    assert caught.value.code == "unreadable"
    assert str(source) in caught.value.message
    assert list(world.tree.iterdir()) == []


def test_too_many_open_files_is_no_fault_of_the_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_os(monkeypatch, open=failing(errno.EMFILE))
    with pytest.raises(MachineError) as caught:
        hash_file(world.source())
    assert caught.value.code == "too-many-open-files"


@pytest.fixture
def open_world() -> Iterator[World]:
    """A world whose folders any user may reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield new_world(Path(folder))


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Permissions do not bind root, so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permissions_of_the_source(open_world: World) -> None:
    source, destination = open_world.source(), open_world.destination()
    open_world.tree.chmod(0o777)
    source.chmod(0)
    with as_ordinary_user(), pytest.raises(RefusedError) as caught:
        place_file(source, destination, Mode.COPY)
    assert caught.value.code == "unreadable"
    source.chmod(0o644)
    with as_ordinary_user():
        place_file(source, destination, Mode.COPY)


def test_permissions_of_the_destination(open_world: World) -> None:
    source, destination = open_world.source(), open_world.destination()
    open_world.tree.chmod(0o555)
    with as_ordinary_user(), pytest.raises(MachineError) as caught:
        place_file(source, destination, Mode.COPY)
    assert caught.value.code == "permission-denied"
    with as_ordinary_user(), pytest.raises(MachineError):
        make_folders(open_world.tree / "below", open_world.tree)
    open_world.tree.chmod(0o777)
    with as_ordinary_user():
        place_file(source, destination, Mode.COPY)


def test_a_limit_of_the_kernel_in_the_middle_of_a_copy(world: World) -> None:
    source, destination = world.source(), world.destination()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, limits[1]))
    try:
        with pytest.raises(MachineError) as caught:
            place_file(source, destination, Mode.COPY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "file-too-large"
    assert list(world.tree.iterdir()) == []


def test_a_folder_that_is_missing(world: World) -> None:
    source = world.source()
    for act in (
        lambda: place_file(source, world.tree / "no" / "a.pt", Mode.COPY),
        lambda: write_atomically(world.tree / "no" / "run.json", b"", replace=True),
        lambda: lock_tree(world.tree / "no").__enter__(),
    ):
        with pytest.raises(MachineError) as caught:
            act()
        assert caught.value.code == "folder-missing"


def test_a_temporary_file_that_another_process_removes(world: World) -> None:
    with Batch() as batch:
        batch.stage(world.source(), world.destination(), Mode.COPY)
        assert len(remove_partials(world.tree)) == 1
        with pytest.raises(MachineError) as caught:
            batch.publish()
    assert caught.value.code == "tree-busy"


# Removing the source of a move ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.MOVE, Mode.COPY])
def test_a_source_is_removed_when_its_bytes_are_placed(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, mode)
    remove_source(source, placement, destination)
    assert not source.exists()
    assert destination.read_bytes() == CONTENT
    remove_source(source, placement, destination)  # it is gone already


def lose(destination: Path) -> None:
    destination.unlink()


def replace_by_link(destination: Path) -> None:
    destination.unlink()
    destination.with_name("twin.pt").write_bytes(CONTENT)
    destination.symlink_to("twin.pt")


@pytest.mark.parametrize("mode", [Mode.MOVE, Mode.COPY])
@pytest.mark.parametrize("change", [cut, lose, replace_by_link])
def test_a_source_stays_when_the_destination_does_not_hold_it(
    change: Callable[[Path], None], mode: Mode, world: World
) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, mode)
    change(destination)
    with pytest.raises(RefusedError) as caught:
        remove_source(source, placement, destination)
    assert caught.value.code == "source-kept"
    assert source.exists()


@pytest.mark.parametrize("change", [grow, rewrite, rewrite_secretly, exchange])
def test_a_source_stays_when_it_was_changed(change: Callable[[Path], None], world: World) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.COPY)
    change(source)
    with pytest.raises(RefusedError, match="changed after it was placed"):
        remove_source(source, placement, destination)
    assert source.exists()
    assert destination.read_bytes() == CONTENT


def test_a_change_of_metadata_alone_does_not_keep_the_source(world: World) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.COPY)
    time.sleep(0.02)
    source.chmod(0o600)
    assert FileState.of(source) != placement.source
    remove_source(source, placement, destination)
    assert not source.exists()


def test_a_source_that_is_its_own_destination_stays(world: World) -> None:
    source = world.source()
    placement = Placement(SHA256, len(CONTENT), FileState.of(source), "hard link")
    alias = world.tree / "alias"
    alias.symlink_to(world.sources)
    for destination in (source, alias / "a.pt"):
        with pytest.raises(RefusedError, match="that very file"):
            remove_source(source, placement, destination)
    (world.tree / "third.pt").hardlink_to(source)  # then the number of links no longer tells
    placement = Placement(SHA256, len(CONTENT), FileState.of(source), "hard link")
    with pytest.raises(RefusedError, match="that very file"):
        remove_source(source, placement, alias / "a.pt")
    assert source.read_bytes() == CONTENT


def test_two_names_for_one_entry_are_seen_by_the_link_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where names differ in case only and the file system does not tell them apart."""
    source, destination = world.source("a.pt"), world.sources / "A.pt"
    placement = Placement(SHA256, len(CONTENT), FileState.of(source), "hard link")
    replace_os(monkeypatch, stat=lambda path, **options: (source if path == destination else path).stat(**options))
    with pytest.raises(RefusedError, match="that very file"):
        remove_source(source, placement, destination)
    assert source.read_bytes() == CONTENT


def test_a_source_that_may_not_be_removed_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.MOVE)
    replace_os(monkeypatch, unlink=failing(errno.EROFS))
    with pytest.raises(RefusedError, match="read-only") as caught:
        remove_source(source, placement, destination)
    assert caught.value.code == "source-kept"


# Batches --------------------------------------------------------------------------------------------------------------


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_batch_places_many_and_can_go_on(world: World) -> None:
    before = open_descriptors()
    placed = 0
    with Batch() as batch:
        for number in range(150):
            content = CONTENT if number == 0 else str(number).encode()
            batch.stage(world.source(f"{number}.pt", content), world.destination(f"{number}.pt", content), Mode.COPY)
            if batch.is_full:
                outcomes = batch.publish()
                assert len(outcomes) == transfer.BATCH_SIZE
                assert len(batch) == 0
                placed += len(outcomes)
        assert open_descriptors() <= before + 3 * transfer.BATCH_SIZE
        outcomes = batch.publish()
    assert placed + len(outcomes) == 150
    last = outcomes[-1]
    assert isinstance(last, Placement)
    assert last.sha256 == hashlib.sha256(b"149").hexdigest()
    world.check(done=True)
    assert open_descriptors() == before


def test_one_refusal_does_not_hold_up_a_batch(world: World) -> None:
    first, second, third = (world.source(name) for name in ("a.pt", "b.pt", "c.pt"))
    late = world.bystander("late.pt")
    late.unlink()
    with Batch() as batch:
        batch.stage(first, world.destination("a.pt"), Mode.COPY)
        with pytest.raises(RefusedError):
            batch.stage(world.sources / "missing.pt", world.tree / "missing.pt", Mode.COPY)
        batch.stage(second, world.tree / "a.pt", Mode.COPY)  # the same place twice
        batch.stage(third, late, Mode.COPY)
        late.write_bytes(OTHER)
        batch.stage(third, world.destination("c.pt"), Mode.COPY)
        outcomes = batch.publish()
    assert [type(outcome) for outcome in outcomes] == [Placement, TakenError, TakenError, Placement]
    world.check(done=True)


def test_leaving_a_batch_discards_it(world: World) -> None:
    source, destination = world.source(), world.destination()
    before = open_descriptors()
    with pytest.raises(ZeroDivisionError), Batch() as batch:  # noqa: PT012
        batch.stage(source, destination, Mode.COPY)
        assert len(list(world.tree.iterdir())) == 1
        raise ZeroDivisionError
    assert list(world.tree.iterdir()) == []
    assert open_descriptors() == before


def test_an_interrupted_stage_leaves_nothing_even_if_the_batch_goes_on(world: World) -> None:
    source, destination = world.source(), world.destination()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with Batch() as batch:
        with pytest.raises(KeyboardInterrupt):
            batch.stage(source, destination, Mode.COPY, on_bytes=interrupt)
        assert list(world.tree.iterdir()) == []
        assert len(batch) == 0
        batch.stage(source, destination, Mode.COPY)
        batch.publish()
    world.check(done=True)


def test_an_empty_batch_publishes_nothing() -> None:
    with Batch() as batch:
        assert batch.publish() == []


@pytest.mark.parametrize("mode", [Mode.COPY, Mode.HARDLINK, Mode.SYMLINK])
def test_of_two_who_race_for_a_name_one_gets_it(mode: Mode, world: World) -> None:
    contents = [CONTENT, OTHER * 5000]
    sources = [world.source(f"{number}.pt", content) for number, content in enumerate(contents)]

    def place(job: tuple[Path, Path]) -> bool:
        barrier.wait()
        try:
            place_file(*job, mode)
        except TakenError:
            return False
        return True

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            destination = world.tree / f"{number}.pt"
            won = list(pool.map(place, [(source, destination) for source in sources]))
            assert sorted(won) == [False, True]
            assert destination.read_bytes() == contents[won.index(True)]
    assert len(list(world.tree.iterdir())) == 20


# Documents ------------------------------------------------------------------------------------------------------------


def test_a_new_document(world: World) -> None:
    path = world.tree / "run.json"
    before = os.umask(0o027)
    try:
        assert write_atomically(path, CONTENT, replace=False)
    finally:
        os.umask(before)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_replaced_document_keeps_its_permissions(world: World) -> None:
    path = world.bystander("README.md")
    path.chmod(0o664)
    before = os.umask(0o077)
    try:
        assert write_atomically(path, CONTENT, replace=True)
    finally:
        os.umask(before)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o664
    assert [each.name for each in world.tree.iterdir()] == ["README.md"]


@pytest.mark.parametrize("replace", [True, False])
def test_the_same_bytes_are_not_written_again(replace: bool, world: World) -> None:
    path = world.bystander("README.md")
    before = FileState.of(path)
    assert not write_atomically(path, OTHER, replace=replace)
    assert FileState.of(path) == before
    same_size = OTHER[::-1]
    if replace:
        assert write_atomically(path, same_size, replace=True)
        assert path.read_bytes() == same_size


def test_a_document_is_not_replaced_unasked(world: World) -> None:
    path = world.bystander("run.json")
    with pytest.raises(TakenError):
        write_atomically(path, CONTENT, replace=False)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("make", [make_pipe, make_link, Path.mkdir])
def test_only_a_file_is_replaced(make: Callable[[Path], None], world: World) -> None:
    path = world.tree / "README.md"
    make(path)
    before = path.lstat()
    with in_time(), pytest.raises(RefusedError):
        write_atomically(path, OTHER, replace=True)
    assert path.lstat() == before


@pytest.mark.parametrize("change", [nothing, grow, exchange, lose])
def test_a_document_somebody_else_edits_meanwhile_is_left_to_them(
    change: Callable[[Path], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.bystander("README.md")
    todo = [change]

    def fsync(descriptor: int) -> None:
        os.fsync(descriptor)
        if todo:
            todo.pop()(path)

    replace_os(monkeypatch, fsync=fsync)
    if change is nothing:
        assert write_atomically(path, CONTENT, replace=True)
        return
    with pytest.raises(RefusedError, match="changed"):
        write_atomically(path, CONTENT, replace=True)
    assert not path.exists() or path.read_bytes() != CONTENT
    assert not any(is_partial(each.name) for each in world.tree.iterdir())


def test_a_document_that_appears_meanwhile_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.tree / "README.md"

    def fsync(descriptor: int) -> None:
        path.write_bytes(OTHER)

    replace_os(monkeypatch, fsync=fsync)
    with pytest.raises(TakenError):
        write_atomically(path, CONTENT, replace=True)
    assert path.read_bytes() == OTHER


# Folders and the lock -------------------------------------------------------------------------------------------------


def test_folders_are_made_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "new" / "checkpoints"
    make_folders(root / "with_layernorm" / "dynamic", root)
    make_folders(root / "with_layernorm" / "fixed", root)
    make_folders(root, root)
    assert sorted(path.name for path in (root / "with_layernorm").iterdir()) == ["dynamic", "fixed"]
    with as_working_folder(tmp_path):
        make_folders(Path("other/a/b"), Path("other"))
    assert (tmp_path / "other/a/b").is_dir()


def test_a_root_behind_a_link_is_the_users_choice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    make_folders(tmp_path / "root/a", tmp_path / "root")
    assert (tmp_path / "real/a").is_dir()


@pytest.mark.parametrize(("make", "code"), [(Path.touch, "not-a-folder"), (make_pipe, "not-a-folder"),
                                            (make_loop, "symbolic-link")])  # fmt: skip
def test_what_stands_in_the_way_is_refused(make: Callable[[Path], None], code: str, tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(RefusedError) as caught:
        make_folders(tmp_path / "a" / "b", tmp_path)
    assert caught.value.code == code


def test_a_link_below_the_root_leads_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / "a").mkdir(parents=True)
    (root / "a" / "b").symlink_to(outside)
    for path in (root / "a/b/c", root / "a/b"):
        with pytest.raises(RefusedError, match="symbolic link"):
            make_folders(path, root)
    assert list(outside.iterdir()) == []


def test_a_folder_that_becomes_a_link_before_it_is_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / "a").mkdir(parents=True)

    def open_late(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "a":
            (root / "a").rmdir()
            (root / "a").symlink_to(outside)
        return os.open(path, flags, *args, **kwargs)

    replace_os(monkeypatch, open=open_late)
    with pytest.raises(MachineError, match="not a folder"):
        make_folders(root / "a" / "b", root)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("path", ["elsewhere", "root/../elsewhere", "root/a/../../elsewhere", "rooted"])
def test_nothing_is_made_outside_the_root(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_folders(tmp_path / path, tmp_path / "root")
    assert caught.value.code == "outside-root"
    assert list(tmp_path.iterdir()) == []


def test_two_who_make_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(name: str, *, dir_fd: int) -> None:
        os.mkdir(name, dir_fd=dir_fd)
        raise FileExistsError(errno.EEXIST, "another process was quicker")

    replace_os(monkeypatch, mkdir=mkdir)
    make_folders(tmp_path / "a" / "b", tmp_path)
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("fault", FAULTS)
def test_making_folders_when_calls_fail(fault: str, fast_folder: Path) -> None:
    injector = Injector(0, interrupting)
    for nth in range(1, 100):
        root = fast_folder / str(nth)
        injector = Injector(nth, FAULTS[fault].fault, FAULTS[fault].after, FAULTS[fault].lasting)
        with injector.at_work(), suppress(MachineError, KeyboardInterrupt):
            make_folders(root / "a" / "b", root)
        make_folders(root / "a" / "b", root)
        assert (root / "a" / "b").is_dir()
        if not injector.failed:
            break
    assert injector.failed == []
    assert len(injector.calls) > 10


def test_a_tree_has_one_writer(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ckptman.fs import lock_tree\n"
        "with lock_tree(Path(sys.argv[1])) as locked: print(locked, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with in_time(), pytest.raises(MachineError) as caught, lock_tree(tmp_path):
            pass
        other.kill()
    assert caught.value.code == "tree-busy"
    with lock_tree(tmp_path) as locked:
        assert locked
        with pytest.raises(MachineError), lock_tree(tmp_path):
            pass
    with lock_tree(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.ENOSYS])
def test_a_file_system_without_locks(error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "fcntl", Stand(fcntl, {"flock": failing(error)}))
    with lock_tree(tmp_path) as locked:
        assert not locked


def test_folders_that_cannot_be_synced_are_no_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_mode & 0o040000:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.fsync(descriptor)

    replace_os(monkeypatch, fsync=fsync)
    place_file(world.source(), world.destination(), Mode.COPY)
    world.check(done=True)
