"""The learning curve of a run, from what holds it: W&B's logs, older clients' history files, or a tree's own file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ckptman.raw.wandb_log import load_json, open_regular, read_history, too_long
from ckptman.text import RefusedError
from ckptman.tree import history

_MOST_LINE_BYTES = 16_000_000


def read(files: Iterable[Path]) -> tuple[history.History, tuple[tuple[Path, RefusedError], ...]]:
    """The curve in these files, the later ones counting more; and why some could not be read."""
    parts, refused = [], []
    for file in files:
        try:
            if file.name == history.HISTORY_FILE:
                parts.append(history.read(file.parent) or history.of_rows({}))
            else:
                parts.append(read_history(file) if file.suffix == ".wandb" else _of_lines(file))
        except RefusedError as error:
            refused.append((file, error))
    return history.merged(parts), tuple(refused)


def _of_lines(file: Path) -> history.History:
    """A history file: a JSON object for each step. Other lines are passed over, as the cut one of a killed run."""
    rows: dict[int, dict[str, history.Number]] = {}
    count = 0
    with open_regular(file) as stream:
        while (line := stream.readline(_MOST_LINE_BYTES)) and count <= history.MOST_VALUES:
            try:
                row = load_json(line)
            except ValueError:
                continue
            step = row.get(history.STEP) if isinstance(row, dict) else None
            if isinstance(step, int) and not isinstance(step, bool):
                numbers = {key: value for key, value in row.items() if key != history.STEP and _is_number(value)}
                rows.setdefault(step, {}).update(numbers)
                count += len(numbers)
    if count > history.MOST_VALUES:
        raise too_long(file)
    return history.of_rows(rows)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 1 << 53
