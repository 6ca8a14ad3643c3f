"""``dga-train plan=true``: the expected cost of a run's alignments, computed before the run and on any machine."""

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_dga._lightning import MisconfigurationException
from lightning_dga.alignment import SAMPLE_COST
from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
from lightning_dga.cli.plan_costs import Job

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
    return table(_job(config, *aligning[0], datamodule, model))


def table(job: Job, flops: float = FLOPS, bandwidth: float = BANDWIDTH) -> str:
    """The plan of a job, as text.

    Args:
        job: The job.
        flops: Floating-point operations per second and rank.
        bandwidth: Bytes that a rank sends per second.
    """
    training = job.seconds(job.training_samples, job.training_bytes, flops=flops, bandwidth=bandwidth)
    update = job.seconds(job.update_samples, job.update_bytes, flops=flops, bandwidth=bandwidth)
    rows = [
        ["of each process", f"{job.period:,} steps", "one update", "share"],
        _row("samples passed", job.training_samples, job.update_samples, "{:,.1f}".format),
        _row("sent", job.wire(job.training_bytes), job.wire(job.update_bytes), size),
        _row("time", training, update, "{:.4g} s".format),
        ["more memory", "", size(job.memory), ""],
        ["more in a checkpoint", "", size(job.state), ""],
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    shards = "in shards" if job.sharded else "on each"
    head = (
        f"{job.processes:,} processes, {job.parameters:,} parameters {shards}, {job.domains:,} domains, "
        f"an update by `{job.estimator}` every {job.period:,} steps"
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


def _job(
    config: DictConfig, callback: DynamicGradientAlignment, estimator: str, datamodule: Any, model: torch.nn.Module
) -> Job:
    trainer = config.trainer
    processes = trainer.devices * trainer.num_nodes
    sharded = "ModelParallelStrategy" in str(trainer.get("strategy", ""))
    return Job(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        domains=len(datamodule.domain_names),
        processes=processes,
        period=callback.every_n_steps or 1,
        batch_size=datamodule.batch_size * processes * trainer.accumulate_grad_batches,
        probe_batch_size=callback.probe_batch_size,
        target_batch_size=datamodule.target_batch_size,
        local_batch_size=datamodule.batch_size,
        # the most expensive estimator that `auto` may choose
        estimator=estimator if estimator in SAMPLE_COST else "backward",
        sharded=sharded,
        tokens_per_sample=getattr(datamodule, "tokens_per_sample", 1),
    )
