"""`ckptman learn`: what it prints and writes, and the guide that begins with it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from ckptman.rules import convention_file
from tests.helpers.learnable import EXPERIMENTS, make

GUIDE = Path(__file__).parents[2] / "docs" / "your_own_experiment.md"


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "outputs", EXPERIMENTS["nano"], "inside")
    return tmp_path / "outputs"


def test_the_proposal_goes_to_stdout_and_the_report_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["learn", "outputs"]) == 0
    out, err = capsys.readouterr()
    assert convention_file.convention_of(out, "stdout").schemes
    assert re.search(r"100\.0 % +of the names", err)
    assert not list(Path().glob("*.yaml"))


def test_the_steps_of_the_guide_lead_to_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    text = GUIDE.read_text()
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for command in commands:
        if command.startswith("ckptman "):
            assert run(command.split()[1:]) == 0, command
        else:
            _, name, folder = command.split()
            Path(name).rename(Path(folder) / name)
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    printed = capsys.readouterr().out
    for line in shown[1].splitlines()[1:]:
        assert line in printed
    assert len(list(Path("checkpoints").rglob("*.pt"))) == 8
    assert run(["ls", "checkpoints"]) == 0
    assert run(["report", "--html", "checkpoints"]) == 0
    assert run(["validate", "checkpoints"]) in (0, 1)


def test_a_file_that_is_there_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ckptman.yaml").write_text("title: mine\n")
    assert run(["learn", "outputs", "--write", "ckptman.yaml"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("ckptman.yaml").read_text() == "title: mine\n"


def test_a_name_like_no_other_is_reported_and_not_forced(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (outputs / "ckpt_lr0.001_bs32_step500.pt").rename(outputs / "new model (old copy).pt")
    assert run(["learn", "outputs", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["parsed"]) == (8, 7)
    assert [misfit["files"] for misfit in found["misfits"]] == [["new model (old copy).pt"]]


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["learn", "empty"]) == 2
    assert "no checkpoint was found" in capsys.readouterr().err


def test_a_folder_without_checkpoints_is_told_of_the_same_way_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run(["learn", "empty"]) == 2
    told = capsys.readouterr().err
    suffixes = re.findall(r"\.[a-z0-9.]+[a-z0-9]", told.partition("end in")[2])
    assert len(suffixes) > 5
    assert suffixes == sorted(suffixes, key=lambda suffix: (-len(suffix), suffix))


def test_the_ending_is_that_of_files_that_can_be_read(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        with zipfile.ZipFile(outputs / f"model.{number:02d}.keras", "w") as archive:
            archive.writestr("metadata.json", "{}")
    assert run(["learn", "outputs"]) == 0
    out, err = capsys.readouterr()
    assert convention_file.convention_of(out, "stdout").checkpoint.suffix == ".pt"
    assert "20 files with another suffix passed over" in err


def test_checkpoints_called_tar_are_read(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in list(outputs.rglob("*.pt")):
        file.rename(file.with_suffix(".tar"))
    assert run(["learn", "outputs"]) == 0
    assert convention_file.convention_of(capsys.readouterr().out, "stdout").checkpoint.suffix == ".tar"
