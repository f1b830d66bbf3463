"""Loss and gradients of one training step, without the work that need not be done.

    result = loss_and_backward(model, tokens)  # adds to .grad, like torch.autograd.backward(loss)

equals `plain_loss_and_backward(model, tokens)`, the plain forward and autograd, to rounding. What it uses:

* **Block 1 sees tokens, not positions.** Without a positional embedding, its layer norm, queries, keys and values
  depend on the token alone. They are computed once for the V tokens of the vocabulary and looked up: a score is an
  entry of a V × V table, and the values looked up are already projected.
* **A context is a multiset.** At a sorted position it holds the separator, the K numbers, and the sorted ones so far:
  K + 1 tokens, with counts of 1 or 2. The softmax runs over those, each exponential times its count. Its maximum is
  over the tokens present: a table normalized over all V tokens underflows to 0/0 once scores are large.
* **After block 1's attention the residual stream is `own[token] + Σ weight · keys[token]`**, and what follows is
  linear until the next nonlinearity: it folds into the tables. The first MLP's hidden layer, or the logits of a
  one-layer model without MLP, are the same sum over other tables. Layer norm is linear but for its scale, one number a
  position.
* **The loss reads the K sorted positions.** The last block's queries, projection and MLP, the final norm and the head
  run on those alone. Its keys and values need no projection of their own: a score is x Wq Wkᵀ xᵀ, so one matrix on the
  query's side does for both, and another does for the values and the projection.
* **Pieces.** The batch runs in pieces whose intermediate results stay in cache; their gradients add up.

Autograd builds the tables from the parameters, and their gradients go back through it once a step. What runs on every
sample is a handful of functions, each with its backward written out beside it.

Shapes: B samples in a piece, K numbers, P positions computed (K in the last block, 2K below it), N = K + 1 distinct
tokens in a context, V tokens in the vocabulary, C the embedding's width, H the MLP's.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from ckptman.errors import UsageError
from ckptman.model import GPT, Block

BETAS = (0.9, 0.95)
"""AdamW's decay rates in the published recipe."""

NORM_EPS = 1e-5
"""What `nn.LayerNorm` adds to the variance."""

ALIGNMENT = 16
"""Logits are computed for a multiple of so many tokens: products and row operations are up to twice as fast."""

UNLIKELY = -1e30
"""Logit of the tokens that are none: the softmax gives them exactly 0, and 0 times it is no NaN as with infinity."""

CPU_PIECE_ROWS = 2_048
"""Positions in a piece, for each CPU thread: few enough for the caches, enough for the matrix products."""

DEVICE_PIECE_ROWS = 1 << 17
"""Positions in a piece on any other device, where pieces only bound the memory."""


@dataclass(frozen=True)
class StepResult:
    """What one batch gave; its gradients are in the parameters' `.grad`.

    The tensors stay on the device, so that a training loop need not wait for them; the properties fetch them.
    """

    loss: Tensor
    """Mean cross-entropy over the batch's B · K sorted positions, ()."""
    correct_tokens: Tensor
    """Number of sorted positions whose most probable token is the right one, ()."""
    correct_samples: Tensor
    """Number of samples right at all K sorted positions, ()."""
    samples: int
    k: int

    @property
    def token_accuracy(self) -> float:
        """Share of sorted positions predicted right, teacher-forced."""
        return int(self.correct_tokens) / (self.samples * self.k)

    @property
    def exact_match(self) -> float:
        """Share of samples predicted right at every sorted position, teacher-forced."""
        return int(self.correct_samples) / self.samples


