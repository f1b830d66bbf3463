"""`ckptman ingest` on the command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptman.cli.ingest  # noqa: F401  (registers the command)
from ckptman.cli.app import run
from tests.helpers.raw import START, config, name_of, write_checkpoint, write_run

Capture = pytest.CaptureFixture[str]

KEYS = {
    "schema_version", "source", "root", "placed", "unchanged", "duplicates", "refused", "renumbered",
    "overwritten_runs", "regrouped", "completed", "removed",
}  # fmt: skip
ROW = {
    "source", "path", "sha256", "size", "run_id", "group", "layernorm", "regime", "task", "source_task", "seed", "step",
    "kind",
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks by the older numbering; each lost two of its three seeds. Paths are short, and relative."""
    monkeypatch.chdir(tmp_path)
    for number, layers in ((0, 2), (2, 1)):
        for index, seed in enumerate((1337, 2337, 3337)):
            write_run(
                Path("raw/len_gen_k8") / f"task_{number:04d}", config(seed=seed, n_layers=layers),
                run_id=f"L{layers}s{seed}", started=START + 1000 * index,
            )  # fmt: skip
    return tmp_path / "raw"


def document(capsys: Capture) -> Any:
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_what_looks_like_a_checkpoint_and_is_passed_over_is_said(source: Path, capsys: Capture) -> None:
    (source / "last.ckpt").write_bytes(b"by another program")
    assert run(["ingest", "raw"]) == 0
    out = capsys.readouterr().out
    assert "1 possible checkpoint passed over, not named *.pt: ckptman show says what is in them\n  last.ckpt\n" in out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("epoch=9-step=1000.ckpt", {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"lr": 0.1}}),
        ("ckpt.pt", {"model": {"w": torch.ones(2)}, "config": {"n_layer": 2}, "iter_num": 5}),
        ("probe_d64.pt", {"w": torch.ones(2)}),
        ("Final_D1_len4.pt", {"model": {"w": torch.ones(2)}, "train_config": {"digits": 4}, "iters_done": 5}),
    ],
)
def test_an_experiment_that_no_rule_describes_is_not_passed_over_in_silence(
    source: Path, capsys: Capture, name: str, content: dict[str, Any]
) -> None:
    folder = Path("others/my group/task_0003/saved_models")
    folder.mkdir(parents=True)
    torch.save(content, folder / name)
    assert run(["ingest", "others"]) == 1
    out, err = capsys.readouterr()
    assert "Next: ckptman learn others\n  proposes the rules of an experiment that none describes" in err
    if name.endswith(".pt"):
        assert "ckptman learn FOLDER" in " ".join(out.split())
        assert run(["ingest", "others", "--trust", "config"]) == 1
        assert "ckptman learn FOLDER" in " ".join(capsys.readouterr().out.split())
    folder.rename(source / "saved_models")  # the control: most of the source is known
    assert run(["ingest", "raw"]) == (1 if name.endswith(".pt") else 0)
    assert "Next: ckptman learn" not in capsys.readouterr().err


def test_a_possible_configuration_that_is_not_used_is_said(source: Path, capsys: Capture) -> None:
    item = config(6)
    write_checkpoint(source / "saved_models" / name_of(item), item, args=argparse.Namespace(slurm_job=12), cfg_name="a")
    assert run(["ingest", "raw"]) == 0
    told = "1 checkpoint with a possible configuration that is not used\n  args: in saved_models/Final_"
    assert told in capsys.readouterr().out
    write_checkpoint(source / "saved_models" / name_of(config(4)), config(4), hparams=[("a", 1)])
    assert run(["ingest", "raw", "--json"]) == 0
    (unused,) = document(capsys)["unused_configs"]
    assert unused["keys"] == ["hparams"]


