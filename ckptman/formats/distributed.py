"""A folder as torch.distributed.checkpoint (DCP) writes it: files of each rank, and `.metadata`, which comes last.

`.metadata` is a pickle of a closed set of classes, which torch itself reads by a plain `pickle.load`. Here it is read
as any pickle, inert. It says of each tensor its shape, dtype and chunks, and of each chunk in which file it is, where,
and how many bytes it takes; whatever is no tensor stands in those files as `torch.save` writes it.
"""

from __future__ import annotations

import math
import os
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeGuard

from ckptman.formats import checkpoint
from ckptman.formats.archive import PICKLE, open_archive
from ckptman.formats.bounded import Member, map_bytes, open_bytes, refusals_name
from ckptman.formats.checkpoint import CheckpointInfo
from ckptman.formats.pickle_reader import Limits, read_pickle
from ckptman.formats.pickled import DType, OtherTensor, Pickled, Record, Storage, Tensor
from ckptman.formats.refusals import refusal
from ckptman.rules import terms

METADATA: Final = ".metadata"
SUFFIX: Final = ".distcp"
BESIDE: Final = "meta.pt"
"""Where Lightning puts what is in its checkpoint beside the weights and the optimizers."""

MAX_METADATA: Final = 1 << 26
MAX_VALUES: Final = 1000
"""Values that are read, of those that are no tensors; an optimizer's come last."""
MAX_VALUE: Final = 1 << 16
"""Bytes of one of them, as torch.save writes it; a larger one is left out."""
MAX_DIMENSIONS: Final = 64
MAX_COMPARED: Final = 100_000
"""Pairs of chunks of a tensor, in several dimensions."""
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


