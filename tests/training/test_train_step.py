"""The fast step against the plain one: loss, accuracies and every gradient, in float64."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ckptman.rules.convention_file import built_in
from ckptman.rules.grids import cells, config_values
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import UsageError
from ckptman.training import train_step
from ckptman.training.model import GPT, GPTConfig
from ckptman.training.sorting import draw_batch, draw_sequences
from ckptman.training.train_step import (
    StepResult,
    keep_freed_memory,
    loss_and_backward,
    make_optimizer,
    plain_loss_and_backward,
    why_plain,
)

TOLERANCE = 1e-10
"""Largest difference, over the largest absolute value of the same tensor."""

NUMBERS = 40
WIDTH = 16


def model_of(*, seed: int = 0, scale: float = 6.0, dtype: torch.dtype = torch.float64, **values: Any) -> GPT:
    """A small model. Its weights are larger than at the start of training, and no bias is 0 and no gain 1."""
    shape: dict[str, Any] = {"block_size": 8, "vocab_size": NUMBERS + 1, "n_layers": 1, "n_embd": WIDTH}
    model = GPT(GPTConfig(**shape | values), generator=torch.Generator().manual_seed(seed)).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(scale if parameter.dim() == 2 else 1)
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def batch(samples: int, k: int, *, seed: int = 0, numbers: int = NUMBERS, allow_duplicates: bool = False) -> Tensor:
    return draw_sequences(samples, k, numbers, np.random.default_rng(seed), allow_duplicates=allow_duplicates)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def step_of(function: Any, model: GPT, tokens: Tensor, **options: Any) -> tuple[StepResult, dict[str, Tensor]]:
    model.zero_grad()
    return function(model, tokens, **options), gradients(model)


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference over the largest absolute value."""
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-300))


def differences(
    fast: tuple[StepResult, dict[str, Tensor]],
    plain: tuple[StepResult, dict[str, Tensor]],
    tolerance: float = TOLERANCE,
) -> list[str]:
    """What differs between two steps by more than the tolerance, with how much."""
    found = []
    for name in ("correct_tokens", "correct_samples", "samples", "k"):
        if int(getattr(fast[0], name)) != int(getattr(plain[0], name)):
            found.append(f"{name}: {getattr(fast[0], name)} instead of {getattr(plain[0], name)}")
    if (off := distance(fast[0].loss, plain[0].loss)) > tolerance or math.isnan(off):
        found.append(f"loss: {off:.1e}")
    if list(fast[1]) != list(plain[1]):
        found.append(f"gradients of {list(fast[1])} instead of {list(plain[1])}")
    for name in fast[1].keys() & plain[1].keys():
        if not (off := distance(fast[1][name], plain[1][name])) <= tolerance:
            found.append(f"{name}: {off:.1e}")
    return found


def compare(model: GPT, tokens: Tensor, *, piece_rows: int | None = None) -> list[str]:
    return differences(
        step_of(loss_and_backward, model, tokens, piece_rows=piece_rows),
        step_of(plain_loss_and_backward, model, tokens),
    )


# --- the configurations of the experiments ----------------------------------------------------------------------------


def configurations() -> Iterator[tuple[str, TrainConfig]]:
    """Every cell of every group of the built-in convention: 8 dynamic and 4 fixed ones, with and without LayerNorm."""
    rules = built_in()
    for group in rules.groups:
        grid = rules.grids[group.grid]
        for cell in cells(grid, group.regime, rules.numbering):
            values: dict[str, Any] = dict(config_values(group, grid, {"K": 4}, cell, rules))
            yield (
                f"{group.pattern} task {cell.task}",
                TrainConfig(**values, effective_batch_size=40, micro_batch_size=1),
            )


CONFIGURATIONS = dict(configurations())


def test_all_configurations_are_there() -> None:
    found = CONFIGURATIONS.values()
    assert len(found) == 2 * (8 + 4)
    outlines = {(c.n_layers, c.use_mlp, c.use_layernorm, c.length_mode, c.train_min_k == c.train_max_k) for c in found}
    assert len(outlines) == 2 * (8 + 4)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_step_equals_the_plain_one_at_the_start_and_later_in_training(name: str) -> None:
    config = CONFIGURATIONS[name]
    shape = GPTConfig.from_train_config(config)
    model = GPT(shape, generator=torch.Generator().manual_seed(config.seed)).double()
    assert why_plain(model) is None
    optimizer = make_optimizer(model, learning_rate=3e-3, weight_decay=0.0)
    losses = []
    for iteration in range(21):
        tokens = draw_batch(config, iteration)
        if iteration in (0, 5, 20):
            assert compare(model, tokens, piece_rows=100) == [], f"after {iteration} steps"
        optimizer.zero_grad()
        losses.append(float(loss_and_backward(model, tokens).loss))
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(129), abs=0.5)
    assert losses[-1] < losses[0] - 0.05  # it has learned something


