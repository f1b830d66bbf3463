"""The table of commands: what `ckptman --help` lists. A command's module is imported when the command is called."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """One command."""

    module: str
    """Its module in `ckptman.cli`; importing it registers the command with the app."""
    summary: str
    """The first sentence of its help."""


COMMANDS = {
    "train": Command("train", "Train the runs of one or more tasks: one for each group or K, task and seed."),
    "sweep": Command("sweep", "Train many runs of the grid: by default all of it, by the published recipe."),
    "status": Command("status", "Show where the whole grid stands."),
    "learn": Command("learn", "Propose a convention for the checkpoints of a folder."),
    "ingest": Command("ingest", "Sort raw outputs into the tree."),
    "assign": Command("assign", "Say which run wrote checkpoints of a tree, where no file says it."),
    "migrate": Command("migrate", "Bring a tree to what its convention says now: places, names and run.json."),
    "validate": Command("validate", "Check a tree: names, places, run.json, shapes, steps, seeds, strays."),
    "report": Command(
        "report", "Write TASK_MAPPING.md and README.md of a tree, and with --html a page to look at all of it."
    ),
    "ls": Command("ls", "List the checkpoints of a tree."),
    "results": Command("results", "Show what each configuration reached: mean and deviation over its seeds."),
    "plot": Command("plot", "Draw one figure of any selection of a tree's runs."),
    "show": Command(
        "show",
        "Show what a checkpoint file is, without executing anything in it and without loading a tensor; or a run.",
    ),
    "eval": Command("evaluate", "Measure how well checkpoints sort lists of random numbers."),
    "witness": Command(
        "witness",
        "Ask the weights themselves which seed drew them, which files are of one run, and whether they were trained.",
    ),
    "export": Command("export", "Write copies of checkpoints that anybody can read without ckptman."),
    "task": Command("task", "Tell what a task id stands for, or which id a configuration has."),
    "name": Command("name", "Say what a checkpoint's file name says, or give the name of a configuration."),
    "config": Command("config", "Show each setting, its value, and where it comes from."),
    "doctor": Command("doctor", "Try out what ckptman leans on, and say what will work."),
}
"""By name, in the order in which they are listed."""


GOES_ON = frozenset({"train", "sweep", "ingest", "migrate"})
"""Those that, interrupted and called again, do not begin anew."""

REMEMBERED = frozenset({"validate", "ls", "results", "status", "report", "ingest"})
"""Those whose answers are printed again where nothing has changed."""

LEAVES_NOTHING = frozenset({"--dry-run", "--no-record", "--no-resume"})
"""Options by which there is nothing to go on from."""


def register(*names: str) -> None:
    """Import the modules of these commands; of all, where none is named."""
    for name in names or COMMANDS:
        import_module(f"ckptman.cli.{COMMANDS[name].module}")
