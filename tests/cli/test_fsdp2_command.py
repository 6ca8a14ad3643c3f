"""Sharded training from the command line."""

import json

import pytest

from tests.helpers.commands import corpora_run, dga_train_from_a_shell, rows


@pytest.mark.cluster
def test_two_sharded_processes_do_what_one_does_and_resume(tmp_path, corpora):
    def run(name, *overrides):
        overrides = [f"name={name}", "callbacks.dga.estimator=backward", *overrides]
        done = corpora_run(tmp_path, corpora, *overrides, run=dga_train_from_a_shell)
        assert done.returncode == 0, done.stderr[-2000:]
        return tmp_path / "runs" / name / "dga_seed0"

    sharded = ["trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4"]
    folders = [run("alone"), run("together", *sharded)]
    alone, together = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert together["tokens"] == alone["tokens"]
    assert together["weights"] == pytest.approx(alone["weights"], rel=1e-3)
    assert together["test/target_loss"] == pytest.approx(alone["test/target_loss"], rel=1e-2)
    assert [row["step"] for row in rows(folders[1])] == [row["step"] for row in rows(folders[0])]
    # shards are checkpointed as a folder
    assert (folders[1] / "checkpoints" / "last.ckpt").is_dir()
    longer = json.loads((run("together", *sharded, "resume=true", "trainer.max_steps=14") / "metrics.json").read_text())
    assert longer["steps"] == 14
    assert len(rows(folders[1])) > len(rows(folders[0]))