# --- other models, lengths and batches --------------------------------------------------------------------------------

OUTLINES = [
    {"n_layers": layers, "use_mlp": mlp, "use_layernorm": norm}
    for layers in (1, 2, 3)
    for mlp in (False, True)
    for norm in (False, True)
]
SORTED_OUTLINES = [pytest.param(o, id="-".join(f"{key}={int(value)}" for key, value in o.items())) for o in OUTLINES]


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
@pytest.mark.parametrize("k", [1, 2, 3, 7, 16, NUMBERS])
def test_a_step_equals_the_plain_one_for_every_length(outline: dict[str, Any], k: int) -> None:
    model = model_of(**outline)
    assert why_plain(model) is None
    assert compare(model, batch(10, k)) == []


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
@pytest.mark.parametrize("k", [1, 5, NUMBERS + 3])
def test_a_step_equals_the_plain_one_with_duplicates(outline: dict[str, Any], k: int) -> None:
    tokens = batch(10, k, allow_duplicates=True)
    assert k == 1 or bool((tokens[:, k + 1 :].diff(dim=1) == 0).any())
    assert compare(model_of(**outline), tokens) == []


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_pieces_of_any_size_add_up(outline: dict[str, Any]) -> None:
    model, tokens = model_of(**outline), batch(23, 5)
    for rows in (1, 5, 35, 40, 1000):  # pieces of a single sample, of some and a rest, of all
        assert compare(model, tokens, piece_rows=rows) == []
    one, other = (step_of(plain_loss_and_backward, model, tokens, piece_samples=n) for n in (None, 4))
    assert differences(other, one) == []


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_a_batch_of_one_sample(outline: dict[str, Any]) -> None:
    assert compare(model_of(**outline), batch(1, 4)) == []


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_gradients_are_added_to_those_there_are(outline: dict[str, Any]) -> None:
    model, tokens = model_of(**outline), batch(12, 4)
    once = step_of(loss_and_backward, model, tokens)[1]
    loss_and_backward(model, tokens)
    loss_and_backward(model, tokens)
    twice = gradients(model)
    assert all(distance(twice[name], 2 * once[name]) < TOLERANCE for name in once)


def test_a_frozen_positional_embedding_gets_no_gradient() -> None:
    model = model_of(n_layers=2)
    found = step_of(loss_and_backward, model, batch(12, 4))[1]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(trained)
    assert "transformer.wpe.weight" not in trained


def test_parts_of_a_model_can_be_frozen() -> None:
    model = model_of(n_layers=2)
    model.blocks[0].requires_grad_(False)
    assert compare(model, batch(12, 4)) == []
    assert not any(".h.0." in name for name in step_of(loss_and_backward, model, batch(12, 4))[1])


# --- the comparison can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_one_weight_a_millionth_off_is_noticed(outline: dict[str, Any]) -> None:
    model, tokens = model_of(**outline), batch(12, 4)
    plain = step_of(plain_loss_and_backward, model, tokens)
    assert differences(step_of(loss_and_backward, model, tokens), plain) == []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        with torch.no_grad():
            kept = parameter.clone()
            parameter[(-1,) * parameter.dim()] += 1e-6  # of attention's c_attn: a value's weight or bias
        assert differences(step_of(loss_and_backward, model, tokens), plain) != [], name
        with torch.no_grad():
            parameter.copy_(kept)
    assert differences(step_of(loss_and_backward, model, tokens), plain) == []


def test_one_number_of_a_result_is_noticed() -> None:
    model, tokens = model_of(n_layers=2), batch(12, 4)
    plain = step_of(plain_loss_and_backward, model, tokens)
    fast = step_of(loss_and_backward, model, tokens)
    assert differences(fast, plain) == []
    for name in fast[1]:
        changed = fast[1][name].clone()
        changed.view(-1)[3] += 1e-9 * changed.abs().max()
        assert differences((fast[0], fast[1] | {name: changed}), plain) == [f"{name}: 1.0e-09"]
    assert differences((replace(fast[0], loss=fast[0].loss * (1 + 1e-9)), fast[1]), plain) == ["loss: 1.0e-09"]
    assert differences((replace(fast[0], correct_tokens=fast[0].correct_tokens + 1), fast[1]), plain) != []
    assert differences((replace(fast[0], correct_samples=fast[0].correct_samples + 1), fast[1]), plain) != []
    assert differences((fast[0], fast[1] | {"transformer.wte.weight": torch.full((41, 16), math.nan)}), plain) != []


