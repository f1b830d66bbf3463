"""Where things lie, as findings tell of them."""

from __future__ import annotations

from pathlib import PurePosixPath


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
