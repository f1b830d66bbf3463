"""What lies below a source folder: checkpoint files, W&B run folders, and what is in the way.

Nothing is read here but folders, and the `run.json` files of a tree that is itself the source.
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from sys import intern
from typing import NamedTuple, overload

from ckptman.formats import containers, folder_bytes
from ckptman.fs import FileState, files, folders
from ckptman.raw import wandb_runs
from ckptman.rules import Convention, naming, placement
from ckptman.text import RefusedError, UsageError
from ckptman.tree import contents
from ckptman.tree import records as tree_records

SAVE_FOLDER = "save_dir"
"""Key of `TrainConfig`: the folder that a run was told to save into, as it was called on the machine of the run."""
WANDB_FILES = "files"
"""The folder of a W&B run folder that holds what the run gave to W&B."""


_OLD_FILES = frozenset({"wandb-summary.json", "wandb-metadata.json"})
"""By which the run folder of a client before 0.10 is known: what lies in `files` since then lies in it itself."""

_SUM = 32
"""Bytes of a SHA-256."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something at the source that was not handled, and why."""

    source: str
    """Relative to the source."""
    code: str
    message: str
    fix: str
    what: str = "file"
    """What was not handled, as one counts it: a file, a folder or a W&B folder."""


class Around(NamedTuple):
    """The folder that checkpoints lie in, held once for all of them."""

    root: str
    """The source, absolute."""
    relative: str
    """Relative to it; empty for itself."""
    group: str | None
    """The group and the task id that the folders say."""
    task: int | None
    seed: int | None
    """The seed that a run folder says."""


class SourceFiles(Sequence["SourceCheckpoint"]):
    """The checkpoints of a source, in the order of their paths.

    There may be hundreds of thousands, so what is held of one is little, and it is made when it is asked for.
    """

    def __init__(self) -> None:
        self.around: list[Around] = []
        """By the place of each: the folder that it lies in."""
        self.files: list[str] = []
        """Its name."""
        self.names: list[str] = []
        """What it is called: see `placement.name_at_source`."""
        self._states = bytearray()
        self._sums = bytearray()
        """The SHA-256 of each that was read."""
        self._contents: dict[int, str] = {}
        """What else is said of the bytes of one."""
        self._folders: set[int] = set()
        self.run_folders: set[int] = set()
        """Those that hold the checkpoints of their run, too."""

    def add(self, around: Around, file: str, name: str, state: bytes, *, is_folder: bool) -> None:
        """Add one."""
        if is_folder:
            self._folders.add(len(self.files))
        self.around.append(around)
        self.files.append(file)
        self.names.append(name)
        self._states += state

    def in_order(self) -> SourceFiles:
        """The same, sorted."""
        paths = map(self.relative, range(len(self)))
        if all(one <= other for one, other in pairwise(paths)):  # as they mostly are found
            return self
        return self.some(sorted(range(len(self)), key=self.relative))

    def some(self, places: Iterable[int]) -> SourceFiles:
        """Those in some places."""
        found = SourceFiles()
        for file in map(self.__getitem__, places):
            found.add(file.around, file.file, file.name, file.packed, is_folder=file.is_folder)
        return found

    def relative(self, place: int) -> str:
        """Its path, relative to the source."""
        above = self.around[place].relative
        return f"{above}/{self.files[place]}" if above else self.files[place]

    def packed(self, place: int) -> bytes:
        """Its state."""
        return bytes(self._states[place * files.PACKED_SIZE : (place + 1) * files.PACKED_SIZE])

    def note_content(self, place: int, content: str) -> None:
        """Take note of what was read of it: see `Examined.content`."""
        if not self._sums:
            self._sums = bytearray(_SUM * len(self))
        with suppress(ValueError):
            packed = bytes.fromhex(content)
            if len(packed) == _SUM and packed.hex() == content:
                self._sums[place * _SUM : (place + 1) * _SUM] = packed
                return
        self._contents[place] = content

    def sum(self, place: int) -> bytes | str:
        """What tells that it is of the same bytes as another, in little memory, once `note_content` has it."""
        return self._contents.get(place) or bytes(self._sums[place * _SUM : (place + 1) * _SUM])

    def content(self, place: int) -> str:
        """What `note_content` has of it."""
        found = self.sum(place)
        return found if isinstance(found, str) else found.hex()

    def is_folder(self, place: int) -> bool:
        """Whether it is one."""
        return place in self._folders

    def place_of(self, relative: str) -> int | None:
        """Where the one of a path stands; None where there is none."""
        place = bisect_left(range(len(self)), relative, key=self.relative)
        return place if place < len(self) and self.relative(place) == relative else None

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> SourceCheckpoint: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[SourceCheckpoint, ...]: ...

    def __getitem__(self, index: int | slice) -> SourceCheckpoint | tuple[SourceCheckpoint, ...]:
        places = range(len(self))[index]
        return SourceCheckpoint(self, places) if isinstance(places, int) else tuple(map(self.__getitem__, places))


