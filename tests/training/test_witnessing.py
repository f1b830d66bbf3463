"""What weights testify of themselves, without names and configurations."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import UsageError
from ckptman.training import witnessing
from ckptman.training.loop import initial_model
from ckptman.training.model import GPT
from ckptman.training.sorting import draw_batch
from ckptman.training.train_step import make_optimizer, plain_loss_and_backward
from ckptman.training.witnessing import NORMAL, TESTED, XAVIER, witness
from tests.helpers.short_runs import short_config

OWN, OWN_XAVIER, LAB_NORMAL, LAB_XAVIER = "own", "own, Xavier", "lab's, normal", "lab's, Xavier"


def lab_model(config: TrainConfig, *, xavier: bool) -> GPT:
    """A model as the lab's trainer makes it: PyTorch's modules draw, then all matrices are drawn again."""
    model = initial_model(config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(config.seed)
        modules = [
            type(module)(*((module.num_embeddings, module.embedding_dim) if isinstance(module, nn.Embedding)
                           else (module.in_features, module.out_features, module.bias is not None)))
            for module in model.modules() if isinstance(module, nn.Embedding | nn.Linear)
        ]  # fmt: skip
        mine = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.Linear)]
        for module, drawn in zip(mine, modules, strict=True):
            if xavier:
                nn.init.xavier_uniform_(drawn.weight)
            else:
                nn.init.normal_(drawn.weight, std=0.02)
            module.weight.copy_(drawn.weight)  # that of the head, drawn last, is the embedding's
        if not xavier:
            for name, weight in model.named_parameters():
                if name.endswith("c_proj.weight"):
                    nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layers))
        model.wpe.weight.zero_()
    return model


def train(model: GPT, config: TrainConfig, *, first: int = 0, iterations: int = 8) -> GPT:
    optimizer = make_optimizer(model, learning_rate=1e-3, weight_decay=0.0)
    for iteration in range(first, first + iterations):
        optimizer.zero_grad(set_to_none=True)
        plain_loss_and_backward(model, draw_batch(config, iteration))
        optimizer.step()
    return model


def initialized(how: str, config: TrainConfig) -> GPT:
    if how in (OWN, OWN_XAVIER):
        return initial_model(replace(config, use_xavier_init=how == OWN_XAVIER))
    return lab_model(config, xavier=how == LAB_XAVIER)


def save(model: nn.Module, file: Path, **values: Any) -> Path:
    torch.save({"model": model.state_dict(), **values}, file)
    return file


def only(file: Path, **options: Any) -> witnessing.Testimony:
    (found,) = witness(file, **options).files
    return found


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_of_a_hundred_runs_without_names_and_configurations_every_seed_is_named(tmp_path: Path) -> None:
    shuffled = random.Random(0)
    seeds = shuffled.sample(range(600), 100)
    names = shuffled.sample(range(100), 100)
    expected = {}
    for index, (seed, name) in enumerate(zip(seeds, names, strict=True)):
        how = (OWN, LAB_NORMAL, LAB_XAVIER)[index % 3]
        config = short_config(seed=seed, n_embd=(12, 16)[index % 2], n_layers=1 + index % 4 // 2, use_mlp=index % 5 > 1)
        save(train(initialized(how, config), config), tmp_path / f"{name:03}.pt")
        expected[f"{name:03}.pt"] = seed, XAVIER if how == LAB_XAVIER else NORMAL
    result = witness(tmp_path, seeds=range(600))
    assert {Path(item.path).name: (item.seed, item.initialization) for item in result.files} == expected
    assert all(item.trained and item.p_value is not None and item.p_value < 1e-6 for item in result.files)
    assert all(item.same_run_as == () for item in result.files)
    assert result.refused == ()
    others = witness(tmp_path, seeds=range(600, 1200))  # the control: none of these seeds drew anything
    assert {item.seed for item in others.files} == {item.p_value for item in others.files} == {None}


@pytest.mark.parametrize("how", [OWN, OWN_XAVIER, LAB_NORMAL, LAB_XAVIER])
@pytest.mark.parametrize("positions", [True, False])
def test_untrained_weights_are_their_seeds_initialization_to_the_bit(how: str, positions: bool, tmp_path: Path) -> None:
    config = short_config(seed=7, n_embd=12, n_heads=2, n_layers=2, without_pos=not positions)
    found = only(save(initialized(how, config), tmp_path / "a.pt"), seeds=range(20))
    assert (found.seed, found.trained) == (7, False)
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert found.same_run_as == ()
    trained = only(save(train(initialized(how, config), config), tmp_path / "a.pt"), seeds=range(20))
    assert (trained.seed, trained.trained) == (7, True)


def test_weights_that_were_drawn_otherwise_name_no_seed(tmp_path: Path) -> None:
    model = initial_model(short_config(seed=7))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(99))
    found = only(save(model, tmp_path / "a.pt"), seeds=range(500))
    assert (found.seed, found.p_value, found.initialization) == (None, None, None)


def test_weights_of_another_architecture_cannot_be_told(tmp_path: Path) -> None:
    found = only(save(nn.Sequential(nn.Linear(9, 9), nn.ReLU()), tmp_path / "a.pt"))
    assert (found.seed, found.initialization, found.problem) == (None, None, None)


def test_the_seeds_are_those_of_the_grid_unless_others_are_given(tmp_path: Path) -> None:
    file = save(initial_model(short_config(seed=2337)), tmp_path / "a.pt")
    assert (only(file).seed, witness(file).seeds) == (2337, 3)
    assert only(file, seeds=[1337]).seed is None
    with pytest.raises(UsageError, match="whole numbers"):
        witness(file, seeds=[-1])


def test_progress_counts_every_draw_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    witness(save(initial_model(short_config()), tmp_path / "a.pt"), seeds=range(40),
            progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told[-1] == (160, 160)
    assert told == sorted(told)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_two_files_of_a_run_are_known_from_those_of_another_with_the_seed(tmp_path: Path) -> None:
    for name, values in {"a": {}, "b": {"train_min_k": 2}, "c": {"seed": 8}}.items():
        config = short_config(**{"seed": 7, "n_embd": 16, "effective_batch_size": 64, **values})
        model = train(initial_model(config), config, iterations=40)
        save(model, tmp_path / f"{name}1.pt", iters_done=40)
        save(train(model, config, first=40, iterations=2), tmp_path / f"{name}2.pt", iters_done=42)
    result = witness(tmp_path, seeds=range(10))
    same = {Path(item.path).stem: [Path(other).stem for other in item.same_run_as] for item in result.files}
    assert same == {"a1": ["a2"], "a2": ["a1"], "b1": ["b2"], "b2": ["b1"], "c1": ["c2"], "c2": ["c1"]}
    unlike = {Path(item.path).stem: {Path(other).stem for other in item.unlike} for item in result.files}
    assert unlike["c1"] == {"a1", "a2", "b1", "b2"}
    assert unlike["a1"] == {"c1", "c2"}


def test_a_copy_is_of_the_run_of_its_original_and_untrained_weights_are_of_no_certain_run(tmp_path: Path) -> None:
    config = short_config(seed=7)
    trained, bare = train(initial_model(config), config), initial_model(config)
    files = [save(model, tmp_path / name) for name, model in
             {"a.pt": trained, "b.pt": trained, "c.pt": bare, "d.pt": bare}.items()]  # fmt: skip
    found = witness(files, seeds=[7]).files
    assert [item.same_run_as for item in found] == [(str(files[1]),), (str(files[0]),), (), ()]
    assert [item.unlike for item in found] == [(), (), (), ()]


@pytest.mark.parametrize("how", [OWN, OWN_XAVIER, LAB_NORMAL, LAB_XAVIER])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_say_the_same(how: str, dtype: torch.dtype, tmp_path: Path) -> None:
    config = short_config(seed=7, n_embd=16)
    models = {"trained": train(initialized(how, config), config), "bare": initialized(how, config),
              "other": train(initialized(how, replace(config, seed=8)), config)}  # fmt: skip
    files = []
    for name, model in models.items():
        for kind in (torch.float32, dtype):
            weights = {key: value.to(kind) for key, value in model.state_dict().items()}
            torch.save({"model": weights, "iters_done": 8}, tmp_path / f"{name}_{kind}.pt")
            files.append(tmp_path / f"{name}_{kind}.pt")
    found = witness(files, seeds=range(20)).files
    assert [(item.seed, item.trained) for item in found] == [(7, True)] * 2 + [(7, False)] * 2 + [(8, True)] * 2
    assert [item.same_run_as for item in found] == [
        (str(files[1]),), (str(files[0]),), (), (), (str(files[5]),), (str(files[4]),)
    ]  # fmt: skip
    assert set(found[0].unlike) >= set(map(str, files[4:]))  # the control


def changed(model: GPT, change: Callable[[torch.Tensor], torch.Tensor]) -> GPT:
    """A copy whose matrices were changed."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.dim() == 2:
                weight.copy_(change(weight))
    return other


