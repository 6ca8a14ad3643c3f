"""Modules under ``torch.compile``."""

import sys
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


def eagerly() -> AbstractContextManager[Any]:
    """A context in which code compiled by ``torch.compile`` is not used, and nothing is compiled.

    Compiled code would not notice that a module's forward is temporarily replaced; and compiling for the probes' batch
    size would replace the code that training uses by code with dynamic shapes.
    """
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's own forward pass is compiled, by any way of requesting it."""
    # slow to import, and already imported if anything was compiled
    dynamo = sys.modules.get("torch._dynamo")
    by_wrapping = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    by_method = getattr(module, "_compiled_call_impl", None) is not None
    # an attribute that Lightning sets on a compiled LightningModule
    by_lightning = getattr(module, "_compiler_ctx", None) is not None
    return by_wrapping or by_method or by_lightning
