"""Loading checkpoints: any file of a known form becomes a `GPT`, under torch's safe default.

    model, info = ckptman.load("Final_….pt")

`from ckptman import GPT, GPTConfig` comes through this module, and importing it marks `TrainConfig` as safe for
`torch.load(weights_only=True)` under every name that checkpoints have pickled it by. So a lab's own loading code, with
just its import line changed, reads files with a pickled configuration and still executes nothing from them.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ckptman.formats import CheckpointInfo, ExpectedWeights, Shape, read_checkpoint, show_path, verify_crcs
from ckptman.rules import Convention, TrainConfig, convention_file, naming, recipe
from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError
from ckptman.training.model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "load", "mark_safe", "pick_device"]

WTE, WPE, LM_HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"

PLAIN_VARIANTS: Mapping[str, tuple[Any, ...]] = {
    "norm_type": ("layernorm", "none"),
    "use_qk_norm": (False,),
    "use_rms_qk_norm": (False,),
    "use_gated_attention": (False,),
    "use_elementwise_attn_output_gate": (False,),
}
"""Configuration keys with which later trainers change the model, and the values by which it is still this GPT."""

_MOST_DIFFERENCES = 6
_BLOCK = re.compile(r"transformer\.h\.([0-9]{1,6})\..+")

T = TypeVar("T", int, bool)


def load(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", convention: Convention | None = None
) -> tuple[GPT, CheckpointInfo]:
    """Load a checkpoint: the model, ready to predict, and what its file says of itself.

    Every file that `ckptman` places can be loaded: form A or B, saved from a compiled model or not, the configuration
    a dictionary or a pickled `TrainConfig`. Nothing in the file is executed. Weights of another floating-point type
    are converted to float32.

    What decides the model's shape comes from the configuration inside the file. A key that it lacks is taken from the
    shapes of the weights, or, for what they do not show (the number of heads, and whether positions are used), from the
    file's name. A contradiction is refused, never settled.

    Args:
        path: The file.
        device: Where the model goes: `cpu`, `cuda`, `cuda:1` …, or `auto` (a GPU if there is one).
        convention: The rules to read the file by; the built-in ones by default.

    Returns:
        The model in evaluation mode, and the file's description, as `read_checkpoint` gives it.

    Raises:
        RefusedError: the file is not a safe and whole checkpoint (codes of `refusals.REFUSALS`); its weights or its
            configuration are of another architecture (`other-architecture`) or do not say which (`no-architecture`).
        UsageError: (`bad-device`) there is no such kind of device.
        MachineError: (`no-device`) the machine has no such device.
    """
    rules = convention or convention_file.built_in()
    target = pick_device(device)
    try:
        info = read_checkpoint(path, rules.checkpoint)
        verify_crcs(path)
        model = _build(info, _name_values(path, rules))
        weights = _read_weights(path, info, rules)
        _check_tied(weights)
    except RefusedError as error:
        raise _with_path(error, path) from error
    model.load_state_dict({LM_HEAD: weights[WTE], **weights})
    return model.to(target).eval(), info


def mark_safe(config_classes: Iterable[str]) -> None:
    """Let `torch.load(weights_only=True)` read `TrainConfig` under each of these full names, and plain paths in it."""
    safe: list[Any] = [(TrainConfig, name) for name in config_classes]
    for module in ("pathlib", "pathlib._local"):  # the latter since Python 3.13
        safe += [(pathlib.PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath")]
        safe += [(pathlib.PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    torch.serialization.add_safe_globals(safe)


def pick_device(name: str | torch.device) -> torch.device:
    """The device that `name` stands for: `auto` is the GPU if there is one, else the CPU.

    Raises:
        UsageError: (`bad-device`) for an unknown name, and for a device that holds no values, such as `meta`.
        MachineError: (`no-device`) where the machine does not have it.
    """
    recipe.check_device_name(str(name))
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MachineError(
            f"the device {name} cannot be used: {_first_line(error).split('. ')[0]}",
            code="no-device",
            fix="Use --device cpu, or a torch that is built for this device.",
        ) from error
    return device


# --- the architecture -------------------------------------------------------------------------------------------------


def _build(info: CheckpointInfo, in_name: Mapping[str, Any]) -> GPT:
    """A model of the checkpoint's shape, with weights still to be loaded, once it is known that they fit."""
    shapes = {tensor.name: tensor.shape for tensor in info.tensors}
    _refuse_other(_variants(info) + _wrong_outline(shapes, info.size))
    config = _model_config(info, shapes, in_name)
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights as they are made; these are not used
        model = GPT(config)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {LM_HEAD: shapes[WTE], **shapes}  # a tied head may be saved once only
    _refuse_other(ExpectedWeights(shapes=expected, layers=config.n_layers, complete=True).differences(found))
    return model


