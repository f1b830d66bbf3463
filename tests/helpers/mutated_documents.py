"""What is no checkpoint, changed by its structure and by its bytes: W&B's files, records, conventions, names.

Each kind makes a document, reads what became of it as ckptman does, and says with which code it was refused, if it was.
"""

from __future__ import annotations

import json
import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from ckptman.raw import histories, wandb_runs
from ckptman.raw.protobuf import BadMessageError, fields
from ckptman.rules import convention_file, naming, placement
from ckptman.rules.convention_file import built_in, convention_of
from ckptman.text import CkptmanError, RefusedError, json_text
from ckptman.tree import records
from ckptman.tree.metrics import from_metrics
from tests.helpers import hostile_wandb
from tests.helpers.looking import little_memory, nothing_done
from tests.helpers.mutations import ODD, changed, mutated
from tests.helpers.raw import config, name_of
from tests.helpers.recorded import add_run
from tests.helpers.timed import in_time

MOST_SECONDS: Final = 0.5

TEXTS: Final = (
    "null", "true", "-1", "1" + "0" * 400, "1" * 5000, "1e308", "1e999", '""', '"\\ud800"', '"a\\u0000b"', "[]", "[1]",
    '{"a": 1}', '{"a": {}}', '"NaN"', "NaN", "-Infinity", '"\\u202e\\u001b[31m"', "[" * 60 + "]" * 60, "[" * 9000,
    '{"a":' * 60 + "1" + "}" * 60, "0x10", "+1", "1_000", "01", "'a'", "{", '"a', "\xff", "",
)  # fmt: skip
"""JSON texts, and what is almost one."""
VALUES: Final[list[Any]] = [
    *ODD, 10**400, -(10**18), float("nan"), float("-inf"), "NaN", "\0", "\x1b[31m", "\u202e", "..", "../x", "/x", "a/b",
    "x" * 5000, [[]], {"": {}}, "1337", [None], "0" * 64, False, 1e-320, "{k}", "(?P<k>[0-9]+)", "(a+)+b", "[",
]  # fmt: skip
"""Values that stand in no document of these kinds."""


class Kind(ABC):
    """One kind of document."""

    reached: frozenset[str | None]
    """Outcomes that mutations must have, or they do not mutate what they should."""

    @abstractmethod
    def write(self, draw: random.Random, times: int) -> None:
        """Make the document, with so many changes."""

    @abstractmethod
    def read(self) -> str | None:
        """Read it, as ckptman does; the code with which it was refused, or a word for what was said of it."""


class WandbLog(Kind):
    """The log of a run: its records as messages in messages, framed."""

    reached = frozenset({None, "problems"})

    def __init__(self, folder: Path) -> None:
        self.path = hostile_wandb.offline_folder(folder)
        [self.log] = self.path.glob("*.wandb")
        self.records = [record.SerializeToString() for record in hostile_wandb.whole_records()]

    def write(self, draw: random.Random, times: int) -> None:
        found = list(self.records)
        for _ in range(times):
            at, kind = draw.randrange(len(found) or 1), draw.randrange(8)
            if not found or kind == 0:
                found[at:at] = [draw.choice(self.records)]
            elif kind == 1:
                del found[at]
            elif kind == 2:
                found[at] = mutated(found[at] or b"\0", draw)
            else:
                found[at] = message_changed(found[at], draw)
        data = hostile_wandb.frame(found)
        if times and draw.random() < 0.2:
            data = mutated(data, draw)
        self.log.write_bytes(data)

    def read(self) -> str | None:
        run = wandb_runs.read_run_folder(self.path)
        check_run(run)
        histories.read(run.history, built_in())
        return "problems" if run.problems else None


def encoded(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message_changed(message: bytes, draw: random.Random) -> bytes:
    """A message with one of its fields, at any depth, lost, doubled, renumbered, or with another value."""
    try:
        parts = list(fields(message))
    except BadMessageError:
        parts = []
    if not parts:
        return draw.choice(TEXTS).encode("latin1")
    at, kind = draw.randrange(len(parts)), draw.randrange(10)
    number, value = parts[at]
    if kind == 0:
        del parts[at]
    elif kind == 1:
        parts.insert(at, draw.choice(parts))
    elif kind == 2:
        parts[at] = draw.choice((0, 1, 2, 16, 17, number + 1, 2**28)), value
    elif isinstance(value, int) or kind == 3:
        parts[at] = number, draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, 253_402_300_800))
    elif kind == 4 or not value:
        parts[at] = number, draw.choice(TEXTS).encode("latin1")
    else:
        parts[at] = number, message_changed(value, draw)
    return b"".join(encoded(*part) for part in parts)


class _WandbFile(Kind):
    """A file of an online run."""

    def __init__(self, folder: Path) -> None:
        self.path = hostile_wandb.online_folder(folder)

    def read(self) -> str | None:
        run = wandb_runs.read_run_folder(self.path)
        check_run(run)
        return "problems" if run.problems else None


