"""Evaluating checkpoints: exact match and token accuracy by K, recorded in `run.json`."""

from __future__ import annotations

import itertools
import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ckptman.formats import containers
from ckptman.fs import folders, locks
from ckptman.rules import Convention, convention_file, naming, placement
from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError, given_path, wording
from ckptman.training.accuracy import Accuracy, Predictor, check_length, measure_accuracy
from ckptman.training.loading import load, pick_device
from ckptman.training.model import GPT
from ckptman.training.train_step import keep_freed_memory, limited_threads
from ckptman.tree import contents, metrics, records

DEFAULT_SAMPLES = 1_000
"""Samples of each length. They put the 95 % interval of one length's exact match within ± 3.1 percentage points, and
that of the mean over 16 lengths within ± 0.8 (± 0.25 near 98 %): far less than runs of one configuration differ."""

DEFAULT_SEED = 0

_LOCK_TRIES, _LOCK_WAIT = 50, 0.1  # another process that writes a record needs milliseconds


class EvaluationMode(StrEnum):
    """How the K sorted numbers are predicted."""

    TEACHER_FORCED = metrics.TEACHER_FORCED
    """Each from the correct ones before it: the published metric."""
    AUTOREGRESSIVE = "autoregressive"
    """Each from the model's own output before it: what a user of the model gets."""


@dataclass(frozen=True)
class Evaluation:
    """What one checkpoint achieves in one mode."""

    path: str
    """As it was given, or as it was found below the folder that was given."""
    mode: EvaluationMode
    samples: int
    """Of each length."""
    seed: int
    by_k: Mapping[int, Accuracy]
    """In order of K."""
    generalization_k: tuple[int, int]
    """The lengths, from and to, whose mean exact match is the generalization."""
    recorded: bool = False
    """Whether it is in the run's `run.json`."""
    date: str | None = field(default=None, compare=False)
    """When it was measured, in UTC; None where it was recorded without."""

    @classmethod
    def of_record(cls, path: str, entry: Mapping[str, Any], generalization_k: tuple[int, int]) -> Evaluation:
        """The evaluation that a `run.json` holds of the file at `path`.

        Raises:
            KeyError, TypeError, ValueError: the entry is not one that ckptman wrote.
        """
        samples = int(entry["samples"])
        by_k = {
            k: Accuracy(k, samples, round(one["exact_match"] * samples), round(one["token_accuracy"] * samples * k))
            for k, one in ((int(text), one) for text, one in entry["by_k"].items())
        }
        mode, date = EvaluationMode(entry["mode"]), entry.get("date")
        return cls(path, mode, samples, int(entry["seed"]), by_k, generalization_k, recorded=True, date=date)

    @property
    def gen_em(self) -> float | None:
        """Mean exact match over the generalization lengths, 0 to 1; None unless all of them were evaluated."""
        tested = self._tested
        return fmean(accuracy.exact_match for accuracy in tested) if tested else None

    @property
    def gen_interval(self) -> tuple[float, float] | None:
        """95 % Wilson score interval of `gen_em`, from all its samples together.

        Lengths differ in difficulty, and each has equally many samples, so the true interval is slightly narrower.
        """
        tested = self._tested
        return metrics.wilson_interval(sum(a.exact for a in tested), sum(a.samples for a in tested)) if tested else None

    @property
    def _tested(self) -> list[Accuracy]:
        low, high = self.generalization_k
        tested = [self.by_k[k] for k in range(low, high + 1) if k in self.by_k]
        return tested if len(tested) == high + 1 - low else []

    def to_json(self) -> dict[str, Any]:
        """The evaluation as `--json` prints it."""
        return {"path": self.path, **self._facts(), "recorded": self.recorded}

    def to_record(self) -> dict[str, Any]:
        """The evaluation as `run.json` holds it."""
        return {"file": Path(self.path).name, **self._facts()}

    def _facts(self) -> dict[str, Any]:
        low, high = self.gen_interval or (None, None)
        return {
            "mode": str(self.mode),
            "samples": self.samples,
            "seed": self.seed,
            "date": self.date,
            "k": list(self.by_k),
            "by_k": {str(k): _accuracy_json(accuracy) for k, accuracy in self.by_k.items()},
            "gen_em": self.gen_em,
            "gen_low": low,
            "gen_high": high,
        }