# --- accuracies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_accuracies_are_those_of_the_plain_forward(outline: dict[str, Any]) -> None:
    model, k = model_of(**outline), 3
    optimizer = make_optimizer(model, learning_rate=3e-3, weight_decay=0.0)
    tokens = batch(200, k, seed=1000, numbers=6)
    for iteration in range(200):  # until some samples are right, and some are not
        optimizer.zero_grad()
        loss_and_backward(model, batch(64, k, seed=iteration, numbers=6))
        optimizer.step()
        result = loss_and_backward(model, tokens)
        if result.exact_match > 0.05:
            break
    assert 0.05 < result.exact_match < result.token_accuracy < 1
    with torch.no_grad():
        right = model(tokens[:, :-1])[:, k:].argmax(-1) == tokens[:, k + 1 :]
    assert result.token_accuracy == pytest.approx(float(right.double().mean()))
    assert result.exact_match == pytest.approx(float(right.all(1).double().mean()))


# --- large scores -----------------------------------------------------------------------------------------------------


def scores_of(model: GPT) -> Tensor:
    """Scores of all pairs of tokens in block 1, (V, V)."""
    first = model.blocks[0]
    query, key, _ = first.attn.c_attn(first.ln_1(model.wte.weight)).chunk(3, dim=1)
    scores: Tensor = query @ key.t() / math.sqrt(query.shape[1])
    return scores.detach()


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_scores(outline: dict[str, Any], dtype: torch.dtype) -> None:
    """Where a softmax over all tokens underflows to 0 at all tokens present, the step is as right as ever."""
    model = model_of(dtype=dtype, **outline)
    lowest = 800 if dtype == torch.float64 else 120  # exp(-745) and exp(-103) are 0
    with torch.no_grad():
        attention = model.blocks[0].attn.c_attn
        queries, keys = attention.weight[:WIDTH], attention.weight[WIDTH : 2 * WIDTH]
        factor = math.sqrt(40 * lowest / float(scores_of(model).std()))
        for part in (queries, keys, attention.bias[:WIDTH], attention.bias[WIDTH : 2 * WIDTH]):
            part.mul_(factor)
    tokens = batch(64, 4)
    over_all = torch.softmax(scores_of(model), dim=1)[tokens[:, 4:-1, None], tokens[:, None, 4:]]  # (B, K, N)
    assert bool((over_all.sum(dim=2) == 0).any()), "these scores are not large enough for the test to say anything"

    plain = step_of(plain_loss_and_backward, model.double(), tokens)
    fast = step_of(loss_and_backward, model.to(dtype), tokens)
    assert bool(torch.isfinite(fast[0].loss))
    if dtype == torch.float64:
        assert differences(fast, plain) == []
    else:
        assert all(bool(torch.isfinite(gradient).all()) for gradient in fast[1].values())
        assert distance(fast[0].loss.double(), plain[0].loss) < 0.01


# --- lower precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_float32_is_as_near_to_float64_as_the_plain_step(outline: dict[str, Any]) -> None:
    tokens = batch(50, 6)
    exact = step_of(plain_loss_and_backward, model_of(**outline), tokens)
    single = model_of(**outline).float()
    errors = {
        function: errors_against(exact, step_of(function, single, tokens))
        for function in (loss_and_backward, plain_loss_and_backward)
    }
    for name, error in errors[loss_and_backward].items():
        assert error < 1e-6 + 5 * errors[plain_loss_and_backward][name], name


def errors_against(
    exact: tuple[StepResult, dict[str, Tensor]], found: tuple[StepResult, dict[str, Tensor]]
) -> dict[str, float]:
    errors = {name: distance(found[1][name].double(), gradient) for name, gradient in exact[1].items()}
    return errors | {"loss": distance(found[0].loss.double(), exact[0].loss)}


@pytest.mark.parametrize("outline", SORTED_OUTLINES)
def test_autocast_is_as_near_to_exact_as_the_plain_step_under_autocast(outline: dict[str, Any]) -> None:
    tokens = batch(50, 6)
    exact = step_of(plain_loss_and_backward, model_of(scale=2.0, **outline), tokens)
    single = model_of(scale=2.0, **outline).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = step_of(loss_and_backward, single, tokens)
        plain = step_of(plain_loss_and_backward, single, tokens)
    assert all(gradient.dtype == torch.float32 for gradient in fast[1].values())
    ours, theirs = errors_against(exact, fast), errors_against(exact, plain)
    assert 1e-5 < max(theirs.values()) < 0.2  # autocast did something
    for name, error in ours.items():
        assert error < 1e-5 + 2 * theirs[name], name


