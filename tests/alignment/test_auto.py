"""What `auto` chooses, and that it never takes an estimator that is silently wrong."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from lightning_dga.alignment import (
    Auto,
    Backward,
    Batched,
    FiniteDifference,
    InStep,
    Measurement,
    ProbeLoss,
    TrainingStep,
)
from lightning_dga.alignment import auto as auto_module
from lightning_dga.alignment.backward import add_domains
from lightning_dga.alignment.sums import DomainSums
from lightning_dga.alignment.target import target_gradient
from tests.toys import Plain, mixture

FEW, MANY = TrainingStep(4, pure=False, period=10), TrainingStep(400, pure=False, period=10)


class BySample(Plain):
    def alignment_loss(self, batch):
        return ((self.layers(batch[0]) - batch[1]) ** 2).squeeze(1)


def measurement(model, data=None, loss=lambda module, batch: module.alignment_loss(batch), **settings):
    data = data or mixture()
    loss = ProbeLoss(model.eval(), loss, **settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Measurement(model, loss, parameters, data.probes(0, 3), len(data.domain_names), step=1)


def training_loss(model):
    return ProbeLoss(model, lambda module, batch: module.loss(batch))


def test_a_step_that_holds_enough_samples_is_watched():
    model, auto = BySample(), Auto()
    chosen = auto.choose(measurement(model), MANY, training_loss(model))
    assert isinstance(chosen, InStep)
    assert auto.name == "in_step"
    assert "enough samples" in auto.reasons["in_step"]


@pytest.mark.parametrize(("step", "watchable"), [(FEW, True), (MANY, False)])
def test_else_probes_are_taken(step, watchable):
    model, auto = BySample(), Auto()
    chosen = auto.choose(measurement(model), step, training_loss(model) if watchable else None)
    assert not isinstance(chosen, InStep)
    assert auto.name in ("backward", "batched", "finite_difference")
    assert set(auto.reasons) >= {"backward", "batched", "finite_difference"}


def test_what_training_descends_on_has_to_be_what_is_aligned():
    model = BySample()
    doubled = ProbeLoss(model, lambda module, batch: 2 * module.loss(batch))
    auto = Auto()
    assert not isinstance(auto.choose(measurement(model), MANY, doubled), InStep)
    assert "differs from the reference" in auto.reasons["in_step"]


def test_it_chooses_again_only_when_something_changed():
    model, calls = BySample(), []

    class Counted(Backward):
        def measure(self, measurement):
            calls.append(1)
            return super().measure(measurement)

    auto = Auto({"counted": Counted})
    first = auto.choose(measurement(model), FEW, None)
    made = len(calls)
    assert auto.choose(measurement(model), FEW, None) is first
    assert len(calls) == made > 0
    model.layers[0].weight.requires_grad_(False)
    auto.choose(measurement(model), FEW, None)
    assert len(calls) > made
    made = len(calls)
    model.compile(backend="eager")
    auto.choose(measurement(model), FEW, None)
    assert len(calls) > made
    made = len(calls)
    bfloat16 = partial(torch.autocast, "cpu", torch.bfloat16)
    auto.choose(measurement(model, forward_context=bfloat16), FEW, None)
    assert len(calls) > made


def test_a_resumed_run_goes_on_with_its_estimator():
    for name in ("backward", "batched", "finite_difference"):
        auto = Auto()
        auto.choose(measurement(BySample()), FEW, None, prefer=name)
        assert auto.name == name


def test_deterministic_runs_are_not_timed():
    torch.use_deterministic_algorithms(True)
    try:
        auto = Auto()
        assert isinstance(auto.choose(measurement(BySample()), FEW, None), Backward)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_target_gradient_that_is_not_finite_is_no_reason_to_settle():
    model, auto = BySample(), Auto()

    def nan(module, batch):
        return module.alignment_loss(batch) * float("nan")

    assert isinstance(auto.choose(measurement(model, loss=nan), MANY, training_loss(model)), Backward)
    assert isinstance(auto.choose(measurement(model), MANY, training_loss(model)), InStep)


class Refused(Backward):
    """The reference, with a fault; free of charge, so that it would be chosen if it passed."""

    def measure(self, measurement):
        target = target_gradient(measurement)
        sums = DomainSums(target, measurement.num_domains)
        self.add(sums, target, measurement)
        return sums.alignments(measurement.step)


class Scaled(nn.Module):
    """A parameter of no layer: LayerScale, as a sum of layers sees it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 0.7))

    def forward(self, x):
        return x * self.scale


