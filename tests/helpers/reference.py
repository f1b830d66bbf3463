"""The generated parts of README.md (what is read) and docs/reference.md (commands, codes, Python calls).

python -m tests.helpers.reference          writes them
python -m tests.helpers.reference --check  writes nothing, and exits 1 where they are stale
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

import ckptman
from ckptman.cli import commands
from ckptman.cli.app import app
from ckptman.documents.marked_blocks import decode, fill_blocks
from ckptman.formats import containers
from ckptman.formats.refusals import REFUSALS
from ckptman.text.markdown import code, table, text
from ckptman.tree.findings import KINDS

_ROOT = Path(__file__).parents[2]
README, REFERENCE = _ROOT / "README.md", _ROOT / "docs" / "reference.md"
EXAMPLE = "Example: "


def filled(file: Path, document: str) -> str:
    """One of the two documents with its generated blocks as they should be."""
    contents = {
        README: {"containers": containers.table},
        REFERENCE: {"commands": _commands, "findings": _findings, "refusals": _refusals, "api": _api},
    }[file]
    return fill_blocks(document, {name: write() for name, write in contents.items()}, str(file))


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


def _api() -> str:
    rows = []
    for name in sorted(ckptman.__all__, key=str.lower):
        value = getattr(ckptman, name)
        first = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()) if callable(value) else ""
        # Defaults that print their address would differ from run to run.
        signature = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value))) if callable(value) else ""
        rows.append([code(name), text(first), code(signature) if signature else ""])
    return table(["Name", "What it is", "Called with"], rows)


def main(arguments: list[str]) -> int:
    """Write both documents, or check them; the exit status."""
    status = 0
    for file in (README, REFERENCE):
        now = decode(file.read_bytes(), str(file))
        should_be = filled(file, now)
        if now != should_be and "--check" in arguments:
            print(f"{file.name} is stale: run make documents", file=sys.stderr)
            status = 1
        elif now != should_be:
            file.write_bytes(should_be.encode())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
