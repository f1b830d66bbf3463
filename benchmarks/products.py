"""How many operations of matrix products a piece of work needs: at one rate, no program can beat the ratio of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def operations(work: Callable[[], object]) -> int:
    """Multiplications and additions in the matrix products of some work; those of attention and look-ups are none."""
    counting = _Counting()
    with counting:
        work()
    return counting.found


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # by torch
        self.found = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        result = function(*arguments, **(more or {}))
        packet = function._overloadpacket
        name = packet.__name__.rstrip("_")
        known = flop_registry.get(getattr(torch.ops.aten, name, packet))
        if name == "linear":  # as inference has it, undivided
            self.found += 2 * result.numel() * arguments[1].shape[1]
        elif known is not None and "attention" not in name:
            self.found += known(*arguments, **(more or {}), out_val=result)
        return result
