"""Markdown that stays what it is, whatever the names in it hold: judged by a Markdown parser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ckptman.text import markdown
from ckptman.text.wording import one_line

HOSTILE = [
    "a|b", "`x`", "``", "a`|`b", "<script>alert(1)</script>", "<!-- ckptman:end best -->", "**bold**", "_em_", "a_b_c",
    "[x](http://e.org)", "![i](j)", "&lt;", "&amp", "a\nb", "\x1b[31mred", "# no heading", "- no list", "~~s~~", "\\",
    "\\|", "trailing\\", " lead", "é 中文", "\udc80", "http://e.org", "$x$", "a * b", "1. no list", "x_", "__init__",
]  # fmt: skip

names = st.sampled_from(HOSTILE) | st.text(alphabet=st.sampled_from("ab_*`|<>&;[]()#~!\\ \n\"'é-1."), max_size=12)


def parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def cells(document: str) -> list[list[str]]:
    """The text of each cell of each row of the one table in a document, as a reader sees it."""
    tokens = parser().parse(document)
    assert [t.type for t in tokens if t.level == 0] == ["table_open", "table_close"]
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(seen(token.children or []))
    return rows


def seen(tokens: Sequence[Token]) -> str:
    """The text of inline tokens; any markup in it is an error."""
    shown = ""
    inside_code = ("html_inline", "<code>"), ("html_inline", "</code>")
    for token in tokens:
        kind, content = token.type, token.content
        assert kind in ("text", "code_inline", "text_special") or (kind, content) in inside_code, (kind, content)
        shown += "" if kind == "html_inline" else content
    return shown


@settings(deadline=None)
@given(names, names)
def test_a_name_in_a_table_is_shown_letter_for_letter(one: str, other: str) -> None:
    document = markdown.table(["Name", "Code"], [[markdown.text(one), markdown.code(other)], ["x", "y"]])
    _, first, second = cells(document)
    assert first[0] == one_line(one).strip()
    assert first[1].strip() == one_line(other).strip()
    assert second == ["x", "y"]


def test_the_table_check_can_fail() -> None:
    with pytest.raises(AssertionError):
        assert cells("| a |\n| --- |\n| a|b |")[1] == ["a|b"]
    with pytest.raises(AssertionError):
        cells("| a |\n| --- |\n| **b** |")


@pytest.mark.parametrize("name", ["len_gen_k8", "L2, MLP off, mix", "W&B", "K = 2–8", "a.b-c/d"])
def test_usual_names_are_not_escaped(name: str) -> None:
    assert markdown.text(name) == name
    assert markdown.code(name) == f"`{name}`"


@settings(deadline=None)
@given(names)
def test_a_code_block_holds_its_text(body: str) -> None:
    body = one_line(body).rstrip() + "\n````\n" + one_line(body).rstrip()
    (token,) = parser().parse(markdown.fenced("", body))
    assert (token.type, token.content) == ("fence", body.rstrip() + "\n")


@pytest.mark.parametrize("name", ["len_gen_k8", "a b", "a(b)", "ü", "a%20b", "a?b#c", "<x>"])
def test_a_link_leads_to_the_path(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    token = parser().parse(markdown.link(markdown.code(name), PurePosixPath(name), folder=True))[1]
    assert token.children is not None
    href = str(token.children[0].attrs["href"])
    assert (tmp_path / unquote(href)).is_dir()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["word", "a", "-", "1.", "#", "=", "`code span`", "–", "K", "= 2–8"]), max_size=60))
def test_a_paragraph_stays_one_paragraph(words: list[str]) -> None:
    whole = " ".join(["Begin", *words])
    wrapped = markdown.paragraph(whole)
    assert wrapped.replace("\n", " ") == whole
    assert [t.type for t in parser().parse(wrapped)] == ["paragraph_open", "inline", "paragraph_close"]


def test_no_line_of_a_paragraph_ends_in_a_code_span() -> None:
    for start in range(80, 111):
        lines = markdown.paragraph("x" * start, "`ckptman report --root .`", "and more.").splitlines()
        assert sum("`ckptman report --root .`" in line for line in lines) == 1


def test_a_table_lines_up() -> None:
    lines = markdown.table(["", "Runs"], [["⭐", "1"], ["long name", "1,000"]], right=[1]).splitlines()
    assert lines == [
        "|           |  Runs |",
        "| --------- | ----: |",
        "| ⭐        |     1 |",
        "| long name | 1,000 |",
    ]
