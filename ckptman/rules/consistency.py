"""Whether the sections of a convention agree: what each check finds wrong, as a place and what stands there.

A convention declares no list of configuration keys, so a key is taken for a slip of the keyboard only where one is
known that is spelled almost alike, and where it itself stands in no second place.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from ckptman.rules.naming import Naming
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.schemes import Scheme
from ckptman.rules.terms import GROUP_HOLE, RUN_ID, Convention, K, Scalar
from ckptman.text import RefusedError, wording

_ALIKE = 0.85
"""How alike two spellings are, from 0 to 1, that are one key and a slip of the keyboard."""

Problem = tuple[str, str]
"""A place in the convention, and what is wrong there."""


def near(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean X?` with the nearest known word, or else all of them."""
    names = list(known)
    found = get_close_matches(word, names, n=1, cutoff=cutoff)
    if not found and not names:
        return ""
    return f"; did you mean {found[0]!r}?" if found else f"; known are {', '.join(names)}"


def problems(convention: Convention) -> Iterator[Problem]:
    """What is wrong between sections, the first of a kind first."""
    if problem := numbering_problem(convention):
        yield "numbering", problem
    yield from _unheld(convention)
    yield from _misspelt(convention)
    yield from _idle_facets(convention)
    yield from _unnameable(convention)
    yield from _examples(convention)


def numbering_problem(convention: Convention) -> str:
    """Which grid lacks the numbering in force; empty where none does."""
    for grid in convention.grids.values():
        if grid.numberings and convention.numbering not in grid.numberings:
            hint = near(convention.numbering, grid.numberings, 0.3)
            return f"grid {grid.name!r} has no numbering {convention.numbering!r}{hint}"
    return ""


def _unheld(convention: Convention) -> Iterator[Problem]:
    """Keys that a grid goes over and no name of its groups holds, so they part no runs; unknown keys of old names."""
    for group in convention.groups:
        known = (*group.holes, *convention.facets, convention.seed_key, RUN_ID)
        for hole, _ in GROUP_HOLE.findall("".join(group.was)):
            if hole not in known:
                yield f"groups.{group.pattern}.was", f"{{{hole}}} is in no name of this group{near(hole, known)}"
    for name, grid in convention.grids.items():
        holes = [hole for group in convention.groups if group.grid == name for hole in group.holes]
        for index, product in enumerate(grid.across if holes else ()):
            for key in product:
                if key not in holes:
                    yield (
                        f"grids.{name}.across[{index}].{key}",
                        (f"no name of this grid's groups holds {{{key}}}{near(key, dict.fromkeys(holes))}"),
                    )


def _mentions(convention: Convention) -> Iterator[tuple[str, str]]:
    """Every place that uses a configuration key, and the key."""
    for prefix in convention.prefixes:
        if prefix.step_config:
            yield f"name.prefixes.{prefix.name}.step", prefix.step_config
    yield "run.seed", convention.seed_key
    yield "run.group", convention.group_key
    for facet in convention.facets.values():
        for key in facet.keys:
            yield f"facets.{facet.name}", key
    for what, keys in (("trained", convention.trained_keys), ("tested", convention.tested_keys)):
        for key in keys or ():
            yield f"lengths.{what}", key
    for group in convention.groups:
        for hole in group.holes:
            yield f"groups.{group.pattern}", hole
    for name, grid in convention.grids.items():
        for key in grid.axes:
            yield f"grids.{name}.axes", key
        for regime, part in grid.regimes.items():
            for key in part.set:
                yield f"grids.{name}.{f'regimes.{regime}.' if regime else ''}set", key
    for key in convention.axis_titles:
        yield "axes", key
    for metric in convention.metrics.values():
        for bound in (metric.low, metric.high):
            if isinstance(bound, str):
                yield f"metrics.{metric.name.partition('.')[0]}.k", bound
    for column, key in convention.summary.items():
        yield f"summary.{column}", key


