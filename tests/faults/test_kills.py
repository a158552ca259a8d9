"""Processes killed at random moments, many times: the same command then ends with the same bits.

A few kills run with the other tests; `-m faults` is for the many.
"""

import signal
import time

import pytest

MANY = pytest.mark.faults


def run_struck(grid, chance, hits_wanted, targets, number=signal.SIGKILL, *more):
    """Sweeps in folder after folder, struck at random moments, until there were enough hits.

    Args:
        targets: gives the processes that may be hit, of (grid, command).
    """
    hits = 0
    while hits < hits_wanted:
        grid.begin_anew()
        command = grid.start(*more)
        while hits < hits_wanted and (command.process.is_alive() or not grid.is_done()):
            if not command.process.is_alive():
                assert command.exit_code() not in (2, 3), command.text()  # it cannot begin
                command = grid.start(*more)
            time.sleep(chance.uniform(0.0, 0.8))
            hits += grid.strike(chance, targets(grid, command), number)
            grid.note_records()
        command.exit_code()
        grid.finish(*more)
        grid.check()
    print(f"{hits} processes were hit by {number.name}")


def workers(grid, command):
    return grid.busy()


def sweeps(grid, command):
    return [command.process.pid] if command.process.is_alive() else []


def either(grid, command):
    return [*workers(grid, command), *sweeps(grid, command)]


@pytest.mark.parametrize("hits", [3, pytest.param(30, marks=MANY)])
def test_killed_workers(grid, chance, hits):
    run_struck(grid, chance, hits, workers)


@MANY
def test_killed_sweeps(grid, chance):
    run_struck(grid, chance, 20, sweeps)


@MANY
def test_killed_both(grid, chance):
    run_struck(grid, chance, 20, either)


@MANY
def test_sigterm_as_a_scheduler_sends_it(grid, chance):
    run_struck(grid, chance, 15, either, signal.SIGTERM)


@MANY
def test_killed_ray_workers(grid, chance):
    run_struck(grid, chance, 15, workers, signal.SIGKILL, "--launcher", "ray")


@MANY
def test_killed_sweeps_on_ray(grid, chance):
    run_struck(grid, chance, 4, sweeps, signal.SIGKILL, "--launcher", "ray")


@MANY
def test_sigterm_saves_and_says_how_to_go_on(grid):
    command = grid.start()
    while not grid.busy():
        time.sleep(0.01)
    time.sleep(0.5)
    assert command.signal(signal.SIGTERM).exit_code() == 143
    assert "Run the same command again" in command.text()
    assert grid.busy() == []
    grid.finish()
    grid.check()


@MANY
def test_two_sweeps_on_one_folder(grid):
    """Neither runs what the other is at; together they do all of it."""
    first, second = grid.start(), grid.start()
    assert first.exit_code() == second.exit_code() == 0, first.text() + second.text()
    grid.check()
    done = [text.count(": done in") for text in (first.text(), second.text())]
    assert sum(done) == len(grid.expected), (first.text(), second.text())


@MANY
def test_two_sweeps_and_kills(grid, chance):
    hits = 0
    while hits < 10:
        grid.begin_anew()
        commands = [grid.start(), grid.start()]
        while any(command.process.is_alive() for command in commands):
            time.sleep(chance.uniform(0.1, 0.8))
            hits += grid.strike(chance, grid.busy())
            grid.note_records()
        texts = "\n".join(command.text() for command in commands)
        assert [command.exit_code() for command in commands] == [0, 0], texts
        grid.check()
