"""Situations that people reported: what is in the file is read by what it means, and the model loads.

Each was refused once, or read wrongly. What matters is the values, not that the file is let in.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import random
import types
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
import torch.utils.serialization.config as torch_config
import yaml
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec

import ckptman
from ckptman.formats.archive import verify_crcs
from ckptman.formats.checkpoint import CheckpointInfo, read_checkpoint, see_through
from ckptman.queries import inspection
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from ckptman.training import loading
from ckptman.training.model import GPT, GPTConfig
from tests.helpers import contents
from tests.helpers.raw import config as small
from tests.helpers.raw import name_of

RULES = built_in().checkpoint
SETTINGS = small()
CONFIG = SETTINGS.to_dict()
torch.manual_seed(1)
WEIGHTS = OrderedDict(GPT(GPTConfig.from_train_config(SETTINGS)).state_dict())
WTE = "transformer.wte.weight"


@pytest.fixture(autouse=True)
def their_modules() -> Iterator[None]:
    with contents.modules(*contents.CLASSES):
        yield


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves a checkpoint of form A with these changes."""

    def save_changed(*, protocol: int = 2, **changes: Any) -> Path:
        whole = {"iters_done": 40000, "train_config": CONFIG, "model_config": {}, "model": WEIGHTS, **changes}
        path = tmp_path / name_of(SETTINGS)
        torch.save({key: value for key, value in whole.items() if value is not ...}, path, pickle_protocol=protocol)
        return path

    return save_changed


def checked(path: Path) -> CheckpointInfo:
    """What a file says, after a check that its model loads with the right weights."""
    model, info = loading.load(path)
    state = model.state_dict()
    assert all(torch.equal(state[name], weight.float()) for name, weight in WEIGHTS.items())
    assert {tensor.name for tensor in info.tensors} | {"lm_head.weight"} == set(WEIGHTS)
    return info


def renamed(path: Path, *swaps: tuple[bytes, bytes], within: str = "data.pkl") -> Path:
    """The file with other bytes in its pickle, of the same length or not."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            for old, new in swaps if name.endswith(within) else ():
                assert old in data
                data = data.replace(old, new)
            archive.writestr(name, data)
    return path


# --- configurations of every form -------------------------------------------------------------------------------------


def spread(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose keys are in sections, as Hydra's are."""
    model = {key: values[key] for key in ("vocab_n", "n_embd", "n_heads", "n_layers", "without_pos", "use_mlp")}
    data = {key: value for key, value in values.items() if key.endswith("_k")}
    rest = {key: value for key, value in values.items() if key not in model and key not in data}
    return {"model": model, "data": {"lengths": data}, "train": rest}


def nested_attrs(values: Mapping[str, Any]) -> Any:
    return contents.instance(contents.plain_class("trainer.config.Config"), **values)


