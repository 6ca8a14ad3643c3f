import copy
import weakref
from functools import partial

import pytest
import torch
from torch import nn

from lightning_dga import MixtureDataModule
from lightning_dga.alignment import EstimatorRefusal, FiniteDifference, InexactError, Measurement, ProbeLoss, find_loss
from lightning_dga.alignment.estimators import finite_difference
from lightning_dga.alignment.estimators.backward import add_domains
from lightning_dga.alignment.gradients.target import target_gradient
from lightning_dga.models import GPT
from tests.helpers.reference import alignments as reference
from tests.helpers.toys import Plain, mixture

pytestmark = pytest.mark.numerics


def mean_loss(module, batch):
    return module.loss(batch)


def sample_losses(module, batch):
    return ((module.layers(batch[0]) - batch[1]) ** 2).squeeze(1)


def measurement(model, data, loss=mean_loss, size=3, update=0, **settings):
    loss = ProbeLoss(model.eval(), loss, **settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Measurement(model, loss, parameters, data.probes(update, size), len(data.domain_names), step=1)


def relative_error(found, expected):
    return ((found.values - expected).norm() / expected.norm()).item()


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
        torch.testing.assert_close(found.losses, torch.tensor(losses).double(), rtol=1e-4, atol=1e-6)


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
    """A slightly trained GPT, and token sequences to continue training with."""
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
    estimator = FiniteDifference()
    with pytest.raises(InexactError, match=r"may be off by .*more than 2\.0%"):
        estimator.measure(measurement(model, data, find_loss(model), forward_context=bfloat16))
    with pytest.raises(InexactError):
        estimator.measure(measurement(model, data, find_loss(model)))


class Kinked(nn.Module):
    """Its loss has a kink every 1e-4 of its one parameter, with another slope on either side."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.00003]))


def kinked_losses(module, batch):
    phase = torch.remainder(module.weight.double() * 1e4, 1.0)
    return batch[0].mean(1).double().abs() * (phase - 0.5).abs()


def test_kinks_are_noticed():
    data = mixture()
    model = Kinked()
    expected = reference(model, lambda module, batch: kinked_losses(module, batch), data, 0, 3, 3)
    try:
        found = FiniteDifference().measure(measurement(model, data, kinked_losses))
    except InexactError:
        return
    assert relative_error(found, expected) < 1e-3


class Stale(nn.Module):
    """Takes its weight from a cached copy, so that moving the parameter changes nothing."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))


class Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, samples):
        ctx.save_for_backward(samples)
        return samples

    @staticmethod
    def backward(ctx, gradient):
        (samples,) = ctx.saved_tensors
        return (gradient * samples).sum()[None], None


def test_a_loss_that_does_not_move_with_the_parameters_is_noticed():
    """Steps of any length agree on nothing at all; only the reference tells."""
    data = mixture()

    def losses(module, batch):
        return Copied.apply(module.weight, batch[0].mean(1))

    with pytest.raises(InexactError):
        FiniteDifference().measure(measurement(Stale(), data, losses))


def test_autocast_does_not_keep_the_weights_of_before_the_step():
    """Without clearing its cache, both ends of a difference would be taken at one place, and all alignments be 0."""
    model, data = Plain(), mixture()
    with torch.autocast("cpu", torch.bfloat16):
        wanted = measurement(model, data, sample_losses)
        probes = list(wanted.probes.mixed())
        target = target_gradient(wanted)
        # a step that shows through bfloat16
        with finite_difference._Line(model, target, 6e-2) as line:
            found = line.at_this_step(probes, partial(wanted.loss.of_samples, with_graph=False))
    expected = reference(model, Plain.loss, data, 0, 3, 3)
    slopes = torch.cat([of_batch.values for of_batch in found])
    domains = torch.cat([torch.from_numpy(probe.domains) for probe in probes])
    of_domains = torch.stack([slopes[domains == domain].mean() for domain in range(3)])
    # slopes of zero are off by 1
    assert ((of_domains - expected).norm() / expected.norm()).item() < 0.5


def test_the_step_is_chosen_again_when_it_no_longer_fits():
    model, data = Plain(), mixture()
    estimator = FiniteDifference()
    estimator.measure(measurement(model, data))
    for unfit in (1e3, 1e-9):
        estimator._step = unfit
        found = estimator.measure(measurement(model, data))
        assert 1e-6 < estimator._step < 1
        assert relative_error(found, reference(model, Plain.loss, data, 0, 3, 3)) < 1e-3


def test_a_target_gradient_of_zero_gives_alignments_of_zero():
    def losses(module, batch):
        return (sample_losses(module, batch) * 0).relu()

    found = FiniteDifference().measure(measurement(Plain(), mixture(), losses))
    assert found.values.tolist() == [0.0] * 3


def test_it_goes_on_from_its_state():
    data, model = mixture(), Plain()
    first, second = FiniteDifference(), FiniteDifference()
    first.measure(measurement(model, data))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() and first.state_dict()["step"] is not None
    one, other = (estimator.measure(measurement(model, data, update=1)) for estimator in (first, second))
    assert torch.equal(one.values, other.values)


def test_each_domain_has_its_turn_to_be_measured_by_the_reference(monkeypatch):
    checked = []

    def noted(sums, target, measurement, only=None):
        checked.extend(only)
        return add_domains(sums, target, measurement, only)

    monkeypatch.setattr(finite_difference, "add_domains", noted)
    estimator = FiniteDifference()
    for update in range(6):
        estimator.measure(measurement(Plain(), mixture(), update=update))
    assert set(checked) == {0, 1, 2}


def test_only_one_gradient_is_held_while_steps_are_tried(monkeypatch):
    held = []

    def taken(measurement):
        assert not any(reference() is not None for reference in held)
        target = target_gradient(measurement)
        held.append(weakref.ref(target.gradient))
        return target

    monkeypatch.setattr("lightning_dga.alignment.estimators.finite_difference.target_gradient", taken)
    FiniteDifference().measure(measurement(Plain(), mixture()))
    assert len(held) == 2
