"""What people keep in checkpoints besides weights: about 200 values, made by the libraries that make them.

Libraries that are not installed have stand-ins here: classes with the true names of their modules, and the attributes
that the true ones pickle, so that the pickles are the same.
"""

from __future__ import annotations

import argparse
import array
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import http
import ipaddress
import itertools
import pathlib
import random
import re
import signal
import time
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pydantic
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from tests.helpers.classes import CLASSES as CLASSES
from tests.helpers.classes import instance as instance
from tests.helpers.classes import modules as modules
from tests.helpers.classes import placed as placed
from tests.helpers.classes import plain_class as plain_class

Make = Callable[[], Any]
CONTENTS: dict[str, Make] = {}
"""Makes each value, by what it is."""


def content(name: str) -> Callable[[Make], Make]:
    """Adds a value that a function makes."""

    def add(make: Make) -> Make:
        CONTENTS[name] = make
        return make

    return add


# --- torch: schedulers, optimizers, scalers ---------------------------------------------------------------------------


def optimizer_of(kind: Any = optim.SGD, **options: Any) -> Any:
    """An optimizer after one step."""
    parameter = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    made = kind([parameter], **options)
    parameter.grad = torch.ones(2, 3)
    if kind is optim.SparseAdam:
        parameter.grad = torch.ones(2, 3).to_sparse()
    made.step(*([lambda: 1.0] if kind is optim.LBFGS else []))
    return made


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (optim.SGD, {"lr": 0.1}),
    "SGD with momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (optim.Adam, {}),
    "AdamW": (optim.AdamW, {"betas": (0.9, 0.95), "fused": False}),
    "AMSGrad": (optim.AdamW, {"amsgrad": True}),
    "AdamW with a tensor as lr": (optim.AdamW, {"lr": torch.tensor(1e-4), "capturable": False, "foreach": False}),
    "Adamax": (optim.Adamax, {}),
    "Adagrad": (optim.Adagrad, {}),
    "Adadelta": (optim.Adadelta, {}),
    "NAdam": (optim.NAdam, {}),
    "RAdam": (optim.RAdam, {}),
    "RMSprop": (optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "Rprop": (optim.Rprop, {}),
    "ASGD": (optim.ASGD, {}),
    "LBFGS": (optim.LBFGS, {}),
    "SparseAdam": (optim.SparseAdam, {}),
    "Adafactor": (optim.Adafactor, {}),
}
for _name, (_kind, _options) in OPTIMIZERS.items():
    CONTENTS[f"optimizer: {_name}"] = functools.partial(
        lambda kind, options: optimizer_of(kind, **options).state_dict(), _kind, _options
    )

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 10),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [10, 20, 20]),
    "ConstantLR": lr_scheduler.ConstantLR,
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 40_000),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0),
    "LambdaLR of an object": lambda o: lr_scheduler.LambdaLR(o, instance(Warmup, steps=400)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.95),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.MultiStepLR(o, [5])], milestones=[2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o)]),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
}
Warmup: Any = placed(
    type("Warmup", (), {"__call__": lambda self, step: min(1.0, step / self.steps)}), "trainer.schedule"
)
for _name, _make in SCHEDULERS.items():
    CONTENTS[f"scheduler: {_name}"] = functools.partial(
        lambda make: make(optimizer_of(lr=0.1, momentum=0.5)).state_dict(), _make
    )


@content("optimizer: two in a list")
def two_optimizers() -> Any:
    return [optimizer_of(optim.AdamW).state_dict(), optimizer_of(lr=0.1).state_dict()]


@content("optimizer: itself")
def whole_optimizer() -> Any:
    return optimizer_of(optim.Adam)


@content("scaler")
def scaler() -> Any:
    return torch.amp.GradScaler("cpu", enabled=True).state_dict() | {"_per_optimizer_states": {}, "_growth_tracker": 7}


@content("averaged model")
def averaged_model() -> Any:
    return torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)).state_dict()


# --- random generators ------------------------------------------------------------------------------------------------

