"""One run to train, as plain data that can be handed to another process or machine, and what became of it.

PyTorch is imported when a run is trained, not before: whoever hands out the jobs needs none.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ckptman.fs import files, write_atomically
from ckptman.rules import TrainConfig
from ckptman.rules import convention_file as convention_files
from ckptman.text import CkptmanError, json_text
from ckptman.training import progress, run_folder, stopping

if TYPE_CHECKING:
    from ckptman.training import runs

STATES = (progress.COMPLETE, progress.INTERRUPTED, progress.FAILED, progress.RUNNING)
"""What a job can end as; `running`: another process is training the run, and it is left to that one."""

LOG_SECONDS = 60.0
"""Time between two lines of progress in a run's log."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class RunJob:
    """A run to train, and how."""

    config: Mapping[str, Any]
    out: str
    """The raw outputs: an absolute path."""
    convention_file: str | None
    """The rules that extend the built-in ones."""
    numbering: str
    device: str = "auto"
    threads: int | None = None
    """CPU threads; None for PyTorch's own choice."""
    compiled: bool = False
    wandb: str = "disabled"
    log: str = ""
    """The file that the process's output goes to."""
    outcome_file: str = ""
    """The file that the job's outcome is written to."""

    @classmethod
    def of(cls, run: run_folder.RawRun, **how: Any) -> RunJob:
        """The job that trains a run; `how` gives the device, the threads and so on."""
        source = run.convention.source
        return cls(
            config=run.config.to_dict(),
            out=str(run.out.absolute()),
            convention_file=None if source is None else str(source.absolute()),
            numbering=run.convention.numbering,
            **how,
        )


@dataclass(frozen=True, kw_only=True)
class JobOutcome(progress.Progress):
    """What became of a job."""

    state: str
    """One of `STATES`."""
    resumed_from: int | None = None
    """Iterations that were done before this job; None for a new run."""
    reason: str = ""
    """Why it failed, or who is training it."""
    fix: str = ""
    log: str = ""
    notes: tuple[str, ...] = ()


def train_job(
    job: RunJob, *, stop: stopping.Stop | None = None, told: Callable[[progress.Progress], None] | None = None
) -> JobOutcome:
    """Train a run in this process: from its newest state, unless it is complete or another process trains it.

    A run that fails is an outcome, not an error, so that others can go on. What happens is written to stderr, a line
    now and then, for the log.
    """
    log = _Log(told)
    outcome = _train(job, stop, log)
    log.end(outcome)
    if job.outcome_file:
        with suppress(CkptmanError):  # it is for `status`, and the run matters more
            write_atomically(Path(job.outcome_file), json_text.dump_json(json_text.document_of(outcome)), replace=True)
    return outcome


def read_outcome(file: Path) -> JobOutcome | None:
    """The outcome that a job wrote; None where there is none that can be read."""
    try:
        return json_text.record_of(JobOutcome, json.loads(files.read_bytes(file)))
    except (OSError, ValueError, RecursionError):
        return None


class _Log:
    """Lines on stderr about a run; what it hears of the progress goes on to whoever else listens."""

    def __init__(self, listener: Callable[[progress.Progress], None] | None) -> None:
        self._listener = listener
        self._said_at: float | None = None

    def __call__(self, said: progress.BatchProgress) -> None:
        """Hear of the progress."""
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= LOG_SECONDS:
            self._said_at = now
            self._write(f"{said.label}: {said.iters_done:,} of {said.max_iters:,} iterations, "
                        f"{said.iterations_per_second:.1f} it/s, loss {said.loss:.4f}")  # fmt: skip
        if self._listener is not None:
            self._listener(said)

    def end(self, outcome: JobOutcome) -> None:
        """Say what became of the run."""
        after = f" after {outcome.iters_done:,} iterations" if outcome.iters_done is not None else ""
        self._write(f"{outcome.state}{after}" + (f": {outcome.reason}" if outcome.reason else ""))
        for line in (*outcome.notes, *([outcome.fix] if outcome.fix else [])):
            self._write(f"  {line}")

    def _write(self, line: str) -> None:
        with suppress(OSError):
            sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
            sys.stderr.flush()


def _train(job: RunJob, stop: stopping.Stop | None, log: _Log) -> JobOutcome:
    from ckptman.training import runs

    rules = convention_files.load_convention(
        Path(job.convention_file) if job.convention_file else None, numbering=job.numbering
    )
    try:
        result = runs.train(
            TrainConfig.from_dict(job.config), job.out, device=job.device, threads=job.threads, compiled=job.compiled,
            wandb=job.wandb, convention=rules, stop=stop, log=job.log, progress=log,
        )  # fmt: skip
    except CkptmanError as error:
        return JobOutcome(state=progress.FAILED, reason=error.message, fix=error.fix, log=job.log)
    except Exception as error:
        if stop is None or not stop.wanted:
            raise
        # Whoever ended this process ended the others that it works with, such as W&B's: their faults are the end's.
        traceback.print_exc()
        reason = f"as it ended, {type(error).__name__}: {error}"
        return JobOutcome(state=progress.INTERRUPTED, reason=reason, log=job.log)
    return _outcome(result.runs[0], job)


def _outcome(result: runs.RunResult, job: RunJob) -> JobOutcome:
    """What `train` says of its one run."""
    error, trained, known = result.error, result.trained, result.progress
    state = result.state if result.state in STATES else progress.FAILED if error is not None else progress.INTERRUPTED
    return JobOutcome(
        state=state,
        run_id=known.run_id,
        iters_done=known.iters_done,
        loss=trained.loss if trained is not None else None,
        gen_em=trained.gen_em if trained is not None else None,
        iterations_per_second=known.iterations_per_second,
        resumed_from=trained.resumed_from if trained is not None else None,
        reason=error.message if error is not None else "",
        fix=error.fix if error is not None else "",
        log=job.log,
        notes=trained.notes if trained is not None else (),
    )
