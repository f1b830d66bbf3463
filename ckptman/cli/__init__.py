"""The command line. Only this package prints and exits; each module holds one command and how its result is shown."""

from ckptman.cli.app import main

__all__ = ["main"]
