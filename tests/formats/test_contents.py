"""What people keep in checkpoints is read as torch reads it, value by value, in every protocol."""

from __future__ import annotations

import array
import collections
import datetime
import enum
import io
import math
import pathlib
import re
import types
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from ckptman.formats.pickle_reader import read_pickle
from ckptman.formats.pickled import (
    Array,
    Device,
    DType,
    Member,
    Named,
    NumpyType,
    OtherTensor,
    PathParts,
    Pickled,
    Record,
    Tensor,
)
from ckptman.training import loading
from tests.helpers import contents


class Comparison:
    """Compares what was read of a file with what torch made of it."""

    def __init__(self, content: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            self.pickled: Pickled = read_pickle(archive.read("archive/data.pkl"))
            self.storages = {
                key: loading._storage(memoryview(bytearray(archive.read(f"archive/data/{key}"))))
                for key in self.pickled.storages
            }
        self.seen: set[tuple[int, int]] = set()

    def check(self, found: Any, value: Any, where: str = "value") -> None:
        """Assert that they mean the same."""
        if (id(found), id(value)) in self.seen:
            return
        if isinstance(found, Record | dict | list):
            self.seen.add((id(found), id(value)))
        for kinds, check in self.checks():
            if isinstance(value, kinds):
                check(found, value, where)
                return
        self.check_object(found, value, where)

    def checks(self) -> Iterator[tuple[Any, Any]]:
        yield torch.Tensor, self.check_tensor
        yield np.ndarray, self.check_array
        yield np.generic, self.check_scalar
        yield enum.Enum, self.check_member
        yield (type, types.FunctionType, types.BuiltinFunctionType), self.check_name
        yield (torch.dtype, torch.device, torch.layout, torch.memory_format, pathlib.PurePath), self.check_text
        yield np.dtype, self.check_dtype
        yield float, self.check_float
        yield datetime.datetime, self.check_moment
        yield dict, self.check_dict
        yield tuple, self.check_tuple
        yield (list, collections.deque), self.check_list

    def check_tensor(self, found: Any, value: Any, where: str) -> None:
        if isinstance(value, torch.nn.UninitializedParameter):
            assert (type(found), found.kind) == (OtherTensor, "uninitialized")
            return
        assert f"torch.{found.dtype}" == str(value.dtype), where
        if value.is_nested:
            assert found.shape == (value.size(0),), where
            assert found.kind == ("jagged" if value.layout is torch.jagged else "nested"), where
            self.check(found.parts[0], value.values(), where)
            return
        assert found.shape == tuple(value.shape), where
        built = loading._tensor(found, self.storages)
        assert (built.dtype, built.layout) == (value.dtype, value.layout), where
        if value.device.type == "meta":
            assert built.device.type == "meta"
            assert built.stride() == value.stride()
        elif value.layout is not torch.strided or value.is_quantized:
            assert str(built) == str(value.detach()), where
        else:
            assert built.stride() == value.stride(), where
            assert (built.is_conj(), built.is_neg()) == (value.is_conj(), value.is_neg()), where
            assert bytes_of(built) == bytes_of(value.detach().as_subclass(torch.Tensor)), where

    def check_array(self, found: Any, value: Any, where: str) -> None:
        if isinstance(value, np.ma.MaskedArray):
            value = value.data
        assert type(found) is Array, where
        assert found.shape == value.shape, where
        if value.dtype.hasobject:
            self.check(found.data, list(value.ravel()), where)
            return
        self.check_dtype(found.dtype, value.dtype, where)
        order: Any = "F" if found.fortran else "C"
        there = value.dtype.newbyteorder(found.dtype.order) if value.dtype.kind in "iufc" else value.dtype
        built = np.frombuffer(bytes(found.data), there).reshape(value.shape, order=order).astype(value.dtype)
        assert built.tobytes() == value.tobytes(), where
        if value.dtype.kind in "biufcUS" and value.dtype.char not in "gG":
            assert found.values() == list(value.ravel(order=order)), where

    def check_scalar(self, found: Any, value: Any, where: str) -> None:
        if type(found) is Array:
            assert value.dtype.kind in "mMV" or value.dtype.char == "g", where
            assert found.data == value.tobytes(), where
        else:
            self.check(found, value.item(), where)

    def check_member(self, found: Any, value: Any, where: str) -> None:
        if type(found) is Member and found.by_name:
            assert found.value == value.name, where
        elif type(found) is Record:  # several flags at once are a call of or_
            assert isinstance(value, enum.Flag), where
        else:
            self.check(found.value, value.value, where)
        assert found.class_name == f"{type(value).__module__}.{type(value).__qualname__}", where

    def check_name(self, found: Any, value: Any, where: str) -> None:
        module = value.__module__
        assert found.name.rpartition(".")[2] == value.__name__, where
        assert found.name.partition(".")[0] == module.partition(".")[0], where

    def check_text(self, found: Any, value: Any, where: str) -> None:
        assert type(found) in (DType, Device, PathParts, Named), where
        assert str(found) == str(value), where

    def check_dtype(self, found: Any, value: Any, where: str) -> None:
        assert type(found) is NumpyType, where
        assert found.itemsize == value.itemsize, where
        assert np.dtype(found.code).kind == value.kind, where

    def check_float(self, found: Any, value: Any, where: str) -> None:
        assert type(found) is float, where
        assert math.copysign(1, found) == math.copysign(1, value), where
        assert found == value or (math.isnan(found) and math.isnan(value)), where

    def check_moment(self, found: Any, value: Any, where: str) -> None:
        assert type(found) is type(value), where
        zone = value.tzinfo if isinstance(value.tzinfo, datetime.timezone) else None  # those by name are left out
        assert (found, found.tzinfo) == (value.replace(tzinfo=zone), zone), where
        assert found.fold == value.fold, where

    def check_dict(self, found: Any, value: Any, where: str) -> None:
        if type(found) is Record:
            assert type(value) not in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict), (
                where
            )
            assert found.class_name == f"{type(value).__module__}.{type(value).__qualname__}", where
            self.check(found.state, vars(value) or None, f"{where}.state")
            found = found.items or {}
        assert len(found) == len(value), where
        for (found_key, found_item), (key, item) in zip(found.items(), value.items(), strict=True):
            self.check(found_key, key, f"a key of {where}")
            self.check(found_item, item, f"{where}.{key}")

    def check_tuple(self, found: Any, value: Any, where: str) -> None:
        if type(found) is Record:
            assert type(value) is not tuple, where
            found = found.args[0] if len(found.args) != len(value) else found.args
        assert type(found) is tuple, where
        self.check_items(found, value, where)

    def check_list(self, found: Any, value: Any, where: str) -> None:
        assert type(found) is list, where
        self.check_items(found, value, where)

    def check_items(self, found: Any, value: Any, where: str) -> None:
        assert len(found) == len(value), where
        for index, (found_item, item) in enumerate(zip(found, value, strict=True)):
            self.check(found_item, item, f"{where}[{index}]")

    def check_object(self, found: Any, value: Any, where: str) -> None:
        """A value of Python; or a record: its name, and the state that the object itself gives."""
        if type(found) is Named:  # list[int]
            assert str(value).startswith(found.name.removeprefix("builtins.")), where
            return
        if type(found) is not Record:
            assert type(found) is (str if isinstance(value, str) else type(value)), where
            assert found == value, where
            return
        if isinstance(value, re.Pattern):
            assert found.args == (value.pattern, value.flags), where
            return
        state = value.__reduce_ex__(2)
        names = (f"{type(value).__module__}.{type(value).__qualname__}", f"{state[0].__module__}.{state[0].__name__}")
        assert found.class_name.lstrip("_") in [name.lstrip("_") for name in names], where
        self.check(found.state, state[2] if len(state) > 2 else None, f"{where}.state")
        if found.called or found.class_name == names[1]:
            self.check(found.args, state[1], f"{where}.args")


