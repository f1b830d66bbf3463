"""Reading the pickle inside a checkpoint without executing it.

A pickle is a program for a stack machine. `read_pickle` interprets that program over inert stand-ins: where it asks for
`torch._utils._rebuild_tensor_v2`, it gets a `Tensor` that only says which bytes of which storage it would view. Nothing
that the pickle names is imported, looked up or called, and whatever is not on the list below is refused, by its name.

Read are protocols 2 to 5 as `torch.save` writes them: plain values, `OrderedDict`, tensors and parameters, dtypes,
devices, sizes, `pathlib` paths, and instances of the configuration classes that the caller names.

What a pickle can make this module do is bounded by its size. Every instruction takes at least one byte and is done in
time proportional to the bytes it takes, except where it copies or walks a shared value, and for each of those there is
a limit below. The result has no cycles, and a program that walks it naively visits at most `MAX_VALUES` values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple, NoReturn

from ckptman.formats.refusals import refusal
from ckptman.text import RefusedError

MAX_PICKLE_SIZE: Final = 1 << 20
"""Bytes; about 12,000 tensors. It also bounds the number of instructions."""
MAX_VALUES: Final = 200_000
"""Values in the result, where a shared one counts as often as it is referred to; and containers made on the way."""
MAX_NESTING: Final = 32
"""Levels of containers in the result, and of marks (unfinished containers) while it is read."""
MAX_CALLS: Final = 50_000
"""Calls of functions: torch writes two or three for a tensor. They may share their arguments, and so take more time
than their bytes would."""
MAX_INTEGER_BYTES: Final = 16
MAX_KEY: Final = (1 << 20) - 1
"""The largest integer key of a dictionary; a larger range would allow keys that collide on purpose."""
MAX_DIMENSIONS: Final = 64
MAX_SIZE: Final = (1 << 63) - 1
"""The largest size, stride, offset or number of elements: they are 64-bit signed integers in torch."""
MAX_NAME: Final = 256
"""Characters of a global's name, a storage's key, a device's name."""
MAX_PATH: Final = 4096
"""Characters of a path."""
MAX_PATH_PARTS: Final = 128


# --- what the result is made of ---------------------------------------------------------------------------------------


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


class OrderedMapping(dict[Any, Any]):
    """Stands for a `collections.OrderedDict`. Attributes, such as a state dict's `_metadata`, are left out."""

    __slots__ = ()


@dataclass(slots=True)
class Record:
    """Stands for an instance of a configuration class; `state` is what pickle would set its attributes from."""

    class_name: str
    state: Any = None

    def fields(self) -> dict[str, Any]:
        """The attributes by name.

        Raises:
            RefusedError: `unsafe-pickle` where the class keeps its state in a way of its own.
        """
        parts = self.state if type(self.state) is tuple and len(self.state) == 2 else (self.state, None)
        fields: dict[str, Any] = {}
        for part in parts:  # of a class with __slots__, pickle stores the pair (__dict__, values of the slots)
            if part is not None and type(part) is not dict:
                raise refusal("unsafe-pickle", f"the state of {self.class_name} is not a dictionary of its fields")
            fields.update(part or {})
        return fields


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
    separator: str

    def __str__(self) -> str:
        root = self.parts[0] if self.parts and self.parts[0].endswith(self.separator) else ""
        return root + self.separator.join(self.parts[1:] if root else self.parts) or "."


class Pickled(NamedTuple):
    """What a pickle holds."""

    value: Any
    """Made of None, bool, int, float, str, tuple, list, dict and the stand-ins of this module. Keys of dictionaries are
    strings and small non-negative integers."""
    storages: dict[str, Storage]
    """All storages, by key."""


# --- what a pickle may ask for ----------------------------------------------------------------------------------------


class _StorageType(NamedTuple):
    dtype: str
    itemsize: int


class _Function(NamedTuple):
    """Something the pickle may call; `stand_in` is the function of this module that is called instead."""

    name: str
    stand_in: Callable[[tuple[Any, ...]], Any]


class _RecordType(NamedTuple):
    name: str


