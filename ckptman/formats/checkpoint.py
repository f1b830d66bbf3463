"""What a checkpoint file holds, read without torch: configuration, progress, shapes; no tensor is loaded.

A checkpoint is a dictionary in one of the forms that the convention names (`checkpoint.forms`): weights under one key,
and optimizer, configuration and progress under others; or it is the weights themselves. The file is opened by
`archive`, its pickle interpreted by `pickle_reader`; this module says what the result means, and checks that the
tensors are really in the file.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from dataclasses import fields as dataclass_fields
from itertools import chain, islice
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ckptman.formats import alike, forms
from ckptman.formats.archive import PICKLE, Archive, open_archive
from ckptman.formats.bounded import Member
from ckptman.formats.pickle_reader import garbage_left, read_pickle
from ckptman.formats.pickled import (
    Array,
    Foreign,
    OtherTensor,
    Pickled,
    Record,
    Storage,
    Tensor,
)
from ckptman.formats.plain_values import MAX_TEXT, Plain, ReadNumber, as_mapping
from ckptman.formats.refusals import refusal
from ckptman.formats.weight_shapes import AVERAGED, is_mask
from ckptman.rules import TrainConfig, comparing, recipe
from ckptman.text import ConfigurationError, interpolation, strict_yaml, wording

if TYPE_CHECKING:
    from ckptman.rules import terms

TORCH_ARCHIVE: Final = "torch archive"
"""The container of a file that `torch.save` wrote."""

_SHOWN = 1000
"""Characters of a line of what is printed of a checkpoint."""


@dataclass(slots=True, unsafe_hash=True)
class TensorInfo:
    """One tensor of the weights. Never changed, though not frozen: a file has dozens, and a frozen one takes four times
    as long to make."""

    name: str
    """Seen through the prefixes that wrappers of a model put before it."""
    shape: tuple[int, ...]
    dtype: str
    """As torch calls it, such as `float32`."""
    view: Tensor | OtherTensor | None = dataclass_field(default=None, compare=False, repr=False)
    """Where its elements are: which of them, of which storage of the file."""
    saved_as: str = dataclass_field(default="", compare=False, repr=False)
    """Its name in the file."""
    file: str = dataclass_field(default="", compare=False, repr=False)
    """The file of a checkpoint that is a folder."""


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """One parameter group of an optimizer."""

    hyperparameters: dict[str, Any]
    """Learning rate and so on, as plain values; what is not plain is named by its kind: `<tensor float32 [3]>`."""
    parameters: int
    """Number of parameters (tensors) in the group."""


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """The optimizer's state. Which class it was is not in the file."""

    states: int
    """Number of parameters that have a state."""
    tensors: int
    """Number of tensors in all states."""
    groups: tuple[ParamGroup, ...]
    nbytes: int = 0
    """Bytes of these tensors."""
    dtypes: tuple[str, ...] = ()
    """Of these tensors."""
    keys: tuple[str, ...] = ()
    """Where in the file it stands."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What one checkpoint file says of itself."""

    form: str
    """Name of the form in the convention: `A`, `B` …"""
    size: int
    """Bytes of the file."""
    iters_done: int | None
    itr: int | None
    """Index of the last iteration, where the file has it."""
    run_id: str | None
    """The W&B run, where the file has it."""
    config: dict[str, Any] | None
    """The training configuration, in plain values, nested where the file has it so: see `plain_values`."""
    config_class: str | None
    """Full name of the class the configuration was an instance of; None where it was a dictionary."""
    model_config: dict[str, Any] | None
    """As `config`."""
    tensors: tuple[TensorInfo, ...]
    """The weights, in the order of the file."""
    compiled: bool
    """Whether the weights' names had the prefix of a compiled model."""
    parameters: int
    """Number of elements of the weights, those of tensors that share a storage counted once, and those of causal masks
    not."""
    optimizer: OptimizerInfo | None
    other_keys: tuple[str, ...]
    """Keys of the saved dictionary that nothing was read from."""
    container: str = TORCH_ARCHIVE
    """What holds it, in words."""
    members: tuple[Member, ...] = ()
    """The files of a checkpoint that is a folder."""
    missing: tuple[str, ...] = ()
    """Files of such a checkpoint that it names and that are not there, or are not whole."""
    config_key: str | None = None
    """Where in the file the configuration stands, as `hyper_parameters.model`."""
    unused_configs: tuple[str, ...] = ()
    """Those of `other_keys` that look like a configuration."""
    opaque: tuple[str, ...] = ()
    """Keys of the configuration with values of which W&B may have made what only the program knows."""
    not_tensors: tuple[str, ...] = ()
    """Entries among the weights that are no tensors."""
    foreign: tuple[Foreign, ...] = ()
    """Objects in the file of classes that nobody listed."""
    nbytes: int = 0
    """Bytes of the weights, those of a storage counted once."""
    weights_key: str | None = None
    """Where in the file the weights stand; None where the file is the weights."""
    unnamed_fields: tuple[str, ...] = ()
    """Those of `other_keys` with an object whose fields stand in the file without their names."""
    odd_fields: tuple[str, ...] = ()
    """Known keys that hold what they cannot, and so are not read: each with what it holds."""

    def __str__(self) -> str:
        """What it is, on a screen; `repr` has all of it."""
        done = "" if self.iters_done is None else f", {self.iters_done:,} iterations done"
        kinds = ", ".join(sorted({tensor.dtype for tensor in self.tensors}))
        config = ", ".join(f"{key}={value!r}" for key, value in (self.config or {}).items())
        lines = [
            f"{self.container}, form {self.form}, {wording.size_text(self.size)}{done}",
            f"weights: {wording.count_text(len(self.tensors), 'tensor')}, {self.parameters:,} parameters, {kinds}",
            f"config: {config or 'none'}",
            *(f"missing: {name}" for name in self.missing[:1]),
        ]
        return "\n".join(textwrap.shorten(wording.one_line(line), _SHOWN, placeholder=" …") for line in lines)

    @property
    def is_found(self) -> bool:
        """Whether the weights do not stand where a form has them, but were looked for."""
        return self.form == forms.BY_CONTENT or "." in (self.weights_key or "")


