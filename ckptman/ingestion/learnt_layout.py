"""What folders and configurations say of an experiment: kinds, groups, task ids and their numbering, axes, facets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.ingestion import learnt_grid
from ckptman.ingestion.learnt_fields import Evidence, Scheme, parse, step_of
from ckptman.ingestion.learnt_names import kind_of
from ckptman.ingestion.learnt_sources import ENDS, Sources, flat
from ckptman.raw import outputs, scanning
from ckptman.rules import Convention, comparing, convention_file

_STOPS = re.compile(r"patience|early_?stop", re.IGNORECASE)
"""Keys of what lets a run end before that."""
_SHARE = 0.9
_STEP_FOLDER = re.compile(
    "((?:iter|iters|iteration|step|steps|global_?step|checkpoint|ckpt|epoch|ep|update)[_-]?)[0-9]{1,18}", re.IGNORECASE
)
"""A folder that holds the files of one checkpoint."""
_WORD = re.compile(r"[\w.-]+", re.ASCII)
_MOST_LEVELS = 3


@dataclass(frozen=True)
class Plan:
    """What to say of them in a convention."""

    prefixes: Mapping[str, Any]
    sections: Mapping[str, Any] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


def layout_of(
    raw: outputs.RawOutputs,
    evidence: Sequence[Evidence],
    schemes: Sequence[Scheme],
    outline: Convention,
    sources: Sources,
    *,
    with_grids: bool = True,
) -> Plan:
    """Kinds, folders, groups and grids."""
    prefixes = _prefixes(evidence, schemes)
    sections: dict[str, Any] = {}
    findings: list[str] = []
    paths = paths_of(raw.scan.checkpoints)
    inner = {outline.raw.saved_models, *outline.raw.inner}
    known = convention_file.built_in().raw.inner
    more = [name for name in outline.raw.inner if name not in known]
    if more:
        findings.append(f"folders that every run has: {', '.join(more)}")
    folders = [_outer(raw.root.name, path, inner, outline) for path in paths]
    seed_word, by_folder = _seed_folders(folders)
    run_level = f"{seed_word}{{seed}}" if seed_word else outline.folders.run_pattern
    if by_folder:
        folders = [parts[:-1] for parts in folders]
        findings.append(f"seed folders: {run_level}")
    seeds = tuple(sorted({*sources.seeds, *by_folder}))
    task = task_pattern(folders)
    if task is not None and _are_told_above(raw, folders):
        task = None
    levels = _group_levels(folders, 0 if task is None else 1)
    sections["raw"] = {
        "task": task,
        **({"inner": list(outline.raw.inner)} if more else {}),
        **({"group_levels": levels} if levels > 1 else {}),
        **({"step_folders": list(outline.raw.step_folders)} if outline.raw.step_folders else {}),
    }
    if outline.raw.step_folders:
        findings.append(f"folders of one checkpoint each: {', '.join(outline.raw.step_folders)}")
    if levels > 1:
        findings.append(f"groups are named by {levels} folders, one in the other")
    if task is not None:
        findings.append(f"task folders: {task}, in folders that name their groups")
    if task is not None or by_folder:
        sections["tree"] = ["{group}", *([task] if task else []), run_level]
    if with_grids:
        named = {field.key for scheme in schemes for field in scheme.fields.values() if field.key is not None}
        runs = _runs(raw, evidence, folders, outline, inner, task, levels)
        by_names = not any(run.config for run in runs)  # which are all there is
        if by_names:
            runs, named = _told_by_names(runs, schemes)
            seeds = tuple(sorted({*seeds, *(run.config["seed"] for run in runs if "seed" in run.config)}))
        elif not seeds:
            runs, seeds = _seeded_by_groups(runs)
            findings += [f"seeds, by the names of folders: {', '.join(map(str, seeds[:12]))}"] if seeds else []
        grids = learnt_grid.grids_of(runs, named, outline.ignored_keys, sources.seed_key, seeds, run_level, task)
        if by_names and not grids.sections.get("groups"):  # then no name of a folder says anything to ingest
            runs = [replace(run, config={k: v for k, v in run.config.items() if k in named}) for run in runs]
            grids = learnt_grid.grids_of(runs, named, outline.ignored_keys, sources.seed_key, seeds, run_level, task)
        sections |= grids.sections
        findings += grids.findings
    return Plan(prefixes, sections, {}, tuple(findings))


def _are_told_above(raw: outputs.RawOutputs, folders: Sequence[tuple[str, ...]]) -> bool:
    """Whether the configuration of a run lies above the innermost of these folders, where nothing is looked for if that
    is its task's."""
    homes = {file.path: Path(raw.root, *parts[1:]) for file, parts in zip(raw.scan.checkpoints, folders, strict=True)}
    return any(
        reading.config and not reading.path.is_relative_to(homes[saved.file.source.path])
        for saved in raw.files
        if saved.file.config_source == "beside"
        for reading in raw.beside(saved.file.source.path).readings
    )


