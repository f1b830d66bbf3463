"""When two configurations are one: the only comparison of configuration values.

A configuration is met as Python values, as the pickle of a checkpoint, as JSON, as YAML, and as what W&B made of it.
These spell one value differently: a tuple comes back as a list, 1.0 as 1, infinity as "Infinity", NaN as null or "NaN".
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

_NOT_A_NUMBER = "NaN"
_INFINITE = "Infinity"

_T = TypeVar("_T")


def canonical(value: object) -> object:
    """`value` in the one spelling that all of its spellings share: None, int, float, str, tuple, dict.

    A flag is 0 or 1, a whole float an int, a list a tuple, a mapping a dict sorted by its keys as text; NaN is None
    (W&B stores it so), infinity "Infinity", a path its text.
    """
    if value is None or value == _NOT_A_NUMBER:
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return _INFINITE if value > 0 else f"-{_INFINITE}"
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, list | tuple):
        return tuple(map(canonical, value))
    if isinstance(value, Mapping):
        return dict(sorted(((str(key), canonical(item)) for key, item in value.items()), key=lambda pair: pair[0]))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value)


def key_of(value: object) -> Hashable:
    """What values are looked up by: all spellings of one value have the same."""
    found = canonical(value)
    return found if isinstance(found, int | float | str | None) else repr(found)


def at(config: Mapping[str, Any], path: str) -> Any:
    """The value of a key, or of one in sections, such as `optim.lr`; None where there is none."""
    if path in config or "." not in path:
        return config.get(path)
    first, _, rest = path.partition(".")
    inner = config.get(first)
    return at(inner, rest) if isinstance(inner, Mapping) else None


def whole(value: object) -> int | None:
    """A whole number in any of its spellings; None for anything else, a flag too."""
    if type(value) is int:  # mostly
        return value
    number = None if isinstance(value, bool) else canonical(value)
    return number if isinstance(number, int) else None


def flag(value: object) -> bool | None:
    """A flag in any of its spellings: true and 1, false and 0; None for anything else."""
    return next((known for known in (True, False) if same_value(value, known)), None)


def same_value(one: object, other: object) -> bool:
    """Whether two configuration values are spellings of one value."""
    if one is other or (type(one) in _PLAIN and one == other):
        return True
    return canonical(one) == canonical(other)


_PLAIN = frozenset({bool, int, float, str})
"""Types of which values that are equal in Python are spellings of one value; most values are of them, and equal."""
_PLAIN_OR_NONE = _PLAIN | {type(None)}


def could_be(value: object, text: object) -> bool:
    """Whether W&B can have made `text` of what a training program held, of which its file says `value`.

    W&B writes the name of an Enum's member, where the file has its value; of an object what its class prints; of a set
    its elements in any order.
    """
    if same_value(value, text) or isinstance(text, str) or (isinstance(value, str) and value.startswith("<")):
        return True
    if isinstance(value, Mapping) and isinstance(text, Mapping):
        return value.keys() == text.keys() and all(could_be(value[key], text[key]) for key in value)
    if isinstance(value, list | tuple) and isinstance(text, list | tuple) and len(value) == len(text):
        sets = Counter(map(key_of, value)) == Counter(map(key_of, text))
        return sets or all(map(could_be, value, text))
    return False


def differing_keys(
    one: Mapping[str, Any], other: Mapping[str, Any], ignored: Collection[str], opaque: Collection[str] = ()
) -> list[str]:
    """The keys that both configurations have with different values, but for the ignored ones; sorted.

    Args:
        opaque: Keys of `one` whose values W&B, which `other` is from, may spell as only the program knows.
    """
    shared = one.keys() & other.keys() - set(ignored)
    return sorted(
        key
        for key in shared
        if not same_value(one[key], other[key]) and not (key in opaque and could_be(one[key], other[key]))
    )


def same_configuration(one: Mapping[str, Any], other: Mapping[str, Any], ignored: Collection[str]) -> bool:
    """Whether two configurations agree on every key of either; a key that one lacks counts as None there."""
    keys = (one.keys() | other.keys()) - set(ignored)
    return all(same_value(one.get(key), other.get(key)) for key in keys)


def fingerprint(config: Mapping[str, Any], ignored: Collection[str]) -> str:
    """A text that two configurations share if they have the same keys and values, but for the ignored ones."""
    return json.dumps(canonical({key: value for key, value in config.items() if key not in ignored}))


def alike(configs: Sequence[Mapping[str, Any]], ignored: Collection[str]) -> list[int]:
    """For each configuration, the index of the first one that it agrees with on every key that both have.

    Those of one run may differ in keys that an older trainer did not know yet.
    """
    if all(config is configs[0] or plainly_equal(config, configs[0]) for config in configs):
        return [0] * len(configs)
    bare = [{key: value for key, value in config.items() if key not in ignored} for config in configs]
    first: dict[str, int] = {}
    prints = [fingerprint(config, ()) for config in bare]
    for index, text in enumerate(prints):
        first.setdefault(text, index)
    distinct = ByConfiguration((bare[index], index) for index in first.values())
    found: dict[int, int] = {}
    for index in first.values():  # in their order: whoever is first is so to those that agree with it
        found[index] = min((i for i in distinct.agreeing(bare[index]) if found.get(i, index) == i), default=index)
    return [found[first[text]] for text in prints]


def plainly_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations are one at the first look, as most that are one are."""
    return one == other and _PLAIN_OR_NONE.issuperset(map(type, one.values()))


class ByConfiguration(Generic[_T]):
    """Things with a configuration, looked up by one in a time that does not grow with their number."""

    def __init__(self, items: Iterable[tuple[Mapping[str, Any], _T]] = ()) -> None:
        self._items = list(items)
        self._found: dict[frozenset[str], dict[tuple[str, ...], dict[str, list[_T]]]] = {}
        """Keys that were asked for → those of them that a configuration has → their values → the things."""

    def __iter__(self) -> Iterator[_T]:
        return (item for _, item in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, config: Mapping[str, Any], item: _T) -> None:
        """Add a thing, before anything is looked up."""
        self._items.append((config, item))

    def agreeing(self, config: Mapping[str, Any]) -> Iterator[_T]:
        """The things whose configuration agrees with this one on every key that both have."""
        asked = frozenset(config)
        if asked not in self._found:
            by_keys: dict[tuple[str, ...], dict[str, list[_T]]] = defaultdict(lambda: defaultdict(list))
            for other, item in self._items:
                shared = tuple(sorted(asked & other.keys()))
                by_keys[shared][_values(other, shared)].append(item)
            self._found[asked] = by_keys
        for shared, by_values in self._found[asked].items():
            yield from by_values.get(_values(config, shared), ())


def _values(config: Mapping[str, Any], keys: Iterable[str]) -> str:
    return repr([canonical(config[key]) for key in keys])
