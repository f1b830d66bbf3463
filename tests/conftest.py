"""For all tests: an environment that is the same wherever they run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.helpers.zygote import Zygote

# One thread each: test files run side by side, and threads that wait for a core are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Figures are drawn by the tests that are about them, and by no other report.
os.environ["CKPTMAN_FIGURES"] = "0"
# No test answers from, or leaves anything in, the cache of whoever runs it.
os.environ["CKPTMAN_CACHE"] = "off"
# The width of the terminal that the tests were started from is not theirs.
os.environ.pop("COLUMNS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, and wait for processes most of the time."""
    items.sort(key=lambda item: "/sweeps/" not in f"/{item.nodeid}")


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """A process from which others are forked."""
    one = Zygote()
    yield one
    one.close()
