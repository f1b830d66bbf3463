"""Why a `.pt` file is refused: one table of codes, each with what it means and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ckptman.text import RefusedError


class Refusal(NamedTuple):
    """What a code means, and what to do next."""

    meaning: str
    fix: str


_KEEP: Final = (  # what is damaged may have its weights whole
    "again from where it was written; if it is like this there, keep it, and train the run again only if its weights "
    "cannot be got out of it."
)
_COPY_AGAIN: Final = f"Copy the file {_KEEP}"

REFUSALS: Final[Mapping[str, Refusal]] = {
    # The file
    "unreadable": Refusal("The file cannot be opened or read.", "Check that it exists, and its permissions."),
    "not-a-file": Refusal(
        "The path is a folder, a pipe, a socket or a device.",
        "Give the path of a checkpoint, or move this out of the way.",
    ),
    "empty": Refusal(
        "The file has no bytes: its writer was killed, or the disk was full.",
        "Copy the file again from where it was written; if it is like this there, train the run again.",
    ),
    "cut": Refusal(
        "The file begins like a checkpoint and has no end: it is still being written, its writer was killed, or its "
        "end is damaged.",
        f"Wait until it is written; if nothing writes to it any more, copy it {_KEEP}",
    ),
    "not-a-checkpoint": Refusal(
        "The file is not one that torch.save wrote.",
        "Fetch, decompress or unpack it, where the message says so; otherwise move it out of the way, or give it "
        "another suffix.",
    ),
    "legacy-format": Refusal(
        "The file is in torch's format from before 1.6, pickles without an archive, which only torch can read.",
        "If you know where it comes from, save it again as a zip archive: torch.save(torch.load(path), new_path).",
    ),
    "foreign": Refusal(
        "A torch file, but not a checkpoint that is known: no weights under a known key, and none, or several, under "
        "others.",
        "If it is a checkpoint, add its keys to `checkpoint.forms` in ckptman.yaml; save one in another byte order "
        "again: torch.save(torch.load(path), new_path). Otherwise, as with an optimizer's state, ckptman leaves it "
        "where it is.",
    ),
    # Its zip archive
    "unsafe-archive": Refusal(
        "The archive has what torch.save never writes: names that leave their folder, two entries of one name, "
        "entries that overlap, compression, encryption, bytes that belong to no entry. Two programs could read two "
        "things in it: even torch.load itself, which takes the compressed bytes for the tensor's with mmap=True.",
        "Do not extract it. If you know where it comes from, load it there with torch and save it again.",
    ),
    "broken-archive": Refusal(
        "The archive's records contradict each other: the file is damaged or forged.",
        f"{_COPY_AGAIN} Where the message says so, bytes that stand before the archive can be left out.",
    ),
    "bad-crc": Refusal(
        "The content of an entry does not fit its checksum: bytes changed after they were written.",
        _COPY_AGAIN,
    ),
    # The pickle in it
    "unsafe-pickle": Refusal(
        "The pickle calls functions that a checkpoint has no need of, or has other instructions than torch writes. "
        "Loading it with torch.load(weights_only=False) could run any program.",
        "Do not open it with torch.load(weights_only=False). If you know where it comes from, load it there and save "
        "it again with plain values and tensors; or, for functions that do not reach the system, admit each by its "
        "name: `checkpoint: {inert: [module.function]}` in ckptman.yaml. They are never called.",
    ),
    "broken-pickle": Refusal(
        "The pickle contradicts itself, or goes on after its end: the file is damaged or forged.", _COPY_AGAIN
    ),
    "cut-pickle": Refusal("The pickle ends in the middle: the file is damaged or forged.", _COPY_AGAIN),
    "pickle-bomb": Refusal(
        "The pickle takes more time or memory than the limits for its size allow: it is deeply nested, refers to its "
        "own parts very often, holds a value that contains itself, which has no end, or has very many instructions.",
        "Save the checkpoint again with just the weights, the optimizer and a plain configuration.",
    ),
    # Headers and JSON files of other containers, and folders
    "bad-header": Refusal(
        "The header of the file, or a JSON file of the folder, says what its format does not allow, or contradicts the "
        "rest: it is damaged or forged.",
        _COPY_AGAIN,
    ),
    "incomplete-folder": Refusal(
        "Files of a checkpoint that is a folder are not there, or not whole: it is still being written or copied, or "
        "its writer was killed.",
        "Wait until it is written; if nothing writes to it any more, copy the folder again from where it was written.",
    ),
    # What the pickle holds
    "bad-tensor": Refusal(
        "A tensor reaches outside its storage, or the archive holds fewer bytes than a storage needs.", _COPY_AGAIN
    ),
    "bad-field": Refusal(
        "A known key of the checkpoint holds what it cannot: a configuration of more values than the limit, weights "
        "under keys that are not text.",
        "Save the checkpoint again with plain values there, or without the key.",
    ),
}
"""Every code with which `archive`, `pickle_reader` and `checkpoint` refuse a file."""


def refusal(code: str, message: str) -> RefusedError:
    """The error to raise: `message` says what is wrong with the file, `code` is one of `REFUSALS`."""
    return RefusedError(message, code=code, fix=REFUSALS[code].fix)
