"""Other commands while an ingest works: none ends in a fault, and the tree is that of the ingest alone."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ckptman.cli.app import run
from ckptman.ingestion.ingesting import ingest
from ckptman.tree import records
from tests.helpers.crowd import crowd, grid, told
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES
from tests.helpers.zygote import Zygote

PROMISE = "report, validate, ls, results and status during an ingest: no fault, and the tree of the ingest alone"
COMMANDS = {"report": {0, 3}, "report --check": {0, 1}, "validate": {0, 1}, "validate --deep": {0, 1},
            "validate --fix": {0, 1, 3}, "ls": {0, 1}, "results": {0, 1}, "status": {0, 1}}  # fmt: skip
"""How each may end: clean, with findings, or, where it writes, since the tree is being written to."""


def during(zygote: Zygote, home: Path, mode: str, seed: int, capture: pytest.CaptureFixture[str]) -> int:
    """Let every command have its say over and over while an ingest works; how often one had."""
    source, root = home / "grid", home / "tree"
    shutil.rmtree(home, ignore_errors=True)
    grid(source)
    ingest(source, home / "one")
    errors: list[str] = []
    at_work = threading.Thread(target=lambda: errors.extend(crowd(zygote, [source], root, mode, "as it is", seed)))
    at_work.start()
    said = 0
    try:
        while at_work.is_alive():
            for command, allowed in COMMANDS.items() if root.is_dir() else ():
                begun = any(root.rglob("*.pt"))
                status = run([*command.split(), "--root", str(root), "--json"])
                out, err = capture.readouterr()
                assert "fault in ckptman" not in err, f"{command}: {err}"
                assert status in allowed or not begun, f"{command}: {status}: {out}{err}"
                if status == 3:
                    assert "another ckptman is writing" in out + err
                elif status not in allowed:
                    assert "no checkpoint is below it" in out + err
                else:
                    json.loads(out)
                said += 1
    finally:
        at_work.join()
    assert errors == []
    return said


def is_as_of_one(home: Path) -> bool:
    documents = ("README.md", "TASK_MAPPING.md", "ckptman.yaml")
    for root in (home / "tree", home / "one"):
        for name in documents:
            (root / name).unlink(missing_ok=True)
    return told(home / "tree") == told(home / "one")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "move"])
def test_no_command_ends_in_a_fault_while_an_ingest_works(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], zygote: Zygote
) -> None:
    with tried(PROMISE) as trial:
        for seed in range(1 + SLICES // 5):
            trial.cases += during(zygote, tmp_path / "home", mode, seed, capsys)
            assert is_as_of_one(tmp_path / "home")
        assert trial.cases


@pytest.mark.slow
def test_a_reader_that_takes_a_record_for_granted_would_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, zygote: Zygote
) -> None:
    real = records.scan_folder

    def scan(*arguments: Any, **options: Any) -> records.ScannedFolder:
        found = real(*arguments, **options)
        assert found.run is None or found.run.record is not None or found.run.files == {}, "a run without a record"
        return found

    monkeypatch.setattr(records, "scan_folder", scan)
    with caught(PROMISE), pytest.raises(AssertionError):
        # On a busy machine a reader may well come too late.
        sum(during(zygote, tmp_path / "home", "copy", seed, capsys) for seed in range(20))
