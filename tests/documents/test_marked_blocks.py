"""Marked blocks: what stands between the markers changes, and not one byte of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptman.documents.marked_blocks import append_blocks, decode, empty_block, fill_blocks, find_blocks
from ckptman.text.errors import RefusedError

CONTENTS = {"one": "first\n\n| a |\n| - |", "two": "second"}
DOC = "README.md"

BEGIN_ONE, END_ONE = "<!-- ckptman:begin one -->", "<!-- ckptman:end one -->"
BEGIN_TWO, END_TWO = "<!-- ckptman:begin two -->", "<!-- ckptman:end two -->"


def refusal(text: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        fill_blocks(text, CONTENTS, DOC)
    return caught.value


# --- filling ----------------------------------------------------------------------------------------------------------


def test_a_block_is_filled() -> None:
    assert fill_blocks(f"# T\n{BEGIN_ONE}\nold\n{END_ONE}\nrest", CONTENTS, DOC) == (
        f"# T\n{BEGIN_ONE}\n\nfirst\n\n| a |\n| - |\n\n{END_ONE}\nrest"
    )


def test_blocks_are_told_with_their_places() -> None:
    text = f"a\n\n{BEGIN_TWO}\nx\n{END_TWO}\n{BEGIN_ONE}\n{END_ONE}"
    assert [(b.name, b.line, text[b.start : b.end]) for b in find_blocks(text, DOC, CONTENTS)] == [
        ("two", 3, "x\n"),
        ("one", 6, ""),
    ]


@pytest.mark.parametrize("marker", ["<!--ckptman:begin one-->", "   <!-- ckptman:begin   one -->  ", BEGIN_ONE])
def test_markers_may_be_spaced(marker: str) -> None:
    assert "first" in fill_blocks(f"{marker}\n{END_ONE}\n", CONTENTS, DOC)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_content_has_the_line_endings_of_its_place(newline: str) -> None:
    filled = fill_blocks(newline.join(["a", BEGIN_TWO, "old", END_TWO, "b"]), CONTENTS, DOC)
    assert filled == newline.join(["a", BEGIN_TWO, "", "second", "", END_TWO, "b"])


def test_each_block_keeps_its_own_line_endings() -> None:
    text = f"{BEGIN_ONE}\r\n{END_ONE}\r\n{BEGIN_TWO}\n{END_TWO}"
    assert fill_blocks(text, CONTENTS, DOC) == (
        f"{BEGIN_ONE}\r\n\r\nfirst\r\n\r\n| a |\r\n| - |\r\n\r\n{END_ONE}\r\n{BEGIN_TWO}\n\nsecond\n\n{END_TWO}"
    )


def test_a_byte_order_mark_stays() -> None:
    text = decode(b"\xef\xbb\xbf" + f"{BEGIN_TWO}\n{END_TWO}\n".encode(), DOC)
    assert fill_blocks(text, CONTENTS, DOC).encode() == (
        b"\xef\xbb\xbf" + f"{BEGIN_TWO}\n\nsecond\n\n{END_TWO}\n".encode()
    )


# Text that a person might write between and around blocks. A fence that never closes hides what follows, so it is left
# out here; `test_a_fence_that_never_ends…` is about it.
free_text = st.lists(
    st.sampled_from(
        ["text", "", "# T", "| a | b |", "  indented", f"prose about `{BEGIN_ONE}`", "```\n" + BEGIN_TWO + "\n```",
         "~~~~\n```\n~~~~", "<!-- a comment -->", "é \u2028 \x0c \x85", "-->", "<!--", "\ttab "]
    ),
    max_size=6,
).map("\n".join)  # fmt: skip


@settings(deadline=None)
@given(free_text, free_text, free_text, free_text, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_all_outside_the_blocks_is_kept(
    before: str, old: str, between: str, after: str, newline: str, marked: bool, ends: bool
) -> None:
    parts = [before, f"{BEGIN_ONE}\n{old}\n{END_ONE}", between, f"{BEGIN_TWO}\n{END_TWO}", after]
    # Markers in the old content would end or nest its block.
    parts[1] = parts[1] if "ckptman:" not in old else f"{BEGIN_ONE}\n{END_ONE}"
    text = ("\ufeff" if marked else "") + "\n".join(parts) + ("\n" if ends else "")
    text = text.replace("\n", newline)
    once = fill_blocks(text, CONTENTS, DOC)
    assert fill_blocks(once, CONTENTS, DOC) == once
    assert outside(once) == outside(text)
    assert "".join(outside(text)).count(BEGIN_ONE) == text.count(BEGIN_ONE)
    blocks = find_blocks(once, DOC, CONTENTS)
    assert [once[b.start : b.end].replace(newline, "\n").strip() for b in blocks] == [CONTENTS[b.name] for b in blocks]


def outside(text: str) -> list[str]:
    """What stands outside the contents of the blocks."""
    places = [
        0,
        *(place for block in find_blocks(text, DOC, CONTENTS) for place in (block.start, block.end)),
        len(text),
    ]
    return [text[places[i] : places[i + 1]] for i in range(0, len(places), 2)]


def test_the_content_may_not_hold_a_marker() -> None:
    with pytest.raises(ValueError, match="marker"):
        fill_blocks(f"{BEGIN_ONE}\n{END_ONE}", {"one": END_ONE}, DOC)


# --- appending --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(free_text, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_what_is_appended_leaves_the_text_before_it(text: str, newline: str, marked: bool, ends: bool) -> None:
    text = (("\ufeff" if marked else "") + text + ("\n" if ends else "")).replace("\n", newline)
    section = f"## New\n\n{empty_block('two')}\n"
    once = append_blocks(text, section, DOC, CONTENTS)
    assert once.startswith(text)
    assert once.replace("\r\n", "\n").replace("\r", "\n").endswith(f"## New\n\n{BEGIN_TWO}\n\nsecond\n\n{END_TWO}\n")
    assert fill_blocks(once, CONTENTS, DOC) == once
    if text.strip("\ufeff"):
        assert once[len(text) :].startswith(newline if "\n" in text or "\r" in text else "\n")


def test_a_section_after_a_fence_that_never_ends_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        append_blocks("# T\n\n```python\nx = 1\n", empty_block("one"), DOC, CONTENTS)
    assert caught.value.code == "unclosed-fence"
    assert "line 3" in caught.value.message
    assert append_blocks("# T\n\n```python\nx = 1\n```\n", empty_block("one"), DOC, CONTENTS)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"a\n{BEGIN_ONE}\nb\n", ["line 2"]),
        (f"a\n{END_ONE}\nb\n", ["line 2"]),
        (f"{BEGIN_ONE}\n{BEGIN_TWO}\n{END_TWO}\n{END_ONE}\n", ["line 1", "line 2"]),
        (f"{BEGIN_ONE}\n{END_TWO}\n", ["line 1", "line 2"]),
        (f"{BEGIN_ONE}\n{END_ONE}\n\n{BEGIN_ONE}\n{END_ONE}\n", ["1 and 4"]),
        ("\n<!-- ckptman:begin three -->\n<!-- ckptman:end three -->\n", ["line 2", "one, two"]),
        ("<!-- ckptman:begin tow -->\n<!-- ckptman:end tow -->\n", ["line 1", "did you mean 'two'"]),
        ("<!-- ckptman:begin -->\n", ["line 1"]),
        (f"\r\n\r\n{BEGIN_ONE} and more\r\n", ["line 3"]),
        (f"{BEGIN_ONE} {END_ONE}\n", ["line 1"]),
        ("<!-- ckptman:start one -->\n", ["line 1"]),
        (BEGIN_ONE, ["line 1"]),
    ],
)
def test_markers_that_do_not_fit_are_refused_with_their_lines(text: str, lines: list[str]) -> None:
    error = refusal(text)
    assert error.code == "bad-markers"
    assert all(line in error.message for line in [*lines, DOC])
    assert error.fix


@pytest.mark.parametrize(
    "text", [f"```\n{BEGIN_ONE}\n```\n", f"~~~ md\n{BEGIN_ONE}\n```\n~~~\n", f"write `{BEGIN_ONE}`\n"]
)
def test_an_example_of_a_marker_is_none(text: str) -> None:
    assert fill_blocks(text, CONTENTS, DOC) == text


def test_an_indented_marker_is_asked_about() -> None:
    assert refusal(f"    {BEGIN_ONE}\n").code == "bad-markers"  # code to Markdown; it may be meant as a marker


def test_text_that_is_not_utf8_is_refused_with_its_line() -> None:
    with pytest.raises(RefusedError) as caught:
        decode(b"first\nsecond\ncaf\xe9\n", DOC)
    assert caught.value.code == "not-utf8"
    assert "line 3" in caught.value.message
    assert decode("first\nsecond\ncafé\n".encode(), DOC) == "first\nsecond\ncafé\n"
