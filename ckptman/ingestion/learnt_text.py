"""A learnt convention as the text of a `ckptman.yaml`: short, commented, and of nothing but what was learnt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ckptman.ingestion.learnt_fields import Field, Scheme
from ckptman.ingestion.learnt_names import Slot
from ckptman.rules import terms

_WIDTH = 118
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def text_of(document: Mapping[str, Any], comments: Mapping[str, str], heading: str) -> str:
    """A document as YAML.

    Args:
        document: Its sections.
        comments: What to say of a section, above it.
        heading: What to say first.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    for key, value in document.items():
        lines += [f"# {line}" for line in comments.get(key, "").splitlines()]
        lines += _lines(key, value, 0)
    return "\n".join(lines) + "\n"


def _lines(key: str, value: Any, indent: int) -> list[str]:
    start = f"{' ' * indent}{_flow(key)}:"
    flow = f"{start} {_flow(value)}"
    if len(flow) <= _WIDTH or not value or not isinstance(value, dict | list):
        return [flow]
    if isinstance(value, dict):
        return [start, *(line for inner, item in value.items() for line in _lines(inner, item, indent + 2))]
    return [start, *(f"{' ' * indent}  - {_flow(item)}" for item in value)]


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def scheme_section(scheme: Scheme, suffix: str, examples: Sequence[str]) -> dict[str, Any]:
    """A scheme as an entry of `names`."""
    literal = "".join(part for _, parts in scheme.shape.columns for part in parts if isinstance(part, str))
    is_pattern = scheme.is_pattern or bool(re.search("[{}]", literal))
    section: dict[str, Any] = {}
    if is_pattern:
        section["pattern"] = _pattern(scheme) + re.escape(suffix).replace("\\.", "[.]")
    else:
        section["template"] = _template(scheme) + suffix
    fields = {
        field.hole: said
        for slot in scheme.shape.slots
        if (field := scheme.named(slot)).hole != "kind" and (said := _field(field, is_pattern=is_pattern))
    }
    if fields:
        section["fields"] = fields
    if scheme.kinds:
        section["kinds"] = dict(scheme.kinds)
    if scheme.kind is not None:
        section["kind"] = scheme.kind
    section["examples"] = [f"{name}{suffix}" for name in examples]
    return section


def _template(scheme: Scheme) -> str:
    def written(part: str | Slot) -> str:
        if isinstance(part, str):
            return re.sub(r"([\[\]])", r"{\1}", part)
        field = scheme.named(part)
        plain = field.type == "int" or field.hole == "kind"
        return f"{{{field.hole}}}" if plain else f"{{{field.hole}:{field.type}}}"

    made = ""
    for optional, parts in scheme.shape.columns:
        inner = [f"[{written(part)}]" if _is_partial(part, parts) else written(part) for part in parts]
        made += f"[{''.join(inner)}]" if optional else "".join(inner)
    return made


def _is_partial(part: str | Slot, parts: Sequence[str | Slot]) -> bool:
    """Whether a place in a column is left out in some of its names: a step behind a kind."""
    longest = max((len(p.texts) for p in parts if isinstance(p, Slot)), default=0)
    return isinstance(part, Slot) and len(part.texts) < longest


def _pattern(scheme: Scheme) -> str:
    def written(part: str | Slot) -> str:
        if isinstance(part, str):
            return (
                re.sub(r"([.^$*+?()|\[\]{}\\])", r"[\1]", part)
                if not re.search(r"[\\^\[\]]", part)
                else re.escape(part)
            )
        field = scheme.named(part)
        words = scheme.kinds if field.hole == "kind" else field.words
        regex = terms.Field(field.hole, "text" if field.hole == "kind" else field.type, "", words=words).regex
        return f"(?P<{field.hole}>{regex})"

    made = ""
    for optional, parts in scheme.shape.columns:
        inner = "".join(f"(?:{written(part)})?" if _is_partial(part, parts) else written(part) for part in parts)
        made += f"(?:{inner})?" if optional else inner
    return made


def _field(field: Field, *, is_pattern: bool) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if is_pattern and field.type != "text":
        said["type"] = field.type
    if field.hole != "step" and field.key is not None and field.key != field.hole:
        said["config"] = field.key
    if field.inverted:
        said["inverted"] = True
    if field.words:
        said["words"] = dict(sorted(field.words.items()))
    if field.unused:
        said["unused"] = True
    return said
