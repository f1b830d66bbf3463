"""The bytes of a checkpoint's weights, mapped from its file: nothing is read before somebody looks at it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ckptman.formats.archive import open_archive
from ckptman.formats.checkpoint import CheckpointInfo, read_archive, strided
from ckptman.rules import terms


@dataclass(frozen=True, slots=True)
class MappedWeights:
    """What a checkpoint says of itself, and the storages that its weights are views of."""

    info: CheckpointInfo
    """`view` of each of its tensors names a storage."""
    storages: Mapping[str, memoryview]
    """The bytes of each storage, by key. What is written into them stays in memory and never reaches the file."""


def map_weights(path: str | os.PathLike[str], rules: terms.CheckpointRules, *, verify: bool = True) -> MappedWeights:
    """Read a checkpoint as `read_checkpoint` does, and map the bytes of its weights.

    The mapping lasts as long as anything refers to a storage. As with any mapped file, one that is cut short meanwhile
    ends the process that reads on; a file that is replaced by another one stays as it was.

    Args:
        path: The file.
        rules: The forms, configuration classes and prefix to read it by.
        verify: Check everything against its checksum first, which reads the file once, in constant memory.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS`.
    """
    with open_archive(path) as archive:
        info = read_archive(archive, rules)
        if verify:
            archive.verify_crcs()
        mapped = memoryview(mmap.mmap(archive.fd, archive.size, access=mmap.ACCESS_COPY))
        storages = {}
        for storage in {view.storage for view in strided(tensor.view for tensor in info.tensors)}:
            start = archive.data_start(f"data/{storage.key}")
            storages[storage.key] = mapped[start : start + storage.nbytes]
        return MappedWeights(info, storages)
