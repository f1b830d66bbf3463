"""Reading one file of a source: its configuration, its hash, its name in the tree, and its place."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from ckptman.formats import CheckpointInfo, folder_bytes
from ckptman.formats import whole as whole_files
from ckptman.fs import FileState
from ckptman.fs import files as fs_files
from ckptman.raw.beside import Beside, Evidence, Reading
from ckptman.raw.scanning import Around, SourceCheckpoint, SourceFiles
from ckptman.raw.wandb_index import Claim, WandbIndex
from ckptman.rules import Convention, Place, naming, placement, terms
from ckptman.text import RefusedError
from ckptman.tree import records


class Said(NamedTuple):
    """What of a file's header is asked for here, as `CheckpointInfo` has it."""

    iters_done: int | None
    config: Mapping[str, Any] | None
    run_id: str | None
    unused_configs: tuple[str, ...]
    opaque: tuple[str, ...]

    @classmethod
    def by(cls, info: CheckpointInfo) -> Said:
        """What a header says."""
        return cls(info.iters_done, info.config, info.run_id, info.unused_configs, info.opaque)


class Read(NamedTuple):
    """What was read of a file."""

    info: Said
    content: str
    """As in `Examined`."""
    state: FileState
    parts: tuple[folder_bytes.HashedFile, ...] = ()


_NO_SEED = object()


class Alike(NamedTuple):
    """A configuration of which no more than the seed differs among files, held once for all of them."""

    values: Mapping[str, Any]
    seed_key: str

    def with_seed(self, seed: object) -> Mapping[str, Any]:
        """The configuration of the file with this seed."""
        return self.values if seed is _NO_SEED else {**self.values, self.seed_key: seed}


class _Told(NamedTuple):
    """A configuration in plain values that are one for all that differ in their seed alone."""

    text: bytes
    seed: object
    has_seed: bool


def _told(config: Mapping[str, Any], seed_key: str) -> _Told:
    """A configuration in plain values.

    Raises:
        ValueError: it holds others.
    """
    has_seed = seed_key in config
    # A version that has no references: equal ones are of the same bytes.
    text = marshal.dumps({**config, seed_key: None} if has_seed else dict(config), 2)
    return _Told(text, config.get(seed_key), has_seed)


class _AlikeKnown:
    """The configurations that were met."""

    def __init__(self, seed_key: str) -> None:
        self._seed_key = seed_key
        self._known: dict[bytes, Alike] = {}
        self._last: tuple[Mapping[str, Any], Alike, object] | None = None

    def config_of(self, told: _Told) -> Mapping[str, Any]:
        """The configuration that a process told."""
        digest = _digest(told.text)
        alike = self._known.get(digest)
        if alike is None:  # many have the same keys: one text for each
            values = {intern(key): value for key, value in marshal.loads(told.text).items()}
            alike = self._known[digest] = Alike(values, self._seed_key)
        seed = told.seed if told.has_seed else _NO_SEED
        config = alike.with_seed(seed)
        self._last = config, alike, seed
        return config

    def of(self, config: Mapping[str, Any]) -> tuple[Alike, object]:
        """What a configuration shares with others, and its seed; `Alike.with_seed` gives it again."""
        if self._last is not None and self._last[0] is config:
            return self._last[1:]
        try:
            told = _told(config, self._seed_key)
        except ValueError:
            return Alike(config, self._seed_key), _NO_SEED
        alike = self._known.setdefault(_digest(told.text), Alike(config, self._seed_key))
        return alike, told.seed if told.has_seed else _NO_SEED


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


class Common(NamedTuple):
    """What files have in common that are alike but for their seeds: held once for all of them."""

    among: SourceFiles
    name: str
    kind: str
    step: int | None
    alike: Alike
    config_source: str
    place: Place
    """Without the seed."""
    unused_configs: tuple[str, ...]
    opaque: tuple[str, ...]
    is_end: bool


class Own(NamedTuple):
    """What few files have."""

    packed: bytes = b""
    """The state, where that is no longer as it was found."""
    home: Around | None = None
    """As in `SourceCheckpoint`."""
    run_id: str | None = None
    parts: tuple[folder_bytes.HashedFile, ...] = ()
    beside: tuple[records.BesideFile, ...] = ()


_NOTHING = Own()


