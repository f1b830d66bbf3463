"""`ckptman train`: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ckptman.cli.app import run
from ckptman.training import runs, wandb
from ckptman.training.planning import QUICK
from ckptman.training.wandb import WandbMode

SHORT = ["--iters", "6", "--batch-size", "8", "--set", "n_embd=8", "--eval-samples", "2", "--warmup-iters", "1"]
TASK = ["train", "--k", "4", "--task", "3", "--fixed", "--device", "cpu", "--threads", "1", "--wandb", "disabled"]


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TASK, *SHORT, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "6 iterations of 8 samples" in printed.err
    assert f"outputs go to {tmp_path}\n" in printed.err  # told first
    assert "  len_gen_single_k4/task_0003/seed_1337\n" in printed.err
    head, row, where = printed.out.splitlines()
    assert head.split() == ["Exact", "match", "K", "4", "K", "17–32"]
    assert row.startswith("len_gen_single_k4 task 3 seed 1337  complete ")
    assert row.count("%") == 2
    assert where.endswith("checkpoint in " + str(tmp_path / "len_gen_single_k4/task_0003/seed_1337/saved_models"))
    assert run([*TASK, *SHORT, "--out", str(tmp_path)]) == 0
    assert "complete already" in capsys.readouterr().out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TASK, *SHORT, "--out", str(tmp_path), "--seed", "1", "--seed", "2", "--eval-every", "0", "--json"]
    assert run(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(item["seed"], item["gen_em"], item["state"]) for item in document["runs"]] == [
        (1, None, "complete"),
        (2, None, "complete"),
    ]


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TASK, "--out", str(tmp_path / "out"), "--quick", "--dry-run", "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["runs"]
    assert (item["action"], item["max_iters"]) == ("new", QUICK["max_iters"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "4"], "3 = L1 MLP off"),
        (["--k", "129"], "128 numbers"),
        (["--wandb", "sometimes"], "is no mode"),
        (["--set", "n_layer=3"], "n_layers"),
        (["--set", "seed=5"], "seed cannot be set"),
        (["--set", "wandb_group=mine"], "wandb_group cannot be set"),
        (["--set", "use_compile=true"], "--compile decides it"),
        (["--set", "wandb_mode=online"], "--wandb decides it"),
        (["--precision", "half"], "auto, fp32, bf16"),
        (["--set", "amp_dtype=torch.float16"], "torch.bfloat16"),
        (["--lr", "-1"], "learning_rate"),
        (["--set", "learning_rate=abc"], "learning_rate must be a finite number, not 'abc'"),
        (["--lr", "nan"], "learning_rate must be a finite number, not nan"),
        (["--weight-decay", "inf"], "weight_decay must be a finite number"),
        (["--seed", str(2**63)], "seed must be below"),
        (["--device", "meta"], "'meta' is not a device"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str, more: list[str]
) -> None:
    assert run([*TASK, *SHORT, *arguments, *more, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("out", "words"), [("file", "is not a folder"), ("file/x", "is not a folder"),
                                           ("link", "leads nowhere"), ("", "--out is empty")])  # fmt: skip
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_outputs_that_cannot_go_there_are_refused_in_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, out: str,
    words: str, more: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    asked = [command, "--k", "4", "--task", "3", "--wandb", "disabled", *SHORT]
    assert run([*asked, *more, "--out", out]) == 2
    assert words in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
    assert run([*asked, "--dry-run", "--out", "folder"]) == 0


def test_a_wrong_wandb_mode_in_the_environment_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TASK, *SHORT, "--wandb", "auto", "--out", str(tmp_path / "out"), "--dry-run"]
    for said, status in (("bogus", 2), ("dryrun", 0)):
        monkeypatch.setenv("WANDB_MODE", said)
        assert run(command) == status
        assert ("WANDB_MODE=bogus" in capsys.readouterr().err) is bool(status)


def test_auto_without_a_connection_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (wandb, runs):  # both, so that neither keeps it for the tests after this one
        monkeypatch.setattr(
            module, "settle", lambda mode: (WandbMode.DISABLED, "nobody answers" if mode == "auto" else "")
        )
    for mode in ("auto", "disabled"):
        assert run([*TASK, *SHORT, "--wandb", mode, "--out", str(tmp_path / mode)]) == 0
        assert ("WARNING nobody answers" in capsys.readouterr().err) is (mode == "auto")


def asked_of_the_server(out: Path, prepared: str = "pass") -> int:
    """How many connections W&B's server gets from a training that logs to files, until its process has ended."""
    program = f"import sys; from ckptman.cli.app import run; {prepared}; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *TASK[:-1], "offline", *SHORT, "--out", str(out)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = subprocess.Popen(command, env=os.environ | {"WANDB_BASE_URL": address, "HOME": str(out)})
        listening.settimeout(0.1)
        asked = 0
        while process.poll() is None:
            with suppress(TimeoutError):
                listening.accept()[0].close()
                asked += 1
    assert process.returncode == 0
    return asked


