"""What a checkpoint file holds, read without torch: configuration, progress, shapes; no tensor is loaded.

A checkpoint is a dictionary in one of the forms that the convention names (`checkpoint.forms`): weights under one key,
and optimizer, configuration and progress under others. The file is opened by `archive`, its pickle interpreted by
`pickle_reader`; this module says what the result means, and checks that the tensors are really in the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ckptman.formats.archive import PICKLE, Archive, open_archive
from ckptman.formats.bounded import Member
from ckptman.formats.pickle_reader import (
    MAX_PICKLE_SIZE,
    Device,
    DType,
    PathParts,
    Record,
    Storage,
    Tensor,
    read_pickle,
)
from ckptman.formats.refusals import refusal

if TYPE_CHECKING:
    from ckptman.rules import terms

TORCH_ARCHIVE: Final = "torch archive"
"""The container of a file that `torch.save` wrote."""
MAX_CONFIG_VALUES: Final = 10_000
"""Values of a configuration, items of its lists included. It bounds the text of paths, which may share their parts."""
MAX_TEXT: Final = 1 << 20
"""Characters of a configuration, or of all hyperparameters. In the pickle one long text may stand in many places, which
takes no room there; but whatever is written of it takes the room of them all."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the weights."""

    name: str
    """As in the file, without the prefix of a compiled model."""
    shape: tuple[int, ...]
    dtype: str
    """As torch calls it, such as `float32`."""
    view: Tensor | None = dataclass_field(default=None, compare=False, repr=False)
    """Where its elements are: which of them, of which storage of the file."""


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """One parameter group of an optimizer."""

    hyperparameters: dict[str, Any]
    """Learning rate and so on, as plain values; what is not plain is named by its kind, as in `<Tensor>`."""
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


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What one checkpoint file says of itself."""

    form: str
    """Name of the form in the convention: `A` or `B`."""
    size: int
    """Bytes of the file."""
    iters_done: int | None
    itr: int | None
    """Index of the last iteration, where the file has it."""
    run_id: str | None
    """The W&B run, where the file has it."""
    config: dict[str, Any] | None
    """The training configuration, in plain values: str, int, float, bool, None, and flat lists of them. Dtypes, devices
    and paths are strings; infinite and undefined numbers are `"Infinity"`, `"-Infinity"` and `"NaN"`, as in W&B's
    files, for JSON has no such numbers."""
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
    """Keys of the saved dictionary that the form does not know."""
    container: str = TORCH_ARCHIVE
    """What holds it, in words."""
    members: tuple[Member, ...] = ()
    """The files of a checkpoint that is a folder."""
    missing: tuple[str, ...] = ()
    """Files of such a checkpoint that it names and that are not there, or are not whole."""


def read_checkpoint(
    path: str | os.PathLike[str], rules: terms.CheckpointRules, *, fd: int | None = None
) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without executing anything in it and without loading a tensor.

    The content of the tensors is not read, so neither are their checksums: `archive.verify_crcs` does that.

    Args:
        path: The file.
        rules: The forms, configuration classes and prefix to read it by.
        fd: An open descriptor of the file, to read from instead of opening `path`.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS`.
    """
    with open_archive(path, fd=fd) as archive:
        return read_archive(archive, rules)


def read_archive(archive: Archive, rules: terms.CheckpointRules) -> CheckpointInfo:
    """As `read_checkpoint`, of an archive that is open."""
    pickled = read_pickle(archive.read(PICKLE, MAX_PICKLE_SIZE), config_classes=rules.config_classes)
    _check_storages(archive, pickled.storages.values())
    return _describe(pickled.value, rules, archive.size)


def _check_storages(archive: Archive, storages: Iterable[Storage]) -> None:
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


def _describe(value: Any, rules: terms.CheckpointRules, size: int) -> CheckpointInfo:
    form = _find_form(value, rules.forms)
    known = _keys(form)
    weights = value[form.weights]
    config = value.get(form.config)
    tensors, compiled = _tensors(weights, form.weights, rules.compiled_prefix)
    return CheckpointInfo(
        form=form.name,
        size=size,
        iters_done=_count(value, form.iters),
        itr=_count(value, form.itr),
        run_id=_text(value, form.run_id),
        config=_plain_dict(config, form.config),
        config_class=config.class_name if type(config) is Record else None,
        model_config=_plain_dict(value.get(form.model_config), form.model_config),
        tensors=tensors,
        compiled=compiled,
        parameters=_count_elements(weights.values()),
        optimizer=_optimizer(value.get(form.optimizer), form.optimizer),
        other_keys=tuple(str(key) for key in value if key not in known),
    )


