"""`ckptman status`: the map, the commands that fill the gaps, and the JSON document."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import sys
from pathlib import Path

import pytest

import ckptman.cli.status  # noqa: F401  # registers the command
from ckptman.cli.app import run
from ckptman.cli.options import settings_of
from ckptman.cli.recipe import common_recipe, flags_of, recipe_of, train_command
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, load_convention, shipped
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.selection import Selection, grid_runs
from ckptman.sweeps.executors import submissions
from ckptman.sweeps.sweeping import plan_sweep
from ckptman.text.json_text import document_of, dump_json
from ckptman.training.planning import QUICK
from ckptman.training.progress import FAILED, INTERRUPTED
from ckptman.training.run_folder import RawRun
from tests.helpers.raw import START, name_of, write_run
from tests.helpers.sweeps import ONE, plan
from tests.helpers.trees import small_config, write_source

PART = ["--k", "4", "--regime", "fixed", "--layernorm", "on"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_map_of_a_grid(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = here / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_run(task, small_config(seed=1337), run_id="firstrun", started=START)
    write_run(task, small_config(seed=2337), run_id="nextrunx", started=START + 1000)
    other = here / "grid_outputs" / "other" / "task_0003"
    write_run(other, small_config(seed=3337), run_id="halfdone", files=("Checkpoint",), last_iter=30_000)
    assert run(["status", *PART]) == 0
    out = lines(capsys)
    assert out[0] == "With LayerNorm, fixed single-K training  len_gen_single_k{K}"
    assert out[1].split() == ["K", "4"]
    assert [line.split()[-1] for line in out[2:6]] == ["···", "···", "···", "⊘●◐"]
    assert out[5].split()[:4] == ["3", "L1", "MLP", "off"]
    assert "12 runs: ● 1 complete, ▶ 0 running, ✗ 0 failed, ◐ 1 partial, ⊘ 1 overwritten, · 9 missing" in out
    text = "\n".join(out)
    assert "len_gen_single_k4 task 3 seed 1337: its checkpoints were overwritten by nextrunx" in text
    assert "len_gen_single_k4 task 3 seed 3337: 20,001 of 40,000 iterations; it has no final checkpoint" in text


def test_a_column_for_each_k_and_a_map_for_each_family(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == 0
    out = lines(capsys)
    assert out[0].startswith("nothing yet (504 runs, --verbose shows them): With LayerNorm, dynamic training; ")
    assert run(["status", "--verbose"]) == 0
    out = lines(capsys)
    assert sum(line.split()[:2] == ["K", "4"] for line in out) == 4
    assert all(line.split() == ["K", "4", "6", "8", "10", "12", "14", "16"] for line in out if " K 4 " in line)
    assert sum(line.count("···") for line in out) == 2 * 84
    assert any(line.startswith("504 runs: ") for line in out)


def test_nothing_here_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", *PART]) == 0
    assert "there is neither grid_outputs nor a tree here" in capsys.readouterr().err
    assert run(["status", *PART, "--missing"]) == 2  # what is not known to be missing is not to be trained again
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing is known of any run" in err
    (here / "raw").mkdir()
    assert run(["status", "raw", *PART, "--missing"]) == 0
    assert capsys.readouterr().out.startswith("ckptman train ")
    (here / "grid_outputs").mkdir()
    assert run(["status", *PART]) == 0
    assert "neither" not in capsys.readouterr().err


def test_the_tree_is_used_where_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(write_source(here / "raw", [small_config()]), here / "checkpoints", settle=0)
    assert run(["status", *PART, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["out"], document["root"], document["counts"]["complete"]) == (None, "checkpoints", 1)
    assert run(["status", *PART, "--json", "--out", "raw", "--root", "checkpoints"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["complete"] == 1


def test_a_tree_that_has_nothing_but_what_was_refused_is_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = here / "raw/len_gen_single_k4/task_0003/saved_models" / name_of(small_config())
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK\3\4 and no end")
    ingest(here / "raw", here / "tree", settle=0)
    assert [path.name for path in (here / "tree").iterdir()] == ["refused.json"]
    assert run(["status", "tree", *PART, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"]["refused"] == 3


def test_a_failed_run_is_named_with_its_log(here: Path, capsys: pytest.CaptureFixture[str]) -> None:

    raw = RawRun.of(small_config(), here / "grid_outputs", built_in())
    raw.saved_models.mkdir(parents=True)
    assert run(["status", *PART]) == 0
    raw.write_status(FAILED, "abcd1234", 700, reason="the disk is full", log="/logs/2.out")
    capsys.readouterr()
    assert run(["status", *PART]) == 1
    text = capsys.readouterr().out
    assert "seed 1337: 700 of 40,000 iterations; the disk is full\n    log: /logs/2.out" in text


def test_it_is_said_where_slurm_does_not_answer(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_,) = plan(here / "grid_outputs", ONE).runs
    (here / "grid_outputs").mkdir()
    relative = run_.raw.folder.relative_to(here / "grid_outputs").as_posix()
    folder = submissions.new_folder(here / "grid_outputs")
    submissions.write_record(folder, "slurm", [submissions.SubmittedRun(relative, "log", "outcome", "7_0")])
    for answer, told in ((None, True), ({}, False)):
        monkeypatch.setattr(submissions, "slurm_queue", lambda _, answer=answer: answer)
        assert run(["status", *PART]) == 0
        assert ("SLURM does not answer" in capsys.readouterr().err) is told
        assert run(["sweep", *PART, "--seed", "1337", "--dry-run"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert ("new; SLURM does not answer: a job that waits may train it" in out) is told


def test_what_sweep_trains_is_said_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sweep alone trains the whole grid, by the published recipe."""

    def told(*arguments: str) -> str:
        assert run(["status", *arguments]) == 0
        return " ".join(capsys.readouterr().err.split())

    assert "504 runs wait for training: ckptman sweep trains them, ckptman status" in told()
    part = "12 runs wait for training: ckptman sweep, with the options given here for which runs, trains them"
    assert f"{part}, ckptman status" in told(*PART)
    raw = RawRun.of(small_config(max_iters=30), here / "grid_outputs", built_in())
    raw.saved_models.mkdir(parents=True)
    raw.write_status(INTERRUPTED, "abcd1234", 7)
    assert f"{part} by the published recipe, ckptman status" in told(*PART)


