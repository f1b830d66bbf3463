"""Training runs in processes of this machine, several at a time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ckptman.fs import files
from ckptman.sweeps.executors.job import JobOutcome, RunJob
from ckptman.text import json_text
from ckptman.training import progress as run_progress

STARTING, TRAINING = "starting", "training"

_TICK_SECONDS = 0.2
_WORKER = "ckptman.sweeps.executors.worker"
_PROCESS_LOG = "process-{}.log"
"""What a process says before its first run: why it cannot start."""


@dataclass(frozen=True)
class JobUpdate:
    """Something that became known of a job."""

    index: int
    """Of the job, in the sweep."""
    state: str
    """`starting` or `training`, or the state of `outcome`."""
    progress: run_progress.Progress | None = None
    outcome: JobOutcome | None = None


@dataclass(eq=False)
class _Worker:
    """A process that trains, and the job that it is at."""

    process: subprocess.Popen[bytes]
    log: Path
    job: int | None = None
    unread: bytes = b""
    has_trained: bool = False
    """Whether it has told what became of a job."""


class LocalPool:
    """Trains jobs in `processes` worker processes, each of which trains one run after another.

    A process that dies takes down the run that it was at, and is replaced; the other runs go on.
    """

    def __init__(
        self,
        jobs: Sequence[RunJob],
        *,
        processes: int,
        folder: Path,
        update: Callable[[JobUpdate], None] | None = None,
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Prepare the work.

        Args:
            jobs: The runs; each names its log.
            processes: How many are trained at a time.
            folder: Where the logs of the processes themselves go.
            update: Called with each thing that becomes known.
            environments: What each of the processes has in its environment, beside this one's: which GPU it may use.
        """
        self._jobs = list(jobs)
        self._processes = min(processes, len(self._jobs))
        self._folder = folder
        self._update = update or (lambda _: None)
        self._environments = list(environments)
        self._waiting = deque(range(len(self._jobs)))
        self._outcomes: dict[int, JobOutcome] = {}
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._started = 0
        self._stopping = False

    def run(self, *, stopped: Callable[[], bool] = lambda: False) -> list[JobOutcome]:
        """Train all jobs.

        Args:
            stopped: Asked several times a second; once it says True, the runs save their states and end.

        Returns:
            The outcome of each job, in their order; `interrupted` for one that was not begun.
        """
        try:
            for _ in range(self._processes):
                self._start()
            while self._workers:
                if not self._stopping and stopped():
                    self._stop()
                for key, _ in self._selector.select(_TICK_SECONDS):
                    self._read(key.data)
        finally:
            self._kill()
        return [self._outcomes.get(i, JobOutcome(state=run_progress.INTERRUPTED)) for i in range(len(self._jobs))]

    # --- workers ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a process, and give it a job."""
        slot = self._started % max(1, self._processes)
        extra = self._environments[slot % len(self._environments)] if self._environments else {}
        log = self._folder / _PROCESS_LOG.format(self._started)
        self._started += 1
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", _WORKER],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                env={**os.environ, **extra},
                # A group of its own: Ctrl-C reaches the sweep alone, which has the runs saved one and all.
                start_new_session=True,
            )  # fmt: skip
        worker = _Worker(process=process, log=log)
        self._workers.append(worker)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        """Give a process its next job, or let it end."""
        if not self._waiting or self._stopping:
            worker.job = None
            _close(worker.process.stdin)
            return
        worker.job = self._waiting.popleft()
        self._update(JobUpdate(index=worker.job, state=STARTING))
        assert worker.process.stdin is not None
        line = json.dumps(asdict(self._jobs[worker.job])).encode() + b"\n"
        try:
            worker.process.stdin.write(line)
            worker.process.stdin.flush()
        except OSError:
            return  # it has died, which shows when its output ends

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        data = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not data:
            self._ended(worker)
            return
        *lines, worker.unread = (worker.unread + data).split(b"\n")
        for line in lines:
            self._hear(worker, json.loads(line))

    def _hear(self, worker: _Worker, said: Mapping[str, Any]) -> None:
        assert worker.job is not None
        if (told := said.get("progress")) is not None:
            known = json_text.record_of(run_progress.Progress, told)
            self._update(JobUpdate(index=worker.job, state=TRAINING, progress=known))
        if (outcome := said.get("outcome")) is not None:
            worker.has_trained = True
            self._done(worker.job, json_text.record_of(JobOutcome, outcome))
            self._give(worker)

    def _done(self, job: int, outcome: JobOutcome) -> None:
        self._outcomes[job] = outcome
        self._update(JobUpdate(index=job, state=outcome.state, outcome=outcome))

    def _ended(self, worker: _Worker) -> None:
        """A process has ended: as it was told to, or in the middle of a job."""
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        worker.process.stdout.close()
        _close(worker.process.stdin)
        status = worker.process.wait()
        self._workers.remove(worker)
        if worker.job is not None:
            if status == 0 and worker.has_trained and not self._stopping:  # ended before it began with this one
                self._waiting.appendleft(worker.job)
            else:
                self._done(worker.job, self._died(worker, worker.job, status))
            if self._waiting and not self._stopping:
                self._start()

    def _died(self, worker: _Worker, job: int, status: int) -> JobOutcome:
        """What became of a job whose process ended without saying so."""
        if self._stopping and status == 0:
            return JobOutcome(state=run_progress.INTERRUPTED)  # it had not begun when it was told to end
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with exit status {status}"
        # It may not have got as far as the run; one that was killed may have said nothing at all.
        log = next(filter(_has_output, (self._jobs[job].log, str(worker.log))), "")
        return JobOutcome(state=run_progress.FAILED, reason=f"its process {how}", log=log)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Let every process save its run and end."""
        self._stopping = True
        for worker in self._workers:
            _close(worker.process.stdin)

    def _kill(self) -> None:
        """Leave no process behind, whatever happened here."""
        for worker in self._workers:
            _close(worker.process.stdin)
            worker.process.kill()
            worker.process.wait()
            if worker.process.stdout is not None:
                worker.process.stdout.close()
        self._workers.clear()
        for log in self._folder.glob(_PROCESS_LOG.format("*")):
            if not _has_output(str(log)):
                files.remove(log)
        self._selector.close()


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except OSError:
            return


def _has_output(log: str) -> bool:
    try:
        return Path(log).stat().st_size > 0
    except OSError:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
