"""`ckptman export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import Json, Verbose
from ckptman.cli.text import console, plain, say_refused, size_text


@app.command("export")
def _export(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Checkpoint files, in a tree or not.")],
    to: Annotated[str, typer.Option("--to", metavar="plain|safetensors", help="What to write.", show_default=False)],
    copies: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for the copies; it is made.")],
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out the optimizer and all that is not known.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Write copies of checkpoints that anybody can read without ckptman.

    plain is a file for torch.load(weights_only=True) that holds dictionaries, lists, numbers, texts and tensors alone.
    safetensors has the weights, and the configuration in its metadata. Each copy is read again and compared tensor by
    tensor. No file is written over: a copy that is there already with the same bytes stays, another one is refused.

    Example: ckptman export saved_models/*.pt --to safetensors --out exported
    """
    convention = convention_for(context, files[0].absolute().parent)

    from ckptman.training import exporting  # which imports torch

    result = exporting.export(files, copies, to=to, weights_only=weights_only, convention=convention)
    if as_json:
        print_json(result.to_json())
    else:
        for item in result.exported:
            there = "" if item.new else ", there already"
            left_out = f"; left out: {', '.join(item.left_out)}" if item.left_out else ""
            console().print(plain(f"{item.path}: {size_text(item.size)}, {item.tensors} tensors{there}{left_out}"))
    say_refused((error.message, error.code, error.fix) for _, error in result.refused)
    raise typer.Exit(1 if result.refused else 0)
