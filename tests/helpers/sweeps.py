"""Short sweeps, and programs of SLURM's names."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from ckptman.rules.convention_file import built_in
from ckptman.rules.selection import Selection
from ckptman.sweeps.sweeping import (
    How,
    SweepPlan,
    SweepResult,
    plan_sweep,
)

RECIPE: dict[str, Any] = {
    "max_iters": 12, "effective_batch_size": 16, "micro_batch_size": 16, "warmup_iters": 2, "ckpt_interval": 5,
    "eval_interval": 0, "log_interval": 5, "curriculum_span_iters": 5, "n_embd": 16, "test_max_k": 18,
}  # fmt: skip
"""Over in a moment."""
LONG = {**RECIPE, "max_iters": 100_000, "ckpt_interval": 20}
"""Never over by itself."""
QUICKLY = [
    "--iters", "12", "--batch-size", "16", "--warmup-iters", "2", "--checkpoint-every", "5", "--eval-every", "0",
    "--set", "n_embd=16", "--set", "test_max_k=18", "--wandb", "disabled", "--device", "cpu", "--threads", "1",
]  # fmt: skip
"""The options of such a recipe."""
ONE = Selection(k=(4,), tasks=(3,), seeds=(1337,), facets={"regime": ("fixed",), "layernorm": (True,)})
THREE = dataclasses.replace(ONE, seeds=(1337, 2337, 3337))
HOW = How(device="cpu", threads=1, wandb="disabled")


def plan(out: Path, selection: Selection = THREE, recipe: dict[str, Any] | None = None, **more: Any) -> SweepPlan:
    return plan_sweep(out, selection=selection, recipe=RECIPE if recipe is None else recipe,
                      convention=built_in(), **more)  # fmt: skip


def todo(found: SweepPlan) -> list[str]:
    return [str(run.todo) for run in found.runs]


def states(result: SweepResult) -> list[str]:
    return [run.state for run in result.runs]


def trained_here(result: SweepResult) -> list[str]:
    """The runs of which this sweep did iterations."""
    return [r.run.raw.label for r in result.runs if r.outcome is not None and r.outcome.iterations_per_second]


FAKE = """#!/bin/sh
case "$0" in
*sbatch) cp "$1" "{folder}/submitted.$(ls {folder} | wc -l)"; {sbatch} ;;
*scontrol) echo "MaxArraySize            = 3" ;;
esac
"""


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str = "echo Submitted batch job 7") -> Path:
    """Programs of SLURM's names; `sbatch` keeps the scripts that it is given in the folder that is returned."""
    programs, kept = folder / "bin", folder / "kept"
    programs.mkdir()
    kept.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (programs / name).write_text(FAKE.format(folder=kept, sbatch=sbatch))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return kept
