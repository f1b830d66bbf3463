"""`run.json` and `overwritten.json`: typed, strict, and kept as a newer ckptman wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from ckptman.tree.records import read_overwritten, read_record, scan_tree, write_overwritten, write_record
from tests.helpers.raw import config
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.trees import edit_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return add_run(tmp_path, config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda doc: doc.update(task="6"), "Expected `int`, got `str` - at `$.task`"),
        (lambda doc: doc.update(seed=True), "Expected `int | null`, got `bool` - at `$.seed`"),
        (lambda doc: doc.pop("config"), "missing required field `config`"),
        (lambda doc: doc["family"].update(layernorm=1), "got `int` - at `$.family.layernorm`"),
        (lambda doc: doc["checkpoints"][1].update(size="9"), "got `str` - at `$.checkpoints[1].size`"),
        (lambda doc: doc["checkpoints"][0].update(file="../x"), "is not a file name - at `$.checkpoints[0]`"),
        (lambda doc: doc["checkpoints"][0]["source"].pop("inode"), "at `$.checkpoints[0].source`"),
        (lambda doc: doc.update(wandb=[1]), "got `int` - at `$.wandb[0]`"),
        (lambda doc: doc.pop("schema_version"), "it has no schema_version"),
        (lambda doc: doc.update(schema_version=2), "a newer ckptman"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_with_its_place(
    run: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    read_record(run)
    edit_json(run / "run.json", change)
    with pytest.raises(RefusedError) as caught:
        read_record(run)
    assert message in caught.value.message


def test_what_a_newer_version_wrote_is_let_pass_and_kept(run: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        (first, *_) = document["checkpoints"]
        for part in (document, document["family"], document["source"], document["attribution"], first, first["source"]):
            part["newer"] = {"a": [1, 2.5, None]}
        document["more"] = 7

    edit_json(run / "run.json", add)
    before = json.loads((run / "run.json").read_bytes())
    write_record(run, read_record(run))
    assert json.loads((run / "run.json").read_bytes()) == before


def test_a_record_is_written_as_it_was_read(run: Path) -> None:
    before = (run / "run.json").read_bytes()
    assert not write_record(run, read_record(run))
    assert (run / "run.json").read_bytes() == before


def test_a_list_of_overwritten_runs_keeps_what_a_newer_version_wrote(tmp_path: Path) -> None:
    add_overwritten(tmp_path, config(seed=1), config(seed=2))
    (folder,) = scan_tree(tmp_path, built_in()).overwritten
    file = tmp_path / folder / "overwritten.json"
    edit_json(file, lambda doc: (doc.update(newer=1), doc["runs"][1].update(newer=2)))
    before = json.loads(file.read_bytes())
    write_overwritten(file.parent, read_overwritten(file.parent))
    assert json.loads(file.read_bytes()) == before
    edit_json(file, lambda doc: doc["runs"][1].update(task=None))
    with pytest.raises(RefusedError, match=r"at `\$.runs\[1\].task`"):
        read_overwritten(file.parent)
