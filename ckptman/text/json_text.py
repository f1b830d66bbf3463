"""JSON as ckptman writes it, for people and programs alike; and records of it, read strictly by their types."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

MORE = "more"
"""The field in which a record keeps what a newer ckptman wrote into it."""

OMIT_NONE = {"omit_none": True}
"""Metadata of a field that is left out of the JSON where it is None, or empty."""

_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
"""How `jsonable` spells the numbers that JSON lacks."""

_T = TypeVar("_T")


def dump_json(document: Any) -> bytes:
    """A JSON document as ckptman writes it: readable, ASCII (whatever a file name holds), ending in a newline."""
    return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def jsonable(value: Any) -> Any:
    """`value` with numbers that JSON lacks as text: "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return _NO_NUMBERS[0 if math.isnan(value) else 1 if value > 0 else 2]
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def record_of(kind: type[_T], document: Any) -> _T:
    """A record, which is a dataclass, from a JSON document: every part of exactly its type, none of them missing.

    What the record does not know, at any depth, is kept in its field `more`, if it has one, for `document_of`.

    Raises:
        ValueError: telling what is wrong, and where in the document.
    """
    try:
        return msgspec.convert(_with_more(kind, document), type=kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def document_of(record: Any) -> Any:
    """A record as a JSON document, with what a newer ckptman wrote into it."""
    if not dataclasses.is_dataclass(record):
        return [document_of(item) for item in record] if isinstance(record, tuple) else jsonable(record)
    document = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name != MORE and not (value in (None, ()) and field.metadata == OMIT_NONE):
            document[field.name] = document_of(value)
    return document | jsonable(getattr(record, MORE, {}))


def _with_more(kind: Any, value: Any) -> Any:
    """A document in which what its records do not know stands in their field `more`, and numbers as `jsonable` has them
    are numbers."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return [_with_more(get_args(kind)[0], item) for item in value]
    if value in _NO_NUMBERS and float in (kind, *get_args(kind)):
        return float(value)
    if not dataclasses.is_dataclass(kind) or not isinstance(value, dict):
        return value
    types = _types(cast(Hashable, kind))
    known = {key: _with_more(types[key], item) for key, item in value.items() if key in types and key != MORE}
    return known | {MORE: {key: item for key, item in value.items() if key not in known}} if MORE in types else known


@cache
def _types(kind: Hashable) -> Mapping[str, Any]:
    return get_type_hints(cast(Any, kind))
