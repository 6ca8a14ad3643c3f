"""The diagonal preconditioner of an adaptive optimizer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dga.alignment.estimator import Preconditioner


def adam_preconditioner(optimizers: Iterable[Optimizer]) -> Preconditioner:
    """The diagonal ``1 / (sqrt(v) + eps)`` by which Adam and AdamW (arXiv 1412.6980, 1711.05101) scale a gradient.

    To first order, an AdamW step changes the target loss by the inner product of its direction with the target
    gradient; with this diagonal an alignment is that of such a step without momentum, as in LESS (arXiv 2402.04333).
    The diagonal is the same for all domains and is computed for one parameter at a time.

    Args:
        optimizers: The optimizers that train the parameters.

    Returns:
        The preconditioner; it returns ``None`` for a parameter without second moments in any optimizer yet.
    """
    settings = {
        id(parameter): (optimizer, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    def diagonal(parameter: nn.Parameter) -> Tensor | None:
        optimizer, group = settings.get(id(parameter), (None, {}))
        state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
        if "exp_avg_sq" not in state:
            return None
        moment: Tensor = state["exp_avg_sq"]
        # Adam's bias correction of the second moment
        corrected = moment / (1 - group["betas"][1] ** torch.as_tensor(state["step"], device=moment.device))
        return corrected.sqrt_().add_(group["eps"]).reciprocal_()

    return diagonal