def test_autocast_reaches_the_matrix_products_of_every_block() -> None:
    model, tokens = model_of(n_layers=3).float(), batch(50, 6)
    products: list[torch.dtype] = []
    model.blocks[1].mlp.fc_2.register_forward_hook(lambda _, __, output: products.append(output.dtype))  # type: ignore[union-attr]
    without = step_of(loss_and_backward, model, tokens)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = step_of(loss_and_backward, model, tokens)[1]
    assert products == [torch.float32, torch.bfloat16]
    for layer in range(3):
        name = f"transformer.h.{layer}.mlp.fc_2.weight"
        assert distance(under[name], without[name]) > 1e-4


# --- what the fast way leaves to the plain one ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"without_pos": False}, "positional embedding"),
        ({"n_heads": 2}, "2 attention heads"),
        ({"norm_type": "rmsnorm"}, "RMS norms"),
        ({"use_qk_norm": True, "use_rms_qk_norm": True}, "normalizes queries and keys"),
        ({"use_gated_attention": True}, "gates attention's output"),
        ({"use_elementwise_attn_output_gate": True}, "gates attention's output"),
    ],
)
def test_other_models_take_the_plain_way(values: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = model_of(**values), batch(23, 4)
    assert reason in (why_plain(model) or "")
    assert compare(model, tokens, piece_rows=64) == []

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(train_step, "_piece", fail)
    loss_and_backward(model, tokens)
    with pytest.raises(AssertionError):  # the control: this is where the fast way goes
        loss_and_backward(model_of(), tokens)


@pytest.mark.parametrize("values", [{"norm_type": "layernorm"}, {"norm_type": "none"}, {"use_xavier_init": True}])
def test_variants_that_change_nothing_take_the_fast_way(values: dict[str, Any]) -> None:
    model = model_of(n_layers=3, **values)
    assert why_plain(model) is None
    assert compare(model, batch(23, 4), piece_rows=64) == []


def test_weights_of_half_precision_take_the_plain_way() -> None:
    model = model_of().bfloat16()
    assert "bfloat16" in (why_plain(model) or "")
    assert bool(torch.isfinite(loss_and_backward(model, batch(8, 4)).loss))


@pytest.mark.parametrize("shape", [(9,), (0, 9), (3, 8), (3, 1), (2, 3, 9)])
@pytest.mark.parametrize("function", [loss_and_backward, plain_loss_and_backward])
def test_other_shapes_are_refused(shape: tuple[int, ...], function: Any) -> None:
    with pytest.raises(UsageError, match="shape") as caught:
        function(model_of(), torch.zeros(shape, dtype=torch.int64))
    assert caught.value.code == "bad-batch"
    assert function(model_of(), batch(3, 4)).samples == 3


# --- repeatable, and apart from everything else -----------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("outline", [OUTLINES[1], OUTLINES[7]], ids=["1-layer", "2-layers-mlp"])
def test_the_same_step_twice_gives_the_same_bits(outline: dict[str, Any], threads: int) -> None:
    model, tokens = model_of(**outline).float(), batch(200, 8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = [step_of(loss_and_backward, model, tokens, piece_rows=1024) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for result, found in runs[1:]:
        assert torch.equal(result.loss, runs[0][0].loss)
        assert all(torch.equal(found[name], gradient) for name, gradient in runs[0][1].items())


def test_a_step_changes_neither_weights_nor_batch_nor_random_state() -> None:
    model, tokens = model_of(n_layers=2), batch(12, 4)
    weights, kept, state = {n: p.clone() for n, p in model.named_parameters()}, tokens.clone(), torch.get_rng_state()
    loss_and_backward(model, tokens)
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    assert torch.equal(tokens, kept)
    assert torch.equal(torch.get_rng_state(), state)


# --- the optimizer ----------------------------------------------------------------------------------------------------


def test_the_optimizer_decays_matrices_alone_in_the_published_order() -> None:
    model = model_of(n_layers=1, use_mlp=False)
    optimizer = make_optimizer(model, learning_rate=2e-4, weight_decay=0.1)
    matrices, vectors = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in matrices["params"]] == [
        "transformer.wte.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_proj.weight",
    ]
    assert [names[id(p)] for p in vectors["params"]] == [
        "transformer.h.0.attn.c_attn.bias",
        "transformer.h.0.attn.c_proj.bias",
        "transformer.h.0.ln_1.weight",
        "transformer.h.0.ln_1.bias",
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    ]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(group["betas"] == (0.9, 0.95) and group["lr"] == 2e-4 for group in optimizer.param_groups)
    assert all(group["eps"] == 1e-8 for group in optimizer.param_groups)


def test_positions_are_trained_where_there_are_any() -> None:
    model = model_of(without_pos=False)
    first = make_optimizer(model, learning_rate=1e-4, weight_decay=0.0).param_groups[0]["params"]
    assert any(parameter is model.wpe.weight for parameter in first)


def test_memory_is_kept_where_the_c_library_is_glibc() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
