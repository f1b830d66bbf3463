"""What was refused enters the reckoning: it is neither missing nor overwritten; and what is learnt later mends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ckptman.ingestion import ingest
from ckptman.sweeps import grid_status
from ckptman.tree.records import read_record
from tests.helpers.ingested import task
from tests.helpers.raw import START, config, write_run


@pytest.mark.parametrize("spoilt", [True, False])
def test_a_refused_final_is_neither_missing_nor_overwritten(source: Path, root: Path, spoilt: bool) -> None:
    for number, seed in enumerate((1337, 2337, 3337)):
        started = START + number * 1_000
        files = write_run(task(source), config(seed=seed), run_id=f"run{seed}", started=started, files=("Final",))
    when = files[0].stat().st_mtime
    if spoilt:
        files[0].write_bytes(b"no checkpoint")
        os.utime(files[0], (when, when))
    result = ingest(source, root, settle=0)
    assert [run.run_id for run in result.plan.overwritten] == ["run1337", "run2337"]
    assert {run.overwritten_by for run in result.plan.overwritten} == {("run3337",)}
    assert [(item.run.run_id, item.refused) for item in result.plan.without_files] == [
        ("run3337", (files[0].name,))
    ] * spoilt
    found = grid_status.status(source, None)
    [standing] = [item for item in found.runs if item.run_id == "run3337"]
    assert standing.is_gap is False
    assert standing.reason == (f"{files[0].name} is there, and was refused" if spoilt else "")
    assert standing.state == ("partial" if spoilt else "complete")


def test_a_later_ingest_with_the_right_times_tells_the_run(source: Path, root: Path, tmp_path: Path) -> None:
    for number, run_id in enumerate(("first111", "rerun222")):
        files = write_run(task(source), config(), run_id=run_id, started=START + number * 1_000, salt=number)
    times = [file.stat().st_mtime for file in files]
    clone = Path(shutil.copytree(source, tmp_path / "clone", symlinks=True))
    for file in clone.rglob("*.pt"):
        os.utime(file, (START + 1e7, START + 1e7))
    first = ingest(clone, root)
    assert len(first.plan.ambiguous) == 2
    assert ingest(clone, root).plan.resolved == ()  # the control: nothing new is learnt
    for file, when in zip(files, times, strict=True):
        os.utime(file, (when, when))
    again = ingest(source, root)
    [folder] = again.plan.resolved
    record = read_record(root / folder)
    assert (record.run_id, record.attribution.code) == ("rerun222", "time-span")
    assert record.attribution.evidence.endswith("; a later ingest learnt it")
    assert (again.plan.ambiguous, again.placed) == ((), ())
    assert ingest(source, root).plan.resolved == ()
