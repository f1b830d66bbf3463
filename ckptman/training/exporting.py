"""Export: a copy of a checkpoint that anybody can read without ckptman, verified tensor by tensor.

    export(["Final_….pt"], "exported", to="safetensors")

* `plain`: a file for `torch.load(weights_only=True)` that holds nothing but dictionaries, lists, numbers, texts and
  tensors, under the keys of the file it was made from; a configuration that was an instance of a class is a dictionary.
* `safetensors`: the weights, and in the metadata, as JSON, what else is known: configuration, iterations, run id.

    safetensors = length of the header (8 bytes, little-endian), header (JSON, padded with spaces to 8 bytes), tensors
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from struct import pack
from typing import Any

import torch
from torch import Tensor

from ckptman.formats import CheckpointInfo, containers, mapping, pickled, show_path
from ckptman.fs import files, make_folders, write_atomically
from ckptman.rules import Convention, convention_file, terms
from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError, given_path
from ckptman.training.loading import Tensors, load_weights
from ckptman.tree import records


class Target(StrEnum):
    """What a checkpoint is exported to."""

    PLAIN = "plain"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True)
class Exported:
    """One file that was written, or was there already with the very same bytes."""

    source: str
    path: str
    size: int
    tensors: int
    left_out: tuple[str, ...]
    """Keys of the source that are not in the copy, and entries among its weights that are no tensors."""
    new: bool

    def to_json(self) -> dict[str, Any]:
        """The export as `--json` prints it."""
        return {
            "source": self.source,
            "path": self.path,
            "size": self.size,
            "tensors": self.tensors,
            "left_out": list(self.left_out),
            "new": self.new,
        }


@dataclass(frozen=True)
class ExportResult:
    """What `export` did."""

    exported: tuple[Exported, ...]
    refused: tuple[tuple[str, CkptmanError], ...]
    """Sources that were not exported, and why."""

    def to_json(self) -> dict[str, Any]:
        """The document of `ckptman export --json`."""
        refused = [{"source": source, "code": e.code, "message": e.message, "fix": e.fix} for source, e in self.refused]
        return {
            "schema_version": records.SCHEMA_VERSION,
            "exported": [item.to_json() for item in self.exported],
            "refused": refused,
        }


def export(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    to: Target | str = Target.PLAIN,
    weights_only: bool = False,
    convention: Convention | None = None,
) -> ExportResult:
    """Write copies of checkpoints that can be read without ckptman. No file is ever written over.

    Args:
        files: The checkpoints. A copy is called as its source is, with the suffix of what it is.
        out: The folder for the copies; it is made.
        to: `plain` or `safetensors`.
        weights_only: Leave the optimizer out, and whatever else is not known; `safetensors` does so anyway.
        convention: The rules to read the files by; by default those of the nearest ckptman.yaml above the first one, or
            the built-in ones.

    Returns:
        What was written, and what was refused.

    Raises:
        UsageError: (`bad-target`) for an unknown target; (`same-name`) where two files would have one name.
        MachineError: a copy cannot be written, or does not come back as it was written (`not-verified`).
    """
    named = [given_path(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
    rules = convention_file.rules_for(convention, named[0].parent if named else Path.cwd())
    target, folder = _target(to), given_path(out, "the folder of the copies")
    copies = _names(named, folder, target, rules)
    make_folders(folder, folder)
    exported: list[Exported] = []
    refused: list[tuple[str, CkptmanError]] = []
    for copy, source in copies.items():
        try:
            exported.append(_export(source, copy, target, weights_only, rules))
        except RefusedError as error:
            refused.append((str(source), error))
    return ExportResult(tuple(exported), tuple(refused))


def _target(name: Target | str) -> Target:
    try:
        return Target(name)
    except ValueError:
        known = ", ".join(Target)
        raise UsageError(f"{name!r} is nothing to export to", code="bad-target", fix=f"Export to: {known}.") from None


def _names(sources: list[Path], folder: Path, target: Target, rules: Convention) -> dict[Path, Path]:
    """The sources by their copies."""
    copies: dict[Path, Path] = {}
    for source in dict.fromkeys(sources):
        copy = folder / _name(source, target, rules.checkpoint)
        if copy in copies:
            raise UsageError(
                f"{show_path(copies[copy])} and {show_path(source)} would both be {copy.name}",
                code="same-name",
                fix="Export them into a folder each: --out DIR.",
            )
        copies[copy] = source
    return copies


def _name(source: Path, target: Target, rules: terms.CheckpointRules) -> str:
    """That of the source, with the suffix of what is written."""
    name = Path(os.path.abspath(source)).name  # noqa: PTH100  (not resolved: a link has a name of its own)
    is_archive = not source.is_dir() and not containers.is_safetensors(source)
    if target is Target.PLAIN and is_archive and source.suffix != containers.SAFETENSORS_SUFFIX:  # by which torch goes
        return name
    suffixes = sorted((rules.suffix, *rules.other_suffixes), key=len, reverse=True)
    base = next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix) and name != suffix), name)
    return base + (".safetensors" if target is Target.SAFETENSORS else rules.suffix)


def _export(source: Path, copy: Path, target: Target, weights_only: bool, rules: Convention) -> Exported:
    weights, info = load_weights(source, convention=rules)
    weights = {name: tensor.resolve_conj().resolve_neg() for name, tensor in weights.items()}
    document: dict[str, Any] = {}
    left_out: list[str] = []
    if target is Target.SAFETENSORS:
        data = _safetensors(source, weights, info, rules)
    else:
        document = _plain(source, weights, info, rules, left_out, weights_only=weights_only)
        buffer = io.BytesIO()
        torch.save(document, buffer)
        data = buffer.getvalue()
    written = dict(_tensors_in(document)) if document else weights
    read = _read_safetensors if target is Target.SAFETENSORS else _read_plain

    def verify(at: Path) -> None:
        try:
            found = read(at)
        except Exception as error:  # torch's reader raises whatever a file makes it stumble over
            raise _not_verified(copy, (str(error).strip() or type(error).__name__).splitlines()[0]) from error
        _verify(copy, written, found)

    new = write_atomically(copy, data, replace=False, check=verify)
    if not new:
        verify(copy)
    others = list(info.other_keys)
    if info.optimizer is not None:
        others += info.optimizer.keys
    return Exported(
        source=str(source),
        path=str(copy),
        size=len(data),
        tensors=len(written),
        left_out=tuple(dict.fromkeys([*(key for key in others if key not in document), *left_out, *info.not_tensors])),
        new=new,
    )


def _form(info: CheckpointInfo, rules: Convention) -> terms.CheckpointForm:
    """The form of a copy: that of its source, or the first, where that has no key for what is known."""
    form = next((form for form in rules.checkpoint.forms if form.name == info.form), rules.checkpoint.forms[0])
    return rules.checkpoint.forms[0] if form.whole and info.config else form


# --- plain ------------------------------------------------------------------------------------------------------------


def _plain(
    source: Path,
    weights: Mapping[str, Tensor],
    info: CheckpointInfo,
    rules: Convention,
    left_out: list[str],
    *,
    weights_only: bool,
) -> dict[str, Any]:
    """The content of a plain copy, by the keys of the form; those of no form for a file that has none."""
    form = _form(info, rules)
    if form.whole:
        return dict(weights)
    known = _known(info, form)
    document: dict[str, Any] = {form.weights: dict(weights), **known}
    if weights_only or not (info.optimizer or info.other_keys) or info.container != containers.TORCH_ARCHIVE:
        return document
    value, storages = mapping.map_values(source, rules.checkpoint)
    rest = _Rest(Tensors(storages), left_out)
    written = {form.config, info.config_key, info.weights_key, *document}
    for key, item in value.items():
        if key not in written and (made := rest.plain(item, str(key)[:80])) is not _NOTHING:
            document[key] = made
    return document


_NOTHING = object()


class _Rest:
    """Makes of what a file holds what anybody can load: dictionaries, lists, numbers, texts and tensors."""

    def __init__(self, tensors: Tensors, left_out: list[str]) -> None:
        self._tensors = tensors
        self._left_out = left_out

    def plain(self, value: Any, at: str) -> Any:
        """The value; `_NOTHING`, and noted, where it is none of these. Of a dictionary what can be loaded is kept."""
        if isinstance(value, pickled.Tensor | pickled.OtherTensor):
            with suppress(RefusedError):
                return self._tensors.make(value, at).resolve_conj().resolve_neg()
        elif isinstance(value, dict):
            made = {
                key: self.plain(item if type(key) in _PLAIN else ..., f"{at}.{str(key)[:80]}")
                for key, item in value.items()
            }
            return {key: item for key, item in made.items() if item is not _NOTHING}
        elif type(value) in (list, tuple):
            noted = len(self._left_out)
            items = [self.plain(item, f"{at}[{index}]") for index, item in enumerate(value)]
            if not any(item is _NOTHING for item in items):
                return items if type(value) is list else tuple(items)
            del self._left_out[noted:]  # with one item less it would be another list
        elif type(value) in _PLAIN:
            return value
        self._left_out.append(at)
        return _NOTHING


_PLAIN = (str, int, float, bool, type(None))


def _known(info: CheckpointInfo, form: terms.CheckpointForm) -> dict[str, Any]:
    """What is known of a checkpoint beside its weights, by the keys of its form."""
    values = {
        form.config: info.config,
        form.model_config: info.model_config,
        form.iters: info.iters_done,
        form.itr: info.itr,
        form.run_id: info.run_id,
    }
    return {key: value for key, value in values.items() if key and value is not None}


# --- safetensors ------------------------------------------------------------------------------------------------------

_ALIGNMENT = 8
_DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16", torch.int16: "I16",
    torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64", torch.int64: "I64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip


def _safetensors(source: Path, weights: Mapping[str, Tensor], info: CheckpointInfo, rules: Convention) -> bytes:
    """The bytes of a safetensors file: the largest elements first, so that each tensor is aligned."""

    def refusal(what: str) -> RefusedError:
        return RefusedError(
            f"{show_path(source)}: {what}, which safetensors does not have",
            code="no-safetensors-type",
            fix="Export it with --to plain.",
        )

    try:
        json.dumps([_known(info, _form(info, rules)), *weights], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise refusal("its configuration, or a name in it, has text that is no Unicode") from None
    entries: dict[str, Any] = {"__metadata__": _metadata(info, rules)}
    parts: list[bytes] = []
    end = 0
    for name in sorted(weights, key=lambda name: (-weights[name].itemsize, name)):
        tensor = weights[name]
        kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        if tensor.dtype not in _DTYPES or kind != "strided" or name == "__metadata__":
            what = f"type {tensor.dtype}" if kind == "strided" else f"kind {kind}"
            raise refusal(f"{name} is of the {what}")
        data = _bytes(tensor)
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end := end + len(data)],
        }
        parts.append(data)
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return b"".join([pack("<Q", len(header)), header, *parts])


def _metadata(info: CheckpointInfo, rules: Convention) -> dict[str, str]:
    """What the file says beside its weights, each value as text: a configuration as JSON."""
    known = _known(info, _form(info, rules))
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    return {"format": "pt", "exported_by": "ckptman", **texts}


def _bytes(tensor: Tensor) -> bytes:
    if not tensor.numel():
        return b""
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)  # of one element, any stride is so
    return flat.view(torch.uint8).numpy().tobytes()


# --- verifying --------------------------------------------------------------------------------------------------------


def _verify(copy: Path, written: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare what was read again, bit by bit."""
    names = sorted(written.keys() | found.keys())
    wrong = [name for name in names if not _same(written.get(name), found.get(name))]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise _not_verified(copy, f"{wrong[0]} is another tensor{more}")


