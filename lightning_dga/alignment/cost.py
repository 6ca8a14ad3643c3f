"""What aligning costs beside training, before anything is measured."""

from dataclasses import dataclass

# of a sample, in units of its forward and backward pass in training; docs/results/alignment.md has the measurements
SAMPLE_COST = {"backward": 1.0, "batched": 1.0, "finite_difference": 1.7, "in_step": 0.0}


@dataclass(frozen=True)
class TrainingStep:
    """What one optimizer step of training works on.

    Attributes:
        samples: Samples of a step over all processes and accumulated batches.
        pure: Whether each batch is of one domain.
        period: Optimizer steps from one measurement to the next.
    """

    samples: int
    pure: bool
    period: int


def expected_overhead(step: TrainingStep, *, samples: int, target_samples: int, sample_cost: float = 1.0) -> float:
    """The share of extra work: ``(samples * cost + target_samples) / (period * samples of a step)``.

    Args:
        step: The training step.
        samples: Domain samples of a measurement, k times the probe batch size.
        target_samples: Target samples of a measurement.
        sample_cost: Cost of a domain sample, in units of a training sample's forward and backward pass.

    Example:
        >>> expected_overhead(TrainingStep(64, False, 100), samples=32, target_samples=8)
        0.00625
    """
    return (samples * sample_cost + target_samples) / (step.period * step.samples)
