"""A Slurm of one node on the loopback interface, Debian's munged, slurmctld and slurmd, while tests need it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
WAIT = 60  # seconds until the node must be up
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
KillWait=5
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no node can be started here, or None. Installs Debian's slurm-wlm where root can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if not all(map(shutil.which, PROGRAMS)):
        if shutil.which("apt-get") is None:
            return "no Slurm, and no apt-get to install slurm-wlm"
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for call in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
            done = subprocess.run(["apt-get", "-qq", *call], env=environment, capture_output=True, text=True)
            if done.returncode:
                return f"slurm-wlm cannot be installed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
    return None


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The node runs inside the block. Yields what a client needs in its environment."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf, munge, host = folder / "slurm.conf", folder / "munge.socket", socket.gethostname().partition(".")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2
    cpus, ports = len(os.sched_getaffinity(0)), _ports(2)
    conf.write_text(CONF.format(folder=folder, host=host, ports=ports, socket=munge, cpus=cpus, memory=memory))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("log", "pid", "seed")]
    environment = os.environ | {"SLURM_CONF": str(conf)}
    with ExitStack() as stack:
        for call in (
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}", *files],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf), "-N", host],
        ):
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            daemon = subprocess.Popen(call, env=environment, **quiet)
            stack.callback(_end, daemon)
            if call[0] == "munged":
                _until(munge.exists, folder)
        _until(lambda: "idle" in _said(["sinfo", "-h", "-o", "%T"], environment), folder)
        yield {"SLURM_CONF": str(conf)}


def _ports(number: int) -> list[int]:
    """Ports that nothing listens at."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in held]


def _said(call: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(call, env=environment, capture_output=True, text=True).stdout


def _until(condition: object, folder: Path) -> None:
    assert callable(condition)
    end = time.monotonic() + WAIT
    while not condition():
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
        assert time.monotonic() < end, f"the Slurm node did not come up\n{logs}"
        time.sleep(0.2)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
