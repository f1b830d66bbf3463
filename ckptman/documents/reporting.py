"""`report`: the documents at the root of a tree, TASK_MAPPING.md and README.md, written from what is on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.documents import explorer
from ckptman.documents.figures import drawing
from ckptman.documents.figures import files as figure_files
from ckptman.documents.learning_curves import Curves
from ckptman.documents.marked_blocks import decode, find_blocks
from ckptman.documents.task_mapping import GENERATED, task_mapping_text
from ckptman.documents.tree_readme import README, TASK_MAPPING, block_contents, readme_text
from ckptman.fs import files, locks, make_folders, write_atomically
from ckptman.rules import Convention, convention_file
from ckptman.text import MachineError, RefusedError, UsageError, given_path, wording
from ckptman.tree import Finding, findings, numbering, records, roots
from ckptman.tree import statistics as tree_statistics

_MOST_BYTES = 16 << 20  # far above any document that people write


class State(StrEnum):
    """What became of a document."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    """It says already what it should."""
    STALE = "stale"
    """It would be written, if this were no check."""
    REFUSED = "refused"
    """It cannot be written, for the reason that is told."""


@dataclass(frozen=True)
class Document:
    """One document, as it is and as it should be."""

    name: str
    state: State
    before: str | None = None
    """Its text as it was; None where there was none, or it is refused."""
    after: str | None = None
    """Its text as it should be; None where it is refused."""
    refusal: RefusedError | None = None
    kept_as: str | None = None
    """The name under which a file was kept that somebody else had written and that had to give way."""
    is_page: bool = False
    """It is for browsers: what changes in it is nothing to read."""

    def diff(self) -> str:
        """What changes, as a unified diff; empty where nothing does."""
        if self.after is None or self.is_page:
            return ""
        old, new = (value.splitlines(keepends=True) if value else [] for value in (self.before, self.after))
        lines = unified_diff(old, new, f"a/{self.name}" if self.before is not None else "/dev/null", f"b/{self.name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def to_json(self) -> dict[str, Any]:
        """The document's entry in the JSON that `ckptman report --json` prints."""
        entry: dict[str, Any] = {"path": self.name, "state": self.state.value}
        if self.kept_as is not None:
            entry["kept_as"] = self.kept_as
        if self.refusal is not None:
            entry |= {"code": self.refusal.code, "message": self.refusal.message, "fix": self.refusal.fix}
        return entry