def loss_and_backward(model: GPT, tokens: Tensor, *, piece_rows: int | None = None) -> StepResult:
    """Add the gradients of a batch's mean loss to the parameters' `.grad`, the fast way where there is one.

    Under `torch.autocast` the matrix products of the blocks run in its dtype; look-ups, softmax, head and loss stay in
    the parameters' own. Models that the fast way does not cover (`why_plain` tells) take the plain one, in pieces too.

    Args:
        model: The model itself, not a compiled or wrapped one.
        tokens: A batch of the sorting task, (B, 2K + 1): K numbers, the separator, **the same numbers sorted**. The
            fast way relies on it: for other sequences its result means nothing.
        piece_rows: Positions computed at once; chosen for the device by default.

    Raises:
        UsageError: for tokens of another shape.
    """
    samples, k = _batch_shape(tokens)
    device = tokens.device.type
    if piece_rows is None:
        piece_rows = CPU_PIECE_ROWS * torch.get_num_threads() if device == "cpu" else DEVICE_PIECE_ROWS
    if why_plain(model) is not None:
        return plain_loss_and_backward(model, tokens, piece_samples=max(1, piece_rows // (2 * k)))

    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    positions = k if model.config.n_layers == 1 else 2 * k
    losses, right = [], []
    with torch.autocast(device, enabled=False):
        tables = _Tables.of(model)
        detached = _detached(tables)
        with torch.no_grad():
            for piece in torch.split(tokens, max(1, piece_rows // positions)):
                piece_loss, piece_right = _piece(model, detached, piece, scale=1 / (samples * k), low=low)
                losses.append(piece_loss)
                right.append(piece_right)
        _backward_through(tables, detached)
    return _result(losses, right)


def plain_loss_and_backward(model: nn.Module, tokens: Tensor, *, piece_samples: int | None = None) -> StepResult:
    """The published step's loss and gradients: plain forward over all 2K inputs, then autograd. The reference.

    Args:
        model: Any model that maps tokens (B, T) to logits (B, T, V).
        tokens: Any sequences, (B, 2K + 1); the loss is on the last K tokens.
        piece_samples: Samples whose gradients are computed at once; the whole batch by default.

    Raises:
        UsageError: for tokens of another shape.
    """
    samples, k = _batch_shape(tokens)
    losses, right = [], []
    for piece in torch.split(tokens, piece_samples or samples):
        logits = model(piece[:, :-1])[:, k:].flatten(0, 1)  # (B K, V)
        targets = piece[:, k + 1 :].flatten()  # (B K)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, targets, reduction="sum") / (samples * k)
        torch.autograd.backward(loss)
        losses.append(loss.detach())
        right.append((logits.argmax(-1) == targets).view(-1, k))
    return _result(losses, right)


def why_plain(model: GPT) -> str | None:
    """Why `loss_and_backward` takes the plain way for this model, as a sentence; None where it takes the fast one."""
    config = model.config
    if not config.without_pos:
        return "the model has a positional embedding, so what block 1 computes depends on more than the token"
    if config.n_heads != 1:
        return f"the model has {config.n_heads} attention heads, and the fast step is written for one"
    if model.wte.weight.dtype not in (torch.float32, torch.float64):
        return f"the weights are {model.wte.weight.dtype}, too coarse for products of weights"
    return None


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (0.9, 0.95) as the published trainer makes it: matrices are decayed, vectors are not; frozen ones left out.

    Fused into one kernel on CPU and CUDA. The groups and their order are those of published optimizer states.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=BETAS, fused=fused or None)


def keep_freed_memory() -> bool:
    """Tell the C library to keep the memory this process frees, and say whether it listened (glibc does).

    Without it, each piece's intermediate results go back to the system and come as fresh pages again: with tensors of
    a few megabytes, those page faults cost up to a third of a step on the CPU. A training process calls it once.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # from glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    # 32 MiB is the largest threshold that glibc takes; anything larger is mapped and unmapped each time.
    return bool(mallopt(m_mmap_threshold, 32 << 20)) and bool(mallopt(m_trim_threshold, 2**31 - 1))


_T = TypeVar("_T")


def _batch_shape(tokens: Tensor) -> tuple[int, int]:
    """Samples and K of a batch."""
    if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 3 or tokens.shape[1] % 2 == 0:
        raise UsageError(
            f"a batch has the shape (samples, 2 K + 1), not {tuple(tokens.shape)}",
            code="bad-batch",
            fix="pass K numbers, the separator, and the K numbers sorted, in each row",
        )
    return tokens.shape[0], tokens.shape[1] // 2


def _result(losses: list[Tensor], right: list[Tensor]) -> StepResult:
    """Join the pieces' shares of the mean loss, (), and their right predictions, (B, K)."""
    everywhere = torch.cat(right)
    samples, k = everywhere.shape
    return StepResult(torch.stack(losses).sum(), everywhere.sum(), everywhere.all(1).sum(), samples, k)


# ----------------------------------------------------------------------------------------------------------------------
# Tables: what depends on the parameters alone, built by autograd once a step


@dataclass(frozen=True)
class _Linear:
    """x -> x @ weight + bias."""

    weight: Tensor  # (in, out)
    bias: Tensor  # (out,)

    @classmethod
    def of(cls, layer: nn.Linear, norm: nn.Module | None = None) -> _Linear:
        """A layer, with the gain and bias of the layer norm before it folded in."""
        weight = layer.weight.t()
        bias = weight.new_zeros(weight.shape[1]) if layer.bias is None else layer.bias
        return cls(weight, bias).after(norm)

    def after(self, norm: nn.Module | None) -> _Linear:
        """The same of (normalized x) · gain + shift, as a function of the normalized x."""
        if not isinstance(norm, nn.LayerNorm):
            return self
        return _Linear(norm.weight[:, None] * self.weight, norm.bias @ self.weight + self.bias)

    def widened(self, width: int) -> _Linear:
        """The same with outputs added up to a width that are always UNLIKELY."""
        missing = (0, width - self.weight.shape[1])
        return _Linear(F.pad(self.weight, missing), F.pad(self.bias, missing, value=UNLIKELY))


@dataclass(frozen=True)
class _Lookup:
    """Something linear in the residual stream after block 1's attention: own[token] + Σ weight · keys[token].

    With a bias, it is the output of a layer norm and a linear layer: the sum is scaled by the stream's inverse root
    mean square before the bias is added. Without a norm, a bias is folded into keys, as a position's weights sum to 1.
    """

    own: Tensor  # (V, width)
    keys: Tensor  # (V, width)
    bias: Tensor | None = None  # (width,)

    def through(self, linear: _Linear, *, normalized: bool) -> _Lookup:
        """A linear layer's output, or that of a layer norm and a linear layer."""
        own, keys = self.own @ linear.weight, self.keys @ linear.weight
        return _Lookup(own, keys, linear.bias) if normalized else _Lookup(own, keys + linear.bias)


@dataclass(frozen=True)
class _Gram:
    """Mean products over C of the stream's table rows: they give a position's mean square without its stream."""

    own: Tensor  # (V,)     own · own
    cross: Tensor  # (V, V)   2 own · keys
    keys: Tensor  # (V, V)   keys · keys

    @classmethod
    def of(cls, stream: _Lookup) -> _Gram:
        width = stream.own.shape[1]
        return cls(
            stream.own.square().mean(1),
            stream.own @ stream.keys.t() * (2 / width),
            stream.keys @ stream.keys.t() / width,
        )


@dataclass(frozen=True)
class _LastBlock:
    """The last block's matrices, where it is not the first."""

    query: _Linear  # normalized x of a query -> what to multiply the normalized x of its keys with
    out: _Linear  # weighted sum of the normalized x -> what attention adds to the stream
    fc_1: _Linear | None
    fc_2: _Linear | None

    @classmethod
    def of(cls, block: Block) -> _LastBlock:
        weights, biases = block.attn.c_attn.weight.chunk(3), block.attn.c_attn.bias.chunk(3)
        query, key, value = (_Linear(w.t(), b).after(block.ln_1) for w, b in zip(weights, biases, strict=True))
        project = _Linear.of(block.attn.c_proj)
        root = math.sqrt(query.weight.shape[1])
        # q · k less what is the same for every key of a query: the softmax does not see that.
        score = _Linear(query.weight @ key.weight.t() / root, query.bias @ key.weight.t() / root)
        out = _Linear(value.weight @ project.weight, value.bias @ project.weight + project.bias)
        return cls(
            score,
            out,
            None if block.mlp is None else _Linear.of(block.mlp.fc_1, block.ln_2),
            None if block.mlp is None else _Linear.of(block.mlp.fc_2),
        )


@dataclass(frozen=True)
class _Tables:
    """All that a step computes from the parameters alone; None where the model does not need it."""

    scores: Tensor  # (V, V) query by key
    gram: _Gram | None  # with layer norm: of the stream that `hidden` or `logits` is a function of
    stream: _Lookup | None  # (V, C), centered where layer norms follow
    hidden: _Lookup | None  # (V, H) input of block 1's GELU
    fc_2: _Linear | None  # block 1's
    last: _LastBlock | None
    logits: _Lookup | None  # (V, padded V) of one layer without MLP
    head: _Linear | None  # of any other

    @classmethod
    def of(cls, model: GPT) -> _Tables:
        first, norms = model.blocks[0], model.config.use_layernorm
        embedding = model.wte.weight  # (V, C)
        query, key, value = first.attn.c_attn(first.ln_1(embedding)).chunk(3, dim=1)
        own, keys = embedding, first.attn.c_proj(value)
        if norms:  # each reader of the stream takes its mean off anyway
            own, keys = own - own.mean(1, keepdim=True), keys - keys.mean(1, keepdim=True)
        stream = _Lookup(own, keys)
        head = _Linear.of(model.lm_head, model.ln_f)
        head = head.widened(-(-model.config.vocab_size // ALIGNMENT) * ALIGNMENT)
        hidden = fc_2 = None
        if first.mlp is not None:
            hidden = stream.through(_Linear.of(first.mlp.fc_1, first.ln_2), normalized=norms)
            fc_2 = _Linear.of(first.mlp.fc_2)
        only_tables = model.config.n_layers == 1 and first.mlp is None
        return cls(
            scores=query @ key.t() / math.sqrt(query.shape[1]),
            gram=_Gram.of(stream) if norms and (only_tables or hidden is not None) else None,
            stream=None if only_tables else stream,
            hidden=hidden,
            fc_2=fc_2,
            last=None if model.config.n_layers == 1 else _LastBlock.of(model.blocks[-1]),
            logits=stream.through(head, normalized=norms) if only_tables else None,
            head=None if only_tables else head,
        )


def _tensors(tables: object) -> Iterator[Tensor]:
    """The tensors of nested tables, in the order of their fields."""
    if isinstance(tables, Tensor):
        yield tables
    elif dataclasses.is_dataclass(tables):
        for field in dataclasses.fields(tables):
            yield from _tensors(getattr(tables, field.name))


def _detached(tables: _T) -> _T:
    """A copy apart from the parameters; each tensor's gradient is summed in `_sum(tensor)`."""
    if isinstance(tables, Tensor):
        return cast(_T, tables.detach().contiguous())
    if dataclasses.is_dataclass(tables) and not isinstance(tables, type):
        parts = {field.name: _detached(getattr(tables, field.name)) for field in dataclasses.fields(tables)}
        return cast(_T, type(tables)(**parts))
    return tables


def _sum(table: Tensor) -> Tensor:
    """Where the pieces' gradients of a table add up."""
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    return table.grad


def _backward_through(tables: _Tables, detached: _Tables) -> None:
    """Take the summed gradients of the tables back to the parameters."""
    reached = [
        (table, copy.grad)
        for table, copy in zip(_tensors(tables), _tensors(detached), strict=True)
        if table.requires_grad and copy.grad is not None
    ]
    torch.autograd.backward([table for table, _ in reached], [gradient for _, gradient in reached])


# ----------------------------------------------------------------------------------------------------------------------
# One piece of the batch. With so many small steps autograd's bookkeeping would be a third of the time, so the backward
# is written out: each function returns its result and its pullback. A pullback takes the gradient of the result, adds
# to the sums of the tables, and returns the gradient of the function's (first) argument. It runs once, and unless it
# says otherwise it may overwrite what it is given.

_Pullback = Callable[[Tensor], Tensor]


def _piece(
    model: GPT, tables: _Tables, tokens: Tensor, *, scale: float, low: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Add a piece's gradients to the tables' sums; its share of the loss, (), and its right predictions, (B, K)."""
    k = tokens.shape[1] // 2
    targets = tokens[:, k + 1 :].reshape(-1, 1)  # (B K, 1)
    context, context_back = _attend(tables, tokens)
    if tables.logits is not None:
        logits, logits_back = _read(tables.logits, context)
        loss, right, gradient = _cross_entropy(logits, targets, scale)
        context_back(logits_back(gradient))
    else:
        assert tables.head is not None
        norms = model.config.use_layernorm
        x, first_back = _first_block(tables, context, low)  # (B P, C)
        x, later_back = _later_blocks(model, tables.last, x, k, low)  # (B K, C)
        seen, norm_back = _normalize(x, norms)
        logits, head_back = _linear(seen, tables.head)
        loss, right, gradient = _cross_entropy(logits, targets, scale)
        context_back(first_back(later_back(norm_back(head_back(gradient)))))
    return loss, right.view(-1, k)


def _first_block(tables: _Tables, context: _Context, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """Block 1's output, (B P, C), from its attention; the pullback goes to the attention's weights."""
    assert tables.stream is not None
    x, stream_back = _read(tables.stream, context)
    if tables.hidden is None or tables.fc_2 is None:
        return x, stream_back
    hidden, hidden_back = _read(tables.hidden, context)  # (B P, H)
    mlp, mlp_back = _gelu_linear(hidden, tables.fc_2, low)

    def back(gradient: Tensor) -> Tensor:
        return hidden_back(mlp_back(gradient)).add_(stream_back(gradient))

    return mlp.add_(x), back


def _later_blocks(
    model: GPT, last: _LastBlock | None, x: Tensor, k: int, low: torch.dtype | None
) -> tuple[Tensor, _Pullback]:
    """All blocks after the first: (B P, C) -> (B K, C), the last one at the K sorted positions alone."""
    if last is None:
        return x, lambda gradient: gradient
    x, plain_back = _plain_blocks(model.blocks[1:-1], x.view(-1, 2 * k, x.shape[1]), low)
    x, last_back = _last_block(x, last, model.config.use_layernorm, low)
    return x, lambda gradient: plain_back(last_back(gradient)).view(-1, gradient.shape[1])


def _plain_blocks(blocks: list[Block], x: Tensor, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """Blocks between the first and the last, by autograd: (B, 2K, C) -> (B, 2K, C)."""
    if not blocks:
        return x, lambda gradient: gradient
    start = x.detach().requires_grad_()
    autocast = torch.autocast(x.device.type, low, enabled=low is not None, cache_enabled=False)
    with torch.enable_grad(), autocast:
        end = start
        for block in blocks:
            end = block(end)

    def back(gradient: Tensor) -> Tensor:
        torch.autograd.backward(end, gradient)
        return _sum(start)

    return end.detach(), back


def _last_block(x: Tensor, block: _LastBlock, norms: bool, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """(B, 2K, C) -> (B K, C)."""
    samples, positions, width = x.shape
    k = positions // 2
    seen, norm_1_back = _normalize(x, norms)
    mixed, attention_back = _last_attention(seen, block.query, low)  # (B K, C)
    projected, project_back = _linear(mixed, block.out, low)
    y = projected.view(samples, k, width).add_(x[:, k:]).view(-1, width)  # (B K, C)

    def first_half_back(gradient: Tensor) -> Tensor:
        x_gradient = norm_1_back(attention_back(project_back(gradient)))
        x_gradient[:, k:] += gradient.view(samples, k, width)
        return x_gradient

    if block.fc_1 is None or block.fc_2 is None:
        return y, first_half_back
    seen, norm_2_back = _normalize(y, norms)
    hidden, fc_1_back = _linear(seen, block.fc_1, low)
    mlp, mlp_back = _gelu_linear(hidden, block.fc_2, low)

    def back(gradient: Tensor) -> Tensor:
        return first_half_back(norm_2_back(fc_1_back(mlp_back(gradient))).add_(gradient))

    return mlp.add_(y), back


@dataclass(frozen=True)
class _Context:
    """What each position of a piece reads in block 1."""

    own: Tensor  # (B P) token of each position
    keys: Tensor  # (B N) distinct tokens of each sample
    own_keys: Tensor  # (B P N) V · own + key: indices into flat V × V tables
    weights: Tensor  # (B, P, N) attention; sums to 1 over N
    inverse_rms: Tensor | None  # (B P, 1) of the stream after attention: layer norm's scale
    inverse_rms_back: _Pullback | None  # to the weights


def _attend(tables: _Tables, tokens: Tensor) -> tuple[_Context, Callable[[Tensor], None]]:
    """Block 1's attention, of all 2K positions if another block follows, else of the K sorted ones alone."""
    k, scores = tokens.shape[1] // 2, tables.scores
    if tables.last is not None:
        own, keys = tokens[:, :-1], tokens[:, : k + 1]
        log_counts = _log_counts(tokens, scores)  # (B, 2K, N)
    else:  # the separator and the sorted numbers alone are both the queries and all distinct tokens
        own, keys = tokens[:, k:-1], tokens[:, k:]
        log_counts = _log_sorted_counts(k, scores)  # (K, N)
    own_keys = _pairs(own, keys, len(scores))
    looked_up = scores.view(-1).index_select(0, own_keys).view(-1, *log_counts.shape[-2:])
    weights = torch.softmax(looked_up.add_(log_counts), dim=2)
    rms = rms_back = None
    if tables.gram is not None:
        rms, rms_back = _inverse_rms(tables.gram, weights, own, keys, own_keys)

    def back(gradient: Tensor) -> None:
        _sum(scores).view(-1).index_add_(0, own_keys, _softmax_back(gradient, weights).view(-1))

    return _Context(own.flatten(), keys.flatten(), own_keys, weights, rms, rms_back), back


def _inverse_rms(gram: _Gram, weights: Tensor, own: Tensor, keys: Tensor, own_keys: Tensor) -> tuple[Tensor, _Pullback]:
    """1 / root mean square of own[token] + Σ weight · keys[token], (B P, 1); the pullback goes to the weights."""
    samples, positions, n = weights.shape
    own, key_keys = own.flatten(), _pairs(keys, keys, len(gram.own))
    of_keys = gram.keys.view(-1).index_select(0, key_keys).view(samples, n, n)
    by_keys = torch.bmm(weights, of_keys)  # (B, P, N)
    sums = gram.cross.view(-1).index_select(0, own_keys).view_as(weights).add_(by_keys)
    squares = (sums * weights).sum(2).view(-1).add_(gram.own.index_select(0, own))  # (B P)
    result = squares.add_(NORM_EPS).rsqrt_()

    def back(gradient: Tensor) -> Tensor:
        by_square = gradient.view(-1) * result.pow(3).mul_(-0.5)  # (B P)
        weighted = by_square.view(samples, positions, 1) * weights
        _sum(gram.own).index_add_(0, own, by_square)
        _sum(gram.cross).view(-1).index_add_(0, own_keys, weighted.view(-1))
        _sum(gram.keys).view(-1).index_add_(0, key_keys, torch.bmm(weighted.transpose(1, 2), weights).view(-1))
        return sums.add_(by_keys).mul_(by_square.view(samples, positions, 1))

    return result[:, None], back


def _read(tables: _Lookup, context: _Context) -> tuple[Tensor, _Pullback]:
    """What the tables are of, at each position, (B P, width); the pullback goes to the attention's weights."""
    weights, scale, scale_back = context.weights, context.inverse_rms, context.inverse_rms_back
    rows = tables.keys.index_select(0, context.keys).view(len(weights), -1, tables.keys.shape[1])  # (B, N, width)
    total = tables.own.index_select(0, context.own)  # (B P, width)
    total.view(len(weights), -1, total.shape[1]).baddbmm_(weights, rows)

    def total_back(gradient: Tensor) -> Tensor:
        _sum(tables.own).index_add_(0, context.own, gradient)
        gradient = gradient.view(len(weights), -1, total.shape[1])
        by_rows = torch.bmm(weights.transpose(1, 2), gradient).view(-1, total.shape[1])
        _sum(tables.keys).index_add_(0, context.keys, by_rows)
        return torch.bmm(gradient, rows.transpose(1, 2))

    if (bias := tables.bias) is None:
        return total, total_back
    assert scale is not None
    assert scale_back is not None

    def back(gradient: Tensor) -> Tensor:
        _sum(bias).add_(gradient.sum(0))
        by_scale = total.mul_(gradient).sum(1)
        return total_back(gradient.mul_(scale)).add_(scale_back(by_scale))

    return torch.addcmul(bias, total, scale), back


def _normalize(x: Tensor, norms: bool) -> tuple[Tensor, _Pullback]:
    """Layer norm over the last dimension without gain and bias, which are folded into what reads it; or nothing."""
    if not norms:
        return x, lambda gradient: gradient
    shape = x.shape[-1:]
    result, mean, scale = torch.native_layer_norm(x, shape, None, None, NORM_EPS)

    def back(gradient: Tensor) -> Tensor:
        mask = [True, False, False]
        backward = torch.ops.aten.native_layer_norm_backward
        return cast(Tensor, backward(gradient, x, shape, mean, scale, None, None, mask)[0])

    return result, back


def _linear(x: Tensor, linear: _Linear, low: torch.dtype | None = None) -> tuple[Tensor, _Pullback]:
    """x @ weight + bias; the pullback leaves what it is given."""
    result = _plus_product(linear.bias.expand(len(x), -1), x, linear.weight, low)

    def back(gradient: Tensor) -> Tensor:
        _add_product(_sum(linear.weight), x.t(), gradient, low)
        _sum(linear.bias).add_(gradient.sum(0))
        return _product(gradient, linear.weight.t(), low)

    return result, back


def _gelu_linear(hidden: Tensor, linear: _Linear, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """gelu(hidden) @ weight + bias, overwriting hidden; the pullback leaves what it is given.

    The tanh-approximated GELU, 0.5 h (1 + tanh(u)), is h · sigmoid(2 u), and a vectorized sigmoid takes a quarter of
    the time of gelu's own kernels. Its derivative is computed here too, so that neither h nor the sigmoid need be kept.
    """
    slope_at_0 = 2 * math.sqrt(2 / math.pi)  # 2 u = slope_at_0 (h + 0.044715 h³)
    linear_term, one = hidden.new_full((), slope_at_0), hidden.new_ones(())
    cubic = slope_at_0 * 0.044715
    sigmoid = torch.addcmul(linear_term, hidden, hidden, value=cubic).mul_(hidden).sigmoid_()
    slope = torch.addcmul(linear_term, hidden, hidden, value=3 * cubic)  # of 2 u
    gelu = hidden.mul_(sigmoid)
    # gelu' = s + h s (1 - s) slope, which lies s of the way from gelu · slope to 1
    slope.mul_(gelu).lerp_(one, sigmoid)
    result, linear_back = _linear(gelu, linear, low)
    return result, lambda gradient: linear_back(gradient).mul_(slope)


def _last_attention(x: Tensor, query: _Linear, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """Attention of the K sorted positions over x itself, (B, 2K, C) -> (B K, C)."""
    samples, positions, width = x.shape
    k = positions // 2
    queries, query_back = _linear(x[:, k:].reshape(-1, width), query, low)
    queries = queries.view(samples, k, width)
    later = torch.full((k, positions), -math.inf, dtype=x.dtype, device=x.device).triu_(k + 1)
    weights = torch.softmax(torch.bmm(queries, x.transpose(1, 2)).add_(later), dim=2)  # (B, K, 2K)

    def back(gradient: Tensor) -> Tensor:
        gradient = gradient.view(samples, k, width)
        by_scores = _softmax_back(torch.bmm(gradient, x.transpose(1, 2)), weights)  # (B, K, 2K)
        by_x = torch.bmm(weights.transpose(1, 2), gradient).baddbmm_(by_scores.transpose(1, 2), queries)
        by_x[:, k:] += query_back(torch.bmm(by_scores, x).view(-1, width)).view_as(queries)
        return by_x

    return torch.bmm(weights, x).view(-1, width), back


def _cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """scale · summed cross-entropy, (); where the most probable token is the target, (rows,); the logits' gradient."""
    target, highest = logits.gather(1, targets), logits.amax(1, keepdim=True)
    probabilities = torch.softmax(logits, dim=1)
    # log Σ exp(logit) = highest - log(highest probability), and that probability is at least 1 / V
    loss = (highest - probabilities.amax(1, keepdim=True).log_() - target).sum() * scale
    gradient = probabilities.scatter_add_(1, targets, torch.full_like(target, -1.0)).mul_(scale)
    return loss, (target >= highest).view(-1), gradient


def _softmax_back(gradient: Tensor, weights: Tensor) -> Tensor:
    """The pullback of a softmax over the last dimension."""
    gradient.mul_(weights)
    return gradient.addcmul_(weights, gradient.sum(-1, keepdim=True), value=-1)


def _pairs(rows: Tensor, columns: Tensor, vocabulary: int) -> Tensor:
    """Indices into a flat V × V table: (B, P) and (B, N) -> (B P N)."""
    return ((rows * vocabulary)[:, :, None] + columns[:, None, :]).view(-1)


def _log_sorted_counts(k: int, like: Tensor) -> Tensor:
    """Log counts of (separator, sorted numbers) in the context of each sorted position, (K, N): log 1 or log 2.

    Position j has read each number once among the unsorted, and the first j of them again.
    """
    again = like.new_ones(k, k + 1).tril_()
    again[:, 0] = 0  # the separator comes once
    return again.mul_(math.log(2))


def _log_counts(tokens: Tensor, like: Tensor) -> Tensor:
    """Log counts of (unsorted numbers, separator) in the context of each position, (B, 2K, N)."""
    samples, k = tokens.shape[0], tokens.shape[1] // 2
    order = tokens[:, :k].argsort(dim=1, stable=True)
    places = torch.arange(k, device=tokens.device)
    rank = torch.empty_like(order).scatter_(1, order, places.expand_as(order))  # place of each number when sorted
    counts = like.new_zeros(samples, 2 * k, k + 1)
    counts[:, :k] = like.new_full((k, k + 1), -math.inf).triu_(1)  # plain causal attention
    counts[:, k:, :k] = rank[:, None, :] < places[:, None]  # read again
    counts[:, k:] *= math.log(2)
    return counts


def _product(a: Tensor, b: Tensor, low: torch.dtype | None) -> Tensor:
    """a @ b, computed in `low` where given; the result in a's dtype."""
    return a @ b if low is None else (a.to(low) @ b.to(low)).to(a.dtype)


def _plus_product(c: Tensor, a: Tensor, b: Tensor, low: torch.dtype | None) -> Tensor:
    """c + a @ b, the product computed in `low` where given."""
    return torch.addmm(c, a, b) if low is None else c + a.to(low) @ b.to(low)


def _add_product(c: Tensor, a: Tensor, b: Tensor, low: torch.dtype | None) -> None:
    """c += a @ b, the product computed in `low` where given."""
    if low is None:
        c.addmm_(a, b)
    else:
        c += a.to(low) @ b.to(low)
