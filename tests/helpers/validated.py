"""Validating a tree, and the findings by their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptman.checks.validation import ValidationResult, validate
from ckptman.documents.reporting import stale
from ckptman.rules.convention_file import load_convention
from ckptman.tree.findings import ALL
from tests.helpers.raw import config, name_of, write_checkpoint


def codes(result: ValidationResult) -> set[str]:
    return {item.code for item in result.findings}


def check(root: Path, **options: Any) -> ValidationResult:
    """Look for everything, absent groups and stale documents included."""

    def stale_documents(tree: Path) -> list[str]:
        return stale(tree, load_convention(tree / "ckptman.yaml"))

    return validate(root, **{"select": [ALL], "deep": True, "stale_documents": stale_documents, **options})


# --- trees as they come -----------------------------------------------------------------------------------------------


def of(result: ValidationResult, code: str) -> list[str]:
    """The messages of the findings of one code."""
    return [item.message for item in result.findings if item.code == code]


def flip_a_weight(file: Path) -> None:
    """Change one byte in the content of the first tensor."""
    data = bytearray(file.read_bytes())
    start = data.index(b"data/0") + 200
    data[start] ^= 0xFF
    file.write_bytes(data)


def hand_made(folder: Path, *, merged: bool) -> Path:
    """A tree in the layout that people make by hand: task folders that hold the files, and nothing else."""
    root = folder / "by hand"
    for layers in (2, 1):
        for mlp in (True, False):
            for mode in ("mix", "curriculum"):
                item = config(8, n_layers=layers, use_mlp=mlp, length_mode=mode)
                task = (2 - layers) * (2 if merged else 4) + (0 if merged else 2 * (not mlp)) + (mode == "curriculum")
                for kind, step in (("Checkpoint", 20001), ("Final", 40000)):
                    home = root / "with_layernorm" / "dynamic" / "len_gen_k8" / f"task_{task:04d}"
                    write_checkpoint(home / name_of(item, kind), item, step=step)
    (root / "README.md").write_text("# Checkpoints\n")
    return root