def _seed_folders(folders: Sequence[tuple[str, ...]]) -> tuple[str, set[int]]:
    """What stands in front of the seed in the folders of runs, and the seeds; empty where they are of no seeds."""
    found = [re.fullmatch(r"((?:seed|s|rng)[_.-]?)([0-9]{1,18})", parts[-1], re.IGNORECASE) for parts in folders]
    words = Counter(match[1] for match in found if match)
    if not words or min(map(len, folders)) < 2 or max(words.values()) < _SHARE * len(folders):
        return "", set()
    word = words.most_common(1)[0][0]
    if any(match and match[2] != str(int(match[2])) for match in found):
        return "", set()
    return word, {int(match[2]) for match in found if match and match[1] == word}


def _runs(
    raw: outputs.RawOutputs,
    evidence: Sequence[Evidence],
    folders: Sequence[tuple[str, ...]],
    outline: Convention,
    inner: set[str],
    task: str | None,
    levels: int,
) -> list[learnt_grid.Run]:
    """The files and the W&B runs, by their groups and task folders."""
    places = [(parts, said.config) for parts, said in zip(folders, evidence, strict=True)]
    for run in raw.wandb.runs:
        home = scanning.wandb_home(run.folders[0], outline)
        if home.is_relative_to(raw.root):
            parts = _outer(raw.root.name, str(home.relative_to(raw.root) / "x"), inner, outline)
            places.append((parts[:-1] if _seed_folders([parts])[1] else parts, flat(run.config)))
    found = []
    for parts, config in places:
        number = re.search("[0-9]+$", parts[-1]) if task is not None else None
        above = parts[:-1] if number and len(parts) > 1 else parts
        group = "_".join(above[-levels:])
        said = config.get(outline.group_key)
        found.append(learnt_grid.Run(said if isinstance(said, str) and said else group,
                                     int(number[0]) if number else None, config))  # fmt: skip
    return found


def _told_by_names(
    runs: Sequence[learnt_grid.Run], schemes: Sequence[Scheme]
) -> tuple[list[learnt_grid.Run], set[str]]:
    """The runs with the configuration that the names of their folders and files say, by their tags; and its keys."""
    by_folder = learnt_grid.said_by_folders(sorted({run.group for run in runs}))
    found = [replace(run, config={**by_folder[run.group]}) for run in runs]
    named: set[str] = set()
    for scheme in schemes:
        for each in scheme.fields.values():
            if not each.unused and each.hole not in ("kind", "step"):
                key = each.key or each.hole
                named.add(key)
                for index, text in each.slot.texts.items():
                    said = each.words[text] if text in each.words else parse(each.type, text)
                    found[index] = replace(found[index], config={**found[index].config, key: said})
    return found, named


def _seeded_by_groups(runs: Sequence[learnt_grid.Run]) -> tuple[list[learnt_grid.Run], tuple[int, ...]]:
    """The runs with the seeds that the folders of all of them say, where no configuration has one; and the seeds."""
    said = learnt_grid.said_by_folders(sorted({run.group for run in runs}))
    if not all("seed" in config for config in said.values()):
        return [*runs], ()
    found = [replace(run, config={**run.config, "seed": said[run.group]["seed"]} if run.config else {}) for run in runs]
    return found, tuple(sorted({config["seed"] for config in said.values()}))


