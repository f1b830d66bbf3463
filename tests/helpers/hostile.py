"""Files named `.pt` that a checkpoint reader must survive, made by code that says what is wrong with each.

`hostile_checkpoints()` gives all of them, with the code each is refused with; `archive` and `pickle` build more.
"""

from __future__ import annotations

import io
import os
import pickle as stdlib_pickle
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

STOP = stdlib_pickle.STOP
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"


@dataclass(frozen=True)
class Hostile:
    """A file that has to be refused, and the code to refuse it with."""

    name: str
    content: bytes
    code: str

    def write(self, folder: Path) -> Path:
        """Write it below `folder`."""
        path = folder / f"{self.name}.pt"
        path.write_bytes(self.content)
        return path


# --- good ones, to break ----------------------------------------------------------------------------------------------


def good_dict() -> dict[str, Any]:
    """A small checkpoint of form A with everything in it."""
    weight = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    step = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3, 4), "exp_avg_sq": torch.zeros(3, 4)}
    return {
        "itr": 2,
        "iters_done": 3,
        "train_config": {"n_layers": 1, "learning_rate": 1e-4, "length_mode": "mix", "wandb_mode": None},
        "model_config": {"block_size": 4},
        "model": {"wte.weight": weight, "lm_head.weight": weight, "bias": torch.zeros(4)},
        "optimizer": {"state": {0: step}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95), "params": [0]}]},
    }


def saved(value: object, **options: Any) -> bytes:
    """What `torch.save` writes for a value."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def good() -> bytes:
    """A small checkpoint, as torch writes it."""
    return saved(good_dict())


class Payload:
    """An object whose pickle, when executed, makes the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


# --- archives ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One entry of a zip archive; what is not given is as it should be."""

    name: str | bytes
    data: bytes
    method: int = 0
    flags: int = 0x0808
    crc: int | None = None
    size: int | None = None
    """As the directory gives it."""
    packed: int | None = None
    local_name: bytes | None = None
    local_size: int = 0
    local_method: int | None = None
    offset: int | None = None
    """Where the directory says that the local header is."""
    padding: int = 0
    gap: bytes = b""
    """Bytes after the entry that belong to nothing."""
    comment: bytes = b""
    descriptor: bool = True
    attributes: int = 0

    @property
    def full_name(self) -> bytes:
        """The name as bytes."""
        return self.name if isinstance(self.name, bytes) else self.name.encode()


@dataclass(frozen=True)
class End:
    """The end of a zip archive; what is not given is as it should be."""

    count: int | None = None
    start: int | None = None
    size: int | None = None
    count_64: int | None = None
    start_64: int | None = None
    size_64: int | None = None
    locator: int | None = None
    rest_64: int = 44
    disk: int = 0
    zip64: bool = True
    before: bytes = b""
    comment: bytes = b""
    after: bytes = b""


def build_zip(entries: Iterable[Entry], end: End | None = None) -> bytes:
    """A zip archive as torch lays it out, with whatever faults the entries and the end have."""
    end = end or End()
    body, directory = bytearray(end.before), bytearray()
    count = 0
    for entry in entries:
        name, crc = entry.full_name, zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed = size if entry.packed is None else entry.packed
        local_name = name if entry.local_name is None else entry.local_name
        local_method = entry.method if entry.local_method is None else entry.local_method
        stated = (0, entry.local_size, entry.local_size) if entry.flags & 8 else (crc, packed, size)
        header = struct.pack(
            "<4sHHHIIIIHH", b"PK\3\4", 0, entry.flags, local_method, 0, *stated, len(local_name), entry.padding
        )
        offset = len(body) if entry.offset is None else entry.offset
        body += header + local_name + bytes(entry.padding) + entry.data
        if entry.descriptor:
            body += struct.pack("<4sIII", b"PK\7\x08", crc, packed, size)
        body += entry.gap
        directory += struct.pack(
            "<4sHHHHIIIIHHHHHII", b"PK\1\2", 0, 0, entry.flags, entry.method, 0, crc, packed, size, len(name), 0,
            len(entry.comment), 0, 0, entry.attributes, offset,
        )  # fmt: skip
        directory += name + entry.comment
        count += 1
    start, size = len(body), len(directory)
    whole = bytes(body + directory)
    if end.zip64:
        count_64, size_64, start_64 = (
            given if given is not None else right
            for given, right in ((end.count_64, count), (end.size_64, size), (end.start_64, start))
        )
        where = len(whole) if end.locator is None else end.locator
        whole += struct.pack("<4sQHHIIQQQQ", b"PK\6\6", end.rest_64, 0, 0, 0, 0, count_64, count_64, size_64, start_64)
        whole += struct.pack("<4sIQI", b"PK\6\7", 0, where, 1)
    count, size, start = (
        given if given is not None else right
        for given, right in ((end.count, min(count, 0xFFFF)), (end.size, size), (end.start, start))
    )
    whole += struct.pack("<4sHHHHIIH", b"PK\5\6", end.disk, 0, count, count, size, start, len(end.comment))
    return whole + end.comment + end.after


