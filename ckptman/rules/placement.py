"""Where a checkpoint belongs in the tree: decided by the configuration inside the file.

`<layernorm folder>/<regime folder>/<group>/<task folder>/<run folder>/<file>`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

from ckptman.rules import comparing
from ckptman.rules.grids import group_names, outside, task_of
from ckptman.rules.naming import naming_of
from ckptman.rules.recipe import SEED_END
from ckptman.rules.terms import Convention, GroupPattern
from ckptman.text import CkptmanError, ConfigurationError, RefusedError, UsageError, wording

_Path = TypeVar("_Path", bound=PurePath)


@dataclass(frozen=True)
class Place:
    """The task folder a run belongs to, and what tells it apart from other runs of the same seed there."""

    layernorm: bool
    regime: str
    group: str
    task: int
    seed: int | None
    notes: tuple[str, ...]
    """Values of axes outside the numbering, such as `mlp0`, for the run folder's name."""
    folder: PurePosixPath
    """The task folder, relative to the root."""

    def run_folder(self, convention: Convention, *more: str) -> PurePosixPath:
        """The run's folder, relative to the root; `more` tells apart a second run of the same seed."""
        return self.folder / convention.folders.run(self.seed, *self.notes, *more)

    def root_of(self, folder: Path) -> Path | None:
        """The root of the tree in which `folder` is this task folder; None where it is another one."""
        wanted = self.folder.parts
        return Path(*folder.parts[: -len(wanted)]) if folder.parts[-len(wanted) :] == wanted else None


@dataclass(frozen=True)
class Levels:
    """What the path of a folder of a tree says, level by level from the root; None for those it does not reach."""

    layernorm: bool | None = None
    regime: str | None = None
    group: str | None = None
    task: int | None = None
    run: str | None = None
    """The name of the run's folder."""


def family_of(config: Mapping[str, Any], convention: Convention) -> tuple[bool, str]:
    """The family of a configuration: with LayerNorm or not, and `dynamic` or `fixed`.

    Raises:
        RefusedError: (`no-family`) if the configuration lacks a key that decides it.
    """
    families = convention.families
    layernorm = comparing.flag(config.get(families.layernorm_config))
    if layernorm is None:
        raise _no_family(families.layernorm_config, config.get(families.layernorm_config), "true or false")
    lengths = [comparing.whole(config.get(key)) for key in families.fixed_when_equal]
    for key, length in zip(families.fixed_when_equal, lengths, strict=True):
        if length is None:
            raise _no_family(key, config.get(key), "a whole number")
    return layernorm, "fixed" if lengths[0] == lengths[1] else "dynamic"


def family_folder(layernorm: bool, regime: str, convention: Convention) -> PurePosixPath:
    """The folder of a family, relative to the root."""
    families = convention.families
    return PurePosixPath(families.layernorm_folders[layernorm], families.regime_folders[regime])


def group_pattern(name: str, convention: Convention) -> GroupPattern | None:
    """The known pattern that a group's name follows."""
    return next((group for group in convention.groups if group.parse(name) is not None), None)


def parse_group(name: str, convention: Convention) -> tuple[GroupPattern, int | None]:
    """The pattern that a group's name follows, and its K; None for a pattern without K.

    Raises:
        UsageError: (`unknown-group`) for a name of no known pattern.
    """
    pattern = group_pattern(name, convention)
    parsed = None if pattern is None else pattern.parse(name)
    if pattern is None or parsed is None:
        raise UsageError(
            f"{name!r} is of no known group pattern, so its task ids mean what its source says"
            + wording.did_you_mean(name, group_names(convention)),
            code="unknown-group",
            fix=f"Known are: {', '.join(pattern.pattern for pattern in convention.groups)}",
        )
    return pattern, parsed.get("K")


def default_pattern(convention: Convention, *, layernorm: bool, regime: str) -> GroupPattern:
    """The first group pattern of a family, which is meant where no group is named.

    Raises:
        ConfigurationError: (`no-group`) if there is none.
    """
    found = _patterns_of(layernorm, regime, convention)
    if not found:
        raise _no_group(ConfigurationError, layernorm, regime)
    return found[0]


def group_of(config: Mapping[str, Any], said: str | None, convention: Convention) -> tuple[str, GroupPattern | None]:
    """The group a configuration belongs to, and its pattern (None for a group that is not of a known pattern).

    A name of a pattern of the configuration's family is kept only if it says what the configuration says; otherwise
    family and K give the name. Any other name is kept as it is: an experiment called like a group of another family is
    one of its own.

    Args:
        said: The group that the configuration or the source folder names, if any.
    """
    layernorm, regime = family_of(config, convention)
    mine = _patterns_of(layernorm, regime, convention)
    values = {**config, "K": config.get(convention.families.k_config)}
    for group in mine:
        parsed = group.parse(said or "")
        if parsed is not None and all(comparing.same_value(values.get(key), value) for key, value in parsed.items()):
            return str(said), group
    if said is not None and group_pattern(said, convention) not in mine:
        return _safe_folder(said), None
    if not mine:
        raise _no_group(RefusedError, layernorm, regime)
    return mine[0].format({key: comparing.canonical(value) for key, value in values.items()}), mine[0]


