"""What an update moves between processes, counted as it runs: python benchmarks/scaling.py [--quick] [--json FILE].

Counts the elements of all tensors that go through collectives while a mixture is updated, on 2 and 4 processes of this
machine, DDP and FSDP2, for some numbers of domains; and compares with `lightning_dga.alignment.cost`, by which
 larger runs are planned. In a network namespace of its own it also reads how many bytes went over the wire:
unshare --net sh -c 'ip link set lo up; python benchmarks/scaling.py'.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.multiprocessing
from common.result import write
from common.workload import Size, Tokens
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.alignment import Cost

SIZE = Size(128, 4, 1024, 32)
PROBES, TARGET, LOCAL = 2, 8, 4
QUICK = [("ddp", 2, 16, "backward"), ("fsdp2", 2, 16, "finite_difference")]
FULL = [
    *(("ddp", 2, k, "backward") for k in (4, 64, 512)),
    *(("ddp", 4, k, "backward") for k in (4, 64, 256)),
    *(("ddp", ranks, 16, name) for ranks in (2, 4) for name in ("in_step", "batched", "finite_difference")),
    *(("fsdp2", ranks, k, "in_step") for ranks in (2, 4) for k in (16, 256)),
    *(("fsdp2", ranks, 16, name) for ranks in (2, 4) for name in ("backward", "batched", "finite_difference")),
]


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that collectives sum, gather or scatter: of each the whole tensor, once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.namespace == "c10d" or function.__name__.startswith("all_gather_into_tensor"):
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
            # a gathered tensor is the output, a scattered one the input: the larger of the two
            self.bytes += max((one.numel() * one.element_size() for one in tensors), default=0)
        return result


class Counter(L.Callback):
    """Counts what an update moves, in the callback that it is put around and in backward passes of training."""

    def __init__(self, inner: DynamicGradientAlignment) -> None:
        self.inner, self.counted, self.backward = inner, [], []
        inner_update, inner_begin = inner.on_train_batch_end, inner.on_train_batch_start
        inner.on_train_batch_end = lambda *a, **k: self.count(inner_update, *a, **k)  # type: ignore[method-assign]
        inner.on_train_batch_start = lambda *a, **k: self.count(inner_begin, *a, **k)  # type: ignore[method-assign]

    def on_before_backward(self, *_: Any) -> None:
        self.wire_before = sent() if own_network() else 0
        self.traffic = Traffic().__enter__()

    def on_after_backward(self, *_: Any) -> None:
        self.traffic.__exit__(None, None, None)
        if own_network():
            dist.barrier()
        self.backward.append((self.traffic.bytes, (sent() - self.wire_before) if own_network() else 0))

    def count(self, function: Any, trainer: Any, *arguments: Any, **settings: Any) -> None:
        before = sent() if own_network() else 0
        with Traffic() as traffic:
            function(trainer, *arguments, **settings)
        if own_network():
            dist.barrier()
        self.counted.append((trainer.global_step, traffic.bytes, (sent() - before) if own_network() else None))


def own_network() -> bool:
    """Whether nobody else uses this network: it has a loopback and nothing else."""
    return list(interfaces()) == ["lo"]


def sent() -> int:
    """Bytes that went over the loopback so far."""
    return interfaces()["lo"]


def interfaces() -> dict[str, int]:
    """Bytes sent by each network interface."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    return {name.strip(): int(numbers.split()[8]) for name, _, numbers in (line.partition(":") for line in lines)}


def one(rank: int, ranks: int, folder: str, strategy: str, domains: int, estimator: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "benchmark"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    L.seed_everything(0, verbose=False)
    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=PROBES, max_age=10**6)
    counter = Counter(callback)
    data = Tokens(SIZE, domains, 8, seed=0)
    datamodule = MixtureDataModule.from_labels(
        data, data.labels, Tokens(SIZE, 1, 16, seed=1), batch_size=LOCAL, target_batch_size=TARGET
    )
    how = {"ddp": "ddp", "fsdp2": ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1)}[strategy]
    trainer = L.Trainer(
        accelerator="cpu", devices=ranks, strategy=how, callbacks=[callback, counter], max_steps=4, max_epochs=-1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = SIZE.model()
    parameters = sum(p.numel() for p in model.parameters())
    trainer.fit(model, datamodule=datamodule)
    if rank == 0:
        used = callback.state_dict()["estimator"]
        result = {"counted": counter.counted, "backward": counter.backward, "parameters": parameters, "used": used}
        torch.save(result, f"{folder}/result")
    dist.barrier()
    dist.destroy_process_group()


def measure(strategy: str, ranks: int, domains: int, estimator: str) -> list[dict[str, Any]]:
    """Rows of one configuration: what the second update moved; the first also settles how to measure."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, folder, strategy, domains, estimator)
        torch.multiprocessing.start_processes(one, arguments, ranks, start_method="fork")
        result = torch.load(f"{folder}/result")
    # the two steps from one update to the next
    last = result["counted"][-4:]
    # the backward pass of a step that is watched moves more than that of the step before, which is not
    other, watched = result["backward"][-2:]
    moved = sum(bytes_ for _, bytes_, _ in last) + watched[0] - other[0]
    cost = Cost(
        domains, 2, LOCAL * ranks, PROBES, TARGET, result["used"], processes=ranks, sharded=strategy == "fsdp2",
        parameters=result["parameters"], local_batch_size=LOCAL,
    )  # fmt: skip
    # one that refuses is replaced by the reference
    name = estimator if estimator == result["used"] else f"{estimator}, refused: {result['used']}"
    settings = {"strategy": strategy, "ranks": ranks, "k": domains, "estimator": name, "P": cost.parameters}
    gradient = 4 * cost.parameters
    row = {"measure": "bytes", **settings, "value": moved / gradient, "unit": "P", "spread": None}
    rows = [{**row, "planned": cost.update_bytes / gradient}]
    if last[0][2] is not None:
        over_wire = (sum(wire for _, _, wire in last) + watched[1] - other[1]) / ranks
        row = {"measure": "wire", **settings, "value": over_wire / gradient, "unit": "P", "spread": None}
        rows.append({**row, "planned": cost.sent(cost.update_bytes) / gradient})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two configurations")
    parser.add_argument("--json", type=Path, help="where the rows go")
    options = parser.parse_args()
    rows = []
    print(f"{'measure':8} {'strategy':8} {'ranks':>5} {'k':>5} {'estimator':36} {'P':>9} {'counted':>9} {'planned':>9}")
    for configuration in QUICK if options.quick else FULL:
        for row in measure(*configuration):
            rows.append(row)
            print(
                f"{row['measure']:8} {row['strategy']:8} {row['ranks']:5} {row['k']:5} {row['estimator']:36} "
                f"{row['P']:9,} {row['value']:9.3f} {row['planned']:9.3f}",
                flush=True,
            )
    if options.json:
        command = "python benchmarks/scaling.py"
        write(options.json, f"unshare --net sh -c 'ip link set lo up; {command}'" if own_network() else command, rows)


if __name__ == "__main__":
    main()
