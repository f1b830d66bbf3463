"""Values of a pickle in plain form: what JSON can hold, bounded, and the same each time."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ckptman.formats.pickle_reader import read_pickle
from ckptman.formats.pickled import Array, Member, NumpyType, PathParts, Record, Storage, Tensor
from ckptman.formats.plain_values import MAX_LEVELS, MAX_TEXT, MAX_VALUES, Plain, as_mapping, kind_of, spelled
from ckptman.text.errors import RefusedError
from tests.helpers import contents

VIEW = Tensor(Storage("0", "float32", 4, 6), "float32", 4, 0, (2, 3), (3, 1))
PAIRS: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (3, 3),
    (-0.0, -0.0),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (math.nan, "NaN"),
    ("größe", "größe"),
    (1 << 8_000, 1 << 8_000),
    (1 << 20_000, "<int of 20,001 bits>"),
    ((1, (2, [3])), [1, [2, [3]]]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({1: "a", (1, 2): "b", None: "c"}, {"1": "a", "[1, 2]": "b", "None": "c"}),
    (b"abc", "abc"),
    (b"\0\xff", "00ff"),
    ("ä".encode(), "ä"),
    (bytearray(b"xy"), [120, 121]),
    (1 + 2j, "1+2j"),
    (range(3), [0, 1, 2]),
    (range(2000), "<range>"),
    (slice(1, 2), {"slice_start": 1, "slice_step": None, "slice_stop": 2}),
    ({10, 9}, [9, 10]),
    ({True: 1}, {"true": 1}),
    (..., "Ellipsis"),
    (datetime.date(2026, 3, 10), "2026-03-10"),
    (datetime.timedelta(days=1), "1 day, 0:00:00"),
    (decimal.Decimal("1.10"), "1.10"),
    (Member("a.Mode", "mix"), "mix"),
    (Member("a.Mode", "MIX", by_name=True), "MIX"),
    (PathParts(("/", "a", "b"), of_windows=False), "/a/b"),
    (VIEW, "<tensor float32 [2, 3]>"),
    (Array(NumpyType("f8"), (1,), bytes(8)), 0.0),
    (Array(NumpyType("i1"), (3,), b"\1\2\xff"), [1, 2, -1]),
    (Array(NumpyType("f8"), (2, 2), bytes(32)), "<array f8 [2, 2]>"),
    (Record("a.Config", state={"x": 1, "y": {"z": (1,)}}), {"x": 1, "y": {"z": [1]}}),
    (Record("a.Slots", state=(None, {"x": 1})), {"x": 1}),
    (Record("a.Point", args=(1, 2.5)), [1, 2.5]),
    (Record("a.Kind", items=[1, 2]), [1, 2]),
    (Record("a.Built", args=(3,), called=True), [3]),
    (Record("a.Own", state=7), "<a.Own>"),
    (Record("uuid.UUID", state={"int": 1}), str(uuid.UUID(int=1))),
]


@pytest.mark.parametrize(("value", "plain"), PAIRS, ids=lambda value: type(value).__name__)
def test_each_kind_of_value(value: Any, plain: Any) -> None:
    found = Plain("value").value(value)
    assert found == plain
    assert type(found) is type(plain)
    json.dumps(found, allow_nan=False)


@pytest.mark.filterwarnings("ignore")
def test_every_content_has_a_plain_form() -> None:
    with contents.modules(*contents.CLASSES):
        for name, make in contents.CONTENTS.items():
            plain = Plain("value").value(read_pickle(pickled(make())).value)
            assert json.loads(json.dumps(plain, allow_nan=False)) == plain, name


def pickled(value: Any) -> bytes:
    import io
    import zipfile

    buffer = io.BytesIO()
    torch.save({"a": value}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


def test_a_number_in_a_tensor_is_read() -> None:
    one = VIEW._replace(shape=(1,), stride=(1,))
    assert Plain("value", lambda tensor: 2.5).value([one, VIEW]) == [2.5, "<tensor float32 [2, 3]>"]
    assert Plain("value", lambda tensor: None).value(one) == "<tensor float32 [1]>"
    assert Plain("value").value(one) == "<tensor float32 [1]>"


def test_what_contains_itself_ends() -> None:
    record = Record("a.Node", state={})
    record.state["self"] = record
    assert Plain("value").value(record) == {"self": "<a.Node>"}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_lies_deep_is_named() -> None:
    text = json.dumps(Plain("value").value(nested(MAX_LEVELS)))
    assert text.count("[") == MAX_LEVELS
    assert json.dumps(Plain("value").value(nested(MAX_LEVELS + 5))).endswith('"<list of 1>"' + "]" * MAX_LEVELS)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda count: [0] * (MAX_VALUES // 10 * count), "values"),
        (lambda count: ["a" * (MAX_TEXT // 10)] * count, "characters"),
        (lambda count: {"k" * (MAX_TEXT // 10) + str(i): 0 for i in range(count)}, "characters"),
        (lambda count: [b"a" * (MAX_TEXT // 10)] * count, "characters"),
        (lambda count: [PathParts(("a" * (MAX_TEXT // 10),), of_windows=False)] * count, "characters"),
    ],
)
def test_limits_on_all_values_together(make: Callable[[int], Any], told: str) -> None:
    assert Plain("value").value(make(9))
    with pytest.raises(RefusedError, match=told) as error:
        Plain("its_key").value(make(11))
    assert error.value.code == "bad-field"
    assert "its_key" in error.value.message


def test_what_is_a_mapping() -> None:
    assert as_mapping({"a": 1}) == {"a": 1}
    assert as_mapping(Record("a.B", state={"a": 1})) == {"a": 1}
    assert as_mapping(Record("a.D", items={"a": 1})) == {"a": 1}
    chain = Record("collections.ChainMap", state={"maps": [{"a": 1}, {"a": 2, "b": 3}]})
    assert dict(as_mapping(chain) or {}) == {"a": 1, "b": 3}
    for other in (1, "a", [1], None, Record("a.L", items=[1]), Record("a.C", args=(1,), called=True)):
        assert as_mapping(other) is None


def test_names_of_kinds_and_spellings() -> None:
    assert kind_of({1: 2}) == "<dict of 1>"
    assert kind_of(pathlib.PurePath) == "<type>"
    assert spelled(1.5) == 1.5
    zone = Record("zoneinfo.ZoneInfo._unpickle", args=("Europe/Berlin", True))
    assert Plain("value").value(zone) == str(zoneinfo.ZoneInfo("Europe/Berlin"))
