"""Small studies: plans on toy blobs, a database in the test's folder, trials that train nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltbench.runner import Place
from ltbench.testing.tiny import tiny_request
from ltbench.tuning.plan import Options, plan_studies
from ltbench.tuning.storage import Timing, open_storage, storage_url
from ltbench.tuning.study import Study
from ltbench.tuning.worker import quiet_optuna


@pytest.fixture
def quick():
    return Timing(heartbeat_s=1, grace_s=2, poll_s=0.05)


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_optuna():
        yield


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "runs")


@pytest.fixture
def plan(place):
    """plan("ce", {setting: value}, trials=4) -> a study's plan."""

    def make(method="ce", settings=None, **options):
        options = replace(Options(trials=4), **options)
        (one,) = plan_studies([tiny_request(method, settings)], options, place)
        return one

    return make


@pytest.fixture
def storage(tmp_path, quick):
    return open_storage(storage_url(None, tmp_path), quick)


@pytest.fixture
def study(plan, storage, quick):
    """study("ce", {setting: value}, trials=4) -> the open study."""

    def make(*arguments, **options):
        return Study(plan(*arguments, **options), storage, quick)

    return make


@pytest.fixture
def pretend():
    """pretend(value): what stands for training; a number, or value(settings)."""

    def made(value=0.5, state="complete"):
        def try_settings(settings, trial, may_prune):
            got = value(settings) if callable(value) else value
            trial.report(got, 1)
            return {
                **{"state": state, "value": got, "values": [got], "epochs": 1},
                **{"wall_time_s": 1.0, "runs": [], "settings": dict(settings)},
            }

        return try_settings

    return made