def test_what_people_read_is_short_and_fits_80_columns(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw"]) == 0
    out, err = capsys.readouterr()
    root = source.parent / "checkpoints"
    size = sum(path.stat().st_size for path in root.rglob("*.pt"))
    assert out.splitlines() == [
        f"placed 4 checkpoints of 2 runs ({size / 1000:.1f} kB) in {root}",
        "      4  with_layernorm/dynamic/len_gen_k8",
        "4 files renumbered: the configuration decides, not the source's folder",
        "  len_gen_k8: task 0 → 2, 2 → 6",
        "4 runs overwritten: a later run saved files of the same names",
        "  len_gen_k8 2 tasks (2, 6): seeds 1337, 2337",
        "  No checkpoint is left; each task's overwritten.json keeps what W&B recorded.",
        "  To keep every seed, let each save into a folder of its own.",
    ]
    assert all(len(line) <= 80 for line in out.splitlines() if str(root) not in line)
    assert err == f"Next: ckptman validate --root {root}\n"


def test_doing_it_again_says_so(source: Path, capsys: Capture) -> None:
    run(["ingest", "raw"])
    capsys.readouterr()
    assert run(["ingest", "raw"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "nothing to place: every checkpoint of the source is in the tree already",
        "4 checkpoints unchanged since the last ingest",
    ]
    assert "Next" not in lines[-1]


def test_verbose_names_every_file_and_run(source: Path, capsys: Capture) -> None:
    run(["ingest", "raw", "--verbose"])
    out = capsys.readouterr().out
    assert out.count(" → with_layernorm/dynamic/len_gen_k8/task_000") == 4
    assert "  len_gen_k8 task 6 seed 1337 (run L1s1337), by run L1s3337" in out.splitlines()


def test_a_dry_run_lists_the_plan_and_writes_nothing(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("would place 4 checkpoints of 2 runs")
    assert lines[1:3] == [
        f"  2 files from len_gen_k8/task_{old} to with_layernorm/dynamic/len_gen_k8/task_{new}/seed_3337"
        for old, new in (("0000/saved_models", "0002"), ("0002/saved_models", "0006"))
    ]
    assert not (source.parent / "checkpoints").exists()
    assert run(["ingest", "raw", "--dry-run", "--json"]) == 0
    dry = document(capsys)
    assert run(["ingest", "raw", "--json"]) == 0
    real = document(capsys)
    assert {**real, "space": 0} == {**dry, "dry_run": False, "space": 0}  # what is free is another figure each time


def test_json_has_the_promised_shape(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw", "--json"]) == 0
    result = document(capsys)
    assert result.keys() >= KEYS
    assert (result["schema_version"], result["source"], len(result["placed"])) == (1, str(source), 4)
    assert all(row.keys() >= ROW for row in result["placed"])
    assert {row["path"] for row in result["placed"]} == {
        str(path.relative_to(source.parent / "checkpoints")) for path in (source.parent / "checkpoints").rglob("*.pt")
    }
    assert result["renumbered"][0].keys() == {"source", "task", "source_task"}
    assert result["overwritten_runs"][0].keys() >= {"run_id", "group", "task", "source_task", "seed", "config"}


def test_what_is_refused_is_grouped_by_reason_and_exits_1(source: Path, capsys: Capture) -> None:
    for name in ("a.pt", "b.pt"):
        (source / name).write_text("notes")
        os.utime(source / name, (START, START))
    (source / "young.pt").write_bytes(b"PK\x03\x04cut")
    assert run(["ingest", "raw"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    at = lines.index("2 files refused")
    assert lines[at + 1].startswith("  not-a-checkpoint: ")
    assert [line.split(":")[0] for line in lines[at + 2 : at + 4]] == ["    a.pt", "    b.pt"]
    assert "1 file deferred: it may still be being written" in lines
    assert err.startswith("Next: ")
    assert run(["ingest", "raw", "--json"]) == 1
    result = document(capsys)
    assert [item["source"] for item in result["refused"]] == ["a.pt", "b.pt"]
    assert all(item.keys() >= {"source", "code", "message", "fix"} for item in result["refused"] + result["deferred"])
    assert not any(str(source) in item["message"] for item in result["refused"])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 2, "nowhere does not exist"),
        (["checkpoints"], 2, "is the tree"),
        (["raw", "--mode", "steal"], 2, "steal"),
        (["raw", "--settle", "-1"], 2, "--settle"),
        (["raw", "--root", "file"], 2, "file is not a folder"),
        (["raw", "--root", "file/below"], 2, "file is not a folder"),
        (["raw", "--root", "dangling"], 2, "leads nowhere"),
        (["raw", "--root", "dangling", "--dry-run"], 2, "leads nowhere"),
        (["raw", "--root", ""], 2, "--root is empty"),
        ([""], 2, "the path of the source is empty"),
    ],
)
def test_wrong_use_exits_2(source: Path, capsys: Capture, arguments: list[str], status: int, message: str) -> None:
    (source.parent / "checkpoints").mkdir()
    (source.parent / "file").write_text("not a folder")
    (source.parent / "dangling").symlink_to("nothing")
    assert run(["ingest", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("record", "told"),
    [("cut", "nothing of it is recorded"), ("gone", "nothing of it is recorded"), ("", "was logged")],
)
def test_of_a_run_whose_record_cannot_be_read_it_is_not_said_what_was_logged(
    record: str, told: str, tmp_path: Path, capsys: Capture
) -> None:
    write_run(tmp_path / "out" / "task_0006", config(), run_id="abcd1234", save=False)
    [folder] = (tmp_path / "out").rglob("run-*-abcd1234")
    (folder / "files" / "wandb-summary.json").write_text('{"acc": 0.5}')  # without an iteration
    for file in [*folder.glob("files/*"), *folder.glob("*.wandb")] if record else ():
        file.unlink()
    if record == "cut":
        (folder / "run-abcd1234.wandb").write_bytes(b":W&")
    assert run(["ingest", str(tmp_path / "out")]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "run abcd1234: " in line]
    assert told in line


def test_links_warn_on_stderr_and_in_json(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw", "--mode", "hardlink", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("WARNING hard links: ")
    assert json.loads(out)["warnings"] == [err.removeprefix("WARNING ").rstrip("\n")]


def test_a_tree_of_another_numbering_is_refused(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw"]) == 0
    capsys.readouterr()
    for more in ([], ["--dry-run"], ["--json"]):
        assert run(["ingest", "raw", "--numbering", "merged", *more]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Pass --numbering full, or write `numbering: full` into the tree's ckptman.yaml." in err
    assert run(["ingest", "raw", "--numbering", "full"]) == 0


def test_a_new_tree_of_another_numbering_needs_a_line_in_its_ckptman_yaml(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw", "--numbering", "merged", "--root", "a tree"]) == 0
    tree = source.parent / "a tree"
    assert capsys.readouterr().err.splitlines() == [
        f"Next: write `numbering: merged` into '{tree}/ckptman.yaml', by which the tree is sorted",
        f"Next: ckptman validate --root '{tree}'",
    ]
    assert not (tree / "ckptman.yaml").exists()
    # The control: a file that says so is enough.
    shutil.rmtree(tree)
    tree.mkdir()
    (tree / "ckptman.yaml").write_text("numbering: merged\n")
    assert run(["ingest", "raw", "--numbering", "merged", "--root", "a tree"]) == 0
    assert "Next: write" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [b"plain", b"it's", b"a\nb", b"\x1b[31m'red'\\7", b"\xff\xfe9", "\u202ebidi".encode()])
def test_the_next_step_can_be_pasted(source: Path, capsys: Capture, name: bytes) -> None:
    root = source.parent / os.fsdecode(name)
    assert run(["ingest", "raw", "--root", str(root)]) == 0
    command = capsys.readouterr().err.splitlines()[-1].removeprefix("Next: ckptman validate --root ")
    assert command.isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {command}"], capture_output=True, check=True).stdout
    assert said == os.fsencode(root)
    assert (command == shlex.quote(str(root))) == (name in (b"plain", b"it's"))


def test_a_move_tells_what_it_takes_away_unplaced(source: Path, capsys: Capture) -> None:
    run(["ingest", "raw"])
    capsys.readouterr()
    assert run(["ingest", "raw", "--mode", "move", "--dry-run"]) == 0
    assert "4 files were in the tree already: would be removed from the source" in capsys.readouterr().out.splitlines()
    assert run(["ingest", "raw", "--mode", "move"]) == 0
    assert "4 files were in the tree already: removed from the source" in capsys.readouterr().out.splitlines()
    assert run(["ingest", "raw", "--mode", "move"]) == 0
    assert "removed from the source" not in capsys.readouterr().out


def test_completed_runs_are_listed(source: Path, capsys: Capture) -> None:
    run(["ingest", "raw"])
    [record, _] = sorted((source.parent / "checkpoints").rglob("run.json"))
    record.unlink()
    for more, said in ((["--dry-run"], "1 run would be completed"), ([], "1 run completed")):
        capsys.readouterr()
        assert run(["ingest", "raw", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        at = lines.index(f"{said}: the files were in the tree without a run.json")
        assert lines[at + 1] == f"  {record.parent.relative_to(source.parent / 'checkpoints')}"


def test_other_groups_are_told_by_group(source: Path, capsys: Capture) -> None:
    (source / "len_gen_k8").rename(source / "len_gen_k6")
    assert run(["ingest", "raw"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("4 files regrouped: the configuration decides, not the source's folder")
    assert lines[at + 1] == "  len_gen_k6 → len_gen_k8: 4 files"


def test_where_nothing_is_placed_the_reason_is_the_right_one(source: Path, capsys: Capture) -> None:
    (source.parent / "bad").mkdir()
    assert run(["ingest", "bad"]) == 0
    assert f"no checkpoint was found below {source.parent / 'bad'}" in capsys.readouterr().out
    (source.parent / "bad" / "notes.pt").write_text("notes")
    assert run(["ingest", "bad"]) == 1
    assert capsys.readouterr().out.startswith("nothing to place: nothing of the source could be used\n")
    run(["ingest", "raw"])
    (source / "notes.pt").write_text("notes")
    capsys.readouterr()
    assert run(["ingest", "raw"]) == 1
    assert capsys.readouterr().out.startswith("nothing to place: every other checkpoint of the source is in the tree")


def test_wandb_folders_are_not_counted_as_files(source: Path, capsys: Capture) -> None:
    young = time.time() - 5
    for file in (source / "len_gen_k8/task_0000/wandb").rglob("*"):
        os.utime(file, (young, young), follow_symlinks=False)
    assert run(["ingest", "raw", "--with-wandb"]) == 0
    assert "1 W&B folder deferred: it may still be being written" in capsys.readouterr().out.splitlines()
    (source / "young.pt").write_bytes(b"PK\x03\x04cut")
    assert run(["ingest", "raw", "--with-wandb"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 file and 1 W&B folder deferred: it may still be being written" in lines


def test_a_record_that_ends_late_is_not_said_to_end_early(source: Path, capsys: Capture) -> None:
    unnamed = config(seed=7, length_mode="curriculum")
    for run_id, last in (("early", 3000), ("late", 40000)):
        write_run(source / "len_gen_k8" / run_id, unnamed, run_id=run_id, last_iter=last, save=False)
        [file] = (source / "len_gen_k8" / run_id).rglob("config.yaml")
        file.write_text(file.read_text().replace("value: curriculum", "value: no name can say this"))
    run(["ingest", "raw", "--verbose"])
    lines = capsys.readouterr().out.splitlines()
    assert "  run early: its record ends at iteration 3000, before its first checkpoint" in lines
    assert "  run late: its record ends at iteration 40000; its configuration does not tell what it saved" in lines


def test_of_a_file_of_no_known_run_it_is_said_that_it_may_be_another_ones(source: Path, capsys: Capture) -> None:
    task = source / "len_gen_k16/task_0000"
    write_run(task, config(16, learning_rate=0.5), run_id="unknown", files=("Final",))
    shutil.rmtree(task / "wandb")
    write_run(task, config(16), run_id="other", save=False)
    run(["ingest", "raw"])
    lines = capsys.readouterr().out.replace("\n    ", " ")
    name = "{}_N128_d8_H1_L1_npos1_mlp0_ln1_lenmix_trainK2to16_testK17to32_nodup1_iters{}.pt".format
    missing = f"  run other: {name('Checkpoint', 20001)} missing; "
    assert f"{missing}{name('Final', 40000)} there, and it is not known whether it wrote that\n" in lines


@pytest.mark.parametrize("seed", ["x", True, -1, 1.5, None])
def test_an_unusable_seed_is_not_a_missing_one(source: Path, capsys: Capture, seed: Any) -> None:
    for file in source.rglob("*.pt"):
        document = torch.load(file)
        document["train_config"]["seed"] = seed
        torch.save(document, file)
    run(["ingest", "raw"])
    capsys.readouterr()
    assert run(["validate", "--root", "checkpoints", "--select", "unknown-seed"]) == 1
    said = "no seed" if seed is None else f"an unusable seed: {seed!r}"
    assert f"2 checkpoints here has {said}" in capsys.readouterr().out


def test_a_wrong_folder_says_so_instead_of_listing_all_its_files(source: Path, capsys: Capture) -> None:
    other = source.parent / "other"
    other.mkdir()
    for number in range(30):
        (other / f"notes_{number}.pt").write_bytes(b"some text\n")
    assert run(["ingest", "other"]) == 1
    out = capsys.readouterr().out
    assert "none of these 30 files is a checkpoint of a known form; is this the right folder?" in out
    assert out.count("notes_") < 5
    assert "… and 27 more (--verbose names all, --json too)" in out
    assert run(["ingest", "other", "--verbose"]) == 1
    assert capsys.readouterr().out.count("  notes_") == 30
    shutil.copytree(other, source / "other")  # beside checkpoints, it is the right folder
    assert run(["ingest", "raw"]) == 1
    out = capsys.readouterr().out
    assert "right folder" not in out
    assert "… and 18 more (--verbose names all, --json too)" in out


def test_a_dry_run_compares_the_space_that_is_needed_and_free(source: Path, capsys: Capture) -> None:
    assert run(["ingest", "raw", "--dry-run"]) == 0
    assert re.search(r"\nneeds [0-9.]+ kB; [0-9.]+ [kMGT]?B free there\n", capsys.readouterr().out)
    assert run(["ingest", "raw", "--dry-run", "--mode", "hardlink"]) == 0
    assert "\nneeds no space, as links; " in capsys.readouterr().out


def test_a_seed_that_was_lost_several_times_is_named_once(tmp_path: Path, capsys: Capture) -> None:
    for index, seed in enumerate((1337, 1337, 1337, 2337, 3337)):
        write_run(tmp_path / "raw/len_gen_k8/task_0006", config(8, n_layers=1, use_mlp=False, seed=seed),
                  run_id=f"run{index}", started=START + 1000 * index, salt=index)  # fmt: skip
    assert run(["ingest", str(tmp_path / "raw"), "--root", str(tmp_path / "tree")]) == 0
    assert "  len_gen_k8 1 task (6): seeds 3 × 1337, 2337\n" in capsys.readouterr().out
