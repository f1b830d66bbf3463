"""W&B runs of which no file is known to be: the tree keeps what they logged, and says that there is no file."""

from __future__ import annotations

import enum
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks import validate
from ckptman.cli.app import run
from ckptman.documents import Curves
from ckptman.documents.explorer.dataset import dataset
from ckptman.documents.task_mapping import task_mapping_text
from ckptman.ingestion import ingest
from ckptman.queries import results
from ckptman.rules.convention_file import built_in
from ckptman.tree.records import scan_tree
from ckptman.tree.statistics import count_tree
from tests.helpers.ingested import task
from tests.helpers.raw import START, config, gen_metrics, name_of, write_checkpoint, write_run

RUNS = {"first111": (1337, 0.9), "second22": (2337, 0.8), "third333": (3337, 0.95), "again111": (1337, 0.7)}
"""Of one configuration, in one folder: the later ones overwrite the earlier ones; the third saved nothing."""


@pytest.fixture
def lab(source: Path) -> Path:
    for number, (run_id, (seed, value)) in enumerate(RUNS.items()):
        write_run(task(source), config(seed=seed), run_id=run_id, started=START + 1000 * number,
                  metrics=gen_metrics(value), save=run_id != "third333")  # fmt: skip
    return source


def listed(root: Path) -> tuple[list[str], list[str]]:
    """Ids of the overwritten runs, and of the others without files."""
    scan = scan_tree(root, built_in())
    overwritten = sorted(run.run_id for runs in scan.overwritten.values() for run in runs)
    return overwritten, sorted(run.run_id for runs in scan.without_files.values() for run in runs)


@pytest.mark.parametrize("kind", ["sample", "population"])
def test_the_labs_row_is_that_of_ten_lines_over_the_summaries(lab: Path, root: Path, kind: str) -> None:
    values = []
    for file in sorted(lab.rglob("wandb-summary.json")):
        summary = json.loads(file.read_text())
        values.append(statistics.mean(summary[f"gen/K{k}/exact_match_acc"] for k in range(17, 33)))
    ingest(lab, root)
    (row,) = results(root, population=kind == "population", all_runs=True).rows
    deviation = statistics.pstdev if kind == "population" else statistics.stdev
    every = row.over_all
    assert every.runs == 4
    assert every.mean == pytest.approx(statistics.mean(values))
    assert every.deviation == pytest.approx(deviation(values))
    assert row.runs == 1
    assert row.mean == pytest.approx(0.7)
    assert {item.run_id: (item.seed, item.has_files) for item in row.logged} == {
        run_id: (seed, run_id == "again111") for run_id, (seed, _) in RUNS.items()
    }
    (alone,) = results(root).rows  # the control: nobody asked for them
    assert (alone.runs, alone.logged) == (1, ())
    (configuration,) = count_tree(root, built_in()).configurations
    assert configuration.logged is not None
    assert configuration.logged.runs == 4
    assert configuration.logged.mean == pytest.approx(statistics.mean(values))


