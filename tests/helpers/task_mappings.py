"""TASK_MAPPING.md of a tree, and its parts."""

from __future__ import annotations

import re
from pathlib import Path

from ckptman.documents.task_mapping import task_mapping_text
from ckptman.rules.convention_file import built_in
from ckptman.rules.terms import Convention
from ckptman.tree.statistics import count_tree


def document(root: Path, convention: Convention | None = None) -> str:
    rules = convention or built_in()
    return task_mapping_text(rules, count_tree(root, rules))


def rows(text: str, *beginnings: str) -> list[list[str]]:
    """The cells of table rows with these cells at their beginning, of the whole document."""
    found = []
    for line in text.splitlines():
        if line.startswith("| "):
            row = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if all(cell.strip("`") == wanted for cell, wanted in zip(row, beginnings, strict=False)):
                found.append(row)
    return found


def section(text: str, title: str) -> str:
    """The part of a document below a heading."""
    _, _, after = text.partition(f"\n## {title}\n")
    assert after, title
    return after.partition("\n## ")[0]


def best(text: str) -> list[list[str]]:
    """The rows of the tables of the best configurations, without their heads."""
    return [
        row
        for row in rows(section(text, "Best configurations"))
        if row[0] in ("", "⭐", "⚠") and "Trained K" not in row
    ]
