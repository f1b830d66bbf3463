"""Standing between `ckptman.fs` and the system: calls that fail, worlds of files, and what may be found afterwards."""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import inspect
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest

from ckptman.fs import (
    Batch,
    Mode,
    faults,
    files,
    folders,
    locks,
    moving,
    placing,
    write_atomically,
    writing,
)
from ckptman.fs.files import hash_file
from ckptman.fs.placing import Placement, TakenError
from ckptman.text.errors import CkptmanError, RefusedError
from tests.helpers.placing import place_file

CHUNK = 32 << 10

CONTENT = bytes(range(256)) * 400  # 100 KB: four chunks of 32 KiB

READING = frozenset({"stat", "fstat", "preadv", "listdir", "close"})

OTHER = b"somebody else's bytes"

NOBODY = 65534

MODULES = (faults, files, folders, locks, moving, placing, writing)


class System:
    """The modules of the package, with the names that tests replace in them: `os`, `fcntl`, and two of their own."""

    def __getattr__(self, name: str) -> Any:
        return next(getattr(module, name) for module in MODULES if hasattr(module, name))

    def __setattr__(self, name: str, value: object) -> None:
        for module in MODULES:
            if hasattr(module, name):
                setattr(module, name, value)


SYSTEM: Any = System()


class Stand:
    """A module, some functions of which are replaced for the module under test alone."""

    def __init__(self, module: ModuleType, replaced: dict[str, Callable[..., Any]]) -> None:
        self._module = module
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._module, name)


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    for module in MODULES:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def replace_os(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    replace_everywhere(monkeypatch, "os", Stand(os, functions))


def failing(error: int) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


def source_text() -> str:
    """The source of the whole package."""
    return "".join(map(inspect.getsource, MODULES))


@cache
def system_calls() -> dict[ModuleType, list[str]]:
    """The functions of `os` and `fcntl` that the package uses, as its source says."""
    found: dict[ModuleType, set[str]] = {os: set(), fcntl: set()}
    modules = {"os": os, "fcntl": fcntl}
    for node in ast.walk(ast.parse(source_text())):
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
        before = SYSTEM.os, SYSTEM.fcntl, SYSTEM.rename_noreplace, SYSTEM._CHUNK
        names = system_calls()
        # What stands there already (a simulated file system) is wrapped, not replaced.
        SYSTEM.os = Stand(os, {name: self.wrap(name, getattr(before[0], name)) for name in names[os]})
        SYSTEM.fcntl = Stand(fcntl, {name: self.wrap(name, getattr(before[1], name)) for name in names[fcntl]})
        SYSTEM.rename_noreplace = self.wrap("renameat2", before[2])
        SYSTEM._CHUNK = CHUNK
        try:
            yield
        finally:
            SYSTEM.os, SYSTEM.fcntl, SYSTEM.rename_noreplace, SYSTEM._CHUNK = before


def raising(error: int) -> Callable[[], None]:
    def fault() -> None:
        raise OSError(error, os.strerror(error))

    return fault


def interrupting() -> None:
    raise KeyboardInterrupt


@dataclass
class World:
    """A folder of sources and a folder of destinations, and what each file may hold at any moment."""

    sources: Path
    tree: Path
    allowed: dict[Path, list[bytes | None]] = field(default_factory=dict)
    """What each path may hold whatever happened; None: nothing there."""
    final: dict[Path, bytes | None] = field(default_factory=dict)
    """What each path holds when all is done."""
    together: list[tuple[Path, ...]] = field(default_factory=list)
    """Files that are there all, or none of them."""

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
        for paths in self.together:
            assert len({held[path] is None for path in paths}) == 1, "a folder is there in part"
        known = {above for path in self.allowed for above in (path, *path.parents)}
        strangers = {path for path in self.tree.iterdir() if path not in known}
        assert all(folders.is_partial(path.name) for path in strangers), strangers
        assert partials or not strangers, "a temporary file was left behind"


Act = Callable[[World], Callable[[], None]]
"""Furnishes a world, and returns what is to be done in it. Done again after a fault, it does what is missing."""

Place = Callable[..., object]


def placing_one(mode: Mode, place: Place = place_file) -> Act:
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


def taking_the_source(world: World) -> Callable[[], None]:
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
        moving.remove_source(source, placement, destination)

    return act


def moving_within(world: World) -> Callable[[], None]:
    """From one folder into another, which leaves the first one empty but for empty folders, and so removed."""
    source = world.source()
    world.destination()
    world.allowed[source] = [CONTENT, None]
    world.final[source] = None
    (world.sources / "empty" / "deeper").mkdir(parents=True)
    root, old, new = world.tree.parent, PurePosixPath("sources/a.pt"), PurePosixPath("tree/a.pt")

    def act() -> None:
        if source.exists():
            moving.move_within(root, old, new)
        if (world.sources / "empty").exists():
            moving.remove_empty_folder(root, old.with_name("empty"))
        moving.remove_emptied(root, old)

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


def batching_at_once(world: World) -> Callable[[], None]:
    """Into new folders, several files at a time."""
    names = [f"{folder}/{name}" for folder in ("one", "two") for name in ("c", "d")]
    plan = [placing.Wanted(world.source(name.replace("/", "")), world.destination(name)) for name in names]
    world.bystander()

    def act() -> None:
        folders.make_all([wanted.destination.parent for wanted in plan], world.tree)
        with Batch() as batch:
            missing = [wanted for wanted in plan if not is_there(wanted.destination)]
            for outcome in (*batch.stage_all(missing, Mode.COPY), *batch.publish()):
                if isinstance(outcome, CkptmanError):
                    raise outcome

    return act


def writing_together(world: World) -> Callable[[], None]:
    paths = [world.destination("c.json"), world.destination("d.json"), rewriting_path(world)]
    world.source()

    def act() -> None:
        for outcome in placing.write_together([(path, CONTENT) for path in paths], replace=True):
            if isinstance(outcome, RefusedError):
                raise outcome

    return act


def placing_folder(mode: Mode) -> Act:
    def furnish(world: World) -> Callable[[], None]:
        sources = [world.source(name) for name in ("a.pt", "b.bin")]
        (world.sources / "c").mkdir()
        sources.append(world.source("c/d.bin"))
        hashes = [(str(path.relative_to(world.sources)), *hash_file(path)) for path in sources]
        parts = [placing.Part(name, state, sha256) for name, sha256, state in hashes]
        world.together.append(tuple(world.destination(f"folder/{part.name}") for part in parts))
        world.bystander()
        folder = world.tree / "folder"
        return lambda: None if is_there(folder) else void(placing.place_folder(world.sources, parts, folder, mode))

    return furnish


def writing_one(world: World) -> Callable[[], None]:
    path = world.destination("run.json")
    world.source()  # not used: the bytes that must not be lost
    world.bystander()
    return lambda: void(write_atomically(path, CONTENT, replace=False))


def rewriting_path(world: World) -> Path:
    path = world.bystander("README.md")
    world.allowed[path].append(CONTENT)
    world.final[path] = CONTENT
    return path


def rewriting(world: World) -> Callable[[], None]:
    path = rewriting_path(world)
    world.source()
    return lambda: void(write_atomically(path, CONTENT, replace=True))


def is_there(path: Path) -> bool:
    return os.path.lexists(path)


def void(_: object) -> None:
    """Drop a result."""


ACTS: dict[str, Act] = {
    **{mode.value: placing_one(mode) for mode in Mode},
    **{f"{mode.value} when taken": placing_over(mode) for mode in Mode},
    "move and remove the source": taking_the_source,
    "move within the tree": moving_within,
    "batch": batching,
    "batch at once": batching_at_once,
    "write together": writing_together,
    **{f"{mode.value} of a folder": placing_folder(mode) for mode in (Mode.COPY, Mode.HARDLINK, Mode.MOVE)},
    "write": writing_one,
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
    renaming = SYSTEM.rename_noreplace
    match kind:
        case "no renameat2":
            SYSTEM.rename_noreplace = failing(errno.ENOSYS)
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
        SYSTEM.rename_noreplace = renaming


CASES = [
    *[("plain", name) for name in ACTS],
    *[("no hard links", name) for name in ("copy", "copy when taken", "move", "move and remove the source", "write")],
    *[("no renameat2", f"{mode.value} of a folder") for mode in (Mode.COPY, Mode.MOVE)],
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
            partials = not {"unlink", "rmdir"}.isdisjoint(injector.failed)
            world.check(done=error is None, partials=partials or (fault.lasting and "open" in injector.failed))
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
    folders.remove_partials(world.tree)
    deed()
    world.check(done=True)


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


def order_of(deed: Callable[[], object], *, of: set[str]) -> list[str]:
    injector = Injector(0, interrupting)
    with injector.at_work():
        deed()
    return [name for name in injector.calls if name in of]


SHA256 = hashlib.sha256(CONTENT).hexdigest()
