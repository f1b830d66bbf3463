"""When W&B logs where, and how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptman.wandb_logger as wandb_logger
from ckptman.errors import MachineError
from ckptman.wandb_logger import WandbLogger, WandbMode, check_can_start, resolve


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_auto_is_offline_without_a_key_and_online_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(WandbMode.AUTO) is WandbMode.OFFLINE
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert resolve(WandbMode.AUTO) is WandbMode.ONLINE
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert resolve(WandbMode.AUTO) is WandbMode.OFFLINE  # the key is for another server
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert resolve(WandbMode.AUTO) is WandbMode.ONLINE


def test_the_environment_decides_over_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve(WandbMode.AUTO) is WandbMode.DISABLED
    assert resolve(WandbMode.OFFLINE) is WandbMode.OFFLINE


def test_online_without_a_key_fails_instead_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_start(WandbMode.OFFLINE)
    with pytest.raises(MachineError) as caught:
        check_can_start(WandbMode.ONLINE)
    assert caught.value.code == "wandb-failed"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    check_can_start(WandbMode.ONLINE)


def test_without_wandb_only_disabled_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_logger, "find_spec", lambda name: None)
    check_can_start(WandbMode.DISABLED)
    with pytest.raises(MachineError, match="not installed"):
        check_can_start(WandbMode.OFFLINE)


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    logger = WandbLogger(
        WandbMode.DISABLED, tmp_path / "wandb", {}, run_id="abcd1234", project="p", entity=None, group="g"
    )
    logger.log({"loss": 1.0}, step=1)
    logger.finish()
    assert not (tmp_path / "wandb").exists()
