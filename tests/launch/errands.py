"""What the workers of tests do; their processes import this file by its name."""

import os
import signal
import time

import torch

from ltbench.errors import VerificationError


def be_killed(rank, fabric, tell):
    """Both tell who they are; then one is gone in the middle of a conversation."""
    tell(("here", fabric.global_rank, os.getpid()))
    fabric.barrier()
    if fabric.global_rank == rank:
        tell(("killed at", rank, time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)
    fabric.barrier()


def hang(fabric, tell):
    """One fails; the other talks to nobody, and listens to no signal."""
    if fabric.global_rank == 1:
        tell("failed")
        raise VerificationError("The second device will not.")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def be_at_fault(fabric, tell):
    """The second has a fault; the first only loses the second."""
    if fabric.global_rank == 1:
        raise ValueError("a fault of the plugin\nin two lines")
    fabric.barrier()


def meet(token, folder, fabric, tell):
    """Wait until both runs are at work, then tell what all of this run have brought."""
    (folder / f"{token}-{fabric.global_rank}").touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 4:
        assert time.monotonic() < end, "the other run has not come so far"
        time.sleep(0.1)
    brought = torch.tensor([token])
    rows = [torch.empty_like(brought) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(rows, brought)
    tell([int(row) for row in rows])


def tell_much(fabric, tell):
    """More than a pipe holds."""
    for number in range(20):
        tell((fabric.global_rank, number, "x" * 100_000))


def sleep(fabric, tell):
    """Train on for minutes without a look at anything."""
    tell(os.getpid())
    time.sleep(600)
