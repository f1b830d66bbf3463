"""`ckptman validate`: what is printed where, and the exit status."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ckptman.cli.app import run
from ckptman.cli.found import annotation
from ckptman.cli.text import size_text
from ckptman.formats.refusals import REFUSALS
from ckptman.tree.findings import KINDS, finding
from tests.helpers.trees import (
    CHECKPOINTS,
    DYNAMIC,
    FINAL,
    FIXED,
    RUN,
    RUNS,
    TASK,
    copy,
    edit_entry,
    edit_record,
    make_good_tree,
)


class Printed(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Printed]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    for name in [name for name in os.environ if name.startswith("CKPTMAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: str | Path) -> Printed:
        status = run(["validate", *map(str, arguments)])
        out, err = capfd.readouterr()
        return Printed(status, out, err)

    return call


@pytest.fixture(scope="session")
def good_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: copy it to change it."""
    return make_good_tree(tmp_path_factory.mktemp("good"))


@pytest.fixture
def root(good_tree: Path, tmp_path: Path) -> Path:
    return copy(good_tree, tmp_path)


def test_a_clean_tree(command: Command, good_tree: Path) -> None:
    done = command("--root", good_tree)
    assert done.status == 0
    assert done.out.startswith(f"clean: nothing is wrong with {CHECKPOINTS} checkpoints of {RUNS} runs (")
    assert done.out.count("\n") == 1
    assert done.err == f"Next: ckptman report {good_tree}\n"


