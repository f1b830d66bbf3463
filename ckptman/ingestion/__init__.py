"""ingest: match raw outputs against the tree, as a plan; then apply the plan. assign: what a person says of a run.

Promises: the plan that `--dry-run` prints is the plan that is applied; nothing is overwritten; what is
refused is named.
May not be done here: reading raw outputs or the tree by other means than `raw` and `tree`.
"""

from __future__ import annotations

from ckptman.ingestion.assigning import AssignResult, assign
from ckptman.ingestion.ingesting import IngestResult, ingest

__all__ = ["AssignResult", "IngestResult", "assign", "ingest"]
