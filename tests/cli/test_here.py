"""`ckptman` alone, its help and its options before the command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ckptman.cli.ls
import ckptman.cli.train  # noqa: F401  # so that they can be patched
from ckptman.cli import commands
from ckptman.cli.app import app, run
from tests.helpers.raw import config
from tests.helpers.recorded import add_run

Capture = pytest.CaptureFixture[str]


def said(capsys: Capture) -> str:
    assert run([]) == 0
    return capsys.readouterr().out


def test_nothing_here(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = said(capsys)
    assert out.startswith("There is neither a tree of checkpoints nor raw outputs here.")
    assert "ckptman train" in out


def test_a_tree_here_above_and_beside(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(tmp_path / "checkpoints", config())
    monkeypatch.chdir(tmp_path)
    out = said(capsys)
    assert out.startswith("There is a tree in checkpoints: 2 checkpoints of 1 run.")
    assert "  ckptman validate checkpoints" in out
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert said(capsys).startswith("This folder is a tree: 2 checkpoints of 1 run.")
    monkeypatch.chdir(tmp_path / "checkpoints/with_layernorm/dynamic")
    out = said(capsys)
    assert out.startswith("This folder lies in the tree ../..: 2 checkpoints of 1 run.")
    assert re.search(r"^  ckptman validate  #", out, re.MULTILINE)


def test_raw_outputs(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "grid outputs/len_gen_k4/task_1/saved_models/abc"
    raw.mkdir(parents=True)
    (raw / "Final_1.pt").touch()
    monkeypatch.chdir(tmp_path / "grid outputs")
    out = said(capsys)
    assert out.startswith("This folder holds 1 checkpoint file outside of a tree.")
    assert "ckptman ingest . --dry-run" in out
    (tmp_path / "grid outputs").rename(tmp_path / "grid_outputs")
    monkeypatch.chdir(tmp_path)
    assert "ckptman ingest grid_outputs --dry-run" in said(capsys)
    (tmp_path / "grid_outputs/len_gen_k4/task_1/saved_models/abc/Final_1.pt").unlink()  # the control
    assert "neither a tree" in said(capsys)


# --- help -------------------------------------------------------------------------------------------------------------


def helped(name: str, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run([name, "--help"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", commands.COMMANDS)
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_an_example_stands_on_one_line_and_all_else_in_the_width(
    name: str, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = helped(name, width, capsys, monkeypatch)
    commands.register(name)
    callback = next(info.callback for info in app.registered_commands if info.name == name)
    texts = [" ".join(text.split()) for text in (callback.__doc__ or "").split("\n\n")]
    examples = [f"  {text.removeprefix('Example: ')}" for text in texts if text.startswith("Example: ")]
    assert examples
    first = lines.index("Examples:") + 1
    assert lines[first : first + len(examples) + 1] == [*examples, ""]
    assert all(len(line) <= width for line in lines if line not in examples)
    assert all(len(line) <= 80 for line in examples)
    assert max(len(line) for line in lines) > min(width, 100) - 22  # as wide as the terminal


def test_help_is_a_word_too(capsys: Capture) -> None:
    assert run(["help", "ls"]) == run(["ls", "--help"]) == 0
    first, second = capsys.readouterr().out.split("Usage: ")[1:]
    assert first == second
    assert run(["help"]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert run(["help", "lss"]) == 2


@pytest.mark.parametrize(("words", "imported"), [(["--help"], False), (["-V"], False), (["task"], True)])
def test_help_and_version_import_no_rules(words: list[str], imported: bool) -> None:
    code = f"import sys; from ckptman.cli.app import run; run({words}); print('ckptman.rules' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(imported), "it would take longer than Typer and rich themselves"


def test_options_stand_in_groups(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = helped("sweep", 80, capsys, monkeypatch)
    titles = [line[:-1] for line in lines if re.fullmatch(r"\w[\w ]*:", line)]
    assert titles == ["Examples", "Which runs", "Recipe", "Configuration", "On SLURM", "Options"]
    assert lines.index("Recipe:") < next(i for i, line in enumerate(lines) if line.startswith("  --lr "))


# --- options before the command ---------------------------------------------------------------------------------------


def test_the_version_is_told_in_short_too(capsys: Capture) -> None:
    assert run(["-V"]) == run(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_quiet_leaves_the_result_and_the_errors(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(tmp_path / "checkpoints", config())
    monkeypatch.chdir(tmp_path)
    assert run(["ls"]) == 0
    loud = capsys.readouterr()
    assert run(["-q", "ls"]) == 0
    quiet = capsys.readouterr()
    assert quiet.out == loud.out
    assert "2 checkpoints" in loud.err
    assert quiet.err == ""
    assert run(["ls", "-q"]) == 0
    assert capsys.readouterr() == quiet, "it may stand behind the command"
    assert run(["-q", "ls", "--root", "nowhere"]) == 2
    assert "no tree at nowhere" in capsys.readouterr().err


def test_verbose_names_all_that_was_refused(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"Final_{number}.pt" for number in range(14)]
    for name in names:
        Path(name).write_bytes(b"")
    assert run(["show", *names]) == 1
    few = capsys.readouterr().err
    assert few.count("REFUSED") == 12
    assert "… and 2 more empty (--verbose names all, --json too)" in few
    assert run(["show", "-v", *names]) == 1
    assert capsys.readouterr().err.count("REFUSED") == 14
    assert run(["show", *names]) == 1
    assert capsys.readouterr().err == few


def test_a_wrong_value_of_the_environment_is_said_to_come_from_there(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["ingest", "raw", "--mode", "steal"]) == 2
    said = capsys.readouterr().err
    assert "comes from" not in said  # the control
    assert "--mode: 'steal' is none of copy, hardlink, symlink, move" in said
    monkeypatch.setenv("CKPTMAN_MODE", "steal")
    assert run(["ingest", "raw"]) == 2
    assert "comes from the environment variable CKPTMAN_MODE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train --k 4 --task 1 --iters x", "--iters: 'x' is not a whole number"),
        ("train --k 4 --task 1 --lr x", "--lr: 'x' is not a number"),
        ("ls --layers x", "--layers: 'x' is not a whole number from 1 on"),
        ("task x", "ID: 'x' is not a whole number from 0 on"),
        ("ls --format cvs", "--format: 'cvs' is none of table, csv, tsv, md, json, parquet; did you mean 'csv'?"),
    ],
)
def test_what_an_option_does_not_take_is_said_with_what_it_takes(line: str, says: str, capsys: Capture) -> None:
    assert run(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"ERROR {says}\n")


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        (["train", "--task", "3", "--k", "4"], True),
        (["train", "--task", "3", "--k", "4", "--dry-run"], False),
        (["ls"], False),
        (["ls", "--group", "train"], False),
    ],
)
def test_ctrl_c_promises_no_more_than_is_kept(
    command: list[str], goes_on: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ckptman.cli.train.convention_for", interrupt)
    monkeypatch.setattr("ckptman.cli.ls.convention_for", interrupt)
    assert run(command) == 130
    err = capsys.readouterr().err
    assert err.startswith("ERROR interrupted")
    assert ("goes on from where it was" in err) is goes_on
