"""JSON as ckptman writes it, for people and programs alike; and records of it, read strictly by their types."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from sys import intern
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

MORE = "more"
"""The field in which a record keeps what a newer ckptman wrote into it."""

OMIT_NONE = {"omit_none": True}
"""Metadata of a field that is left out of the JSON where it is None, or empty."""

_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
"""How `jsonable` spells the numbers that JSON lacks."""

_T = TypeVar("_T")


def dump_json(document: Any) -> bytes:
    """A JSON document as ckptman writes it: readable, ASCII (whatever a file name holds), ending in a newline.

    Numbers that JSON lacks are text, as `jsonable` has them.
    """
    try:
        text = _ascii_json(document, (",", ":"))
    except ValueError:
        document = jsonable(document)
        text = _ascii_json(document, (",", ":"))
    try:  # in C; `json` lays out in Python
        return msgspec.json.format(text, indent=1) + b"\n"
    except msgspec.DecodeError:  # half of a character, as an undecodable file name has
        return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def dump_line(document: Any) -> bytes:
    """A JSON document in one line: ASCII, without the newline. All numbers in it are finite."""
    try:
        text = msgspec.json.encode(document)
    except UnicodeEncodeError:
        text = b"\xff"
    return text if text.isascii() else _ascii_json(document, (",", ":"))


def load_json(data: bytes) -> Any:
    """A JSON document that anybody wrote; numbers that JSON lacks are text, as `jsonable` has them.

    Raises:
        ValueError: it is none.
        RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except ValueError:  # it is none; or it is Python's, with NaN in it
        # As text: of bytes, `json` guesses the encoding, and imports what reads it.
        return jsonable(json.loads(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogatepass")))


def _ascii_json(document: Any, separators: tuple[str, str]) -> bytes:
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=separators).encode("ascii")


def jsonable(value: Any) -> Any:
    """`value` with numbers that JSON lacks as text: "NaN", "Infinity", "-Infinity"."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NO_NUMBERS[0 if math.isnan(value) else 1 if value > 0 else 2]
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
    kind: Any = type(record)
    if kind in _AS_THEY_ARE:
        return record
    if (fields := _fields(kind)) is None:
        return [document_of(item) for item in record] if isinstance(record, tuple) else jsonable(record)
    document = {
        name: document_of(value)
        for name, is_omitted in fields
        if (value := getattr(record, name)) not in (None, ()) or not is_omitted
    }
    return document | jsonable(more) if (more := getattr(record, MORE, None)) else document


_AS_THEY_ARE = frozenset({str, int, bool, type(None)})


@cache
def _fields(kind: Hashable) -> tuple[tuple[str, bool], ...] | None:
    """The fields of a dataclass but for `more`, and whether each is left out where it is None; None for other types."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple((each.name, each.metadata == OMIT_NONE) for each in dataclasses.fields(kind) if each.name != MORE)


def _with_more(kind: Any, value: Any) -> Any:
    """A document in which what its records do not know stands in their field `more`, and numbers as `jsonable` has them
    are numbers."""
    return shaper(value) if (shaper := _shaper(kind)) is not None else value


_Shaper = Callable[[Any], Any]


@cache
def _shaper(kind: Hashable) -> _Shaper | None:
    """What `_with_more` does to a value of this type; None where that is nothing."""
    arguments: tuple[Any, ...] = get_args(kind)
    if get_origin(kind) is tuple:
        inner = _shaper(arguments[0])
        return inner and (lambda value: [inner(item) for item in value] if isinstance(value, list) else value)
    record = next((each for each in (kind, *arguments) if dataclasses.is_dataclass(each)), None)
    if record is not None:
        return _record_shaper(record)
    if get_origin(kind) is Mapping:  # many records have the same keys: one text for each
        return lambda value: (
            dict(zip(map(intern, value), value.values(), strict=True)) if isinstance(value, dict) else value
        )
    if float in (kind, *arguments):
        return lambda value: float(value) if value in _NO_NUMBERS else value
    return None


def _record_shaper(kind: Any) -> _Shaper:
    types = get_type_hints(kind)
    shapers = {key: shaper for key, type_ in types.items() if key != MORE and (shaper := _shaper(type_)) is not None}
    known = types.keys() - {MORE}

    def shaped(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.keys() <= known:
            found = value.copy()
        else:
            found = {key: item for key, item in value.items() if key in known}
            if MORE in types:
                found[MORE] = {key: item for key, item in value.items() if key not in known}
        for key, shaper in shapers.items():
            if key in found:
                found[key] = shaper(found[key])
        return found

    return shaped
