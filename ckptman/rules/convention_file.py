"""Reading the convention: the built-in `convention.yaml`, extended by a lab's `ckptman.yaml`, checked as it loads.

Only this module knows how the YAML is laid out; the others see the dataclasses of `convention`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ckptman.rules import beside, comparing, consistency, inert, layout, schemes
from ckptman.rules import facets as facet_rules
from ckptman.rules.consistency import near
from ckptman.rules.facets import Facet, FacetValue, Scalar
from ckptman.rules.layout import Layout
from ckptman.rules.measures import Metric
from ckptman.rules.naming import FIELD_TYPES
from ckptman.rules.terms import (
    GROUP_HOLE,
    AxisTitle,
    CheckpointForm,
    CheckpointRules,
    Convention,
    Grid,
    GroupPattern,
    K,
    ModelRules,
    NameField,
    Prefix,
    RawLayout,
    Regime,
    Setting,
)
from ckptman.text import CkptmanError, ConfigurationError, UsageError, given_path, strict_yaml

FILE_NAME = "ckptman.yaml"
BUILT_IN = Path(__file__).with_name("convention.yaml")
SHIPPED = Path(__file__).with_name("conventions")
_BUILT_IN_NAME = "built-in"

T = TypeVar("T")

_LONGEST_WORD = 200
_MOST_LEVELS_UP = 9
_MOST_GROUP_LEVELS = 4
"""Folders above a checkpoint's in which a file beside it is looked for."""


def find_file(start: Path) -> Path | None:
    """The nearest `ckptman.yaml` in `start` or above it.

    Raises:
        ConfigurationError: (`config-unreadable`) where the nearest one is no file: a folder, a pipe, a link to nothing.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        file = folder / FILE_NAME
        # os.path's tests are False below a folder that may not be entered, where pathlib's raise.
        if os.path.isfile(file):  # noqa: PTH113
            return file
        if os.path.lexists(file):
            raise ConfigurationError(
                f"{file} is not a file, so its rules cannot be read",
                code="config-unreadable",
                fix="Put the rules into a file of that name, or move it away.",
            )
    return None


def load_convention(file: str | os.PathLike[str] | None = None, *, numbering: str | None = None) -> Convention:
    """Load the built-in convention, extended by `file` if one is given.

    Args:
        file: A `ckptman.yaml`.
        numbering: Overrides the numbering the files name.

    Raises:
        ConfigurationError: naming the file, the key and the nearest known one; (`unknown-numbering`) where a grid has
            no numbering `numbering`.
    """
    file = None if file is None else given_path(file, "the path of the convention")
    return _loaded(file, None if file is None else _bytes_of(file), numbering)


@lru_cache(maxsize=16)  # the same bytes are the same rules: what is derived from them is kept for ever
def _loaded(file: Path | None, data: bytes | None, numbering: str | None) -> Convention:
    where = str(file or BUILT_IN.name)
    document = _built_in_document() if data is None else _extended(_document(data, where), where)
    convention = _build(document, where, file)
    if numbering is not None:
        convention = replace(convention, numbering=numbering)
        if problem := consistency.numbering_problem(convention):
            raise ConfigurationError(
                f"the numbering that was asked for: {problem}",
                code="unknown-numbering",
                fix="Correct --numbering, or CKPTMAN_NUMBERING, or `numbering` among the settings of the ckptman.yaml.",
            )
    _check(convention, where)
    return convention


def rules_for(convention: Convention | None, start: str | os.PathLike[str]) -> Convention:
    """The rules that a call goes by: those given, else those of the nearest `ckptman.yaml`, else the built-in ones.

    Args:
        convention: What the call was given.
        start: The file or folder that the call is about, in or above which the `ckptman.yaml` is looked for.

    Raises:
        UsageError: (`not-a-convention`) what was given is no convention, but the path of one, say.
        ConfigurationError: as `find_file` and `load_convention`.
    """
    if convention is None:
        return load_convention(find_file(Path(start)))
    if not isinstance(convention, Convention):
        raise UsageError(
            f"{convention!r} is no convention",
            code="not-a-convention",
            fix="Load one with ckptman.load_convention, which takes the path of a ckptman.yaml.",
        )
    return convention


def convention_of(text: str, where: str) -> Convention:
    """The convention that a text says, as if it were a `ckptman.yaml`.

    Args:
        text: What the file would hold.
        where: What to call it in errors.

    Raises:
        ConfigurationError: as `load_convention`.
    """
    convention = _build(_extended(_document(text.encode(), where), where), where, None)
    _check(convention, where)
    return convention


@cache
def built_in() -> Convention:
    """The built-in convention."""
    return load_convention()


# --- reading and merging ----------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    return _document(_bytes_of(file), str(file))


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {file}: {error.strerror}", code="config-unreadable", fix="Check the path and its permissions."
        ) from error


def _document(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = strict_yaml.load_yaml(data, where)
    except CkptmanError as error:
        raise ConfigurationError(error.message, code="config-syntax", fix=error.fix) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _bad(f"{where} must be a mapping of keys to values, not a {type(document).__name__}")
    return document


@cache
def _built_in_document() -> dict[str, Any]:
    return _read(BUILT_IN)


def shipped() -> dict[str, Path]:
    """The conventions that come with ckptman beside the built-in one, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}


