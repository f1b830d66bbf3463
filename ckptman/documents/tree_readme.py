"""README.md of a tree: the blocks that `report` fills in it, and the document it writes where there is none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from ckptman.documents import document_text as say
from ckptman.documents.figures import files as figure_files
from ckptman.documents.loading_text import forms_here, loading_text, title_of
from ckptman.documents.marked_blocks import append_blocks, empty_block, fill_blocks, find_blocks
from ckptman.documents.statistics_text import statistics_text
from ckptman.documents.task_mapping import best_table
from ckptman.documents.tree_drawing import draw_tree
from ckptman.formats import CheckpointInfo, containers
from ckptman.rules import Convention, convention_file, grids, terms
from ckptman.rules import naming as naming_rules
from ckptman.text import RefusedError, markdown, wording
from ckptman.tree import metrics, records
from ckptman.tree import statistics as tree_statistics

README = "README.md"
TASK_MAPPING = "TASK_MAPPING.md"

_MOST_VALUES = 8
"""Values of a name field that are listed."""
_MAPPING_LINK = markdown.link(markdown.code(TASK_MAPPING), PurePosixPath(TASK_MAPPING))


def readme_text(statistics: tree_statistics.TreeStatistics, existing: str | None, document: str = README) -> str:
    """The README of a tree.

    Args:
        statistics: What is in the tree.
        existing: The README as it is. Its blocks are filled; where it has none, the statistics are put at its end.
            None where there is no README: then a whole one is written.
        document: Its name, for messages.

    Raises:
        RefusedError: `bad-markers` or `unclosed-fence`, where the README cannot be filled.
    """
    blocks = block_contents(statistics)
    if existing is None:
        return fill_blocks(_new_readme(), blocks, document)
    if find_blocks(existing, document, blocks):
        return fill_blocks(existing, blocks, document)
    return append_blocks(existing, f"## Checkpoint Statistics\n\n{empty_block('statistics')}\n", document, blocks)


def block_contents(statistics: tree_statistics.TreeStatistics) -> dict[str, str]:
    """What stands in each block, by its name."""
    return {name: write(statistics) for name, write in _BLOCKS.items()}


def _new_readme() -> str:
    def block(name: str) -> str:
        return empty_block(name)

    marker = "`<!-- ckptman:begin … -->` and `<!-- ckptman:end … -->`"
    return markdown.join(
        "# Checkpoint Organization",
        block("summary"),
        markdown.paragraph(
            "This folder is kept with `ckptman`, a command-line program and Python package that sorts, checks and",
            f"documents checkpoints. What stands between {marker} is written by `ckptman report`; everything else is",
            "yours to edit.",
        ),
        "## Figures",
        block("figures"),
        "## Directory Structure",
        block("structure"),
        "## Best Configurations",
        block("best"),
        "## Task Directory Structure",
        block("tasks"),
        "## Checkpoint Naming Convention",
        block("naming"),
        "### Examples",
        block("examples"),
        "## Checkpoint Contents",
        block("contents"),
        "## Loading Checkpoints",
        block("loading"),
        "## Checkpoint Statistics",
        block("statistics"),
        "## Adding New Checkpoints",
        block("adding"),
        "## Source Location",
        block("source"),
    ) + "\n"  # fmt: skip


# --- what is here -----------------------------------------------------------------------------------------------------


def _summary(statistics: tree_statistics.TreeStatistics) -> str:
    counted = [wording.count_text(statistics.file_count, "checkpoint file")]
    if statistics.finished:
        counted.append(wording.count_text(len(statistics.finished), "run"))
    counted.append(wording.count_text(len(statistics.configurations), "configuration"))
    complete = sum(count.complete for count in statistics.grid_counts)
    expected = sum(count.runs_expected for count in statistics.grid_counts)
    is_told = all(kind.step_config for kind in statistics.convention.prefixes)
    all_of_them = "all checkpoints" if is_told else "all checkpoints of which a rule tells when they are saved"
    refused = statistics.inventory.scan.refused
    whose = "its" if len(statistics.lost) == 1 else "their"
    gone = f"{wording.count_text(len(statistics.lost), 'run')} lost {whose} checkpoints"
    return markdown.paragraph(
        f"**{', '.join(counted)}**, {wording.size_text(statistics.size)}:",
        f"{markdown.text(statistics.convention.title)}.",
        f"Of the {wording.count_text(expected, 'run')} that the experiment's grid expects, {complete:,} "
        f"{'is' if complete == 1 else 'are'} here with {all_of_them}."
        if any(map(statistics.expects, statistics.convention.grids))
        else "",
        f"{gone} to later runs that overwrote them." if statistics.lost else "",
        f"Of {wording.count_text(len(statistics.without_files), 'further W&B run')} no file here is known to be."
        if statistics.without_files
        else "",
        f"{say.refused_text(refused)} {'was' if len(refused) == 1 else 'were'} "
        f"{'not taken' if any(file.how for file in refused) else 'refused'}: {_MAPPING_LINK} says which, and why."
        if refused
        else "",
    )


def _structure(statistics: tree_statistics.TreeStatistics) -> str:
    rules = (
        [(convention_file.FILE_NAME, "the rules of this tree")]
        if convention_file.FILE_NAME in statistics.top_files
        else []
    )
    has_ids = bool(statistics.convention.folders.task_pattern)
    what = "what each task id stands for, and what is there of it" if has_ids else "what is there of each configuration"
    top_files = [(TASK_MAPPING, what), (README, "this file"), *rules]
    return markdown.join(
        markdown.fenced("", draw_tree(statistics, top_files)),
        markdown.paragraph(
            f"The configuration inside a checkpoint decides where it lies. A run's "
            f"{markdown.code(records.RUN_FILE)} tells all that is known of the run.",
            f"{markdown.code(records.OVERWRITTEN_FILE)} in a task's folder tells which of its W&B runs have no "
            "checkpoint here: mostly since later ones overwrote them."
            if statistics.lost or statistics.without_files
            else "",
        ),
    )


def _best(statistics: tree_statistics.TreeStatistics) -> str:
    ranking = [ranked for ranked in say.ranked(statistics).values() if ranked]
    best = [ranked[0] for ranked in ranking]
    if not best:
        return markdown.paragraph(
            *say.nothing_ranked(statistics),
        )
    return markdown.join(
        markdown.paragraph(
            f"The best of each family by measured generalization: the {say.exact_match(statistics.convention)}, as",
            f"mean ± {statistics.convention.statistics} standard deviation over runs, those that are here and all W&B "
            f"runs. {say.MEASURED_BY} {_MAPPING_LINK} has more of them.",
        ),
        best_table(best, statistics, list(map(say.starred, ranking)), family=True),
    )


def _tasks(statistics: tree_statistics.TreeStatistics) -> str:
    convention = statistics.convention
    expected = [grid for grid in convention.grids.values() if statistics.expects(grid.name)]
    if not expected and not statistics.runs:
        return say.no_run_text(statistics)
    if not expected:
        return markdown.paragraph(
            "The groups here are of no grid that the rules describe: they keep the task ids of their source, and the",
            f"configurations inside the checkpoints say what was trained. {_MAPPING_LINK} lists them.",
        )
    has_axes = any(rule.axes for grid in expected for rule in grid.regimes.values())
    of_tasks = "; a task of it those with one combination of the values below" if has_axes else ""
    how = "how the ids are made, and " if convention.folders.task_pattern else ""
    parts = [
        markdown.paragraph(
            f"A group holds the runs for {say.each_group(convention)}{of_tasks}, each with another seed.",
            f"{_MAPPING_LINK} tells {how}what is here.",
        )
    ]
    for grid in expected:
        of_grid = f", grid {markdown.code(grid.name)}" if len(convention.grids) > 1 else ""
        for regime, rule in grid.regimes.items():
            patterns = [g.pattern for g in convention.groups if (g.grid, g.regime) == (grid.name, regime)]
            rows = [[markdown.code(convention.folders.task(cell.task)),
                     *(say.axis_word(axis, cell.values[axis], convention) for axis in rule.axes)]
                    for cell in grids.cells(grid, regime, convention.numbering)]  # fmt: skip
            parts += [
                f"### {say.regime_title(regime, convention)}{of_grid}",
                f"Groups {' and '.join(map(markdown.code, patterns))}{':' if rule.axes else '.'}" if patterns else "",
                say.table([say.TASK, *(say.axis_title(axis, convention) for axis in rule.axes)], rows, convention),
            ]
        seeds = ", ".join(map(str, grid.seeds))
        are_told = all(prefix.step_config for prefix in convention.prefixes)
        kinds = f", each with {wording.count_text(len(convention.prefixes), 'checkpoint')}" if are_told else ""
        runs = wording.count_text(len(grid.seeds), "run")
        parts.append(f"A complete configuration has {runs} (seeds {seeds}){kinds}{of_grid}.")
    return markdown.join(*parts)


# --- names ------------------------------------------------------------------------------------------------------------


def _naming(statistics: tree_statistics.TreeStatistics) -> str:
    convention = statistics.convention
    naming = naming_rules.naming_of(convention)
    seen = _seen_values(statistics, naming)
    rows = [["**Prefix**", "Kind of checkpoint",
             ", ".join(f"{markdown.code(p.name)} ({markdown.text(p.title)})" for p in convention.prefixes),
             _listed(seen["", "prefix"])]]  # fmt: skip
    for field in convention.fields:
        title = markdown.text(field.title) + (" (optional)" if field.optional else "")
        rows.append([f"**{markdown.text(field.tag)}**", title, _form(field), _listed(seen["field", field.tag])])
    step = (
        f"**{markdown.text(convention.step_tag)}**",
        markdown.text(convention.step_title),
        "whole number",
        _listed(seen["", "step"]),
    )
    rows.append([*step])
    return markdown.join(
        markdown.fenced("", naming.pattern) if convention.fields else "",
        "What stands in brackets may be left out." if any(field.optional for field in convention.fields) else "",
        markdown.table(["Field", "Meaning", "Written as", "Here"], rows) if convention.fields else "",
        _schemes(convention, seen),
        "A file whose configuration is known keeps any other name." if convention.keep_names else "",
        markdown.paragraph("The seed is not in a name: the run's folder has it.") if convention.fields else "",
    )


def _schemes(convention: Convention, seen: Mapping[tuple[str, str], set[str]]) -> str:
    """The further forms of names."""
    if not convention.schemes:
        return ""
    rows = [
        [markdown.text(s.name), markdown.code(s.shape), str(len(seen["scheme", s.name]))] for s in convention.schemes
    ]
    return markdown.join(
        "Names of other forms:" if convention.fields else "Names have these forms:",
        markdown.table(["Called", "Form", "Names here"], rows, right=(2,)),
    )


def _seen_values(
    statistics: tree_statistics.TreeStatistics, naming: naming_rules.Naming
) -> Mapping[tuple[str, str], set[str]]:
    """What the names here say, by field."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in {file.name for file in statistics.files}:
        try:
            parsed = naming.parse(name)
        except RefusedError:
            continue
        if parsed.scheme is not None:
            seen["scheme", parsed.scheme.name].add(name)
            continue
        seen["", "prefix"].add(str(parsed.kind))
        seen["", "step"].add(str(parsed.step))
        for field in statistics.convention.fields:
            if field.config[0] in parsed.values:
                seen["field", field.tag].add(_name_value(field, parsed.values, naming))
    return seen


