"""One checkpoint as the commands list it: in the JSON of `ingest` and `ls`, and in tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from ckptman.tree.records import CheckpointEntry, RunRecord


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint, its place in the tree and where it came from."""

    source: str
    """Relative to the source root."""
    path: str
    """Relative to the tree's root."""
    sha256: str
    size: int
    """Bytes."""
    run_id: str | None
    group: str
    layernorm: bool
    regime: str
    task: int
    source_task: int | None
    seed: int | None
    step: int
    kind: str

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)


def row_of(folder: PurePosixPath, record: RunRecord, entry: CheckpointEntry) -> CheckpointRow:
    """The row of one checkpoint of the run in `folder` (relative to the root)."""
    return CheckpointRow(
        source=entry.source.path,
        path=str(folder / entry.file),
        sha256=entry.sha256,
        size=entry.size,
        run_id=record.run_id,
        group=record.group,
        layernorm=record.layernorm,
        regime=record.regime,
        task=record.task,
        source_task=record.source.task,
        seed=record.seed,
        step=entry.step,
        kind=entry.kind,
    )