class SourceCheckpoint(NamedTuple):
    """A file that should be a checkpoint, by its name's ending; or a folder that should, by the names of its files."""

    among: SourceFiles
    place: int
    home: Around | None = None
    """The folder that it lies in, with a group and a task that this does not say."""

    @property
    def around(self) -> Around:
        """The folder that it lies in."""
        return self.among.around[self.place] if self.home is None else self.home

    @property
    def file(self) -> str:
        """Its name."""
        return self.among.files[self.place]

    @property
    def name(self) -> str:
        """What it is called: see `placement.name_at_source`."""
        return self.among.names[self.place]

    @property
    def packed(self) -> bytes:
        """Its state."""
        return self.among.packed(self.place)

    @property
    def is_folder(self) -> bool:
        """Whether it is one."""
        return self.among.is_folder(self.place)

    @property
    def is_run_folder(self) -> bool:
        """Whether it is the folder of its run, too, in which earlier checkpoints lie."""
        return self.place in self.among.run_folders

    @property
    def relative(self) -> str:
        """Relative to the source."""
        return self.among.relative(self.place)

    @property
    def folder(self) -> Path:
        """The folder that it lies in, absolute."""
        return Path(self.around.root, self.around.relative)

    @property
    def path(self) -> Path:
        """Absolute."""
        return Path(self.around.root, self.relative)

    @property
    def state(self) -> FileState:
        """As it was found."""
        return FileState.unpacked(self.packed)

    def name_by(self, convention: Convention) -> str:
        """What it is called, with the suffix of checkpoints."""
        suffix = convention.checkpoint.suffix
        return self.name + (suffix if self.is_folder and not self.name.endswith(suffix) else "")

    def step_named(self, convention: Convention) -> int | None:
        """The step that its name says."""
        with suppress(RefusedError):
            return naming.naming_of(convention).parse(self.name_by(convention)).step
        return None

    def of_home(self, group: str | None, task: int | None) -> SourceCheckpoint:
        """The same file, of a group and a task that its folders do not say."""
        return self._replace(home=self.around._replace(group=group, task=task))

    @property
    def group(self) -> str | None:
        """The group that the folders around it say."""
        return self.around.group

    @property
    def task(self) -> int | None:
        """The task id that the folders around it say."""
        return self.around.task

    @property
    def seed(self) -> int | None:
        """The seed that a run folder around it says."""
        return self.around.seed


@dataclass(frozen=True)
class SourceScan:
    """What was found below a source, in path order."""

    root: Path
    """The source folder (for a single file, its folder), absolute, without symbolic links: so it is the same by
    whatever way it is reached."""
    checkpoints: SourceFiles
    wandb_folders: tuple[Path, ...]
    records: Mapping[Path, tree_records.RunRecord]
    """The `run.json` of each folder that has one: the source is, or was, a tree."""
    lists: tuple[tree_records.OverwrittenList, ...]
    """What that tree says of runs without checkpoints."""
    refusals: tuple[Refusal, ...]
    passed_over: tuple[str, ...] = ()
    """Other files that look like checkpoints, by their names, relative to the root; of a folder that is a checkpoint
    itself, only the folder, with a slash."""
    system_files: tuple[str, ...] = ()
    """What an operating system left beside checkpoints, such as `._…`, relative to the root: no checkpoints."""
    archives: tuple[str, ...] = ()
    """Archives, in which checkpoints may be, relative to the root."""
    unread_wandb: Mapping[Path, Path] = field(default_factory=dict)
    """What could not be looked into and is, or is part of, a folder of W&B runs → the folder whose runs these are."""
    unread_records: frozenset[Path] = frozenset()
    """The folders that have a `run.json` which could not be read."""


