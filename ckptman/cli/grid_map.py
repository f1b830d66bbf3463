"""Where the grid stands, as a map on a terminal; and the commands that train what is missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ckptman.cli.app import print_json, warn
from ckptman.cli.options import DEFAULT_OUT
from ckptman.cli.recipe import common_recipe, flags_of, train_command
from ckptman.cli.text import clean, console, count_text, plain
from ckptman.rules import Convention, GroupPattern, convention_file, placement, selection, terms
from ckptman.sweeps import GridStatus, RunStanding, grid_status
from ckptman.tree import standing

SIGNS = {
    grid_status.COMPLETE: standing.MARKS[standing.Extent.COMPLETE],
    grid_status.RUNNING: "▶",
    grid_status.REFUSED: standing.REFUSED,
    grid_status.FAILED: "✗",
    grid_status.PARTIAL: standing.MARKS[standing.Extent.ON_THE_WAY],
    grid_status.OVERWRITTEN: standing.OVERWRITTEN,
    grid_status.MISSING: standing.MARKS[standing.Extent.NOTHING],
}
LETTERS = {
    grid_status.COMPLETE: "C",
    grid_status.RUNNING: "R",
    grid_status.REFUSED: standing.REFUSED,
    grid_status.FAILED: "F",
    grid_status.PARTIAL: "p",
    grid_status.OVERWRITTEN: "o",
    grid_status.MISSING: ".",
}
"""The signs where the terminal cannot show them."""
STYLES = {
    grid_status.COMPLETE: "green", grid_status.RUNNING: "bold cyan", grid_status.REFUSED: "bold yellow",
    grid_status.FAILED: "bold red", grid_status.PARTIAL: "yellow", grid_status.OVERWRITTEN: "magenta",
    grid_status.MISSING: "dim",
}  # fmt: skip

_TOLD = (grid_status.RUNNING, grid_status.REFUSED, grid_status.FAILED, grid_status.PARTIAL, grid_status.OVERWRITTEN)
"""States whose runs are named below the map."""

_MOST_LINES = 12
"""Runs named of each state; --verbose names all."""


def answer(
    found: GridStatus, *, as_json: bool, missing: bool, verbose: bool, flags: Sequence[str], is_part: bool
) -> NoReturn:
    """Print what was asked for, and end the command.

    Args:
        missing: Whether the commands are asked for that train what is missing; `flags` are options for all of them.
        is_part: Whether the command line says which runs.
    """
    if missing:
        sys.stdout.write("".join(f"{line}\n" for line in commands(found, flags)))
        _tell_recipe(found)
    elif as_json:
        print_json(found.to_json())
    else:
        show(found, console(), verbose=verbose)
        _tell(found, is_part=is_part)
    bad = found.counts[grid_status.FAILED] or found.refused
    raise typer.Exit(1 if bad and not missing else 0)


def watch(look: Callable[[], GridStatus], every: float, verbose: bool) -> None:
    """Show the map again and again, as much of it as the terminal has lines for, until Ctrl-C."""
    try:
        while True:
            found = look()
            out = console()
            with out.capture() as captured:
                show(found, out, verbose=verbose)
            lines = captured.get().splitlines()[: max(1, out.height - 2)]
            lines.append(f"{time.strftime('%H:%M:%S')}, every {every:g} s; Ctrl-C ends")
            sys.stdout.write("\x1b[H\x1b[2J" + "\n".join(lines))  # to the first line, and clear
            sys.stdout.flush()
            time.sleep(every)
    except KeyboardInterrupt:
        sys.stdout.write("\n")


def commands(found: GridStatus, more: Sequence[str] = ()) -> list[str]:
    """A command for each run that is to be trained, and that ckptman can train; `more` are options for all of them.

    A run that was begun goes on with its own recipe; others get the one that all known runs share.
    """
    shared = _shared_recipe(found)
    lines = []
    for item in found.to_train:
        run = item.run
        begun = item.state in (grid_status.PARTIAL, grid_status.FAILED)
        own = item.config if begun and item.config is not None else shared
        lines.append(train_command(own, run, found.convention, more))
    return list(dict.fromkeys(lines))  # one task can stand for two cells


def show(found: GridStatus, out: Console, *, verbose: bool = False) -> None:
    """Print the map, and what there is to say of single runs."""
    signs = _signs()
    families = [(pattern, list(items)) for pattern, items in groupby(found.runs, key=lambda item: item.run.pattern)]
    empty = [] if verbose else [family for family in families if all(map(_is_untouched, family[1]))]
    for pattern, items in families:
        if (pattern, items) not in empty:
            for line in _map(pattern, items, found.convention, signs, out.width):
                out.print(line)
            out.print()
    if empty:
        shown = [_title(pattern, found.convention) for pattern, _ in families]
        titles = "; ".join(
            title if shown.count(title) == 1 else f"{title} {pattern.pattern}"
            for (pattern, items), title in zip(families, shown, strict=True)
            if (pattern, items) in empty
        )
        waiting = sum(len(items) for _, items in empty)
        out.print(plain(f"nothing yet ({count_text(waiting, 'run')}, --verbose shows them): {titles}", "dim"))
        out.print()
    out.print(_legend(found, signs, out.width))
    by_seeds: dict[str, list[str]] = {}
    for pattern, items in families:
        if (pattern, items) not in empty:
            seeds = list(dict.fromkeys(str(item.run.seed) for item in items))
            by_seeds.setdefault(f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}", []).append(pattern.pattern)
    for said, patterns in by_seeds.items():
        of = f" of {', '.join(patterns)}" if len(by_seeds) > 1 else ""
        out.print(plain(f"in each cell{of}: {said}", "dim"))
    for state in _TOLD:
        _section(out, state, [item for item in found.runs if item.state == state], verbose=verbose)
    _section(
        out,
        "in the queue",
        [item for item in found.runs if item.job and item.state not in (grid_status.RUNNING, grid_status.COMPLETE)],
        verbose=verbose,
    )


def _is_untouched(item: RunStanding) -> bool:
    return item.state == grid_status.MISSING and not item.job


def _title(pattern: GroupPattern, convention: Convention) -> str:
    families = placement.families_of(pattern, convention)
    return (placement.family_title(families[0], convention) if len(families) == 1 else "") or pattern.title


def _map(
    pattern: GroupPattern, items: Sequence[RunStanding], convention: Convention, signs: dict[str, str], room: int
) -> Iterator[Text]:
    """The heat map of a family: a row a task, a column a K; below each other where not all columns have room."""
    title = plain(_title(pattern, convention), "bold")
    name = plain(f"  {pattern.pattern}", "dim")
    yield title + name if title.cell_len + name.cell_len <= room else title
    cells: dict[tuple[int, str], dict[str, Text]] = {}
    for item in items:
        run = item.run
        brief = " ".join(convention.axis(axis).brief(value) for axis, value in run.cell.values.items())
        cell = cells.setdefault((run.cell.task, brief), {}).setdefault(_column(run), Text())
        cell.append(signs[item.state], style=STYLES[item.state])
    lengths = list(dict.fromkeys(_column(item.run) for item in items))
    marks = (cell_len(cell.plain) for row in cells.values() for cell in row.values())
    width = max(4, *(cell_len(name) + 2 for name in lengths), max(marks) + 2)
    names = [f"{task:>3}  {brief}" for task, brief in cells]
    left = max(map(cell_len, names)) + 2
    most = max(1, (room - left + 2) // width)
    for start in range(0, len(lengths), most):
        shown = lengths[start : start + most]
        of = f"{terms.K} " if tuple(pattern.holes) == (terms.K,) else ""
        held = "" if of or not pattern.holes else f"{' '.join(pattern.holes)}:  "
        head = "".join(f"{f'{of}{k}' if i == 0 else k!s:<{width}}" for i, k in enumerate(shown))
        yield plain(f"{held:>{left}}{head}".rstrip(), "dim")
        for called, row in zip(names, cells.values(), strict=True):
            line = plain(f"{called:<{left}}")
            for k in shown:
                cell = row.get(k, Text())
                line += cell + Text(" " * (width - cell_len(cell.plain)))
            line.rstrip()
            yield line


def _column(run: selection.GridRun) -> str:
    """What the group's name holds: `8`, or `64 32 16`."""
    return " ".join(map(str, run.held.values()))


