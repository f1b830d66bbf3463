"""Standing between Python and the kernel: every call of a deed is counted, and one of them, or each, is disturbed.

What there is to disturb is told by a trace of the undisturbed deed: every function of `os` that reaches the kernel with
a path or a descriptor, whoever calls it, reads of streams and listings of folders too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posix
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import pytest

from ckptman.text.errors import CkptmanError

_NO_FILES = frozenset({
    "fspath", "getpid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getcwd", "getcwdb", "urandom",
    "getrandom", "cpu_count", "strerror", "umask", "fork", "kill", "_exit", "waitpid", "waitstatus_to_exitcode",
    "register_at_fork", "major", "minor", "isatty", "sched_getaffinity", "get_terminal_size", "putenv", "unsetenv",
    "times", "uname", "dup", "getloadavg", "device_encoding", "get_inheritable", "set_inheritable", "sysconf",
    "WIFSTOPPED", "pipe",
})  # fmt: skip

WRITING = frozenset({"write", "mkdir", "link", "rename", "symlink", "unlink", "rmdir", "ftruncate", "utime", "fsync",
                     "chmod", "fchmod", "renameat2"})  # fmt: skip
"""What can change a disk, besides an `open` that makes a file."""

Call = Callable[..., Any]


@dataclass
class Disturbance:
    """What happens at the `nth` call; 0 disturbs none."""

    nth: int = 0
    act: Callable[[str, Call, tuple[Any, ...], dict[str, Any]], Any] | None = None
    calls: list[str] = field(default_factory=list)
    """The calls so far; one that makes a file is an `open+`."""
    of: Callable[[str], bool] = lambda name: True
    """Whether a call can meet it: in a copy of the process, the nth is another one."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = threading.local()

    def wrap(self, name: str, function: Call) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            thread = threading.current_thread()
            if getattr(self._inside, "on", False) or not (
                thread is threading.main_thread() or thread.name.startswith("ThreadPool")
            ):
                return function(*arguments, **options)
            is_new = name == "open" and len(arguments) > 1 and bool(arguments[1] & os.O_CREAT)
            with self._lock:
                self.calls.append("open+" if is_new else name)
                hit = len(self.calls) == self.nth and self.of(self.calls[-1])
            if not hit or self.act is None:
                return function(*arguments, **options)
            self._inside.on = True
            try:
                return self.act(name, function, arguments, options)
            finally:
                self._inside.on = False

        return call


class _Stream(io.RawIOBase):
    """A descriptor as a stream, whose reads and writes are calls of `os` as any other."""

    def __init__(self, descriptor: int, *, is_written: bool) -> None:
        self._descriptor = descriptor
        self._is_written = is_written

    def readable(self) -> bool:
        return not self._is_written

    def writable(self) -> bool:
        return self._is_written

    def seekable(self) -> bool:
        return not self._is_written

    def fileno(self) -> int:
        return self._descriptor

    def readinto(self, buffer: Any) -> int:
        return os.readv(self._descriptor, [buffer])

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _fdopen(descriptor: int, mode: str = "r", buffering: int = -1, *, errors: str | None = None) -> IO[Any]:
    raw = _Stream(descriptor, is_written="w" in mode)
    if buffering == 0:
        return raw  # type: ignore[return-value]
    if "w" in mode:
        return io.BufferedWriter(raw)
    stream = io.BufferedReader(raw)
    return stream if "b" in mode else io.TextIOWrapper(stream, "utf-8", errors)


@contextmanager
def between(disturbance: Disturbance) -> Iterator[Disturbance]:
    """Stand between `os` and the kernel while the `with` statement lasts."""
    from ckptman.fs import writing

    with pytest.MonkeyPatch.context() as patch:
        for name, function in vars(posix).items():
            is_call = type(function).__name__ == "builtin_function_or_method" and vars(os).get(name) is function
            if is_call and name not in _NO_FILES:
                patch.setattr(os, name, disturbance.wrap(name, function))
        patch.setattr(os, "fdopen", _fdopen)
        patch.setattr(writing, "rename_noreplace", disturbance.wrap("renameat2", writing.rename_noreplace))
        yield disturbance


# --- faults -----------------------------------------------------------------------------------------------------------


