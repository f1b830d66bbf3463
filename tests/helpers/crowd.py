"""Many processes that ingest into one tree at the same time, each call of theirs late, and flock as it may be."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ckptman.fs import locks
from ckptman.ingestion.ingesting import ingest
from ckptman.text.errors import CkptmanError
from tests.helpers.disturbed import Disturbance, between


class _Late(Disturbance):
    """Every call waits a moment, now and then a long one."""

    def wrap(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if random.random() < 0.1:
                time.sleep(random.choice((0.0005, 0.002, 0.01)))
            return function(*arguments, **options)

        return call


def no_lock(descriptor: object, operation: int) -> None:
    """Granted to everybody."""


def take_part(source: Path, root: Path, mode: str, flock: str, seed: int) -> None:
    """Ingest until it is done, as a user would who is told that the tree is busy."""
    random.seed(seed)
    if flock == "useless":
        fcntl.flock = no_lock
    if flock == "none at all":
        locks._lock = lambda *_: True
    with between(_Late()):
        for _ in range(2000):
            try:
                result = ingest(source, root, mode=mode, settle=0)
            except CkptmanError as error:
                if error.code not in ("tree-busy", "no-source"):
                    raise
                if error.code == "no-source":
                    return
                time.sleep(random.random() / 20)
            else:
                if not result.refused and not result.deferred:
                    return
    raise AssertionError(f"it does not end: {result.refused} {result.deferred}")


def crowd(sources: list[Path], root: Path, mode: str, flock: str, seed: int) -> list[str]:
    """Let a process for each source take part; what went wrong in them."""
    code = (
        "import sys; from pathlib import Path; from tests.helpers.crowd import take_part;"
        "take_part(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, source, root, mode, flock, str(100 * seed + number)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number, source in enumerate(sources)
    ]
    return [error.strip().splitlines()[-1] for process in processes if (error := process.communicate()[1])]
