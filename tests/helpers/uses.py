"""Small models that use their parameters in all the ways that an estimator has to see, or to see that it cannot."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """Two layers, with the module under test between them."""

    def __init__(self, between=None, width=4):
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 2)
        self.between = between or nn.Identity()

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class Residual(nn.Module):
    """Changes a layer's output in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.layer(x)
        y += x
        return self.relu(y)


class ByHand(nn.Module):
    """Parameters that belong to no layer, as LayerScale and class tokens have them."""

    def __init__(self):
        super().__init__()
        self.scale, self.token = nn.Parameter(torch.rand(4)), nn.Parameter(torch.randn(1, 1, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), 1, 4), self.layer(x) * self.scale], 1)


class Own(torch.autograd.Function):
    """A linear map like those of fused kernels."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        return dy @ weight.T, x.flatten(0, 1).T @ dy.flatten(0, 1)


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.layer = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(Own.apply(x, self.weight))


class Shuffled(nn.Module):
    """An expert that always gets as many rows as there are samples, but not in their order."""

    def __init__(self, order=torch.argsort):
        super().__init__()
        self.expert, self.order = nn.Linear(24, 24), order

    def forward(self, x):
        flat = x.flatten(1)
        order = self.order(flat[:, 0])
        y = torch.empty_like(flat)
        return y.index_copy(0, order, self.expert(flat[order])).view_as(x)


class Experts(nn.Module):
    """Each token goes to one of two experts; `eager` code of a mixture of experts."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        flat = x.reshape(-1, 4)
        weight, chosen = self.gate(flat).softmax(-1).max(-1)
        y = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            own = (chosen == number).nonzero()[:, 0]
            y = y.index_add(0, own, expert(flat[own]) * weight[own, None])
        return y.view_as(x)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.rnn = nn.Linear(4, 4), nn.GRU(4, 4)

    def forward(self, x):
        return self.rnn(self.layer(x.transpose(0, 1)).tanh())[0].transpose(0, 1)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Bias(nn.Module):
    """Attention with a bias from an embedding of distances, which is the same for all samples and used as a matrix."""

    def __init__(self):
        super().__init__()
        self.query, self.distances = nn.Linear(4, 4), nn.Embedding(11, 1)

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        bias = self.distances(steps[:, None] - steps + 5).permute(2, 0, 1)
        return F.scaled_dot_product_attention(self.query(x), x, x, attn_mask=bias.squeeze(0))


class Twice(nn.Module):
    """One layer under two names, called three times."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(self.b(self.a(x).tanh()).tanh())


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.a, self.b = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


class Language(nn.Module):
    """A tied language model whose output layer is, or is not, a layer."""

    def __init__(self, functional, padding=None, sparse=False, position="[T]"):
        super().__init__()
        self.tokens = nn.Embedding(11, 4, padding_idx=padding, sparse=sparse)
        self.positions, self.norm = nn.Embedding(6, 4), nn.LayerNorm(4)
        self.head = None if functional else nn.Linear(4, 11, bias=False)
        if not functional:
            self.head.weight = self.tokens.weight
        self.position = position

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        steps = steps[None] if self.position == "[1, T]" else steps
        hidden = self.norm(self.tokens(x) + self.positions(steps)).tanh()
        return F.linear(hidden, self.tokens.weight) if self.head is None else self.head(hidden)


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 8, 3, padding=1),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.GroupNorm(2, 8),
            nn.Conv1d(8, 4, 1),
        )
        self.layers[1].running_mean.normal_()

    def forward(self, x):
        return self.layers(x).mean(2)


class Sometimes(nn.Module):
    """Calls its layer per sample or per token."""

    def __init__(self):
        super().__init__()
        self.layer, self.by_token, self.calls = nn.Linear(4, 4), False, 0

    def forward(self, x):
        return self.layer(x.reshape(-1, 4)).view_as(x) if self.by_token else self.layer(x)
