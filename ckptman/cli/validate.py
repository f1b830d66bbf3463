"""`ckptman validate`."""

from __future__ import annotations

import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ckptman.checks import Testimony, ValidationResult, mending, validate
from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, next_step, print_json
from ckptman.cli.options import Json, Numbering, Root, Tree, Verbose, tree_of
from ckptman.cli.progress import StageProgress
from ckptman.cli.remembering import Remembered
from ckptman.cli.text import clean, console, count_text, named, plain, size_text
from ckptman.formats import refusals
from ckptman.fs import locks
from ckptman.rules import Convention
from ckptman.text import UsageError, wording
from ckptman.tree import Finding, findings, records

REFUSALS = refusals.REFUSALS
_LIST = "list"
"""What `--explain` takes for all codes."""
_MOST_LINES = 10
"""Findings of one code shown for one folder; --json and --format github give all."""
"""Levels of folders down to a task's, which is what findings are grouped by."""
_STYLES = {findings.Severity.ERROR: "bold red", findings.Severity.WARNING: "yellow"}


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    """As annotations of a GitHub Actions workflow."""


@app.command("validate")
def _validate(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, and compare it with run.json.")] = False,
    witness: Annotated[
        bool, typer.Option("--witness", help="Ask the weights for their seed and run: see ckptman witness.")
    ] = False,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            envvar="CKPTMAN_SELECT",
            metavar="CODE",
            help="Report only this code, or codes that begin so; all, default; may be repeated.",
            autocompletion=completing.codes,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            envvar="CKPTMAN_IGNORE",
            metavar="CODE",
            help="Leave out this code, or codes that begin so; may be repeated.",
            autocompletion=completing.codes,
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="CODE",
            help="Tell what a code means, and exit; list names all.",
            autocompletion=completing.explained,
        ),
    ] = None,
    output_format: Annotated[
        Format, typer.Option("--format", help="text, json, or github for annotations in a workflow.")
    ] = Format.TEXT,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Put right what is known and safe: names, places, copies."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --fix: only print what it would do.")] = False,
    numbering: Numbering = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Check a tree: names, places, run.json, shapes, steps, seeds, strays.

    Of each checkpoint only the header is read; --deep and --witness read every byte. Nothing is changed, but by --fix,
    which deletes no byte and replaces nothing: files and folders are renamed, moved, or, where they are copies, put
    into the folder .ckptman-trash of the tree; then all is checked again. Trees that ckptman did not sort can be
    checked as well. The exit status is 0 for a clean tree, and 1 where anything is found.

    Example: ckptman validate --root checkpoints --ignore missing-seed
    """
    if as_json and output_format is Format.GITHUB:
        raise UsageError("--json and --format github exclude each other", code="two-formats", fix="Give one of them.")
    as_json = as_json or output_format is Format.JSON
    if explain is not None:
        raise typer.Exit(_explain(explain, as_json=as_json))
    root = tree_of(context, root, directory)
    convention = convention_for(context, root, numbering)

    def stale_documents(tree: Path) -> Iterable[str]:
        from ckptman.documents import stale

        return stale(tree, convention)

    def asked_weights(files: Sequence[Path], seeds: Iterable[int]) -> Iterable[Testimony]:
        from ckptman.training import witnessing

        return witnessing.witness(files, seeds=seeds, convention=convention).files

    def check() -> ValidationResult:
        with StageProgress() as progress:
            return validate(
                root,
                convention=convention,
                deep=deep or fix,  # what is moved or put away is known by its bytes
                select=_codes(select),
                ignore=_codes(ignore),
                progress=progress if sys.stderr.isatty() else None,
                stale_documents=stale_documents,
                witness=asked_weights if witness else None,
            )

    if dry_run and not fix:
        raise UsageError("--dry-run goes with --fix", code="bad-usage", fix="Validate alone changes nothing.")
    reads_headers = not (deep or fix or witness)
    with Remembered(context, root, convention) if reads_headers else nullcontext():
        # What is mended is what was found: no other ckptman writes in between.
        with locks.lock_tree(root) if fix and root.is_dir() else nullcontext():
            result, steps = check(), None
            if fix:
                records.require_no_migration(root)
                steps = mending.plan_mending(result)
                if steps and not dry_run:
                    steps = mending.mend(root, steps)
                    result = check()
        if as_json:
            done = {} if steps is None else {"fixes": [step.to_json() for step in steps], "dry_run": dry_run}
            print_json({**result.to_json(), **done})
        elif output_format is Format.GITHUB:
            out = console()
            for item in result.findings:
                out.print(Text(annotation(item, root)), soft_wrap=True)
        else:
            if steps is not None:
                _show_steps(steps, console(), dry_run=dry_run)
            show(result, console(), limited=bool(_codes(select) or _codes(ignore)))
            if not result.findings:
                next_step(f"ckptman report {wording.shell_word(root)}")
        raise typer.Exit(result.exit_status)


def show(result: ValidationResult, out: Console, *, limited: bool = False) -> None:
    """Print what was found, by task folder: those with errors first, and in each the errors first.

    Args:
        limited: Whether only some of the codes were asked for, which a clean result then says.
    """
    folders: dict[str, list[Finding]] = defaultdict(list)
    for item in result.findings:
        folders[_folder_of(item, result.convention)].append(item)
    explained: set[tuple[str, str]] = set()
    for folder in sorted(folders, key=lambda name: (not any(map(_is_error, folders[name])), name)):
        out.print(plain("the tree" if folder == "." else folder, "bold"))
        _show_folder(folder, sorted(folders[folder], key=lambda item: not _is_error(item)), out, explained)
    _show_counts(result, out, limited=limited)


def _show_steps(steps: Sequence[mending.Step], out: Console, *, dry_run: bool) -> None:
    """Print what --fix did, or would do."""
    for step in steps:
        verb = "would " * dry_run + {"move": "move", "trash": "put away", "remove": "remove"}[step.action]
        to = "" if step.target is None else f" to {step.target}"
        failed = "" if step.problem is None else f": not done, {step.problem}"
        out.print(plain(f"{verb} {step.path}{to} [{step.code}]{failed}", "" if step.problem is None else "yellow"))
    out.print(plain("nothing that --fix can put right" if not steps else "", "dim"))


def annotation(item: Finding, root: Path) -> str:
    """A finding as GitHub Actions takes it from the log of a workflow, and shows it at the file."""
    file = PurePosixPath(root, item.path)
    text = f"{item.message}. {item.fix}" if item.fix else item.message
    return f"::{item.severity} file={_property(file)},title={_property(item.code)}::{_data(text)}"


def _folder_of(item: Finding, convention: Convention) -> str:
    return str(PurePosixPath(*PurePosixPath(item.path).parts[: convention.folders.depth - 1]))


def _is_error(item: Finding) -> bool:
    return item.severity is findings.Severity.ERROR


def _show_folder(folder: str, items: list[Finding], out: Console, explained: set[tuple[str, str]]) -> None:
    """The findings of one folder. What to do is said once, for the first that it is the same for."""
    width = max(len(item.code) for item in items)
    shown: dict[str, int] = defaultdict(int)
    most = len(named(items, _MOST_LINES))
    for item in items:
        shown[item.code] += 1
        if shown[item.code] > most:
            continue
        inside = "" if item.path == folder else f"{PurePosixPath(item.path).relative_to(folder)}: "
        head = plain(f"  {item.severity:<7}  ", _STYLES[item.severity]) + plain(f"{item.code:<{width}}  ")
        out.print(head + plain(f"{inside}{item.message}"))
        if item.fix and (item.code, item.fix) not in explained:
            explained.add((item.code, item.fix))
            out.print(plain(f"{'':<{len(head)}}Fix: {item.fix}", "dim"))
    for code, count in shown.items():
        if count > most:
            out.print(plain(f"  … and {count - most:,} more {code} (--verbose names all, --json too)", "dim"))


def _show_counts(result: ValidationResult, out: Console, *, limited: bool) -> None:
    what = f"{count_text(result.checked, 'checkpoint')} of {count_text(result.runs, 'run')} ({size_text(result.size)})"
    how = "every byte read" if result.deep else "headers read; --deep reads every byte"
    if not result.findings:
        wrong = "nothing of what was asked for is wrong" if limited else "nothing is wrong"
        out.print(plain("clean: ", "bold green") + plain(f"{wrong} with {what}; {how}"))
        return
    codes = ", ".join(f"{count:,} × {code}" for code, count in result.by_code.items())
    counts = f"{count_text(result.errors, 'error')}, {count_text(result.warnings, 'warning')}"
    out.print(plain(counts, "bold") + plain(f" in {what}; {how}: {codes}"))
    out.print(plain(f"What a code means: ckptman validate --explain {next(iter(result.by_code))}", "dim"))


def _codes(values: Iterable[str] | None) -> tuple[str, ...]:
    """Codes as options give them, where one value may also hold several, with commas between them."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(part for part in parts if part)