def average(one: GPT, other: GPT, share: float) -> GPT:
    mixed = copy.deepcopy(one)
    with torch.no_grad():
        for weight, first, second in zip(mixed.parameters(), one.parameters(), other.parameters(), strict=True):
            weight.copy_((1 - share) * first + share * second)
    return mixed


@pytest.mark.parametrize("share", [0.3, 0.5, 0.55])
def test_an_average_of_runs_is_of_no_seed_and_of_no_run(share: float, tmp_path: Path) -> None:
    config = short_config(seed=7, n_embd=16)
    one, other, later = (train(initial_model(replace(config, seed=seed)), config, iterations=count)
                         for seed, count in ((7, 8), (8, 8), (7, 16)))  # fmt: skip
    models = {"a": average(one, other, share), "b": one, "c": other, "d": average(one, later, share)}
    found = witness([save(model, tmp_path / f"{name}.pt") for name, model in models.items()], seeds=range(20)).files
    assert [item.mixed for item in found] == [(7, 8), (), (), ()]
    assert [item.seed for item in found] == [None, 7, 8, 7]  # the control: an average within a run is of its seed
    assert (found[0].p_value, found[0].same_run_as, found[0].unlike) == (None, (), ())


def pruned(weight: torch.Tensor) -> torch.Tensor:
    return weight * (weight.abs() > weight.abs().flatten().kthvalue(int(0.9 * weight.numel())).values)


