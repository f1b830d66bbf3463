"""What each package may import, through which face, and that the convention's words stand in no Python file."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import ckptman
from ckptman.rules.convention_file import built_in

PACKAGE = Path(__file__).parents[2] / "ckptman"

FORMATS = {"fs", "rules", "text"}
TREE = {"formats", *FORMATS}
PACKAGES: dict[str, set[str]] = {
    "text": set(),
    "fs": {"text"},
    "rules": {"text"},
    "formats": FORMATS,
    "tree": TREE,
    "raw": {"tree", *TREE},
    "training": {"tree", *TREE},
    "checks": {"tree", *TREE},
    "documents": {"tree", *TREE},
    "ingestion": {"raw", "tree", *TREE},
    "queries": {"checks", "tree", *TREE},
    "sweeps": {"training", "raw", "tree", *TREE},
}
"""Each package, and what it may import; from the bottom up, so that there is no cycle."""
PACKAGES["cli"] = set(PACKAGES)

OUTSIDE = {"torch": "training", "wandb": "training/wandb.py", "typer": "cli", "rich": "cli"}
"""What other libraries are imported for in one place only, local imports included."""

MOST_NAMES = 12
"""Names in the face of a package."""

MOST_LINES = 600
"""Lines of a file of tests."""

MOST_ENTRIES = 16
"""Entries of the folder of the packages."""


class Import(NamedTuple):
    """One import of a module of this or another project."""

    module: str
    names: tuple[str, ...]


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ("__init__.py", "__main__.py")
    }


def imports(source: str) -> list[Import]:
    """What a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found.append(Import("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Import):
            found += [Import(alias.name, ()) for alias in node.names]
    return found


def broken(module: str, source: str) -> list[str]:
    """What a module imports that it may not."""
    package = module.split(".")[0]
    if package not in PACKAGES:
        return [f"{module} is of no package"]
    found = []
    for name, names in imports(source):
        top, *inner = name.split(".")
        if not top:
            found.append(f"{module} imports {name} by a relative name")
        elif top == "ckptman" and (inner[:1] or ["cli"])[0] != package:
            if (inner or [""])[0] not in PACKAGES[package]:
                found.append(f"{module} imports {name}")
            elif not (PACKAGE.joinpath(*inner) / "__init__.py").exists():
                found.append(f"{module} imports {name}, and not the face of {inner[0]}")
            else:
                found += [f"{module} imports {name}.{n}, not in the face" for n in names if n not in face(*inner)]
        elif top in OUTSIDE and not module.replace(".", "/").startswith(OUTSIDE[top].removesuffix(".py")):
            found.append(f"{module} imports {name}")
    return found


def face(*package: str) -> list[str]:
    return list(importlib.import_module(".".join(("ckptman", *package))).__all__)


def test_each_package_imports_what_it_may_and_by_the_face() -> None:
    assert [wrong for module, path in modules().items() for wrong in broken(module, path.read_text())] == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("tree.records", "from ckptman.rules import Convention", []),
        ("tree.records", "from ckptman.raw import scanning", ["tree.records imports ckptman.raw"]),
        ("tree.records", "def f():\n    import ckptman.raw", ["tree.records imports ckptman.raw"]),
        ("tree.records", "import ckptman", ["tree.records imports ckptman"]),
        ("tree.records", "from ckptman.rules.terms import Convention",
         ["tree.records imports ckptman.rules.terms, and not the face of rules"]),
        ("tree.records", "from ckptman.rules import other",
         ["tree.records imports ckptman.rules.other, not in the face"]),
        ("tree.records", "from ckptman.tree.findings import KINDS", []),
        ("tree.records", "from . import findings", ["tree.records imports . by a relative name"]),
        ("checks.runs", "from ckptman.queries import show", ["checks.runs imports ckptman.queries"]),
        ("ingest", "import os", ["ingest is of no package"]),
        ("formats.shapes", "import torch.nn", ["formats.shapes imports torch.nn"]),
        ("training.model", "import torch.nn", []),
        ("training.model", "import wandb", ["training.model imports wandb"]),
        ("training.wandb", "import wandb", []),
    ],
)  # fmt: skip
def test_the_import_rules_can_fail(module: str, source: str, wrong: list[str]) -> None:
    assert broken(module, source) == wrong


DISK = {"fsync", "flock", "hardlink_to", "unlink", "rename", "renames"}
"""Calls that only `fs` makes: the test that lets each call to the system fail covers all of them there."""

OPENING = {"cli.app", "sweeps.executors.worker"}
"""Modules that open what is their own by os.open: the null device, and the log of their process."""


def touching(module: str, source: str) -> list[str]:
    """The calls of a module outside of `fs` by which files come, go, or are opened though others wrote them."""
    return [
        f"{module} calls {ast.unparse(node.func)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and module.split(".")[0] != "fs"
        if node.func.attr in DISK
        or ast.unparse(node.func) in ("os.replace", "os.remove", "os.link")
        or (ast.unparse(node.func) == "os.open" and module not in OPENING)
    ]


