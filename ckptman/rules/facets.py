"""Facets: what a configuration is, in one word each, by a key's value or by a condition on several keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from typing import Any

from ckptman.rules import comparing
from ckptman.text import RefusedError

Scalar = str | int | float | bool | None
Family = tuple[Scalar, ...]
"""A value of each facet that is a level of folders, in the convention's order."""

_COMPARISON = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(==|!=|<=|>=|<|>)\s*(\S.*?)\s*", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_LITERALS: Mapping[str, Scalar] = {"true": True, "false": False, "null": None}
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_FREE = re.compile(r"[A-Za-z0-9_.+=-]+", re.ASCII)


@dataclass(frozen=True)
class Comparison:
    """`key == other`: a key's value compared with that of another key, or with a value."""

    key: str
    operator: str
    other: str | None
    """The other key; None where `value` is meant."""
    value: Scalar = None

    def holds(self, config: Mapping[str, Any]) -> bool | None:
        """Whether it holds; None where the configuration lacks a key, or has a value that cannot be compared."""
        if self.key not in config or (self.other is not None and self.other not in config):
            return None
        mine, value = config[self.key], self.value if self.other is None else config[self.other]
        if self.operator in ("==", "!="):
            if self.other is not None and (_kind(mine) is None or _kind(mine) is not _kind(value)):
                return None
            return comparing.same_value(mine, value) == (self.operator == "==")
        if _kind(mine) is not float or _kind(value) is not float:
            return None
        return _ORDERED[self.operator](comparing.canonical(mine), comparing.canonical(value))


Condition = tuple[Comparison, ...]
"""All of them must hold."""


def parse_condition(text: str) -> Condition | None:
    """The comparisons in `shortest == longest and n_layers > 1`; None for any other text."""
    found = []
    for part in re.split(r"\s+and\s+", text):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            return None
        key, operator, other = match.groups()
        literal = _literal(other)
        if literal is not None:
            found.append(Comparison(key, operator, None, literal[0]))
        elif _KEY.fullmatch(other):
            found.append(Comparison(key, operator, other))
        else:
            return None
    return tuple(found)


@dataclass(frozen=True)
class FacetValue:
    """One value of a facet."""

    word: str
    """What the convention calls it."""
    value: Scalar
    """In records and `--json`, and, of a facet with a key, in the configuration."""
    folder: str
    title: str
    when: Condition = ()
    option: str = ""
    """The command-line option that asks for it."""


@dataclass(frozen=True)
class Facet:
    """One facet of a convention."""

    name: str
    title: str
    config: str | None
    """The configuration key whose value it is; None where conditions decide."""
    values: tuple[FacetValue, ...] = ()
    """Empty where any value may stand."""
    absent: Scalar = field(default=None)
    """The value of a configuration without the key; None where it is refused."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The configuration keys that decide it."""
        if self.config is not None:
            return (self.config,)
        said = (key for each in self.values for part in each.when for key in (part.key, part.other) if key)
        return tuple(dict.fromkeys(said))

    def of(self, config: Mapping[str, Any]) -> Scalar:
        """The value that a configuration has.

        Raises:
            RefusedError: (`no-family`) if it lacks a key that decides, or has a value that none of the facet's is.
        """
        if self.config is not None:
            return self._of_key(config)
        for each in self.values:
            if all(part.holds(config) for part in each.when):
                return each.value
        lacking = [key for key in self.keys if _kind(config.get(key)) is None]
        shown = ", ".join(_said_of(key, config) for key in lacking or self.keys)
        if lacking:
            raise _no_family(f"{shown} where a value is needed to tell {self.title}")
        raise _no_family(f"{shown}, which is none of {self.title}: {', '.join(each.word for each in self.values)}")

    def _of_key(self, config: Mapping[str, Any]) -> Scalar:
        key = str(self.config)
        value = config.get(key)
        if value is None and self.absent is not None and key not in config:
            return self.absent
        if self.values:
            found = next((each for each in self.values if comparing.same_value(each.value, value)), None)
            if found is not None:
                return found.value
            wanted = " or ".join(_shown(each.value) for each in self.values)
        else:
            plain = comparing.canonical(value)
            if isinstance(plain, int | float | str) and _FREE.fullmatch(str(plain)):
                return plain
            wanted = "a value that can be a part of a folder's name"
        raise _no_family(f"{_said_of(key, config)} where {wanted} is needed to tell {self.title}")

    def find(self, value: object) -> FacetValue | None:
        """The known value that is this one."""
        return next((each for each in self.values if comparing.same_value(each.value, value)), None)

    def knows(self, value: object) -> bool:
        """Whether a value may be one of this facet."""
        return isinstance(value, str | int | float) and (not self.values or self.find(value) is not None)

    def folder(self, value: Scalar) -> str:
        """A value as folders have it."""
        found = self.find(value)
        return str(comparing.canonical(value)) if found is None else found.folder

    def heading(self, value: Scalar) -> str:
        """A value for people, such as `With LayerNorm`."""
        found = self.find(value)
        return f"{self.title} {comparing.canonical(value)}" if found is None else found.title

    @property
    def pattern(self) -> str:
        """A regular expression for its values as folders have them."""
        longest_first = sorted((each.folder for each in self.values), key=len, reverse=True)
        return "|".join(map(re.escape, longest_first)) or _FREE.pattern

    def parse(self, folder: str) -> Scalar:
        """The value of a folder's text."""
        if self.values:
            return next(each.value for each in self.values if each.folder == folder)
        for kind in (int, float):
            try:
                number = kind(folder)
            except ValueError:
                continue
            if str(number) == folder:
                return number
        return folder


def _literal(text: str) -> tuple[Scalar] | None:
    """The value that a text is; None where it is none."""
    if text in _LITERALS:
        return (_LITERALS[text],)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return (text[1:-1],)
    for kind in (int, float):
        try:
            return (kind(text),)
        except ValueError:
            continue
    return None


def _kind(value: object) -> type[object] | None:
    """Whether a value is a flag, a number (float) or a text; None for others."""
    if isinstance(value, bool):
        return bool
    plain = comparing.canonical(value)
    return float if isinstance(plain, int | float) else str if isinstance(plain, str) else None


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _said_of(key: str, config: Mapping[str, Any]) -> str:
    return f"{key} = {config[key]!r}" if key in config else f"no {key}"


def _no_family(problem: str) -> RefusedError:
    return RefusedError(
        f"the configuration has {problem}",
        code="no-family",
        fix="If the file's name says it, pass --trust name.",
    )
