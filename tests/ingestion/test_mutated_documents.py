"""What an ingest reads besides checkpoints, changed by its structure and its bytes: it is read, or refused by us."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ckptman.raw import wandb_runs
from ckptman.rules import naming
from ckptman.text import RefusedError, strict_yaml
from ckptman.tree import records
from tests.helpers.mutated_documents import KINDS, check, outcome
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES

PROMISE = "Hostile W&B files, records, conventions and names, mutated: nothing is run, every error is our own"
CASES = {name: 4_000 if name == "file names" else 1_200 for name in KINDS}
"""Of a slice, 10,000 together."""


@pytest.mark.parametrize("name", KINDS)
def test_mutations(tmp_path: Path, name: str) -> None:
    with tried(PROMISE, CASES[name] * SLICES):
        check(tmp_path, name, CASES[name] * SLICES, SLICES)


def load_what_yaml_can_do(patch: pytest.MonkeyPatch) -> None:
    def load(data: bytes, *_: Any, **__: Any) -> Any:
        try:
            return yaml.load(data, Loader=getattr(yaml, "CUnsafeLoader", yaml.UnsafeLoader))
        except Exception:
            raise RefusedError("no YAML", code="yaml", fix="Correct it.") from None

    patch.setattr(strict_yaml, "load_yaml", load)


def take_every_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wandb_runs, "_finite", lambda value: None if value is None else float(value))


def believe_the_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records, "_read", lambda file, kind: kind(**json.loads(file.read_bytes())))


def take_names_as_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(naming._VALUE, "int", "[0-9]+")


@pytest.mark.parametrize(
    ("name", "control"),
    [("config.yaml", load_what_yaml_can_do), (".wandb", take_every_number), ("wandb-summary.json", take_every_number),
     ("run.json", believe_the_record), ("ckptman.yaml", load_what_yaml_can_do), ("file names", take_names_as_they_are)],
)  # fmt: skip
def test_a_reader_that_takes_what_comes_would_be_found(
    tmp_path: Path, name: str, control: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    control(monkeypatch)
    with caught(PROMISE), pytest.raises((AssertionError, OverflowError, TypeError, ValueError, KeyError)):
        check(tmp_path, name, 1_000, 1)


@pytest.mark.parametrize("text", ["replaces:", "replaces: 0", "replaces: ''", "version: 0x" + "f" * 4000])
def test_what_mutations_found_in_conventions(tmp_path: Path, text: str) -> None:
    kind = KINDS["ckptman.yaml"](tmp_path)
    kind.data = text.encode()
    assert outcome(kind) in ("bad-convention", "config-syntax")
