"""What a checkpoint may lie in: a torch archive, a safetensors file, or a folder. One door for all of them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from ckptman.formats import distributed, model_folder, safetensors
from ckptman.formats.archive import TAR, what_else
from ckptman.formats.bounded import open_bytes, refusals_name
from ckptman.formats.checkpoint import TORCH_ARCHIVE, CheckpointInfo, read_checkpoint
from ckptman.formats.refusals import refusal
from ckptman.rules import convention_file, terms
from ckptman.text import RefusedError, markdown

__all__ = ["CONTAINERS", "TORCH_ARCHIVE", "Container", "is_checkpoint_folder", "read", "table"]

SAFETENSORS_SUFFIX: Final = ".safetensors"


class Container(NamedTuple):
    """A way in which checkpoints are written, as the README's table has it."""

    name: str
    forms: str
    known: str
    """What is known of a checkpoint in it."""
    loadable: str
    evaluated: str


_FORMS: Final = "those of `checkpoint.forms`"
_FOUND: Final = "or any in which one dictionary or module holds weights"
CONTAINERS: Final = (
    Container(
        "torch archive (`torch.save` since 1.6)",
        f"{_FORMS}; {_FOUND}",
        "configuration, progress, weights, optimizer",
        "yes",
        "the built-in architecture and its variants",
    ),
    Container(
        "torch's format before 1.6",
        "any",
        "that it is one; refused (`legacy-format`)",
        "no: `torch.save(torch.load(old), new)` where it comes from",
        "no",
    ),
    Container(
        f"`{SAFETENSORS_SUFFIX}` file",
        "weights; configuration and progress where its metadata has them",
        "weights, metadata",
        "yes",
        "with a configuration in its metadata, as `ckptman export` writes it",
    ),
    Container(
        "folder of transformers, its Trainer or peft",
        "`model.safetensors` or `pytorch_model.bin`, whole or in shards",
        "`config.json`, `trainer_state.json`, weights, `optimizer.pt`, missing shards",
        "its weights, if none is missing",
        "with the built-in model's configuration in its `config.json`",
    ),
    Container(
        "folder of torch.distributed.checkpoint",
        f"`{distributed.METADATA}` and `*{distributed.SUFFIX}`; {_FORMS}; {_FOUND}",
        "configuration, progress, weights, optimizer, missing files",
        "its weights, if none is missing",
        "the built-in architecture and its variants",
    ),
)
"""Every container, in the order of the README's table."""


def table() -> str:
    """The README's table of what is read, as Markdown."""
    header = ("Container", "Forms", "What is known", "Loadable", "Evaluated")
    forms = ", ".join(form.name for form in convention_file.built_in().checkpoint.forms)
    named = f"{_FORMS}: {forms}"
    return markdown.table(header, [[cell.replace(_FORMS, named) for cell in row] for row in CONTAINERS])


def is_checkpoint_folder(folder: Path, names: Collection[str] | None = None) -> bool:
    """Whether a folder says, by the names of its files, which may be known, that it is itself a checkpoint."""
    try:
        names = os.listdir(folder) if names is None else names  # noqa: PTH208 (names are all that is asked for)
    except OSError:
        return False
    return distributed.is_distributed(names) or model_folder.weights_file(names) is not None


def has_own_folder(folder: Path) -> bool:
    """Whether a folder in one that is a checkpoint is another checkpoint, not a part of that one."""
    return model_folder.has_own_weights(folder)


def is_companion(name: str) -> bool:
    """Whether a file of this name, beside weights, is a part of their checkpoint, not another one."""
    return model_folder.is_companion(name)


def read(path: Path, rules: terms.CheckpointRules) -> CheckpointInfo:
    """Read what a checkpoint says of itself, whatever it lies in; of its tensors, only what the headers say.

    Args:
        path: A file or a folder.
        rules: The forms, configuration classes and prefix to read it by.

    Raises:
        RefusedError: with a code of `refusals.REFUSALS`.
    """
    if path.suffix != SAFETENSORS_SUFFIX:  # an archive, most often, for which one opening does
        try:
            return read_checkpoint(path, rules)
        except RefusedError:
            if not path.is_dir() and not is_safetensors(path):
                raise
    with refusals_name(path):
        if path.is_dir():
            if not is_checkpoint_folder(path):
                raise refusal("not-a-file", "a folder, and none of those that are a checkpoint themselves")
            files = model_folder.members(path)
            if distributed.is_distributed(file.name for file in files):
                return distributed.read_folder(path, rules, files)
            return model_folder.read_folder(path, rules, files)
        if is_safetensors(path):
            return model_folder.read_safetensors(path, rules)
    return read_checkpoint(path, rules)


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, as one called so need not be: torch's tutorials call checkpoints `.tar`."""
    try:
        with open_bytes(path) as file:
            return what_else(file.read(0, min(file.size, 512))) == TAR
    except (OSError, RefusedError):
        return True


def is_safetensors(path: Path, *, fd: int | None = None) -> bool:
    """Whether a file (open, perhaps) begins as one, or is called so and begins as nothing else; whatever is in the way
    is for its reader to say."""
    is_called_so = path.suffix == SAFETENSORS_SUFFIX
    try:
        if fd is not None:
            head = os.pread(fd, 16, 0)
        else:
            with open_bytes(path) as file:
                head = file.read(0, min(file.size, 16))
    except (OSError, RefusedError):
        return is_called_so
    return safetensors.is_safetensors(head) or (is_called_so and not head.startswith(b"PK\3\4"))
