"""Per-sample alignments from one backward pass over a batch of many domains."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
from lightning_dga.alignment.gradients.gradient import total, visit_gradients
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import TargetGradient, target_gradient
from lightning_dga.alignment.per_sample.layer_products import LayerProducts, checked_rank
from lightning_dga.alignment.per_sample.plan import Plan, make_plan, signature
from lightning_dga.alignment.per_sample.samples import Layer, MisfitError, attached, per_sample_forwards
from lightning_dga.alignment.probing.compiled import eagerly
from lightning_dga.alignment.probing.probes import ProbeBatch
from lightning_dga.alignment.registry import register_estimator
from lightning_dga.core.alignments import Alignments, SampleAlignments
from lightning_dga.distributed import all_reduce_


@register_estimator("batched")
class Batched:
    """Alignments of each sample of a batch, from any domains, from one backward pass for all of them.

    With ``z`` the derivative of a layer's output along the target gradient of its parameters, the layer adds
    ``<dL/dy_j, z_j>`` to the alignment of sample *j*. Parameters that are used outside of such layers (a functional use
    of a tied weight, the experts of a mixture of experts, recurrent layers) are measured by one backward pass per
    domain over these parameters only. Which parameters those are is found by running the model; see
    :mod:`lightning_dga.alignment.per_sample.plan`.

    The loss must return one value per sample. Memory beyond a training step's is one gradient for any k.

    Args:
        rank: Number of singular vectors that approximate a linear layer's matrix of the target gradient. Fewer make the
            layers' products cheaper and inexact; ``None`` uses whole matrices, which is exact.
    """

    def __init__(self, rank: int | None = None) -> None:
        self._rank = checked_rank(rank)
        self._plan: Plan | None = None
        self._planned_for: object = None

    def measure(self, measurement: Measurement) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`.

        Raises:
            EstimatorRefusal: If there is no loss per sample, if a sample's loss depends on the others in its batch, or
                if no layer's gradient can be separated by sample.
        """
        target = target_gradient(measurement)
        if target is None:
            return None
        with eagerly():
            made_for = signature(measurement)
            if self._plan is None or self._planned_for != made_for or not self._plan.proven:
                self._plan, self._planned_for = make_plan(measurement), made_for
            while True:
                passes = _Passes(measurement, target, self._plan, self._rank)
                result, self._plan = passes.alignments(), passes.plan
                if result is not None:
                    return result


