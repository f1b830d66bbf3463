"""Loss and gradients of one training step, without the work that need not be done.

    result = loss_and_backward(model, tokens)  # adds to .grad, like torch.autograd.backward(loss)

equals `plain_loss_and_backward(model, tokens)`, the plain forward and autograd, to rounding. It is made for CPUs, and
right on any device; for GPUs there is `gpu_step`. What it uses:

* **Block 1 sees tokens, not positions.** Without a positional embedding, its layer norm, queries, keys and values
  depend on the token alone. They are computed once for the V tokens of the vocabulary and looked up: a score is an
  entry of a V × V table, and the values looked up are already projected.
* **A context is a multiset.** At a sorted position it holds the separator, the K numbers, and the sorted ones so far:
  K + 1 tokens, with counts of 1 or 2. The softmax runs over those, each exponential times its count. Its maximum is
  over the tokens present: a table normalized over all V tokens underflows to 0/0 once scores are large.
* **After block 1's attention the residual stream is `own[token] + Σ weight · keys[token]`**, and what follows is
  linear until the next nonlinearity: it folds into the tables. The first MLP's hidden layer, or the logits of a
  one-layer model without MLP, are the same sum over other tables. Layer norm is linear but for its scale, one number a
  position. Without one, the head folds into the MLP's second matrix, too.
* **The loss reads the K sorted positions.** The last block's queries, projection and MLP, the final norm and the head
  run on those alone. Its keys and values need no projection of their own: a score is x Wq Wkᵀ xᵀ, so one matrix on the
  query's side does for both, and another does for the values and the projection.
* **Sums of rows.** What a position reads is a weighted sum of rows of one small table: `embedding_bag` adds them up in
  registers, with layer norm's scale in the weights, where a look-up and a product would write the rows out first.
* **Pieces.** The batch runs in pieces whose intermediate results stay in cache; their gradients add up. The small
  tensors of block 1's attention are computed for several pieces at once, to call fewer operations; the passes of the
  MLP's nonlinearity are made over parts of a piece.

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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from ckptman.text import UsageError
from ckptman.training.model import GPT, MLP_RATIO, Block

BETAS = (0.9, 0.95)
"""AdamW's decay rates in the published recipe."""

NORM_EPS = 1e-5
"""What `nn.LayerNorm` adds to the variance."""

ALIGNMENT = 4
"""Logits are computed for a multiple of so many tokens: products of odd widths are slower."""

UNLIKELY = -1e30
"""Logit of the tokens that are none: the softmax gives them exactly 0, and 0 times it is no NaN as with infinity."""

CPU_PIECE_NUMBERS = 1_024 * 384
"""Numbers in a piece's widest tensor, for each CPU thread: few enough for the caches, enough to be worth the calls."""

CPU_GELU_NUMBERS = 1 << 16
"""Numbers of a hidden layer that go through the GELU at once, for each CPU thread."""

ATTENTION_ROWS = 1 << 15
"""Positions whose attention in block 1 is computed at once: it is small, and each call of an operation has a price."""

