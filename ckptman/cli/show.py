"""`ckptman show`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ckptman.cli.app import app, convention_for, print_json
from ckptman.cli.options import Json, Numbering, Root, Verbose, tree_of
from ckptman.cli.tables import NOTHING, print_table
from ckptman.cli.text import console, count_text, plain, say_refused, size_text
from ckptman.formats import CheckpointInfo, show_path
from ckptman.queries import ShownCheckpoint, run_inspection, show
from ckptman.rules import Convention, TrainConfig, comparing, placement
from ckptman.text import RefusedError, UsageError, wording
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
        list[Path],
        typer.Argument(
            metavar="FILE|RUN…",
            help="Checkpoint files or folders, in a tree or not; or runs of a tree, by folder, id or group/task/seed.",
        ),
    ],
    root: Root = None,
    numbering: Numbering = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show what a checkpoint file is, without executing anything in it and without loading a tensor; or a run.

    Of a file: what it is, where it belongs, whether it loads, its configuration, its tensors, its optimizer, what was
    not read; in a tree, also which run wrote it; and whatever does not fit together. Of a run: its files, its metrics
    by K, its evaluations. With --json, one gives one document, and several give {files: [...]}.

    Example: ckptman show checkpoints/*/*/len_gen_k8/task_0006/*/Final_*.pt
    """
    documents, refused = [], []
    sound = True
    for index, file in enumerate(files):
        rules = convention_for(context, file.absolute().parent, numbering)
        try:
            if run_inspection.is_run_folder(file, rules) or not _is_called_like_one(file, rules):
                run = _find_run(context, file, root, numbering)
                documents.append(run.to_json())
                if not as_json:
                    _print_run(run, console(), first=not index)
                continue
            shown = show(file, convention=rules)
        except RefusedError as error:
            sound = False
            documents.append(_refused_json(file, error))
            refused.append((f"{file}: {_reason(file, error)}", error.code, error.fix))
            continue
        sound = sound and not shown.problems
        documents.append(shown.to_json())
        if not as_json:
            out = console()
            if index:
                out.print()
            _print_shown(shown, out)
    say_refused(refused)
    if as_json:
        one = len(documents) == 1
        print_json(documents[0] if one else {"schema_version": records.SCHEMA_VERSION, "files": documents})
    raise typer.Exit(0 if sound else 1)


def _is_called_like_one(file: Path, convention: Convention) -> bool:
    """Whether it can be no run by its name, so that one which is not there is a file."""
    rules = convention.checkpoint
    return os.path.lexists(file) or file.name.endswith((rules.suffix, *rules.other_suffixes))


def _find_run(context: typer.Context, name: Path, root: Path | None, numbering: str | None) -> run_inspection.ShownRun:
    """The run that is meant: in the tree that its folder lies in, else in the one that the command is about."""
    rules = convention_for(context, name.absolute().parent, numbering)
    tree = placement.root_above(name.resolve(), rules) if name.is_dir() else None
    if tree is None and name.is_dir():
        raise UsageError(
            f"{name} lies in no tree: above a run's folder stand its task, its group and its family",
            code="no-tree",
            fix="Name its checkpoints: ckptman show FILE…",
        )
    try:
        tree = tree or tree_of(context, root)
        return run_inspection.show_run(str(name), tree, convention=convention_for(context, tree, numbering))
    except UsageError as error:
        if error.code != "no-tree":
            raise
        message = f"{name} does not exist, and to look for a run of that name: {error.message}"
        raise UsageError(message, code=error.code, fix=error.fix) from None


