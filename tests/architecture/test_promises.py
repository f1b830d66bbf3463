"""The table that `make faults` prints: what was tried, what broke a promise, and whether its controls were caught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import promises


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CKPTMAN_FAULTS_TABLE", str(tmp_path / "notes"))
    return tmp_path / "notes"


def test_what_is_tried_and_caught_is_summed(notes: Path) -> None:
    for _ in range(2):
        with promises.tried("kept", 600), promises.caught("kept"):
            pass
    sums, _ = promises.sums_of(notes)
    assert sums["kept"].is_kept
    assert promises.table(sums).splitlines()[1].split() == ["kept", "1,200", "0", "yes"]


def test_a_violation_a_control_that_is_missed_and_none_at_all_are_told(notes: Path) -> None:
    with pytest.raises(AssertionError), promises.tried("broken", 5), promises.caught("broken"):
        raise AssertionError
    with promises.tried("without a control", 5):
        pass
    sums, _ = promises.sums_of(notes)
    assert (sums["broken"].violations, sums["broken"].control) == (1, "NO")
    assert not any(of.is_kept for of in sums.values())


def test_the_table_is_put_into_a_document(notes: Path, tmp_path: Path) -> None:
    with promises.tried("kept", 3), promises.caught("kept"):
        pass
    with notes.open("a") as file:
        file.write(json.dumps({"took": "1.0 minutes"}) + "\n")
    document = tmp_path / "security.md"
    security = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    document.write_text(security)
    promises.write(notes, document)
    written = document.read_text()
    assert "| kept | 3 | 0 | yes |\n\nAll of it took 1.0 minutes.\n" in written
    before, after = security.split(promises.BEGIN)[0], security.split(promises.END)[1]
    assert (written.split(promises.BEGIN)[0], written.split(promises.END)[1]) == (before, after)
