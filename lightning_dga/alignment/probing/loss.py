"""The loss whose gradients are aligned: chosen from the user's module, and run under the user's precision."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dga.alignment.probing.origins import add_origin
from lightning_dga.alignment.probing.writes import loss_measured

LossFunction = Callable[[nn.Module, Any], Tensor | None]


def find_loss(module: nn.Module, loss_fn: LossFunction | None = None) -> LossFunction:
    """Chooses the function that computes the loss of a probe batch.

    Args:
        module: The model in training.
        loss_fn: The user's choice, ``loss_fn(module, batch)``.

    Returns:
        The module's own ``alignment_loss(batch)`` if it defines one, else ``loss_fn``, else its ``training_step``.
    """
    if callable(getattr(module, "alignment_loss", None)):
        return _alignment_loss
    return loss_fn or training_step_loss


def uses_training_step(loss: LossFunction) -> bool:
    """Whether a loss found by :func:`find_loss` is the module's ``training_step``."""
    return loss is training_step_loss


class ProbeLoss:
    """Measures the mean loss of a probe batch, ready for a backward pass.

    Args:
        module: The model.
        loss: From :func:`find_loss`.
        forward_context: Returns the context in which the precision plugin runs a training forward.
        scale: Factor by which the loss is multiplied before the backward pass, so that fp16 gradients do not underflow.
            Gradients must be divided by it again.
        transfer: Moves a batch to the model's device as in training.
        origin: Describes the origin of a batch's samples, for error messages.

    Attributes:
        runs: Number of runs of the model so far.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: LossFunction,
        *,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        scale: float = 1.0,
        transfer: Callable[[Any], Any] = lambda batch: batch,
        origin: Callable[[Any], str] = lambda batch: "",
    ) -> None:
        self.scale = scale
        self.runs = 0
        self._module = module
        self._loss = loss
        self._forward_context = forward_context
        self._transfer = transfer
        self._origin = origin
        self._any = False

    def __call__(self, batch: Any, *, with_graph: bool = True) -> Tensor:
        """The mean loss of a batch, an unscaled scalar of at least float32.

        A step that returns no loss, as Lightning allows in order to skip a batch, gives NaN without a graph.

        Args:
            batch: Collated samples.
            with_graph: Whether a backward pass will follow.

        Raises:
            TypeError: If the loss is not a tensor, or has never been one so far.
            ValueError: If it is neither a scalar nor one loss per sample, or depends on no trainable parameter.
        """
        return self._measure(batch, with_graph=with_graph).mean()

    def of_samples(self, batch: Any, *, with_graph: bool = True) -> Tensor:
        """The unscaled loss of each sample of a batch, ``[n]``, of at least float32.

        If there is no loss, it is a single NaN, ``[1]``, without a graph.

        Args:
            batch: Collated samples.
            with_graph: Whether a backward pass will follow.

        Raises:
            MeanLossError: If the module returns only their mean.
        """
        losses = self._measure(batch, with_graph=with_graph)
        if losses.ndim == 0:
            raise MeanLossError(
                f"{type(self._module).__name__} gives only the mean loss of a batch. Define `alignment_loss(batch)` on "
                "it, or give the callback `loss_fn(pl_module, batch)`, that returns one loss per sample."
            )
        return losses

    def precision(self, parameters: Sequence[nn.Parameter]) -> torch.dtype:
        """The least precise dtype that the loss is computed in."""
        device = parameters[0].device.type
        with self._forward_context():
            cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        types = {parameter.dtype for parameter in parameters} | ({cast} if cast is not None else set())
        return min(types, key=lambda dtype: -torch.finfo(dtype).eps)

    def _measure(self, batch: Any, *, with_graph: bool) -> Tensor:
        self.runs += 1
        try:
            return self._checked(self._transfer(batch), with_graph=with_graph)
        except Exception as error:
            # errors of this package's own types are control flow and are not annotated
            if (origin := self._origin(batch)) and not type(error).__module__.startswith("lightning_dga"):
                add_origin(error, origin)
            raise

    def _checked(self, batch: Any, *, with_graph: bool) -> Tensor:
        with self._forward_context(), loss_measured(with_graph=with_graph):
            loss = self._loss(self._module, batch)
        # a user function that has never returned anything probably lacks a `return`
        skipped = loss is None and (self._any or uses_training_step(self._loss))
        if skipped or (isinstance(loss, Tensor) and loss.numel() == 0):
            device = next(self._module.parameters()).device
            return torch.full((1,), torch.nan, device=device)
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"The loss to align is a {type(loss).__name__}, expected a tensor. Define `alignment_loss(batch)` on "
                f"{type(self._module).__name__}, or give the callback `loss_fn(pl_module, batch)`."
            )
        if loss.ndim > 1 or (with_graph and not loss.requires_grad):
            what = f"has shape {tuple(loss.shape)}" if loss.ndim > 1 else "does not depend on any trainable parameter"
            raise ValueError(
                f"The loss to align {what}; return a scalar mean or one loss per sample, attached to its graph."
            )
        self._any = True
        return loss.double() if loss.dtype.itemsize == 8 else loss.float()


class MeanLossError(ValueError):
    """One loss per sample is needed, but the module returns only their mean."""


def _alignment_loss(module: Any, batch: Any) -> Any:
    return module.alignment_loss(batch)


def training_step_loss(module: Any, batch: Any) -> Any:
    """The loss that the module's own ``training_step`` returns for a batch; ``None`` if it skips the batch."""
    arguments = [batch, 0][: _positional_parameters(module.training_step)]
    output = module.training_step(*arguments)
    return output.get("loss") if isinstance(output, Mapping) else output


def _positional_parameters(function: Callable[..., Any]) -> int:
    kinds = [p.kind for p in signature(function).parameters.values()]
    if Parameter.VAR_POSITIONAL in kinds:
        return 2
    return sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
