"""What a pickle's content is made of: plain values of Python, and inert stand-ins for everything else.

Numbers, text, bytes, dates, sets and their like are values of Python itself. A tensor is a description of which bytes
of which storage it views; an object of any other class is a `Record` with the class's name and the object's state.
"""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from struct import Struct
from typing import Any, Final, NamedTuple

from ckptman.formats.refusals import refusal


class Storage(NamedTuple):
    """A block of `numel` elements, kept in the archive's entry `data/<key>`."""

    key: str
    dtype: str
    """As torch calls it (`float32`); `untyped` for a block of plain bytes."""
    itemsize: int
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.itemsize * self.numel


class Tensor(NamedTuple):
    """A view of a storage; offset and strides are in elements. It has been checked to lie inside the storage."""

    storage: Storage
    dtype: str
    itemsize: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conj: bool = False
    """Whether its elements are the complex conjugates of those stored."""
    neg: bool = False
    """Whether its elements are the negatives of those stored."""


@dataclass(frozen=True, slots=True, eq=False)
class OtherTensor:
    """A tensor that is no strided view of one storage."""

    kind: str
    """`meta`, `quantized`, `nested`, `array` (numpy's bytes in the pickle itself), `subclass`, `uninitialized`,
    `chunks` (of a tensor that several processes hold), or its layout, as `sparse_coo`."""
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Any, ...]
    """What torch makes it from, by kind: `meta` strides; `sparse_…` indices (two for the compressed layouts) and
    values; `quantized` a `Tensor` of the integers, scheme, scale, zero point and axis; `nested` buffer, sizes, strides
    and offsets; `array` an `Array`; `subclass` the class's name and its state; `chunks` where each begins,
    and itself."""

    @property
    def tensors(self) -> list[Tensor]:
        """The strided tensors that its elements are in."""
        found: list[Tensor] = []
        for part in self.parts:
            inner = part.values() if type(part) is dict else (part,)
            for item in inner:
                if type(item) is Tensor:
                    found.append(item)
                elif type(item) is OtherTensor and item.kind != "subclass":
                    found.extend(each for each in item.parts if type(each) is Tensor)
        return found


class OrderedMapping(dict[Any, Any]):
    """Stands for an `OrderedDict`, a `Counter` or a `defaultdict`. Attributes, such as `_metadata`, are left out."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Record:
    """Stands for an instance of a class."""

    class_name: str
    args: tuple[Any, ...] = ()
    """What it was made from: the items of a named tuple, the arguments of a call that was admitted."""
    state: Any = None
    """What pickle would set its attributes from."""
    items: dict[Any, Any] | list[Any] | None = None
    """Of a subclass of dict or list: what it holds."""
    called: bool = False
    """Whether it is what a call would have given, not an instance made the ordinary way."""

    def fields(self) -> dict[str, Any]:
        """The attributes by name; for a kind of dictionary, its items.

        Raises:
            RefusedError: `bad-field` where the class keeps its state in a way of its own.
        """
        found = fields_of(self)
        if found is None:
            raise refusal("bad-field", f"the state of {self.class_name} is not a dictionary of its fields")
        return found


def fields_of(record: Record) -> dict[str, Any] | None:
    """As `Record.fields`; None where the class keeps its state in a way of its own."""
    if type(record.items) is dict and record.items:
        return record.items
    if record.state is None and record.args:
        return None
    parts = record.state if type(record.state) is tuple and len(record.state) == 2 else (record.state, None)
    fields: dict[str, Any] = {}
    for part in parts:  # of a class with __slots__, pickle stores the pair (__dict__, values of the slots)
        if part is not None and type(part) is not dict:
            return None
        fields.update(part or {})
    return fields


class Member(NamedTuple):
    """Stands for a member of an Enum: by its value, or by its name where the pickle has only that."""

    class_name: str
    value: Any
    by_name: bool = False


class Named(NamedTuple):
    """Stands for a class or function that is referred to by its full name."""

    name: str

    def __str__(self) -> str:
        return self.name


class DType(NamedTuple):
    """Stands for a `torch.dtype`."""

    name: str
    itemsize: int

    def __str__(self) -> str:
        return f"torch.{self.name}"


class Device(NamedTuple):
    """Stands for a `torch.device`."""

    kind: str
    number: int | None

    def __str__(self) -> str:
        return self.kind if self.number is None else f"{self.kind}:{self.number}"


class PathParts(NamedTuple):
    """Stands for a `pathlib` path."""

    parts: tuple[str, ...]
    """As they were pickled: since Python 3.13 they are what the path was made of (`("/a//b", "../c")`)."""
    of_windows: bool

    def __str__(self) -> str:
        return str((PureWindowsPath if self.of_windows else PurePosixPath)(*self.parts))


@dataclass(slots=True, eq=False)
class NumpyType:
    """Stands for a `numpy.dtype`."""

    code: str
    """Kind and size: `f8`, `U3`, `O8`."""
    order: str = "="
    size: int = 0
    unit: str = ""
    """Of dates."""
    fields: Any = None
    """Of a structured type."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        digits = self.code[1:]
        return self.size or (int(digits) if digits.isdigit() and len(digits) < 10 else 0)

    def __str__(self) -> str:
        return f"{'' if self.order in '=|' else self.order}{self.code}{f'[{self.unit}]' if self.unit else ''}"


