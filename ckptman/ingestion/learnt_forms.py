"""Forms of checkpoint files that the convention does not know: the keys of weights, configuration and step."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ckptman.formats import whole
from ckptman.ingestion.learnt_names import STEP_TAGS
from ckptman.raw import scanning
from ckptman.rules import terms
from ckptman.text import RefusedError

_MOST_READ = 200
_SHARE = 0.9
_STEPS = ("global_step", "global_steps", "iters_done", "iter_num", "num_updates", "updates", "step", "steps",
          "iteration", "iterations", "iter", "iters", "itr", "it", "batch", "trained_steps", "epoch", "epochs_done",
          "episode", "ep")  # fmt: skip
"""Keys of the step, those that count the finest first."""
_CONFIGS = ("config", "train_config", "cfg", "args", "train_args", "training_args", "opt", "opts", "options", "hparams",
            "hyper_parameters", "hps", "params", "settings", "conf", "flags", "kwargs")  # fmt: skip
_WEIGHTS = re.compile(r"^(model|net|network|module|state_dict|weights|params|policy)|_state_dict$|model|net")
_STEP_IN_NAME = re.compile(rf"(?<![a-z])(?:{'|'.join(STEP_TAGS)})[_=:.-]?[0-9]", re.IGNORECASE)
_NOT_TRAINED = re.compile(r"optim|sched|scaler|ema|best|buffer|rng", re.IGNORECASE)

BY_STEP, BY_COUNT, BY_NOTHING = "step", "count", ""
"""How names tell steps: as such, by the number of a checkpoint, or not at all."""

Held = Mapping[str, whole.Held]


def forms_of(
    files: Sequence[scanning.SourceCheckpoint], rules: terms.CheckpointRules, *, steps_named: str
) -> dict[str, dict[str, str]]:
    """Forms to add to those of the convention; none where it reads all that is there.

    Args:
        files: The checkpoints.
        rules: How they are read, so far.
        steps_named: How names tell steps, if they do, so that only what agrees with them is one; where they only count
            checkpoints (`BY_COUNT`), what counts finer than epochs is one, too.
    """
    count = min(len(files), _MOST_READ)
    alike: dict[frozenset[str], list[tuple[str, Held]]] = defaultdict(list)
    for file in (files[index * len(files) // count] for index in range(count)):
        with suppress(RefusedError):
            if held := whole.outline_of(file.path, rules):
                weights = frozenset(key for key, item in held.items() if item.what == "weights")
                alike[weights].append((file.path.name, held))
    found: list[dict[str, str]] = []
    for weights, seen in sorted(alike.items(), key=lambda item: (-len(item[1]), sorted(item[0]))):
        form = _form(weights, seen, rules, steps_named=steps_named)
        if form is not None and form not in found:
            found.append(form)
    return {"learnt" if number == 1 else f"learnt{number}": form for number, form in enumerate(found, start=1)}


def _form(
    weights: frozenset[str], seen: Sequence[tuple[str, Held]], rules: terms.CheckpointRules, *, steps_named: str
) -> dict[str, str] | None:
    """The form of files with weights under these keys; None where the convention has one that reads as much."""
    if not weights:
        return None
    known = [form for form in rules.forms if not form.whole]
    many = {key: max(held[key].number or 0 for _, held in seen) for key in weights}
    main = min(weights, key=lambda key: (
        next((at for at, form in enumerate(known) if form.weights == key), len(known)),
        bool(_NOT_TRAINED.search(key)), not _WEIGHTS.search(key), -many[key], key))  # fmt: skip
    fitting = [form for form in known if form.weights == main]
    config = _first(seen, "config", _CONFIGS)
    step = _step(seen, steps_named=steps_named)
    reads_config = config is None or config in rules.config_keys or any(form.config == config for form in fitting)
    if reads_config and any(step in (None, form.iters) for form in fitting):
        return None
    optimizers = Counter(key for _, held in seen for key, item in held.items() if item.what == "optimizer")
    optimizer = min(optimizers, key=lambda key: (-optimizers[key], key)) if optimizers else None
    found = {"weights": main, "optimizer": optimizer, "config": config, "iters": step}
    return {part: key for part, key in found.items() if key is not None}


def _first(seen: Sequence[tuple[str, Held]], what: str, order: Sequence[str]) -> str | None:
    """The first of these keys that nearly all files have, as what it should be."""
    return next((key for key in order if sum(key in held and held[key].what == what for _, held in seen)
                 >= _SHARE * len(seen)), None)  # fmt: skip


def _step(seen: Sequence[tuple[str, Held]], *, steps_named: str) -> str | None:
    """The key of the step: the one whose values names say, or, where these say none, the one that counts the finest."""
    agreeing, denied, counts = Counter[str](), Counter[str](), Counter[str]()
    for name, held in seen:
        numbers = {int(text) for text in re.findall("[0-9]{1,18}", name)}
        for key, item in held.items():
            leaf = key.rpartition(".")[2]
            if item.what == "count" and leaf in _STEPS and not key.startswith(tuple(f"{c}." for c in _CONFIGS)):
                counts[key] += 1
                agreeing[key] += item.number in numbers
                denied[key] += item.number not in numbers and bool(_STEP_IN_NAME.search(name))
    usable = [key for key, count in counts.items() if count >= _SHARE * len(seen)]
    usable.sort(key=lambda key: ("." in key, _STEPS.index(key.rpartition(".")[2])))
    named = [key for key in usable if agreeing[key] and agreeing[key] >= _SHARE * (agreeing[key] + denied[key])]
    finer = [key for key in usable if not re.search("^ep", key.rpartition(".")[2])]
    return next(iter(named or {BY_STEP: [], BY_COUNT: finer}.get(steps_named, usable)), None)


def section_of(suffix: str, forms: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The section of a convention that says how checkpoints are read; a form names keys of what is in none, too."""
    declared = {name: {"weights": "", "optimizer": "optimizer", "config": "config", "iters": "step"} | {**form}
              for name, form in forms.items()}  # fmt: skip
    return {**({} if suffix == ".pt" else {"suffix": suffix}), **({"forms": declared} if forms else {})}


def told(forms: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Where the parts of each form stand, as far as files have them."""
    parts = {"weights": "weights", "config": "configuration", "iters": "step"}
    return [
        f"form {name}: " + ", ".join(f"{title} under {form[part]}" for part, title in parts.items() if part in form)
        for name, form in forms.items()
    ]
