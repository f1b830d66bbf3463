"""What a pickle may call, and the functions here that are called instead: they make values, or inert stand-ins.

None of them looks anything up. Each gets arguments that may be shared by many calls, and takes time and memory in
proportion to the bytes that the pickle spends on the call, or has a limit.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from ckptman.formats.pickled import (
    Array,
    Device,
    DType,
    Member,
    Named,
    NumpyType,
    OrderedMapping,
    OtherTensor,
    PathParts,
    Record,
    Storage,
    Tensor,
    fields_of,
    numpy_value,
)
from ckptman.formats.refusals import refusal

MAX_DIMENSIONS: Final = 64
MAX_SIZE: Final = (1 << 63) - 1
"""The largest size, stride, offset or number of elements: they are 64-bit signed integers in torch."""
MAX_NAME: Final = 256
"""Characters of a global's name, a storage's key, a device's name."""
MAX_PATH: Final = 4096
"""Characters of a path."""
MAX_PATH_PARTS: Final = 128
MAX_DIGITS: Final = 4096
"""Characters of a decimal number or a fraction, and bytes of an integer."""


class OddArgumentsError(Exception):
    """A function is called with arguments that nobody writes."""


class StorageType(NamedTuple):
    """Stands for a class of storages."""

    dtype: str
    itemsize: int


class Function(NamedTuple):
    """Something the pickle may call; `stand_in` is the function of this module that is called instead."""

    name: str
    stand_in: Callable[[tuple[Any, ...]], Any]
    weight: int = 1
    """Calls that it counts as, by the time it takes."""
    copies: bool = True
    """Whether it may copy what its arguments hold."""

    def __str__(self) -> str:
        return self.name


class Class(NamedTuple):
    """A class whose instances are values, and what makes one from the arguments of its `__new__`."""

    name: str
    make: Callable[[tuple[Any, ...]], Any] | None = None

    def __str__(self) -> str:
        return self.name


DTYPES: Final = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex128": 16, "complex64": 8, "complex32": 4,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2,
    "uint8": 1, "bool": 1, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1, "bits1x8": 1,
    "bits2x4": 1, "bits4x2": 1, "bits8": 1, "bits16": 2,
} | {f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)}  # fmt: skip
"""Bytes of an element of each dtype."""

_STORAGES: Final = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64", "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip


def _check(fits: bool) -> None:
    if not fits:
        raise OddArgumentsError


def _types(args: tuple[Any, ...], *types: type | tuple[type, ...]) -> None:
    """Check that the arguments are exactly of these types."""
    _check(len(args) == len(types))
    for arg, kind in zip(args, types, strict=True):
        if type(arg) is not kind and (type(kind) is not tuple or type(arg) not in kind):
            raise OddArgumentsError


# --- plain values of Python -------------------------------------------------------------------------------------------


def _make_mapping(args: tuple[Any, ...]) -> OrderedMapping:
    """`Counter({…})`, `defaultdict(factory[, {…}])`; pickle fills the latter by SETITEMS."""
    items = args[-1] if args and isinstance(args[-1], dict) else {}
    factory = args[:-1] if args and args[-1] is items else args
    _check(len(factory) <= 1 and all(type(item) in (type(None), Named, Class, Function, Record) for item in factory))
    return OrderedMapping(items)


def _make_ordered_dict(args: tuple[Any, ...]) -> OrderedMapping:
    _check(not args)  # pickle creates it empty and fills it by SETITEMS
    return OrderedMapping()


def _make_list(args: tuple[Any, ...]) -> list[Any]:
    """`list()`, `deque((), maxlen)`."""
    _check(not args or (args[0] == () and len(args) <= 2))
    return []


