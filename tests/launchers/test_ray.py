"""The Ray launcher: on a stand-in for Ray's few calls, and on Ray itself (mark `services`)."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from ltbench.errors import DataMissingError, RunFailedError, UsageError
from ltbench.launchers import Job
from ltbench.launchers.ray import RayLauncher
from ltbench.testing.tiny import TOY_BLOBS


class RayError(Exception):
    pass


class WorkerCrashedError(RayError):
    pass


class LocalRayletDiedError(RayError):
    pass


class RaySystemError(RayError):
    pass


class StandIn:
    """What of Ray the launcher uses; a task runs when its result is asked for."""

    def __init__(self, resources, deaths=()):
        self.resources, self.deaths = resources, list(deaths)
        self.exceptions = SimpleNamespace(
            RayError=RayError,
            LocalRayletDiedError=LocalRayletDiedError,
            RaySystemError=RaySystemError,
        )
        self.options, self.cancelled, self.inits = [], [], []
        self.joins = True
        self.was_shut_down = False

    def is_initialized(self):
        return False

    def init(self, **options):
        self.inits.append(options)
        if options["address"] == "auto" and not self.joins:
            raise ConnectionError("nobody there")

    def get_runtime_context(self):
        return SimpleNamespace(gcs_address="there:1")

    def cluster_resources(self):
        return self.resources

    def remote(self, **options):
        self.options.append(options)

        def decorate(function):
            def submit(*arguments):
                return partial(function, *arguments)

            return SimpleNamespace(options=lambda name: SimpleNamespace(remote=submit))

        return decorate

    def wait(self, references, num_returns, timeout=None):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        if self.deaths:
            raise self.deaths.pop(0)()
        return reference()

    def cancel(self, reference):
        self.cancelled.append(reference)

    def shutdown(self):
        self.was_shut_down = True


@pytest.fixture
def stand_in(monkeypatch):
    def make(resources=None, deaths=(), joins=True):
        ray = StandIn(resources or {"CPU": 4.0}, deaths)
        ray.joins = joins
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return make


def jobs(folder, number=3, **needs):
    return [Job(f"job{i}", partial(int, i), folder / f"{i}.log", **needs) for i in range(number)]


def test_results_come_back(stand_in, tmp_path):
    ray, told = stand_in(), []
    launcher = RayLauncher(say=told.append)
    ends = list(launcher.run(jobs(tmp_path)))
    assert [(end.state, end.value) for end in ends] == [("done", 0), ("done", 1), ("done", 2)]
    assert told == ["Joined the Ray cluster at there:1."]
    assert ray.options[0] == {"num_cpus": 1, "num_gpus": 0.0, "max_retries": 0}
    assert not ray.was_shut_down


def test_a_cluster_is_started_where_there_is_none_and_ends_with_us(stand_in, tmp_path):
    ray = stand_in(joins=False)
    list(RayLauncher().run(jobs(tmp_path)))
    assert [init["address"] for init in ray.inits] == ["auto", "local"]
    assert ray.was_shut_down


def test_a_named_cluster_that_does_not_answer_is_refused(stand_in, monkeypatch):
    stand_in(joins=False)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    with pytest.raises(UsageError, match="RAY_ADDRESS is nowhere:1"):
        RayLauncher()


def test_dead_workers_are_followed_and_counted(stand_in, tmp_path):
    stand_in(deaths=[WorkerCrashedError] * 3)
    told = []
    (end,) = RayLauncher(retries=3, say=told.append).run(jobs(tmp_path, 1))
    assert (end.state, end.attempts) == ("done", 4)
    assert sum("WorkerCrashedError" in line for line in told) == 3
    stand_in(deaths=[WorkerCrashedError] * 2)
    (end,) = RayLauncher(retries=1).run(jobs(tmp_path, 1))
    assert (end.state, end.attempts) == ("died", 2)


@pytest.mark.parametrize("error", [LocalRayletDiedError, RaySystemError])
def test_a_cluster_that_is_gone_ends_the_sweep(error, stand_in, tmp_path):
    stand_in(deaths=[error])
    with pytest.raises(RunFailedError, match="cluster is gone"):
        list(RayLauncher().run(jobs(tmp_path)))


def test_devices(stand_in, tmp_path):
    ray, told = stand_in({"CPU": 8.0, "GPU": 1.0}), []
    launcher = RayLauncher(say=told.append)
    assert launcher.device_kind() == "cuda"
    assert launcher.room(jobs(tmp_path, 9, num_gpus=0.5)) == 2
    assert launcher.room(jobs(tmp_path, 9, num_cpus=4)) == 2
    list(launcher.run(jobs(tmp_path, 1, num_gpus=2.0)))
    assert ray.options[0]["max_calls"] == 1
    assert any("needs 2 GPU" in line for line in told)


def test_closing_cancels_what_is_under_way(stand_in, tmp_path):
    ray = stand_in()
    ends = RayLauncher().run(jobs(tmp_path))
    next(ends)
    ends.close()
    assert len(ray.cancelled) == 2


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataMissingError, match=r"pip install 'ltbench\[ray\]'"):
        RayLauncher()


WORDS = (
    *("sweep", "--methods", "ce,focal", "--datasets", "toy_blobs", "--seeds", "0-1"),
    *("--plugin", TOY_BLOBS, "--epochs", "2", "--batch-size", "8", "--backbone", "resnet8_cifar"),
)


@pytest.mark.services
def test_ray_itself_gives_the_same_bits(bench, tmp_path):
    digests = {}
    for launcher in ("local", "ray"):
        answer = bench(*WORDS, "--results", tmp_path / launcher, "--launcher", launcher)
        assert answer.code == 0, answer.err
        digests[launcher] = {
            str(file.relative_to(tmp_path / launcher)): json.loads(file.read_text())["digest"]
            for file in (tmp_path / launcher).rglob("record.json")
        }
    assert len(digests["local"]) == 4
    assert digests["local"] == digests["ray"]
