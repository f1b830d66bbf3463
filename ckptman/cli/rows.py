"""Rows in the forms that --format names."""

from __future__ import annotations

import csv
import importlib
import io
import sys
from collections.abc import Sequence
from typing import Any

from ckptman.cli.app import print_json
from ckptman.cli.options import Format
from ckptman.cli.tables import NOTHING, print_table
from ckptman.cli.text import clean, console
from ckptman.text import MachineError, UsageError, json_text, markdown, wording
from ckptman.tree import records

Rows = list[list[Any]]
"""A head, and a row for each thing; figures as numbers, None where there is none."""


def print_rows(rows: Rows, output: Format, *, give: Sequence[str] = (), over: str = "") -> None:
    """Print rows; the first one is their heading.

    Args:
        rows: The heading, and the rows.
        output: The form.
        give: What gives way in a table, see `tables.table_lines`.
        over: What may stand once above several columns of a table, see `tables.print_table`.

    Raises:
        UsageError: (`terminal`) for Parquet, which is no text, on a terminal.
        MachineError: (`no-pyarrow`).
    """
    head, *body = rows
    if output is Format.JSON:
        shown = [json_text.jsonable(dict(zip(head, row, strict=True))) for row in body]
        print_json({"schema_version": records.SCHEMA_VERSION, "rows": shown})
    elif output in (Format.CSV, Format.TSV):
        text = io.StringIO()
        writer = csv.writer(text, delimiter="," if output is Format.CSV else "\t", lineterminator="\n")
        on_terminal = sys.stdout.isatty()  # a file gets what is there, byte for byte
        writer.writerows([_safe(cell) for cell in row] if on_terminal else row for row in [head, *body])
        sys.stdout.write(text.getvalue())
    elif output is Format.MD:
        sys.stdout.write(markdown.table(head, [[markdown.text(_cell(cell)) for cell in row] for row in body]) + "\n")
    elif output is Format.PARQUET:
        _write_parquet([str(name) for name in head], body)
    elif body:
        numbers = [index for index in range(len(head)) if any(_is_number(row[index]) for row in body)]
        shown = [list(map(str, head)), *([_cell(cell) for cell in row] for row in body)]
        print_table(console(), shown, numbers, give=give, over=over)


def _write_parquet(head: list[str], body: Rows) -> None:
    if sys.stdout.isatty():
        raise UsageError("Parquet is no text", code="terminal", fix="Send it to a file: … --format parquet > FILE")
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise MachineError(
            f"Parquet is written by pyarrow, which cannot be imported: {error}",
            code="no-pyarrow",
            fix="Install it with: python -m pip install pyarrow (or ckptman[parquet])",
        ) from error
    columns = {}
    for index, name in enumerate(head):
        values = [json_text.jsonable(row[index]) for row in body]
        try:
            columns[name] = arrow.array(values)
        except (arrow.ArrowException, OverflowError):  # a column of several types, or of numbers beyond 64 bits
            columns[name] = arrow.array([None if value is None else wording.value_text(value) for value in values])
    data = io.BytesIO()
    parquet.write_table(arrow.table(columns), data)
    sys.stdout.flush()
    sys.stdout.buffer.write(data.getvalue())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
    return NOTHING if value is None else wording.value_text(value)


def _safe(value: Any) -> Any:
    return value if value is None or _is_number(value) else clean(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
