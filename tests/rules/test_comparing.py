"""When two spellings of a configuration are one, wherever configurations meet."""

from __future__ import annotations

import itertools
import math
from pathlib import PurePath
from typing import Any

import pytest

from ckptman.rules import comparing


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True), (1e-4, 0.0001, True), (0, -0.0, True), (1, 2, False), (10**400, 1e308, False),
        (True, 1, True), (True, 1.0, True), (False, 0, True), (True, False, False), (True, 2, False),
        (None, False, False), (None, 0, False), ("1", 1, False), ("a", "a", True), ("", None, False),
        ((1, 2), [1, 2], True), ([1, 2], (1.0, 2.0), True), ([1], [1, 2], False), ([True], [1], True),
        ([1], "1", False), ([], {}, False), ({1: "a"}, {"1": "a"}, True),
        ({"b": 1, "a": [1]}, {"a": [1.0], "b": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        (math.nan, math.nan, True), (math.nan, None, True), (math.nan, "NaN", True), (math.nan, 0.0, False),
        (math.inf, math.inf, True), (math.inf, "Infinity", True), (-math.inf, "-Infinity", True),
        (math.inf, -math.inf, False), (math.inf, 1e308, False), (PurePath("a/b"), "a/b", True),
    ],
)  # fmt: skip
def test_values_that_are_the_same(one: object, other: object, same: bool) -> None:
    assert comparing.same_value(one, other) is same
    assert comparing.same_value(other, one) is same


def test_the_keys_that_differ() -> None:
    assert comparing.differing_keys({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 3, "c": 4, "e": 5}, {"c"}) == ["b"]


def spellings() -> list[dict[str, object]]:
    """One configuration as Python has it, as W&B stores it, and as JSON and YAML give it back."""
    return [
        {"choices": (1, 2), "use_mlp": True, "dropout": 1.0, "best": math.inf, "loss": math.nan, "gone": None},
        {"choices": [1, 2], "use_mlp": 1, "dropout": 1, "best": "Infinity", "loss": "NaN", "gone": None},
        {"loss": None, "best": math.inf, "dropout": 1, "use_mlp": 1.0, "choices": [1.0, 2.0], "gone": math.nan},
    ]


def test_the_spellings_of_a_configuration_are_one_by_every_comparison() -> None:
    for one, other in itertools.permutations(spellings(), 2):
        assert comparing.differing_keys(one, other, ()) == []
        assert comparing.same_configuration(one, other, ())
        assert comparing.fingerprint(one, ()) == comparing.fingerprint(other, ())


@pytest.mark.parametrize("key", ["choices", "use_mlp", "dropout", "best"])
def test_another_value_makes_another_configuration_by_every_comparison(key: str) -> None:
    for one, other in itertools.permutations(spellings(), 2):
        changed = {**other, key: 7}
        assert comparing.differing_keys(one, changed, ()) == [key]
        assert not comparing.same_configuration(one, changed, ())
        assert comparing.fingerprint(one, ()) != comparing.fingerprint(changed, ())
        assert comparing.same_configuration(one, changed, (key,))
        assert comparing.fingerprint(one, (key,)) == comparing.fingerprint(changed, (key,))


def test_a_key_that_one_side_lacks_counts_as_none_or_is_not_compared() -> None:
    assert comparing.same_configuration({"a": 1}, {"a": 1, "b": None}, ())
    assert not comparing.same_configuration({"a": 1}, {"a": 1, "b": 2}, ())
    assert comparing.differing_keys({"a": 1}, {"a": 1, "b": 2}, ()) == []


@pytest.mark.parametrize(
    ("value", "whole", "flag"),
    [(1, 1, True), (1.0, 1, True), (True, None, True), (0.0, 0, False), (False, None, False), (7.5, None, None),
     ("1", None, None), (None, None, None), (math.nan, None, None), (math.inf, None, None), (2, 2, None)],
)  # fmt: skip
def test_whole_numbers_and_flags_in_all_their_spellings(value: object, whole: int | None, flag: bool | None) -> None:
    assert comparing.whole(value) == whole
    assert comparing.flag(value) is flag


def test_each_configuration_goes_with_the_first_that_it_agrees_with() -> None:
    configs: list[dict[str, Any]] = [
        {"a": 1, "b": 2}, {"a": 2}, {"a": 1.0}, {"b": 2}, {"a": 2, "b": 3, "dir": "x"}, {"a": True, "b": 2, "dir": "y"},
    ]  # fmt: skip
    assert comparing.alike(configs, {"dir"}) == [0, 1, 0, 0, 1, 0]
    assert comparing.alike(configs, ()) == [0, 1, 0, 0, 1, 0]
    assert comparing.alike([*configs, {"dir": "z"}], ()) == [0, 1, 0, 0, 1, 0, 0]
    assert comparing.alike([{"a": n} for n in range(4)], ()) == [0, 1, 2, 3]
    assert comparing.alike([], ()) == []


def test_things_are_found_by_their_configuration_as_by_comparing_each() -> None:
    configs: list[dict[str, Any]] = [{"a": 1, "b": 2}, {"a": 1.0}, {"a": True, "b": (1, 2)}, {"b": [1, 2]}, {"c": 5}]
    known = comparing.ByConfiguration((config, index) for index, config in enumerate(configs))
    for sought in (*configs, {}, {"a": 2}, {"a": 1, "b": [1, 2], "c": None}):
        agreeing = [i for i, config in enumerate(configs) if not comparing.differing_keys(config, sought, ())]
        assert sorted(known.agreeing(sought)) == agreeing


@pytest.mark.parametrize(
    "one", [None, True, 1, 1.0, 0.5, math.nan, math.inf, "NaN", "1", [1], (1.0,), {"a": 1}, {"a": True}]
)
@pytest.mark.parametrize(
    "other", [None, False, 1, 1.0, 0.5, math.nan, "Infinity", "NaN", "1", (1,), [True], {"a": 1.0}]
)
def test_what_is_seen_to_be_equal_at_a_glance_is_what_canonical_values_say(one: object, other: object) -> None:
    assert comparing.same_value(one, other) == (comparing.canonical(one) == comparing.canonical(other))
    alike = comparing.alike([{"key": one}, {"key": other}], ())
    assert (alike == [0, 0]) == comparing.same_value(one, other)
