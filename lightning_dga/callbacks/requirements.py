"""What a run needs for its mixture to be aligned, checked before training starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_dga._lightning import MisconfigurationException
from lightning_dga.alignment import Auto, LossFunction, StepEstimator, uses_training_step
from lightning_dga.engine.errors import ConfigurationError
from lightning_dga.engine.protocols import Mixture


@contextmanager
def misconfigurations() -> Iterator[None]:
    """Raises the engine's refusals as Lightning's own."""
    try:
        yield
    except ConfigurationError as error:
        raise MisconfigurationException(str(error)) from error


def check_mixture(trainer: Any) -> Mixture:
    """The data module of a run, which has to be a mixture whose weights can be set."""
    datamodule = trainer.datamodule
    if not isinstance(datamodule, Mixture):
        what = "no data module" if datamodule is None else f"a {type(datamodule).__name__}"
        raise MisconfigurationException(
            f"DynamicGradientAlignment needs a data module whose weights it can set, but the Trainer has {what}. "
            "Call `trainer.fit(model, datamodule=MixtureDataModule(...))`."
        )
    return datamodule


def check_iterator_step(pl_module: Any, loss: LossFunction, estimator: Any) -> None:
    """Refuses what needs the batch of a step before the step, where ``training_step`` fetches it itself."""
    step = f"The `training_step` of {type(pl_module).__name__} takes a `dataloader_iter`"
    if uses_training_step(loss):
        raise MisconfigurationException(
            f"{step}, so it cannot measure the loss of a probe batch. Define `alignment_loss(batch)` on it, or give "
            "the callback `loss_fn(pl_module, batch)`."
        )
    if isinstance(estimator, Auto | StepEstimator):
        raise MisconfigurationException(
            f"{step}, so its batch cannot be watched. Give the callback an estimator that probes: "
            "`estimator='batched'`, `'backward'` or `'finite_difference'`."
        )


def check_strategy(trainer: Any) -> None:
    """Refuses strategies that distribute a model in a way that alignments do not account for."""
    strategy = trainer.strategy
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    if not kinds & {"SingleDeviceStrategy", "DDPStrategy", "SingleDeviceXLAStrategy", "ModelParallelStrategy"}:
        raise MisconfigurationException(
            f"DynamicGradientAlignment does not support {type(strategy).__name__}: alignments do not account for "
            "how it distributes a model. Use one device, `strategy='ddp'`, or `ModelParallelStrategy` with "
            "`fully_shard` (FSDP2) in `configure_model`."
        )
    if "ModelParallelStrategy" in kinds and strategy.device_mesh["tensor_parallel"].size() > 1:
        raise MisconfigurationException(
            "DynamicGradientAlignment does not support tensor-parallel parameters. Use "
            "`ModelParallelStrategy(data_parallel_size='auto', tensor_parallel_size=1)` with as many data-parallel "
            "ranks as there are devices."
        )
