"""`ckptman witness`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import Json, Verbose
from ckptman.cli.progress import DrawProgress
from ckptman.cli.tables import NOTHING, print_table
from ckptman.cli.text import console, count_text, plain, say_refused
from ckptman.rules import selection

if TYPE_CHECKING:  # this imports torch
    from ckptman.training import witnessing


@app.command("witness")
def _witness(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Checkpoints, or folders, of which all are taken.")
    ],
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="LIST", help="Seeds to try: 0-9999, or 1337,2337; or all of the grid's.")
    ] = "all",
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Ask the weights themselves which seed drew them, which files are of one run, and whether they were trained.

    Names and configurations are not looked at. Training changes weights, but even at its end they resemble what they
    were drawn as, and no other random numbers: so a seed is named with the probability that chance would name one, for
    all the seeds that were tried. Known are the normal and the Xavier initialization of the lab's trainer and that of
    ckptman train; where weights were drawn otherwise, or by a seed that was not tried, it cannot be told.

    The exit status is 1 where a file was refused, or its weights are not finite or constant.

    Example: ckptman witness saved_models/*.pt --seeds 0-9999
    """
    convention = convention_for(context, files[0] if files[0].is_dir() else files[0].absolute().parent)
    tried = selection.parse_numbers(seeds, "--seeds")

    from ckptman.training import witnessing

    with DrawProgress() as progress:
        result = witnessing.witness(files, seeds=tried, convention=convention, progress=progress)
    if as_json:
        print_json(result.to_json())
    else:
        show(result, console())
    say_refused((item.message, item.code, item.fix) for item in result.refused)
    raise typer.Exit(1 if result.refused or any(item.problem for item in result.files) else 0)


def show(result: witnessing.WitnessResult, out: Console) -> None:
    """Print what the weights say: a line for each file, its run named by a number."""
    if not result.files:
        return
    numbers: dict[str, int] = {}
    rows = []
    for item in result.files:
        run = min([numbers[path] for path in item.same_run_as if path in numbers], default=len(set(numbers.values())))
        numbers[item.path] = run
        rows.append((_seed_text(item), _chance_text(item.p_value), _trained_text(item), item.initialization or NOTHING,
                     str(run + 1), item.path))  # fmt: skip
    print_table(
        out, [("Seed", "By chance", "Weights", "Drawn", "Run", "File"), *rows], right=(0, 1, 4), give=("-Drawn",)
    )
    runs = "files with one number in the column Run are of one run"
    out.print(plain(f"{count_text(result.seeds, 'seed')} tried; {runs}", "dim"))


def _seed_text(item: witnessing.Testimony) -> str:
    if item.mixed:
        return f"mix of {', '.join(map(str, item.mixed[:3]))}{' …' if len(item.mixed) > 3 else ''}"
    return "cannot tell" if item.seed is None else str(item.seed)


def _chance_text(p_value: float | None) -> str:
    if p_value is None:
        return NOTHING
    return "< 1e-300" if p_value < 1e-300 else f"{p_value:.0e}"


def _trained_text(item: witnessing.Testimony) -> str:
    if item.problem is not None:
        return f"{item.problem}: {item.tensor}"
    return {True: "trained", False: "untrained", None: NOTHING}[item.trained]
