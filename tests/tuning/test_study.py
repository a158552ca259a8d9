"""A study: what it is, what is drawn, what happens to trials that fail, die or are refused."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import asdict, replace

import optuna
import pytest
from optuna.trial import TrialState

from ltbench.errors import RunFailedError, UsageError, VerificationError
from ltbench.owner import Owner
from ltbench.testing.tiny import tiny_request
from ltbench.tuning import places
from ltbench.tuning import study as study_module
from ltbench.tuning.places import BEYOND, FACTS, NOTE, OWNER, POSITION
from ltbench.tuning.plan import Options, plan_studies
from ltbench.tuning.report import in_a_line, report_of
from ltbench.tuning.study import Study, nearest
from ltbench.tuning.trial import trial_cell

# Where the search is free: `tiny_request` fixes the learning rate.
MOMENTUM = {"optimizer.momentum": "0.0:0.9"}


def hill(settings):
    """The best is a momentum of 0.6 and a weight decay of 1e-3."""
    decay = math.log10(settings.get("optimizer.weight_decay", 5e-4))
    return 1 - (settings.get("optimizer.momentum", 0.9) - 0.6) ** 2 - (decay + 3) ** 2 / 50


def run_whole(study, work):
    while not study.is_complete:
        study.run_trial(work)
    return study


def drawn(study):
    """Settings and values of the budget, in order."""
    return [(t.params, t.value) for t in places.finished(study.trials())]


@pytest.fixture
def dead_owner():
    """Who a process was that has ended."""
    program = "import json, dataclasses; from ltbench.owner import Owner\n"
    program += "print(json.dumps(dataclasses.asdict(Owner.here())))"
    text = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    owner = Owner.read(text)
    assert owner.is_alive() is False
    return owner


def begin_and_die(study, owner):
    """What a process leaves that is killed while it trains."""
    study._owner = owner
    trial = study.optuna.ask()
    study.plan.space.suggest(trial)
    return trial.number


pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # of `ask` by hand


# What a study is.


def test_the_first_trial_is_the_default(study, pretend):
    one = study("ecl")
    tried = []
    run_whole(one, pretend(lambda settings: tried.append(settings) or 0.5))
    assert tried[0] == one.plan.space.defaults
    report = report_of(one)
    assert report.default_value == 0.5
    assert report.trials[0].untuned
    assert not any(trial.untuned for trial in report.trials[1:])


def test_defaults_outside_the_ranges_are_tried_all_the_same(study, pretend):
    one = study("ce", own={"optimizer.momentum": "0.1:0.5"}, trials=12)
    assert not one.plan.space.holds_defaults
    tried = []
    run_whole(one, pretend(lambda settings: tried.append(settings) or hill(settings)))
    assert tried[0] == {}
    assert all(set(settings) == set(one.plan.space.ranges) for settings in tried[1:])


def test_the_untuned_are_never_pruned(study, pretend):
    seen = []

    def work(settings, trial, may_prune):
        seen.append(may_prune)
        return pretend()(settings, trial, may_prune)

    run_whole(study(trials=3), work)
    assert seen == [False, True, True]


def test_everything_fixed_is_in_the_name(plan):
    base = plan()
    others = [
        plan("ecl"),
        plan(trials=5),
        plan(space="recipe", own=MOMENTUM),
        plan(objective="val.balanced_accuracy"),
        plan(seeds=(7,)),
        plan(sampler="random"),
        plan(sampler_seed=1),
        plan(pruner="hyperband"),
        plan(settings={"epochs": 5}),
        plan(settings={"optimizer.momentum": 0.5}),
        plan(settings={"split_seed": 1}),
        plan(settings={"dataset.noise": 0.2}),
        plan(settings={"machine.threads": 2}),
        plan(settings={"optimizer.lr": 0.06}),
    ]
    assert len({one.id for one in [base, *others]}) == len(others) + 1
    assert plan(settings={"machine.checkpoint_every_s": 1}).id == base.id
    default = plan(own={"optimizer.lr": "0.01:0.1"})
    elsewhere = plan(settings={"optimizer.lr": 0.06}, own={"optimizer.lr": "0.01:0.1"})
    assert default.id != elsewhere.id, "the first trial is another"


def test_another_study_under_its_name_is_refused(study, plan, storage):
    one = study()
    one.optuna.set_user_attr(FACTS, {**one.optuna.user_attrs[FACTS], "trials": 99})
    with pytest.raises(VerificationError, match="made for something else: trials differ"):
        Study(plan(), storage)


def test_the_likeliest_other_study_is_named(study, plan, storage):
    assert nearest(plan(), storage) is None, "there is none yet"
    study(trials=9, settings={"epochs": 2})
    study(trials=9)
    study("ecl")
    told = nearest(plan(), storage)
    assert "trials was 9, is 4" in told
    assert "epochs" not in told, "the other one differs in more"
    study()
    assert nearest(plan(), storage) is None, "the study itself is there"


@pytest.mark.parametrize(("settings", "words"), [
    ({"machine.devices": 2}, "a trial trains on one device"),
    ({"loader_seed": 3}, "trials would share them"),
    ({"init_seed": 3}, "trials would share them"),
])  # fmt: skip
def test_what_cannot_be_tuned_is_refused(plan, settings, words):
    with pytest.raises(UsageError, match=words):
        plan(settings=settings)


def test_budgets_are_equal_or_refused(place):
    requests = [tiny_request("ce"), tiny_request("ecl", {"epochs": 5})]
    with pytest.raises(UsageError, match="their epochs differ: ce 4, ecl 5"):
        plan_studies(requests, Options(), place)
    for options, words in [
        (Options(trials=0), "one trial or more"),
        (Options(seeds=()), "one tuning seed or more"),
        (Options(objective="test.macro_f1"), "Unknown objective"),
        (Options(sampler="grid"), "Unknown sampler"),
        (Options(pruner="mean"), "Unknown pruner"),
    ]:
        with pytest.raises(UsageError, match=words):
            plan_studies(requests[:1], options, place)


def test_a_tuned_file_is_no_beginning(place, tmp_path):
    request = tiny_request("ce", tuned_file=tmp_path / "tuned.yaml")
    with pytest.raises(UsageError, match="takes none"):
        plan_studies([request], Options(), place)


def test_a_trial_of_something_else_is_refused(plan, place):
    one = plan()
    one.check(trial_cell(one.trial_request({"optimizer.weight_decay": 0.1}, 1_000_000), place))
    other = trial_cell(one.trial_request({"optimizer.momentum": 0.1}, 1_000_000), place)
    with pytest.raises(RunFailedError, match=r"config\.optimizer\.momentum changed while"):
        one.check(other)


# What is drawn.


@pytest.mark.parametrize(
    ("sampler", "trials"), [("random", 4), pytest.param("tpe", 20, marks=pytest.mark.slow)]
)
def test_the_same_study_draws_the_same(plan, tmp_path, pretend, quick, sampler, trials):
    from ltbench.tuning.storage import open_storage, storage_url

    found = []
    for name in "ab":
        storage = open_storage(storage_url(None, tmp_path / name), quick)
        one = Study(plan(own=MOMENTUM, trials=trials, sampler=sampler), storage, quick)
        found.append(drawn(run_whole(one, pretend(hill))))
    assert found[0] == found[1]
    assert len({str(params) for params, _ in found[0]}) == trials


def test_stopped_failed_and_killed_it_draws_what_it_would_have(
    plan, tmp_path, pretend, quick, dead_owner
):
    from ltbench.tuning.storage import open_storage, storage_url

    asked = plan(own=MOMENTUM, trials=13)
    stores = [open_storage(storage_url(None, tmp_path / n), quick) for n in "ab"]
    whole = drawn(run_whole(Study(asked, stores[0], quick), pretend(hill)))

    def failing(settings, trial, may_prune):
        raise RunFailedError("the disk is gone")

    for number in range(13):
        one = Study(asked, stores[1], quick)  # as in a new process
        one.clear_dead()
        if number % 3 == 1:
            with pytest.raises(RunFailedError):
                one.run_trial(failing)
            one.clear_dead()
        if number % 4 == 2:
            begin_and_die(one, dead_owner)
            one = Study(asked, stores[1], quick)
            one.clear_dead()
        one.run_trial(pretend(hill))
    assert one.is_complete
    assert drawn(one) == whole


@pytest.mark.slow
def test_tpe_learns(study, pretend):
    values = [value for _, value in drawn(run_whole(study(own=MOMENTUM, trials=21), pretend(hill)))]
    assert sum(values[11:]) > sum(values[1:11])


@pytest.mark.parametrize(
    ("name", "trials"), [("median", 6), pytest.param("hyperband", 12, marks=pytest.mark.slow)]
)
def test_pruners_are_told_epochs_and_stop_what_is_behind(study, name, trials):
    one, epochs = study(trials=trials, pruner=name, settings={"epochs": 6}), 6

    def outcome(state, value, epochs):
        return {
            **{"state": state, "value": value, "values": [value], "epochs": epochs},
            **{"wall_time_s": 1.0, "runs": [], "settings": {}},
        }

    def work(settings, trial, may_prune):
        level = 0.9 if trial.number < 5 else 0.1
        for step in range(1, epochs + 1):
            trial.report(level * step / epochs, step)
            if may_prune and trial.should_prune():
                return outcome("pruned", level * step / epochs, step)
        return outcome("complete", level, epochs)

    report = report_of(run_whole(one, work))
    assert "pruned" in {trial.state for trial in report.trials[5:]}
    if name == "median":
        assert report.trials[-1].epochs == 2, "not in the first third"


# Trials that do not end well.


def test_refused_settings_cost_no_place(study, pretend):
    one = study(trials=3)
    calls = []

    def work(settings, trial, may_prune):
        calls.append(settings)
        if len(calls) in (2, 3):
            raise UsageError("these two do not\ngo together")
        return pretend()(settings, trial, may_prune)

    run_whole(one, work)
    report = report_of(one)
    assert (len(report.trials), report.failed) == (3, 2)
    refused = places.failures(one.trials())
    assert [t.user_attrs[NOTE] for t in refused] == ["these two do not go together"] * 2
    assert in_a_line(one.plan, refused[0]) == "ce trial 1: refused: these two do not go together"
    assert len({str(settings) for settings in calls}) == 5


def test_refused_defaults_stop_the_study(study):
    def work(settings, trial, may_prune):
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        study().run_trial(work)


def test_a_space_that_is_all_refused_stops(study, pretend, monkeypatch):
    monkeypatch.setattr(study_module, "_MOST_REFUSED", 5)
    one = study(trials=9)
    one.run_trial(pretend())

    def work(settings, trial, may_prune):
        raise UsageError("never")

    for _ in range(5):
        assert one.trouble() is None
        one.run_trial(work)
    assert "last 5 draws were all refused, the last one for: never" in one.trouble()


def test_what_diverged_is_of_the_budget_and_never_the_best(study, pretend):
    one = study(trials=3)
    one.run_trial(pretend(0.0, "diverged"))
    assert report_of(one).best is None
    assert report_of(one).curve() == []
    one.run_trial(pretend(0.5))
    one.run_trial(pretend(0.9, "pruned"))
    report = report_of(one)
    assert (report.count("diverged"), report.pruned, report.default_value) == (1, 2, None)
    assert report.best.value == 0.5
    assert report.curve()[-1] == {"k": 3, "expected_best": 0.5, "best_so_far": 0.5}


def test_equal_values_are_won_by_the_first(study, pretend):
    assert report_of(run_whole(study(), pretend(0.5))).best.number == 0


def test_a_failure_that_is_no_fault_of_the_settings_is_tried_again(study, pretend):
    one = study(trials=2)
    one.run_trial(pretend())
    tried = []

    def failing(settings, trial, may_prune):
        tried.append(settings)
        raise RunFailedError("the disk is gone")

    with pytest.raises(RunFailedError):
        one.run_trial(failing)
    one.clear_dead()
    one.run_trial(pretend(lambda settings: tried.append(settings) or 0.5))
    assert tried[0] == tried[1]
    assert one.is_complete
    assert report_of(one).failed == 0


def test_a_fault_of_a_plugin_is_not_swallowed(study):
    """Not even one that looks like what Optuna says of trials that were taken away."""
    one = study()

    def work(settings, trial, may_prune):
        raise ValueError("Cannot tell a tale")

    with pytest.raises(ValueError, match="a tale"):
        one.run_trial(work)


def test_the_dead_are_found_at_once(study, pretend, dead_owner):
    one = study(trials=2)
    begin_and_die(one, dead_owner)
    assert not one.trials()[0].state.is_finished()
    one.clear_dead()
    assert [t.state for t in one.trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_the_living_and_those_of_other_machines_are_left(study, dead_owner):
    one = study(trials=3)
    begin_and_die(one, Owner.here())
    begin_and_die(one, replace(dead_owner, host="elsewhere"))
    one.clear_dead()
    assert {t.state for t in one.trials()} == {TrialState.RUNNING}


def test_other_machines_are_told_by_their_heartbeat(study, storage, dead_owner, monkeypatch):
    one = study(trials=3)
    begin_and_die(one, replace(dead_owner, host="elsewhere"))
    monkeypatch.setattr(storage, "grace_period", -1)
    one.clear_dead()
    assert [t.state for t in one.trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_one_that_was_never_signed_is_watched_for_a_while(study, monkeypatch):
    one = study(trials=3)
    one._enter = lambda trial: 0
    one._sampler._enter = one._enter
    one.optuna.ask()
    one.clear_dead()
    assert [t.state for t in one.trials()] == [TrialState.RUNNING]
    monkeypatch.setattr(study_module.time, "monotonic", lambda: 1e12)
    one.clear_dead()
    assert [t.state for t in one.trials()] == [TrialState.FAIL], "and not tried again: not drawn"


@pytest.mark.parametrize("when", ["it ends", "it reports"])
def test_taken_for_dead_while_alive_it_leaves_the_trial_to_others(study, pretend, when):
    """A machine that slept wakes up: what it did is found in the folder by who tries it again."""
    one = study(trials=2)

    def work(settings, trial, may_prune):
        if when == "it ends":
            outcome = pretend()(settings, trial, may_prune)
        (found,) = (t for t in one.trials() if t.number == trial.number)
        places.fail(one.optuna, found)
        return outcome if when == "it ends" else pretend()(settings, trial, may_prune)

    assert one.run_trial(work) is None
    one.clear_dead()
    assert [t.state for t in one.trials()] == [TrialState.FAIL, TrialState.WAITING]
    run_whole(one, pretend())
    assert report_of(one).failed == 0


def test_one_beyond_the_budget_gives_up_at_once(study, pretend):
    one = study(trials=1)
    one.optuna.ask()
    assert not one.has_place()
    assert one.run_trial(pretend()) is None
    assert [t.user_attrs.get(NOTE) for t in one.trials()] == [None, BEYOND]
    assert report_of(one).failed == 0


def test_owner_and_position_are_signed(study, pretend):
    one = study(trials=2)
    run_whole(one, pretend())
    for number, trial in enumerate(one.trials()):
        assert trial.user_attrs[POSITION] == number
        assert trial.user_attrs[OWNER] == asdict(one._owner)


def test_frozen_once(study, pretend):
    one = study(trials=1)
    run_whole(one, pretend())
    assert one.frozen is None
    one.freeze()
    at = one.frozen
    one.freeze()
    assert at is not None
    assert one.frozen == at


def test_optuna_is_as_loud_as_before(quick):
    from ltbench.tuning.worker import quiet_optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
