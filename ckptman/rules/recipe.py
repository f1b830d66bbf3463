"""`TrainConfig`: everything that decides what a training run computes.

The field names are those of the published trainer, so that a configuration read from one of its checkpoints and one
written by ckptman are the same dictionary.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ckptman.rules import comparing
from ckptman.rules.terms import Convention, ModelRules
from ckptman.text import UsageError

LENGTH_MODES = ("mix", "curriculum")
NORM_TYPES = NO_NORM, LAYER_NORM, RMS_NORM = ("none", "layernorm", "rmsnorm")
WORDS = {"length_mode": LENGTH_MODES, "norm_type": NORM_TYPES}
"""The words that fields may be."""
NORM_SWITCH = "use_layernorm"
"""What says in earlier configurations whether there are norms; `norm_type` says in later ones of which kind."""

SEED_END = 10**18
"""Seeds lie below it: a run folder's name holds 18 digits of one, and PyTorch takes 64 bits."""


_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:(0|[1-9][0-9]?))?")


def check_device_name(name: str) -> None:
    """See to it that a device's name is one, whether or not the machine has the device.

    Raises:
        UsageError: (`bad-device`) it is none.
    """
    if _DEVICE.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a device", code="bad-device", fix="Use auto, cpu, cuda, or cuda:1 for the second GPU."
        )


