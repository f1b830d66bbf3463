"""Documents and `results` count the same runs to the same means, whatever keys their trainers knew."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from ckptman.ingestion import ingest
from ckptman.queries import results
from ckptman.rules.convention_file import built_in
from ckptman.tree.statistics import count_tree
from tests.helpers.raw import START, config, gen_metrics, write_run

XAVIER: dict[str, Any] = {"use_xavier_init": True}
RUNS: list[tuple[int, dict[str, Any], bool]] = [
    (1, XAVIER, True), (2, XAVIER, True), (3, {}, True), (4, {"use_xavier_init": False}, False), (5, {}, False),
    (6, {"extra": 7}, False), (7, XAVIER | {"extra": 8}, False),
]  # fmt: skip
"""Seed, what the trainer wrote besides, and whether the run left files."""


def write(source: Path, runs: list[tuple[int, dict[str, Any], bool]]) -> None:
    for seed, more, has_files in runs:
        write_run(source / "len_gen_k8" / "task_0006", config(seed=seed), run_id=f"run{seed}", save=has_files,
                  started=START + 1000 * seed, metrics=gen_metrics(seed / 10), more=more,
                  saved_models=f"s{seed}/saved_models")  # fmt: skip


def both(root: Path) -> tuple[list[Any], list[Any]]:
    """For each configuration that has files: runs and mean of those, then of all W&B runs."""
    rows = [row for row in results(root, all_runs=True).rows if row.runs]
    documents = []
    for item in count_tree(root, built_in()).configurations:
        assert item.generalization is not None
        assert item.logged is not None
        documents.append((item.generalization.runs, item.generalization.mean, item.logged.runs, item.logged.mean))
    return sorted((r.runs, r.mean, r.over_all.runs, r.over_all.mean) for r in rows), sorted(documents)


@pytest.mark.parametrize("left_out", [(), (1, 2), (3,), (3, 5), (1,), (4, 6, 7)])
def test_the_same_runs_are_of_one_configuration(tmp_path: Path, left_out: tuple[int, ...]) -> None:
    write(tmp_path / "raw", [run for run in RUNS if run[0] not in left_out])
    ingest(tmp_path / "raw", tmp_path / "tree", settle=0)
    found, documents = both(tmp_path / "tree")
    assert [pytest.approx(row) for row in found] == documents


def test_runs_with_files_are_one_configuration_by_their_keys_and_those_without_join_the_only_one_that_agrees(
    tmp_path: Path,
) -> None:
    for name, runs, expected in (
        ("apart", RUNS[:3], [(1, 0.3, 1, 0.3), (2, 0.15, 2, 0.15)]),
        ("joined", [*RUNS[:2], RUNS[4]], [(2, 0.15, 3, 0.8 / 3)]),
        ("otherwise", [*RUNS[:2], RUNS[3]], [(2, 0.15, 2, 0.15)]),
        ("of both", [*RUNS[:3], RUNS[5]], [(1, 0.3, 1, 0.3), (2, 0.15, 2, 0.15)]),
    ):
        write(tmp_path / name / "raw", runs)
        ingest(tmp_path / name / "raw", tmp_path / name / "tree", settle=0)
        found, documents = both(tmp_path / name / "tree")
        assert found == [pytest.approx(row) for row in expected]
        assert documents == [pytest.approx(row) for row in expected]


def test_the_order_of_runs_changes_nothing(tmp_path: Path) -> None:
    means = set()
    for at, order in enumerate(itertools.islice(itertools.permutations(RUNS[:5]), 0, 120, 29)):
        write(tmp_path / str(at) / "raw", [(seed, *order[seed - 1][1:]) for seed in range(1, 6)])
        ingest(tmp_path / str(at) / "raw", tmp_path / str(at) / "tree", settle=0)
        found, documents = both(tmp_path / str(at) / "tree")
        assert [row[::2] for row in found] == [row[::2] for row in documents]
        means.add(tuple(row[::2] for row in found))
    assert len(means) == 1


@pytest.mark.parametrize("damage", ["gone", "cut", "renamed", "dangling", "none"])
def test_a_run_whose_files_are_gone_counts_to_all_runs_alone(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "raw", RUNS[:3])
    ingest(tmp_path / "raw", root := tmp_path / "tree", settle=0)
    for file in root.rglob("seed_2/*.pt"):
        if damage == "gone":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(b"")
        elif damage == "renamed":
            file.rename(file.with_name(f"old_{file.name}"))
        elif damage == "dangling":
            file.unlink()
            file.symlink_to("nowhere.pt")
    found, documents = both(root)
    of_two = (2, 0.15, 2, 0.15) if damage == "none" else (1, 0.1, 2, 0.15)
    assert found == documents == [pytest.approx(row) for row in sorted([(1, 0.3, 1, 0.3), of_two])]
    where = [row for row in results(root, where="k == 8", all_runs=True).rows if row.runs]
    assert sorted((row.runs, row.over_all.runs) for row in where) == sorted((row[0], row[2]) for row in found)
