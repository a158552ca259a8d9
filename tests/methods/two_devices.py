"""Two devices in one test: processes joined by Gloo. Imported by scripts of tests; has none."""

import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from ltbench.method import METHODS, Batch, Collective, Method, Progress, Task


class Flat(nn.Module):
    """No BatchNorm: each device's own statistics are no part of these tests."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)).tanh()


class Gloo(Collective):
    world_size = 2

    def __init__(self) -> None:
        self.rank = dist.get_rank()

    def gather(self, x: Tensor, *, grad: bool = False) -> Tensor:
        if grad:
            return torch.cat(all_gather(x))
        rows = [torch.empty_like(x) for _ in range(2)]
        dist.all_gather(rows, x)
        return torch.cat(rows)


class Step(nn.Module):
    """A training step as a forward pass, for DistributedDataParallel."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, now: Progress) -> dict[str, Tensor]:
        return self.method.training_step(batch, now)


def build(name: str, collective: Collective, epochs: int = 100, **settings: object) -> Method:
    """A method in float64, with the same weights on each call."""
    torch.manual_seed(0)
    task = Task(tuple("abc"), (60, 20, 4), (9, 9, 9), (3, 2, 2), epochs, 8, 9, Flat, collective)
    cls = METHODS[name]
    return cls(cls.Config(embedding_dim=4, **settings), task).double()


def check_gradients(rank: int, name: str, num_views: int, now: Progress) -> None:
    """The gradients of two devices, with half of a batch each, are those of one with all of it."""
    views = torch.randn(num_views, 8, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    targets = torch.tensor([0, 0, 0, 0, 1, 2, 1, 0])
    steps = []
    for collective in (Collective(), Gloo()):
        method = build(name, collective)
        method.embedding[1].eval()  # BatchNorm, as above
        steps.append(Step(method))
    one, two = steps[0], nn.parallel.DistributedDataParallel(steps[1])
    one(Batch(tuple(views), targets, targets), now)["loss"].backward()
    mine = slice(4 * rank, 4 * rank + 4)
    two(Batch(tuple(views[:, mine]), targets[mine], targets[mine]), now)["loss"].backward()
    for (parameter, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-10, atol=1e-12, msg=parameter)


def run(work: Callable[[int], None]) -> None:
    """work(rank) in two processes, which meet at the file named on the command line."""
    torch.set_num_threads(1)
    child = os.fork()
    rank = int(child == 0)
    dist.init_process_group("gloo", f"file://{sys.argv[1]}", rank=rank, world_size=2)
    work(rank)
    dist.destroy_process_group()
    if rank:
        os._exit(0)
    if os.wait()[1] != 0:
        raise SystemExit("the second process failed")
