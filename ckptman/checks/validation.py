"""`validate`: look through a tree, and tell what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptman.checks import passing
from ckptman.checks.files import check_files
from ckptman.checks.folders import check_folders
from ckptman.checks.grid import check_grid
from ckptman.checks.records import check_records
from ckptman.checks.runs import check_numbering, check_root, check_runs
from ckptman.checks.weights import Witness, check_weights
from ckptman.rules import Convention, convention_file
from ckptman.text import MachineError, given_path, wording
from ckptman.tree import Finding, Inventory, contents, finding, numbering, records
from ckptman.tree import findings as finding_table


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found."""

    root: Path
    deep: bool
    """Whether every byte was read."""
    weights: bool
    """Whether weights were asked for their seed and run."""
    numbering: str
    """The numbering that the tree was checked by."""
    checked: int
    """Checkpoint files."""
    runs: int
    """Runs, by their run.json or, without one, by the configuration inside their files."""
    size: int
    """Bytes of all checkpoint files."""
    findings: tuple[Finding, ...]
    """By path, then code."""
    inventory: Inventory = field(repr=False, compare=False)
    """What was checked, without the runs that passed (`Inventory.passed`)."""
    convention: Convention = field(repr=False, compare=False)
    """The rules it was checked by."""

    @property
    def errors(self) -> int:
        """How many of the findings are errors."""
        return sum(item.severity is finding_table.Severity.ERROR for item in self.findings)

    @property
    def warnings(self) -> int:
        """How many of the findings are warnings."""
        return len(self.findings) - self.errors

    @property
    def by_code(self) -> Mapping[str, int]:
        """The number of findings of each code that was found, the most frequent first."""
        return dict(sorted(Counter(item.code for item in self.findings).items(), key=lambda pair: (-pair[1], pair[0])))

    @property
    def exit_status(self) -> int:
        """0 for a clean tree, 1 where anything was found."""
        return 1 if self.findings else 0

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman validate --json` prints."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "root": str(self.root),
            "checked": self.checked,
            "counts": {
                "runs": self.runs,
                "bytes": self.size,
                "errors": self.errors,
                "warnings": self.warnings,
                "by_code": dict(self.by_code),
            },
            "deep": self.deep,
            "numbering": self.numbering,
            "findings": [item.to_json() for item in self.findings],
        }


def validate(
    root: str | Path = "checkpoints",
    *,
    convention: Convention | None = None,
    deep: bool = False,
    select: Collection[str] = (),
    ignore: Collection[str] = (),
    progress: contents.Progress | None = None,
    stale_documents: Callable[[Path], Iterable[str]] | None = None,
    witness: Witness | None = None,
) -> ValidationResult:
    """Check a tree, whether ckptman sorted it or somebody else did.

    Of each checkpoint the header is read, no tensor; with `deep` or a `witness`, every byte. Nothing is changed.

    Args:
        root: The tree.
        convention: The rules; by default those of the nearest ckptman.yaml in or above the tree, or the built-in ones.
        deep: Also compare each file's SHA-256 with run.json, and its archive's checksums with its content.
        select: Codes of `findings.KINDS`, or beginnings of codes, to report; by default all that are on by default.
        ignore: The same, to leave out.
        progress: Called with a stage, the amount done and the amount in all: files while `reading`, bytes while
            `hashing`.
        stale_documents: Gives the names of the documents at a root that are out of date. Without it, documents are
            not looked at.
        witness: Says of files which seed drew their weights. Without it, weights are not looked at.

    Raises:
        UsageError: there is no tree (`no-tree`), or no such code (`unknown-code`).
    """
    root = given_path(root, "the path of the tree")
    codes = finding_table.chosen_codes(select, ignore)
    rules = convention_file.rules_for(convention, root)
    depth = contents.Depth.BYTES if deep else contents.Depth.HEADERS
    take = passing.take_inventory if witness is None else contents.take_inventory  # all weights are witnesses
    inventory = take(root, rules, depth, progress=progress)
    fitting = numbering.numbering_of(inventory, rules)
    if inventory.passed.runs and fitting is not rules:  # by which these were not looked at
        inventory = contents.take_inventory(root, rules, depth, progress=progress)
        fitting = numbering.numbering_of(inventory, rules)
    inventory = inventory.placed_by(fitting)
    found = list(_findings(inventory, given=rules, fitting=fitting))
    if stale_documents is not None and "stale-document" in codes:
        found += _check_documents(inventory.scan, stale_documents)
    if witness is not None:
        found += check_weights(inventory, fitting, witness)
    kept = {item for item in found if item.code in codes}
    return ValidationResult(
        root=root,
        deep=deep,
        weights=witness is not None,
        numbering=fitting.numbering,
        checked=len(inventory.files) + inventory.passed.files,
        runs=sum(not run.is_in_place_of_another for run in inventory.runs) + inventory.passed.runs,
        size=sum(file.size for file in inventory.files) + inventory.passed.size,
        findings=tuple(sorted(kept, key=lambda item: (item.path, item.code, item.message))),
        inventory=inventory,
        convention=fitting,
    )


def _check_documents(scan: records.TreeScan, stale_documents: Callable[[Path], Iterable[str]]) -> Iterator[Finding]:
    """Documents that are there and out of date; a tree without any is not the worse for it."""
    if all(entry.kind == "folder" or len(entry.path.parts) > 1 for entry in scan.entries):
        return  # there is none
    try:
        for name in stale_documents(scan.root):
            if (scan.root / name).exists():
                fix = f"Bring it up to date with: ckptman report --root {wording.shell_word(scan.root)}"
                yield finding("stale-document", name, "it does not say what the tree holds now", fix)
    except MachineError as error:
        yield finding("unreadable", ".", error.message)


def _findings(inventory: Inventory, *, given: Convention, fitting: Convention) -> Iterator[Finding]:
    if records.is_migrating(inventory.scan.root):
        yield finding("unfinished-migration", ".", "runs lie in places of two conventions")
        return
    if not inventory.files and not inventory.passed.files:
        yield finding("empty-tree", ".", "there is no checkpoint below this folder")
    yield from check_records(inventory, fitting)
    yield from check_files(inventory, fitting)
    if elsewhere := tuple(check_root(inventory, fitting)):
        yield from elsewhere
        return  # by what lies above a run, nothing here could be judged
    yield from check_numbering(inventory, given, fitting)
    yield from check_runs(inventory, fitting)
    yield from check_grid(inventory, fitting)
    yield from check_folders(inventory, fitting)
