"""Instances that pickle makes by a call of their class: of subclasses of what has a way of its own to be pickled."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import functools
import inspect
import io
import os
import platform
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ckptman.formats.pickle_reader import read_pickle
from ckptman.formats.pickled import Foreign, Member, Named, Record
from ckptman.text.errors import RefusedError
from tests.helpers import contents, hostile
from tests.helpers.timed import in_time

HERE = "trainer.kinds"


def pickle_of(value: object, **options: Any) -> bytes:
    """The pickle that `torch.save` writes for a value."""
    with zipfile.ZipFile(io.BytesIO(hostile.saved(value, **options))) as archive:
        return archive.read("archive/data.pkl")


def kind_of(*bases: type) -> Any:
    """A class of a trainer."""
    return contents.placed(type(f"{bases[0].__name__.title()}Kind", bases, {}), HERE)


KINDS = {
    base: kind_of(base)
    for base in (
        collections.OrderedDict, collections.defaultdict, collections.Counter, collections.deque, set, frozenset,
        datetime.datetime, decimal.Decimal, bytearray, Exception,
    )
}  # fmt: skip
Enums: Any = [
    contents.placed(enum.Enum(f"Choice{number}", {"A": enum.member(value)}), HERE)
    for number, value in enumerate((
        torch.nn.ReLU, functools.partial(torch.nn.functional.gelu), {"lr": 1e-3, "root": "/d"}, ["lr", 1e-3],
        decimal.Decimal("1.5"), frozenset({1}), b"abc", (1, (2, 3)), datetime.timedelta(hours=1), 1j, "top-1 @ 10 %",
        "org/model", "relu#2", "lr=1e-3",
    ))
]  # fmt: skip


@pytest.fixture(autouse=True)
def their_modules() -> Iterator[None]:
    with contents.modules(*contents.CLASSES):
        yield


MADE: dict[str, tuple[Any, Any]] = {
    "ordered dictionary": (KINDS[collections.OrderedDict](a=1, b="/x"), {"a": 1, "b": "/x"}),
    "dictionary with a factory": (KINDS[collections.defaultdict](list, {"a": [1]}), {"a": [1]}),
    "dictionary without one": (KINDS[collections.defaultdict](None, {"a": [1]}), {"a": [1]}),
    "Counter": (KINDS[collections.Counter]("aab"), {"a": 2, "b": 1}),
    "deque": (KINDS[collections.deque]([1, 2]), [1, 2]),
    "deque with a length": (KINDS[collections.deque]([1, 2], 5), [1, 2]),
    "set": (KINDS[set]({1}), [1]),
    "frozenset": (KINDS[frozenset]({"a"}), ["a"]),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", MADE)
def test_what_it_holds_is_read(name: str, protocol: int) -> None:
    value, expected = MADE[name]
    pickled = read_pickle(pickle_of({"meter": value}, pickle_protocol=protocol))
    found = pickled.value["meter"]
    assert (type(found), found.class_name, found.items) == (Record, f"{HERE}.{type(value).__name__}", expected)
    assert pickled.foreign == (Foreign(found.class_name, "instance", ("meter",)),)


@pytest.mark.parametrize("member", [next(iter(each)) for each in Enums], ids=lambda member: type(member).__name__)
def test_members_of_enums_have_values_of_every_kind(member: Any) -> None:
    pickled = read_pickle(pickle_of([member]))
    found = pickled.value[0]
    assert type(found) in (Record, Member)
    assert [each.name for each in pickled.foreign] == [f"{HERE}.{type(member).__name__}"]
    plain = {dict, list, bytes, str, complex, tuple, frozenset, decimal.Decimal, datetime.timedelta}
    if type(member.value) in plain:
        assert (found.items if type(found) is Record else found.value) == member.value


@pytest.mark.parametrize(
    "value",
    [
        KINDS[datetime.datetime](2026, 3, 10), KINDS[decimal.Decimal]("1.5"), KINDS[bytearray](b"abc"),
        KINDS[Exception]("loss is nan", 3),
    ],
)  # fmt: skip
def test_others_are_kept_inert(value: Any) -> None:
    found = read_pickle(pickle_of([value])).value[0]
    assert found.class_name == f"{HERE}.{type(value).__name__}"


class Called:
    """Pickled as a call of something."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> Any:
        return KINDS[set], self.args


