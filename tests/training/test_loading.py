from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import CkptmanError, MachineError, RefusedError, UsageError
from ckptman.training.loading import load, mark_safe, pick_device
from ckptman.training.model import GPT, GPTConfig
from tests.helpers.raw import config, name_of

Document = dict[str, Any]


def model_of(settings: TrainConfig) -> GPT:
    return GPT(GPTConfig.from_train_config(settings), generator=torch.Generator().manual_seed(7)).eval()


def form_a(settings: TrainConfig) -> Document:
    model = model_of(settings)
    return {
        "iters_done": 40000,
        "train_config": {**settings.to_dict(), "total_vocab_size": 129, "sep_id": 128, "device": "cpu"},
        "model_config": dict(vars(model.config)),
        "model": model.state_dict(),
    }


def form_b(settings: TrainConfig) -> Document:
    model = model_of(settings)
    optimizer = torch.optim.AdamW(model.parameters())
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "config": settings,
        "iters_done": 40000,
    }


def weights_of(document: Document) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = document["model" if "model" in document else "model_state_dict"]
    return weights


def saved(document: Document, path: Path) -> Path:
    torch.save(document, path)
    return path


def refusal_of(path: Path) -> CkptmanError:
    with pytest.raises(RefusedError) as caught:
        load(path)
    assert caught.value.message.startswith(str(path))
    assert caught.value.fix
    return caught.value


CASES = [
    {},
    {"use_mlp": True},
    {"n_layers": 2, "use_layernorm": False},
    {"n_layers": 2, "use_mlp": True, "n_heads": 2},
    {"without_pos": False, "test_max_k": 20},
    {"norm_type": "rmsnorm", "use_mlp": True},
    {"norm_type": "none", "use_layernorm": False},
    {"use_qk_norm": True, "n_heads": 2},
    {"use_qk_norm": True, "use_rms_qk_norm": True, "use_gated_attention": True, "n_heads": 4},
    {"use_elementwise_attn_output_gate": True, "use_xavier_init": True, "n_layers": 2},
    {"train_k_choices": [2, 5, 8], "vocab_n": 64, "n_embd": 32},
]


