"""Small models and data that the tests share."""

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from torchmetrics import MeanMetric

from lightning_dga import MixtureDataModule


class Points(Dataset):
    """Noisy linear data, one line for each seed; a sample carries its number, to tell which were drawn."""

    def __init__(self, seed, size, features=4):
        generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        slope = torch.randn(features, 1, generator=generator)
        self.x = torch.randn(size, features, generator=generator)
        self.y = self.x @ slope + 0.1 * torch.randn(size, 1, generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index], torch.tensor([self.seed, index])


class Stream(IterableDataset):
    """The same as an iterable."""

    def __init__(self, seed, size):
        self.points = Points(seed, size)

    def __iter__(self):
        return (self.points[i] for i in range(len(self.points)))


def mixture(k=3, size=40, **arguments):
    settings = {"batch_size": 4, "target_batch_size": 6, **arguments}
    domains = {f"domain{i}": Points(i, size + i) for i in range(k)}
    return MixtureDataModule(domains, Points(1, 12), **settings)


class Plain(L.LightningModule):
    """A module that knows nothing of mixtures: its ``training_step`` logs, counts, collects, updates a metric."""

    def __init__(self, dropout=0.0, norm=False, lr=0.05):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        self.lr = lr
        self.error = MeanMetric()
        self.calls = 0
        self.seen = []
        self.by_kind = {"loss": []}

    def loss(self, batch):
        x, y, _ = batch
        return ((self.layers(x) - y) ** 2).mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.error(loss.detach())
        self.log("train/loss", loss)
        self.log("train/error", self.error, on_step=True, on_epoch=True)
        self.calls += 1
        self.seen.append(batch[2])
        self.by_kind["loss"].append(loss.detach())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr)


class BySample(Plain):
    """Also has a loss per sample."""

    def alignment_loss(self, batch):
        return ((self.layers(batch[0]) - batch[1]) ** 2).squeeze(1)


class TwoOptimizers(Plain):
    """Steps two optimizers by hand in every batch, so that ``global_step`` rises by two."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(4, 1)

    def alignment_loss(self, batch):
        return self.loss(batch)

    def training_step(self, batch, batch_idx):
        for optimizer, part in zip(self.optimizers(), (self.layers, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(((part(batch[0]) - batch[1]) ** 2).mean())
            optimizer.step()
        self.log("train/step", float(batch_idx))

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.01) for part in (self.layers, self.other)]


class Linear(L.LightningModule):
    """A minimal module, trained on tuples of one tensor ``[batch, 3]``; the user's module in the documentation."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def weights_at(step):
    """Weights of four domains, different at each step."""
    return [1 + step % 4, 1, 2 if step % 3 else 0, 1]


class OneOf(MixtureDataModule):
    """The data module of one rank of several, without a Trainer to tell it so."""

    share = (0, 1)

    def _rank_and_world_size(self):
        return self.share


class StopAt(L.Callback):
    """Ends a run before its planned length."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= self.step


def half_precision(growth_interval=2000):
    """float16 with a scale so small that the first step is taken."""
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=growth_interval)
    return MixedPrecision("16-mixed", "cpu", scaler)


def trainer(*callbacks, **arguments):
    settings = {
        "accelerator": "cpu",
        "max_steps": 6,
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **arguments,
    }
    return L.Trainer(callbacks=list(callbacks), **settings)
