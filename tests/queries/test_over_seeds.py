"""`results`: what it says is what a few lines over `ls --json` say."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from pathlib import Path
from statistics import mean, pstdev, stdev

import pytest

from ckptman.cli.app import run
from ckptman.queries.conditions import parse_where
from ckptman.queries.over_seeds import differences, results, thresholds
from ckptman.rules import Convention
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text.errors import UsageError
from tests.helpers.raw import config, gen_metrics
from tests.helpers.recorded import add_run
from tests.helpers.trees import edit_record, make_tree

Capture = pytest.CaptureFixture[str]

VALUES = {
    (8, True, 1337): 0.90, (8, True, 2337): 0.96, (8, True, 3337): 0.99,
    (16, True, 1337): 0.97, (16, True, 2337): 0.95,
    (8, False, 1337): 0.50, (8, False, 2337): 0.70,
    (16, False, 1337): None,
}  # fmt: skip
"""Generalization by K, LayerNorm and seed: 1 layer, no MLP, mix."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(
        tmp_path_factory.mktemp("results"),
        [
            config(k, seed=seed, use_layernorm=norm, wandb_group=f"len_gen_{'' if norm else 'no_ln_'}k{k}")
            for k, norm, seed in VALUES
        ],
    )
    for path in root.rglob("run.json"):
        said = json.loads(path.read_text())["config"]
        value = VALUES[said["train_max_k"], said["use_layernorm"], said["seed"]]
        edit_record(
            path.parent, metrics={} if value is None else gen_metrics(value), run_id=f"r{path.parent.stat().st_ino}"
        )
    return root


def by_hand(tree: Path, capsys: pytest.CaptureFixture[str]) -> dict[tuple[int, bool], list[float]]:
    assert run(["ls", "--final", "--json", "--root", str(tree)]) == 0
    found: dict[tuple[int, bool], list[float]] = {}
    for row in json.loads(capsys.readouterr().out)["checkpoints"]:
        if row["gen_em"] is not None:
            found.setdefault((row["k"], row["layernorm"]), []).append(row["gen_em"])
    return found


