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
from lightning_dga.alignment.estimators.auto import UPDATES_BETWEEN_TESTS
from lightning_dga.alignment.estimators.backward import add_domains
from lightning_dga.alignment.estimators.self_test import SomeDomains, relative_error
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import target_gradient
from lightning_dga.core.alignments import Alignments
from tests.helpers.toys import BySample, mixture

FEW, MANY = TrainingStep(4, pure=False), TrainingStep(400, pure=False)


def measurement(model, data=None, loss=lambda module, batch: module.alignment_loss(batch), **settings):
    data = data or mixture(batch_size=12)
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
    assert auto.name == "batched"
    assert set(auto.reasons) >= {"backward", "batched"}


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
        auto = Auto({"batched": Batched, "finite_difference": FiniteDifference})
        auto.choose(measurement(BySample()), FEW, None, prefer=name)
        assert auto.name == name


def test_a_target_gradient_that_is_not_finite_is_no_reason_to_settle():
    model, auto = BySample(), Auto()

    def nan(module, batch):
        return module.alignment_loss(batch) * float("nan")

    assert isinstance(auto.choose(measurement(model, loss=nan), MANY, training_loss(model)), Backward)
    assert isinstance(auto.choose(measurement(model), MANY, training_loss(model)), InStep)


class Refused(Backward):
    """The reference with an error, at no cost, so that it would be chosen if it passed."""

    def measure(self, measurement):
        target = target_gradient(measurement)
        sums = DomainSums(target, measurement.num_domains)
        self.add(sums, target, measurement)
        return sums.alignments(measurement.step)


class Scaled(nn.Module):
    """A parameter outside of layers, such as LayerScale in a sum of layers."""

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


class Wasteful(Backward):
    def measure(self, measurement):
        for _ in range(2):
            super().measure(measurement)
        return super().measure(measurement)


def test_what_runs_the_model_the_fewest_times_is_taken():
    auto = Auto({"wasteful": Wasteful})
    assert isinstance(auto.choose(measurement(BySample()), FEW, None), Backward) and auto.name == "backward"
    assert int(auto.reasons["wasteful"].split()[0]) > 3 * int(auto.reasons["backward"].split()[0])


def test_where_there_are_as_many_runs_the_reference_is_taken():
    model, auto = BySample(), Auto()
    one_domain_in_a_batch = mixture(k=3, batch_size=3)
    few = replace(measurement(model), probes=one_domain_in_a_batch.probes(0, 3))
    assert isinstance(auto.choose(few, FEW, None), Backward)


def test_the_clock_does_not_choose(monkeypatch):
    def no_clock():
        raise AssertionError("the time was asked for")

    for name in ("time", "perf_counter", "monotonic", "process_time", "perf_counter_ns"):
        monkeypatch.setattr(f"time.{name}", no_clock)
    auto = Auto()
    auto.choose(measurement(BySample()), FEW, None)
    assert auto.name == "batched"


class Drifting(Backward):
    """Right at first, and out of tolerance after a number of measurements."""

    made = 0
    rightfor = 30

    def measure(self, measurement):
        Drifting.made += 1
        found = super().measure(measurement)
        return replace(found, values=found.values * (1.0 if Drifting.made <= Drifting.rightfor else 1.01))


@pytest.mark.parametrize("targets", [1, 2])
def test_a_choice_that_goes_out_of_tolerance_is_noticed_within_25_updates(targets):
    Drifting.made = 0
    model, auto = BySample(), Auto({"drifting": Drifting})
    names = []
    for step in range(3 * UPDATES_BETWEEN_TESTS):
        for _ in range(targets):
            chosen = auto.choose(replace(measurement(model), step=step), FEW, None, prefer="drifting")
            names.append(auto.name)
            chosen.measure(measurement(model))
    assert names[0] == "drifting" and names[-1] == "backward"
    changed = names.index("backward") // targets
    assert changed % UPDATES_BETWEEN_TESTS == 0
    assert "no longer" in auto.reasons["drifting"] and "differs from the reference by 1.0%" in auto.reasons["drifting"]


def test_a_step_that_no_longer_passes_is_given_up():
    model, auto = BySample(), Auto()
    chosen = None
    for step in range(UPDATES_BETWEEN_TESTS + 1):
        doubled = ProbeLoss(model, lambda module, batch: 2 * module.loss(batch))
        loss = training_loss(model) if step < UPDATES_BETWEEN_TESTS else doubled
        chosen = auto.choose(replace(measurement(model), step=step), MANY, loss)
        assert isinstance(chosen, InStep) == (step < UPDATES_BETWEEN_TESTS)
    assert "no longer" in auto.reasons["in_step"]


def test_tests_have_their_turn_of_all_domains_and_their_place_is_resumed():
    k, seen, numbers = 40, set(), []
    data, model = mixture(k=k), BySample()

    class Noted(Batched):
        def measure(self, measurement):
            if isinstance(measurement.probes, SomeDomains):
                seen.update(measurement.probes.domains)
                numbers.append(measurement.step)
            return super().measure(measurement)

    def choose(auto, step):
        few = replace(measurement(model), probes=data.probes(0, 4), num_domains=k, step=step)
        auto.choose(few, FEW, None, prefer="noted")

    auto = Auto({"noted": Noted})
    for step in range(5 * UPDATES_BETWEEN_TESTS + 1):
        choose(auto, step)
    assert seen == set(range(k))
    tested = [number for number in numbers if number > 0]
    resumed = Auto({"noted": Noted})
    resumed.load_state_dict(auto.state_dict())
    numbers.clear()
    first = 5 * UPDATES_BETWEEN_TESTS
    for step in range(first, first + 2 * UPDATES_BETWEEN_TESTS + 1):
        choose(resumed, step)
    again = [number for number in numbers if number > first]
    assert tested == [UPDATES_BETWEEN_TESTS * i for i in range(1, 6)]
    assert again == [first + UPDATES_BETWEEN_TESTS, first + 2 * UPDATES_BETWEEN_TESTS]


def test_alignments_that_are_small_beside_the_targets_norm_are_held_to_their_own():
    """Two domains nearly orthogonal to the target: an error that is small beside |G|^2 is not small for them."""
    values = torch.tensor([1e-3, -2e-3], dtype=torch.float64)
    counts = torch.tensor([3, 3])
    exact = Alignments(values, counts, values, 1.0, 10.0, 1)
    found = replace(exact, values=values + 1e-5, by_target=None)
    assert relative_error(found, exact, torch.float32) > 1e-3
    # in half precision they have no digits of their own
    assert relative_error(found, exact, torch.bfloat16) < 1e-6
    assert relative_error(exact, exact, torch.float32) == 0
    nothing = replace(exact, values=values * 0, by_target=None)
    assert relative_error(found, nothing, torch.float32) == float("inf")
