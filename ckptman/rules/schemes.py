"""Naming schemes beside the grammar: templates and regular expressions with typed fields, each with a way back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from re import _parser  # type: ignore[attr-defined]  # the one reading of a pattern that cannot differ from its matching
from typing import Any

from ckptman.rules import comparing

KIND, STEP = "kind", "step"
"""Holes that say what sort of checkpoint it is, and after how many iterations."""
LONGEST_NAME = 255
"""Bytes that a file's name has at most; a longer one is of no scheme."""
_HOLE = re.compile(r"\{([A-Za-z_]\w*)(?::([A-Za-z0-9.]+))?\}", re.ASCII)
_BRACKETS = ("{[}", "{]}")
_PIECE = re.compile(r"\{[^{}]*\}|\[|\]|[^\[\]{}]+|.", re.DOTALL)
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T_-][0-9]{2}[-:.]?[0-9]{2}(?:[-:.]?[0-9]{2})?)?"
    r"|(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:[0-2][0-9]|3[01])(?:[-_T]?[0-9]{4}(?:[0-9]{2})?)?"
    r"|[A-Z][a-z]{2}[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2}"
)
_MOST_DENOMINATOR = 10_000
_REPEATED = re.compile(r"\)[+*{]|[+*}][+*{]")
"""A group that is repeated, or a repetition of a repetition, once escapes and sets of characters are taken out."""
MOST_TEXTS = 3
"""Parts of a name side by side that may hold the same text: more of them can be matched in too many ways."""
_LETTERS = frozenset(map(chr, range(32, 127)))
"""Characters by which repeated parts of a regular expression are compared."""

VALUES: Mapping[str, str] = {
    "int": r"-?[0-9]{1,18}",
    "flag": "[01]",
    "bool": "True|False",
    "float": _NUMBER,
    "g": _NUMBER,
    "sci": r"-?[0-9](?:\.[0-9]+)?[eE]-?[0-9]{1,3}",
    "p": r"-?[0-9]+p[0-9]+",
    "gp": r"-?[0-9]+(?:p[0-9]+)?(?:e[+-]?[0-9]+)?",
    "over": r"[0-9]+over[1-9][0-9]*",
    "time": TIME,
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "word": r"[A-Za-z0-9.]+",
    "text": r"[^/]+?",
    "list": r"[0-9]+(?:-[0-9]+)*",
}
"""How the values of each type are spelled: `sci` is `3e-4`, `p` is `0p01`, `over` is `8over1`, `list` is `25-50`; `g`
and `gp` are as short as they can be."""
_PADDED, _DIGITS = re.compile("0([1-9][0-9]?)d"), re.compile(r"\.([0-9]{1,2})([ef])")
_UNITS: Mapping[str, float] = {"k": 1e3, "m": 1e6, "b": 1e9}
_WITH_UNIT = re.compile("[kK]?[mM]?[bB]?")


def regex_of(kind: str) -> str | None:
    """What values of a type look like; None if there is no such type.

    Besides those of `VALUES` there are Python's formats of numbers, `06d`, `.2f`, `.0e`; and units: `kM` writes `10k`.
    """
    if kind in VALUES:
        return VALUES[kind]
    if padded := _PADDED.fullmatch(kind):
        return f"[0-9]{{{padded[1]},18}}"
    if digits := _DIGITS.fullmatch(kind):
        part = rf"\.[0-9]{{{digits[1]}}}" if int(digits[1]) else ""
        return f"-?[0-9]+{part}" if digits[2] == "f" else f"-?[0-9]{part}e[+-][0-9]{{2,3}}"
    return rf"[0-9]+(?:\.[0-9]+)?[{kind}]?" if kind and _WITH_UNIT.fullmatch(kind) else None


@dataclass(frozen=True)
class Field:
    """What one hole of a scheme says."""

    name: str
    type: str
    config: str
    """The configuration key; one that no configuration has says nothing but itself."""
    inverted: bool = False
    unused: bool = False
    """It is no part of the configuration: a time, or an epoch."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """The values that words stand for; empty where the type tells."""

    @cached_property
    def regex(self) -> str:
        """What its value looks like: one of its words, or, where it has a type besides, of that."""
        ways = list(map(re.escape, sorted(self.words, key=len, reverse=True)))
        return "|".join(ways if ways and self.type == "text" else [*ways, regex_of(self.type) or ""])

    def parse(self, text: str) -> Any:
        """The value that a text of it stands for."""
        if text in self.words:
            return self.words[text]
        match self.type:
            case "int":
                return int(text)
            case "word" | "text" | "time" | "uuid":
                return text
            case "flag":
                return (text == "1") != self.inverted
            case "bool":
                return (text == "True") != self.inverted
            case "over":
                above, below = map(int, text.split("over"))
                return above / below
            case "list":
                return list(map(int, text.split("-")))
            case kind if kind.endswith("d"):
                return int(text)
        unit = _UNITS.get(text[-1].lower())
        number = float(text.replace("p", ".")) if unit is None else float(text[:-1]) * unit
        is_whole = _WITH_UNIT.fullmatch(self.type) and number.is_integer()
        return int(number) if is_whole else number

    def format(self, value: Any) -> str | None:
        """A value as names write it; None where its type is not the field's."""
        for word, known in self.words.items():
            if comparing.same_value(known, value):
                return word
        text = None if self.words and self.type == "text" else _spelled(self, value)
        if text is not None and self.type == "p" and text.endswith("p"):
            text += "0"  # of a whole number
        return text if text is not None and re.fullmatch(self.regex, text) else None


