from __future__ import annotations

import itertools
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptman.raw.attribution import Span
from ckptman.raw.wandb_runs import (
    FROM_FILES,
    FROM_LOG,
    WandbRun,
    flat_summary,
    folder_run_id,
    merge_requeued,
    read_run_folder,
)
from ckptman.text.errors import RefusedError
from tests.helpers import hostile_wandb as hw

STARTED, ENDED = 1_773_169_407.769758, 1_773_169_702.5


# --- One folder -----------------------------------------------------------------------------------------------------


def test_an_online_run(tmp_path: Path) -> None:
    folder = hw.online_folder(tmp_path)
    assert read_run_folder(folder) == WandbRun(
        run_id="abc12345",
        folders=(folder,),
        group=None,
        config={
            "allow_duplicates": False, "learning_rate": 1e-4, "length_mode": "mix", "max_iters": 40_000, "min_lr": 1e-6,
            "n_layers": 1, "seed": 1337, "train_max_k": 8, "train_min_k": 2, "wandb_entity": None, "weight_decay": 0,
        },
        config_source=FROM_FILES,
        summary={"iter": 39_751, "iters_done": 40_000, "_timestamp": ENDED, "gen/K17/exact_match_acc": 0.25},
        spans=(Span(STARTED, ENDED),),
        exit_code=None,
        finished=True,
        last_iter=40_000,
        problems=(),
    )  # fmt: skip


def test_an_offline_run(tmp_path: Path) -> None:
    folder = hw.offline_folder(tmp_path)
    run = read_run_folder(folder)
    assert (run.run_id, run.group, run.config, run.config_source) == ("abc12345", "len_gen_k8", hw.CONFIG, FROM_LOG)
    assert run.summary["gen/K17/exact_match_acc"] == 0.5
    assert (run.started, run.ended) == (1_773_169_407.75, 1_773_169_703.25)
    assert (run.exit_code, run.finished, run.last_iter, run.problems) == (0, True, 40_000, ())
    assert run == read_run_folder(folder)


def test_an_online_run_prefers_its_files_and_takes_the_rest_from_its_log(tmp_path: Path) -> None:
    run = read_run_folder(hw.online_folder(tmp_path, log=hw.whole_log(configuration={"seed": 5})))
    assert (run.config["seed"], run.summary["gen/K17/exact_match_acc"]) == (1337, 0.25)
    assert (run.group, run.exit_code, run.finished) == ("len_gen_k8", 0, True)


def test_of_metrics_with_a_summary_of_their_own_the_last_values_are_in_the_log(tmp_path: Path) -> None:
    rows = [hw.history({"acc": value, "loss": 1.0, "_step": step}, step) for step, value in enumerate((0.9, 0.5))]
    summary = {"acc": {"max": 0.9}, "lr": {"now": 1.0}}
    for kind, log in (("offline", (*rows, hw.summary(summary))), ("online", rows)):
        folder = (hw.offline_folder if kind == "offline" else hw.online_folder)(
            tmp_path / kind, log=hw.log_bytes(hw.run(), *log),
            **({} if kind == "offline" else {"summary_json": json.dumps(summary)}),
        )  # fmt: skip
        assert read_run_folder(folder).summary == {"acc.max": 0.9, "lr.now": 1.0, "acc": 0.5}, kind


def test_an_online_run_without_its_files_is_read_from_its_log(tmp_path: Path) -> None:
    folder = hw.online_folder(tmp_path, config_yaml=None, summary_json=None, metadata_json=None, log=hw.whole_log())
    run = read_run_folder(folder)
    assert (run.config, run.config_source, run.problems) == (hw.CONFIG, FROM_LOG, ())
    assert run.summary["gen/K17/exact_match_acc"] == 0.5
    assert run.started == 1_773_169_407.75


def test_without_metrics_a_summary_file_still_counts(tmp_path: Path) -> None:
    assert read_run_folder(hw.online_folder(tmp_path / "a"), metrics=False).summary["iter"] == 39_751
    offline = read_run_folder(hw.offline_folder(tmp_path / "b"), metrics=False)
    assert (offline.summary, offline.last_iter, offline.ended) == ({}, None, 1_773_169_703.25)
    assert (offline.config, offline.finished) == (hw.CONFIG, True)


