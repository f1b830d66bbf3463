"""How long it takes to read what a checkpoint says of itself: `read_checkpoint` against `torch.load`.

    python -m benchmarks.read_checkpoint [--write]

Writes checkpoints of real size, as training saves them, to a temporary folder, and reads each by `read_checkpoint`,
by `torch.load(weights_only=True)`, and by the same with `mmap=True`, which leaves the tensors on disk. All three run in
this process and in turns, each turn a few readings in a row, as over a folder of files. The figures are medians over
the turns of the CPU time that this process took, so that other work on the machine disturbs them little; the files are
in memory by then, so there is no disk to wait for, and each is read as the first of its kind (`formats.alike`). Exits
with 1 where `read_checkpoint` takes more than a fifth of the time of `torch.load` for all files together; that it takes
less than 1 ms for each is a target that it prints, for this depends on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmarks import Printed
from ckptman.formats import alike
from ckptman.formats.checkpoint import read_checkpoint
from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import TrainConfig
from ckptman.training.model import GPT, GPTConfig

TURNS: Final = 40
READS: Final = 10
"""Readings in a turn."""
MOST_MS: Final = 1.0
LEAST_RATIO: Final = 5.0


@dataclass(frozen=True)
class Measured:
    """Milliseconds of CPU time that one reading of a file takes, by each way of reading it."""

    name: str
    size: int
    tensors: int
    ours: float
    loaded: float
    mapped: float

    @property
    def ratio(self) -> float:
        """How many times as fast as `torch.load` without options."""
        return self.loaded / self.ours


def write_files(folder: Path) -> list[Path]:
    """Checkpoints of embedding 128: 1 and 2 layers, without and with MLP, final and (with optimizer) on the way."""
    paths = []
    for layers in (1, 2):
        for use_mlp in (False, True):
            config = TrainConfig(n_layers=layers, use_mlp=use_mlp)
            model = GPT(GPTConfig.from_train_config(config))
            optimizer = torch.optim.AdamW(model.parameters())
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            final = {
                "iters_done": config.max_iters,
                "train_config": config.to_dict(),
                "model_config": {"block_size": config.max_seq_len},
                "model": model.state_dict(),
            }
            half = config.ckpt_interval
            on_the_way = {**final, "itr": half, "iters_done": half + 1, "optimizer": optimizer.state_dict()}
            for kind, content in (("final", final), ("with optimizer", on_the_way)):
                paths.append(folder / f"{layers} layer{'s' * (layers > 1)}, {'MLP, ' * use_mlp}{kind}.pt")
                torch.save(content, paths[-1])
    return paths


def measure(path: Path) -> Measured:
    """Read one file in turns."""
    rules = built_in().checkpoint

    def ours() -> object:
        alike.forget()  # the second of its kind would be known by the first
        return read_checkpoint(path, rules)

    def loaded() -> object:
        return torch.load(path, weights_only=True)

    def mapped() -> object:
        return torch.load(path, weights_only=True, mmap=True)

    ways = (ours, loaded, mapped)
    milliseconds: dict[Callable[[], object], list[float]] = {way: [] for way in ways}
    for way in ways:  # the first reading compiles, imports and fills caches
        way()
    for _ in range(TURNS):
        for way in ways:
            start = time.process_time()
            for _ in range(READS):
                way()
            milliseconds[way].append((time.process_time() - start) / READS * 1e3)
    medians = [statistics.median(milliseconds[way]) for way in ways]
    return Measured(path.stem, path.stat().st_size, len(read_checkpoint(path, rules).tensors), *medians)


def main() -> int:
    """Measure all files and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    write, say = parser.parse_args().write, Printed()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(path) for path in write_files(Path(folder))]
    say(f"{'file':30}{'bytes':>10}{'tensors':>9}{'ckptman':>11}{'torch.load':>12}{'mmap=True':>11}{'ratio':>8}")
    for row in rows:
        times = f"{row.ours:>8.3f} ms{row.loaded:>9.3f} ms{row.mapped:>8.3f} ms"
        say(f"{row.name:30}{row.size:>10,}{row.tensors:>9}{times}{row.ratio:>7.1f}×")
    total = Measured("all", 0, 0, *(sum(getattr(row, way) for row in rows) for way in ("ours", "loaded", "mapped")))
    slowest, ratio = max(row.ours for row in rows), total.ratio
    say(f"\nSlowest file: {slowest:.3f} ms (target: under {MOST_MS:g} ms).")
    say(f"All files: {ratio:.1f} times as fast as torch.load (target: {LEAST_RATIO:g}), ", end="")
    say(f"{total.mapped / total.ours:.1f} times as fast as with mmap=True.")
    if write:
        say.put("headers")
    return int(ratio < LEAST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
