"""Checkpoints whose pickles differ in numbers and words of the configuration alone: known after two of them.

A grid has many: runs of other seeds, tasks and groups, and a checkpoint on the way beside the final one. A pickle is a
program without arithmetic and without branches, so that the number or the word which one step pushes gets to the same
places, whatever it is. Which places these are, a pickle tells in which each of them is replaced by a mark that is
nowhere else in it: if all marks are then found in the configuration, under keys whose values are taken as they are, or
stand for the iterations done or the run's id; and if with the numbers and words of an earlier pickle in these places it
says what that one was found to say, then any other of the kind says the same, with its own. A kind in which a number
has an effect on anything else (a shape, a storage, an object) is never known.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckptman.formats.pickled import Storage
from ckptman.rules import TrainConfig, recipe
from ckptman.text import RefusedError

if TYPE_CHECKING:
    from ckptman.formats.checkpoint import CheckpointInfo
    from ckptman.rules import terms

MOST_KINDS: Final = 1024
"""Kinds of pickles that are remembered: some 20 KB each."""
_MOST_CUTS: Final = 4
"""Kinds of one length that are cut at once."""

_NUMBERS: Final = frozenset(item.name for item in fields(TrainConfig) if item.type == "int")
_WORDS: Final = frozenset(
    item.name for item in fields(TrainConfig) if str(item.type).startswith("str") and item.name not in recipe.WORDS
)
"""Fields of a configuration whose value, if it is a whole number, or a word, is taken as it is."""
_PLACE: Final = rb"(?:q.|r....)"
"""As the pickler puts a text into the memo."""
_NUMBER: Final = rb"(?:K.|M..|J...[\0-\x7f])(?![qr\x94])"
"""A whole number that is not put into it."""
_WORD: Final = rb"X.\0\0\0[A-Za-z0-9_./-]+(?=[qr])"
_LETTERS: Final = re.compile(rb"[A-Za-z0-9_./-]+")
_TEXT: Final = ord("X")
_WORD_AT: Final = 5
"""Bytes before the letters of a word."""
_FORMS: Final = {2: "B", 3: "H", 5: "i"}
"""Numbers, by the length of the instruction."""
_FIRST_MARK: Final = 0x5EED0000


class Said(NamedTuple):
    """What a pickle says."""

    info: CheckpointInfo
    storages: tuple[Storage, ...]
    """Those that it needs."""
    is_alone: bool
    """Whether nothing of it was read from the rest of the file."""


class Sample(NamedTuple):
    """A pickle, taken apart."""

    kind: bytes
    """The same for pickles that differ in the values alone, and are read by the same rules."""
    values: tuple[int | str, ...]
    """The numbers and words, in their order."""


class _Cut(NamedTuple):
    """Where to cut pickles of one length, and of one kind."""

    struct: Struct
    """Takes out what stays and the values, in turns."""
    stays: tuple[bytes, ...]
    """With the beginnings of the instructions whose values are taken out."""
    kind: bytes
    words: tuple[int, ...]
    """Which of the values are words."""
    longs: tuple[int, ...]
    """Which are numbers of four bytes, and no negative ones."""
    rules: terms.CheckpointRules
    """Kept, so that no other rules get their identity."""


class _Places(NamedTuple):
    """Where the values of a kind get to: each with its number among them."""

    config: tuple[tuple[str, int], ...]
    model_config: tuple[tuple[str, int], ...]
    fields: tuple[tuple[str, int], ...]
    """Of `CheckpointInfo` itself."""


@dataclass(slots=True)
class _Kind:
    said: Said
    values: tuple[int | str, ...]
    """Of the first of it."""
    rules: terms.CheckpointRules
    """Kept, so that no other rules get their identity."""
    held: Mapping[str, Any]
    """The fields of what is said of it."""
    is_tried: bool = False
    places: _Places | None = None
    """None until a second one is seen, and where they cannot be told."""


_KINDS: OrderedDict[bytes, _Kind] = OrderedDict()
_PATTERNS: dict[int, tuple[terms.CheckpointRules, re.Pattern[bytes]]] = {}
_CUTS: OrderedDict[tuple[int, int], list[_Cut]] = OrderedDict()
"""By rules and length, the last few."""


def sample_of(data: bytes, rules: terms.CheckpointRules) -> Sample | None:
    """A pickle, taken apart; None where it has no such number or word, or one that is not what it seems."""
    cuts = _CUTS.get((id(rules), len(data)), [])
    for cut in cuts:
        if (sample := _cut_as(data, cut)) is not None:
            return sample
    parts, tokens = _parts(data, rules)
    if not tokens or any(token[0] == _TEXT and token[1] != len(token) - _WORD_AT for token in tokens):
        return None
    kind = hashlib.sha256(repr((id(rules), list(map(len, parts)))).encode() + b"".join(parts)).digest()
    if kind in _KINDS:  # there are others of it
        _CUTS[id(rules), len(data)] = [_cut(kind, parts, tokens, rules), *cuts[: _MOST_CUTS - 1]]
        if len(_CUTS) > MOST_KINDS:
            _CUTS.popitem(last=False)
    return Sample(kind, tuple(map(_value, tokens)))


def _parts(data: bytes, rules: terms.CheckpointRules) -> tuple[list[bytes], list[bytes]]:
    """What is before, between and behind the values of a pickle, each value's key by itself; and what makes them."""
    if id(rules) not in _PATTERNS:
        _PATTERNS.clear()
        _PATTERNS[id(rules)] = rules, _pattern(rules)
    parts = _PATTERNS[id(rules)][1].split(data)
    tokens = parts[2::3]
    del parts[2::3]
    return parts, tokens


