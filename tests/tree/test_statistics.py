"""Figures of a tree: each equals a count of the disk by other means."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ckptman.ingestion.ingesting import ingest
from ckptman.rules import comparing
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.terms import Convention
from ckptman.text.errors import UsageError
from ckptman.tree.statistics import TreeStatistics, count_tree, expected_groups
from tests.helpers.raw import config, write_checkpoint, write_run
from tests.helpers.recorded import SIZE, add_overwritten, add_run


def count(root: Path, convention: Convention | None = None) -> TreeStatistics:
    return count_tree(root, convention or built_in())


def walked(root: Path) -> list[Path]:
    """Every checkpoint file by another way than the code under test goes."""
    return [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".pt") and "wandb" not in Path(folder).parts and Path(folder, name).is_file()
    ]


def grid_files(found: TreeStatistics) -> int:
    return sum(item.files for item in found.grid_counts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a bit of everything."""
    for seed in (1337, 2337, 3337):
        add_run(tmp_path, config(seed=seed), run_id=f"run{seed}")
    add_run(tmp_path, config(n_layers=2, seed=1337), run_id="b", kinds=("Checkpoint",))
    add_run(tmp_path, config(k=4, train_min_k=4, wandb_group="len_gen_single_k4"), run_id="c", kinds=("Final",))
    add_run(tmp_path, config(k=18, wandb_group="len_gen_k18"), run_id="d")
    add_run(tmp_path, config(seed=7), run_id="e")
    add_run(tmp_path, config(wandb_group="my_group"), run_id="f", source_task=12)
    add_run(tmp_path, config(), run_id="again", notes=("again",))
    add_overwritten(tmp_path, config(use_mlp=True, seed=1337), config(use_mlp=True, seed=2337))
    return tmp_path


# --- files, bytes, runs -----------------------------------------------------------------------------------------------


def test_files_bytes_and_runs_are_those_on_the_disk(root: Path) -> None:
    found = count(root)
    files = walked(root)
    assert {root / file.path for file in found.files} == set(files)
    assert sum(file.size for file in found.files) == sum(file.stat().st_size for file in files)
    assert len(found.finished) == len(list(root.rglob("run.json")))
    assert len(found.configurations) == len({file.parent.parent for file in root.rglob("run.json")}) == 5
    assert len(found.lost) == 2


def test_one_more_file_is_counted(root: Path) -> None:
    before = count(root)
    extra = write_checkpoint(root / before.runs[0].folder / "odd name.pt", config())
    after = count(root)
    assert after.file_count == before.file_count + 1 == len(walked(root))
    assert [root / file.path for file in after.loose] == [extra]


def test_a_file_that_is_gone_is_not_counted(root: Path) -> None:
    before = count(root)
    gone = next(before.files).path
    (root / gone).unlink()
    after = count(root)
    assert after.file_count == before.file_count - 1
    assert after.absent == (gone,)
    assert len(after.finished) == len(before.finished)


def test_sizes_are_those_of_now(root: Path) -> None:
    file = next(count(root).files)
    (root / file.path).write_bytes(b"y" * 5 * SIZE)
    assert [now.size for now in count(root).files if now.path == file.path] == [5 * SIZE]


def test_kept_wandb_folders_hold_no_checkpoints(root: Path) -> None:
    before = count(root)
    media = root / before.finished[0].folder / "wandb" / "run-1" / "files"
    media.mkdir(parents=True)
    (media / "media.pt").write_bytes(b"x")
    (media / "run.json").write_text("{}")
    after = count(root)
    assert list(after.files) == list(before.files)
    assert after.unfinished == before.unfinished == ()
    shutil.copytree(media, root / "wandb")  # the same beside the runs is no kept W&B folder
    assert count(root).file_count == before.file_count + 1


