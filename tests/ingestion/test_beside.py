"""Ingest reads what lies beside checkpoints: configurations, seeds, steps, metrics and learning curves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.checks.validation import validate
from ckptman.cli.app import run
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.rules import Convention
from ckptman.rules.convention_file import load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.tree import history
from ckptman.tree.records import BesideFile, RunRecord, read_record
from tests.helpers import beside as bs
from tests.helpers.ingested import RUN, codes, task
from tests.helpers.model_folders import trainer, weights_of
from tests.helpers.raw import config, gen_metrics, name_of, snapshot, write_checkpoint, write_run

SETTINGS = config(seed=1337)
ROWS: list[tuple[int, dict[str, float]]] = [(100, {"train/loss": 2.5}), (100, {"lr": 0.5}), (200, {"train/loss": 1.25})]
CURVE = history.of_rows({100: {"train/loss": 2.5, "lr": 0.5}, 200: {"train/loss": 1.25}})
LAST = {"train/loss": 1.25, "lr": 0.5}
UNFINISHED = {"missing-checkpoint", "missing-seed", "missing-task"}
"""What is found of a tree with one run of the grid."""
EVENTS = "events.out.tfevents.1700000000.node1.77.0"


def bare(folder: Path, settings: TrainConfig = SETTINGS, name: str | None = None, kind: str = "Final") -> Path:
    """A file of weights alone, such as its name says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or name_of(settings, kind))
    torch.save(weights_of(settings), path)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def lab(tmp_path: Path, text: str) -> Convention:
    file = tmp_path / "ckptman.yaml"
    file.write_text(text)
    return load_convention(file)


def record(root: Path) -> RunRecord:
    (found,) = root.rglob("run.json")
    return read_record(found.parent)


def gave(root: Path) -> dict[str, tuple[str, ...]]:
    return {Path(file.path).name: file.gave for file in record(root).source.beside}


def problems(result: IngestResult) -> list[str]:
    return [f"{Path(item.source).name}: {item.message}" for item in result.plan.beside_problems]


def write_config(path: Path, values: Any) -> None:
    (bs.write_json if path.suffix == ".json" else bs.write_yaml)(path, values)


@pytest.mark.parametrize("name", ["config.json", "args.json", "hparams.yaml", ".hydra/config.yaml"])
def test_the_configuration_of_bare_weights_lies_beside_them(source: Path, root: Path, name: str) -> None:
    bare(task(source) / "checkpoints")
    write_config(task(source) / name, SETTINGS.to_dict())
    assert problems(ingest(source, root)) == []
    found = record(root)
    assert (found.config_source, found.config, found.seed) == ("beside", SETTINGS.to_dict(), 1337)
    assert found.source.beside == (BesideFile(path=f"len_gen_k8/task_0006/{name}", gave=("config",)),)
    assert {item.code for item in validate(root).findings} <= UNFINISHED


def test_without_it_the_name_has_to_do(source: Path, root: Path) -> None:
    bare(task(source) / "checkpoints")
    ingest(source, root)
    assert (record(root).config_source, record(root).seed, record(root).source.beside) == ("name", None, ())


def test_the_configuration_inside_counts_more_and_other_ones_are_findings(source: Path, root: Path) -> None:
    write_checkpoint(task(source) / name_of(SETTINGS), SETTINGS)
    bs.write_yaml(task(source) / "hparams.yaml", {**SETTINGS.to_dict(), "learning_rate": 0.5})
    (task(source) / "metrics.csv").write_text(bs.csv_logger(ROWS))
    result = ingest(source, root)
    says = "learning_rate is 0.5, and 0.0001 in force"
    assert problems(result) == [f"hparams.yaml: it says otherwise than what counts more: {says}"]
    found = record(root)
    assert (found.config_source, found.config) == ("checkpoint", SETTINGS.to_dict())
    assert [item.message for item in validate(root, select=["sources-disagree"]).findings] == [
        f"len_gen_k8/task_0006/hparams.yaml: {says}"
    ]
    assert gave(root)["metrics.csv"] == ("metrics", "history")
    bs.write_yaml(task(source) / "hparams.yaml", SETTINGS.to_dict())
    assert problems(ingest(source, root)) == []
    assert validate(root, select=["sources-disagree"]).findings == ()


