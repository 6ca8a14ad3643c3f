import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dga.alignment import find_loss, isolated, uses_training_step
from tests.helpers.toys import Plain, mixture


def content(module):
    """Everything that a probe could change, as plain values."""
    return {
        "state": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "modes": [child.training for child in module.modules()],
        "calls": module.calls,
        "seen": [t.clone() for t in module.seen],
        "by_kind": {kind: list(losses) for kind, losses in module.by_kind.items()},
        "metric": {name: value.clone() for name, value in module.error.metric_state.items()},
        "updates": module.error._update_count,
        "names": sorted(vars(module)),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    }


def same(a, b):
    torch.testing.assert_close(a["state"], b["state"], rtol=0, atol=0)
    return all(
        a[key] == b[key] if key not in ("state", "seen", "metric", "by_kind") else repr(a[key]) == repr(b[key])
        for key in a
    )


def test_a_training_step_leaves_nothing_behind():
    module, batch = Plain(dropout=0.3, norm=True), next(iter(mixture().probes(0, 3).target())).batch
    module.layers[2].eval()  # a mode of its own must survive as well
    seen, by_kind = module.seen, module.by_kind
    module.seen.append(torch.zeros(2))
    before = content(module)
    with isolated(module):
        module.new = 1
        random.random(), np.random.rand(), torch.rand(1)
        module.layers[1](torch.randn(5, 8))
        module.layers.train()
        module.layers[1](torch.randn(5, 8))
        module.training_step(batch, 0)
        assert module.calls == 1 and len(module.seen) == 2
    assert same(content(module), before)
    assert module.seen is seen and module.by_kind is by_kind
    assert not hasattr(module, "new")


def test_everything_is_put_back_after_an_error_too():
    module = Plain(norm=True)
    before = content(module)
    with pytest.raises(RuntimeError, match="in between"), isolated(module):
        module.calls = 9
        module.layers[1].running_mean += 1
        torch.rand(1)
        raise RuntimeError("in between")
    assert same(content(module), before)


def test_a_buffer_that_was_replaced_comes_back():
    module = Plain()
    module.register_buffer("table", torch.ones(2))
    table = module.table
    with isolated(module):
        module.table = torch.zeros(3)
    assert module.table is table and table.tolist() == [1, 1]


def test_recurrent_layers_keep_training_mode_without_their_dropout():
    module = nn.ModuleDict({"rnn": nn.LSTM(2, 2, num_layers=2, dropout=0.5), "dropout": nn.Dropout(0.5)})
    with isolated(module):
        assert module["rnn"].training and module["rnn"].dropout == 0
        assert not module["dropout"].training
    assert module["rnn"].dropout == 0.5 and module["dropout"].training


class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


def test_training_runs_through_the_same_compiled_code_whatever_the_probes_look_like():
    torch.compiler.reset()
    compiled, used = [], []

    def backend(graph, _):
        compiled.append(graph)
        number = len(compiled)

        def run(*arguments):
            used.append(number)
            return graph(*arguments)

        return run

    model = Compiled()
    model.compile(backend=backend)
    for _ in range(3):
        model(torch.randn(8, 4)).mean().backward()
        with isolated(model):
            for size in (3, 5):
                model(torch.randn(size, 4))
    assert used == [1, 1, 1]


class WithItsOwn(Plain):
    def alignment_loss(self, batch):
        return self.loss(batch) * 2


def test_the_loss_is_the_modules_own_then_the_users_then_the_training_step():
    batch = next(iter(mixture().probes(0, 3).target())).batch
    own, plain = WithItsOwn(), Plain()

    def given(module, batch):
        return module.loss(batch) * 3

    assert torch.equal(find_loss(own, given)(own, batch), own.loss(batch) * 2)
    assert torch.equal(find_loss(plain, given)(plain, batch), plain.loss(batch) * 3)
    with isolated(plain):
        assert torch.equal(find_loss(plain)(plain, batch), plain.loss(batch))
    assert uses_training_step(find_loss(plain)) and not uses_training_step(find_loss(own))


def test_a_training_step_may_return_a_dict_and_take_no_index():
    class Dict(Plain):
        def training_step(self, batch):
            return {"loss": self.loss(batch), "other": 1}

    module, batch = Dict(), next(iter(mixture().probes(0, 3).target())).batch
    assert torch.equal(find_loss(module)(module, batch), module.loss(batch))
