"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptman.queries import conditions
from ckptman.rules import Convention, selection
from ckptman.text import UsageError, strict_yaml

DEFAULT_ROOT = "checkpoints"


def _folder(text: str | Path) -> Path:
    if text == "":  # a shell variable that is not set, which pathlib would take for the current folder
        raise UsageError("--root is empty", code="empty-path", fix="Name the tree's folder: --root DIR")
    return Path(text)


Root = Annotated[
    Path,
    typer.Option("--root", envvar="CKPTMAN_ROOT", metavar="DIR", parser=_folder, help="The organized tree."),
]
Numbering = Annotated[
    str | None,
    typer.Option(
        "--numbering", envvar="CKPTMAN_NUMBERING", metavar="NAME", help="Numbering of the tasks: full or merged."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

# --- one cell of the grid

# The parameters are not called as their flags, so that a setting of another command (`mode: hardlink`) is none of them.
Layers = Annotated[int | None, typer.Option("--layers", metavar="N", min=1, help="Transformer layers.")]
Mlp = Annotated[bool | None, typer.Option("--mlp/--no-mlp", help="With or without MLP.")]
Mode = Annotated[str | None, typer.Option("--mode", metavar="MODE", help="Length mode: mix or curriculum.")]
K = Annotated[int | None, typer.Option("--k", metavar="K", min=1, help="The longest trained list.")]
Fixed = Annotated[bool | None, typer.Option("--fixed/--dynamic", help="Trained on one length, or on many.")]
Layernorm = Annotated[
    bool | None, typer.Option("--layernorm/--no-layernorm", help="With or without LayerNorm.", show_default=False)
]
Group = Annotated[
    str | None, typer.Option("--group", metavar="GROUP", help="A group; it says K, --fixed and --layernorm.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another configuration value; may be repeated."),
]


Seeds = Annotated[list[int] | None, typer.Option("--seed", metavar="SEED", help="Seed; may be repeated.")]
WandbGroup = Annotated[str | None, typer.Option("--group", metavar="GROUP", help="W&B group.")]
TaskId = Annotated[int | None, typer.Option("--task", metavar="ID", help="Task id, as in the tree.")]
Conditions = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="CONDITION", help="A condition, see above; may be repeated: all must hold."),
]


def conditions_of(
    convention: Convention, where: Iterable[str] | None, seeds: Sequence[int] | None, **flags: Any
) -> list[conditions.Where]:
    """The conditions that the filters of `ls` and `results` stand for; None is no condition."""
    longest, fixed = flags.pop("longest"), flags.pop("fixed")
    flags[convention.families.k_config] = longest
    flags["regime"] = None if fixed is None else "fixed" if fixed else "dynamic"
    found = [conditions.equal(key, value) for key, value in flags.items() if value is not None]
    if seeds:
        found.append(conditions.equal("seed", *seeds))
    return found + [conditions.parse_where(text) for text in where or ()]


def check_group_alone(group: str | None, *others: object) -> None:
    """Refuse `--group` beside the options for what it says: K, the regime and LayerNorm."""
    if group is not None and any(other is not None for other in others):
        raise UsageError(
            "--group says K, the regime and LayerNorm already",
            code="bad-usage",
            fix="Leave out --k, --fixed and --layernorm.",
        )


def settings_of(texts: Iterable[str], known: Iterable[str]) -> dict[str, Any]:
    """The values that `--set KEY=VALUE` gives; a value is read as YAML reads it: `8`, `true`, `mix`, `[25, 50]`.

    Raises:
        UsageError: for an unknown key, naming the nearest known ones, and for a value that is no YAML.
    """
    names = tuple(known)
    values: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set {text!r} has no '='", code="bad-setting", fix="Write --set KEY=VALUE.")
        if key not in names:
            near = " or ".join(map(repr, conditions.nearest(key, names)))
            raise UsageError(
                f"--set: unknown key {key!r}" + (f"; did you mean {near}?" if near else ""),
                code="unknown-key",
                fix=f"Keys are: {', '.join(sorted(names))}",
            )
        values[key] = strict_yaml.load_yaml(value, f"--set {key}", error=UsageError)
    return values


# --- a part of the grid, for `sweep` and `status`

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
