"""`learn` from half of the runs of labs that nobody told it of: the other half is read, placed and attributed, too."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.checks import validate
from ckptman.ingestion import ingest, learning
from ckptman.rules import convention_file, naming, placement
from tests.helpers.foreign import LABS as FOREIGN
from tests.helpers.learnable import make
from tests.helpers.more_labs import MORE_LABS
from tests.helpers.slices import few

LABS = FOREIGN | MORE_LABS
SAYING_NOTHING = (
    "lightning", "hydra ids", "run ids", "work folders", "tar", "policies", "experiments counted",
)  # fmt: skip
"""Names and folders that say nothing of a configuration, or no seed."""
IN_EPOCHS = ("lightning", "updates")
"""Names in which epochs stand where steps could."""
_MOST_LINES = 40


@pytest.mark.parametrize(("lab", "where"), few(list(itertools.product(LABS, ["inside", "beside", "nowhere"]))))
def test_what_is_learnt_from_half_of_the_runs_holds_for_all(lab: str, where: str, tmp_path: Path) -> None:
    made = make(tmp_path / "raw", LABS[lab], where)
    make(tmp_path / "half", replace(LABS[lab], in_part=True), where)
    found = learning.learn(tmp_path / "half")
    assert 0 < found.files < len(made)
    assert found.parsed == found.placed == found.files, found.misfits
    assert found.fits or (where == "nowhere" and lab in SAYING_NOTHING), found.misfits
    rules = convention_file.convention_of(found.text, "the proposal")
    assert not any(scheme.pattern for scheme in rules.schemes)
    assert len(found.text.splitlines()) < _MOST_LINES
    for path in made:
        naming.naming_of(rules).parse(PurePosixPath(path).name)
    result = ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    assert len(result.placed) == len(made), result.refused
    codes = {finding.code for finding in validate(tmp_path / "tree", convention=rules).findings}
    assert codes <= ({"unknown-seed"} if where == "nowhere" else set())
    if where != "nowhere":
        _assert_attributed(lab, {item.source: item.path for item in result.placed}, tmp_path / "tree")


def _assert_attributed(lab: str, placed: dict[str, Any], tree: Path) -> None:
    """Each file lies in the folder of its run, whose record has its configuration, seed and step."""
    experiment = LABS[lab]
    runs: dict[Path, set[str]] = defaultdict(set)
    for relative, config, _, step in experiment.files():
        at = tree / placed[PurePosixPath(relative).as_posix()]
        record = json.loads((at.parent / "run.json").read_text())
        held = {**record["config"]}
        for section in experiment.sections.values():
            held |= held.get(section, {})
        assert {key: held[key] for key in config} == config
        assert record["seed"] == config["seed"]
        (entry,) = [entry for entry in record["checkpoints"] if entry["file"] == at.name]
        assert entry["step"] in (step, None) or lab in IN_EPOCHS or "epoch" in at.name
        runs[at.parent].add(json.dumps(config, sort_keys=True))
    assert all(len(configs) == 1 for configs in runs.values())
    assert len(runs) == len({*map(json.dumps, experiment.configs())})


@pytest.mark.parametrize(
    ("lab", "keys"),
    [
        ("dashes", {"lr": "sci", "batch_size": "int", "n_layers": "int", "seed": "int"}),
        ("pairs and thousands", {"lr": ".0e", "bs": "int", "wd": "float", "seed": "int"}),
        ("camel", {"model.n_layer": "int", "model.d_model": "int", "optim.lr": "p", "seed": "int"}),
        ("padded", {"layer": "02d", "head": "02d", "task": "word"}),
        ("negative", {"J": "float", "h": "float", "T": "int", "seed": "int"}),
        ("flags", {"n_layers": "int", "ema": "text", "ln": "text", "seed": "int"}),
        ("equals and dashes", {"model.d_model": "int", "n_head": "int", "optim.lr": "sci", "seed": "int"}),
    ],
)
def test_fields_are_keys_with_their_spelling(lab: str, keys: dict[str, str], tmp_path: Path) -> None:
    make(tmp_path, LABS[lab], "inside")
    (scheme,) = convention_file.convention_of(learning.learn(tmp_path).text, "it").schemes
    assert {field.config: field.type for field in scheme.fields.values()} == keys


def test_words_that_are_there_or_not_are_flags(tmp_path: Path) -> None:
    make(tmp_path, LABS["flags"], "inside")
    (scheme,) = convention_file.convention_of(learning.learn(tmp_path).text, "it").schemes
    assert scheme.fields["ema"].words == {"ema": True}
    assert scheme.fields["ln"].words == {"noln": False}


def test_what_a_run_is_called_is_no_part_of_its_files_names(tmp_path: Path) -> None:
    for rate, seed in itertools.product((0.1, 0.01), (1, 2)):
        config = {"lr": rate, "seed": seed, "run_name": f"lr{rate}_s{seed}"}
        weights = {"w": torch.full((2,), rate)}
        torch.save({"model": weights, "optimizer": None, "config": config, "iter_num": 5},
                   tmp_path / f"lr{rate}_s{seed}_step5.pt")  # fmt: skip
    assert _keys(tmp_path) == {"lr", "seed"}


def test_folders_that_say_keys_are_groups_and_their_seeds_are_runs(tmp_path: Path) -> None:
    make(tmp_path, LABS["hydra overrides"], "inside")
    rules = convention_file.convention_of(learning.learn(tmp_path).text, "it")
    (pattern,) = rules.groups
    assert pattern.pattern == "model.d_model={d_model},optim.lr={lr:float}"
    assert rules.grids[pattern.grid].across == ({"d_model": (64, 128), "lr": (0.01, 0.1)},)
    config = {"model": {"d_model": 256}, "optim": {"lr": 0.5}, "seed": 9}
    place = placement.place_of(config, rules, source_group="model.d_model=256,optim.lr=0.5,seed=9")
    assert (place.group, place.seed) == ("model.d_model=256,optim.lr=0.5", 9)


def test_where_names_are_all_there_is_folders_tell_the_configuration(tmp_path: Path) -> None:
    made = make(tmp_path / "raw", LABS["sweep folders"], "nowhere")
    rules = convention_file.convention_of(learning.learn(tmp_path / "raw").text, "it")
    ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    records = [json.loads(path.read_text()) for path in (tmp_path / "tree").rglob("run.json")]
    said = {(each["group"], each["seed"], each["config"]["lr"], each["config"]["bs"]) for each in records}
    assert ("out-lr1e-4-bs12", 1337, 0.0001, 12) in said
    assert len(said) == len(made)


def test_where_no_seed_is_known_none_is_said(tmp_path: Path) -> None:
    for rate in (0.1, 0.01):
        for task in (0, 1):
            file = tmp_path / "g" / f"task_{task}" / f"lr{rate}_d{task}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            config = {"lr": rate, "depth": task}
            torch.save({"model": {"w": torch.ones(2)}, "optimizer": None, "config": config, "iter_num": 5}, file)
    found = learning.learn(tmp_path)
    assert found.fits
    assert "seeds:" not in found.text
    assert any("no seed is known" in line for line in found.findings)


def test_experiments_side_by_side_have_grids_of_their_own(tmp_path: Path) -> None:
    make(tmp_path / "a", LABS["optimizers"], "inside")
    make(tmp_path / "b", replace(LABS["kind first"], name=lambda c, kind, step: (
        f"unet{c['channels']}_{c['dropout']}_{c['seed']}_{kind}.pth")), "inside")  # fmt: skip
    rules = convention_file.convention_of(learning.learn(tmp_path).text, "it")
    assert len(rules.schemes) == 2
    axes = {pattern.pattern: set(rules.grids[pattern.grid].axes) for pattern in rules.groups}
    assert axes == {"a": {"optimizer", "lr"}, "b": {"channels", "dropout"}}


def test_folders_of_one_name_in_several_others_are_groups_by_both(tmp_path: Path) -> None:
    made = make(tmp_path / "raw", LABS["nested folders"], "nowhere")
    found = learning.learn(tmp_path / "raw")
    assert "groups are named by 2 folders, one in the other" in found.findings
    rules = convention_file.convention_of(found.text, "it")
    assert {pattern.pattern for pattern in rules.groups} == {
        "cifar_lr{lr:float}_depth{depth}", "svhn_lr{lr:float}_depth{depth}",
    }  # fmt: skip
    ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "tree").rglob("run.json")]
    assert {(run["group"], run["seed"]) for run in runs} == {
        ("_".join(PurePosixPath(path).parts[:2]), int(PurePosixPath(path).parts[2].removeprefix("seed")))
        for path in made
    }
    one_level = convention_file.convention_of(found.text.replace("group_levels: 2", "group_levels: 1"), "control")
    ingest(tmp_path / "raw", tmp_path / "control", convention=one_level, settle=0)
    assert {finding.code for finding in validate(tmp_path / "control", convention=one_level).findings}
    again = learning.learn(tmp_path / "raw" / "cifar")
    assert "group_levels" not in again.text, "one folder tells them apart"


def test_a_folder_that_every_run_has_names_no_group(tmp_path: Path) -> None:
    make(tmp_path / "raw", LABS["diffusion"], "nowhere")
    rules = convention_file.convention_of(learning.learn(tmp_path / "raw").text, "it")
    assert rules.raw.inner[-1] == "unet"
    assert [pattern.pattern for pattern in rules.groups] == ["lora-rank{rank}-lr{lr:.0e}"]


def test_brackets_and_ids_in_names_have_a_way_back(tmp_path: Path) -> None:
    make(tmp_path / "brackets", LABS["brackets"], "inside")
    (scheme,) = convention_file.convention_of(learning.learn(tmp_path / "brackets").text, "it").schemes
    assert scheme.template == "run{[}lr={lr:float}{]}{[}bs={bs}{]}{[}seed={seed}{]}_{step}.pt"
    make(tmp_path / "ids", LABS["identifiers"], "inside")
    (scheme,) = convention_file.convention_of(learning.learn(tmp_path / "ids").text, "it").schemes
    assert [field.type for field in scheme.fields.values()] == ["uuid"]
    assert scheme.parse("not-an-id.pt") is None


@pytest.mark.slow
def test_the_time_grows_with_the_number_of_names(tmp_path: Path) -> None:
    times = []
    for count in (500, 4000):
        folder = tmp_path / str(count)
        folder.mkdir()
        torch.save({"w": torch.ones(2)}, tmp_path / "one.pt")
        for number in range(count):
            shutil.copy(tmp_path / "one.pt", folder / f"lr0.{number % 9 + 1}_seed{number // 9}_step5.pt")
            (folder / f"lr0.{number % 9 + 1}_seed{number // 9}_step5.json").write_text('{"config": {"a": 1}}')
        began = time.perf_counter()
        assert learning.learn(folder).parsed == count
        times.append(time.perf_counter() - began)
    assert times[1] < 16 * times[0]


def _keys(folder: Path) -> set[str]:
    (scheme,) = convention_file.convention_of(learning.learn(folder).text, "it").schemes
    return {field.config for field in scheme.fields.values()}
