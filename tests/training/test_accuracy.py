from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ckptman.text.errors import RefusedError, UsageError
from ckptman.training.accuracy import Accuracy, Predictor, draw_samples, measure_accuracy
from ckptman.training.model import GPT, GPTConfig
from ckptman.tree.metrics import wilson_interval

NUMBERS = 12


def random_model(**values: Any) -> GPT:
    """A model of random weights, large enough that its predictions are not all alike; float64, against rounding."""
    shape = {"block_size": 4, "vocab_size": NUMBERS + 1, "n_embd": 8, "n_layers": 1, "max_seq_len": 2 * NUMBERS + 1}
    model = GPT(GPTConfig(**{**shape, **values}), generator=torch.Generator().manual_seed(3)).double().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "transformer.wpe.weight" or not model.config.without_pos:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def sorting_model(*, blind_to_zero: bool = False) -> GPT:
    """A model built by hand that sorts any list of numbers.

    Tokens are unit vectors. The query of a token is a row of scores over all tokens: the next number is the smallest of
    those above the token (above none, for the separator), so the score falls with the number, and is very low for
    numbers that are not above it. What is attended to is written over the token's own vector, ten times as large.

    Args:
        blind_to_zero: The separator does not see the number 0, so the first number of a list with a 0 is wrong.
    """
    tokens = NUMBERS + 1
    config = GPTConfig(
        block_size=NUMBERS, vocab_size=tokens, n_layers=1, n_embd=tokens, use_mlp=False, use_layernorm=False
    )
    model = GPT(config)
    scores = torch.full((tokens, tokens), -5000.0)
    for query in range(tokens):
        start = 0 if query == NUMBERS else query + 1
        for number in range(start, NUMBERS):
            scores[query, number] = -200.0 * number
    if blind_to_zero:
        scores[NUMBERS, 0] = -5000.0
    unit = torch.eye(tokens)
    with torch.no_grad():
        model.wte.weight.copy_(unit)
        attention = model.blocks[0].attn
        attention.c_attn.weight.copy_(torch.cat([scores.T, unit, unit]))
        attention.c_proj.weight.copy_(10 * unit)
    return model.eval()


def plain_logits(model: GPT, tokens: Tensor, k: int) -> Tensor:
    return cast(Tensor, model(tokens[:, :-1]))[:, k:]


def plain_predictions(model: GPT, tokens: Tensor, k: int) -> Tensor:
    return plain_logits(model, tokens, k).argmax(dim=-1)


def plain_decoding(model: GPT, tokens: Tensor, k: int) -> Tensor:
    """Token by token, each time over the whole sequence."""
    sequence = tokens[:, : k + 1]
    for _ in range(k):
        sequence = torch.cat([sequence, model(sequence)[:, -1:].argmax(dim=-1)], dim=1)
    return sequence[:, k + 1 :]


def batch(k: int, samples: int = 64, seed: int = 0) -> Tensor:
    return torch.cat(list(draw_samples(k, samples, NUMBERS, seed)))


CONFIGURATIONS: list[dict[str, Any]] = [
    {"n_layers": layers, "use_mlp": mlp, "use_layernorm": norm, "without_pos": no_pos, "n_heads": heads}
    for layers in (1, 2)
    for mlp in (False, True)
    for norm in (False, True)
    for no_pos in (False, True)
    for heads in (1, 2)
] + [
    {"n_layers": 2, "norm_type": "rmsnorm"},
    {"use_qk_norm": True, "n_heads": 2},
    {"use_qk_norm": True, "use_rms_qk_norm": True, "without_pos": False},
    {"n_layers": 2, "use_gated_attention": True, "n_heads": 2},
    {"use_elementwise_attn_output_gate": True, "n_heads": 2},
]