def _name_value(field: terms.NameField, values: Mapping[str, Any], naming: naming_rules.Naming) -> str:
    if field.type == "range":
        return "to".join(str(values[key]) for key in field.config)
    return naming.short(field.config[0], values).removeprefix(field.tag)


def _form(field: terms.NameField) -> str:
    if field.values:
        return " or ".join(markdown.code(value) for value in field.values)
    forms = {"int": "whole number", "bool": "0 or 1", "float": "number", "word": "word", "range": "`<from>to<to>`",
             "list": "numbers joined by `-`"}  # fmt: skip
    return forms[field.type]


def _listed(values: Iterable[str]) -> str:
    ordered = say.natural(values)
    shown = [markdown.text(value) for value in ordered[:_MOST_VALUES]] + (["…"] if len(ordered) > _MOST_VALUES else [])
    return ", ".join(shown) or say.NOTHING


def _examples(statistics: tree_statistics.TreeStatistics) -> str:
    parts = [part for item in _example_files(statistics) for part in _example(*item, statistics.convention)]
    return markdown.join(*parts) or "There is no checkpoint here yet."


def _example_files(
    statistics: tree_statistics.TreeStatistics,
) -> list[tuple[tree_statistics.Configuration, tree_statistics.CountedRun, tree_statistics.CountedFile]]:
    """The last checkpoint of the best configuration of each family, or of its first one."""
    found: list[tuple[tree_statistics.Configuration, tree_statistics.CountedRun, tree_statistics.CountedFile]] = []
    ranking = say.ranked(statistics)
    for family in say.families_of(statistics):
        candidates = [*ranking[family], *(c for c in statistics.configurations if c.family == family)]
        files = ((c, run, file) for c in candidates for run in c.runs for file in reversed(run.files))
        found += islice(files, 1)
    return found


