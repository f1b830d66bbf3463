"""The example of a ckptman.yaml that docs/your_own_experiment.md has."""

from __future__ import annotations

WORKED_EXAMPLE = """\
name:
  fields:
    wd: {config: weight_decay, type: float, optional: true, after: nodup, title: Weight decay}
  examples:
    - Final_N128_d128_H1_L1_npos1_mlp0_ln1_lenmix_trainK2to8_testK17to32_nodup1_wd0.1_iters40000.pt
groups:
  "decay_k{K}": {layernorm: true, regime: dynamic, grid: decay, example: decay_k8}
grids:
  decay:
    k: [8, 16]
    seeds: [1, 2]
    axes: {n_layers: [1, 2], weight_decay: [0.0, 0.1]}
    regimes: {dynamic: {axes: [n_layers, weight_decay], set: {train_min_k: 2}}}
    numberings: {full: {}, merged: {}}
"""