FIELDS: Any = dict.fromkeys(CONFIG, (Any, None))
Whole: Any = contents.placed(pydantic.create_model("Whole", **FIELDS), "trainer.config")
FORMS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "dict": dict,
    "Namespace": lambda values: argparse.Namespace(**values),
    "SimpleNamespace": lambda values: types.SimpleNamespace(**values),
    "OrderedDict": OrderedDict,
    "defaultdict": lambda values: collections.defaultdict(int, values),
    "UserDict": lambda values: collections.UserDict(values),
    "ChainMap": lambda values: collections.ChainMap({}, dict(values)),
    "Lightning": lambda values: contents.AttributeDict(values),
    "EasyDict": lambda values: contents.tagged(contents.EasyDict(values), **values),
    "yacs": lambda values: contents.CfgNode(values),
    "ml_collections": lambda values: contents.instance(contents.ConfigDict, _fields=dict(values), _locked=True),
    "OmegaConf": lambda values: contents.omega(dict(values)),
    "an object": lambda values: contents.instance(contents.BertConfig, **values),
    "JSON": lambda values: json.dumps(values),
    "JSON as bytes": lambda values: json.dumps(values).encode(),
    "YAML": lambda values: yaml.safe_dump(dict(values)),
    "YAML with what Python dumped": lambda values: yaml.dump({**values, "length_mode": contents.Mode.MIX}),
    "pairs": lambda values: list(values.items()),
    "a tuple of pairs": lambda values: tuple(values.items()),
    "pydantic": lambda values: Whole(**values),
    "pydantic 1": lambda values: contents.instance(contents.OldModel, **values),
    "pydantic, more than it has fields": lambda values: contents.Open(**values),
    "references of ml_collections": lambda values: contents.instance(
        contents.ConfigDict,
        _fields={key: contents.instance(contents.Reference, _value=value, _ops=[]) for key, value in values.items()},
    ),
    "W&B": lambda values: contents.instance(contents.WandbConfig, _items=dict(values), _locked={}, _settings=None),
    "references of OmegaConf": lambda values: contents.omega(
        {**values, "data_k": values["train_max_k"], "train_max_k": "${data_k}", "run": "${seed}", "seed": 1337}
    ),
    "numbers and flags as text": lambda values: {
        key: str(value) if isinstance(value, bool | int | float) else value for key, value in values.items()
    },
    "with an Enum by its name": lambda values: {**values, "length_mode": ByName(contents.Mode, "MIX")},
    "references in a container of OmegaConf, in one of Lightning": lambda values: contents.AttributeDict(
        cfg=contents.omega({**values, "data_k": values["train_max_k"], "train_max_k": "${.data_k}"}), extra=None
    ),
    "in a section": lambda values: {"run": dict(values), "hydra": {"job": 1}},
    "in sections": spread,
    "in sections of OmegaConf": lambda values: contents.omega(spread(values)),
    "in sections of objects": lambda values: types.SimpleNamespace(
        **{key: types.SimpleNamespace(**inner) for key, inner in spread(values).items()}
    ),
    "of numpy": lambda values: {
        key: np.float64(value) if type(value) is float else np.int64(value) if type(value) is int else value
        for key, value in values.items()
    },
    "of tensors": lambda values: {
        key: torch.tensor(value, dtype=torch.float64) if type(value) is float else value
        for key, value in values.items()
    },
    "whole numbers as floats": lambda values: {
        key: float(value) if type(value) is int else value for key, value in values.items()
    },
    "flags as 0 and 1": lambda values: {
        key: int(value) if type(value) is bool else value for key, value in values.items()
    },
    "of numpy's flags": lambda values: {
        key: np.bool_(value) if type(value) is bool else value for key, value in values.items()
    },
    "with an Enum": lambda values: {**values, "length_mode": contents.Mode.MIX},
    "with an older Enum": lambda values: {**values, "length_mode": contents.TextMode.MIX},
    "with numpy's text": lambda values: {**values, "length_mode": np.str_("mix")},
}


class ByName:
    """Pickled as Python 3.11.0 pickles a member of an Enum."""

    def __init__(self, kind: type, name: str) -> None:
        self.made = getattr, (kind, name)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_a_configuration_of_every_form(save: Callable[..., Path], form: str, protocol: int) -> None:
    info = checked(save(train_config=FORMS[form](CONFIG), protocol=protocol))
    assert info.config is not None
    assert {key: info.config.get(key) for key in CONFIG} == CONFIG
    assert {key: type(info.config[key]) for key in CONFIG} == {key: type(value) for key, value in CONFIG.items()}


@pytest.mark.parametrize("key", ["config", "train_config", "args", "hparams", "hyper_parameters", "cfg"])
def test_a_configuration_under_every_key(save: Callable[..., Path], key: str) -> None:
    info = checked(save(**{"train_config": ..., key: argparse.Namespace(**CONFIG)}))
    assert (info.config, info.config_key) == (CONFIG, key)
    assert info.other_keys == ()


def test_sections_that_contradict_each_other_decide_nothing(save: Callable[..., Path]) -> None:
    sections = spread(CONFIG)
    sections["data"] |= {"seed": 5, "name": "lists"}
    config = read_checkpoint(save(train_config=sections), RULES).config
    assert config is not None
    assert "seed" not in config
    assert config["data"] == {"seed": 5, "name": "lists"}
    assert config["train"] == {"seed": 1337}
    assert config["n_embd"] == 8


