"""How well a model sorts lists of one length: exact match and token accuracy, with an interval.

    accuracy = measure_accuracy(model, 32, samples=1000, seed=0)
    low, high = accuracy.interval

Two ways of predicting the K sorted numbers are told apart. *Teacher-forced*, each is predicted from the correct ones
before it: the metric that training logs. *Autoregressive*, the model reads its own output, as it must when it is used.

The most probable token is taken at each position, so the exact match is the same both ways: as long as every token is
right, the two read the same. They differ in the token accuracy, for a model that goes wrong once reads its own mistake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from ckptman.text import RefusedError, UsageError
from ckptman.training.model import GPT, MLP_RATIO, Block
from ckptman.training.sorting import draw_sequences
from ckptman.training.train_step import fast_logits
from ckptman.tree import metrics

CPU_BATCH_NUMBERS = 4_096 * 384
"""Numbers in the widest tensor of the positions read at once on a CPU: few enough for the caches."""
DEVICE_BATCH_POSITIONS = 1 << 17
"""Positions read at once on any other device, where it only bounds the memory."""
DECODING_BATCH = 256
"""Samples decoded at once, token by token: more than are predicted at once, for each step is a small one."""

_DRAW = 1_024  # samples drawn at a time, whatever the batch size, so that this does not change which ones they are


@dataclass(frozen=True)
class Accuracy:
    """How many of the samples of one length were sorted right."""

    k: int
    """Numbers in a list."""
    samples: int
    exact: int
    """Samples right at all K positions."""
    tokens: int
    """Positions that are right, of samples · K."""

    @property
    def exact_match(self) -> float:
        """Share of samples that are right at all K positions, 0 to 1."""
        return self.exact / self.samples

    @property
    def token_accuracy(self) -> float:
        """Share of positions that are right, 0 to 1."""
        return self.tokens / (self.samples * self.k)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of the exact match."""
        return metrics.wilson_interval(self.exact, self.samples)


def measure_accuracy(
    model: GPT,
    k: int,
    *,
    samples: int,
    seed: int,
    autoregressive: bool = False,
    allow_duplicates: bool = False,
    batch_size: int | None = None,
    report: Callable[[int], object] | None = None,
    predictor: Predictor | None = None,
) -> Accuracy:
    """Let a model sort random lists of K numbers, and count what is right.

    The samples depend on `seed`, `k`, `samples`, and the vocabulary alone: not on the model, the batch size, the device
    or whatever is measured before. The computation is in the weights' own floating-point type (float32), without
    autocast.

    Args:
        model: The model, on any device.
        k: Numbers in a list.
        samples: Lists to sort.
        seed: Chooses the lists.
        autoregressive: Let the model read its own output instead of the correct numbers.
        allow_duplicates: Draw the numbers with replacement, as a run does that was trained so.
        batch_size: Samples predicted at once; chosen for the caches by default.
        report: Called with the number of samples done since it was last called.
        predictor: The model's, where it is measured for several lengths; made for this one by default.

    Raises:
        UsageError: (`bad-samples`) for fewer than one sample or number.
        RefusedError: (`k-too-large`) where there are not K distinct numbers; (`sequence-too-long`) where the model's
            positional embedding has too few positions.
    """
    if samples < 1 or k < 1 or (batch_size is not None and batch_size < 1):
        raise UsageError(
            f"cannot measure {samples} samples of {k} numbers in batches of {batch_size}",
            code="bad-samples",
            fix="Ask for at least one sample, of at least one number.",
        )
    check_length(model, k, allow_duplicates=allow_duplicates)
    device = model.wte.weight.device
    report = report or _ignore
    exact = tokens = 0
    with torch.inference_mode():
        predictor = predictor or Predictor(model)
        for drawn in draw_samples(k, samples, model.config.vocab_size - 1, seed, allow_duplicates=allow_duplicates):
            wrong = []
            for batch in torch.split(drawn.to(device), batch_size or lists_at_once(model, k)):
                right = predictor.right(batch)  # (B, K)
                whole = right.all(dim=1)  # (B)
                exact += int(whole.sum())
                if autoregressive:  # what is wholly right, the model writes by itself as well
                    tokens += int(whole.sum()) * k
                    wrong.append(batch[~whole])
                else:
                    tokens += int(right.sum())
                report(int(whole.sum()) if autoregressive else len(batch))
            for batch in torch.split(torch.cat(wrong), batch_size or DECODING_BATCH) if wrong else ():
                if len(batch):
                    tokens += int((predictor.decode(batch[:, : k + 1]) == batch[:, k + 1 :]).sum())
                    report(len(batch))
    return Accuracy(k=k, samples=samples, exact=exact, tokens=tokens)


