"""The generated parts of README.md: commands, finding codes, refusal codes.

python -m tests.helpers.reference          writes them
python -m tests.helpers.reference --check  writes nothing, and exits 1 where they are stale
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from ckptman.cli import commands
from ckptman.cli.app import app
from ckptman.documents.marked_blocks import decode, fill_blocks
from ckptman.formats import containers
from ckptman.formats.refusals import REFUSALS
from ckptman.text.markdown import code, table, text
from ckptman.tree.findings import KINDS

README = Path(__file__).parents[2] / "README.md"
EXAMPLE = "Example: "


def filled(readme: str) -> str:
    """The README with its generated blocks as they should be."""
    contents = {
        "commands": _commands(),
        "findings": _findings(),
        "refusals": _refusals(),
        "containers": containers.table(),
    }
    return fill_blocks(readme, contents, str(README))


def paragraphs(name: str) -> list[str]:
    """The help of a command, a string for each paragraph."""
    help_text = registered()[name].help or ""
    return [" ".join(part.split()) for part in inspect.cleandoc(help_text).split("\n\n")]


def names() -> list[str]:
    """The commands, in the order of the command list."""
    return list(registered())


def registered() -> dict[str, typer.core.TyperCommand]:
    commands.register()
    group = typer.main.get_command(app)
    found = dict(group.commands)  # type: ignore[attr-defined]  # the app is a group of commands

    def place(name: str) -> int:  # a module that was imported before has its command first in the app
        return list(commands.COMMANDS).index(name)

    return {name: found[name] for name in sorted(found, key=place)}


def _commands() -> str:
    rows = []
    for name in names():
        first, *rest = paragraphs(name)
        examples = "<br>".join(code(part.removeprefix(EXAMPLE)) for part in rest if part.startswith(EXAMPLE))
        rows.append([code(f"ckptman {name}"), text(first), examples])
    return table(["Command", "What it does", "Example"], rows)


def _findings() -> str:
    def rows() -> Iterator[list[str]]:
        for kind in KINDS.values():
            severity = kind.severity.value + ("" if kind.default else ", off by default")
            yield [code(kind.code), severity, text(kind.meaning)]

    return table(["Code", "Severity", "Meaning"], rows())


def _refusals() -> str:
    rows = ([code(name), text(refusal.meaning), text(refusal.fix)] for name, refusal in REFUSALS.items())
    return table(["Code", "Meaning", "What to do"], rows)


def main(arguments: list[str]) -> int:
    """Write the README, or check it; the exit status."""
    now = decode(README.read_bytes(), str(README))
    should_be = filled(now)
    if now == should_be:
        return 0
    if "--check" in arguments:
        print(f"{README.name} is stale: run make documents", file=sys.stderr)
        return 1
    README.write_bytes(should_be.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
