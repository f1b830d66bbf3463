"""The grid behind an experiment: groups by what their names hold, axes, seeds, and the numbering of task folders.

A numbering is an order of axes, and of the values of each, by which every task id is the index of its configuration.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckptman.ingestion import learnt_fields, learnt_names
from ckptman.rules import comparing, placement, terms
from ckptman.text import wording

Config = Mapping[str, Any]
_MOST_AXES, _MOST_VALUES, _MOST_PATTERNS, _MOST_EXTRA, _MOST_TOLD = 6, 12, 12, 2, 8
_ALIKE = 0.7
"""Share of keys that configurations of one experiment have in common."""
_BARE = "number"
"""What a number is called that stands behind no word."""
_ENOUGH = 0.9
"""Share of runs whose task folder a numbering must give."""


@dataclass(frozen=True)
class Run:
    """A run, or a file of one: where it lies, and its configuration."""

    group: str
    task: int | None
    config: Config


@dataclass(frozen=True)
class Pattern:
    """Groups with one form of name."""

    text: str
    holes: Mapping[str, str]
    """The configuration key of each hole."""
    example: str
    groups: frozenset[str]
    held: Mapping[str, Mapping[str, Any]]
    """What the name of each group holds."""
    was: str = ""
    """The form with the seed, where names have one."""


@dataclass(frozen=True)
class Numbering:
    """Axes with their values in order, those that make the task id first."""

    axes: Mapping[str, Sequence[Any]]
    outside: tuple[str, ...]
    rivals: int = 0
    """Other orders that give the same ids."""
    others: tuple[tuple[str, ...], ...] = ()
    """Axes that are outside of the task ids of other groups."""


@dataclass(frozen=True)
class Facet:
    """A key, or two that are equal or not, of which each group has one value."""

    name: str
    section: Mapping[str, Any]
    of_group: Mapping[str, str]
    """The word of each group."""
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    """What decides which keys may be axes."""

    named: set[str]
    """Keys that names state."""
    ignored: set[str]
    seed_key: str
    with_tasks: bool
    facets: Sequence[Facet]


@dataclass(frozen=True)
class Grids:
    """What to say of all that."""

    sections: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


def grids_of(
    runs: Sequence[Run],
    named: Iterable[str],
    ignored: Iterable[str],
    seed_key: str,
    seeds: Sequence[int],
    run_level: str,
    task_level: str | None,
) -> Grids:
    """Facets, groups and grids.

    Args:
        runs: What is known of each file and run.
        named: Configuration keys that file names state.
        ignored: Keys that say where and how a run was computed.
        seed_key: The key of the seed.
        seeds: All seeds.
        run_level: The template of run folders.
        task_level: That of task folders; None where there are none.
    """
    known = [run for run in runs if run.config]
    if not known or len({run.group for run in known}) > 1000:
        return Grids()
    named, ignored = set(named), set(ignored)
    facets = _facets(known, named, ignored)
    patterns = _patterns(known, seed_key, ignored)
    facets = [facet for facet in facets if _is_told(facet, patterns)][:2]
    findings = [f"facet {facet.name}: {', '.join(sorted(set(facet.of_group.values())))}" for facet in facets]
    sections: dict[str, Any] = {}
    said = {facet.name: facet.section for facet in facets}
    choice = _Choice(named, ignored, seed_key, task_level is not None, facets)
    made = _made(known, patterns, choice) if seeds else None
    levels = [f"{{{facet.name}}}" for facet in facets] + ["{group}"]
    if made is None:
        varied = _told([*named - {seed_key}, *(key for p in patterns for key in p.holes.values())], known)
        why = "the task ids follow no order of what varies" if varied else "nothing that names say varies"
        why = why if seeds else "no seed is known, so that no grid is said"
        if task_level is not None:
            findings.append(f"{why}: task ids are kept as the folders say")
        elif not seeds:
            findings.append(why)
        levels += [task_level] if task_level is not None else []
    else:
        groups, grids, lines = made
        sections |= {"groups": groups, "grids": grids}
        findings += lines
        for grid in grids.values():
            grid["seeds"] = grid["seeds"] or list(seeds)
        levels += [task_level] if task_level is not None else []
        for pattern in patterns:
            said |= {hole: {"config": key} for hole, key in pattern.holes.items() if hole != key}
    holes = [key for pattern in patterns for key in pattern.holes.values()]
    axes = [axis for grid in sections.get("grids", {}).values() for axis in grid["axes"]]
    if told := _told([*holes, *axes, *sorted(named - {seed_key})], known):
        leaves = {key: key.rpartition(".")[2] for key in told}
        sections["axes"] = {key: {"title": leaf, "short": f"{leaf} {{}}"} for key, leaf in leaves.items()}
        sections["summary"] = {leaf: key for key, leaf in leaves.items()}
    if said:
        sections["facets"] = said
    if facets or task_level is not None:
        sections["tree"] = [*levels, run_level]
    if lengths_section := _lengths(known):
        sections["lengths"] = lengths_section
    return Grids(sections, tuple(findings))


def _told(keys: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """The keys that tables tell: the first few of these that have several values."""
    varied = [key for key in dict.fromkeys(keys)
              if len({comparing.key_of(run.config[key]) for run in runs if key in run.config}) > 1]  # fmt: skip
    return varied[:_MOST_TOLD]


def _lengths(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The keys of the shortest and the longest length that are trained, and tested."""
    found: dict[str, list[str]] = {}
    for what, word in (("trained", "train"), ("tested", "test")):
        ends = [[k for k in runs[0].config if word in k and end in k and comparing.whole(runs[0].config[k]) is not None]
                for end in ("min", "max")]  # fmt: skip
        pair = next(((low, high) for low in ends[0] for high in ends[1] if low.replace("min", "max") == high), None)
        if pair and all(key in run.config for run in runs for key in pair):
            found[what] = list(pair)
    return found


