"""Values of a pickle in plain form: what JSON can hold, as `run.json` keeps a configuration.

numbers as they are, but inf and nan as text; a numpy scalar or a tensor of one element is a number
tuples, sets, ranges, arrays                     lists
objects, namespaces, OmegaConf's containers      dictionaries of their fields
members of Enums                                 their values
paths, dtypes, devices, dates, bytes, classes    text
slices                                           dictionaries, as W&B writes them
anything else                                    its kind, as in `<tensor float32 [3, 4]>`
"""

from __future__ import annotations

import math
from array import array
from collections import ChainMap
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from ckptman.formats.pickled import (
    Array,
    Device,
    DType,
    Member,
    Named,
    NumpyType,
    OtherTensor,
    PathParts,
    Record,
    Storage,
    Tensor,
    fields_of,
)
from ckptman.formats.refusals import refusal

MAX_VALUES: Final = 100_000
"""Values of one configuration. It bounds the text of paths, which may share their parts."""
MAX_TEXT: Final = 1 << 20
"""Characters of a configuration, or of all hyperparameters. In the pickle one long text may stand in many places, which
takes no room there; but whatever is written of it takes the room of them all."""
MAX_LEVELS: Final = 32
"""Levels of a configuration; what lies deeper is named by its kind."""
_MOST_ELEMENTS: Final = 1000
"""Elements of an array that are listed."""

ReadNumber = Callable[[Tensor], Any]
"""Reads the element of a tensor that has one; None where it cannot."""


class Plain:
    """Makes values plain, within limits on all of them together."""

    def __init__(self, key: str, read_number: ReadNumber | None = None) -> None:
        self._key = key
        self._read_number = read_number
        self._values = self._characters = 0
        self._within: set[int] = set()
        self.classes: set[str] = set()
        """Names of the classes whose instances became dictionaries."""
        self.opaque: set[str] = set()
        """Keys of the mapping with values that W&B may spell in another way, which the file does not tell."""
        self._is_opaque = False

    def value(self, value: Any) -> Any:
        """The value in plain form.

        Raises:
            RefusedError: `bad-field` beyond the limits.
        """
        kind = type(value)
        self._spend(len(value) if kind is str else 0)
        if kind is str or kind is bool or value is None:
            return value
        if kind is int:
            return value if value.bit_length() < 1 << 13 else f"<int of {value.bit_length():,} bits>"
        if kind is float:
            return spelled(value)
        if kind in _CONTAINERS or isinstance(value, dict | list):
            return self._container(value)
        return self._other(value)

    def mapping(self, value: Any) -> dict[str, Any] | None:
        """A dictionary, or an object with fields, as a dictionary of plain values; None for anything else."""
        items = as_mapping(value)
        if items is None:
            return None
        if type(value) is Record:
            self.classes.add(value.class_name)
        self._spend(0)
        self._is_opaque |= type(value) is Record
        is_outermost = not self._within
        self._within.add(id(value))
        plain = {}
        for key, item in items.items():
            if type(key) is str and (type(item) in _SIMPLE or (type(item) is int and -_SMALL < item < _SMALL)):
                plain[key] = item
                self._values += 2
                self._characters += len(key) + (len(item) if type(item) is str else 0)
                continue  # as below, in less time: nothing is copied
            self._is_opaque &= not is_outermost
            plain[name := self._name(key)] = self.value(item)
            if is_outermost and self._is_opaque:
                self.opaque.add(name)
        self._within.discard(id(value))
        self._check()
        return plain

    def _spend(self, characters: int) -> None:
        self._values += 1
        self._characters += characters
        self._check()

    def _check(self) -> None:
        if self._values > MAX_VALUES:
            raise refusal("bad-field", f"its {self._key} holds more than {MAX_VALUES:,} values")
        if self._characters > MAX_TEXT:
            raise refusal(
                "bad-field",
                f"its {self._key} holds {self._characters:,} characters of text or more, more than {MAX_TEXT:,}",
            )

    def _name(self, key: Any) -> str:
        text = key if type(key) is str else str(self.value(key)) if type(key) is not bool else str(key).lower()
        self._spend(len(text))
        return text

    def _container(self, value: Any) -> Any:
        if id(value) in self._within or len(self._within) >= MAX_LEVELS:
            return kind_of(value)
        if type(value) is Record and (text := _scalar_text(value)) is not None:
            self._spend(len(text))
            return text
        found = self.mapping(value)
        if found is not None:
            return found
        items = _items(value)
        if items is None:
            self._is_opaque = True
            return kind_of(value)
        self._is_opaque |= type(value) is Record or isinstance(value, set | frozenset)
        self._within.add(id(value))
        plain = [self.value(item) for item in items]
        self._within.discard(id(value))
        return plain

    def _other(self, value: Any) -> Any:
        kind = type(value)
        if kind is array or kind is bytearray or kind is range:
            return self._container(list(value)) if len(value) <= _MOST_ELEMENTS else kind_of(value)
        if kind is slice:
            return self.value({f"slice_{key}": getattr(value, key) for key in ("start", "step", "stop")})
        self._is_opaque |= kind in _OPAQUE
        if kind is Tensor and math.prod(value.shape) == 1 and self._read_number is not None:
            found = self._read_number(value)
            return kind_of(value) if found is None else self.value(found)
        if kind is Array:
            return self._array(value)
        if kind is Member:
            return self.value(value.value)
        text = _text(value)
        self._spend(len(text))
        return text

    def _array(self, found: Array) -> Any:
        if found.item() is not found:
            return self.value(found.item())
        elements = found.values() if math.prod(found.shape) <= _MOST_ELEMENTS else None
        if elements is None or None in elements or len(found.shape) > 1:
            return kind_of(found)
        return [self.value(element) for element in elements]


