"""Every collective of the package.

With W data-parallel processes an update moves P + k numbers: one sum of the target gradient, after which
``<mean_r g_i^r, G> = mean_r <g_i^r, G>`` lets each process take its dots locally, and one packed sum of the k results.
Averaging the dots with each process's own target gradient instead is a different, wrong quantity.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes_(tensor: Tensor) -> Tensor:
    """Sums a tensor over all processes, in place; every process must call it, with the same shape."""
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def from_first_process(tensor: Tensor, device: torch.device) -> Tensor:
    """The first process's copy of a small CPU tensor, so that all hold bit-identical values whatever their hardware."""
    if not is_distributed():
        return tensor
    shared = tensor.to(device)
    dist.broadcast(shared, src=0)
    return shared.to(tensor.device)


def leave_together() -> None:
    """Ends the process group when all processes are done with it; one that just exits can abort the others."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
