"""`learn`: propose a convention for the checkpoints of a folder, from their names, configurations and folders.

The proposal is loaded and tried on the folder itself: what it parses, places and attributes is counted, not estimated.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.formats import containers
from ckptman.ingestion import learnt_fields, learnt_forms, learnt_layout, learnt_names, learnt_sources, learnt_text
from ckptman.raw import attribution, outputs, scanning
from ckptman.rules import Convention, convention_file, naming, placement
from ckptman.text import ConfigurationError, RefusedError, UsageError, given_path, wording
from ckptman.tree import contents, records

MOST_READ = 2000
"""Files whose insides are read; the names of all are looked at."""
_PROPOSAL = "the proposed convention"
_MOST_TRIED = 3
"""Files of each ending that are read to see whether such are."""


@dataclass(frozen=True)
class Misfit:
    """Files that do not fit the proposal in one way."""

    what: str
    """`name`, `place` or `run`."""
    why: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Learnt:
    """A proposed convention, and how it fares."""

    source: Path
    text: str
    """What to write into a `ckptman.yaml`."""
    files: int
    """Checkpoints there are."""
    parsed: int
    """Those whose name the proposal reads."""
    read: int
    """Those whose insides were looked at."""
    placed: int
    attributed: int
    """Those whose run is known: the one of W&B, or, where W&B recorded none, one with a configuration."""
    wandb_runs: int
    misfits: tuple[Misfit, ...]
    findings: tuple[str, ...]
    """What was learnt, for people."""
    passed_over: int = 0
    fitting: tuple[str, ...] = ()
    """Shipped conventions that read every name and place every file too."""

    @property
    def fits(self) -> bool:
        """Whether all files fit."""
        return self.parsed == self.files and self.placed == self.attributed == self.read

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman learn --json` prints."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "source": str(self.source),
            "files": self.files,
            "parsed": self.parsed,
            "read": self.read,
            "placed": self.placed,
            "attributed": self.attributed,
            "wandb_runs": self.wandb_runs,
            "passed_over": self.passed_over,
            "findings": list(self.findings),
            "misfits": [{"what": m.what, "why": m.why, "files": list(m.files)} for m in self.misfits],
            "shipped": list(self.fitting),
            "convention": self.text,
        }


def learn(source: str | Path, *, progress: contents.Progress | None = None) -> Learnt:
    """Propose a convention for the checkpoints below a folder. Nothing is written.

    Args:
        source: The folder.
        progress: Called with `reading`, and the bytes.

    Raises:
        UsageError: (`no-source`) if there is no such folder; (`no-checkpoints`) if no checkpoint is in it.
    """
    folder = given_path(source, "the path of the source")
    suffix = _suffix_of(folder)
    outline = _outline(folder, suffix, {})
    explored = _read(folder, outline, progress)
    own = learnt_sources.of_files(explored, outline)
    evidence = _evidence(explored, outline, suffix, own)
    schemes, _ = schemes_of(evidence)
    forms = learnt_forms.forms_of(explored.scan.checkpoints, outline.checkpoint, steps_named=_steps_named(schemes))
    if forms:
        outline = _outline(folder, suffix, forms)
        explored = _read(folder, outline, progress)
        own = learnt_sources.of_files(explored, outline)
        evidence = _evidence(explored, outline, suffix, own)
        schemes, _ = schemes_of(evidence)
    sources = learnt_sources.sources_of(explored, outline, own)
    best: Learnt | None = None
    for with_grids in (True, False):  # without, where the files do not fit into what seemed to be their grid
        plan = learnt_layout.layout_of(explored, evidence, schemes, outline, sources, with_grids=with_grids)
        try:
            proposal = _written(_Proposal(folder, suffix, forms, evidence, plan, sources, schemes))
        except ConfigurationError:
            if with_grids:
                continue
            raise
        found = _measured(proposal, explored)
        if best is None or found.placed > best.placed:
            best = found
        if best.placed == best.read:
            break
    assert best is not None
    return best


def _steps_named(schemes: Sequence[learnt_fields.Scheme]) -> str:
    """How names tell steps."""
    tags = [field.slot.tag for scheme in schemes for field in scheme.fields.values() if field.hole == "step"]
    are_counts = all(learnt_names.kind_of(tag) for tag in tags)
    return learnt_forms.BY_NOTHING if not tags else learnt_forms.BY_COUNT if are_counts else learnt_forms.BY_STEP


def _evidence(
    explored: outputs.RawOutputs, outline: Convention, suffix: str, own: Collection[str]
) -> list[learnt_fields.Evidence]:
    """What is known of each file, without the keys of its configuration that are its own."""
    read = {saved.file.source.path: saved for saved in explored.files}
    evidence = []
    for file in explored.scan.checkpoints:
        # What no rule can say of a name is spelled out, by which it is read by none, and told of.
        name = wording.one_line(_stem(file.name, suffix))
        saved = read.get(file.path)
        config = {} if saved is None else learnt_sources.configuration(saved, explored, outline.seed_key, own)
        at = wording.one_line(placement.folder_at_source(PurePosixPath(file.relative), outline))
        evidence.append(learnt_fields.Evidence(name, config, None if saved is None else saved.file.step, at))
    return evidence


# --- reading ----------------------------------------------------------------------------------------------------------


def _suffix_of(folder: Path) -> str:
    """What most checkpoints of a folder end in, of those that are read where any are."""
    built_in = convention_file.built_in()
    scan = scanning.scan_source(folder, built_in)
    suffixes = {built_in.checkpoint.suffix, *built_in.checkpoint.other_suffixes}
    known = sorted(suffixes, key=lambda suffix: (-len(suffix), suffix))
    named = defaultdict(list, {built_in.checkpoint.suffix: [file.path for file in scan.checkpoints]})
    for name in scan.passed_over:
        named[next((suffix for suffix in known if name.endswith(suffix)), "")].append(scan.root / name)
    found = {suffix: files for suffix, files in named.items() if suffix and files}
    if not found and (others := _of_other_suffixes(scan.root, suffixes)):
        return max(others, key=lambda suffix: (others[suffix], suffix))
    if not found:
        refused = next((f": {refusal.source} is refused: {refusal.message}" for refusal in scan.refusals), "")
        raise UsageError(
            f"no checkpoint was found below {folder}{refused}",
            code="no-checkpoints",
            fix=scan.refusals[0].fix if refused
            else f"Name the folder that holds them; their names end in {', '.join(known)}.",
        )  # fmt: skip
    read = {suffix: any(_may_be_one(path) for path in files[:_MOST_TRIED]) for suffix, files in found.items()}
    return max(found, key=lambda suffix: (read[suffix], len(found[suffix]), -known.index(suffix)))


def _of_other_suffixes(root: Path, known: Collection[str]) -> dict[str, int]:
    """What else files end in, some of which are checkpoints by what is in them, and how many there are."""
    found: dict[str, list[Path]] = defaultdict(list)
    for at, _, names in os.walk(root):
        for path in (Path(at, name) for name in names):
            is_other = path.suffix not in known and re.fullmatch(r"\.[A-Za-z]\w*", path.suffix, re.ASCII)
            if is_other and not path.is_symlink():
                found[path.suffix].append(path)
    count = {}
    for suffix, paths in found.items():
        for path in paths[:_MOST_TRIED]:
            with suppress(RefusedError):
                containers.read(path, convention_file.built_in().checkpoint)
                count[suffix] = len(paths)
    return count


def _may_be_one(path: Path) -> bool:
    """Whether a file is of a container that is read."""
    try:
        containers.read(path, convention_file.built_in().checkpoint)
    except RefusedError as error:
        return error.code != "not-a-checkpoint"
    return True


def _outline(folder: Path, suffix: str, forms: Mapping[str, Any]) -> Convention:
    """A convention under which every file is read, and nothing is made of its name."""
    anything = {"pattern": "(?P<text>.+)", "fields": {"text": {"unused": True}}, "examples": [f"x{suffix}"]}
    document = {**_frame(suffix, forms), "names": {"any": anything}}
    plain = convention_file.convention_of(learnt_text.text_of(document, {}, "outline"), _PROPOSAL)
    if steps := learnt_layout.step_folders([file.relative for file in scanning.scan_source(folder, plain).checkpoints]):
        document["raw"] = {**document["raw"], "step_folders": steps}
        plain = convention_file.convention_of(learnt_text.text_of(document, {}, "outline"), _PROPOSAL)
    paths = learnt_layout.paths_of(scanning.scan_source(folder, plain).checkpoints)
    if inner := learnt_layout.inner_folders(paths, plain):
        document["raw"] = {**document["raw"], "inner": [*plain.raw.inner, *inner]}
        plain = convention_file.convention_of(learnt_text.text_of(document, {}, "outline"), _PROPOSAL)
    if found := learnt_sources.unknown_sidecars(scanning.scan_source(folder, plain), plain):
        document["beside"] = found
        plain = convention_file.convention_of(learnt_text.text_of(document, {}, "outline"), _PROPOSAL)
    return plain


def _frame(suffix: str, forms: Mapping[str, Any]) -> dict[str, Any]:
    checkpoint = learnt_forms.section_of(suffix, forms)
    return {
        "title": "learnt",
        "replaces": ["name", "facets", "tree", "groups", "grids", "axes", "metrics", "summary"],
        "name": {"keep": True, "prefixes": {"Checkpoint": {"title": "checkpoint", "final": False}}},
        **({"checkpoint": checkpoint} if checkpoint else {}),
        "facets": {},
        "tree": ["{group}", convention_file.built_in().folders.run_pattern],
        "raw": {"task": None},
        "lengths": None,
        "groups": {},
        "grids": {},
        "axes": {},
        "summary": {},
        "metrics": {"loss": {"pattern": "val_loss", "share": False, "lower_is_better": True}},
    }


def _read(folder: Path, rules: Convention, progress: contents.Progress | None) -> outputs.RawOutputs:
    raw = outputs.RawOutputs(folder, rules, whole=False, settle=0)
    every = raw.scan.checkpoints
    if len(every) > MOST_READ:
        chosen = every.some(index * len(every) // MOST_READ for index in range(MOST_READ))
        raw.scan = replace(raw.scan, checkpoints=chosen)
    raw.read(progress=progress)
    raw.scan = replace(raw.scan, checkpoints=every)
    return raw


def _stem(name: str, suffix: str) -> str:
    return name.removesuffix(suffix)


# --- names ------------------------------------------------------------------------------------------------------------


def schemes_of(files: Sequence[learnt_fields.Evidence]) -> tuple[list[learnt_fields.Scheme], list[int]]:
    """The schemes of names, and the indices of files that are of none."""
    whole = _uncut(files)
    runs = Counter(file.run for file in files if file.config)
    listed = any(isinstance(value, list | tuple) for file in files for value in file.config.values())
    sequences = [
        learnt_names.chunks_of(learnt_names.lex(file.name, kept, lists=_has_lists(file, is_usual=listed)))
        for file, kept in zip(files, whole, strict=True)
    ]
    found, strange, used = [], list[int](), set[str]()
    for cluster in learnt_names.cluster(sequences):
        shape = learnt_fields.split_words(learnt_names.shape_of(cluster), files)
        scheme = learnt_fields.understand("", shape, files, runs)
        if not learnt_fields.is_supported(scheme, files):
            strange += shape.names
            continue
        base = learnt_fields.scheme_name(scheme)
        name = next(n for n in (base, *(f"{base}_{i}" for i in range(2, 999))) if n not in used)
        used.add(name)
        found.append(learnt_fields.renamed(scheme, name))
    found = learnt_fields.without_coarser_steps(found, files)
    if not any("Final" in (scheme.kind, *scheme.kinds.values()) for scheme in found):  # the step says which are
        found = [replace(scheme, kind=None) if scheme.kind == "Checkpoint" else scheme for scheme in found]
    return sorted(found, key=_looseness), strange


def _has_lists(file: learnt_fields.Evidence, *, is_usual: bool) -> bool:
    """Whether numbers that dashes join are lists: not where a word follows a dash, or a dash a seed."""
    if file.config:
        return is_usual
    return re.search("-[A-Za-z]|seed[_=]?[0-9]+-[0-9]", file.name) is None


def _looseness(scheme: learnt_fields.Scheme) -> tuple[int, int]:
    """How easily a scheme takes the names of another: those with free texts come last, the fuller ones first."""
    free = sum(scheme.named(slot).type == "text" and not scheme.named(slot).words for slot in scheme.shape.slots)
    return free, -len(scheme.shape.columns)


def _uncut(files: Sequence[learnt_fields.Evidence]) -> list[list[str]]:
    """For each file, the texts of its configuration that its name holds and that would be cut in it, for they have
    separators or numbers in them; and what others of the same key say."""
    held = [
        {
            key: text
            for key, text in file.config.items()
            if isinstance(text, str)
            and 1 < len(text) < len(file.name)
            and text in file.name
            and not learnt_names.OF_THE_RUN.search(key)
        }
        for file in files
    ]
    keys = {key for texts in held for key, text in texts.items() if not text.isalpha()}
    ids = learnt_names.ids_of([file.name for file in files])
    return [
        [*{text for key, text in texts.items() if key in keys}, *mine] for texts, mine in zip(held, ids, strict=True)
    ]


# --- the proposal -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Proposal:
    """What a convention is written from."""

    folder: Path
    suffix: str
    forms: Mapping[str, Any]
    evidence: Sequence[learnt_fields.Evidence]
    plan: learnt_layout.Plan
    sources: learnt_sources.Sources
    schemes: Sequence[learnt_fields.Scheme]

    @cached_property
    def text(self) -> str:
        """The convention's file."""
        return _text(self)

    @cached_property
    def rules(self) -> Convention:
        """The convention."""
        return convention_file.convention_of(self.text, _PROPOSAL)


