"""Planning and running trainings: what is trained, what is left alone, and what is checked before."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ckptman.training.loop as trainer
from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import CkptmanError, MachineError, UsageError
from ckptman.training.loop import Computing
from ckptman.training.planning import Action, plan_training, training_configs
from ckptman.training.progress import TrainedRun
from ckptman.training.run_folder import RawRun
from ckptman.training.runs import RunResult, TrainResult, train
from ckptman.training.stopping import Stop
from ckptman.training.turns import Turns
from tests.helpers.short_runs import documents, raw_run, same, short_config, without_run_id


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
    assert [run.trained.resumed_from for run in result.runs if run.trained] == [2, None]
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


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "quota-exceeded")])
def test_a_full_folder_is_to_be_freed_and_not_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    """In another folder an interrupted run would start again."""

    def full(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", full)
        with pytest.raises(MachineError) as caught:
            short_train(tmp_path)
    assert (caught.value.code, caught.value.fix[:10]) == (code, "Free space")
    assert states(short_train(tmp_path)) == ["complete"]


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


def moved_away(result: TrainResult, *, all_of_them: bool = True) -> None:
    """As `ingest --mode move` does."""
    paths = only(result).checkpoints
    for path in paths if all_of_them else paths[-1:]:
        path.unlink()


@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_complete_run_whose_checkpoints_were_moved_away_is_complete(tmp_path: Path, all_of_them: bool) -> None:
    first = short_train(tmp_path)
    assert not only(first).planned.moved_away
    moved_away(first, all_of_them=all_of_them)
    again = only(short_train(tmp_path))
    assert (again.state, again.trained, again.planned.moved_away) == ("complete", None, True)
    document = again.to_json()
    assert (document["run_id"], document["iters_done"]) == (only(first).to_json()["run_id"], 12)
    assert document["gen_em"] == only(first).to_json()["gen_em"]
    assert len(again.checkpoints) == (0 if all_of_them else 2)


def test_a_run_that_was_complete_is_trained_where_that_is_not_known(tmp_path: Path) -> None:
    for name, change in (
        ("another configuration", {"config": {**short_config().to_dict(), "max_iters": 11}}),
        ("an older version's status", {"config": None}),
        ("interrupted", {"state": "interrupted"}),
    ):
        moved_away(short_train(tmp_path / name))
        path = raw_run(tmp_path / name).status_file
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        assert only(short_train(tmp_path / name)).trained is not None, name


def test_an_end_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    """Between the word that the run is complete and the removal of its state."""
    result = short_train(tmp_path)
    run, final = only(result).run, only(result).checkpoints[-1]
    shutil.copy(final, run.state)
    final.unlink()
    assert only(short_train(tmp_path)).trained is not None
    assert final.exists()


def test_only_checkpoints_that_are_there_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "PROGRESS_SECONDS", 0.0)
    stop = Stop()
    first = short_train(tmp_path, stop=stop, progress=lambda now: stop.request() if now.iters_done == 8 else None)
    (path,) = only(first).checkpoints
    path.unlink()
    assert only(first).checkpoints == ()
    again = only(short_train(tmp_path))
    assert [path.name.rpartition("_")[2] for path in again.checkpoints] == ["iters11.pt", "iters12.pt"]
    again.checkpoints[0].unlink()
    assert [path.name.rpartition("_")[2] for path in again.checkpoints] == ["iters12.pt"]


def test_auto_logs_to_files_where_the_server_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    modes: list[str] = []

    def done(run: RawRun, computing: Computing, **_: Any) -> Turns[TrainedRun]:
        modes.append(computing.wandb)
        yield
        return TrainedRun(run_id="abcd1234", state="complete", iters_done=12, resumed_from=None, metrics={})

    monkeypatch.setattr("ckptman.training.runs.training", done)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert short_train(tmp_path / "a", wandb="auto").notes == ()
    (note,) = short_train(tmp_path / "b", wandb="auto").notes
    assert "127.0.0.1 cannot be reached" in note
    assert modes == ["online", "offline"]
    with pytest.raises(MachineError, match="cannot be reached"):
        short_train(tmp_path / "c", wandb="online")


def test_without_a_compiler_nothing_is_trained_compiled(tmp_path: Path) -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        with pytest.raises(MachineError) as caught:
            short_train(tmp_path, compiled=True)
        assert caught.value.code == "no-compiler"
        assert not list(tmp_path.rglob("*.json"))
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
        ({"recipe": {"seed": 5}}, "set-by-the-task", "seed"),
        ({"recipe": {"wandb_group": "mine"}}, "set-by-the-task", "wandb_group"),
        ({"facets": {"layer_norm": False}}, "unknown-facet", "'layer_norm'; did you mean 'layernorm'?"),
        ({"group": "len_gen_k4"}, "bad-usage", "'len_gen_k4' says otherwise"),
        ({"k": None, "group": "len_gen_k4", "fixed": True}, "bad-usage", "says otherwise"),
        ({"k": None, "group": "len_gen_k4", "layernorm": False}, "bad-usage", "says otherwise"),
        ({"k": None, "group": "len_gen_k4", "facets": {"regime": "fixed"}}, "bad-usage", "says otherwise"),
    ],
)
def test_bad_input(values: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        training_configs(built_in(), **{"k": 8, "task": 6, **values})
    assert caught.value.code == code
    assert words in caught.value.message
    assert training_configs(built_in(), k=8, task=6)
    assert training_configs(built_in(), k=8, task=6, group="len_gen_k8", facets={"layernorm": True})


def test_what_would_be_another_task_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        training_configs(built_in(), k=2, task=6)
    assert caught.value.code == "other-task"
    assert "dynamic task 6 with K = 2..2 would be trained as fixed task 3" in caught.value.message
    assert "--task 3 --fixed" in caught.value.fix
    assert training_configs(built_in(), k=3, task=6)
    assert training_configs(built_in(), k=2, task=3, fixed=True)


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    plan = plan_training([short_config(), short_config()], tmp_path / "out", convention=built_in())
    assert [run.action for run in plan.runs] == [Action.NEW]
    assert not (tmp_path / "out").exists()


def test_a_dictionary_is_no_configuration(tmp_path: Path) -> None:
    values = short_config().to_dict()
    with pytest.raises(UsageError) as caught:
        train([values], tmp_path)  # type: ignore[list-item]
    assert caught.value.code == "bad-config"
    assert "is no TrainConfig" in caught.value.message
    assert len(plan_training([TrainConfig.from_dict(values)], tmp_path, convention=built_in()).runs) == 1