def read_checkpoint(
    path: str | os.PathLike[str], rules: terms.CheckpointRules, *, fd: int | None = None, verify: bool = False
) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without executing anything in it and without loading a tensor.

    The content of the tensors is not read unless `verify` is set.

    Args:
        path: The file.
        rules: The forms, configuration classes and prefixes to read it by.
        fd: An open descriptor of the file, to read from instead of opening `path`.
        verify: Check all bytes against the checksums of the archive.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS`.
    """
    with open_archive(path, fd=fd) as archive, garbage_left():
        info = read_archive(archive, rules)
        if verify:
            archive.verify_crcs()
        return info


def read_archive(archive: Archive, rules: terms.CheckpointRules) -> CheckpointInfo:
    """As `read_checkpoint`, of an archive that is open."""
    data = archive.read(PICKLE, archive.size)
    sample = alike.sample_of(data, rules)

    def said_with(values: Sequence[int | str]) -> alike.Said:
        return _interpret(alike.with_values(data, rules, values), archive, rules)

    if sample is not None and (known := alike.known(sample, said_with)) is not None:
        info, storages, _ = known(archive.size)
        check_storages(archive, storages)
        return info
    said = _interpret(data, archive, rules)
    if sample is not None:
        alike.learn(sample, rules, said)
    return said.info


def _interpret(data: bytes, archive: Archive, rules: terms.CheckpointRules) -> alike.Said:
    """What a pickle of an archive says."""
    pickled = read_pickle(data, config_classes=rules.config_classes, inert=rules.inert)
    storages = tuple(pickled.storages.values())
    check_storages(archive, storages)
    source = _Watched(archive)
    return alike.Said(describe(pickled, rules, source), storages, not source.was_read)


class _Watched:
    """An archive, and whether anything but its pickle was read of it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.size = archive.size
        self.was_read = False

    def part(self, name: str, start: int, size: int) -> bytes:
        """As `Archive.part`."""
        self.was_read = True
        return self._archive.part(name, start, size)


def describe(pickled: Pickled, rules: terms.CheckpointRules, source: Source) -> CheckpointInfo:
    """What a saved dictionary says of itself, whatever holds it.

    Args:
        pickled: The dictionary.
        rules: As for `read_checkpoint`.
        source: What it came from, to read a number that is a tensor.

    Raises:
        RefusedError: `foreign` or `bad-field`.
    """
    return _Description(pickled, rules, source).info()


class Held(NamedTuple):
    """What stands under a key of a saved dictionary."""

    what: str
    """`weights`, `optimizer`, `config` or `count`."""
    number: int | None = None
    """The count, or how many weights there are."""


def outline(archive: Archive, rules: terms.CheckpointRules) -> dict[str, Held]:
    """What the keys of a saved dictionary are of, whatever its form: weights, an optimizer, a configuration, a count.

    Counts in a dictionary in it stand under its key and theirs, joined by a dot.

    Raises:
        RefusedError: as `read_checkpoint`.
    """
    value = read_pickle(
        archive.read(PICKLE, archive.size), config_classes=rules.config_classes, inert=rules.inert
    ).value
    found: dict[str, Held] = {}
    for key, item in value.items() if isinstance(value, dict) else ():
        if type(key) is not str or not key.isidentifier():
            continue
        if _optimizer_parts(item):
            found[key] = Held("optimizer")
        elif (weights := forms.weights_of(item)) is not None:
            found[key] = Held("weights", len(weights))
        elif _is_count(item):
            found[key] = Held("count", item)
        elif held := _as_config(_read(item)):
            found[key] = Held("config")
            inner = ((name, number) for name, number in held.items() if type(name) is str and name.isidentifier())
            found |= {f"{key}.{name}": Held("count", number) for name, number in inner if _is_count(number)}
    return found


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def check_storages(archive: Archive, storages: tuple[Storage, ...]) -> None:
    """Check that the archive holds all bytes of each storage. That tensors fit their storages is known already."""
    if storages is archive.layout.held:
        return
    entries = archive.layout.entries
    for key, _, itemsize, numel in storages:
        entry = entries.get(f"data/{key}")
        if entry is None:
            raise refusal("bad-tensor", f"the file lacks the entry of storage {key!r}")
        if (size := entry[2]) < itemsize * numel:
            raise refusal(
                "bad-tensor",
                f"storage {key!r} needs {itemsize * numel:,} bytes, but its entry has only {size:,}",
            )
    archive.layout.held = storages


class Source(Protocol):
    """What holds the bytes of tensors, such as an `Archive`."""

    @property
    def size(self) -> int:
        """Bytes of the file or folder."""

    def part(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of the storage `data/<key>`."""


class _Description:
    """What a file says of itself, put together from the values of its dictionary."""

    def __init__(self, pickled: Pickled, rules: terms.CheckpointRules, archive: Source) -> None:
        self._pickled = pickled
        self._rules = rules
        self._archive = archive
        self._value, self._form, self._weights, self._inside = forms.find(pickled.value, rules.forms)
        self._used: set[Any] = set()
        if self._form.whole:
            self._used |= {key for key, item in self._value.items() if forms.is_beside(key, item)}
        else:
            self._use(self._form.weights)
        self._classes: set[str] = set()
        self._odd: list[str] = []
        self._opaque: set[str] = set()

    def info(self) -> CheckpointInfo:
        form = self._form
        config_key, config, config_class = self._config()
        model_config = self._model_config()
        tensors, compiled = _tensors(self._weights, form.weights or "content", self._rules)
        others = {str(tensor.saved_as) for tensor in tensors}
        optimizer = self._optimizer()
        parameters, nbytes = count_elements(tensor.view for tensor in tensors)
        own = [tensor.view for tensor in tensors if not is_mask(tensor.name, tensor.shape)]
        if len(own) < len(tensors):
            parameters, _ = count_elements(own)
        return CheckpointInfo(
            form=form.name,
            size=self._archive.size,
            iters_done=self._iters(),
            itr=self._count(form.itr),
            run_id=self._text(form.run_id),
            config=config,
            config_class=config_class,
            model_config=model_config,
            tensors=tensors,
            compiled=compiled,
            parameters=parameters,
            optimizer=optimizer,
            other_keys=tuple(_shown_key(key) for key in self._other_keys()),
            config_key=config_key,
            unused_configs=tuple(self._unused_configs(nested=config is None and model_config is None)),
            unnamed_fields=tuple(_shown_key(key) for key in self._other_keys() if _has_no_names(self._value[key])),
            odd_fields=tuple(self._odd),
            opaque=tuple(sorted(self._opaque)),
            not_tensors=tuple(
                _shown_key(name)
                for name, item in self._weights.items()
                if str(name) not in others and (not form.whole or forms.is_beside(name, item))
            ),
            foreign=self._foreign(config_key),
            weights_key=form.weights or None,
            nbytes=nbytes,
        )

    def _other_keys(self) -> list[Any]:
        return [key for key in self._value if key not in self._used]

    def _unused_configs(self, *, nested: bool) -> Iterator[str]:
        """Keys that look like a configuration; where none was found, also those one level deeper."""
        for key in self._other_keys():
            value = self._value[key]
            if _looks_like_config(key, value):
                yield _shown_key(key)
            elif nested and isinstance(value, dict) and not forms.is_optimizer(value):
                inner = (_shown_key(name) for name, item in value.items() if _looks_like_config(name, item))
                yield from (f"{_shown_key(key)}.{name}" for name in islice(inner, _MOST_INNER))

    def _foreign(self, config_key: str | None) -> tuple[Foreign, ...]:
        """Without the classes that are the configuration, whose fields were read."""
        inside = tuple(key for key in (config_key, self._form.model_config) if key)
        return tuple(
            item
            for item in self._pickled.foreign
            if not (item.name in self._classes and item.places and all(p.startswith(inside) for p in item.places))
        )

    # Its fields, by meaning

    def _find(self, key: str | None) -> Any:
        """The value of a key of the form; a dotted one leads into dictionaries and objects."""
        return forms.item_at(self._value, key) if key else None

    def _use(self, key: str) -> None:
        self._used.add(key if key in self._value else key.partition(".")[0])

    def _iters(self) -> int | None:
        """The iterations done: under the form's own key, else under the first of `step_keys` that has them."""
        keys = (self._form.iters, *(f"{self._inside}{key}" for key in self._rules.step_keys), *self._rules.step_keys)
        for key in () if self._form.whole else dict.fromkeys(keys):
            if (found := self._count(key)) is not None:
                return found
        return None

    def _count(self, key: str | None) -> int | None:
        value = self._find(key)
        if key is None or value is None:
            return None
        found = count_of(self._number(value) if isinstance(value, Tensor) and math.prod(value.shape) == 1 else value)
        if found is not None:
            self._use(key)
        elif key in (self._form.iters, self._form.itr):
            self._odd.append(f"{key} is {brief(value)}, not a number of iterations")
        return found

    def _text(self, key: str | None) -> str | None:
        found = self._find(key)
        if key is None or found is None:
            return None
        if type(found) is not str:
            self._odd.append(f"{key} is {brief(found)}, not text")
            return None
        self._use(key)
        return found or None

    def _number(self, tensor: Tensor) -> Any:
        """The element of a tensor that has one; None for a dtype that has no numbers of Python."""
        form = _ELEMENTS.get(tensor.dtype)
        if form is None or tensor.conj:
            return None
        data = self._archive.part(f"data/{tensor.storage.key}", tensor.offset * tensor.itemsize, tensor.itemsize)
        number = Struct(f"<{form}").unpack(bytes(2) + data if tensor.dtype == "bfloat16" else data)[0]
        return -number if tensor.neg else number

    def _config(self) -> tuple[str | None, dict[str, Any] | None, str | None]:
        """The training configuration: the form's own key, else one of `config_keys`.

        Of several, the first that has keys of a run; where none has, the first.
        """
        keys = (
            self._form.config,
            *(f"{self._inside}{key}" for key in self._rules.config_keys),
            *self._rules.config_keys,
        )
        first = None
        seen = {id(None)}
        for key in dict.fromkeys(keys):
            value = None if key == self._form.model_config else self._find(key)
            found = None if id(value) in seen else _read(value)
            seen.add(id(value))
            if not _as_config(found):
                continue
            if _has_keys_of_run(found):
                return self._read_config(key, found)
            first = first or (key, found)
        return (None, None, None) if first is None else self._read_config(*first)

    def _read_config(self, key: str, found: Any) -> tuple[str, dict[str, Any] | None, str | None]:
        self._use(key)
        name = found.class_name if type(found) is Record else None
        if _is_omegaconf(found):
            found = self._interpolated(found, key)
        elif any(map(_is_omegaconf, (items := as_mapping(found) or {}).values())):
            found = {
                each: self._interpolated(item, key) if _is_omegaconf(item) else item for each, item in items.items()
            }
            self._classes |= {name} if name else set()
        key, section = _section(key, found)
        plain = self._plain(section, key, self._opaque)
        return key, plain, section.class_name if type(section) is Record else name if section is found else None

    def _interpolated(self, found: Any, key: str) -> Any:
        """What a container of OmegaConf holds, with what its interpolations stand for."""
        plain = self._plain(found, key, self._opaque)
        return found if plain is None else interpolation.interpolated(plain)

    def _model_config(self) -> dict[str, Any] | None:
        key = self._form.model_config
        found = _read(self._find(key))
        if not key or _as_config(found) is None:
            return None
        self._use(key)
        return self._plain(found, key)

    def _plain(self, value: Any, key: str, opaque: set[str] | None = None) -> dict[str, Any] | None:
        plain = Plain(key, self._number)
        found = plain.mapping(value)
        self._classes |= plain.classes
        if opaque is not None:
            opaque |= plain.opaque
        return None if found is None else _by_meaning(found)

    def _optimizer(self) -> OptimizerInfo | None:
        key = self._form.optimizer
        found = self._find(key)
        if not key or not _optimizer_parts(found):
            others = {key: self._value[key] for key in self._other_keys() if _is_of_optimizers(self._value[key])}
            self._used |= others.keys()
            found = list(chain(*map(_optimizer_parts, others.values())))
            return _optimizer(found, tuple(map(_shown_key, others)), self._number) if found else None
        self._use(key)
        return _optimizer(found, (key,), self._number)


def _shown_key(key: Any) -> str:
    return key if type(key) is str else str(key)[:80]


def count_of(value: Any) -> int | None:
    """The number of iterations that a value means, whatever holds it; None for what means none."""
    if type(value) is Array:
        value = value.item()
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value).__name__ in ("float", "Decimal", "Fraction"):  # the latter two are only there if they were read
        try:
            whole = int(value) if abs(value) < 1 << 63 else -1
            value = whole if whole == value else None
        except ArithmeticError:  # a signalling NaN of Decimal
            return None
    return value if type(value) is int and 0 <= value < 1 << 63 else None


_ELEMENTS: Final = {
    "float64": "d", "float32": "f", "float16": "e", "bfloat16": "f", "int64": "q", "int32": "i", "int16": "h",
    "int8": "b", "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?",
}  # fmt: skip

_KINDS: Final = {item.name: str(item.type) for item in dataclass_fields(TrainConfig)}
"""The type of each field of a configuration that is known."""
_TYPES: Final = {name: kind for name, told in _KINDS.items() for kind in (bool, int, float) if told == kind.__name__}
_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[-+]?([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})([eE][-+]?[0-9]{1,3})?")


def meant(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of plain values that another file has, as that of a checkpoint is read: with the keys of its
    sections, and each value as its field means it."""
    return _by_meaning(_section("", config)[1])


def _by_meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item if type(item) is _TYPES.get(name) else by_meaning(name, item) for name, item in config.items()}


def by_meaning(key: str, value: Any) -> Any:
    """A value of a configuration as the field of this name means it: 1 is a flag, 8.0 and "8" a whole number, and MIX,
    which is all that a pickle may have of a member of an Enum, a word."""
    kind = _KINDS.get(key)
    if kind is None:
        return value
    if kind == "bool" and type(value) in (int, float) and value in (0, 1):
        return bool(value)
    if kind == "int" and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not str:
        return value
    if kind == "bool" and value in ("true", "True", "false", "False"):
        return value[0] in "tT"
    if kind == "int" and _NUMBER.fullmatch(value):
        return int(value)
    if kind == "float" and _DECIMAL.fullmatch(value):
        return float(value)
    return value.lower() if value.lower() in recipe.WORDS.get(key, ()) else value


def _as_config(value: Any) -> Mapping[Any, Any] | None:
    """What a configuration holds; None for what is none."""
    found = as_mapping(value)
    if found is None or forms.TENSORS.isdisjoint(map(type, found.values())):
        return found
    weights = sum(type(item) in forms.TENSORS and bool(item.shape) for item in found.values())
    return None if weights > len(found) // 2 else found


def _read(value: Any) -> Any:
    """A configuration that was written out, as JSON, as YAML, as Python prints it or as pairs of key and value;
    anything else as it is."""
    if isinstance(value, list | tuple) and value and all(type(pair) is tuple and len(pair) == 2 for pair in value):
        return {key: item for key, item in value if type(key) is str} or value
    if not _is_written(value):
        return value
    try:
        text = value if type(value) is str else bytes(value).decode()
        if text.startswith("{"):
            found = json.loads(text)
        elif text.startswith(_NAMESPACE):
            found = _printed(text)
        else:
            found = strict_yaml.load_yaml(text, "", max_bytes=_MAX_YAML, dumped=True)
    except (ValueError, RecursionError, ConfigurationError):
        found = _printed(text) if text.startswith("{") else None
    return found if isinstance(found, dict) else value


def _printed(text: str) -> Any:
    """What `str()` made of a dictionary or a Namespace, if all in it are literals, which are read and not run."""
    try:
        is_literal = len(text) <= _MAX_YAML and _LITERALS.fullmatch(text)
        call = ast.parse(text, mode="eval").body if is_literal else None
        if isinstance(call, ast.Call) and text.startswith(_NAMESPACE) and not call.args:
            return {item.arg: ast.literal_eval(item.value) for item in call.keywords if item.arg}
        return None if call is None else ast.literal_eval(call)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


_NAMESPACE: Final = "Namespace("
_LITERALS: Final = re.compile(
    r"""(?x: [\s{}\[\]():,=+-] | b?'(?:[^'\\] | \\[\\'"abfnrtvxuU])*+' | b?"(?:[^"\\] | \\[\\'"abfnrtvxuU])*+"
    | (?: [0-9]++(?:\.[0-9]*+)?(?:e[+-]?[0-9]++)?j? | True | False | None | Namespace | set
        | [A-Za-z_][A-Za-z0-9_]*+(?==) )
    (?![A-Za-z0-9_.]) )*+"""
)
"""What Python prints of literals: of other text, its parser may warn."""


def _is_written(value: object) -> bool:
    if not isinstance(value, str | bytes | bytearray) or len(value) > MAX_TEXT:
        return False
    start = value[:64] if isinstance(value, str) else bytes(value[:64]).decode("latin-1")
    return start.startswith(("{", _NAMESPACE)) or _YAML.match(start) is not None


_YAML: Final = re.compile(r"(#.*|---)?\s*[\w-]+:(\s|$)")
_MAX_YAML: Final = 1 << 16


def _section(key: str, value: Any) -> tuple[str, Any]:
    """A configuration with the keys of a run: itself; the section that has them; or with those of its sections, where
    they are spread over several and do not contradict each other."""
    items = _as_config(value) or {}
    own = _KINDS.keys() & items.keys()
    if len(own) < _FEW_KEYS:
        items = _written_out(items)
    sections = {
        name: inner
        for name, item in items.items()
        if (inner := as_mapping(item)) and any(key in inner for key in _KINDS)
    }
    if not sections and own:
        return key, value
    if len(sections) == 1 and not own:
        ((name, inner),) = sections.items()
        if sum(key in inner for key in _KINDS) >= _FEW_KEYS:
            return f"{key}.{name}", items[name]
    known = _of_sections(items)
    if len(own) >= _FEW_KEYS and known.keys() <= own:
        return key, value
    return key, {**known, **_without_keys(items, known.keys() - own, _SECTION_LEVELS)}


def _written_out(items: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A configuration with the sections of it that are JSON; a text that stands in many places is parsed once."""
    texts = {id(item): item for item in items.values() if type(item) is str and item.startswith("{")}
    read = {name: _read(item) for name, item in texts.items()}
    return {name: read.get(id(item), item) for name, item in items.items()} if read else items


def _without_keys(items: Mapping[Any, Any], keys: Collection[str], levels: int) -> dict[Any, Any]:
    """A configuration whose sections lack these keys; without those that hold nothing else."""
    found = {}
    for name, item in items.items():
        section = as_mapping(item) if levels else None
        inner = None if section is None else _without_keys(section, keys, levels - 1)
        if name not in keys and (inner or not section):
            found[name] = item if inner is None else inner
    return found


def _of_sections(items: Mapping[Any, Any]) -> dict[Any, Any]:
    """What the sections of a configuration, and those in them, say of known keys; but not where they contradict."""
    found: dict[Any, Any] = {}
    seen: set[int] = set()
    contradicted: set[str] = set()
    level = [items]
    for _ in range(_SECTION_LEVELS):
        inner = {id(item): item for outer in level for item in outer.values() if id(item) not in seen}
        seen |= inner.keys()
        level = [mapping for item in inner.values() if (mapping := as_mapping(item))]
        for section in level:
            for key in _KINDS.keys() & section.keys():
                if key in found and not comparing.same_value(found[key], section[key]):
                    contradicted.add(key)
                elif not isinstance(section[key], dict | list | tuple | Record | Array):
                    found[key] = section[key]
    return {key: found[key] for key in _KINDS if key in found and key not in contradicted}


_FEW_KEYS: Final = 3
"""Known keys that make a dictionary look like a configuration."""
_SECTION_LEVELS: Final = 4


def _looks_like_config(key: Any, value: Any) -> bool:
    named = type(key) is str and any(word in key.lower() for word in ("config", "args", "hparam", "cfg", "hyper"))
    is_code = type(value) is str and "=" in value and "\n" in value
    if named and (isinstance(value, list | tuple | dict) or type(value) is Record or is_code or _is_written(value)):
        return bool(value)
    items = as_mapping(value)
    return items is not None and len(_KINDS.keys() & items.keys()) >= _FEW_KEYS


def _is_omegaconf(value: Any) -> bool:
    return type(value) is Record and value.class_name.startswith("omegaconf.")


def _has_keys_of_run(value: Any) -> bool:
    """Whether a configuration, or its sections, has some of the keys that are known."""
    items = _as_config(value) or {}
    if len(_KINDS.keys() & items.keys()) >= _FEW_KEYS:
        return True
    items = _written_out(items)
    return len(_KINDS.keys() & items.keys()) + len(_of_sections(items)) >= _FEW_KEYS


def _has_no_names(value: Any) -> bool:
    """Whether it is an object whose fields stand in the file without their names: a named tuple, a frozen class with
    slots."""
    if type(value) is not Record or value.called or as_mapping(value) is not None:
        return False
    return bool(value.args) if value.state is None else isinstance(value.state, list | tuple)


def brief(value: object) -> str:
    """A value in a message."""
    if type(value) in (float, bool) or (type(value) is int and abs(value) < 1 << 64):
        return repr(value)
    return repr(value) if type(value) is str and len(value) <= _MOST_BRIEF else forms.kind(value)


_MOST_BRIEF: Final = 40
_MOST_INNER: Final = 8


# --- its tensors ------------------------------------------------------------------------------------------------------


def _tensors(
    weights: Mapping[Any, Any], key: str, rules: terms.CheckpointRules, *, as_saved: bool = False
) -> tuple[tuple[TensorInfo, ...], bool]:
    """The weights, and whether their names had the prefix of a compiled model. What is no tensor is passed over.

    Args:
        weights: A state dict.
        key: What it is called in the file.
        rules: The prefixes to see through.
        as_saved: Leave the names as they are.
    """
    names = [name for name, tensor in weights.items() if type(tensor) in forms.TENSORS]
    if not _TEXT.issuperset(map(type, names)):
        name = next(name for name in names if type(name) is not str)
        raise refusal("bad-field", f"its {key} holds a tensor under {_shown_key(name)}, which is not text")
    clean = dict(zip(names, names, strict=True)) if as_saved else see_through(names, rules)
    if len(set(clean.values())) < len(names):
        twice, _ = Counter(clean.values()).most_common(1)[0]
        raise refusal("bad-field", f"its {key} has {twice[:80]!r} more than once, with and without a prefix")
    compiled = any(rules.compiled_prefix in name for name in names)
    tensors = [(name, weights[name]) for name in names]
    return tuple([TensorInfo(clean[name], each.shape, each.dtype, each, name) for name, each in tensors]), compiled


_TEXT: Final = frozenset({str})


def see_through(names: Iterable[str], rules: terms.CheckpointRules) -> dict[str, str]:
    """Each name without the prefixes of wrappers: those of `wrappers` anywhere, those of `prefixes` in front only.

    The latter may be a model's own names, and are left where the names would no longer be different without them. What
    all names have before those of the built-in model, such as `net.`, is where a program kept the model.
    """
    wrappers = (rules.compiled_prefix, *rules.wrappers)
    names = list(names)
    clean = dict(zip(names, names, strict=True))
    text = "\n".join(["", *names])
    if any(f"\n{prefix}" in text or f".{prefix}" in text for prefix in (*wrappers, *rules.prefixes)):  # mostly none
        for leading in ((*wrappers, *rules.prefixes), wrappers):
            clean = {name: _without(name, leading, wrappers) for name in names}
            if len(set(clean.values())) == len(names):
                break
    if f".{_FIRST}" in text:
        kept = next((name.removesuffix(_FIRST) for name in clean.values() if name.endswith(f".{_FIRST}")), "")
        if all(name.startswith(kept) or name == AVERAGED for name in clean.values()):
            return {name: short.removeprefix(kept) for name, short in clean.items()}
    return clean


_FIRST: Final = "transformer.wte.weight"
"""The first weight of the built-in model."""


def _without(name: str, leading: tuple[str, ...], anywhere: tuple[str, ...]) -> str:
    while prefix := next((prefix for prefix in leading if name.startswith(prefix) and name != prefix), None):
        name = name.removeprefix(prefix)
    for wrapper in anywhere:
        name = name.replace(f".{wrapper}", ".")
    return name


_STRIDED: Final = frozenset({Tensor})


def strided(tensors: Iterable[Tensor | OtherTensor | None]) -> list[Tensor]:
    """The strided tensors that the elements of all of them are in."""
    tensors = list(tensors)
    if _STRIDED.issuperset(map(type, tensors)):  # mostly
        return tensors  # type: ignore[return-value]
    found: list[Tensor] = []
    for tensor in tensors:
        if type(tensor) is Tensor:
            found.append(tensor)
        elif type(tensor) is OtherTensor:
            found.extend(tensor.tensors)
    return found


def count_elements(tensors: Iterable[Tensor | OtherTensor | None]) -> tuple[int, int]:
    """Elements of all tensors, and their bytes. Tied weights are equal tensors; other views of a storage have at most
    its elements."""
    first: dict[str, Tensor] = {}
    views: dict[str, dict[Tensor, None]] = {}  # of storages with several: most have one, and need no comparison
    for tensor in strided(tensors):
        key = tensor[0][0]
        if (known := first.setdefault(key, tensor)) is not tensor:
            views.setdefault(key, {known: None})[tensor] = None
    elements = nbytes = 0
    for key, ((_, _, width, numel), _, itemsize, _, shape, _, _, _) in first.items():
        count = sum([math.prod(view.shape) for view in views[key]]) if key in views else math.prod(shape)
        if width == itemsize:  # mostly
            count = count if count < numel else numel
            elements += count
            nbytes += count * itemsize
        else:
            elements += min(count, width * numel // itemsize)
            nbytes += min(count * itemsize, width * numel)
    return elements, nbytes


# --- its optimizer ----------------------------------------------------------------------------------------------------


def _optimizer_parts(value: object) -> list[dict[Any, Any]]:
    """The `state_dict()` of an optimizer, or of several in a list, a tuple or a dictionary by name."""
    parts: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(value, dict) and "state" not in value:
        parts = list(value.values())
        if any(map(forms.is_optimizer, parts)):  # beside what a wrapper of optimizers keeps
            parts = list(filter(forms.is_optimizer, parts))
    if not all(isinstance(p, dict) and (isinstance(p.get("state"), dict) or forms.is_optimizer(p)) for p in parts):
        return []
    return parts


def _is_of_optimizers(value: object) -> bool:
    """Whether it is the state of an optimizer, or of several in a list, a tuple or a dictionary by name."""
    parts = value.values() if isinstance(value, dict) and "state" not in value else _optimizer_parts(value)
    return bool(parts) and all(map(forms.is_optimizer, parts))


def _tensors_in(state: object) -> Iterator[Any]:
    """The tensors in the state of a parameter, in whatever containers."""
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    for item in items:
        if type(item) in forms.TENSORS:
            yield item
        else:
            yield from _tensors_in(item)


def _optimizer(value: object, keys: tuple[str, ...], read_number: ReadNumber | None = None) -> OptimizerInfo | None:
    """A summary of the optimizers' states; None where it is none."""
    states = 0
    tensors: list[Any] = []
    groups: list[ParamGroup] = []
    plain = Plain(", ".join(keys), read_number)
    for part in _optimizer_parts(value):
        known = part["state"]
        for state in known.values() if isinstance(known, dict) else known:
            states += 1
            tensors += _tensors_in(state)
        param_groups = part.get("param_groups", part.get("hypers"))
        groups += (
            [_param_group(group, plain) for group in param_groups if isinstance(group, dict)]
            if isinstance(param_groups, list | tuple)
            else []
        )
    if not states and not groups and value in (None, {}):
        return None
    dtypes = tuple(dict.fromkeys(tensor.dtype for tensor in tensors))
    return OptimizerInfo(states, len(tensors), tuple(groups), count_elements(tensors)[1], dtypes, keys)


def _param_group(group: Mapping[Any, Any], plain: Plain) -> ParamGroup:
    params = group.get("params")
    settings = {_shown_key(name): plain.value(value) for name, value in group.items() if name != "params"}
    return ParamGroup(settings, len(params) if isinstance(params, list | tuple) else 0)
