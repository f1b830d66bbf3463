from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptman.fs import locks
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, convention_of, load_convention
from ckptman.text.errors import MachineError, UsageError
from ckptman.training import evaluation
from ckptman.training.accuracy import Accuracy, measure_accuracy
from ckptman.training.evaluation import (
    Evaluation,
    EvaluationMode,
    evaluate,
    find_checkpoints,
    forget,
    record_evaluation,
)
from ckptman.training.loading import load
from ckptman.tree.metrics import measured
from ckptman.tree.records import read_record
from tests.helpers.model_folders import distributed, trainer
from tests.helpers.raw import config, name_of, snapshot, write_checkpoint, write_run

KS = [2, 3]
SAMPLES = 20
MORE_THAN_LOGGED = 101
"""Training tests on 100 lists of each length."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with two runs of one task, each with a Checkpoint and a Final."""
    for index, seed in enumerate((1337, 2337)):
        folder = tmp_path / f"outputs_{index}"
        write_run(folder / "len_gen_k8/task_0006", config(seed=seed), run_id=f"aaaaaaa{index}")
        ingest(folder, tmp_path / "tree")
    return tmp_path / "tree"


def finals(tree: Path) -> list[Path]:
    return sorted(tree.rglob("Final_*.pt"))


def evaluations_of(file: Path) -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = json.loads((file.parent / "run.json").read_text())["evaluations"]
    return recorded


# --- the figures ------------------------------------------------------------------------------------------------------


def test_a_file_is_measured_on_each_length(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "model.pt", config())
    result = evaluate(file, k=[3, 2, 2], samples=SAMPLES, seed=5)
    model, _ = load(file)
    (found,) = result.evaluations
    assert found == Evaluation(
        path=str(file),
        mode=EvaluationMode.TEACHER_FORCED,
        samples=SAMPLES,
        seed=5,
        by_k={k: measure_accuracy(model, k, samples=SAMPLES, seed=5) for k in KS},
        generalization_k=(17, 32),
    )
    assert result.refused == ()
    assert result.warnings == ()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 0.5])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    file, good = (write_checkpoint(tmp_path / name, config()) for name in ("bad.pt", "good.pt"))
    document = torch.load(file, weights_only=True)
    weights = next(document[key] for key in ("model", "model_state_dict") if key in document)
    weights["transformer.h.0.attn.c_proj.bias"][0] = value
    torch.save(document, file)
    result = evaluate([file, good], k=[2], samples=SAMPLES)
    refused = value != 0.5
    assert [(item.path, item.code) for item in result.refused] == ([(str(file), "not-finite")] if refused else [])
    assert len(result.evaluations) == (1 if refused else 2)
    assert all("c_proj.bias" in item.message and str(file) in item.message for item in result.refused)


def test_the_figures_depend_on_nothing_else(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "one.pt", config())
    other = write_checkpoint(tmp_path / "other.pt", config(n_layers=2), salt=1)
    alone = evaluate(file, k=[3], samples=SAMPLES).evaluations[0]
    among = evaluate([other, file], k=[1, 2, 3, 4], samples=SAMPLES, batch_size=7).evaluations[1]
    assert among.by_k[3] == alone.by_k[3]
    several = [evaluate(file, k=[3], samples=SAMPLES, seed=seed).evaluations[0].by_k[3].tokens for seed in range(8)]
    assert len(set(several)) > 1


def test_the_mode_is_named_and_decides(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "model.pt", config())
    model, _ = load(file)
    found = evaluate(file, k=[6], samples=200, mode="autoregressive").evaluations[0]
    assert found.mode is EvaluationMode.AUTOREGRESSIVE
    assert found.by_k[6] == measure_accuracy(model, 6, samples=200, seed=0, autoregressive=True)
    assert found.by_k[6] != measure_accuracy(model, 6, samples=200, seed=0)
    with pytest.raises(UsageError, match="'greedy' is not a mode"):
        evaluate(file, mode="greedy")


def evaluation_of(right: dict[int, int]) -> Evaluation:
    by_k = {k: Accuracy(k=k, samples=100, exact=exact, tokens=exact * k) for k, exact in right.items()}
    return Evaluation(
        path="file.pt",
        mode=EvaluationMode.TEACHER_FORCED,
        samples=100,
        seed=0,
        by_k=by_k,
        generalization_k=(17, 32),
    )