@dataclass
class TrainConfig:
    """Configuration of one run: the data, the model, the recipe, and where its output goes.

    The defaults are the published recipe: 40,000 iterations of 4,096 samples, AdamW, learning rate 1e-4 after 400
    warm-up iterations, cosine decay to 1e-6.

    Raises:
        UsageError: at construction, where the values do not fit together.
    """

    vocab_n: int = 128
    """Numbers are drawn from 0..vocab_n - 1; token vocab_n is the separator."""
    n_embd: int = 128
    n_heads: int = 1
    train_min_k: int = 2
    """Shortest trained list; equal to `train_max_k` in the fixed regime."""
    train_max_k: int = 16
    test_min_k: int = 17
    test_max_k: int = 32
    allow_duplicates: bool = False
    n_layers: int = 1
    without_pos: bool = True
    use_mlp: bool = False
    use_layernorm: bool = True
    length_mode: str = "mix"
    """`mix`: K uniform in [train_min_k, train_max_k]; `curriculum`: that range grows over `curriculum_span_iters`."""
    curriculum_warmup_iters: int = 0
    curriculum_span_iters: int = 20_000
    warmup_iters: int = 400
    max_iters: int = 40_000
    learning_rate: float = 1e-4
    min_lr: float = 1e-6
    weight_decay: float = 0.0
    micro_batch_size: int = 4_096
    """Samples of one draw of K in the published trainer, whose gradients add up to `effective_batch_size`.

    ckptman draws one K an iteration and chooses the pieces itself, so here it only has to divide the batch."""
    effective_batch_size: int = 4_096
    log_interval: int = 250
    eval_interval: int = 250
    """Iterations between evaluations; 0 turns them off."""
    ckpt_interval: int = 20_000
    """A `Checkpoint` is saved after the iteration with this index, so it holds `ckpt_interval + 1` iterations."""
    save_dir: str = "saved_models"
    eval_samples_per_length: int = 100
    eval_batch_size: int = 100
    seed: int = 1337
    use_compile: bool = False
    wandb_project: str = "sortgpt"
    wandb_entity: str | None = None
    wandb_group: str | None = None
    wandb_mode: str | None = None

    # What later trainers added. Earlier ones lack the keys, so a configuration that leaves them off is without them.
    norm_type: str | None = None
    """`none`, `layernorm` or `rmsnorm`; where it is not given, `use_layernorm` tells between the first two."""
    use_qk_norm: bool = False
    """Queries and keys are normalized, for each head: by LayerNorm, or by RMS norm with `use_rms_qk_norm`."""
    use_rms_qk_norm: bool = False
    use_gated_attention: bool = False
    """Attention's output is gated by a sigmoid of the block's normalized input, one number for each head."""
    use_elementwise_attn_output_gate: bool = False
    """The same with one number for each feature; it takes the place of the other gate."""
    use_xavier_init: bool = False
    """Weights are drawn Xavier-uniform instead of normal; it has no effect on the forward pass."""
    train_k_choices: list[int] | None = None
    """The only lengths to train on, from `train_min_k` to `train_max_k`, with `mix`; None for all of them."""

    amp_dtype: str | None = None
    """The type in which matrix products are computed, by torch's name for it; None where none was chosen, as on a CPU:
    that of the weights, float32. The published trainer chose bfloat16 on CUDA, and so does ckptman, and says so."""

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise _bad(f"{name} must be a whole number of at least {lowest}, not {value!r}")
        if self.seed >= SEED_END:
            raise _bad(f"seed must be below {SEED_END:,}, not {self.seed}")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise _bad(f"{name} must be true or false, not {value!r}")
        for name in _RATES:
            if not _is_finite(value := getattr(self, name)):
                raise _bad(f"{name} must be a finite number, not {value!r}")
        if self.length_mode not in LENGTH_MODES:
            raise _bad(f"length_mode must be one of {', '.join(LENGTH_MODES)}, not {self.length_mode!r}")
        for low, high in (("train_min_k", "train_max_k"), ("test_min_k", "test_max_k")):
            if getattr(self, low) > getattr(self, high):
                raise _bad(f"{low} = {getattr(self, low)} is above {high} = {getattr(self, high)}")
        self._check_variant()
        longest = max(self.train_max_k, self.test_max_k)
        if not self.allow_duplicates and longest > self.vocab_n:
            raise _bad(f"lists of {longest} distinct numbers cannot be drawn from {self.vocab_n} numbers")
        if self.n_embd % self.n_heads:
            raise _bad(f"n_embd = {self.n_embd} is not a multiple of n_heads = {self.n_heads}")
        if self.effective_batch_size % self.micro_batch_size:
            raise _bad(
                f"effective_batch_size = {self.effective_batch_size} is not a multiple of "
                f"micro_batch_size = {self.micro_batch_size}"
            )
        if not 0 <= self.min_lr <= self.learning_rate:
            raise _bad(f"min_lr = {self.min_lr} must lie between 0 and learning_rate = {self.learning_rate}")
        if self.weight_decay < 0:
            raise _bad(f"weight_decay must not be negative, not {self.weight_decay}")

    def _check_variant(self) -> None:
        if self.norm_type is not None and self.norm_type not in NORM_TYPES:
            raise _bad(f"norm_type must be one of {', '.join(NORM_TYPES)}, not {self.norm_type!r}")
        if self.norm_type == ("none" if self.use_layernorm else "layernorm"):
            raise _bad(f"norm_type = {self.norm_type!r} contradicts use_layernorm = {self.use_layernorm}")
        choices = self.train_k_choices
        if choices is None:
            return
        if not isinstance(choices, list | tuple) or any(type(k) is not int for k in choices):
            raise _bad(f"train_k_choices must be a list of whole numbers, not {choices!r}")
        self.train_k_choices = choices = sorted(set(choices))
        if not choices or (choices[0], choices[-1]) != (self.train_min_k, self.train_max_k):
            raise _bad(
                f"train_k_choices must reach from train_min_k = {self.train_min_k} to train_max_k = "
                f"{self.train_max_k}, not {choices}"
            )
        if self.length_mode != "mix":
            raise _bad(f"train_k_choices goes with length_mode = 'mix' only, not {self.length_mode!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in LATER_FIELDS or value}

    def __setstate__(self, state: Any) -> None:
        """Take the fields from a pickle: a dictionary, or, of a class with slots, a pair with one.

        What the published trainer stored and is derived here is left out.
        """
        self.__dict__ |= {key: getattr(type(self), key) for key in LATER_FIELDS}
        plain, slots = state if isinstance(state, tuple) else (state, None)
        for key, value in {**(plain or {}), **(slots or {})}.items():
            if not isinstance(getattr(type(self), key, None), property):
                self.__dict__[key] = value

    @property
    def total_vocab_size(self) -> int:
        """Number of tokens: the numbers and the separator."""
        return self.vocab_n + 1

    @property
    def sep_id(self) -> int:
        """The separator's token id."""
        return self.vocab_n

    @property
    def max_seq_len(self) -> int:
        """Tokens in the longest tested sequence: K numbers, the separator, K sorted numbers."""
        return 2 * self.test_max_k + 1

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches in one iteration."""
        return self.effective_batch_size // self.micro_batch_size

    @property
    def trained_span(self) -> tuple[int, int]:
        """The shortest and the longest K that is trained."""
        return self.train_min_k, self.train_max_k

    @property
    def trained_lengths(self) -> list[int]:
        """Every K that is trained, in order."""
        return self.train_k_choices or list(range(self.train_min_k, self.train_max_k + 1))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, as published checkpoints and W&B hold them.

        Those of `LATER_FIELDS` are there only where they are on, so that a run has the keys that it always had.
        """
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key not in LATER_FIELDS or value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, strict: bool = False) -> TrainConfig:
        """Build a configuration from a checkpoint's or a W&B run's dictionary.

        Args:
            values: Field values. Derived keys of the published trainer (`sep_id`, `device` …) are not fields.
            strict: Refuse keys that are not fields instead of leaving them out, a precision that cannot be trained, and
                what is no text where one belongs.

        Raises:
            UsageError: for an unknown key when `strict`, and for values that do not fit together.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if strict and (unknown := sorted(set(values) - known)):
            near = get_close_matches(unknown[0], known, n=1)
            raise _bad(f"unknown configuration key {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if strict and values.get("amp_dtype") not in PRECISIONS.values():
            raise _bad(
                f"amp_dtype must be one of {', '.join(filter(None, PRECISIONS.values()))}, not {values['amp_dtype']!r}"
            )
        for field in dataclasses.fields(cls) if strict else ():
            value = values.get(field.name, field.default)
            if field.type in ("str", "str | None") and not isinstance(value, str | None):
                raise _bad(f"{field.name} must be a text, not {value!r}")
        return cls(**{key: value for key, value in values.items() if key in known})


LATER_FIELDS = ("norm_type", "use_qk_norm", "use_rms_qk_norm", "use_gated_attention",
                "use_elementwise_attn_output_gate", "use_xavier_init", "train_k_choices", "amp_dtype")  # fmt: skip
"""What later trainers added to the configuration, and what not every run says."""

PRECISIONS: Mapping[str, str | None] = {"auto": None, "fp32": "torch.float32", "bf16": "torch.bfloat16"}
"""Values of `amp_dtype` that can be trained, by the word for each; `auto` leaves it to the device."""

DERIVED_KEYS = ("total_vocab_size", "sep_id", "max_seq_len", "grad_accum_steps", "device")
"""What the published trainer writes into a configuration beside its fields."""

MODEL_KEYS = ("block_size", "vocab_size")
"""What a model's configuration calls otherwise than a run's."""


def as_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training configuration, with what `GPTConfig` calls otherwise."""
    said = dict(config)
    if type(config.get("vocab_n")) is int:
        said["vocab_size"] = config["vocab_n"] + 1  # the separator
    if "train_max_k" in config:
        said["block_size"] = config["train_max_k"]
    return said


