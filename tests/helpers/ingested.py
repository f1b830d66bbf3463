"""Where a run's raw outputs and its place in the tree are, what was refused, and which files were opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptman.ingestion.ingesting import IngestResult

RUN = "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337"


def task(source: Path, number: int = 6, group: str = "len_gen_k8") -> Path:
    return source / group / f"task_{number:04d}"


def codes(result: IngestResult) -> list[str]:
    return [item.code for item in result.refused]


# --- doing it again ---------------------------------------------------------------------------------------------------

_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)


def opened_checkpoints(action: Callable[[], object]) -> set[str]:
    """Names of the checkpoint files that an action opens."""
    global _opened  # an audit hook cannot be taken away
    _opened = []
    try:
        action()
        return {Path(path).name for path in _opened if path.endswith(".pt")}
    finally:
        _opened = None


# --- the tree's own files ---------------------------------------------------------------------------------------------


def damage(file: Path, *, same_size: bool) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data) if same_size else bytes(data[:-100]))
