"""What sweeps leave beside the raw outputs: which runs they were for, as which jobs, and what became of each.

`<out>/.sweeps/<time>-<process>/sweep.json`, with the logs and the outcomes of the runs in the same folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ckptman.fs import files, make_folders, write_atomically
from ckptman.sweeps.executors.job import JobOutcome, read_outcome
from ckptman.text import json_text
from ckptman.tree import records

SWEEPS = ".sweeps"
_RECORD = "sweep.json"
_QUEUE_SECONDS = 20


@dataclass(frozen=True)
class SubmittedRun:
    """One run of a sweep."""

    folder: str
    """The run's folder, relative to the raw outputs, with `/` between its parts."""
    log: str
    """The file with its output: absolute."""
    outcome_file: str
    """The file that its outcome is written to: absolute."""
    job: str = ""
    """The SLURM job, such as `12_3`; empty for a process of the machine itself."""


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """What a sweep started."""

    schema_version: int = records.SCHEMA_VERSION
    executor: str = ""
    started: float
    """Seconds since 1970."""
    runs: tuple[SubmittedRun, ...]


@dataclass(frozen=True)
class Submission:
    """A run's newest submission, and what SLURM says of it."""

    run: SubmittedRun
    queue_state: str = ""
    """`PENDING`, `RUNNING` …; empty for a job that is no longer in the queue, and where SLURM does not answer."""
    gone: bool = False
    """Whether the job is known to be no longer in the queue."""

    unasked: bool = False
    """Whether SLURM did not answer, so that nobody knows whether the job is in the queue."""

    @property
    def in_queue(self) -> bool:
        """Whether the job is waiting, or at work."""
        return bool(self.queue_state)

    @property
    def text(self) -> str:
        """The job for people."""
        state = f" ({self.queue_state.lower()})" if self.queue_state else ""
        return f"SLURM job {self.run.job}{state}"

    @property
    def has_output(self) -> bool:
        """Whether anything was written to the log."""
        try:
            return Path(self.run.log).stat().st_size > 0
        except OSError:
            return False

    @cached_property
    def outcome(self) -> JobOutcome | None:
        """What became of it, where it got as far as to say so."""
        return read_outcome(Path(self.run.outcome_file))

    @property
    def outcome_time(self) -> float:
        """When it said so, in seconds since 1970; 0 where it did not."""
        try:
            return Path(self.run.outcome_file).stat().st_mtime
        except OSError:
            return 0.0


def new_folder(out: Path) -> Path:
    """Make a folder for a sweep that begins now; absolute.

    Raises:
        MachineError, RefusedError: as `fs.make_folders`.
    """
    top = out.absolute()
    folder = top / SWEEPS / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    make_folders(folder, top)
    return folder


def write_record(folder: Path, executor: str, runs: Iterable[SubmittedRun]) -> None:
    """Write down what a sweep started."""
    document = SweepRecord(executor=executor, started=round(time.time(), 1), runs=tuple(runs))
    write_atomically(folder / _RECORD, json_text.dump_json(json_text.document_of(document)), replace=True)


def read_submissions(out: Path) -> dict[str, Submission]:
    """The submission of each run that counts, by the run's folder relative to `out`: the newest, but for one that is in
    the queue, since that trains the run yet. Unreadable records are passed over."""
    records = sorted(map(_read, (out / SWEEPS).glob(f"*/{_RECORD}")), key=lambda item: item[0])
    users = {user for _, user, runs in records if any(run.job for run in runs)}
    queue = slurm_queue(users) if users else None
    found: dict[str, Submission] = {}
    for _, user, runs in records:
        for run in runs:
            # Clusters can hide the jobs of others: of those it is never known that they are gone.
            gone = queue is not None and bool(run.job) and run.job not in queue and user == os.getuid()
            state = (queue or {}).get(run.job, "")
            submission = Submission(run, queue_state=state, gone=gone, unasked=queue is None and bool(run.job))
            if submission.in_queue or run.folder not in found or not found[run.folder].in_queue:
                found[run.folder] = submission
    return found


def slurm_queue(users: Iterable[int]) -> Mapping[str, str] | None:
    """The state of each job of these users in SLURM's queue, by id; None where SLURM does not answer.

    Accounting (`sacct`) is not asked: many clusters have none.
    """
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", f"--user={','.join(map(str, users))}", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUEUE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    pairs = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _read(record: Path) -> tuple[float, int, tuple[SubmittedRun, ...]]:
    """When a sweep started, whose it is, and its runs; their files are where the record is, also where it was moved."""
    try:
        document = json_text.record_of(SweepRecord, json.loads(files.read_bytes(record)))
        owner = record.stat().st_uid
    except (OSError, ValueError, RecursionError):
        return 0.0, 0, ()
    here = record.parent.absolute()
    return (
        document.started,
        owner,
        tuple(
            replace(run, log=str(here / Path(run.log).name), outcome_file=str(here / Path(run.outcome_file).name))
            for run in document.runs
        ),
    )
