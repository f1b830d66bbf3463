"""What is in the way of ingesting: it is named, and the rest goes on."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.checks import validate
from ckptman.fs import locks
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.text.errors import MachineError, UsageError
from ckptman.tree.records import read_record
from tests.helpers.ingested import RUN, codes, task
from tests.helpers.raw import START, config, gen_metrics, name_of, snapshot, write_checkpoint, write_run

# --- what is in the way -----------------------------------------------------------------------------------------------


@pytest.fixture
def good(source: Path) -> list[Path]:
    """A good run beside whatever a test breaks: the rest must go on."""
    return write_run(task(source), config(), run_id="abcd1234")


def assert_rest_went_on(result: IngestResult, root: Path) -> None:
    assert [row.path.rpartition("/")[0] for row in result.placed] == [RUN, RUN]
    assert (root / RUN / "run.json").is_file()


def old(path: Path) -> Path:
    os.utime(path, (START, START))
    return path


def test_a_cut_file_is_deferred_while_it_is_young(source: Path, root: Path, good: list[Path]) -> None:
    cut = task(source, 7) / "saved_models" / name_of(config(length_mode="curriculum"))
    write_checkpoint(cut, config(length_mode="curriculum"))
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-100])
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert [item.source for item in result.deferred] == [str(cut.relative_to(source))]
    assert result.refused == ()
    assert codes(ingest(source, root, settle=0)) == ["cut"]
    assert codes(ingest(old(cut).parents[3], root)) == ["cut"]
    cut.write_bytes(whole)
    assert len(ingest(source, root).placed) == 1


def test_a_file_that_is_written_to_between_plan_and_placement_is_deferred(
    source: Path, root: Path, good: list[Path]
) -> None:
    live = write_checkpoint(task(source) / "saved_models" / name_of(config(use_mlp=True)), config(use_mlp=True))

    def write(stage: str, done: int, total: int) -> None:
        if stage == "placing" and live.stat().st_mtime == START:
            write_checkpoint(live, config(use_mlp=True), salt=1, saved_at=START + 1)

    result = ingest(source, root, progress=write)
    assert_rest_went_on(result, root)
    assert [(item.source, item.code) for item in result.deferred] == [
        (str(live.relative_to(source)), "changed-while-read")
    ]
    assert result.refused == ()
    assert not any(path.endswith(live.name) for path in snapshot(root))
    assert [row.source for row in ingest(source, root).placed] == [str(live.relative_to(source))]


def test_a_file_with_flipped_bytes_is_refused_by_its_checksum(source: Path, root: Path, good: list[Path]) -> None:
    bad = write_checkpoint(task(source, 4) / "saved_models" / name_of(config(use_mlp=True)), config(use_mlp=True))
    data = bytearray(bad.read_bytes())
    middle = data.index(b"data/0") + 200
    data[middle] ^= 0xFF
    bad.write_bytes(bytes(data))
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert len(result.refused) == 1
    assert result.refused[0].source == str(bad.relative_to(source))


def test_a_name_that_disagrees_is_refused_until_somebody_decides(source: Path, root: Path, tmp_path: Path) -> None:
    inside = config(use_mlp=True)
    wrong = write_checkpoint(task(source) / "saved_models" / name_of(config()), inside)
    result = ingest(source, root)
    assert codes(result) == ["name-disagrees"]
    assert "use_mlp" in result.refused[0].message
    by_config = ingest(source, tmp_path / "by_config", trust="config")
    assert by_config.placed[0].path.endswith(f"task_0004/seed_1337/{name_of(inside)}")
    by_name = ingest(source, tmp_path / "by_name", trust="name")
    assert by_name.placed[0].path.endswith(f"task_0006/seed_1337/{wrong.name}")
    record = read_record(tmp_path / "by_name" / RUN)
    assert (record.config["use_mlp"], record.config_source) == (False, "name")


def test_an_unknown_name_is_refused_or_given_by_the_configuration(source: Path, root: Path) -> None:
    write_checkpoint(task(source) / "saved_models" / "best.pt", config())
    assert codes(ingest(source, root)) == ["unknown-name"]
    result = ingest(source, root, trust="config")
    assert result.placed[0].path == f"{RUN}/{name_of(config())}"


def test_without_a_configuration_inside_the_wandb_record_gives_it(source: Path, root: Path) -> None:
    files = write_run(task(source), config(seed=2337), run_id="abcd1234")
    for file in files:
        strip_config(file)
    ingest(source, root)
    record = read_record(root / RUN.replace("1337", "2337"))
    assert (record.config_source, record.run_id) == ("W&B files", "abcd1234")


def test_without_any_record_the_name_gives_it(source: Path, root: Path) -> None:
    strip_config(write_checkpoint(task(source) / "saved_models" / name_of(config()), config()))
    result = ingest(source, root)
    assert result.placed[0].path.endswith("task_0006/seed_unknown/" + name_of(config()))
    record = read_record(root / Path(result.placed[0].path).parent)
    assert (record.config_source, record.seed, record.run_id) == ("name", None, None)


def strip_config(file: Path) -> Path:
    state = file.stat()
    document = torch.load(file)
    del document["train_config"]
    torch.save(document, file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    return file


def test_symbolic_links_in_the_source_are_named_or_followed(
    source: Path, root: Path, good: list[Path], tmp_path: Path
) -> None:
    elsewhere = write_checkpoint(tmp_path / "elsewhere" / name_of(config(use_mlp=True)), config(use_mlp=True))
    (task(source, 4)).mkdir()
    (task(source, 4) / elsewhere.name).symlink_to(elsewhere)
    (task(source, 4) / "loop").symlink_to(source)
    (task(source, 4) / "nowhere.pt").symlink_to(tmp_path / "nothing")
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["symlink"] * 2  # of the loop nothing would come
    followed = ingest(source, root, follow_symlinks=True)
    assert [row.task for row in followed.placed] == [4]
    assert sorted(codes(followed)) == ["symlink-loop", "unreadable"]


def test_a_pipe_does_not_block(source: Path, root: Path, good: list[Path]) -> None:
    os.mkfifo(task(source) / "saved_models" / name_of(config(use_mlp=True)))
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["not-a-file"]


def test_a_folder_that_cannot_be_read_is_named(
    source: Path, root: Path, good: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = source / "len_gen_k8" / "secret"
    secret.mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(os.fsdecode(path)) == secret:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # modes do not stop root
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["unreadable-folder"]


@pytest.mark.parametrize("name", [b"a\nb.pt", b"\x1b[31mred.pt", b"[red]x.pt", b"\xff\xfe.pt", b"'; rm -rf ~.pt"])
def test_odd_names_are_told_and_the_rest_goes_on(source: Path, root: Path, good: list[Path], name: bytes) -> None:
    odd = write_checkpoint(task(source) / os.fsdecode(name), config(), salt=1)
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["unknown-name"]
    document = json.dumps(result.to_json())
    assert json.loads(document)["refused"][0]["source"] == str(odd.relative_to(source))


def test_nan_in_a_summary_is_kept_as_text(source: Path, root: Path) -> None:
    metrics = {**gen_metrics(0.5), "train/loss": float("nan"), "lr": float("inf")}
    write_run(task(source), config(), run_id="abcd1234", metrics=metrics)
    ingest(source, root)
    document = json.loads((root / RUN / "run.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert (document["metrics"]["train/loss"], document["metrics"]["lr"]) == ("NaN", "Infinity")


def test_a_source_inside_the_tree_is_a_usage_error(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    for inside in (root, root / "with_layernorm"):
        with pytest.raises(UsageError) as error:
            ingest(inside, root)
        assert error.value.code == "source-inside-root"
    with pytest.raises(UsageError, match="does not exist"):
        ingest(source / "nothing", root)


def test_an_empty_path_is_not_the_current_folder(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    monkeypatch.chdir(source)
    for arguments in (("", root), (source, "")):
        with pytest.raises(UsageError) as error:
            ingest(*arguments)
        assert error.value.code == "empty-path"
    assert len(ingest(".", root).placed) == 2  # the control


def test_the_root_must_be_a_folder(source: Path, root: Path, tmp_path: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    root.write_text("a file")
    (tmp_path / "dangling").symlink_to("nothing")
    for bad in (root, root / "below", tmp_path / "dangling"):
        for dry_run in (True, False):
            with pytest.raises(UsageError) as error:
                ingest(source, bad, dry_run=dry_run)
            assert error.value.code == "not-a-folder"
    root.unlink()
    (tmp_path / "nothing").mkdir()
    assert len(ingest(source, tmp_path / "dangling").placed) == 2  # the control: it leads somewhere now


def test_a_tree_inside_the_source_is_left_out(source: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    inside = source / "checkpoints"
    assert len(ingest(source, inside).placed) == 2
    again = ingest(source, inside)
    assert (again.placed, again.plan.duplicates) == ((), ())


def test_nothing_in_the_tree_is_overwritten(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    squatter = root / RUN / files[0].name
    squatter.parent.mkdir(parents=True)
    squatter.write_bytes(b"something of the user's")
    result = ingest(source, root)
    assert squatter.read_bytes() == b"something of the user's"
    assert len(result.placed) == 2  # both found another place
    assert all((root / row.path).stat().st_size == row.size for row in result.placed)


def test_two_ingests_at_once_do_not_mix(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    root.mkdir()
    with locks.lock_tree(root), pytest.raises(MachineError) as error:
        ingest(source, root)
    assert error.value.code == "tree-busy"
    assert len(ingest(source, root).placed) == 2


def test_a_future_time_does_not_defer_for_ever(source: Path, root: Path) -> None:
    (task(source)).mkdir(parents=True)
    cut = task(source) / name_of(config())
    cut.write_bytes(b"PK\x03\x04cut")
    os.utime(cut, (time.time() + 1e6, time.time() + 1e6))
    assert codes(ingest(source, root)) == ["cut"]


@pytest.mark.parametrize("layernorm", [True, False])
def test_what_a_configuration_does_not_tell_is_taken_from_the_name_where_that_is_asked_for(
    source: Path, root: Path, layernorm: bool
) -> None:
    run = config(use_layernorm=layernorm)
    told = {key: value for key, value in run.to_dict().items() if key not in ("use_layernorm", "norm_type")}
    write_checkpoint(source / "len_gen_k8/task_0006/saved_models" / name_of(run), run, train_config=told)
    (refused,) = ingest(source, root).refused  # the control
    assert (refused.code, refused.fix) == ("no-family", "If the file's name says it, pass --trust name.")
    (row,) = ingest(source, root, trust="name").placed
    assert row.path.startswith("with_layernorm/" if layernorm else "without_layernorm/")
    assert not {"no-place", "misplaced", "config-disagrees"} & {
        item.code for item in validate(root, deep=True).findings
    }


def test_a_dry_run_tells_of_records_that_nothing_is_written_to(source: Path, root: Path) -> None:
    """Each list too: what is refused and placed by a dry run is what the real one refuses and places."""
    write_run(task(source), config(), run_id="first111", files=("Checkpoint",))
    write_run(task(source), config(seed=5), run_id="second22", started=START + 1000)
    bad = task(source) / "saved_models" / "bad.pt"
    bad.write_text("no checkpoint")
    ingest(source, root)
    names = {"run.json", "overwritten.json", "refused.json"}
    files = [file for file in root.rglob("*.json") if file.name in names]
    assert {file.name for file in files} == names
    for file in files:
        file.write_bytes(file.read_bytes().replace(b'"schema_version": 1', b'"schema_version":  1'))
    bad.unlink()
    Path(task(source), "saved_models", name_of(config(), "Checkpoint")).touch()
    write_run(task(source), config(seed=6), run_id="third333", started=START + 2000)
    held = {file: file.read_bytes() for file in files}
    planned = ingest(source, root, dry_run=True)
    done = ingest(source, root)
    assert planned.refused == done.refused
    assert {Path(item.source).name for item in done.refused if item.code == "record-changed"} == names
    assert planned.placed == done.placed
    assert {file: file.read_bytes() for file in files} == held


def test_a_dry_run_of_a_move_lets_go_of_no_file_whose_record_was_changed(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="first111")
    write_run(source / "len_gen_k6" / "task_0006", config(6), run_id="second22")
    ingest(source, root)
    record = root / RUN / "run.json"
    record.write_bytes(record.read_bytes().replace(b'"group": "len_gen_k8"', b'"group": "len_gen_k6"'))
    planned = ingest(source, root, mode="move", dry_run=True)
    done = ingest(source, root, mode="move")
    assert [item.code for item in done.refused] == ["record-changed"]
    assert planned.removed == done.removed
    assert {item.same_as.split("/")[2] for item in done.removed} == {"len_gen_k6"}


def test_copies_of_a_source_that_are_refused_for_one_file_of_the_tree_are_remembered_together(
    source: Path, root: Path, good: list[Path]
) -> None:
    again = Path(shutil.copytree(source, source.with_name("again"), symlinks=True))
    ingest(source, root)
    final = next((root / RUN).glob("Final_*"))
    whole = final.read_bytes()
    final.write_bytes(b"")
    for each in (source, again):
        assert codes(ingest(each, root)) == ["tree-file-changed"]
    told = (root / "refused.json").read_bytes()
    assert told.count(b'"root"') == 2
    for each in (source, again, source):
        ingest(each, root)
        assert (root / "refused.json").read_bytes() == told
    final.unlink()
    assert ingest(source, root).placed
    assert final.read_bytes() == whole
    assert not (root / "refused.json").exists()
