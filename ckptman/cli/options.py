"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptman.cli import completing
from ckptman.cli.app import convention_for
from ckptman.queries import conditions
from ckptman.rules import Convention, grids, selection
from ckptman.text import UsageError, strict_yaml, wording
from ckptman.tree import roots

DEFAULT_ROOT = "checkpoints"
DEFAULT_OUT = "grid_outputs"


def _folder(text: str | Path) -> Path:
    if text == "":  # a shell variable that is not set, which pathlib would take for the current folder
        raise UsageError("--root is empty", code="empty-path", fix="Name the tree's folder: --root DIR")
    return Path(text)


Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        envvar="CKPTMAN_ROOT",
        metavar="DIR",
        parser=_folder,
        help=f"The organized tree. [default: the one that the current folder lies in, else {DEFAULT_ROOT}]",
    ),
]
Tree = Annotated[
    Path | None, typer.Argument(metavar="DIR", parser=_folder, help="The tree, as with --root.", show_default=False)
]


def tree_of(context: typer.Context, root: Path | None, directory: Path | None = None) -> Path:
    """The tree that a command is about: what is named, or else the one that the current folder lies in.

    Args:
        root: --root, or what stands for it in the environment or the settings.
        directory: The argument, where the command has one.

    Raises:
        UsageError: (`bad-usage`) where both are given on the command line.
    """
    if directory is not None:
        source = context.get_parameter_source("root")
        if root not in (None, directory) and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"two trees are named, {directory} and --root {root}", code="bad-usage", fix="Name one of them."
            )
        return directory
    if root is not None:
        return root
    here = Path.cwd()
    found = roots.find_tree(here, convention_for(context, here))
    return Path(DEFAULT_ROOT) if found is None else Path() if found == here else found


Numbering = Annotated[
    str | None,
    typer.Option(
        "--numbering", envvar="CKPTMAN_NUMBERING", metavar="NAME", help="Numbering of the tasks: full or merged."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

# --- a part of the grid, or of a tree: the same options mean the same in every command

_PANEL = "Which runs"

Texts = Sequence[str] | None
"""What an option that may be repeated was given; each value can be a list itself."""

KText = Annotated[
    list[str] | None,
    typer.Option(
        "--k",
        metavar="LIST",
        help="The longest trained lists: 8, or 4,8, or 4-16:2, or all; may be repeated.",
        autocompletion=completing.lengths,
        rich_help_panel=_PANEL,
    ),
]
TaskText = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="LIST",
        help="Task ids, written likewise: 0-3,6.",
        rich_help_panel=_PANEL,
        autocompletion=completing.tasks,
    ),
]
SeedText = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        metavar="LIST",
        help="Seeds, written likewise: 1337,2337.",
        rich_help_panel=_PANEL,
        autocompletion=completing.seeds,
    ),
]
GroupText = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="LIST",
        help="Groups, with commas; * stands for any letters. May be repeated.",
        autocompletion=completing.groups,
        rich_help_panel=_PANEL,
    ),
]

# --- one cell of the grid

_CONFIGURATION = "Configuration"

# The parameters are not called as their flags, so that a setting of another command (`mode: hardlink`) is none of them.
Layers = Annotated[
    int | None,
    typer.Option("--layers", metavar="N", min=1, help="Transformer layers.", rich_help_panel=_CONFIGURATION),
]
Mlp = Annotated[
    bool | None, typer.Option("--mlp/--no-mlp", help="With or without MLP.", rich_help_panel=_CONFIGURATION)
]
Mode = Annotated[
    str | None,
    typer.Option("--mode", metavar="MODE", help="Length mode: mix or curriculum.", rich_help_panel=_CONFIGURATION),
]
K = Annotated[
    int | None,
    typer.Option("--k", metavar="K", min=1, help="The longest trained list.", rich_help_panel=_CONFIGURATION),
]
Fixed = Annotated[
    bool | None,
    typer.Option("--fixed/--dynamic", help="Trained on one length, or on many.", rich_help_panel=_CONFIGURATION),
]
Layernorm = Annotated[
    bool | None,
    typer.Option(
        "--layernorm/--no-layernorm",
        help="With or without LayerNorm.",
        show_default=False,
        rich_help_panel=_CONFIGURATION,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another configuration value; may be repeated.",
        rich_help_panel=_CONFIGURATION,
    ),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="A condition, see above; may be repeated: all must hold.",
        autocompletion=completing.keys,
        rich_help_panel=_PANEL,
    ),
]


