"""Checks of single checkpoint files: readable, rightly named, at the right step, with the right weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ckptman.formats import CheckpointInfo, expected_weights, refusals, show_path
from ckptman.rules import Convention, comparing, naming, recipe, terms
from ckptman.tree import Finding, Inventory, contents, finding

_MOST_LISTED = 4
"""Differences that one message names."""
_RENAME = "Rename it, unless a file of the right name is there; or add its fields to the convention in ckptman.yaml."
_OTHER_FIX = frozenset({"foreign", "legacy-format", "unsafe-pickle", "pickle-bomb"})
"""Refusals of files that are whole: another copy would be refused too."""


def check_files(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Check every checkpoint file by itself."""
    for file in inventory.files:
        yield from _check_readable(file, inventory.scan.root)
        is_kept = convention.keep_names and file.entry is not None
        if file.name is None and file.refusal is None and file.path not in inventory.told and not is_kept:
            fix = _RENAME if file.entry is None else None
            yield finding("unknown-name", file.path, file.name_problem, fix)
    for run in inventory.runs:
        by_recipe = run.once(("recipe", convention), partial(_ByRecipe, run.config, convention))
        for file in run.files:
            if file.path not in inventory.told:
                yield from _check_name(file, run, convention)
                yield from _check_recipe(file, by_recipe)
                yield from _check_weights(file, by_recipe)
                yield from _check_foreign(file)
                yield from _check_fields(file)


def _check_readable(file: contents.CheckpointFile, root: Path) -> Iterator[Finding]:
    error = file.refusal or file.damage
    if file.info is not None and file.info.missing and not (file.entry and file.entry.parts):  # else run.json tells
        missing = _listed(list(file.info.missing))
        message = f"{len(file.info.missing)} of its files are not there, or not whole: {missing} [incomplete-folder]"
        yield finding("bad-checkpoint", file.path, message, refusals.REFUSALS["incomplete-folder"].fix)
    if error is None or (error is file.damage and error.code == "incomplete-folder"):
        return
    message = error.message.removeprefix(f"{show_path(root / file.path)}: ")
    if error.code == "unreadable":
        yield finding("unreadable", file.path, message)
    elif file.refusal is not None:
        is_other = file.entry is None and error.code in _OTHER_FIX
        fix = f"{error.fix} Where that cannot be done, move it out of the tree." if is_other else None
        yield finding("bad-checkpoint", file.path, f"{message} [{error.code}]", fix)
    else:
        yield finding("bad-crc", file.path, message)


def _check_name(file: contents.CheckpointFile, run: contents.Run, convention: Convention) -> Iterator[Finding]:
    if file.name is None or file.info is None:
        return
    inside = file.info.config or {}
    differences = [str(item) for item in naming.naming_of(convention).disagreements(file.name, inside)]
    done = file.info.iters_done
    wrong_step = None not in (done, file.name.step) and done != file.name.step
    if run.record is not None and run.record.config_source == contents.FROM_NAME:
        if wrong_step:
            differences.append(f"{file.name.step} iterations in the name and {done} in the file")
        if differences:
            yield finding("overruled-config", file.path, f"by the decision at its ingest, {_listed(differences)}")
        return
    if differences:
        yield finding("name-disagrees", file.path, _listed(differences))
    if wrong_step:
        yield finding("step-disagrees", file.path, f"{file.name.step} iterations in the name, and {done} in the file")


def _check_foreign(file: contents.CheckpointFile) -> Iterator[Finding]:
    objects = [item for item in (file.info.foreign if file.info else ()) if item.how == "instance"]
    if objects:
        said = [f"{item.name} (in {', '.join(item.places)})" if item.places else item.name for item in objects]
        yield finding("foreign-object", file.path, f"instances of {'; '.join(said)}")


def _check_fields(file: contents.CheckpointFile) -> Iterator[Finding]:
    if file.info is not None and file.info.odd_fields:
        yield finding("odd-field", file.path, "; ".join(f"its {said}" for said in file.info.odd_fields))


class _ByRecipe:
    """What the configuration of a run says of its files, worked out once for all of them, and for all seeds."""

    def __init__(self, config: Mapping[str, Any], convention: Convention) -> None:
        self.config = config
        self.convention = convention
        self._steps: dict[str, int | None] = {}
        self._known: dict[int, tuple[object, list[str]]] = {}
        """Of weights by their identity, and how they differ: files of a kind have the same (`formats.alike`)."""

    @cached_property
    def end(self) -> int | None:
        """As `recipe.end_of_training`."""
        return recipe.end_of_training(self.config, self.convention)

    @cached_property
    def saved(self) -> Mapping[str, range | None]:
        """As `recipe.saved_by`."""
        return recipe.saved_by(self.config, self.convention)

    def expected_step(self, prefix: terms.Prefix) -> int | None:
        """As `Prefix.expected_step`."""
        if prefix.name not in self._steps:
            self._steps[prefix.name] = prefix.expected_step(self.config)
        return self._steps[prefix.name]

    @cached_property
    def _differences(self) -> Callable[[Mapping[str, tuple[int, ...]]], list[str]]:
        expected = expected_weights(self.config, self.convention.model)
        return (lambda _: []) if expected is None else expected.differences

    def wrong_shapes(self, info: CheckpointInfo) -> list[str]:
        """How weights differ from those that it says, if it says any."""
        known, found = self._known.get(id(info.tensors), (None, []))
        if known is not info.tensors:
            found = self._differences({tensor.name: tensor.shape for tensor in info.tensors})
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            self._known[id(info.tensors)] = info.tensors, found
        return found


_MOST_KNOWN = 8
"""Weights that are known by their identity: they are held."""


def _check_recipe(file: contents.CheckpointFile, by_recipe: _ByRecipe) -> Iterator[Finding]:
    config, convention = by_recipe.config, by_recipe.convention
    prefix = (file.name.prefix if file.name is not None else None) or convention.prefix(file.kind or "")
    if prefix is None or file.step is None:
        return
    expected, saved = by_recipe.expected_step(prefix), by_recipe.saved[prefix.name]
    if prefix.early and expected is not None and file.step < expected:
        return
    if expected is not None and saved is not None and file.step not in saved:
        more = "" if prefix.final else " (or a later multiple)"
        until = "" if prefix.final or by_recipe.end is None else f" and training ends after {by_recipe.end}"
        yield finding(
            "off-recipe",
            file.path,
            f"a {prefix.name} of this recipe is saved after {expected} iterations{more}, since {prefix.step_config} is "
            f"{config[prefix.step_config]}{until}; this one holds {file.step}",
        )


def _check_weights(file: contents.CheckpointFile, by_recipe: _ByRecipe) -> Iterator[Finding]:
    if file.info is None or file.info.missing:
        return
    if differences := by_recipe.wrong_shapes(file.info):
        yield finding("wrong-shapes", file.path, _listed(differences))
    model, trained = file.info.model_config or {}, file.info.config or {}
    unequal = sorted(key for key in model.keys() & trained.keys() if not comparing.same_value(model[key], trained[key]))
    if unequal:
        said = [f"{key} is {model[key]!r} for the model and {trained[key]!r} for the training" for key in unequal]
        yield finding("model-config-disagrees", file.path, _listed(said))


def _listed(differences: list[str]) -> str:
    more = len(differences) - _MOST_LISTED
    return "; ".join(differences[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
