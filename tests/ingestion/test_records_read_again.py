"""Of a record in the tree little is held while a plan is made: it is read again, and has to be the one that it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ckptman.fs.files import PACKED_SIZE
from ckptman.ingestion.ingesting import ingest
from ckptman.ingestion.run_folders import Rows, RunFolders, Slot
from ckptman.raw import scanning
from ckptman.text.errors import MachineError
from tests.helpers.ingested import RUN, task
from tests.helpers.raw import config, snapshot, write_run
from tests.helpers.trees import edit_json


@pytest.fixture
def record(source: Path, root: Path) -> Path:
    """Of one run of two: that of the other is held when this one is asked for."""
    write_run(task(source, group="len_gen_k16"), config(16), run_id="bbbb2222")
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    return root / RUN.replace("k8", "k16") / "run.json"


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done once, after the tree was read."""

    def arrange(deed: Callable[[], object]) -> None:
        tell_apart, deeds = RunFolders.tell_apart, [deed]

        def do(self: RunFolders, files: Any) -> None:
            while deeds:
                deeds.pop()()
            tell_apart(self, files)

        monkeypatch.setattr(RunFolders, "tell_apart", do)

    return arrange


@pytest.mark.parametrize(
    "change",
    [
        lambda file: edit_json(file, lambda document: document.update(run_id="other")),
        lambda file: edit_json(file, lambda document: document["checkpoints"].pop()),
        lambda file: edit_json(file, lambda document: document["checkpoints"][0].update(sha256="0" * 64)),
        lambda file: file.write_text("{"),
        lambda file: file.unlink(),
    ],
    ids=["another run", "a checkpoint less", "other bytes", "no record", "nothing"],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_another_record_than_was_read_ends_the_ingest(
    change: Callable[[Path], object], dry_run: bool, source: Path, root: Path, record: Path, meanwhile: Any
) -> None:
    left: list[dict[str, Any]] = []
    meanwhile(lambda: left.append((change(record), snapshot(root))[1]))
    with pytest.raises(MachineError) as caught:
        ingest(source, root, dry_run=dry_run)
    assert caught.value.code == "tree-changing"
    assert [snapshot(root)] == left


def test_what_another_program_added_meanwhile_is_kept(source: Path, root: Path, record: Path, meanwhile: Any) -> None:
    """The control: the record is of the same run and files."""
    added = {"mode": "teacher-forced", "metrics": {"gen/K17/exact_match_acc": 0.5}}
    meanwhile(lambda: edit_json(record, lambda document: document["evaluations"].append(added)))
    assert len(ingest(source, root).plan.unchanged) == 4
    assert json.loads(record.read_bytes())["evaluations"] == [added]


# --- rows in order ----------------------------------------------------------------------------------------------------

FOLDERS = ("b/task/seed_1", "b/task/seed_1-x", "b/task/seed_1+y", "b-c/task/seed_1", "b/task", ".", "a", "b/task/a/z")
NAMES = ("Final-1.pt", "Final.pt", "-.pt")


def test_rows_come_by_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [Slot.at(PurePosixPath(folder)) for folder in FOLDERS]
    pairs = [(slot, name) for slot in slots for name in NAMES]
    paths = [str(slot.folder / name) for slot, name in pairs]
    monkeypatch.setattr(Rows, "_row", lambda self, at: paths[at])
    rows = Rows([slot for slot, _ in pairs], [name for _, name in pairs], lambda _: pytest.fail("none is asked for"))
    assert list(map(str, rows)) == sorted(paths) != paths


def test_files_of_a_source_come_by_their_paths_and_are_found_by_them() -> None:
    found = scanning.SourceFiles()
    paths = [str(PurePosixPath(folder, name)) for folder in FOLDERS for name in (*NAMES, "x/-.pt")]
    for at, path in enumerate(paths):
        above, _, name = path.rpartition("/")
        around = scanning.Around("/source", above, None, at, None)
        found.add(around, name, name, bytes([at]) * PACKED_SIZE, is_folder=at % 2 == 1)
    found = found.in_order()
    assert [file.relative for file in found] == sorted(paths) != paths
    assert [found.place_of(path) for path in sorted(paths)] == list(range(len(paths)))
    assert found.place_of("b/task/none.pt") is None
    for file in found:
        at = paths.index(file.relative)
        assert (file.task, file.packed[:1], file.is_folder) == (at, bytes([at]), at % 2 == 1)
