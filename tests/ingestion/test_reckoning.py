"""What was refused enters the reckoning: it is neither missing nor overwritten; and what is learnt later mends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.checks import validate
from ckptman.documents.task_mapping import task_mapping_text
from ckptman.documents.tree_readme import block_contents
from ckptman.ingestion import ingest
from ckptman.raw.scanning import scan_source
from ckptman.rules.convention_file import built_in, convention_of
from ckptman.rules.selection import Selection
from ckptman.sweeps import grid_status
from ckptman.sweeps.sweeping import plan_sweep
from ckptman.tree.records import read_record, read_refused
from ckptman.tree.statistics import count_tree
from tests.helpers.ingested import codes, task
from tests.helpers.raw import START, config, name_of, write_checkpoint, write_run


@pytest.mark.parametrize("spoilt", [True, False])
def test_a_refused_final_is_neither_missing_nor_overwritten(source: Path, root: Path, spoilt: bool) -> None:
    for number, seed in enumerate((1337, 2337, 3337)):
        started = START + number * 1_000
        files = write_run(task(source), config(seed=seed), run_id=f"run{seed}", started=started, files=("Final",))
    when = files[0].stat().st_mtime
    if spoilt:
        files[0].write_bytes(b"no checkpoint")
        os.utime(files[0], (when, when))
    result = ingest(source, root, settle=0)
    assert [run.run_id for run in result.plan.overwritten] == ["run1337", "run2337"]
    assert {run.overwritten_by for run in result.plan.overwritten} == {("run3337",)}
    assert [(item.run.run_id, item.refused) for item in result.plan.without_files] == [
        ("run3337", (files[0].name,))
    ] * spoilt
    found = grid_status.status(source, None)
    [standing] = [item for item in found.runs if item.run_id == "run3337"]
    assert standing.is_gap is False
    assert (files[0].name in standing.reason) is spoilt
    assert standing.state == ("refused" if spoilt else "complete")


@pytest.mark.parametrize("seed", ["null", "-1", "2337"])
def test_a_refused_file_is_of_a_run_whose_record_tells_no_other_seed(seed: str, source: Path, root: Path) -> None:
    [final] = write_run(task(source) / "seed_1337", config(), run_id="abcd1234", files=("Final",))
    for file in (task(source) / "seed_1337" / "wandb").rglob("config.yaml"):
        file.write_text(file.read_text().replace("seed:\n  value: 1337", f"seed:\n  value: {seed}"))
    final.write_bytes(b"no checkpoint")
    ingest(source, root, settle=0)
    [found] = read_refused(root)
    assert found.run_id == ("abcd1234" if seed != "2337" else None)
    assert (found.seed, standings(root)[1337]) == (1337, "refused")


def test_a_later_ingest_with_the_right_times_tells_the_run(source: Path, root: Path, tmp_path: Path) -> None:
    for number, run_id in enumerate(("first111", "rerun222")):
        files = write_run(task(source), config(), run_id=run_id, started=START + number * 1_000, salt=number)
    times = [file.stat().st_mtime for file in files]
    clone = Path(shutil.copytree(source, tmp_path / "clone", symlinks=True))
    for file in clone.rglob("*.pt"):
        os.utime(file, (START + 1e7, START + 1e7))
    first = ingest(clone, root)
    assert len(first.plan.ambiguous) == 2
    assert ingest(clone, root).plan.resolved == ()  # the control: nothing new is learnt
    for file, when in zip(files, times, strict=True):
        os.utime(file, (when, when))
    again = ingest(source, root)
    [folder] = again.plan.resolved
    record = read_record(root / folder)
    assert (record.run_id, record.attribution.code) == ("rerun222", "time-span")
    assert record.attribution.evidence.endswith("; a later ingest learnt it")
    assert (again.plan.ambiguous, again.placed) == ((), ())
    assert ingest(source, root).plan.resolved == ()


# --- what the tree remembers ------------------------------------------------------------------------------------------

SPOILT = b"no checkpoint"


def spoil(file: Path) -> None:
    when = file.stat().st_mtime
    file.write_bytes(SPOILT)
    os.utime(file, (when, when))


def standings(root: Path, out: Path | None = None) -> dict[int | None, str]:
    one = Selection(k=(8,), tasks=(6,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    return {item.run.seed: item.state for item in grid_status.status(out, root, selection=one).runs}


@pytest.mark.parametrize("end", ["mended", "taken away", "source gone"])
def test_the_tree_remembers_what_was_refused_until_it_is_mended_or_taken_away(
    source: Path, root: Path, end: str
) -> None:
    first, final = write_run(task(source) / "seed_1337", config(), run_id="abcd1234")
    good = final.read_bytes()
    times = final.stat().st_mtime_ns
    spoil(final)
    ingest(source, root, settle=0)
    [file] = read_refused(root)
    assert (Path(file.root, file.path), file.run_id, file.seed, file.task) == (final, "abcd1234", 1337, 6)
    assert standings(root) == {1337: "refused", 2337: "missing", 3337: "missing"}
    [finding] = [item for item in validate(root).findings if item.code == "missing-final"]
    assert f"run abcd1234 has only: Checkpoint; ingest refused {final}: " in finding.message
    assert finding.fix is not None
    assert finding.fix.endswith("Then ingest the source again.")
    if end == "source gone":
        shutil.rmtree(source)
        assert standings(root)[1337] == "refused"  # the file may be on a disk that is not here
        return
    if end == "mended":
        final.write_bytes(good)
        os.utime(final, ns=(times, times))
    else:
        final.unlink()
        assert standings(root)[1337] == "partial"  # it is gone: nothing stands for the run
    ingest(source, root, settle=0)
    assert not (root / "refused.json").exists()
    assert standings(root)[1337] == ("complete" if end == "mended" else "partial")
    assert first.exists()


@pytest.mark.parametrize("kind", ["deferred", "symlink", "other suffix", "dead link", "rsync", "packed"])
def test_what_was_deferred_linked_or_named_otherwise_stands_for_its_run(source: Path, root: Path, kind: str) -> None:
    [final] = write_run(task(source) / "seed_1337", config(), run_id="abcd1234", files=("Final",))
    if kind == "deferred":
        final.write_bytes(final.read_bytes()[:-100])
    elif kind == "symlink":
        final.symlink_to(final.rename(source / "elsewhere"))
    elif kind == "dead link":
        final.unlink()
        final.symlink_to(final.name)
    elif kind == "rsync":
        final.rename(final.with_name(f".{final.name}.aX3bY7"))
    elif kind == "packed":
        final.rename(final.with_name(f"{final.name}.gz"))
    else:
        final.rename(final.with_suffix(".safetensors"))
    ingest(source, root)
    [file] = read_refused(root)
    assert (file.file, file.run_id) == (final.name, "abcd1234")
    how = {"deferred": "deferred", "symlink": "refused", "dead link": "refused"}.get(kind, "passed over")
    assert str(file).startswith(f"ingest {how} {Path(file.root, file.path)}: ")
    assert file.advice.count("ingest") == 1
    assert standings(root, source)[1337] == standings(root)[1337] == "refused"
    found = grid_status.status(source, root)
    assert not [item for item in found.gaps if item.run_id == "abcd1234"]
    said = " ".join(block_contents(count_tree(root, built_in()))["summary"].split())
    assert f"file was {'refused' if how == 'refused' else 'not taken'}: " in said


@pytest.mark.parametrize(
    "name",
    [
        ".syncthing.{}.tmp", "~syncthing~{}.tmp", "{}.1a2b3c4d.partial", "{}.1a2B3c4D", "{}_.gstmp", "{}.tar",
        "{}.tar.gz", "{}.incomplete", "{}.dvc", "{}.1", "{}.~1~", ".{}.~1a2b", "{}.!qB", "{}.download",
        "{}.7z",
    ],
)  # fmt: skip
def test_what_other_programs_make_of_a_final_on_its_way_stands_for_it(name: str, source: Path, root: Path) -> None:
    [final] = write_run(task(source) / "seed_1337", config(), run_id="abcd1234", files=("Final",))
    final.rename(final.with_name(name.format(final.name)))
    ingest(source, root)
    [file] = read_refused(root)
    assert (file.file, file.run_id, file.how) == (final.name, "abcd1234", "passed over")
    assert ("dvc pull" in file.advice) == name.endswith(".dvc")
    assert standings(root)[1337] == "refused"


@pytest.mark.parametrize(
    "name",
    [
        "{} (1)", "{}(2)", "{}-v1", "{}_1", "{} copy", "{} - Copy (2)", "{} (copy)", "Copy of {}",
        "{} (my conflicted copy 1)", "{}.sync-conflict-20260310-152800-ABCDEFG", "{} 2", "{}-Copy1", "{}_copy",
        "{} (Case Conflict)", "{} (SFConflict me@x.org 2026-03-10-15-28-00)", "{}-DESKTOP-1A2B3C4",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_there", [False, True])
def test_a_copy_that_is_refused_for_its_name_stands_for_a_final_that_is_not_there(
    name: str, is_there: bool, source: Path, root: Path
) -> None:
    folder = task(source) / "seed_1337"
    [final] = write_run(folder, config(), run_id="abcd1234", files=("Final",))
    copy = final.rename(final.with_stem(name.format(final.stem)))
    if is_there:  # the control, with bytes of its own
        write_checkpoint(final, config(), saved_at=START + 300, salt=1)
    assert codes(ingest(source, root)) == ["unknown-name"]
    [file] = read_refused(root)
    assert (file.path, file.run_id) == (str(copy.relative_to(source)), None if is_there else "abcd1234")
    assert standings(root)[1337] == ("complete" if is_there else "refused")


_TWO_NETS = """\
replaces: [name, facets, tree, groups, grids, axes, metrics, summary]
name: {keep: true, prefixes: {Checkpoint: {title: "on the way", final: false}}}
names:
  other: {template: "net-{net:text}.pt", fields: {net: {words: {GRU: net-GRU}}}, examples: [net-GRU.pt]}
  net: {template: net.pt, examples: [net.pt]}