ODD = [
    ("rm -rf /",), ("touch x; id",), ("/etc/passwd",), ("../x",), ("http://x",), ("__import__('os')",),
    (["sh", "-c x;y"],), ({"a"}, "a;b"), (b"cos\nsystem\n(S'id'\ntR.",), ([["a", ["$(id)"]]],), ("a" * 65,),
    (list(range(2000)),),
]  # fmt: skip


@pytest.mark.parametrize("args", ODD, ids=repr)
def test_text_that_may_be_a_command_is_refused(args: tuple[Any, ...]) -> None:
    with pytest.raises(RefusedError, match=rf"calls {HERE}\.SetKind \(in \[0\]\)"):
        read_pickle(pickle_of([Called(*args)]))
    assert read_pickle(pickle_of([Called(["a", "b c"])])).value[0].items == ["a", "b c"]


@pytest.mark.parametrize(
    "name", ["trainer.kinds\nmake", "subprocess\nPopen", "collections\nChainMap", "torch.nn.modules.linear\nLinear"]
)
def test_functions_and_classes_of_libraries_are_refused_all_the_same(name: str) -> None:
    def call(name: str) -> bytes:
        return hostile.pickle(b"c", name.encode(), b"\n", hostile.tuple_(hostile.number(1), hostile.number(2)), b"R")

    with pytest.raises(RefusedError, match=r"calls|asks for"):
        read_pickle(call(name))
    assert read_pickle(call("trainer.kinds\nMake")).value.args == (1, 2)


def test_shared_arguments_cost_little_time() -> None:
    start = b"ctrainer\nMeter\n" + hostile.put(0) + b"](" + hostile.number(1) * 990 + b"e\x85" + hostile.put(1)
    data = hostile.pickle(b"(", start, b"h\0h\1R" * 200_000, b"t")

    def read() -> None:
        with pytest.raises(RefusedError, match="the limit for"):
            read_pickle(data)

    in_time(read)


def test_methods_by_their_instance_are_names() -> None:
    class Schedule:
        def warm(self, step: int) -> float:
            return 1.0

    contents.placed(Schedule, HERE)
    try:
        with contents.modules(Schedule):
            pickled = read_pickle(pickle_of({"lr": Schedule().warm}))
    finally:
        contents.CLASSES.remove(Schedule)
    assert pickled.value == {"lr": Named(f"{HERE}.Schedule.warm")}
    made = b"ctrainer\nOuter\n)\x81"
    for name, is_read in (("warm", True), ("system", False), ("__class__", False)):
        data = hostile.pickle(b"c__builtin__\ngetattr\n(", made, hostile.text(name), b"tR")
        if is_read:
            assert read_pickle(data).value == Named("trainer.Outer.warm")
        else:
            with pytest.raises(RefusedError):
                read_pickle(data)


HARMLESS = [
    platform.uname(), os.uname(), os.stat("/"), os.times(), os.statvfs("/"), io.BytesIO(b"abc"), io.StringIO("abc"),  # noqa: PTH116
    inspect.Parameter.empty, int | None, torch.ones(2, 3).max(1), torch.ones(5).topk(2),
]  # fmt: skip


@pytest.mark.parametrize("value", HARMLESS, ids=lambda value: type(value).__name__)
def test_what_people_keep_of_the_machine_and_of_torch_is_no_reason_to_refuse(value: Any) -> None:
    for protocol in (2, 4):
        assert not read_pickle(pickle_of({"kept": value}, pickle_protocol=protocol)).foreign


def test_the_calls_of_those_with_other_arguments_are_refused() -> None:
    for name in (
        "functools\nreduce",
        "torch.return_types\nmax",
        "_io\nBytesIO",
        "_functools\nreduce",
        "_io\nFileIO",
        "inspect\n_empty",
    ):
        with pytest.raises(RefusedError):
            read_pickle(hostile.pickle(b"c", name.encode(), b"\n", hostile.tuple_(hostile.text("a")), b"R"))
