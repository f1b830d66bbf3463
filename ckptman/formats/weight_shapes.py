"""Names and shapes of a model's weights, derived from its configuration without building it.

They are those of the published checkpoints and of `ckptman.GPT`; this module needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ckptman.rules import convention_file, recipe, terms

MLP_RATIO = 3
"""Width of the MLP's hidden layer over that of the embedding; the same as `training.model.MLP_RATIO`."""

AVERAGED: Final = "n_averaged"
"""What `AveragedModel` counts under."""

Shape = tuple[int, ...]

_MOST_LAYERS = 10_000
"""Blocks whose weights are listed one by one: more than a checkpoint that can be read has tensors."""
_BLOCK = re.compile(r"transformer\.h\.([0-9]{1,6})\..+")
_MASKS = (".attn.bias", ".attn.mask", ".attn.causal_mask", ".attn.masked_bias")
_MASK = re.compile(rf"transformer\.h\.[0-9]{{1,6}}({'|'.join(map(re.escape, _MASKS))})")


@dataclass(frozen=True)
class ExpectedWeights:
    """What a configuration says about the weights of its model."""

    shapes: Mapping[str, Shape]
    """By weight name."""
    layers: int
    """Number of blocks."""
    complete: bool
    """Whether `shapes` lists all weights. A configuration with keys that the built-in model does not know may have
    others, of other shapes: then it lists those that every variant has. The same for an absurd number of layers."""

    def differences(self, found: Mapping[str, Shape]) -> list[str]:
        """How the weights of a checkpoint differ from these, in sentences, by weight name."""
        if self.complete and found == self.shapes:
            return []
        differences = [
            f"{name} has shape {_text(found[name])} instead of {_text(shape)}"
            if name in found
            else f"{name} is missing {_text(shape)}"
            for name, shape in self.shapes.items()
            if found.get(name) != shape and not (name not in found and is_optional(name))
        ]
        if self.complete:
            others = (
                name
                for name, shape in found.items()
                if name not in self.shapes and not is_of_wrapper(name, shape) and not is_mask(name, shape)
            )
            differences += [f"{name} {_text(found[name])} is not expected" for name in others]
        else:
            differences += self._wrong_blocks(found)
        return sorted(differences)

    def _wrong_blocks(self, found: Iterable[str]) -> list[str]:
        blocks = {int(match[1]) for name in found if (match := _BLOCK.fullmatch(name))}
        # A configuration may claim any number of layers; the first that is missing says enough.
        missing = next((block for block in range(self.layers) if block not in blocks), None)
        said = [] if missing is None else [f"transformer.h.{missing} is missing (of {self.layers} blocks)"]
        return said + [f"transformer.h.{block} is not expected" for block in blocks if block >= self.layers]


def is_optional(name: str) -> bool:
    """Whether a model is whole without this weight: the tied head, or the bias of a gate, which is then zero."""
    return name == "lm_head.weight" or name.endswith(".attn.c_gate.bias")


def is_of_wrapper(name: str, shape: Shape) -> bool:
    """Whether it is what `AveragedModel` adds to the weights of the model in it: how many were averaged."""
    return name == AVERAGED and not shape


def is_mask(name: str, shape: Shape) -> bool:
    """Whether it is, by name and shape, what attention without a fused kernel keeps beside its weights.

    That is the causal mask, (1, 1, T, T), or the number that GPT-2 of transformers hides with. `loading.load` looks at
    their values.
    """
    if not name.endswith(_MASKS) or _MASK.fullmatch(name) is None:  # the first is soon done for all that are none
        return False
    return not shape if name.endswith("masked_bias") else len(shape) == 4 and shape == (1, 1, shape[3], shape[3])


