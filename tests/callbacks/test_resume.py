"""k steps + resume + m steps = k + m steps: samples, weights, parameters."""

from functools import cache

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import Plain, StopAt, mixture, trainer


class History(Callback):
    """The samples and weights of each rank, which it writes to a file."""

    def __init__(self, folder, name):
        self.folder, self.name, self.rows = folder, name, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        data = trainer.datamodule
        self.rows.append((batch[2].tolist(), data.current_batch.version, data.weights.tolist()))

    def on_train_end(self, trainer, pl_module):
        result = {"rows": self.rows, "parameters": pl_module.state_dict(), "seen": trainer.datamodule.samples_seen}
        torch.save(result, self.folder / f"{self.name}-{trainer.global_rank}.pt")

    @staticmethod
    def read(folder, name, ranks):
        return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(ranks)]


def run(folder, name, *, steps, ranks, workers, ckpt_path=None, save_at=None, accumulate=1, batch_size=8):
    torch.manual_seed(0)
    callbacks = [
        DynamicGradientAlignment(every_n_steps=3, estimator="backward", probe_batch_size=2, step_size=3.0),
        History(folder, name),
    ]
    if save_at:
        callbacks.append(ModelCheckpoint(folder, filename="middle", every_n_train_steps=save_at, save_top_k=-1))
        callbacks.append(StopAt(save_at))
    strategy = {"strategy": "ddp_fork", "devices": ranks} if ranks > 1 else {}
    fit = trainer(
        *callbacks, max_steps=steps, enable_checkpointing=bool(save_at), accumulate_grad_batches=accumulate, **strategy
    )
    fit.fit(
        Plain(), datamodule=mixture(size=20, batch_size=batch_size // ranks, num_workers=workers), ckpt_path=ckpt_path
    )
    return History.read(folder, name, ranks)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run of 15 steps, made once for each number of ranks and workers."""
    return cache(
        lambda ranks, workers: run(tmp_path_factory.mktemp("whole"), "whole", steps=15, ranks=ranks, workers=workers)
    )


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("save_at", [4, 6, 11], ids=["mid-period", "on an update", "in the second epoch"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, uninterrupted, ranks, workers, save_at):
    whole = uninterrupted(ranks, workers)
    run(tmp_path, "first", steps=15, ranks=ranks, workers=workers, save_at=save_at)
    resumed = run(tmp_path, "second", steps=15, ranks=ranks, workers=workers, ckpt_path=tmp_path / "middle.ckpt")
    for rank in range(ranks):
        assert resumed[rank]["rows"] == whole[rank]["rows"][save_at:]
        torch.testing.assert_close(resumed[rank]["parameters"], whole[rank]["parameters"], rtol=0, atol=0)
        assert torch.equal(resumed[rank]["seen"], whole[rank]["seen"])
    weights = whole[0]["rows"][-1][2]
    assert max(weights) - min(weights) > 0.05, "the mixture must move for this to show anything"


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0)])
def test_it_may_resume_with_other_workers_or_processes(tmp_path, ranks, workers):
    whole = run(tmp_path, "whole", steps=12, ranks=1, workers=0)
    run(tmp_path, "first", steps=12, ranks=1, workers=0, save_at=5)
    resumed = run(tmp_path, "second", steps=12, ranks=ranks, workers=workers, ckpt_path=tmp_path / "middle.ckpt")
    for number, row in enumerate(whole[0]["rows"][5:]):
        assert sum((rank["rows"][number][0] for rank in resumed), []) == row[0]
        torch.testing.assert_close(resumed[0]["rows"][number][2], row[2], rtol=1e-4, atol=1e-6)


def test_it_resumes_under_gradient_accumulation(tmp_path):
    whole = run(tmp_path, "whole", steps=8, ranks=1, workers=0, accumulate=3)
    first = run(tmp_path, "first", steps=8, ranks=1, workers=0, accumulate=3, save_at=4)
    resumed = run(tmp_path, "second", steps=8, ranks=1, workers=0, accumulate=3, ckpt_path=tmp_path / "middle.ckpt")
    assert first[0]["rows"] + resumed[0]["rows"] == whole[0]["rows"]
    torch.testing.assert_close(resumed[0]["parameters"], whole[0]["parameters"], rtol=0, atol=0)


def test_a_run_that_fails_within_a_step_takes_that_step_again(tmp_path):
    class Fails(Plain):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                raise RuntimeError("power cut")
            return super().training_step(batch, batch_idx)

    class SaveOnException(Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "failed.ckpt")

    whole = run(tmp_path, "whole", steps=9, ranks=1, workers=0)
    torch.manual_seed(0)
    callback = DynamicGradientAlignment(every_n_steps=3, estimator="backward", probe_batch_size=2, step_size=3.0)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(callback, SaveOnException(), max_steps=9).fit(
            Fails(), datamodule=mixture(size=20, batch_size=8, num_workers=2)
        )
    resumed = run(tmp_path, "second", steps=9, ranks=1, workers=2, ckpt_path=tmp_path / "failed.ckpt")
    assert resumed[0]["rows"] == whole[0]["rows"][4:]


def test_our_state_is_read_without_unpickling(tmp_path):
    callback = DynamicGradientAlignment(every_n_steps=2, estimator="backward")
    fit = trainer(callback)
    fit.fit(Plain(), datamodule=mixture())
    fit.save_checkpoint(tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    state = checkpoint["callbacks"]["DynamicGradientAlignment"]
    again = DynamicGradientAlignment(every_n_steps=2, estimator="backward")
    again.load_state_dict(state)
    torch.testing.assert_close(again.alignments.values, callback.alignments.values, rtol=0, atol=0)
    assert checkpoint["MixtureDataModule"]["domain_names"] == ["domain0", "domain1", "domain2"]


def test_a_checkpoint_between_the_halves_of_an_update_is_healed(tmp_path):
    """A signal may save between the callback's half and the data module's."""
    callback = DynamicGradientAlignment(every_n_steps=2, estimator="backward")

    class Signalled(type(mixture())):
        def set_weights(self, weights):
            if self.trainer.global_step == 4:
                self.trainer.save_checkpoint(tmp_path / "half.ckpt")
            super().set_weights(weights)

    def data(kind=None):
        made = mixture()
        made.__class__ = kind or type(made)
        return made

    whole = data(Signalled)
    trainer(callback, max_steps=5).fit(Plain(), datamodule=whole)
    # as the interrupted run's own class would be found by its name
    Signalled.__qualname__ = "MixtureDataModule"
    resumed, again = data(), DynamicGradientAlignment(every_n_steps=2, estimator="backward")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=False)
    checkpoint["MixtureDataModule"] = checkpoint.pop(next(name for name in checkpoint if "Signalled" in name))
    torch.save(checkpoint, tmp_path / "half.ckpt")
    trainer(again, max_steps=5).fit(Plain(), datamodule=resumed, ckpt_path=tmp_path / "half.ckpt")
    torch.testing.assert_close(resumed.weights, whole.weights, rtol=0, atol=0)
    assert resumed.weights_version == whole.weights_version