def _misspelt(convention: Convention) -> Iterator[Problem]:
    said = list(dict.fromkeys(_mentions(convention)))
    times = Counter(key for _, key in said)
    known = {key for field in convention.fields for key in field.config}
    known |= {field.config for scheme in convention.schemes for field in scheme.fields.values() if not field.unused}
    known |= {key for rule in convention.beside for key in rule.values}
    known |= {convention.seed_key, convention.group_key, *convention.facets}
    if convention.fields:  # the recipe's names
        known |= {field.name for field in dataclasses.fields(TrainConfig)}
    known |= {key for key, count in times.items() if count > 1}
    for place, key in said:
        if key in known:
            continue
        own = "" if place == "axes" else " (A key of its own has a title in `axes`.)"
        alike = get_close_matches(key, sorted(other for other in known if not _is_sibling(key, other)), 1, _ALIKE)
        if alike:
            yield place, f"the key {key!r} stands nowhere else; did you mean {alike[0]!r}?{own}"
        elif convention.fields and place.startswith("metrics."):  # of which nothing would ever be measured
            yield place, f"the key {key!r} stands nowhere else{wording.did_you_mean(key, known)}{own}"


def _idle_facets(convention: Convention) -> Iterator[Problem]:
    """Facets of any value that nothing uses, where another was meant: the one of that key, or K, which commands use."""
    names = [hole for group in convention.groups for hole in group.holes] + list(convention.summary.values())
    names += [key for grid in convention.grids.values() for product in grid.across for key in product]
    used = {K, *names, *(facet.name for facet in convention.family_facets)}
    for facet in convention.facets.values():
        if facet.values or facet.name in used:
            continue
        twin = next((each.name for each in convention.facets.values() if each != facet and each.keys == facet.keys), "")
        if twin or (K not in convention.facets and get_close_matches(facet.name.upper(), [K], 1, 0.5)):
            yield f"facets.{facet.name}", f"nothing uses this facet; did you mean {twin or K!r}?"


def _is_sibling(key: str, other: str) -> bool:
    """Whether two keys that are spelled alike are two on purpose: `beta1` and `beta2`, `iseed` and `seed`."""
    return re.sub(r"\d+", "", key) == re.sub(r"\d+", "", other) or key.endswith(other) or other.endswith(key)


def _unnameable(convention: Convention) -> Iterator[Problem]:
    """Values of grids and facets that no file name could state, where the grammar gives all names."""
    if not convention.fields or convention.schemes or convention.keep_names:
        return
    naming = Naming(convention)
    for facet in convention.facets.values():
        for each in facet.values if facet.config else ():
            if problem := naming.unwritable(str(facet.config), each.value):
                yield f"facets.{facet.name}.values.{each.word}", problem
    for name, grid in convention.grids.items():
        for place, key, value in _values(f"grids.{name}", grid.across, grid.axes):
            if problem := naming.unwritable(convention.key_of(key) or key, value):
                yield place, problem
        groups = [group for group in convention.groups if group.grid == name]
        holes = {hole for group in groups for hole in group.holes}
        for regime, part in grid.regimes.items() if groups else ():  # without one, nothing is trained by it
            for key, value in part.set.items():
                key_problem = "" if value in holes else naming.unwritable(key, value)
                if key_problem:
                    yield f"grids.{name}.{f'regimes.{regime}.' if regime else ''}set.{key}", key_problem


def _values(
    where: str, across: Iterable[Mapping[str, tuple[Scalar, ...]]], axes: Mapping[str, tuple[Scalar, ...]]
) -> Iterator[tuple[str, str, Scalar]]:
    for key, values in axes.items():
        yield from ((f"{where}.axes.{key}[{index}]", key, value) for index, value in enumerate(values))
    for number, product in enumerate(across):
        for key, values in product.items():
            yield from ((f"{where}.across[{number}].{key}", key, value) for value in values)


def _examples(convention: Convention) -> Iterator[Problem]:
    """Each example must come back the same from a parse and a format: the check that the rules hold together."""
    naming = Naming(convention)
    for example in convention.name_examples:
        try:
            again = naming.format(naming.parse(example))
        except RefusedError as error:
            yield "name.examples", error.message
            continue
        if again != example:
            yield "name.examples", f"{example!r} comes back as {again!r}"
    for scheme in convention.schemes:
        for example in scheme.examples:
            if problem := _example_problem(example, scheme, naming):
                yield f"names.{scheme.name}.examples", problem


def _example_problem(example: str, scheme: Scheme, naming: Naming) -> str:
    if scheme.parse(example) is None:
        return f"{example!r} does not follow {scheme.shape}"
    parsed = naming.parse(example)
    if parsed.scheme is not scheme:
        first = "the grammar of `name`" if parsed.scheme is None else parsed.scheme.name
        return f"{example!r} is taken for a name by {first}, which is tried before"
    try:
        again = naming.format(parsed) if scheme.template else example
    except RefusedError as error:
        return f"{example!r}: {error.message}"
    return "" if again == example else f"{example!r} comes back as {again!r}"
