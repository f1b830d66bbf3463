"""A safetensors file, read by its header only.

    file   = length of the header (8 bytes, little-endian), header (JSON, padded with spaces), the tensors' bytes
    header = {name: {dtype, shape, data_offsets: [begin, end]}, …, "__metadata__": {text: text}}

As the format demands, and its own reader does: the tensors take all bytes after the header, without gap or overlap, and
no name stands twice. So there is one way to read a file.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

from ckptman.formats.archive import what_else
from ckptman.formats.bounded import Bytes, open_bytes, parse_json
from ckptman.formats.refusals import refusal

MAX_HEADER: Final = 100_000_000
"""Bytes of a header: the format's own limit."""
MAX_DIMENSIONS: Final = 64
_METADATA: Final = "__metadata__"
_LENGTH = Struct("<Q")
_SHORTEST: Final = 16
"""Bytes from which on a file is told to be something else; a shorter one is being written, perhaps."""

_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_NAMES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn_x2",
}  # fmt: skip
"""As torch calls them; a dtype that torch has not keeps its name."""


class StoredTensor(NamedTuple):
    """A tensor, and where its bytes stand."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As torch calls it."""
    start: int
    """From the beginning of the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: tuple[StoredTensor, ...]
    """In the order of their bytes."""
    metadata: dict[str, str]
    size: int
    """Bytes of the file."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 9) says it is a safetensors file."""
    return len(head) > _LENGTH.size and head[_LENGTH.size : _LENGTH.size + 1] == b"{" and head[6:8] == b"\0\0"


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a safetensors file; of the rest nothing is read.

    Raises:
        RefusedError: `bad-header`, `bad-tensor`, `cut`, or as a file is refused that cannot be opened.
    """
    with open_bytes(path) as file:
        if not file.size:
            raise refusal("empty", "the file is empty")
        head = file.read(0, min(file.size, 512))
        if len(head) > _SHORTEST and not is_safetensors(head) and (what := what_else(head)) is not None:
            raise refusal("not-a-checkpoint", f"not a safetensors file, but {what}")
        length = _LENGTH.unpack(file.read(0, _LENGTH.size))[0]
        if length > MAX_HEADER:
            raise refusal(
                "bad-header", f"its header would have {length:,} bytes, more than the limit of {MAX_HEADER:,}"
            )
        document = parse_json(file.read(_LENGTH.size, length))
        metadata = document.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise refusal("bad-header", f"its {_METADATA} is not a table of texts")
        first = _LENGTH.size + length
        tensors = sorted((_tensor(name, entry, first) for name, entry in document.items()), key=_place)
        _check_cover(tensors, first, file)
        return Header(tuple(tensors), metadata, file.size)


def _place(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.start, tensor.nbytes


def _tensor(name: str, entry: Any, first: int) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad(name, "has not just a dtype, a shape and offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _bad(name, f"has the unknown dtype {str(dtype)[:80]!r}")
    if not _is_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _bad(name, "has an impossible shape")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise _bad(name, "has impossible offsets")
    begin, end = offsets
    if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise _bad(name, f"takes {end - begin:,} bytes, which its shape and dtype {dtype} do not")
    return StoredTensor(name, tuple(shape), _NAMES.get(dtype, dtype), first + begin, end - begin)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_cover(tensors: list[StoredTensor], first: int, file: Bytes) -> None:
    at = first
    for tensor in tensors:
        if tensor.start != at:
            raise _bad(tensor.name, "overlaps another" if tensor.start < at else "leaves a gap before it")
        at += tensor.nbytes
    if at > file.size:
        raise refusal("cut", f"its tensors need {at:,} bytes, and it has {file.size:,}")
    if at < file.size:
        raise refusal("bad-header", f"there are {file.size - at:,} bytes after its tensors that belong to none")


def _bad(name: str, what: str) -> Exception:
    return refusal("bad-tensor", f"its tensor {name[:80]!r} {what}")