CONTENTS |= {
    "random: torch": torch.get_rng_state,
    "random: torch's generator": lambda: torch.Generator().manual_seed(3).get_state(),
    "random: Python": lambda: random.Random(1).getstate(),
    "random: Python's generator": lambda: random.Random(1),
    "random: numpy": lambda: np.random.RandomState(1).get_state(),
    "random: numpy, by name": lambda: np.random.RandomState(1).get_state(legacy=False),
    "random: numpy's old generator": lambda: np.random.RandomState(1),
    "random: numpy's generator": lambda: np.random.default_rng(1),
    "random: numpy's state": lambda: np.random.default_rng(1).bit_generator.state,
    "random: seed sequence": lambda: np.random.SeedSequence(274674114334540486603088602300644985544),
    "random: all of them": lambda: {
        "python": random.Random(0).getstate(),
        "numpy": np.random.RandomState(0).get_state(),
        "cpu": torch.get_rng_state(),
        "cuda": [torch.zeros(16, dtype=torch.uint8)],
    },
}
if hasattr(np.dtypes, "StringDType"):  # since numpy 2
    CONTENTS["numpy: text of any length"] = lambda: np.array(["a", "bcd"], dtype=np.dtypes.StringDType())
for _name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"):
    CONTENTS[f"random: numpy's {_name}"] = functools.partial(
        lambda name: np.random.Generator(getattr(np.random, name)(5)), _name
    )

# --- numpy ------------------------------------------------------------------------------------------------------------

for _kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "g", ">f8", ">i4"):
    CONTENTS[f"numpy: scalar {_kind}"] = functools.partial(lambda kind: np.ones(1, kind)[0], _kind)
    CONTENTS[f"numpy: array {_kind}"] = functools.partial(lambda kind: np.arange(6).astype(kind).reshape(2, 3), _kind)
CONTENTS |= {
    "numpy: text": lambda: np.str_("größe"),
    "numpy: bytes": lambda: np.bytes_(b"abc"),
    "numpy: moment": lambda: np.datetime64("2026-03-10T15:28"),
    "numpy: span": lambda: np.timedelta64(3, "h"),
    "numpy: record": lambda: np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])[0],
    "numpy: nan": lambda: np.float32("nan"),
    "numpy: array of text": lambda: np.array(["a", "größe"]),
    "numpy: array of bytes": lambda: np.array([b"a", b"xyz"]),
    "numpy: array of moments": lambda: np.array(["2026-03-10", "NaT"], "M8[D]"),
    "numpy: array of records": lambda: np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]),
    "numpy: array of objects": lambda: np.array([{"a": 1}, None, (1, "b")], object),
    "numpy: empty array": lambda: np.empty((0, 3)),
    "numpy: array without dimensions": lambda: np.array(3.0),
    "numpy: transposed array": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "numpy: part of an array": lambda: np.arange(20)[3:17:2],
    "numpy: masked array": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    "numpy: matrix-like list of arrays": lambda: [np.eye(2), np.zeros(3, np.int8)],
    "numpy: type": lambda: np.dtype("float32"),
    "numpy: class": lambda: np.float32,
    "numpy: best scores by name": lambda: {"val/em": np.float64(0.9781), "epoch": np.int64(12), "ok": np.bool_(True)},
}

# --- values of Python -------------------------------------------------------------------------------------------------

