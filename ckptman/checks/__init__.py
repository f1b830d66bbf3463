"""validate: look through a tree and tell what is wrong with it, as coded findings.

Promises: one fault, one finding; nothing is written but by `mending`, which deletes no byte and replaces nothing.
May not be done here: defining a finding (`tree.findings`).
"""

from __future__ import annotations

from ckptman.checks.files import check_files
from ckptman.checks.records import check_records
from ckptman.checks.runs import check_runs
from ckptman.checks.validation import ValidationResult, validate
from ckptman.checks.weights import Testimony

__all__ = ["Testimony", "ValidationResult", "check_files", "check_records", "check_runs", "mending", "validate"]
