"""Compiled models run eagerly: compiled code would not see that a module's forward is another one."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from lightning_dga.alignment.estimator import EstimatorRefusal


def eagerly(module: nn.Module) -> AbstractContextManager[Any]:
    """A context in which nothing that ``torch.compile`` made is used.

    Raises:
        EstimatorRefusal: If the model is compiled, and this version of torch (before 2.6) cannot do so.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing was ever compiled; importing it takes seconds
    if hasattr(torch.compiler, "set_stance"):
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    if any(hasattr(child, "_orig_mod") or child._compiled_call_impl is not None for child in module.modules()):
        raise EstimatorRefusal(
            "the model is compiled, and torch before 2.6 cannot run it eagerly for a while. Upgrade torch, or use "
            '`estimator="backward"`.'
        )
    return nullcontext()
