"""Saving and loading what training continues from, and writing checkpoint files; always whole, never half.

A state is a checkpoint file under another name: both are of the documented form, so a run can go on from either, and
whatever reads a checkpoint reads a state.
"""

from __future__ import annotations

import io
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ckptman.formats import read_checkpoint
from ckptman.fs import placing, write_atomically
from ckptman.rules import terms
from ckptman.text import RefusedError
from ckptman.training.loading import mark_safe
from ckptman.training.run_folder import RawRun, differing

FORM = "B"
"""The form of checkpoint that is written: the documented one."""

_COMPUTED_WITH = "computed_with"


@dataclass
class RunState:
    """All that the next iteration depends on. Batches depend on the seed and the iteration alone."""

    run_id: str | None
    """W&B's; None where nothing is logged there."""
    iters_done: int
    model: Mapping[str, Tensor]
    """The model's `state_dict()`."""
    optimizer: Mapping[str, Any]
    """The optimizer's `state_dict()`."""
    computed_with: Mapping[str, str] = field(default_factory=dict)
    """What decides how sums are rounded: with another of these, a resumed run equals the uninterrupted one only to
    rounding."""
    amp_dtype: str | None = None
    """The configuration's: the type that matrix products have been computed in."""


def new_run_id() -> str:
    """A W&B run id: eight lower-case letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def save_state(run: RawRun, state: RunState) -> None:
    """Replace the run's state, atomically: if that fails, the old one stays.

    Raises:
        MachineError: the file cannot be written, for one because the disk is full (`disk-full`).
    """
    data = _dump(run, state, {_COMPUTED_WITH: dict(state.computed_with)})
    write_atomically(run.state, data, replace=True)


def save_checkpoint(run: RawRun, path: Path, state: RunState) -> None:
    """Write a checkpoint file. One that is there already, of this run and step, is left as it is.

    Raises:
        placing.TakenError: another file has the name.
        MachineError: as `save_state`.
    """
    try:
        write_atomically(path, _dump(run, state, {}), replace=False)
    except placing.TakenError:
        # A run that was killed between its checkpoint and its next state comes here again.
        info = read_checkpoint(path, run.convention.checkpoint)
        same_run = info.run_id == state.run_id and info.iters_done == state.iters_done
        if not same_run or differing(info.config or {}, run.config.to_dict(), run.convention):
            raise


def load_state(run: RawRun, path: Path) -> RunState:
    """The state in a file that `RawRun.find` has found: the run's state, or one of its checkpoints.

    Raises:
        RefusedError: (`bad-file`) torch cannot load it.
    """
    rules = run.convention.checkpoint
    info = read_checkpoint(path, rules)
    form = next((form for form in rules.forms if form.name == info.form), _form(rules))
    mark_safe(rules.config_classes)
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        return RunState(
            run_id=info.run_id,
            iters_done=info.iters_done or 0,
            model=_without_prefix(document[form.weights], rules),
            optimizer=document[form.optimizer],
            computed_with=document.get(_COMPUTED_WITH, {}),
            amp_dtype=(info.config or {}).get("amp_dtype"),
        )
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, TypeError, KeyError) as error:
        raise RefusedError(
            f"{path} cannot be loaded: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            code="bad-file",
            fix="Move it away: the run then goes on from its newest checkpoint, or starts again.",
        ) from error


def _dump(run: RawRun, state: RunState, more: Mapping[str, Any]) -> bytes:
    form = _form(run.convention.checkpoint)
    document: dict[str | None, Any] = {
        form.weights: dict(state.model),
        form.optimizer: dict(state.optimizer),
        form.config: run.config,
        form.iters: state.iters_done,
    }
    if state.run_id is not None:
        document[form.run_id] = state.run_id
    document.update(more)
    buffer = io.BytesIO()
    torch.save({key: _on_cpu(value, {}) for key, value in document.items() if key}, buffer)
    return buffer.getvalue()


def _on_cpu(value: Any, seen: dict[tuple[int, torch.Size], Tensor]) -> Any:
    """The same with all tensors on the CPU, those that share their memory (the tied head) still sharing it."""
    if isinstance(value, Tensor):
        return seen.setdefault((value.data_ptr(), value.shape), value.detach().cpu())
    if isinstance(value, dict):
        return {key: _on_cpu(item, seen) for key, item in value.items()}
    return [_on_cpu(item, seen) for item in value] if isinstance(value, list) else value


def _form(rules: terms.CheckpointRules) -> terms.CheckpointForm:
    return next(form for form in rules.forms if form.name == FORM)


def _without_prefix(weights: Mapping[str, Tensor], rules: terms.CheckpointRules) -> dict[str, Tensor]:
    return {name.removeprefix(rules.compiled_prefix): weight for name, weight in weights.items()}
