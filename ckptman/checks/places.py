"""Where a run lies, and where it should."""

from __future__ import annotations

from pathlib import PurePosixPath

from ckptman.rules import Convention, Place


def lies_in_place(folder: PurePosixPath, place: Place, convention: Convention) -> bool:
    """Whether a run folder is the one of its place, or one beside it that tells apart a second run."""
    expected = place.run_folder(convention)
    return folder.parent == expected.parent and (
        folder.name == expected.name or folder.name.startswith(f"{expected.name}-")
    )


def apart(one: PurePosixPath, other: PurePosixPath) -> tuple[PurePosixPath, PurePosixPath]:
    """Two folders without the last parts that they share, so that all that was moved or copied at once is told of once.

    One part of the first is left in any case.
    """
    if one == other:
        return one, other
    ours, theirs = list(one.parts), list(other.parts)
    while len(ours) > 1 and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return PurePosixPath(*ours), PurePosixPath(*theirs)
