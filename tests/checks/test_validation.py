"""`validate`: trees as they come, what is chosen, and odd names and machines."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import load_convention
from ckptman.text.errors import MachineError, UsageError
from tests.helpers.raw import config, name_of, write_checkpoint, write_run
from tests.helpers.trees import (
    CHECKPOINTS,
    DYNAMIC,
    DYNAMIC_RUN,
    FINAL,
    FIXED,
    RUN,
    RUNS,
    TASK,
    make_tree,
    small_config,
)
from tests.helpers.validated import check, codes, flip_a_weight, hand_made, of

MonkeyPatch = pytest.MonkeyPatch


def test_overwritten_seeds_are_missing_and_it_is_said_who_overwrote_them(tmp_path: Path) -> None:
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    for index, seed in enumerate((1337, 2337, 3337)):
        write_run(task, small_config(seed=seed), run_id=f"run{seed}", started=1.7e9 + 1000 * index)
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "grid_outputs", root)
    result = validate(root)
    assert codes(result) == {"missing-seed", "missing-task"}
    assert of(result, "missing-seed") == [
        "len_gen_single_k4 task 3 (L1, MLP off) lacks seeds 1337, 2337 (there: 3337); "
        "seed 1337 was overwritten: run run1337, by run3337; seed 2337 was overwritten: run run2337, by run3337"
    ]
    [absent] = of(result, "missing-task")
    assert absent == (
        "3 configurations of len_gen_single_k4 have no run: "
        "task 0 (L2, MLP on); task 1 (L2, MLP off); task 2 (L1, MLP on)"
    )
    [finding] = [item for item in result.findings if item.code == "missing-seed"]
    assert "so that none overwrites another" in finding.fix
    assert finding.path == TASK


def test_a_file_in_the_place_of_another_is_no_run_more(root: Path) -> None:
    assert validate(root).runs == RUNS
    other = next((root / DYNAMIC_RUN).glob("Final*"))
    shutil.copy(other, root / RUN / FINAL)
    assert validate(root).runs == report(root).to_json()["statistics"]["runs"] == RUNS
    shutil.copy(other, root / RUN / other.name)  # of which no run.json tells: the configuration inside does
    assert validate(root).runs == RUNS + 1


@pytest.mark.parametrize("norm", [True, False])
def test_a_run_of_another_family_fills_no_cell_and_makes_no_grid_expected(tmp_path: Path, norm: bool) -> None:
    task = tmp_path / "grid_outputs" / "len_gen_single_no_ln_k4" / "task_0003"
    write_run(task, small_config(use_layernorm=norm, wandb_group=task.parent.name), run_id="only1111")
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "grid_outputs", root)
    assert codes(validate(root)) == ({"off-grid"} if norm else {"missing-seed", "missing-task"})


def test_a_run_overwritten_in_part_and_the_one_that_did_it_are_both_incomplete(tmp_path: Path) -> None:
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_run(task, small_config(), run_id="first")
    write_run(task, small_config(seed=2337), run_id="killed", started=1.9e9, files=("Checkpoint",), last_iter=25_000)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    result = validate(tmp_path / "checkpoints", select=["missing-final", "missing-checkpoint"])
    assert {(item.code, PurePosixPath(item.path).name) for item in result.findings} == {
        ("missing-checkpoint", "seed_1337"),
        ("missing-final", "seed_2337"),
    }


def test_a_hand_made_tree_is_told_of_once_a_folder(tmp_path: Path) -> None:
    root = hand_made(tmp_path, merged=False)
    result = validate(root, ignore=["missing-seed"])
    assert (result.checked, result.runs) == (16, 8)
    assert [(item.code, item.path[-9:]) for item in result.findings] == [
        ("no-record", f"task_{task:04d}") for task in range(8)
    ]
    assert of(result, "no-record")[0] == "2 checkpoints without a run.json"
    assert result.findings[0].fix == f"Sort it into a new tree: ckptman ingest '{root}' --root NEW"
    # The configurations inside are known all the same.
    assert (
        of(validate(root), "missing-seed")[0]
        == "len_gen_k8 task 0 (L2, MLP on, mix) lacks seeds 2337, 3337 (there: 1337)"
    )


def test_the_fix_for_a_hand_made_tree_works(tmp_path: Path) -> None:
    ingest(hand_made(tmp_path, merged=True), tmp_path / "sorted")
    assert codes(validate(tmp_path / "sorted")) == {"missing-seed"}


def test_a_hand_made_tree_of_the_other_numbering_is_told_so_once(tmp_path: Path) -> None:
    root = hand_made(tmp_path, merged=True)
    result = validate(root, ignore=["missing-seed", "no-record"])
    assert codes(result) == {"other-numbering"}
    assert "Pass --numbering merged" in result.findings[0].fix
    assert result.numbering == "merged"
    merged = validate(root, convention=load_convention(numbering="merged"), ignore=["missing-seed", "no-record"])
    assert merged.findings == ()


def test_one_file_in_a_wrong_folder_of_a_hand_made_tree(tmp_path: Path) -> None:
    root = hand_made(tmp_path, merged=False)
    group = root / "with_layernorm/dynamic/len_gen_k8"
    [name] = [path.name for path in (group / "task_0006").iterdir() if path.name.startswith("Final")]
    (group / "task_0006" / name).rename(group / "task_0000" / name)
    result = validate(root, select=["misplaced", "missing-final", "missing-checkpoint", "other-numbering"])
    assert of(result, "misplaced") == [
        f"by its configuration, {name} belongs in with_layernorm/dynamic/len_gen_k8/task_0006"
    ]
    assert codes(result) == {"misplaced", "missing-final", "missing-checkpoint"}


def test_a_merged_tree_is_clean_by_its_numbering(tmp_path: Path) -> None:
    merged = load_convention(numbering="merged")
    root = make_tree(tmp_path, [config(8, use_mlp=mlp, n_layers=1) for mlp in (True, False)], merged)
    grid = ["missing-seed", "missing-task"]
    assert validate(root, convention=merged, ignore=grid).findings == ()
    assert codes(validate(root, ignore=grid)) == {"other-numbering"}
    # A run folder that does not tell MLP on from off.
    (root / "with_layernorm/dynamic/len_gen_k8/task_0002/seed_1337-mlp0").rename(
        root / "with_layernorm/dynamic/len_gen_k8/task_0002/seed_1337"
    )
    assert codes(validate(root, convention=merged, ignore=grid)) == {"wrong-run-folder"}


def test_a_task_folder_that_was_moved_is_no_other_numbering(tmp_path: Path) -> None:
    root = make_tree(tmp_path, [config(8, use_mlp=False, n_layers=1)])
    group = root / "with_layernorm/dynamic/len_gen_k8"
    (group / "task_0006").rename(group / "task_0002")  # where the other numbering has it
    grid = ["missing-seed", "missing-task"]
    assert codes(validate(root, ignore=grid)) == {"misplaced"}
    assert [item.state for item in report(root).documents] == ["written", "written"]
    assert ingest(tmp_path / "grid_outputs", root).placed == ()
    # The control: without its run.json, nothing tells the two apart.
    next(group.rglob("run.json")).unlink()
    assert "other-numbering" in codes(validate(root, ignore=grid))


def test_raw_outputs_are_no_tree(tmp_path: Path) -> None:
    source = tmp_path / "grid_outputs"
    for kind in ("len_gen_k8", "len_gen_k6"):
        write_run(source / kind / "task_0006", config(int(kind[-1])), run_id=kind)
    result = validate(source)
    assert [(item.code, item.path) for item in result.findings] == [("wrong-root", ".")]
    assert result.findings[0].message == "this folder holds raw outputs: 4 checkpoints, none of them sorted"
    assert result.findings[0].fix == f"Sort it into a new tree: ckptman ingest {source} --root NEW"
    # One checkpoint elsewhere, and it is a folder in disorder.
    home = source / "len_gen_k8" / "task_0006"
    (home / "saved_models" / name_of(config(8))).rename(home / name_of(config(8)))
    assert codes(validate(source, ignore=["missing"])) == {"misplaced", "no-record", "stray-folder"}


def test_a_tree_of_links_is_told_of_once_a_group(tmp_path: Path) -> None:
    write_run(tmp_path / "grid_outputs/len_gen_single_k4/task_0003", small_config(), run_id="abc")
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints", mode="symlink")
    result = validate(tmp_path / "checkpoints", deep=True, ignore=["missing"])
    assert [(item.code, item.path) for item in result.findings] == [("linked-checkpoint", FIXED)]
    assert of(result, "linked-checkpoint")[0].startswith("2 checkpoints here by symbolic links to files in")


def test_kept_wandb_folders_belong_to_the_tree(tmp_path: Path) -> None:
    write_run(tmp_path / "grid_outputs/len_gen_single_k4/task_0003", small_config(), run_id="abc")
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "grid_outputs", root, with_wandb=True, settle=0)
    [kept] = (root / RUN / "wandb").iterdir()
    assert validate(root, ignore=["missing"]).findings == ()
    # In them lie links and leftovers too, and files with a checkpoint's suffix that are none of the tree's.
    (kept / "files" / "model.pt").touch()
    (kept / "files" / "gone").symlink_to("nowhere")
    (kept / "files" / ".ckptman-0123456789abcdef.partial").touch()
    result = validate(root, ignore=["missing"])
    assert codes(result) == {"dangling-link", "unfinished-file"}
    assert result.checked == 2


def test_a_group_of_no_known_pattern_has_no_grid(tmp_path: Path) -> None:
    run = small_config(wandb_group="huang_LN_fixed50", train_min_k=4)
    write_run(tmp_path / "grid_outputs/huang_LN_fixed50/task_0017", run, run_id="abc")
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    root = tmp_path / "checkpoints"
    assert validate(root).findings == ()
    # It has a place all the same.
    home = root / "with_layernorm/fixed/huang_LN_fixed50"
    (home / "task_0017").rename(home / "task_0018")
    assert codes(validate(root)) == {"misplaced"}


def test_a_variant_of_the_model_is_no_error(tmp_path: Path) -> None:
    variant = small_config(norm_type="rmsnorm", use_qk_norm=True, use_gated_attention=True, wandb_group="variants")
    name = FINAL.replace("_ln1_", "_ln1_normrmsnorm_qkn1_gate1_")
    task = tmp_path / "grid_outputs" / "variants" / "task_0000"
    write_checkpoint(task / name, variant)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    assert validate(tmp_path / "checkpoints", ignore=["missing-checkpoint"]).findings == ()
    # Without the keys of a variant, the same weights are wrong.
    weights = torch.load(task / name)["model"]
    plain = small_config(wandb_group="variants")
    write_checkpoint(tmp_path / "plain" / "variants" / "task_0000" / FINAL, plain, model=weights)
    ingest(tmp_path / "plain", tmp_path / "other")
    assert codes(validate(tmp_path / "other", ignore=["missing-checkpoint"])) == {"wrong-shapes"}


def test_weights_of_a_compiled_model_are_right(tmp_path: Path) -> None:
    file = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003" / FINAL
    write_checkpoint(file, small_config())
    held = torch.load(file)
    held["model"] = {f"_orig_mod.{key}": tensor for key, tensor in held["model"].items()}
    torch.save(held, file)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints", settle=0)
    assert validate(tmp_path / "checkpoints", ignore=["missing"]).findings == ()


def test_a_name_that_was_trusted_is_told_of_as_that(tmp_path: Path) -> None:
    file = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003" / FINAL.replace("nodup1", "nodup0")
    write_checkpoint(file, small_config())
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints", trust="name")
    assert codes(validate(tmp_path / "checkpoints", ignore=["missing"])) == {"overruled-config"}


# --- choosing, depth, shape -------------------------------------------------------------------------------------------


def test_codes_are_selected_and_ignored(root: Path) -> None:
    (root / "notes.txt").touch()
    (root / "empty").mkdir()
    assert codes(validate(root)) == {"stray-file", "empty-folder"}
    assert codes(validate(root, select=["stray"])) == {"stray-file"}
    assert codes(validate(root, ignore=["stray", "empty-folder"])) == set()
    assert validate(root, ignore=["stray", "empty-folder"]).exit_status == 0


def test_absent_groups_are_looked_for_only_if_asked(good_tree: Path) -> None:
    rules = load_convention()  # whose grid has 28 groups
    assert "missing-group" not in codes(validate(good_tree, convention=rules))
    result = validate(good_tree, convention=rules, select=["missing-group"])
    assert len(result.findings) == 26
    assert codes(result) == {"missing-group"}


@pytest.mark.parametrize("option", ["select", "ignore"])
def test_an_unknown_code_is_refused_before_anything_is_read(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(tmp_path / "no tree", **{option: ["no-such-code"]})  # type: ignore[arg-type]
    assert caught.value.code == "unknown-code"


def test_a_tree_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        validate(tmp_path / "no tree")
    assert caught.value.code == "no-tree"


def test_only_a_deep_validation_reads_the_bytes(root: Path) -> None:
    flip_a_weight(root / RUN / FINAL)
    assert validate(root).findings == ()
    assert codes(validate(root, deep=True)) == {"bad-crc"}


def test_documents_are_looked_at_only_if_somebody_tells_which_are_stale(root: Path) -> None:
    asked: list[Path] = []

    def stale_documents(tree: Path) -> Iterator[str]:
        asked.append(tree)
        yield from ("README.md", "TASK_MAPPING.md")

    (root / "README.md").touch()
    assert validate(root).findings == ()
    result = validate(root, stale_documents=stale_documents)
    assert [(item.code, item.path) for item in result.findings] == [("stale-document", "README.md")]  # what is there
    assert asked == [root]
    validate(root, stale_documents=stale_documents, ignore=["stale-document"])
    assert asked == [root]


def test_documents_that_cannot_be_read_do_not_end_the_validation(root: Path) -> None:
    def stale_documents(tree: Path) -> list[str]:
        raise MachineError(f"cannot read {tree / 'README.md'}", code="unreadable")

    (root / "notes.txt").touch()
    assert codes(validate(root, stale_documents=stale_documents)) == {"unreadable", "stray-file"}


def test_progress_is_told_in_files_and_in_bytes(good_tree: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    validate(good_tree, progress=lambda *args: seen.setdefault(args[0], []).append(args[1:]))
    assert seen["reading"] == [(done, CHECKPOINTS) for done in range(1, CHECKPOINTS + 1)]
    result = validate(good_tree, deep=True, progress=lambda *args: seen.setdefault(args[0], []).append(args[1:]))
    assert seen["hashing"][-1] == (result.size, result.size)
    assert sum(path.stat().st_size for path in good_tree.rglob("*.pt")) == result.size


def test_progress_does_not_stumble_over_a_link_that_leads_nowhere(root: Path) -> None:
    (root / RUN / "gone.pt").symlink_to("nowhere")
    assert codes(validate(root, deep=True, progress=lambda *_: None)) == {"dangling-link"}


def test_the_document(root: Path) -> None:
    (root / RUN / "run.json").unlink()
    (root / "notes.txt").touch()
    (root / RUN / "a.txt").touch()
    document = validate(root).to_json()
    assert json.loads(json.dumps(document)) == document
    assert {key: document[key] for key in ("schema_version", "checked", "deep", "numbering")} == {
        "schema_version": 1, "checked": CHECKPOINTS, "deep": False, "numbering": "full",
    }  # fmt: skip
    assert document["counts"]["errors"] == 1
    assert document["counts"]["warnings"] == 2
    assert document["counts"]["by_code"] == {"stray-file": 2, "no-record": 1}
    assert [(item["path"], item["code"]) for item in document["findings"]] == [
        ("notes.txt", "stray-file"),
        (RUN, "no-record"),
        (f"{RUN}/a.txt", "stray-file"),
    ]
    assert set(document["findings"][0]) == {"code", "severity", "path", "message", "fix"}


def test_nothing_is_changed(root: Path) -> None:
    (root / RUN / ".ckptman-0123456789abcdef.partial").touch()
    state = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in root.rglob("*")}
    check(root)
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in root.rglob("*")} == state


# --- odd names and odd machines ---------------------------------------------------------------------------------------


ODD = ["new\nline", "\x1b[31mred", "[bold red]x", os.fsdecode(b"not utf-8 \xff"), "a:b,c%d", "-rf", " "]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_named_as_they_are(root: Path, name: str) -> None:
    (root / RUN / name).touch()
    (root / DYNAMIC / name).mkdir()
    (root / DYNAMIC / name / f"{name}.pt").touch()
    result = check(root)
    found = {(item.code, item.path) for item in result.findings}
    assert ("stray-file", f"{RUN}/{name}") in found
    assert ("bad-checkpoint", f"{DYNAMIC}/{name}/{name}.pt") in found
    assert ("no-record", f"{DYNAMIC}/{name}") in found


def test_version_control_and_licences_belong(root: Path) -> None:
    (root / ".git" / "objects").mkdir(parents=True)
    (root / ".git" / "HEAD").touch()
    for name in (".gitignore", ".gitattributes", "LICENSE", "README.md", "TASK_MAPPING.previous.md"):
        (root / name).touch()
    assert validate(root).findings == ()
    (root / DYNAMIC / ".git").mkdir()
    (root / DYNAMIC / "LICENSE").touch()
    assert codes(validate(root)) == {"empty-folder", "stray-file"}


def test_a_name_in_two_unicode_forms_is_a_twin(root: Path) -> None:
    (root / "caf\u00e9").mkdir()
    (root / "cafe\u0301").mkdir()
    assert codes(validate(root, ignore=["empty-folder"])) == {"case-twins"}


def test_nothing_is_missing_where_it_could_not_be_looked_for(root: Path, monkeypatch: MonkeyPatch) -> None:
    original = os.scandir

    def deny(path: Any) -> Any:
        if os.fspath(path) == str(root / FIXED):
            raise PermissionError(13, "Permission denied")
        return original(path)

    (root / DYNAMIC / "task_0000" / "overwritten.json").write_text("[]")  # a bad list hides nothing
    shutil.rmtree(root / DYNAMIC / "task_0000" / "seed_1337")
    assert codes(validate(root)) == {"bad-record", "missing-seed"}
    monkeypatch.setattr(os, "scandir", deny)
    result = validate(root)
    assert {(item.code, item.path) for item in result.findings} == {
        ("bad-record", f"{DYNAMIC}/task_0000/overwritten.json"),
        ("missing-seed", f"{DYNAMIC}/task_0000"),
        ("unreadable", FIXED),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_nobody_may_read_is_named_and_the_rest_goes_on(root: Path) -> None:
    (root / RUN / FINAL).chmod(0)
    (root / DYNAMIC_RUN).chmod(0)
    result = validate(root, ignore=["missing-seed"])
    (root / DYNAMIC_RUN).chmod(0o700)
    assert [(item.code, item.path) for item in result.findings] == [
        ("unreadable", DYNAMIC_RUN),
        ("unreadable", f"{RUN}/{FINAL}"),
    ]


def test_a_file_that_vanishes_meanwhile_is_no_fault_of_the_program(root: Path, monkeypatch: MonkeyPatch) -> None:
    original = os.open

    def vanish(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(root / RUN / FINAL):
            (root / RUN / FINAL).unlink(missing_ok=True)
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", vanish)
    assert codes(validate(root)) == {"unreadable"}


def test_neither_torch_nor_wandb_is_imported() -> None:
    import subprocess

    code = "import sys, ckptman.cli.validate, ckptman.cli.found; sys.exit(str({'torch', 'wandb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
