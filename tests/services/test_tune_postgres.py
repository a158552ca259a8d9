"""Several processes on one study in a real PostgreSQL server, as several machines would be."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest

sys.path.append(str(Path(__file__).parent))
from postgres import PASSWORD, server

from ltbench.owner import Owner
from ltbench.results import read_records
from ltbench.testing.processes import command
from ltbench.testing.tiny import TOY_BLOBS, tiny_request
from ltbench.tuning import places
from ltbench.tuning.places import OWNER
from ltbench.tuning.plan import Options, plan_studies
from ltbench.tuning.storage import Timing, open_storage, storage_url
from ltbench.tuning.study import Study
from ltbench.tuning.worker import quiet_optuna

pytestmark = [
    pytest.mark.services,
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),  # of `ask` by hand
]
TRIALS = 9


@pytest.fixture
def url():
    with server() as one, quiet_optuna():
        yield one


@pytest.fixture
def start(tmp_path):
    """start(words) -> (process, its output); what still runs at the end is killed."""
    begun = []

    def begin(arguments):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ltbench.testing.processes", "ltbench.console", "timm"])
        output = tmp_path / f"output-{len(begun)}.txt"
        process = context.Process(target=command, args=(list(map(str, arguments)), output))
        process.start()
        begun.append(process)
        return process, output

    yield begin
    for process in begun:
        process.kill()
        process.join()


def words(tmp_path, url, *more, results="runs", methods="ce", trials=TRIALS):
    return [
        *("tune", "--methods", methods, "--dataset", "toy_blobs", "--plugin", TOY_BLOBS),
        *("--results", tmp_path / results, "--out", tmp_path / "tuned", "--storage", url),
        *("--epochs", "8", "--batch-size", "8", "--backbone", "resnet8_cifar"),
        *("--set", "machine.checkpoint_every_s=0", "--trials", trials, *more),
    ]


def trials_in(url):
    """By study, its trials; none before the first process has made the tables."""
    storage = open_storage(storage_url(url, Path()))
    found = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return {
        one.study_name: optuna.load_study(study_name=one.study_name, storage=storage).trials
        for one in found
    }


def running(url):
    """Process ids of the workers of running trials."""
    return [
        t.user_attrs[OWNER]["pid"]
        for trials in trials_in(url).values()
        for t in trials
        if t.state == optuna.trial.TrialState.RUNNING and OWNER in t.user_attrs
    ]


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def check_whole(url, methods=1, trials=TRIALS):
    studies = trials_in(url)
    assert len(studies) == methods
    for found in studies.values():
        ended = places.finished(found)
        assert len(ended) == trials
        assert len({t.user_attrs[places.POSITION] for t in ended}) == trials
        assert 0 in {t.user_attrs[places.POSITION] for t in ended}


def test_three_commands_on_one_study_and_one_of_them_killed(start, url, tmp_path):
    """They begin at once on an empty database, and share nothing else."""
    begun = [start(words(tmp_path, url, results=f"runs-{number}")) for number in range(3)]
    pids = wait_for(lambda: found if len(found := running(url)) == 3 else None)
    time.sleep(random.Random(3).uniform(0, 0.5))
    victim = next(process for process, _ in begun if process.pid in pids)
    victim.kill()
    for process, output in begun:
        process.join(240)
        assert process.exitcode == (0 if process is not victim else -signal.SIGKILL), (
            output.read_text()
        )
    check_whole(url)
    told = [out.read_text() for process, out in begun if process is not victim]
    assert all(f" {TRIALS} trials of 8 epochs" in text for text in told)


def test_three_workers_of_one_command_and_one_of_them_killed(start, url, tmp_path):
    process, output = start(words(tmp_path, url, "-j", 3))
    pids = wait_for(lambda: found if len(found := running(url)) == 3 else None)
    os.kill(pids[1], signal.SIGKILL)
    process.join(240)
    assert process.exitcode == 0, output.read_text()
    assert "it is started again" in output.read_text()
    check_whole(url)


def test_from_tuning_to_the_table(start, url, tmp_path):
    process, output = start(words(tmp_path, url, "-j", 2, methods="ecl,ce", trials=4))
    process.join(240)
    assert process.exitcode == 0, output.read_text()
    check_whole(url, methods=2, trials=4)
    for method in ("ecl", "ce"):
        file = tmp_path / "tuned" / "toy_blobs" / "held_out" / f"{method}.yaml"
        process, output = start(
            [
                *("run", "--method", method, "--dataset", "toy_blobs", "--tuned", file),
                *("--plugin", TOY_BLOBS, "--results", tmp_path / "runs", "--seeds", "0,1"),
            ]
        )
        process.join(240)
        assert process.exitcode == 0, output.read_text()
    records, _ = read_records(tmp_path / "runs")
    assert sorted({record["label"] for record in records}) == ["ce tuned", "ecl tuned"]
    process, output = start(["table", "--results", tmp_path / "runs"])
    process.join(60)
    assert "Tuned: ecl tuned by" in output.read_text()
    check_no_password(tmp_path)


def check_no_password(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [file for file in files if PASSWORD.encode() in file.read_bytes()] == []
    assert any("studies:***@127.0.0.1" in file.read_text() for file in folder.glob("output-*"))


def test_trials_of_a_machine_that_is_gone_are_told_by_their_heartbeat(url, tmp_path):
    from ltbench.runner import Place

    (plan,) = plan_studies([tiny_request("ce")], Options(trials=2), Place(tmp_path))
    timing = Timing(heartbeat_s=1, grace_s=2)
    one = Study(plan, open_storage(storage_url(url, tmp_path), timing), timing)
    one._owner = replace(Owner.here(), host="elsewhere")
    one.optuna.ask()
    assert one.trials()[0].user_attrs[OWNER] == asdict(one._owner)
    one.clear_dead()
    assert one.trials()[0].state == optuna.trial.TrialState.RUNNING
    time.sleep(3.1)
    one.clear_dead()
    states = [t.state.name for t in one.trials()]
    assert states == ["FAIL", "WAITING"]


def test_a_server_that_goes_away_stops_the_command_with_one_message(start, tmp_path):
    with server() as url:
        process, output = start(words(tmp_path, url, trials=99))
        wait_for(lambda: running(url))
    process.join(120)
    text = output.read_text()
    assert process.exitcode == 1, text
    assert "The storage postgresql://studies:***@127.0.0.1" in text
    assert "run the same command again to go on" in text
    assert "Traceback" not in text
    assert PASSWORD not in text
