"""The figures that training measured, where nothing was logged to W&B."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckptman.checks import validate
from ckptman.ingestion import ingest
from ckptman.rules.convention_file import built_in
from ckptman.tree import history, metrics, records
from tests.helpers.ingested import RUN, task
from tests.helpers.raw import START, config, gen_metrics, name_of, write_checkpoint, write_run


def leave(folder: Path, value: float, seed: int = 1337, **more: int) -> None:
    """As training does."""
    measured = {**gen_metrics(value), **more}
    left = records.TrainingMetrics(iters_done=40000, config=config(seed=seed).to_dict(), metrics=measured)
    records.write_training_metrics(folder / "metrics.json", left)


@pytest.mark.parametrize(("seed", "taken"), [(1337, 0.75), (2337, None)])
def test_ingest_takes_them_if_they_are_of_the_same_configuration(
    source: Path, root: Path, seed: int, taken: float | None
) -> None:
    write_checkpoint(task(source) / "seed_1337" / "saved_models" / name_of(config()), config())
    leave(task(source) / "seed_1337", 0.75, seed)
    ingest(source, root)
    record = records.read_record(root / RUN)
    assert (record.run_id, record.metrics_source) == (None, None if taken is None else "training")
    found = metrics.measured(record, built_in())
    assert (found.value, found.source) == (0.75, "training") if found is not None else taken is None


@pytest.mark.parametrize(("seed", "taken"), [(1337, True), (2337, False)])
def test_ingest_keeps_the_learning_curve_beside_them(source: Path, root: Path, seed: int, taken: bool) -> None:
    folder = task(source) / "seed_1337"
    write_checkpoint(folder / "saved_models" / name_of(config()), config())
    leave(folder, 0.75, seed)
    curve = history.of_rows({250: gen_metrics(0.25), 500: gen_metrics(0.75)})
    (folder / history.HISTORY_FILE).write_bytes(history.dump(curve))
    ingest(source, root)
    assert history.read(root / RUN) == (curve if taken else None)
    assert "bad-history" not in {item.code for item in validate(root, convention=built_in()).findings}
    if taken:
        longer = history.of_rows({**curve.rows(), 750: gen_metrics(1.0)})
        (folder / history.HISTORY_FILE).write_bytes(history.dump(longer))
        assert ingest(source, root).histories == (f"{RUN}/{history.HISTORY_FILE}",)
        assert history.read(root / RUN) == longer
        assert ingest(source, root).histories == ()


def test_a_later_ingest_takes_the_newer_ones_and_wandb_goes_before(source: Path, root: Path) -> None:
    folder = task(source) / "seed_1337"
    write_checkpoint(folder / "saved_models" / name_of(config(), "Checkpoint"), config(), step=20001)
    ingest(source, root)
    for value in (0.25, 0.5):
        leave(folder, value)
        assert ingest(source, root).placed == ()
        assert records.read_record(root / RUN).metrics == gen_metrics(value)
    write_run(folder, config(), run_id="abcd1234", metrics=gen_metrics(1.0), save=False)
    ingest(source, root)
    record = records.read_record(root / RUN)
    assert (record.run_id, record.metrics_source, record.metrics["gen/K17/exact_match_acc"]) == ("abcd1234", None, 1.0)


@pytest.mark.parametrize(("last", "source_of"), [(1000, "training"), (40000, None), (50000, None)])
def test_of_a_run_that_went_on_without_wandb_the_later_figures_are_taken(
    source: Path, root: Path, last: int, source_of: str | None
) -> None:
    folder = task(source) / "seed_1337"
    write_run(folder, config(), run_id="abcd1234", last_iter=last, metrics=gen_metrics(0.25))
    ingest(source, root)
    leave(folder, 0.75, iter=40000)
    for _ in range(2):
        ingest(source, root)
        record = records.read_record(root / RUN)
        wanted = 0.25 if source_of is None else 0.75
        assert (record.metrics["gen/K17/exact_match_acc"], record.metrics_source) == (wanted, source_of)
        if source_of is not None:
            (folder / "metrics.json").unlink(missing_ok=True)  # what was known stays


def test_the_figures_of_a_wandb_run_of_another_seed_are_not_taken_whatever_its_id(source: Path, root: Path) -> None:
    for number, seed in enumerate((1337, 2337)):  # one id for both, as `wandb agent` gives it
        folder = task(source) / f"seed_{seed}"
        started = START + 1000 * number
        write_run(
            folder,
            config(seed=seed),
            run_id="agent001",
            started=started,
            metrics=gen_metrics(seed / 10_000),
            save=False,
        )
        path = folder / "saved_models" / name_of(config())
        write_checkpoint(path, config(seed=seed), run_id="agent001", saved_at=started + 300)
        os.utime(path, (started + 300, started + 300))
    ingest(source, root)
    first, second = (records.read_record((root / RUN).with_name(f"seed_{seed}")) for seed in (1337, 2337))
    assert (first.metrics, second.metrics["gen/K17/exact_match_acc"]) == ({}, 0.2337)
