"""The power goes while an ingest works, on a file system of the kernel's: what is on the disk keeps every promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptman.fs import moving
from tests.helpers.block_snapshots import cut_at_every_moment
from tests.helpers.promises import caught, tried

PROMISE = "Copies of a block device during an ingest: each file is there at least once, what is recorded is whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "there"),
    [("copy", "nothing"), ("move", "nothing"), ("move", "files"), ("move", "synced files"), ("move", "all")],
)
def test_every_promise_holds_on_the_disk_at_every_moment(tmp_path: Path, mode: str, there: str) -> None:
    with tried(PROMISE) as trial:
        trial.cases = cut_at_every_moment(tmp_path, mode, there)
        assert trial.cases


@pytest.mark.slow
def test_a_move_that_does_not_sync_what_was_there_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_sync_kept", lambda *_: None)
    with caught(PROMISE), pytest.raises(AssertionError):
        cut_at_every_moment(tmp_path, "move", "all")