def test_only_fs_makes_and_removes_files_and_opens_those_of_others() -> None:
    assert [wrong for module, path in modules().items() for wrong in touching(module, path.read_text())] == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("raw.logs", "os.open(path, 0)", ["raw.logs calls os.open"]),
        ("raw.logs", "path.unlink()", ["raw.logs calls path.unlink"]),
        ("training.runs", "fcntl.flock(fd, 2)", ["training.runs calls fcntl.flock"]),
        ("raw.logs", "text.replace('a', 'b')", []),
        ("cli.app", "os.open(os.devnull, 1)", []),
        ("fs.files", "os.open(path, 0)", []),
    ],
)
def test_the_rule_of_the_disk_can_fail(module: str, source: str, wrong: list[str]) -> None:
    assert touching(module, source) == wrong


def unused(package: str, sources: dict[str, str]) -> list[str]:
    """Names of a face that nothing outside of the package uses."""
    used = {
        name
        for module, source in sources.items()
        if module.split(".")[0] != package
        for imported in imports(source)
        if imported.module == f"ckptman.{package}"
        for name in imported.names
    }
    return sorted(set(face(package)) - used)


def test_a_face_has_only_names_that_are_used_outside() -> None:
    sources = {module: path.read_text() for module, path in modules().items()}
    assert {package: names for package in PACKAGES if (names := unused(package, sources)) and package != "cli"} == {}
    assert "TakenError" in unused("fs", {"tree.records": "from ckptman.fs import files"})


def long_tests(folder: Path) -> list[str]:
    """Files of tests and their helpers that nobody reads in one sitting."""
    found = ((path, len(path.read_text().splitlines())) for path in sorted(folder.rglob("*.py")))
    return [f"{path.relative_to(folder)}: {lines} lines" for path, lines in found if lines > MOST_LINES]


def test_tests_lie_in_folders_like_the_packages_and_are_short(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    folders = {path.name for path in tests.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"architecture", "helpers"} <= set(PACKAGES)
    assert not list(tests.glob("test_*.py"))
    assert long_tests(tests) == []
    (tmp_path / "test_long.py").write_text("pass\n" * 601)
    assert long_tests(tmp_path) == ["test_long.py: 601 lines"]


def test_packages_import_only_what_stands_above_them_in_the_table() -> None:
    order = list(PACKAGES)
    assert all(set(order[: order.index(package)]) >= allowed for package, allowed in PACKAGES.items())


def test_every_package_is_a_noun_with_a_face() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(PACKAGES)
    assert not found & set(ckptman.__all__), "no package is called as a function of the API"
    for package in PACKAGES:
        assert len(face(package)) <= MOST_NAMES
        described = importlib.import_module(f"ckptman.{package}").__doc__
        assert described
        assert len(described.splitlines()) > 1
    assert sum(path.name != "__pycache__" for path in PACKAGE.iterdir()) <= MOST_ENTRIES


def convention_words() -> set[str]:
    """Words that only the convention file may hold: folder names, group patterns, prefixes, tags of several letters."""
    rules = built_in()
    folders = {*rules.families.layernorm_folders.values(), rules.folders.task_pattern}
    groups = {group.pattern.split("{")[0] for group in rules.groups}
    names = {example.split("_L")[0] for example in rules.name_examples}
    return folders | groups | names | {"task_", "seed_", "_npos", "trainK", "testK", "nodup", "iters{"}


def constants(path: Path) -> list[str]:
    """String constants of a file that are no docstrings."""
    tree = ast.parse(path.read_text())
    described = {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(body := getattr(parent, "body", None), list)
        for node in body
        if isinstance(node, ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described
    ]


def spoken(text: str) -> list[str]:
    return [word for word in convention_words() if word in text and not text.startswith("Example: ")]


def test_the_conventions_words_stand_in_no_python_file() -> None:
    found = [
        f"{module}: {word!r} in {text!r}"
        for module, path in modules().items()
        for text in constants(path)
        for word in spoken(text)
    ]
    assert found == []


def test_the_word_check_can_fail() -> None:
    assert spoken("with_layernorm/dynamic")
    assert spoken("Final_N128_d128_H1_L1_npos1_mlp0_ln1")
    assert spoken("a task folder") == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ingest", "--help"], ["task"], ["name", "--help"]])
def test_commands_that_need_no_tensors_import_no_heavy_module(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ckptman.cli.app import run\nstatus = run(sys.argv[1:])\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.stderr.write(f'HEAVY {sorted(heavy)} {status}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("HEAVY [] 0")


def test_the_import_check_can_fail() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ckptman; ckptman.GPT; sys.exit('torch' in sys.modules)"], check=False
    )
    assert done.returncode == 1


def test_every_name_of_the_api_is_there() -> None:
    assert all(getattr(ckptman, name) is not None for name in ckptman.__all__)
