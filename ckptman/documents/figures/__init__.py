"""Figures of a tree: what is drawn (`data`), how (`drawing`, the only user of matplotlib), and the files (`files`).

A figure is drawn from a table, which lies beside it as CSV, and from nothing else. What was not measured is not drawn.
"""

from __future__ import annotations

__all__ = ["data", "drawing", "files"]
