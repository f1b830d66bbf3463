"""Which form a saved dictionary has: where its weights are, by the keys that the convention names, or by content.

A file need not follow any form to be read. Its weights may be the file itself, lie in a dictionary within another one,
or under a key that nobody named; where exactly one dictionary in it holds weights, it is that one. Of several none is
taken: they are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeGuard

from ckptman.formats.pickled import (
    Array,
    Device,
    DType,
    OrderedMapping,
    OtherTensor,
    PathParts,
    Record,
    Storage,
    Tensor,
    fields_of,
)
from ckptman.formats.plain_values import as_mapping
from ckptman.formats.refusals import refusal
from ckptman.rules import terms

BY_CONTENT: Final = "other"
"""The form of a file whose weights were found by what they are."""
TENSORS: Final = frozenset({Tensor, OtherTensor})
MAX_TENSORS: Final = 100_000
"""Weights of modules and dictionaries in one another, which may share their parts."""
MAX_NAMES: Final = 1 << 24
"""Characters of their names, each of which repeats those of what it lies in."""
_MOST_PARTS: Final = 64
"""Items of a list or tuple that a file is."""
_LONGEST_KEY: Final = 256
_MOST_NAMED: Final = 8
_BESIDE: Final = frozenset({int, float, bool, bytes, type(None)})


class Found(NamedTuple):
    """The weights of a file, and under which keys the rest stands."""

    value: Mapping[Any, Any]
    """All that the file holds. What lies in the dictionary of the weights has that one's key before its own."""
    form: terms.CheckpointForm
    weights: Mapping[Any, Any]
    inside: str = ""
    """What is before the keys of the form: `checkpoint.`."""