def test_the_labs_table_is_that_of_a_few_lines_over_ls(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = by_hand(tree, capsys)
    assert run(["results", "--csv", "--root", str(tree)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == [
        "n_layers", "use_mlp", "use_layernorm", "length_mode", "training", "train_max_k",
        "mean_gen_em", "std_gen_em", "n_runs",
    ]  # fmt: skip
    measured = {(int(row["train_max_k"]), row["use_layernorm"] == "True"): row for row in rows if row["n_runs"] != "0"}
    assert measured.keys() == expected.keys()
    for key, values in expected.items():
        row = measured[key]
        assert float(row["mean_gen_em"]) == pytest.approx(mean(values), abs=1e-12)
        assert float(row["std_gen_em"]) == pytest.approx(pstdev(values), abs=1e-12)
        assert int(row["n_runs"]) == len(values)


def summaries(root: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    assert run(["results", "--csv", "--root", str(root)]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_keys_that_are_no_column_split_no_row_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (rate, mode) in enumerate([(1e-3, "mix"), (3e-3, "mix"), (1e-3, "curriculum")]):
        made = config(4, seed=number, learning_rate=rate, length_mode=mode, train_min_k=4, wandb_group=f"mine{number}")
        add_run(tmp_path, made, run_id=f"run{number}", metrics=gen_metrics(number / 4))
    assert run(["results", "--csv", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["length_mode"], row["training"], row["n_runs"], row["mean_gen_em"]) == ("fixed", "fixed", "3", "0.25")
    assert "differ in what is no column: learning_rate" in err
    (tmp_path / "ckptman.yaml").write_text("summary: {rate: learning_rate}\n")
    rows = summaries(tmp_path, capsys)
    assert [(row["rate"], row["n_runs"]) for row in rows] == [("0.001", "2"), ("0.003", "1")]
    assert list(rows[0])[:3] == ["n_layers", "use_mlp", "use_layernorm"]
    assert run(["results", "--csv", "--root", str(tmp_path)]) == 0
    assert "no column" not in capsys.readouterr().err, "the control"


def test_a_table_of_any_form_holds_the_same(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {}
    for name, sign in (("csv", ","), ("tsv", "\t")):
        assert run(["results", "--by", "n_layers,k", "--format", name, "--root", str(tree)]) == 0
        tables[name] = list(csv.reader(io.StringIO(capsys.readouterr().out), delimiter=sign))
    assert tables["csv"] == tables["tsv"]
    assert run(["results", "--by", "n_layers,k", "--threshold", "0.9", "--format", "json", "--root", str(tree)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]


def test_without_pyarrow_the_way_to_install_it_is_said(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run(["results", "--format", "parquet", "--root", str(tree)]) == 3
    assert "python -m pip install pyarrow" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["ls"], ["results"], ["results", "--threshold", "0.95"], ["results", "--versus", "layernorm"]]
)
def test_parquet_holds_what_csv_does(command: list[str], tree: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run([*command, "--format", "parquet", "--root", str(tree)]) == 0
    parquet = importlib.import_module("pyarrow.parquet")
    found = parquet.read_table(io.BytesIO(capfdbinary.readouterr().out))
    assert run([*command, "--format", "csv", "--root", str(tree)]) == 0
    rows = list(csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode())))
    assert [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in found.to_pylist()
    ] == rows
    assert len(rows) > 1
    assert {"int64", "string"} < {str(kind) for kind in found.schema.types}, "numbers stay numbers"


def test_the_deviation_is_the_samples_unless_asked_for(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = by_hand(tree, capsys)[8, True]
    first, last = (
        next(row for row in results(tree, population=chosen).rows if row.settings["group"] == "len_gen_k8")
        for chosen in (False, True)
    )
    assert first.deviation == pytest.approx(stdev(values))
    assert last.deviation == pytest.approx(pstdev(values))
    assert first.deviation != last.deviation


def test_a_run_that_was_not_measured_is_counted_apart(tree: Path) -> None:
    row = next(row for row in results(tree).rows if row.settings["group"] == "len_gen_no_ln_k16")
    assert (row.runs, row.unmeasured, row.mean, row.deviation) == (0, 1, None, None)


@pytest.mark.parametrize(
    ("least", "smallest"),
    [
        (0.94, {True: 8, False: None}),
        (0.955, {True: 16, False: None}),
        (0.6, {True: 8, False: 8}),
        (0.999, {True: None, False: None}),
    ],
)
def test_the_smallest_k_that_reaches_a_value(tree: Path, least: float, smallest: dict[bool, int | None]) -> None:
    found = {item.settings["layernorm"]: item.smallest for item in thresholds(results(tree), least, built_in())}
    assert found == smallest


@pytest.mark.parametrize("key", ["layernorm", "use_layernorm"])
def test_configurations_that_differ_in_one_key_stand_side_by_side(tree: Path, key: str) -> None:
    found = {item.settings["train_max_k"]: item.difference for item in differences(results(tree), key, built_in())}
    assert found[8] == pytest.approx(mean([0.90, 0.96, 0.99]) - mean([0.5, 0.7]))
    assert found[16] is None  # not measured without LayerNorm


def test_runs_are_grouped_by_any_key(tree: Path) -> None:
    rows = {row.settings["use_layernorm"]: row for row in results(tree, by=["use_layernorm"]).rows}
    assert {key: row.runs for key, row in rows.items()} == {True: 5, False: 2}


def test_a_metric_with_a_star_is_the_mean_of_all_that_match(tree: Path) -> None:
    star = {row.settings["group"]: row.mean for row in results(tree, metric="gen/K*/exact_match_acc").rows}
    plain = {row.settings["group"]: row.mean for row in results(tree).rows}
    assert {key: value and pytest.approx(value) for key, value in star.items()} == plain


@pytest.mark.parametrize("arguments", [{"metric": "gen/K99/none"}, {"by": ["no_such_key"]}])
def test_what_nothing_has_is_refused(tree: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        results(tree, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["table", "csv", "tsv", "md", "json"])
def test_each_format_has_every_configuration(tree: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["results", "--format", output, "--root", str(tree)]) == 0
    text = capsys.readouterr().out
    assert all(group in text for group in ("len_gen_k8", "len_gen_k16", "len_gen_no_ln_k8", "len_gen_no_ln_k16"))
    assert text.endswith("\n")


def test_a_facet_that_is_an_axis_too_is_one_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ckptman.yaml").write_text("extends: lab-later\n")
    rules = load_convention(tmp_path / "ckptman.yaml")
    for number, norm in enumerate((True, False)):
        made = config(16, train_min_k=16, test_min_k=16, test_max_k=16, vocab_n=64, n_embd=32, use_layernorm=norm,
                      wandb_group="len_gen_v64_e32_k16")  # fmt: skip
        metrics = {"test/K16/exact_match_acc": 0.5 + number / 4}
        add_run(tmp_path, made, run_id=f"{number}abcdefg", metrics=metrics, convention=rules)
    command = ["results", "--root", str(tmp_path), "--format", "json", "--versus"]
    assert run([*command, "use_layernorm"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["rows"]
    assert row["difference"] == -0.25
    assert "use_layernorm" not in row
    assert "no two rows" not in err
    assert run([*command, "use_mlp"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == []
    assert "no two rows differ in use_mlp alone" in err, "the control"


def two_vocabularies(root: Path) -> Convention:
    """Of each vocabulary a group with both values of LayerNorm: what tells the models apart is the group's name."""
    (root / "ckptman.yaml").write_text("extends: lab-later\n")
    rules = load_convention(root / "ckptman.yaml")
    for vocab, width, k in ((64, 32, 16), (128, 64, 16), (128, 64, 32)):
        for norm in (True, False):
            made = config(k, train_min_k=k, test_min_k=k, test_max_k=k, vocab_n=vocab, n_embd=width, use_layernorm=norm,
                          wandb_group=f"len_gen_v{vocab}_e{width}_k{k}")  # fmt: skip
            metrics = {f"test/K{k}/exact_match_acc": vocab / 256 + norm / 4 + k / 128}
            add_run(root, made, run_id=f"{vocab}{k}{norm:d}abcd", metrics=metrics, convention=rules)
    return rules


def test_models_that_a_groups_name_tells_apart_are_no_one_line(tmp_path: Path) -> None:
    rules = two_vocabularies(tmp_path)
    found = results(tmp_path, convention=rules)
    pairs = {
        (pair.settings["vocab_n"], pair.settings["train_max_k"]): pair
        for pair in differences(found, "layernorm", rules)
    }
    assert {key: pair.difference for key, pair in pairs.items()} == dict.fromkeys(
        ((64, 16), (128, 16), (128, 32)), 0.25
    )
    assert {key: pair.means[False].mean for key, pair in pairs.items()} == {
        (64, 16): 0.375, (128, 16): 0.625, (128, 32): 0.75}  # fmt: skip
    assert all("group" not in pair.settings for pair in pairs.values())
    reached = {(line.settings["vocab_n"], line.settings["layernorm"]): (line.smallest, line.measured)
               for line in thresholds(found, 0.7, rules)}  # fmt: skip
    assert reached == {(64, True): (None, (16,)), (64, False): (None, (16,)), (128, True): (16, (16, 32)),
                       (128, False): (32, (16, 32))}  # fmt: skip
    alone = results(tmp_path, convention=rules, where=[parse_where("vocab_n == 128")])
    assert all("vocab_n" not in line.settings for line in thresholds(alone, 0.7, rules)), "the control: one of them"


def test_groups_of_the_same_configurations_are_no_one_line(tmp_path: Path) -> None:
    (tmp_path / "ckptman.yaml").write_text("settings: {}\n")
    for number, group in enumerate(("again_k8", "len_gen_k8")):
        add_run(
            tmp_path, config(8, wandb_group=group), run_id=f"{number}abcdefg", metrics=gen_metrics(0.25 + number / 2)
        )
    found = results(tmp_path)
    lines = {line.settings.get("group"): line.smallest for line in thresholds(found, 0.5, built_in())}
    assert lines == {"again_k8": None, "len_gen_k8": 8}
    by = results(tmp_path, by=["group", "k"])
    assert {line.settings["group"] for line in thresholds(by, 0.5, built_in())} == {"again_k8", "len_gen_k8"}


def test_a_key_stands_once_above_its_values(tree: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["results", "--root", str(tree), "--versus", "use_layernorm"]
    heads = {}
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        assert run(command) == 0
        heads[width] = capsys.readouterr().out.splitlines()[:2]
    above, below = heads[80]
    assert above.split() == ["use_layernorm"]
    assert below.endswith(" false    true  difference")
    assert below.index("false") - 2 < above.index("use_layernorm") < below.index("difference")
    assert "use_layernorm false  use_layernorm true  difference" in heads[120][0], "the control"


def test_a_difference_says_of_how_many_runs_it_is(tree: Path, capsys: Capture) -> None:
    assert run(["results", "--root", str(tree), "--versus", "use_layernorm", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    first, second = json.loads(out)["rows"]
    assert [(row["use_layernorm false n"], row["use_layernorm true n"]) for row in (first, second)] == [(2, 3), (0, 2)]
    assert first["use_layernorm true deviation"] == pytest.approx(stdev([0.90, 0.96, 0.99]))
    assert "over 7 runs, 2 to 3 for each mean" in err
    assert "deviation of" not in err
    assert run(["results", "--root", str(tree)]) == 0
    assert "over 7 runs, deviation of the sample" in capsys.readouterr().err, "the control"


@pytest.mark.parametrize("columns", ["mean,deviation,n", "mean (all),dev. (all),n (all)"])
def test_people_are_told_no_spread_of_a_single_run(tmp_path: Path, capsys: Capture, columns: str) -> None:
    for number, seed in ((8, 1337), (8, 2337), (16, 1337)):
        value = 0.5 if seed == 1337 else 0.75
        add_run(tmp_path, config(number, seed=seed), run_id=f"r{number}{seed}", metrics=gen_metrics(value))
    shown = {}
    for form in ("md", "csv"):
        assert run(["results", str(tmp_path), "--population", "--all-runs", "--by", "k", "--format", form]) == 0
        lines = capsys.readouterr().out.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|" if form == "md" else ",")] for line in lines]
        at = [cells[0].index(column) for column in columns.split(",")]
        shown[form] = [[row[place] for place in at] for row in cells[-2:]]
    assert shown["md"] == [["0.6250", "0.1250", "2"], ["0.5000", "–", "1"]]
    assert shown["csv"] == [["0.625", "0.125", "2"], ["0.5", "0.0", "1"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "there is no checkpoint in {}"), (["--k", "8"], "none of 1 checkpoint fulfils every condition")],
)
def test_why_there_are_no_results_is_said(tmp_path: Path, capsys: Capture, arguments: list[str], told: str) -> None:
    if arguments:
        add_run(tmp_path, config(16), kinds=("Final",), metrics=gen_metrics(0.5))
    assert run(["results", "--root", str(tmp_path), *arguments]) == 0
    out, said = capsys.readouterr()
    assert (out, " ".join(said.split()).startswith(told.format(tmp_path))) == ("", True), said
    add_run(tmp_path, config(8), run_id="other", metrics=gen_metrics(0.5))
    assert run(["results", "--root", str(tmp_path), *arguments]) == 0
    out, said = capsys.readouterr()
    assert (out != "", said.startswith("gen_em over ")) == (True, True)