@dataclass(frozen=True)
class ReportResult:
    """What `report` wrote, or would write."""

    root: Path
    check: bool
    documents: tuple[Document, ...]
    statistics: tree_statistics.TreeStatistics | None
    """What the documents were written from; None where there was no tree."""

    @property
    def stale(self) -> tuple[str, ...]:
        """Names of the documents that do not say what they should: stale ones and refused ones."""
        return tuple(document.name for document in self.documents if document.state in (State.STALE, State.REFUSED))

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman report --json` prints."""
        document: dict[str, Any] = {
            "schema_version": records.SCHEMA_VERSION,
            "root": str(self.root),
            "check": self.check,
            "documents": [item.to_json() for item in self.documents],
        }
        if self.statistics is not None:
            found = self.statistics
            document["statistics"] = {
                "files": found.file_count,
                "bytes": found.size,
                "runs": len(found.finished),
                "configurations": len(found.configurations),
                "overwritten_runs": len(found.lost),
                "expected_runs": sum(count.runs_expected for count in found.grid_counts),
                "expected_files": sum(count.files_expected for count in found.grid_counts),
                "complete_runs": sum(count.complete for count in found.grid_counts),
            }
        return document


Finder = Callable[[Path], Iterable[Finding]]
"""Finds what is wrong with a tree."""


def report(
    root: str | Path = "checkpoints",
    *,
    convention: Convention | None = None,
    check: bool = False,
    html: str | Path | None = None,
    find: Finder | None = None,
    figures: bool = False,
    png: bool = False,
) -> ReportResult:
    """Write the documents of a tree, or check them.

    `TASK_MAPPING.md` is written whole; one that ckptman did not write is kept beside it under another name. In
    `README.md` only the marked blocks are written. The same tree gives the same bytes.

    An explorer, once made, is a document as the others are: each report brings it up to date.

    Args:
        root: The tree.
        convention: Its rules; by default those of the nearest ckptman.yaml in or above the tree, or the built-in ones.
        check: Write nothing, and tell what is stale.
        html: Also write the explorer, one HTML file: here, or where it belongs in the tree if this is empty.
        find: Gives the findings that the explorer shows; without it, it shows none.
        figures: Also draw the figures of what is measured, as SVG with their tables as CSV, into the folder `report`;
            one that shows its table already is not drawn again.
        png: Each of them as PNG too.

    Raises:
        RefusedError: (`unfinished-migration`) where a migration was interrupted.
        UsageError: (`no-folder`) where the explorer's folder does not exist; (`no-tree`) where there is no folder
            `root`, or nothing of a tree in it; (`wrong-root`) where it is
            no tree's root, but lies in a tree or above one, or holds checkpoints that are not sorted;
            (`other-numbering`) where the tree is sorted by another numbering than that of the rules.
        MachineError: a document cannot be written, another ckptman is writing to the tree, or figures are asked for and
            matplotlib is not installed (`no-matplotlib`).
    """
    root = given_path(root, "the path of the tree").absolute()
    records.require_no_migration(root)
    rules = convention_file.rules_for(convention, root)
    if html:
        html = given_path(html, "the path of the explorer").absolute()
        if not html.parent.is_dir():
            raise UsageError(f"there is no folder {html.parent}", code="no-folder", fix="Make the folder first.")
    with locks.lock_tree(root) if root.is_dir() and not check else nullcontext():
        has_page = html is not None or (root / explorer.EXPLORER).is_file()
        statistics = tree_statistics.count_tree(root, rules, whole=has_page or figures)
        _require_tree(statistics)
        is_shown = has_page and len(statistics.runs) <= explorer.MOST_RUNS
        curves = Curves(root, statistics.convention, whole=is_shown)
        drawn = _figures(root, statistics, curves, check=check, png=png) if figures else ()
        result = _report(root, statistics, check=check)
        was_there = (root / explorer.EXPLORER).is_file()
        page = _explorer(root, statistics, curves, html, check, find) if has_page else ()
        if not was_there and (root / explorer.EXPLORER).is_file():
            mapping, readme = result.documents
            led = _readme(root, statistics, check=False)  # it leads to the page now
            result = replace(result, documents=(mapping, replace(led, before=readme.before)))
        return replace(result, documents=result.documents + drawn + page)


def stale(root: str | Path, convention: Convention) -> list[str]:
    """Names of the documents of a tree that do not say what the tree holds now; nothing is written."""
    root = Path(root).absolute()
    statistics = tree_statistics.count_tree(root, convention, whole=(root / explorer.EXPLORER).is_file())
    return [*_report(root, statistics, check=True).stale, *_stale_explorer(root, statistics)]


def _stale_explorer(root: Path, statistics: tree_statistics.TreeStatistics) -> Iterator[str]:
    """The explorer's name, where there is one that does not say what the tree holds."""
    try:
        page = _read(root / explorer.EXPLORER)
    except RefusedError:
        return  # no page of ours
    if page is not None and not explorer.tells_of(page.decode("utf-8", "replace"), statistics):
        yield explorer.EXPLORER


def report_convention(file: str | Path, *, convention: Convention | None = None, check: bool = False) -> ReportResult:
    """Write the task mapping of a convention alone, without a tree, to a file; or check it.

    Args:
        file: Where to; its folder exists. A file there that ckptman did not write is refused.
        convention: The rules; by default those of the nearest ckptman.yaml above the file, or the built-in ones.
        check: Write nothing, and tell whether the file is stale.

    Raises:
        UsageError: (`no-folder`) where the file's folder does not exist.
        MachineError: the file cannot be written.
    """
    file = Path(file).absolute()
    rules = convention_file.rules_for(convention, file)
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}", code="no-folder", fix="Make the folder first.")

    def text(old: str | None) -> str:
        if old is not None and not _is_generated(old):
            raise RefusedError(
                f"{file} was not written by ckptman",
                code="not-generated",
                fix="Give another file name, or move that file away.",
            )
        return task_mapping_text(rules)

    return ReportResult(root=file.parent, check=check, documents=(_document(file, check, text),), statistics=None)


# --- what is a tree ---------------------------------------------------------------------------------------------------


def _require_tree(statistics: tree_statistics.TreeStatistics) -> None:
    """See to it that documents are written into the root of a tree alone, and with the ids of its numbering."""
    inventory, rules = statistics.inventory, statistics.convention
    root = inventory.scan.root
    for path, reason in inventory.scan.unreadable:
        if not path.parts:
            raise MachineError(
                f"there is no report on {root}: the folder cannot be read: {reason}",
                code="unreadable",
                fix="See to it that you may read it and that its disk is well.",
            )
    fitting = numbering.numbering_of(inventory, rules)
    fitted = inventory.placed_by(fitting)
    wrong = roots.wrong_root(fitted, fitting)
    if wrong is not None:
        if wrong.trees:
            fix = f"Report on that: ckptman report --root {wording.shell_word(wrong.trees[0])}"
        else:
            fix = f"Sort it into a new tree: ckptman ingest {wording.shell_word(root)} --root NEW"
        raise UsageError(f"there is no report on {root}: {wrong.message}", code="wrong-root", fix=fix)
    if statistics.file_count and not roots.is_tree_root(root, rules):
        count = wording.count_text(statistics.file_count, "checkpoint")
        raise UsageError(
            f"there is no report on {root}: {count} below it, and it is not the root of a tree",
            code="wrong-root",
            fix=findings.KINDS["wrong-root"].fix,
        )
    if not roots.is_tree_root(root, rules) and not _is_empty_tree(inventory.scan, statistics):
        raise UsageError(
            f"there is no tree at {root}: no checkpoint is below it",
            code="no-tree",
            fix="Name the tree with --root, or make one with: ckptman ingest SRC --root DIR",
        )
    if fitting.numbering != rules.numbering:
        moved = numbering.misplaced(inventory.runs) - numbering.misplaced(fitted.runs)
        message, fix = numbering.other_numbering(len(moved), rules, fitting)
        raise UsageError(
            f"the tree {root} is sorted by another numbering: {message}", code=numbering.OTHER_NUMBERING, fix=fix
        )


def _is_empty_tree(scan: records.TreeScan, statistics: tree_statistics.TreeStatistics) -> bool:
    """Whether a folder without any run is a tree before its first one, or after its last.

    Its documents are ckptman's, or it has none and holds nothing but a ckptman.yaml: nobody's project, nobody's home.
    """
    documents = [name for name in (TASK_MAPPING, _readme_name(statistics)) if os.path.lexists(scan.root / name)]
    if documents:
        return all(_is_ours(scan.root / name, block_contents(statistics)) for name in documents)
    return all(entry.path == PurePosixPath(convention_file.FILE_NAME) for entry in scan.entries)


def _is_ours(path: Path, blocks: Collection[str]) -> bool:
    """Whether a document was written by ckptman, or has blocks that it writes."""
    try:
        text = (_read(path) or b"").decode("utf-8", "replace")
        return _is_generated(text) or bool(find_blocks(text, path.name, blocks))
    except RefusedError:
        return False


# --- documents --------------------------------------------------------------------------------------------------------


def _report(root: Path, statistics: tree_statistics.TreeStatistics, *, check: bool) -> ReportResult:
    rules = statistics.convention
    documents = (
        _document(root / TASK_MAPPING, check, lambda _: task_mapping_text(rules, statistics), whole=True),
        _readme(root, statistics, check=check),
    )
    return ReportResult(root=root, check=check, documents=documents, statistics=statistics)


def _readme(root: Path, statistics: tree_statistics.TreeStatistics, *, check: bool) -> Document:
    return _document(root / _readme_name(statistics), check, lambda old: readme_text(statistics, old))


def _figures(
    root: Path, statistics: tree_statistics.TreeStatistics, curves: Curves, *, check: bool, png: bool
) -> tuple[Document, ...]:
    """The figures, each drawn where its table, or how it is drawn, is other than it was."""
    if not check:
        drawing.check_possible()
    found = []
    for name, figure in figure_files.figures(statistics, curves).items():
        path = f"{records.REPORT}/{name}.svg"
        if not figure_files.stale(root, name, figure, png=png):
            found.append(Document(path, State.UNCHANGED, is_page=True))
        elif check:
            found.append(Document(path, State.STALE, is_page=True))
        else:
            try:
                make_folders(root / records.REPORT, root)
                for file in figure_files.draw(root, name, figure, png=png):
                    write_atomically(root / file.name, file.content, replace=True, root=root)
            except RefusedError as error:
                found.append(Document(path, State.REFUSED, refusal=error, is_page=True))
            else:
                found.append(Document(path, State.WRITTEN, is_page=True))
    return tuple(found)


def _explorer(
    root: Path,
    statistics: tree_statistics.TreeStatistics,
    curves: Curves,
    html: str | Path | None,
    check: bool,
    find: Finder | None,
) -> tuple[Document, ...]:
    """The explorer."""
    home = root / explorer.EXPLORER
    file = Path(html) if html else home
    if file == home and not check:
        try:
            make_folders(file.parent, root)
        except RefusedError as error:
            return (Document(explorer.EXPLORER, State.REFUSED, refusal=error, is_page=True),)
    found = tuple(find(root)) if find is not None else ()
    written = _document(
        file,
        check,
        lambda _: explorer.page(statistics, found, curves, file),
        root=root if file == home else None,
        whole=True,
        same=explorer.same_content,
    )
    name = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
    return (replace(written, name=name, is_page=True),)


def _document(
    path: Path,
    check: bool,
    text: Callable[[str | None], str],
    *,
    root: Path | None = None,
    whole: bool = False,
    same: Callable[[str, str], bool] = str.__eq__,
) -> Document:
    """Write one document, or check it. `whole` ones need not be readable to be replaced."""
    try:
        data = _read(path)
        before = None if data is None else data.decode("utf-8", "replace") if whole else decode(data, path.name)
        after = text(before)
        if data == after.encode() or (before is not None and same(before, after)):
            return Document(path.name, State.UNCHANGED, before, after)
        if check:
            return Document(path.name, State.STALE, before, after)
        kept_as = _keep(path, data) if whole and data is not None and not _is_generated(before or "") else None
        write_atomically(path, after.encode(), replace=True, root=root)
    except RefusedError as error:
        return Document(path.name, State.REFUSED, refusal=error)
    return Document(path.name, State.WRITTEN, before, after, kept_as=kept_as)


def _read(path: Path) -> bytes | None:
    """The bytes of a document; None where there is none."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "a symbolic link" if path.is_symlink() else "not a file"
        raise RefusedError(
            f"{path} is {what}, so it is not written to", code="not-a-file", fix="Move it out of the way."
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RefusedError(f"{path} is too large to be a document", code="too-large", fix="Move it out of the way.")
        return files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MachineError(
            f"cannot read {path}: {error.strerror}", code="unreadable", fix="Check its permissions."
        ) from error


def _is_generated(text: str) -> bool:
    return any(line.startswith(GENERATED) for line in text.splitlines()[:10])


def _keep(path: Path, data: bytes) -> str:
    """Keep a file that gives way under a name that is free, or that has the same bytes already."""
    number = 1
    while True:
        kept = path.with_name(f"{path.stem}.previous{'' if number == 1 else f'-{number}'}{path.suffix}")
        try:
            write_atomically(kept, data, replace=False)
        except RefusedError as error:
            if error.code != "taken" or number > 99:
                raise
            number += 1
        else:
            return kept.name


def _readme_name(statistics: tree_statistics.TreeStatistics) -> str:
    """README.md, or the file that is called so in other letters: a second one would be its twin."""
    names = sorted(name for name in statistics.top_files if name.lower() == README.lower())
    return README if README in names or not names else names[0]