def test_sections_are_compared_key_by_key(tmp_path: Path, source: Path, root: Path) -> None:
    bare(task(source))
    bs.write_yaml(task(source) / ".hydra/config.yaml", {"model": SETTINGS.to_dict(), "seed": 5})
    bs.write_yaml(task(source) / ".hydra/overrides.yaml", ["model.n_layers=1", "seed=5"])
    rules = lab(tmp_path, "beside: {.hydra/config.yaml: {config: [., model]}}")
    assert problems(ingest(source, root, convention=rules)) == []
    assert (record(root).seed, record(root).config["n_layers"]) == (5, 1)
    bs.write_yaml(task(source) / ".hydra/overrides.yaml", ["model.n_layers=2", "seed=5"])
    (told,) = problems(ingest(source, root, convention=rules))
    assert told == "overrides.yaml: it says otherwise than what counts more: model.n_layers is 2, and 1 in force"


def csv_file(folder: Path) -> None:
    (folder / "metrics.csv").write_text(bs.csv_logger(ROWS).replace("epoch,", "").replace("\n0,", "\n"))


def event_files(folder: Path) -> None:
    """Of a run that was started again."""
    (folder / EVENTS).write_bytes(bs.event_file(ROWS[:2]))
    (folder / EVENTS.replace("17", "18", 1)).write_bytes(bs.event_file(ROWS[2:], as_tensors=True))


def state_file(folder: Path) -> None:
    state = bs.trainer_state(ROWS, 40000).replace('"epoch": 1.0,', "")
    (folder / "trainer_state.json").write_text(state)


@pytest.mark.parametrize("write", [csv_file, event_files, state_file])
def test_metrics_and_learning_curve_are_those_that_lie_beside(
    source: Path, root: Path, write: Callable[[Path], None]
) -> None:
    write_checkpoint(task(source) / "checkpoints" / name_of(SETTINGS), SETTINGS)
    write(task(source))
    result = ingest(source, root)
    found = record(root)
    assert (found.metrics, found.metrics_source) == (LAST, "beside")
    assert history.read(root / RUN) == CURVE
    assert found.history is not None
    told = [Path(item.path).name for item in found.history.sources]
    assert set(told) == set(gave(root))
    assert len(result.histories) == 1
    before = snapshot(root)
    assert ingest(source, root).histories == ()
    assert snapshot(root) == before
    assert {item.code for item in validate(root, deep=True).findings} <= UNFINISHED