@dataclass(slots=True, eq=False)
class Array:
    """Stands for a numpy array; its bytes are in the pickle."""

    dtype: NumpyType = field(default_factory=lambda: NumpyType("f8"))
    shape: tuple[int, ...] = (0,)
    data: bytes | list[Any] = b""
    """Its elements' bytes; for an array of objects, the objects."""
    fortran: bool = False

    def values(self) -> list[Any] | None:
        """Its elements as values of Python, in the order they are stored in; None for elements that are no numbers."""
        if type(self.data) is list:
            return self.data
        size, data = self.dtype.itemsize, bytes(self.data)
        return [numpy_value(self.dtype, data[at : at + size]) for at in range(0, len(data), size)] if size else None

    def item(self) -> Any:
        """The only element of an array that has one; else the array itself."""
        if math.prod(self.shape) != 1 or type(self.data) is list:
            return self
        found = numpy_value(self.dtype, bytes(self.data))
        return self if found is None else found


_FORMS: Final = {"f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd", "b1": "?"} | {
    f"{kind}{size}": letter.upper() if kind == "u" else letter
    for kind in "iu"
    for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}


_NUMBERS: Final = {
    (code, order): Struct((">" if order == ">" else "<") + form) for code, form in _FORMS.items() for order in "<>=|"
}


def numpy_value(dtype: NumpyType, data: bytes) -> Any:
    """The value of Python that a numpy scalar's bytes are; None for a kind that has none."""
    numbers = _NUMBERS.get((dtype.code, dtype.order))
    if numbers is not None:
        if len(data) != numbers.size:
            raise refusal("broken-pickle", f"a numpy {dtype} has {len(data)} bytes")
        found = numbers.unpack(data)
        return complex(*found) if len(found) == 2 else found[0]
    if dtype.code[:1] == "U":
        decode = codecs.utf_32_be_decode if dtype.order == ">" else codecs.utf_32_le_decode  # by name, it is imported
        return decode(data, "strict", True)[0].rstrip("\0")
    return data.rstrip(b"\0") if dtype.code[:1] == "S" else None


class Foreign(NamedTuple):
    """A class or function that nobody listed, and where the pickle has it."""

    name: str
    how: str
    """`instance`, `reference`, `enum`, or `call`."""
    places: tuple[str, ...]
    """Keys, as in `optimizer.state`; the first few. Empty where it is in nothing that is kept."""


class Pickled(NamedTuple):
    """What a pickle holds."""

    value: Any
    """Made of Python's plain values and the stand-ins of this module."""
    storages: dict[str, Storage]
    """All storages, by key."""
    foreign: tuple[Foreign, ...] = ()
    """By name, and how it stands there."""
