"""Each naming scheme of the lab, and some of others: from `learn` through every verb, by the commands alone."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from tests.helpers.learnable import EXPERIMENTS, make
from tests.helpers.slices import few

MISSING = {"missing-seed", "missing-task", "missing-group", "missing-family", "missing-checkpoint"}
"""Not every cell of a grid was run."""
TRUE = {"inside": MISSING, "beside": MISSING, "nowhere": {*MISSING, "unknown-seed"}}
"""What may be found: where nothing says a seed, none is known."""
OF_THE_LAB = {
    "standard": {"wrong-shapes"},  # its configurations are the built-in model's, the weights here are not
    "later": {"wrong-shapes", "test-overlaps-train", "repeated-run"},  # a list is no axis: runs of several share a cell
}


@pytest.mark.parametrize(("name", "where"), few(list(product(EXPERIMENTS, TRUE))))
def test_what_is_learnt_goes_through_every_verb(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path / "raw", EXPERIMENTS[name], where)

    def answer(*arguments: str, status: tuple[int, ...] = (0,)) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) in status, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    assert run(["learn", "raw", "--write", "ckptman.yaml"]) in (0, 1)
    placed = answer("ingest", "raw")["placed"]
    assert sorted(item["source"] for item in placed) == sorted(made)
    assert answer("ingest", "raw")["placed"] == [], "it is all there"
    found = {item["code"] for item in answer("validate", status=(0, 1))["findings"]}
    assert found <= TRUE[where] | OF_THE_LAB.get(name, set())
    assert run(["report"]) == 0
    assert run(["report", "--check"]) == 0
    listed = answer("ls")["checkpoints"]
    assert {PurePosixPath(item["path"]).name for item in listed} == {PurePosixPath(path).name for path in made}
    runs = {PurePosixPath(item["path"]).parent for item in listed}
    results = answer("results")["results"]
    assert sum(row["n"] + row["unmeasured"] for row in results) == len(runs)
    capsys.readouterr()
    status = run(["status", "--root", "checkpoints", "--json"])
    told = capsys.readouterr()
    assert status == 0 or (status == 2 and "describes no grid" in told.err)
    if status == 0:
        assert json.loads(told.out)["counts"]["complete"] + json.loads(told.out)["counts"]["partial"] > 0
