"""What is said of a value that an option does not take: which option, which value, and what it takes.

Typer has values read by pydantic, whose texts name neither the value nor what there is to choose from.
"""

from __future__ import annotations

from typing import Any

import typer

from ckptman.text import wording

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def message_of(error: typer.TyperException) -> str:
    """The message of a refused command line."""
    param = getattr(error, "param", None)
    wrong = _wrong(error, param)
    return f"{name_of(param)}: {wrong}" if wrong else error.format_message()


def problem_of(error: Exception, option: Any) -> str:
    """The same of a value from a file, without the option's name."""
    return _wrong(error, option) or getattr(error, "message", str(error)) or type(error).__name__


def _wrong(error: Exception, param: Any) -> str:
    """What pydantic refused; empty where it was not pydantic."""
    details = getattr(error.__cause__, "errors", None)
    if details is None or param is None:
        return ""
    found = details()[0]
    value, taken = found["input"], param.type_descriptor
    if taken.choices is not None:
        words = [str(getattr(choice, "value", choice)) for choice in taken.choices]
        return f"{value!r} is none of {', '.join(words)}{wording.did_you_mean(str(value), words)}"
    kind = _KINDS.get(getattr(taken.annotation, "__name__", ""))
    if kind is None:
        return str(found["msg"]).removeprefix("Value error, ")
    least = taken.parameter_info.min
    return f"{value!r} is not {kind}" + (f" from {least:g} on" if least is not None else "")


def name_of(param: Any) -> str:
    """What the user calls an option or an argument."""
    return (
        max(param.opts, key=len) if param.param_type_name == "option" else str(param.metavar or param.name).strip("[]")
    )