def _written(proposal: _Proposal) -> _Proposal:
    """A proposal that loads: what the convention's own checks refuse is taken out of it."""
    kept, moved = list(proposal.schemes), set[str]()
    for _ in range(3 * len(kept) + 2):
        proposal = replace(proposal, schemes=tuple(kept))
        try:
            assert proposal.rules is not None
            return proposal
        except ConfigurationError as error:
            match = re.search(r"names\.(\w+)", error.message)
            name = match[1] if match else ""
            at = next((index for index, scheme in enumerate(kept) if scheme.name == name), None)
            if at is None:
                raise
            if not kept[at].is_pattern and "comes back" in error.message:
                kept[at] = replace(kept[at], is_pattern=True)
            elif "is taken for a name by" in error.message and at and name not in moved:
                kept.insert(0, kept.pop(at))
                moved.add(name)
            else:
                kept.pop(at)
    raise AssertionError("each round takes something out")


def _text(proposal: _Proposal) -> str:
    suffix, plan, sources = proposal.suffix, proposal.plan, proposal.sources
    document = _frame(suffix, proposal.forms)
    document["title"] = f"learnt from {proposal.folder.resolve().name}"
    document["name"]["prefixes"] = plan.prefixes
    document = {key: value for key, value in document.items() if key not in plan.sections} | dict(plan.sections)
    document |= sources.sections
    names = {
        scheme.name: learnt_text.scheme_section(scheme, suffix, learnt_fields.example_names(scheme, proposal.evidence))
        for scheme in proposal.schemes
    }
    order = ("title", "replaces", "name", "names", "checkpoint", "run", "facets", "tree", "raw", "lengths", "groups",
             "grids", "axes", "attribution", "metrics", "summary", "beside")  # fmt: skip
    full = {**document, **({"names": names} if names else {})}
    ordered = {key: full[key] for key in order if key in full}
    comments = {key: text for key, text in _COMMENTS.items() if ordered.get(key)}
    if "metrics" not in sources.sections:
        comments["metrics"] = "No metric was found: say here by which one runs are judged."
    return learnt_text.text_of(ordered, comments, _HEADING)


