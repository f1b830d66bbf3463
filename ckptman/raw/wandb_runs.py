"""W&B run folders as records: what each run was configured with, what it reached, and when it ran.

An online run keeps `config.yaml`, `wandb-summary.json` and `wandb-metadata.json` in its `files` folder; an offline run,
or one that was killed, only its `.wandb` log. A requeued job leaves several folders of one run id, which are one run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, TypeVar

from ckptman.formats import meant
from ckptman.raw.attribution import Span, in_spans
from ckptman.raw.wandb_log import WandbLog, load_json, open_regular, plausible_time, read_log
from ckptman.rules import comparing
from ckptman.text import RefusedError, strict_yaml

FROM_FILES = "W&B files"
"""`config_source` of a config that was read from `config.yaml`."""
FROM_LOG = ".wandb log"
"""`config_source` of a config that was read from the transaction log."""

MAX_CONFIG_BYTES = 1_000_000
MAX_METADATA_BYTES = 1_000_000
MAX_SUMMARY_BYTES = 8_000_000

_SUMMARIES = frozenset({"min", "max", "mean", "best", "first", "last"})
"""What `define_metric` can make of a metric's values in the summary: `a` is under `a.max` then."""

HISTORY_LINES = "wandb-history.jsonl"
"""Where older clients wrote what was logged, a line of JSON for each step."""

STEP_METRICS = ("iters_done", "iter", "_step")
"""Summary keys that tell how far a run came, the best first."""

# W&B names a folder <kind>-<start>-<run id>. The start is in the local time of the cluster, whose zone nothing tells:
# it puts the folders of one run in order where nothing better does, and is never compared with a file's time.
# What programs that copy put behind a name is none of the id.
_FOLDER = re.compile(
    r".*?(?P<stamp>[0-9]{8}_[0-9]{6})-(?P<run_id>.+?)"
    r"( \([0-9]+\)|( -)? copy( [0-9]+)?|( -)? Copy( \([0-9]+\))?| \(copy( [0-9]+)?\)|\.(bak|old|orig)|~)?",
    re.DOTALL,
)
_LOG_SUFFIX = ".wandb"
_OF_RUN = frozenset({"files", "logs", "tmp", "code", "media"})
"""Folders in a run folder."""
_NOT_IN_RUN_ID = frozenset("/\\#?%:")
_NUMBER_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_T = TypeVar("_T")


@dataclass(frozen=True)
class WandbRun:
    """One W&B run, from one folder or, when it was requeued, from several."""

    run_id: str
    folders: tuple[Path, ...]
    """The run's folders, in the order in which they were begun."""
    group: str | None
    """The W&B group; only the log tells it, so None where the log is unreadable (the config may name it)."""
    config: dict[str, Any]
    """What the run was configured with; empty where nothing readable tells."""
    config_source: str
    """`FROM_FILES` or `FROM_LOG`; empty where `config` is."""
    summary: dict[str, Any]
    """The last value of each metric; nested ones under keys such as `a.b`, numbers that are not finite as floats."""
    spans: tuple[Span, ...]
    """When each process of the run ran, in the order of `folders`."""
    exit_code: int | None
    """The code the run reported at its end; None for one that was killed, that goes on, or that has no log."""
    finished: bool
    """Whether the run came to its end: it reported success or, where no log tells, did all of its `max_iters`."""
    last_iter: int | None
    """How far the summary says that the run came, in training iterations; one that was killed may have come farther,
    since W&B writes its records some time after they are made."""
    problems: tuple[str, ...]
    """What could not be read, in sentences that name the file."""
    history: tuple[Path, ...] = ()
    """The files that hold its learning curve, in the order of `folders`; for `histories.read`."""

    @property
    def started(self) -> float | None:
        """Start of the run, in seconds since 1970 (UTC)."""
        return min((span.start for span in self.spans if span.start is not None), default=None)

    @property
    def ended(self) -> float | None:
        """Time of the last metrics, in seconds since 1970 (UTC); a killed run went on for longer."""
        return max((span.end for span in self.spans if span.end is not None), default=None)

    def covers(self, saved_at: float) -> bool:
        """Whether a file of this time, in seconds since 1970, is known to have been saved while the run ran."""
        return in_spans(saved_at, self.spans) is True


