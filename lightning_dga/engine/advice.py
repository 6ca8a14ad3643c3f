"""Warnings about settings that cannot work well, each with a remedy."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting import traits

# fraction of the run's updates; a mixture with a larger lag trails the alignments for too much of the run
_LARGEST_LAG = 0.15
_NEARLY_ALL = 0.99
# repeated data is worth little after some fifteen passes (arXiv 2305.16264)
_MANY_EPOCHS = 30
_ENOUGH_UPDATES = 20
# the noise can be estimated from the second measurement on
_FEWEST_UPDATES = 5
_NOISE = 2.0


class Advice(NamedTuple):
    """A message with its subject; the caller shows one message per subject."""

    subject: str
    message: str


def before_training(rule: Any, every_n_steps: int | str, updates: float | None) -> Iterator[Advice]:
    """Advice on the settings of a run, before training starts.

    Args:
        rule: The rule.
        every_n_steps: Reweighting period in training steps, or ``"auto"``.
        updates: Number of updates in the rest of the run; ``None`` if not known.
    """
    if updates is None or not traits(rule).moves:
        return
    remedy = "Raise `max_overhead`, or give `every_n_steps`" if every_n_steps == "auto" else "Lower `every_n_steps`"
    if updates < _FEWEST_UPDATES:
        yield Advice(
            "updates",
            f"The run aligns {updates:.0f} times: with `every_n_steps` {every_n_steps} the mixture hardly moves "
            f"before it ends. {remedy}.",
        )
    elif (lag := traits(rule).lag) > _LARGEST_LAG * updates:
        yield Advice(
            "lag",
            f"The mixture lags {lag:,.0f} of {updates:,.0f} updates behind the alignments (`every_n_steps` "
            f"{every_n_steps}), so it cannot move in time. {remedy}, or raise the rule's `ema`.",
        )


def in_training(names: Sequence[str], weights: Tensor, exposure: DataBudget, *, moving: bool) -> Iterator[Advice]:
    """Advice on the mixture during training.

    Args:
        names: The domain names.
        weights: Their weights, ``[k]``.
        exposure: The data budget: samples drawn from each domain so far.
        moving: Whether the rule moves the weights without limiting repetition itself.
    """
    epochs = exposure.epochs
    top, most = int(weights.argmax()), int(epochs.argmax())
    if moving and len(names) > 1 and weights[top] > _NEARLY_ALL and epochs[top] > 1:
        yield Advice(
            "one-hot",
            f"Domain {names[top]!r} has {weights[top]:.1%} of the mixture and is being repeated. If this is not "
            "intended, use `rule='dga'`, which limits repetition, or a smaller `step_size`.",
        )
    if epochs[most] > _MANY_EPOCHS:
        yield Advice(
            "epochs",
            f"Domain {names[most]!r} has been trained on for {epochs[most]:.0f} epochs, and is probably "
            "memorised. Give it more data, train for fewer steps, or use `rule='dga'` with fewer `epochs`.",
        )


def on_noise(signal_to_noise: Tensor | None, updates: int) -> Iterator[Advice]:
    """Advice on noisy alignments.

    Args:
        signal_to_noise: Signal-to-noise ratio of each domain's averaged alignment, ``[k]``.
        updates: Number of measurements so far.
    """
    if signal_to_noise is None or updates < _ENOUGH_UPDATES:
        return
    largest = signal_to_noise.nan_to_num(0.0).max().item()
    if largest < _NOISE:
        yield Advice(
            "noise",
            f"After {updates} measurements no alignment exceeds its noise (signal-to-noise ratio {largest:.1f} "
            "at most). Raise `probe_batch_size` and the data module's `target_batch_size`; if that changes nothing, "
            "probably no domain suits the target better than the others.",
        )
