"""One run's raw outputs, `<out>/<group>/<task folder>/<run folder>/`: what is there, how the run stands, its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ckptman.formats import CheckpointInfo, read_checkpoint, verify_crcs
from ckptman.fs import make_folders, write_atomically
from ckptman.rules import Convention, Place, TrainConfig, comparing, naming, placement, recipe, terms
from ckptman.text import MachineError, RefusedError, json_text
from ckptman.training.progress import COMPLETE, RUNNING, RunStatus

LOCK_FILE = ".training.lock"
"""Locked by the process that trains the run, and removed by it; one that a killed process left is free."""

STALE_SECONDS = 300.0
"""A run whose status says that it is training, but has not been renewed for so long, is not. A training process renews
its status every `trainer.STATUS_SECONDS`. It counts only where the file system's locks do not reach other machines."""

_LOCK_TRIES, _LOCK_WAIT = 5, 0.1  # another process may be looking, which takes the lock for an instant


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
        family = None if pattern is None else (pattern.layernorm, pattern.regime)
        known = family == placement.family_of(values, convention)
        place = placement.place_of(values, convention, source_group=said if known else None)
        task_folder = out / place.group / convention.folders.task(place.task)
        folder = task_folder / place.run_folder(convention).name
        return cls(config=config, place=place, out=out, folder=folder, convention=convention)

    @property
    def label(self) -> str:
        """The run for people: group, task, seed."""
        notes = "".join(f" {note}" for note in self.place.notes)
        return f"{self.place.group} task {self.place.task}{notes} seed {self.place.seed}"

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

    def find(self) -> Found:
        """What is there of the run. Every file is checked, none is executed, no tensor is loaded.

        Raises:
            RefusedError: (`other-run`) a file is of another configuration; (`bad-file`) it cannot be read.
        """
        final: Path | None = None
        progress: list[tuple[int, Path, CheckpointInfo]] = []
        saved: list[tuple[int, Path]] = []
        suffix = self.convention.checkpoint.suffix
        for path in sorted(self.saved_models.glob(f"*{suffix}")):
            info = self._read(path)
            steps = info.iters_done or 0
            saved.append((steps, path))
            if path == self.final and steps == self.config.max_iters:
                final = path
            if info.optimizer is not None:
                progress.append((steps, path, info))
        if self.state.exists():
            info = self._read(self.state)
            progress.append((info.iters_done or 0, self.state, info))
        steps, newest, info_or_none = max(progress, key=lambda item: item[0], default=(0, None, None))
        return Found(
            newest=newest,
            iters_done=steps,
            run_id=info_or_none.run_id if info_or_none is not None else None,
            checkpoints=tuple(path for _, path in sorted(saved)),
            complete=final is not None and not self.state.exists(),
        )

    def write_status(
        self, state: str, run_id: str, iters_done: int, *, reason: str = "", log: str = "", **figures: float | None
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
            return json_text.record_of(RunStatus, json.loads(self.status_file.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return None

    def said_complete(self) -> RunStatus | None:
        """The run's status, if by it this very configuration was trained to its end; None otherwise.

        A process that says so removes the state next, so as long as there is one, the end was cut short.
        """
        status = self.read_status()
        if status is None or status.state != COMPLETE or self.state.exists():
            return None
        same = isinstance(status.config, dict) and status.config and not self._differing(status.config)
        return status if same else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from training this run until the `with` statement ends. Its folder exists.

        The lock is flock(2) on a file in the run's folder. The kernel drops it with the process, however that ends;
        on NFS it holds for all machines. Where the file system has no such locks, or keeps them to each machine, the
        run's status counts too: one that was renewed lately by a living process, or on another machine, is a lock.

        Raises:
            RefusedError: (`running`) another process has it.
            MachineError: (`not-writable`) the folder cannot be written to.
        """
        descriptor, locked = self._take_lock()
        try:
            if not (locked and _locks_reach_other_machines(descriptor)) and self._says_it_is_running():
                raise self.running_error()
            yield
        finally:
            if locked:
                with suppress(OSError):
                    self._lock_file.unlink()
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether some process is training this run now. Nothing is written."""
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False  # a training process always has one
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _BUSY or self._says_it_is_running()
        else:
            return not _locks_reach_other_machines(descriptor) and self._says_it_is_running()
        finally:
            os.close(descriptor)

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
        for left in reversed(range(_LOCK_TRIES)):
            try:
                descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise MachineError(
                    f"{self._lock_file} cannot be written: {os.strerror(error.errno or 0).lower()}",
                    code="not-writable",
                    fix="Choose another folder with --out, or have this one opened to you.",
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _BUSY:
                    return descriptor, False
                os.close(descriptor)
                if not left:
                    break
                time.sleep(_LOCK_WAIT)
                continue
            if _is_file_at(descriptor, self._lock_file):
                return descriptor, True
            os.close(descriptor)  # its last owner has just removed it
        raise self.running_error()

    def _says_it_is_running(self) -> bool:
        status = self.read_status()
        if status is None or status.state != RUNNING or time.time() - status.updated > STALE_SECONDS:
            return False
        return status.host != socket.gethostname() or (status.pid != os.getpid() and _is_alive(status.pid))

    def _checkpoint(self, prefix: terms.Prefix, step: int) -> Path:
        return self.saved_models / naming.naming_of(self.convention).name_for(self.config.to_dict(), prefix, step)

    def _read(self, path: Path) -> CheckpointInfo:
        """What a file of the run says of itself."""
        try:
            info = read_checkpoint(path, self.convention.checkpoint)
            verify_crcs(path)
        except RefusedError as error:
            raise RefusedError(
                f"{path} cannot be read: {error.message}",
                code="bad-file",
                fix="Move it away: the run then goes on from the newest of the others, or starts again.",
            ) from error
        if keys := self._differing(info.config or {}):
            raise RefusedError(
                f"{path} is of another configuration: it differs in {', '.join(keys)}",
                code="other-run",
                fix="Train into another folder with --out, or with the configuration of that file.",
            )
        return info

    def _differing(self, config: Mapping[str, Any]) -> list[str]:
        return differing(config, self.config.to_dict(), self.convention)


def differing(one: Mapping[str, Any], other: Mapping[str, Any], convention: Convention) -> list[str]:
    """Keys in which two configurations differ so that they are not one run; sorted."""
    return comparing.differing_keys(one, other, convention.ignored_keys | _CHANGEABLE)


_CHANGEABLE = frozenset(
    {"log_interval", "eval_interval", "eval_samples_per_length", "eval_batch_size", "micro_batch_size"}
)
"""Settings that change what is reported, not the weights."""

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
"""How flock says that another has the lock, the second on some NFS servers."""

_LOCAL_LOCKS = {"nfs": {"nolock", "local_lock=all", "local_lock=flock"}, "nfs4": {"local_lock=all", "local_lock=flock"}}
"""Mount options by which flock on a network file system is kept to the machine."""


def _locks_reach_other_machines(descriptor: int) -> bool:
    """Whether flock on an open file is seen by every machine that has the file. A local disk is on one machine."""
    kind, options = _mount_of(descriptor)
    if kind == "lustre":
        return "flock" in options
    if kind in ("beegfs", "fuse.sshfs", "9p"):
        return False
    return options.isdisjoint(_LOCAL_LOCKS.get(kind, set()))


def _mount_of(descriptor: int) -> tuple[str, set[str]]:
    """Type and options of the file system that an open file is on; empty where the system does not tell."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return "", set()
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) > 5 and len(kinds) > 2 and fields[2] == number:
            return kinds[0], {*fields[5].split(","), *kinds[2].split(",")}
    return "", set()


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
