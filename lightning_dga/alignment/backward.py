"""The reference estimator: one backward pass for each domain."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_dga.alignment.estimator import ProbeBatch
from lightning_dga.alignment.gradient import FlatGradient
from lightning_dga.alignment.loss import ProbeLoss
from lightning_dga.alignments import Alignments
from lightning_dga.distributed import sum_over_processes_


class Backward:
    """Exact alignments of any model: the target gradient is held, each domain's is multiplied with it and dropped.

    Memory is one gradient, whatever k is. Over W processes the target gradient is summed once (P numbers) and the
    results once (3k numbers); see :mod:`lightning_dga.distributed`. This is step 2 of DGA's algorithm (arXiv
    2410.02498).
    """

    def estimate(
        self,
        loss: ProbeLoss,
        parameters: Sequence[nn.Parameter],
        target: Iterable[ProbeBatch],
        domains: Iterable[ProbeBatch],
        num_domains: int,
        step: int,
    ) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`."""
        gradient, target_loss, squared_norm = self._target_gradient(loss, parameters, target)
        if not math.isfinite(squared_norm):
            return None
        dots, losses, counts, refused = self._sums(loss, gradient, domains, num_domains)
        counts = torch.where(refused > 0, torch.zeros_like(counts), counts)
        return Alignments.from_sums(
            dots, losses, counts, target_loss=target_loss, target_norm=math.sqrt(squared_norm), step=step
        )

    def _target_gradient(
        self, loss: ProbeLoss, parameters: Sequence[nn.Parameter], target: Iterable[ProbeBatch]
    ) -> tuple[FlatGradient, float, float]:
        gradient = FlatGradient(parameters)
        total = torch.zeros(2, dtype=_accumulator(gradient), device=gradient.buffers[0].device)
        for probe in target:
            value = loss(probe.batch)
            gradient.add_(value * loss.scale, probe.count / loss.scale)
            total += total.new_tensor([0.0, probe.count])
            total[0] += value.detach() * probe.count
        sum_over_processes_(total)
        mean, count = total.tolist()
        for buffer in gradient.buffers:
            sum_over_processes_(buffer).div_(count)
        return gradient, mean / count, gradient.squared_norm().item()

    def _sums(self, loss: ProbeLoss, gradient: FlatGradient, domains: Iterable[ProbeBatch], num_domains: int) -> Tensor:
        """Sums over the samples of each domain and all processes: dots, losses, counts, and non-finite batches."""
        sums = torch.zeros(4, num_domains, dtype=_accumulator(gradient), device=gradient.buffers[0].device)
        for probe in domains:
            value = loss(probe.batch)
            dot = gradient.dot(value * loss.scale) * (probe.count / loss.scale)
            row = torch.stack(
                [dot, value.detach().to(dot) * probe.count, dot.new_tensor(probe.count), dot.new_zeros(())]
            )
            # a process that meets a non-finite domain tells the others, and all leave that domain out
            refusal = row.new_tensor([0, 0, 0, 1])
            sums[:, probe.domain] += torch.where(row.isfinite().all(), row, refusal)
        return sum_over_processes_(sums)


def _accumulator(gradient: FlatGradient) -> torch.dtype:
    return torch.float32 if gradient.buffers[0].device.type == "mps" else torch.float64