def _variants(info: CheckpointInfo) -> list[str]:
    """What the configuration says of the model that the built-in one does not have."""
    found = {}
    for key, value in ((info.config or {}) | (info.model_config or {})).items():
        plain = PLAIN_VARIANTS.get(key)
        if plain is not None and value is not None and value not in plain:
            found[key] = value
    for key, value in (info.model_config or {}).items():  # all of it is about the model: an unknown key may be anything
        if key not in GPTConfig.__dataclass_fields__ and key not in PLAIN_VARIANTS and value:
            found[key] = value
    return [f"its configuration says {key} = {value!r}" for key, value in sorted(found.items())]


def _wrong_outline(shapes: Mapping[str, Shape], size: int) -> list[str]:
    """Differences that show before a model is built; without any, its size is bounded by the file's."""
    differences = [
        f"{name} has shape ({', '.join(map(str, shapes[name]))}) instead of two dimensions"
        if name in shapes
        else f"{name} is missing"
        for name in (WTE, WPE)
        if len(shapes.get(name, ())) != 2 or 0 in shapes[name]
    ]
    if not differences and sum(map(math.prod, shapes.values())) > size:  # repeated rows of a small storage
        differences.append("its weights have more elements than the file has bytes")
    return differences


def _model_config(info: CheckpointInfo, shapes: Mapping[str, Shape], in_name: Mapping[str, Any]) -> GPTConfig:
    blocks = {int(match[1]) for name in shapes if (match := _BLOCK.fullmatch(name))}
    positions = shapes[WPE][0]
    said = _Said(info, in_name)
    config = {
        "vocab_size": said.checked("vocab_size", shapes[WTE][0]),
        "n_embd": said.checked("n_embd", shapes[WTE][1]),
        "n_layers": said.checked("n_layers", len(blocks)),
        "use_mlp": said.checked("use_mlp", any(".mlp." in name for name in shapes)),
        "use_layernorm": said.checked("use_layernorm", any(".ln_" in name for name in shapes)),
        "n_heads": said.needed("n_heads", int),
        "without_pos": said.needed("without_pos", bool),
        "block_size": said.maybe("block_size", int) or (positions - 1) // 2,
        "max_seq_len": positions,  # however long the lists were that the run was to be tested on
    }
    _refuse_other(said.differences)
    if said.missing:
        raise RefusedError(
            f"neither its configuration nor its name says {' and '.join(said.missing)}, which its weights do not show",
            code="no-architecture",
            fix="Give the file back the name that its training gave it, or save it again with its configuration.",
        )
    try:
        return GPTConfig(**config)  # type: ignore[arg-type]  # each value was checked above
    except UsageError as error:
        raise RefusedError(error.message, code="other-architecture", fix=_OTHER_FIX) from error


