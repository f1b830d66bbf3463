"""The options that choose a part of the grid, shared by `sweep` and `status`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptman.rules import Convention, selection

_PANEL = "Which runs"

KText = Annotated[
    str,
    typer.Option("--k", metavar="LIST", help="The longest trained lists: 4-16:2, 4,8 or all.", rich_help_panel=_PANEL),
]
TaskText = Annotated[
    str, typer.Option("--task", metavar="LIST", help="Task ids: 0-3, 6 or all.", rich_help_panel=_PANEL)
]
SeedText = Annotated[
    str,
    typer.Option("--seed", metavar="LIST", help="Seeds: 1337,2337 or all of the grid's.", rich_help_panel=_PANEL),
]
RegimeText = Annotated[
    str, typer.Option("--regime", metavar="LIST", help="dynamic, fixed or both.", rich_help_panel=_PANEL)
]
LayernormText = Annotated[
    str, typer.Option("--layernorm", metavar="LIST", help="on, off or both.", rich_help_panel=_PANEL)
]
GroupText = Annotated[
    str,
    typer.Option(
        "--group", metavar="LIST", help="Groups by name, with * for any letters; or all.", rich_help_panel=_PANEL
    ),
]

ALL = "all"


def selection_of(
    convention: Convention,
    *,
    k: str = ALL,
    task: str = ALL,
    seed: str = ALL,
    regime: str = ALL,
    layernorm: str = ALL,
    group: str = ALL,
) -> selection.Selection:
    """The part of the grid that the options ask for.

    Raises:
        UsageError: (`bad-range`, `bad-choice`) for a text that is none of these.
    """
    regimes = {name: name for name in convention.families.regime_folders}
    return selection.Selection(
        groups=None if group == ALL else tuple(name.strip() for name in group.split(",")),
        k=selection.parse_numbers(k, "--k"),
        tasks=selection.parse_numbers(task, "--task"),
        seeds=selection.parse_numbers(seed, "--seed"),
        regimes=selection.parse_choices(regime, regimes, "--regime"),
        layernorm=selection.parse_choices(layernorm, {"on": True, "off": False}, "--layernorm"),
    )
