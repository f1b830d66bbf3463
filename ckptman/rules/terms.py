"""The convention: the rules for names, folders and grids, as the rest of ckptman sees them.

The rules themselves are data, in `convention.yaml` and in a lab's `ckptman.yaml`; `convention_file` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ckptman.rules import comparing
from ckptman.rules.beside import BesideRule as BesideRule
from ckptman.rules.beside import Form as Form
from ckptman.rules.beside import form_of as form_of
from ckptman.rules.facets import Facet as Facet
from ckptman.rules.facets import FacetValue as FacetValue
from ckptman.rules.facets import Family as Family
from ckptman.rules.facets import Scalar as Scalar
from ckptman.rules.inert import is_full_name as is_full_name
from ckptman.rules.inert import reaches_system as reaches_system
from ckptman.rules.layout import Layout
from ckptman.rules.layout import Levels as Levels
from ckptman.rules.measures import EXACT_MATCH as EXACT_MATCH
from ckptman.rules.measures import Metric as Metric
from ckptman.rules.schemes import Field as Field
from ckptman.rules.schemes import Scheme as Scheme
from ckptman.rules.schemes import regex_of as regex_of

DEFAULT_METRIC = "gen_em"
"""What is asked for where no metric is named: a run's generalization, from 0 to 1."""

K = "K"
"""The facet that `--k` asks for: of a grid over lengths, the longest that is trained."""

GROUP_HOLE = re.compile(r"\{([A-Za-z]\w*)(?::([A-Za-z0-9.]+))?\}", re.ASCII)
"""What a group's name holds: a whole number, or a value of a type, as names of files do."""

RUN_ID = "id"
"""What former names of groups may hold besides: a run's own id, which is of no key."""

Setting = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class NameField:
    """One field of a checkpoint's file name: `<tag><value>`."""

    tag: str
    type: str
    config: tuple[str, ...]
    """The configuration key the value comes from; two for a range."""
    title: str
    optional: bool = False
    inverted: bool = False
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prefix:
    """What a file name begins with: the kind of checkpoint, and at which iteration count it is written."""

    name: str
    title: str
    final: bool
    step_config: str
    """The configuration key of the step; empty where no recipe says it."""
    step_plus: int
    early: bool = False
    """Training may end, and this be saved, before the step that the recipe says."""

    def expected_step(self, config: Mapping[str, Any]) -> int | None:
        """Iterations done when this kind is saved, by the recipe in `config`; None where the recipe does not say, an
        end of 0 or -1 being none."""
        value = comparing.whole(comparing.at(config, self.step_config))
        return None if value is None or (self.final and value < 1) else value + self.step_plus


@dataclass(frozen=True)
class CheckpointForm:
    """The top-level keys of one form of checkpoint file."""

    name: str
    weights: str
    optimizer: str
    config: str
    model_config: str | None
    iters: str
    itr: str | None
    run_id: str | None
    whole: bool = False
    """The file is the weights themselves."""


@dataclass(frozen=True)
class CheckpointRules:
    """What a checkpoint file is called and holds."""

    suffix: str
    other_suffixes: tuple[str, ...]
    """What the names of checkpoints of other programs end in."""
    forms: tuple[CheckpointForm, ...]
    config_classes: tuple[str, ...]
    """Classes whose instances are values."""
    compiled_prefix: str
    wrappers: tuple[str, ...] = ()
    """Prefixes of a weight's name that wrappers of a model put anywhere in it."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that stand in front only: they may be a model's own."""
    config_keys: tuple[str, ...] = ()
    """Where a configuration may stand that is not where the form has it."""
    step_keys: tuple[str, ...] = ()
    """Where the iterations done may stand that are not where the form has them."""
    inert: tuple[str, ...] = ()
    """Functions whose calls in a pickle are kept as inert records."""


