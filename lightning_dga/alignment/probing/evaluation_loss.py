"""Checks before training starts that there is a loss that probes can measure."""

from typing import Any

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.alignment.probing.loss import ProbeLoss
from lightning_dga.alignment.probing.modes import training
from lightning_dga.alignment.probing.snapshots import StateChangedError
from lightning_dga.alignment.probing.writes import Writes, undo_writes, unseen


class NoEvaluationLossError(Exception):
    """The loss is available in training mode only; the message says so, and what to do about it."""


def check_evaluation_loss(measurement: Measurement, writes: Writes) -> None:
    """Measures one batch of the target, the same on every rank.

    Args:
        measurement: The measurement.
        writes: The object that undoes the loss function's in-place writes.

    Raises:
        NoEvaluationLossError: If there is a loss in training mode only, as with torchvision's detection models.
        StateChangedError: If the loss changes a parameter in a way that is not detected in time to be undone.
    """
    probe = next(iter(measurement.probes.whole().target()), None)
    if probe is None:
        return
    before = writes.checksums()
    try:
        found = _is_loss(measurement.loss, probe.batch)
    except StateChangedError:
        raise
    except Exception as error:
        if _has_loss_in_training(measurement, probe.batch):
            raise NoEvaluationLossError(_message(measurement, f"{type(error).__name__}: {error}")) from error
        raise
    undo_writes()
    changed = writes.differing(before)
    if changed:
        raise StateChangedError(unseen(changed[0]))
    if not found and _has_loss_in_training(measurement, probe.batch):
        raise NoEvaluationLossError(_message(measurement, "it returns none"))


def _is_loss(loss: ProbeLoss, batch: Any) -> bool:
    return loss(batch).requires_grad


def _has_loss_in_training(measurement: Measurement, batch: Any) -> bool:
    with training(measurement.module):
        try:
            return _is_loss(measurement.loss, batch)
        except StateChangedError:
            raise
        except Exception:  # any error means that there is no loss in this mode either
            return False
        finally:
            undo_writes()


def _message(measurement: Measurement, what: str) -> str:
    kind = type(measurement.module).__name__
    return (
        f"{kind} has no loss in evaluation mode, in which probes run so that dropout and batch normalisation do not "
        f"disturb them ({what}), but has one in training mode. Define `alignment_loss(batch)` on {kind}, or give the "
        "callback `loss_fn(pl_module, batch)`, that returns the loss in evaluation mode too; for a model that computes "
        "it only while training, call `.train()` on that model there: its mode is set back after the probes."
    )
