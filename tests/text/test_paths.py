"""Paths that are none: refused by each call, as the commands refuse them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import ckptman
from ckptman.rules import convention_file
from ckptman.text import UsageError, given_path

CALLS: Mapping[str, Callable[[str], Any]] = {
    "assign": lambda path: ckptman.assign(path, "8egevwm5"),
    "assign, root": lambda path: ckptman.assign("checkpoints", "8egevwm5", root=path),
    "evaluate": lambda path: ckptman.evaluate([path], k=[4], samples=2),
    "export": lambda path: ckptman.export([path], to="plain", out="copies"),
    "export, out": lambda path: ckptman.export(["checkpoints"], to="plain", out=path),
    "ingest, source": lambda path: ckptman.ingest(path, "checkpoints"),
    "ingest, root": lambda path: ckptman.ingest("checkpoints", path),
    "learn": lambda path: ckptman.learn(path),
    "list_checkpoints": lambda path: ckptman.list_checkpoints(path),
    "load": lambda path: ckptman.load(path),
    "load_convention": lambda path: ckptman.load_convention(path),
    "load_weights": lambda path: ckptman.load_weights(path),
    "migrate": lambda path: ckptman.migrate(path),
    "plan_sweep": lambda path: ckptman.plan_sweep(path),
    "plan_sweep, root": lambda path: ckptman.plan_sweep("outputs", root=path),
    "report": lambda path: ckptman.report(path),
    "results": lambda path: ckptman.results(path),
    "scan_tree": lambda path: ckptman.scan_tree(path, convention_file.built_in()),
    "show": lambda path: ckptman.show(path),
    "status": lambda path: ckptman.status(path),
    "status, root": lambda path: ckptman.status(root=path),
    "train": lambda path: ckptman.train([], out=path),
    "validate": lambda path: ckptman.validate(path),
    "witness": lambda path: ckptman.witness([path]),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_refuses_a_path_that_is_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for path, code in (("", "empty-path"), ("a\0b", "bad-path")):
        with pytest.raises(UsageError) as error:
            CALLS[name](path)
        assert error.value.code == code


def test_a_path_is_given_back_as_it_is() -> None:
    assert given_path(".") == Path()  # the control: the current folder, named
    assert given_path(Path("a b")) == Path("a b")
