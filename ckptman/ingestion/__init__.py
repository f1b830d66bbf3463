"""ingest: match raw outputs against the tree, as a plan; then apply the plan. assign: what a person says of a run.
migrate: move the tree to what another convention says.

Promises: the plan that `--dry-run` prints is the plan that is applied; nothing is overwritten; what is
refused is named.
May not be done here: reading raw outputs or the tree by other means than `raw` and `tree`.
"""

from __future__ import annotations

from ckptman.ingestion.assigning import AssignResult, assign
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.ingestion.migrating import MigrateResult, migrate

__all__ = ["AssignResult", "IngestResult", "MigrateResult", "assign", "ingest", "journals", "learning", "migrate"]