def test_show_says_what_is_from_where(source: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = bare(task(source))
    bs.write_yaml(task(source) / "hparams.yaml", SETTINGS.to_dict())
    ingest(source, root)
    assert run(["show", str(root / RUN / file.name)]) == 0
    assert "len_gen_k8/task_0006/hparams.yaml (config)" in capsys.readouterr().out
    assert run(["show", str(root / RUN)]) == 0
    assert "len_gen_k8/task_0006/hparams.yaml (config)" in capsys.readouterr().out


def test_what_was_logged_since_is_brought(source: Path, root: Path) -> None:
    write_checkpoint(task(source) / name_of(SETTINGS), SETTINGS)
    (task(source) / "metrics.csv").write_text(bs.csv_logger(ROWS[:1]))
    ingest(source, root)
    (task(source) / "metrics.csv").write_text(bs.csv_logger(ROWS))
    ingest(source, root)
    assert record(root).metrics["train/loss"] == 1.25
    (task(source) / "metrics.csv").unlink()
    ingest(source, root)
    assert record(root).metrics["train/loss"] == 1.25  # what is gone at the source is kept
    curve = history.read(root / RUN)
    assert curve is not None
    assert curve.steps == (100, 200)


def test_the_step_of_the_trainers_state_names_a_file_without_one(source: Path, root: Path) -> None:
    file = bare(source / "len_gen_k8" / "task_0006" / "checkpoint-40000", name="weights.pt")
    bs.write_json(file.with_name("config.json"), SETTINGS.to_dict())
    assert codes(ingest(source, root, trust="config")) == ["no-name"]
    file.with_name("trainer_state.json").write_text(bs.trainer_state(ROWS, 40000))
    assert codes(ingest(source, root, trust="config")) == []
    assert (record(root).checkpoints[0].step, record(root).checkpoints[0].kind) == (40000, "Final")
    assert gave(root)["trainer_state.json"] == ("step", "metrics", "history")


def test_a_checkpoint_that_is_a_folder_has_its_log_inside(source: Path, root: Path) -> None:
    for step in (20001, 40000):
        folder = trainer(task(source) / f"checkpoint-{step}", SETTINGS, step, sharded=False)
        (folder / "trainer_state.json").write_text(bs.trainer_state(ROWS if step == 40000 else ROWS[:1], step))
    assert problems(ingest(source, root)) == []
    assert record(root).metrics["train/loss"] == 1.25
    curve = history.read(root / RUN)
    assert curve is not None
    assert curve.steps == (100, 200)


LAB_NAME = "sortgpt_k16_methfixed_mlp1_L2_N256_E64_pos0_fln1_wd0p0_lr0p01_dseed1337_iseed1338__final"
LAB = """
run: {seed: dseed}
beside:
  "{stem}.summary.json": {config: setup, metrics: reached, step: done, values: {dseed: seeds.data, iseed: seeds.init}}
"""


def test_two_seeds_beside_a_file_are_both_kept_and_one_is_the_runs(tmp_path: Path, source: Path, root: Path) -> None:
    setup = {key: value for key, value in SETTINGS.to_dict().items() if key != "seed"}
    for data, init in ((1337, 1338), (2337, 1338), (1337, 1339)):
        name = LAB_NAME.replace("dseed1337", f"dseed{data}").replace("iseed1338", f"iseed{init}")
        bare(task(source), config(seed=data + init), f"{name}.pt")
        seeds = {"data": data, "init": init}
        reached = {"test": {"em": init / 2000}, "loss": 0.5}
        bs.write_json(task(source) / f"{name}.summary.json",
                      {"setup": setup, "reached": reached, "seeds": seeds, "done": 40000})  # fmt: skip
    rules = lab(tmp_path, LAB)
    result = ingest(source, root, convention=rules, trust="config")
    assert (codes(result), problems(result)) == ([], [])
    found = [read_record(file.parent) for file in sorted(root.rglob("run.json"))]
    assert [(item.seed, item.config["dseed"], item.config["iseed"], item.metrics["test.em"]) for item in found] == [
        (1337, 1337, 1338, 0.669), (1337, 1337, 1339, 0.6695), (2337, 2337, 1338, 0.669),
    ]  # fmt: skip
    assert {(item.config_source, item.metrics_source) for item in found} == {("beside", "beside")}
    assert found[0].source.beside[0].keys == ("dseed", "iseed")
    assert "config-disagrees" not in {item.code for item in validate(root, convention=rules).findings}


def test_a_seed_that_only_lies_beside_is_added_to_the_configuration_inside(
    tmp_path: Path, source: Path, root: Path
) -> None:
    inside = {key: value for key, value in SETTINGS.to_dict().items() if key != "seed"}
    write_checkpoint(task(source) / name_of(SETTINGS), SETTINGS, train_config=inside)
    bs.write_yaml(task(source) / "params.yaml", {"general": {"seed": 5, "git.sha": "abc"}})
    rules = lab(tmp_path, 'beside: {params.yaml: {seed: general.seed, values: {sha: "general.git.sha"}}}')
    ingest(source, root, convention=rules)
    found = record(root)
    assert (found.config_source, found.seed, found.config["sha"]) == ("checkpoint", 5, "abc")
    assert set(found.source.beside[0].keys) == {"seed", "sha"}
    assert {item.code for item in validate(root, convention=rules).findings} <= UNFINISHED


def test_what_lies_beside_counts_more_than_what_wandb_has(source: Path, root: Path) -> None:
    curve = {1: {"loss": 9.0, "lr": 1e-4}, 2: {"loss": 8.0}}
    write_run(task(source), SETTINGS, run_id="abc", curve=curve, metrics={"loss": 8.0, "lr": 1e-4, **gen_metrics(0.5)})
    (task(source) / "metrics.csv").write_text("step,loss\n250,7.5\n500,7.25\n")
    result = ingest(source, root)
    assert problems(result) == [
        "metrics.csv: it says otherwise than what counts more: loss is 7.25, and 8 by W&B"
    ]  # fmt: skip
    found = record(root)
    assert (found.run_id, found.metrics["loss"], found.metrics["lr"]) == ("abc", 7.25, 1e-4)
    assert found.metrics_source == "beside, W&B"
    kept = history.read(root / RUN)
    assert kept is not None
    assert kept.curve("loss") == [(250, 7.5), (500, 7.25)]
    assert kept.curve("lr") == [(1, 1e-4)]


# --- what could be of several runs ------------------------------------------------------------------------------------


def two_names(folder: Path) -> None:
    bare(folder, SETTINGS)
    bare(folder, config(n_layers=2))


def two_folders(folder: Path) -> None:
    bare(folder / "a")
    bare(folder / "b", config(seed=5))


def two_wandb_runs(folder: Path) -> None:
    for seed in (1337, 2337):
        write_run(folder, config(seed=seed), run_id=f"run{seed}", files=("Final",))


def two_configurations_inside(folder: Path) -> None:
    write_checkpoint(folder / "a" / name_of(SETTINGS), SETTINGS)
    write_checkpoint(folder / "b" / name_of(SETTINGS, "Checkpoint"), config(seed=5), step=20001)


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (two_names, "the checkpoints there differ in n_layers, by their names"),
        (two_folders, "2 folders below it have a checkpoint Final_"),
        (two_wandb_runs, "W&B has 2 runs there"),
        (two_configurations_inside, "checkpoints of several runs lie there"),
    ],
)
def test_what_could_be_of_several_runs_is_used_for_none(
    source: Path, root: Path, write: Callable[[Path], None], why: str
) -> None:
    write(task(source))
    (task(source) / "metrics.csv").write_text(bs.csv_logger(ROWS))
    told = problems(ingest(source, root))
    assert len(told) == 1
    assert told[0].startswith(f"metrics.csv: it could be of several runs, and is used for none: {why}")
    assert all("train/loss" not in read_record(file.parent).metrics for file in root.rglob("run.json"))