def _value(token: bytes) -> int | str:
    return token[_WORD_AT:].decode() if token[0] == _TEXT else int.from_bytes(token[1:], "little")


def with_values(data: bytes, rules: terms.CheckpointRules, values: Iterable[int | str]) -> bytes:
    """A pickle of the same kind, with other values."""
    parts, _ = _parts(data, rules)
    made = parts[:1]
    for value, key, after in zip(values, parts[1::2], parts[2::2], strict=True):
        if isinstance(value, int):
            made += key, b"J", value.to_bytes(4, "little"), after
        else:
            made += key, b"X", len(value).to_bytes(4, "little"), value.encode(), after
    return b"".join(made)


def _cut(kind: bytes, parts: list[bytes], tokens: list[bytes], rules: terms.CheckpointRules) -> _Cut:
    """How a pickle was cut into what stands before each value, and the value."""
    form, stays = "<", []
    for at, token in enumerate(tokens):
        start = _WORD_AT if token[0] == _TEXT else 1
        stays.append(parts[2 * at] + parts[2 * at + 1] + token[:start])
        form += f"{len(stays[-1])}s" + (f"{len(token) - start}s" if token[0] == _TEXT else _FORMS[len(token)])
    return _Cut(
        Struct(f"{form}{len(parts[-1])}s"),
        (*stays, parts[-1]),
        kind,
        tuple(at for at, token in enumerate(tokens) if token[0] == _TEXT),
        tuple(at for at, token in enumerate(tokens) if token[:1] == b"J"),
        rules,
    )


def _cut_as(data: bytes, cut: _Cut) -> Sample | None:
    """A pickle that is cut as one of its length; None where it is another one."""
    found = cut.struct.unpack(data)
    if found[::2] != cut.stays:
        return None
    values: list[Any] = list(found[1::2])
    if any(values[at] < 0 for at in cut.longs):
        return None
    for at in cut.words:
        if _LETTERS.fullmatch(values[at]) is None:
            return None
        values[at] = values[at].decode()
    return Sample(cut.kind, tuple(values))


def _pattern(rules: terms.CheckpointRules) -> re.Pattern[bytes]:
    """What stands before a value, and the value."""
    own = {(form.iters, form.itr) for form in rules.forms}
    numbers = _NUMBERS | {_last(key) for pair in own for key in pair if key} | set(rules.step_keys)
    words = _WORDS | {_last(form.run_id) for form in rules.forms if form.run_id}
    before = rb"%s%s(?=[KMJ])|%s%s(?=X)" % (_keys(numbers), _PLACE, _keys(words), _PLACE)
    return re.compile(rb"(%s)(%s|%s)" % (before, _NUMBER, _WORD), re.DOTALL)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _keys(names: Iterable[str]) -> bytes:
    """Any of these texts, as the pickler writes it."""
    by_length: dict[int, list[bytes]] = defaultdict(list)
    for text in sorted(name.encode() for name in names):
        by_length[len(text)].append(re.escape(text))
    each = (
        re.escape(length.to_bytes(4, "little")) + b"(?:%s)" % b"|".join(texts) for length, texts in by_length.items()
    )
    return b"X(?:%s)" % b"|".join(each)


