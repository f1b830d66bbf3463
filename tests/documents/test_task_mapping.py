"""TASK_MAPPING.md: ids, presence, stars, and snippets that do what they say."""

from __future__ import annotations

import ast
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import ckptman.cli.ls
import ckptman.cli.task  # noqa: F401  (registers the command that the document names)
from ckptman.cli.app import run as ckptman_run
from ckptman.documents.task_mapping import task_mapping_text
from ckptman.ingestion import ingest
from ckptman.queries import results
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.grids import cells
from ckptman.rules.terms import Convention
from ckptman.tree.metrics import from_metrics
from ckptman.tree.statistics import count_tree
from tests.helpers.raw import config, gen_metrics, write_checkpoint, write_run
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.task_mappings import best, document, rows, section
from tests.helpers.trees import RUN, small_config, write_source

NUMBERINGS = ["full", "merged"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def links(text: str) -> set[str]:
    return {unquote(target) for target in re.findall(r"\]\(([^)]+)\)", text)}


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_each_familys_table_has_every_cell_of_its_grid(numbering: str) -> None:
    rules = load_convention(numbering=numbering)
    text = section(task_mapping_text(rules), "Tasks by family")
    parts = text.split("\n### ")[1:]
    assert len(parts) == 4
    for part, group in zip(
        parts, sorted(rules.groups, key=lambda g: (not g.facets["layernorm"], g.regime)), strict=True
    ):
        wanted = [
            [rules.folders.task(cell.task), *(rules.axis(axis).word(value) for axis, value in cell.values.items())]
            for cell in cells(rules.grids["main"], group.regime, numbering)
        ]
        assert [[cell.strip("`") for cell in row] for row in rows(part)[2:]] == wanted


def test_the_table_of_the_published_document_is_there() -> None:
    text = task_mapping_text(built_in())
    assert rows(text, "task_0006", "1", "Off", "mix")
    assert rows(text, "task_0003", "1", "Off")
    assert not rows(text, "task_0006", "1", "On")


def test_both_numberings_stand_side_by_side() -> None:
    numbered = section(task_mapping_text(built_in()), "Numberings")
    assert rows(numbered, "1", "Off", "mix", "task_0006", "task_0002")
    assert rows(numbered, "2", "Off", "curriculum", "task_0003", "task_0001")
    assert rows(numbered, "1", "Off", "task_0003", "task_0003")


def test_a_grid_with_other_axes_is_documented_from_the_convention(tmp_path: Path) -> None:
    file = tmp_path / "ckptman.yaml"
    file.write_text(
        "grids:\n  main:\n    k: [5]\n    axes: {n_layers: [1, 2, 3]}\n    regimes:\n"
        "      dynamic: {axes: [length_mode, n_layers]}\n    numberings: {merged: null}\n"
    )
    text = task_mapping_text(load_convention(file))
    assert rows(text, "task_0004", "curriculum", "2")
    assert "task = 3 × Length Mode + Layers" in text
    assert "1 × 6 × 3 = 18" in text
    assert "has one numbering" in text


def test_the_size_of_the_whole_grid_is_computed() -> None:
    assert "In all 504 runs, 1,008 files." in task_mapping_text(built_in())


# --- decoding ---------------------------------------------------------------------------------------------------------


LARGER = """\
name: {keep: true}
folders: {task: {pattern: "t{task}-x", digits: 3}}
grids:
  main:
    axes: {n_layers: [1, 2, 3], length_mode: [mix, curriculum, "it's"], lr$: [1, 2]}
    regimes: {dynamic: {axes: [length_mode, n_layers, use_mlp, lr$]}}
"""


@pytest.fixture(params=["full", "merged", "larger"])
def rules(request: pytest.FixtureRequest, tmp_path: Path) -> Convention:
    """Both numberings, and a grid with longer axes, whose values a shell would take for something else."""
    if request.param != "larger":
        return load_convention(numbering=request.param)
    (tmp_path / "ckptman.yaml").write_text(LARGER)
    return load_convention(tmp_path / "ckptman.yaml")


def snippets(rules: Convention, language: str, word: str) -> list[tuple[str, str]]:
    """The snippets with a word in them, and the regime of each."""
    found = [s for s in blocks(section(task_mapping_text(rules), "Decoding an id"), language) if word in s]
    return list(zip(found, ("dynamic", "fixed"), strict=True))


def decoded(rules: Convention, regime: str) -> list[tuple[int, dict[str, object]]]:
    """Each id, and what it says: the values of the axes that have a part in it."""
    left_out = rules.grids["main"].numberings[rules.numbering].get(regime, ())
    return [
        (cell.task, {axis: value for axis, value in cell.values.items() if axis not in left_out})
        for cell in cells(rules.grids["main"], regime, rules.numbering)
    ]


def test_the_shell_snippets_work(rules: Convention) -> None:
    for snippet, regime in snippets(rules, "bash", "folder="):
        assert bash(snippet) == snippet.strip().rpartition("# ")[2]
        for task, values in decoded(rules, regime):
            told = bash(re.sub(r"folder=\S+", f"folder={rules.folders.task(task)}", snippet))
            wanted = [str(value).lower() if isinstance(value, bool) else str(value) for value in values.values()]
            assert [word.partition("=")[2] for word in told.split()] == wanted


def bash(snippet: str) -> str:
    return subprocess.run(["bash", "-euc", snippet], capture_output=True, text=True, check=True).stdout.strip()


def test_the_python_snippets_work(rules: Convention) -> None:
    for snippet, regime in snippets(rules, "python", "task = "):
        assert python(snippet) == snippet.strip().rpartition("# ")[2]
        ids = {task for task, _ in decoded(rules, regime)}
        loop = re.sub(r"^task = .*\n", f"for task in range({len(ids)}): ", snippet, flags=re.MULTILINE)
        told = python(loop).splitlines()
        for task, values in decoded(rules, regime):
            assert ast.literal_eval(told[task]) == values


def python(snippet: str) -> str:
    done = subprocess.run([sys.executable, "-Ic", snippet], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_the_ckptman_commands_say_the_same(numbering: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = section(task_mapping_text(load_convention(numbering=numbering)), "Decoding an id")
    commands = [block.split() for block in blocks(text, "bash") if block.startswith("ckptman task")]
    assert len(commands) == 2
    for command, snippet in zip(commands, blocks(text, "python"), strict=True):
        assert ckptman_run([*command[1:], "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        values = ast.literal_eval(snippet.strip().rpartition("# ")[2])
        assert values.items() <= find_config(told).items()


def find_config(document: object) -> dict[str, object]:
    """The first mapping in a JSON document that holds a configuration."""
    if isinstance(document, dict) and "n_layers" in document:
        return document
    parts = document.values() if isinstance(document, dict) else document if isinstance(document, list) else []
    return next((found for part in parts if (found := find_config(part))), {})


# --- what is there ----------------------------------------------------------------------------------------------------


def test_a_mark_tells_what_is_there_of_each_seed(tmp_path: Path) -> None:
    add_run(tmp_path, config(seed=1337))
    add_run(tmp_path, config(seed=2337), run_id="b", kinds=("Checkpoint",))
    add_run(tmp_path, config(seed=3337), run_id="c", kinds=("Final",))
    add_overwritten(tmp_path, config(use_mlp=True, seed=2337))
    text = document(tmp_path)
    assert rows(text, "task_0006", "1", "Off", "mix")[0][4:] == ["●◐◑"]
    assert rows(text, "task_0004", "1", "On", "mix")[0][4:] == ["·⊘·"]
    assert rows(text, "task_0000", "2", "On", "mix")[0][4:] == ["···"]
    assert "Seeds, in this order: 1337, 2337, 3337. Not here: K = 4, 6, 10, 12, 14, 16." in text


def test_a_file_that_is_gone_is_not_marked(tmp_path: Path) -> None:
    folder = add_run(tmp_path, config())
    assert "●··" in document(tmp_path)
    next(folder.glob("Final*")).unlink()
    assert "●··" not in document(tmp_path)
    assert "◐··" in document(tmp_path)


def test_the_better_of_two_runs_of_a_seed_is_marked_and_both_are_named(tmp_path: Path) -> None:
    add_run(tmp_path, config(), kinds=("Checkpoint",))
    second = add_run(tmp_path, config(), run_id="two", notes=("two",))
    text = document(tmp_path)
    assert rows(text, "task_0006", "1", "Off", "mix")[0][4:] == ["●··"]
    assert f"Second runs of a seed: [`{second.relative_to(tmp_path)}`]" in " ".join(text.split())


def test_no_copy_without_a_record_is_the_first_run_of_a_seed(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    ingest(write_source(tmp_path / "raw", [small_config(seed=1337)]), root, settle=0)
    copy = (root / RUN).with_name("seed_0")
    shutil.copytree(root / RUN, copy)
    (copy / "run.json").unlink()
    text = " ".join(document(root).split())
    assert f"Second runs of a seed: [`{copy.relative_to(root)}`]" in text


def test_a_run_whose_files_are_gone_has_no_part_in_the_means(tmp_path: Path) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(0.5))
    gone = add_run(tmp_path, config(seed=2337), run_id="two", metrics=gen_metrics(0.9))
    assert "70.0 % ± 28.3 (2)" in document(tmp_path)
    for file in gone.glob("*.pt"):
        file.unlink()
    text = document(tmp_path)
    assert "50.0 % (1)" in text
    assert "70.0 % ± 28.3 (n = 2)" in text, "over all W&B runs"
    assert [row.mean for row in results(tmp_path).rows] == [0.5]


def test_groups_are_columns_in_natural_order(tmp_path: Path) -> None:
    for k in (16, 4, 8, 18):
        add_run(tmp_path, config(k=k, wandb_group=f"len_gen_k{k}"), run_id=f"k{k}")
    text = document(tmp_path)
    assert rows(text, "Task", "Layers", "MLP", "Length Mode")[0][4:] == ["K = 4", "K = 8", "K = 16", "K = 18"]
    order = [row[0].split("]")[0].strip("[`/") for row in rows(section(text, "Where to find a configuration"))[2:]]
    assert order == [f"with_layernorm/dynamic/len_gen_k{k}" for k in (4, 8, 16, 18)]


def test_other_seeds_and_unknown_ones_have_marks(tmp_path: Path) -> None:
    add_run(tmp_path, config(seed=7))
    add_run(tmp_path, config(), run_id="b", more={"seed": None})
    text = document(tmp_path)
    assert "Seeds, in this order: 7, 1337, 2337, 3337, unknown." in text
    assert rows(text, "task_0006", "1", "Off", "mix")[0][4:] == ["●···●"]


def test_groups_of_no_known_pattern_have_their_own_section(tmp_path: Path) -> None:
    add_run(tmp_path, config(wandb_group="huang_LN_fixed50"), source_task=12)
    text = document(tmp_path)
    (row,) = rows(text.partition("### Other groups")[2].partition("\n## ")[0])[2:]
    assert "huang_LN_fixed50/task_0012" in row[0]
    assert row[1:] == ["With LayerNorm, dynamic training", "2–8", "L1, MLP off, mix", "1337 ●"]
    assert "### Other groups" not in document(add_run(tmp_path / "other", config()).parents[4])


def test_all_paths_exist(tmp_path: Path) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(0.5))
    add_run(tmp_path, config(seed=2337), run_id="b", notes=("b",))
    add_run(tmp_path, config(wandb_group="my group (old)"), run_id="c", source_task=3, metrics=gen_metrics(0.9))
    add_overwritten(tmp_path, config(k=4, wandb_group="len_gen_k4"))
    text = document(tmp_path)
    named = links(text) | {
        path for path in re.findall(r"`((?:with|without)_layernorm/\w+/[^`{<]+)`", text) if "{" not in path
    }
    assert len(named) >= 6
    assert [path for path in named if not (tmp_path / path).exists()] == []
    assert "with_layernorm/dynamic/my group (old)/task_0003/" in named


def test_the_listing_command_finds_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = add_run(tmp_path, config(use_mlp=True))
    add_run(tmp_path, config(), run_id="b")
    text = section(document(tmp_path), "Where to find a configuration")
    (command,) = blocks(text, "bash")
    condition = re.search(r"--where '(.*)'", command)
    assert condition is not None
    assert ckptman_run(["ls", "--root", str(tmp_path), "--paths", "--where", condition[1]]) == 0
    found = [Path(line).resolve() for line in capsys.readouterr().out.splitlines()]
    assert sorted(found) == sorted(folder.glob("*.pt"))


def test_a_tree_numbered_otherwise_is_told_so(tmp_path: Path) -> None:
    layout = tmp_path / "with_layernorm" / "dynamic" / "len_gen_k8" / "task_0002"
    write_checkpoint(layout / "a.pt", config())
    text = " ".join(document(tmp_path).split())
    assert "1 configuration in a folder of another number" in text
    assert "holds `task_0006`" in text
    assert "`numbering: merged`" in text
    assert "another number" not in document(tmp_path, load_convention(numbering="merged"))


# --- the best ---------------------------------------------------------------------------------------------------------


def test_means_and_deviations_are_over_runs(tmp_path: Path) -> None:
    values = [0.9, 0.8, 0.95]
    for seed, value in zip((1337, 2337, 3337), values, strict=True):
        add_run(tmp_path, config(seed=seed), run_id=str(seed), metrics=gen_metrics(value))
    add_run(tmp_path, config(use_mlp=True), run_id="x", metrics=gen_metrics(0.2))
    first, second = best(document(tmp_path))
    generalization = f"{100 * statistics.mean(values):.1f} % ± {100 * statistics.stdev(values):.1f}"
    assert first[:7] == ["⭐", "2–8", "1", "Off", "mix", generalization, "3"]
    assert second[:7] == ["", "2–8", "1", "On", "mix", "20.0 %", "1"]


def test_each_family_has_its_star(tmp_path: Path) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(0.3))
    add_run(tmp_path, config(n_layers=2), run_id="b", metrics=gen_metrics(0.4))
    for name, mlp, value in (("c", False, 0.1), ("d", True, 0.05)):
        of = config(use_layernorm=False, use_mlp=mlp, wandb_group="len_gen_no_ln_k8")
        add_run(tmp_path, of, run_id=name, metrics=gen_metrics(value))
    stars = [row for row in best(document(tmp_path)) if row[0] == "⭐"]
    assert [(row[2], row[5]) for row in stars] == [("2", "40.0 %"), ("1", "10.0 %")]


def test_another_k_is_another_configuration(tmp_path: Path) -> None:
    for k, value in ((4, 0.2), (8, 0.6)):
        add_run(tmp_path, config(k=k, wandb_group=f"len_gen_k{k}"), run_id=f"k{k}", metrics=gen_metrics(value))
    assert [(row[0], row[1], row[5], row[6]) for row in best(document(tmp_path))] == [
        ("⭐", "2–8", "60.0 %", "1"), ("", "2–4", "20.0 %", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "NaN", None, True])
def test_what_is_no_finite_number_does_not_win(tmp_path: Path, value: object) -> None:
    odd = {**gen_metrics(1.0), "gen/K20/exact_match_acc": value}
    add_run(tmp_path, config(seed=1337), metrics=odd)
    assert "No run here has a finite value of" in document(tmp_path)
    add_run(tmp_path, config(use_mlp=True), run_id="b", metrics=gen_metrics(0.01))
    assert [(row[3], row[5]) for row in best(document(tmp_path))] == [("On", "1.0 %")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_mean_is_taken_of_what_is_not_finite(value: float) -> None:
    assert from_metrics(gen_metrics(0.5), {}, built_in()) == 0.5
    assert from_metrics({**gen_metrics(0.5), "gen/K20/exact_match_acc": value}, {}, built_in()) is None


def test_a_metric_that_is_missing_is_not_zero(tmp_path: Path) -> None:
    metrics = gen_metrics(0.9)
    del metrics["gen/K17/exact_match_acc"]
    add_run(tmp_path, config(seed=1337), metrics=metrics)
    add_run(tmp_path, config(seed=2337), run_id="b", metrics=gen_metrics(0.5))
    assert [(row[5], row[6]) for row in best(document(tmp_path))] == [("50.0 %", "1 of 2")]


def test_ties_are_resolved_by_runs_then_by_path(tmp_path: Path) -> None:
    add_run(tmp_path, config(n_layers=2), run_id="a", metrics=gen_metrics(0.5))
    add_run(tmp_path, config(use_mlp=True), run_id="b", metrics=gen_metrics(0.5))
    for seed in (1337, 2337):
        add_run(tmp_path, config(seed=seed), run_id=f"c{seed}", metrics=gen_metrics(0.5))
    order = [row[-1].split("`")[1].rpartition("/")[2] for row in best(document(tmp_path))]
    assert order == ["task_0006", "task_0002", "task_0004"]


def test_an_evaluation_counts_before_the_logged_metrics_with_as_many_samples(tmp_path: Path) -> None:
    folder = add_run(tmp_path / "x", config())
    final = next(folder.glob("Final*")).name
    evaluation = {"mode": "teacher-forced", "file": final, "gen_em": 0.9996, "samples": 100}
    add_run(tmp_path, config(), metrics=gen_metrics(0.5), evaluations=(evaluation,))
    (row,) = best(document(tmp_path))
    assert row[5:8] == ["99.96 %", "1", "evaluation"]


def test_the_evaluation_with_the_most_samples_counts_then_the_newest(tmp_path: Path) -> None:
    final = next(add_run(tmp_path / "x", config()).glob("Final*")).name
    first = {"mode": "teacher-forced", "file": final, "samples": 1000, "gen_em": 0.9}
    others: list[dict[str, Any]] = [
        {"samples": 10, "gen_em": 0.1},
        {"samples": 5000, "gen_em": 0.2, "mode": "autoregressive"},
        {"samples": 5000, "gen_em": 0.3, "file": final.replace("Final", "Checkpoint")},
        {"samples": 5000, "gen_em": None},
        {"samples": 5000, "gen_em": math.nan},
    ]
    evaluations = (first, *(first | other for other in others))
    add_run(tmp_path / "most", config(), metrics=gen_metrics(0.5), evaluations=evaluations)
    add_run(tmp_path / "newest", config(), evaluations=(*evaluations, first | {"gen_em": 0.8, "seed": 1}))
    assert [row[5] for place in ("most", "newest") for row in best(document(tmp_path / place))] == ["90.0 %", "80.0 %"]


def test_a_deviation_is_as_fine_as_its_mean(tmp_path: Path) -> None:
    for seed, value in ((1337, 0.9996), (2337, 0.9998)):
        add_run(tmp_path, config(seed=seed), run_id=str(seed), metrics=gen_metrics(value))
    assert [row[5] for row in best(document(tmp_path))] == ["99.97 % ± 0.01"]


def test_only_all_of_it_is_100_percent(tmp_path: Path) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(1.0))
    add_run(tmp_path, config(use_mlp=True), run_id="b", metrics=gen_metrics(0.9999999))
    assert [row[5] for row in best(document(tmp_path))] == ["100.0 %", "> 99.999 %"]


def test_overwritten_runs_are_in_no_mean(tmp_path: Path) -> None:
    add_run(tmp_path, config(seed=3337), metrics=gen_metrics(0.5))
    add_overwritten(tmp_path, config(seed=1337), config(seed=2337), metrics=gen_metrics(0.9), by="abcd1234")
    text = document(tmp_path)
    assert [(row[5], row[6]) for row in best(text)] == [("50.0 %", "1")]
    (lost,) = rows(section(text, "Overwritten runs"))[2:]
    assert lost[1:] == ["L1, MLP off, mix", "1337 (`lost1337`, 90.0 %), 2337 (`lost2337`, 90.0 %)", "`abcd1234`"]
    assert "Overwritten" not in document(add_run(tmp_path / "other", config()).parents[4])


def test_other_recipes_of_one_task_are_told_apart(tmp_path: Path) -> None:
    add_run(tmp_path, config(seed=1337), metrics=gen_metrics(0.5))
    add_run(tmp_path, config(seed=2337, learning_rate=0.001), run_id="b", metrics=gen_metrics(0.6))
    assert [(row[5], row[6], row[-1]) for row in best(document(tmp_path))] == [
        ("60.0 %", "1", "learning_rate = 0.001"), ("50.0 %", "1", "learning_rate = 0.0001"),
    ]  # fmt: skip


# --- foreign names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a|b", "`x`", "<img src=x onerror=alert(1)>", "**b**", "[x](http:e)", "a b", "é", "$x$", "-->", "a&lt;b"],
)
def test_a_groups_name_breaks_nothing(tmp_path: Path, name: str) -> None:
    add_run(tmp_path, config(wandb_group=name), run_id=name, metrics=gen_metrics(0.5))
    add_run(tmp_path, config(wandb_group="plain"), run_id="b", metrics=gen_metrics(0.4))
    text = document(tmp_path)
    assert "<img" not in re.sub(r"`[^`]*`", "", text)
    for title in ("Best configurations", "Where to find a configuration"):
        hostile, plain = rows(section(text, title))[2:4]
        assert len(hostile) == len(plain)
    assert any((tmp_path / path).is_dir() and name in path for path in links(text))


def test_a_file_name_that_is_not_utf8_breaks_nothing(tmp_path: Path) -> None:
    add_run(tmp_path, config())
    (tmp_path / "with_layernorm" / "dynamic" / "caf\udce9").mkdir()
    (tmp_path / "with_layernorm" / "dynamic" / "caf\udce9" / "x\udcff.pt").write_bytes(b"x")
    document(tmp_path).encode("utf-8")


# --- the bytes --------------------------------------------------------------------------------------------------------


def test_the_same_tree_gives_the_same_bytes_wherever_it_is(tmp_path: Path) -> None:
    for root in (tmp_path / "one", tmp_path / "two" / "deeper"):
        for seed in (2337, 1337):
            add_run(root, config(seed=seed), run_id=f"r{seed}", metrics=gen_metrics(0.5))
    assert document(tmp_path / "one") == document(tmp_path / "two" / "deeper")
    assert str(tmp_path) not in document(tmp_path / "one")


def test_what_each_configuration_reached_stands_in_place_of_the_marks(tmp_path: Path) -> None:
    for seed, share in ((1337, 0.5), (2337, 0.75)):
        add_run(tmp_path, config(8, n_layers=1, use_mlp=False, seed=seed, wandb_group="len_gen_k8"),
                run_id=f"r{seed}", metrics=gen_metrics(share))  # fmt: skip
    add_run(tmp_path, config(8, n_layers=2, use_mlp=False, wandb_group="len_gen_k8"), run_id="unmeasured")
    text = section(document(tmp_path), "Tasks by family")
    marks, reached = rows(text, "task_0006", "1", "Off", "mix")[:2]
    assert (len(marks), reached[4:]) == (len(reached), ["62.5 % ± 17.7 (2)"])
    assert [row[4:] for row in rows(text, "task_0002", "2", "Off", "mix")[:2]][1] == ["·"]


def test_a_family_of_which_nothing_was_measured_has_no_table_of_values(tmp_path: Path) -> None:
    add_run(tmp_path, config(8, wandb_group="len_gen_k8"), run_id="unmeasured")
    assert "of how many runs:" not in document(tmp_path)


def test_refused_files_are_named_with_what_is_known_of_them(tmp_path: Path) -> None:
    source, root = tmp_path / "raw", tmp_path / "checkpoints"
    write_run(source / "len_gen_k8" / "task_0006", config(), run_id="good1234")
    ingest(source, root, settle=0)
    assert "## Files that were not taken" not in task_mapping_text(built_in(), count_tree(root, built_in()))
    source = tmp_path / "more"
    [file] = write_run(source / "len_gen_k8" / "task_0006", config(seed=2337), run_id="bad12345", files=("Final",))
    file.write_bytes(b"| <b>no checkpoint</b>")
    ingest(source, root, settle=0)
    text = task_mapping_text(built_in(), count_tree(root, built_in()))
    [row] = [line for line in section(text, "Files that were not taken").splitlines() if file.name in line]
    assert "| len_gen_k8 | 6    | 2337 |" in row
    assert "No run that one of them may be is marked as missing or overwritten above" in " ".join(text.split())


def test_the_example_calls_lengths_and_layers_as_the_tables_do(tmp_path: Path) -> None:
    add_run(tmp_path, config(8, n_layers=1, use_mlp=False, wandb_group="len_gen_k8"))
    text = " ".join(section(document(tmp_path), "Where to find a configuration").split())
    assert "For example, with LayerNorm, dynamic training, K = 2–8, L1, MLP off, mix, seed 1337, lies in" in text