@torch.inference_mode()
@pytest.mark.parametrize("values", CONFIGURATIONS)
@pytest.mark.parametrize("k", [1, 2, 7, NUMBERS])
def test_the_fast_way_equals_the_plain_forward(values: dict[str, Any], k: int) -> None:
    model = random_model(**values)
    tokens = batch(k)
    predictor = Predictor(model)
    expected = plain_logits(model, tokens, k)
    rounding = 1e-12 * float(expected.abs().max())  # without norms, logits reach 10^5
    assert torch.allclose(predictor.logits(tokens), expected, rtol=1e-10, atol=rounding)
    predictions = plain_predictions(model, tokens, k)
    assert torch.equal(predictor(tokens), predictions)
    assert torch.equal(predictor.right(tokens), predictions == tokens[:, k + 1 :])
    assert torch.equal(predictor.decode(tokens[:, : k + 1]), plain_decoding(model, tokens, k))


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("k", [1, 5, NUMBERS])
def test_a_model_that_sorts_is_right_everywhere(k: int, autoregressive: bool) -> None:
    accuracy = measure_accuracy(sorting_model(), k, samples=300, seed=0, autoregressive=autoregressive)
    assert accuracy == Accuracy(k=k, samples=300, exact=300, tokens=300 * k)


def test_a_model_that_cannot_sort_is_wrong() -> None:
    accuracy = measure_accuracy(random_model(), 7, samples=300, seed=0)
    assert accuracy.exact == 0
    assert accuracy.token_accuracy < 0.5


def test_of_equal_scores_the_first_is_the_answer() -> None:
    model, k, samples = random_model(), 5, 2000
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # every score is 0, and the answer 0 everywhere
    first_is_zero = int((batch(k, samples)[:, k + 1] == 0).sum())
    assert 0 < first_is_zero < samples
    accuracy = measure_accuracy(model, k, samples=samples, seed=0)
    assert (accuracy.exact, accuracy.tokens) == (0, first_is_zero)


def test_a_model_with_a_known_fault_is_wrong_exactly_there() -> None:
    k, samples = 5, 2000
    model = sorting_model(blind_to_zero=True)
    with_zero = int((batch(k, samples)[:, k + 1] == 0).sum())
    assert 0.3 < with_zero / samples < 0.55  # 5 of 12

    forced = measure_accuracy(model, k, samples=samples, seed=0)
    assert forced.exact == samples - with_zero
    assert forced.tokens == samples * k - with_zero  # only the first number of those lists

    own = measure_accuracy(model, k, samples=samples, seed=0, autoregressive=True)
    assert own.exact == forced.exact
    # Having left out the 0, the model is one ahead to the end, and repeats the largest number when none is left.
    assert own.tokens == samples * k - with_zero * (k - 1)


@torch.inference_mode()
@pytest.mark.parametrize("values", CONFIGURATIONS[::5])
def test_the_exact_match_is_the_same_in_both_modes(values: dict[str, Any]) -> None:
    model = random_model(**values)
    tokens = batch(1, 500)
    forced = measure_accuracy(model, 1, samples=500, seed=0)
    assert forced.exact == int((plain_predictions(model, tokens, 1) == tokens[:, 2:]).sum())
    assert measure_accuracy(model, 1, samples=500, seed=0, autoregressive=True) == forced
    for k in (2, 3):
        one, other = (measure_accuracy(model, k, samples=500, seed=0, autoregressive=mode) for mode in (False, True))
        assert one.exact == other.exact


# --- the samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, NUMBERS])
def test_samples_are_distinct_numbers_and_their_order(k: int) -> None:
    tokens = batch(k, samples=3000)
    drawn, separator, solution = tokens[:, :k], tokens[:, k], tokens[:, k + 1 :]
    assert tokens.shape == (3000, 2 * k + 1)
    assert bool((separator == NUMBERS).all())
    assert torch.equal(drawn.sort(dim=1).values, solution)
    assert bool((solution.diff(dim=1) > 0).all())
    counts = torch.bincount(drawn[:, 0], minlength=NUMBERS)
    assert len(counts) == NUMBERS
    assert counts.min() > 150  # of an expected 250: five standard deviations are 76


