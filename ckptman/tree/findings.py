"""What `validate` can find: one table of codes, each with its severity, its cause and what to do about it.

The table is all there is: the checks raise its codes, `--explain` prints it, `--select` and `--ignore` choose from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from ckptman.text import UsageError
from ckptman.tree import records

ALL = "all"
"""Selects every code, those that are off by default included."""
DEFAULT = "default"
"""Selects the codes that are on by default."""


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Something is wrong or missing: what the tree says is not so."""
    WARNING = "warning"
    """Nothing is lost, but somebody should look."""


@dataclass(frozen=True)
class FindingKind:
    """What a code means."""

    code: str
    severity: Severity
    meaning: str
    """One line."""
    cause: str
    """How it comes about, and what it does."""
    fix: str
    """What to do."""
    default: bool = True
    """Whether it is looked for unless it is deselected."""

    def to_json(self) -> dict[str, Any]:
        """The kind as a JSON object."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "default": self.default,
            "meaning": self.meaning,
            "cause": self.cause,
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    code: str
    """One of `KINDS`."""
    path: str
    """Relative to the root; `.` for the root itself."""
    message: str
    fix: str
    values: Mapping[str, Any] | None = field(default=None, compare=False)
    """What tells the configuration that it is about from others of the same path."""

    @property
    def kind(self) -> FindingKind:
        """What the code means."""
        return KINDS[self.code]

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.kind.severity

    def to_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "path": self.path,
            "message": self.message,
            "fix": self.fix,
        }


def finding(
    code: str, path: object, message: str, fix: str | None = None, values: Mapping[str, Any] | None = None
) -> Finding:
    """A finding of a code of the table; without a fix of its own, it has the table's."""
    return Finding(code, str(path), message, KINDS[code].fix if fix is None else fix, values)


def matching_codes(name: str) -> tuple[str, ...]:
    """The codes that a name stands for: itself, or all that begin with it, or `all`, or `default`; none if unknown."""
    if name in KINDS:
        return (name,)
    if name == ALL:
        return tuple(KINDS)
    if name == DEFAULT:
        return tuple(kind.code for kind in KINDS.values() if kind.default)
    return tuple(code for code in KINDS if name and code.startswith(name))


def nearest_code(name: str) -> str | None:
    """The known code that is spelled most like an unknown one."""
    return next(iter(get_close_matches(name, KINDS, n=1, cutoff=0.4)), None)


def chosen_codes(select: Collection[str] = (), ignore: Collection[str] = ()) -> frozenset[str]:
    """The codes to report.

    Args:
        select: Codes, beginnings of codes, `all` or `default`; nothing means `default`.
        ignore: The same, to be left out of what is selected.

    Raises:
        UsageError: (`unknown-code`) naming the nearest known one.
    """
    return frozenset(_expanded(select or (DEFAULT,))) - _expanded(ignore)


def _expanded(names: Collection[str]) -> set[str]:
    if isinstance(names, str):
        names = (names,)
    found: set[str] = set()
    for name in names:
        codes = matching_codes(name)
        if not codes:
            near = nearest_code(name)
            raise UsageError(
                f"there is no finding code {name!r}" + (f"; did you mean {near!r}?" if near else ""),
                code="unknown-code",
                fix="See all codes with: ckptman validate --explain list",
            )
        found.update(codes)
    return found


def _error(code: str, meaning: str, cause: str, fix: str, *, default: bool = True) -> FindingKind:
    return FindingKind(code, Severity.ERROR, meaning, cause, fix, default)


def _warning(code: str, meaning: str, cause: str, fix: str) -> FindingKind:
    return FindingKind(code, Severity.WARNING, meaning, cause, fix)


_AGAIN = "Move the file out of the tree, and keep it until the run's source, ingested again, has brought a whole one."

