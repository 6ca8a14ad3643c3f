"""The predicted cost of aligning with many ranks: communication, passes over samples, and memory.

Derived in docs/scaling.md; `benchmarks/scaling.py` measures the same quantities.
"""

import math
from dataclasses import dataclass

_FLOAT32, _FLOAT64, _INT64 = 4, 8, 8
# estimators that, with sharded parameters, run each rank's own samples only
_SHARED = ("batched", "finite_difference")
# floating-point operations per parameter and token of a forward pass
_FORWARD = 2


@dataclass(frozen=True)
class Job:
    """A training run and the settings of its alignment measurements.

    Attributes:
        parameters: P, the number of trainable parameters.
        domains: k, the number of domains.
        processes: W, the data-parallel world size.
        period: T_r, optimizer steps per update.
        batch_size: Samples per optimizer step, over all ranks.
        probe_batch_size: Samples per domain and update, over all ranks.
        target_batch_size: Target samples per update, over all ranks.
        local_batch_size: Samples per pass and rank.
        estimator: ``"backward"``, ``"in_step"``, ``"batched"`` or ``"finite_difference"``.
        sharded: Whether parameters are sharded (FSDP2).
        tokens_per_sample: Tokens per sample, for predicted times.
    """

    parameters: int
    domains: int
    processes: int
    period: int
    batch_size: int
    probe_batch_size: int = 4
    target_batch_size: int = 16
    local_batch_size: int = 8
    estimator: str = "backward"
    sharded: bool = False
    tokens_per_sample: int = 1

    @property
    def probes(self) -> int:
        """Domain samples of an update."""
        return 0 if self.estimator == "in_step" else self.domains * self.probe_batch_size

    @property
    def bookkeeping_bytes(self) -> int:
        """Bytes that an update communicates besides gradients and parameters: five numbers per domain, and a few."""
        # four sums of each domain and the new weights; loss and count of the target; three flags of errors with each
        # sum; what agreement is checked on. Finite differences take four such sums
        sums = 4 if self.estimator == "finite_difference" else 1
        return _FLOAT64 * ((4 * sums + 1) * self.domains + 2 + 3 * (sums + 1)) + _INT64 * 6

    @property
    def update_bytes(self) -> float:
        """Size in bytes of all tensors that an update reduces over, or gathers from, all ranks."""
        if self.processes == 1:
            return 0
        if not self.sharded:
            return _FLOAT32 * self.parameters + self.bookkeeping_bytes
        # a forward and backward pass gathers parameters twice and scatters gradients once; a forward pass gathers once
        both, forward = 3 * _FLOAT32 * self.parameters, _FLOAT32 * self.parameters
        moved = both * _passes(self.target_batch_size, self.local_batch_size)
        if self.estimator in _SHARED:
            # five forward passes, or one forward pass and one backward pass without parameter gradients
            share, by_differences = -(-self.probes // self.processes), self.estimator == "finite_difference"
            moved += forward * (5 if by_differences else 2) * _passes(share, self.local_batch_size)
            # plus one domain measured by the reference
            moved += both * _passes(self.probe_batch_size, self.local_batch_size) if by_differences else 0
        else:
            moved += both * self.domains * _passes(self.probe_batch_size, self.local_batch_size)
        return moved + self.bookkeeping_bytes

    @property
    def training_bytes(self) -> float:
        """The same for the optimizer steps from one update to the next."""
        if self.processes == 1:
            return 0
        each = 3 if self.sharded else 1
        accumulated = _passes(self.batch_size, self.processes * self.local_batch_size) if self.sharded else 1
        return _FLOAT32 * self.parameters * each * accumulated * self.period

    @property
    def update_samples(self) -> float:
        """Work per rank for an update, in units of the forward and backward pass of one sample."""
        cost = {"finite_difference": 5 / 3}.get(self.estimator, 1.0)
        if not self.sharded:
            return (self.probes * cost + self.target_batch_size) / self.processes
        # ranks run sharded backward passes in lockstep, all of them on the same samples
        spread = self.processes if self.estimator in _SHARED else 1
        return self.probes * cost / spread + self.target_batch_size

    @property
    def training_samples(self) -> float:
        """The same for the optimizer steps from one update to the next."""
        return self.batch_size * self.period / self.processes

    @property
    def memory(self) -> float:
        """Additional bytes of memory per rank during an update: one float32 gradient, or its shard."""
        return _FLOAT32 * self.parameters / (self.processes if self.sharded else 1)

    @property
    def state(self) -> int:
        """Bytes of the mixture's state in a checkpoint: some numbers per domain, independent of the run's length."""
        return 10 * _FLOAT64 * self.domains

    def wire(self, moved: float) -> float:
        """Bytes that each rank sends for ring collectives over tensors of ``moved`` bytes.

        An all-reduce sends ``2 (W - 1) / W`` of a tensor; all-gather and reduce-scatter each send half of that.
        """
        return (1 if self.sharded else 2) * (self.processes - 1) / self.processes * moved

    def seconds(self, samples: float, moved: float, *, flops: float, bandwidth: float) -> float:
        """Seconds for compute plus communication, without overlap.

        Args:
            samples: Forward and backward passes of one sample per rank.
            moved: As for :meth:`wire`.
            flops: Floating-point operations per second and rank.
            bandwidth: Bytes that a rank sends per second.
        """
        operations = samples * 3 * _FORWARD * self.parameters * self.tokens_per_sample
        return operations / flops + self.wire(moved) / bandwidth


def _passes(samples: float, local_batch_size: int) -> int:
    return math.ceil(samples / local_batch_size)
