"""Interpolations: what they stand for, what stays, and that they make nothing grow."""

from __future__ import annotations

from typing import Any

import pytest

from ckptman.text.interpolation import interpolated


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${seed}", 5),
        ("${model.width}", 8),
        ("${model.sizes.1}", 20),
        ("${model}", {"width": 8, "sizes": [10, 20], "same": 8}),
        ("out/${name}_${seed}", "out/run_5"),
        ("${.near}", "here"),
        ("${..seed}", 5),
        ("${..model.width}", 8),
        ("${through}", 5),
        ("${oc.env:HOME}", "${oc.env:HOME}"),
        ("${nowhere}/x", "${nowhere}/x"),
        ("${...seed}", "${...seed}"),
        ("${missing}", "${missing}"),
        ("x${model}", "x${model}"),
        ("$5", "$5"),
    ],
)
def test_a_reference_stands_for_what_it_names(text: str, expected: object) -> None:
    config: dict[str, Any] = {
        "seed": 5, "name": "run", "through": "${seed}", "missing": "???",
        "model": {"width": 8, "sizes": [10, 20], "same": "${.width}"}, "data": {"near": "here", "it": text},
    }  # fmt: skip
    assert interpolated(config)["data"]["it"] == expected


def test_what_is_missing_is_left_out() -> None:
    assert interpolated({"a": "???", "b": {"c": "???", "d": 1}, "e": ["???"]}) == {"b": {"d": 1}, "e": ["???"]}


def test_a_circle_ends() -> None:
    assert interpolated({"a": "${b}", "b": "${a}"}) == {"a": "${b}", "b": "${a}"}
    assert "${a}" in interpolated({"a": "x${a}"})["a"]


@pytest.mark.parametrize("grow", ["text", "lists"])
def test_what_would_grow_without_end_stays_as_it_is(grow: str) -> None:
    config: dict[str, Any] = {"a0": ["x" * 1000] * 100 if grow == "lists" else "x" * 60_000}
    for step in range(1, 8):
        config[f"a{step}"] = [f"${{a{step - 1}}}"] * 100 if grow == "lists" else f"${{a{step - 1}}}" * 20
    assert interpolated(config) == config
    assert interpolated({"a0": config["a0"], "b": "${a0}"})["b"] == config["a0"]