def test_two_checkpoints_of_one_run_share_what_lies_beside_them(source: Path, root: Path) -> None:
    for kind in ("Checkpoint", "Final"):
        bare(task(source) / "checkpoints", kind=kind)
    bs.write_yaml(task(source) / "hparams.yaml", SETTINGS.to_dict())
    (task(source) / "metrics.csv").write_text(bs.csv_logger(ROWS))
    assert problems(ingest(source, root)) == []
    assert len(record(root).checkpoints) == 2
    assert gave(root) == {"hparams.yaml": ("config",), "metrics.csv": ("metrics", "history")}


def test_a_configuration_that_contradicts_the_name_is_not_its(source: Path, root: Path) -> None:
    bare(task(source))
    bs.write_yaml(task(source) / "hparams.yaml", {**SETTINGS.to_dict(), "n_layers": 2})
    result = ingest(source, root)
    assert record(root).config_source == "name"
    assert "n_layers is 2, and 1 in force" in problems(result)[0]


def test_files_are_looked_for_within_the_task_and_the_source_only(source: Path, root: Path) -> None:
    bare(task(source))
    write_config(task(source).parent / "config.json", SETTINGS.to_dict())
    write_config(source.parent / "args.json", SETTINGS.to_dict())
    ingest(source, root)
    assert record(root).config_source == "name"
    shutil.move(task(source).parent / "config.json", task(source))
    shutil.rmtree(root)
    ingest(source, root)
    assert record(root).config_source == "beside"


def test_a_lab_takes_an_entry_away(tmp_path: Path, source: Path, root: Path) -> None:
    bare(task(source))
    write_config(task(source) / "config.json", SETTINGS.to_dict())
    ingest(source, root, convention=lab(tmp_path, "beside: {config.json: null}"))
    assert record(root).config_source == "name"
