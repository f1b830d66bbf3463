"""File names: format(parse(name)) == name, and what a foreign name is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptman.rules.convention_file import built_in
from ckptman.rules.naming import naming_of
from ckptman.text.errors import RefusedError

CONVENTION = built_in()
NAMING = naming_of(CONVENTION)
SEED_NAME = "Final_N128_d128_H1_L1_npos1_mlp0_ln1_lenmix_trainK4to4_testK17to32_nodup1_iters40000.pt"

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(0, 10**9),
    "bool": st.booleans(),
    "list": st.lists(st.integers(0, 999), min_size=1, max_size=4),
}


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for field in CONVENTION.fields:
        if field.optional and draw(st.booleans()):
            continue
        for key in field.config:
            kind = "int" if field.type == "range" else field.type
            config[key] = draw(st.sampled_from(field.values) if field.values else _VALUES[kind])
    return config


@given(configurations(), st.sampled_from(CONVENTION.prefixes), st.integers(0, 10**9))
def test_a_name_comes_back_the_same(config: dict[str, Any], prefix: Any, step: int) -> None:
    name = NAMING.name_for(config, prefix, step)
    parsed = NAMING.parse(name)
    assert (parsed.values, parsed.prefix, parsed.step) == (config, prefix, step)
    assert NAMING.format(parsed) == name
    assert NAMING.disagreements(parsed, config) == ()


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=120))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        assert NAMING.format(NAMING.parse(text)) == text
    except RefusedError as error:
        assert error.code == "unknown-name"  # noqa: PT017


def test_the_documented_name_says_what_the_document_says() -> None:
    parsed = NAMING.parse(SEED_NAME)
    assert parsed.kind == "Final"
    assert parsed.step == 40000
    assert parsed.values["n_layers"] == 1
    assert parsed.values["use_mlp"] is False
    assert parsed.values["allow_duplicates"] is False  # nodup1 says that there are none
    assert (parsed.values["train_min_k"], parsed.values["train_max_k"]) == (4, 4)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (SEED_NAME.replace("mlp0", "mlp2"), "stands where _mlp{0|1} should"),
        (SEED_NAME.replace("_npos1", ""), "stands where _npos{0|1} should"),
        (SEED_NAME.replace("Final", "Last"), "should begin with Checkpoint or Final"),
        (SEED_NAME.replace(".pt", ".ckpt"), "does not end in .pt"),
        (SEED_NAME.replace("iters40000", "iters040000"), "_iters{step}.pt should"),
        (SEED_NAME.replace("_iters40000", ""), "_iters{step}.pt should"),
        (SEED_NAME + "\n", "does not end in .pt"),
        (SEED_NAME.replace("N128", "N١٢٨"), "stands where _N{int} should"),
        ("", "does not end in .pt"),
    ],
)
def test_a_foreign_name_is_told_where_it_goes_wrong(name: str, told: str) -> None:
    with pytest.raises(RefusedError) as error:
        NAMING.parse(name)
    assert told in error.value.message


def test_a_disagreement_names_the_field() -> None:
    parsed = NAMING.parse(SEED_NAME)
    config = dict(parsed.values)
    assert NAMING.disagreements(parsed, config) == ()
    [found] = NAMING.disagreements(parsed, {**config, "n_layers": 2})
    assert (found.tag, found.in_name, found.in_config) == ("L", 1, 2)
    [found] = NAMING.disagreements(parsed, {**config, "use_mlp": 1})
    assert found.key == "use_mlp"


def test_other_spellings_of_a_value_are_no_disagreement() -> None:
    parsed = NAMING.parse(SEED_NAME)
    assert parsed.prefix is not None
    assert parsed.step is not None
    config = {**parsed.values, "use_mlp": 0, "n_layers": 1.0}
    assert NAMING.disagreements(parsed, config) == ()
    assert NAMING.name_for(config, parsed.prefix, parsed.step) == SEED_NAME
    with pytest.raises(RefusedError):
        NAMING.name_for({**config, "n_layers": 1.5}, parsed.prefix, parsed.step)


@pytest.mark.parametrize(
    ("key", "value"), [("n_layers", "one"), ("use_mlp", 2), ("length_mode", "random"), ("train_min_k", -1)]
)
def test_a_value_that_no_name_can_hold_is_refused(key: str, value: Any) -> None:
    config = dict(NAMING.parse(SEED_NAME).values)
    assert NAMING.name_for(config, CONVENTION.prefixes[1], 40000) == SEED_NAME
    with pytest.raises(RefusedError, match=key):
        NAMING.name_for({**config, key: value}, CONVENTION.prefixes[1], 40000)