# --- explaining -------------------------------------------------------------------------------------------------------


def _explain(name: str, *, as_json: bool) -> int:
    """Print what a code, or each that begins so, means; all in short for `list`, and where there is none such."""
    codes = findings.matching_codes(name)
    reasons = [code for code in REFUSALS if name and code.startswith(name)]
    known = bool(codes or reasons)
    kinds = [findings.KINDS[code] for code in codes] or ([] if known else list(findings.KINDS.values()))
    reasons = reasons if known else list(REFUSALS)
    out = console()
    if as_json:
        told = [{"code": code, "meaning": REFUSALS[code].meaning, "fix": REFUSALS[code].fix} for code in reasons]
        document = {"schema_version": records.SCHEMA_VERSION, "codes": [kind.to_json() for kind in kinds]}
        print_json({**document, "refusals": told})
    elif known:
        for index, kind in enumerate(kinds):
            _explain_one(kind, out, first=index == 0)
        for index, code in enumerate(reasons):
            _explain_refusal(code, out, first=index == 0 and not kinds)
    else:
        width = max(map(len, (*findings.KINDS, *REFUSALS)))
        lines = [(str(kind.severity), _STYLES[kind.severity], kind.code, kind.meaning) for kind in kinds]
        lines += [("refused", "bold red", code, REFUSALS[code].meaning) for code in reasons]
        for state, style, code, meaning in lines:
            out.print(plain(f"{state:<7}  ", style) + plain(f"{code:<{width}}  ", "bold") + plain(meaning))
    if not known and name != _LIST:
        near = next(iter(get_close_matches(name, [*findings.KINDS, *REFUSALS], n=1, cutoff=0.4)), None)
        raise UsageError(
            f"there is no code {name!r}" + (f"; did you mean {near!r}?" if near else ""),
            code="unknown-code",
            fix="All codes are listed above.",
        )
    return 0


