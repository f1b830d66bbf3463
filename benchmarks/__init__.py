"""Ratios against named tools, each a program of its own: `python -m benchmarks.NAME`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parent / "README.md"


def machine() -> str:
    """What the figures were measured on, for the line below a table."""
    return f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f} at the end"


def put(name: str, lines: Iterable[str]) -> None:
    """Put lines into benchmarks/README.md, between the markers of this name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = README.read_text().partition(begin)
    README.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{end}{rest.partition(end)[2]}"]))


class Printed:
    """What a benchmark prints, kept, so that the very same can stand in benchmarks/README.md."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, text: str = "", *, end: str = "\n") -> None:
        """Print."""
        print(text, end=end, flush=True)
        self.text += text + end

    def put(self, name: str) -> None:
        """Put all of it into benchmarks/README.md, with the command and the machine."""
        words = " ".join(word for word in sys.argv[1:] if word != "--write")
        command = f"python -m benchmarks.{Path(sys.argv[0]).stem} {words}".rstrip()
        put(name, ["```text", *self.text.rstrip().splitlines(), "```", "", f"By `{command}`; {machine()}."])
