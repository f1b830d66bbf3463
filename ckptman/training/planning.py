"""What a training would do: configurations from task ids, and for each run whether it is new, resumed or complete.

Nothing here needs torch, and nothing is written.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ckptman.fs import folders
from ckptman.rules import Convention, Place, TrainConfig, grids, placement, terms
from ckptman.rules import recipe as recipe_rules
from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError
from ckptman.training.run_folder import RawRun
from ckptman.tree import records

QUICK: Mapping[str, Any] = {
    "max_iters": 1_000,
    "effective_batch_size": 512,
    "micro_batch_size": 512,
    "learning_rate": 1e-3,
    "min_lr": 1e-5,
    "warmup_iters": 50,
    "curriculum_span_iters": 500,
    "ckpt_interval": 500,
    "eval_interval": 100,
    "log_interval": 50,
}
"""A recipe for about a minute on a laptop: a fortieth of the iterations, an eighth of the samples in each, and ten
times the learning rate. Models learn to sort the trained lengths with it; how they generalize is not the published."""


NO_FOLDER = "Name a folder for the raw outputs with --out."
"""What to do where outputs cannot go where they are to go."""

_SIGNS_OF_A_GPU = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA, its boards, AMD, and Windows below this Linux."""


class Action(StrEnum):
    """What is to be done about a run."""

    NEW = "new"
    RESUME = "resume"
    COMPLETE = "complete"
    """Nothing: its final checkpoint is there, or was there and has been moved away."""
    RUNNING = "running"
    """Nothing: another process is training it."""
    REFUSED = "refused"
    """Nothing: `error` says why."""


@dataclass(frozen=True)
class PlannedRun:
    """One run, and what is to be done about it."""

    run: RawRun
    action: Action
    run_id: str | None = None
    """The W&B run id; None for a new run."""
    iters_done: int = 0
    checkpoints: tuple[Path, ...] = ()
    """Those that are there already, in order of their steps."""
    error: CkptmanError | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is anything to train."""
        return self.action in (Action.NEW, Action.RESUME)

    @property
    def moved_away(self) -> bool:
        """Whether it is complete, but its final checkpoint is no longer there: as after `ingest --mode move`."""
        return self.action is Action.COMPLETE and self.run.final not in self.checkpoints

    def to_json(self) -> dict[str, Any]:
        """The run as `train --dry-run --json` prints it."""
        place = self.run.place
        return {
            "action": str(self.action),
            "run_id": self.run_id,
            "group": place.group,
            "task": place.task,
            "seed": place.seed,
            "folder": str(self.run.folder),
            "iters_done": self.iters_done,
            "max_iters": self.run.config.max_iters,
            "checkpoints": [str(path) for path in self.checkpoints],
            "error": None if self.error is None else error_json(self.error),
        }


@dataclass(frozen=True)
class TrainPlan:
    """All runs of a training, each once."""

    out: Path
    runs: tuple[PlannedRun, ...]

    @property
    def wanted(self) -> tuple[PlannedRun, ...]:
        """The runs that are to be trained."""
        return tuple(run for run in self.runs if run.wanted)

    def to_json(self) -> dict[str, Any]:
        """The document of `train --dry-run --json`."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "out": str(self.out),
            "runs": [run.to_json() for run in self.runs],
        }


def check_device(name: str) -> None:
    """Refuse CUDA where the machine surely has none, as far as that can be told without torch.

    Raises:
        UsageError: (`bad-device`) for what is no name of a device.
        MachineError: (`no-device`).
    """
    recipe_rules.check_device_name(name)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    none = visible.strip() in ("", "-1") if visible is not None else not any(map(os.path.exists, _SIGNS_OF_A_GPU))
    if name.startswith("cuda") and sys.platform == "linux" and none:
        why = "there is no GPU" if visible is None else f"CUDA_VISIBLE_DEVICES={visible} leaves no GPU"
        raise MachineError(
            f"the device {name} cannot be used: {why}", code="no-device", fix="Use --device cpu or auto."
        )