@dataclass(frozen=True)
class ModelRules:
    """Which configuration keys, beside the known ones, have no effect on what a model computes. `*` is any text."""

    training: tuple[str, ...]
    """In a training configuration: they say how a model is trained, measured or stored."""
    without_effect: tuple[str, ...]
    """They are declared so by a lab."""


@dataclass(frozen=True)
class RawLayout:
    """Names of the files and folders that training leaves."""

    saved_models: str
    wandb: str
    state: str
    status: str
    metrics: str
    inner: tuple[str, ...]
    """Folders of a run's own, in which checkpoints may lie."""
    wandb_runs: tuple[str, ...]
    wandb_ignored: tuple[str, ...]
    group_levels: int = 1
    """The folders, one in the other, that name a group together."""
    step_folders: tuple[str, ...] = ()
    """Folders that hold the files of one checkpoint and say its step, where `*` stands."""

    def is_step_folder(self, name: str) -> bool:
        """Whether a folder is one of those."""
        return any(pattern.fullmatch(name) for pattern in self._steps)

    @cached_property
    def _steps(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile("[0-9]+".join(map(re.escape, each.split("*")))) for each in self.step_folders)


@dataclass(frozen=True)
class GroupPattern:
    """A W&B group that ckptman knows: its name's pattern, what it says of its runs, and its grid."""

    pattern: str
    facets: Mapping[str, Scalar]
    """The facets that all runs of such a group share, by name; it spans the others."""
    grid: str
    regime: str
    """The part of the grid that its tasks are of; see `Grid.regimes`."""
    example: str
    title: str
    was: tuple[str, ...] = ()
    """Patterns of the names that its runs give their group, from before it was called so."""

    def was_called(self, name: str) -> bool:
        """Whether a group of this name is, by now, one of this pattern."""
        return any(pattern.fullmatch(name) for pattern in self._former)

    def said_by(self, name: str) -> dict[str, Any] | None:
        """What a name says that a group of it has or had (of facets and configuration keys); None for any other."""
        for pattern in (self.pattern, *self.was):
            kinds = dict(GROUP_HOLE.findall(pattern))
            if len(kinds) == len(GROUP_HOLE.findall(pattern)) and (
                match := _group_regex(pattern, named=True).fullmatch(name)):  # fmt: skip
                return {
                    key: Field(key, kinds[key] or "int", key).parse(text) for key, text in match.groupdict().items()
                }
        return None

    @cached_property
    def _former(self) -> list[re.Pattern[str]]:
        return [_group_regex(pattern, named=False) for pattern in self.was]

    @cached_property
    def holes(self) -> tuple[str, ...]:
        """What its name holds: facets and configuration keys."""
        return tuple(match[1] for match in GROUP_HOLE.finditer(self.pattern))

    @cached_property
    def _fields(self) -> Mapping[str, Field]:
        return {m[1]: Field(m[1], m[2] or "int", m[1]) for m in GROUP_HOLE.finditer(self.pattern)}

    def parse(self, name: str) -> dict[str, Any] | None:
        """The values in a group's name (of facets and configuration keys), or None if it is not of this kind."""
        match = self._regex.fullmatch(name)
        if match is None:
            return None
        return {key: self._fields[key].parse(text) for key, text in match.groupdict().items()}

    def format(self, values: Mapping[str, Any]) -> str:
        """The group's name for these values."""
        texts = {key: field.format(values[key]) for key, field in self._fields.items()}
        return GROUP_HOLE.sub(lambda m: texts[m[1]] or str(values[m[1]]), self.pattern)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return _group_regex(self.pattern, named=True)


def _group_regex(pattern: str, *, named: bool) -> re.Pattern[str]:
    pieces, end = [], 0
    for match in GROUP_HOLE.finditer(pattern):
        # A number without leading zeros, so that format(parse(name)) == name.
        value = regex_of(match[2] or "") or ("0|[1-9][0-9]{0,8}" if named else "[A-Za-z0-9.]+")
        pieces += [re.escape(pattern[end : match.start()]), f"({f'?P<{match[1]}>' if named else '?:'}{value})"]
        end = match.end()
    return re.compile("".join((*pieces, re.escape(pattern[end:]))))


