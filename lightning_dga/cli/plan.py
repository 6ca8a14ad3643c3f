"""``dga-train plan=true``: the expected cost of a run's alignments, computed before the run and on any machine."""

from dataclasses import replace
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_dga._lightning import MisconfigurationException
from lightning_dga.alignment.cost import Cost
from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
from lightning_dga.engine.schedule import BudgetedSchedule

# reference speeds for the predicted times; users scale them to their own machines
FLOPS, BANDWIDTH = 400e12, 25e9
_UNITS = ("B", "kB", "MB", "GB", "TB")


def plan(config: DictConfig) -> str:
    """A table of the costs of training and aligning per rank.

    Neither a process group nor memory for the model is needed: the model is created on the meta device.

    Args:
        config: A composed ``conf/train.yaml``.

    Raises:
        MisconfigurationException: If the config measures no alignments, or does not say how many devices there are.
    """
    made = [(node, instantiate(node)) for node in config.callbacks.values() if node is not None]
    aligning = [
        (callback, str(node.get("estimator", "auto")))
        for node, callback in made
        if isinstance(callback, DynamicGradientAlignment) and callback.every_n_steps
    ]
    if not aligning:
        raise MisconfigurationException("There is nothing to plan: `callbacks` has none that measures alignments.")
    devices = config.trainer.devices
    if not isinstance(devices, int) or devices < 1:
        raise MisconfigurationException(f"A plan needs the number of devices; `trainer.devices` is {devices!r}.")
    datamodule = instantiate(config.data)
    with torch.device("meta"):
        model = instantiate(config.model)
    return table(_cost(config, *aligning[0], datamodule, model))


def table(cost: Cost, flops: float = FLOPS, bandwidth: float = BANDWIDTH) -> str:
    """A cost, as text.

    Args:
        cost: The cost.
        flops: Floating-point operations per second and rank.
        bandwidth: Bytes that a rank sends per second.
    """
    training = cost.seconds(cost.training_work, cost.training_bytes, flops=flops, bandwidth=bandwidth)
    update = cost.seconds(cost.update_work, cost.update_bytes, flops=flops, bandwidth=bandwidth)
    rows = [
        ["per rank", f"{cost.period:,} steps", "one update", "share"],
        _row("samples passed", cost.training_work, cost.update_work, "{:,.1f}".format),
        _row("sent", cost.sent(cost.training_bytes), cost.sent(cost.update_bytes), size),
        _row("time", training, update, "{:.4g} s".format),
        ["more memory", "", size(cost.memory), ""],
        ["more in a checkpoint", "", size(cost.state_bytes), ""],
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    shards = "in shards" if cost.sharded else "on each"
    head = (
        f"{cost.processes:,} ranks, {cost.parameters:,} parameters {shards}, {cost.domains:,} domains, "
        f"an update by `{cost.estimator}` every {cost.period:,} steps"
    )
    assumed = f"time: at {flops / 1e12:,.0f} TFLOP/s and {bandwidth / 1e9:,.0f} GB/s, with nothing overlapped"
    return "\n".join([head, "", *lines, "", assumed])


def size(count: float) -> str:
    """A number of bytes in human-readable form."""
    power = 0
    while count >= 999.5 and power + 1 < len(_UNITS):
        count, power = count / 1000, power + 1
    return f"{count:,.3g} {_UNITS[power]}"


def _row(name: str, training: float, update: float, shown: Any) -> list[str]:
    share = f"{update / training:.2%}" if training else ""
    return [name, shown(training), shown(update), share]


def _cost(
    config: DictConfig, callback: DynamicGradientAlignment, estimator: str, datamodule: Any, model: torch.nn.Module
) -> Cost:
    trainer = config.trainer
    processes = trainer.devices * trainer.num_nodes
    sharded = "ModelParallelStrategy" in str(trainer.get("strategy", ""))
    domains = len(datamodule.domain_names)
    batch_size = datamodule.batch_size * processes * trainer.accumulate_grad_batches
    if estimator == "auto":
        # what it chooses for a model whose steps can be watched, and whose layers can be seen sample by sample
        watched = batch_size >= domains * callback.probe_batch_size
        estimator = "in_step" if watched else "batched"
    period = callback.every_n_steps
    cost = Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        domains=domains,
        processes=processes,
        period=period if isinstance(period, int) else 1,
        batch_size=batch_size,
        probe_batch_size=callback.probe_batch_size,
        target_batch_size=datamodule.target_batch_size,
        local_batch_size=datamodule.batch_size,
        estimator=estimator,
        pure=datamodule.pure_batches,
        targets=len(datamodule.target_names),
        sharded=sharded,
        tokens_per_sample=datamodule.tokens_per_sample or 1,
    )
    if isinstance(period, int):
        return cost
    length = trainer.max_steps if trainer.get("max_steps", -1) > 0 else None
    schedule = BudgetedSchedule(
        callback.max_overhead, max(cost.share / callback.max_overhead, 1.0), callback.min_updates, length=length
    )
    return replace(cost, period=round(length / schedule.updates(0, length) if length else schedule.period))
