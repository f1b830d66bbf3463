"""States and checkpoint files: what is saved is what is loaded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ckptman.formats.checkpoint import read_checkpoint
from ckptman.fs.placing import TakenError
from ckptman.text.errors import RefusedError
from ckptman.training.loop import initial_model
from ckptman.training.run_folder import RawRun
from ckptman.training.run_state import RunState, load_state, new_run_id, save_checkpoint, save_state
from ckptman.training.train_step import make_optimizer
from tests.helpers.short_runs import raw_run, same


def trained_state(run: RawRun, iters_done: int = 3) -> RunState:
    model = initial_model(run.config)
    optimizer = make_optimizer(model, learning_rate=1e-3, weight_decay=0.0)
    model(torch.arange(8)[None]).sum().backward()
    optimizer.step()
    with_ = {"torch": "2", "threads": "1"}
    return RunState(new_run_id(), iters_done, model.state_dict(), optimizer.state_dict(), with_)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    state = trained_state(run)
    save_state(run, state)
    found = load_state(run, run.state)
    assert (found.run_id, found.iters_done, found.computed_with) == (state.run_id, 3, state.computed_with)
    assert same(dict(found.model), dict(state.model))
    assert same(dict(found.optimizer), dict(state.optimizer))
    assert not same(dict(found.model), {**state.model, "transformer.wte.weight": torch.zeros(17, 8)})


def test_a_checkpoint_is_of_the_documented_form(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    state = trained_state(run, 12)
    save_checkpoint(run, run.final, state)
    info = read_checkpoint(run.final, run.convention.checkpoint)
    assert (info.form, info.iters_done, info.run_id, info.other_keys) == ("B", 12, state.run_id, ())
    assert info.config == run.config.to_dict()
    assert info.config_class in run.convention.checkpoint.config_classes
    document = torch.load(run.final, weights_only=True)
    head, embedding = (document["model_state_dict"][key] for key in ("lm_head.weight", "transformer.wte.weight"))
    assert head.data_ptr() == embedding.data_ptr()  # tied weights are saved once


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    state = trained_state(run, 12)
    save_checkpoint(run, run.final, state)
    before = run.final.read_bytes()
    save_checkpoint(run, run.final, replace(state, computed_with={}))  # the same run again
    with pytest.raises(TakenError):
        save_checkpoint(run, run.final, replace(state, run_id="another1", iters_done=12))
    assert run.final.read_bytes() == before


def test_a_file_that_torch_cannot_load_is_refused(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    save_state(run, trained_state(run))
    run.state.write_bytes(run.state.read_bytes()[:500])
    with pytest.raises(RefusedError):
        load_state(run, run.state)


def test_run_ids_are_those_of_wandb() -> None:
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(run_id) == 8 and run_id.isalnum() and run_id == run_id.lower() for run_id in ids)


SEEDS_CODE = """
import sys
import torch
from ckptman import GPT, GPTConfig

# Load checkpoint
ckpt = torch.load(sys.argv[1], map_location='cpu')

# Reconstruct model config
cfg = ckpt['config']
model_cfg = GPTConfig(
    block_size=cfg.train_max_k,
    vocab_size=cfg.vocab_n + 1,  # +1 for separator
    n_layers=cfg.n_layers,
    n_heads=cfg.n_heads,
    n_embd=cfg.n_embd,
    without_pos=cfg.without_pos,
    use_mlp=cfg.use_mlp,
    use_layernorm=cfg.use_layernorm,
    max_seq_len=2 * cfg.test_max_k + 1,
)

# Create and load model
model = GPT(model_cfg)
model.load_state_dict(ckpt['model_state_dict'])
model.eval()
"""


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_the_documented_loading_code_reads_it(tmp_path: Path, whole: bool) -> None:
    run = raw_run(tmp_path)
    save_checkpoint(run, run.final, trained_state(run, 12))
    if not whole:
        run.final.write_bytes(run.final.read_bytes()[:-300])
    command = [sys.executable, "-c", SEEDS_CODE, str(run.final)]
    assert (subprocess.run(command, check=False, capture_output=True).returncode == 0) is whole
