"""A SLURM of one node on this machine's loopback: its own folder, key and ports; it stops what it started.

    python tests/slurm/cluster.py COMMAND…      # runs a command with a cluster around it, and ends with its code

It needs Debian's slurmctld, slurmd, slurm-client and munge (:func:`install`). Its daemons and commands read and write its
own folder, and listen on 127.0.0.1 alone: /etc/slurm and a cluster that this machine belongs to are left alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol", "munged")
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

CONFIGURATION = """\
ClusterName=advmerge
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
ReturnToService=2
MinJobAge=300
KillWait=2
JobRequeue=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mb} Gres=gpu:{cores} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed here."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]


def install() -> str:
    """Install the packages where they are missing; the reason why that cannot be done, or an empty text.

    As root on Debian or Ubuntu. SLURM's own services lack a configuration and so do not start; munge's may.
    """
    if not missing():
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"SLURM is not installed ({', '.join(missing())} missing), and only root can install it, with apt-get"
    # In run level 1 the packages leave their services alone.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    commands = (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES],
    )
    for command in commands:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            return f"{' '.join(command)} failed: {done.stdout.strip()[-300:]}"
    return f"apt-get installed no {', '.join(missing())}" if missing() else ""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nothing listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def configure(folder: Path) -> dict[str, str]:
    """Write the cluster's files; the environment in which SLURM's commands talk to it."""
    controller_port, node_port = free_ports(2)
    host = socket.gethostname().split(".")[0]
    cores = min(len(os.sched_getaffinity(0)), 4)
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    values = {
        "host": host,
        "controller_port": controller_port,
        "node_port": node_port,
        "user": user,
        "folder": folder,
        "cores": cores,
        "memory_mb": memory_mb,
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    # What stands in for GPUs: any character devices will do, nobody opens them.
    devices = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")[:cores]
    (folder / "gres.conf").write_text("".join(f"NodeName={host} Name=gpu File={file}\n" for file in devices))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    # Inside a job the executor plugin drops SLURM_CONF from srun's environment.
    wrapper = folder / "bin" / "srun"
    srun = shutil.which("srun", path=SEARCH)
    wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {srun} "$@"\n')
    wrapper.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    return {**kept, "PATH": f"{folder / 'bin'}:{SEARCH}", "SLURM_CONF": str(folder / "slurm.conf")}


def until(condition, what: str, log: Path, patience: float = 30) -> None:
    """Wait for a daemon; a RuntimeError with the end of its log if it is not there in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{what} did not come up within {patience:.0f} s: {said}")
        time.sleep(0.1)


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A running cluster; yields the environment for SLURM's commands. Its jobs and daemons end with the block."""
    # Short, because a socket's path must be; nobody else may write to it, munge insists.
    folder = Path(tempfile.mkdtemp(prefix="advmerge-slurm-"))
    folder.chmod(0o755)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        environment = configure(folder)

        def daemon(*command: str) -> None:
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
                )

        def answers(*command: str) -> bool:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
            return done.returncode == 0 and "down" not in done.stdout.lower() and bool(done.stdout.strip())

        at = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
        at |= {"seed-file": "munge.seed", "log-file": "munged.log"}
        daemon("munged", "--foreground", "--force", *(f"--{option}={folder / name}" for option, name in at.items()))
        until((folder / "munge.socket").exists, "munged", folder / "munged.out")
        conf = environment["SLURM_CONF"]
        daemon("slurmctld", "-D", "-f", conf)
        until(lambda: answers("scontrol", "ping"), "slurmctld", folder / "slurmctld.log")
        daemon("slurmd", "-D", "-f", conf)
        until(lambda: answers("sinfo", "-h", "-t", "idle", "-o", "%N"), "slurmd", folder / "slurmd.log")
        yield environment
    finally:
        if len(daemons) == 3:
            # Jobs first: a daemon that is gone cannot end them.
            subprocess.run(["scancel", "--quiet", "--full", "--user", str(os.getuid())], env=environment, timeout=30)

            def idle() -> bool:
                listed = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, timeout=30)
                return not listed.stdout.strip()

            deadline = time.monotonic() + 20
            while not idle() and time.monotonic() < deadline:
                time.sleep(0.2)
        for process in reversed(daemons):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main(command: Sequence[str]) -> int:
    """Run a command with a cluster around it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if reason := install():
        print(f"error: {reason}", file=sys.stderr)
        return 1
    with cluster() as environment:
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