def _example(
    configuration: tree_statistics.Configuration,
    run: tree_statistics.CountedRun,
    file: tree_statistics.CountedFile,
    convention: Convention,
) -> list[str]:
    prefix = convention.prefix(file.kind or "")
    lengths = f"K = {say.trained(run.config, convention)}" if convention.trained_keys else ""
    settings = markdown.text(say.brief(run.config, say.all_axes(convention), convention))
    facts = [
        ", ".join(filter(None, (say.family_title(configuration.family, convention), lengths))),
        "; ".join(filter(None, (settings, f"seed {say.seeds_text([run.seed], convention)}"))),
    ]
    if prefix is not None and file.step is not None:
        facts.append(f"{markdown.text(prefix.title[:1].upper() + prefix.title[1:])}, {file.step:,} iterations")
    if run.measured is not None and prefix is not None and prefix.final:
        facts.append(
            f"Generalization {metrics.value_text(run.measured.value, convention)} "
            f"({markdown.text(run.measured.source)})"
        )
    facts.append(f"In {markdown.link(markdown.code(f'{file.folder}/'), file.folder, folder=True)}")
    return [markdown.fenced("", wording.one_line(file.name)), "\n".join(f"- {fact}" for fact in facts)]


# --- contents and loading ---------------------------------------------------------------------------------------------