def test_links_count_where_they_lead_to_a_file(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = root / next(count(root).files).path
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert (count(root).file_count, count(root).absent) == (len(walked(root)), ())
    elsewhere.unlink()
    assert (count(root).file_count, len(count(root).absent)) == (len(walked(root)), 1)


def test_other_things_called_like_a_checkpoint_are_none(root: Path) -> None:
    before = list(count(root).files)
    (root / "folder.pt").mkdir()
    os.mkfifo(root / "pipe.pt")
    (root / "loop.pt").symlink_to("loop.pt")
    assert list(count(root).files) == before


def test_an_unfinished_run_is_no_run_but_its_files_are_files(tmp_path: Path) -> None:
    write_run(tmp_path / "raw" / "len_gen_k8" / "task_0006", config(), run_id="abcd1234")
    ingest(tmp_path / "raw", tmp_path / "tree")
    before = count(tmp_path / "tree")
    folder = before.finished[0].folder
    (tmp_path / "tree" / folder / "run.json").unlink()
    after = count(tmp_path / "tree")
    assert (len(before.finished), len(after.finished)) == (1, 0)
    assert after.unfinished == (folder,)
    assert [file.path for file in after.files] == [file.path for file in before.files]
    assert after.runs[0].seed == 1337  # as the files' headers say


def test_a_run_json_that_cannot_be_read_makes_no_run(root: Path) -> None:
    before = count(root)
    folder = before.finished[0].folder
    (root / folder / "run.json").write_text("{")
    after = count(root)
    assert after.unfinished == (folder,)
    assert after.unknown == (next(before.files).path,)  # the files of a made tree have no header
    assert len(after.finished) == len(before.finished) - 1


def test_what_cannot_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = count(root)
    assert before.unreadable == ()
    lists = before.lost[0].folder / "overwritten.json"
    (root / lists).write_text("[]")
    closed = before.finished[0].folder
    listing = os.scandir

    def refuse(path: Path) -> object:  # whoever tests as root may read everything
        if Path(path) == root / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    after = count(root)
    assert set(after.unreadable) == {lists, closed}
    assert after.lost == ()
    assert len(after.finished) == len(before.finished) - 1


def test_there_must_be_a_tree(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        count(tmp_path / "none")
    assert caught.value.code == "no-tree"


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_expected_runs_are_the_grids_cross_product() -> None:
    rules = built_in()
    grid = rules.grids["main"]
    expected = expected_groups(rules)
    assert len(expected) == len(grid.k) * len(rules.groups)
    assert [group.name for group in expected if group.pattern is rules.groups[0]] == [f"len_gen_k{k}" for k in grid.k]


def test_the_grid_is_counted_cell_by_cell(root: Path) -> None:
    found = count(root)
    by_pattern = {item.pattern.pattern: item for item in found.grid_counts}
    dynamic, fixed = by_pattern["len_gen_k{K}"], by_pattern["len_gen_single_k{K}"]
    assert (dynamic.complete, dynamic.partial, dynamic.overwritten) == (3, 1, 2)
    assert (fixed.complete, fixed.partial, fixed.overwritten) == (0, 1, 0)
    assert (dynamic.files, fixed.files) == (7, 1)
    for item in found.grid_counts:
        assert item.complete + item.partial + item.overwritten + item.missing == item.runs_expected
    assert (dynamic.runs_expected, dynamic.files_expected) == (7 * 8 * 3, 7 * 8 * 3 * 2)
    assert sum(item.files_expected for item in found.grid_counts) == 7 * (8 + 4) * 2 * 3 * 2


def test_every_file_is_in_the_grid_or_outside_it(root: Path) -> None:
    found = count(root)
    assert grid_files(found) + len(list(found.outside_grid)) == found.file_count
    outside = Counter(file.path.parts[2:5:2] for file in found.outside_grid)
    assert outside == {
        ("len_gen_k18", "seed_1337"): 2,
        ("len_gen_k8", "seed_7"): 2,
        ("my_group", "seed_1337"): 2,
        ("len_gen_k8", "seed_1337-again"): 2,
    }


def test_where_no_recipe_says_how_many_files_a_run_has_those_of_a_second_run_are_outside_all_the_same(
    root: Path,
) -> None:
    rules = built_in()
    rules = replace(rules, prefixes=tuple(replace(prefix, step_config="") for prefix in rules.prefixes))
    found = count_tree(root, rules)
    assert grid_files(found) + len(list(found.outside_grid)) == found.file_count
    assert sum(file.path.parts[4] == "seed_1337-again" for file in found.outside_grid) == 2


def test_a_run_is_complete_only_by_itself(tmp_path: Path) -> None:
    add_run(tmp_path, config(), run_id="one", kinds=("Checkpoint",))
    add_run(tmp_path, config(), run_id="two", kinds=("Final",), notes=("two",))
    counted = count(tmp_path).grid_counts[0]
    assert (counted.complete, counted.partial, counted.files) == (0, 1, 2)


def test_a_run_too_short_for_a_checkpoint_on_the_way_is_complete_without_one(tmp_path: Path) -> None:
    add_run(tmp_path, config(seed=1337, max_iters=300), run_id="short", kinds=("Final",))
    add_run(tmp_path, config(seed=2337), run_id="long", kinds=("Final",))
    (pattern,) = [item for item in count(tmp_path).grid_counts if item.complete or item.partial]
    assert (pattern.complete, pattern.partial) == (1, 1)


def test_a_run_that_is_there_again_is_not_overwritten(tmp_path: Path) -> None:
    add_overwritten(tmp_path, config(seed=1337))
    assert count(tmp_path).grid_counts[0].overwritten == 1
    add_run(tmp_path, config(seed=1337), run_id="rerun")
    assert count(tmp_path).grid_counts[0].overwritten == 0


def test_both_numberings_have_the_same_figures(tmp_path: Path) -> None:
    merged = load_convention(numbering="merged")
    for rules, root in ((built_in(), tmp_path / "full"), (merged, tmp_path / "merged")):
        for mlp in (True, False):
            add_run(root, config(use_mlp=mlp), run_id=f"r{mlp}", convention=rules)
    full, other = count(tmp_path / "full"), count(tmp_path / "merged", merged)
    assert [vars(item) for item in full.grid_counts] != []
    for one, two in zip(full.grid_counts, other.grid_counts, strict=True):
        assert (one.complete, one.missing, one.files) == (two.complete, two.missing, two.files)
    assert len(full.configurations) == len(other.configurations) == 2
    assert len({c.folder for c in other.configurations}) == 1


def test_a_pattern_with_more_than_k_expects_its_grid_for_the_values_found(tmp_path: Path) -> None:
    (tmp_path / "ckptman.yaml").write_text(
        "groups:\n  'v{vocab_n}_k{K}': {layernorm: true, regime: dynamic, grid: main, example: v64_k8}\n"
    )
    rules = load_convention(tmp_path / "ckptman.yaml")
    assert count(tmp_path, rules).grid_counts[-1].runs_expected == 0
    add_run(tmp_path, config(vocab_n=64, wandb_group="v64_k8"), convention=rules)
    counted = count(tmp_path, rules).grid_counts[-1]
    assert (counted.runs_expected, counted.complete) == (7 * 8 * 3, 1)


# --- configurations ---------------------------------------------------------------------------------------------------


def test_seeds_and_where_it_was_computed_make_no_configuration(tmp_path: Path) -> None:
    add_run(tmp_path, config(seed=1337, save_dir="a"), run_id="a", more={"device": "cpu"})
    add_run(tmp_path, config(seed=2337, save_dir="b"), run_id="b", more={"device": "cuda"})
    assert len(count(tmp_path).configurations) == 1
    add_run(tmp_path, config(seed=3337, learning_rate=1e-3), run_id="c")
    assert len(count(tmp_path).configurations) == 2


def test_runs_of_another_k_are_another_configuration(tmp_path: Path) -> None:
    add_run(tmp_path, config(k=8), run_id="a")
    add_run(tmp_path, config(k=6, wandb_group="len_gen_k6"), run_id="b")
    assert len(count(tmp_path).configurations) == 2


# --- a tree sorted by hand --------------------------------------------------------------------------------------------


def test_a_tree_sorted_by_hand_is_told_by_its_headers(tmp_path: Path) -> None:
    layout = tmp_path / "with_layernorm" / "dynamic" / "len_gen_k8" / "task_0002"
    for seed in (1337, 2337):
        for kind, step in (("Checkpoint", 20001), ("Final", 40000)):
            name = f"{kind}_{seed}.pt" if seed == 2337 else f"{kind}.pt"
            write_checkpoint(layout / name, config(seed=seed), step=step)
    write_checkpoint(layout / "seed_3337" / "x.pt", config(seed=3337))
    (layout / "text.pt").write_text("not a checkpoint")
    found = count(tmp_path)
    assert found.finished == ()
    assert [(run.seed, len(run.files), run.group) for run in found.runs] == [
        (1337, 2, "len_gen_k8"), (2337, 2, "len_gen_k8"), (3337, 1, "len_gen_k8"),
    ]  # fmt: skip
    assert {configuration.folder.name for configuration in found.configurations} == {"task_0002"}
    assert len(found.configurations) == 1
    assert [path.name for path in found.unknown] == ["text.pt"]
    assert found.file_count == 6 == len(walked(tmp_path))


def test_a_file_anywhere_gets_its_group_from_its_configuration(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.pt", config(wandb_group=None))
    assert [run.group for run in count(tmp_path).runs] == ["len_gen_k8"]


def steps_for(configurations: int, root: Path, monkeypatch: pytest.MonkeyPatch, *, recorded: bool) -> int:
    """How often values are compared in counting a task folder of so many configurations."""
    steps = 0
    real = comparing.canonical

    def counted(value: object) -> object:
        nonlocal steps
        steps += 1
        return real(value)

    for number in range(configurations):
        values = config(n_embd=8, weight_decay=number / 1000)
        if recorded:
            add_run(root, values, run_id=str(number), notes=(str(number),))
        else:
            write_checkpoint(root / f"{number}.pt", values)
    with monkeypatch.context() as patched:
        patched.setattr(comparing, "canonical", counted)
        assert len(count(root).configurations) == configurations
    return steps


@pytest.mark.parametrize("recorded", [True, False])
def test_counting_many_configurations_of_one_folder_is_not_quadratic(
    recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (steps_for(n, tmp_path / str(n), monkeypatch, recorded=recorded) for n in (20, 80))
    assert few < many < 5 * few  # by comparing each with each, it is 16 times as much
