"""Whatever names, runs, configurations and rules hold: no verb lets it be more than text, and JSON has it as it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ckptman.cli.app import run
from ckptman.text import markdown, wording
from tests.helpers.promises import caught, tried
from tests.helpers.raw import config, gen_metrics, write_run
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.safe_output import BYTES, NAME, UNSEEN, VALUE, holds, markdown_problems, unsafe
from tests.helpers.trees import edit_json

PROMISE = "Values from files in every verb's output: no escape codes, markup, links or unseen characters; JSON lossless"
TASK = "len_gen_k8/task_0006"
RUN = f"with_layernorm/dynamic/{TASK}/seed_1337"
BROKEN = f"{BYTES}.pt"
COPY = f"{NAME[:110]}{UNSEEN}.pt"
MODELS = [f"raw/{TASK}/saved_models/{name}" for name in (COPY, BROKEN)]


def raw_outputs(source: Path) -> None:
    """Hostile groups, names of files, folders and links, configurations, metrics, ids; a W&B file that ends early."""
    task = source / TASK
    values = {VALUE: VALUE, "note": VALUE, "nested": {VALUE: [VALUE]}}
    metrics = {**gen_metrics(0.5), VALUE: 1.0, f"gen/K17/{VALUE}": VALUE}
    files = write_run(
        task, config(save_dir=VALUE, wandb_project=VALUE), run_id="abcd1234", metrics=metrics, more=values
    )
    write_run(source / BYTES / "task_0003", config(wandb_group=NAME, seed=2337), run_id=f"x{NAME[:60]}")
    write_run(source / "len_gen_k10/task_0006", config(10), run_id="lost", save=False, more={"note": VALUE})
    models = task / "saved_models"
    (models / BROKEN).write_text("nothing")
    shutil.copy2(files[0], models / COPY)
    (models / f"{BYTES}.pth").write_text("nothing")
    (models / BYTES).symlink_to(NAME)
    (models / f"{NAME[:60]}.summary.json").write_text("{")
    wandb = source / "len_gen_k8/task_0002/wandb/wandb" / f"run-20260310_000000-{BYTES}" / "files"
    wandb.mkdir(parents=True)
    (wandb / "config.yaml").write_text("a: {value: ")


def tamper(tree: Path) -> None:
    """Hostile records, and files that no record lists."""
    strange = add_run(tree, config(12, n_layers=2), run_id=NAME, metrics={VALUE: 1.0, **gen_metrics(0.4)},
                      more={"note": VALUE, "save_dir": VALUE}, notes=("x",))  # fmt: skip
    edit_json(strange / "run.json", lambda doc: doc.update(group=NAME, attribution={
        "code": VALUE, "evidence": VALUE, "candidates": [VALUE]}))  # fmt: skip
    edit_json(strange / "run.json", lambda doc: doc["source"].update(root=VALUE, group=VALUE))
    next(strange.glob("*.pt")).rename(strange / BROKEN)
    add_overwritten(tree, config(14, seed=3337), metrics={VALUE: 1.0}, by=VALUE)
    for file in tree.rglob("overwritten.json"):
        edit_json(file, lambda doc: [lost.update(run_id=NAME, group=NAME) for lost in doc["runs"]] and None)
    (tree / BYTES).mkdir()
    (tree / f"x{NAME}").write_text("x")
    (tree / RUN / BROKEN).write_text("x")
    (tree / "README.md").write_text("# Ours\n")


def rules(file: Path) -> None:
    """A convention whose every title is hostile."""
    text = {"title": VALUE.replace(UNSEEN[-1], "")}  # JSON writes it in two halves, which is no YAML
    file.write_text(json.dumps({
        **text, "name": {"prefixes": {"Final": text}, "fields": {"N": text}},
        "axes": {"n_layers": {**text, "short": f"{NAME[:20]}{{}}"}},
        "metrics": {"generalization": text}, "facets": {"layernorm": {**text, "values": {"with": text}}},
        "groups": {"len_gen_k{K}": text},
    }))  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    raw_outputs(folder / "raw")
    assert run(["ingest", str(folder / "raw"), "--root", str(folder / "tree"), "--settle", "0", "--json"]) == 1
    tamper(folder / "tree")
    rules(folder / "hostile.yaml")
    (folder / "refused.yaml").write_text(json.dumps({"groups": {f"{NAME[:30]}_k{{K}}": {"example": "a_k8"}}}))
    return folder


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(home)
    yield home
    shutil.rmtree(home / "copies", ignore_errors=True)
    for made in ("a.svg", "a.csv"):
        (home / made).unlink(missing_ok=True)


SHOWING = [
    ["ingest", "raw", "--root", "tree", "--dry-run", "-v"],
    ["ingest", "raw", "--root", "new", "--dry-run", "-v"],
    ["ls", "tree", "--columns", "path,note,save_dir,run_id"],
    ["ls", "tree", "--columns", "note,run_id", "--format", "md"],
    ["ls", "tree", "--columns", "note,run_id", "--format", "csv"],
    ["results", "tree", "--by", "note"],
    ["results", "tree", "--by", "note", "--format", "md"],
    ["results", "tree", "--by", "note", "--format", "tsv"],
    ["show", f"tree/{RUN}", "--root", "tree"],
    ["show", f"raw/{TASK}/saved_models/{BROKEN}"],
    ["show", f"raw/{TASK}/saved_models/{COPY}"],
    ["status", "--root", "tree", "--out", "raw", "-v"],
    ["name", COPY, BROKEN, NAME],
    ["assign", f"tree/{RUN}", "--run", NAME, "--dry-run"],
    ["export", *MODELS, "--to", "plain", "--out", "copies"],
    ["witness", *MODELS, "--seeds", "1"],
    ["validate", "tree"],
    ["validate", "tree", "--deep", "--format", "github"],
    ["validate", "tree", "--fix", "--dry-run"],
    ["report", "tree", "--diff"],
    ["migrate", "tree", "--dry-run"],
    ["ls", "tree", "--where", f"{VALUE} = 1"],
    ["--config", "refused.yaml", "ls", "tree"],
    [NAME],
]  # fmt: skip
"""Commands that print hostile text."""
RULED = [["ls", "tree"], ["status", "tree"], ["results", "tree"], ["task", "--root", "tree", "6", "--k", "8"],
         ["config"], ["learn", "raw"], ["report", "tree", "--diff"]]  # fmt: skip
"""Commands by hostile rules."""
AS_JSON = {
    "ingest": ["ingest", "raw", "--root", "new", "--dry-run", "--json"],
    "ls": ["ls", "tree", "--json"],
    "ls by keys": ["ls", "tree", "--columns", "note", "--format", "json"],
    "results": ["results", "tree", "--by", "note", "--json"],
    "show": ["show", f"raw/{TASK}/saved_models/{COPY}", "--json"],
    "show, a run": ["show", f"tree/{RUN}", "--root", "tree", "--json"],
    "validate": ["validate", "tree", "--json"],
    "name": ["name", BROKEN, "--json"],
}
EXPECTED = {"ingest": BYTES, "validate": BYTES, "name": BYTES}
"""What is a name in a document, where it is no configuration's value."""


