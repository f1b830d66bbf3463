"""Further ways to name files: templates with spellings, optional parts, kinds and steps anywhere; patterns."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptman.rules import convention_file
from ckptman.rules.convention_file import load_convention
from ckptman.rules.naming import Naming, naming_of
from ckptman.rules.schemes import Field, is_slow, parts_of
from ckptman.text.errors import ConfigurationError, RefusedError
from tests.helpers.schemes import LAB_NAMES, LAB_SCHEMES
from tests.helpers.timed import in_time


def naming(folder: Path, rules: str) -> Naming:
    file = folder / "ckptman.yaml"
    file.write_text(rules)
    return naming_of(load_convention(file))


@pytest.mark.parametrize("name", LAB_NAMES)
def test_each_name_of_the_lab_is_read_and_written(name: str, tmp_path: Path) -> None:
    reader, said = naming(tmp_path, LAB_SCHEMES), LAB_NAMES[name]
    parsed = reader.parse(name)
    assert (parsed.kind, parsed.step) == (said["kind"], said["step"])
    assert dict(parsed.values) == said["values"]
    if parsed.scheme is None or parsed.scheme.template:
        assert reader.format(parsed) == name
    with pytest.raises(RefusedError, match="does not follow the naming convention"):
        reader.parse(f"{name}x")


def test_the_grammar_is_tried_first_and_schemes_in_their_order(tmp_path: Path) -> None:
    reader = naming(tmp_path, LAB_SCHEMES)
    first = reader.parse("Final_N128_d128_H1_L1_npos1_mlp0_ln1_lenmix_trainK4to4_testK17to32_nodup1_iters40000.pt")
    assert first.scheme is None
    assert "sortgpt" in str(reader.patterns)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "12", 12), ("flag", "0", False), ("bool", "True", True), ("float", "1e-06", 1e-06),
        ("float", "1767672172.78", 1767672172.78), ("p", "0p01", 0.01), ("p", "3p0", 3.0), ("over", "8over1", 8.0),
        ("over", "1over4", 0.25), ("word", "mix", "mix"), ("text", "with-pos-embedding", "with-pos-embedding"),
        ("list", "25-50", [25, 50]), ("06d", "000500", 500), ("02d", "1234567", 1234567), (".2f", "0.10", 0.1),
        (".0e", "3e-04", 3e-4), (".1e", "2.5e+03", 2500.0), ("g", "1e-05", 1e-5), ("g", "128", 128.0),
        ("sci", "1e-4", 1e-4), ("sci", "2.5e-3", 0.0025), ("sci", "3e-12", 3e-12), ("gp", "0p1", 0.1), ("gp", "0", 0.0),
        ("kM", "10k", 10_000), ("kM", "1.5M", 1_500_000), ("kM", "500", 500), ("k", "1500k", 1_500_000),
        ("K", "2.5K", 2500), ("float", "-0.5", -0.5), ("time", "2024-05-01_12-30-05", "2024-05-01_12-30-05"),
        ("time", "20240501-123005", "20240501-123005"),
    ],
)  # fmt: skip
def test_a_spelling_has_a_way_back(kind: str, text: str, value: Any) -> None:
    field = Field(name="x", type=kind, config="x")
    assert field.parse(text) == value
    assert field.format(value) == text


def test_words_stand_beside_a_type_for_what_it_does_not_write_so() -> None:
    field = Field("x", "float", "x", words={"1e-3": 0.001})
    for text, value in (("1e-3", 0.001), ("0.01", 0.01)):
        assert re.fullmatch(field.regex, text)
        assert (field.parse(text), field.format(value)) == (value, text)
    only = Field("x", "text", "x", words={"a": 1})
    assert not re.fullmatch(only.regex, "b")
    assert only.format(2) is None


def test_keys_in_sections_are_named_by_their_path() -> None:
    rules = convention_file.convention_of(
        "replaces: [name]\nname: {prefixes: {Final: {final: true, step: train.steps}}}\n"
        'names: {m: {template: "m_{lr:sci}_{step:06d}.pt", fields: {lr: {config: optim.lr}},'
        " examples: [m_1e-4_000500.pt]}}\n",
        "it",
    )
    config = {"optim": {"lr": 1e-4}, "train": {"steps": 500}}
    names = naming_of(rules)
    said = names.parse("m_1e-4_000500.pt")
    assert names.name_for(config, rules.prefixes[0], 500) == "m_1e-4_000500.pt"
    assert names.disagreements(said, config) == ()
    assert [str(item.in_config) for item in names.disagreements(said, {"optim": {"lr": 0.5}})] == ["0.5"]
    assert said.completed(None, config, rules).is_final


@given(st.integers(1, 10**6), st.integers(1, 200), st.floats(0, 100).map(lambda x: round(x, 4)))
def test_numbers_come_back(whole: int, below: int, real: float) -> None:
    assert Field("x", "int", "x").parse(str(whole)) == whole
    p = Field("x", "p", "x").format(real)
    assert p is not None
    assert Field("x", "p", "x").parse(p) == real
    over = Field("x", "over", "x").format(whole % 500 / below)
    assert over is not None
    assert abs(Field("x", "over", "x").parse(over) - whole % 500 / below) < 1e-6


@pytest.mark.parametrize("value", ["mix", None, [1], True, 1.5])
def test_a_value_of_another_type_is_not_written(value: Any) -> None:
    assert Field("x", "int", "x").format(value) is None
    assert Field("x", "int", "x").format(3) == "3"


def test_parts_in_brackets_may_be_left_out() -> None:
    assert parts_of("a{x}[_p{p}]_b") == [(False, "a{x}"), (True, "_p{p}"), (False, "_b")]
    for wrong in ("a[b", "a]b", "a[b[c]]", "{x", "{}", "a}b", "{x:}"):
        with pytest.raises(ValueError, match=r"pair|no hole"):
            parts_of(wrong)


def test_a_bracket_of_the_name_itself_stands_in_braces() -> None:
    assert parts_of("a{[}{x}{]}[{[}p{p}{]}]") == [(False, "a[{x}]"), (True, "[p{p}]")]
    rules = convention_file.convention_of(
        SCHEME % ("m{[}lr={lr:float}{]}[{[}p={p}{]}].pt", '"m[lr=0.1][p=3].pt", "m[lr=0.1].pt"'), "it"
    )
    (scheme,) = rules.schemes
    for name, values in (("m[lr=0.1][p=3].pt", {"lr": 0.1, "p": 3}), ("m[lr=0.5].pt", {"lr": 0.5})):
        parsed = scheme.parse(name)
        assert parsed is not None
        assert parsed.values == values
        assert scheme.format(values, None, None) == name
    assert scheme.parse("mlr=0.1.pt") is None


SCHEME = 'names: {mine: {template: "%s", examples: [%s]}}\n'


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("names: {mine: {examples: [x.pt]}}\n", "a template or a pattern"),
        (SCHEME % ("m_{lr:flaot}.pt", "m_1.pt"), "did you mean 'float'"),
        (SCHEME % ("m_{lr:p}.pt", "m_1.pt"), "does not follow"),
        (SCHEME % ("m_{lr:04x}.pt", "m_1.pt"), "there is no type '04x'"),
        (SCHEME % ("m_{step:word}.pt", "m_1.pt"), "a step is a number"),
        (SCHEME % ("m_{lr:float}.pt", "m_0.10.pt"), "comes back as 'm_0.1.pt'"),
        (SCHEME % ("m_{lr}_{lr}.pt", "m_1_1.pt"), "stands there twice"),
        (SCHEME % ("m_[{lr}.pt", "m_1.pt"), "brackets do not pair"),
        ('names: {mine: {template: "m_{lr}.pt", fields: {lt: {type: p}}, examples: [m_1.pt]}}\n', "did you mean 'lr'"),
        ('names: {mine: {template: "m_{kind}.pt", kinds: {end: Finale}, examples: [m_end.pt]}}\n', "mean 'Final'"),
        ('names: {mine: {template: "m_{kind}.pt", kind: Final, examples: [m_Final.pt]}}\n', "says the kind already"),
        ('names: {mine: {pattern: "(?P<a>(x+)+)", examples: [x]}}\n', "may take forever"),
        ('names: {mine: {pattern: "(?P<a>x", examples: [x]}}\n', "names.mine.pattern"),
        (SCHEME % ("{a:text}-{b:text}-{c:text}-{d:text}.pt", "a-b-c-d.pt"), "more than 3 fields of any text"),
        (
            'names: {a: {template: "m_{x:text}.pt", examples: [m_1.pt]},'
            ' b: {template: "m_{lr}.pt", examples: [m_2.pt]}}\n',
            "is taken for a name by a",
        ),
    ],
)
def test_what_is_wrong_is_named(rules: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        naming(tmp_path, rules)
    assert told in caught.value.message


def test_a_pattern_of_repeated_repetitions_is_slow_and_others_are_not() -> None:
    assert is_slow("(a+)+")
    assert is_slow("(x|x)*y")
    assert is_slow("(x|xx)+y")
    assert is_slow("(?:x|x?)*")
    assert is_slow("(?:(?:x+)y?)+")
    assert is_slow("(?:a*b)*")
    assert not is_slow(r"(?P<date>[0-9]{4}-[0-9]+)_(?P<rest>[^/]+)\.pt")


SLOW = [
    "a*a*a*a*b", ".*.*.*.*x", r"\w*\w*\w*\w*x", "a{1,200}a{1,200}a{1,200}a{1,200}b", r"(\w+)_(\w+)_(\w+)_(\w+)!",
    "(?P<x>a+)(?P<y>a+)(?P<z>a+)(?P<w>a+)b", "a+(?:b|a*)a+(?:-)?a+x", "[^-]*[^_]*[^.]*[^a]*-", "a*b*a*b*a*b*a*b*c",
]  # fmt: skip
QUICK = [
    "a*a*a*b", r"(\d+)_(\d+)_(\d+)_(\d+)_(\d+)x", "[a-z]+-[a-z]+-[a-z]+-[a-z]+-[a-z]+!",
    r"(?:x(\d+))?_y(\d+)_z(\d+)_(\d+)", r"[^_]+_[^_]+_[^_]+_[^_]+_[^_]+!", "(?:a|b)(?:c|d)[0-9a-f]{8}-.+",
]  # fmt: skip


@pytest.mark.parametrize("pattern", [*SLOW, *QUICK])
def test_repetitions_in_a_row_that_share_their_text_are_slow(pattern: str) -> None:
    assert is_slow(pattern) == (pattern in SLOW)
    if pattern in QUICK:
        names = [letter * 254 + "?" for letter in "aA1_-x"] + ["a_" * 127, "1_" * 127, "a-" * 127, "ab" * 127]
        for name in names:
            in_time(functools.partial(re.fullmatch, pattern, name), 0.5)


def test_a_name_without_an_end_is_of_no_scheme(tmp_path: Path) -> None:
    reader = naming(tmp_path, SCHEME % ("m_{x:text}.pt", "m_1.pt"))
    assert reader.parse(f"m_{'a' * 200}.pt").values["x"] == "a" * 200
    with pytest.raises(RefusedError):
        reader.parse(f"m_{'a' * 300}.pt")
