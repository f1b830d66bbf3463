"""The power goes at any call of an ingest: what is not synced is lost, and no promise with it."""

from __future__ import annotations

import pytest

from tests.helpers.faulty_ingests import in_memory
from tests.helpers.power_cuts import CONTROLS, Cuts
from tests.helpers.promises import caught, tried

PROMISE = "A power cut at any call of an ingest: what is named is whole, what is recorded or removed is on the disk"


@pytest.mark.parametrize("there", ["nothing", "files", "all"])
@pytest.mark.parametrize("mode", ["copy", "hardlink", "move"])
def test_the_power_goes_at_any_call(mode: str, there: str) -> None:
    """Also where another program has put files into the tree a moment ago, or all of it, and synced nothing."""
    with tried(PROMISE) as trial, in_memory() as home:
        trial.cases = 2 * Cuts(home, mode, there).run()
        assert trial.cases or (mode, there) != ("copy", "nothing")


@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_not_synced_would_be_found(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forget, mode, there = CONTROLS[control]
    with caught(PROMISE), in_memory() as home:
        cuts = Cuts(home, mode, there)
        forget(monkeypatch)
        with pytest.raises(AssertionError):
            cuts.run()
