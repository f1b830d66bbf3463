"""The explorer as a file: what stands in it, that it is kept up to date, and what it leaves out for want of room."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ckptman.checks.validation import validate
from ckptman.documents.explorer import EXPLORER, page, same_content
from ckptman.documents.explorer.columns import Room, brief, column, fitting
from ckptman.documents.explorer.curves import curves
from ckptman.documents.explorer.dataset import SIZE, dataset
from ckptman.documents.learning_curves import Curves
from ckptman.documents.reporting import State, report, stale
from ckptman.ingestion import ingest
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text.errors import UsageError
from ckptman.tree import history
from ckptman.tree.findings import Finding, finding
from ckptman.tree.statistics import TreeStatistics, count_tree
from tests.helpers.many_runs import many_runs
from tests.helpers.raw import config, gen_metrics, snapshot, write_run
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.trees import edit_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    add_run(tree, config(), metrics=gen_metrics(0.5))
    return tree


def data_of(text: str) -> Any:
    packed = re.findall(r'id="data">([^<]*)<', text)
    assert len(packed) == 1
    return json.loads(zlib.decompress(base64.b64decode(packed[0])))


def values(content: dict[str, Any], number: int) -> list[Any]:
    """The values of a column, as the page reads them."""
    if "all" in content:
        return [content["all"]] * number
    return list(content["each"]) if "each" in content else [content["pool"][at] for at in content["at"]]


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    number = document["runs"]["count"]
    place = {name: values(content, number) for name, content in document["runs"]["place"].items()}
    return [dict(zip(place, row, strict=True)) for row in zip(*place.values(), strict=True)]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_policy_admits_this_style_and_program_alone(root: Path) -> None:
    report(root, html="")
    text = (root / EXPLORER).read_text()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert re.findall(r"https?://", text.replace("http://www.w3.org/2000/svg", "")) == []


@pytest.mark.parametrize("figures", [True, False])
def test_the_readme_leads_to_it_where_it_is(root: Path, figures: bool) -> None:
    link = f"]({EXPLORER})"
    report(root, figures=figures)
    assert link not in (root / "README.md").read_text()
    report(root, html="", figures=figures)
    assert (root / "README.md").read_text().count(link) == 1
    assert stale(root, built_in()) == []
    again = report(root, figures=figures)
    assert {item.state for item in again.documents} == {State.UNCHANGED}
    (root / EXPLORER).unlink()
    assert stale(root, built_in()) == ["README.md"]
    report(root, figures=figures)
    assert link not in (root / "README.md").read_text()


def test_a_tree_gives_the_same_page_wherever_it_lies(tmp_path: Path) -> None:
    for place in ("a", "b/c"):
        for seed in (1337, 2337):
            add_run(tmp_path / place, config(seed=seed), run_id=f"r{seed}", metrics=gen_metrics(0.25))
        (tmp_path / place / "stray").mkdir()
        (tmp_path / place / "stray" / "x").write_text("x")
        report(tmp_path / place, html="", find=lambda root: validate(root).findings)
    assert (tmp_path / "a" / EXPLORER).read_bytes() == (tmp_path / "b/c" / EXPLORER).read_bytes()


def test_a_page_is_written_when_it_is_asked_for_and_kept_up_to_date_from_then_on(root: Path) -> None:
    report(root)
    assert not (root / EXPLORER).exists()
    assert report(root, html="", check=True).stale == (EXPLORER,)
    assert not (root / "report").exists()
    assert report(root, html="").documents[-1].state is State.WRITTEN
    before = snapshot(root)
    assert report(root).documents[-1].state is State.UNCHANGED
    assert snapshot(root) == before
    add_run(root, config(seed=2337), run_id="other")
    assert EXPLORER in report(root, check=True).stale
    assert report(root).documents[-1].state is State.WRITTEN
    assert report(root, check=True).stale == ()


def test_a_page_anywhere_else_leads_back_to_its_tree(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "pages" / "x.html"
    with pytest.raises(UsageError) as caught:
        report(root, html=file)
    assert caught.value.code == "no-folder"
    assert not (root / "README.md").exists()
    file.parent.mkdir()
    assert report(root, html=file).documents[-1].name == str(file)
    assert data_of(file.read_text())["up"] == "../tree"
    assert not (root / "report").exists()


def test_a_file_that_ckptman_did_not_write_is_kept(root: Path) -> None:
    (root / "report").mkdir()
    (root / EXPLORER).write_text("mine")
    written = report(root, html="").documents[-1]
    assert written.kept_as == "explorer.previous.html"
    assert (root / "report" / "explorer.previous.html").read_text() == "mine"
    assert written.diff() == ""


def test_a_folder_that_cannot_be_made_refuses_the_page_and_nothing_else(root: Path) -> None:
    (root / "report").write_text("a file of somebody")
    result = report(root, html="")
    assert [document.state for document in result.documents] == [State.WRITTEN, State.WRITTEN, State.REFUSED]
    assert report(root, html="", check=True).stale == (EXPLORER,)
    assert (root / "report").read_text() == "a file of somebody"


def test_what_report_draws_is_no_stray_and_anything_else_is(root: Path) -> None:
    report(root, html="")
    (root / "reports").mkdir()
    (root / "reports" / "explorer.html").write_text("x")
    found = [item.path for item in validate(root).findings if item.code.startswith("stray")]
    assert found == ["reports"]


def test_a_page_compressed_otherwise_is_the_same_and_any_other_is_not(root: Path) -> None:
    rules = load_convention()
    text = page(count_tree(root, rules, whole=True), (), Curves(root, rules), root / EXPLORER)
    packed = re.findall(r'id="data">([^<]*)<', text)[0]
    raw = zlib.decompress(base64.b64decode(packed))
    other = text.replace(packed, base64.b64encode(zlib.compress(raw, 1)).decode())
    assert other != text
    assert same_content(other, text)
    changed = base64.b64encode(zlib.compress(raw.replace(b'"complete"', b'"completx"'), 9)).decode()
    assert not same_content(text.replace(packed, changed), text)
    assert not same_content(text.replace("Checkpoints", "Others"), text)
    assert not same_content(text.replace(packed, "AAAA"), text)


# --- the data ---------------------------------------------------------------------------------------------------------


def shown(tree: TreeStatistics, found: Sequence[Finding] = (), *, size: int = SIZE) -> dict[str, Any]:
    return dataset(tree, found, Curves(tree.inventory.scan.root, tree.convention), size=size)


def test_every_run_that_the_grid_expects_has_a_row(root: Path) -> None:
    add_run(root, config(seed=2337), run_id="half", kinds=("Checkpoint",))
    add_overwritten(root, config(seed=3337), metrics=gen_metrics(0.25))
    document = shown(count_tree(root, load_convention(), whole=True))
    found = rows(document)
    states = [row["state"] for row in found]
    assert len(found) == document["counts"]["expected"] == 504
    assert {state: states.count(state) for state in set(states)} == {
        "complete": 1, "on the way": 1, "overwritten": 1, "missing": 501,
    }  # fmt: skip
    mine = {row["seed"]: row for row in found if row["state"] != "missing"}
    assert (mine[1337]["generalization"], mine[2337]["lacks"], mine[3337]["run_id"]) == (0.5, "Final", "lost3337")
    assert len({row["cell"] for row in mine.values()}) == 1
    assert len(document["sections"]) == 4


def test_a_run_is_refused_where_the_documents_count_it_so(tmp_path: Path) -> None:
    source, tree = tmp_path / "raw", tmp_path / "tree"
    for number, seed in enumerate((1337, 2337)):
        [file] = write_run(source / "len_gen_k8" / "task_0006", config(8, n_layers=1, use_mlp=False, seed=seed),
                           run_id=f"run{seed}", started=1e9 + 1000 * number, files=("Final",))  # fmt: skip
    file.with_name("notes.pt").write_text("no checkpoint")  # of no known run, though its folder has the task's number
    for content, refused, overwritten in ((None, 0, 1), (b"", 3, 0)):
        if content is not None:
            file.write_bytes(content)
        ingest(source, tree, settle=0)
        document = shown(count_tree(tree, load_convention(), whole=True))
        states = [row["state"] for row in rows(document)]
        assert (document["counts"]["refused"], states.count("refused")) == (refused, refused)
        assert (document["counts"]["overwritten"], states.count("overwritten")) == (overwritten, overwritten)
        tree = tmp_path / "other"


def test_what_no_grid_describes_has_a_place_too(root: Path) -> None:
    strange = add_run(root, config(8, n_layers=2), run_id="odd")
    edit_json(strange / "run.json", lambda doc: doc.update(group="mine"))
    (strange / "unknown.pt").write_bytes(b"x")
    document = shown(count_tree(root, load_convention(), whole=True))
    assert document["sections"][-1]["title"] == "With LayerNorm, dynamic training, outside of the grid"
    last = rows(document)[-1]
    assert (last["state"], last["cell"], last["folder"]) == ("unreadable", -1, str(strange.relative_to(root)))


def test_files_that_are_gone_stand_beside_those_that_are_there(root: Path) -> None:
    next(root.rglob("Final*")).unlink()
    document = shown(count_tree(root, load_convention(), whole=True))
    files = document["files"]
    assert values(files["columns"]["there"], files["count"]) == [True, False]


def test_a_finding_is_of_one_of_the_configurations_that_share_a_folder(tmp_path: Path) -> None:
    merged = load_convention(numbering="merged")
    for mlp in (False, True):
        add_run(tmp_path, config(use_mlp=mlp, seed=1337), run_id=f"run{mlp}", convention=merged)
    add_run(tmp_path, config(use_mlp=True, seed=2337), run_id="third", convention=merged)
    found = validate(tmp_path, convention=merged).findings
    document = shown(count_tree(tmp_path, merged, whole=True), found)
    columns = document["cells"]["columns"]
    folders = values(columns["folder"], document["cells"]["count"])
    placed = {item[2]: item[4:] for item in document["findings"] if item[0] == "missing-seed"}
    assert len(placed) == 2
    at = [index for (index,) in placed.values()]
    assert len(set(at)) == 2
    assert len({folders[index] for index in at}) == 1, "the control: their path is the same"
    for message, (index,) in placed.items():
        here = {row["state"] for row in rows(document) if row["cell"] == index and row["seed"] == 2337}
        assert here == ({"missing"} if "2337, 3337" in message else {"complete"})
    others = [item for item in document["findings"] if item[0] == "missing-task"]
    assert others
    assert all(len(item) == 4 for item in others)


def test_findings_beyond_counting_are_left_out(root: Path) -> None:
    found = [finding("missing-seed", f"some/{number}", "it lacks seeds") for number in range(20_003)]
    document = shown(count_tree(root, load_convention(), whole=True), found)
    assert (len(document["findings"]), document["left_out"]) == (20_000, ["3 findings"])


def test_a_large_tree_leaves_out_the_least_and_says_so() -> None:
    tree = many_runs(300)
    whole = shown(tree)
    assert whole["left_out"] == []
    tight = shown(tree, size=40_000)
    size = len(zlib.compress(json.dumps(tight).encode(), 9))
    assert size < 42_000
    assert tight["left_out"][0] == "all but the first 16 digits of each SHA-256"
    assert tight["left_out"][-1] == "metric test/K8/token_acc"
    assert "gen/K17/exact_match_acc" in tight["runs"]["metrics"]
    assert rows(tight) == rows(whole)


def test_curves_are_means_over_lengths_in_as_many_points_as_are_drawn(tmp_path: Path) -> None:
    rows = {step: {"gen/K17/exact_match_acc": 0.5, "gen/K18/exact_match_acc": step / 1000, "train/loss": 2.0,
                   "iters_done": step} for step in range(0, 1001, 2)}  # fmt: skip
    rows[1000]["train/loss"] = float("nan")
    del rows[998]["gen/K18/exact_match_acc"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / history.HISTORY_FILE).write_bytes(history.dump(history.of_rows(rows)))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / history.HISTORY_FILE).write_bytes(b"no curve")
    folders = [None, PurePosixPath("run"), PurePosixPath("bad"), PurePosixPath("none")]
    source = Curves(tmp_path, load_convention())
    found, left_out = curves(source, folders, load_convention(), Room(100_000))
    assert (left_out, found["at"]) == ([], [None, 0, None, None])
    (steps,) = found["steps"]
    assert len(steps) <= 160
    assert steps[-1] == 1000
    assert list(found["values"]) == ["gen/K*/exact_match_acc", "train/loss"]
    drawn = dict(zip(steps, found["values"]["gen/K*/exact_match_acc"][1], strict=True))
    assert drawn[1000] == 0.75
    assert found["values"]["train/loss"][1][-2:] == [2.0, None]
    assert curves(source, folders, load_convention(), Room(0)) == ({}, list(found["values"]))
    assert curves(source, [PurePosixPath("run")] * 5001, load_convention(), Room(100)) == ({}, ["all"])


@pytest.mark.parametrize(
    "some",
    [[1, 1, 1], [True, 1, 1.0, True], ["a", None, "a", "a", "b", "a", "a", "a"], [1, 2, 3], [None], [0.5, None, "NaN"]],
)
def test_a_column_gives_back_its_values(some: list[Any]) -> None:
    back = values(json.loads(json.dumps(column(some))), len(some))
    assert [(type(value), value) for value in back] == [(type(value), value) for value in some]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.123456789, 0.12346), (1.0, 1), (1e-6, 1e-6), (0.00123456, 0.001235), (7, 7), (float("nan"), "NaN"),
     ("Infinity", "Infinity"), (True, None), ("word", None), (None, None), (123456.789, 123456.789)],
)  # fmt: skip
def test_measured_values_are_kept_to_what_is_shown(value: object, expected: object) -> None:
    assert brief(value) == expected


def test_what_does_not_fit_takes_no_room() -> None:
    room = Room(100)
    kept, left_out = fitting([("a", {"each": list(range(1000))}), ("b", {"all": 1})], room)
    assert (list(kept), left_out) == (["b"], ["a"])


def test_an_explorer_that_says_what_the_tree_no_longer_holds_is_stale(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    for seed in (1337, 2337):
        add_run(root, config(8, seed=seed, wandb_group="len_gen_k8"), run_id=f"r{seed}")
    report(root)
    assert stale(root, built_in()) == [], "a tree without an explorer is not the worse for it"
    report(root, html="")
    assert stale(root, built_in()) == []
    add_run(root, config(8, seed=3337, wandb_group="len_gen_k8"), run_id="r3337")
    report(root, html=tmp_path / "elsewhere.html")
    assert EXPLORER in stale(root, built_in())
    report(root, html="")
    assert stale(root, built_in()) == []
    (root / EXPLORER).write_text("somebody's page")
    assert stale(root, built_in()) == [EXPLORER]


def test_another_experiments_metric_is_called_as_its_convention_calls_it(tmp_path: Path) -> None:
    for name, expected in (("lab-later", ("Exact match, each run's own lengths", "Exact match")),
                           ("", ("Exact match, K = 17–32", "Generalization"))):  # fmt: skip
        (tmp_path / "ckptman.yaml").write_text(f"extends: {name}\n" if name else "")
        tree = count_tree(tmp_path, load_convention(tmp_path / "ckptman.yaml"), whole=True)
        words = data_of(page(tree, (), Curves(tmp_path, tree.convention), tmp_path / "explorer.html"))
        assert (words["metric"], words["measured"]) == expected
