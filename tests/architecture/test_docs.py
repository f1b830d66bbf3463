"""The documents say what is so: the README's tour runs as printed, and its generated parts are current."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import ckptman
from tests.helpers import reference
from tests.helpers.packages import PACKAGES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = reference.REFERENCE.read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
ELIDED = "…"


@dataclass(frozen=True)
class Example:
    """A command of a console block, and what the README shows of its output."""

    command: str
    output: tuple[str, ...]


def examples(section: str, document: str = README) -> list[Example]:
    """The commands in the console blocks of a section of a document, in their order."""
    text = re.split(rf"^## {re.escape(section)}$", document, flags=re.M)[1].split("\n## ")[0]
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.M | re.S):
        for part in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.M)[1:]:
            command, *output = part.rstrip("\n").split("\n")
            found.append(Example(command, tuple(line for line in output if line)))
    return found


def shape(line: str) -> str:
    """A line of output without what differs from run to run: figures, run ids, and the spaces that align them."""
    line = re.sub(r"\b(?=[a-z]*[0-9])?[a-z0-9]{8}\b", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"[0-9][0-9.,]*", "#", line)).strip()


def as_printed(shown: Sequence[str], lines: Iterable[str]) -> bool:
    """Whether these lines and no others were printed; `…` stands for anything in a line, alone for any lines."""
    patterns = (".*".join(re.escape(shape(part)) for part in line.split(ELIDED)) + "\n" for line in shown)
    pattern = "".join(
        r"(?:.*\n)*" if line == ELIDED else of_line for line, of_line in zip(shown, patterns, strict=True)
    )
    return re.fullmatch(pattern, "".join(f"{shape(line)}\n" for line in lines if line)) is not None


@pytest.mark.slow
def test_the_tour_prints_what_the_readme_shows() -> None:
    tour = examples("A five-minute tour")
    assert len(tour) >= 6
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # where lines fold hangs on the length of paths
        follow(tour, short)


def follow(tour: list[Example], home: str) -> None:
    """Follow the tour in an empty folder, on a terminal of 80 columns."""
    for example in tour:
        done = subprocess.run(
            example.command, shell=True, cwd=home, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "COLUMNS": "80", "HOME": home,
                 "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode in (0, 1), (example.command, done.stdout)
        # How far the training is stands there on a slow machine.
        printed = [line for line in done.stdout.splitlines() if " it/s " not in line]
        assert as_printed(example.output, printed), (example.command, example.output, done.stdout)


def test_the_worked_example_prints_what_its_guide_shows(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "your_own_experiment.md").read_text()
    section = guide.split("## By hand")[1]
    (tmp_path / "ckptman.yaml").write_text(section.split("```yaml\n")[1].split("```")[0])
    (example,) = examples("By hand", guide)
    done = subprocess.run(
        [sys.executable, "-m", *example.command.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert tuple(done.stdout.rstrip().splitlines()) == example.output


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README


def test_a_line_that_was_not_printed_is_noticed() -> None:
    printed = ["placed 12 checkpoints of 6 runs (12.5 MB) in checkpoints", "", "6 curves kept", "Next: validate"]
    placed = "placed 2 checkpoints of 2 runs (2.08 MB) in …"
    assert as_printed([placed, "2 curves kept", "Next: validate"], printed)
    assert as_printed([placed, "…", "Next: validate"], printed)
    assert not as_printed([placed.replace("checkpoints", "files"), "…", "Next: validate"], printed)
    assert not as_printed([placed, "Next: validate"], printed)
    assert not as_printed([placed, "2 curves kept"], printed)


def test_the_generated_parts_are_current() -> None:
    assert reference.filled(reference.REFERENCE, REFERENCE) == REFERENCE
    readme = reference.README.read_text()
    assert reference.filled(reference.README, readme) == readme


def test_a_stale_part_is_noticed() -> None:
    stale = REFERENCE.replace("| `ckptman ingest`", "| `ckptman digest`")
    assert stale != REFERENCE
    assert reference.filled(reference.REFERENCE, stale) == REFERENCE


def test_every_name_of_the_api_is_in_the_reference() -> None:
    for name in ckptman.__all__:
        assert f"| `{name}` " in REFERENCE, name


def test_every_command_and_option_is_explained() -> None:
    for name in reference.names():
        assert reference.paragraphs(name)[0].endswith(".")
        assert any(part.startswith(reference.EXAMPLE) for part in reference.paragraphs(name)), name


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), (document, target)


def rows_of(document: str, head: str) -> list[list[str]]:
    """The rows of the table of a Markdown document that begins with this cell."""
    lines = document.split(f"| {head} |")[1].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(bool, lines)]


def test_the_table_of_packages_is_the_one_that_is_checked() -> None:
    rows = {name.strip("`"): allowed for name, _, allowed in rows_of(ARCHITECTURE, "package")}
    assert list(rows) == list(PACKAGES)
    for package, allowed in rows.items():
        assert set(re.findall(r"\w+", allowed)) == ({"all"} if package == "cli" else PACKAGES[package]), package


def test_every_module_that_a_document_names_is_there() -> None:
    named = [
        (document.name, name)
        for document in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md")
        for name in re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w/]+\.\w+)`", document.read_text())
    ]
    assert len(named) > 40
    assert [(document, name) for document, name in named if not (ROOT / "ckptman" / name).exists()] == []