def test_the_faults_of_a_log_count_where_the_files_do_not_tell_all(tmp_path: Path) -> None:
    cut = hw.whole_log()[:-1]
    assert read_run_folder(hw.online_folder(tmp_path / "a", log=cut)).problems == ()
    missing: tuple[dict[str, Any], ...] = ({"summary_json": None}, {"config_yaml": None})
    for number, absent in enumerate(missing):
        run = read_run_folder(hw.online_folder(tmp_path / str(number), log=cut, **absent))
        assert "middle of a record" in run.problems[0]


def test_a_killed_run_is_not_finished(tmp_path: Path) -> None:
    whole = hw.whole_log()
    killed = read_run_folder(hw.offline_folder(tmp_path / "a", log=whole[:-60]))
    assert (killed.exit_code, killed.finished) == (None, False)
    assert killed.ended == 1_773_169_703.25
    assert "middle of a record" in killed.problems[0]
    at_once = read_run_folder(hw.offline_folder(tmp_path / "b", log=hw.log_bytes(hw.run())))
    assert (at_once.config, at_once.spans, at_once.finished) == (
        hw.CONFIG,
        (Span(1_773_169_407.75, None, over=False),),
        False,
    )


def test_a_failed_run_is_not_finished(tmp_path: Path) -> None:
    run = read_run_folder(hw.online_folder(tmp_path, log=hw.log_bytes(hw.run(), hw.ending(1))))
    assert (run.exit_code, run.finished, run.last_iter) == (1, False, 40_000)


def test_without_a_log_a_run_that_did_all_its_iterations_is_finished(tmp_path: Path) -> None:
    for done, finished in ((40_000, True), (39_999, False), ("40000", False), (None, False), (True, False)):
        summary = json.dumps({"iters_done": done, "x": 1})
        folder = hw.online_folder(tmp_path / repr(done), summary_json=summary, log=None)
        assert read_run_folder(folder).finished is finished


@pytest.mark.parametrize(
    ("summary", "last_iter"),
    [
        ({"iters_done": 40_000, "iter": 39_751, "_step": 5}, 40_000),
        ({"iter": 39_751.0, "_step": 5}, 39_751),
        ({"_step": 5, "iter": "many"}, 5),
        ({"iter": math.nan, "_step": True}, None),
        ({"iter": math.inf}, None),
        ({"iter": 10**400}, None),
        ({"loss": 1.0}, None),
    ],
)
def test_how_far_a_run_came(tmp_path: Path, summary: dict[str, Any], last_iter: int | None) -> None:
    folder = hw.online_folder(tmp_path, summary_json=json.dumps(summary))
    assert read_run_folder(folder).last_iter == last_iter


def test_a_folder_with_nothing_but_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "offline-run-20260310_152827-abc12345"
    folder.mkdir()
    run = read_run_folder(folder)
    assert (run.run_id, run.config, run.config_source, run.spans) == (
        "abc12345",
        {},
        "",
        (Span(None, None, over=False),),
    )
    assert not run.finished


# --- Times ----------------------------------------------------------------------------------------------------------


