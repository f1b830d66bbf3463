"""What a terminal of 60, 80, 120 or 200 columns shows: no line is longer, and nothing is cut that matters."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from ckptman.cli import train
from ckptman.cli.app import run
from ckptman.cli.sweep import SweepTable
from ckptman.cli.tables import shortened, shortened_label, table_lines
from ckptman.cli.train import progress_texts
from ckptman.rules.selection import Selection
from ckptman.sweeps.executors.local import TRAINING, JobUpdate
from ckptman.training.progress import BatchProgress, Progress
from ckptman.training.stopping import Stop
from tests.helpers.raw import config
from tests.helpers.recorded import add_run
from tests.helpers.sweeps import plan

Capture = pytest.CaptureFixture[str]
WIDTHS = pytest.mark.parametrize("width", [60, 80, 120, 200])
LONG = "len_gen_single_no_ln_k16"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed in (1337, 2337):
        run_config = config(16, train_min_k=16, use_layernorm=False, wandb_group=LONG, seed=seed)
        add_run(tmp_path / "checkpoints", run_config, run_id=f"run{seed}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints"


def printed(width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run([*arguments]) in (0, 1)
    return capsys.readouterr().out.splitlines()


@WIDTHS
def test_ls(root: Path, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(width, capsys, monkeypatch, "ls")
    assert all(cell_len(line) <= width for line in lines)
    assert sum(" 1337 " in line for line in lines) == sum(" 2337 " in line for line in lines) == 2
    at = next(number for number, line in enumerate(lines) if line.startswith("Group"))
    head, *below = lines[at:]
    assert all("%" in line or "–" in line for line in below)
    assert ("Run" in head) is (width >= 120)
    assert (LONG in below[0]) is (width >= 120)
    assert re.match(r"len_[\w…]*k16 ", below[0])
    assert len(set(below)) == 4, "no two files look the same"


@WIDTHS
def test_status(root: Path, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(width, capsys, monkeypatch, "status")
    told = lines.index(next(line for line in lines if line.startswith("in each cell")))
    assert all(cell_len(line) <= width for line in lines[: told + 1])
    assert len([line for line in lines if "Without LayerNorm, fixed" in line]) == 1, "one family has runs"
    legend = " ".join(lines[told - 3 : told])
    assert re.search(r"● 2 complete, .*· 502 missing", " ".join(legend.split()))
    assert not any(line.endswith(("●", "▶", "✗", "◐", "⊘")) for line in lines[told - 3 : told])


@WIDTHS
def test_a_map_of_many_k(root: Path, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(width, capsys, monkeypatch, "status", "--k", "2-40:2", "--regime", "fixed")
    told = lines.index(next(line for line in lines if line.startswith("in each cell")))
    assert all(cell_len(line) <= width for line in lines[: told + 1])
    heads = [line.split() for line in lines if " K " in line]
    assert [k for head in heads for k in head if k != "K"] == [str(k) for k in range(2, 42, 2)]
    assert (len(heads) == 1) is (width >= 120)


@WIDTHS
def test_plans(root: Path, width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["sweep", "--k", "16", "--regime", "fixed"], ["train", "--k", "16", "--task", "3", "--fixed"]):
        lines = printed(width, capsys, monkeypatch, *command, "--dry-run")
        assert all(cell_len(line) <= width for line in lines)
        assert any("seed 1337" in line for line in lines)


@WIDTHS
def test_the_live_table_of_a_sweep(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "40")
    found = plan(tmp_path, Selection(k=(16,), facets={"regime": ("fixed",), "layernorm": (False,)}))
    table = SweepTable(found, Stop())
    news = Progress(iters_done=12_345, iterations_per_second=18.25, loss=1.25, gen_em=0.987)
    table.update(found.runs[1], JobUpdate(index=1, state=TRAINING, progress=news))
    text = io.StringIO()
    Console(width=width, soft_wrap=True, file=text).print(table.render())
    lines = text.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    (row,) = (line for line in lines if "training" in line)
    assert " 2337 " in row
    assert "98.7 %" in row
    assert re.match(r"len_[\w…]*k16 ", row)
    assert ("18.2" in row) is (width >= 80)


@WIDTHS
@pytest.mark.parametrize("total", [200, 40_000, 100_000])
def test_the_progress_of_a_training(width: int, total: int) -> None:
    figures = ["gen. 98.7 %", "18.2 it/s", "loss 1.2500", "K 16", "lr 1.00e-04"]
    name, shown = progress_texts(f"{LONG} task 3 seed 1337", figures, total, width)
    assert name.endswith(" task 3 seed 1337")
    assert shown.startswith("gen. 98.7 %")
    bar = min(24, width - 71) + 1 if width >= 80 else 0
    line = cell_len(name) + 1 + bar + len(f"{total:,}/{total:,} ") + len("00:00:00 ") + cell_len(shown)
    assert line <= width
    assert (shown == "  ".join(figures)) is (width == 200)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_columns_give_way_in_their_order() -> None:
    rows = [("Name", "Seed", "More"), ("a" * 20, "1337", "b" * 10)]
    assert table_lines(rows, room=40)[1] == f"{'a' * 20}  1337  {'b' * 10}"
    assert table_lines(rows, room=37, give=("-More", "Name"))[1] == f"{'a' * 20}  1337"
    assert table_lines(rows, room=37, give=("Name", "-More"))[1] == f"{'a' * 9}…{'a' * 9}  1337  {'b' * 10}"
    assert table_lines(rows, room=10, give=("Name", "-More"))[1] == "aaaa…aaaaa  1337", "the rest is never cut"
    assert table_lines(rows, room=10)[1] == table_lines(rows)[1], "nothing gives way that was not named"


def test_two_texts_are_not_shortened_to_one() -> None:
    rows = [["Name", "Seed"], ["len_gen_no_ln_k12", "1337"], ["len_gen_k12", "1337"]]
    lines = table_lines(rows, room=16, give=("Name",))
    assert len(set(lines)) == 3
    assert cell_len(lines[1]) == 17, "one letter more than there is room for"
    other = [rows[0], rows[1], ["len_gen_no_ln_k16", "1337"]]
    assert cell_len(table_lines(other, room=16, give=("Name",))[1]) == 16, "the control"


def test_what_tells_things_apart_stays_when_a_text_is_shortened() -> None:
    assert shortened("len_gen_single_no_ln_k16", 11) == "len_g…n_k16"
    assert shortened("short", 5) == "short"
    assert cell_len(shortened("表" * 20, 11)) <= 11
    assert shortened_label("len_gen_single_no_ln_k16 task 3 seed 1337", 27) == "len_…n_k16 task 3 seed 1337"


def test_the_result_of_a_training_has_a_line_for_each_run() -> None:
    name = "len_gen_single_no_ln_k16 task 3 seed"
    rows = [("Exact match", "", "K 16", "K 17–32"), (f"{name} 1337", "interrupted at 485 of 3,000", "0.0 %", "0.0 %"),
            (f"{name} 2337", "not started", "–", "–"), ("mean ± deviation (sample)", "", "–", "–")]  # fmt: skip
    lines = table_lines(rows, (2, 3), room=80, give=("Exact match",))
    assert all(cell_len(line) <= 80 for line in lines)
    assert [line.split("  ")[0].partition("…")[2].partition(" ")[2] for line in lines[1:3]] == [
        "task 3 seed 1337", "task 3 seed 2337"
    ]  # fmt: skip


def test_what_tells_rows_of_one_task_apart_never_gives_way(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mlp in (True, False):
        add_run(tmp_path, config(use_mlp=mlp, wandb_group="an_experiment_of_nobodys_grid"), run_id=f"mlp{mlp}",
                notes=(f"mlp{mlp}",))  # fmt: skip
    head, *rows = printed(60, capsys, monkeypatch, "results", "--root", str(tmp_path))
    assert "use_mlp" in head
    assert "length_mode" not in head  # the control: that is the same in all rows of the task
    assert len(set(rows)) == len(rows) == 2


@WIDTHS
def test_how_far_a_training_is_takes_one_line_of_a_log(
    width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(train, "_LINE_SECONDS", 0.0)
    far = BatchProgress(
        label=f"{LONG} task 6 seed 1337", max_iters=40_000, iters_done=1_000, loss=0.5, iterations_per_second=12.0,
        learning_rate=1e-3, k=16, gen_em=None,
    )  # fmt: skip
    with train.RunProgress() as shown:
        shown(far)
    (line,) = capsys.readouterr().err.splitlines()
    assert cell_len(line) > 60
    assert line.endswith("lr 1.00e-03")
