"""The figures of a tree, as the README's statistics block tells them: all counted from the disk. All Markdown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from statistics import median

from ckptman.documents import document_text as say
from ckptman.rules import placement
from ckptman.text import markdown, wording
from ckptman.tree import records
from ckptman.tree import statistics as tree_statistics

_MOST_LISTED = 10
"""Files or folders listed in a note."""


def statistics_text(statistics: tree_statistics.TreeStatistics) -> str:
    """Everything that can be counted."""
    return markdown.join(
        _totals(statistics),
        _notes(statistics),
        "### Storage per checkpoint",
        _storage(statistics),
        "### By family and group",
        _by_group(statistics),
        "### Expected and found",
        _expected(statistics),
        "### Seeds",
        _seeds(statistics),
        "### Counting again",
        _recount(statistics),
    )


def _totals(statistics: tree_statistics.TreeStatistics) -> str:
    size = statistics.size
    rows = [
        ["Checkpoint files", f"{statistics.file_count:,}"],
        ["Size in all", f"{wording.size_text(size)} ({size:,} bytes)" if size >= 1000 else wording.size_text(size)],
        ["Runs", f"{len(statistics.finished):,}"],
        ["Configurations", f"{len(statistics.configurations):,}"],
        ["Overwritten runs", f"{len(statistics.lost):,}"],
    ]
    if statistics.without_files:
        rows.append(["Other W&B runs without a file here", f"{len(statistics.without_files):,}"])
    return markdown.table(["", "In this tree"], rows)


def _notes(statistics: tree_statistics.TreeStatistics) -> str:
    notes = []
    if statistics.loose and not statistics.finished:
        notes.append(markdown.paragraph(
            f"This tree was sorted by hand: no folder has a {markdown.code(records.RUN_FILE)}, so no run is counted, "
            "and what the files",
            "are is what their headers say. To make a tree with provenance of it: `ckptman ingest . --root ../sorted`.",
        ))  # fmt: skip
    elif statistics.loose:
        notes.append(markdown.paragraph(
            f"{wording.count_text(len(statistics.loose), 'file')} {_is_are(statistics.loose)} counted that no "
            f"{markdown.code(records.RUN_FILE)}",
            f"names: {_some([file.path for file in statistics.loose])}.",
        ))  # fmt: skip
    if statistics.unfinished and statistics.finished:
        notes.append(markdown.paragraph(
            f"{wording.count_text(len(statistics.unfinished), 'run folder')} without a usable "
            f"{markdown.code(records.RUN_FILE)} {_is_are(statistics.unfinished)} unfinished and not counted as runs: "
            f"{_some(statistics.unfinished)}.",
            "Ingesting their source again completes them.",
        ))  # fmt: skip
    if statistics.unknown:
        notes.append(markdown.paragraph(
            f"Of {wording.count_text(len(statistics.unknown), 'file')} neither name nor header says what it is:",
            f"{_some(statistics.unknown)}.",
        ))  # fmt: skip
    if statistics.absent:
        notes.append(markdown.paragraph(
            f"{wording.count_text(len(statistics.absent), 'checkpoint')} that a "
            f"{markdown.code(records.RUN_FILE)} names {_is_are(statistics.absent)} not there, and not counted: "
            f"{_some(statistics.absent)}.",
        ))  # fmt: skip
    if statistics.unreadable:
        notes.append(markdown.paragraph(
            f"These cannot be read, so what is in them is not counted: {_some(statistics.unreadable)}.",
            "`ckptman validate` tells why.",
        ))  # fmt: skip
    return markdown.join(*notes)


def _is_are(items: Sequence[object]) -> str:
    return "is" if len(items) == 1 else "are"


def _some(paths: Iterable[PurePosixPath]) -> str:
    listed = list(paths)
    more = len(listed) - _MOST_LISTED
    return ", ".join(markdown.code(path) for path in listed[:_MOST_LISTED]) + (
        f" and {more:,} more" if more > 0 else ""
    )


def _storage(statistics: tree_statistics.TreeStatistics) -> str:
    by_kind: dict[str | None, list[int]] = defaultdict(list)
    for file in statistics.files:
        by_kind[file.kind].append(file.size)
    titles = {
        prefix.name: f"{markdown.code(prefix.name)} ({markdown.text(prefix.title)})"
        for prefix in statistics.convention.prefixes
    }
    rows = [
        [titles.get(str(kind), "Other names"), f"{len(sizes):,}", wording.size_text(min(sizes)),
         wording.size_text(round(median(sizes))), wording.size_text(max(sizes)), wording.size_text(sum(sizes))]
        for kind in [*titles, *sorted(by_kind.keys() - titles.keys(), key=str)]
        if (sizes := by_kind.get(kind))
    ]  # fmt: skip
    if not rows:
        return "There is no checkpoint here yet."
    return markdown.table(["Checkpoint", "Files", "Smallest", "Median", "Largest", "In all"], rows, right=range(1, 6))


def _by_group(statistics: tree_statistics.TreeStatistics) -> str:
    """Counted by the folders that files and runs lie in, so that `find` in a folder gives the same numbers."""
    convention = statistics.convention
    titles = {placement.family_folder(family, convention): say.family_title(family, convention)
              for family in say.families_of(statistics)}  # fmt: skip
    groups: dict[PurePosixPath | None, Counter[str]] = defaultdict(Counter)
    for file in statistics.files:
        groups[placement.group_around(file.path, convention)].update(files=1, size=file.size)
    for run in statistics.finished:
        groups[placement.group_around(run.folder, convention)].update(runs=1)
    for configuration in statistics.configurations:
        groups[placement.group_around(configuration.runs[0].folder, convention)].update(configurations=1)
    rows = []
    for folder, title in titles.items():
        mine = sorted((group for group in groups if group is not None and group.parent == folder), key=wording.path_key)
        if mine:
            rows += [_count_row(f"**{title}**", sum((groups[group] for group in mine), Counter()))]
            rows += [
                _count_row(markdown.link(markdown.code(f"{group}/"), group, folder=True), groups[group])
                for group in mine
            ]
    if None in groups:
        rows.append(_count_row("Elsewhere", groups[None]))
    if not rows:
        return "There is no checkpoint here yet."
    return markdown.table(["Family and group", "Configurations", "Runs", "Files", "Size"], rows, right=range(1, 5))


def _count_row(title: str, counts: Counter[str]) -> list[str]:
    numbers = [f"{counts[key]:,}" for key in ("configurations", "runs", "files")]
    return [title, *numbers, wording.size_text(counts["size"])]


def _expected(statistics: tree_statistics.TreeStatistics) -> str:
    counts = [count for count in statistics.grid_counts if count.groups and statistics.expects(count.pattern.grid)]
    if not counts:
        return f"Nothing {'here is' if statistics.runs else 'is here yet'} of a grid of the naming convention."
    columns: dict[str, Callable[[tree_statistics.GridCount], int]] = {
        "Runs": lambda c: c.runs_expected,
        "Complete": lambda c: c.complete,
        "Partial": lambda c: c.partial,
        "Refused": lambda c: c.refused,
        "Overwritten": lambda c: c.overwritten,
        "Missing": lambda c: c.missing,
    }
    is_refused = any(c.refused for c in counts)
    if not is_refused:
        del columns["Refused"]

    def row(title: str, product: str, of: Sequence[tree_statistics.GridCount]) -> list[str]:
        figures = [f"{sum(map(get, of)):,}" for get in columns.values()]
        found = f"{sum(c.files for c in of):,}"
        found += f" of {sum(c.files_expected for c in of):,}" if counts[0].kinds else ""
        return [title, product, *figures, found]

    rows = [row(markdown.code(c.pattern.pattern), _product(c), [c]) for c in counts]
    rows.append(row("**In all**", "", counts))
    outside = sum(1 for _ in statistics.outside_grid)
    names = say.group_axis(statistics.convention)
    product = f"{names} × combinations × seeds{' × files' if counts[0].kinds else ''}"
    return markdown.join(
        markdown.paragraph(
            "What the grid of the naming convention has, and what is here of it. A run is partial where some of its",
            "checkpoints are missing.",
            "It is refused where `ingest` did not take one that is at the source." if is_refused else "",
            "`ckptman status`, which tells what is still to be trained, calls a run complete once its end is here."
            if any(c.partial or c.refused for c in counts) else "",
        ),
        markdown.table(["Groups", product, *columns, "Files found"], rows,
                       right=range(2, len(columns) + 3)),
        markdown.paragraph(
            f"{wording.count_text(outside, 'file')} {'is' if outside == 1 else 'are'} outside the grid: of another "
            f"{'K' if names == 'K' else 'group'} or seed, of a",
            "second run of a seed, in the folder of another run, of a group of no known pattern, or of nothing known.",
        ) if outside else "",
    )  # fmt: skip


def _product(count: tree_statistics.GridCount) -> str:
    product = f"{count.groups} × {count.configurations} × {count.seeds}"
    return f"{product} × {count.kinds}" if count.kinds else product


def _seeds(statistics: tree_statistics.TreeStatistics) -> str:
    convention = statistics.convention
    counts: dict[int | None, Counter[str]] = defaultdict(Counter)
    for run in statistics.runs:
        counts[run.seed].update(runs=run.is_recorded, files=len(run.files))
    for lost in statistics.lost:
        counts[lost.run.seed].update(overwritten=1)
    expected = (grid for grid in convention.grids.values() if statistics.expects(grid.name))
    for seed in (seed for grid in expected for seed in grid.seeds):
        counts[seed].update()
    columns = "runs", "files", "overwritten"
    rows = [[say.seeds_text([seed], convention), *(f"{counts[seed][column]:,}" for column in columns)]
            for seed in sorted(counts, key=tree_statistics.seed_order)]  # fmt: skip
    return markdown.table(["Seed", "Runs", "Files", "Overwritten runs"], rows, right=range(1, 4))


def _recount(statistics: tree_statistics.TreeStatistics) -> str:
    """Commands that count the same from the disk."""
    folders = statistics.convention.folders
    run = folders.run_pattern.replace("{seed}", "*")
    kept = f"-not -name '._*' -not -path './{records.TRASH}/*' -not -path '*/{run}/{folders.saved_wandb}/*'"
    # A link counts where it leads to a file; a linked folder is not entered.
    named = f"find . -name '*{statistics.convention.checkpoint.suffix}' {kept}"
    count, size = f"{named} -exec test -f {{}} \\; -print", f"{named} -exec test -f {{}} \\; -exec cat {{}} +"
    if any(file.is_folder for file in statistics.files):  # one folder is one checkpoint
        count = f"{named} -prune \\( -exec test -f {{}} \\; -o -type d \\) -print"
        size = f"{count}0 | xargs -0 -I{{}} find -L {{}} -type f -print0 | xargs -0 cat"
    return markdown.join(
        "In this folder:",
        markdown.fenced(
            "bash",
            f"# checkpoint files, and their bytes\n{count} | wc -l\n{size} | wc -c\n"
            f"# runs\nfind . -name {records.RUN_FILE} {kept} | wc -l",
        ),
    )
