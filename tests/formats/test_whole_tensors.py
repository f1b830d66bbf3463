"""Tensors whose instructions are recognized at once are what they are one instruction after the other."""

from __future__ import annotations

import io
import random
import re
import zipfile
from typing import Any

import pytest
import torch

from ckptman.formats import pickle_reader
from ckptman.formats.pickle_reader import Tensor, read_pickle
from ckptman.text import RefusedError

NEVER = re.compile(b"(?!)").match


def pickle_of(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def content() -> dict[str, object]:
    shared = torch.zeros(40, 30)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.Linear(300, 70_000), torch.nn.BatchNorm1d(4))
    return {
        "model": model.state_dict(),
        "parameters": list(model.parameters()),
        "views": [shared, shared[1:, ::2], shared.t(), shared[0, 0], torch.zeros(0, 3), torch.zeros(2, 1, 1, 1, 1, 3)],
        "more": {index: torch.zeros(index % 5, dtype=torch.int64) for index in range(80)},
        "after": ["text", shared],
    }


def outcome(data: bytes) -> object:
    try:
        found = read_pickle(data)
    except RefusedError as error:
        return error.code, str(error)
    return repr(found.value), found.storages, found.foreign


def one_by_one(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(pickle_reader, "_SHORT", NEVER)
        patched.setattr(pickle_reader, "_LONG", NEVER)
        return outcome(data)


def test_tensors_are_recognized_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle_of(content())
    taken: list[int] = []
    whole = pickle_reader._Machine.whole_tensor

    def counted(machine: pickle_reader._Machine, at: int) -> int:
        taken.append(whole(machine, at))
        return taken[-1]

    monkeypatch.setattr(pickle_reader._Machine, "whole_tensor", counted)
    found = outcome(data)
    assert sum(map(bool, taken)) > 80  # all but the first of each dtype
    assert found == one_by_one(monkeypatch, data)
    assert type(read_pickle(data).value["views"][1]) is Tensor


def test_what_is_changed_in_them_is_read_or_refused_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pickle_of(content())
    numbers = random.Random(5)
    outcomes = set()
    for _ in range(3000):
        data = bytearray(plain)
        for _ in range(numbers.choice((1, 1, 2))):
            at = numbers.randrange(2, len(data))
            data[at] = numbers.choice((numbers.randrange(256), data[at] ^ 1, data[numbers.randrange(len(data))]))
        found = outcome(bytes(data))
        assert found == one_by_one(monkeypatch, bytes(data))
        outcomes.add(str(found[0])[:20] if isinstance(found, tuple) else "")
    assert len(outcomes) > 4  # read, and refused for several reasons


def test_a_tensor_outside_its_storage_is_refused() -> None:
    data = pickle_of([torch.zeros(2), torch.zeros(3), torch.zeros(5)])
    assert isinstance(read_pickle(data).value, list)
    with pytest.raises(RefusedError, match="reaches outside storage"):
        read_pickle(data.replace(b"K\x05\x85", b"K\x06\x85"))