class _Passes:
    """The passes of one measurement under a plan, which they correct where the model does not follow it."""

    def __init__(self, measurement: Measurement, target: TargetGradient, plan: Plan, rank: int | None) -> None:
        self.plan = plan
        self._directions = LayerProducts(target.gradient, plan.layers, rank)
        self._measurement = measurement
        self._target = target
        self._sums = DomainSums(target, measurement.num_domains)
        self._samples: list[SampleAlignments] = []

    def alignments(self) -> Alignments | None:
        """The alignments; ``None`` if a layer was not called as planned and has been removed from :attr:`plan`."""
        layers = self.plan.layers
        if not layers:
            raise EstimatorRefusal(
                f"no layer of {type(self._measurement.module).__name__} can be measured sample by sample. Use "
                '`estimator="backward"`.'
            )
        self._try(self._by_sample)
        if self.plan.layers == layers and self.plan.uncovered:
            self._try(self._measure_uncovered_parameters)
        if self.plan.layers != layers:
            return None
        alignments = self._sums.alignments(self._measurement.step)
        # terms of uncovered parameters are known per domain, not per sample
        return alignments if self.plan.uncovered else replace(alignments, samples=_joined(self._samples))

    def _try(self, run: Callable[[], set[int]]) -> None:
        """Runs passes; then all ranks remove from the plan what any rank found not to be as planned."""
        layers, parameters = self.plan.layers, self._measurement.parameters
        misfit, uncovered = None, set(self.plan.uncovered)
        try:
            uncovered |= run()
        except MisfitError as error:
            if self._target.gradient.sharded:
                raise  # the other ranks are waiting for this one in the middle of a pass
            misfit = error.layer
        found = [layer is misfit for layer in layers] + [index in uncovered for index in range(len(parameters))]
        votes = self._target.gradient.accumulator(len(found))
        somewhere = all_reduce_(votes + votes.new_tensor(found)).tolist()
        plan = replace(self.plan, uncovered=frozenset(i for i, n in enumerate(somewhere[len(layers) :]) if n))
        self.plan = plan.without(layer for layer, n in zip(layers, somewhere, strict=False) if n)

    def _by_sample(self) -> set[int]:
        """One pass per batch; returns the uncovered parameters, for which autograd still found a gradient."""
        uncovered = set(self.plan.uncovered)
        for probe in self._measurement.probes.mixed():
            dots, losses = self._one_batch(probe, uncovered)
            domains, indices = torch.from_numpy(probe.domains), torch.from_numpy(probe.indices)
            self._sums.add(domains, dots, losses, torch.ones_like(dots))
            values, losses = (part.to("cpu", torch.float64) for part in (dots, losses))
            self._samples.append(SampleAlignments(domains, indices, values, losses))
        return uncovered

    def _one_batch(self, probe: ProbeBatch, uncovered: set[int]) -> tuple[Tensor, Tensor]:
        """Alignments and losses of a batch's samples, ``[n]`` each; adds newly found parameters to ``uncovered``."""
        measurement, loss = self._measurement, self._measurement.loss
        leaf = self._target.gradient.accumulator(len(probe.domains)).requires_grad_()
        dots = torch.zeros_like(leaf, requires_grad=False)
        # parameters known to be uncovered need not be found again
        rest = [index for index in range(len(measurement.parameters)) if index not in uncovered]

        def visit(index: int, gradient: Tensor) -> None:
            if index == 0:
                dots.add_(gradient)  # several times under reentrant checkpointing
            else:
                uncovered.add(rest[index - 1])

        with per_sample_forwards(self.plan.layers, len(leaf), partial(self._attach, leaf)):
            losses = loss.of_samples(probe.batch)
            leaves = [leaf, *(measurement.parameters[index] for index in rest)]
            visit_gradients(losses.sum() * loss.scale, leaves, visit, self._other_parameters(leaves))
        # the loss has a single value if the step skipped the batch
        return dots / loss.scale, losses.detach().expand(len(leaf))

    def _attach(self, leaf: Tensor, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        return attached(layer, x, y, leaf, partial(self._directions.contract, layer))

    def _measure_uncovered_parameters(self) -> set[int]:
        """Measures the uncovered parameters as the reference does, while their uses in layers stay hidden."""
        measurement, gradient = self._measurement, self._target.gradient
        loss, uncovered = measurement.loss, sorted(self.plan.uncovered)
        parameters = [measurement.parameters[index] for index in uncovered]
        # if parameters are sharded, backward passes reduce over ranks, so all ranks run the same ones
        probes = measurement.probes.whole() if gradient.sharded else measurement.probes
        for probe in probes.by_domain():
            terms: list[Tensor] = []

            def visit(index: int, part: Tensor, terms: list[Tensor] = terms) -> None:
                terms.append(gradient.term(uncovered[index], part))

            leaf = gradient.accumulator(len(probe.domains)).requires_grad_()
            with per_sample_forwards(self.plan.layers, len(leaf), partial(_attach_nothing, leaf)):
                mean = loss.of_samples(probe.batch).mean()
                visit_gradients(mean * loss.scale, parameters, visit, self._other_parameters(parameters))
            term = total(terms, like=gradient.buffers[0])[None] / loss.scale
            self._sums.add_terms(torch.from_numpy(probe.domains[:1]), term, term.new_tensor([len(probe.domains)]))
        return set()

    def _other_parameters(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """The other trainable parameters, whose ``.grad`` a pass must not change."""
        ids = set(map(id, leaves))
        measurement = self._measurement
        return [p for p in (*measurement.parameters, *measurement.excluded) if id(p) not in ids]


def _attach_nothing(leaf: Tensor, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    # reentrant checkpointing drops a segment whose inputs need no gradient
    return attached(layer, x, y, leaf, lambda x, dy: torch.zeros_like(leaf))


def _joined(parts: list[SampleAlignments]) -> SampleAlignments:
    """All samples that count, concatenated."""
    counted = [part.domains >= 0 for part in parts]
    columns = [
        torch.cat([getattr(part, column.name)[own] for part, own in zip(parts, counted, strict=True)])
        for column in fields(SampleAlignments)
    ]
    return SampleAlignments(*columns)
