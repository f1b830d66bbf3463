"""Words: what people and programs read, and the one error that ckptman raises.

Promises: errors carry a message, a fix and an exit status; strings from outside are made safe before they are printed;
YAML and JSON are read strictly, as plain data; a path that is none is refused. May not be done here: opening files, or
knowing what a run is.
"""

from __future__ import annotations

from ckptman.text.errors import CkptmanError, ConfigurationError, MachineError, RefusedError, UsageError
from ckptman.text.paths import given_path

__all__ = [
    "CkptmanError",
    "ConfigurationError",
    "MachineError",
    "RefusedError",
    "UsageError",
    "given_path",
    "interpolation",
    "json_text",
    "markdown",
    "strict_yaml",
    "wording",
]
