"""The naming convention: checkpoint file names, parsed and formatted by the convention's fields.

`Naming(convention).parse(name)` gives the kind, the configuration values and the step that a name states;
`format` gives the name back, letter for letter.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from ckptman.rules import comparing
from ckptman.rules.terms import Convention, NameField, Prefix, Scheme
from ckptman.text import RefusedError

_WHOLE = "(?:0|[1-9][0-9]{0,17})"  # without leading zeros, so that a name has one spelling
_VALUE = {
    "int": _WHOLE,
    "bool": "[01]",
    "float": r"[0-9][0-9.e+-]{0,24}",
    "word": "[A-Za-z0-9.]+",
    "range": f"{_WHOLE}to{_WHOLE}",
    "list": f"{_WHOLE}(?:-{_WHOLE})*",
}
FIELD_TYPES = tuple(_VALUE)
_MOST_NOTES, _LONGEST_NOTE = 3, 40


class Trust(StrEnum):
    """What decides where a file's name and the configuration inside it disagree."""

    NEITHER = "neither"
    CONFIG = "config"
    NAME = "name"


@dataclass(frozen=True)
class CheckpointName:
    """What a checkpoint's file name says."""

    prefix: Prefix | None
    """The kind; None where the name does not say it."""
    values: Mapping[str, Any]
    """Configuration values by their key; keys of optional fields that the name leaves out are absent."""
    step: int | None
    """Iterations done; None where the name does not say it."""
    scheme: Scheme | None = None
    """The scheme that it follows; None for the grammar of fields."""
    unused: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What it says that is no part of the configuration."""

    @property
    def kind(self) -> str | None:
        """The name of its kind."""
        return None if self.prefix is None else self.prefix.name

    @property
    def is_final(self) -> bool:
        """Whether it says that it is of the end of training."""
        return self.prefix is not None and self.prefix.final

    def completed(self, step: int | None, config: Mapping[str, Any], convention: Convention) -> CheckpointName:
        """The same, with what the file's inside adds: the step, and by it the kind.

        Args:
            step: Iterations done, as the file says.
            config: Its configuration, which tells where training ends.
            convention: Has the kinds.
        """
        step = step if self.step is None else self.step
        return replace(self, step=step, prefix=self.prefix or convention.kind_at(step, config))


@dataclass(frozen=True)
class Disagreement:
    """One field in which a name and a configuration differ."""

    tag: str
    key: str
    in_name: Any
    in_config: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.in_name!r} in the name ({self.tag}) and {self.in_config!r} in the file"


class Naming:
    """Parses and formats file names by one convention."""

    def __init__(self, convention: Convention) -> None:
        self._fields = convention.fields
        self._prefixes = {prefix.name: prefix for prefix in convention.prefixes}
        self._step_tag = convention.step_tag
        self._suffix = convention.checkpoint.suffix
        prefixes = "|".join(map(re.escape, self._prefixes))
        pieces = [f"(?P<_prefix>{prefixes})"]
        for field in self._fields:
            value = "|".join(map(re.escape, field.values)) or _VALUE[field.type]
            piece = f"_{field.tag}(?P<{field.tag}>{value})"
            pieces.append(f"(?:{piece})?" if field.optional else piece)
        pieces.append(f"_{self._step_tag}(?P<_step>{_WHOLE}){re.escape(self._suffix)}")
        self._pieces = pieces
        self._regex = re.compile("".join(pieces))
        self._schemes = convention.schemes
        self._lifted = convention.lifted

    @property
    def patterns(self) -> list[str]:
        """The forms of names, for people."""
        return [*([self.pattern] if self._fields else ()), *(scheme.shape for scheme in self._schemes)]

    @property
    def pattern(self) -> str:
        """The form of a name by the grammar of fields, for people: `{Prefix}_N{int}_…`."""
        parts = ["{Prefix}"]
        for field in self._fields:
            part = f"_{field.tag}{{{_shape(field)}}}"
            parts.append(f"[{part}]" if field.optional else part)
        return f"{''.join(parts)}_{self._step_tag}{{step}}{self._suffix}"

    def parse(self, name: str) -> CheckpointName:
        """Read a file name.

        Raises:
            RefusedError: (`unknown-name`) telling where the name stops following the convention.
        """
        match = self._regex.fullmatch(name) if self._fields else None
        if match is None:
            for scheme in self._schemes:
                if (said := scheme.parse(name)) is not None:
                    prefix = self._prefixes.get(said.kind or "")
                    return CheckpointName(prefix, said.values, said.step, scheme, said.unused)
            raise self._refusal(name)
        values: dict[str, Any] = {}
        for field in self._fields:
            if (text := match[field.tag]) is not None:
                parsed = _parse_value(field, text)
                if field.type == "float" and repr(parsed) != text:
                    raise self._refusal(name, f"{field.tag}{text} is not written as {field.tag}{parsed!r}")
                values.update(zip(field.config, parsed if field.type == "range" else (parsed,), strict=True))
        return CheckpointName(prefix=self._prefixes[match["_prefix"]], values=values, step=int(match["_step"]))

    def knows(self, name: str) -> bool:
        """Whether a file name is one of the convention, which `parse` reads."""
        try:
            self.parse(name)
        except RefusedError:
            return False
        return True

    def format(self, name: CheckpointName) -> str:
        """The file name that says this; the inverse of `parse`.

        Raises:
            RefusedError: (`no-name`) if a value is missing, or cannot stand in a name.
        """
        if name.scheme is None and name.prefix is not None and name.step is not None:
            return self.name_for(name.values, name.prefix, name.step)
        made = None if name.scheme is None else name.scheme.format({**name.values, **name.unused}, name.kind, name.step)
        if made is None:
            raise _no_name(f"the scheme {name.scheme.name if name.scheme else ''!r} has no way back to a name")
        return made

    def names_for(self, config: Mapping[str, Any], prefix: Prefix, step: int) -> list[str]:
        """Every name that a checkpoint of a run with this configuration may have, one for each scheme."""
        config = self._lifted(config)
        made = [scheme.format(config, prefix.name, step) for scheme in self._schemes]
        with suppress(RefusedError):
            made.insert(0, self._by_grammar(config, prefix, step) if self._fields else None)
        return [name for name in made if name is not None]

    def name_for(self, config: Mapping[str, Any], prefix: Prefix, step: int) -> str:
        """The file name of a checkpoint of a run with this configuration, by the first scheme that can write it.

        An optional field is written where the configuration has its key (with a value other than None).

        Raises:
            RefusedError: (`no-name`) if the configuration lacks a field, or has a value that cannot stand in a name.
        """
        if made := self.names_for(config, prefix, step):
            return made[0]
        if self._fields:
            return self._by_grammar(config, prefix, step)  # which says what it lacks
        raise _no_name("no scheme of the convention can write a name of this configuration")

    def _by_grammar(self, config: Mapping[str, Any], prefix: Prefix, step: int) -> str:
        parts = [prefix.name]
        for field in self._fields:
            if field.optional and any(config.get(key) is None for key in field.config):
                continue
            parts.append(field.tag + self._value_text(field, config))
        return f"{'_'.join(parts)}_{self._step_tag}{step}{self._suffix}"

    def disagreements(self, name: CheckpointName, config: Mapping[str, Any]) -> tuple[Disagreement, ...]:
        """Where a name and the configuration inside the file differ; keys that the configuration lacks do not count."""
        if name.scheme is not None:
            config = self._lifted(config)
            return tuple(
                Disagreement(tag=name.scheme.name, key=key, in_name=said, in_config=config[key])
                for key, said in name.values.items()
                if key in config and not comparing.same_value(said, config[key])
            )
        found = []
        for field in self._fields:
            for key in field.config:
                if key not in name.values or key not in config:
                    continue
                said, held = name.values[key], config[key]
                if not comparing.same_value(said, held):
                    found.append(Disagreement(tag=field.tag, key=key, in_name=said, in_config=held))
        return tuple(found)

    def unwritable(self, key: str, value: Any) -> str:
        """Why no name can state this value of a configuration key; empty where one can, or states no such key."""
        field = next((field for field in self._fields if key in field.config), None)
        if field is None or (field.optional and value is None):
            return ""
        try:
            self._value_text(field, dict.fromkeys(field.config, value))
        except RefusedError as error:
            return error.message
        return ""

    def short(self, key: str, config: Mapping[str, Any]) -> str:
        """One configuration value as a name writes it, such as `mlp0`; for keys without a field, key and value, in
        letters that folders of runs may have."""
        field = next((field for field in self._fields if field.config == (key,)), None)
        if field is not None:
            return field.tag + self._value_text(field, config)
        return re.sub("[^A-Za-z0-9_.-]+", "_", f"{key}{config[key]}")[:_LONGEST_NOTE]

    def telling(self, keys: Iterable[str], config: Mapping[str, Any]) -> tuple[str, ...]:
        """What tells a run apart by these keys, for its folder's name: at most three, those that names state first."""
        stated = {field.config[0] for field in self._fields if len(field.config) == 1}
        notes = []
        for key in sorted(set(keys) & config.keys(), key=lambda key: (key not in stated, key)):
            with suppress(RefusedError):  # a value that cannot stand in a name
                notes.append(re.sub(r"[^A-Za-z0-9_.]+", "_", self.short(key, config))[:_LONGEST_NOTE])
        return tuple(notes[:_MOST_NOTES])

    def _value_text(self, field: NameField, config: Mapping[str, Any]) -> str:
        try:
            values = [config[key] for key in field.config]
        except KeyError as error:
            raise RefusedError(
                f"the configuration has no {error.args[0]!r}, which a file name states as {field.tag}",
                code="no-name",
                fix="Give the file a name by the convention by hand, and pass --trust name.",
            ) from None
        text = _format_value(field, values)
        pattern = "|".join(map(re.escape, field.values)) or _VALUE[field.type]
        if text is None or not re.fullmatch(pattern, text):
            shown = values[0] if len(values) == 1 else values
            form = f"{field.tag}{{{_shape(field)}}}"
            raise RefusedError(
                f"{' and '.join(field.config)} = {shown!r} cannot be written as {form} in a name",
                code="no-name",
                fix="Extend the name field in ckptman.yaml.",
            )
        return text

    def _refusal(self, name: str, reason: str = "") -> RefusedError:
        fix = (
            f"Names have the form {' or '.join(self.patterns)}"
            if self.patterns
            else "By this convention, files keep their names, and what they are stands inside them or beside them."
        )
        if not self._fields:
            reason = "it has none of the forms that the convention knows"
        return RefusedError(f"{name!r} does not follow the naming convention: {reason or self._explain(name)}",
                            code="unknown-name", fix=fix)  # fmt: skip

    def _explain(self, name: str) -> str:
        """Where a name leaves the convention: the longest part that follows it, and what should come next."""
        if not name.endswith(self._suffix):
            return f"it does not end in {self._suffix}"
        done = 0
        for count in range(1, len(self._pieces)):
            match = re.match("".join(self._pieces[:count]), name)
            if match is None:
                break
            done = count
        if done == 0:
            return f"it should begin with {' or '.join(self._prefixes)}"
        match = re.match("".join(self._pieces[:done]), name)
        rest = name[match.end() if match else 0 :]
        if done < len(self._fields) + 1:
            field = self._fields[done - 1]
            wanted = f"_{field.tag}{{{_shape(field)}}}"
        else:
            wanted = f"_{self._step_tag}{{step}}{self._suffix}"
        return f"{rest!r} stands where {wanted} should"


