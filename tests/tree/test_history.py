"""The file that keeps a run's learning curve: what goes in comes out, in the same bytes each time, and damage shows."""

from __future__ import annotations

import csv
import gzip
import io
import math
import random
from pathlib import Path

import pytest

from ckptman.text.errors import RefusedError
from ckptman.tree import history

CURVE = history.of_rows(
    {
        1: {"gen/K17/exact_match_acc": 0.1, "gen/K2/loss": 1 / 3},
        251: {"gen/K17/exact_match_acc": 1},
        101: {'a,"b\n': -7},
    }
)


def recipe_curve() -> history.History:
    """160 evaluations of 100 metrics, as a run of the recipe logs them: 20 lengths, five metrics of 100 lists each."""
    draw = random.Random(1)
    rows: dict[int, dict[str, float]] = {}
    for index in range(160):
        row = rows.setdefault(1 + 250 * index, {})
        for k in range(13, 33):
            share = 1 / (1 + math.exp(-(index - 40 - 2 * k) / 12))
            wrong = round((1 - share) * 100 * k * draw.uniform(0.9, 1.1))
            errors = round(wrong * draw.uniform(1, 9))
            row[f"gen/K{k}/loss"] = (1 - share) * draw.uniform(3, 4) + 1e-4
            row[f"gen/K{k}/exact_match_acc"] = round(100 * share**k) / 100
            row[f"gen/K{k}/token_acc"] = 1 - wrong / (100 * k)
            row[f"gen/K{k}/pos_abs_err_sum"] = errors / 100
            row[f"gen/K{k}/pos_abs_err_mean"] = errors / (100 * k)
    return history.of_rows(rows)


def test_a_curve_comes_back_as_it_was_in_the_same_bytes_each_time() -> None:
    assert history.load(history.dump(CURVE)) == CURVE
    assert history.dump(history.load(history.dump(CURVE))) == history.dump(CURVE)
    assert CURVE.steps == (1, 101, 251)
    assert CURVE.curve("gen/K17/exact_match_acc") == [(1, 0.1), (251, 1)]
    assert CURVE.curve("no such metric") == []


def test_any_reader_of_csv_and_gzip_opens_it() -> None:
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(history.dump(CURVE)).decode(), newline="")))
    assert list(rows[0]) == ["_step", 'a,"b\n', "gen/K2/loss", "gen/K17/exact_match_acc"]  # K2 before K17
    assert [row["_step"] for row in rows] == ["1", "101", "251"]
    assert [row["gen/K17/exact_match_acc"] for row in rows] == ["0.1", "", "1"]
    assert float(rows[0]["gen/K2/loss"]) == 1 / 3


def test_numbers_that_are_not_finite_are_not_those_that_are_absent() -> None:
    back = history.load(history.dump(history.of_rows({1: {"a": math.nan, "b": math.inf}, 2: {"b": -math.inf}})))
    assert back.columns["b"] == (math.inf, -math.inf)
    assert back.columns["a"][0] != back.columns["a"][0]
    assert back.columns["a"][1] is None


def test_a_run_of_the_recipe_takes_less_than_100_kb() -> None:
    curve = recipe_curve()
    assert (len(curve.steps), len(curve.columns)) == (160, 100)
    assert len(history.dump(curve)) < 100_000


def test_the_later_part_of_a_run_counts_more() -> None:
    one = history.of_rows({1: {"a": 1, "b": 1}, 2: {"a": 2}})
    two = history.of_rows({2: {"a": 20}, 3: {"a": 30}})
    assert history.merged([one, two]) == history.of_rows({1: {"a": 1, "b": 1}, 2: {"a": 20}, 3: {"a": 30}})


GOOD = history.dump(CURVE)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut short"),
        (GOOD[:-1], "cut short"),
        (GOOD + b"x", "followed by more"),
        (GOOD[:30] + bytes([GOOD[30] ^ 1]) + GOOD[31:], "damaged"),
        (b"_step,a\n1,2\n", "damaged"),
        (gzip.compress(b"", mtime=0), "no table"),
        (gzip.compress(b"step,a\n1,2\n", mtime=0), "no table"),
        (gzip.compress(b"_step,a,a\n1,2,3\n", mtime=0), "no table"),
        (gzip.compress(b"_step,a\n1\n", mtime=0), "no table"),
        (gzip.compress(b'_step,a\n1,"x', mtime=0), "no CSV"),
        (gzip.compress(b"_step,a\n1,x\n", mtime=0), "could not convert"),
        (gzip.compress(b"_step,a\n2,1\n1,1\n", mtime=0), "not in order"),
        (gzip.compress(b"_step,a\n1,1\n1,1\n", mtime=0), "not in order"),
        (gzip.compress(b"_step,a\n0.5,1\n", mtime=0), "not in order"),
        (gzip.compress(b"\xff\xfe\n", mtime=0), "decode"),
    ],
)
def test_what_is_no_curve_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / history.HISTORY_FILE).write_bytes(data)
    with pytest.raises(RefusedError, match=says) as caught:
        history.read(tmp_path)
    assert caught.value.code == "bad-history"


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_BYTES", 1_000)
    with pytest.raises(ValueError, match="too large"):
        history.load(gzip.compress(b"_step,a\n" + b"1,1\n" * 1000, mtime=0))


def test_a_folder_without_the_file_has_no_curve(tmp_path: Path) -> None:
    assert history.read(tmp_path) is None
    (tmp_path / history.HISTORY_FILE).write_bytes(GOOD)
    assert history.read(tmp_path) == CURVE
    (tmp_path / history.HISTORY_FILE).rename(tmp_path / "elsewhere")
    (tmp_path / history.HISTORY_FILE).symlink_to("elsewhere")  # ingest writes none
    with pytest.raises(RefusedError):
        history.read(tmp_path)
