"""The reference estimator: backward passes domain by domain."""

from collections.abc import Sequence

import torch

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import TargetGradient, target_gradient
from lightning_dga.alignment.registry import register_estimator
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import all_reduce_, world_size


@register_estimator("backward")
class Backward:
    """Alignments from autograd: keeps the target gradient, and multiplies each domain's gradient with it in turn.

    Memory is one gradient for any k. Over several ranks there is one all-reduce of the target gradient (P numbers) and
    one of the results (5k numbers); see :mod:`lightning_dga.distributed`. If parameters are sharded, the backward pass
    itself reduces over ranks, so all ranks run the same probes in lockstep. This is step 2 of DGA's algorithm
    (arXiv 2410.02498).
    """

    def measure(self, measurement: Measurement) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`."""
        target = target_gradient(measurement)
        if target is None:
            return None
        sums = DomainSums(target, measurement.num_domains)
        add_domains(sums, target, measurement)
        return sums.alignments(measurement.step)


def add_domains(
    sums: DomainSums, target: TargetGradient, measurement: Measurement, only: Sequence[int] | None = None
) -> None:
    """Adds this rank's terms of the domains' alignments, for all domains or only for those in ``only``."""
    loss, sharded = measurement.loss, target.gradient.sharded
    probes = measurement.probes.whole() if sharded else measurement.probes
    for probe in probes.by_domain(only):
        value = loss(probe.batch)
        dot = target.gradient.dot(value * loss.scale) / loss.scale
        # if parameters are sharded, every rank measures all samples, and its shard's part of each product
        dot = all_reduce_(dot) if sharded else dot
        counts = dot.new_tensor([len(probe.domains)])
        share = 1 / world_size() if sharded else 1.0
        sums.add(torch.from_numpy(probe.domains[:1]), dot[None], value.detach()[None], counts, share=share)