# --- facets -----------------------------------------------------------------------------------------------------------


def _facets(runs: Sequence[Run], named: set[str], ignored: set[str]) -> list[Facet]:
    """Keys of names that split all groups into a few kinds, each group of one; and ranges of one value or of more."""
    found: list[Facet] = []
    by_group: dict[str, list[Config]] = defaultdict(list)
    for run in runs:
        by_group[run.group].append(run.config)
    if len(by_group) < 2:
        return []
    for key in sorted(named - ignored):
        of_group = {group: _only([config.get(key) for config in configs]) for group, configs in by_group.items()}
        values = {comparing.key_of(value[0]): value[0] for value in of_group.values() if value is not None}
        if None in of_group.values() or not 2 <= len(values) <= 4 or len(values) == len(by_group) > 2:
            continue
        if all(isinstance(value, bool) for value in values.values()):
            bare = re.sub(r"^(use|with|has|is)_", "", key)
            words = {True: f"with_{bare}", False: f"without_{bare}"}
            section = {"config": key, "values": {word: {"is": value} for value, word in words.items()}}
            found.append(Facet(bare, section, {g: words[v[0]] for g, v in of_group.items() if v}, (key,)))
        elif all(isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.-]*", value) for value in values.values()):
            section = {"config": key, "values": {str(value): {} for value in values.values()}}
            found.append(Facet(key, section, {g: str(v[0]) for g, v in of_group.items() if v}, (key,)))
    for low in sorted(named):
        high = low.replace("min", "max")
        if high == low or high not in named:
            continue
        of_group_ = {
            g: _only([comparing.same_value(c.get(low), c.get(high)) for c in cs]) for g, cs in by_group.items()
        }
        if None not in of_group_.values() and {v[0] for v in of_group_.values() if v} == {True, False}:
            section = {"values": {"range": {"when": f"{low} != {high}"}, "fixed": {"when": f"{low} == {high}"}}}
            name = re.sub(r"_*min_*", "_", low).strip("_") + "_range"
            found.append(Facet(name, section, {g: "fixed" if v and v[0] else "range" for g, v in of_group_.items()},
                               (low, high)))  # fmt: skip
    kept: list[Facet] = []
    for facet in found:
        split = _split(facet.of_group)
        if not any(_split(other.of_group) == split for other in kept):
            kept.append(facet)
    return kept


