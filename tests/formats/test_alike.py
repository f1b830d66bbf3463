"""Checkpoints that differ in numbers and words alone: what is known of the third without interpreting it is what it
says."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import alike, checkpoint, pickle_reader
from ckptman.formats.archive import PICKLE, Archive, open_archive
from ckptman.formats.checkpoint import CheckpointInfo, read_checkpoint
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from tests.helpers.raw import config

RULES = built_in().checkpoint


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pickles were interpreted."""
    alike.forget()
    count: list[int] = []
    real = pickle_reader.read_pickle

    def read_pickle(*arguments: Any, **more: Any) -> Any:
        count.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(checkpoint, "read_pickle", read_pickle)
    yield count
    alike.forget()


def write(path: Path, seed: int, **more: Any) -> Path:
    values = {**config(seed=seed).to_dict(), **more.pop("config", {})}
    weights = {"weight": torch.full((2, 3), float(seed)), "bias": torch.ones(3)}
    torch.save({"iters_done": 4, "train_config": values, "model": weights, **more}, path)
    return path


def read_alone(path: Path) -> CheckpointInfo:
    alike.forget()
    return read_checkpoint(path, RULES)


def read_together(paths: list[Path], interpreted: list[int]) -> list[CheckpointInfo]:
    alike.forget()
    interpreted.clear()
    return [read_checkpoint(path, RULES) for path in paths]


def assert_same(together: list[CheckpointInfo], alone: list[CheckpointInfo]) -> None:
    assert together == alone
    for info, other in zip(together, alone, strict=True):
        for one, two in ((info.config, other.config), (info.model_config, other.model_config)):
            assert [(key, type(value)) for key, value in (one or {}).items()] == [
                (key, type(value)) for key, value in (two or {}).items()
            ]
        assert [(each.view, each.saved_as) for each in info.tensors] == [
            (each.view, each.saved_as) for each in other.tensors
        ]


@pytest.mark.parametrize("more", [{}, {"config": {"more": {"seed": 5}}}, {"other": {"seed": 5}}])
@pytest.mark.parametrize("seeds", [(1, 2, 3, 255, 0), (1337, 2337, 3337), (1 << 16, 1 << 20, (1 << 31) - 1)])
def test_the_third_of_a_kind_is_known_by_the_first_two(
    tmp_path: Path, interpreted: list[int], seeds: tuple[int, ...], more: dict[str, Any]
) -> None:
    paths = [write(tmp_path / f"{seed}.pt", seed, **more) for seed in seeds]
    alone = [read_alone(path) for path in paths]
    together = read_together(paths, interpreted)
    assert len(interpreted) == 2
    assert_same(together, alone)
    assert [info.config and info.config["seed"] for info in together] == list(seeds)


def test_steps_tasks_and_groups_are_of_one_kind(tmp_path: Path, interpreted: list[int]) -> None:
    paths = [
        write(
            tmp_path / f"{seed}-{step}-{len(group)}-{layers}.pt", seed,
            iters_done=step, itr=step - 1, run_id=f"{group}{step}",
            config={"wandb_group": group, "n_layers": layers, "train_max_k": layers + 300},
        )
        for seed, step, group, layers in itertools.product((1, 70_000), (20_001, 4), ("a/b-c.1", "len_gen_k8"), (1, 2))
    ]  # fmt: skip
    alone = [read_alone(path) for path in paths]
    assert_same(read_together(paths, interpreted), alone)
    assert len(interpreted) == 2
    assert len({(info.iters_done, info.itr, info.run_id, str(info.config)) for info in alone}) == 16


