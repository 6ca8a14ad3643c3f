"""The cost model: its formulas and its documentation."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_dga.alignment import Cost
from lightning_dga.cli.plan import size, table

ROOT = Path(__file__).parents[2]
COST = Cost(domains=10, period=100, batch_size=64, processes=4, parameters=10**6)


def cost(**settings):
    return replace(COST, **settings)


def test_an_update_moves_one_gradient_and_a_few_numbers_for_each_domain():
    assert COST.update_bytes == 4 * 10**6 + 8 * (62 + 6) + 48
    assert cost(domains=1000).update_bytes - COST.update_bytes == 990 * 48
    assert COST.training_bytes == 100 * 4 * 10**6
    assert cost(processes=1).update_bytes == cost(processes=1).sent(0) == 0
    assert COST.sent(COST.update_bytes) == 1.5 * COST.update_bytes


def test_shards_are_gathered_in_each_pass():
    sharded = cost(sharded=True, probe_batch_size=2, target_batch_size=8, batch_size=32)
    gradient = 4 * 10**6
    assert sharded.update_bytes == replace(sharded, target_batch_size=32).update_bytes
    passes = {"backward": 3 * (10 + 1), "batched": 3 + 3, "finite_difference": 3 + 5 + 3, "in_step": 3 + 1}
    for estimator, of_gradients in passes.items():
        assert round(replace(sharded, estimator=estimator).update_bytes / gradient) == of_gradients
    assert sharded.memory == gradient / 4


def test_probes_are_shared_among_processes_unless_shards_make_them_go_together():
    assert COST.update_work == (40 + 16) / 4
    assert cost(sharded=True).update_work == 40 + 16 / 4
    assert cost(sharded=True, estimator="batched").update_work == 40 / 4 + 16 / 4
    assert COST.training_work == 1600
    assert COST.share == cost(processes=1).share == pytest.approx(56 / 6400)


def test_work_of_each_estimator():
    target = cost(processes=1, domains=0).update_work
    assert target == 16
    # five forward passes of three that a pass takes, and one domain by the reference
    assert cost(processes=1, estimator="finite_difference").update_work - target == pytest.approx(40 * 5 / 3 + 4)
    # what is watched, at most a batch, and every tenth time four domains by the reference and watched
    rehearsed = 4 * 4 * 2.25 / 10
    assert cost(processes=1, estimator="in_step").update_work - target == pytest.approx(40 / 4 + rehearsed)
    many = cost(processes=1, estimator="in_step", domains=1000)
    assert many.update_work - target == pytest.approx(64 / 4 + rehearsed)
    assert replace(many, pure=True).update_work == target
    # a user's own estimator counts as the reference
    assert cost(estimator="mine").update_work == COST.update_work


def test_time_is_that_of_passes_and_of_what_is_sent():
    assert cost(processes=1).seconds(5, 0, flops=3e7, bandwidth=1) == pytest.approx(1)
    assert COST.seconds(0, 8e6, flops=1, bandwidth=12e6) == pytest.approx(1)


def test_the_plan_is_a_table_that_a_person_reads():
    assert "4 ranks, 1,000,000 parameters on each, 10 domains" in table(COST)
    assert [size(n) for n in (7, 12_345, 4e9, 9.99e14)] == ["7 B", "12.3 kB", "4 GB", "999 TB"]


def test_the_documented_table_is_what_the_command_prints():
    printed = runpy.run_path(str(ROOT / "benchmarks" / "scaling_table.py"))["table"]()
    assert printed in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_each_target_is_measured():
    for estimator in ("backward", "in_step"):
        one, two = cost(estimator=estimator), cost(estimator=estimator, targets=2)
        assert two.update_work == 2 * one.update_work
        assert two.update_bytes == 2 * one.update_bytes
    # a watched step needs the gradients of both at once
    assert cost(targets=2).memory == COST.memory == cost(estimator="in_step", targets=2).memory / 2
