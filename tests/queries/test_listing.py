"""`list_checkpoints`: what is listed, by which conditions, in which order; and what is left out is told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.queries.conditions import equal, parse_where
from ckptman.queries.listing import Listing, Summary, json_lines, known_keys, list_checkpoints
from ckptman.queries.over_seeds import results
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import UsageError
from tests.helpers.listed import BEST, FIXED, K8, LARGE, NO_LN, RUNS, SECOND, make_listed_tree
from tests.helpers.raw import config, name_of
from tests.helpers.sharing import shared_out
from tests.helpers.trees import copy, drop, edit_entry, edit_json, edit_record, make_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_listed_tree(tmp_path_factory.mktemp("listing"))


def folders(listing: Listing) -> list[str]:
    """The run folders of what is listed, each once."""
    return list(dict.fromkeys(item.row.path.rpartition("/")[0] for item in listing.checkpoints))


def codes(listing: Listing) -> list[tuple[str, str]]:
    return [(item.code, item.path) for item in listing.not_listed]


# --- what is listed ---------------------------------------------------------------------------------------------------


def test_every_checkpoint_is_listed_with_what_its_run_is(tree: Path) -> None:
    listing = list_checkpoints(tree)
    assert listing.root == tree
    assert listing.total == len(listing.checkpoints) == 2 * len(RUNS)
    assert {item.row.path for item in listing.checkpoints} == {str(p.relative_to(tree)) for p in tree.rglob("*.pt")}
    assert listing.not_listed == ()
    assert listing.complete
    final = next(item for item in listing.checkpoints if item.row.path == f"{BEST}/{name_of(config(8))}")
    assert (final.final, final.k, final.row.step, final.row.seed, final.row.task) == (True, 8, 40000, 1337, 6)
    assert final.config == config(8).to_dict()
    assert final.metrics["train/loss"] == 1.5
    assert final.row.size == (tree / final.row.path).stat().st_size
    assert final.generalization is not None
    assert final.generalization.value == pytest.approx(0.98)
    assert final.generalization.source == "W&B"


def test_the_json_holds_the_rows_the_configuration_and_the_metrics(tree: Path) -> None:
    document = list_checkpoints(tree).to_json()
    assert document == json.loads(json.dumps(document, allow_nan=False))
    assert set(document) == {"schema_version", "root", "checkpoints", "not_listed"}
    assert document["root"] == str(tree)
    assert streamed(tree) == document
    promised = {
        "source", "path", "sha256", "size", "run_id", "group", "layernorm", "regime", "task", "source_task", "seed",
        "step", "kind", "config", "metrics",
    }  # fmt: skip
    for item in document["checkpoints"]:
        assert promised <= set(item)
    by_run = {item["path"].rpartition("/")[0]: item for item in document["checkpoints"]}
    assert {run: item["gen_em"] and round(item["gen_em"], 6) for run, item in by_run.items()} == RUNS
    assert by_run[NO_LN]["gen_em_source"] is None
    assert by_run[NO_LN]["layernorm"] is False


def test_the_order_is_that_of_the_folders_with_numbers_by_size(tmp_path: Path) -> None:
    groups = [f"len_gen_k{k}" for k in (10, 4, 16, 8)]
    root = make_tree(tmp_path, [config(k) for k in (10, 4, 16, 8)])
    listed = list(dict.fromkeys(item.row.group for item in list_checkpoints(root).checkpoints))
    assert listed == ["len_gen_k4", "len_gen_k8", "len_gen_k10", "len_gen_k16"]
    assert sorted(groups) != listed


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_layers == 1", {BEST, SECOND, FIXED, NO_LN}),
        ("gen_em >= 0.97", {BEST, FIXED}),
        ("gen_em < 0.97", {SECOND, LARGE}),
        ("gen_em is missing", {NO_LN}),
        ("gen/K17/exact_match_acc >= 97%", {BEST, FIXED}),
        ("train/loss < 1", {NO_LN}),
        ("lr is missing", set(RUNS)),
        ("group == len_gen_k8", {BEST, SECOND, LARGE}),
        ("regime == fixed", {FIXED}),
        ("not layernorm", {NO_LN}),
        ("k == 8 and seed == 1337", {BEST, LARGE}),
        ("k == 8 or seed == 3337", {BEST, SECOND, LARGE, NO_LN}),
        ("run_id == run3", {FIXED}),
        ("source_task == 0", set(RUNS)),
        ("task == 7", {NO_LN}),
    ],
)
def test_conditions_choose(tree: Path, text: str, expected: set[str]) -> None:
    listing = list_checkpoints(tree, where=[parse_where(text)])
    assert set(folders(listing)) == expected
    assert listing.total == 2 * len(RUNS)
    assert listing.unmatched == ()


@pytest.mark.parametrize(
    ("text", "count"), [("kind == Final", 5), ("final", 5), ("not final", 5), ("step == 20001", 5), ("size > 1e9", 0)]
)
def test_conditions_choose_single_checkpoints(tree: Path, text: str, count: int) -> None:
    assert len(list_checkpoints(tree, where=[parse_where(text)]).checkpoints) == count


def test_conditions_and_metrics_may_be_given_as_text(tree: Path) -> None:
    asked = parse_where("k == 8"), parse_where("final")
    expected = list_checkpoints(tree, where=asked, metrics=["gen_em"])
    assert expected.checkpoints
    assert list_checkpoints(tree, where=["k == 8", asked[1]], metrics="gen_em") == expected
    assert list_checkpoints(tree, where="k == 8 and final", metrics="gen_em").checkpoints == expected.checkpoints
    with pytest.raises(UsageError, match="k = 8") as caught:
        list_checkpoints(tree, where="k = 8")
    assert caught.value.code == "bad-where"
    rows = results(tree, where=[parse_where("k == 8")], by=["seed"]).rows
    assert len(rows) == 2
    assert results(tree, where="k == 8", by="seed").rows == rows


def test_all_conditions_must_hold(tree: Path) -> None:
    one, other = equal("seed", 1337), equal("k", 8)
    assert set(folders(list_checkpoints(tree, where=[one]))) == {BEST, LARGE, FIXED}
    assert set(folders(list_checkpoints(tree, where=[other]))) == {BEST, SECOND, LARGE}
    assert set(folders(list_checkpoints(tree, where=[one, other]))) == {BEST, LARGE}


def test_the_checkpoints_own_values_come_before_the_configurations(tree: Path, tmp_path: Path) -> None:
    root = copy(tree, tmp_path)
    edit_record(root / BEST, metrics={"seed": 5, "n_layers": 9})
    assert set(folders(list_checkpoints(root, where=[parse_where("seed == 5 or n_layers == 9")]))) == set()
    assert BEST in folders(list_checkpoints(root, where=[parse_where("seed == 1337 and n_layers == 1")]))


def test_a_condition_that_nothing_fulfils_is_explained_by_what_there_is(tree: Path) -> None:
    listing = list_checkpoints(tree, where=[equal("n_layers", 3), equal("seed", 1337), equal("length_mode", "mixed")])
    assert listing.checkpoints == ()
    assert [(item.where.text, item.there_are) for item in listing.unmatched] == [
        ("n_layers == 3", ("n_layers is 1, 2",)),
        ("length_mode == mixed", ("length_mode is curriculum, mix",)),
    ]


def test_many_values_are_explained_by_their_range(tmp_path: Path) -> None:
    root = make_tree(tmp_path, [config(4, seed=seed) for seed in range(9)])
    (unmatched,) = list_checkpoints(root, where=[equal("seed", 100)]).unmatched
    assert unmatched.there_are == ("seed goes from 0 to 8",)


@pytest.mark.parametrize("text", ["gen_emm > 0.5", "K17 > 0", "'' == 1"])
def test_an_unknown_key_is_refused(tree: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        list_checkpoints(tree, where=[parse_where(text)])
    assert caught.value.code == "unknown-key"
    with pytest.raises(UsageError) as caught:
        list_checkpoints(tree, sort=parse_where(text).keys[0])
    assert caught.value.code == "unknown-key"


def test_known_keys_may_be_asked_for_in_an_empty_tree(tmp_path: Path) -> None:
    known = known_keys(built_in())
    assert {
        "gen_em",
        "k",
        "final",
        "norm_type",
        "n_layers",
        "gen/K17/exact_match_acc",
        "gen/K32/exact_match_acc",
    } <= known
    assert "gen/K33/exact_match_acc" not in known
    for key in sorted(known):
        assert list_checkpoints(tmp_path, where=[parse_where(f"{key} is missing")], sort=key).checkpoints == ()


def test_a_tree_that_is_not_there_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        list_checkpoints(tmp_path / "nowhere")
    assert caught.value.code == "no-tree"


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("gen_em", [LARGE, SECOND, FIXED, BEST, NO_LN]),
        ("-gen_em", [BEST, FIXED, SECOND, LARGE, NO_LN]),
        ("run_id", [BEST, SECOND, LARGE, FIXED, NO_LN]),
        ("-run_id", [NO_LN, FIXED, LARGE, SECOND, BEST]),
        ("k", [FIXED, LARGE, BEST, SECOND, NO_LN]),
    ],
)
def test_sorted_by_a_key_with_what_is_not_measured_last(tree: Path, sort: str, expected: list[str]) -> None:
    assert folders(list_checkpoints(tree, where=[equal("final", True)], sort=sort)) == expected


def test_values_of_several_kinds_have_an_order(tree: Path, tmp_path: Path) -> None:
    root = copy(tree, tmp_path)
    for run, value in zip(RUNS, ["text", 3, "Infinity", math.nan, [1, 2]], strict=True):
        edit_json(root / run / "run.json", lambda doc, value=value: doc["metrics"].update(x=value))  # type: ignore[misc]
    assert folders(list_checkpoints(root, sort="x")) == [SECOND, LARGE, BEST, NO_LN, FIXED]
    assert folders(list_checkpoints(root, sort="-x"))[-1] == FIXED


# --- what is left out -------------------------------------------------------------------------------------------------

FINAL = name_of(config(8))


def _without_record(root: Path) -> None:
    (root / BEST / "run.json").unlink()


def _broken_record(root: Path) -> None:
    (root / BEST / "run.json").write_text("{")


def _file_gone(root: Path) -> None:
    (root / BEST / FINAL).unlink()


def _file_not_recorded(root: Path) -> None:
    data = (root / BEST / FINAL).read_bytes()
    drop(root / BEST, FINAL)
    (root / BEST / FINAL).write_bytes(data)


def _loose_file(root: Path) -> None:
    (root / K8 / "task_0006" / FINAL).write_bytes(b"")


@pytest.mark.parametrize(
    ("plant", "code", "path", "listed", "complete"),
    [
        (_without_record, "no-record", BEST, 8, True),
        (_broken_record, "bad-record", BEST, 8, False),
        (_file_gone, "missing-file", f"{BEST}/{FINAL}", 9, True),
        (_file_not_recorded, "unrecorded-file", f"{BEST}/{FINAL}", 9, True),
        (_loose_file, "no-record", f"{K8}/task_0006/{FINAL}", 10, True),
    ],
)
def test_what_is_not_listed_is_told(
    tree: Path, tmp_path: Path, plant: Callable[[Path], None], code: str, path: str, listed: int, complete: bool
) -> None:
    root = copy(tree, tmp_path)
    assert codes(list_checkpoints(root)) == []
    plant(root)
    listing = list_checkpoints(root)
    assert codes(listing) == [(code, path)]
    assert len(listing.checkpoints) == listed
    assert listing.complete is complete
    assert listing.to_json()["not_listed"][0]["code"] == code
    assert listing.not_listed[0].fix
    assert streamed(root) == listing.to_json()


def streamed(root: Path) -> Any:
    summaries = Summary(root), Summary(root)
    text = b"".join(json_lines(root, built_in(), summaries[0]))
    with shared_out() as told:
        assert b"".join(json_lines(root, built_in(), summaries[1])) == text
    assert told or not list(root.rglob("run.json"))
    assert summaries[0] == summaries[1]
    return json.loads(text)


def test_links_that_lead_nowhere_are_not_listed(tree: Path, tmp_path: Path) -> None:
    root = copy(tree, tmp_path)
    moved = (root / BEST / FINAL).rename(tmp_path / "elsewhere")
    (root / BEST / FINAL).symlink_to(moved)
    (root / "loose.pt").symlink_to(moved)
    listing = list_checkpoints(root)  # the control: they lead somewhere
    assert (codes(listing), listing.total) == ([("no-record", "loose.pt")], 10)
    moved.unlink()
    listing = list_checkpoints(root)
    assert sorted(codes(listing)) == [("dangling-link", "loose.pt"), ("dangling-link", f"{BEST}/{FINAL}")]
    assert {item.message for item in listing.not_listed} == {"it leads nowhere"}
    assert (len(listing.checkpoints), listing.total, listing.complete) == (9, 9, True)
    moved.mkdir()
    assert {item.message for item in list_checkpoints(root).not_listed} == {"it leads to no file"}


def test_temporary_files_and_other_files_are_no_checkpoints(tree: Path, tmp_path: Path) -> None:
    root = copy(tree, tmp_path)
    (root / "README.md").write_text("")
    (root / BEST / "notes.txt").write_text("")
    (root / BEST / "wandb").mkdir()
    (root / BEST / "wandb" / "artifact.pt").write_text("")
    assert codes(list_checkpoints(root)) == []
    assert len(list_checkpoints(root).checkpoints) == 10


# --- values from elsewhere --------------------------------------------------------------------------------------------


def test_hostile_values_come_through_exactly(tree: Path, tmp_path: Path) -> None:
    root = copy(tree, tmp_path)
    odd = "[red]\x1b[31m\n\udcff"

    def change(document: dict[str, Any]) -> None:
        document["group"] = odd
        document["config"][odd] = odd

    edit_json(root / BEST / "run.json", change)
    (listed, _) = list_checkpoints(root, where=[parse_where(f"'{odd}' == '{odd}'")]).checkpoints
    assert listed.row.group == odd
    again = json.loads(json.dumps(listed.to_json()))
    assert again["config"][odd] == odd
    assert again in streamed(root)["checkpoints"]


def test_an_entry_of_an_unknown_kind_is_not_final(tree: Path, tmp_path: Path) -> None:
    root = copy(tree, tmp_path)
    assert len(list_checkpoints(root, where=[equal("final", True)]).checkpoints) == 5
    edit_entry(root / BEST, FINAL, kind="Ultimate")
    assert len(list_checkpoints(root, where=[equal("final", True)]).checkpoints) == 4
    assert len(list_checkpoints(root, where=[equal("kind", "Ultimate")]).checkpoints) == 1