def test_what_a_configuration_lacks_its_sections_say(save: Callable[..., Path]) -> None:
    """As Hydra has it: what is of the run above, what is of the model and the data in sections."""
    top = {key: value for key, value in CONFIG.items() if key not in spread(CONFIG)["model"]}
    given = {**top, "model": {**spread(CONFIG)["model"], "seed": 5, "dropout": 0.0}}
    config = read_checkpoint(save(train_config=given), RULES).config
    assert config == {**CONFIG, "model": {"seed": 5, "dropout": 0.0}}


def test_what_cannot_be_read_as_a_configuration_is_named(save: Callable[..., Path]) -> None:
    for value in (contents.FrozenSlots(), contents.Point(1, 2), ["--seed", "1"], "a: [1\n", "a: &x [1]\nb: *x\n"):
        info = read_checkpoint(save(train_config=value, note={"a": 1}, lr_cfg="x"), RULES)
        assert info.config is None
        assert info.unused_configs == ("train_config",)
    assert read_checkpoint(save(args=argparse.Namespace(a=1), other=CONFIG), RULES).unused_configs == ("args", "other")
    assert read_checkpoint(save(), RULES).unused_configs == ()


def test_values_of_a_configuration_that_are_not_plain(save: Callable[..., Path]) -> None:
    more: dict[str, tuple[Any, Any]] = {
        "optim": ({"name": "adamw", "betas": (0.9, 0.95)}, {"name": "adamw", "betas": [0.9, 0.95]}),
        "curriculum": ([[0, 2], [20000, 6]], [[0, 2], [20000, 6]]),
        "path": (pathlib.Path("/a/größe"), "/a/größe"),
        "windows": (pathlib.PureWindowsPath(r"C:\out"), r"C:\out"),
        "amp": (torch.bfloat16, "torch.bfloat16"),
        "device": (torch.device("cuda", 1), "cuda:1"),
        "clip": (float("inf"), "Infinity"),
        "ema": (float("nan"), "NaN"),
        "sha": (b"4e67dc7", "4e67dc7"),
        "packed": (bytes.fromhex("4e67dcfa"), "4e67dcfa"),
        "at": (datetime.datetime(2026, 3, 10, 15, 28), "2026-03-10T15:28:00"),
        "best": (np.float64(0.9781), 0.9781),
        "milestones": (collections.Counter([10, 20, 20]), {"10": 1, "20": 2}),
        "seen": ({4, 2, 3}, [2, 3, 4]),
        "grid": (np.arange(3), [0, 1, 2]),
        "phase": (contents.Phase.TRAIN, 1),
        "loss": (torch.nn.functional.gelu, "torch._C._nn.gelu"),
        "scale": (torch.tensor(2.5), 2.5),
        "big": (2**60, 2**60),
        "entropy": (274674114334540486603088602300644985544, 274674114334540486603088602300644985544),
        "weights": (torch.ones(2, 2), "<tensor float32 [2, 2]>"),
        "betas": (contents.omega([0.9, 0.95]), [0.9, 0.95]),
        "span": (slice(1, 5), {"slice_start": 1, "slice_step": None, "slice_stop": 5}),
        "job": (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        "inner": (argparse.Namespace(a=argparse.Namespace(b=1)), {"a": {"b": 1}}),
    }
    given = {**CONFIG, **{key: value for key, (value, _) in more.items()}}
    config = read_checkpoint(save(train_config=given), RULES).config
    assert config == {**CONFIG, **{key: expected for key, (_, expected) in more.items()}}


# --- fields by what they mean -----------------------------------------------------------------------------------------

COUNTS = [
    40000.0, "40000", torch.tensor(40000), torch.tensor([40000]), torch.tensor(40000.0),
    torch.tensor(40000, dtype=torch.uint16),
    torch.tensor(39936.0, dtype=torch.bfloat16), np.int64(40000), np.float32(40000), np.array(40000),
    np.array([[40000]]),
]  # fmt: skip


@pytest.mark.parametrize("count", COUNTS, ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}")
def test_a_number_of_iterations_is_one_whatever_holds_it(save: Callable[..., Path], count: Any) -> None:
    number = float(count) if isinstance(count, float | str) else count.item()
    info = read_checkpoint(save(iters_done=count, itr=count), RULES)
    assert (info.iters_done, info.itr) == (number, number)
    assert type(info.iters_done) is int


@pytest.mark.parametrize(
    "several", [list, tuple, lambda found: dict(enumerate(found)), lambda f: {"a": f[0], "b": f[1]}]
)
def test_several_optimizers(save: Callable[..., Path], several: Callable[[Any], Any]) -> None:
    states = [contents.optimizer_of(torch.optim.AdamW, lr=lr).state_dict() for lr in (0.1, 0.2)]
    found = read_checkpoint(save(optimizer=several(states)), RULES).optimizer
    assert found is not None
    assert [group.hyperparameters["lr"] for group in found.groups] == [0.1, 0.2]
    assert (found.states, found.tensors, found.nbytes) == (2, 6, 2 * (4 + 2 * 24))


def test_an_optimizer_in_what_wraps_it(save: Callable[..., Path]) -> None:
    state = contents.optimizer_of(torch.optim.AdamW).state_dict()
    for wrapped in ({"base": state, "rho": 0.05}, {"optimizer": state, "scaler": {"scale": torch.tensor(1.0)}}):
        info = read_checkpoint(save(optimizer=wrapped), RULES)
        assert info.optimizer is not None
        assert (info.optimizer.states, info.other_keys) == (1, ())
    info = read_checkpoint(save(optimizer=..., more={"base": state, "rho": 0.05}), RULES)
    assert (info.optimizer, info.other_keys) == (None, ("more",))


def test_forms_of_other_programs(save: Callable[..., Path]) -> None:
    without = {"iters_done": ..., "train_config": ..., "model_config": ..., "model": ...}
    lightning = {"epoch": 3, "global_step": 40000, "pytorch-lightning_version": "2.5.5", "loops": {}, "callbacks": {}}
    weights = OrderedDict((f"model.{name}", weight) for name, weight in WEIGHTS.items())
    info = checked(save(**without, **lightning, state_dict=weights, hyper_parameters=contents.AttributeDict(CONFIG)))
    assert (info.form, info.iters_done, info.config) == ("Lightning", 40000, CONFIG)
    info = checked(save(**{**without, "model": WEIGHTS}, model_args={"n_embd": 8}, iter_num=40000, config=CONFIG))
    assert (info.form, info.iters_done, info.config, info.model_config) == ("nanoGPT", 40000, CONFIG, {"n_embd": 8})
    info = checked(save(model=..., train_config=..., iters_done=..., model_config=..., **WEIGHTS))
    assert (info.form, info.iters_done, info.config) == ("weights", None, None)
    info = checked(save(train_config=..., config=CONFIG))
    assert (info.config_key, info.iters_done) == ("config", 40000)


# --- names of weights -------------------------------------------------------------------------------------------------

WRAPPERS = ("module.", "_orig_mod.", "model.")
PREFIXES = [
    *WRAPPERS, *(a + b for a in WRAPPERS for b in WRAPPERS), "module.module._orig_mod.model.", "_fsdp_wrapped_module.",
    "model._orig_mod.module.model.", "_forward_module.module.", "model._forward_module._orig_mod.",
    "net.", "module.policy.gpt.", "net._orig_mod.", "base_model.model.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_in_any_order_and_depth(save: Callable[..., Path], prefix: str) -> None:
    info = checked(save(model=OrderedDict((prefix + name, weight) for name, weight in WEIGHTS.items())))
    assert info.compiled == ("_orig_mod." in prefix)


def test_prefixes_inside_of_names(save: Callable[..., Path]) -> None:
    def name_in_file(name: str) -> str:
        name = name.replace("h.0.", "h.0._checkpoint_wrapped_module.").replace("attn.", "attn._orig_mod.")
        return name if "ln_f" in name else f"module.{name}"  # one that no wrapper is around

    checked(save(model=OrderedDict((name_in_file(name), weight) for name, weight in WEIGHTS.items())))


def test_what_a_program_calls_the_model_is_seen_through_where_there_is_nothing_else(save: Callable[..., Path]) -> None:
    net = {f"net.{name}": weight for name, weight in WEIGHTS.items()}
    for other in ({"loss.weight": torch.ones(3)}, {f"ema.{name}": weight for name, weight in WEIGHTS.items()}):
        with pytest.raises(RefusedError, match=r"transformer\.wte\.weight is missing"):
            loading.load(path := save(model={**net, **other}))
        assert {tensor.name for tensor in read_checkpoint(path, RULES).tensors} == {*net, *other}
    names = ["net.wte.weight", "net.head"]  # of another model
    assert see_through(names, RULES) == dict(zip(names, names, strict=True))


def test_a_prefix_that_is_a_models_own_name_stays() -> None:
    names = ["model.embed", "model.head", "embed"]
    assert see_through(names, RULES) == dict(zip(names, names, strict=True))
    assert see_through(["model.embed", "head"], RULES) == {"model.embed": "embed", "head": "head"}
    assert see_through(["module"], RULES) == {"module": "module"}


def test_a_tied_head_may_be_there_or_not(save: Callable[..., Path]) -> None:
    checked(save(model=OrderedDict((name, weight) for name, weight in WEIGHTS.items() if name != "lm_head.weight")))
    checked(save(model=OrderedDict((name, weight.clone()) for name, weight in WEIGHTS.items())))


def test_what_is_no_tensor_among_the_weights_is_named(save: Callable[..., Path]) -> None:
    more = {"transformer._extra_state": {"amax": 1}, "n_averaged": 3, "attn._extra_state": None, "version": "1"}
    info = checked(save(model={**WEIGHTS, **more}))
    assert info.not_tensors == tuple(more)


# --- tensors ----------------------------------------------------------------------------------------------------------


class Rebuilt:
    """A tensor that is pickled as a call of another function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


U = torch._utils
DEVICES: dict[str, Callable[[torch.Tensor], Any]] = {
    "parameters": torch.nn.Parameter,
    "buffers": torch.nn.Buffer,
    "XLA": lambda weight: Rebuilt(U._rebuild_device_tensor_from_cpu_tensor, weight, torch.float32, "xla:0", False),
    "HPU, from numpy": lambda weight: Rebuilt(
        U._rebuild_device_tensor_from_numpy, weight.numpy(), torch.float32, "hpu", True
    ),
    "XLA, before 2.4": lambda weight: Rebuilt(U._rebuild_xla_tensor, weight.numpy(), torch.float32, "xla:0", False),
    "from numpy, transposed": lambda weight: Rebuilt(
        U._rebuild_device_tensor_from_numpy, np.asfortranarray(weight.numpy()), torch.float32, "xla:1", False
    ),
    "transposed": lambda weight: weight.t().contiguous().t(),
    "float64": lambda weight: weight.double(),
    "negated": lambda weight: torch._neg_view(-weight),
    "numpy": lambda weight: weight.numpy(),
    "distributed, all of it here": lambda weight: distributed(weight, Shard(0)),
}


def distributed(weight: torch.Tensor, placement: Any) -> Rebuilt:
    """As torch pickles a DTensor of one process."""
    spec = contents.instance(DTensorSpec, placements=(placement,))
    args = (DTensor, weight.dtype, weight.size(), weight.stride(), 0, weight.layout, weight.device, False)
    state = (None, {"_local_tensor": weight, "_spec": spec})
    make: Any = torch._tensor._rebuild_from_type_v2
    return Rebuilt(make, U._rebuild_wrapper_subclass, DTensor, args, state)


@pytest.mark.parametrize("how", DEVICES)
@pytest.mark.parametrize("protocol", [2, 5])
def test_weights_of_other_devices_and_makings(save: Callable[..., Path], how: str, protocol: int) -> None:
    make = DEVICES[how]
    checked(save(model=OrderedDict((name, make(weight)) for name, weight in WEIGHTS.items()), protocol=protocol))


def test_a_term_of_a_distributed_sum_is_no_weight(save: Callable[..., Path]) -> None:
    path = save(model={"w": distributed(torch.ones(2, 3), Partial())})
    with pytest.raises(RefusedError, match="its w is a tensor that this torch cannot make") as refused:
        loading.load_weights(path)
    assert refused.value.code == "not-loadable"
    weights, _ = loading.load_weights(save(model={"w": distributed(torch.ones(2, 3), Shard(0))}))
    assert torch.equal(weights["w"], torch.ones(2, 3))


def test_an_averaged_model_is_the_model(save: Callable[..., Path]) -> None:
    model = GPT(GPTConfig.from_train_config(SETTINGS))
    model.load_state_dict(WEIGHTS)
    for kept in (model, torch.nn.ModuleDict({"net": model})):
        path = save(model=torch.optim.swa_utils.AveragedModel(kept).state_dict())
        loaded, info = loading.load(path)
        assert all(torch.equal(weight, WEIGHTS[name]) for name, weight in loaded.state_dict().items())
        assert "n_averaged" in {tensor.name for tensor in info.tensors}
    for other in ({"n_averaged": torch.zeros(2)}, {"n_seen": torch.tensor(0)}):  # the control
        with pytest.raises(RefusedError, match=f"{next(iter(other))} "):
            loading.load(save(model={**WEIGHTS, **other}))


TRIL = torch.ones(1, 1, 65, 65).tril()
ATTENTION = "transformer.h.0.attn."


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8, torch.bfloat16])
def test_a_causal_mask_beside_the_weights_is_no_part_of_the_model(
    save: Callable[..., Path], dtype: torch.dtype
) -> None:
    masks = {f"{ATTENTION}bias": TRIL.to(dtype), f"{ATTENTION}masked_bias": torch.tensor(-1e4)}
    path = save(model={f"_orig_mod.{name}": tensor for name, tensor in {**WEIGHTS, **masks}.items()})
    loaded, info = loading.load(path)
    assert all(torch.equal(weight, WEIGHTS[name]) for name, weight in loaded.state_dict().items())
    assert masks.keys() < {tensor.name for tensor in info.tensors}
    shown = inspection.show(path)
    without = inspection.show(save())  # it has the same path
    assert info.parameters == without.info.parameters
    assert shown.problems == without.problems
    assert shown.loads == ("model", f"if the values of {ATTENTION}bias hide what comes later", None)
    assert without.loads == ("model", None, None)
    assert loading.load_weights(save(model={**WEIGHTS, **masks}))[0].keys() == {*WEIGHTS, *masks}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("bias", TRIL.mT, "is no causal mask"),
        ("bias", torch.ones(1, 1, 65, 65), "is no causal mask"),
        ("bias", TRIL * 2, "is no causal mask"),
        ("bias", TRIL.log(), "is no causal mask"),
        ("bias", torch.empty(1, 1, 65, 65, device="meta"), "is a tensor of the kind meta"),
        ("bias", TRIL[..., :64], r"\(1, 1, 65, 64\) is not expected"),
        ("bias", torch.ones(()).expand(1, 1, 9999, 9999), "more elements than the file has bytes"),
        ("masked_bias", torch.tensor(0.0), "is 0.0, which hides nothing"),
        ("masked_bias", torch.tensor(float("nan")), "is nan, which hides nothing"),
    ],
)
def test_a_mask_of_other_values_is_of_another_model(
    save: Callable[..., Path], name: str, value: torch.Tensor, said: str
) -> None:
    with pytest.raises(RefusedError, match=said) as refused:
        loading.load(save(model={**WEIGHTS, ATTENTION + name: value}))
    assert refused.value.code == "other-architecture"


def test_sections_of_which_every_key_is_harmless_are_so(save: Callable[..., Path]) -> None:
    sections = spread(CONFIG)
    sections["train"] |= {"num_workers": 4, "sched": {"warmup_steps": 3}, "n_embd": 8}
    sections["_wandb"] = {"cli_version": "0.31.0", "t": {"3": [4, 16]}}  # what W&B's own configuration has beside it
    checked(save(train_config=sections, model_config=...))
    sections["train"]["sched"]["window"] = 5
    with pytest.raises(RefusedError, match=r"says train.sched.window = 5, and") as refused:
        loading.load(save(train_config=sections, model_config=...))
    assert "without_effect: [train.sched.window]" in refused.value.fix


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_weights_of_fewer_bits(save: Callable[..., Path], dtype: torch.dtype) -> None:
    path = save(model=OrderedDict((name, weight.to(dtype)) for name, weight in WEIGHTS.items()))
    weights, info = loading.load_weights(path)
    assert {tensor.dtype for tensor in info.tensors} == {str(dtype).removeprefix("torch.")}
    expected = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(weights[name].float(), expected[name].float()) for name in WEIGHTS)


@pytest.mark.parametrize("location", ["mps", "cuda:3", "xpu:0", "hpu", "npu:1", "privateuseone:0", "xla:0", "meta"])
def test_weights_saved_from_another_device(save: Callable[..., Path], location: str) -> None:
    name = location.encode()
    checked(renamed(save(), (b"X\3\0\0\0cpu", b"X" + len(name).to_bytes(4, "little") + name)))


@pytest.mark.filterwarnings("ignore")
def test_nested_weights_are_built(save: Callable[..., Path]) -> None:
    parts = [torch.arange(6.0).reshape(2, 3), torch.ones(1, 3)]
    nested = torch.nested.nested_tensor(parts)
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    weights, _ = ckptman.load_weights(save(model={"nested": nested, "jagged": jagged, "w": torch.ones(1)}))
    for name in ("nested", "jagged"):
        found = weights[name].unbind()
        assert all(torch.equal(one, other) for one, other in zip(found, parts, strict=True))


class Counted:
    """Counts the bytes that are read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read, read_into = os.pread, os.preadv

        def pread(fd: int, size: int, at: int) -> bytes:
            data = read(fd, size, at)
            self.count += len(data)
            return data

        def preadv(fd: int, buffers: Any, at: int) -> int:
            count = read_into(fd, buffers, at)
            self.count += count
            return count

        patch.setattr(os, "pread", pread)
        patch.setattr(os, "preadv", preadv)


def test_a_header_takes_64_kb_of_reads_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small(n_embd=128, n_layers=2, use_mlp=True)
    model = GPT(GPTConfig.from_train_config(settings))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    whole = {"iters_done": 20001, "train_config": settings.to_dict(), "model_config": {}, "model": model.state_dict()}
    torch.save({**whole, "optimizer": optimizer.state_dict()}, tmp_path / "file.pt")
    assert (tmp_path / "file.pt").stat().st_size > 4_000_000
    counted = Counted(monkeypatch)
    assert read_checkpoint(tmp_path / "file.pt", RULES).iters_done == 20001
    assert 1_000 < counted.count <= 64 << 10
    verify_crcs(tmp_path / "file.pt")  # the control: this reads all of it
    assert counted.count > 4_000_000


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(save: Callable[..., Path], protocol: int) -> None:
    assert checked(save(protocol=protocol, rng=random.Random(1).getstate())).config == CONFIG


def test_a_file_without_checksums(save: Callable[..., Path]) -> None:
    before = torch_config.save.compute_crc32
    torch_config.save.compute_crc32 = False
    try:
        path = save()
    finally:
        torch_config.save.compute_crc32 = before
    with zipfile.ZipFile(path) as archive:
        assert {entry.CRC for entry in archive.infolist()} == {0}
    verify_crcs(path)
    assert checked(path).config == CONFIG


def test_what_a_tool_added_to_the_archive(save: Callable[..., Path]) -> None:
    path = save()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra/info.json", '{"by": "tool"}')
    verify_crcs(path)
    assert checked(path).config == CONFIG


@pytest.mark.parametrize("names", [(b"numpy._core", b"numpy.core"), (b"cpathlib\n", b"cpathlib._local\n")])
def test_modules_by_their_other_names(save: Callable[..., Path], names: tuple[bytes, bytes]) -> None:
    config = {**CONFIG, "best": np.float64(0.5), "grid": np.arange(2), "save_dir": pathlib.Path("/a/b")}
    path = save(train_config=config)
    other = names if names[0] in path.read_bytes() else names[::-1]  # before numpy 2; in Python 3.13
    found = read_checkpoint(renamed(path, other), RULES).config
    assert found == {**CONFIG, "best": 0.5, "grid": [0, 1], "save_dir": "/a/b"}