MODEL_CODE = """\
    block_size=cfg.train_max_k,
    vocab_size=cfg.vocab_n + 1,  # +1 for separator
    n_layers=cfg.n_layers,
    n_heads=cfg.n_heads,
    n_embd=cfg.n_embd,
    without_pos=cfg.without_pos,
    use_mlp=cfg.use_mlp,
    use_layernorm=cfg.use_layernorm,
    max_seq_len=2 * cfg.test_max_k + 1,"""
"""The same in Python, for people: what a `GPTConfig` is given of a configuration `cfg`."""


KNOWN_KEYS = frozenset({field.name for field in dataclasses.fields(TrainConfig)}.union(DERIVED_KEYS, MODEL_KEYS))
"""Configuration keys whose effect on the forward pass, if they have one, is known."""

_LOWEST = {
    "vocab_n": 2, "n_embd": 1, "n_heads": 1, "train_min_k": 1, "train_max_k": 1, "test_min_k": 1, "test_max_k": 1,
    "n_layers": 1, "curriculum_warmup_iters": 0, "curriculum_span_iters": 0, "warmup_iters": 0, "max_iters": 1,
    "micro_batch_size": 1, "effective_batch_size": 1, "log_interval": 1, "eval_interval": 0, "ckpt_interval": 1,
    "eval_samples_per_length": 1, "eval_batch_size": 1, "seed": 0,
}  # fmt: skip

_FLAGS = (
    "allow_duplicates", "without_pos", "use_mlp", "use_layernorm", "use_compile", "use_qk_norm", "use_rms_qk_norm",
    "use_gated_attention", "use_elementwise_attn_output_gate", "use_xavier_init",
)  # fmt: skip
_RATES = ("learning_rate", "min_lr", "weight_decay")


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold: neither true or false, nor infinite, nor no number."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= sys.float_info.max


# Checkpoints pickle it by its public name, which stays when this module moves.
TrainConfig.__module__ = "ckptman"


def _bad(message: str) -> UsageError:
    return UsageError(message, code="bad-config")