def _contents(statistics: tree_statistics.TreeStatistics) -> str:
    by_name = {form.name: form for form in statistics.convention.checkpoint.forms}
    here = [info for _, info in forms_here(statistics)]
    if here:
        columns = {title_of(info): _where(info, by_name.get(info.form)) for info in here}
    else:
        columns = {f"Form {markdown.text(name)}": _keys(form) for name, form in by_name.items() if not form.whole}
    dictionaries = all(info.container == containers.TORCH_ARCHIVE and info.weights_key for info in here)
    rows = [[what, *(held[what] for held in columns.values())] for what in _HOLDS]
    rows = [row for row in rows if {*row[1:]} != {say.NOTHING}]
    one = len(columns) == 1
    return markdown.join(
        markdown.paragraph(
            "Each file is a dictionary that `torch.save` wrote. Its keys depend on the trainer."
            if dictionaries
            else "What a checkpoint holds, and where in it, depends on the program that wrote it.",
            f"{'Of this form' if one else 'Of these forms'} are files here:"
            if here
            else f"{'One form is' if one else 'These forms are'} known:",
        ),
        markdown.table(["Holds", *columns], rows),
        "`ckptman show FILE` tells what a file holds.",
    )


_HOLDS: Mapping[str, Callable[[terms.CheckpointForm], str | None]] = {
    "Weights by parameter name": lambda form: form.weights,
    "Optimizer state; final files may lack it": lambda form: form.optimizer,
    "Training configuration, seed included": lambda form: form.config,
    "Shape of the model": lambda form: form.model_config,
    "Iterations done": lambda form: form.iters,
    "Index of the last iteration, on the way only": lambda form: form.itr,
    "W&B run, where the trainer knew it": lambda form: form.run_id,
}


