"""Reading the convention: the built-in `convention.yaml`, extended by a lab's `ckptman.yaml`, checked as it loads.

Only this module knows how the YAML is laid out; the others see the dataclasses of `convention`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ckptman.rules import beside, inert
from ckptman.rules.naming import FIELD_TYPES, Naming
from ckptman.rules.terms import (
    AxisTitle,
    CheckpointForm,
    CheckpointRules,
    Convention,
    Families,
    Folders,
    Grid,
    GroupPattern,
    ModelRules,
    NameField,
    Prefix,
    RawLayout,
    Regime,
    Scalar,
    Setting,
)
from ckptman.text import CkptmanError, ConfigurationError, RefusedError, strict_yaml

FILE_NAME = "ckptman.yaml"
BUILT_IN = Path(__file__).with_name("convention.yaml")

T = TypeVar("T")

_MOST_LEVELS_UP = 9
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


def load_convention(file: Path | None = None, *, numbering: str | None = None) -> Convention:
    """Load the built-in convention, extended by `file` if one is given.

    Args:
        file: A `ckptman.yaml`.
        numbering: Overrides the numbering the files name.

    Raises:
        ConfigurationError: naming the file, the key and the nearest known one; (`unknown-numbering`) where a grid has
            no numbering `numbering`.
    """
    document = _built_in_document()
    if file is not None:
        document = _merged(document, _read(file), str(file))
    convention = _build(document, str(file or BUILT_IN.name), file)
    if numbering is not None:
        convention = replace(convention, numbering=numbering)
        if problem := _numbering_problem(convention):
            raise ConfigurationError(
                f"the numbering that was asked for: {problem}",
                code="unknown-numbering",
                fix="Correct --numbering, or CKPTMAN_NUMBERING, or `numbering` among the settings of the ckptman.yaml.",
            )
    _check_examples(convention, str(file or BUILT_IN.name))
    return convention


@cache
def built_in() -> Convention:
    """The built-in convention."""
    return load_convention()


# --- reading and merging ----------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {file}: {error.strerror}", code="config-unreadable", fix="Check the path and its permissions."
        ) from error
    try:
        document = strict_yaml.load_yaml(data, str(file))
    except CkptmanError as error:
        raise ConfigurationError(error.message, code="config-syntax", fix=error.fix) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _bad(f"{file} must be a mapping of keys to values, not a {type(document).__name__}")
    return document


@cache
def _built_in_document() -> dict[str, Any]:
    return _read(BUILT_IN)


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
                near = get_close_matches(str(key), self.asked, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(self.asked))}"
                raise _bad(f"{self.where}: unknown key {key!r}{hint}")


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
    fields = _build_fields(name.section("fields"))
    prefixes = tuple(_build_prefix(*item) for item in name.section("prefixes").each())
    step = name.section("step")
    metrics = top.section("metrics")
    generalization = metrics.section("generalization")
    attribution = top.section("attribution")
    run = top.section("run")
    grids = {key: _build_grid(key, value, place) for key, value, place in top.section("grids").each()}
    convention = Convention(
        title=top.get("title", _text),
        numbering=top.get("numbering", _text),
        statistics=top.get("statistics", _statistics),
        prefixes=prefixes,
        fields=fields,
        step_tag=step.get("tag", _word),
        step_title=step.get("title", _text),
        name_examples=name.get("examples", _list_of(_text)),
        checkpoint=_build_checkpoint(top.section("checkpoint")),
        model=_build_model(top.section("model")),
        raw=_build_raw(top.section("raw")),
        beside=tuple(_build_beside(*item, run.get("seed", _text)) for item in top.section("beside").each()),
        seed_key=run.get("seed", _text),
        group_key=run.get("group", _text),
        families=_build_families(top.section("families")),
        folders=_build_folders(top.section("folders")),
        groups=tuple(_build_group(*item, grids) for item in top.section("groups").each()),
        grids=grids,
        axis_titles={key: _build_axis(value, place) for key, value, place in top.section("axes").each()},
        generalization_pattern=generalization.get("pattern", _text),
        generalization_k=_pair(generalization.get("k", _list_of(_whole)), generalization.where),
        ignored_keys=frozenset(attribution.get("ignored", _list_of(_text))),
        settings={
            key: _setting(value, place)
            for key, value, place in _Section(top.maybe("settings", lambda v, _: v, {}), f"{where}.settings").each()
        },
        source=source,
    )
    for section in (top, name, step, run, metrics, generalization, attribution):
        section.done()
    if problem := _numbering_problem(convention):
        raise _bad(f"{where}: {problem}")
    return convention


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
            near = get_close_matches(after, [other.tag for other in ordered], n=1, cutoff=0.3)
            raise _bad(f"{where}.after: there is no field {after!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
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
        step_config=item.get("step", _text),
        step_plus=item.maybe("plus", _whole, 0),
    )
    item.done()
    if not re.fullmatch(r"[A-Za-z0-9-]+", name, re.ASCII):
        raise _bad(f"{where}: a prefix is made of letters, digits and '-', not {name!r}")
    return prefix


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
    rules = CheckpointRules(
        suffix=section.get("suffix", _word),
        other_suffixes=section.get("other_suffixes", _list_of(_word)),
        forms=tuple(forms),
        config_classes=section.get("config_classes", _list_of(_text)),
        compiled_prefix=section.get("compiled_prefix", _text),
        wrappers=section.maybe("wrappers", _list_of(_text), ()),
        prefixes=section.maybe("prefixes", _list_of(_text), ()),
        config_keys=section.maybe("config_keys", _list_of(_text), ()),
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
    raw = RawLayout(
        saved_models=section.get("saved_models", _word),
        wandb=section.get("wandb", _word),
        state=section.get("state", _word),
        status=section.get("status", _word),
        metrics=section.get("metrics", _word),
        wandb_runs=section.get("wandb_runs", _list_of(_word)),
        wandb_ignored=section.get("wandb_ignored", _list_of(_word)),
    )
    section.done()
    return raw


def _build_beside(pattern: str, value: Any, where: str, seed_key: str) -> beside.BesideRule:
    item = _Section(value, where)
    if not all(part and set(part) > {"."} for part in pattern.split("/")):
        raise _bad(f"{where}: the pattern must be the path of a file below a folder, not {pattern!r}")
    if re.search(r"[{}]", pattern.replace(beside.STEM, "")):
        raise _bad(f"{where}: only {beside.STEM} may stand in braces, for the checkpoint's name without its suffix")
    form = item.maybe("form", _beside_form, beside.form_of(pattern))
    if form is None:
        raise _bad(f"{where}: its name does not tell what it is; say form: one of {', '.join(beside.Form)}")
    paths = _Section(item.maybe("values", lambda v, _: v, {}), f"{where}.values")
    values = {key: _text(path, place) for key, path, place in paths.each()}
    if seed := item.maybe("seed", _text, ""):
        values[seed_key] = seed
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


def _build_families(section: _Section) -> Families:
    layernorm, regime = section.section("layernorm"), section.section("regime")

    def two(owner: _Section, key: str, first: str, second: str) -> tuple[str, str]:
        item = owner.section(key)
        values = item.get(first, _text), item.get(second, _text)
        item.done()
        return values

    folders = two(layernorm, "folders", "with", "without")
    titles = two(layernorm, "titles", "with", "without")
    regimes = "dynamic", "fixed"
    families = Families(
        layernorm_config=layernorm.get("config", _text),
        layernorm_folders={True: folders[0], False: folders[1]},
        layernorm_titles={True: titles[0], False: titles[1]},
        k_config=regime.get("k", _text),
        fixed_when_equal=_pair(regime.get("fixed_when_equal", _list_of(_text)), regime.where),
        regime_folders=dict(zip(regimes, two(regime, "folders", *regimes), strict=True)),
        regime_titles=dict(zip(regimes, two(regime, "titles", *regimes), strict=True)),
    )
    for item in (section, layernorm, regime):
        item.done()
    for level in (families.layernorm_folders, families.regime_folders):
        names = [_word(name, section.where) for name in level.values()]
        if len(set(names)) < len(names):
            raise _bad(f"{section.where}: two folders of one level have one name, {names[0]!r}")
    return families


def _build_folders(section: _Section) -> Folders:
    task = section.section("task")
    folders = Folders(
        task_pattern=task.get("pattern", _text),
        task_digits=task.get("digits", _whole),
        run_pattern=section.get("run", _text),
        unknown_seed=section.get("unknown_seed", _word),
        saved_wandb=section.get("saved_wandb", _word),
    )
    task.done()
    section.done()
    for key, pattern, hole in (
        ("task.pattern", folders.task_pattern, "{task}"),
        ("run", folders.run_pattern, "{seed}"),
    ):
        if pattern.count(hole) != 1:
            raise _bad(f"{section.where}.{key} must hold {hole} once, not {pattern!r}")
        _word(pattern.replace(hole, "0"), f"{section.where}.{key}")
    if not 1 <= folders.task_digits <= 9:
        raise _bad(f"{section.where}.task.digits must be 1 to 9, not {folders.task_digits}")
    return folders


def _build_group(pattern: str, value: Any, where: str, grids: Mapping[str, Grid]) -> GroupPattern:
    item = _Section(value, where)
    group = GroupPattern(
        pattern=pattern,
        layernorm=item.get("layernorm", _flag),
        regime=item.get("regime", _text),
        grid=item.get("grid", _text),
        example=item.get("example", _text),
        title=item.maybe("title", _text, pattern),
    )
    item.done()
    holes = re.findall(r"\{(\w*)\}", pattern)
    if len(set(holes)) < len(holes) or not all(re.fullmatch(r"[A-Za-z]\w*", hole, re.ASCII) for hole in holes):
        raise _bad(f"{where}: each {{…}} must hold one name, a different one each time")
    if "K" not in holes:
        raise _bad(f"{where}: the pattern must hold {{K}}, the longest trained list")
    _word(re.sub(r"\{\w+\}", "0", pattern), where)
    if group.grid not in grids:
        raise _bad(f"{where}.grid: there is no grid {group.grid!r}; known are {', '.join(grids)}")
    if group.regime not in grids[group.grid].regimes:
        known = ", ".join(grids[group.grid].regimes)
        raise _bad(f"{where}.regime must be one of the grid's, {known}; not {group.regime!r}")
    parsed = group.parse(group.example)
    if parsed is None or group.format(parsed) != group.example:
        raise _bad(f"{where}: the example {group.example!r} is not of this pattern")
    return group


def _build_grid(name: str, value: Any, where: str) -> Grid:
    item = _Section(value, where)
    axes = {key: _list_of(_scalar)(values, place) for key, values, place in item.section("axes").each()}
    regimes = {}
    for regime, entry, place in item.section("regimes").each():
        if regime not in ("dynamic", "fixed"):
            raise _bad(f"{place}: a regime is dynamic or fixed")
        part = _Section(entry, place)
        settings = _Section(part.maybe("set", lambda v, _: v, {}), f"{place}.set")
        regimes[regime] = Regime(
            axes=part.get("axes", _list_of(_text)), set={key: _scalar(v, w) for key, v, w in settings.each()}
        )
        part.done()
        for axis in regimes[regime].axes:
            if axis not in axes:
                raise _bad(f"{place}.axes: there is no axis {axis!r}; known are {', '.join(axes)}")
    numberings: dict[str, dict[str, tuple[str, ...]]] = {}
    for numbering, entry, place in item.section("numberings").each():
        numberings[numbering] = {}
        for regime, rule, rule_place in _Section(entry, place).each():
            if regime not in regimes:
                raise _bad(f"{rule_place}: there is no regime {regime!r}")
            part = _Section(rule, rule_place)
            outside = part.get("outside", _list_of(_text))
            part.done()
            if not set(outside) < set(regimes[regime].axes):
                raise _bad(
                    f"{rule_place}.outside must name some, not all, of the axes {', '.join(regimes[regime].axes)}"
                )
            numberings[numbering][regime] = outside
    grid = Grid(
        name=name,
        k=item.get("k", _list_of(_whole)),
        seeds=item.get("seeds", _list_of(_whole)),
        axes=axes,
        regimes=regimes,
        numberings=numberings,
    )
    item.done()
    return grid


def _build_axis(value: Any, where: str) -> AxisTitle:
    item = _Section(value, where)
    words = _Section(item.maybe("words", lambda v, _: v, {}), f"{where}.words")
    axis = AxisTitle(
        title=item.get("title", _text),
        short=item.get("short", _text),
        on=words.maybe("on", _text, "On"),
        off=words.maybe("off", _text, "Off"),
    )
    words.done()
    item.done()
    return axis


def _pair(values: tuple[T, ...], where: str) -> tuple[T, T]:
    if len(values) != 2:
        raise _bad(f"{where}: a pair is wanted, not {len(values)} values")
    return values[0], values[1]


# --- checks across sections -------------------------------------------------------------------------------------------


def _numbering_problem(convention: Convention) -> str:
    """Which grid lacks the numbering in force; empty where none does."""
    for grid in convention.grids.values():
        if convention.numbering not in grid.numberings:
            near = get_close_matches(convention.numbering, grid.numberings, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(grid.numberings)}"
            return f"grid {grid.name!r} has no numbering {convention.numbering!r}{hint}"
    return ""


def _check_examples(convention: Convention, where: str) -> None:
    """Each example must come back the same from a parse and a format: the check that the rules hold together."""
    naming = Naming(convention)
    for example in convention.name_examples:
        try:
            again = naming.format(naming.parse(example))
        except RefusedError as error:
            raise _bad(f"{where}: name.examples: {error.message}") from error
        if again != example:
            raise _bad(f"{where}: name.examples: {example!r} comes back as {again!r}")
