"""Options of the callback that change what is measured, and what it says and logs."""

import csv
import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from lightning_dga import DynamicGradientAlignment
from tests.helpers.reference import Compare, gradient
from tests.helpers.toys import BySample, Plain, mixture, trainer


def parts(trainer, module, size=3):
    """The reference's target gradient and those of the domains, ``[P]`` and ``[k, P]``."""
    probes = trainer.datamodule.probes(trainer.global_step // 2 - 1, size)
    target = gradient(module, Plain.loss, [(len(p.domains), p.batch) for p in probes.target()])
    domains = [gradient(module, Plain.loss, [(1, probe.batch)]) for probe in probes.by_domain()]
    return target, torch.stack(domains)


@pytest.mark.parametrize("estimator", ["backward", "batched", "finite_difference"])
def test_alignments_over_some_of_the_parameters(estimator):
    callback = DynamicGradientAlignment(
        2, estimator=estimator, parameters=r"^layers\.0", probe_batch_size=3, rule="static"
    )
    first = 4 * 8 + 8

    def product(trainer, module):
        target, domains = parts(trainer, module)
        return domains[:, :first] @ target[:first]

    compare = Compare(callback, product)
    trainer(callback, compare, max_steps=4).fit(BySample(), datamodule=mixture())
    found, expected = compare.pairs[-1]
    torch.testing.assert_close(found.values, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", ["backward", "batched", "finite_difference"])
def test_alignments_of_the_optimizers_own_step(estimator):
    def preconditioned(trainer, module):
        (optimizer,), (target, domains) = trainer.optimizers, parts(trainer, module)
        diagonals = []
        for parameter in module.parameters():
            state = optimizer.state[parameter]
            corrected = state["exp_avg_sq"].double() / (1 - 0.999 ** float(state["step"]))
            diagonals.append((1 / (corrected.sqrt() + 1e-8)).flatten())
        diagonal = torch.cat(diagonals)
        self_product = (target * diagonal) @ target
        return domains @ (diagonal * target), self_product

    callback = DynamicGradientAlignment(
        2, estimator=estimator, preconditioner="adam", probe_batch_size=3, rule="static"
    )
    compare = Compare(callback, preconditioned)
    trainer(callback, compare, max_steps=4).fit(BySample(), datamodule=mixture())
    found, (expected, self_product) = compare.pairs[-1]
    torch.testing.assert_close(found.values, expected, rtol=2e-3, atol=1e-3)
    assert found.target_norm**2 == pytest.approx(self_product.item(), rel=1e-4)


def test_the_rule_sees_the_average_and_the_callback_shows_the_products():
    seen = []

    class Note:
        def start(self, names, weights, exposure):
            return weights, {}

        def update(self, weights, alignments, state, exposure):
            seen.append(alignments.values)
            return weights, {}

    callback = DynamicGradientAlignment(1, estimator="backward", rule=Note(), alignment_ema=0.5)
    measured = []

    class Measured(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found = callback.alignments
            measured.append(found.values / found.target_norm**2)

    trainer(callback, Measured(), max_steps=2).fit(Plain(), datamodule=mixture())
    norm = callback.alignments.target_norm**2
    torch.testing.assert_close(seen[0] / seen[0].norm(), measured[0] / measured[0].norm())
    torch.testing.assert_close(seen[1] / norm, (0.5 * measured[0] + measured[1]) / 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preconditioner": "sgd"}, "`preconditioner` must be 'adam' or None, got 'sgd'"),
        ({"alignment_ema": 0.0}, r"`alignment_ema` must be in \(0, 1\], got 0.0"),
        ({"parameters": "("}, r"`parameters` '\(' is not a regular expression"),
        ({"max_age": 0}, "`max_age` must be a positive integer, got 0"),
        ({"estimator": "best"}, "`estimator` 'best' is unknown; choose one of auto, backward, batched"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicGradientAlignment(**arguments)


def test_a_pattern_that_no_parameter_matches_is_named():
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    with pytest.raises(MisconfigurationException, match=r"`parameters` 'lora_' matches none of the trainable"):
        trainer(DynamicGradientAlignment(parameters="lora_")).fit(Plain(), datamodule=mixture())


def test_it_says_what_it_will_cost_before_training(caplog):
    callback = DynamicGradientAlignment(10, estimator="backward", probe_batch_size=2)
    with caplog.at_level(logging.INFO):
        trainer(callback, max_steps=1).fit(Plain(), datamodule=mixture())
    # 3 domains x 2 + 6 target samples beside 10 steps of 4
    assert (
        "Aligning 3 domains every 10 steps by `backward`: 6 probe and 6 target samples beside 40 training samples, "
        "about 30.00% more work." in caplog.text
    )


def test_auto_says_once_what_it_chose_and_why(caplog):
    callback = DynamicGradientAlignment(1)
    with caplog.at_level(logging.INFO):
        trainer(callback, max_steps=3).fit(Plain(), datamodule=mixture())
    assert caplog.text.count("Alignments will be measured by `") == 1
    assert "batched: Plain gives only the mean loss of a batch. Define `alignment_loss(batch)`" in caplog.text


def test_signal_to_noise_is_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    callback = DynamicGradientAlignment(1, estimator="backward")
    trainer(callback, max_steps=4, logger=logger, log_every_n_steps=1).fit(Plain(), datamodule=mixture())
    header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "dga/signal_to_noise/domain0" in header


def test_how_long_older_weights_stayed_in_force_is_logged(tmp_path):
    logger = CSVLogger(tmp_path, version="")
    callback = DynamicGradientAlignment(every_n_steps=4, estimator="backward", probe_batch_size=2)
    trainer(callback, max_steps=12, logger=logger).fit(Plain(), datamodule=mixture(max_staleness=2))
    logger.save()
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        logged = [row["dga/staleness"] for row in csv.DictReader(file) if row["dga/staleness"]]
    assert [float(value) for value in logged] == [0, 2, 2]