def scan_source(
    source: Path, convention: Convention, *, leave_out: Path | None = None, follow_symlinks: bool = False
) -> SourceScan:
    """Look through a source: a root of groups, one group, one task folder, one run, or one file.

    Args:
        leave_out: A folder that is not part of the source even if it lies below it (the tree to write to).
        follow_symlinks: Follow symbolic links; otherwise they are refused by name (W&B's own are passed over).

    Raises:
        UsageError: if the source does not exist.
    """
    check_source(source)
    top = source.parent.resolve() / source.name if source.is_file() else source.resolve()
    is_one = top.is_file() or (top.is_dir() and is_one_checkpoint(top, convention))
    walk = _Walk(convention, top.parent if is_one else top, leave_out, follow_symlinks)
    if top.is_file():
        walk.file(top)
    else:
        walk.folder(top)
    walk.refuse_links()
    if not walk.wandb:
        # A run or a saved_models folder was named: its W&B folders lie elsewhere in its task folder.
        task_folder = placement.task_folder_of(top.parent, convention)
        if task_folder is not None:
            beside = _Walk(convention, task_folder, leave_out, follow_symlinks)
            beside.folder(task_folder)
            walk.wandb = beside.wandb
            walk.unread_wandb |= beside.unread_wandb
    checkpoints = walk.checkpoints.in_order()
    _enter_run_folders(checkpoints, convention)
    return SourceScan(
        root=walk.root,
        checkpoints=checkpoints,
        wandb_folders=tuple(sorted(walk.wandb)),
        records=walk.records,
        lists=tuple(walk.lists),
        refusals=tuple(sorted(walk.refusals, key=lambda item: (item.source, item.code))),
        passed_over=tuple(sorted(walk.passed_over)),
        system_files=tuple(sorted(walk.system_files)),
        archives=tuple(sorted(walk.archives)),
        unread_wandb=walk.unread_wandb,
        unread_records=frozenset(walk.unread_records),
    )


def _enter_run_folders(found: SourceFiles, convention: Convention) -> None:
    """Say of folders that are checkpoints and hold those of earlier steps that they are the folders of these runs."""
    for place in filter(found.is_folder, range(len(found))):
        inside = f"{found.relative(place)}/"
        first = bisect_left(range(len(found)), inside, key=found.relative)
        below = takewhile(lambda at: found.relative(at).startswith(inside), range(first, len(found)))  # noqa: B023
        if any(found[at].step_named(convention) is not None for at in below):
            inner = found[place].path / "file"
            group, task, seed = placement.named_by_folders(inner, convention)
            found.around[place] = found.around[place]._replace(group=group, task=task, seed=seed)
            found.run_folders.add(place)


def check_source(source: Path) -> None:
    """See to it that a source is there.

    Raises:
        UsageError: if it does not exist, or is no folder and no file.
    """
    if not source.exists():
        raise UsageError(
            f"{source} does not exist", code="no-source", fix="Name the folder that holds the raw outputs."
        )
    if not (source.is_dir() or source.is_file()):
        raise UsageError(f"{source} is neither a folder nor a file", code="no-source", fix="Name a folder.")


_ON_THE_WAY = re.compile(
    r"(\.syncthing\.|~syncthing~|\.)?(.+?)"
    r"((\.\w{6,8})?\.partial|\.(tmp|temp|part|filepart|(cr|op)?download|incomplete|!\w+)|_\.gstmp"
    r"|\.[0-9a-fA-F]{8}|(\.tar)?\.(gz|xz|zst|bz2|lz4)|\.(tar|tgz|zip|7z|gpg|dvc)"
    r"|\.(bak|backup|old|orig|save|[0-9]{1,3}|~\w+~?)|~|(?(1)\.\w{6}))",
    re.DOTALL,
)
"""Names that copying, packing, tracking and keeping programs give; rsync's is `.NAME.aX3bY7`, rclone's
`NAME.1a2b3c4d.partial`, that of aws `NAME.1a2B3c4D`, gsutil's `NAME_.gstmp`, wget's `NAME.1`, that of `cp --backup`
`NAME.~1~`, of Nextcloud `.NAME.~1a2b`, of BitTorrent and Resilio `NAME.!qB`."""


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z")