def test_the_command_tells_both_and_names_the_runs(lab: Path, root: Path, capsys: Any) -> None:
    ingest(lab, root)
    assert run(["results", "--all-runs", "--population", "--format", "csv", "--root", str(root)]) == 0
    told = capsys.readouterr()
    head, row = (line.split(",") for line in told.out.splitlines())
    found = dict(zip(head, row, strict=True))
    assert float(found["mean"]) == pytest.approx(0.7)
    assert (found["n"], found["n (all)"]) == ("1", "4")
    every = [value for _, value in RUNS.values()]
    assert float(found["mean (all)"]) == pytest.approx(statistics.mean(every))
    assert float(found["dev. (all)"]) == pytest.approx(statistics.pstdev(every))
    assert "4 W&B runs by what they logged; of 3 no checkpoint is here (first111, second22, third333)" in told.err
    assert run(["results", "--csv", "--all-runs", "--root", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(",4")
    assert run(["results", "--csv", "--root", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(",1")


def test_a_run_that_left_no_file_is_not_called_overwritten_and_stays_when_nothing_changes(
    source: Path, root: Path
) -> None:
    write_run(task(source), config(seed=1337), run_id="aaaa1111", save=False)
    write_run(task(source, 3), config(n_layers=2, use_mlp=False), run_id="bbbb2222")
    ingest(source, root)
    assert listed(root) == ([], ["aaaa1111"])  # nothing else of its task is here
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    ingest(source, root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    found = validate(root).findings
    assert {item.code for item in found} == {"missing-task", "missing-seed"}
    absent = [item.message for item in found if item.code == "missing-task"]
    assert [text for text in absent if "no file of it" in text] == [
        "len_gen_k8 task 6 (L1, MLP off, mix) has no run; seed 1337: W&B has run aaaa1111, and no file of it is known"
    ]
    assert [text[:16] for text in absent if "aaaa1111" not in text] == ["6 configurations"]  # the control
    text = task_mapping_text(built_in(), count_tree(root, built_in()))
    assert "## W&B runs without a checkpoint" in text
    assert "aaaa1111" in text
    assert "## Overwritten runs" not in text


@pytest.mark.parametrize(("interval", "saved"), [(20_000, 2), (0, 1), (-1, 1)])
def test_a_run_misses_no_checkpoint_that_its_recipe_does_not_save(
    source: Path, root: Path, interval: int, saved: int
) -> None:
    write_run(task(source), config(), run_id="aaaa1111", save=False, more={"ckpt_interval": interval})
    assert len(ingest(source, root).plan.without_files[0].missing) == saved


def test_once_its_file_comes_a_run_is_no_longer_listed(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="aaaa1111", save=False)
    write_run(task(source, 4), config(use_mlp=True), run_id="bbbb2222", started=START + 1000, save=False)
    ingest(source, root)
    assert listed(root) == ([], ["aaaa1111", "bbbb2222"])
    write_checkpoint(task(source) / "saved_models" / name_of(config()), config(), saved_at=START + 300)
    ingest(source, root)
    assert listed(root) == ([], ["bbbb2222"])
    assert [file.parent.name for file in root.rglob("overwritten.json")] == ["task_0004"]


@pytest.mark.parametrize("folder", ["saved_models", "seed_1337/saved_models"])
@pytest.mark.parametrize("seed", [None, -1, "random", 1337.5, 10**30, 2337])
def test_a_run_whose_record_tells_no_seed_may_have_written_the_file(
    source: Path, root: Path, seed: Any, folder: str
) -> None:
    """A trainer may draw its seed after it has told W&B its configuration."""
    write_run(task(source), config(), run_id="aaaa1111", saved_models=folder)
    for file in (task(source) / "wandb").rglob("config.yaml"):
        file.write_text(file.read_text().replace("seed:\n  value: 1337", f"seed:\n  value: {json.dumps(seed)}"))
    found = ingest(source, root).plan
    if seed != 2337:
        assert listed(root) == ([], ["aaaa1111"])
        assert not found.without_files[0].missing
    elif folder == "saved_models":  # the control: the file is of another seed
        assert listed(root) == (["aaaa1111"], [])


def test_of_an_ambiguous_file_every_candidate_is_in_the_figures_until_it_is_decided(source: Path, root: Path) -> None:
    for number, run_id in enumerate(("first111", "rerun222")):
        files = write_run(task(source), config(), run_id=run_id, started=START + number * 1_000, salt=number,
                          metrics=gen_metrics(0.4 + number / 5))  # fmt: skip
    times = [file.stat().st_mtime for file in files]
    for file in files:
        os.utime(file, (START + 1e7, START + 1e7))
    assert ingest(source, root).plan.ambiguous
    assert listed(root) == ([], ["first111", "rerun222"])
    (row,) = results(root, all_runs=True).rows
    assert (row.runs, row.over_all.runs) == (0, 2)
    assert row.over_all.mean == pytest.approx(0.5)
    for file, when in zip(files, times, strict=True):
        os.utime(file, (when, when))
    assert ingest(source, root).plan.resolved
    assert listed(root) == (["first111"], [])
    (row,) = results(root, all_runs=True).rows
    assert (row.runs, row.over_all.runs) == (1, 2)
    assert row.over_all.mean == pytest.approx(0.5)


@pytest.mark.parametrize("refused", [True, False])
def test_what_was_refused_is_named_where_the_missing_are(source: Path, root: Path, refused: bool) -> None:
    write_run(task(source) / "seed_1337", config(), run_id="aaaa1111")
    for file in write_run(task(source) / "seed_2337", config(seed=2337), run_id="bbbb2222"):
        if refused:
            file.write_bytes(b"no checkpoint")
        os.utime(file, (START + 300, START + 300))
    ingest(source, root, settle=0)
    tree = count_tree(root, built_in(), whole=True)
    assert sum(count.refused for count in tree.grid_counts) == int(refused)
    assert sum(count.complete for count in tree.grid_counts) == 2 - int(refused)
    assert sum(count.missing for count in tree.grid_counts) == 502
    document = dataset(tree, (), Curves(root, built_in()))
    assert document["counts"]["refused"] == int(refused)
    assert (str(source / "len_gen_k8/task_0006/seed_2337") in str(document["runs"]["place"]["refused"])) is refused
    assert ("refused" in document["runs"]["place"]["state"]["pool"]) is refused
    row = next(line for line in task_mapping_text(built_in(), tree).splitlines() if "task_0006" in line and "●" in line)
    assert ("●!·" if refused else "●●·") in row


@pytest.mark.parametrize("second", ["same0000", "other000"])
def test_runs_of_one_id_in_two_folders_are_two(tmp_path: Path, root: Path, second: str) -> None:
    for name, run_id, settings, number in (
        ("one", "same0000", config(seed=1337), 6), ("two", second, config(seed=1337, n_layers=2), 2),
    ):  # fmt: skip
        folder = task(tmp_path / name, number)
        write_run(folder, settings, run_id=run_id, metrics=gen_metrics(0.5))
        write_run(folder, settings, run_id=f"{name}00000", started=START + 1000, metrics=gen_metrics(0.7))
        ingest(tmp_path / name, root)
    tree = count_tree(root, built_in(), whole=True)
    state = dataset(tree, (), Curves(root, built_in()))["runs"]["place"]["state"]
    assert [state["pool"][at] for at in state["at"]].count("overwritten") == 2
    assert [item.logged and item.logged.runs for item in tree.configurations] == [2, 2]
    assert [row.over_all.runs for row in results(root, all_runs=True).rows] == [2, 2]


class Phase(enum.Enum):
    FIRST = 1
    SECOND = 2


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_lost_runs_count_to_the_files_that_spell_their_values_otherwise(source: Path, root: Path, told: bool) -> None:
    """W&B has the name of an Enum's member, the file its value; the runs that left files tell which is which."""
    saved = {}
    for number, (phase, seed) in enumerate((phase, seed) for phase in Phase for seed in (1337, 2337, 3337)):
        started = START + 1000 * number
        plain = config(seed=seed, wandb_group="phases")
        write_run(source / "phases" / "task_0000", plain, run_id=f"{phase.name.lower()}{seed}", started=started,
                  metrics=gen_metrics(seed / 10000), more={"phase": phase.name}, save=False)  # fmt: skip
        values = {**plain.to_dict(), "phase": phase}
        saved[phase] = write_checkpoint(source / "phases/task_0000/saved_models" / phase.name / name_of(plain), plain,
                                        saved_at=started + 300, train_config=values)  # fmt: skip
    for file in () if told else saved.values():  # then any run of the seed may have written it
        os.utime(file, (START + 10**6, START + 10**6))
    for _ in range(2):  # the second time, by what run.json says
        ingest(source, root, settle=0)
        rows = results(root, all_runs=True).rows
        pools = [item for item in count_tree(root, built_in()).configurations if item.lost or item.without_files]
        if told:
            assert [row.over_all.runs for row in rows] == [3, 3]
            assert [row.over_all.mean for row in rows] == [pytest.approx((1337 + 2337 + 3337) / 30000)] * 2
            assert [{item.run_id[:5] for item in row.logged if item.run_id} for row in rows] == [{"first"}, {"secon"}]
            assert [len(item.lost) for item in pools] == [2, 2]
        else:
            assert max(row.over_all.runs for row in rows) == 3  # those of W&B's one spelling
            assert pools == []


def test_a_copy_of_the_source_leaves_the_list_as_it_is(lab: Path, root: Path) -> None:
    again = Path(shutil.copytree(lab, lab.with_name("again"), symlinks=True))
    ingest(lab, root)
    [file] = root.rglob("overwritten.json")
    before = file.read_bytes()
    ingest(again, root)
    assert file.read_bytes() == before
    shutil.rmtree(lab)  # the control: what is gone is no place to find them
    ingest(again, root)
    assert {run["source"]["root"] for run in json.loads(file.read_bytes())["runs"]} == {str(again)}


@pytest.mark.parametrize("signed", [True, False])
def test_an_id_that_was_edited_in_a_record_makes_no_run_overwritten(lab: Path, root: Path, signed: bool) -> None:
    ingest(lab, root)
    lists = listed(root)
    [file] = root.rglob("run.json")
    document = json.loads(file.read_bytes())
    assert document["run_id"] == "again111"
    document["run_id"] = "edited00"
    if not signed:
        del document["digest"]
    file.write_text(json.dumps(document, indent=1))
    assert "again111" not in {item.run_id for item in ingest(lab, root).plan.overwritten}
    assert listed(root) == lists
    # The control: a run whose W&B folder the record does not name.
    document["source"]["wandb"] = []
    document.pop("digest", None)
    file.write_text(json.dumps(document, indent=1))
    assert "again111" in {item.run_id for item in ingest(lab, root).plan.overwritten}