def find(value: Any, forms: tuple[terms.CheckpointForm, ...]) -> Found:
    """The weights of a file.

    Of several forms that fit, the one is taken that knows most of the file's keys.

    Raises:
        RefusedError: `foreign` where there are none, or nothing tells which they are.
    """
    module = module_weights(value)
    top = module if module is not None else _parts(value)
    if top is None:
        raise refusal("foreign", f"a torch file that holds {kind(value)}, not a checkpoint")
    if (found := _by_keys(top, forms) or _bare(top, forms)) is not None:
        return found
    seen: set[int] = set()
    candidates = [*_by_content(top, forms, seen), *_inside(top, forms)]
    if not candidates and (found := _by_keys(top, forms, nested=True)) is not None:
        return found
    for key in () if candidates else list(top):  # a level deeper
        if isinstance(top[key], dict) and _is_key(key) and not is_optimizer(top[key]) and ~id(top[key]) not in seen:
            seen.add(~id(top[key]))  # looked into, not only at
            candidates += _by_content(top, forms, seen, inside=key)
    if len(candidates) == 1:
        return candidates[0]
    raise refusal("foreign", _what_dict(top, forms, candidates))


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """The items of a dictionary, an object with fields, or a list or tuple."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return {str(index): item for index, item in enumerate(value)} if len(value) <= _MOST_PARTS else None
    return as_mapping(value)


def item_at(value: Mapping[Any, Any], key: str) -> Any:
    """What stands under a key; a dotted one leads into dictionaries and objects. None where there is nothing."""
    found = value.get(key)
    if found is None and "." in key:
        found = value
        for part in key.split("."):
            found = (as_mapping(found) or {}).get(part)
    return found


# --- by keys ----------------------------------------------------------------------------------------------------------


def _by_keys(top: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...], *, nested: bool = False) -> Found | None:
    read = _nested if nested else weights_of
    fitting = [
        (form, weights)
        for form in forms
        if not form.whole and (weights := read(item_at(top, form.weights))) is not None
    ]
    if not fitting:
        return None
    form, weights = max(fitting, key=lambda each: sum([top.get(key) is not None for key in keys(each[0]) if key]))
    return Found(top, form, weights)


def keys(form: terms.CheckpointForm) -> tuple[str | None, ...]:
    """The keys that a form names."""
    return (form.weights, form.optimizer, form.config, form.model_config, form.iters, form.itr, form.run_id)


def _inside(top: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...]) -> Iterator[Found]:
    """The inner dictionaries and objects that have a form."""
    for key, item in top.items():
        inner = as_mapping(item) if _is_key(key) and not is_optimizer(item) else None
        found = None if inner is None else _by_keys(inner, forms)
        if found is not None:
            opened = _opened(top, key)
            form = _with_keys(found.form, opened, f"{key}.")
            yield Found(opened, replace(form, weights=f"{key}.{form.weights}"), found.weights, f"{key}.")


def _opened(top: Mapping[Any, Any], key: str) -> dict[Any, Any]:
    """A dictionary with the items of an inner one in the place of it."""
    opened: dict[Any, Any] = {}
    for name, item in top.items():
        inner = as_mapping(item) if name == key else None
        opened |= {name: item} if inner is None else {f"{key}.{each}": inner[each] for each in inner}
    return opened


def _with_keys(form: terms.CheckpointForm, opened: Mapping[Any, Any], inside: str) -> terms.CheckpointForm:
    """A form whose keys stand in an inner dictionary, or beside it."""

    def at(key: str | None) -> str:
        return f"{inside}{key}" if key and f"{inside}{key}" in opened else key or ""

    return replace(
        form, optimizer=at(form.optimizer), config=at(form.config), model_config=at(form.model_config),
        iters=at(form.iters), itr=at(form.itr), run_id=at(form.run_id),
    )  # fmt: skip


# --- by content -------------------------------------------------------------------------------------------------------


def _bare(top: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...]) -> Found | None:
    """A file that is the weights themselves, perhaps with something beside them."""
    form = next((form for form in forms if form.whole), None)
    tensors = [item for item in top.values() if type(item) in TENSORS]
    if form is None or 2 * len(tensors) <= len(top) or not all(type(key) is str for key in top):
        return None
    is_pure = all(is_beside(key, item) for key, item in top.items())
    if any(map(_is_matrix, tensors)) or (is_pure and any(item.dtype != "uint8" for item in tensors)):
        return Found(top, form, top)
    return None  # the states of random generators are bytes


def is_beside(key: str, item: Any) -> bool:
    """Whether it is what state dicts hold: tensors, numbers, and what modules add to them."""
    return type(item) in TENSORS or type(item) in _BESIDE or key.endswith("_extra_state")


def _by_content(
    top: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...], seen: set[int], inside: str = ""
) -> Iterator[Found]:
    """The weights under keys that no form names, each looked at once, however many keys lead to it."""
    for key, item in (as_mapping(top[inside]) or {} if inside else top).items():
        if type(item) not in _HOLDING or id(item) in seen or not _is_key(key) or is_optimizer(item):
            continue
        seen.add(id(item))
        weights = weights_of(item)
        if weights is not None and _is_model(weights):
            opened = _opened(top, inside) if inside else top
            prefix = f"{inside}." if inside else ""
            form = terms.CheckpointForm(BY_CONTENT, f"{prefix}{key}", **_known_keys(opened, forms, prefix))
            yield Found(opened, form, weights, prefix)


def _known_keys(top: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...], inside: str) -> dict[str, Any]:
    """The keys of any form that are there, by what they hold."""
    found: dict[str, Any] = dict.fromkeys(("optimizer", "config", "model_config", "iters", "itr", "run_id"), "")
    for form in reversed(forms):
        here = _with_keys(form, top, inside)
        found |= {name: key for name in found if (key := getattr(here, name)) and key in top}
    return found


def _is_key(key: object) -> TypeGuard[str]:
    return type(key) is str and len(key) <= _LONGEST_KEY


def _is_model(weights: Mapping[Any, Any]) -> bool:
    """Whether tensors by name are a model's weights, and not, say, the states of random generators."""
    tensors = [item for item in weights.values() if type(item) in TENSORS]
    texts = all(type(key) is str for key in weights)
    return texts and 2 * len(tensors) > len(weights) and any(map(_is_matrix, tensors))


def _is_matrix(tensor: Any) -> bool:
    return len(tensor.shape) > 1 and tensor.dtype not in ("bool", "int64", "int32")


def is_optimizer(value: Any) -> bool:
    """Whether it is the `state_dict()` of an optimizer, of torch or of fastai."""
    if not isinstance(value, dict):
        return False
    state = value.get("state")
    return (isinstance(state, dict) and "param_groups" in value) or (isinstance(state, list) and "hypers" in value)


# --- weights ----------------------------------------------------------------------------------------------------------


def weights_of(value: Any) -> Mapping[Any, Any] | None:
    """Weights by name: a state dict with a tensor in it, of torch or numpy, or those of a module saved whole."""
    if not isinstance(value, dict):
        return module_weights(value)
    if Array in (kinds := set(map(type, value.values()))):
        value = {key: _of_numpy(item) for key, item in value.items()}
        kinds = set(map(type, value.values()))
    if kinds.isdisjoint(TENSORS):
        return None
    nested = None if kinds.isdisjoint(_DICTIONARIES) else _nested(value)
    return value if nested is None else nested


_DICTIONARIES: Final = frozenset({dict, OrderedMapping})
_HOLDING: Final = _DICTIONARIES | {Record}


def _of_numpy(value: Any) -> Any:
    """A tensor of the numbers in an array of numpy; anything else as it is."""
    if type(value) is not Array or type(value.data) is not bytes:
        return value
    name = _NUMPY.get(value.dtype.code)
    return value if name is None else OtherTensor("array", name, value.shape, (value,))


