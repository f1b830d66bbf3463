"""What training logs on its way: how well the model sorts, by length, under the published metric names.

metrics = evaluate_lengths(model, config, iters_done=250)   # {"gen/K17/exact_match_acc": 0.31, …}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from ckptman.rules import TrainConfig, terms
from ckptman.training.accuracy import Predictor, draw_samples, lists_at_once
from ckptman.training.model import GPT
from ckptman.training.train_step import StepResult

TRAINED, TESTED = "test/K{k}", "gen/K{k}"
"""Names of the trained and of the tested lengths; a metric's name follows after a slash."""


@dataclass(frozen=True)
class LengthMetrics:
    """How well a model sorts lists of one length, teacher-forced."""

    loss: float
    """Mean cross-entropy over all sorted positions."""
    exact_match: float
    """Share of samples that are right at all K positions."""
    token_accuracy: float
    """Share of positions that are right."""
    error_sum: float
    """Mean over the samples of the sum over their K positions of |predicted − right number|; the separator counts as
    the number after the largest."""
    error_mean: float
    """The same for a single position: `error_sum` / K."""

    def named(self, length: str) -> dict[str, float]:
        """The metrics under their published names."""
        return {
            f"{length}/loss": self.loss,
            f"{length}/{terms.EXACT_MATCH}": self.exact_match,
            f"{length}/token_acc": self.token_accuracy,
            f"{length}/pos_abs_err_sum": self.error_sum,
            f"{length}/pos_abs_err_mean": self.error_mean,
        }


def train_metrics(step: StepResult, *, learning_rate: float, iters_done: int) -> dict[str, float]:
    """What is logged of a training step. All samples of a batch have one K."""
    return {
        "train/loss": float(step.loss),
        "train/token_acc": step.token_accuracy,
        "train/exact_match_acc": step.exact_match,
        "train/K_mean": step.k,
        "train/K_min": step.k,
        "train/K_max": step.k,
        "lr": learning_rate,
        "iter": iters_done,
    }


def evaluate_lengths(model: GPT, config: TrainConfig, *, iters_done: int) -> dict[str, float]:
    """Metrics of every trained and every tested length.

    The samples are others at each evaluation, and depend on the seed, the length and `iters_done` alone; PyTorch's
    global randomness is neither read nor changed. The computation is in the weights' own type, without autocast.
    """
    digest = hashlib.sha256(f"evaluation of seed {config.seed} after {iters_done}".encode()).digest()
    seed = int.from_bytes(digest[:8], "big")
    metrics: dict[str, float] = {}
    with torch.inference_mode():
        predictor = Predictor(model)
    tested = range(config.test_min_k, config.test_max_k + 1)
    for name, lengths in ((TRAINED, config.trained_lengths), (TESTED, tested)):
        for k in lengths:
            metrics |= measure_length(model, predictor, config, k, seed=seed).named(name.replace("{k}", str(k)))
    return metrics


def measure_length(model: GPT, predictor: Predictor, config: TrainConfig, k: int, *, seed: int) -> LengthMetrics:
    """Let a model sort `eval_samples_per_length` random lists of K numbers."""
    device = model.wte.weight.device
    batch_size = min(config.eval_batch_size, lists_at_once(model, k))
    samples = config.eval_samples_per_length
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # loss, exact, right tokens, errors
    with torch.inference_mode():
        for drawn in draw_samples(k, samples, config.vocab_n, seed, allow_duplicates=config.allow_duplicates):
            for batch in torch.split(drawn.to(device), batch_size):
                logits, targets = predictor.logits(batch), batch[:, k + 1 :]  # (B, K, V), (B, K)
                predicted = logits.argmax(dim=-1)
                right = predicted == targets
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
                errors = (predicted - targets).abs()
                totals += torch.stack([loss, right.all(dim=1).sum(), right.sum(), errors.sum()])
    loss_sum, exact, tokens, error_sum = totals.tolist()
    return LengthMetrics(
        loss=loss_sum / (samples * k),
        exact_match=exact / samples,
        token_accuracy=tokens / (samples * k),
        error_sum=error_sum / samples,
        error_mean=error_sum / (samples * k),
    )