class WandbConfig(_WandbFile):
    reached = frozenset({None, "problems"})

    def write(self, draw: random.Random, times: int) -> None:
        data = yaml_changed(hostile_wandb.CONFIG_YAML, draw, times)
        (self.path / "files" / "config.yaml").write_bytes(data)


class WandbSummary(_WandbFile):
    reached = frozenset({None, "problems"})
    document: Final = {
        "iter": 39751, "iters_done": 40000, "_timestamp": 1773169702.5, "_runtime": 295.5, "gen/K17/exact": 0.25,
        "_wandb": {"runtime": 295}, "test": {"K17": {"loss": 1.5, "confusion": [[1, 2], [3, 4]]}}, "note": "ok",
    }  # fmt: skip

    def write(self, draw: random.Random, times: int) -> None:
        (self.path / "files" / "wandb-summary.json").write_bytes(json_changed(self.document, draw, times))


class Record(Kind):
    """A run.json."""

    reached = frozenset({None, "bad-record", "changed"})

    def __init__(self, folder: Path) -> None:
        self.path = add_run(folder, config(), metrics={"gen/K17/exact": 0.25}, evaluations=({"k": 8, "accuracy": 0.5},))
        self.original = (self.path / records.RUN_FILE).read_bytes()
        self.document = json.loads(self.original)

    def write(self, draw: random.Random, times: int) -> None:
        data = json_changed(self.document, draw, times) if draw.random() < 0.8 else mutated(self.original, draw)
        (self.path / records.RUN_FILE).write_bytes(data if times else self.original)

    def read(self) -> str | None:
        as_written = records.is_as_written(self.path / records.RUN_FILE)
        record = records.read_record(self.path)
        written = json_text.dump_json(json_text.document_of(record))
        again = json_text.record_of(records.RunRecord, json_text.load_json(written))
        assert json_text.dump_json(json_text.document_of(again)) == written
        for entry in record.checkpoints:
            json.dumps(records.row_of(PurePosixPath("x"), record, entry).to_json(), allow_nan=False)
        assert all(isinstance(path, str) for path, _, _ in record.source_paths)
        return None if as_written else "changed"


class Rules(Kind):
    """A ckptman.yaml."""

    reached = frozenset({None, "config-syntax", "bad-convention"})

    def __init__(self, _: Path) -> None:
        files = [convention_file.BUILT_IN, *convention_file.shipped().values()]
        self.originals = [file.read_text() for file in files]
        self.data = b""

    def write(self, draw: random.Random, times: int) -> None:
        self.data = yaml_changed(draw.choice(self.originals), draw, times)

    def read(self) -> str | None:
        try:
            rules = convention_of(self.data.decode(), "ckptman.yaml")
        except UnicodeDecodeError:
            return "config-syntax"
        for name in (name_of(config()), "x" * 300, "step_" * 60, "1-" * 150 + ".pt"):
            read_name(name, naming.naming_of(rules))
        return None


class Names(Kind):
    """Names of checkpoints, of folders, of W&B folders."""

    reached = frozenset({None, "unknown-name"})

    def __init__(self, _: Path) -> None:
        found = [built_in(), *(convention_file.load_convention(file) for file in convention_file.shipped().values())]
        self.namings = [naming.Naming(rules) for rules in found]
        self.originals = [
            name_of(config()), name_of(config(seed=2), "Checkpoint"), "ckpt_000100.pt", "epoch=3-step=400.ckpt",
            "checkpoint-500", "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337-mlp0/Final.pt",
            "run-20260310_152827-uhd352zp",
        ]  # fmt: skip
        self.name = ""

    def write(self, draw: random.Random, times: int) -> None:
        text = draw.choice(self.originals if times else self.originals[:1])
        for _ in range(times):
            parts = re.findall("[A-Za-z]+|[0-9]+|[^A-Za-z0-9]", text) or ["_"]
            at, kind = draw.randrange(len(parts)), draw.randrange(7)
            if kind == 0:
                del parts[at]
            elif kind == 1:
                parts.insert(at, parts[draw.randrange(len(parts))])
            elif kind == 2:
                parts[at] = str(
                    draw.choice((0, 10**17, 10**18, 10**400, "0" * 300, "00", "-1", "1e5", "nan", "٣", "²"))
                )
            elif kind == 3:
                parts[at] = draw.choice(("\0", "\n", "\ud800", "\u202e", "..", "/", "e\u0301", "\udcff", "\uff0f"))
            elif kind == 4:
                parts[at] *= draw.choice((2, 40))
            elif kind == 5:
                parts[at] = parts[at].swapcase()
            else:
                parts[at] = mutated(parts[at].encode(errors="surrogatepass") or b"_", draw).decode(
                    errors="surrogateescape"
                )
            text = "".join(parts)
        self.name = text

    def read(self) -> str | None:
        outcomes = [read_name(self.name, each) for each in self.namings]
        wandb_runs.folder_run_id(self.name)
        placement.group_pattern(self.name, built_in())
        placement.named_by_folders(PurePosixPath(self.name), built_in())
        built_in().folders.parse(PurePosixPath(self.name))
        return outcomes[0]


