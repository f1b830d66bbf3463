"""docs/formats.md against what is written: every file and `--json` document, field by field."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.cli import commands
from ckptman.cli.app import run
from tests.helpers import reference
from tests.helpers.learnable import EXPERIMENTS, make
from tests.helpers.model_folders import trainer
from tests.helpers.raw import START, config, name_of, write_checkpoint, write_run
from tests.helpers.trees import edit_record

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
GRID = ["--k", "4", "--task", "3", "--regime", "fixed", "--layernorm", "on", "--seed", "1337"]
TASK = ["train", "--k", "4", "--task", "3", "--fixed", "--seed", "1337"]
SHORT = ["--iters", "6", "--batch-size", "8", "--set", "n_embd=8", "--eval-samples", "2", "--warmup-iters", "1",
         "--eval-every", "0", "--checkpoint-every", "3", "--device", "cpu", "--threads", "1",
         "--wandb", "disabled"]  # fmt: skip
Fields = dict[str, str]

# --- the document -----------------------------------------------------------------------------------------------------


def tables(level: str) -> dict[str, Fields]:
    """The fields and types below each heading of a level."""
    found: dict[str, Fields] = {}
    for part in re.split(rf"^{level} ", TEXT, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        body = re.split(r"^#", body, flags=re.M)[0]
        fields = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", body, flags=re.M))
        if inherited := re.search(r"All fields of an? \[([^]]+)\]\(#[^)]+\)(?: but (.*), and:)?", body):
            left_out = re.findall(r"`(\w+)`", inherited[2] or "")
            more = {name: kind for name, kind in found[inherited[1]].items() if name not in left_out}
            fields = {**more, **fields}
        found[title.replace("`", "")] = fields
    return found


DOCUMENTS = {title: fields for title, fields in tables("##").items() if fields}
RECORDS = tables("###")
PLAIN: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: (isinstance(value, int | float) and not isinstance(value, bool))
    or value in ("NaN", "Infinity", "-Infinity"),
    "flag": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "any": lambda value: True,
    "null": lambda value: value is None,
}  # fmt: skip


class Checker:
    """Compares values with their described types, and remembers which fields it met."""

    def __init__(self) -> None:
        self.met: set[tuple[str, str]] = set()

    def fields(self, record: str, fields: Fields, value: dict[str, Any], where: str) -> Iterator[str]:
        self.met |= {(record, name) for name in value}
        for name in value.keys() - fields.keys():
            yield f"{where}.{name} is not described"
        for name, kind in fields.items():
            if name in value:
                yield from self.value(kind.removeprefix("optional "), value[name], f"{where}.{name}")
            elif not kind.startswith("optional "):
                yield f"{where}.{name} is missing"

    def value(self, kind: str, value: Any, where: str) -> Iterator[str]:
        if kind.endswith(" or null"):
            if value is None:
                return
            kind = kind.removesuffix(" or null")
        if kind.startswith("list of ") and isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.value(kind.removeprefix("list of "), item, f"{where}[{index}]")
        elif kind.startswith("map of ") and isinstance(value, dict):
            for key, item in value.items():
                yield from self.value(kind.removeprefix("map of "), item, f"{where}.{key}")
        elif kind in RECORDS and isinstance(value, dict):
            yield from self.fields(kind, RECORDS[kind], value, where)
        elif kind not in PLAIN or not PLAIN[kind](value):
            yield f"{where} is {value!r}, not {kind}"


# --- what is written --------------------------------------------------------------------------------------------------


class Foreign:
    """An object of a class that nobody listed."""


def raw_outputs(source: Path) -> None:
    """Runs with everything that an ingest can have to tell."""
    task = source / "len_gen_k8" / "task_0002"
    for index, seed in enumerate((1337, 2337)):
        curve = {0: {"loss": 1.5}, 1: {"loss": 1.25}}
        write_run(task, config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index, curve=curve)
    partly = source / "len_gen_k8" / "task_0003"
    write_run(partly, config(seed=5), run_id="partly", started=START)
    write_run(partly, config(seed=6), run_id="killed", started=START + 1000, files=("Checkpoint",), last_iter=21_000)
    shutil.copytree(task / "saved_models", source / "len_gen_k10" / "task_0001" / "saved_models")
    write_run(source / "len_gen_k8" / "task_0004", config(seed=9), run_id="nofiles", save=False)
    (source / "len_gen_k8" / "task_0005" / "saved_models").mkdir(parents=True)
    (source / "len_gen_k8" / "task_0005" / "saved_models" / "bad.pt").write_text("no checkpoint")
    write_run(source / "other_name" / "task_0006", config(4), run_id="grouped")
    settings = config(6)
    file = source / "len_gen_k6" / "task_0001" / "saved_models" / name_of(settings)
    lengths = {**settings.to_dict(), "lengths": {2, 3}}  # of which W&B's order is not known
    write_checkpoint(file, settings, hparams={"n_layers": 1}, train_config=lengths)
    trainer(source / "len_gen_k8" / "task_0006" / "checkpoint-40000", config(seed=11))
    broken = source / "len_gen_k8" / "task_0007"
    write_run(broken, config(12, seed=7), run_id="broken")
    next(broken.rglob("wandb-summary.json")).write_text("{")
    inside = {key: value for key, value in config(14).to_dict().items() if key != "seed"}
    file = write_checkpoint(source / "len_gen_k14" / "task_0006" / name_of(config(14)), config(14), train_config=inside)
    file.with_suffix(".summary.json").write_text(json.dumps({"seed": 3, "metrics": {"loss": 0.5}}))
    file.with_name("args.json").write_text(json.dumps({"n_layers": 9}))


def samples(folder: Path, call: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Each described document, made: its heading and its content."""
    source, root, out = folder / "grid_outputs", folder / "checkpoints", folder / "out"
    raw_outputs(source)
    yield "ckptman ingest --json", call("ingest", source, "--root", root, "--dry-run")
    yield "ckptman ingest --json", call("ingest", source, "--root", root, "--with-wandb")
    yield "ckptman ingest --json", call("ingest", source, "--root", root)
    shutil.copytree(source, folder / "again")
    yield "ckptman ingest --json", call("ingest", folder / "again", "--root", root, "--mode", "move")

    final = next(root.rglob("seed_2337/Final_*"))
    assert isinstance(call("eval", final, "--k", "17-32", "--samples", "2"), dict)
    lone = write_checkpoint(folder / "lone.pt", config(8))
    (folder / "bad.pt").write_text("no checkpoint")
    yield "ckptman eval --json", call("eval", final, folder / "bad.pt", "--k", "17", "--samples", "2")
    yield "ckptman eval --forget --json", call("eval", final, "--forget", "--k", "17", "--samples", "2")
    exported = ("--to", "plain", "--out", folder / "exported")
    yield "ckptman export --json", call("export", final, folder / "bad.pt", *exported)
    yield "ckptman witness --json", call("witness", final, folder / "bad.pt", "--seeds", "1-3")
    for file in root.rglob("run.json"):
        yield "run.json", json.loads(file.read_text())
    yield "refused.json", json.loads((root / "refused.json").read_text())
    for file in root.rglob("overwritten.json"):
        yield "overwritten.json", json.loads(file.read_text())

    yield "ckptman learn --json", call("learn", source)
    shutil.copytree(root, folder / "migrated")
    yield "ckptman migrate --json", call("migrate", folder / "migrated", "--numbering", "merged", "--yes")
    yield "journal.json", json.loads(next((folder / "migrated").rglob("journal.json")).read_text())
    edit_record(next((folder / "migrated").rglob("run.json")).parent, config={"n_layers": 9})
    yield "ckptman migrate --json", call("migrate", folder / "migrated", "--dry-run")

    edit_record(final.parent, attribution={"code": "none", "evidence": "", "candidates": ["a", "b"]})
    moved = call("assign", final, "--run", "b")
    yield "ckptman assign --json", moved
    final = root / moved["folder"] / final.name
    yield "run.json", json.loads((final.parent / "run.json").read_text())
    final.parent.with_name("seed_3337").mkdir()
    (final.parent.with_name("seed_3337") / "run.json").write_text("{")
    yield "ckptman ls --json", call("ls", "--root", root)
    yield "ckptman ls --json", call("ls", "--root", root, "--metric", "gen/K17/exact_match_acc")
    yield "ckptman results --json", call("results", "--root", root, "--all-runs")
    yield "ckptman results --threshold 0.95 --json", call("results", "--root", root, "--threshold", "0.95")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    torch.save({"w": torch.zeros(2)}, folder / "model" / "pytorch_model.bin")
    yield "ckptman show RUN --json", call("show", final.parent)
    odd = folder / "odd.pt"
    torch.save({"model": {"a": torch.ones(1)}, "extra": Foreign()}, odd)
    for file in (final, lone, odd, folder / "bad.pt", folder / "model"):
        yield "ckptman show --json", call("show", file)
    yield "ckptman show --json of several files", call("show", final, folder / "bad.pt")
    yield "ckptman validate --json", call("validate", "--root", root, "--deep")
    (root / "Thumbs.db").touch()
    yield "ckptman validate --json", call("validate", "--root", root, "--fix", "--dry-run")
    yield "ckptman validate --json", call("validate", "--root", root, "--fix")
    yield "ckptman validate --explain CODE --json", call("validate", "--explain", "cut")
    yield "ckptman validate --explain CODE --json", call("validate", "--explain", "missing-seed")
    (root / "TASK_MAPPING.md").write_text("ours\n")
    (root / "README.md").write_text("<!-- ckptman:begin structure -->\n")
    yield "ckptman report --json", call("report", "--root", root)
    yield "ckptman report --json", call("report", "--project", folder / "PROJECT.md")

    yield "ckptman config --json", call("config")
    yield "ckptman doctor --json", call("doctor", folder)
    yield "ckptman task --json", call("task", "6")
    yield "ckptman task --json", call("task", "6", "--k", "8")
    yield "ckptman name --json", call("name", final.name, "nonsense.pt")
    yield "ckptman train --dry-run --json", call(*TASK, *SHORT, "--out", out, "--dry-run")
    yield "ckptman train --json", call(*TASK, *SHORT, "--out", out)
    yield "metrics.json", json.loads(next(out.rglob("metrics.json")).read_text())
    yield "ckptman ingest --json", call("ingest", out, "--root", folder / "trained")
    cut = next(out.rglob("Final_*.pt"))
    (half := cut.with_name(cut.name.replace("_mlp0", "_mlp1"))).write_bytes(cut.read_bytes()[:-100])  # deferred
    (out / "linked").symlink_to(folder / "model")
    call("ingest", out, "--root", folder / "trained")
    yield "refused.json", json.loads((folder / "trained" / "refused.json").read_text())
    for made in (half, out / "linked"):
        made.unlink()
    yield "run.json", json.loads(next((folder / "trained").rglob("run.json")).read_text())
    yield "ckptman show --json", call("show", next(out.rglob("Checkpoint_*.pt")))
    for options in ([], ["--iters", "7"]):
        yield "ckptman train --dry-run --json", call(*TASK, *SHORT, *options, "--out", out, "--dry-run")
    yield "ckptman train --json", call(*TASK, *SHORT, "--iters", "7", "--out", out)
    yield "ckptman status --json", call("status", "--out", source, "--root", root)
    for options in ([], ["--iters", "7"]):
        yield "ckptman sweep --dry-run --json", call("sweep", *GRID, *SHORT, *options, "--out", out, "--dry-run")
    yield "ckptman sweep --json", call("sweep", *GRID, *SHORT, "--out", out)