def test_the_start_is_the_metadata_s_then_the_config_s_then_the_log_s_then_by_the_runtime(tmp_path: Path) -> None:
    without_wandb = hw.CONFIG_YAML[hw.CONFIG_YAML.index("allow_duplicates") :]
    summary = '{"_timestamp": 1773169702.5, "_runtime": 300.5, "a": 1}'
    cases: list[tuple[dict[str, Any], float | None]] = [
        ({}, STARTED),
        ({"log": hw.whole_log()}, STARTED),
        ({"metadata_json": None, "log": hw.whole_log()}, 1_773_169_407.5),
        ({"metadata_json": '{"startedAt": "2026-03-10T19:03:27"}'}, 1_773_169_407.0),  # no zone: UTC, as W&B means it
        ({"metadata_json": '{"startedAt": "2026-03-10T15:03:27-04:00"}'}, 1_773_169_407.0),
        ({"metadata_json": '{"startedAt": "2026-03-10T19:03:27.769758123Z"}'}, STARTED),
        ({"metadata_json": None}, 1_773_169_407.5),  # the first of two processes
        ({"metadata_json": '{"startedAt": "yesterday"}'}, 1_773_169_407.5),
        ({"metadata_json": '{"startedAt": "0001-01-01T00:00:00"}'}, 1_773_169_407.5),
        ({"metadata_json": None, "config_yaml": without_wandb, "log": hw.whole_log()}, 1_773_169_407.75),
        ({"metadata_json": None, "config_yaml": without_wandb, "summary_json": summary}, 1_773_169_402.0),
        ({"metadata_json": None, "config_yaml": without_wandb}, None),
    ]
    for number, (changes, started) in enumerate(cases):
        assert read_run_folder(hw.online_folder(tmp_path / str(number), **changes)).started == started, changes


def test_the_stamp_in_the_name_is_no_time(tmp_path: Path) -> None:
    folder = hw.online_folder(tmp_path, config_yaml=None, summary_json=None, metadata_json=None)
    assert read_run_folder(folder).spans == (Span(None, None, over=False),)


def test_a_run_covers_its_span_and_a_little_after(tmp_path: Path) -> None:
    run = read_run_folder(hw.online_folder(tmp_path))
    assert [run.covers(time) for time in (STARTED - 1, STARTED, ENDED, ENDED + 119, ENDED + 121)] == [
        False, True, True, True, False,
    ]  # fmt: skip


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("run-20260310_152827-uhd352zp", "uhd352zp"),
        ("offline-run-20260310_152827-my-run.1", "my-run.1"),
        ("run-20260310_152827-two words", "two words"),
        ("run-20260310_152827-uhd352zp (copy)", "uhd352zp"),
        ("run-20260310_152827-uhd352zp - Copy (2)", "uhd352zp"),
        ("run-20260310_152827-copy", "copy"),
        ("latest-run", None),
        ("run-20260310_152827-", None),
        ("run-2026_15-abc", None),
        ("run-20260310_152827-..", None),
        ("run-20260310_152827-a:b", None),
        ("run-20260310_152827-a\nb", None),
        ("run-20260310_152827-\x1b[31m", None),
        ("run-20260310_152827-\udcff", None),
        ("run-20260310_152827-" + "x" * 129, None),
    ],
)
def test_the_run_id_in_a_folder_s_name(name: str, run_id: str | None) -> None:
    assert folder_run_id(name) == run_id


def test_a_folder_that_no_run_id_names_is_refused(tmp_path: Path) -> None:
    for log in (None, b"", hw.log_bytes(hw.run("../up")), hw.log_bytes(hw.run("a\nb"))):
        folder = hw.online_folder(tmp_path / str(time.monotonic_ns()), log=log).rename(
            tmp_path / str(time.monotonic_ns())
        )
        with pytest.raises(RefusedError) as caught:
            read_run_folder(folder)
        assert caught.value.code == "not-a-wandb-run"
    renamed = hw.offline_folder(tmp_path).rename(tmp_path / "my best run")
    assert read_run_folder(renamed).run_id == "abc12345"


def test_a_folder_named_for_another_run_says_so(tmp_path: Path) -> None:
    folder = hw.offline_folder(tmp_path, "zzz99999", log=hw.whole_log("abc12345"))
    run = read_run_folder(folder)
    assert run.run_id == "abc12345"
    assert run.problems == ("the folder is named for run 'zzz99999', and its log is of run 'abc12345'",)


def test_what_is_not_a_readable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run-20260310_152827-file").write_text("")
    for name in ("file", "none"):
        with pytest.raises(RefusedError) as caught:
            read_run_folder(tmp_path / f"run-20260310_152827-{name}")
        assert caught.value.code == "unreadable"


# --- Hostile files --------------------------------------------------------------------------------------------------

