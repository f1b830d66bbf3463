"""`ckptman doctor` and `ckptman config`: what works here, and which settings are in force."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ckptman.cli.app import run
from ckptman.fs import placing, probing
from ckptman.sweeps import doctor

Capture = pytest.CaptureFixture[str]
WANDB = [name for name in os.environ if name.startswith("WANDB_")]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WANDB, "CKPTMAN_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ckptman.training.wandb.has_key", lambda: False)


def examined(folder: Path) -> dict[str, doctor.Diagnosis]:
    return {item.what: item for item in doctor.examine(folder)}


def test_this_machine_works_and_nothing_is_left_behind(tmp_path: Path, capsys: Capture) -> None:
    assert run(["doctor", str(tmp_path / "not there yet"), "--json"]) == 0
    checks = {item["what"]: item for item in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["Python"]["state"] == checks["torch"]["state"] == checks["disk"]["state"] == "good"
    assert str(tmp_path) in checks["disk"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "words"), [("file", "is not a folder"), ("link", "leads nowhere")])
def test_what_can_be_no_folder_is_bad(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    found = examined(tmp_path / name)["disk"]
    assert (found.state, words in found.found) == ("bad", True)
    assert examined(tmp_path / "folder")["disk"].state == "good"


def test_what_is_not_there_is_said_with_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch" not in examined(tmp_path)["torch"].follows
    find = importlib.util.find_spec
    missing = ("torch", "matplotlib", "wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    monkeypatch.setenv("PATH", "/nowhere")
    found = examined(tmp_path)
    assert [found[name].state for name in ("torch", "figures", "W&B", "SLURM")] == ["limited"] * 4
    assert "eval" in found["torch"].follows
    assert "plots" in found["figures"].follows
    assert "GPU" not in found


def test_a_wrong_setting_of_wandb_is_bad(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "bogus")
    assert run(["doctor", str(tmp_path)]) == 1
    assert "BAD" in capsys.readouterr().out


def test_a_file_system_is_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probing.probe(tmp_path)
    assert (found.hard_links, found.locks, found.tells_case_apart) == (True, True, True)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as where a lock does nothing
    monkeypatch.setattr(placing, "reflink", lambda *_: True)
    other = probing.probe(tmp_path)
    assert (other.hard_links, other.locks, other.reflinks) == (False, False, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    assert examined(tmp_path)["disk"].state == doctor.BAD
    assert "hard links" not in examined(tmp_path)


# --- config -----------------------------------------------------------------------------------------------------------


def test_the_outputs_that_the_settings_name_are_not_where_figures_and_copies_go(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptman.yaml").write_text("settings: {out: outputs}\n")
    assert run(["export", "file.pt", "--to", "safetensors"]) == 2
    assert "Missing option '--out'" in capsys.readouterr().err
    assert run(["plot", "curves"]) == 2
    assert "there is no tree" in capsys.readouterr().err
    assert run(["status"]) == 2
    assert "there are no raw outputs at outputs" in capsys.readouterr().err, "the control"


def settings(capsys: Capture) -> dict[str, tuple[str, str]]:
    assert run(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    return {row["setting"]: (row["value"], row["source"]) for row in rows}


def test_each_setting_says_where_it_is_from(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(capsys)["mode"] == ("copy", "the default")
    (tmp_path / "ckptman.yaml").write_text("settings: {mode: hardlink, verbose: true}\n")
    assert settings(capsys)["mode"] == ("hardlink", "ckptman.yaml, settings")
    assert settings(capsys)["verbose"] == ("true", "ckptman.yaml, settings")
    monkeypatch.setenv("CKPTMAN_MODE", "symlink")
    assert settings(capsys)["mode"] == ("symlink", "the environment, CKPTMAN_MODE")
    assert run(["config"]) == 0
    out = capsys.readouterr().out
    assert f"rules: {tmp_path / 'ckptman.yaml'}" in out
    assert "CKPTMAN_MODE" in out


def test_a_wrong_setting_is_found_by_every_command(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptman.yaml").write_text("settings: {mode: steal}\n")
    for command in (["task"], ["config"], []):
        assert run(command) == 2
        assert "settings: mode: 'steal' is none of copy, " in capsys.readouterr().err
    (tmp_path / "ckptman.yaml").write_text("settings: {mode: move}\n")
    assert run(["task"]) == 0