_TABLE = (
    # --- the tree as a whole
    _error(
        "empty-tree",
        "There is no checkpoint anywhere below the root.",
        "The root is another folder than meant, or nothing has been ingested into it yet. It is an error, so that a "
        "check of the wrong folder does not pass for a clean tree.",
        "Name the tree with --root, or fill it with: ckptman ingest SRC --root DIR",
    ),
    _error(
        "wrong-root",
        "The root is not that of a tree: it lies in one, or above one, or holds raw outputs.",
        "Every run lies where its configuration says, but for the folders above; or every checkpoint lies where "
        "training saves it. Groups, places and strays can only be checked in a tree, so just the files and each "
        "run.json were.",
        "Name the tree itself with --root; raw outputs are sorted into one with: ckptman ingest SRC --root DIR",
    ),
    _error(
        "other-numbering",
        "The task folders are numbered by another numbering than the one in force.",
        "Two numberings of the tasks exist, and one task id stands for different configurations in them. The tree was "
        "sorted by one of them and is read by the other, so every id in documents and commands would be wrong. All "
        "other checks go on with the numbering that the tree has.",
        "Pass --numbering, or write it into the tree's ckptman.yaml.",
    ),
    _warning(
        "stale-document",
        "A generated document no longer says what the tree holds.",
        "Checkpoints came or went after the document was written, or it was edited between its markers.",
        "Bring it up to date with: ckptman report; where that refuses, the message says which marker to mend first.",
    ),
    # --- names
    _error(
        "unknown-name",
        "A checkpoint's file name does not follow the naming convention.",
        "The file was renamed, or written by a trainer with other name fields. Programs that read names will miss it.",
        "Add its fields to the convention in ckptman.yaml; ckptman learn THIS proposes them. To rename the file, do so "
        "where it comes from, and ingest that into a new tree: the one here is known to its run.json by its name.",
    ),
    _error(
        "name-disagrees",
        "A checkpoint's file name says other than the configuration inside it.",
        "The file was renamed by hand, or a copy was given the name of another. Whoever picks it by its name gets "
        "another model than the name says.",
        "Sort the tree into a new one with: ckptman ingest THIS --root NEW --trust config, which names each file by "
        "its configuration, or --trust name, which believes the names.",
    ),
    _error(
        "step-disagrees",
        "A checkpoint's file name says another number of iterations than the file.",
        "The file was renamed by hand, or the trainer named it before its last iteration.",
        "Sort the tree into a new one with: ckptman ingest THIS --root NEW --trust config, which names each file by "
        "the iterations that it holds.",
    ),
    _error(
        "off-recipe",
        "A checkpoint was saved at another iteration than its recipe says.",
        "A final checkpoint holds as many iterations as the recipe has, one on the way a multiple of the checkpoint "
        "interval plus one, up to the end. Another number means a run that was stopped early and saved as if it were "
        "done, or a configuration that is not the one it was trained with.",
        "Find out from the run's log how long it trained. If it was stopped, move the run's folder out of the tree, "
        "and train it again into a folder of its own.",
    ),
    _warning(
        "overruled-config",
        "The configuration inside a checkpoint was overruled by its name when it was ingested.",
        "The name and the configuration inside disagreed, and --trust name decided for the name. The file still holds "
        "the other configuration, and a program that reads it there will believe that one.",
        "If the configuration inside is right after all, ingest the source into a new tree with --trust config.",
    ),
    # --- checkpoint files
    _error(
        "bad-checkpoint",
        "A file with a checkpoint's suffix is not a checkpoint that can be read.",
        "It is empty, cut short, damaged, of another format, or holds a pickle that would run code; the message says "
        "which, with the code under which `ingest` refuses such a file.",
        _AGAIN,
    ),
    _error(
        "unreadable",
        "A file or folder cannot be read.",
        "Permissions, a failing disk, or a network file system that is not mounted.",
        "Give yourself permission to read it, then validate again: what lies below was not checked.",
    ),
    _error(
        "bad-crc",
        "An entry of a checkpoint's archive does not fit its checksum (found by --deep only).",
        "Bytes changed after they were written: a failing disk, or a broken transfer.",
        _AGAIN,
    ),
    _error(
        "wrong-shapes",
        "A checkpoint's weights are not those of a model with its configuration.",
        "Weights are missing, additional or of another shape than the configuration gives, so the model cannot be "
        "loaded from it. Of a configuration with keys that the built-in model does not know, only the weights that "
        "every variant has are checked.",
        "Find out with which code the run was trained. If the file is not as training left it, move it out of the "
        "tree, and ingest the run's source again.",
    ),
    _error(
        "model-config-disagrees",
        "A checkpoint's model and training configurations differ in a key that both have.",
        "The model was built from other values than the recorded training configuration says. Some, such as the number "
        "of heads, do not show in the shapes of the weights: a model that is rebuilt from the wrong one loads without "
        "complaint, and computes something else.",
        "Find out which is right from the code or the log of the run. Move the file out of the tree, and ingest a copy "
        "that was put right from a folder of its own.",
    ),
    _warning(
        "foreign-object",
        "A checkpoint holds objects of classes that nobody listed.",
        "ckptman keeps them as records of their attributes and runs none of their code. Whoever loads the file with "
        "torch.load(weights_only=False) needs the classes, and runs what they do when an object is made; "
        "weights_only=True refuses the file.",
        "Save plain values instead, make a copy of plain values with: ckptman export, or list the classes that you "
        "know: checkpoint: {config_classes: [module.Class]} in ckptman.yaml.",
    ),
    _warning(
        "odd-field",
        "A checkpoint's number of iterations or W&B run is none.",
        "The file has the key, and under it a negative number, NaN or something else. It is taken as if the key were "
        "not there: the number of iterations is then that of the file's name.",
        "Look into the run's log for how long it trained. If the name is wrong, move the file out of the tree, and "
        "ingest a copy that was put right.",
    ),
    _error(
        "bad-range",
        "A configuration's range of lengths ends before it begins.",
        "The lower end of the trained or the tested lengths is above the upper end: the configuration was edited, or "
        "read from a name that was typed by hand.",
        "Move the run's folder out of the tree, and ingest a copy whose configuration was put right from a folder of "
        "its own.",
    ),
    _warning(
        "test-overlaps-train",
        "Models were tested on lengths that they were trained on.",
        "The tested range does not lie above the trained one, so the measured accuracy is not generalization to "
        "lengths never seen, and not to be compared with those of models that never saw them.",
        "Nothing has to be done. Where it is meant so, leave it out with: --ignore test-overlaps-train",
    ),
    _warning(
        "other-test-lengths",
        "Models of a group with a grid were tested on other lengths than the convention says.",
        "Generalization is the mean over the lengths of the convention (metrics.generalization). These runs have no "
        "metrics for all of them, so that they count as not measured, and their names say other lengths.",
        "Evaluate them on the lengths of the convention with: ckptman eval",
    ),
    _error(
        "off-grid",
        "A configuration has a value that its group's grid does not have.",
        "The run carries the name of a known group, but differs from every run of it: another axis value, or another "
        "setting that the group's regime fixes, such as the shortest trained list.",
        "If the grid should have the value, add it in ckptman.yaml. Otherwise the run is of another experiment: move "
        "its folder out of the tree, and sort it into a tree of its own.",
    ),
    # --- places
    _error(
        "no-place",
        "A configuration does not say where in the tree its checkpoints belong.",
        "It lacks a key that decides the family or the task, and neither the name nor the folders make up for it.",
        "Move the run's folder out of the tree. Ingest it from there with --trust name if the names of its files are "
        "right, or else a copy whose configuration was completed.",
    ),
    _error(
        "misplaced",
        "Checkpoints lie in another folder than their configuration says.",
        "The family, the group and the task id come from the configuration inside the file. The folder was moved or "
        "renamed by hand, or sorted by the folder it had at the source. Whoever looks for the configuration by its "
        "task id finds another one here.",
        "Let ckptman sort it: ckptman ingest THIS --root NEW",
    ),
    _error(
        "wrong-run-folder",
        "A run's folder has another name than its seed gives.",
        "The folder was renamed by hand, or files of another seed were put into it.",
        "Let ckptman rename it, which never takes the place of another run: ckptman validate --fix",
    ),
    _warning(
        "unknown-seed",
        "A run does not say which seed it was trained with.",
        "Its checkpoints hold no configuration and no W&B record was found, so only the name is known, and names hold "
        "no seed. The run counts for none of the grid's seeds.",
        "Ingest it together with its W&B folder; or, if you know, say it: ckptman assign PATH --run ID --seed N. Where "
        "nobody knows, the run can stay; or move the run's folder out of the tree.",
    ),
    # --- run.json
    _error(
        "no-record",
        "Checkpoints without a run.json.",
        "In a run folder: an ingest was interrupted before it was done with the run. In any other folder: the files "
        "were put there by hand. Where they come from, which run wrote them, and whether their bytes are still those "
        "that were written, nobody can tell.",
        "Move the checkpoints out of the tree, and ingest them from there; or, where nothing is sorted yet, sort all "
        "of it: ckptman ingest THIS --root NEW",
    ),
    _error(
        "bad-record",
        "A run.json or overwritten.json cannot be used.",
        "It was edited by hand, damaged, or written by a later version.",
        "If a newer ckptman wrote it, update ckptman. Otherwise move it out of the tree, and ingest the run's source "
        "again: a run folder without run.json is completed.",
    ),
    _error(
        "record-changed",
        "A run.json, overwritten.json or refused.json is not as ckptman wrote it.",
        'A disk lost bits of it, or it was edited: the SHA-256 of its other lines is not the one on its line "digest". '
        "No command writes to it, since its new digest would hide that.",
        records.CHANGED_FIX,
    ),
    _error(
        "record-disagrees",
        "A run.json contradicts itself or the names of its files.",
        "Its group, family, task or seed is not that of the configuration in it, or a file's kind and step are not "
        "those of the file's name. It was edited by hand, or copied from another run.",
        "Move run.json out of the tree, and ingest the run's source again, which writes it anew.",
    ),
    _error(
        "config-disagrees",
        "The configuration in run.json is not the one inside the checkpoint.",
        "run.json was edited by hand or copied from another run, or a file was put into the wrong run folder.",
        "Move what the finding names (run.json, or the file) out of the tree, and ingest the run's source again, which "
        "brings the right one.",
    ),
    _error(
        "unfinished-migration",
        "A migration of the tree was interrupted.",
        "ckptman migrate was killed, so that runs lie in places of two conventions. Nothing is lost: what is to be "
        "done is written down in the tree. Nothing else is checked until then.",
        "Let it go on: ckptman migrate. Or take it back: ckptman migrate --undo",
    ),
    _error(
        "missing-file",
        "A file that run.json lists is not there.",
        "It was deleted, renamed or moved away after it was ingested.",
        "Bring it back (ckptman validate --fix does, where it lies elsewhere in the tree), or ingest the run's source "
        "again: what is missing is placed. If it is nowhere, move run.json out of the tree and ingest the source: its "
        "list is written anew.",
    ),
    _error(
        "unrecorded-file",
        "A checkpoint in a run folder that its run.json does not list.",
        "It was put there by hand, or an ingest was interrupted while it added to the run.",
        "Ingest the run's source again; if the file is not from there, move it out of the tree.",
    ),
    _error(
        "wrong-size",
        "A checkpoint has another size than run.json says.",
        "The file was changed after it was placed: cut by a full disk, or, where it is a link, written to at its "
        "source.",
        _AGAIN,
    ),
    _error(
        "wrong-hash",
        "A checkpoint's bytes are not those that were placed (found by --deep only).",
        "The SHA-256 is another than run.json says: the file was changed or exchanged, or the disk lost bits.",
        _AGAIN,
    ),
    _error(
        "bad-history",
        "A run's learning curve is damaged, missing, or not listed in its run.json.",
        "The file history.csv.gz is not as ingest wrote it beside run.json: it was changed, taken away, or its ingest "
        "was cut short before run.json was written.",
        "Move the file out of the tree, and ingest the run's source again, which reads its logs anew. Where the source "
        "no longer exists, put back the file from a backup.",
    ),
    _error(
        "broken-weights",
        "A checkpoint's weights are not finite, or one of its matrices is constant (found by --witness only).",
        "The run has diverged, or whatever wrote the file wrote no weights. Its figures mean nothing.",
        "Look at the run's learning curve, and train it again into a folder of its own; keep this file out of the "
        "tree.",
    ),
    _error(
        "untrained-weights",
        "A checkpoint's weights are as they were initialized (found by --witness only).",
        "It was saved before the first step, or by a program that trained another copy of the model.",
        "Look at the run's learning curve, and train it again into a folder of its own; keep this file out of the "
        "tree.",
    ),
    _error(
        "disproved-seed",
        "Another seed drew a run's weights than it says (found by --witness only).",
        "The seed was written down wrongly, or the run's files are those of a run with another seed. Averages over "
        "seeds are not what they seem.",
        "Look among the W&B runs of its configuration for one with the seed that is named, and ingest the file's "
        "source again together with that run's W&B folder.",
    ),
    _error(
        "other-run",
        "A checkpoint's weights are not of the run that it lies in (found by --witness only).",
        "Runs that shared a folder wrote files over each other's, or somebody put it there.",
        "Move the file out of the tree, and find its run with: ckptman witness FILE --seeds 0-9999",
    ),
    _warning(
        "ambiguous-run",
        "It is not known which W&B run wrote a checkpoint, though some could have.",
        "Several runs have its configuration and seed, and the file's time does not tell them apart; or the only one "
        "on record did not run when it was saved, though files beside it have kept their times. Its metrics are "
        "unknown, and the run counts in no average.",
        "Look at the candidates in run.json. Ingest again once their W&B folders, with their times, are at the source; "
        "or, if you know which it is, say so: ckptman assign PATH --run ID",
    ),
    _warning(
        "sources-disagree",
        "What lay beside a run's checkpoints says otherwise than a source that counts more.",
        "A configuration, or a metric, was written down in several places, and one of them is of another run, or was "
        "edited. What counts is what the checkpoint says, then what lies beside it, then W&B, then its name. Of a file "
        "with another configuration, nothing was used.",
        "Look at the files at the source (run.json names them). Correct or move away what is wrong, and ingest again.",
    ),
    # --- runs and the grid
    _error(
        "missing-final",
        "A run has no final checkpoint.",
        "It was stopped before its end, or a later run wrote a file of the same name over it.",
        "Look for it at the source, and ingest that again; if it is nowhere, train the run again, into a folder of its "
        "own, and ingest that: the one that was not finished counts as a repetition then.",
    ),
    _warning(
        "missing-checkpoint",
        "A run has no checkpoint on the way, though its recipe saves one.",
        "It was deleted, or a later run that did not get to its end wrote a file of the same name over it.",
        "If it is still at the source, ingest that again. If it is nowhere, the run can stay as it is; leave that out "
        "with: --ignore missing-checkpoint",
    ),
    _warning(
        "split-run",
        "A run lies in two folders, each with a part of its checkpoints.",
        "When it was ingested, there was no room in its own folder: a damaged file had the name of one of them.",
        "Move its folder out of the tree, and ingest the run's source again; or, if that is gone, the folder that was "
        "moved. What it holds comes to the run's other folder.",
    ),
    _error(
        "missing-seed",
        "A configuration has runs, but not of all seeds of the grid.",
        "The seed was never run, or a later seed that shared its folder overwrote its files, since file names hold no "
        "seed; the message says which, as far as the W&B records tell.",
        "Train the missing seeds, each into a folder of its own, and ingest them.",
    ),
    _error(
        "missing-task",
        "A configuration of a group that is in the tree has no run at all.",
        "The job was not started or failed, its outputs were not ingested, or other runs overwrote them.",
        "Train the configuration, or ingest its outputs.",
    ),
    _error(
        "missing-group",
        "A group of the grid is not in the tree at all (off by default: --select missing-group).",
        "Nobody runs the whole grid at once, so a group that is wholly absent is no fault by itself.",
        "Train the group, or ingest its outputs.",
        default=False,
    ),
    _warning(
        "repeated-run",
        "Two runs have the same configuration and seed.",
        "A job was started again after it had saved something. Both runs are kept; averages count the configuration's "
        "seed twice.",
        "Both can stay. If one is not wanted, move its folder out of the tree, and its files out of the source before "
        "that is ingested again, which would bring it back.",
    ),
    _warning(
        "duplicate",
        "The same bytes are in two places.",
        "A file was copied by hand within the tree. One of the places is likely to be wrong.",
        "Let ckptman compare every byte, and put the copy into the tree's trash folder: ckptman validate --fix",
    ),
    # --- files and folders that do not belong
    _warning(
        "unfinished-file",
        "A temporary file of an interrupted ingest.",
        "ckptman writes under such a name until a file is whole. It is harmless, unless an ingest is at work.",
        "Ingest the same source again, which removes it, or, while no ingest is at work, move it out of the tree.",
    ),
    _warning(
        "stray-file",
        "A file that does not belong to the tree.",
        "Somebody put it there. No command looks at it, and nothing tells what it is for.",
        "Move it out of the tree.",
    ),
    _warning(
        "stray-folder",
        "A folder that does not belong to the tree, without checkpoints in it.",
        "Somebody put it there, or it is misspelled.",
        "Move it out of the tree.",
    ),
    _warning(
        "empty-folder",
        "A folder without a file in it.",
        "What was in it has been moved away or deleted, or an ingest was interrupted before it placed anything.",
        "Let ckptman remove it: ckptman validate --fix",
    ),
    _warning(
        "system-file",
        "Something that an operating system or a file manager left.",
        "Such files come along when a folder is opened, copied or unpacked. Some have a checkpoint's suffix and are "
        "none.",
        "Let ckptman put it into the tree's trash folder: ckptman validate --fix",
    ),
    _error(
        "special-file",
        "A pipe, socket or device in the tree.",
        "A program that opens it waits for ever, or worse. No checkpoint is one.",
        "Delete it, once no program uses it: no file's bytes are in it.",
    ),
    _error(
        "dangling-link",
        "A symbolic link that leads nowhere.",
        "Its target was deleted or moved, or its disk is not mounted. A link holds no bytes: while its "
        "target is away, so is what it stood for.",
        "Bring the target back, or mount its disk. Where the bytes are somewhere else, remove the link and ingest them "
        "from there with --mode copy.",
    ),
    _error(
        "outside-link",
        "A symbolic link that leads out of the tree.",
        "What it shows is not in the tree: copies of the tree lack it, and it changes when something else does.",
        "Remove the link itself, with rm and no slash at its end. Checkpoints that it leads to are ingested from where "
        "they are.",
    ),
    _warning(
        "linked-checkpoint",
        "Checkpoints are symbolic links to files outside the tree.",
        "They were ingested with --mode symlink. They are gone when the source is removed, as cluster scratch is.",
        "To have the bytes in the tree, ingest the source into a new root with --mode copy.",
    ),
    _error(
        "case-twins",
        "Names in one folder that differ only in case.",
        "File systems of macOS and Windows take them for one: a copy of the tree there loses one of them.",
        "Move one of them out of the tree: of two checkpoints, the one that run.json does not list.",
    ),
)

KINDS: Mapping[str, FindingKind] = {kind.code: kind for kind in _TABLE}
"""Every code that `validate` can raise, in the order in which `--explain list` shows them."""