def check_length(model: GPT, k: int, *, allow_duplicates: bool = False) -> None:
    """Refuse a length for which the model has no numbers or no positions.

    Raises:
        RefusedError: (`k-too-large`, `sequence-too-long`).
    """
    numbers = model.config.vocab_size - 1
    if k > numbers and not allow_duplicates:
        raise RefusedError(
            f"K = {k} is too large: the model knows {numbers} numbers, and the numbers of a list are distinct",
            code="k-too-large",
            fix=f"Evaluate it on lists of at most {numbers} numbers: --k 2-{numbers}",
        )
    longest = model.config.max_seq_len // 2  # it reads K numbers, the separator and K - 1 sorted numbers
    if not model.config.without_pos and k > longest:
        raise RefusedError(
            f"K = {k} is too long: the model has a positional embedding for {model.config.max_seq_len} tokens, "
            f"enough for K = {longest}",
            code="sequence-too-long",
            fix=f"Evaluate it on lists of at most {longest} numbers.",
        )


def lists_at_once(model: GPT, k: int) -> int:
    """How many lists of K numbers a model had best read at once on its device."""
    config, positions = model.config, DEVICE_BATCH_POSITIONS
    if model.wte.weight.device.type == "cpu":
        positions = CPU_BATCH_NUMBERS // (MLP_RATIO * config.n_embd if config.use_mlp else config.vocab_size)
    return max(1, positions // (2 * k))


def draw_samples(k: int, samples: int, numbers: int, seed: int, *, allow_duplicates: bool = False) -> Iterator[Tensor]:
    """Random lists with their solutions, some at a time.

    Args:
        k: Numbers in a list, drawn from 0..`numbers` - 1 without replacement.
        samples: Lists in all.
        numbers: The token after the largest number is the separator.
        seed: Together with `k`, determines the lists.
        allow_duplicates: Draw with replacement.

    Yields:
        Tokens, (B, 2K + 1): the K numbers, the separator, the numbers sorted.
    """
    # A generator for each K, so that what else is drawn has no influence.
    digest = hashlib.sha256(f"{seed} {k}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "big"))
    for start in range(0, samples, _DRAW):
        yield draw_sequences(min(_DRAW, samples - start), k, numbers, generator, allow_duplicates=allow_duplicates)


class Predictor:
    """A model's most probable tokens at the K sorted positions, without the work that these do not need.

    It equals `model(tokens)` at these positions, to rounding. Only they pass through the last block's queries,
    projection and MLP, the final norm and the head. Without a positional embedding, the first block's norm, queries,
    keys and values depend on the token alone: they are computed once for each token of the vocabulary. Models that the
    fast training step covers take its tables, where nothing but logits is asked for.
    """

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._fast = fast_logits(model)
        first = model.blocks[0]
        self._table = first.attn.c_attn(first.ln_1(model.wte.weight)) if model.config.without_pos else None  # (V, 3 C)

    def __call__(self, tokens: Tensor) -> Tensor:
        """The most probable token at each sorted position: (B, 2K + 1), the last of which is not read -> (B, K)."""
        return self.logits(tokens).argmax(dim=-1)

    def right(self, tokens: Tensor) -> Tensor:
        """Where that token is the one that comes there: (B, 2K + 1) -> (B, K). Without `argmax`, which is slower."""
        scores, expected = self.logits(tokens), tokens[:, tokens.shape[1] // 2 + 1 :, None]
        score = scores.gather(-1, expected)
        others = scores.scatter_(-1, expected, -torch.inf).amax(dim=-1, keepdim=True)
        right = score > others
        if bool((right | (score < others)).all()):
            return right.squeeze(-1)
        # Of equal scores the first is taken, and a score that is no number before any other.
        return (scores.scatter_(-1, expected, score).argmax(dim=-1, keepdim=True) == expected).squeeze(-1)

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores of all tokens at each sorted position, from those before it: (B, 2K + 1) -> (B, K, V)."""
        return self._forward(tokens[:, :-1], skip=tokens.shape[1] // 2) if self._fast is None else self._fast(tokens)

    def decode(self, prompt: Tensor) -> Tensor:
        """What the model writes, reading its own output: K numbers and the separator, (B, K + 1) -> (B, K)."""
        config, (batch, after) = self._model.config, prompt.shape
        k = after - 1
        shape = (2, batch, config.n_heads, 2 * k, config.n_embd // config.n_heads)
        past = [self._model.wte.weight.new_empty(shape) for _ in range(config.n_layers)]
        written = [self._forward(prompt, skip=k, past=past)]  # (B, 1, V)
        for position in range(k + 1, 2 * k):
            written.append(self._forward(written[-1].argmax(dim=-1), past=past, start=position))
        return torch.cat(written, dim=1).argmax(dim=-1)

    def _forward(self, tokens: Tensor, *, skip: int = 0, past: list[Tensor] | None = None, start: int = 0) -> Tensor:
        """Scores at all positions but the first `skip`: (B, T) -> (B, T - skip, V).

        Args:
            tokens: The tokens from position `start` on: all of a sequence, or one token.
            past: For each block, room for the keys and values of every position, (2, B, H, 2K, C / H). Those before
                `start` are read, the others written.
        """
        model = self._model
        x = model.wte(tokens)  # (B, T, C)
        if not model.config.without_pos:
            x = x + model.wpe.weight[start : start + tokens.shape[1]]
        for index, block in enumerate(model.blocks):
            q, k, v = self._queries_keys_values(
                block,
                x,
                tokens if index == 0 and self._table is not None else None,
                skip=skip if index == len(model.blocks) - 1 else 0,
            )
            if past is not None:
                end = start + tokens.shape[1]
                past[index][:, :, :, start:end] = torch.stack((k, v))
                k, v = past[index][:, :, :, :end]
            y = self._attend(q, k, v)
            x = x[:, -y.shape[2] :]
            x = x + block.attn.project(y, x if block.attn.c_gate is None else block.ln_1(x))
            if block.mlp is not None and block.ln_2 is not None:
                x = x + block.mlp(block.ln_2(x))
        return cast(Tensor, model.lm_head(model.ln_f(x)))

    def _queries_keys_values(
        self, block: Block, x: Tensor, tokens: Tensor | None, *, skip: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> queries (B, H, T - skip, C / H), keys and values (B, H, T, C / H)."""
        batch, _, width = x.shape
        if tokens is not None and self._table is not None:
            q = F.embedding(tokens[:, skip:], self._table[:, :width])
            kv = F.embedding(tokens, self._table[:, width:])
        else:
            normed, linear = block.ln_1(x), block.attn.c_attn
            q = F.linear(normed[:, skip:], linear.weight[:width], linear.bias[:width])
            kv = F.linear(normed, linear.weight[width:], linear.bias[width:])
        heads = (batch, -1, block.attn.n_heads, width // block.attn.n_heads)
        k, v = torch.split(kv, width, dim=2)
        q, k, v = (part.view(heads).transpose(1, 2) for part in (q, k, v))
        return block.attn.q_norm(q), block.attn.k_norm(k), v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of the last Q of T positions: (B, H, Q, C / H), twice (B, H, T, C / H) -> as q."""
        queries, length = q.shape[2], k.shape[2]
        if queries == 1:  # the last position sees all
            return F.scaled_dot_product_attention(q, k, v)
        if queries == length:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mask = torch.ones(queries, length, dtype=torch.bool, device=q.device).tril(length - queries)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # position K + i sees those up to itself


def _ignore(count: int) -> None:
    pass
