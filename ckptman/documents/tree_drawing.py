"""A drawing of a tree's folders as they are on the disk, with what repeats told once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ckptman.documents import document_text as say
from ckptman.rules import Convention, placement
from ckptman.text import wording
from ckptman.tree import history, records
from ckptman.tree import statistics as tree_statistics

_MOST_TASKS = 16
"""Task folders drawn of one group."""
_MOST_GROUPS = 24
"""Groups drawn of one family."""


@dataclass
class _Node:
    name: str
    comment: str = ""
    children: list[_Node] = field(default_factory=list)


def draw_tree(statistics: tree_statistics.TreeStatistics, top_files: Iterable[tuple[str, str]]) -> str:
    """The drawing, as plain text for a code block.

    In each family one group is drawn with its tasks (that of the best measured configuration, or the first), and in
    the whole tree one run with its files.

    Args:
        statistics: What is in the tree.
        top_files: Names of files directly in the root, and what they are.
    """
    drawing = _Drawing(statistics)
    top = _Node("./", children=[*drawing.layers(), *drawing.others()])
    top.children += [_Node(name, what) for name, what in top_files]
    lines = list(_lines(top, "", ""))
    width = max((len(text) for text, comment in lines if comment), default=0)
    return "\n".join(f"{text:<{width}}  {comment}".rstrip() if comment else text for text, comment in lines)


class _Drawing:
    def __init__(self, statistics: tree_statistics.TreeStatistics) -> None:
        self.statistics = statistics
        self.convention: Convention = statistics.convention
        self.below: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
        for folder in statistics.folders:
            self.below[folder.parent].append(folder)
        self.configurations: dict[PurePosixPath, list[tree_statistics.Configuration]] = defaultdict(list)
        for configuration in statistics.configurations:
            self.configurations[configuration.folder].append(configuration)
        ranking = [ranked for ranked in say.ranked(statistics).values() if ranked]
        self.best = {ranked[0].folder for ranked in ranking}
        self.starred = {star.folder: star for ranked in ranking if (star := say.starred(ranked)) is not None}
        self.run_is_drawn = False

    def layers(self) -> list[_Node]:
        """The layout's own folders, in the convention's order."""
        layout = self.convention.folders
        if layout.group_level == 1:
            return self._groups(PurePosixPath())
        top = _Node("")
        for family in say.families_of(self.statistics):
            folder = placement.family_folder(family, self.convention)
            if folder not in self.statistics.folders:
                continue
            named, node = layout.named(family), top
            for level, name in enumerate(folder.parts):
                title = ", ".join(facet.heading(named[facet.name]) for facet in layout.facets_of(level))
                known = next((child for child in node.children if child.name == f"{name}/"), None)
                if known is None:
                    known = _Node(f"{name}/", title[:1].upper() + title[1:])
                    node.children.append(known)
                node = known
            node.children = self._groups(folder)
        return top.children

    def others(self) -> list[_Node]:
        """Folders at the top that are not of the layout."""
        top = [folder for folder in self.below[PurePosixPath()] if self.convention.folders.parse(folder) is None]
        return [_Node(f"{wording.one_line(folder.name)}/", "not a part of the layout") for folder in top]

    def _groups(self, family: PurePosixPath) -> list[_Node]:
        groups = self.below[family]
        level = self.convention.folders.group_level
        best = (PurePosixPath(*folder.parts[:level]) for folder in self.best)
        shown = next((folder for folder in best if folder in groups), groups[0] if groups else None)
        nodes = []
        for group in groups:
            comment = self._group_comment(group)
            tasks = self._below(group) if group == shown else []
            nodes.append(_Node(f"{wording.one_line(group.name)}/", comment, tasks))
        if len(nodes) > _MOST_GROUPS:
            rest = [node for node in nodes[_MOST_GROUPS - 1 :] if not node.children]
            nodes = [node for node in nodes if node not in rest] + [
                _Node("…", wording.count_text(len(rest), "more group"))
            ]
        return nodes

    def _group_comment(self, group: PurePosixPath) -> str:
        configurations = [c for task in self._task_folders(group) for c in self.configurations[task]]
        if not configurations:
            return ""
        counts = _counts(r for c in configurations for r in c.runs)
        if self.convention.folders.has_tasks:
            counts = f"{wording.count_text(len({c.folder for c in configurations}), 'task')}, {counts}"
        if self.convention.trained_keys is None:
            return counts
        trained = ", ".join(say.natural(say.trained(c.config, self.convention) for c in configurations))
        return f"K = {trained}: {counts}"

    def _below(self, group: PurePosixPath) -> list[_Node]:
        """The task folders of a group; its runs, where tasks have no folders."""
        layout = self.convention.folders
        return self._task_contents(group) if layout.depth - 1 == layout.group_level else self._tasks(group)

    def _task_folders(self, group: PurePosixPath) -> list[PurePosixPath]:
        """The folders above those of the group's runs."""
        found = [group]
        for _ in range(self.convention.folders.depth - 1 - self.convention.folders.group_level):
            found = [inner for folder in found for inner in self.below[folder]]
        return found

    def _tasks(self, group: PurePosixPath) -> list[_Node]:
        tasks = self._task_folders(group)
        starred = [task for task in tasks if task in self.best]
        drawn = tasks if len(tasks) <= _MOST_TASKS else tasks[: _MOST_TASKS - 1]
        drawn = drawn + [task for task in starred if task not in drawn]
        opened = starred[0] if starred else drawn[0] if drawn else None
        nodes = []
        for task in drawn:
            inside = self._task_contents(task) if task == opened and not self.run_is_drawn else []
            nodes.append(_Node(f"{wording.one_line(task.name)}/", self._task_comment(task) + self._star(task), inside))
        if len(drawn) < len(tasks):
            nodes.append(_Node("…", wording.count_text(len(tasks) - len(drawn), "more task")))
        return nodes

    def _task_comment(self, task: PurePosixPath) -> str:
        configurations = self.configurations[task]
        if not configurations:
            return "nothing left" if self._has_list(task) else ""
        parts = []
        for axis in say.all_axes(self.convention):
            here = [c.config[axis] for c in configurations if c.config.get(axis) is not None]
            known = [value for grid in self.convention.grids.values() for value in grid.axes.get(axis, ())]
            in_order = [*(value for value in known if value in here), *here]
            briefs = dict.fromkeys(self.convention.axis(axis).brief(value) for value in in_order)
            parts.append(" / ".join(wording.one_line(brief) for brief in briefs))
        seeds = {run.seed for configuration in configurations for run in configuration.runs}
        noun = "seed" if len(seeds) == 1 else "seeds"
        said = ", ".join(filter(None, parts))
        return f"{said}{': ' if said else ''}{noun} {say.seeds_text(seeds, self.convention)}"

    def _star(self, task: PurePosixPath) -> str:
        """The mark of the best configuration; which one it is, where the folder has several."""
        if task not in self.starred:
            return ""
        many = len(self.configurations[task]) > 1
        which = say.brief(self.starred[task].config, say.all_axes(self.convention), self.convention) if many else ""
        return f" {say.STAR} {wording.one_line(which)}".rstrip()

    def _has_list(self, task: PurePosixPath) -> bool:
        return any(lost.folder == task for lost in (*self.statistics.lost, *self.statistics.without_files))

    def _task_contents(self, task: PurePosixPath) -> list[_Node]:
        """The run folders of a task, the first with its files; or the files of a task folder sorted by hand."""
        runs = [run for configuration in self.configurations[task] for run in configuration.runs]
        nodes = []
        below = {*self.below[task], *(run.folder for run in runs if run.folder.parent == task)}
        first = {run.folder: run for run in reversed(runs)}
        for folder in sorted(below, key=wording.path_key):
            node = _Node(f"{wording.one_line(folder.name)}/")
            if folder in first and not self.run_is_drawn:
                node.children = self._files(first[folder])
                self.run_is_drawn = True
            nodes.append(node)
        direct = [run for run in runs if run.folder == task]
        if direct:
            nodes += self._file_nodes(file for run in direct for file in run.files)
            self.run_is_drawn = True
        if self._has_list(task):
            nodes.append(_Node(records.OVERWRITTEN_FILE, "the W&B runs of which no checkpoint is here"))
        return nodes

    def _files(self, run: tree_statistics.CountedRun) -> list[_Node]:
        nodes = self._file_nodes(run.files)
        if run.is_recorded:
            nodes.append(_Node(records.RUN_FILE, "configuration, metrics, hashes, and where all of it came from"))
            if run.alike.has_history:
                nodes.append(_Node(history.HISTORY_FILE, "the learning curve, for pandas.read_csv"))
            if run.alike.has_wandb:
                nodes.append(_Node(f"{self.convention.folders.saved_wandb}/", "the run's W&B folder"))
        return nodes

    def _file_nodes(self, files: Iterable[tree_statistics.CountedFile]) -> list[_Node]:
        """Files by short names, where these tell them apart."""
        listed = sorted(files, key=lambda file: wording.natural_key(file.name))
        short = [self._short(file) for file in listed]
        apart = len(set(short)) == len(short)
        return [_Node(name if apart else wording.one_line(file.name)) for name, file in zip(short, listed, strict=True)]

    def _short(self, file: tree_statistics.CountedFile) -> str:
        """A file's name without its middle."""
        first, _, _ = file.name.partition("_")
        last = file.path.stem.rpartition("_")[2]
        if file.kind is None or first != file.kind:
            return wording.one_line(file.name)
        return f"{first}_…_{last}{self.convention.checkpoint.suffix}"


def _counts(runs: Iterable[tree_statistics.CountedRun]) -> str:
    """`8 runs, 16 files`; runs only where there are finished ones."""
    listed = list(runs)
    finished = sum(run.is_recorded for run in listed)
    files = wording.count_text(sum(len(run.files) for run in listed), "file")
    return f"{wording.count_text(finished, 'run')}, {files}" if finished else files


def _lines(node: _Node, lead: str, branch: str) -> Iterable[tuple[str, str]]:
    yield lead + branch + node.name, node.comment
    below = lead + {"": "", "├── ": "│   ", "└── ": "    "}[branch]
    for i, child in enumerate(node.children):
        yield from _lines(child, below, "└── " if i == len(node.children) - 1 else "├── ")
