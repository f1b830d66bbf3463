"""A question about a tree in which nothing changed is answered as before, without a file of it being opened."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from ckptman.cli.app import run
from ckptman.fs import cache
from tests.helpers.trees import FINAL, RUN, copy, make_good_tree, small_config, write_source


class Answer(NamedTuple):
    status: int
    out: str
    err: str
    opened: int
    """Files of the tree that were opened."""


class Ask(Protocol):
    def __call__(self, *arguments: str) -> Answer: ...


class Opened:
    """Counts files of a folder that are opened, by whatever call of Python."""

    def __init__(self) -> None:
        self.below = ""
        self.count = 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.below and str(arguments[0]).startswith(self.below):
            self.count += 1


OPENED = Opened()


@pytest.fixture(scope="module")
def good_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_good_tree(tmp_path_factory.mktemp("good"))


@pytest.fixture
def root(good_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_NS", -(10**15))  # as if all files were old
    return copy(good_tree, tmp_path)


@pytest.fixture
def ask(root: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: str) -> Answer:
        capsys.readouterr()
        OPENED.count, OPENED.below = 0, f"{root}/with"
        status = run([*arguments, "--root", str(root)])
        OPENED.below = ""
        return Answer(status, *capsys.readouterr(), OPENED.count)

    return asked


VERBS = [["validate"], ["validate", "--json"], ["results"], ["status"], ["status", "--json"], ["report", "--check"]]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_second_answer_is_the_first_and_opens_nothing(ask: Ask, verb: list[str]) -> None:
    first = ask(*verb)
    second = ask(*verb)
    assert first.opened > 0
    assert second == first._replace(opened=0)


def test_a_report_is_remembered_once_it_has_nothing_to_write(ask: Ask, root: Path) -> None:
    assert "written" in ask("report").out
    second = ask("report")
    assert "unchanged" in second.out
    assert second.opened > 0
    assert ask("report") == second._replace(opened=0)
    (root / "TASK_MAPPING.md").unlink()
    assert "written" in ask("report").out
    assert (root / "TASK_MAPPING.md").is_file()


def test_a_file_that_changed_is_found(ask: Ask, root: Path) -> None:
    assert ask("validate").status == 0
    file = root / RUN / FINAL
    was = file.stat()
    file.write_bytes(bytes(was.st_size))
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    found = ask("validate")
    assert (found.status, "bad-checkpoint" in found.out) == (1, True)


def test_other_words_rules_and_terminals_are_other_questions(
    ask: Ask, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("validate")
    assert ask("validate").opened == 0
    assert ask("validate", "--ignore", "missing-seed").opened > 0
    monkeypatch.setenv("COLUMNS", "60")
    assert ask("validate").opened > 0
    monkeypatch.delenv("COLUMNS")
    assert ask("validate").opened == 0
    rules = root.parent / "other.yaml"
    rules.write_text((root / "ckptman.yaml").read_text())
    assert run(["--config", str(rules), "validate", "--root", str(root)]) == 0
    rules.write_text(rules.read_text().replace("2337", "3337"))
    assert run(["--config", str(rules), "validate", "--root", str(root)]) == 1


def test_deep_reads_every_byte_and_without_a_cache_so_does_everything_what_it_needs(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert ask("validate", "--deep").opened > 0
    ask("validate")
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert ask("validate").opened > 0


def test_what_tells_of_files_elsewhere_is_looked_up_again(ask: Ask, root: Path) -> None:
    (root / "refused.json").write_text('{"schema_version": 1, "files": []}')
    for _ in range(2):
        assert ask("status").opened > 0


def test_an_ingest_with_nothing_to_do_is_remembered_until_the_source_or_the_tree_changes(
    ask: Ask, root: Path, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "grid_outputs", [small_config(seed=9), small_config(seed=10)])
    assert "placed 4 checkpoints" in ask("ingest", str(source)).out
    again = ask("ingest", str(source))
    assert "nothing to place" in again.out
    assert again.opened > 0
    assert ask("ingest", str(source)) == again._replace(opened=0)
    assert ask("ingest", str(source), "--checksum").opened > 0
    assert ask("ingest", str(source), "--json").opened > 0
    write_source(source / "more", [small_config(seed=11)])
    assert "placed 2 checkpoints" in ask("ingest", str(source)).out
    ask("ingest", str(source))
    [file] = root.rglob("seed_9/Final*")
    file.unlink()
    assert "placed 1 checkpoint" in ask("ingest", str(source)).out
