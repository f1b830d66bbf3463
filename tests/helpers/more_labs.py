"""Outputs of further labs, called as widespread programs and public repositories call theirs."""

from __future__ import annotations

import hashlib
import json
import uuid

from tests.helpers.learnable import Config, Experiment


def _hex(config: Config) -> str:
    return hashlib.sha1(json.dumps(config, sort_keys=True).encode(), usedforsecurity=False).hexdigest()[:8]


def _number(config: Config) -> int:
    return 4_800_000 + int(_hex(config), 16) % 100_000


MORE_LABS: dict[str, Experiment] = {
    # revisions of a suite of models: the folder says model and revision
    "revisions": Experiment(
        lambda c, kind, step: f"step{step}.pt",
        {"model": ["pythia-70m", "pythia-160m", "pythia-410m"], "seed": [1, 2]}, {"vocab": 50},
        {"Checkpoint": [1000, 143000]}, lambda c: f"{c['model']}-seed{c['seed']}", beside="config.json",
    ),
    "unsharded": Experiment(
        lambda c, kind, step: f"step{step}-unsharded.pt",
        {"size": ["1B", "7B"], "learning_rate": [4e-4, 3e-4], "seed": [6198, 6199]}, {"d_model": 64},
        {"Checkpoint": [500, 1000]},
        lambda c: f"OLMo-{c['size']}-lr{c['learning_rate']:g}-s{c['seed']}", beside="config.json",
    ),
    "batches and ranks": Experiment(
        lambda c, kind, step: f"ep{step // 100}-ba{step}-rank0.pt",
        {"d_model": [128, 256], "lr": [0.002, 0.001], "seed": [17, 18]}, {"n_layers": 2}, {"Checkpoint": [100, 250]},
        lambda c: f"mpt-d{c['d_model']}-lr{c['lr']}-sd{c['seed']}", beside="hparams.yaml",
    ),
    "tar": Experiment(
        lambda c, kind, step: "model_best.pth.tar" if kind == "Best" else f"checkpoint-{step}.pth.tar",
        {"model": ["resnet50", "vit_small_patch16_224", "efficientnet_b0"], "lr": [0.1, 0.05]}, {"seed": 42},
        {"Checkpoint": [11, 12], "Best": [12]},
        lambda c: f"output/train/20240501-1{[0.1, 0.05].index(c['lr'])}3005-{c['model']}-224", beside="args.json",
    ),
    "updates": Experiment(
        lambda c, kind, step: (
            "checkpoint_last.pt" if kind == "Last" else
            f"checkpoint{step // 500}.pt" if step % 1000 == 0 else f"checkpoint_1_{step}.pt"),
        {"arch": ["transformer", "lightconv"], "dropout": [0.1, 0.3], "seed": [1, 2]}, {"lr": 5e-4},
        {"Checkpoint": [500, 1000], "Last": [1000]},
        lambda c: f"{c['arch']}.dropout{c['dropout']}.seed{c['seed']}", beside="args.json",
    ),
    "zeros": Experiment(
        lambda c, kind, step: "model_final.pth" if kind == "Final" else f"model_{step:07d}.pth",
        {"backbone": ["R50", "R101"], "lr": [0.02, 0.01], "seed": [1, 2]}, {"ims": 16},
        {"Checkpoint": [4999, 9999], "Final": [9999]},
        lambda c: f"faster_rcnn_{c['backbone']}_FPN_lr{c['lr']}_seed{c['seed']}", beside="config.json",
    ),
    "policies": Experiment(
        lambda c, kind, step: f"rl_model_{step}_steps.pt",
        {"env": ["CartPole-v1", "LunarLander-v2"], "gamma": [0.99, 0.999], "seed": [0, 1]}, {"algo": "ppo"},
        {"Checkpoint": [1000, 20000]},
        lambda c: f"logs/ppo/{c['env']}_gamma{c['gamma']}_{c['seed']}", beside="args.json",
    ),
    "experiments counted": Experiment(
        lambda c, kind, step: "best.pt" if kind == "Best" else "last.pt",
        {"imgsz": [320, 640], "lr0": [0.01, 0.001], "seed": [0, 1]}, {"model": "yolov8n"},
        {"Best": [90], "Last": [100]},
        lambda c: (f"runs/train/exp{1 + (c['imgsz'] == 640) + 2 * (c['lr0'] == 0.001) + 4 * c['seed']}/weights"),
        beside="../args.json",
    ),
    "epochs first": Experiment(
        lambda c, kind, step: "valid.acc.best.pth" if kind == "Best" else f"{step}epoch.pth",
        {"adim": [256, 512], "lr": [0.002, 0.005], "seed": [777, 778]}, {"elayers": 12},
        {"Checkpoint": [39, 40], "Best": [38]},
        lambda c: f"exp/asr_train_conformer_d{c['adim']}_lr{c['lr']}_seed{c['seed']}_raw_bpe", beside="config.json",
    ),
    "without suffix words": Experiment(
        lambda c, kind, step: f"checkpoint_{step}.pt",
        {"n_mel": [40, 80], "lr": [1e-3, 5e-4], "seed": [1234, 1235]}, {"hop": 256}, {"Checkpoint": [12000, 24000]},
        lambda c: f"tacotron2_mel{c['n_mel']}_lr{c['lr']:g}_seed{c['seed']}", beside="config.json",
    ),
    "parameters": Experiment(
        lambda c, kind, step: f"params_{step}.msgpack.pt",
        {"width": [32, 64], "lr": [0.1, 0.01], "rng": [0, 1]}, {"depth": 2, "seed": 3}, {"Checkpoint": [100, 200]},
        lambda c: f"mlp.width_{c['width']}.lr_{c['lr']}.rng_{c['rng']}", beside="config.json",
    ),
    "identifiers": Experiment(
        lambda c, kind, step: f"{uuid.UUID(int=int(_hex(c), 16) ** 4)}.pt",
        {"lr": [0.1, 0.01], "hidden": [8, 16], "seed": [1, 2]}, {"act": "relu"}, {"Final": [100]},
    ),
    "jobs": Experiment(
        lambda c, kind, step: f"slurm-{_number(c)}_L{c['n_layer']}_lr{c['lr']}_s{c['seed']}_it{step}.pt",
        {"n_layer": [2, 4, 8], "lr": [0.1, 0.01], "seed": [1, 2]}, {"host": "a"}, {"Checkpoint": [100, 200]},
    ),
    "greek": Experiment(
        lambda c, kind, step: f"μ={c['μ']}_σ={c['σ']}_seed={c['seed']}_{step}.pt",
        {"μ": [0.0, 0.5, -0.5], "σ": [1.0, 2.0], "seed": [1, 2]}, {"n": 8}, {"Checkpoint": [10, 20]},
    ),
    "exponents": Experiment(
        lambda c, kind, step: f"net_lr{c['lr_exp']}_wd{c['wd_exp']}_b{c['beta']}_s{c['seed']}_step{step}.pt",
        {"lr_exp": [-3, -4, -2], "wd_exp": [-1, 0], "beta": [-0.5, 0.5], "seed": [1, 2]}, {"h": 4},
        {"Checkpoint": [100, 200]},
    ),
    "ranges": Experiment(
        lambda c, kind, step: f"sort_k{c['min_k']}-{c['max_k']}_L{c['layers']}_seed{c['seed']}-{step}.pt",
        {"min_k": [2, 4], "max_k": [8, 16], "layers": [1, 2], "seed": [1, 2]}, {"v": 128}, {"Checkpoint": [100, 200]},
    ),
    "booleans": Experiment(
        lambda c, kind, step: f"ln{c['ln']}_mlp{c['mlp']}_pos{c['pos']}_seed{c['seed']}_iter{step}.pt",
        {"ln": [True, False], "mlp": [True, False], "pos": [False, True], "seed": [1, 2]}, {"d": 8},
        {"Checkpoint": [100, 200]},
    ),
    "run together": Experiment(
        lambda c, kind, step: f"L{c['n_layers']}H{c['n_heads']}D{c['d_model']}S{c['seed']}T{step}.pt",
        {"n_layers": [2, 4], "n_heads": [1, 4], "d_model": [64, 128], "seed": [1, 2]}, {"v": 128},
        {"Checkpoint": [100, 200]},
    ),
    "camel and dashes": Experiment(
        lambda c, kind, step: (
            f"nLayer{c['nLayer']}-nHead{c['nHead']}-dropOut{c['dropOut']}-rngSeed{c['seed']}-{step}.pt"),
        {"nLayer": [2, 4], "nHead": [1, 4], "dropOut": [0.0, 0.1], "seed": [1, 2]}, {"v": 128},
        {"Checkpoint": [100, 200]},
    ),
    "dotted overrides": Experiment(
        lambda c, kind, step: f"model.n_layer={c['n_layer']},optim.lr={c['lr']},seed={c['seed']},step={step}.pt",
        {"n_layer": [2, 4], "lr": [0.001, 0.01], "seed": [1, 2]}, {"optimizer": "adam"}, {"Checkpoint": [100, 200]},
        sections={"lr": "optim", "optimizer": "optim", "n_layer": "model"},
    ),
    "sweeps": Experiment(
        lambda c, kind, step: f"{['vivid', 'royal', 'misty'][c['seed']]}-sweep-{1 + int(_hex(c), 16) % 97}_{step}.pt",
        {"lr": [0.1, 0.01], "batch": [16, 32], "seed": [0, 1, 2]}, {"method": "bayes"}, {"Checkpoint": [100]},
    ),
    "diffusion": Experiment(
        lambda c, kind, step: "diffusion_pytorch_model.bin",
        {"rank": [4, 8, 16], "learning_rate": [1e-4, 1e-5], "seed": [0, 1]}, {"prompt": "a dog"},
        {"Checkpoint": [500, 1000]},
        lambda c: f"lora-rank{c['rank']}-lr{c['learning_rate']:.0e}-seed{c['seed']}/unet", beside="../config.json",
    ),
    "brackets": Experiment(
        lambda c, kind, step: f"run[lr={c['lr']}][bs={c['bs']}][seed={c['seed']}]_{step}.pt",
        {"lr": [0.1, 0.01], "bs": [16, 32], "seed": [1, 2]}, {"m": 1}, {"Checkpoint": [100, 200]},
    ),
    "nested folders": Experiment(
        lambda c, kind, step: f"step_{step}.pt",
        {"dataset": ["cifar", "svhn"], "lr": [0.1, 0.01], "depth": [2, 4], "seed": [1, 2]}, {"m": 1},
        {"Checkpoint": [100, 200]}, lambda c: f"{c['dataset']}/lr{c['lr']}_depth{c['depth']}/seed{c['seed']}",
        beside="config.json",
    ),
}  # fmt: skip