def archive(
    data: bytes | None = None, storages: dict[str, bytes] | None = None, *more: Entry, end: End | None = None
) -> bytes:
    """A torch archive around a pickle (default: one of a small dictionary of weights)."""
    if data is None:
        data, storages = weights_pickle(), {"0": bytes(8)}
    entries = [Entry("top/data.pkl", data), Entry("top/byteorder", b"little")]
    entries += [Entry(f"top/data/{key}", content) for key, content in (storages or {}).items()]
    return build_zip([*entries, *more, Entry("top/version", b"3\n")], end)


# --- pickles ----------------------------------------------------------------------------------------------------------


def pickle(*parts: bytes, protocol: int = 2) -> bytes:
    """A pickle from its instructions."""
    return b"\x80" + bytes([protocol]) + b"".join(parts) + STOP


def text(word: str) -> bytes:
    """The instruction that makes a string."""
    data = word.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The instruction that makes a whole number."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_(*items: bytes) -> bytes:
    """Instructions that make a tuple."""
    return b"(" + b"".join(items) + b"t"


def dict_(**items: bytes) -> bytes:
    """Instructions that make a dictionary."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def put(index: int) -> bytes:
    """The instruction that puts the last value in the memo."""
    return b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    """The instruction that gets a value from the memo."""
    return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)


def storage(key: str = "0", numel: int = 2, kind: str = "torch\nFloatStorage") -> bytes:
    """Instructions that refer to a storage."""
    return tuple_(text("storage"), b"c" + kind.encode() + b"\n", text(key), text("cpu"), number(numel)) + b"Q"


def tensor(
    size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,), *, offset: int = 0, of: bytes | None = None
) -> bytes:
    """Instructions that make a tensor."""
    sizes, strides = tuple_(*map(number, size)), tuple_(*map(number, stride))
    hooks = ORDERED_DICT + b")R"
    return REBUILD + tuple_(of or storage(), number(offset), sizes, strides, b"\x89", hooks) + b"R"


def weights_pickle(**more: bytes) -> bytes:
    """A checkpoint of one tensor with two elements."""
    return pickle(dict_(**{"iters_done": number(1), "model": dict_(weight=tensor()), **more}))


def call(function: str, *args: bytes) -> bytes:
    """Instructions that call a function."""
    return b"c" + function.replace(" ", "\n").encode() + b"\n" + tuple_(*args) + b"R"


def record(name: str = "__main__ TrainConfig", **fields: bytes) -> bytes:
    """Instructions that make an instance of a configuration class."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n)\x81" + dict_(**fields) + b"b"


def doubling(levels: int, width: int = 2) -> bytes:
    """A tuple of two tuples of two tuples …: `width` to the power of `levels` values in a few bytes a level."""
    instruction = {2: b"\x86", 3: b"\x87"}[width]
    return b")" + b"".join(put(i) + get(i) * (width - 1) + instruction for i in range(levels))


