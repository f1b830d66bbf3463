"""Logging a run to Weights & Biases. wandb is imported only when a run logs to it."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ckptman.errors import MachineError


class WandbMode(StrEnum):
    """Where metrics go."""

    AUTO = "auto"
    """`online` where an API key is set up, otherwise `offline`."""
    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


def resolve(mode: WandbMode) -> WandbMode:
    """What `auto` means on this machine: WANDB_MODE if it is set, otherwise whether there is an API key."""
    if mode is not WandbMode.AUTO:
        return mode
    said = os.environ.get("WANDB_MODE", "")
    if said in (WandbMode.ONLINE, WandbMode.OFFLINE, WandbMode.DISABLED):
        return WandbMode(said)
    return WandbMode.ONLINE if has_key() else WandbMode.OFFLINE


class WandbLogger:
    """One W&B run; a resumed run keeps its id.

    Each process that trains a run leaves a folder of its own. Online, W&B joins them to one run; offline, `wandb sync`
    does, and so does whoever goes by the run id.

    Raises:
        MachineError: (`wandb-failed`) if wandb cannot start.
    """

    def __init__(
        self,
        mode: WandbMode,
        folder: Path,
        config: Mapping[str, Any],
        *,
        run_id: str,
        project: str,
        entity: str | None,
        group: str,
    ) -> None:
        self._run: Any = None
        mode = resolve(mode)
        if mode is WandbMode.DISABLED:
            return
        online = mode is WandbMode.ONLINE
        check_can_start(mode)
        try:
            import wandb

            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=project,
                entity=entity,
                group=group,
                config=dict(config),
                id=run_id,
                resume="allow" if online else None,
                mode="online" if online else "offline",
                dir=str(folder),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except Exception as error:  # wandb raises its own kinds, and those of its services
            raise _cannot_start(f"{type(error).__name__}: {error}") from error

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log metrics at a step (iterations done)."""
        if self._run is not None:
            self._run.log(dict(metrics), step=step)

    def finish(self, *, failed: bool = False) -> None:
        """End the run. A run that will be resumed ends like one that failed, so that nobody takes it for complete."""
        if self._run is not None:
            run, self._run = self._run, None
            try:
                run.finish(exit_code=1 if failed else 0)
            except Exception:
                # A signal to the whole job, as SLURM sends it, ends wandb's service too. The state is saved by now, and
                # what the service had not written yet is lost from the log of this process only.
                if not failed:
                    raise


def check_can_start(mode: WandbMode) -> None:
    """Check what can be known before wandb starts: that it is installed, and, online, that there is an API key.

    Without a key wandb would ask for one, in the middle of a run.

    Raises:
        MachineError: (`wandb-failed`).
    """
    mode = resolve(mode)
    if mode is WandbMode.DISABLED:
        return
    if find_spec("wandb") is None:
        raise _cannot_start("it is not installed")
    if mode is WandbMode.ONLINE and not has_key():
        raise _cannot_start("no API key is set up (wandb login, or WANDB_API_KEY)")


def has_key() -> bool:
    """Whether wandb finds the means to log in: an API key or an identity token."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _cannot_start(reason: str) -> MachineError:
    return MachineError(
        f"wandb cannot start: {reason}",
        code="wandb-failed",
        fix="Log to files with --wandb offline, or not at all with --wandb disabled.",
    )
