"""Inner products of samples with the target gradient by layer, with whole matrices or a few singular vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_dga.alignment.gradients.gradient import FlatGradient
from lightning_dga.alignment.per_sample.layers import Direction, is_transformers_conv1d
from lightning_dga.alignment.per_sample.samples import Layer, SampleDimension, contraction
from lightning_dga.distributed import full_tensor

# a matrix is used whole if its low-rank approximation leaves a larger fraction of its norm than this; the rest is
# nearly orthogonal to the domains' gradients too, so that the error of an alignment is a small part of it
_MOST_LEFT_OUT = 0.15


def checked_rank(rank: int | None) -> int | None:
    """Checks the number of singular vectors.

    Raises:
        ValueError: If it is not positive.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"`rank` must be at least 1, got {rank}; None uses whole gradients.")
    return rank


@dataclass(frozen=True)
class _Factors:
    """The approximation ``left @ diag(sizes) @ right.T`` of a matrix ``[out, in]``."""

    left: Tensor
    sizes: Tensor
    right: Tensor


class LayerProducts:
    """Inner products of per-sample gradients with the target gradient, layer by layer.

    Args:
        gradient: The target gradient.
        layers: The layers.
        rank: Number r of singular vectors that approximate a linear layer's matrix of the target gradient; ``None``
            uses the whole matrix, which is exact. The approximation takes r (in + out) multiplications per token in
            place of in * out. Gradient matrices are often close to low rank (GaLore, arXiv 2403.03507); one that is not
            is used whole.
    """

    def __init__(self, gradient: FlatGradient, layers: Sequence[Layer], rank: int | None = None) -> None:
        self._gradient = gradient
        self._factors: dict[Layer, _Factors] = {}
        self._held: dict[int, Tensor] = {}
        for layer in layers if rank is not None else ():
            factors = self._factorized(layer, rank or 0)
            if factors is not None:
                self._factors[layer] = factors

    def contract(self, layer: Layer, x: Tensor, dy: Tensor) -> Tensor:
        """A layer's contribution for each sample, ``[rows]``, from the layer's input and its output's gradient."""
        factors = self._factors.get(layer)
        if factors is not None:
            x, dy = x.to(factors.sizes.dtype), dy.to(factors.sizes.dtype)
            shares = _row_sums((dy @ factors.left) * factors.sizes * (x @ factors.right))
        elif _is_linear(layer) and x.shape[-1] < dy.shape[-1] and dy.dtype != torch.float16:
            # the same product on the narrower side of the layer, which moves less memory
            shares = _row_sums((dy @ self._matrix(layer).to(dy.dtype)) * x)
        else:
            return contraction(layer, x, dy, self._of(layer))
        if "bias" in layer.parameters:
            shares = shares + _row_sums(dy @ self._part(layer.parameters["bias"]).to(dy.dtype))
        return shares

    def term(self, index: int, gradient: Tensor) -> Tensor:
        """The contribution of parameter ``index`` to the inner product with a whole gradient of it, a scalar."""
        part = self._part(index).reshape(-1)
        return torch.dot(gradient.reshape(-1).to(part.dtype), part)

    def hold(self, index: int) -> None:
        """Gathers the target gradient of a sharded parameter and keeps it until :meth:`release`."""
        if index not in self._held:
            self._held[index] = self._part(index)

    def release(self, index: int | None = None) -> None:
        """Frees what :meth:`hold` has gathered for a parameter, or for all."""
        for held in [index] if index is not None else list(self._held):
            self._held.pop(held, None)

    def _of(self, layer: Layer) -> Direction:
        return {name: self._part(index) for name, index in layer.parameters.items()}

    def _part(self, index: int) -> Tensor:
        if index in self._held:
            return self._held[index]
        parameter = self._gradient.parameters[index]
        return full_tensor(self._gradient.view(parameter), like=parameter)

    def _matrix(self, layer: Layer) -> Tensor:
        """The target gradient of a linear layer's weight, ``[out, in]``."""
        part = self._part(layer.parameters["weight"])
        return part.T if is_transformers_conv1d(type(layer.module)) else part

    def _factorized(self, layer: Layer, rank: int) -> _Factors | None:
        if not _is_linear(layer):
            return None
        matrix = self._matrix(layer)
        if min(matrix.shape) <= 2 * rank:
            return None
        with torch.random.fork_rng([matrix.device] if matrix.device.type == "cuda" else []):
            torch.manual_seed(0)
            left, sizes, right = torch.svd_lowrank(matrix, q=rank, niter=1)
        whole = matrix.square().sum()
        left_out = (1 - sizes.square().sum() / whole).clamp(min=0).sqrt()
        return _Factors(left, sizes, right) if left_out <= _MOST_LEFT_OUT else None


def _is_linear(layer: Layer) -> bool:
    kind = type(layer.module)
    known = kind is nn.Linear or is_transformers_conv1d(kind)
    return known and layer.rows is SampleDimension.SAMPLES and "weight" in layer.parameters


def _row_sums(products: Tensor) -> Tensor:
    return products.reshape(len(products), -1).sum(1, dtype=torch.promote_types(products.dtype, torch.float32))
