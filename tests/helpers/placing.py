"""One file placed, as a batch of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptman.fs import Batch, Mode
from ckptman.fs.placing import Placement
from ckptman.text.errors import RefusedError


def place_file(source: Path, destination: Path, mode: Mode, **more: Any) -> Placement:
    """Place one file, and return once it is safely on the disk under its final name; as `Batch.stage`."""
    with Batch() as batch:
        batch.stage(source, destination, mode, **more)
        [outcome] = batch.publish()
    if isinstance(outcome, RefusedError):
        raise outcome
    return outcome
