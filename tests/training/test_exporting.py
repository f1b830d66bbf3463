"""Exported copies, read by torch and by safetensors themselves, in processes that know nothing of ckptman."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ckptman.cli.app import run
from ckptman.fs import write_atomically
from ckptman.text.errors import MachineError, UsageError
from ckptman.training import exporting
from ckptman.training.exporting import export
from ckptman.training.loading import load, load_weights
from ckptman.training.model import GPT, GPTConfig
from tests.helpers.model_folders import distributed, trainer
from tests.helpers.raw import config


def checkpoint(path: Path, **more: Any) -> Path:
    """A form-B file as ckptman writes it: its configuration is an instance of a class."""
    settings = config(use_mlp=True)
    model = GPT(GPTConfig.from_train_config(settings), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters())
    torch.autograd.backward(model(torch.arange(9)[None]).square().mean())
    optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "config": settings,
        "iters_done": 40000,
        "run_id": "abc",
        **more,
    }
    torch.save(document, path)
    return path


WITHOUT_CKPTMAN = """
import sys, torch
held = torch.load(sys.argv[1], weights_only=True)
assert not any(name.startswith("ckptman") for name in sys.modules)
print(sorted(held), type(held["config"]).__name__)
"""


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_plain_copy_is_read_anywhere(tmp_path: Path, weights_only: bool) -> None:
    source = checkpoint(tmp_path / "file.pt", git_commit="1234")
    result = export([source], tmp_path / "out", to="plain", weights_only=weights_only)
    copy = tmp_path / "out/file.pt"
    more = [] if weights_only else ["git_commit", "optimizer_state_dict"]
    arguments = [sys.executable, "-c", WITHOUT_CKPTMAN, str(copy)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == f"{sorted(['config', 'iters_done', 'model_state_dict', 'run_id', *more])} dict"
    arguments[-1] = str(source)  # the control: what it was made from is not
    assert subprocess.run(arguments, capture_output=True, check=False, cwd=tmp_path).returncode != 0

    held, original = torch.load(copy, weights_only=True), torch.load(source, weights_only=True)
    assert held["config"] == config(use_mlp=True).to_dict()
    for name, weight in original["model_state_dict"].items():
        assert torch.equal(held["model_state_dict"][name], weight)
    if not weights_only:
        moments = [state["exp_avg"] for state in original["optimizer_state_dict"]["state"].values()]
        assert all(map(torch.equal, moments, [s["exp_avg"] for s in held["optimizer_state_dict"]["state"].values()]))
    assert result.exported[0].left_out == (("git_commit", "optimizer_state_dict") if weights_only else ())
    assert (copy.stat().st_size < source.stat().st_size / 2) is weights_only


def test_a_safetensors_copy_is_read_by_safetensors(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "file.pt")
    export([source], tmp_path / "out", to="safetensors")
    copy = tmp_path / "out/file.safetensors"
    found, expected = load_file(copy), load_weights(source)[0]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model, info = load(copy)
    assert torch.equal(model.wte.weight, expected["transformer.wte.weight"])
    assert (info.iters_done, info.run_id) == (40000, "abc")
    with safe_open(copy, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"]) == config(use_mlp=True).to_dict()
    assert (metadata["iters_done"], metadata["run_id"], metadata["format"]) == ("40000", "abc", "pt")


def test_every_type_and_view_of_safetensors_is_written(tmp_path: Path) -> None:
    weights = {str(dtype): torch.arange(6).to(dtype) for dtype in exporting._DTYPES}
    weights |= {"t": torch.rand(2, 3).t(), "none": torch.empty(0, 2), "number": torch.tensor(3.0), "ü": torch.ones(1)}
    torch.save({"model": weights, "iters_done": 1}, tmp_path / "file.pt")
    export([tmp_path / "file.pt"], tmp_path / "out", to="safetensors")
    found = load_file(tmp_path / "out/file.safetensors")
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert (found[name].dtype, found[name].shape) == (weight.dtype, weight.shape)
        assert torch.equal(found[name].view(torch.uint8) if weight.dim() else found[name],
                           weight.contiguous().view(torch.uint8) if weight.dim() else weight)  # fmt: skip


def test_one_file_is_named_as_several_are(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "file.pt")
    (tmp_path / "ckptman.yaml").write_text("title: of this folder\n")
    for named in (source, str(source)):
        result = export(named, tmp_path / "out")
        assert ([item.source for item in result.exported], result.refused) == ([str(source)], ())


def test_no_file_is_written_over(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "file.pt")
    assert export([source], tmp_path / "out", to="safetensors").exported[0].new
    assert not export([source], tmp_path / "out", to="safetensors").exported[0].new
    (tmp_path / "out/file.safetensors").write_bytes(b"other")
    result = export([source], tmp_path / "out", to="safetensors")
    assert (result.exported, result.refused[0][1].code) == ((), "taken")
    assert (tmp_path / "out/file.safetensors").read_bytes() == b"other"
    assert export([source], tmp_path, to="plain").refused[0][1].code == "taken"  # over its own source


def test_what_cannot_be_exported_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint, but long enough to be one" * 9)
    torch.save({"model": {"w": torch.ones(2, dtype=torch.complex128)}}, tmp_path / "complex.pt")
    good = checkpoint(tmp_path / "good.pt")
    result = export([tmp_path / "bad.pt", tmp_path / "complex.pt", good], tmp_path / "out", to="safetensors")
    assert [error.code for _, error in result.refused] == ["not-a-checkpoint", "no-safetensors-type"]
    assert [item.source for item in result.exported] == [str(good)]


def test_wrong_requests_are_named(tmp_path: Path) -> None:
    one, other = checkpoint(tmp_path / "a/file.pt"), checkpoint(tmp_path / "b/file.pt")
    with pytest.raises(UsageError, match="would both be file"):
        export([one, other], tmp_path / "out")
    with pytest.raises(UsageError, match="'onnx' is nothing to export to"):
        export([one], tmp_path / "out", to="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["plain", "safetensors"])
def test_a_copy_that_does_not_come_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    source = checkpoint(tmp_path / "file.pt")

    def damaged(path: Path, data: bytes, *, replace: bool, check: Callable[[Path], object]) -> bool:
        at = data.find(load_weights(source)[0]["transformer.wte.weight"].numpy().tobytes()[:64])
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return write_atomically(path, changed, replace=replace, check=check)

    monkeypatch.setattr(exporting, "write_atomically", damaged)
    with pytest.raises(MachineError) as caught:
        export([source], tmp_path / "out", to=target)
    assert caught.value.code == "not-verified"
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    assert export([source], tmp_path / "out", to=target).exported[0].new


ONES = torch.ones(2, 3)
FORMS: dict[str, tuple[Any, tuple[str, ...] | None]] = {
    "bare": ({"a": ONES, "b": ONES.t()}, ()),
    "nanoGPT": ({"model": {"_orig_mod.a": ONES}, "model_args": {"n": 1}, "config": {"x": 1}, "iter_num": 3}, ()),
    "Lightning": ({"state_dict": {"model.a": ONES}, "hyper_parameters": {"n": 1}, "global_step": 4}, ()),
    "Namespace": ({"model": {"a": ONES}, "args": argparse.Namespace(n=1), "iters_done": 3}, ()),
    "no tensors": ({"model": {"a": ONES, "_extra_state": {"x": 1}, "n": 3}}, ("_extra_state", "n")),
    "found": ({"net": {"a": ONES}}, ()),
    "inside": ({"state": {"model": {"a": ONES}, "config": {"n": 1}, "iters_done": 3}}, ()),
    "of a list": ([{"a": ONES}], ()),
    "bare with a configuration": ({"a": ONES, "b": ONES.t(), "c": ONES, "config": {"n": 1}}, ()),
    "conjugate": ({"model": {"a": torch.tensor([1 + 2j]).conj()}}, ()),
    "negative": ({"model": {"a": torch.tensor([1 + 2j]).conj().imag}}, ()),
    "sparse": ({"model": {"a": ONES.to_sparse()}}, None),
    "meta": ({"model": {"a": torch.empty(3, device="meta")}}, None),
    "no Unicode": ({"model": {"a": ONES}, "train_config": {"save_dir": os.fsdecode(b"gr\xf6\xdfe")}}, None),
}
"""What is saved, and what the safetensors file lacks; None where safetensors has no such tensor."""


@pytest.mark.parametrize("target", ["plain", "safetensors"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_exported_or_refused_with_the_reason(tmp_path: Path, name: str, target: str) -> None:
    content, left_out = FORMS[name]
    torch.save(content, tmp_path / "file.pt")
    result = export([tmp_path / "file.pt"], tmp_path / "out", to=target)
    if target == "safetensors" and left_out is None:
        assert [error.code for _, error in result.refused] == ["no-safetensors-type"]
        assert "file.pt" in str(result.refused[0][1]), "of many files, nobody could tell which"
        assert list((tmp_path / "out").iterdir()) == []
        return
    [item] = result.exported
    assert item.left_out == (left_out or ())
    expected, _ = load_weights(tmp_path / "file.pt")
    found, info = load_weights(item.path)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert exporting._same(found[key].resolve_conj().resolve_neg(), tensor.resolve_conj().resolve_neg())
    assert load_weights(tmp_path / "file.pt")[1].config == info.config


def test_of_the_rest_everything_that_is_plain_is_kept(tmp_path: Path) -> None:
    optimizer = {
        "state": {0: {"exp_avg": ONES.t(), "seen": (1, ONES)}}, "param_groups": [{"params": [0], "lr": 0.1, "fn": len}],
    }  # fmt: skip
    more = {"shapes": {"a": ONES.shape}, "kinds": [len, 1], "note": ("x", None, True), "args": argparse.Namespace(n=1)}
    torch.save({"model": {"a": ONES}, "optimizer": optimizer, **more}, tmp_path / "file.pt")
    [item] = export([tmp_path / "file.pt"], tmp_path / "out").exported
    held = torch.load(item.path, weights_only=True)
    assert held.keys() == {"model", "train_config", "optimizer", "shapes", "note"}
    assert (held["train_config"], held["note"], held["shapes"]) == ({"n": 1}, ("x", None, True), {"a": (2, 3)})
    assert held["optimizer"]["param_groups"] == [{"params": [0], "lr": 0.1}]
    assert torch.equal(held["optimizer"]["state"][0]["exp_avg"], ONES.t())
    assert torch.equal(held["optimizer"]["state"][0]["seen"][1], ONES)
    assert item.left_out == ("kinds", "optimizer.param_groups[0].fn")


def test_folders_are_exported_to_files(tmp_path: Path) -> None:
    for source in (trainer(tmp_path / "checkpoint-40000"), distributed(tmp_path / "dcp", optimizer={"state": {}})):
        for target, suffix in (("plain", ".pt"), ("safetensors", ".safetensors")):
            [item] = export([source], tmp_path / "out", to=target).exported
            assert Path(item.path).name == source.name + suffix
            found, info = load_weights(item.path)
            assert all(torch.equal(found[name], tensor) for name, tensor in load_weights(source)[0].items())
            assert info.iters_done == 40000
            assert load(item.path)[1].config == load(source)[1].config
    assert "optimizer.pt" in export([tmp_path / "checkpoint-40000"], tmp_path / "new").exported[0].left_out


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = checkpoint(tmp_path / "file.pt"), tmp_path / "out"
    assert run(["export", str(source), "--to", "plain", "--weights-only", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["exported"][0]["left_out"] == ["optimizer_state_dict"]
    assert document["refused"] == []
    (tmp_path / "bad.pt").write_bytes(b"")
    assert run(["export", str(source), str(tmp_path / "bad.pt"), "--to", "safetensors", "--out", str(out)]) == 1
    shown = capsys.readouterr()
    assert "left out: optimizer_state_dict" in shown.out
    assert "[empty]" in shown.err
