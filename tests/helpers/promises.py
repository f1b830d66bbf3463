"""The table that `make faults` prints: of each promise, what was tried, what broke it, whether a control is caught."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
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


@dataclass
class Sum:
    """What all tests noted of a promise."""

    cases: int = 0
    violations: int = 0
    caught: int = 0
    missed: int = 0

    @property
    def control(self) -> str:
        """Whether every control was caught; a promise without one is not tested."""
        return "yes" if self.caught and not self.missed else "NO"

    @property
    def is_kept(self) -> bool:
        return bool(self.cases and self.control == "yes" and not self.violations)


def sums_of(notes: Path) -> tuple[dict[str, Sum], str]:
    """The sums of each promise, and how long all of it took."""
    sums: dict[str, Sum] = defaultdict(Sum)
    took = ""
    for line in notes.read_text().splitlines():
        note = json.loads(line)
        if "took" in note:
            took = note["took"]
            continue
        of = sums[note.pop("promise")]
        for name, count in note.items():
            setattr(of, name, getattr(of, name) + count)
    return dict(sorted(sums.items())), took


def table(sums: dict[str, Sum]) -> str:
    rows = [("promise", "cases", "violations", "control caught")]
    rows += [(promise, f"{of.cases:,}", str(of.violations), of.control) for promise, of in sums.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows)


# --- by the command line ----------------------------------------------------------------------------------------------

BEGIN, END = "<!-- what `make faults` printed -->", "<!-- end -->"


def run(notes: Path, command: list[str]) -> int:
    """Run tests, print the table of what they noted, and how long they took."""
    notes.unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run(command, env={**os.environ, _TABLE: str(notes.absolute())}, check=False)
    wall, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = len(os.sched_getaffinity(0))
    took = f"{wall / 60:.1f} minutes on {cores} cores, {(used.ru_utime + used.ru_stime) / 60:.1f} of processor time"
    with notes.open("a") as file:
        file.write(json.dumps({"took": took}) + "\n")
    sums, _ = sums_of(notes)
    print(f"\n{table(sums)}\n\n{took}")
    return done.returncode or not all(of.is_kept for of in sums.values())


def write(notes: Path, document: Path) -> None:
    """Put the table of the last run into a Markdown document, between its marks."""
    sums, took = sums_of(notes)
    rows = [f"| {promise} | {of.cases:,} | {of.violations} | {of.control} |" for promise, of in sums.items()]
    lines = ["| promise | cases | violations | control caught |", "| --- | ---: | ---: | --- |", *rows]
    text = document.read_text()
    before, rest = text.split(BEGIN)
    document.write_text(
        "\n".join([f"{before}{BEGIN}", *lines, "", f"All of it took {took}.", END + rest.split(END)[1]])
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file, "--write", target]:
            write(Path(file), Path(target))
        case [file, *words]:
            sys.exit(run(Path(file), words))
