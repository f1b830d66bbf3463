"""Organized trees for tests, made without ingesting: run folders with a `run.json` and files of a known size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptman.rules.convention_file import built_in
from ckptman.rules.naming import naming_of
from ckptman.rules.placement import place_of
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.terms import Convention
from ckptman.tree.records import (
    AttributionNote,
    CheckpointEntry,
    LostSource,
    OverwrittenList,
    OverwrittenRun,
    RunRecord,
    RunSource,
    SourceFile,
    write_overwritten,
    write_record,
)

SIZE = 100
"""Bytes of a checkpoint of a made tree; nothing in it is ever read."""


def add_run(
    root: Path,
    config: TrainConfig,
    *,
    run_id: str | None = "abcd1234",
    metrics: Mapping[str, Any] | None = None,
    evaluations: tuple[dict[str, Any], ...] = (),
    kinds: tuple[str, ...] = ("Checkpoint", "Final"),
    more: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    source_task: int = 0,
    source_root: str = "/scratch/grid_outputs",
    convention: Convention | None = None,
) -> Path:
    """Add a finished run to a tree, and return its folder.

    Args:
        more: Configuration values that `TrainConfig` does not know.
        notes: What tells the run's folder apart from that of another run of its seed.
    """
    rules = convention or built_in()
    values = {**config.to_dict(), **(more or {})}
    place = place_of(values, rules, source_group=config.wandb_group, source_task=source_task)
    folder = place.run_folder(rules, *notes)
    path = root / folder
    path.mkdir(parents=True)
    entries = []
    for kind in kinds:
        prefix = rules.prefix(kind)
        assert prefix is not None
        step = prefix.expected_step(values)
        assert step is not None
        name = naming_of(rules).name_for(values, prefix, step)
        (path / name).write_bytes(b"x" * SIZE)
        source = SourceFile(path=name, size=SIZE, mtime_ns=0, inode=0)
        entries.append(CheckpointEntry(name, kind, step, SIZE, "0" * 64, source))
    record = RunRecord(
        run_id=run_id,
        group=place.group,
        family=place.family,
        task=place.task,
        seed=place.seed,
        config=values,
        config_source="checkpoint",
        metrics=metrics or {},
        source=RunSource(root=source_root, group=place.group, task=source_task),
        attribution=AttributionNote("only-match", "test"),
        checkpoints=tuple(entries),
        evaluations=evaluations,
    )
    write_record(path, record)
    return path


def add_overwritten(
    root: Path, *configs: TrainConfig, metrics: Mapping[str, Any] | None = None, by: str = "later"
) -> None:
    """Say that runs of these configurations, all of one task, were overwritten."""
    place = place_of(configs[0].to_dict(), built_in(), source_group=configs[0].wandb_group)
    (root / place.folder).mkdir(parents=True, exist_ok=True)
    runs = [
        OverwrittenRun(
            run_id=f"lost{config.seed}",
            group=place.group,
            task=place.task,
            seed=config.seed,
            source_task=place.task,
            config=config.to_dict(),
            metrics=metrics or {},
            files=(),
            overwritten_by=(by,),
            source=LostSource("/scratch/grid_outputs"),
        )
        for config in configs
    ]
    write_overwritten(root / place.folder, OverwrittenList(runs=tuple(runs)))
