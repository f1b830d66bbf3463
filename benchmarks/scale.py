"""How long commands take on many checkpoints, each against a named tool on the same files, in turns.

    python -m benchmarks.scale [JOB …] [--at FOLDER] [--keep FOLDER] [--scale 0.1] [--largest 100000] [--write]

Trees and raw outputs are made by a generator (`tests/helpers/grown.py`): small files of real form, each with bytes of
its own. A ratio is that of the medians of as many turns as the table says; each turn runs the tool, then ckptman, each
in a process of its own, from its start to its end. Files are in memory by then (the page cache), so no disk is waited
for but where something is synced. `--write` puts the table and the plot of linearity into benchmarks/README.md.

In a folder given by `--keep` trees and sources stay, and what linearity has measured: the same command, called again
after it was interrupted, goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import README, machine, put
from ckptman.fs import cache

WIDTH: Final = 176
"""Embedding of the large files: 1.5 MB each on average, over one and two layers, with and without MLP."""

_READ_JSON: Final = """
import json, os, sys
for folder, _, names in os.walk(sys.argv[1]):
    if "run.json" in names:
        with open(os.path.join(folder, "run.json"), "rb") as file:
            json.load(file)
"""
_LOAD_META: Final = """
import os, sys, torch
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        if name.endswith(".pt"):
            torch.load(os.path.join(folder, name), map_location="meta")
"""


@dataclass(frozen=True)
class Took:
    """What one process took."""

    seconds: float
    megabytes: float
    """Most memory that was resident at once."""


Command = Callable[[], Sequence[str]]
"""Prepares a run, and gives its command."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    job: str
    against: str
    most: float
    """The ratio that is aimed at."""
    ours: Took
    theirs: Took
    turns: int
    reason: str = ""
    bare: Took | None = None
    """What the least of the job takes, where it is measured (`bare.py`)."""
    start: float = 0.0
    """Seconds of a start of ckptman."""
    items: int = 0
    """How many files there are, or runs."""

    @property
    def ratio(self) -> float:
        """Our time by theirs."""
        return self.ours.seconds / self.theirs.seconds

    @property
    def verdict(self) -> str:
        """Whether the target is met, or why not."""
        if self.ratio <= self.most:
            return "yes"
        if self.bare is None:
            return f"no: {self.reason}" if self.reason else "no"
        allowed, taken = (
            (seconds - self.bare.seconds - self.start) * (os.cpu_count() or 1) / self.items * 1000
            for seconds in (self.most * self.theirs.seconds, self.ours.seconds)
        )
        room = f"{allowed:.2f} ms of a core for each" if allowed > 0 else "nothing"
        return (
            f"no: beside the bare loop and a start of {self.start:.2f} s the target leaves {room}, and {taken:.2f} ms "
            f"are taken: {self.reason}"
        )


