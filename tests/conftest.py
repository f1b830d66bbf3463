"""For all tests: one thread each, since test files run side by side, and threads that wait for a core are slow."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
