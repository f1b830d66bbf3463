"""How much faster exact match is measured than by the plain model's forward pass.

    python -m benchmarks.evaluation [--models 10] [--samples 1000] [--repeats 5] [--write]

Each round measures every model on lists of K = 17 to 32 numbers, in one process on the CPU, by two programs in turn:

* *plain*: the model's forward over all 2K positions, `--batch` lists at a time, and the most probable token of each.
* *ckptman*: `measure_accuracy`, as `ckptman eval` calls it.

Both sort the same lists, drawn by the same function, and keep the memory that they free, as `ckptman eval` does and a
program with nothing but the plain model does not. The ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median

import torch

from benchmarks import Printed
from benchmarks.products import share
from benchmarks.train_step import ARCHITECTURES, Architecture, new_model
from ckptman.rules.recipe import TrainConfig
from ckptman.training.accuracy import Predictor, draw_samples, measure_accuracy
from ckptman.training.model import GPT
from ckptman.training.train_step import keep_freed_memory

LENGTHS = range(17, 33)
TARGET = 10.0


def plain(model: GPT, lengths: Iterable[int], *, samples: int, batch: int) -> list[int]:
    """How many of the lists of each length the plain forward pass sorts right."""
    numbers, exact = model.config.vocab_size - 1, []
    with torch.inference_mode():
        for k in lengths:
            drawn = torch.cat(list(draw_samples(k, samples, numbers, 0)))
            found = [model(tokens[:, :-1])[:, k:].argmax(-1) for tokens in torch.split(drawn, batch)]
            exact.append(int((torch.cat(found) == drawn[:, k + 1 :]).all(1).sum()))
    return exact


def ckptman(model: GPT, lengths: Iterable[int], *, samples: int, batch: int) -> list[int]:
    """How many of them `ckptman eval` finds right."""
    with torch.inference_mode():
        predictor = Predictor(model)
    return [measure_accuracy(model, k, samples=samples, seed=0, predictor=predictor).exact for k in lengths]


def seconds(program: Callable[..., object], models: Sequence[GPT], *, samples: int, batch: int) -> float:
    """Time for all models and lengths."""
    start = time.perf_counter()
    for model in models:
        program(model, LENGTHS, samples=samples, batch=batch)
    return time.perf_counter() - start


def models_of(architecture: Architecture, count: int) -> list[GPT]:
    """Untrained models of different seeds: what they compute takes as long as what trained ones do."""
    n_layers, use_mlp = architecture.n_layers, architecture.use_mlp
    configs = [TrainConfig(n_layers=n_layers, use_mlp=use_mlp, seed=seed) for seed in range(count)]
    return [new_model(config)[0].eval() for config in configs]


def main() -> None:
    """Measure all architectures and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1000, help="lists at a time in the plain program (default: 1000)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for both programs (default: 1)")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    say = Printed()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    how = {"samples": arguments.samples, "batch": arguments.batch}
    say(
        f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.models} models, K {LENGTHS[0]}–"
        f"{LENGTHS[-1]}, {arguments.samples} lists each, {arguments.repeats} rounds\n"
    )
    say(f"{'':16}{'plain, s':>12}{'ckptman, s':>12}{'ratio':>10}{'products':>12}{'were they all':>16}")
    met = True
    for architecture in ARCHITECTURES:
        models = models_of(architecture, arguments.models)
        rounds = [[seconds(one, models, **how) for one in (plain, ckptman)] for _ in range(arguments.repeats)]
        theirs, ours = (median(times) for times in zip(*rounds, strict=True))
        ratio = median(theirs / ours for theirs, ours in rounds)
        met &= ratio >= TARGET
        products = share(partial(ckptman, models[0], LENGTHS[-1:], **how))
        say(
            f"{architecture.title:16}{theirs:12.2f}{ours:12.2f}{ratio:8.2f} ×{products:12.0%}{ratio / products:14.1f} ×"
        )
    say("\nproducts: their share of the time of ours; were they all that it does, the ratio would be the last column")
    say(f"\ntarget {TARGET:g} ×: {'met' if met else 'not met by each'}")
    if arguments.write:
        say.put("evaluation")


if __name__ == "__main__":
    main()