def _print_run(run: run_inspection.ShownRun, out: Console, *, first: bool) -> None:
    record = run.record
    facts = [
        ("run", f"{record.run_id or 'unknown'}, {'unknown seed' if record.seed is None else f'seed {record.seed}'}"),
        ("tree", str(run.root)),
        ("lies in", str(run.folder)),
        ("attribution", f"{record.attribution.code}: {record.attribution.evidence}"),
        ("source", record.source.root),
        *_beside(record),
        ("generalization", "not measured" if run.generalization is None else measured_text(run.generalization)),
    ]
    if not first:
        out.print()
    out.print(plain("/".join(run.folder.parts[-3:]), "bold"))
    for label, fact in facts:
        out.print(plain(f"  {label:<{_LABEL}}", "dim") + plain(fact))
    out.print()
    out.print(plain(count_text(len(record.checkpoints), "checkpoint"), "bold"))
    rows = [
        (
            entry.kind,
            NOTHING if entry.step is None else f"{entry.step:,}",
            size_text(entry.size),
            "yes" if entry.file in run.here else "NOT THERE",
            f"folder of {count_text(len(entry.parts), 'file')}" if entry.parts else "file",
            entry.file,
        )
        for entry in record.checkpoints
    ]
    print_table(out, [("Kind", "Step", "Size", "Here", "What", "Name"), *rows], right=(1, 2), indent="  ")
    out.print()
    out.print(plain(f"metrics by K, from {record.metrics_source or 'W&B'}" if run.by_k else "no metrics by K", "bold"))
    if run.by_k:
        by_k = [(str(k), wording.percent(value)) for k, value in sorted(run.by_k.items())]
        print_table(out, [("K", "Exact match"), *by_k], right=(0, 1), indent="  ")
    out.print()
    evaluations = count_text(len(record.evaluations), "evaluation") if record.evaluations else "no evaluations"
    out.print(plain(evaluations, "bold"))
    if record.evaluations:
        measured = [_evaluation_row(item) for item in record.evaluations]
        titles = ("Mode", "Lists each", "Seed", "K", "Exact match", "Date", "File")
        print_table(out, [titles, *measured], right=(1, 2), indent="  ")
    _print_config(record.config, f"from: {record.config_source}", out)


def _evaluation_row(item: Mapping[str, Any]) -> tuple[str, ...]:
    found = item.get("k")
    lengths = [k for k in found if isinstance(k, int)] if isinstance(found, list | tuple) else []
    span = f"{min(lengths)}..{max(lengths)}" if lengths else NOTHING
    value = item.get("gen_em")
    low, high = item.get("gen_low"), item.get("gen_high")
    shown = wording.percent(value) if isinstance(value, int | float) else NOTHING
    if isinstance(low, int | float) and isinstance(high, int | float):
        shown += f" ({wording.percent(low)} to {wording.percent(high)})"
    texts = (str(item.get(key, NOTHING)) for key in ("mode", "samples", "seed"))
    return *texts, span, shown, str(item.get("date") or NOTHING)[:10], str(item.get("file", NOTHING))


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


def _print_shown(shown: ShownCheckpoint, out: Console) -> None:
    out.print(plain(shown.path.name, "bold"))
    for label, fact in _facts(shown):
        out.print(plain(f"  {label:<{_LABEL}}", "dim") + plain(fact))
    inside = f" ({shown.info.config_key})" if shown.config_source == "checkpoint" and shown.info.config_key else ""
    _print_config(shown.config, f"from the {shown.config_source}{inside}", out)
    _print_tensors(shown, out)
    if shown.problems:
        out.print()
        out.print(plain(count_text(len(shown.problems), "problem"), "bold red"))
        for problem in shown.problems:
            out.print(plain(f"  {problem.message} [{problem.code}]"))
            out.print(plain(f"    {problem.fix}", "dim"))