def _extended(document: dict[str, Any], where: str) -> dict[str, Any]:
    """A file's rules, laid over those that it extends: the built-in ones, or others that are shipped."""
    document = dict(document)
    name = _text(document.pop("extends", _BUILT_IN_NAME), f"{where}: extends")
    known = shipped()
    if name != _BUILT_IN_NAME and name not in known:
        raise _bad(f"{where}: extends: there is no convention {name!r}{near(name, (_BUILT_IN_NAME, *known))}")
    base = _built_in_document() if name == _BUILT_IN_NAME else _extended(_read(known[name]), str(known[name]))
    replaced = document.pop("replaces", [])
    replaced = _list_of(_text)(replaced, f"{where}: replaces") if replaced != [] else ()
    for section in replaced:
        if section not in base:
            raise _bad(f"{where}: replaces: there is no section {section!r}{near(section, base)}")
        if section not in document:
            raise _bad(f"{where}: replaces: {section} is not said here; give what takes its place")
    sections = (*_built_in_document(), "names", "settings")
    if unknown := next((key for key in document if key not in sections), None):
        raise _bad(f"{where}: unknown key {unknown!r}{near(str(unknown), sections)}")
    base = {key: value for key, value in base.items() if key not in replaced}
    return dict(_merged(base, document, where))


def _merged(base: Any, extension: Any, where: str) -> Any:
    """`extension` laid over `base`: mappings key by key, anything else replaced, null taking a key away."""
    if not (isinstance(base, dict) and isinstance(extension, dict)):
        return extension
    merged = dict(base)
    for key, value in extension.items():
        if value is None:
            if key not in merged:
                raise _bad(f"{where}: {key!r} is null, which takes a key away, but there is no {key!r}")
            del merged[key]
        else:
            merged[key] = _merged(merged.get(key), value, where)
    return merged