def conditions_of(
    convention: Convention,
    where: Iterable[str] | None,
    *,
    longest: Texts,
    task: Texts,
    seed: Texts,
    group: Texts,
    fixed: bool | None,
    **flags: Any,
) -> list[conditions.Where]:
    """The conditions that the filters of `ls` and `results` stand for; None is no condition."""
    flags["regime"] = None if fixed is None else "fixed" if fixed else "dynamic"
    found = [conditions.equal(key, value) for key, value in flags.items() if value is not None]
    lists = {convention.families.k_config: (longest, "--k"), "task": (task, "--task"), "seed": (seed, "--seed")}
    for key, (texts, what) in lists.items():
        if (numbers := numbers_of(texts, what)) is not None:
            found.append(conditions.equal(key, *numbers))
    if (groups := groups_of(group)) is not None:
        found.append(conditions.matching("group", *groups))
    return found + [conditions.parse_where(text) for text in where or ()]


def check_group_alone(group: object, *others: object) -> None:
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
            raise UsageError(
                f"--set: unknown key {key!r}{wording.did_you_mean(key, names)}",
                code="unknown-key",
                fix=f"Keys are: {', '.join(sorted(names))}",
            )
        values[key] = strict_yaml.load_yaml(value, f"--set {key}", error=UsageError)
    return values


RegimeText = Annotated[
    str, typer.Option("--regime", metavar="LIST", help="dynamic, fixed or both.", rich_help_panel=_PANEL)
]
LayernormText = Annotated[
    str, typer.Option("--layernorm", metavar="LIST", help="on, off or both.", rich_help_panel=_PANEL)
]
ALL = "all"


def numbers_of(texts: Texts, what: str) -> tuple[int, ...] | None:
    """The whole numbers that an option asks for, each once; None for all.

    Raises:
        UsageError: (`bad-range`) for a text that is no list of them.
    """
    lists = [selection.parse_numbers(text, what) for text in texts or ()]
    if what == "--k" and any(0 in numbers for numbers in lists if numbers):
        raise UsageError("--k: a list has at least one number, not 0", code="bad-range", fix="Write 8, or 4-16:2.")
    found = [numbers for numbers in lists if numbers is not None]
    return tuple(dict.fromkeys(chain(*found))) if found and len(found) == len(lists) else None


def groups_of(texts: Texts) -> tuple[str, ...] | None:
    """The names of groups that an option asks for; None for all."""
    names = tuple(name.strip() for text in texts or () for name in text.split(","))
    return None if not names or ALL in names else names


def named_groups(convention: Convention, group: Texts) -> list[str | None]:
    """The groups that are asked for, those of the grid for a `*`; a None where a family is meant instead.

    Raises:
        UsageError: (`unknown-group`) where the grid has none of a pattern.
    """
    if not group:
        return [None]
    known = grids.group_names(convention)
    found: dict[str | None, None] = {}
    for name in groups_of(group) or ("*",):
        names = [each for each in known if fnmatchcase(each, name)] if set(name) & set("*?[") else [name]
        if not names:
            raise UsageError(
                f"there is no group {name}{wording.did_you_mean(name, known)}",
                code="unknown-group",
                fix=f"Known are: {', '.join(pattern.pattern for pattern in convention.groups)}",
            )
        found.update(dict.fromkeys(names))
    return list(found)


def selection_of(
    convention: Convention,
    *,
    k: Texts = None,
    task: Texts = None,
    seed: Texts = None,
    regime: str = ALL,
    layernorm: str = ALL,
    group: Texts = None,
) -> selection.Selection:
    """The part of the grid that the options ask for.

    Raises:
        UsageError: (`bad-range`, `bad-choice`) for a text that is none of these.
    """
    regimes = {name: name for name in convention.families.regime_folders}
    return selection.Selection(
        groups=groups_of(group),
        k=numbers_of(k, "--k"),
        tasks=numbers_of(task, "--task"),
        seeds=numbers_of(seed, "--seed"),
        regimes=selection.parse_choices(regime, regimes, "--regime"),
        layernorm=selection.parse_choices(layernorm, {"on": True, "off": False}, "--layernorm"),
    )
