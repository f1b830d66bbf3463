"""A real SLURM cluster of one node on this machine, in a folder of its own, for as long as a `with` block lasts.

`munged`, `slurmctld` and `slurmd` run as children of the test, on ports and a socket of their own, so that several
clusters, or a cluster that is on the machine anyway, do not meet. It needs Debian's packages `slurm-wlm` and `munge`,
and root, since `slurmd` starts jobs as their users.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo", "setpriv")
NODE = socket.gethostname().partition(".")[0]
START_SECONDS = 60

CONFIGURATION = """\
ClusterName=ckptman
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
# A requeued job waits until its old credential has expired: 2 minutes, if nothing is said here.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdParameters=config_overrides
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={node} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=cpu Nodes={node} Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={node} PriorityTier=2 MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as their users, so it must run as root"


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    folder: Path
    environment: Mapping[str, str]
    """What a program needs in its environment to talk to this cluster."""

    def run(self, *command: str) -> str:
        """What a SLURM command prints on stdout; RuntimeError with what it says on stderr where it fails."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of each job that has not ended, by its id (`12_3` for a job of an array)."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no job is left in the queue."""
        wait_for(lambda: not self.jobs(), seconds, "the queue to become empty")

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{file.name}:\n{file.read_text()[-1500:]}" for file in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster with two cores; its daemons and all that they started are gone at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="ckptman-slurm-", dir="/tmp"))  # a socket's path must be short
    configuration = folder / "slurm.conf"
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    running = Cluster(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        folder.chmod(0o755)  # munged is another user
        for name in ("controller", "node", "munge"):
            (folder / name).mkdir(mode=0o755)
        _write_key(folder / "munge")
        ports = _free_ports(2)
        configuration.write_text(
            CONFIGURATION.format(node=NODE, folder=folder, controller_port=ports[0], node_port=ports[1])
        )
        munge = folder / "munge"
        daemons.append(
            _start(
                ["munged", "--foreground", f"--socket={munge}/socket", f"--key-file={munge}/key",
                 f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"],
                folder / "munged.log", environment, user="munge",
            )
        )  # fmt: skip
        wait_for((munge / "socket").exists, START_SECONDS, "munged", daemons, running)
        daemons.append(_start(["slurmctld", "-D"], folder / "slurmctld.log", environment))
        daemons.append(_start(["slurmd", "-D"], folder / "slurmd.log", environment))
        wait_for(lambda: _node_state(running) == "idle", START_SECONDS, "the node to be idle", daemons, running)
        yield running
    finally:
        _stop(daemons, running)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(
    condition: Callable[[], object],
    seconds: float,
    what: str,
    daemons: list[subprocess.Popen[bytes]] | None = None,
    running: Cluster | None = None,
) -> None:
    """Wait until a condition holds; RuntimeError after `seconds`, or when a daemon has ended."""
    end = time.monotonic() + seconds
    while not condition():
        dead = [daemon.args for daemon in daemons or () if daemon.poll() is not None]
        if dead or time.monotonic() > end:
            why = f"{dead} ended" if dead else f"{seconds:.0f} s have passed"
            raise RuntimeError(f"waiting for {what}: {why}\n{running.logs() if running else ''}")
        time.sleep(0.1)


def processes_of(folder: Path) -> list[int]:
    """Processes of a cluster: those with its configuration in their environment. Jobs inherit it like daemons do."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _node_state(running: Cluster) -> str:
    try:
        return running.run("sinfo", "--noheader", "--format=%T", "--partition=cpu")
    except RuntimeError:
        return "unknown"  # slurmctld does not answer yet


def _write_key(folder: Path) -> None:
    key = folder / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    for path in (key, folder):
        shutil.chown(path, "munge", "munge")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _start(
    command: list[str], log: Path, environment: Mapping[str, str], *, user: str | None = None
) -> subprocess.Popen[bytes]:
    identity = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    with log.open("wb") as output:
        # Even a test that is killed leaves no daemon: the kernel ends them with their parent.
        return subprocess.Popen(
            ["setpriv", *identity, "--pdeathsig=KILL", "--", *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip


def _stop(daemons: list[subprocess.Popen[bytes]], running: Cluster) -> None:
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=10)
    # Jobs and their keepers, and a daemon that did not listen. What is killed may just have started something.
    for _ in range(50):
        left = processes_of(running.folder)
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for daemon in daemons:
        daemon.wait(timeout=10)
