"""When W&B logs where, and how it fails."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptman.training.wandb as wandb_logger
from ckptman.text.errors import MachineError, UsageError
from ckptman.training.wandb import WandbLogger, WandbMode, check_can_start, check_mode, resolve, settle

SERVER_ANSWERS = wandb_logger.server_answers


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set up, and no connection leaves the machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(wandb_logger, "server_answers", lambda: True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server on this machine that W&B's address is set to, with the true probe and a key."""
    monkeypatch.setattr(wandb_logger, "server_answers", SERVER_ANSWERS)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening


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


@pytest.mark.parametrize(
    ("said", "mode"),
    [("dryrun", "offline"), ("offline", "offline"), ("run", "online"), ("shared", "online"), ("disabled", "disabled")],
)
def test_wandbs_own_names_of_modes(monkeypatch: pytest.MonkeyPatch, said: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", said)
    assert resolve(WandbMode.AUTO) == mode
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert resolve(WandbMode.AUTO) is WandbMode.DISABLED
    monkeypatch.setenv("WANDB_DISABLED", "false")
    assert resolve(WandbMode.AUTO) == mode


def test_a_mode_that_wandb_does_not_take_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "bogus")
    for mode in ("auto", "online", "offline"):  # wandb refuses to start in any of them
        with pytest.raises(UsageError, match="WANDB_MODE=bogus"):
            check_mode(mode)
    assert check_mode("disabled") is WandbMode.DISABLED
    monkeypatch.setenv("WANDB_MODE", "online")
    assert check_mode("auto") is WandbMode.AUTO
    with pytest.raises(UsageError, match="'sometimes' is no mode"):
        check_mode("sometimes")


def test_a_server_that_does_not_answer(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_start(WandbMode.ONLINE)
    assert settle(WandbMode.AUTO) == (WandbMode.ONLINE, "")
    server.close()
    with pytest.raises(MachineError, match=r"127\.0\.0\.1 cannot be reached") as caught:
        check_can_start(WandbMode.ONLINE)
    assert caught.value.code == "wandb-failed"
    assert "--wandb offline" in caught.value.fix
    mode, note = settle(WandbMode.AUTO)
    assert mode is WandbMode.OFFLINE
    assert "cannot be reached" in note
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")  # what is behind it cannot be told
    assert settle(WandbMode.AUTO) == (WandbMode.ONLINE, "")


def test_a_name_that_takes_long_to_look_up_is_no_answer(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_logger.server_answers()
    monkeypatch.setattr(wandb_logger, "PROBE_SECONDS", 0.05)
    looked_up = threading.Event()

    def slow(*_: object, **__: object) -> socket.socket:
        looked_up.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)
    assert not wandb_logger.server_answers()
    assert not looked_up.is_set()
    looked_up.set()


def test_the_server_of_wandbs_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password secret\n")
    assert resolve(WandbMode.AUTO) is WandbMode.OFFLINE  # the key is for another server
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    assert resolve(WandbMode.AUTO) is WandbMode.ONLINE


def test_online_without_a_key_fails_instead_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_start(WandbMode.OFFLINE)
    with pytest.raises(MachineError) as caught:
        check_can_start(WandbMode.ONLINE)
    assert caught.value.code == "wandb-failed"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    check_can_start(WandbMode.ONLINE)


def test_an_agent_gives_its_one_run_id_to_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_start(WandbMode.OFFLINE, runs=2)  # the control
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "agent0001")
    check_can_start(WandbMode.OFFLINE, runs=1)
    check_can_start(WandbMode.DISABLED, runs=2)
    with pytest.raises(UsageError, match="one W&B run, agent0001, and 2 runs"):
        check_can_start(WandbMode.OFFLINE, runs=2)


def test_offline_for_want_of_a_key_is_said_and_not_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(WandbMode.AUTO)[1].startswith("no W&B API key is set up: metrics are logged to files")
    assert settle(WandbMode.OFFLINE) == (WandbMode.OFFLINE, "")  # as the jobs of a sweep are told
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert settle(WandbMode.AUTO) == (WandbMode.ONLINE, "")


def test_without_wandb_only_disabled_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_logger, "find_spec", lambda name: None)
    check_can_start(WandbMode.DISABLED)
    with pytest.raises(MachineError, match="not installed") as caught:
        check_can_start(WandbMode.OFFLINE)
    assert "--wandb offline" not in caught.value.fix


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    logger = WandbLogger(
        WandbMode.DISABLED, tmp_path / "wandb", {}, run_id="abcd1234", project="p", entity=None, group="g"
    )
    logger.log({"loss": 1.0}, step=1)
    logger.finish()
    assert not (tmp_path / "wandb").exists()