def test_the_configuration_of_the_model_may_come_first(tmp_path: Path, interpreted: list[int]) -> None:
    paths = [tmp_path / f"{seed}-{layers}.pt" for seed in (1, 2) for layers in (1, 2, 3)]
    for path in paths:
        seed, layers = map(int, path.stem.split("-"))
        model = {"n_layers": layers, "block_size": 65}
        values = {key: value for key, value in config(seed=seed).to_dict().items() if key != "n_layers"}
        torch.save({"model_config": model, "train_config": values, "model": {"weight": torch.ones(2)}}, path)
    alone = [read_alone(path) for path in paths]
    assert_same(read_together(paths, interpreted), alone)
    assert len(interpreted) == 2
    assert [(info.model_config or {})["n_layers"] for info in alone] == [1, 2, 3, 1, 2, 3]


def test_whatever_a_configuration_holds_each_says_what_it_says_alone(tmp_path: Path, interpreted: list[int]) -> None:
    draw = random.Random(7)
    numbers = (0, 1, 3, 255, 256, 65_536, -1, 1 << 31, 1 << 40, 8.0, True, None, "8")
    words = ("mix", "a", "none", "", "a b", "{}", "é", "None", None, "q", "rq", 3)
    paths = []
    for number in range(60):
        changes = {
            "n_embd": draw.choice(numbers), "seed": draw.choice(numbers), "n_layers": draw.choice((1, 2)),
            "wandb_group": draw.choice(words),
            "save_dir": draw.choice(words), "length_mode": draw.choice(("mix", "MIX")),
        }  # fmt: skip
        more: dict[str, Any] = {"iters_done": draw.choice((1, 2, 2.0, -1, "3")), "run_id": draw.choice(words)}
        paths.append(write(tmp_path / f"{number}.pt", 1, config=changes, **more))
    alone = [read_alone(path) for path in paths]
    assert_same(read_together(paths * 3, interpreted), alone * 3)
    assert len(interpreted) <= 120  # the third time, all are known


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ({"n_layers": 2, "note": 1}, [{"n_layers": 2}, {"n_layers": 3}]),  # a section agrees with another, or does not
        ({"n_layers": 3, "note": 1}, [{"n_layers": 2}, {"n_layers": 3}]),
    ],
)
def test_numbers_that_are_compared_are_of_no_known_kind(
    tmp_path: Path, interpreted: list[int], first: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    paths = []
    for number, values in enumerate((first, *others)):
        path = tmp_path / f"{number}.pt"
        sections = {"model": {"n_layers": 2, "n_embd": 8, "n_heads": 1}, "data": {"n_layers": values["n_layers"]}}
        torch.save({"iters_done": 4, "train_config": sections, "model": {"weight": torch.ones(2)}}, path)
        paths.append(path)
    alone = [read_alone(path) for path in paths]
    assert_same(read_together(paths, interpreted), alone)


def test_what_only_looks_like_a_number_is_interpreted_each_time(tmp_path: Path, interpreted: list[int]) -> None:
    notes = [f"X\4\0\0\0seedq\1K{value}." for value in "123"]
    paths = [write(tmp_path / f"{at}.pt", 5, config={"note": note}) for at, note in enumerate(notes)]
    assert [(info.config or {})["note"] for info in read_together(paths, interpreted)] == notes
    paths = [write(tmp_path / f"{at}.pt", 5, config={"note": "a"}) for at in range(3)]
    read_together(paths, interpreted)
    assert len(interpreted) == 2  # the control


def test_a_word_whose_length_is_another_is_interpreted(tmp_path: Path, interpreted: list[int]) -> None:
    paths = [write(tmp_path / f"{seed}.pt", seed, config={"wandb_group": "abcd"}) for seed in (1, 2, 3)]
    read_together(paths, interpreted)
    with open_archive(paths[2]) as archive:
        data = archive.read(PICKLE, 1 << 20)
    assert alike.sample_of(data, RULES) is not None
    assert alike.sample_of(data.replace(b"X\4\0\0\0abcd", b"X\3\0\0\0abcd"), RULES) is None


def test_a_number_is_not_known_that_is_elsewhere_or_stands_in_a_storage(tmp_path: Path, interpreted: list[int]) -> None:
    for more in ({"other": {"seed": 0}}, {"iters_done": torch.tensor(4)}):
        paths = []
        for seed in (1, 2, 3):
            path = tmp_path / f"{seed}.pt"
            values = {key: value for key, value in config().to_dict().items() if key != "seed"}
            held = {"iters_done": 4, "train_config": values, "model": {"weight": torch.ones(2)}, **more}
            torch.save({**held, **({"other": {"seed": seed}} if "other" in more else {})}, path)
            paths.append(path)
        read_together(paths, interpreted)
        assert len(interpreted) == (4 if "other" in more else 3)  # with the one of marks


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
    for seed in (1, 2, 3):
        read_checkpoint(write(tmp_path / "a.pt", seed), RULES)
    read_checkpoint(tmp_path / "a.pt", replace(RULES))
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


class Inside:
    """An archive with another pickle in it."""

    def __init__(self, real: Archive, data: bytes) -> None:
        self.layout, self.size = real.layout, real.size
        self._data = data
        self.layout.held = None

    def read(self, name: str, limit: int) -> bytes:
        return self._data

    def part(self, name: str, start: int, size: int) -> bytes:
        return bytes(size)


def outcome(real: Archive, data: bytes) -> tuple[object, ...]:
    try:
        info = checkpoint.read_archive(Inside(real, data), RULES)  # type: ignore[arg-type]
    except RefusedError as error:
        return (error.code,)
    return info, alike._details(info)


def mutated(draw: random.Random, data: bytes) -> bytes:
    """A pickle with a few instructions other than they were."""
    found = bytearray(data)
    for _ in range(draw.randrange(4)):
        at = draw.randrange(len(found))
        if draw.random() < 0.4:
            found[at] = draw.randrange(256)
        elif draw.random() < 0.6:
            found[at:at] = bytes(draw.choices(b"K\1M\5\6J\0\0\0\0X0q(12h\x88NR.ut", k=draw.randrange(1, 4)))
        else:
            del found[at : at + draw.randrange(1, 4)]
    return bytes(found)


def differences(path: Path, kinds: int) -> int:
    """How many pickles say something else after others of their kind, mutated ones among them, than alone."""
    draw, count = random.Random(kinds), 0
    with open_archive(path) as real:
        data = real.read(PICKLE, 1 << 20)
        for _ in range(kinds):
            base = mutated(draw, data)
            family = [base]
            for _ in range(3 if (sample := alike.sample_of(base, RULES)) is not None else 0):
                others: list[int | str] = []
                for value in sample.values if sample is not None else ():
                    numbers: list[int | str] = [0, 2, 255, 70_000, value]
                    others.append(draw.choice(numbers if isinstance(value, int) else ["mix", "model", value]))
                family.append(alike.with_values(base, RULES, others))
            alone = []
            for each in family:
                alike.forget()
                alone.append(outcome(real, each))
            alike.forget()
            count += sum(outcome(real, each) != one for each, one in zip(family * 2, alone * 2, strict=True))
    return count


def test_mutated_pickles_say_what_they_say_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.pt", 1337, config={"wandb_group": "len_gen_k8"})
    assert differences(path, 400) == 0
    monkeypatch.setattr(alike, "_filled", lambda info, *_: info)  # the control: with marks in the places,
    monkeypatch.setattr(alike, "_is_same", lambda one, other: True)  # and nobody looks
    assert differences(path, 20) > 0


def test_threads_that_meet_a_kind_at_once_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them learns where its values get to while the other one asks."""
    paths = [write(tmp_path / f"{seed}.pt", seed) for seed in range(1337, 1345)]
    alone = [read_alone(path) for path in paths]
    alike.forget()
    read_checkpoint(paths[0], RULES)
    real = alike._fields_of

    def fields_of(info: CheckpointInfo) -> dict[str, Any]:
        time.sleep(0.05)  # in which the other one goes on asking
        return real(info)

    monkeypatch.setattr(alike, "_fields_of", fields_of)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda path: read_checkpoint(path, RULES), paths * 40)) == alone * 40
