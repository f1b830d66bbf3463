"""Whether a checkpoint's model is the built-in one, in which variant, and which shape it has. Read without torch.

Names and shapes of the weights show most of it. The configuration inside the file says the rest, and must not
contradict them; what it lacks, and the weights do not show, may stand in the file's name.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from ckptman.formats.checkpoint import CheckpointInfo, TensorInfo
from ckptman.formats.pickled import OtherTensor
from ckptman.formats.weight_shapes import ExpectedWeights, Shape, is_mask, is_of_wrapper, model_shapes
from ckptman.rules import Convention, comparing, convention_file, naming, recipe
from ckptman.text import RefusedError

WTE: Final = "transformer.wte.weight"
WPE: Final = "transformer.wpe.weight"
LM_HEAD: Final = "lm_head.weight"

OTHER: Final = "other-architecture"
_OTHER_FIX: Final = "Load it with the program that trained it. The bare weights: ckptman.load_weights(path)."

_GATE = "transformer.h.0.attn.c_gate.weight"
_BLOCK = re.compile(r"transformer\.h\.([0-9]{1,6})\..+")
_MOST_DIFFERENCES = 6
_MOST_TEXT = 80

T = TypeVar("T", int, bool, str)


def model_config(info: CheckpointInfo, path: str | os.PathLike[str], rules: Convention) -> dict[str, Any]:
    """The configuration of a checkpoint's model, by the names of `GPTConfig`, if it is the built-in model.

    Args:
        info: What the file says of itself.
        path: The file; its name may say what it does not say inside.
        rules: How names are read, and which keys are harmless.

    Raises:
        RefusedError: (`other-architecture`) it is another model, or may be one: its configuration has a key that nobody
            knows; (`no-architecture`) nothing says which it is.
    """
    tensors = of_model(info.tensors)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    masks = masks_of(info.tensors)
    refuse_other(_without_values([*tensors, *masks]))
    refuse_other(_wrong_outline(shapes, info.size - sum(math.prod(mask.shape) for mask in masks)))
    said = _Said(info, _name_values(path, rules))
    heads = said.needed("n_heads", int)
    positions = shapes[WPE][0]
    config = {
        "vocab_size": said.checked("vocab_size", shapes[WTE][0]),
        "n_embd": said.checked("n_embd", shapes[WTE][1]),
        "n_layers": said.checked("n_layers", len({match[1] for name in shapes if (match := _BLOCK.fullmatch(name))})),
        "use_mlp": said.checked("use_mlp", any(".mlp." in name for name in shapes)),
        "n_heads": heads,
        "without_pos": said.needed("without_pos", bool),
        "block_size": said.maybe("block_size", int) or (positions - 1) // 2,
        "max_seq_len": positions,  # however long the lists were that the run was to be tested on
        "use_xavier_init": bool(said.maybe("use_xavier_init", bool)),
        **_norms(said, shapes),
        **_gates(said, shapes, heads),
    }
    refuse_other(said.differences)
    if said.missing:
        raise RefusedError(
            f"neither its configuration nor its name says {' and '.join(said.missing)}, which its weights do not show",
            code="no-architecture",
            fix="Give the file back the name that its training gave it, or save it again with its configuration.",
        )
    if config["n_layers"] < 1 or heads < 1 or config["n_embd"] % heads:
        refuse_other([f"n_embd = {config['n_embd']} in {config['n_layers']} blocks of n_heads = {heads}"])
    expected = ExpectedWeights(shapes=model_shapes(config), layers=config["n_layers"], complete=True)
    refuse_other(expected.differences(shapes))
    _check_keys(info, rules)
    return config


def of_model(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Those that are a model's own."""
    return [
        tensor
        for tensor in tensors
        if not is_of_wrapper(tensor.name, tensor.shape) and not is_mask(tensor.name, tensor.shape)
    ]


