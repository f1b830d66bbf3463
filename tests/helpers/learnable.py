"""Outputs of experiments that no convention describes: names by a scheme, configurations inside, beside or nowhere."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Config = dict[str, Any]
Named = Callable[[Config, str, int], str]


@dataclass(frozen=True)
class Experiment:
    """A sweep: what is varied, how files are called, and where they lie."""

    name: Named
    """Of a configuration, a kind and a step."""
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any]
    steps: Mapping[str, Sequence[int]]
    """By kind of checkpoint."""
    folder: Callable[[Config], str] = lambda config: "."
    end: str = "max_iters"
    beside: str = "{stem}.summary.json"
    """Where the configuration lies that is beside a file: relative to its folder."""
    sections: Mapping[str, str] = field(default_factory=dict)
    """The sections of the configuration that keys stand in; the others stand in none."""

    in_part: bool = False
    """Only half of the runs, spread over all values."""

    def written(self, config: Config) -> Config:
        """A configuration as it is written."""
        made: Config = {}
        for key, value in config.items():
            (made.setdefault(self.sections[key], {}) if key in self.sections else made)[key] = value
        return made

    def configs(self) -> Iterator[Config]:
        """The configuration of each run."""
        for number, values in enumerate(itertools.product(*self.axes.values())):
            if self.in_part and number * 7 % 4 >= 2:
                continue
            last = max(step for steps in self.steps.values() for step in steps)
            yield {**self.fixed, **dict(zip(self.axes, values, strict=True)), self.end: last}

    def files(self) -> Iterator[tuple[str, Config, str, int]]:
        """Each file: its path, its run's configuration, its kind and its step; the first of those of one name."""
        seen: set[str] = set()
        for config in self.configs():
            for kind, steps in self.steps.items():
                for step in steps:
                    path = f"{self.folder(config)}/{self.name(config, kind, step)}"
                    if path not in seen:
                        seen.add(path)
                        yield path, config, kind, step


def p(value: float) -> str:
    """A number as `0p01`."""
    return f"{float(value):.10f}".rstrip("0").rstrip(".").replace(".", "p") if value % 1 else f"{int(value)}p0"


_SHAPE: Config = {"n_embd": 128, "n_heads": 1, "without_pos": True, "warmup": 400, "micro_batch": 4096, "dtype": "bf16"}


def _lengths(config: Config) -> str:
    return f"trainK{config['train_min_k']}to{config['train_max_k']}_testK{config['test_min_k']}to{config['test_max_k']}"


def _standard(c: Config, kind: str, step: int) -> str:
    return (f"{kind}_N{c['vocab_n']}_d{c['n_embd']}_H{c['n_heads']}_L{c['n_layers']}_npos{c['without_pos']:d}"
            f"_mlp{c['use_mlp']:d}_ln{c['use_layernorm']:d}_len{c['length_mode']}_{_lengths(c)}"
            f"_nodup{not c['allow_duplicates']:d}_iters{step}.pt")  # fmt: skip


def _later(c: Config, kind: str, step: int) -> str:
    norm = (f"_norm{c['norm_type']}_qkn{c['use_qk_norm']:d}_qkrms{c['use_rms_qk_norm']:d}_gate{c['gated']:d}_gateelem0"
            if c["norm_type"] else "")  # fmt: skip
    choices = f"_trainChoices{'-'.join(map(str, c['choices']))}" if c["choices"] else ""
    plain = _standard(c, kind, step)
    return plain.replace("_len", f"{norm}_len", 1).replace("_trainK", f"{choices}_trainK")


_LENGTHS: Config = {"vocab_n": 128, "train_min_k": 2, "test_min_k": 17, "test_max_k": 32, "allow_duplicates": False}
_LAB: Mapping[str, Sequence[Any]] = {
    "n_layers": [2, 1],
    "use_mlp": [True, False],
    "length_mode": ["mix", "curriculum"],
    "train_max_k": [4, 8, 16],
    "seed": [1337, 2337],
}

