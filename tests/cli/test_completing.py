"""What the shell is offered, through the protocol by which it asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptman.cli import commands
from tests.helpers.raw import config
from tests.helpers.trees import make_tree

ROOT = Path(__file__).parents[2]


def offered(words: str, here: Path) -> list[str]:
    """What bash is offered for the last word."""
    env = {"_CKPTMAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
           "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "ckptman"], cwd=here, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    group = {"wandb_group": "len_gen_k18"}
    return make_tree(tmp_path_factory.mktemp("lab"), [config(18, seed=77, **group)])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("ckptman ls --group len_gen_k1", {"len_gen_k10", "len_gen_k16", "len_gen_k18"}),
        ("ckptman train --group len_gen_k4,len_gen_k18", {"len_gen_k4,len_gen_k18"}),
        ("ckptman status --task ", {"0", "7"}),
        ("ckptman results --seed ", {"1337", "77"}),
        ("ckptman sweep --k 1", {"10", "16"}),
        ("ckptman validate --explain cut", {"cut", "cut-pickle"}),
        ("ckptman validate --select no-", {"no-record"}),
        ("ckptman ls --sort n_l", {"n_layers"}),
        ("ckptman ls --sort -gen_e", {"-gen_em"}),
        ("ckptman results --metric gen/K3", {"gen/K32/exact_match_acc"}),
        ("ckptman ls --where use_m", {"use_mlp"}),
        ("ckptman plot l", {"layernorm", "lengths"}),
        ("ckptman train --set n_e", {"n_embd="}),
        ("ckptman --convention l", {"lab-later", "lightning"}),
    ],
)
def test_values_are_completed_from_the_grid_and_the_tree(tree: Path, words: str, wanted: set[str]) -> None:
    found = offered(words, tree / "with_layernorm")
    assert wanted <= set(found)
    assert all(name.startswith(words.rpartition(" ")[2]) for name in found)


def test_keys_that_set_refuses_are_not_offered(tmp_path: Path) -> None:
    assert set(offered("ckptman train --set wandb_", tmp_path)) >= {"wandb_project="}
    assert "wandb_mode=" not in offered("ckptman train --set wandb_", tmp_path)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_what_explains_a_word_stays_in_its_line(shell: str, tmp_path: Path) -> None:
    for words in ("ckptman ", "ckptman train --"):
        action = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
        env = {"_CKPTMAN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, "COLUMNS": "60",
               "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **action}  # fmt: skip
        said = subprocess.run(
            [sys.executable, "-m", "ckptman"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        ).stdout
        lines = said.removeprefix("_arguments '*: :((").removesuffix("\n").removesuffix("))'").splitlines()
        assert len(lines) > 15
        names = [re.split(r'"?:"|\t', line.lstrip('"'))[0] for line in lines]
        assert all(name in commands.COMMANDS or name.startswith("--") for name in names), names
        assert "'" not in "".join(lines)


def test_commands_are_completed_without_importing_them(tmp_path: Path) -> None:
    assert offered("ckptman ", tmp_path) == list(commands.COMMANDS)
    assert offered("ckptman va", tmp_path) == ["validate"]
    assert "--version" in offered("ckptman --v", tmp_path)
    program = (
        "import sys, typer; from ckptman.cli.app import app; group = typer.main.get_command(app)\n"
        "assert group.shell_complete(group.make_context('ckptman', [], resilient_parsing=True), 'l')\n"
        "print(sorted(name for name in sys.modules if name.startswith(('ckptman.queries', 'ckptman.formats'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_a_tree_the_grid_is_offered(tmp_path: Path) -> None:
    found = offered("ckptman ls --group len_gen_k1", tmp_path)
    assert "len_gen_k10" in found
    assert "len_gen_k18" not in found


def test_errors_are_silent(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "ckptman.yaml").write_text("no: such: thing")
    assert offered("ckptman ls --group len_gen_k1", tmp_path) == []
    assert offered("ckptman ls --group len_gen_k1", tree) != []  # the control


def test_it_is_quick(tree: Path) -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        offered("ckptman ls --group len", tree)
        times.append(time.perf_counter() - began)
    assert min(times) < 3, "a second on a machine of one's own"
