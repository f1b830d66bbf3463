"""Checkpoints that differ in their seed alone: what is known of the third without interpreting it is what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import alike, checkpoint, pickle_reader
from ckptman.formats.checkpoint import CheckpointInfo, read_checkpoint
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from tests.helpers.raw import config

RULES = built_in().checkpoint


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pickles were interpreted."""
    alike._KINDS.clear()
    count: list[int] = []
    real = pickle_reader.read_pickle

    def read_pickle(*arguments: Any, **more: Any) -> Any:
        count.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(checkpoint, "read_pickle", read_pickle)
    yield count
    alike._KINDS.clear()


def write(path: Path, seed: int, **more: Any) -> Path:
    values = {**config(seed=seed).to_dict(), **more.pop("config", {})}
    weights = {"weight": torch.full((2, 3), float(seed)), "bias": torch.ones(3)}
    torch.save({"iters_done": 4, "train_config": values, "model": weights, **more}, path)
    return path


def read_alone(path: Path) -> CheckpointInfo:
    alike._KINDS.clear()
    return read_checkpoint(path, RULES)


@pytest.mark.parametrize("more", [{}, {"config": {"more": {"seed": 5}}}, {"other": {"seed": 5}}])
@pytest.mark.parametrize("seeds", [(1, 2, 3, 255, 0), (1337, 2337, 3337), (1 << 16, 1 << 20, (1 << 31) - 1)])
def test_the_third_of_a_kind_is_known_by_the_first_two(
    tmp_path: Path, interpreted: list[int], seeds: tuple[int, ...], more: dict[str, Any]
) -> None:
    paths = [write(tmp_path / f"{seed}.pt", seed, **more) for seed in seeds]
    alone = [read_alone(path) for path in paths]
    alike._KINDS.clear()
    interpreted.clear()
    together = [read_checkpoint(path, RULES) for path in paths]
    assert len(interpreted) == 2
    assert together == alone
    assert [list(info.config or {}) for info in together] == [list(info.config or {}) for info in alone]
    views = [[tensor.view for tensor in info.tensors] for info in together]
    assert views == [[tensor.view for tensor in info.tensors] for info in alone]
    assert [info.config and info.config["seed"] for info in together] == list(seeds)


@pytest.mark.parametrize(
    "more",
    [
        {"other": {"seed": 5}, "config": {"seed": None}},  # the only one is not the configuration's
        {"iters_done": torch.tensor(4)},  # a number that stands in a storage
    ],
)
def test_what_is_more_than_a_seed_is_interpreted_each_time(
    tmp_path: Path, interpreted: list[int], more: dict[str, Any]
) -> None:
    for seed in (1, 2, 3):
        read_checkpoint(write(tmp_path / "a.pt", seed, **more), RULES)
    assert len(interpreted) == 3


def test_a_seed_that_is_a_shape_too_is_of_another_kind_each_time(tmp_path: Path, interpreted: list[int]) -> None:
    for seed in (1, 2, 3):
        path = write(tmp_path / "a.pt", seed, model={"weight": torch.ones(seed, 3)})
        info = read_checkpoint(path, RULES)
        assert info.tensors[0].shape == (seed, 3)
    assert len(interpreted) == 3


def test_a_known_pickle_needs_its_storages_as_any(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}.pt", seed) for seed in (1, 2, 3)]
    for path in paths[:2]:
        read_checkpoint(path, RULES)
    data = paths[2].read_bytes()
    paths[2].write_bytes(data.replace(b"/data/1", b"/data/7"))
    with pytest.raises(RefusedError, match="lacks the entry of storage '1'"):
        read_checkpoint(paths[2], RULES)


def test_other_rules_are_asked_again(tmp_path: Path, interpreted: list[int]) -> None:
    from ckptman.rules.convention_file import load_convention

    for seed in (1, 2, 3):
        read_checkpoint(write(tmp_path / "a.pt", seed), RULES)
    read_checkpoint(tmp_path / "a.pt", load_convention().checkpoint)
    assert len(interpreted) == 3


def test_only_the_last_kinds_are_remembered(
    tmp_path: Path, interpreted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alike, "MOST_KINDS", 2)
    for number in range(5):
        for seed in (1, 2, 3):
            read_checkpoint(write(tmp_path / "a.pt", seed, name=f"kind {number}"), RULES)
    assert len(interpreted) == 10
    assert len(alike._KINDS) == 2
