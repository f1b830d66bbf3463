"""Loading checkpoints: the weights of any file that is placed, and the `GPT` of those that are the built-in model's.

    weights, info = ckptman.load_weights("Final_….pt")
    model, info = ckptman.load("Final_….pt")

Tensors are built here, from the reader's description of the file and the file's mapped bytes: neither `torch.load` nor
any pickle machinery has a part in it.

`from ckptman import GPT, GPTConfig` comes through this module. As `import ckptman` marks `TrainConfig` as safe for
`torch.load(weights_only=True)` under every name that checkpoints have pickled it by (`marking`), a lab's own loading
code, with just its import line changed, reads files with a pickled configuration and still executes nothing from them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from ckptman.formats import CheckpointInfo, architecture, mapping, pickled, show_path
from ckptman.rules import Convention, convention_file, recipe
from ckptman.text import CkptmanError, MachineError, RefusedError, given_path
from ckptman.training.marking import mark_safe
from ckptman.training.model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "load", "load_weights", "mark_safe", "pick_device"]

WTE, WPE, LM_HEAD = architecture.WTE, architecture.WPE, architecture.LM_HEAD

_ALIGNMENT = 16
"""Bytes: the largest element, of a complex128."""


def load(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", convention: Convention | None = None
) -> tuple[GPT, CheckpointInfo]:
    """Load a checkpoint: the model, ready to predict, and what its file says of itself.

    It takes any file that `ckptman` places whose model is the built-in one or one of its variants, by the names and the
    shapes of its weights and by the configuration inside: saved from a compiled model or not, the configuration a
    dictionary or a pickled `TrainConfig`. Nothing in the file is executed. Weights of another floating-point type are
    converted to float32.

    What decides the model's shape comes from the configuration inside the file. A key that it lacks is taken from the
    shapes of the weights, or, for what they do not show (the number of heads, and whether positions are used), from the
    file's name. A contradiction is refused, never settled; so is a key that nobody knows and that could change what the
    model computes, until `model.without_effect` in ckptman.yaml declares it harmless.

    Args:
        path: The file.
        device: Where the model goes: `cpu`, `cuda`, `cuda:1` …, or `auto` (a GPU if there is one).
        convention: The rules to read the file by; by default those of the nearest ckptman.yaml above it, or
            the built-in ones.

    Returns:
        The model in evaluation mode, and the file's description, as `read_checkpoint` gives it.

    Raises:
        RefusedError: the file is not a safe and whole checkpoint (codes of `refusals.REFUSALS`); its weights or its
            configuration are of another architecture (`other-architecture`), may be so (`unknown-effect`), or do not
            say which (`no-architecture`).
        UsageError: (`bad-device`) there is no such kind of device.
        MachineError: (`no-device`) the machine has no such device.
    """
    rules = convention_file.rules_for(convention, given_path(path).parent)
    target = pick_device(device)
    try:
        mapped = mapping.map_weights(path, rules.checkpoint)
        config = architecture.model_config(mapped.info, path, rules)
        found = _tensors(mapped)
        weights = {tensor.name: _dense(found[tensor.name]) for tensor in architecture.of_model(mapped.info.tensors)}
        _check_values(weights)
        _check_masks({mask.name: _dense(found[mask.name]) for mask in architecture.masks_of(mapped.info.tensors)})
    except RefusedError as error:
        raise _with_path(error, path) from error
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights as they are made; these are not used
        model = GPT(GPTConfig(**config))
    for name, weight in model.state_dict().items():
        if name not in weights:  # a tied head, or the bias of a gate: see `weight_shapes.is_optional`
            weights[name] = weights[WTE] if name == LM_HEAD else torch.zeros_like(weight)
    model.load_state_dict(weights)
    return model.to(target).eval(), mapped.info


def load_weights(
    path: str | os.PathLike[str], *, verify: bool = True, convention: Convention | None = None
) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Load the weights of any checkpoint that `ckptman` places, whatever its model is.

    The tensors are on the CPU, in the file's own types, and equal those of `torch.load(weights_only=True)` where that
    can read the file; names are without the prefixes of wrapped models. They are mapped: of a large file, only what is
    looked at comes into memory. What is written into them does not reach the file, which may be moved or removed, but
    must not be cut short while they are in use.

    Args:
        path: The file.
        verify: Check the file against its checksums first, which reads all of it once; otherwise only its header is
            read.
        convention: The rules to read the file by; by default those of the nearest ckptman.yaml above it, or
            the built-in ones.

    Returns:
        The weights by name, and the file's description, as `read_checkpoint` gives it.

    Raises:
        RefusedError: the file is not a safe and whole checkpoint (codes of `refusals.REFUSALS`).
    """
    rules = convention_file.rules_for(convention, given_path(path).parent)
    mapped = mapping.map_weights(path, rules.checkpoint, verify=verify)
    try:
        return _tensors(mapped), mapped.info
    except RefusedError as error:
        raise _with_path(error, path) from error


