"""`run.json` and `overwritten.json`: typed, strict, and kept as a newer ckptman wrote them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.mending import mend, plan_mending
from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.ingestion.assigning import assign
from ckptman.ingestion.ingesting import ingest
from ckptman.queries.listing import list_checkpoints
from ckptman.queries.over_seeds import results
from ckptman.rules.convention_file import built_in
from ckptman.sweeps.grid_status import status
from ckptman.text.errors import CkptmanError, RefusedError
from ckptman.training.evaluation import Evaluation, EvaluationMode, forget, record_evaluation
from ckptman.tree.records import (
    is_as_written,
    read_overwritten,
    read_record,
    scan_tree,
    write_overwritten,
    write_record,
)
from tests.helpers.raw import config, name_of, write_checkpoint
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.trees import FINAL, RUN, edit_json, make_tree, small_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return add_run(tmp_path, config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda doc: doc.update(task="6"), "Expected `int | null`, got `str` - at `$.task`"),
        (lambda doc: doc.update(seed=True), "Expected `int | null`, got `bool` - at `$.seed`"),
        (lambda doc: doc.pop("config"), "missing required field `config`"),
        (lambda doc: doc.update(family=[True]), "got `array` - at `$.family`"),
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
    edit_json(run / "run.json", lambda document: None)  # without the digest, which it has now
    assert json.loads((run / "run.json").read_bytes()) == before


def test_a_record_is_written_as_it_was_read(run: Path) -> None:
    before = (run / "run.json").read_bytes()
    assert not write_record(run, read_record(run))
    assert (run / "run.json").read_bytes() == before


def test_a_list_of_overwritten_runs_keeps_what_a_newer_version_wrote(tmp_path: Path) -> None:
    add_overwritten(tmp_path, config(seed=1), config(seed=2))
    assert scan_tree(str(tmp_path), built_in()) == scan_tree(tmp_path, built_in())
    (folder,) = scan_tree(tmp_path, built_in()).overwritten
    file = tmp_path / folder / "overwritten.json"
    edit_json(file, lambda doc: (doc.update(newer=1), doc["runs"][1].update(newer=2)))
    before = json.loads(file.read_bytes())
    write_overwritten(file.parent, read_overwritten(file.parent))
    edit_json(file, lambda document: None)
    assert json.loads(file.read_bytes()) == before
    edit_json(file, lambda doc: doc["runs"][1].update(task="6"))
    with pytest.raises(RefusedError, match=r"at `\$.runs\[1\].task`"):
        read_overwritten(file.parent)


def test_a_record_has_the_digest_of_its_other_lines_and_is_not_written_over_if_it_has_not(run: Path) -> None:
    file = run / "run.json"
    record, data = read_record(run), file.read_bytes()
    rest = b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(b' "digest"'))
    assert json.loads(data)["digest"] == hashlib.sha256(rest).hexdigest()
    assert write_record(run, replace(record, run_id="new"))  # which renews it
    assert is_as_written(file)
    for changed in (
        data.replace(b'"task": ', b'"task": 1'),
        data.replace(b'"digest": "', b'"digest": "0'),
        data.replace(b'"digest"', b'"dygest"'),
        json.dumps(json.loads(data)).encode(),
    ):
        file.write_bytes(changed)
        assert not is_as_written(file)
        with pytest.raises(RefusedError) as caught:
            write_record(run, record)
        assert caught.value.code == "record-changed"
        assert file.read_bytes() == changed
    file.write_bytes(rest)  # as an older version wrote it, or one who meant it
    assert is_as_written(file)
    assert write_record(run, record)
    assert file.read_bytes() == data


def plant_newer(file: Path) -> None:
    """Put what a newer version might write into every part of a run.json."""

    def add(document: dict[str, Any]) -> None:
        (first, *_) = document["checkpoints"]
        for part in (document, document["family"], document["source"], document["attribution"], first, first["source"]):
            part["newer"] = {"a": [1, None]}

    edit_json(file, add)


def newer_parts(file: Path) -> int:
    return file.read_text().count('"newer"')


def test_every_command_that_writes_a_run_json_keeps_what_a_newer_version_wrote(tmp_path: Path) -> None:
    one, other = small_config(use_mlp=False), small_config(use_mlp=False, seed=2337)
    root = make_tree(tmp_path, [one, other])
    first, second = root / RUN, (root / RUN).with_name("seed_2337")
    for folder in (first, second):
        plant_newer(folder / "run.json")
    late = write_checkpoint(tmp_path / "late" / "len_gen_single_k4" / "task_0003" / FINAL, one)
    late.write_bytes((first / FINAL).read_bytes())  # a duplicate, which the run's record takes note of
    assert ingest(tmp_path / "late", root, settle=0).plan.duplicates
    assert json.loads((first / "run.json").read_bytes())["checkpoints"][1]["duplicates"]
    assert newer_parts(first / "run.json") == 6

    assert record_evaluation(
        Evaluation(str(first / FINAL), EvaluationMode.TEACHER_FORCED, 1, 0, {}, (17, 32)), built_in()
    )
    assert json.loads((first / "run.json").read_bytes())["evaluations"]
    assert newer_parts(first / "run.json") == 6
    assert forget(first, samples=1)
    assert newer_parts(first / "run.json") == 6

    second.rename(second.with_name("seed_9"))
    result = validate(root)
    assert [step.problem for step in mend(root, plan_mending(result))] == [None]
    assert newer_parts(second / "run.json") == 6

    edit_json(second / "run.json", lambda doc: (doc.update(run_id=None), doc["attribution"].update(code="none")))
    assert newer_parts(assigned_folder(root, second) / "run.json") == 6


def assigned_folder(root: Path, folder: Path) -> Path:
    return root / assign(folder, "newrunid", root=root).folder


HOSTILE = [
    None, True, -1, 2**63, 10**400, 1e308, "", "x", "\ud800", "a\x00b", [], [1], {}, {"a": 1}, "NaN", math.nan,
    math.inf,
]  # fmt: skip
PLACES = [
    ("config", "n_layers"), ("config", "train_max_k"), ("config", "max_iters"), ("config", "wandb_group"),
    ("config", "seed"), ("config", "use_layernorm"), ("evaluations", 0, "file"), ("evaluations", 0, "samples"),
    ("evaluations", 0, "gen_em"), ("metrics", "gen/K17/exact_match_acc"), ("seed",), ("group",), ("task",),
    ("checkpoints", 0, "step"), ("source", "root"),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_whatever_stands_in_a_record_every_command_says_something(tmp_path: Path, place: tuple[str | int, ...]) -> None:
    metrics = {f"gen/K{k}/exact_match_acc": 0.5 for k in range(17, 33)}
    name = name_of(config())
    measured = {"file": name, "mode": "teacher-forced", "samples": 3, "gen_em": 0.5}
    folder = add_run(tmp_path, config(), metrics=metrics, evaluations=(measured,))
    good = json.loads((folder / "run.json").read_bytes())
    for value in HOSTILE:
        document = json.loads(json.dumps(good))
        part = document
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
        (folder / "run.json").write_text(json.dumps(document))
        assert validate(tmp_path).findings
        listed = list_checkpoints(tmp_path)
        assert len(listed.checkpoints) == 2 or listed.not_listed
        for found in (listed.to_json(), results(tmp_path).to_json(), status(root=tmp_path).to_json()):
            json.dumps(found, allow_nan=False)
        with suppress(CkptmanError):
            report(tmp_path)
