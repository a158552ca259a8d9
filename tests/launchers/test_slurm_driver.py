"""How the Slurm launcher judges its jobs, on a stand-in for Slurm and submitit; needs neither."""

import signal
from types import SimpleNamespace

import pytest

from ltbench.errors import UsageError
from ltbench.launchers import Job
from ltbench.launchers import slurm as slurm_module
from ltbench.launchers.carrying_out import Report
from ltbench.launchers.slurm import SlurmLauncher
from ltbench.launchers.slurm_commands import Standing
from ltbench.launchers.slurm_task import Result


class NoAnswer(Exception):  # noqa: N818 - as submitit's are named
    pass


BROKEN = """Job (task=0) failed during processing with trace:
----------------------
Traceback (most recent call last):
  File "submission.py", line 56, in process_job
ModuleNotFoundError: No module named 'ltbench'

----------------------
You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:
  - /results/1_0_0_log.err
  - /results/1_0_0_log.out"""


class StandIn:
    """A cluster on which job i ends as `ends[name]` says: a Report, a Slurm state, or "runs"."""

    def __init__(self, folder):
        self.folder = folder
        self.ends = {}
        self.arrays = []  # (names, at once) of each submission
        self.names = {}  # name of each task
        self.answers = True
        self.refusals = []
        self.array_name = ""
        self.SlurmExecutor = self.executor
        self.SlurmJob = lambda folder, number: self.handle(number)
        errors = SimpleNamespace(FailedJobError=NoAnswer, UncompletedJobError=NoAnswer)
        self.core = SimpleNamespace(utils=errors)

    def executor(self, folder, max_num_timeout):
        asked = {}

        def submit(tasks):
            if self.refusals:
                raise NoAnswer(self.refusals.pop())
            names = [task._job.name for task in tasks]
            self.arrays.append((names, asked["array_parallelism"]))
            self.array_name = asked["job_name"]
            numbers = [f"{len(self.arrays)}_{i}" for i in range(len(names))]
            self.names |= dict(zip(numbers, names, strict=True))
            return [self.handle(number) for number in numbers]

        return SimpleNamespace(
            update_parameters=lambda **more: asked.update(more), submit_array=submit
        )

    def end_of(self, number):
        ends = self.ends[self.names[number]]
        tries = [n for n, name in self.names.items() if name == self.names[number]]
        return ends[min(tries.index(number), len(ends) - 1)]

    def handle(self, number):
        def result():
            if self.end_of(number) == "broken":
                raise NoAnswer(BROKEN)
            return Result(self.end_of(number), 3.0, 1)

        paths = SimpleNamespace(
            result_pickle=self.folder / f"{number}_0_result.pkl",
            stdout="log.out",
            folder=self.folder,
        )
        return SimpleNamespace(job_id=number, paths=paths, result=result)

    def files(self):
        ended = [
            number
            for number in self.names
            if isinstance(self.end_of(number), Report) or self.end_of(number) == "broken"
        ]
        return {self.folder / f"{number}_0_result.pkl" for number in ended}

    def queue(self):
        if not self.answers:
            return None
        found = {}
        for number in self.names:
            end = self.end_of(number)
            if end == "runs":
                found[number] = Standing("RUNNING", "None", self.array_name)
            elif isinstance(end, str) and end != "gone":
                found[number] = Standing(end, "None", self.array_name)
        return found


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path)
    monkeypatch.setattr(slurm_module, "_imported", lambda: stand_in)
    monkeypatch.setattr(slurm_module, "check_options", dict)
    monkeypatch.setattr(slurm_module, "queue", stand_in.queue)
    monkeypatch.setattr(slurm_module, "_GRACE_S", 0.0)
    monkeypatch.setattr(SlurmLauncher, "_files", lambda launcher: stand_in.files())
    return stand_in


DONE = Report("done", 7)


def jobs_of(cluster, **ends):
    """A job of each name, and how its attempts end; the last for all further ones."""
    cluster.ends |= {name: end if isinstance(end, list) else [end] for name, end in ends.items()}
    return [Job(name, int, cluster.folder / name / "log.txt") for name in ends]


def launcher_on(cluster, said=None, **more):
    say = (lambda text: None) if said is None else said.append
    return SlurmLauncher(cluster.folder / "slurm", look_s=0.0, say=say, **more)


