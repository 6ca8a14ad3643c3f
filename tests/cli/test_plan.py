"""`dga-train plan=true`."""

from tests.helpers.commands import QUICK, dga_train


def test_a_plan_needs_no_devices_and_leaves_nothing(tmp_path, corpora):
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather", *QUICK, "plan=true"]
    # a model that no machine here could hold, on GPUs that it does not have
    large = ["model.d_model=8192", "model.num_layers=80", "trainer=fsdp2", "trainer.devices=8", "trainer.num_nodes=512"]
    done = dga_train(tmp_path, *where, *large, "trainer.accelerator=gpu")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4,096 ranks, 64," in done.stdout and "in shards, 3 domains" in done.stdout
    # what `auto` is expected to choose
    assert "an update by `in_step` every" in done.stdout
    assert not [file for file in tmp_path.rglob("*") if file.name in ("weights.csv", "metrics.json", "checkpoints")]
    refused = dga_train(tmp_path, *where, "trainer=ddp")
    assert refused.returncode == 1 and "A plan needs the number of devices" in refused.stderr