class _Section:
    """A mapping of the convention with its place in the file; refuses keys that nobody asked for."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _bad(f"{where} must be a mapping, not {value!r}")
        self.value = value
        self.where = where
        self.asked: set[str] = set()

    def get(self, key: str, check: Callable[[Any, str], T]) -> T:
        self.asked.add(key)
        if key not in self.value:
            raise _bad(f"{self.where}: {key!r} is missing")
        return check(self.value[key], f"{self.where}.{key}")

    def maybe(self, key: str, check: Callable[[Any, str], T], default: T) -> T:
        self.asked.add(key)
        return check(self.value[key], f"{self.where}.{key}") if key in self.value else default

    def section(self, key: str) -> _Section:
        return self.get(key, _Section)

    def each(self) -> list[tuple[str, Any, str]]:
        """All keys, where any key is allowed: (key, value, place)."""
        for key in self.value:
            if not isinstance(key, str) or not key:
                raise _bad(f"{self.where}: {key!r} cannot be a key; put it in quotes")
        self.asked.update(self.value)
        return [(key, value, f"{self.where}.{key}") for key, value in self.value.items()]

    def done(self) -> None:
        for key in self.value:
            if key not in self.asked:
                raise _bad(f"{self.where}: unknown key {key!r}{near(str(key), sorted(self.asked))}")


def _bad(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="bad-convention", fix=f"Correct the {FILE_NAME}, or take the key out.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(f"{where} must be text, not {value!r}")
    return value


def _statistics(value: Any, where: str) -> str:
    if value not in ("sample", "population"):
        raise _bad(f"{where} must be sample or population, not {value!r}")
    return str(value)


def _word(value: Any, where: str) -> str:
    """Text that can be a part of a file or folder name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", _text(value, where), re.ASCII) or set(value) <= {"."}:
        raise _bad(f"{where} must be made of letters, digits, '.', '_' and '-', not {value!r}")
    if len(value) > _LONGEST_WORD:
        raise _bad(f"{where} is longer than a part of a name can be, {_LONGEST_WORD} letters")
    return str(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _bad(f"{where} must be true or false, not {value!r}")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(f"{where} must be a whole number, not {value!r}")
    return value


def _scalar(value: Any, where: str) -> Scalar:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise _bad(f"{where} must be one value, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(f"{where} must be a finite number, not {value!r}")
    return value


def _setting(value: Any, where: str) -> Setting:
    """One value, or a list of them for an option that takes several."""
    return _list_of(_scalar)(value, where) if isinstance(value, list) else _scalar(value, where)


def _list_of(check: Callable[[Any, str], T]) -> Callable[[Any, str], tuple[T, ...]]:
    def check_list(value: Any, where: str) -> tuple[T, ...]:
        if not isinstance(value, list) or not value:
            raise _bad(f"{where} must be a list with something in it, not {value!r}")
        items = tuple(check(item, f"{where}[{i}]") for i, item in enumerate(value))
        for i, item in enumerate(items):
            # 1 == True in Python, but not in a convention.
            if any(item == other and type(item) is type(other) for other in items[:i]):
                raise _bad(f"{where}: {item!r} stands there twice")
        return items

    return check_list


# --- building the dataclasses -----------------------------------------------------------------------------------------


def _build(document: dict[str, Any], where: str, source: Path | None) -> Convention:
    top = _Section(document, where)
    if (version := top.get("version", _whole)) != 1:
        raise _bad(f"{where}: version {version} is not one this ckptman reads (it reads 1)")
    name = top.section("name")
    fields = _build_fields(name.section("fields")) if "fields" in name.value else ()
    prefixes = tuple(_build_prefix(*item) for item in name.section("prefixes").each())
    step = name.section("step") if fields else _Section({"tag": "step", "title": "Steps done"}, f"{where}.name.step")
    named = _Section(top.maybe("names", lambda v, _: v, {}), f"{where}.names")
    metrics = [metric for item in top.section("metrics").each() for metric in _build_metrics(*item)]
    chosen = [metric for metric, is_default in metrics if is_default] or [metric for metric, _ in metrics[:1]]
    attribution = top.section("attribution")
    run = top.section("run")
    facets = {key: _build_facet(key, value, place) for key, value, place in top.section("facets").each()}
    grids = {key: _build_grid(key, value, place, facets) for key, value, place in top.section("grids").each()}
    lengths = _Section(top.maybe("lengths", lambda v, _: v, {}), f"{where}.lengths")
    convention = Convention(
        title=top.get("title", _text),
        numbering=top.get("numbering", _text),
        statistics=top.get("statistics", _statistics),
        prefixes=prefixes,
        fields=fields,
        step_tag=step.get("tag", _word),
        step_title=step.get("title", _text),
        name_examples=name.get("examples", _list_of(_text)) if fields else (),
        schemes=tuple(_build_scheme(*item, [prefix.name for prefix in prefixes]) for item in named.each()),
        keep_names=name.maybe("keep", _flag, False),
        checkpoint=_build_checkpoint(top.section("checkpoint")),
        model=_build_model(top.section("model")),
        raw=_build_raw(top.section("raw")),
        beside=tuple(_build_beside(*item, run.get("seed", _text)) for item in top.section("beside").each()),
        seed_key=run.get("seed", _text),
        group_key=run.get("group", _text),
        facets=facets,
        folders=_build_layout(top, facets),
        trained_keys=lengths.maybe("trained", _two_texts, None),
        tested_keys=lengths.maybe("tested", _two_texts, None),
        groups=tuple(_build_group(*item, grids, facets) for item in top.section("groups").each()),
        grids=grids,
        axis_titles={key: _build_axis(value, place) for key, value, place in top.section("axes").each()},
        metrics={metric.name: metric for metric, _ in metrics},
        metric=_only_one(chosen, f"{where}.metrics"),
        ignored_keys=frozenset(attribution.get("ignored", _list_of(_text))),
        settings={
            key: _setting(value, place)
            for key, value, place in _Section(top.maybe("settings", lambda v, _: v, {}), f"{where}.settings").each()
        },
        summary={
            key: _text(value, place)
            for key, value, place in _Section(top.maybe("summary", lambda v, _: v, {}), f"{where}.summary").each()
        },
        source=source,
    )
    if not fields:
        name.asked.update(("step", "examples"))  # of a grammar that was taken away
    for section in (top, name, step, run, attribution, lengths):
        section.done()
    return convention


def _check(convention: Convention, where: str) -> None:
    for place, problem in consistency.problems(convention):
        raise _bad(f"{where}: {place}: {problem}")


def _build_fields(section: _Section) -> tuple[NameField, ...]:
    ordered: list[NameField] = []
    for tag, value, where in section.each():
        item = _Section(value, where)
        kind = item.get("type", _text)
        if kind not in FIELD_TYPES:
            raise _bad(f"{where}.type must be one of {', '.join(FIELD_TYPES)}, not {kind!r}")
        if not re.fullmatch(r"[A-Za-z]+", tag, re.ASCII):
            raise _bad(f"{where}: a tag is made of letters, not {tag!r}")
        keys = item.get("config", _list_of(_text) if kind == "range" else lambda v, w: (_text(v, w),))
        if kind == "range" and len(keys) != 2:
            raise _bad(f"{where}.config: a range has two keys, from and to, not {len(keys)}")
        field = NameField(
            tag=tag,
            type=kind,
            config=keys,
            title=item.maybe("title", _text, tag),
            optional=item.maybe("optional", _flag, False),
            inverted=item.maybe("inverted", _flag, False),
            values=item.maybe("values", _list_of(_word), ()),
        )
        if field.inverted and kind != "bool":
            raise _bad(f"{where}.inverted: only a bool can be inverted")
        if field.values and kind != "word":
            raise _bad(f"{where}.values: only a word has a list of values")
        if any("_" in word or "-" in word for word in field.values):
            raise _bad(f"{where}.values: a value in a name may hold neither '_' nor '-'")
        after = item.maybe("after", _text, "")
        item.done()
        if not after:
            ordered.append(field)
            continue
        index = next((i for i, other in enumerate(ordered) if other.tag == after), None)
        if index is None:
            tags = [other.tag for other in ordered]
            raise _bad(f"{where}.after: there is no field {after!r}{near(after, tags, 0.3)}")
        ordered.insert(index + 1, field)
    if not ordered:
        raise _bad(f"{section.where} must have at least one field")
    return tuple(ordered)


def _build_prefix(name: str, value: Any, where: str) -> Prefix:
    item = _Section(value, where)
    prefix = Prefix(
        name=name,
        title=item.maybe("title", _text, name),
        final=item.get("final", _flag),
        step_config=item.maybe("step", _text, ""),
        early=item.maybe("early", _flag, False),
        step_plus=item.maybe("plus", _whole, 0),
    )
    item.done()
    if not re.fullmatch(r"[A-Za-z0-9-]+", name, re.ASCII):
        raise _bad(f"{where}: a prefix is made of letters, digits and '-', not {name!r}")
    return prefix


def _build_scheme(name: str, value: Any, where: str, kinds: list[str]) -> schemes.Scheme:
    item = _Section(value, where)
    template, pattern = item.maybe("template", _text, ""), item.maybe("pattern", _text, "")
    if bool(template) is bool(pattern):
        raise _bad(f"{where} must have a template or a pattern, one of them")
    said = {
        key: (entry, place)
        for key, entry, place in _Section(item.maybe("fields", lambda v, _: v, {}), f"{where}.fields").each()
    }
    holes = _holes_of(template, pattern, where)
    if unknown := next((key for key in said if key not in dict(holes)), None):
        raise _bad(f"{where}.fields: there is no field {unknown!r}{near(unknown, dict(holes))}")
    fields = {
        hole: _build_field(hole, kind, *said.get(hole, ({}, f"{where}.fields.{hole}")))
        for hole, kind in holes
        if hole != schemes.KIND
    }
    step = fields.pop(schemes.STEP, schemes.Scheme.step)
    words = _Section(item.maybe("kinds", lambda v, _: v, {kind: kind for kind in kinds}), f"{where}.kinds")
    named = {word: _one_of(kinds)(kind, place) for word, kind, place in words.each()}
    scheme = schemes.Scheme(
        name=name,
        template=template,
        pattern=pattern,
        fields=fields,
        kinds=named,
        step=step,
        kind=item.get("kind", _one_of(kinds)) if "kind" in item.value else None,
        examples=item.get("examples", _list_of(_text)),
    )
    item.done()
    if template and schemes.texts_of(fields.values()) > schemes.MOST_TEXTS:
        raise _bad(
            f"{where}.template has more than {schemes.MOST_TEXTS} fields of any text; give them a type, or words"
        )
    if scheme.kind is not None and schemes.KIND in dict(holes):
        raise _bad(f"{where}.kind: the name says the kind already, in {{{schemes.KIND}}}")
    return scheme


def _holes_of(template: str, pattern: str, where: str) -> list[tuple[str, str]]:
    """The fields of a scheme, with the types that a template gives."""
    if pattern:
        try:
            names = list(re.compile(pattern, re.ASCII).groupindex)
        except re.error as error:
            raise _bad(f"{where}.pattern: {error}") from None
        if schemes.is_slow(pattern):
            raise _bad(f"{where}.pattern: it repeats a group, or too much side by side, which may take forever")
        return [(name, "" if name == schemes.STEP else "text") for name in names]
    try:
        schemes.parts_of(template)
    except ValueError as error:
        raise _bad(f"{where}.template: {error}") from None
    holes = schemes.holes_of(template)
    if twice := next((hole for index, (hole, _) in enumerate(holes) if hole in dict(holes[:index])), None):
        raise _bad(f"{where}.template: {{{twice}}} stands there twice")
    return holes


def _build_field(name: str, kind: str, value: Any, where: str) -> schemes.Field:
    item = _Section(value, where)
    field = schemes.Field(
        name=name,
        type=item.maybe("type", _field_type, kind or "int") if kind in ("", "text") else kind,
        config=item.maybe("config", _text, name),
        inverted=item.maybe("inverted", _flag, False),
        unused=item.maybe("unused", _flag, False),
        words={
            word: _setting(entry, place)
            for word, entry, place in _Section(item.maybe("words", lambda v, _: v, {}), f"{where}.words").each()
        },
    )
    item.done()
    _field_type(field.type, where)
    if field.inverted and field.type not in ("flag", "bool"):
        raise _bad(f"{where}.inverted: only a flag or a bool can be inverted")
    if name == schemes.STEP and field.type in ("flag", "bool", "list", "time", "word", "text"):
        raise _bad(f"{where}: a step is a number, of the type int, 06d, kM or so, not {field.type}")
    return field


def _field_type(value: Any, where: str) -> str:
    if schemes.regex_of(_text(value, where)) is None:
        raise _bad(f"{where}: there is no type {value!r}{near(value, [*schemes.VALUES, '06d', '.2f', '.0e', 'kM'])}")
    return str(value)


def _one_of(known: Sequence[str]) -> Callable[[Any, str], str]:
    def check(value: Any, where: str) -> str:
        if value not in known:
            raise _bad(f"{where}: there is no {value!r}{near(str(value), known)}")
        return str(value)

    return check


def _build_checkpoint(section: _Section) -> CheckpointRules:
    forms = []
    for name, value, where in section.section("forms").each():
        item = _Section(value, where)
        whole = item.maybe("whole", _flag, False)
        needed = ("weights", "optimizer", "config", "iters")
        keys = {key: "" if whole else item.get(key, _text) for key in needed}
        keys |= {key: "" if whole else item.maybe(key, _text, "") for key in ("model_config", "itr", "run_id")}
        forms.append(CheckpointForm(name=name, whole=whole, **keys))
        item.done()
    if not forms:
        raise _bad(f"{section.where}.forms must have at least one")
    rules = CheckpointRules(
        suffix=section.get("suffix", _word),
        other_suffixes=section.get("other_suffixes", _list_of(_word)),
        forms=tuple(forms),
        config_classes=section.get("config_classes", _list_of(_text)),
        compiled_prefix=section.get("compiled_prefix", _text),
        wrappers=section.maybe("wrappers", _list_of(_text), ()),
        prefixes=section.maybe("prefixes", _list_of(_text), ()),
        config_keys=section.maybe("config_keys", _list_of(_text), ()),
        step_keys=section.maybe("step_keys", _list_of(_text), ()),
        inert=section.maybe("inert", _list_of(_inert_name), ()),
    )
    section.done()
    return rules


def _build_model(section: _Section) -> ModelRules:
    patterns = _list_of(_pattern)
    rules = ModelRules(
        training=section.maybe("training", patterns, ()), without_effect=section.maybe("without_effect", patterns, ())
    )
    section.done()
    return rules


def _pattern(value: Any, where: str) -> str:
    if not re.search("[A-Za-z]", _text(value, where)):  # `*` would declare everything harmless
        raise _bad(f"{where} must be a key, or a part of one with '*' for the rest, not {value!r}")
    return str(value)


def _inert_name(value: Any, where: str) -> str:
    """The full name of a function whose calls may be kept as inert records."""
    name = _text(value, where)
    if not inert.is_full_name(name):
        raise _bad(f"{where} must be the full name of a class or function, not {name!r}")
    if inert.reaches_system(name):
        raise _bad(f"{where}: {name} runs code or reaches the system, and is never admitted")
    return name


def _build_raw(section: _Section) -> RawLayout:
    section.maybe("task", _text, "")  # the layout has it
    raw = RawLayout(
        saved_models=section.get("saved_models", _word),
        wandb=section.get("wandb", _word),
        state=section.get("state", _word),
        status=section.get("status", _word),
        metrics=section.get("metrics", _word),
        inner=section.maybe("inner", _list_of(_word), ()),
        wandb_runs=section.get("wandb_runs", _list_of(_word)),
        wandb_ignored=section.get("wandb_ignored", _list_of(_word)),
        group_levels=section.maybe("group_levels", _whole, 1),
        step_folders=section.maybe("step_folders", _list_of(_step_folder), ()),
    )
    section.done()
    if not 1 <= raw.group_levels <= _MOST_GROUP_LEVELS:
        raise _bad(f"{section.where}.group_levels must be 1 to {_MOST_GROUP_LEVELS}, not {raw.group_levels}")
    return raw


def _step_folder(value: Any, where: str) -> str:
    """The name of a folder, with `*` for a step, or without one, as `final`."""
    if _text(value, where).count("*") > 1 or value == "*":
        raise _bad(f"{where} must be the name of a folder with one '*', for the step, not {value!r}")
    return _word(value.replace("*", "0"), where) and str(value)


def _build_beside(pattern: str, value: Any, where: str, seed_key: str) -> beside.BesideRule:
    item = _Section(value, where)
    if not all(set(part) - {"."} for part in pattern.split("/")):
        raise _bad(f"{where}: the pattern must be the path of a file below a folder, not {pattern!r}")
    if re.search(r"[{}]", pattern.replace(beside.STEM, "")):
        raise _bad(f"{where}: only {beside.STEM} may stand in braces, for the checkpoint's name without its suffix")
    form = item.maybe("form", _beside_form, beside.form_of(pattern))
    if form is None:
        raise _bad(f"{where}: its name does not tell what it is; say form: one of {', '.join(beside.Form)}")
    paths = _Section(item.maybe("values", lambda v, _: v, {}), f"{where}.values")
    values = {key: _text(path, place) for key, path, place in paths.each()}
    if seed := item.maybe("seed", _text, ""):
        values.setdefault(seed_key, seed)
    rule = beside.BesideRule(
        pattern=pattern,
        form=form,
        up=item.maybe("up", _whole, 2),
        config=item.maybe("config", _texts, ()),
        values=values,
        metrics=item.maybe("metrics", _texts, ()),
        step=item.maybe("step", _text, ""),
        history=item.maybe("history", _text, beside.WHOLE if form.is_table else ""),
        history_step=item.maybe("history_step", _text, "step"),
    )
    item.done()
    if not 0 <= rule.up <= _MOST_LEVELS_UP:
        raise _bad(f"{where}.up must be 0 to {_MOST_LEVELS_UP}, not {rule.up}")
    if form.is_table and (rule.config or values or rule.metrics or rule.step or rule.history != beside.WHOLE):
        raise _bad(f"{where}: a {form} file is a table: of it, only history_step can be said")
    if form is beside.Form.YAML and rule.history:
        raise _bad(f"{where}.history: a history is read from json, jsonl, csv or tfevents")
    if not (rule.config or values or rule.metrics or rule.step or rule.history):
        raise _bad(f"{where} must say what the file tells: config, values, seed, metrics, step or history")
    return rule


def _beside_form(value: Any, where: str) -> beside.Form:
    if value not in list(beside.Form):
        raise _bad(f"{where} must be one of {', '.join(beside.Form)}, not {value!r}")
    return beside.Form(value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return _list_of(_text)(value, where) if isinstance(value, list) else (_text(value, where),)


def _two_texts(value: Any, where: str) -> tuple[str, str]:
    return _pair(_list_of(_text)(value, where), where)


def _build_facet(name: str, value: Any, where: str) -> Facet:
    item = _Section(value, where)
    title = item.maybe("title", _text, name)
    config = item.maybe("config", _text, "") or None
    values = []
    for word, entry, place in _Section(item.maybe("values", lambda v, _: v, {}), f"{where}.values").each():
        part = _Section(entry, place)
        condition = part.maybe("when", _text, "")
        when = facet_rules.parse_condition(condition) if condition else ()
        if when is None:
            raise _bad(f"{place}.when: {condition!r} is no condition such as `key == other_key and key > 3`")
        if bool(when) is (config is not None):
            raise _bad(f"{place}: " + ("a facet with a key needs no condition" if when else "its condition is missing"))
        values.append(
            FacetValue(
                word=word,
                value=part.get("is", _scalar) if "is" in part.value and config else word,
                folder=part.maybe("folder", _word, "") or _word(word, place),
                title=part.maybe("title", _text, word),
                when=when,
                option=part.maybe("option", _option, ""),
            )
        )
        part.done()
    facet = Facet(name=name, title=title, config=config, values=tuple(values))
    if "absent" in item.value:
        word = item.get("absent", _text)
        known = {each.word: each.value for each in values}
        if word not in known:
            raise _bad(f"{where}.absent: there is no value {word!r}{near(word, known)}")
        facet = replace(facet, absent=known[word])
    item.done()
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in (layout.GROUP, layout.TASK, layout.SEED):
        raise _bad(f"{where}: {name!r} cannot be a facet's name")
    if config is None and not values:
        raise _bad(f"{where}: neither a key (`config`) nor values with conditions tell this facet")
    for what, names in (("folder", [v.folder for v in values]), ("value", [repr(v.value) for v in values])):
        if len(set(names)) < len(names):
            raise _bad(f"{where}: two of its values have one {what}")
    return facet


def _option(value: Any, where: str) -> str:
    if not re.fullmatch(r"--[a-z][a-z0-9-]+", _text(value, where), re.ASCII):
        raise _bad(f"{where} must be an option such as --fixed, not {value!r}")
    return str(value)


def _build_layout(top: _Section, facets: Mapping[str, Facet]) -> Layout:
    where = f"{top.where}.tree"
    levels = top.get("tree", _list_of(_text))
    section = top.section("folders")
    task = top.section("raw").maybe("task", _text, "")
    if "task" in section.value:  # as version 0.1 says it
        named = section.section("task")
        digits = named.maybe("digits", _whole, 4)
        if not 1 <= digits <= 9:
            raise _bad(f"{named.where}.digits must be 1 to 9, not {digits}")
        hole = f"{{{layout.TASK}}}"
        old = next((level for level in levels if layout.holes_of(level) == [layout.TASK]), hole)
        task = named.maybe("pattern", _text, layout.HOLE.sub(hole, old)).replace(hole, f"{hole[:-1]}:0{digits}d}}")
        named.done()
        levels = tuple(task if layout.holes_of(level) == [layout.TASK] else level for level in levels)
    if "run" in section.value:
        levels = (*levels[:-1], section.get("run", _text))
    known = (layout.GROUP, layout.TASK, layout.SEED, *facets)
    holes = [hole for level in levels for hole in layout.holes_of(level)]
    for place, level in [(f"{where}[{index}]", level) for index, level in enumerate(levels)] + [
        (f"{top.where}.raw.task", task)
    ]:
        _word(layout.HOLE.sub("0", level) or "0", place)
        for hole in layout.holes_of(level):
            if hole not in known:
                raise _bad(f"{place}: there is no facet {hole!r}{near(hole, known)}")
    if task and layout.holes_of(task) != [layout.TASK]:
        raise _bad(f"{top.where}.raw.task must hold {{task}} once, not {task!r}")
    if len(set(holes)) < len(holes):
        raise _bad(f"{where}: {next(h for h in holes if holes.count(h) > 1)!r} stands there twice")
    if layout.GROUP not in holes or layout.SEED not in layout.holes_of(levels[-1]):
        raise _bad(f"{where} must have a level with {{group}}, and {{seed}} in its last, the folder of a run")
    for index, level in enumerate(levels):
        if not layout.holes_of(level):
            raise _bad(f"{where}[{index}]: {level!r} holds nothing in braces, so all runs would share it")
        if len(layout.holes_of(level)) > 1 and {layout.GROUP, layout.TASK} & set(layout.holes_of(level)):
            raise _bad(f"{where}[{index}]: group and task have a level of their own")
    if layout.GROUP in holes and layout.TASK in holes and holes.index(layout.TASK) < holes.index(layout.GROUP):
        raise _bad(f"{where}: the task's level lies below the group's")
    found = Layout(
        levels=levels,
        facets=tuple(facets[hole] for hole in holes if hole in facets),
        unknown_seed=section.get("unknown_seed", _word),
        saved_wandb=section.get("saved_wandb", _word),
        raw_task=task,
    )
    section.done()
    return found


def _build_group(
    pattern: str, value: Any, where: str, grids: Mapping[str, Grid], facets: Mapping[str, Facet]
) -> GroupPattern:
    item = _Section(value, where)
    said: dict[str, Scalar] = {}
    for name, facet in facets.items():
        if name in item.value:
            word = item.get(name, _scalar)
            known = next((v for v in facet.values if comparing.same_value(v.value, word) or v.word == word), None)
            if known is None and facet.values:
                raise _bad(f"{where}.{name} must be one of {', '.join(v.word for v in facet.values)}, not {word!r}")
            said[name] = word if known is None else known.value
    grid = item.get("grid", _text)
    if grid not in grids:
        raise _bad(f"{where}.grid: there is no grid {grid!r}{near(grid, grids)}")
    regimes = grids[grid].regimes
    regime = next((each for each in regimes if each in said.values()), "" if "" in regimes else None)
    if regime is None:
        raise _bad(f"{where}: grid {grid!r} has a part for each of {', '.join(regimes)}; say which this group is of")
    group = GroupPattern(
        pattern=pattern,
        facets=said,
        grid=grid,
        regime=regime,
        example=item.get("example", _text),
        title=item.maybe("title", _text, pattern),
        was=item.maybe("was", _texts, ()),
    )
    item.done()
    if wrong := [former for former in group.was if re.search(r"[{}]", GROUP_HOLE.sub("", former))]:
        raise _bad(f"{where}.was: {{…}} must hold one name, in {wrong[0]!r}")
    for _, kind in GROUP_HOLE.findall(pattern):
        _field_type(kind or "int", where)
    bare = GROUP_HOLE.sub("0", pattern)
    if len(set(group.holes)) < len(group.holes) or "{" in bare:
        raise _bad(f"{where}: each {{…}} must hold one name, a different one each time")
    _word(re.sub("[,=+@]", "_", bare), where)
    for hole in group.holes:
        if hole in facets and facets[hole].config is None:
            raise _bad(f"{where}: {{{hole}}} is a facet of conditions; a name holds keys, or facets of one key")
    parsed = group.parse(group.example)
    if parsed is None or group.format(parsed) != group.example:
        raise _bad(f"{where}: the example {group.example!r} is not of this pattern")
    return group


def _build_grid(name: str, value: Any, where: str, facets: Mapping[str, Facet]) -> Grid:
    item = _Section(value, where)
    axes = {key: _list_of(_scalar)(values, place) for key, values, place in item.section("axes").each()}
    regimes: dict[str, Regime] = {}
    if "regimes" in item.value:
        for regime, entry, place in item.section("regimes").each():
            part = _Section(entry, place)
            regimes[regime] = Regime(axes=part.get("axes", _list_of(_text)), set=_build_set(part))
            part.done()
            for axis in regimes[regime].axes:
                if axis not in axes:
                    raise _bad(f"{place}.axes: there is no axis {axis!r}; known are {', '.join(axes)}")
        words = {facet.name: [v.word for v in facet.values] for facet in facets.values() if facet.config is None}
        if not any(set(regimes) <= set(known) for known in words.values()):
            listed = "; ".join(f"{', '.join(known)} ({facet})" for facet, known in words.items())
            raise _bad(f"{where}.regimes: {', '.join(regimes)} are not the values of one facet of conditions: {listed}")
    else:
        regimes[""] = Regime(axes=tuple(axes), set=_build_set(item))
    numberings: dict[str, dict[str, tuple[str, ...]]] = {}
    for numbering, entry, place in _Section(item.maybe("numberings", lambda v, _: v, {}), f"{where}.numberings").each():
        numberings[numbering] = {}
        rules = _Section(entry, place)
        parts = [("", rules, place)] if "" in regimes else [(k, _Section(v, w), w) for k, v, w in rules.each()]
        for regime, part, rule_place in parts:
            if regime not in regimes:
                raise _bad(f"{rule_place}: there is no regime {regime!r}")
            outside = part.get("outside", _list_of(_text)) if "outside" in part.value else ()
            part.done()
            if outside and not set(outside) < set(regimes[regime].axes):
                raise _bad(
                    f"{rule_place}.outside must name some, not all, of the axes {', '.join(regimes[regime].axes)}"
                )
            if outside:
                numberings[numbering][regime] = outside
    grid = Grid(
        name=name,
        across=_build_across(item),
        seeds=item.get("seeds", _list_of(_whole)),
        axes=axes,
        regimes=regimes,
        numberings=numberings,
    )
    item.done()
    return grid


def _build_set(section: _Section) -> dict[str, Scalar]:
    settings = _Section(section.maybe("set", lambda v, _: v, {}), f"{section.where}.set")
    return {key: _scalar(value, where) for key, value, where in settings.each()}


def _build_across(item: _Section) -> tuple[Mapping[str, tuple[Scalar, ...]], ...]:
    """What the names of groups go over; `k` stands in front of each product."""
    lengths = item.get("k", _list_of(_whole)) if "k" in item.value else ()
    products: list[dict[str, tuple[Scalar, ...]]] = []
    for part in item.get("across", _list_of(_Section)) if "across" in item.value else ():
        products.append({key: _list_of(_scalar)(values, place) for key, values, place in part.each()})
    if not lengths:
        return tuple(products)
    return tuple({K: lengths, **product} for product in products or [{}])


def _build_axis(value: Any, where: str) -> AxisTitle:
    item = _Section(value, where)
    words = _Section(item.maybe("words", lambda v, _: v, {}), f"{where}.words")
    axis = AxisTitle(
        title=item.get("title", _text),
        short=item.get("short", _text),
        on=words.maybe("on", _text, "On"),
        off=words.maybe("off", _text, "Off"),
        option=item.maybe("option", _option, ""),
    )
    words.done()
    item.done()
    if "{}" not in axis.short:
        raise _bad(f"{where}.short must hold {{}} where the value stands, not {axis.short!r}")
    return axis


def _build_metrics(name: str, value: Any, where: str) -> list[tuple[Metric, bool]]:
    """A metric and its buckets, and whether it is the default."""
    item = _Section(value, where)
    pattern = item.get("pattern", _text)
    low, high = item.get("k", _bounds) if "k" in item.value else (None, None)
    metric = Metric(
        name=name,
        title=item.maybe("title", _text, name.replace("_", " ")),
        pattern=pattern,
        low=low,
        high=high,
        share=item.maybe("share", _flag, True),
        lower_is_better=item.maybe("lower_is_better", _flag, False),
    )
    found = [(metric, item.maybe("default", _flag, False))]
    for bucket, bounds, place in _Section(item.maybe("buckets", lambda v, _: v, {}), f"{where}.buckets").each():
        if low is None:
            raise _bad(f"{place}: a metric without k: [first, last] has no buckets")
        first, last = _bounds(bounds, place)
        found.append((replace(metric, name=f"{name}.{bucket}", low=first, high=last), False))
    item.done()
    if ("{k}" in pattern) is (low is None):
        raise _bad(f"{where}: k: [first, last] goes with a pattern that holds {{k}}, and with no other")
    if wrong := re.search(r"\{(?!k\})[^}]*\}", pattern):
        raise _bad(f"{where}.pattern: only {{k}} may stand in braces, for a length, not {wrong[0]}")
    return found


def _bounds(value: Any, where: str) -> tuple[int | str, int | str]:
    if not isinstance(value, list) or len(value) != 2:  # one key may stand there twice
        raise _bad(f"{where} must be a pair, the first length and the last, not {value!r}")
    low, high = (_bound(each, f"{where}[{index}]") for index, each in enumerate(value))
    if isinstance(low, int) and isinstance(high, int) and not 0 <= low <= high:
        raise _bad(f"{where}: the first length, {low}, must be at least 0 and at most the last, {high}")
    return low, high


def _bound(value: Any, where: str) -> int | str:
    """A length, or the configuration key that says it."""
    return value if isinstance(value, str) and value else _whole(value, where)


def _only_one(metrics: list[Metric], where: str) -> Metric:
    if len(metrics) != 1:
        raise _bad(f"{where}: " + ("there must be one" if not metrics else "several say default: true, where one may"))
    return metrics[0]


def _pair(values: tuple[T, ...], where: str) -> tuple[T, T]:
    if len(values) != 2:
        raise _bad(f"{where}: a pair is wanted, not {len(values)} values")
    return values[0], values[1]
