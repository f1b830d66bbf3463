"""A folder as torch.distributed.checkpoint (DCP) writes it: files of each rank, and `.metadata`, which comes last.

`.metadata` is a pickle of a closed set of classes, which torch itself reads by a plain `pickle.load`. Here it is read
as any pickle, inert. It says of each tensor its shape, dtype and chunks, and of each chunk in which file it is, where,
and how many bytes it takes; whatever is no tensor stands in those files as `torch.save` writes it.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeGuard

from ckptman.formats import checkpoint
from ckptman.formats.archive import PICKLE, open_archive
from ckptman.formats.bounded import Member, open_bytes
from ckptman.formats.checkpoint import CheckpointInfo
from ckptman.formats.pickle_reader import Limits, read_pickle
from ckptman.formats.pickled import DType, Pickled, Record, Storage, Tensor
from ckptman.formats.refusals import refusal
from ckptman.rules import terms

METADATA: Final = ".metadata"
SUFFIX: Final = ".distcp"

MAX_METADATA: Final = 1 << 26
MAX_VALUES: Final = 1000
"""Values that are read, of those that are no tensors; an optimizer's come last."""
MAX_VALUE: Final = 1 << 16
"""Bytes of one of them, as torch.save writes it; a larger one is left out."""
MAX_DIMENSIONS: Final = 64
_MAX_SIZE: Final = (1 << 63) - 1