def hostile_pickles() -> dict[str, tuple[bytes, str]]:
    """Pickles to refuse, and the code of the refusal."""
    hooks = ORDERED_DICT + b")R"
    config = b"c__main__\nTrainConfig\n"
    unsafe = {
        "os-system": call("os system", text("true")),
        "eval": call("builtins eval", text("1")),
        "python2-eval": call("__builtin__ eval", text("1")),
        "getattr": call("builtins getattr", text("a"), text("b")),
        "torch-load": call("torch load", text("x")),
        "ordered-dict-with-items": call("collections OrderedDict", b"]"),
        "stack-global": text("os") + text("system") + b"\x93",
        "stack-global-of-numbers": number(1) + number(2) + b"\x93",
        "stack-global-with-line-break": text("collections\nOrderedDict") + text("") + b"\x93",
        "long-global": b"c" + b"a" * 1000 + b"\nb\n",
        "inst": b"(ios\nsystem\n",
        "obj": b"(cos\nsystem\no",
        "newobj-of-function": ORDERED_DICT + b")\x81",
        "extension": b"\x82\x01",
        "call-a-string": text("print") + b")R",
        "call-a-class": b"c__main__\nTrainConfig\n)R",
        "call-with-a-list": ORDERED_DICT + b"]R",
        "build-on-tensor": tensor() + b"}b",
        "build-on-dict": b"}}b",
        "build-ordered-dict-with-list": hooks + b"]b",
        "build-twice": b"c__main__\nTrainConfig\n)\x81}b}b",
        "text-persistent-id": b"P0\n",
        "persistent-id-that-is-no-tuple": text("storage") + b"Q",
        "persistent-id-of-another-kind": tuple_(text("module"), b"N", text("0"), text("cpu"), number(1)) + b"Q",
        "persistent-id-with-a-tuple": tuple_(text("storage"), ORDERED_DICT, text("0"), text("cpu"), number(1)) + b"Q",
        "negative-storage": storage(numel=-1),
        "dup": b"N" + stdlib_pickle.DUP,
        "int-as-text": b"I1\n",
        "long-as-text": b"L1L\n",
        "float-as-text": b"F1\n",
        "unicode-as-text": b"Va\n",
        "string-as-text": b"S'a'\n",
        "put-as-text": b"Np0\n",
        "get-as-text": b"Np0\ng0\n",
        "dict-from-mark": b"(d",
        "list-from-mark": b"(l",
        "buffer": b"\x97",
        "second-protocol": b"\x80\2N",
        "opcode-zero": b"\0",
        "opcode-255": b"\xff",
        "dict-as-key": b"}(}" + number(1) + b"u",
        "items-of-a-list": b"](" + text("a") + number(1) + b"u",
        "items-of-a-tensor": tensor() + text("a") + number(1) + b"s",
        "append-to-a-tuple": b")Na",
        "append-to-a-dict": b"}(Ne",
        "tensor-with-two-arguments": REBUILD + tuple_(storage(), number(0)) + b"R",
        "tensor-without-storage": REBUILD + tuple_(b"N", number(0), b")", b")", b"\x89", hooks) + b"R",
        "tensor-with-hooks": tensor()[: -len(b")RtR")] + b")R" + text("a") + number(1) + b"stR",
        "tensor-with-text-size": REBUILD
        + tuple_(storage(), number(0), tuple_(text("a")), tuple_(number(1)), b"\x89", hooks)
        + b"R",
        "tensor-with-65-dimensions": tensor((1,) * 65, (1,) * 65),
        "tensor-with-uneven-strides": tensor((2,), (1, 1)),
        "tensor-over-untyped-bytes": tensor(of=storage(kind="torch.storage\nUntypedStorage")),
        "tensor-v3-over-floats": call(
            "torch._utils _rebuild_tensor_v3", storage(), number(0), b")", b")", b"\x89", hooks, b"ctorch\nuint16\n"
        ),
        "parameter-of-text": call("torch._utils _rebuild_parameter", text("a"), b"\x88", hooks),
        "size-of-text": call("torch Size", text("a")),
        "device-of-number": call("torch device", number(1)),
        "path-of-number": call("pathlib PosixPath", number(1)),
        "path-of-100-kB": call("pathlib PosixPath", text("a" * 100_000)),
    }  # fmt: skip
    broken = {
        "nothing": b"",
        "two-values": b"NN",
        "open-mark": b"N(",
        "underflow": b"\x85",
        "underflow-below-mark": b"N(\x86",
        "tuple-without-mark": b"Nt",
        "items-without-mark": b"}u",
        "empty-memo": b"h\0",
        "memo-out-of-reach": b"Nq\0j" + struct.pack("<I", 1 << 31),
        "memo-out-of-order": b"Nq\5",
        "memo-twice": b"Nq\0Nq\0",
        "memo-far-out": b"Nr" + struct.pack("<I", (1 << 32) - 1),
        "memo-of-nothing": b"q\0",
        "not-utf-8": b"X" + struct.pack("<I", 1) + b"\xff",
        "key-without-value": b"}(" + text("a") + b"u",
        "key-twice": b"}(" + text("a") + number(1) + text("a") + number(2) + b"u",
        "key-twice-later": b"}" + text("a") + number(1) + b"s" + text("a") + number(2) + b"s",
        "second-pickle": b"N" + STOP + b"\x80\2N",
        "trailing-byte": b"N" + STOP,
    }
    bombs = {
        "doubled-tuple-as-key": b"}(" + doubling(60) + number(1) + b"u",
        "10000-keys-of-one-hash": b"}("
        + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(10_000)) + b"u",
        "20000-classes": b"(" + b"".join(b"cm\nC%d\n" % i for i in range(20_000)) + b"t",
        "copies-of-a-text": b"(c_codecs\nencode\n" + put(0) + tuple_(text("a" * 100_000), text("latin1")) + put(1)
        + b"h\0h\1R" * 1000 + b"t",
        "doubled-tuples": doubling(60),
        "doubled-tuples-of-three": doubling(20, 3),
        "doubled-lists": b"(]" + put(0) + b"".join(b"]" + put(i + 1) + (get(i) + b"a") * 2 for i in range(20)) + b"t",
        "wide-sharing": b"]" + put(0) + b"(" + b"N" * 1000 + b"e" + b"".join(
            b"\x85" + put(2 * i + 1) + b"]" + put(2 * i + 2) + b"(" + get(2 * i + 1) * 1000 + b"e\x86" for i in range(2)
        ),
        "deep-tuples": b")" + b"\x85" * 1000,
        "very-deep-tuples": b")" + b"\x85" * 500_000,
        "deep-lists": b"]" * 1000 + b"a" * 999,
        "deep-marks": b"(" * 1000 + b"t" * 1000,
        "deep-dicts": (b"}" + text("a")) * 1000 + b"N" + b"s" * 1000,
        "deep-records": config + put(0) + b")\x81" + (get(0) + b")\x81") * 300 + b"b" * 300,
        "dict-in-itself": b"}" + put(0) + text("a") + get(0) + b"s",
        "list-in-itself": b"]" + put(0) + get(0) + b"a",
        "huge-integer": b"\x8b" + struct.pack("<I", 5000) + b"\x7f" * 5000,
        "many-instructions": b"(" + b"N" * 1_048_000 + b"t",
        "many-dicts": b"(" + b"}" * 1_000_000 + b"t",
        "many-dicts-in-marks": (b"(" + b"}" * 32_000) * 31 + b"t" * 31,
        "many-dicts-as-attributes": hooks + b"}b" * 300_000,
        "many-calls": b"(" + ORDERED_DICT + put(0) + (get(0) + b")R") * 100_000 + b"t",
        "too-large": b"(" + b"N" * 1_100_000 + b"t",
    }  # fmt: skip
    tensors = {
        "tensor-past-its-storage": tensor((3,), (1,)),
        "tensor-with-a-large-offset": tensor(offset=1),
        "tensor-with-a-large-stride": tensor((2,), (1 << 40,)),
        "tensor-with-a-negative-size": tensor((-2,), (1,)),
        "tensor-with-a-negative-stride": tensor((2,), (-1,)),
        "tensor-with-a-negative-offset": tensor(offset=-1),
        "tensor-of-128-bit-size": tensor((1 << 100,), (0,)),
        "storage-of-two-sizes": tuple_(storage(numel=2), storage(numel=3)),
        "storage-of-two-types": tuple_(storage(), storage(kind="torch\nDoubleStorage")),
    }
    pickles = {name: (pickle(body), "unsafe-pickle") for name, body in unsafe.items()}
    pickles |= {name: (pickle(body), "broken-pickle") for name, body in broken.items()}
    pickles |= {name: (pickle(body), "pickle-bomb") for name, body in bombs.items()}
    pickles |= {name: (pickle(body), "bad-tensor") for name, body in tensors.items()}
    pickles["empty"] = (b"", "cut-pickle")
    pickles["cut"] = (weights_pickle()[:-9], "cut-pickle")
    pickles["cut-in-a-string"] = (pickle(b"X" + struct.pack("<I", 1 << 31)), "cut-pickle")
    pickles["cut-in-a-frame"] = (pickle(b"\x95" + struct.pack("<Q", 1 << 63)), "cut-pickle")
    pickles["cut-in-a-float"] = (b"\x80\2G\0", "cut-pickle")
    pickles["cut-in-a-global"] = (b"\x80\2ctorch", "cut-pickle")
    pickles["protocol-0"] = (b"(lp0\n.", "unsafe-pickle")
    pickles["protocol-1"] = (pickle(b"N", protocol=1), "unsafe-pickle")
    pickles["protocol-6"] = (pickle(b"N", protocol=6), "unsafe-pickle")
    return pickles


