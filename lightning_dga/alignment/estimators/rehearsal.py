"""A training step rehearsed on probes: a domain's alignment in mixed batches must equal that of its samples alone."""

from collections.abc import Sequence
from dataclasses import replace

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.per_sample.samples import Layer
from lightning_dga.alignment.per_sample.watches import Aim, PerSampleWatch, SingleDomainWatch, by_domain, watch_probes
from lightning_dga.alignment.probing.modes import training
from lightning_dga.distributed import any_rank

_DOMAINS = 4


def unlike_alone(
    measurement: Measurement, aim: Aim, layers: Sequence[Layer], tolerance: float, turn: int
) -> str | None:
    """Compares alignments from batches of many domains with those from batches of one; every rank must call it.

    The step runs in training mode, but without dropout, whose masks would differ between batches.

    Args:
        measurement: The measurement.
        aim: The target; nothing is added to its sums.
        layers: The layers that are watched.
        tolerance: Allowed error of an alignment, relative to the larger of the largest alignment and that of the target
            with itself.
        turn: Index of the rehearsal, which selects some of the domains in rotation.

    Returns:
        The reason not to watch such steps; ``None`` if there is none.
    """
    loss, k, target = measurement.training_loss or measurement.loss, measurement.num_domains, aim.target
    domains = sorted({(turn * _DOMAINS + number) % k for number in range(_DOMAINS)})
    together, alone = DomainSums(target, k), DomainSums(target, k)
    aims = [replace(aim, sums=together)]
    with training(measurement.module):
        mismatch = watch_probes(
            measurement,
            loss,
            ((probe.domains, probe.batch) for probe in measurement.probes.mixed(domains, in_turn=True)),
            lambda own: PerSampleWatch(measurement.module, aims, layers, own, loss.scale, tolerance),
        )
        aims_alone = [replace(aim, sums=alone)]
        watch_probes(
            measurement,
            loss,
            by_domain(measurement, domains),
            lambda own: SingleDomainWatch(measurement.module, aims_alone, own, loss.scale),
        )
    if any_rank(mismatch is not None, target.gradient.buffers[0].device):
        return mismatch or "another rank found a mismatch"
    found, expected = (sums.alignments(measurement.step).values for sums in (together, alone))
    scale = max(expected.nan_to_num().abs().max().item(), target.norm**2)
    worst = (found - expected).nan_to_num().abs().max().item() / scale if scale else 0.0
    if worst <= tolerance:
        return None
    return (
        f"in a training step the samples of a domain have another alignment than alone, by {worst:.1%}: the step "
        "reorders, mixes, drops or weighs samples (shuffling, mixup, a mean over the tokens of documents of unequal "
        "length), or draws random numbers"
    )
