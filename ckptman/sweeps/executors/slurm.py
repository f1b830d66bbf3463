"""Training runs as jobs of a SLURM cluster, through submitit: one array, one job a run.

A job that is about to be ended (its time is up, or another job takes its place) saves its run's state and puts itself
into the queue again; when it starts again, it goes on from there. A job that was cancelled stays cancelled. Nothing
here asks SLURM's accounting, which many clusters do not have.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ckptman.fs import files
from ckptman.sweeps.executors.job import JobOutcome, RunJob, train_job
from ckptman.text import CkptmanError, MachineError, UsageError
from ckptman.training import progress, run_folder, stopping

MOST_REQUEUES = 1_000
"""How often a job whose time was up goes into the queue again. Each time it has got further."""

_JOB_NAME = "ckptman"
_COMMAND_SECONDS = 60
_WAIT_SECONDS = 20.0
_RESTARTS = "SLURM_RESTART_COUNT"
"""In the environment of a job that SLURM has started again: how often."""
_LARGEST_ARRAY = 1_001
"""SLURM's own limit where the cluster sets none: indices below this."""


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks of SLURM."""

    partition: str | None = None
    minutes: int = 240
    """Time limit. A run that takes longer is saved in time, and goes on in the job's next turn."""
    gpus: int | None = None
    memory: str | None = None
    """As sbatch has it: `8G`."""
    cores: int = 1
    array_parallelism: int = 256
    """The most jobs of the sweep at a time."""
    warning_seconds: int = 90
    """How long before the time limit a job is told to save its state."""
    more: Mapping[str, str | bool] = field(default_factory=dict)
    """Other options of sbatch, by their long names; True for one without a value."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job in SLURM's queue."""

    id: str
    """Such as `12_3`."""
    log: str


def submit(
    jobs: Sequence[RunJob],
    folder: Path,
    options: SlurmOptions,
    *,
    taken: Callable[[list[SubmittedJob]], None] = lambda _: None,
) -> list[SubmittedJob]:
    """Put runs into SLURM's queue, as one job array (several, where there are more than an array may have).

    Args:
        jobs: The runs.
        folder: For submitit's files and the logs: on a disk that all nodes share.
        options: What each job asks for.
        taken: Called with all jobs that SLURM has taken until now, after each array.

    Returns:
        The jobs, in the order of the runs.

    Raises:
        MachineError: (`no-submitit`, `no-slurm`) this machine cannot submit jobs; (`submission-failed`) SLURM refuses
            them, with what sbatch says.
    """
    submitit = _submitit()
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise MachineError(
            "there is no sbatch or srun on this machine",
            code="no-slurm",
            fix="Submit from a login node of the cluster, or train here with: --executor local",
        )
    largest = _largest_array()
    submitted: list[SubmittedJob] = []
    for first in range(0, len(jobs), largest):
        executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_REQUEUES)
        try:
            executor.update_parameters(**_parameters(options))
            with executor.batch():
                found = [executor.submit(TrainingJob(job)) for job in jobs[first : first + largest]]
        except Exception as error:  # submitit raises several kinds, with all that sbatch printed
            raise MachineError(
                f"SLURM has not taken the jobs: {_what_sbatch_said(error)}"
                + (f" ({len(submitted)} of {len(jobs)} were taken before)" if submitted else ""),
                code="submission-failed",
                fix="Look at --partition, --time, --gpus, --mem and --slurm; `sinfo` shows what the cluster has.",
            ) from error
        for link in folder.glob(".submission_file_*"):
            if link.is_symlink():  # submitit's second name for the script; it would be in the way of `ingest`
                files.remove(link)
        submitted += [SubmittedJob(id=str(job.job_id), log=str(job.paths.stdout)) for job in found]
        taken(submitted)
    return submitted


class TrainingJob:
    """A run as SLURM's job trains it: submitit calls this object in the job."""

    def __init__(self, job: RunJob) -> None:
        self.job = job

    def __call__(self) -> str:
        """Train the run; returns the state that it is in at the end."""
        environment = _submitit().JobEnvironment()
        wake = signal.Signals[f"SIG{environment.USR_SIG}"]
        heard = _Heard(wake)
        job = replace(self.job, log=str(environment.paths.stdout))
        with heard:
            outcome = _train_when_free(job, heard.stop, restarted=bool(int(os.environ.get(_RESTARTS) or 0)))
        if outcome.state == progress.INTERRUPTED:
            if heard.woken or _is_running(environment.raw_job_id):
                # The state is saved. What submitit does at this signal: put the job into the queue again, and end it.
                signal.raise_signal(wake)
            sys.exit(1)  # it was cancelled, or SLURM itself has put it into the queue again
        if outcome.state == progress.FAILED:
            sys.exit(1)  # the log says why
        return outcome.state

    def checkpoint(self) -> Any:
        """What goes into the queue again: the same run, which goes on from its newest state."""
        return _submitit().helpers.DelayedSubmission(self)


