"""Planning and running trainings: what is trained, what is left alone, and what is checked before."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from short_runs import documents, raw_run, same, short_config, without_run_id

import ckptman.trainer as trainer
from ckptman.convention_file import built_in, load_convention
from ckptman.errors import CkptmanError, MachineError, UsageError
from ckptman.ingest import ingest
from ckptman.stopping import Stop
from ckptman.train import RunResult, TrainResult, train
from ckptman.train_plan import Action, plan_training, training_configs
from ckptman.validate import validate


def short_train(out: Path, *seeds: int, **more: Any) -> TrainResult:
    configs = [short_config(seed=seed) for seed in seeds or (1337,)]
    return train(configs, out, **{"wandb": "disabled", "threads": 1, "device": "cpu", **more})


def states(result: TrainResult) -> list[str]:
    return [run.state for run in result.runs]


def only(result: TrainResult) -> RunResult:
    (run,) = result.runs
    return run


def test_what_is_complete_is_not_trained_again(tmp_path: Path) -> None:
    first = only(short_train(tmp_path))
    assert (first.state, len(first.checkpoints)) == ("complete", 3)
    before = {path: path.read_bytes() for path in first.checkpoints}
    again = short_train(tmp_path, 1337, 2337)
    assert states(again) == ["complete", "complete"]
    assert [run.trained is None for run in again.runs] == [True, False]
    assert again.runs[0].checkpoints == first.checkpoints
    assert {path: path.read_bytes() for path in first.checkpoints} == before


def test_the_json_has_the_promised_keys(tmp_path: Path) -> None:
    (document,) = short_train(tmp_path).to_json()["runs"]
    keys = {"run_id", "group", "task", "seed", "checkpoints", "iterations_per_second", "loss", "gen_em", "resumed_from"}
    assert keys <= document.keys()
    assert (document["group"], document["task"], document["seed"]) == ("len_gen_single_k4", 3, 1337)
    assert all(Path(path).is_file() for path in document["checkpoints"])


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "PROGRESS_SECONDS", 0.0)
    stop = Stop()
    result = short_train(tmp_path / "a", 1, 2, stop=stop, progress=lambda progress: stop.request())
    assert states(result) == ["interrupted", "not started"]
    assert result.interrupted
    assert not result.errors
    refused = only(short_train(tmp_path / "a", 1, resume=False))
    assert refused.error is not None
    assert refused.error.code == "would-restart"
    result = short_train(tmp_path / "a", 1, 2)
    assert [run.trained.resumed_from for run in result.runs if run.trained] == [1, None]
    assert not result.interrupted
    short_train(tmp_path / "b", 1)
    one, other = (documents(raw_run(tmp_path / name, seed=1)) for name in "ab")
    assert same(without_run_id(one), without_run_id(other))


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path) -> None:
    with raw_run(tmp_path, seed=1).lock():
        result = short_train(tmp_path, 1, 2)
    assert states(result) == ["running", "complete"]
    assert [error.code for error in result.errors] == ["running"]
    assert states(short_train(tmp_path, 1, 2)) == ["complete", "complete"]


def test_two_trainings_at_once_train_each_run_once(tmp_path: Path) -> None:
    results: list[TrainResult] = []
    workers = [
        threading.Thread(target=lambda: results.append(short_train(tmp_path, 1, 2, 3, threads=None))) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    trained = [run.run.config.seed for result in results for run in result.runs if run.trained is not None]
    assert sorted(trained) == [1, 2, 3]


def test_another_run_in_the_folder_is_refused_and_the_others_are_trained(tmp_path: Path) -> None:
    short_train(tmp_path, 1)
    configs = [short_config(seed=seed, max_iters=14) for seed in (1, 2)]
    result = train(configs, tmp_path, wandb="disabled", device="cpu")
    assert states(result) == ["refused", "complete"]
    assert [error.code for error in result.errors] == ["other-run"]


def test_an_unwritable_folder_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CkptmanError, match="file"):
        short_train(tmp_path / "file" / "out")
    assert states(short_train(tmp_path / "folder" / "out")) == ["complete"]


def test_too_little_free_space_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    with pytest.raises(MachineError) as caught:
        short_train(tmp_path)
    assert caught.value.code == "disk-full"
    assert not list(tmp_path.rglob("*.pt"))
    monkeypatch.undo()
    assert states(short_train(tmp_path)) == ["complete"]


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        short_train(tmp_path, device="cuda:77")
    assert caught.value.code == "no-device"


def test_wandb_without_a_key_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(MachineError) as caught:
        short_train(tmp_path / "out", wandb="online")
    assert caught.value.code == "wandb-failed"
    assert not (tmp_path / "out").exists()


def test_what_training_leaves_can_be_sorted_and_is_found_right(tmp_path: Path) -> None:
    configs = [
        short_config(seed=seed, vocab_n=40, test_min_k=17, test_max_k=32) for seed in built_in().grids["main"].seeds
    ]
    result = train(configs, tmp_path / "raw", wandb="disabled", device="cpu", threads=1)
    assert not ingest(tmp_path / "raw", tmp_path / "tree").refused
    found = validate(tmp_path / "tree").findings
    assert {finding.code for finding in found} == {"missing-task"}, found
    assert len(list((tmp_path / "tree").rglob("*.pt"))) == sum(len(run.checkpoints) for run in result.runs) == 9


def test_configurations_of_a_task() -> None:
    (config,) = training_configs(built_in(), k=8, task=6)
    assert (config.n_layers, config.use_mlp, config.length_mode, config.use_layernorm) == (1, False, "mix", True)
    assert (config.train_min_k, config.train_max_k, config.seed, config.wandb_group) == (2, 8, 1337, "len_gen_k8")
    (config,) = training_configs(built_in(), k=4, task=3, fixed=True, layernorm=False, seeds=[5])
    assert (config.train_min_k, config.wandb_group, config.seed) == (4, "len_gen_single_no_ln_k4", 5)
    merged = training_configs(load_convention(None, numbering="merged"), k=8, task=2)
    assert [(config.n_layers, config.use_mlp) for config in merged] == [(1, True), (1, False)]


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"task": 8}, "no-such-task", "0 = L2 MLP on mix"),
        ({"k": 200}, "bad-config", "128 numbers"),
        ({"recipe": {"max_iters": 0}}, "bad-config", "max_iters"),
        ({"recipe": {"n_layers": 2}}, "set-by-the-task", "n_layers"),
    ],
)
def test_bad_input(values: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        training_configs(built_in(), **{"k": 8, "task": 6, **values})
    assert caught.value.code == code
    assert words in caught.value.message
    assert training_configs(built_in(), k=8, task=6)


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    plan = plan_training([short_config(), short_config()], tmp_path / "out", convention=built_in())
    assert [run.action for run in plan.runs] == [Action.NEW]
    assert not (tmp_path / "out").exists()
