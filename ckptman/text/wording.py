"""Numbers and foreign strings as people read them: on a terminal and in the generated documents."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import PurePosixPath


def one_line(text: object) -> str:
    """`text` on one line, with control and unseen characters, bidirectional marks and undecodable bytes spelled out.

    A file name can hold anything; written as it is, it could move the cursor, reorder a line, forge one, or look like
    another name.
    """
    return "".join(_spelled(char) if _is_unsafe(char) else char for char in str(text))


def shell_word(text: object) -> str:
    """A path or another text to paste into a shell: what is not shown as it is, is spelled as bash and zsh read it."""
    word = str(text)
    if one_line(word) == word:
        return shlex.quote(word)
    spelled = {"'": "\\'", "\\": "\\\\"}
    return "$'" + "".join(_octal(char) if _is_unsafe(char) else spelled.get(char, char) for char in word) + "'"


def shell_command(words: Iterable[str]) -> str:
    """A command line to paste into a shell."""
    return " ".join(map(shell_word, words))


def size_text(count: int) -> str:
    """Bytes for people, in decimal units: `1.05 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}" if value < 9.995 else f"{value:.1f} {unit}"


def value_text(value: object) -> str:
    """A configuration value as tables and figures write it."""
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def lowered(title: str) -> str:
    """A title within a sentence: `with LayerNorm`; `MLP on`, `L1` and `K = 2–8` as they are."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def percent(value: float, *, digits: int = 1) -> str:
    """A share for people: `97.5 %`. Only what is all of it is 100 %."""
    for places in range(digits, 4):
        shown = f"{100 * value:.{places}f}"
        if float(shown) < 100 or value >= 1:
            return f"{shown} %"
    return "> 99.999 %"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, with the known words that contain `word`, or else the most similar one; or nothing."""
    by_length = sorted(known, key=lambda name: (len(name), name))
    within = [name for name in by_length if word.lower() in name.lower()] if len(word) > 2 else []
    near = within[:3] or get_close_matches(word, by_length, n=1, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


_NUMBERS = re.compile(r"([0-9]+)")


def natural_key(text: object) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts names as people do: `k4`, `k8`, `k16`. Different names have different keys."""
    return _natural_key(str(text))


@lru_cache(maxsize=1024)
def _natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Runs of a tree have the same names in their folders."""
    pieces: list[tuple[int, int | str]] = [(1, piece) for piece in _NUMBERS.split(name)]
    pieces[1::2] = [(0, int(piece)) for _, piece in pieces[1::2]]
    return (*pieces, (2, name))  # `k04` and `k4` are one number, but not one name


def path_key(path: PurePosixPath) -> tuple[tuple[tuple[int, int | str], ...], ...]:
    """A key that sorts paths folder by folder, each name as `natural_key` does."""
    return tuple(map(natural_key, path.parts))


_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
"""Letters and marks that take no room, or are blank."""


def _is_unsafe(char: str) -> bool:
    """Whether a character is not seen as what it is; a space other than the usual one passes for that."""
    kind = unicodedata.category(char)
    return kind in ("Cc", "Cf", "Cs", "Zl", "Zp") or (kind == "Zs" and char != " ") or bool(_UNSEEN.match(char))


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _octal(char: str) -> str:
    of_bytes = 0xDC80 <= ord(char) <= 0xDCFF  # a byte of a file name that is not UTF-8
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape" if of_bytes else "surrogatepass"))


def _spelled(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or _escape(code)
