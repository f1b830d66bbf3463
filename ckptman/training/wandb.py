"""Logging a run to Weights & Biases. wandb is imported only when a run logs to it."""

from __future__ import annotations

import netrc
import os
import socket
import sys
import threading
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from contextlib import suppress
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ckptman.fs import make_folders
from ckptman.text import MachineError, UsageError

PROBE_SECONDS = 5.0
"""Time in which W&B's server must answer. wandb itself tries for about two minutes, and says nothing meanwhile."""


class WandbMode(StrEnum):
    """Where metrics go."""

    AUTO = "auto"
    """`online` where an API key is set up and the server answers, otherwise `offline`."""
    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


_SAID_BY_WANDB_MODE = {
    "online": WandbMode.ONLINE,
    "run": WandbMode.ONLINE,
    "shared": WandbMode.ONLINE,
    "offline": WandbMode.OFFLINE,
    "dryrun": WandbMode.OFFLINE,
    "disabled": WandbMode.DISABLED,
}
"""The values that wandb takes in WANDB_MODE, the older names among them."""

_TO_FILES = "metrics are logged to files (send them later with wandb sync)"

_TRUE = ("1", "true", "yes", "on")


def check_mode(text: str) -> WandbMode:
    """The mode that an option names, if it and the environment are such that wandb can start.

    Raises:
        UsageError: (`bad-wandb`) there is no such mode, or WANDB_MODE has a value that wandb does not take, whatever
            else it is told.
    """
    if text not in tuple(WandbMode):
        known = ", ".join(WandbMode)
        raise UsageError(f"--wandb {text!r} is no mode", code="bad-wandb", fix=f"Modes are: {known}.")
    mode = WandbMode(text)
    if mode is not WandbMode.DISABLED:
        _said_by_environment()
    return mode


def settle(mode: WandbMode) -> tuple[WandbMode, str]:
    """What a mode means on this machine, and what is to be said about it: a sentence, or nothing.

    `auto` means what WANDB_DISABLED and WANDB_MODE say. Where they are not set, it means `online` if there is an API
    key and the server answers, otherwise `offline`.

    Raises:
        UsageError: (`bad-wandb`) as `check_mode`.
    """
    mode = check_mode(mode)
    if mode is not WandbMode.AUTO:
        return mode, ""
    said = _said_by_environment()
    if said is not None:
        return said, ""
    if not has_key():
        return WandbMode.OFFLINE, f"no W&B API key is set up: {_TO_FILES}"
    if not server_answers():
        return WandbMode.OFFLINE, f"{_no_answer()}: {_TO_FILES}"
    return WandbMode.ONLINE, ""


