"""What tests of formats share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes a file for the test, over the one before."""

    def write_file(content: bytes) -> Path:
        path = tmp_path / "file.pt"
        path.write_bytes(content)
        return path

    return write_file