def of_four_bits(weight: torch.Tensor) -> torch.Tensor:
    step = weight.abs().max() / 7
    return (weight / step).round() * step if step else weight


@pytest.mark.parametrize("iters_done", [{}, {"iters_done": 8}])
def test_what_is_done_to_weights_later_leaves_the_seed_and_makes_no_other_run(
    iters_done: dict[str, int], tmp_path: Path
) -> None:
    config = short_config(seed=7, n_embd=16, effective_batch_size=64)
    model = train(initial_model(config), config)
    tuned = train(copy.deepcopy(model), replace(config, seed=9, train_min_k=2), iterations=20)
    models = [model, changed(model, pruned), changed(model, of_four_bits), changed(model, lambda weight: 3 * weight),
              tuned, train(copy.deepcopy(model), config, first=8, iterations=300)]  # fmt: skip
    files = [save(each, tmp_path / f"{i}.pt", **iters_done) for i, each in enumerate(models)]
    found = witness(files, seeds=range(300)).files
    assert [(item.seed, item.trained, item.unlike) for item in found] == [(7, True, ())] * len(models)


def test_weights_of_the_other_sign_are_of_no_seed_and_of_no_other_run(tmp_path: Path) -> None:
    config = short_config(seed=7, n_embd=64)
    model = train(initial_model(config), config)
    models = [model, changed(model, lambda weight: -weight), changed(model, torch.randn_like)]
    found = witness([save(each, tmp_path / f"{i}.pt") for i, each in enumerate(models)], seeds=range(10)).files
    assert [item.seed for item in found] == [7, None, None]
    assert [len(item.unlike) for item in found] == [1, 1, 2]  # the control: those of no seed at all


def test_seeds_of_which_torch_takes_the_same_bits_are_not_told_apart(tmp_path: Path) -> None:
    file = save(train(initial_model(config := short_config(seed=2**32 + 7)), config), tmp_path / "a.pt")
    assert [only(file, seeds=[seed]).seed for seed in (2**32 + 7, 7, 8)] == [2**32 + 7, 7, None]
    both = only(file, seeds=[7, 2**32 + 7])
    assert both.seed in (7, 2**32 + 7)
    assert both.mixed == ()


# --- broken weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "problem"), [(math.nan, "not-finite"), (math.inf, "not-finite"), (0.5, "constant")])
def test_weights_that_no_training_gives_are_named(value: float, problem: str, tmp_path: Path) -> None:
    model = initial_model(short_config(seed=7))
    with torch.no_grad():
        model.blocks[0].attn.c_attn.weight.fill_(value)
    found = only(save(model, tmp_path / "a.pt"), seeds=[7])
    assert (found.problem, found.tensor, found.seed, found.trained) == (problem, TESTED, None, None)


def test_a_file_that_is_no_checkpoint_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    save(initial_model(short_config(seed=7)), tmp_path / "b.pt")
    result = witness(tmp_path, seeds=[7])
    assert [item.seed for item in result.files] == [7]
    assert [item.code for item in result.refused] == ["not-a-checkpoint"]
    assert set(result.to_json()["files"][0]) >= {"path", "seed", "p_value", "trained", "initialization", "same_run_as"}