def folder_run_id(name: str) -> str | None:
    """The run id in the name of a run folder, such as `run-20260310_152827-uhd352zp`; None for any other name."""
    match = _FOLDER.fullmatch(name)
    return match["run_id"] if match and is_run_id(match["run_id"]) else None


def is_renamed_run(names: Iterable[str]) -> bool:
    """Whether a folder with these names in it is a run folder, whatever it is called: a run's log, and nothing but what
    W&B puts beside it."""
    names = set(names)
    logs = {name for name in names if name.endswith(_LOG_SUFFIX)}
    others = names - logs - _OF_RUN
    return len(logs) == 1 and "files" in names and all(name.startswith((*logs, "debug")) for name in others)


def read_run_folder(path: Path, *, metrics: bool = True, follow_symlinks: bool = False) -> WandbRun:
    """Read one run folder, of an online or an offline run, whole or cut short.

    The files that W&B writes for people are preferred; where one is absent or unreadable, the log stands in.

    Args:
        path: The folder.
        metrics: Also take the summary from the log where no file holds it; without, a long log takes a tenth of the
            time.
        follow_symlinks: Whether what is in the folder may be a symbolic link.

    Raises:
        RefusedError: `unreadable` when the folder or a file in it cannot be read (what is in it may be broken, and is
            a problem then), `not-a-wandb-run` when nothing names its run.
    """
    folder = _Folder(path, follow_symlinks=follow_symlinks)
    document, summary = folder.config_document(), flat_summary(folder.summary())
    config = _config(document, folder.problems)
    whole = bool(config and summary)
    log = folder.log(metrics=metrics and not summary, report=not whole)
    source = FROM_FILES if config else FROM_LOG
    config = meant(config or log.config)
    ended = _latest(plausible_time(summary.get("_timestamp")), log.ended)
    summary = _with_last(summary or flat_summary(log.summary), flat_summary(log.last))
    started = folder.started(document) or log.started or _start_by_runtime(summary)
    finished = log.exit_code == 0 if log.exited else _did_all(config, summary)
    return WandbRun(
        run_id=folder.run_id(log),
        folders=(path,),
        group=log.group,
        config=config,
        config_source=source if config else "",
        summary=summary,
        spans=(Span(started, ended, over=log.exited or finished),),
        exit_code=log.exit_code,
        finished=finished,
        last_iter=last_iter(summary),
        problems=tuple(folder.problems),
        history=folder.history(log),
    )


def merge_requeued(runs: Iterable[WandbRun]) -> list[WandbRun]:
    """Make one record of the folders of each run id, in an order that does not depend on that of `runs`.

    The config and the summary are those of the latest folder that has them; the spans stay apart, since the run did
    not run in between.
    """
    by_id: dict[str, list[WandbRun]] = {}
    for run in runs:
        by_id.setdefault(run.run_id, []).append(run)
    merged = [_merged(_in_order(parts)) for parts in by_id.values()]
    return sorted(merged, key=lambda run: (math.inf if run.started is None else run.started, run.run_id))