def paths_of(files: Sequence[scanning.SourceCheckpoint]) -> list[str]:
    """The paths of checkpoints; of one that is the folder of its run, too, as if it lay in that."""
    homes = {
        str(PurePosixPath(file.relative).parent)
        for file in files
        if file.is_folder and _STEP_FOLDER.fullmatch(file.file)
    }
    return [f"{file.relative}/{file.file}" if file.relative in homes else file.relative for file in files]


def inner_folders(files: Sequence[str], outline: Convention) -> tuple[str, ...]:
    """The folders, from within, that every run has for its files, such as `unet`."""
    found: list[str] = []
    inner = {outline.raw.saved_models, *outline.raw.inner}
    while True:
        folders = [_outer("", relative, {*inner, *found}, outline) for relative in files]
        last = {parts[-1] for parts in folders}
        if _seed_folders(folders)[1]:
            return tuple(found)
        if len(last) > 1 or len({parts[:-1] for parts in folders}) < 2 or not all(map(_WORD.fullmatch, last)):
            return tuple(found)
        found += last


def _group_levels(folders: Sequence[tuple[str, ...]], below: int) -> int:
    """How many folders name a group: one, unless it stands in several others."""
    known = {parts[: len(parts) - below] for parts in folders}
    most = min(map(len, known)) - 1  # without the source itself
    ways = (
        levels for levels in range(1, min(most, _MOST_LEVELS) + 1) if len({p[-levels:] for p in known}) == len(known)
    )
    return next(ways, 1)


def _outer(root: str, relative: str, inner: set[str], outline: Convention) -> tuple[str, ...]:
    """The folders around a file, from the source inwards, without those that every run has, or every checkpoint."""
    parts = [root, *PurePosixPath(relative).parent.parts]
    at = next((at for at in range(len(parts) - 1, 0, -1) if outline.raw.is_step_folder(parts[at])), len(parts))
    del parts[at:]
    while len(parts) > 1 and parts[-1] in inner:
        parts.pop()
    return tuple(parts)


