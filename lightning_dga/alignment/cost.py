"""The cost of alignments beside training: work, communication, memory and time. Derived in docs/scaling.md."""

import math
from dataclasses import dataclass

_FLOAT32, _FLOAT64, _INT64 = 4, 8, 8
# a forward pass is a third of a forward and backward pass: 2 of 6 floating-point operations per parameter and token
_FORWARD = 1 / 3
_OPERATIONS = 6
# what watching adds to a training sample; measured as 0.2 to 0.35 in docs/results/alignment.md
_WATCHING = 0.25
# domains of a rehearsal, and measurements from one to the next; each sample is passed watched and once more alone
_REHEARSED, _BETWEEN_REHEARSALS = 4, 10
# estimators whose ranks run only their own samples also where parameters are sharded
_SHARED = ("batched", "finite_difference", "in_step")


@dataclass(frozen=True)
class TrainingStep:
    """The size and composition of one optimizer step of training.

    Attributes:
        samples: Samples per step over all ranks and accumulated batches.
        pure: Whether each batch is of a single domain.
    """

    samples: int
    pure: bool


@dataclass(frozen=True)
class Cost:
    """The predicted cost of an update of the alignments, and of the training between two updates.

    Work is counted in forward and backward passes of one training sample, per rank. Not counted are the tests of
    ``"auto"``, and the bytes of the rehearsals of ``"in_step"``.

    Attributes:
        domains: k, the number of domains.
        period: T_r, optimizer steps per update.
        batch_size: Samples per optimizer step, over all ranks.
        probe_batch_size: Samples per domain and update, over all ranks.
        target_batch_size: Target samples per update, over all ranks.
        estimator: Name of the estimator; one that is not the package's own counts as ``"backward"``.
        probed_domains: Domains that ``"in_step"`` probes in an update because the step may hold no sample of them.
        pure: Whether each training batch is of a single domain, which ``"in_step"`` then watches at no cost.
        targets: Number of targets, each of which is measured.
        processes: W, the data-parallel world size.
        sharded: Whether parameters are sharded (FSDP2).
        parameters: P, the number of trainable parameters; needed for bytes and seconds.
        local_batch_size: Samples per pass and rank; needed for bytes that sharded parameters move.
        tokens_per_sample: Tokens per sample; needed for seconds.

    Example:
        >>> cost = Cost(domains=8, period=100, batch_size=64, probe_batch_size=4, target_batch_size=8)
        >>> f"{cost.share:.3%}"
        '0.625%'
    """

    domains: int
    period: int
    batch_size: int
    probe_batch_size: float = 4
    target_batch_size: int = 16
    estimator: str = "backward"
    probed_domains: int = 0
    pure: bool = False
    targets: int = 1
    processes: int = 1
    sharded: bool = False
    parameters: int = 0
    local_batch_size: int = 8
    tokens_per_sample: int = 1

    @property
    def domain_work(self) -> float:
        """Work for the domains' samples and one target, over all ranks."""
        probes = self.domains * self.probe_batch_size
        if self.estimator == "finite_difference":
            # five forward passes, and one domain by the reference
            return 5 * _FORWARD * probes + self.probe_batch_size
        if self.estimator == "in_step":
            rehearsed = min(_REHEARSED, self.domains) * self.probe_batch_size / _BETWEEN_REHEARSALS
            watched = 0.0 if self.pure else _WATCHING * min(probes, self.batch_size) + (2 + _WATCHING) * rehearsed
            return watched + self.probed_domains * self.probe_batch_size
        return probes

    @property
    def update_work(self) -> float:
        """Work per rank for an update."""
        # ranks run sharded backward passes of a domain in lockstep, all of them on the same samples
        lockstep = self.sharded and self.estimator not in _SHARED
        spread = 1 if lockstep else self.processes
        return self.targets * (self.domain_work / spread + self.target_batch_size / self.processes)

    @property
    def training_work(self) -> float:
        """Work per rank for the optimizer steps from one update to the next."""
        return self.batch_size * self.period / self.processes

    @property
    def share(self) -> float:
        """Work of an update relative to that of the training from one update to the next."""
        return self.update_work / self.training_work

    @property
    def update_bytes(self) -> float:
        """Size in bytes of all tensors that an update reduces over, or gathers from, all ranks."""
        if self.processes == 1:
            return 0
        gradient = _FLOAT32 * self.parameters
        if not self.sharded:
            return self.targets * (gradient + self._bookkeeping_bytes)
        # a forward and backward pass gathers parameters twice and scatters gradients once; a forward pass gathers once
        both, probes = 3 * gradient, self.domains * self.probe_batch_size
        of_domain, share = self._passes(self.probe_batch_size), self._passes(-(-probes // self.processes))
        moved = {
            # every backward pass of the watched step gathers the target gradient
            "in_step": gradient * self._passes(self.batch_size / self.processes),
            # one forward pass, and one backward pass with the target gradient and without parameter gradients
            "batched": 3 * gradient * share,
            "finite_difference": 5 * gradient * share + both * of_domain,
        }.get(self.estimator, both * self.domains * of_domain)
        moved += both * self._passes(-(-self.target_batch_size // self.processes)) + self._bookkeeping_bytes
        return self.targets * moved

    @property
    def training_bytes(self) -> float:
        """The same for the optimizer steps from one update to the next."""
        if self.processes == 1:
            return 0
        passes = 3 * self._passes(self.batch_size / self.processes) if self.sharded else 1
        return _FLOAT32 * self.parameters * passes * self.period

    @property
    def memory(self) -> float:
        """Additional bytes of memory per rank during an update: one float32 gradient, or its shard."""
        # a watched step needs the gradients of all targets at once
        gradients = self.targets if self.estimator == "in_step" else 1
        return gradients * _FLOAT32 * self.parameters / (self.processes if self.sharded else 1)

    @property
    def state_bytes(self) -> int:
        """Bytes of the mixture's state in a checkpoint: some numbers per domain, independent of the run's length."""
        return 10 * _FLOAT64 * self.domains

    def sent(self, moved: float) -> float:
        """Bytes that each rank sends for ring collectives over tensors of ``moved`` bytes.

        An all-reduce sends ``2 (W - 1) / W`` of a tensor; all-gather and reduce-scatter each send half of that.
        """
        return (1 if self.sharded else 2) * (self.processes - 1) / self.processes * moved

    def seconds(self, work: float, moved: float, *, flops: float, bandwidth: float) -> float:
        """Seconds for computation plus communication, without overlap.

        Args:
            work: Forward and backward passes of one sample per rank.
            moved: As for :meth:`sent`.
            flops: Floating-point operations per second and rank.
            bandwidth: Bytes that a rank sends per second.
        """
        return work * _OPERATIONS * self.parameters * self.tokens_per_sample / flops + self.sent(moved) / bandwidth

    @property
    def _bookkeeping_bytes(self) -> int:
        # five sums of each domain and the new weights; loss and count of the target; three flags of errors with each
        # sum; what agreement is checked on. Finite differences take four such sums
        sums = 4 if self.estimator == "finite_difference" else 1
        return _FLOAT64 * ((5 * sums + 1) * self.domains + 2 + 3 * (sums + 1)) + _INT64 * 6

    def _passes(self, samples: float) -> int:
        return math.ceil(samples / self.local_batch_size)
