"""The table of commands. Importing a command module registers its command with the app, in this order."""

from __future__ import annotations


def register() -> None:
    """Import every command module."""
    from ckptman.cli import train, sweep, status, ingest, validate, report, ls, show, evaluate, task, name  # noqa: F401, I001
