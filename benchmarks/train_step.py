"""How much faster a training step is than the published one: draw a batch, loss and gradients, optimizer.

    python -m benchmarks.train_step [--threads 2] [--repeats 9] [--device cuda] [--quick] [--write]

Each round times four programs in turn, in one process, so that other load on the machine falls on all. On the CPU they
compute in fp32, but for the last:

* *published*: the step of the published trainer. The whole batch, forward over all 2K + 1 positions, the head at the K
  sorted ones, autograd.
* *in pieces*: the same on pieces of the batch that stay in cache, their gradients summed.
* *ckptman*: the update that `ckptman train` makes, its batch included.
* *in bf16*: the same with its products in bfloat16 (`ckptman train --precision bf16`).

With `--device cuda` they compute on a GPU in bf16, as is trained there, *in fp32* being the other precision, and
*compiled* (`ckptman train --compile`) stands in place of pieces. Three seeds at once are measured there, too, against
one after the other.

All of them have the same model, batch size and fused AdamW. The ratios are medians over the rounds, and the verdict is
the median over K for each architecture. Exit status 1 if one of them is below its least. On a busy machine,
`--clock cpu` counts the time that the process had a core; it needs one thread, as waiting threads count too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from benchmarks import Printed
from benchmarks.products import share
from ckptman.rules.recipe import PRECISIONS, TrainConfig
from ckptman.training.loop import Computing, step_of
from ckptman.training.model import GPT, GPTConfig
from ckptman.training.sorting import draw_batch
from ckptman.training.train_step import keep_freed_memory, loss_and_backward, make_optimizer
from ckptman.training.updating import Batches, Update

CPU = torch.device("cpu")
LENGTHS = (4, 8, 16)
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2
"""Steps on a GPU before any that is timed: they pay for memory, kernels and the captured graph."""
SHORTEST_TIME = 0.2
"""Seconds that a program runs for in a round, at least; it makes as many steps as that takes."""


@dataclass(frozen=True)
class Architecture:
    """A model, and how many times faster than the published one its step must be, and is meant to be."""

    title: str
    n_layers: int
    use_mlp: bool
    least: float
    aim: float


ARCHITECTURES = (
    Architecture("1 layer, no MLP", 1, False, 8, 20),
    Architecture("1 layer, MLP", 1, True, 5.5, 8),
    Architecture("2 layers, MLP", 2, True, 3.2, 5),
)


@dataclass(frozen=True)
class Times:
    """Of the programs, in their order."""

    seconds: tuple[float, ...]
    """Median seconds a step."""
    ratios: tuple[float, ...]
    """Median ratios of the rounds: the first program's time over that of each of the others."""


def published_batch(config: TrainConfig, k: int, device: torch.device) -> Tensor:
    """A batch drawn as the published trainer does, by the order of random keys: (B, 2K + 1)."""
    keys = torch.rand(config.effective_batch_size, config.vocab_n, device=device)
    drawn = keys.topk(k, dim=1).indices
    separator = torch.full((len(drawn), 1), config.sep_id, device=device)
    return torch.cat([drawn, separator, drawn.sort(dim=1).values], dim=1)


def published_loss(model: GPT, tokens: Tensor) -> Tensor:
    """Mean cross-entropy at the sorted positions, after a forward pass over all 2K + 1."""
    k = tokens.shape[1] // 2
    x = model.wte(tokens)  # (B, 2K + 1, C)
    for block in model.blocks:
        x = block(x)
    logits = model.lm_head(model.ln_f(x)[:, k:-1])  # (B, K, V)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, k + 1 :].flatten())


def published_step(config: TrainConfig, k: int, piece: int, device: torch.device) -> Callable[[], None]:
    """The published trainer's step, the gradients of so many samples at once."""
    model, optimizer = new_model(config, device)
    autocast = Computing(device).autocast

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        tokens = published_batch(config, k, device)
        for part in torch.split(tokens, piece):
            with autocast(config):
                loss = published_loss(model, part)
            torch.autograd.backward(loss * (len(part) / len(tokens)))
        optimizer.step()

    return step


def ckptman_step(config: TrainConfig, device: torch.device, *, compiled: bool = False) -> Callable[[], None]:
    """The step that `ckptman train` makes."""
    model, optimizer = new_model(config, device)
    computing, iteration = Computing(device, compiled=compiled), 0
    update = Update.of(model, optimizer, step_of(model, config, computing), captured=computing.captured)
    batches = Batches.of(config, device)

    def step() -> None:
        nonlocal iteration
        update(batches.of_iteration(iteration), learning_rate=config.learning_rate)
        iteration += 1

    return step


def at_once(steps: Sequence[Callable[[], None]], device: torch.device) -> Callable[[], None]:
    """A step of each, as seeds are trained at once: their turns as `in_turns` takes them."""
    streams = [torch.cuda.Stream(device) for _ in steps]  # type: ignore[no-untyped-call]  # by torch

    def step() -> None:
        for one, stream in zip(steps, streams, strict=True):
            with torch.cuda.stream(stream):
                one()

    return step


def new_model(config: TrainConfig, device: torch.device = CPU) -> tuple[GPT, torch.optim.Optimizer]:
    """An untrained model and its optimizer."""
    model = GPT(GPTConfig.from_train_config(config), generator=torch.Generator().manual_seed(config.seed))
    model.to(device)
    return model, make_optimizer(model, learning_rate=config.learning_rate, weight_decay=config.weight_decay)


def seconds_a_step(step: Callable[[], None], steps: int, clock: Callable[[], float]) -> float:
    """Mean time of one step."""
    start = clock()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - start) / steps


def names(device: torch.device) -> tuple[str, ...]:
    """Of the programs."""
    return ("published", "in pieces", "ckptman", "in bf16") if device == CPU else (
        "published", "compiled", "ckptman", "in fp32", "3 seeds"
    )  # fmt: skip