# --- files ------------------------------------------------------------------------------------------------------------


def hostile_archives() -> dict[str, tuple[bytes, str]]:
    """Archives to refuse, and the code of the refusal."""
    data = weights_pickle()
    first, zero = Entry("top/data.pkl", data), Entry("top/data/0", bytes(8))

    def with_pickle(**faults: Any) -> bytes:
        return build_zip([replace(first, **faults), zero])

    def with_entry(name: str | bytes, **faults: Any) -> bytes:
        return build_zip([first, zero, Entry(name, b"content", **faults)])

    def with_end(**faults: Any) -> bytes:
        return build_zip([first, zero], End(**faults))

    whole = build_zip([first, zero])
    deflated = zlib.compress(bytes(8))[2:-4]
    unsafe = {
        "name-above": with_entry("../evil"),
        "name-above-inside": with_entry("top/../../evil"),
        "name-absolute": with_entry("/etc/evil"),
        "name-with-backslash": with_entry("top\\..\\evil"),
        "name-with-nul": with_entry(b"top/a\0b"),
        "name-empty": with_entry(""),
        "name-of-a-folder": with_entry("top/folder/"),
        "name-in-another-folder": with_entry("other/data.pkl"),
        "name-without-folder": with_entry("data.pkl"),
        "name-not-utf-8": with_entry(b"top/\xff"),
        "folder-above": build_zip([replace(first, name="../data.pkl")]),
        "folder-absolute": build_zip([replace(first, name="/data.pkl")]),
        "folder-with-backslash": build_zip([replace(first, name="a\\b/data.pkl")]),
        "two-pickles": build_zip([first, zero, first]),
        "two-storages": build_zip([first, zero, zero]),
        "deflated-pickle": with_pickle(method=8),
        "deflated-storage": build_zip([first, Entry("top/data/0", deflated, method=8, size=8, packed=len(deflated))]),
        "stored-at-another-size": build_zip([first, replace(zero, packed=4)]),
        "encrypted": with_pickle(flags=0x0809),
        "strongly-encrypted": with_pickle(flags=0x0848),
        "deflated-by-its-own-header": with_pickle(local_method=8),
        "entry-comment": with_entry("top/x", comment=b"hello"),
        "bytes-before": with_end(before=b"#!/bin/sh\n"),
        "bytes-between": build_zip([replace(first, gap=b"hello"), zero]),
        "bytes-before-the-directory": build_zip([first, replace(zero, gap=b"hello")]),
        "bytes-for-a-descriptor": build_zip([replace(first, descriptor=False, gap=bytes(15) + b"\1"), zero]),
        "entry-over-another": build_zip([first, zero, Entry("top/data/1", bytes(8), offset=0)]),
        "entry-inside-another": build_zip([first, zero, Entry("top/data/1", bytes(8), offset=40)]),
        "entry-out-of-order": build_zip([first, replace(zero, offset=400), Entry("top/x", b"", offset=100)]),
        "several-disks": with_end(disk=1),
        "pickle-in-capitals-beside": with_entry("top/DATA.PKL"),
        "pickle-in-capitals-before": build_zip([replace(first, name="top/Data.pkl"), first, zero]),
        "storage-in-capitals-beside": with_entry("top/DATA/0"),
        "storage-in-capitals": build_zip([first, replace(zero, name="top/Data/0")]),
        "byte-order-in-capitals": with_entry("top/BYTEORDER"),
        "version-in-capitals": with_entry("top/Version"),
        "others-that-differ-in-case": build_zip([first, zero, Entry("top/a.json", b""), Entry("top/A.json", b"")]),
        "name-with-a-dot-at-its-end": with_entry("top/data.pkl."),
        "folder-with-a-space-at-its-end": with_entry("top/data /0"),
        "name-in-wide-letters": with_entry("top/\uff44ata.pkl"),
        "digit-in-another-script": with_entry("top/data/\uff10"),
        "name-composed-and-not": build_zip([first, zero, Entry("top/\xe9", b""), Entry("top/e\u0301", b"")]),
        "name-that-torch-cuts": with_entry("top/" + "x" * 600),
        "storage-that-is-a-folder": build_zip([first, replace(zero, attributes=0x10)]),
        "pickle-that-is-a-folder": with_pickle(attributes=0x10),
        "a-volume-label": with_pickle(attributes=0x08),
        "a-symbolic-link": with_pickle(attributes=0o120777 << 16),
        "a-folder-of-unix": with_pickle(attributes=0o040755 << 16),
    }
    broken = {
        "zeros-for-a-descriptor": build_zip([replace(first, descriptor=False, gap=bytes(16)), zero]),
        "entry-past-the-end": build_zip([first, replace(zero, size=1 << 20)]),
        "entry-of-4-GB": build_zip([first, replace(zero, size=0xFFFFFFFE)]),
        "entry-of-unknown-size": build_zip([first, replace(zero, size=0xFFFFFFFF)]),
        "entry-far-out": build_zip([first, replace(zero, offset=0x7FFFFFFF)]),
        "local-name-differs": with_pickle(local_name=b"top/data.pkX"),
        "local-name-longer": with_pickle(local_name=b"top/data.pkl/but/another"),
        "local-size-differs": with_pickle(local_size=7),
        "count-too-small": with_end(count=1, count_64=1),
        "count-too-large": with_end(count=3, count_64=3),
        "counts-differ": with_end(count=1),
        "directory-too-early": with_end(start=10, start_64=10),
        "directory-at-the-end-of-time": with_end(start=0xFFFFFFFF, start_64=(1 << 64) - 1),
        "directory-of-all-bytes": with_end(size=0xFFFFFFFF, size_64=(1 << 64) - 1),
        "directory-sizes-differ": with_end(size=1),
        "locator-elsewhere": with_end(locator=0),
        "first-entry-is-not-there": b"XX" + build_zip([zero, first])[2:],
        "zip64-record-too-long": with_end(rest_64=45),
        "no-zip64-where-it-is-needed": with_end(zip64=False, start=0xFFFFFFFF),
        "local-header-overwritten": b"XX" + whole[2:],
        "directory-overwritten": whole.replace(b"PK\1\2", b"PK\1\3"),
    }
    archives = {name: (content, "unsafe-archive") for name, content in unsafe.items()}
    archives |= {name: (content, "broken-archive") for name, content in broken.items()}
    archives["crc-of-the-pickle"] = (with_pickle(crc=1), "bad-crc")
    archives["crc-of-a-storage"] = (build_zip([first, replace(zero, crc=1)]), "bad-crc")
    archives["storage-changed"] = (whole.replace(bytes(8) + b"PK", bytes(7) + b"\1PK"), "bad-crc")
    archives["many-entries"] = (with_end(count=0xFFFF, count_64=1 << 40), "pickle-bomb")
    archives["pickle-of-2-MB"] = (archive(pickle(b"N" * (1 << 21))), "pickle-bomb")
    archives["big-endian"] = (build_zip([first, Entry("top/byteorder", b"big"), zero]), "foreign")
    archives["odd-byte-order"] = (build_zip([first, Entry("top/byteorder", b"Little"), zero]), "foreign")
    archives["torch-script"] = (archive(None, None, Entry("top/constants.pkl", b"")), "foreign")
    archives["torch-script-code"] = (archive(None, None, Entry("top/code/__torch__.py", b"")), "foreign")
    archives["no-pickle"] = (build_zip([zero]), "not-a-checkpoint")
    archives["no-entries"] = (build_zip([]), "not-a-checkpoint")
    archives["storage-missing"] = (archive(data, {}), "bad-tensor")
    archives["storage-short"] = (archive(data, {"0": bytes(7)}), "bad-tensor")
    archives["storage-elsewhere"] = (
        archive(pickle(dict_(model=dict_(w=tensor(of=storage("../0"))))), {"0": bytes(8)}),
        "bad-tensor",
    )
    return archives


