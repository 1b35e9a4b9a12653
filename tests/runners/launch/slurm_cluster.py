"""A real Slurm on this machine: a controller and machines that are processes with a host name of their own.

Needs root and Debian's slurmctld, slurmd and slurm-client. Everything listens on loopback and lives in one folder.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranks import free_port

CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldParameters=idle_on_node_suspend
SchedulerParameters=batch_sched_delay=0,sched_interval=5
KillWait=5
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `conf` is its configuration, which every command of Slurm gets by SLURM_CONF."""

    folder: Path
    conf: Path

    def run(self, command: Sequence[str], **env: str) -> str:
        """Run a command of Slurm and return what it prints."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf), **env}
        ended = subprocess.run(command, env=environment, cwd=self.folder, text=True, capture_output=True, timeout=60)
        assert ended.returncode == 0, ended.stdout + ended.stderr + self.logs()
        return ended.stdout

    def state(self, job: str) -> str:
        """Return the state of a job, such as RUNNING."""
        fields = self.run(["scontrol", "show", "job", job]).split()
        return next(field.partition("=")[2] for field in fields if field.startswith("JobState="))

    def wait_for(self, job: str, states: Sequence[str], limit_s: float) -> str:
        """Wait until a job has one of some states, and return it."""
        until = time.monotonic() + limit_s
        while (state := self.state(job)) not in states and time.monotonic() < until:
            time.sleep(1)
        return state

    def logs(self) -> str:
        """Return the ends of the logs of all daemons."""
        files = sorted(self.folder.glob("slurm*.log"))
        return "".join(f"\n--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


@contextmanager
def cluster(folder: Path, *, machines: Sequence[str], cpus: int) -> Iterator[Cluster]:
    """Start a cluster of named machines, and stop it with all its jobs at the end of the block."""
    for program in ("slurmctld", "slurmd", "unshare"):
        assert shutil.which(program), f"{program} is missing; install Debian's slurmctld, slurmd and slurm-client"
    (folder / "state").mkdir(parents=True)
    names = "".join(f"127.0.0.1 {name}\n" for name in (*machines, socket.gethostname(), "localhost"))
    (folder / "hosts").write_text(names)
    nodes = "".join(
        f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname={name} Port={free_port()} CPUs={cpus} RealMemory=64000\n"
        for name in machines
    )
    conf = folder / "slurm.conf"
    text = CONFIG.format(host=socket.gethostname(), controller=free_port(), folder=folder)
    conf.write_text(text.replace("PartitionName", f"{nodes}PartitionName"))
    running = Cluster(folder, conf)
    daemons = [_start(["slurmctld", "-D", "-f", str(conf)], folder)]
    try:
        time.sleep(2)
        for name in machines:
            named = f"mount --bind {folder}/hosts /etc/hosts; hostname {name}; exec slurmd -D -f {conf}"
            daemons.append(_start(["unshare", "--uts", "--mount", "sh", "-c", named], folder))
        _wait_until_idle(running, len(machines))
        yield running
    finally:
        subprocess.run(["scancel", "--user=root"], env={**os.environ, "SLURM_CONF": str(conf)}, timeout=30)
        time.sleep(2)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _start(command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    log = (folder / f"slurm-{command[0]}-{time.monotonic_ns()}.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "SLURM_CONF": ""})


def _wait_until_idle(running: Cluster, count: int) -> None:
    until = time.monotonic() + 60
    while True:
        states = running.run(["sinfo", "--noheader", "--Node", "--format", "%T"]).split()
        if states.count("idle") == count:
            return
        assert time.monotonic() < until, f"{states}{running.logs()}"
        time.sleep(1)