@dataclass(frozen=True)
class RefusedFile:
    """A file that was not evaluated, and why."""

    path: str
    code: str
    message: str
    """It names the file."""
    fix: str

    def to_json(self) -> dict[str, str]:
        """The refusal as a JSON object."""
        return {"path": self.path, "code": self.code, "message": self.message, "fix": self.fix}


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` did."""

    evaluations: tuple[Evaluation, ...]
    refused: tuple[RefusedFile, ...] = ()
    warnings: tuple[str, ...] = ()
    """What was evaluated, but could not be recorded."""
    planned: tuple[str, ...] = ()
    """Of a dry run: the files that a real one would measure."""

    @classmethod
    def joined(cls, results: Iterable[EvaluationResult]) -> EvaluationResult:
        """Several results as one."""
        every = list(results)
        return cls(
            evaluations=tuple(item for result in every for item in result.evaluations),
            refused=tuple(item for result in every for item in result.refused),
            warnings=tuple(item for result in every for item in result.warnings),
            planned=tuple(item for result in every for item in result.planned),
        )

    def to_json(self) -> dict[str, Any]:
        """The document of `ckptman eval --json`."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
            "refused": [item.to_json() for item in self.refused],
            "warnings": list(self.warnings),
            "planned": list(self.planned),
        }


def evaluate(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    k: Iterable[int] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = DEFAULT_SEED,
    mode: EvaluationMode | str = EvaluationMode.TEACHER_FORCED,
    all_checkpoints: bool = False,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    record: bool = True,
    dry_run: bool = False,
    convention: Convention | None = None,
    progress: contents.Progress | None = None,
) -> EvaluationResult:
    """Measure how well checkpoints sort lists of random numbers.

    The same file, seed and number of samples give the same figures, whatever else is evaluated with them. All files and
    both modes are measured on the same lists. The computation is in float32; a training run on a GPU logs its metrics
    under bfloat16 autocast, which may differ slightly.

    In a tree, the result is recorded in the run's `run.json`, beside those of other modes, lengths, seeds and numbers
    of samples. What is recorded there already is not measured again: an evaluation that was interrupted goes on with
    the file that it was at, from its first length. A file that cannot be evaluated is refused, and the others go on.

    Args:
        paths: Checkpoint files and folders: a run, a whole tree, or any folder with checkpoints below it.
        k: The lengths; by default those of the convention's generalization metric.
        samples: Lists of each length.
        seed: Chooses the lists.
        mode: `teacher-forced` (the published metric) or `autoregressive` (the model reads its own output).
        all_checkpoints: Take all checkpoints of a folder, not only those of the end of training.
        device: `cpu`, `cuda`, `cuda:1` …, or `auto` for a GPU if there is one.
        threads: Threads of the CPU; by default as many as torch takes.
        batch_size: Samples predicted at once; chosen for the caches by default.
        record: Write the result into `run.json`, and take what is there.
        dry_run: Measure nothing, and say what would be measured.
        convention: The rules; by default, for each path, those of the nearest ckptman.yaml in or above it, or the
            built-in ones.
        progress: Called with the file at work, the samples done, and the samples in all.

    Raises:
        UsageError: a path does not exist, a folder has no checkpoints, or an argument makes no sense.
        MachineError: (`no-device`) the machine has no such device.
    """
    if k is not None:
        k = [_whole(length, "a length") for length in k]
    samples, seed = _whole(samples, "the number of samples"), _whole(seed, "the seed")
    if batch_size is not None:
        batch_size = _whole(batch_size, "the size of a batch")
    predicted, target, work = _mode(mode), pick_device(device), []
    for rules, given in by_rules(paths, convention).items():
        each = _Work(
            rules=rules,
            lengths=_lengths(k, samples, rules),
            samples=samples,
            seed=seed,
            mode=predicted,
            device=target,
            batch_size=batch_size,
            record=record,
            dry_run=dry_run,
        )
        work.append((each, *find_checkpoints(given, rules, all_checkpoints=all_checkpoints)))
    keep_freed_memory()
    with limited_threads(threads):
        return EvaluationResult.joined([each.run(files, refused, progress) for each, files, refused in work])


def _whole(value: int, what: str) -> int:
    """A whole number, also one of numpy's, as `run.json` takes it."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise UsageError(
            f"{what} has to be a whole number, not {value!r}", code="bad-samples", fix="Give an int."
        ) from None


def by_rules(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], convention: Convention | None
) -> dict[Convention, list[Path]]:
    """The paths with the rules that each is read by: those given, or those of its place."""
    found: dict[Convention, list[Path]] = {}
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        named = given_path(path)
        found.setdefault(convention_file.rules_for(convention, named), []).append(named)
    return found


def _lengths(k: Iterable[int] | None, samples: int, rules: Convention) -> tuple[int, ...]:
    if k is None and rules.metric.fixed is None:
        raise UsageError(
            f"the convention's metric {rules.metric.name} has no lengths that are the same for all runs",
            code="bad-samples",
            fix="Name the lengths to evaluate with --k.",
        )
    low, high = rules.metric.fixed or (1, 0)
    lengths = sorted(set(range(low, high + 1) if k is None else k))
    if not lengths or lengths[0] < 1 or samples < 1:
        raise UsageError(
            f"cannot evaluate {samples} samples of the lengths {lengths}",
            code="bad-samples",
            fix="Ask for at least one sample, and at least one length from 1 up.",
        )
    return tuple(lengths)


def find_checkpoints(
    paths: Iterable[Path], convention: Convention, *, all_checkpoints: bool = False
) -> tuple[list[Path], list[RefusedFile]]:
    """The checkpoint files that paths stand for, each once, and the folders that could not be read.

    Args:
        paths: Files and folders that are checkpoints, which are taken whatever they are called, and folders of them.
        convention: Says what a checkpoint of the end of training is called.
        all_checkpoints: Take all checkpoints of a folder, not only those of the end of training.

    Raises:
        UsageError: (`no-path`) a path does not exist; (`no-checkpoints`) a folder has none.
    """
    found: dict[str, Path] = {}
    unreadable: list[RefusedFile] = []
    for path in paths:
        if path.is_dir() and _is_checkpoint(path, convention):
            taken = [path]
        elif path.is_dir():
            below = list(_below(path, convention, unreadable))
            taken = below if all_checkpoints else list(_finals(below, convention))
            if not taken and not unreadable:
                raise _no_checkpoints(path, others=len(below))
        elif path.exists():
            taken = [path]
        else:
            raise UsageError(f"{path} does not exist", code="no-path", fix="Name a checkpoint, a run folder or a tree.")
        for file in taken:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100  (not resolved: a link lies in its own run)
    return list(found.values()), unreadable


def _mode(name: EvaluationMode | str) -> EvaluationMode:
    try:
        return EvaluationMode(name)
    except ValueError:
        known = ", ".join(EvaluationMode)
        raise UsageError(f"{name!r} is not a mode of evaluation", code="bad-mode", fix=f"Modes are: {known}.") from None


# --- finding files ----------------------------------------------------------------------------------------------------


def _is_checkpoint(folder: Path, convention: Convention) -> bool:
    """Whether a folder is a checkpoint itself, not one that checkpoints lie in, some weights among them."""
    return containers.is_checkpoint_folder(folder) and all(
        containers.is_companion(path.name) for path in _below(folder, convention, [])
    )


def _below(folder: Path, convention: Convention, unreadable: list[RefusedFile]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        where = str(error.filename)
        message = f"{where} cannot be read: {error.strerror}"
        unreadable.append(RefusedFile(where, "unreadable", message, "Check the folder's permissions."))

    for top, subfolders, files in os.walk(folder, onerror=refuse):
        subfolders.sort(key=wording.natural_key)
        subfolders[:] = [name for name in subfolders if _is_looked_at(name) and name != records.TRASH]
        whole = [name for name in subfolders if name.endswith(convention.checkpoint.suffix)]
        subfolders[:] = [name for name in subfolders if name not in whole]
        yield from (Path(top, name) for name in whole)  # checkpoints that are folders
        for name in sorted(files, key=wording.natural_key):
            if name.endswith(convention.checkpoint.suffix) and _is_looked_at(name):
                yield Path(top, name)


def _is_looked_at(name: str) -> bool:
    """Whether it is neither unfinished nor an operating system's."""
    return not folders.is_partial(name) and not contents.is_system_name(name)


def _finals(paths: Iterable[Path], convention: Convention) -> Iterator[Path]:
    """Those of the end of training: by the `run.json` beside them, or else by their names."""
    for folder, files in itertools.groupby(paths, key=lambda file: file.parent):
        try:
            kinds = {entry.file: entry.kind for entry in records.read_record(folder).checkpoints}
        except CkptmanError:
            kinds = {}
        for file in files:
            kind = kinds.get(file.name)
            if kind in convention.final_kinds or (kind is None and _says_final(file.name, convention)):
                yield file


def _says_final(name: str, convention: Convention) -> bool:
    try:
        return naming.naming_of(convention).parse(name).is_final
    except RefusedError:
        return False


def _no_checkpoints(folder: Path, *, others: int) -> UsageError:
    if others:
        return UsageError(
            f"there is no checkpoint of the end of training below {folder}, only {others} other files",
            code="no-checkpoints",
            fix="Add --all to take every checkpoint, or name the files.",
        )
    return UsageError(
        f"there is no checkpoint below {folder}",
        code="no-checkpoints",
        fix="Name a checkpoint, a run folder, or a tree.",
    )


# --- evaluating -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """The settings of one call of `evaluate`, for files that go by the same rules."""

    rules: Convention
    lengths: tuple[int, ...]
    samples: int
    seed: int
    mode: EvaluationMode
    device: torch.device
    batch_size: int | None
    record: bool
    dry_run: bool

    def run(
        self, files: list[Path], refused: list[RefusedFile], progress: contents.Progress | None
    ) -> EvaluationResult:
        evaluations: list[Evaluation] = []
        warnings: list[str] = []
        planned: list[str] = []
        each = len(self.lengths) * self.samples
        for index, file in enumerate(files):
            counter = _Counter(progress, str(file), done=index * each, total=len(files) * each)
            old = self._recorded(file) if self.record else None
            if old is not None:
                evaluations.append(old)
                counter.add(each)
                continue
            if self.dry_run:
                planned.append(str(file))
                continue
            try:
                evaluation = self._evaluate(file, counter)
            except RefusedError as error:
                refused.append(RefusedFile(str(file), error.code, error.message, error.fix))
                continue
            try:
                recorded = self.record and record_evaluation(evaluation, self.rules)
            except CkptmanError as error:  # the figures are there all the same
                warnings.append(f"{file} is evaluated, but not recorded: {error.message}")
                recorded = False
            evaluations.append(replace(evaluation, recorded=recorded))
        return EvaluationResult(tuple(evaluations), tuple(refused), tuple(warnings), tuple(planned))

    def _recorded(self, file: Path) -> Evaluation | None:
        """What the run's `run.json` holds of these settings, for the bytes that it was told of."""
        try:
            record = records.read_record(file.absolute().parent)
            size = file.stat().st_size
        except (CkptmanError, OSError):
            return None  # whatever is wrong with it, it is told of when the evaluation is to be recorded
        if not any((entry.file, entry.size) == (file.name, size) for entry in record.checkpoints):
            return None
        wanted = dict(
            zip(_SETTINGS, (file.name, str(self.mode), self.samples, self.seed, list(self.lengths)), strict=True)
        )
        for entry in reversed(record.evaluations):
            if all(entry.get(key) == value for key, value in wanted.items()):
                with suppress(KeyError, TypeError, ValueError, AttributeError):
                    return Evaluation.of_record(str(file), entry, self._tested(record.config))
        return None

    def _tested(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """The lengths whose mean is the generalization: the convention's, or else all that are evaluated."""
        return self.rules.metric.bounds(config) or (self.lengths[0], self.lengths[-1])

    def _evaluate(self, file: Path, counter: _Counter) -> Evaluation:
        model, info = load(file, device=self.device, convention=self.rules)
        _check_finite(model, file)
        duplicates = (info.config or {}).get("allow_duplicates") is True
        by_k = {}
        try:
            check_length(model, self.lengths[-1], allow_duplicates=duplicates)  # before work is done for nothing
            with torch.inference_mode():
                predictor = Predictor(model)
            for k in self.lengths:
                by_k[k] = measure_accuracy(
                    model,
                    k,
                    samples=self.samples,
                    seed=self.seed,
                    autoregressive=self.mode is EvaluationMode.AUTOREGRESSIVE,
                    allow_duplicates=duplicates,
                    batch_size=self.batch_size,
                    report=counter.add,
                    predictor=predictor,
                )
        except RefusedError as error:
            raise RefusedError(f"{file}: {error.message}", code=error.code, fix=error.fix) from error
        return Evaluation(
            path=str(file),
            mode=self.mode,
            samples=self.samples,
            seed=self.seed,
            by_k=by_k,
            generalization_k=self._tested(info.config or {}),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _check_finite(model: GPT, file: Path) -> None:
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise RefusedError(
                f"{file}: its weights are not finite: {name} has a value that is infinite or no number",
                code="not-finite",
                fix="The run has diverged: evaluate an earlier checkpoint, or train it with a smaller learning rate.",
            )


class _Counter:
    def __init__(self, progress: contents.Progress | None, name: str, *, done: int, total: int) -> None:
        self._progress, self._name, self._done, self._total = progress, name, done, total
        self.add(0)

    def add(self, samples: int) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(self._name, self._done, self._total)


def _accuracy_json(accuracy: Accuracy) -> dict[str, float]:
    low, high = accuracy.interval
    return {
        "exact_match": accuracy.exact_match,
        "token_accuracy": accuracy.token_accuracy,
        "low": low,
        "high": high,
    }


# --- recording --------------------------------------------------------------------------------------------------------

_SETTINGS = ("file", "mode", "samples", "seed", "k")
"""What makes two recorded evaluations the same one, done twice."""


def record_evaluation(evaluation: Evaluation, convention: Convention) -> bool:
    """Put an evaluation into the `run.json` beside its file, in the place of an earlier one with the same settings.

    Returns:
        False where the file is not a run's: it has no `run.json` beside it.

    Raises:
        RefusedError: (`bad-record`) the record cannot be read; (`not-in-record`) it does not list the file.
        MachineError: the record cannot be written, or the tree is being written to for longer than a few seconds.
    """
    folder = Path(evaluation.path).absolute().parent
    if not (folder / records.RUN_FILE).exists():
        return False
    root = placement.root_above(folder, convention) or folder
    with _locked(root):
        record = records.read_record(folder)
        entry = evaluation.to_record()
        if entry["file"] not in {checkpoint.file for checkpoint in record.checkpoints}:
            raise RefusedError(
                f"{folder / records.RUN_FILE} does not list this file",
                code="not-in-record",
                fix="Ingest the file's source, or move the file out of the tree.",
            )
        others = [old for old in record.evaluations if any(old.get(key) != entry[key] for key in _SETTINGS)]
        records.write_record(folder, replace(record, evaluations=(*others, entry)), root=root)
    return True


@dataclass(frozen=True)
class Forgotten:
    """An evaluation that is taken back."""

    path: str
    entry: Mapping[str, Any]
    """As `run.json` held it."""

    def to_json(self) -> dict[str, Any]:
        """It as a JSON object."""
        return {"path": self.path, **{key: value for key, value in self.entry.items() if key not in ("file", "by_k")}}


def forget(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    k: Iterable[int] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = DEFAULT_SEED,
    mode: EvaluationMode | str = EvaluationMode.TEACHER_FORCED,
    all_checkpoints: bool = False,
    dry_run: bool = False,
    convention: Convention | None = None,
) -> tuple[Forgotten, ...]:
    """Take recorded evaluations back: those of these files, with this mode, seed and number of samples.

    Args:
        paths: Checkpoint files and folders, as for `evaluate`.
        k: The lengths; by default those evaluations of any.
        samples: Lists of each length.
        seed: The seed that chose the lists.
        mode: The mode.
        all_checkpoints: Take all checkpoints of a folder, not only those of the end of training.
        dry_run: Change nothing, and say what would be taken back.
        convention: The rules; by default, for each path, those of the nearest ckptman.yaml in or above it, or the
            built-in ones.

    Raises:
        UsageError: as `evaluate`.
        RefusedError: (`bad-record`) a record cannot be read.
        MachineError: a record cannot be written.
    """
    wanted: dict[str, Any] = {"mode": str(_mode(mode)), "samples": samples, "seed": seed}
    if k is not None:
        wanted["k"] = sorted(set(k))
    files = [
        (file, rules)
        for rules, given in by_rules(paths, convention).items()
        for file in find_checkpoints(given, rules, all_checkpoints=all_checkpoints)[0]
    ]
    found = []
    for file, rules in files:
        folder = file.absolute().parent
        if not (folder / records.RUN_FILE).exists():
            continue
        root = placement.root_above(folder, rules) or folder
        with _locked(root):
            record = records.read_record(folder)
            chosen = {"file": file.name, **wanted}
            gone = [old for old in record.evaluations if all(old.get(key) == value for key, value in chosen.items())]
            if gone and not dry_run:
                kept = tuple(old for old in record.evaluations if old not in gone)
                records.write_record(folder, replace(record, evaluations=kept), root=root)
        found += [Forgotten(str(file), old) for old in gone]
    return tuple(found)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep others from writing to the tree between reading a record and writing it."""
    with ExitStack() as stack:
        for left in reversed(range(_LOCK_TRIES)):
            try:
                stack.enter_context(locks.lock_tree(root))
                break
            except MachineError as error:
                if error.code != "tree-busy" or not left:
                    raise
                time.sleep(_LOCK_WAIT)
        yield
