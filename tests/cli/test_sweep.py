"""`ckptman sweep`: the plan, the options, what is said on the way and at the end, and the exit status."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

import ckptman.cli.train  # noqa: F401  # registers the command
from ckptman.cli.app import app, run
from ckptman.cli.sweep import SweepTable, duration_text
from ckptman.rules.selection import Selection
from ckptman.sweeps.executors.job import JobOutcome
from ckptman.sweeps.executors.local import JobUpdate
from ckptman.sweeps.executors.slurm import SlurmOptions
from ckptman.sweeps.sweeping import submit_sweep, time_kinds
from ckptman.training.progress import Progress
from ckptman.training.stopping import Stop
from tests.helpers.sweeps import HOW, ONE, QUICKLY, RECIPE, fake_slurm, plan

PART = ["--k", "4", "--task", "3", "--regime", "fixed", "--layernorm", "on"]
ENDLESS = ["--iters", "100000", *QUICKLY[2:]]
COMMAND = [sys.executable, "-c", "import sys, ckptman.cli.sweep\nfrom ckptman.cli.app import run\nsys.exit(run(sys.argv[1:]))"]  # noqa: E501  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert run(["sweep", *arguments, "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_plan_of_the_labs_grid(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--k",
        "4-16:2",
        "--task",
        "all",
        "--seed",
        "all",
        "--regime",
        "dynamic,fixed",
        "--layernorm",
        "on,off",
    ]
    assert run(["sweep", *arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "504 runs: 504 new"
    assert out[1] == "40,000 iterations of 4,096 samples, learning rate 0.0001 to 1e-06"
    assert out[2].startswith("estimated time: unknown")
    assert out[-1] == "  … and 492 more (--verbose names all, --json too)"
    assert list(here.iterdir()) == [], "nothing is written"
    assert run(["sweep", *arguments, "--dry-run", "--verbose"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 + 1 + 504
    found = document(capsys, *arguments, "--dry-run")
    assert len(found["runs"]) == found["counts"]["new"] == 504
    assert found["estimated_seconds"] is None


def test_the_options_of_train_reach_the_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *PART, *QUICKLY, "--seed", "5", "--out", "elsewhere", "--dry-run")
    (item,) = found["runs"]
    assert (item["seed"], item["max_iters"], found["out"]) == (5, 12, "elsewhere")
    assert item["folder"] == "elsewhere/len_gen_single_k4/task_0003/seed_5"
    assert document(capsys, *PART, "--quick", "--dry-run")["runs"][0]["max_iters"] == 1_000


def test_every_option_of_train_is_one_of_sweep() -> None:
    table: Any = typer.main.get_command(app)
    flags = {name: {o for p in table.commands[name].params for o in p.opts} for name in ("train", "sweep")}
    assert flags["train"] - flags["sweep"] == {"--resume"}, "a sweep always resumes"


@pytest.mark.parametrize(
    "arguments",
    [["--k", "x"], ["--k", "200"], ["--task", "9"], ["--wandb", "maybe"], ["--set", "n_layers=2"], ["--set", "what=2"],
     ["--set", "seed=5"], ["--set", "wandb_group=mine"], ["--set", "save_dir=x"],
     ["--time", "soon"], ["--slurm", "=1"], ["--executor", "cloud"], ["-j", "0"], ["--iters", "0"],
     ["--regime", "other"]],
)  # fmt: skip
def test_wrong_usage_is_refused_before_anything_is_trained(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(["sweep", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ERROR ")
    assert captured.out == ""
    assert list(here.iterdir()) == []


def test_slurm_without_slurm(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(["sweep", *PART, *QUICKLY, "--executor", "slurm"]) == 3
    assert "there is no sbatch" in capsys.readouterr().err


def test_slurms_options(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fake_slurm(here, monkeypatch)
    options = ["--executor", "slurm", "--partition", "gpu", "--time", "1:30:00", "--gpus", "1", "--mem", "8G",
               "--array-parallelism", "2", "--slurm", "account=lab", "--slurm", "exclusive"]  # fmt: skip
    found = document(capsys, *PART, *QUICKLY, "--seed", "1,2", *options)
    assert found["counts"] == {"submitted": 2}
    assert [item["job"] for item in found["runs"]] == ["7_0", "7_1"]
    (script,) = kept.iterdir()
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=1", "--mem=8G", "--array=0-1%2", "--account=lab",
                 "--exclusive"):  # fmt: skip
        assert f"#SBATCH {line}" in script.read_text().splitlines()


def test_it_says_that_metrics_go_to_files(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    fake_slurm(here, monkeypatch)
    by_default = [*PART, *QUICKLY, "--wandb", "auto", "--executor", "slurm"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert run(["sweep", *by_default, "--seed", "1"]) == 0
    assert "metrics are logged to files" not in " ".join(capsys.readouterr().err.split())
    assert run(["sweep", *by_default, "--seed", "2"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "127.0.0.1 cannot be reached within 5 s: metrics are logged to files" in said
    assert submit_sweep(plan(here / "other", dataclasses.replace(ONE, seeds=(3,))), SlurmOptions()).notes


# --- asking -----------------------------------------------------------------------------------------------------------


def typed(answer: bytes, *arguments: str, cwd: Path) -> tuple[int, str]:
    """The exit status and the text of a sweep on a terminal, where this is typed once it asks."""
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sweep", *arguments], stdin=terminal, stdout=terminal, stderr=terminal, cwd=cwd,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
    )  # fmt: skip
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(control, 1 << 16)
        except OSError:
            break
        text += part
        if b"[y/N]" in part:
            os.write(control, answer)
    os.close(control)
    return process.wait(), text.decode()


def test_many_runs_need_a_yes(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fake_slurm(here, monkeypatch)
    many = ["--k", "4", "--regime", "fixed", "--layernorm", "on", *QUICKLY, "--executor", "slurm"]
    assert run(["sweep", *many, "--seed", "1-6"]) == 2
    assert "nothing is trained: these are 24 runs, more than 20" in capsys.readouterr().err
    assert list(kept.iterdir()) == []
    assert run(["sweep", *many, "--seed", "1-5"]) == 0
    assert run(["sweep", *many, "--seed", "1-6", "--yes"]) == 0
    assert "24 runs: 24 submitted" in capsys.readouterr().out


def test_a_seed_off_the_grid_is_asked_about(here: Path) -> None:
    asked = [*PART, *QUICKLY, "--seed", "1338"]
    status, text = typed(b"n\n", *asked, cwd=here)
    assert status == 1
    assert "nothing is trained" in text
    assert "goes on from where it was" not in text
    assert "seed 1338 is not on the grid, which has 1337, 2337, 3337" in text
    assert list(here.rglob("*.pt")) == []
    status, text = typed(b"y\n", *asked, cwd=here)
    assert status == 0
    assert list(here.rglob("Final_*.pt"))
    status, text = typed(b"n\n", *PART, *QUICKLY, "--seed", "1337", cwd=here)  # the control
    assert status == 0
    assert "[y/N]" not in text


def test_the_tree_need_not_exist_yet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", *PART, *QUICKLY, "--root", "tree", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("3 runs: 3 new\n")
    assert "there is no tree at tree" in said.err
    (here / "tree").mkdir()
    assert run(["sweep", *PART, *QUICKLY, "--root", "tree", "--dry-run"]) == 0
    assert "there is no tree" not in capsys.readouterr().err
    (here / "file").touch()
    assert run(["sweep", *PART, *QUICKLY, "--root", "file", "--dry-run"]) == 2


def test_refused_runs_stand_first_in_a_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = plan(here / "grid_outputs").runs[2].raw.folder
    bad.parent.mkdir(parents=True)
    assert run(["sweep", *PART, *QUICKLY, "--seed", "3337"]) == 0
    capsys.readouterr()
    assert run(["sweep", *PART, *QUICKLY, "--iters", "13", "--dry-run"]) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " seed " in line]
    assert [row[4:6] for row in rows] == [["3337", "refused:"], ["1337", "new"], ["2337", "new"]]
    assert run(["sweep", *PART, *QUICKLY, "--iters", "13", "--seed", "3337"]) == 1
    said = capsys.readouterr().err
    assert "Train into another folder with --out" in said
    assert "the same command trains" not in said, "it would refuse it again"


def test_a_kind_that_was_never_trained_here_is_timed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(here / "grid_outputs")
    assert found.run_seconds is None
    timed = time_kinds(found, processes=1, how=HOW)
    assert (timed.timed_kinds, timed.measured_runs) == (1, 0)
    assert all(run.seconds is not None and run.seconds > 0 for run in timed.wanted)
    assert list(here.iterdir()) == [], "nothing is written"
    slower = time_kinds(plan(here / "grid_outputs", recipe={**RECIPE, "max_iters": 12_000}), processes=1, how=HOW)
    assert (slower.run_seconds or 0) > 100 * (timed.run_seconds or 0)


# --- on the way -------------------------------------------------------------------------------------------------------


def outcome(state: str, **more: Any) -> JobUpdate:
    return JobUpdate(index=0, state=state, outcome=JobOutcome(state=state, **more))


def progress(iters: int) -> JobUpdate:
    said = Progress(iters_done=iters, loss=1.5, gen_em=0.25, iterations_per_second=2.0)
    return JobUpdate(index=0, state="training", progress=said)


def rendered(table: SweepTable, width: int = 120) -> list[str]:
    console = Console(width=width, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(table.render())
    console.file.close()
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_table_has_a_row_a_run(tmp_path: Path) -> None:
    found = plan(tmp_path)
    stop = Stop()
    table = SweepTable(found, stop)
    one, two, three = found.runs
    table.update(one, progress(6))
    table.update(two, outcome("failed", reason="no", iters_done=3))
    out = rendered(table)
    assert out[1].split() == [
        *one.raw.label.replace("task ", "").replace("seed ", "").split(),
        "training",
        "6/12",
        "2.0",
        "3",
        "s",
        "1.5000",
        "25.0",
        "%",
    ]
    assert out[2].split()[3:5] == ["failed", "3/12"]
    assert out[3].split() == [
        *three.raw.label.replace("task ", "").replace("seed ", "").split(),
        "waiting",
        "0/12",
        "–",
        "–",
        "–",
        "–",
    ]
    assert out[4].startswith("1 of 3 runs, 1 failed; ")
    assert len(out) == 5
    stop.request()
    assert rendered(table)[5].startswith("ending: every run saves its state")


def test_the_table_shows_what_matters_where_not_all_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(tmp_path)
    monkeypatch.setenv("LINES", "8")
    table = SweepTable(found, Stop())
    table.update(found.runs[0], outcome("complete", iters_done=12))
    assert len(rendered(table)) == 1 + 3 + 1, "all three fit"
    found = plan(tmp_path, Selection(k=(4,), facets={"regime": ("fixed",), "layernorm": (True,)}))
    table = SweepTable(found, Stop())
    table.update(found.runs[0], outcome("complete", iters_done=12))
    table.update(found.runs[11], progress(3))
    table.update(found.runs[10], outcome("failed"))
    out = rendered(table)
    assert [line.split()[3] for line in out[1:4]] == ["training", "failed", "waiting"]
    assert out[4] == "… and 9 more"


def test_an_interrupted_run_is_not_counted_as_done(tmp_path: Path) -> None:
    found = plan(tmp_path)
    table = SweepTable(found, Stop())
    for run_, state in zip(found.runs, ("complete", "interrupted", "failed"), strict=True):
        table.update(run_, outcome(state, iters_done=3))
    assert rendered(table)[-1].startswith("2 of 3 runs, 1 failed, 1 interrupted; ")


def test_how_long_is_left_is_told_by_iterations_and_not_by_how_long_the_first_run_took_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr("ckptman.cli.sweep.time.monotonic", lambda: clock)
    found = plan(tmp_path)  # three runs of 12 iterations
    table = SweepTable(found, Stop())
    clock = 700.0  # ten minutes until the first iteration
    table.update(found.runs[0], progress(1))
    assert rendered(table)[-1] == "0 of 3 runs; 10 min", "one iteration tells nothing yet"
    clock = 720.0
    table.update(found.runs[0], progress(6))
    assert rendered(table)[-1] == "0 of 3 runs; 10 min, about 2 min left"  # 5 in 20 s; 30 to go


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (600, "10 min"), (7_200, "2.0 h"), (900_000, "10.4 days")]
)
def test_a_duration(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# --- to the end -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_from_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*PART, *QUICKLY, "-j", "2"]
    assert run(["sweep", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == "3 runs: 3 complete\n"
    assert captured.err.splitlines()[0] == "3 runs: 3 new"
    assert "[3/3] len_gen_single_k4 task 3 seed" in captured.err
    assert len(list(here.rglob("Final_*.pt"))) == 3
    assert run(["sweep", *arguments]) == 0
    assert capsys.readouterr().out == "3 runs: 3 complete\n"
    found = document(capsys, *arguments)
    assert found["counts"] == {"complete": 3}
    assert [item["action"] for item in found["runs"]] == ["complete"] * 3
    assert document(capsys, *arguments, "--seed", "9", "--dry-run")["estimated_seconds"] > 0, "three were measured"


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_exit_status_is_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = plan(here / "grid_outputs").runs[1].raw.folder
    bad.parent.mkdir(parents=True)
    bad.write_text("a file is in the way")
    assert run(["sweep", *PART, *QUICKLY]) == 1
    said = capsys.readouterr()
    out = said.out.splitlines()
    assert out[0] == "3 runs: 2 complete, 1 failed"
    assert "the same command trains it again" in said.err
    assert out[1].startswith("failed len_gen_single_k4 task 3 seed 2337: ")
    log = Path(out[2].removeprefix("  log: "))
    assert log.is_file()
    assert len(out) == 3
    bad.unlink()
    shutil.rmtree(here / "grid_outputs" / ".sweeps")
    assert run(["sweep", *PART, *QUICKLY]) == 0


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves_all_and_exits_with_130(here: Path) -> None:
    """With a real terminal: the live table is drawn, and Ctrl-C goes to every process of the foreground."""
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sweep", *PART, *ENDLESS, "-j", "2"],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, cwd=here, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    os.close(terminal)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    drawn = b""
    end = time.monotonic() + 90
    sent = False
    while process.poll() is None:
        assert time.monotonic() < end, drawn.decode(errors="replace")
        if poll.poll(100):
            try:
                drawn += os.read(control, 1 << 16)
            except OSError:
                break
        if not sent and b"training" in drawn and len({path.parent for path in here.rglob("*.pt")}) == 2:
            os.killpg(process.pid, signal.SIGINT)
            sent = True
    out = process.communicate()[0].decode()
    os.close(control)
    assert process.returncode == 130
    assert out == "3 runs: 2 interrupted, 1 not started\n"
    text = drawn.decode()
    assert "training" in text
    assert "it/s" in text
    assert "ending: every run saves its state" in text
    assert len(list(here.rglob("resume.state"))) == 2


@pytest.mark.slow
def test_help_and_plans_need_no_torch(here: Path) -> None:
    code = (
        "import sys, ckptman.cli.sweep, ckptman.cli.status\nfrom ckptman.cli.app import run\n"
        "status = run(sys.argv[1:])\nheavy = {'torch', 'wandb', 'numpy', 'submitit'} & set(sys.modules)\n"
        "sys.stderr.write(f'HEAVY {sorted(heavy)} {status}')\n"
    )
    for arguments in (["sweep", "--help"], ["sweep", *PART, "--dry-run"], ["status", "--help"], ["status", *PART]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.endswith("HEAVY [] 0"), arguments