def _no_name(problem: str) -> RefusedError:
    return RefusedError(problem, code="no-name", fix="Extend the names of the convention in ckptman.yaml.")


@lru_cache(maxsize=8)
def naming_of(convention: Convention) -> Naming:
    """The convention's `Naming`, made once."""
    return Naming(convention)


def _shape(field: NameField) -> str:
    """What a field's value looks like, for people."""
    if field.values:
        return "|".join(field.values)
    return {"bool": "0|1", "range": "min}to{max", "list": "k-k-…"}.get(field.type, field.type)


def _parse_value(field: NameField, text: str) -> Any:
    match field.type:
        case "int":
            return int(text)
        case "bool":
            return (text == "1") != field.inverted
        case "float":
            try:
                return float(text)
            except ValueError:
                return text  # not the spelling of any number; the caller refuses it
        case "range":
            return tuple(map(int, text.split("to")))
        case "list":
            return list(map(int, text.split("-")))
        case _:
            return text


def _format_value(field: NameField, values: list[Any]) -> str | None:
    """A value as a name writes it; None where its type is not the field's."""
    numbers = [comparing.whole(value) for value in values]
    value = values[0]
    match field.type:
        case "int":
            return None if None in numbers else str(numbers[0])
        case "bool":
            flag = comparing.flag(value)
            return None if flag is None else str(int(flag != field.inverted))
        case "float":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return repr(float(value)) if number else None
        case "range":
            return None if None in numbers else f"{numbers[0]}to{numbers[1]}"
        case "list":
            items = isinstance(value, list | tuple) and value
            return "-".join(map(str, value)) if items else None
        case _:
            return value if isinstance(value, str) else None
