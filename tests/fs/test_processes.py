"""Work shared out among copies of this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ckptman.fs import processes
from ckptman.fs.files import in_processes

HERE = os.getpid()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two cores, and no thread, as far as the package can see."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    before = held()
    yield
    assert held() == before, "no copy is left, and no pipe"


def held() -> tuple[int, list[str]]:
    """How many files are open, and the processes that are of this one."""
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return len(list(Path("/proc/self/fd").iterdir())), " ".join(children).split()


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def test_outcomes_come_in_order_from_two_processes() -> None:
    found = list(in_processes(square, range(100)))
    assert [number for number, _ in found] == [number * number for number in range(100)]
    assert len({process for _, process in found}) == 2
    assert HERE not in {process for _, process in found}


@pytest.mark.parametrize("why", ["few", "one core", "threads"])
def test_where_no_process_is_made_the_work_is_done_here(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "one core":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    if why == "threads":
        monkeypatch.setattr(threading, "active_count", lambda: 2)
    count = processes.LEAST - 1 if why == "few" else 50
    assert {process for _, process in in_processes(square, range(count))} == {HERE}


def test_what_a_killed_process_leaves_is_done_here() -> None:
    def work(number: int) -> tuple[int, int]:
        if number == 10 and os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        return square(number)

    found = list(in_processes(work, range(100)))
    assert [number for number, _ in found] == [number * number for number in range(100)]
    assert [at for at, (_, process) in enumerate(found) if process == HERE] == list(range(10, 100, 2))


def test_a_copy_that_cannot_begin_ends_and_all_is_done_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    close, went_on = os.close, tmp_path / "went on"

    def closing(descriptor: int) -> None:
        if os.getpid() != HERE:
            raise OSError
        close(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closing)
        try:
            found = list(in_processes(square, range(8)))
        except OSError:
            went_on.touch()
            os._exit(1)
    assert found == [(number * number, HERE) for number in range(8)]
    assert not went_on.exists()


@pytest.mark.parametrize("made", [0, 1])
@pytest.mark.parametrize("is_left", [True, False])
def test_where_no_more_processes_may_be_their_share_is_done_here(
    made: int, is_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, left = os.fork, iter(range(made))

    def limited() -> int:
        if next(left, None) is None:
            raise BlockingIOError
        return fork()

    monkeypatch.setattr(os, "fork", limited)
    found = list(in_processes(square, range(8), lost=(lambda _: (-1, -1)) if is_left else None))
    assert [number for number, _ in found] == [number * number for number in range(8)]
    assert [process == HERE for _, process in found] == [made == 0 or at % 2 == 1 for at in range(8)]


def test_an_outcome_that_is_no_plain_value_is_worked_out_here() -> None:
    def work(number: int) -> tuple[object, int]:
        return Path("3") if number == 3 else number, os.getpid()

    found = list(in_processes(work, range(8)))
    assert [value for value, _ in found] == [0, 1, 2, Path("3"), 4, 5, 6, 7]
    assert [value for value, process in found if process == HERE] == [Path("3")]


def test_what_the_work_raises_is_raised_where_its_outcome_would_come() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ZeroDivisionError
        return number

    found = in_processes(work, range(8))
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_whoever_asks_no_further_leaves_no_process() -> None:
    def work(number: int) -> bytes:
        time.sleep(0.01)
        return bytes(1 << 20)

    found = in_processes(work, range(1000))
    next(found)
    del found


def test_large_outcomes_arrive_whole() -> None:
    found = list(in_processes(lambda number: bytes([number]) * (3 << 20), range(6)))
    assert found == [bytes([number]) * (3 << 20) for number in range(6)]


def test_work_that_cannot_be_done_again_is_lost_with_its_copy() -> None:
    def work(number: int) -> int:
        if number == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    found = list(in_processes(work, range(20), lost=lambda number: -number))
    assert found == [-number if number >= 10 and number % 2 == 0 else number for number in range(20)]


def test_where_a_copy_is_interrupted_so_is_the_process() -> None:
    def work(number: int) -> int:
        if number == 10:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        return number

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = in_processes(work, range(20), lost=lambda number: -number)
        assert [next(found) for _ in range(10)] == list(range(10))
        with pytest.raises(KeyboardInterrupt):
            next(found)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("is_left", [True, False])
def test_what_the_process_ignores_its_copies_ignore(number: signal.Signals, is_left: bool) -> None:
    def work(at: int) -> tuple[int, int]:
        if at == 10 and os.getpid() != HERE:
            os.kill(os.getpid(), number)
        return square(at)

    before = signal.signal(number, signal.SIG_IGN)
    try:
        found = list(in_processes(work, range(20), lost=(lambda _: (-1, -1)) if is_left else None))
    finally:
        signal.signal(number, before)
    assert [value for value, _ in found] == [at * at for at in range(20)]
    assert HERE not in {process for _, process in found}


@pytest.mark.parametrize("is_left", [True, False])
def test_such_work_is_interrupted_and_tidies_up_where_nobody_asks_any_further(is_left: bool, tmp_path: Path) -> None:
    def work(number: int) -> int:
        if number < 2:
            return number
        try:
            (tmp_path / f"begun {number}").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            (tmp_path / f"tidied {number}").touch()
            raise
        return number

    found = in_processes(work, range(8), lost=(lambda number: number) if is_left else None)
    assert next(found) == 0
    while len(list(tmp_path.glob("begun *"))) < 2:
        time.sleep(0.001)
    del found
    assert {path.name for path in tmp_path.glob("tidied *")} == ({"tidied 2", "tidied 3"} if is_left else set())


KILLED = """
    import os, signal, sys, threading
    from ckptman.fs.files import in_processes

    os.sched_getaffinity = lambda _: {0, 1, 2, 3}
    found = in_processes(lambda number: bytes(1 << 20), range(400))
    next(found)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_copy_outlives_a_process_that_is_killed() -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as killed:
        try:
            killed.communicate(timeout=60)  # which ends when nobody is left who could write to it
        finally:
            with suppress(ProcessLookupError):
                os.killpg(killed.pid, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL


def test_two_interrupts_at_once_are_one_and_nothing_is_said() -> None:
    """Of Ctrl-C, which all processes get, and the end that this one makes of its copies then."""
    code = """
        import os, signal
        from ckptman.fs import processes
        for number in processes._ENDING:
            signal.signal(number, processes._interrupt)
        signal.pthread_sigmask(signal.SIG_BLOCK, processes._ENDING)
        for number in processes._ENDING:
            os.kill(os.getpid(), number)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, processes._ENDING)
        except KeyboardInterrupt:
            print("interrupted")
        sum(range(1000))
        print("tidied up")
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert (done.stdout.split("\n"), done.stderr) == (["interrupted", "tidied up", ""], "")
