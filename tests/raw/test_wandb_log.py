from __future__ import annotations

import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptman.raw import wandb_log
from ckptman.raw.wandb_log import MAX_DEPTH, WandbLog, load_json, plausible_time, read_log
from ckptman.text.errors import RefusedError
from tests.helpers import hostile_wandb as hw


def read(tmp_path: Path, data: bytes, *, metrics: bool = True) -> WandbLog:
    path = tmp_path / "run-abc12345.wandb"
    path.write_bytes(data)
    return read_log(path, metrics=metrics)


def test_a_whole_log(tmp_path: Path) -> None:
    assert read(tmp_path, hw.whole_log()) == WandbLog(
        path=tmp_path / "run-abc12345.wandb",
        run_id="abc12345",
        group="len_gen_k8",
        project="sortgpt",
        config=hw.CONFIG,
        summary={
            "_runtime": 295.5, "_step": 39_751, "_timestamp": 1_773_169_703.25, "gen/K17/exact_match_acc": 0.5,
            "iter": 39_751, "iters_done": 40_000, "train/loss": 4.9,
        },
        started=1_773_169_407.75,
        ended=1_773_169_703.25,
        exited=True,
        exit_code=0,
        problems=(),
        has_history=True,
    )  # fmt: skip


def test_without_metrics_all_else_is_the_same(tmp_path: Path) -> None:
    whole, less = read(tmp_path, hw.whole_log()), read(tmp_path, hw.whole_log(), metrics=False)
    assert less.summary == {}
    assert (less.config, less.started, less.ended, less.exit_code) == (
        whole.config, whole.started, whole.ended, whole.exit_code,
    )  # fmt: skip


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
_REMOVE = object()
_CHANGES = st.lists(
    st.tuples(
        st.sampled_from([["a"], ["gen/K17/loss"], ["_step"], ["n", "x"], ["n", "y", "z"], ["ü" * 80]]),
        _VALUES | st.just(_REMOVE),
    )
    | st.tuples(st.just(["n"]), st.fixed_dictionaries({"x": _VALUES}) | st.just(_REMOVE)),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(changes=_CHANGES, filler=st.integers(0, 2 * hw.BLOCK))
def test_updates_and_removals_are_applied_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[list[str], Any]], filler: int
) -> None:
    expected: dict[str, Any] = {"metric": 1}
    records = [hw.run(), hw.output("x" * filler), hw.summary(expected)]
    for number, (path, value) in enumerate(changes):
        _apply(expected, path, value)
        record = hw.pb.Record()
        # Clients write a key that is not nested in one way or in the other.
        key = {"key": path[0]} if len(path) == 1 and number % 2 else {"nested_key": path}
        if value is _REMOVE:
            record.summary.remove.add(**key)
        else:
            record.summary.update.add(**key, value_json=json.dumps(value))
        records.append(record)
    log = read(tmp_path_factory.mktemp("log"), hw.log_bytes(*records))
    assert _leaves(log.summary) == _leaves(expected)
    assert log.problems == ()