def masks_of(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Those that hide what comes later from attention, which the built-in model does without them."""
    return [tensor for tensor in tensors if is_mask(tensor.name, tensor.shape)]


def refuse_other(differences: list[str]) -> None:
    """Refuse a checkpoint for what makes its model another one, if there is anything.

    Raises:
        RefusedError: (`other-architecture`).
    """
    if differences:
        shown = differences[:_MOST_DIFFERENCES]
        more = f"; and {len(differences) - len(shown)} more" if len(differences) > len(shown) else ""
        raise RefusedError(f"it is not the built-in model: {'; '.join(shown)}{more}", code=OTHER, fix=_OTHER_FIX)


def _check_keys(info: CheckpointInfo, rules: Convention) -> None:
    """Refuse keys that could make it another model. Where there is a configuration of the model's own, it says all."""
    config = info.model_config or info.config or {}
    unknown = recipe.unknown_keys(config, rules.model, of_model=bool(info.model_config))
    if unknown:
        said = [f"{key} = {_brief(comparing.at(config, key))}" for key in unknown[:_MOST_DIFFERENCES]]
        more = f" and {len(unknown) - len(said)} more" if len(unknown) > len(said) else ""
        raise RefusedError(
            f"it may be another model than the built-in one: its configuration says {', '.join(said)}{more}, and "
            "nobody knows what that does",
            code=OTHER,
            fix="If it changes nothing that the model computes, declare it in "
            f"{convention_file.FILE_NAME}: model: {{without_effect: [{', '.join(unknown)}]}}. "
            "The bare weights: ckptman.load_weights(path).",
        )


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def _without_values(tensors: Iterable[TensorInfo]) -> list[str]:
    """Weights that hold no real numbers, as their headers say."""
    found = []
    for tensor in tensors:
        kind = tensor.view.kind if isinstance(tensor.view, OtherTensor) else "chunks"
        if kind not in _WITH_VALUES and not kind.startswith("sparse_"):
            found.append(f"{tensor.name} is a tensor of the kind {kind}")
        elif tensor.dtype.startswith(_NO_FLOATS) and not is_mask(tensor.name, tensor.shape):
            found.append(f"{tensor.name} is of the type torch.{tensor.dtype}")
    return found


_WITH_VALUES: Final = ("array", "chunks", "quantized")
_NO_FLOATS: Final = ("int", "uint", "bool", "complex")


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


# --- variants ---------------------------------------------------------------------------------------------------------


def _norms(said: _Said, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Which norms the weights show, and the configuration must not contradict."""
    shown = _kind_of_norm("transformer.ln_f", shapes)
    of_queries = _kind_of_norm("transformer.h.0.attn.q_norm", shapes)
    norms: dict[str, Any] = {"use_qk_norm": said.checked("use_qk_norm", of_queries != recipe.NO_NORM)}
    if of_queries == recipe.NO_NORM:
        norms["use_rms_qk_norm"] = bool(said.maybe("use_rms_qk_norm", bool))
    else:
        norms["use_rms_qk_norm"] = said.checked("use_rms_qk_norm", of_queries == recipe.RMS_NORM)
    norm_type = said.maybe("norm_type", str)
    if norm_type is not None:
        norms |= {"norm_type": said.checked("norm_type", shown), recipe.NORM_SWITCH: shown != recipe.NO_NORM}
    elif shown == recipe.RMS_NORM:
        norms |= {"norm_type": shown}
    else:
        norms |= {recipe.NORM_SWITCH: said.checked(recipe.NORM_SWITCH, shown == recipe.LAYER_NORM)}
    return norms


def _kind_of_norm(name: str, shapes: Mapping[str, Shape]) -> str:
    """One of `NORM_TYPES`: an RMS norm has no bias."""
    if f"{name}.weight" not in shapes:
        return recipe.NO_NORM
    return recipe.LAYER_NORM if f"{name}.bias" in shapes else recipe.RMS_NORM


def _gates(said: _Said, shapes: Mapping[str, Shape], heads: int) -> dict[str, bool]:
    """Which gate it has: as the configuration says, else as many as the weights show."""
    head, feature = (said.maybe(key, bool) for key in ("use_gated_attention", "use_elementwise_attn_output_gate"))
    if head is None and feature is None and _GATE in shapes:
        head = shapes[_GATE][:1] == (heads,)
        feature = not head
    return {"use_gated_attention": bool(head), "use_elementwise_attn_output_gate": bool(feature)}


# --- what is said -----------------------------------------------------------------------------------------------------


class _Said:
    """What a checkpoint says of its model in words, besides the shapes of its weights."""

    def __init__(self, info: CheckpointInfo, in_name: Mapping[str, Any]) -> None:
        self._inside = (info.model_config or {}, recipe.as_model_config(info.config or {}))
        self._in_name = recipe.as_model_config(in_name)
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
        return said if said is not None else kind(1)

    def maybe(self, key: str, kind: type[T], *, use_name: bool = True) -> T | None:
        """The value of `key`: inside the file, else in its name."""
        found = [source[key] for source in self._inside if source.get(key) is not None]
        if not found and use_name and self._in_name.get(key) is not None:
            found = [self._in_name[key]]
        values: list[T] = []
        for value in found:
            if not _is_kind(value, kind):
                self.differences.append(f"its configuration says {key} = {_brief(value)}")
                return None
            values.append(kind(value))
        if len(set(values)) > 1:
            self.differences.append(f"its two configurations say {key} = {' and '.join(map(str, values))}")
        return values[0] if values else None


def _is_kind(value: object, kind: type) -> bool:
    """Whether a value means one of this type: a flag may be written as 0 or 1, a whole number as 8.0."""
    if kind is bool:
        return value in (0, 1) and isinstance(value, int | float)
    if kind is int:
        return type(value) is int or (type(value) is float and value.is_integer())
    return type(value) is kind


def _name_values(path: str | os.PathLike[str], rules: Convention) -> Mapping[str, Any]:
    try:
        return naming.naming_of(rules).parse(pathlib.Path(path).name).values
    except RefusedError:
        return {}  # a file may be called anything
