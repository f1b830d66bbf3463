"""The GPT of the experiments: plain, whole, read in one sitting.

    model = GPT(GPTConfig(block_size=16, vocab_size=129, n_layers=1))
    logits = model(tokens)  # (B, T) -> (B, T, vocab_size)

This forward is the reference: what `ckptman.train_step` computes faster must equal it. Weight names, shapes and order
are those of the published checkpoints, so that `load_state_dict` takes them as they are, with the names that a compiled
model gives them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from ckptman.rules import TrainConfig, recipe
from ckptman.text import UsageError

MLP_RATIO = 3
"""Width of the MLP's hidden layer over that of the embedding."""

INIT_STD = 0.02
"""Standard deviation of the normal initialization of every weight matrix, before `c_proj` of attention is scaled."""

RMS_EPS = 1e-6
"""What an RMS norm adds to the mean square."""

COMPILED_PREFIX = "_orig_mod."
"""What `torch.compile` puts before the name of each weight: the attribute that its wrapper keeps the model in."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of a model.

    Raises:
        UsageError: at construction, where the values do not fit together.
    """

    block_size: int
    """Longest trained list, K. Recorded by the published trainer; nothing in the model depends on it."""
    vocab_size: int
    """Number of tokens, the separator included."""
    n_layers: int
    n_heads: int = 1
    n_embd: int = 128
    without_pos: bool = True
    """No positional embedding: the `wpe` table exists, holds zeros, and is neither read nor trained."""
    use_mlp: bool = True
    use_layernorm: bool = True
    max_seq_len: int = 65
    """Rows of the `wpe` table; with positions, also the longest sequence that the model takes."""
    norm_type: str | None = None
    """`none`, `layernorm` or `rmsnorm`; where it is None, `use_layernorm` tells between the first two."""
    use_qk_norm: bool = False
    use_rms_qk_norm: bool = False
    """RMS norm of queries and keys, where `use_qk_norm` is on, instead of LayerNorm."""
    use_gated_attention: bool = False
    use_elementwise_attn_output_gate: bool = False
    """One gate a feature, in place of one a head."""
    use_xavier_init: bool = False

    def __post_init__(self) -> None:
        if self.norm_type is not None and self.norm_type not in recipe.NORM_TYPES:
            raise UsageError(f"norm_type must be one of {', '.join(recipe.NORM_TYPES)}", code="bad-config")
        for name in ("vocab_size", "n_layers", "n_heads", "n_embd", "max_seq_len"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}", code="bad-config")
        if self.n_embd % self.n_heads:
            raise UsageError(f"n_embd = {self.n_embd} is not a multiple of n_heads = {self.n_heads}", code="bad-config")

    @classmethod
    def from_train_config(cls, config: TrainConfig) -> GPTConfig:
        """The model that a run with this configuration trains."""
        return cls(
            block_size=config.train_max_k,
            vocab_size=config.total_vocab_size,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_embd=config.n_embd,
            without_pos=config.without_pos,
            use_mlp=config.use_mlp,
            use_layernorm=config.use_layernorm,
            max_seq_len=config.max_seq_len,
            norm_type=config.norm_type,
            use_qk_norm=config.use_qk_norm,
            use_rms_qk_norm=config.use_rms_qk_norm,
            use_gated_attention=config.use_gated_attention,
            use_elementwise_attn_output_gate=config.use_elementwise_attn_output_gate,
            use_xavier_init=config.use_xavier_init,
        )

    @property
    def variant(self) -> recipe.Variant:
        """What the layers are made of, beside the MLP."""
        return recipe.Variant.of(vars(self))


class SelfAttention(nn.Module):
    """Causal self-attention with `n_heads` heads; in variants, with normalized queries and keys, or a gated output."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        variant, head = config.variant, config.n_embd // config.n_heads
        gates = variant.gates(config.n_heads, config.n_embd)
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.q_norm, self.k_norm = _norm(variant.qk_norm, head), _norm(variant.qk_norm, head)
        self.c_gate = nn.Linear(config.n_embd, gates) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """Mix each position with those before it: (B, T, C) -> (B, T, C)."""
        batch, length, width = x.shape
        heads = (batch, length, self.n_heads, width // self.n_heads)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).split(width, dim=2))  # (B, H, T, C / H)
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=True)  # (B, H, T, C / H)
        return self.project(y, x)

    def project(self, y: Tensor, x: Tensor) -> Tensor:
        """Gate and project what the heads give, (B, H, T, C / H), for the positions that read x: -> (B, T, C)."""
        y = y.transpose(1, 2)  # (B, T, H, C / H)
        if self.c_gate is not None:
            y = y * torch.sigmoid(self.c_gate(x)).view(*y.shape[:3], -1)  # (B, T, H, 1 or C / H)
        return cast(Tensor, self.c_proj(y.flatten(2)))


class MLP(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(config.n_embd, MLP_RATIO * config.n_embd)
        self.fc_2 = nn.Linear(MLP_RATIO * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position by itself: (B, T, C) -> (B, T, C)."""
        return cast(Tensor, self.fc_2(F.gelu(self.fc_1(x), approximate="tanh")))  # hidden: (B, T, 3 C)


