"""The explorer's sizes and times, in a real Chromium."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ckptman.documents.explorer import EXPLORER, page
from ckptman.documents.learning_curves import Curves
from tests.helpers.browser import Heard, opened
from tests.helpers.many_runs import METRICS, many_runs
from tests.helpers.slices import SLICES


def write_many(folder: Path, number: int, metrics: Sequence[str] = METRICS) -> Path:
    file = folder / "tree" / EXPLORER
    file.parent.mkdir(parents=True)
    tree = many_runs(number, metrics)
    file.write_text(page(tree, (), Curves(folder / "tree", tree.convention), file))
    return file


def filter_times(explorer: Any) -> dict[str, float]:
    """Milliseconds from a letter typed to the table drawn."""
    found: dict[str, float] = explorer.evaluate("""() => {
      const search = document.getElementById("search"), times = {};
      for (const query of ["m", "mix", "curriculum k>=8", "gen_em>0.5", "a1b2", "nothing fits", "Final_N128", ""]) {
        search.value = query;
        const start = performance.now();
        search.dispatchEvent(new Event("input"));
        document.getElementById("runs").getBoundingClientRect();
        times[query] = performance.now() - start;
      }
      return times;
    }""")
    return found


def test_five_hundred_runs_are_small_and_there_at_once(browser: Any, tmp_path: Path, heard: Heard) -> None:
    file = write_many(tmp_path, 504)
    assert file.stat().st_size < 3_000_000
    explorer = opened(browser, file, heard)
    paint = explorer.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1000
    explorer.context.close()
    assert heard == Heard()


@pytest.mark.slow
def test_a_hundred_thousand_runs_are_still_found_at_once(browser: Any, tmp_path: Path, heard: Heard) -> None:
    """So many with `make faults`, else as many as its slices have."""
    runs = 10_000 * SLICES
    file = write_many(tmp_path, runs, METRICS[::3])  # more would be left out
    assert file.stat().st_size < 8_000_000 * max(0.3, runs / 100_000)
    explorer = opened(browser, file, heard)
    explorer.evaluate("location.hash = '#/runs'")
    explorer.wait_for_selector("#runs")
    filter_times(explorer)  # texts are made ready by the first search
    rounds = [filter_times(explorer) for _ in range(3)]  # other programs work at the same time
    times = {query: min(each[query] for each in rounds) for query in rounds[0]}
    assert max(times.values()) < 200, times
    explorer.evaluate("document.getElementById('runs').scrollTop = 1e6")
    explorer.wait_for_timeout(100)
    assert 20 < explorer.locator(".space .row").count() < 100
    explorer.context.close()
    assert heard == Heard()
