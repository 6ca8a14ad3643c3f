"""Alignments by definition: one float64 backward pass for each domain."""

import copy

import torch
from lightning.pytorch import Callback


def as_double(batch):
    if isinstance(batch, torch.Tensor):
        return batch.double() if batch.is_floating_point() else batch
    return [as_double(part) for part in batch]


def gradient(model, loss, batches):
    """The mean gradient over (count, batch) pairs, one flat float64 vector."""
    model = copy.deepcopy(model).double().eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = sum(count for count, _ in batches)
    mean = sum(loss(model, as_double(batch)).mean() * (count / total) for count, batch in batches)
    parts = torch.autograd.grad(mean, parameters, allow_unused=True)
    dense = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(parameters, parts, strict=True)]
    return torch.cat([part.flatten() for part in dense])


def alignments(model, loss, datamodule, update, size, k):
    """``[k]`` alignments of one process, of the same probes that the callback draws for an update."""
    probes = datamodule.probes(update, size)
    target = gradient(model, loss, [(len(probe.domains), probe.batch) for probe in probes.target()])
    by_domain = {i: [] for i in range(k)}
    for probe in probes.by_domain():
        by_domain[int(probe.domains[0])].append((len(probe.domains), probe.batch))
    return torch.stack([gradient(model, loss, by_domain[i]) @ target for i in range(k)])


class Compare(Callback):
    """Keeps the alignments of each update beside what the reference says; put behind the callback under test.

    Args:
        callback: The callback under test.
        expected: ``expected(trainer, pl_module)``, called at the parameters that the alignments were measured at.
    """

    def __init__(self, callback, expected):
        self.callback, self.expected, self.pairs = callback, expected, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found, last = self.callback.alignments, self.pairs[-1][0].step if self.pairs else 0
        if found is not None and found.step == trainer.global_step > last:
            self.pairs.append((found, self.expected(trainer, pl_module)))
