"""`ckptman assign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import Json
from ckptman.cli.text import console, plain
from ckptman.ingestion import AssignResult, assign


@app.command("assign")
def _assign(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run folder of a tree, or a checkpoint in one.")],
    run_id: Annotated[str, typer.Option("--run", metavar="ID", help="The W&B run that wrote it.", show_default=False)],
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Its seed, where its configuration says none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Say which run wrote checkpoints of a tree, where no file says it.

    run.json keeps who said it, and when; validate does not ask again. What the files or the run's W&B record deny is
    refused, with the reason. The files go to the folder of the run; nothing is replaced.

    Example: ckptman assign checkpoints/*/*/len_gen_k8/task_0006/seed_1337 --run 8egevwm5
    """
    convention = convention_for(context, path.absolute().parent)
    result = assign(path, run_id, seed=seed, convention=convention, dry_run=dry_run)
    if as_json:
        print_json(result.to_json())
    else:
        _show(result)


def _show(result: AssignResult) -> None:
    out = console()
    would, is_of = ("would ", "would be of") if result.dry_run else ("", "of")
    for old, new in result.moves:
        out.print(plain(f"{would}move {old} to {new}"))
    files = ", ".join(result.files)
    seed = "unknown" if result.seed is None else result.seed
    out.print(plain(f"{files}: {is_of} run {result.run_id}, seed {seed}: {result.by} says so"))
    if not result.has_wandb:
        out.print(plain(f"no W&B record of run {result.run_id} was found: nothing confirms it, and it has no metrics"))