LAUGHS = "a: {value: &a [1, 2]}\nb: {value: [*a, *a]}\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"config_yaml": "seed: {value: !!python/object/apply:os.system ['true']}\n"},
            "files/config.yaml, line 1: tag",
        ),
        ({"config_yaml": LAUGHS}, "files/config.yaml, line 1: anchor"),
        (
            {"config_yaml": hw.CONFIG_YAML + "seed:\n    value: 7\n"},
            "files/config.yaml, line 29: key 'seed' is given twice",
        ),
        ({"config_yaml": hw.CONFIG_YAML[:300] + "\x00"}, "files/config.yaml: a character"),
        ({"config_yaml": "- 1\n"}, "files/config.yaml: not a mapping"),
        ({"config_yaml": b"#" * 1_000_001}, "files/config.yaml: more than 1,000,000 bytes"),
        ({"summary_json": "{"}, "files/wandb-summary.json: "),
        ({"summary_json": "[1]"}, "files/wandb-summary.json: not a mapping"),
        ({"summary_json": b'{"a": "\xff"}'}, "files/wandb-summary.json: "),
        ({"summary_json": "[" * 200_000}, "files/wandb-summary.json: nested too deep"),
        ({"summary_json": '{"a": "\\ud800"}'}, "files/wandb-summary.json: "),
        ({"summary_json": b" " * 8_000_001}, "files/wandb-summary.json: more than 8,000,000 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem_and_the_log_stands_in(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    run = read_run_folder(hw.online_folder(tmp_path / "bad", log=hw.whole_log(), **changes))
    assert len(run.problems) == 1
    assert run.problems[0].startswith(problem)
    assert run.config["seed"] == 1337
    assert run.config_source == (FROM_LOG if "config_yaml" in changes else FROM_FILES)
    assert run.summary["gen/K17/exact_match_acc"] == (0.5 if "summary_json" in changes else 0.25)
    assert read_run_folder(hw.online_folder(tmp_path / "good", log=hw.whole_log())).problems == ()


def test_bad_metadata_is_a_problem_and_costs_the_start_only(tmp_path: Path) -> None:
    run = read_run_folder(hw.online_folder(tmp_path, metadata_json="nonsense"))
    assert run.problems[0].startswith("files/wandb-metadata.json: ")
    assert run.started == 1_773_169_407.5


def test_config_entries_without_a_value_are_named(tmp_path: Path) -> None:
    text = "wandb_version: 1\nseed: {desc: null, value: 1337}\nn_layers: 2\nuse_mlp: {desc: x}\n"
    run = read_run_folder(hw.online_folder(tmp_path, config_yaml=text))
    assert run.config == {"seed": 1337}
    assert run.problems == ("files/config.yaml: no value under 'n_layers', 'use_mlp'",)


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    folder = hw.online_folder(tmp_path, config_yaml=None, summary_json=None, log=hw.whole_log())
    os.mkfifo(folder / "files" / "config.yaml")
    (folder / "files" / "wandb-summary.json").symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").write_text('{"a": 1}')
    run = read_run_folder(folder)
    assert run.config == hw.CONFIG
    assert [problem.split("files/")[1] for problem in run.problems] == [
        "config.yaml is not a regular file",
        "wandb-summary.json is not a regular file",
    ]
    assert read_run_folder(folder, follow_symlinks=True).summary == {"a": 1}


def test_a_files_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = hw.online_folder(tmp_path, log=hw.whole_log())
    (folder / "files").rename(tmp_path / "elsewhere")
    (folder / "files").symlink_to(tmp_path / "elsewhere")
    run = read_run_folder(folder)
    assert (run.config_source, run.problems) == (FROM_LOG, ("files is a symbolic link, which is not followed",))
    assert read_run_folder(folder, follow_symlinks=True).config_source == FROM_FILES


def test_several_logs_in_one_folder_are_a_problem(tmp_path: Path) -> None:
    folder = hw.offline_folder(tmp_path)
    (folder / "run-zzz.wandb").write_bytes(b"")
    (folder / "run-abc12345.wandb.synced").write_bytes(b"")
    run = read_run_folder(folder)
    assert run.config == hw.CONFIG
    assert run.problems == ("2 logs in one folder; 'run-abc12345.wandb' was read",)


# --- Requeued runs --------------------------------------------------------------------------------------------------


def requeued(tmp_path: Path) -> list[WandbRun]:
    """Three folders of one run: killed, killed at once, and come to its end."""
    first = hw.log_bytes(
        hw.run(started=1_000_000.0), hw.history({"iter": 9_000, "_timestamp": 1_000_090.0}), hw.summary({"iter": 9_000})
    )
    last = hw.log_bytes(
        hw.run(started=3_000_000.0), hw.summary({"iters_done": 40_000, "_timestamp": 3_000_200.0}), hw.ending()
    )
    logs = [first, hw.log_bytes(hw.run(started=2_000_000.0)), last]
    return [
        read_run_folder(hw.offline_folder(tmp_path, log=log, stamp=f"20260310_15282{number}"))
        for number, log in enumerate(logs)
    ]


def test_the_folders_of_a_requeued_run_are_one_run(tmp_path: Path) -> None:
    parts = requeued(tmp_path)
    for order in itertools.permutations(parts):
        (run,) = merge_requeued(order)
        assert run.folders == tuple(part.folders[0] for part in parts)
        assert run.spans == (
            Span(1_000_000.0, 1_000_090.0, over=False),
            Span(2_000_000.0, None, over=False),
            Span(3_000_000.0, 3_000_200.0),
        )
        assert (run.started, run.ended) == (1_000_000.0, 3_000_200.0)
        assert (run.finished, run.exit_code, run.last_iter) == (True, 0, 40_000)
        assert run.config == hw.CONFIG
        assert run.problems == ()


def test_a_run_requeued_and_killed_again_is_not_finished(tmp_path: Path) -> None:
    (run,) = merge_requeued(requeued(tmp_path)[:2])
    assert (run.finished, run.exit_code, run.last_iter, run.summary) == (False, None, 9_000, {"iter": 9_000})


def test_a_run_that_had_come_to_its_end_stays_finished_when_it_is_requeued(tmp_path: Path) -> None:
    one, two, three = requeued(tmp_path)
    again = replace(two, spans=(Span(4_000_000.0, None),))
    (run,) = merge_requeued([again, three, one])
    assert (run.finished, run.exit_code, run.last_iter) == (True, None, 40_000)


def test_the_newest_readable_config_counts_and_a_changed_one_is_a_problem(tmp_path: Path) -> None:
    one, two, three = requeued(tmp_path)
    changed = replace(two, config={**two.config, "seed": 2337}, problems=("x",))
    empty = replace(three, config={}, config_source="")
    (run,) = merge_requeued([empty, changed, one])
    assert run.config["seed"] == 2337
    assert run.config_source == FROM_LOG
    assert run.problems == (
        "offline-run-20260310_152821-abc12345: x",
        "the folders of run 'abc12345' differ in their config: seed",
    )


def test_without_times_the_stamps_give_the_order(tmp_path: Path) -> None:
    parts = [replace(part, spans=(Span(None, None),)) for part in requeued(tmp_path)]
    (run,) = merge_requeued(reversed(parts))
    assert run.folders == tuple(part.folders[0] for part in parts)


def test_a_folder_given_twice_counts_once(tmp_path: Path) -> None:
    run = read_run_folder(hw.offline_folder(tmp_path))
    assert merge_requeued([run, run]) == [run]


def test_runs_with_other_ids_stay_apart(tmp_path: Path) -> None:
    later = read_run_folder(hw.offline_folder(tmp_path, "aaa", log=hw.whole_log("aaa", started=2_000_000_000.0)))
    early = read_run_folder(hw.offline_folder(tmp_path, "zzz", log=hw.whole_log("zzz")))
    assert merge_requeued([later, early]) == merge_requeued([early, later]) == [early, later]


# --- Metrics --------------------------------------------------------------------------------------------------------


def test_a_summary_under_flat_keys() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [1]}, "e": "NaN", "f": "-Infinity", "_wandb": {"runtime": 3}, "g": "text"}
    flat = flat_summary(nested)
    assert math.isnan(flat.pop("e"))
    assert flat == {"a.b.c": 1, "a.d": [1], "f": -math.inf, "g": "text"}
