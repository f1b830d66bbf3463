"""One iteration of a run: its batch, the gradients, and the optimizer's step. On a GPU, captured once and replayed.

    update = Update.of(model, optimizer, step, captured=True)
    with Batches.of(config, device) as batches:
        result = update(batches.of_iteration(0), learning_rate=1e-4)

A step of a small model is a few hundred small operations. A GPU computes one in less time than Python takes to ask for
the next, so there the whole iteration is captured as a CUDA graph, one for each length of lists, and asked for at once.
The batches, which are drawn on the CPU, are drawn ahead by other threads meanwhile. Neither changes what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ckptman.rules import TrainConfig
from ckptman.training.model import GPT
from ckptman.training.sorting import draw_batch
from ckptman.training.train_step import StepResult

_AHEAD = 6
"""Batches that are drawn ahead on a GPU."""

_DRAWING = 2
"""Threads that draw them: NumPy lets others compute for most of the time that it takes."""


class Update:
    """Brings a model one iteration further: new gradients of a batch's loss, and the optimizer's step by them."""

    def __init__(self, model: GPT, optimizer: torch.optim.Optimizer, step: Callable[[Tensor], StepResult]) -> None:
        self._device, self._optimizer, self._step = model.wte.weight.device, optimizer, step

    @classmethod
    def of(
        cls,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        step: Callable[[Tensor], StepResult],
        *,
        captured: bool,
    ) -> Update:
        """One or the other kind.

        Args:
            model: The model that is trained.
            optimizer: Of its parameters, fused.
            step: Computes a batch's loss, and adds to the gradients; to be captured, it may wait for no value.
            captured: As CUDA graphs; the model is on such a device.
        """
        return (CapturedUpdate if captured else Update)(model, optimizer, step)

    def __call__(self, tokens: Tensor, *, learning_rate: float) -> StepResult:
        """The update of one iteration.

        Args:
            tokens: Its batch, (B, 2K + 1), on any device.
            learning_rate: The optimizer's.

        Returns:
            What the batch gave before the update; on a GPU, it holds until the next one.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        return self._update(tokens.to(self._device, non_blocking=True))

    def _update(self, tokens: Tensor) -> StepResult:
        self._optimizer.zero_grad(set_to_none=True)
        result = self._step(tokens)
        self._optimizer.step()
        return result


@dataclass(frozen=True)
class _Captured:
    """A graph, and what it reads and writes."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    result: StepResult


class CapturedUpdate(Update):
    """The same by CUDA graphs, one for each shape of batch; they share their memory, as one runs at a time.

    The first batch of a shape is computed as it is on any device. That loads what a graph cannot: kernels, libraries,
    and the optimizer's moments.
    """

    def __init__(self, model: GPT, optimizer: torch.optim.Optimizer, step: Callable[[Tensor], StepResult]) -> None:
        super().__init__(model, optimizer, step)
        self._graphs: dict[torch.Size, _Captured | None] = {}
        self._rate = torch.zeros((), device=self._device)  # a number in a graph is the same at each replay
        self._memory = torch.cuda.graph_pool_handle()
        # Libraries keep scratch memory for each stream that they are captured on. Graphs that are replayed side by
        # side must not share it.
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # by torch

    def __call__(self, tokens: Tensor, *, learning_rate: float) -> StepResult:
        """The update of one iteration, as `Update`'s."""
        if tokens.shape not in self._graphs:
            self._graphs[tokens.shape] = None
            return super().__call__(tokens, learning_rate=learning_rate)
        captured = self._graphs[tokens.shape] or self._capture(tokens)
        self._rate.fill_(learning_rate)
        captured.tokens.copy_(tokens, non_blocking=True)
        captured.graph.replay()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate  # for whoever saves its state
        return captured.result

    def _capture(self, tokens: Tensor) -> _Captured:
        """Capture the update of a batch of this shape. What is captured is not computed yet."""
        own, graph = tokens.to(self._device, copy=True), torch.cuda.CUDAGraph()
        groups = self._optimizer.param_groups
        for group in groups:
            group.update(lr=self._rate, capturable=True)
        try:
            # Only what this thread does belongs to the graph: others draw batches, and copy them to locked memory.
            capture = torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local")
            with torch.cuda.device(self._device), capture:
                result = self._update(own)
        finally:
            for group in groups:
                group.update(capturable=False)  # as it is kept, and as it is warned of outside of a graph
        found = self._graphs[tokens.shape] = _Captured(graph, own, result)
        return found


class Batches:
    """The batches of a run's iterations, in turn. It is a context: whatever it began ends with it."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    @classmethod
    def of(cls, config: TrainConfig, device: torch.device) -> Batches:
        """Drawn when they are asked for, or on a GPU ahead, by other threads."""
        return BatchesAhead(config, device) if device.type == "cuda" else Batches(config)

    def of_iteration(self, iteration: int) -> Tensor:
        """The batch of an iteration, (B, 2K + 1), on the CPU."""
        return draw_batch(self._config, iteration)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class BatchesAhead(Batches):
    """The same, drawn ahead, for a GPU in memory that it copies from by itself."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config)
        self._device = device
        self._threads = ThreadPoolExecutor(_DRAWING, thread_name_prefix="draw")
        self._drawn: dict[int, Future[Tensor]] = {}

    def of_iteration(self, iteration: int) -> Tensor:
        """The batch of an iteration; quick where it is the one after that which was asked for last."""
        wanted = range(iteration, iteration + _AHEAD)
        for index in self._drawn.keys() - set(wanted):
            self._drawn.pop(index).cancel()
        for index in wanted:
            if index not in self._drawn:
                self._drawn[index] = self._threads.submit(self._draw, index)
        return self._drawn[iteration].result()

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _draw(self, iteration: int) -> Tensor:
        drawn = draw_batch(self._config, iteration)
        if self._device.type != "cuda":
            return drawn
        with torch.cuda.device(self._device):
            return drawn.pin_memory()
