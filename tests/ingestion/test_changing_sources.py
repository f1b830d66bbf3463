"""A source that others change while it is moved: nothing of theirs is taken away that the tree does not have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import files, moving
from ckptman.ingestion.ingesting import ingest
from ckptman.text.errors import CkptmanError
from tests.helpers.disturbed import Disturbance, between
from tests.helpers.faulty_ingests import in_memory
from tests.helpers.ingested import task
from tests.helpers.promises import Trial, caught, tried
from tests.helpers.raw import config, snapshot, write_run
from tests.helpers.slices import SLICES

PROMISE = "A source that others change during a move: no file goes whose bytes the tree does not have"


class Change(Disturbance):
    """Something happens before the `nth` call; between the last look at a file and unlink(2) nothing can be seen."""

    def __init__(self, nth: int, happen: Callable[[], None]) -> None:
        super().__init__(nth, self.change)
        self.happen = happen

    def change(self, name: str, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if name != "unlink":
            self.happen()
        return function(*arguments, **options)


class World:
    """A source of one run, and another version of it outside."""

    def __init__(self, home: Path) -> None:
        self.home, self.source, self.root = home, home / "source", home / "tree"
        self.others = home / "others"
        [_, self.file] = write_run(task(home / "template"), config(), run_id="abcd1234")
        self.at = self.file.relative_to(home / "template")
        write_run(task(home / "other"), config(), run_id="abcd1234", salt=5)
        self.theirs = {data for name, data in snapshot(home / "other").items() if name.endswith(".pt")}

    def furnish(self) -> None:
        for folder in (self.source, self.root, self.others):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.home / "template", self.source, symlinks=True)
        shutil.copytree(self.home / "other", self.others, symlinks=True)

    def replace(self) -> None:
        """Another program writes a newer file, and gives it the name."""
        (self.source / self.at).parent.mkdir(parents=True, exist_ok=True)
        (self.others / self.at).rename(self.source / self.at)

    def lead_elsewhere(self) -> None:
        """The folder becomes a link to one with files of the same names."""
        folder = (self.source / self.at).parent
        if folder.is_dir():
            folder.rename(self.home / "aside")
            folder.symlink_to((self.others / self.at).parent)

    def is_lost(self) -> bool:
        there = [*snapshot(self.source).values(), *snapshot(self.root).values(), *snapshot(self.others).values()]
        return not self.theirs <= {data for data in there if isinstance(data, bytes)}


def changed_at_calls(home: Path, happen: Callable[[World], None], every: int, trial: Trial) -> int:
    """Move again and again, each time something happening before another call; how often a file was lost."""
    world, lost = World(home), 0
    nth, calls = every, 10**9
    while nth <= calls:
        world.furnish()
        shutil.rmtree(home / "aside", ignore_errors=True)
        change = Change(nth, lambda: happen(world))
        try:
            with between(change):
                ingest(world.source, world.root, mode="move", settle=0, with_wandb=True)
        except CkptmanError:
            pass
        lost += world.is_lost()
        trial.cases += 1
        calls, nth = len(change.calls), nth + every
    return lost


@pytest.mark.parametrize("happen", [World.replace, World.lead_elsewhere], ids=lambda happen: happen.__name__)
def test_a_move_takes_nothing_away_that_is_not_kept(happen: Callable[[World], None]) -> None:
    with tried(PROMISE) as trial, in_memory() as home:
        assert changed_at_calls(home, happen, max(1, 30 // SLICES), trial) == 0
        assert trial.cases > 10


@pytest.mark.parametrize("happen", [World.replace, World.lead_elsewhere], ids=lambda happen: happen.__name__)
def test_removing_by_the_path_would_be_found(happen: Callable[[World], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(source: Path, placement: object, destination: Path, **_: Any) -> None:
        moving.sync_there(destination, destination.parent)
        files.remove(source)

    monkeypatch.setattr(moving, "remove_source", remove)
    with caught(PROMISE), in_memory() as home:
        assert changed_at_calls(home, happen, 10, Trial()) > 0
