from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ckptman.formats.weight_shapes import expected_weights
from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import UsageError
from ckptman.training.model import COMPILED_PREFIX, GPT, GPTConfig


def model_of(*, seed: int = 0, **values: Any) -> GPT:
    shape: dict[str, Any] = {"block_size": 8, "vocab_size": 129, "n_layers": 2}
    return GPT(GPTConfig(**shape | values), generator=torch.Generator().manual_seed(seed))


def tokens_of(samples: int, length: int, *, seed: int = 0) -> Tensor:
    return torch.randint(129, (samples, length), generator=torch.Generator().manual_seed(seed))


VARIANTS = [
    {"n_layers": layers, "use_mlp": mlp, "use_layernorm": norm}
    for layers in (1, 2)
    for mlp in (False, True)
    for norm in (False, True)
]


LATER_VARIANTS: list[dict[str, Any]] = [
    {"norm_type": "rmsnorm"},
    {"norm_type": "none"},
    {"use_qk_norm": True},
    {"use_qk_norm": True, "use_rms_qk_norm": True},
    {"use_gated_attention": True},
    {"use_elementwise_attn_output_gate": True, "norm_type": "rmsnorm"},
    {"use_gated_attention": True, "use_elementwise_attn_output_gate": True},
]


# --- names and shapes -------------------------------------------------------------------------------------------------


def test_weight_names_and_shapes_of_one_layer_without_mlp() -> None:
    """Those of a published checkpoint, in its order."""
    model = model_of(n_layers=1, use_mlp=False)
    assert [(name, tuple(value.shape)) for name, value in model.state_dict().items()] == [
        ("transformer.wte.weight", (129, 128)),
        ("transformer.wpe.weight", (65, 128)),
        ("transformer.h.0.attn.c_attn.weight", (384, 128)),
        ("transformer.h.0.attn.c_attn.bias", (384,)),
        ("transformer.h.0.attn.c_proj.weight", (128, 128)),
        ("transformer.h.0.attn.c_proj.bias", (128,)),
        ("transformer.h.0.ln_1.weight", (128,)),
        ("transformer.h.0.ln_1.bias", (128,)),
        ("transformer.ln_f.weight", (128,)),
        ("transformer.ln_f.bias", (128,)),
        ("lm_head.weight", (129, 128)),
    ]


def test_weight_names_and_shapes_of_a_block_with_mlp() -> None:
    state = model_of().state_dict()
    assert {name.removeprefix("transformer.h.1."): tuple(state[name].shape) for name in state if ".h.1." in name} == {
        "attn.c_attn.weight": (384, 128),
        "attn.c_attn.bias": (384,),
        "attn.c_proj.weight": (128, 128),
        "attn.c_proj.bias": (128,),
        "ln_1.weight": (128,),
        "ln_1.bias": (128,),
        "mlp.fc_1.weight": (384, 128),
        "mlp.fc_1.bias": (384,),
        "mlp.fc_2.weight": (128, 384),
        "mlp.fc_2.bias": (128,),
        "ln_2.weight": (128,),
        "ln_2.bias": (128,),
    }


@pytest.mark.parametrize("values", VARIANTS)
def test_weights_are_those_expected_of_the_configuration(values: dict[str, Any]) -> None:
    config = TrainConfig(**values)
    expected = expected_weights(config.to_dict())
    assert expected is not None
    found = {name: tuple(value.shape) for name, value in GPT(GPTConfig.from_train_config(config)).state_dict().items()}
    assert expected.differences(found) == []
    found.pop("transformer.h.0.attn.c_attn.bias")
    assert expected.differences(found) != []


def test_the_head_is_the_embedding() -> None:
    model = model_of()
    assert model.lm_head.weight is model.wte.weight
    assert "lm_head.weight" not in dict(model.named_parameters())
    with torch.no_grad():
        model.wte.weight[5] += 1
    assert torch.equal(model.state_dict()["lm_head.weight"], model.wte.weight)


