"""`ckptman status --watch`."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run


def test_the_map_is_renewed_on_a_terminal_until_ctrl_c(tmp_path: Path) -> None:
    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "ckptman", "status", "--k", "8", "--watch", "--every", "0.2"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal, env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(terminal)
    seen, asked = b"", False
    ended = threading.Timer(60, process.kill)
    ended.start()
    with process, suppress(OSError):  # Linux: reading fails once the other side is closed
        while new := os.read(control, 65536):  # to the end: a terminal that nobody reads would hold the process up
            seen += new
            if not asked and seen.count(b"Ctrl-C ends") >= 2:
                asked = True
                process.send_signal(signal.SIGINT)
    ended.cancel()
    os.close(control)
    assert process.returncode == 0
    assert seen.count(b"72 runs") >= 2


def test_elsewhere_it_is_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["status", "--watch"]) == 2
    assert "the output is none" in capsys.readouterr().err
    assert run(["status", "--watch", "--json"]) == 2
    assert run(["status"]) == 0
