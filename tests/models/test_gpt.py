import math

import pytest
import torch

from lightning_dga.models import GPT

SMALL = {"vocab_size": 40, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}


def test_a_token_is_predicted_from_those_before_it_only():
    model, tokens = GPT(**SMALL).eval(), torch.randint(40, (1, 16))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 40
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_it_starts_at_the_loss_of_guessing():
    losses = GPT(**SMALL).alignment_loss(torch.randint(40, (8, 17)))
    assert losses.shape == (8,)
    # logits of variance s² cost s²/2 over a uniform guess; at any width they start with that of GPT-2's first layer
    variance = 0.02**2 * 768
    assert losses.mean().item() == pytest.approx(math.log(40) + variance / 2, rel=0.05)


def test_it_learns_a_sequence_by_heart():
    model, batch = GPT(**SMALL, learning_rate=1e-2, warmup_steps=1), torch.randint(40, (2, 17))
    optimizer = model.configure_optimizers()["optimizer"]
    for _ in range(150):
        optimizer.zero_grad()
        model.alignment_loss(batch).mean().backward()
        optimizer.step()
    assert model.alignment_loss(batch).mean() < 0.5


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    model = GPT(**SMALL, warmup_steps=10, max_steps=110)
    rates = [model._rate(step) for step in range(200)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55) and rates[110] == rates[199] == pytest.approx(0.1)
    assert GPT(**SMALL)._rate(10**6) == 1.0


def test_every_parameter_is_optimized_once_and_embeddings_do_not_decay():
    model = GPT(**SMALL)
    groups = model.configure_optimizers()["optimizer"].param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert any(model.token_embedding.weight is p for p in groups[1]["params"]) and groups[1]["weight_decay"] == 0


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match=r"`num_heads` \(3\) must divide `d_model` \(16\)"):
        GPT(**{**SMALL, "num_heads": 3})
