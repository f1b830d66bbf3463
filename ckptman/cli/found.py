"""What `validate` found, on a terminal or in the log of a workflow; and what its codes mean."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.text import Text

from ckptman.checks import ValidationResult, mending
from ckptman.cli.app import print_json
from ckptman.cli.text import clean, console, count_text, named, plain, size_text
from ckptman.formats import refusals
from ckptman.rules import Convention
from ckptman.text import UsageError
from ckptman.tree import Finding, findings, records

REFUSALS = refusals.REFUSALS
_LIST = "list"
"""What `--explain` takes for all codes."""
_MOST_LINES = 10
"""Findings of one code shown for one folder; --json and --format github give all."""
_STYLES = {findings.Severity.ERROR: "bold red", findings.Severity.WARNING: "yellow"}


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


def show_steps(steps: Sequence[mending.Step], out: Console, *, dry_run: bool) -> None:
    """Print what --fix did, or would do."""
    for step in steps:
        verb = "would " * dry_run + {"move": "move", "trash": "put away", "remove": "remove"}[step.action]
        to = "" if step.target is None else f" to {step.target}"
        failed = "" if step.problem is None else f": not done, {step.problem}"
        out.print(plain(f"{verb} {step.path}{to} [{step.code}]{failed}", "" if step.problem is None else "yellow"))
    out.print(plain("nothing that --fix can put right" if not steps else "", "dim"))


def show_annotations(result: ValidationResult, root: Path, out: Console) -> None:
    """Print what was found, for the log of a workflow."""
    for item in result.findings:
        out.print(Text(annotation(item, root)), soft_wrap=True)


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
    read = "headers and weights" if result.weights else "headers"
    how = "every byte read" if result.deep else f"{read} read; --deep reads every byte"
    if not result.findings:
        wrong = "nothing of what was asked for is wrong" if limited else "nothing is wrong"
        out.print(plain("clean: ", "bold green") + plain(f"{wrong} with {what}; {how}"))
        return
    codes = ", ".join(f"{count:,} × {code}" for code, count in result.by_code.items())
    counts = f"{count_text(result.errors, 'error')}, {count_text(result.warnings, 'warning')}"
    out.print(plain(counts, "bold") + plain(f" in {what}; {how}: {codes}"))
    out.print(plain(f"What a code means: ckptman validate --explain {next(iter(result.by_code))}", "dim"))


# --- explaining -------------------------------------------------------------------------------------------------------


def explain(name: str, *, as_json: bool) -> int:
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
