"""One run's raw outputs, `<out>/<group>/<task folder>/<run folder>/`: what is there, how the run stands, its lock."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ckptman.formats import CheckpointInfo, read_checkpoint
from ckptman.fs import files, locks, make_folders, write_atomically
from ckptman.rules import Convention, Place, TrainConfig, comparing, naming, placement, recipe, terms
from ckptman.text import RefusedError, json_text
from ckptman.training.progress import COMPLETE, RUNNING, RunStatus
from ckptman.tree import history

LOCK_FILE = ".training.lock"
"""Locked by the process that trains the run, and removed by it; one that a killed process left is free."""

STALE_SECONDS = 300.0
"""A run whose status says that it is training, but has not been renewed for so long, is not. A training process renews
its status every `trainer.STATUS_SECONDS`. It counts only where the file system's locks do not reach other machines."""


@dataclass(frozen=True)
class Found:
    """What an earlier process left of a run: all of it is of the run's own configuration."""

    newest: Path | None
    """The state or checkpoint to go on from; None where there is none."""
    iters_done: int
    """Iterations that `newest` holds."""
    run_id: str | None
    checkpoints: tuple[Path, ...]
    """In order of their steps."""
    complete: bool
    """The final checkpoint is there, and nothing is left to be done."""


@dataclass(frozen=True)
class RawRun:
    """Where one run's outputs lie."""

    config: TrainConfig
    place: Place
    out: Path
    folder: Path
    convention: Convention

    @classmethod
    def of(cls, config: TrainConfig, out: Path, convention: Convention) -> RawRun:
        """The run of a configuration below the raw root `out`, in the group that it names where that is a known one.

        Raises:
            RefusedError: if the configuration is not on the grid of its group.
        """
        values = config.to_dict()
        said = values.get(convention.group_key)
        pattern = placement.group_pattern(said, convention) if isinstance(said, str) else None
        known = pattern is not None and placement.fits(pattern, placement.facets_of(values, convention))
        place = placement.place_of(values, convention, source_group=said if known else None)
        task_folder = out / place.group / convention.folders.task(place.task)
        folder = task_folder / place.run_folder(convention).name
        return cls(config=config, place=place, out=out, folder=folder, convention=convention)

    @property
    def label(self) -> str:
        """The run for people: group, task, seed."""
        return f"{self.place.group} task {' '.join((str(self.place.task), *self.place.notes))} seed {self.place.seed}"

    @property
    def saved_models(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / self.convention.raw.saved_models

    @property
    def wandb(self) -> Path:
        """Folder that W&B writes below."""
        return self.folder / self.convention.raw.wandb

    @property
    def state(self) -> Path:
        """The state that an interrupted run goes on from; a run that is complete has none."""
        return self.folder / self.convention.raw.state

    @property
    def status_file(self) -> Path:
        """The file that says how the run stands."""
        return self.folder / self.convention.raw.status

    @property
    def metrics_file(self) -> Path:
        """The file with the last value of each metric, whatever is logged to W&B."""
        return self.folder / self.convention.raw.metrics

    @property
    def history_file(self) -> Path:
        """The file with what was logged on the way."""
        return self.folder / history.HISTORY_FILE

    @property
    def final(self) -> Path:
        """The final checkpoint."""
        prefix = next(prefix for prefix in self.convention.prefixes if prefix.final)
        return self._checkpoint(prefix, self.config.max_iters)

    def checkpoint_at(self, iters_done: int) -> Path | None:
        """The checkpoint on the way that is due after so many iterations; None where none is."""
        for prefix in self.convention.prefixes:
            if not prefix.final and iters_done in self.saved[prefix.name]:
                return self._checkpoint(prefix, iters_done)
        return None

    @cached_property
    def saved(self) -> Mapping[str, range]:
        """For each kind of checkpoint, after how many iterations the whole run saves one."""
        return {kind: due or range(0) for kind, due in recipe.saved_by(self.config.to_dict(), self.convention).items()}

    def make_folders(self) -> None:
        """Make the run's folder and that of its checkpoints.

        Raises:
            MachineError, RefusedError: as `fs.make_folders`.
        """
        make_folders(self.saved_models, self.out)

    def find(self, *, verify: bool = True) -> Found:
        """What is there of the run. No file is executed, no tensor is loaded.

        Args:
            verify: Check every byte against its checksum; without, only headers are read.

        Raises:
            RefusedError: (`other-run`) a file is of another configuration; (`bad-file`) it cannot be read.
        """
        final: Path | None = None
        progress: list[tuple[int, Path, CheckpointInfo]] = []
        if self.state.exists():  # before checkpoints of the same step, which do not say what they were computed with
            info = self._read(self.state, verify=verify)
            progress.append((info.iters_done or 0, self.state, info))
        saved: list[tuple[int, Path]] = []
        suffix = self.convention.checkpoint.suffix
        for path in sorted(self.saved_models.glob(f"*{suffix}")):
            info = self._read(path, verify=verify)
            steps = info.iters_done or 0
            saved.append((steps, path))
            if path == self.final and steps == self.config.max_iters:
                final = path
            if info.optimizer is not None:
                progress.append((steps, path, info))
        steps, newest, info_or_none = max(progress, key=lambda item: item[0], default=(0, None, None))
        return Found(
            newest=newest,
            iters_done=steps,
            run_id=info_or_none.run_id if info_or_none is not None else None,
            checkpoints=tuple(path for _, path in sorted(saved)),
            complete=final is not None and not self.state.exists(),
        )

    def write_status(
        self,
        state: str,
        run_id: str | None,
        iters_done: int,
        *,
        reason: str = "",
        log: str = "",
        **figures: float | None,
    ) -> None:
        """Say how the run stands; `figures` are those of `Progress`."""
        status = RunStatus(
            state=state,
            run_id=run_id,
            iters_done=iters_done,
            max_iters=self.config.max_iters,
            reason=reason,
            log=log,
            host=socket.gethostname(),
            pid=os.getpid(),
            updated=round(time.time(), 1),
            config=self.config.to_dict(),
            **figures,
        )
        write_atomically(self.status_file, json_text.dump_json(json_text.document_of(status)), replace=True)

    def read_status(self) -> RunStatus | None:
        """How the run stands, by its own word; None where it has said nothing readable."""
        try:
            status = json_text.record_of(RunStatus, json.loads(files.read_bytes(self.status_file)))
        except (OSError, ValueError, RecursionError):
            return None
        speed = status.iterations_per_second
        is_speed = speed is not None and 0 <= speed < math.inf  # what is to come is reckoned by it
        return status if is_speed or speed is None else replace(status, iterations_per_second=None)

    def said_complete(self) -> RunStatus | None:
        """The run's status, if by it this very configuration was trained to its end; None otherwise.

        A process that says so removes the state next, so as long as there is one, the end was cut short.
        """
        status = self.read_status()
        if status is None or status.state != COMPLETE or self.state.exists():
            return None
        same = isinstance(status.config, dict) and status.config and not self.differing_from(status.config)
        return status if same else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from training this run until the `with` statement ends. Its folder exists.

        The lock is flock(2) on a file in the run's folder. The kernel drops it with the process, however that ends;
        on NFS it holds for all machines. Where the file system has no such locks, or keeps them to each machine, the
        run's status counts too: one that was renewed lately by a living process, or on another machine, is a lock.

        Raises:
            RefusedError: (`running`) another process has it.
            MachineError: the folder cannot be written to (`permission-denied`, `disk-full` …).
        """
        descriptor, locked = self._take_lock()
        try:
            if not (locked and locks.reach_other_machines(descriptor)) and self._says_it_is_running():
                raise self.running_error()
            yield
        finally:
            locks.release_file(self._lock_file, descriptor, locked=locked)

    def is_locked(self) -> bool:
        """Whether some process is training this run now. Nothing is written."""
        taken = locks.is_taken(self._lock_file)
        return self._says_it_is_running() if taken is None else taken

    def running_error(self) -> RefusedError:
        """The refusal of a run that another process is training."""
        status = self.read_status()
        where = f" on {status.host} (process {status.pid})" if status is not None else ""
        return RefusedError(
            f"{self.label} is being trained already{where}, in {self.folder}",
            code="running",
            fix="Let it end, or end that process; the run then goes on from its newest state.",
        )

    @property
    def _lock_file(self) -> Path:
        return self.folder / LOCK_FILE

    def _take_lock(self) -> tuple[int, bool]:
        """An open lock file, and whether it is locked; the file system may have no locks."""
        taken = locks.take_file(self._lock_file)
        if taken is None:
            raise self.running_error()
        return taken

    def _says_it_is_running(self) -> bool:
        status = self.read_status()
        if status is None or status.state != RUNNING or time.time() - status.updated > STALE_SECONDS:
            return False
        return status.host != socket.gethostname() or (status.pid != os.getpid() and _is_alive(status.pid))

    def _checkpoint(self, prefix: terms.Prefix, step: int) -> Path:
        return self.saved_models / naming.naming_of(self.convention).name_for(self.config.to_dict(), prefix, step)

    def _read(self, path: Path, *, verify: bool) -> CheckpointInfo:
        """What a file of the run says of itself."""
        try:
            info = read_checkpoint(path, self.convention.checkpoint, verify=verify)
        except RefusedError as error:
            raise RefusedError(
                f"{path} cannot be read: {error.message}",
                code="bad-file",
                fix="Move it away: the run then goes on from the newest of the others, or starts again.",
            ) from error
        if keys := self.differing_from(info.config or {}):
            raise RefusedError(
                f"{path} is of another configuration: it differs in {', '.join(keys)}",
                code="other-run",
                fix="Train into another folder with --out, or with the configuration of that file.",
            )
        return info

    def differing_from(self, config: Mapping[str, Any]) -> list[str]:
        """The keys in which another configuration is that of another run; sorted.

        The precision is one of them where this run asks for one. A run that names none goes on in that which it has.
        """
        keys = differing(config, self.config.to_dict(), self.convention)
        asked = self.config.amp_dtype
        if asked and asked != (config.get("amp_dtype") or recipe.PRECISIONS["fp32"]):
            return sorted([*keys, "amp_dtype"])
        return keys


def differing(one: Mapping[str, Any], other: Mapping[str, Any], convention: Convention) -> list[str]:
    """Keys in which two configurations differ so that they are not one run; sorted."""
    return comparing.differing_keys(one, other, convention.ignored_keys | _CHANGEABLE)


_CHANGEABLE = frozenset(
    {"log_interval", "eval_interval", "eval_samples_per_length", "eval_batch_size", "micro_batch_size"}
)
"""Settings that change what is reported, not the weights."""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
