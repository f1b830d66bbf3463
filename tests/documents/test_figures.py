"""Figures: drawn from tables that say what is measured, in the same bytes each time, and only where that is new."""

from __future__ import annotations

import csv
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest

from ckptman.cli.app import run
from ckptman.documents import Curves, data, drawing
from ckptman.documents.figures import files as figure_files
from ckptman.documents.reporting import State, report, stale
from ckptman.ingestion import ingest
from ckptman.rules import Convention
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text import MachineError
from ckptman.tree import history, statistics
from tests.helpers.raw import config, gen_metrics, write_run
from tests.helpers.recorded import add_run

Capture = pytest.CaptureFixture[str]
VALUES = {1: 0.5, 2: 0.75, 3: 0.25}
"""Generalization of each seed, with LayerNorm; without, it is half of that."""

FIGURES = data.figures_of(built_in())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("figures") / "checkpoints"
    for on in (True, False):
        for k in (4, 6):
            name = f"len_gen_k{k}" if on else f"len_gen_no_ln_k{k}"
            for seed, value in VALUES.items():
                share = value if on else value / 2
                metrics = {f"gen/K{n}/exact_match_acc": share for n in range(17, 33)}
                metrics |= {f"gen/K{n}/token_acc": 1.0 for n in range(17, 33)}
                metrics |= {f"train/K{n}/exact_match_acc": 1.0 for n in range(2, k + 1)}
                add_run(root, config(k, seed=seed, use_layernorm=on, wandb_group=name), run_id=f"{on:d}{k}{seed}abc",
                        metrics=metrics)  # fmt: skip
    return root


def selection(root: Path, convention: Convention | None = None) -> data.Selection:
    found = statistics.count_tree(root, convention or built_in(), whole=True)
    return data.Selection.of(found.inventory.runs, found.convention, Curves(root, found.convention))


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_the_table_holds_each_run_with_mean_and_deviation_over_seeds(root: Path) -> None:
    figure = FIGURES["generalization"](selection(root).of_side(True))
    assert figure is not None
    rows = table(figure.csv())
    assert sorted((row["k"], row["seed"], float(row["value"])) for row in rows) == sorted(
        (k, str(seed), 100 * value) for k in ("4", "6") for seed, value in VALUES.items()
    )
    assert {float(row["mean"]) for row in rows} == {round(100 * fmean(VALUES.values()), 6)}
    assert {float(row["deviation"]) for row in rows} == {float(f"{100 * stdev(VALUES.values()):.6g}")}
    assert {row["n"] for row in rows} == {"3"}


def test_the_difference_is_that_of_both_sides(root: Path) -> None:
    figure = FIGURES["layernorm"](selection(root))
    assert figure is not None
    for row in table(figure.csv()):
        assert (float(row["with"]), float(row["without"]), float(row["difference"])) == (50.0, 25.0, 25.0)
    assert FIGURES["layernorm"](selection(root).of_side(True)) is None, "there is no other side"


def test_what_was_not_measured_is_no_figure(root: Path) -> None:
    assert FIGURES["curves"](selection(root)) is None, "no run has a history"
    drawn = {name for name, make in FIGURES.items() if make(selection(root)) is not None}
    assert drawn == {"generalization", "layernorm", "distribution", "lengths", "tokens"}


def curves_of(seeds: tuple[int, ...], series: tuple[str, ...] = ("fixed",)) -> data.Figure:
    rows = tuple(
        {"row": "", "column": "K = 4", "series": name, "k": 4, "step": step, "value": 1.0, "seed": seed,
         "run": f"{name}{seed}"}
        for name in series for seed in seeds for step in (250, 39_250)
    )  # fmt: skip
    return data.Figure("curves", "curves", "Curves", "", "Iterations", "Exact match (%)", rows, True, series)


def texts(figure: data.Figure, monkeypatch: pytest.MonkeyPatch) -> str:
    """A figure as SVG whose texts are text."""
    monkeypatch.setitem(drawing._LOOK, "svg.fonttype", "none")
    return drawing.draw(figure).decode()