def raising(error: int) -> Callable[..., Any]:
    def act(name: str, function: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        raise OSError(error, os.strerror(error))

    return act


def raising_late(name: str, function: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """It is done, and reported as failed, as over NFS. (A close that fails has closed; an open gives no descriptor.)"""
    made = function(*arguments, **options)
    if name == "open":
        os.close(made)
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def doing_half(name: str, function: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Fewer bytes than asked for are read or written, as any read or write may do."""
    match name, arguments:
        case "write", (descriptor, data):
            return function(descriptor, memoryview(data)[: max(1, len(data) // 2)])
        case "readv", (descriptor, [buffer]):
            return function(descriptor, [memoryview(buffer)[: max(1, len(buffer) // 2)]])
        case "preadv", (descriptor, [buffer], offset):
            return function(descriptor, [memoryview(buffer)[: max(1, len(buffer) // 2)]], offset)
        case (("pread" | "read"), (descriptor, length, *rest)):
            return function(descriptor, max(1, length // 2), *rest)
    return function(*arguments, **options)


def killing(name: str, function: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def killing_after(name: str, function: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    function(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)


def _changes(name: str) -> bool:
    return name in WRITING or name == "open+"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with a call, and with which calls it can."""

    act: Callable[..., Any]
    of: Callable[[str], bool] = lambda name: True
    kills: bool = False


_TWICE = {"link": errno.EEXIST, "mkdir": errno.EEXIST, "symlink": errno.EEXIST, "rename": errno.ENOENT,
          "renameat2": errno.ENOENT, "unlink": errno.ENOENT, "rmdir": errno.ENOENT}  # fmt: skip


def answering_twice(name: str, function: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """It is done, and done again, as over NFS where the answer got lost: the second time there is nothing to do."""
    made = function(*arguments, **options)
    if name in _TWICE:
        raise OSError(_TWICE[name], os.strerror(_TWICE[name]))
    return made


FAULTS = {
    "EIO": Fault(raising(errno.EIO), lambda name: name != "close"),  # which closes all the same
    "EIO, though done": Fault(raising_late, lambda name: name not in ("scandir", "readv")),
    "ENOSPC": Fault(raising(errno.ENOSPC), _changes),
    "EMFILE": Fault(raising(errno.EMFILE), lambda name: name in ("open", "open+", "scandir", "listdir")),
    "done twice": Fault(answering_twice, lambda name: name in _TWICE),
    "half": Fault(doing_half, lambda name: name in ("write", "read", "readv", "pread", "preadv")),
    "SIGKILL before": Fault(killing, _changes, kills=True),
    "SIGKILL after": Fault(killing_after, _changes, kills=True),
}


@contextmanager
def signals_all_the_time(seconds: float = 0.0003) -> Iterator[None]:
    """Every slow call is interrupted (EINTR) again and again."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- each call in turn ------------------------------------------------------------------------------------------------


class Trial(Protocol):
    """Something to do, and what must be so afterwards."""

    def furnish(self) -> None:
        """Make the place in which it is done, anew."""

    def act(self) -> bool:
        """Do it; whether it says that all is done."""

    def check(self, *, done: bool) -> None:
        """See to it that what must be so whatever happened is so; and if all is done, that it is."""

    def check_again(self) -> None:
        """Do it again, undisturbed, and see to it that all is as if nothing had happened."""


def disturb_each_call(
    trial: Trial,
    fault: Fault,
    *,
    first: int = 1,
    every: int = 1,
    traced: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Let each call of a trial meet the fault in turn (or every so many of them); returns how many cases there were.

    `traced` is where it is done once, to see all calls.
    """
    trial.furnish()
    with traced(), between(Disturbance()) as undisturbed:
        assert trial.act()
    eligible = [nth for nth, name in enumerate(undisturbed.calls, 1) if fault.of(name)]
    cases = eligible[first % min(every, len(eligible)) :: every]
    for nth in cases:
        trial.furnish()
        try:
            done = _killed_at(trial, nth, fault) if fault.kills else _disturbed_at(trial, nth, fault)
            trial.check(done=done)
            trial.check_again()
        except AssertionError as violation:
            violation.add_note(
                f"call {nth} of {len(undisturbed.calls)}: {undisturbed.calls[max(0, nth - 4) : nth + 2]}"
            )
            raise
    return len(cases)


def _disturbed_at(trial: Trial, nth: int, fault: Fault) -> bool:
    try:
        with between(Disturbance(nth, fault.act, of=fault.of)):
            return trial.act()
    except OSError:  # the command line says that it is the machine's (`cli.app.run`)
        return False
    except CkptmanError as error:
        said = error
    assert said.message.isprintable(), "the message holds control characters"
    assert said.fix, "it does not say what to do"
    return False


def _killed_at(trial: Trial, nth: int, fault: Fault) -> bool:
    child = os.fork()
    if child == 0:
        try:
            with between(Disturbance(nth, fault.act, of=fault.of)):
                trial.act()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return False


def slice_of(*words: str) -> int:
    """Where a slice begins: elsewhere for each kind of trial."""
    return int(hashlib.sha256(" ".join(words).encode()).hexdigest(), 16) % 1000