def ends_of(launcher, jobs):
    return {ended.job.name: ended for ended in launcher.run(jobs)}


def test_results_count_and_restarts_are_attempts(cluster):
    failed = Report("failed", None, "no such file", "UsageError", 2)
    found = ends_of(launcher_on(cluster), jobs_of(cluster, a=DONE, b=failed))
    assert cluster.arrays == [(["a", "b"], 2)]
    assert (found["a"].state, found["a"].value, found["a"].attempts) == ("done", 7, 2)
    assert (found["b"].state, found["b"].message, found["b"].kind) == (
        *("failed", "no such file", "UsageError"),
    )
    assert found["a"].wall_time_s == 3.0


def test_a_job_that_could_not_begin_has_failed(cluster):
    (found,) = ends_of(launcher_on(cluster), jobs_of(cluster, a="broken")).values()
    assert (found.state, found.exit_code) == ("failed", 1)
    assert found.message == (
        "its Slurm job 1_0 could not begin: "
        "ModuleNotFoundError: No module named 'ltbench' (log.out)"
    )


@pytest.mark.parametrize("state", ["FAILED", "NODE_FAIL", "COMPLETED", "TIMEOUT", "gone"])
def test_a_job_without_result_is_tried_again(cluster, state):
    said = []
    found = ends_of(launcher_on(cluster, said), jobs_of(cluster, a=[state, state, DONE]))
    assert found["a"].state == "done"
    assert found["a"].attempts == 3 + 1
    assert [names for names, _ in cluster.arrays] == [["a"]] * 3
    assert sum("it is submitted again" in text for text in said) == 2


def test_but_not_for_ever(cluster):
    launcher = launcher_on(cluster, retries=2)
    (found,) = ends_of(launcher, jobs_of(cluster, a="OUT_OF_MEMORY")).values()
    assert (found.state, found.attempts, len(cluster.arrays)) == ("died", 3, 3)
    assert "OUT_OF_MEMORY; ask for more with --slurm mem=SIZE" in found.message


def test_a_cancelled_job_is_not_tried_again(cluster):
    (found,) = ends_of(launcher_on(cluster), jobs_of(cluster, a="CANCELLED")).values()
    assert (found.state, found.exit_code, len(cluster.arrays)) == ("interrupted", 143, 1)
    assert found.message == "its Slurm job 1_0 was cancelled"


def test_a_job_that_saved_but_was_not_requeued_goes_on(cluster):
    saved = Report("interrupted", message="saved", exit_code=128 + signal.SIGUSR2)
    jobs = jobs_of(cluster, a=[saved, saved, saved, DONE])
    (found,) = ends_of(launcher_on(cluster, retries=0), jobs).values()
    assert (found.state, len(cluster.arrays)) == ("done", 4)


def test_no_answer_is_no_verdict(cluster, monkeypatch):
    said, looks = [], []
    cluster.answers = False

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 50:
            cluster.answers = True

    monkeypatch.setattr(slurm_module.time, "sleep", sleep)
    (found,) = ends_of(launcher_on(cluster, said, retries=0), jobs_of(cluster, a="gone")).values()
    assert found.state == "died"
    assert len(looks) >= 50
    assert said.count("Slurm does not answer (squeue); waiting for it.") == 1


def test_jobs_that_slurm_holds_back_are_told_once(cluster, monkeypatch):
    said, looks = [], []
    held = Standing("PENDING", "JobHeldUser", "")

    def queue():
        looks.append(1)
        return {number: held for number in cluster.names} if len(looks) < 5 else cluster.queue()

    monkeypatch.setattr(slurm_module, "queue", queue)
    jobs = jobs_of(cluster, a=["runs"], b=["runs"])

    def sleep(_seconds):
        if len(looks) > 5:
            cluster.ends |= {"a": [DONE], "b": [DONE]}

    monkeypatch.setattr(slurm_module.time, "sleep", sleep)
    assert len(ends_of(launcher_on(cluster, said), jobs)) == 2
    assert said.count("Slurm holds jobs back: JobHeldUser") == 1


