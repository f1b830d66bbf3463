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
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from struct import pack
from typing import Any

import torch
from torch import Tensor

from ckptman.formats import CheckpointInfo, show_path
from ckptman.fs import files, make_folders, write_atomically
from ckptman.rules import Convention, convention_file, terms
from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError
from ckptman.training.loading import load_weights, mark_safe
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
    """Keys of the source that are not in the copy."""
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
    files: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    to: Target | str = Target.PLAIN,
    weights_only: bool = False,
    convention: Convention | None = None,
) -> ExportResult:
    """Write copies of checkpoints that can be read without ckptman. No file is ever written over.

    Args:
        files: The checkpoints. A copy is called as its source is; `safetensors` files have that suffix.
        out: The folder for the copies; it is made.
        to: `plain` or `safetensors`.
        weights_only: Leave the optimizer out, and whatever else is not known; `safetensors` does so anyway.
        convention: The rules to read the files by; the built-in ones by default.

    Returns:
        What was written, and what was refused.

    Raises:
        UsageError: (`bad-target`) for an unknown target; (`same-name`) where two files would have one name.
        MachineError: a copy cannot be written, or does not come back as it was written (`not-verified`).
    """
    rules = convention or convention_file.built_in()
    target, folder = _target(to), Path(out)
    copies = _names([Path(file) for file in files], folder, target)
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


def _names(sources: list[Path], folder: Path, target: Target) -> dict[Path, Path]:
    """The sources by their copies."""
    copies: dict[Path, Path] = {}
    for source in dict.fromkeys(sources):
        copy = folder / (source.with_suffix(".safetensors") if target is Target.SAFETENSORS else source).name
        if copy in copies:
            raise UsageError(
                f"{show_path(copies[copy])} and {show_path(source)} would both be {copy.name}",
                code="same-name",
                fix="Export them into a folder each: --out DIR.",
            )
        copies[copy] = source
    return copies


def _export(source: Path, copy: Path, target: Target, weights_only: bool, rules: Convention) -> Exported:
    weights, info = load_weights(source, convention=rules)
    document: dict[str, Any] = {}
    if target is Target.SAFETENSORS:
        data = _safetensors(weights, info, rules)
    else:
        document = _plain(source, weights, info, rules, weights_only=weights_only)
        buffer = io.BytesIO()
        torch.save(document, buffer)
        data = buffer.getvalue()
    new = write_atomically(copy, data, replace=False)
    written = dict(_tensors_in(document)) if document else weights
    _verify(copy, written, _read_safetensors(copy) if target is Target.SAFETENSORS else _read_plain(copy))
    form = _form(info, rules)
    others = [*info.other_keys, *([form.optimizer] if form is not None and info.optimizer is not None else [])]
    return Exported(
        source=str(source),
        path=str(copy),
        size=len(data),
        tensors=len(written),
        left_out=tuple(key for key in others if key not in document),
        new=new,
    )


def _form(info: CheckpointInfo, rules: Convention) -> terms.CheckpointForm | None:
    return next((form for form in rules.checkpoint.forms if form.name == info.form), None)


# --- plain ------------------------------------------------------------------------------------------------------------


def _plain(
    source: Path, weights: Mapping[str, Tensor], info: CheckpointInfo, rules: Convention, *, weights_only: bool
) -> dict[str, Any]:
    """The content of a plain copy, by the keys of the form; those of no form for a file that has none."""
    form = _form(info, rules) or rules.checkpoint.forms[0]
    known = _known(info, form)
    document: dict[str, Any] = {form.weights: dict(weights), **known}
    if weights_only or not (info.optimizer or info.other_keys):
        return document
    mark_safe(rules.checkpoint.config_classes)
    try:
        saved = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever a file makes it stumble over
        raise RefusedError(
            f"{show_path(source)}: torch's safe loader cannot read all of it, only the weights can be exported: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0]}",
            code="not-loadable",
            fix="Add --weights-only, or --to safetensors.",
        ) from error
    for key, value in saved.items():
        if key not in document and key != form.config and _is_plain(value):
            document[key] = value
    return document


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


def _is_plain(value: object) -> bool:
    """Whether anybody can load it: dictionaries, lists, numbers, texts and tensors."""
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool) or isinstance(value, Tensor)


# --- safetensors ------------------------------------------------------------------------------------------------------

_ALIGNMENT = 8
_DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16", torch.int16: "I16",
    torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64", torch.int64: "I64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip


def _safetensors(weights: Mapping[str, Tensor], info: CheckpointInfo, rules: Convention) -> bytes:
    """The bytes of a safetensors file: the largest elements first, so that each tensor is aligned."""
    entries: dict[str, Any] = {"__metadata__": _metadata(info, rules)}
    parts: list[bytes] = []
    end = 0
    for name in sorted(weights, key=lambda name: (-weights[name].itemsize, name)):
        tensor = weights[name]
        if tensor.dtype not in _DTYPES or name == "__metadata__":
            raise RefusedError(
                f"{name} is of the type {tensor.dtype}, which safetensors does not have",
                code="no-safetensors-type",
                fix="Export it with --to plain.",
            )
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
    known = _known(info, _form(info, rules) or rules.checkpoint.forms[0])
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    return {"format": "pt", "exported_by": "ckptman", **texts}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


# --- verifying --------------------------------------------------------------------------------------------------------


def _verify(copy: Path, written: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare what was read again, bit by bit."""
    names = sorted(written.keys() | found.keys())
    wrong = [name for name in names if not _same(written.get(name), found.get(name))]
    if wrong:
        raise MachineError(
            f"{show_path(copy)} does not come back as it was written: {wrong[0]} is another tensor"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            code="not-verified",
            fix="Check the disk and the memory of this machine, remove the copy, and export again.",
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)


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