_HEADING = (
    "Proposed by ckptman learn, from the files alone. Read it, correct it, put it beside the tree as ckptman.yaml.\n"
    "It lays down what is said here, and takes the rest from the built-in convention."
)
_COMMENTS: Mapping[str, str] = {
    "name": "Kinds of checkpoints; a file keeps its own name where no scheme describes it.",
    "names": "How files are called: {hole} is a value of the configuration, what stands in [ ] may be left out.",
    "checkpoint": "What checkpoints end in, and under which keys their parts stand.",
    "facets": "What a configuration is, in one word.",
    "tree": "The folders of the tree.",
    "groups": "Groups of runs, by the names of their folders.",
    "grids": "What is varied: groups go over `across`, task ids number the axes (the last varies fastest).",
    "axes": "What tables tell of a run.",
    "attribution": "Keys of configurations by which no runs are told apart.",
    "metrics": "What runs are judged by.",
    "beside": "Files beside checkpoints that tell of their runs.",
}


# --- how it fares -----------------------------------------------------------------------------------------------------


def _measured(proposal: _Proposal, explored: outputs.RawOutputs) -> Learnt:
    rules = proposal.rules
    misfits: dict[tuple[str, str], list[str]] = defaultdict(list)
    parsed, _ = _names_read(rules, explored.scan.checkpoints, misfits)
    tried = _read(proposal.folder, rules, None)
    for refusal in (*tried.refused, *tried.deferred):
        misfits["place", _without_values(f"{refusal.message} [{refusal.code}]")].append(refusal.source)
    for saved in tried.files:
        place, said = saved.file.place, saved.file.source
        if None not in (said.task, place.task) and said.task != place.task:
            misfits["task", f"their configuration is that of another task of {place.group}"].append(said.relative)
    has_wandb = bool(tried.wandb.runs)
    attributed = 0
    for saved in tried.files:
        found = saved.attribution
        known = found.run_id is not None if has_wandb else bool(saved.file.config)
        attributed += known
        if not known:
            why = "several W&B runs could have written it" if found.code == attribution.AMBIGUOUS else (
                "no W&B run has its configuration" if has_wandb else "nothing says its configuration")  # fmt: skip
            misfits["run", why].append(saved.file.source.relative)
    read = min(len(tried.scan.checkpoints), MOST_READ)
    return Learnt(
        source=explored.root,
        text=proposal.text,
        files=len(tried.scan.checkpoints),
        parsed=parsed,
        read=read,
        placed=len(tried.files),
        attributed=attributed,
        wandb_runs=len(tried.wandb.runs),
        misfits=tuple(Misfit(what, why, tuple(files)) for (what, why), files in sorted(
            misfits.items(), key=lambda item: (item[0][0], -len(item[1])))),
        findings=(
            *_told(proposal.schemes, proposal.evidence),
            *learnt_forms.told(proposal.forms),
            *proposal.plan.findings,
            *proposal.sources.findings,
        ),
        passed_over=len(tried.scan.passed_over),
        fitting=_shipped(explored.scan.checkpoints, proposal.suffix),
    )  # fmt: skip


