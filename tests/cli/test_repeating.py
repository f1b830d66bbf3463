"""What an answer to the same words hangs on beside the tree: who asks, where it is written, what changes meanwhile."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptman
from ckptman.cli import commands, remembering, repeating
from ckptman.cli.app import convention_for, run
from ckptman.cli.options import DEFAULT_OUT
from ckptman.cli.starting import start
from ckptman.fs import cache
from ckptman.rules import Convention
from tests.helpers.trees import copy, make_good_tree

Patch = pytest.MonkeyPatch
SETTLED_NS = 50_000_000


@pytest.fixture(scope="module")
def good_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_good_tree(tmp_path_factory.mktemp("good"))


@pytest.fixture
def root(good_tree: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    """A tree in which nothing changed lately."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_NS", SETTLED_NS)
    root = copy(good_tree, tmp_path)
    settle()
    return root


def settle() -> None:
    time.sleep(2 * SETTLED_NS / 1e9)


@pytest.fixture
def words(root: Path) -> list[str]:
    return ["validate", "--root", str(root)]


def is_known(words: list[str]) -> bool:
    return repeating.known_answer(words) is not None


def widen(stream: int) -> Callable[[int], os.terminal_size]:
    def size(asked: int = 1) -> os.terminal_size:
        if asked != stream:
            raise OSError
        return os.terminal_size((60, 24))

    return size


CIRCUMSTANCES: dict[str, Callable[[Patch], None]] = {
    "the width of a terminal on stdin": lambda patch: patch.setattr(os, "get_terminal_size", widen(0)),
    "the width of a terminal on stderr": lambda patch: patch.setattr(os, "get_terminal_size", widen(2)),
    "what rich takes for a terminal": lambda patch: patch.setenv("TTY_COMPATIBLE", "1"),
    "the groups of the user": lambda patch: patch.setattr(os, "getgroups", lambda: [12345]),
    "the group of the user": lambda patch: patch.setattr(os, "getegid", lambda: 12345),
    "a variable": lambda patch: patch.setenv("COLUMNS", "60"),
    "a new version": lambda patch: patch.setattr("ckptman.__version__", "9"),
    "a program that was changed since it began": lambda patch: patch.setattr(repeating, "_BEGAN_NS", 0),
}


@pytest.mark.parametrize("change", CIRCUMSTANCES.values(), ids=CIRCUMSTANCES)
def test_in_other_circumstances_there_is_no_answer(
    words: list[str], monkeypatch: Patch, change: Callable[[Patch], None]
) -> None:
    start(words)
    assert is_known(words)  # the control
    change(monkeypatch)
    assert not is_known(words)


@pytest.mark.parametrize("change", CIRCUMSTANCES.values(), ids=CIRCUMSTANCES)
def test_what_becomes_other_circumstances_meanwhile_leaves_no_answer_to_either(
    words: list[str], monkeypatch: Patch, change: Callable[[Patch], None]
) -> None:
    with monkeypatch.context() as patch:
        at_the_end(patch, lambda: change(patch))
        start(words)
        assert not is_known(words)
    assert not is_known(words)
    start(words)
    assert is_known(words)  # the control


def at_the_end(patch: Patch, change: Callable[[], object]) -> None:
    """Do something once a command has found its answer, before the last look at the tree."""
    look, looks = repeating.Meaning.look, iter((True, False))

    def disturbed(meaning: repeating.Meaning, **options: Any) -> cache.FolderState | None:
        if not next(looks, True):
            change()
        return look(meaning, **options)

    patch.setattr(repeating.Meaning, "look", disturbed)


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    return start(words), *capsys.readouterr()


