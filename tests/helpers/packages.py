"""The packages, as the architecture has them."""

from __future__ import annotations

FORMATS = {"fs", "rules", "text"}
TREE = {"formats", *FORMATS}
PACKAGES: dict[str, set[str]] = {
    "text": set(),
    "fs": {"text"},
    "rules": {"text"},
    "formats": FORMATS,
    "tree": TREE,
    "raw": {"tree", *TREE},
    "training": {"tree", *TREE},
    "checks": {"tree", *TREE},
    "documents": {"tree", *TREE},
    "ingestion": {"raw", "tree", *TREE},
    "queries": {"checks", "tree", *TREE},
    "sweeps": {"training", "raw", "tree", *TREE},
}
"""Each package, and what it may import; from the bottom up, so that there is no cycle."""
PACKAGES["cli"] = set(PACKAGES)
