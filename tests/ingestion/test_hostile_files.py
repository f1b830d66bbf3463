"""`ingest` of bad input: a clear message for each, the rest goes on, nothing is lost, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.tree.records import read_record
from tests.helpers import hostile
from tests.helpers.raw import START, config, name_of, snapshot, write_checkpoint, write_run

GOOD = "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "grid_outputs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def task(source: Path) -> Path:
    return source / "len_gen_k8" / "task_0006"


@pytest.fixture
def good(task: Path) -> list[Path]:
    """A good run beside whatever a test breaks."""
    return write_run(task, config(), run_id="abcd1234")


def assert_rest_went_on(result: IngestResult, root: Path) -> None:
    assert [row.path.rpartition("/")[0] for row in result.placed] == [GOOD, GOOD]
    assert read_record(root / GOOD).run_id == "abcd1234"


def command(*arguments: str | Path, before: str = "") -> subprocess.CompletedProcess[bytes]:
    """The program in a process of its own; its output is bytes."""
    program = f"{before}\nfrom ckptman.cli import main\nmain()"
    line = [sys.executable, "-c", program, *(os.fspath(argument) for argument in arguments)]
    return subprocess.run(line, capture_output=True, check=False)


# --- files that are no good checkpoints -------------------------------------------------------------------------------


def test_every_hostile_file_is_refused_and_stays(
    source: Path, root: Path, task: Path, good: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a payload that is executed makes a folder here
    expected = {}
    for index, bad in enumerate(hostile.hostile_checkpoints()):
        # Each with a good name, so that nothing but its content is against it.
        path = source / "len_gen_k8" / f"task_{100 + index:04d}" / name_of(config())
        path.parent.mkdir()
        path.write_bytes(bad.content)
        os.utime(path, (START, START))
        expected[str(path.relative_to(source))] = bad.code
    before = snapshot(source)
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert {item.source: item.code for item in result.refused} == expected
    assert all(item.message and item.fix for item in result.refused)
    assert snapshot(source) == before
    assert not (tmp_path / "never-made").exists()


def test_a_payload_in_a_checkpoint_of_the_grid_is_not_executed(
    source: Path, root: Path, task: Path, good: list[Path], tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    other = config(use_mlp=True)
    path = task / "saved_models" / name_of(other)
    write_checkpoint(path, other, extra=hostile.Payload(marker))
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert [item.code for item in result.refused] == ["unsafe-pickle"]
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the control: the payload is a real one
    write_checkpoint(path, other)
    assert len(ingest(source, root).placed) == 1


def test_a_plain_tensor_and_the_legacy_format_are_told_apart(
    source: Path, root: Path, task: Path, good: list[Path]
) -> None:
    tensor, legacy = task / name_of(config(use_mlp=True)), task / name_of(config(n_layers=2))
    torch.save(torch.zeros(3), tensor)
    torch.save({"iters_done": 40000}, legacy, _use_new_zipfile_serialization=False)
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert {Path(item.source).name: item.code for item in result.refused} == {
        tensor.name: "foreign", legacy.name: "legacy-format",
    }  # fmt: skip


def test_a_compiled_models_names_are_no_hindrance(source: Path, root: Path, task: Path) -> None:
    path = write_checkpoint(task / name_of(config()), config())
    document = torch.load(path)
    document["model"] = {f"_orig_mod.{name}": value for name, value in document["model"].items()}
    torch.save(document, path)
    result = ingest(source, root)
    assert [row.path for row in result.placed] == [f"{GOOD}/{path.name}"]
    assert (root / GOOD / path.name).read_bytes() == path.read_bytes()


# --- files that cannot be reached -------------------------------------------------------------------------------------


# Modes do not stop root, as long as it has its capabilities: capset(2), version 3, with none of them.
BOUND_BY_MODES = """
import ctypes, os
if os.geteuid() == 0:
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
"""


def test_folders_and_files_without_permission_are_named(source: Path, root: Path, task: Path, good: list[Path]) -> None:
    folder = source / "len_gen_k8" / "closed"
    closed = write_checkpoint(folder / name_of(config(use_mlp=True)), config(use_mlp=True))
    file = write_checkpoint(task / "saved_models" / name_of(config(n_layers=2)), config(n_layers=2))
    folder.chmod(0)
    file.chmod(0)
    try:
        done = command("ingest", source, "--root", root, "--json", before=BOUND_BY_MODES)
        document = json.loads(done.stdout)
    finally:
        folder.chmod(0o755)
        file.chmod(0o644)
    assert done.returncode == 1
    assert {(Path(item["source"]).name, item["code"]) for item in document["refused"]} == {
        ("closed", "unreadable-folder"), (file.name, "unreadable"),
    }  # fmt: skip
    assert len(document["placed"]) == 2
    again = ingest(source, root)  # the control: with permission, all is well
    assert {Path(row.source).name for row in again.placed} == {closed.name, file.name}


def test_odd_names_on_a_terminal_and_in_json(source: Path, root: Path, task: Path, good: list[Path]) -> None:
    names = [
        b"a\nb.pt",
        b"\x1b[31mred.pt",
        b"[red]x.pt",
        b"\xff\xfe.pt",
        "\u202ebidi.pt".encode(),
        b"'; rm -rf ~.pt",
    ]
    odd = source / os.fsdecode(b"odd \xff[bold]\n\x1b[2J")
    odd.mkdir()
    for name in names:
        write_checkpoint(odd / os.fsdecode(name), config(), salt=1)
    human = command("ingest", source, "--root", root)
    assert human.returncode == 1
    assert b"\x1b" not in human.stdout + human.stderr
    text = human.stdout.decode()  # which is UTF-8 throughout
    assert all(line.isprintable() for line in text.splitlines())
    assert "[red]x.pt" in text
    assert len([line for line in text.splitlines() if line.startswith("    odd ")]) == len(names)
    document = json.loads(command("ingest", source, "--root", root, "--json").stdout)
    assert {os.fsencode(Path(item["source"]).name) for item in document["refused"]} == set(names)
    assert len(document["unchanged"]) == 2


def test_a_source_with_an_odd_name_is_ingested_whole(tmp_path: Path, root: Path) -> None:
    source = tmp_path / os.fsdecode(b"out \xff[red]\n$(x)")
    write_run(source / "len_gen_k8" / "task_0006", config(), run_id="abcd1234")
    done = command("ingest", source, "--root", root, "--json", "--with-wandb")
    assert (done.returncode, len(json.loads(done.stdout)["placed"])) == (0, 2)
    assert read_record(root / GOOD).source.root == str(source)
    assert ingest(source, root).placed == ()


# --- W&B files --------------------------------------------------------------------------------------------------------


def _duplicated(text: str) -> str:
    return text + "seed:\n  value: 7\n"


def _aliased(text: str) -> str:
    return text.replace("value: 1337", "value: &s 1337") + "copy:\n  value: *s\n"


def _executed(text: str) -> str:
    return text + "x:\n  value: !!python/object/apply:os.system ['touch executed']\n"


@pytest.mark.parametrize("broken", [_duplicated, _aliased, _executed, lambda text: text[: len(text) // 2] + "\n\t{"])
def test_a_bad_wandb_config_is_told_and_not_used(
    source: Path, root: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(task, config(), run_id="abcd1234")
    [file] = task.rglob("config.yaml")
    file.write_text(broken(file.read_text()))
    result = ingest(source, root)
    assert len(result.placed) == 2
    assert read_record(root / GOOD).run_id is None
    [problem] = [item for item in result.plan.wandb_problems if "config.yaml" in item.message]
    assert problem.source.endswith("run-20260310_000000-abcd1234")
    assert not (tmp_path / "executed").exists()
    # The control: the file unbroken names the run, and the next ingest takes it up.
    file.write_text(yaml.safe_dump({key: {"value": value} for key, value in config().to_dict().items()}))
    again = ingest(source, root)
    assert read_record(root / GOOD).run_id == "abcd1234"
    assert again.plan.wandb_problems == ()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"a": NaN, "b": Infinity, "iter": -Infinity}', b"\xff", b"[" * 10**5]
)
def test_a_bad_wandb_summary_costs_no_placement(source: Path, root: Path, task: Path, content: bytes) -> None:
    write_run(task, config(), run_id="abcd1234")
    [file] = task.rglob("wandb-summary.json")
    file.write_bytes(content)
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    json.loads((root / GOOD / "run.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert json.dumps(result.to_json(), allow_nan=False)


# --- values that are of another kind than they should be --------------------------------------------------------------

WRONG_VALUES: list[Any] = [
    [1],
    {"a": 1},
    None,
    -1,
    1e300,
    float("nan"),
    True,
    "x",
    "a/../b",
    "../../x",
    "y" * 300,
    "\n\x1b",
]


def wrong_configs() -> list[dict[str, Any]]:
    """The good configuration with each key wrong in each way."""
    whole = config().to_dict()
    return [{**whole, key: value} for key in whole for value in WRONG_VALUES]


def test_a_wandb_config_may_hold_anything(source: Path, root: Path, task: Path, good: list[Path]) -> None:
    template = next(task.rglob("run-*-abcd1234"))
    for number, wrong in enumerate(wrong_configs()):
        folder = template.with_name(f"run-20260310_000001-x{number}")
        (folder / "files").mkdir(parents=True)
        document = yaml.safe_dump({key: {"value": value} for key, value in wrong.items()})
        (folder / "files" / "config.yaml").write_text(document)
        (folder / "files" / "wandb-summary.json").write_text('{"iters_done": 40000}')
    result = ingest(source, root)
    assert [row.path.rpartition("/")[0] for row in result.placed] == [GOOD, GOOD]
    assert result.plan.overwritten  # among them runs of another seed, so the lost ones were looked for
    assert json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "trust", ["neither", pytest.param("config", marks=pytest.mark.slow), pytest.param("name", marks=pytest.mark.slow)]
)
def test_a_checkpoints_config_may_hold_anything(
    source: Path, root: Path, task: Path, good: list[Path], trust: str
) -> None:
    document = torch.load(good[1])
    for number, wrong in enumerate(wrong_configs()):
        path = source / "len_gen_k8" / f"task_{100 + number:04d}" / good[1].name
        path.parent.mkdir()
        torch.save({**document, "train_config": wrong}, path)
    result = ingest(source, root, trust=trust)
    placed = {row.source for row in result.placed}
    assert {str(path.relative_to(source)) for path in good} <= placed
    found = placed | {item.source for item in result.refused} | {item.source for item in result.plan.duplicates}
    assert found == {str(path.relative_to(source)) for path in source.rglob("*.pt")}
    assert all((root / row.path).resolve().is_relative_to(root.resolve()) for row in result.placed)
    assert ingest(source, root, trust=trust).placed == ()
    assert json.dumps(result.to_json(), allow_nan=False)
