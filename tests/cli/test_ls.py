"""`ckptman ls`: every filter, every output, and the exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ckptman.cli.app import run
from ckptman.cli.tables import print_table
from ckptman.fs import cache
from ckptman.ingestion.ingesting import ingest
from tests.helpers.listed import BEST, FIXED, LARGE, NO_LN, RUNS, make_listed_tree
from tests.helpers.raw import config
from tests.helpers.recorded import add_run
from tests.helpers.trees import copy, edit_json, write_source


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_listed_tree(tmp_path_factory.mktemp("ls"))


Row = dict[str, Any]


def listed(tree: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Row]:
    """What `ls --json` lists."""
    assert run(["ls", "--root", str(tree), "--json", *arguments]) == 0
    rows: list[Row] = json.loads(capsys.readouterr().out)["checkpoints"]
    return rows


@pytest.mark.parametrize(
    ("is_cut", "told"), [(True, "no checkpoint in {} can be listed"), (False, "there is no checkpoint in {}")]
)
def test_a_tree_with_nothing_but_a_damaged_file_is_not_called_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_cut: bool, told: str
) -> None:
    file = next(add_run(tmp_path, config(8), kinds=("Final",)).glob("Final*"))
    file.unlink()
    if is_cut:
        file.touch()
    assert run(["ls", str(tmp_path)]) == 0
    assert told.format(tmp_path) in " ".join(capsys.readouterr().err.split())


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_forms_and_a_limit_are_chosen(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = listed(tree, capsys)
    assert run(["ls", "--root", str(tree), "--columns", "path,n_layers,k", "--format", "csv", "--limit", "3"]) == 0
    out, err = capsys.readouterr()
    expected = [[row["path"], str(row["config"]["n_layers"]), str(row["k"])] for row in whole[:3]]
    assert list(csv.reader(io.StringIO(out))) == [["path", "n_layers", "k"], *expected]
    assert f"3 of {len(whole)} checkpoints" in err
    assert [row["path"] for row in listed(tree, capsys, "--limit", "2")] == [row["path"] for row in whole[:2]]
    assert run(["ls", "--root", str(tree), "--columns", "seed", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [{"seed": row["seed"]} for row in whole]
    assert run(["ls", "--root", str(tree), "--columns", "n_layers"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "n_layers"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--columns", "nlayers"], "did you mean 'n_layers'?"),
        (["--paths", "--format", "csv"], "two outputs"),
        (["--paths", "--columns", "seed"], "--paths has no columns"),
        (["--limit", "0"], "is not a whole number from 1 on"),
    ],
)
def test_columns_that_there_are_not_are_told(
    tree: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["ls", "--root", str(tree), *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert not out


def test_a_facet_of_the_trees_own_convention_is_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = make_listed_tree(tmp_path)
    assert run(["ls", "--root", str(tree)]) == 0
    assert "Depth" not in capsys.readouterr().out
    facet = "{title: Depth, values: {deep: {when: n_layers > 1}, flat: {when: n_layers == 1}}}"
    (tree / "ckptman.yaml").write_text(f"facets: {{depth: {facet}}}\n")
    assert run(["ls", "--root", str(tree), "--layers", "1"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "Depth" in head
    assert all("flat" in row and "deep" not in row for row in rows)


# --- filters ----------------------------------------------------------------------------------------------------------

FILTERS: list[tuple[list[str], Callable[[Row], bool]]] = [
    (["--layers", "1"], lambda row: row["config"]["n_layers"] == 1),
    (["--layers", "2"], lambda row: row["config"]["n_layers"] == 2),
    (["--mlp"], lambda row: row["config"]["use_mlp"]),
    (["--no-mlp"], lambda row: not row["config"]["use_mlp"]),
    (["--k", "8"], lambda row: row["config"]["train_max_k"] == 8),
    (["--mode", "mix"], lambda row: row["config"]["length_mode"] == "mix"),
    (["--mode", "curriculum"], lambda row: row["config"]["length_mode"] == "curriculum"),
    (["--fixed"], lambda row: row["config"]["train_min_k"] == row["config"]["train_max_k"]),
    (["--dynamic"], lambda row: row["config"]["train_min_k"] < row["config"]["train_max_k"]),
    (["--layernorm"], lambda row: row["config"]["use_layernorm"]),
    (["--no-layernorm"], lambda row: not row["config"]["use_layernorm"]),
    (["--seed", "2337"], lambda row: row["config"]["seed"] == 2337),
    (["--seed", "2337", "--seed", "3337"], lambda row: row["config"]["seed"] in (2337, 3337)),
    (["--group", "len_gen_k8"], lambda row: row["config"]["wandb_group"] == "len_gen_k8"),
    (["--task", "6"], lambda row: "/task_0006/" in row["path"]),
    (["--final"], lambda row: "/Final_" in row["path"]),
    (["--not-final"], lambda row: "/Checkpoint_" in row["path"]),
    (["--where", "gen_em >= 0.97"], lambda row: row["metrics"].get("gen/K20/exact_match_acc", 0) >= 0.97),
    (["--where", "k == 8", "--where", "seed == 1337"], lambda row: (row["k"], row["seed"]) == (8, 1337)),
    (["--final", "--layers", "1", "--no-mlp", "--k", "8", "--seed", "1337"],
     lambda row: row["path"].startswith(f"{BEST}/Final_")),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "wanted"), FILTERS, ids=[" ".join(flags) for flags, _ in FILTERS])
def test_a_filter_keeps_what_it_says_and_nothing_else(
    tree: Path, capsys: pytest.CaptureFixture[str], flags: list[str], wanted: Callable[[Row], bool]
) -> None:
    everything = listed(tree, capsys)
    expected = [row for row in everything if wanted(row)]
    assert 0 < len(expected) < len(everything)  # the control: there is something to keep, and something to leave out
    assert listed(tree, capsys, *flags) == expected


def test_the_settings_of_another_command_are_no_filter(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ckptman.yaml").write_text("settings: {mode: hardlink}\n")
    monkeypatch.chdir(tmp_path)
    assert len(listed(tree, capsys)) == 2 * len(RUNS)
    (tmp_path / "ckptman.yaml").write_text("settings: {final: true}\n")  # the control: a setting that is meant for ls
    assert len(listed(tree, capsys)) == len(RUNS)


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_checkpoint(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--root", str(tree), "--final"]) == 0
    out, err = capsys.readouterr()
    head, *lines = out.splitlines()
    titles = "Group Task Layers MLP Length Mode Seed Kind Step Size Gen. (run) Lists Run"
    assert " ".join(head.split()) == titles
    assert len(lines) == len(RUNS)
    (best,) = [line for line in lines if line.endswith("run0")]
    assert best.split()[:8] == ["len_gen_k8", "6", "1", "Off", "mix", "1337", "Final", "40000"]
    assert "98.0 %  1,600" in best
    (unmeasured,) = [line for line in lines if line.endswith("run4")]
    assert " – " in unmeasured
    assert "5 of 10 checkpoints, 5 runs" in err


def test_sorted_by_generalization(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best_first = [row["run_id"] for row in listed(tree, capsys, "--final", "--sort", "-gen_em")]
    assert best_first == ["run0", "run3", "run1", "run2", "run4"]
    assert [row["run_id"] for row in listed(tree, capsys, "--final", "--sort", "gen_em")][:4] == best_first[3::-1]


def test_another_metric_is_shown_sorted_by_and_asked_for(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, all_lengths = "gen/K32/exact_match_acc", "gen/K*/exact_match_acc"
    for metric in (one, all_lengths):
        asked = ["--metric", metric, "--final", "--sort", f"-{metric}"]
        assert run(["ls", "--root", str(tree), *asked]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert metric in head
        assert "Gen." not in head
        assert [line.split()[-2] for line in lines] == ["0.98", "0.97", "0.95", "0.6", "–"]
        rows = listed(tree, capsys, *asked)
        assert [row["measures"].get(metric) for row in rows] == pytest.approx([0.98, 0.97, 0.95, 0.6, None])
        assert run(["ls", "--root", str(tree), *asked, "--format", "csv"]) == 0
        assert next(csv.reader(capsys.readouterr().out.splitlines()))[-2:] == [metric, "run_id"]
        assert len(listed(tree, capsys, *asked, "--where", f"{metric} > 0.96")) == 2
    assert "measures" not in listed(tree, capsys)[0], "the control"
    assert run(["ls", "--root", str(tree), "--metric", "gen/K33/exact_match_acc"]) == 2
    assert "no run has a metric" in capsys.readouterr().err


def test_what_all_have_in_common_is_told_once_where_there_is_no_room(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["ls", "--root", str(tree)]) == 0
    said = capsys.readouterr()
    assert "len_gen_single_k4 " in said.out
    assert "1,600" not in said.out
    assert "measured on 1,600 lists each" in said.err


def test_paths_lead_to_the_files_from_here(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    for root in ("checkpoints", str(tree)):
        assert run(["ls", "--root", root, "--final", "--paths"]) == 0
        paths = capsys.readouterr().out.splitlines()
        assert len(paths) == len(RUNS)
        for path in paths:
            assert Path(path).is_file()
            assert not Path(path).is_absolute()
    monkeypatch.chdir(tree / "with_layernorm")
    assert run(["ls", "--root", str(tree), "--final", "--paths", "--no-layernorm"]) == 0
    (path,) = capsys.readouterr().out.splitlines()
    assert Path(path).is_file()
    assert run(["ls", "--root", "..", "--final", "--paths", "--no-layernorm"]) == 0
    (path,) = capsys.readouterr().out.splitlines()
    assert path.startswith("../without_layernorm/")
    assert Path(path).is_file()


def test_a_shell_loop_over_the_paths(tree: Path) -> None:
    program = f"{sys.executable} -c 'import sys; from ckptman.cli import main; main()'"
    loop = f'for p in $({program} ls --final --paths --where "gen_em >= 0.97"); do test -f "$p" && echo "$p"; done'
    done = subprocess.run(["bash", "-c", loop], cwd=tree.parent, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.rpartition("/")[0] for line in lines] == [f"checkpoints/{BEST}", f"checkpoints/{FIXED}"]


def test_paths_that_are_no_text(tree: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    odd = tmp_path / os.fsdecode(b"a\nb\x1b[31m[red] \xff")
    odd.mkdir()
    root = copy(tree, odd)
    wanted = {os.fsencode(path) for path in root.rglob("Final_*")}
    assert run(["ls", "--root", str(root), "--final", "--null"]) == 0
    out, err = capsysbinary.readouterr()
    assert set(out.split(b"\0")[:-1]) == wanted
    assert out.endswith(b"\0")
    assert b"line break" not in err
    assert run(["ls", "--root", str(root), "--final", "--paths"]) == 0
    out, err = capsysbinary.readouterr()
    assert all(path in out for path in wanted)
    assert b"line break" in err
    assert run(["ls", "--root", str(tree), "--final", "--paths"]) == 0
    assert b"line break" not in capsysbinary.readouterr().err  # the control
    assert run(["ls", "--root", str(root), "--json", "--final"]) == 0
    document = json.loads(capsysbinary.readouterr().out)
    assert document["root"] == str(root)
    assert {os.fsencode(f"{document['root']}/{row['path']}") for row in document["checkpoints"]} == wanted


def test_hostile_values_are_spelled_out_in_the_table(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy(tree, tmp_path)
    odd = "[red]\x1b[31m\nx\udcff\u202e"
    edit_json(root / BEST / "run.json", lambda doc: doc.update(group=odd, run_id=odd))
    assert run(["ls", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 + 2 * len(RUNS)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("[red]\\x1b[31m\\nx\\xff\\u202e") == 4
    (row, _) = listed(root, capsys, "--layers", "1", "--k", "8", "--seed", "1337")
    assert (row["group"], row["run_id"]) == (odd, odd)


# --- what is not there, and wrong requests ----------------------------------------------------------------------------


def test_an_empty_listing_says_why(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--root", str(tree), "--layers", "3", "--seed", "1337"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "none of 10 checkpoints fulfils every condition" in err
    assert "none has n_layers == 3; n_layers is 1, 2" in err
    assert "seed" not in err
    assert listed(tree, capsys, "--layers", "3") == []


def test_an_empty_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no checkpoint" in err
    # What is there and was never sorted is told of with the way to sort it.
    (tmp_path / "task_0000").mkdir()
    (tmp_path / "task_0000" / "Final_N128.pt").touch()
    assert run(["ls", "--root", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert f"to sort it: ckptman ingest {tmp_path} --root NEW" in err
    assert "there is no checkpoint" not in err


def test_what_is_left_out_is_told_and_a_broken_record_gives_status_1(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy(tree, tmp_path)
    (root / LARGE / "run.json").unlink()
    (root / NO_LN / "run.json").unlink()
    assert run(["ls", "--root", str(root)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 7
    assert "1 more like it" in err
    assert "ckptman validate" in err
    (root / LARGE / "run.json").write_text("{")
    assert run(["ls", "--root", str(root), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [item["code"] for item in document["not_listed"]] == ["bad-record", "no-record"]
    assert len(document["checkpoints"]) == 6


def test_a_tree_of_links_whose_source_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, root = write_source(tmp_path / "raw", [config(8)]), tmp_path / "tree"
    ingest(source, root, mode="symlink", settle=0)
    assert len(listed(root, capsys)) == 2
    source.rename(tmp_path / "gone")
    assert run(["ls", "--root", str(root), "--paths"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "not listed: " in err
    assert ": it leads nowhere (and 1 more like it)" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "gen_emm > 3"], "did you mean 'gen_em'?"),
        (["--where", "layers == 1"], "did you mean 'n_layers'?"),
        (["--where", "gen_em >"], "a value after > should"),
        (["--where", "use_mlp > 3"], "use_mlp is true or false"),
        (["--sort", "gen"], "did you mean"),
        (["--layers", "one"], "--layers"),
        (["--json", "--paths"], "two outputs"),
        (["--root", "nowhere"], "there is no tree at nowhere"),
    ],
)
def test_a_wrong_request_has_status_2(
    tree: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["ls", "--root", str(tree), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "ERROR" in err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--json"], ["--final", "--where", "gen_em > 0"], ["--paths"]])
def test_listing_imports_no_heavy_module(tree: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ckptman.cli.app import run\nstatus = run(['ls', *sys.argv[1:]])\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'HEAVY {heavy}' if heavy else status)\n"
    )
    command = [sys.executable, "-c", code, "--root", str(tree), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    command[2] = code.replace("import sys\n", "import sys, numpy\n", 1)  # the control
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1


def test_columns_are_aligned_by_what_the_screen_shows() -> None:
    text = io.StringIO()
    out = Console(file=text, width=5, soft_wrap=True)
    print_table(out, [["a", "bb", "c"], ["表", "x", "c"], ["\n", "123", "c"]], right=(1,), give=("-c",))
    assert text.getvalue().splitlines() == ["a    bb  c", "表    x  c", "\\n  123  c"]  # no terminal: all of it


_IMPORTED = """
import sys
from ckptman.cli.app import run
run(sys.argv[1:])
others = ("ckptman.checks", "ckptman.formats.pickle_reader", "ckptman.tree.statistics", "statistics", "rich.progress")
sys.stderr.write(" ".join(["IMPORTED", *(name for name in others if name in sys.modules)]))
"""


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [
        (["ls", "--json"], ""),
        (["validate", "--json"], "ckptman.checks ckptman.formats.pickle_reader"),
        (["results", "--json"], "ckptman.tree.statistics statistics"),
    ],
)
def test_what_answers_another_question_is_not_imported(tree: Path, arguments: list[str], imported: str) -> None:
    command = [sys.executable, "-c", _IMPORTED, *arguments, "--root", str(tree)]
    environment = {**os.environ, cache.VARIABLE: "off"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.splitlines()[-1].split() == ["IMPORTED", *imported.split()]
