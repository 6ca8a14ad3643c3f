"""Sums of inner products and losses by domain, over the samples of all ranks."""

import torch
from torch import Tensor

from lightning_dga.alignment.gradients.target import TargetGradient
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import all_reduce_


class DomainSums:
    """Accumulates per-sample results by domain and turns them into alignments.

    A domain with a non-finite value on any rank is left out on all ranks.

    Args:
        target: The target gradient.
        num_domains: The number k of domains.
    """

    def __init__(self, target: TargetGradient, num_domains: int) -> None:
        self._target = target
        # rows: dot products, losses, counts, and number of non-finite values
        self._losses_seen = True
        self._sums = target.gradient.accumulator(4, num_domains)

    def add(self, domains: Tensor, dots: Tensor, losses: Tensor | None, counts: Tensor) -> None:
        """Adds rows, each of one or more samples of a domain.

        Args:
            domains: Domain of each row, ``[n]`` int64; a row of domain -1 is not counted.
            dots: Mean over the row's samples of the inner product with the target gradient, ``[n]``.
            losses: Mean loss of the row's samples, ``[n]``; ``None`` if it is not known.
            counts: Samples in each row, ``[n]``; fractional if several ranks measure the same samples.
        """
        if losses is None:
            self._losses_seen, losses = False, torch.zeros_like(dots)
        dots, losses, counts = (part.detach().to(self._sums) for part in (dots, losses, counts))
        self._add(domains, torch.stack([dots * counts, losses * counts, counts, torch.zeros_like(counts)]))

    def add_terms(self, domains: Tensor, terms: Tensor, counts: Tensor) -> None:
        """Adds to the inner products of samples that have been, or will be, counted by :meth:`add`.

        Args:
            domains: Domain of each row, ``[n]`` int64.
            terms: Mean over the row's samples of the contribution of other parameters, ``[n]``.
            counts: Samples in each row, ``[n]``.
        """
        terms, counts = (part.detach().to(self._sums) for part in (terms, counts))
        nothing = torch.zeros_like(terms)
        self._add(domains, torch.stack([terms * counts, nothing, nothing, nothing]))

    def _add(self, domains: Tensor, rows: Tensor) -> None:
        domains = domains.to(rows.device)
        counted = domains >= 0
        rows = rows[:, counted]
        refusal = torch.zeros_like(rows)
        refusal[3] = 1
        self._sums.index_add_(1, domains[counted], torch.where(rows.isfinite().all(0), rows, refusal))

    def alignments(self, step: int) -> Alignments:
        """The alignments over all ranks, by one all-reduce of 4 k numbers."""
        dots, losses, counts, refused = all_reduce_(self._sums)
        losses = losses if self._losses_seen else torch.full_like(losses, torch.nan)
        counts = torch.where(refused > 0, torch.zeros_like(counts), counts)
        return Alignments.from_sums(
            dots, losses, counts, target_loss=self._target.loss, target_norm=self._target.norm, step=step
        )