def resolve(mode: WandbMode) -> WandbMode:
    """What a mode means on this machine; as `settle`."""
    return settle(mode)[0]


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
        run_id: str | None,
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
            wandb = _import_wandb()
            make_folders(folder, folder)
            self._run = wandb.init(
                project=project,
                entity=entity,
                group=group,
                config=dict(config),
                id=run_id,
                resume="allow" if online else None,
                mode="online" if online else "offline",
                dir=str(folder),
                reinit=None if wandb.run is None else "create_new",  # beside the runs that are trained at once
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except Exception as error:  # wandb raises its own kinds, and those of its services
            raise _cannot_start(f"{type(error).__name__}: {error}", online=online) from error

    @property
    def run_id(self) -> str | None:
        """The id of the run that wandb began, which may be another than it was asked for (under `wandb agent`)."""
        return None if self._run is None else str(self._run.id)

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


def keep_offline() -> None:
    """Have wandb send nothing from this process, which is the caller's own and logs to files alone.

    A run that is offline sends nothing, but wandb itself tells its server how long its calls take, unless the whole
    process is offline: a name is looked up once a minute and at the end, and without a network that can take long.

    Raises:
        MachineError: (`wandb-failed`) if wandb cannot start.
    """
    check_can_start(WandbMode.OFFLINE)
    try:
        wandb = _import_wandb()
        wandb.setup(settings=wandb.Settings(mode="offline", silent=True))
    except Exception as error:  # as a run's
        raise _cannot_start(f"{type(error).__name__}: {error}") from error


def _import_wandb() -> ModuleType:
    if "wandb" not in sys.modules:
        # A service that an outer process began (a notebook, say) takes a run of ours that was killed for one that
        # still goes on, and refuses its id when it is resumed.
        os.environ.pop("WANDB_SERVICE", None)
    import wandb

    return wandb


def check_can_start(mode: WandbMode, *, runs: int = 1) -> None:
    """Check what can be known before wandb starts: that it is installed; online, that there is a key and a server.

    Without a key wandb would ask for one, in the middle of a run.

    Args:
        runs: How many runs are to be logged.

    Raises:
        MachineError: (`wandb-failed`).
        UsageError: (`bad-wandb`) as `check_mode`; or there are several runs, and `wandb agent` gives them one run id.
    """
    mode = resolve(mode)
    if mode is WandbMode.DISABLED:
        return
    if runs > 1 and os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
        raise UsageError(
            f"wandb agent gives one W&B run, {os.environ['WANDB_RUN_ID']}, and {runs} runs are to be trained",
            code="bad-wandb",
            fix="Let the agent's command train one run, as with --seed ${seed}; or log nothing: --wandb disabled.",
        )
    if find_spec("wandb") is None:
        raise _cannot_start("it is not installed")
    if mode is not WandbMode.ONLINE:
        return
    if not has_key():
        raise _cannot_start("no API key is set up (wandb login, or WANDB_API_KEY)", online=True)
    if not server_answers():
        raise _cannot_start(_no_answer(), online=True)


def has_key() -> bool:
    """Whether wandb finds the means to log in: an API key or an identity token."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(_server().hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server_answers() -> bool:
    """Whether W&B's server takes a connection within `PROBE_SECONDS`; True where a proxy stands between."""
    from urllib.request import getproxies  # it takes its time to import

    server = _server()
    if getproxies().keys() & {server.scheme, "all"} or any(map(os.environ.get, _PROXIES)):
        return True
    connected = threading.Event()

    def connect() -> None:
        with suppress(OSError, ValueError):  # a name that cannot be one is a ValueError
            port = server.port or (80 if server.scheme == "http" else 443)
            with socket.create_connection((server.hostname or "", port), timeout=PROBE_SECONDS):
                connected.set()

    # In a thread, since looking up a name can take long, and has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return connected.is_set()


_PROXIES = ("WANDB_HTTP_PROXY", "WANDB_HTTPS_PROXY")


def _server() -> SplitResult:
    """The address of W&B's server: from the environment, else from wandb's own settings, else the public one."""
    return urlsplit(os.environ.get("WANDB_BASE_URL") or _configured_server() or "https://api.wandb.ai")


def _configured_server() -> str:
    """The server that `wandb login --host` has written into wandb's settings; empty without."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    settings = ConfigParser(interpolation=None)
    try:
        settings.read(Path(folder, "settings"))
        return settings.get("default", "base_url", fallback="")
    except (OSError, ConfigParserError, UnicodeDecodeError):
        return ""


def _no_answer() -> str:
    return f"the W&B server {_server().hostname} cannot be reached within {PROBE_SECONDS:g} s"


def _said_by_environment() -> WandbMode | None:
    if os.environ.get("WANDB_DISABLED", "").lower() in _TRUE:
        return WandbMode.DISABLED
    said = os.environ.get("WANDB_MODE", "")
    if said and said not in _SAID_BY_WANDB_MODE:
        raise UsageError(
            f"the environment has WANDB_MODE={said}, which is no mode of wandb",
            code="bad-wandb",
            fix=f"Unset it, or set it to one of: {', '.join(_SAID_BY_WANDB_MODE)}.",
        )
    return _SAID_BY_WANDB_MODE.get(said)


def _cannot_start(reason: str, *, online: bool = False) -> MachineError:
    to_files = "Log to files with --wandb offline, or not at all with --wandb disabled."
    nothing = "Log nothing there with --wandb disabled; the learning curve is kept beside the run all the same."
    return MachineError(f"wandb cannot start: {reason}", code="wandb-failed", fix=to_files if online else nothing)
