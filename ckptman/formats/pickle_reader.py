"""Reading the pickle inside a checkpoint without executing it.

A pickle is a program for a stack machine. `read_pickle` interprets that program over inert stand-ins: where it asks for
`torch._utils._rebuild_tensor_v2`, it gets a `Tensor` that only says which bytes of which storage it would view. Nothing
that the pickle names is imported, looked up or called. Three sorts of things are told apart:

- values, read by what they mean: those that `constructors` lists, and instances of the classes that the caller names;
- foreign objects: instances of other classes, made the ordinary way. They stay inert records, and are named;
- calls of anything else, which could run any program when somebody loads the file. The file is refused, with all of
  their names; the caller can admit some as inert, but none that reaches the system.

Read are protocols 2 to 5. What a pickle can make this module do is bounded by its size: every instruction takes at
least one byte and is done in time proportional to the bytes it takes, except where it copies or walks a shared value,
and for each of those there is a limit, which grows with the pickle. The result has no cycles but through a `Record`,
and a program that walks it naively up to its records visits no more values than `Limits.values`.
"""

from __future__ import annotations

import gc
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple, NoReturn

from ckptman.formats import whole_tensors
from ckptman.formats.constructors import (
    MAX_DIGITS,
    MAX_NAME,
    MAX_SIZE,
    VALUE_CLASSES,
    VALUE_PACKAGES,
    Class,
    Function,
    OddArgumentsError,
    StorageType,
    known_globals,
    set_array,
    set_numpy_type,
)
from ckptman.formats.pickled import (
    Array,
    Device,
    DType,
    Foreign,
    Member,
    Named,
    NumpyType,
    OrderedMapping,
    OtherTensor,
    PathParts,
    Pickled,
    Record,
    Storage,
    Tensor,
)
from ckptman.formats.refusals import refusal
from ckptman.rules import terms
from ckptman.text import RefusedError

MAX_NESTING: Final = 100
"""Levels of containers in the result, and of marks (unfinished containers) while it is read."""
MAX_ODD_KEYS: Final = 4096
"""Keys and members of sets that could be made to have one hash, so that their number counts in square: neither text,
bytes, numbers of 64 bits, nor tuples of a few of them."""
MAX_KEY_BITS: Final = 60
"""Of an integer key that is not odd: two of so many bits have different hashes."""
MAX_STEPS: Final = 1 << 28
"""Steps that finding places for numbers in dictionaries and sets may take at the worst. Where a number goes is known
beforehand, unlike where a text goes, whose hash is drawn anew for each process: so numbers can be chosen whose every
place is taken, and each then costs as many steps as the dictionary has keys. Not so where they count up from 0."""
DENSE: Final = 64
"""How far a number may be ahead of the count: no more than what a dictionary of so many keys has places for."""
MAX_KEY_PARTS: Final = 1000
"""Values in a key that is a tuple, a shared one counted each time: all of them are hashed."""
MAX_NAMED: Final = 10_000
"""Different classes and functions that a pickle may ask for."""
MAX_NAMES: Final = 100
"""Names that one refusal lists."""
MAX_PLACES: Final = 3
"""Places that are told of one name."""


