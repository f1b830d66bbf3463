"""The page: its template, style and program, with the data of a tree in them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from ckptman.documents.explorer.columns import compact
from ckptman.documents.explorer.dataset import SIZE, dataset
from ckptman.documents.learning_curves import Curves
from ckptman.tree import Finding, records
from ckptman.tree import statistics as tree_statistics

EXPLORER = f"{records.REPORT}/explorer.html"
"""Where the explorer of a tree is, relative to its root."""

_DATA = re.compile(r'(<script type="application/octet-stream" id="data"[^>]*>)([A-Za-z0-9+/=]*)(?=</script>)')
_MOST_BYTES = 256 << 20  # of data: far above what any page holds


def page(
    statistics: tree_statistics.TreeStatistics,
    found: Sequence[Finding],
    curves: Curves,
    file: Path,
    *,
    size: int = SIZE,
) -> str:
    """The explorer of a tree as one HTML document.

    Args:
        statistics: What is in the tree.
        found: Findings about it.
        curves: The learning curves of its runs.
        file: Where the page will be. It leads from there to the checkpoints, so a tree and its page can be moved.
        size: How many bytes its data may take, compressed.
    """
    document = dataset(statistics, found, curves, size=size) | {"up": os.path.relpath(curves.root, file.parent)}
    packed = base64.b64encode(zlib.compress(compact(document).encode("ascii"), 6)).decode("ascii")
    before, after = _template()
    return f"{before}{packed}{after}"


def same_content(one: str, other: str) -> bool:
    """Whether two pages are the same but for how their data are compressed, which is not the same everywhere."""
    return _DATA.sub(r"\1", one) == _DATA.sub(r"\1", other) and _data(one) == _data(other)


def tells_of(text: str, statistics: tree_statistics.TreeStatistics) -> bool:
    """Whether a page says what a tree holds now; its findings and curves, which take long to make, are not looked at.

    Of a page that had no room for all of the tree, only the numbers of runs and files are.
    """
    data = _data(text)
    try:
        said = json.loads(data or b"null")
        now = json.loads(compact(dataset(statistics, (), None)))
        keys = ("counts",) if said["left_out"] else ("counts", *_COMPARED)
        return all(said[key] == now[key] for key in keys)
    except (ValueError, TypeError, LookupError, RecursionError):  # no page of ours, or of another version
        return False


_COMPARED = ("sections", "cells", "runs", "files")


def _data(text: str) -> bytes | None:
    match = _DATA.search(text)
    try:
        return zlib.decompressobj().decompress(base64.b64decode(match[2]), _MOST_BYTES) if match else None
    except (ValueError, zlib.error):
        return None


@cache
def _template() -> tuple[str, str]:
    """What stands before and after the data. The policy admits this very style and program, and nothing else."""
    folder = resources.files(__package__ or "")
    html, style, program = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", "page.js"))
    for mark, text in (("{{style}}", style), ("{{program}}", program)):
        html = html.replace(mark, text, 1)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        html = html.replace(mark.replace("}}", "-hash}}"), f"sha256-{digest}", 1)
    before, after = html.split("{{data}}")
    return before, after
