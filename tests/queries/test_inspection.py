"""`show`: any checkpoint file, in a tree or out of one, and what does not fit about it; nothing in it is run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.ingestion.ingesting import ingest
from ckptman.queries.inspection import show
from ckptman.rules.convention_file import load_convention
from ckptman.rules.placement import root_above
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import RefusedError
from tests.helpers.raw import config, name_of, write_checkpoint
from tests.helpers.trees import (
    CHECKPOINT,
    DYNAMIC,
    DYNAMIC_RUN,
    FINAL,
    FIXED,
    RUN,
    TASK,
    copy,
    drop,
    edit_entry,
    edit_record,
    make_tree,
    record_again,
    rename,
    small_config,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [small_config(), small_config(seed=2337), small_config(train_min_k=2)]
    return make_tree(tmp_path_factory.mktemp("show"), runs)


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    return copy(tree, tmp_path)


def codes(path: Path) -> list[str]:
    return [problem.code for problem in show(path).problems]


# --- what a file is ---------------------------------------------------------------------------------------------------


def test_a_file_of_form_a_outside_of_any_tree(tmp_path: Path) -> None:
    settings = config(8, n_layers=2, use_mlp=True)
    path = write_checkpoint(tmp_path / name_of(settings), settings)
    shown = show(path)
    assert (shown.info.form, shown.info.iters_done, shown.config, shown.config_source) == (
        "A",
        40000,
        settings.to_dict(),
        "checkpoint",
    )
    assert shown.name is not None
    assert (shown.name.kind, shown.name.step, shown.name.values["n_layers"]) == ("Final", 40000, 2)
    assert str(shown.belongs_at) == "with_layernorm/dynamic/len_gen_k8/task_0000/seed_1337"
    assert shown.location.root is None
    assert shown.record is None
    assert shown.problems == ()


def test_a_file_of_form_b_with_a_pickled_configuration(tmp_path: Path) -> None:
    settings = config(8)
    weights = torch.load(write_checkpoint(tmp_path / "a.pt", settings), weights_only=True)["model"]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    path = tmp_path / name_of(settings)
    torch.save(
        {
            "model_state_dict": weights,
            "optimizer_state_dict": optimizer.state_dict(),
            "config": settings,
            "iters_done": 40000,
        },
        path,
    )
    document = show(path).to_json()
    assert document["form"] == "B"
    assert document["config"] == settings.to_dict()
    assert document["optimizer"]["groups"][0]["hyperparameters"]["lr"] == 1e-3
    assert document["problems"] == []


def test_the_json_has_what_is_promised(tree: Path) -> None:
    document = show(tree / RUN / FINAL).to_json()
    assert document == json.loads(json.dumps(document, allow_nan=False))
    promised = {
        "schema_version", "path", "form", "iters_done", "config", "tensors", "parameters", "optimizer", "name",
        "problems",
    }  # fmt: skip
    assert promised <= set(document)
    loaded = torch.load(tree / RUN / FINAL, weights_only=True)["model"]
    assert document["tensors"] == [
        {"name": name, "shape": list(tensor.shape), "dtype": "float32"} for name, tensor in loaded.items()
    ]
    storages = {tensor.data_ptr(): tensor.numel() for tensor in loaded.values()}
    assert document["parameters"] == sum(storages.values())
    assert document["name"]["parsed"]["config"]["train_max_k"] == 4
    assert document["name"]["parsed"]["kind"] == "Final"
    assert document["run"]["run_id"] == "run00000"
    assert document["run"]["seed"] == 1337
    assert document["run"]["gen_em"] == 0.5
    assert document["belongs_at"] == RUN
    assert document["root"] == str(tree)


@pytest.mark.parametrize("file", [f"{RUN}/{FINAL}", f"{RUN}/{CHECKPOINT}"])
def test_a_checkpoint_in_its_place_has_no_problem(tree: Path, file: str) -> None:
    shown = show(tree / file)
    assert shown.problems == ()
    assert shown.location.root == tree
    assert str(shown.belongs_at) == str(shown.location.folder) == RUN
    assert shown.entry is not None
    assert shown.entry.file == Path(file).name
    assert shown.generalization is not None


def test_the_real_runs_configuration(tmp_path: Path) -> None:
    """A configuration with the derived keys that the published trainer adds is shown as it is."""
    settings = config(8)
    derived = {"sep_id": 128, "total_vocab_size": 129, "max_seq_len": 65, "grad_accum_steps": 1, "device": "cuda"}
    path = write_checkpoint(tmp_path / name_of(settings), settings, train_config=settings.to_dict() | derived)
    assert show(path).config == settings.to_dict() | derived
    assert codes(path) == []


# --- where it lies ----------------------------------------------------------------------------------------------------


def test_a_file_is_found_in_its_tree_however_it_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / RUN)
    for path in (FINAL, f"./{FINAL}", f"../seed_1337/{FINAL}"):
        shown = show(path)
        assert shown.location.root == tree
        assert shown.problems == ()


def test_folders_of_other_names_are_no_tree(tree: Path) -> None:
    rules = load_convention()
    assert root_above(tree / RUN, rules) == tree
    assert root_above(tree / "with_layernorm" / "other", rules) is None
    assert root_above(tree, rules) is None


def test_the_group_and_task_of_raw_folders_place_an_unknown_group(tmp_path: Path) -> None:
    settings = config(8, wandb_group="huang_LN_fixed50")
    in_task = write_checkpoint(tmp_path / "huang_LN_fixed50/task_0003/saved_models" / name_of(settings), settings)
    shown = show(in_task)
    assert str(shown.belongs_at) == "with_layernorm/dynamic/huang_LN_fixed50/task_0003/seed_1337"
    assert shown.problems == ()
    outside = write_checkpoint(tmp_path / name_of(settings), settings)
    assert show(outside).belongs_at is None
    assert codes(outside) == ["no-place"]


def test_the_convention_above_the_file_counts(root: Path) -> None:
    file = root / DYNAMIC_RUN / FINAL.replace("trainK4to4", "trainK2to4")
    assert codes(file) == []
    (root / "ckptman.yaml").write_text("numbering: merged\n")
    shown = show(file)
    assert str(shown.belongs_at) == f"{DYNAMIC}/task_0002/seed_1337-mlp0"
    assert "misplaced" in codes(file)
    assert [problem.code for problem in show(file, convention=load_convention()).problems] == []


# --- problems, each beside the same file without it -------------------------------------------------------------------


def _rewrite(path: Path, **values: Any) -> Path:
    """Save a checkpoint again with other values at its top level."""
    document = torch.load(path, weights_only=True)
    document.update(values)
    torch.save(document, path)
    return path


def _rename_layers(root: Path) -> Path:
    return rename(root / RUN, FINAL, FINAL.replace("_L1_", "_L2_"))


def _rename_step(root: Path) -> Path:
    return rename(root / RUN, FINAL, FINAL.replace("iters40000", "iters30000"), step=30000)


def _stopped_early(root: Path) -> Path:
    path = rename(root / RUN, FINAL, FINAL.replace("iters40000", "iters30000"), step=30000)
    _rewrite(path, iters_done=30000)
    record_again(root / RUN)
    return path


def _other_name(root: Path) -> Path:
    return rename(root / RUN, FINAL, "best [red]\x1b[31m.pt")


def _moved_task(root: Path) -> Path:
    (root / TASK).rename(root / FIXED / "task_0001")
    return root / FIXED / "task_0001" / "seed_1337" / FINAL


def _moved_run(root: Path) -> Path:
    (root / RUN).rename(root / TASK / "seed_4337")
    return root / TASK / "seed_4337" / FINAL


def _without_record(root: Path) -> Path:
    (root / RUN / "run.json").unlink()
    return root / RUN / FINAL


def _broken_record(root: Path) -> Path:
    (root / RUN / "run.json").write_text("[]")
    return root / RUN / FINAL


def _not_recorded(root: Path) -> Path:
    data = (root / RUN / FINAL).read_bytes()
    drop(root / RUN, FINAL)
    (root / RUN / FINAL).write_bytes(data)
    return root / RUN / FINAL


def _other_size(root: Path) -> Path:
    edit_entry(root / RUN, FINAL, size=1)
    return root / RUN / FINAL


def _other_recorded_config(root: Path) -> Path:
    edit_record(root / RUN, config={"learning_rate": 0.5})
    return root / RUN / FINAL


def _other_weights(root: Path) -> Path:
    path = root / RUN / FINAL
    weights = torch.load(path, weights_only=True)["model"]
    del weights["transformer.ln_f.bias"]
    _rewrite(path, model=weights)
    record_again(root / RUN)
    return path


def _off_the_grid(root: Path) -> Path:
    settings = small_config(n_layers=3)
    return write_checkpoint((root / RUN).with_name("seed_7") / name_of(settings), settings)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (_rename_layers, {"name-disagrees"}),
        (_rename_step, {"step-disagrees"}),
        (_stopped_early, {"off-recipe"}),
        (_other_name, {"unknown-name"}),
        (_moved_task, {"misplaced"}),
        (_moved_run, {"wrong-run-folder"}),
        (_without_record, {"no-record"}),
        (_broken_record, {"bad-record"}),
        (_not_recorded, {"unrecorded-file"}),
        (_other_size, {"wrong-size"}),
        (_other_recorded_config, {"config-disagrees"}),
        (_other_weights, {"wrong-shapes"}),
        (_off_the_grid, {"off-grid", "no-record"}),
    ],
)
def test_what_does_not_fit_is_a_problem(root: Path, plant: Callable[[Path], Path], expected: set[str]) -> None:
    assert codes(root / RUN / FINAL) == []
    path = plant(root)
    found = show(path).problems
    assert {problem.code for problem in found} == expected
    for problem in found:
        assert problem.message
        assert problem.fix
        assert not Path(problem.path).is_absolute()
    assert {problem["code"] for problem in show(path).to_json()["problems"]} == expected


def test_other_files_of_the_run_are_not_asked_for(root: Path) -> None:
    drop(root / RUN, FINAL)
    assert codes(root / RUN / CHECKPOINT) == []


def test_a_name_that_was_trusted_decides(tmp_path: Path) -> None:
    settings = small_config()
    name = name_of(small_config(n_layers=2))
    write_checkpoint(tmp_path / "raw" / "saved_models" / name, settings)
    (row,) = ingest(tmp_path / "raw", tmp_path / "tree", trust="name").placed
    shown = show(tmp_path / "tree" / row.path)
    assert shown.config["n_layers"] == 2
    assert shown.info.config is not None
    assert shown.info.config["n_layers"] == 1
    assert shown.config_source == "run.json"
    assert str(shown.belongs_at) == row.path.rpartition("/")[0]
    assert "overruled-config" in [problem.code for problem in shown.problems]
    assert "name-disagrees" not in [problem.code for problem in shown.problems]


def test_without_a_configuration_the_name_stands_in(tmp_path: Path) -> None:
    settings = config(8)
    path = write_checkpoint(tmp_path / name_of(settings), settings, train_config=None)
    shown = show(path)
    assert shown.config_source == "name"
    assert shown.config["n_embd"] == 8
    assert str(shown.belongs_at) == "with_layernorm/dynamic/len_gen_k8/task_0006/seed_unknown"
    assert shown.to_json()["config"] is None
    nameless = path.rename(tmp_path / "best.pt")
    shown = show(nameless)
    assert (shown.config, shown.config_source, shown.belongs_at) == ({}, "", None)
    assert codes(nameless) == ["unknown-name"]


def test_another_programs_run_json_beside_a_raw_file_is_left_alone(tmp_path: Path) -> None:
    settings = config(8)
    path = write_checkpoint(tmp_path / name_of(settings), settings)
    (tmp_path / "run.json").write_text("{}")
    assert codes(path) == []


# --- what cannot be read ----------------------------------------------------------------------------------------------


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_payload_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "was_run"
    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.zeros(1)}, "train_config": Payload(target)}, path)
    with pytest.raises(RefusedError) as caught:
        show(path)
    assert caught.value.code == "unsafe-pickle"
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))  # the control: unpickling runs it
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty"), (b"text", "not-a-checkpoint"), (None, "unreadable"), ("cut", "cut")]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | str | None, code: str) -> None:
    path = tmp_path / "x.pt"
    if content == "cut":
        write_checkpoint(path, config(8))
        assert show(path).info.form == "A"
        path.write_bytes(path.read_bytes()[:-100])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        show(path)
    assert caught.value.code == code
    assert caught.value.fix


# --- without torch ----------------------------------------------------------------------------------------------------


def test_showing_imports_no_torch(tree: Path) -> None:
    code = (
        "import sys\nfrom ckptman import show\nassert not show(sys.argv[1]).problems\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'HEAVY {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tree / RUN / FINAL)], check=True)
    control = code.replace("import sys\n", "import sys, numpy\n", 1)
    assert subprocess.run([sys.executable, "-c", control, str(tree / RUN / FINAL)], check=False).returncode == 1


def test_a_configuration_with_numbers_that_json_lacks(tmp_path: Path) -> None:
    settings: TrainConfig = config(8)
    odd = settings.to_dict() | {"learning_rate": float("inf"), "k_weights": [1.0, float("nan")]}
    path = write_checkpoint(tmp_path / name_of(settings), settings, train_config=odd)
    document = json.loads(json.dumps(show(path).to_json(), allow_nan=False))
    assert document["config"]["learning_rate"] == "Infinity"
    assert document["config"]["k_weights"] == [1.0, "NaN"]
