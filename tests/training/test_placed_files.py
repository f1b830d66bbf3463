"""Every file that is placed can be loaded, whatever form it has; and what cannot be the built-in model is not."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ckptman.cli.app import run
from ckptman.ingestion.ingesting import ingest
from ckptman.queries.inspection import show
from ckptman.text.errors import RefusedError
from ckptman.training.loading import load, load_weights
from tests.helpers.model_folders import CONFIG, weights_of
from tests.helpers.raw import name_of

SETTINGS = CONFIG.to_dict()
NORM = "transformer.ln_f.weight"

FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "A": lambda w: {"model": w, "train_config": CONFIG, "iters_done": 40000},
    "B": lambda w: {"model_state_dict": w, "config": SETTINGS, "iters_done": torch.tensor(40000)},
    "nanoGPT": lambda w: {"model": w, "model_args": {"n_layers": 1}, "config": SETTINGS, "iter_num": 40000.0},
    "Lightning": lambda w: {"state_dict": w, "hyper_parameters": SETTINGS, "global_step": 40000},
    "section": lambda w: {"state_dict": w, "hyper_parameters": {"model": SETTINGS, "x": 1}, "global_step": 40000},
    "text": lambda w: {"state_dict": w, "hyper_parameters": {"model": json.dumps(SETTINGS)}, "global_step": 40000},
    "hparams": lambda w: {"model": w, "hparams": argparse.Namespace(**SETTINGS), "iters_done": 40000},
    "bare": lambda w: w,
}
WEIGHTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "as they are": lambda w: w,
    "wrapped twice": lambda w: {f"module._orig_mod.{name}": tensor for name, tensor in w.items()},
    "half": lambda w: {name: tensor.half() for name, tensor in w.items()},
    "without its head": lambda w: {name: tensor for name, tensor in w.items() if "lm_head" not in name},
    "sparse": lambda w: w | {NORM: w[NORM].to_sparse()},
    "with what is no tensor": lambda w: {**w, "_extra_state": {"x": 1}},
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_placed_loads(form: str, weights: str, tmp_path: Path) -> None:
    path = tmp_path / "len_gen_k8" / "task_0006" / name_of(CONFIG)
    path.parent.mkdir(parents=True)
    torch.save(FORMS[form](WEIGHTS[weights](weights_of(CONFIG))), path)
    result = ingest(tmp_path / "len_gen_k8", tmp_path / "tree")
    assert result.refused == ()
    placed = tmp_path / "tree" / result.placed[0].path
    assert show(placed).loads.what == "model"
    found, _ = load_weights(placed)
    expected = weights_of(CONFIG)
    for name in expected.keys() - ({"lm_head.weight"} if weights == "without its head" else set()):
        assert torch.allclose(found[name].to_dense().float(), expected[name], atol=1e-3), name
    assert load(placed)[0].config.n_layers == 1


def test_a_safetensors_file_under_a_checkpoints_name_is_placed_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "len_gen_k8" / "task_0006" / name_of(CONFIG)
    path.parent.mkdir(parents=True)
    weights = {f"_orig_mod.module.{name}": tensor for name, tensor in weights_of(CONFIG).items()}
    save_file(weights, path, metadata={"train_config": json.dumps(SETTINGS), "iters_done": "40000"})
    result = ingest(tmp_path / "len_gen_k8", tmp_path / "tree")
    model, info = load(tmp_path / "tree" / result.placed[0].path)
    assert info.compiled
    assert torch.equal(model.state_dict()[NORM], weights_of(CONFIG)[NORM])


@pytest.mark.parametrize("kind", ["meta", "int64", "complex64"])
def test_weights_without_real_numbers_are_no_built_in_model(kind: str, tmp_path: Path) -> None:
    weights = weights_of(CONFIG)
    with warnings.catch_warnings(action="ignore"):
        odd = weights[NORM].to("meta") if kind == "meta" else weights[NORM].to(getattr(torch, kind))
    torch.save(FORMS["A"](weights | {NORM: odd}), tmp_path / "file.pt")
    shown = show(tmp_path / "file.pt")
    assert shown.loads.what == "weights"
    assert NORM in (shown.loads.reason or "")
    with pytest.raises(RefusedError) as caught:
        load(tmp_path / "file.pt")
    assert caught.value.code == "other-architecture"
    assert NORM in load_weights(tmp_path / "file.pt")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        "norm_type=rmsnorm", "use_qk_norm=true", "use_qk_norm=true use_rms_qk_norm=true", "use_gated_attention=true",
        "use_elementwise_attn_output_gate=true", "use_xavier_init=true", "n_embd=24 n_heads=3", "vocab_n=64",
    ],
)  # fmt: skip
def test_a_variant_is_trained_shown_and_evaluated(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["--k", "4", "--task", "3", "--fixed", "--seed", "1337"]
    short = ["--iters", "4", "--batch-size", "8", "--eval-samples", "2", "--warmup-iters", "1", "--eval-every", "0",
             "--checkpoint-every", "2", "--device", "cpu", "--threads", "1", "--wandb", "disabled"]  # fmt: skip
    chosen = [word for setting in ("n_embd=8", *settings.split()) for word in ("--set", setting)]
    assert run(["train", *task, *short, *chosen, "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    [final] = tmp_path.rglob("Final_*.pt")
    assert show(final).loads.what == "model"
    assert run(["eval", str(final), "--k", "17", "--samples", "2"]) == 0