def test_text_from_files_cannot_drive_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:

    raw = RawRun.of(small_config(), here / "grid_outputs", built_in())
    raw.saved_models.mkdir(parents=True)
    raw.write_status(FAILED, "abcd1234", 700, reason="\x1b[2Jgone [red]", log="/logs/\x1b]0;x\x07")
    assert run(["status", *PART]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2Jgone [red]" in out


def test_a_terminal_without_the_signs_gets_letters(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(here / "grid_outputs", [small_config()])
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(["status", *PART]) == 0
    stream.seek(0)
    assert "  3  L1 MLP off  C..\n" in stream.read()


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_fill_the_gaps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(here / "grid_outputs", [small_config(seed=1337)])
    assert run(["status", *PART, "--task", "3", "--missing"]) == 0
    assert lines(capsys) == [
        f"ckptman train --k 4 --task 3 --fixed --seed {seed} --set n_embd=8" for seed in (2337, 3337)
    ]
    assert run(["status", "--k", "4", "--missing"]) == 0
    found = lines(capsys)
    assert len(found) == 72 - 1
    assert sum("--no-layernorm" in line for line in found) == 36
    assert "ckptman train --k 4 --task 7 --no-layernorm --seed 3337 --set n_embd=8" in found


def test_each_command_plans_the_run_that_is_missing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["status", "--k", "4,5", "--out", "with space", "--missing"]
    (here / "with space").mkdir()
    assert run(arguments) == 0
    commands = [shlex.split(line) for line in lines(capsys)]
    assert len(commands) == 144
    planned = []
    for command in commands[::13]:
        assert run([*command[1:], "--dry-run", "--json"]) == 0
        (item,) = json.loads(capsys.readouterr().out)["runs"]
        planned.append((item["group"], item["task"], item["seed"]))
    assert run(["status", "--k", "4,5", "--out", "with space", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert planned == [(item["group"], item["task"], item["seed"]) for item in runs][::13]


def test_in_the_merged_numbering_a_command_trains_both_cells(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "grid_outputs").mkdir()
    part = ["--k", "4", "--regime", "dynamic", "--layernorm", "on", "--seed", "1337", "--numbering", "merged"]
    assert run(["status", *part, "--missing"]) == 0
    found = lines(capsys)
    assert found == [f"ckptman train --k 4 --task {task} --seed 1337 --numbering merged" for task in range(4)]
    assert run([*shlex.split(found[0])[1:], "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2


def test_a_begun_run_goes_on_with_its_own_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = small_config(seed=1337, max_iters=100, ckpt_interval=50, learning_rate=3e-4)
    write_run(here / "grid_outputs" / "len_gen_single_k4" / "task_0003", own, run_id="halfdone", files=("Checkpoint",),
              last_iter=51)  # fmt: skip
    assert run(["status", *PART, "--task", "3", "--missing"]) == 0
    captured = capsys.readouterr()
    recipe = "--iters 100 --lr 0.0003 --checkpoint-every 50 --set n_embd=8"
    assert captured.out.splitlines()[0] == f"ckptman train --k 4 --task 3 --fixed --seed 1337 {recipe}"
    assert captured.out.splitlines()[1].endswith(f"--seed 2337 {recipe}"), "the recipe that all known runs share"
    assert recipe in captured.err


@pytest.mark.parametrize("state", [INTERRUPTED, FAILED])
def test_a_run_that_left_no_checkpoint_goes_on_with_its_own_recipe(
    here: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    own = small_config(seed=1337, max_iters=100, learning_rate=3e-4)
    folder = RawRun.of(own, here / "grid_outputs", built_in())
    folder.folder.mkdir(parents=True)
    folder.write_status(state, None, 7)
    assert run(["status", *PART, "--task", "3", "--missing"]) == 0
    first = lines(capsys)[0]
    assert first == "ckptman train --k 4 --task 3 --fixed --seed 1337 --iters 100 --lr 0.0003 --set n_embd=8"
    # Garbage in a status is no reason to plan nothing.
    status = folder.read_status()
    assert status is not None
    broken = dataclasses.replace(status, config={"n_embd": "x"}, iterations_per_second=5.0)
    folder.status_file.write_bytes(dump_json(document_of(broken)))
    assert plan_sweep(here / "grid_outputs", convention=built_in()).measured_runs == 0


def test_in_another_convention_the_shared_recipe_is_one_that_sweep_takes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later, group = load_convention(shipped()["lab-later"]), "len_gen_v64_e32_k16"
    first = grid_runs(later, Selection(groups=(group,), seeds=(1337,)))[0]
    own = TrainConfig.from_dict({**first.values, "wandb_group": group, "max_iters": 7, "warmup_iters": 1})
    folder = RawRun.of(own, here / "grid_outputs", later)
    folder.folder.mkdir(parents=True)
    folder.write_status(INTERRUPTED, None, 3)
    asked = ["--convention", "lab-later", "status", "--group", group]
    assert run([*asked, "--missing"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "with the recipe that the other runs share: --iters 7 --warmup-iters 1"
    assert "put --convention lab-later before train" in said[0]
    assert run(asked) == 0
    assert "the commands are for" not in capsys.readouterr().err, "there are none"


def test_the_two_outputs_exclude_each_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--missing", "--json"]) == 2
    assert "two outputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--k", "x"], ["--task", "9"], ["--layernorm", "maybe"], ["--regime", "none"], ["--out", "nowhere"],
     ["--root", "nowhere"], ["--numbering", "none"]],
)  # fmt: skip
def test_wrong_usage(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["status", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ERROR ")
    assert captured.out == ""


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_a_recipe_as_options_and_back() -> None:
    assert flags_of(TrainConfig().to_dict()) == []
    given = {"max_iters": 100, "batch": 64, "learning_rate": 3e-4, "eval_every": 0, "weight_decay": 0.1}
    recipe = recipe_of({**given, "warmup_iters": None, "k": 8})
    assert recipe == {
        "use_compile": False, "max_iters": 100, "effective_batch_size": 64, "micro_batch_size": 64,
        "learning_rate": 3e-4, "eval_interval": 0, "weight_decay": 0.1,
    }  # fmt: skip
    flags = flags_of(TrainConfig.from_dict(recipe).to_dict())
    assert flags == ["--iters", "100", "--batch-size", "64", "--lr", "0.0003", "--weight-decay", "0.1",
                     "--eval-every", "0"]  # fmt: skip
    assert recipe_of({}, quick=True, compiled=True) == {**QUICK, "use_compile": True}
    assert recipe_of({"max_iters": 7}, quick=True)["max_iters"] == 7


def test_a_command_is_quoted_for_a_shell() -> None:
    (asked,) = grid_runs(
        built_in(), Selection(k=(8,), tasks=(6,), seeds=(1,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    )
    command = train_command({}, asked, built_in(), ["--out", "a b;c"])
    assert command == "ckptman train --k 8 --task 6 --seed 1 --out 'a b;c'"


def test_the_recipe_that_runs_share() -> None:
    one, other = ({"max_iters": n, "learning_rate": 0.1} for n in (1, 2))
    assert common_recipe([one, other], built_in()) == {"learning_rate": 0.1}
    assert common_recipe([one, {}], built_in()) == one
    assert common_recipe([], built_in()) == {}
    decided = {"train_max_k": 8, "n_layers": 2, "length_mode": "mix", "seed": 1, "wandb_group": "g", "device": "cpu"}
    assert common_recipe([one | decided], built_in()) == one


def test_what_has_no_option_goes_by_set() -> None:
    """A command without it would train another model."""
    recipe = {"n_embd": 8, "norm_type": "rmsnorm", "train_k_choices": [2, 4], "amp_dtype": "torch.bfloat16"}
    flags = flags_of({**TrainConfig().to_dict(), **recipe})
    assert flags == ["--precision", "bf16", "--set", "n_embd=8", "--set", 'norm_type="rmsnorm"',
                     "--set", "train_k_choices=[2, 4]"]  # fmt: skip
    back = settings_of([text for text in flags if "=" in text], TrainConfig.__dataclass_fields__)
    assert back == {key: value for key, value in recipe.items() if key != "amp_dtype"}
