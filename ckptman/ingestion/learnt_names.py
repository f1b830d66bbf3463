"""What file names have in common: schemes, their fields, and what is written where. Names alone are looked at here.

A name is cut into chunks at its separators, and chunks into words and numbers. Names of one sequence of chunks are of
one scheme; sequences that mostly agree are aligned, and what only some of them have is optional.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ckptman.rules import terms

_TIME = rf"{terms.regex_of('time')}|1[0-9]{{9}}(?:\.[0-9]+)?"
_LEXER = re.compile(
    rf"(?P<time>(?<![0-9])(?:{_TIME})(?![0-9]))"
    r"|(?P<version>(?<![0-9.])[0-9]{1,4}(?:\.[0-9]{1,4}){2,3}(?:[.-]?(?:rc|alpha|beta|dev|post)\.?[0-9]*)?(?![A-Za-z0-9]))"
    r"|(?P<list>(?<=[A-Za-z])[0-9]+(?:-[0-9]+)+(?![0-9A-Za-z.]))"
    r"|(?P<over>[0-9]+over[1-9][0-9]*)"
    r"|(?P<p>[0-9]+p[0-9]+(?![A-Za-z0-9]))"
    r"|(?P<unit>[0-9]+(?:\.[0-9]*[1-9])?[kKmMbB](?![A-Za-z0-9]))"
    r"|(?P<float>(?:(?<=[=:_])-)?[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)(?![A-Za-z0-9]))"
    r"|(?P<int>(?:(?<=[=:_])-)?[0-9]+)"
    r"|(?P<bool>True|False)(?![a-z])"
    r"|(?P<word>[^\W0-9_]+?(?=(?:True|False)(?![a-z])|[\W0-9_]|$))"
    r"|(?P<sep>[\W_]+?(?=[^\W_]|(?<=[=:_])-[0-9]|$))"
)
_WITHOUT_LISTS = re.compile(_LEXER.pattern.replace("(?P<list>", "(?P<list>(?!)"))
NUMBERS = ("int", "float", "p", "unit", "over", "list")
"""Kinds of tokens that stand in one place for one another."""
_NUMBER, _WORD, _TEXT = "#", "word", "text"
_UUID = str(terms.regex_of("uuid"))

OF_THE_RUN = re.compile(
    r"(run|exp|experiment|job|wandb|log|ckpt|checkpoint|out|save).*(name|id)$|^(name|notes?|title|id|tags?|desc.*)$"
    r"|path|dir(ectory)?$|folder|file",
    re.IGNORECASE,
)
"""Keys whose texts are what a run or a file is called as a whole."""

FINAL_WORDS = frozenset({"final", "end", "done", "finished", "complete", "completed", "trained"})
CHECKPOINT_WORDS = frozenset(
    {"checkpoint", "ckpt", "chkpt", "chk", "cp", "snapshot", "snap", "intermediate", "mid", "save"}
)
OTHER_KINDS = {
    "best": "Best",
    "last": "Last",
    "latest": "Last",
    "init": "Initial",
    "initial": "Initial",
    "start": "Initial",
}


def kind_of(word: str) -> str | None:
    """The kind of checkpoint that a word is; None for any other word."""
    low = word.lower()
    if low in FINAL_WORDS:
        return "Final"
    return "Checkpoint" if low in CHECKPOINT_WORDS else OTHER_KINDS.get(low)


STEP_TAGS = (
    "iters", "iter", "it", "itr", "iteration", "iterations", "step", "steps", "globalstep", "gstep", "update",
    "updates", "batches", "ba", "schritt", "schritte", "pas", "paso", "pasos", "passo", "ckpt", "checkpoint",
    "snapshot", "tokens", "epoch", "epoche", "epoque", "ep", "e",
)  # fmt: skip
"""What stands in front of a step, the surest first."""


class Token(NamedTuple):
    """A part of a name that is a word, a number or a separator."""

    kind: str
    text: str

    @property
    def shape(self) -> str:
        """What tokens that stand in one place share: the word itself, or that it is a number."""
        return _NUMBER if self.kind in NUMBERS else self.text if self.kind == _WORD else f"<{self.kind}>"

    @property
    def sort(self) -> str:
        """The same without the word."""
        return _NUMBER if self.kind in NUMBERS else self.kind


class Chunk(NamedTuple):
    """What stands between two separators."""

    before: str
    """The separator in front of it."""
    tokens: tuple[Token, ...]

    @property
    def text(self) -> str:
        """As it stands in the name."""
        return "".join(token.text for token in self.tokens)

    @property
    def shape(self) -> tuple[str, ...]:
        """What chunks of one column mostly share."""
        return tuple(token.shape for token in self.tokens)

    @property
    def sorts(self) -> tuple[str, ...]:
        """The sorts of its tokens."""
        return tuple(token.sort for token in self.tokens)


def lex(name: str, whole: Iterable[str] = (), *, lists: bool = True) -> list[Token]:
    """The tokens of a name.

    Args:
        name: It.
        whole: Texts known from elsewhere, which are not cut.
        lists: Whether numbers may be joined by dashes to a list.
    """
    tokens: list[Token] = []
    known = "|".join(map(re.escape, sorted(whole, key=len, reverse=True)))
    pieces = re.split(rf"(?<![^\W_])({known})(?![^\W_])", name) if known else [name]
    for index, piece in enumerate(pieces):
        if index % 2:
            tokens.append(Token(_TEXT, piece))
        else:
            end = 0
            for match in (_LEXER if lists else _WITHOUT_LISTS).finditer(piece):
                assert match.start() == end, piece
                end = match.end()
                tokens.append(Token(str(match.lastgroup), match[0]))
    return tokens


def ids_of(names: Sequence[str]) -> list[list[str]]:
    """The parts of each name that are ids: in one place, of one length, and digits and letters anywhere in them."""
    places: dict[tuple[int, int], set[str]] = defaultdict(set)
    parts = [re.split("[^0-9A-Za-z]+", name) for name in names]
    for each in parts:
        for at, part in enumerate(each):
            if re.fullmatch("[0-9a-z]{6,40}", part):
                places[at, len(part)].add(part)
    found = set()
    for place, texts in places.items():
        mixed = sum(len(re.findall("[0-9]+|[a-z]+", text)) > 2 for text in texts)
        if len(texts) > 2 and 2 * mixed > len(texts):
            found.add(place)
    return [
        [*(part for at, part in enumerate(each) if (at, len(part)) in found), *re.findall(_UUID, name)]
        for each, name in zip(parts, names, strict=True)
    ]


def chunks_of(tokens: Sequence[Token]) -> tuple[Chunk, ...]:
    """Tokens put together between separators; separators at the end are a chunk of their own."""
    found: list[Chunk] = []
    before, held = "", list[Token]()
    for token in tokens:
        if token.kind == "sep":
            if held:
                found.append(Chunk(before, tuple(held)))
                before, held = "", []
            before += token.text
        else:
            held.append(token)
    if held or before:
        found.append(Chunk(before, tuple(held)))
    return tuple(found)


@dataclass
class Column:
    """The chunks of one place of a scheme, by the index of the name."""

    before: str
    chunks: dict[int, Chunk] = field(default_factory=dict)
    shapes: Counter[tuple[str, ...]] = field(default_factory=Counter)


@dataclass
class Cluster:
    """Names of one scheme."""

    columns: list[Column]
    names: list[int]


@dataclass(frozen=True)
class Slot:
    """A place in the names of a scheme that holds a value."""

    tag: str
    """The word in front of it, or the one that its words have in common."""
    texts: dict[int, str]
    """By the index of the name."""
    sort: str
    """`#`, `word`, `bool`, `time` or `text`."""


Part = str | Slot


@dataclass(frozen=True)
class Shape:
    """A scheme: its columns in their order, each a sequence of literal texts and slots."""

    columns: list[tuple[bool, list[Part]]]
    """Whether each may be left out, and its parts."""
    names: list[int]

    @property
    def slots(self) -> list[Slot]:
        """All its slots in their order."""
        return [part for _, parts in self.columns for part in parts if isinstance(part, Slot)]


def cluster(sequences: Sequence[tuple[Chunk, ...]], *, exact: bool = False) -> list[Cluster]:
    """Put names together that are of one scheme; `exact`: only those with the same words in the same places."""
    alike: dict[tuple[tuple[str, tuple[str, ...]], ...], list[int]] = defaultdict(list)
    for index, sequence in enumerate(sequences):
        alike[tuple((chunk.before, chunk.shape) for chunk in sequence)].append(index)
    found: list[Cluster] = []
    for _, members in sorted(alike.items(), key=lambda item: (-len(item[1]), -len(item[0]), str(item[0]))):
        sequence = sequences[members[0]]
        best = None if exact else max(
            ((fit, other) for other in found if (fit := _fit(sequence, other)) is not None),
            key=lambda item: item[0][0], default=None,
        )  # fmt: skip
        if best is None:
            columns = [Column(chunk.before) for chunk in sequence]
            found.append(Cluster(columns, []))
            target, ways = found[-1], list(range(len(sequence)))
        else:
            (_, aligned), target = best
            ways = _make_room(target, sequence, aligned)
        target.names += members
        for chunk_at, column_at in enumerate(ways):
            column = target.columns[column_at]
            column.shapes[sequence[chunk_at].shape] += len(members)
            for member in members:
                column.chunks[member] = sequences[member][chunk_at]
    return found


_GAP = -0.6


def _likeness(chunk: Chunk, column: Column) -> float:
    """How well a chunk stands in a column: 3 for the same words, less for another word, much below 0 for no way."""
    if chunk.before != column.before:
        return -9.0
    if chunk.shape in column.shapes:
        return 3.0
    other = next(iter(column.chunks.values()))
    if chunk.shape != other.shape and chunk.before.strip() in ("=", ":"):
        return 1.0
    if chunk.sorts != other.sorts:
        both = (chunk.text, other.text)
        kinds = [kind_of(text.rstrip("0123456789")) for text in both]
        if None not in kinds:
            return 1.0
        return 0.2 if kinds == [None, None] and _are_names(chunk, other) else -9.0
    if len(chunk.sorts) > 1:
        return 1.5 if _first_word(chunk) == _first_word(other) else 0.2 if _are_names(chunk, other) else -9.0
    if {chunk.sorts[0]} <= {_WORD} if chunk.sorts else False:
        kinds = [kind_of(chunk.text), kind_of(other.text)]
        counted = {chunk.text.lower(), other.text.lower()}
        if kinds == [None, None] and len(counted) == 2 and counted.issubset(STEP_TAGS):
            return -9.0  # epoch_0 and step_500: other numbers
        if None not in kinds or len(common_start([chunk.text, other.text])) >= 2:
            return 1.5
        return -9.0 if kinds.count(None) == 1 else 0.8
    return 0.5


_TAGS = {
    "seed", "step", "steps", "iter", "iters", "epoch", "layer", "layers", "head", "heads", "dim", "width", "depth",
    "drop", "dropout", "batch", "hidden", "embd", "ctx", "temp", "warmup", "loss", "acc", "gamma", "beta", "alpha",
    "eps", "ema",
}  # fmt: skip


def _are_names(*chunks: Chunk) -> bool:
    """Whether these are called something, such as `resnet18` and `vgg`, rather than a tag with its value."""
    words = [_first_word(chunk).lower() for chunk in chunks]
    return len(set(words)) == len(words) and all(len(word) > 2 and word not in _TAGS for word in words)


def _first_word(chunk: Chunk) -> str:
    return chunk.tokens[0].text if chunk.tokens and chunk.tokens[0].kind == _WORD else ""


def _fit(sequence: Sequence[Chunk], other: Cluster) -> tuple[float, list[int | None]] | None:
    """The best alignment of a sequence with a scheme: its score and the column of each chunk (None for a new one)."""
    columns = other.columns
    rows, width = len(sequence), len(columns)
    score = [[_GAP * (i + j) if 0 in (i, j) else 0.0 for j in range(width + 1)] for i in range(rows + 1)]
    for i in range(1, rows + 1):
        for j in range(1, width + 1):
            here = score[i - 1][j - 1] + _likeness(sequence[i - 1], columns[j - 1])
            score[i][j] = max(here, score[i - 1][j] + _GAP, score[i][j - 1] + _GAP)
    ways: list[int | None] = [None] * rows
    i, j, same, near = rows, width, 0, 0
    while i and j:
        like = _likeness(sequence[i - 1], columns[j - 1])
        if score[i][j] == score[i - 1][j - 1] + like:
            ways[i - 1] = j - 1
            same, near = same + (like == 3.0), near + (0 < like < 3.0)
            i, j = i - 1, j - 1
        elif score[i][j] == score[i - 1][j] + _GAP:
            i -= 1
        else:
            j -= 1
    most = max(rows, sum(1 for column in columns if len(column.chunks) == len(other.names)))
    telling = near == 1 and rows == width == 1 and score[rows][width] >= 1
    return (score[rows][width], ways) if same + near * 0.5 >= 0.6 * most or telling or (
        same and same + near == rows == width and near <= max(1, rows // 2)) else None  # fmt: skip


def _make_room(target: Cluster, sequence: Sequence[Chunk], ways: list[int | None]) -> list[int]:
    """Add columns for what the scheme lacks; the column of each chunk then."""
    found: list[int] = []
    shift, last = 0, -1
    for chunk, way in zip(sequence, ways, strict=True):
        if way is None:
            last += 1
            target.columns.insert(last, Column(chunk.before))
            shift += 1
        else:
            last = way + shift
        found.append(last)
    return found


# --- the parts of a column --------------------------------------------------------------------------------------------


def shape_of(found: Cluster) -> Shape:
    """What a cluster's columns are made of."""
    columns, tag, whole, is_first = list[tuple[bool, list[Part]]](), "", "", True
    for column in found.columns:
        optional = len(column.chunks) < len(found.names)
        tag = (whole or tag) if column.before in ("=", ":") else tag
        parts = [column.before, *_parts(column, tag)] if column.before else _parts(column, tag)
        if optional and all(isinstance(part, str) for part in parts):  # what has no value could not be left out
            text = next(iter(column.chunks.values())).text
            parts = [column.before, Slot(text, dict.fromkeys(column.chunks, text), _WORD)]
        columns.append((optional, [part for part in parts if part]))
        only = [part for part in parts if part != column.before]
        tag = only[0] if len(only) == 1 and isinstance(only[0], str) else ""
        is_more = bool(tag and whole) and column.before == "_"
        whole, is_first = f"{whole}_{tag}" if is_more else tag if is_first or column.before == "_" else "", not tag
    return Shape(_told_by_what_follows(columns), sorted(found.names))


