"""Modules under ``torch.compile``."""

from torch import nn
from torch._dynamo import OptimizedModule


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's own forward pass is compiled, in any of the ways to ask for it."""
    by_wrapping = isinstance(module, OptimizedModule)
    by_method = getattr(module, "_compiled_call_impl", None) is not None
    # what Lightning leaves on a LightningModule that was compiled
    by_lightning = getattr(module, "_compiler_ctx", None) is not None
    return by_wrapping or by_method or by_lightning
