"""Finds the parameters whose gradients can be separated by sample, by running the model on a few probes.

A leading dimension does not count as the sample dimension merely because its size matches. The model runs with two
batch sizes, and a row counts as a sample's only if its gradient scales with the weight given to that sample's loss:
tokens routed to an expert, or a time dimension that comes first, do not pass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
from lightning_dga.alignment.gradients.gradient import visit_gradients
from lightning_dga.alignment.per_sample.layers import affine, is_affine, tangent_of
from lightning_dga.alignment.per_sample.samples import (
    Layer,
    MisfitError,
    SampleDimension,
    attached,
    lone_input,
    patched_forwards,
    per_sample_forwards,
)
from lightning_dga.alignment.probing.loss import MeanLossError
from lightning_dga.alignment.probing.probes import ProbeBatch
from lightning_dga.distributed import all_reduce_, to_local

_TRIAL_SIZE = 8

_Call = tuple[torch.Size, torch.Size] | None
"""Shapes of the input and the output; ``None`` for a call that cannot be separated by sample."""


@dataclass(frozen=True)
class Plan:
    """Which layers are separated by sample, and which parameters are used elsewhere too; the same on every rank.

    Attributes:
        layers: The layers, in the order of the model's modules.
        uncovered: Indices of the measured parameters that have a use outside of these layers.
        proven: Whether every layer had a gradient that distinguishes the samples. Before the first step of a LoRA model
            half of its layers have zero gradients; the plan is right while that lasts, and must then be made again.
    """

    layers: tuple[Layer, ...]
    uncovered: frozenset[int]
    proven: bool = True

    def without(self, layers: Iterable[Layer]) -> "Plan":
        """The plan with all parameters of some layers moved to the uncovered ones."""
        dropped = set(layers)
        uses = {index for layer in dropped for index in layer.parameters.values()}
        return replace(
            self,
            layers=tuple(layer for layer in self.layers if layer not in dropped),
            uncovered=self.uncovered | uses,
        )


def signature(measurement: Measurement) -> tuple[Any, ...]:
    """What a plan is valid for: if this changes, the plan has to be made again."""
    modules = [(id(m), type(m), m.training, "forward" in vars(m)) for m in measurement.module.modules()]
    return (*modules, *map(id, measurement.parameters))


def make_plan(measurement: Measurement) -> Plan:
    """Makes a plan by running the model; every rank must call it.

    Raises:
        EstimatorRefusal: If the loss has no value per sample, or a sample's value depends on the others in its batch.
    """
    trial = _Trial(measurement)
    losses, calls = trial.observe(trial.more)
    fewer_losses, fewer_calls = trial.observe(trial.fewer)
    same = torch.allclose(losses[: len(fewer_losses)], fewer_losses, rtol=1e-2, atol=1e-3, equal_nan=True)
    if not all(trial.agreed([same])):
        raise EstimatorRefusal(
            "the loss of a sample depends on the rest of its batch (dropout or batch normalisation in training "
            'mode, or a loss over pairs), so that a sample has no gradient of its own. Use `estimator="backward"`.'
        )
    sizes = len(losses), len(fewer_losses)
    rows = [_rows(calls[layer], fewer_calls[layer], *sizes) for layer in trial.candidates]
    placed = [replace(layer, rows=each) if each else None for layer, each in zip(trial.candidates, rows, strict=True)]
    layers = trial.kept(placed)
    layers = trial.kept([layer if trial.has_a_row_per_sample(layer, losses) else None for layer in layers])
    while True:
        told_apart, uncovered, proven = trial.weigh(layers)
        kept = trial.kept([layer if good else None for layer, good in zip(layers, told_apart, strict=True)])
        if len(kept) == len(layers):
            return Plan(tuple(layers), uncovered, proven)
        layers = kept


class _Trial:
    """Runs the model on two batches of probes, the second without the last sample of the first."""

    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        self._device = to_local(measurement.parameters[0]).device
        self.more = next(measurement.probes.mixed(most=_TRIAL_SIZE))
        self._size = len(self.more.domains)
        if self._size == 1:
            raise EstimatorRefusal(
                "each rank has a single probe sample, but a test for coupling between samples needs two. Raise "
                '`probe_batch_size`, or use `estimator="backward"`.'
            )
        self.fewer = next(measurement.probes.mixed(most=self._size - 1))
        numbers = {id(parameter): index for index, parameter in enumerate(measurement.parameters)}
        self.candidates = [
            Layer(module, tangent, own)
            for module in measurement.module.modules()
            if (own := {name: numbers[id(p)] for name, p in module._parameters.items() if id(p) in numbers})
            and (tangent := tangent_of(module)) is not None
        ]

    def observe(self, probe: ProbeBatch) -> tuple[Tensor, dict[Layer, list[_Call]]]:
        """The samples' losses, and the shapes of each candidate layer's calls."""
        calls: dict[Layer, list[_Call]] = {layer: [] for layer in self.candidates}

        def call(layer: Layer, *args: Any, **kwargs: Any) -> Any:
            x, y = lone_input(args, kwargs), type(layer.module).forward(layer.module, *args, **kwargs)
            shapes = (x.shape, y.shape) if x is not None and isinstance(y, Tensor) and y.is_floating_point() else None
            if x is not None and layer.tangent is affine and not calls[layer] and not is_affine(layer.module, x):
                shapes = None
            calls[layer].append(shapes)
            return y

        with patched_forwards({layer.module: partial(call, layer) for layer in self.candidates}):
            losses = self._losses(probe)
        return losses.detach(), calls

    def has_a_row_per_sample(self, layer: Layer, losses: Tensor) -> bool:
        """Whether the losses stay the same if a layer whose output is shared by all samples gives a row per sample."""
        if layer.rows is SampleDimension.SAMPLES:
            return True
        try:
            with per_sample_forwards([layer], self._size, lambda layer, x, y: layer.by_sample(y, self._size)):
                found = self._losses(self.more).detach()
        except Exception:  # the model may raise anything for an unexpected shape
            return False
        return torch.allclose(found, losses, rtol=1e-4, atol=1e-6, equal_nan=True)

    def weigh(self, layers: Sequence[Layer]) -> tuple[list[bool], frozenset[int], bool]:
        """Which layers' rows scale with sample weights, which parameters are uncovered, and if all had gradients."""
        even, uncovered = self._row_norms(layers, torch.ones(self._size))
        # powers of two, by which multiplication is exact
        weights = torch.pow(2.0, -torch.arange(self._size))
        uneven, _ = self._row_norms(layers, weights)
        told_apart = [
            expected is not None
            and found is not None
            and torch.allclose(found, expected * weights.square().to(found), rtol=1e-3, atol=0, equal_nan=True)
            for expected, found in zip(even, uneven, strict=True)
        ]
        proven = [norms is not None and bool((norms > 0).any()) for norms in even]
        used = self.agreed([index not in uncovered for index in range(len(self._measurement.parameters))])
        return (
            told_apart,
            frozenset(index for index, unused in enumerate(used) if not unused),
            all(self.agreed([all(proven)])),
        )

    def _row_norms(self, layers: Sequence[Layer], weights: Tensor) -> tuple[list[Tensor | None], set[int]]:
        """Squared norms of the rows of the layers' output gradients, and parameters that autograd still reaches."""
        measurement, size = self._measurement, self._size
        leaf = torch.zeros(size, device=self._device, requires_grad=True)
        norms: dict[Layer, Tensor | None] = {layer: leaf.new_zeros(size) for layer in layers}
        uncovered: set[int] = set()

        def contract(layer: Layer, _: Tensor, dy: Tensor) -> Tensor:
            so_far = norms[layer]
            if so_far is not None:
                norms[layer] = so_far + dy.reshape(size, -1).float().square().sum(1)
            return torch.zeros_like(leaf)

        def attach(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
            return attached(layer, x, y, leaf, partial(contract, layer))

        try:
            with per_sample_forwards(layers, size, attach):
                losses = self._losses(self.more)
                loss = (losses * weights.to(losses)).sum() * measurement.loss.scale
                leaves = [leaf, *measurement.parameters]
                visit_gradients(loss, leaves, lambda index, _: uncovered.add(index - 1), measurement.excluded)
        except MisfitError as misfit:
            norms[misfit.layer] = None
        return [norms[layer] for layer in layers], uncovered - {-1}

    def _losses(self, probe: ProbeBatch) -> Tensor:
        try:
            losses = self._measurement.loss.of_samples(probe.batch)
        except MeanLossError as error:
            raise EstimatorRefusal(str(error)) from error
        if not losses.requires_grad and losses.isnan().all():
            # the step skipped the batch
            return losses.expand(len(probe.domains))
        if len(losses) != len(probe.domains):
            raise ValueError(
                f"The loss to align has {len(losses)} values for a batch of {len(probe.domains)} samples; return one "
                "for each."
            )
        return losses

    def agreed(self, flags: Sequence[bool]) -> list[bool]:
        """Which flags are set on every rank."""
        if not flags:
            return []
        objections = torch.tensor([0.0 if flag else 1.0 for flag in flags], device=self._device)
        return [objection == 0 for objection in all_reduce_(objections).tolist()]

    def kept(self, layers: Sequence[Layer | None]) -> list[Layer]:
        """What no process left out."""
        agreed = self.agreed([layer is not None for layer in layers])
        return [layer for layer, all_have_it in zip(layers, agreed, strict=True) if layer is not None and all_have_it]


def _rows(more: Sequence[_Call], fewer: Sequence[_Call], size: int, fewer_size: int) -> SampleDimension | None:
    """The sample dimension of a layer's input, inferred from the shapes of all of its calls."""
    if not more or len(more) != len(fewer) or None in more or None in fewer:
        return None
    pairs = [(a, b) for a, b in zip(more, fewer, strict=True) if a is not None and b is not None]
    if all(x[:1] == y[:1] == (size,) and u[:1] == v[:1] == (fewer_size,) for (x, y), (u, v) in pairs):
        return SampleDimension.SAMPLES
    if any(a != b for a, b in pairs):
        return None
    if all(x[:1] == y[:1] == (1,) for (x, y), _ in pairs):
        return SampleDimension.BROADCAST
    return SampleDimension.ABSENT
