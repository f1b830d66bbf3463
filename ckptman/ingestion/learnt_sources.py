"""Where runs say what they are: files beside checkpoints, W&B, seeds; and by what metrics they are judged."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path, PurePath
from typing import Any

from ckptman.ingestion.learnt_fields import is_seed
from ckptman.raw import documents, outputs, scanning
from ckptman.rules import Convention, comparing, convention_file, placement, terms
from ckptman.text import RefusedError, wording

_CONFIG_PATHS = ("config", "train_config", "cfg", "args", "hparams", "hyperparameters", "hyper_parameters", "params",
                 "configuration", "settings")  # fmt: skip
_METRIC_PATHS = ("metrics", "results", "summary", "final_metrics", "scores", "evaluation", "eval")
_STEP_NAMES = ("step", "global_step", "iters_done", "iter", "iteration", "iterations", "iters", "it")
_OF_METRICS = re.compile(r"^CKPT\.yaml$|metric|result|summar|eval|score|stats|(^|[^a-z])logs?([^a-z]|$)", re.IGNORECASE)
_NO_METRICS = re.compile(
    r"^_|(^|[/_.])(lr|learning_rate|iter|iters|iters_done|iteration|step|steps|global_step|epoch|epochs|time|runtime"
    r"|timestamp|unixtime|K_mean|K_min|K_max|seed|grad_norm|total_flos)$|per_second|sum$"
)
_GOOD = (
    "exact_match",
    "acc",
    "top1",
    "ap",
    "em",
    "f1",
    "bleu",
    "auc",
    "score",
    "reward",
    "return",
    "success",
    "map",
    "iou",
)
_BAD = ("loss", "ppl", "perplexity", "err", "error", "nll", "mse", "mae", "fid", "wer")
_WHERE = ("gen", "test", "val", "valid", "eval")
_FORMS = (".json", ".yaml", ".yml", ".jsonl", ".csv")
_OF_NO_RUN = re.compile(
    r"\.index\.json$|^(tokenizer|special_tokens|added_tokens|vocab|(pre)?processor)[._]"
    r"|^(conda|environment|python_env|dvc|docker-compose)\.ya?ml$"
)
"""Files that transformers keeps beside weights, and those of environments and pipelines: they tell nothing of a run."""
_OF_RUNS = re.compile(
    r"^(?!\.)(.*[^a-z])?(config|conf|cfg|params?|args?|arguments|hparams?|hyper\w*|hyp|opts?|options|settings)([^a-z]|$)",
    re.IGNORECASE,
)
"""What a configuration is called that lies above the folders of runs, where other files do, too."""
_FOLDERS = {"params": "params", ".guild": ".guild/attrs"}
"""Folders of a run in which its configuration may lie, by what stands in its own."""
_YAML = ("params.txt", "flags")
"""Files of YAML that are not called so, as open_clip and guild write them."""
_MOST_UP = 2
"""Folders above a run's in which what is beside it is found, where nothing else is said."""
ENDS = re.compile(
    r"(max|total|num|n)_?(train_?)?(iter|step|epoch|update)s?|^(train_?)?(iter(ation)?|step|epoch)s$", re.IGNORECASE
)
"""Keys of how long a run is."""
_COUNT = re.compile("^(?:iter|iteration|step|epoch|update)$", re.IGNORECASE)
_PROGRESS = re.compile(
    r"^(?:cur|curr|current|start|last|global|resume)_?(?:iter|iteration|step|epoch|update)$|^num_updates$|consumed"
    r"|_(?:seen|done)$",
    re.IGNORECASE,
)
_RANKS = frozenset({"rank", "local_rank", "global_rank", "node_rank", "process_index"})
_MOST_LOOKED_AT, _MOST_METRICS = 400, 5


@dataclass(frozen=True)
class Sources:
    """What to say of them in a convention."""

    sections: Mapping[str, Any] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    seed_key: str = "seed"
    seeds: tuple[int, ...] = ()


