"""Many small files are placed by several processes, and come out as one process places them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptman
from ckptman.fs import folders, locks, placing
from ckptman.ingestion import applying, ingesting, planning
from ckptman.text.errors import MachineError
from tests.helpers.faulty_ingests import scrubbed
from tests.helpers.grown import grow_source
from tests.helpers.raw import config, write_run
from tests.helpers.sharing import shared_out

HERE = os.getpid()
CURVE = {step: {"loss": 1 / (step + 1)} for step in range(0, 1000, 250)}


@pytest.fixture(autouse=True)
def a_run_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "BATCH_SIZE", 2)


def placers(patch: pytest.MonkeyPatch, folder: Path) -> Callable[[], set[int]]:
    """What tells the processes that placed a turn."""
    real = applying.Work._place_turns

    def place(self: Any, *arguments: Any, **options: Any) -> None:
        (folder / str(os.getpid())).touch()
        real(self, *arguments, **options)

    folder.mkdir()
    patch.setattr(applying.Work, "_place_turns", place)
    return lambda: {int(path.name) for path in folder.iterdir()}


def furnish(source: Path) -> None:
    """Six runs, of which one has a learning curve."""
    for seed in range(6):
        curve = CURVE if seed == 3 else None
        folder = source / f"seed_{seed}" / "len_gen_k8" / "task_0006"
        write_run(folder, config(seed=seed), run_id=f"run{seed}", curve=curve)


@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink"])
def test_several_processes_make_the_same_tree(
    mode: str, source: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(source)
    alone = ckptman.ingest(source, tmp_path / "alone", mode=mode, settle=0)
    told = placers(monkeypatch, tmp_path / "placers")
    with shared_out():
        result = ckptman.ingest(source, root, mode=mode, settle=0)
    assert len(told() - {HERE}) == 2
    assert HERE not in told()
    assert scrubbed(root) == scrubbed(tmp_path / "alone")
    told_of, expected = ({**each.to_json(), "root": "", "space": {}} for each in (result, alone))
    assert told_of == expected
    assert len(result.placed) == 12
    assert result.histories == alone.histories != ()
    assert set(result.written) == set(alone.written)
    found = ckptman.validate(root, ignore=["missing"], deep=True).findings
    assert [item.code for item in found] == (["linked-checkpoint"] if mode == "symlink" else [])


@pytest.mark.parametrize("kind", ["move", "with W&B", "large"])
def test_what_one_process_places(
    kind: str, source: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(source)
    told = placers(monkeypatch, tmp_path / "placers")
    if kind == "large":
        monkeypatch.setattr(applying, "_MUCH", 1)
    with shared_out():
        ckptman.ingest(source, root, mode="move" if kind == "move" else "copy", with_wandb=kind == "with W&B", settle=0)
    assert told() == {HERE}


def test_what_one_of_them_refuses_or_defers_is_told(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(source)
    real = planning.make_plan

    def plan(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)
        changed, gone = (next((source / f"seed_{seed}").rglob("Final*.pt")) for seed in (2, 5))
        changed.write_bytes(changed.read_bytes() + b"more")
        gone.rename(gone.with_suffix(".moved"))
        return made

    monkeypatch.setattr(ingesting, "make_plan", plan)
    with shared_out() as told:
        result = ckptman.ingest(source, root, settle=0)
    assert told
    assert [(item.source.split("/")[0], item.code) for item in result.deferred] == [("seed_2", "changed-while-read")]
    assert [(item.source.split("/")[0], item.code) for item in result.refused] == [("seed_5", "unreadable")]
    assert len(result.placed) == 10
    assert len(list(root.rglob("*.pt"))) == 10
    assert not [path for path in root.rglob("*") if folders.is_partial(path.name)]
    assert ckptman.validate(root, ignore=["missing", "missing-final"]).findings == ()


def test_where_the_disk_is_full_nobody_goes_on(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(40):
        write_run(source / f"seed_{seed}" / "len_gen_k8" / "task_0006", config(seed=seed), run_id=f"run{seed}")
    real = placing.Batch.publish

    def publish(self: Any) -> Any:
        if any("seed_3/" in str(staged.destination) for staged in self._staged):
            raise MachineError("the disk is full", code="disk-full", fix="Free space.")
        time.sleep(0.01)
        return real(self)

    monkeypatch.setattr(placing.Batch, "publish", publish)
    with shared_out(), pytest.raises(MachineError) as error:
        ckptman.ingest(source, root, settle=0)
    placed = len(list(root.rglob("*.pt")))
    assert error.value.message == f"the disk is full ({placed} of 80 files are in place)"
    assert error.value.code == "disk-full"
    assert 0 < placed < 78, "others went on"
    assert len(list(root.rglob("run.json"))) == placed / 2
    monkeypatch.setattr(placing.Batch, "publish", real)
    with shared_out():
        assert len(ckptman.ingest(source, root, settle=0).placed) == 80 - placed
    assert ckptman.validate(root, ignore=["missing"]).findings == ()


def test_one_that_is_killed_is_told_of(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(source)
    real = placing.Batch.publish

    def publish(self: Any) -> Any:
        found = real(self)
        if os.getpid() != HERE and any("seed_4/" in str(each) for each in root.rglob("*.pt")):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    monkeypatch.setattr(placing.Batch, "publish", publish)
    with shared_out(), pytest.raises(MachineError) as error:
        ckptman.ingest(source, root, settle=0)
    assert error.value.code == "process-killed"
    assert "(at least " in error.value.message
    before = len(list(root.rglob("*.pt")))
    monkeypatch.setattr(placing.Batch, "publish", real)
    result = ckptman.ingest(source, root, settle=0)
    assert len(result.placed) == 12 - before
    assert result.plan.completed
    assert ckptman.validate(root, ignore=["missing"]).findings == ()


def test_a_mistake_in_one_of_them_is_told_as_what_it_is(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(source)
    monkeypatch.setattr(applying.Work, "_record", lambda *_: 1 // 0)
    with shared_out(), pytest.raises(RuntimeError, match="ZeroDivisionError"):
        ckptman.ingest(source, root, settle=0)


INTERRUPTED = """
    import os, signal, sys, time
    from ckptman.cli import main
    from ckptman.fs import placing

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background of a shell
    publish = placing.Batch.publish

    def slowly(batch):
        time.sleep(0.05)
        return publish(batch)

    placing.BATCH_SIZE, placing.Batch.publish = 2, slowly
    os.sched_getaffinity = lambda _: {0, 1}
    sys.argv = ["ckptman", "ingest", *sys.argv[1:]]
    main()
