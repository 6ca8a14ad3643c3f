import pytest
import torch
from torch import nn

from lightning_dga.alignment.per_sample.layers import affine, is_affine, tangent_of
from lightning_dga.alignment.per_sample.samples import Layer, contraction

pytestmark = pytest.mark.numerics

B = 3
KNOWN = {
    "linear": (lambda: nn.Linear(4, 5), (B, 6, 4)),
    "linear without bias": (lambda: nn.Linear(4, 5, bias=False), (B, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2, stride=2, padding=1, padding_mode="circular"), (B, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, dilation=2), (B, 2, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (B, 2, 3, 3, 3)),
    "transposed conv": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), (B, 2, 4, 4)),
    "layer norm": (lambda: nn.LayerNorm((6, 4)), (B, 6, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (B, 6, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), (B, 6, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (B, 4, 5)),
    "batch norm in evaluation mode": (lambda: nn.BatchNorm1d(4).eval(), (B, 4, 5)),
    "embedding": (lambda: nn.Embedding(7, 4), (B, 6)),
    "embedding with padding": (lambda: nn.Embedding(7, 4, padding_idx=2), (B, 6)),
}


class GemmaNorm(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(width))

    def forward(self, x):
        x, kind = x.float(), x.dtype
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight.float())).to(kind)


class Scale(nn.Module):
    def __init__(self, use, start=0.5):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((4,), start))
        self.use = use

    def forward(self, x):
        return self.use(x, self.gamma)


class Halved(torch.autograd.Function):
    """Passes a parameter on with a gradient that is not its own."""

    @staticmethod
    def forward(ctx, weight):
        return weight.clone()

    @staticmethod
    def backward(ctx, grad):
        return 0.5 * grad


AFFINE = {
    "gemma's norm": GemmaNorm,
    "layer scale": lambda: Scale(lambda x, w: x * w),
    "prelu": lambda: nn.PReLU(4),
    "offset": lambda: Scale(lambda x, w: x.tanh() + w),
}
NOT_AFFINE = {
    "a gate at zero": lambda: Scale(lambda x, w: x * w.tanh(), 0.0),
    "a gate that is open": lambda: Scale(lambda x, w: x * w.relu()),
    "an exponential": lambda: Scale(lambda x, w: x * w.exp()),
    "a gradient that is scaled": lambda: Scale(lambda x, w: x * Halved.apply(w)),
    "a gradient that is cut": lambda: Scale(lambda x, w: x * w.detach()),
    "rounding with a straight-through gradient": lambda: Scale(lambda x, w: x * (w + (w.round() - w).detach())),
    "a recurrent layer": lambda: nn.LSTM(4, 4, batch_first=True),
    "an input that it refuses": lambda: Scale(lambda x, w: x @ torch.ones(7, 7)),
}


def input_for(module, shape):
    return torch.randint(7, shape) if isinstance(module, nn.Embedding) else torch.randn(shape)


def by_autograd(module, x, dy, direction):
    """Each sample's inner product by definition, in float64."""
    module = module.double()
    x = x.double() if x.is_floating_point() else x
    y = module(x)
    dots = []
    for j in range(B):
        parts = torch.autograd.grad((y[j] * dy[j].double()).sum(), list(module.parameters()), retain_graph=True)
        pairs = zip(parts, direction.values(), strict=True)
        dots.append(sum((part * along.double()).sum() for part, along in pairs))
    return torch.stack(dots)


def check(module, x, digits, dtype=torch.float32, size=1.0):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    tangent = tangent_of(module)
    direction = {name: size * torch.randn(p.shape) for name, p in module.named_parameters()}
    module = module.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    dy = torch.randn_like(module(x))
    layer = Layer(module, tangent, dict.fromkeys(direction, 0))
    with torch.no_grad():
        found = contraction(layer, x, dy, direction)
    assert found.dtype == torch.float32
    wanted = by_autograd(module, x, dy, direction)
    assert (found - wanted).norm() < digits * wanted.norm()


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_layer_is_exact(name):
    make, shape = KNOWN[name]
    module = make()
    assert tangent_of(module) is not affine
    check(module, input_for(module, shape), 1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_layer_in_bfloat16(name):
    make, shape = KNOWN[name]
    module = make()
    check(module, input_for(module, shape), 2e-2, torch.bfloat16)


def test_a_gradient_too_small_for_float16():
    check(nn.Linear(4, 5), torch.randn(B, 6, 4), 1e-2, torch.float16, size=1e-7)


@pytest.mark.parametrize("name", AFFINE)
def test_a_layer_of_another_kind_that_is_affine(name):
    module = AFFINE[name]()
    assert tangent_of(module) is affine
    assert is_affine(module, torch.randn(B, 4))
    check(module, torch.randn(B, 4), 1e-5)


def test_a_small_direction_beside_a_large_term_keeps_its_digits():
    check(GemmaNorm(), torch.randn(B, 4), 2e-2, torch.bfloat16, size=1e-6)


@pytest.mark.parametrize("name", NOT_AFFINE)
def test_a_layer_that_is_not_affine_is_found_out(name):
    assert not is_affine(NOT_AFFINE[name](), torch.randn(B, 5, 4))


def test_an_input_that_shows_nothing_proves_nothing():
    assert not is_affine(AFFINE["layer scale"](), torch.zeros(B, 4))


@pytest.mark.parametrize(
    "module",
    [
        nn.Embedding(7, 4, max_norm=1.0),
        nn.Embedding(7, 4, scale_grad_by_freq=True),
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, track_running_stats=False).eval(),
        nn.MultiheadAttention(4, 2),
    ],
    ids=str,
)
def test_what_is_not_a_function_of_one_sample_is_left_to_autograd(module):
    assert tangent_of(module) is None


def test_a_forward_that_someone_replaced_is_left_to_autograd():
    module = nn.Linear(4, 4)
    module.forward = lambda x: x
    assert tangent_of(module) is None


def test_a_frozen_parameter_does_not_move():
    module = nn.Linear(4, 5)
    x, dy, weight = torch.randn(B, 4), torch.randn(B, 5), torch.randn(5, 4)
    layer = Layer(module, tangent_of(module), {"weight": 0})
    with torch.no_grad():
        found = contraction(layer, x, dy, {"weight": weight})
    torch.testing.assert_close(found, (dy * (x @ weight.T)).sum(1))