def test_seeds_of_one_series_are_told_apart_and_the_axis_ends_at_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    one = texts(curves_of((1337, 2337)), monkeypatch)
    assert all(f">{text}<" in one for text in ("fixed, seed 1337", "fixed, seed 2337", "20k", "40k"))
    several = texts(curves_of((1337, 2337), ("fixed", "mix")), monkeypatch)
    assert "seed 1337" not in several
    assert ">mix<" in several


@pytest.mark.parametrize(("longest", "is_marked"), [(16, False), (17, True)])
def test_the_heat_map_explains_the_mark_where_there_is_one(
    longest: int, is_marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tuple(
        {"row": "mix", "column": "", "series": "mix", "k": longest, "test_k": k, "mean": 50.0} for k in (17, 18)
    )
    figure = data.Figure("lengths", "heat", "Lengths", "", "Test length K", "K", rows, True, ("mix",))
    assert ("end of the trained lengths" in texts(figure, monkeypatch)) is is_marked


def test_the_mark_of_a_heat_map_is_seen_in_grey() -> None:
    for tested in ((17, 18), (17, 19)):  # where a cell follows it, and where none does
        rows = tuple({"row": "mix", "column": "", "series": "mix", "k": 17, "test_k": k, "mean": 50.0} for k in tested)
        figure = data.Figure("lengths", "heat", "Lengths", "", "Test length K", "K", rows, True, ("mix",))
        pixels = importlib.import_module("matplotlib.image").imread(io.BytesIO(drawing.draw(figure, "png")))
        line = (pixels[:, :, :3] @ [0.299, 0.587, 0.114])[pixels.shape[0] // 3]
        cell = (pixels[:, :, :3].std(axis=2)[pixels.shape[0] // 3] < 0.05) & (abs(line - 0.48) < 0.05)
        first, last = cell.nonzero()[0][[0, -1]]
        assert last - first > 100, "the control: the cells are found"
        mark = next(at for at in range(first, last) if line[at] < 0.3)
        assert min(line[mark - 6 : mark].max(), line[mark : mark + 8].max()) > 0.9, "and has a light rim"


def test_what_is_higher_is_said_beside_a_difference(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = FIGURES["layernorm"](selection(root))
    assert figure is not None
    svg = texts(figure, monkeypatch)
    assert "With LayerNorm</" in svg
    assert "higher by (points)</" in svg
    texts(replace(figure, y="a|b on|Difference"), monkeypatch)  # a metric's title is any text


def test_bars_and_dots_are_explained_where_there_are_any(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = selection(root)
    of_one = data.Selection(tuple(item for item in some.runs if item.run.seed == 1), some.convention, some.curves)
    several, single = (FIGURES["generalization"](item) for item in (some, of_one))
    assert several is not None
    assert single is not None
    words = (">a run<", ">mean ± standard deviation (sample)<")
    assert all(word in texts(several, monkeypatch) for word in words)
    assert not any(word in texts(single, monkeypatch) for word in words)


def test_the_line_of_the_threshold_is_of_exact_match_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {name: FIGURES[name](selection(root)) for name in ("generalization", "tokens")}
    assert {name: ">95 %<" in texts(figure, monkeypatch) for name, figure in drawn.items() if figure} == {
        "generalization": True, "tokens": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "is_share"), [("train/loss", False), ("val/acc", True), ("gen/K17/token_acc", True)]
)
def test_a_loss_below_one_is_no_percentage(tmp_path: Path, metric: str, is_share: bool) -> None:
    add_run(tmp_path, config(), metrics={metric: 0.25, **gen_metrics(0.5)})
    some = replace(selection(tmp_path), metric=metric)
    figure = FIGURES["generalization"](some)
    assert figure is not None
    assert (figure.percent, figure.rows[0]["value"], figure.threshold) == (is_share, 25.0 if is_share else 0.25, None)
    assert figure.y == metric + (" (%)" if is_share else "")


def in_later_lab(root: Path, *runs: dict[str, Any]) -> data.Selection:
    """Runs of the shipped convention of the lab's later experiment."""
    for number, values in enumerate(runs):
        k = values.pop("k", 16)
        made = config(k, train_min_k=k, test_min_k=k, test_max_k=k, vocab_n=64, n_embd=32, **values)
        made = replace(made, wandb_group=f"len_gen_v64_e32_k{k}")
        add_run(root, made, run_id=f"{number}abcdefg", metrics={f"test/K{k}/exact_match_acc": 0.5})
    (root / "ckptman.yaml").write_text("extends: lab-later\n")
    return selection(root, load_convention(root / "ckptman.yaml"))


def test_another_labs_figures_say_what_is_on_and_over_which_lengths(tmp_path: Path) -> None:
    one = in_later_lab(tmp_path / "one", {"use_mlp": False}, {"use_mlp": True, "seed": 2337})
    figure = FIGURES["generalization"](one)
    assert figure is not None
    assert figure.series == ("MLP on", "MLP off")
    assert figure.title == "Exact match on K = 16, with LayerNorm"
    several = FIGURES["generalization"](in_later_lab(tmp_path / "two", {"k": 16}, {"k": 32}))
    assert several is not None
    assert several.y == "Exact match on the trained lengths (%)"
    assert FIGURES["distribution"](one) is None, "the trained lengths would be compared with themselves"
    assert FIGURES["lengths"](one) is None, "each was tested on one length"


def test_panels_stand_in_the_order_of_the_convention_whichever_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {f"gen/K{k}/exact_match_acc": 0.5 for k in range(17, 33)}
    for number, (layers, mode) in enumerate([(2, "curriculum"), (1, "mix"), (1, "curriculum")]):
        made = config(8, n_layers=layers, length_mode=mode, use_mlp=False)
        add_run(tmp_path, made, run_id=f"{number}abcdefg", metrics=lengths)
    figure = FIGURES["lengths"](selection(tmp_path))
    assert figure is not None
    assert figure.rows[0]["row"] == "curriculum", "the first panel has no run of the first series"
    drawn = texts(figure, monkeypatch)
    assert drawn.index(">mix<") < drawn.index(">curriculum<")
    assert figure.order[1] == ("Layers 2, MLP off", "Layers 1, MLP off")


@pytest.mark.parametrize("form", drawing.FORMATS)
def test_the_same_figure_gives_the_same_bytes(root: Path, form: str) -> None:
    figure = FIGURES["generalization"](selection(root))
    assert figure is not None
    first = drawing.draw(figure, form)
    assert first == drawing.draw(figure, form)
    assert len(first) > 5_000
    other = FIGURES["tokens"](selection(root))
    assert other is not None
    assert first != drawing.draw(other, form)


def test_a_name_is_text(root: Path) -> None:
    figure = FIGURES["generalization"](selection(root))
    assert figure is not None
    hostile = "$\\frac{</text><script>$ & <b>"
    named = data.Figure(figure.name, figure.kind, hostile, hostile, hostile, hostile, figure.rows, True, figure.series)
    svg = drawing.draw(named).decode()
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


def test_a_name_that_is_no_unicode_is_spelled_out(root: Path) -> None:
    figure = FIGURES["generalization"](selection(root))
    assert figure is not None
    rows = tuple({**row, "series": os.fsdecode(b"gr\xf6\xdfe")} for row in figure.rows)
    named = replace(figure, rows=rows, series=(os.fsdecode(b"gr\xf6\xdfe"),))
    assert rb"gr\udcf6\udcdfe" in named.csv()
    assert drawing.draw(named)


def test_report_draws_them_once_and_says_when_they_are_stale(root: Path) -> None:
    result = report(root, figures=True)
    drawn = [item.name for item in result.documents if item.name.endswith(".svg")]
    assert "report/generalization-with_layernorm.svg" in drawn
    assert all((root / name).with_suffix(".csv").is_file() for name in drawn)
    readme = (root / "README.md").read_text()
    assert "](report/generalization-with_layernorm.svg)" in readme
    assert all(f"]({name})" in readme for name in drawn)
    again = report(root, figures=True)
    assert {item.state for item in again.documents} == {State.UNCHANGED}
    assert stale(root, built_in()) == []
    file = root / "report/layernorm.csv"
    file.write_text(file.read_text().replace("25.0", "26.0"))
    assert report(root, figures=True, check=True).stale == ("report/layernorm.svg",)
    assert report(root, figures=True).documents
    assert report(root, figures=True, check=True).stale == ()
    assert run(["validate", "--root", str(root), "--select", "stray-file,stray-folder,stale-document"]) == 0


def test_what_is_drawn_in_another_way_is_drawn_anew_and_its_png_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(0.5))
    name = "report/generalization-with_layernorm"
    report(tmp_path, figures=True, png=True)
    image = (tmp_path / f"{name}.png").read_bytes()
    assert report(tmp_path, figures=True, check=True).stale == (), "the control"
    monkeypatch.setattr(figure_files, "_drawing_source", lambda: b"of another version")
    assert f"{name}.svg" in report(tmp_path, figures=True, check=True).stale
    report(tmp_path, figures=True)
    assert report(tmp_path, figures=True, check=True).stale == ()
    assert (tmp_path / f"{name}.png").read_bytes() != image, "it tells of what it was drawn from"
    monkeypatch.undo()
    add_run(tmp_path, config(seed=2), run_id="b", metrics=gen_metrics(0.75))
    report(tmp_path, figures=True)
    (tmp_path / f"{name}.png").rename(tmp_path / "kept.png")
    report(tmp_path, figures=True, png=True)
    assert (tmp_path / "kept.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()


def test_the_readme_shows_no_figure_of_runs_that_are_gone(tmp_path: Path) -> None:
    for norm in (True, False):
        add_run(tmp_path, config(use_layernorm=norm, wandb_group=f"len_gen_{'' if norm else 'no_ln_'}k8"),
                run_id=f"{norm:d}abc", metrics=gen_metrics(0.5))  # fmt: skip
    report(tmp_path, figures=True)
    links = ("generalization-with_layernorm.svg)", "generalization-without_layernorm.svg)", "/layernorm.svg)")
    assert [link in (tmp_path / "README.md").read_text() for link in links] == [True, True, True], "the control"
    shutil.rmtree(tmp_path / "without_layernorm")
    report(tmp_path, figures=True)
    readme = (tmp_path / "README.md").read_text().replace("\n", " ").replace("  ", "\n\n")
    assert [link in readme for link in links] == [True, False, False]
    left = "Of runs that are gone, and not drawn any more (they can be removed): "
    names = re.findall("`(report/.*?)`", readme.partition(left)[2].partition("\n\n")[0])
    assert {"report/generalization-without_layernorm.svg", "report/layernorm.svg"} <= set(names)
    for name in names:
        (tmp_path / name).unlink()
    report(tmp_path, figures=True)
    assert "not drawn any more" not in (tmp_path / "README.md").read_text().replace("\n", " ")
    assert not any((tmp_path / name).exists() for name in names)


def panels_of(*places: tuple[str, str], series: str = "mix") -> data.Figure:
    rows = tuple(
        {"row": row, "column": column, "series": series, "k": k, "value": 50.0, "mean": 50.0, "deviation": None}
        for row, column in places for k in (4, 8)
    )  # fmt: skip
    return data.Figure("lines", "lines", "Lines", "", "K", "Exact match (%)", rows, True, ("mix", "fixed"),
                       order=(("L2", "L1"), ("on", "off")))  # fmt: skip


def test_panels_close_up_where_a_row_would_be_empty() -> None:
    def height(figure: data.Figure) -> float:
        match = re.search(r' viewBox="0 0 [0-9.]+ ([0-9.]+)"', drawing.draw(figure).decode())
        assert match
        return float(match[1])

    full = panels_of(("L2", "on"), ("L2", "off"), ("L1", "on"), ("L1", "off"))
    assert height(panels_of(("L2", "on"), ("L1", "off"))) == height(panels_of(("L2", "on"), ("L2", "off")))
    assert height(panels_of(("L2", "on"), ("L1", "off"))) < height(full)
    assert height(panels_of(("L2", "on"), ("L2", "off"), ("L1", "off"))) == height(full), "the control"


def test_a_legend_fits_its_figure() -> None:
    def named(*labels: str) -> list[Any]:
        return [SimpleNamespace(get_label=lambda label=label: label) for label in labels]

    several = named("mix", "curriculum", "95 %", "a run", "mean ± standard deviation (sample)")
    lines = drawing._in_lines(several, 3, last=True)
    assert [part.get_label() for part in lines] == [
        *(part.get_label() for part in several[:-1]),
        "",
        lines[-1].get_label(),
    ]
    assert drawing._width_of(lines, 3) > 6.4 > drawing._width_of(several, 3), (
        "the control: what was reckoned with before"
    )
    rows = tuple({"row": "", "column": "", "series": name, "k": 16, "value": 50.0, "mean": 50.0, "deviation": 1.0}
                 for name in ("mix", "curriculum"))  # fmt: skip
    figure = data.Figure("lines", "lines", "Lines", "", "K", "Exact match (%)", rows, True, ("mix", "curriculum"),
                         threshold=95.0, spread="mean ± standard deviation (sample)")  # fmt: skip
    pixels = importlib.import_module("matplotlib.image").imread(io.BytesIO(drawing.draw(figure, "png")))
    ink = (pixels[:, :, :3].min(axis=2) < 0.5).any(axis=0)
    assert not ink[:4].any()
    assert not ink[-4:].any()


def test_a_series_alone_in_its_panel_stands_at_its_k() -> None:
    alone, other = panels_of(("L2", "on")), panels_of(("L1", "on"), series="fixed")
    assert drawing._dodge(alone, alone.rows, (4, 8)) == {"mix": 0.0}
    both = drawing._dodge(alone, (*alone.rows, *other.rows), (4, 8))
    assert both["mix"] < 0 < both["fixed"], "the control"


def test_differences_are_read_at_three_ticks_at_least(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = FIGURES["layernorm"](selection(root))
    assert figure is not None
    for most, ticks in ((85.0, ["0", "25", "50", "75"]), (18.0, ["0", "10", "20"])):
        rows = tuple({**row, "difference": most * (row["k"] == 6)} for row in figure.rows)
        drawn = re.findall(">([0-9]+)<", texts(replace(figure, rows=rows), monkeypatch))
        assert drawn == ["0", "25", "50", "75", "100", "4", "6", *ticks]


def test_without_matplotlib_the_report_is_as_it_was(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(tmp_path, config())
    monkeypatch.delenv("CKPTMAN_FIGURES")
    monkeypatch.setattr(drawing, "find_spec", lambda _: None)
    assert run(["report", str(tmp_path)]) == 0
    assert "install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert run(["report", str(tmp_path), "--figures"]) == 3
    assert "matplotlib, which is not installed" in capsys.readouterr().err


def test_a_matplotlib_that_cannot_be_imported_is_told_and_leaves_no_file(
    root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(tmp_path, config(), metrics=gen_metrics(0.5))

    def broken(name: str) -> object:
        raise ImportError(f"{name}: libfreetype.so.6 is not there")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert run(["report", str(tmp_path), "--figures"]) == 3
    err = capsys.readouterr().err
    assert "cannot be imported: ImportError: matplotlib.figure: libfreetype.so.6 is not there" in err
    assert "--no-figures" in err
    figure = FIGURES["generalization"](selection(root))
    assert figure is not None
    with pytest.raises(MachineError, match="libfreetype"):
        figure_files.draw(tmp_path, "generalization", figure, png=True)
    assert list(tmp_path.rglob("*.csv")) == []
    monkeypatch.undo()
    assert run(["report", str(tmp_path), "--figures"]) == 0
    assert list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize("key", ["gen/K17/token_acc", "gen/K17/exact_match_acc"])
@pytest.mark.parametrize(
    ("value", "is_drawn"), [(10**400, False), (1e308, False), (1, True)], ids=["400 digits", "1e308", "1"]
)
def test_a_number_beyond_all_measuring_is_not_drawn(
    key: str, value: float, is_drawn: bool, tmp_path: Path, capsys: Capture
) -> None:
    measured = gen_metrics(0.5) | {f"gen/K{k}/token_acc": 1.0 for k in range(17, 33)} | {key: value}
    add_run(tmp_path, config(), metrics=measured)
    assert run(["report", str(tmp_path), "--figures", "--html"]) == 0, capsys.readouterr().err
    name = "tokens" if "token" in key else "generalization"
    assert (tmp_path / f"report/{name}-with_layernorm.csv").is_file() is is_drawn
    for command in (["results"], ["results", "--metric", "gen/K*/token_acc"], ["validate"], ["status"]):
        capsys.readouterr()
        assert run([*command, "--root", str(tmp_path)]) in (0, 1)
        assert "fault" not in capsys.readouterr().err


def test_a_report_reads_each_history_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, root = tmp_path / "raw", tmp_path / "checkpoints"
    curve = {step: gen_metrics(step / 1000) for step in (250, 500)}
    write_run(raw / "len_gen_k6" / "task_0", config(), run_id="abcd1234", curve=curve)
    ingest(raw, root=root, convention=built_in())
    read = history.read
    asked: list[Path] = []

    def noted(folder: Path) -> history.History | None:
        asked.append(folder)
        return read(folder)

    monkeypatch.setattr(history, "read", noted)
    report(root, figures=True, html="")
    assert len(asked) == len(set(asked)) == 1
    names = {path.name for path in (root / "report").iterdir()}
    assert {"curves-with_layernorm.svg", "explorer.html"} <= names


# --- plot -------------------------------------------------------------------------------------------------------------


def test_plot_draws_a_selection_and_writes_over_nothing(
    root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plot", "generalization", "--root", str(root), "--k", "4", "--layernorm", "-o", "one.png"]) == 0
    assert capsys.readouterr().out == "one.png: Generalization to K = 17–32, with LayerNorm, 3 runs\n"
    assert {row["k"] for row in table(Path("one.csv").read_bytes())} == {"4"}
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")
    before = Path("one.png").read_bytes()
    assert run(["plot", "tokens", "--root", str(root), "-o", "one.png"]) == 1
    assert Path("one.png").read_bytes() == before


@pytest.mark.parametrize("taken", ["one.svg", "one.csv"])
def test_plot_writes_both_files_or_none(
    root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(taken).write_text("mine")
    command = ["plot", "generalization", "--root", str(root), "-o", "one.svg"]
    assert run(command) == 1
    assert f"{taken} is already there" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {taken: b"mine"}
    Path(taken).unlink()
    assert run(command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"one.svg", "one.csv"}, "the control"
    assert run(command) == 0, "the same once more is no other file"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curves"], "nothing is measured that curves shows"),
        (["tokens", "-o", "x.gif"], "x.gif is of no kind"),
        (["tokens", "--k", "99"], "nothing to draw: no run of"),
        (["generalization", "--metric", "gen/K17/tokn_acc"], "no run has a metric 'gen/K17/tokn_acc'"),
        (["tokns"], "tokns"),
        (["tokens", "--metric", "gen/K17/exact_match_acc"], "tokens shows a metric of its own"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plot", *arguments, "--root", str(root)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written_is_not_talked_about() -> None:
    env = {"HOME": "/proc/nowhere", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    ours = "from ckptman.documents import drawing; drawing.check_possible()"
    said = [
        subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stderr
        for code in (ours, "import matplotlib.figure")  # the control
    ]
    assert said[0] == ""
    assert "/proc/nowhere" in said[1]