def test_the_generalization_needs_every_tested_length() -> None:
    every = dict.fromkeys(range(17, 33), 90)
    assert evaluation_of({**every, 2: 0, 17: 58}).gen_em == pytest.approx(0.88)
    interval = evaluation_of({**every, 17: 58}).gen_interval
    assert interval is not None
    assert interval == pytest.approx((0.8631, 0.8950), abs=1e-4)  # Wilson, 1,408 of 1,600
    del every[24]
    assert evaluation_of(every).gen_em is None
    assert evaluation_of(every).gen_interval is None


def test_the_default_lengths_are_those_of_the_convention(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "model.pt", config())
    assert list(evaluate(file, samples=2).evaluations[0].by_k) == list(range(17, 33))
    (tmp_path / "ckptman.yaml").write_text("metrics: {generalization: {k: [2, 3]}}\n")
    found = evaluate(file, samples=2, convention=load_convention(tmp_path / "ckptman.yaml")).evaluations[0]
    assert list(found.by_k) == KS
    assert found.gen_em is not None


def test_a_run_that_was_trained_with_duplicates_is_tested_with_them(tmp_path: Path) -> None:
    values = {"vocab_n": 4, "train_max_k": 4, "test_min_k": 2, "test_max_k": 32}
    file = write_checkpoint(tmp_path / "model.pt", config(allow_duplicates=True, **values))
    assert list(evaluate(file, k=[6], samples=SAMPLES).evaluations[0].by_k) == [6]
    distinct = write_checkpoint(tmp_path / "distinct.pt", config(**{**values, "test_max_k": 4}))
    assert [item.code for item in evaluate(distinct, k=[6], samples=SAMPLES).refused] == ["k-too-large"]


