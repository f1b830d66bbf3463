"""What of a piece of work are matrix products: were there nothing else, they would still take their time."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear"}


def share(work: Callable[[], object], *, repeats: int = 9) -> float:
    """The time of some work's matrix products, each among all else that it does, over the time of the work.

    The one is measured while each operation is watched, the other while none is, in turns.
    """
    watching = _Watching()
    shares = []
    for _ in range(repeats):
        watching.seconds = 0.0
        with watching:
            work()
        began = time.perf_counter()
        work()
        shares.append(watching.seconds / (time.perf_counter() - began))
    return median(shares)


class _Watching(TorchDispatchMode):
    """Adds up the time of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # by torch
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        began = time.perf_counter()
        result = function(*arguments, **(more or {}))
        if function._overloadpacket.__name__.rstrip("_") in PRODUCTS:
            self.seconds += time.perf_counter() - began
        return result