@dataclass(frozen=True)
class Regime:
    """One regime of a grid: the axes that number its tasks, and the values it fixes."""

    axes: tuple[str, ...]
    set: Mapping[str, Scalar]


@dataclass(frozen=True)
class Grid:
    """A grid of runs: groups over what their names hold, tasks over the axes, seeds."""

    name: str
    across: tuple[Mapping[str, tuple[Scalar, ...]], ...]
    """What the names of its groups go over, by facet or configuration key: a sum of products."""
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Scalar, ...]]
    regimes: Mapping[str, Regime]
    """By a value of the facet that tells them apart; the only one of a grid that has no such facet is ``."""
    numberings: Mapping[str, Mapping[str, tuple[str, ...]]]
    """For each numbering and regime, the axes that have no part in the task id."""

    @property
    def k(self) -> tuple[int, ...]:
        """Every K that its groups go over; none where their names do not say it."""
        found = (value for product in self.across for value in product.get(K, ()))
        return tuple(dict.fromkeys(value for value in found if isinstance(value, int)))


@dataclass(frozen=True)
class AxisTitle:
    """How documents write an axis and its values."""

    title: str
    short: str
    on: str
    off: str
    option: str = ""
    """The command-line option that asks for a value; by default it is called as the key."""

    def word(self, value: Scalar) -> str:
        """A value as tables write it."""
        return (self.on if value else self.off) if isinstance(value, bool) else str(value)

    def brief(self, value: Scalar) -> str:
        """A value with its axis, in short: `L2`."""
        return self.short.replace("{}", self.word(value).lower() if isinstance(value, bool) else str(value))


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, so that what is derived from it can be cached
class Convention:
    """All rules together. `source` is the file that extends the built-in ones, if any."""

    title: str
    numbering: str
    statistics: str
    """The standard deviation over runs: of the `sample` or of the `population`."""
    prefixes: tuple[Prefix, ...]
    fields: tuple[NameField, ...]
    step_tag: str
    step_title: str
    name_examples: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    """Further ways to name files, in the order in which they are tried."""
    keep_names: bool
    """A file whose configuration is known keeps a name that no scheme describes."""
    checkpoint: CheckpointRules
    model: ModelRules
    raw: RawLayout
    seed_key: str
    """The configuration key of a run's seed."""
    group_key: str
    """The configuration key of a run's W&B group."""
    facets: Mapping[str, Facet]
    folders: Layout
    trained_keys: tuple[str, str] | None
    """The configuration keys of the shortest and the longest trained length; None for models of one length."""
    tested_keys: tuple[str, str] | None
    """The same of the tested lengths."""
    groups: tuple[GroupPattern, ...]
    grids: Mapping[str, Grid]
    axis_titles: Mapping[str, AxisTitle]
    metrics: Mapping[str, Metric]
    metric: Metric
    """The one that runs are ranked by: their generalization."""
    ignored_keys: frozenset[str]
    settings: Mapping[str, Setting]
    """Defaults for command-line options."""
    beside: tuple[BesideRule, ...] = ()
    """What lies beside checkpoints, those that count more first."""
    summary: Mapping[str, str] = field(default_factory=dict)
    """Columns of the table that `results --csv` writes, and of each the facet or the key that it tells."""
    source: Path | None = None

    @cached_property
    def set_keys(self) -> frozenset[str]:
        """The configuration keys that grids set besides their axes."""
        return frozenset(key for grid in self.grids.values() for part in grid.regimes.values() for key in part.set)

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        """The keys that it names in sections of a configuration, such as `optim.lr`."""
        grids = [key for grid in self.grids.values() for key in (*grid.axes, *(k for p in grid.across for k in p))]
        named = [field.config for scheme in self.schemes for field in scheme.fields.values()]
        facets = [key for facet in self.facets.values() for key in facet.keys]
        others = [self.seed_key, self.group_key, *(prefix.step_config for prefix in self.prefixes)]
        lengths = [*(self.trained_keys or ()), *(self.tested_keys or ())]
        every = [*grids, *self.set_keys, *named, *facets, *others, *lengths]
        return tuple(dict.fromkeys(key for key in every if "." in key))

    @cached_property
    def has_seed_apart(self) -> bool:
        """Whether the seed says only which run of a configuration it is: nothing else is told by it."""
        axes = [key for grid in self.grids.values() for key in (*grid.axes, *(k for p in grid.across for k in p))]
        holes = [hole for group in self.groups for hole in group.holes]
        facets = [key for facet in self.facets.values() for key in facet.keys]
        others = [self.group_key, *(prefix.step_config for prefix in self.prefixes), *axes, *holes]
        lengths = [*(self.trained_keys or ()), *(self.tested_keys or ())]
        return self.seed_key not in {*others, *facets, *lengths, *self.set_keys}

    def lifted(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """A configuration with what the convention names in its sections under the paths of that: `optim.lr`."""
        found = {path: value for path in self._paths if (value := comparing.at(config, path)) is not None}
        return {**config, **found} if found else config

    @property
    def family_facets(self) -> tuple[Facet, ...]:
        """The facets that are levels of the tree; their values are a family."""
        return self.folders.facets

    @cached_property
    def told_facets(self) -> tuple[Facet, ...]:
        """The facets that commands tell and ask for: the levels of the tree, and all others whose values are known."""
        others = (facet for facet in self.facets.values() if facet.values and facet not in self.family_facets)
        return (*self.family_facets, *others)

    @cached_property
    def k_key(self) -> str | None:
        """The configuration key of K; None where the convention has no such facet."""
        return self.facets[K].config if K in self.facets else None

    @property
    def k_hole(self) -> str:
        """What stands for K in the name of a group; empty in a convention without one."""
        return K if self.k_key is not None else ""

    def key_of(self, name: str) -> str | None:
        """The configuration key of a facet or a key; None for a facet that conditions decide."""
        return self.facets[name].config if name in self.facets else name

    def axis(self, key: str) -> AxisTitle:
        """How to write the axis `key`; a plain rendering where the convention has none."""
        return self.axis_titles.get(key) or AxisTitle(title=key, short=f"{key} {{}}", on="On", off="Off")

    @cached_property
    def asked_axes(self) -> Mapping[str, tuple[Scalar, ...]]:
        """The axes that commands ask for, and the values that grids have of each; facets are asked for as such."""
        facets = {name for facet in self.told_facets for name in (facet.name, facet.config)}
        places = [place for grid in self.grids.values() for place in (grid.axes, *grid.across)]
        return {
            key: tuple(value for place in places for value in place.get(key, ()))
            for key in self.axis_titles
            if key not in facets and key != self.k_key
        }

    def kind_at(self, step: int | None, config: Mapping[str, Any]) -> Prefix | None:
        """The kind of a checkpoint that holds so many iterations of a run: of its end, or else one on the way."""
        final, config = [prefix for prefix in self.prefixes if prefix.final], self.lifted(config)
        ended = step is not None and any(prefix.expected_step(config) == step for prefix in final)
        others = [prefix for prefix in self.prefixes if not prefix.final]
        return next(iter(final if ended or not others else others), None)

    @cached_property
    def final_kinds(self) -> frozenset[str]:
        """The prefixes of checkpoints of the end of training."""
        return frozenset(prefix.name for prefix in self.prefixes if prefix.final)

    def prefix(self, name: str) -> Prefix | None:
        """The prefix called `name`."""
        return next((prefix for prefix in self.prefixes if prefix.name == name), None)