def pick_device(name: str | torch.device) -> torch.device:
    """The device that `name` stands for: `auto` is the GPU if there is one, else the CPU.

    Raises:
        UsageError: (`bad-device`) for an unknown name, and for a device that holds no values, such as `meta`.
        MachineError: (`no-device`) where the machine does not have it.
    """
    recipe.check_device_name(str(name))
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MachineError(
            f"the device {name} cannot be used: {_first_line(error).split('. ')[0]}",
            code="no-device",
            fix="Use --device cpu, or a torch that is built for this device.",
        ) from error
    return device


class Tensors:
    """Makes the tensors that descriptions over these storages are ones of."""

    def __init__(self, storages: Mapping[str, memoryview]) -> None:
        self._storages = {key: _storage(data) for key, data in storages.items()}

    def make(self, view: object, name: str) -> Tensor:
        """The tensor of a description.

        Raises:
            RefusedError: `not-loadable`, with the tensor's name.
        """
        try:
            return _tensor(view, self._storages)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise RefusedError(
                f"its {name} is a tensor that this torch cannot make: {_first_line(error)}",
                code="not-loadable",
                fix="Use a newer torch.",
            ) from error


# --- the weights ------------------------------------------------------------------------------------------------------


def _tensors(mapped: mapping.MappedWeights) -> dict[str, Tensor]:
    """The weights by name, those that share a storage in the file sharing their memory here."""
    storages: defaultdict[str, dict[str, memoryview]] = defaultdict(dict)  # of each file
    for (file, key), data in mapped.storages.items():
        storages[file][key] = data
    files = {file: Tensors(storages[file]) for file in {tensor.file for tensor in mapped.info.tensors}}
    return {tensor.name: files[tensor.file].make(tensor.view, tensor.name) for tensor in mapped.info.tensors}


def _tensor(view: object, storages: Mapping[str, torch.UntypedStorage]) -> Tensor:
    """The tensor that a description is one of.

    Raises:
        TypeError, ValueError, RuntimeError, AttributeError, KeyError: torch has no such tensor, or cannot make it.
    """
    if isinstance(view, pickled.Tensor):
        dtype = getattr(torch, _INTEGERS.get(view.dtype, view.dtype))
        found = torch.empty(0, dtype=dtype).set_(storages[view.storage.key], view.offset, view.shape, view.stride)
        found = found.conj() if view.conj else found
        return torch._neg_view(found) if view.neg else found
    if not isinstance(view, pickled.OtherTensor):
        raise TypeError("nothing says where its elements are")
    parts = [_tensor(part, storages) if isinstance(part, pickled.Tensor) else part for part in view.parts]
    if view.kind == "chunks":
        whole = torch.empty(view.shape, dtype=getattr(torch, view.dtype))
        for offsets, part in zip(view.parts[::2], parts[1::2], strict=True):
            whole[tuple(slice(at, at + size) for at, size in zip(offsets, part.shape, strict=True))] = part
        return whole
    if view.kind == "meta":
        return torch.empty_strided(view.shape, view.parts[0], dtype=getattr(torch, view.dtype), device="meta")
    if view.kind == "sparse_coo":
        return torch.sparse_coo_tensor(parts[0], parts[1], view.shape, check_invariants=True)
    if view.kind.startswith("sparse_"):
        layout = getattr(torch, view.kind)
        rows, columns, values = parts[:3]
        return torch.sparse_compressed_tensor(rows, columns, values, view.shape, layout=layout, check_invariants=True)
    if view.kind == "quantized" and view.dtype in _INTEGERS:
        each = "per_channel" if len(parts) > 4 else "per_tensor"
        made: Tensor = getattr(torch, f"_make_{each}_quantized_tensor")(parts[0], *parts[2:])
        return made
    if view.kind == "array":
        return _of_array(view.parts[0]).to(getattr(torch, view.dtype))
    if view.kind == "nested":
        buffer, sizes, strides, offsets = parts
        places = zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True)
        return torch.nested.nested_tensor(
            [buffer.as_strided(size, stride, buffer.storage_offset() + at) for size, stride, at in places]
        )
    if view.kind == "jagged":
        values, starts, lengths = parts
        ends = starts[1:] if lengths is None else starts[:-1] + lengths
        rising = not bool((ends < starts[:-1]).any())
        if starts.dtype != torch.int64 or not rising or not 0 <= starts.min() <= ends.max() <= len(values):
            raise ValueError("its parts reach outside its values")
        return torch.nested.nested_tensor_from_jagged(values, starts, lengths)
    raise TypeError(f"it is of the kind {view.kind}")


