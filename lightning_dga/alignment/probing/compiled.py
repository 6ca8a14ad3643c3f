"""Modules under ``torch.compile``."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule


def eagerly() -> AbstractContextManager[Any]:
    """A context in which nothing that ``torch.compile`` made is used, and nothing is compiled.

    Compiled code would not see that a module's forward is another one for a while; and compiling a probe's batch size
    would replace the code that training runs through by one for any size.
    """
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's own forward pass is compiled, in any of the ways to ask for it."""
    by_wrapping = isinstance(module, OptimizedModule)
    by_method = getattr(module, "_compiled_call_impl", None) is not None
    # what Lightning leaves on a LightningModule that was compiled
    by_lightning = getattr(module, "_compiler_ctx", None) is not None
    return by_wrapping or by_method or by_lightning