class Slope(torch.autograd.Function):
    """A custom function that takes a parameter and has a backward of its own."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        return dy @ weight.T, x.T @ dy


class Uneven(BySample):
    """Parameters outside of known layers, by a product with a parameter and by a custom function."""

    def __init__(self):
        super().__init__()
        self.scaled = Scaled()
        self.weight = nn.Parameter(torch.eye(4) + 0.3 * torch.randn(4, 4))

    def alignment_loss(self, batch):
        x, y, *_ = batch
        return ((self.layers(Slope.apply(self.scaled(x), self.weight)) - y) ** 2).squeeze(1)


class OnlyLayers(Refused):
    """Silent failure 1: what is used outside of layers is dropped, as by hooks that go by the module's type."""

    def add(self, sums, target, measurement):
        layers = [m for m in measurement.module.modules() if isinstance(m, nn.Linear)]
        known = {id(p) for layer in layers for p in layer.parameters()}
        for parameter in measurement.parameters:
            if id(parameter) not in known:
                target.gradient.view(parameter).zero_()
        add_domains(sums, target, measurement)


class NotCustomFunctions(Refused):
    """Silent failure 2: a parameter that a custom autograd.Function takes is missed."""

    def add(self, sums, target, measurement):
        target.gradient.view(measurement.module.weight).zero_()
        add_domains(sums, target, measurement)


class CompiledPart(Refused):
    """Silent failure 3: hooks on compiled code do not run, so that its part is missing."""

    def add(self, sums, target, measurement):
        compiled = [m for m in measurement.module.modules() if m._compiled_call_impl is not None]
        for parameter in {p for module in compiled for p in module.parameters()}:
            target.gradient.view(parameter).zero_()
        add_domains(sums, target, measurement)


class StaleWeights(FiniteDifference):
    """Silent failures 4 and 5: differences with the weights of before the move, out of autocast's cache or FSDP2's."""

    def measure(self, measurement):
        kept = measurement.loss
        first = next(measurement.probes.mixed()).batch
        stale = kept.of_samples(first).detach()
        found = Backward().measure(measurement)
        return replace(found, values=found.values * 0 + (stale - stale).sum().double())


class WithNeighbours(Backward):
    """Silent failure 6: batch normalisation in training mode, where samples of many domains share their statistics."""

    def measure(self, measurement):
        measurement.module.train()
        try:
            return super().measure(measurement)
        finally:
            measurement.module.eval()


FAULTS = [
    (OnlyLayers, Uneven),
    (NotCustomFunctions, Uneven),
    (CompiledPart, BySample),
    (StaleWeights, BySample),
    (WithNeighbours, partial(BySample, norm=True)),
]


@pytest.mark.parametrize(("faulty", "make"), FAULTS, ids=[faulty.__name__ for faulty, _ in FAULTS])
def test_it_never_takes_what_is_silently_wrong(faulty, make):
    model = make()
    if faulty is CompiledPart:
        model.layers.compile(backend="eager")
    auto = Auto({"faulty": faulty})
    chosen = auto.choose(measurement(model), FEW, None, prefer="faulty")
    assert isinstance(chosen, Backward) and not isinstance(chosen, faulty)
    assert "differs from the reference" in auto.reasons["faulty"]


@pytest.mark.parametrize("make", [make for _, make in FAULTS[:3]])
def test_ours_are_right_on_the_same_models(make):
    auto, model = Auto({"batched": Batched}), make()
    assert isinstance(auto.choose(measurement(model), FEW, None, prefer="batched"), Batched)


def test_an_estimator_that_fails_is_left_out_with_its_error():
    class Broken:
        def measure(self, measurement):
            raise RuntimeError("no kernel for this\nlong trace")

    auto = Auto({"broken": Broken})
    assert isinstance(auto.choose(measurement(BySample()), FEW, None), Backward)
    assert auto.reasons["broken"] == "RuntimeError: no kernel for this"


def test_the_fastest_of_those_that_pass_is_taken():
    class Slow(Backward):
        def measure(self, measurement):
            for _ in range(20):
                super().measure(measurement)
            return super().measure(measurement)

    auto = Auto({"slow": Slow})
    assert isinstance(auto.choose(measurement(BySample()), FEW, None), Backward) and auto.name == "backward"
    assert float(auto.reasons["slow"].split()[0]) > 3


def test_a_disturbed_call_of_the_trial_does_not_make_all_look_alike(monkeypatch):
    # the target's gradient alone, the reference and a rival, in three rounds
    seconds = iter([50.0, 4.0, 3.0, 1.0, 4.0, 90.0, 1.0, 5.0, 2.5])
    monkeypatch.setattr(auto_module, "_seconds", lambda call: next(seconds))
    found = auto_module._trial(measurement(BySample()), {"backward": Backward(), "rival": Backward()})
    assert found == {"backward": 3.0, "rival": 1.5}
