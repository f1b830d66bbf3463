"""How `--help` is laid out: as wide as the terminal, options in groups, examples on one line each, to be pasted."""

from __future__ import annotations

import inspect
import os
import shutil
import textwrap
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptman.cli import refused_values, text
from ckptman.text import given_path

_EXAMPLE = "Example: "
_LINE = 56
"""Characters of an explanation that a shell shows."""


@cache
def _quiet() -> Any:
    """The option --quiet, as Typer makes it."""

    def holder(
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", expose_value=False, callback=_be_quiet, help="No progress, no advice.")
        ] = False,
    ) -> None:
        pass

    program = typer.Typer(add_completion=False)
    program.command()(holder)
    command: Any = typer.main.get_command(program)
    return command.params[0]


def _be_quiet(asked: bool) -> None:
    if asked:
        text.be_quiet(True)


def widest() -> int:
    """Columns that a help text may take: those of the terminal."""
    return max(shutil.get_terminal_size().columns, 60)


def briefly(items: list[Any]) -> list[Any]:
    """What a shell is offered, each explained in a line that is not wrapped, and without what a shell reads as a quote.

    Typer wraps an explanation, and a shell takes the second line for another word that is offered.
    """
    for item in items:
        if item.help:
            item.help = textwrap.shorten(item.help.replace("'", "’"), _LINE, placeholder=" …")
    return items


def _is_path(param: Any) -> bool:
    """Whether a parameter is a path that the library is given as it is read, or several: others look for themselves."""
    kind = getattr(param, "type_descriptor", None)
    return kind is not None and kind.parameter_info.parser is None and kind.annotation in (Path, list[Path])


class Helped(typer.core.TyperCommand):
    """A command whose help is laid out so."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; --quiet may stand behind the command as well as before it."""
        params = super().get_params(ctx)
        return [*params[:-1], _quiet(), *params[-1:]]

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the command line. An empty path, as of a shell variable that is not set, would be the current folder."""
        if not ctx.resilient_parsing and any(word == "" or word.endswith("=") for word in args):
            given = self.make_parser(ctx).parse_args(args=list(args))[0]
            for param in self.get_params(ctx):
                value = given.get(param.name)
                if _is_path(param) and "" in (value if isinstance(value, list | tuple) else (value,)):
                    given_path("", refused_values.name_of(param))
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What the shell is offered; a minus behind an option that takes a value begins the value: `--sort -gen_em`."""
        words = (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()
        before = words[-2] if len(words) > 1 and words[-1] == incomplete else ""
        for param in self.get_params(ctx):
            takes = before in param.opts and not getattr(param, "is_flag", False)
            if takes and incomplete.startswith("-") and not incomplete.startswith("--"):
                return param.shell_complete(ctx, incomplete)
        return briefly(super().shell_complete(ctx, incomplete))

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does, then its examples, which are never wrapped: a part of one is another command."""
        paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(self.help or "").split("\n\n")]
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\n\n".join(part for part in paragraphs if not part.startswith(_EXAMPLE)))
        examples = [part.removeprefix(_EXAMPLE) for part in paragraphs if part.startswith(_EXAMPLE)]
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options group by group, those of none first."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            names, said = record
            if param.param_type_name == "argument":
                panels["Arguments"].append((names.partition(" <")[0], said))  # the metavar says the type already
            else:
                panels.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append((names, said))
        general = panels.pop("Options")
        for title, records in (*panels.items(), ("Options", general)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
