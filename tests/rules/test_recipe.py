"""What `TrainConfig` refuses at construction, and from what it comes back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from ckptman.rules.recipe import TrainConfig, check_device_name
from ckptman.text.errors import UsageError


@pytest.mark.parametrize("name", ["learning_rate", "min_lr", "weight_decay"])
@pytest.mark.parametrize("value", ["abc", "1e-3", None, True, float("nan"), float("inf"), 10**400])
def test_rates_are_finite_numbers(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a finite number") as caught:
        TrainConfig(**{name: value})
    assert caught.value.code == "bad-config"
    for good in (1e-5, 1):
        values: dict[str, Any] = {"learning_rate": 1, name: good}
        assert getattr(TrainConfig(**values), name) == good


@pytest.mark.parametrize("name", ["allow_duplicates", "without_pos", "use_mlp", "use_layernorm", "use_compile"])
def test_flags_are_true_or_false(name: str) -> None:
    for value in (1, "yes", None):
        with pytest.raises(UsageError, match=f"{name} must be true or false, not {value!r}"):
            TrainConfig(**{name: value})  # type: ignore[arg-type]
    assert getattr(TrainConfig(**{name: True}), name) is True  # type: ignore[arg-type]


def test_seeds_are_those_that_a_run_folder_can_be_named_by() -> None:
    for seed in (2**63, 10**18, -1):
        with pytest.raises(UsageError, match="seed must be"):
            TrainConfig(seed=seed)
    assert TrainConfig(seed=10**18 - 1).seed == 10**18 - 1


def test_a_pickle_comes_back_with_slots_and_derived_keys() -> None:
    config = TrainConfig(n_layers=2)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    derived = {"sep_id": 5, "max_seq_len": 7, "total_vocab_size": 9}
    for state in ({**config.to_dict(), **derived}, (None, {**config.to_dict(), **derived})):
        found = TrainConfig.__new__(TrainConfig)
        found.__setstate__(state)
        assert found == config
        assert found.sep_id == 128
        assert vars(found) == vars(config)


@pytest.mark.parametrize("name", ["meta", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:01", "", "cpu\n"])
def test_names_that_are_no_devices(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_device_name(name)
    assert caught.value.code == "bad-device"


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps", "xpu:1"])
def test_names_of_devices(name: str) -> None:
    check_device_name(name)


@pytest.mark.parametrize("key", ["wandb_project", "wandb_entity", "save_dir"])
def test_what_is_no_text_is_refused_where_one_belongs(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig.from_dict({key: 1}, strict=True)
    assert caught.value.message == f"{key} must be a text, not 1"
    assert getattr(TrainConfig.from_dict({key: "1"}, strict=True), key) == "1"
    assert getattr(TrainConfig.from_dict({key: 1}), key) == 1, "of a checkpoint, whatever it holds is read"