facets: {}
tree: ["{group}", "seed{seed}"]
raw: {task: null}
lengths: null
groups: {raw: {grid: main, example: raw}}
grids: {main: {seeds: [1], axes: {net: [net, net-GRU]}}}
axes: {net: {title: net, short: "{}"}}
metrics: {loss: {pattern: val_loss, share: false, lower_is_better: true}}
summary: {net: net}
"""


def test_a_file_that_is_called_by_the_convention_is_no_copy_of_another(tmp_path: Path) -> None:
    """Though its name ends as one of OneDrive's does."""
    rules = convention_of(_TWO_NETS, "ckptman.yaml")
    (tmp_path / "raw" / "seed1").mkdir(parents=True)
    (tmp_path / "raw" / "seed1" / "net-GRU.pt").write_bytes(b"")
    ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    assert [file.file for file in read_refused(tmp_path / "tree")] == ["net-GRU.pt"]
    found = grid_status.status(tmp_path / "raw", None, convention=rules)
    assert {str(item.run.values["net"]): item.state for item in found.runs} == {"net": "missing", "net-GRU": "refused"}


@pytest.mark.parametrize("files", [[], ["model.safetensors.index.json"]])
def test_a_folder_called_as_a_final_that_is_not_whole_stands_for_it(files: list[str], source: Path, root: Path) -> None:
    [final] = write_run(task(source) / "seed_1337", config(), run_id="abcd1234", files=("Final",))
    final.unlink()
    assert scan_source(source, built_in()).refusals == ()
    final.mkdir()
    for name in files:
        (final / name).write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert codes(ingest(source, root, settle=0)) == ["incomplete-folder"]
    [file] = read_refused(root)
    assert (file.file, file.run_id, file.what) == (final.name, "abcd1234", "folder")
    assert standings(root)[1337] == "refused"


