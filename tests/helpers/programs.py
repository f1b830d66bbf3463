"""Outputs as widespread programs leave them: their folders, forms of files and files beside them, by hand."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Config = dict[str, Any]


@dataclass
class Output:
    """What a program has left, and what is true of it."""

    root: Path
    said: dict[str, Config] = field(default_factory=dict)
    """Of each file what its name, its folders or a file tell of its run, by the last part of each key."""
    steps: dict[str, int | None] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    """Of each file, which run it is of."""

    def save(self, path: str, config: Config, step: int | None = None, /, *, under: str = "", **others: Any) -> None:
        """Write a checkpoint.

        Args:
            path: Where, relative to the root.
            config: What can be known of its run.
            step: What can be known of its step.
            under: The key of the weights; without, they are the whole file.
            others: What else is in it.
        """
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        weights = {"layer.weight": torch.full((2, 2), float(len(self.said)))}
        torch.save({under: weights, **others} if under else weights, file)
        self.said[path], self.steps[path] = config, step
        self.runs[path] = json.dumps(config, sort_keys=True)

    def text(self, path: str, text: str) -> None:
        """Write another file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _grid(**axes: list[Any]) -> Iterator[tuple[int, Config]]:
    return enumerate(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _id(config: Config) -> str:
    return hashlib.sha1(json.dumps(config).encode(), usedforsecurity=False).hexdigest()[:32]


def _timm(out: Output) -> None:
    for number, config in _grid(model=["resnet50", "vit_small_patch16_224"], lr=[0.1, 0.05], seed=[42, 43]):
        folder = f"output/2024050{1 + number}-103005-{config['model']}-224"
        out.text(f"{folder}/args.yaml", json.dumps(config))
        for name, epoch in (("checkpoint-10", 10), ("checkpoint-11", 11), ("last", 11), ("model_best", 10)):
            out.save(f"{folder}/{name}.pth.tar", config, epoch, under="state_dict", epoch=epoch)


def _espnet(out: Output) -> None:
    for _, config in _grid(adim=[256, 512], lr=[0.002, 0.005], seed=[777, 778]):
        folder = f"exp/asr_d{config['adim']}_lr{config['lr']}_raw_bpe5000_sp_seed{config['seed']}"
        out.text(f"{folder}/config.yaml", json.dumps(config))
        for name, epoch in (("39epoch", 39), ("40epoch", 40), ("valid.acc.best", None), ("valid.acc.ave_10best", None)):
            out.save(f"{folder}/{name}.pth", config, epoch)


def _options(out: Output) -> None:
    """Configurations under `opt`, as OpenNMT and others have them."""
    for number, config in _grid(layers=[3, 6], dropout=[0.1, 0.3], seed=[1234, 4321]):
        for step in (5000, 10000):
            out.save(f"run{number}/model_step_{step}.pt", config, step, under="model", opt=config)


def _net(out: Output) -> None:
    for _, config in _grid(sparsity=[50, 90, 95], method=["mag", "snip"], seed=[1, 2]):
        for epoch in (20, 40):
            name = f"prune_{config['method']}_{config['sparsity']}%_seed{config['seed']}_ep{epoch}.pt"
            out.save(name, config, epoch, under="net", args=config, epoch=epoch)


def _tune(out: Output) -> None:
    for number, config in _grid(lr=[0.01, 0.001], width=[64, 128], seed=[1, 2]):
        trial = (
            f"train_fn_2b1d5_{number:05d}_{number}_lr={config['lr']:.4f},seed={config['seed']},width={config['width']}"
        )
        out.text(f"sweep/{trial}/params.json", json.dumps(config))
        for count in (0, 4):
            path = f"sweep/{trial}/checkpoint_{count:06d}/model.pt"
            step = 10 * (count + 1)
            out.save(path, config, step, under="model_state_dict", step=step)


def _megatron(out: Output) -> None:
    for _, config in _grid(num_layers=[2, 4], lr=[1e-4, 3e-4], seed=[1234, 5678]):
        folder = f"gpt_l{config['num_layers']}_lr{config['lr']:g}_seed{config['seed']}"
        for step in (1000, 2000):
            path = f"{folder}/iter_{step:07d}/mp_rank_00/model_optim_rng.pt"
            out.save(path, config, step, under="model", args=config, iteration=step)


def _deepspeed(out: Output) -> None:
    for _, config in _grid(hidden=[64, 128], lr=[1e-4, 3e-4], seed=[1, 2]):
        folder = f"ds_h{config['hidden']}_lr{config['lr']:g}_seed{config['seed']}"
        out.text(f"{folder}/config.json", json.dumps(config))
        for step in (100, 200):
            path = f"{folder}/global_step{step}/mp_rank_00_model_states.pt"
            out.save(path, config, step, under="module", global_steps=step)


def _dvc(out: Output) -> None:
    for _, config in _grid(lr=[0.1, 0.01], batch=[16, 32], seed=[1, 2]):
        folder = f"experiments/exp-{_id(config)[:5]}"
        out.text(f"{folder}/params.yaml", json.dumps({"train": config}))
        out.save(f"{folder}/model.pt", config)


def _tasks(out: Output) -> None:
    """Folders with an id of their own, and no configuration anywhere else."""
    for _, config in _grid(lr=[0.1, 0.01], b=[16, 32], seed=[1, 2]):
        folder = f"proj/train-lr{config['lr']}-b{config['b']}-seed{config['seed']}.{_id(config)}/models"
        for epoch in (1, 2):
            out.save(f"{folder}/model_epoch_{epoch}.pt", config, epoch)


def _gan(out: Output) -> None:
    for _, config in _grid(nz=[64, 100], lr=[0.0002, 0.0001], seed=[1, 2]):
        folder = f"dcgan_nz{config['nz']}_lr{config['lr']}_seed{config['seed']}"
        for epoch, net in itertools.product((10, 20), ("netG", "netD")):
            out.save(f"{folder}/{net}_epoch_{epoch}.pth", config, epoch)


def _averages(out: Output) -> None:
    for _, config in _grid(c=[64, 128], lr=[1e-4, 2e-5], seed=[1, 2]):
        folder = f"openai-c{config['c']}-lr{config['lr']}-seed{config['seed']}"
        for step in (10000, 20000):
            for name in (f"ema_0.9999_{step:06d}", f"model{step:06d}", f"opt{step:06d}"):
                out.save(f"{folder}/{name}.pt", config, step)


def _losses(out: Output) -> None:
    for number, config in _grid(units=[64, 128], rate=[0.2, 0.5], seed=[1, 2]):
        folder = f"lstm_units{config['units']}_rate{config['rate']}_seed{config['seed']}"
        for epoch in (5, 10):
            out.save(f"{folder}/weights.{epoch:02d}-{0.42 - epoch / 100 + number / 1000:.2f}.pt", config, epoch)


def _versions(out: Output) -> None:
    for _, config in _grid(version=["1.2.3", "1.3.0", "2.0.0-rc1"], width=[8, 16], seed=[1, 2]):
        for step in (100, 200):
            name = f"mynet-v{config['version']}-width{config['width']}-seed{config['seed']}-step{step}.pt"
            out.save(name, config, step)


def _letters(out: Output) -> None:
    """Tags of other alphabets, spaces, and words of another language."""
    for _, config in _grid(α=[0.5, 1.5], couches=[2, 4], seed=[3, 4]):
        for step in (1000, 2000):
            name = f"modèle α={config['α']} couches={config['couches']} graine={config['seed']} pas={step}.pt"
            out.save(name, config, step)


def _powers(out: Output) -> None:
    for _, config in _grid(lr=[1e-3, 5e-4], wd=[1e-5, 0.0], seed=[1, 2]):
        for step in (10000, 20000):
            name = f"run_lr{config['lr']:.0e}_wd{config['wd']:.1e}_seed{config['seed']}_step{step:.0e}.pt"
            out.save(name, config, step)


def _early(out: Output) -> None:
    """Most runs end before their configuration says, and only the file itself tells when."""
    for number, config in _grid(lr=[0.1, 0.01], depth=[2, 3], seed=[1, 2]):
        step = 400 + 50 * (number % 3)
        held = {**config, "max_steps": 500}
        name = f"net_lr{config['lr']}_depth{config['depth']}_seed{config['seed']}.pt"
        out.save(name, held, step, under="model", config=held, global_step=step)


def _numbered(out: Output) -> None:
    """Checkpoints in a folder of the run's own, and the last one beside it, as accelerate and Lightning have them."""
    for _, config in _grid(width=[8, 16], lr=[0.1, 0.01], seed=[1, 2]):
        folder = f"width{config['width']}_lr{config['lr']}_seed{config['seed']}"
        for number in (3, 4):
            out.save(f"{folder}/checkpoints/checkpoint_{number}.pt", config, number)
        out.save(f"{folder}/final.pt", config)


def _untagged(out: Output) -> None:
    """The epoch and a score, without tags, and finer steps inside: Lightning's without `auto_insert_metric_name`."""
    for number, config in _grid(width=[8, 16], lr=[0.1, 0.01], seed=[1, 2]):
        folder = f"width{config['width']}_lr{config['lr']}_seed{config['seed']}"
        for epoch in (2, 3):
            step = 8 * (epoch + 1)
            name = f"{epoch}-{0.9 + epoch / 100 + number / 1000:.3f}.pt"
            out.save(f"{folder}/{name}", config, step, under="state_dict", epoch=epoch, global_step=step)


def _logs(out: Output) -> None:
    """A log of one line beside checkpoints is no configuration."""
    for _, config in _grid(arch=["r", "x"], depth=[50, 101]):
        folder = f"work_dirs/fcn_{config['arch']}_depth{config['depth']}"
        out.text(f"{folder}/20240101_120000.log.json", json.dumps({"mode": "train", "epoch": 1, "lr": 0.01}))
        for epoch in (11, 12):
            path = f"{folder}/epoch_{epoch}.pth"
            out.save(path, {}, epoch, under="state_dict", meta={"epoch": epoch})
            out.runs[path] = folder


PROGRAMS: dict[str, Callable[[Output], None]] = {
    "timm": _timm, "espnet": _espnet, "options": _options, "net": _net, "tune": _tune, "megatron": _megatron,
    "deepspeed": _deepspeed, "dvc": _dvc, "tasks": _tasks, "gan": _gan, "averages": _averages, "losses": _losses,
    "versions": _versions, "letters": _letters, "powers": _powers, "early": _early,
    "numbered": _numbered, "untagged": _untagged, "logs": _logs,
}  # fmt: skip
