from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_dga.alignment import Backward, Batched, EstimatorRefusal
from lightning_dga.core.alignments import Alignments
from lightning_dga.models import GPT
from tests.helpers.held import assert_exact, expected, measure, output_loss, sequences, tokens
from tests.helpers.uses import (
    Bias,
    Block,
    ByHand,
    Checkpointed,
    Experts,
    Fused,
    Language,
    Lora,
    Picture,
    Residual,
    Shuffled,
    Sometimes,
    TimeFirst,
    Twice,
)

pytestmark = pytest.mark.numerics


def normalised(kind):
    return kind(nn.Linear(4, 4))


SEQUENCES = {
    # model, and the names of the parameters that are to be left over
    "layers alone": (Block, []),
    "changes in place": (lambda: Block(Residual()), []),
    "parameters by hand": (lambda: Block(ByHand()), ["between.scale", "between.token"]),
    "a fused kernel": (lambda: Block(Fused()), ["between.weight"]),
    "an attention layer": (
        lambda: Block(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)),
        ["between.self_attn." + n for n in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")],
    ),
    "an expert of shuffled rows": (lambda: Block(Shuffled()), ["between.expert.weight", "between.expert.bias"]),
    "experts of tokens": (
        lambda: Block(Experts()),
        [f"between.{n}.{p}" for n in ("gate", "experts.0", "experts.1") for p in ("weight", "bias")],
    ),
    "time before samples": (
        lambda: Block(TimeFirst()),
        ["between.layer.weight", "between.layer.bias"]
        + [f"between.rnn.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")],
    ),
    "a checkpoint": (lambda: Block(Checkpointed(False)), []),
    "a matrix for all samples": (lambda: Block(Bias()), ["between.distances.weight"]),
    "a layer called three times": (lambda: Block(Twice()), []),
    "a low-rank adapter": (lambda: Block(Lora()), []),
    "a weight norm": (
        lambda: Block(normalised(nn.utils.parametrizations.weight_norm)),
        ["between.bias"] + [f"between.parametrizations.weight.original{i}" for i in (0, 1)],
    ),
    "convolutions and normalisations": (lambda: Picture().eval(), []),
}
LANGUAGE = {
    "tied to a layer": (lambda: Language(False), []),
    "tied by hand": (lambda: Language(True), ["tokens.weight"]),
    "with padding": (lambda: Language(False, padding=3), []),
    "sparse": (lambda: Language(True, sparse=True), ["tokens.weight"]),
    "positions with a dimension": (lambda: Language(False, position="[1, T]"), []),
}
ALL = [(SEQUENCES, sequences, name) for name in SEQUENCES] + [(LANGUAGE, tokens, name) for name in LANGUAGE]


def uncovered(model, estimator):
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {names[index] for index in estimator._plan.uncovered}


@pytest.mark.parametrize(("models", "data", "name"), ALL, ids=[name for *_, name in ALL])
def test_it_equals_the_float64_reference(models, data, name):
    make, left = models[name]
    model, probes, estimator = make(), data(), Batched()
    wanted = expected(model, probes)
    assert_exact(measure(estimator, model, probes), wanted)
    assert uncovered(model, estimator) == set(left)
    assert_exact(measure(estimator, model, replace(probes, most=4)), wanted)


def test_a_reentrant_checkpoint():
    model, probes = Block(Checkpointed(False)), sequences()
    wanted = expected(model, probes)  # which reentrant checkpoints do not allow
    model.between.reentrant = True
    assert_exact(measure(Batched(), model, probes), wanted)


def test_leftovers_in_a_reentrant_checkpoint_leave_no_gradient_behind():
    model, probes = Block(Checkpointed(False)), sequences()
    model.between.inner.append(ByHand())
    wanted = expected(model, probes)
    model.between.reentrant = True
    assert_exact(measure(Batched(), model, probes), wanted)
    assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_weight_that_a_hook_makes():
    model, probes, estimator = Block(nn.utils.weight_norm(nn.Linear(4, 4))), sequences(), Batched()
    assert_exact(measure(estimator, model, probes), measure(Backward(), model, probes).values)
    assert uncovered(model, estimator) == {"between.weight_g", "between.weight_v"}


