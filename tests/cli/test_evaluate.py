"""`ckptman eval`: what it prints, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.cli.app import run
from ckptman.cli.evaluate import parse_lengths
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import UsageError
from ckptman.training import evaluation
from ckptman.training.accuracy import Accuracy, measure_accuracy
from ckptman.training.evaluation import DEFAULT_SAMPLES, DEFAULT_SEED, evaluate
from ckptman.tree.records import read_record
from tests.helpers.raw import config, snapshot, write_checkpoint, write_run

QUICK = ["--k", "2,3", "--samples", "20"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model.pt", config())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_run(tmp_path / "outputs/len_gen_k8/task_0006", config(), run_id="aaaaaaaa")
    ingest(tmp_path / "outputs", tmp_path / "tree")
    return tmp_path / "tree"


def document_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def undated(document: dict[str, Any]) -> dict[str, Any]:
    for item in document["evaluations"]:
        assert item.pop("date")
    return document


def test_json_is_the_librarys_document(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(file), *QUICK, "--seed", "4", "--json"]) == 0
    printed = capsys.readouterr()
    assert undated(json.loads(printed.out)) == undated(evaluate(file, k=[2, 3], samples=20, seed=4).to_json())
    assert printed.err == ""


def test_the_defaults_are_the_librarys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(file), "--json"]) == 0
    (item,) = document_of(capsys)["evaluations"]
    assert (item["samples"], item["seed"], item["mode"]) == (DEFAULT_SAMPLES, DEFAULT_SEED, "teacher-forced")
    assert item["k"] == list(range(17, 33))
    assert item["gen_em"] is not None


def test_the_autoregressive_mode(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(file), *QUICK, "--autoregressive", "--json"]) == 0
    expected = evaluate(file, k=[2, 3], samples=20, mode="autoregressive").to_json()
    assert undated(document_of(capsys)) == undated(expected)
    assert expected["evaluations"][0]["mode"] == "autoregressive"


def test_the_table_names_the_mode(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(file), *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(file)
    assert lines[1].startswith("teacher-forced: each number is predicted from the correct ones before it")
    assert lines[1].endswith("20 lists of each length, seed 0")
    accuracy = evaluate(file, k=[2], samples=20).evaluations[0].by_k[2]
    low, high = (100 * end for end in accuracy.interval)
    cells = f"2 {100 * accuracy.exact_match:.1f} % {low:.1f}–{high:.1f} % {100 * accuracy.token_accuracy:.2f} %"
    assert " ".join(lines[3].split()) == cells
    assert lines[5] == "  no mean: not every length of K = 17..32 was evaluated"

    run(["eval", str(file), *QUICK, "--autoregressive"])
    assert "autoregressive: the model reads its own output" in capsys.readouterr().out


def test_blank_lines_stand_between_tables_alone(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_checkpoint(tmp_path / "other.pt", config(), salt=1)
    for files, blanks in (([file], 0), ([file, other], 2)):
        assert run(["eval", *map(str, files), *QUICK]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (lines.count(""), "" in (lines[0], lines[-1])) == (blanks, False)


def test_a_tree_is_evaluated_and_recorded(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(tree)
    assert run(["eval", str(tree), "--samples", "5", "--no-record"]) == 0
    assert snapshot(tree) == before
    assert "recorded" not in capsys.readouterr().out

    assert run(["eval", str(tree), "--samples", "5"]) == 0
    out = capsys.readouterr().out
    assert "  mean over K = 17..32: 0.0 % (0.0–4.6 %), recorded in run.json" in out.splitlines()
    assert snapshot(tree) != before

    assert run(["eval", str(tree), *QUICK, "--all"]) == 0
    assert "2 checkpoints, teacher-forced" in capsys.readouterr().out


def test_a_refused_file_is_told_and_gives_status_1(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    assert run(["eval", str(empty), str(file), *QUICK, "--json"]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert [item["path"] for item in document["evaluations"]] == [str(file)]
    assert [(item["path"], item["code"]) for item in document["refused"]] == [(str(empty), "empty")]
    assert f"REFUSED {empty}: " in printed.err
    assert printed.err.count(str(empty)) == 1
    assert run(["eval", str(empty), "-q"]) == 1
    assert capsys.readouterr().err.splitlines() == printed.err.splitlines()[:1]  # without what to do about it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.pt"], "nowhere.pt does not exist"),
        (["FILE", "--k", "32-17"], "'32-17' is not a list of whole numbers"),
        (["FILE", "--k", "some"], "'some' is not a list of whole numbers"),
        (["FILE", "--samples", "0"], "--samples"),
        (["FILE", "--device", "gpu"], "'gpu' is not a device"),
    ],
)
def test_wrong_usage_gives_status_2(
    file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", *(str(file) if item == "FILE" else item for item in arguments)]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""


def test_what_cannot_be_recorded_is_measured_and_the_exit_status_says_so(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = next(tree.rglob("run.json"))
    record.write_text("{")
    assert run(["eval", str(tree), *QUICK, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["evaluations"][0]["recorded"] is False
    assert printed.err.startswith("WARNING ")


def test_each_tree_has_its_own_convention(tree: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "ckptman.yaml").write_text("metrics: {generalization: {k: [2, 3]}}\n")
    assert run(["eval", str(file), str(tree), "--samples", "5", "--json"]) == 0
    here, there = document_of(capsys)["evaluations"]
    assert (here["path"], here["k"]) == (str(file), list(range(17, 33)))
    assert there["k"] == [2, 3]
    assert there["gen_em"] is not None


def test_threads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def watched(*arguments: Any, **options: Any) -> Accuracy:
        measured.append(torch.get_num_threads())
        return measure_accuracy(*arguments, **options)

    monkeypatch.setattr(evaluation, "measure_accuracy", watched)
    before = torch.get_num_threads()
    assert run(["eval", str(file), *QUICK, "--threads", "3"]) == 0
    assert set(measured) == {3}
    assert torch.get_num_threads() == before  # that of the program which calls it


@pytest.mark.parametrize(
    ("text", "lengths"),
    [("4", [4]), ("17-20", [17, 18, 19, 20]), ("8,4,17-18", [4, 8, 17, 18]), ("2-4, 3-5", [2, 3, 4, 5]), ("1-1", [1])],
)
def test_lengths(text: str, lengths: list[int]) -> None:
    assert parse_lengths([text]) == lengths
    assert parse_lengths(text.split(",")) == lengths


@pytest.mark.parametrize("text", ["", "4,", "-4", "4-", "0", "0-3", "5-4", "1-10001", "²", "1e3", "4..8"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lengths([text])
    assert caught.value.code == "bad-range"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys, ckptman.cli.evaluate\nfrom ckptman.cli.app import run\nstatus = run(['eval', '--help'])\n"
        "sys.exit(10 * status + ('torch' in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--autoregressive" in done.stdout


def test_what_was_recorded_is_forgotten_as_the_dry_run_says(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["eval", str(tree), *QUICK])
    before = snapshot(tree)
    capsys.readouterr()
    assert run(["eval", str(tree), *QUICK, "--forget", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 evaluation would be forgotten"
    assert snapshot(tree) == before
    assert run(["eval", str(tree), *QUICK, "--forget", "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["forgotten"]
    assert (item["samples"], item["k"], item["mode"]) == (20, [2, 3], "teacher-forced")
    assert run(["eval", str(tree), *QUICK, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would be measured: ")
    assert run(["eval", str(tree), *QUICK, "--forget"]) == 0
    said = capsys.readouterr()
    assert said.out == "0 evaluations forgotten\n"
    assert "nothing is recorded of teacher-forced, 20 lists of each length, seed 0, K 2,3" in " ".join(said.err.split())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "1 of 2 checkpoints measured and recorded: the same command goes on with the next one"),
        (["--no-record"], "0 of 2 checkpoints measured and recorded: the same command starts over"),
    ],
)
def test_an_interrupted_evaluation_says_from_where_it_goes_on(
    more: list[str], said: str, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(calls) == 3:  # in the second length of the second file
            raise KeyboardInterrupt
        return measure_accuracy(*given, **named)

    command = ["eval", str(tree), "--all", *QUICK, *more]
    with monkeypatch.context() as patched:
        patched.setattr("ckptman.training.evaluation.measure_accuracy", interrupted)
        assert run(command) == 130
    assert said in " ".join(capsys.readouterr().err.split())
    assert run([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("would be measured") == (2 if more else 1)


def test_neither_the_trash_nor_an_operating_systems_files_are_evaluated(tree: Path) -> None:
    [final] = evaluation.find_checkpoints([tree], built_in())[0]
    for other in (final.with_name(f"._{final.name}"), tree / ".ckptman-trash" / final.name):
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(final.read_bytes())
    assert evaluation.find_checkpoints([tree], built_in())[0] == [final]
    assert len(evaluation.find_checkpoints([tree], built_in(), all_checkpoints=True)[0]) == 2
    other = final.with_name(final.name.replace("iters40000", "iters40001"))  # the control: any other name
    other.write_bytes(final.read_bytes())
    assert len(evaluation.find_checkpoints([tree], built_in(), all_checkpoints=True)[0]) == 3


def test_show_tells_evaluations_apart_by_their_lists_and_dates(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for samples in ("1", "20"):
        run(["eval", str(tree), "--k", "2", "--samples", samples])
    assert "; 1 list of each length, seed 0" in capsys.readouterr().out
    run_folder = evaluation.find_checkpoints([tree], built_in())[0][0].parent
    assert run(["show", str(run_folder)]) == 0
    out = capsys.readouterr().out
    today = read_record(run_folder).evaluations[0]["date"][:10]
    assert out.count(today) == 2
    assert "Lists each" in out