def _told_by_what_follows(columns: list[tuple[bool, list[Part]]]) -> list[tuple[bool, list[Part]]]:
    """`with` and `without` are about the words behind them."""
    every = [part for _, parts in columns for part in parts]
    tags: dict[int, str] = {}
    for at, part in enumerate(every):
        if isinstance(part, Slot) and part.sort == _WORD and negated(texts := set(part.texts.values())) and (
            not part.tag or any(text.lower().startswith("with") for text in texts)):  # fmt: skip
            words: list[str] = []
            for other in every[at + 1 :]:
                if not isinstance(other, str) or (words and other == "_"):
                    break
                words += re.findall(r"[^\W0-9_]+", other)
            if words and not any(word in text for word in words for text in part.texts.values()) and max(
                map(len, set(part.texts.values()))) <= len("without"):  # fmt: skip
                tags[id(part)] = "_".join(words)
    return [
        (
            optional,
            [
                replace(part, tag=tags[id(part)]) if isinstance(part, Slot) and id(part) in tags else part
                for part in parts
            ],
        )
        for optional, parts in columns
    ]


def _parts(column: Column, tag: str) -> list[Part]:
    chunks = column.chunks
    sorts = {chunk.sorts for chunk in chunks.values()}
    names = {_first_word(chunk) for chunk in chunks.values()}
    if len(sorts) > 1 or (len(next(iter(sorts))) > 1 and len(names) > 1 and len(common_start(names)) < 3):
        return _mixed(chunks, tag)
    parts: list[Part] = []
    for at, sort in enumerate(next(iter(sorts))):
        texts = {index: chunk.tokens[at].text for index, chunk in chunks.items()}
        before = parts[-1] if parts and isinstance(parts[-1], str) else "" if parts else tag
        if sort == _WORD:
            parts += _words(texts, str(before))
        else:
            parts.append(Slot(str(before), texts, sort))
    for at, part in enumerate(parts[1:-1], 1):  # trainK2to8: from the one to the other
        first, last = parts[at - 1], parts[at + 1]
        if part == "to" and isinstance(first, Slot) and isinstance(last, Slot):
            parts[at - 1] = replace(first, tag=f"{first.tag}Min")
            parts[at + 1] = replace(last, tag=f"{first.tag}Max")
    return parts