def _names_read(
    rules: Convention,
    files: Iterable[scanning.SourceCheckpoint],
    misfits: dict[tuple[str, str], list[str]],
) -> tuple[int, int]:
    known, parsed, total = naming.naming_of(rules), 0, 0
    for file in files:
        total += 1
        try:
            known.parse(file.name_by(rules))
            parsed += 1
        except RefusedError:
            misfits["name", "of no scheme that several names share"].append(file.relative)
    return parsed, total


def _shipped(files: Sequence[scanning.SourceCheckpoint], suffix: str) -> tuple[str, ...]:
    """The conventions that come with ckptman and read all names."""
    found = []
    known: list[tuple[str, Path | None]] = [("", None), *convention_file.shipped().items()]
    for name, path in known:
        rules = convention_file.load_convention(path)
        if rules.checkpoint.suffix != suffix:
            continue
        with suppress(RefusedError):
            for file in files:
                naming.naming_of(rules).parse(file.name_by(rules))
            found.append(name or "built-in")
    return tuple(found)


def _without_values(message: str) -> str:
    """A message without what is different from file to file, so that those that are alike are told once."""
    return wording.one_line(re.sub(r"'[^']*'", "'…'", message))


def _told(schemes: Sequence[learnt_fields.Scheme], evidence: Sequence[learnt_fields.Evidence]) -> list[str]:
    """What was learnt of the names."""
    lines = []
    for scheme in schemes:
        files = wording.count_text(len(scheme.shape.names), "file")
        named = [scheme.named(slot) for slot in scheme.shape.slots]
        known = [f"{f.hole}" for f in named if f.key is not None]
        others = [f.hole for f in named if f.key is None and f.hole not in ("kind", "step")]
        said = f"names {scheme.name}: {files}, such as {evidence[scheme.shape.names[0]].name}"
        lines.append(said + (f"; keys of the configuration: {', '.join(known)}" if known else "")
                     + (f"; of no key: {', '.join(others)}" if others else ""))  # fmt: skip
    return lines