@pytest.mark.parametrize("size", [1, 6])
def test_a_batch_of_as_many_samples_as_steps_is_no_accident(size):
    """With six samples of six steps all leading dimensions agree, whatever they are."""
    model, probes = Block(TimeFirst()), sequences(k=3, n=size, most=6)
    assert_exact(measure(Batched(), model, probes), expected(model, probes))


def test_the_reference_model_has_no_leftovers():
    model, probes = GPT(11, context_length=5, d_model=8, num_layers=2, num_heads=2).eval(), tokens()
    estimator = Batched()

    def loss(module, batch):
        return module.alignment_loss(batch[0])

    assert_exact(measure(estimator, model, probes, loss), expected(model, probes, loss))
    assert not estimator._plan.uncovered


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_is_seen_through(whole):
    model, probes = Block(Residual()), sequences()
    wanted = expected(model, probes)
    compiled = torch.compile(model, backend="eager")
    if not whole:
        model.between.compile(backend="eager")
        compiled = model
    compiled(probes.aim)
    assert_exact(measure(Batched(), compiled, probes), wanted)


def test_what_is_compiled_stays_compiled():
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    model, probes = Block(), sequences()
    compiled = torch.compile(model, backend=backend, dynamic=False)
    compiled(probes.aim).sum()
    measure(Batched(), compiled, probes)
    before = len(traced)
    compiled(probes.aim).sum()
    assert len(traced) == before


def test_a_choice_of_parameters():
    model, probes = Language(False), tokens()
    others = [p for name, p in model.named_parameters() if name != "tokens.weight"]
    model.tokens.weight.grad = kept = torch.ones(11, 4)
    found = measure(Batched(), model, probes, parameters=others)
    assert_exact(found, measure(Backward(), model, probes, parameters=others).values)
    model.tokens.weight.requires_grad_(False)
    assert_exact(found, expected(model, probes))
    assert model.tokens.weight.grad is kept and (kept == 1).all()


def test_autocast_and_half_precision_parameters():
    model, probes = Language(False), tokens()
    wanted = expected(model, probes)
    found = measure(Batched(), model, probes, forward_context=lambda: torch.autocast("cpu", torch.bfloat16))
    assert_exact(found, wanted, 1e-2)
    assert_exact(measure(Batched(), model.bfloat16(), probes), expected(model, probes), 2e-2)


def test_float16_with_a_loss_scale():
    model, probes = Block(Residual()), sequences()
    context = {"forward_context": lambda: torch.autocast("cpu", torch.float16), "scale": 2.0**10}
    small = nn.Parameter(torch.full((), 1e-4))

    def loss(module, batch):
        return output_loss(module, batch) * small.detach()

    assert_exact(measure(Batched(), model, probes, loss, **context), expected(model, probes, loss), 1e-2)


def test_a_layer_that_is_called_in_another_way_later_is_left_over_then():
    model, probes, estimator = Block(Sometimes()), sequences(), Batched()
    wanted = expected(model, probes)
    assert_exact(measure(estimator, model, probes), wanted)
    assert not uncovered(model, estimator)
    model.between.by_token = True
    assert_exact(measure(estimator, model, probes), wanted)
    assert uncovered(model, estimator) == {"between.layer.weight", "between.layer.bias"}


def test_a_use_that_appears_later_is_a_leftover():
    model, probes, estimator = Block(), sequences(), Batched()

    def loss(module, batch):
        losses = output_loss(module, batch)
        return losses + extra * module.first.weight.square().sum() if extra else losses

    extra = 0
    measure(estimator, model, probes, loss)
    assert not uncovered(model, estimator)
    extra = 0.1
    assert_exact(measure(estimator, model, probes, loss), expected(model, probes, loss))


def test_a_layer_without_a_gradient_is_looked_at_again():
    model, probes, estimator = Block(Shuffled()), sequences(), Batched()
    with torch.no_grad():
        model.last.weight.zero_()
    measure(estimator, model, probes)
    with torch.no_grad():
        model.last.weight.normal_()
    assert_exact(measure(estimator, model, probes), expected(model, probes))


def test_a_model_that_changes_gets_another_plan():
    model, probes, estimator = Block(), sequences(), Batched()
    measure(estimator, model, probes)
    model.between = nn.Linear(4, 4)
    assert_exact(measure(estimator, model, probes), expected(model, probes))
    model.first.requires_grad_(False)
    assert_exact(measure(estimator, model, probes), expected(model, probes))


