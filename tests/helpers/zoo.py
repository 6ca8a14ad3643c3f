"""The zoo of the test matrix: what users train and how they run it, each as small as it can be.

Every model has ``alignment_loss(batch)``, one loss per sample. A :class:`Case` builds it in the plain form that the
float64 reference takes, and then prepares it as its user would: compiled, checkpointed, adapted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.compile import from_compiled
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

from lightning_dga import MixtureDataModule
from lightning_dga.models import GPT

DOMAINS = 3
VOCABULARY, LENGTH, WIDTH = 32, 8, 16


class Samples(Dataset):
    """Random samples of a seed; a sample is a tensor or a tuple of tensors, made by ``draw(generator)``."""

    def __init__(self, seed, size, draw):
        generator = torch.Generator().manual_seed(seed)
        self.samples = [draw(generator) for _ in range(size)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def mixture(draw, **arguments):
    domains = {f"domain{i}": Samples(i, 20, draw) for i in range(DOMAINS)}
    return MixtureDataModule(
        domains, Samples(DOMAINS, 12, draw), **{"batch_size": 4, "target_batch_size": 6, **arguments}
    )


def sequence(generator):
    return torch.randint(VOCABULARY, (LENGTH + 1,), generator=generator)


def image(generator):
    return torch.randn(3, 8, 8, generator=generator), torch.randint(5, (), generator=generator)


def series(generator):
    return torch.randn(LENGTH, 4, generator=generator), torch.randn(1, generator=generator)


class LanguageModel(nn.Module):
    """Gives any network from tokens to logits a loss."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def alignment_loss(self, batch):
        logits = self.net(batch[:, :-1])
        logits = getattr(logits, "logits", logits)
        return F.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(1)


class Classifier(nn.Module):
    """Convolutions with BatchNorm and in-place activations."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, groups=3),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
        self.net(torch.randn(8, 3, 8, 8))  # running statistics other than those it starts with

    def alignment_loss(self, batch):
        return F.cross_entropy(self.net(batch[0]), batch[1], reduction="none")


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, WIDTH, num_layers=2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(WIDTH, 1)

    def alignment_loss(self, batch):
        hidden, _ = self.rnn(batch[0])
        return (self.head(hidden[:, -1]) - batch[1]).square().squeeze(1)


class Scale(nn.Module):
    """LayerScale: a parameter of its own, that no layer holds."""

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(0.5 + torch.rand(width))

    def forward(self, x):
        return x * self.gain


class Unusual(nn.Module):
    """Tied, frozen, unused and sparse parameters, and two that no layer holds."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH, sparse=True)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.unused = nn.Linear(WIDTH, WIDTH)
        self.scale = Scale(WIDTH)
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        hidden = self.scale(torch.tanh(self.frozen(self.first(self.table(tokens)))))
        return self.head(self.second(hidden)) * self.temperature


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=self.head.weight.dtype)
        return self.head(self.layers(self.embedding(tokens), mask=mask, is_causal=True))


def gpt():
    return GPT(VOCABULARY, context_length=LENGTH, d_model=WIDTH, num_layers=2, num_heads=2)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return LanguageModel(GPT2LMHeadModel(_tiny(GPT2Config, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=LENGTH)))


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LanguageModel(LlamaForCausalLM(_tiny(LlamaConfig, **_DECODER)))


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = _tiny(MixtralConfig, **_DECODER, num_local_experts=4, num_experts_per_tok=2)
    config._experts_implementation = "eager"  # the default, a grouped product, knows no float64
    model = MixtralForCausalLM(config)
    for layer in model.model.layers:
        # a router that is sure of its choice: rounding to half precision must not send a token to other experts
        nn.init.normal_(layer.mlp.gate.weight, std=2.0)
    return LanguageModel(model)


_DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": LENGTH,
}


def _tiny(config, **settings):
    # a narrow model needs a larger initialisation than theirs to have gradients that differ
    return config(
        vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, initializer_range=0.1, use_cache=False, **settings
    )


def lora():
    from peft import LoraConfig, get_peft_model

    model = gpt2()
    # LoRA starts with B = 0, where the gradients of A vanish; a trained one does not
    model.net = get_peft_model(model.net, LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


class Checkpointed(nn.Module):
    """A block whose activations are computed again in the backward pass."""

    def __init__(self, block, *, reentrant):
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


def checkpointed(reentrant):
    def prepare(model):
        model.blocks = nn.ModuleList(Checkpointed(block, reentrant=reentrant) for block in model.blocks)
        return model

    return prepare


def grouped_experts(model):
    model.net.set_experts_implementation("grouped_mm")
    return model


@dataclass(frozen=True)
class Case:
    """A model of the zoo.

    Args:
        build: Makes it in its plain form.
        draw: Makes a sample of its data.
        prepare: Makes of the plain form what its user trains.
    """

    build: Callable[[], nn.Module]
    draw: Callable = sequence
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model


def compiled(backend):
    """The ways in which users compile."""

    def as_trainer_fit_does(model):
        return from_compiled(torch.compile(model, backend=backend))

    def the_net_inside(model):
        model.net = torch.compile(model.net, backend=backend)
        return model

    def in_place(model):
        model.compile(backend=backend)
        return model

    return {
        "gpt, compiled module": Case(gpt, prepare=as_trainer_fit_does),
        "gpt, compiled net": Case(lambda: LanguageModel(gpt()), prepare=the_net_inside),
        "gpt, compiled in place": Case(gpt, prepare=in_place),
    }


ZOO = {
    "gpt": Case(gpt),
    **compiled("aot_eager"),
    "gpt, checkpointed": Case(gpt, prepare=checkpointed(reentrant=False)),
    "gpt, checkpointed reentrantly": Case(gpt, prepare=checkpointed(reentrant=True)),
    "cnn": Case(Classifier, image),
    "lstm": Case(lambda: Recurrent(nn.LSTM), series),
    "gru": Case(lambda: Recurrent(nn.GRU), series),
    "tied, frozen, unused, sparse": Case(lambda: LanguageModel(Unusual())),
    "transformer encoder": Case(lambda: LanguageModel(Encoder())),
}

# importing transformers and peft takes seconds
HUGGING_FACE = {
    "gpt2": Case(gpt2),
    "llama": Case(llama),
    "mixtral": Case(mixtral),
    "mixtral, grouped experts": Case(mixtral, prepare=grouped_experts),
    "gpt2 with lora": Case(lora),
}
