"""Tests for plugins: inherit `MethodConformance` and name the method."""

from ltbench.testing.conformance import MethodConformance
from ltbench.testing.tiny import interrupted_run, tiny_run
from ltbench.testing.traps import HostSyncError, no_host_sync

__all__ = ["HostSyncError", "MethodConformance", "interrupted_run", "no_host_sync", "tiny_run"]
