"""Files beside checkpoints: what is read of them, and that nothing in them is trusted."""

from __future__ import annotations

import json
import math
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ckptman.raw import beside, documents, histories
from ckptman.rules.convention_file import built_in
from ckptman.rules.terms import BesideRule, Form
from ckptman.text import RefusedError, json_text
from ckptman.tree import history
from tests.helpers import beside as bs
from tests.helpers.mutations import mutated
from tests.helpers.slices import SLICES
from tests.helpers.timed import in_time

RULE = BesideRule("x.json", Form.JSON, 0, config=("config", "."), values={"seed": "seeds.data"}, metrics=("metrics",),
                  step="done", history="log")  # fmt: skip
TRAINER = BesideRule("t.json", Form.JSON, 0, step="global_step", history="log_history")
ROWS = [(100, {"loss": 2.5}), (200, {"loss": 1.25})]


def read(tmp_path: Path, data: bytes | str, rule: BesideRule = RULE) -> beside.Reading:
    path = tmp_path / rule.pattern
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return beside.read(path, rule, built_in())


def refusal(tmp_path: Path, data: bytes | str, rule: BesideRule = RULE) -> RefusedError | None:
    """Why a file is refused; None where all of it is read and can be written down."""
    try:
        found = read(tmp_path, data, rule)
        json_text.dump_json(json_text.jsonable([found.config, found.values, found.metrics]))
        if found.curve is not None:
            history.load(history.dump(found.curve))
    except RefusedError as error:
        return error
    return None


def yaml_rule(**fields: Any) -> BesideRule:
    return BesideRule("x.yaml", Form.YAML, 0, **{"config": (".",), **fields})


def table(tmp_path: Path, text: bytes | str) -> history.History:
    curve = read(tmp_path, text, BesideRule("x.csv", Form.CSV, 0, history=".")).curve
    assert curve is not None
    return curve


def test_each_part_is_read_from_where_the_rule_says(tmp_path: Path) -> None:
    document = {"config": {"lr": 0.1}, "lr": 5, "seeds": {"data": 7},
                "metrics": {"test": {"em": 0.9}},
                "done": 100.0, "log": [{"step": 1, "loss": 2.0, "note": "x"}, {"loss": 3}, [],
                                       {"step": 2, "loss": math.nan}]}  # fmt: skip
    found = read(tmp_path, json.dumps(document))
    assert found.config["lr"] == 0.1  # the earlier of two places
    assert "seeds" in found.config  # what only the later one has
    assert (found.values, found.metrics, found.step) == ({"seed": 7}, {"test.em": 0.9}, 100)
    assert found.curve is not None
    assert found.curve.steps == (1, 2)
    assert found.curve.columns["loss"][0] == 2.0


def test_what_is_not_there_is_not_said(tmp_path: Path) -> None:
    found = read(tmp_path, "{}")
    assert (found.config, found.values, found.metrics, found.step) == ({}, {}, {}, None)
    assert read(tmp_path, "[1, 2]").config == {}
    assert read(tmp_path, '{"done": "100", "metrics": 5, "log": {}, "seeds": []}').step is None


def test_a_key_may_have_dots_in_it() -> None:
    assert documents.at({"a.b": 1, "a": {"b": 2, "c.d": 3}}, "a.b") == 1
    assert documents.at({"a": {"c.d": 3}}, "a.c.d") == 3
    assert documents.at({"a": 5}, "a.b") is None


def test_overrides_of_hydra_are_a_configuration(tmp_path: Path) -> None:
    text = "- model.n_layers=2\n- +lr=1e-3\n- ~trainer\n- data.name='a b'\n- model=big\n- x=[1, 2]\n- 5\n"
    config = read(tmp_path, text, yaml_rule()).config
    assert config == {"model": "big", "lr": 1e-3, "data": {"name": "a b"}, "x": [1, 2]}
    assert read(tmp_path, "- a=1\n- a.b=2\n", yaml_rule()).config == {"a": {"b": 2}}


def test_a_table_has_a_row_for_each_call_and_one_step(tmp_path: Path) -> None:
    text = bs.csv_logger([(100, {"loss": 2.5}), (100, {"acc": 0.5}), (200, {"loss": 1e-5})])
    curve = table(tmp_path, text)
    assert curve.curve("loss") == [(100, 2.5), (200, 1e-5)]
    assert curve.curve("acc") == [(100, 0.5)]
    assert table(tmp_path, text.replace("\n", "\r\n")) == curve
    assert table(tmp_path, "\ufeff" + text.replace("epoch,step", "step,epoch").replace("0,", "0,")).steps != ()
    assert table(tmp_path, text + '300,"1').steps == (100, 200)  # a line that was cut
    odd = table(tmp_path, "step,a,b\n1,1_000,nan\n2,text,-inf\nx,1,1\n3.0,0x10,5\n1e400,1,1\n")
    assert odd.steps == (1, 2, 3)
    assert "a" not in odd.columns
    assert odd.curve("b")[1:] == [(2, -math.inf), (3, 5)]