# --- files beside checkpoints -----------------------------------------------------------------------------------------


def unknown_sidecars(scan: scanning.SourceScan, rules: Convention) -> dict[str, Any]:
    """Files beside checkpoints that the convention does not know yet, as entries of `beside`."""
    suffix = rules.checkpoint.suffix
    found: dict[str, Path] = {}
    every = scan.checkpoints
    stems = {file.path.name.removesuffix(suffix) for file in every}
    chosen = [every[index * len(every) // _MOST_LOOKED_AT] for index in range(_MOST_LOOKED_AT)]
    folders: dict[Path, Mapping[str, list[str]]] = {}
    for file in every if len(every) <= _MOST_LOOKED_AT else chosen:
        stem = file.path.name.removesuffix(suffix)
        home = file.path if file.is_folder else file.path.parent
        around = [home]
        while around[-1].name in (rules.raw.saved_models, *rules.raw.inner) or rules.raw.is_step_folder(
            around[-1].name
        ):
            around.append(around[-1].parent)
        above = [folder for folder in islice(around[-1].parents, _MOST_UP) if folder.is_relative_to(scan.root)]
        for folder in (*around, *above):
            shared = "" if folder not in folders else None
            if folder not in folders:
                folders[folder] = _by_stem(folder, stems)
            for owner in (stem, shared):
                for name in folders[folder].get(owner, ()) if owner is not None else ():
                    if folder in above and ("/" in name or not _OF_RUNS.search(name)):
                        continue
                    if any(rule.is_of(folder / name) for rule in rules.beside if not rule.is_named):
                        continue
                    pattern = f"{{stem}}{name[len(stem) :]}" if owner else name
                    known = any(rule.is_named and rule.pattern == pattern for rule in rules.beside)
                    if not known and name not in ("run.json", "overwritten.json", "refused.json"):
                        found.setdefault(pattern, folder / name)
    entries: dict[str, Any] = {}
    for pattern, path in sorted(found.items()):
        if re.search(r"[{}*]", pattern.replace("{stem}", "")):
            continue
        if (entry := _entry(path)) is not None:
            entries[pattern] = entry
    return entries


def _by_stem(folder: Path, stems: Collection[str]) -> Mapping[str, list[str]]:
    """The files in a folder that may tell something, by the checkpoint that they are named for; others under ``."""
    found: dict[str, list[str]] = defaultdict(list)
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 (names are all that is asked for)
            if name.endswith((*_FORMS, *_YAML)) and not _OF_NO_RUN.search(name):
                ends = [at for at, letter in enumerate(name) if not letter.isalnum()]
                found[next((name[:at] for at in reversed(ends) if name[:at] in stems), "")].append(name)
            elif inner := _FOLDERS.get(name):
                found[""] += [f"{inner}/{each}" for each in _by_stem(folder / inner, ()).get("", ())]
    return found


def _entry(path: Path) -> dict[str, Any] | None:
    """What a file seems to say where."""
    form = next((form for form in terms.Form if path.name.endswith(f".{form}")), terms.Form.YAML)
    if form.is_table:
        return _table_entry(path, form)
    try:
        document = documents.read(path, form)
    except RefusedError:
        rows = _table_entry(path, terms.Form.LINES) if form is terms.Form.JSON else None
        return None if rows is None else {"form": "jsonl", **rows}  # as detectron2 writes its metrics.json
    if not isinstance(document, dict):
        return None
    entry: dict[str, Any] = {}
    inner = [key for key in _CONFIG_PATHS if isinstance(document.get(key), dict)]
    metrics = [key for key in _METRIC_PATHS if isinstance(document.get(key), dict)]
    if inner:
        entry["config"] = inner[0] if len(inner) == 1 else inner
    elif not metrics and not _OF_METRICS.search(path.name) and any(
        not isinstance(v, dict | list) for value in document.values()
        for v in (value.values() if isinstance(value, dict) else [value])
    ):  # fmt: skip
        entry["config"] = "."
    if metrics:
        entry["metrics"] = metrics[0] if len(metrics) == 1 else metrics
    elif _OF_METRICS.search(path.name) and any(isinstance(v, int | float) for v in document.values()) and not inner:
        entry["metrics"] = "."
    if entry.get("config") != "." and isinstance(document.get("seed"), int):
        entry["seed"] = "seed"
    return ({"form": "yaml", **entry} if path.name.endswith(_YAML) else entry) if entry else None


def _table_entry(path: Path, form: terms.Form) -> dict[str, Any] | None:
    with suppress(RefusedError):
        first = documents.first_line(path)
        columns = re.findall(r'"([^"]+)"\s*:', first) if form is terms.Form.LINES else first.split(",")
        if step := next((name for name in (*_STEP_NAMES, "epoch") if name in columns), None):
            return {} if step == "step" else {"history_step": step}
    return None


def of_files(raw: outputs.RawOutputs, outline: Convention) -> frozenset[str]:
    """The keys of configurations that tell of one checkpoint, not of its run: how far that was, and who saved it.

    Programs keep such in their arguments (`iteration`, `consumed_train_samples`, `rank`). They are called so, and in no
    folder of a run they fall while the steps grow; or they number the processes that saved one step. A bare `epoch` may
    be how long each of several runs is, unless another key says that.
    """
    runs: dict[PurePath, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for saved in raw.files:
        if saved.file.step is not None and saved.file.config_source != "name":
            home = placement.run_at_source(saved.file.source.path, outline)
            runs[home].append((saved.file.step, saved.file.config))
    keys = {key for files in runs.values() for _, config in files for key in config}
    has_end = any(ENDS.search(key) for key in keys)
    found = set()
    for key in keys:
        is_rank = key in _RANKS
        if not (is_rank or _PROGRESS.search(key) or (has_end and _COUNT.search(key))):
            continue
        values = [
            {(step, number) for step, config in files if (number := comparing.whole(config.get(key))) is not None}
            for files in runs.values()
        ]
        if is_rank:
            steps = [Counter(step for step, _ in known).most_common(1) for known in values if known]
            are_own = any(most[0][1] > 1 for most in steps) and 0 in {number for known in values for _, number in known}
        else:
            ordered = [[number for _, number in sorted(known)] for known in values]
            grow = all(one <= other for numbers in ordered for one, other in pairwise(numbers))
            are_own = grow and any(numbers[0] < numbers[-1] for numbers in ordered if numbers)
            are_own = are_own and all(len(known) == len({step for step, _ in known}) for known in values)
        if are_own:
            found.add(key)
    return frozenset(found)


def configuration(
    saved: outputs.SavedFile, raw: outputs.RawOutputs, seed_key: str, own: Collection[str]
) -> Mapping[str, Any]:
    """The configuration of a file, with the paths of what is in sections, without what is of the file alone (`own`);
    empty where nothing but its name says it."""
    if saved.file.config_source != "name":
        return flat({key: value for key, value in saved.file.config.items() if key not in own})
    near = next((list(runs) for runs in raw.wandb.beside(saved.file.source.path)), [])
    shared: dict[str, Any] = dict(near[0].config) if near else {}
    for run in near[1:]:
        shared = {k: v for k, v in shared.items() if k in run.config and comparing.same_value(v, run.config[k])}
    return flat(shared)


def flat(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration by the paths of its values, such as `optim.lr`."""
    if not any(isinstance(value, Mapping) for value in config.values()):
        return config
    made: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and "." not in key:
            made |= {f"{key}.{inner}": item for inner, item in flat({str(k): v for k, v in value.items()}).items()}
        else:
            made[key] = value
    return made


# --- seeds and metrics ------------------------------------------------------------------------------------------------


def sources_of(raw: outputs.RawOutputs, outline: Convention, own: Collection[str]) -> Sources:
    """Sidecars, seeds and metrics, as sections of a convention; and the keys that are of one file alone (`own`)."""
    sections: dict[str, Any] = {}
    findings: list[str] = []
    if own:
        sections["attribution"] = {"ignored": sorted({*outline.ignored_keys, *own})}
        findings.append(f"keys that are of one checkpoint, not of its run: {', '.join(sorted(own))}")
    found: Counter[str] = Counter()
    contradicted: Counter[str] = Counter()
    runs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for saved in raw.files:
        evidence = raw.beside(saved.file.source.path)
        readings, differing = evidence.readings, evidence.differing_from(saved.file.config, outline.ignored_keys)
        found.update({reading.rule.pattern for reading in readings})
        contradicted.update({reading.rule.pattern for reading in readings if reading.path in differing})
        beside = {name: value for reading in reversed(readings) for name, value in reading.metrics.items()}
        if values := {**saved.metrics.values, **beside}:
            runs.append((saved.file.config, values))
    known = {rule.pattern for rule in convention_file.built_in().beside}
    others = {pattern for pattern, count in contradicted.items() if 2 * count > found[pattern] and pattern not in known}
    unused = {
        rule.pattern
        for rule in outline.beside
        if rule.pattern not in found and any(rule.is_of(raw.root / problem.source) for problem in raw.beside_problems)
    }
    new = {
        rule.pattern: _said(rule)
        for rule in outline.beside
        if rule.pattern in found.keys() | unused and rule.pattern not in known | others
    }
    if new:
        sections["beside"] = new
    for pattern, count in sorted(found.items()):
        left = "; left out: it mostly says otherwise than the checkpoints" if pattern in others else ""
        findings.append(f"beside checkpoints: {pattern} (of {wording.count_text(count, 'file')}){left}")
    findings += [f"beside checkpoints: {pattern}; of several runs, and used for none" for pattern in sorted(unused)]
    configs = [flat(saved.file.config) for saved in raw.files]
    configs += [flat(run.config) for run in raw.wandb.runs]
    runs += [(run.config, run.summary) for run in raw.wandb.runs if run.summary]
    seed_key, seeds = _seeds(configs)
    if seed_key != "seed":
        sections["run"] = {"seed": seed_key}
    if seeds:
        findings.append(f"seeds, by {seed_key}: {', '.join(map(str, seeds[:12]))}{' …' if len(seeds) > 12 else ''}")
    if metrics := _metrics(runs):
        sections["metrics"] = metrics
        findings += [f"metric {name}: {said['pattern']}" + (f" for k in {said['k'][0]}..{said['k'][1]}" if "k" in said
                     else "") for name, said in metrics.items()]  # fmt: skip
    forms = Counter(saved.file.config_source for saved in raw.files)
    findings += [
        f"configuration from {'names alone' if w == 'name' else w}: {wording.count_text(n, 'file')}"
        for w, n in forms.items()
    ]
    return Sources(sections, {}, tuple(findings), seed_key, seeds)


def _said(rule: terms.BesideRule) -> dict[str, Any]:
    said: dict[str, Any] = {} if rule.form is terms.form_of(rule.pattern) else {"form": str(rule.form)}
    if rule.config:
        said["config"] = rule.config[0] if len(rule.config) == 1 else list(rule.config)
    if rule.metrics:
        said["metrics"] = rule.metrics[0] if len(rule.metrics) == 1 else list(rule.metrics)
    if rule.values:
        said["values"] = dict(rule.values)
    if rule.history_step != "step":
        said["history_step"] = rule.history_step
    return said


def _seeds(configs: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[int, ...]]:
    """The key of the seed, and its values."""
    values: dict[str, set[int]] = defaultdict(set)
    count: Counter[str] = Counter()
    for config in configs:
        for key, value in config.items():
            leaf = key.rpartition(".")[2]
            if ("seed" in key.lower() or (len(leaf) > 2 and is_seed(leaf))) and (
                number := placement.seed_of(value)
            ) is not None:
                values[key].add(number)
                count[key] += 1
    if not values:
        return "seed", ()
    best = max(values, key=lambda key: (key == "seed", count[key], len(values[key]), -len(key), key))
    return best, tuple(sorted(values[best]))


def _metrics(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """The metrics worth declaring: the best first, which is the default."""
    kinds: dict[str, list[tuple[Mapping[str, Any], set[int], list[float]]]] = defaultdict(list)
    for config, values in runs:
        by_pattern: dict[str, tuple[set[int], list[float]]] = defaultdict(lambda: (set(), []))
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or _NO_METRICS.search(key):
                continue
            numbers = re.findall(r"(?<![0-9.])[0-9]+(?![0-9.])", key)
            pattern = re.sub(r"(?<![0-9.])[0-9]+(?![0-9.])", "{k}", key) if len(numbers) == 1 else key
            if "{" in key or not re.search(r"(?:^|[/_.=KkNn-]|len|length)\{k\}", pattern):
                pattern = key
            by_pattern[pattern][1].append(float(value))
            if "{k}" in pattern:
                by_pattern[pattern][0].add(int(numbers[0]))
        for pattern, (lengths, numbers_) in by_pattern.items():
            kinds[pattern].append((config, lengths, numbers_))
    made: dict[str, Any] = {}
    ranked = sorted(kinds, key=lambda pattern: (-_rank(pattern), -len(kinds[pattern]), pattern))
    for pattern in ranked[:_MOST_METRICS] if ranked and _rank(ranked[0]) > 0 else ranked[:2]:
        seen = kinds[pattern]
        entry: dict[str, Any] = {"pattern": pattern}
        if "{k}" in pattern:
            bounds = _bounds([(config, lengths) for config, lengths, _ in seen])
            if bounds is None:
                continue
            entry["k"] = bounds
        if not all(0 <= value <= 1 for _, _, numbers_ in seen for value in numbers_):
            entry["share"] = False
        low = _last_part(pattern)
        if any(word in low for word in _BAD):
            entry |= {"share": False, "lower_is_better": True}
        name = re.sub(r"_*\{k\}_*|[^A-Za-z0-9]+", "_", re.sub(r"(?<![A-Za-z])[A-Za-z]?\{k\}", "", pattern)).strip("_")
        made[name.lower() or "metric"] = entry
    return made


def _last_part(pattern: str) -> str:
    return re.split(r"[/.]", pattern.lower())[-1]


def _rank(pattern: str) -> float:
    words = set(re.split(r"[^a-z0-9]+", pattern.lower()))
    low = _last_part(pattern)
    good = next(
        (1 - 0.05 * index for index, word in enumerate(_GOOD) if word in words or (len(word) > 2 and word in low)), 0
    )
    bad = 0.3 if any(word in low for word in _BAD) else 0.0
    held_out = 1.0 if any(word in pattern.lower() for word in _WHERE) else -1.0 if "train" in words else 0.0
    return (good or bad) + held_out + 0.1 * ("{k}" in pattern) - 0.1 * ("tf" in words)


def _bounds(runs: Iterable[tuple[Mapping[str, Any], set[int]]]) -> list[int | str] | None:
    """The first and the last length: keys of the configuration where they follow it, or numbers."""
    held = [(config, lengths) for config, lengths in runs if lengths]
    whole = [(c, s) for c, s in held if len(s) == max(s) - min(s) + 1]
    if len(whole) < 0.9 * len(held) or not whole:
        return None
    found: list[int | str] = []
    for at in (min, max):
        ends = {at(lengths) for _, lengths in whole}
        keys = [
            key for key in whole[0][0]
            if all(comparing.whole(config.get(key)) == at(lengths) for config, lengths in whole)
        ]  # fmt: skip
        word = ("min", "low", "from") if at is min else ("max", "high", "to")
        keys.sort(key=lambda key: (not any(w in key.lower() for w in word), "test" not in key, len(key), key))
        named = [key for key in keys if any(w in key.lower() for w in word)]
        if len(ends) == 1 and not named:
            found.append(next(iter(ends)))
        elif keys:
            found.append(keys[0])
        else:
            return None
    return found
