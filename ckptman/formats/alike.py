"""Checkpoints of one configuration, whose pickles differ in the number of the seed alone: known after two of them.

A grid has many. What two say that differ in the seed's bytes alone, and that say the same but for the seed, a third one
says too: a pickle is a program without arithmetic and without branches, so that the number which one step pushes gets
to the same places, whatever it is. Where two differ in anything else (a shape, a storage, an object), none is known by
the others.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from ckptman.formats.pickled import Storage

if TYPE_CHECKING:
    from ckptman.formats.checkpoint import CheckpointInfo
    from ckptman.rules import terms

KEY: Final = "seed"
_SEED: Final = re.compile(rb"X\x04\0\0\0seed(?:q.|r....)(?:K(.)|M(..)|J(....))(?![qr])", re.DOTALL)
"""As the pickler writes a key, its place in the memo, and a whole number, which has no such place."""
MOST_KINDS: Final = 1024
"""Kinds of pickles that are remembered: some 20 KB each."""


class Seed(NamedTuple):
    """The one place in a pickle where a seed stands."""

    value: int
    kind: tuple[int, int, bytes]
    """The same for pickles that differ in the number alone, and are read by the same rules."""


@dataclass(slots=True)
class _Kind:
    info: CheckpointInfo
    storages: tuple[Storage, ...]
    rules: terms.CheckpointRules
    """Kept, so that no other rules get their identity."""
    is_confirmed: bool


_KINDS: OrderedDict[tuple[int, int, bytes], _Kind] = OrderedDict()


def seed_of(data: bytes, rules: terms.CheckpointRules) -> Seed | None:
    """The seed in a pickle; None where it has none, or more than one."""
    found = _SEED.search(data)
    if found is None or _SEED.search(data, found.end()) is not None:
        return None
    start, end = found.span(found.lastindex or 0)
    value = int.from_bytes(data[start:end], "little", signed=end - start == 4)
    return Seed(value, (id(rules), start, data[:start] + data[end:]))


def known(seed: Seed) -> tuple[Callable[[int], CheckpointInfo], tuple[Storage, ...]] | None:
    """What a pickle says, given the size of its file, and the storages that it needs, where two of its kind told."""
    kind = _KINDS.get(seed.kind)
    if kind is None or not kind.is_confirmed:
        return None
    return lambda size: _with_seed(kind.info, seed.value, size), kind.storages


def learn(seed: Seed, rules: terms.CheckpointRules, info: CheckpointInfo, storages: Iterable[Storage]) -> None:
    """Take note of what a pickle says by itself, nothing of which was read from the rest of its file."""
    config, needed = info.config or {}, tuple(storages)
    if type(config.get(KEY)) is not int or config[KEY] != seed.value:
        return
    other = _KINDS.get(seed.kind)
    same = (
        other is not None
        and other.info.config is not None
        and other.info.config[KEY] != seed.value
        and _with_seed(other.info, seed.value, info.size) == info
        and list(other.info.config) == list(config)
        and [tensor.view for tensor in other.info.tensors] == [tensor.view for tensor in info.tensors]
        and [tensor.saved_as for tensor in other.info.tensors] == [tensor.saved_as for tensor in info.tensors]
        and other.storages == needed
    )
    _KINDS[seed.kind] = _Kind(info, needed, rules, same)
    if len(_KINDS) > MOST_KINDS:
        _KINDS.popitem(last=False)


def _with_seed(info: CheckpointInfo, value: int, size: int) -> CheckpointInfo:
    return replace(info, config={**(info.config or {}), KEY: value}, size=size)
