"""A training loop in plain PyTorch that drives the engine, with no framework around it."""

from contextlib import nullcontext
from itertools import chain, repeat

import torch
from torch import nn

from lightning_dga.alignment import ESTIMATORS
from lightning_dga.engine.measurement import Measurer, Settings
from lightning_dga.engine.protocols import Training
from lightning_dga.engine.reweighting_loop import ReweightingLoop
from lightning_dga.engine.run_length import RunLength
from lightning_dga.reweighting import make_rule


def squared_error(module, batch):
    return (module(batch[0]) - batch[1]).square().mean(1)


class PlainTraining(Training):
    """Stochastic gradient descent on the mean of :func:`squared_error`, in single precision on the CPU."""

    alignment_loss = training_loss = staticmethod(squared_error)
    device = torch.device("cpu")
    accumulated_batches = 1
    loss_scale = 1.0
    has_one_backward = True
    module = optimizers = None
    steps = 0

    def __init__(self, length, samples):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizers = [torch.optim.SGD(self.module.parameters(), 0.05)]
        self.length, self.samples = length, samples
        self.messages = []

    @property
    def optimizer_steps(self):
        return self.steps

    def forward_context(self):
        return nullcontext()

    def transfer(self, batch):
        return batch

    def undisturbed(self):
        return nullcontext()

    def reachable(self):
        return self.optimizers

    def run_length(self, every_n_steps):
        planned = float(self.length * self.samples)
        period = every_n_steps and every_n_steps * self.samples
        return RunLength(planned, planned, False, period, float(self.steps * self.samples))

    def inform(self, message):
        self.messages.append(message)

    warn = inform


def reweighting_loop(rule="dga", every_n_steps=2, estimator="auto", **settings):
    measurer = Measurer(ESTIMATORS[estimator](), Settings(4, **settings))
    return ReweightingLoop(
        make_rule(rule), measurer, every_n_steps=every_n_steps, max_overhead=0.02, alignment_ema=1.0, timeout=60
    )


def train(training, loop, data, until, each=lambda: None):
    """Trains up to a number of steps, and calls ``each`` after every step."""
    loop.start(training, data)
    loader = data.train_dataloader()
    batches = chain.from_iterable(repeat(loader))
    loop.begin()
    while training.steps < until:
        due = loop.is_due(training.steps + 1) and loop.should_update(training.steps + 1)
        batch = next(batches)
        loop.before_batch(due=due)
        loss = squared_error(training.module, batch).mean()
        loop.before_backward(loss)
        loss.backward()
        loop.after_backward()
        training.optimizers[0].step()
        training.optimizers[0].zero_grad()
        training.steps += 1
        loop.after_batch()
        if due:
            loop.update()
        each()
    loop.finish()
