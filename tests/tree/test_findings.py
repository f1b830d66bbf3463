"""The table of findings: complete, well spelled, and chosen from by name."""

from __future__ import annotations

import re

import pytest

from ckptman.text.errors import UsageError
from ckptman.tree.findings import (
    ALL,
    DEFAULT,
    KINDS,
    Finding,
    FindingKind,
    Severity,
    chosen_codes,
    finding,
    matching_codes,
)

BY_DEFAULT = {kind.code for kind in KINDS.values() if kind.default}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.code)
def test_each_code_is_explained(kind: FindingKind) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert "\n" not in kind.meaning
    for text in (kind.meaning, kind.cause, kind.fix):
        assert text[0].isupper() or text.startswith(("ckptman ", "run.json "))
        assert text.endswith((".", ").")) or "ckptman " in text or "--" in text


def test_no_code_is_the_beginning_of_another() -> None:
    # Else a code would stand for itself in one place, and for several in another.
    assert [(one, other) for one in KINDS for other in KINDS if one != other and other.startswith(one)] == []


def test_all_but_absent_groups_are_on_by_default() -> None:
    assert set(KINDS) - BY_DEFAULT == {"missing-group"}
    assert chosen_codes() == BY_DEFAULT


def test_codes_are_chosen() -> None:
    assert chosen_codes(["missing-group"]) == {"missing-group"}
    assert chosen_codes([ALL]) == set(KINDS)
    assert chosen_codes([DEFAULT, "missing-group"]) == set(KINDS)
    assert chosen_codes(ignore=["stray"]) == BY_DEFAULT - {"stray-file", "stray-folder"}
    assert chosen_codes(["stray"], ["stray-file"]) == {"stray-folder"}
    assert chosen_codes([DEFAULT], [ALL]) == frozenset()


def test_one_code_may_be_given_as_it_is() -> None:
    assert chosen_codes("missing-seed") == {"missing-seed"}


def test_a_code_stands_for_itself_and_a_beginning_for_all() -> None:
    assert matching_codes("missing-file") == ("missing-file",)
    assert set(matching_codes("missing")) == {code for code in KINDS if code.startswith("missing-")}
    assert matching_codes("") == ()
    assert matching_codes("nothing-such") == ()


@pytest.mark.parametrize("chosen", [{"select": ["mising-seed"]}, {"ignore": ["mising-seed"]}])
def test_an_unknown_code_names_the_nearest(chosen: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match="did you mean 'missing-seed'") as caught:
        chosen_codes(**chosen)
    assert caught.value.code == "unknown-code"


def test_a_finding_has_the_tables_fix_and_severity() -> None:
    plain = finding("stray-file", "notes.txt", "x")
    assert plain == Finding("stray-file", "notes.txt", "x", KINDS["stray-file"].fix)
    assert plain.severity is Severity.WARNING
    assert finding("missing-seed", "a", "x", "y").to_json() == {
        "code": "missing-seed", "severity": "error", "path": "a", "message": "x", "fix": "y",
    }  # fmt: skip


def test_a_code_outside_of_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        finding("no-such", ".", "x")
