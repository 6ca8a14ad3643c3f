"""Alignments as published code takes them: a pass for each domain, and every gradient as one flat vector.

Written from the descriptions of DoGE (arXiv 2310.15393) and GRAPE (arXiv 2505.20380): ``k + 1`` backward passes into
``.grad``, whose parts are concatenated. DoGE then multiplies the matrix of all of them, ``[k, P]``, with the target's;
GRAPE multiplies each as it comes. Their clipping is left out, so that the result is the alignment.
"""

import torch
from torch import Tensor

from lightning_dga.alignment import Measurement
from lightning_dga.alignment.gradients.gradient import gradients_set_aside
from lightning_dga.alignment.probing.probes import ProbeBatch
from lightning_dga.core.alignments import Alignments


class SeparatePasses:
    """An estimator of this package's interface, for one process and whole parameters.

    Args:
        matrix: Whether all gradients are kept until they are multiplied.
    """

    def __init__(self, *, matrix: bool) -> None:
        self._matrix = matrix

    def measure(self, measurement: Measurement) -> Alignments:
        target, target_loss = self._gradient(measurement, next(iter(measurement.probes.target())))
        dots, losses, counts, rows = [], [], [], []
        for probe in measurement.probes.by_domain():
            gradient, loss = self._gradient(measurement, probe)
            losses.append(loss)
            counts.append(len(probe.domains))
            if self._matrix:
                rows.append(gradient)
            else:
                dots.append(gradient @ target)
        products = torch.stack(rows) @ target if self._matrix else torch.stack(dots)
        counted = torch.tensor(counts, dtype=torch.float64)
        sums = (products.cpu().double() * counted, torch.stack(losses).cpu().double() * counted, counted)
        norm = target.norm().item()
        return Alignments.from_sums(*sums, target_loss=target_loss.item(), target_norm=norm, step=measurement.step)

    def _gradient(self, measurement: Measurement, probe: ProbeBatch) -> tuple[Tensor, Tensor]:
        with gradients_set_aside([*measurement.parameters, *measurement.excluded]):
            loss = measurement.loss(probe.batch)
            loss.backward()
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in measurement.parameters]
            flat = torch.cat([part.reshape(-1) for part in parts]).float()
        return flat, loss.detach()