def test_samples_with_duplicates() -> None:
    tokens = torch.cat(list(draw_samples(NUMBERS + 3, 200, NUMBERS, 0, allow_duplicates=True)))
    assert bool((tokens[:, NUMBERS + 4 :].diff(dim=1) == 0).any(dim=1).all())
    assert tokens[:, : NUMBERS + 3].max() < NUMBERS


def test_samples_depend_on_seed_and_length_only() -> None:
    assert torch.equal(batch(5), batch(5))
    assert not torch.equal(batch(5), batch(5, seed=1))
    torch.manual_seed(9)
    assert torch.equal(batch(5, seed=1), batch(5, seed=1))
    # Lengths have draws of their own: a shorter list is not the beginning of a longer one.
    assert not torch.equal(batch(5)[:, :4], batch(4)[:, :4])


@pytest.mark.parametrize("autoregressive", [False, True])
def test_the_batch_size_changes_nothing(autoregressive: bool) -> None:
    model = sorting_model(blind_to_zero=True)
    counted: list[int] = []
    expected = measure_accuracy(model, 5, samples=1500, seed=2, autoregressive=autoregressive)
    for size in (1, 64, 5000):
        found = measure_accuracy(
            model,
            5,
            samples=1500,
            seed=2,
            autoregressive=autoregressive,
            batch_size=size,
            report=counted.append,
        )
        assert found == expected
        assert sum(counted) == 1500
        counted.clear()
    assert measure_accuracy(model, 5, samples=1500, seed=3) != measure_accuracy(model, 5, samples=1500, seed=2)


# --- the interval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Stat. Med. 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_interval_holds_its_two_defining_proportions() -> None:
    # Its ends are the proportions whose score test just rejects the observed one: |p - q| = z sqrt(q (1 - q) / n).
    for q in wilson_interval(930, 1000):
        assert abs(0.93 - q) == pytest.approx(1.959964 * math.sqrt(q * (1 - q) / 1000), rel=1e-6)


def test_the_interval_stays_within_0_and_1() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(7, 7)[0] < 1.0
    for successes, trials, confidence in ((8, 7, 0.95), (-1, 7, 0.95), (0, 0, 0.95), (1, 7, 1.0)):
        with pytest.raises(ValueError, match="no interval"):
            wilson_interval(successes, trials, confidence=confidence)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_more_numbers_than_there_are_is_refused() -> None:
    model = random_model()
    measure_accuracy(model, NUMBERS, samples=2, seed=0)
    with pytest.raises(RefusedError, match=f"K = {NUMBERS + 1} is too large: the model knows {NUMBERS} numbers"):
        measure_accuracy(model, NUMBERS + 1, samples=2, seed=0)
    measure_accuracy(model, NUMBERS + 1, samples=2, seed=0, allow_duplicates=True)


def test_more_positions_than_the_model_has_is_refused() -> None:
    model = random_model(without_pos=False, max_seq_len=14)
    measure_accuracy(model, 7, samples=2, seed=0)  # 7 numbers, the separator, and 6 that were sorted
    with pytest.raises(RefusedError, match=r"K = 8 is too long: .* for 14 tokens, enough for K = 7"):
        measure_accuracy(model, 8, samples=2, seed=0)
    measure_accuracy(random_model(max_seq_len=14), 8, samples=2, seed=0)  # without positions, there is no end


@pytest.mark.parametrize("values", [{"samples": 0}, {"k": 0}, {"batch_size": 0}])
def test_nothing_to_measure_is_refused(values: dict[str, int]) -> None:
    wanted: dict[str, Any] = {"k": 3, "samples": 3, "batch_size": 3}
    measure = partial(measure_accuracy, random_model(), seed=0)
    measure(**wanted)
    with pytest.raises(UsageError, match="cannot measure"):
        measure(**{**wanted, **values})