def _is_told(facet: Facet, patterns: Sequence[Pattern]) -> bool:
    """Whether groups of two values are called differently, and not just by a number that is the key itself."""
    words = [{facet.of_group[group] for group in pattern.groups} for pattern in patterns]
    is_hole = len(facet.keys) == 1 and any(facet.keys[0] in pattern.holes.values() for pattern in patterns)
    return not is_hole and all(len(word) == 1 for word in words)


def _split(of_group: Mapping[str, str]) -> frozenset[frozenset[str]]:
    by_word: dict[str, set[str]] = defaultdict(set)
    for group, word in of_group.items():
        by_word[word].add(group)
    return frozenset(frozenset(groups) for groups in by_word.values())


def _only(values: Sequence[Any]) -> tuple[Any] | None:
    """The one value that all of these are."""
    first = values[0]
    return (first,) if first is not None and all(comparing.same_value(first, value) for value in values) else None


# --- groups -----------------------------------------------------------------------------------------------------------


def _patterns(runs: Sequence[Run], seed_key: str, ignored: set[str]) -> list[Pattern]:
    """The forms of groups' names, each value in them a key of the configuration; none where one is of no key."""
    configs: dict[str, list[Config]] = defaultdict(list)
    for run in runs:
        configs[run.group].append(run.config)
    names = sorted(configs)
    if any(not re.fullmatch(r"[A-Za-z0-9_.,=+@-]+", name) for name in names):
        return []
    shared = [_shared(configs[name], name, ignored) for name in names]
    texts = [{v for v in known.values() if isinstance(v, str) and len(v) > 1 and v in name}
             for known, name in zip(shared, names, strict=True)]  # fmt: skip
    common = set.intersection(*texts)
    ids = learnt_names.ids_of(names)
    sequences = [
        learnt_names.chunks_of(learnt_names.lex(name, {*mine - common, *own}))
        for name, mine, own in zip(names, texts, ids, strict=True)
    ]
    shapes = [learnt_names.shape_of(cluster) for cluster in learnt_names.cluster(sequences, exact=True)]
    if len(shapes) > _MOST_PATTERNS:
        return []
    keys = _keys(shapes, shared)
    found = [_pattern(shape, keys, names, seed_key, ids) for shape in shapes]
    return sorted((p for p in found if p), key=lambda p: p.text) if all(found) else _literal(names)


def _shared(configs: Sequence[Config], name: str, ignored: set[str]) -> Config:
    """What all runs of a group have in common, but for its name and what has no part in what was trained."""
    found = {}
    for key, value in configs[0].items():
        says_all = key in ignored or learnt_names.OF_THE_RUN.search(key) or value == name
        if isinstance(value, str | int | float) and not says_all and all(
            key in config and comparing.same_value(config[key], value) for config in configs):  # fmt: skip
            found[key] = value
    return found


