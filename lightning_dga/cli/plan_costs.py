"""What aligning adds to training on many processes: numbers moved, samples passed, memory, before anything runs.

Derived in docs/scaling.md; `benchmarks/scaling.py` measures the same numbers.
"""

import math
from dataclasses import dataclass

_FLOAT32, _FLOAT64, _INT64 = 4, 8, 8
# estimators whose passes over shards are of each process's own samples
_SHARED = ("batched", "finite_difference")
# of one sample in one direction: two operations for each parameter and token
_FORWARD = 2


@dataclass(frozen=True)
class Job:
    """A training run, and how its alignments are measured.

    Attributes:
        parameters: P, trainable parameters.
        domains: k.
        processes: W, data-parallel processes.
        period: T_r, optimizer steps from one update to the next.
        batch_size: Samples of an optimizer step, over all processes.
        probe_batch_size: Samples of each domain for an update, over all processes.
        target_batch_size: Target samples for an update, over all processes.
        local_batch_size: Samples of one pass of a process.
        estimator: ``"backward"``, ``"in_step"``, ``"batched"`` or ``"finite_difference"``.
        sharded: Whether parameters are in shards (FSDP2).
        tokens_per_sample: Tokens of a sample, for times.
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
        """What an update moves beside gradients and parameters: five numbers for each domain, and a few."""
        # four sums of each domain and the new weights; loss and count of the target; three flags of errors with each
        # sum; what agreement is checked on. Finite differences take four such sums
        sums = 4 if self.estimator == "finite_difference" else 1
        return _FLOAT64 * ((4 * sums + 1) * self.domains + 2 + 3 * (sums + 1)) + _INT64 * 6

    @property
    def update_bytes(self) -> float:
        """Size of all tensors that an update sums over, or gathers from, all processes."""
        if self.processes == 1:
            return 0
        if not self.sharded:
            return _FLOAT32 * self.parameters + self.bookkeeping_bytes
        # a backward pass gathers the parameters twice and scatters gradients once; a forward pass gathers them once
        both, forward = 3 * _FLOAT32 * self.parameters, _FLOAT32 * self.parameters
        moved = both * _passes(self.target_batch_size, self.local_batch_size)
        if self.estimator in _SHARED:
            # five forward passes, or one and one backward that makes no gradients of parameters
            share, by_differences = -(-self.probes // self.processes), self.estimator == "finite_difference"
            moved += forward * (5 if by_differences else 2) * _passes(share, self.local_batch_size)
            # and one domain by the reference
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
        """Forward and backward passes of one sample that a process makes for an update, of both kinds together."""
        cost = {"finite_difference": 5 / 3}.get(self.estimator, 1.0)
        if not self.sharded:
            return (self.probes * cost + self.target_batch_size) / self.processes
        # processes take sharded backward passes in lockstep, all of them on the same samples
        spread = self.processes if self.estimator in _SHARED else 1
        return self.probes * cost / spread + self.target_batch_size

    @property
    def training_samples(self) -> float:
        """The same for the optimizer steps from one update to the next."""
        return self.batch_size * self.period / self.processes

    @property
    def memory(self) -> float:
        """Bytes that a process holds more during an update: one float32 gradient, or its shard."""
        return _FLOAT32 * self.parameters / (self.processes if self.sharded else 1)

    @property
    def state(self) -> int:
        """Bytes that a checkpoint holds of the mixture: some numbers for each domain, however long the run."""
        return 10 * _FLOAT64 * self.domains

    def wire(self, moved: float) -> float:
        """Bytes that each process sends, where tensors of ``moved`` bytes go around a ring.

        An all-reduce sends ``2 (W - 1) / W`` of a tensor; gathering and scattering are halves of one.
        """
        return (1 if self.sharded else 2) * (self.processes - 1) / self.processes * moved

    def seconds(self, samples: float, moved: float, *, flops: float, bandwidth: float) -> float:
        """Time of passes and of what is moved, one after the other, neither hiding behind the other.

        Args:
            samples: Passes of one sample by a process.
            moved: As :meth:`wire` takes it.
            flops: Operations a process does each second.
            bandwidth: Bytes a process sends each second.
        """
        operations = samples * 3 * _FORWARD * self.parameters * self.tokens_per_sample
        return operations / flops + self.wire(moved) / bandwidth


def _passes(samples: float, local_batch_size: int) -> int:
    return math.ceil(samples / local_batch_size)
