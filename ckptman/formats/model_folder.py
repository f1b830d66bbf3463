"""A folder as transformers, its Trainer and peft write it: weights, in one file or in shards, and JSON files.

model.safetensors | pytorch_model.bin                    the weights; adapter_model.* those of an adapter
<weights>.index.json                                     which shard has which of them
config.json, trainer_state.json, optimizer.pt            configuration, progress, optimizer's state
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from ckptman.formats import checkpoint, forms, plain_values, safetensors
from ckptman.formats.archive import PICKLE, open_archive
from ckptman.formats.bounded import Member, open_bytes, parse_json, read_json
from ckptman.formats.checkpoint import CheckpointInfo, OptimizerInfo, TensorInfo
from ckptman.formats.pickle_reader import read_pickle
from ckptman.formats.pickled import Storage, Tensor
from ckptman.formats.refusals import refusal
from ckptman.formats.weight_shapes import is_mask
from ckptman.rules import terms
from ckptman.text import RefusedError

WEIGHTS: Final = (
    "model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin",
    "diffusion_pytorch_model.safetensors",
)  # fmt: skip
INDEX: Final = ".index.json"
"""What follows the name of the weights in that of their index."""
CONFIGS: Final = ("config.json", "adapter_config.json")
STATE: Final = "trainer_state.json"
MODULES: Final = "modules.json"
OPTIMIZERS: Final = ("optimizer.pt", "optimizer.bin")

MAX_CONFIG: Final = 1 << 20
MAX_INDEX: Final = 1 << 24
"""Bytes of an index, or of the Trainer's state, which holds all that it logged."""
MAX_SHARDS: Final = 10_000
MAX_MEMBERS: Final = 100_000


class _Weights(NamedTuple):
    tensors: tuple[TensorInfo, ...]
    parameters: int
    nbytes: int
    metadata: Mapping[str, str]


def weights_file(names: Iterable[str]) -> str | None:
    """The file of a folder with these files that holds its weights, or their index; None for another folder."""
    found = set(names)
    return next((name for base in WEIGHTS for name in (base, base + INDEX) if name in found), None)


def has_weights(folder: Path) -> bool:
    """Whether a folder is such a checkpoint, by the names of its files."""
    try:
        return weights_file(os.listdir(folder)) is not None  # noqa: PTH208 (names are all that is asked for)
    except OSError:
        return False


def has_own_weights(folder: Path) -> bool:
    """Whether a folder in such a checkpoint is another one, and no module of it that sentence-transformers lists."""
    if not has_weights(folder):
        return False
    try:
        with open_bytes(folder.parent / MODULES) as file:
            return json.dumps(folder.name).encode() not in file.read(0, min(file.size, MAX_CONFIG))
    except RefusedError:  # there is none
        return True


COMPANIONS: Final = (
    "optimizer*.pt", "scheduler*.pt", "scaler*.pt", "rng_state*.pt", "trainer_state*.pt", "*_states.pt",
    "meta.pt",
)  # fmt: skip
"""Files that are part of such a folder, though they are called like checkpoints themselves."""


def is_companion(name: str) -> bool:
    """Whether a file of this name, beside weights, is a part of the same checkpoint, not another one."""
    return any(fnmatchcase(name, pattern) for pattern in COMPANIONS)


def members(folder: Path) -> tuple[Member, ...]:
    """The regular files of a folder, and of the folders in it, by name; without those that are checkpoints themselves.

    Raises:
        RefusedError: `unreadable`, or `not-a-file` where a link, a pipe or a device lies in it.
    """
    found: list[Member] = []
    pending = [folder]
    while pending:
        at = pending.pop()
        try:
            with os.scandir(at) as listing:
                for item in listing:
                    state = item.stat(follow_symlinks=False)
                    name = str(Path(item.path).relative_to(folder))
                    if stat.S_ISDIR(state.st_mode):
                        if at != folder or not has_own_weights(Path(item.path)):
                            pending.append(Path(item.path))
                    elif stat.S_ISREG(state.st_mode):
                        found.append(Member(name, state.st_size))
                    else:
                        copy = (
                            "a symbolic link: a copy of the folder is read that has the file itself, as cp -rL makes it"
                        )
                        what = copy if item.is_symlink() else "not a regular file"
                        raise refusal("not-a-file", f"{name[:80]!r} in it is {what}")
        except OSError as error:
            raise refusal("unreadable", f"cannot look into the folder: {error.strerror}") from None
        if len(found) > MAX_MEMBERS:
            raise refusal("bad-header", f"it holds more than {MAX_MEMBERS:,} files")
    return tuple(sorted(found))