def _legend(found: GridStatus, signs: dict[str, str], width: int) -> Text:
    """What the signs mean, with how many runs have each; folded between states."""
    lines = [plain(f"{count_text(len(found.runs), 'run')}: ", "bold")]
    counts = {state: count for state, count in found.counts.items() if count or state != grid_status.REFUSED}
    for index, (state, count) in enumerate(counts.items(), start=1):
        part = Text(f"{signs[state]} ", style=STYLES[state]) + plain(f"{count:,} {state}", "" if count else "dim")
        part += plain("" if index == len(counts) else ", ")
        if lines[-1].cell_len + part.cell_len > width:
            lines[-1].rstrip()
            lines.append(Text("  "))
        lines[-1] += part
    return Text("\n").join(lines)


def _section(out: Console, title: str, items: Sequence[RunStanding], *, verbose: bool) -> None:
    """Name the runs of one state."""
    if not items:
        return
    out.print()
    out.print(plain(f"{title}:", STYLES.get(title, "bold")))
    for item in items if verbose else items[:_MOST_LINES]:
        out.print(plain(f"  {item.run.label}: {'; '.join(_details(item))}"))
        if item.log:
            out.print(plain(f"    log: {item.log}", "dim"))
    if len(items) > _MOST_LINES and not verbose:
        out.print(plain(f"  … and {len(items) - _MOST_LINES:,} more (--verbose names all, --json too)"))


