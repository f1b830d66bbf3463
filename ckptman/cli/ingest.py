"""`ckptman ingest`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptman.cli.app import app, convention_for, next_step, print_json, warn
from ckptman.cli.options import Json, Numbering, Root, tree_of
from ckptman.cli.remembering import Remembered
from ckptman.cli.text import console, count_text, plain, size_text
from ckptman.fs import Mode, write_atomically
from ckptman.rules import Convention, convention_file, naming, placement
from ckptman.text import wording

if TYPE_CHECKING:  # imported where they are used: an answer that is known needs none of them
    from rich.console import Console

    from ckptman.ingestion import IngestResult
    from ckptman.raw import overwritten, scanning
    from ckptman.tree import records

_MOST_LINES = 12
"""Lines shown of each kind; --verbose shows all."""

_UNKNOWN_FORMS = {"not-a-checkpoint", "foreign", "legacy-format", "empty"}

_UNDESCRIBED = {"unknown-name", "no-name", "no-config", "no-group"}

_FEW = 3
"""Of a folder with nothing that ckptman knows."""


@app.command("ingest")
def _ingest(
    context: typer.Context,
    # Text, not paths, in which an empty argument and the current folder are one.
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Raw outputs: the root, one group, one task, one run, or a tree.")
    ],
    root: Root = None,
    mode: Annotated[
        Mode, typer.Option(envvar="CKPTMAN_MODE", help="How files get to their place; move removes the source.")
    ] = Mode.COPY,
    trust: Annotated[
        naming.Trust,
        typer.Option(envvar="CKPTMAN_TRUST", help="Which decides where a name and the configuration disagree."),
    ] = naming.Trust.NEITHER,
    settle: Annotated[
        float,
        typer.Option(
            envvar="CKPTMAN_SETTLE",
            min=0,
            metavar="SECONDS",
            help="A cut file younger than this may still be being written: it is deferred.",
        ),
    ] = 600.0,
    checksum: Annotated[bool, typer.Option("--checksum", help="Read files again that look unchanged.")] = False,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Follow symbolic links below SRC.")
    ] = False,
    with_wandb: Annotated[
        bool, typer.Option("--with-wandb", help="Keep each run's W&B folder beside its checkpoints.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and write nothing.")] = False,
    numbering: Numbering = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every file.")] = False,
    as_json: Json = False,
) -> None:
    """Sort raw outputs into the tree.

    Each checkpoint goes where the configuration inside it says. Nothing is overwritten, and the source stays as it is
    (but for --mode move). Doing it again places only what is new.

    Example: ckptman ingest /scratch/grid_outputs --root checkpoints --dry-run
    """
    root = tree_of(context, root)
    rules = convention_for(context, root, numbering)
    with _remembered(context, source, root, rules) as answer:
        from ckptman.cli.progress import ByteProgress
        from ckptman.ingestion import ingest

        with ByteProgress() as progress:
            result = ingest(
                source,
                root,
                convention=rules,
                mode=mode,
                trust=trust,
                settle=settle,
                checksum=checksum,
                follow_symlinks=follow_symlinks,
                with_wandb=with_wandb,
                dry_run=dry_run,
                progress=progress,
            )
        if answer is not None:  # free space and what may be being written change without a file of these
            answer.may_be_kept = not (result.placed or result.deferred)
        for message in result.warnings:
            warn(message)
        kept = result.placed and not dry_run and _keep_rules(context, result.plan.root)
        if as_json:
            print_json(result.to_json())
        else:
            show(result, rules, console(), verbose=verbose)
            if kept:
                console(stderr=True).print(plain(f"{kept} says by which convention this tree is sorted", "dim"))
            if result.placed and not result.dry_run:
                _next_step(result.plan.root, rules, told=convention_for(context, root).numbering)
            if _is_undescribed(result):
                next_step(f"ckptman learn {wording.shell_word(source)}")
                said = "  proposes the rules of an experiment that none describes, as a ckptman.yaml"
                console(stderr=True).print(plain(said, "dim"))
        if answer is not None and not kept and (again := result.again) is not None:
            answer.expect(lambda: show(again, rules, console(), verbose=verbose), result.sizes, result.written)
        raise typer.Exit(1 if result.refused or _is_undescribed(result) else 0)


def _remembered(
    context: typer.Context, given_source: str, root: Path, rules: Convention
) -> AbstractContextManager[Remembered | None]:
    """An ingest with nothing to do is a question, where all that it hangs on lies in the source and in the tree."""
    given, source = context.params, Path(given_source)
    reads_more = given["as_json"] or given["checksum"] or given["follow_symlinks"] or given["mode"] == Mode.MOVE
    if (
        reads_more
        or not given_source
        or not source.is_dir()
        or placement.task_folder_of(source.resolve(), rules) is not None
    ):
        return nullcontext()
    return Remembered(context, root, rules, source=source)


def _keep_rules(context: typer.Context, root: Path) -> str:
    """Write into a tree that no ckptman.yaml is for which shipped convention it is sorted by; its name, or empty."""
    name = context.parent.params.get("convention") if context.parent is not None else None
    if name is None or convention_file.find_file(root) is not None:
        return ""
    write_atomically(root / convention_file.FILE_NAME, f"extends: {name}\n".encode(), replace=False)
    return convention_file.FILE_NAME


def show(result: IngestResult, rules: Convention, out: Console, *, verbose: bool) -> None:
    """Print what an ingest did."""
    most = None if verbose else _MOST_LINES
    plan = result.plan
    size = size_text(sum(row.size for row in result.placed))
    runs = sum(1 for _ in groupby(result.placed, _folder_of))  # which come by path, and none lies in another
    if result.placed:
        verb = "would place" if result.dry_run else "placed"
        out.print(
            plain(f"{verb} {count_text(len(result.placed), 'checkpoint')} of {count_text(runs, 'run')} ({size}) in ")
            + plain(plan.root, "bold")
        )
    else:
        out.print(plain("nothing to place: ", "bold") + plain(_why_nothing(result)))
    if verbose:
        _all_lines(out, (f"{row.source} → {row.path}" for row in result.placed))
    elif result.dry_run:
        _all_lines(out, _planned(result.placed))
    else:
        _groups(out, result)
    if result.dry_run and result.placed:
        space = result.space
        needed = f"needs {size_text(space.needed)}" if space.needed else "needs no space, as links"
        out.print(plain(f"{needed}; {size_text(space.free)} free there", "yellow" if space.needed > space.free else ""))
    if plan.unchanged:
        out.print(plain(f"{count_text(len(plan.unchanged), 'checkpoint')} unchanged since the last ingest"))
    if result.removed:
        files = f"{count_text(len(result.removed), 'file')} {'was' if len(result.removed) == 1 else 'were'}"
        removed = "would be removed" if result.dry_run else "removed"
        out.print(plain(f"{files} in the tree already: {removed} from the source"))
    _section(
        out,
        f"{count_text(len(plan.completed), 'run')} {'would be ' if result.dry_run else ''}completed: "
        "the files were in the tree without a run.json",
        [str(folder) for folder in plan.completed],
        most,
    )
    _section(
        out,
        f"{count_text(len(plan.resolved), 'run')} whose W&B run was not known, and is now (see run.json)",
        [str(folder) for folder in plan.resolved],
        most,
    )
    if result.histories:
        verb = "to be read" if result.dry_run else "kept beside the checkpoints"
        out.print(plain(f"{count_text(len(result.histories), 'learning curve')} {verb}"))
    if result.wandb_placed:
        out.print(plain(f"{count_text(len(result.wandb_placed), 'W&B file')} kept beside the checkpoints"))
    _section(
        out,
        f"{count_text(len(plan.duplicates), 'duplicate')}: the same bytes are in the tree",
        [f"{item.source} = {item.same_as}" for item in plan.duplicates],
        most,
    )
    _renumbered(out, result, most)
    _regrouped(out, result, most)
    _overwritten(out, result, verbose=verbose)
    _section(
        out,
        f"{count_text(len(plan.without_files), 'W&B run')} without a checkpoint",
        [f"run {item.run.run_id}: {_why_no_file(item, rules)}" for item in plan.without_files],
        most,
    )
    _section(
        out,
        f"{count_text(len(plan.ambiguous), 'checkpoint')} whose W&B run is not known for sure (see run.json)",
        [row.path for row in plan.ambiguous],
        most,
    )
    _section(
        out,
        f"{count_text(len(plan.wandb_problems), 'fault')} in W&B folders; the rest of them was read",
        [f"{item.source}: {item.message}" for item in plan.wandb_problems],
        most,
    )
    _section(
        out,
        f"{count_text(len(plan.beside_problems), 'file')} beside checkpoints not used, or in disagreement",
        [f"{item.source}: {item.message}" for item in plan.beside_problems],
        most,
        style="yellow",
    )
    _section(
        out,
        f"{count_text(len(plan.passed_over), 'possible checkpoint')} passed over, not named *{rules.checkpoint.suffix}:"
        " ckptman show says what is in them",
        list(plan.passed_over),
        most,
        style="yellow",
    )
    _section(
        out,
        f"{count_text(len(plan.system_files), 'file')} of the operating system passed over",
        list(plan.system_files),
        most,
    )
    _section(
        out,
        f"{count_text(len(plan.archives), 'archive')} passed over: what is in them is found once they are unpacked",
        list(plan.archives),
        most,
        style="yellow",
    )
    _unused_configs(out, result, most)
    _refusals(out, result.deferred, "deferred: it may still be being written", most)
    _refusals(out, result.refused, "refused", _FEW if most and _is_wrong_folder(result) else most)


def _next_step(root: Path, rules: Convention, *, told: str) -> None:
    """What to do with the tree; `told` is the numbering that is in force where none is given."""
    if rules.numbering != told:
        file = wording.shell_word(root / convention_file.FILE_NAME)
        next_step(f"write `numbering: {rules.numbering}` into {file}, by which the tree is sorted")
    next_step(f"ckptman validate --root {wording.shell_word(root)}")


def _why_nothing(result: IngestResult) -> str:
    plan = result.plan
    left = bool(result.refused or result.deferred)
    if _is_wrong_folder(result):
        return f"none of these {len(result.refused):,} files is a checkpoint of a known form; is this the right folder?"
    if plan.unchanged or plan.duplicates:
        return f"every {'other ' if left else ''}checkpoint of the source is in the tree already"
    return "nothing of the source could be used" if left else f"no checkpoint was found below {plan.source}"


def _is_wrong_folder(result: IngestResult) -> bool:
    """Whether all that was found are several files of other programs."""
    plan = result.plan
    known = result.placed or result.deferred or plan.unchanged or plan.duplicates
    return not known and len(result.refused) > 1 and {item.code for item in result.refused} <= _UNKNOWN_FORMS


def _is_undescribed(result: IngestResult) -> bool:
    """Whether nothing of the source could be used, and some of it is of an experiment that no rule describes."""
    plan = result.plan
    known = result.placed or result.deferred or plan.unchanged or plan.duplicates
    return not known and bool(plan.passed_over or {item.code for item in result.refused} & _UNDESCRIBED)


def _why_no_file(item: overwritten.LostFiles, rules: Convention) -> str:
    if item.missing or item.refused or item.unsure:
        unsure = tuple(name for name in item.unsure if name not in item.refused)
        kinds = (
            (item.missing, "missing"),
            (item.refused, "refused or deferred, see below"),
            (unsure, "there, and it is not known whether it wrote that"),
        )
        return "; ".join(f"{', '.join(names)} {what}" for names, what in kinds if names)
    last = item.run.last_iter
    if last is None:  # which its record would say, if it could be read
        return "nothing of it is recorded" if not item.run.config or item.run.problems else "nothing was logged"
    steps = [step for prefix in rules.prefixes if (step := prefix.expected_step(item.run.config)) is not None]
    if steps and last < min(steps):
        return f"its record ends at iteration {last}, before its first checkpoint"
    return f"its record ends at iteration {last}; its configuration does not tell what it saved"


def _planned(rows: Iterable[records.CheckpointRow]) -> Iterator[str]:
    """A line for each source folder and the run folder that its files go to; there may be hundreds of thousands."""
    for here, files in groupby(rows, _folder_of):
        for there, count in Counter(row.source.rpartition("/")[0] or "." for row in files).items():
            yield f"{count_text(count, 'file')} from {there} to {here}"


def _folder_of(row: records.CheckpointRow) -> str:
    return row.path.rpartition("/")[0]


def _groups(out: Console, result: IngestResult) -> None:
    counts = Counter(row.path.rsplit("/", 3)[0] for row in result.placed)
    for folder, count in sorted(counts.items(), key=lambda item: wording.natural_key(item[0])):
        out.print(plain(f"  {count:>5}  {folder}"))


def _renumbered(out: Console, result: IngestResult, most: int | None) -> None:
    """Files whose task id is another than at the source, told once a group."""
    files = 0
    moved: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for row in chain(result.placed, result.plan.unchanged):
        if row.source_task is not None and row.task is not None and row.source_task != row.task:
            files += 1
            moved[row.group].add((row.source_task, row.task))
    lines = [
        f"{group}: task {', '.join(f'{there} → {here}' for there, here in sorted(pairs))}"
        for group, pairs in sorted(moved.items(), key=lambda item: wording.natural_key(item[0]))
    ]
    heading = f"{count_text(files, 'file')} renumbered: the configuration decides, not the source's folder"
    _section(out, heading, lines, most)


def _regrouped(out: Console, result: IngestResult, most: int | None) -> None:
    """Files of another group than at the source."""
    ways = Counter((item.source_group, item.group) for item in result.plan.regrouped)
    heading = f"{count_text(ways.total(), 'file')} regrouped: the configuration decides, not the source's folder"
    lines = [f"{there} → {here}: {count_text(count, 'file')}" for (there, here), count in sorted(ways.items())]
    _section(out, heading, lines, most)


def _unused_configs(out: Console, result: IngestResult, most: int | None) -> None:
    """Files with what looks like a configuration and is not used, told once for each set of keys."""
    files: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item in result.plan.unused_configs:
        files[item.keys].append(item.source)
    lines = [
        f"{', '.join(keys)}: in {found[0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        for keys, found in files.items()
    ]
    heading = (
        f"{count_text(len(result.plan.unused_configs), 'checkpoint')} with a possible configuration that is not used"
    )
    _section(out, heading, lines, most)


def _overwritten(out: Console, result: IngestResult, *, verbose: bool) -> None:
    """Runs whose files are gone: told once a group and set of seeds, or each by its id."""
    runs = result.plan.overwritten
    if runs:
        out.print(
            plain(f"{count_text(len(runs), 'run')} overwritten: a later run saved files of the same names", "yellow")
        )
        lines = [_lost_run(run) for run in runs] if verbose else _lost_seeds(runs)
        _lines(out, lines, None if verbose else _MOST_LINES)
        out.print(plain("  No checkpoint is left; each task's overwritten.json keeps what W&B recorded."))
        out.print(plain("  To keep every seed, let each save into a folder of its own.", "dim"))
    partly = [f"{_lost_run(run)}: lost {', '.join(run.files)}" for run in result.plan.partly_overwritten]
    heading = f"{count_text(len(partly), 'run')} overwritten in part"
    _section(out, heading, partly, None if verbose else _MOST_LINES, style="yellow")


def _lost_run(run: records.OverwrittenRun) -> str:
    by = f", by run {', '.join(run.overwritten_by)}" if run.overwritten_by else ""
    return f"{run.group} task {run.task} seed {run.seed} (run {run.run_id}){by}"


def _lost_seeds(runs: Iterable[records.OverwrittenRun]) -> list[str]:
    """A line for each group and the seeds that its tasks lost."""
    lost: dict[tuple[str, int], list[str]] = defaultdict(list)
    for run in runs:
        lost[run.group, -1 if run.task is None else run.task].append("unknown" if run.seed is None else str(run.seed))
    tasks: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for (group, task), seeds in sorted(lost.items()):
        tasks[group, tuple(sorted(seeds))].append(task)
    return [
        f"{group} {count_text(len(numbers), 'task')} ({_ranges(numbers)}): {_counted('seed', seeds)}"
        for (group, seeds), numbers in sorted(tasks.items(), key=lambda item: wording.natural_key(item[0][0]))
    ]


def _counted(noun: str, items: Sequence[str]) -> str:
    """`seed 1337`, `seeds 1337, 3 × 2337`."""
    each = [item if count == 1 else f"{count} × {item}" for item, count in Counter(items).items()]
    return f"{noun if len(items) == 1 else noun + 's'} {', '.join(each)}"


def _ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in short: `0-3, 6`."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def _refusals(out: Console, items: tuple[scanning.Refusal, ...], what: str, most: int | None) -> None:
    """What was not handled, by reason; what to do is said once for each reason."""
    style = "bold red" if what == "refused" else "yellow"
    reasons: dict[tuple[str, str], list[scanning.Refusal]] = defaultdict(list)
    for item in items:
        reasons[item.code, item.fix].append(item)
    if items:
        kinds = Counter(item.what for item in items)
        counted = " and ".join(count_text(count, kind) for kind, count in sorted(kinds.items(), reverse=True))
        out.print(plain(f"{counted} {what}", style))
    for (code, fix), found in sorted(reasons.items()):
        out.print(plain(f"  {code}: {fix}" if fix else f"  {code}"))
        _lines(out, [f"  {item.source}: {item.message}" for item in found], most)


def _section(out: Console, heading: str, lines: list[str], most: int | None, *, style: str = "bold") -> None:
    if lines:
        out.print(plain(heading, style))
        _lines(out, lines, most)


def _all_lines(out: Console, lines: Iterable[str]) -> None:
    for line in lines:
        out.print(plain(f"  {line}"))


def _lines(out: Console, lines: list[str], most: int | None) -> None:
    _all_lines(out, lines[:most])
    if most is not None and len(lines) > most:
        out.print(plain(f"  … and {len(lines) - most} more (--verbose names all, --json too)", "dim"))