def _pattern(
    shape: learnt_names.Shape,
    keys: Mapping[tuple[str, int], learnt_fields.Match],
    names: Sequence[str],
    seed_key: str,
    ids: Sequence[Sequence[str]],
) -> Pattern | None:
    """The form of these names, without their seed and an id; None where something in them is of no key."""
    matches = {id(slot): keys.get(place) for slot, place in _places(shape)}
    for slot in shape.slots:
        if matches[id(slot)] is None and all(text in ids[index] for index, text in slot.texts.items()):
            own = learnt_fields.Match(slot, terms.RUN_ID, "word", inverted=False, words={}, distinct=0, like=0.0)
            matches[id(slot)] = own
    fixed = {id(slot) for slot in shape.slots if len(set(slot.texts.values())) == 1 and matches[id(slot)] is None}
    if any((match is None or match.words or match.inverted) and at not in fixed for at, match in matches.items()):
        return None
    columns = [list(parts) for _, parts in shape.columns]
    for at, parts in enumerate(columns):
        for part in parts:
            match = None if isinstance(part, str) else matches[id(part)]
            if isinstance(part, learnt_names.Slot) and match is not None and match.key in (seed_key, terms.RUN_ID):
                tag = columns[at - 1][-1] if at and columns[at - 1] and len(parts) < 3 else None
                if isinstance(tag, str) and tag == part.tag:
                    columns[at - 1] = []
                columns[at] = []
    holes: dict[str, str] = {}
    text = was = ""
    in_name: list[tuple[learnt_names.Slot, str, str]] = []
    for (_, whole), kept in zip(shape.columns, columns, strict=True):
        for part in whole:
            match = None if isinstance(part, str) else matches[id(part)]
            if isinstance(part, str) or match is None:
                said = part if isinstance(part, str) else next(iter(part.texts.values()))
            else:
                leaf = re.sub(r"\W", "_", match.key.rpartition(".")[2])
                hole = "K" if part.tag.lower() == "k" else leaf if leaf not in ("group", "task") else f"{leaf}_"
                said = f"{{{hole}}}" if match.type == "int" else f"{{{hole}:{match.type}}}"
                in_name.append((part, hole, match.type))
                if kept:
                    holes[hole] = match.key
            was += said
            text += said if kept else ""
    first = names[shape.names[0]]
    example = "".join(
        part if isinstance(part, str) else part.texts[shape.names[0]] for parts in columns for part in parts
    )
    lead = len(text) - len(text.lstrip("-_.,"))
    if not text[lead:] or len({hole for _, hole, _ in in_name}) < len(in_name):
        return None
    held = {
        names[index]: {h: learnt_fields.parse(kind, slot.texts[index]) for slot, h, kind in in_name if h in holes}
        for index in shape.names
    }
    is_renamed = text != was
    return Pattern(text[lead:], holes, example[lead:] if is_renamed else first, frozenset(held), held,
                   was if is_renamed else "")  # fmt: skip


def said_by_folders(names: Sequence[str]) -> Mapping[str, Config]:
    """What the names of groups' folders say where no configuration is anywhere: their values, by their tags."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    ids = learnt_names.ids_of(names)
    sequences = [learnt_names.chunks_of(learnt_names.lex(name, whole)) for name, whole in zip(names, ids, strict=True)]
    shapes = [learnt_names.shape_of(cluster) for cluster in learnt_names.cluster(sequences, exact=True)]
    slots: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for shape in shapes:
        for slot, place in _places(shape):
            is_id = any(text in ids[index] for index, text in slot.texts.items())
            if slot.sort == "#" or (slot.tag and slot.sort != "time" and not is_id):
                slots[place] |= slot.texts
    for (tag, number), texts in slots.items():
        kind, words = learnt_fields.best_type(set(texts.values()))
        key = "seed" if learnt_fields.is_seed(tag) and kind == "int" else re.sub(r"\W", "_", tag).strip("_") or _BARE
        if not number and not words and (len(set(texts.values())) > 1 or tag.lower() == "seed"):
            for index, text in texts.items():
                found[names[index]][key] = learnt_fields.parse(kind, text)
    return found


def _places(shape: learnt_names.Shape) -> Iterator[tuple[learnt_names.Slot, tuple[str, int]]]:
    """Each slot by the word in front of it, and how many with that word come before it."""
    seen: Counter[str] = Counter()
    for slot in shape.slots:
        yield slot, (slot.tag, seen[slot.tag])
        seen[slot.tag] += 1


def _literal(names: Sequence[str]) -> list[Pattern]:
    few = len(names) <= _MOST_PATTERNS
    return [Pattern(name, {}, name, frozenset([name]), {name: {}}) for name in names] if few else []


def _keys(
    shapes: Sequence[learnt_names.Shape], shared: Sequence[Config]
) -> Mapping[tuple[str, int], learnt_fields.Match]:
    """The key that the values behind each word are, in all groups' names that have the word."""
    slots: dict[tuple[str, int], learnt_names.Slot] = {}
    for shape in shapes:
        for slot, place in _places(shape):
            known = slots.setdefault(place, replace(slot, tag=slot.tag or _BARE, texts={}))
            known.texts.update(slot.texts)
    found: dict[int, list[learnt_fields.Match]] = {}
    for slot in slots.values():
        held = [(text, shared[index]) for index, text in slot.texts.items()]
        keys = sorted(set.intersection(*(set(config) for _, config in held)))
        matches = [learnt_fields.agreement(slot, key, [(text, config[key]) for text, config in held]) for key in keys]
        found[id(slot)] = [replace(m, like=m.like + 0.01 * ("max" in m.key) + 0.005 * ("train" in m.key))
                           for m in matches if m is not None]  # fmt: skip
    chosen = learnt_fields.best_together(found)
    return {place: chosen[id(slot)] for place, slot in slots.items() if id(slot) in chosen}