def _make_bytes(args: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`: how protocol 2 writes bytes."""
    _types(args, str, str)
    _check(args[1] in ("latin1", "latin-1"))
    try:
        return str(args[0]).encode("latin-1")
    except UnicodeEncodeError:
        raise OddArgumentsError from None


def _make_empty_bytes(args: tuple[Any, ...]) -> bytes:
    _check(not args or (len(args) == 1 and type(args[0]) is bytes))
    return bytes(args[0]) if args else b""


def _make_bytearray(args: tuple[Any, ...]) -> bytearray:
    if len(args) == 2:
        return bytearray(_make_bytes(args))
    _check(not args or (len(args) == 1 and type(args[0]) is bytes))
    return bytearray(*args)


def _make_complex(args: tuple[Any, ...]) -> complex:
    _types(args, (float, int), (float, int))
    return complex(*args)


def _make_range(args: tuple[Any, ...]) -> range:
    _types(args, int, int, int)
    _check(args[2] != 0)
    return range(*args)


def _make_slice(args: tuple[Any, ...]) -> slice:
    _check(len(args) == 3)
    return slice(*args)


def _make_type(args: tuple[Any, ...]) -> Named:
    """`type(None)`, `type(...)`, `type(NotImplemented)`, as pickle writes the classes of these three."""
    _check(len(args) == 1 and (args[0] in (None, ..., NotImplemented) or type(args[0]) is Named))
    return Named("builtins.type" if type(args[0]) is Named else f"builtins.{type(args[0]).__name__}")


def _make_alias(args: tuple[Any, ...]) -> Named:
    """`typing.List[int]`, `list[int]`: the class without its arguments."""
    _check(len(args) == 2 and type(args[0]) in (Named, Class, Function))
    _check(args[0].name.startswith(("typing.", "builtins.", "collections.")))
    return Named(args[0].name)


def _make_member(name: str) -> Callable[[tuple[Any, ...]], Member]:
    """Makes a member of an Enum of Python's library."""

    def make(args: tuple[Any, ...]) -> Member:
        _types(args, (int, type(None)))
        return Member(name, args[0])

    return make


def _make_decimal(args: tuple[Any, ...]) -> Any:
    from decimal import Decimal, InvalidOperation

    _types(args, str)
    _check(len(args[0]) <= MAX_DIGITS)
    try:
        return Decimal(args[0])
    except InvalidOperation:
        raise OddArgumentsError from None


def _make_fraction(args: tuple[Any, ...]) -> Any:
    from fractions import Fraction

    if len(args) == 1:
        _types(args, str)
        numbers = args[0].split("/")
        _check(len(args[0]) <= 64 and len(numbers) <= 2 and all(each.lstrip("-").isdecimal() for each in numbers))
        args = tuple(map(int, numbers))
    else:
        _types(args, int, int)
        _check(args[1] != 0 and max(abs(args[0]), abs(args[1])).bit_length() <= 4096)
    try:
        return Fraction(*args)
    except (ValueError, ZeroDivisionError):
        raise OddArgumentsError from None


def _make_moment(args: tuple[Any, ...]) -> Any:
    """`datetime(bytes, zone)`; a zone by name is left out."""
    import datetime

    _check(1 <= len(args) <= 2 and type(args[0]) is bytes and len(args[0]) == 10)
    zone = args[1:] if isinstance(args[-1], datetime.timezone) else ()
    return _try(datetime.datetime, args[0], *zone)


def _make_time(args: tuple[Any, ...]) -> Any:
    import datetime

    _check(1 <= len(args) <= 2 and type(args[0]) is bytes and len(args[0]) == 6)
    zone = args[1:] if isinstance(args[-1], datetime.timezone) else ()
    return _try(datetime.time, args[0], *zone)


def _make_date(args: tuple[Any, ...]) -> Any:
    import datetime

    _types(args, bytes)
    _check(len(args[0]) == 4)
    return _try(datetime.date, args[0])


def _make_span(args: tuple[Any, ...]) -> Any:
    import datetime

    _types(args, int, int, int)
    return _try(datetime.timedelta, *args)


def _make_timezone(args: tuple[Any, ...]) -> Any:
    import datetime

    _check(1 <= len(args) <= 2 and type(args[0]) is datetime.timedelta and all(type(a) is str for a in args[1:]))
    return _try(datetime.timezone, *args)


_UNITS: Final = {7: 1, 8: 10**3, 9: 10**6, 10: 10**9}
"""Parts of a second, by numpy's number of the unit."""


def _make_pandas_moment(args: tuple[Any, ...]) -> Any:
    """`_unpickle_timestamp(count, frequency, zone[, unit])`, counted from 1970; with a zone, in UTC."""
    import datetime

    _check(3 <= len(args) <= 4 and type(args[0]) is int)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=None if args[2] is None else datetime.UTC)
    return _try(epoch.__add__, _make_pandas_span((args[0], *args[3:])))


def _make_pandas_span(args: tuple[Any, ...]) -> Any:
    """`_timedelta_unpickle(count[, unit])`."""
    import datetime

    _check(1 <= len(args) <= 2 and type(args[0]) is int and type(args[-1]) is int)
    unit = _UNITS.get(args[1]) if len(args) == 2 else 10**9
    _check(unit is not None)
    return _try(datetime.timedelta, 0, 0, args[0] * 10**6 // (unit or 1))


def _try(make: Callable[..., Any], *args: Any) -> Any:
    try:
        return make(*args)
    except (TypeError, ValueError, OverflowError):
        raise OddArgumentsError from None


def _make_python_array(args: tuple[Any, ...]) -> Any:
    """`array("d", [1.0])`."""
    import array

    _types(args, str, list)
    return _try(array.array, *args)


def _make_python_array_of_bytes(args: tuple[Any, ...]) -> Any:
    """`_array_reconstructor(array, "d", kind of machine, bytes)`."""
    import array

    _check(len(args) == 4 and type(args[0]) is Function and args[0].name == "array.array")
    _types(args[1:], str, int, bytes)
    return _try(array._array_reconstructor, array.array, *args[1:])  # type: ignore[attr-defined]


def _make_union(args: tuple[Any, ...]) -> Named:
    """`reduce(or_, (int, str))`, as pickle writes `int | str`: that it is one."""
    _check(len(args) == 2 and args[0] == Named("_operator.or_") and type(args[1]) is tuple)
    _check(all(type(part) in (Named, Class, Function) for part in args[1]))
    return Named("types.UnionType")


def _make_several(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`torch.return_types.max((values, indices), {})`: what a function of torch gave, kept whole."""
    _types(args, tuple, dict)
    found: tuple[Any, ...] = args[0]
    return found


def _make_text(args: tuple[Any, ...]) -> str:
    """A kind of text: `TorchVersion("2.5.1")`."""
    _types(args, str)
    return str(args[0])


def _make_record(name: str) -> Callable[[tuple[Any, ...]], Record]:
    """Makes a record of what the class or function `name` would make."""
    return lambda args: Record(name, args)


def _make_reconstructed(args: tuple[Any, ...]) -> Record:
    """`copyreg._reconstructor(class, base, state)`: an instance made the ordinary way, by old protocols."""
    _check(len(args) == 3 and type(args[0]) in (Named, Class) and type(args[1]) in (Named, Class))
    record = Record(args[0].name)
    if args[2] is not None:
        _check(type(args[2]) in (dict, list, tuple, str, int, float))
        record.items, record.args = (args[2], ()) if type(args[2]) in (dict, list) else (None, (args[2],))
    return record


def _make_path(of_windows: bool) -> Callable[[tuple[Any, ...]], PathParts]:
    def make(args: tuple[Any, ...]) -> PathParts:
        # Counted before they are walked: the parts may be shared by many paths.
        _check(len(args) <= MAX_PATH_PARTS and all(type(part) is str for part in args))
        _check(sum(map(len, args)) <= MAX_PATH)
        return PathParts(args, of_windows)

    return make


# --- numpy ------------------------------------------------------------------------------------------------------------


def _make_numpy_type(args: tuple[Any, ...]) -> NumpyType:
    """`numpy.dtype("f8", False, True)`; pickle sets the byte order by BUILD."""
    code = args[0].name.removeprefix("numpy.") if args and type(args[0]) is Named else args[0] if args else None
    _check(type(code) is str and len(code) <= 16 and len(args) <= 3)
    return NumpyType(str(code))


def _make_text_type(args: tuple[Any, ...]) -> NumpyType:
    """`_convert_to_stringdtype_kwargs(coerce[, na_object])`: the type of text of any length."""
    _check(1 <= len(args) <= 2 and type(args[0]) in (int, bool))
    return NumpyType("T16")


def set_numpy_type(dtype: NumpyType, state: Any) -> None:
    """What BUILD does: `(version, byte order, subtype, names, fields, size, alignment, flags[, unit])`."""
    _check(type(state) is tuple and len(state) >= 5 and type(state[1]) is str and len(state[1]) <= 1)
    dtype.order = state[1]
    dtype.fields = state[4] if state[2] is None else state[2]
    if len(state) > 5 and type(state[5]) is int and 0 < state[5] <= MAX_SIZE:
        dtype.size = state[5]
    if len(state) > 8 and type(state[8]) is tuple and len(state[8]) == 2 and type(state[8][1]) is tuple:
        unit = state[8][1][0] if state[8][1] else b""
        dtype.unit = unit[:8].decode("latin-1") if type(unit) is bytes else str(unit)[:8]


def _make_scalar(args: tuple[Any, ...]) -> Any:
    """`scalar(dtype, bytes)`: a value of Python, or an array without dimensions where Python has no such kind."""
    _check(len(args) == 2 and type(args[0]) is NumpyType)
    if args[0].code[:1] == "O":
        return args[1]
    _types(args, NumpyType, (bytes, bytearray))
    _check(len(args[1]) == args[0].itemsize)
    found = numpy_value(args[0], bytes(args[1]))
    return Array(args[0], (), bytes(args[1])) if found is None else found


def _make_array(args: tuple[Any, ...]) -> Array:
    """`_reconstruct(class, (0,), b"b")`, empty until BUILD."""
    _check(2 <= len(args) <= 4)
    return Array()


def _make_array_of_buffer(args: tuple[Any, ...]) -> Array:
    """`_frombuffer(bytes, dtype, shape, order)`, of protocol 5."""
    _types(args, (bytes, bytearray), NumpyType, tuple, str)
    array = Array()
    set_array(array, (1, args[2], args[1], args[3] == "F", bytes(args[0])))
    return array


def set_array(array: Array, state: Any) -> None:
    """What BUILD does: `(version, shape, dtype, is Fortran order, bytes or objects[, …])`."""
    _check(type(state) is tuple and len(state) >= 5)
    shape, dtype, fortran, data = state[1:5]
    if type(data) is str:
        data = _make_bytes((data, "latin1"))  # as Python 2 wrote bytes
    _check(type(dtype) is NumpyType and type(shape) is tuple and len(shape) <= MAX_DIMENSIONS)
    _check(_sizes(shape) == shape and type(data) in (bytes, bytearray, list))
    size = 1 if type(data) is list else dtype.itemsize
    _check(math.prod(shape) * size == len(data))
    array.dtype, array.shape, array.fortran = dtype, shape, bool(fortran)
    array.data = bytes(data) if type(data) is bytearray else data


# --- torch ------------------------------------------------------------------------------------------------------------

_INTEGER: Final = frozenset({int})


def _make_tensor(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks[, metadata])`."""
    storage: Any = args[0] if args else None
    _check(len(args) in (6, 7) and type(storage) is Storage and storage.dtype != "untyped")
    return _checked_tensor(args, storage.dtype, storage.itemsize, args[6] if len(args) == 7 else None)


def _make_old_tensor(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor(storage, storage_offset, size, stride)`."""
    _check(len(args) == 4)
    return _make_tensor((*args, False, OrderedMapping()))


def _make_untyped_tensor(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor_v3`: as v2, over untyped bytes, with the dtype as a further argument."""
    _check(len(args) in (7, 8) and type(args[6]) is DType and type(args[0]) is Storage and args[0].dtype == "untyped")
    return _checked_tensor(args, args[6].name, args[6].itemsize, args[7] if len(args) == 8 else None)


def _checked_tensor(args: tuple[Any, ...], dtype: str, itemsize: int, metadata: Any) -> Tensor:
    storage, offset, shape, stride, requires_grad, hooks = args[:6]
    _check(
        type(offset) is int
        and type(shape) is tuple
        and type(stride) is tuple
        and type(requires_grad) is bool
        and (type(hooks) is OrderedMapping or hooks is None)
        and not hooks
        and len(shape) <= MAX_DIMENSIONS
        and len(shape) == len(stride)
        and _INTEGER.issuperset(map(type, shape + stride))
        and (metadata is None or (type(metadata) is dict and metadata.keys() <= {"conj", "neg"}))
    )
    span = _span(shape, stride)
    if not 0 <= offset <= MAX_SIZE or span is None or (span and (offset + span) * itemsize > storage.nbytes):
        raise refusal(
            "bad-tensor",
            f"a {dtype} tensor of shape {_shown_sizes(shape)}, strides {_shown_sizes(stride)} and offset {offset} "
            f"reaches outside storage {storage.key[:80]!r}, which has {storage.nbytes:,} bytes",
        )
    if not metadata:
        return Tensor(storage, dtype, itemsize, offset, shape, stride)
    views = {key: bool(value) for key, value in metadata.items()}
    return Tensor(storage, dtype, itemsize, offset, shape, stride, **views)


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int | None:
    """Elements from a tensor's first to its last one, both included; None for impossible sizes."""
    numbers = shape + stride
    if numbers and not 0 <= min(numbers) <= max(numbers) <= MAX_SIZE:
        return None
    return 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _shown_sizes(sizes: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, sizes[:8]))}{', …' if len(sizes) > 8 else ''}]"


def _sizes(value: Any) -> tuple[int, ...]:
    _check(type(value) is tuple and len(value) <= MAX_DIMENSIONS and _INTEGER.issuperset(map(type, value)))
    _check(not value or (min(value) >= 0 and max(value) <= MAX_SIZE))
    return tuple(value)


def _is_tensor(value: Any) -> bool:
    return type(value) is Tensor or type(value) is OtherTensor


def _make_parameter(args: tuple[Any, ...]) -> Any:
    """`_rebuild_parameter(data, requires_grad, backward_hooks)`; `…_with_state` has attributes as a fourth argument."""
    _check(3 <= len(args) <= 4 and _is_tensor(args[0]))
    return args[0]


def _make_uninitialized(args: tuple[Any, ...]) -> OtherTensor:
    return OtherTensor("uninitialized", "float32", (), ())


def _make_meta(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)`."""
    _types(args, DType, tuple, tuple, bool)
    return OtherTensor("meta", args[0].name, _sizes(args[1]), (_sizes(args[2]),))


def _make_sparse(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_sparse_tensor(layout, (indices, values, size[, is_coalesced]))`; compressed ones have two indices."""
    _types(args, Named, tuple)
    kind, data = args[0].name.removeprefix("torch."), args[1]
    count = 2 if kind == "sparse_coo" else 3
    _check(kind.startswith("sparse_") and len(data) > count and all(map(_is_tensor, data[:count])))
    return OtherTensor(kind, data[count - 1].dtype, _sizes(data[count]), (*data[:count], *data[count + 1 :][:1]))


def _make_quantized(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_qtensor(storage, offset, size, stride, (scheme, scale, zero point[, axis]), requires_grad, hooks)`."""
    _check(len(args) == 7 and type(args[0]) is Storage and type(args[4]) is tuple and 3 <= len(args[4]) <= 4)
    _check(args[0].dtype.startswith(("q", "u")) and type(args[4][0]) is Named)
    packed = {"quint4x2": 2, "quint2x4": 4}.get(args[0].dtype)
    if packed:  # several elements in a byte: their view cannot be checked by elements
        shape = _sizes(args[2])
        _check(-(-math.prod(shape) // packed) <= args[0].nbytes)
        whole: Any = Tensor(args[0], args[0].dtype, 1, 0, (args[0].numel,), (1,))
    else:
        whole = _checked_tensor((*args[:4], *args[5:]), args[0].dtype, args[0].itemsize, None)
        shape = whole.shape
    scheme = args[4][0].name.removeprefix("torch.")
    return OtherTensor("quantized", args[0].dtype, shape, (whole, scheme, *args[4][1:]))


def _make_nested(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_nested_tensor(buffer, sizes, strides, storage_offsets)`."""
    _check(len(args) == 4 and all(map(_is_tensor, args)))
    count = args[1].shape[0] if args[1].shape else 0
    return OtherTensor("nested", args[0].dtype, (count,), args)


def _make_jagged(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_njt(parts)`: a dictionary with its values and offsets, and more of it beside."""
    parts = next((arg for arg in args if type(arg) is dict), {})
    _check(_is_tensor(parts.get("values")) and _is_tensor(parts.get("offsets")))
    values, offsets = parts["values"], parts["offsets"]
    count = max(0, offsets.shape[0] - 1) if offsets.shape else 0
    return OtherTensor("jagged", values.dtype, (count,), (values, offsets, parts.get("lengths")))


def _make_of_cpu(args: tuple[Any, ...]) -> Any:
    """`_rebuild_device_tensor_from_cpu_tensor(tensor, dtype, device, requires_grad)`."""
    _check(len(args) == 4 and _is_tensor(args[0]) and type(args[1]) is DType)
    return args[0]


def _make_of_numpy(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`."""
    _check(len(args) == 4 and type(args[0]) is Array and type(args[1]) is DType and type(args[0].data) is bytes)
    return OtherTensor("array", args[1].name, args[0].shape, (args[0],))


def _make_wrapper(args: tuple[Any, ...]) -> OtherTensor:
    """`_rebuild_wrapper_subclass(class, dtype, size, stride, offset, layout, device, requires_grad)`."""
    _check(len(args) == 8 and type(args[0]) is Named and type(args[1]) is DType)
    return OtherTensor("subclass", args[1].name, _sizes(args[2]), (args[0].name, None))


def _make_of_type(args: tuple[Any, ...]) -> Any:
    """`_rebuild_from_type_v2(function, class, arguments, state)`: what the function makes, with attributes."""
    _check(len(args) == 4 and type(args[0]) is Function and type(args[1]) in (Named, Class) and type(args[2]) is tuple)
    _check(args[0].name in _OF_TENSORS)
    tensor = args[0].stand_in(args[2])
    if type(tensor) is OtherTensor and tensor.kind == "subclass":
        whole = _whole_of(args[3]) if args[1].name in _DISTRIBUTED else None
        is_whole = type(whole) is Tensor and (whole.shape, whole.dtype) == (tensor.shape, tensor.dtype)
        return whole if is_whole else OtherTensor("subclass", tensor.dtype, tensor.shape, (args[1].name, args[3]))
    return tensor


_DISTRIBUTED: Final = ("torch.distributed.tensor.DTensor", "torch.distributed._tensor.api.DTensor")


def _whole_of(state: Any) -> Any:
    """The local part of a tensor that is distributed, unless it is but a term of a sum."""
    fields = fields_of(Record("", state=state)) or {}
    spec = fields.get("_spec")
    placements = (fields_of(spec) or {}).get("placements") if type(spec) is Record else None
    kinds = [type(each) is Record and each.class_name.rpartition(".")[2] for each in placements or ("",)]
    return fields.get("_local_tensor") if all(kind in ("Shard", "Replicate") for kind in kinds) else None


def _make_size(args: tuple[Any, ...]) -> tuple[int, ...]:
    _types(args, tuple)
    size: tuple[int, ...] = args[0]
    return size


def _make_device(args: tuple[Any, ...]) -> Device:
    kind, index = args if len(args) == 2 else (*args, None) if len(args) == 1 else (None, None)
    _check(type(kind) is str and len(kind) <= MAX_NAME and (index is None or type(index) is int))
    kind, colon, number = str(kind).partition(":")
    return Device(kind, int(number) if colon and number.isdecimal() and len(number) < 10 else index)


def _make_layout(args: tuple[Any, ...]) -> Named:
    _types(args, str)
    _check(len(args[0]) <= MAX_NAME)
    return Named(args[0])


# --- the table --------------------------------------------------------------------------------------------------------

_NUMPY_CORE: Final = ("numpy.core", "numpy._core")  # before and since numpy 2

_OF_TENSORS: Final[Mapping[str, Callable[[tuple[Any, ...]], Any]]] = {
    "torch._utils._rebuild_tensor": _make_old_tensor,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_tensor_v3": _make_untyped_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
    "torch._utils._rebuild_parameter_with_state": _make_parameter,
    "torch._utils._rebuild_meta_tensor_no_storage": _make_meta,
    "torch._utils._rebuild_sparse_tensor": _make_sparse,
    "torch._utils._rebuild_qtensor": _make_quantized,
    "torch._utils._rebuild_nested_tensor": _make_nested,
    "torch.nested._internal.nested_tensor._rebuild_njt": _make_jagged,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _make_of_cpu,
    "torch._utils._rebuild_device_tensor_from_numpy": _make_of_numpy,
    "torch._utils._rebuild_xla_tensor": _make_of_numpy,
    "torch._utils._rebuild_wrapper_subclass": _make_wrapper,
    "torch.nn.parameter.UninitializedParameter": _make_uninitialized,
    "torch.nn.parameter.UninitializedBuffer": _make_uninitialized,
}

_SEVERAL: Final = (
    "aminmax", "cummax", "cummin", "frexp", "geqrf", "histogram", "histogramdd", "kthvalue", "linalg_cholesky_ex",
    "linalg_eig", "linalg_eigh", "linalg_inv_ex", "linalg_lstsq", "linalg_lu", "linalg_lu_factor", "linalg_qr",
    "linalg_slogdet", "linalg_svd", "lu_unpack", "max", "median", "min", "mode", "nanmedian", "qr", "slogdet", "sort",
    "svd", "topk", "triangular_solve",
)  # fmt: skip
"""Functions of torch that give several tensors at once."""

_EXCEPTIONS: Final = tuple(
    f"builtins.{name}"
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)

_FUNCTIONS: Final[Mapping[str, Callable[[tuple[Any, ...]], Any]]] = {
    **_OF_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _make_of_type,
    "torch.Size": _make_size,
    "torch.device": _make_device,
    "torch.serialization._get_layout": _make_layout,
    "collections.OrderedDict": _make_ordered_dict,
    "collections.Counter": _make_mapping,
    "collections.defaultdict": _make_mapping,
    "collections.deque": _make_list,
    "_codecs.encode": _make_bytes,
    "decimal.Decimal": _make_decimal,
    "fractions.Fraction": _make_fraction,
    "datetime.datetime": _make_moment,
    "datetime.date": _make_date,
    "datetime.time": _make_time,
    "datetime.timedelta": _make_span,
    "datetime.timezone": _make_timezone,
    "copyreg._reconstructor": _make_reconstructed,
    "numpy.dtype": _make_numpy_type,
    "numpy.ma.core._mareconstruct": _make_array,
    "numpy._core._internal._convert_to_stringdtype_kwargs": _make_text_type,
    "pandas._libs.tslibs.timestamps._unpickle_timestamp": _make_pandas_moment,
    "pandas._libs.tslibs.timedeltas._timedelta_unpickle": _make_pandas_span,
    **{f"{core}.multiarray.scalar": _make_scalar for core in _NUMPY_CORE},
    **{f"{core}.multiarray._reconstruct": _make_array for core in _NUMPY_CORE},
    **{f"{core}.numeric._frombuffer": _make_array_of_buffer for core in _NUMPY_CORE},
    "builtins.bytes": _make_empty_bytes,
    "builtins.bytearray": _make_bytearray,
    "builtins.complex": _make_complex,
    "builtins.slice": _make_slice,
    "builtins.range": _make_range,
    "builtins.type": _make_type,
    "builtins.list": _make_list,
    "_operator.getitem": _make_alias,
    "types.GenericAlias": _make_alias,
    **{f"{module}.reduce": _make_union for module in ("functools", "_functools")},
    **{f"torch.return_types.{name}": _make_several for name in _SEVERAL},
    **{name: _make_member(name) for name in ("re.RegexFlag", "http.HTTPStatus", "uuid.SafeUUID", "signal.Signals")},
    "array.array": _make_python_array,
    "array._array_reconstructor": _make_python_array_of_bytes,
    **{
        f"{module}.{name}": _make_path(of_windows)
        for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
        for of_windows, names in ((False, ("PosixPath", "PurePosixPath")), (True, ("WindowsPath", "PureWindowsPath")))
        for name in names
    },
    **{
        name: _make_record(name)
        for name in (
            "types.SimpleNamespace", "argparse.Namespace", "time.struct_time", "torch._C.Generator",
            "numpy.random._pickle.__generator_ctor", "numpy.random._pickle.__bit_generator_ctor",
            "numpy.random._pickle.__randomstate_ctor", "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
            "zoneinfo.ZoneInfo._unpickle", "functools.partial", "logging.getLogger", "re._compile", *_EXCEPTIONS,
            "random.Random", "builtins.iter", "builtins.reversed",
            "numpy.ma.core.MaskedConstant", "pandas.core.indexes.base._new_Index",
            "pandas.core.indexes.datetimes._new_DatetimeIndex", "pandas._libs.internals._unpickle_block",
            "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked", "pandas._libs.tslibs.nattype._nat_unpickle",
            "pandas.core.internals.managers.BlockManager", "pandas.StringDtype",
            "pyarrow.lib._restore_array", "pyarrow.lib.py_buffer", "pyarrow.lib.type_for_alias", "pytz._UTC", "pytz._p",
            "dateutil.tz.tz.tzutc", "dateutil.tz.tz.tzlocal",
            "platform.uname_result", "posix.uname_result", "os.stat_result", "os.statvfs_result", "os.terminal_size",
            "posix.times_result", "nt.times_result", "resource.struct_rusage",
            "builtins.enumerate", "itertools.count", "itertools.cycle", "itertools.repeat",
            *(f"ipaddress.IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Network", "Interface")),
        )
    },
}  # fmt: skip

_SLOW: Final = {"fractions.Fraction": 4}

VALUE_CLASSES: Final = frozenset({
    "argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "collections.UserDict", "collections.UserList",
    "torch.Generator", "builtins.object", "torch.nn.parameter.Parameter", "torch._dynamo.decorators._DimRange",
    "_io.BytesIO", "_io.StringIO",
})  # fmt: skip
"""Classes whose instances are values: they have no code of their own that a file could reach."""


VALUE_PACKAGES: Final = (
    "omegaconf.", "numpy.random.", "lightning.fabric.utilities.data.AttributeDict", "easydict.EasyDict",
    "lightning_fabric.utilities.data.AttributeDict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode", "ml_collections.config_dict.",
)  # fmt: skip
"""What the names of further such classes begin with: containers for configurations."""


@cache
def known_globals() -> Mapping[str, object]:
    """What a pickle may name, by full name."""
    table: dict[str, object] = {
        name: Function(name, function, _SLOW.get(name, 1), name not in _OF_TENSORS)
        for name, function in _FUNCTIONS.items()
    }
    table |= {f"torch.{name}": DType(name, itemsize) for name, itemsize in DTYPES.items()}
    for module in ("torch", "torch.cuda"):
        table |= {f"{module}.{name}": StorageType(dtype, DTYPES[dtype]) for name, dtype in _STORAGES.items()}
    table["torch.storage.UntypedStorage"] = StorageType("untyped", 1)
    table |= {name: Class(name) for name in VALUE_CLASSES if name not in table}
    table["numpy.memmap"] = Named("numpy.memmap")  # of an array; to call it is refused: it opens files
    table["inspect._empty"] = Named("inspect._empty")  # what a signature says of a parameter without a default
    table |= {"builtins.Ellipsis": ..., "builtins.NotImplemented": NotImplemented}
    table["torch.torch_version.TorchVersion"] = Class("torch.torch_version.TorchVersion", _make_text)
    return table
