"""Figures: drawn from tables that say what is measured, in the same bytes each time, and only where that is new."""

from __future__ import annotations

import csv
import importlib
import io
from pathlib import Path
from statistics import fmean, stdev

import pytest

from ckptman.cli.app import run
from ckptman.documents import Curves, data, drawing
from ckptman.documents.figures import files as figure_files
from ckptman.documents.reporting import State, report, stale
from ckptman.ingestion import ingest
from ckptman.rules import Convention
from ckptman.rules.convention_file import built_in
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
    found = statistics.count_tree(root, convention or built_in())
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
        figure_files.draw("generalization", figure, png=True)
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curves"], "nothing of curves is measured"),
        (["tokens", "-o", "x.gif"], "x.gif is of no kind"),
        (["tokens", "--k", "99"], "nothing to draw: in 0 runs"),
        (["tokns"], "tokns"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plot", *arguments, "--root", str(root)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
