"""`learn`: conventions are proposed for names of any scheme, wherever configurations are, and ingest follows them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptman.checks import validate
from ckptman.ingestion import ingest, learning
from ckptman.rules import convention_file
from ckptman.text import RefusedError, UsageError, strict_yaml
from tests.helpers.learnable import EXPERIMENTS, make

WHERE = ("inside", "beside", "nowhere")
SAYING_NOTHING = ("epochs", "run folders")
"""Names that say nothing of a configuration: where it is nowhere, a run is only known by its folder."""


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_proposal_reads_names_and_ingest_places_the_files(name: str, where: str, tmp_path: Path) -> None:
    made = make(tmp_path / "raw", EXPERIMENTS[name], where)
    found = learning.learn(tmp_path / "raw")
    assert found.files == len(made)
    assert found.parsed == found.files, found.misfits
    assert found.placed == found.read, found.misfits
    known = 0 if where == "nowhere" and name in SAYING_NOTHING else found.read
    assert found.attributed == known, found.misfits
    assert found.fits is (known > 0)
    rules = convention_file.convention_of(found.text, "the proposal")
    result = ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    assert len(result.placed) == len(made), result.refused


@pytest.mark.parametrize("key", ["batch_size", "learning_rate"])
def test_a_shuffled_configuration_is_matched_to_no_field(key: str, tmp_path: Path) -> None:
    found = learning.learn(_made(tmp_path / "right"))
    assert key in _keys(found)
    assert key not in _keys(learning.learn(_made(tmp_path / "wrong", shuffled=key)))


def _made(out: Path, *, shuffled: str = "") -> Path:
    make(out, EXPERIMENTS["nano"], "inside", shuffled=shuffled)
    return out


def _keys(found: learning.Learnt) -> set[str]:
    (scheme,) = convention_file.convention_of(found.text, "it").schemes
    return {field.config for field in scheme.fields.values()}


def test_names_that_share_nothing_are_of_no_scheme(tmp_path: Path) -> None:
    for name in ("asdf", "New model (copy)", "thing.v2.old", "zz_top", "final_final_REALLY"):
        torch.save({"w": torch.ones(2)}, tmp_path / f"{name}.pt")
    found = learning.learn(tmp_path)
    assert (found.parsed, found.placed, found.fits) == (0, 0, False)
    assert {misfit.what for misfit in found.misfits} == {"name", "place"}


def test_fields_are_the_keys_that_they_state(tmp_path: Path) -> None:
    make(tmp_path, EXPERIMENTS["later"], "inside")
    assert _keys(learning.learn(tmp_path)) >= {
        "n_layers", "use_mlp", "norm_type", "use_qk_norm", "choices", "train_min_k", "train_max_k", "allow_duplicates",
        "length_mode", "without_pos",
    }  # fmt: skip


def _runs(out: Path, steps: list[dict[str, int | None]], **config: object) -> Path:
    """A run of each seed, each with the files that a dictionary names, and their steps."""
    for seed, files in enumerate(steps):
        (out / f"seed{seed}").mkdir(parents=True)
        for name, step in files.items():
            weights = {"w": torch.full((4, 4), float(seed)), "b": torch.full((4,), float(step or 0))}
            document = {"model": weights, "config": {"lr": 0.1, "seed": seed, **config}, "step": step}
            torch.save(document, out / f"seed{seed}" / f"{name}.pt")
    return out


WAY: dict[str, int | None] = {"model_50": 50, "model_100": 100}
ENDED: dict[str, int | None] = {**WAY, "model_final": None}


@pytest.mark.parametrize(
    ("steps", "config", "unfinished"),
    [
        ([ENDED, WAY, WAY, WAY], {}, 0),
        ([ENDED, ENDED, ENDED, WAY], {}, 1),
        ([WAY, WAY, WAY, {"model_50": 50}], {"max_steps": 100}, 1),
        ([WAY, WAY, WAY, {"model_50": 50}], {"max_steps": 100, "patience": 0}, 1),
        ([WAY, WAY, WAY, {"model_50": 50}], {"max_steps": 100, "patience": 5}, 0),
        ([{"model_50": 50}, WAY, {"model_50": 50, "model_final": 100}], {"max_steps": 100}, 1),
        ([{"model_30": 30, "model_90": 90}] * 3, {"max_steps": 100}, 0),
    ],
    ids=["few write one", "most do", "cut", "cut, no early stopping", "may stop early", "known by its step", "none"],
)
def test_a_final_checkpoint_is_missed_only_where_it_is_known_that_the_run_should_have_one(
    steps: list[dict[str, int | None]], config: dict[str, object], unfinished: int, tmp_path: Path
) -> None:
    source = _runs(tmp_path / "raw", steps, **config)
    rules = convention_file.convention_of(learning.learn(source).text, "the proposal")
    assert not ingest(source, tmp_path / "tree", convention=rules, settle=0).refused
    found = [item.code for item in validate(tmp_path / "tree", convention=rules).findings]
    assert found.count("missing-final") == unfinished


@pytest.mark.parametrize(("seed", "codes"), [(-1, {"unknown-seed"}), (3, set())])
def test_a_seed_that_is_none_is_not_missed(seed: int, codes: set[str], tmp_path: Path) -> None:
    """Programs write -1 where no seed was set."""
    for lr in (0.1, 0.01):
        (tmp_path / "raw" / f"out_lr{lr}").mkdir(parents=True)
        document = {"model": {"w": torch.full((4, 4), lr)}, "config": {"LR": lr, "SEED": seed}, "step": 10}
        torch.save(document, tmp_path / "raw" / f"out_lr{lr}" / "model_10.pt")
    rules = convention_file.convention_of(learning.learn(tmp_path / "raw").text, "the proposal")
    assert len(ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0).placed) == 2
    assert {item.code for item in validate(tmp_path / "tree", convention=rules).findings} == codes


@pytest.mark.parametrize(("tag", "runs"), [("fold", 3), ("part", 1)])
def test_each_fold_is_a_run_though_the_configuration_is_of_all(tag: str, runs: int, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "config.json").write_text('{"lr": 0.1, "seed": 1}')
    for number in range(3):
        document = {"model": {"w": torch.full((4, 4), float(number))}, "epoch": 9}
        torch.save(document, tmp_path / "raw" / f"unet_{tag}{number}_best.pt")
    rules = convention_file.convention_of(learning.learn(tmp_path / "raw").text, "the proposal")
    assert len(ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0).placed) == 3
    assert len(list((tmp_path / "tree").rglob("run.json"))) == runs


def _form(out: Path, **document: object) -> dict[str, Any]:
    """The keys of the form that is proposed for two files of this content."""
    out.mkdir()
    for number in range(2):
        weights = {"w": torch.full((4, 4), float(number)), "b": torch.zeros(4)}
        torch.save({key: weights if item is None else item for key, item in document.items()}, out / f"{number}.pt")
    said: Any = strict_yaml.load_yaml(learning.learn(out).text, "it", error=RefusedError)
    (form,) = said["checkpoint"]["forms"].values()
    return {part: key for part, key in form.items() if key in document or "." in key}


@pytest.mark.parametrize(
    ("document", "form"),
    [
        ({"student": None, "dino_loss": {"center": torch.zeros(1)}}, {"weights": "student"}),
        ({"net": None, "train_args": {"batch": 16, "epochs": 3}}, {"weights": "net", "config": "train_args"}),
        ({"net": None, "opt": {"state": [], "hypers": [{"lr": 0.1}]}}, {"weights": "net", "optimizer": "opt"}),
    ],
    ids=["most weights", "sizes of batches", "fastai"],
)
def test_keys_inside_files_are_taken_for_what_they_are(
    document: dict[str, object], form: dict[str, str], tmp_path: Path
) -> None:
    assert _form(tmp_path / "raw", **document) == form


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("../config.yaml", "lr: 0.1\nseed: 7\n"),
        ("params/agent.yaml", "lr: 0.1\nseed: 7\n"),
        (".guild/attrs/flags", "lr: 0.1\nseed: 7\n"),
        ("params.txt", "lr: 0.1\nseed: 7\nval_data: None\n"),
    ],
)
@pytest.mark.parametrize("names", [("a/monday", "b/tuesday"), ("a/run1", "b/run2")], ids=" ".join)
def test_the_configuration_of_a_run_is_found_where_programs_leave_it(
    names: tuple[str, str], path: str, text: str, tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        run = tmp_path / "raw" / name
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        run.mkdir(exist_ok=True)
        (run / path).write_text(text)
        torch.save({"model": {"w": torch.full((4, 4), float(number))}, "step": 9}, run / "model_9.pt")
    found = learning.learn(tmp_path / "raw")
    rules = convention_file.convention_of(found.text, "the proposal")
    assert len(ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0).placed) == 2
    assert {path.parent.name for path in (tmp_path / "tree").rglob("run.json")} == {"seed_7"}


@pytest.mark.parametrize("name", ["package.json", ".pre-commit-config.yaml", "ci.yaml"])
def test_what_lies_above_runs_and_is_called_otherwise_is_no_configuration(name: str, tmp_path: Path) -> None:
    (tmp_path / "raw" / "run").mkdir(parents=True)
    (tmp_path / "raw" / name).write_text('{"lr": 0.1, "seed": 7}')
    torch.save({"model": {"w": torch.ones(4, 4)}, "step": 9}, tmp_path / "raw" / "run" / "model_9.pt")
    assert learning.learn(tmp_path / "raw").attributed == 0


def test_a_file_of_several_runs_is_told(tmp_path: Path) -> None:
    _runs(tmp_path / "raw", [WAY, WAY])
    (tmp_path / "raw" / "config.yaml").write_text("batch: 3\n")
    assert "beside checkpoints: config.yaml; of several runs, and used for none" in learning.learn(
        tmp_path / "raw").findings  # fmt: skip


def test_the_metrics_of_all_files_beside_are_known_and_a_table_may_be_called_json(tmp_path: Path) -> None:
    _runs(tmp_path / "raw", [WAY, WAY])
    for run in (tmp_path / "raw").iterdir():
        (run / "log.csv").write_text("epoch,train_loss\n1,2\n")
        (run / "metrics.json").write_text('{"iteration": 50, "val_acc": 0.1}\n{"iteration": 100, "val_acc": 0.5}\n')
    rules = convention_file.convention_of(learning.learn(tmp_path / "raw").text, "the proposal")
    assert {metric.pattern for metric in rules.metrics.values()} == {"val_acc", "train_loss"}


def test_a_run_whose_best_checkpoint_is_named_for_it_alone_is_one(tmp_path: Path) -> None:
    """Names say keys that stand in a section of the configuration beside them, or say none."""
    for name in ("Ant", "Humanoid"):
        run = tmp_path / "raw" / f"{name}_01-10"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"train: {{name: {name}, lr: 0.1}}\nseed: 42\n")
        for file in (name, f"last_{name}_ep_100", f"last_{name}_ep_200"):
            torch.save({"model": {"w": torch.full((4, 4), float(len(file) + len(name) ** 2))}}, run / f"{file}.pth")
    rules = convention_file.convention_of(learning.learn(tmp_path / "raw").text, "the proposal")
    assert len(ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0).placed) == 6
    assert len(list((tmp_path / "tree").rglob("run.json"))) == 2


def test_a_folder_that_ends_in_a_seed_is_of_no_task(tmp_path: Path) -> None:
    for seed in (0, 10):
        run = tmp_path / "raw" / "ppo" / f"ppo_s{seed}"
        run.mkdir(parents=True)
        torch.save({"model": {"w": torch.ones(4, 4) * seed}, "config": {"lr": 1, "seed": seed}}, run / "model.pt")
    assert "task" not in learning.learn(tmp_path / "raw").text.partition("raw:")[0]


def test_checkpoints_of_another_ending_are_found_by_what_is_in_them(tmp_path: Path) -> None:
    for seed in (1, 2):
        run = tmp_path / "raw" / f"run_seed{seed}"
        run.mkdir(parents=True)
        torch.save({"w": torch.full((4, 4), float(seed))}, run / "ppo.cleanrl_model")
        (run / "notes.log").write_text("x")
    (tmp_path / "raw" / "cut.cleanrl_model").write_bytes(b"x")  # which is seen first
    found = learning.learn(tmp_path / "raw")
    assert (found.files, found.placed) == (3, 2)
    assert "suffix: .cleanrl_model" in found.text.replace('"', "")


def test_a_folder_of_links_alone_is_told_and_its_copy_is_read(tmp_path: Path) -> None:
    """As the cache of the Hugging Face Hub is."""
    folder, blob = tmp_path / "hub" / "snapshots" / "ab12", tmp_path / "hub" / "blobs" / "cd34"
    folder.mkdir(parents=True)
    blob.parent.mkdir()
    save_file({"w": torch.ones(4, 4)}, blob)
    (folder / "model.safetensors").symlink_to(blob)
    with pytest.raises(UsageError, match=r"is a symbolic link: a copy .* cp -rL"):
        learning.learn(tmp_path / "hub")
    subprocess.run(["cp", "-rL", tmp_path / "hub", tmp_path / "copy"], check=True)
    assert learning.learn(tmp_path / "copy").files == 1
