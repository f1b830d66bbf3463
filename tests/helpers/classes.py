"""Classes that stand in modules of libraries that are not installed, as far as pickle can tell."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def modules(*classes: Any) -> Iterator[None]:
    """Has these classes stand in the modules that they say they are of."""
    parts = [cls.__module__.split(".") for cls in classes]
    names = {".".join(each[: count + 1]) for each in parts for count in range(len(each))}
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for cls in classes:
        setattr(sys.modules[cls.__module__], cls.__qualname__, cls)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def placed(cls: Any, module: str, name: str | None = None) -> Any:
    """A class as if this module had defined it."""
    cls.__module__, cls.__qualname__ = module, name or cls.__name__
    cls.__name__ = cls.__qualname__
    CLASSES.append(cls)
    return cls


CLASSES: list[Any] = []
"""All that have to stand in their modules while values are saved and loaded."""


def plain_class(full_name: str, *bases: type) -> Any:
    """A class with nothing of its own."""
    module, _, name = full_name.rpartition(".")
    return placed(type(name, bases or (object,), {}), module)


def instance(cls: Any, **fields: Any) -> Any:
    """An instance with these attributes, however the class would be called."""
    made = cls.__new__(cls)
    made.__dict__.update(fields)
    return made
