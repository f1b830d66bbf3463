"""What a checkpoint file holds, read without torch: configuration, progress, shapes; no tensor is loaded.

A checkpoint is a dictionary in one of the forms that the convention names (`checkpoint.forms`): weights under one key,
and optimizer, configuration and progress under others; or it is the weights themselves. The file is opened by
`archive`, its pickle interpreted by `pickle_reader`; this module says what the result means, and checks that the
tensors are really in the file.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from dataclasses import fields as dataclass_fields
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from ckptman.formats import alike
from ckptman.formats.archive import PICKLE, Archive, open_archive
from ckptman.formats.bounded import Member
from ckptman.formats.pickle_reader import garbage_left, read_pickle
from ckptman.formats.pickled import (
    Array,
    Device,
    DType,
    Foreign,
    OtherTensor,
    PathParts,
    Pickled,
    Record,
    Storage,
    Tensor,
    fields_of,
)
from ckptman.formats.plain_values import MAX_TEXT, Plain, ReadNumber, as_mapping
from ckptman.formats.refusals import refusal
from ckptman.rules import TrainConfig, comparing, recipe
from ckptman.text import ConfigurationError, interpolation, strict_yaml

if TYPE_CHECKING:
    from ckptman.rules import terms

TORCH_ARCHIVE: Final = "torch archive"
"""The container of a file that `torch.save` wrote."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the weights."""

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
    """Number of elements of the weights, those of tensors that share a storage counted once."""
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
    seed = alike.seed_of(data, rules)
    if seed is not None and (known := alike.known(seed)) is not None:
        make, storages = known
        check_storages(archive, storages)
        return make(archive.size)
    pickled = read_pickle(data, config_classes=rules.config_classes, inert=rules.inert)
    check_storages(archive, pickled.storages.values())
    source = _Watched(archive)
    info = describe(pickled, rules, source)
    if seed is not None and not source.was_read:
        alike.learn(seed, rules, info, pickled.storages.values())
    return info


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


