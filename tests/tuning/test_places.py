"""The budget is met exactly, whatever workers do to each other and whenever they die."""

from __future__ import annotations

import random

import optuna
import pytest
from optuna.trial import TrialState

from ltbench.tuning import places
from ltbench.tuning.places import BEYOND, FACTS, NOTE, POSITION

SPACE = {"x": optuna.distributions.FloatDistribution(0, 1)}


class Shop:
    """Workers on one study in memory; each takes one step at a time, as chance has it."""

    def __init__(self, budget, seed, death):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(direction="maximize")
        self.study.set_user_attr(FACTS, {"space": {"x": None}})
        self.budget, self.death = budget, death
        self.chance = random.Random(seed)
        self.began = set()

    def trials(self):
        return self.study.get_trials(deepcopy=False)

    def worker(self):
        """One life: steps between which anything may happen."""
        while len(places.finished(self.trials())) < self.budget:
            yield
            places.try_again(self.study)
            yield
            if not places.has_place(self.trials(), self.budget):
                continue
            yield
            trial = self.study.ask()
            yield trial.number
            position = places.position_of(self.trials(), self.stored(trial))
            trial.set_user_attr(POSITION, position)
            yield trial.number
            if not places.holds_place(self.trials(), trial.number, self.budget):
                trial.set_user_attr(NOTE, BEYOND)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            self.began.add(trial.user_attrs.get(places.PLACE, trial.number))
            trial.suggest_float("x", 0, 1)
            for _ in range(self.chance.randrange(4)):
                yield trial.number
            if self.chance.random() < 0.2:
                trial.set_user_attr(NOTE, "refused")
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            pruned = self.chance.random() < 0.3
            if pruned:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, 0.5)

    def stored(self, trial):
        return next(t for t in self.trials() if t.number == trial.number)

    def run(self, num_workers):
        lives = [self.worker() for _ in range(num_workers)]
        while any(life is not None for life in lives):
            number = self.chance.randrange(num_workers)
            if lives[number] is None:
                continue
            at = next(lives[number], "over")
            if at == "over":
                lives[number] = None
            elif at is not None and self.chance.random() < self.death:
                self.bury(at)
                lives[number] = self.worker()

    def bury(self, number):
        """Two processes may find the dead at once."""
        found = next(t for t in self.trials() if t.number == number)
        for _ in range(self.chance.choice([1, 2])):
            places.fail(self.study, found)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("budget", "workers", "death"), [(1, 3, 0.1), (7, 4, 0.0), (7, 4, 0.2)])
def test_the_budget_is_met_exactly(seed, budget, workers, death):
    shop = Shop(budget, seed, death)
    shop.run(workers)
    assert len(places.finished(shop.trials())) == budget
    positions = [t.user_attrs[POSITION] for t in places.finished(shop.trials())]
    assert len(set(positions)) == budget, "no draw counts twice"
    for place in shop.began:
        tried = [t for t in shop.trials() if t.user_attrs.get(places.PLACE, t.number) == place]
        given_up = places.failures(tried)
        assert len(places.finished(tried)) + len(given_up) == 1, "what began is seen to its end"


def made(study, state, **attrs):
    trial = study.ask()
    for key, value in attrs.items():
        trial.set_user_attr(key, value)
    trial.suggest_float("x", 0, 1)
    if state != TrialState.RUNNING:
        study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
    return next(t for t in study.trials if t.number == trial.number)


def lose(study, trial):
    places.fail(study, trial)
    places.try_again(study)


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.set_user_attr(FACTS, {"space": {"x": None}})
    return study


def test_what_was_drawn_is_tried_again(study):
    dead = made(study, TrialState.RUNNING, **{POSITION: 3, places.OWNER: {"pid": 1}})
    lose(study, dead)
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == dead.params["x"]
    assert again.user_attrs == {
        **{POSITION: 3, places.RETRY_OF: 0, places.PLACE: 0},
        **{places.TRIES: 2, places.TOLD: 0},
    }
    assert places.failures(study.trials) == []


def test_half_a_draw_is_drawn_anew(study):
    study.set_user_attr(FACTS, {"space": {"x": None, "y": None}})
    lose(study, made(study, TrialState.RUNNING, **{POSITION: 3}))
    assert study.ask().params == {}


def test_one_that_was_not_drawn_is_not_tried_again(study):
    lose(study, made(study, TrialState.RUNNING))
    assert [t.state for t in study.trials] == [TrialState.FAIL]
    assert places.position_of(study.trials, made(study, TrialState.RUNNING)) == 0


def test_one_that_dies_every_time_is_given_up(study):
    for tried in range(1, places.MOST_TRIES + 1):
        assert places.failures(study.trials) == []
        again = study.ask()
        if tried == 1:
            again.set_user_attr(POSITION, 0)
            again.suggest_float("x", 0, 1)
        lose(study, next(t for t in study.trials if t.number == again.number))
    assert [t.number for t in places.failures(study.trials)] == [places.MOST_TRIES - 1]
    assert not any(t.state == TrialState.WAITING for t in study.trials)


def test_one_that_comes_further_or_is_told_to_stop_is_not_given_up(study):
    for tried in range(12):
        again = study.ask()
        again.set_user_attr(POSITION, 0)
        again.suggest_float("x", 0, 1)
        if tried < 6:
            for step in range(tried // 2 + 1):
                again.report(0.5, step)
        else:
            again.set_user_attr(places.STOPPED, True)
        lose(study, next(t for t in study.trials if t.number == again.number))
    assert places.failures(study.trials) == []
    assert study.trials[-1].state == TrialState.WAITING


def test_one_that_ended_is_left_alone(study):
    ended = made(study, TrialState.COMPLETE, **{POSITION: 0})
    lose(study, ended)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]


def test_its_place_is_kept_until_it_is_tried_again(study):
    """Nobody may take it in between, also where the process that failed it dies at that moment."""
    dead = made(study, TrialState.RUNNING, **{POSITION: 0})
    places.fail(study, dead)
    assert not places.has_place(study.trials, 1)
    other = study.ask()
    assert not places.holds_place(study.trials, other.number, 1)
    other.set_user_attr(NOTE, BEYOND)
    study.tell(other, state=TrialState.FAIL)
    places.try_again(study)
    places.try_again(study)
    assert places.has_place(study.trials, 1)
    assert sum(t.state == TrialState.WAITING for t in study.trials) == 1
    assert places.holds_place(study.trials, study.ask().number, 1)


def test_of_two_that_try_the_same_again_one_has_a_place(study):
    dead = made(study, TrialState.RUNNING, **{POSITION: 0})
    places.fail(study, dead)
    both = places._again(study, dead)
    study.add_trial(both)
    study.add_trial(both)
    first, second = study.ask(), study.ask()
    assert places.holds_place(study.trials, first.number, 9)
    assert not places.holds_place(study.trials, second.number, 9)