class Limits(NamedTuple):
    """What a pickle of some size may take."""

    instructions: int
    values: int
    """Values in the result, where a shared one counts as often as it is referred to."""
    calls: int
    work: int
    """Bytes of memory that containers and calls take, estimated from above."""

    @classmethod
    def of(cls, size: int) -> Limits:
        """The limits of a pickle with so many bytes."""
        instructions = max(200_000 + size // 4, min(size, 1_000_000))  # a million take less than half a second
        return cls(instructions, 200_000 + size, 30_000 + size // 32, (16 << 20) + 12 * size)


# --- the stack machine ------------------------------------------------------------------------------------------------

# A NamedTuple's own constructor is a Python function, and takes twice as long.
_new_tuple = tuple.__new__

_TWO_LINES: Final = re.compile(rb"([^\n]*+)\n([^\n]*+)\n")
"""Module and name of a GLOBAL instruction."""

_UINT32 = Struct("<I").unpack_from
_INT32 = Struct("<i").unpack_from
_UINT64 = Struct("<Q").unpack_from
_FLOAT64 = Struct(">d").unpack_from

_AS_WRITTEN: Final = "surrogatepass"
"""How Python pickles text that is no Unicode: a path whose bytes are no UTF-8 has half characters in it."""
_BINPUT: Final = ord("q")
_LONG_BINPUT: Final = ord("r")
_BINGET: Final = ord("h")
_LONG_BINGET: Final = ord("j")
_BININT1: Final = ord("K")
_SMALL_NUMBERS: Final = re.compile(rb"(?:K.)*+", re.DOTALL)
"""Numbers below 256 one after the other, such as tokens: they are read as one instruction, and count as one."""
_MARK: Final = ord("(")
_REBUILD: Final = known_globals()["torch._utils._rebuild_tensor_v2"]
_HOOKS: Final = known_globals()["collections.OrderedDict"]
_SHORT = whole_tensors.SHORT.match
_LONG = whole_tensors.LONG.match
_geometry = whole_tensors.geometry
_are_next = whole_tensors.are_next
_SETS: Final = frozenset({"builtins.set", "builtins.frozenset"})
_GET_ATTRIBUTE: Final = "builtins.getattr"
_RENAMED: Final = {"torch.tensor": "torch._tensor"}
"""Modules that torch looks for under other names."""


@cache
def _known(classes: tuple[str, ...]) -> dict[str, object]:
    special = {name: Named(name) for name in (*_SETS, _GET_ATTRIBUTE)}
    return {**{name: Class(name) for name in classes}, **known_globals(), **special}


def read_pickle(
    data: bytes,
    *,
    config_classes: tuple[str, ...] = (),
    inert: tuple[str, ...] = (),
    limits: Limits | None = None,
) -> Pickled:
    """Interpret a pickle, without executing anything it asks for.

    Args:
        data: The whole pickle: the archive's `data.pkl`.
        config_classes: Full names of classes whose instances are values, read as a `Record`.
        inert: Full names of functions whose calls are kept as a `Record` of their arguments.
        limits: What it may take; by default that of any pickle of its size.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS` and the names of what would be called.
    """
    if data[:1] not in (b"", b"\x80") or not 2 <= (data[1:2] or b"\2")[0] <= 5:
        raise refusal("unsafe-pickle", "the pickle does not begin as one of protocol 2 to 5")
    machine = _Machine(data, _known(config_classes), frozenset(inert))
    machine.limits = limits or machine.limits
    with garbage_left():
        try:
            value = machine.run()
            _measure(value, machine.limits)
        except RefusedError as error:
            machine.judge(None, f"; and {error.message}")  # what it calls is called before anybody finds the break
            raise
        return Pickled(value, machine.storages, machine.judge(value))


@contextmanager
def garbage_left() -> Iterator[None]:
    """Without the collector of garbage, which would look through all that was made, again and again: half of the time
    that a hostile pickle takes. What it makes is bounded."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Machine:
    """Interprets one pickle.

    Each instruction is a method. It gets the position after its opcode and returns that of the next instruction.
    """

    __slots__ = (
        "below", "calls", "data", "foreign", "inert", "known", "limits", "memo", "named", "odd_keys", "references",
        "refused", "size", "stack", "steps", "storages", "work",
    )  # fmt: skip

    def __init__(self, data: bytes, known: Mapping[str, object], inert: frozenset[str]) -> None:
        self.size = len(data)
        # Padded, so that the argument of an instruction at the very end can be read: the zeros are no instruction.
        self.data = data + bytes(16)
        self.known = known
        self.inert = inert
        self.limits = Limits.of(self.size)
        self.stack: list[Any] = []
        """Values since the last mark."""
        self.below: list[list[Any]] = []
        """The stacks below each open mark. They are lists of their own so that nothing can reach through a mark."""
        self.memo: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.references: dict[bytes, tuple[StorageType, str]] = {}
        """Types and devices of storages, by the instructions that get these from the memo."""
        self.named: dict[tuple[str | bytes, str | bytes], object] = {}
        """What was asked for, by module and name."""
        self.refused: dict[str, str] = {}
        """Names that the pickle may not ask for, and what it does with them."""
        self.foreign: dict[tuple[str, str], None] = {}
        """Names of what nobody listed, and how they stand there."""
        self.calls = 0
        self.odd_keys = 0
        self.steps = 0
        self.work = 0

    def run(self) -> Any:
        """The value that the pickle makes."""
        data, table = self.data, _INSTRUCTIONS
        at = 2  # after the protocol
        try:
            for _ in range(self.limits.instructions):
                at = table[data[at]](self, at + 1)
                if not at:
                    return self.stack[0]
        except IndexError:
            raise refusal("broken-pickle", f"the pickle uses a value that it has not made, at byte {at}") from None
        except UnicodeDecodeError:
            raise refusal("broken-pickle", f"the pickle holds text that is not UTF-8, at byte {at}") from None
        raise refusal(
            "pickle-bomb",
            f"the pickle has more than {self.limits.instructions:,} instructions, the limit for {self.size:,} bytes",
        )

    def judge(self, value: Any, besides: str = "") -> tuple[Foreign, ...]:
        """The foreign objects of the value.

        Args:
            value: What the pickle holds.
            besides: What else is wrong with it.

        Raises:
            RefusedError: `unsafe-pickle` with the names of all calls that were not admitted.
        """
        if not self.refused and not self.foreign:
            return ()
        places = _places(value)
        if self.refused:
            told = [f"{what} {_shown_name(name)}{_told(places.get(name, ()))}" for name, what in self.refused.items()]
            more = f"; and {len(told) - MAX_NAMES} more" if len(told) > MAX_NAMES else ""
            raise refusal("unsafe-pickle", f"the pickle {'; '.join(told[:MAX_NAMES])}{more}{besides}")
        return tuple(Foreign(name, how, places.get(name, ())) for name, how in self.foreign)

    def spend(self, work: int) -> None:
        self.work += work
        if self.work > self.limits.work:
            raise refusal(
                "pickle-bomb",
                f"the pickle makes containers and calls that take more than {self.limits.work:,} bytes of memory, the "
                f"limit for {self.size:,} bytes",
            )

    def refuse(self, what: str, name: str) -> None:
        """Note what the file will be refused for, once all of it has been read."""
        self.refused.setdefault(name, what)

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
        if self.data[at + 1] != _BININT1:
            return at + 1
        end = _SMALL_NUMBERS.match(self.data, at + 1).end()  # type: ignore[union-attr]  # it matches anywhere
        self.stack += self.data[at + 2 : end : 2]
        return end

    def binint2(self, at: int) -> int:
        self.stack.append(self.data[at] | self.data[at + 1] << 8)
        return at + 2

    def long1(self, at: int) -> int:
        length = self.data[at]
        self.stack.append(int.from_bytes(self.slice(at + 1, length), "little", signed=True))
        return at + 1 + length

    def long4(self, at: int) -> int:
        length = _UINT32(self.data, at)[0]
        if length > MAX_DIGITS:
            raise refusal("pickle-bomb", f"the pickle holds an integer of {length:,} bytes, more than {MAX_DIGITS:,}")
        self.stack.append(int.from_bytes(self.slice(at + 4, length), "little", signed=True))
        return int(at + 4 + length)

    def binfloat(self, at: int) -> int:
        self.stack.append(_FLOAT64(self.data, at)[0])
        return at + 8

    def binunicode(self, at: int) -> int:
        data = self.data
        start = at + 4
        end: int = start + _UINT32(data, at)[0]
        if end > self.size:
            raise self.cut()
        text = data[start:end].decode("utf-8", _AS_WRITTEN)
        stack, memo = self.stack, self.memo
        stack.append(text)
        # Mostly it is put into the memo next, and is the key of a small number or of what the memo has: done here,
        # this takes a third of the time.
        if data[end] == _LONG_BINPUT and _UINT32(data, end + 1)[0] == len(memo):
            memo.append(text)
            end += 5
        elif data[end] == _BINPUT and data[end + 1] == len(memo):
            memo.append(text)
            end += 2
        else:
            return end
        if data[end] == _BINGET:
            value = memo[data[end + 1]]
        elif data[end] == _LONG_BINGET:
            value = memo[_UINT32(data, end + 1)[0]]
            end += 3
        elif data[end] == _BININT1:
            stack.append(data[end + 1])
            return end + 2
        else:
            return end
        stack.append(value)
        return self.mark(end + 3) if value is _REBUILD and data[end + 2] == _MARK else end + 2

    def short_binunicode(self, at: int) -> int:
        length = self.data[at]
        self.stack.append(self.slice(at + 1, length).decode("utf-8", _AS_WRITTEN))
        return at + 1 + length

    def binunicode8(self, at: int) -> int:
        length = _UINT64(self.data, at)[0]
        self.stack.append(self.slice(at + 8, length).decode("utf-8", _AS_WRITTEN))
        return int(at + 8 + length)

    def short_binbytes(self, at: int) -> int:
        length = self.data[at]
        self.stack.append(self.slice(at + 1, length))
        return at + 1 + length

    def binbytes(self, at: int) -> int:
        length = _UINT32(self.data, at)[0]
        self.stack.append(self.slice(at + 4, length))
        return int(at + 4 + length)

    def binbytes8(self, at: int) -> int:
        length = _UINT64(self.data, at)[0]
        self.stack.append(self.slice(at + 8, length))
        return int(at + 8 + length)

    def bytearray8(self, at: int) -> int:
        end = self.binbytes8(at)
        self.spend(64)
        self.stack[-1] = bytearray(self.stack[-1])
        return end

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
        value = self.memo[self.data[at]]
        self.stack.append(value)
        if value is _REBUILD and self.data[at + 1] == _MARK:
            return self.mark(at + 2)
        return at + 1

    def long_binget(self, at: int) -> int:
        self.stack.append(self.memo[_UINT32(self.data, at)[0]])
        return at + 4

    def pop(self, at: int) -> int:
        self.stack.pop()  # pickle gives up a tuple that contains itself, and gets it from the memo
        return at

    def pop_mark(self, at: int) -> int:
        self.take_marked()
        return at

    # Containers

    def mark(self, at: int) -> int:
        stack = self.stack
        if stack and stack[-1] is _REBUILD and (end := self.whole_tensor(at)):
            return end
        if len(self.below) == MAX_NESTING:
            raise refusal("pickle-bomb", f"the pickle nests more than {MAX_NESTING} levels deep")
        self.work += 32  # what makes a value of them looks at the sum
        self.below.append(self.stack)
        self.stack = []
        return at

    def whole_tensor(self, at: int) -> int:
        """Put the tensor on the stack that the instructions from the second MARK on make, in the place of the function
        that makes it; 0 where they have to be done one by one."""
        memo = self.memo
        known = len(memo)
        found = (_SHORT if known < whole_tensors.LAST_SHORT else _LONG)(self.data, at)
        if found is None or len(self.below) + 2 > MAX_NESTING or self.calls + 2 > self.limits.calls:
            return 0
        (
            gets, length, key, put_1, get, numel, put_2, offset, shape, put_3, stride, put_4, grad, hooks, put_5, put_6,
            put_7,
        ) = found.groups(b"")  # fmt: skip
        puts = b"".join((put_1, put_2, put_3, put_4, put_5, put_6, put_7))
        view = _geometry(offset, shape, stride, numel)
        if view is None or length[0] != len(key) or not _are_next(puts, known):
            return 0
        gets += get + hooks
        constants = self.references.get(gets) or self.constants(gets)
        if constants is None:
            return 0
        kind, device = constants
        name = key.decode()
        first, sizes, steps, elements, work = view
        storage = self.storages.get(name)
        if storage is None:
            storage = self.storages[name] = _new_tuple(Storage, (name, kind.dtype, kind.itemsize, elements))
        elif storage.numel != elements or storage.dtype != kind.dtype:
            return 0
        self.calls += 2
        self.work += work  # no more than the limit grows by for these bytes
        tensor = _new_tuple(Tensor, (storage, kind.dtype, kind.itemsize, first, sizes, steps, False, False))
        identity = ("storage", kind, name, device, elements)
        mapping = OrderedMapping()
        args = (storage, first, sizes, steps, grad == b"\x88", mapping)
        if sizes:
            memo += (name, identity, sizes, steps, mapping, args, tensor)
        else:
            memo += (name, identity, mapping, args, tensor)
        self.stack[-1] = tensor
        return found.end()

    def constants(self, gets: bytes) -> tuple[StorageType, str] | None:
        """What the memo has for "storage", its type, the device and OrderedDict, if it is these."""
        places = whole_tensors.places(gets)
        if max(places) >= len(self.memo):
            return None
        what, kind, device, function = (self.memo[place] for place in places)
        if type(kind) is not StorageType or kind.dtype == "untyped" or function is not _HOOKS:
            return None
        if what != "storage" or type(device) is not str:
            return None
        self.references[gets] = kind, device
        return kind, device

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
        self.work += 48
        self.stack.append(tuple(values))
        return at

    def tuple1(self, at: int) -> int:
        stack = self.stack
        self.work += 64
        stack[-1] = (stack[-1],)
        return at

    def tuple2(self, at: int) -> int:
        stack = self.stack
        self.work += 72
        last = stack.pop()
        stack[-1] = (stack[-1], last)
        return at

    def tuple3(self, at: int) -> int:
        stack = self.stack
        self.spend(80)
        last = stack.pop()
        middle = stack.pop()
        stack[-1] = (stack[-1], middle, last)
        return at

    def empty_list(self, at: int) -> int:
        self.spend(72)
        self.stack.append([])
        return at

    def empty_dict(self, at: int) -> int:
        self.spend(80)
        made: dict[Any, Any] = {}
        self.stack.append(made)
        if self.data[at] == _BINPUT and self.data[at + 1] == len(self.memo):  # as for text
            self.memo.append(made)
            return at + 2
        return at

    def empty_set(self, at: int) -> int:
        self.spend(232)
        self.stack.append(set())
        return at

    def frozenset(self, at: int) -> int:
        self.make_set(self.take_marked(), frozenset)
        return at

    def additems(self, at: int) -> int:
        values = self.take_marked()
        target = self.stack[-1]
        if type(target) is not set:
            raise refusal("unsafe-pickle", f"the pickle adds to {_shown(target)}")
        self.check_keys(values, len(target))
        target.update(values)
        return at

    def make_set(self, values: list[Any], kind: Callable[[list[Any]], Any]) -> None:
        self.check_keys(values)
        self.spend(232 + 16 * len(values))
        self.stack.append(kind(values))

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
        if type(key) is str and (type(target) is dict or type(target) is OrderedMapping) and key not in target:
            if not target:
                self.spend(168)
            target[key] = value  # as below, in less time
        else:
            self.set_items(target, [key, value])
        return at

    def setitems(self, at: int) -> int:
        pairs = self.take_marked()
        self.set_items(self.stack[-1], pairs)
        return at

    def set_items(self, target: object, pairs: list[Any]) -> None:
        if type(target) is Record:
            target.items = items = target.items if type(target.items) is dict else {}
        elif type(target) is dict or type(target) is OrderedMapping:
            items = target
        else:
            raise refusal("unsafe-pickle", f"the pickle sets items of {_shown(target)}")
        if len(pairs) % 2:
            raise refusal("broken-pickle", "the pickle sets a key without a value")
        keys = pairs[::2]
        before = len(items)
        self.check_keys(keys, before)
        if not before:
            self.spend(168)
        items.update(zip(keys, pairs[1::2], strict=True))
        if len(items) != before + len(keys):
            raise refusal("broken-pickle", "the pickle sets one key of a dictionary twice")

    def check_keys(self, keys: list[Any], held: int = 0) -> None:
        """Check that keys can be hashed and placed in little time, in a dictionary or set that holds so many by now."""
        if _TEXT.issuperset(map(type, keys)):
            return
        for count, key in enumerate(keys, held):
            kind = type(key)
            if kind is str or kind is bytes or kind is bool or key is None or kind is Record:  # by identity, the last
                continue
            if kind is int and 0 <= key <= count + DENSE:
                continue
            if kind is float or (kind is int and key.bit_length() <= MAX_KEY_BITS) or _is_plain_tuple(key):
                # A tuple is hashed each time; its hash is as unknown as that of any text in it.
                unknown = kind is tuple and any(type(part) is str and part for part in key)
                self.steps += 16 * len(key) if unknown else count
                if self.steps > MAX_STEPS:
                    raise refusal(
                        "pickle-bomb", f"the pickle has keys that could take more than {MAX_STEPS:,} steps to place"
                    )
                continue
            self.odd_keys += 1
            if self.odd_keys > MAX_ODD_KEYS:
                raise refusal(
                    "pickle-bomb", f"the pickle has more than {MAX_ODD_KEYS:,} keys whose hashes could be the same"
                )
            _check_hashable(key, MAX_KEY_PARTS)

    # Everything else: nothing of this looks anything up outside this module

    def global_(self, at: int) -> int:
        lines = _TWO_LINES.match(self.data, at, at + 2 * MAX_NAME)
        if lines is None:
            raise refusal(
                "cut-pickle" if self.size < at + 2 * MAX_NAME else "unsafe-pickle",
                f"the pickle asks for a global whose name does not end within {2 * MAX_NAME} bytes, at byte {at}",
            )
        self.spend(256)
        module, name = lines.groups()
        found = self.named.get((module, name))
        if found is None:
            found = self.named[module, name] = self.find(module.decode(), name.decode())
        self.stack.append(found)
        return lines.end()

    def stack_global(self, at: int) -> int:
        name = self.stack.pop()
        module = self.stack[-1]
        if type(module) is not str or type(name) is not str or len(module) > MAX_NAME or len(name) > MAX_NAME:
            raise refusal("unsafe-pickle", "the pickle asks for a global by something that is not a name")
        found = self.named.get((module, name))
        if found is None:
            found = self.named[module, name] = self.find(module, name)
        self.stack[-1] = found
        return at

    def find(self, module: str, name: str) -> object:
        """The stand-in for a class or function."""
        module = _RENAMED.get(module, module)
        if self.data[1] < 3:  # written with the names that Python 2 had
            module, name = NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)
        full_name = f"{module}.{name}"
        if len(self.named) > MAX_NAMED:
            raise refusal("pickle-bomb", f"the pickle asks for more than {MAX_NAMED:,} classes and functions")
        if (found := self.known.get(full_name)) is not None:
            return found
        if not terms.is_full_name(full_name):
            raise refusal("unsafe-pickle", f"the pickle asks for {_shown(full_name)}, which is not a name")
        if terms.reaches_system(full_name):
            self.refuse("asks for", full_name)
        return Named(full_name)

    def binpersid(self, at: int) -> int:
        self.stack[-1] = _find_storage(self.stack[-1], self.storages)
        return at

    def reduce(self, at: int) -> int:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)
        return at

    def call(self, function: Any, args: Any) -> None:
        """Put what a call gives on the stack."""
        known = type(function) is Function
        self.calls += function.weight if known else 1
        if self.calls > self.limits.calls:
            raise refusal(
                "pickle-bomb",
                f"the pickle calls functions more than {self.limits.calls:,} times, the limit for {self.size:,} bytes",
            )
        if type(args) is not tuple:
            raise refusal("unsafe-pickle", f"the pickle calls {_shown(function)} with {_shown(args)}")
        if type(function) is Member:
            function = self.inner_class(function)
        work = 200 + 16 * len(args)
        if args and not (known and not function.copies):
            work += sum([_WEIGHTS[type(arg)] * len(arg) for arg in args if type(arg) in _SIZED])
        self.spend(work)
        if known:
            try:
                self.stack.append(function.stand_in(args))
            except OddArgumentsError:
                self.call_refused(function.name, args, "calls, with arguments that are not known,")
        elif type(function) is Named:
            self.call_named(function.name, args)
        elif type(function) is Class:
            self.call_refused(function.name, args)
        else:
            self.call_refused(_shown(function), args)

    def call_named(self, name: str, args: tuple[Any, ...]) -> None:
        if name in _SETS and (not args or (len(args) == 1 and type(args[0]) in (list, tuple))):
            self.make_set(list(args[0]) if args else [], frozenset if name.endswith("frozenset") else set)
        elif name == _GET_ATTRIBUTE:
            self.stack.append(self.attribute(name, args))
        elif name in self.inert and not terms.reaches_system(name):
            self.foreign[name, "call"] = None
            self.stack.append(Record(name, args, called=True))
        elif _is_member(name, args):
            self.foreign[name, "enum"] = None
            self.stack.append(Member(name, args[0]))
        elif _is_class_name(name) and self.are_data(name, args):
            self.foreign[name, "instance"] = None
            self.stack.append(_made_by_its_class(name, args))
        else:
            self.call_refused(name, args)

    def are_data(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a call of a class is one that pickle writes for an instance: of a subclass of what has a way of its
        own to be pickled (an ordered dictionary, a Counter, a set, a deque, a date, an error), or of an Enum. All text
        among its arguments is words: no command, no path and no code; what is in a dictionary is data."""
        if name.startswith(_LIBRARIES):
            return False
        waiting: list[Any] = [args]
        count = 0
        while waiting:
            values = waiting.pop()
            count += 1 + len(values)
            if count > MAX_ARGUMENTS:
                return False
            for value in values:
                kind = type(value)
                if kind in _SEQUENCES:
                    waiting.append(value)
                elif (kind is str and not _WORDS.fullmatch(value)) or (kind in _BYTES and len(value) > _FEW_BYTES):
                    return False
        self.calls += count // 16  # the arguments may be shared by many calls
        return True

    def call_refused(self, name: str, args: tuple[Any, ...], what: str = "calls") -> None:
        self.refused[name] = what
        self.stack.append(Record(name, args, called=True))

    def attribute(self, name: str, args: tuple[Any, ...]) -> object:
        """`getattr(class, name)`: how Python 3.11 pickles some members of Enums, and zones their own constructor; and
        how protocol 2 names a class that stands within another."""
        if len(args) == 2 and type(args[1]) is str and type(args[0]) in (Named, Class, Member):
            kind = self.inner_class(args[0]) if type(args[0]) is Member else args[0]
            full_name = f"{_shown(kind)}.{args[1]}"
            if full_name in self.known:
                return self.known[full_name]
            if _is_class_name(_shown(kind)) and args[1].isidentifier() and not args[1].startswith("_"):
                self.foreign[_shown(kind), "enum"] = None
                return Member(_shown(kind), args[1], by_name=True)
        if len(args) == 2 and type(args[0]) is Record and not args[0].called and type(args[1]) is str:
            full_name = f"{args[0].class_name}.{args[1]}"  # a method of an instance
            if terms.is_full_name(full_name) and not args[1].startswith("_") and not terms.reaches_system(full_name):
                return Named(full_name)
        self.call_refused(name, args)
        return self.stack.pop()

    def inner_class(self, member: Member) -> Any:
        """What `getattr` gave, where it shows to be no member of an Enum but a class."""
        if not member.by_name:
            return member
        name = f"{member.class_name}.{member.value}"
        self.foreign.pop((member.class_name, "enum"), None)
        if terms.reaches_system(name):
            self.refuse("asks for", name)
        return Named(name)

    def newobj(self, at: int) -> int:
        args = self.stack.pop()
        self.make_instance(self.stack.pop(), args)
        return at

    def newobj_ex(self, at: int) -> int:
        keywords = self.stack.pop()
        args = self.stack.pop()
        if type(keywords) is not dict:
            raise refusal("unsafe-pickle", f"the pickle makes an instance with {_shown(keywords)}")
        self.make_instance(self.stack.pop(), args)
        return at

    def make_instance(self, kind: Any, args: Any) -> None:
        self.spend(240)
        if type(args) is not tuple:
            raise refusal("unsafe-pickle", f"the pickle makes an instance of {_shown(kind)} with {_shown(args)}")
        if type(kind) is Member:
            kind = self.inner_class(kind)
        if type(kind) is Class and kind.make is not None:
            try:
                self.stack.append(kind.make(args))
            except OddArgumentsError:
                self.call_refused(kind.name, args, "makes, with arguments that are not known,")
            return
        if type(kind) not in (Class, Named, Function) or (type(kind) is Function and kind.name not in VALUE_CLASSES):
            self.refuse("makes an instance of", _shown(kind))
            self.stack.append(Record("", args))
            return
        if type(kind) is Named and not kind.name.startswith(VALUE_PACKAGES):
            if terms.reaches_system(kind.name):
                self.refuse("makes an instance of", kind.name)
            self.foreign[kind.name, "instance"] = None
        self.stack.append(Record(kind.name, args))

    def inst(self, at: int) -> int:
        """INST and OBJ, of the oldest protocols, are calls."""
        lines_end = self.global_(at)
        kind = self.stack.pop()
        self.call(kind, tuple(self.take_marked()))
        return lines_end

    def obj(self, at: int) -> int:
        kind, *args = self.take_marked() or [None]
        self.call(kind, tuple(args))
        return at

    def build(self, at: int) -> int:
        state = self.stack.pop()
        target = self.stack[-1]
        try:
            if type(target) is Record and target.state is None:
                target.state = state
            elif type(target) is NumpyType:
                set_numpy_type(target, state)
            elif type(target) is Array:
                self.spend(200 + 16 * len(state) if type(state) is tuple else 0)
                set_array(target, state)
            elif type(target) is not OrderedMapping or type(state) is not dict:
                raise refusal("unsafe-pickle", f"the pickle sets the state of {_shown(target)}")
        except OddArgumentsError:
            raise refusal("unsafe-pickle", f"the pickle sets the state of {_shown(target)} to an odd one") from None
        return at


def _instructions() -> list[Callable[[_Machine, int], int]]:
    """The method of each opcode."""
    table: list[Callable[[_Machine, int], int]] = [_Machine.unknown] * 256
    for opcode, method in {
        b".": _Machine.stop, b"\x95": _Machine.frame,
        b"N": _Machine.none, b"\x88": _Machine.newtrue, b"\x89": _Machine.newfalse,
        b"J": _Machine.binint, b"K": _Machine.binint1, b"M": _Machine.binint2,
        b"\x8a": _Machine.long1, b"\x8b": _Machine.long4, b"G": _Machine.binfloat,
        b"X": _Machine.binunicode, b"\x8c": _Machine.short_binunicode, b"\x8d": _Machine.binunicode8,
        b"C": _Machine.short_binbytes, b"B": _Machine.binbytes, b"\x8e": _Machine.binbytes8,
        b"\x96": _Machine.bytearray8,
        b"q": _Machine.binput, b"r": _Machine.long_binput, b"\x94": _Machine.memoize,
        b"h": _Machine.binget, b"j": _Machine.long_binget, b"0": _Machine.pop, b"1": _Machine.pop_mark,
        b"(": _Machine.mark, b")": _Machine.empty_tuple, b"t": _Machine.tuple_,
        b"\x85": _Machine.tuple1, b"\x86": _Machine.tuple2, b"\x87": _Machine.tuple3,
        b"]": _Machine.empty_list, b"a": _Machine.append, b"e": _Machine.appends,
        b"}": _Machine.empty_dict, b"s": _Machine.setitem, b"u": _Machine.setitems,
        b"\x8f": _Machine.empty_set, b"\x90": _Machine.additems, b"\x91": _Machine.frozenset,
        b"c": _Machine.global_, b"\x93": _Machine.stack_global, b"Q": _Machine.binpersid,
        b"R": _Machine.reduce, b"\x81": _Machine.newobj, b"\x92": _Machine.newobj_ex, b"b": _Machine.build,
        b"i": _Machine.inst, b"o": _Machine.obj,
    }.items():  # fmt: skip
        table[opcode[0]] = method
    return table


_INSTRUCTIONS: Final = _instructions()


# --- what the instructions check --------------------------------------------------------------------------------------


def _find_storage(persistent_id: object, storages: dict[str, Storage]) -> Storage:
    """The storage of a persistent id `("storage", type, key, location, number of elements)`."""
    if type(persistent_id) is not tuple or len(persistent_id) != 5:
        raise refusal("unsafe-pickle", "the pickle refers to something outside it that is not a storage")
    what, kind, key, location, numel = persistent_id
    if (
        what != "storage"
        or type(kind) is not StorageType
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


_TEXT: Final = frozenset({str})
_WEIGHTS: Final[Mapping[type, int]] = {
    str: 1,
    bytes: 1,
    bytearray: 1,
    list: 16,
    tuple: 16,
    dict: 100,
    OrderedMapping: 100,
}
"""Bytes that a call may copy for each item of an argument."""
_SIZED: Final = frozenset(_WEIGHTS)
_UNHASHABLE: Final = (list, dict, OrderedMapping, set, bytearray, slice)


def _is_plain_tuple(key: Any) -> bool:
    """Whether a key is a tuple of text, or of up to three words, small integers and their like."""
    if type(key) is not tuple or len(key) > MAX_KEY_PARTS:
        return False
    return _TEXT.issuperset(map(type, key)) or (
        len(key) <= _FEW_PARTS
        and all(type(part) in _SMALL or (type(part) is int and part.bit_length() <= _SMALL_BITS) for part in key)
    )


_FEW_PARTS: Final = 3
_SMALL: Final = frozenset({str, bytes, bool, type(None)})
_SMALL_BITS: Final = 20
"""Of an integer in a tuple: three of them do not fill a hash."""


def _check_hashable(key: Any, left: int) -> int:
    """Check that hashing a key takes little time: how many more values it may have."""
    if isinstance(key, _UNHASHABLE):
        raise refusal("unsafe-pickle", f"the pickle uses {_shown(key)} as the key of a dictionary")
    left -= 1
    parts = key if type(key) in (tuple, frozenset) else (key.value,) if type(key) is Member else ()
    for part in parts:
        if left <= 0:
            raise refusal("pickle-bomb", f"the pickle uses a key of more than {MAX_KEY_PARTS:,} values")
        left = _check_hashable(part, left)
    return left


def _append(target: object, items: list[Any]) -> None:
    if type(target) is Record and not isinstance(target.items, dict):
        target.items = [*(target.items or ()), *items] if not target.items else _extended(target.items, items)
    elif type(target) is list:
        target.extend(items)
    else:
        raise refusal("unsafe-pickle", f"the pickle appends to {_shown(target)}")


def _extended(held: list[Any], items: list[Any]) -> list[Any]:
    held.extend(items)
    return held


MAX_ARGUMENTS: Final = 1000
"""Values among the arguments of a class that is called, those in lists and tuples included."""
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset})
_BYTES: Final = frozenset({bytes, bytearray})
_FEW_BYTES: Final = 16
"""Those of a date, of a UUID; too few for a pickle that does harm."""
_LIBRARIES: Final = ("torch.", "numpy.")
"""What these have pickle write for instances of their own classes is listed, all of it."""


def _made_by_its_class(name: str, args: tuple[Any, ...]) -> Any:
    """An instance of a class that is called: what it holds, where it is a kind of dictionary or list."""
    if len(args) != 1 or args == ((),) or type(args[0]) in (Named, Class, Function, Record):  # of a defaultdict, those
        return Record(name, args)
    if isinstance(args[0], dict | list):
        return Record(name, items=args[0].copy())
    return Member(name, args[0])


_HARMLESS_STANDARD: Final = frozenset({"__main__", "enum", "string", "calendar", "uuid", "statistics", "typing"})
_WORDS: Final = re.compile(
    r"(?=.{0,64}\Z)(?!/|.*(\.\.|//))([\w.+:/=%@#-]*|\w[\w.+:/=%@#-]*(,? [\w%@#][\w.+:/=%@#-]*)+)"
)
"""Text that is no command, no path from the root and no address."""


@lru_cache(maxsize=1024)
def _is_class_name(name: str) -> bool:
    """Whether a full name reads as that of a class that is no part of Python's own library."""
    root = name.partition(".")[0]
    standard = root in sys.stdlib_module_names and root not in _HARMLESS_STANDARD
    return name.rpartition(".")[2].lstrip("_")[:1].isupper() and not standard and not terms.reaches_system(name)


def _is_member(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is one that pickle writes for the member of an Enum: a class of one number, a few words, a
    type, or several of them."""
    if len(args) != 1 or not _is_class_name(name):
        return False
    values = args[0] if type(args[0]) is tuple and len(args[0]) <= 16 else args
    own = name.partition(".")[0] not in ("torch", "numpy")
    return all(
        type(value) in (int, bool, float)
        or (own and (value is None or type(value) in (DType, Device)))
        or (own and type(value) is str and _WORDS.fullmatch(value) is not None)
        for value in values
    )


# --- walking the result -----------------------------------------------------------------------------------------------

_CONTAINERS: Final = frozenset({tuple, list, dict, OrderedMapping, Record, set, frozenset, Array})


def _measure(value: object, limits: Limits) -> None:
    """Check how many values and levels a value has, a shared part counted wherever it is referred to.

    Each container is walked once, so this takes linear time even where the result would be exponential.
    """
    _Measure(limits).walk(value, 0)


class _Measure:
    __slots__ = ("known", "limits", "open", "record")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.known: dict[int, tuple[int, int]] = {}
        """Values and levels by the containers' `id`."""
        self.open: dict[int, int] = {}
        """Those that are being measured, and how deep they lie."""
        self.record = -1
        """How deep the innermost record lies that is being measured."""

    def walk(self, value: object, level: int) -> tuple[int, int]:
        if type(value) not in _CONTAINERS:
            return 1, 0
        if (outer_level := self.open.get(id(value))) is not None:
            if self.record < outer_level:
                raise refusal("pickle-bomb", "a value of the pickle contains itself")
            return 1, 0  # an object may refer to itself
        found = self.known.get(id(value))
        if found is None:
            if level == MAX_NESTING:
                raise refusal("pickle-bomb", f"the pickle nests more than {MAX_NESTING} levels deep")
            outer = self.record
            if type(value) is Record:
                self.record = level
            self.open[id(value)] = level
            found = self.known[id(value)] = self.walk_items(children(value), level + 1)
            del self.open[id(value)]
            self.record = outer
        if level + found[1] > MAX_NESTING:
            raise refusal("pickle-bomb", f"the pickle nests more than {MAX_NESTING} levels deep")
        return found

    def walk_items(self, items: Any, level: int) -> tuple[int, int]:
        values, levels = 1 + len(items), 0
        if not _CONTAINERS.isdisjoint(map(type, items)):
            for item in items:
                kind = type(item)
                if kind not in _CONTAINERS or values > self.limits.values:
                    continue
                if kind is dict and level < MAX_NESTING and _CONTAINERS.isdisjoint(map(type, item.values())):
                    values += 1 + len(item)  # as below, in less time
                    levels = levels or 1
                else:
                    inner_values, inner_levels = self.walk(item, level)
                    values += inner_values
                    levels = max(levels, inner_levels)
        if values > self.limits.values:
            raise refusal(
                "pickle-bomb",
                f"the pickle holds more than {self.limits.values:,} values, shared ones counted each time",
            )
        return values, levels + 1


def children(value: Any) -> Any:
    """What a container holds; keys of dictionaries are no containers that can be walked far."""
    if type(value) is Record:
        return (value.args, value.state, value.items)
    if type(value) is Array:
        return value.data if type(value.data) is list else ()
    return value.values() if isinstance(value, dict) else value


def _places(value: Any) -> dict[str, tuple[str, ...]]:
    """Where classes and functions stand that are no values, by name: the first few places of each."""
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    waiting: list[tuple[Any, tuple[str, Any] | None]] = [(value, None)]
    while waiting:
        item, where = waiting.pop()
        kind = type(item)
        name = item.class_name if kind in (Record, Member) else item.name if kind is Named else ""
        if name and len(known := found.setdefault(name, [])) < MAX_PLACES:
            known.append(_path(where))
        if kind in _CONTAINERS and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(reversed([(each, (part, where)) for part, each in _parts(item)]))
    return {name: tuple(dict.fromkeys(filter(None, places))) for name, places in found.items()}


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds, with the piece of a path that leads there."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f".{key}" if type(key) is str else f"[{_shown(key)}]", item
            if type(key) in (Named, Member, Record):
                yield "", key
    elif type(value) is Record:
        for part in (value.args, value.items, value.state):
            yield "", part
    else:
        for index, item in enumerate(children(value)):
            yield f"[{index}]" if type(value) in (tuple, list) else "", item


def _path(where: Any) -> str:
    """A place in words: `optimizer.state[0]`."""
    pieces: list[str] = []
    while where is not None:
        pieces.append(where[0][:80])
        where = where[1]
    text = "".join(reversed(pieces)).removeprefix(".")
    return text if len(text) <= 120 else f"{text[:117]}…"


# --- refusing ---------------------------------------------------------------------------------------------------------


def _told(places: tuple[str, ...]) -> str:
    return f" (in {', '.join(ascii(place)[1:-1] for place in places)})" if places else ""


def _shown_name(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}…"


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
    if isinstance(value, Function | Class | Named):
        return value.name
    if isinstance(value, Record):
        return f"an instance of {_shown_name(value.class_name)}"
    if type(value) is Member:
        return f"{_shown_name(value.class_name)}.{str(value.value)[:80]}"
    if type(value) is str:
        return repr(value) if len(value) <= 80 else repr(value[:80]) + "…"
    if type(value) is int and value.bit_length() < 200:
        return repr(value)
    return f"a {type(value).__name__}"


__all__ = [
    "Array", "DType", "Device", "Limits", "Member", "Named", "NumpyType", "OrderedMapping", "OtherTensor", "PathParts",
    "Pickled", "Record", "Storage", "Tensor", "children", "read_pickle",
]  # fmt: skip
