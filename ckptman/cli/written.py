"""What `report` wrote, on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from ckptman.cli.app import next_step, print_json, warn
from ckptman.cli.text import clean, console, count_text, plain
from ckptman.documents import ReportResult, State, drawing
from ckptman.text import wording

_STYLES = {State.WRITTEN: "green", State.UNCHANGED: "", State.STALE: "yellow", State.REFUSED: "bold red"}


def answer(
    context: typer.Context,
    result: ReportResult,
    root: Path | None,
    where: list[str],
    as_json: bool,
    diff: bool,
    numbering: str | None,
    figures: bool | None,
) -> NoReturn:
    """Tell what was written, and end the command."""
    if as_json:
        print_json(result.to_json())
    else:
        _show(result, console(), diff=diff)
    if result.check and any(document.state is State.STALE for document in result.documents):
        options = where + (["--numbering", numbering] if numbering else [])
        config = ["--config", str(context.obj)] if context.obj else []
        talk = plain("Bring it up to date with: ") + plain(
            wording.shell_command(["ckptman", *config, "report", *options]), "bold"
        )
        console(stderr=True).print(talk)
    elif root is not None and not result.check and not as_json:
        if page := _page(result, root, asked="--html" in where or "--html-file" in where):
            next_step(f"open {wording.shell_word(page)} in a browser")
        next_step(f"ckptman results {wording.shell_word(root)}")
    if root is not None and figures is None and not drawing.is_possible() and not as_json:
        said = plain("No figures are drawn: install matplotlib for them (pip install matplotlib).", "dim")
        console(stderr=True).print(said)
    unread = result.statistics.unreadable if result.statistics is not None else ()
    if unread and root is not None:
        more = f" and {len(unread) - 1:,} more" if len(unread) > 1 else ""
        warn(
            f"what is in {result.root / unread[0]}{more} is not counted: it cannot be read. ckptman validate says why."
        )
    raise typer.Exit(1 if result.stale or unread else 0)


def _page(result: ReportResult, root: Path, *, asked: bool) -> Path | None:
    """The explorer that was asked for, if it is there."""
    pages = [
        item.name
        for item in result.documents
        if item.is_page and not item.name.endswith(".svg") and item.state is not State.REFUSED
    ]
    return root / pages[0] if asked and pages else None


def _show(result: ReportResult, out: Console, *, diff: bool) -> None:
    for document in result.documents:
        out.print(plain(document.state.value, _STYLES[document.state]) + plain(f"  {result.root / document.name}"))
        if document.kept_as is not None:
            out.print(plain(f"  the file that was there was not written by ckptman: it is kept as {document.kept_as}"))
        if document.refusal is not None:
            out.print(plain(f"  {document.refusal.message} [{document.refusal.code}] {document.refusal.fix}"))
        if diff:
            for line in document.diff().splitlines():
                out.print(plain(clean(line), _diff_style(line)), soft_wrap=True)
    if any(document.name.endswith(".svg") for document in result.documents) and not result.check:
        out.print(plain("Beside each .svg lies its table as .csv, and with --png the same image as .png.", "dim"))
    found = result.statistics
    if found is not None:
        out.print(
            plain(f"{count_text(found.file_count, 'checkpoint')}, {count_text(len(found.finished), 'run')}, ")
            + plain(f"{count_text(len(found.configurations), 'configuration')}, ")
            + plain(f"{count_text(len(found.lost), 'overwritten run')}")
        )


def _diff_style(line: str) -> str:
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