def _not_verified(copy: Path, why: str) -> MachineError:
    return MachineError(
        f"{show_path(copy)} does not come back as it was written: {why}",
        code="not-verified",
        fix="Check the disk and the memory of this machine, and export again.",
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    if (one.dtype, one.shape, one.layout, one.is_meta) != (other.dtype, other.shape, other.layout, other.is_meta):
        return False
    return one.is_meta or all(
        _bytes(part) == _bytes(same) for part, same in zip(_parts(one), _parts(other), strict=True)
    )


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The strided tensors that hold what is in it."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    if tensor.is_quantized:
        scales = [tensor.q_scale(), tensor.q_zero_point()] if tensor.qscheme() in _PER_TENSOR else []
        return tensor.int_repr(), torch.tensor(scales, dtype=torch.float64), *([] if scales else _per_channel(tensor))
    return (tensor,)


_PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)


def _per_channel(tensor: Tensor) -> list[Tensor]:
    return [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]


def _tensors_in(value: object, at: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested plain values, each with the keys that lead to it."""
    if isinstance(value, Tensor):
        yield at, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_in(item, f"{at}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors_in(item, f"{at}/{index}")


def _read_plain(copy: Path) -> dict[str, Tensor]:
    return dict(_tensors_in(torch.load(copy, map_location="cpu", weights_only=True)))


def _read_safetensors(copy: Path) -> dict[str, Tensor]:
    data = bytearray(files.read_bytes(copy))
    start = 8 + int.from_bytes(data[:8], "little")
    types = {name: dtype for dtype, name in _DTYPES.items()}
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            raw = _uint8(data[start + first : start + last])
            found[name] = raw.view(types[entry["dtype"]]).reshape(entry["shape"])
    return found


def _uint8(data: bytearray) -> Tensor:
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
