"""Twelve short runs on two cores: two processes with a thread each, against one process with one thread, or with two.

    python -m benchmarks.sweep [--iters 150] [--batch-size 512] [--write]

All sweeps train the same runs with everything that belongs to a sweep: processes that start, checkpoints, logs. Two
processes should take at most 1 / 1.6 of the time that one takes on one core. One with two threads has both cores too:
what it loses is what threads cannot share out, the start of a run, its data, its checkpoints. The order is drawn at
random.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

from benchmarks import Printed
from ckptman.fs import files
from ckptman.rules.convention_file import built_in
from ckptman.rules.selection import Selection
from ckptman.sweeps.sweeping import How, plan_sweep, sweep
from ckptman.training.progress import COMPLETE

WANTED = 1.6
RUNS = Selection(k=(4, 8), tasks=(4, 6), facets={"regime": ("dynamic",), "layernorm": (True,)})
"""One layer, with and without MLP, K = 2..4 and 2..8, three seeds: twelve runs."""


def seconds(processes: int, threads: int, iters: int, batch: int) -> float:
    """How long a sweep of the twelve runs takes."""
    recipe = {
        "max_iters": iters, "effective_batch_size": batch, "micro_batch_size": batch, "ckpt_interval": 100,
        "eval_interval": 100, "warmup_iters": 10,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_sweep(Path(folder) / "out", selection=RUNS, recipe=recipe, convention=built_in())
        began = time.perf_counter()
        result = sweep(plan, processes=processes, how=How(device="cpu", threads=threads, wandb="disabled"))
        took = time.perf_counter() - began
        assert result.counts == {COMPLETE: 12}
    return took


def main() -> None:
    """Measure both, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iters", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/README.md")
    options = parser.parse_args()
    say = Printed()
    cores = files.cores()
    ways = {"-j 2, one thread each": (2, 1), "-j 1, one thread": (1, 1), "-j 1, two threads": (1, 2)}
    order = list(ways)
    random.shuffle(order)
    say(f"12 runs of {options.iters} iterations of {options.batch_size} samples, {cores} cores")
    took = {}
    for name in order:
        busy = os.getloadavg()[0]
        took[name] = seconds(*ways[name], options.iters, options.batch_size)
        say(f"  {name:<22} {took[name]:6.1f} s   (load before: {busy:.1f})")
    two, one, threads = (took[name] for name in ways)
    say(f"  {one / two:.2f} times sooner than one core (wanted: {WANTED}), {threads / two:.2f} times than two threads")
    if options.write:
        say.put("sweep")


if __name__ == "__main__":
    main()
