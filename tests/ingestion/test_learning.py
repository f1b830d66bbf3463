"""`learn`: conventions are proposed for names of any scheme, wherever configurations are, and ingest follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("key", ["batch_size", "learning_rate"])
def test_a_shuffled_configuration_is_matched_to_no_field(key: str, tmp_path: Path) -> None:
    found = learning.learn(_made(tmp_path / "right"))
    assert key in _keys(found)
    assert key not in _keys(learning.learn(_made(tmp_path / "wrong", shuffled=key)))


def _made(out: Path, *, shuffled: str = "") -> Path:
    make(out, EXPERIMENTS["nano"], "inside", shuffled=shuffled)
    return out


def _keys(found: learning.Learnt) -> set[str]:
    (scheme,) = convention_file.convention_of(found.text, "it").schemes
    return {field.config for field in scheme.fields.values()}


def test_names_that_share_nothing_are_of_no_scheme(tmp_path: Path) -> None:
    for name in ("asdf", "New model (copy)", "thing.v2.old", "zz_top", "final_final_REALLY"):
        torch.save({"w": torch.ones(2)}, tmp_path / f"{name}.pt")
    found = learning.learn(tmp_path)
    assert (found.parsed, found.placed, found.fits) == (0, 0, False)
    assert {misfit.what for misfit in found.misfits} == {"name", "place"}


def test_fields_are_the_keys_that_they_state(tmp_path: Path) -> None:
    make(tmp_path, EXPERIMENTS["later"], "inside")
    assert _keys(learning.learn(tmp_path)) >= {
        "n_layers", "use_mlp", "norm_type", "use_qk_norm", "choices", "train_min_k", "train_max_k", "allow_duplicates",
        "length_mode", "without_pos",
    }  # fmt: skip