def test_json(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "model.pt", config())
    result = evaluate([file, tmp_path / "model.pt"], k=KS, samples=SAMPLES)
    document = json.loads(json.dumps(result.to_json()))
    assert document.keys() == {"schema_version", "evaluations", "refused", "warnings", "planned"}
    (item,) = document["evaluations"]
    accuracy = result.evaluations[0].by_k[3]
    assert item["by_k"]["3"] == {
        "exact_match": accuracy.exact_match,
        "token_accuracy": accuracy.token_accuracy,
        "low": accuracy.interval[0],
        "high": accuracy.interval[1],
    }
    assert (item["path"], item["mode"], item["samples"], item["seed"]) == (str(file), "teacher-forced", SAMPLES, 0)
    assert (item["k"], item["gen_em"], item["gen_low"], item["gen_high"]) == (KS, None, None, None)
    assert item["recorded"] is False


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    files = [write_checkpoint(tmp_path / f"{n}.pt", config(), salt=n) for n in range(2)]
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"")
    seen: list[tuple[str, int, int]] = []
    evaluate([files[0], bad, files[1]], k=KS, samples=SAMPLES, progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert seen[0] == (str(files[0]), 0, 3 * 2 * SAMPLES)
    assert seen[-1] == (str(files[1]), 3 * 2 * SAMPLES, 3 * 2 * SAMPLES)
    assert done == sorted(done)


# --- which files ------------------------------------------------------------------------------------------------------


def test_a_folder_stands_for_the_checkpoints_of_the_end_of_training(tree: Path) -> None:
    rules = built_in()
    run = finals(tree)[0].parent
    assert find_checkpoints([tree], rules)[0] == finals(tree)
    assert find_checkpoints([run], rules)[0] == finals(run)
    assert len(find_checkpoints([tree], rules, all_checkpoints=True)[0]) == 4
    checkpoint = next(run.glob("Checkpoint_*"))
    assert find_checkpoints([checkpoint], rules)[0] == [checkpoint]


def test_in_a_tree_the_record_tells_what_is_of_the_end_of_training(tmp_path: Path) -> None:
    rules = convention_of("name: {keep: true}", "ckptman.yaml")
    task = tmp_path / "outputs/len_gen_k8/task_0006"
    write_run(task, config(), run_id="aaaaaaaa")
    for kind, name in (("Final", "last.pt"), ("Checkpoint", "half.pt")):  # names that say nothing
        (file,) = task.glob(f"saved_models/{kind}_*.pt")
        file.rename(file.with_name(name))
    ingest(tmp_path / "outputs", tmp_path / "tree", convention=rules, settle=0)
    (last,) = tmp_path.glob("tree/**/last.pt")
    assert find_checkpoints([tmp_path / "tree"], rules)[0] == [last]
    (last.parent / "run.json").unlink()
    with pytest.raises(UsageError, match="no checkpoint of the end of training"):
        find_checkpoints([tmp_path / "tree"], rules)


def test_a_file_is_taken_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    first = finals(tree)[0]
    paths = [first.relative_to(tree), Path(), first]
    assert find_checkpoints(paths, built_in())[0] == [first.relative_to(tree), finals(tree)[1].relative_to(tree)]


def test_raw_outputs_can_be_evaluated_too(tmp_path: Path) -> None:
    write_run(tmp_path / "len_gen_k8/task_0006", config(), run_id="aaaaaaaa")
    result = evaluate(tmp_path, k=KS, samples=SAMPLES)
    assert [Path(item.path).name for item in result.evaluations] == [name_of(config())]
    assert not result.evaluations[0].recorded


def test_paths_without_checkpoints_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as missing:
        evaluate(tmp_path / "nowhere")
    assert missing.value.code == "no-path"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no checkpoint below") as empty:
        evaluate(tmp_path / "empty")
    assert empty.value.code == "no-checkpoints"
    write_checkpoint(tmp_path / "on_the_way" / name_of(config(), "Checkpoint"), config())
    with pytest.raises(UsageError, match="no checkpoint of the end of training") as others:
        evaluate(tmp_path / "on_the_way", k=KS, samples=SAMPLES)
    assert "--all" in others.value.fix
    assert len(evaluate(tmp_path / "on_the_way", k=KS, samples=SAMPLES, all_checkpoints=True).evaluations) == 1


def test_a_checkpoint_that_is_a_folder_is_evaluated_by_its_own_name(tmp_path: Path) -> None:
    for folder in (trainer(tmp_path / "checkpoint-40000"), distributed(tmp_path / "step_40000")):
        result = evaluate([folder], k=[2], samples=2)
        assert ([item.path for item in result.evaluations], result.refused) == ([str(folder)], ())
    file = write_checkpoint(folder / name_of(config()), config())  # the control: one that a checkpoint lies in
    assert find_checkpoints([folder], built_in())[0] == [file]


def test_a_folder_that_cannot_be_read_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = finals(tree)[0].parent
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = evaluate(tree, k=KS, samples=SAMPLES)
    assert [(item.path, item.code) for item in result.refused] == [(str(closed), "unreadable")]
    assert len(result.evaluations) == 1


@pytest.mark.parametrize("values", [{"k": []}, {"k": [0, 2]}, {"samples": 0}])
def test_nothing_to_evaluate_is_wrong_usage(tmp_path: Path, values: dict[str, Any]) -> None:
    file = write_checkpoint(tmp_path / "model.pt", config())
    wanted: dict[str, Any] = {"k": KS, "samples": SAMPLES}
    evaluate(file, **wanted)
    with pytest.raises(UsageError, match="cannot evaluate"):
        evaluate(file, **{**wanted, **values})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"samples": 2.5}, "the number of samples has to be a whole number, not 2.5"),
        ({"seed": "5"}, "the seed has to be a whole number, not '5'"),
        ({"seed": None}, "the seed has to be a whole number, not None"),
        ({"k": ["17"]}, "a length has to be a whole number, not '17'"),
        ({"batch_size": "8"}, "the size of a batch has to be a whole number, not '8'"),
        ({"threads": 0}, "0 is no number of threads"),
        ({"threads": "2"}, "'2' is no number of threads"),
        ({"convention": "ckptman.yaml"}, "'ckptman.yaml' is no convention"),
    ],
)
def test_what_is_no_number_is_wrong_usage_and_not_recorded(tree: Path, values: dict[str, Any], told: str) -> None:
    file = finals(tree)[0]
    before = (file.parent / "run.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        evaluate(file, **{"k": KS, "samples": SAMPLES, **values})
    assert caught.value.message == told
    assert caught.value.fix
    assert (file.parent / "run.json").read_bytes() == before


def test_numbers_of_numpy_are_recorded_as_numbers(tree: Path) -> None:
    file = finals(tree)[0]
    of_numpy: dict[str, Any] = {"samples": np.int64(SAMPLES), "seed": np.int32(5), "batch_size": np.int64(8)}
    evaluate(file, k=np.arange(2, 4), **of_numpy)
    [recorded] = evaluations_of(file)
    assert (recorded["k"], recorded["samples"], recorded["seed"]) == (KS, SAMPLES, 5)


def test_each_path_goes_by_the_rules_of_its_place(tree: Path, tmp_path: Path) -> None:
    (tree / "ckptman.yaml").write_text("metrics: {generalization: {k: [2, 3]}}\n")
    alone = write_checkpoint(tmp_path / "model.pt", config())
    here, there = evaluate([alone, finals(tree)[0]], samples=5).evaluations
    assert list(here.by_k) == list(range(17, 33))
    assert list(there.by_k) == [2, 3]


# --- refused files ----------------------------------------------------------------------------------------------------


def test_a_refused_file_does_not_stop_the_others(tmp_path: Path) -> None:
    good = write_checkpoint(tmp_path / "good.pt", config())
    other = write_checkpoint(tmp_path / "other.pt", config())
    document = torch.load(other, weights_only=True)
    document["train_config"]["use_qk_norm"] = True
    torch.save(document, other)
    positions = write_checkpoint(tmp_path / "positions.pt", config(without_pos=False, test_min_k=9, test_max_k=9))
    few = write_checkpoint(tmp_path / "few.pt", config(vocab_n=9, test_min_k=9, test_max_k=9))
    files = [other, positions, few, good]

    result = evaluate(files, k=[4, 10], samples=SAMPLES)
    assert [item.path for item in result.evaluations] == [str(good)]
    codes = {item.path: item.code for item in result.refused}
    assert codes == {str(other): "other-architecture", str(positions): "sequence-too-long", str(few): "k-too-large"}
    assert all(item.message.startswith(item.path) and item.fix for item in result.refused)

    shorter = evaluate(files, k=[4, 9], samples=SAMPLES)
    assert [item.path for item in shorter.refused] == [str(other)]


# --- recording --------------------------------------------------------------------------------------------------------


def test_in_a_tree_the_result_is_recorded(tree: Path) -> None:
    before = snapshot(tree)
    result = evaluate(tree, k=range(17, 33), samples=MORE_THAN_LOGGED)
    assert [item.recorded for item in result.evaluations] == [True, True]
    changed = {path for path, content in snapshot(tree).items() if before[path] != content}
    assert changed == {str(file.parent.relative_to(tree) / "run.json") for file in finals(tree)}
    for file, one in zip(finals(tree), result.evaluations, strict=True):
        (entry,) = evaluations_of(file)
        shown = one.to_json()
        del shown["path"], shown["recorded"]
        assert entry == {"file": file.name, **shown}
        value = measured(read_record(file.parent), built_in())
        assert value is not None
        assert (value.value, value.source) == (one.gen_em, "evaluation")


def test_record_false_leaves_the_tree_alone(tree: Path) -> None:
    before = snapshot(tree)
    result = evaluate(tree, k=KS, samples=SAMPLES, record=False)
    assert not any(item.recorded for item in result.evaluations)
    assert snapshot(tree) == before


def test_evaluations_are_kept_side_by_side_and_an_equal_one_is_not_made_again(tree: Path) -> None:
    file = finals(tree)[0]
    evaluate(file, k=KS, samples=SAMPLES)
    once = snapshot(tree)
    evaluate(file, k=KS, samples=SAMPLES)
    assert snapshot(tree) == once  # the same again changes nothing

    others: list[dict[str, Any]] = [{"samples": 5}, {"seed": 1}, {"mode": "autoregressive"}, {"k": [2]}]
    for values in others:
        evaluate(file, **{"k": KS, "samples": SAMPLES, **values})
    evaluate(next(file.parent.glob("Checkpoint_*")), k=KS, samples=SAMPLES)
    assert len(evaluations_of(file)) == 6


def test_an_evaluation_with_few_samples_does_not_take_the_place_of_one_with_many(tree: Path) -> None:
    file = finals(tree)[0]

    def shown() -> tuple[str, int]:
        value = measured(read_record(file.parent), built_in())
        assert value is not None
        assert value.interval is not None
        assert value.interval[0] <= value.value <= value.interval[1]
        return value.source, value.samples

    assert shown() == ("W&B", 100)
    evaluate(file, samples=1)
    assert shown() == ("W&B", 100)
    evaluate(file, samples=MORE_THAN_LOGGED)
    assert shown() == ("evaluation", MORE_THAN_LOGGED)
    evaluate(file, samples=2)
    assert shown() == ("evaluation", MORE_THAN_LOGGED)
    (gone,) = forget(file, samples=MORE_THAN_LOGGED)
    assert (gone.path, gone.entry["samples"]) == (str(file), MORE_THAN_LOGGED)
    assert shown() == ("W&B", 100)
    assert [entry["samples"] for entry in evaluations_of(file)] == [1, 2]


def test_an_interrupted_evaluation_goes_on_from_where_it_was(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = finals(tree)
    measure = evaluation._Work._evaluate

    def interrupted(work: Any, file: Path, counter: Any) -> Evaluation:
        if file == second:
            raise KeyboardInterrupt
        return measure(work, file, counter)

    monkeypatch.setattr(evaluation._Work, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tree, k=KS, samples=SAMPLES)
    dry = evaluate(tree, k=KS, samples=SAMPLES, dry_run=True)
    assert ([item.path for item in dry.evaluations], dry.planned) == ([str(first)], (str(second),))

    at_work: list[Path] = []

    def counted(work: Any, file: Path, counter: Any) -> Evaluation:
        at_work.append(file)
        return measure(work, file, counter)

    monkeypatch.setattr(evaluation._Work, "_evaluate", counted)
    seen: list[int] = []
    result = evaluate(tree, k=KS, samples=SAMPLES, progress=lambda _, done, total: seen.append(total - done))
    assert at_work == [second]
    assert seen[-1] == 0
    monkeypatch.undo()
    assert result.evaluations == evaluate(tree, k=KS, samples=SAMPLES).evaluations
    again = evaluate(tree, k=KS, samples=SAMPLES, record=False).evaluations  # the control: these are measured
    assert [item.by_k for item in again] == [item.by_k for item in result.evaluations]


def test_dry_runs_change_nothing(tree: Path) -> None:
    evaluate(tree, k=KS, samples=SAMPLES)
    before = snapshot(tree)
    assert evaluate(tree, k=KS, samples=7, dry_run=True).planned == tuple(map(str, finals(tree)))
    assert len(forget(tree, samples=SAMPLES, dry_run=True)) == 2
    assert forget(tree, samples=7) == forget(tree, k=[2], samples=SAMPLES) == ()
    assert snapshot(tree) == before


def test_a_file_beside_the_record_that_it_does_not_list(tree: Path) -> None:
    stray = finals(tree)[0].with_name(name_of(config(), "Final").replace("iters40000", "iters7"))
    write_checkpoint(stray, config())
    before = snapshot(tree)
    result = evaluate(stray, k=KS, samples=SAMPLES)
    assert len(result.evaluations) == 1
    assert "does not list this file" in result.warnings[0]
    assert snapshot(tree) == before


def test_a_record_that_cannot_be_read_or_written_is_a_warning(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, sound = finals(tree)
    (broken.parent / "run.json").write_text("{")
    result = evaluate(tree, k=KS, samples=SAMPLES)
    assert [item.recorded for item in result.evaluations] == [False, True]
    (warning,) = result.warnings
    assert warning.startswith(f"{broken} is evaluated, but not recorded: ")
    assert (broken.parent / "run.json").read_text() == "{"

    def full(*_: object, **__: object) -> bool:
        raise MachineError("the disk is full", code="disk-full")

    monkeypatch.setattr("ckptman.tree.records.write_record", full)
    result = evaluate(sound, k=KS, samples=SAMPLES, seed=1)
    assert not result.evaluations[0].recorded
    assert result.warnings == (f"{sound} is evaluated, but not recorded: the disk is full",)


def test_a_record_is_not_written_while_another_process_writes_the_tree(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = finals(tree)[0]
    monkeypatch.setattr("ckptman.training.evaluation._LOCK_WAIT", 0.001)
    with locks.lock_tree(tree):
        result = evaluate(file, k=KS, samples=SAMPLES)
    assert "another ckptman is writing" in result.warnings[0]
    assert evaluations_of(file) == []

    evaluate(file, k=KS, samples=SAMPLES)
    assert len(evaluations_of(file)) == 1


def test_a_lock_that_is_let_go_is_waited_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = finals(tree)[0]
    lock = locks.lock_tree(tree)
    lock.__enter__()
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            lock.__exit__(None, None, None)

    monkeypatch.setattr("time.sleep", wait)
    assert evaluate(file, k=KS, samples=SAMPLES).evaluations[0].recorded
    assert len(waited) == 2


def test_a_run_folder_by_itself_is_recorded_too(tree: Path, tmp_path: Path) -> None:
    run = finals(tree)[0].parent
    alone = run.rename(tmp_path / "a_run")
    (found,) = evaluate(alone, k=KS, samples=SAMPLES).evaluations
    assert found.recorded
    moved = replace(found, path=str(tmp_path / found.path.rpartition("/")[2]))
    assert not record_evaluation(moved, built_in())  # there is no record
