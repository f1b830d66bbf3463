"""The first that is called: a known answer is printed, and anything else handed to the program.

Nothing heavy is imported here: Typer takes longer than a known answer.
"""

from __future__ import annotations

import os
import sys

from ckptman.cli import commands


def main() -> None:
    """Entry point of the `ckptman` program."""
    _use_utf8()
    sys.exit(start(sys.argv[1:]))


def _use_utf8() -> None:
    """Begin anew with file names in UTF-8 where the locale has them otherwise, as POSIX does.

    The same file would have another name in run.json and in documents by each locale. What is printed keeps its
    encoding.
    """
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or _UTF8 in os.environ:
        return
    encoding = f"{sys.stdout.encoding}:backslashreplace" if sys.stdout is not None else ""
    os.environ.update({_UTF8: "1", "PYTHONUTF8": "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING", encoding)})
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


_UTF8 = "CKPTMAN_BEGAN_ANEW"
"""Variable by which it is seen that the second beginning is the second."""


def start(arguments: list[str]) -> int:
    """Answer one command line as it was answered before, or run it; its exit status."""
    prepare_streams()
    try:
        if not commands.REMEMBERED.isdisjoint(arguments):
            from ckptman.cli import repeating

            answer = repeating.known_answer(arguments)
            if answer is not None:
                status = repeating.repeat(answer)
                sys.stdout.flush()
                return status
        from ckptman.cli.app import run

        return run(arguments)
    except BaseException as error:
        from ckptman.cli.app import ended_by

        return ended_by(error, arguments)


def prepare_streams() -> None:
    """Let any name be printed, and have streams where the caller has closed them, as cron and daemons do."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (for the whole life of the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names can hold undecodable bytes


def silence(descriptor: int) -> None:
    """Let what is written there from now on, and what is still in a buffer, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
