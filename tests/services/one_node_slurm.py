"""A Slurm of one node, two cores and no accounting, for tests and for trying the launcher.

    eval "$(python tests/services/one_node_slurm.py start /tmp/slurm)"     sets SLURM_CONF
    python tests/services/one_node_slurm.py stop /tmp/slurm

It needs the Debian packages slurm-wlm and munge, and neither systemd nor cgroups nor a user of its
own: the daemons run as whoever starts them, on loopback ports, and keep everything in one folder.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = "slurm-wlm munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
START_S, STOP_S = 60.0, 20.0
_STARTED: list[subprocess.Popen[bytes]] = []

# `cred_expire` is also how long a requeued job waits before it may start again: 2 minutes by
# default. `config_overrides` gives the node two cores whatever the machine has. In the partition
# `urgent` jobs preempt those of `main`, which are told with SIGTERM and get 15 s to save.
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=10
MinJobAge=300
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1440 PriorityTier=1 GraceTime=15 State=UP
PartitionName=urgent Nodes=ALL MaxTime=1440 PriorityTier=2 State=UP
"""


class MissingError(RuntimeError):
    """What Slurm needs is not installed."""


def start(folder: Path) -> dict[str, str]:
    """Start the daemons and wait until a job has run.

    Returns:
        The environment that makes Slurm's commands talk to them.

    Raises:
        MissingError: naming the packages to install.
        RuntimeError: with what the daemons wrote.
    """
    _check_installed()
    folder = folder.resolve()
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    (folder / "plugstack.conf").touch()
    conf = folder / "slurm.conf"
    text = CONFIG.format(
        folder=folder, ports=_free_ports(2), user=getpass.getuser(), host=socket.gethostname()
    )
    conf.write_text(text.lstrip(), encoding="utf-8")
    environment = {"SLURM_CONF": str(conf)}
    _start_daemon(folder, "munged", _munged(folder))
    _start_daemon(folder, "slurmctld", ["slurmctld", "-D", "-i", "-f", str(conf)])
    _start_daemon(folder, "slurmd", ["slurmd", "-D", "-f", str(conf)])
    try:
        _wait(lambda: _a_job_runs(environment), START_S, "run a job")
    except TimeoutError as error:
        told = [f"--- {log.name}\n{log.read_text('utf-8')[-2000:]}" for log in folder.glob("*.log")]
        stop(folder)
        raise RuntimeError("\n".join([str(error), *told])) from error
    return environment


def stop(folder: Path) -> None:
    """End all jobs and daemons. The folder stays, for its logs to be read."""
    folder = folder.resolve()
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    _ask(["scancel", f"--user={getpass.getuser()}"], environment)
    # Slurm would give jobs that are deaf to SIGTERM the whole KillWait.
    _end(lambda: _job_processes(folder), signal.SIGKILL)
    with suppress(TimeoutError):  # else the end of a job would wait for a controller that is gone
        _wait(lambda: not _ask(["squeue", "--noheader"], environment), STOP_S, "end its jobs")
    _end(lambda: _daemons(folder), signal.SIGTERM)


@contextmanager
def one_node_slurm() -> Iterator[dict[str, str]]:
    """The same for the time of a `with`, in a folder that is removed; gives the environment."""
    # Not below pytest's folder: a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        environment = start(Path(folder))
        try:
            yield environment
        finally:
            stop(Path(folder))


def _check_installed() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        raise MissingError(
            f"A Slurm of one node needs {', '.join(missing)}, not installed here. On Debian: "
            f"apt-get install {PACKAGES}"
        )


def _path() -> str:
    """Daemons lie in /usr/sbin, which is on nobody's path but root's."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _munged(folder: Path) -> list[str]:
    # By force, because it takes a folder that others cannot enter for a mistake.
    places = {
        "key-file": "munge.key",
        "socket": "munge.socket",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
        "seed-file": "munge.seed",
    }
    options = [f"--{option}={folder / name}" for option, name in places.items()]
    return ["munged", "--foreground", "--force", "--num-threads=2", *options]


def _start_daemon(folder: Path, name: str, command: list[str]) -> None:
    """In a session of its own, so that Ctrl-C in a terminal is not for it."""
    environment = {**os.environ, "PATH": _path()}
    # What a job around us says of itself is not for ours.
    environment = {k: v for k, v in environment.items() if not k.startswith("SLURM")}
    with (folder / f"{name}.out.log").open("ab") as output:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    _STARTED.append(daemon)


def _daemons(folder: Path) -> list[int]:
    """Daemons of this folder and what they started: each has a file in it open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "comm").read_text("utf-8")
            open_files = [os.readlink(file) for file in (process / "fd").iterdir()]
        except OSError:  # another user's, or gone
            continue
        is_ours = any(file.startswith(f"{folder}/") for file in open_files)
        if is_ours and command.startswith(("munged", "slurm")):
            found.append(int(process.name))
    return found


def _job_processes(folder: Path) -> list[int]:
    """Processes inside jobs of this folder's Slurm, told by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_ours = f"SLURM_CONF={folder}/slurm.conf".encode() in environment
        if is_ours and any(one.startswith(b"SLURM_JOB_ID=") for one in environment):
            found.append(int(process.name))
    return found


def _end(processes: Callable[[], list[int]], number: signal.Signals) -> None:
    """Send a signal, wait, and kill what is still there."""
    for sent in (number, signal.SIGKILL):
        for pid in processes():
            with suppress(ProcessLookupError):
                os.kill(pid, sent)
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            _reap()
            if not processes():
                return
            time.sleep(0.05)
    raise TimeoutError(f"Processes {processes()} of the Slurm of one node do not end.")


def _reap() -> None:
    """Daemons that this process started are its children until it has asked for their end."""
    for daemon in list(_STARTED):
        if daemon.poll() is not None:
            _STARTED.remove(daemon)


def _a_job_runs(environment: dict[str, str]) -> bool:
    return _ask(["srun", "--immediate=5", "hostname"], environment) == socket.gethostname()


def _ask(command: list[str], environment: dict[str, str]) -> str:
    """What a command answers; nothing where it fails or where nobody answers it."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": _path(), **environment},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"The Slurm of one node did not {what} within {seconds:.0f} s.")
        time.sleep(0.1)


def main(arguments: list[str]) -> None:
    """`start DIR` prints what a shell is to export, `stop DIR` ends it."""
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        sys.exit(__doc__)
    folder = Path(arguments[1])
    if arguments[0] == "stop":
        stop(folder)
        return
    try:
        for name, value in start(folder).items():
            print(f"export {name}={shlex.quote(value)}")
    except (MissingError, FileExistsError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