@pytest.mark.parametrize("form", [form_a, form_b])
@pytest.mark.parametrize("values", CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_every_form_gives_the_model_that_was_saved(
    tmp_path: Path, form: Callable[[TrainConfig], Document], values: dict[str, Any], compiled: bool
) -> None:
    settings = config(**values)
    document = form(settings)
    if compiled:
        weights = weights_of(document)
        for name in list(weights):
            weights["_orig_mod." + name] = weights.pop(name)
    model, info = load(saved(document, tmp_path / "file.pt"))

    tokens = torch.randint(settings.vocab_n, (3, 17), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(tokens), model_of(settings)(tokens))
    assert not model.training
    assert model.config == GPTConfig.from_train_config(settings)
    assert model.lm_head.weight is model.wte.weight
    assert info.compiled is compiled
    assert info.iters_done == 40000
    assert info.form == ("A" if form is form_a else "B")


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = saved(form_a(config()), tmp_path / "file.pt")
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_floating_point_types_become_float32(tmp_path: Path) -> None:
    document = form_a(config())
    document["model"] = {name: weight.bfloat16() for name, weight in document["model"].items()}
    model, info = load(saved(document, tmp_path / "file.pt"))
    assert model.wte.weight.dtype == torch.float32
    assert torch.equal(model.wte.weight, document["model"]["transformer.wte.weight"].float())
    assert {tensor.dtype for tensor in info.tensors} == {"bfloat16"}


def test_a_tied_head_may_be_saved_once(tmp_path: Path) -> None:
    document = form_a(config())
    del document["model"]["lm_head.weight"]
    model, _ = load(saved(document, tmp_path / "file.pt"))
    assert torch.equal(model.wte.weight, document["model"]["transformer.wte.weight"])


# --- the documented loading code --------------------------------------------------------------------------------------

DOCUMENTED = """
import torch
from ckptman import GPT, GPTConfig

# Load checkpoint
ckpt = torch.load('path/to/checkpoint.pt', map_location='cpu')

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
"""The documented code, word for word but for its import line."""

LAB = """
from dataclasses import dataclass
from typing import Optional


@dataclass
class TrainConfig:
    vocab_n: int = 128
    n_embd: int = 8
    n_heads: int = 1
    train_min_k: int = 2
    train_max_k: int = 6
    test_min_k: int = 17
    test_max_k: int = 32
    n_layers: int = 2
    without_pos: bool = True
    use_mlp: bool = True
    use_layernorm: bool = True
    length_mode: str = "mix"
    max_iters: int = 40000
    seed: int = 2337
    wandb_group: Optional[str] = "len_gen_k6"
    a_field_of_later_trainers: str = "on"
"""
"""A trainer's configuration class: it lacks fields that ckptman's has, and has one that ckptman's lacks."""

SAVE = """
import sys
import torch

weights = torch.load(sys.argv[1], weights_only=True)
torch.save(
    {"model_state_dict": weights, "optimizer_state_dict": {"state": {}, "param_groups": []}, "config": TrainConfig(),
     "iters_done": 40000},
    sys.argv[2],
)
"""


def run_python(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = cwd / "script.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


def lab_model() -> GPT:
    return model_of(config(6, n_layers=2, use_mlp=True, seed=2337))


def lab_file(folder: Path, module: str) -> Path:
    """A form-B file whose configuration class belongs to `module`, written by another program."""
    torch.save(lab_model().state_dict(), folder / "weights")
    path = folder / "path/to/checkpoint.pt"
    path.parent.mkdir(parents=True)
    if module == "__main__":
        code = LAB + SAVE
    else:
        (folder / f"{module}.py").write_text(LAB)
        code = f"from {module} import TrainConfig\n" + SAVE
    done = run_python(code, folder / "weights", path, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / f"{module}.py").unlink(missing_ok=True)  # whoever loads it does not have it
    return path


MODULES = ["__main__", "sortGPT_len_generalization"]


@pytest.mark.parametrize("module", MODULES)
def test_the_documented_code_loads_a_labs_file(tmp_path: Path, module: str) -> None:
    path = lab_file(tmp_path, module)
    done = run_python(DOCUMENTED + "torch.save(model.state_dict(), 'out')\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out", weights_only=True)
    expected = lab_model().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    with pytest.raises(RefusedError, match="a_field_of_later_trainers = 'on'") as caught:
        load(path)
    assert "model: {without_effect: [a_field_of_later_trainers]}" in caught.value.fix
    (tmp_path / "ckptman.yaml").write_text('model: {without_effect: ["a_field_of_*"]}')
    model, info = load(path)
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert info.config_class == f"{module}.TrainConfig"
    assert info.config is not None
    assert info.config["a_field_of_later_trainers"] == "on"


@pytest.mark.parametrize("module", MODULES)
def test_without_ckptman_torch_refuses_a_labs_file(tmp_path: Path, module: str) -> None:
    lab_file(tmp_path, module)
    done = run_python("import torch\ntorch.load('path/to/checkpoint.pt', map_location='cpu')\n", cwd=tmp_path)
    assert done.returncode != 0
    assert "Unsupported global" in done.stderr


def test_the_documented_code_loads_ckptmans_own_file(tmp_path: Path) -> None:
    settings = config(8, n_layers=2, use_layernorm=False)
    (tmp_path / "path/to").mkdir(parents=True)
    saved(form_b(settings), tmp_path / "path/to/checkpoint.pt")
    done = run_python(DOCUMENTED + "torch.save(model.state_dict(), 'out')\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out", weights_only=True)
    assert all(torch.equal(found[name], weight) for name, weight in model_of(settings).state_dict().items())


def test_a_configuration_may_hold_paths(tmp_path: Path) -> None:
    settings = config()
    settings.save_dir = Path("/scratch/saved_models")  # type: ignore[assignment]
    path = saved(form_b(settings), tmp_path / "file.pt")
    _, info = load(path)
    assert info.config is not None
    assert info.config["save_dir"] == "/scratch/saved_models"


def test_mark_safe_takes_the_classes_of_a_labs_convention() -> None:
    before = torch.serialization.get_safe_globals()
    mark_safe(["their_trainer.Config"])
    mark_safe("their_trainer.Other")
    added = set(torch.serialization.get_safe_globals()) - set(before)
    assert added == {(TrainConfig, "their_trainer.Config"), (TrainConfig, "their_trainer.Other")}
    for name in built_in().checkpoint.config_classes:
        assert (TrainConfig, name) in before


# --- what its file does not say ---------------------------------------------------------------------------------------


def without_config(settings: TrainConfig) -> Document:
    document = form_a(settings)
    del document["train_config"], document["model_config"]
    return document


def test_the_name_says_what_the_weights_do_not_show(tmp_path: Path) -> None:
    settings = config(n_layers=2, use_mlp=True, n_heads=2)
    model, info = load(saved(without_config(settings), tmp_path / name_of(settings)))
    assert info.config is None
    assert model.config == GPTConfig.from_train_config(settings)


def test_without_configuration_and_name_it_is_refused(tmp_path: Path) -> None:
    error = refusal_of(saved(without_config(config()), tmp_path / "model.pt"))
    assert error.code == "no-architecture"
    assert "n_heads and without_pos" in error.message


def test_the_weights_show_what_an_old_configuration_lacks(tmp_path: Path) -> None:
    settings = config(n_layers=2, use_mlp=True, use_layernorm=False)
    document = form_a(settings)
    for key in ("use_mlp", "use_layernorm", "n_layers", "n_embd", "vocab_size"):
        del document["model_config"][key]
        document["train_config"].pop(key, None)
    model, _ = load(saved(document, tmp_path / "file.pt"))
    assert model.config == GPTConfig.from_train_config(settings)


def test_the_positions_are_as_many_as_the_table_has(tmp_path: Path) -> None:
    settings = config(test_max_k=32)
    document = form_a(settings)
    document["train_config"]["test_max_k"] = 50
    document["model_config"]["max_seq_len"] = 101
    assert load(saved(document, tmp_path / "file.pt"))[0].config.max_seq_len == 65


# --- other architectures ----------------------------------------------------------------------------------------------


def both(key: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["train_config"][key] = value

    return change


def in_model(key: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["model_config"][key] = value

    return change


def weight(name: str, value: Tensor | None) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        if value is None:
            del document["model"][name]
        else:
            document["model"][name] = value

    return change


BROKEN = {
    "rms norm": (both("norm_type", "rmsnorm"), "norm_type = rmsnorm, its weights show layernorm"),
    "unknown norm": (both("norm_type", "groupnorm"), "norm_type = groupnorm, its weights show layernorm"),
    "query norm": (both("use_qk_norm", True), "use_qk_norm = False and True"),
    "gate": (in_model("use_gated_attention", True), "transformer.h.0.attn.c_gate.weight is missing (1, 8)"),
    "wider gate": (
        weight("transformer.h.0.attn.c_gate.weight", torch.zeros(3, 8)),
        "c_gate.weight (3, 8) is not expected",
    ),
    "unknown model key": (in_model("rotary", True), "rotary = True"),
    "whole numbers": (
        weight("transformer.wte.weight", torch.ones(129, 8, dtype=torch.int64)),
        "wte.weight is of the type torch.int64",
    ),
    "more layers said": (both("n_layers", 2), "n_layers = 1 and 2"),
    "no mlp there": (in_model("use_mlp", True), "use_mlp"),
    "other vocabulary": (both("vocab_n", 64), "vocab_size = 129 and 65"),
    "heads disagree": (both("n_heads", 2), "n_heads = 1 and 2"),
    "heads are text": (both("n_heads", "two"), "n_heads = 'two'"),
    "missing bias": (weight("transformer.h.0.attn.c_proj.bias", None), "transformer.h.0.attn.c_proj.bias is missing"),
    "missing embedding": (weight("transformer.wte.weight", None), "transformer.wte.weight is missing"),
    "extra gate": (weight("transformer.h.0.attn.gate.weight", torch.zeros(8, 8)), "gate.weight (8, 8) is not expected"),
    "other shape": (
        weight("transformer.h.0.attn.c_proj.weight", torch.zeros(8, 16)),
        "transformer.h.0.attn.c_proj.weight has shape (8, 16) instead of (8, 8)",
    ),
    "flat embedding": (weight("transformer.wte.weight", torch.zeros(129)), "has shape (129)"),
    "untied head": (weight("lm_head.weight", torch.ones(129, 8)), "lm_head.weight is not tied"),
    "few numbers repeated": (
        weight("transformer.wte.weight", torch.zeros(1, 8).expand(1 << 40, 8)),
        "more elements than the file has bytes",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_another_architecture_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, words = BROKEN[name]
    document = form_a(config())
    change(document)
    error = refusal_of(saved(document, tmp_path / "file.pt"))
    assert error.code == "other-architecture"
    assert words in error.message


@pytest.mark.parametrize(
    "change",
    [
        both("norm_type", "layernorm"),
        both("norm_type", None),
        both("use_qk_norm", False),
        both("train_k_choices", [2, 4]),
        in_model("use_gated_attention", False),
        in_model("rotary", False),
        both("n_layers", 1),
    ],
)
def test_keys_that_change_nothing_are_no_obstacle(tmp_path: Path, change: Callable[[Document], None]) -> None:
    document = form_a(config())
    change(document)
    load(saved(document, tmp_path / "file.pt"))


@pytest.mark.parametrize(("key", "known"), [("optimizer_name", True), ("eval_long_max", True), ("rotary", False)])
def test_a_training_configuration_is_about_the_model_where_nothing_else_is(
    tmp_path: Path, key: str, known: bool
) -> None:
    document = form_a(config())
    document["train_config"][key] = 1
    load(saved(document, tmp_path / "file.pt"))  # the model's own configuration does not have it
    del document["model_config"]
    path = saved(document, tmp_path / "file.pt")
    if known:
        load(path)
    else:
        assert "rotary = 1, and nobody knows what that does" in refusal_of(path).message


def test_an_unknown_key_of_the_model_is_no_training_key(tmp_path: Path) -> None:
    document = form_a(config())
    document["model_config"]["eval_mode"] = "other"
    assert "eval_mode = 'other'" in refusal_of(saved(document, tmp_path / "file.pt")).message


def test_the_weights_show_the_variant_that_the_configuration_does_not_say(tmp_path: Path) -> None:
    settings = config(norm_type="rmsnorm", use_qk_norm=True, use_elementwise_attn_output_gate=True)
    document = form_a(settings)
    for said in (document["train_config"], document["model_config"]):
        for key in ("norm_type", "use_qk_norm", "use_gated_attention", "use_elementwise_attn_output_gate"):
            said.pop(key, None)
    model, _ = load(saved(document, tmp_path / "file.pt"))
    assert model.config == GPTConfig.from_train_config(settings)


def test_a_gate_without_bias_is_one_with_a_bias_of_zero(tmp_path: Path) -> None:
    document = form_a(config(use_gated_attention=True))
    document["model"].pop("transformer.h.0.attn.c_gate.bias")
    gate = load(saved(document, tmp_path / "file.pt"))[0].blocks[0].attn.c_gate
    assert gate is not None
    assert not gate.bias.any()


def test_many_differences_are_told_in_short(tmp_path: Path) -> None:
    document = form_a(config(n_layers=2, use_mlp=True))
    for block in (0, 1):
        for layer in ("fc_1", "fc_2"):
            for part in ("weight", "bias"):
                document["model"][f"transformer.h.{block}.mlp.{layer}.{part}"] = torch.zeros(3)
    message = refusal_of(saved(document, tmp_path / "file.pt")).message
    assert message.count("has shape") == 6
    assert message.endswith("; and 2 more")


# --- files that are no checkpoints ------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.witness,))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    path = saved({**form_a(config()), "extra": Malicious(witness)}, tmp_path / "file.pt")
    assert refusal_of(path).code == "unsafe-pickle"
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the control: loaded without care, it is
    assert witness.exists()


def test_neither_torch_load_nor_pickle_has_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(form_b(config()), tmp_path / "file.pt")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(pickle, "Unpickler", fail)
    monkeypatch.setattr(pickle, "loads", fail)
    load(path)
    with pytest.raises(AssertionError):  # the control
        torch.load(path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    document = form_a(config())
    path = saved(document, tmp_path / "file.pt")
    load(path)
    raw = bytearray(path.read_bytes())
    at = raw.find(document["model"]["transformer.wte.weight"].numpy().tobytes()[:64])
    assert at > 0
    raw[at] ^= 1
    path.write_bytes(raw)
    assert refusal_of(path).code == "bad-crc"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty"), (b"not a checkpoint, but long enough to be one" * 9, "not-a-checkpoint")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    assert refusal_of(path).code == code


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "none.pt").code == "unreadable"


def test_every_pickle_protocol_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(form_a(config()), path, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    assert torch.equal(load(path)[0].wte.weight, model_of(config()).wte.weight)


# --- devices ----------------------------------------------------------------------------------------------------------


def test_devices(tmp_path: Path) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "meta", torch.device("meta")):  # what is on `meta` has no values
        with pytest.raises(UsageError, match="is not a device") as caught:
            pick_device(name)
        assert caught.value.code == "bad-device"
    with pytest.raises(MachineError, match="cannot be used"):
        pick_device("cuda:99")
    if not torch.backends.mps.is_available():
        with pytest.raises(MachineError, match="the device mps cannot be used") as refused:
            pick_device("mps")
        assert ". " not in refused.value.message  # torch's first sentence, of many
    path = saved(form_a(config()), tmp_path / "file.pt")
    assert load(path, device=torch.device("cpu"))[0].wte.weight.device.type == "cpu"
