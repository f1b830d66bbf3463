"""Conditions on checkpoints: the small language of `--where`.

    gen_em >= 0.95 and not (length_mode == curriculum or seed == 3337)

A comparison has a key on its left (`==`, `!=`, `<`, `<=`, `>`, `>=`) and a value on its right; a key alone stands for
`== true`; `KEY is missing` asks for what has no value. They are joined by `and`, `or`, `not` and parentheses. A key
with other characters than a word's, and a value with spaces, stand in quotes; `95%` is 0.95.

What kind of value the key holds decides how the right side is read: a number, true or false (also on, off, 1, 0), or
text. A missing value makes a comparison neither true nor false, and `not` of that is neither as well, so that
`not gen_em >= 0.5` finds what generalizes badly, not what was never measured. Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from ckptman.text import UsageError, wording

MAX_LENGTH = 4_000
"""Characters of a condition."""
MAX_DEPTH = 50
"""Levels of parentheses and of `not`."""

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_EQUALITY = ("==", "!=")
_LIKE = "like"
_FLAGS = {
    **dict.fromkeys(("true", "on", "yes", "1"), True),
    **dict.fromkeys(("false", "off", "no", "0"), False),
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<operator>[=!<>]=|[<>])|(?P<bracket>[()])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|"""
    r"""(?P<word>[^\s()'"<>=!]+)|(?P<other>\S))"""
)
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_PERCENT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)%")
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # how a JSON document spells the numbers that JSON lacks
_KEYWORDS = ("and", "or", "not", "is")

Values = Mapping[str, Any]
"""What a checkpoint holds, by key. A key that is absent, None or NaN is missing."""


@dataclass(frozen=True)
class Literal:
    """The right side of a comparison, in each way it can be read; None where it cannot be read so."""

    text: str
    number: int | float | None
    flag: bool | None


@dataclass(frozen=True)
class Comparison:
    """`KEY >= VALUE`."""

    key: str
    operator: str
    literal: Literal

    def truth(self, values: Values) -> bool | None:
        """Whether it holds; None where the value is missing, or of a kind that cannot be compared so."""
        return _compare(values.get(self.key), self.operator, self.literal)


@dataclass(frozen=True)
class IsMissing:
    """`KEY is missing`."""

    key: str

    def truth(self, values: Values) -> bool | None:
        """Whether there is no value."""
        return _is_missing(values.get(self.key))


@dataclass(frozen=True)
class Negation:
    """`not X`."""

    operand: Node

    def truth(self, values: Values) -> bool | None:
        """The contrary; None stays None."""
        truth = self.operand.truth(values)
        return None if truth is None else not truth


@dataclass(frozen=True)
class Junction:
    """`X and Y and …` or `X or Y or …`."""

    decisive: bool
    """The truth of one operand that settles the whole: False for `and`, True for `or`."""
    operands: tuple[Node, ...]

    def truth(self, values: Values) -> bool | None:
        """The decisive truth if one operand has it, else None if one is None, else the other truth."""
        truths = [operand.truth(values) for operand in self.operands]
        if self.decisive in truths:
            return self.decisive
        return None if None in truths else not self.decisive


Node = Comparison | IsMissing | Negation | Junction