def check_storages(archive: Archive, storages: Iterable[Storage]) -> None:
    """Check that the archive holds all bytes of each storage. That tensors fit their storages is known already."""
    for storage in storages:
        entry = archive.entries.get(f"data/{storage.key}")
        if entry is None:
            raise refusal("bad-tensor", f"the file lacks the entry of storage {storage.key!r}")
        if entry.size < storage.nbytes:
            raise refusal(
                "bad-tensor",
                f"storage {storage.key!r} needs {storage.nbytes:,} bytes, but its entry has only {entry.size:,}",
            )


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
        whole = _module_weights(pickled.value)
        self._value: Any = whole if whole is not None else pickled.value
        self._form = _find_form(self._value, rules.forms)
        self._weights = self._value if self._form.whole else _weights_of(self._value.get(self._form.weights)) or {}
        self._used = {self._form.weights} | ({str(key) for key in self._value} if self._form.whole else set())
        self._classes: set[str] = set()
        self._opaque: set[str] = set()

    def info(self) -> CheckpointInfo:
        form = self._form
        config_key, config, config_class = self._config()
        tensors, compiled = _tensors(self._weights, form.weights or "content", self._rules)
        others = {str(tensor.saved_as) for tensor in tensors}
        optimizer = self._optimizer()
        parameters, nbytes = count_elements(tensor.view for tensor in tensors)
        return CheckpointInfo(
            form=form.name,
            size=self._archive.size,
            iters_done=self._count(form.iters),
            itr=self._count(form.itr),
            run_id=self._text(form.run_id),
            config=config,
            config_class=config_class,
            model_config=self._model_config(),
            tensors=tensors,
            compiled=compiled,
            parameters=parameters,
            optimizer=optimizer,
            other_keys=tuple(_shown_key(key) for key in self._other_keys()),
            config_key=config_key,
            unused_configs=tuple(
                _shown_key(key) for key in self._other_keys() if _looks_like_config(key, self._value[key])
            ),
            opaque=tuple(sorted(self._opaque)),
            not_tensors=tuple(_shown_key(name) for name in self._weights if str(name) not in others),
            foreign=self._foreign(config_key),
            nbytes=nbytes,
        )

    def _other_keys(self) -> list[Any]:
        return [key for key in self._value if key not in self._used]

    def _foreign(self, config_key: str | None) -> tuple[Foreign, ...]:
        """Without the classes that are the configuration, whose fields were read."""
        inside = tuple(key for key in (config_key, self._form.model_config) if key)
        return tuple(
            item
            for item in self._pickled.foreign
            if not (item.name in self._classes and item.places and all(p.startswith(inside) for p in item.places))
        )

    # Its fields, by meaning

    def _get(self, key: str | None) -> Any:
        """The value of a key of the form; a dotted one leads into dictionaries and objects."""
        if not key or self._form.whole:
            return None
        found = self._value.get(key)
        if found is None and "." in key:
            found = self._value
            for part in key.split("."):
                found = (as_mapping(found) or {}).get(part)
        if found is not None:
            self._used.add(key if key in self._value else key.partition(".")[0])
        return found

    def _count(self, key: str | None) -> int | None:
        found = value = self._get(key)
        if isinstance(found, Tensor) and math.prod(found.shape) == 1:
            found = self._number(found)
        elif type(found) is Array:
            found = found.item()
        if type(found) is str and found.isascii() and found.isdecimal() and len(found) < 20:
            found = int(found)
        if type(found) is float and found.is_integer():
            found = int(found)
        if found is not None and (type(found) is not int or not 0 <= found < 1 << 63):
            raise refusal("bad-field", f"its {key} is {_brief(value)}, not a number of iterations")
        if found is None and value is not None:
            raise refusal("bad-field", f"its {key} is {_brief(value)}, not a number of iterations")
        return found

    def _text(self, key: str | None) -> str | None:
        found = self._get(key)
        if found is not None and type(found) is not str:
            raise refusal("bad-field", f"its {key} is {_brief(found)}, not text")
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
        """The training configuration: the form's own key, else the first of `config_keys` that holds one."""
        for key in dict.fromkeys((self._form.config, *self._rules.config_keys)):
            found = None if not key or self._form.whole or key == self._form.model_config else _read(self._find(key))
            if key is None or not _as_config(found):
                continue
            self._get(key)
            name = found.class_name if type(found) is Record else None
            if name is not None and name.startswith("omegaconf."):
                found = interpolation.interpolated(self._plain(found, key, self._opaque) or {})
            key, section = _section(key, found)
            plain = self._plain(section, key, self._opaque)
            return key, plain, section.class_name if type(section) is Record else name if section is found else None
        return None, None, None

    def _find(self, key: str) -> Any:
        used = set(self._used)
        found = self._get(key)
        self._used = used  # until it is known to be one
        return found

    def _model_config(self) -> dict[str, Any] | None:
        key = self._form.model_config
        found = _read(self._find(key)) if key else None
        if key is None or _as_config(found) is None:
            return None
        self._get(key)
        return self._plain(found, key)

    def _plain(self, value: Any, key: str, opaque: set[str] | None = None) -> dict[str, Any] | None:
        plain = Plain(key, self._number)
        found = plain.mapping(value)
        self._classes |= plain.classes
        if opaque is not None:
            opaque |= plain.opaque
        return (
            None
            if found is None
            else {
                name: item if type(item) is _TYPES.get(name) else by_meaning(name, item) for name, item in found.items()
            }
        )

    def _optimizer(self) -> OptimizerInfo | None:
        key = self._form.optimizer
        found = self._find(key) if key else None
        if not key or not _optimizer_parts(found):
            return None
        self._get(key)
        return _optimizer(found, key, self._number)


def _shown_key(key: Any) -> str:
    return key if type(key) is str else str(key)[:80]


_ELEMENTS: Final = {
    "float64": "d", "float32": "f", "float16": "e", "bfloat16": "f", "int64": "q", "int32": "i", "int16": "h",
    "int8": "b", "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?",
}  # fmt: skip

_KINDS: Final = {item.name: str(item.type) for item in dataclass_fields(TrainConfig)}
"""The type of each field of a configuration that is known."""
_TYPES: Final = {name: kind for name, told in _KINDS.items() for kind in (bool, int, float) if told == kind.__name__}
_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[-+]?([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})([eE][-+]?[0-9]{1,3})?")


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
    if found is None or _TENSORS.isdisjoint(map(type, found.values())):
        return found
    weights = sum(_is_tensor(item) and bool(item.shape) for item in found.values())
    return None if weights > len(found) // 2 else found


def _read(value: Any) -> Any:
    """A configuration that was written out, as JSON, as YAML or as pairs of key and value; anything else as it is."""
    if isinstance(value, list) and value and all(type(pair) is tuple and len(pair) == 2 for pair in value):
        return {key: item for key, item in value if type(key) is str} or value
    if not _is_written(value):
        return value
    try:
        text = value if type(value) is str else bytes(value).decode()
        found = json.loads(text) if text.startswith("{") else strict_yaml.load_yaml(text, "", max_bytes=_MAX_YAML)
    except (ValueError, RecursionError, ConfigurationError):
        return value
    return found if isinstance(found, dict) else value


