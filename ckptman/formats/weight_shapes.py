"""Names and shapes of a model's weights, derived from its configuration without building it.

They are those of the published checkpoints and of `ckptman.GPT`; this module needs no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptman.rules import TrainConfig

MLP_RATIO = 3
"""Width of the MLP's hidden layer over that of the embedding; the same as `training.model.MLP_RATIO`."""

Shape = tuple[int, ...]

_DERIVED = {"total_vocab_size", "sep_id", "max_seq_len", "grad_accum_steps", "amp_dtype", "device"}
"""What the published trainer writes into a configuration beside its fields."""
_KNOWN_KEYS = frozenset({field.name for field in dataclasses.fields(TrainConfig)} | _DERIVED)
_MOST_LAYERS = 10_000
"""Blocks whose weights are listed one by one: more than a checkpoint that can be read has tensors."""
_BLOCK = re.compile(r"transformer\.h\.([0-9]{1,6})\..+")


@dataclass(frozen=True)
class ExpectedWeights:
    """What a configuration says about the weights of its model."""

    shapes: Mapping[str, Shape]
    """By weight name."""
    layers: int
    """Number of blocks."""
    complete: bool
    """Whether `shapes` lists all weights. A configuration with keys that the built-in model does not know, such as a
    kind of normalization or a gate, may have others, of other shapes: then it lists those that every variant has.
    The same for an absurd number of layers."""

    def differences(self, found: Mapping[str, Shape]) -> list[str]:
        """How the weights of a checkpoint differ from these, in sentences, by weight name."""
        differences = [
            f"{name} has shape {_text(found[name])} instead of {_text(shape)}"
            if name in found
            else f"{name} is missing {_text(shape)}"
            for name, shape in self.shapes.items()
            if found.get(name) != shape
        ]
        if self.complete:
            differences += [f"{name} {_text(found[name])} is not expected" for name in found if name not in self.shapes]
        else:
            differences += self._wrong_blocks(found)
        return sorted(differences)

    def _wrong_blocks(self, found: Iterable[str]) -> list[str]:
        blocks = {int(match[1]) for name in found if (match := _BLOCK.fullmatch(name))}
        # A configuration may claim any number of layers; the first that is missing says enough.
        missing = next((block for block in range(self.layers) if block not in blocks), None)
        said = [] if missing is None else [f"transformer.h.{missing} is missing (of {self.layers} blocks)"]
        return said + [f"transformer.h.{block} is not expected" for block in blocks if block >= self.layers]


def expected_weights(config: Mapping[str, Any]) -> ExpectedWeights | None:
    """The weights that a model with this configuration has.

    With V = vocab_n + 1 tokens, C = n_embd and T = 2 · test_max_k + 1 positions: embeddings (V, C) and (T, C), in each
    block attention (3 C, C) and (C, C) with biases, an MLP (3 C, C) and (C, 3 C) with biases where there is one, layer
    norms (C) where there are any, and the output head (V, C).

    Returns:
        None for a configuration that lacks a key that decides shapes, or holds something else than a number there.
    """
    sizes = [config.get(key) for key in ("vocab_n", "n_embd", "n_layers", "test_max_k")]
    switches = [config.get(key) for key in ("use_mlp", "use_layernorm")]
    if not all(type(size) is int and size > 0 for size in sizes) or not all(type(on) is bool for on in switches):
        return None
    vocab, width, layers, longest = (int(size) for size in sizes if size is not None)
    tokens = vocab + 1  # the separator
    shapes: dict[str, Shape] = {"transformer.wte.weight": (tokens, width), "lm_head.weight": (tokens, width)}
    variant = any(value for key, value in config.items() if key not in _KNOWN_KEYS)  # switched off, it changes nothing
    complete = not variant and layers <= _MOST_LAYERS
    if complete:
        shapes["transformer.wpe.weight"] = (2 * longest + 1, width)
        for block in range(layers):
            shapes |= _block(f"transformer.h.{block}", width, mlp=switches[0] is True, norm=switches[1] is True)
        if switches[1]:
            shapes |= _norm("transformer.ln_f", width)
    return ExpectedWeights(shapes=shapes, layers=layers, complete=complete)


def _block(name: str, width: int, *, mlp: bool, norm: bool) -> dict[str, Shape]:
    hidden = MLP_RATIO * width
    shapes = _linear(f"{name}.attn.c_attn", width, 3 * width) | _linear(f"{name}.attn.c_proj", width, width)
    if norm:
        shapes |= _norm(f"{name}.ln_1", width)
    if mlp:
        shapes |= _linear(f"{name}.mlp.fc_1", width, hidden) | _linear(f"{name}.mlp.fc_2", hidden, width)
        if norm:
            shapes |= _norm(f"{name}.ln_2", width)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
