"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptman.cli import completing, helping
from ckptman.cli.app import convention_for, warn
from ckptman.cli.text import be_verbose
from ckptman.rules import Convention, convention_file, grids, selection, terms
from ckptman.text import ConfigurationError, UsageError, given_path, strict_yaml, wording

if TYPE_CHECKING:  # imported where they are used: --help and completion need neither
    from ckptman.queries import conditions

DEFAULT_ROOT = "checkpoints"
DEFAULT_OUT = "grid_outputs"


def _folder(text: str | Path) -> Path:
    return _named("--root", text, "the tree's folder")


def raw_folder(text: str | Path) -> Path:
    """The folder of raw outputs that --out, or what stands for it, names."""
    return _named("--out", text, "the folder of the raw outputs")


def _named(option: str, text: str | Path, what: str) -> Path:
    return given_path(text, option, f"Name {what}: {option} DIR")  # a shell variable that is not set


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
Out = Annotated[
    Path,
    typer.Option("--out", envvar="CKPTMAN_OUT", metavar="DIR", parser=raw_folder, help="The root of the raw outputs."),
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
    from ckptman.tree import roots

    here = Path.cwd()
    found = roots.find_tree(here, convention_for(context, here))
    return Path(DEFAULT_ROOT) if found is None else Path() if found == here else found


def tree_there(context: typer.Context, root: Path | None) -> Path | None:
    """The tree as `tree_of` gives it; None where none is named and none is there."""
    tree = tree_of(context, root)
    return tree if root is not None or tree.is_dir() else None


def warn_of_no_tree(tree: Path | None) -> None:
    """Say where a tree that is named, and need not be there yet, is not."""
    if tree is not None and not tree.exists():
        warn(f"there is no tree at {tree}, so none of its runs is known to be complete")


Numbering = Annotated[
    str | None,
    typer.Option(
        "--numbering", envvar="CKPTMAN_NUMBERING", metavar="NAME", help="Numbering of the tasks: full or merged."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=be_verbose, help="Name all; otherwise, of each kind, only the first are named."
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

K = Annotated[
    int | None,
    typer.Option("--k", metavar="K", min=1, help="The longest trained list.", rich_help_panel=_CONFIGURATION),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another configuration value; may be repeated.",
        autocompletion=completing.settings,
        rich_help_panel=_CONFIGURATION,
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        "--metric",
        metavar="KEY",
        help="A metric of the runs; with *, the mean of all that match.",
        autocompletion=completing.keys,
    ),
]


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    MD = "md"
    JSON = "json"
    PARQUET = "parquet"


FORMATS = f"{', '.join(list(Format)[:-1])} or {list(Format)[-1]}."

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


_CHOSEN = "ckptman.facets"


class WithFacets(helping.Helped):
    """A command with an option for each facet of the convention, which its function reads by `chosen_facets`."""

    lists = False
    """Whether an option takes several values, as `--name LIST`."""
    axes = False
    """Whether there are options for axes of grids too, which the function reads by `chosen_axes`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the function, and the facets' before those of no group."""
        params = super().get_params(ctx)
        if _CHOSEN not in ctx.meta:
            rules = _convention_of(ctx)
            made = _facet_options(rules, lists=self.lists) | (_axis_options(rules) if self.axes else {})
            ctx.meta[_CHOSEN] = {}, _params(made)
        own = {name for param in params for name in (param.name, *param.opts)}
        more = [param for param in ctx.meta[_CHOSEN][1] if not own & {param.name, *param.opts}]
        return [*params[:-1], *more, *params[-1:]]

    def invoke(self, ctx: Any) -> Any:
        """Call the function, with the facets in the context."""
        chosen, params = ctx.meta[_CHOSEN]
        chosen.update((param.name, ctx.params.pop(param.name, None)) for param in params)
        return super().invoke(ctx)


class WithFacetLists(WithFacets):
    """The same, with lists of values."""

    lists = True


class WithAxes(WithFacets):
    """The same, with an option for each axis of the convention's grids."""

    axes = True


def _convention_of(ctx: Any) -> Convention:
    try:
        return convention_file.load_convention(ctx.obj or convention_file.find_file(Path.cwd()))
    except ConfigurationError:  # which the command itself tells of; a completion is silent
        return convention_file.built_in()


def _facet_options(convention: Convention, *, lists: bool) -> dict[str, Any]:
    """An option for each facet that commands ask for, by its name."""
    made = {}
    for facet in convention.told_facets:
        words = [value.word for value in facet.values]
        options = [value.option for value in facet.values]
        kind: Any = list[str] | None
        if not lists and len(words) == 2 and all(options):
            kind = bool | None
            first, second = facet.values
            text = f"{first.title[:1].upper()}{first.title[1:]} or {second.title[:1].lower()}{second.title[1:]}."
            option = typer.Option("/".join(options), help=text, rich_help_panel=_CONFIGURATION, show_default=False)
        else:
            shown = " or ".join(words) or "any value"
            text = f"{facet.title[:1].upper()}{facet.title[1:]}: {shown}; with commas for several."
            option = typer.Option(
                f"--{facet.name.replace('_', '-')}", metavar="LIST", help=text, rich_help_panel=_PANEL
            )
        made[facet.name] = Annotated[kind, option]
    return made


def _axis_options(convention: Convention) -> dict[str, Any]:
    """An option for each axis that commands ask for, by its key."""
    made = {}
    for key, values in convention.asked_axes.items():
        axis = convention.axis(key)
        name = axis.option or f"--{re.sub('[^a-z0-9]+', '-', key.lower()).strip('-')}"
        shown = " or ".join(wording.value_text(value) for value in dict.fromkeys(values))
        text = f"{axis.title}: {shown}." if shown else f"{axis.title}."
        kinds = {type(value) for value in values}
        kind: Any = str | None
        if kinds == {bool}:
            kind, name, text = bool | None, f"{name}/--no-{name[2:]}", f"With or without {axis.title}."
        elif kinds and kinds <= {int, float}:
            kind = (int if kinds == {int} else float) | None
        least = min((1, *(value for value in values if isinstance(value, int)))) if kind == int | None else None
        metavar = None if kinds == {bool} else "N" if kind != str | None else "VALUE"
        option = typer.Option(name, metavar=metavar, min=least, help=text, rich_help_panel=_CONFIGURATION)
        made[key] = Annotated[kind, option]
    return made


def _params(made: dict[str, Any]) -> list[Any]:
    """Options as parameters, as Typer makes them."""

    def holder(**_: Any) -> None:
        pass

    named = {f"option_{index}": kind for index, kind in enumerate(made.values())}  # a key may be no name of Python
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in named.items()
    ]
    holder.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # where Typer looks
    holder.__annotations__ = named
    program = typer.Typer(add_completion=False)
    program.command()(holder)
    params: list[Any] = list(typer.main.get_command(program).params)
    for name, param in zip(made, params, strict=True):
        param.name = name
    return params


def given_facets(context: typer.Context) -> dict[str, Any]:
    """What the options for facets were given, by facet."""
    return dict(context.meta.get(_CHOSEN, ({}, ()))[0])


def chosen_axes(context: typer.Context, convention: Convention) -> dict[str, Any]:
    """The values of axes that the options ask for, by configuration key."""
    given = given_facets(context)
    return {key: given[key] for key in convention.asked_axes if given.get(key) is not None}


def chosen_facets(context: typer.Context, convention: Convention) -> dict[str, tuple[terms.Scalar, ...]]:
    """The values of facets that the options ask for, by facet; nothing for one that may have any.

    Raises:
        UsageError: (`bad-choice`) for a word that is none of a facet's values.
    """
    chosen: dict[str, tuple[terms.Scalar, ...]] = {}
    for name, value in given_facets(context).items():
        facet = convention.facets.get(name)
        if facet is None or (not value and value is not False):
            continue
        if isinstance(value, bool):
            chosen[name] = (facet.values[0 if value else 1].value,)
            continue
        known: dict[str, terms.Scalar] = {each.word: each.value for each in facet.values}
        if {True, False} == set(known.values()):
            known |= {"on": True, "off": False}
        words = [word.strip() for text in value for word in text.split(",")]
        if facet.values:
            found = selection.parse_choices(",".join(words), known, f"--{name}")
        else:
            found = None if ALL in words else tuple(facet.parse(word) for word in words)
        if found is not None:
            chosen[name] = found
    return chosen


def conditions_of(
    convention: Convention, context: typer.Context, where: Iterable[str] | None
) -> list[conditions.Where]:
    """The conditions that the filters of `ls`, `results` and `plot` stand for."""
    from ckptman.queries import conditions

    given = context.params
    check_k(given.get("longest"), convention)
    found = [
        conditions.equal(key, value) if convention.asked_axes[key] else conditions.written(key, value)
        for key, value in chosen_axes(context, convention).items()
    ]
    if given.get("final") is not None:
        found.append(conditions.equal("final", given["final"]))
    found += [
        conditions.equal(name, *(v for v in values if v is not None))
        for name, values in chosen_facets(context, convention).items()
    ]
    lists = (
        (convention.k_key or "k", "longest", "--k", 1), ("task", "task", "--task", 0), ("seed", "seed", "--seed", 0)
    )  # fmt: skip
    for key, name, what, least in lists:
        if (numbers := numbers_of(given.get(name), what, least=least)) is not None:
            found.append(conditions.equal(key, *numbers))
    if (groups := groups_of(given.get("group"))) is not None:
        found.append(conditions.matching("group", *groups))
    return found + [conditions.parse_where(text) for text in where or ()]


def check_k(asked: object, convention: Convention) -> None:
    """Refuse `--k` where the convention has no K.

    Raises:
        UsageError: (`no-k`).
    """
    if asked and convention.k_key is None:
        raise UsageError(
            f"--k: this convention has no K ({convention.title})",
            code="no-k",
            fix=f"Choose by a key: --where 'KEY == VALUE'. Or say in {convention_file.FILE_NAME} which key it is: "
            f"facets: {{{terms.K}: {{config: KEY}}}}",
        )


def check_group_alone(group: object, context: typer.Context, convention: Convention, *others: object) -> None:
    """Refuse `--group` beside the options for what it says: K and the facets."""
    if group is not None and (any(other is not None for other in others) or chosen_facets(context, convention)):
        raise UsageError(
            f"--group says K and {' and '.join(facet.title for facet in convention.told_facets)} already",
            code="bad-usage",
            fix="Leave out --k and the options for these.",
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


ALL = "all"


def numbers_of(texts: Texts, what: str, *, least: int = 0) -> tuple[int, ...] | None:
    """The whole numbers that an option asks for, each once and none below `least`; None for all.

    Raises:
        UsageError: (`bad-range`) for a text that is no list of them.
    """
    lists = [selection.parse_numbers(text, what) for text in texts or ()]
    found = [numbers for numbers in lists if numbers is not None]
    if (lowest := min(chain(*found), default=least)) < least:
        message = f"{what}: a number of at least {least} is wanted, not {lowest}"
        raise UsageError(message, code="bad-range", fix="Write 8, or 4-16:2.")
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
    context: typer.Context,
    *,
    k: Texts = None,
    task: Texts = None,
    seed: Texts = None,
    group: Texts = None,
) -> selection.Selection:
    """The part of the grid that the options ask for.

    Raises:
        UsageError: (`bad-range`, `bad-choice`) for a text that is none of these; (`no-k`).
    """
    check_k(k, convention)
    return selection.Selection(
        groups=groups_of(group),
        k=numbers_of(k, "--k", least=1),
        tasks=numbers_of(task, "--task"),
        seeds=numbers_of(seed, "--seed"),
        facets=chosen_facets(context, convention),
    )