def _leaves(tree: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    return {path: value for path, value in hw.paths(tree) if value != {}}


def _apply(tree: dict[str, Any], path: list[str], value: object) -> None:
    for key in path[:-1]:
        if value is _REMOVE and key not in tree:
            return
        tree = tree.setdefault(key, {})
    if value is _REMOVE:
        tree.pop(path[-1], None)
    else:
        tree[path[-1]] = value


def test_the_config_is_updated_and_keys_are_removed(tmp_path: Path) -> None:
    changes = hw.config({"a": 2, "c": 1e-6}, remove="b")
    log = read(tmp_path, hw.log_bytes(hw.run(config={"a": 1, "b": {"x": 1}}), changes))
    assert log.config == {"a": 2, "c": 1e-6}


def test_a_run_record_that_is_written_again_adds_to_the_first(tmp_path: Path) -> None:
    again = hw.run(config={"b": 2}, group="", started=1_800_000_000.0)
    log = read(tmp_path, hw.log_bytes(hw.run(config={"a": 1}), again))
    assert (log.config, log.group, log.started) == ({"a": 1, "b": 2}, "len_gen_k8", 1_773_169_407.75)


def test_without_summary_records_the_history_gives_the_last_value_of_each_metric(tmp_path: Path) -> None:
    records = [
        hw.run(),
        hw.summary({"_runtime": 0}),  # W&B's own keys alone are no summary
        hw.history({"a": 1, "only/early": 7, "n": {"x": 1}, "_timestamp": 1_773_169_500.0}, 1),
        hw.history({"a": 2, "n": {"y": 2}, "_timestamp": 1_773_169_600.0}, 2),
    ]
    log = read(tmp_path, hw.log_bytes(*records))
    assert log.summary == {"a": 2, "only/early": 7, "n": {"x": 1, "y": 2}, "_timestamp": 1_773_169_600.0}
    assert log.ended == 1_773_169_600.0
    assert read(tmp_path, hw.log_bytes(*records, hw.summary({"b": 3}))).summary == {"_runtime": 0, "b": 3}


def test_a_failed_run_says_so(tmp_path: Path) -> None:
    for code in (1, -9, 255):
        log = read(tmp_path, hw.log_bytes(hw.run(), hw.ending(code)))
        assert (log.exited, log.exit_code) == (True, code)


# --- Logs that are cut, damaged, or no logs at all --------------------------------------------------------------------


def test_a_log_cut_anywhere_keeps_what_stands_before(tmp_path: Path) -> None:
    whole = hw.whole_log()
    named = 0
    for length in range(len(whole)):
        log = read(tmp_path, whole[:length])
        assert not log.exited
        assert log.run_id in (None, "abc12345")
        assert log.problems or log.run_id
        if log.run_id:
            named += 1
            assert log.config == hw.CONFIG
    assert named > len(whole) // 3


def test_a_cut_log_says_so(tmp_path: Path) -> None:
    whole = hw.whole_log()
    assert "ends in the middle of a record" in read(tmp_path, whole[:-1]).problems[0]
    assert "ends in the middle of a record" in read(tmp_path, whole[:-3] + bytes(0)).problems[0]
    long = hw.log_bytes(hw.run(), hw.output("x" * 40_000))
    assert "ends in the middle of a record" in read(tmp_path, long[: hw.BLOCK]).problems[0]
    assert read(tmp_path, long).problems == ()


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    whole = hw.whole_log()
    assert read(tmp_path, whole).problems == ()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0x41
        assert read(tmp_path, bytes(broken)).problems, position


def test_damage_costs_its_block_and_no_more(tmp_path: Path) -> None:
    records = [hw.run(), hw.summary({"first": 1}), *[hw.output("x" * 5_000)] * 40, hw.summary({"last": 2}), hw.ending()]
    whole = hw.log_bytes(*records)
    assert len(whole) > 6 * hw.BLOCK
    broken = bytearray(whole)
    broken[2 * hw.BLOCK + 100] ^= 1
    log = read(tmp_path, bytes(broken))
    assert (log.run_id, log.summary, log.exited) == ("abc12345", {"first": 1, "last": 2}, True)
    (problem,) = log.problems
    skipped = int(problem.split()[0].replace(",", ""))
    # The block, and the parts in its neighbours of the two records that reach into it.
    assert hw.BLOCK - 5_100 <= skipped <= hw.BLOCK + 2 * 5_100


def test_zeros_at_the_end_are_skipped(tmp_path: Path) -> None:
    # As a file system leaves them when the machine goes down.
    log = read(tmp_path, hw.whole_log() + bytes(3_000))
    assert log.exit_code == 0
    assert log.problems == ("3,000 damaged bytes were skipped",)


@pytest.mark.parametrize("room", range(16))
def test_a_record_that_ends_near_the_end_of_a_block(tmp_path: Path, room: int) -> None:
    used = len(hw.log_bytes(hw.run(), hw.output("")))
    long = hw.output("x" * (hw.BLOCK - used - room - 4))
    data = hw.log_bytes(hw.run(), long, hw.summary({"a": 1}), hw.ending())
    log = read(tmp_path, data)
    assert (log.summary, log.exit_code, log.problems) == ({"a": 1}, 0, ())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the log is empty"),
        (hw.HEADER[:4], "the log does not begin as a W&B log does"),
        (hw.HEADER, "the log ends before the record that names the run"),
        (b"iteration,loss\n" * 5_000, "the log does not begin as a W&B log does"),
        (hw.log_bytes(hw.output("x")), "the log ends before the record that names the run"),
    ],
)
def test_a_log_that_tells_nothing(tmp_path: Path, data: bytes, problem: str) -> None:
    log = read(tmp_path, data)
    assert log.problems[0] == problem
    assert (log.run_id, log.config, log.summary, log.started, log.ended) == (None, {}, {}, None, None)