def test_a_job_may_come_back_into_the_queue(cluster, monkeypatch):
    """Between its end and its requeue squeue may say nothing of it."""
    monkeypatch.setattr(slurm_module, "_GRACE_S", 10.0)
    answers = iter(["gone", "gone", "runs", "gone", "runs"])

    class Changing(list):
        def __getitem__(self, index):
            return next(answers, DONE)

    jobs = jobs_of(cluster, a=Changing([0]))
    (found,) = ends_of(launcher_on(cluster, retries=0), jobs).values()
    assert (found.state, len(cluster.arrays)) == ("done", 1)


def test_what_is_tried_again_keeps_to_the_limit(cluster, monkeypatch):
    """Tasks that Slurm has count, even waiting ones: a retry comes when fewer than -j are left."""
    jobs = jobs_of(cluster, a=["FAILED", DONE], b="runs", c="runs", d="runs")
    left = iter("bcd")

    def sleep(_seconds):
        cluster.ends[next(left, "d")] = [DONE]

    monkeypatch.setattr(slurm_module.time, "sleep", sleep)
    order = [one.job.name for one in launcher_on(cluster, num_at_once=2).run(jobs)]
    assert cluster.arrays == [(["a", "b", "c", "d"], 2), (["a"], 1)]
    assert order.index("a") > order.index("c"), "three tasks and one more would be one too many"


def test_more_jobs_than_an_array_may_have(cluster, monkeypatch):
    monkeypatch.setattr(slurm_module, "_LONGEST_ARRAY", 3)
    ends = {name: DONE for name in "abcdefgh"}
    found = ends_of(launcher_on(cluster), jobs_of(cluster, **ends))
    assert len(found) == 8
    assert [len(names) for names, _ in cluster.arrays] == [3, 3, 2]


def test_held_jobs_are_submitted_when_they_are_free(cluster):
    looks, said = [], []

    def is_held(job):
        looks.append(job.name)
        return job.name == "b" and looks.count("b") < 4

    jobs = jobs_of(cluster, a=DONE, b=DONE)
    found = ends_of(launcher_on(cluster, said, is_held=is_held), jobs)
    assert set(found) == {"a", "b"}
    assert [names for names, _ in cluster.arrays] == [["a"], ["b"]]
    assert "Other processes are at 1 jobs; waiting for them." in said


def test_a_refused_submission(cluster):
    cluster.refusals = ["sbatch: error: Batch job submission failed: Invalid partition name"]
    with pytest.raises(UsageError, match="refuses the jobs: Invalid partition name"):
        ends_of(launcher_on(cluster), jobs_of(cluster, a=DONE))
    assert list((cluster.folder / "slurm").iterdir()) == []


def test_a_later_refusal_is_tried_again(cluster):
    said = []
    launcher = launcher_on(cluster, said)
    ends = launcher.run(jobs_of(cluster, a=DONE, b=["runs", DONE]))
    assert next(ends).job.name == "a"
    cluster.refusals = ["Unable to contact slurm controller"] * 3
    cluster.ends["b"][0] = "FAILED"
    assert [(one.job.name, one.state) for one in ends] == [("b", "done")]
    assert len([text for text in said if "Unable to contact" in text]) == 1


def test_closed_it_leaves_jobs_alone_and_the_next_attaches(cluster, monkeypatch):
    jobs = jobs_of(cluster, a=DONE, b="runs", c="runs")
    first = launcher_on(cluster)
    ends = first.run(jobs)
    assert next(ends).job.name == "a"
    ends.close()
    assert first.when_closed().startswith("2 jobs go on in Slurm")
    assert "`scancel 1`" in first.when_closed()
    said = []
    second = launcher_on(cluster, said)

    def sleep(_seconds):
        cluster.ends |= {"b": [DONE], "c": [DONE]}

    monkeypatch.setattr(slurm_module.time, "sleep", sleep)
    assert {one.job.name for one in second.run(jobs[1:])} == {"b", "c"}
    assert len(cluster.arrays) == 1
    assert said == ["2 jobs of an earlier command are in Slurm already."]
    assert second.when_closed() == "nothing was under way"


def test_numbers_of_a_slurm_that_was_set_up_anew_are_not_ours(cluster):
    jobs = jobs_of(cluster, a=DONE, b=["runs", DONE])
    ends = launcher_on(cluster).run(jobs)
    assert next(ends).job.name == "a"
    ends.close()
    cluster.array_name = "another"  # what squeue says of the same numbers now
    assert [one.state for one in launcher_on(cluster).run(jobs[1:])] == ["done"]
    assert len(cluster.arrays) == 2
