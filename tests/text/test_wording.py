"""Numbers and foreign strings as people read them."""

from __future__ import annotations

import os
import subprocess
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptman.text.wording import count_text, lowered, natural_key, one_line, path_key, shell_command, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_499, "999.5 kB"), (1_416_052, "1.42 MB"),
     (9_995_000, "10.0 MB"), (75_668_113, "75.7 MB"), (999_600_000, "1.00 GB"), (10**15, "1000.0 TB")],
)  # fmt: skip
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert size_text(count) == text


def test_counts_have_a_plural() -> None:
    assert [count_text(n, "file") for n in (0, 1, 2, 1008)] == ["0 files", "1 file", "2 files", "1,008 files"]
    assert count_text(2, "entry", "entries") == "2 entries"


def test_a_title_within_a_sentence_keeps_what_is_no_word() -> None:
    titles = ["With LayerNorm", "Élan", "K = 2–8", "L1, MLP off", "MLP on", "mix", "K", ""]
    assert list(map(lowered, titles)) == ["with LayerNorm", "élan", "K = 2–8", "L1, MLP off", "MLP on", "mix", "K", ""]


def test_names_sort_as_people_sort_them() -> None:
    names = ["k16", "k4", "k8", "k04", "a", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "k04", "k4", "k8", "k16"]
    paths = [PurePosixPath(p) for p in ("g_k10/task_0001", "g_k4_x/task_0000", "g_k4/task_0002", "g_k4/task_0010")]
    assert [str(p) for p in sorted(paths, key=path_key)] == [
        "g_k4/task_0002", "g_k4/task_0010", "g_k4_x/task_0000", "g_k10/task_0001",
    ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.text(alphabet="k048_/é", max_size=8), unique=True))
def test_the_natural_order_is_one_order_of_different_names(names: list[str]) -> None:
    assert len({natural_key(name) for name in names}) == len(names)
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("\n\r\t\x1b\u202e\udc80\u2028")))
def test_nothing_that_moves_the_cursor_stays(text: str) -> None:
    line = one_line(text)
    assert not set(line) & set("\n\r\t\x1b\u202e\u2028")
    line.encode("utf-8")  # no undecodable byte is left
    if text.isascii() and text.isprintable():
        assert line == text


def test_a_command_can_be_pasted_whatever_its_paths_are() -> None:
    names = [
        b"plain",
        b"a b",
        b"it's",
        b"two\nlines",
        b"\x1b[31m'\\red",
        b"not \xff utf-8",
        "zero\u200bwidth é".encode(),
        b"$HOME",
        b"-n",
    ]
    command = shell_command(["printf", "%s\\0", *map(os.fsdecode, names)])
    assert one_line(command) == command, "what a terminal shows is what is pasted"
    pasted = subprocess.run(["bash", "-c", os.fsencode(command)], capture_output=True, check=True).stdout
    assert pasted.split(b"\0")[:-1] == names
    unquoted = " ".join(["printf", "%s\\\\0", *map(os.fsdecode, names[:2])])
    assert (
        subprocess.run(["bash", "-c", unquoted], capture_output=True, check=True).stdout.split(b"\0")[:-1] != names[:2]
    )