def measure(
    architecture: Architecture,
    k: int,
    *,
    batch: int,
    piece: int,
    repeats: int,
    clock: Callable[[], float],
    device: torch.device,
) -> Times:
    """Time the programs in turn, `repeats` times."""
    config = TrainConfig(
        n_layers=architecture.n_layers,
        use_mlp=architecture.use_mlp,
        train_min_k=k,
        train_max_k=k,
        micro_batch_size=batch,
        effective_batch_size=batch,
    )
    other = replace(config, amp_dtype=PRECISIONS["bf16" if device == CPU else "fp32"])
    programs = [
        published_step(config, k, batch, device),
        published_step(config, k, piece, device) if device == CPU else ckptman_step(config, device, compiled=True),
        ckptman_step(config, device),
        ckptman_step(other, device),
    ]
    if device != CPU:
        programs.append(at_once([ckptman_step(replace(config, seed=seed), device) for seed in range(3)], device))
    for program in programs if device != CPU else ():
        seconds_a_step(program, WARM_UP, clock)
    steps = [max(1, round(SHORTEST_TIME / seconds_a_step(program, 1, clock))) for program in programs]
    rounds = [
        [seconds_a_step(program, n, clock) for program, n in zip(programs, steps, strict=True)] for _ in range(repeats)
    ]
    return Times(
        seconds=tuple(median(times) for times in zip(*rounds, strict=True)),
        ratios=tuple(
            median(times) for times in zip(*([taken[0] / t for t in taken[1:]] for taken in rounds), strict=True)
        ),
    )


def report(architecture: Architecture, say: Printed, **how: Any) -> bool:
    """Measure an architecture, print its rows, and say whether it is fast enough."""
    ratios, at_once = [], []
    ckptman = names(how["device"]).index("ckptman")
    for k in LENGTHS:
        times = measure(architecture, k, **how)
        ratios.append(times.ratios[ckptman - 1])
        row = "".join(f"{1e3 * seconds:11.{1 if how['device'] == CPU else 3}f}" for seconds in times.seconds[:4])
        say(f"{architecture.title:16}{k:>3}{row}{''.join(f'{ratio:9.2f} ×' for ratio in times.ratios[:3])}")
        if how["device"] != CPU:
            at_once.append(3 * times.seconds[ckptman] / times.seconds[4])
    middle = median(ratios)
    verdict = "below the least" if middle < architecture.least else "ok" if middle < architecture.aim else "as aimed"
    say(
        f"{architecture.title:16}median over K: {middle:.2f} × the published step "
        f"(least {architecture.least:g}, aim {architecture.aim:g}): {verdict}"
    )
    if how["device"] == CPU:
        products = products_of(architecture)
        say(
            f"{'':16}K = {LENGTHS[1]}: matrix products take {products:.0%} of ours; "
            f"were there nothing else, {ratios[1] / products:.1f} ×\n"
        )
    else:
        shown = ", ".join(f"{ratio:.2f}" for ratio in at_once)
        say(f"{'':16}three seeds at once: {shown} × as fast as one after the other\n")
    return middle >= architecture.least


def products_of(architecture: Architecture) -> float:
    """The share of matrix products in our step, at the middle length."""
    k = LENGTHS[1]
    config = TrainConfig(
        n_layers=architecture.n_layers, use_mlp=architecture.use_mlp, train_min_k=k, train_max_k=k,
        micro_batch_size=1024, effective_batch_size=1024,
    )  # fmt: skip
    model, tokens = new_model(config)[0], draw_batch(config, 0)
    return share(lambda: loss_and_backward(model, tokens))


def main() -> int:
    """Measure all architectures and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for every program (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds for each architecture and K (default: 5)")
    parser.add_argument("--batch", type=int, default=4096, help="samples in a batch (default: 4096)")
    parser.add_argument(
        "--piece", type=int, default=256, help="samples in a piece of the second program (default: 256)"
    )
    parser.add_argument("--device", type=torch.device, default=CPU, help="where all programs compute (default: cpu)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time that passes, or CPU time (default: wall)")
    parser.add_argument("--only", choices=[a.title for a in ARCHITECTURES], help="measure one architecture")
    parser.add_argument("--quick", action="store_true", help="two rounds: a first impression in a minute or two")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args()

    if arguments.clock == "cpu" and (arguments.threads != 1 or arguments.device != CPU):
        parser.error("--clock cpu needs --threads 1 and --device cpu")

    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # for all programs, though the published one does not
    repeats = 2 if arguments.quick else arguments.repeats
    say = Printed()
    where = "CPU" if arguments.device == CPU else torch.cuda.get_device_name(arguments.device)
    conditions = (
        f"{arguments.threads} thread(s), batch {arguments.batch}, {arguments.clock} time, {repeats} rounds, {where}"
    )
    say(f"torch {torch.__version__}, {conditions}\n")
    programs = names(arguments.device)[:4]
    say(f"{'':16}{'K':>3}{''.join(f'{name:>11}' for name in programs)}{'the published step to':>33}")
    say(f"{'':19}{'    ms/step' * len(programs)}{''.join(f'{name:>11}' for name in programs[1:])}")
    chosen = [a for a in ARCHITECTURES if arguments.only in (None, a.title)]
    options = {"batch": arguments.batch, "piece": arguments.piece, "repeats": repeats, "device": arguments.device}
    fast_enough = [report(a, say, clock=CLOCKS[arguments.clock], **options) for a in chosen]
    if arguments.write:
        say.put("training" if arguments.device == CPU else "training-gpu")
    return 0 if all(fast_enough) else 1


if __name__ == "__main__":
    sys.exit(main())
