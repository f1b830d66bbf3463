"""The program around its commands: streams that are closed, full or cut, and how it ends then."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckptman.cli.app import run
from tests.helpers.raw import config, snapshot
from tests.helpers.recorded import add_run

PROGRAM = f"{sys.executable} -m ckptman"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in range(300):  # more output than a pipe holds before its reader goes
        add_run(tmp_path / "tree", config(seed=seed), run_id=f"run{seed:05d}")
    return tmp_path / "tree"


@pytest.mark.parametrize("more", ["", "--json", "--paths"])
def test_a_reader_that_goes_is_no_error(root: Path, more: str) -> None:
    done = shell(f"{PROGRAM} ls --root {root} {more} | head -1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[-1] == "0", done
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_work_goes_on_where_nobody_hears_of_it(tmp_path: Path) -> None:
    recipe = "--iters 6 --batch-size 8 --set n_embd=8 --eval-samples 2 --warmup-iters 1 --threads 1 --wandb disabled"
    train = f"{PROGRAM} train --k 4 --task 6 {recipe} --out {tmp_path}/raw"
    done = shell(f"{{ {train}; echo $? >&3; }} 3>&1 >{tmp_path}/said 2> >(exec true)")
    assert done.stdout.strip() == "0"
    assert "complete" in (tmp_path / "said").read_text()
    assert list(tmp_path.rglob("Final_*.pt"))


def test_an_error_keeps_its_status_in_a_pipe(root: Path) -> None:
    done = shell(f"{PROGRAM} ls --root {root}/nowhere | head -1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[-1] == "2"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(root: Path, closed: str) -> None:
    done = shell(f"{PROGRAM} ls --root {root} {closed}")
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr


def test_a_full_disk_under_the_output_is_no_bug() -> None:
    done = shell(f"{PROGRAM} task > /dev/full")
    assert done.returncode == 3
    assert done.stderr.startswith("ERROR the output cannot be written: No space left on device")
    assert shell(f"{PROGRAM} task > /dev/null").returncode == 0


@pytest.mark.parametrize(
    ("command", "status"), [("task > /dev/full", 3), ("ingest nowhere --root t", 2), ("nothing", 2), ("task", 0)]
)
def test_an_error_that_cannot_be_printed_ends_with_its_own_status(command: str, status: int) -> None:
    assert shell(f"{PROGRAM} {command} 2> /dev/full").returncode == status


def test_an_empty_root_is_not_the_current_folder(root: Path) -> None:
    done = shell(f"cd {root} && {PROGRAM} ls --root ''")
    assert done.returncode == 2
    assert "--root is empty" in done.stderr
    assert shell(f"cd {root} && {PROGRAM} ls --root .").returncode == 0


@pytest.mark.parametrize("command", [
    "show", "eval --no-record", "eval --no-record Final.pt", "witness", "learn", "doctor", "status",
    "export x.pt --to plain --out", "export --to plain --out=x", "report --project", "report --html-file",
    "plot lengths -o", "learn . --write", "assign --run abcd1234",
])  # fmt: skip
def test_no_empty_path_is_the_current_folder(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(tmp_path, config())
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    assert run([*command.split(), ""]) == 2
    assert re.search(r"ERROR [A-Z-][^ ]* is empty\n", capsys.readouterr().err)
    assert snapshot(tmp_path) == before
    assert run(["status", "."]) == 0, "the control"


def test_a_zero_byte_in_the_settings_is_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for root, said in (("a\\0b", "--root holds a zero byte"), ("ab", "there is no tree at")):
        (tmp_path / "ckptman.yaml").write_text(f'settings: {{root: "{root}"}}\n')
        assert run(["ls"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("is_there", [True, False])
def test_a_shell_whose_folder_is_gone_is_no_bug(is_there: bool, tmp_path: Path) -> None:
    gone = "" if is_there else f"rmdir {tmp_path}/here;"
    done = shell(f"mkdir {tmp_path}/here; cd {tmp_path}/here; {gone} {PROGRAM} task 6 --k 8")
    assert done.returncode == (0 if is_there else 3)
    assert ("is not there any more" in done.stderr) is not is_there
    assert "fault in ckptman" not in done.stderr


def test_an_option_of_the_program_is_told_where_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ingest", "x", "--convention", "lab-later"]) == 2
    assert "It stands before the command: ckptman --convention NAME ingest …" in capsys.readouterr().err
    assert run(["ingest", "x", "--conventions", "lab-later"]) == 2
    assert "See: ckptman ingest --help" in capsys.readouterr().err, "the control"
