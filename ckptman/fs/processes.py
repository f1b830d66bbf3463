"""Work shared out among processes: what is done in Python itself keeps to one core, however many threads do it."""

from __future__ import annotations

import marshal
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Generic, TypeVar

LEAST = 4
"""Shares of work below which no process is made."""
MOST = 8
"""Processes: where there are more cores, the disk is waited for."""
_BUFFER = 1 << 20
_INTERRUPTED = 130
"""Exit status of a copy that was interrupted."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_T = TypeVar("_T")
_R = TypeVar("_R")


def cores() -> int:
    """The cores that this process may use; where the system does not tell (macOS), those of the machine."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def copies_for(count: int) -> int:
    """How many copies of this process `in_processes` makes for so many items; 0 where it does all here."""
    if sys.platform != "linux" or count < LEAST or threading.active_count() > 1:
        return 0
    copies = min(MOST, cores(), count)
    return copies if copies > 1 else 0


def in_processes(
    work: Callable[[_T], _R], items: Sequence[_T], *, lost: Callable[[_T], _R] | None = None
) -> Iterator[_R]:
    """The outcomes of some work on each item, in their order; done by copies of this process, where that pays.

    What the work changes is changed in the copies alone, and what it gives is of plain values: numbers, texts, bytes,
    and tuples, lists, sets and dictionaries of them. Where it raises, or gives something else, it is done again here;
    so is what a copy leaves that is killed. No copy is made of a process with threads, which hold who knows what.

    Args:
        work: What to do with an item.
        items: What to do it with.
        lost: Of work that leaves something on the disk, and cannot be done again: what to give, or raise, of an item
            that a copy was killed over. Where nobody asks any further, such work is interrupted, and tidies up.

    Raises:
        Exception: what the work raises.
    """
    count = copies_for(len(items))
    if not count:
        yield from map(work, items)
        return
    with ExitStack() as cleanup:
        copies: list[_Copy[_R]] = []
        with suppress(OSError):  # so many processes may not be
            for at in range(count):
                copies.append(_Copy(work, items[at::count], copies, is_interrupted=lost is not None))
                cleanup.callback(copies[-1].end)
        for at, item in enumerate(items):
            if at % count >= len(copies):
                yield work(item)
            else:
                found = copies[at % count].take()
                yield (lost or work)(item) if found is None else found[0]


class _Copy(Generic[_R]):
    """A copy of this process that works through its share of the items, and writes the outcomes into a pipe."""

    def __init__(
        self, work: Callable[[_T], _R], items: Sequence[_T], others: Sequence[_Copy[_R]], *, is_interrupted: bool
    ) -> None:
        """`others`: those that are there, with whose pipes this one has nothing to do."""
        self._is_interrupted = is_interrupted
        self._has_ended = False
        outcomes, end = os.pipe()
        self._outcomes: Any = os.fdopen(outcomes, "rb", _BUFFER)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # which in the copy would end what it is a copy of
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads that are numpy's, which nobody uses
                self._process = os.fork()
            if self._process == 0:
                try:
                    # Held open here, a pipe would outlive its reader, and who writes into it would wait for ever.
                    for reader in (outcomes, *(other._outcomes.fileno() for other in others)):
                        os.close(reader)
                    _work_through(work, items, end, _interrupt if is_interrupted else signal.SIG_DFL)
                except KeyboardInterrupt:
                    os._exit(_INTERRUPTED)
                finally:
                    os._exit(1)  # whatever happened: there is one process that goes on
        except OSError:
            self._outcomes.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            os.close(end)

    def take(self) -> tuple[_R] | None:
        """The next outcome; None where there is none any more.

        Raises:
            KeyboardInterrupt: it was interrupted, as is this process then, which may hear of it a moment later.
        """
        if self._outcomes.closed:
            return None
        try:
            found: tuple[_R] | None = marshal.load(self._outcomes)
            return found
        except (EOFError, ValueError, TypeError):  # it has ended, in the middle of an outcome perhaps
            self._outcomes.close()
        if self._wait() == _INTERRUPTED:
            raise KeyboardInterrupt
        return None

    def end(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._outcomes.close()
        if not self._has_ended:
            with suppress(OSError):
                os.kill(self._process, signal.SIGTERM if self._is_interrupted else signal.SIGKILL)
            self._wait()

    def _wait(self) -> int | None:
        """Wait until it has ended: its exit status."""
        if self._has_ended:
            return None
        try:
            status = os.waitpid(self._process, 0)[1]
        except OSError:  # somebody else has waited for it
            status = 0
        self._has_ended = True
        return os.waitstatus_to_exitcode(status)


def _interrupt(*_: object) -> None:
    for number in _ENDING:  # the next one would interrupt the tidying up
        signal.signal(number, _no_more)  # if ignored, one that is here already would be told of, with a traceback
    raise KeyboardInterrupt


def _no_more(*_: object) -> None:
    """At a signal of which all is done that there is to do."""


def _work_through(
    work: Callable[[_T], _R], items: Sequence[_T], end: int, at_signal: Callable[..., None] | signal.Handlers
) -> None:
    """What a copy does; it ends without a word, and without the doings of the process that it is a copy of."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, at_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    with os.fdopen(end, "wb", _BUFFER) as stream:
        for item in items:
            try:
                done: Any = (work(item),)
                outcome = marshal.dumps(done)
            except Exception:
                outcome = marshal.dumps(None)
            stream.write(outcome)
            stream.flush()
    os._exit(0)
