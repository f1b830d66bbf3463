"""Several processes that train one run at once: one trains, the others are told, and nothing is lost."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import locks
from ckptman.training.run_folder import LOCK_FILE, RawRun
from ckptman.training.runs import train
from tests.helpers.crowd import Late, no_lock
from tests.helpers.disturbed import between
from tests.helpers.promises import caught, tried
from tests.helpers.short_runs import documents, in_children, raw_run, same, short_config, without_run_id
from tests.helpers.slices import SLICES

PROMISE = "One run trained several times at once: one trains, the others are told, no file is lost or replaced"


def taking_part(out: Path, told: Path, number: int) -> Callable[[], None]:
    def work() -> None:
        with between(Late(number)):
            [run] = train(short_config(), out, wandb="disabled", threads=1, device="cpu").runs
        (told / str(number)).write_text(json.dumps([run.state, run.error and run.error.code]))

    return work


def at_once(home: Path, number: int) -> tuple[RawRun, list[Any]]:
    """Let three train one run at once; what each was told."""
    shutil.rmtree(home, ignore_errors=True)
    (home / "told").mkdir(parents=True)
    works = [taking_part(home / "out", home / "told", 3 * number + each) for each in range(3)]
    assert in_children(works) == [0, 0, 0]
    return raw_run(home / "out"), [json.loads(file.read_text()) for file in sorted((home / "told").iterdir())]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("alone")
    train(short_config(), out, wandb="disabled", threads=1, device="cpu")
    return documents(raw_run(out))


def is_as_alone(run: RawRun, alone: dict[str, dict[str, Any]]) -> bool:
    found = documents(run)
    one_run = len({document.get("run_id") for document in found.values()}) == 1
    return one_run and same(without_run_id(found), without_run_id(alone))


@pytest.mark.slow
def test_one_trains_and_the_others_are_told(tmp_path: Path, alone: dict[str, dict[str, Any]]) -> None:
    with tried(PROMISE) as trial:
        for number in range(2 * SLICES):
            trial.cases += 1
            run, told = at_once(tmp_path / "home", number)
            assert ["complete", None] in told
            assert all(each in (["complete", None], ["running", "running"]) for each in told)
            assert is_as_alone(run, alone)
            assert not (run.folder / LOCK_FILE).exists()


@pytest.mark.slow
def test_where_locks_do_nothing_no_file_is_lost_or_replaced(
    tmp_path: Path, alone: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre, and some NFS, where flock is granted to everybody: what the run's status says is all that keeps out."""
    monkeypatch.setattr(fcntl, "flock", no_lock)
    monkeypatch.setattr(locks, "reach_other_machines", lambda _: False)
    with tried(PROMISE) as trial:
        for number in range(2 * SLICES):
            trial.cases += 1
            run, _ = at_once(tmp_path / "home", number)
            train(short_config(), tmp_path / "home" / "out", wandb="disabled", threads=1, device="cpu")
            assert is_as_alone(run, alone)


@pytest.mark.slow
def test_no_lock_at_all_would_be_found(
    tmp_path: Path, alone: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_lock)
    with caught(PROMISE):
        for number in range(30):  # on a free machine one of them is often done before the next begins
            run, told = at_once(tmp_path / "home", number)
            if told.count(["complete", None]) != 1 or not is_as_alone(run, alone):
                break
        else:
            pytest.fail("no disturbance was seen")