@dataclass(frozen=True, slots=True)
class Examined:
    """A file of the source, read. As of `SourceCheckpoint`, there may be hundreds of thousands."""

    common: Common
    at: int
    """Its place among the files of the source, which have its content."""
    own_seed: object
    seed: int | None
    """The one by which it is placed."""
    own: Own

    @property
    def source(self) -> SourceCheckpoint:
        """Where it is."""
        return SourceCheckpoint(self.common.among, self.at, self.own.home)

    @property
    def state(self) -> FileState:
        """When it was read."""
        return FileState.unpacked(self.own.packed or self.common.among.packed(self.at))

    @property
    def content(self) -> str:
        """The same for files of the same bytes: the SHA-256, or what their headers say of it."""
        return self.common.among.content(self.at)

    @property
    def sum(self) -> bytes | str:
        """The same, in less memory."""
        return self.common.among.sum(self.at)

    @property
    def name(self) -> str:
        """Its name in the tree."""
        return self.common.name

    @property
    def kind(self) -> str:
        """As its name says."""
        return self.common.kind

    @property
    def step(self) -> int | None:
        """Iterations, as far as that is known."""
        return self.common.step

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration."""
        return self.common.alike.with_seed(self.own_seed)

    @property
    def config_source(self) -> str:
        """Where that is from."""
        return self.common.config_source

    @property
    def place(self) -> Place:
        """Where it belongs."""
        return self.common.place.with_seed(self.seed)

    @property
    def run_id(self) -> str | None:
        """The run id that the file itself holds."""
        return self.own.run_id

    @property
    def unused_configs(self) -> tuple[str, ...]:
        """Keys of it that look like a configuration and were not used."""
        return self.common.unused_configs

    @property
    def parts(self) -> tuple[folder_bytes.HashedFile, ...]:
        """The files of a folder."""
        return self.own.parts

    @property
    def opaque(self) -> tuple[str, ...]:
        """Keys of the configuration of which W&B may have made what the file does not tell."""
        return self.common.opaque

    @property
    def beside(self) -> tuple[records.BesideFile, ...]:
        """The files beside it that gave its configuration, keys of it, or its step."""
        return self.own.beside

    @property
    def is_end(self) -> bool:
        """Whether it is of the end of its run, by the recipe."""
        return self.common.is_end

    def at_place_of(self, other: Examined) -> Examined:
        """The same file, where another one belongs."""
        return replace(self, common=self.common._replace(place=other.common.place), seed=other.seed)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.state.size for part in self.parts) if self.parts else self.state.size

    def has_configuration_of(self, other: Examined) -> bool:
        """Whether the two are known to have one configuration, which is not compared."""
        mine, theirs = self.own_seed, other.own_seed
        is_same = mine is theirs or (type(mine) is type(theirs) is int and mine == theirs)
        return is_same and self.common.alike is other.common.alike

    @property
    def saved_at(self) -> float:
        """Modification time, in seconds since 1970."""
        return self.state.mtime_ns / 1e9

    @property
    def claim(self) -> Claim:
        """The file, as one whose run is sought."""
        return _OfFile(self)


class _OfFile(NamedTuple):
    """A file, as `Claim`."""

    file: Examined

    @property
    def path(self) -> Path:
        return self.file.source.path

    @property
    def name(self) -> str:
        return self.file.source.name

    @property
    def config(self) -> Mapping[str, Any]:
        return self.file.config

    @property
    def saved_at(self) -> float:
        return self.file.saved_at

    @property
    def content(self) -> str:
        return self.file.content

    @property
    def run_id(self) -> str | None:
        return self.file.run_id

    @property
    def opaque(self) -> Collection[str]:
        return self.file.opaque

    @property
    def is_end(self) -> bool:
        return self.file.is_end


def group_said(config: Mapping[str, Any], folder: str | None, convention: Convention) -> str:
    """The group that a configuration says, else the one that the folders around its file say.

    Raises:
        RefusedError: (`no-group`) if neither says one: an experiment without a name is not filed under another's.
    """
    said = config.get(convention.group_key)
    group = said if isinstance(said, str) and said else folder
    if group is None:
        raise RefusedError(
            "neither its configuration nor a folder around it says its group",
            code="no-group",
            fix=f"Put it into a folder <group>/{convention.folders.task(0)}: its group and its task.",
        )
    return group


def _no_kind() -> RefusedError:
    return RefusedError(
        "the convention has no kind of checkpoint that it could be",
        code="no-name",
        fix="Add one to name.prefixes in ckptman.yaml.",
    )


LEARN = "Where an experiment has rules of its own, ckptman learn FOLDER proposes them, as a ckptman.yaml."
"""What helps where no rule describes an experiment."""

_NO_CONFIG_FIX = {
    False: "Give it the name that its training gave it, which says its configuration.",
    True: "Put its configuration into it, as config.json or under a key of the convention; or name the folder by it.",
}
"""By whether it is a folder."""


_MANY = 128
"""Files below which no process is worth its start."""
_SHARE = 24
"""Files that a process reads before it tells."""
_LARGE = 1 << 18
"""Bytes that take longer to hash than another thread takes to begin."""

_Plain = tuple[tuple[Any, ...], tuple[Any, ...] | None, str, bytes]
"""What was read of a file, in plain values: as `Said`, but its configuration apart; its content, and its state."""


class Examiner:
    """Reads files of a source, and settles where a name and a configuration disagree."""

    def __init__(
        self,
        convention: Convention,
        wandb: WandbIndex,
        beside: Beside,
        *,
        trust: naming.Trust,
        follow_symlinks: bool,
        whole: bool,
    ) -> None:
        self._convention = convention
        self._naming = naming.naming_of(convention)
        self._wandb = wandb
        self._beside = beside
        self._trust = trust
        self._follow_symlinks = follow_symlinks
        self._whole = whole
        self._alike = _AlikeKnown(convention.seed_key)
        self._shelves: placement.Shelves = {}
        self._numbers: dict[int | None, int | None] = {}
        """Steps and seeds that were met: each is held once."""
        self._common: dict[tuple[object, ...], Common] = {}
        """By what they hold, but where that holds more, by which that is."""
        self._settled: dict[tuple[object, ...], Common] = {}
        """By what tells a file whose name and configuration agree, but for its seed (`_key_of`)."""

    def examine(self, file: SourceCheckpoint, read: Read, *, called: str | None = None) -> Examined:
        """Tell what a file is that was `read`; `called` is the name of a file of the same bytes, for one whose own name
        says nothing.

        Raises:
            RefusedError: if it is no checkpoint of the convention, or has no place.
        """
        info, state = read.info, read.state
        if not state.same_but_ctime(file.state):
            raise RefusedError("it changed while it was looked at", code=fs_files.CHANGED)
        beside = self._beside.of(file.path) if self._beside.finds_any else Evidence(())
        if info.iters_done is None and beside.step is not None:
            info = info._replace(iters_done=beside.step)
        else:
            beside = beside.without_steps()
        config, config_source = self._config_of(file, info, beside)
        config, notes = self._completed(config, config_source, beside) if beside.readings else (config, ())
        settled = None if called is not None or beside.readings else self._key_of(file, info, config, config_source)
        if settled is not None and (common := self._settled.get(settled)) is not None:
            own_seed = self._alike.of(config)[1]
            return self._examined(file, read, common, own_seed, placement.seed_of(own_seed))
        before = config
        name, parsed, config, config_source = self._name_of(file, info, config, config_source, called)
        key = self._convention.seed_key
        if key not in self._convention.lifted(config) and (seed := parsed.values.get(key, file.seed)) is not None:
            config = {**config, key: seed}
        parsed = parsed.completed(info.iters_done, config, self._convention)
        if parsed.prefix is None:
            raise _no_kind()
        place = placement.place_of(
            config,
            self._convention,
            source_group=group_said(config, file.group, self._convention),
            source_task=file.task,
            shelves=self._shelves,
        )
        alike, own_seed = self._alike.of(config)
        kind, step = parsed.prefix.name, self._numbers.setdefault(parsed.step, parsed.step)
        is_end = parsed.prefix.final and step is not None and step == parsed.prefix.expected_step(config)
        unused, opaque = info.unused_configs, info.opaque if config_source == "checkpoint" else ()
        alike_in: tuple[object, ...] = (
            name, kind, step, id(alike), config_source, id(place.family), place.notes, unused, opaque, is_end,
        )  # fmt: skip
        common = self._common.get(alike_in)
        if common is None:
            common = self._common[alike_in] = Common(
                among=file.among,
                name=intern(name),
                kind=kind,
                step=step,
                alike=alike,
                config_source=config_source,
                place=place.with_seed(None),
                unused_configs=unused,
                opaque=opaque,
                is_end=is_end,
            )
        if settled is not None and config is before and self._convention.seed_key not in parsed.values:
            self._settled[settled] = common
        return self._examined(file, read, common, own_seed, place.seed, notes)

    def _key_of(
        self, file: SourceCheckpoint, info: Said, config: Mapping[str, Any], config_source: str
    ) -> tuple[object, ...] | None:
        """By what a file is known that differs from one before in the seed alone, where that says nothing else."""
        if config_source != "checkpoint" or file.is_folder or not self._convention.has_seed_apart:
            return None
        alike, own_seed = self._alike.of(config)
        if own_seed is _NO_SEED:
            return None
        name = file.name_by(self._convention)
        return id(alike), name, file.group, file.task, info.iters_done, info.unused_configs, info.opaque

    def _examined(
        self,
        file: SourceCheckpoint,
        read: Read,
        common: Common,
        own_seed: object,
        seed: int | None,
        notes: tuple[records.BesideFile, ...] = (),
    ) -> Examined:
        packed = read.state.packed
        own = Own(b"" if packed == file.packed else packed, file.home, read.info.run_id, read.parts, notes)
        file.among.note_content(file.place, read.content)
        return Examined(
            common=common,
            at=file.place,
            own_seed=self._numbers.setdefault(own_seed, own_seed) if type(own_seed) is int else own_seed,
            seed=self._numbers.setdefault(seed, seed),
            own=_NOTHING if own == _NOTHING else own,
        )

    def read(self, file: SourceCheckpoint) -> Read:
        """Read a file: its header, or every byte. Several may be read at once.

        Raises:
            RefusedError: if it is no checkpoint, or is damaged.
        """
        rules, follow = self._convention.checkpoint, self._follow_symlinks
        if not self._whole:
            header = whole_files.read_header(file.path, rules, follow_symlinks=follow)
            return Read(Said.by(header.info), header.content, header.state)
        read = whole_files.read_whole(file.path, rules, follow_symlinks=follow)
        if read.damage is not None:
            raise read.damage
        return Read(Said.by(read.info), read.sha256, read.state, read.parts)

    def read_all(self, files: Sequence[SourceCheckpoint]) -> Iterator[tuple[SourceCheckpoint, Callable[[], Read]]]:
        """Files, each with what gives what `read` gives of it, or raises that; those that are alike after one another.

        Of many, several processes read; of few, other threads begin the large ones beforehand.
        """
        if len(files) < _MANY:
            held = fs_files.in_turn(self.read, files, is_large=lambda file: file.state.size >= _LARGE)
            yield from zip(files, held, strict=True)
            return
        # Files of one name are of one configuration, but for their seeds, and known by each other (`formats.alike`).
        order = sorted(files, key=lambda file: (file.file, str(file.group), str(file.task)))
        shares = [order[at : at + _SHARE] for at in range(0, len(order), _SHARE)]
        found = chain.from_iterable(fs_files.in_processes(self._plain, shares))
        for file, plain in zip(order, found, strict=True):
            yield file, partial(self.read, file) if plain is None else partial(self._of_plain, *plain)

    def _of_plain(self, said: tuple[Any, ...], told: tuple[Any, ...] | None, content: str, packed: bytes) -> Read:
        config = None if told is None else self._alike.config_of(_Told(*told))
        return Read(Said(*said)._replace(config=config), content, FileState.unpacked(packed))

    def _plain(self, files: Sequence[SourceCheckpoint]) -> list[_Plain | None]:
        """What was read of files, in plain values; None of those that are read again where more is asked for."""
        found: list[_Plain | None] = []
        texts: dict[bytes, bytes] = {}
        for file in files:
            try:
                read = None if file.is_folder else self.read(file)
                found.append(None if read is None else self._in_plain(read, texts))
            except (RefusedError, ValueError):  # it is no checkpoint, or holds other values
                found.append(None)
        return found

    def _in_plain(self, read: Read, texts: dict[bytes, bytes]) -> _Plain:
        """`texts` are those of configurations before, each of which is told once."""
        config, told = read.info.config, None
        if config is not None:
            told = _told(config, self._convention.seed_key)
            told = told._replace(text=texts.setdefault(told.text, told.text))
        return tuple(read.info._replace(config=None)), told and tuple(told), read.content, read.state.packed

    def _config_of(self, file: SourceCheckpoint, info: Said, beside: Evidence) -> tuple[Mapping[str, Any], str]:
        """The configuration, and where it is from: the file, else what lies beside it, else a W&B record, else its
        name."""
        if info.config:
            return info.config, "checkpoint"
        if (found := self._beside_config(file, beside)) is not None:
            return found, records.FROM_BESIDE
        try:
            name = self._naming.parse(file.name_by(self._convention))
        except RefusedError as error:
            said = f": {error.message}" if not file.is_folder else f": {file.path.name!r}"
            raise RefusedError(
                f"there is no configuration in it, and its name says none{said}",
                code="no-config",
                fix=f"{_NO_CONFIG_FIX[file.is_folder]} {LEARN}",
            ) from None
        recorded = self._wandb.config_by_name(
            file.path, name, group=file.group, seed=file.seed, saved_at=file.state.mtime_ns / 1e9
        )
        if recorded is not None:
            return recorded
        seed = {} if file.seed is None else {self._convention.seed_key: file.seed}
        return {**placement.said_by_group(file.group, self._convention), **name.values, **seed}, "name"

    def _beside_config(self, file: SourceCheckpoint, beside: Evidence) -> Mapping[str, Any] | None:
        """The configuration beside a file that holds none, with what its name adds; None if it says otherwise."""
        said: dict[str, Any] = {} if file.seed is None else {self._convention.seed_key: file.seed}
        with suppress(RefusedError):
            said |= self._naming.parse(file.name_by(self._convention)).values
        agreeing = beside.agreeing_with(said, self._convention.ignored_keys).config
        has = self._convention.lifted(agreeing)  # under a path, too, as names say what stands in a section
        return {**{key: value for key, value in said.items() if key not in has}, **agreeing} if agreeing else None

    def _completed(
        self, config: Mapping[str, Any], config_source: str, beside: Evidence
    ) -> tuple[Mapping[str, Any], tuple[records.BesideFile, ...]]:
        """A configuration with the keys that only files beside the checkpoint have; and what these files gave."""
        agreeing = beside.agreeing_with(config, self._convention.ignored_keys)
        added = {key: value for key, value in agreeing.values.items() if key not in config}
        is_beside = config_source == records.FROM_BESIDE
        notes = [self._note(reading, added, agreeing.config if is_beside else None) for reading in agreeing.readings]
        return ({**config, **added} if added else config), tuple(note for note in notes if note.gave or note.keys)

    def _note(self, reading: Reading, added: Mapping[str, Any], config: Mapping[str, Any] | None) -> records.BesideFile:
        gave = (("config",) if config and reading.config is config else ()) + (
            ("step",) if reading.step is not None else ()
        )
        keys = tuple(key for key, value in reading.values.items() if added.get(key) is value)
        return records.BesideFile(path=self._beside.relative(reading.path), gave=gave, keys=keys)

    def _name_of(
        self, file: SourceCheckpoint, info: Said, config: Mapping[str, Any], config_source: str, called: str | None
    ) -> tuple[str, naming.CheckpointName, Mapping[str, Any], str]:
        """The file's name in the tree, what it says, and the configuration after a disagreement is settled."""
        name = file.name_by(self._convention)
        try:
            parsed = self._naming.parse(name)
        except RefusedError as error:
            if self._convention.keep_names:
                return name, naming.CheckpointName(None, {}, None), config, config_source
            if called is not None:
                return called, self._naming.parse(called), config, config_source
            if self._trust is naming.Trust.CONFIG or file.is_folder:  # what writes folders does not know the convention
                return *self._name_from_config(info, config), config, config_source
            raise RefusedError(
                error.message,
                code=error.code,
                fix=f"Rename it, or let the configuration inside name it: --trust config. {LEARN}",
            ) from None
        differences = [str(difference) for difference in self._naming.disagreements(parsed, config)]
        if None not in (info.iters_done, parsed.step) and parsed.step != info.iters_done:
            tag = self._convention.step_tag
            differences.append(f"{parsed.step} iterations in the name ({tag}) and {info.iters_done} in the file")
        if not differences:
            silent = {key: value for key, value in parsed.values.items() if config.get(key) is None}
            if silent and self._trust is naming.Trust.NAME:
                return name, parsed, {**config, **silent}, "name"
            return name, parsed, config, config_source
        if self._trust is naming.Trust.CONFIG:
            return *self._name_from_config(info, config, parsed.scheme), config, config_source
        if self._trust is naming.Trust.NAME:
            return name, parsed, {**config, **parsed.values}, "name"
        raise RefusedError(
            f"the name disagrees with the configuration inside: {'; '.join(differences)}",
            code="name-disagrees",
            fix="Say which is right: --trust config (the file gets the name its configuration gives) or --trust name.",
        )

    def _name_from_config(
        self, info: Said, config: Mapping[str, Any], scheme: terms.Scheme | None = None
    ) -> tuple[str, naming.CheckpointName]:
        """The name that a configuration gives; by the scheme that the file's own name follows, if that can write it."""
        if info.iters_done is None:
            raise RefusedError(
                "it does not say how many iterations it holds, so its configuration cannot name it",
                code="no-name",
                fix="Rename it by the convention.",
            )
        prefix = self._convention.kind_at(info.iters_done, config)
        if prefix is None:
            raise _no_kind()
        if scheme is not None and (made := scheme.format(config, prefix.name, info.iters_done)) is not None:
            return made, self._naming.parse(made)
        try:
            name = self._naming.name_for(config, prefix, info.iters_done)
        except RefusedError as error:
            raise RefusedError(error.message, code=error.code, fix=f"{error.fix} {LEARN}") from None
        return name, self._naming.parse(name)
