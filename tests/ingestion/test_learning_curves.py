"""Ingest keeps each run's learning curve beside its run.json, and brings it up to date."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from ckptman.tree import history
from ckptman.tree.records import read_record
from tests.helpers import hostile_wandb as hw
from tests.helpers.ingested import RUN, codes, task
from tests.helpers.raw import config, snapshot, write_run

KEY = "gen/K17/exact_match_acc"
CURVE: dict[int, dict[str, Any]] = {1: {KEY: 0.0, "lr": 1e-4}, 251: {KEY: 0.5, "note": "text", "flag": True}}
KEPT = history.of_rows({1: {KEY: 0.0, "lr": 1e-4}, 251: {KEY: 0.5}})


def ingested(source: Path, root: Path, **options: Any) -> history.History | None:
    ingest(source, root, settle=0, **options)
    return history.read(root / RUN)


def wandb_folder(source: Path) -> Path:
    return next(path for path in (task(source) / "wandb/wandb").iterdir() if path.name.startswith("run-"))


def test_the_numbers_of_the_log_are_kept_and_nothing_else(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    assert ingested(source, root) == KEPT
    entry = read_record(root / RUN).history
    assert entry is not None
    assert (entry.steps, entry.metrics) == (2, 2)
    assert entry.size == (root / RUN / history.HISTORY_FILE).stat().st_size
    assert [item.path.rpartition("/")[2] for item in entry.sources] == ["run-abc.wandb"]


def test_a_run_that_logged_nothing_on_the_way_has_no_curve(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc")
    assert ingested(source, root) is None
    assert read_record(root / RUN).history is None


def test_ingesting_again_changes_nothing(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    first = ingest(source, root)
    before = snapshot(root)
    second = ingest(source, root)
    assert (first.histories, second.histories) == ((f"{RUN}/{history.HISTORY_FILE}",), ())
    assert snapshot(root) == before
    copied = source.with_name("copy")
    shutil.copytree(source, copied, symlinks=True)
    assert ingest(copied, root).histories == ()  # the same curve from elsewhere
    assert history.read(root / RUN) == KEPT
    assert len(list(root.rglob("history*"))) == 1


def test_a_dry_run_tells_which_would_be_read_and_writes_nothing(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    assert ingest(source, root, dry_run=True).histories == (f"{RUN}/{history.HISTORY_FILE}",)
    assert not root.exists()


def test_a_log_that_grew_is_read_again(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    ingest(source, root)
    log = wandb_folder(source) / "run-abc.wandb"
    rows = {**CURVE, 501: {KEY: 1.0}}
    log.write_bytes(hw.log_bytes(hw.run("abc"), *(hw.history({**r, "_step": s}, s) for s, r in rows.items())))
    curve = ingested(source, root)
    assert curve is not None
    assert curve.curve(KEY) == [(1, 0.0), (251, 0.5), (501, 1.0)]


def test_a_requeued_run_has_one_curve_the_later_part_of_which_counts(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    later = wandb_folder(source).with_name("run-20260311_000000-abc")
    later.mkdir()
    rows = (hw.history({KEY: value, "_step": step}, step) for step, value in ((251, 0.75), (501, 1.0)))
    (later / "run-abc.wandb").write_bytes(
        hw.log_bytes(hw.run("abc", config().to_dict(), started=1_773_260_000.0), *rows)
    )
    curve = ingested(source, root)
    assert curve is not None
    assert curve.curve(KEY) == [(1, 0.0), (251, 0.75), (501, 1.0)]


def test_what_is_left_of_a_cut_log_is_kept(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve={step: {KEY: step / 10} for step in range(10)})
    log = wandb_folder(source) / "run-abc.wandb"
    log.write_bytes(log.read_bytes()[:-10])
    curve = ingested(source, root)
    assert curve is not None
    assert curve.steps == tuple(range(9))


def test_the_history_file_of_an_older_client_is_read(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc")
    lines = [json.dumps({**row, "_step": step}) for step, row in CURVE.items()]
    text = "\n".join([*lines, "[1]", '{"_step": "x"}', '{"_step": 501, "gen'])
    (wandb_folder(source) / "wandb-history.jsonl").write_text(text)
    assert ingested(source, root) == KEPT


def test_steps_and_numbers_in_every_form_that_json_has(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve={1: {"a": 1}})
    log = wandb_folder(source) / "run-abc.wandb"
    odd = {"a": float("nan"), "b": float("inf"), "c": 1e300, "d": -5, "e": None, "f": [1], "g": {"h": 0.5}}
    log.write_bytes(hw.log_bytes(hw.run("abc"), hw.history(odd, 7)))
    curve = ingested(source, root)
    assert curve is not None
    assert curve.steps == (7,)
    assert {key: values[0] for key, values in curve.columns.items() if key != "a"} == {
        "b": float("inf"), "c": 1e300, "d": -5, "g.h": 0.5,
    }  # fmt: skip


def test_a_log_that_is_too_long_is_refused_and_the_run_is_placed(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_VALUES", 2)
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    result = ingest(source, root)
    assert codes(result) == ["too-long"]
    assert len(result.placed) == 2
    assert read_record(root / RUN).history is None
    monkeypatch.undo()
    assert ingested(source, root) == KEPT


def test_a_tree_that_is_the_source_hands_its_curves_on(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    ingest(source, root)
    other = root.with_name("other")
    ingest(root, other)
    assert history.read(other / RUN) == KEPT
    assert [item.code for item in validate(other, ignore=["missing"]).findings] == []


def test_what_validate_advises_brings_a_lost_or_damaged_curve_back(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    ingest(source, root)
    file = root / RUN / history.HISTORY_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + b"damaged!!")
    assert [item.code for item in validate(root, ignore=["missing"]).findings] == ["bad-history"]
    file.rename(source.with_name("damaged"))
    assert [item.code for item in validate(root, ignore=["missing"]).findings] == ["bad-history"]
    ingest(source, root)
    assert file.read_bytes() == whole
    assert validate(root, ignore=["missing"]).findings == ()


def test_a_damaged_curve_is_not_written_over(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abc", curve=CURVE)
    ingest(source, root)
    file = root / RUN / history.HISTORY_FILE
    file.write_bytes(b"damaged")
    assert codes(ingest(source, root)) == ["bad-history"]
    assert file.read_bytes() == b"damaged"
    assert read_record(root / RUN).history is not None
