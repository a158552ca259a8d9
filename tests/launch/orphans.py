"""A process that starts two workers and says their numbers; a test kills it."""

import errands

from ltbench.config import resolve
from ltbench.testing.tiny import tiny_request
from ltbench.workers import on_devices

if __name__ == "__main__":
    config = resolve(tiny_request("ce", {"machine.devices": 2}))
    on_devices(config, errands.sleep, lambda number: print(number, flush=True))