class _Said:
    """What a checkpoint says of its model in words, besides the shapes of its weights."""

    def __init__(self, info: CheckpointInfo, in_name: Mapping[str, Any]) -> None:
        self._inside = (info.model_config or {}, _as_model_config(info.config or {}))
        self._in_name = _as_model_config(in_name)
        self.differences: list[str] = []
        self.missing: list[str] = []

    def checked(self, key: str, shown: T) -> T:
        """What the weights show, which the configuration must not contradict."""
        said = self.maybe(key, type(shown), use_name=False)
        if said is not None and said != shown:
            self.differences.append(f"its configuration says {key} = {said}, its weights show {shown}")
        return shown

    def needed(self, key: str, kind: type[T]) -> T:
        """What only words can say."""
        said = self.maybe(key, kind)
        if said is None:
            self.missing.append(key)
        return said if said is not None else kind()

    def maybe(self, key: str, kind: type[T], *, use_name: bool = True) -> T | None:
        """The value of `key`: inside the file, else in its name."""
        values = [source[key] for source in self._inside if source.get(key) is not None]
        if not values and use_name and self._in_name.get(key) is not None:
            values = [self._in_name[key]]
        wrong = [value for value in values if type(value) is not kind]
        if wrong:
            self.differences.append(f"its configuration says {key} = {wrong[0]!r}")
            return None
        if len(set(values)) > 1:
            self.differences.append(f"its two configurations say {key} = {' and '.join(map(str, values))}")
        return values[0] if values else None


def _as_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training configuration, with what `GPTConfig` calls otherwise."""
    said = dict(config)
    if type(config.get("vocab_n")) is int:
        said["vocab_size"] = config["vocab_n"] + 1  # the separator
    if "train_max_k" in config:
        said["block_size"] = config["train_max_k"]
    return said


def _name_values(path: str | os.PathLike[str], rules: Convention) -> Mapping[str, Any]:
    try:
        return naming.naming_of(rules).parse(pathlib.Path(path).name).values
    except RefusedError:
        return {}  # a file may be called anything


# --- the weights ------------------------------------------------------------------------------------------------------


def _read_weights(path: str | os.PathLike[str], info: CheckpointInfo, rules: Convention) -> dict[str, Tensor]:
    """The weights by name, without the prefix of a compiled model, on the CPU."""
    mark_safe(rules.checkpoint.config_classes)
    form = next(form for form in rules.checkpoint.forms if form.name == info.form)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle protocol, before it is read or refused
            saved = torch.load(path, map_location="cpu", weights_only=True)
        weights = saved[form.weights]
    except Exception as error:  # torch's reader raises whatever a file makes it stumble over
        # It was sound a moment ago: either it is being replaced, or torch's safe reader knows less than ours.
        raise RefusedError(
            f"torch cannot load it: {_first_line(error)}",
            code="not-loadable",
            fix="Save it again with torch.save and its default options.",
        ) from error
    return {name.removeprefix(rules.checkpoint.compiled_prefix): weight for name, weight in weights.items()}


def _check_tied(weights: Mapping[str, Tensor]) -> None:
    head, embedding = weights.get(LM_HEAD), weights[WTE]
    if head is not None and not torch.equal(head.float().nan_to_num(), embedding.float().nan_to_num()):
        _refuse_other([f"{LM_HEAD} is not tied: its values are others than those of {WTE}"])


# --- refusals ---------------------------------------------------------------------------------------------------------

_OTHER_FIX = "Load it with the program that trained it. torch.load(path, weights_only=True) gives the bare weights."


def _refuse_other(differences: list[str]) -> None:
    if differences:
        shown = differences[:_MOST_DIFFERENCES]
        more = f"; and {len(differences) - len(shown)} more" if len(differences) > len(shown) else ""
        raise RefusedError(
            f"it is not the built-in model: {'; '.join(shown)}{more}", code="other-architecture", fix=_OTHER_FIX
        )


def _with_path(error: CkptmanError, path: str | os.PathLike[str]) -> RefusedError:
    shown = show_path(path)
    message = error.message if error.message.startswith(shown) else f"{shown}: {error.message}"
    return RefusedError(message, code=error.code, fix=error.fix)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


mark_safe(convention_file.built_in().checkpoint.config_classes)


def load_weights(
    path: str | os.PathLike[str], *, convention: Convention | None = None
) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """The weights of any checkpoint, by name without the prefix of a compiled model, and the file's description.

    Raises:
        RefusedError: the file is not a safe and whole checkpoint (codes of `refusals.REFUSALS`).
    """
    rules = convention or convention_file.built_in()
    try:
        info = read_checkpoint(path, rules.checkpoint)
        verify_crcs(path)
        return _read_weights(path, info, rules), info
    except RefusedError as error:
        raise _with_path(error, path) from error
