"""The devices that tests of training run on, and how far apart the same weights may be there."""

from __future__ import annotations

import pytest
import torch

from ckptman.training.loading import load_weights
from ckptman.training.run_folder import RawRun

GPU = torch.device("cuda")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
DEVICES = ("cpu", pytest.param("cuda", marks=(pytest.mark.gpu, NO_GPU)))

ROUNDING = 1e-4
"""What sums in another order change in the weights of a short run, at most, over the largest of a tensor."""


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two state dicts over the largest absolute value of the same tensor."""
    assert one.keys() == other.keys()
    return max(
        float((one[name].cpu() - other[name].cpu()).abs().max() / other[name].cpu().abs().max().clamp_min(1e-30))
        for name in one
    )


def weights(run: RawRun) -> dict[str, torch.Tensor]:
    """Those of a run's final checkpoint that its loss hangs on."""
    return that_matter(load_weights(run.final)[0])


def that_matter(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's weights, but for the biases of keys.

    A softmax does not see those, so their gradient is 0: AdamW makes steps of what rounding leaves of it.
    """
    kept = dict(found)
    for name in (name for name in found if name.endswith("c_attn.bias")):
        query, _, value = found[name].chunk(3)
        kept[name] = torch.cat([query, value])
    return kept