Point = placed(collections.namedtuple("Point", "x y"), "geometry.points")
UTC = datetime.UTC
CONTENTS |= {
    "counter": lambda: collections.Counter("hello"),
    "defaultdict of lists": lambda: collections.defaultdict(list, {"loss": [0.1, 0.2]}),
    "defaultdict of ints": lambda: collections.defaultdict(int, {"a": 1}),
    "defaultdict without a factory": lambda: collections.defaultdict(None, {"a": 1}),
    "defaultdict of a partial": lambda: collections.defaultdict(functools.partial(int, 3), {"a": 1}),
    "ordered dict": lambda: collections.OrderedDict(b=1, a=2),
    "deque": lambda: collections.deque([1, 2, 3]),
    "deque with a length": lambda: collections.deque([1, 2, 3], 100),
    "set": lambda: {2, 3, 4},
    "set of text": lambda: {"a", "b"},
    "empty set": set,
    "frozenset": lambda: frozenset({("a", 1), ("b", 2)}),
    "set of frozensets": lambda: {frozenset({1}), frozenset({1, 2})},
    "named tuple": lambda: Point(1, 2.5),
    "user dict": lambda: collections.UserDict(a=1),
    "user list": lambda: collections.UserList([1, 2]),
    "chain map": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
    "bytes": lambda: bytes(range(256)),
    "empty bytes": bytes,
    "text as bytes": lambda: b"4e67dc7a",
    "bytearray": lambda: bytearray(range(200)),
    "empty bytearray": bytearray,
    "iterators": lambda: [iter([1, 2]), reversed([1, 2]), enumerate([1]), itertools.count(3), itertools.repeat(1, 5)],
    "array": lambda: array.array("d", [1.0, 2.0]),
    "complex": lambda: [1 + 2j, complex("inf"), -0j],
    "floats": lambda: [0.0, -0.0, float("nan"), float("inf"), 5e-324],
    "integers": lambda: [2**63, -(2**63), 2**127, -(2**200), 10**400, 0],
    "moment": lambda: datetime.datetime(2026, 3, 10, 15, 28, 1, 5),
    "moment in UTC": lambda: datetime.datetime(2026, 3, 10, tzinfo=UTC),
    "moment in a zone": lambda: datetime.datetime(2026, 3, 10, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    "moment in a named zone": lambda: datetime.datetime(2026, 3, 10, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    "moment, the second of two": lambda: datetime.datetime(2026, 10, 25, 2, 30, fold=1),
    "day": lambda: datetime.date(2026, 3, 10),
    "time": lambda: datetime.time(15, 28),
    "span": lambda: datetime.timedelta(days=2, seconds=5, microseconds=7),
    "clock": lambda: time.gmtime(0),
    "decimal": lambda: [decimal.Decimal("1.10"), decimal.Decimal("-Infinity"), decimal.Decimal("1e-30")],
    "fraction": lambda: fractions.Fraction(22, 7),
    "uuid": lambda: uuid.UUID(int=2**100),
    "slice": lambda: [slice(1, 10, 2), slice(None)],
    "range": lambda: [range(10), range(5, -5, -2)],
    "ellipsis": lambda: [..., NotImplemented],
    "path": lambda: pathlib.Path("/scratch/u/größe"),
    "path of Windows": lambda: pathlib.PureWindowsPath(r"C:\out\k4"),
    "namespace": lambda: argparse.Namespace(lr=1e-4, betas=(0.9, 0.95), data=argparse.Namespace(root="d")),
    "simple namespace": lambda: types.SimpleNamespace(a=1, b=types.SimpleNamespace(c=[2])),
    "addresses": lambda: [ipaddress.ip_address("10.0.0.1")],
    "class of Python": lambda: [int, list, type(None), type(...), type(NotImplemented), dict],
    "class with arguments": lambda: [list[int], dict[str, int], typing.List[int]],  # noqa: UP006
    "member of Python's Enums": lambda: [re.IGNORECASE, http.HTTPStatus.OK, signal.SIGTERM, uuid.SafeUUID.unknown],
    "merges of a vocabulary": lambda: {(f"a{number}", "b"): number for number in range(10_000)},
    "scores by step and place": lambda: {(step, place): 0.5 for step in range(100) for place in range(100)},
    "scores by rate": lambda: {number / 7: number for number in range(10_000)},
    "function of Python": lambda: [len, pathlib.PurePath, functools.lru_cache],
    "partial": lambda: functools.partial(int, base=2),
    "exception": lambda: ValueError("loss is nan", 3),
    "pattern": lambda: re.compile(r"transformer\.h\.\d+"),
    "keys of all kinds": lambda: {
        1: "int", 2.5: "float", "a": "text", b"b": "bytes", (1, "x"): "tuple", None: "none", True + 1: "two",
        frozenset({1}): "set", torch.float32: "dtype",
    },
    "shared and nested": lambda: (lambda shared: {"a": shared, "b": [shared, {"c": (shared,)}]})([1, [2, [3]]]),
}  # fmt: skip


class Mode(enum.StrEnum):
    """A word."""

    MIX = "mix"


class TextMode(str, enum.Enum):  # noqa: UP042 (as older code has it)
    """A word, as before Python 3.11."""

    MIX = "mix"


class Phase(enum.Enum):
    """A number."""

    TRAIN = 1
    EVAL = 2


class Level(enum.IntEnum):
    """A number that counts."""

    LOW = 3


class Parts(enum.Flag):
    """Several at once."""

    WEIGHTS = 1
    BIAS = 2


class Spoken(enum.Enum):
    """Some words, none, and nothing."""

    WORDS = "cosine, with restarts"
    EMPTY = ""
    NOTHING = None
    TYPE = torch.bfloat16


class Pair(enum.Enum):
    """A tuple of words."""

    ADAM = ("adam", 1e-3)


for _cls in (Mode, TextMode, Phase, Level, Parts, Pair, Spoken):
    placed(_cls, "__main__" if _cls is Phase else "trainer.modes")
    CONTENTS[f"enum: {_cls.__name__}"] = functools.partial(list, _cls)
CONTENTS["enum: flags together"] = lambda: Parts.WEIGHTS | Parts.BIAS
CONTENTS["enum: as a key"] = lambda: {Phase.TRAIN: 1, Mode.MIX: 2}

# --- configurations ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Inner:
    """A section."""

    name: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)


@dataclasses.dataclass
class Outer:
    """A configuration with a section."""

    seed: int = 1337
    optim: Inner = dataclasses.field(default_factory=Inner)
    tags: list[str] = dataclasses.field(default_factory=list)
    mode: Mode = Mode.MIX


@dataclasses.dataclass(slots=True)
class Slots:
    """Without a dictionary."""

    seed: int = 1337
    rate: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Not to be changed."""

    seed: int = 1337


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    """Its state is a list of its values."""

    seed: int = 1337
    rate: float = 1e-4


class Settings(pydantic.BaseModel):
    """Of pydantic."""

    seed: int = 1337
    optim: dict[str, float] = {"lr": 1e-4}


class Open(pydantic.BaseModel, extra="allow"):
    """Of pydantic, with whatever it is given."""

    seed: int = 1


class OldModel:
    """Of pydantic 1."""

    def __getstate__(self) -> dict[str, Any]:
        return {"__dict__": vars(self), "__fields_set__": {"seed"}, "__private_attribute_values__": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["__dict__"])


class Around:
    """Has classes of its own."""

    class Kind(enum.Enum):
        """Within it."""

        LOW = 1

    class Part:
        """Within it."""

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Around.Part) and vars(self) == vars(other)

        __hash__ = None  # type: ignore[assignment]


class HasState:
    """With a state of its own making."""

    def __getstate__(self) -> Any:
        return (1, {"a": 2})

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HasState)

    __hash__ = None  # type: ignore[assignment]


class AttrsSlots:
    """As attrs makes a class with slots: its state is a dictionary of them."""

    __slots__ = ("rate", "seed")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "rate")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


for _config in (Inner, Outer, Slots, Frozen, FrozenSlots, HasState, AttrsSlots, Settings, Open, OldModel, Around):
    placed(_config, "trainer.config")
for _inner in (Around.Kind, Around.Part):
    _inner.__module__, _inner.__qualname__ = "trainer.config", f"Around.{_inner.__name__}"
CONTENTS["class within another"] = lambda: [Around.Kind.LOW, instance(Around.Part, a=1)]
for _config in (Outer, Slots, Frozen, FrozenSlots, HasState, Settings):
    CONTENTS[f"configuration: {_config.__name__}"] = _config


@content("configuration: attrs with slots")
def attrs_slots() -> Any:
    made = AttrsSlots()
    made.__setstate__({"seed": 1337, "rate": 1e-4})
    return made


AttributeDict = plain_class("lightning.fabric.utilities.data.AttributeDict", dict)
OldAttributeDict = plain_class("pytorch_lightning.utilities.parsing.AttributeDict", dict)
EasyDict = plain_class("easydict.EasyDict", dict)
CfgNode = plain_class("yacs.config.CfgNode", dict)
Munch = plain_class("munch.Munch", dict)
Addict = plain_class("addict.addict.Dict", dict)
ConfigDict = plain_class("ml_collections.config_dict.config_dict.ConfigDict")
Reference = plain_class("ml_collections.config_dict.config_dict.FieldReference")
WandbConfig = plain_class("wandb.sdk.wandb_config.Config")
MMConfig = plain_class("mmengine.config.config.ConfigDict", dict)
TrainingArguments = plain_class("transformers.training_args.TrainingArguments")
TrainerState = plain_class("transformers.trainer_callback.TrainerState")
BertConfig = plain_class("transformers.models.bert.configuration_bert.BertConfig")
HubStrategy = placed(enum.Enum("HubStrategy", {"END": "end"}, type=str), "transformers.trainer_utils")
LoraConfig = plain_class("peft.tuners.lora.config.LoraConfig")
TaskType = placed(enum.Enum("TaskType", {"CAUSAL_LM": "CAUSAL_LM"}, type=str), "peft.utils.peft_types")
Metadata = plain_class("omegaconf.base.ContainerMetadata")
NodeMetadata = plain_class("omegaconf.base.Metadata")
DictConfig = plain_class("omegaconf.dictconfig.DictConfig")
ListConfig = plain_class("omegaconf.listconfig.ListConfig")
AnyNode = plain_class("omegaconf.nodes.AnyNode")
ModelCheckpoint = plain_class("lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint")
CONTENTS |= {
    "Lightning: hyperparameters": lambda: AttributeDict(lr=1e-4, model=AttributeDict(n_layers=2)),
    "Lightning: older hyperparameters": lambda: OldAttributeDict(lr=1e-4),
    "EasyDict": lambda: tagged(EasyDict(lr=1e-4, optim=EasyDict(name="adamw")), lr=1e-4),
    "yacs": lambda: tagged(CfgNode(LR=1e-4), __immutable__=False, __deprecated_keys__=set()),
    "munch": lambda: Munch(lr=1e-4),
    "addict": lambda: Addict(lr=1e-4),
    "ml_collections": lambda: instance(ConfigDict, _fields={"lr": 1e-4}, _locked=True, _type_safe=True),
    "mmengine": lambda: MMConfig(optimizer=MMConfig(type="AdamW")),
    "transformers: arguments": lambda: instance(
        TrainingArguments, output_dir="/out", learning_rate=5e-5, hub_strategy=HubStrategy.END,
        fsdp_config={"min_num_params": 0}, _n_gpu=1, device=torch.device("cuda", 0),
    ),
    "transformers: state": lambda: instance(TrainerState, global_step=40_000, log_history=[{"loss": 0.1, "step": 10}]),
    "transformers: model": lambda: instance(BertConfig, hidden_size=768, torch_dtype=torch.bfloat16, id2label={0: "a"}),
    "peft": lambda: instance(LoraConfig, r=8, target_modules={"q", "v"}, task_type=TaskType.CAUSAL_LM),
    "Lightning: callbacks": lambda: {
        ModelCheckpoint: {"best_model_score": torch.tensor(0.98), "best_k_models": {"/a/x.ckpt": torch.tensor(0.98)}}
    },
    "Lightning: loops": lambda: {
        "fit_loop": {"epoch_progress": {"total": {"ready": 4}}, "epoch_loop.state_dict": {"_batches_that_stepped": 9}}
    },
    "OmegaConf": lambda: omega({"lr": 1e-4, "optim": {"betas": [0.9, 0.95], "name": None}}),
    "OmegaConf: a list": lambda: omega([1, "a", [True]]),
}  # fmt: skip


def tagged(value: Any, **attributes: Any) -> Any:
    """A dictionary with attributes."""
    value.__dict__.update(attributes)
    return value


def omega(value: Any, parent: Any = None, key: Any = None) -> Any:
    """A value in OmegaConf's nodes."""
    details: dict[str, Any] = {"ref_type": typing.Any, "object_type": dict, "optional": True, "key": key, "flags": {}}
    if not isinstance(value, dict | list):
        return instance(AnyNode, _metadata=instance(NodeMetadata, **details), _parent=parent, _val=value)
    details |= {"flags_root": False, "resolver_cache": collections.defaultdict(dict), "key_type": typing.Any}
    kind = DictConfig if isinstance(value, dict) else ListConfig
    made = instance(kind, _metadata=instance(Metadata, **details), _parent=parent, _flags_cache=None)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    nodes = {name: omega(item, made, name) for name, item in items}
    made.__dict__["_content"] = nodes if isinstance(value, dict) else list(nodes.values())
    return made


# --- tensors ----------------------------------------------------------------------------------------------------------

BASE = torch.arange(24.0).reshape(2, 3, 4)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.complex32,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)  # fmt: skip
for _dtype in DTYPES:
    CONTENTS[f"tensor: {_dtype}"] = functools.partial(lambda dtype: torch.ones(2, 3).to(dtype), _dtype)


