"""Tests for plugins: inherit a conformance suite and name the plugin."""

from ltbench.testing.agreement import STILL, Case, disagreements
from ltbench.testing.conformance import MethodConformance
from ltbench.testing.dataset_conformance import DatasetConformance
from ltbench.testing.tiny import interrupted_run, tiny_run
from ltbench.testing.traps import HostSyncError, no_host_sync

__all__ = [
    "STILL",
    "Case",
    "DatasetConformance",
    "HostSyncError",
    "MethodConformance",
    "disagreements",
    "interrupted_run",
    "no_host_sync",
    "tiny_run",
]
