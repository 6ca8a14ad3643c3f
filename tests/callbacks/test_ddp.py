"""Two ranks measure the same as one rank does on the union of their batches, and hold the same weights."""

import pytest
import torch
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import Plain, mixture, trainer


class Results(Callback):
    def __init__(self, callback, folder):
        self.callback, self.folder = callback, folder
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = self.callback.alignments
        if found is not None and found.step == trainer.global_step:
            self.rows.append({**found.state_dict(), "weights": trainer.datamodule.weights})

    def on_train_end(self, trainer, pl_module):
        torch.save(self.rows, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


class Counting(Plain):
    """Counts the samples that went through the loss in this process."""

    def loss(self, batch):
        if not self.training:
            type(self).probed += len(batch[0])
        return super().loss(batch)


def run(folder, ranks, lr=0.02, probe_batch_size=5, loss_fn=None, module=Plain, **arguments):
    torch.manual_seed(0)
    callback = DynamicGradientAlignment(
        every_n_steps=2, estimator="backward", probe_batch_size=probe_batch_size, loss_fn=loss_fn
    )
    strategy = {"strategy": "ddp_fork", "devices": ranks} if ranks > 1 else {}
    data = mixture(batch_size=8 // ranks, target_batch_size=7)
    trainer(callback, Results(callback, folder), max_steps=8, **strategy, **arguments).fit(
        module(lr=lr), datamodule=data
    )
    return [torch.load(folder / f"{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("lr", [0.0, 0.02], ids=["same parameters", "while training"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_alignments_equal_those_of_one_process(tmp_path, ranks, lr):
    (one,), many = run(tmp_path, 1, lr), run(tmp_path, ranks, lr)
    assert len(one) == 4
    for process in many:
        for alone, together in zip(one, process, strict=True):
            torch.testing.assert_close(together["values"], alone["values"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together["losses"], alone["losses"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together["weights"], alone["weights"], rtol=1e-4, atol=1e-6)
            assert together["target_norm"] == pytest.approx(alone["target_norm"], rel=1e-4)
            assert torch.equal(together["counts"], alone["counts"])


def test_all_processes_hold_bit_identical_weights(tmp_path):
    first, second = run(tmp_path, 2)
    for a, b in zip(first, second, strict=True):
        assert a["weights"].numpy().tobytes() == b["weights"].numpy().tobytes()
    assert first[-1]["weights"].max() - first[-1]["weights"].min() > 0.02


def test_averaging_the_processes_own_products_would_be_another_number(tmp_path):
    """The comparison with one process can tell the right reduction from the obvious wrong one."""
    (one,) = run(tmp_path, 1, lr=0.0)
    data = mixture(batch_size=4, target_batch_size=7)
    torch.manual_seed(0)
    module, wrong = Plain().eval(), []
    from tests.helpers.reference import gradient

    for rank in range(2):
        data._rank_and_world_size = lambda rank=rank: (rank, 2)
        target = gradient(
            module, lambda m, b: m.loss(b), [(len(p.domains), p.batch) for p in data.probes(0, 5).target()]
        )
        domains = {i: [] for i in range(3)}
        for probe in data.probes(0, 5).by_domain():
            domains[int(probe.domains[0])].append((len(probe.domains), probe.batch))
        wrong.append({i: gradient(module, lambda m, b: m.loss(b), own) @ target for i, own in domains.items() if own})
    for i in range(3):
        values = [products[i] for products in wrong if i in products]
        assert (sum(values) / len(values)).item() != pytest.approx(one[0]["values"][i].item(), rel=0.02)


def test_a_domain_that_one_process_finds_not_finite_is_left_out_by_all(tmp_path):
    def loss(module, batch):
        poisoned = module.trainer.global_rank == 1 and (batch[2][:, 0] == 1).all() and len(batch[0]) < 4
        return module.loss(batch) * (float("inf") if poisoned else 1.0)

    for process in run(tmp_path, 2, loss_fn=loss):
        assert [row["counts"].tolist() for row in process] == [[5, 0, 5]] * 4
        assert all(row["weights"].isfinite().all() for row in process)


def test_the_processes_share_the_probes_and_not_repeat_them(tmp_path):
    data = mixture(batch_size=4, target_batch_size=7)
    shares = []
    for rank in range(3):
        data._rank_and_world_size = lambda rank=rank: (rank, 3)
        shares.append([tuple(number) for probe in data.probes(0, 5).by_domain() for number in probe.batch[2].tolist()])
    assert [len(share) for share in shares] == [5, 5, 5]
    data._rank_and_world_size = lambda: (0, 1)
    assert sum(shares, []) == [tuple(n) for probe in data.probes(0, 5).by_domain() for n in probe.batch[2].tolist()]


def test_more_processes_than_probes(tmp_path):
    (one,), many = run(tmp_path, 1, 0.0, probe_batch_size=1), run(tmp_path, 4, 0.0, probe_batch_size=1)
    for process in many:
        torch.testing.assert_close(process[0]["values"], one[0]["values"], rtol=1e-4, atol=1e-5)


def test_the_bytes_of_an_update_are_one_gradient_and_a_few_numbers_for_each_domain(tmp_path):
    import torch.distributed as dist

    moved = []
    all_reduce = dist.all_reduce

    def counted(tensor, *arguments, **keywords):
        moved.append(tensor.numel())
        return all_reduce(tensor, *arguments, **keywords)

    class Report(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            moved.clear()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            torch.save(moved, tmp_path / f"moved-{trainer.global_rank}.pt")

    callback = DynamicGradientAlignment(every_n_steps=1, estimator="backward")
    dist.all_reduce = counted
    try:
        fit = trainer(callback, Report(), strategy="ddp_fork", devices=2, max_steps=1)
        fit.fit(Plain(), datamodule=mixture(batch_size=4))
    finally:
        dist.all_reduce = all_reduce
    parameters = sum(p.numel() for p in Plain().parameters())
    found = sorted(torch.load(tmp_path / "moved-0.pt"))
    # the target's gradient and five sums of each domain; else the loss and count of the target, whether the weights are
    # the same, and whether all processes are well
    assert found[-2:] == [5 * 3, parameters]
    assert sum(found[:-2]) < 32