def _is_written(value: object) -> bool:
    if not isinstance(value, str | bytes | bytearray) or len(value) > MAX_TEXT:
        return False
    start = value[:64] if isinstance(value, str) else bytes(value[:64]).decode("latin-1")
    return start.startswith("{") or _YAML.match(start) is not None


_YAML: Final = re.compile(r"(#.*|---)?\s*[\w-]+:(\s|$)")
_MAX_YAML: Final = 1 << 16


def _section(key: str, value: Any) -> tuple[str, Any]:
    """A configuration with the keys of a run: itself; the section that has them; or with those of its sections, where
    they are spread over several and do not contradict each other."""
    items = _as_config(value) or {}
    own = _KINDS.keys() & items.keys()
    if len(own) >= _FEW_KEYS:
        return key, value
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
    if named and (isinstance(value, list | tuple | dict) or type(value) is Record or _is_written(value)):
        return bool(value)
    items = as_mapping(value)
    return items is not None and len(_KINDS.keys() & items.keys()) >= _FEW_KEYS


# --- which form it is -------------------------------------------------------------------------------------------------


def _find_form(value: Any, forms: tuple[terms.CheckpointForm, ...]) -> terms.CheckpointForm:
    """The form with weights in the dictionary; of several, the one that knows most of its keys."""
    if not isinstance(value, dict):
        raise refusal("foreign", f"a torch file that holds {_kind(value)}, not a checkpoint")
    fitting = [form for form in forms if not form.whole and _weights_of(value.get(form.weights)) is not None]
    if not fitting:
        bare = [form for form in forms if form.whole and _is_state_dict(value)]
        if not bare:
            raise refusal("foreign", _say_what_dict(value, forms))
        return bare[0]
    return max(fitting, key=lambda form: sum(value.get(key) is not None for key in _keys(form) if key))


def _keys(form: terms.CheckpointForm) -> tuple[str | None, ...]:
    return (form.weights, form.optimizer, form.config, form.model_config, form.iters, form.itr, form.run_id)


def _weights_of(value: Any) -> Mapping[Any, Any] | None:
    """Weights by name: a state dict with a tensor in it, or the tensors of a module that was saved whole."""
    if isinstance(value, dict):
        return value if any(map(_is_tensor, value.values())) else None
    return _module_weights(value)


def _module_weights(value: Any, prefix: str = "", within: frozenset[int] = frozenset()) -> dict[str, Any] | None:
    """The parameters and buffers of a `torch.nn.Module` that was saved whole; None for anything else."""
    fields = (fields_of(value) or {}) if type(value) is Record and id(value) not in within else {}
    parameters, modules = fields.get("_parameters"), fields.get("_modules")
    if not isinstance(parameters, dict) or not isinstance(modules, dict):
        return None
    buffers = fields.get("_buffers")
    own = [*parameters.items(), *(buffers.items() if isinstance(buffers, dict) else ())]
    found = {f"{prefix}{name}": tensor for name, tensor in own if _is_tensor(tensor)}
    for name, module in modules.items():
        found |= _module_weights(module, f"{prefix}{name}.", within | {id(value)}) or {}
        if len(found) > MAX_TENSORS:
            raise refusal("pickle-bomb", f"its modules share their parts into more than {MAX_TENSORS:,} tensors")
    return found