@pytest.mark.parametrize(
    "chunk",
    [
        struct.pack("<IHB", 0, 0xFFFF, hw.FULL),
        struct.pack("<IHB", 0, 0xFFFF, hw.FULL) + bytes(70_000),
        hw.chunk(9, b"x"),
        hw.chunk(hw.MIDDLE, b"x"),
        hw.chunk(hw.LAST, b"x"),
        hw.chunk(hw.FIRST, b"x") + hw.chunk(hw.FIRST, b"y"),
        hw.chunk(hw.FIRST, b"x") + hw.chunk(hw.FULL, b""),
        hw.chunk(hw.FULL, b"\x8a\x01\xff\xff\xff\xff\x7f"),  # a run record of 34 GB
        hw.chunk(hw.FULL, b"\x8a\x01\x03\x0a\xff"),
        hw.chunk(hw.FULL, b"\xff" * 30),  # a number that does not end
        hw.chunk(hw.FULL, b"\x0b"),  # a group, which no client writes
        hw.chunk(hw.FULL, b"\x1a\x05\x0a\x03\x82\x01\x00"),  # a summary item without a key
        hw.chunk(hw.FULL, b"\x1a\x02\x0a\x0c"),
    ],
)
def test_bad_chunks_and_messages_are_counted_and_skipped(tmp_path: Path, chunk: bytes) -> None:
    before = hw.log_bytes(hw.run(), hw.summary({"a": 1}))
    assert read(tmp_path, before).problems == ()
    log = read(tmp_path, before + chunk)
    assert log.problems
    assert (log.run_id, log.summary) == ("abc12345", {"a": 1})


def test_a_record_whose_end_is_missing_does_not_spoil_the_next(tmp_path: Path) -> None:
    record = hw.summary({"a": 1}).SerializeToString()
    halves = hw.chunk(hw.FIRST, record[:3]) + hw.chunk(hw.LAST, record[3:])
    assert read(tmp_path, hw.log_bytes(hw.run()) + halves).problems == ()
    log = read(tmp_path, hw.log_bytes(hw.run()) + hw.chunk(hw.FIRST, b"lost") + halves)
    assert (log.summary, log.problems) == ({"a": 1}, ("4 damaged bytes were skipped",))


def test_records_that_are_not_known_are_no_fault(tmp_path: Path) -> None:
    unknown = hw.frame([hw.run().SerializeToString(), b"\xa2\x3f\x02hi", b"\x09" + bytes(8), b"\x0d" + bytes(4)])
    assert read(tmp_path, unknown).problems == ()


def test_a_record_beyond_the_cap_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hw.log_bytes(hw.run(), hw.summary({"big": "x" * 100_000}), hw.summary({"a": 1}))
    assert read(tmp_path, data).problems == ()
    monkeypatch.setattr(wandb_log, "MAX_RECORD_BYTES", 90_000)
    log = read(tmp_path, data)
    assert log.summary == {"a": 1}
    assert log.problems == ("1 records of more than 90,000 bytes were skipped",)


def test_values_beyond_the_cap_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hw.log_bytes(hw.run(), *[hw.summary({f"m{i}": i}) for i in range(100)], hw.summary({"m0": -1}))
    assert len(read(tmp_path, data).summary) == 100
    monkeypatch.setattr(wandb_log, "MAX_VALUES_BYTES", 5_000)
    log = read(tmp_path, data)
    assert 10 < len(log.summary) < 50
    assert log.summary["m0"] == -1
    assert any("values of the summary were left out" in problem for problem in log.problems)


