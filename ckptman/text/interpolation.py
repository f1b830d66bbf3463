"""What OmegaConf writes for values that stand elsewhere: `${model.width}` is another value of the same configuration.

Resolvers, such as `${oc.env:HOME}`, are programs: what uses one stays as it is written, and so does what leads nowhere.
"""

from __future__ import annotations

import re
from typing import Any, Final

MISSING: Final = "???"
"""Stands for a value that has to be given, and was not."""
_REFERENCE: Final = re.compile(r"\$\{(\.*)([\w-]+(?:\.[\w-]+)*)\}")
_MOST_VALUES: Final = 100_000
_MOST_TEXT: Final = 1 << 20
"""Values and characters of a configuration, once no reference is left."""
_MOST_STEPS: Final = 8
"""From one reference to the next; more are going round."""
_MOST_LEVELS: Final = 64


def interpolated(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of plain values with what its interpolations stand for, and without what is missing.

    It is returned as it is where they would make it larger than any configuration may be.
    """
    try:
        found: dict[str, Any] = _Interpolation(config).value(config, (), 0)
    except _TooLargeError:
        return config
    return found


class _TooLargeError(Exception):
    """What the references stand for is more than a configuration may hold."""


class _Interpolation:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._values = self._characters = 0

    def value(self, value: Any, above: tuple[Any, ...], steps: int) -> Any:
        """The value that stands in the last of the containers `above`."""
        self._values += 1
        self._characters += len(value) if isinstance(value, str) else 0
        if self._values > _MOST_VALUES or self._characters > _MOST_TEXT:
            raise _TooLargeError
        if isinstance(value, str):
            return self._text(value, above, steps) if "${" in value and steps < _MOST_STEPS else value
        if not isinstance(value, dict | list) or len(above) + _MOST_LEVELS // _MOST_STEPS * steps > _MOST_LEVELS:
            return value
        within = (*above, value)
        if isinstance(value, list):
            return [self.value(item, within, steps) for item in value]
        return {key: self.value(item, within, steps) for key, item in value.items() if item != MISSING}

    def _text(self, text: str, above: tuple[Any, ...], steps: int) -> Any:
        if (match := _REFERENCE.fullmatch(text)) is not None:
            return self._referred(match, above, steps)

        def word(match: re.Match[str]) -> str:
            found = self._referred(match, above, steps)
            return match[0] if isinstance(found, dict | list) else str(found)

        return _REFERENCE.sub(word, text)

    def _referred(self, match: re.Match[str], above: tuple[Any, ...], steps: int) -> Any:
        """What a reference stands for; itself where there is nothing."""
        dots, path = match.groups()
        if len(dots) > len(above):
            return match[0]
        around = list(above[: len(above) - len(dots) + 1]) if dots else [self._config]
        found = around[-1]
        for part in path.split("."):
            if isinstance(found, list) and part.isdecimal() and len(part) < 6 and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                return match[0]
            around.append(found)
        return match[0] if found == MISSING else self.value(found, tuple(around[:-1]), steps + 1)
