"""A SLURM of one's own: a controller and two "nodes" on this machine, from Debian's packages, without systemd."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
InactiveLimit=0
KillWait=30
MinJobAge=300
SlurmctldTimeout=60
SlurmdTimeout=60
Waittime=0
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
# the accounting data base that `sacct` would ask is one service too many: the controller remembers recent jobs itself
_SACCT = """\
#!{python}
import re, subprocess, sys
print("JobID|State|NodeList")
for job in [value for name, value in zip(sys.argv, sys.argv[1:]) if name == "-j"]:
    shown = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True).stdout
    for line in shown.splitlines():
        told = dict(re.findall(r"(\\w+)=(\\S*)", line))
        if "JobState" in told:
            array = "ArrayJobId" in told
            name = f"{{told['ArrayJobId']}}_{{told['ArrayTaskId']}}" if array else told["JobId"]
            print(f"{{name}}|{{told['JobState']}}|{{told.get('NodeList', '')}}")
"""


class Slurm:
    """The running daemons, and the environment in which a user of this cluster works."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen] = []
        for name in ("state", "bin"):
            (folder / name).mkdir()
        with (folder / "munge.key").open("wb") as key:
            key.write(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        sacct = folder / "bin" / "sacct"
        sacct.write_text(_SACCT.format(python=sys.executable))
        sacct.chmod(0o755)
        config = folder / "slurm.conf"
        config.write_text(_CONFIG.format(folder=folder, host=socket.gethostname(), ports=_free_ports(3)))
        commands = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "SLURM_CONF": str(config), "PATH": commands, "OMP_NUM_THREADS": "1"}
        # the names of the nodes are no hosts that could be found
        self.environment["MASTER_ADDR"] = "127.0.0.1"

    def start(self) -> None:
        """Starts the daemons and waits for both nodes."""
        config = self.environment["SLURM_CONF"]
        munge = [f"--{name}={self._folder / file}" for name, file in _MUNGE.items()]
        self._daemon("munged", "--foreground", *munge)
        time.sleep(0.5)
        self._daemon("slurmctld", "-D", "-c", "-f", config)
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node, "-f", config)
        until = time.monotonic() + 240
        while "idle 2" not in self.ask("sinfo", "-h", "-o", "%T %D"):
            assert time.monotonic() < until, (self._folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        """The output of a command."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def stop(self) -> None:
        """Ends all jobs and daemons."""
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        self.ask("scancel", "--user=root")
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(120)

    def _daemon(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.log").open("ab") as log:
            self._daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))


_MUNGE = {
    "key-file": "munge.key",
    "socket": "munge.socket",
    "pid-file": "munge.pid",
    "log-file": "munge.log",
    "seed-file": "munge.seed",
}


@pytest.fixture(scope="module")
def slurm():
    """A private SLURM; skips where the machine has none or does not let us start one."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here; on Debian: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a private SLURM is started as root, so that its daemons may start jobs")
    with tempfile.TemporaryDirectory() as folder:
        # munge wants a path that everybody may go, and pytest's own folders are closed
        Path(folder).chmod(0o755)
        cluster = Slurm(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
