"""`ckptman name`: what a file name says, and which name a configuration gives."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

import typer
from rich.console import Console

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import (
    Json,
    KText,
    Root,
    Set,
    WithAxes,
    check_k,
    chosen_axes,
    chosen_facets,
    numbers_of,
    settings_of,
    tree_of,
)
from ckptman.cli.tables import print_table
from ckptman.cli.text import console, plain
from ckptman.queries import name_json
from ckptman.rules import Convention, TrainConfig, placement, terms
from ckptman.rules import naming as naming_rules
from ckptman.text import RefusedError, UsageError, wording
from ckptman.tree import records


@app.command("name", cls=WithAxes)
def _name(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE_NAME…]", help="Names, or paths: their last part counts.")
    ] = None,
    to_format: Annotated[bool, typer.Option("--format", help="Give the name of a configuration.")] = False,
    root: Root = None,
    longest: KText = None,
    step: Annotated[int | None, typer.Option("--step", metavar="N", min=0, help="Iterations done.")] = None,
    final: Annotated[
        bool | None, typer.Option("--final/--checkpoint", help="Of the end of training, or on the way.")
    ] = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say what a checkpoint's file name says, or give the name of a configuration.

    What --format is not told is as in the published recipe. The files need not exist.

    Example: ckptman name checkpoints/*/*/*/*/*/*.pt --json

    Example: ckptman name --format --layers 1 --no-mlp --k 8 --mode mix
    """
    convention = convention_for(context, tree_of(context, root))
    check_k(longest, convention)
    given = chosen_axes(context, convention)
    chosen = {name: values[0] for name, values in chosen_facets(context, convention).items()}
    given |= {key: value for name, value in chosen.items() if (key := convention.key_of(name)) is not None}
    more = (*chosen.values(), longest, step, final, settings)
    if not to_format:
        if given or any(value is not None for value in more) or not names:
            raise UsageError(
                "a name cannot be parsed and given a configuration at once" if names else "there is no name to parse",
                code="bad-usage",
                fix="Give file names to parse, or --format and a configuration.",
            )
        _parse(names, convention, as_json=as_json)
        return
    if names:
        raise UsageError("--format takes no file names", code="bad-usage", fix="Leave them out, or leave out --format.")
    formatted = []
    for k in numbers_of(longest, "--k", least=1) or (_every_k(convention) if longest else (None,)):
        held = {} if k is None else {convention.k_key or "k": k}
        formatted.append(
            _format(convention, _config(convention, given | held, settings or [], chosen), step, final=final)
        )
    if as_json:
        naming = naming_rules.naming_of(convention)
        print_json(_document([_parsed_json(name, naming.parse(name)) for name in formatted], []))
    else:
        for name in formatted:
            console().print(plain(name), soft_wrap=True)


def _every_k(convention: Convention) -> tuple[int, ...]:
    """Each K of a grid."""
    return tuple(dict.fromkeys(k for grid in convention.grids.values() for k in grid.k))


# --- parsing ----------------------------------------------------------------------------------------------------------


def _parse(names: list[str], convention: Convention, *, as_json: bool) -> None:
    naming = naming_rules.naming_of(convention)
    parsed: list[tuple[str, naming_rules.CheckpointName]] = []
    refused: list[tuple[str, RefusedError]] = []
    for name in names:
        try:
            parsed.append((name, naming.parse(PurePath(name).name)))
        except RefusedError as error:
            refused.append((name, error))
    if as_json:
        print_json(
            _document(
                [_parsed_json(name, says) for name, says in parsed],
                [{"name": name, "code": e.code, "message": e.message, "fix": e.fix} for name, e in refused],
            )
        )
    else:
        for index, (name, says) in enumerate(parsed):
            _print_parsed(name, says, convention, console(), first=index == 0)
    talk = console(stderr=True)
    for _, refusal in refused:
        talk.print(plain("REFUSED ", "bold red") + plain(refusal.message))
    if refused:
        talk.print(plain(f"  {refused[0][1].fix}"))
    raise typer.Exit(1 if refused else 0)