def _words(texts: dict[int, str], before: str) -> list[Part]:
    known = sorted(set(texts.values()))
    if len(known) == 1:
        return [known[0]]
    start = common_start(known)
    end = common_start([word[::-1] for word in known])[::-1]
    if all(kind_of(word) for word in known) or negated(known) is not None:
        return [Slot(end if negated(known) and len(end) >= 3 else before, texts, _WORD)]
    if len(start) >= 3 and all(len(word) - len(start) >= 2 for word in known):
        return [start, Slot(start, {index: text[len(start) :] for index, text in texts.items()}, _WORD)]
    if len(end) >= 3 and all(len(word) - len(end) >= 2 for word in known):
        return [Slot(end, {index: text[: -len(end)] for index, text in texts.items()}, _WORD), end]
    return [Slot(before, texts, _WORD)]


def _mixed(chunks: dict[int, Chunk], tag: str) -> list[Part]:
    """A column whose chunks are of several sorts: a kind with a step behind it or none, or a text."""
    texts = {index: chunk.text for index, chunk in chunks.items()}
    cut = {index: re.fullmatch(r"([^\W0-9_]+)([0-9]*)", text) for index, text in texts.items()}
    if all(match is not None and kind_of(match[1]) for match in cut.values()):
        kinds = {index: match[1] for index, match in cut.items() if match}
        steps = {index: match[2] for index, match in cut.items() if match and match[2]}
        return [Slot(tag, kinds, _WORD), Slot("ckpt", steps, _NUMBER)]
    start = common_start(list(texts.values())).rstrip("0123456789.")
    rest = {index: text[len(start) :] for index, text in texts.items()}
    if not start or not all(rest.values()):
        return [Slot(tag, texts, _TEXT)]
    return [start, Slot(start, rest, _TEXT)]


def common_start(texts: Collection[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:same]


def negated(words: Collection[str]) -> tuple[str, str] | None:
    """Of two words that are each other's negation, the one that says yes and the one that says no."""
    if len(words) != 2:
        return None
    for yes, no in (sorted(words, key=len), sorted(words, key=len)[::-1]):
        low, high = yes.lower(), no.lower()
        if (low.startswith("with") and high == f"without{low[4:]}") or high in (f"no{low}", f"non{low}", f"not{low}"):
            return yes, no
        if (low, high) in (("on", "off"), ("true", "false"), ("yes", "no"), ("with", "without")):
            return yes, no
    return None
