"""`ckptman` alone: what is here, and what to do next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer

from ckptman.cli.app import convention_for
from ckptman.cli.options import DEFAULT_OUT, DEFAULT_ROOT
from ckptman.cli.text import console, count_text, plain
from ckptman.queries import surroundings
from ckptman.text import wording


def show_here(context: typer.Context) -> None:
    """Print what the current folder is to ckptman, and the commands that make sense in it."""
    here = Path.cwd()
    found = surroundings.look_around(here, convention_for(context, here), trees=DEFAULT_ROOT, outputs=DEFAULT_OUT)
    out = console()
    for line in _what(found):
        out.print(plain(line, "bold"))
    for command, why in _next(found):
        both = plain(f"  {command}") + plain(f"  # {why}", "dim")
        fitting = both.cell_len <= out.width
        out.print(both if fitting else plain(f"  {command}"), soft_wrap=True)
        if not fitting:
            out.print(plain(f"    # {why}", "dim"))
    out.print(plain("All commands: ckptman --help", "dim"))


def _what(found: surroundings.Surroundings) -> Iterator[str]:
    if found.tree is not None:
        where = "This folder is a tree" if found.tree == found.folder else f"There is a tree in {_called(found.tree)}"
        if found.tree in found.folder.parents:
            where = f"This folder lies in the tree {_called(found.tree)}"
        yield f"{where}: {count_text(found.checkpoints, 'checkpoint')} of {count_text(found.runs, 'run')}."
    if found.raw is not None:
        least = "" if found.raw_complete else "at least "
        where = "This folder" if found.raw == found.folder else _called(found.raw)
        yield f"{where} holds {least}{count_text(found.raw_checkpoints, 'checkpoint file')} outside of a tree."
    if found.tree is None and found.raw is None:
        yield "There is neither a tree of checkpoints nor raw outputs here."


def _next(found: surroundings.Surroundings) -> Iterator[tuple[str, str]]:
    if found.raw is not None:
        yield f"ckptman ingest {_word(found.raw)} --dry-run", "see how they would be sorted into a tree"
    if found.tree is not None:
        tree = "" if found.tree in (found.folder, *found.folder.parents) else f" {_word(found.tree)}"
        yield f"ckptman ls{tree}", "list its checkpoints"
        yield f"ckptman validate{tree}", "check it"
        yield f"ckptman report{tree}", "write its README and TASK_MAPPING"
        yield f"ckptman results{tree}", "compare its configurations"
    elif found.raw is None:
        yield "ckptman ingest FOLDER --dry-run", "see how the checkpoints below a folder would be sorted"
        yield "ckptman task", "see the tasks of the grid"
        yield "ckptman train --k 4 --task 3 --quick", "train a first run, in about a minute"
        yield "ckptman doctor", "see what works on this machine"


def _called(folder: Path) -> str:
    return os.path.relpath(folder)


def _word(folder: Path) -> str:
    return wording.shell_word(_called(folder))