@pytest.mark.slow
def test_every_document_has_the_fields_that_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: object) -> Any:
        capsys.readouterr()
        assert run([*map(str, arguments), "--json"]) in (0, 1), capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    checker, made = Checker(), set()
    wrong: list[str] = []
    for title, document in samples(tmp_path, call):
        made.add(title)
        wrong += checker.fields(title, DOCUMENTS[title], document, title)
    assert wrong == [], "\n".join(wrong)
    assert made == set(DOCUMENTS)
    described = {(title, name) for title, fields in (DOCUMENTS | RECORDS).items() for name in fields}
    assert described - checker.met == set(), "these are described, and nothing was made that has them"


def test_every_command_with_a_document_is_described() -> None:
    registered = reference.registered()
    with_json = {name for name in registered if any("--json" in p.opts for p in registered[name].params)}
    assert with_json <= set(commands.COMMANDS)
    assert {title.split()[1] for title in DOCUMENTS if title.startswith("ckptman ")} == with_json


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, []),
        ({"schema_version": "1"}, ["x.schema_version is '1', not integer"]),
        ({"schema_version": True}, ["x.schema_version is True, not integer"]),
        ({"more": 1}, ["x.more is not described"]),
        ({"names": [{"name": "a"}]}, ["x.names[0].parsed is missing"]),
        ({"refused": None}, ["x.refused is None, not list of refused name"]),
    ],
)
def test_a_difference_is_noticed(change: dict[str, Any], wrong: list[str]) -> None:
    document = {"schema_version": 1, "names": [], "refused": [], **change}
    assert list(Checker().fields("name", DOCUMENTS["ckptman name --json"], document, "x")) == wrong


@pytest.mark.parametrize("name", ["run folders", "standard"])
def test_documents_of_a_learnt_experiment_are_as_described(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "raw", EXPERIMENTS[name], "nowhere")
    assert run(["learn", "raw", "--write", "ckptman.yaml"]) in (0, 1)
    found: list[str] = []
    for command, *arguments in (["ingest", "raw"], ["ls"], ["results"], ["validate"]):
        capsys.readouterr()
        run([command, *arguments, "--json"])
        title = f"ckptman {command} --json"
        found += Checker().fields(title, DOCUMENTS[title], json.loads(capsys.readouterr().out), title)
    for file in tmp_path.glob("checkpoints/**/run.json"):
        found += Checker().fields("run.json", DOCUMENTS["run.json"], json.loads(file.read_text()), str(file))
    assert found == []