def _keys(form: terms.CheckpointForm | None) -> dict[str, str]:
    """Under which key a form holds what."""
    keys = {what: get(form) if form is not None else None for what, get in _HOLDS.items()}
    return {what: markdown.code(key) if key else say.NOTHING for what, key in keys.items()}


def _where(info: CheckpointInfo, form: terms.CheckpointForm | None) -> dict[str, str]:
    """The same of a file, which may have its weights and its configuration elsewhere than its form says."""
    found = _keys(form)
    weights, _, config, *_ = found
    whole = "the files of the folder" if info.members else "the file itself"
    found[weights] = whole if info.weights_key is None else markdown.code(info.weights_key)
    if info.config_key is not None:
        found[config] = markdown.code(info.config_key)
    return found


# --- adding, and where from -------------------------------------------------------------------------------------------


def _adding(statistics: tree_statistics.TreeStatistics) -> str:
    return markdown.join(
        markdown.paragraph(
            "Do not copy files here by hand: `ckptman ingest` reads the configuration in each file, puts the file",
            "where it belongs, and keeps where it came from. It overwrites nothing, and places nothing twice. In this",
            "folder:",
        ),
        markdown.fenced(
            "bash",
            "ckptman ingest /path/to/grid_outputs --root . --dry-run  # what it would do\n"
            "ckptman ingest /path/to/grid_outputs --root .\n"
            "ckptman validate --root .\n"
            "ckptman report --root .                                  # brings the documents up to date",
        ),
        markdown.paragraph(
            f"For an experiment with other fields, groups or grids, extend the rules in "
            f"{markdown.code(convention_file.FILE_NAME)}."
        ),
    )


def _source(statistics: tree_statistics.TreeStatistics) -> str:
    convention = statistics.convention
    by_root: dict[str, Counter[str]] = defaultdict(Counter)
    for run in statistics.finished:
        by_root[run.alike.source_root].update(runs=1, files=len(run.files))
    for lost in statistics.lost:
        by_root[lost.run.source.root].update(overwritten=1)
    levels = filter(None, ("{group}", convention.folders.task_pattern, convention.raw.saved_models))
    layout = say.placeholders("/".join(levels))
    if not by_root:
        return f"No {markdown.code(records.RUN_FILE)} tells where the files came from."
    rows = [[markdown.code(root), *(f"{by_root[root][key]:,}" for key in ("runs", "files", "overwritten"))]
            for root in say.natural(by_root)]  # fmt: skip
    return markdown.join(
        "The folders that were ingested:",
        markdown.table(["Source", "Runs", "Files", "Overwritten runs"], rows, right=range(1, 4)),
        markdown.paragraph(
            "From which file exactly each checkpoint came is in the",
            f"{markdown.code(records.RUN_FILE)} of its run. Training leaves files in {markdown.code(f'{layout}/')}.",
        ),
    )


_BLOCKS: Mapping[str, Callable[[tree_statistics.TreeStatistics], str]] = {
    "summary": _summary,
    "figures": figure_files.text,
    "structure": _structure,
    "best": _best,
    "tasks": _tasks,
    "naming": _naming,
    "examples": _examples,
    "contents": _contents,
    "loading": loading_text,
    "statistics": statistics_text,
    "adding": _adding,
    "source": _source,
}