# --- initial weights --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_initial_weights(layers: int) -> None:
    for name, parameter in model_of(n_layers=layers).named_parameters():
        if name == "transformer.wpe.weight":
            assert not parameter.any()
        elif parameter.dim() == 2:
            std = 0.02 / math.sqrt(2 * layers) if name.endswith("attn.c_proj.weight") else 0.02
            count = parameter.numel()
            assert abs(float(parameter.mean())) < 5 * std / math.sqrt(count), name
            assert abs(float(parameter.std()) / std - 1) < 5 / math.sqrt(2 * count), name
            kurtosis = float((parameter / std).pow(4).mean())
            assert abs(kurtosis - 3) < 5 * math.sqrt(96 / count), name  # normal, not uniform: that has 1.8
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name


@torch.no_grad()
def test_xavier_initialization() -> None:
    model = model_of(use_xavier_init=True, use_elementwise_attn_output_gate=True)
    for name, parameter in model.named_parameters():
        if name == "transformer.wpe.weight":
            assert not parameter.any()
        elif parameter.dim() == 2:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.98 * bound < float(parameter.abs().max()) <= bound, name
            assert abs(float(parameter.std()) * math.sqrt(3) / bound - 1) < 0.03, name  # uniform
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name


@torch.no_grad()
def test_positions_are_initialized_where_they_are_used() -> None:
    model = model_of(without_pos=False)
    assert abs(float(model.wpe.weight.std()) / 0.02 - 1) < 0.1
    assert model.wpe.weight.requires_grad
    assert not model_of().wpe.weight.requires_grad


