"""The convention: the rules for names, folders and grids, as the rest of ckptman sees them.

The rules themselves are data, in `convention.yaml` and in a lab's `ckptman.yaml`; `convention_file` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ckptman.rules import comparing
from ckptman.rules.beside import BesideRule as BesideRule
from ckptman.rules.beside import Form as Form
from ckptman.rules.inert import is_full_name as is_full_name
from ckptman.rules.inert import reaches_system as reaches_system

Scalar = str | int | float | bool | None
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
    step_plus: int

    def expected_step(self, config: Mapping[str, Any]) -> int | None:
        """Iterations done when this kind is saved, by the recipe in `config`; None where the recipe does not say."""
        value = comparing.whole(config.get(self.step_config))
        return None if value is None else value + self.step_plus


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
    wandb_runs: tuple[str, ...]
    wandb_ignored: tuple[str, ...]


@dataclass(frozen=True)
class Families:
    """The two axes of a family, each a level of folders."""

    layernorm_config: str
    layernorm_folders: Mapping[bool, str]
    layernorm_titles: Mapping[bool, str]
    k_config: str
    fixed_when_equal: tuple[str, str]
    regime_folders: Mapping[str, str]
    regime_titles: Mapping[str, str]


@dataclass(frozen=True)
class Folders:
    """Names of the task and run folders of the tree."""

    task_pattern: str
    task_digits: int
    run_pattern: str
    unknown_seed: str
    saved_wandb: str

    def task(self, task: int) -> str:
        """The folder of a task id."""
        return self.task_pattern.replace("{task}", f"{task:0{self.task_digits}d}")

    def run(self, seed: int | None, *notes: str) -> str:
        """The folder of a run; `notes` tell apart several runs of one task and seed."""
        name = self.run_pattern.replace("{seed}", self.unknown_seed if seed is None else str(seed))
        return "-".join((name, *notes))

    def parse_task(self, name: str) -> int | None:
        """The task id that a folder's name holds, or None for another folder."""
        match = self._task_regex.fullmatch(name)
        return int(match[1]) if match else None

    def parse_run(self, name: str) -> int | None:
        """The seed that a run folder's name holds, or None for another folder or an unknown seed."""
        match = self._run_regex.fullmatch(name)
        return int(match[1]) if match and match[1] != self.unknown_seed else None

    def is_run(self, name: str) -> bool:
        """Whether a folder's name is that of a run."""
        return self._run_regex.fullmatch(name) is not None

    @cached_property
    def _task_regex(self) -> re.Pattern[str]:
        before, after = self.task_pattern.split("{task}")
        return re.compile(rf"{re.escape(before)}([0-9]{{{self.task_digits},9}}){re.escape(after)}")

    @cached_property
    def _run_regex(self) -> re.Pattern[str]:
        before, after = self.run_pattern.split("{seed}")
        seed = rf"([0-9]{{1,18}}|{re.escape(self.unknown_seed)})"
        return re.compile(rf"{re.escape(before)}{seed}{re.escape(after)}(?:-[A-Za-z0-9_.-]+)?", re.ASCII)


@dataclass(frozen=True)
class GroupPattern:
    """A W&B group that ckptman knows: its name's pattern, its family, and its grid."""

    pattern: str
    layernorm: bool
    regime: str
    grid: str
    example: str
    title: str

    def parse(self, name: str) -> dict[str, int] | None:
        """The whole numbers in a group's name (`K` and configuration keys), or None if the name is not of this kind."""
        match = self._regex.fullmatch(name)
        return {key: int(value) for key, value in match.groupdict().items()} if match else None

    def format(self, values: Mapping[str, Any]) -> str:
        """The group's name for these values."""
        return re.sub(r"\{(\w+)\}", lambda m: str(values[m[1]]), self.pattern)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = re.split(r"\{(\w+)\}", self.pattern)
        # A number without leading zeros, so that format(parse(name)) == name.
        pieces = [re.escape(p) if i % 2 == 0 else rf"(?P<{p}>0|[1-9][0-9]{{0,8}})" for i, p in enumerate(parts)]
        return re.compile("".join(pieces))


@dataclass(frozen=True)
class Regime:
    """One regime of a grid: the axes that number its tasks, and the values it fixes."""

    axes: tuple[str, ...]
    set: Mapping[str, Scalar]


@dataclass(frozen=True)
class Grid:
    """A grid of runs: groups over K, tasks over the axes, seeds."""

    name: str
    k: tuple[int, ...]
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Scalar, ...]]
    regimes: Mapping[str, Regime]
    numberings: Mapping[str, Mapping[str, tuple[str, ...]]]
    """For each numbering and regime, the axes that have no part in the task id."""


@dataclass(frozen=True)
class AxisTitle:
    """How documents write an axis and its values."""

    title: str
    short: str
    on: str
    off: str

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
    checkpoint: CheckpointRules
    model: ModelRules
    raw: RawLayout
    seed_key: str
    """The configuration key of a run's seed."""
    group_key: str
    """The configuration key of a run's W&B group."""
    families: Families
    folders: Folders
    groups: tuple[GroupPattern, ...]
    grids: Mapping[str, Grid]
    axis_titles: Mapping[str, AxisTitle]
    generalization_pattern: str
    generalization_k: tuple[int, int]
    ignored_keys: frozenset[str]
    settings: Mapping[str, Setting]
    """Defaults for command-line options."""
    beside: tuple[BesideRule, ...] = ()
    """What lies beside checkpoints, those that count more first."""
    source: Path | None = None

    def axis(self, key: str) -> AxisTitle:
        """How to write the axis `key`; a plain rendering where the convention has none."""
        return self.axis_titles.get(key) or AxisTitle(title=key, short=f"{key} {{}}", on="On", off="Off")

    @cached_property
    def final_kinds(self) -> frozenset[str]:
        """The prefixes of checkpoints of the end of training."""
        return frozenset(prefix.name for prefix in self.prefixes if prefix.final)

    def prefix(self, name: str) -> Prefix | None:
        """The prefix called `name`."""
        return next((prefix for prefix in self.prefixes if prefix.name == name), None)
