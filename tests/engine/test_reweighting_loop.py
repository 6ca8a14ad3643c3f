"""The engine in a plain PyTorch loop: exact alignments, live weights and exact resume, without a Trainer."""

import gc
import pickle
import weakref

import pytest
import torch

from lightning_dga.engine.errors import ConfigurationError
from lightning_dga.engine.run_length import RunLength
from tests.helpers.plain_loop import PlainTraining, reweighting_loop, squared_error, train
from tests.helpers.toys import mixture

STEPS = 8


def gradient(module, batch):
    loss = squared_error(module, batch).mean()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))]).double()


def state_of(training, loop, data):
    model = {name: value.clone() for name, value in training.module.state_dict().items()}
    return pickle.loads(pickle.dumps({"model": model, "loop": loop.state_dict(), "data": data.state_dict()}))


@pytest.mark.parametrize("estimator", ["backward", "batched"])
def test_alignments_are_the_inner_products_of_the_gradients(estimator):
    data, loop, training = mixture(), reweighting_loop("static", estimator=estimator), PlainTraining(STEPS, 4)
    errors = []

    def compare():
        if training.steps % 2 == 0:
            probes = data.probes(loop.progress.updates - 1, 4).whole()
            target = torch.zeros(len(gradient(training.module, next(iter(probes.target())).batch)))
            for probe in probes.target():
                target = target + gradient(training.module, probe.batch) * len(probe.domains) / 6
            found = loop.progress.alignments.values
            for probe in probes.by_domain():
                expected = gradient(training.module, probe.batch) @ target
                errors.append(abs(found[probe.domains[0]] - expected) / expected.abs().clamp(min=1e-3))

    train(training, loop, data, STEPS, compare)
    assert len(errors) == STEPS // 2 * 3 and max(errors) < 1e-3


@pytest.mark.parametrize("estimator", ["auto", "in_step"])
def test_the_weights_move_while_the_model_trains(estimator):
    data, loop, training = mixture(), reweighting_loop(estimator=estimator), PlainTraining(40, 4)
    train(training, loop, data, 40)
    assert data.weights.argmax() == 1, "the target is of that domain"
    assert data.weights[1] > 0.5 and data.weights_version == loop.progress.weights_version > 5
    assert loop.progress.estimator == "in_step" or estimator == "auto"


@pytest.mark.parametrize("estimator", ["auto", "in_step"])
def test_a_resumed_run_is_the_same_to_the_bit(estimator):
    whole = PlainTraining(STEPS, 4), reweighting_loop(estimator=estimator), mixture()
    train(*whole, STEPS)

    half = PlainTraining(STEPS, 4), reweighting_loop(estimator=estimator), mixture()
    train(*half, STEPS // 2)
    saved = state_of(*half)

    rest = PlainTraining(STEPS, 4), reweighting_loop(estimator=estimator), mixture()
    training, loop, data = rest
    training.module.load_state_dict(saved["model"])
    loop.load_state_dict(saved["loop"])
    data.load_state_dict(saved["data"])
    training.steps = STEPS // 2
    train(*rest, STEPS)
    assert torch.equal(data.weights, whole[2].weights)
    assert torch.equal(loop.progress.alignments.values, whole[1].progress.alignments.values)
    for name, value in training.module.state_dict().items():
        assert torch.equal(value, whole[0].module.state_dict()[name]), name


def test_training_with_a_static_mixture_is_the_same_as_without_measurements():
    measured, bare = PlainTraining(STEPS, 4), PlainTraining(STEPS, 4)
    train(measured, reweighting_loop("static", every_n_steps=1), mixture(), STEPS)
    train(bare, reweighting_loop("static", every_n_steps=None), mixture(), STEPS)
    for name, value in measured.module.state_dict().items():
        assert torch.equal(value, bare.module.state_dict()[name]), name


def test_the_training_is_told_what_is_measured():
    training = PlainTraining(STEPS, 4)
    train(training, reweighting_loop(), mixture(), STEPS)
    assert any(message.startswith("Aligning 3 domains every 2 steps") for message in training.messages)


def test_nothing_holds_the_model_after_a_run():
    training, loop, data = PlainTraining(STEPS, 4), reweighting_loop(estimator="backward"), mixture()
    train(training, loop, data, STEPS)
    model = weakref.ref(training.module)
    del training
    gc.collect()
    assert model() is None


def test_what_cannot_be_aligned_is_refused():
    training = PlainTraining(STEPS, 4)
    training.module.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="has no trainable parameter"):
        reweighting_loop().start(training, mixture())
    with pytest.raises(ConfigurationError, match="`parameters` 'nothing' matches none"):
        train(PlainTraining(STEPS, 4), reweighting_loop(parameters="nothing"), mixture(), STEPS)


def test_a_strict_budget_is_told_for_a_run_of_unknown_length():
    training = PlainTraining(STEPS, 4)
    training.run_length = lambda period: RunLength(None, 0.0, False, period and 4.0 * period, 4.0 * training.steps)
    loop = reweighting_loop(every_n_steps="auto", estimator="backward")
    loop.min_updates = 0
    train(training, loop, mixture(), STEPS)
    assert any("less often later by `backward`" in message for message in training.messages)
    assert not any("in a run of" in message for message in training.messages)
