"""How `--help` is laid out: as wide as the terminal, options in groups, examples on one line each, to be pasted."""

from __future__ import annotations

import inspect
import shutil
from typing import Any

import typer

_EXAMPLE = "Example: "


def widest() -> int:
    """Columns that a help text may take: those of the terminal."""
    return max(shutil.get_terminal_size().columns, 60)


class Helped(typer.core.TyperCommand):
    """A command whose help is laid out so."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does, then its examples, which are never wrapped: a part of one is another command."""
        paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(self.help or "").split("\n\n")]
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\n\n".join(text for text in paragraphs if not text.startswith(_EXAMPLE)))
        examples = [text.removeprefix(_EXAMPLE) for text in paragraphs if text.startswith(_EXAMPLE)]
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
            names, text = record
            if param.param_type_name == "argument":
                panels["Arguments"].append((names.partition(" <")[0], text))  # the metavar says the type already
            else:
                panels.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append((names, text))
        general = panels.pop("Options")
        for title, records in (*panels.items(), ("Options", general)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
