"""Names that are not ASCII, in a terminal whose locale is, and in one whose locale is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.promises import caught, tried
from tests.helpers.raw import config, snapshot, write_run

PROMISE = "Names that are not ASCII: a source and a document are the same in the POSIX locale and in UTF-8"
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0"}
UTF8 = {"LC_ALL": "C.UTF-8"}


def ckptman(locale: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "ckptman", *map(str, arguments)],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), **locale},
        capture_output=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Läufe \udce9 数"  # and a byte that is no UTF-8
    for k in (8, 16):
        write_run(
            folder / f"len_gen_k{k}" / "task_0006", config(k), run_id=f"abcd{k}", saved_models="gespeicherte_mödelle"
        )
    return folder


@pytest.mark.parametrize(("first", "then"), [(POSIX, UTF8), (UTF8, POSIX)], ids=["POSIX first", "UTF-8 first"])
def test_a_source_is_the_same_in_every_locale(
    source: Path, tmp_path: Path, first: dict[str, str], then: dict[str, str]
) -> None:
    with tried(PROMISE, 1):
        is_the_same(source, tmp_path / "bäume", first, then)


def is_the_same(source: Path, root: Path, first: dict[str, str], then: dict[str, str]) -> None:
    assert ckptman(first, "ingest", source, "--root", root, "--settle", 0).returncode == 0
    before = snapshot(root)
    again = ckptman(then, "ingest", source, "--root", root, "--settle", 0, "--json")
    assert again.returncode == 0, again.stderr
    document: dict[str, Any] = json.loads(again.stdout)
    assert (document["placed"], len(document["unchanged"]), document["duplicates"]) == ([], 4, [])
    assert snapshot(root) == before
    assert str(document["source"]) == str(source)

    assert ckptman(first, "report", "--root", root).returncode == 0
    assert ckptman(then, "report", "--root", root, "--check").returncode == 0
    assert ckptman(then, "validate", "--root", root, "--ignore", "incomplete").stdout is not None
    listed = ckptman(then, "ls", "--root", root, "--paths").stdout.split()
    assert len(listed) == 4


def test_names_by_the_locale_would_be_found(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "bäume"
    ckptman({**POSIX, "CKPTMAN_BEGAN_ANEW": "1"}, "ingest", source, "--root", root, "--settle", 0)
    before = snapshot(root)
    ckptman(UTF8, "ingest", source, "--root", root, "--settle", 0)
    with caught(PROMISE):
        assert snapshot(root) != before


def test_output_is_in_the_locale_of_the_terminal(source: Path, tmp_path: Path) -> None:
    shown = ckptman(POSIX, "ingest", source, "--root", tmp_path / "bäume", "--settle", 0)
    assert shown.returncode == 0
    assert (shown.stdout + shown.stderr).isascii()
