"""Which classes `torch.load(weights_only=True)` may read: marked as soon as both torch and ckptman are imported.

`import ckptman` does not import torch, which takes seconds. Where torch is there already, the classes are marked at
once; otherwise as the last thing that `import torch` does.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TORCH = "torch"


def mark_safe(config_classes: str | Iterable[str] | None = None) -> None:
    """Let `torch.load(weights_only=True)` read `TrainConfig` under each of these full names, and plain paths in it.

    By default, those of the built-in convention, ckptman's own among them.
    """
    import torch

    from ckptman.rules import TrainConfig, convention_file  # only now: `import ckptman` takes no time for them

    classes = convention_file.built_in().checkpoint.config_classes if config_classes is None else config_classes
    named = [classes] if isinstance(classes, str) else classes
    safe: list[Any] = [(TrainConfig, name) for name in named]
    for module in ("pathlib", "pathlib._local"):  # the latter since Python 3.13
        safe += [(pathlib.PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath")]
        safe += [(pathlib.PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    torch.serialization.add_safe_globals(safe)


def mark_safe_with_torch() -> None:
    """Call `mark_safe` now, or once torch is imported."""
    if hasattr(sys.modules.get(TORCH), "serialization"):
        mark_safe()
    elif not any(isinstance(finder, _AfterTorch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch:
    """Lets torch be found as ever, and marks the classes when it has been imported. Whoever only asks whether there is
    a torch, as many libraries do, leaves it in place."""

    def __init__(self) -> None:
        self._is_asked = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of torch, with a loader that does one thing more; None for any other module."""
        if fullname != TORCH or hasattr(self._is_asked, "now"):
            return None
        self._is_asked.now = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            del self._is_asked.now
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_mark(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                mark_safe()

            spec.loader.exec_module = execute_and_mark  # type: ignore[method-assign]
        return spec
