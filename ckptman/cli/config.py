"""`ckptman config`."""

from __future__ import annotations

import os
from typing import Any

import typer

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import Json, Root, tree_of
from ckptman.cli.tables import print_table
from ckptman.cli.text import console, plain
from ckptman.rules import convention_file
from ckptman.text import wording
from ckptman.tree import records


@app.command("config")
def _config(context: typer.Context, root: Root = None, as_json: Json = False) -> None:
    """Show each setting, its value, and where it comes from.

    A setting is the default of an option. A value on the command line comes before the environment, that before the
    settings of ckptman.yaml, and those before the built-in default.

    Example: ckptman config
    """
    convention = convention_for(context, tree_of(context, root))
    rows = sorted(_settings(context, {"root": str(tree_of(context, root)), "numbering": convention.numbering}))
    file = "the built-in rules" if convention.source is None else str(convention.source)
    if as_json:
        settings = [dict(zip(("setting", "value", "source", "commands"), row, strict=True)) for row in rows]
        print_json({"schema_version": records.SCHEMA_VERSION, "rules": file, "settings": settings})
        return
    out = console()
    out.print(plain(f"rules: {file}"))
    out.print(plain(f"conventions to name with --convention: {', '.join(convention_file.shipped())}"))
    print_table(out, [("Setting", "Value", "From", "Of"), *rows])


def _settings(context: typer.Context, resolved: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """Each option that the environment or a file can set: its name, its value, where that is from, its commands.

    Args:
        resolved: What the defaults that are worked out come to.
    """
    group: Any = context.parent.command if context.parent is not None else None
    found: dict[tuple[str, str, str], list[str]] = {}
    given = context.parent.default_map or {} if context.parent is not None else {}
    for command in group.list_commands(context):
        for option in group.get_command(context, command).params:
            variable = option.envvar if isinstance(option.envvar, str) else None
            in_file = given.get(command, {}).get(option.name)
            if variable is None and in_file is None:
                continue
            if variable is not None and os.environ.get(variable):
                value, source = os.environ[variable], f"the environment, {variable}"
            elif in_file is not None:
                value, source = _shown(in_file), "ckptman.yaml, settings"
            else:
                value, source = _shown(option.get_default(context)), "the default"
            if value == "none" and str(option.name) in resolved:
                value = resolved[str(option.name)]
            found.setdefault((str(option.name), value, source), []).append(command)
    return [(*key, ", ".join(names)) for key, names in found.items()]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else wording.value_text(value)