_NUMPY: Final = {
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128", "b1": "bool",
    **{f"{sign[:1] or 'i'}{size}": f"{sign}int{8 * size}" for sign in ("", "u") for size in (1, 2, 4, 8)},
}  # fmt: skip


class _Gathered:
    """Tensors of modules, or of dictionaries, in one another, with the names of all that they lie in."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._characters = 0

    def within(self, prefix: str, name: object) -> str:
        """A name within another one."""
        if type(name) is not str:
            raise refusal("bad-field", f"its weights are in something under {str(name)[:80]}, which is not text")
        self._characters += len(prefix) + len(name)
        if len(self.found) > MAX_TENSORS or self._characters > MAX_NAMES:
            raise refusal(
                "pickle-bomb",
                f"its parts hold each other so that their tensors are more than {MAX_TENSORS:,}, or their names have "
                f"more than {MAX_NAMES:,} characters",
            )
        return f"{prefix}{name}"

    def module(self, value: Any, prefix: str = "", outer: frozenset[int] = frozenset()) -> bool:
        """Whether it is a `torch.nn.Module` that was saved whole: its parameters and buffers."""
        fields = (fields_of(value) or {}) if type(value) is Record and id(value) not in outer else {}
        parameters, modules, buffers = (fields.get(f"_{name}") for name in ("parameters", "modules", "buffers"))
        if not isinstance(parameters, dict) or not isinstance(modules, dict):
            return False
        for name, tensor in (*parameters.items(), *(buffers.items() if isinstance(buffers, dict) else ())):
            if type(tensor) in TENSORS:
                self.found[self.within(prefix, name)] = tensor
        for name, module in modules.items():
            self.module(module, f"{self.within(prefix, name)}.", outer | {id(value)})
        return True

    def dictionary(self, value: Mapping[Any, Any], prefix: str = "") -> bool:
        """Whether there is nothing but tensors, and what may stand beside them, in a dictionary of dictionaries."""
        for name, item in value.items():
            item = _of_numpy(item)
            if type(name) is not str:
                return False
            if isinstance(item, dict) and not is_beside(name, item):
                if not self.dictionary(item, f"{self.within(prefix, name)}."):
                    return False
            elif is_beside(name, item):
                self.found[self.within(prefix, name)] = item
            else:
                return False
        return True


def module_weights(value: Any) -> dict[str, Any] | None:
    """The parameters and buffers of a `torch.nn.Module` that was saved whole; None for anything else."""
    gathered = _Gathered()
    return gathered.found if gathered.module(value) else None


def _nested(value: Any) -> dict[str, Any] | None:
    """Weights in dictionaries of dictionaries, their names joined by dots; None where anything else is among them."""
    gathered = _Gathered()
    if not isinstance(value, dict) or not gathered.dictionary(value):
        return None
    return gathered.found if any(type(item) in TENSORS for item in gathered.found.values()) else None


# --- what else it is --------------------------------------------------------------------------------------------------


def _what_dict(value: Mapping[Any, Any], forms: tuple[terms.CheckpointForm, ...], candidates: list[Found]) -> str:
    if not value:
        return "a torch file that holds an empty dictionary, not a checkpoint"
    if candidates:
        several = ", ".join(repr(found.form.weights[:80]) for found in candidates[:_MOST_NAMED])
        more = f" and {len(candidates) - _MOST_NAMED} more" if len(candidates) > _MOST_NAMED else ""
        return f"a torch file with several dictionaries of weights, {several}{more}, and none under a key of a form"
    shown = ", ".join(repr(key[:40]) if type(key) is str else str(key)[:80] for key in list(value)[:_MOST_NAMED])
    more = ", …" if len(value) > _MOST_NAMED else ""
    wanted = " or ".join(dict.fromkeys(repr(form.weights) for form in forms if form.weights))
    inner = {id(item): item for item in value.values() if isinstance(item, dict)}.values()  # each once
    held = (value, *inner, *(item for each in inner for item in each.values()))
    state = "the state of an optimizer in " if any(map(is_optimizer, held)) else ""
    return (
        f"a torch file that holds {state}a dictionary with the keys {shown}{more}, and no weights under {wanted}, nor "
        "a dictionary of tensors by name under another key"
    )


def kind(value: object) -> str:
    """What a value is, in a message."""
    if isinstance(value, Tensor | OtherTensor):
        return f"a plain tensor of shape {list(value.shape)}"
    if type(value) is Record:
        return f"an instance of {value.class_name[:200]}"
    if isinstance(value, Storage | DType | Device | PathParts):
        return f"a {type(value).__name__.lower()}"
    return f"a {type(value).__name__}" if value is not None else "None"
