"""The values of a training recipe as options, shared by `train` and `sweep`: one table says what each stands for.

The same table turns a configuration back into options, so that a command that trains it can be printed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ckptman.cli.options import settings_of
from ckptman.rules import Convention, TrainConfig, placement, selection, terms
from ckptman.rules import recipe as recipe_rules
from ckptman.text import UsageError, wording
from ckptman.training import planning

_PUBLISHED = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


@dataclass(frozen=True)
class RecipeOption:
    """One option, and the configuration values that it sets."""

    flag: str
    keys: tuple[str, ...]
    text: str
    metavar: str = "N"

    def typer_option(self) -> Any:
        """The option as Typer wants it; its default is the published value, unless --quick has another."""
        value = _PUBLISHED[self.keys[0]]
        shown = f"{value:,}" if isinstance(value, int) else f"{value:g}"
        return typer.Option(
            self.flag,
            metavar=self.metavar,
            help=f"{self.text} [default: {shown}]",
            show_default=False,
            rich_help_panel="Recipe",
        )


RECIPE: Mapping[str, RecipeOption] = {
    "max_iters": RecipeOption("--iters", ("max_iters",), "Iterations."),
    "batch": RecipeOption(
        "--batch-size", ("effective_batch_size", "micro_batch_size"), "Samples in each iteration."
    ),
    "learning_rate": RecipeOption("--lr", ("learning_rate",), "Learning rate after the warm-up.", "RATE"),
    "min_lr": RecipeOption("--min-lr", ("min_lr",), "Learning rate at the end.", "RATE"),
    "warmup_iters": RecipeOption(
        "--warmup-iters", ("warmup_iters",), "Iterations in which the learning rate grows."
    ),
    "weight_decay": RecipeOption("--weight-decay", ("weight_decay",), "Weight decay of the matrices.", "RATE"),
    "curriculum_warmup": RecipeOption(
        "--curriculum-warmup", ("curriculum_warmup_iters",), "Iterations before the curriculum's range grows."
    ),
    "curriculum_span": RecipeOption(
        "--curriculum-span", ("curriculum_span_iters",), "Iterations in which it grows to K."
    ),
    "checkpoint_every": RecipeOption(
        "--checkpoint-every", ("ckpt_interval",), "A checkpoint after the iteration with each multiple as index."
    ),
    "eval_every": RecipeOption(
        "--eval-every", ("eval_interval",), "Iterations between evaluations; 0 turns them off."
    ),
    "eval_samples": RecipeOption(
        "--eval-samples", ("eval_samples_per_length",), "Lists of each length in an evaluation."
    ),
    "log_every": RecipeOption("--log-every", ("log_interval",), "Iterations between logged losses."),
}  # fmt: skip
"""Every option, by the name of its parameter."""

_WITH_OPTIONS = {key for option in RECIPE.values() for key in option.keys} | {"amp_dtype"}
"""What has an option of its own; the rest goes by `--set`."""

NOT_SET = {"save_dir": "--out", "use_compile": "--compile", "wandb_mode": "--wandb"}
"""What a configuration only records."""

Iterations = Annotated[int | None, RECIPE["max_iters"].typer_option()]
Batch = Annotated[int | None, RECIPE["batch"].typer_option()]
LearningRate = Annotated[float | None, RECIPE["learning_rate"].typer_option()]
MinLearningRate = Annotated[float | None, RECIPE["min_lr"].typer_option()]
WarmupIterations = Annotated[int | None, RECIPE["warmup_iters"].typer_option()]
WeightDecay = Annotated[float | None, RECIPE["weight_decay"].typer_option()]
CurriculumWarmup = Annotated[int | None, RECIPE["curriculum_warmup"].typer_option()]
CurriculumSpan = Annotated[int | None, RECIPE["curriculum_span"].typer_option()]
CheckpointEvery = Annotated[int | None, RECIPE["checkpoint_every"].typer_option()]
EvalEvery = Annotated[int | None, RECIPE["eval_every"].typer_option()]
EvalSamples = Annotated[int | None, RECIPE["eval_samples"].typer_option()]
LogEvery = Annotated[int | None, RECIPE["log_every"].typer_option()]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        envvar="CKPTMAN_PRECISION",
        metavar="NAME",
        help="Of matrix products: fp32, bf16, or auto: an interrupted run's own, else bf16 on CUDA and fp32 on a CPU.",
        rich_help_panel="Recipe",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help=f"Another recipe, for about a minute on a laptop: {planning.QUICK['max_iters']:,} iterations of "
        f"{planning.QUICK['effective_batch_size']} samples, learning rate {planning.QUICK['learning_rate']:g}.",
    ),
]


def recipe_of(values: Mapping[str, Any], *, quick: bool = False, compiled: bool = False) -> dict[str, Any]:
    """The configuration values that options ask for.

    Args:
        values: By parameter, what was given; None for an option that was not. Others than those of `RECIPE` are left
            out.
        quick: Begin with the quick recipe instead of the published one.
        compiled: Whether --compile was given.
    """
    recipe: dict[str, Any] = {**(planning.QUICK if quick else {}), "use_compile": compiled}
    for name, option in RECIPE.items():
        if values.get(name) is not None:
            recipe.update(dict.fromkeys(option.keys, values[name]))
    precision = values.get("precision", "auto")
    if precision not in recipe_rules.PRECISIONS:
        raise UsageError(
            f"there is no precision {precision!r}",
            code="bad-usage",
            fix=f"Choose {', '.join(recipe_rules.PRECISIONS)}.",
        )
    return recipe if precision == "auto" else {**recipe, "amp_dtype": recipe_rules.PRECISIONS[precision]}


def set_values(texts: Sequence[str] | None) -> dict[str, Any]:
    """The configuration values that `--set` gives.

    Raises:
        UsageError: as `settings_of`; (`set-by-an-option`) for what an option of its own decides, whatever is set.
    """
    values = settings_of(texts or (), _PUBLISHED)
    if key := min(values.keys() & NOT_SET, default=""):
        option = NOT_SET[key]
        raise UsageError(
            f"--set {key} would change nothing: {option} decides it", code="set-by-an-option", fix=f"Use {option}."
        )
    return values


def recipe_text(config: TrainConfig) -> str:
    """The recipe in a phrase, for a plan."""
    precision = next(
        (word for word, dtype in recipe_rules.PRECISIONS.items() if dtype and dtype == config.amp_dtype), None
    )
    return (
        f"{wording.count_text(config.max_iters, 'iteration')} of "
        f"{wording.count_text(config.effective_batch_size, 'sample')}, learning rate "
        f"{config.learning_rate:g} to {config.min_lr:g}" + (f", {precision}" if precision else "")
    )


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """The options that ask for these configuration values; none for what the published recipe has anyway."""
    flags = []
    for option in RECIPE.values():
        key = option.keys[0]
        if key in values and values[key] != _PUBLISHED[key]:
            flags += [option.flag, wording.value_text(values[key])]
    for word, dtype in recipe_rules.PRECISIONS.items():
        if dtype and values.get("amp_dtype") == dtype:
            flags += ["--precision", word]
    for key in sorted(_PUBLISHED.keys() - _WITH_OPTIONS - NOT_SET.keys()):
        if key in values and values[key] != _PUBLISHED[key]:
            flags += ["--set", f"{key}={json.dumps(values[key])}"]
    return flags


def train_command(
    config: Mapping[str, Any], run: selection.GridRun, convention: Convention, more: Sequence[str] = ()
) -> str:
    """The command that trains a run of the grid, to be pasted into a shell.

    Args:
        config: The recipe's values, where they are not the published ones; other keys of a configuration, and what the
            grid decides, are ignored.
        run: The run.
        convention: Has the groups.
        more: Other options, such as where the outputs go.
    """
    pattern = run.pattern
    if pattern == placement.default_pattern(convention, pattern.facets) and pattern.holes == (terms.K,):
        words = ["--k", str(run.k), "--task", str(run.cell.task)]
        first = placement.default_pattern(convention, {}).facets
        for name, value in reversed(list(pattern.facets.items())):
            said = convention.facets[name].find(value)
            if first.get(name) != value and said is not None and said.option:
                words.append(said.option)
    else:
        words = ["--group", run.group, "--task", str(run.cell.task)]
    recipe = {key: value for key, value in _recipe_in(config, convention).items() if key not in run.values}
    return wording.shell_command(["ckptman", "train", *words, "--seed", str(run.seed), *flags_of(recipe), *more])


def common_recipe(configs: Sequence[Mapping[str, Any]], convention: Convention) -> dict[str, Any]:
    """The recipe that these configurations share, as far as they do; what grids decide is none of it."""
    recipes = [_recipe_in(config, convention) for config in configs]
    shared = {}
    for key in _PUBLISHED:
        values = {repr(recipe[key]): recipe[key] for recipe in recipes if key in recipe}
        if len(values) == 1:
            shared[key] = next(iter(values.values()))
    return shared


def _recipe_in(config: Mapping[str, Any], convention: Convention) -> dict[str, Any]:
    """The values of a configuration that the trainer takes, and neither a grid nor the place of the outputs decides."""
    axes = {axis for grid in convention.grids.values() for axis in grid.axes}
    decided = {convention.seed_key, convention.group_key, convention.k_key, *axes, *convention.set_keys}
    decided |= convention.ignored_keys - {"amp_dtype"}
    return {key: value for key, value in config.items() if key in _PUBLISHED and key not in decided}
