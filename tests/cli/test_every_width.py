"""Every command on terminals of 60, 80, 120 and 200 columns: lines fold between words, and no word is broken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.text import Text

from ckptman.cli import commands, folding
from ckptman.cli.app import run
from ckptman.cli.tables import print_table
from ckptman.cli.text import console
from tests.helpers.raw import START, config, gen_metrics, write_run

Capture = pytest.CaptureFixture[str]

RUN = "checkpoints/without_layernorm/fixed/len_gen_single_no_ln_k4/task_0003/seed_1337"
LINES = """
ckptman
ckptman train --k 4 --task 3 --fixed --no-layernorm --dry-run
ckptman sweep --k 4 --regime fixed --layernorm off --dry-run
ckptman status --regime fixed
ckptman learn grid_outputs --write learnt.yaml
ckptman ingest grid_outputs --dry-run --root other
ckptman ingest grid_outputs
ckptman assign RUN --run 8egevwm5 --dry-run
ckptman migrate --dry-run
ckptman validate
ckptman validate --explain list
ckptman report
ckptman ls
ckptman ls --columns group,task,seed,path,gen_em
ckptman results
ckptman results --threshold 0.95
ckptman results --versus use_mlp
ckptman plot generalization -o figure.svg
ckptman show RUN
ckptman show RUN/FINAL
ckptman eval RUN --k 4 --samples 2 --no-record --threads 1
ckptman witness RUN --seeds 1337
ckptman export RUN/FINAL --to plain --out exported
ckptman task
ckptman task 3 --fixed
ckptman name FINAL
ckptman config
ckptman doctor
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    group = "len_gen_single_no_ln_k4"
    for index, (seed, mlp) in enumerate([(2337, False), (1337, False), (1337, True)]):
        of = config(4, train_min_k=4, n_layers=1, use_layernorm=False, use_mlp=mlp, seed=seed, wandb_group=group)
        task = folder / "grid_outputs" / group / f"task_{3 - mlp:04d}"
        write_run(task, of, run_id=f"run{index}", started=START + 1000 * index, metrics=gen_metrics(0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["ingest", "grid_outputs", "--root", "checkpoints"]) == 0
    return folder


def said(line: str, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> str:
    (final,) = (file.name for file in Path(RUN).glob("Final_*.pt"))
    words = line.replace("RUN", RUN).replace("FINAL", final).split()[1:]
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(words) in (0, 1), capsys.readouterr().err
    found = capsys.readouterr()
    for written in (Path("learnt.yaml"), Path("figure.svg"), Path("figure.csv")):
        written.unlink(missing_ok=True)
    return found.out + found.err


def words_of(text: str) -> set[str]:
    return {word for word in text.split() if "…" not in word}


@pytest.mark.parametrize("line", LINES.split("\n")[1:-1])
def test_no_line_is_too_long_and_no_word_is_broken(
    line: str, home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**11))  # others write there meanwhile
    said(line, 1000, capsys, monkeypatch)  # what is written is there from now on, at any width
    whole = words_of(said(line, 1000, capsys, monkeypatch))
    for width in (60, 80, 120, 200):
        shown = said(line, width, capsys, monkeypatch)
        for text in shown.splitlines():
            assert not text.endswith(" "), text
            if cell_len(text) <= width or "ckptman " in text:  # a command is pasted as a whole
                continue
            begins = len(text) - len(text.lstrip())
            longest = max(map(cell_len, text.split()))
            assert longest > min(width - begins, width / 2), f"folded too late at {width}: {text}"
        broken = {word for word in words_of(shown) - whole if not word.endswith("_")}
        assert not broken or ("versus" in line and broken <= {"max_k"}), (width, broken)


def test_each_command_is_among_them() -> None:
    assert set(commands.COMMANDS) == {line.split()[1] for line in LINES.split("\n")[2:-1]}


# --- how sentences and tables fold ------------------------------------------------------------------------------------


def folded(text: str, width: int) -> list[str]:
    return folding.fold(Text(text), width).plain.split("\n")


def test_a_sentence_folds_between_words_and_a_label_keeps_its_column() -> None:
    assert folded("what is said here goes on", 20) == ["what is said here", "  goes on"]
    assert folded("  label     what is said", 22) == ["  label     what is", "    said"], "that is too far in"
    assert folded("  label     what is said here", 26) == ["  label     what is said", "            here"]
    assert folded("short", 5) == ["short"]


def test_a_figure_keeps_its_unit_and_a_command_its_words() -> None:
    assert folded("it reached some 97.9 % ± 2.4 %", 26) == ["it reached some", "  97.9 % ± 2.4 %"]
    command = "ckptman validate --explain missing-seed"
    assert folded(f"What a code means: {command}", 45) == ["What a code means:", f"  {command}"]
    assert "\n" in folding.fold(Text("said: ckptman sweep trains them, and this is no command"), 30).plain


def test_a_path_stays_whole() -> None:
    path = "/a/" + "b" * 40
    assert folded(f"  in  {path}", 30) == [f"  in  {path}"]
    assert folded(f"it was written to {path} at once", 30) == ["it was written to", f"  {path}", "  at once"]


def test_headings_fold_before_columns_go_onto_further_lines(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("number of layers", "K", "mean"), ("1", "8", "0.95"), ("2", "8", "0.97")]
    monkeypatch.setenv("COLUMNS", "20")
    print_table(console(), rows)
    assert capsys.readouterr().out.splitlines() == [
        "number",
        "of",
        "layers  K  mean",
        "1       8  0.95",
        "2       8  0.97",
    ]
    monkeypatch.setenv("COLUMNS", "10")
    print_table(console(), rows)
    assert re.split(r"\n", capsys.readouterr().out)[3:5] == ["1", "    8"]


def test_a_heading_alone_is_a_table(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(console(), [("", "Key", "Value")])
    assert capsys.readouterr().out.split() == ["Key", "Value"]


@pytest.mark.parametrize("columns", ["0", "00", "-5", "wide"])
def test_columns_that_are_no_width_count_for_nothing(
    columns: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(console(), [("group", "mean"), ("len_gen_k8", "0.95")])
    said = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", columns)
    print_table(console(), [("group", "mean"), ("len_gen_k8", "0.95")])
    assert capsys.readouterr().out == said != ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(console(), [("group", "mean"), ("len_gen_k8", "0.95")])
    assert "len_gen_k8" in capsys.readouterr().out


def test_the_last_columns_texts_fold_under_themselves(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "34")
    print_table(console(), [("Key", "Value"), ("some", "what stands here is a sentence")], indent="  ")
    assert capsys.readouterr().out.splitlines()[1:] == ["  some  what stands here is a", "        sentence"]