def step_folders(files: Sequence[str]) -> list[str]:
    """The names of folders that hold one checkpoint each, with `*` for the step, where most files lie in such, or where
    several in one folder hold files of the same names; and those beside them that are of the end (`final`)."""
    found: Counter[str] = Counter()
    inside: dict[tuple[str, ...], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for relative in files:
        parts = PurePosixPath(relative).parts
        for at in range(len(parts) - 2, max(-1, len(parts) - 2 - _MOST_LEVELS), -1):
            if match := _STEP_FOLDER.fullmatch(parts[at]):
                found[f"{match[1]}*"] += 1
                inside[parts[:at]][parts[at + 1 :]] += 1
                break
    several = any(count > 1 for names in inside.values() for count in names.values())
    if len(found) > _MOST_LEVELS or not (several or 2 * found.total() > len(files)):
        return []
    split = [PurePosixPath(relative).parts for relative in files]
    ends = {
        parts[at]
        for parts in split
        for at in range(len(parts) - 1)
        if kind_of(parts[at]) not in (None, "Checkpoint") and parts[at + 1 :] in inside.get(parts[:at], ())
    }
    return [*sorted(found), *sorted(ends)]


def task_pattern(folders: Sequence[tuple[str, ...]]) -> str | None:
    """The template of task folders, if nearly all files lie in one: a word and a number, below a folder of a group."""
    ends: Counter[str] = Counter()
    digits: dict[str, set[tuple[int, bool]]] = defaultdict(set)
    for parts in folders:
        match = re.fullmatch(r"(.*?[A-Za-z][_-]?|[A-Za-z]+)([0-9]{1,9})", parts[-1], re.ASCII)
        if len(parts) > 1 and match:
            ends[match[1]] += 1
            digits[match[1]].add((len(match[2]), match[2].startswith("0") and len(match[2]) > 1))
    for word, count in ends.most_common(1):
        is_seed = re.fullmatch(r"(?:.*[^a-z])?(?:seed|s)[^a-z]*", word.lower())
        if count < _SHARE * len(folders) or is_seed:
            return None
        widths = {width for width, _ in digits[word]}
        padded = any(zero for _, zero in digits[word])
        if padded and len(widths) > 1:
            return None
        return f"{word}{{task:0{next(iter(widths))}d}}" if padded else f"{word}{{task}}"
    return None


def _prefixes(evidence: Sequence[Evidence], schemes: Sequence[Scheme]) -> dict[str, Any]:
    """The kinds of checkpoints: those of the names, and where they are written."""
    by_kind: dict[str, list[Evidence]] = defaultdict(list)
    for scheme in schemes:
        kind_slot = next((slot for slot in scheme.shape.slots if scheme.named(slot).hole == "kind"), None)
        step_slot = next((slot for slot in scheme.shape.slots if scheme.named(slot).hole == "step"), None)
        for index in scheme.shape.names:
            word = None if kind_slot is None else kind_slot.texts.get(index)
            kind = scheme.kind if word is None else kind_of(word)
            said = evidence[index]
            text = None if step_slot is None else step_slot.texts.get(index)
            if text is not None:
                said = Evidence(said.name, said.config, step_of(text), said.folder)
            by_kind[kind or ""].append(said)
    found: dict[str, Any] = {}
    for kind in sorted(set(by_kind) - {""}, key=["Final", "Checkpoint", "Best", "Last", "Initial"].index):
        found[kind] = {"title": _TITLES[kind], "final": kind == "Final"}
        if kind == "Final":
            found[kind] |= _end(by_kind[kind])
            # Where nothing says at which step a run ends, and most have no such file, it is not one that each run has.
            having, known = ({file.run[1] for file in files} for files in (by_kind[kind], evidence))
            found[kind]["final"] = "step" in found[kind] or 2 * len(having) >= len(known)
    if "Final" not in found and (ended := _end([*by_kind[""], *by_kind["Checkpoint"]], share=0.0)):
        found = {"Final": {"title": _TITLES["Final"], "final": True, **ended}, **found}
    plain = {"Checkpoint": {"title": _TITLES["Checkpoint"], "final": False}}
    return (
        {kind: found[kind] for kind in found if found[kind]["final"]} | plain | found
    )  # of those not final, the first counts


_TITLES = {"Final": "end of training", "Best": "best so far", "Last": "the newest", "Checkpoint": "on the way",
           "Initial": "before training"}  # fmt: skip


def _end(files: Sequence[Evidence], share: float = 0.5) -> dict[str, Any]:
    """The key of the step at which training ends, where steps follow it."""
    known = [file for file in files if file.step is not None]
    if not known:
        return {}
    ends: Counter[str] = Counter()
    beyond: set[str] = set()
    for file in known:
        for key, value in file.config.items():
            number = comparing.whole(value) if ENDS.search(key) else None
            if number is not None and file.step is not None:
                ends[key] += number == file.step
                if file.step > number:
                    beyond.add(key)
    usable = [
        key for key, count in ends.items() if count > share * len(known) - (share == 0) and count and key not in beyond
    ]
    if not usable:
        return {}
    best = max(usable, key=lambda key: (ends[key], -len(key)))
    last: dict[tuple[str, str], bool] = defaultdict(bool)
    for file in known:
        last[file.run] |= file.step == comparing.whole(file.config.get(best))
    may_stop = any(_STOPS.search(key) and value for file in known for key, value in file.config.items())
    if share == 0 and (2 * sum(last.values()) < len(last) or (may_stop and not all(last.values()))):
        return {}  # most ended earlier, or any may have: what their last one is, nothing says
    are_early = share > 0 and ends[best] < len(known)
    return {"step": best, **({"early": True} if are_early else {})}
