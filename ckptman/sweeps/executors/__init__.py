"""Where a sweep's runs are trained: in processes of this machine, or as jobs of a SLURM cluster."""

from __future__ import annotations

__all__ = ["job", "local", "slurm", "submissions", "worker"]
