"""Functions in processes of their own, forked from one that has imported everything and has no threads.

A fresh interpreter takes seconds to import torch and W&B, a fork some milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

Call = tuple[str | int, ...]
"""`module:function`, and its arguments."""

MODULES: Final = tuple(
    f"tests.helpers.{name}" for name in ("crowd", "faulty_ingests", "faulty_moves", "faulty_writes", "hostile_wandb")
)


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit status, or minus the signal that ended it, and what it printed."""

    status: int
    out: str
    err: str


class Zygote:
    """The process from which others are forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._one_at_a_time = threading.Lock()

    def call(self, *call: str | int) -> Ended:
        """Call a function in a process of its own; what it returns is printed."""
        return self.all([call])[0]

    def all(self, calls: list[Call]) -> list[Ended]:
        """Call functions at the same time, each in a process of its own."""
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None
        assert told is not None
        with self._one_at_a_time:
            print(json.dumps(calls), file=asked, flush=True)
            return [Ended(*each) for each in json.loads(told.readline())]

    def close(self) -> None:
        self._process.communicate()


def _fork(call: Call, said: tuple[Path, Path]) -> int:
    process = os.fork()
    if process == 0:
        _be(call, said)
    return process


def _be(call: Call, said: tuple[Path, Path]) -> NoReturn:
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(said, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        name, *arguments = call
        module, _, function = str(name).partition(":")
        if (result := getattr(import_module(module), function)(*arguments)) is not None:
            print(result)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _answer(calls: list[Call]) -> list[tuple[int, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        files = [(Path(folder, f"{number}.out"), Path(folder, f"{number}.err")) for number in range(len(calls))]
        processes = [_fork(call, said) for call, said in zip(calls, files, strict=True)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        return [
            (status, out.read_text(errors="replace"), err.read_text(errors="replace"))
            for status, (out, err) in zip(statuses, files, strict=True)
        ]


if __name__ == "__main__":
    for each in MODULES:
        import_module(each)
    import_module("ckptman.rules.convention_file").built_in()
    gc.collect()
    gc.freeze()  # what is not looked at is not copied
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