_SIMPLE: Final = frozenset({str, bool, type(None)})
_SMALL: Final = 1 << 63
_CONTAINERS: Final = frozenset({tuple, list, dict, set, frozenset, Record})
_OPAQUE: Final = frozenset({Tensor, OtherTensor, Array, Member, Storage, NumpyType})
"""What W&B writes of these hangs on their number of elements, on their class, or on the program."""


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """What a dictionary holds, or the fields of an object that has some; None for anything else."""
    if isinstance(value, dict):
        return value
    if type(value) is not Record or _scalar_text(value) is not None:
        return None
    if value.class_name.startswith(_WRAPPING):
        content = (fields_of(value) or {}).get(_CONTENT[value.class_name.partition(".")[0]])
        return {key: _node(item) for key, item in content.items()} if isinstance(content, dict) else None
    if type(value.items) is list or value.called:
        return None
    if value.class_name == "collections.ChainMap":
        maps = (fields_of(value) or {}).get("maps")
        return ChainMap(*maps) if type(maps) is list and all(isinstance(each, dict) for each in maps) else None
    found = fields_of(value)
    is_pydantic = found is not None and not _PYDANTIC.isdisjoint(found)
    if found is not None and is_pydantic and isinstance(found.get("__dict__"), dict):
        more = found.get("__pydantic_extra__")
        return {**found["__dict__"], **(more if isinstance(more, dict) else {})}
    return found


_PYDANTIC: Final = frozenset({"__pydantic_fields_set__", "__fields_set__"})
"""A field of each model of pydantic, since version 2 and before it."""
_CONTENT: Final = {"omegaconf": "_content", "ml_collections": "_fields", "collections": "data", "wandb": "_items"}
"""The field that holds the items of a container of each package; its other fields are the package's own."""
_WRAPPING: Final = ("omegaconf.", "ml_collections.", "collections.UserDict", "wandb.sdk.wandb_config.Config")


def _node(value: Any) -> Any:
    """What a node of OmegaConf, or a reference of ml_collections, holds; a container stays one."""
    while type(value) is Record and value.class_name.startswith(_WRAPPING[:2]):
        fields = fields_of(value) or {}
        name = "_val" if "_val" in fields else "_value"
        if name not in fields or fields.get("_ops"):
            return value
        value = fields[name]
    return value


def _items(value: Any) -> Any:
    """What a sequence or a set holds, in an order that is always the same."""
    if type(value) is Record:
        content = (fields_of(value) or {}).get("_content") if value.class_name.startswith("omegaconf.") else None
        if isinstance(content, list):
            return [_node(item) for item in content]
        return value.items if type(value.items) is list else value.args or None
    if isinstance(value, set | frozenset):
        return sorted(value, key=lambda item: (str(type(item)), item if type(item) is int else 0, str(item)))
    return value


def _scalar_text(record: Record) -> str | None:
    """The text of an object that is one value: a UUID, a zone."""
    if record.class_name == "uuid.UUID" and type(record.state) is dict and type(record.state.get("int")) is int:
        from uuid import UUID

        number = record.state["int"]
        return str(UUID(int=number)) if 0 <= number < 1 << 128 else None
    if record.class_name == "zoneinfo.ZoneInfo._unpickle" and record.args and type(record.args[0]) is str:
        return str(record.args[0])
    return None


def spelled(value: float) -> float | str:
    """A number, or, where JSON does not have it, its name as W&B writes it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: Any) -> str:
    if isinstance(value, DType | Device | PathParts | Named):
        return str(value)
    if isinstance(value, bytes | bytearray):
        raw = bytes(value[: MAX_TEXT + 1])
        with suppress(UnicodeDecodeError):
            return raw.decode()
        return raw.hex()
    if isinstance(value, complex):
        return str(value).strip("()")
    if isinstance(value, Tensor | OtherTensor | Array | Record | Storage | NumpyType):
        return kind_of(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)  # dates, numbers: they were made here


def kind_of(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, Tensor | OtherTensor):
        return f"<tensor {value.dtype} {list(value.shape)}>"
    if type(value) is Array:
        return f"<array {value.dtype} {list(value.shape)}>"
    if type(value) is Record:
        return f"<{value.class_name[:200]}>"
    if isinstance(value, dict | list | tuple | set | frozenset):
        return f"<{'dict' if isinstance(value, dict) else type(value).__name__} of {len(value):,}>"
    return f"<{type(value).__name__}>"