REFUSED = {
    "a mean loss": (Block, lambda module, batch: output_loss(module, batch).mean(), "gives only the mean loss"),
    "dropout": (lambda: Block(nn.Dropout(0.5)), output_loss, "depends on the rest of its batch"),
    "batch normalisation": (lambda: Block(nn.BatchNorm1d(6)), output_loss, "depends on the rest of its batch"),
    "no layer": (
        lambda: nn.GRU(4, 4, batch_first=True),
        lambda m, b: m(b[0])[0].square().mean((1, 2)),
        "no layer of GRU",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_be_exact_for_is_refused(name):
    make, loss, message = REFUSED[name]
    with pytest.raises(EstimatorRefusal, match=message):
        measure(Batched(), make(), sequences(), loss)


def test_a_loss_of_another_length_is_named():
    with pytest.raises(ValueError, match="has 48 values for a batch of 8 samples; return one"):
        measure(Batched(), Block(), sequences(), lambda m, b: m(b[0]).mean(2).reshape(-1))


def test_nothing_is_left_on_the_model_not_even_after_an_error():
    model, probes = Block(ByHand()), sequences()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    parameters = dict(model.named_parameters())
    measure(Batched(), model, probes)

    calls = []

    def failing(module, batch):
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("in the middle")
        return output_loss(module, batch)

    with pytest.raises(RuntimeError, match="in the middle"):
        measure(Batched(), model, probes, failing)
    assert all(dict(vars(module)) == before[name] for name, module in model.named_modules())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sample_that_is_not_finite_takes_its_domain_out_and_no_other():
    model, probes = Block(), sequences()
    wanted = expected(model, probes)
    estimator = Batched()
    measure(estimator, model, probes)
    probes.domains[1, 2] = torch.inf
    found = measure(estimator, model, probes)
    assert found.counts.tolist() == [3, 0, 3]
    torch.testing.assert_close(found.values[[0, 2]], wanted[[0, 2]], rtol=1e-4, atol=1e-5)


def test_each_samples_alignment_comes_with_its_index():
    model, probes = Block(), sequences()
    found = measure(Batched(), model, replace(probes, most=4))
    single = replace(probes, domains=probes.domains.flatten(0, 1)[:, None])
    torch.testing.assert_close(found.samples.values, expected(model, single), rtol=1e-4, atol=1e-6)
    assert found.samples.domains.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.samples.indices.tolist() == [0, 1, 2] * 3
    losses = output_loss(model, [probes.domains.flatten(0, 1)])
    torch.testing.assert_close(found.samples.losses, losses.detach().double())
    assert Alignments.from_state_dict(found.state_dict()).samples is None


def test_a_leftovers_part_is_not_known_by_sample():
    assert measure(Batched(), Block(ByHand()), sequences()).samples is None


def test_saved_inputs_can_be_packed():
    """Hooks on saved tensors, as offloading to the CPU uses them, see the inputs that are kept for the pass."""
    model, probes, packed = Block(), sequences(), []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor

    def loss(module, batch):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return output_loss(module, batch)

    model.first.weight.requires_grad_(False)
    assert_exact(measure(Batched(), model, probes, loss), expected(model, probes))
    assert (9, 6, 4) in packed


def test_memory_does_not_grow_with_the_number_of_domains():
    import gc

    def held_at_the_end(k):
        model, probes, estimator, passes = Block(width=64), sequences(k=k, width=64, most=4), Batched(), []

        def loss(module, batch, last=None):
            losses = output_loss(module, batch)
            passes.append(0)
            if len(passes) == last:
                gc.collect()
                alive = [t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter)]
                passes[-1] = sum(
                    {t.untyped_storage().data_ptr(): t.nbytes for t in alive if t.numel() >= 1000}.values()
                )
            return losses

        measure(estimator, model, probes, loss)
        passes.clear()
        measure(estimator, model, probes, loss)
        last, _ = len(passes), passes.clear()
        measure(estimator, model, probes, lambda module, batch: loss(module, batch, last))
        return passes[-1] - probes.domains.nbytes - probes.aim.nbytes

    few = held_at_the_end(4)
    assert few > 0
    assert held_at_the_end(40) == few
