"""The language of `--where`: what it says, what it refuses, and that nothing in it is ever run."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptman.queries.conditions import MAX_DEPTH, MAX_LENGTH, equal, parse_where
from ckptman.text.errors import UsageError
from ckptman.text.wording import did_you_mean

ROW: dict[str, Any] = {
    "n_layers": 1,
    "use_mlp": False,
    "length_mode": "mix",
    "seed": 1337,
    "gen_em": 0.975,
    "learning_rate": 1e-4,
    "run_id": "12e45678",
    "gen/K17/exact_match_acc": 0.99,
    "wandb_entity": None,
    "loss": "Infinity",
    "broken": "NaN",
    "lost": math.nan,
    "a key": "two words",
    "choices": [25, 50],
}


def holds(text: str) -> bool:
    return parse_where(text).matches(ROW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_layers == 1", True),
        ("n_layers == 2", False),
        ("n_layers != 2", True),
        ("n_layers != 1", False),
        ("gen_em >= 0.975", True),
        ("gen_em >= 0.976", False),
        ("gen_em > 0.975", False),
        ("gen_em > 0.974", True),
        ("gen_em <= 0.975", True),
        ("gen_em <= 0.974", False),
        ("gen_em < 0.976", True),
        ("gen_em < 0.975", False),
        ("gen_em>=97.5%", True),
        ("gen_em>97.5%", False),
        ("gen_em >= .9", True),
        ("learning_rate == 1e-4", True),
        ("learning_rate == 0.0001", True),
        ("learning_rate == 1e-3", False),
        ("learning_rate > -1", True),
        ("gen/K17/exact_match_acc > 0.9", True),
        ("gen/K17/exact_match_acc > 0.999", False),
        ("use_mlp == false", True),
        ("use_mlp == off", True),
        ("use_mlp == 0", True),
        ("use_mlp != true", True),
        ("use_mlp == true", False),
        ("use_mlp", False),
        ("not use_mlp", True),
        ("length_mode == mix", True),
        ("length_mode == 'mix'", True),
        ('length_mode == "mix"', True),
        ("length_mode == curriculum", False),
        ("length_mode < 'n'", True),
        ("length_mode > 'n'", False),
        ("run_id == 12e45678", True),
        ("run_id != 12e45678", False),
        ("'a key' == 'two words'", True),
        ("'a key' == two", False),
        ("loss > 1000", True),
        ("loss < 1000", False),
        # precedence: not before and, and before or
        ("n_layers == 1 or n_layers == 2 and seed == 0", True),
        ("(n_layers == 1 or n_layers == 2) and seed == 0", False),
        ("not n_layers == 2 and seed == 1337", True),
        ("not (n_layers == 1 and seed == 1337)", False),
        ("not not n_layers == 1", True),
        ("NOT n_layers == 2 AND seed == 1337", True),
        ("n_layers==1 and(seed==1337)", True),
        # what is missing
        ("wandb_entity is missing", True),
        ("wandb_entity is not missing", False),
        ("absent is missing", True),
        ("broken is missing", True),
        ("gen_em is missing", False),
        ("gen_em is not missing", True),
    ],
)  # fmt: skip
def test_truth(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize("key", ["absent", "wandb_entity", "broken", "lost", "choices"])
@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">="])
def test_a_missing_value_fulfils_neither_a_comparison_nor_its_contrary(key: str, sign: str) -> None:
    for value in ("0.5", "mix", "true"):
        assert not holds(f"{key} {sign} {value}")
        assert not holds(f"not {key} {sign} {value}")
    # the same on a value that is there: one of the two holds
    assert holds(f"gen_em {sign} 0.5") != holds(f"not gen_em {sign} 0.5")


@pytest.mark.parametrize(("word", "one", "other"), [*itertools.product(("and", "or"), "TFU", "TFU")])
def test_and_and_or_with_unknown_operands(word: str, one: str, other: str) -> None:
    terms = {"T": "n_layers == 1", "F": "n_layers == 2", "U": "absent == 1"}
    expected = "T" in one + other if word == "or" else one + other == "TT"
    assert holds(f"{terms[one]} {word} {terms[other]}") is expected
    refuted = "F" in one + other if word == "and" else one + other == "FF"
    assert holds(f"not ({terms[one]} {word} {terms[other]})") is refuted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the end stands where a key should"),
        ("gen_em >=", "the end stands where a value after >= should"),
        ("gen_em >= >= 3", "'>=' stands where a value after >= should"),
        ("gen_em 3", "'3' stands where 'and', 'or' or the end should"),
        ("gen_em == 1 and", "the end stands where a key should"),
        ("and gen_em == 1", "'and' stands where a key should"),
        ("gen_em == or", "'or' stands where a value after == should"),
        ("(gen_em == 1", "the end stands where ')' should"),
        ("gen_em == 1)", "')' stands where 'and', 'or' or the end should"),
        ("gen_em = 1", "write =="),
        ("! gen_em", "write 'not'"),
        ("gen_em == 'x", "has no second one"),
        ("0.95 <= gen_em", "write the key first"),
        ("0.5 < gen_em < 0.9", "write the key first"),
        ("gen_em < 0.9 < 1", "'<' stands where 'and', 'or' or the end should"),
        ("n_layers==1and seed==1337", "'seed' stands where 'and', 'or' or the end should"),  # `1and` is one word
        ("gen_em is 3", "'3' stands where 'missing' should"),
        ("x == 1 " + "and x == 1 " * 1000, "at most 4,000 characters"),
        ("(" * (MAX_DEPTH + 1) + "x == 1" + ")" * (MAX_DEPTH + 1), "at most 50 levels deep"),
        ("not " * (MAX_DEPTH + 1) + "x == 1", "at most 50 levels deep"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_by_what_stands_where(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_where(text)
    assert said in caught.value.message
    assert caught.value.code == "bad-where"
    assert caught.value.exit_status == 2


def test_the_limits_are_reached() -> None:
    assert parse_where("(" * MAX_DEPTH + "x == 1" + ")" * MAX_DEPTH).matches({"x": 1})
    chain = " and ".join(["x == 1"] * 300)
    assert len(chain) < MAX_LENGTH
    assert parse_where(chain).matches({"x": 1})


@pytest.mark.parametrize(
    "text", ["__import__('os').system('false')", "gen_em.__class__ == 1", "f(x) == 1", "x == [1]", "lambda: 0", "1 + 1"]
)
def test_python_is_never_run(text: str) -> None:
    """Each is either no condition, or asks for a key of a strange name that no row has."""
    try:
        condition = parse_where(text)
    except UsageError:
        return
    with pytest.raises(UsageError):
        condition.check([ROW], ())


@given(st.text(alphabet="abK17/_ ()=!<>'\"09.%notrsm", max_size=60))
def test_any_text_is_a_condition_or_is_refused(text: str) -> None:
    try:
        condition = parse_where(text)
    except UsageError:
        return
    assert condition.matches(ROW) in (True, False)
    assert condition.keys


@given(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_compare_as_python_compares_them(whole: int, number: float) -> None:
    for value, other in ((whole, number), (number, whole)):
        row = {"x": value}
        assert parse_where(f"x < {other!r}").matches(row) is (value < other)
        assert equal("x", value).matches(row)


def test_keys_are_told_once_in_their_order() -> None:
    assert parse_where("b == 1 and (a > 2 or not b == 3) and c is missing").keys == ("b", "a", "c")


def test_equal_compares_with_the_type() -> None:
    assert equal("use_mlp", False).matches(ROW)
    assert not equal("use_mlp", 0).matches(ROW)
    assert equal("seed", 2337, 1337).matches(ROW)
    assert not equal("seed", 2337, 3337).matches(ROW)
    assert not equal("run_id", 12).matches(ROW)
    assert equal("length_mode", "mix").text == "length_mode == mix"
    assert equal("seed", 1, 2).text == "seed == 1 or 2"
    assert equal("use_mlp", False).text == "use_mlp == false"


def test_an_unknown_key_is_refused_naming_near_ones() -> None:
    with pytest.raises(UsageError, match="unknown key 'layers'; did you mean 'n_layers'") as caught:
        parse_where("layers == 1").check([ROW], ())
    assert caught.value.code == "unknown-key"
    parse_where("n_layers == 1").check([ROW], ())  # the control: in a row
    parse_where("layers == 1").check([ROW], ["layers"])  # known, though no row has it
    with pytest.raises(UsageError, match=r"unknown key 'zzz'$"):
        parse_where("zzz is missing").check([ROW], ())


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("mode", ["wandb_mode", "length_mode"]),
        ("gen_emm", ["gen_em"]),
        ("N_LAYERS", ["n_layers"]),
        ("gen/K17/exact_match", ["gen/K17/exact_match_acc"]),
        ("qqqq", []),
    ],
)
def test_nearest(key: str, near: list[str]) -> None:
    names = ["wandb_mode", "length_mode", "gen_em", "n_layers", "gen/K17/exact_match_acc", "gen/K18/exact_match_acc"]
    said = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    assert did_you_mean(key, names) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("use_mlp > 3", "use_mlp is true or false"),
        ("use_mlp == mix", "use_mlp is true or false"),
        ("n_layers == one", "n_layers is a number"),
        ("n_layers", "n_layers is a number"),
        ("length_mode > 3", "length_mode is text"),
        ("choices == 25", "choices is a list"),
        ("n_layers == 1 or seed == x", "seed is a number"),
    ],
)
def test_a_comparison_that_can_never_hold_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_where(text).check([ROW], ())
    assert said in caught.value.message
    assert caught.value.code == "not-comparable"
    assert caught.value.fix
    parse_where(text).check([], ["use_mlp", "n_layers", "length_mode", "choices", "seed"])  # no value speaks against it


def test_one_comparable_row_is_enough() -> None:
    rows: list[dict[str, Any]] = [{"x": "text"}, {"x": 3}]
    parse_where("x > 2").check(rows, ())
    assert [parse_where("x > 2").matches(row) for row in rows] == [False, True]