_DTYPES: Final = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex128": 16, "complex64": 8, "complex32": 4,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of an element of each dtype."""

_STORAGES: Final = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}  # fmt: skip
_UNTYPED: Final = _StorageType("untyped", 1)


def _make_ordered_dict(args: tuple[Any, ...]) -> OrderedMapping:
    if args:  # pickle creates it empty and fills it by SETITEMS
        _refuse_call("collections.OrderedDict")
    return OrderedMapping()


def _make_tensor(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks)`."""
    if len(args) != 6:
        _refuse_call("torch._utils._rebuild_tensor_v2")
    storage = args[0]
    if type(storage) is not Storage or storage.dtype == "untyped":
        _refuse_call("torch._utils._rebuild_tensor_v2")
    return _checked_tensor("torch._utils._rebuild_tensor_v2", args, storage.dtype, storage.itemsize)


def _make_untyped_tensor(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor_v3`: as v2, over untyped bytes, with the dtype as a further argument."""
    if len(args) != 7 or type(args[6]) is not DType or type(args[0]) is not Storage or args[0].dtype != "untyped":
        _refuse_call("torch._utils._rebuild_tensor_v3")
    return _checked_tensor("torch._utils._rebuild_tensor_v3", args, args[6].name, args[6].itemsize)


_INTEGER: Final = frozenset({int})


def _checked_tensor(function: str, args: tuple[Any, ...], dtype: str, itemsize: int) -> Tensor:
    storage, offset, shape, stride, requires_grad, hooks = args[:6]
    if (
        type(offset) is not int
        or type(shape) is not tuple
        or type(stride) is not tuple
        or type(requires_grad) is not bool
        or type(hooks) is not OrderedMapping
        or hooks
        or len(shape) > MAX_DIMENSIONS
        or len(shape) != len(stride)
        or not _INTEGER.issuperset(map(type, shape + stride))
    ):
        _refuse_call(function)
    span = _span(shape, stride)
    if not 0 <= offset <= MAX_SIZE or span is None or (span and (offset + span) * itemsize > storage.nbytes):
        raise refusal(
            "bad-tensor",
            f"a {dtype} tensor of shape {_shown_sizes(shape)}, strides {_shown_sizes(stride)} and offset {offset} "
            f"reaches outside storage {_shown(storage.key)}, which has {storage.nbytes:,} bytes",
        )
    return Tensor(storage, dtype, itemsize, offset, shape, stride)


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int | None:
    """Elements from a tensor's first to its last one, both included; None for impossible sizes."""
    numbers = shape + stride
    if numbers and not 0 <= min(numbers) <= max(numbers) <= MAX_SIZE:
        return None
    return 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _make_parameter(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_parameter(data, requires_grad, backward_hooks)`; `…_with_state` has attributes as a fourth argument."""
    if not 3 <= len(args) <= 4 or type(args[0]) is not Tensor:
        _refuse_call("torch._utils._rebuild_parameter")
    return args[0]


def _make_size(args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) != 1 or type(args[0]) is not tuple:
        _refuse_call("torch.Size")
    size: tuple[int, ...] = args[0]
    return size


def _make_device(args: tuple[Any, ...]) -> Device:
    kind, index = args if len(args) == 2 else (*args, None) if len(args) == 1 else (None, None)
    if type(kind) is not str or len(kind) > MAX_NAME or not (index is None or type(index) is int):
        _refuse_call("torch.device")
    return Device(kind, index)


def _make_posix_path(args: tuple[Any, ...]) -> PathParts:
    return _checked_path(args, "/")


def _make_windows_path(args: tuple[Any, ...]) -> PathParts:
    return _checked_path(args, "\\")


def _checked_path(args: tuple[Any, ...], separator: str) -> PathParts:
    # Counted before they are walked: the parts may be shared by many paths.
    if len(args) > MAX_PATH_PARTS or not all(type(part) is str for part in args) or sum(map(len, args)) > MAX_PATH:
        _refuse_call("a pathlib class")
    return PathParts(args, separator)


def _key(module: str, name: str) -> bytes:
    """How the table below names a global: as the GLOBAL instruction writes it."""
    return f"{module}\n{name}".encode()


def _known_globals() -> dict[bytes, object]:
    functions = {
        ("collections", "OrderedDict"): _make_ordered_dict,
        ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _make_untyped_tensor,
        ("torch._utils", "_rebuild_parameter"): _make_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _make_parameter,
        ("torch", "Size"): _make_size,
        ("torch", "device"): _make_device,
    }
    for module in ("pathlib", "pathlib._local"):  # the latter since Python 3.13
        functions |= {(module, name): _make_posix_path for name in ("PosixPath", "PurePosixPath")}
        functions |= {(module, name): _make_windows_path for name in ("WindowsPath", "PureWindowsPath")}
    table: dict[bytes, object] = {
        _key(module, name): _Function(f"{module}.{name}", function) for (module, name), function in functions.items()
    }
    table |= {_key("torch", name): DType(name, itemsize) for name, itemsize in _DTYPES.items()}
    table |= {_key("torch", name): _StorageType(dtype, _DTYPES[dtype]) for name, dtype in _STORAGES.items()}
    table[_key("torch.storage", "UntypedStorage")] = _UNTYPED
    return table


_KNOWN_GLOBALS: Final = _known_globals()


@cache
def _allowed_globals(config_classes: tuple[str, ...]) -> dict[bytes, object]:
    records = {_key(*name.rpartition(".")[::2]): _RecordType(name) for name in config_classes}
    return {**records, **_KNOWN_GLOBALS}


# --- the stack machine ------------------------------------------------------------------------------------------------

# A NamedTuple's own constructor is a Python function, and takes twice as long.
_new_tuple = tuple.__new__

_TWO_LINES: Final = re.compile(rb"([^\n]*+\n[^\n]*+)\n")
"""Module and name of a GLOBAL instruction."""

_UINT32 = Struct("<I").unpack_from
_INT32 = Struct("<i").unpack_from
_UINT64 = Struct("<Q").unpack_from
_FLOAT64 = Struct(">d").unpack_from


def read_pickle(data: bytes, *, config_classes: tuple[str, ...]) -> Pickled:
    """Interpret a pickle written by `torch.save`, without executing anything it asks for.

    Args:
        data: The whole pickle: the archive's `data.pkl`.
        config_classes: Full names of the classes whose instances are read as a `Record`.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS` and the name of what was asked for.
    """
    if len(data) > MAX_PICKLE_SIZE:
        raise refusal("pickle-bomb", f"the pickle has {len(data):,} bytes, more than {MAX_PICKLE_SIZE:,}")
    if data[:1] not in (b"", b"\x80") or not 2 <= (data[1:2] or b"\2")[0] <= 5:
        raise refusal("unsafe-pickle", "the pickle does not begin as one of protocol 2 to 5")
    machine = _Machine(data, _allowed_globals(config_classes))
    value = machine.run()
    _measure(value, 0, {})
    return Pickled(value, machine.storages)


class _Machine:
    """Interprets one pickle.

    Each instruction is a method. It gets the position after its opcode and returns that of the next instruction.
    """

    __slots__ = ("allowed", "below", "calls", "containers", "data", "fetched", "memo", "size", "stack", "storages")

    def __init__(self, data: bytes, allowed: Mapping[bytes, object]) -> None:
        self.size = len(data)
        # Padded, so that the argument of an instruction at the very end can be read: the zeros are no instruction.
        self.data = data + bytes(16)
        self.allowed = allowed
        self.stack: list[Any] = []
        """Values since the last mark."""
        self.below: list[list[Any]] = []
        """The stacks below each open mark. They are lists of their own so that nothing can reach through a mark."""
        self.memo: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.fetched: dict[bytes, tuple[Any, ...]] = {}
        self.containers = 0
        """Lists and dictionaries made."""
        self.calls = 0
        """Functions called."""

    def run(self) -> Any:
        """The value that the pickle makes."""
        data = self.data
        at = 2  # after the protocol
        try:
            while at:
                at = _INSTRUCTIONS[data[at]](self, at + 1)
        except IndexError:
            raise refusal("broken-pickle", f"the pickle uses a value that it has not made, at byte {at}") from None
        except UnicodeDecodeError:
            raise refusal("broken-pickle", f"the pickle holds text that is not UTF-8, at byte {at}") from None
        return self.stack[0]

    def stop(self, at: int) -> int:
        if at != self.size:
            raise refusal("broken-pickle", f"the pickle goes on after its end, at byte {at} of {self.size}")
        if self.below or len(self.stack) != 1:
            raise refusal("broken-pickle", "the pickle ends with unfinished values")
        return 0

    def frame(self, at: int) -> int:
        self.slice(at + 8, _UINT64(self.data, at)[0])
        return at + 8

    def unknown(self, at: int) -> int:
        if at > self.size:
            raise self.cut()
        _refuse_opcode(self.data[at - 1], at - 1)

    def slice(self, start: int, length: int) -> bytes:
        """The bytes of an argument."""
        if length > self.size - start:
            raise self.cut()
        return self.data[start : start + length]

    def cut(self) -> RefusedError:
        return refusal("cut-pickle", f"the pickle ends in the middle, after {self.size} bytes")

    # Plain values

    def none(self, at: int) -> int:
        self.stack.append(None)
        return at

    def newtrue(self, at: int) -> int:
        self.stack.append(True)
        return at

    def newfalse(self, at: int) -> int:
        self.stack.append(False)
        return at

    def binint(self, at: int) -> int:
        self.stack.append(_INT32(self.data, at)[0])
        return at + 4

    def binint1(self, at: int) -> int:
        self.stack.append(self.data[at])
        return at + 1

    def binint2(self, at: int) -> int:
        self.stack.append(self.data[at] | self.data[at + 1] << 8)
        return at + 2

    def long1(self, at: int) -> int:
        length = self.data[at]
        if length > MAX_INTEGER_BYTES:
            raise refusal("pickle-bomb", f"the pickle holds an integer of {length} bytes")
        self.stack.append(int.from_bytes(self.slice(at + 1, length), "little", signed=True))
        return at + 1 + length

    def binfloat(self, at: int) -> int:
        self.stack.append(_FLOAT64(self.data, at)[0])
        return at + 8

    def binunicode(self, at: int) -> int:
        start = at + 4
        end: int = start + _UINT32(self.data, at)[0]
        if end > self.size:
            raise self.cut()
        self.stack.append(self.data[start:end].decode())
        return end

    def short_binunicode(self, at: int) -> int:
        length = self.data[at]
        self.stack.append(self.slice(at + 1, length).decode())
        return at + 1 + length

    # The memo. Pickle numbers its entries in order; any other numbering could only serve to confuse a reader.

    def binput(self, at: int) -> int:
        if self.data[at] != len(self.memo):
            _refuse_memo(at)
        self.memo.append(self.stack[-1])
        return at + 1

    def long_binput(self, at: int) -> int:
        if _UINT32(self.data, at)[0] != len(self.memo):
            _refuse_memo(at)
        self.memo.append(self.stack[-1])
        return at + 4

    def memoize(self, at: int) -> int:
        self.memo.append(self.stack[-1])
        return at

    def binget(self, at: int) -> int:
        self.stack.append(self.memo[self.data[at]])
        return at + 1

    def long_binget(self, at: int) -> int:
        self.stack.append(self.memo[_UINT32(self.data, at)[0]])
        return at + 4

    # Containers

    def mark(self, at: int) -> int:
        if self.stack and self.stack[-1] is _MAKE_TENSOR and (end := self.tensor_call(at)):
            return end
        if len(self.below) == MAX_NESTING:
            raise refusal("pickle-bomb", f"the pickle nests more than {MAX_NESTING} levels deep")
        self.below.append(self.stack)
        self.stack = []
        return at

    def take_marked(self) -> list[Any]:
        """The values since the last mark, which goes away with them."""
        values = self.stack
        self.stack = self.below.pop()
        return values

    def empty_tuple(self, at: int) -> int:
        self.stack.append(())
        return at

    def tuple_(self, at: int) -> int:
        values = self.take_marked()
        self.stack.append(tuple(values))
        return at

    def tuple1(self, at: int) -> int:
        stack = self.stack
        stack[-1] = (stack[-1],)
        return at

    def tuple2(self, at: int) -> int:
        stack = self.stack
        last = stack.pop()
        stack[-1] = (stack[-1], last)
        return at

    def tuple3(self, at: int) -> int:
        stack = self.stack
        last = stack.pop()
        middle = stack.pop()
        stack[-1] = (stack[-1], middle, last)
        return at

    def empty_list(self, at: int) -> int:
        self.begin_container([])
        return at

    def empty_dict(self, at: int) -> int:
        self.begin_container({})
        return at

    def begin_container(self, value: object) -> None:
        # Only here: these are the instructions of one byte that take the most memory, some 80 times their size.
        self.containers += 1
        if self.containers > MAX_VALUES:
            raise refusal("pickle-bomb", f"the pickle makes more than {MAX_VALUES:,} lists and dictionaries")
        self.stack.append(value)

    def append(self, at: int) -> int:
        value = self.stack.pop()
        _append(self.stack[-1], [value])
        return at

    def appends(self, at: int) -> int:
        values = self.take_marked()
        _append(self.stack[-1], values)
        return at

    def setitem(self, at: int) -> int:
        value = self.stack.pop()
        key = self.stack.pop()
        target = self.stack[-1]
        if type(key) is str and type(target) is dict and key not in target:
            target[key] = value  # as below, in less time
        else:
            _set_items(target, [key, value])
        return at

    def setitems(self, at: int) -> int:
        pairs = self.take_marked()
        _set_items(self.stack[-1], pairs)
        return at

    def tensor_call(self, at: int) -> int:
        """Do the instructions from the mark of a tensor's arguments to the tensor, if they are as torch writes them.

        They are some 25 instructions, and most of a checkpoint: done at once they take half the time. The effect is the
        same as doing one after the other, which is what happens, from the mark on, if this returns 0.
        """
        match = _TENSOR_CALL.match(self.data, at)
        if match is None or match.end() > self.size or len(self.below) > MAX_NESTING - 2:
            return 0
        (
            get_kind, key_length, key, put_key, get_key, get_location, numel, put_id, offset,
            sizes, put_sizes, steps, put_steps, get_hooks, put_hooks, put_args, put_tensor,
        ) = match.groups(b"")  # fmt: skip
        memo = self.memo
        puts = b"".join((put_key, put_id, put_sizes, put_steps, put_hooks, put_args, put_tensor))
        try:
            word, kind, location, hooks_class = self.fetch(get_kind + get_location + get_hooks)
            name = key.decode() if put_key else self.fetch(get_key)[0]
        except IndexError:  # one of them is not in the memo: the single instructions say which
            return 0
        geometry = _geometry(sizes, steps)
        if (
            not _puts(len(memo)).startswith(puts)
            or hooks_class is not _MAKE_ORDERED_DICT
            or geometry is None
            or (put_key and key_length[0] != len(key))
        ):
            return 0
        persistent_id = (word, kind, name, location, _number(numel))
        storage = _find_storage(persistent_id, self.storages)
        shape, stride, span = geometry
        first = _number(offset)
        if first < 0 or first + span > storage.numel or storage.dtype == "untyped":
            return 0
        hooks = OrderedMapping()
        tensor = _new_tuple(Tensor, (storage, storage.dtype, storage.itemsize, first, shape, stride))
        if put_key:
            memo.append(name)
        memo.append(persistent_id)
        if put_sizes:
            memo.append(shape)
        if put_steps:
            memo.append(stride)
        memo += (hooks, (storage, first, shape, stride, False, hooks), tensor)
        self.stack[-1] = tensor
        return match.end()

    def fetch(self, gets: bytes) -> tuple[Any, ...]:
        """The values of some BINGET and LONG_BINGET instructions; for they come again with each tensor, kept."""
        values = self.fetched.get(gets)
        if values is None:
            indices = (get[1] if len(get) == 2 else _UINT32(get, 1)[0] for get in _GETS.findall(gets))
            values = self.fetched[gets] = tuple([self.memo[index] for index in indices])
        return values

    # Everything else: nothing of this looks anything up outside this module

    def global_(self, at: int) -> int:
        lines = _TWO_LINES.match(self.data, at, at + MAX_NAME)
        if lines is None:
            raise refusal(
                "cut-pickle" if self.size < at + MAX_NAME else "unsafe-pickle",
                f"the pickle asks for a global whose name does not end within {MAX_NAME} bytes, at byte {at}",
            )
        self.stack.append(_find_global(lines[1], self.allowed))
        return lines.end()

    def stack_global(self, at: int) -> int:
        name = self.stack.pop()
        module = self.stack[-1]
        if type(module) is not str or type(name) is not str or len(module) > MAX_NAME or len(name) > MAX_NAME:
            raise refusal("unsafe-pickle", "the pickle asks for a global by something that is not a name")
        self.stack[-1] = _find_global(_key(module, name), self.allowed)
        return at

    def binpersid(self, at: int) -> int:
        self.stack[-1] = _find_storage(self.stack[-1], self.storages)
        return at

    def reduce(self, at: int) -> int:
        stack = self.stack
        args = stack.pop()
        function = stack[-1]
        if type(function) is not _Function or type(args) is not tuple:
            raise refusal("unsafe-pickle", f"the pickle calls {_shown(function)}")
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise refusal("pickle-bomb", f"the pickle calls functions more than {MAX_CALLS:,} times")
        stack[-1] = function.stand_in(args)
        return at

    def newobj(self, at: int) -> int:
        args = self.stack.pop()
        kind = self.stack[-1]
        if type(kind) is not _RecordType or args != ():
            raise refusal("unsafe-pickle", f"the pickle makes an instance of {_shown(kind)}")
        self.stack[-1] = Record(kind.name)
        return at

    def build(self, at: int) -> int:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Record and target.state is None:
            target.state = state
        elif type(target) is not OrderedMapping or type(state) is not dict:
            raise refusal("unsafe-pickle", f"the pickle sets the state of {_shown(target)}")
        return at


def _instructions() -> list[Callable[[_Machine, int], int]]:
    """The method of each opcode."""
    table: list[Callable[[_Machine, int], int]] = [_Machine.unknown] * 256
    for opcode, method in {
        b".": _Machine.stop, b"\x95": _Machine.frame,
        b"N": _Machine.none, b"\x88": _Machine.newtrue, b"\x89": _Machine.newfalse,
        b"J": _Machine.binint, b"K": _Machine.binint1, b"M": _Machine.binint2, b"\x8a": _Machine.long1,
        b"G": _Machine.binfloat, b"X": _Machine.binunicode, b"\x8c": _Machine.short_binunicode,
        b"q": _Machine.binput, b"r": _Machine.long_binput, b"\x94": _Machine.memoize,
        b"h": _Machine.binget, b"j": _Machine.long_binget,
        b"(": _Machine.mark, b")": _Machine.empty_tuple, b"t": _Machine.tuple_,
        b"\x85": _Machine.tuple1, b"\x86": _Machine.tuple2, b"\x87": _Machine.tuple3,
        b"]": _Machine.empty_list, b"a": _Machine.append, b"e": _Machine.appends,
        b"}": _Machine.empty_dict, b"s": _Machine.setitem, b"u": _Machine.setitems,
        b"c": _Machine.global_, b"\x93": _Machine.stack_global, b"Q": _Machine.binpersid,
        b"R": _Machine.reduce, b"\x81": _Machine.newobj, b"b": _Machine.build,
    }.items():  # fmt: skip
        table[opcode[0]] = method
    return table


_INSTRUCTIONS: Final = _instructions()


# --- a tensor at once -------------------------------------------------------------------------------------------------

_MAKE_TENSOR: Final = _KNOWN_GLOBALS[_key("torch._utils", "_rebuild_tensor_v2")]
_MAKE_ORDERED_DICT: Final = _KNOWN_GLOBALS[_key("collections", "OrderedDict")]

_GET, _PUT, _INT = rb"(?:h.|j.{4})", rb"(?:q.|r.{4})", rb"(?:K.|M..|J.{4})"
_GETS: Final = re.compile(_GET, re.DOTALL)
_INTS: Final = re.compile(_INT, re.DOTALL)
# `)` or a tuple of up to three numbers, which goes to the memo
_NUMBERS = rb"(?:\)|(%(int)s\x85|%(int)s{2}\x86|%(int)s{3}\x87)(%(put)s))" % {b"int": _INT, b"put": _PUT}
_TENSOR_CALL: Final = re.compile(
    b"".join(
        (
            rb"\((%s{2})" % _GET,  # ("storage", type,
            rb"(?:X(.)\0\0\0([0-9]{1,9})(%s)|(%s))" % (_PUT, _GET),  # key,
            rb"(%s)(%s)t(%s)Q" % (_GET, _INT, _PUT),  # location, number of elements)
            rb"(%s)" % _INT,  # offset,
            _NUMBERS,  # sizes,
            _NUMBERS,  # strides,
            rb"\x89(%s)\)R(%s)" % (_GET, _PUT),  # False, OrderedDict())
            rb"t(%s)R(%s)" % (_PUT, _PUT),
        )
    ),
    re.DOTALL,
)
"""What follows the mark of `_rebuild_tensor_v2`'s arguments. Each instruction's length follows from its first byte, so
whatever matches can only be read in one way."""


@lru_cache(maxsize=4096)
def _puts(first: int) -> bytes:
    """The instructions that put values in the memo, from index `first` on: seven, which is what a tensor takes."""
    return b"".join(b"q%c" % i if i < 256 else b"r" + i.to_bytes(4, "little") for i in range(first, first + 7))


@lru_cache(maxsize=4096)
def _number(instruction: bytes) -> int:
    """The number that a BININT1, BININT2 or BININT instruction makes."""
    return int.from_bytes(instruction[1:], "little", signed=instruction[:1] == b"J")


@lru_cache(maxsize=4096)
def _geometry(sizes: bytes, steps: bytes) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """Sizes, strides and span from the instructions that make the two tuples; None if they do not fit together."""
    shape, stride = (tuple(map(_number, _INTS.findall(made))) for made in (sizes, steps))
    span = _span(shape, stride) if len(shape) == len(stride) else None
    return None if span is None else (shape, stride, span)


# --- what the instructions check --------------------------------------------------------------------------------------


def _find_storage(persistent_id: object, storages: dict[str, Storage]) -> Storage:
    """The storage of a persistent id `("storage", type, key, location, number of elements)`."""
    if type(persistent_id) is not tuple or len(persistent_id) != 5:
        raise refusal("unsafe-pickle", "the pickle refers to something outside it that is not a storage")
    what, kind, key, location, numel = persistent_id
    if (
        what != "storage"
        or type(kind) is not _StorageType
        or type(key) is not str
        or len(key) > MAX_NAME
        or type(location) is not str
        or type(numel) is not int
        or not 0 <= numel <= MAX_SIZE
    ):
        raise refusal("unsafe-pickle", "the pickle refers to a storage in a way that torch does not")
    known = storages.get(key)
    if known is None:
        storages[key] = known = _new_tuple(Storage, (key, kind.dtype, kind.itemsize, numel))
    elif known.numel != numel or known.dtype != kind.dtype:
        raise refusal("bad-tensor", f"the pickle describes storage {_shown(key)} in two ways")
    return known


def _find_global(name: bytes, allowed: Mapping[bytes, object]) -> object:
    found = allowed.get(name)
    if found is None:
        text = name.decode(errors="backslashreplace").replace("\n", ".")
        raise refusal("unsafe-pickle", f"the pickle asks for {_shown(text)}, which ckptman does not load")
    return found


_TEXT: Final = frozenset({str})


def _set_items(target: object, pairs: list[Any]) -> None:
    if type(target) is not dict and type(target) is not OrderedMapping:
        raise refusal("unsafe-pickle", f"the pickle sets items of {_shown(target)}")
    if len(pairs) % 2:
        raise refusal("broken-pickle", "the pickle sets a key without a value")
    keys = pairs[::2]
    if not _TEXT.issuperset(map(type, keys)):
        for key in keys:
            # Anything else is either not hashable or could take exponential time to hash.
            if type(key) is not str and (type(key) is not int or not 0 <= key <= MAX_KEY):
                raise refusal("unsafe-pickle", f"the pickle uses {_shown(key)} as the key of a dictionary")
    before = len(target)
    target.update(zip(keys, pairs[1::2], strict=True))
    if len(target) != before + len(keys):
        raise refusal("broken-pickle", "the pickle sets one key of a dictionary twice")


def _append(target: object, items: list[Any]) -> None:
    if type(target) is not list:
        raise refusal("unsafe-pickle", f"the pickle appends to {_shown(target)}")
    target.extend(items)


_CONTAINERS: Final = frozenset({tuple, list, dict, OrderedMapping, Record})


def _measure(value: object, level: int, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Number of values and of levels in a value, a shared part counted wherever it is referred to.

    Each container is walked once, so this takes linear time even where the result would be exponential.

    Args:
        value: Any value of the result.
        level: How deep it lies.
        known: Results by the containers' `id`; None while one is being measured.
    """
    if type(value) not in _CONTAINERS:
        return 1, 0
    if id(value) in known:
        found = known[id(value)]
        if found is None:
            raise refusal("pickle-bomb", "a value of the pickle contains itself")
    else:
        if level == MAX_NESTING:
            raise refusal("pickle-bomb", f"the pickle nests more than {MAX_NESTING} levels deep")
        known[id(value)] = None
        found = known[id(value)] = _measure_items(_items(value), level + 1, known)
    if level + found[1] > MAX_NESTING:
        raise refusal("pickle-bomb", f"the pickle nests more than {MAX_NESTING} levels deep")
    return found


def _items(value: Any) -> Any:
    if type(value) is Record:
        return (value.state,)
    return value.values() if isinstance(value, dict) else value


def _measure_items(items: Any, level: int, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    values, levels = 1 + len(items), 0
    if not _CONTAINERS.isdisjoint(map(type, items)):
        for item in items:
            if type(item) in _CONTAINERS and values <= MAX_VALUES:
                inner_values, inner_levels = _measure(item, level, known)
                values += inner_values
                levels = max(levels, inner_levels)
    if values > MAX_VALUES:
        raise refusal("pickle-bomb", f"the pickle holds more than {MAX_VALUES:,} values, shared ones counted each time")
    return values, levels + 1


# --- refusing ---------------------------------------------------------------------------------------------------------


def _refuse_call(function: str) -> NoReturn:
    raise refusal("unsafe-pickle", f"the pickle calls {function} with arguments that torch.save does not write")


def _refuse_memo(at: int) -> NoReturn:
    raise refusal("broken-pickle", f"the pickle numbers its memo out of order, at byte {at}")


def _refuse_opcode(opcode: int, at: int) -> NoReturn:
    import pickletools  # only for the name in the message

    names = {info.code: info.name for info in pickletools.opcodes}
    name = names.get(chr(opcode), f"{opcode:#04x}")
    raise refusal(
        "unsafe-pickle", f"the pickle uses the instruction {name} at byte {at}, which torch.save does not write"
    )


def _shown(value: object) -> str:
    """A value in a message: short, and in no time whatever the value is."""
    if type(value) is _Function or type(value) is _RecordType:
        return value.name
    if type(value) is str:
        return repr(value) if len(value) <= 80 else repr(value[:80]) + "…"
    if type(value) is int:
        return repr(value)
    return f"a {type(value).__name__}"


def _shown_sizes(sizes: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, sizes[:8]))}{', …' if len(sizes) > 8 else ''}]"