def expected_weights(config: Mapping[str, Any], model: terms.ModelRules | None = None) -> ExpectedWeights | None:
    """The weights that a model with this configuration has.

    With V = vocab_n + 1 tokens, C = n_embd, H heads and T = 2 · test_max_k + 1 positions: embeddings (V, C) and (T, C);
    in each block attention (3 C, C) and (C, C) with biases, an MLP (3 C, C) and (C, 3 C) with biases where there is
    one, norms (C) where there are any, norms of queries and keys (C / H), a gate (H, C) or (C, C) with bias; and the
    output head (V, C). A LayerNorm has a bias, an RMS norm has none.

    Args:
        config: A training configuration.
        model: Says which of its keys have no effect on the model; the built-in rules by default.

    Returns:
        None for a configuration that lacks a key that decides shapes, or holds something else than a number there.
    """
    sizes = [config.get(key) for key in ("vocab_n", "n_embd", "n_layers", "test_max_k")]
    switches = [config.get(key) for key in ("use_mlp", recipe.NORM_SWITCH)]
    if not all(type(size) is int and size > 0 for size in sizes) or not all(type(on) is bool for on in switches):
        return None
    vocab, width, layers, longest = (int(size) for size in sizes if size is not None)
    heads, norm = config.get("n_heads", 1), recipe.Variant.of(config).norm
    known = norm in recipe.NORM_TYPES and type(heads) is int and heads > 0 and not width % heads
    other = recipe.unknown_keys(config, model or convention_file.built_in().model)
    complete = known and not other and layers <= _MOST_LAYERS
    tokens = vocab + 1  # the separator
    if complete:
        shapes = _model_shapes(
            tokens, 2 * longest + 1, width, heads, layers, recipe.Variant.of(config), bool(switches[0])
        )
    else:
        shapes = dict.fromkeys(("transformer.wte.weight", "lm_head.weight"), (tokens, width))
    return ExpectedWeights(shapes=shapes, layers=layers, complete=complete)


def model_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """The weights of a model with this configuration, which has the names of `GPTConfig`."""
    sizes = (config[key] for key in ("vocab_size", "max_seq_len", "n_embd", "n_heads", "n_layers"))
    return _model_shapes.__wrapped__(*sizes, recipe.Variant.of(config), config["use_mlp"])


@lru_cache(maxsize=64)
def _model_shapes(
    tokens: int, longest: int, width: int, heads: int, layers: int, variant: recipe.Variant, mlp: bool
) -> dict[str, Shape]:
    """They are shared, and not to be changed."""
    shapes: dict[str, Shape] = dict.fromkeys(("transformer.wte.weight", "lm_head.weight"), (tokens, width))
    shapes["transformer.wpe.weight"] = (longest, width)
    for block in range(layers):
        shapes |= _block(f"transformer.h.{block}", width, heads, variant, mlp=mlp)
    return shapes | _norm("transformer.ln_f", width, variant.norm)


def _block(name: str, width: int, heads: int, variant: recipe.Variant, *, mlp: bool) -> dict[str, Shape]:
    hidden = MLP_RATIO * width
    shapes = _linear(f"{name}.attn.c_attn", width, 3 * width) | _linear(f"{name}.attn.c_proj", width, width)
    for part in ("q_norm", "k_norm"):
        shapes |= _norm(f"{name}.attn.{part}", width // heads, variant.qk_norm)
    if gates := variant.gates(heads, width):
        shapes |= _linear(f"{name}.attn.c_gate", width, gates)
    shapes |= _norm(f"{name}.ln_1", width, variant.norm)
    if mlp:
        shapes |= _linear(f"{name}.mlp.fc_1", width, hidden) | _linear(f"{name}.mlp.fc_2", hidden, width)
        shapes |= _norm(f"{name}.ln_2", width, variant.norm)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int, kind: str) -> dict[str, Shape]:
    parts = {recipe.LAYER_NORM: ("weight", "bias"), recipe.RMS_NORM: ("weight",)}.get(kind, ())
    return {f"{name}.{part}": (width,) for part in parts}


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
