"""YAML for files written by other people: plain data only, and no surprises.

Scalars are read by the core schema of YAML 1.2, the way they look: `1e-06` is a number, `no` is a string, `0010` is
ten. (PyYAML's own loader follows YAML 1.1, where they are a string, `False` and eight.) Refused, with the line:
anchors and aliases (a few lines can stand for billions of values), tags that are not core YAML (`!!python/…` runs
code in unsafe loaders; of what a program dumped they are passed over), a key given twice, more than one document, and
whatever is too large or too deep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from ckptman.text.errors import CkptmanError, ConfigurationError

MAX_BYTES = 1_000_000
"""Largest accepted document; a `config.yaml` of W&B has about 2,000 bytes."""
MAX_DEPTH = 50
"""Deepest accepted nesting of mappings and lists."""
_MOST_DIGITS = 3500
"""Most digits of a whole number, which may be hexadecimal: Python writes none that has more than 4,300 decimal ones."""

# The parser gives events; values are built from them here. LibYAML's is ten times as fast as PyYAML's own.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")

_CORE = "tag:yaml.org,2002:"
_APPLIED = _CORE + "python/object/apply:"
_NAMED = _CORE + "python/name:"
_SCALAR_TAGS: dict[str, type] = {
    _CORE + "str": str, _CORE + "int": int, _CORE + "float": float, _CORE + "bool": bool, _CORE + "null": type(None),
}  # fmt: skip


def load_yaml(
    source: str | bytes,
    where: str,
    *,
    error: type[CkptmanError] = ConfigurationError,
    max_bytes: int = MAX_BYTES,
    dumped: bool = False,
) -> object:
    """Read one YAML document of plain data.

    Args:
        source: The document; bytes must be UTF-8 (a byte-order mark is allowed).
        where: Name of the file, for the message.
        error: Class of the error to raise.
        max_bytes: Largest accepted document.
        dumped: Whether a program of Python wrote it (`yaml.dump`), as Lightning does: a tag says then of what class a
            value was, and the plain data under it is read. Nothing is looked up; what functions gave is refused.

    Returns:
        Nested dictionaries and lists of str, int, float, bool and None; None for an empty document.

    Raises:
        CkptmanError: of the class `error`; the message holds `where` and the line, and the code is one of
            `yaml-too-large`, `yaml-encoding`, `yaml-syntax`, `yaml-tag`, `yaml-alias`, `yaml-duplicate-key`,
            `yaml-too-deep`, `yaml-key`, `yaml-value`, `yaml-documents`.
    """
    try:
        return _Builder(_decode(source, max_bytes), dumped).document()
    except _BadYamlError as fault:
        line = f", line {fault.line}" if fault.line else ""
        raise error(f"{where}{line}: {fault}", code=fault.code, fix=fault.fix) from None


class _BadYamlError(Exception):
    """What is wrong with the document; becomes the caller's class of error."""

    def __init__(self, message: str, *, code: str, line: int = 0, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.line = line
        self.fix = fix


def _decode(source: str | bytes, max_bytes: int) -> str:
    """The text, once its size and encoding are known to be acceptable."""
    if len(source) > max_bytes:
        size = f"{len(source):,} {'bytes' if isinstance(source, bytes) else 'characters'} of YAML"
        fix = "Check that this is the file you meant."
        raise _BadYamlError(f"{size}; at most {max_bytes:,} are read", code="yaml-too-large", fix=fix)
    if isinstance(source, str):
        return source
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = source.count(b"\n", 0, failure.start) + 1
        fix = "Save the file as UTF-8."
        raise _BadYamlError(f"not UTF-8 ({failure.reason})", code="yaml-encoding", line=line, fix=fix) from None


class _Builder:
    """Builds values from the parser's events, refusing what is not plain data."""

    def __init__(self, text: str, dumped: bool) -> None:
        self._events = _events(text)
        self._dumped = dumped

    def document(self) -> object:
        """The one document of the stream."""
        next(self._events)  # StreamStart
        if isinstance(event := next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), depth=0)
        next(self._events)  # DocumentEnd
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise _at(event, "a second document begins", code="yaml-documents", fix="Keep one document, without '---'.")
        return value

    def _value(self, event: Any, depth: int) -> object:
        if event.anchor is not None:  # an alias has one too
            sign = "alias *" if isinstance(event, yaml.AliasEvent) else "anchor &"
            raise _at(event, f"{sign}{event.anchor} is not allowed", code="yaml-alias", fix="Write the value out.")
        if depth > MAX_DEPTH:
            raise _at(event, f"nested deeper than {MAX_DEPTH} levels", code="yaml-too-deep", fix="Flatten it.")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event, self._dumped)
        if isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            items = [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
            tag = str(event.tag)
            return _made_of(tag, items) if self._dumped and tag.startswith(_APPLIED) else items
        self._check_tag(event, "map")
        return self._mapping(depth)

    def _check_tag(self, event: Any, name: str) -> None:
        if event.tag in (None, "!", _CORE + name):
            return
        called = event.tag.rpartition(".")[2] if event.tag.startswith(_APPLIED) else "A"
        if not (self._dumped and called[:1].isupper()):  # of a class, and not of a function
            raise _foreign_tag(event)

    def _mapping(self, depth: int) -> dict[Any, object]:
        mapping: dict[Any, object] = {}
        for event in self._until(yaml.MappingEndEvent):
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                raise _at(event, "a list or a mapping is used as a key", code="yaml-key", fix="Use a plain word.")
            key = self._value(event, depth + 1)
            if key in mapping:
                raise _at(event, f"key {key!r} is given twice", code="yaml-duplicate-key", fix="Remove one of the two.")
            mapping[key] = self._value(next(self._events), depth + 1)
        return mapping

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event


def _events(text: str) -> Iterator[Any]:
    """The parser's events; its errors become faults with a line number."""
    try:
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        message = failure.problem or failure.context or "not YAML"
        line = mark.line + 1 if mark else 0
        raise _BadYamlError(message, code="yaml-syntax", line=line, fix="Correct the syntax.") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # The reader's, and those of PyYAML's own parser: NUL, a lone surrogate, an escape beyond the last character.
        raise _BadYamlError("a character that YAML does not allow", code="yaml-encoding", fix="Remove it.") from None


def _scalar(event: Any, dumped: bool) -> object:
    """The value of a scalar: a string when quoted or tagged so, else what the core schema says."""
    try:
        event.value.encode()
    except UnicodeEncodeError:  # PyYAML's own parser lets a lone surrogate through as an escape
        raise _at(event, "an escape that is no character", code="yaml-encoding", fix="Remove it.") from None
    if event.tag is None:
        return _plain(event) if event.implicit[0] else event.value
    if event.tag == "!":  # the non-specific tag: do not interpret
        return event.value
    if (wanted := _SCALAR_TAGS.get(event.tag)) is None:
        if dumped:
            return event.value or event.tag.removeprefix(_NAMED)
        raise _foreign_tag(event)
    if wanted is str:
        return event.value
    value = _plain(event)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise _at(event, f"{event.value[:80]!r} is not of type {wanted.__name__}", code="yaml-value", fix="Correct it.")
    return value


def _plain(event: Any) -> object:
    """Resolve an unquoted scalar by the core schema of YAML 1.2 (specification, section 10.3.2)."""
    text: str = event.value
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _NAN.fullmatch(text) or _INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    for pattern, base in ((_DECIMAL, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            if len(text) > _MOST_DIGITS:
                raise _at(event, "a number with too many digits", code="yaml-value", fix="Shorten it.")
            return int(text[2:] if base != 10 else text, base)
    return float(text) if _FLOAT.fullmatch(text) else text


def _made_of(tag: str, items: list[Any]) -> object:
    """What an object was made of: a path of its parts, an ordered dictionary of its pairs, the member of an Enum of its
    value."""
    if tag.startswith(f"{_APPLIED}pathlib.") and all(type(item) is str for item in items):
        return str((PureWindowsPath if "Windows" in tag else PurePosixPath)(*items))
    if tag == f"{_APPLIED}collections.OrderedDict":
        with suppress(TypeError, ValueError):  # not pairs, or a list for a key
            return dict(*items)
    return items[0] if len(items) == 1 else items


def _foreign_tag(event: Any) -> _BadYamlError:
    tag = event.tag.replace(_CORE, "!!")[:80]
    return _at(event, f"tag {tag!r} is not allowed; only plain data is read", code="yaml-tag", fix="Remove the tag.")


def _at(event: Any, message: str, *, code: str, fix: str) -> _BadYamlError:
    return _BadYamlError(message, code=code, line=event.start_mark.line + 1, fix=fix)
