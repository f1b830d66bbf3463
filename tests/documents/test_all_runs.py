"""The lab's figure: mean, deviation and n over all W&B runs of a configuration, overwritten and repeated ones too."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path

import pytest

from ckptman.cli.app import run as run_command
from ckptman.ingestion.ingesting import ingest
from ckptman.queries import results
from ckptman.rules.convention_file import load_convention
from tests.helpers.task_mappings import best, document

WANDB_HEADER = 7
"""Bytes of a log in which there is nothing yet."""


@pytest.mark.slow
def test_figures_of_runs_that_overwrote_each_other_equal_ten_lines_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    values, lab = [], tmp_path / "lab" / "len_gen_k4" / "task_0006"
    for out, seed in (("a", 1337), ("a", 2337), ("a", 3337), ("b", 1337)):  # the last is a rerun
        command = ["train", "--k", "4", "--task", "6", "--seed", str(seed), "--iters", "12", "--batch-size", "16",
                   "--lr", "0.01", "--threads", "1", "--wandb", "offline", "--out", str(tmp_path / out)]  # fmt: skip
        assert run_command(command) == 0
        run = tmp_path / out / "len_gen_k4" / "task_0006" / f"seed_{seed}"
        metrics = json.loads((run / "metrics.json").read_text())["metrics"]
        values.append(statistics.mean(metrics[f"gen/K{k}/loss"] for k in range(17, 33)))
        (run / "metrics.json").unlink()  # W&B alone tells
        (log,) = run.rglob("*.wandb")
        until = time.monotonic() + 30
        while log.stat().st_size <= WANDB_HEADER and time.monotonic() < until:
            time.sleep(0.01)  # W&B's service may write what it has after `finish`
        for folder in ("saved_models", "wandb"):  # the published trainer lets all seeds of a task save into one folder
            shutil.copytree(run / folder, lab / folder, dirs_exist_ok=True, symlinks=True,
                            ignore=shutil.ignore_patterns("latest-run", "debug*"))  # fmt: skip
    root = tmp_path / "tree"
    ingest(tmp_path / "lab", root, settle=0)
    pattern = "metrics: {generalization: {pattern: 'gen/K{k}/loss'}}\n"  # so short a run has no list right, but a loss
    mean = 100 * statistics.mean(values)
    for kind, deviation_of in (("sample", statistics.stdev), ("population", statistics.pstdev)):
        (root / "ckptman.yaml").write_text(f"statistics: {kind}\n{pattern}")
        (row,) = best(document(root, load_convention(root / "ckptman.yaml")))
        deviation = 100 * deviation_of(values)
        assert deviation > 0
        assert row[9] in {f"{mean:.{places}f} % ± {deviation:.{places}f} (n = 4)" for places in range(4)}
        assert row[5] in {f"{100 * values[-1]:.{places}f} %" for places in range(4)}
        assert row[6] == "1"
        (found,) = results(root, population=kind == "population", all_runs=True).rows
        assert found.runs == 1
        assert found.over_all.runs == 4
        assert found.over_all.mean == pytest.approx(statistics.mean(values))
        assert found.over_all.deviation == pytest.approx(deviation_of(values))