def test_findings_are_grouped_by_folder_errors_first(command: Command, root: Path) -> None:
    (root / "with_layernorm" / "notes.txt").touch()
    (root / RUN / "a.txt").touch()
    (root / RUN / FINAL).unlink()
    (root / DYNAMIC / "task_0000" / "notes.txt").touch()
    done = command("--root", root)
    assert done.status == 1
    assert done.err == ""
    assert done.out.splitlines()[:10] == [
        TASK,
        f"  error    missing-file  seed_1337/{FINAL}: run.json lists this checkpoint; it is not there",
        f"                         Fix: {KINDS['missing-file'].fix}",
        "  warning  stray-file    seed_1337/a.txt: this file does not belong to the tree",
        f"                         Fix: {KINDS['stray-file'].fix}",
        f"{DYNAMIC}/task_0000/notes.txt".rpartition("/")[0],
        "  warning  stray-file  notes.txt: this file does not belong to the tree",
        "with_layernorm/notes.txt",
        "  warning  stray-file  this file does not belong to the tree",
        f"1 error, 3 warnings in {CHECKPOINTS - 1} checkpoints of {RUNS} runs ({_size(root)}); "
        "headers read; --deep reads every byte: 3 × stray-file, 1 × missing-file",
    ]
    assert done.out.splitlines()[-1] == "What a code means: ckptman validate --explain stray-file"


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal(command: Command, root: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    (root / "with_layernorm" / "notes.txt").touch()
    (root / TASK / "overwritten.json").write_text("[]")
    edit_record(root / RUN, config={"learning_rate": 0.5, "min_lr": 0.25, "weight_decay": 0.125})
    (root / DYNAMIC / "task_0000" / f"{FINAL}.{'x' * 80}").touch()
    wide = command("--root", root).out
    assert max(map(len, wide.splitlines())) > 120  # in a pipe, a finding is one line
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = command("--root", root).out
    too_long = [line for line in narrow.splitlines() if len(line) > columns]
    assert all(len(line.split()) == 1 or FINAL in line for line in too_long)  # a path is not cut
    assert len(too_long) == 1
    assert narrow.split() == wide.split()  # every word is there


def _size(root: Path) -> str:
    return size_text(sum(file.stat().st_size for file in root.rglob("*.pt")))


def test_many_findings_of_one_kind_are_cut_short(command: Command, root: Path) -> None:
    for number in range(14):
        (root / FIXED / "task_0000" / f"empty-{number:02d}").mkdir()
    done = command("--root", root)
    assert done.out.count("warning  empty-folder") == 10
    assert "… and 4 more empty-folder (--verbose names all, --json too)" in done.out
    assert command("--root", root, "-v").out.count("warning  empty-folder") == 14
    assert "14 × empty-folder" in done.out
    assert len(json.loads(command("--root", root, "--json").out)["findings"]) == 14


def test_deep(command: Command, root: Path) -> None:
    edit_entry(root / RUN, FINAL, sha256="0" * 64)
    assert command("--root", root).status == 0
    done = command("--root", root, "--deep")
    assert done.status == 1
    assert "wrong-hash" in done.out
    assert "every byte read" in done.out


@pytest.mark.parametrize("options", [["--json"], ["--format", "json"], ["--json", "--format", "json"]])
def test_json_is_one_document_and_nothing_else(command: Command, root: Path, options: list[str]) -> None:
    (root / RUN / FINAL).unlink()
    done = command("--root", root, *options)
    document = json.loads(done.out)
    assert (done.status, done.err) == (1, "")
    assert document["checked"] == CHECKPOINTS - 1
    assert document["root"] == str(root)
    assert [(item["code"], item["path"]) for item in document["findings"]] == [("missing-file", f"{RUN}/{FINAL}")]


def test_a_clean_tree_as_json(command: Command, good_tree: Path) -> None:
    done = command("--root", good_tree, "--json")
    assert done.status == 0
    assert json.loads(done.out)["findings"] == []


def test_github_annotations(command: Command, root: Path) -> None:
    (root / RUN / FINAL).unlink()
    (root / "100%, a:b\n.txt").touch()
    done = command("--root", root, "--format", "github")
    assert done.status == 1
    assert done.err == ""
    odd, missing = done.out.splitlines()
    assert odd.startswith(f"::warning file={root}/100%25%2C a%3Ab%0A.txt,title=stray-file::this file does not belong")
    assert missing.startswith(f"::error file={root}/{RUN}/{FINAL},title=missing-file::run.json lists this checkpoint")
    assert missing.endswith(f"it is not there. {KINDS['missing-file'].fix}")


def test_an_annotation_holds_nothing_that_github_or_a_terminal_would_obey() -> None:
    item = finding(
        "stray-file", "a\r\n::error::x%0A,title=y\x1b[31m.txt", "50%\r\n::set-output name=x::1 \x1b]0;x\x07", ""
    )
    text = annotation(item, Path("tree"))
    assert re.fullmatch(r"::warning file=([^:,\x00-\x1f]*),title=([^:,]*)::([^\x00-\x1f]*)", text)
    assert "%0D%0A%3A%3Aerror%3A%3Ax%250A%2Ctitle=y\\x1b[31m" in text
    assert "50%25%0D%0A::set-output" in text  # after the second `::`, colons are text


def test_two_formats_exclude_each_other(command: Command, good_tree: Path) -> None:
    done = command("--root", good_tree, "--json", "--format", "github")
    assert done.status == 2
    assert "exclude each other" in done.err


def test_select_and_ignore(command: Command, root: Path) -> None:
    (root / "notes.txt").touch()
    (root / "empty").mkdir()
    assert command("--root", root, "--ignore", "stray-file", "--ignore", "empty").status == 0
    assert command("--root", root, "--ignore", "stray-file,empty-folder").status == 0
    limited = command("--root", root, "--select", "missing")
    assert limited.status == 0
    assert limited.out.startswith("clean: nothing of what was asked for is wrong with ")
    done = command("--root", root, "--select", "stray", "--select", "empty-folder", "--ignore", "stray-file")
    assert "1 × empty-folder" in done.out
    assert "stray" not in done.out


def test_codes_may_come_from_the_environment(command: Command, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "notes.txt").touch()
    (root / "empty").mkdir()
    assert command("--root", root).status == 1
    monkeypatch.setenv("CKPTMAN_IGNORE", "stray-file empty-folder")
    assert command("--root", root).status == 0


def test_an_unknown_code_is_wrong_usage(command: Command, good_tree: Path) -> None:
    done = command("--root", good_tree, "--select", "mising-seed")
    assert (done.status, done.out) == (2, "")
    assert "did you mean 'missing-seed'?" in done.err


def test_no_tree_is_wrong_usage(command: Command, tmp_path: Path) -> None:
    done = command("--root", tmp_path / "nowhere")
    assert (done.status, done.out) == (2, "")
    assert "there is no tree at" in done.err


def test_the_numbering_can_be_given(command: Command, good_tree: Path) -> None:
    done = command("--root", good_tree, "--numbering", "merged")
    assert done.status == 1
    assert "other-numbering" in done.out
    assert "Pass --numbering full" in done.out


def test_stale_documents_are_found(command: Command, root: Path) -> None:
    from ckptman.documents.reporting import report
    from ckptman.rules.convention_file import find_file, load_convention

    report(root, convention=load_convention(find_file(root)))
    assert command("--root", root).status == 0
    (root / "TASK_MAPPING.md").write_text("mine\n")
    done = command("--root", root)
    assert done.status == 1
    assert "TASK_MAPPING.md\n  warning  stale-document" in done.out


# --- explaining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(KINDS))
def test_each_code_is_explained(command: Command, code: str) -> None:
    done = command("--explain", code, "--root", "/nowhere")
    assert (done.status, done.err) == (0, "")
    kind = KINDS[code]
    assert done.out.startswith(f"{code} ({kind.severity}")
    text = " ".join(done.out.split())
    for part in (kind.meaning, f"Cause: {kind.cause}", f"Fix: {kind.fix}"):
        assert part in text


def test_all_codes_are_listed(command: Command) -> None:
    done = command("--explain", "list")
    assert done.status == 0
    listed = [line.split()[:2] for line in done.out.splitlines()]
    assert listed == [[k.severity.value, k.code] for k in KINDS.values()] + [["refused", code] for code in REFUSALS]


def test_the_beginning_of_codes_explains_all_of_them(command: Command) -> None:
    done = command("--explain", "missing")
    titles = [line.split()[0] for line in done.out.splitlines() if line and not line.startswith(" ")]
    assert titles == [code for code in KINDS if code.startswith("missing")]


def test_an_unknown_code_lists_all(command: Command) -> None:
    done = command("--explain", "mising-seed")
    assert done.status == 2
    assert len(done.out.splitlines()) == len(KINDS) + len(REFUSALS)
    assert "did you mean 'missing-seed'?" in done.err


def test_codes_as_json(command: Command) -> None:
    document = json.loads(command("--explain", "list", "--json").out)
    assert document["codes"] == [kind.to_json() for kind in KINDS.values()]
    assert [item["code"] for item in document["refusals"]] == list(REFUSALS)
    [one] = json.loads(command("--explain", "missing-seed", "--json").out)["codes"]
    assert one["cause"] == KINDS["missing-seed"].cause


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_is_explained(command: Command, code: str) -> None:
    done = command("--explain", code)
    assert done.status == 0
    assert f"{code} (why a file is refused)\n" in done.out
    assert "  Fix: " in done.out


# --- names that could do harm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "[red]x", "a\nb", "\u202egpj.txt", os.fsdecode(b"\xff"), "\x07", "[bold]"]
)
@pytest.mark.parametrize("form", ["text", "json", "github"])
def test_names_are_printed_safely(command: Command, root: Path, name: str, form: str) -> None:
    (root / RUN / f"{name}.txt").touch()
    (root / RUN / f"{name}.pt").touch()
    done = command("--root", root, "--format", form)
    assert done.status == 1
    assert done.err == ""
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out)
    if form == "json":
        names = {Path(item["path"]).name for item in json.loads(done.out)["findings"]}
        assert f"{name}.txt" in names
    elif name.startswith("["):
        assert f"{name}.txt" in done.out  # no markup: every letter is there
