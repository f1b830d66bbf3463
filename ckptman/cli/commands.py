"""The table of commands. Importing a command module registers its command with the app."""

from __future__ import annotations

from importlib import import_module

MODULES = ("train", "sweep", "status", "ingest", "validate", "report", "ls", "show", "evaluate", "task", "name")
"""The command modules, in the order in which the commands are listed."""


def register() -> None:
    """Import every command module."""
    for module in MODULES:
        import_module(f"ckptman.cli.{module}")
