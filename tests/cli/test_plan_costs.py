"""The plan: its formulas, its documentation, and `dga-train plan=true`."""

import runpy
from pathlib import Path

import pytest

from lightning_dga.cli.plan import size, table
from lightning_dga.cli.plan_costs import Job
from tests.cli.test_train import QUICK, dga_train

ROOT = Path(__file__).parents[2]
JOB = Job(parameters=10**6, domains=10, processes=4, period=100, batch_size=64)


def job(**settings):
    return Job(**{**vars(JOB), **settings})


def test_an_update_moves_one_gradient_and_a_few_numbers_for_each_domain():
    assert JOB.update_bytes == 4 * 10**6 + 8 * (52 + 6) + 48
    assert job(domains=1000).update_bytes - JOB.update_bytes == 990 * 40
    assert JOB.training_bytes == 100 * 4 * 10**6
    assert job(processes=1).update_bytes == job(processes=1).wire(0) == 0
    assert JOB.wire(JOB.update_bytes) == 1.5 * JOB.update_bytes


def test_shards_are_gathered_in_each_pass():
    sharded = job(sharded=True, probe_batch_size=2, target_batch_size=8)
    gradient = 4 * 10**6
    assert round(sharded.update_bytes / gradient) == 3 * (10 + 1)
    for estimator, passes in {"batched": 3 + 2, "finite_difference": 3 + 5 + 3}.items():
        assert round(job(**{**vars(sharded), "estimator": estimator}).update_bytes / gradient) == passes
    assert sharded.memory == gradient / 4


def test_probes_are_shared_among_processes_unless_shards_make_them_go_together():
    assert JOB.update_samples == (40 + 16) / 4
    assert job(estimator="in_step").update_samples == 16 / 4
    assert job(sharded=True).update_samples == 40 + 16
    assert job(sharded=True, estimator="finite_difference").update_samples == pytest.approx(40 * 5 / 3 / 4 + 16)
    assert JOB.training_samples == 1600


def test_time_is_that_of_passes_and_of_what_is_sent():
    assert job(processes=1).seconds(5, 0, flops=3e7, bandwidth=1) == pytest.approx(1)
    assert JOB.seconds(0, 8e6, flops=1, bandwidth=12e6) == pytest.approx(1)


def test_the_plan_is_a_table_that_a_person_reads():
    assert "4 processes, 1,000,000 parameters on each, 10 domains" in table(JOB)
    assert [size(n) for n in (7, 12_345, 4e9, 9.99e14)] == ["7 B", "12.3 kB", "4 GB", "999 TB"]


def test_the_documented_table_is_what_the_command_prints():
    printed = runpy.run_path(str(ROOT / "benchmarks" / "scaling_table.py"))["table"]()
    assert printed in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_a_plan_needs_no_devices_and_leaves_nothing(tmp_path, corpora):
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather", *QUICK, "plan=true"]
    # a model that no machine here could hold, on GPUs that it does not have
    large = ["model.d_model=8192", "model.num_layers=80", "trainer=fsdp2", "trainer.devices=8", "trainer.num_nodes=512"]
    done = dga_train(tmp_path, *where, *large, "trainer.accelerator=gpu")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4,096 processes, 64," in done.stdout and "in shards, 3 domains" in done.stdout
    assert not [file for file in tmp_path.rglob("*") if file.name in ("weights.csv", "metrics.json", "checkpoints")]
    refused = dga_train(tmp_path, *where, "trainer=ddp")
    assert refused.returncode == 1 and "A plan needs the number of devices" in refused.stderr