@pytest.mark.parametrize("name", ["{}.sha256", "{}.tmp", ".{}.aX3bY", "{}.1", "{}.lock"])
def test_a_file_beside_a_checkpoint_stands_for_nothing(name: str, source: Path, root: Path) -> None:
    [first, final] = write_run(task(source) / "seed_1337", config(), run_id="abcd1234")
    for file in (first, final):
        file.with_name(name.format(file.name)).write_bytes(b"x")
    assert ingest(source, root).plan.refused == ()
    assert read_refused(root) == ()
    assert scan_source(source, built_in()).passed_over == ()


def hide(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a folder from being looked into."""
    if how == "link":
        folder.symlink_to(folder.rename(folder.parents[4] / "elsewhere"))
        return
    look = os.scandir

    def refuse(at: Any = ".") -> Any:
        if Path(at) == folder:
            raise PermissionError(13, "Permission denied", str(at))
        return look(at)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.mark.parametrize("has_wandb", [True, False])
@pytest.mark.parametrize("how", ["link", "unreadable"])
def test_what_lies_in_a_folder_that_was_not_looked_into_is_not_missing(
    how: str, has_wandb: bool, source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {}
    for seed in (1337, 2337):
        name = task(source) / "saved_models" / f"seed_{seed}"
        if has_wandb:
            write_run(task(source), config(seed=seed), run_id=f"run{seed}", files=(), started=START + seed)
        for step, kind in ((20001, "Checkpoint"), (40000, "Final")):
            of = config(seed=seed)
            write_checkpoint(name / name_of(of, kind), of, step=step, saved_at=START + seed + 10)
        folders[seed] = name
    with monkeypatch.context() as patched:
        hide(folders[2337], how, patched)
        result = ingest(source, root)
        assert [item.what for item in result.refused] == ["folder"]
        assert standings(root) == {1337: "complete", 2337: "refused", 3337: "missing"}
        assert standings(root, source) == standings(root)
    [message] = [item.message for item in validate(root).findings if item.code == "missing-seed"]
    assert f"seed 2337 may be in {folders[2337]}, which ingest refused: " in message
    counted = count_tree(root, built_in())
    assert sum(count.refused for count in counted.grid_counts) == 1
    assert "1 folder was refused" in " ".join(block_contents(counted)["summary"].split())
    if how == "link":
        folders[2337].unlink()
        (source.parent / "elsewhere").rename(folders[2337])
    ingest(source, root)
    assert standings(root)[2337] == "complete"
    assert read_refused(root) == ()


@pytest.mark.parametrize("named", ["saved_models/seed_1337", ""])
def test_of_a_run_that_is_not_in_the_source_nothing_is_said_to_be_missing(named: str, source: Path, root: Path) -> None:
    for seed in (1337, 2337):
        home = f"saved_models/seed_{seed}"
        files = write_run(task(source), config(seed=seed), run_id=f"run{seed}", saved_models=home, started=START + seed)
    for file in files:
        file.rename(source.parent / file.name)
    result = ingest(task(source) / named, root)
    assert len(result.placed) == 2
    assert [item.run.run_id for item in result.plan.without_files] == ([] if named else ["run2337"])


def test_damage_that_ingest_found_counts_until_the_file_is_another(source: Path, root: Path) -> None:
    final = write_run(task(source) / "seed_1337", config(), run_id="abcd1234")[1]
    good = final.read_bytes()
    bad = bytearray(good)
    bad[bad.index(b"data/0") + 200] ^= 0xFF
    times = final.stat().st_mtime_ns
    for content, state in ((bytes(bad), "refused"), (good, "complete")):
        final.unlink()
        final.write_bytes(content)
        os.utime(final, ns=(times, times))
        if state == "refused":
            ingest(source, root)
        assert standings(root, source)[1337] == state
    assert standings(root)[1337] == "refused", "no ingest has seen the good one yet"


def test_a_refused_file_of_an_unknown_seed_is_told_of_for_each_seed_in_the_documents(source: Path, root: Path) -> None:
    write_run(task(source) / "seed_2337", config(seed=2337), run_id="abcd1234")
    spoil(write_checkpoint(task(source) / "saved_models" / name_of(config()), config()))
    ingest(source, root, settle=0)
    counted = count_tree(root, built_in())
    [count] = [item for item in counted.grid_counts if item.complete]
    assert (count.complete, count.refused) == (1, 2)
    assert "!●!" in task_mapping_text(built_in(), counted)


def test_a_refused_file_of_an_unknown_seed_may_be_any_of_those_that_are_missing(source: Path, root: Path) -> None:
    write_run(task(source) / "seed_2337", config(seed=2337), run_id="abcd1234")
    final = write_checkpoint(task(source) / "saved_models" / name_of(config()), config())
    spoil(final)
    ingest(source, root, settle=0)
    assert standings(root) == {1337: "refused", 2337: "complete", 3337: "refused"}
    [message] = [item.message for item in validate(root).findings if item.code == "missing-seed"]
    assert f"; one of them may be {final}, which ingest refused: " in message
    one = Selection(k=(8,), tasks=(6,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    plan = plan_sweep(source, selection=one, recipe={"n_embd": 8})
    assert [run.todo for run in plan.runs] == ["refused", "complete", "refused"]
    found = grid_status.status(None, root, selection=one)
    assert all("it may be" in item.reason for item in found.runs if item.state == "refused")
    assert [(files, runs) for _, files, runs in found.surely_missing] == [(1, 2)], "one file is of one run at most"
    assert found.surely_missing[0][0] == "len_gen_k8 task 6 (L1, MLP off, mix)"
    other = write_checkpoint(task(source) / "saved_models" / "more" / name_of(config()), config())
    spoil(other)
    ingest(source, root, settle=0)
    assert grid_status.status(None, root, selection=one).surely_missing == (), "two files may be of both"


def test_an_empty_folder_in_place_of_a_source_takes_nothing_back(source: Path, root: Path) -> None:
    final = write_run(task(source) / "seed_1337", config(), run_id="abcd1234")[1]
    spoil(final)
    ingest(source, root, settle=0)
    away = source.rename(source.with_name("away"))
    source.mkdir()  # as where nothing is mounted
    ingest(source, root, settle=0)
    assert standings(root)[1337] == "refused"
    source.rmdir()
    away.rename(source)
    final.unlink()
    ingest(source, root, settle=0)
    assert standings(root)[1337] == "partial", "it is known to be gone"


def test_a_refused_checkpoint_on_the_way_does_not_hide_that_the_end_is_missing(source: Path, root: Path) -> None:
    first, final = write_run(task(source) / "seed_1337", config(), run_id="abcd1234")
    spoil(first)
    ingest(source, root, settle=0)
    assert standings(root)[1337] == "complete"
    final.unlink()
    assert standings(root, source)[1337] == "complete"  # it is in the tree
    shutil.rmtree(root)
    ingest(source, root, settle=0)
    assert standings(root)[1337] == "refused"  # of nothing else it is known that it was begun


def test_a_refusal_of_one_source_is_kept_while_another_is_ingested(source: Path, root: Path, tmp_path: Path) -> None:
    final = write_checkpoint(task(source) / "seed_1337" / "saved_models" / name_of(config()), config())
    good = final.read_bytes()
    spoil(final)
    ingest(source, root, settle=0)
    other = tmp_path / "other"
    write_checkpoint(task(other) / "seed_2337" / "saved_models" / name_of(config()), config(seed=2337))
    ingest(other, root)
    assert len(read_refused(root)) == 1
    copy = task(other) / "seed_1337" / "saved_models" / final.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(good)
    ingest(other, root)  # the run is there now, from elsewhere
    assert read_refused(root) == ()


def test_a_list_that_cannot_be_used_stays_and_is_told_of(source: Path, root: Path) -> None:
    spoil(write_checkpoint(task(source) / "saved_models" / name_of(config()), config()))
    ingest(source, root, settle=0)
    (root / "refused.json").write_text("{")
    ingest(source, root, settle=0)
    assert (root / "refused.json").read_text() == "{"
    assert [item.code for item in validate(root).findings if item.path == "refused.json"] == ["bad-record"]


@pytest.mark.parametrize("keep_times", [True, False])
def test_a_source_that_lies_elsewhere_now_changes_no_record(
    source: Path, root: Path, tmp_path: Path, keep_times: bool
) -> None:
    write_run(task(source) / "seed_1337", config(), run_id="abcd1234")
    ingest(source, root, settle=0)
    before = {file: file.read_bytes() for file in root.rglob("run.json")}
    copied = shutil.copy2 if keep_times else shutil.copyfile
    elsewhere = Path(shutil.copytree(source, tmp_path / "other disk", copy_function=copied))
    shutil.rmtree(source)
    plan = ingest(elsewhere, root, settle=0).plan
    assert (len(plan.unchanged), plan.placed, plan.duplicates) == (2, (), ())
    assert {file: file.read_bytes() for file in root.rglob("run.json")} == before
    (elsewhere / "len_gen_k8").rename(elsewhere / "copy")  # the control: another place within the source is told of
    assert len(ingest(elsewhere, root, settle=0).plan.duplicates) == 2


def test_a_refused_file_that_says_nothing_is_not_said_to_be_outside_of_the_grid(source: Path, root: Path) -> None:
    folder = write_run(task(source), config(), run_id="abcd1234")[0].parent
    torch.save({"model": {"weight": torch.ones(2)}}, folder / "thing.pt")
    ingest(source, root)
    for found in (grid_status.status(None, root), grid_status.status(source, root)):
        assert [item.code for item in found.refused] == ["no-config"]
        assert found.outside == ()
    write_run(task(source), config(9), run_id="other222")  # the control: no grid has this K
    assert len(grid_status.status(source, root).outside) == 1
