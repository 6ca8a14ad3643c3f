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
        # rows: dot products, losses, counts, squared dot products, and number of independent pieces
        self._losses_seen = True
        self._sums = target.gradient.accumulator(5, num_domains)

    def add(self, domains: Tensor, dots: Tensor, losses: Tensor | None, counts: Tensor, *, share: float = 1.0) -> None:
        """Adds rows, each of one or more samples of a domain.

        Args:
            domains: Domain of each row, ``[n]`` int64; a row of domain -1 is not counted.
            dots: Mean over the row's samples of the inner product with the target gradient, ``[n]``.
            losses: Mean loss of the row's samples, ``[n]``; ``None`` if it is not known.
            counts: Samples in each row, ``[n]``.
            share: This rank's share of the rows, if several ranks add the same ones.
        """
        if losses is None:
            self._losses_seen, losses = False, torch.zeros_like(dots)
        dots, losses, counts = (part.detach().to(self._sums) for part in (dots, losses, counts))
        counts = counts * share
        pieces = torch.full_like(counts, share)
        self._add(domains, torch.stack([dots * counts, losses * counts, counts, dots.square() * counts, pieces]))

    def add_terms(self, domains: Tensor, terms: Tensor, counts: Tensor) -> None:
        """Adds to the inner products of samples that have been, or will be, counted by :meth:`add`.

        The variance of these domains is then unknown.

        Args:
            domains: Domain of each row, ``[n]`` int64.
            terms: Mean over the row's samples of the contribution of other parameters, ``[n]``.
            counts: Samples in each row, ``[n]``.
        """
        terms, counts = (part.detach().to(self._sums) for part in (terms, counts))
        nothing = torch.zeros_like(terms)
        self._add(domains, torch.stack([terms * counts, nothing, nothing, nothing + torch.nan, nothing]))

    def _add(self, domains: Tensor, rows: Tensor) -> None:
        domains = domains.to(rows.device)
        counted = domains >= 0
        rows = rows[:, counted]
        # one NaN makes the domain's sum over all ranks NaN
        finite = rows[:3].isfinite().all(0)
        self._sums.index_add_(1, domains[counted], torch.where(finite, rows, torch.nan))

    def alignments(self, step: int) -> Alignments:
        """The alignments over all ranks, by one all-reduce of 5 k numbers."""
        dots, losses, counts, squares, pieces = all_reduce_(self._sums)
        losses = losses if self._losses_seen else torch.full_like(losses, torch.nan)
        return Alignments.from_sums(
            dots,
            losses,
            counts.where(dots.isfinite(), 0.0),
            squares,
            pieces,
            target_loss=self._target.loss,
            target_norm=self._target.norm,
            step=step,
        )
