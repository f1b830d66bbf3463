"""The naming schemes of one lab, as its conventions and its files would have them."""

from __future__ import annotations

from typing import Any

LAB_SCHEMES = """\
name:
  prefixes: {Final: {early: true}}
names:
  vocabulary:
    template: "{kind}_N{vocab_n}_K{block_size}_L{n_layers}_H{n_heads}_E{n_embd}_r{ratio:over}_npos{without_pos:flag}\
_mlp{use_mlp:flag}_dup{allow_duplicates:flag}[_p{p}]_testK{test_k}_iters{step}.pt"
    examples:
      - Final_N128_K16_L1_H1_E16_r8over1_npos0_mlp0_dup0_testK16_iters53501.pt
      - Final_N128_K16_L1_H1_E16_r8over1_npos0_mlp0_dup1_p8_testK16_iters60000.pt
  short:
    template: "{kind}_N{vocab_n}_L{n_layers}_dup{allow_duplicates:flag}_iters{step}[_batch{batch}].pt"
    examples: [Final_N1024_L2_dup0_iters120000.pt, Final_N1024_L2_dup0_iters120000_batch8192.pt]
  december:
    template: "{run:text}_{pos:text}_mlp:{use_mlp:bool}_n_embd:{n_embd}_head:{n_heads}_layers:{n_layers}\
_vocab_size:{vocab_size}_itr:{step}_checkpoint_time_{time:float}.pt"
    fields: {pos: {config: without_pos, words: {with-pos-embedding: false, without-pos-embedding: true}}}
    kind: Checkpoint
    examples:
      - "dec29_tbyt_with-pos-embedding_mlp:False_n_embd:64_head:1_layers:2_vocab_size:128_itr:20000\
_checkpoint_time_1767672172.78.pt"
  march:
    template: "{run:text}-{norm:text}-block_size:{block_size}-n_layers:{n_layers}_itr:{step}_checkpoint.pt"
    fields: {norm: {config: use_layernorm, words: {withlayernorm: true, withoutlayernorm: false}}}
    kind: Checkpoint
    examples: ["march14-withoutlayernorm-block_size:32-n_layers:2_itr:100000_checkpoint.pt"]
  optimum:
    template: "sortgpt_k{block_size}_meth{method:word}_mlp{use_mlp:flag}_L{n_layers}_N{vocab_n}_E{n_embd}_pos{pos:flag}\
_fln{final_ln:flag}_wd{weight_decay:p}_lr{learning_rate:p}_dseed{data_seed}_iseed{init_seed}__{kind}[{step}].pt"
    kinds: {final: Final, ckpt: Checkpoint}
    examples:
      - sortgpt_k16_methfixed_mlp1_L2_N256_E64_pos0_fln1_wd0p0_lr0p01_dseed1337_iseed1338__final.pt
      - sortgpt_k16_methfixed_mlp1_L2_N256_E64_pos0_fln1_wd0p0_lr0p01_dseed1337_iseed1338__ckpt50000.pt
  drawn:
    template: "std{init_std:p}_iseed{init_seed}__{kind}{step}.pt"
    kinds: {final: Final, ckpt: Checkpoint}
    examples: [std0p02_iseed1501__ckpt50000.pt]
"""
"""A ckptman.yaml that describes them beside the built-in names."""

_OPTIMUM: dict[str, Any] = {
    "block_size": 16, "method": "fixed", "use_mlp": True, "n_layers": 2, "vocab_n": 256, "n_embd": 64, "pos": False,
    "final_ln": True, "weight_decay": 0.0, "learning_rate": 0.01, "data_seed": 1337, "init_seed": 1338,
}  # fmt: skip
_VOCABULARY: dict[str, Any] = {
    "vocab_n": 128, "block_size": 16, "n_layers": 1, "n_heads": 1, "n_embd": 16, "ratio": 8.0, "without_pos": False,
    "use_mlp": False, "allow_duplicates": False, "test_k": 16,
}  # fmt: skip

LAB_NAMES: dict[str, dict[str, Any]] = {
    "Final_N128_K16_L1_H1_E16_r8over1_npos0_mlp0_dup0_testK16_iters53501.pt":
        {"kind": "Final", "step": 53501, "values": _VOCABULARY},
    "Final_N128_K16_L1_H1_E16_r8over1_npos0_mlp0_dup1_p8_testK16_iters60000.pt":
        {"kind": "Final", "step": 60000, "values": {**_VOCABULARY, "allow_duplicates": True, "p": 8}},
    "Final_N1024_L2_dup0_iters120000.pt":
        {"kind": "Final", "step": 120000, "values": {"vocab_n": 1024, "n_layers": 2, "allow_duplicates": False}},
    "Final_N1024_L2_dup0_iters120000_batch8192.pt":
        {"kind": "Final", "step": 120000,
         "values": {"vocab_n": 1024, "n_layers": 2, "allow_duplicates": False, "batch": 8192}},
    "dec29_tbyt_with-pos-embedding_mlp:False_n_embd:64_head:1_layers:2_vocab_size:128_itr:20000"
    "_checkpoint_time_1767672172.78.pt":
        {"kind": "Checkpoint", "step": 20000,
         "values": {"run": "dec29_tbyt", "without_pos": False, "use_mlp": False, "n_embd": 64, "n_heads": 1,
                    "n_layers": 2, "vocab_size": 128, "time": 1767672172.78}},
    "march14-withoutlayernorm-block_size:32-n_layers:2_itr:100000_checkpoint.pt":
        {"kind": "Checkpoint", "step": 100000,
         "values": {"run": "march14", "use_layernorm": False, "block_size": 32, "n_layers": 2}},
    "sortgpt_k16_methfixed_mlp1_L2_N256_E64_pos0_fln1_wd0p0_lr0p01_dseed1337_iseed1338__final.pt":
        {"kind": "Final", "step": None, "values": _OPTIMUM},
    "sortgpt_k16_methfixed_mlp1_L2_N256_E64_pos0_fln1_wd0p0_lr0p01_dseed1337_iseed1338__ckpt50000.pt":
        {"kind": "Checkpoint", "step": 50000, "values": _OPTIMUM},
    "std0p02_iseed1501__ckpt50000.pt":
        {"kind": "Checkpoint", "step": 50000, "values": {"init_std": 0.02, "init_seed": 1501}},
}  # fmt: skip
"""File names, and what they say."""