# --- grids ------------------------------------------------------------------------------------------------------------


def _made(
    runs: Sequence[Run],
    patterns: Sequence[Pattern],
    choice: _Choice,
) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
    """Groups and grids as sections: for each experiment one grid, or one for each value of a facet."""
    if _have_own_seeds(runs, patterns, choice):
        return None
    found: dict[str, tuple[Sequence[Pattern], Sequence[Run], Numbering]] = {}
    experiments = _experiments(runs, patterns)
    for number, own in enumerate(experiments, start=1):
        name = "main" if len(experiments) == 1 else f"experiment{number}"
        for facet in (None, *choice.facets):
            parts: dict[str, list[Pattern]] = defaultdict(list)
            for pattern in own:
                words = {facet.of_group[group] for group in pattern.groups} if facet is not None else {name}
                parts["/".join(sorted(words))] += [pattern]
            if any("/" in word or (facet is not None and word in found) for word in parts):
                continue
            here = {}
            for word, mine in parts.items():
                of_part = [run for run in runs if any(run.group in pattern.groups for pattern in mine)]
                numbering = _numbering(of_part, mine, choice)
                if numbering is None:
                    break
                here[word] = mine, of_part, numbering
            else:
                found |= here
                break
    return _sections(found, choice) if found else None


def _have_own_seeds(runs: Sequence[Run], patterns: Sequence[Pattern], choice: _Choice) -> bool:
    """Whether there are groups of one form each, of a single seed each that no name says, and not of the same one:
    they are runs."""
    seeds: dict[str, set[int | None]] = defaultdict(set)
    for run in runs:
        seeds[run.group].add(placement.seed_of(run.config.get(choice.seed_key)))
    several = len(set.union(*seeds.values())) > 1
    return (
        several
        and not any(p.holes or _are_seeds_of_one(p, runs, choice) for p in patterns)
        and all(len(mine) == 1 for mine in seeds.values())
    )


def _are_seeds_of_one(pattern: Pattern, runs: Sequence[Run], choice: _Choice) -> bool:
    """Whether the names of these groups said a seed, which is taken out of them, and their runs differ in it alone."""
    if f"{{{choice.seed_key.rpartition('.')[2]}}}" not in pattern.was:
        return False
    configs = [run.config for run in runs if run.group in pattern.groups]
    own = {key for config in configs for key in config if learnt_names.OF_THE_RUN.search(key)}
    ignored = choice.ignored | own | {choice.seed_key}
    return all(comparing.same_configuration(configs[0], config, ignored) for config in configs)


def _experiments(runs: Sequence[Run], patterns: Sequence[Pattern]) -> list[list[Pattern]]:
    """The patterns of each experiment: those whose runs have mostly the same keys."""
    keys = {id(p): set.intersection(*(set(run.config) for run in runs if run.group in p.groups)) for p in patterns}
    found: list[list[Pattern]] = []
    for pattern in patterns:
        mine = keys[id(pattern)]
        for other in found:
            its = keys[id(other[0])]
            if len(mine & its) >= _ALIKE * len(mine | its):
                other.append(pattern)
                break
        else:
            found.append([pattern])
    return found


