"""Where the raw outputs of a test lie, and its tree."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "grid_outputs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"
