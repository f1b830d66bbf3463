"""A run's learning curve, kept beside its `run.json`: what was logged at each step on its way.

    curve = history.read(root / run_folder)             # None where the run has none
    curve.steps, curve.columns["gen/K17/exact_match_acc"]

`history.csv.gz` is CSV with a column for each metric and a row for each step, compressed by gzip: `pandas.read_csv`
opens it as it is. For 160 evaluations of 100 metrics that is 67 KB; Parquet takes 162 KB, Feather 132 KB, npz 100 KB
and gzipped JSON lines 89 KB, since most metrics are short decimal fractions, which are long as binary numbers. xz would
save another 11 % and take three times as long to read.
"""

from __future__ import annotations

import csv
import io
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from struct import pack

from ckptman.fs import files
from ckptman.text import RefusedError, wording

HISTORY_FILE = "history.csv.gz"
STEP = "_step"
"""The first column: the step at which the others were logged, W&B's own; in ckptman's runs, the iterations done."""

MOST_VALUES = 2_000_000
"""Largest curve that is kept; that of a run of the recipe has about 25,000 values."""

MOST_CELLS = 10 * MOST_VALUES
"""Most cells of its table, empty ones too."""

_LONGEST_NAME = 1000
_MOST_BYTES = 40 * MOST_VALUES
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # no name and no time in it: the same curve, the same bytes
_INTEGER = re.compile("-?[0-9]{1,18}")

Number = int | float


@dataclass(frozen=True)
class History:
    """What a run logged on its way."""

    steps: tuple[int, ...]
    """In order, each once."""
    columns: Mapping[str, tuple[Number | None, ...]]
    """For each metric its value at each of `steps`; None where it was not logged."""

    def curve(self, metric: str) -> list[tuple[int, Number]]:
        """The steps at which a metric was logged, and its values."""
        values = self.columns.get(metric, ())
        return [(step, value) for step, value in zip(self.steps, values, strict=False) if value is not None]

    def rows(self) -> dict[int, dict[str, Number]]:
        """By step, what was logged."""
        found: dict[int, dict[str, Number]] = {step: {} for step in self.steps}
        for metric, values in self.columns.items():
            for step, value in zip(self.steps, values, strict=True):
                if value is not None:
                    found[step][metric] = value
        return found


def of_rows(rows: Mapping[int, Mapping[str, Number]]) -> History:
    """The curve of what was logged at each step. A metric without a name that a table can have is left out.

    Raises:
        RefusedError: (`too-long`) for a table of more than `MOST_CELLS`.
    """
    steps = tuple(sorted(rows))
    names = {metric for row in rows.values() for metric in row if metric != STEP and len(metric) <= _LONGEST_NAME}
    if len(steps) * len(names) > MOST_CELLS:
        raise RefusedError(
            f"a learning curve of {len(steps):,} steps and {len(names):,} metrics is too large, and is not kept",
            code="too-long",
            fix="Keep what it is read from.",
        )
    metrics = sorted(names, key=wording.natural_key)
    return History(steps, {metric: tuple(rows[step].get(metric) for step in steps) for metric in metrics})


def merged(curves: Iterable[History]) -> History:
    """One curve of several parts of a run; where two tell of a step, the later part counts."""
    rows: dict[int, dict[str, Number]] = {}
    for curve in curves:
        for step, row in curve.rows().items():
            rows.setdefault(step, {}).update(row)
    return of_rows(rows)


def dump(curve: History) -> bytes:
    """The curve as the file holds it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([STEP, *curve.columns])
    writer.writerows(zip(curve.steps, *curve.columns.values(), strict=True))
    data = text.getvalue().encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(data) + packer.flush()
    return _GZIP_HEADER + body + pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def load(data: bytes) -> History:
    """The curve that a file holds.

    Raises:
        ValueError: telling what is wrong with it.
    """
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        raw = unpacker.decompress(data, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("it is too large" if unpacker.unconsumed_tail else "it is cut short, or followed by more")
    try:
        head, *rows = [*csv.reader(io.StringIO(raw.decode(), newline=""), strict=True)] or [[]]
    except csv.Error as error:
        raise ValueError(f"it is no CSV: {error}") from None
    if head[:1] != [STEP] or len(set(head)) < len(head) or any(len(row) != len(head) for row in rows):
        raise ValueError(f"it is no table with a column {STEP}")
    columns = [tuple(map(_number, column)) for column in zip(*rows, strict=True)] or [() for _ in head]
    steps = tuple(step for step in columns[0] if isinstance(step, int))
    if len(steps) < len(rows) or any(one >= two for one, two in pairwise(steps)):
        raise ValueError("its steps are not in order")
    return History(steps, dict(zip(head[1:], columns[1:], strict=True)))


def read(folder: Path) -> History | None:
    """The learning curve of a run folder; None where there is none.

    Raises:
        RefusedError: (`bad-history`) if the file cannot be read.
    """
    path = folder / HISTORY_FILE
    try:
        with os.fdopen(files.open_foreign(path, follow_symlinks=False), "rb") as stream:
            return load(stream.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RefusedError(
            f"{path} cannot be used: {reason}",
            code="bad-history",
            fix="Move it away, and ingest the source again: it is then written anew.",
        ) from error


def usable(folder: Path) -> History | None:
    """As `read`; None for one that cannot be read too, of which `validate` tells."""
    try:
        return read(folder)
    except RefusedError:
        return None


def _number(text: str) -> Number | None:
    if not text:
        return None
    return int(text) if _INTEGER.fullmatch(text) else float(text)
