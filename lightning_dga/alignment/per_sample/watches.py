"""Watches one forward and backward pass of training for inner products with the target gradients."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.alignment.gradients.gradient import total, visit_gradients
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import TargetGradient
from lightning_dga.alignment.per_sample.layer_products import LayerProducts
from lightning_dga.alignment.per_sample.samples import (
    Layer,
    MisfitError,
    SampleDimension,
    attached,
    lone_input,
    patch_forwards,
    restore_forwards,
)
from lightning_dga.alignment.per_sample.unit_gathers import UnitGathers
from lightning_dga.alignment.probing.loss import ProbeLoss
from lightning_dga.distributed import in_lockstep, is_sharded, to_local


@dataclass(frozen=True)
class Aim:
    """A target, and what is measured of the domains' alignments with it.

    Attributes:
        target: Its gradient.
        products: Inner products with its gradient by layer.
        sums: The results.
    """

    target: TargetGradient
    products: LayerProducts
    sums: DomainSums


class Watch(Protocol):
    """A watch over one forward and backward pass; it starts when the object is created."""

    def remove(self) -> None:
        """Removes all hooks and patches from the model."""
        ...

    def add(self, loss: Tensor) -> None:
        """Adds the results of the pass to the sums of each target.

        Args:
            loss: The loss that was backpropagated.
        """
        ...

    @property
    def mismatch(self) -> str | None:
        """Why the results are not exact; ``None`` if no check found that."""
        ...


def watch_probes(
    measurement: Measurement,
    loss: ProbeLoss,
    batches: Iterable[tuple[NDArray[np.int64], Any]],
    start: Callable[[NDArray[np.int64]], Watch],
) -> str | None:
    """Watches forward and backward passes over probes; returns the first mismatch.

    Args:
        measurement: The measurement.
        loss: The loss to backpropagate.
        batches: The domains of a batch's samples, and the batch; equally many on every rank if parameters are sharded.
        start: Starts the watch of a batch with these domains, whose loss is multiplied by ``loss.scale``.
    """
    mismatch = None
    for domains, batch in batches:
        watch = start(domains)
        try:
            value = loss(batch) * loss.scale
            visit_gradients(value, measurement.parameters, lambda *_: None, measurement.excluded)
        finally:
            watch.remove()
        if value.requires_grad:
            watch.add(value.detach())
        mismatch = mismatch or watch.mismatch
    return mismatch


def by_domain(measurement: Measurement, only: Sequence[int] | None = None) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """This rank's probes for :func:`watch_probes`, in batches of one domain, or of domain -1 to even out the ranks."""
    probes, parameters = measurement.probes, measurement.parameters
    own = probes.by_domain(only)
    if not is_sharded(parameters):
        yield from ((probe.domains, probe.batch) for probe in own)
        return
    device = to_local(parameters[0]).device
    for probe, counts in in_lockstep(own, lambda: next(iter(probes.whole().by_domain(only))), device):
        yield probe.domains if counts else np.full_like(probe.domains, -1), probe.batch


class SingleDomainWatch:
    """Watches a batch of one domain: takes each parameter's gradient as the backward pass finishes it.

    It reads gradients by hooks, before they are accumulated, reduced or clipped, and does not depend on layer types.

    Args:
        module: The model.
        aims: The targets.
        domains: Domain of each sample, ``[n]``, all the same.
        factor: Factor by which the mean loss is multiplied before the backward pass.
        gathers: What gathers the target gradients, if parameters are sharded and another watch has it already.
    """

    def __init__(
        self,
        module: nn.Module,
        aims: Sequence[Aim],
        domains: NDArray[np.int64],
        factor: float,
        gathers: UnitGathers | None = None,
    ) -> None:
        self.mismatch: str | None = None
        self._aims = aims
        self._domains = domains
        self._factor = factor
        self._terms: list[list[Tensor]] = [[] for _ in aims]
        self._gathers = gathers or _gathers(module, aims)
        if self._gathers is not None:
            self._gathers.take_gradients(self._take)
        self._hooks = [
            parameter.register_hook(partial(self._take, index))
            for index, parameter in enumerate(aims[0].target.gradient.parameters)
            if not is_sharded([parameter])
        ]

    def add(self, loss: Tensor) -> None:
        """See :class:`Watch`."""
        for aim, dot in zip(self._aims, self.dots(), strict=True):
            count = dot.new_tensor(len(self._domains))
            aim.sums.add(torch.from_numpy(self._domains[:1]), dot[None], loss[None] / self._factor, count[None])

    def dots(self) -> list[Tensor]:
        """The inner product of each target gradient with the gradient of the batch's mean loss, scalars."""
        return [
            total(terms, like=aim.target.gradient.buffers[0]) / self._factor
            for aim, terms in zip(self._aims, self._terms, strict=True)
        ]

    def remove(self) -> None:
        """See :class:`Watch`."""
        for hook in self._hooks:
            hook.remove()
        if self._gathers is not None:
            self._gathers.remove()

    def _take(self, index: int, gradient: Tensor) -> None:
        dense = gradient.detach() if gradient.layout == torch.strided else gradient.detach().to_dense()
        for aim, terms in zip(self._aims, self._terms, strict=True):
            terms.append(aim.products.term(index, dense))


