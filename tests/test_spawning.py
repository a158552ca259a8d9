"""What runs beside a run and must not end before it."""

import subprocess
import sys

SCRIPT = """
import os, signal, time
from multiprocessing import resource_tracker
from ltbench.spawning import shelter_tracker

shelter_tracker()
tracker = resource_tracker._resource_tracker
for number in (signal.SIGUSR1, signal.SIGUSR2):
    os.kill(tracker._pid, number)
time.sleep(0.2)
assert tracker._check_alive()
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "nothing stays blocked here"
"""


def test_the_tracker_outlives_what_schedulers_send_to_all_processes():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
