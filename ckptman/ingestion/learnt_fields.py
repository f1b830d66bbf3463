"""What the places in names mean: which configuration key each is, how it is spelled, and which tell kind and step.

A place is a key where all files agree. How likely that is by chance decides how much its tag must resemble the key.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from ckptman.ingestion.learnt_names import STEP_TAGS, Part, Shape, Slot, kind_of
from ckptman.rules import comparing, terms

_SEED_TAGS = ("seed", "s", "sd", "rng", "randomseed", "saat", "graine", "semilla", "seme")
_FOLD_TAGS = ("fold", "kfold", "cvfold", "cv")
"""What stands in front of the part of the data that a run was not trained on: each of them has runs of its own."""
_OF_CHECKPOINTS = ("model", "weights", "net", "state", "opt", "optim", "optimizer", "ema", "generator", "discriminator")
"""What stands in front of a number that nothing else explains, if that is a step."""
_ROLES = frozenset({"netg", "netd", "g", "d", "gen", "disc", "generator", "discriminator", "encoder", "decoder",
                    "actor", "critic", "policy", "value", "qf", "vf", "student", "teacher", "ema", "model", "opt",
                    "optim", "optimizer"})  # fmt: skip
"""What the parts of one model are called, where each has a file."""
_PROGRESS = re.compile(r"epoch|^ep$|loss|acc|metric|score|ppl|bleu|f1|time|date|stamp|hash|sha|index", re.IGNORECASE)
"""What stands in front of a value that belongs to one checkpoint, not to its run."""
_MEANT = {
    "lr": "learning_rate", "bs": "batch_size", "wd": "weight_decay", "l": "n_layers layers num_layers n_layer depth",
    "h": "n_heads num_heads n_head heads", "d": "n_embd d_model dim hidden_size embed_dim",
    "e": "n_embd embed_dim d_model", "n": "vocab_n vocab_size vocab", "v": "vocab_n vocab_size vocab",
    "k": "block_size k seq_len", "s": "seed", "sd": "seed", "rng": "seed", "ep": "epochs epoch", "do": "dropout",
    "width": "n_embd d_model hidden_size", "depth": "n_layers n_layer num_layers", "bsz": "batch_size",
    "nl": "n_layers", "nh": "n_heads", "wu": "warmup", "t": "temperature", "dp": "dropout", "opt": "optimizer",
    "ds": "dataset data", "arch": "model architecture", "hid": "hidden_size", "emb": "n_embd embed_dim",
    "ctx": "block_size",
}  # fmt: skip
_NEGATIONS = ("without", "no", "not", "non", "dis")
_FEW = 6
"""Files of which one may say that most have a value of their own."""
_MANY = 50
"""Steps of which a number behind no word may be one."""
_ALL, _MOST_WRONG = 50, 0.02
"""Of this many files, so many may disagree with what all others say: they are named by mistake, and reported."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the file of a name."""

    name: str
    """Without the suffix."""
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    """As it says inside."""
    folder: str = "."

    @cached_property
    def run(self) -> tuple[str, str]:
        """What files of one run have in common, as far as their configuration says."""
        return self.folder, comparing.fingerprint(self.config, ())


@dataclass(frozen=True)
class Field:
    """One place of a scheme, understood."""

    slot: Slot
    hole: str
    type: str
    key: str | None = None
    """None where no configuration has it."""
    inverted: bool = False
    unused: bool = False
    words: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scheme:
    """A scheme, understood."""

    name: str
    shape: Shape
    fields: Mapping[int, Field]
    """By the id of the slot."""
    kinds: Mapping[str, str]
    """Words of `{kind}` and what they mean."""
    kind: str | None
    is_pattern: bool
    """Whether values are spelled in a way that cannot be written again, so that only a regular expression will do."""

    def named(self, slot: Slot) -> Field:
        """The field of a slot."""
        return self.fields[id(slot)]


# --- words ------------------------------------------------------------------------------------------------------------


