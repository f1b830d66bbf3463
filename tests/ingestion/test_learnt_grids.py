"""`learn` finds the groups, facets, axes and numberings of task folders, and says where there is none."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ckptman.ingestion import learning
from ckptman.rules import convention_file, grids, placement
from ckptman.text import strict_yaml

Config = dict[str, Any]
AXES: Mapping[str, list[Any]] = {"depth": [4, 2], "gated": [True, False], "schedule": ["cosine", "linear"]}


def _outputs(out: Path, task_of: Callable[[int], int], *, outside: str = "") -> Path:
    """Six groups of tasks over the axes, with two seeds; `outside` is an axis that has no part in the task id."""
    inside = [axis for axis in AXES if axis != outside]
    ids = {cell: number for number, cell in enumerate(itertools.product(*(AXES[axis] for axis in inside)))}
    for width, heads in itertools.product((64, 128, 256), (2, 4)):
        for cell in itertools.product(*AXES.values()):
            values = dict(zip(AXES, cell, strict=True))
            task = task_of(ids[tuple(values[axis] for axis in inside)])
            for seed in (11, 12):
                config = {"width": width, "n_heads": heads, **values, "seed": seed, "max_steps": 100, "lr": 0.1}
                file = out / f"sweep_w{width}_h{heads}" / f"job-{task:03d}" / "saved_models" / (
                    f"D{values['depth']}_g{values['gated']:d}_{values['schedule']}_s{seed}_step100.pt")  # fmt: skip
                file.parent.mkdir(parents=True, exist_ok=True)
                weights = {"w": torch.full((2,), float(seed))}
                torch.save({"model": weights, "optimizer": None, "config": config, "iter_num": 100}, file)
    return out


def test_groups_axes_and_the_numbering_are_found(tmp_path: Path) -> None:
    found = learning.learn(_outputs(tmp_path, lambda task: task))
    assert found.fits
    rules = convention_file.convention_of(found.text, "it")
    (pattern,) = rules.groups
    assert pattern.pattern == "sweep_w{width}_h{n_heads}"
    grid = rules.grids[pattern.grid]
    assert {axis: list(values) for axis, values in grid.axes.items()} == AXES
    assert grid.seeds == (11, 12)
    assert len(grids.group_names(rules)) == 6
    config = {"width": 64, "n_heads": 2, "depth": 2, "gated": True, "schedule": "linear", "seed": 11}
    place = placement.place_of(config, rules)
    assert (place.group, place.task) == ("sweep_w64_h2", 5)
    assert str(place.folder) == "sweep_w64_h2/job-005"


def test_an_axis_without_a_part_in_the_task_id_lies_outside(tmp_path: Path) -> None:
    found = learning.learn(_outputs(tmp_path, lambda task: task, outside="gated"))
    assert found.fits
    (grid,) = convention_file.convention_of(found.text, "it").grids.values()
    assert grid.numberings == {"full": {"": ("gated",)}}
    assert list(grid.axes) == ["depth", "schedule", "gated"]


def test_task_ids_in_no_order_are_kept_as_the_folders_say(tmp_path: Path) -> None:
    drawn = random.Random(3).sample(range(8), 8)
    found = learning.learn(_outputs(tmp_path, lambda task: drawn[task]))
    assert found.placed == found.read
    assert not convention_file.convention_of(found.text, "it").grids
    assert any("no order" in line for line in found.findings)


def test_words_in_groups_names_are_facets(tmp_path: Path) -> None:
    for width, norm, task in itertools.product((64, 128), (True, False), (0, 1)):
        config = {"width": width, "use_norm": norm, "depth": 1 + task, "seed": 1}
        file = (
            tmp_path / f"w{width}{'' if norm else '_plain'}" / f"task_{task}" / f"norm{norm:d}_depth{1 + task}_step5.pt"
        )
        file.parent.mkdir(parents=True)
        torch.save({"model": {"w": torch.ones(2)}, "optimizer": None, "config": config, "iter_num": 5}, file)
    found = learning.learn(tmp_path)
    assert found.fits
    document: Any = strict_yaml.load_yaml(found.text, "it")
    assert document["facets"]["norm"]["config"] == "use_norm"
    assert document["tree"][0] == "{norm}"
    assert set(document["groups"]) == {"w{width}", "w{width}_plain"}
