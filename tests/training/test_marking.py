"""`import ckptman` is enough for torch's safe loader, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckptman.rules.recipe import TrainConfig

ORDERS = {
    "torch first": "import torch, ckptman",
    "torch later": "import ckptman, sys; assert 'torch' not in sys.modules; import torch",
    "torch by another": "import ckptman, safetensors.torch, torch",
    "a part of torch first": "import ckptman, torch.nn, torch",
    "torch looked for first": "import ckptman, importlib.util as u; assert u.find_spec('torch'); import torch",
    "ckptman twice": "import ckptman, importlib; importlib.reload(ckptman); import torch",
}
LOAD = "; import sys; print(type(torch.load(sys.argv[1], weights_only=True)['config']).__name__)"


def run(code: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code + LOAD, file], capture_output=True, text=True, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"model_state_dict": {"w": torch.ones(1)}, "config": TrainConfig()}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


@pytest.mark.parametrize("order", ORDERS)
def test_importing_ckptman_is_enough_for_the_safe_loader(order: str, file: Path) -> None:
    process = run(ORDERS[order], file)
    assert (process.stdout, process.stderr) == ("TrainConfig\n", "")


def test_without_it_the_safe_loader_refuses_the_file(file: Path) -> None:
    assert "Unsupported global" in run("import torch", file).stderr
