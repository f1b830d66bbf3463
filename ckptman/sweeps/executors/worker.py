"""A process that trains one run after another for a local sweep: `python -m ckptman.sweeps.executors.worker`.

It is told the runs on its standard input, one JSON object a line, and tells what becomes of them on its standard
output, in the same form; what a run prints goes to the run's log. When its input ends, also because the sweep was
killed, it saves the run that it is at and ends.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ckptman.sweeps.executors.job import JobOutcome, RunJob, train_job
from ckptman.text import json_text
from ckptman.training import progress, stopping


def main() -> None:
    """Train what standard input asks for, until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stop = stopping.Stop()
    jobs: queue.SimpleQueue[RunJob | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, stop), daemon=True).start()
    with stop.on_signals():
        while (job := jobs.get()) is not None and not stop.wanted:
            outcome = _train(job, stop, answers)
            if not _say(answers, "outcome", asdict(outcome)):
                break


def _listen(jobs: queue.SimpleQueue[RunJob | None], stop: stopping.Stop) -> None:
    for line in sys.stdin:
        jobs.put(json_text.record_of(RunJob, json.loads(line)))
    stop.request()
    jobs.put(None)


def _train(job: RunJob, stop: stopping.Stop, answers: TextIO) -> JobOutcome:
    def tell(known: progress.Progress) -> None:
        _say(answers, "progress", asdict(known))

    _print_to(Path(job.log))
    try:
        outcome = train_job(job, stop=stop, told=tell)
    except Exception as error:  # a fault of one run leaves the others alone; the traceback is in the log
        traceback.print_exc()
        outcome = JobOutcome(state=progress.FAILED, reason=f"{type(error).__name__}: {error}", log=job.log)
    sys.stderr.flush()
    return outcome


def _print_to(log: Path) -> None:
    """Let all that this process and its children print go to a file from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _say(answers: TextIO, what: str, document: dict[str, Any]) -> bool:
    """Tell the sweep something; False where it is gone."""
    try:
        answers.write(json.dumps({what: document}) + "\n")
        answers.flush()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
