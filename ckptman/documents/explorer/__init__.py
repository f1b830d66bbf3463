"""The explorer: a whole tree in one HTML file that opens from a disk.

Promises: the file asks nothing of a network, runs no code but its own (its policy says so, by hashes), and shows what
it is told as text. The same tree gives the same content.
May not be done here: writing the file (`documents.reporting`), or checking the tree (findings are handed in).
"""

from __future__ import annotations

from ckptman.documents.explorer.curves import MOST_RUNS
from ckptman.documents.explorer.page import EXPLORER, page, same_content, tells_of

__all__ = ["EXPLORER", "MOST_RUNS", "page", "same_content", "tells_of"]