def told_anew(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with Patch.context() as patch:
        patch.setenv(cache.VARIABLE, "off")
        return told(words, capsys)


def test_a_file_that_came_and_went_meanwhile_is_in_no_answer(
    words: list[str], root: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = root / "with_layernorm" / "stray"
    with monkeypatch.context() as patch:
        at_the_end(patch, stray.unlink)
        look_before = remembering.Remembered._look_before

        def disturbed(remembered: remembering.Remembered) -> Any:
            stray.touch()
            return look_before(remembered)

        patch.setattr(remembering.Remembered, "_look_before", disturbed)
        assert "stray-file" in told(words, capsys)[1]  # the control
    settle()
    assert not is_known(words)
    assert told(words, capsys) == told_anew(words, capsys)
    assert is_known(words)


@pytest.mark.parametrize("is_gone", [False, True])
def test_rules_that_change_before_the_question_is_known_leave_no_answer(
    words: list[str], root: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str], is_gone: bool
) -> None:
    rules = root.with_name("ckptman.yaml")
    (root / rules.name).rename(rules)
    settle()
    right = told_anew(words, capsys)

    def disturbed(*arguments: Any) -> Convention:
        loaded = convention_for(*arguments)
        if is_gone:
            rules.unlink()
        else:
            rules.write_text(rules.read_text().replace("2337", "3337"))
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr("ckptman.cli.validate.convention_for", disturbed)
        assert told(["-q", *words], capsys) == (0, right[1], "")  # no fault of the program
    settle()
    now = told_anew(words, capsys)
    assert now != right  # the control: it is another question
    assert told(words, capsys) == now
    assert told(["-q", *words], capsys)[:2] == now[:2]


def test_stdout_and_stderr_in_one_file_keep_their_order(words: list[str], tmp_path: Path, monkeypatch: Patch) -> None:
    answers = []
    for number in range(2):
        file = tmp_path / str(number)
        with file.open("a") as out, file.open("a", buffering=1) as err, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            assert is_known(words) == bool(number)
            start(words)
        answers.append(file.read_text())
    assert answers[0] == answers[1]
    assert answers[0].index("clean") < answers[0].index("Next:")


INTERRUPTED = """\
import sys

class Finder:
    is_first = True

    def find_spec(self, name, *_):
        if name == "ckptman.cli.app" and Finder.is_first:
            Finder.is_first = False
            raise KeyboardInterrupt

from ckptman.cli.starting import start

if sys.argv[1] == "interrupted":
    sys.meta_path.insert(0, Finder())
sys.exit(start(["task", "--help"]))
"""


@pytest.mark.parametrize(("when", "status", "err"), [("never", 0, ""), ("interrupted", 130, "ERROR interrupted\n")])
def test_an_interruption_while_the_program_is_imported_is_no_traceback(when: str, status: int, err: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, when]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, err)


OF_NO_ANSWER = {
    "_CKPTMAN_COMPLETE",
    "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION",
    "OMP_WAIT_POLICY",
    "PYDANTIC_DISABLE_PLUGINS",
    "PYDANTIC_VALIDATE_CORE_SCHEMAS",
}
"""Variables on which completion, torch and pydantic hang; where a shell completes, no answer is looked for."""


class Looks:
    """What a command asks of the system until it asks for a known answer: paths and variables of the environment."""

    def __init__(self, patch: Patch) -> None:
        self.paths: set[Path] = set()
        self.variables: set[str] = set()
        self.are_over = False
        for module, names in (
            (os, ("stat", "lstat", "open", "listdir", "scandir", "readlink", "access")),
            (io, ["open"]),
        ):
            for name in names:
                patch.setattr(module, name, self._noted(getattr(module, name)))
        environment = type(os.environ)
        patch.setattr(environment, "__getitem__", self._noted_variable(environment.__getitem__))
        patch.setattr(remembering.Remembered, "__init__", self._end(remembering.Remembered.__init__))

    def _noted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any, *arguments: Any, **options: Any) -> Any:
            if not self.are_over:
                self.paths.add(Path(path).absolute())
            return call(path, *arguments, **options)

        return look

    def _noted_variable(self, call: Callable[..., str]) -> Callable[..., str]:
        def look(environment: Any, name: str) -> str:
            if not self.are_over:
                self.variables.add(name)
            return call(environment, name)

        return look

    def _end(self, call: Callable[..., None]) -> Callable[..., None]:
        def init(*arguments: Any, **options: Any) -> None:
            self.are_over = True
            call(*arguments, **options)

        return init


@pytest.mark.parametrize("looks_further", [False, True])
@pytest.mark.parametrize("command", sorted(commands.REMEMBERED))
def test_what_a_command_does_before_it_asks_hangs_on_what_is_asked_for(
    command: str, root: Path, tmp_path: Path, monkeypatch: Patch, looks_further: bool
) -> None:
    source, here = tmp_path / "source", tmp_path / "here"
    source.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    words = [command, *([str(source)] if command == "ingest" else []), "--root", str(root)]
    run(words)  # what is imported is imported by now
    load = convention_for

    def disturbed(*arguments: Any) -> Convention:
        if looks_further:
            (root / "README.md").exists()
            os.environ.get("EDITOR")
        return load(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(f"ckptman.cli.{command}.convention_for", disturbed)
        looks = Looks(patch)
        run(words)
    assert looks.are_over
    rules = {folder / "ckptman.yaml" for start in (here, root) for folder in (start, *start.parents)}
    places = {folder for place in (root, source) for folder in (place, *place.parents)}
    program = Path(ckptman.__file__).parent
    paths = looks.paths - rules - places - {here / DEFAULT_OUT}
    further = {str(path) for path in paths if not path.is_relative_to(program)}
    further |= {name for name in looks.variables - OF_NO_ANSWER if not name.startswith(repeating._ENVIRONMENT)}
    assert further == ({str(root / "README.md"), "EDITOR"} if looks_further else set())  # the control
