"""What lies beside checkpoints is declared in the convention, and refused where it is declared wrong."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

import pytest

from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.terms import BesideRule, Form
from ckptman.text.errors import ConfigurationError


def loaded(tmp_path: Path, text: str) -> tuple[BesideRule, ...]:
    file = tmp_path / "ckptman.yaml"
    file.write_text(text)
    return load_convention(file).beside


def test_the_form_is_told_by_the_name() -> None:
    forms = {rule.pattern: rule.form for rule in built_in().beside}
    assert forms["hparams.yaml"] is Form.YAML
    assert forms["trainer_state.json"] is Form.JSON
    assert forms["metrics.csv"] is Form.CSV
    assert forms["events.out.tfevents.*"] is Form.EVENTS


def test_an_entry_is_added_changed_or_taken_away(tmp_path: Path) -> None:
    text = """
run: {seed: dseed}
beside:
  "{stem}.summary.json": {step: done}
  hparams.yaml: null
  "logs/*.jsonl": {history_step: it, up: 4}
  "{stem}.meta": {form: json, config: [a, b.c], seed: seeds.data, values: {iseed: seeds.init}}
"""
    rules = {rule.pattern: rule for rule in loaded(tmp_path, text)}
    assert "hparams.yaml" not in rules
    assert rules["{stem}.summary.json"].step == "done"
    assert rules["{stem}.summary.json"].config == ("config",)
    lines = rules["logs/*.jsonl"]
    assert (lines.form, lines.history_step, lines.up, lines.history) == (Form.LINES, "it", 4, ".")
    meta = rules["{stem}.meta"]
    assert (meta.config, meta.values) == (("a", "b.c"), {"iseed": "seeds.init", "dseed": "seeds.data"})


def test_a_file_is_of_a_sort_by_its_path() -> None:
    rule = BesideRule("logs/{stem}.*.csv", Form.CSV, 0)
    assert rule.is_of(PurePath("/a/logs/x.1.csv"))
    assert rule.is_of(PurePath("logs/x.1.csv"))
    assert not rule.is_of(PurePath("/a/b/x.1.csv"))
    assert not rule.is_of(PurePath("/a/mylogs/x.1.csv"))
    folder, name = rule.parts("Final[1]*")
    assert folder == "logs"
    assert isinstance(name, re.Pattern)
    assert name.fullmatch("Final[1]*.7.csv")
    assert not name.fullmatch("Final1x.7.csv")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ('"a/../b.json": {config: .}', "must be the path of a file below a folder"),
        ('"/a.json": {config: .}', "must be the path of a file below a folder"),
        ('"{name}.json": {config: .}', "only {stem} may stand in braces"),
        ("notes.txt: {config: .}", "say form: one of json, yaml, jsonl, csv, tfevents"),
        ("notes.txt: {form: xml, config: .}", "must be one of json, yaml, jsonl, csv, tfevents, not 'xml'"),
        ("a.json: {}", "must say what the file tells"),
        ("a.json: {confg: .}", "unknown key 'confg'; did you mean 'config'?"),
        ("a.json: {config: []}", "must be a list with something in it"),
        ("a.json: {config: ., up: 99}", "up must be 0 to 9, not 99"),
        ("a.csv: {config: .}", "a csv file is a table"),
        ("a.yaml: {history: log}", "a history is read from json, jsonl, csv or tfevents"),
        ("a.json: {values: {seed: 5}}", "must be text, not 5"),
        ("a.json: 5", "must be a mapping, not 5"),
    ],
)
def test_what_is_declared_wrong_is_refused_with_its_place(tmp_path: Path, entry: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, f"beside: {{{entry}}}")
    assert why in caught.value.message
    assert "beside" in caught.value.message
    assert loaded(tmp_path, "beside: {a.json: {config: .}}")
