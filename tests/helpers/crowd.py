"""Many processes that ingest into one tree at the same time, each call of theirs late, and flock as it may be."""

from __future__ import annotations

import fcntl
import random
import shutil
import time
from pathlib import Path
from typing import Any

from ckptman.fs import locks
from ckptman.ingestion.ingesting import ingest
from ckptman.text.errors import CkptmanError
from ckptman.tree.records import read_record
from tests.helpers.disturbed import Disturbance, between
from tests.helpers.ingested import task
from tests.helpers.raw import START, config, write_run
from tests.helpers.zygote import Call, Zygote


class Late(Disturbance):
    """Every call waits a moment, now and then a long one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)

    def wrap(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.draw.random() < 0.1:
                time.sleep(self.draw.choice((0.0005, 0.002, 0.01)))
            return function(*arguments, **options)

        return call


def no_lock(descriptor: object, operation: int) -> None:
    """Granted to everybody."""


def take_part(source: str, root: str, mode: str, flock: str, seed: int) -> None:
    """Ingest until it is done, as a user would who is told that the tree is busy."""
    late = Late(seed)
    if flock == "useless":
        fcntl.flock = no_lock
    if flock == "none at all":
        locks._lock = lambda *_: True
    with between(late):
        for _ in range(2000):
            try:
                result = ingest(source, root, mode=mode, settle=0)
            except CkptmanError as error:
                if error.code not in ("tree-busy", "no-source"):
                    raise
                if error.code == "no-source":
                    return
                time.sleep(late.draw.random() / 20)
            else:
                if not result.refused and not result.deferred:
                    return
    raise AssertionError(f"it does not end: {result.refused} {result.deferred}")


def crowd(zygote: Zygote, sources: list[Path], root: Path, mode: str, flock: str, seed: int) -> list[str]:
    """Let a process for each source take part; what went wrong in them."""
    parts: list[Call] = [
        (f"{__name__}:take_part", str(source), str(root), mode, flock, 100 * seed + number)
        for number, source in enumerate(sources)
    ]
    return [done.err.strip().splitlines()[-1] for done in zygote.all(parts) if done.err]


def grid(source: Path) -> None:
    """Two tasks with two seeds each, a rerun of one, and a copy."""
    for index, seed in enumerate((1337, 2337)):
        files = write_run(task(source), config(seed=seed), run_id=f"six{seed}", started=START + 1000 * index,
                          saved_models=f"saved_models_{seed}")  # fmt: skip
        write_run(task(source, 4, "len_gen_k16"), config(16, seed=seed, use_mlp=True), run_id=f"four{seed}",
                  started=START + 1000 * index, saved_models=f"saved_models_{seed}")  # fmt: skip
    write_run(task(source), config(), run_id="again", started=START + 9000, salt=1, saved_models="again")
    (source / "copies").mkdir()
    shutil.copy2(files[0], source / "copies" / files[0].name)


def told(root: Path) -> dict[str, Any]:
    """Every run's folder, id and files; and whatever else there is."""
    records = {folder.parent: read_record(folder.parent) for folder in root.rglob("run.json")}
    listed = {folder / entry.file: entry.sha256 for folder, record in records.items() for entry in record.checkpoints}
    known = {*listed, *(folder / "run.json" for folder in records)}
    return {
        "runs": {str(folder.relative_to(root)): record.run_id for folder, record in records.items()},
        "files": {str(path.relative_to(root)): sha256 for path, sha256 in listed.items()},
        "rest": sorted(str(path.relative_to(root)) for path in {*root.rglob("*")} - known),
    }