def _explain_refusal(code: str, out: Console, *, first: bool) -> None:
    if not first:
        out.print()
    out.print(plain(code, "bold") + plain(" (why a file is refused)", "bold red"))
    for line in (REFUSALS[code].meaning, f"Fix: {REFUSALS[code].fix}"):
        for part in textwrap.wrap(line, width=min(out.width, 100) - 2, break_on_hyphens=False):
            out.print(plain(f"  {part}"))


def _explain_one(kind: findings.FindingKind, out: Console, *, first: bool) -> None:
    if not first:
        out.print()
    state = "" if kind.default else ", off by default"
    out.print(plain(kind.code, "bold") + plain(f" ({kind.severity}{state})", _STYLES[kind.severity]))
    for title, text in (("", kind.meaning), ("Cause: ", kind.cause), ("Fix: ", kind.fix)):
        for line in textwrap.wrap(title + text, width=min(out.width, 100) - 2, break_on_hyphens=False):
            out.print(plain(f"  {line}"))


# --- GitHub -----------------------------------------------------------------------------------------------------------


def _data(text: object) -> str:
    """Text of a workflow command. GitHub decodes %, CR and LF; anything else that could steer a terminal is spelled."""
    return clean(str(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: object) -> str:
    """A value before the `::`, where a colon and a comma would end it."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