def flat_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary under flat keys, as W&B shows it: `{"a": {"b": 1}}` as `a.b`, without W&B's own key `_wandb`.

    W&B writes numbers that are not finite as words in some files; they become floats.
    """
    return dict(chain.from_iterable(_flat(str(key), value) for key, value in summary.items() if key != "_wandb"))


def _with_last(summary: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """A summary, and the last values of the metrics of which it has the best, the mean or the like alone, as
    `define_metric` asks for."""
    missing = {key for key, _, how in (name.rpartition(".") for name in summary) if how in _SUMMARIES} - summary.keys()
    return {**summary, **{key: last[key] for key in sorted(missing & last.keys())}}


def _flat(key: str, value: object) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{key}.{name}", item)
    else:
        yield intern(key), _NUMBER_WORDS.get(value, value) if isinstance(value, str) else value


class _Folder:
    """Reads the files of one run folder; what cannot be read becomes a problem, and the rest goes on."""

    def __init__(self, path: Path, *, follow_symlinks: bool) -> None:
        self.path = path
        self.problems: list[str] = []
        self._follow = follow_symlinks
        try:
            self._names = sorted(item.name for item in path.iterdir())
        except OSError as failure:
            reason = failure.strerror or str(failure)
            raise RefusedError(
                f"{path} cannot be read: {reason}", code="unreadable", fix="Check that it is a folder and may be read."
            ) from failure
        if "files" in self._names and (path / "files").is_symlink() and not follow_symlinks:
            self.problems.append("files is a symbolic link, which is not followed")
            self._names.remove("files")
            self._files: Path | None = None
        else:
            self._files = path / "files" if "files" in self._names else path  # as clients before 0.10 have it

    def config_document(self) -> dict[str, Any]:
        """`config.yaml` as it stands: each key with its `value`, and W&B's own `_wandb`."""
        return self._mapping(
            "config.yaml", MAX_CONFIG_BYTES, lambda data, name: strict_yaml.load_yaml(data, name, error=RefusedError)
        )

    def summary(self) -> dict[str, Any]:
        """`wandb-summary.json` as it stands."""
        return self._mapping("wandb-summary.json", MAX_SUMMARY_BYTES, lambda data, _: load_json(data))

    def started(self, document: Mapping[str, Any]) -> float | None:
        """When this process of the run began, as its machine knew; the first of them where there are several."""
        metadata = self._mapping("wandb-metadata.json", MAX_METADATA_BYTES, lambda data, _: load_json(data))
        if (started := _utc(metadata.get("startedAt"))) is not None:
            return started
        environments = _at(document, "_wandb", "value", "e")
        times = [_utc(_at(item, "startedAt")) for item in environments.values()] if environments else []
        return min((time for time in times if time is not None), default=None)

    def log(self, *, metrics: bool, report: bool) -> WandbLog:
        """The transaction log, an empty one where there is none; `report` says whether its faults are problems."""
        names = [name for name in self._names if name.endswith(_LOG_SUFFIX)]
        problems = [f"{len(names)} logs in one folder; {names[0]!r} was read"] if len(names) > 1 else []
        log = _NO_LOG
        if names:
            try:
                log = read_log(self.path / names[0], metrics=metrics, follow_symlinks=self._follow)
                problems += [f"{names[0]}: {problem}" for problem in log.problems]
            except RefusedError as refused:
                if _is_of_the_disk(refused):
                    raise
                problems.append(refused.message)
        if report:
            self.problems += problems
        return log

    def history(self, log: WandbLog) -> tuple[Path, ...]:
        """The files that hold what was logged: the log, and what clients before 0.10 wrote beside it."""
        written = [self.path / name for name in self._names if name == HISTORY_LINES]
        if "files" in self._names and (lines := self.path / "files" / HISTORY_LINES).is_file():
            written.append(lines)
        return (*written, log.path) if log.has_history else tuple(written)

    def run_id(self, log: WandbLog) -> str:
        """The id by which W&B knows the run: the log's, else the folder name's."""
        by_name = folder_run_id(self.path.name)
        by_log = log.run_id if log.run_id and is_run_id(log.run_id) else None
        if by_log and by_name and by_log != by_name:
            self.problems.append(f"the folder is named for run {by_name!r}, and its log is of run {by_log!r}")
        if (run_id := by_log or by_name) is None:
            raise RefusedError(
                f"{self.path}: neither its name nor a log in it tells a W&B run id",
                code="not-a-wandb-run",
                fix="Give the folder back the name that W&B gave it: run-<date>_<time>-<run id>.",
            )
        return run_id

    def _mapping(self, name: str, max_bytes: int, parse: Callable[[bytes, str], object]) -> dict[str, Any]:
        """One of the files in `files`; empty where it is absent or unreadable."""
        if self._files is None:
            return {}
        where = str((self._files / name).relative_to(self.path))
        try:
            with open_regular(self.path / where, follow_symlinks=self._follow) as stream:
                data = stream.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise ValueError(f"more than {max_bytes:,} bytes")
            value = parse(data, where)
            if not isinstance(value, dict):
                raise ValueError("not a mapping")
        except RefusedError as refused:
            if _is_of_the_disk(refused):
                raise
            if not isinstance(refused.__cause__, FileNotFoundError):
                self.problems.append(refused.message)
            return {}
        except OSError as failure:
            raise RefusedError(
                f"{self.path / where} cannot be read: {failure.strerror}",
                code="unreadable",
                fix="Check that it exists and may be read.",
            ) from failure
        except ValueError as failure:
            self.problems.append(f"{where}: {failure}")
            return {}
        return value


def _is_of_the_disk(refused: RefusedError) -> bool:
    """Whether a file is there and could not be read: what it says is not known, where a broken file says nothing."""
    return isinstance(refused.__cause__, OSError) and not isinstance(refused.__cause__, FileNotFoundError)


