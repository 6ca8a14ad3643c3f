"""A progress bar that shows the mixture."""

from typing import Any

from typing_extensions import override

from lightning_dga._lightning import TQDMProgressBar

_SHOWN = 3


class MixtureProgressBar(TQDMProgressBar):
    """Lightning's progress bar, which also shows the domains with the largest weights.

    Example::

        trainer = L.Trainer(callbacks=[DynamicGradientAlignment(), MixtureProgressBar()])
    """

    @override
    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        names = getattr(trainer.datamodule, "domain_names", None)
        if names is not None:
            largest = trainer.datamodule.weights.topk(min(_SHOWN, len(names)))
            shown = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
            metrics["mix"] = " ".join(f"{names[i]} {weight:.2f}" for i, weight in shown)
        return metrics