def _facts(shown: ShownCheckpoint) -> list[tuple[str, str]]:
    info = shown.info
    prefix = None if shown.name is None else shown.name.prefix
    kind = "a checkpoint" if prefix is None else f"{prefix.name} ({prefix.title})"
    done = "iterations done not said" if info.iters_done is None else f"{info.iters_done:,} iterations done"
    compiled = ", saved from a compiled model" if info.compiled else ""
    under = f" (weights under {info.weights_key})" if info.is_found else ""
    facts = [
        ("what", f"{kind}, {done}, form {info.form}{under}, {size_text(info.size)}{compiled}"),
        ("container", info.container + (f", {count_text(len(info.members), 'file')}" if info.members else "")),
        ("lies in", str(shown.location.folder)),
        ("belongs at", NOTHING if shown.belongs_at is None else str(shown.belongs_at)),
    ]
    if shown.location.root is not None:
        facts.insert(1, ("tree", str(shown.location.root)))
    if info.run_id is not None:
        facts.append(("run in the file", info.run_id))
    dtypes = ", ".join(dict.fromkeys(tensor.dtype for tensor in info.tensors))
    facts += [
        ("weights", f"{info.parameters:,} parameters, {dtypes or 'none'}, {size_text(info.nbytes)}"),
        ("optimizer", _optimizer_size(info)),
        ("loads", _loads_text(shown)),
    ]
    unread = {
        "missing": info.missing,
        "not read": info.other_keys,
        "configurations?": info.unused_configs,
        "without names": tuple(f"{key}: the file does not hold the names of its fields" for key in info.unnamed_fields),
        "not understood": info.odd_fields,
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
    others = record.attribution.candidates if record.run_id is None or len(record.attribution.candidates) > 1 else ()
    candidates = f" (candidates: {', '.join(others)})" if others else ""
    seed = "unknown seed" if record.seed is None else f"seed {record.seed}"
    source = record.source.root if shown.entry is None else str(Path(record.source.root, shown.entry.source.path))
    value = shown.generalization
    return [
        ("run", f"{record.run_id or 'unknown'}, {seed}"),
        ("attribution", f"{record.attribution.code}: {record.attribution.evidence}{candidates}"),
        ("source", source),
        *_beside(record),
        ("generalization", "not measured" if value is None else measured_text(value)),
    ]


def _beside(record: records.RunRecord) -> list[tuple[str, str]]:
    """What lay beside the run's checkpoints, and what it gave."""
    told = [f"{file.path} ({', '.join((*file.gave, *file.keys)) or 'not used'})" for file in record.source.beside]
    return [("beside it", ", ".join(told))] if told else []


def measured_text(value: metrics.Measured) -> str:
    """A run's generalization with where it is from, its samples and its interval."""
    if value.interval is None:
        return f"{value.value:.4g} ({value.source})"
    low, high = map(wording.percent, value.interval)
    lists = count_text(value.samples, "list")
    return f"{wording.percent(value.value)} ({value.source}, {lists} of each length, 95 % interval {low} to {high})"


def _print_config(config: Mapping[str, Any], origin: str, out: Console) -> None:
    out.print()
    if not config:
        out.print(plain("no configuration: neither the file nor anything around it says", "bold"))
        return
    out.print(plain("configuration", "bold") + plain(f", {origin}; * differs from the published recipe", "dim"))
    print_table(out, [("", "Key", "Value"), *map(_config_row, config.items())], indent="  ")


def _config_row(item: tuple[str, Any]) -> tuple[str, str, str]:
    key, value = item
    text = wording.value_text(value)
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}… ({len(text):,} characters)"
    if key not in _RECIPE or comparing.same_value(value, _RECIPE[key]):
        return "", key, text
    return "*", key, f"{text}  (recipe: {wording.value_text(_RECIPE[key])})"


def _print_tensors(shown: ShownCheckpoint, out: Console) -> None:
    info = shown.info
    out.print()
    counted = (
        "each counted: safetensors does not say which are tied"
        if "safetensors" in info.container
        else ("tied weights counted once")
    )
    out.print(
        plain(count_text(len(info.tensors), "tensor"), "bold")
        + plain(f", {info.parameters:,} parameters ({counted})", "dim")
    )
    rows = [(t.name, " × ".join(map(str, t.shape)) or "scalar", t.dtype) for t in info.tensors]
    print_table(out, [("Name", "Shape", "Type"), *rows], right=(1,), indent="  ")
    out.print()
    out.print(plain("optimizer", "bold") + plain(f" {_optimizer_text(info)}"))


def _optimizer_text(info: CheckpointInfo) -> str:
    if (optimizer := info.optimizer) is None:
        return "none saved"
    states = f"{count_text(optimizer.states, 'parameter')} with state ({count_text(optimizer.tensors, 'tensor')})"
    groups = [f"{count_text(group.parameters, 'parameter')}: {_settings(group.hyperparameters)}"
              for group in optimizer.groups]  # fmt: skip
    return "; ".join((states, *groups))


def _optimizer_size(info: CheckpointInfo) -> str:
    if (optimizer := info.optimizer) is None:
        return "none saved"
    return ", ".join((count_text(optimizer.tensors, "tensor"), *optimizer.dtypes, size_text(optimizer.nbytes)))


def _loads_text(shown: ShownCheckpoint) -> str:
    """Whether it loads, with the reason why not more."""
    loads = shown.loads
    meaning = {"model": "yes: ckptman.load, ckptman eval", "weights": "its weights alone (ckptman.load_weights)"}
    return meaning.get(loads.what, "no") + (f": {loads.reason}" if loads.reason else "")


def _settings(values: Mapping[str, Any]) -> str:
    """Hyperparameters that are on, in short."""
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value not in (None, False))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else wording.value_text(value)
