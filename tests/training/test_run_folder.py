"""A run's folder: what is found there, and its lock."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.fs import locks
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import MachineError, RefusedError
from ckptman.training.progress import RUNNING
from ckptman.training.run_folder import LOCK_FILE, RawRun
from ckptman.training.run_state import RunState, save_checkpoint, save_state
from tests.helpers.short_runs import in_child, raw_run, short_config
from tests.helpers.trees import edit_json


def state(iters_done: int, run_id: str = "abcd1234") -> RunState:
    weights = {"transformer.wte.weight": torch.ones(17, 8)}
    return RunState(run_id, iters_done, weights, {"state": {}, "param_groups": []})


def refusal(run: RawRun) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        run.find()
    return caught.value


def test_the_folder_is_by_group_task_and_seed(tmp_path: Path) -> None:
    run = RawRun.of(short_config(seed=7), tmp_path, built_in())
    assert run.folder.relative_to(tmp_path).parts == ("len_gen_single_k4", "task_0003", "seed_7")
    assert run.label == "len_gen_single_k4 task 3 seed 7"


def test_checkpoints_are_due_after_multiples_of_the_interval(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    assert [done for done in range(1, 13) if run.checkpoint_at(done)] == [6, 11]
    assert sum(map(len, run.saved.values())) == 3


def test_nothing_is_found_in_a_new_folder(tmp_path: Path) -> None:
    found = raw_run(tmp_path).find()
    assert (found.newest, found.iters_done, found.run_id, found.checkpoints, found.complete) == (
        None,
        0,
        None,
        (),
        False,
    )


def test_the_newest_of_state_and_checkpoints_is_found(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    path = run.checkpoint_at(6)
    assert path is not None
    save_state(run, state(4))
    assert run.find().newest == run.state
    save_checkpoint(run, path, state(6))
    assert (run.find().newest, run.find().iters_done) == (path, 6)
    save_state(run, state(6))
    assert run.find().newest == run.state, "it says with how many threads it was computed; a checkpoint does not"
    save_state(run, state(8))
    assert (run.find().newest, run.find().iters_done) == (run.state, 8)


def test_a_run_is_complete_when_the_final_is_there_and_the_state_gone(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    save_state(run, state(12))
    save_checkpoint(run, run.final, state(12))
    assert not run.find().complete
    run.state.unlink()
    assert run.find().complete


def test_another_configuration_is_refused_and_reporting_settings_are_not(tmp_path: Path) -> None:
    save_state(raw_run(tmp_path), state(4))
    assert raw_run(tmp_path, log_interval=1, eval_interval=0).find().iters_done == 4
    error = refusal(raw_run(tmp_path, max_iters=24))
    assert error.code == "other-run"
    assert "max_iters" in error.message


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    save_state(run, state(4))
    data = run.state.read_bytes()
    run.state.write_bytes(data[:-100])
    assert refusal(run).code == "bad-file"
    run.state.write_bytes(data)
    assert run.find().iters_done == 4


def test_the_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    assert not run.is_locked()
    with run.lock():
        assert run.is_locked()
        with pytest.raises(RefusedError) as caught, run.lock():
            pytest.fail("locked twice")
        assert caught.value.code == "running"
    assert not run.is_locked()
    assert not (run.folder / LOCK_FILE).exists()
    with run.lock():
        pass


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    run = raw_run(tmp_path)

    def die_locked() -> None:
        with run.lock():
            run.write_status(RUNNING, "abcd1234", 3)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die_locked) == -signal.SIGKILL
    assert (run.folder / LOCK_FILE).exists()
    assert not run.is_locked()
    with run.lock():
        pass


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptman.fs.locks.reach_other_machines", lambda descriptor: False)


@pytest.mark.parametrize(
    ("host", "age", "busy"), [("elsewhere", 0.0, True), ("elsewhere", 1e4, False), (None, 0.0, False)]
)
def test_where_locks_stay_on_a_machine_the_status_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None, age: float, busy: bool
) -> None:
    run = raw_run(tmp_path)
    with monkeypatch.context() as patched:
        now = time.time()
        patched.setattr("ckptman.training.run_folder.time.time", lambda: now - age)
        if host is not None:
            patched.setattr("ckptman.training.run_folder.socket.gethostname", lambda: host)
        run.write_status(RUNNING, "abcd1234", 3)
    assert not run.is_locked()  # the control: here the lock is enough
    no_locks(monkeypatch)
    if busy:
        with pytest.raises(RefusedError), run.lock():
            pass
    else:
        with run.lock():
            pass


def test_locks_of_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, options, reaches in (
        ("ext4", {"rw"}, True),
        ("nfs4", {"rw", "vers=4.2"}, True),
        ("nfs", {"rw", "nolock"}, False),
        ("nfs4", {"local_lock=all"}, False),
        ("lustre", {"flock"}, True),
        ("lustre", {"localflock"}, False),
    ):
        monkeypatch.setattr("ckptman.fs.locks._mount_of", lambda descriptor, k=kind, o=options: (k, o))
        assert locks.reach_other_machines(0) is reaches, (kind, options)


def test_a_lock_that_cannot_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    (run.folder / LOCK_FILE).mkdir()
    with pytest.raises(MachineError) as caught, run.lock():
        pass
    assert caught.value.code == "io-error"


def test_a_status_that_says_nothing_readable(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    assert run.read_status() is None
    run.status_file.write_text("{}")
    assert run.read_status() is None
    run.write_status(RUNNING, "abcd1234", 3, loss=0.5)
    status = run.read_status()
    assert status is not None
    assert (status.iters_done, status.loss, status.pid) == (3, 0.5, os.getpid())


@pytest.mark.parametrize(("change", "is_read"), [({"newer": 1}, True), ({"iters_done": "3"}, False)])
def test_a_status_of_a_newer_version_is_read_and_one_of_wrong_types_is_not(
    tmp_path: Path, change: dict[str, Any], is_read: bool
) -> None:
    run = raw_run(tmp_path)
    run.write_status(RUNNING, "abcd1234", 3)
    assert run.read_status() is not None
    edit_json(run.status_file, lambda document: document.update(change))
    assert (run.read_status() is not None) is is_read


@pytest.mark.parametrize(
    ("speed", "read"), [(2.5, 2.5), (0.0, 0.0), (None, None), ("NaN", None), ("Infinity", None), (-1.0, None)]
)
def test_a_speed_that_is_none_is_not_reckoned_with(tmp_path: Path, speed: object, read: float | None) -> None:
    run = raw_run(tmp_path)
    run.write_status(RUNNING, "abcd1234", 3)
    document = json.loads(run.status_file.read_text())
    run.status_file.write_text(json.dumps({**document, "iterations_per_second": speed}))
    status = run.read_status()
    assert status is not None
    assert status.iterations_per_second == read
