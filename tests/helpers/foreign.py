"""Outputs of invented labs, each with names and folders of its own; configurations inside, beside or nowhere."""

from __future__ import annotations

import hashlib
import json

from tests.helpers.learnable import Config, Experiment, p


def _sci(value: float, digits: int = 1) -> str:
    """A number as `3e-4`, or, with two digits, `3e-04`."""
    mantissa, exponent = f"{value:e}".split("e")
    number = f"{float(mantissa):g}"
    return f"{number}e{int(exponent)}" if digits == 1 else f"{number}e{int(exponent):+03d}"


def _kilo(step: int) -> str:
    return f"{step / 1e6:g}M" if step >= 1e6 else f"{step / 1e3:g}k"


def _id(config: Config) -> str:
    return hashlib.sha1(json.dumps(config, sort_keys=True).encode(), usedforsecurity=False).hexdigest()[:8]


_SIZE: Config = {"n_layer": 4, "n_head": 4, "block_size": 64, "dropout": 0.0, "max_steps": 9999, "amp": True}
_OPTIM = {"lr": "optim", "weight_decay": "optim", "optimizer": "optim", "n_layer": "model", "d_model": "model"}

LABS: dict[str, Experiment] = {
    # the folder says all, the name nothing
    "sweep folders": Experiment(
        lambda c, kind, step: "ckpt.pt",
        {"learning_rate": [1e-4, 3e-4, 1e-3], "batch_size": [12, 64], "seed": [1337, 1338]}, _SIZE,
        {"Checkpoint": [5000]},
        lambda c: f"out-lr{_sci(c['learning_rate'])}-bs{c['batch_size']}-s{c['seed']}", beside="config.json",
    ),
    "lightning": Experiment(
        lambda c, kind, step: f"epoch={step // 100}-step={step}-val_loss={4 / step + c['lr']:.2f}.ckpt",
        {"lr": [0.1, 0.01, 0.001], "seed": [0, 1, 2]}, {"width": 64, "max_epochs": 30}, {"Checkpoint": [400, 1200]},
        lambda c: f"lightning_logs/version_{c['seed'] + 3 * [0.1, 0.01, 0.001].index(c['lr'])}/checkpoints",
        beside="../hparams.yaml",
    ),
    "hydra ids": Experiment(
        lambda c, kind, step: f"model_step_{step:06d}.pt",
        {"lr": [0.1, 0.01], "d_model": [64, 128, 256], "seed": [1, 2]},
        {"n_layer": 2, "optimizer": "adam", "weight_decay": 0.1},
        {"Checkpoint": [500, 10000]},
        lambda c: (f"multirun/2024-05-01/12-30-05/"
                   f"{[1, 2].index(c['seed']) + 2 * [64, 128, 256].index(c['d_model']) + 6 * (c['lr'] == 0.01)}"),
        beside=".hydra/config.yaml", sections=_OPTIM,
    ),
    "hydra overrides": Experiment(
        lambda c, kind, step: f"step={step}.pt",
        {"lr": [0.1, 0.01], "d_model": [64, 128], "seed": [1, 2]}, {"n_layer": 2, "optimizer": "adam"},
        {"Checkpoint": [500, 1000]},
        lambda c: f"multirun/2024-05-01/12-30-05/model.d_model={c['d_model']},optim.lr={c['lr']},seed={c['seed']}",
        beside=".hydra/config.yaml", sections=_OPTIM,
    ),
    "dates": Experiment(
        lambda c, kind, step: (f"2024-03-{5 + c['depth'] % 20:02d}_14-2{c['seed']}-10_resnet{c['depth']}"
                               f"_lr{c['lr']}_ep{step}.pth"),
        {"depth": [18, 34, 50], "lr": [0.1, 0.05, 0.01], "seed": [0, 1]}, {"momentum": 0.9, "data": "cifar10"},
        {"Checkpoint": [10, 90]},
    ),
    "dashes": Experiment(
        lambda c, kind, step: (f"model-lr_{_sci(c['lr'])}-bs_{c['batch_size']}-layers_{c['n_layers']}"
                               f"-seed_{c['seed']}-step_{step:06d}.pt"),
        {"lr": [1e-4, 3e-4, 1e-3], "batch_size": [32, 64], "n_layers": [2, 4], "seed": [0, 1]}, {"beta": 0.9},
        {"Checkpoint": [500, 1000]},
    ),
    "pairs and thousands": Experiment(
        lambda c, kind, step: (f"lr={_sci(c['lr'], 2)},bs={c['bs']},wd={c['wd']},seed={c['seed']}"
                               f"_step={_kilo(step)}.ckpt"),
        {"lr": [3e-4, 1e-3], "bs": [32, 64], "wd": [0.0, 0.1], "seed": [1, 2]}, {"sched": "cosine"},
        {"Checkpoint": [10_000, 1_500_000]},
    ),
    "camel": Experiment(
        lambda c, kind, step: f"nLayer{c['n_layer']}_dModel{c['d_model']}_lr{p(c['lr'])}_seed{c['seed']}_iter{step}.pt",
        {"n_layer": [2, 4, 8], "d_model": [64, 128], "lr": [0.01, 0.001], "seed": [1, 2]}, {"vocab": 50},
        {"Checkpoint": [500, 1000]}, sections=_OPTIM,
    ),
    "dots": Experiment(
        lambda c, kind, step: f"gpt.L{c['layers']}.H{c['heads']}.D{c['dim']}.s{c['seed']}.step{step}.pt",
        {"layers": [2, 4], "heads": [4, 8], "dim": [128, 256], "seed": [1, 2, 3]}, {"ctx": 512},
        {"Checkpoint": [1000, 20000]},
    ),
    "run ids": Experiment(
        lambda c, kind, step: f"model_{step}.pt",
        {"lr": [1e-3, 1e-4], "hidden": [128, 256], "seed": [3, 4]}, {"gamma": 0.99}, {"Checkpoint": [100, 2000]},
        lambda c: f"checkpoints/run-2024050{c['seed']}_12{c['hidden'] % 60:02d}05-{_id(c)}", beside="args.json",
    ),
    "hashes": Experiment(
        lambda c, kind, step: f"{_id(c)}_{c['arch']}_{'final' if kind == 'Final' else f'it{step}'}.pt",
        {"arch": ["mlp", "cnn"], "lr": [0.1, 0.01], "seed": [1, 2, 3]}, {}, {"Final": [1000], "Checkpoint": [500]},
    ),
    "reinforcement": Experiment(
        lambda c, kind, step: f"{c['env_id']}__{c['algo']}__{c['seed']}__{_kilo(step)}.pt",
        {"env_id": ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"], "algo": ["ppo", "sac"], "seed": [1, 2, 3]},
        {"gamma": 0.99, "total_timesteps": 1_000_000}, {"Checkpoint": [500_000, 1_000_000]}, end="total_timesteps",
    ),
    "optimizers": Experiment(
        lambda c, kind, step: (f"vit_{c['optimizer']}_lr{_sci(c['lr'])}_seed{c['seed']}"
                               f"_{'best' if kind == 'Best' else 'last'}.pth"),
        {"optimizer": ["adam", "sgd", "lion"], "lr": [1e-3, 1e-1], "seed": [1, 2]}, {"patch": 16},
        {"Best": [80], "Last": [100]},
    ),
    "kind first": Experiment(
        lambda c, kind, step: (f"{'best' if kind == 'Best' else 'final'}-unet-ch{c['channels']}"
                               f"{'-do' + str(c['dropout']) if c['dropout'] else ''}-seed{c['seed']}.pt"),
        {"channels": [32, 64], "dropout": [0.0, 0.1, 0.5], "seed": [1, 2]}, {"lr": 1e-3},
        {"Best": [80], "Final": [100]},
    ),
    "step first": Experiment(
        lambda c, kind, step: f"{step:07d}-{c['objective']}-w{c['width']}-s{c['seed']}.pt",
        {"objective": ["vpred", "eps"], "width": [128, 256, 512], "seed": [0, 1]}, {"lr": 1e-4},
        {"Checkpoint": [50000, 400000]},
    ),
    "negative": Experiment(
        lambda c, kind, step: f"ising_J={c['J']}_h={c['h']}_it{step}_T={c['T']}_s={c['seed']}.pt",
        {"J": [-1.0, 0.5, 1.0], "h": [-0.2, 0.0], "T": [1, 2], "seed": [1, 2]}, {"size": 16},
        {"Checkpoint": [100, 200]},
    ),
    "padded": Experiment(
        lambda c, kind, step: f"probe_layer{c['layer']:02d}_head{c['head']:02d}_{c['task']}.pt",
        {"layer": [0, 1, 7, 11], "head": [0, 5, 11], "task": ["pos", "ner"]}, {"lr": 0.1, "seed": 5},
        {"Final": [300]},
    ),
    "fairseq": Experiment(
        lambda c, kind, step: "checkpoint_best.pt" if kind == "Best" else f"checkpoint_{step // 500}_{step}.pt",
        {"lr": [0.0005, 0.001], "dropout": [0.1, 0.3], "seed": [1, 2]}, {"arch": "transformer"},
        {"Best": [1500], "Checkpoint": [500, 1500]},
        lambda c: f"lr{c['lr']}_drop{c['dropout']}_seed{c['seed']}", beside="args.json",
    ),
    "work folders": Experiment(
        lambda c, kind, step: "latest.pth" if kind == "Last" else f"epoch_{step}.pth",
        {"backbone": ["r50", "r101"], "lr": [0.02, 0.01]}, {"seed": 0, "max_epochs": 12},
        {"Checkpoint": [6, 12], "Last": [12]}, end="max_epochs",
        folder=lambda c: f"work_dirs/faster_rcnn_{c['backbone']}_lr{c['lr']}", beside="config.json",
    ),
    "sizes": Experiment(
        lambda c, kind, step: f"pythia-{c['size']}-seed{c['seed']}-step{step}.pt",
        {"size": ["70m", "160m", "1.4b"], "seed": [1, 2, 3]}, {"data": "pile"}, {"Checkpoint": [1000, 143000]},
    ),
    "scores": Experiment(
        lambda c, kind, step: (f"{c['model']}-{c['dataset']}-seed{c['seed']}-acc{90 + step / 100 + c['seed'] / 10:.2f}"
                               f"-ep{step}.pt"),
        {"model": ["resnet18", "vgg16"], "dataset": ["cifar10", "cifar100", "svhn"], "seed": [1, 2]}, {"lr": 0.1},
        {"Checkpoint": [60, 120]},
    ),
    "flags": Experiment(
        lambda c, kind, step: (f"gpt_L{c['n_layers']}{'_ema' if c['ema'] else ''}{'' if c['ln'] else '_noln'}"
                               f"_s{c['seed']}_{step}.pt"),
        {"n_layers": [2, 4], "ema": [True, False], "ln": [True, False], "seed": [0, 1]}, {"lr": 0.001},
        {"Checkpoint": [1000, 2000]},
    ),
    "equals and dashes": Experiment(
        lambda c, kind, step: (f"d_model={c['d_model']}-n_head={c['n_head']}-lr={_sci(c['lr'])}-seed={c['seed']}"
                               f"-epoch={step:03d}.pt"),
        {"d_model": [64, 128], "n_head": [2, 4], "lr": [1e-4, 5e-5], "seed": [0, 1]}, {"data": "wiki"},
        {"Checkpoint": [10, 100]}, sections=_OPTIM,
    ),
    "mixed numbers": Experiment(
        lambda c, kind, step: f"mlp_lr{c['lr']:g}_wd{c['weight_decay']:g}_seed{c['seed']}_t{step}.pt",
        {"lr": [0.1, 1e-5, 3e-6], "weight_decay": [0.0, 0.01, 1e-4], "seed": [1, 2]}, {"hidden": 32},
        {"Checkpoint": [64, 128]},
    ),
}  # fmt: skip
