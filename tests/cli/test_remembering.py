"""A question about a tree in which nothing changed is answered as before, without a file of it being opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from ckptman.cli import repeating
from ckptman.cli.app import run
from ckptman.cli.starting import start
from ckptman.fs import cache
from ckptman.fs.cache import SETTLED_NS
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
        status = start([*arguments, "--root", str(root)])
        OPENED.below = ""
        return Answer(status, *capsys.readouterr(), OPENED.count)

    return asked


VERBS = [
    ["validate"], ["validate", "--json"], ["results"], ["status"], ["status", "--json"], ["report", "--check"], ["ls"],
    ["ls", "--json"], ["ls", "--sort", "-seed", "--format", "csv"],
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_second_answer_is_the_first_and_opens_nothing(ask: Ask, verb: list[str]) -> None:
    first = ask(*verb)
    second = ask(*verb)
    assert first.opened > 0
    assert second == first._replace(opened=0)


@pytest.mark.parametrize(
    "verb", [["results", "--format", "parquet"], ["ls", "--paths"], ["ls", "--null"]], ids=" ".join
)
def test_what_is_no_text_is_written_each_time(
    root: Path, capfdbinary: pytest.CaptureFixture[bytes], verb: list[str]
) -> None:
    answers = []
    for _ in range(2):
        assert run([*verb, "--root", str(root)]) == 0
        answers.append(capfdbinary.readouterr())
    assert len(answers[0].out) > 100
    assert answers[0] == answers[1]


def test_what_is_too_long_is_not_remembered(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask("ls", "--json")
    assert ask("ls", "--json") == first._replace(opened=0)  # the control
    monkeypatch.setattr(cache, "LARGEST", 1000)
    assert ask("ls", "--json", "--seed", "1337").opened > 0
    assert ask("ls", "--json", "--seed", "1337").opened > 0


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
    assert start(["--config", str(rules), "validate", "--root", str(root)]) == 0
    rules.write_text(rules.read_text().replace("2337", "3337"))
    assert start(["--config", str(rules), "validate", "--root", str(root)]) == 1


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
    again = ask("ingest", str(source), "--settle", "0")
    assert "nothing to place" in again.out
    assert again.opened > 0
    assert ask("ingest", str(source), "--settle", "0") == again._replace(opened=0)
    assert ask("ingest", str(source), "--checksum").opened > 0
    assert ask("ingest", str(source), "--json").opened > 0
    write_source(source / "more", [small_config(seed=11)])
    assert "placed 2 checkpoints" in ask("ingest", str(source)).out
    ask("ingest", str(source))
    [file] = root.rglob("seed_9/Final*")
    file.unlink()
    assert "placed 1 checkpoint" in ask("ingest", str(source)).out


# --- what the next ingest will say ------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "grid_outputs", [small_config(seed=9), small_config(seed=10)])


def unremembered(ask: Ask, *arguments: str) -> Answer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, "off")
        return ask(*arguments)


@pytest.mark.parametrize("mode", ["copy", "hardlink"])
@pytest.mark.parametrize("is_new", [False, True])
def test_the_first_ingest_remembers_what_the_next_one_says(
    ask: Ask, root: Path, source: Path, mode: str, is_new: bool
) -> None:
    if is_new:
        shutil.rmtree(root)
    words = ["ingest", str(source), "--mode", mode]
    assert "placed 4 checkpoints" in ask(*words).out
    told = ask(*words)
    assert (told.opened, "nothing to place" in told.out) == (0, True)
    assert unremembered(ask, *words)[:3] == told[:3]
    assert not [path for path in root.rglob(".ckptman-*") if path.is_file()]


def same_but_ctime(file: Path) -> None:
    was = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"[")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


MEDDLING: dict[str, Callable[[Path, Path], object]] = {
    "a record written to": lambda root, source: same_but_ctime(next(root.rglob("seed_9/run.json"))),
    "a record gone": lambda root, source: next(root.rglob("seed_9/run.json")).unlink(),
    "a checkpoint cut": lambda root, source: os.truncate(next(root.rglob("seed_9/Final*")), 100),
    "a checkpoint gone": lambda root, source: next(root.rglob("seed_9/Final*")).unlink(),
    "a file that was there gone": lambda root, source: (root / RUN / FINAL).unlink(),
    "another file": lambda root, source: next(root.rglob("seed_9/run.json")).with_name("more").touch(),
    "another checkpoint at the source": lambda root, source: write_source(source / "more", [small_config(seed=11)]),
    "a checkpoint cut at the source": lambda root, source: os.truncate(next(source.rglob("Final*")), 100),
    "a record of W&B written to": lambda root, source: same_but_ctime(next(source.rglob("config.yaml"))),
}


@pytest.mark.parametrize("meddle", MEDDLING.values(), ids=MEDDLING)
@pytest.mark.parametrize("when", ["meanwhile", "at once"])
def test_what_somebody_else_changes_meanwhile_or_at_once_is_looked_at(
    ask: Ask,
    root: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    meddle: Callable[[Path, Path], object],
) -> None:
    moment = cache.moment

    def disturbed(folder: Path) -> int:
        meddle(root, source)
        return moment(folder)

    if when == "meanwhile":
        monkeypatch.setattr(cache, "moment", disturbed)
    ask("ingest", str(source))
    if when == "at once":
        meddle(root, source)
    found = ask("ingest", str(source))
    assert found.opened > 0
    assert found.status == unremembered(ask, "ingest", str(source)).status


def test_nothing_is_remembered_where_times_do_not_tell(
    ask: Ask, source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = lambda folder: max(path.lstat().st_ctime_ns for path in root.rglob("*"))  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(cache, "moment", newest)  # a clock that has not gone on since
        ask("ingest", str(source))
    assert ask("ingest", str(source)).opened > 0
    shutil.rmtree(root)
    monkeypatch.setattr(cache, "SETTLED_NS", 10**12)  # a source that was written a moment ago
    ask("ingest", str(source))
    assert ask("ingest", str(source)).opened > 0


# --- the same words ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that commands are called in, beside the tree."""
    place = root.parent / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def is_known(*words: str | Path) -> bool:
    """Whether there is an answer to these words without their being understood."""
    return repeating.known_answer([str(word) for word in words]) is not None