def _spelled(field: Field, value: Any) -> str | None:
    match field.type:
        case "flag" | "bool":
            flag = comparing.flag(value)
            said = None if flag is None else flag != field.inverted
            return None if said is None else str(said) if field.type == "bool" else str(int(said))
        case "list":
            return "-".join(map(str, value)) if isinstance(value, list | tuple) and value else None
        case "word" | "text" | "time" | "uuid" if isinstance(value, str):
            return value
    number = comparing.canonical(value) if not isinstance(value, bool) else None
    return _number(field.type, value, number) if isinstance(number, int | float) else None


def _number(kind: str, value: Any, number: float) -> str | None:
    """A number as a type spells it.

    Args:
        kind: The type.
        value: The number as it was given.
        number: The same, whole ones as an `int`.
    """
    match kind:
        case "int":
            return str(number) if isinstance(number, int) else None
        case "float":
            return repr(value)
        case "g":
            return f"{number:g}"
        case "gp":
            return f"{number:g}".replace(".", "p")
        case "p":
            return f"{float(value):.10f}".rstrip("0").replace(".", "p", 1)
        case "sci":
            above, _, exponent = (
                f"{number!r}".partition("e") if "e" in repr(number) else f"{number:.15e}".partition("e")
            )
            return f"{float(above):.12g}e{int(exponent)}"
        case "over":
            ratio = Fraction(float(value)).limit_denominator(_MOST_DENOMINATOR)
            return f"{ratio.numerator}over{ratio.denominator}"
        case "word" | "text" | "time":
            return str(value)
    if kind.endswith("d"):
        return f"{number:{kind}}" if isinstance(number, int) else None
    if kind.endswith(("e", "f")):
        return f"{number:{kind}}"
    unit = next((unit for unit in reversed(kind) if number >= _UNITS[unit.lower()]), "")
    return f"{number / _UNITS[unit.lower()]:.12g}{unit}" if unit else str(number)


@dataclass(frozen=True)
class Parsed:
    """What a name says by one scheme."""

    kind: str | None
    values: Mapping[str, Any]
    step: int | None
    unused: Mapping[str, Any]
    """What is no part of the configuration."""


@dataclass(frozen=True)
class Scheme:
    """One way to name files."""

    name: str
    template: str
    """Empty for a scheme that is a regular expression alone, which has no way back."""
    pattern: str
    """A regular expression with a named group for each field; empty where the template tells."""
    fields: Mapping[str, Field]
    kinds: Mapping[str, str]
    """The kind of checkpoint that each word of `{kind}` stands for."""
    step: Field = Field(STEP, "int", STEP)
    """How the step is spelled."""
    kind: str | None = None
    """The kind of all its files; None where the name says it, or what is inside."""
    examples: tuple[str, ...] = ()

    def parse(self, name: str) -> Parsed | None:
        """What a name says; None where it is of another scheme."""
        if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
            return None
        match = self._regex.fullmatch(name)
        if match is None:
            return None
        said = {key: text for key, text in match.groupdict().items() if text is not None}
        kind = self.kinds.get(said.pop(KIND, ""), self.kind)
        step = said.pop(STEP, None)
        held = [(self.fields[key], self.fields[key].parse(text)) for key, text in said.items()]
        values = {field.config: value for field, value in held if not field.unused}
        unused = {field.config: value for field, value in held if field.unused}
        return Parsed(kind, values, None if step is None else comparing.whole(self.step.parse(step)), unused)

    def format(self, config: Mapping[str, Any], kind: str | None, step: int | None) -> str | None:
        """The name of a checkpoint; None where the scheme cannot write it."""
        if not self.template or (self.kind is not None and kind not in (self.kind, None)):
            return None
        texts: dict[str, str | None] = {
            KIND: next((word for word, known in self.kinds.items() if known == kind), None),
            STEP: None if step is None else self.step.format(step),
        }
        for name, item in self.fields.items():
            texts[name] = None if config.get(item.config) is None else item.format(config[item.config])
        made = ""
        for optional, piece in parts_of(self.template):
            holes = [match[1] for match in _HOLE.finditer(piece)]
            if any(texts.get(hole) is None for hole in holes):
                if not optional:
                    return None
                continue
            made += _HOLE.sub(lambda match: texts[match[1]] or "", piece)
        return made

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        if self.pattern:
            return re.compile(self.pattern, re.ASCII)
        whole = ""
        for optional, piece in parts_of(self.template):
            text, end = "", 0
            for match in _HOLE.finditer(piece):
                text += re.escape(piece[end : match.start()]) + f"(?P<{match[1]}>{self._value(match[1])})"
                end = match.end()
            text += re.escape(piece[end:])
            whole += f"(?:{text})?" if optional else text
        return re.compile(whole, re.ASCII)

    def _value(self, hole: str) -> str:
        if hole == KIND:
            return "|".join(map(re.escape, sorted(self.kinds, key=len, reverse=True)))
        return (self.step if hole == STEP else self.fields[hole]).regex

    @property
    def shape(self) -> str:
        """Its names, for people."""
        return self.template or self.pattern


