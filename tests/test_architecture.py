"""Imports point one way, local ones included, and the convention's words stand in no Python file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ckptman
from ckptman.rules.convention_file import built_in

PACKAGE = Path(__file__).parents[1] / "ckptman"

LAYERS = {
    "base": {
        "errors", "config", "strict_yaml", "refusals", "wording", "markdown", "marked_blocks",
        "model", "train_step", "schedule", "sorting", "accuracy", "stopping",
    },
    "rules": {
        "convention", "convention_file", "naming", "grid", "placement", "weight_shapes", "findings", "where",
        "selection",
    },
    "outside": {
        "transfer", "pickle_reader", "archive", "checkpoint", "loading", "wandb_log", "wandb_runs", "wandb_logger",
        "wandb_index", "attribution", "tree", "rows", "sources", "overwritten", "generalization", "inventory",
        "raw_run", "run_state", "numbering", "whole_tree",
    },
    "cli": {"cli", "__main__"},
}  # fmt: skip
"""Everything else is a verb, or a part of one."""

ORDER = ["base", "rules", "outside", "verbs", "cli"]


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE) != Path("__init__.py")
    }


def layer(module: str) -> str:
    top = module.split(".")[0]
    return next((name for name, members in LAYERS.items() if top in members), "verbs")


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ckptman":
            inner = node.module.removeprefix("ckptman").lstrip(".")
            found.update([inner] if inner else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("ckptman.") for a in node.names if a.name.startswith("ckptman."))
    return found & set(modules()) | {m for m in found if m.startswith("cli.")}


def upward(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} ({layer(module)}) imports {other} ({layer(other)})"
        for module, others in graph.items()
        for other in others
        if ORDER.index(layer(other)) > ORDER.index(layer(module))
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if found := visit(other, [*trail, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def graph() -> dict[str, set[str]]:
    # The command table imports the command modules, which import the app: a registry, not a dependency.
    return {m: imports(p) - ({"cli.commands"} if m == "cli.app" else set()) for m, p in modules().items()}


def test_imports_point_downwards() -> None:
    assert upward(graph()) == []


def test_there_is_no_cycle() -> None:
    assert cycle(graph()) == []


def test_the_checks_can_fail() -> None:
    assert upward({"errors": {"ingest"}}) == ["errors (base) imports ingest (verbs)"]
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_every_module_is_named_in_its_layer() -> None:
    named = {module for members in LAYERS.values() for module in members}
    assert named <= {module.split(".")[0] for module in modules()} | {"cli"}


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


def shadowed(path: Path) -> list[str]:
    """Names that a module imports from the package itself, where a function of the API hides the module."""
    return [
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "ckptman"
        for alias in node.names
        if alias.name in ckptman.__all__ and alias.name in modules()
    ]


def test_no_module_is_imported_by_a_name_that_the_api_hides(tmp_path: Path) -> None:
    assert [found for path in modules().values() for found in shadowed(path)] == []
    (tmp_path / "bad.py").write_text("from ckptman import status")
    assert shadowed(tmp_path / "bad.py") == ["status"]


def test_every_name_of_the_api_is_there() -> None:
    assert all(getattr(ckptman, name) is not None for name in ckptman.__all__)
