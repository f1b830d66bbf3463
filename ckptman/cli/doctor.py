"""`ckptman doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli.app import app, print_json
from ckptman.cli.options import Json
from ckptman.cli.text import console, plain
from ckptman.sweeps import doctor
from ckptman.tree import records

_SIGNS = {doctor.GOOD: "ok", doctor.LIMITED: "–", doctor.BAD: "BAD"}
_STYLES = {doctor.GOOD: "green", doctor.LIMITED: "yellow", doctor.BAD: "bold red"}


@app.command("doctor")
def _doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where the tree is, or will be.", show_default=False)
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Try out what ckptman leans on, and say what will work.

    Python, torch, the GPU, W&B, SLURM, what figures need, and the disk and file system of DIR. Nothing is left behind.
    The exit status is 1 where something is wrong, and 0 where only something is not there that not everybody needs.

    Example: ckptman doctor checkpoints
    """
    found = list(doctor.examine(folder))
    if as_json:
        print_json({"schema_version": records.SCHEMA_VERSION, "checks": [item.to_json() for item in found]})
    else:
        out = console()
        width = max(len(item.what) for item in found)
        for item in found:
            head = f"{_SIGNS[item.state]:<5}{item.what:<{width + 2}}"
            text = f"{item.found}: {item.follows}" if item.follows else item.found
            out.print(plain(head, _STYLES[item.state]) + plain(text))
    raise typer.Exit(1 if any(item.state == doctor.BAD for item in found) else 0)
