"""The table that `make faults` prints: of each promise, what was tried, what broke it, whether a control is caught."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HOSTILE_FILES = "Hostile checkpoints, mutated: nothing is run, every error is our own, in time and memory"
ONE_READER = "A mutated archive: torch reads what ckptman reads, or it is refused"

_TABLE = "CKPTMAN_FAULTS_TABLE"
"""Variable that names the file in which the tests note what they tried; without it, nothing is noted."""


@dataclass
class Trial:
    """What is tried of a promise."""

    cases: int = 0


@contextmanager
def tried(promise: str, cases: int = 0) -> Iterator[Trial]:
    """Cases of a promise; an exception is a violation of it."""
    trial = Trial(cases)
    try:
        yield trial
    except pytest.skip.Exception:
        raise
    except BaseException:
        _note(promise, cases=trial.cases, violations=1)
        raise
    _note(promise, cases=trial.cases)


@contextmanager
def caught(promise: str) -> Iterator[None]:
    """A control: what breaks a promise is found to."""
    try:
        yield
    except pytest.skip.Exception:
        raise
    except BaseException:
        _note(promise, missed=1)
        raise
    _note(promise, caught=1)


def _note(promise: str, **counts: int) -> None:
    if _TABLE in os.environ:
        with Path(os.environ[_TABLE]).open("a") as file:
            file.write(json.dumps({"promise": promise, **counts}) + "\n")


def table(file: Path) -> tuple[str, bool]:
    """The table, and whether every promise was kept and every control caught."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in file.read_text().splitlines():
        note = json.loads(line)
        for name, count in note.items():
            if name != "promise":
                sums[note["promise"]][name] += count
    rows = [("promise", "cases", "violations", "control caught")]
    for promise, of in sums.items():
        control = "NO" if of["missed"] else "yes" if of["caught"] else "–"
        rows.append((promise, f"{of['cases']:,}", str(of["violations"]), control))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}" for row in rows]
    kept = not any(of["violations"] or of["missed"] for of in sums.values())
    return "\n".join(lines), kept


if __name__ == "__main__":
    text, is_kept = table(Path(sys.argv[1]))
    print(text)
    sys.exit(not is_kept)
