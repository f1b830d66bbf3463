"""A disk that is full, or a quota that is used up, from any call of an ingest on; and one without hard links."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import folders, placing, writing
from ckptman.text import CkptmanError
from tests.helpers.block_snapshots import mounted
from tests.helpers.disturbed import Call, Disturbance, between
from tests.helpers.faulty_ingests import IngestTrial, InTurnsTrial, in_memory
from tests.helpers.promises import caught, tried

PROMISE = "A disk full from any call of an ingest on: it says what is needed, nothing is left, the next one finishes"
NO_LINKS = "A whole ingest without hard links, with renameat2 or not: done in another way, or it says what is needed"
NEEDS_SPACE = frozenset({"write", "open+", "mkdir", "link", "symlink", "ftruncate"})


class Full(Disturbance):
    """From the `nth` call that needs space on, each fails."""

    def __init__(self, nth: int, number: int) -> None:
        super().__init__()
        self.nth, self.number, self.count = nth, number, 0

    def wrap(self, name: str, function: Call) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            makes = name == "open" and len(arguments) > 1 and bool(arguments[1] & os.O_CREAT)
            if makes or name in NEEDS_SPACE:
                self.count += 1
                if self.nth and self.count >= self.nth:
                    raise OSError(self.number, os.strerror(self.number))
            return function(*arguments, **options)

        return call


def partials(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if folders.is_partial(path.name)]


def fill_at(trial: IngestTrial, nth: int, number: int) -> None:
    """One ingest whose disk is full from a call on; what must be so afterwards."""
    trial.furnish()
    said: CkptmanError | None = None
    with between(Full(nth, number)):
        try:
            assert not trial.act(), "it says that it is done, and nothing could be written"
        except CkptmanError as error:
            said = error
    if said is not None:
        assert "pace" in said.fix or "quota" in said.fix.lower(), f"call {nth}: it does not say what is needed: {said}"
    assert not partials(trial.root), f"call {nth}: temporary files are left"
    trial.check(done=False)
    trial.check_again()


def fill_at_each(trial: IngestTrial, number: int) -> int:
    trial.furnish()
    with between(Full(0, number)) as whole:
        assert trial.act()
    assert isinstance(whole, Full)
    for nth in range(1, whole.count + 1):
        fill_at(trial, nth, number)
    return whole.count


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink", "move"])
def test_a_disk_that_is_full_from_any_call_on(mode: str, number: int) -> None:
    with tried(PROMISE) as counted, in_memory() as home:
        trial = IngestTrial(home, mode, with_wandb=mode == "move")
        counted.cases = fill_at_each(trial, number)


def test_a_disk_that_is_full_while_some_are_copied_and_others_recorded() -> None:
    with tried(PROMISE) as counted, in_memory() as home:
        counted.cases = fill_at_each(InTurnsTrial(home, "copy", with_wandb=False), errno.ENOSPC)


def test_what_is_left_of_a_full_disk_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with caught(PROMISE), in_memory() as home:
        trial = IngestTrial(home, "copy", with_wandb=False)
        monkeypatch.setattr(placing._Staged, "remove_temporary", lambda _: None)
        with pytest.raises(AssertionError):
            fill_at_each(trial, errno.ENOSPC)


class Without(Disturbance):
    """Some calls always fail, as on a file system that has them not."""

    def __init__(self, **numbers: int) -> None:
        super().__init__()
        self.numbers, self.count = numbers, 0

    def wrap(self, name: str, function: Call) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            if name in self.numbers:
                self.count += 1
                raise OSError(self.numbers[name], os.strerror(self.numbers[name]))
            return function(*arguments, **options)

        return call


@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink", "move"])
@pytest.mark.parametrize("renames", [True, False], ids=["renameat2", "no renameat2"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_whole_ingest_without_hard_links(mode: str, renames: bool, number: int) -> None:
    """FAT, exFAT, some network file systems: it is done in another way, or it says what is needed."""
    with tried(NO_LINKS, 1), in_memory() as home:
        ingest_without_links(IngestTrial(home, mode, with_wandb=False), number, renames=renames)


def ingest_without_links(trial: IngestTrial, number: int, *, renames: bool) -> None:
    others = {} if renames else {"renameat2": errno.EINVAL}
    trial.furnish()
    said: CkptmanError | None = None
    done = False
    with between(Without(link=number, **others)) as calls:
        try:
            done = trial.act()
        except CkptmanError as error:
            said = error
    assert isinstance(calls, Without)
    assert calls.count
    assert said is None or said.fix
    assert done or not renames or trial.mode == "hardlink", said
    assert not partials(trial.root)
    trial.check(done=done)
    trial.check_again()


def test_a_rename_that_is_not_done_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with caught(NO_LINKS), in_memory() as home:
        trial = IngestTrial(home, "copy", with_wandb=False)
        monkeypatch.setattr(writing, "rename_noreplace", lambda *_: None)
        with pytest.raises((AssertionError, CkptmanError)):
            ingest_without_links(trial, errno.EPERM, renames=True)


@pytest.mark.slow
def test_few_inodes_and_little_room_on_a_disk_of_its_own(tmp_path: Path) -> None:
    """An ext4 whose inodes, and then whose blocks, are used up by somebody else."""
    with tried(PROMISE) as counted:
        for what in ("inodes", "blocks"):
            with mounted(tmp_path / "image", tmp_path / "disk", make=True, inodes=300) as disk:
                trial = IngestTrial(disk / "home", "copy", with_wandb=False)
                trial.furnish()
                fill(disk / "filled", what)
                counted.cases += 1
                with pytest.raises(CkptmanError) as caught_error:
                    trial.act()
                assert "ree space there" in caught_error.value.fix
                assert not partials(trial.root)
                trial.check(done=False)
                subprocess.run(["rm", "-r", disk / "filled"], check=True)
                trial.check_again()


def fill(folder: Path, what: str) -> None:
    """Use up what there is; of blocks, the last ones one by one."""
    folder.mkdir()
    for size in (0,) * 1000 if what == "inodes" else (1 << 16,) * 200 + (1 << 10,) * 200:
        with suppress(OSError):
            (folder / str(len(os.listdir(folder)))).write_bytes(bytes(size))  # noqa: PTH208