def _print_parsed(
    name: str, says: naming_rules.CheckpointName, convention: Convention, out: Console, *, first: bool
) -> None:
    if not first:
        out.print()
    out.print(plain(PurePath(name).name, "bold"))
    rows = [("Field", "Says", "Meaning")]
    if says.prefix is not None:
        rows.append((says.prefix.name, "", f"Kind of checkpoint: {says.prefix.title}"))
    if says.scheme is not None:
        rows += [
            (key, wording.value_text(value), f"by the scheme {says.scheme.name}") for key, value in says.values.items()
        ]
    for field in convention.fields if says.scheme is None else ():
        if all(key in says.values for key in field.config):
            said = ", ".join(f"{key} = {wording.value_text(says.values[key])}" for key in field.config)
            rows.append((field.tag, said, field.title))
    if says.step is not None:
        rows.append((convention.step_tag, str(says.step), convention.step_title))
    print_table(out, rows, indent="  ")


def _parsed_json(name: str, says: naming_rules.CheckpointName) -> dict[str, Any]:
    return {"name": name, "parsed": name_json(says)}


def _document(names: list[dict[str, Any]], refused: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema_version": records.SCHEMA_VERSION, "names": names, "refused": refused}


# --- formatting -------------------------------------------------------------------------------------------------------


def _config(
    convention: Convention, given: dict[str, Any], settings: list[str], chosen: dict[str, terms.Scalar]
) -> dict[str, Any]:
    """The published recipe, changed by what the regime fixes, then by the options, then by --set."""
    config = TrainConfig().to_dict() | given
    facets = {**placement.facets_of(config, convention), **placement.default_pattern(convention, {}).facets}
    facets |= placement.facets_of(given, convention) | chosen
    mine = next((pattern for pattern in convention.groups if placement.fits(pattern, facets)), None)
    if mine is not None:
        for key, value in convention.grids[mine.grid].regimes[mine.regime].set.items():
            held = convention.key_of(value) if isinstance(value, str) and value in mine.holes else None
            config[key] = value if held is None else config[held]
    keys = {key for field in convention.fields for key in field.config} | {p.step_config for p in convention.prefixes}
    config |= given | settings_of(settings, keys)
    for field in convention.fields:
        if field.type == "range":
            low, high = (config.get(key) for key in field.config)
            if isinstance(low, int) and isinstance(high, int) and low > high:
                raise UsageError(
                    f"{field.config[0]} = {low} is above {field.config[1]} = {high}",
                    code="bad-config",
                    fix=f"Set both ends with --set {field.config[0]}=… and --set {field.config[1]}=….",
                )
    return config


def _format(convention: Convention, config: dict[str, Any], step: int | None, *, final: bool | None) -> str:
    prefix = _prefix(convention, config, step, final=final)
    done = prefix.expected_step(config) if step is None else step
    if done is None:
        raise UsageError(
            f"{prefix.step_config} does not say at which step a {prefix.name} is saved",
            code="bad-config",
            fix=f"Give --step, or --set {prefix.step_config}=NUMBER.",
        )
    try:
        return naming_rules.naming_of(convention).name_for(config, prefix, done)
    except RefusedError as error:
        raise UsageError(error.message, code=error.code, fix=error.fix) from error


def _prefix(convention: Convention, config: dict[str, Any], step: int | None, *, final: bool | None) -> terms.Prefix:
    """The kind that was asked for; from a step alone, final if training ends there; else final."""
    if final is None:
        final = step is None or any(p.final and p.expected_step(config) == step for p in convention.prefixes)
    for prefix in convention.prefixes:
        if prefix.final == final:
            return prefix
    raise UsageError(
        f"the convention has no prefix for a checkpoint {'of the end of training' if final else 'on the way'}",
        code="bad-config",
        fix="Add one to name.prefixes in ckptman.yaml.",
    )