class PerSampleWatch:
    """Watches a batch of many domains: takes each sample's contribution layer by layer.

    The loss has to be the mean of per-sample losses, each independent of the other samples. The domains' losses are not
    known from such a batch. Whether the layers account for the whole gradient can be checked: the mean of all samples'
    inner products then equals that of the batch's own gradient.

    Args:
        module: The model.
        aims: The targets.
        layers: The layers, which together cover all parameters.
        domains: Domain of each sample, ``[n]``; -1 for one that is not to be measured.
        factor: Factor by which the mean loss is multiplied before the backward pass.
        tolerance: Allowed error of the mean, relative to the larger of the inner product and the target's own;
            ``None`` skips the check.
    """

    def __init__(
        self,
        module: nn.Module,
        aims: Sequence[Aim],
        layers: Sequence[Layer],
        domains: NDArray[np.int64],
        factor: float,
        tolerance: float | None = None,
    ) -> None:
        self.mismatch: str | None = None
        self._aims = aims
        self._domains = domains
        measured = np.flatnonzero(domains >= 0)
        # at least one row, as products of no rows have no shape
        self._rows = measured if len(measured) else np.zeros(1, dtype=np.int64)
        self._factor = factor
        self._tolerance = tolerance
        self._gathers = _gathers(module, aims)
        checked = tolerance is not None
        self._whole = SingleDomainWatch(module, aims, domains, factor, self._gathers) if checked else None
        device = aims[0].target.gradient.buffers[0].device
        # the samples to measure, and separately all samples for the check, so that a check does not change results
        parts = [torch.from_numpy(self._rows), *([torch.arange(len(domains))] if tolerance is not None else [])]
        self._indices = [part.to(device) for part in parts]
        self._leaf = torch.zeros(len(domains), device=device, requires_grad=True)
        self._shares = torch.zeros(len(aims), sum(map(len, parts)), device=device)
        self._seen = False
        self._modules = [layer.module for layer in layers]
        patch_forwards({layer.module: partial(self._call, layer) for layer in layers})

    def add(self, loss: Tensor) -> None:
        """See :class:`Watch`."""
        if not self._seen or self.mismatch is not None:
            return
        shares = self._shares * (len(self._domains) / self._factor)
        if self._whole is not None:
            wholes = zip(self._aims, shares[:, len(self._rows) :].double().mean(1), self._whole.dots(), strict=True)
            for aim, parts, whole in wholes:
                self._check(aim, parts.item(), whole.item())
        for aim, dots in zip(self._aims, shares[:, : len(self._rows)], strict=True):
            aim.sums.add(torch.from_numpy(self._domains[self._rows]), dots, None, torch.ones_like(dots))

    def remove(self) -> None:
        """See :class:`Watch`."""
        restore_forwards(self._modules)
        if self._whole is not None:
            self._whole.remove()
        if self._gathers is not None:
            self._gathers.remove()

    def _check(self, aim: Aim, parts: float, whole: float) -> None:
        assert self._tolerance is not None
        # non-finite gradients, such as the first ones under a loss scaler, cannot be checked
        known = math.isfinite(parts) and math.isfinite(whole)
        if known and abs(parts - whole) > self._tolerance * max(abs(whole), aim.target.norm**2):
            self.mismatch = (
                f"the samples' shares sum to {parts:.4g}, their batch's gradient gives {whole:.4g}: in training a "
                "parameter is used outside of the layers that it was found in, or the loss is not the mean over the "
                "samples"
            )

    def _call(self, layer: Layer, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = type(layer.module).forward(layer.module, *args, **kwargs)
        x = lone_input(args, kwargs)
        if not torch.is_grad_enabled():
            return y
        if x is None or not layer.fits(x.shape, len(self._domains)):
            self.mismatch = str(MisfitError(layer))
            return y
        if self._gathers is not None:
            self._gathers.expect(layer, list(layer.parameters.values()))
        return attached(layer, x, y, self._leaf, partial(self._contract, layer))

    def _contract(self, layer: Layer, x: Tensor, dy: Tensor) -> Tensor:
        chosen = [self._rows_of(layer, x, dy, index) for index in self._indices]
        for number, aim in enumerate(self._aims):
            found = torch.cat([aim.products.contract(layer, *rows) for rows in chosen])
            self._shares[number] += found.to(self._shares.dtype)
        if self._gathers is not None:
            self._gathers.used(layer, list(layer.parameters.values()))
        self._seen = True
        return torch.zeros_like(self._leaf)

    def _rows_of(self, layer: Layer, x: Tensor, dy: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        if len(index) == len(dy):
            return x, dy
        return (x[index] if layer.rows is SampleDimension.SAMPLES else x), dy[index]


def _gathers(module: nn.Module, aims: Sequence[Aim]) -> UnitGathers | None:
    gradient = aims[0].target.gradient
    return UnitGathers(module, gradient.parameters, [aim.products for aim in aims]) if gradient.sharded else None