class Tagged(torch.Tensor):
    """A subclass of tensors."""


placed(Tagged, "trainer.tensors")


@content("tensor: parameter with attributes")
def parameter_with_attributes() -> Any:
    parameter = nn.Parameter(torch.ones(2), requires_grad=False)
    parameter.layer = 3  # type: ignore[attr-defined]
    return parameter


CONTENTS |= {
    "tensor: scalar": lambda: torch.tensor(2.5),
    "tensor: empty": lambda: torch.zeros(0),
    "tensor: transposed": lambda: BASE.transpose(0, 2),
    "tensor: part": lambda: BASE[1:, ::2, 1:],
    "tensor: expanded": lambda: torch.tensor([3.0]).expand(4, 5),
    "tensor: channels last": lambda: torch.ones(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "tensor: several of one storage": lambda: [BASE, BASE[0], BASE.flatten()[3:9]],
    "tensor: parameter": lambda: nn.Parameter(BASE.clone()),
    "tensor: buffer": lambda: nn.Buffer(torch.ones(2)),
    "tensor: with gradient": lambda: torch.ones(2, requires_grad=True),
    "tensor: conjugated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "tensor: negated": lambda: torch.tensor([1 + 2j]).conj().imag,
    "tensor: subclass": lambda: torch.ones(2, 3).as_subclass(Tagged),
    "tensor: sparse": lambda: torch.eye(3).to_sparse(),
    "tensor: sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "tensor: sparse columns": lambda: torch.eye(3).to_sparse_csc(),
    "tensor: sparse blocks": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "tensor: meta": lambda: torch.empty(3, 4, device="meta", dtype=torch.bfloat16),
    "tensor: nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "tensor: jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 2), torch.ones(3, 2)], layout=torch.jagged),
    "tensor: quantized": lambda: torch.quantize_per_tensor(torch.arange(3.0), 0.1, 2, torch.quint8),
    "tensor: quantized by channel": lambda: torch.quantize_per_channel(
        torch.ones(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
    ),
    "tensor: uninitialized": lambda: nn.UninitializedParameter(),
    "tensor: list of bits": lambda: torch.tensor([True, False]),
    "torch: values": lambda: [torch.float16, torch.device("cuda", 3), torch.Size([2, 3]), torch.strided],
    "torch: version": lambda: torch.__version__,
    "torch: module": lambda: nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
    "torch: state with extra": lambda: nn.Linear(2, 2).state_dict() | {"fp8._extra_state": b"abc", "n": 3},
    "torch: BatchNorm": lambda: nn.BatchNorm1d(3).state_dict(),
    "torch: function": lambda: torch.nn.functional.gelu,
    "torch: initial weights": lambda: copy.deepcopy(nn.MultiheadAttention(4, 2)).state_dict(),
}
