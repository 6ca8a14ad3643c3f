"""Every estimator on a CUDA GPU: exact against float64, and within the memory of a gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dga.alignment import ESTIMATORS, EstimatorRefusal, InStep, Measurement, ProbeLoss, isolated
from lightning_dga.alignment.estimators.self_test import RehearsedStep
from tests.alignment.estimators.test_matrix import FINITE_DIFFERENCE, TOLERANCES, UNWATCHABLE, made
from tests.helpers.held import Held, output_loss
from tests.helpers.reference import alignments as reference
from tests.helpers.zoo import DOMAINS, ZOO, mixture

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]
EVERY = ["backward", "batched", "finite_difference", "in_step", "in_step on one domain"]


@pytest.fixture(autouse=True)
def single_precision_is_single_precision():
    """TF32 has ten bits for each factor, and is the default of cuDNN's convolutions and recurrent layers."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def moved(batch):
    return batch.to(DEVICE) if isinstance(batch, torch.Tensor) else [moved(part) for part in batch]


def loss(module, batch):
    return module.alignment_loss(batch)


def autocast(precision):
    enabled = precision != "fp32"
    return lambda: torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("name", ["gpt", "gpt, checkpointed", "cnn", "lstm", "tied, frozen, unused, sparse"])
@pytest.mark.parametrize("estimator", EVERY)
def test_exact_or_refused(estimator, name, precision):
    torch.manual_seed(0)
    case = ZOO[name]
    model, data = case.build(), mixture(case.draw)
    expected = reference(model, loss, data, 0, 3, DOMAINS)
    model = case.prepare(model.to(DEVICE).train())
    parameters = [p for p in model.parameters() if p.requires_grad]
    probe_loss = ProbeLoss(model, loss, forward_context=autocast(precision), transfer=moved)
    measurement = Measurement(model, probe_loss, parameters, data.probes(0, 3), DOMAINS, step=1)
    try:
        with isolated(model):
            found = made(estimator, probe_loss).measure(measurement)
    except EstimatorRefusal as refusal:
        of_step = UNWATCHABLE.get(name) if estimator == "in_step" else None
        of_differences = "no step is both long enough" if estimator == "finite_difference" else None
        assert (of_step or of_differences or "no reason") in str(refusal)
        return
    scale = max(expected.abs().max().item(), found.target_norm**2)
    tolerance = (FINITE_DIFFERENCE if estimator == "finite_difference" else TOLERANCES)[precision]
    assert ((found.values - expected).abs().max() / scale).item() < tolerance
    assert found.counts.tolist() == [3] * DOMAINS
    assert not any(p.grad is not None or p._backward_hooks for p in model.parameters())


class Deep(nn.Module):
    """A model whose gradient, 128 MiB, is large beside any one parameter's, and beside its activations."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(32))

    def forward(self, x):
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        return x


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("estimator", EVERY)
def test_peak_memory_is_one_gradient_for_each_target(estimator, targets):
    if targets > 1 and not estimator.startswith("in_step"):
        pytest.skip("the other estimators measure one target after the other")
    model = Deep().to(DEVICE)
    probes = Held(torch.randn(3, 2, 1, 1024), torch.randn(2, 1, 1024), most=4)
    parameters = list(model.parameters())
    probe_loss = ProbeLoss(model, output_loss, transfer=moved)
    measurement = Measurement(model, probe_loss, parameters, probes, 3, step=1)

    class Several(InStep):
        def begin(self, measurement, stale, *, pure):
            super().begin(measurement, stale, pure=pure, targets={str(n): probes for n in range(targets)})

    def measure():
        estimators = made(estimator, probe_loss)
        if targets > 1:
            estimators = RehearsedStep(Several(), probe_loss, pure=estimator != "in_step")
        with isolated(model):
            assert estimators.measure(measurement) is not None

    try:
        measure()  # what libraries allocate at their first use stays
    except EstimatorRefusal as refusal:
        pytest.skip(f"refused: {refusal}")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    measure()
    gradient = sum(p.numel() * 4 for p in parameters)
    assert (torch.cuda.max_memory_allocated() - before) / gradient < targets + 0.1


def test_every_estimator_is_tested():
    assert {name.partition(" ")[0] for name in EVERY} == set(ESTIMATORS) - {"auto"}