EXPERIMENTS: Mapping[str, Experiment] = {
    "standard": Experiment(
        _standard, {**_LAB, "use_layernorm": [True, False]}, {**_SHAPE, **_LENGTHS},
        {"Checkpoint": [20001], "Final": [40000]},
        lambda c: f"len_gen{'' if c['use_layernorm'] else '_no_ln'}_k{c['train_max_k']}/s{c['seed']}",
    ),
    "later": Experiment(
        _later,
        {"n_layers": [2, 1], "use_mlp": [True, False], "norm_type": ["", "none", "layernorm"], "use_qk_norm": [0, 1],
         "choices": [(), (25, 50), (25, 50, 75)]},
        {**_SHAPE, **_LENGTHS, "train_max_k": 50, "use_layernorm": True, "use_rms_qk_norm": False, "gated": False,
         "length_mode": "mix", "seed": 1337},
        {"Checkpoint": [20001], "Final": [30000]},
    ),
    "vocabulary": Experiment(
        lambda c, kind, step: (
            f"{kind}_N{c['vocab_n']}_K{c['block_size']}_L{c['n_layers']}_H{c['n_heads']}_E{c['n_embd']}"
            f"_r{int(c['ratio'])}over1_npos{c['without_pos']:d}_mlp{c['use_mlp']:d}_dup{c['allow_duplicates']:d}"
            + (f"_p{c['p']}" if c["allow_duplicates"] else "") + f"_testK{c['test_k']}_iters{step}.pt"),
        {"vocab_n": [128, 256], "n_embd": [16, 32], "ratio": [8.0, 4.0], "allow_duplicates": [False, True],
         "use_mlp": [False, True], "p": [8]},
        {**_SHAPE, "block_size": 16, "n_layers": 1, "test_k": 16, "without_pos": False, "seed": 1},
        {"Final": [60000], "Checkpoint": [30000]},
    ),
    "short": Experiment(
        lambda c, kind, step: f"{kind}_N{c['vocab_n']}_L{c['n_layers']}_dup{c['allow_duplicates']:d}_iters{step}"
        + (f"_batch{c['batch']}" if c["batch"] != 4096 else "") + ".pt",
        {"vocab_n": [512, 1024], "n_layers": [1, 2], "allow_duplicates": [False, True], "batch": [4096, 8192]},
        {"seed": 1}, {"Final": [120000], "Checkpoint": [60000]},
    ),
    "december": Experiment(
        lambda c, kind, step: (
            f"dec29_tbyt_{'without' if c['without_pos'] else 'with'}-pos-embedding_mlp:{c['use_mlp']}"
            f"_n_embd:{c['n_embd']}_head:{c['n_heads']}_layers:{c['n_layers']}_vocab_size:{c['vocab_size']}_itr:{step}"
            f"_checkpoint_time_{1767672172.25 + step + 7 * c['n_layers'] + c['n_embd']}.pt"),
        {"without_pos": [False, True], "use_mlp": [False, True], "n_embd": [64, 128], "n_layers": [1, 2]},
        {"n_heads": 1, "vocab_size": 128, "seed": 1}, {"Checkpoint": [20000, 40000]},
    ),
    "march": Experiment(
        lambda c, kind, step: (
            f"march14-{'with' if c['use_layernorm'] else 'without'}layernorm-block_size:{c['block_size']}"
            f"-n_layers:{c['n_layers']}_itr:{step}_checkpoint.pt"),
        {"use_layernorm": [False, True], "block_size": [16, 32], "n_layers": [1, 2]},
        {"seed": 1}, {"Checkpoint": [50000, 100000]},
    ),
    "optimum": Experiment(
        lambda c, kind, step: (
            f"sortgpt_k{c['block_size']}_meth{c['method']}_mlp{c['use_mlp']:d}_L{c['n_layers']}_N{c['vocab_n']}"
            f"_E{c['n_embd']}_pos{c['pos']:d}_fln{c['final_ln']:d}_wd{p(c['weight_decay'])}_lr{p(c['learning_rate'])}"
            f"_dseed{c['data_seed']}_iseed{c['init_seed']}__{'final' if kind == 'Final' else f'ckpt{step}'}.pt"),
        {"block_size": [16, 32], "method": ["fixed", "varied"], "use_mlp": [True, False],
         "learning_rate": [0.01, 0.001], "data_seed": [1337, 2337]},
        {"n_layers": 2, "vocab_n": 256, "n_embd": 64, "pos": False, "final_ln": True, "weight_decay": 0.0,
         "init_seed": 1338},
        {"Final": [60000], "Checkpoint": [50000]},
    ),
    "drawn": Experiment(
        lambda c, kind, step: f"std{p(c['init_std'])}_iseed{c['init_seed']}__ckpt{step}.pt",
        {"init_std": [0.02, 0.1, 1.0], "init_seed": [1501, 1502]}, {"n_layers": 2}, {"Checkpoint": [10000, 50000]},
        lambda c: f"runs/std{p(c['init_std'])}/checkpoints",
    ),
    "nano": Experiment(
        lambda c, kind, step: f"ckpt_lr{c['learning_rate']}_bs{c['batch_size']}_step{step}.pt",
        {"learning_rate": [0.001, 0.0003], "batch_size": [32, 64]}, {"n_layer": 4, "seed": 7},
        {"Checkpoint": [500, 1000]},
    ),
    "epochs": Experiment(
        lambda c, kind, step: f"epoch={step // 400}-step={step}.ckpt",
        {"lr": [0.1, 0.01], "seed": [0, 1]}, {"width": 64}, {"Checkpoint": [400, 1200]},
        lambda c: f"logs/version_{c['seed'] + 2 * (c['lr'] == 0.01)}/checkpoints",
    ),
    "words": Experiment(
        lambda c, kind, step: f"{c['arch']}_seed{c['seed']}_{'best' if kind == 'Final' else 'last'}.pth",
        {"arch": ["resnet50", "vit_small", "mlp"], "seed": [1, 2, 3]}, {"lr": 0.1}, {"Final": [10], "Checkpoint": [8]},
    ),
    "run folders": Experiment(
        lambda c, kind, step: "model-final.pt" if kind == "Final" else f"model-{step:06d}.pt",
        {"lr": [3e-4, 1e-3], "seed": [1, 2]}, {"layers": 4}, {"Final": [2000], "Checkpoint": [500, 1000]},
        lambda c: f"2024-05-{10 + c['seed']}/12-30-{int(c['lr'] * 10000):02d}",
    ),
    "spaces": Experiment(
        lambda c, kind, step: f"gpt2-small.lr={c['lr']:g},wd={c['wd']},s={c['seed']}.{step // 1000}k.pt",
        {"lr": [1e-4, 3e-4, 1e-3], "wd": [0.0, 0.1], "seed": [1, 2]}, {"model": "gpt2-small"},
        {"Checkpoint": [10000, 20000]},
    ),
}  # fmt: skip
"""By name; the first eight are the lab's, the others are as other labs have them."""


def make(out: Path, experiment: Experiment, where: str, *, shuffled: str = "") -> list[str]:
    """Write the files of an experiment; their paths.

    Args:
        out: The folder.
        experiment: What to write.
        where: Where configurations are: `inside`, `beside` or `nowhere`.
        shuffled: A key whose values are drawn anew for each run, whatever the names say.
    """
    made, rng = [], random.Random(7)
    drawn: dict[str, Any] = {}
    for number, (relative, config, _, step) in enumerate(experiment.files()):
        if shuffled:
            values = experiment.axes[shuffled]
            key = json.dumps(config, sort_keys=True)
            config = {**config, shuffled: drawn.setdefault(key, rng.choice(values))}
        path = out / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {"layer.weight": torch.full((2, 2), float(number))}
        if where == "inside":
            written = experiment.written(config)
            torch.save({"model": weights, "optimizer": None, "config": written, "iter_num": step}, path)
        else:
            torch.save(weights, path)
        if where == "beside":
            beside = path.parent / experiment.beside.format(stem=path.stem)
            beside.parent.mkdir(exist_ok=True)
            written = experiment.written(config)
            beside.write_text(json.dumps({"config": written} if "summary" in beside.name else written))
        made.append(path.relative_to(out).as_posix())
    return made