def _train_when_free(job: RunJob, stop: stopping.Stop, *, restarted: bool) -> JobOutcome:
    """Train a run; a job that was restarted waits for its own last turn to let go of it.

    Where locks do not reach other machines, a node that went down holds a run until its status is stale.
    """
    end = time.monotonic() + (run_folder.STALE_SECONDS + _WAIT_SECONDS if restarted else 0)
    while True:
        outcome = train_job(job, stop=stop)
        if outcome.state != progress.RUNNING or stop.wanted or time.monotonic() >= end:
            return outcome
        time.sleep(_WAIT_SECONDS)


class _Heard:
    """Turns the signals by which SLURM announces a job's end into a wish to end, also while PyTorch is imported."""

    def __init__(self, wake: signal.Signals) -> None:
        self.stop = stopping.Stop()
        self.woken = False
        """Whether the signal came that says that the job's time is nearly up."""
        self._wake = wake
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Heard:
        self._before = {number: signal.signal(number, self._hear) for number in (self._wake, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.woken = self.woken or number == self._wake
        self.stop.request()


def parse_minutes(text: str) -> int:
    """Minutes of a time limit as SLURM writes it: `90`, `90:00`, `1:30:00`, `1-12`, `1-12:00`, `1-12:00:00`.

    Raises:
        UsageError: (`bad-time`) for any other text.
    """
    match = re.fullmatch(r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?", text.strip())
    if match:
        days, *parts = (int(part) if part is not None else None for part in match.groups())
        numbers = [part or 0 for part in parts]
        if days is not None:
            seconds = days * 86_400 + numbers[0] * 3_600 + numbers[1] * 60 + numbers[2]
        elif parts[2] is not None:
            seconds = numbers[0] * 3_600 + numbers[1] * 60 + numbers[2]
        else:
            seconds = numbers[0] * 60 + numbers[1]
        if seconds:
            return -(-seconds // 60)
    raise UsageError(
        f"--time: {text!r} is no time limit",
        code="bad-time",
        fix="Write minutes, hours:minutes:seconds or days-hours: 90, 1:30:00, 1-12.",
    )


def parse_option(text: str) -> tuple[str, str | bool]:
    """An option of sbatch as `KEY=VALUE`, or as `KEY` if it has no value.

    Raises:
        UsageError: (`bad-slurm-option`) if it has no name that sbatch could know.
    """
    key, sign, value = text.partition("=")
    key = key.strip().removeprefix("--").replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or "\n" in value:
        raise UsageError(
            f"--slurm {text!r} is not KEY=VALUE",
            code="bad-slurm-option",
            fix="Write an option of sbatch without its dashes: --slurm account=lab, --slurm exclusive",
        )
    return key, value if sign else True


def _parameters(options: SlurmOptions) -> dict[str, Any]:
    """The options as submitit's parameters."""
    more = dict(options.more)
    if "no_requeue" not in more:
        more.setdefault("requeue", True)  # also where a node fails, or the cluster's default is not to
    parameters: dict[str, Any] = {
        "job_name": _JOB_NAME,
        "time": options.minutes,
        "cpus_per_task": options.cores,
        "array_parallelism": options.array_parallelism,
        "signal_delay_s": min(options.warning_seconds, 15 * options.minutes),  # not all of a short job's time
        "stderr_to_stdout": True,
        # Since SLURM 22.05 srun no longer takes this over from sbatch.
        "srun_args": [f"--cpus-per-task={options.cores}"],
        "additional_parameters": more,
    }
    if options.partition is not None:
        parameters["partition"] = options.partition
    if options.gpus is not None:
        parameters["gpus_per_node"] = options.gpus
    if options.memory is not None:
        parameters["mem"] = options.memory
    return parameters


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise MachineError(
            "submitit is not installed, without which no job can be submitted",
            code="no-submitit",
            fix="Install submitit: pip install submitit",
        ) from error
    return submitit


def _largest_array() -> int:
    """The most jobs that an array of this cluster may have."""
    said = _output("scontrol", "show", "config")
    match = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", said, re.MULTILINE)
    return max(1, int(match[1]) - 1) if match and int(match[1]) > 1 else _LARGEST_ARRAY - 1


def _is_running(job_id: str) -> bool:
    """Whether SLURM still lets a job run: it is neither cancelled, nor taken back into the queue."""
    return _output("squeue", "--noheader", f"--jobs={job_id}", "--format=%T").strip() == "RUNNING"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _what_sbatch_said(error: Exception) -> str:
    """The lines of sbatch itself in an error of submitit; otherwise all that it says, on one line."""
    if isinstance(error, CkptmanError):
        return error.message
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()
             if line.startswith("sbatch: ")]  # fmt: skip
    return "; ".join(lines) or " ".join(str(error).split()) or type(error).__name__