def checkpoint_name(path: Path, convention: Convention) -> str | None:
    """What a file would be called that is half-written, packed, or kept under another name; None for any other."""
    if convention.checkpoint.suffix not in path.name:
        return None  # at once, for most of the other files
    found = _ON_THE_WAY.fullmatch(path.name)
    return found[2] if found is not None and found[2].endswith(convention.checkpoint.suffix) else None


_COPY = re.compile(
    r"(?:Copy of )?(.+?)(?: ?\([0-9]+\)| (?:- )?[Cc]opy(?: \(?[0-9]+\)?)?| \(copy(?: [0-9]+)?\)|-v[0-9]+|[ _][0-9]"
    r"|[_-][Cc]opy[0-9]*|\.sync-conflict-[\w-]+| \([^()]*[Cc]onflict[^()]*\)|-[A-Z][A-Z0-9-]+)?",
    re.DOTALL,
)
"""Names that copies get where there is a file already: of browsers, file managers, Jupyter, Lightning, syncthing,
Dropbox, OneDrive (by the computer's name)."""


def original_name(path: Path, convention: Convention) -> str:
    """The name of the file of which one is a copy, by its own name; that itself, for most."""
    suffix = convention.checkpoint.suffix
    found = _COPY.fullmatch(path.name.removesuffix(suffix))
    return path.name if found is None else f"{found[1]}{suffix}"


def is_one_checkpoint(folder: Path, convention: Convention, names: Collection[str] | None = None) -> bool:
    """Whether a folder, in which these `names` are known to be, is a checkpoint itself, not one that checkpoints or W&B
    runs lie in, some weights among them."""
    suffix = convention.checkpoint.suffix
    return containers.is_checkpoint_folder(folder, names) and not any(
        (name.endswith(suffix) and not containers.is_companion(name)) or name.startswith(convention.raw.wandb_runs)
        for name in _names_below(folder)
    )


def _names_below(folder: Path) -> Iterator[str]:
    for at, below, names in os.walk(folder, onerror=files.fail):
        if Path(at) == folder:
            below[:] = [name for name in below if not containers.has_own_folder(folder / name)]
        yield from (*names, *below)


def wandb_home(folder: Path, convention: Convention) -> Path:
    """The folder whose runs a W&B run folder records: the one above its `wandb` folders."""
    home = folder.parent
    while home.name == convention.folders.saved_wandb and home != home.parent:
        home = home.parent
    return home