def write_rules(folder: Path, text: str = "settings: {ignore: [missing-seed]}\n") -> None:
    (folder / "ckptman.yaml").write_text(text)


def lead_elsewhere(root: Path) -> None:
    root.rename(root.with_name("other"))
    root.symlink_to("other")


OTHERWISE: dict[str, Callable[[Path, Path], object]] = {
    "rules where it is called": lambda root, place: write_rules(place),
    "rules above where it is called": lambda root, place: write_rules(place.parent),
    "other rules in the tree": lambda root, place: write_rules(root, (root / "ckptman.yaml").read_text() + "\n"),
    "no rules in the tree": lambda root, place: (root / "ckptman.yaml").unlink(),
    "a link in place of the tree": lambda root, place: lead_elsewhere(root),
    "a file that is gone": lambda root, place: (root / RUN / FINAL).unlink(),
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_the_same_words_are_answered_unless_they_mean_something_else(
    root: Path, place: Path, change: Callable[[Path, Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", "--root", "../checkpoints"]
    assert root == place.parent / "checkpoints"
    assert not is_known(*words)
    start(words)
    assert is_known(*words)  # the control
    change(root, place)
    assert not is_known(*words)
    capsys.readouterr()
    told = start(words), capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, "off")
        assert (start(words), capsys.readouterr()) == told
    assert is_known(*words)


def test_the_status_of_a_tree_is_another_beside_raw_outputs(root: Path, place: Path) -> None:
    words = ["status", "--root", str(root), "--json"]
    start(words)
    assert is_known(*words)
    (place / "grid_outputs").mkdir()
    assert not is_known(*words)


def test_words_that_leave_the_tree_or_the_rules_to_be_looked_for_are_understood_each_time(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    for words in (["ls"], ["--config", "ckptman.yaml", "ls", "."], ["--convention", "builtin", "ls", "."]):
        start(words)
        assert not is_known(*words)
    start(["ls", "."])
    assert is_known("ls", ".")  # the control
    monkeypatch.setenv("_CKPTMAN_COMPLETE", "complete_bash")
    assert not is_known("ls", ".")


def test_what_changes_while_words_are_understood_is_not_taken_for_their_rules(
    root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ls", "--root", str(root), "--json"]
    write_rules(place)
    look = repeating.Meaning.look

    def disturbed(meaning: repeating.Meaning) -> cache.FolderState | None:
        (place / "ckptman.yaml").unlink(missing_ok=True)
        return look(meaning)

    with monkeypatch.context() as patch:
        patch.setattr(repeating.Meaning, "look", disturbed)
        start(words)
    assert not is_known(*words)
    start(words)
    assert is_known(*words)  # the control
    write_rules(place)
    monkeypatch.setattr(cache, "SETTLED_NS", SETTLED_NS)
    start(words)  # by rules that were written a moment ago
    assert not is_known(*words)


def test_a_known_answer_that_cannot_be_written_ends_as_any(root: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ckptman", "ls", "--json", "--root", str(root)]
    time.sleep(SETTLED_NS / 1e9 + 0.1)
    ended, asks = {}, {True: os.environ[cache.VARIABLE], False: "off"}
    for is_known, kept in asks.items():
        for place in ("/dev/null", "/dev/null", "/dev/full"):
            with open(place, "w") as out:  # noqa: PTH123
                environment = {**os.environ, cache.VARIABLE: kept}
                done = subprocess.run(
                    command, stdout=out, stderr=subprocess.PIPE, env=environment, text=True, check=False
                )
            told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
            ended[is_known, place] = done.returncode, told, "typer" in done.stderr
    assert ended[True, "/dev/null"] == (0, ended[False, "/dev/null"][1], False)  # the control: the answer is known
    assert ended[True, "/dev/full"] == ended[False, "/dev/full"]
    assert ended[True, "/dev/full"][0] == 3


HEAVY = {
    "rich", "ckptman.checks", "ckptman.documents", "ckptman.formats", "ckptman.ingestion", "ckptman.queries",
    "ckptman.raw", "ckptman.rules", "ckptman.sweeps", "ckptman.tree", "ckptman.cli.app", "typer", "pydantic", "yaml",
}  # fmt: skip
"""What is imported to find an answer, and not to print it again."""

NEEDS = {
    "validate": {
        "typer",
        "pydantic",
        "yaml",
        "ckptman.rules",
        "ckptman.cli.app",
        "rich",
        "ckptman.checks",
        "ckptman.formats",
        "ckptman.tree",
    },
    "results": {"rich", "ckptman.queries", "ckptman.tree"},
    "status": {"rich", "ckptman.raw", "ckptman.sweeps", "ckptman.tree"},
    "report --check": {"rich", "ckptman.documents", "ckptman.tree"},
    "ls": {"rich", "ckptman.queries", "ckptman.tree"},
    "ls --json": {"ckptman.queries", "ckptman.tree"},
    "ingest": {"rich", "ckptman.ingestion", "ckptman.raw", "ckptman.tree"},
}


@pytest.mark.parametrize("verb", NEEDS)
def test_an_answer_that_is_remembered_imports_nothing_that_finds_answers(verb: str, source: Path, root: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ckptman", *verb.split(), "--root", str(root)]
    if verb == "ingest":
        command[-1:] = [str(root.with_name("new")), str(source)]
    time.sleep(SETTLED_NS / 1e9 + 0.1)
    first, second = (subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2))
    imported = [{line.rpartition("|")[2].strip() for line in done.stderr.splitlines()} for done in (first, second)]
    assert NEEDS[verb] <= imported[0]  # the control
    assert HEAVY & imported[1] == set()
    assert first.returncode == second.returncode
    assert second.stdout
    if verb == "ingest":
        assert "nothing to place" in second.stdout
    else:
        assert second.stdout == first.stdout