def bytes_of(tensor: torch.Tensor) -> bytes:
    """The elements' bytes."""
    whole = tensor.resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    return whole.view(torch.uint8).numpy().tobytes()


def saved(value: Any, protocol: int) -> bytes:
    buffer = io.BytesIO()
    torch.save({"content": value}, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def their_modules() -> Iterator[None]:
    with contents.modules(*contents.CLASSES):
        yield


def test_there_are_many() -> None:
    assert len(contents.CONTENTS) > 150


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", contents.CONTENTS)
def test_read_as_torch_reads_it(name: str) -> None:
    for protocol in (2, 3, 4, 5):
        content = saved(contents.CONTENTS[name](), protocol)
        comparison = Comparison(content)
        value = torch.load(io.BytesIO(content), weights_only=False)
        comparison.check(comparison.pickled.value, value)


def test_the_comparison_finds_what_is_not_the_same() -> None:
    comparison = Comparison(saved({"a": [1, 2.0], "w": torch.ones(2)}, 2))
    value = torch.load(io.BytesIO(saved({"a": [1, 2.0], "w": torch.ones(2)}, 2)))
    comparison.check(comparison.pickled.value, value)
    others = ({"a": [1, 2]}, {"a": [1, -2.0]}, {"a": (1, 2.0)}, {"a": [1]}, {"b": [1, 2.0]}, {"w": torch.zeros(2)})
    for other in others:
        changed = {"content": {**value["content"], **other}}
        comparison.seen.clear()
        with pytest.raises(AssertionError):
            comparison.check(comparison.pickled.value, changed)
    assert type(comparison.pickled.value["content"]["w"]) is Tensor
    assert array.array("d", [1.0]) != array.array("d", [2.0])
