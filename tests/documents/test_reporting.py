"""`report`: documents written, kept, checked; nobody's text lost."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptman.checks.validation import validate
from ckptman.documents.reporting import ReportResult, State, report, report_convention, stale
from ckptman.documents.task_mapping import task_mapping_text
from ckptman.fs import locks
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text.errors import MachineError, UsageError
from tests.helpers.raw import config, gen_metrics, name_of, snapshot, write_checkpoint, write_run
from tests.helpers.recorded import add_overwritten, add_run

BOTH = ["TASK_MAPPING.md", "README.md"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    add_run(tree, config(), metrics=gen_metrics(0.5))
    return tree


def states(result: ReportResult) -> list[str]:
    return [document.state.value for document in result.documents]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_both_documents_are_written_once(root: Path) -> None:
    first = report(root)
    assert [document.name for document in first.documents] == BOTH
    assert states(first) == ["written", "written"]
    before = snapshot(root)
    times = {name: (root / name).stat().st_mtime_ns for name in BOTH}
    assert states(report(root)) == ["unchanged", "unchanged"]
    assert snapshot(root) == before
    assert {name: (root / name).stat().st_mtime_ns for name in BOTH} == times


def test_nothing_but_the_documents_is_touched(root: Path) -> None:
    before = snapshot(root)
    report(root)
    after = snapshot(root)
    assert after.keys() - before.keys() == set(BOTH)
    assert {name: after[name] for name in before} == before


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    for place in ("a", "b/c"):
        for seed in (1337, 2337):
            add_run(tmp_path / place, config(seed=seed), run_id=f"r{seed}", metrics=gen_metrics(0.25))
        report(tmp_path / place)
    for name in BOTH:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b/c" / name).read_bytes()


def test_a_tree_from_ingest_has_documents(tmp_path: Path) -> None:
    write_run(tmp_path / "raw" / "len_gen_k8" / "task_0006", config(), run_id="abcd1234")
    ingest(tmp_path / "raw", tmp_path / "tree")
    result = report(tmp_path / "tree")
    assert result.statistics is not None
    assert result.to_json()["statistics"]["files"] == 2
    assert stale(tmp_path / "tree", built_in()) == []


def test_there_must_be_a_tree(tmp_path: Path) -> None:
    for check in (True, False):
        with pytest.raises(UsageError) as caught:
            report(tmp_path / "none", check=check)
        assert caught.value.code == "no-tree"
    assert not (tmp_path / "none").exists()


def test_a_tree_that_is_being_written_to_is_left_alone(root: Path) -> None:
    with locks.lock_tree(root), pytest.raises(MachineError) as caught:
        report(root)
    assert caught.value.code == "tree-busy"
    assert not (root / "README.md").exists()


# --- what is no tree --------------------------------------------------------------------------------------------------


def _raw_outputs(folder: Path) -> Path:
    write_run(folder / "len_gen_k8" / "task_0006", config(), run_id="abcd1234")
    return folder


def _part_of_a_tree(folder: Path) -> Path:
    add_run(folder, config())
    return folder / "with_layernorm"


def _above_a_tree(folder: Path) -> Path:
    add_run(folder / "checkpoints", config())
    return folder


def _project(folder: Path) -> Path:
    """A tree, raw outputs, and documents of people."""
    (_raw_outputs(folder / "grid_outputs") / "README.md").write_text("# Raw\n")
    for name in (*BOTH, "ckptman.yaml"):
        (folder / name).write_text("")
    return _above_a_tree(folder)


def _unsorted_files(folder: Path) -> Path:
    write_checkpoint(folder / "downloads" / "best.pt", config())
    (folder / "other.pt").write_bytes(b"x")
    return folder


def _home(folder: Path) -> Path:
    (folder / "Documents").mkdir()
    return folder


def _with_rules_and_more(folder: Path) -> Path:
    (folder / "ckptman.yaml").write_text("")
    (folder / "code.py").write_text("")
    return folder


def _with_a_generated_document_and_a_readme_of_people(folder: Path) -> Path:
    report_convention(folder / "TASK_MAPPING.md")
    (folder / "README.md").write_text("# Project\n")
    return folder


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (_raw_outputs, "wrong-root"),
        (_part_of_a_tree, "wrong-root"),
        (_above_a_tree, "wrong-root"),
        (_project, "wrong-root"),
        (_unsorted_files, "wrong-root"),
        (_home, "no-tree"),
        (_with_rules_and_more, "no-tree"),
        (_with_a_generated_document_and_a_readme_of_people, "no-tree"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_what_is_no_tree_is_left_as_it_is(tmp_path: Path, make: Callable[[Path], Path], code: str, check: bool) -> None:
    folder = make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        report(folder, check=check)
    assert caught.value.code == code
    assert caught.value.fix
    assert snapshot(tmp_path) == before
    add_run(folder, config(seed=2337))  # the control: now it is the root of a tree
    assert "refused" not in states(report(folder, check=check))


@pytest.mark.parametrize("make", [_raw_outputs, _part_of_a_tree, _above_a_tree])
def test_validate_calls_the_same_roots_wrong(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    (told,) = (item for item in validate(folder).findings if item.code == "wrong-root")
    with pytest.raises(UsageError, match=re.escape(told.message)):
        report(folder)


def test_a_tree_without_runs_may_be_reported_on(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    ingest(tmp_path / "raw", tmp_path / "tree")
    assert states(report(tmp_path / "tree")) == ["written", "written"]
    assert states(report(tmp_path / "tree")) == ["unchanged", "unchanged"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "ckptman.yaml").write_text("")
    assert states(report(tmp_path / "new")) == ["written", "written"]


def test_a_tree_whose_runs_are_gone_keeps_its_documents_up_to_date(root: Path) -> None:
    (root / "README.md").write_text("# Mine\n")
    report(root)
    shutil.rmtree(root / "with_layernorm")
    assert states(report(root)) == ["written", "written"]
    assert (root / "README.md").read_text().startswith("# Mine\n")


def test_a_tree_of_another_numbering_is_left_as_it_is(tmp_path: Path) -> None:
    merged = load_convention(numbering="merged")
    add_run(tmp_path, config(), convention=merged)
    before = snapshot(tmp_path)
    for check in (False, True):
        with pytest.raises(UsageError) as caught:
            report(tmp_path, check=check)
        assert caught.value.code == "other-numbering"
        assert "1 run would be misplaced by the 'full' numbering" in caught.value.message
    assert snapshot(tmp_path) == before
    assert states(report(tmp_path, convention=merged)) == ["written", "written"]
    (tmp_path / "ckptman.yaml").write_text("numbering: merged\n")
    assert states(report(tmp_path)) == ["unchanged", "written"]  # the README draws the new file


def test_a_hand_made_tree_of_another_numbering_is_left_as_it_is(tmp_path: Path) -> None:
    group = tmp_path / "with_layernorm" / "dynamic" / "len_gen_k8"
    write_checkpoint(group / "task_0002" / name_of(config()), config())
    with pytest.raises(UsageError) as caught:
        report(tmp_path)
    assert caught.value.code == "other-numbering"
    (group / "task_0002").rename(group / "task_0006")
    assert states(report(tmp_path)) == ["written", "written"]


# --- checking ---------------------------------------------------------------------------------------------------------


def test_check_writes_nothing_and_names_what_is_stale(root: Path) -> None:
    before = snapshot(root)
    result = report(root, check=True)
    assert (states(result), list(result.stale)) == (["stale", "stale"], BOTH)
    assert snapshot(root) == before
    report(root)
    assert stale(root, built_in()) == []


def test_a_new_run_makes_the_documents_stale(root: Path) -> None:
    report(root)
    add_run(root, config(seed=2337), run_id="b")
    assert stale(root, built_in()) == BOTH
    report(root)
    assert stale(root, built_in()) == []


def test_a_file_that_grew_makes_the_documents_stale(root: Path) -> None:
    report(root)
    next(root.rglob("Final*")).write_bytes(b"x" * 12345)
    assert stale(root, built_in()) == ["TASK_MAPPING.md", "README.md"]  # it is not what its run.json lists


def test_text_of_ones_own_makes_nothing_stale(root: Path) -> None:
    report(root)
    readme = root / "README.md"
    readme.write_text(readme.read_text().replace("# Checkpoint Organization", "# Ours\n\nAsk Ann before deleting."))
    assert stale(root, built_in()) == []
    before = readme.read_bytes()
    add_run(root, config(seed=2337), run_id="b")
    report(root)
    assert readme.read_bytes() != before
    assert readme.read_text().startswith("# Ours\n\nAsk Ann before deleting.\n\n<!-- ckptman:begin summary -->\n")


def test_a_change_inside_a_block_is_stale(root: Path) -> None:
    report(root)
    readme = root / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("| Runs             | 1", "| Runs             | 2", 1))
    assert readme.read_text() != text
    assert stale(root, built_in()) == ["README.md"]
    report(root)
    assert readme.read_text() == text


def test_another_convention_makes_documents_stale(root: Path) -> None:
    report(root)
    assert stale(root, load_convention(numbering="merged")) == BOTH


def test_the_difference_is_shown(root: Path) -> None:
    report(root)
    assert [document.diff() for document in report(root, check=True).documents] == ["", ""]
    add_run(root, config(seed=2337), run_id="b")
    mapping, readme = report(root, check=True).documents
    assert "-| Runs             | 1 " in readme.diff()
    assert "+| Runs             | 2 " in readme.diff()
    assert mapping.diff().startswith("--- a/TASK_MAPPING.md\n+++ b/TASK_MAPPING.md\n@@")


# --- records that somebody edited -------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        10**30,
        1.5,
        "NaN",
        "",
        "x" * 300,
        "a|b`c\n<d>",
        "\ud800",
        "../..",
        [],
        [1, [2]],
        {},
        {"a": None},
    ]
)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["run.json", "overwritten.json"]), st.data())
def test_an_odd_value_in_a_record_breaks_nothing(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        add_run(root, config(), metrics=gen_metrics(0.5))
        add_overwritten(root, config(seed=2337), metrics=gen_metrics(0.5))
        file = next(root.rglob(name))
        document = json.loads(file.read_text())
        for _ in range(data.draw(st.integers(1, 3))):
            at = document
            while isinstance(at, (dict, list)) and at:
                key = data.draw(
                    st.sampled_from(sorted(set(at) - {"evaluations"}) if isinstance(at, dict) else list(range(len(at))))
                )
                if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
                    at[key] = copy.deepcopy(data.draw(ODD))
                    break
                at = at[key]
        file.write_text(json.dumps(document))
        assert states(report(root)) == ["written", "written"]
        assert states(report(root)) == ["unchanged", "unchanged"]


# --- a README of people -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.sampled_from(["# T", "text", "", "| a |", "é", "~~~\nx\n~~~"]), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.booleans(),
)
def test_a_readme_of_people_is_kept_to_the_byte(lines: list[str], newline: str, mark: bytes, ends: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        add_run(root, config())
        mine = mark + ("\n".join(lines) + ("\n" if ends else "")).replace("\n", newline).encode()
        (root / "README.md").write_bytes(mine)
        report(root)
        first = (root / "README.md").read_bytes()
        assert first.startswith(mine)
        add_run(root, config(seed=2337), run_id="b")
        report(root)
        second = (root / "README.md").read_bytes()
        assert second.startswith(mine)
        assert first != second
        assert states(report(root)) == ["unchanged", "unchanged"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"caf\xe9", "not-utf8"),
        (b"<!-- ckptman:begin best -->", "bad-markers"),
        (b"```\nnever closed", "unclosed-fence"),
    ],
)
def test_a_readme_that_cannot_be_edited_is_refused_and_the_rest_is_written(root: Path, data: bytes, code: str) -> None:
    (root / "README.md").write_bytes(data)
    assert stale(root, built_in()) == BOTH
    result = report(root)
    mapping, readme = result.documents
    assert (mapping.state, readme.state) == (State.WRITTEN, State.REFUSED)
    assert readme.refusal is not None
    assert readme.refusal.code == code
    assert readme.refusal.fix
    assert result.stale == ("README.md",)
    assert (root / "README.md").read_bytes() == data
    assert readme.diff() == ""


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere.md")])
def test_a_readme_that_is_no_file_is_refused(root: Path, make: object) -> None:
    make(root / "README.md")  # type: ignore[operator]
    assert states(report(root)) == ["written", "refused"]


def test_a_readme_in_other_letters_is_the_readme(root: Path) -> None:
    (root / "Readme.md").write_text("# Mine\n")
    report(root)
    assert (root / "Readme.md").read_text().startswith("# Mine\n\n## Checkpoint Statistics")
    assert not (root / "README.md").exists()


# --- a TASK_MAPPING.md of people --------------------------------------------------------------------------------------


def test_a_mapping_of_people_is_kept_beside_the_new_one(root: Path) -> None:
    (root / "TASK_MAPPING.md").write_bytes(b"# Our tasks\xff\n")
    mapping = report(root).documents[0]
    assert (mapping.state, mapping.kept_as) == (State.WRITTEN, "TASK_MAPPING.previous.md")
    assert (root / "TASK_MAPPING.previous.md").read_bytes() == b"# Our tasks\xff\n"
    assert states(report(root)) == ["unchanged", "unchanged"]


def test_a_second_mapping_of_people_is_kept_too(root: Path) -> None:
    for number in (1, 2, 2):
        (root / "TASK_MAPPING.md").write_text(f"# Ours {number}\n")
        report(root)
    assert (root / "TASK_MAPPING.previous.md").read_text() == "# Ours 1\n"
    assert (root / "TASK_MAPPING.previous-2.md").read_text() == "# Ours 2\n"
    assert not (root / "TASK_MAPPING.previous-3.md").exists()


def test_a_mapping_of_ckptman_is_simply_replaced(root: Path) -> None:
    report(root)
    (root / "TASK_MAPPING.md").write_text((root / "TASK_MAPPING.md").read_text() + "edited\n")
    assert report(root).documents[0].kept_as is None
    assert not list(root.glob("TASK_MAPPING.previous*"))


# --- without a tree ---------------------------------------------------------------------------------------------------


def test_a_convention_alone_is_documented(tmp_path: Path) -> None:
    file = tmp_path / "TASKS.md"
    assert report_convention(file, check=True).stale == ("TASKS.md",)
    assert not file.exists()
    assert states(report_convention(file)) == ["written"]
    assert file.read_text() == task_mapping_text(built_in())
    assert report_convention(file, check=True).stale == ()
    assert report_convention(file, convention=load_convention(numbering="merged"), check=True).stale == ("TASKS.md",)


def test_a_file_of_people_is_not_replaced_by_a_convention(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Project\n")
    (document,) = report_convention(tmp_path / "README.md").documents
    assert document.refusal is not None
    assert document.refusal.code == "not-generated"
    assert (tmp_path / "README.md").read_text() == "# Project\n"


def test_the_folder_of_a_convention_document_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        report_convention(tmp_path / "none" / "TASKS.md")


def test_the_projects_own_document_is_up_to_date() -> None:
    file = Path(__file__).parents[2] / "TASK_MAPPING.md"
    assert file.read_text() == task_mapping_text(built_in())
