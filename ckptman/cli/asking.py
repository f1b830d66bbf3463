"""Asking before many runs are trained, or maybe not those that were meant."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer

from ckptman.cli.app import warn
from ckptman.cli.text import console, count_text, plain
from ckptman.rules import terms
from ckptman.text import UsageError

UNASKED = 20
"""Runs that are trained without asking."""


def off_grid(asked: Iterable[tuple[terms.Grid, int | None, int]]) -> list[str]:
    """The K's and seeds that were asked for and that the grid does not have, as sentences.

    Args:
        asked: The grid, K and seed of each run.
    """
    found: dict[str, None] = {}
    for grid, k, seed in asked:
        for name, value, known in (("K", k, grid.k), ("seed", seed, grid.seeds)):
            if value is not None and value not in known:
                found[f"{name} {value} is not on the grid, which has {', '.join(map(str, known))}"] = None
    return list(found)


def ask(runs: int, off: Sequence[str], *, yes: bool) -> None:
    """Ask whether to begin where there are many runs, or values off the grid.

    Args:
        runs: To be trained. How long they take is said by now.
        off: What `off_grid` found.
        yes: Do not ask.

    Raises:
        UsageError: (`needs-yes`) where it has to be asked, and nobody is there to answer.
        Exit: where the answer is no.
    """
    if yes or not (runs > UNASKED or off):
        return
    for text in off:
        warn(text)
    if sys.stdin.isatty() and sys.stderr.isatty():
        confirm(f"Train {count_text(runs, 'run')}?", "nothing is trained")
    elif runs > UNASKED:
        raise UsageError(
            f"nothing is trained: these are {runs:,} runs, more than {UNASKED}",
            code="needs-yes",
            fix="Look at the plan with --dry-run; then add --yes, or choose fewer with --k, --task or --seed.",
        )


def confirm(question: str, otherwise: str) -> None:
    """Ask a question, on a terminal; where the answer is no, say what that means, and end.

    Raises:
        Exit: where the answer is no, or Ctrl-C.
    """
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        console(stderr=True, urgent=True).print(plain(otherwise))
        raise typer.Exit(1)
