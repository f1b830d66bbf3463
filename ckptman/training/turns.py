"""Works that are done by turns in one thread: on a GPU, each computes while the others are asked for.

results = in_turns([work(1), work(2)], device)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias, TypeVar

import torch

_T = TypeVar("_T")

Turns: TypeAlias = Generator[None, None, _T]
"""A work: what it does between two `yield`s is a turn, and it returns its result."""


def in_turns(works: Sequence[Turns[_T]], device: torch.device) -> list[_T]:
    """Do all of them, a turn of each after the other, and return their results.

    Several works on a GPU have a stream of their own each, so that it computes them side by side. What one of them
    raises ends all: the others are closed.
    """
    results: dict[int, _T] = {}
    streams = [_stream(device) if len(works) > 1 else None for _ in works]
    try:
        while len(results) < len(works):
            for index, work in enumerate(works):
                if index in results:
                    continue
                try:
                    with _on(streams[index]):
                        next(work)
                except StopIteration as end:
                    results[index] = end.value
    finally:
        for index, work in enumerate(works):
            with _on(streams[index]):
                work.close()
    return [results[index] for index in range(len(works))]


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # by torch


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