def _words_of(name: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+", name)]


def likeness(tag: str, key: str) -> float:
    """How much a tag resembles a configuration key, from 0 to 1."""
    key = re.sub(r"^(use|with|is|has)_", "", key.rpartition(".")[2])
    low, plain = re.sub(r"[\W_]", "", tag).lower(), re.sub(r"[\W_]", "", key).lower()
    if not low:
        return 0.0
    if low == plain:
        return 1.0
    parts, mine = _words_of(key), _words_of(tag)
    if key.lower() in (meant := _MEANT.get(low, "").split()):
        return 0.92 - 0.02 * meant.index(key.lower())
    if len(parts) > 1 and low == "".join(part[0] for part in parts):
        return 0.95
    bare = next((low[len(no) :] for no in _NEGATIONS if low.startswith(no) and len(low) > len(no)), None)
    mine = [word for word in mine if word not in _NEGATIONS] or mine
    if bare is not None and len(mine) == 1:
        mine = [bare]
    parts = [part for part in parts if part not in _NEGATIONS] or parts
    each = [max(_part_likeness(word, part) for part in parts) for word in mine] if parts and mine else [0.0]
    whole = sum(each) / len(each) - 0.02 * max(0, len(parts) - len(mine))
    letters = iter(plain)
    if 2 <= len(low) <= 4 and low[0] == plain[0] and all(letter in letters for letter in low):
        whole = max(whole, 0.5)
    ratio = SequenceMatcher(None, low, plain).ratio() if len(low) > 2 else 0.0
    return max(0.0, min(0.9, whole), ratio * 0.7)


def _part_likeness(word: str, part: str) -> float:
    if word == part or word.rstrip("s") == part.rstrip("s"):
        return 0.9
    if part.startswith(word):
        return 0.6 + 0.3 * len(word) / len(part)
    if len(part) >= 3 and word.startswith(part):
        return 0.6
    if len(part) >= 3 and word.endswith(part):
        return 0.55
    if len(word) >= 2 and word in part:
        return 0.5
    letters = iter(part)
    if word[0] == part[0] and all(letter in letters for letter in word):
        return 0.5
    return 0.35 if len(word) == 1 and part.endswith(word) else 0.0


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """A slot that says a key, as far as all files show."""

    slot: Slot
    key: str
    type: str
    inverted: bool
    words: Mapping[str, Any]
    distinct: int
    like: float

    @property
    def weight(self) -> tuple[float, float]:
        """How much speaks for it."""
        return min(self.distinct, 3) + 2 * self.like, self.like


def agreement(slot: Slot, key: str, pairs: Sequence[tuple[str, Any]]) -> Match | None:
    """Whether a slot says a key, by the texts and values of all files that have both."""
    like = likeness(slot.tag, key)
    texts = {text for text, _ in pairs}
    values = {comparing.key_of(value) for _, value in pairs}
    is_flag = all(isinstance(value, bool) for _, value in pairs)
    allowed = max(0, int(len(pairs) * _MOST_WRONG)) if len(pairs) >= _ALL else 0
    for kind, inverted in _ways(texts, is_flag=is_flag):
        words = _exceptions(kind, texts)
        said = {text: words[text] if text in words else parse(kind, text) for text in texts}
        wrong = sum(not comparing.same_value((not said[text]) if inverted else said[text], value)
                    for text, value in pairs)  # fmt: skip
        if wrong <= allowed:
            distinct = min(len(texts), len(values))
            if all(len(text) >= 3 and not text[0].isdigit() for text in texts):
                distinct += 2  # words are not the same by chance
            found = Match(slot, key, kind, inverted, words, distinct, like)
            return found if _is_likely(found, len(pairs)) else None
    if slot.sort in ("word", "text", "bool") and 1 <= len(texts) <= 8 and len(values) == len(texts):
        words = dict(pairs)
        meant = {comparing.key_of(value): text for text, value in pairs}
        one_to_one = all(comparing.same_value(words[text], value) for text, value in pairs) and all(
            meant[comparing.key_of(value)] == text for text, value in pairs
        )
        plain = all(isinstance(value, str | int | float | bool) for value in words.values())
        resembling = max((likeness(text, str(value)) for text, value in words.items()), default=0)
        if one_to_one and plain and len(texts) > 1 and (like >= 0.4 or resembling >= 0.5):
            return Match(slot, key, "text", inverted=False, words=words, distinct=len(texts), like=like * 0.8)
    return None


def _present(slot: Slot, names: Sequence[int], files: Sequence[Evidence]) -> list[Match]:
    """The flags that a word says by being there, such as `_ema`, or by not being there."""
    words = set(slot.texts.values())
    if len(words) != 1 or slot.sort != "word" or len(slot.texts) == len(names):
        return []
    (word,) = words
    keys = set.intersection(*(set(files[index].config) for index in names))
    found = []
    for key in sorted(keys):
        for said in (True, False):
            if all(files[i].config[key] is (said if i in slot.texts else not said) for i in names):
                like = likeness(word, key)
                if like >= 0.4 or len(names) >= _ALL:
                    found.append(Match(slot, key, "text", inverted=False, words={word: said}, distinct=2, like=like))
    return found


_NUMBERS = ("float", "g", "sci")
_MOST_EXCEPTIONS = 12


def _candidates(texts: Collection[str]) -> list[str]:
    """The types that texts may be of, the narrowest first."""
    units = {text[-1] for text in texts if text[-1:] in set("kKmMbB")}
    unit = "".join(each for pair in ("kK", "mM", "bB") for each in pair if each in units)
    if unit in ("k", "K") and all(float(text[:-1]) < 1000 for text in texts if re.fullmatch(r"[0-9.]+[kK]", text)):
        unit += "M"
    width = min(map(len, texts), default=0)
    digits = sorted({len(match[1]) for text in texts if (match := re.search(r"\.([0-9]+)", text))} or {0})
    fixed = [f".{digits[0]}{kind}" for kind in "fe"] if len(digits) == 1 else []
    padded = [f"0{width}d"] if width < 18 and all(map(str.isdigit, texts)) else []
    return ["int", *padded, "flag", "bool", "float", "g", "sci", *fixed[::-1], *([unit] if unit else ()), "p", "gp",
            "over", "list", "time", "uuid", "word", "text"]  # fmt: skip


@cache
def _of(kind: str) -> terms.Field:
    return terms.Field("x", kind, "x")


def _reads(kind: str, text: str) -> bool:
    return re.fullmatch(_of(kind).regex, text) is not None if terms.regex_of(kind) else False


def parse(kind: str, text: str) -> Any:
    """What a text stands for by a type."""
    return _of(kind).parse(text)


def _comes_back(kind: str, text: str) -> bool:
    """Whether a type reads a text, and writes it again letter for letter."""
    return _reads(kind, text) and _of(kind).format(parse(kind, text)) == text


def _ways(texts: Collection[str], *, is_flag: bool) -> list[tuple[str, bool]]:
    """The types that all texts may be of, and whether inverted: those by which all come back first."""
    kinds = [kind for kind in _candidates(texts) if (kind in ("flag", "bool")) is is_flag]
    ways = [kind for kind in kinds if all(_comes_back(kind, text) for text in texts)]
    if not is_flag:  # numbers of several spellings: that by which most come back
        few = [k for k in kinds if k in _NUMBERS and k not in ways and all(_reads(k, text) for text in texts)]
        ways = sorted(ways, key=lambda k: k in ("word", "text"))
        at = next((i for i, kind in enumerate(ways) if kind in ("word", "text")), len(ways))
        ways[at:at] = sorted(few, key=lambda k: len(_exceptions(k, texts)))
    return [(kind, inverted) for inverted in ((False, True) if is_flag else (False,)) for kind in ways]


def _exceptions(kind: str, texts: Iterable[str]) -> dict[str, Any]:
    """The texts that a type reads and would write otherwise, and their values."""
    return {text: parse(kind, text) for text in sorted(texts) if not _comes_back(kind, text)}


def _is_likely(match: Match, files: int) -> bool:
    """Whether an agreement is more than chance."""
    if match.inverted and match.distinct < 2:
        no = any(match.slot.tag.lower().startswith(word) for word in _NEGATIONS)
        return no and match.like >= 0.45
    if match.distinct >= 3:
        return True
    if match.distinct == 2:
        return match.like >= 0.3 or files >= 12
    return match.like >= 0.45


def best_type(texts: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The narrowest type that all texts are of, and what of them it does not write so."""
    if all(text in ("True", "False") for text in texts):
        return "bool", _exceptions("bool", texts)
    ways = _ways(texts, is_flag=False)
    kind = ways[0][0] if ways else "text"  # of letters that no name by a convention has: such names stay unread
    return kind, _exceptions(kind, texts) if ways else {}


# --- a scheme ---------------------------------------------------------------------------------------------------------


def understand(name: str, shape: Shape, files: Sequence[Evidence], runs: Mapping[tuple[str, str], int]) -> Scheme:
    """Find out what each place of a scheme means.

    Args:
        name: What to call the scheme.
        shape: Its columns.
        files: What is known of all files, by the indices of the shape.
        runs: How many files there are of each run, as their configurations say; where none has one, tags name the
            keys.
    """
    slots = shape.slots
    kind_slot, kinds = _kind_slot(slots)
    kind = None if kind_slot else _constant_kind(shape)
    matches = _assigned([slot for slot in slots if slot is not kind_slot], files, shape.names)
    others = [slot for slot in slots if slot is not kind_slot]
    step_slot = _step_slot(others, files, matches, set() if kind_slot is None else set(kind_slot.texts))
    taken = {"kind", "step"}
    known_keys = {key for index in shape.names for key in files[index].config}
    fields: dict[int, Field] = {}
    for slot in slots:
        if slot is kind_slot:
            made = Field(slot, "kind", "word")
        elif slot is step_slot:
            kind_, words = best_type(set(slot.texts.values()))
            made = Field(slot, "step", kind_, words=words)
        elif (match := matches.get(id(slot))) is not None:
            hole = _hole(match.key.rpartition(".")[2], taken)
            made = Field(slot, hole, match.type, match.key, match.inverted, words=match.words)
        else:
            made = _unmatched(slot, taken, known_keys, files, runs)
            is_last = step_slot is not None and slots[-2:] == [step_slot, slot]
            if is_last and _is_measured(slot, of_each=False):
                made = replace(made, unused=True)  # 12-0.35: the epoch, and what was measured then
        taken.add(made.hole)
        fields[id(slot)] = made
    plain = all(len(made.words) <= _MOST_EXCEPTIONS for made in fields.values())
    return Scheme(name, shape, fields, kinds, kind, is_pattern=not plain)


def _kind_slot(slots: Sequence[Slot]) -> tuple[Slot | None, dict[str, str]]:
    for slot in reversed(slots):
        words = set(slot.texts.values())
        kinds = {word: kind_of(word) for word in words}
        if slot.sort == "word" and words and None not in kinds.values():
            return slot, {word: str(kind) for word, kind in sorted(kinds.items())}
    return None, {}


def _constant_kind(shape: Shape) -> str | None:
    literal = " ".join(
        part for optional, parts in shape.columns for part in parts if isinstance(part, str) and not optional
    )
    kinds = [kind for word in re.findall(r"[^\W0-9_]+", literal) if (kind := kind_of(word))]
    return next((kind for kind in kinds if kind != "Checkpoint"), kinds[0] if kinds else None)


def _assigned(slots: Sequence[Slot], files: Sequence[Evidence], names: Sequence[int]) -> dict[int, Match]:
    """The key of each slot that is one: those with the fewest choices first, then the best."""
    found: dict[int, list[Match]] = {}
    for slot in slots:
        pairs: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for index, text in slot.texts.items():
            for key, value in files[index].config.items():
                if isinstance(value, str | int | float | list | tuple) and value != "":
                    pairs[key].append((text, value))
        most = max(map(len, pairs.values()), default=0)
        matches = [m for key, held in pairs.items() if len(held) * 2 >= most and (m := agreement(slot, key, held))]
        matches += _present(slot, names, files)
        if matches:
            found[id(slot)] = matches
    return best_together(found)


def best_together(found: Mapping[int, Sequence[Match]]) -> dict[int, Match]:
    """One key for each slot, none twice, so that all together resemble most: greedily, then by exchanges."""
    every = sorted((m for all_ in found.values() for m in all_), key=lambda m: (m.weight, m.key), reverse=True)
    chosen: dict[int, Match] = {}
    owners: dict[str, int] = {}
    for match in every:
        if id(match.slot) not in chosen and match.key not in owners:
            chosen[id(match.slot)] = match
            owners[match.key] = id(match.slot)

    def worth(at: int) -> float:
        return chosen[at].weight[0] if at in chosen else 0.0

    for _ in range(4 * len(found)):
        best: tuple[float, Match, Match | None] | None = None
        for match in every:  # a slot takes a key, and the slot that had it takes its best other one
            mine, owner = id(match.slot), owners.get(match.key)
            if owner == mine:
                continue
            freed = chosen[mine].key if mine in chosen else None
            others = found[owner] if owner is not None else ()
            other = max((m for m in others if m.key != match.key and (m.key not in owners or m.key == freed)),
                        key=lambda m: m.weight, default=None)  # fmt: skip
            before = worth(mine) + (0.0 if owner is None else worth(owner))
            gain = match.weight[0] + (0.0 if other is None else other.weight[0]) - before
            if gain > 1e-9 and (best is None or gain > best[0]):
                best = gain, match, other
        if best is None:
            break
        _, match, other = best
        if (old := chosen.pop(id(match.slot), None)) is not None:
            del owners[old.key]
        if (loser := owners.pop(match.key, None)) is not None:
            del chosen[loser]
        for new in (match, other):
            if new is not None:
                chosen[id(new.slot)] = new
                owners[new.key] = id(new.slot)
    return chosen


def is_seed(tag: str) -> bool:
    """Whether a tag stands in front of a seed."""
    return re.sub(r"[\W_]", "", tag).lower() in _SEED_TAGS


def _tag(slot: Slot) -> str:
    return re.sub(r"[\W_]", "", slot.tag).lower()


def _step_slot(
    slots: Sequence[Slot], files: Sequence[Evidence], matches: Mapping[int, Match], with_kind: set[int]
) -> Slot | None:
    """The slot of the step.

    Args:
        slots: All but that of the kind.
        files: What is known of them.
        matches: The slots that are keys.
        with_kind: The names that hold a word of a kind.
    """
    numbers = [slot for slot in slots if all(step_of(text) is not None for text in slot.texts.values())]
    agreeing, denied = [], set()
    for slot in numbers:
        known = [(step_of(text), files[i].step) for i, text in slot.texts.items() if files[i].step is not None]
        wrong = sum(mine != inside for mine, inside in known)
        if known and wrong <= (len(known) * _MOST_WRONG if len(known) >= _ALL else 0):
            agreeing.append((len({mine for mine, _ in known}), slot))
        elif known:
            denied.add(id(slot))
    rank = {tag: index for index, tag in enumerate(STEP_TAGS)}
    if agreeing:
        best = min(agreeing, key=lambda item: (rank.get(_tag(item[1]), len(rank)), -item[0]))
        least = min(step_of(text) or 0 for text in best[1].texts.values())
        if best[0] > 1 or _tag(best[1]) in rank or (least >= _MANY and id(best[1]) not in matches):
            return best[1]
    free = [slot for slot in numbers if id(slot) not in denied and id(slot) not in matches]
    if instead := [slot for slot in free if with_kind and not with_kind & slot.texts.keys()]:
        return instead[-1]  # `final`, or else a number
    told = [slot for slot in free if _tag(slot) in rank and (len(_tag(slot)) > 1 or slot is slots[-1])]
    if told:
        best_told = min(told, key=lambda slot: rank[_tag(slot)])
        for later in free[free.index(best_told) + 1 :][:1]:  # checkpoint_3_1500: the epoch, and the step
            both = [(step_of(best_told.texts.get(i, "0")), step_of(text)) for i, text in later.texts.items()]
            if not _tag(later) and all((epoch or 0) <= (step or 0) for epoch, step in both):
                return later
        return best_told
    for slot in reversed(free):  # a number behind no word of its own that grows by equal steps
        values = sorted({step_of(text) or 0 for text in slot.texts.values()})
        if not _tag(slot) or kind_of(slot.tag) or _tag(slot) in _OF_CHECKPOINTS:
            gap = values[-1] - values[-2] if len(values) > 1 else 0
            is_tagged = kind_of(slot.tag) or _tag(slot) or len(slots) == 1
            if (
                gap >= 1
                and (is_tagged or values[-1] >= _MANY)
                and all(value % gap == values[0] % gap for value in values)
            ):
                return slot
    return None


def step_of(text: str) -> int | None:
    """The step that a text is: `500`, `000500`, `10k`, `1.5M`; None where it is none."""
    kind = next((kind for kind in ("int", "kM", "KM", ".0e", ".1e") if _reads(kind, text)), None)
    return comparing.whole(parse(kind, text)) if kind and not text.startswith("-") else None


def _unmatched(
    slot: Slot,
    taken: Iterable[str],
    known_keys: Iterable[str],
    files: Sequence[Evidence],
    runs: Mapping[tuple[str, str], int],
) -> Field:
    texts = set(slot.texts.values())
    kind, words = best_type(texts)
    if slot.sort == "time" and all(_reads("time", text) for text in texts):
        kind, words = "time", {}
    elif slot.sort == "time":
        kind, words = ("float" if all(re.fullmatch(r"[0-9.]+", t) for t in texts) and kind != "time" else kind), {}
    seeds = is_seed(slot.tag) and kind == "int"
    seeds = seeds and not any("seed" in key.lower() for key in known_keys) and "seed" not in taken
    name = "seed" if seeds else slot.tag or {"#": "number"}.get(slot.sort, slot.sort)
    name = "version" if slot.sort == "version" and name.lower() in ("v", "ver") else name
    blocked = {*taken, *known_keys} if runs else set(taken)
    unused = (
        (not seeds and slot.sort == "time")
        or (not seeds and bool(_PROGRESS.search(slot.tag)))
        or kind_of(slot.tag) is not None
        or (_tag(slot) == "rank" and any(not text.strip("0") for text in texts))  # of a process; other ranks begin at 1
        or (bool(runs) and _varies(slot, files, runs, several=not (seeds or _tag(slot) in _FOLD_TAGS)))
        or (slot.sort == "word" and len(texts) > 1 and _ROLES.issuperset(text.lower() for text in texts))
        or _is_measured(slot)
        or _grows_with_steps(slot, files)
        or (not runs and len(texts) == 1 and slot.tag.lower() in _ROLES)
    )
    hole = _hole(name, blocked)
    key = name if not runs and hole != name and name.isidentifier() and name not in blocked else None
    return Field(slot, hole, kind, key, unused=unused, words=words)


def _grows_with_steps(slot: Slot, files: Sequence[Evidence]) -> bool:
    """Whether numbers without a tag grow as the steps do, in several folders alike: epochs, where steps are finer."""
    if slot.tag or slot.sort != "#":
        return False
    known = {(step_of(text), files[index].step) for index, text in slot.texts.items()}
    pairs = sorted((number, step) for number, step in known if number is not None and step is not None)
    folders = Counter(files[index].folder for index in slot.texts)
    is_growing = all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(pairs))
    return len(pairs) == len(known) > 1 and is_growing and len(folders) > 1 < max(folders.values())


def _is_measured(slot: Slot, *, of_each: bool = True) -> bool:
    """Whether numbers behind no word may have been measured, such as a loss; `of_each`: most files have their own."""
    texts = set(slot.texts.values())
    are_own = not of_each or 2 * len(texts) > len(slot.texts) >= _FEW
    return not slot.tag and slot.sort == "#" and are_own and all("." in text for text in texts)


def _varies(
    slot: Slot, files: Sequence[Evidence], runs: Mapping[tuple[str, str], int], *, several: bool = True
) -> bool:
    """Whether files of one configuration in one folder have several values there, or some of them none."""
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for index, text in slot.texts.items():
        if files[index].config:
            seen[files[index].run][text] += 1
    return any((several and len(texts) > 1) or texts.total() < runs[run] for run, texts in seen.items())


def _hole(name: str, taken: Iterable[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_") or "value"
    plain = plain if plain[0].isalpha() else f"n{plain}"
    used = set(taken)
    return next(hole for hole in (plain, *(f"{plain}_{n}" for n in ("in_name", *range(2, 99)))) if hole not in used)


def example_names(scheme: Scheme, files: Sequence[Evidence], most: int = 2) -> list[str]:
    """Names that show all parts of a scheme: the fullest one first, then the barest."""

    def fullness(index: int) -> int:
        return sum(index in slot.texts for slot in scheme.shape.slots)

    ordered = sorted(scheme.shape.names, key=lambda index: (-fullness(index), files[index].name))
    return list(dict.fromkeys([files[ordered[0]].name, files[ordered[-1]].name]))[:most]


def renamed(scheme: Scheme, name: str) -> Scheme:
    """The same under another name."""
    return replace(scheme, name=name)


def without_coarser_steps(schemes: Sequence[Scheme], files: Sequence[Evidence]) -> list[Scheme]:
    """The same, where names that count epochs say no step beside names that count finer (`epoch_0` and `step_500`)."""
    counted = [
        (STEP_TAGS.index(_tag(made.slot)), {files[index].folder for index in made.slot.texts}, made)
        for scheme in schemes
        for made in scheme.fields.values()
        if made.hole == "step" and _tag(made.slot) in STEP_TAGS
    ]
    coarser = {
        id(made.slot)
        for rank, folders, made in counted
        if _tag(made.slot).startswith("ep") and any(finer < rank and folders & others for finer, others, _ in counted)
    }
    return [
        replace(
            scheme,
            fields={
                at: replace(made, hole=_hole(made.slot.tag, ()), unused=True) if at in coarser else made
                for at, made in scheme.fields.items()
            },
        )
        for scheme in schemes
    ]


def is_supported(scheme: Scheme, files: Sequence[Evidence]) -> bool:
    """Whether a scheme is more than one odd name: several files have it, or what it says is known from elsewhere."""
    has_config = any(files[index].config for index in scheme.shape.names)
    names = {files[index].name for index in scheme.shape.names}
    fields = [scheme.named(slot) for slot in scheme.shape.slots]
    says_step = any(made.hole == "step" for made in fields)
    known = sum(made.key is not None for made in fields) + says_step
    says_kind = (scheme.kind is not None or bool(scheme.kinds)) and (len(scheme.shape.columns) <= 2 or says_step)
    if len(scheme.shape.names) == len(files):  # no other name is there
        return True
    if len(scheme.shape.columns) == 1 and not fields:  # one word
        return says_kind or len(scheme.shape.names) > 1
    if len(names) > 1 and fields:
        return True
    tagged = sum(bool(made.slot.tag) and made.slot.sort in ("#", "bool") for made in fields)
    return says_kind or known >= 2 or len(scheme.shape.names) > 1 or (not has_config and tagged >= 2)


def scheme_name(scheme: Scheme) -> str:
    """What to call a scheme: the word that its names begin with, if that says something."""
    first = scheme.shape.columns[0][1][0] if scheme.shape.columns and scheme.shape.columns[0][1] else ""
    is_word = isinstance(first, str) and re.fullmatch(r"[A-Za-z]{3,}", first)
    return first.lower() if isinstance(first, str) and is_word and kind_of(first) is None else "files"


def split_words(shape: Shape, files: Sequence[Evidence]) -> Shape:
    """The same, where a word that all names have ends in a value of the configuration, such as `mix` in `lenmix`."""
    columns = []
    for optional, parts in shape.columns:
        made: list[Part] = []
        for part in parts:
            made += _split_word(part, shape.names, files) if isinstance(part, str) and not optional else [part]
        columns.append((optional, made))
    return Shape(columns, shape.names)


def _split_word(word: str, names: Sequence[int], files: Sequence[Evidence]) -> list[Part]:
    for key, value in files[names[0]].config.items():
        if not isinstance(value, str) or len(value) < 3 or not value.isalpha() or not word.isalpha():
            continue
        tag = word.removesuffix(value)
        if tag != word and tag and likeness(tag, key) >= 0.4 and all(
            comparing.same_value(files[index].config.get(key), value) for index in names):  # fmt: skip
            return [tag, Slot(tag, dict.fromkeys(names, value), "word")]
    return [word]
