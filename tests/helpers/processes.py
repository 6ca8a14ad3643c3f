"""Runs a function in several processes that train together; forked, it takes half a second."""

import os
import tempfile
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing


def together(function, processes, *arguments):
    """``function(*arguments)`` in each of some processes; what each returns, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _one, (processes, Path(folder), function, arguments), processes, start_method="fork"
        )
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(processes)]


def _one(rank, processes, folder, function, arguments):
    # as torchrun tells it to Lightning; they meet at a file, where a port might be taken by then
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "TORCHELASTIC_RUN_ID": "test",
    }
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.manual_seed(0)
    torch.save(function(*arguments), folder / str(rank))
    dist.barrier()
    dist.destroy_process_group()
