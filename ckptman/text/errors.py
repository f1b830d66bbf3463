"""The errors ckptman raises.

Every error says what happened (`message`), has a stable `code`, and tells what to do next (`fix`). The library raises
them; only the command line prints them and turns them into an exit status.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CkptmanError(Exception):
    """Base of all errors that are not bugs.

    Args:
        message: What happened, and to which file.
        code: A short, stable, kebab-case name for programs to match on.
        fix: What the user can do next; may be empty.
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, message: str, *, code: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again by `args` alone it would fail, and a multiprocessing.Pool then waits for ever.
        return _made_again, (type(self), *self.args), self.__dict__


class UsageError(CkptmanError):
    """The request itself is wrong: an argument, a path, a combination of options."""

    exit_status = 2


class ConfigurationError(UsageError):
    """A `ckptman.yaml`, or the built-in convention, does not hold together."""


class RefusedError(CkptmanError):
    """One file cannot be handled, for a reason that is told; the work on the others goes on."""

    exit_status = 1


class MachineError(CkptmanError):
    """The machine did not do what was asked: disk full, permission denied, a device that fails."""

    exit_status = 3


def _made_again(kind: type[CkptmanError], *args: object) -> CkptmanError:
    return kind.__new__(kind, *args)
