"""Ingesting runs whose W&B folders lie elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.rules.recipe import TrainConfig
from ckptman.tree.records import read_record
from tests.helpers.ingested import RUN, codes, task
from tests.helpers.raw import START, config, name_of, write_checkpoint, write_run

# --- W&B folders that lie elsewhere -----------------------------------------------------------------------------------


def saved_to(source: Path, number: int, **values: Any) -> TrainConfig:
    """A configuration that says where it was told to save, on another machine."""
    return config(save_dir=f"/scratch/lab/{source.name}/len_gen_k8/task_{number:04d}/saved_models", **values)


def run_ids(result: IngestResult) -> dict[str, str | None]:
    return {row.source: row.run_id for row in result.placed}


def test_runs_of_one_process_leave_all_wandb_folders_below_the_first_task(source: Path, root: Path) -> None:
    for number, mlp in ((4, True), (6, False)):
        for index, seed in enumerate((1337, 2337)):
            write_run(
                task(source, number), saved_to(source, number, use_mlp=mlp, seed=seed),
                run_id=f"task{number}seed{seed}", started=START + 1000 * (2 * number + index),
                wandb_home=task(source, 4),
            )  # fmt: skip
    result = ingest(source, root)
    assert {row.task: row.run_id for row in result.placed} == {4: "task4seed2337", 6: "task6seed2337"}
    lost = [(run.run_id, run.task, run.source_task, run.overwritten_by) for run in result.plan.overwritten]
    assert lost == [("task4seed1337", 4, 4, ("task4seed2337",)), ("task6seed1337", 6, 6, ("task6seed2337",))]
    assert result.plan.without_files == ()
    assert "does not lie beside" in read_record(root / RUN.replace("1337", "2337")).attribution.evidence
    assert ingest(source, root).plan.overwritten == result.plan.overwritten


def test_one_wandb_folder_for_the_whole_source(source: Path, root: Path) -> None:
    for index, seed in enumerate((1337, 2337)):
        write_run(task(source), config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index, wandb_home=source)
    result = ingest(source, root)
    assert {row.run_id for row in result.placed} == {"run2337"}
    assert [run.run_id for run in result.plan.overwritten] == ["run1337"]


def test_a_run_recorded_elsewhere_does_not_settle_what_is_open_nearby(source: Path, root: Path) -> None:
    for index in range(2):
        files = write_run(task(source), saved_to(source, 6), run_id=f"near{index}", started=START + 5000 * index)
    far = write_run(task(source, 7), saved_to(source, 6), run_id="far", started=START + 20000, save=False)
    assert far == []
    for file in files:
        os.utime(file, (START + 20100, START + 20100))  # only `far` ran then
    ingest(source, root)
    record = read_record(root / RUN)
    assert (record.run_id, record.attribution.candidates) == (None, ("near0", "near1"))


@pytest.mark.parametrize(("number", "run_id"), [(6, "far"), (5, None)])
def test_a_run_recorded_elsewhere_must_have_saved_here(
    source: Path, root: Path, number: int, run_id: str | None
) -> None:
    for file in write_run(task(source), saved_to(source, 6), run_id="gone"):
        assert file.exists()
    shutil.rmtree(task(source) / "wandb")
    write_run(task(source, 4), saved_to(source, number), run_id="far", save=False)
    assert set(run_ids(ingest(source, root)).values()) == {run_id}


@pytest.mark.parametrize("has_its_own", [False, True])
def test_a_run_recorded_elsewhere_that_has_its_own_file_wrote_no_other(
    source: Path, root: Path, has_its_own: bool
) -> None:
    [backup] = write_run(source / "backup", saved_to(source, 6), run_id="gone", files=("Final",))
    shutil.rmtree(source / "backup" / "wandb")
    write_run(
        task(source), saved_to(source, 6), run_id="rerun", files=("Final",), started=START + 5000, salt=1,
        save=has_its_own,
    )  # fmt: skip
    found = run_ids(ingest(source, root))
    assert found[str(backup.relative_to(source))] == (None if has_its_own else "rerun")
    assert len(found) == 1 + has_its_own


def test_one_run_recorded_elsewhere_did_not_write_two_files_of_one_name(source: Path, root: Path) -> None:
    for salt, folder in enumerate(("one", "two")):
        write_run(source / folder, saved_to(source, 6), run_id="gone", files=("Final",), salt=salt)
        shutil.rmtree(source / folder / "wandb")
    write_run(source / "third", saved_to(source, 6), run_id="far", save=False)
    result = ingest(source, root)
    assert list(run_ids(result).values()) == [None, None]
    assert result.plan.overwritten == ()
    shutil.rmtree(source / "two")
    assert list(run_ids(ingest(source, root.with_name("control"))).values()) == ["far"]


def test_a_seed_whose_own_folder_is_gone_was_not_overwritten(source: Path, root: Path) -> None:
    for seed in (1337, 2337):
        write_run(
            task(source), saved_to(source, 6, seed=seed), run_id=f"run{seed}", saved_models=f"saved_models/seed_{seed}",
            wandb_home=task(source, 4),
        )  # fmt: skip
    shutil.rmtree(task(source) / "saved_models" / "seed_1337")
    result = ingest(source, root)
    assert result.plan.overwritten == ()
    [lost] = result.plan.without_files
    assert (lost.run.run_id, len(lost.missing)) == ("run1337", 2)


def test_a_run_of_another_group_with_the_same_names_is_not_blamed(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="first", wandb_home=source)
    for file in (task(source) / "saved_models").iterdir():
        file.unlink()
    write_run(
        task(source, 6, "other_group"), config(seed=2337, wandb_group="other_group"), run_id="other", wandb_home=source
    )
    result = ingest(source, root)
    assert {row.run_id for row in result.placed} == {"other"}
    assert result.plan.overwritten == ()
    assert [item.run.run_id for item in result.plan.without_files] == ["first"]


def test_wandbs_own_links_are_passed_over(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    wandb = task(source) / "wandb" / "wandb"
    (wandb / "debug.log").symlink_to("run-20260310_000000-abcd1234/logs/debug.log")
    assert ingest(source, root).refused == ()
    (wandb / "other.log").symlink_to("/elsewhere/debug.log")  # the control
    assert codes(ingest(source, root)) == ["symlink"]


CURVE = {250 * step: {"train/loss": 1.0 / (step + 1)} for step in range(4)}


def test_a_run_folder_that_somebody_renamed_is_known_by_the_log_in_it(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234", curve=CURVE)
    folder = task(source) / "wandb" / "wandb" / "run-20260310_000000-abcd1234"
    renamed = folder.rename(folder.with_name("baseline (seed 1337)"))
    assert set(run_ids(ingest(source, root)).values()) == {"abcd1234"}
    assert read_record(root / RUN).source.wandb == (str(renamed.relative_to(source)),)


@pytest.mark.parametrize("beside", ["files/config.yaml", "notes.txt"])
def test_a_folder_with_a_log_and_other_things_is_none(source: Path, root: Path, beside: str) -> None:
    files = write_run(task(source), config(), run_id="abcd1234", curve=CURVE)
    log = task(source) / "wandb" / "wandb" / "run-20260310_000000-abcd1234" / "run-abcd1234.wandb"
    shutil.copy(log, task(source))  # beside the checkpoints' folder
    (task(source) / beside).parent.mkdir(exist_ok=True)
    (task(source) / beside).write_text("")
    assert len(ingest(source, root).placed) == len(files)


@pytest.mark.parametrize("ending", [" (copy)", " copy", " copy 2", " (1)", " - Copy", " - Copy (2)", ".bak", "~"])
def test_a_copy_of_a_run_folder_is_of_the_same_run(source: Path, root: Path, ending: str) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    folder = task(source) / "wandb" / "wandb" / "run-20260310_000000-abcd1234"
    shutil.copytree(folder, folder.with_name(folder.name + ending))
    assert set(run_ids(ingest(source, root)).values()) == {"abcd1234"}
    shutil.copytree(folder, folder.with_name(f"{folder.name}2"))  # the control: another id
    assert set(run_ids(ingest(source, root.with_name("control"))).values()) == {None}


MODEL = {"vocab_n", "n_embd", "n_heads", "n_layers", "without_pos", "use_mlp", "use_layernorm"}


def in_sections(values: dict[str, Any]) -> dict[str, Any]:
    model = {key: value for key, value in values.items() if key in MODEL}
    return {"model": model, "train": {key: value for key, value in values.items() if key not in MODEL}}


def as_text(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, int | float) else value for key, value in values.items()}


FORMS: dict[str, Any] = {
    "a seed as text": lambda values: {**values, "seed": str(values["seed"])},
    "numbers and flags as text": as_text,
    "in a section": lambda values: {"args": values, "host": "node7"},
    "in sections": in_sections,
    "in sections, as text": lambda values: in_sections(as_text(values)),
}


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_wandb_has_the_configuration_in_another_form(source: Path, root: Path, form: str, in_file: bool) -> None:
    for seed in (1337, 2337):
        item = config(seed=seed)
        write_run(task(source), item, run_id=f"run{seed}", saved_models=f"seed_{seed}", files=("Final",))
        values, folder = FORMS[form](item.to_dict()), f"wandb/wandb/run-20260310_000000-run{seed}"
        document = {key: {"value": value} for key, value in values.items()}
        (task(source) / folder / "files" / "config.yaml").write_text(yaml.safe_dump(document))
        if in_file:
            path = task(source) / f"seed_{seed}" / name_of(item)
            write_checkpoint(path, item, saved_at=START + 300, train_config=values)
    result = ingest(source, root)
    assert {row.seed: row.run_id for row in result.placed} == {1337: "run1337", 2337: "run2337"}
    assert not result.plan.overwritten
    assert not result.plan.without_files