def test_a_metric_that_is_written_many_times_takes_the_room_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_log, "MAX_VALUES_BYTES", 5_000)
    log = read(tmp_path, hw.log_bytes(hw.run(), *[hw.summary({"a": "x" * 1_000, "i": i}) for i in range(100)]))
    assert (log.summary["i"], log.problems) == (99, ())


def test_removing_a_part_of_what_has_none_changes_nothing(tmp_path: Path) -> None:
    removal = hw.pb.Record()
    removal.summary.remove.add(nested_key=["a", "part"])
    removal.summary.remove.add(nested_key=["b", "part"])
    assert read(tmp_path, hw.log_bytes(hw.run(), hw.summary({"a": 1}), removal)).summary == {"a": 1}


# --- Values -----------------------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_are_floats(tmp_path: Path) -> None:
    records = [hw.raw_summary(text, text) for text in ("NaN", "Infinity", "-Infinity")]
    summary = read(tmp_path, hw.log_bytes(hw.run(), *records)).summary
    assert math.isnan(summary["NaN"])
    assert (summary["Infinity"], summary["-Infinity"]) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("{", "{}"), ("nul", "null"), ("1 2", "12"), ("'a'", '"a"'), ("9" * 5_000, "9" * 50),
        ('"\\ud800"', '"\\u00df"'), ('{"\\udfff": 1}', '{"\\u00df": 1}'), ("[" * 100_000, "[]"),
        ("[" * 60 + "]" * 60, "[" * 40 + "]" * 40),
        ('{"a":' * 60 + "1" + "}" * 60, '{"a":' * 40 + "1" + "}" * 40),
    ],
)  # fmt: skip
def test_a_value_that_is_not_json_is_left_out(tmp_path: Path, bad: str, good: str) -> None:
    others = (hw.run(), hw.summary({"a": 1}))
    log = read(tmp_path, hw.log_bytes(*others, hw.raw_summary(bad, "n", "bad")))
    assert log.summary == {"a": 1}
    assert log.problems == ("1 values of the summary are not readable: 'n.bad'",)
    log = read(tmp_path, hw.log_bytes(*others, hw.raw_summary(good, "n", "bad")))
    assert log.summary == {"a": 1, "n": {"bad": load_json(good.encode())}}
    assert log.problems == ()


def test_a_key_nested_too_deep_is_left_out(tmp_path: Path) -> None:
    others = (hw.run(), hw.summary({"a": 1}))
    assert read(tmp_path, hw.log_bytes(*others, hw.raw_summary("1", *["k"] * MAX_DEPTH))).problems == ()
    log = read(tmp_path, hw.log_bytes(*others, hw.raw_summary("1", *["k"] * 10_000)))
    assert log.summary == {"a": 1}
    assert "left out" in log.problems[0]


def test_text_that_is_not_utf_8_does_not_stop_the_reading(tmp_path: Path) -> None:
    run_id = b"\x0a\x02\xff\xfe"
    run = b"\x8a\x01" + bytes([len(run_id)]) + run_id
    assert read(tmp_path, hw.frame([run])).run_id == "\ufffd\ufffd"


@pytest.mark.parametrize("value", [1e300, -5.0, math.nan, "yesterday", True, None, [1], 0])
def test_times_that_cannot_be_are_not_known(tmp_path: Path, value: Any) -> None:
    records = hw.run(), hw.history({"a": 1, "_timestamp": value}), hw.summary({"_timestamp": value})
    log = read(tmp_path, hw.log_bytes(*records))
    assert log.ended is None
    assert plausible_time(value) is None
    assert plausible_time(1_773_169_407) == 1_773_169_407.0


@pytest.mark.parametrize("seconds", [-5, 0, 2**62, -(2**63)])
def test_a_start_that_cannot_be_is_not_known(tmp_path: Path, seconds: int) -> None:
    record = hw.run()
    record.run.start_time.seconds = seconds
    record.run.start_time.nanos = 0
    assert read(tmp_path, hw.log_bytes(record)).started is None


