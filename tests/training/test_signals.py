"""Signals are noted, and a second one acts as it would without us."""

import os
import signal
import threading

import pytest

from ltbench.training.signals import SignalGuard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_noted_the_second_acts_as_usual(number):
    seen = []
    previous = signal.signal(number, lambda n, frame: seen.append(n))
    try:
        with SignalGuard() as guard:
            os.kill(os.getpid(), number)
            assert (guard.received, seen) == (number, [])
            os.kill(os.getpid(), number)
            assert seen == [number]
        os.kill(os.getpid(), number)
        assert seen == [number, number], "the handler of before must be back"
    finally:
        signal.signal(number, previous)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_scheduler_may_repeat_itself(number):
    """By default the second one would end the process while it saves."""
    with SignalGuard() as guard:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert guard.received == number
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_patient_guard_notes_them_all():
    with SignalGuard(patient=True) as guard:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
    assert guard.received == signal.SIGINT


def test_outside_the_main_thread_it_does_nothing():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with SignalGuard() as guard:
            found.append((guard.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]
