"""One iteration's update: the same on a GPU from a captured graph, and batches the same that are drawn ahead."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from ckptman.rules.recipe import PRECISIONS, TrainConfig
from ckptman.text import UsageError
from ckptman.training import loop, updating
from ckptman.training.loop import Computing, initial_model, step_of
from ckptman.training.sorting import draw_batch
from ckptman.training.train_step import StepResult, make_optimizer
from ckptman.training.updating import Batches, BatchesAhead, Update
from tests.helpers.devices import GPU, NO_GPU, that_matter
from tests.helpers.short_runs import short_config

CPU = torch.device("cpu")
ROUNDING = 1e-5
"""What a GPU's sums, in no fixed order, change in the weights at most: where gradients are all but 0, AdamW makes more
of rounding than there is."""


class Trained:
    """A model on its way, in double precision, in which the order of sums is not seen."""

    def __init__(self, config: TrainConfig, device: torch.device, *, captured: bool, compiled: bool = False) -> None:
        self.config = config
        self.model = initial_model(config).double().to(device)
        self.optimizer = make_optimizer(self.model, learning_rate=config.learning_rate, weight_decay=0.1)
        step = step_of(self.model, config, Computing(device, compiled=compiled))
        self.update = Update.of(self.model, self.optimizer, step, captured=captured)

    def after(self, iterations: int, *, rate: float = 1.0) -> tuple[list[float], dict[str, torch.Tensor]]:
        """The losses on the way, and the weights that they end with; the learning rate is another each time."""
        losses = []
        with Batches.of(self.config, self.model.wte.weight.device) as batches:
            for index in range(iterations):
                result: StepResult = self.update(
                    batches.of_iteration(index), learning_rate=rate * 1e-3 * (1 + index % 3)
                )
                losses.append(float(result.loss))
        return losses, that_matter({name: weight.detach().cpu() for name, weight in self.model.named_parameters()})


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two models' weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("values", [{}, {"use_mlp": True}, {"n_layers": 3, "use_mlp": True}, {"n_heads": 2}], ids=str)
def test_what_is_replayed_from_a_graph_is_what_is_computed_without(values: dict[str, Any]) -> None:
    config = short_config(train_min_k=2, train_max_k=4, amp_dtype=PRECISIONS["fp32"], **values)
    assert len({draw_batch(config, index).shape for index in range(24)}) == 3, "three lengths, so three graphs"
    losses, weights = Trained(config, GPU, captured=True).after(24)
    plain_losses, plain_weights = Trained(config, GPU, captured=False).after(24)
    assert losses == pytest.approx(plain_losses, rel=ROUNDING)
    assert furthest(weights, plain_weights) < ROUNDING
    faster, shorter = Trained(config, GPU, captured=True), Trained(config, GPU, captured=True)
    assert furthest(faster.after(24, rate=1.01)[1], weights) > 10 * ROUNDING, "each replay reads the learning rate"
    assert furthest(shorter.after(23)[1], weights) > 10 * ROUNDING, "each replay changes the weights"


@pytest.mark.gpu
@NO_GPU
def test_what_is_compiled_is_what_is_computed_without() -> None:
    config = short_config(train_min_k=2, train_max_k=4, amp_dtype=PRECISIONS["fp32"], use_mlp=True, n_layers=2)
    weights = Trained(config, GPU, captured=True, compiled=True).after(24)[1]
    assert furthest(weights, Trained(config, GPU, captured=False).after(24)[1]) < ROUNDING
    assert furthest(weights, Trained(config, GPU, captured=False).after(23)[1]) > 10 * ROUNDING


@pytest.mark.gpu
@NO_GPU
def test_the_state_after_a_graph_is_that_of_any_optimizer() -> None:
    config = short_config(amp_dtype=PRECISIONS["fp32"])
    captured, plain = (Trained(config, GPU, captured=captured) for captured in (True, False))
    captured.after(4)
    plain.after(4)
    one, other = captured.optimizer.state_dict(), plain.optimizer.state_dict()
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    assert {float(moments["step"]) for moments in one["state"].values()} == {4.0}


def test_the_learning_rate_is_the_one_that_is_asked_for() -> None:
    config = short_config()
    usual, faster = (Trained(config, CPU, captured=False) for _ in range(2))
    weights = usual.after(3)[1]
    assert usual.optimizer.param_groups[0]["lr"] == 3e-3
    assert furthest(faster.after(3, rate=1.01)[1], weights) > ROUNDING


def test_batches_that_are_drawn_ahead_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = short_config(train_min_k=2, train_max_k=4)
    drawn: list[tuple[int, str]] = []

    def watched(config: TrainConfig, iteration: int) -> torch.Tensor:
        drawn.append((iteration, threading.current_thread().name))
        return draw_batch(config, iteration)

    monkeypatch.setattr(updating, "draw_batch", watched)
    with BatchesAhead(config, CPU) as ahead:
        order = [*range(5), 9, 3, *range(4, 12)]  # on from anywhere
        found = [ahead.of_iteration(index) for index in order]
    for index, batch in zip(order, found, strict=True):
        assert torch.equal(batch, draw_batch(config, index))
    assert not torch.equal(found[0], draw_batch(config, 1)) or found[0].shape != draw_batch(config, 1).shape
    assert all(name.startswith("draw") for _, name in drawn)
    assert max(index for index, _ in drawn) >= 12, "some are drawn before they are asked for"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("draw")], "none is left behind"
    drawn.clear()
    with Batches.of(config, CPU) as plain:
        plain.of_iteration(3)
    assert [index for index, _ in drawn] == [3], "on a CPU, which computes meanwhile, only what is asked for"


def test_a_batch_that_cannot_be_drawn_says_why() -> None:
    config = short_config()
    object.__setattr__(config, "train_min_k", 17)
    object.__setattr__(config, "train_max_k", 17)
    with BatchesAhead(config, CPU) as batches, pytest.raises(UsageError, match="17 distinct numbers"):
        batches.of_iteration(0)


def test_a_state_of_another_machine_is_gone_on_with_by_the_kernels_of_this_one() -> None:
    """On a GPU others would count their steps in the CPU's memory, where no graph looks."""
    config = short_config()
    trained = Trained(config, CPU, captured=False)
    trained.after(2)
    state = trained.optimizer.state_dict()
    assert [group["fused"] for group in state["param_groups"]] == [True, True]
    for group in state["param_groups"]:
        group["fused"] = None
    other = Trained(config, CPU, captured=False).optimizer
    other.load_state_dict(loop._on_this_machine(state, other))
    assert [group["fused"] for group in other.param_groups] == [True, True]
    assert [moments["step"] for moments in other.state_dict()["state"].values()] == [
        moments["step"] for moments in state["state"].values()
    ]
    other.load_state_dict(state)
    assert [group["fused"] for group in other.param_groups] == [None, None], "left to itself it takes the other's"
