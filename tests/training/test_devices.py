"""What a run computes is the same on every device: here on the CPU, and on a GPU where the machine has one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import read_checkpoint
from ckptman.rules.recipe import PRECISIONS
from ckptman.training import gpu_step, train_step
from ckptman.training.accuracy import measure_accuracy
from ckptman.training.loading import load
from ckptman.training.loop import Computing, initial_model, train_run
from ckptman.training.model import GPT
from ckptman.training.progress import COMPLETE, INTERRUPTED
from ckptman.training.sorting import draw_batch
from ckptman.training.stopping import Stop
from ckptman.training.train_step import StepResult, loss_and_backward, plain_loss_and_backward, why_plain
from tests.helpers.devices import DEVICES, ROUNDING, furthest, weights
from tests.helpers.short_runs import raw_run, short_config

Step = Callable[[GPT, torch.Tensor], StepResult]
BOTH_STEPS = pytest.mark.parametrize(
    "step", [loss_and_backward, gpu_step.loss_and_backward], ids=["step of CPUs", "step of GPUs"]
)

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"use_mlp": True},
    {"n_layers": 2},
    {"n_layers": 2, "use_mlp": True, "n_heads": 2},
    {"use_layernorm": False},
    {"without_pos": False},
)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@BOTH_STEPS
@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: " ".join(values) or "plain")
def test_the_gradients_are_those_of_the_plain_model(device: torch.device, values: dict[str, Any], step: Step) -> None:
    config = short_config(**values)
    ours, plain = (initial_model(config).double().to(device) for _ in range(2))
    batch = draw_batch(config, 3, device=device)
    loss = step(ours, batch).loss
    assert abs(float(loss) - float(plain_loss_and_backward(plain, batch).loss)) < 1e-10
    assert furthest(gradients(ours), gradients(plain)) < 1e-9
    other = initial_model(replace(config, seed=config.seed + 1)).double().to(device)
    step(other, batch)
    assert furthest(gradients(other), gradients(plain)) > 1e-3, "another model's are told apart"


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [{}, {"n_layers": 2, "use_mlp": True, "use_layernorm": False}, {"n_layers": 2, "use_mlp": True, "n_heads": 2}],
    ids=lambda values: " ".join(values) or "plain",
)
def test_the_step_of_gpus_can_be_compiled_as_a_whole(values: dict[str, Any]) -> None:
    """Without breaks, and not again for each K. Triton's part is tried where there is a GPU."""
    from torch._dynamo.testing import CompileCounterWithBackend

    config = short_config(**values)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(gpu_step.loss_of, backend=counter, fullgraph=True)
    ours, plain = (initial_model(config).double() for _ in range(2))
    for k in (4, 5, 6):
        batch = draw_batch(replace(config, train_min_k=k, train_max_k=k), 3)
        for model in (ours, plain):
            model.zero_grad()
        gpu_step.loss_and_backward(ours, batch, compiled=compiled)
        plain_loss_and_backward(plain, batch)
        assert furthest(gradients(ours), gradients(plain)) < 1e-9
    assert counter.frame_count == (0 if why_plain(ours) else 2)


def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptman.training.loop.PROGRESS_SECONDS", 0.0)
    computing, values = Computing(device), {"amp_dtype": PRECISIONS["fp32"]}
    whole = raw_run(tmp_path / "whole", **values)
    assert train_run(whole, computing).state == COMPLETE
    run, stop = raw_run(tmp_path / "parts", **values), Stop()
    assert train_run(run, computing, stop=stop, progress=lambda _: stop.request()).state == INTERRUPTED
    resumed = train_run(run, computing)
    assert (resumed.state, resumed.resumed_from) == (COMPLETE, 2)
    assert furthest(weights(run), weights(whole)) <= (0.0 if device.type == "cpu" else ROUNDING)
    other = raw_run(tmp_path / "another seed", **values, seed=7)
    train_run(other, computing)
    assert furthest(weights(other), weights(whole)) > 0.01, "another run's are told apart"


@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: " ".join(values) or "plain")
def test_a_run_whose_sums_are_in_another_order_is_the_same_to_rounding(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the order is another one each time: so this is what resuming may differ by there."""
    computing, step = Computing(torch.device("cpu")), train_step.loss_and_backward
    one, other = (raw_run(tmp_path / name, **values) for name in ("one", "other"))
    train_run(one, computing)
    monkeypatch.setattr("ckptman.training.loop.loss_and_backward", lambda model, tokens: step(model, tokens.flip(0)))
    train_run(other, computing)
    assert 0 < furthest(weights(one), weights(other)) <= ROUNDING


@BOTH_STEPS
@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: " ".join(values) or "plain")
def test_a_step_makes_all_tensors_on_the_device_and_waits_for_none(
    values: dict[str, Any], low: bool, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On `meta`, whose tensors have no values to be fetched, and are mixed with no others. It knows no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: low)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    config = short_config(**values)
    model = initial_model(config).to("meta")
    loss = step(model, draw_batch(config, 3, device="meta")).loss
    assert {loss.device.type, *(gradient.device.type for gradient in gradients(model).values())} == {"meta"}
    with pytest.raises(RuntimeError, match="meta"):
        float(loss)
    with pytest.raises(RuntimeError, match=r"device|meta"):
        step(model, draw_batch(config, 3))


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_the_precision_of_a_run_is_the_one_that_it_is_computed_in(
    device: torch.device, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bool] = set()
    step = train_step.loss_and_backward

    def watched(*given: object, **more: object) -> object:
        seen.add(torch.is_autocast_enabled(device.type))
        return step(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("ckptman.training.loop.loss_and_backward", watched)
    monkeypatch.setattr("ckptman.training.gpu_step.loss_and_backward", watched)
    run = raw_run(tmp_path, amp_dtype=PRECISIONS[precision], use_mlp=True, n_layers=2)
    assert train_run(run, Computing(device)).state == COMPLETE
    assert seen == {precision == "bf16" or (precision == "auto" and device.type == "cuda")}
    kept = read_checkpoint(run.final, run.convention.checkpoint).config or {}
    used = PRECISIONS[precision] or ("torch.bfloat16" if device.type == "cuda" else None)
    assert kept.get("amp_dtype") == used


def test_what_a_model_gets_right_hangs_on_no_device(device: torch.device, tmp_path: Path) -> None:
    run = raw_run(tmp_path, max_iters=300, learning_rate=3e-2, train_min_k=2)
    train_run(run, Computing(torch.device("cpu")))
    there, here = (load(run.final, device=where)[0] for where in (device, "cpu"))
    found, known = (measure_accuracy(model, 2, samples=500, seed=1) for model in (there, here))
    assert known.exact > 25, "the model has learnt something"
    assert abs(found.exact - known.exact) <= (0 if device.type == "cpu" else 5)
