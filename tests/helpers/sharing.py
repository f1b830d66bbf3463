"""The work on a small tree shared out among processes, as that on a large one is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ckptman.fs import processes
from ckptman.raw import examination
from ckptman.tree import records


@contextmanager
def shared_out() -> Iterator[list[object]]:
    """Share out what is done in the `with` statement; gives the outcomes that processes told."""
    told: list[object] = []
    take = processes._Copy.take

    def taken(copy: processes._Copy[object]) -> tuple[object] | None:
        found = take(copy)
        told.extend(found or ())
        return found

    with pytest.MonkeyPatch.context() as patch:
        for module in (records, examination):
            patch.setattr(module, "_MANY", 1)
            patch.setattr(module, "_SHARE", 2)
        patch.setattr(processes, "LEAST", 1)
        patch.setattr(threading, "active_count", lambda: 1)
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        patch.setattr(processes._Copy, "take", taken)
        yield told
