"""What cannot be read is not absent: no run is placed again since its folder in the tree could not be looked into."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckptman.cli.app import run as ckptman
from ckptman.documents.reporting import report
from ckptman.ingestion.ingesting import ingest
from ckptman.ingestion.run_folders import RunFolders
from ckptman.text.errors import MachineError
from tests.helpers.ingested import RUN, codes, task
from tests.helpers.meddling import unlistable
from tests.helpers.raw import START, config, snapshot, write_run

ERRORS = pytest.mark.parametrize(
    "error", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE], ids=errno.errorcode.get
)


@pytest.fixture
def tree(source: Path, root: Path) -> dict[str, Any]:
    """A tree of two runs, the files of both since then touched at the source."""
    files = write_run(task(source), config(), run_id="abcd1234")
    files += write_run(task(source, group="len_gen_k16"), config(16), run_id="bbbb2222")
    ingest(source, root)
    for file in files:
        os.utime(file, (START + 900, START + 900))
    return snapshot(root)


@ERRORS
@pytest.mark.parametrize("depth", range(5))
def test_a_run_whose_folder_cannot_be_listed_is_not_placed_again(
    source: Path, root: Path, tree: dict[str, Any], depth: int, error: int
) -> None:
    folder = root.joinpath(*Path(RUN).parts[:depth])
    with unlistable(folder, error):
        result = ingest(source, root)
    assert result.placed == ()
    assert set(codes(result)) == {"unreadable-tree"}
    assert len(result.refused) == (2 if depth > 2 else 4)
    assert os.strerror(error) in result.refused[0].message
    assert {name: held for name, held in snapshot(root).items() if name.endswith(".pt")} == {
        name: held for name, held in tree.items() if name.endswith(".pt")
    }
    assert ingest(source, root).refused == ()  # once it can be read
    assert snapshot(root).keys() == tree.keys()


def test_taking_the_unreadable_for_absent_would_be_found(
    source: Path, root: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolders, "require_readable", lambda *_: None)
    with unlistable(root / RUN, errno.EIO):
        placed = ingest(source, root).placed
    assert {str(Path(row.path).parent) for row in placed} == {f"{RUN}-abcd1234"}


def test_another_run_of_the_task_goes_on(source: Path, root: Path, tree: dict[str, Any]) -> None:
    write_run(task(source), config(seed=2337), run_id="cccc3333")
    with unlistable(root / RUN, errno.EIO):
        result = ingest(source, root)
    assert {row.seed for row in result.placed} == {2337}
    assert set(codes(result)) == {"unreadable-tree"}


def test_no_run_is_listed_as_overwritten_since_its_folder_cannot_be_read(
    source: Path, root: Path, tree: dict[str, Any]
) -> None:
    """Its files were moved away from the source, where another run then wrote files of the same names."""
    for file in task(source).rglob("*.pt"):
        file.unlink()
    write_run(task(source), config(), run_id="dddd4444", started=START + 9000)
    with unlistable(root / RUN, errno.EIO):
        result = ingest(source, root)
    assert not list(root.rglob("overwritten.json"))
    assert any(item.source.endswith("overwritten.json") for item in result.refused)
    assert ingest(source, root).plan.overwritten == ()


def test_report_says_what_it_could_not_read(
    root: Path, tree: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ckptman(["report", str(root)]) == 0
    documents = {name: held for name, held in snapshot(root).items() if name.endswith(".md")}
    with unlistable(root / RUN, errno.EIO):
        assert ckptman(["report", str(root)]) == 1
    assert "is not counted" in capsys.readouterr().err
    assert "cannot be read" in (root / "README.md").read_text()
    report(root)
    with unlistable(root, errno.EIO), pytest.raises(MachineError, match="cannot be read"):
        report(root)
    assert {name: held for name, held in snapshot(root).items() if name.endswith(".md")} == documents


def test_a_run_json_that_cannot_be_read_stops_its_run(
    source: Path, root: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((root / RUN / "run.json").read_text())
    real = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(root / RUN / "run.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert set(codes(ingest(source, root))) == {"bad-record"}
    assert json.loads((root / RUN / "run.json").read_text()) == before


# --- the W&B folders of the source ------------------------------------------------------------------------------------


@contextmanager
def unopenable(file: Path, error: int) -> Iterator[None]:
    real = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if isinstance(path, str | os.PathLike) and Path(os.fspath(path)) == file:
            raise OSError(error, os.strerror(error))
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", fail)
        yield


RUN_FOLDER = "wandb/wandb/run-20260310_000000-abcd1234"


@ERRORS
@pytest.mark.parametrize("folder", ["wandb", "wandb/wandb", RUN_FOLDER])
@pytest.mark.parametrize("whole", [True, False], ids=["the source", "saved_models alone"])
def test_a_wandb_folder_that_cannot_be_listed_is_not_no_run(
    source: Path, root: Path, folder: str, error: int, *, whole: bool
) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    write_run(task(source, group="len_gen_k16"), config(16), run_id="bbbb2222")
    named = source if whole else task(source) / "saved_models"
    with unlistable(task(source) / folder, error):
        result = ingest(named, root)
    assert {row.run_id for row in result.placed} == ({"bbbb2222"} if whole else set())
    assert codes(result).count("unreadable-wandb") == 2
    result = ingest(named, root)  # once it can be read
    assert (result.refused, {row.run_id for row in result.placed}) == ((), {"abcd1234"})


@ERRORS
@pytest.mark.parametrize("file", ["config.yaml", "wandb-summary.json", "wandb-metadata.json", "../run-abcd1234.wandb"])
def test_a_wandb_file_that_cannot_be_read_is_not_absent(source: Path, root: Path, file: str, error: int) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    with unopenable(Path(os.path.normpath(task(source) / RUN_FOLDER / "files" / file)), error):
        result = ingest(source, root)
    assert result.placed == ()
    assert set(codes(result)) == {"unreadable", "unreadable-wandb"}
    assert {row.run_id for row in ingest(source, root).placed} == {"abcd1234"}


def test_a_wandb_file_that_is_broken_tells_nothing_and_stops_nothing(source: Path, root: Path) -> None:
    """A control: what was read is known, however little it says."""
    write_run(task(source), config(), run_id="abcd1234")
    (task(source) / RUN_FOLDER / "files" / "wandb-metadata.json").write_text("{")
    result = ingest(source, root)
    assert ({row.run_id for row in result.placed}, result.refused) == ({"abcd1234"}, ())
