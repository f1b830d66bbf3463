"""The expected weights are those of the model itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ckptman.formats import weight_shapes
from ckptman.formats.weight_shapes import expected_weights
from ckptman.training import model
from ckptman.training.model import GPT, GPTConfig
from tests.helpers.raw import config


def shapes_of(**values: Any) -> dict[str, tuple[int, ...]]:
    """The weights of a model that was built."""
    built = GPT(GPTConfig.from_train_config(config(**values)))
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def test_the_mlp_is_as_wide_as_the_models() -> None:
    assert weight_shapes.MLP_RATIO == model.MLP_RATIO


@pytest.mark.parametrize(
    ("layers", "mlp", "norm", "pos"), list(itertools.product((1, 2), (True, False), (True, False), (True, False)))
)
def test_they_are_the_models(layers: int, mlp: bool, norm: bool, pos: bool) -> None:
    values = {"n_layers": layers, "use_mlp": mlp, "use_layernorm": norm, "without_pos": not pos, "test_max_k": 20}
    expected = expected_weights(config(**values).to_dict())
    assert expected is not None
    assert expected.complete
    assert dict(expected.shapes) == shapes_of(**values)
    assert expected.differences(shapes_of(**values)) == []


def test_differences_are_named() -> None:
    expected = expected_weights(config(use_mlp=False).to_dict())
    assert expected is not None
    found = shapes_of(use_mlp=False)
    del found["transformer.ln_f.bias"]
    found["transformer.wte.weight"] = (128, 8)
    found["transformer.h.1.attn.c_attn.bias"] = (24,)
    assert expected.differences(found) == [
        "transformer.h.1.attn.c_attn.bias (24) is not expected",
        "transformer.ln_f.bias is missing (8)",
        "transformer.wte.weight has shape (128, 8) instead of (129, 8)",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"norm_type": "rmsnorm", "use_mlp": True},
        {"norm_type": "none", "use_layernorm": False},
        {"use_qk_norm": True, "n_heads": 2},
        {"use_qk_norm": True, "use_rms_qk_norm": True},
        {"use_rms_qk_norm": True},
        {"use_gated_attention": True, "n_heads": 4},
        {"use_gated_attention": True, "use_elementwise_attn_output_gate": True, "use_xavier_init": True},
    ],
)
def test_they_are_those_of_every_variant(values: dict[str, Any]) -> None:
    expected = expected_weights(config(n_layers=2, **values).to_dict())
    assert expected is not None
    assert expected.complete
    assert dict(expected.shapes) == shapes_of(n_layers=2, **values)


def test_a_tied_head_and_the_bias_of_a_gate_may_be_absent() -> None:
    expected = expected_weights(config(use_gated_attention=True).to_dict())
    assert expected is not None
    found = shapes_of(use_gated_attention=True)
    for name in ("lm_head.weight", "transformer.h.0.attn.c_gate.bias"):
        del found[name]
    assert expected.differences(found) == []
    del found["transformer.h.0.attn.c_gate.weight"]
    assert expected.differences(found) == ["transformer.h.0.attn.c_gate.weight is missing (1, 8)"]


def test_of_an_unknown_variant_only_what_every_variant_has_is_checked() -> None:
    variant = config(n_layers=2).to_dict() | {"rotary": True}
    expected = expected_weights(variant)
    assert expected is not None
    assert not expected.complete
    found = shapes_of(n_layers=2)
    del found["transformer.h.0.ln_1.bias"]
    found["transformer.h.0.attn.gate.weight"] = (1, 8)
    assert expected.differences(found) == []
    # The rest can still be wrong.
    assert expected.differences(shapes_of(n_layers=1)) == ["transformer.h.1 is missing (of 2 blocks)"]
    assert expected.differences(shapes_of(n_layers=3)) == ["transformer.h.2 is not expected"]
    assert len(expected.differences(shapes_of(n_layers=2, n_embd=16))) == 2


def test_an_absurd_number_of_layers_takes_no_time() -> None:
    expected = expected_weights(config().to_dict() | {"n_layers": 10**30})
    assert expected is not None
    assert expected.differences(shapes_of(n_layers=2)) == [f"transformer.h.2 is missing (of {10**30} blocks)"]


def test_keys_that_are_off_do_not_make_a_variant() -> None:
    off = config().to_dict() | {"use_qk_norm": False, "train_k_choices": None, "max_seq_len": 65, "device": "cuda"}
    expected = expected_weights(off)
    assert expected is not None
    assert expected.complete


@pytest.mark.parametrize(
    "broken", [{"n_embd": None}, {"n_layers": 0}, {"vocab_n": True}, {"use_mlp": 1}, {"test_max_k": "32"}]
)
def test_nothing_is_expected_of_a_configuration_that_does_not_decide_shapes(broken: dict[str, Any]) -> None:
    assert expected_weights(config().to_dict()) is not None
    assert expected_weights(config().to_dict() | broken) is None
