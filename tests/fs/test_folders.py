"""Folders of a tree, what is left in them, and the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import Mode, folders, locks, make_folders
from ckptman.text.errors import MachineError, RefusedError, UsageError
from tests.helpers.failing_calls import (
    FAULTS,
    Injector,
    Stand,
    World,
    failing,
    interrupting,
    replace_everywhere,
    replace_os,
)
from tests.helpers.meddling import as_working_folder, in_time, make_loop, make_pipe
from tests.helpers.placing import place_file


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
        if path == "a" and not (root / "a").is_symlink():
            (root / "a").rmdir()
            (root / "a").symlink_to(outside)
        return os.open(path, flags, *args, **kwargs)

    replace_os(monkeypatch, open=open_late)
    with pytest.raises(RefusedError, match="symbolic link"):
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
        "import sys; from pathlib import Path; from ckptman.fs import locks\n"
        "with locks.lock_tree(Path(sys.argv[1])) as locked: print(locked, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with in_time(), pytest.raises(MachineError) as caught, locks.lock_tree(tmp_path):
            pass
        other.kill()
    assert caught.value.code == "tree-busy"
    with locks.lock_tree(tmp_path) as locked:
        assert locked
        with pytest.raises(MachineError), locks.lock_tree(tmp_path):
            pass
    with locks.lock_tree(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.ENOSYS])
def test_a_file_system_without_locks(error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_everywhere(monkeypatch, "fcntl", Stand(fcntl, {"flock": failing(error)}))
    with locks.lock_tree(tmp_path) as locked:
        assert not locked


def test_folders_that_cannot_be_synced_are_no_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_mode & 0o040000:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.fsync(descriptor)

    replace_os(monkeypatch, fsync=fsync)
    place_file(world.source(), world.destination(), Mode.COPY)
    world.check(done=True)


# --- where flock does nothing -----------------------------------------------------------------------------------------

HOLD = (
    "import fcntl, sys, time; from pathlib import Path; fcntl.flock = lambda *_: None; from ckptman.fs import locks\n"
    "with locks.lock_tree(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("flock", ["useless", "as it is here"])
def test_a_file_keeps_others_out_where_flock_does_not_and_ends_with_its_process(
    flock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        if flock == "useless":
            replace_everywhere(monkeypatch, "fcntl", Stand(fcntl, {"flock": lambda *_: None}))
        with pytest.raises(MachineError, match=f"process {other.pid} on") as caught, locks.lock_tree(tmp_path):
            pass
        assert caught.value.code == "tree-busy"
        other.kill()
        other.wait()
    assert len(list(tmp_path.iterdir())) == 1
    for _ in range(2):
        with locks.lock_tree(tmp_path) as is_locked:
            assert is_locked is (flock != "useless")
            assert len(list(tmp_path.iterdir())) == (not is_locked)
            if not is_locked:
                with pytest.raises(MachineError, match="writing to"), locks.lock_tree(tmp_path):
                    pass
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_another_machine_stays_until_somebody_removes_it(tmp_path: Path) -> None:
    left = tmp_path / folders.OWNER_FILE
    for owner in ("process 4 on other (b-o-o-t, pid:[1]-net:[2], 17)", "", "\x1b[31m?"):
        left.write_text(owner)
        with pytest.raises(MachineError) as caught, locks.lock_tree(tmp_path):
            pass
        assert str(left) in caught.value.fix
        assert caught.value.message.isprintable()
        assert folders.remove_partials(tmp_path) == []
    left.unlink()
    with locks.lock_tree(tmp_path):
        pass


def test_folders_in_one_another_without_end_stay(tmp_path: Path) -> None:
    for depth in (90, 1500):
        descriptor = os.open(tmp_path, os.O_RDONLY)
        for name in (".ckptman-0123456789abcdef.partial", *("d",) * depth):
            os.mkdir(name, dir_fd=descriptor)
            above, descriptor = descriptor, os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(above)
        os.close(descriptor)
        if depth < 100:
            assert len(folders.remove_partials(tmp_path)) == 1
            continue
        with pytest.raises(RefusedError, match="partial stays: more than 100 folders") as caught:
            folders.remove_partials(tmp_path)
        assert caught.value.fix
    subprocess.run(["rm", "-r", *tmp_path.iterdir()], check=True)  # pytest cannot either