def name_of(arguments: Sequence[str]) -> str:
    return re.sub(r"[^ -~]+.*", "…", " ".join(arguments))[:60]


@pytest.mark.parametrize("arguments", SHOWING, ids=name_of)
def test_no_verb_prints_more_than_text(
    arguments: list[str], at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_data := "csv" in arguments or "tsv" in arguments:  # a file gets the very bytes
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for styled in (False, True):
        with tried(PROMISE, 1), monkeypatch.context() as patch:
            if styled:
                patch.setenv("FORCE_COLOR", "1")
                patch.setenv("COLUMNS", "80")
            run(arguments)
            printed = capsys.readouterr()
            assert unsafe(printed.out.replace("\t", "") + printed.err, styled=styled or is_data) == []
            assert "fault in ckptman" not in printed.err
            if "md" in arguments:
                assert markdown_problems(printed.out) == []
    with caught(PROMISE), monkeypatch.context() as patch:
        patch.setattr(wording, "_is_unsafe", lambda char: "\udc80" <= char <= "\udcff")
        run(arguments)
        assert unsafe("".join(capsys.readouterr())), "nothing hostile is printed, so nothing is tried"


@pytest.mark.parametrize("arguments", RULED, ids=name_of)
def test_no_verb_prints_more_than_text_by_hostile_rules(
    arguments: list[str], at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tried(PROMISE, 1):
        run(["--config", "hostile.yaml", *arguments])
        printed = "".join(capsys.readouterr())
        assert unsafe(printed) == []
        assert "fault in ckptman" not in printed


@pytest.mark.parametrize("verb", AS_JSON)
def test_json_has_every_text_as_it_is(verb: str, at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tried(PROMISE, 1):
        run(AS_JSON[verb])
        printed = capsys.readouterr().out
        assert printed.isascii()
        assert holds(printed, EXPECTED.get(verb, VALUE))


@pytest.mark.parametrize("config", [[], ["--config", "hostile.yaml"]], ids=["built-in", "hostile rules"])
def test_documents_and_figures_hold_names_as_text(config: list[str], at_home: Path) -> None:
    with tried(PROMISE, 3):
        run([*config, "report", "tree"])
        for name in ("README.md", "TASK_MAPPING.md"):
            assert markdown_problems((at_home / "tree" / name).read_text()) == []
        assert run([*config, "plot", "generalization", "--root", "tree", "-o", "a.svg"]) < 2
        for element in ElementTree.fromstring(Path("a.svg").read_text()).iter():
            assert element.tag.rpartition("}")[2] not in ("script", "a", "image")
            assert unsafe("".join((element.text or "", *element.attrib.values()))) == []


def test_documents_that_take_names_for_markdown_would_be_found(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with caught(PROMISE):
        monkeypatch.setattr(markdown, "text", wording.one_line)
        run(["--config", "hostile.yaml", "report", "tree"])
        assert markdown_problems(Path("tree/TASK_MAPPING.md").read_text() + Path("tree/README.md").read_text())