def test_initial_weights_depend_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = model_of(seed=7).state_dict()
    torch.manual_seed(2)
    second = model_of(seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = model_of(seed=8).state_dict()
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_without_a_generator_the_global_one_is_used() -> None:
    def model() -> GPT:
        return GPT(GPTConfig(block_size=4, vocab_size=9, n_layers=1))

    torch.manual_seed(1)
    first = model().wte.weight
    torch.manual_seed(1)
    assert torch.equal(model().wte.weight, first)
    assert not torch.equal(model().wte.weight, first)


# --- the forward pass -------------------------------------------------------------------------------------------------


def by_formula(state: dict[str, Tensor], tokens: list[int], *, layers: int, heads: int, positions: bool) -> Tensor:
    """The logits of one sequence, from the weights by name and the formulas alone: (T, V)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].t() + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in state:
            return x
        if f"{name}.bias" not in state:
            return x / (x.square().mean(dim=1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]
        centered = x - x.mean(dim=1, keepdim=True)
        variance = centered.square().mean(dim=1, keepdim=True)
        return centered / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = state["transformer.wte.weight"][tokens]
    if positions:
        x = x + state["transformer.wpe.weight"][: len(tokens)]
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        read = norm(x, f"{block}.ln_1")
        qkv = linear(read, f"{block}.attn.c_attn")
        mixed = []
        for q, k, v in zip(*(part.chunk(heads, dim=1) for part in qkv.chunk(3, dim=1)), strict=True):
            q, k = norm(q, f"{block}.attn.q_norm"), norm(k, f"{block}.attn.k_norm")
            scores = q @ k.t() / math.sqrt(q.shape[1])
            past = torch.ones_like(scores).tril() == 1
            mixed.append(torch.softmax(scores.masked_fill(~past, -math.inf), dim=1) @ v)
        if f"{block}.attn.c_gate.weight" in state:
            gates = 1 / (1 + torch.exp(-linear(read, f"{block}.attn.c_gate")))
            mixed = [y * gate for y, gate in zip(mixed, gates.chunk(heads, dim=1), strict=True)]
        x = x + linear(torch.cat(mixed, dim=1), f"{block}.attn.c_proj")
        if f"{block}.mlp.fc_1.weight" in state:
            x = x + linear(gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.fc_1")), f"{block}.mlp.fc_2")
    return norm(x, "transformer.ln_f") @ state["lm_head.weight"].t()


@torch.no_grad()
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("values", [*VARIANTS, *LATER_VARIANTS])
def test_the_forward_pass_is_that_of_the_formulas(values: dict[str, Any], heads: int, positions: bool) -> None:
    model = model_of(n_heads=heads, without_pos=not positions, n_embd=16, **values).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.mul_(8).add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.1)
    tokens = tokens_of(3, 11)
    options: dict[str, Any] = {"layers": model.config.n_layers, "heads": heads, "positions": positions}
    state = model.state_dict()
    expected = torch.stack([by_formula(state, row, **options) for row in tokens.tolist()])
    assert model(tokens).shape == (3, 11, 129)
    assert torch.allclose(model(tokens), expected, rtol=1e-10, atol=1e-12)
    state["transformer.h.0.attn.c_proj.bias"][0] += 1e-6  # the control; the state shares the model's memory
    assert not torch.allclose(model(tokens), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("values", VARIANTS)
def test_no_position_sees_a_later_one(values: dict[str, Any]) -> None:
    model = model_of(**values).double()
    tokens = tokens_of(4, 11)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 129
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :6], after[:, :6], rtol=1e-12, atol=1e-12)
    assert bool((before[:, 6:] != after[:, 6:]).flatten(2).any(dim=2).all())  # each of these sees the change


@torch.no_grad()
def test_without_positions_the_order_of_the_past_has_no_influence_on_one_layer() -> None:
    tokens = tokens_of(4, 11)
    shuffled = torch.cat([tokens[:, :10].flip(1), tokens[:, 10:]], dim=1)
    without, with_positions = (model_of(n_layers=1, without_pos=flag).double() for flag in (True, False))
    assert torch.allclose(without(tokens)[:, 10], without(shuffled)[:, 10], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(with_positions(tokens)[:, 10], with_positions(shuffled)[:, 10], rtol=1e-6)


def test_positions_bound_the_length() -> None:
    model = model_of(without_pos=False, max_seq_len=9)
    assert model(tokens_of(1, 9)).shape == (1, 9, 129)
    with pytest.raises(UsageError, match="longer than max_seq_len = 9") as caught:
        model(tokens_of(1, 10))
    assert caught.value.code == "sequence-too-long"
    assert model_of(max_seq_len=9)(tokens_of(1, 10)).shape == (1, 10, 129)


# --- saving and configuring -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("values", VARIANTS)
def test_a_model_loaded_from_its_saved_state_is_the_same(values: dict[str, Any]) -> None:
    model, file = model_of(seed=3, **values), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = model_of(seed=4, **values)
    tokens = tokens_of(2, 9)
    assert not torch.equal(other(tokens), model(tokens))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(tokens), model(tokens))
    assert other.lm_head.weight is other.wte.weight


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_a_compiled_model_are_taken(whole: bool) -> None:
    model, other = model_of(seed=1), model_of(seed=2)
    saved = {f"{COMPILED_PREFIX}{name}": value for name, value in model.state_dict().items()}
    names = list(saved)
    if whole:
        other.load_state_dict(saved)
        assert torch.equal(other.wte.weight, model.wte.weight)
        assert other.lm_head.weight is other.wte.weight
    else:
        with pytest.raises(RuntimeError, match="Unexpected key"):
            other.load_state_dict({f"module.{name}": value for name, value in saved.items()})
    assert list(saved) == names


def test_the_prefix_is_torchs_own_and_the_conventions() -> None:
    compiled = torch.compile(model_of(), backend="eager")
    assert all(name.startswith(COMPILED_PREFIX) for name in compiled.state_dict())  # type: ignore[attr-defined]
    compiled.load_state_dict(compiled.state_dict())  # type: ignore[attr-defined]
    assert built_in().checkpoint.compiled_prefix == COMPILED_PREFIX


def test_a_model_is_made_from_a_training_configuration() -> None:
    config = TrainConfig(vocab_n=50, n_layers=2, train_max_k=5, test_max_k=20, n_embd=32, n_heads=2, use_mlp=True)
    assert GPTConfig.from_train_config(config) == GPTConfig(
        block_size=5, vocab_size=51, n_layers=2, n_heads=2, n_embd=32, use_mlp=True, max_seq_len=41
    )


@pytest.mark.parametrize(
    "values", [{"vocab_size": 0}, {"n_layers": 0}, {"n_heads": 0}, {"n_embd": 0}, {"max_seq_len": 0}, {"n_heads": 3}]
)
def test_shapes_that_make_no_model_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))) as caught:
        model_of(**values)
    assert caught.value.code == "bad-config"


@torch.no_grad()
def test_the_untrained_model_knows_nothing() -> None:
    tokens = tokens_of(64, 9)
    logits = model_of()(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(129), abs=0.3)