HUGE = "9" * 5000
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{", "cannot be used"),
    "deep": ("[" * 900 + "]" * 900, "cannot be used: nested too deep"),
    "deeper": ("[" * 100_000 + "]" * 100_000, "lists and objects"),
    "many empty lists": (b'{"config": [' + b"[]," * 100_000 + b"1]}", "lists and objects"),
    "a long number": (f'{{"config": {{"a": {HUGE}}}}}', "cannot be used"),
    "a large number": (f'{{"config": {{"a": {"9" * 3000}}}}}', "thousands of digits"),
    "a surrogate": (b'{"config": {"a": "\\ud800"}}', "surrogates not allowed"),
    "a surrogate as a key": (b'{"config": {"\\ud800": 1}}', "surrogates not allowed"),
    "no text": (b'{"config": "\xff"}', "cannot be used"),
    "many values": (json.dumps({"config": {str(n): n for n in range(100_001)}}), "more than 100,000 values"),
    "much text": (json.dumps({"config": {"a": "x" * 1_100_000}}), "more than"),
    "large": (b" " * 16_000_001, "more than 16,000,000 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused(tmp_path: Path, name: str) -> None:
    data, why = HOSTILE[name]
    error = in_time(lambda: refusal(tmp_path, data), 1)
    assert error is not None
    assert why in error.message
    assert error.fix
    assert read(tmp_path, '{"config": {"a": 1}}').config["config"] == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [f"a: {HUGE}", "x: " + "[" * 60, "a: !!python/object/apply:os.system [id]",
     "a: &x [1]\nb: *x", "a: 1\na: 2", "a: ["],
)  # fmt: skip
def test_yaml_is_read_strictly(tmp_path: Path, text: str) -> None:
    with pytest.raises(RefusedError):
        read(tmp_path, text, yaml_rule())
    assert read(tmp_path, "a: 1", yaml_rule()).config == {"a": 1}
    assert read(tmp_path, "a: !!python/tuple [1]", yaml_rule()).config == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("loss,acc\n1,2\n", "no column 'step'"),
        ("step,a,a\n1,2,3\n", "two columns of one name"),
        (b"step,a\n\xff,1\n", "codec"),
        ("step,a\n" + "1" * 1_000_001 + "\n", "more than 1,000,000 bytes"),
        ('step,a\n"1\n', "unexpected end"),
        ("step,a\n1," + "1" * 200_000 + "\n", "field limit"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        table(tmp_path, text)
    assert table(tmp_path, "step,a\n1,2\n").steps == (1,)


def test_pipes_links_and_folders_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    os.mkfifo(path)
    with pytest.raises(RefusedError, match="not a regular file"):
        beside.read(path, RULE, built_in())
    path.unlink()
    path.mkdir()
    with pytest.raises(RefusedError, match="not a regular file"):
        beside.read(path, RULE, built_in())
    path.rmdir()
    path.symlink_to("/etc/hostname")
    with pytest.raises(RefusedError, match="not a regular file"):
        beside.read(path, RULE, built_in())


def test_a_metric_that_lies_beside_is_taken_from_there_alone() -> None:
    wandb = history.of_rows({1: {"loss": 9, "lr": 1}, 200: {"loss": 8}})
    near = history.of_rows(dict(ROWS))
    joined = histories.joined([wandb], [near])
    assert joined.curve("loss") == [(100, 2.5), (200, 1.25)]
    assert joined.curve("lr") == [(1, 1)]
    assert histories.joined([wandb], []) == wandb


def test_names_that_no_table_can_have_are_left_out(tmp_path: Path) -> None:
    curve = table(tmp_path, f"step,_step,{'x' * 1001},ok\n1,2,3,4\n")
    assert history.load(history.dump(curve)) == curve
    assert list(curve.columns) == ["ok"]


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(7)
    document = {"config": {"lr": 1e-4, "name": "a\u00e9"}, "seeds": {"data": 3}, "metrics": {"a": {"b": 1.5}},
                "done": 5, "log": [{"step": n, "loss": 1 / (n + 1)} for n in range(5)]}  # fmt: skip
    originals: list[tuple[bytes, BesideRule]] = [
        (json.dumps(document).encode(), RULE),
        (bs.trainer_state(ROWS, 40000).encode(), TRAINER),
        (b"lr: 1e-4\nmodel:\n  n_layers: 2\n  names: [a, b]\n", yaml_rule(values={"n": "model.n_layers"})),
        (b"- model.n_layers=2\n- lr=0.5\n- '+x=[1,2]'\n", yaml_rule()),
        (bs.csv_logger(ROWS).encode(), BesideRule("m.csv", Form.CSV, 0, history=".")),
        (b'{"step": 1, "loss": 2}\n{"step": 2, "loss": 1e400}\n', BesideRule("m.jsonl", Form.LINES, 0, history=".")),
    ]  # fmt: skip
    refused = 0
    for turn in range(1500 * SLICES):
        data, rule = originals[turn % len(originals)]
        refused += in_time(partial(refusal, tmp_path, mutated(data, draw), rule), 0.5) is not None
    assert refused < 1200 * SLICES