def hostile_values() -> dict[str, tuple[bytes, str]]:
    """Files that torch wrote, or could have, and that are no checkpoints."""
    checkpoint = good_dict()
    weights = checkpoint["model"]
    foreign = {
        "plain-tensor": saved(weights["wte.weight"]),
        "empty-dict": saved({}),
        "other-keys": saved({"epoch": 3, "net": {"loss": 0.1}}),
        "several-weights": saved({"net": weights, "ema": dict(weights)}),
        "list": saved([1, 2]),
        "none": saved(None),
        "number": saved(1),
        "weights-that-are-none": saved(checkpoint | {"model": {}}),
        "weights-that-are-text": saved(checkpoint | {"model": "model.bin"}),
    }
    bad: dict[str, dict[str, Any]] = {
        "config-with-200000-values": {"train_config": {"layers": [0] * 200_000}},
        "weights-with-number-keys": {"model": weights | {0: torch.zeros(1)}},
        "weights-twice": {"model": weights | {"_orig_mod.bias": torch.zeros(4)}},
    }
    files = {name: (content, "foreign") for name, content in foreign.items()}
    files |= {name: (saved(checkpoint | change), "bad-field") for name, change in bad.items()}
    files["payload"] = (saved(checkpoint | {"note": Payload(Path("never-made"))}), "unsafe-pickle")
    files["legacy"] = (saved(checkpoint, _use_new_zipfile_serialization=False), "legacy-format")
    return files


