"""`ckptman learn`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ckptman.cli.app import app, next_step, print_json
from ckptman.cli.options import Json, Verbose
from ckptman.cli.progress import ByteProgress
from ckptman.cli.text import console, count_text, named, plain
from ckptman.fs import write_atomically
from ckptman.ingestion import learning
from ckptman.text import UsageError, wording

_MOST_FILES, _MOST_LINES = 3, 12
_WHAT = {
    "name": "names not read",
    "place": "files not placed",
    "task": "files in a task folder that the numbering does not give",
    "run": "files of no known run",
}


@app.command("learn")
def _learn(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What training left: checkpoints, at any depth.")],
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write the convention there, if nothing is there yet."),
    ] = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Propose a convention for the checkpoints of a folder.

    Their names, configurations and folders tell. The proposal is a ckptman.yaml: it goes to stdout, or with --write
    into a file; a report goes to the other. It is tried on the folder, and the report says what share of the files it
    reads, places and attributes, and what does not fit. Nothing else is written.

    The exit status is 1 where not all files fit.

    Example: ckptman learn /scratch/outputs --write ckptman.yaml
    """
    if write is not None and (write.exists() or write.is_symlink()):
        raise UsageError(f"{write} is there already", code="exists", fix="Name another file, or move that one away.")
    with ByteProgress() as progress:
        found = learning.learn(folder, progress=progress)
    if write is not None:
        write_atomically(write, found.text.encode(), replace=False)
    if as_json:
        print_json(found.to_json())
    else:
        if write is None:
            sys.stdout.write(found.text)
        show(found, console(stderr=write is None))
        if write is not None:
            next_step(f"read {write}, then: ckptman --config {wording.shell_word(write)} ingest "
                      f"{wording.shell_word(folder)} --dry-run")  # fmt: skip
    raise typer.Exit(0 if found.fits else 1)


def show(found: learning.Learnt, out: Console) -> None:
    """Print how a proposal fares, and what was learnt."""
    out.print(plain(f"{count_text(found.files, 'checkpoint')} in {found.source}", "bold"))
    what = "attributed to their W&B run" if found.wandb_runs else "of a known configuration"
    for count, of, said in (
        (found.parsed, found.files, "of the names read by the proposal"),
        (found.placed, found.read, "placed in the tree"),
        (found.attributed, found.read, what),
    ):
        share = 100 * count / of if of else 100.0
        text = f"{int(share * 10) / 10:5.1f} %  {said} ({count:,} of {of:,})"
        out.print(plain(text, "" if count == of else "yellow"))
    if found.read < found.files:
        out.print(plain(f"the insides of {found.read:,} were read, evenly chosen; the names of all", "dim"))
    for line in found.findings:
        _item(out, line)
    if found.passed_over:
        _item(out, f"{count_text(found.passed_over, 'file')} with another suffix passed over", "yellow")
    for what in _WHAT:
        _misfits(out, [misfit for misfit in found.misfits if misfit.what == what], _WHAT[what])
    for name in found.fitting:
        given = "" if name == "built-in" else f": ckptman --convention {name}"
        _item(out, f"the {name} convention reads all these names, too{given}")


def _misfits(out: Console, misfits: list[learning.Misfit], what: str) -> None:
    if not misfits:
        return
    out.print(plain(f"{what}: {sum(len(misfit.files) for misfit in misfits):,}", "yellow"))
    shown = named(misfits, _MOST_LINES)
    for misfit in shown:
        files = named(misfit.files, _MOST_FILES)
        more = len(misfit.files) - len(files)
        _item(out, f"{misfit.why}: {', '.join(files)}" + (f" and {more:,} more" if more > 0 else ""))
    if len(misfits) > len(shown):
        _item(out, f"… and {len(misfits) - len(shown)} more reasons (--verbose names all, --json too)")


def _item(out: Console, text: str, style: str = "") -> None:
    out.print(plain(f"  {text}", style))
