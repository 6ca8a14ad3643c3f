import copy
import weakref
from functools import partial

import pytest
import torch

from lightning_dga import MixtureDataModule
from lightning_dga.alignment import EstimatorRefusal, FiniteDifference, Measurement, ProbeLoss, find_loss
from lightning_dga.alignment.target import target_gradient
from lightning_dga.models import GPT
from tests.alignment.reference import alignments as reference
from tests.toys import Plain, mixture


def mean_loss(module, batch):
    return module.loss(batch)


def sample_losses(module, batch):
    return ((module.layers(batch[0]) - batch[1]) ** 2).squeeze(1)


def measurement(model, data, loss=mean_loss, size=3, update=0, **settings):
    loss = ProbeLoss(model.eval(), loss, **settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Measurement(model, loss, parameters, data.probes(update, size), len(data.domain_names), step=1)


def relative_error(found, expected):
    scale = max(expected.abs().max().item(), found.target_norm**2)
    return ((found.values - expected).abs().max() / scale).item()


@pytest.mark.parametrize("loss", [mean_loss, sample_losses])
@pytest.mark.parametrize("norm", [False, True])
def test_it_equals_the_float64_reference_to_a_thousandth(loss, norm):
    model, data = Plain(norm=norm, dropout=0.5), mixture(k=7)
    estimator = FiniteDifference()
    for update in range(3):
        found = estimator.measure(measurement(model, data, loss, update=update))
        expected = reference(model, Plain.loss, data, update, 3, 7)
        assert relative_error(found, expected) < 1e-3
        assert found.counts.tolist() == [3] * 7
        with torch.no_grad():
            losses = [model.loss(probe.batch).item() for probe in data.probes(update, 3).by_domain()]
        torch.testing.assert_close(found.losses, torch.tensor(losses).double(), rtol=1e-3, atol=1e-5)


def test_in_double_precision_it_is_closer():
    model, data = Plain().double(), mixture()

    def loss(module, batch):
        return ((module.layers(batch[0].double()) - batch[1].double()) ** 2).squeeze(1)

    found = FiniteDifference().measure(measurement(model, data, loss))
    assert relative_error(found, reference(model, Plain.loss, data, 0, 3, 3)) < 1e-6


def test_parameters_are_set_back_to_the_bit():
    model, data = Plain(), mixture()
    before = copy.deepcopy(model.state_dict())
    FiniteDifference().measure(measurement(model, data))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_they_are_set_back_after_an_error_too():
    model, data, calls = Plain(), mixture(), []

    def loss(module, batch):
        calls.append(1)
        if len(calls) == 12:
            raise RuntimeError("out of memory")
        return module.loss(batch)

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="out of memory"):
        FiniteDifference().measure(measurement(model, data, loss))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_both_ends_draw_the_same_random_numbers():
    model, data = Plain(), mixture()

    def loss(module, batch):
        return sample_losses(module, batch) + torch.rand(len(batch[0]))

    found = FiniteDifference().measure(measurement(model, data, loss))
    assert relative_error(found, reference(model, Plain.loss, data, 0, 3, 3)) < 1e-3


def test_half_precision_parameters_are_refused():
    model = Plain().bfloat16()
    with pytest.raises(EstimatorRefusal, match=r"parameters are torch\.bfloat16.*Use `estimator='backward'`"):
        FiniteDifference().measure(measurement(model, mixture()))


def gpt():
    """A GPT that has learned a little, and token sequences to go on with."""
    model = GPT(64, 16, d_model=32, num_layers=1)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 64, (4, 24, 17), generator=generator) // torch.arange(1, 5).view(4, 1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        model.alignment_loss(tokens[0]).mean().backward()
        optimizer.step()
    return model, tokens


def test_where_rounding_is_all_that_is_left_it_refuses():
    model, tokens = gpt()
    data = MixtureDataModule({str(i): tokens[i] for i in range(1, 4)}, tokens[0], batch_size=8)
    bfloat16 = partial(torch.autocast, "cpu", torch.bfloat16)
    with pytest.raises(EstimatorRefusal, match="neighbouring steps differ by"):
        FiniteDifference().measure(measurement(model, data, find_loss(model), forward_context=bfloat16))


def test_autocast_does_not_keep_the_weights_of_before_the_step():
    """Without clearing its cache, both ends of a difference would be taken at one place, and all alignments be 0."""
    model, data = Plain(), mixture()
    estimator = FiniteDifference()
    # a step that shows through bfloat16, and no check of it
    estimator._step, estimator._measurements = 3e-2, 1
    with torch.autocast("cpu", torch.bfloat16):
        found = estimator.measure(measurement(model, data, sample_losses))
    assert relative_error(found, reference(model, Plain.loss, data, 0, 3, 3)) < 0.1


def test_the_step_is_chosen_again_when_it_no_longer_fits():
    model, data = Plain(), mixture()
    estimator = FiniteDifference()
    estimator.measure(measurement(model, data))
    estimator._step, estimator._measurements = 1e3, 10
    found = estimator.measure(measurement(model, data))
    assert estimator._step < 1
    assert relative_error(found, reference(model, Plain.loss, data, 0, 3, 3)) < 1e-3


def test_only_one_gradient_is_held_while_steps_are_tried(monkeypatch):
    held = []

    def taken(measurement):
        assert not any(reference() is not None for reference in held)
        target = target_gradient(measurement)
        held.append(weakref.ref(target.gradient))
        return target

    monkeypatch.setattr("lightning_dga.alignment.finite_difference.target_gradient", taken)
    FiniteDifference().measure(measurement(Plain(), mixture()))
    assert len(held) > 10
