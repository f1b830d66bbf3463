"""What each package may import, through which face, and that the convention's words stand in no Python file."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import ckptman
from ckptman.rules.convention_file import built_in
from tests.helpers.packages import PACKAGES

PACKAGE = Path(__file__).parents[2] / "ckptman"

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


@functools.cache
def imports(source: str) -> tuple[Import, ...]:
    """What a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found.append(Import("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Import):
            found += [Import(alias.name, ()) for alias in node.names]
    return tuple(found)


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


DISK = {
    "fsync", "flock", "hardlink_to", "unlink", "rename", "renames", "rmdir", "mkdir", "symlink_to", "touch",
    "open", "read_bytes", "read_text", "write_bytes", "write_text", "os.replace", "os.remove", "os.link",
}  # fmt: skip
"""Calls that only `fs` makes: the test that lets each call to the system fail covers all of them there."""

OWN = {
    "cli.starting": {"open", "os.open"},
    "cli.helping": {"formatter.write_text"},
    "sweeps.executors.worker": {"os.open"},
    "sweeps.executors.local": {"log.open"},
    "rules.convention_file": {"file.read_bytes"},
    "documents.explorer.page": {"folder.joinpath(name).read_text"},
}
"""Other calls: of the null device, the own formatter of the help, logs of own processes, a rules file, and the parts of
the page that come with the package: none of them is an output of a run."""


def touching(module: str, source: str) -> list[str]:
    """The calls of a module outside of `fs` by which files come, go, or are opened."""
    calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        f"{module} calls {call}"
        for call in calls
        if module.split(".")[0] != "fs" and {call, call.rpartition(".")[2]} & DISK
        if call not in OWN.get(module, ()) and call.removeprefix("fs_") != "files.read_bytes"
    ]


def test_only_fs_makes_and_removes_files_and_opens_those_of_others() -> None:
    sources = {module: path.read_text() for module, path in modules().items()}
    assert [wrong for module, source in sources.items() for wrong in touching(module, source)] == []
    for module, calls in OWN.items():  # no exception is left of what is gone
        assert all(f"{call}(" in sources[module] for call in calls)


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("raw.logs", "os.open(path, 0)", ["raw.logs calls os.open"]),
        ("raw.logs", "open(path)", ["raw.logs calls open"]),
        ("raw.logs", "path.read_text()", ["raw.logs calls path.read_text"]),
        ("raw.logs", "path.unlink()", ["raw.logs calls path.unlink"]),
        ("training.runs", "fcntl.flock(fd, 2)", ["training.runs calls fcntl.flock"]),
        ("training.runs", "os.replace(one, other)", ["training.runs calls os.replace"]),
        ("raw.logs", "text.replace('a', 'b')", []),
        ("raw.logs", "files.read_bytes(path)", []),
        ("cli.starting", "os.open(os.devnull, 1)", []),
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
    assert "Mode" in unused("fs", {"tree.records": "from ckptman.fs import files"})


def long_tests(folder: Path) -> list[str]:
    """Files of tests and their helpers that nobody reads in one sitting."""
    found = ((path, len(path.read_text().splitlines())) for path in sorted(folder.rglob("*.py")))
    return [f"{path.relative_to(folder)}: {lines} lines" for path, lines in found if lines > MOST_LINES]


def out_of_place(tests: Path) -> list[str]:
    """Test modules that lie in no folder of a package, or import one another."""
    found = []
    for path in sorted(tests.rglob("*.py")):
        name = path.relative_to(tests).as_posix()
        if path.name.startswith("test_") and path.parent.name not in {"architecture", *PACKAGES}:
            found.append(f"{name} lies in no folder of a package")
        for imported in imports(path.read_text()):
            modules = [imported.module, *(f"{imported.module}.{each}" for each in imported.names)]
            if any(part.startswith("test_") for module in modules for part in module.split(".")):
                found.append(f"{name} imports {imported.module}")
    return found


def test_tests_lie_in_folders_like_the_packages_are_short_and_import_helpers_only(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    assert out_of_place(tests) == []
    assert long_tests(tests) == []
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "test_logs.py").write_text("from tests.raw.test_scanning import made\n" + "pass\n" * 600)
    (tmp_path / "raw" / "test_runs.py").write_text("from tests.raw import test_scanning\nfrom tests.helpers import raw")
    (tmp_path / "test_odd.py").touch()
    assert long_tests(tmp_path) == ["raw/test_logs.py: 601 lines"]
    assert out_of_place(tmp_path) == [
        "raw/test_logs.py imports tests.raw.test_scanning",
        "raw/test_runs.py imports tests.raw",
        "test_odd.py lies in no folder of a package",
    ]


VERBS = ("checks", "documents", "ingestion", "queries", "sweeps")


def tangled(packages: dict[str, set[str]]) -> list[str]:
    """Verbs that import another, but for queries, which asks checks."""
    found = {verb: sorted(packages[verb] & {*VERBS}) for verb in VERBS}
    return [f"{verb} imports {other}" for verb, others in found.items() for other in others if verb != "queries"] + [
        f"queries imports {other}" for other in found["queries"] if other != "checks"
    ]


def test_verbs_do_not_import_each_other() -> None:
    assert tangled(PACKAGES) == []
    assert tangled({**PACKAGES, "checks": {"sweeps"}, "queries": {"checks", "ingestion"}}) == [
        "checks imports sweeps",
        "queries imports ingestion",
    ]


def test_packages_import_only_what_stands_above_them_in_the_table() -> None:
    order = list(PACKAGES)
    assert all(set(order[: order.index(package)]) >= allowed for package, allowed in PACKAGES.items())


def faceless(described: str | None, names: Sequence[str]) -> list[str]:
    """What the face of a package lacks, or has too much of."""
    text = described or ""
    return [
        *(f"it does not say: {word}" for word in ("Promises:", "May not be done here:") if word not in text),
        *(["it has too many names"] if len(names) > MOST_NAMES else []),
    ]


def test_every_package_is_a_noun_with_a_face() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(PACKAGES)
    faces = {package: importlib.import_module(f"ckptman.{package}") for package in PACKAGES}
    assert {package: wrong for package, it in faces.items() if (wrong := faceless(it.__doc__, it.__all__))} == {}
    assert sum(path.name != "__pycache__" for path in PACKAGE.iterdir()) <= MOST_ENTRIES
    assert called(ckptman.__all__) == set(), "no package is called as a function of the API"


def called(names: Iterable[str]) -> set[str]:
    return {*names} & {*PACKAGES}


def test_the_rules_of_faces_and_nouns_can_fail() -> None:
    assert faceless("Words. Promises: much.", ["name"] * 13) == [
        "it does not say: May not be done here:",
        "it has too many names",
    ]
    assert called(["validate", "checks"]) == {"checks"}


def convention_words() -> set[str]:
    """Words that only the convention file may hold: folder names, group patterns, prefixes, tags of several letters."""
    rules = built_in()
    folders = {value.folder for value in rules.facets["layernorm"].values} | {rules.folders.task_pattern}
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


KEYS = re.compile("layernorm|dynamic|train_max_k")
BUILT_IN = ("training.", "rules.recipe")
"""What trains the built-in experiment, and its recipe."""


def test_the_keys_of_the_built_in_experiment_stand_only_where_it_is_trained() -> None:
    texts = {module: path.read_text() for module, path in modules().items()}
    keyed = {module for module, text in texts.items() if KEYS.search(text)}
    assert {module for module in keyed if not module.startswith(BUILT_IN)} == set()
    assert {"training.model", "rules.recipe"} <= keyed, "the search finds what is there"


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


_STAY = """
import importlib, pkgutil, types, ckptman
plan = ckptman.plan_sweep
{shadow}
for module in pkgutil.walk_packages(ckptman.__path__, "ckptman."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
names = [name for name in ckptman.__all__ if isinstance(getattr(ckptman, name), types.ModuleType)]
print(*names, *(name for name in ("status", "sweep") if not callable(getattr(ckptman, name))))
"""


@pytest.mark.parametrize(
    ("shadow", "names"), [("", ""), ("ckptman.status = types.ModuleType('ckptman.status')", "status status")]
)
def test_no_name_of_the_api_becomes_a_module_whatever_is_imported(shadow: str, names: str) -> None:
    program = _STAY.format(shadow=shadow)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == names
