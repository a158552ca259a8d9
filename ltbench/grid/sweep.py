"""A sweep: the grid planned, a launcher chosen, open cells run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ltbench import claims
from ltbench.grid.cells import Plan, plan
from ltbench.grid.running import Grid, run_grid
from ltbench.grid.spec import GridSpec
from ltbench.launchers import Launcher
from ltbench.launchers.choice import LaunchOptions, check_options, launcher_of
from ltbench.runner import Place

__all__ = ["Sweep"]


class Sweep:
    """A grid and who runs it.

    Args:
        spec: the grid.
        place: where results go and data lie.
        launcher: its name.
        options: what the launcher is told; what the grid's settings say of cores and devices
            comes from there.
        say: told in lines what happens.

    Raises:
        UsageError, DataMissingError, VerificationError: what would be refused before training, of
            all cells.
    """

    def __init__(
        self,
        spec: GridSpec,
        place: Place,
        *,
        launcher: str = "local",
        options: LaunchOptions | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._place, self._name, self._say = place, launcher, say
        self._options = options or LaunchOptions()
        check_options(launcher, self._options)
        # A cluster's nodes need not have what this machine has.
        self._launcher = None if launcher == "local" else self._made(self._options)
        device = None if self._launcher is None else self._launcher.device_kind()
        self.plan: Plan = plan(spec, place, device=device)

    def run(self, *, retry_failed: bool = False) -> Grid:
        """Run what is open; see `run_grid`."""
        machines = [cell.machine for cell in self.plan.cells]
        devices = max(machine.devices for machine in machines)
        options = replace(
            self._options,
            cpus=max(machine.threads or 1 for machine in machines),
            devices=devices,
            on_cuda=None if machines[0].device == "auto" else machines[0].device == "cuda",
        )
        launcher = self._launcher or self._made(options)
        return run_grid(
            self.plan,
            launcher,
            self._place,
            retry_failed=retry_failed,
            slots_per_device=options.slots_per_device,
            say=self._say,
        )

    def _made(self, options: LaunchOptions) -> Launcher:
        return launcher_of(
            self._name,
            options,
            folder=self._place.results / self._name,
            is_held=lambda job: claims.holder(job.log.parent) is not None,
            say=self._say,
        )