class Block(nn.Module):
    """One pre-norm block: attention, then the MLP where there is one, each added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        # The order of these lines is the order of the parameters in published optimizer states.
        self.attn = SelfAttention(config)
        self.ln_1 = _norm(config.variant.norm, config.n_embd)
        self.mlp = MLP(config) if config.use_mlp else None
        self.ln_2 = _norm(config.variant.norm, config.n_embd) if config.use_mlp else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        if self.mlp is not None and self.ln_2 is not None:
            x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """Token embedding, blocks, final norm, and an output head tied to the embedding.

    Args:
        config: Shape of the model.
        generator: Source of the initial weights (on the CPU); PyTorch's global one by default.
    """

    def __init__(self, config: GPTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.max_seq_len, config.n_embd),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": _norm(config.variant.norm, config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        self._initialize(generator)
        self.register_load_state_dict_pre_hook(_strip_compiled_prefix)  # type: ignore[no-untyped-call]  # by torch

    @property
    def wte(self) -> nn.Embedding:
        """The token embedding; its weight, (vocab_size, n_embd), is the output head's too."""
        return cast(nn.Embedding, self.transformer["wte"])

    @property
    def wpe(self) -> nn.Embedding:
        """The positional embedding: weight (max_seq_len, n_embd), zeros and frozen when `without_pos`."""
        return cast(nn.Embedding, self.transformer["wpe"])

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(cast(nn.ModuleList, self.transformer["h"])))

    @property
    def ln_f(self) -> nn.Module:
        """The final norm, or an identity where there is none."""
        return self.transformer["ln_f"]

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the token after each position.

        Args:
            tokens: Token ids, (B, T).

        Returns:
            Logits, (B, T, vocab_size).

        Raises:
            UsageError: with positions, for a sequence longer than `max_seq_len`.
        """
        x = self.wte(tokens)  # (B, T, C)
        if not self.config.without_pos:
            length = tokens.shape[1]
            if length > self.config.max_seq_len:
                raise UsageError(
                    f"a sequence of {length} tokens is longer than max_seq_len = {self.config.max_seq_len}",
                    code="sequence-too-long",
                    fix="build the model with a larger max_seq_len, or use shorter lists",
                )
            x = x + self.wpe(torch.arange(length, device=tokens.device))  # (T, C), the same for every sample
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.lm_head(self.ln_f(x)))  # (B, T, V)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator | None) -> None:
        """N(0, 0.02) for matrices, attention's `c_proj` scaled by (2 · layers)^-0.5; biases zero, gains one.

        With `use_xavier_init`, matrices are uniform in ± (6 / (rows + columns))^0.5.
        """
        for name, parameter in self.named_parameters():  # the tied head comes once, as wte
            if self.config.use_xavier_init and parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            elif name.endswith("attn.c_proj.weight"):
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * self.config.n_layers), generator=generator)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=INIT_STD, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if self.config.without_pos:
            nn.init.zeros_(self.wpe.weight)
            self.wpe.weight.requires_grad_(False)


def _strip_compiled_prefix(model: nn.Module, weights: dict[str, Any], prefix: str, *_: object) -> None:
    """Let `load_state_dict` take the weights of a compiled model. It hands over a copy, which is changed in place."""
    for name in [name for name in weights if name.startswith(prefix + COMPILED_PREFIX)]:
        weights[prefix + name.removeprefix(prefix + COMPILED_PREFIX)] = weights.pop(name)


def _norm(kind: str, width: int) -> nn.Module:
    """LayerNorm; or x · (mean x² + 1e-6)^-0.5 · weight; or nothing."""
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps=RMS_EPS)
    return nn.LayerNorm(width) if kind == "layernorm" else nn.Identity()