def read_folder(folder: Path, rules: terms.CheckpointRules, files: tuple[Member, ...]) -> CheckpointInfo:
    """What such a folder says of itself, by the headers of its files. Missing shards are named in the result.

    Raises:
        RefusedError: if one of its files cannot be read, or they contradict each other.
    """
    sizes = {member.name: member.size for member in files}
    main = weights_file(sizes)
    if main is None:
        raise refusal("not-a-checkpoint", "there are no weights in it under a known name")
    index = main.endswith(INDEX)
    weights, missing = _sharded(folder, main, sizes, rules) if index else (_weights(folder / main, rules), ())
    tensors = weights.tensors if index else _in_file(weights.tensors, main)
    compiled = any(rules.compiled_prefix in tensor.name for tensor in tensors)
    tensors = _seen_through(tensors, replace(rules, prefixes=()))  # `model.` is part of the names in transformers
    state = read_json(folder / STATE, MAX_INDEX) if STATE in sizes else {}
    own = CONFIGS[::-1] if main.startswith("adapter_") else CONFIGS  # beside an adapter, config.json is of its base
    named = next((name for name in own if name in sizes), None)
    config = None if named is None else _json_config(read_json(folder / named, MAX_CONFIG), named)
    step = _step(state)
    kind = ".bin" if ".bin" in main else "safetensors"
    return CheckpointInfo(
        container=f"{kind} in {'shards' if index else 'a folder'}",
        form="Trainer" if state else "transformers" if named else "weights",
        size=sum(sizes.values()),
        iters_done=checkpoint.count_of(step),
        odd_fields=_odd(step, f"global_step of its {STATE}"),
        itr=None,
        run_id=None,
        config=config,
        config_class=None,
        model_config=None,
        tensors=tensors,
        compiled=compiled,
        parameters=weights.parameters,
        optimizer=_optimizer(folder, sizes),
        other_keys=(),
        members=files,
        missing=missing,
        config_key=named,
        nbytes=weights.nbytes,
    )


def read_safetensors(path: Path, rules: terms.CheckpointRules) -> CheckpointInfo:
    """What one safetensors file says of itself. Its metadata may hold a configuration, as JSON, and the progress."""
    header = safetensors.read_header(path)
    weights = _of_header(header)
    known = {form: len(header.metadata.keys() & set(forms.keys(form)[1:])) for form in rules.forms}
    form = max(known, key=lambda form: known[form]) if any(known.values()) else None
    said, shared = header.metadata, _shared(header)
    iters, itr = (
        None if form is None or not key else said.get(key) for key in (form and form.iters, form and form.itr)
    )
    return CheckpointInfo(
        container="safetensors",
        form="weights" if form is None else form.name,
        size=header.size,
        iters_done=checkpoint.count_of(iters),
        itr=checkpoint.count_of(itr),
        odd_fields=() if form is None else (*_odd(iters, form.iters), *_odd(itr, form.itr or "")),
        run_id=None if form is None or form.run_id is None else said.get(form.run_id) or None,
        config=None if form is None else _config_text(said, form.config),
        config_class=None,
        model_config=None if form is None else _config_text(said, form.model_config),
        tensors=_seen_through(weights.tensors, rules),
        compiled=any(rules.compiled_prefix in tensor.name for tensor in weights.tensors),
        parameters=weights.parameters,
        optimizer=None,
        other_keys=tuple(key for key in said if key not in shared and (form is None or key not in forms.keys(form))),
        config_key=None if form is None else form.config,
        nbytes=weights.nbytes,
    )


def _step(state: Mapping[str, Any]) -> Any:
    """The iterations that the Trainer's state tells of the weights beside it.

    None where it was written after the end, when the Trainer may have loaded its best checkpoint, of another step.
    """
    step, best, rows = (state.get(key) for key in ("global_step", "best_model_checkpoint", "log_history"))
    named = re.search(r"-(\d{1,18})[/\\]?$", best) if isinstance(best, str) else None
    has_ended = isinstance(rows, list) and any(isinstance(row, dict) and "train_runtime" in row for row in rows)
    return None if has_ended and named is not None and int(named[1]) != step else step


def _odd(value: object, name: str) -> tuple[str, ...]:
    """What is said of a number of iterations that is none."""
    is_odd = value is not None and checkpoint.count_of(value) is None
    return (f"{name} is {checkpoint.brief(value)}, not a number of iterations",) if is_odd else ()


def _json_config(document: dict[str, Any], key: str) -> dict[str, Any]:
    """A configuration that was JSON, within the limits of any other.

    Raises:
        RefusedError: `bad-field` if it is larger.
    """
    pending: list[Any] = [document]
    values = characters = 0
    while pending:
        value = pending.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        texts = (item for item in chain(inner, value if isinstance(value, dict) else ()) if isinstance(item, str))
        values += len(inner)
        characters += sum(map(len, texts))
        pending += [item for item in inner if isinstance(item, dict | list)]
    if values > plain_values.MAX_VALUES:
        raise refusal("bad-field", f"its {key} holds {values:,} values, more than {plain_values.MAX_VALUES:,}")
    if characters > plain_values.MAX_TEXT:
        raise refusal("bad-field", f"its {key} holds {characters:,} characters, more than {plain_values.MAX_TEXT:,}")
    return document


def _config_text(metadata: Mapping[str, str], key: str | None) -> dict[str, Any] | None:
    """A configuration that stands as JSON in the metadata; None where there is none."""
    text = None if key is None else metadata.get(key)
    if key is None or text is None or not text.startswith("{"):
        return None
    return _json_config(parse_json(text.encode()), key)