# --- Files that are no logs -------------------------------------------------------------------------------------------


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real.wandb"
    real.write_bytes(hw.whole_log())
    (tmp_path / "link.wandb").symlink_to(real)
    (tmp_path / "loop.wandb").symlink_to("loop.wandb")
    os.mkfifo(tmp_path / "fifo.wandb")
    (tmp_path / "folder.wandb").mkdir()
    for name in ("link", "loop", "fifo", "folder"):
        with pytest.raises(RefusedError, match=f"{name}.wandb is not a regular file") as caught:
            read_log(tmp_path / f"{name}.wandb")
        assert caught.value.code == "not-a-file"
    assert read_log(tmp_path / "link.wandb", follow_symlinks=True).run_id == "abc12345"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wandb", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(RefusedError) as caught:
            read_log(path)
        assert caught.value.code == "unreadable"


# --- Cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_stays_bounded_for_a_log_of_100_mb(tmp_path: Path) -> None:
    metrics = {f"gen/K{k}/{name}": random.random() for k in range(17, 33) for name in ("loss", "exact_match_acc")}
    known = [
        record.SerializeToString() for record in (hw.summary(metrics), hw.history(metrics), hw.output("x" * 25_000))
    ]

    def payloads() -> Iterator[bytes]:
        yield hw.run().SerializeToString()
        for number in range(1_700):
            yield from known
            yield hw.summary({f"key{number}/{i}": "x" * 200 for i in range(150)}).SerializeToString()

    path = tmp_path / "long.wandb"
    path.write_bytes(hw.frame(payloads()))
    assert path.stat().st_size > 100_000_000
    tracemalloc.start()
    log = read_log(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.run_id == "abc12345"
    assert any("left out" in problem for problem in log.problems)
    assert peak < 60_000_000


def test_reading_imports_neither_wandb_nor_protobuf_nor_torch(tmp_path: Path) -> None:
    folder = hw.offline_folder(tmp_path)
    code = (
        "import sys, pathlib; from ckptman.raw.wandb_runs import read_run_folder;"
        f"assert read_run_folder(pathlib.Path({str(folder)!r})).config['seed'] == 1337;"
        "sys.exit(str([name for name in ('wandb', 'google.protobuf', 'torch', 'numpy') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


# --- The real client --------------------------------------------------------------------------------------------------

_CLIENT = """
import wandb
config = {"seed": 1337, "lr": 1e-6, "n": {"a": [1]}}
run = wandb.init(project="sortgpt", group="len_gen_k8", config=config, mode="offline")
for step in range(0, 1000, 250):
    run.log({f"gen/K{k}/exact_match_acc": k / step if step else 0.0 for k in range(17, 33)} | {"iter": step}, step=step)
run.log({"nan": float("nan"), "n": {"x": 1}}, step=1000)
run.summary["best"] = 3
run.config.update({"late": 5})
run.finish()
"""


@pytest.mark.slow
def test_what_the_real_client_writes_is_read_as_its_own_tool_reads_it(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _CLIENT], env=environment, cwd=tmp_path, check=True, capture_output=True)
    (path,) = (file for file in tmp_path.glob("wandb/offline-run-*/*.wandb"))
    log = read_log(path)
    assert (log.group, log.project, log.exit_code, log.problems) == ("len_gen_k8", "sortgpt", 0, ())
    assert log.config == {"seed": 1337, "lr": 1e-6, "n": {"a": [1]}, "late": 5}
    assert log.summary["gen/K17/exact_match_acc"] == 17 / 750
    assert math.isnan(log.summary["nan"])
    assert log.started is not None
    assert log.ended is not None
    assert log.started <= log.ended <= log.started + 60

    command = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
    shown = subprocess.run(
        [command, "leet", "inspect", "--summary", "--json", str(path)], env=environment, capture_output=True, check=True
    )
    theirs = json.loads(shown.stdout)
    assert theirs["run_id"] == log.run_id
    assert theirs["config"] == log.config
    assert theirs["summary"] == {**log.summary, "nan": "NaN"}
