"""The expected cost of alignment measurements relative to training."""

from dataclasses import dataclass

# cost per sample, in units of its forward and backward pass in training; measured in docs/results/alignment.md
SAMPLE_COST = {"backward": 1.0, "batched": 1.0, "finite_difference": 1.7, "in_step": 0.0}


@dataclass(frozen=True)
class TrainingStep:
    """The size and composition of one optimizer step of training.

    Attributes:
        samples: Samples per step over all ranks and accumulated batches.
        pure: Whether each batch is of a single domain.
        period: Optimizer steps from one measurement to the next.
    """

    samples: int
    pure: bool
    period: int


def expected_overhead(step: TrainingStep, *, samples: int, target_samples: int, sample_cost: float = 1.0) -> float:
    """The relative extra work: ``(samples * sample_cost + target_samples) / (period * step.samples)``.

    Args:
        step: The training step.
        samples: Domain samples per measurement, k times the probe batch size.
        target_samples: Target samples per measurement.
        sample_cost: Cost of a domain sample, in units of a training sample's forward and backward pass.

    Example:
        >>> expected_overhead(TrainingStep(64, False, 100), samples=32, target_samples=8)
        0.00625
    """
    return (samples * sample_cost + target_samples) / (step.period * step.samples)