def _of_array(array: pickled.Array) -> Tensor:
    """A tensor with the elements of a numpy array; those of numpy are of no bfloat16."""
    kind = {"f": "float", "i": "int", "u": "uint", "c": "complex", "b": "bool"}[array.dtype.code[:1]]
    dtype = getattr(torch, kind if kind == "bool" else f"{kind}{8 * array.dtype.itemsize}")
    if array.dtype.order == ">" or not isinstance(array.data, bytes):
        raise TypeError("it is an array of another machine")
    elements = torch.frombuffer(bytearray(array.data), dtype=dtype) if array.data else torch.empty(0, dtype=dtype)
    if array.fortran:
        return elements.reshape(array.shape[::-1]).permute(*reversed(range(len(array.shape))))
    return elements.reshape(array.shape)


_INTEGERS = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
"""What the elements of quantized tensors are stored as."""


def _storage(data: memoryview) -> torch.UntypedStorage:
    """A storage over these bytes: the mapped ones themselves, or a copy of those that are not aligned."""
    if not len(data):
        return torch.empty(0).untyped_storage()
    mapped = torch.frombuffer(data, dtype=torch.uint8)
    return (mapped.clone() if mapped.data_ptr() % _ALIGNMENT else mapped).untyped_storage()


def _dense(weight: Tensor) -> Tensor:
    """The same values as a module's parameter has them."""
    if weight.is_quantized:
        return weight.dequantize()
    return weight if weight.layout is torch.strided else weight.to_dense()


def _check_values(weights: Mapping[str, Tensor]) -> None:
    """Refuse what the shapes do not show: weights that are no real numbers, and a head that is not tied."""
    wrong = {name: weight.dtype for name, weight in weights.items() if not weight.is_floating_point()}
    architecture.refuse_other([f"{name} is of the type {dtype}" for name, dtype in wrong.items()])
    head, embedding = weights.get(LM_HEAD), weights[WTE]
    if head is not None and not torch.equal(head.float().nan_to_num(), embedding.float().nan_to_num()):
        architecture.refuse_other([f"{LM_HEAD} is not tied: its values are others than those of {WTE}"])


def _check_masks(masks: Mapping[str, Tensor]) -> None:
    """Refuse attention that sees other positions than those before it, which is all that the built-in model does."""
    others = []
    for name, mask in masks.items():
        if not mask.dim():
            if not mask.item() <= _HIDING:
                others.append(f"{name} is {mask.item()}, which hides nothing")
        elif not torch.equal(mask, torch.ones(mask.shape, dtype=torch.bool).tril().to(mask.dtype)):
            others.append(f"{name} is no causal mask: it is not 1 on and below its diagonal, and 0 above")
    architecture.refuse_other(others)


_HIDING = -1000.0
"""What is added to attention, or put in its place, leaves nothing of it from here on."""


# --- refusals ---------------------------------------------------------------------------------------------------------


def _with_path(error: CkptmanError, path: str | os.PathLike[str]) -> RefusedError:
    shown = show_path(path)
    message = error.message if error.message.startswith(shown) else f"{shown}: {error.message}"
    return RefusedError(message, code=error.code, fix=error.fix)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
