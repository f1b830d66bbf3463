"""Trees of any number of runs, in memory: what `count_tree` would count, without a file."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path, PurePosixPath

from ckptman.rules import naming
from ckptman.rules.convention_file import built_in
from ckptman.rules.placement import place_of
from ckptman.tree.contents import CheckpointFile, Inventory, Origin, Run
from ckptman.tree.records import AttributionNote, CheckpointEntry, RunRecord, RunSource, SourceFile, TreeScan
from ckptman.tree.statistics import TreeStatistics
from tests.helpers.raw import config

METRICS = [f"{kind}/K{k}/{what}" for kind, ks in (("test", range(2, 9)), ("gen", range(17, 33))) for k in ks
           for what in ("exact_match_acc", "token_acc", "loss")]  # fmt: skip


def many_runs(number: int, metrics: Sequence[str] = METRICS) -> TreeStatistics:
    """A tree of so many runs: every task of the grid, of more seeds and for more K the more runs there are."""
    runs = tuple(islice(runs_of_grid(max(3, number // 1400), metrics), number))
    scan = TreeScan(root=Path("/tree"), convention=built_in(), runs=(), lists={}, entries=())
    files = tuple(file for run in runs for file in run.files)
    return TreeStatistics(Inventory(scan=scan, files=files, runs=runs), built_in())


def runs_of_grid(seeds: int, metrics: Sequence[str], *, width: int = 8) -> Iterator[Run]:
    """Runs of every task of the grid, for one K after the other."""
    convention = built_in()
    chance = random.Random(1)
    made = 0
    for k in count(4, 2):
        for layers, mlp, norm, mode, low in (
            (layers, mlp, norm, mode, low)
            for layers in (2, 1) for mlp in (True, False) for norm in (True, False)
            for mode, low in (("mix", 2), ("curriculum", 2), ("mix", k))
        ):  # fmt: skip
            group = f"len_gen{'_single' if low == k else ''}{'' if norm else '_no_ln'}_k{k}"
            some = config(k, n_layers=layers, use_mlp=mlp, use_layernorm=norm, length_mode=mode, train_min_k=low,
                          n_embd=width, wandb_group=group)  # fmt: skip
            common = some.to_dict()
            place = place_of(common, convention, source_group=group, source_task=0)
            steps = [(prefix, prefix.expected_step(common) or 0) for prefix in convention.prefixes]
            files_of = [(prefix, step, naming.naming_of(convention).name_for(common, prefix, step))
                        for prefix, step in steps]  # fmt: skip
            for seed in range(1337, 1337 + 1000 * seeds, 1000):
                made += 1
                values = {**common, "seed": seed}
                folder = PurePosixPath(place.folder, convention.folders.run(seed))
                entries = []
                for prefix, step, name in files_of:
                    digest = hashlib.sha256(f"{made}{name}".encode()).hexdigest()
                    entries.append(CheckpointEntry(name, prefix.name, step, chance.randrange(60_000, 120_000), digest,
                                                   SourceFile(path=name, size=1, mtime_ns=0, inode=0)))  # fmt: skip
                record = RunRecord(
                    run_id=f"{chance.randrange(36**8):08x}", group=group, family=place.family,
                    task=place.task, seed=seed, config=values, config_source="checkpoint",
                    metrics={key: round(chance.random(), 2 if "exact" in key else 4) for key in metrics},
                    source=RunSource(root="/scratch/grid_outputs", group=group, task=place.task),
                    attribution=AttributionNote("only-match", "only run on record with this config and seed"),
                    checkpoints=tuple(entries),
                )  # fmt: skip
                files = tuple(CheckpointFile(folder / entry.file, entry.size, entry) for entry in entries)
                yield Run(folder, Origin.RECORDED, record, values, files, convention)