def _keys(form: terms.CheckpointForm) -> tuple[str | None, ...]:
    return (form.weights, form.optimizer, form.config, form.model_config, form.iters, form.itr, form.run_id)


# --- which form it is -------------------------------------------------------------------------------------------------


def _find_form(value: Any, forms: tuple[terms.CheckpointForm, ...]) -> terms.CheckpointForm:
    """The form with weights in the dictionary; of several, the one that knows most of its keys."""
    if not isinstance(value, dict):
        raise refusal("foreign", f"a torch file that holds {_kind(value)}, not a checkpoint")
    fitting = [form for form in forms if _begins_with_tensor(value.get(form.weights))]
    if not fitting:
        raise refusal("foreign", _say_what_dict(value, forms))
    return max(fitting, key=lambda form: sum(key in value for key in _keys(form)))


def _say_what_dict(value: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...]) -> str:
    if value and all(type(item) is Tensor for item in value.values()):
        return f"a torch file that holds bare weights ({len(value)} tensors), not a checkpoint with its configuration"
    if not value:
        return "a torch file that holds an empty dictionary, not a checkpoint"
    keys = ", ".join(repr(key[:40] if type(key) is str else key) for key in list(value)[:8])
    more = ", …" if len(value) > 8 else ""
    wanted = " or ".join(repr(form.weights) for form in forms)
    return f"a torch file that holds a dictionary with the keys {keys}{more}, and no weights under {wanted}"


def _kind(value: object) -> str:
    if type(value) is Tensor:
        return f"a plain tensor of shape {list(value.shape)}"
    if type(value) is Record:
        return f"an instance of {value.class_name}"
    if isinstance(value, Storage | DType | Device | PathParts):
        return f"a {type(value).__name__.lower()}"
    return f"a {type(value).__name__}" if value is not None else "None"


def _begins_with_tensor(value: object) -> bool:
    return isinstance(value, dict) and type(next(iter(value.values()), None)) is Tensor


# --- its fields -------------------------------------------------------------------------------------------------------


def _count(value: Mapping[Any, Any], key: str | None) -> int | None:
    found = value.get(key)
    if found is not None and (type(found) is not int or found < 0):
        raise refusal("bad-field", f"its {key} is {_brief(found)}, not a number of iterations")
    return found


def _text(value: Mapping[Any, Any], key: str | None) -> str | None:
    found = value.get(key)
    if found is not None and type(found) is not str:
        raise refusal("bad-field", f"its {key} is {_brief(found)}, not text")
    return found or None


def _brief(value: object) -> str:
    return repr(value) if type(value) in (int, float, bool) else _kind(value)


_PLAIN: Final = frozenset({str, int, bool, type(None)})
_SCALARS: Final = _PLAIN | {float}
_SHOWN: Final = frozenset({DType, Device, PathParts})
_SEQUENCES: Final = frozenset({tuple, list})


def _plain_dict(value: object, key: str | None) -> dict[str, Any] | None:
    """A configuration in plain values; None where there is none."""
    if value is None:
        return None
    fields = value.fields() if type(value) is Record else value
    if not isinstance(fields, dict):
        raise refusal("bad-field", f"its {key} is {_kind(value)}, not a configuration")
    values = len(fields) + sum(len(field) for field in fields.values() if type(field) in _SEQUENCES)
    if values > MAX_CONFIG_VALUES:
        raise refusal("bad-field", f"its {key} holds {values:,} values, more than {MAX_CONFIG_VALUES:,}")
    plain = {}
    for name, field in fields.items():
        if type(name) is not str:
            raise refusal("bad-field", f"its {key} has a key that is not text: {name}")
        plain[name] = field if type(field) in _PLAIN else _plain(field, f"{key}[{name[:80]!r}]")
    _check_text(_characters(plain), key)
    return plain


