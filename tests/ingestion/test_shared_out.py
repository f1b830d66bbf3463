"""Many files are read by several processes, and found to be what one process finds."""

from __future__ import annotations

import os
from pathlib import Path

import ckptman
from ckptman.ingestion.ingesting import IngestResult, ingest
from tests.helpers.ingested import task
from tests.helpers.model_folders import trainer
from tests.helpers.raw import START, config, name_of, write_checkpoint, write_run
from tests.helpers.sharing import shared_out


def furnish(source: Path) -> None:
    """Good runs, and what is in the way."""
    for number, mlp in ((6, False), (2, True)):
        for seed in (1337, 2337, 3337):
            home = source / f"seed_{seed}" / "len_gen_k8" / f"task_{number:04d}"
            write_run(home, config(seed=seed, use_mlp=mlp), run_id=f"run{number}{seed}")
    cut = task(source, 7) / "saved_models" / name_of(config(length_mode="curriculum"))
    write_checkpoint(cut, config(length_mode="curriculum"))
    cut.write_bytes(cut.read_bytes()[:-100])
    os.utime(cut, (START, START))
    wrong = task(source, 5) / "saved_models" / name_of(config(use_mlp=True))
    write_checkpoint(wrong, config())
    (wrong.parent / "notes.pt").write_text("no checkpoint")
    trainer(task(source, 4) / "checkpoint-100")


def found(result: IngestResult) -> dict[str, object]:
    document = result.to_json()
    return {key: value for key, value in document.items() if key != "space"}


def test_an_ingest_finds_the_same_by_several_processes(source: Path, root: Path) -> None:
    furnish(source)
    alone = found(ingest(source, root, dry_run=True))
    assert {item["code"] for item in alone["refused"]} >= {"cut", "name-disagrees", "not-a-checkpoint"}  # type: ignore[attr-defined]
    with shared_out() as told:
        assert found(ingest(source, root, dry_run=True)) == alone
        assert len([plain for share in told for plain in share if plain is not None]) == 12 + 1  # type: ignore[attr-defined]
        assert found(ingest(source, root)) == {**alone, "dry_run": False}
    assert ckptman.validate(root, ignore=["missing"]).findings == ()
    assert found(ingest(source, root))["placed"] == []


def test_the_status_of_raw_outputs_is_the_same_by_several_processes(source: Path) -> None:
    furnish(source)
    alone = ckptman.status(source)
    with shared_out() as told:
        assert ckptman.status(source).to_json() == alone.to_json()
    assert told
