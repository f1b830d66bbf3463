"""Whoever follows the advice of `validate` word for word gets rid of the finding, and keeps every byte."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.mending import mend, plan_mending
from ckptman.checks.validation import ValidationResult
from ckptman.documents.reporting import report
from ckptman.fs import folders as fs_folders
from ckptman.ingestion.assigning import assign
from ckptman.ingestion.ingesting import ingest
from ckptman.ingestion.migrating import migrate
from ckptman.rules.convention_file import load_convention
from ckptman.rules.naming import Trust
from ckptman.rules.recipe import TrainConfig
from ckptman.tree import Finding
from ckptman.tree.records import scan_tree
from tests.helpers.planted import PLANTS, Plant
from tests.helpers.raw import START, log_of, write_run
from tests.helpers.slices import SLICES
from tests.helpers.trees import FINAL, RUN, TASK, edit_record, good_configs, write_source
from tests.helpers.validated import check

_REWRITTEN = {"journal.json", "run.json", "overwritten.json", "README.md", "TASK_MAPPING.md", "ckptman.yaml"}
"""Files that ckptman may write anew; and a partial one is ckptman's own copy of a file that is at the source."""


def contents(*folders: Path) -> Counter[str]:
    """How often each content is there, of files that nobody may write anew."""
    files = (path for folder in folders if folder.exists() for path in folder.rglob("*"))
    kept = (path for path in files if path.is_file() and not path.is_symlink()
            and path.name not in _REWRITTEN and not fs_folders.is_partial(path.name))  # fmt: skip
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in kept)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the good tree is from; read only."""
    found = write_source(tmp_path_factory.mktemp("source") / "grid_outputs", good_configs())
    for log in found.rglob("*.wandb"):  # with learning curves, which an ingest reads again
        written = log.stat()
        log.write_bytes(log_of(log.stem.removeprefix("run-"), {0: {"loss": 1.5}}))
        os.utime(log, ns=(written.st_atime_ns, written.st_mtime_ns))
    return found


class Follower:
    """Does what a `Fix:` says and nothing else: each thing that it names, in the order in which it names them."""

    def __init__(self, root: Path, source: Path, folder: Path, restore: Callable[[], object]) -> None:
        self.root = root
        self.source = source
        self.aside = folder / "aside"
        self.new = folder / "new"
        self.folder = folder
        self.restore = restore
        self.ignored: list[str] = []
        self.done: Counter[tuple[str, str]] = Counter()
        self.patience = 1
        """How often a thing is tried that another fault may have kept from helping."""

    def check(self) -> ValidationResult:
        return check(self.root, ignore=self.ignored)

    def follow(self, item: Finding) -> None:
        """One thing of those that the fix names: the first at first, the next one where that was not enough."""
        actions = [(act, found) for pattern, act in _ADVICE if (found := re.search(pattern, item.fix))]
        assert actions, f"nobody can follow this: {item.fix}"
        turn = self.done[item.code, item.path]
        self.done[item.code, item.path] += 1
        assert turn < len(actions) * self.patience, f"this did not help: {item.fix}"
        act, found = actions[turn % len(actions)]
        act(self, item, found)

    def take_out(self, path: Path) -> None:
        target = self.aside / str(len(list(self.aside.glob("*")))) / path.name
        target.parent.mkdir(parents=True)
        shutil.move(path, target)

    def take_out_of_source(self, run: Path) -> None:
        """The files of a run of the tree, so that no ingest brings them back."""
        if not self.source.is_relative_to(self.folder):  # which is read by other tests too
            self.source = Path(shutil.copytree(self.source, self.folder / "source", symlinks=True))
        contents = {hashlib.sha256(path.read_bytes()).digest() for path in run.glob("*.pt")}
        for path in [*self.source.rglob("*.pt")]:
            if hashlib.sha256(path.read_bytes()).digest() in contents:
                self.take_out(path)

    def sort(self, source: Path, root: Path, *, trust: Trust = Trust.NEITHER) -> None:
        root.mkdir(exist_ok=True)
        if not (root / "ckptman.yaml").exists():
            shutil.copy(self.root / "ckptman.yaml", root)
        ingest(source, root, settle=0, trust=trust, with_wandb=True)


def _fix(it: Follower, _: Finding, __: re.Match[str]) -> None:
    mend(it.root, plan_mending(it.check()))


def _report(it: Follower, _: Finding, __: re.Match[str]) -> None:
    report(it.root, convention=load_convention(it.root / "ckptman.yaml"))


def _migrate(it: Follower, _: Finding, __: re.Match[str]) -> None:
    migrate(it.root, convention=load_convention(it.root / "ckptman.yaml"))


def _number(it: Follower, _: Finding, found: re.Match[str]) -> None:
    rules = (it.root / "ckptman.yaml").read_text()
    (it.root / "ckptman.yaml").write_text(re.sub("numbering: .*", found[1], rules))


def _look_elsewhere(it: Follower, _: Finding, found: re.Match[str]) -> None:
    shutil.copy(it.root / "ckptman.yaml", found[1])
    it.root = Path(found[1])


def _sort_anew(it: Follower, _: Finding, found: re.Match[str]) -> None:
    trust = Trust.CONFIG if "--trust config" in found.string else Trust.NEITHER
    it.sort(it.root if found[1] == "THIS" else Path(found[1]), it.new, trust=trust)
    it.root = it.new


def _ingest_into_new(it: Follower, _: Finding, __: re.Match[str]) -> None:
    it.sort(it.source, it.new)
    it.root = it.new


def _ingest(it: Follower, _: Finding, __: re.Match[str]) -> None:
    it.sort(it.source, it.root)


def _take_out(it: Follower, item: Finding, found: re.Match[str]) -> None:
    path, what = it.root / item.path, found[1]
    if what == "these files":
        names = item.message.partition("tree: ")[2].split(", ")
        paths = [path / name for name in names]
    elif "run.json" in what and path.name != "run.json" and "finding names" not in what:
        paths = [path.parent / "run.json"]
    elif "folder" in what and not path.is_dir():
        paths = [path.parent]
    elif what == "one of them":
        paths = [path.parent / item.message.split(" are one name")[0].split(" and ")[1]]
    else:
        paths = [path]
    if "its files out of the source" in item.fix:
        it.take_out_of_source(path)
    for each in paths:
        it.take_out(each)
    if "ngest" in item.fix and "before that is ingested again" not in item.fix:
        it.sort(it.source, it.root)
    if "train it again" in item.fix:
        _train(it, item, found)


def _take_checkpoints_out(it: Follower, item: Finding, _: re.Match[str]) -> None:
    folder = it.aside / str(len(list(it.aside.glob("*"))))
    folder.mkdir(parents=True)
    for path in sorted((it.root / item.path).glob("*.pt")):
        shutil.move(path, folder / path.name)
    it.sort(folder, it.root)


def _take_record_out_too(it: Follower, item: Finding, _: re.Match[str]) -> None:
    path = it.root / item.path
    if path.name != "run.json":
        it.take_out(path)
    it.take_out(path.parent / "run.json")
    it.sort(it.source, it.root)


def _back(it: Follower, item: Finding, _: re.Match[str]) -> None:
    lies = re.search("but (.*) seems to be it", item.message)
    assert lies is not None
    now = it.root / lies[1] if "/" in lies[1] else (it.root / item.path).with_name(lies[1])
    assert not (it.root / item.path).exists()
    now.rename(it.root / item.path)


def _train(it: Follower, _: Finding, __: re.Match[str]) -> None:
    """What the tree has no run of that got to its end, each into a folder of its own."""
    scan = scan_tree(it.root, load_convention(it.root / "ckptman.yaml"))
    ended = (record for _, record in scan.records if any(entry.kind == "Final" for entry in record.checkpoints))
    here = {(record.group, record.config["n_layers"], record.config["use_mlp"], record.config["length_mode"],
             record.seed) for record in ended}  # fmt: skip
    source, salt = it.folder / f"trained {sum(it.done.values())}", sum(it.done.values())
    for index, item in enumerate(_wanted(it.root)):
        if (item.wandb_group, item.n_layers, item.use_mlp, item.length_mode, item.seed) not in here:
            write_run(source / str(item.wandb_group) / "task_0000", item, run_id=f"{salt}again{index:03d}", salt=salt,
                      started=START + 10**6 + 1000 * index, saved_models=f"saved_models/{index}")  # fmt: skip
    if source.exists():
        it.sort(source, it.root)


def _wanted(root: Path) -> list[TrainConfig]:
    return [item for k in ((4, 6) if "k: [4, 6]" in (root / "ckptman.yaml").read_text() else (4,))
            for item in good_configs(k)]  # fmt: skip


def _unlink(it: Follower, item: Finding, _: re.Match[str]) -> None:
    assert not (it.root / item.path).is_file() or (it.root / item.path).is_symlink()
    (it.root / item.path).unlink()


def _unlink_and_ingest(it: Follower, item: Finding, found: re.Match[str]) -> None:
    _unlink(it, item, found)
    it.sort(it.source, it.root)


def _allow(it: Follower, _: Finding, __: re.Match[str]) -> None:
    it.restore()


def _ignore(it: Follower, _: Finding, found: re.Match[str]) -> None:
    it.ignored.append(found[1])


def _evaluate(it: Follower, item: Finding, _: re.Match[str]) -> None:
    """What `ckptman eval` leaves in run.json."""
    for path, record in scan_tree(it.root, load_convention(it.root / "ckptman.yaml")).records:
        if str(path).startswith(item.path):
            final = next(entry.file for entry in record.checkpoints if entry.kind == "Final")
            evaluation = {"file": final, "mode": "teacher-forced", "samples": 100, "gen_em": 0.5}
            edit_record(it.root / path, evaluations=[evaluation])


def _assign(it: Follower, item: Finding, _: re.Match[str]) -> None:
    assign(it.root / item.path, item.message.rpartition(": ")[2].split(", ")[0], root=it.root)


def _list_classes(it: Follower, item: Finding, _: re.Match[str]) -> None:
    names = re.findall(r"\w+(?:\.\w+)+", item.message)
    with (it.root / "ckptman.yaml").open("a") as rules:
        rules.write(f"checkpoint: {{config_classes: [{', '.join(names)}]}}\n")


_ADVICE: list[tuple[str, Callable[[Follower, Finding, re.Match[str]], None]]] = [
    (r"ckptman validate --fix", _fix),
    (r"ckptman report", _report),
    (r"Let it go on: ckptman migrate", _migrate),
    (r"write `(numbering: \w+)` into", _number),
    (r"ckptman validate --root (\S+)", _look_elsewhere),
    (r"ckptman ingest (THIS|/\S+) --root NEW", _sort_anew),
    (r"ingest (?:that|the source) into a new (?:tree|root)", _ingest_into_new),
    (r"(?:Rename it to|Move it back to) ", _back),
    (r"[Ww]ith: ckptman ingest SRC --root DIR", _ingest),
    (r"^(?!.*ove .* out of the tree[,.] (?:and|It)).*[Ii]ngest (?:the|that|it|again|its)\b(?! into)", _ingest),
    (r"[Mm]ove (what the finding names|run\.json|the file|the run's folder(?: that is wrong)?|its folder|it|"
     r"these files|these files, and nothing else,|one of them),? (?:and nothing else, )?out of the tree", _take_out),
    (r"[Mm]ove the checkpoints of this folder, and nothing else, out of the tree", _take_checkpoints_out),
    (r"run\.json is wrong: move that out of the tree too", _take_record_out_too),
    (r"[Tt]rain (?:the|it)", _train),
    (r"Delete it, once no program uses it", _unlink),
    (r"Remove the link itself", _unlink),
    (r"remove the link and ingest them", _unlink_and_ingest),
    (r"Give yourself permission", _allow),
    (r"--ignore (\S+)", _ignore),
    (r"with: ckptman eval", _evaluate),
    (r"say so: ckptman assign PATH --run ID", _assign),
    (r"list the classes that you know", _list_classes),
]  # fmt: skip
"""Each thing that a fix can say."""

_ROUNDS = 20


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_the_advice_ends_with_a_clean_tree_and_every_byte(
    plant: Plant, root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        plant.plant(root, patch)
        it = Follower(root, source, tmp_path, patch.undo)
        before = contents(root)
        for _ in range(_ROUNDS):
            found = it.check().findings
            if not found:
                break
            first = min(found, key=lambda item: item.code != plant.code)
            it.follow(first)
            after = contents(root, it.root, it.aside)
            assert not before - after, first.fix
    assert it.check().findings == ()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_no_finding_is_made_worse_by_fix_and_no_byte_is_lost(
    plant: Plant, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        plant.plant(root, patch)
        before, found = contents(root), check(root)
        steps = mend(root, plan_mending(found))
        assert all(step.problem is None for step in steps)
        assert contents(root) == before
        again = check(root)
        assert {item.code for item in again.findings} <= {item.code for item in found.findings}
        assert plan_mending(again) == ()
    assert all("validate --fix" not in item.fix for item in again.findings if item.code != "missing-file")


def test_the_follower_can_lose_a_byte_and_then_it_shows(root: Path, tmp_path: Path) -> None:
    it = Follower(root, tmp_path, tmp_path, lambda: None)
    before = contents(root)
    it.take_out(root / RUN / FINAL)
    assert contents(root, it.aside) == before
    shutil.copy(root / TASK / "seed_2337" / FINAL, root / TASK / "seed_2337" / FINAL.replace("Final", "Other"))
    (root / TASK / "seed_2337" / FINAL).replace(it.aside / "0" / FINAL)
    assert before - contents(root, it.aside)


_BOTH = (
    ("a_run_without_its_end", "a_text_file"),  # the run is ingested into a second folder: there is no room in its own
    ("objects_of_the_trainers_classes", "a_group_that_is_not_there"),  # it has two files of one name
    ("a_pickle_that_would_run_code", "a_name_of_another_configuration"),  # a name that is at no source
    ("a_learning_curve_that_is_gone", "a_test_on_other_lengths"),  # both the file and run.json have to go
    ("a_name_of_another_step", "a_file_of_another_seed_in_a_run"),  # one that no source has, and a run that it repeats
    ("a_record_that_lost_a_bit", "a_learning_curve_that_is_gone"),  # of a run that no source knows
    ("a_test_on_other_lengths", "a_record_that_lost_a_bit", "a_learning_curve_that_is_gone"),  # files of no source
    ("a_run_that_could_be_another", "a_kept_wandb_folder_that_was_deleted"),  # which is of a run that nobody means
    ("a_run_without_its_end", "a_record_that_lost_a_bit"),  # a run that is not finished, and that the source has whole
    ("a_name_of_another_configuration", "a_run_that_could_be_another"),  # copies of an unknown run
    ("a_test_on_other_lengths", "a_run_that_could_be_another"),  # of two runs that no source has
    ("a_pickle_that_would_run_code", "a_broken_record"),  # nothing lists a file that is refused wherever it lies
)


def to_the_end(it: Follower, rounds: int) -> None:
    """Follow what is told of a tree until nothing is, the finding first that was followed least; no byte is lost."""
    it.patience = 4
    root, before = it.root, contents(it.root, it.aside)
    for _ in range(rounds):
        found = it.check().findings
        if not found:
            break
        it.follow(min(found, key=lambda item: it.done[item.code, item.path]))
        assert not before - contents(root, it.root, it.aside), found[0]
    assert it.check().findings == ()


@pytest.mark.parametrize("names", _BOTH, ids=" and ".join)
def test_of_several_faults_in_one_run_all_can_be_mended(
    names: tuple[str, str], root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants = {getattr(plant.plant, "__name__", ""): plant for plant in PLANTS}
    for name in names:
        plants[name].plant(root, monkeypatch)
    it = Follower(root, source, tmp_path, lambda: None)
    to_the_end(it, _ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4000, 4012 if SLICES >= 10 else 4004))
def test_of_three_random_faults_in_one_run_all_can_be_mended(
    root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance, good = random.Random(seed), shutil.copytree(root, tmp_path / "good", symlinks=True)
    for _ in range(100):
        with contextlib.suppress(Exception):  # a fault needs what another one took away
            for plant in chance.sample(PLANTS, 3):
                plant.plant(root, monkeypatch)
            break
        monkeypatch.undo()
        shutil.rmtree(root)
        shutil.copytree(good, root, symlinks=True)
    it = Follower(root, source, tmp_path, monkeypatch.undo)
    to_the_end(it, 60)


# --- many faults at once ----------------------------------------------------------------------------------------------


def _runs(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("run.json") if path.is_file() and not path.is_symlink())


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.pt") if path.is_file() and path.name[:2] not in ("._", ".D"))


def _rename_file(root: Path, chance: random.Random) -> None:
    path = chance.choice(_files(root))
    path.rename(path.with_name(f"renamed {chance.randrange(10**6)}.pt"))


def _move_file(root: Path, chance: random.Random) -> None:
    path, folder = chance.choice(_files(root)), chance.choice([*_runs(root), root, root / "with_layernorm"])
    if not (folder / path.name).exists():
        path.rename(folder / path.name)


def _copy_file(root: Path, chance: random.Random) -> None:
    path, folder = chance.choice(_files(root)), chance.choice([*_runs(root), root])
    shutil.copy(path, folder / f"copy {chance.randrange(10**6)}.pt")


def _take_file_out(root: Path, chance: random.Random) -> None:
    path = chance.choice(_files(root))
    path.rename(_outside(root, path))


def _outside(root: Path, path: Path) -> Path:
    """A place that counts: what is there is not lost."""
    (root.parent / "aside").mkdir(exist_ok=True)
    return root.parent / "aside" / f"taken {len(list((root.parent / 'aside').iterdir()))} {path.name}"


def _change_file(root: Path, chance: random.Random) -> None:
    path = chance.choice(_files(root))
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 + chance.randrange(255)
    path.write_bytes(data[: chance.choice([len(data), len(data) // 2, 0])])


def _exchange_files(root: Path, chance: random.Random) -> None:
    one, two = chance.sample(_files(root), 2)
    between = root.parent / "between"
    one.rename(between)
    two.rename(one)
    between.rename(two)


def _rename_folder(root: Path, chance: random.Random) -> None:
    run = chance.choice(_runs(root))
    folder = chance.choice([each for each in (run, *run.parents) if each.is_relative_to(root) and each != root])
    name = chance.choice(["seed_1337", "seed_2337", "task_0002", "task_0005", "len_gen_k4", "backup", "x y"])
    if not folder.with_name(name).exists():
        folder.rename(folder.with_name(name))


def _copy_folder(root: Path, chance: random.Random) -> None:
    run = chance.choice(_runs(root))
    folder = chance.choice([run, run.parent])
    shutil.copytree(folder, folder.with_name(f"copy {chance.randrange(10**6)}"), symlinks=True)


def _exchange_folders(root: Path, chance: random.Random) -> None:
    one, two = chance.sample(_runs(root), 2)
    between = root.parent / "between"
    if not one.is_relative_to(two) and not two.is_relative_to(one):
        one.rename(between)
        two.rename(one)
        between.rename(two)


def _lose_record(root: Path, chance: random.Random) -> None:
    record = chance.choice(_runs(root)) / "run.json"
    record.rename(_outside(root, record))


def _break_record(root: Path, chance: random.Random) -> None:
    (chance.choice(_runs(root)) / "run.json").write_text(chance.choice(["", "{", "[]", '{"schema_version": 1}']))


def _edit_record(root: Path, chance: random.Random) -> None:
    edits: list[dict[str, Any]] = [{"config": {"learning_rate": 0.5}}, {"seed": 5}, {"task": 7}, {"group": "other"}]
    with contextlib.suppress(ValueError, KeyError):  # it is broken already
        edit_record(chance.choice(_runs(root)), **chance.choice(edits))


def _exchange_records(root: Path, chance: random.Random) -> None:
    one, two = (run / "run.json" for run in chance.sample(_runs(root), 2))
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1])
    two.write_bytes(texts[0])


def _leave_something(root: Path, chance: random.Random) -> None:
    folder = chance.choice([*_runs(root), root])
    name = chance.choice([".DS_Store", f"._{FINAL}", "notes.txt", "model.bin", "Thumbs.db", "overwritten.json"])
    if not (folder / name).exists():
        (folder / name).write_bytes(chance.randbytes(20))


def _leave_folder(root: Path, chance: random.Random) -> None:
    folder = chance.choice(_runs(root)) / f"new {chance.randrange(10**6)}"
    folder.mkdir()
    if chance.random() < 0.5:
        (folder / "a.txt").write_bytes(chance.randbytes(20))


def _link(root: Path, chance: random.Random) -> None:
    target = chance.choice(["/nowhere", str(root.parent), FINAL, "."])
    (chance.choice(_runs(root)) / f"link {chance.randrange(10**6)}").symlink_to(target)


_BREAKS = (
    _rename_file, _move_file, _copy_file, _take_file_out, _change_file, _exchange_files, _rename_folder, _copy_folder,
    _exchange_folders, _lose_record, _break_record, _edit_record, _exchange_records, _leave_something, _leave_folder,
    _link,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12 if SLICES >= 10 else 4))
def test_a_tree_broken_in_twenty_random_ways_ends_clean_with_every_byte(
    root: Path, source: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        chance.choice(_BREAKS)(root, chance)
    it = Follower(root, source, tmp_path, lambda: None)
    to_the_end(it, 200)