def place_of(
    config: Mapping[str, Any],
    convention: Convention,
    *,
    source_group: str | None = None,
    source_task: int | None = None,
) -> Place:
    """Where a run with this configuration belongs.

    Args:
        config: The training configuration.
        source_group: The group that the source says, for a configuration of no known group.
        source_task: The task id at the source, which stays the task id in a group of no known pattern.

    Raises:
        RefusedError: if the configuration does not say, or says something outside the grid.
    """
    layernorm, regime = family_of(config, convention)
    group, pattern = group_of(config, source_group, convention)
    notes: tuple[str, ...] = ()
    if pattern is None:
        if source_task is None:
            raise RefusedError(
                f"the group {group!r} is of no known pattern, and the source folder has no task id",
                code="no-task",
                fix="Put the file into a task folder, or add a pattern for the group to ckptman.yaml.",
            )
        task = source_task
    else:
        grid = convention.grids[pattern.grid]
        task = task_of(grid, regime, convention.numbering, config)
        naming = naming_of(convention)
        notes = tuple(naming.short(axis, config) for axis in outside(grid, regime, convention.numbering))
    seed = comparing.whole(config.get(convention.seed_key))
    folder = family_folder(layernorm, regime, convention) / group / convention.folders.task(task)
    return Place(
        layernorm=layernorm,
        regime=regime,
        group=group,
        task=task,
        seed=seed if seed is not None and 0 <= seed < SEED_END else None,
        notes=notes,
        folder=folder,
    )


def levels_of(folder: PurePath, convention: Convention) -> Levels | None:
    """What a folder's path, relative to the root of a tree, says; None where a name is not one of its level.

    A group's folder may have any name; whether it is of a known pattern, `group_pattern` tells.
    """
    families, folders = convention.families, convention.folders
    layernorm = {name: key for key, name in families.layernorm_folders.items()}
    regime = {name: key for key, name in families.regime_folders.items()}
    readers: tuple[Callable[[str], Any], ...] = (
        layernorm.get,
        regime.get,
        str,
        folders.parse_task,
        lambda name: name if folders.is_run(name) else None,
    )
    if len(folder.parts) > len(readers):
        return None
    said = [read(name) for read, name in zip(readers, folder.parts, strict=False)]
    return None if None in said else Levels(*said)


def root_above(folder: Path, convention: Convention) -> Path | None:
    """The root of the innermost tree that an absolute folder lies in, told by its family's folders; None outside."""
    parts = folder.parts
    return next(
        (
            Path(*parts[:index])
            for index in range(len(parts) - 2, 0, -1)
            if levels_of(PurePath(*parts[index : index + 2]), convention) is not None
        ),
        None,
    )


def group_around(path: PurePosixPath, convention: Convention) -> PurePosixPath | None:
    """The group's folder in which a path of a tree, relative to its root, lies; None outside of any family."""
    folder = PurePosixPath(*path.parts[:3])
    levels = levels_of(folder, convention) if len(path.parts) > 3 else None
    return folder if levels is not None else None


def group_folder_of(task_folder: _Path, convention: Convention) -> _Path:
    """The group's folder of a task folder; a folder that is no task folder stands for itself."""
    return task_folder if convention.folders.parse_task(task_folder.name) is None else task_folder.parent


def task_folder_of(path: _Path, convention: Convention) -> _Path | None:
    """The innermost task folder around a file, or that a folder itself is; None where there is none."""
    return next((p for p in (path, *path.parents) if convention.folders.parse_task(p.name) is not None), None)


def named_by_folders(path: PurePath, convention: Convention) -> tuple[str | None, int | None, int | None]:
    """The group, task id and seed that the names of the folders around a file say; None for what none says."""
    seed = next((s for folder in path.parents if (s := convention.folders.parse_run(folder.name)) is not None), None)
    folder = task_folder_of(path.parent, convention)
    if folder is not None:
        return folder.parent.name or None, convention.folders.parse_task(folder.name), seed
    return next((p.name for p in path.parents if group_pattern(p.name, convention) is not None), None), None, seed


def _patterns_of(layernorm: bool, regime: str, convention: Convention) -> list[GroupPattern]:
    """The group patterns of a family."""
    return [group for group in convention.groups if (group.layernorm, group.regime) == (layernorm, regime)]


def _no_group(kind: type[CkptmanError], layernorm: bool, regime: str) -> CkptmanError:
    return kind(
        f"no group pattern of the convention is for {'with' if layernorm else 'without'} LayerNorm, {regime}",
        code="no-group",
        fix="Add a group pattern for this family to ckptman.yaml.",
    )


def _safe_folder(name: str) -> str:
    """A group's name, if it can be a folder's."""
    if (
        name in ("", ".", "..")
        or name.startswith(".")
        or name != name.strip()
        or re.search(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udc7f\udd00-\udfff]", name)  # of surrogates, those of other bytes
        or len(name.encode("utf-8", "surrogateescape")) > 200
    ):
        raise RefusedError(
            f"the group name {name!r} cannot be a folder's name",
            code="unsafe-group",
            fix="Rename the group: a name may hold neither slashes nor control characters, nor begin with a dot, nor "
            "begin or end with white space.",
        )
    return name


def _no_family(key: str, value: Any, wanted: str) -> RefusedError:
    return RefusedError(
        f"the configuration has {key} = {value!r} where {wanted} is needed to tell the family",
        code="no-family",
        fix="If the file's name says it, pass --trust name.",
    )