MAX_TENSORS: Final = 100_000
"""Weights of modules that were saved whole, which may share their parts."""


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Whether a dictionary is weights by name, and nothing else but what state dicts hold beside tensors."""
    tensors = sum(map(_is_tensor, value.values()))
    rest = [
        key
        for key, item in value.items()
        if type(key) is not str
        or not (_is_tensor(item) or type(item) in (int, float, bool, type(None), bytes) or key.endswith("_extra_state"))
    ]
    return tensors > len(value) // 2 and not rest


_TENSORS: Final = frozenset({Tensor, OtherTensor})


def _is_tensor(value: Any) -> bool:
    return type(value) is Tensor or type(value) is OtherTensor


def _say_what_dict(value: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...]) -> str:
    if not value:
        return "a torch file that holds an empty dictionary, not a checkpoint"
    keys = ", ".join(repr(key[:40] if type(key) is str else key) for key in list(value)[:8])
    more = ", …" if len(value) > 8 else ""
    wanted = " or ".join(dict.fromkeys(repr(form.weights) for form in forms if form.weights))
    return f"a torch file that holds a dictionary with the keys {keys}{more}, and no weights under {wanted}"


def _kind(value: object) -> str:
    if isinstance(value, Tensor | OtherTensor):
        return f"a plain tensor of shape {list(value.shape)}"
    if type(value) is Record:
        return f"an instance of {value.class_name[:200]}"
    if isinstance(value, Storage | DType | Device | PathParts):
        return f"a {type(value).__name__.lower()}"
    return f"a {type(value).__name__}" if value is not None else "None"


def _brief(value: object) -> str:
    return (
        repr(value) if type(value) in (float, bool) or (type(value) is int and abs(value) < 1 << 64) else _kind(value)
    )


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
    names = [name for name, tensor in weights.items() if type(tensor) in _TENSORS]
    for name in names:
        if type(name) is not str:
            raise refusal("bad-field", f"its {key} holds a tensor under {_shown_key(name)}, which is not text")
    clean = dict(zip(names, names, strict=True)) if as_saved else see_through(names, rules)
    if len(set(clean.values())) < len(names):
        twice, _ = Counter(clean.values()).most_common(1)[0]
        raise refusal("bad-field", f"its {key} has {twice[:80]!r} more than once, with and without a prefix")
    compiled = any(rules.compiled_prefix in name for name in names)
    return tuple(TensorInfo(clean[n], weights[n].shape, weights[n].dtype, weights[n], n) for n in names), compiled


def see_through(names: Iterable[str], rules: terms.CheckpointRules) -> dict[str, str]:
    """Each name without the prefixes of wrappers: those of `wrappers` anywhere, those of `prefixes` in front only.

    The latter may be a model's own names, and are left where the names would no longer be different without them.
    """
    wrappers = (rules.compiled_prefix, *rules.wrappers)
    names = list(names)
    text = "\n".join(["", *names])
    if not any(f"\n{prefix}" in text or f".{prefix}" in text for prefix in (*wrappers, *rules.prefixes)):
        return dict(zip(names, names, strict=True))  # in most files there is none
    for leading in ((*wrappers, *rules.prefixes), wrappers):
        clean = {name: _without(name, leading, wrappers) for name in names}
        if len(set(clean.values())) == len(names):
            break
    return clean


def _without(name: str, leading: tuple[str, ...], anywhere: tuple[str, ...]) -> str:
    while prefix := next((prefix for prefix in leading if name.startswith(prefix) and name != prefix), None):
        name = name.removeprefix(prefix)
    for wrapper in anywhere:
        name = name.replace(f".{wrapper}", ".")
    return name


def strided(tensors: Iterable[Tensor | OtherTensor | None]) -> list[Tensor]:
    """The strided tensors that the elements of all of them are in."""
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
        key = tensor.storage.key
        if (known := first.setdefault(key, tensor)) is not tensor:
            views.setdefault(key, {known: None})[tensor] = None
    elements = nbytes = 0
    for key, tensor in first.items():
        storage, itemsize = tensor.storage, tensor.itemsize
        most = storage.itemsize * storage.numel
        count = sum([math.prod(view.shape) for view in views[key]]) if key in views else math.prod(tensor.shape)
        elements += min(count, most // itemsize)
        nbytes += min(count * itemsize, most)
    return elements, nbytes


# --- its optimizer ----------------------------------------------------------------------------------------------------


def _optimizer_parts(value: object) -> list[dict[Any, Any]]:
    """The `state_dict()` of an optimizer, or of several in a list, a tuple or a dictionary by name."""
    parts: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(value, dict) and "state" not in value:
        parts = list(value.values())
    if not all(isinstance(part, dict) and isinstance(part.get("state"), dict) for part in parts):
        return []
    return parts


def _optimizer(value: object, key: str, read_number: ReadNumber | None = None) -> OptimizerInfo | None:
    """A summary of the optimizers' states; None where it is none."""
    states = 0
    tensors: list[Any] = []
    groups: list[ParamGroup] = []
    plain = Plain(key, read_number)
    for part in _optimizer_parts(value):
        for state in part["state"].values():
            states += 1
            tensors += filter(_is_tensor, state.values()) if isinstance(state, dict) else ()
        param_groups = part.get("param_groups")
        groups += (
            [_param_group(group, plain) for group in param_groups if isinstance(group, dict)]
            if isinstance(param_groups, list | tuple)
            else []
        )
    if not states and not groups and value in (None, {}):
        return None
    dtypes = tuple(dict.fromkeys(tensor.dtype for tensor in tensors))
    return OptimizerInfo(states, len(tensors), tuple(groups), count_elements(tensors)[1], dtypes)


def _param_group(group: Mapping[Any, Any], plain: Plain) -> ParamGroup:
    params = group.get("params")
    settings = {_shown_key(name): plain.value(value) for name, value in group.items() if name != "params"}
    return ParamGroup(settings, len(params) if isinstance(params, list | tuple) else 0)
