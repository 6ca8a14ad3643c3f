"""Estimators on parameters sharded by FSDP2 equal those on unsharded ones, and the float64 reference."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing import ProcessRaisedException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from lightning_dga.alignment import ESTIMATORS, EstimatorRefusal, Measurement, ProbeLoss, isolated
from lightning_dga.alignment.gradients.target import target_gradient, target_loss
from tests.helpers.processes import together
from tests.helpers.reference import alignments as reference
from tests.helpers.zoo import DOMAINS, VOCABULARY, mixture, sequence

ON_SHARDS = [name for name in ("backward", "batched", "finite_difference") if name in ESTIMATORS]
WIDTH = 7  # odd: no matrix divides evenly over processes


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.expand, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        self.unused = nn.Linear(2, 3)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)

    def forward(self, x):
        return x + self.project(torch.tanh(self.expand(self.frozen(self.norm(x)))))


class Model(nn.Module):
    """A tied embedding and a scalar at the root, and blocks."""

    def __init__(self, recompute=None, gain=True):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.head.weight = self.embedding.weight
        self.gain = nn.Parameter(torch.full((1,), 1.5)) if gain else 1.5
        self.recompute = recompute

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x) if self.recompute is None else checkpoint(block, x, use_reentrant=self.recompute)
        return self.head(x) * self.gain

    def alignment_loss(self, batch):
        logits = self(batch[:, :-1]).float()
        return F.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(1)


def loss(module, batch):
    return module.alignment_loss(batch)


def measurement(model, size=5, loss=loss, **data):
    data = mixture(sequence, **data)
    if dist.is_initialized():
        data._rank_and_world_size = lambda: (dist.get_rank(), dist.get_world_size())
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Measurement(model, ProbeLoss(model, loss), parameters, data.probes(0, size), DOMAINS, step=1)


def measure(model, estimator="backward", size=5):
    with isolated(model):
        return ESTIMATORS[estimator]().measure(measurement(model, size))


def sharded(mesh_shape=(2,), root=True, recompute=None, gain=True, **settings):
    """The model, each block sharded, and the root as well if asked."""
    names = ("shard",) if len(mesh_shape) == 1 else ("replicate", "shard")
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
    torch.manual_seed(0)
    model = Model(recompute, gain)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **settings)
    return fully_shard(model, mesh=mesh, **settings) if root else model


def whole(gain=True):
    torch.manual_seed(0)
    return Model(gain=gain)


def a_batch():
    """Different samples on each rank, as in training."""
    return torch.randint(VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(dist.get_rank()))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def measured(estimator, settings):
    model = sharded(**settings)
    state = measure(model, estimator).state_dict()
    return {**state, "sharded": sum(isinstance(p, DTensor) for p in model.parameters())}


def error(found, expected, scale):
    return ((found - expected).abs().max() / scale).item()


HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
LAYOUTS = {
    "two processes": ({}, 2),
    "three processes": ({"mesh_shape": (3,)}, 3),
    "kept whole between forward and backward": ({"reshard_after_forward": False}, 2),
    "always resharded": ({"reshard_after_forward": True}, 2),
    "blocks alone": ({"root": False}, 2),
    "replicated and sharded": ({"mesh_shape": (2, 2)}, 4),
    "checkpointed": ({"recompute": False}, 2),
    "checkpointed reentrantly": ({"recompute": True}, 2),
    "bf16": ({"mp_policy": HALF}, 2),
}


@pytest.mark.parametrize(
    "layout", [name if name == "two processes" else pytest.param(name, marks=pytest.mark.cluster) for name in LAYOUTS]
)
@pytest.mark.parametrize("estimator", ON_SHARDS)
def test_it_equals_one_process_and_the_reference(estimator, layout):
    settings, processes = LAYOUTS[layout]
    model = whole()
    one = measure(model)
    expected = reference(model, loss, mixture(sequence), 0, 5, DOMAINS)
    scale = max(expected.abs().max().item(), one.target_norm**2)
    if layout == "bf16" and estimator == "finite_difference":
        with pytest.raises(ProcessRaisedException, match="no step is both long enough"):
            together(measured, processes, estimator, settings)
        return
    tolerance = 1e-2 if layout == "bf16" else 1e-3 if estimator == "finite_difference" else 1e-4
    found = together(measured, processes, estimator, settings)
    for state in found:
        # a tied weight is one parameter; beside the blocks there are three
        assert state["sharded"] == len(list(model.parameters())) - (0 if settings.get("root", True) else 3)
        assert error(state["values"], one.values, scale) < tolerance
        assert error(state["values"], expected, scale) < tolerance
        torch.testing.assert_close(state["losses"], one.losses, rtol=tolerance, atol=0)
        assert state["target_norm"] == pytest.approx(one.target_norm, rel=tolerance)
        assert state["target_loss"] == pytest.approx(one.target_loss, rel=tolerance)
        assert state["counts"].tolist() == [5] * DOMAINS
        assert state["values"].numpy().tobytes() == found[0]["values"].numpy().tobytes()


def of_target(settings, samples):
    """The target's gradient by parameter, its loss twice, and how many samples this process ran."""
    model = sharded(**settings) if dist.is_initialized() else whole()
    run = []

    def noted(module, batch):
        run.append(len(batch))
        return loss(module, batch)

    with isolated(model):
        measured = measurement(model, loss=noted, target_batch_size=samples)
        target = target_gradient(measured)
        ran = sum(run)
        again = target_loss(measured)
    gradient = [whole_one(target.gradient.view(parameter), parameter).flatten() for parameter in measured.parameters]
    return torch.cat(gradient), target.loss, target.norm, again, ran