def _sections(
    found: Mapping[str, tuple[Sequence[Pattern], Sequence[Run], Numbering]],
    choice: _Choice,
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    groups: dict[str, Any] = {}
    grids: dict[str, Any] = {}
    lines = []
    for word, (patterns, runs, numbering) in found.items():
        grid: dict[str, Any] = {}
        held = [values for pattern in patterns for values in pattern.held.values()]
        if any(held):
            grid["across"] = _across(held)
        seeds = {placement.seed_of(run.config.get(choice.seed_key)) for run in runs}
        grid["seeds"] = sorted(seed for seed in seeds if seed is not None)
        grid["axes"] = {key: list(values) for key, values in numbering.axes.items()}
        holes = {hole: key for pattern in patterns for hole, key in pattern.holes.items()}
        if said := _set(runs, patterns, holes, numbering, choice.named - choice.ignored):
            grid["set"] = said
        if numbering.outside or numbering.others:
            grid["numberings"] = {"full": {"outside": list(numbering.outside)} if numbering.outside else {}}
            for number, other in enumerate(numbering.others, start=2):
                grid["numberings"][f"other{number if number > 2 else ''}"] = {"outside": list(other)}
        grids[word] = grid
        for pattern in patterns:
            words = {f.name: f.of_group[next(iter(pattern.groups))] for f in choice.facets
                     if len({f.of_group[group] for group in pattern.groups}) == 1}  # fmt: skip
            was = {"was": pattern.was} if pattern.was else {}
            groups[pattern.text] = {**words, **was, "grid": word, "example": pattern.example}
            lines.append(f"groups {pattern.text}: of {wording.count_text(len(pattern.groups), 'folder')}")
        inside = [key for key in numbering.axes if key not in numbering.outside]
        shown = " × ".join(f"{key} {_shown(numbering.axes[key])}" for key in inside)
        lines.append(
            f"grid {word}: no axes within its groups"
            if not inside
            else f"grid {word}: {'task ids number' if choice.with_tasks else 'axes'} {shown}"
            + (f"; outside of the id: {', '.join(numbering.outside)}" if numbering.outside else "")
            + "".join(f"; of some groups without {', '.join(other)}" for other in numbering.others)
            + (f"; {numbering.rivals} other orders fit as well" if numbering.rivals else "")
        )
    return groups, grids, lines


def _shown(values: Sequence[Any]) -> str:
    return f"[{', '.join(str(value) for value in values)}]"


def _across(held: Sequence[Mapping[str, Any]]) -> list[dict[str, list[Any]]]:
    """What names hold, as a sum of products: those that differ in one hole only are put together, again and again."""
    products = [{hole: (value,) for hole, value in values.items()} for values in held]
    products = [dict(term) for term in {tuple(sorted(term.items())): term for term in products}.values()]
    for hole in reversed(list(products[0]) if all(set(t) == set(products[0]) for t in products) else []):
        merged: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
        for term in products:
            merged[tuple((h, v) for h, v in term.items() if h != hole)] |= set(term[hole])
        products = [
            {h: dict(rest).get(h, tuple(sorted(values))) for h in products[0]} for rest, values in merged.items()
        ]
    return [{hole: list(values) for hole, values in term.items()} for term in products]


def _set(
    runs: Sequence[Run], patterns: Sequence[Pattern], holes: Mapping[str, str], numbering: Numbering, named: set[str]
) -> dict[str, Any]:
    """What else names state and the grid decides: what a group's name holds, or one value for all."""
    said: dict[str, Any] = {}
    for key in sorted(named - set(numbering.axes) - set(holes.values())):
        if any(key not in run.config for run in runs):
            continue
        same = next((hole for hole, other in holes.items() if _are_same(runs, key, other)), None)
        lengths = re.search(r"min|max", key)
        if same is not None and all(same in pattern.holes for pattern in patterns):
            said[key] = same
        elif lengths and (value := _only([run.config[key] for run in runs])) and comparing.whole(value[0]) is not None:
            said[key] = value[0]
    return said


def _are_same(runs: Sequence[Run], key: str, other: str) -> bool:
    return all(comparing.same_value(run.config[key], run.config.get(other)) for run in runs)


def _numbering(
    runs: Sequence[Run],
    patterns: Sequence[Pattern],
    choice: _Choice,
) -> Numbering | None:
    taken = {key for pattern in patterns for key in pattern.holes.values()} | {k for f in choice.facets for k in f.keys}
    usable = _usable(runs, taken, choice)
    within = [key for key in usable if _varies_within(runs, key, lambda run: (run.group,))]
    if not choice.with_tasks:
        return _plain(runs, within, several=any(p.holes or _are_seeds_of_one(p, runs, choice) for p in patterns))
    extra = [key for key in usable if key not in within]
    classes: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for group in sorted({run.group for run in runs}):
        mine = [run for run in runs if run.group == group]
        classes[tuple(key for key in within if _varies_within(mine, key, lambda run: run.task))] += mine
    everywhere = tuple(key for key in within if any(key in apart for apart in classes))
    if (one := _one_numbering(runs, within, everywhere, extra)) is not None or len(classes) == 1:
        return one
    apart, mine = min(classes.items(), key=lambda item: (len(item[0]), -len(item[1])))
    found = _one_numbering(mine, within, apart, extra)
    if found is None:
        return None
    axes = {key: _with_all(values, _values(runs, key)) for key, values in found.axes.items()}
    others = []
    for other, theirs in classes.items():
        inside = [key for key in axes if key not in other]
        right = sum(_id(axes, range(len(inside)), inside, _cell(run, inside)) == run.task for run in theirs)
        if other != apart and inside and right >= _ENOUGH * len(theirs):
            others.append(other)
    return replace(found, axes=axes, others=tuple(others))


def _with_all(values: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    """Values in their order, and those known besides."""
    return [*values, *(v for v in known if not any(comparing.same_value(v, w) for w in values))]


def _cell(run: Run, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(comparing.key_of(run.config[key]) for key in keys)


def _one_numbering(
    runs: Sequence[Run], within: Sequence[str], outside: tuple[str, ...], extra: Sequence[str]
) -> Numbering | None:
    """The numbering of task folders by what varies, and by as few other keys as are needed."""
    inside = [key for key in within if key not in outside]
    best: Numbering | None = None
    for count in range(min(_MOST_EXTRA, len(extra)) + 1):
        for more in itertools.combinations(extra, count):
            keys = [*inside, *more]
            if keys and len(keys) <= _MOST_AXES and (order := _order(runs, keys)) is not None:
                axes, rivals = order
                here = Numbering({**axes, **{key: _values(runs, key) for key in outside}}, outside, rivals)
                if best is None or here.rivals < best.rivals:
                    best = here
        if best is not None:
            return best
    return None


def _plain(runs: Sequence[Run], keys: Sequence[str], *, several: bool) -> Numbering | None:
    """Axes where no folder numbers them: worth saying where at least half of their product was run; of several groups
    there need be none.
    """
    if len(keys) > _MOST_AXES or not (keys or several):
        return None
    axes = {key: _values(runs, key) for key in keys}
    cells = {tuple(comparing.key_of(run.config[key]) for key in keys) for run in runs}
    return Numbering(axes, ()) if 2 * len(cells) >= math.prod(map(len, axes.values())) else None


def _usable(runs: Sequence[Run], taken: set[str], choice: _Choice) -> list[str]:
    """The keys that may be axes: a few plain values, not decided by another, those that names state first."""
    shared = set.intersection(*(set(run.config) for run in runs)) - taken - choice.ignored - {choice.seed_key}
    named = choice.named
    values = {}
    for key in shared:
        mine = [run.config[key] for run in runs]
        plain = all(isinstance(v, bool | int | float | str) and not (isinstance(v, str) and "/" in v) for v in mine)
        count = len({comparing.key_of(value) for value in mine})
        if plain and 1 < count <= _MOST_VALUES and "seed" not in key.lower() and not (
            key not in named and count == len(mine) > 2):  # fmt: skip
            values[key] = tuple(comparing.key_of(value) for value in mine)
    decided = {tuple(comparing.key_of(run.config.get(key)) for run in runs) for key in taken}
    kept: list[str] = []
    for key in sorted(values, key=lambda key: (key not in named, not _is_flag(runs, key), len(set(values[key])), key)):
        by_taken = key not in named and any(_decides(other, values[key]) for other in decided)
        equal = any(_decides(values[other], values[key]) and (_decides(values[key], values[other]) or key not in named)
                    for other in kept)  # fmt: skip
        if not equal and not by_taken and not any(_decides(other, values[key]) and _decides(values[key], other)
                                                  for other in decided):  # fmt: skip
            kept.append(key)
    return kept


def _is_flag(runs: Sequence[Run], key: str) -> bool:
    return all(isinstance(run.config[key], bool) for run in runs)


def _decides(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether each value of one goes with a single value of the other."""
    seen: dict[Any, Any] = {}
    return all(seen.setdefault(mine, its) == its for mine, its in zip(one, other, strict=True))


def _varies_within(runs: Sequence[Run], key: str, place: Any) -> bool:
    seen: dict[Any, Any] = {}
    values = ((place(run), comparing.key_of(run.config[key])) for run in runs)
    return any(seen.setdefault(at, value) != value for at, value in values)


def _values(runs: Sequence[Run], key: str) -> list[Any]:
    """The values of a key, in an order that looks natural."""
    found = {comparing.key_of(run.config[key]): run.config[key] for run in runs}
    if _is_flag(runs, key):
        return sorted(found.values(), reverse=True)
    numbers = all(isinstance(value, int | float) for value in found.values())
    return sorted(found.values()) if numbers else sorted(found.values(), key=str)


def _order(runs: Sequence[Run], keys: Sequence[str]) -> tuple[dict[str, Sequence[Any]], int] | None:
    """The order of axes, and of their values, that gives the task ids; and how many other orders do so too."""
    known = {key: _values(runs, key) for key in keys}
    cells = Counter((run.task, _cell(run, keys)) for run in runs if run.task is not None)
    if not cells or max(task for task, _ in cells) >= math.prod(map(len, known.values())):
        return None
    found = list(_orders(cells, keys, known))
    if not found:
        return None
    best = max(found, key=lambda item: item[0])
    return best[1], sum(item[0] == best[0] for item in found) - 1


def _orders(
    cells: Mapping[tuple[int, tuple[Any, ...]], int], keys: Sequence[str], known: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[int, dict[str, Sequence[Any]]]]:
    for order in itertools.permutations(range(len(keys))):
        sizes = [len(known[keys[at]]) for at in order]
        votes: list[dict[int, Counter[Any]]] = [defaultdict(Counter) for _ in order]
        for (task, values), count in cells.items():
            rest = task
            for place in range(len(order) - 1, -1, -1):
                rest, digit = divmod(rest, sizes[place])
                votes[place][digit][values[order[place]]] += count
        axes: dict[str, Sequence[Any]] = {}
        for place, at in enumerate(order):
            digits = {digit: counter.most_common(1)[0][0] for digit, counter in votes[place].items()}
            if len(set(digits.values())) < len(digits):
                break
            values_ = {comparing.key_of(value): value for value in known[keys[at]]}
            left = [value for value in values_ if value not in digits.values()]
            axes[keys[at]] = [values_[digits[d] if d in digits else left.pop(0)] for d in range(sizes[place])]
        else:
            right = sum(count for (task, values), count in cells.items() if _id(axes, order, keys, values) == task)
            if right >= _ENOUGH * sum(cells.values()):
                yield right, axes


def _id(axes: Mapping[str, Sequence[Any]], order: Sequence[int], keys: Sequence[str], values: Sequence[Any]) -> int:
    number = 0
    for at in order:
        known = [comparing.key_of(value) for value in axes[keys[at]]]
        number = number * len(known) + known.index(values[at])
    return number
