"""A file that was saved while the only run on record did not run: its own record may be missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from tests.helpers.ingested import task
from tests.helpers.raw import START, config, write_run
from tests.helpers.validated import codes, of


def lab(source: Path, *, gone: bool) -> Path:
    """Two runs of a seed, the second over the first, and a run of another seed that kept its Checkpoint."""
    folder = task(source)
    write_run(folder, config(seed=2337, use_mlp=True), run_id="other000", started=START)
    write_run(folder, config(), run_id="first111", started=START + 1000, metrics={"iters_done": 40000})
    write_run(folder, config(), run_id="again222", started=START + 2000)
    if gone:
        shutil.rmtree(next(folder.rglob("run-*-again222")))
        (folder / "wandb" / "wandb" / "latest-run").unlink()
    return folder


def runs(root: Path) -> dict[int, tuple[str | None, str]]:
    found = (json.loads(path.read_text()) for path in root.rglob("run.json"))
    return {each["seed"]: (each["run_id"], each["attribution"]["code"]) for each in found}


@pytest.mark.parametrize("gone", [True, False])
def test_where_times_are_kept_a_run_that_did_not_run_is_not_said_to_have_saved(
    source: Path, root: Path, gone: bool
) -> None:
    lab(source, gone=gone)
    for _ in range(2):  # the second time by what the first one knew
        ingest(source, root, settle=0)
        expected = (None, "ambiguous") if gone else ("again222", "time-span")
        assert runs(root) == {2337: ("other000", "only-match"), 1337: expected}
    found = validate(root)
    assert ("ambiguous-run" in codes(found)) is gone
    assert all("have kept their times: first111" in message for message in of(found, "ambiguous-run"))


def test_where_no_time_is_kept_the_only_run_is_taken(source: Path, root: Path) -> None:
    for path in lab(source, gone=True).rglob("*.pt"):
        os.utime(path, (START + 10**7, START + 10**7))
    ingest(source, root, settle=0)
    assert runs(root)[1337] == ("first111", "only-match")


def test_a_run_whose_other_file_has_kept_its_time_saved_both(source: Path, root: Path) -> None:
    folder = task(source)
    write_run(folder, config(), run_id="first111", started=START)
    (last,) = folder.rglob("Final_*.pt")
    os.utime(last, (START + 10**7, START + 10**7))  # copied, or written anew, since
    ingest(source, root, settle=0)
    assert runs(root) == {1337: ("first111", "only-match")}
    assert len(list(root.rglob("run.json"))) == 1


@pytest.mark.parametrize("apart", [150.0, 2.0], ids=["as a run saves them", "as a copy makes them"])
def test_of_files_that_lie_alone_the_time_between_them_tells(source: Path, root: Path, apart: float) -> None:
    folder = task(source)
    write_run(folder, config(), run_id="first111", started=START, metrics={"iters_done": 40000})
    for number, path in enumerate(sorted((folder / "saved_models").glob("*.pt"))):  # those of a run without a record
        os.utime(path, (START + 5000, START + 5000 + number * apart))
    for _ in range(2):
        ingest(source, root, settle=0)
        assert runs(root) == {1337: (None, "ambiguous") if apart > 100 else ("first111", "only-match")}