def _details(item: RunStanding) -> Iterable[str]:
    if item.iters_done is not None:
        of = f" of {item.max_iters:,}" if item.max_iters else ""
        yield f"{item.iters_done:,}{of} iterations"
    if item.state == grid_status.RUNNING and item.iterations_per_second:
        yield f"{item.iterations_per_second:.1f} it/s"
    if item.reason:
        yield item.reason
    if item.job:
        yield item.job


def _tell(found: GridStatus, *, is_part: bool) -> None:
    """Say on stderr what the map leaves out, and what to do next."""
    talk = console(stderr=True)
    if found.out is None and found.root is None:
        warn(f"there is neither {DEFAULT_OUT} nor a tree here: name them with --out and --root")
    if unasked := sum(item.is_unasked for item in found.gaps):
        jobs = "its job is" if unasked == 1 else "their jobs are"
        warn(f"SLURM does not answer: of {count_text(unasked, 'run')} it is not known whether {jobs} in its queue")
    for item in found.refused[:_MOST_LINES]:
        warn(f"{item.source}: {item.message} [{item.code}]")
    if len(found.refused) > _MOST_LINES:
        warn(f"… and {len(found.refused) - _MOST_LINES:,} more files like these (--json names all)")
    for cell, files, runs in found.surely_missing[:_MOST_LINES]:
        talk.print(plain(f"{cell}: {count_text(files, 'refused file')} of unknown seed, {runs} runs without a final "
                         f"checkpoint: at least {runs - files} of them missing"))  # fmt: skip
    if found.outside:
        talk.print(plain(f"{count_text(len(found.outside), 'run')} outside of the grid, such as {found.outside[0]}"))
    if found.to_train:
        waits = "waits" if len(found.to_train) == 1 else "wait"
        given = ", with the options given here for which runs," if is_part else ""
        recipe = " by the published recipe" if _recipe_flags(found) else ""
        talk.print(
            plain(f"{count_text(len(found.to_train), 'run')} {waits} for training: ckptman sweep{given} trains them"
                  f"{recipe}, ckptman status --missing prints a command for each")
        )  # fmt: skip
    _tell_others(found)


def _tell_others(found: GridStatus) -> None:
    """Say on stderr which runs ckptman cannot train."""
    if count := len(found.gaps) - len(found.to_train):
        waits = "waits" if count == 1 else "wait"
        said = f"{count_text(count, 'run')} {waits} for training by the program of this experiment: ckptman's own knows"
        console(stderr=True).print(plain(f"{said} other keys"))


def _tell_recipe(found: GridStatus) -> None:
    """Say on stderr with which recipe the commands are, where it is not the published one, and whom they leave out."""
    refused = found.counts[grid_status.REFUSED]
    if refused:
        have, are = ("has a file that was", "is") if refused == 1 else ("have files that were", "are")
        said = f"{count_text(refused, 'run')} {have} refused, and {are} not among these: ckptman status tells why"
        console(stderr=True).print(plain(said))
    _tell_others(found)
    if flags := _recipe_flags(found):
        console(stderr=True).print(
            plain(f"with the recipe that the other runs share: {' '.join(flags)}"), soft_wrap=True
        )


def _recipe_flags(found: GridStatus) -> list[str]:
    """The options of `sweep` that give the recipe which the known runs share; none where that is the published one."""
    shared = _shared_recipe(found).items()
    # What the groups of all of them decide, sweep would refuse.
    return flags_of({key: value for key, value in shared if any(key not in item.run.values for item in found.to_train)})


def _shared_recipe(found: GridStatus) -> dict[str, object]:
    return common_recipe(
        [item.config for item in found.runs if item.config is not None and item.state != grid_status.OVERWRITTEN],
        found.convention,
    )


def where_flags(out: Path | None, numbering: str | None, config: Path | None) -> list[str]:
    """The options of `train` that say where, and by which rules; only those that were given here."""
    flags = [] if out is None else ["--out", str(out)]
    flags += [] if numbering is None else ["--numbering", numbering]
    name = next((name for name, file in convention_file.shipped().items() if file == config), None)
    if name is not None:
        warn(f"the commands are for the convention {name}: put --convention {name} before train")
    elif config is not None:
        warn(f"the commands are for the rules of {clean(config)}: put --config before train, or set CKPTMAN_CONFIG")
    return flags


def _signs() -> dict[str, str]:
    """The signs of the states, as far as the terminal's encoding has them."""
    try:
        "".join(SIGNS.values()).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return LETTERS
    return SIGNS
