"""Every model of the zoo under every estimator and precision: exact, or refused with the reason.

A cell's error is the largest difference from the float64 reference of the same parameters, over the largest absolute
alignment of the cell or the squared norm of its target gradient, whichever is larger: a product of gradients that are
nearly orthogonal has no scale of its own.
"""

import sys
from contextlib import contextmanager, nullcontext
from functools import cache

import pytest
import torch
from torch import nn

from lightning_dga.alignment import ESTIMATORS, EstimatorRefusal, InStep, Measurement, ProbeLoss, isolated
from lightning_dga.alignment.estimators.self_test import RehearsedStep
from tests.helpers.reference import alignments as reference
from tests.helpers.reference import gradient
from tests.helpers.zoo import DOMAINS, HUGGING_FACE, ZOO, compiled, mixture

# of training's own passes, over batches of many domains and of one
IN_STEP, PURE = "in_step", "in_step on one domain"
ALL = ("backward", "batched", "finite_difference", IN_STEP, PURE)

TOLERANCES = {"fp32": 1e-4, "bf16-mixed": 1e-2, "bf16-true": 1e-2}
FINITE_DIFFERENCE = {**TOLERANCES, "fp32": 1e-3}

# (estimator, precision): what it says when it refuses
REFUSED = {("finite_difference", "bf16-true"): "lost to rounding"}
# the same of `in_step` on batches of many domains, by model
UNWATCHABLE = {
    "gpt, compiled module": "a compiled model",
    "gpt, compiled net": "a compiled model",
    "gpt, compiled in place": "a compiled model",
    "cnn": "batch normalisation",
    "lstm": "not every use of",
    "gru": "not every use of",
    "tied, frozen, unused, sparse": "not every use of",
    "transformer encoder": "not every use of",
    "mixtral": "not every use of",
    "mixtral, grouped experts": "not every use of",
}
# the same, of estimators that look at what they measured, and may find it exact as well
MAY_REFUSE = {("finite_difference", precision): "no step is both long enough" for precision in ("fp32", "bf16-mixed")}


last = None


@pytest.fixture(autouse=True)
def compiled_once(name, precision):
    """Estimators share what was compiled of a model; beyond the limit to that it would run as if never compiled."""
    global last
    if last != (last := (name, precision)):
        torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def loss(module, batch):
    return module.alignment_loss(batch)


@cache
def runs_lstm_in_bfloat16():
    """Whether torch's own LSTM runs under autocast here: oneDNN has none in bfloat16 for some processors."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(4, 16, num_layers=2, batch_first=True)(torch.zeros(1, 8, 4))[0].sum().backward()
    except RuntimeError:
        return False
    return True


def built(case, precision):
    torch.manual_seed(0)
    if precision == "bf16-true":
        return case.build().bfloat16(), mixture(lambda generator: rounded(case.draw(generator)))
    return case.build(), mixture(case.draw)


@cache
def by_definition(name, precision):
    """The alignments of a model and their scale, the same for every estimator and however it is compiled."""
    model, data = built({**ZOO, **HUGGING_FACE}[name], precision)
    expected = reference(model, loss, data, 0, 3, DOMAINS)
    probes = data.probes(0, 3)
    target = gradient(model, loss, [(len(probe.domains), probe.batch) for probe in probes.target()])
    scale = max(expected.abs().max(), target @ target)
    assert scale > 1e-3, "gradients as small as these would show nothing"
    return expected, scale


def check(estimator, name, case, precision, surroundings=isolated):
    if name == "lstm" and precision == "bf16-mixed" and not runs_lstm_in_bfloat16():
        pytest.skip("torch has no LSTM in bfloat16 for this processor")
    model, data = built(case, precision)
    probes = data.probes(0, 3)
    expected, scale = by_definition(name, precision)
    context = (lambda: torch.autocast("cpu", torch.bfloat16)) if precision == "bf16-mixed" else nullcontext

    model = case.prepare(model.train())
    parameters = [p for p in model.parameters() if p.requires_grad]
    probe_loss = ProbeLoss(model, loss, forward_context=context)
    measurement = Measurement(model, probe_loss, parameters, probes, num_domains=DOMAINS, step=1)
    kind = (estimator, precision)
    reason = UNWATCHABLE.get(name) if estimator == IN_STEP else REFUSED.get(kind)
    try:
        with surroundings(model):
            found = made(estimator, probe_loss).measure(measurement)
    except EstimatorRefusal as refusal:
        assert (reason or MAY_REFUSE.get(kind, "no reason")) in str(refusal)
    else:
        assert reason is None
        tolerance = (FINITE_DIFFERENCE if estimator == "finite_difference" else TOLERANCES)[precision]
        assert ((found.values - expected).abs().max() / scale).item() < tolerance
        assert found.counts.tolist() == [3] * DOMAINS
    assert not any(p.grad is not None or p._backward_hooks for p in model.parameters())


def made(estimator, probe_loss):
    if estimator in (IN_STEP, PURE):
        return RehearsedStep(InStep(), probe_loss, pure=estimator == PURE)
    return ESTIMATORS[estimator]()


def rounded(sample):
    if isinstance(sample, tuple):
        return tuple(rounded(part) for part in sample)
    return sample.bfloat16() if sample.is_floating_point() else sample


def cells(zoo, precisions=tuple(TOLERANCES)):
    return pytest.mark.parametrize(
        ("estimator", "name", "precision"),
        [
            pytest.param(estimator, name, precision, id=f"{estimator}-{name}-{precision}")
            for name in zoo
            for precision in precisions
            for estimator in ALL
        ],
    )


@cells(ZOO)
def test_exact_or_refused(estimator, name, precision):
    check(estimator, name, ZOO[name], precision)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="transformers, as pinned, needs Python 3.11")
@cells(HUGGING_FACE)
def test_exact_or_refused_on_hugging_face_models(estimator, name, precision):
    check(estimator, name, HUGGING_FACE[name], precision)


@contextmanager
def evaluation(model):
    """A plain loop, in which compiled code runs compiled; the callback's probes run eagerly."""
    yield model.eval()


@cells(compiled("aot_eager"), ["fp32"])
def test_exact_or_refused_through_compiled_code(estimator, name, precision):
    check(estimator, name, compiled("aot_eager")[name], precision, evaluation)


@pytest.mark.slow
@cells(compiled("inductor"), ["fp32", "bf16-mixed"])
def test_exact_or_refused_through_code_of_inductor(estimator, name, precision):
    check(estimator, name, compiled("inductor")[name], precision, evaluation)