def known(sample: Sample, interpret: Callable[[Sequence[int | str]], Said]) -> Callable[[int], Said] | None:
    """What a pickle says, given the size of its file, where its kind is known.

    Args:
        sample: The pickle.
        interpret: What it would say with other values; asked once for a kind.
    """
    kind = _KINDS.get(sample.kind)
    if kind is None:
        return None
    if not kind.is_tried:
        kind.is_tried = True
        kind.places = _places_of(kind, sample, interpret)
    places = kind.places
    if places is None:
        return None
    # The same objects where they are equal: a tree whose configurations are held has many of each.
    values = tuple(one if one == two else two for one, two in zip(kind.values, sample.values, strict=True))
    return lambda size: kind.said._replace(info=_filled(kind.said.info, kind.held, places, values, size))


def learn(sample: Sample, rules: terms.CheckpointRules, said: Said) -> None:
    """Take note of what the first pickle of a kind says."""
    if not said.is_alone or sample.kind in _KINDS:
        return
    _KINDS[sample.kind] = _Kind(said, sample.values, rules, _fields_of(said.info))
    if len(_KINDS) > MOST_KINDS:
        _KINDS.popitem(last=False)


def forget() -> None:
    """Let the next pickle of each kind be the first one."""
    _KINDS.clear()
    _CUTS.clear()


def _places_of(kind: _Kind, sample: Sample, interpret: Callable[[Sequence[int | str]], Said]) -> _Places | None:
    """Where the values of a kind get to, if the pickle of marks shows it, and says what the first one was found to."""
    marks = [_FIRST_MARK + at if isinstance(value, int) else f"mark_{at}_" for at, value in enumerate(sample.values)]
    try:
        marked = interpret(marks)
    except RefusedError:
        return None
    info = marked.info
    number_of = {mark: at for at, mark in enumerate(marks)}
    places = _Places(
        _found_in(info.config, number_of),
        _found_in(info.model_config, number_of),
        _found_in({name: getattr(info, name) for name in ("iters_done", "itr", "run_id")}, number_of),
    )
    is_found = {at for part in places for _, at in part} == set(range(len(marks)))
    in_configs = (*places.config, *places.model_config)
    is_plain = all(key in (_NUMBERS if isinstance(marks[at], int) else _WORDS) for key, at in in_configs)
    if not (is_found and is_plain and marked.is_alone and marked.storages == kind.said.storages):
        return None
    first = kind.said.info
    return places if _is_same(_filled(info, _fields_of(info), places, kind.values, first.size), first) else None


def _found_in(items: Mapping[str, Any] | None, number_of: Mapping[int | str, int]) -> tuple[tuple[str, int], ...]:
    found = ((key, item) for key, item in (items or {}).items() if type(item) in (int, str))
    return tuple((key, number_of[item]) for key, item in found if item in number_of)


def _is_same(one: CheckpointInfo, two: CheckpointInfo) -> bool:
    """Whether two say the same, to the order of keys, the types of values and the places of tensors."""
    return one == two and _details(one) == _details(two)


def _details(info: CheckpointInfo) -> list[object]:
    configs = [[(key, type(item)) for key, item in (each or {}).items()] for each in (info.config, info.model_config)]
    return [*configs, [(tensor.view, tensor.saved_as) for tensor in info.tensors]]


def _fields_of(info: CheckpointInfo) -> dict[str, Any]:
    return {item.name: getattr(info, item.name) for item in fields(info)}


def _filled(
    info: CheckpointInfo, held: Mapping[str, Any], places: _Places, values: tuple[int | str, ...], size: int
) -> CheckpointInfo:
    """What a pickle of these values says; `held` are the fields of `info`."""
    changes: dict[str, Any] = {name: values[at] for name, at in places.fields}
    if places.config:
        changes["config"] = {**(info.config or {}), **{key: values[at] for key, at in places.config}}
    if places.model_config:
        changes["model_config"] = {**(info.model_config or {}), **{key: values[at] for key, at in places.model_config}}
    return type(info)(**{**held, "size": size, **changes})  # as `replace` does, in a third of the time