class _Chunk(NamedTuple):
    """A part of a tensor."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class _Stored(NamedTuple):
    """A tensor, or a value that is none."""

    path: tuple[str | int, ...]
    """The keys on the way to it."""
    tensor: Tensor | None
    places: tuple[_Place, ...]
    chunks: tuple[_Chunk, ...] = ()
    """Which part of the tensor is at each place."""


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
        place = stored.places[0]
        view, storage = _chunk_bytes(self.folder / place.file, memoryview(_saved(self.folder, place)), verify=False)
        at = view.offset * view.itemsize + start
        return bytes(storage[at : at + size])


def is_distributed(names: Iterable[str]) -> bool:
    """Whether a folder with these files is, or is becoming, such a checkpoint; one in it makes it none."""
    return any(name == METADATA or (name.endswith(SUFFIX) and "/" not in name) for name in names)


def read_folder(folder: Path, rules: terms.CheckpointRules, files: tuple[Member, ...]) -> CheckpointInfo:
    """What such a folder says of itself. Files that are missing or too short are named in the result.

    Raises:
        RefusedError: if its `.metadata` cannot be read safely, or contradicts itself.
    """
    info, _ = _described(folder, rules, files)
    return replace(info, tensors=tuple(replace(tensor, view=None) for tensor in info.tensors))  # they are in no archive


def map_folder(
    folder: Path, rules: terms.CheckpointRules, files: tuple[Member, ...], *, verify: bool
) -> tuple[CheckpointInfo, dict[tuple[str, str], memoryview]]:
    """As `read_folder`, and the bytes of the weights as `mapping.MappedWeights` has them: of the file "" each.

    A tensor in several chunks is one of the kind `chunks`.

    Raises:
        RefusedError: as `read_folder`, and if a chunk is not what `.metadata` says, or, with `verify`, not as its
            checksum says.
    """
    info, stored = _described(folder, rules, files)
    if info.missing:
        return info, {}
    storages: dict[tuple[str, str], memoryview] = {}
    mapped: dict[str, memoryview] = {}
    tensors = []
    for tensor in info.tensors:
        item = stored[tensor.view.storage.key] if type(tensor.view) is Tensor else None
        if item is None or item.tensor is None:
            raise _bad(f"its {tensor.name[:80]!r} is not stored as a tensor")
        parts: list[Any] = []
        for chunk, place in zip(item.chunks, item.places, strict=True):
            path = folder / place.file
            if place.file not in mapped:
                with open_bytes(path) as file:
                    mapped[place.file] = map_bytes(file.fd, file.size)
            with refusals_name(path):
                view, data = _chunk_bytes(path, mapped[place.file][place.start : place.end], verify=verify)
                if (view.shape, view.dtype) != (chunk.sizes, item.tensor.dtype):
                    raise _bad(f"a chunk of {tensor.name[:80]!r} has another shape or dtype than .metadata says")
            key = f"{place.file}@{place.start}"
            storages["", key] = data
            parts += [chunk.offsets, view._replace(storage=view.storage._replace(key=key))]
        in_chunks = OtherTensor("chunks", tensor.dtype, tensor.shape, tuple(parts))
        tensors.append(replace(tensor, view=parts[1] if len(item.places) == 1 else in_chunks))
    return replace(info, tensors=tuple(tensors)), storages


def _described(
    folder: Path, rules: terms.CheckpointRules, files: tuple[Member, ...]
) -> tuple[CheckpointInfo, Mapping[str, _Stored]]:
    """What the folder says of itself, its tensors as views of storages by their full names; and what is stored."""
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
        place = item.places[0]
        _put(value, item.path, _value(folder / place.file, _saved(folder, place)))
    beside = _beside(folder / BESIDE) if BESIDE in sizes else {}
    content = Pickled({**beside, **_without_wrapper(_with_lists(value))}, {})
    info = checkpoint.describe(content, rules, _Folder(folder, total, stored))
    return replace(info, container=f"{_PACKAGE} folder", members=files, missing=missing), stored


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
    parts = sorted(_chunk(name, shape, chunk) for chunk in chunks)
    if {part.offsets for part in parts} != places.keys() or len(parts) != len(places):
        raise _bad(f"the chunks of {name[:80]!r} are not those that are stored")
    if sum(math.prod(part.sizes) for part in parts) != elements or _overlap(parts):
        raise _bad(f"the chunks of {name[:80]!r} are not the whole of it")
    storage = Storage(name, dtype.name, dtype.itemsize, elements)
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    tensor = Tensor(storage, dtype.name, dtype.itemsize, 0, shape, stride)
    return _Stored(path, tensor, tuple(places[part.offsets] for part in parts), tuple(parts))


def _chunk(name: str, shape: tuple[int, ...], chunk: Any) -> _Chunk:
    fields = _fields(chunk, "ChunkStorageMetadata")
    offsets, sizes = fields.get("offsets"), fields.get("sizes")
    if not _is_sizes(offsets) or not _is_sizes(sizes) or not len(offsets) == len(sizes) == len(shape):
        raise _bad(f"a chunk of {name[:80]!r} has no place in it")
    if any(at + size > whole for at, size, whole in zip(offsets, sizes, shape, strict=True)):
        raise _bad(f"a chunk of {name[:80]!r} reaches outside it")
    return _Chunk(offsets, sizes)


def _overlap(parts: list[_Chunk]) -> bool:
    """Whether two of these chunks, which are sorted, have an element in common."""
    compared = 0
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            if other.offsets and other.offsets[0] >= part.offsets[0] + part.sizes[0]:
                break  # as do all that follow
            if (compared := compared + 1) > MAX_COMPARED:
                raise refusal("pickle-bomb", f"it has a tensor in {len(parts):,} chunks, more than can be compared")
            ranges = zip(part.offsets, part.sizes, other.offsets, other.sizes, strict=True)
            if all(max(at, to) < min(at + size, to + length) for at, size, to, length in ranges):
                return True
    return False


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


_HEAD: Final = 1 << 16
"""Bytes at either end of what torch.save wrote: all but the elements of a tensor."""


def _saved(folder: Path, place: _Place) -> bytes:
    """What torch.save wrote into a part of a file."""
    with open_bytes(folder / place.file) as file:
        return file.read(place.start, place.end - place.start)


def _beside(path: Path) -> dict[Any, Any]:
    with open_archive(path) as archive:
        value = read_pickle(archive.read(PICKLE, archive.size)).value
    return value if type(value) is dict else {}


def _value(path: Path, data: bytes) -> Any:
    """A value that is no tensor."""
    with _temporary(data) as descriptor, open_archive(path, fd=descriptor) as archive:
        return read_pickle(archive.read(PICKLE, archive.size)).value


def _chunk_bytes(path: Path, data: memoryview, *, verify: bool) -> tuple[Tensor, memoryview]:
    """A tensor that torch.save wrote into these bytes, and its storage; of its elements none is read."""
    with _temporary(data) as descriptor, open_archive(path, fd=descriptor) as archive:
        view = read_pickle(archive.read(PICKLE, archive.size)).value
        if type(view) is not Tensor or view.conj or view.neg:
            raise _bad("it holds no tensor where it says so")
        checkpoint.check_storages(archive, (view.storage,))
        name = f"data/{view.storage.key}"
        entry, start = archive.entries[name], archive.data_start(name)
    if start + entry.size > len(data):
        raise refusal("cut", "a chunk ends before its tensor does")
    if verify and entry.crc and zlib.crc32(data[start : start + entry.size]) != entry.crc:
        raise refusal("bad-crc", f"the content of its {name} does not fit its checksum")
    return view, data[start : start + view.storage.nbytes]


@contextmanager
def _temporary(data: bytes | memoryview) -> Iterator[int]:
    """A descriptor of an unnamed file with this content; of a large one, only at either end, where its header is."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            descriptor = file.fileno()
            os.ftruncate(descriptor, len(data))
            ends = (0, len(data)) if len(data) <= 2 * _HEAD else (0, _HEAD, len(data) - _HEAD, len(data))
            for start, end in pairwise(ends):
                if end - start <= 2 * _HEAD:
                    os.pwrite(descriptor, data[start:end], start)
        except OSError as error:
            raise refusal("unreadable", f"there is no room for a temporary file: {error.strerror}") from None
        yield descriptor


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