def holes_of(template: str) -> list[tuple[str, str]]:
    """The holes of a template: names and types, `` where none is given."""
    return [(match[1], match[2] or "") for match in _HOLE.finditer(template)]


def parts_of(template: str) -> list[tuple[bool, str]]:
    """The parts of a template, and whether each stands in brackets, so that it may be left out; `{[}` is a bracket.

    Raises:
        ValueError: where brackets or braces do not pair.
    """
    parts: list[tuple[bool, str]] = []
    optional = False
    for piece in _PIECE.findall(template):
        if piece in ("[", "]"):
            if (piece == "[") is optional:
                raise ValueError("its brackets do not pair")
            optional = piece == "["
            parts.append((optional, ""))
        elif piece in ("{", "}") or (piece[0] == "{" and piece not in _BRACKETS and not _HOLE.fullmatch(piece)):
            raise ValueError(f"{piece!r} is no hole such as {{key}} or {{key:type}}")
        else:
            if not parts:
                parts.append((False, ""))
            parts[-1] = (parts[-1][0], parts[-1][1] + (piece[1] if piece in _BRACKETS else piece))
    if optional:
        raise ValueError("its brackets do not pair")
    return [part for part in parts if part[1]]


def is_slow(pattern: str) -> bool:
    """Whether a regular expression may take forever on some names.

    It does where it repeats a group, or has more than `MOST_TEXTS` repetitions in a row that can share their text, with
    nothing between them that ends the one before: a name of 255 characters can be parted among them in too many ways.
    """
    bare = re.sub(r"\\.|\[[^\]]*\]", "x", pattern)
    return _REPEATED.search(bare) is not None or _row(_parser.parse(pattern), 0, frozenset())[0] > MOST_TEXTS


def _row(items: Iterable[Any], most: int, shared: frozenset[str], now: int = 0) -> tuple[int, frozenset[str], int]:
    """The most repetitions in a row that share text; what those at the end may hold, and how many they are."""
    for operator, argument in items:
        name = str(operator)
        if name.endswith("REPEAT"):
            low, high, inner = argument
            if high <= 1:  # it may be left out: then what is before it meets what is after it
                within = _row(inner, most, shared, now)
                most, shared, now = max(most, within[0]), shared | within[1], max(now, within[2])
            elif high > low:
                held = _held(inner)
                if low and not held & shared:
                    shared, now = frozenset(), 0  # those before it end where it begins
                now += 1 if held & shared or not now else 0
                most, shared = max(most, now), shared | held
        elif name in ("SUBPATTERN", "ATOMIC_GROUP"):
            most, shared, now = _row(argument[-1] if name == "SUBPATTERN" else argument, most, shared, now)
        elif name == "BRANCH":
            found = [_row(branch, most, shared, now) for branch in argument[1]]
            most, now = max(each[0] for each in found), max(each[2] for each in found)
            shared = frozenset().union(*(each[1] for each in found))
        elif name not in ("AT", "ASSERT", "ASSERT_NOT", "GROUPREF") and not _held([(operator, argument)]) & shared:
            shared, now = frozenset(), 0  # those before it end here
    return most, shared, now


def _held(items: Iterable[Any]) -> frozenset[str]:
    """The characters that single-character parts of a regular expression can be."""
    found: set[str] = set()
    for operator, argument in items:
        name = str(operator)
        if name == "LITERAL":
            found.add(chr(argument))
        elif name == "NOT_LITERAL":
            found |= _LETTERS - {chr(argument)}
        elif name == "RANGE":
            found |= {letter for letter in _LETTERS if argument[0] <= ord(letter) <= argument[1]}
        elif name == "IN":
            held = _held(argument[1:] if str(argument[0][0]) == "NEGATE" else argument)
            found |= _LETTERS - held if str(argument[0][0]) == "NEGATE" else held
        elif name == "CATEGORY":
            kind, is_not = str(argument).rpartition("_")[2], "_NOT_" in str(argument)
            sort = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[kind]
            found |= {letter for letter in _LETTERS if bool(re.match(sort, letter)) != is_not}
        else:
            found |= _LETTERS
    return frozenset(found)


def texts_of(fields: Iterable[Field]) -> int:
    """How many fields may hold any text."""
    return sum(field.type == "text" and not field.words for field in fields)