@dataclass
class Bench:
    """The folder that all files are in, and how many there are of them."""

    at: Path
    scale: float
    made: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def start(self) -> float:
        """Seconds of a start of ckptman, which asks an empty tree."""
        tree = self.at / "empty"
        tree.mkdir(exist_ok=True)
        (tree / "ckptman.yaml").touch()
        return median(self.run(ckptman("validate", "--root", tree)).seconds for _ in range(5))

    def files(self, count: int) -> int:
        """So many files, by the scale."""
        return max(20, int(count * self.scale))

    def tree(self, files: int, width: int = 8) -> Path:
        """A tree of so many files."""
        return self._made("tree", files, width)

    def source(self, files: int, width: int = 8) -> Path:
        """Raw outputs of so many files."""
        return self._made("source", files, width)

    def _made(self, what: str, files: int, width: int) -> Path:
        name = f"{what}-{files}-{width}"
        whole = self.at / f"{name}.whole"
        if name not in self.made and whole.exists():
            self.made[name] = self.at / name
        if name not in self.made:
            self.made[name] = self.at / name
            shutil.rmtree(self.made[name], ignore_errors=True)
            # In a process of its own: the memory of this one would count as that of each that it starts.
            make = (
                f"from pathlib import Path; from tests.helpers.grown import grow_{what} as grow; "
                f"grow(Path({str(self.made[name])!r}), {files // 2}, width={width})"
            )
            subprocess.run([sys.executable, "-c", make], check=True)
            os.sync()
            whole.touch()
            time.sleep(cache.SETTLED_NS / 1e9 + 0.1)
        return self.made[name]

    def run(self, command: Sequence[str], *, cached: bool = False) -> Took:
        """Run a command to its end."""
        environment = {
            **os.environ,
            "CKPTMAN_FIGURES": "0",
            "CKPTMAN_CACHE": str(self.at / "cache") if cached else "off",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles what is installed compiled
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            raise SystemExit(f"{command} ended with {process.returncode}")
        return Took(seconds, usage.ru_maxrss / 1024)

    def against(
        self, job: str, tool: str, most: float, theirs: Command, ours: Command,
        *, turns: int = 5, cached: bool = False, reason: str = "", least: Command | None = None, items: int = 0,
    ) -> Row:  # fmt: skip
        """Run both in turns, and the least of the job where there is one."""
        programs = [theirs, ours, *([least] if least is not None else [])]
        taken = [[self.run(program(), cached=cached) for program in programs] for _ in range(turns)]
        median_theirs, median_ours, *bare = (_median(column) for column in zip(*taken, strict=True))
        row = Row(job, tool, most, median_ours, median_theirs, turns, reason)
        return replace(row, bare=bare[0], start=self.start, items=items) if bare else row


def _median(taken: Iterable[Took]) -> Took:
    found = list(taken)
    return Took(median(took.seconds for took in found), max(took.megabytes for took in found))


def ckptman(*arguments: str | Path) -> list[str]:
    """A command line of ckptman."""
    return [sys.executable, "-m", "ckptman", *map(str, arguments)]


def bare(job: str, *folders: Path) -> list[str]:
    """A command line of the least of a job."""
    return [sys.executable, "-m", "benchmarks.bare", job, *map(str, folders)]


# --- the jobs ---------------------------------------------------------------------------------------------------------


def copy(bench: Bench) -> Iterator[Row]:
    """Ingest by copies."""
    source = bench.source(bench.files(1000), WIDTH)
    copied, tree = bench.at / "copied", bench.at / "ingested"
    script = 'cp -a "$1" "$2" && find "$2" -type f -print0 | xargs -0 openssl dgst -sha256 && sync'

    def fresh(folder: Path, command: list[str]) -> Command:
        def prepare() -> list[str]:
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()
            return command

        return prepare

    what = f"ingest, copies of {bench.files(1000):,} files of {_size(source):.2f} MB"
    ingest = fresh(tree, ckptman("ingest", source, "--root", tree))
    least = fresh(bench.at / "bare", bare("copy", source, bench.at / "bare"))
    yield bench.against(
        what, "cp -a; openssl dgst -sha256; sync", 0.9,
        fresh(copied, ["sh", "-c", script, "sh", str(source), str(copied)]),
        ingest,
        turns=3,
        least=least,
        items=bench.files(1000),
        reason="to plan, each byte is read and hashed once more, and its CRC-32 worked out",
    )  # fmt: skip
    dvc, added = shutil.which("dvc"), bench.at / "added"
    if dvc is None:
        print("dvc add: not measured, as dvc is not installed", flush=True)
        return

    def add() -> list[str]:
        shutil.rmtree(added, ignore_errors=True)
        shutil.copytree(source, added / "source", symlinks=True)
        subprocess.run([dvc, "init", "--quiet", "--no-scm"], cwd=added, check=True)
        os.sync()
        return [dvc, "--cd", str(added), "add", "--quiet", "source"]

    yield bench.against(
        what, "dvc add", 0.5, add, ingest, turns=3, least=least, items=bench.files(1000),
        reason="as above; it hashes each file once, with MD5, and syncs none of its copies",
    )  # fmt: skip


def links(bench: Bench) -> Iterator[Row]:
    """Ingest by hard links, and again with nothing new."""
    count = bench.files(10_000)
    source, linked, tree = bench.source(count), bench.at / "linked", bench.at / "ingested-links"

    def fresh(folder: Path, command: list[str]) -> Command:
        def prepare() -> list[str]:
            shutil.rmtree(folder, ignore_errors=True)
            return command

        return prepare

    yield bench.against(
        f"ingest --mode hardlink, {count:,} small files", "cp -al", 8,
        fresh(linked, ["cp", "-al", str(source), str(linked)]),
        fresh(tree, ckptman("ingest", source, "--root", tree, "--mode", "hardlink")),
        turns=3,
        least=fresh(bench.at / "bare", bare("link", source, bench.at / "bare")),
        items=count,
        reason="headers, plans, places and records are Python (cp reads no byte, and syncs none)",
    )  # fmt: skip
    again = ckptman("ingest", source, "--root", tree, "--mode", "hardlink")

    def once() -> list[str]:
        """After the first ingest; its links, and those of `cp -al`, change the times of the source."""
        shutil.rmtree(tree, ignore_errors=True)
        time.sleep(cache.SETTLED_NS / 1e9 + 0.1)
        bench.run(again, cached=True)
        return again

    for what, ours, cached, turns, reason in (
        ("the next time", once, True, 3, "the interpreter and the modules start, and look at every entry from Python"),
        ("and once more", lambda: again, True, 5, "as the next time"),
        (
            "cache off",
            lambda: again,
            False,
            1,
            "the plan is made anew in Python, run by run: half a millisecond a file",
        ),
    ):
        yield bench.against(
            f"ingest again, nothing new, {what}, {count:,}", "rsync -a --dry-run", 2,
            lambda: ["rsync", "-a", "--dry-run", f"{source}/", f"{linked}/"],
            ours,
            turns=turns,
            cached=cached,
            reason=reason,
        )  # fmt: skip


def validate(bench: Bench) -> Iterator[Row]:
    """The first time, warm, and every byte."""
    count = bench.files(10_000)
    tree = bench.tree(count)
    yield bench.against(
        f"validate, {count:,}, first time", 'torch.load(map_location="meta") of each', 1 / 20,
        lambda: [sys.executable, "-c", _LOAD_META, str(tree)],
        lambda: ckptman("validate", "--root", tree),
        turns=3,
        least=lambda: bare("read", tree),
        items=count,
        reason="headers, records and all checks are Python",
    )  # fmt: skip
    bench.run(ckptman("validate", "--root", tree), cached=True)
    yield bench.against(
        f"validate, {count:,}, warm", "find -type f -printf '%s\\n'", 10,
        lambda: ["find", str(tree), "-type", "f", "-printf", "%s\n"],
        lambda: ckptman("validate", "--root", tree),
        cached=True,
    )  # fmt: skip
    large = bench.tree(bench.files(1000), WIDTH)
    script = 'find "$1" -name "*.pt" -print0 | xargs -0 openssl dgst -sha256'
    yield bench.against(
        f"validate --deep, {bench.files(1000):,} files of {_size(large):.2f} MB", "openssl dgst -sha256", 0.7,
        lambda: ["sh", "-c", script, "sh", str(large)],
        lambda: ckptman("validate", "--deep", "--root", large),
        turns=3,
        least=lambda: bare("hash", large),
        items=bench.files(1000),
        reason="headers, records and all checks are Python",
    )  # fmt: skip


def questions(bench: Bench) -> Iterator[Row]:
    """ls, and what is asked of an unchanged tree."""
    runs = bench.files(10_000)
    many = bench.tree(2 * runs)
    time.sleep(cache.SETTLED_NS / 1e9 + 0.1)
    bench.run(ckptman("ls", "--json", "--root", many), cached=True)
    for when, cached in (("the first time", False), ("warm", True)):
        yield bench.against(
            f"ls --json, {runs:,} runs, {when}", "json.load of each run.json", 1.5,
            lambda: [sys.executable, "-c", _READ_JSON, str(many)],
            lambda: ckptman("ls", "--json", "--root", many),
            turns=3, cached=cached, least=None if cached else lambda: bare("list", many), items=runs,
            reason="types, states and two lines of each run are Python",
        )  # fmt: skip
    tree = bench.tree(bench.files(10_000))
    for verb in ("results", "status", "report"):
        bench.run(ckptman(verb, "--root", tree), cached=True)
    time.sleep(cache.SETTLED_NS / 1e9 + 0.1)
    for verb in ("report", "validate"):
        bench.run(ckptman(verb, "--root", tree), cached=True)
    for verb in ("results", "status", "report"):
        bench.run(ckptman(verb, "--root", tree), cached=True)  # the report has written documents
        yield bench.against(
            f"{verb}, {bench.files(10_000):,}, warm", "validate, warm", 1.5,
            lambda: ckptman("validate", "--root", tree),
            lambda verb=verb: ckptman(verb, "--root", tree),  # type: ignore[misc]
            cached=True,
        )  # fmt: skip


JOBS: Final = {job.__name__: job for job in (copy, links, validate, questions)}


def _size(folder: Path) -> float:
    """Megabytes of a checkpoint, on average."""
    sizes = [path.stat().st_size for path in folder.rglob("*.pt")]
    return sum(sizes) / len(sizes) / 1e6


# --- linearity --------------------------------------------------------------------------------------------------------

Measured = dict[str, list[tuple[int, Took]]]

MOST_TIME, MOST_MEMORY, MOST_MEGABYTES = 11, 2, 300
"""What ten times as many files may take: times as long, times the memory, and megabytes in all."""


@dataclass(frozen=True)
class Measure:
    """What is measured at each size."""

    name: str
    command: Command
    """Its files are made when it is asked for."""
    cached: bool = False
    """Whether its answer is known."""


def in_memory(folder: Path) -> Path:
    """A folder whose files are in the page cache, whatever was read and written since they were made."""
    subprocess.run(
        ["find", str(folder), "-type", "f", "-exec", "cat", "{}", "+"], check=True, stdout=subprocess.DEVNULL
    )
    return folder


def measures(bench: Bench, size: int) -> Iterator[Measure]:
    """All of them, in an order in which none is in the way of the next."""
    copied, linked = bench.at / f"copied-{size}", bench.at / f"linked-{size}"

    def ingest(root: Path, mode: str, *, again: bool = False) -> Command:
        def prepare() -> list[str]:
            command = ckptman("ingest", in_memory(bench.source(size)), "--root", root, "--mode", mode)
            if not again:
                shutil.rmtree(root, ignore_errors=True)
            elif not root.exists():
                bench.run(command)
            os.sync()
            return command

        return prepare

    def asked(verb: str, *options: str) -> Command:
        def prepare() -> list[str]:
            tree = in_memory(bench.tree(size))
            if written := [tree / name for name in DOCUMENTS if (tree / name).exists()]:
                for file in written:
                    file.unlink()
                time.sleep(cache.SETTLED_NS / 1e9 + 0.1)
            return ckptman(verb, *options, "--root", tree)

        return prepare

    yield Measure("ingest, copies", ingest(copied, "copy"))
    yield Measure("ingest, hard links", ingest(linked, "hardlink"))
    yield Measure("ingest again, nothing new", ingest(linked, "hardlink", again=True))
    yield Measure("ingest again, once more", ingest(linked, "hardlink", again=True), cached=True)
    yield Measure("validate", asked("validate"))
    yield Measure("validate, warm", asked("validate"), cached=True)
    yield Measure("ls --json", asked("ls", "--json"))
    yield Measure("results", asked("results"))
    yield Measure("status", asked("status"))
    yield Measure("report", asked("report", "--no-figures"))


DOCUMENTS: Final = ("README.md", "TASK_MAPPING.md")


def linearity(bench: Bench, largest: int) -> Measured:
    """Each command at 1,000 files, 10,000 and so on; what was measured before is not measured again."""
    kept = bench.at / "linearity.json"
    known: dict[str, list[float]] = json.loads(kept.read_bytes()) if kept.exists() else {}
    found: Measured = {}
    size = 1000
    while size <= largest:
        for item in measures(bench, size):
            key = f"{item.name} of {size}"
            if key not in known:
                if item.cached:
                    item.command()
                    time.sleep(cache.SETTLED_NS / 1e9 + 0.1)
                    bench.run(item.command(), cached=True)
                turns = 3 if size <= 10_000 or item.cached else 1
                took = _median(bench.run(item.command(), cached=item.cached) for _ in range(turns))
                known[key] = [took.seconds, took.megabytes]
                kept.write_text(json.dumps(known, indent=1))
            took = Took(*known[key])
            found.setdefault(item.name, []).append((size, took))
            print(f"{item.name:26}{size:>8,} files{took.seconds:>9.2f} s{took.megabytes:>7.0f} MB", flush=True)
        for folder in ("copied", "linked"):
            shutil.rmtree(bench.at / f"{folder}-{size}", ignore_errors=True)
        size *= 10
    return found


def plot(found: Measured) -> str:
    """Seconds by files, both by powers of ten, as SVG; the thin lines are of slope one."""
    sizes = sorted({size for points in found.values() for size, _ in points})
    seconds = [took.seconds for points in found.values() for _, took in points]
    left, right = math.log10(sizes[0]), math.log10(sizes[-1])
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(size: float) -> float:
        return 60 + (math.log10(size) - left) / (right - left or 1) * 420

    def y(value: float) -> float:
        return 330 - (math.log10(value) - low) / (high - low or 1) * 300

    colours = (
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
        "#882255",
        "#000000",
        "#999933",
        "#6699aa",
    )
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 370" font-family="sans-serif" font-size="12">',
             '<rect width="640" height="370" fill="white"/>']  # fmt: skip
    for power in range(low, high + 1):
        parts.append(f'<path d="M60 {y(10**power):.1f}H480" stroke="#ddd"/>'
                     f'<text x="54" y="{y(10**power) + 4:.1f}" text-anchor="end">{10**power:g} s</text>')  # fmt: skip
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="348" text-anchor="middle">{size:,}</text>')
    parts.append('<text x="270" y="365" text-anchor="middle">checkpoints</text>')
    labels = sorted(((y(points[-1][1].seconds), name) for name, points in found.items()), reverse=True)
    at: dict[str, float] = {}
    for wanted, name in labels:
        at[name] = min([wanted, *(place - 14 for place in at.values())])
    for (name, points), colour in zip(found.items(), cycle(colours), strict=False):
        line = " ".join(f"{x(size):.1f},{y(took.seconds):.1f}" for size, took in points)
        first = points[0][1].seconds
        slope = f"M{x(sizes[0]):.1f} {y(first):.1f}L{x(sizes[-1]):.1f} {y(first * sizes[-1] / sizes[0]):.1f}"
        parts.append(
            f'<path d="{slope}" stroke="{colour}" stroke-width="0.5" stroke-dasharray="2 3" clip-path="inset(0)"/>'
        )
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(size):.1f}" cy="{y(took.seconds):.1f}" r="3" fill="{colour}"/>' for size, took in points
        ]
        parts.append(f'<text x="490" y="{at[name] + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


# --- the tables -------------------------------------------------------------------------------------------------------


def table(rows: Iterable[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = [
        "| job | against | target | measured | ours | theirs | bare | turns | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        least = "–" if row.bare is None else f"{row.bare.seconds:.2f} s, {row.bare.seconds / row.theirs.seconds:.2f} ×"
        lines.append(
            f"| {row.job} | `{row.against}` | ≤ {row.most:g} × | {row.ratio:.2f} × | {row.ours.seconds:.2f} s, "
            f"{row.ours.megabytes:.0f} MB | {row.theirs.seconds:.2f} s | {least} | {row.turns} | {row.verdict} |"
        )
    return lines


def sizes_table(found: Measured) -> list[str]:
    """Time and memory by size, and what ten times as many take."""
    sizes = sorted({size for points in found.values() for size, _ in points})
    lines = [
        "| command | " + " | ".join(f"{size:,} files" for size in sizes) + " | ten times as many: time, memory | met |",
        "|---|" + "---|" * (len(sizes) + 2),
    ]
    for name, points in found.items():
        cells = [f"{took.seconds:.2f} s, {took.megabytes:.0f} MB" for _, took in points]
        last = met = "–"
        if len(points) > 1:
            (_, before), (_, after) = points[-2:]
            time_ratio, memory_ratio = after.seconds / before.seconds, after.megabytes / before.megabytes
            last = f"{time_ratio:.1f} ×, {memory_ratio:.1f} ×"
            missed = [
                *(["time"] if time_ratio > MOST_TIME else []),
                *(["memory"] if memory_ratio > MOST_MEMORY or after.megabytes > MOST_MEGABYTES else []),
            ]
            met = f"no: {' and '.join(missed)}" if missed else "yes"
        lines.append(f"| {name} | {' | '.join(cells)} | {last} | {met} |")
    wanted = f"ten times as many files may take {MOST_TIME} × the time, {MOST_MEMORY} × the memory, {MOST_MEGABYTES} MB"
    return [*lines, "", f"Aim: {wanted}."]


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of: {', '.join(JOBS)}, linearity; all by default")
    parser.add_argument("--at", type=Path, help="a folder on the disk to measure; by default a temporary one")
    parser.add_argument("--keep", type=Path, help="a folder that trees, and what linearity measured, are kept in")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of files")
    parser.add_argument("--largest", type=int, default=100_000, help="files of the largest tree of linearity")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    options = parser.parse_args()
    jobs = options.jobs or [*JOBS, "linearity"]
    blocks: dict[str, list[str]] = {}
    with ExitStack() as cleanup:
        if options.keep is None:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=options.at)))
        else:
            folder = options.keep.absolute()
            folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, options.scale)
        rows: list[Row] = []
        for name in jobs:
            for row in JOBS[name](bench) if name in JOBS else ():
                rows.append(row)
                print(table([row])[-1], flush=True)
        if rows:
            blocks["jobs"] = table(rows)
        if "linearity" in jobs:
            found = linearity(bench, options.largest)
            blocks["linearity"] = sizes_table(found)
            if options.write:
                README.with_name("linearity.svg").write_text(plot(found))
                blocks["linearity"] += ["", "![Seconds by number of checkpoints](linearity.svg)"]
    words = [*options.jobs, *([f"--scale {options.scale:g}"] if options.scale != 1 else [])]
    words += [f"--largest {options.largest}"] if "linearity" in jobs else []
    said = f"By `{' '.join(['python -m benchmarks.scale', *words])}`; {machine()}."
    for name, lines in blocks.items():
        print("\n".join(["", *lines, "", said]))
        if options.write:
            put(name, [*lines, "", said])
    return 0


if __name__ == "__main__":
    sys.exit(main())
