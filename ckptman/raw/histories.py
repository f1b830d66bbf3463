"""The learning curve of a run, from what holds it: W&B's logs, older clients' history files, what lies beside the
checkpoints, or a tree's own file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ckptman.raw import documents, tensorboard
from ckptman.raw.wandb_log import load_json, open_regular, read_history, too_long
from ckptman.rules import Convention, comparing, terms
from ckptman.text import RefusedError
from ckptman.tree import history

_MOST_LINE_BYTES = 16_000_000
_MOST_ROW_BYTES = 1_000_000
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:inf|nan)(?:inity)?", re.IGNORECASE)


def read(
    files: Iterable[Path], convention: Convention
) -> tuple[history.History, tuple[tuple[Path, RefusedError], ...]]:
    """The curve in these files, the later ones counting more; and why some could not be read.

    A metric that files beside the checkpoints tell of is taken from them alone: W&B counts its steps in its own way.
    """
    logged: list[history.History] = []
    beside: list[history.History] = []
    refused = []
    for file in files:
        try:
            rule = next((rule for rule in convention.beside if rule.history and rule.is_of(file)), None)
            if file.name == history.HISTORY_FILE:
                logged.append(history.read(file.parent) or history.of_rows({}))
            elif file.suffix == ".wandb":
                logged.append(read_history(file))
            elif rule is not None:
                beside.append(read_beside(file, rule))
            else:
                logged.append(_of_lines(file, history.STEP))
        except RefusedError as error:
            refused.append((file, error))
    try:
        return joined(logged, beside), tuple(refused)
    except RefusedError as error:
        return history.of_rows({}), (*refused, (file, error))


def joined(logged: Iterable[history.History], beside: Iterable[history.History]) -> history.History:
    """One curve, each metric of it from the files beside the checkpoints if they have it."""
    nearer = history.merged(beside)
    others = [
        history.History(one.steps, {name: curve for name, curve in one.columns.items() if name not in nearer.columns})
        for one in logged
    ]
    return history.merged([*others, nearer])


def read_beside(file: Path, rule: terms.BesideRule) -> history.History:
    """The curve in a file beside checkpoints.

    Raises:
        RefusedError: `unreadable`, `not-a-file`, `too-long`, or `damaged` where it is not of the rule's form.
    """
    match rule.form:
        case terms.Form.EVENTS:
            return tensorboard.read_scalars(file)
        case terms.Form.CSV:
            return _of_table(file, rule.history_step)
        case terms.Form.LINES:
            return _of_lines(file, rule.history_step)
        case _:
            return of_document(documents.read(file, rule.form), file, rule)


def of_document(document: Any, file: Path, rule: terms.BesideRule) -> history.History:
    """The curve in a JSON document."""
    rows = documents.at(document, rule.history)
    return history.of_rows(_gathered(_rows(rows if isinstance(rows, list) else [], rule.history_step), file))


def _of_lines(file: Path, step_key: str) -> history.History:
    """A history file: a JSON object for each step. Other lines are passed over, as the cut one of a killed run."""

    def objects(stream: BinaryIO) -> Iterator[Any]:
        while line := stream.readline(_MOST_LINE_BYTES):
            with suppress(ValueError):
                yield load_json(line)

    with open_regular(file) as stream:
        return history.of_rows(_gathered(_rows(objects(stream), step_key), file))


def _of_table(file: Path, step_key: str) -> history.History:
    """A CSV file with a column for the step; several rows of a step are one, as Lightning writes them."""
    try:
        with open_regular(file) as stream:
            lines = _cells(stream)
            head = next(lines, [])
            if step_key not in head:
                raise ValueError(f"it has no column {step_key!r}")
            if len(set(head)) < len(head):
                raise ValueError("it has two columns of one name")
            where = head.index(step_key)
            rows = (
                (step, {name: _number(cell) for name, cell in zip(head, row, strict=False) if name != step_key})
                for row in lines
                if len(row) > where and (step := _step(_number(row[where]))) is not None
            )
            return history.of_rows(_gathered(rows, file))
    except (ValueError, csv.Error) as error:
        raise RefusedError(
            f"{file} cannot be used as a table: {error}", code="damaged", fix="Correct it, or move it away."
        ) from None


def _cells(stream: BinaryIO) -> Iterator[list[str]]:
    """The rows of a table; each is a line, so that a row is no longer than one."""
    first = True
    while line := stream.readline(_MOST_ROW_BYTES + 1):
        if len(line) > _MOST_ROW_BYTES:
            raise ValueError(f"a line has more than {_MOST_ROW_BYTES:,} bytes")
        if line.endswith(b"\n"):  # else it was cut, as when a run is killed
            yield from csv.reader([line.decode("utf-8-sig" if first else "utf-8")], strict=True)
        first = False


def _rows(objects: Iterable[Any], step_key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for row in objects:
        if isinstance(row, dict) and (step := _step(row.get(step_key))) is not None:
            yield step, {key: value for key, value in row.items() if key != step_key}


def _gathered(rows: Iterable[tuple[int, Mapping[str, Any]]], file: Path) -> dict[int, dict[str, history.Number]]:
    """By step the numbers among these values."""
    found: dict[int, dict[str, history.Number]] = {}
    count = 0
    for step, row in rows:
        numbers = {key: value for key, value in row.items() if is_number(value)}
        if numbers:
            found.setdefault(step, {}).update(numbers)
        count += len(numbers)
        if count > history.MOST_VALUES:
            raise too_long(file)
    return found


def _step(value: object) -> int | None:
    number = comparing.whole(value) if isinstance(value, int | float) else None
    return number if number is not None and is_number(number) else None


def _number(text: str) -> history.Number | None:
    """A cell as a number; None for an empty one, or one with something else."""
    if _NUMBER.fullmatch(text.strip()) is None:
        return None
    number = float(text)
    return int(number) if math.isfinite(number) and number.is_integer() and "." not in text else number


def is_number(value: object) -> bool:
    """Whether a value can stand in a learning curve: no flag, and no whole number that a float cannot hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 1 << 53
