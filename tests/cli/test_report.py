"""`ckptman report` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ckptman.cli.report  # noqa: F401  (registers the command)
from ckptman.cli.app import run
from ckptman.rules.convention_file import load_convention
from tests.helpers.raw import config
from tests.helpers.recorded import add_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_run(tmp_path, config())
    return tmp_path


def test_report_writes_and_says_so(root: Path, capsys: Capture) -> None:
    assert run(["report", "--root", str(root)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"written  {root}/TASK_MAPPING.md",
        f"written  {root}/README.md",
        "2 checkpoints, 1 run, 1 configuration, 0 overwritten runs",
    ]
    assert err == f"Next: ckptman results {root}\n"
    assert run(["report", "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith("unchanged  ")


def test_check_exits_1_and_names_the_command_that_mends_it(root: Path, capsys: Capture) -> None:
    assert run(["report", "--root", str(root), "--check"]) == 1
    out, err = capsys.readouterr()
    assert "stale  " in out
    assert f"ckptman report --root {root}" in err
    assert not (root / "README.md").exists()
    run(["report", "--root", str(root)])
    capsys.readouterr()
    assert run(["report", "--root", str(root), "--check"]) == 0
    assert capsys.readouterr().err == ""


def test_the_numbering_is_part_of_the_command_that_mends_it(root: Path, capsys: Capture) -> None:
    merged = root / "merged"
    add_run(merged, config(), convention=load_convention(numbering="merged"))
    assert run(["report", "--root", str(merged), "--check", "--numbering", "merged"]) == 1
    assert "--numbering merged" in capsys.readouterr().err
    assert run(["report", "--root", str(merged), "--numbering", "merged"]) == 0
    assert run(["report", "--root", str(merged), "--numbering", "merged", "--check"]) == 0
    assert run(["report", "--root", str(merged), "--check"]) == 2
    assert "Pass --numbering merged" in capsys.readouterr().err


def test_diff_shows_what_changes(root: Path, capsys: Capture) -> None:
    run(["report", "--root", str(root)])
    add_run(root, config(seed=2337), run_id="b")
    capsys.readouterr()
    assert run(["report", "--root", str(root), "--check", "--diff"]) == 1
    out = capsys.readouterr().out
    assert "--- a/README.md" in out
    assert "\n+| Runs             | 2 " in out
    assert "\x1b" not in out


def test_json_is_one_document(root: Path, capsys: Capture) -> None:
    assert run(["report", "--root", str(root), "--check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["documents"] == [{"path": "TASK_MAPPING.md", "state": "stale"}, {"path": "README.md", "state": "stale"}]
    assert told["statistics"]["runs"] == 1
    assert told["statistics"]["expected_runs"] == 504
    assert told["schema_version"] == 1
    assert told["check"] is True


def test_a_refusal_is_told_and_exits_1(root: Path, capsys: Capture) -> None:
    (root / "README.md").write_text("<!-- ckptman:begin statistic -->\n")
    assert run(["report", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    assert "did you mean 'statistics'?" in out
    assert "[bad-markers]" in out
    assert (root / "TASK_MAPPING.md").exists()


def test_no_tree_is_a_usage_error(tmp_path: Path, capsys: Capture) -> None:
    assert run(["report", "--root", str(tmp_path / "none")]) == 2
    assert "there is no tree" in capsys.readouterr().err


def test_the_rules_beside_a_tree_are_used(root: Path, capsys: Capture) -> None:
    (root / "ckptman.yaml").write_text("title: our other experiment\n")
    run(["report", "--root", str(root)])
    assert "our other experiment" in (root / "README.md").read_text()
    capsys.readouterr()


def test_a_project_without_a_tree(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["report", "--project", "TASKS.md", "--check"]) == 1
    assert "ckptman report --project TASKS.md" in capsys.readouterr().err
    assert run(["report", "--project", "TASKS.md"]) == 0
    assert run(["report", "--project", "TASKS.md", "--check"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"written  {tmp_path}/TASKS.md"


# --- where no tree is named -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["report", "ls", "validate", "results", "status"])
@pytest.mark.parametrize("folder", [".", "with_layernorm/dynamic"])
def test_from_inside_a_tree_it_is_found(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str, folder: str
) -> None:
    assert run(["report", str(root)]) == 0
    monkeypatch.chdir(root / folder)
    capsys.readouterr()
    assert run([command, "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["root"] in (str(root), ".")
    monkeypatch.chdir(root.parent)  # the control: from here no tree is found, and none has the usual name
    assert run([command, "--json"]) == (0 if command == "status" else 2)
    out, err = capsys.readouterr()
    assert json.loads(out)["root"] is None if command == "status" else "Name the tree with --root" in err


def test_the_tree_is_found_by_the_rules_that_are_named(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "ckptman.yaml").write_text("numberin: full\n")
    (root.parent / "empty.yaml").write_text("")
    monkeypatch.chdir(root)
    assert run(["--config", "../empty.yaml", "report"]) == 0
    assert run(["report"]) == 2
    assert "numberin" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "ls", "validate", "results"])
def test_two_trees_are_not_named_at_once(root: Path, capsys: Capture, command: str) -> None:
    assert run([command, str(root), "--root", "other"]) == 2
    assert "two trees are named" in capsys.readouterr().err
    assert run([command, str(root), "--root", str(root)]) in (0, 1)


def test_an_argument_comes_before_the_environment(root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTMAN_ROOT", "nowhere")
    assert run(["ls", str(root)]) == 0
    assert run(["ls"]) == 2
    assert "no tree at nowhere" in capsys.readouterr().err


def test_no_report_on_a_part_of_a_tree(root: Path, capsys: Capture) -> None:
    family = root / "with_layernorm"
    assert run(["report", "--root", str(family), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"this folder lies in a tree, whose root is {root}" in err
    assert f"ckptman report --root {root}" in err
    assert [path.name for path in family.iterdir()] == ["dynamic"]


def test_html_writes_the_explorer_too(root: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(["report", "--root", str(root), "--html", "--check"]) == 1
    assert f"ckptman report --root {root} --html" in capsys.readouterr().err
    assert run(["report", "--root", str(root), "--html"]) == 0
    out, err = capsys.readouterr()
    assert f"written  {root}/report/explorer.html" in out
    assert f"Next: open {root}/report/explorer.html in a browser\n" in err
    assert run(["report", "--root", str(root)]) == 0
    assert "browser" not in capsys.readouterr().err  # it was not asked for
    assert run(["report", "--root", str(root), "--check"]) == 0
    elsewhere = tmp_path.parent / f"{tmp_path.name}.html"
    assert run(["report", "--root", str(root), "--html-file", str(elsewhere)]) == 0
    assert elsewhere.is_file()
    assert run(["report", "--project", str(tmp_path / "x.md"), "--html"]) == 2
    assert "two reports" in capsys.readouterr().err