class _Walk:
    def __init__(self, convention: Convention, root: Path, leave_out: Path | None, follow: bool) -> None:
        self.convention = convention
        self.root = root
        self.top = str(root)
        self.below = len(os.path.join(root, ""))  # noqa: PTH118  (what names of files in it begin with)
        self.leave_out = None if leave_out is None or not leave_out.exists() else FileState.of(leave_out)
        self.follow = follow
        self.checkpoints = SourceFiles()
        self.wandb: set[Path] = set()
        self.unread_wandb: dict[Path, Path] = {}
        self.records: dict[Path, tree_records.RunRecord] = {}
        self.lists: list[tree_records.OverwrittenList] = []
        self.unread_records: list[Path] = []
        self.refusals: list[Refusal] = []
        self.links: list[tuple[Path, str, str]] = []
        """Those that were not followed: where each leads, and to what."""
        self.passed_over: set[str] = set()
        self.system_files: list[str] = []
        self.archives: list[str] = []
        self.seen: set[tuple[int, int]] = set()
        self.around: tuple[Path, Around] | None = None
        """The folder of the last checkpoint."""
        self.numbers: dict[int | None, int | None] = {}
        """Tasks and seeds that were met: each is held once."""

    def folder(self, top: Path) -> None:
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                state = folder.stat()
                if not self._enter(folder, state):
                    continue
                with os.scandir(folder) as listing:
                    found = sorted(listing, key=lambda item: item.name)
                names = {item.name for item in found}
                is_run = self._is_wandb_run(folder, names)
                may_be_one = not is_run and folder.parent not in self.wandb
                is_checkpoint = may_be_one and is_one_checkpoint(folder, self.convention, names)
            except OSError as error:
                self._note_unread(folder)
                self._refuse(
                    folder,
                    "unreadable-folder",
                    f"cannot look into the folder: {error.strerror}",
                    "Give yourself permission to read it, and ingest again.",
                    "folder",
                )
                continue
            if is_run:
                self.wandb.add(folder)
                if names.isdisjoint(_OLD_FILES):
                    found = [item for item in found if item.name == WANDB_FILES]  # a run may save its checkpoints there
            elif is_checkpoint:
                self._checkpoint_folder(folder)
                found = [item for item in found if containers.has_own_folder(Path(item.path))]
            elif not found and folder.name.endswith(self.convention.checkpoint.suffix):
                fix = "If nothing writes to it any more, copy the folder again from where it was written, or remove it."
                self._refuse(
                    folder, "incomplete-folder", "a checkpoint by its name, and there is nothing in it", fix, "folder"
                )
            pending.extend(reversed([Path(item.path) for item in found if self._look(item)]))

    def file(self, path: Path) -> None:
        self._add(path, FileState.of(path, follow_symlinks=self.follow), is_folder=False)

    def _checkpoint_folder(self, path: Path) -> None:
        try:
            self._add(path, folder_bytes.state_of(path), is_folder=True)
        except RefusedError as error:
            self._refuse(path, error.code, error.message, error.fix, "folder")

    def _add(self, path: Path, state: FileState, *, is_folder: bool) -> None:
        if self.around is None or self.around[0] != path.parent:
            group, task, seed = placement.named_by_folders(path, self.convention)
            relative = str(path.parent)[self.below :]
            group = None if group is None else intern(group)
            task, seed = (self.numbers.setdefault(number, number) for number in (task, seed))
            self.around = path.parent, Around(self.top, relative, group, task, seed)
        file, name = intern(path.name), placement.name_at_source(path, self.convention)
        name = file if name == file else intern(name)
        self.checkpoints.add(self.around[1], file, name, state.packed, is_folder=is_folder)

    def _note_unread(self, path: Path) -> None:
        home = self.root
        for name in path.relative_to(self.root).parts:
            if name == self.convention.folders.saved_wandb or name.startswith(self.convention.raw.wandb_runs):
                self.unread_wandb[path] = home
                return
            home = home / name

    def _enter(self, folder: Path, state: os.stat_result) -> bool:
        key = (state.st_dev, state.st_ino)
        if self.leave_out is not None and key == (self.leave_out.device, self.leave_out.inode):
            return False
        if key in self.seen:
            message = "the folder was reached before, by another way"
            self._refuse(folder, "symlink-loop", message, "Remove the link.", "folder")
            return False
        self.seen.add(key)
        return True

    def _look(self, item: os.DirEntry[str]) -> bool:
        """Take note of one entry; True for a folder to look into."""
        path = Path(item.path)
        wanted = item.name.endswith(self.convention.checkpoint.suffix) and not folders.is_partial(item.name)
        if wanted and contents.is_system_name(item.name):
            self.system_files.append(str(path.relative_to(self.root)))
            return False
        try:
            if item.is_symlink():
                if self._is_wandb_link(path):
                    return False
                to = f"a symbolic link to {os.readlink(path)!r}"  # noqa: PTH115
                if not os.path.exists(path):  # noqa: PTH110  (pathlib's raises where one may not look)
                    fix = "Bring back what it leads to, or put the file itself in its place."
                    self._refuse(path, "unreadable" if self.follow else "symlink", f"{to}, which leads nowhere", fix)
                    return False
                if not self.follow:
                    if self._may_be_needed(item, is_wanted=wanted):
                        self.links.append((path, to, "folder" if os.path.isdir(path) else "file"))  # noqa: PTH112
                    return False
            state = item.stat(follow_symlinks=self.follow)
        except OSError as error:
            self._note_unread(path)
            self._refuse(path, "unreadable", f"cannot look at it: {error.strerror}", "Check the link or the file.")
            return False
        if stat.S_ISDIR(state.st_mode):
            return True
        if item.name in (tree_records.RUN_FILE, tree_records.OVERWRITTEN_FILE) and stat.S_ISREG(state.st_mode):
            self._record(path)
        elif wanted and stat.S_ISREG(state.st_mode):
            self._add(path, FileState.from_stat(state), is_folder=False)
        elif wanted:
            self._refuse(path, "not-a-file", "not a regular file, but a device, pipe or socket", "Remove it.")
        elif stat.S_ISREG(state.st_mode) and self._looks_like_one(path):
            self._pass_over(path)
        elif item.name.lower().endswith(_ARCHIVES) and not contents.is_system_name(item.name):
            self.archives.append(str(path.relative_to(self.root)))
        return False

    def _may_be_needed(self, link: os.DirEntry[str], *, is_wanted: bool) -> bool:
        """Whether something would come of following a link; of most links to files, such as `latest.log`, nothing."""
        is_named = link.name in (tree_records.RUN_FILE, tree_records.OVERWRITTEN_FILE)
        return is_wanted or is_named or not link.is_file() or self._looks_like_one(Path(link.path))

    def refuse_links(self) -> None:
        """Once all is looked through, refuse the links that were not followed, but for those to what was found."""
        found = set(map(self.checkpoints.relative, range(len(self.checkpoints)))) if self.links else set()
        for path, to, what in self.links:
            target = path.resolve()
            is_inside = target.is_relative_to(self.root)
            if not is_inside or (what == "file" and str(target.relative_to(self.root)) not in found):
                self._refuse(path, "symlink", f"{to}, not followed", "Pass --follow-symlinks to follow links.", what)

    def _looks_like_one(self, path: Path) -> bool:
        name = path.name.lower()
        if name.endswith(self.convention.checkpoint.other_suffixes) and not (
            name.endswith(".tar") and containers.is_tar(path)
        ):
            return True
        return self._is_half_written(path)

    def _is_half_written(self, path: Path) -> bool:
        """Whether it is what programs make of a checkpoint on its way, or pack it into, and that is not there."""
        name = checkpoint_name(path, self.convention)
        return name is not None and not os.path.lexists(path.with_name(name))

    def _pass_over(self, path: Path) -> None:
        if folders.is_partial(path.name) or contents.is_system_name(path.name):
            return
        if path.parent != self.root and containers.is_checkpoint_folder(path.parent):
            self.passed_over.add(f"{path.parent.relative_to(self.root)}/")
        else:
            self.passed_over.add(str(path.relative_to(self.root)))

    def _is_wandb_link(self, path: Path) -> bool:
        """Whether a link is W&B's own: to the latest run, to a log in its folder, or to a file that a run gave it."""
        target = Path(os.readlink(path)).parts  # noqa: PTH115
        raw = self.convention.raw
        if WANDB_FILES in path.parts and any(part.startswith(raw.wandb_runs) for part in path.parts):
            return path.resolve().is_relative_to(self.root)
        return path.name in raw.wandb_ignored or bool(target and target[0].startswith(raw.wandb_runs))

    def _record(self, path: Path) -> None:
        try:
            if path.name == tree_records.RUN_FILE:
                self.records[path.parent] = tree_records.read_record(path.parent)
            else:
                self.lists.append(tree_records.read_overwritten(path.parent))
        except RefusedError as error:
            if not isinstance(error.__cause__, OSError):
                return  # some other program's file; what lies beside it is read as if it were not there
            if path.name == tree_records.RUN_FILE:
                self.unread_records.append(path.parent)
            self._refuse(
                path,
                "unreadable",
                f"cannot be read: {error.__cause__.strerror}",
                "See to it that you may read it and that its disk is well, and ingest again.",
            )

    def _is_wandb_run(self, folder: Path, names: set[str]) -> bool:
        if not folder.name.startswith(self.convention.raw.wandb_runs):
            return wandb_runs.is_renamed_run(names)
        return not names.isdisjoint({WANDB_FILES, *_OLD_FILES}) or any(name.endswith(".wandb") for name in names)

    def _refuse(self, path: Path, code: str, message: str, fix: str, what: str = "file") -> None:
        relative = str(path.relative_to(self.root)) if path != self.root else "."
        self.refusals.append(Refusal(source=relative, code=code, message=message, fix=fix, what=what))
