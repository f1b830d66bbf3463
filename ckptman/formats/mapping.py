"""The bytes of a checkpoint's weights, mapped from its files: nothing is read before somebody looks at it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptman.formats import bounded, containers, distributed, forms, model_folder, safetensors
from ckptman.formats.archive import PICKLE, Archive, open_archive
from ckptman.formats.checkpoint import CheckpointInfo, TensorInfo, check_storages, read_archive, strided
from ckptman.formats.pickle_reader import garbage_left, read_pickle
from ckptman.formats.pickled import Storage
from ckptman.formats.refusals import refusal
from ckptman.rules import terms


@dataclass(frozen=True, slots=True)
class MappedWeights:
    """What a checkpoint says of itself, and the storages that its weights are views of."""

    info: CheckpointInfo
    """`file` and `view` of each of its tensors name a storage."""
    storages: Mapping[tuple[str, str], memoryview]
    """The bytes of each storage, by file and key. What is written into them stays in memory."""


def map_weights(path: str | os.PathLike[str], rules: terms.CheckpointRules, *, verify: bool = True) -> MappedWeights:
    """Read a checkpoint as `containers.read` does, and map the bytes of its weights.

    The mapping lasts as long as anything refers to a storage. As with any mapped file, one that is cut short meanwhile
    ends the process that reads on; a file that is replaced by another one stays as it was.

    Args:
        path: The file, or the folder.
        rules: The forms, configuration classes and prefix to read it by.
        verify: Check a torch archive against its checksums first, which reads it once, in constant memory; safetensors
            has none.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS`.
    """
    whole = Path(path)
    if not whole.is_dir() and not containers.is_safetensors(whole):
        with open_archive(whole) as archive:  # opened once: should it be replaced, all is of one file
            info = read_archive(archive, rules)
            return MappedWeights(info, dict(_map_archive(archive, info.tensors, "", verify=verify)))
    with bounded.refusals_name(whole):
        files = model_folder.members(whole) if whole.is_dir() else ()
        if distributed.is_distributed(member.name for member in files):
            info, storages = distributed.map_folder(whole, rules, files, verify=verify)
            _check_whole(info)
            return MappedWeights(info, storages)
        info, storages = containers.read(whole, rules), {}
        _check_whole(info)
    for file in dict.fromkeys(tensor.file for tensor in info.tensors):
        tensors = [tensor for tensor in info.tensors if tensor.file == file]
        at = whole / file if file else whole
        if containers.is_safetensors(at):
            storages.update(_map_safetensors(at, file))
        else:
            with open_archive(at) as archive:
                storages.update(_map_archive(archive, tensors, file, verify=verify))
    return MappedWeights(info, storages)


def map_values(
    path: str | os.PathLike[str], rules: terms.CheckpointRules
) -> tuple[Mapping[Any, Any], dict[str, memoryview]]:
    """All that a torch archive holds, by its keys, and the bytes of each storage; nothing is checked against checksums.

    Raises:
        RefusedError: as `map_weights`.
    """
    with open_archive(path) as archive, garbage_left():
        pickle = read_pickle(archive.read(PICKLE, archive.size), config_classes=rules.config_classes, inert=rules.inert)
        check_storages(archive, tuple(pickle.storages.values()))
        return forms.find(pickle.value, rules.forms).value, dict(_map_storages(archive, pickle.storages.values()))


def _check_whole(info: CheckpointInfo) -> None:
    if info.missing:
        names = ", ".join(info.missing)
        raise refusal("incomplete-folder", f"not there, or not whole, of its files: {names}")


def _map_archive(
    archive: Archive, tensors: Iterable[TensorInfo], file: str, *, verify: bool
) -> Iterator[tuple[tuple[str, str], memoryview]]:
    if verify:
        archive.verify_crcs()
    storages = {view.storage for view in strided(tensor.view for tensor in tensors)}
    for key, data in _map_storages(archive, storages):
        yield (file, key), data


def _map_storages(archive: Archive, storages: Iterable[Storage]) -> Iterator[tuple[str, memoryview]]:
    mapped = bounded.map_bytes(archive.fd, archive.size)
    for storage in storages:
        start = archive.data_start(f"data/{storage.key}")
        yield storage.key, mapped[start : start + storage.nbytes]


def _map_safetensors(path: Path, file: str) -> Iterator[tuple[tuple[str, str], memoryview]]:
    header = safetensors.read_header(path)
    with bounded.open_bytes(path) as opened:
        if opened.size != header.size:
            raise refusal("cut", "its size changed while it was read")
        mapped = bounded.map_bytes(opened.fd, opened.size)
    for tensor in header.tensors:
        yield (file, tensor.name), mapped[tensor.start : tensor.start + tensor.nbytes]