"""


@pytest.mark.parametrize("whom", ["all", "the first"])
def test_an_interrupt_ends_all_of_them_and_leaves_nothing_half(whom: str, source: Path, root: Path) -> None:
    grow_source(source, 60)
    again = 0
    for wanted in (1, 20, 45):
        code = textwrap.dedent(INTERRUPTED)
        command: list[str | Path] = [sys.executable, "-c", code, source, "--root", root, "--mode", "hardlink"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as one:
            while len(list(root.rglob("run.json"))) < wanted and one.poll() is None:
                time.sleep(0.001)
            copies = [path.read_text().split() for path in Path(f"/proc/{one.pid}/task").glob("*/children")]
            os.killpg(one.pid, signal.SIGINT) if whom == "all" else one.send_signal(signal.SIGINT)
            _, said = one.communicate(timeout=60)
        if one.returncode == 0:
            continue  # it was done before
        again += 1
        assert one.returncode == 130, said
        assert sum(map(len, copies)) == 2
        with locks.lock_tree(root):  # which a copy would hold
            assert not [path for path in root.rglob("*") if folders.is_partial(path.name)]
    assert again
    assert len(ckptman.ingest(source, root, mode="hardlink").plan.unchanged) < 120
    assert len(list(root.rglob("*.pt"))) == 120
    assert ckptman.validate(root, ignore=["missing"]).findings == ()
