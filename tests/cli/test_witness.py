"""`ckptman witness`: what is printed where, and the exit status."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ckptman.cli.app import run
from ckptman.training.loop import initial_model
from tests.helpers.short_runs import short_config


def save(file: Path, seed: int, *, broken: bool = False) -> Path:
    model = initial_model(short_config(seed=seed))
    with torch.no_grad():
        model.ln_f.weight.fill_(math.nan if broken else 2)  # type: ignore[operator]  # a layer norm
    torch.save({"model": model.state_dict()}, file)
    return file


def test_each_file_is_printed_with_its_seed_and_its_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a.pt", 3), ("b.pt", 3), ("c.pt", 5)):
        save(tmp_path / name, seed)
    assert run(["witness", str(tmp_path), "--seeds", "0-4"]) == 0
    out, err = capfd.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert [(line[0], line[-2], line[-1][-4:]) for line in lines[1:3]] == [("3", "1", "a.pt"), ("3", "1", "b.pt")]
    assert lines[3][:2] + lines[3][-2:-1] == ["cannot", "tell", "2"]
    assert out.splitlines()[-1].startswith("5 seeds tried")
    assert err == ""


def test_json_holds_nothing_that_cannot_be_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.pt", 5)
    assert run(["witness", str(file), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["schema_version"], document["seeds"], document["refused"]) == (1, 3, [])
    (found,) = document["files"]
    assert found == {"path": str(file), "seed": None, "p_value": None, "cosine": None, "trained": True,
                     "initialization": None, "same_run_as": [], "mixed": [], "problem": None,
                     "tensor": None}  # fmt: skip


def test_broken_weights_and_refused_files_give_exit_status_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["witness", str(save(tmp_path / "a.pt", 5, broken=True))]) == 1
    assert "not-finite: transformer.ln_f.weight" in capfd.readouterr().out
    (tmp_path / "a.pt").write_bytes(b"nothing")
    assert run(["witness", str(tmp_path / "a.pt")]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("REFUSED ")


def test_a_range_that_is_none_is_wrong_usage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["witness", str(save(tmp_path / "a.pt", 5)), "--seeds", "9-1"]) == 2
    assert "--seeds" in capfd.readouterr().err
