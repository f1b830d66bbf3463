"""A tree in which nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.trees import (
    copy,
    make_good_tree,
)


@pytest.fixture(scope="session")
def good_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: copy it to change it."""
    return make_good_tree(tmp_path_factory.mktemp("good"))


@pytest.fixture
def root(good_tree: Path, tmp_path: Path) -> Path:
    return copy(good_tree, tmp_path)
