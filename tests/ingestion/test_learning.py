"""`learn`: conventions are proposed for names of any scheme, wherever configurations are, and ingest follows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptman.ingestion import ingest, learning
from ckptman.rules import convention_file
from tests.helpers.learnable import EXPERIMENTS, make

WHERE = ("inside", "beside", "nowhere")
SAYING_NOTHING = ("epochs", "run folders")
"""Names that say nothing of a configuration: where it is nowhere, a run is only known by its folder."""


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_proposal_reads_names_and_ingest_places_the_files(name: str, where: str, tmp_path: Path) -> None:
    made = make(tmp_path / "raw", EXPERIMENTS[name], where)
    found = learning.learn(tmp_path / "raw")
    assert found.files == len(made)
    assert found.parsed == found.files, found.misfits
    assert found.placed == found.read, found.misfits
    known = 0 if where == "nowhere" and name in SAYING_NOTHING else found.read
    assert found.attributed == known, found.misfits
    assert found.fits is (known > 0)
    rules = convention_file.convention_of(found.text, "the proposal")
    result = ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    assert len(result.placed) == len(made), result.refused
