"""The command line: each command's options, and how its result is shown.

Promises: stdout carries the result and stderr all else; no input ends in a traceback. Only here is printed and exited.
May not be done here: deciding anything that a call from Python would not.
"""

from ckptman.cli.starting import main

__all__ = ["main"]
