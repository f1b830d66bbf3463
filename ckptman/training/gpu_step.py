"""Loss and gradients of one training step on a GPU, without the work that need not be done.

    result = loss_and_backward(model, tokens)  # adds to .grad, like torch.autograd.backward(loss)

It equals the plain step to rounding and leaves out what `train_step` leaves out, which is for CPUs, but for this:

* Only the attention of block 1 is by tables of tokens. Where a matrix product takes less time than to read its result
  again, rows that are looked up and added save nothing.
* Autograd does the backward. Its bookkeeping costs nothing in a captured graph (`updating`), and `torch.compile` makes
  few operations of many, where a compiler is there.

Shapes are as in `train_step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from ckptman.training.model import GPT, MLP
from ckptman.training.train_step import (
    DEVICE_PIECE_ROWS,
    NORM_EPS,
    LastBlock,
    Linear,
    StepResult,
    batch_shape,
    log_counts,
    log_sorted_counts,
    pairs,
    plain_loss_and_backward,
    result_of,
    why_plain,
)

LossOf = Callable[[GPT, Tensor], tuple[Tensor, Tensor]]

WIDTHS = 8
"""Logits are computed for a multiple of so many tokens: products of other widths are slower."""


def loss_and_backward(
    model: GPT, tokens: Tensor, *, piece_rows: int = DEVICE_PIECE_ROWS, compiled: LossOf | None = None
) -> StepResult:
    """Add the gradients of a batch's mean loss to the parameters' `.grad`; as `train_step.loss_and_backward`.

    Args:
        model: The model itself.
        tokens: A batch of the sorting task, (B, 2K + 1).
        piece_rows: Positions computed at once.
        compiled: `loss_of` by `torch.compile`.
    """
    samples, k = batch_shape(tokens)
    piece = max(1, piece_rows // (2 * k))
    if why_plain(model) is not None:
        return plain_loss_and_backward(model, tokens, piece_samples=piece)
    losses, right = [], []
    for part in torch.split(tokens, piece):
        loss, correct = (compiled or loss_of)(model, part)
        loss = loss / (samples * k)
        with torch.autocast(tokens.device.type, enabled=False):  # it would go for the products on the way back, too
            torch.autograd.backward(loss)
        losses.append(loss.detach())
        right.append(correct)
    return result_of(losses, right)


def loss_of(model: GPT, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy over a batch's sorted positions, (); where the right token is the likeliest, (B, K)."""
    device, k = tokens.device.type, tokens.shape[1] // 2
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.autocast(device, enabled=False):
        logits = _logits(model, tokens, low)  # (B, K, padded V)
        log_shares = torch.log_softmax(logits, dim=2)
        targets = tokens[:, k + 1 :, None]
        found = log_shares.gather(2, targets)
        right = found.detach() >= log_shares.detach().amax(2, keepdim=True)
        return -found.sum(), right.squeeze(2)


def _logits(model: GPT, tokens: Tensor, low: torch.dtype | None) -> Tensor:
    """(B, 2K + 1) -> (B, K, padded V)."""
    norms, k = model.config.variant.norm == "layernorm", tokens.shape[1] // 2
    x = _after_attention(model, tokens)  # (B, P, C)
    first, *between = model.blocks
    x = _after_mlp(first.mlp, first.ln_2, x, low)
    if between:
        for block in between[:-1]:
            with torch.autocast(tokens.device.type, low, enabled=low is not None, cache_enabled=False):
                x = block(x)
        x = _after_last_attention(LastBlock.of(between[-1], False), x, k, norms=norms, low=low)
        x = _after_mlp(between[-1].mlp, between[-1].ln_2, x, low)
    head = Linear.of(model.lm_head, model.ln_f)
    return _linear(_normalized(x, norms), head.widened(-(-model.config.vocab_size // WIDTHS) * WIDTHS))


def _after_attention(model: GPT, tokens: Tensor) -> Tensor:
    """The residual stream after block 1's attention, (B, P, C)."""
    k, embedding, attention = tokens.shape[1] // 2, model.wte.weight, model.blocks[0].attn
    queries, keys, values = attention.c_attn(model.blocks[0].ln_1(embedding)).chunk(3, dim=1)  # (V, C)
    scores = queries @ keys.t() / math.sqrt(queries.shape[1])
    if model.config.n_layers == 1:
        counts, read, context = log_sorted_counts(k, scores), tokens[:, k:-1], tokens[:, k:]
    else:
        counts, read, context = log_counts(tokens, scores), tokens[:, :-1], tokens[:, : k + 1]
    (samples, positions), n, width = read.shape, context.shape[1], embedding.shape[1]
    looked_up = scores.view(-1).index_select(0, pairs(read, context, len(scores))).view(samples, positions, n)
    weights = torch.softmax(looked_up + counts, dim=2)
    added = attention.c_proj(values).index_select(0, context.reshape(-1)).view(samples, n, width)
    own = embedding.index_select(0, read.reshape(-1)).view(samples, positions, width)
    return torch.baddbmm(own, weights, added)


def _after_last_attention(block: LastBlock, x: Tensor, k: int, *, norms: bool, low: torch.dtype | None) -> Tensor:
    """The stream after the last block's attention, at the sorted positions alone: (B, 2K, C) -> (B, K, C)."""
    seen = _normalized(x, norms)
    seen = seen if low is None else seen.to(low)
    queries = _linear(seen[:, k:], block.query)
    later = torch.full((k, 2 * k), -math.inf, dtype=seen.dtype, device=x.device).triu_(k + 1)
    weights = torch.softmax(torch.baddbmm(later, queries, seen.transpose(1, 2)), dim=2)  # (B, K, 2K)
    return x[:, k:] + _linear(torch.bmm(weights, seen), block.out)


def _after_mlp(mlp: MLP | None, norm: nn.Module | None, x: Tensor, low: torch.dtype | None) -> Tensor:
    """The stream after an MLP, where there is one."""
    if mlp is None:
        return x
    seen = _normalized(x, isinstance(norm, nn.LayerNorm))
    hidden = _linear(seen if low is None else seen.to(low), Linear.of(mlp.fc_1, norm))
    return x + _linear(F.gelu(hidden, approximate="tanh"), Linear.of(mlp.fc_2))


def _normalized(x: Tensor, norms: bool) -> Tensor:
    """Layer norm but for its gain and shift, which are folded into what reads it; or nothing."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) if norms else x


def _linear(x: Tensor, linear: Linear) -> Tensor:
    """x @ weightᵀ + bias, in the precision of x."""
    return F.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))