@dataclass(frozen=True)
class Where:
    """A condition, parsed."""

    text: str
    """As people wrote it."""
    node: Node

    def matches(self, values: Values) -> bool:
        """Whether the condition is known to hold."""
        return self.node.truth(values) is True

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys it asks for, each once, in the order they stand."""
        return tuple(dict.fromkeys(part.key for part in _leaves(self.node)))

    def check(self, rows: Collection[Values], known: Iterable[str]) -> None:
        """Refuse a condition that makes no sense for these rows, instead of matching nothing without a word.

        Args:
            rows: All that will be asked.
            known: Keys that may be asked for though no row has a value for them.

        Raises:
            UsageError: (`unknown-key`) for a key that is neither known nor in any row; (`not-comparable`) where the
                key's values are of a kind that cannot be compared with the value given.
        """
        for key in self.keys:
            check_key(key, rows, known)
        for part in _leaves(self.node):
            if isinstance(part, Comparison):
                self._check_kind(part, rows)

    def _check_kind(self, part: Comparison, rows: Iterable[Values]) -> None:
        seen = None
        for values in rows:
            value = values.get(part.key)
            if not _is_missing(value):
                if part.truth(values) is not None:
                    return
                seen = value if seen is None else seen
        if seen is not None:
            kind, fix = _kind(seen, part)
            raise UsageError(
                f"in {self.text!r}: {part.key} is {kind}, so it cannot be {part.operator} {part.literal.text!r}",
                code="not-comparable",
                fix=fix,
            )


def all_of(where: str | Where | Iterable[str | Where]) -> tuple[Where, ...]:
    """Conditions, each of which may be given as its text.

    Raises:
        UsageError: (`bad-where`) a text that is none.
    """
    given = [where] if isinstance(where, str | Where) else where
    return tuple(parse_where(item) if isinstance(item, str) else item for item in given)


def parse_where(text: str) -> Where:
    """Parse a condition.

    Raises:
        UsageError: (`bad-where`) saying what stands where something else should.
    """
    if len(text) > MAX_LENGTH:
        raise _bad(f"a condition has at most {MAX_LENGTH:,} characters, not {len(text):,}")
    return Where(text=text, node=_Parser(text).parse())


def equal(key: str, *values: str | int | float | bool) -> Where:
    """The condition that `key` has one of these values, each of exactly this type."""
    options = tuple(Comparison(key, "==", _literal_of(value)) for value in values)
    text = f"{key} == {' or '.join(option.literal.text for option in options)}"
    return Where(text=text, node=options[0] if len(options) == 1 else Junction(decisive=True, operands=options))


def written(key: str, text: str) -> Where:
    """The condition that `key` has the value that is written so, of whatever type it is."""
    return Where(text=f"{key} == {text}", node=Comparison(key, "==", _literal(text)))


def matching(key: str, *patterns: str) -> Where:
    """The condition that the text at `key` is one of these, in which `*` and `?` stand for any letters."""
    options = tuple(Comparison(key, _LIKE, _literal_of(pattern)) for pattern in patterns)
    text = f"{key} == {' or '.join(patterns)}"
    return Where(text=text, node=options[0] if len(options) == 1 else Junction(decisive=True, operands=options))


def check_key(key: str, rows: Iterable[Values], known: Iterable[str]) -> None:
    """Refuse a key that is neither known nor in any row.

    Raises:
        UsageError: (`unknown-key`) naming the nearest known ones.
    """
    names = set(known)
    if key in names or any(key in values for values in rows):
        return
    for values in rows:
        names.update(values)
    raise UsageError(
        f"unknown key {key!r}{wording.did_you_mean(key, names)}",
        code="unknown-key",
        fix="Keys are those of the configuration, of the metrics, and of a checkpoint itself (see ckptman ls --help).",
    )


# --- truth ------------------------------------------------------------------------------------------------------------


def _compare(value: Any, sign: str, literal: Literal) -> bool | None:
    if _is_missing(value):
        return None
    if sign == _LIKE:
        return fnmatchcase(str(value), literal.text)
    compare = _COMPARE[sign]
    if isinstance(value, bool):
        return compare(value, literal.flag) if literal.flag is not None and sign in _EQUALITY else None
    if isinstance(value, str) and value in _NOT_FINITE and literal.number is not None:
        value = float(value)
    if isinstance(value, int | float):
        return compare(value, literal.number) if literal.number is not None else None
    if isinstance(value, str):
        # Text that looks like a number, such as a run id, can be asked for; to order text, the value stands in quotes.
        ordered = sign not in _EQUALITY and literal.number is not None
        return None if ordered else compare(value, literal.text)
    return None


def _is_missing(value: Any) -> bool:
    return value is None or value == "NaN" or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any, part: Comparison) -> tuple[str, str]:
    """What a value is, and what to write instead of the comparison."""
    if isinstance(value, bool):
        return "true or false", f"Write: {part.key} == true"
    if isinstance(value, int | float):
        return "a number", f"Write a number: {part.key} {part.operator} {value}"
    if isinstance(value, str):
        return "text", f'To order text, put the value in quotes: {part.key} {part.operator} "{part.literal.text}"'
    return f"a {type(value).__name__}", "Only numbers, text, and true or false can be compared."


def _leaves(node: Node) -> Iterable[Comparison | IsMissing]:
    match node:
        case Negation():
            yield from _leaves(node.operand)
        case Junction():
            for operand in node.operands:
                yield from _leaves(operand)
        case _:
            yield node


# --- parsing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Token:
    kind: str
    """`operator`, `bracket`, `word`, `quoted`, or `end`."""
    text: str

    def is_word(self, word: str) -> bool:
        return self.kind == "word" and self.text.lower() == word

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


class _Parser:
    """Recursive descent: `or` binds loosest, then `and`, then `not`, then a comparison."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0

    def parse(self) -> Node:
        node = self._junction(0)
        if (token := self._tokens[self._at]).kind != "end":
            self._refuse("'and', 'or' or the end", token)
        return node

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += token.kind != "end"
        return token

    def _took(self, word: str) -> bool:
        taken = self._tokens[self._at].is_word(word)
        self._at += taken
        return taken

    def _junction(self, depth: int, word: str = "or") -> Node:
        operands = [self._operand(depth, word)]
        while self._took(word):
            operands.append(self._operand(depth, word))
        return operands[0] if len(operands) == 1 else Junction(decisive=word == "or", operands=tuple(operands))

    def _operand(self, depth: int, word: str) -> Node:
        return self._junction(depth, "and") if word == "or" else self._negation(depth)

    def _negation(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _bad(f"a condition nests at most {MAX_DEPTH} levels deep")
        if self._took("not"):
            return Negation(self._negation(depth + 1))
        if self._tokens[self._at] == _Token("bracket", "("):
            self._at += 1
            node = self._junction(depth + 1)
            if (token := self._take()) != _Token("bracket", ")"):
                self._refuse("')'", token)
            return node
        return self._comparison()

    def _comparison(self) -> Node:
        key = self._take()
        if key.kind == "word" and _literal(key.text).number is not None:
            raise self._bad(f"a number stands on the left of a comparison: write the key first, not {key}")
        if key.kind not in ("word", "quoted") or (key.kind == "word" and key.text.lower() in _KEYWORDS):
            self._refuse("a key", key)
        if self._took("is"):
            contrary = self._took("not")
            if not (token := self._take()).is_word("missing"):
                self._refuse("'missing'", token)
            node = IsMissing(key.text)
            return Negation(node) if contrary else node
        if self._tokens[self._at].kind != "operator":
            return Comparison(key.text, "==", _literal_of(True))
        sign = self._take().text
        value = self._take()
        if value.kind not in ("word", "quoted") or (value.kind == "word" and value.text.lower() in _KEYWORDS):
            self._refuse(f"a value after {sign}", value)
        return Comparison(key.text, sign, _literal_of(value.text) if value.kind == "quoted" else _literal(value.text))

    def _refuse(self, wanted: str, token: _Token) -> NoReturn:
        raise self._bad(f"{token} stands where {wanted} should")

    def _bad(self, problem: str) -> UsageError:
        return _bad(f"{self._text!r} is not a condition: {problem}")


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text.rstrip()):
        kind = str(match.lastgroup)
        if kind == "other":
            problem = _OTHER.get(match["other"], f"{match['other']!r} has no meaning here")
            raise _bad(f"{text!r} is not a condition: {problem}")
        found.append(_Token("quoted" if kind in ("single", "double") else kind, match[kind]))
    return [*found, _Token("end", "")]


_OTHER = {
    "=": "'=' does not compare: write ==",
    "!": "'!' stands alone: write 'not', or !=",
    '"': "a quotation mark has no second one",
    "'": "a quotation mark has no second one",
}


def _literal(word: str) -> Literal:
    """A bare word, read in each way it can be."""
    number: int | float | None = None
    if _WHOLE.fullmatch(word):
        number = int(word)
    elif _NUMBER.fullmatch(word):
        number = float(word)
    elif _PERCENT.fullmatch(word):
        number = float(f"{word[:-1]}e-2")  # not divided by 100, which would round 97.9% to another number than 0.979
    return Literal(text=word, number=number, flag=_FLAGS.get(word.lower()))


def _literal_of(value: str | int | float | bool) -> Literal:
    """A value that is of one type only."""
    flag = value if isinstance(value, bool) else None
    number = value if isinstance(value, int | float) and flag is None else None
    return Literal(text=str(value).lower() if flag is not None else str(value), number=number, flag=flag)


def _bad(message: str) -> UsageError:
    return UsageError(
        message, code="bad-where", fix='Write conditions such as: --where "gen_em >= 0.95 and n_layers == 1"'
    )
