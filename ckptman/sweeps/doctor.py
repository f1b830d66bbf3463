"""What works on this machine: each part that ckptman leans on, tried, with what follows for the user."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ckptman.fs import files, folders, probing
from ckptman.text import CkptmanError, UsageError, wording

GOOD, LIMITED, BAD = "good", "limited", "bad"

_OLDEST_PYTHON = (3, 11)
_LITTLE = 1 << 30
"""Bytes: less free space than for some hundred checkpoints of the smallest published model is worth a word."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at."""

    what: str
    state: str
    """`good`; `limited`, where something is not there that not everybody needs; or `bad`."""
    found: str
    follows: str = ""
    """What that means for the user, or what to do."""

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as a JSON object."""
        return asdict(self)


def examine(folder: Path) -> Iterator[Diagnosis]:
    """Look at Python, torch, threads, W&B, SLURM, what figures need, and the disk and file system of a folder.

    Nothing is left behind; W&B's server is asked whether it answers, where a key for it is set up.

    Args:
        folder: Where a tree is, or will be.
    """
    yield _python()
    yield from _torch()
    yield _threads()
    yield _wandb()
    yield _slurm()
    yield _figures()
    yield from _disk(folder)


def _python() -> Diagnosis:
    version = platform.python_version()
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Diagnosis("Python", BAD, version, "Python 3.11 or newer is needed")
    return Diagnosis("Python", GOOD, f"{version}, {sys.executable}")


def _torch() -> Iterator[Diagnosis]:
    if importlib.util.find_spec("torch") is None:
        yield Diagnosis(
            "torch", LIMITED, "not installed", "train, sweep, eval, export and witness need it; the rest works without"
        )
        return
    from ckptman.training import timing

    yield Diagnosis("torch", GOOD, metadata.version("torch"))
    if gpus := timing.gpus():
        yield Diagnosis("GPU", GOOD, ", ".join(gpus), "train and sweep use it, in bfloat16")
    else:
        yield Diagnosis("GPU", LIMITED, "none that torch can use", "train and sweep run on the CPU, in float32")


def _threads() -> Diagnosis:
    cores = files.cores()
    return Diagnosis(
        "cores", GOOD, str(cores), f"a sweep trains {wording.count_text(cores, 'run')} at a time on the CPU"
    )


def _wandb() -> Diagnosis:
    if importlib.util.find_spec("wandb") is None:
        return Diagnosis("W&B", LIMITED, "not installed", "train with --wandb disabled")
    from ckptman.training import wandb

    version = metadata.version("wandb")
    try:
        mode, why = wandb.settle(wandb.WandbMode.AUTO)
    except CkptmanError as error:
        return Diagnosis("W&B", BAD, error.message, error.fix)
    state = GOOD if mode is wandb.WandbMode.ONLINE else LIMITED
    return Diagnosis("W&B", state, version, why or f"runs are logged {mode}")


def _slurm() -> Diagnosis:
    program = shutil.which("sbatch")
    if program is None:
        return Diagnosis("SLURM", LIMITED, "no sbatch", "sweep --executor slurm works where it is, as on a login node")
    if importlib.util.find_spec("submitit") is None:
        return Diagnosis("SLURM", LIMITED, program, "for sweep --executor slurm, install ckptman with its extra slurm")
    return Diagnosis("SLURM", GOOD, program, "sweep --executor slurm submits job arrays")


def _figures() -> Diagnosis:
    if importlib.util.find_spec("matplotlib") is None:
        return Diagnosis("figures", LIMITED, "no matplotlib", "for pictures, install ckptman with its extra plots")
    return Diagnosis("figures", GOOD, f"matplotlib {metadata.version('matplotlib')}")


def _disk(folder: Path) -> Iterator[Diagnosis]:
    try:
        folders.check_root(folder, "Name another folder.")
    except UsageError as error:
        yield Diagnosis("disk", BAD, error.message, error.fix)
        return
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        found = probing.probe(there)
    except OSError as error:
        yield Diagnosis("disk", BAD, f"{there}: {error.strerror}", "Name another folder.")
        return
    free = f"{wording.size_text(found.free)} free in {there}"
    if not found.writable:
        yield Diagnosis("disk", BAD, f"{there} cannot be written to", "Name a folder that is yours.")
        return
    yield Diagnosis("disk", GOOD if found.free >= _LITTLE else LIMITED, free)
    yield _able("hard links", found.hard_links, "ingest --mode hardlink takes no space",
                "ingest --mode hardlink is refused; files are placed by another way, which is as safe")  # fmt: skip
    yield _able("locks", found.locks, "two commands at once keep out of each other's way",
                "do not let two commands write to one tree at a time")  # fmt: skip
    yield _able("reflinks", found.reflinks, "a copy takes no space until it is changed", "a copy takes its size")
    yield _able("case", found.tells_case_apart, "names that differ in case alone are two files",
                "names that differ in case alone would be one file: ingest refuses the second")  # fmt: skip


def _able(what: str, able: bool, good: str, bad: str) -> Diagnosis:
    return Diagnosis(what, GOOD if able else LIMITED, "yes" if able else "no", good if able else bad)
