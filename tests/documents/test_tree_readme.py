"""README.md of a tree: its figures, its blocks, and that what it says about using the tree works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.documents.tree_readme import block_contents, readme_text
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.terms import Convention
from ckptman.text.wording import size_text
from ckptman.training.model import GPT, GPTConfig
from ckptman.tree.statistics import count_tree
from tests.helpers.model_folders import distributed, trainer
from tests.helpers.raw import config, gen_metrics, write_checkpoint, write_run
from tests.helpers.recorded import SIZE, add_overwritten, add_run

SECTIONS = [
    "Figures", "Directory Structure", "Best Configurations", "Task Directory Structure", "Checkpoint Naming Convention",
    "Checkpoint Contents", "Loading Checkpoints", "Checkpoint Statistics", "Adding New Checkpoints", "Source Location",
]  # fmt: skip


def block(root: Path, name: str, convention: Convention | None = None) -> str:
    return block_contents(count_tree(root, convention or built_in()))[name]


def readme(root: Path, existing: str | None = None) -> str:
    return readme_text(count_tree(root, built_in()), existing)


def figures(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell without markup."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
            found[re.sub(r"\[(.*)\]\(.*\)|[`*]", r"\1", first).strip("`")] = rest
    return found


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1337, 2337, 3337):
        add_run(tmp_path, config(seed=seed), run_id=f"run{seed}", metrics=gen_metrics(0.9))
    add_run(tmp_path, config(n_layers=2), run_id="b", kinds=("Checkpoint",), metrics=gen_metrics(0.5))
    fixed = config(k=4, train_min_k=4, use_layernorm=False, wandb_group="len_gen_single_no_ln_k4")
    add_run(tmp_path, fixed, run_id="c", source_root="/scratch/b")
    add_run(tmp_path, config(wandb_group="my_group"), run_id="d", source_task=12)
    add_overwritten(tmp_path, config(use_mlp=True, seed=1337), config(use_mlp=True, seed=2337))
    return tmp_path


# --- the whole document -----------------------------------------------------------------------------------------------


def test_a_new_readme_has_all_sections_and_every_block(root: Path) -> None:
    text = readme(root)
    outside = re.sub(r"<!-- ckptman:begin (\w+) -->.*?<!-- ckptman:end \1 -->", "", text, flags=re.DOTALL)
    assert re.findall(r"^## (.*)$", outside, re.MULTILINE) == SECTIONS
    names = re.findall(r"^<!-- ckptman:begin (\w+) -->$", text, re.MULTILINE)
    assert sorted(names) == sorted(block_contents(count_tree(root, built_in())))
    assert readme(root, text) == text


def test_figures_stand_only_between_markers(root: Path) -> None:
    text = readme(root)
    outside = re.sub(r"<!-- ckptman:begin (\w+) -->.*?<!-- ckptman:end \1 -->", "", text, flags=re.DOTALL)
    assert re.search(r"[0-9]", text)
    assert not re.search(r"[0-9]", outside)


def test_a_readme_of_people_gets_the_statistics_at_its_end(root: Path) -> None:
    mine = "# My checkpoints\n\nDo not touch. (caf\u00e9)"
    text = readme(root, mine)
    assert text.startswith(mine)
    assert text.count("ckptman:begin") == 1
    assert "<!-- ckptman:begin statistics -->" in text
    assert readme(root, text) == text


def test_only_the_blocks_that_are_there_are_filled(root: Path) -> None:
    mine = "# Mine\n<!-- ckptman:begin summary -->\n<!-- ckptman:end summary -->\nmore"
    text = readme(root, mine)
    assert text == mine.replace("-->\n<", f"-->\n\n{block(root, 'summary')}\n\n<", 1)


def test_an_empty_tree_has_a_readme(tmp_path: Path) -> None:
    text = readme(tmp_path)
    assert "no checkpoint here yet" in text
    assert figures(text)["Checkpoint files"] == ["0"]


# --- figures ----------------------------------------------------------------------------------------------------------


def test_totals_are_those_of_find(root: Path) -> None:
    told = figures(block(root, "statistics"))
    files = find(root, "-type f -name '*.pt'")
    size = sum((root / file).stat().st_size for file in files)
    assert told["Checkpoint files"] == [str(len(files))]
    assert told["Size in all"] == [f"1.10 kB ({size:,} bytes)"]
    assert size == len(files) * SIZE == 1100
    assert told["Runs"] == [str(len(find(root, "-name run.json")))]
    assert told["Overwritten runs"] == ["2"]


def test_the_readmes_own_commands_count_the_same(root: Path) -> None:
    (kept := root / "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337/wandb/run-1/files").mkdir(parents=True)
    (kept / "media.pt").write_bytes(b"x")
    (kept / "run.json").write_text("{}")
    (trash := root / ".ckptman-trash" / "seed_1337").mkdir(parents=True)
    for name in ("a.pt", "run.json"):
        (trash / name).write_bytes(b"x")
        (kept.parents[2] / f"._{name}").write_bytes(b"x")
    text = block(root, "statistics")
    (commands,) = code(text, "bash")
    counted = [
        subprocess.run(["bash", "-ec", line], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        for line in commands.splitlines()
        if not line.startswith("#")
    ]
    told = figures(text)
    assert counted == [told["Checkpoint files"][0], re.sub(r".*\(|\D", "", told["Size in all"][0]), told["Runs"][0]]


def test_links_are_counted_by_the_readmes_own_commands_as_well(root: Path) -> None:
    file = next(root.rglob("Final*"))
    elsewhere = root.parent / f"{root.name}.elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    (root / "dead.pt").symlink_to("nowhere")
    (root / "folder.pt").mkdir()
    (root / "linked").symlink_to(root / "with_layernorm")
    (root / "loop").symlink_to(root)
    text = block(root, "statistics")
    (commands,) = code(text, "bash")
    for command, told in zip(commands.splitlines()[1:3], ("11", "1100"), strict=True):
        done = subprocess.run(["bash", "-ec", command], cwd=root, capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), done.stderr) == (told, "")
    assert figures(text)["Checkpoint files"] == ["11"]


def find(root: Path, what: str) -> list[str]:
    done = subprocess.run(["find", ".", *shlex.split(what)], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_groups_are_counted_by_their_folders(root: Path) -> None:
    told = figures(block(root, "statistics"))
    for group in ("with_layernorm/dynamic/len_gen_k8/", "without_layernorm/fixed/len_gen_single_no_ln_k4/"):
        _, runs, files, size = told[group]
        assert size == size_text(sum(file.stat().st_size for file in (root / group).rglob("*.pt")))
        assert int(files) == len(find(root / group, "-type f -name '*.pt'"))
        assert int(runs) == len(find(root / group, "-name run.json"))
    assert told["With LayerNorm, dynamic training"][1:3] == ["5", "9"]
    assert "Elsewhere" not in told
    write_checkpoint(root / "lost" / "x.pt", config())
    assert figures(block(root, "statistics"))["Elsewhere"][1:3] == ["0", "1"]


def test_sizes_are_told_by_kind(root: Path) -> None:
    final = next(root.rglob("Final*"))
    final.write_bytes(b"x" * 5000)
    told = figures(block(root, "statistics"))
    assert told["Checkpoint (on the way)"] == ["6", "100 B", "100 B", "100 B", "600 B"]
    assert told["Final (end of training)"] == ["5", "100 B", "100 B", "5.00 kB", "5.40 kB"]


def test_expected_and_found_add_up(root: Path) -> None:
    told = figures(block(root, "statistics"))
    product, runs, complete, partial, overwritten, missing, files = told["len_gen_k{K}"]
    assert eval(product.replace("×", "*")) == 2 * int(runs)
    assert (complete, partial, overwritten, missing) == ("3", "1", "2", str(168 - 6))
    assert files == "7 of 336"
    assert told["In all"][-1] == "9 of 1,008"
    assert "2 files are outside the grid" in block(root, "statistics")


def test_a_smaller_grid_is_expected_from_a_smaller_convention(root: Path, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.mktemp("rules") / "ckptman.yaml"
    file.write_text("grids: {main: {k: [8], seeds: [1337]}}\n")
    told = figures(block(root, "statistics", load_convention(file)))
    assert told["len_gen_k{K}"] == ["1 × 8 × 1 × 2", "8", "1", "1", "1", "5", "3 of 16"]


def test_seeds_are_counted(root: Path) -> None:
    add_run(root, config(seed=42), run_id="e")
    told = figures(block(root, "statistics"))
    assert list(told)[-4:] == ["42", "1337", "2337", "3337"]
    assert told["1337"] == ["4", "7", "1"]
    assert told["42"] == ["1", "2", "0"]


def test_one_more_file_changes_the_figures(root: Path) -> None:
    before = block(root, "statistics")
    folder = next(root.rglob("run.json")).parent
    write_checkpoint(folder / "more.pt", config())
    after = block(root, "statistics")
    assert figures(after)["Checkpoint files"] == ["12"] != figures(before)["Checkpoint files"]
    assert "1 file is counted that no `run.json` names" in " ".join(after.split())


def test_an_unfinished_run_is_told(root: Path) -> None:
    (root / "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337/run.json").unlink()
    text = " ".join(block(root, "statistics").split())
    assert "1 run folder without a usable `run.json` is unfinished and not counted as runs: `with_layernorm/" in text
    assert figures(block(root, "statistics"))["Runs"] == ["5"]
    assert figures(block(root, "statistics"))["Checkpoint files"] == ["11"]
    assert figures(block(root, "statistics"))["1337"][0] == "3"  # runs of this seed, of 4


def test_missing_checkpoints_are_told(root: Path) -> None:
    next(root.rglob("Final*")).unlink()
    assert "1 checkpoint that a `run.json` names is not there" in " ".join(block(root, "statistics").split())


def test_what_cannot_be_read_is_told(root: Path) -> None:
    assert "cannot be read" not in block(root, "statistics")
    lists = next(root.rglob("overwritten.json"))
    lists.write_text("[]")
    told = f"These cannot be read, so what is in them is not counted: `{lists.relative_to(root)}`."
    assert told in " ".join(block(root, "statistics").split())


def test_a_tree_sorted_by_hand_is_told_how_to_become_one(tmp_path: Path) -> None:
    layout = tmp_path / "with_layernorm" / "dynamic" / "len_gen_k8" / "task_0006"
    write_checkpoint(layout / "Final.pt", config())
    text = readme(tmp_path)
    assert "sorted by hand" in text
    assert "`ckptman ingest . --root ../sorted`" in text
    assert "1 checkpoint file, 1 configuration" in text
    assert "sorted by hand" not in readme(add_run(tmp_path / "other", config()).parents[4])
    ingest(tmp_path, tmp_path.parent / "sorted", settle=0)
    assert (tmp_path.parent / "sorted").is_dir()


# --- structure, names, examples ---------------------------------------------------------------------------------------


def test_the_drawing_is_of_what_is_there(root: Path) -> None:
    drawn = block(root, "structure")
    assert "fixed/" in drawn
    assert "├── len_gen_k8/" in drawn
    assert "seeds 1337, 2337, 3337 ⭐" in drawn
    names = set(re.findall(r"── ([\w.-]+)", drawn)) - {"TASK_MAPPING.md", "README.md", "Checkpoint_", "Final_"}
    assert {"seed_1337", "task_0006", "my_group", "run.json"} <= names
    assert [name for name in names if not list(root.rglob(name))] == []
    (root / "extra").mkdir()
    assert re.search(r"├── extra/ +not a part of the layout", block(root, "structure"))


def test_folders_that_are_not_there_are_not_drawn(tmp_path: Path) -> None:
    add_run(tmp_path, config())
    drawn = block(tmp_path, "structure")
    assert "without_layernorm" not in drawn
    assert "fixed" not in drawn
    assert "ckptman.yaml" not in drawn
    (tmp_path / "ckptman.yaml").write_text("")
    assert "ckptman.yaml" in block(tmp_path, "structure")


def test_long_lists_are_drawn_short(tmp_path: Path) -> None:
    for number in range(40):
        add_run(tmp_path, config(wandb_group=f"group{number}"), run_id=f"r{number}", source_task=1)
        add_run(tmp_path, config(wandb_group="group0"), run_id=f"s{number}", source_task=100 + number)
    drawn = block(tmp_path, "structure")
    assert len(drawn.splitlines()) < 60
    assert re.search(r"… +17 more groups", drawn)
    assert re.search(r"… +26 more tasks", drawn)


def test_hostile_folder_names_stay_in_the_drawing(tmp_path: Path) -> None:
    for name in ("```", "<!-- ckptman:end structure -->", "a\nb", "\x1b[31m"):
        (tmp_path / "with_layernorm" / "dynamic" / name).mkdir(parents=True)
    text = readme(tmp_path)
    assert readme(tmp_path, text) == text
    assert "\x1b" not in text
    assert "a\\nb/" in text


def test_the_naming_table_comes_from_the_convention(root: Path, tmp_path_factory: Any) -> None:
    told = figures(block(root, "naming"))
    assert {field.tag for field in built_in().fields} <= told.keys()
    assert told["trainK"][-1] == "2to8, 4to4"
    assert told["L"][-1] == "1, 2"
    assert told["mlp"][-1] == "0"
    assert told["norm"][-1] == "–"
    assert told["iters"][-1] == "20001, 40000"
    file = tmp_path_factory.mktemp("rules") / "ckptman.yaml"
    file.write_text("name: {fields: {bias: {config: bias, type: bool, optional: true, after: mlp, title: Biases}}}\n")
    assert figures(block(root, "naming", load_convention(file)))["bias"] == ["Biases (optional)", "0 or 1", "–"]


def test_examples_exist(root: Path) -> None:
    text = block(root, "examples")
    names = [name.strip() for name in code(text, "")]
    folders = re.findall(r"\]\(([^)]+)\)", text)
    assert len(names) == len(folders) == 2
    assert all((root / folder / name).is_file() for folder, name in zip(folders, names, strict=True))
    assert "Generalization 90.0 % (W&B)" in text


def test_links_lead_somewhere(root: Path) -> None:
    (root / "TASK_MAPPING.md").write_text("")
    targets = set(re.findall(r"\]\(([^)]+)\)", readme(root)))
    assert len(targets) > 5
    assert [target for target in targets if not (root / target).exists()] == []


def test_sources_are_told(root: Path) -> None:
    told = figures(block(root, "source"))
    assert told["/scratch/grid_outputs"] == ["5", "9", "2"]
    assert told["/scratch/b"] == ["1", "2", "0"]
    assert not any(group.pattern in block(root, "source") for group in built_in().groups)  # which none of them says


def test_the_tasks_are_those_of_the_numbering(root: Path) -> None:
    merged = block(root, "tasks", load_convention(numbering="merged"))
    assert "task_0007" not in merged
    assert "task_0007" in block(root, "tasks")


# --- loading ----------------------------------------------------------------------------------------------------------


def python(snippet: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _saved(form: str, weights: dict[str, Any], values: TrainConfig) -> dict[str, Any]:
    """What a trainer of each form saves."""
    plain = values.to_dict()
    return {
        "A": {"model": weights, "train_config": plain, "iters_done": 40000},
        "B": {"model_state_dict": weights, "config": values, "iters_done": 40000},
        "B, plain": {"model_state_dict": weights, "config": plain, "iters_done": 40000},
        "nanoGPT": {"model": weights, "model_args": {}, "iter_num": 40000, "config": plain},
        "Lightning": {"state_dict": weights, "hyper_parameters": plain, "global_step": 40000},
        "weights": weights,
    }[form]


@pytest.mark.parametrize("form", ["A", "B", "B, plain", "nanoGPT", "Lightning", "weights"])
def test_the_loading_code_is_for_the_forms_that_are_here_and_works(form: str, tmp_path: Path) -> None:
    values = config()
    folder = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    write_run(folder, values, run_id="abcd1234", files=("Final",))
    [file] = (folder / "saved_models").iterdir()
    when = file.stat().st_mtime
    torch.save(_saved(form, GPT(GPTConfig.from_train_config(values)).state_dict(), values), file)
    os.utime(file, (when, when))
    assert ingest(tmp_path / "raw", tmp_path / "tree").refused == ()
    first, *documented = code(block(tmp_path / "tree", "loading"), "python")
    assert python(first + "print(type(model).__name__)", tmp_path / "tree") == "GPT\n"
    assert len(documented) == (form == "B")
    for snippet in documented:
        assert snippet.startswith("import torch\nfrom ckptman import GPT, GPTConfig\n")
        assert python(snippet + "print(type(model).__name__)", tmp_path / "tree") == "GPT\n"
    names = ("A", "B", "nanoGPT", "Lightning", "weights")
    text = block(tmp_path / "tree", "contents")
    assert [name for name in names if f"Form {name} " in text] == [form.partition(",")[0]]


TRIL = torch.ones(1, 1, 65, 65).tril()


@pytest.mark.parametrize(
    ("change", "documented"),
    [
        (lambda weights: weights, 1),
        (lambda weights: {**weights, "transformer.h.0.attn.bias": TRIL}, 0),
        (lambda weights: {f"module.{name}": weight for name, weight in weights.items()}, 0),
        (lambda weights: {name: weight for name, weight in weights.items() if name != "lm_head.weight"}, 0),
    ],
    ids=["as they are", "with a mask", "wrapped", "the head once"],
)
def test_the_loading_code_step_by_step_is_shown_where_it_works(
    change: Callable[[dict[str, Any]], dict[str, Any]], documented: int, tmp_path: Path
) -> None:
    """It loads strictly, so that a name too many or too few ends it."""
    values = config()
    folder = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    write_run(folder, values, run_id="abcd1234", files=("Final",))
    [file] = (folder / "saved_models").iterdir()
    when = file.stat().st_mtime
    weights = change(GPT(GPTConfig.from_train_config(values)).state_dict())
    torch.save(_saved("B", weights, values), file)
    os.utime(file, (when, when))
    assert ingest(tmp_path / "raw", tmp_path / "tree").refused == ()
    snippets = code(block(tmp_path / "tree", "loading"), "python")
    for snippet in snippets:
        assert python(snippet + "print(type(model).__name__)", tmp_path / "tree") == "GPT\n"
    assert len(snippets) == 1 + documented


def test_the_loading_code_of_another_model_loads_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    write_run(folder, config(), run_id="abcd1234", files=("Final",), more={"use_mystery": True})
    ingest(tmp_path / "raw", tmp_path / "tree")
    [snippet] = code(block(tmp_path / "tree", "loading"), "python")
    assert "ckptman.load_weights(" in snippet
    assert int(python(snippet + "print(len(weights))", tmp_path / "tree")) > 5


def test_the_loading_code_of_a_tree_with_its_own_rules_is_by_these(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    write_run(folder, config(), run_id="abcd1234", files=("Final",), more={"use_mystery": True})
    ingest(tmp_path / "raw", root := tmp_path / "tree")
    (root / "ckptman.yaml").write_text("model: {without_effect: [use_mystery]}\n")
    [snippet] = code(block(root, "loading", load_convention(root / "ckptman.yaml")), "python")
    assert python(snippet + "print(type(model).__name__)", root) == "GPT\n"


def test_checkpoints_that_are_folders_are_told_of_and_loaded(tmp_path: Path) -> None:
    saved = tmp_path / "raw" / "len_gen_k8" / "task_0006" / "saved_models"
    trainer(saved / "seed_1337" / "checkpoint-40000", config(n_layers=1))
    distributed(saved / "seed_2337" / "step-40000", config(n_layers=1, seed=2337))
    ingest(tmp_path / "raw", root := tmp_path / "tree")
    snippets = code(block(root, "loading"), "python")
    assert [python(snippet + "print(type(model).__name__)", root) for snippet in snippets] == ["GPT\n"] * 2
    told = block(root, "contents")
    assert "Form A, torch.distributed.checkpoint folder" in told
    assert "Form Trainer, safetensors in shards" in told
    assert figures(told)["Weights by parameter name"] == ["`model`", "the files of the folder"]
    assert "torch.save" not in told
    write_run(folder := tmp_path / "more" / "len_gen_k8" / "task_0006", config(seed=3337), run_id="abcd1234")
    ingest(folder.parents[1], tmp_path / "files")
    assert "Each file is a dictionary that `torch.save` wrote" in block(tmp_path / "files", "contents")


def test_two_forms_with_one_set_of_keys_are_both_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    for seed, form in ((1337, "A"), (2337, "Lightning")):
        values = config(seed=seed)
        [file] = write_run(folder / f"seed_{seed}", values, run_id=f"run{seed}", files=("Final",))
        when = file.stat().st_mtime
        torch.save(_saved(form, GPT(GPTConfig.from_train_config(values)).state_dict(), values), file)
        os.utime(file, (when, when))
    assert ingest(tmp_path / "raw", tmp_path / "tree").refused == ()
    assert "Form A " in block(tmp_path / "tree", "contents")
    assert "Form Lightning " in block(tmp_path / "tree", "contents")


def test_a_file_that_is_its_weights_is_said_to_be(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    [file] = write_run(folder, config(), run_id="abcd1234", files=("Final",))
    when = file.stat().st_mtime
    torch.save(GPT(GPTConfig.from_train_config(config())).state_dict(), file)
    os.utime(file, (when, when))
    ingest(tmp_path / "raw", tmp_path / "tree")
    told = figures(block(tmp_path / "tree", "contents"))
    assert {key: value for key, value in told.items() if not key.startswith("-")} == {
        "Holds": ["Form weights"], "Weights by parameter name": ["the file itself"],
    }  # fmt: skip