_PACKAGE: Final = "torch.distributed.checkpoint"
_OLD: Final = "torch.distributed._shard.sharded_tensor.metadata"
_CLASSES: Final = (
    *(f"{_PACKAGE}.metadata.{name}" for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta")),
    *(f"{_PACKAGE}.filesystem.{name}" for name in ("_StorageInfo", "_StoragePrefix")),
    f"{_OLD}.TensorProperties",
)  # fmt: skip
_ENUMS: Final = frozenset({f"{_PACKAGE}.metadata._MEM_FORMAT_ENCODING", f"{_OLD}.MEM_FORMAT_ENCODING"})


class _Place(NamedTuple):
    """Where some bytes are."""

    file: str
    start: int
    end: int


class _Stored(NamedTuple):
    """A tensor, or a value that is none."""

    path: tuple[str | int, ...]
    """The keys on the way to it."""
    tensor: Tensor | None
    places: tuple[_Place, ...]


@dataclass(frozen=True)
class _Folder:
    """What takes the archive's part in describing what a folder holds."""

    folder: Path
    size: int
    stored: Mapping[str, _Stored]

    def part(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a tensor that is one chunk, which is in its file as torch.save writes it."""
        stored = self.stored.get(name.removeprefix("data/"))
        if stored is None or stored.tensor is None or len(stored.places) != 1:
            raise refusal("bad-field", f"{name[:80]!r} is not in one piece")
        return _saved(self.folder, stored.places[0], start, size)[1]


def is_distributed(names: Iterable[str]) -> bool:
    """Whether a folder with these files is, or is becoming, such a checkpoint."""
    return any(name == METADATA or name.endswith(SUFFIX) for name in names)


def read_folder(folder: Path, rules: terms.CheckpointRules, files: tuple[Member, ...]) -> CheckpointInfo:
    """What such a folder says of itself. Files that are missing or too short are named in the result.

    Raises:
        RefusedError: if its `.metadata` cannot be read safely, or contradicts itself.
    """
    sizes = {member.name: member.size for member in files}
    total = sum(sizes.values())
    if METADATA not in sizes:
        raise refusal("incomplete-folder", f"its {METADATA}, which is written last, is not there")
    stored = _read_metadata(folder / METADATA)
    missing = _missing(stored.values(), sizes)
    optimizers = {form.optimizer for form in rules.forms}
    readable = (
        item
        for item in sorted(stored.values(), key=lambda item: item.path[0] in optimizers)
        if item.tensor is None
        and all(place.file not in missing and place.end - place.start <= MAX_VALUE for place in item.places)
    )
    value: dict[Any, Any] = {}
    for item in stored.values():
        if item.tensor is not None:
            _put(value, item.path, item.tensor)
    for item in islice(readable, MAX_VALUES):
        _put(value, item.path, _saved(folder, item.places[0])[0])
    content = Pickled(_without_wrapper(_with_lists(value)), {})
    info = checkpoint.describe(content, rules, _Folder(folder, total, stored))
    tensors = tuple(replace(tensor, view=None) for tensor in info.tensors)  # they are in no archive
    return replace(info, container=f"{_PACKAGE} folder", tensors=tensors, members=files, missing=missing)


# --- .metadata --------------------------------------------------------------------------------------------------------


def _read_metadata(path: Path) -> dict[str, _Stored]:
    """Everything that is stored, by its full name."""
    with open_bytes(path) as file:
        if file.size > MAX_METADATA:
            raise refusal("pickle-bomb", f"it has {file.size:,} bytes, more than the limit of {MAX_METADATA:,}")
        # Its instructions are short, 2.2 bytes on the average: more than other pickles have.
        limits = Limits.of(file.size)._replace(instructions=200_000 + file.size // 2)
        pickled = read_pickle(file.read(0, file.size), config_classes=_CLASSES, limits=limits)
        foreign = sorted({item.name for item in pickled.foreign} - _ENUMS)
        if foreign:
            raise refusal("unsafe-pickle", f"it asks for {', '.join(foreign[:8])}, which torch does not write there")
        fields = _fields(pickled.value, "Metadata")
        tensors, paths = fields.get("state_dict_metadata"), fields.get("planner_data")
        stored = fields.get("storage_data")
        if not isinstance(tensors, dict) or not isinstance(stored, dict):
            raise _bad("it does not say what is stored")
        places = _places(stored)
        found = {
            name: _stored(name, item, paths if isinstance(paths, dict) else {}, places.pop(name, {}))
            for name, item in tensors.items()
        }
        if places:
            raise _bad(f"it stores {str(next(iter(places)))[:80]!r} without saying what it is")
        return found


def _fields(value: Any, kind: str) -> dict[str, Any]:
    if type(value) is not Record or value.class_name.rpartition(".")[2] != kind or value.args:
        raise _bad(f"it has something else where a {kind} stands")
    return value.fields()


def _places(stored: Mapping[Any, Any]) -> dict[str, dict[tuple[int, ...] | None, _Place]]:
    """Where each chunk of each name is, by its offset."""
    found: dict[str, dict[tuple[int, ...] | None, _Place]] = defaultdict(dict)
    taken: dict[str, list[_Place]] = defaultdict(list)
    for index, info in stored.items():
        key, item = _fields(index, "MetadataIndex"), _fields(info, "_StorageInfo")
        name, offset, file = key.get("fqn"), key.get("offset"), item.get("relative_path")
        start, length = item.get("offset"), item.get("length")
        if type(name) is not str or not (offset is None or _is_sizes(offset)) or offset in found[name]:
            raise _bad("it has a chunk without a name or an offset of its own")
        if type(file) is not str or not _is_inside(file):
            raise _bad(f"it names the file {str(file)[:80]!r}, which is not in the folder")
        if type(start) is not int or type(length) is not int or not 0 <= start <= start + length <= _MAX_SIZE:
            raise _bad(f"it has impossible offsets for {name[:80]!r}")
        if item.get("transform_descriptors"):
            raise _bad(f"{name[:80]!r} is stored in a way that only its writer knows")
        found[name][offset] = place = _Place(file, start, start + length)
        taken[file].append(place)
    for file, parts in taken.items():
        end = 0
        for place in sorted(parts):
            if place.start < end:
                raise _bad(f"chunks overlap in {file[:80]!r}")
            end = place.end
    return dict(found)


def _stored(name: Any, item: Any, paths: Mapping[Any, Any], places: Mapping[tuple[int, ...] | None, _Place]) -> _Stored:
    path = paths.get(name, (name,)) if type(name) is str else ()
    if type(path) is not tuple or not 0 < len(path) <= MAX_DIMENSIONS or not all(type(p) in (str, int) for p in path):
        raise _bad(f"it has no path of keys for {str(name)[:80]!r}")
    if type(item) is Record and item.class_name.endswith(".BytesStorageMetadata"):
        if places.keys() != {None}:
            raise _bad(f"the value {name[:80]!r} is not stored once")
        return _Stored(path, None, tuple(places.values()))
    fields = _fields(item, "TensorStorageMetadata")
    shape, chunks, properties = fields.get("size"), fields.get("chunks"), fields.get("properties")
    state = properties.state if type(properties) is Record else None
    dtype = state[0] if type(state) is tuple and state else state.get("dtype") if type(state) is dict else None
    if not _is_sizes(shape) or type(dtype) is not DType or type(chunks) is not list:
        raise _bad(f"its tensor {name[:80]!r} has no shape, dtype or chunks")
    elements = math.prod(shape)
    if elements * dtype.itemsize > _MAX_SIZE:
        raise _bad(f"its tensor {name[:80]!r} has an impossible shape")
    offsets = [_chunk(name, shape, chunk) for chunk in chunks]
    if {offset for offset, _ in offsets} != places.keys() or len(offsets) != len(places):
        raise _bad(f"the chunks of {name[:80]!r} are not those that are stored")
    if sum(size for _, size in offsets) != elements:
        raise _bad(f"the chunks of {name[:80]!r} are not the whole of it")
    storage = Storage(name, dtype.name, dtype.itemsize, elements)
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    tensor = Tensor(storage, dtype.name, dtype.itemsize, 0, shape, stride)
    return _Stored(path, tensor, tuple(places.values()))


def _chunk(name: str, shape: tuple[int, ...], chunk: Any) -> tuple[tuple[int, ...], int]:
    """Where a chunk begins in its tensor, and its number of elements."""
    fields = _fields(chunk, "ChunkStorageMetadata")
    offsets, sizes = fields.get("offsets"), fields.get("sizes")
    if not _is_sizes(offsets) or not _is_sizes(sizes) or not len(offsets) == len(sizes) == len(shape):
        raise _bad(f"a chunk of {name[:80]!r} has no place in it")
    if any(at + size > whole for at, size, whole in zip(offsets, sizes, shape, strict=True)):
        raise _bad(f"a chunk of {name[:80]!r} reaches outside it")
    return offsets, math.prod(sizes)


def _is_sizes(value: Any) -> TypeGuard[tuple[int, ...]]:
    return (
        type(value) is tuple
        and len(value) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size <= _MAX_SIZE for size in value)
    )


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not name.startswith("/") and "\0" not in name and "\\" not in name


def _missing(stored: Iterable[_Stored], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The files that are not there, or end before what they hold does."""
    places = {place for item in stored for place in item.places}
    return tuple(sorted({place.file for place in places if sizes.get(place.file, -1) < place.end}))


def _bad(what: str) -> Exception:
    return refusal("bad-header", what)


# --- what is stored ---------------------------------------------------------------------------------------------------


def _saved(folder: Path, place: _Place, start: int = 0, size: int = 0) -> tuple[Any, bytes]:
    """A value that torch.save wrote into a part of a file; of a tensor, also some of its bytes."""
    path = folder / place.file
    with open_bytes(path) as file:
        data = file.read(place.start, place.end - place.start)
    with _temporary(data) as descriptor, open_archive(path, fd=descriptor) as archive:
        value = read_pickle(archive.read(PICKLE, archive.size)).value
        if not size:
            return value, b""
        if type(value) is not Tensor:
            raise refusal("bad-field", "it holds no tensor where it says so")
        at = value.offset * value.itemsize + start
        return value, archive.part(f"data/{value.storage.key}", at, size)


@contextmanager
def _temporary(data: bytes) -> Iterator[int]:
    """A descriptor of an unnamed file with this content."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            file.write(data)
        except OSError as error:
            raise refusal("unreadable", f"there is no room for a temporary file: {error.strerror}") from None
        yield file.fileno()


def _put(value: dict[Any, Any], path: tuple[str | int, ...], item: Any) -> None:
    for key in path[:-1]:
        value = value.setdefault(key, {})
        if type(value) is not dict:
            raise _bad(f"it has something inside of {str(key)[:80]!r}, which is a value")
    if path[-1] in value:
        raise _bad(f"it has two values under {str(path[-1])[:80]!r}")
    value[path[-1]] = item


def _without_wrapper(value: dict[Any, Any]) -> dict[Any, Any]:
    """What is under the only key, such as the name of an application's state, where no tensor stands right there."""
    inner = next(iter(value.values()), None)
    wrapped = len(value) == 1 and type(inner) is dict and not any(type(item) is Tensor for item in inner.values())
    return inner if wrapped and type(inner) is dict else value


def _with_lists(value: Any) -> Any:
    """With lists where the keys are 0, 1, 2 …: that is how DCP names their items."""
    if type(value) is not dict:
        return value
    items = {key: _with_lists(item) for key, item in value.items()}
    keys = list(items)
    return list(items.values()) if keys and keys == list(range(len(keys))) and type(keys[0]) is int else items
