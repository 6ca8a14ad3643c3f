"""When the weights are updated."""

import pytest

from lightning_dga.engine.schedule import BudgetedSchedule, FixedSchedule


def due(schedule, begin, end):
    steps, last = [], begin
    for step in range(begin + 1, end + 1):
        if schedule.is_due(step, last):
            steps.append(step)
            last = step
    return steps


def test_a_fixed_schedule_updates_at_multiples_of_its_period():
    schedule = FixedSchedule(7)
    assert due(schedule, 0, 30) == [7, 14, 21, 28]
    assert due(schedule, 10, 30) == [14, 21, 28]
    assert schedule.updates(0, 70) == 10
    assert schedule.ahead(3) == 7


def budgeted(period, length=None, min_updates=0, begin=0):
    return BudgetedSchedule(0.02, period, min_updates, begin, length)


@pytest.mark.parametrize(("period", "length"), [(1.0, 40), (6.25, 700), (62.5, 700), (62.5, 20_000), (1000.0, 900)])
def test_a_budget_is_spent_by_the_end_of_the_run_and_not_exceeded(period, length):
    schedule = budgeted(period, length)
    steps = due(schedule, 0, length)
    assert len(steps) <= length / period <= len(steps) + 1
    assert len(steps) == int(schedule.updates(0, length))


@pytest.mark.parametrize("begin", [0, 500])
def test_half_of_the_updates_are_in_the_first_quarter(begin):
    steps = due(budgeted(20.0, 4000, begin=begin), begin, begin + 4000)
    assert len(steps) == 200
    assert sum(step <= begin + 1000 for step in steps) == 100


@pytest.mark.parametrize("length", [None, 400, 700])
def test_a_short_run_is_measured_every_ten_steps_whatever_that_costs(length):
    assert due(budgeted(175.0, length, min_updates=70), 0, 700)[:40] == list(range(10, 401, 10))


def test_a_longer_run_has_the_least_number_of_updates_and_then_what_the_budget_pays_for():
    for length, updates in ((700, 70), (7000, 70), (12_250, 70), (24_500, 140)):
        assert len(due(budgeted(175.0, length, min_updates=70), 0, length)) == updates


def test_a_run_without_a_known_end_comes_within_the_budget():
    schedule = budgeted(40.0, min_updates=70)
    assert schedule.updates(0, 1000) > 1000 / 40
    assert schedule.updates(0, 11_200) == 11_200 / 40
    assert schedule.updates(0, 100_000) == 100_000 / 40


def test_a_run_goes_on_past_its_planned_end_at_half_the_density():
    steps = due(budgeted(64.0, 640), 0, 5000)
    assert {b - a for a, b in zip(steps[-5:], steps[-4:], strict=False)} == {128}


@pytest.mark.parametrize("length", [None, 900, 10_000])
def test_the_steps_to_the_next_update_are_known(length):
    schedule = budgeted(33.3, length, min_updates=20)
    steps = due(schedule, 0, 3000)
    for step in range(0, steps[-2]):
        following = next(one for one in steps if one > step)
        assert step + schedule.ahead(step) == following


def test_a_checkpoint_keeps_the_schedule_of_the_same_budget():
    schedule = budgeted(33.3, 900, 70, 10)
    assert BudgetedSchedule.from_state_dict(schedule.state_dict(), 0.02, 70) == schedule
    assert BudgetedSchedule.from_state_dict(schedule.state_dict(), 0.05, 70) is None
    assert BudgetedSchedule.from_state_dict(schedule.state_dict(), 0.02, 0) is None
    assert BudgetedSchedule.from_state_dict({}, 0.02, 70) is None
