"""Out of memory in a probe on one rank is an error on all ranks, so that all retry with smaller batches."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lightning_dga.alignment import EstimatorRefusal
from lightning_dga.distributed import failing_together, known_to_all


class ProbeMemoryError(RuntimeError):
    """A probe did not fit into memory on this rank or on another."""


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Makes all ranks raise the same error if the estimator refuses, or memory runs out, on any rank."""
    with failing_together(device, (EstimatorRefusal, ProbeMemoryError)):
        try:
            yield
        except Exception as error:
            if known_to_all(error) or isinstance(error, ProbeMemoryError) or not _is_of_memory(error):
                raise
            raise ProbeMemoryError(str(error)) from error


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