def end_of_training(config: Mapping[str, Any], convention: Convention) -> int | None:
    """The iterations that a run has in all, by its own recipe; None where that does not say."""
    ends = (prefix.expected_step(config) for prefix in convention.prefixes if prefix.final)
    return max((end for end in ends if end is not None), default=None)


def saved_by(config: Mapping[str, Any], convention: Convention) -> dict[str, range | None]:
    """The checkpoints that a run saves: for each kind, after how many iterations.

    A short run saves none on its way, so that range is empty; None where the recipe does not say.
    """
    end = end_of_training(config, convention)
    saved: dict[str, range | None] = {}
    for prefix in convention.prefixes:
        first = prefix.expected_step(config)
        interval = 0 if first is None else first - prefix.step_plus  # one on the way is saved at each multiple of it
        if first is None or (end is None and not prefix.final):
            saved[prefix.name] = None
        elif prefix.final:
            saved[prefix.name] = range(first, first + 1)
        else:
            saved[prefix.name] = range(first, (end or 0) + 1, interval) if interval > 0 else range(0)
    return saved


def unknown_keys(config: Mapping[str, Any], rules: ModelRules, *, of_model: bool = False) -> list[str]:
    """The keys with which a configuration could be that of another model, those of sections as `model.depth`; those
    that are off are left out.

    Args:
        config: A training configuration.
        rules: Which keys have no effect on a model, beside the known ones.
        of_model: The configuration is that of a model alone.
    """
    harmless = rules.without_effect if of_model else (*rules.training, *rules.without_effect)
    return list(_unknown(config, harmless, config, "", _SECTION_LEVELS))


def _unknown(
    section: Mapping[str, Any], harmless: tuple[str, ...], config: Mapping[str, Any], within: str, levels: int
) -> Iterator[str]:
    for key, value in section.items():
        name = f"{within}{key}"
        if _is_known(key, value, config, within) or not _is_on(value):
            continue
        if any(fnmatchcase(each, pattern) for pattern in harmless for each in {key, name}):
            continue
        if levels and isinstance(value, Mapping):
            yield from _unknown(value, harmless, config, f"{name}.", levels - 1)
        else:
            yield name


_SECTION_LEVELS = 4


def _is_known(key: str, value: Any, config: Mapping[str, Any], within: str) -> bool:
    """Whether the effect of a key is known; in a section, that of one which the configuration has in another too."""
    if key in DERIVED_KEYS or (key in KNOWN_KEYS and not within):
        return True
    return key in KNOWN_KEYS and key in config and comparing.same_value(config[key], value)


def _is_on(value: Any) -> bool:
    """Whether there is anything in a value but None, false, zero and empty text."""
    if isinstance(value, Mapping):
        return any(map(_is_on, value.values()))
    return any(map(_is_on, value)) if isinstance(value, list | tuple) else bool(value)


class Variant(NamedTuple):
    """Which of the lab's models it is: what its layers are made of, beside the MLP."""

    norm: str
    """Before each layer and the head: one of `NORM_TYPES`."""
    qk_norm: str
    """Of queries and keys, for each head: one of `NORM_TYPES`."""
    gate: str
    """Of attention's output: `none`, one a `head`, or one a `feature`."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Variant:
        """The variant that a model's or a run's configuration says; a key that it lacks is off, but for LayerNorm."""
        norm = config.get("norm_type") or ("none" if config.get("use_layernorm") is False else "layernorm")
        rms = "rmsnorm" if config.get("use_rms_qk_norm") else "layernorm"
        gate = "head" if config.get("use_gated_attention") else "none"
        return cls(
            norm=norm,
            qk_norm=rms if config.get("use_qk_norm") else "none",
            gate="feature" if config.get("use_elementwise_attn_output_gate") else gate,
        )

    def gates(self, heads: int, width: int) -> int:
        """Gates at a position."""
        return {"none": 0, "head": heads, "feature": width}[self.gate]


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Learning rate of an iteration: linear warm-up, then a cosine from `learning_rate` to `min_lr`.

    Warm-up goes by (i + 1) / (warmup_iters + 1), as the published trainer does.

    Args:
        config: Gives `learning_rate`, `min_lr`, `warmup_iters` and `max_iters`.
        iteration: Index of the iteration, from 0.
    """
    if iteration < config.warmup_iters:
        return config.learning_rate * (iteration + 1) / (config.warmup_iters + 1)
    length = max(1, config.max_iters - config.warmup_iters)
    progress = min(1.0, (iteration - config.warmup_iters) / length)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)
