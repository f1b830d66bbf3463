"""report: README, TASK_MAPPING and what they are made of.

Promises: every figure is counted from the tree; text outside the marked blocks is kept to the byte.
May not be done here: measuring, or reading a checkpoint.
"""

from __future__ import annotations

from ckptman.documents.figures import data, drawing
from ckptman.documents.learning_curves import Curves
from ckptman.documents.reporting import ReportResult, State, report, report_convention, stale

__all__ = ["Curves", "ReportResult", "State", "data", "drawing", "report", "report_convention", "stale"]
