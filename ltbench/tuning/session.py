"""Tuning several methods with equal budgets: studies planned, trials run, files written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from ltbench.config import Request
from ltbench.errors import GridFailedError, RunFailedError, UsageError
from ltbench.launchers import Job
from ltbench.launchers.choice import LaunchOptions, launcher_of
from ltbench.run_config import free_seeds
from ltbench.runner import Outcome, Place
from ltbench.training.signals import stoppable
from ltbench.tuned import read_tuned
from ltbench.tuning import places
from ltbench.tuning.after import RunSeed, Tested, check_budgets, run_incumbents
from ltbench.tuning.output import curve_of, place_of, write_curve, write_rows, write_tuned
from ltbench.tuning.plan import Options, StudyPlan, plan_studies
from ltbench.tuning.report import StudyReport, in_a_line, report_of
from ltbench.tuning.storage import Timing, open_storage, shown, storage_faults, storage_url
from ltbench.tuning.study import Study, nearest
from ltbench.tuning.trial import FOLDER
from ltbench.tuning.worker import Order, quiet_optuna, work

__all__ = ["Tuned", "Tuning", "check_whole"]

Say = Callable[[str], None]

# How often a worker is started again whose process died: of many trials, each tried a few times.
_RESTARTS = 100


@dataclass
class Tuned:
    """What tuning came to.

    Attributes:
        reports: one a method, in the order asked for.
        tests: of what the first k trials would have chosen.
        troubles: by method, why its study is not complete.
    """

    reports: list[StudyReport] = field(default_factory=list)
    tests: list[Tested] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)


class Tuning:
    """Studies of several methods and who works on them.

    Args:
        methods: one request each.
        place: where results go and data lie.
        storage: a database URL; an SQLite file below the results unless given.
        out: root of the files of tuned settings.
        say: told in lines what happens.

    Raises:
        UsageError, DataMissingError, VerificationError, RunFailedError: what would be refused, and
            a database that does not answer, before anything trains.
    """

    def __init__(
        self,
        methods: Sequence[Request],
        options: Options,
        place: Place,
        *,
        storage: str | None = None,
        out: Path,
        say: Say = lambda text: None,
        timing: Timing | None = None,
    ) -> None:
        url = storage_url(storage, place.results / FOLDER)
        found = plan_studies(methods, options, place)
        self.plans = tuple({plan.name: plan for plan in found}.values())
        self._order = Order(
            *(self.plans, url, place.results, place.data_root, place.plugins),
            timing=timing or Timing(),
        )
        self._place, self._out, self._say = place, out, say

    def run(
        self,
        *,
        num_workers: int = 1,
        test_at: Sequence[int] = (),
        seeds: Sequence[int] = (),
        run_seed: RunSeed | None = None,
    ) -> Tuned:
        """Meet every budget, write what was found, and test what was asked for.

        Args:
            num_workers: trials side by side on this machine.
            test_at: numbers of trials after which the best until then is run and tested.
            seeds: of these runs.
            run_seed: runs one of them.

        Raises:
            InterruptedRunError: told to stop; trials under way are saved.
        """
        check_budgets(test_at, seeds, self.plans)
        if test_at and (run_seed is None or not seeds):
            free = free_seeds(seed for plan in self.plans for seed in plan.seeds)
            raise UsageError(f"--test-at needs the seeds to report, such as --seeds {free}.")
        with storage_faults(self._order.url), quiet_optuna():
            studies = self._opened()
            failures = self._work(studies, num_workers)
            tuned = self._written(studies)
        if failures and tuned.troubles:
            tuned.troubles |= failures
        for plan, report in zip(self.plans, tuned.reports, strict=True):
            if test_at and report.frozen is not None and run_seed is not None:
                rows = run_incumbents(
                    *(plan, report, test_at, seeds, self._place, self._out),
                    run_seed=run_seed,
                    on_outcome=lambda outcome: self._say(_tested_in_a_line(outcome)),
                )
                tuned.tests += rows
                self._write_tests(report, rows)
        return tuned

    def _opened(self) -> list[Study]:
        """The studies, and what a person should know of each before its trials run."""
        order = self._order
        storage = open_storage(order.url, order.timing)
        self._say(f"studies in {shown(order.url)}")
        studies = []
        for plan in self.plans:
            other = nearest(plan, storage)
            study = Study(plan, storage, order.timing)
            study.clear_dead()
            self._say(_beginning(study, other))
            studies.append(study)
        return studies

    def _work(self, studies: Sequence[Study], num_workers: int) -> dict[str, str]:
        """Run trials until every budget is met; by worker, what stopped it."""
        waiting = [study for study in studies if not study.is_complete]
        if not waiting:
            return {}
        if num_workers == 1:
            work(self._order, lambda plan, one: self._say(in_a_line(plan, one)), self._say)
            return {}
        machine = self.plans[0].facts["cell"]
        cuda = machine["device"] == "cuda"
        options = LaunchOptions(
            num_at_once=num_workers,
            slots_per_device=_share(num_workers) if cuda else 1,
            cpus=machine["threads"],
            on_cuda=cuda,
            retries=_RESTARTS,
        )
        launcher = launcher_of("local", options, folder=self._place.results, say=self._say)
        jobs = [self._job(number, machine["threads"]) for number in range(1, num_workers + 1)]
        failures = {}
        with (
            stoppable(lambda: "Trials under way are saved. Run the same command again to go on."),
            _told_as_they_end(self._order, studies, self._say),
            closing(launcher.run(jobs)) as ends,
        ):
            for ended in ends:
                if ended.state != "done":
                    failures[ended.job.name] = f"{ended.message} (log: {ended.job.log})"
                    self._say(f"{ended.job.name}: {failures[ended.job.name]}")
        return failures

    def _job(self, number: int, threads: int) -> Job:
        log = self._place.results / FOLDER / "logs" / f"{self.plans[0].id}-{number}.txt"
        return Job(f"worker {number}", partial(work, self._order), log, num_cpus=threads)

    def _written(self, studies: Sequence[Study]) -> Tuned:
        """Reports; the files of studies that are complete, which are frozen with it."""
        tuned = Tuned()
        for study in studies:
            if study.is_complete:
                study.freeze()
            report = report_of(study)
            if study.is_complete and report.best is not None:
                report = replace(report, file=self._write(study.plan, report))
            elif study.is_complete:
                tuned.troubles[report.method] = "no trial of the study ended with finite numbers"
            else:
                why = study.trouble() or f"{len(report.trials)} of {report.budget} trials are done"
                tuned.troubles[report.method] = why
            tuned.reports.append(report)
        return tuned

    def _write(self, plan: StudyPlan, report: StudyReport) -> Path:
        """The tuned settings and the curve, each unless this study has written it before."""
        assert report.best is not None
        file = place_of(report, self._out, plan.label)
        before = read_tuned(file) if file.is_file() else None
        study = before.tuning.get("study") if before is not None and before.tuning else None
        same = study == report.study and before is not None and not before.is_edited
        if study not in (None, report.study):
            self._say(f"{file} held those of study {study}; they are replaced")
        elif study is not None and not same:
            self._say(f"{file} was edited since tune wrote it; it is written again")
        if not same:
            write_tuned(plan, report, report.best, self._out)
        if not same or not curve_of(file).is_file():
            write_curve(plan, report, self._out)
        return file

    def _write_tests(self, report: StudyReport, rows: Sequence[Tested]) -> None:
        if rows and report.file is not None:
            write_rows(report.file.with_suffix(".tests.csv"), [vars(row) for row in rows])


def check_whole(tuned: Tuned) -> None:
    """Raise where a study is not complete, once everything else has been told.

    Raises:
        RunFailedError, GridFailedError: of the only method, of some of several.
    """
    if not tuned.troubles:
        return
    lines = "".join(f"\n  {name}: {why}" for name, why in tuned.troubles.items())
    kind = GridFailedError if len(tuned.reports) > 1 else RunFailedError
    raise kind(f"Not every study is complete.{lines}\nRun the same command again to go on.")


def _beginning(study: Study, other: str | None) -> str:
    plan, trials = study.plan, study.trials()
    words = ", ".join(f"{key} {text}" for key, text in plan.space.in_words().items())
    lines = [
        f"{plan.name}: {len(places.finished(trials))} of {plan.trials} trials are done",
        f"  searched: {words}",
    ]
    if plan.space.fixed:
        lines.append(f"  fixed by the command: {', '.join(plan.space.fixed)}")
    if not plan.space.holds_defaults:
        lines.append("  the untuned settings lie outside these ranges; they are tried all the same")
    if other is not None:
        lines.append(f"  {other}")
    return "\n".join(lines)


def _tested_in_a_line(outcome: Outcome) -> str:
    record = outcome.record
    return (
        f"{record['label']}, seed {record['seed']}: {outcome.status}, test macro F1 "
        f"{record['metrics']['test']['macro_f1']:.4f}, run {outcome.folder.name}"
    )


def _share(num_workers: int) -> int:
    """Trials that share a CUDA device."""
    import torch

    return -(-num_workers // max(1, torch.cuda.device_count()))


@contextmanager
def _told_as_they_end(order: Order, studies: Sequence[Study], say: Say) -> Iterator[None]:
    """Meanwhile, tell every trial that ends, whoever ended it."""
    told = {study.plan.name: {t.number for t in _ended(study)} for study in studies}
    over = threading.Event()

    def watch() -> None:
        with suppress(RunFailedError):  # as the workers' own, which they tell
            look()

    def look() -> None:
        # Connections of its own: those of SQLite belong to the thread that made them.
        storage = open_storage(order.url, order.timing)
        watched = [Study(study.plan, storage, order.timing) for study in studies]
        last = False
        while not last:
            last = over.wait(order.timing.poll_s)
            with suppress(SQLAlchemyError, StorageInternalError):
                tell(watched)

    def tell(watched: Sequence[Study]) -> None:
        for study in watched:
            for trial in _ended(study):
                if trial.number not in told[study.plan.name]:
                    told[study.plan.name].add(trial.number)
                    say(in_a_line(study.plan, trial))

    thread = threading.Thread(target=watch, name="tells trials", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _ended(study: Study) -> list[FrozenTrial]:
    """What there is to tell: not trials that are tried again or had no place."""
    trials = study.trials()
    return [*places.finished(trials), *places.failures(trials)]
