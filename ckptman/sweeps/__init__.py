"""Many runs: a plan over the grid, where the grid stands, and the executors that train it here or on a cluster.

Promises: a run that is complete is not trained again; two submissions train each run once.
May not be done here: training a run by other means than `training`.
"""

from __future__ import annotations

from ckptman.sweeps.executors.slurm import SlurmOptions
from ckptman.sweeps.grid_status import GridStatus, RunStanding
from ckptman.sweeps.sweeping import How, SweepPlan, SweepResult

__all__ = [
    "GridStatus",
    "How",
    "RunStanding",
    "SlurmOptions",
    "SweepPlan",
    "SweepResult",
    "doctor",
    "grid_status",
    "sweeping",
]