def _weights(path: Path, rules: terms.CheckpointRules) -> _Weights:
    if path.suffix == ".safetensors":
        return _of_header(safetensors.read_header(path))
    with open_archive(path) as archive:
        pickled = read_pickle(archive.read(PICKLE, archive.size))
        checkpoint.check_storages(archive, tuple(pickled.storages.values()))
        if not isinstance(pickled.value, dict):
            raise refusal("foreign", "a torch file, but not one of weights by name")
        tensors, _ = checkpoint._tensors(pickled.value, "content", rules, as_saved=True)
        return _Weights(tensors, *checkpoint.count_elements(tensor.view for tensor in tensors), {})


def _shared(header: safetensors.Header) -> dict[str, str]:
    """Names of weights that `save_model` left out, since they are others: its metadata says which."""
    names = {tensor.name for tensor in header.tensors}
    return {name: kept for name, kept in header.metadata.items() if name not in names and kept in names}


def _of_header(header: safetensors.Header) -> _Weights:
    tensors = {
        tensor.name: TensorInfo(tensor.name, tensor.shape, tensor.dtype, _view(tensor)) for tensor in header.tensors
    }
    return _Weights(
        (*tensors.values(), *(replace(tensors[kept], name=name) for name, kept in _shared(header).items())),
        sum(math.prod(tensor.shape) for tensor in header.tensors if not is_mask(tensor.name, tensor.shape)),
        sum(tensor.nbytes for tensor in header.tensors),
        header.metadata,
    )


def _view(tensor: safetensors.StoredTensor) -> Tensor | None:
    """A tensor as a view of a storage of its own; None where an element is no whole number of bytes."""
    numel = math.prod(tensor.shape)
    itemsize, rest = divmod(tensor.nbytes, numel or 1)
    if rest:
        return None
    strides = tuple(
        math.prod(max(1, size) for size in tensor.shape[dimension + 1 :]) for dimension in range(len(tensor.shape))
    )
    storage = Storage(tensor.name, tensor.dtype, itemsize or 1, numel)
    return Tensor(storage, tensor.dtype, itemsize or 1, 0, tensor.shape, strides)


def _seen_through(tensors: tuple[TensorInfo, ...], rules: terms.CheckpointRules) -> tuple[TensorInfo, ...]:
    """With the names that the model has without its wrappers."""
    clean = checkpoint.see_through([tensor.name for tensor in tensors], rules)
    if len(set(clean.values())) < len(tensors):
        return tensors
    return tuple(replace(tensor, name=clean[tensor.name], saved_as=tensor.name) for tensor in tensors)


def _in_file(tensors: Iterable[TensorInfo], file: str) -> tuple[TensorInfo, ...]:
    return tuple(replace(tensor, file=file) for tensor in tensors)


def _sharded(
    folder: Path, index: str, sizes: Mapping[str, int], rules: terms.CheckpointRules
) -> tuple[_Weights, tuple[str, ...]]:
    """The weights of all shards that are there, and the shards that are not."""
    document = read_json(folder / index, MAX_INDEX)
    where = document.get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise refusal("bad-header", f"its {index} does not say which shard holds which weights")
    shards = dict.fromkeys(where.values())
    if len(shards) > MAX_SHARDS:
        raise refusal("bad-header", f"its {index} names {len(shards):,} shards, more than {MAX_SHARDS:,}")
    for shard in shards:
        if not shard or "/" in shard or "\\" in shard or "\0" in shard or shard in (".", ".."):
            raise refusal("bad-header", f"its {index} names the shard {shard[:80]!r}, which is no plain file name")
    missing = tuple(shard for shard in shards if shard not in sizes)
    parts = {shard: _weights(folder / shard, rules) for shard in shards if shard in sizes}
    for shard, part in parts.items():
        expected = {name.removeprefix(rules.compiled_prefix) for name, at in where.items() if at == shard}
        names = (tensor.name for tensor in part.tensors if tensor.name in where or tensor.name not in part.metadata)
        found = {name.removeprefix(rules.compiled_prefix) for name in names}
        if expected != found:
            name = min(expected ^ found)
            raise refusal("bad-header", f"its {index} and {shard} disagree on where the weight {name[:80]!r} is")
    nbytes = sum(part.nbytes for part in parts.values())
    metadata = document.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not missing and type(total) is int and total > nbytes:
        raise refusal("bad-header", f"its {index} says {total:,} bytes of weights, and its shards hold {nbytes:,}")
    tensors = tuple(tensor for shard, part in parts.items() for tensor in _in_file(part.tensors, shard))
    return _Weights(tensors, sum(part.parameters for part in parts.values()), nbytes, {}), missing


def _optimizer(folder: Path, sizes: Mapping[str, int]) -> OptimizerInfo | None:
    name = next((name for name in OPTIMIZERS if name in sizes), None)
    if name is None:
        return None
    with open_archive(folder / name) as archive:
        pickled = read_pickle(archive.read(PICKLE, archive.size))
        checkpoint.check_storages(archive, tuple(pickled.storages.values()))
        return checkpoint._optimizer(pickled.value, (name,))