def error_json(error: CkptmanError) -> dict[str, str]:
    """An error as a JSON object."""
    return {"code": error.code, "message": error.message, "fix": error.fix}


def training_configs(
    convention: Convention,
    *,
    k: int | None = None,
    task: int,
    fixed: bool = False,
    layernorm: bool = True,
    facets: Mapping[str, terms.Scalar] | None = None,
    group: str | None = None,
    seeds: Sequence[int] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> list[TrainConfig]:
    """The configurations of a task of the grid, one for each seed.

    Where the numbering leaves an axis out of the task id (`merged`: MLP), those of all its values.

    Args:
        convention: Has the groups, the grids, and the numbering of the tasks.
        k: The longest trained list; the only one, where `fixed`. Not needed with `group`.
        task: The task id.
        fixed: The fixed regime instead of the dynamic one.
        layernorm: With LayerNorm.
        facets: Values of the convention's facets, in place of `fixed` and `layernorm`.
        group: A group, such as one of a grid in ckptman.yaml; it says K, the regime and LayerNorm. By default that of
            the first pattern for them.
        seeds: The seeds; by default the first of the grid, in the built-in one 1337.
        recipe: Other values of the configuration, by the names of `TrainConfig`; the published recipe by default.

    Raises:
        UsageError: (`unknown-group`, `unknown-facet`, `no-such-task`) with all groups, facets or tasks there are;
            (`bad-usage`) K is not known, or the group says another one, or another family; (`bad-config`) where the
            values do not fit together, such as a K above the vocabulary's size; (`set-by-the-task`) a recipe value that
            the task decides; (`other-task`) where the values are those of another task or regime.
    """
    placement.check_facets(facets or (), convention)
    if group is not None:
        pattern, held = placement.parse_group(group, convention)
        told: dict[str, terms.Scalar] = dict(facets or {})
        if facets is None:
            told |= ({"regime": "fixed"} if fixed else {}) | ({} if layernorm else {"layernorm": False})
        if k not in (None, held.get(terms.K)) or not placement.fits(pattern, told):
            raise UsageError(
                f"the name of the group {group!r} says otherwise than what was given of K and its family",
                code="bad-usage",
                fix="Give the group alone, or leave it out.",
            )
    else:
        asked = {"layernorm": layernorm, "regime": "fixed" if fixed else "dynamic"}
        pattern = placement.default_pattern(convention, asked if facets is None else facets)
        held = {} if k is None else {terms.K: k}
    if k is not None and group is None and terms.K not in pattern.holes:
        raise UsageError(
            f"the groups {pattern.pattern} are not told apart by K",
            code="bad-usage",
            fix="Name one with --group; ckptman task shows them.",
        )
    if terms.K in pattern.holes and terms.K not in held:
        raise UsageError(
            "K is not given" if group is None else f"the name of the group {group!r} does not say K",
            code="bad-usage",
            fix="Give --k, the longest trained list, or a --group whose name has it.",
        )
    grid = convention.grids[pattern.grid]
    try:
        found = grids.cells_of_task(grid, pattern.regime, convention.numbering, task)
    except UsageError as error:
        table = "; ".join(task_lines(grid, pattern.regime, convention))
        raise UsageError(
            f"{error.message}: {table}", code=error.code, fix="See their configurations with: ckptman task"
        ) from error
    more = dict(recipe or {})
    configs = []
    for cell in found:
        decided = grids.config_values(pattern, grid, held, cell, convention)
        if clash := sorted({*decided, convention.seed_key, convention.group_key} & more.keys()):
            raise UsageError(
                f"{', '.join(clash)} cannot be set: {'--k' if group is None else '--group'}, --task and --seed decide "
                "it",
                code="set-by-the-task",
                fix="Choose the task that has the value (see: ckptman task), and the seed with --seed.",
            )
        for seed in seeds or grid.seeds[:1]:
            values = {**decided, **more, convention.seed_key: seed}
            config = TrainConfig.from_dict(values, strict=True)
            facets = placement.facets_of(config.to_dict(), convention)
            mine = placement.fits(pattern, facets)
            place = placement.place_of(config.to_dict(), convention, source_group=group if mine else None)
            if not mine or place.task not in (task, None):
                raise _other_task(config, place, f"{pattern.regime} task {task}")
            configs.append(TrainConfig.from_dict({**config.to_dict(), convention.group_key: place.group}))
    return configs


def _other_task(config: TrainConfig, place: Place, asked: str) -> UsageError:
    """The refusal of what would be trained as another task than was asked for: with K = 2, 2..K is one length."""
    regime = place.family.get("regime", "")
    return UsageError(
        f"{asked} with K = {config.train_min_k}..{config.train_max_k} would be trained as {regime} task "
        f"{place.task}, in {place.group}",
        code="other-task",
        fix=f"Choose another --k, or ask for --task {place.task}{' --fixed' if regime == 'fixed' else ''}.",
    )


def task_lines(grid: terms.Grid, regime: str, convention: Convention) -> list[str]:
    """Each task id of a regime with its configuration, in short: `6 = l1 mlp off mix`."""
    lines: dict[int, list[str]] = {}
    for cell in grids.cells(grid, regime, convention.numbering):
        short = " ".join(convention.axis(axis).brief(value) for axis, value in cell.values.items())
        lines.setdefault(cell.task, []).append(short)
    return [f"{task} = {' or '.join(texts)}" for task, texts in lines.items()]


def plan_training(
    configs: Iterable[TrainConfig], out: Path, *, convention: Convention, resume: bool = True
) -> TrainPlan:
    """What training these configurations into `out` would do.

    Args:
        configs: The runs; one that is named twice is trained once.
        out: The root of the raw outputs.
        convention: The rules for names and folders.
        resume: Go on from what an earlier process left; without, such a run is refused.

    Raises:
        RefusedError: a configuration has no place: it is off the grid of its group.
        UsageError: (`not-a-folder`) `out` is none, and cannot be made; (`bad-config`) one of them is no `TrainConfig`.
    """
    folders.check_root(out, NO_FOLDER)
    configs = tuple(configs)
    for config in configs:
        if not isinstance(config, TrainConfig):
            raise UsageError(
                f"{config!r:.80} is no TrainConfig",
                code="bad-config",
                fix="Make one of a dictionary with: ckptman.TrainConfig.from_dict(values, strict=True)",
            )
    runs = {run.folder: run for run in (RawRun.of(config, out, convention) for config in configs)}
    return TrainPlan(out=out, runs=tuple(plan_run(run, resume=resume) for run in runs.values()))


def plan_run(run: RawRun, *, resume: bool = True, locked: bool = False) -> PlannedRun:
    """What is to be done about one run.

    Args:
        run: The run.
        resume: As `plan_training`.
        locked: Whether the caller has the run's lock; otherwise a run that is locked is being trained.
    """
    status = run.read_status()
    if not locked and run.is_locked():
        return PlannedRun(
            run,
            Action.RUNNING,
            run_id=status.run_id if status is not None else None,
            iters_done=status.iters_done if status is not None else 0,
            error=run.running_error(),
        )
    try:
        found = run.find(verify=False)  # it is verified where it is used
    except RefusedError as error:
        return PlannedRun(run, Action.REFUSED, error=error)
    planned = PlannedRun(
        run, Action.NEW, run_id=found.run_id, iters_done=found.iters_done, checkpoints=found.checkpoints
    )
    if found.complete:
        return dataclasses.replace(planned, action=Action.COMPLETE)
    if (said := run.said_complete()) is not None:
        return dataclasses.replace(planned, action=Action.COMPLETE, run_id=said.run_id, iters_done=said.iters_done)
    if not found.iters_done:
        return planned
    if not resume:
        refusal = RefusedError(
            f"{run.folder} has {found.iters_done:,} iterations of this run already",
            code="would-restart",
            fix="Go on from there with --resume, or train into another folder with --out.",
        )
        return dataclasses.replace(planned, action=Action.REFUSED, error=refusal)
    return dataclasses.replace(planned, action=Action.RESUME)