def read_name(name: str, naming_: naming.Naming) -> str | None:
    """A name that can be read can be written again, and is the same."""
    try:
        found = naming_.parse(name)
    except RefusedError as error:
        return error.code
    json.dumps(found.values, allow_nan=False)
    if found.scheme is None:
        assert naming_.format(found) == name
    return None


KINDS: Final[dict[str, type[Any]]] = {
    ".wandb": WandbLog, "config.yaml": WandbConfig, "wandb-summary.json": WandbSummary,
    "run.json": Record, "ckptman.yaml": Rules, "file names": Names,
}  # fmt: skip


def check_run(run: wandb_runs.WandbRun) -> None:
    """What an ingest does with a run: one of its parts, and into a record."""
    [merged] = wandb_runs.merge_requeued([run, run])
    assert merged == run or any(value != value for value in run.summary.values())
    from_metrics(run.summary, run.config, built_in())
    json_text.dump_json(json_text.jsonable({"config": run.config, "metrics": run.summary}))
    assert run.last_iter is None or isinstance(run.last_iter, int)
    for span in run.spans:
        assert None in (span.start, span.end) or isinstance(span.start, float)


def json_changed(document: Any, draw: random.Random, times: int) -> bytes:
    """A JSON document with changes of its values, its texts and its bytes."""
    for _ in range(times):
        document = changed(document, draw, VALUES)
    text = json.dumps(document)
    if times and draw.random() < 0.3:
        [*places] = re.finditer(r"(?<=[:,\[ ])(?:[0-9.e+-]+|\"[^\"]*\"|null|true|false)", text)
        if places:
            place = draw.choice(places)
            text = text[: place.start()] + draw.choice(TEXTS) + text[place.end() :]
    data = text.encode(errors="surrogatepass")
    return mutated(data, draw) if times and draw.random() < 0.2 else data


CALLS: Final = (
    '!!python/object/apply:os.system ["true"]',
    "!!python/object/apply:builtins.compile ['1', x, eval]",
    "!!python/object/new:builtins.exec ['1']",
)
PIECES: Final = (
    "&a ", "*a", "!!python/name:os.system", "!!int x", "!!float 3", "!!binary x",
    "---\n", "...\n", "%YAML 1.1\n", "? ", "- ", ": ", "|\n", ">\n", "\t", "#", "{", "}", "[", "]", "'", '"', "<<: *a",
    "0o7", "0x" + "f" * 5000, "1" * 5000, ".nan", "1e999", "~", "\ufeff", "\0", "\x85", "{" * 60, "- " * 60, "@", "`",
    "[" * 2000, "? [a]\n: b\n", "x: &x [*x]\n", "!<tag:yaml.org,2002:str> x", '"\\ud800"', '"\\uDC80"', '"\\U00110000"',
)  # fmt: skip


def yaml_changed(text: str, draw: random.Random, times: int) -> bytes:
    """A YAML document with changes of its values, its lines and its bytes."""
    if times and draw.random() < 0.5:
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for _ in range(times):
            document = changed(document, draw, VALUES)
        return json.dumps(document).encode(errors="surrogatepass")  # which is YAML too
    lines = text.splitlines(keepends=True)
    for _ in range(times):
        at, kind = draw.randrange(len(lines)), draw.randrange(6)
        if kind == 0:
            lines[at] = ""
        elif kind == 1:
            lines[at] = draw.choice((" ", "  ", "    ")) + lines[at]
        elif kind == 2:
            lines.insert(at, draw.choice(lines))
        elif kind == 3:
            lines.insert(at, draw.choice(PIECES))
        else:
            line = lines[at].rstrip("\n")
            where = draw.choice([0, len(line), line.find(": ") + 2, draw.randrange(len(line) + 1)])
            piece = draw.choice(CALLS if draw.random() < 0.2 else (*PIECES, *TEXTS))
            lines[at] = line[:where] + piece + line[where if kind == 4 else len(line) :] + "\n"
    data = "".join(lines).encode(errors="surrogatepass")
    return mutated(data, draw) if times and draw.random() < 0.2 else data


def outcome(kind: Kind) -> str | None:
    """What comes of reading; every error is our own, and can be shown."""
    try:
        return kind.read()
    except CkptmanError as error:
        return error.code if error.fix else "an error without a remedy"


def check(folder: Path, name: str, count: int, seed: int) -> Counter[str | None]:
    """Read mutated documents, and count what comes of it."""
    draw, kind = random.Random(seed), KINDS[name](folder)
    kind.write(draw, 0)
    assert outcome(kind) is None  # what is not changed is read
    found: Counter[str | None] = Counter()
    with little_memory():
        for _ in range(count):
            kind.write(draw, draw.choice((1, 1, 1, 2, 3)))
            with nothing_done() as done:
                found[in_time(lambda: outcome(kind), MOST_SECONDS)] += 1
            assert done == []
    assert found.keys() >= kind.reached, found
    assert "an error without a remedy" not in found
    return found