def _plain(value: Any, where: str) -> Any:
    if type(value) in _SEQUENCES:
        return [_plain_scalar(item, where) for item in value]
    return _plain_scalar(value, where)


def _plain_scalar(value: Any, where: str) -> Any:
    if type(value) in _SCALARS:
        return _spelled(value)
    if type(value) in _SHOWN:
        return str(value)
    raise refusal("bad-field", f"its {where} holds {_kind(value)}; a configuration has plain values only")


def _characters(plain: Mapping[str, Any]) -> int:
    """Characters in the keys and values of a dictionary of plain values."""
    items = [item for value in plain.values() if type(value) is list for item in value]
    return sum([len(item) for item in chain(plain, plain.values(), items) if type(item) is str])


def _check_text(characters: int, key: str | None) -> None:
    if characters > MAX_TEXT:
        raise refusal("bad-field", f"its {key} holds {characters:,} characters of text, more than {MAX_TEXT:,}")


def _spelled(value: Any) -> Any:
    """A number that JSON does not have, as W&B writes it; anything else as it is."""
    if type(value) is not float or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# --- its tensors ------------------------------------------------------------------------------------------------------


def _tensors(weights: Mapping[Any, Any], key: str, prefix: str) -> tuple[tuple[TensorInfo, ...], bool]:
    """The weights, and whether their names began with the prefix of a compiled model."""
    tensors = []
    compiled = False
    for name, tensor in weights.items():
        if type(name) is not str or type(tensor) is not Tensor:
            raise refusal("bad-field", f"its {key} holds {_kind(tensor)} under {str(name)[:80]!r}, not only tensors")
        if name.startswith(prefix):
            compiled = True
            name = name[len(prefix) :]
        tensors.append(TensorInfo(name, tensor.shape, tensor.dtype, tensor))
    if compiled and len({tensor.name for tensor in tensors}) < len(tensors):
        raise refusal("bad-field", f"its {key} has a name both with and without the prefix {prefix!r}")
    return tuple(tensors), compiled


def _count_elements(tensors: Iterable[Tensor]) -> int:
    """Elements of all tensors. Tied weights are equal tensors; other views of a storage have at most its elements."""
    elements: dict[str, int] = {}
    for tensor in dict.fromkeys(tensors):
        key = tensor.storage.key
        elements[key] = min(elements.get(key, 0) + math.prod(tensor.shape), tensor.storage.nbytes // tensor.itemsize)
    return sum(elements.values())


# --- its optimizer ----------------------------------------------------------------------------------------------------


def _optimizer(value: object, key: str) -> OptimizerInfo | None:
    """A summary of an optimizer's `state_dict()`, or of several in a list."""
    if value is None or value == {}:
        return None
    states = tensors = characters = 0
    groups: list[ParamGroup] = []
    for part in value if isinstance(value, list) else [value]:
        if not isinstance(part, dict) or not isinstance(part.get("state"), dict):
            raise refusal("bad-field", f"its {key} is {_kind(value)}, not the state of an optimizer")
        for state in part["state"].values():
            states += 1
            tensors += list(map(type, state.values())).count(Tensor) if isinstance(state, dict) else 0
        param_groups = part.get("param_groups")
        for group in param_groups if isinstance(param_groups, list) else []:
            groups.append(_param_group(group, key))
            characters += _characters(groups[-1].hyperparameters)
            _check_text(characters, key)
    return OptimizerInfo(states, tensors, tuple(groups))


def _param_group(group: object, key: str) -> ParamGroup:
    if not isinstance(group, dict):
        raise refusal("bad-field", f"its {key} has {_kind(group)} for a parameter group")
    params = group.get("params")
    hyperparameters = {str(name): _hyperparameter(value) for name, value in group.items() if name != "params"}
    return ParamGroup(hyperparameters, len(params) if isinstance(params, list) else 0)


def _hyperparameter(value: Any) -> Any:
    """A value as in a configuration; but optimizers may keep anything, which is then named by its kind."""
    if type(value) in _SCALARS:
        return _spelled(value)
    if type(value) in _SEQUENCES and _SCALARS.issuperset(map(type, value)):
        return [_spelled(item) for item in value]
    return f"<{type(value).__name__}>"