def other_files() -> dict[str, tuple[bytes, str]]:
    """Files that are no torch archives, or only the beginning of one."""
    whole = good()
    return {
        "empty-file": (b"", "empty"),
        "one-byte": (whole[:1], "cut"),
        "cut-in-the-middle": (whole[: len(whole) // 2], "cut"),
        "cut-by-one-byte": (whole[:-1], "cut"),
        "cut-before-its-end-record": (whole[:-22], "cut"),
        "zeros-at-its-end": (whole[:2000] + bytes(len(whole) - 2000), "cut"),
        "only-zeros": (bytes(5000), "cut"),
        "text": (b"these are not the weights you are looking for\n", "not-a-checkpoint"),
        "text-of-one-letter": (b"x", "not-a-checkpoint"),
        "git-lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not-a-checkpoint"),
        "plain-pickle": (stdlib_pickle.dumps({"model": 1}), "not-a-checkpoint"),
        "safetensors": (struct.pack("<Q", 2) + b"{}", "not-a-checkpoint"),
        "gzip": (b"\x1f\x8b\x08" + bytes(range(60)), "not-a-checkpoint"),
        "random-bytes": (bytes(range(256)) * 20, "not-a-checkpoint"),
    }


def hostile_checkpoints() -> list[Hostile]:
    """All of them."""
    pickles = {
        f"pickle-{name}": (archive(data, {"0": bytes(8)}), code) for name, (data, code) in hostile_pickles().items()
    }
    archives = {f"archive-{name}": each for name, each in hostile_archives().items()}
    everything = {**other_files(), **hostile_values(), **archives, **pickles}
    return [Hostile(name, content, code) for name, (content, code) in everything.items()]
