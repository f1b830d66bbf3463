"""`ckptman show`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import Json, Numbering
from ckptman.cli.tables import NOTHING, print_table, value_text
from ckptman.cli.text import console, count_text, plain, size_text
from ckptman.formats import OptimizerInfo, show_path
from ckptman.queries import ShownCheckpoint, show
from ckptman.rules import TrainConfig, comparing
from ckptman.text import RefusedError, wording
from ckptman.tree import metrics, records

_RECIPE = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
_LABEL = 16
"""Columns of the labels before the facts."""
_MOST_SHOWN = 300
"""Characters of a configuration value; --json has all of it."""


@app.command("show")
def _show(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Checkpoint files or folders, in a tree or not.")
    ],
    numbering: Numbering = None,
    as_json: Json = False,
) -> None:
    """Show what a checkpoint file is, without executing anything in it and without loading a tensor.

    What it is, where it belongs, its configuration, its tensors, its optimizer; in a tree, also which run wrote it; and
    whatever does not fit together. With --json, one file gives one document, and several give {files: [...]}.

    Example: ckptman show checkpoints/*/*/len_gen_k8/task_0006/*/Final_*.pt
    """
    documents = []
    sound = True
    for index, file in enumerate(files):
        try:
            shown = show(file, convention=convention_for(context, file.absolute().parent, numbering))
        except RefusedError as error:
            sound = False
            documents.append(_refused_json(file, error))
            _print_refusal(file, error)
            continue
        sound = sound and not shown.problems
        documents.append(shown.to_json())
        if not as_json:
            out = console()
            if index:
                out.print()
            _print_shown(shown, out)
    if as_json:
        one = len(documents) == 1
        print_json(documents[0] if one else {"schema_version": records.SCHEMA_VERSION, "files": documents})
    raise typer.Exit(0 if sound else 1)


def _refused_json(file: Path, error: RefusedError) -> dict[str, Any]:
    """The document of a file that cannot be read: all keys that every document has, without values."""
    empty = dict.fromkeys(
        ("form", "iters_done", "config", "model_config", "tensors", "parameters", "optimizer", "name", "belongs_at")
    )
    problem = {
        "code": error.code,
        "severity": "error",
        "path": str(file),
        "message": _reason(file, error),
        "fix": error.fix,
    }
    return {"schema_version": records.SCHEMA_VERSION, "path": str(file), **empty, "problems": [problem]}


def _reason(file: Path, error: RefusedError) -> str:
    """Why a file is refused, without its path, which stands beside it."""
    return error.message.removeprefix(f"{show_path(file)}: ")


def _print_refusal(file: Path, error: RefusedError) -> None:
    talk = console(stderr=True)
    talk.print(plain("REFUSED ", "bold red") + plain(f"{file}: {_reason(file, error)} [{error.code}]"))
    talk.print(plain(f"  {error.fix}"))


def _print_shown(shown: ShownCheckpoint, out: Console) -> None:
    out.print(plain(shown.path.name, "bold"))
    for label, fact in _facts(shown):
        out.print(plain(f"  {label:<{_LABEL}}", "dim") + plain(fact))
    _print_config(shown, out)
    _print_tensors(shown, out)
    if shown.problems:
        out.print()
        out.print(plain(count_text(len(shown.problems), "problem"), "bold red"))
        for problem in shown.problems:
            out.print(plain(f"  {problem.message} [{problem.code}]"))
            out.print(plain(f"    {problem.fix}", "dim"))


def _facts(shown: ShownCheckpoint) -> list[tuple[str, str]]:
    info = shown.info
    kind = "a checkpoint" if shown.name is None else f"{shown.name.prefix.name} ({shown.name.prefix.title})"
    done = "iterations done not said" if info.iters_done is None else f"{info.iters_done:,} iterations done"
    compiled = ", saved from a compiled model" if info.compiled else ""
    facts = [
        ("what", f"{kind}, {done}, form {info.form}, {size_text(info.size)}{compiled}"),
        ("container", info.container + (f", {count_text(len(info.members), 'file')}" if info.members else "")),
        ("lies in", str(shown.location.folder)),
        ("belongs at", NOTHING if shown.belongs_at is None else str(shown.belongs_at)),
    ]
    if shown.location.root is not None:
        facts.insert(1, ("tree", str(shown.location.root)))
    if info.run_id is not None:
        facts.append(("run in the file", info.run_id))
    unread = {
        "not read": info.other_keys,
        "configurations?": info.unused_configs,
        "not tensors": info.not_tensors,
        "foreign objects": tuple(f"{item.name} ({', '.join(item.places) or item.how})" for item in info.foreign),
    }
    facts += [(label, ", ".join(found)) for label, found in unread.items() if found]
    return facts + _run_facts(shown)


def _run_facts(shown: ShownCheckpoint) -> list[tuple[str, str]]:
    """What the run's record adds."""
    record = shown.record
    if record is None:
        return []
    others = record.attribution.candidates if len(record.attribution.candidates) > 1 else ()
    candidates = f" (candidates: {', '.join(others)})" if others else ""
    seed = "unknown seed" if record.seed is None else f"seed {record.seed}"
    source = record.source.root if shown.entry is None else str(Path(record.source.root, shown.entry.source.path))
    value = shown.generalization
    return [
        ("run", f"{record.run_id or 'unknown'}, {seed}"),
        ("attribution", f"{record.attribution.code}: {record.attribution.evidence}{candidates}"),
        ("source", source),
        ("generalization", "not measured" if value is None else measured_text(value)),
    ]


def measured_text(value: metrics.Measured) -> str:
    """A run's generalization with where it is from, its samples and its interval."""
    low, high = map(wording.percent, value.interval)
    lists = count_text(value.samples, "list")
    return f"{wording.percent(value.value)} ({value.source}, {lists} of each length, 95 % interval {low} to {high})"


def _print_config(shown: ShownCheckpoint, out: Console) -> None:
    out.print()
    if not shown.config:
        out.print(plain("no configuration: neither the file nor anything around it says", "bold"))
        return
    out.print(
        plain("configuration", "bold")
        + plain(f", from the {shown.config_source}; * differs from the published recipe", "dim")
    )
    print_table(out, [("", "Key", "Value"), *map(_config_row, shown.config.items())], indent="  ", give=("Value",))


def _config_row(item: tuple[str, Any]) -> tuple[str, str, str]:
    key, value = item
    text = value_text(value)
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}… ({len(text):,} characters)"
    if key not in _RECIPE or comparing.same_value(value, _RECIPE[key]):
        return "", key, text
    return "*", key, f"{text}  (recipe: {value_text(_RECIPE[key])})"


def _print_tensors(shown: ShownCheckpoint, out: Console) -> None:
    info = shown.info
    out.print()
    out.print(
        plain(count_text(len(info.tensors), "tensor"), "bold")
        + plain(f", {info.parameters:,} parameters (tied weights counted once)", "dim")
    )
    rows = [(t.name, " × ".join(map(str, t.shape)) or "scalar", t.dtype) for t in info.tensors]
    print_table(out, [("Name", "Shape", "Type"), *rows], right=(1,), indent="  ", give=("Name",))
    out.print()
    out.print(plain("optimizer", "bold") + plain(f" {_optimizer_text(info.optimizer)}"))


def _optimizer_text(optimizer: OptimizerInfo | None) -> str:
    if optimizer is None:
        return "none saved"
    states = f"{count_text(optimizer.states, 'parameter')} with state ({count_text(optimizer.tensors, 'tensor')})"
    groups = [f"{count_text(group.parameters, 'parameter')}: {_settings(group.hyperparameters)}"
              for group in optimizer.groups]  # fmt: skip
    return "; ".join((states, *groups))


def _settings(values: Mapping[str, Any]) -> str:
    """Hyperparameters that are on, in short."""
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value not in (None, False))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else value_text(value)