_NO_LOG = WandbLog(Path(), None, None, None, {}, {}, None, None, False, None, ())


def _config(document: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The config in a `config.yaml`, where each key holds a mapping with its `value`."""
    # `_wandb` holds facts of the machine and the client; `wandb_version` is the format's, in files of older clients.
    # The runs of a grid have the same keys: one text for each.
    entries = {intern(str(key)): entry for key, entry in document.items() if key not in ("_wandb", "wandb_version")}
    bad = [key for key, entry in entries.items() if not isinstance(entry, dict) or "value" not in entry]
    if bad:
        problems.append(f"files/config.yaml: no value under {', '.join(map(repr, bad[:3]))}")
    return {key: entry["value"] for key, entry in entries.items() if key not in bad}


def _in_order(parts: Sequence[WandbRun]) -> list[WandbRun]:
    """The folders of one run in the order in which they were begun, each once."""
    unique = {run.folders: run for run in parts}.values()
    if all(run.started is not None for run in unique):
        return sorted(unique, key=lambda run: (run.started or 0.0, run.folders))
    return sorted(unique, key=lambda run: (_stamp(run.folders[0].name), run.folders))


def _stamp(name: str) -> str:
    match = _FOLDER.fullmatch(name)
    return match["stamp"] if match else ""


def _merged(parts: Sequence[WandbRun]) -> WandbRun:
    """One record of a run's folders, which are in order."""
    if len(parts) == 1:
        return parts[0]
    last = parts[-1]
    configured = _last(parts, lambda run: bool(run.config), last)
    measured = _last(parts, lambda run: bool(run.summary), last)
    problems = [f"{run.folders[0].name}: {problem}" for run in parts for problem in run.problems]
    if changed := sorted(_differences(run.config for run in parts)):
        problems.append(f"the folders of run {last.run_id!r} differ in their config: {', '.join(changed)[:200]}")
    return replace(
        last,
        folders=tuple(chain.from_iterable(run.folders for run in parts)),
        group=_last([run.group for run in parts], lambda group: group is not None, None),
        config=configured.config,
        config_source=configured.config_source,
        summary=measured.summary,
        spans=tuple(chain.from_iterable(run.spans for run in parts)),
        finished=any(run.finished for run in parts),
        last_iter=measured.last_iter,
        problems=tuple(problems),
        history=tuple(chain.from_iterable(run.history for run in parts)),
    )


def _last(items: Sequence[_T], wanted: Callable[[_T], bool], default: _T) -> _T:
    return next((item for item in reversed(items) if wanted(item)), default)


def _differences(configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Keys whose values are not the same in all of the configs that have them."""
    first: dict[str, Any] = {}
    return {
        key
        for config in configs
        for key, value in config.items()
        if not comparing.same_value(first.setdefault(key, value), value)
    }


def last_iter(summary: Mapping[str, Any]) -> int | None:
    """The training iteration of a run's last metrics."""
    numbers = (_finite(summary.get(name)) for name in STEP_METRICS)
    return next((int(number) for number in numbers if number is not None), None)


def _did_all(config: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    done, wanted = _finite(summary.get(STEP_METRICS[0])), _finite(config.get("max_iters"))
    return done is not None and wanted is not None and done >= wanted


def _start_by_runtime(summary: Mapping[str, Any]) -> float | None:
    """The start as the time of the last metrics less the seconds since the start."""
    last, runtime = _finite(summary.get("_timestamp")), _finite(summary.get("_runtime"))
    return None if last is None or runtime is None else plausible_time(last - runtime)


def _finite(value: object) -> float | None:
    """`value` if it is a finite number (a bool is none), else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of a float
        return None


def _latest(*times: float | None) -> float | None:
    return max((time for time in times if time is not None), default=None)


def _utc(text: object) -> float | None:
    """An ISO time as seconds since 1970; one without a zone is UTC, as W&B means it."""
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return plausible_time((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()) if time else None


def _at(value: object, *keys: str) -> Any:
    """The value under nested keys, None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def is_run_id(text: str) -> bool:
    """Whether W&B would take `text` as a run id; it becomes part of folder names, so nothing else is let in."""
    return 0 < len(text) <= 128 and text.isprintable() and text[0] != "." and not _NOT_IN_RUN_ID.intersection(text)
