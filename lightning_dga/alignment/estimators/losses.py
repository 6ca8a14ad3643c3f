"""The domains' losses only, for rules that need no target."""

import torch

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import all_reduce_, is_sharded, world_size


class Losses:
    """Measures the mean loss of each domain by forward passes; without a target there are no alignments."""

    def measure(self, measurement: Measurement) -> Alignments:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`. All alignments are NaN."""
        parameters, loss = measurement.parameters, measurement.loss
        sharded = is_sharded(parameters)
        # if parameters are sharded, all ranks run the same batches in lockstep
        probes = measurement.probes.whole() if sharded else measurement.probes
        sums = torch.zeros(2, measurement.num_domains, dtype=torch.float32, device=parameters[0].device)
        with torch.no_grad():
            for probe in probes.by_domain():
                count = len(probe.domains)
                value = loss(probe.batch, with_graph=False).to(sums)
                sums[:, int(probe.domains[0])] += torch.stack([value * count, sums.new_tensor(count)])
        losses, counts = all_reduce_(sums) / (world_size() if sharded else 1)
        # a domain whose loss is not finite counts as not measured, as with the other estimators
        counts = torch.where(losses.isfinite(), counts, 0.0)
        found = Alignments.from_sums(
            torch.full_like(losses, torch.nan),
            losses,
            counts,
            target_loss=torch.nan,
            target_norm=torch.nan,
            step=measurement.step,
        )
        return found.without_target()
