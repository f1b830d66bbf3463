"""What the documents say of figures and of an experiment: only what means something, and only of what is here."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from ckptman.documents.task_mapping import task_mapping_text
from ckptman.documents.tree_readme import block_contents
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.training.accuracy import Accuracy
from ckptman.training.evaluation import Evaluation, EvaluationMode, record_evaluation
from ckptman.tree.statistics import count_tree
from tests.helpers.raw import START, config, gen_metrics, write_run
from tests.helpers.recorded import add_run
from tests.helpers.task_mappings import best, document

VALUES = {"first": (1337, 0.9), "second": (2337, 0.8), "third": (3337, 0.95), "again": (1337, 0.7)}
"""W&B runs of one configuration that share a folder: the later ones overwrite what the earlier ones saved."""


@pytest.mark.parametrize("kind", ["sample", "population"])
def test_figures_are_given_over_what_is_here_and_over_all_wandb_runs(kind: str, tmp_path: Path) -> None:
    for index, (run_id, (seed, value)) in enumerate(VALUES.items()):
        write_run(tmp_path / "outputs/len_gen_k8/task_0006", config(seed=seed), run_id=run_id,
                  started=START + 1000 * index, metrics=gen_metrics(value))  # fmt: skip
    root = tmp_path / "tree"
    ingest(tmp_path / "outputs", root)
    (root / "ckptman.yaml").write_text(f"statistics: {kind}\n")
    text = document(root, load_convention(root / "ckptman.yaml"))
    every = [value for _, value in VALUES.values()]
    deviation = statistics.pstdev(every) if kind == "population" else statistics.stdev(every)
    (row,) = best(text)
    assert row[5:7] == ["70.0 %", "1"]
    assert row[9] == f"{100 * statistics.mean(every):.1f} % ± {100 * deviation:.1f} (n = 4)"
    assert f"mean ± {kind} standard" in text


def test_an_interval_is_that_of_all_lists(tmp_path: Path) -> None:
    for seed, value in ((1337, 0.9), (2337, 0.8)):
        add_run(tmp_path, config(seed=seed), run_id=str(seed), metrics=gen_metrics(value))
    (row,) = best(document(tmp_path))
    assert row[8] == "83.7–86.2 %"  # Wilson, 2,720 of 3,200


def test_an_interval_is_about_the_mean_beside_it(tmp_path: Path) -> None:
    for seed, value in ((1337, 0.9), (2337, 0.5)):
        add_run(tmp_path, config(seed=seed), run_id=str(seed), metrics=gen_metrics(value))
    final = str(next(tmp_path.glob("**/seed_2337/Final*")))
    by_k = {k: Accuracy(k, 10_000, 5_000, 5_000 * k) for k in range(17, 33)}
    record_evaluation(Evaluation(final, EvaluationMode.TEACHER_FORCED, 10_000, 0, by_k, (17, 32)), built_in())
    (row,) = best(document(tmp_path))
    assert row[5].startswith("70.0 % ±")
    assert row[8] == "68.9–71.1 %"  # as of 3,168 lists a run, the harmonic mean of 1,600 and 160,000


@pytest.mark.parametrize(("value", "mark"), [(0.0, ""), (0.002, ""), (0.02, "⭐")])
def test_no_star_is_given_for_chance(value: float, mark: str, tmp_path: Path) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(value))
    add_run(tmp_path, config(use_mlp=True), run_id="b", metrics=gen_metrics(0.0))
    assert [row[0] for row in best(document(tmp_path))] == [mark, ""]
    assert ("⭐" in block_contents(count_tree(tmp_path, built_in()))["structure"]) == bool(mark)


def test_what_was_trained_on_tested_lengths_is_marked_and_stands_last(tmp_path: Path) -> None:
    add_run(tmp_path, config(k=32, wandb_group="len_gen_k32"), run_id="a", metrics=gen_metrics(1.0))
    add_run(tmp_path, config(), run_id="b", metrics=gen_metrics(0.5))
    add_run(tmp_path, config(k=4, wandb_group="len_gen_k4"), run_id="c", metrics=gen_metrics(0.4))
    assert [(row[0], row[1], row[5]) for row in best(document(tmp_path))] == [
        ("⭐", "2–8", "50.0 %"), ("", "2–4", "40.0 %"), ("⚠", "2–32", "100.0 %"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rival", "mark"),
    [
        (None, ""),
        (config(k=32, wandb_group="len_gen_k32"), ""),
        (config(vocab_n=64, use_mlp=True), ""),
        (config(use_mlp=True), "⭐"),
    ],
)
def test_the_best_has_a_star_only_where_another_was_tested_alike(
    rival: TrainConfig | None, mark: str, tmp_path: Path
) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(0.5))
    if rival is not None:
        add_run(tmp_path, rival, run_id="b", metrics=gen_metrics(0.4))
    assert best(document(tmp_path))[0][0] == mark
    counted = block_contents(count_tree(tmp_path, built_in()))
    assert [("⭐" in counted[name]) == bool(mark) for name in ("structure", "best")] == [True, True]


@pytest.mark.parametrize("of", ["exact_match_acc", "token_acc"])
def test_a_metric_that_eval_does_not_measure_is_not_replaced_by_an_evaluation(of: str, tmp_path: Path) -> None:
    """Nor is it called an exact match, nor is its chance level known."""
    for seed, mlp in ((1337, False), (2337, True)):
        logged = {f"gen/K{k}/{of}": 0.6 for k in range(17, 33)}
        folder = add_run(tmp_path, config(seed=seed, use_mlp=mlp), run_id=str(seed), metrics=logged)
        final = next(folder.glob("Final*"))
        by_k = {k: Accuracy(k, 2000, 1000, 2000 * k) for k in range(17, 33)}
        assert record_evaluation(
            Evaluation(str(final), EvaluationMode.TEACHER_FORCED, 2000, 0, by_k, (17, 32)), built_in()
        )
    (tmp_path / "ckptman.yaml").write_text(
        f'metrics: {{generalization: {{pattern: "gen/K{{k}}/{of}", k: [17, 32], title: That, default: true}}}}\n'
    )
    text = document(tmp_path, load_convention(tmp_path / "ckptman.yaml"))
    is_measured = of == "exact_match_acc"
    assert [(row[0], row[5], row[7]) for row in best(text)] == [
        ("⭐" if is_measured else "", "50.0 %" if is_measured else "60.0 %", "evaluation" if is_measured else "W&B"),
        ("", "50.0 %" if is_measured else "60.0 %", "evaluation" if is_measured else "W&B"),
    ]
    assert ("mean exact match on lists" in " ".join(text.split())) == is_measured


def test_an_evaluation_counts_for_the_lengths_of_the_metric(tmp_path: Path) -> None:
    folder = add_run(tmp_path, config(), metrics={})
    by_k = {k: Accuracy(k, 100, 100 if k < 25 else 50, 100 * k) for k in range(17, 33)}
    record_evaluation(
        Evaluation(str(next(folder.glob("Final*"))), EvaluationMode.TEACHER_FORCED, 100, 0, by_k, (17, 32)), built_in()
    )
    found = {}
    for low, high in ((17, 32), (17, 24), (17, 40)):
        (tmp_path / "ckptman.yaml").write_text(
            f'metrics: {{generalization: {{pattern: "gen/K{{k}}/exact_match_acc", k: [{low}, {high}], default: true}}}}'
        )
        [run] = count_tree(tmp_path, load_convention(tmp_path / "ckptman.yaml")).runs
        found[high] = None if run.measured is None else run.measured.value
    assert found == {32: 0.75, 24: 1.0, 40: None}


def test_an_experiment_of_which_nothing_is_here_is_not_told_of(tmp_path: Path) -> None:
    other, known = tmp_path / "other", tmp_path / "known"
    add_run(other, config(wandb_group="another_group"), metrics={"test/K8/loss": 0.1, "test/K8/tf_token_acc": 0.9})
    add_run(known, config())
    for root, told in ((other, False), (known, True)):
        counted = count_tree(root, built_in())
        readme = block_contents(counted)
        assert ("expects" in readme["summary"]) == told
        assert ("A complete configuration has" in readme["tasks"]) == told
        assert ("In all" in readme["statistics"].partition("### Expected and found")[2].partition("###")[0]) == told
        assert ("No such group is here" in task_mapping_text(built_in(), counted)) == told
    readme = block_contents(count_tree(other, built_in()))
    said = "Training logged other metrics: `test/K{k}/loss` for K 8; `test/K{k}/tf_token_acc` for K 8; "
    for text in (readme["best"], document(other)):
        assert said in " ".join(text.split())
        assert "Nothing is measured" not in text
        assert "has not been run" not in text
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "504" not in block_contents(count_tree(empty, built_in()))["summary"]
    assert "| Task " not in document(empty) + block_contents(count_tree(empty, built_in()))["tasks"]
    for title in ("How the grid is built", "Decoding an id", "With LayerNorm, fixed"):
        assert (f"# {title}" in document(known), f"# {title}" in document(other)) == (True, False)
    seeds = readme["statistics"].partition("### Seeds")[2].partition("###")[0]
    assert "1337" in seeds
    assert "2337" not in seeds


@pytest.mark.parametrize("axis", [{}, {"use_mlp": True}])
def test_overwritten_runs_of_a_group_of_no_pattern_are_told_by_their_configuration(
    tmp_path: Path, axis: dict[str, Any]
) -> None:
    """Two passes in one task folder, of an older and a newer trainer, or with and without MLP."""
    folder = tmp_path / "outputs" / "another_group" / "task_0003"
    for at, (seed, values) in enumerate([(1337, {}), (2337, {}), (1337, axis), (2337, axis), (3337, axis)]):
        more = {} if at < 2 or axis else {"use_xavier_init": True}
        of = config(seed=seed, wandb_group="another_group", **values)
        write_run(folder, of, run_id=f"run{at}", started=START + 1000 * at, metrics={"x": 1.0}, more=more)
    ingest(tmp_path / "outputs", tmp_path / "tree")
    rows = [
        line for line in document(tmp_path / "tree").partition("## Overwritten runs")[2].splitlines() if "`run" in line
    ]
    told = {cells[2].strip(): cells[3].strip() for cells in (row.split("|") for row in rows)}
    if axis:
        assert told == {
            "L1, MLP off, mix": "1337 (`run0`)", "L1, MLP on, mix": "1337 (`run2`), 2337 (`run3`)",
        }  # fmt: skip
    else:
        assert told == {
            "L1, MLP off, mix, no use_xavier_init": "1337 (`run0`), 2337 (`run1`)",
            "L1, MLP off, mix, use_xavier_init = True": "1337 (`run2`), 2337 (`run3`)",
        }


def test_where_status_counts_otherwise_the_readme_says_so(tmp_path: Path) -> None:
    for kinds, is_told in ((("Checkpoint", "Final"), False), (("Final",), True)):
        add_run(tmp_path / "-".join(kinds), config(), kinds=kinds)
        counted = count_tree(tmp_path / "-".join(kinds), built_in())
        assert ("`ckptman status`" in block_contents(counted)["statistics"]) == is_told
