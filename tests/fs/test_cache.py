"""The cache of what was worked out: never wrong, never needed."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.fs import cache

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "weights").write_bytes(b"weights")
    (tmp_path / "outside").write_bytes(b"outside")
    (folder / "link").symlink_to(tmp_path / "outside")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def state(folder: Path) -> cache.FolderState:
    found = cache.folder_state(folder)
    assert found is not None
    return found


def later() -> int:
    return time.time_ns() + 2 * cache.SETTLED_NS


def same_but_ctime(folder: Path) -> None:
    """Other bytes of the same size, with the times put back: what a careful tool, or a forger, can do."""
    file = folder / "run" / "weights"
    was = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


CHANGES: dict[str, Change] = {
    "written": lambda folder: (folder / "run" / "weights").write_bytes(b"other"),
    "written, and the times put back": same_but_ctime,
    "added": lambda folder: (folder / "run" / "more").touch(),
    "an empty folder": lambda folder: (folder / "empty").mkdir(),
    "removed": lambda folder: (folder / "run" / "weights").unlink(),
    "renamed": lambda folder: (folder / "run" / "weights").rename(folder / "run" / "other"),
    "moved": lambda folder: (folder / "run" / "weights").rename(folder / "weights"),
    "a folder renamed": lambda folder: (folder / "run").rename(folder / "other"),
    "not to be read": lambda folder: (folder / "run" / "weights").chmod(0),
    "what a link leads to": lambda folder: (folder.parent / "outside").write_bytes(b"other"),
    "nothing where a link leads": lambda folder: (folder.parent / "outside").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_kept_is_found_until_anything_changes(folder: Path, change: Change) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=later())
    assert cache.recall("question", state(folder)) == b"answer"
    assert cache.recall("another", state(folder)) is None
    change(folder)
    assert cache.recall("question", state(folder)) is None


def test_what_changed_a_moment_ago_is_not_kept(folder: Path) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=time.time_ns())
    assert cache.recall("question", state(folder)) is None


def test_of_what_cannot_be_looked_at_or_lies_elsewhere_no_state_is_known(folder: Path) -> None:
    assert cache.folder_state(folder, without=("other",)) == state(folder)
    assert cache.folder_state(folder, without=("link",)) is None
    assert cache.folder_state(folder / "none") is None


def corrupt(home: Path) -> None:
    (home / cache.FILE).write_bytes(b"no database " * 1000)


def another_layout(home: Path) -> None:
    (home / cache.FILE).unlink()
    with sqlite3.connect(home / cache.FILE) as database:
        database.execute("CREATE TABLE answers (something)")
    database.close()


def torn(home: Path) -> None:
    with sqlite3.connect(home / cache.FILE) as database:
        database.execute("UPDATE answers SET value = CAST(SUBSTR(value, 1, LENGTH(value) - 1) || '!' AS BLOB)")
    database.close()


def a_folder(home: Path) -> None:
    (home / cache.FILE).unlink()
    (home / cache.FILE).mkdir()


def a_file(home: Path) -> None:
    (home / cache.FILE).unlink()
    home.rmdir()
    home.touch()


@pytest.mark.parametrize("damage", [corrupt, torn, another_layout, a_folder, a_file])
def test_a_cache_that_is_damaged_is_none(folder: Path, home: Path, damage: Change) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=later())
    assert cache.recall("question", state(folder)) == b"answer"
    damage(home)
    assert cache.recall("question", state(folder)) is None
    cache.keep("question", state(folder), b"answer", since_ns=later())


def test_a_cache_that_is_corrupt_is_made_anew(folder: Path, home: Path) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=later())
    file, page = home / cache.FILE, 4096
    data = file.read_bytes()
    file.write_bytes(data[:page] + b"\xff" * (len(data) - page))  # its header is whole
    assert cache.recall("question", state(folder)) is None
    cache.keep("question", state(folder), b"answer", since_ns=later())
    assert cache.recall("question", state(folder)) == b"answer"


def test_what_is_no_database_stays(folder: Path, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / cache.FILE).write_bytes(b"somebody's notes")
    assert cache.recall("question", state(folder)) is None
    cache.keep("question", state(folder), b"answer", since_ns=later())
    assert (home / cache.FILE).read_bytes() == b"somebody's notes"


@pytest.mark.parametrize("mode", [0o702, 0o770, 0o777])
def test_a_cache_that_others_may_write_to_is_none(folder: Path, home: Path, mode: int) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=later())
    home.chmod(mode)
    cache.keep("question", state(folder), b"another", since_ns=later())
    assert cache.recall("question", state(folder)) is None
    home.chmod(0o755)
    assert cache.recall("question", state(folder)) == b"answer"


def test_a_cache_of_another_user_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=later())
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        cache.keep("question", state(folder), b"another", since_ns=later())
        assert cache.recall("question", state(folder)) is None
    assert cache.recall("question", state(folder)) == b"answer"


def test_what_came_and_went_is_a_change_of_folders_alone(folder: Path) -> None:
    before = state(folder), cache.folder_state(folder, of_folders=True)
    time.sleep(0.02)
    (folder / "run" / "more").touch()
    (folder / "run" / "more").unlink()
    after = state(folder), cache.folder_state(folder, of_folders=True)
    assert before[0] == after[0]
    assert before[1] is not None
    assert after[1] is not None
    assert after[1].digest == before[0].digest
    assert after[1].newest_ns > before[1].newest_ns


def test_a_cache_that_is_locked_is_none(folder: Path, home: Path) -> None:
    cache.keep("question", state(folder), b"answer", since_ns=later())
    other = sqlite3.connect(home / cache.FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert cache.recall("question", state(folder)) is None
    cache.keep("question", state(folder), b"another", since_ns=later())
    other.execute("ROLLBACK")
    other.close()
    assert cache.recall("question", state(folder)) == b"answer"


def test_the_oldest_give_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 35)
    for number in range(5):
        cache.keep(str(number), state(folder), bytes(10), since_ns=later())
    assert [number for number in range(5) if cache.recall(str(number), state(folder))] == [3, 4]


@pytest.mark.parametrize("word", ["", "0", "off", "OFF"])
def test_it_can_be_turned_off(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv(cache.VARIABLE, word)
    cache.keep("question", state(folder), b"answer", since_ns=later())
    assert cache.folder() is None
    assert cache.recall("question", state(folder)) is None
    assert not home.exists()


def test_it_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == tmp_path / ".cache" / "ckptman"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder() == tmp_path / ".cache" / "ckptman"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "ckptman"
    monkeypatch.setenv("HOME", "relative")
    assert cache.folder() is None