def whole_one(part, parameter):
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part.view(parameter.to_local().shape),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    ).full_tensor()


# fewer samples than processes; a process with one batch more than the others; shares of unequal size
@pytest.mark.parametrize("samples", [1, 9, 10])
@pytest.mark.parametrize("layout", ["two processes", "three processes", "blocks alone", "replicated and sharded"])
def test_each_process_runs_its_share_of_the_target(layout, samples):
    settings, processes = LAYOUTS[layout]
    one = of_target(settings, samples)
    for gradient, mean, norm, again, ran in together(of_target, processes, settings, samples):
        assert error(gradient, one[0], one[0].abs().max()) < 1e-5
        assert (mean, norm, again) == pytest.approx((one[1], one[2], one[1]), rel=1e-5)
        # as many passes as the largest share needs, of at most four samples
        assert ran <= (max(-(-samples // processes), 1) + 3) // 4 * 4 < max(samples, 5) + 3


def skipping():
    """One process skips its only batch after its forward pass."""
    model = sharded()

    def skips(module, batch):
        losses = loss(module, batch)
        return losses[:0] if dist.get_rank() == 1 else losses

    with isolated(model):
        skipped = target_gradient(measurement(model, loss=skips))
    return skipped, measure(model).values


def test_a_target_batch_that_one_process_skips_leaves_no_measurement_and_no_process_behind():
    (first, values), (second, others) = together(skipping, 2)
    assert first is second is None
    assert torch.equal(values, others) and values.isfinite().all()


def around_a_measurement(estimator):
    """Gradients between two micro-batches, with a measurement there and without one."""
    results = []
    for between in (lambda model: measure(model, estimator), lambda model: None):
        model = sharded()
        loss(model, a_batch()).mean().backward()
        before = gradients(model)
        contents = {name: g.full_tensor().clone() for name, g in before.items() if g is not None}
        between(model)
        after = gradients(model)
        assert all(after[name] is g for name, g in before.items())
        assert all(torch.equal(after[name].full_tensor(), content) for name, content in contents.items())
        loss(model, a_batch()).mean().backward()
        results.append({name: g.full_tensor() for name, g in gradients(model).items() if g is not None})
    return results


@pytest.mark.parametrize("estimator", ON_SHARDS)
def test_gradients_of_the_user_are_not_touched_between_two_micro_batches(estimator):
    for with_it, without in together(around_a_measurement, 2, estimator):
        assert with_it and all(torch.equal(with_it[name], without[name]) for name in without)


def after_an_evaluation(estimator):
    """Whole parameters are left in a root that has seen a forward pass and no backward pass."""
    model = sharded()
    with torch.no_grad():
        model(a_batch())
    left_whole = not any(isinstance(p, DTensor) for name, p in model.named_parameters() if "blocks" not in name)
    return left_whole, measure(model, estimator).values


@pytest.mark.parametrize("estimator", ON_SHARDS)
def test_a_forward_pass_without_a_backward_pass_before_it_changes_nothing(estimator):
    plain = together(measured, 2, estimator, {})
    for rank, (left_whole, values) in enumerate(together(after_an_evaluation, 2, estimator)):
        assert left_whole, "this is what the test is about"
        assert torch.equal(values, plain[rank]["values"])


def without_synchronization():
    model = sharded()
    model.set_requires_gradient_sync(False)
    try:
        measure(model)
    except EstimatorRefusal as refusal:
        return str(refusal)


def test_gradients_that_are_not_synchronized_are_refused():
    for said in together(without_synchronization, 2):
        assert "`set_requires_gradient_sync(False)` is in effect: call it with True" in said


class Moved(TorchDispatchMode):
    """The largest tensor of each collective, in numbers, by the kind of collective."""

    def __init__(self):
        super().__init__()
        self.numbers = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace in ("c10d", "_c10d_functional"):
            sizes = [leaf.numel() for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)]
            self.numbers.setdefault(function.__name__, []).append(max(sizes, default=0))
        return function(*arguments, **(keywords or {}))


def moved():
    model = sharded(reshard_after_forward=True)
    with Moved() as moved:
        measure(model)
    used = [p for name, p in model.named_parameters() if p.requires_grad and "unused" not in name]
    return moved.numbers, padded(model.parameters()), padded(used)


def padded(parameters):
    """Numbers of parameters whose rows are filled up to divide evenly over two processes."""
    return sum(-(-len(p) // 2) * 2 * p[0].numel() for p in parameters)


def test_what_moves_is_three_times_the_model_for_each_pass_and_a_few_numbers():
    # 3 target samples of each process and 5 of each domain, at most 4 in a batch
    passes = 1 + 2 * DOMAINS
    for numbers, parameters, used in together(moved, 2):
        assert sum(numbers["_allgather_base_.default"]) == 2 * passes * parameters
        assert sum(numbers["_reduce_scatter_base_.default"]) == passes * used
        # whether there is another batch, and whether it has a loss; the target's loss and count; its norm; each probe's
        # inner product; the results
        assert numbers["allreduce_.default"] == [1, 1, 1, 2, 1, *[1] * (2 * DOMAINS), 5 * DOMAINS]
