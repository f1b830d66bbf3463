"""What lies beside checkpoints and tells of their runs: which files, and what each of them says where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import PurePath

STEM = "{stem}"
"""Stands in a pattern for the checkpoint's own name, without the suffix of checkpoints."""
WHOLE = "."
"""The path of all that a file holds."""
_EVENTS = "tfevents"


class Form(StrEnum):
    """What such a file is written in."""

    JSON = "json"
    YAML = "yaml"
    LINES = "jsonl"
    """A JSON object in each line."""
    CSV = "csv"
    EVENTS = "tfevents"
    """TensorBoard's event files."""

    @property
    def is_table(self) -> bool:
        """Whether it holds what was logged on the way, and nothing else."""
        return self not in (Form.JSON, Form.YAML)


def form_of(pattern: str) -> Form | None:
    """The form of the files of a pattern, by their names; None where these do not tell."""
    name = PurePath(pattern).name
    if _EVENTS in name:
        return Form.EVENTS
    suffix = name.rpartition(".")[2]
    return Form.YAML if suffix == "yml" else next((form for form in Form if form == suffix), None)


@dataclass(frozen=True, eq=False)
class BesideRule:
    """One sort of file. Paths into it are keys joined by dots; `.` is all of it."""

    pattern: str
    """Its path, relative to the folder of the checkpoint or one above; `*` is any text in a name."""
    form: Form
    up: int
    """How many folders above the checkpoint's it may lie."""
    config: tuple[str, ...] = ()
    """Where the configuration stands; of several that are there, the earlier ones count more."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Configuration keys that stand elsewhere in the file, the seed among them, and where."""
    metrics: tuple[str, ...] = ()
    """Where the last value of each metric stands; without, they are those of the history."""
    step: str = ""
    """Where the iterations done stand."""
    history: str = ""
    """Where the rows stand that were logged on the way; `.` for a table."""
    history_step: str = "step"
    """The key, or the column, that tells a row's step."""

    @property
    def is_named(self) -> bool:
        """Whether it is named for one checkpoint."""
        return STEM in self.pattern

    def parts(self, stem: str) -> list[str | re.Pattern[str]]:
        """What its folders and it are called for a checkpoint of this name: each by its name, or by a pattern."""
        parts = ([piece.replace(STEM, stem) for piece in part.split("*")] for part in self.pattern.split("/"))
        return [
            pieces[0] if len(pieces) == 1 else re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
            for pieces in parts
        ]

    @cached_property
    def beginning(self) -> str:
        """A regular expression for what the first folder of its path is called, or it, whatever the checkpoint is."""
        return ".*".join(map(re.escape, re.split(r"\*|\{stem\}", self.pattern.split("/")[0])))

    def is_of(self, path: PurePath) -> bool:
        """Whether a file is of this sort, by its path."""
        return self._regex.fullmatch("/" + path.as_posix()) is not None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        pieces = (re.escape(piece) for piece in re.split(r"\*|\{stem\}", self.pattern))
        return re.compile(rf".*/{'[^/]*'.join(pieces)}", re.DOTALL)