@pytest.mark.slow
def test_a_training_that_logs_to_files_asks_nobody(tmp_path: Path) -> None:
    if not asked_of_the_server(tmp_path / "control", "from ckptman.training import wandb; wandb.keep_offline = int"):
        pytest.skip("this wandb sends nothing of itself")
    assert asked_of_the_server(tmp_path / "out") == 0


def test_a_complete_run_whose_checkpoints_were_moved_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TASK, *SHORT, "--out", str(tmp_path)]) == 0
    assert run([*TASK, *SHORT, "--out", str(tmp_path)]) == 0
    assert "no longer there" not in capsys.readouterr().out
    assert run(["ingest", str(tmp_path), "--root", str(tmp_path / "tree"), "--mode", "move"]) == 0
    for more in ([], ["--dry-run"]):
        assert run([*TASK, *SHORT, "--out", str(tmp_path), *more]) == 0
        assert "complete already: its final checkpoint is no longer there" in capsys.readouterr().out


def test_another_run_in_the_folder_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TASK, *SHORT, "--out", str(tmp_path)]) == 0
    assert run([*TASK, *SHORT, "--iters", "7", "--out", str(tmp_path)]) == 1
    assert "max_iters" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_exits_130_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    command = [*TASK, *SHORT, "--iters", "1500", "--eval-every", "0", "--out", str(tmp_path), "--json"]
    code = "import sys; from ckptman.cli.app import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    status = tmp_path / "len_gen_single_k4/task_0003/seed_1337/status.json"
    while not status.exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (item,) = json.loads(out)["runs"]
    assert item["state"] == "interrupted"
    assert run(command) == 0
    (again,) = json.loads(capsys.readouterr().out)["runs"]
    assert (again["state"], again["resumed_from"], again["run_id"]) == ("complete", item["iters_done"], item["run_id"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_torch_is_imported_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch": os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Finder())
from ckptman.cli.app import run
sys.exit(run(sys.argv[1:]))"""
    command = [sys.executable, "-c", code, *TASK, *SHORT, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done
    assert "not started" in done.stdout
    assert not list(tmp_path.rglob("*.pt"))


def test_one_of_a_kind_has_no_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, told in (("1", "1 iteration of 1 sample,"), ("2", "2 iterations of 2 samples,")):
        assert run([*TASK, "--iters", number, "--batch-size", number, "--out", str(tmp_path), "--dry-run"]) == 0
        assert told in capsys.readouterr().out


def test_the_precision_stands_in_the_plan_and_another_than_the_runs_own_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TASK, *SHORT, "--out", str(tmp_path)]
    assert run([*command, "--precision", "bf16"]) == 0
    assert "0.0001 to 1e-06, bf16" in capsys.readouterr().err
    assert run([*command, "--precision", "fp32"]) == 1
    assert "differs in amp_dtype" in capsys.readouterr().err
    assert run(command) == 0  # whatever it has
    assert "complete already" in capsys.readouterr().out