VECTOR_NUMBERS = 16
"""Numbers in a vector register of a CPU."""

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
    samples, k = batch_shape(tokens)
    device = tokens.device.type
    if piece_rows is None:
        piece_rows = _piece_rows(model, device)
    if why_plain(model) is not None:
        return plain_loss_and_backward(model, tokens, piece_samples=max(1, piece_rows // (2 * k)))

    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    positions = k if model.config.n_layers == 1 else 2 * k
    losses: list[Tensor] = []
    right: list[Tensor] = []
    with torch.autocast(device, enabled=False):
        tables = _Tables.of(model, low=low)
        detached = _detached(tables, sums=True)
        with torch.inference_mode():  # which takes less for each operation than `no_grad`
            piece = max(1, piece_rows // positions)
            for several in torch.split(tokens, max(1, ATTENTION_ROWS // piece_rows) * piece):
                whole, attention_back = _attend(detached, several)
                by_attention: list[Tensor] = []
                for context, part in zip(whole.split(piece), torch.split(several, piece), strict=True):
                    found = _piece(model, detached, context, part, scale=1 / (samples * k), low=low)
                    for results, result in zip((losses, right, by_attention), found, strict=True):
                        results.append(result)
                attention_back(torch.cat(by_attention))
        _backward_through(tables, detached)
    return result_of(losses, right)


def fast_logits(model: GPT) -> Callable[[Tensor], Tensor] | None:
    """What gives a batch's logits at the sorted positions, (B, 2K + 1) -> (B, K, V), by the tables of this moment.

    None for a model that the fast way does not cover, or one of more than two layers, in which it saves little. The
    batches are as for `loss_and_backward`: each list followed by the same numbers sorted.
    """
    if why_plain(model) is not None or model.config.n_layers > 2:
        return None
    with torch.inference_mode():
        tables = _detached(_Tables.of(model, low=None), sums=False)

    def logits(tokens: Tensor) -> Tensor:
        samples, k = batch_shape(tokens)
        with torch.inference_mode():
            found, _ = _logits(model, tables, _attend(tables, tokens)[0], k, None)
        return found.view(samples, k, -1)[:, :, : model.config.vocab_size]

    return logits


def plain_loss_and_backward(model: nn.Module, tokens: Tensor, *, piece_samples: int | None = None) -> StepResult:
    """The published step's loss and gradients: plain forward over all 2K inputs, then autograd. The reference.

    Args:
        model: Any model that maps tokens (B, T) to logits (B, T, V).
        tokens: Any sequences, (B, 2K + 1); the loss is on the last K tokens.
        piece_samples: Samples whose gradients are computed at once; the whole batch by default.

    Raises:
        UsageError: for tokens of another shape.
    """
    samples, k = batch_shape(tokens)
    losses, right = [], []
    for piece in torch.split(tokens, piece_samples or samples):
        logits = model(piece[:, :-1])[:, k:].flatten(0, 1)  # (B K, V)
        targets = piece[:, k + 1 :].flatten()  # (B K)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, targets, reduction="sum") / (samples * k)
        with torch.autocast(tokens.device.type, enabled=False):  # as in the published trainer
            torch.autograd.backward(loss)
        losses.append(loss.detach())
        right.append((logits.argmax(-1) == targets).view(-1, k))
    return result_of(losses, right)


def why_plain(model: GPT) -> str | None:
    """Why `loss_and_backward` takes the plain way for this model, as a sentence; None where it takes the fast one."""
    config = model.config
    if not config.without_pos:
        return "the model has a positional embedding, so what block 1 computes depends on more than the token"
    if config.n_heads != 1:
        return f"the model has {config.n_heads} attention heads, and the fast step is written for one"
    if config.variant.norm == "rmsnorm":
        return "the model has RMS norms, and the fast step is written for LayerNorm"
    if config.variant.qk_norm != "none":
        return "the model normalizes queries and keys, so its scores are no products of weights"
    if config.variant.gate != "none":
        return "the model gates attention's output, so what follows it is not linear in the values"
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


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads for a while; None leaves them as they are.

    Raises:
        UsageError: (`bad-threads`) there is no such number of threads.
    """
    before = torch.get_num_threads()
    if count is not None:
        if not isinstance(count, int) or count < 1:
            raise UsageError(
                f"{count!r} is no number of threads", code="bad-threads", fix="Give a whole number of at least 1."
            )
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _piece_rows(model: GPT, device: str) -> int:
    """Positions in a piece, by its widest tensor: the MLP's hidden layer or the logits."""
    if device != "cpu":
        return DEVICE_PIECE_ROWS
    config = model.config
    width = max(config.vocab_size, config.n_embd * (MLP_RATIO if config.use_mlp else 1))
    return _cpu_rows(CPU_PIECE_NUMBERS, width)


def _cpu_rows(numbers: int, width: int) -> int:
    """Rows of this width that hold so many numbers for each CPU thread."""
    return max(1, numbers * torch.get_num_threads() // width)


def batch_shape(tokens: Tensor) -> tuple[int, int]:
    """Samples and K of a batch."""
    if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 3 or tokens.shape[1] % 2 == 0:
        raise UsageError(
            f"a batch has the shape (samples, 2 K + 1), not {tuple(tokens.shape)}",
            code="bad-batch",
            fix="pass K numbers, the separator, and the K numbers sorted, in each row",
        )
    return tokens.shape[0], tokens.shape[1] // 2


def result_of(losses: list[Tensor], right: list[Tensor]) -> StepResult:
    """Join the pieces' shares of the mean loss, (), and their right predictions, (B, K)."""
    everywhere = torch.cat(right)
    samples, k = everywhere.shape
    return StepResult(torch.stack(losses).sum(), everywhere.sum(), everywhere.all(1).sum(), samples, k)


# ----------------------------------------------------------------------------------------------------------------------
# Tables: what depends on the parameters alone, built by autograd once a step


@dataclass(frozen=True)
class Linear:
    """x -> x @ weightᵀ + bias."""

    weight: Tensor  # (out, in), which suits the products of both directions better than (in, out)
    bias: Tensor  # (out,)

    @classmethod
    def of(cls, layer: nn.Linear, norm: nn.Module | None = None) -> Linear:
        """A layer, with the gain and bias of the layer norm before it folded in."""
        bias = layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
        return cls(layer.weight, bias).after(norm)

    def after(self, norm: nn.Module | None) -> Linear:
        """The same of (normalized x) · gain + shift, as a function of the normalized x."""
        if not isinstance(norm, nn.LayerNorm):
            return self
        return Linear(self.weight * norm.weight, self.weight @ norm.bias + self.bias)

    def centered(self, norms: bool) -> Linear:
        """The same with the mean over its outputs taken off, where layer norms follow and would do so anyway."""
        if not norms:
            return self
        return Linear(self.weight - self.weight.mean(0), self.bias - self.bias.mean())

    def widened(self, width: int) -> Linear:
        """The same with outputs added up to a width that are always UNLIKELY."""
        missing = width - self.weight.shape[0]
        return Linear(F.pad(self.weight, (0, 0, 0, missing)), F.pad(self.bias, (0, missing), value=UNLIKELY))


@dataclass(frozen=True)
class _Lookup:
    """Something linear in the residual stream after block 1's attention: own[token] + Σ weight · keys[token] + bias.

    With layer norm, it is the output of a norm and a linear layer: all but the bias is scaled by the stream's inverse
    root mean square. Where nothing is scaled, the bias is in `own`.
    """

    rows: Tensor  # (2V + 1, width): own, keys, bias

    @classmethod
    def of(cls, own: Tensor, keys: Tensor, linear: Linear | None = None, *, norms: bool = False) -> _Lookup:
        """Of the stream itself, whose tables are (V, C), or of a linear layer that reads it."""
        if linear is None:
            return cls(F.pad(torch.cat([own, keys]), (0, 0, 0, 1)))
        own, keys = own @ linear.weight.t(), keys @ linear.weight.t()
        if norms:
            return cls(torch.cat([own, keys, linear.bias[None]]))
        return cls.of(own + linear.bias, keys)

    def parts(self) -> tuple[Tensor, ...]:
        """Own, keys and bias, and where the gradients of each add up."""
        sizes = [len(self.rows) // 2, len(self.rows) // 2, 1]
        return *torch.split(self.rows, sizes), *torch.split(_sum(self.rows), sizes)


@dataclass(frozen=True)
class _Gram:
    """Mean products over C of the stream's table rows: they give a position's mean square without its stream."""

    own: Tensor  # (V,)     own · own
    cross: Tensor  # (V, V)   2 own · keys
    keys: Tensor  # (V, V)   keys · keys

    @classmethod
    def of(cls, own: Tensor, keys: Tensor) -> _Gram:
        width = own.shape[1]
        return cls(own.square().mean(1), own @ keys.t() * (2 / width), keys @ keys.t() / width)


@dataclass(frozen=True)
class LastBlock:
    """The last block's matrices, where it is not the first."""

    query: Linear  # normalized x of a query -> what to multiply the normalized x of its keys with
    out: Linear  # weighted sum of the normalized x -> what attention adds to the stream
    fc_1: Linear | None
    fc_2: Linear | None

    @classmethod
    def of(cls, block: Block, norms: bool) -> LastBlock:
        """Those of a block; with norms, what it adds to the stream is centered, as layer norms do it anyway."""
        weights, biases = block.attn.c_attn.weight.chunk(3), block.attn.c_attn.bias.chunk(3)
        query, key, value = (Linear(w, b).after(block.ln_1) for w, b in zip(weights, biases, strict=True))
        project = Linear.of(block.attn.c_proj)
        root = math.sqrt(query.weight.shape[1])
        # q · k less what is the same for every key of a query: the softmax does not see that.
        score = Linear(key.weight.t() @ query.weight / root, query.bias @ key.weight / root)
        out = Linear(project.weight @ value.weight, project.weight @ value.bias + project.bias)
        return cls(
            score,
            out.centered(norms),
            None if block.mlp is None else Linear.of(block.mlp.fc_1, block.ln_2),
            None if block.mlp is None else Linear.of(block.mlp.fc_2).centered(norms),
        )


@dataclass(frozen=True)
class _Tables:
    """All that a step computes from the parameters alone; None where the model does not need it."""

    scores: Tensor  # (V, V) query by key
    gram: _Gram | None  # with layer norm, of the stream that `logits` is a function of
    stream: _Lookup | None  # C wide, centered where layer norms follow; or what the head makes of it, see `folded`
    hidden: _Lookup | None  # H wide: input of block 1's GELU
    fc_2: Linear | None  # block 1's
    last: LastBlock | None
    logits: _Lookup | None  # padded V wide, of one layer without MLP
    head: Linear | None  # of any other

    @classmethod
    def of(cls, model: GPT, *, low: torch.dtype | None) -> _Tables:
        """Those of a model whose matrix products are computed in `low` where given."""
        first, norms = model.blocks[0], model.config.variant.norm == "layernorm"
        embedding = model.wte.weight  # (V, C)
        query, key, value = first.attn.c_attn(first.ln_1(embedding)).chunk(3, dim=1)
        own, keys = embedding, first.attn.c_proj(value)
        if norms:  # each reader of the stream takes its mean off anyway
            own, keys = own - own.mean(1, keepdim=True), keys - keys.mean(1, keepdim=True)
        head = Linear.of(model.lm_head, model.ln_f)
        head = head.widened(-(-model.config.vocab_size // ALIGNMENT) * ALIGNMENT)

        only_tables = model.config.n_layers == 1 and first.mlp is None
        fc_2 = None if first.mlp is None else Linear.of(first.mlp.fc_2).centered(norms)
        # Without a norm between them, the head and all before it back to the GELU are one matrix; but the head alone
        # is not computed in the lower precision.
        folded = model.config.n_layers == 1 and fc_2 is not None and not norms and low is None
        if folded and fc_2 is not None:
            fc_2 = Linear(head.weight @ fc_2.weight, head.weight @ fc_2.bias)
        lookup = partial(_Lookup.of, own, keys, norms=norms)
        return cls(
            scores=query @ key.t() / math.sqrt(query.shape[1]),
            gram=_Gram.of(own, keys) if norms and only_tables else None,
            stream=None if only_tables else lookup(head if folded else None),
            hidden=None if first.mlp is None else lookup(Linear.of(first.mlp.fc_1, first.ln_2)),
            fc_2=fc_2,
            last=None if model.config.n_layers == 1 else LastBlock.of(model.blocks[-1], norms),
            logits=lookup(head) if only_tables else None,
            head=None if only_tables or folded else head,
        )


def _tensors(tables: object) -> Iterator[Tensor]:
    """The tensors of nested tables, in the order of their fields."""
    if isinstance(tables, Tensor):
        yield tables
    elif dataclasses.is_dataclass(tables):
        for field in dataclasses.fields(tables):
            yield from _tensors(getattr(tables, field.name))


def _detached(tables: _T, *, sums: bool) -> _T:
    """A copy apart from the parameters. With sums, each tensor's gradient is to be added up in its `grad`."""
    if isinstance(tables, Tensor):
        copy = tables.detach().contiguous()
        copy.grad = torch.zeros_like(copy) if sums else None
        return cast(_T, copy)
    if dataclasses.is_dataclass(tables) and not isinstance(tables, type):
        parts = {f.name: _detached(getattr(tables, f.name), sums=sums) for f in dataclasses.fields(tables)}
        return cast(_T, type(tables)(**parts))
    return tables


def _sum(table: Tensor) -> Tensor:
    """Where the pieces' gradients of a table add up."""
    assert table.grad is not None
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
    model: GPT, tables: _Tables, context: _Context, tokens: Tensor, *, scale: float, low: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a piece's gradients to the tables' sums.

    Returns:
        Its share of the loss, (); its right predictions, (B, K); the gradient of block 1's attention, (B, P, N).
    """
    k = tokens.shape[1] // 2
    logits, back = _logits(model, tables, context, k, low)
    loss, right, gradient = _cross_entropy(logits, tokens[:, k + 1 :].reshape(-1, 1), scale)
    return loss, right.view(-1, k), back(gradient)


def _logits(
    model: GPT, tables: _Tables, context: _Context, k: int, low: torch.dtype | None
) -> tuple[Tensor, _Pullback]:
    """The logits of a piece, (B K, padded V); the pullback goes to the weights of block 1's attention."""
    if tables.logits is not None:
        return _read(tables.logits, context)
    norms = model.config.variant.norm == "layernorm"
    x, first_back = _first_block(tables, context, norms, low)  # (B P, C)
    if tables.head is None:  # folded into the tables
        return x, first_back
    x, later_back = _later_blocks(model, tables.last, x, k, low)  # (B K, C)
    seen, norm_back = _normalize(x, norms)
    logits, head_back = _linear(seen, tables.head)
    return logits, lambda gradient: first_back(later_back(norm_back(head_back(gradient))))


def _first_block(tables: _Tables, context: _Context, norms: bool, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """Block 1's output, (B P, C), from its attention; the pullback goes to the attention's weights."""
    assert tables.stream is not None
    x, stream_back = _read(tables.stream, context)
    if tables.hidden is None or tables.fc_2 is None:
        return x, stream_back
    scale = _inverse_rms(x) if norms else None
    scaled = context if scale is None else context.scaled(scale)
    hidden, hidden_back = _read(tables.hidden, scaled)  # (B P, H)
    result, mlp_back = _gelu_linear(hidden, tables.fc_2, low, onto=x)

    def back(gradient: Tensor) -> Tensor:
        by_weights = hidden_back(mlp_back(gradient))  # (B, P, N)
        if scale is not None:
            by_weights, by_scale = _scaled_back(by_weights, context.attention, scale)
            gradient.addcmul_(x, scale.pow(3).mul_(by_scale), value=-1 / x.shape[1])
        return stream_back(gradient).add_(by_weights)

    return result, back


def _later_blocks(
    model: GPT, last: LastBlock | None, x: Tensor, k: int, low: torch.dtype | None
) -> tuple[Tensor, _Pullback]:
    """All blocks after the first: (B P, C) -> (B K, C), the last one at the K sorted positions alone."""
    if last is None:
        return x, lambda gradient: gradient
    norms = model.config.variant.norm == "layernorm"
    x, plain_back = _plain_blocks(model.blocks[1:-1], x.view(-1, 2 * k, x.shape[1]), norms, low)
    x, last_back = _last_block(x, last, norms, low)
    return x, lambda gradient: plain_back(last_back(gradient)).view(-1, gradient.shape[1])


def _plain_blocks(blocks: list[Block], x: Tensor, norms: bool, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """Blocks between the first and the last, by autograd: (B, 2K, C) -> (B, 2K, C)."""
    if not blocks:
        return x, lambda gradient: gradient
    autocast = torch.autocast(x.device.type, low, enabled=low is not None, cache_enabled=False)
    with torch.inference_mode(False), autocast:
        end = start = x.clone().requires_grad_()
        for block in blocks:
            end = block(end)
        if norms:  # as all that follows expects it
            end = end - end.mean(-1, keepdim=True)

    def back(gradient: Tensor) -> Tensor:
        with torch.inference_mode(False):
            torch.autograd.backward(end, gradient.clone())
        return _sum(start)

    return end.detach(), back


def _last_block(x: Tensor, block: LastBlock, norms: bool, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
    """(B, 2K, C) -> (B K, C)."""
    samples, positions, width = x.shape
    k = positions // 2
    seen, norm_1_back = _normalize(x, norms)
    mixed, attention_back = _last_attention(seen, block.query, low)  # (B K, C)
    y, project_back = _linear(mixed, block.out, low, onto=x[:, k:].reshape(-1, width))  # (B K, C)

    def first_half_back(gradient: Tensor) -> Tensor:
        x_gradient = norm_1_back(attention_back(project_back(gradient)))
        x_gradient[:, k:] += gradient.view(samples, k, width)
        return x_gradient

    if block.fc_1 is None or block.fc_2 is None:
        return y, first_half_back
    seen, norm_2_back = _normalize(y, norms)
    hidden, fc_1_back = _linear(seen, block.fc_1, low)
    result, mlp_back = _gelu_linear(hidden, block.fc_2, low, onto=y)

    def back(gradient: Tensor) -> Tensor:
        return first_half_back(norm_2_back(fc_1_back(mlp_back(gradient))).add_(gradient))

    return result, back


@dataclass(frozen=True)
class _Context:
    """What each position reads in block 1. Indices for `embedding_bag` are int32, with which it is faster."""

    positions: int  # P
    is_scaled: bool  # the weights have layer norm's scale in them
    own: Tensor  # (B P,) token of each position
    keys: Tensor  # (B N,) distinct tokens of each sample
    entries: Tensor  # (B P, 1 + N + 1) what a `_Lookup` adds up at each position: rows of own, keys, bias
    weights: Tensor  # (B P, 1 + N + 1) and their weights: 1, attention, 1; or scale, scale · attention, 1

    @property
    def attention(self) -> Tensor:
        """Weights of the keys, (B, P, N)."""
        return self.weights[:, 1:-1].view(-1, self.positions, self.weights.shape[1] - 2)

    def scaled(self, scale: Tensor) -> _Context:
        """With layer norm's scale, (B P, 1)."""
        weights = self.weights * scale
        weights[:, -1] = 1  # the bias is not scaled
        return dataclasses.replace(self, weights=weights, is_scaled=True)

    def split(self, samples: int) -> Iterator[_Context]:
        """In pieces of so many samples."""
        rows, n = samples * self.positions, self.weights.shape[1] - 2
        parts = (
            torch.split(part, size)
            for part, size in ((self.own, rows), (self.keys, samples * n), (self.entries, rows), (self.weights, rows))
        )
        return (_Context(self.positions, self.is_scaled, *part) for part in zip(*parts, strict=True))


def _attend(tables: _Tables, tokens: Tensor) -> tuple[_Context, Callable[[Tensor], None]]:
    """Block 1's attention, of all 2K positions if another block follows, else of the K sorted ones alone.

    Of one layer without MLP, times the scale of the layer norm before the head.
    """
    k, scores, vocabulary = tokens.shape[1] // 2, tables.scores, len(tables.scores)
    if tables.last is not None:
        counts = log_counts(tokens, scores)  # (B, 2K, N)
        own, keys = tokens[:, :-1], tokens[:, : k + 1]
    else:  # the separator and the sorted numbers alone are both the queries and all distinct tokens
        counts = log_sorted_counts(k, scores)  # (K, N)
        own, keys = tokens[:, k:-1], tokens[:, k:]
    (samples, positions), n = own.shape, keys.shape[1]
    own_keys = pairs(own, keys, vocabulary)
    looked_up = scores.view(-1).index_select(0, own_keys).view(samples, positions, n)
    attention = _softmax_of_few(looked_up.add_(counts))

    entries = own.new_full((samples, positions, 1 + n + 1), 2 * vocabulary, dtype=torch.int32)
    entries[:, :, 0] = own
    entries[:, :, 1:-1] = keys[:, None] + vocabulary
    context = _Context(
        positions=positions,
        is_scaled=False,
        own=own.contiguous().view(-1),
        keys=keys.contiguous().view(-1),
        entries=entries.flatten(0, 1),
        weights=F.pad(attention, (1, 1), value=1.0).flatten(0, 1),
    )

    def back(gradient: Tensor) -> None:
        _sum(scores).view(-1).scatter_add_(0, own_keys, _softmax_back(gradient, attention).view(-1))

    if tables.gram is None:
        return context, back
    scale, scale_back = _inverse_rms_by_gram(tables.gram, context.own, context.keys, own_keys, attention)

    def scaled_back(gradient: Tensor) -> None:
        by_attention, by_scale = _scaled_back(gradient, attention, scale)
        back(scale_back(by_scale).add_(by_attention))

    return context.scaled(scale), scaled_back


def _scaled_back(gradient: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the weights, (B, P, N), and of the scale, (B P, 1), by that of their product."""
    return gradient * scale.view(*weights.shape[:2], 1), (gradient * weights).sum(2).view(-1, 1)


def _inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square of centered rows, (…, C) -> (…, 1): layer norm's scale."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()


def _inverse_rms_by_gram(
    gram: _Gram, own: Tensor, keys: Tensor, own_keys: Tensor, weights: Tensor
) -> tuple[Tensor, _Pullback]:
    """1 / root mean square of own[token] + Σ weight · keys[token], (B P, 1); the pullback goes to the weights."""
    samples, positions, n = weights.shape
    keys = keys.view(samples, n)
    key_keys = pairs(keys, keys, len(gram.own))
    of_keys = gram.keys.view(-1).index_select(0, key_keys).view(samples, n, n)
    by_keys = torch.bmm(weights, of_keys)  # (B, P, N)
    sums = gram.cross.view(-1).index_select(0, own_keys).view_as(weights).add_(by_keys)
    squares = (sums * weights).sum(2).view(-1).add_(gram.own.index_select(0, own))  # (B P)
    result = squares.add_(NORM_EPS).rsqrt_()

    def back(gradient: Tensor) -> Tensor:
        by_square = gradient.view(-1) * result.pow(3).mul_(-0.5)  # (B P)
        weighted = by_square.view(samples, positions, 1) * weights
        _sum(gram.own).index_add_(0, own, by_square)
        _sum(gram.cross).view(-1).scatter_add_(0, own_keys, weighted.view(-1))
        _sum(gram.keys).view(-1).scatter_add_(0, key_keys, torch.bmm(weighted.transpose(1, 2), weights).view(-1))
        return sums.add_(by_keys).mul_(by_square.view(samples, positions, 1))

    return result[:, None], back


def _read(lookup: _Lookup, context: _Context) -> tuple[Tensor, _Pullback]:
    """What the table is of at each position, (B P, width); the pullback goes to the weights of the keys, (B, P, N).

    They add up to the weight of the token's own row, 1 or the scale, so what it adds goes to each of them.
    """
    result = F.embedding_bag(context.entries, lookup.rows, per_sample_weights=context.weights, mode="sum")

    def back(gradient: Tensor) -> Tensor:
        own, keys, _, own_sum, keys_sum, bias_sum = lookup.parts()
        attention = context.attention
        samples, positions, n = attention.shape
        by_position = gradient.view(samples, positions, -1)
        keys_sum.index_add_(0, context.keys, torch.bmm(attention.transpose(1, 2), by_position).flatten(0, 1))
        key_rows = keys.index_select(0, context.keys).view(samples, n, -1)
        by_weights = torch.bmm(key_rows, by_position.transpose(1, 2)).transpose(1, 2)
        if context.is_scaled:  # or the bias is in `own`, and softmax sees nothing of what is the same for all keys
            bias_sum.add_(gradient.sum(0))
            by_weights = by_weights + _dots(own, context.own, gradient).view(samples, positions, 1)
            gradient.mul_(context.weights[:, :1])
        own_sum.index_add_(0, context.own, gradient)
        return by_weights

    return result, back


def _dots(rows: Tensor, indices: Tensor, others: Tensor) -> Tensor:
    """Scalar products of rows[index] and the other row, (n, 1), without a copy of the rows."""
    every = torch.arange(len(indices), dtype=indices.dtype, device=indices.device)
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward(others, rows, indices, every, every, 0)
    return cast(Tensor, products)[:, None]


def _normalize(x: Tensor, norms: bool) -> tuple[Tensor, _Pullback]:
    """Layer norm of centered rows, (…, C), but for gain and bias, which are folded into what reads it; or nothing."""
    if not norms:
        return x, lambda gradient: gradient
    scale = _inverse_rms(x)

    def back(gradient: Tensor) -> Tensor:
        mean, mask = torch.zeros_like(scale), [True, False, False]
        backward = torch.ops.aten.native_layer_norm_backward
        return cast(Tensor, backward(gradient, x, x.shape[-1:], mean, scale, None, None, mask)[0])

    return x * scale, back


def _linear(
    x: Tensor, linear: Linear, low: torch.dtype | None = None, *, onto: Tensor | None = None
) -> tuple[Tensor, _Pullback]:
    """x @ weightᵀ + bias, added to a copy of `onto` where given; the pullback leaves what it is given."""
    if low is None:
        return _linear_in_full(x, linear, onto)
    seen, weight = x.to(low), linear.weight.to(low)  # both are needed on the way back, too
    result = (seen @ weight.t()) + linear.bias  # in the bias's precision
    if onto is not None:
        result += onto

    def back(gradient: Tensor) -> Tensor:
        _sum(linear.bias).add_(gradient.sum(0))
        rounded = gradient.to(low)
        _sum(linear.weight).add_(rounded.t() @ seen)
        return (rounded @ weight).to(x.dtype)

    return result, back


def _linear_in_full(x: Tensor, linear: Linear, onto: Tensor | None) -> tuple[Tensor, _Pullback]:
    weight = linear.weight
    result = torch.addmm(linear.bias, x, weight.t()) if onto is None else (onto + linear.bias).addmm_(x, weight.t())

    def back(gradient: Tensor) -> Tensor:
        _sum(weight).addmm_(gradient.t(), x)
        _sum(linear.bias).add_(gradient.sum(0))
        return gradient @ weight

    return result, back


def _gelu_linear(hidden: Tensor, linear: Linear, low: torch.dtype | None, *, onto: Tensor) -> tuple[Tensor, _Pullback]:
    """onto + gelu(hidden) @ weightᵀ + bias, overwriting hidden; the pullback leaves what it is given.

    The tanh-approximated GELU, 0.5 h (1 + tanh(u)), is h · sigmoid(2 u), and a vectorized sigmoid takes a quarter of
    the time of gelu's own kernels. Its derivative is computed here too, so that neither h nor the sigmoid need be kept;
    but not of tables without sums, for which there is no way back. Some rows at a time, so that the passes over them
    find them in the cache.
    """
    slope_at_0 = 2 * math.sqrt(2 / math.pi)  # 2 u = slope_at_0 (h + 0.044715 h³)
    linear_term, one = hidden.new_full((), slope_at_0), hidden.new_ones(())
    cubic = slope_at_0 * 0.044715
    slope = None if linear.weight.grad is None else torch.empty_like(hidden)
    rows = _cpu_rows(CPU_GELU_NUMBERS, hidden.shape[1]) if hidden.device.type == "cpu" else len(hidden)
    for start in range(0, len(hidden), rows):
        gelu = hidden[start : start + rows]
        sigmoid = torch.addcmul(linear_term, gelu, gelu, value=cubic).mul_(gelu).sigmoid_()
        if slope is None:
            gelu.mul_(sigmoid)
            continue
        derivative = slope[start : start + rows]
        torch.addcmul(linear_term, gelu, gelu, value=3 * cubic, out=derivative)  # of 2 u
        # gelu' = s + h s (1 - s) slope, which lies s of the way from gelu · slope to 1
        derivative.mul_(gelu.mul_(sigmoid)).lerp_(one, sigmoid)
    result, linear_back = _linear(hidden, linear, low, onto=onto)
    return result, linear_back if slope is None else lambda gradient: linear_back(gradient).mul_(slope)


def _last_attention(x: Tensor, query: Linear, low: torch.dtype | None) -> tuple[Tensor, _Pullback]:
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
    """scale · summed cross-entropy, (); where the most probable token is the target, (rows,); the logits' gradient.

    It overwrites the logits.
    """
    target, highest = logits.gather(1, targets), logits.amax(1, keepdim=True)
    exponentials = _exp(logits.sub_(highest))
    total = exponentials.sum(1, keepdim=True)
    loss = (total.log() + (highest - target)).sum() * scale
    gradient = exponentials.scatter_add_(1, targets, -total).mul_(scale / total)
    return loss, (target >= highest).view(-1), gradient


def _softmax_of_few(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, overwriting logits.

    Rows shorter than a vector register torch's own goes through number by number, which takes six times as long.
    """
    if logits.shape[-1] >= VECTOR_NUMBERS:
        return torch.softmax(logits, -1)
    exponentials = _exp(logits.sub_(logits.amax(-1, keepdim=True)))
    return exponentials.div_(exponentials.sum(-1, keepdim=True))


def _exp(x: Tensor) -> Tensor:
    """e to the power of x, overwriting it. By powers of 2, which on a CPU take less than half the time of `exp_`."""
    return x.mul_(1 / math.log(2)).exp2_()


def _softmax_back(gradient: Tensor, weights: Tensor) -> Tensor:
    """The pullback of a softmax over the last dimension."""
    gradient.mul_(weights)
    return gradient.addcmul_(weights, gradient.sum(-1, keepdim=True), value=-1)


def pairs(rows: Tensor, columns: Tensor, vocabulary: int) -> Tensor:
    """Indices into a flat V × V table: (B, P) and (B, N) -> (B P N)."""
    return ((rows * vocabulary)[:, :, None] + columns[:, None, :]).view(-1)


def log_sorted_counts(k: int, like: Tensor) -> Tensor:
    """Log counts of (separator, sorted numbers) in the context of each sorted position, (K, N): log 1 or log 2.

    Position j has read each number once among the unsorted, and the first j of them again.
    """
    again = like.new_ones(k, k + 1).tril_()
    again[:, 0] = 0  # the separator comes once
    return again.mul_(math.log(2))


def log_counts(tokens: Tensor, like: Tensor) -> Tensor:
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
